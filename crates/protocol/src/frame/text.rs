use super::{FIELDS_MAX, Form, Frame, FrameError, Head, Language, RawFrame, VERSION};
use crate::header::{FieldSink, Fields, Str};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Reads any JSON header. Numbers and booleans are text, null is absent, unknown keys are ignored; of two equal top-level
/// keys the last wins, as with fastjson.
pub(super) fn read<'b>(raw: &RawFrame<'b>) -> Result<Frame<'b>, FrameError> {
    let header: Header<'b> =
        serde_json::from_slice(raw.header).map_err(|error| FrameError::Header(error.to_string()))?;
    Ok(Frame { body: raw.body, ..header.0 })
}

struct Header<'b>(Frame<'b>);

impl<'b> Deserialize<'b> for Header<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'b> Visitor<'b> for HeaderVisitor {
    type Value = Header<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Header<'b>, A::Error> {
        let mut frame = Frame::blank(Form::Json, &[]);
        let mut code = None;
        while let Some(Scalar(Some(key))) = map.next_key()? {
            match &*key {
                "code" => code = Some(integer("code", map.next_value()?)?),
                "flag" => frame.flag = integer("flag", map.next_value()?)?,
                "opaque" => frame.opaque = integer("opaque", map.next_value()?)?,
                "version" => frame.version = integer("version", map.next_value()?)?,
                "language" => {
                    let Scalar(name) = map.next_value()?;
                    frame.language = name.map_or(Language::Java, |name| Language::from_name(&name));
                }
                "remark" => frame.remark = map.next_value::<Scalar<'b>>()?.0,
                "extFields" => frame.fields = map.next_value::<FieldMap<'b>>()?.0,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        frame.code = code.ok_or_else(|| A::Error::missing_field("code"))?;
        Ok(Header(frame))
    }
}

fn integer<E: Error>(name: &'static str, value: Scalar<'_>) -> Result<i32, E> {
    let Some(text) = value.0 else { return Ok(0) };
    text.parse().map_err(|_| E::custom(format_args!("{name} is {text:?}, which is not a 32-bit number")))
}

/// A string, number or boolean as text; `None` for null.
struct Scalar<'b>(Option<Str<'b>>);

impl<'b> Deserialize<'b> for Scalar<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'b> Visitor<'b> for ScalarVisitor {
    type Value = Scalar<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, number, boolean or null")
    }

    fn visit_borrowed_str<E>(self, text: &'b str) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Owned(text.to_owned()))))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Borrowed(if value { "true" } else { "false" }))))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Owned(value.to_string()))))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Owned(value.to_string()))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar<'b>, E> {
        Ok(Scalar(Some(Str::Owned(value.to_string()))))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'b>, E> {
        Ok(Scalar(None))
    }
}

/// As [`Scalar`]; a value that is none is passed over, and its text fits no type: whoever reads the field says that it is
/// mistyped, and which, where an unreadable header could not be answered at all.
struct FieldValue<'b>(Option<Str<'b>>);

impl<'b> Deserialize<'b> for FieldValue<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &RawValue = Deserialize::deserialize(deserializer)?;
        if raw.get().starts_with(['{', '[']) {
            return Ok(Self(Some(Str::Borrowed(raw.get()))));
        }
        let Scalar(value) = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(Self(value))
    }
}

struct FieldMap<'b>(Fields<'b>);

impl<'b> Deserialize<'b> for FieldMap<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldMapVisitor)
    }
}

struct FieldMapVisitor;

impl<'b> Visitor<'b> for FieldMapVisitor {
    type Value = FieldMap<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of header fields")
    }

    fn visit_unit<E>(self) -> Result<FieldMap<'b>, E> {
        Ok(FieldMap(Fields::new()))
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<FieldMap<'b>, A::Error> {
        let mut fields = Fields::new();
        while let Some((Scalar(name), FieldValue(value))) = map.next_entry()? {
            if fields.len() == FIELDS_MAX {
                return Err(A::Error::custom(format_args!("more than {FIELDS_MAX} header fields")));
            }
            fields.extend(name.zip(value));
        }
        Ok(FieldMap(fields))
    }
}

/// Appends a header as Java writes it: compact, keys in alphabetical order. `extFields` is always there, since Java reads
/// it from a send reply without looking whether it is.
pub(super) fn write(out: &mut Vec<u8>, head: &Head<'_>, fields: impl FnOnce(Sink<'_>)) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"code\":");
    out.extend_from_slice(digits.format(head.code).as_bytes());
    out.extend_from_slice(b",\"extFields\":{");
    let start = out.len();
    fields(Sink { out });
    if out.len() > start {
        // Every field ends in a comma; the last one's is one too many.
        out.pop();
    }
    out.extend_from_slice(b"},\"flag\":");
    out.extend_from_slice(digits.format(head.flag).as_bytes());
    out.extend_from_slice(b",\"language\":\"JAVA\",\"opaque\":");
    out.extend_from_slice(digits.format(head.opaque).as_bytes());
    if let Some(remark) = head.remark {
        out.extend_from_slice(b",\"remark\":");
        quote(out, remark);
    }
    out.extend_from_slice(b",\"version\":");
    out.extend_from_slice(digits.format(VERSION).as_bytes());
    out.push(b'}');
}

pub(super) struct Sink<'o> {
    out: &'o mut Vec<u8>,
}

impl FieldSink for Sink<'_> {
    fn text(&mut self, name: &str, value: &str) {
        quote(self.out, name);
        self.out.push(b':');
        quote(self.out, value);
        self.out.push(b',');
    }

    fn number(&mut self, name: &str, value: i64) {
        quote(self.out, name);
        self.out.extend_from_slice(b":\"");
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.extend_from_slice(b"\",");
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..plain]);
        match rest[plain] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            control => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                let (high, low) = (HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
