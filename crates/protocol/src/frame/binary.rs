//! RocketMQ's binary header. All integers big-endian.
//!
//! ```text
//!  code: i16 │ language: u8 │ version: i16 │ opaque: i32 │ flag: i32 │ len: i32, remark │ len: i32, fields
//!  field: len: i16, name │ len: i32, value
//! ```
//! A code above 32767 is cut to its low 16 bits. What is empty is absent.

use super::{FIELDS_MAX, Form, Frame, FrameError, Head, Language, RawFrame, VERSION};
use crate::header::{FieldSink, Str};

pub(super) fn read<'b>(raw: &RawFrame<'b>) -> Result<Frame<'b>, FrameError> {
    let mut rest = Rest(raw.header);
    let mut frame = Frame::blank(Form::Binary, raw.body);
    frame.code = i32::from(i16::from_be_bytes(rest.array("code")?));
    let [language] = rest.array("language")?;
    frame.language = Language::from_wire(language);
    frame.version = i32::from(i16::from_be_bytes(rest.array("version")?));
    frame.opaque = i32::from_be_bytes(rest.array("opaque")?);
    frame.flag = i32::from_be_bytes(rest.array("flag")?);
    frame.remark = rest.long("remark").and_then(|bytes| text("remark", bytes))?;
    let mut fields = Rest(rest.long("fields")?);
    while !fields.0.is_empty() {
        let len = i16::from_be_bytes(fields.array("length of a field's name")?);
        let name = text("field's name", fields.take("field's name", i32::from(len))?)?;
        let value = text("field", fields.long("field")?)?;
        if frame.fields.len() == FIELDS_MAX {
            return Err(FrameError::Header(format!("more than {FIELDS_MAX} header fields")));
        }
        frame.fields.extend(name.zip(value));
    }
    Ok(frame)
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FrameError> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(|| short(what, N as i64, self.0.len()))?;
        self.0 = rest;
        Ok(*array)
    }

    fn take(&mut self, what: &str, len: i32) -> Result<&'b [u8], FrameError> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or_else(|| short(what, i64::from(len), self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self, what: &str) -> Result<&'b [u8], FrameError> {
        let len = i32::from_be_bytes(self.array(what)?);
        self.take(what, len)
    }
}

fn short(what: &str, len: i64, left: usize) -> FrameError {
    FrameError::Header(format!("the {what} should have {len} bytes where {left} are left"))
}

fn text<'b>(what: &str, bytes: &'b [u8]) -> Result<Option<Str<'b>>, FrameError> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| FrameError::Header(format!("the {what} is no text: {error}")))?;
    Ok((!text.is_empty()).then_some(Str::Borrowed(text)))
}

pub(super) fn write(out: &mut Vec<u8>, head: &Head<'_>, fields: impl FnOnce(Sink<'_>)) {
    let low16 = |number: i32| {
        let [_, _, high, low] = number.to_be_bytes();
        [high, low]
    };
    out.extend_from_slice(&low16(head.code));
    out.push(Language::Java as u8);
    out.extend_from_slice(&low16(VERSION));
    out.extend_from_slice(&head.opaque.to_be_bytes());
    out.extend_from_slice(&head.flag.to_be_bytes());
    long(out, head.remark.unwrap_or_default().as_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fields(Sink { out });
    let len = len_i32(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

pub(super) struct Sink<'o> {
    out: &'o mut Vec<u8>,
}

impl FieldSink for Sink<'_> {
    fn text(&mut self, name: &str, value: &str) {
        let len = i16::try_from(name.len()).expect("a header field's name is a short constant");
        self.out.extend_from_slice(&len.to_be_bytes());
        self.out.extend_from_slice(name.as_bytes());
        long(self.out, value.as_bytes());
    }

    fn number(&mut self, name: &str, value: i64) {
        self.text(name, itoa::Buffer::new().format(value));
    }
}

fn long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len_i32(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn len_i32(len: usize) -> i32 {
    i32::try_from(len).expect("a header we write is smaller than 2 GiB")
}
