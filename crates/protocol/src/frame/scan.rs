use super::{FIELDS_MAX, Form, Frame, Language, RawFrame};
use crate::header::{Fields, Str};
use memchr::{memchr, memchr2};

/// Reads a JSON header in one pass, when it is written as Java and Go clients write it: compact, known keys, integers
/// bare, field values as strings. Allocates for a value with escapes only (the property string). Declines everything
/// else, also what is not JSON at all: then the general reader says what is wrong.
pub(super) fn read<'b>(raw: &RawFrame<'b>) -> Option<Frame<'b>> {
    // Compact JSON holds no control characters, neither raw in strings (illegal) nor as line ends.
    if raw.header.iter().any(|byte| *byte < 0x20) {
        return None;
    }
    let mut scan = Scan { text: std::str::from_utf8(raw.header).ok()?, at: 0 };
    let mut frame = Frame::blank(Form::Json, raw.body);
    let mut code = None;
    scan.expect(b'{')?;
    loop {
        match scan.key()? {
            "code" => code = Some(scan.integer()?),
            "flag" => frame.flag = scan.integer()?,
            "opaque" => frame.opaque = scan.integer()?,
            "version" => frame.version = scan.integer()?,
            "language" => frame.language = Language::from_name(&scan.string()?),
            "remark" => frame.remark = Some(scan.string()?),
            "serializeTypeCurrentRPC" => drop(scan.string()?),
            "extFields" if frame.fields.is_empty() => scan.fields(&mut frame.fields)?,
            _ => return None,
        }
        if scan.ends(b'}')? {
            break;
        }
    }
    frame.code = code?;
    (scan.at == scan.text.len()).then_some(frame)
}

struct Scan<'b> {
    text: &'b str,
    at: usize,
}

impl<'b> Scan<'b> {
    fn rest(&self) -> &'b [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (*self.rest().first()? == byte).then(|| self.at += 1)
    }

    /// A comma or the end of an object.
    fn ends(&mut self, end: u8) -> Option<bool> {
        let byte = *self.rest().first()?;
        self.at += 1;
        (byte == b',' || byte == end).then_some(byte == end)
    }

    /// `"name":`, the name without escapes.
    fn key(&mut self) -> Option<&'b str> {
        self.expect(b'"')?;
        let start = self.at;
        let end = start + memchr2(b'"', b'\\', self.rest())?;
        self.at = end;
        self.expect(b'"')?;
        self.expect(b':')?;
        Some(&self.text[start..end])
    }

    /// An integer as JSON allows it: no plus, no leading zero.
    fn integer(&mut self) -> Option<i32> {
        let rest = self.rest();
        let negative = rest.first() == Some(&b'-');
        let digits = &rest[usize::from(negative)..];
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 || count > 10 || (digits[0] == b'0' && count > 1) {
            return None;
        }
        let value = digits[..count].iter().fold(0i64, |value, digit| value * 10 + i64::from(digit - b'0'));
        self.at += usize::from(negative) + count;
        i32::try_from(if negative { -value } else { value }).ok()
    }

    fn string(&mut self) -> Option<Str<'b>> {
        self.expect(b'"')?;
        let rest = self.rest();
        let end = memchr2(b'"', b'\\', rest)?;
        if rest[end] == b'\\' {
            return self.escaped().map(Str::Owned);
        }
        let start = self.at;
        self.at += end + 1;
        Some(Str::Borrowed(&self.text[start..start + end]))
    }

    /// The rest of a string that holds escapes.
    fn escaped(&mut self) -> Option<String> {
        // Escapes only shrink, and the next quotation mark nearly always ends the string: one allocation.
        let mut value = String::with_capacity(memchr(b'"', self.rest())?);
        loop {
            let rest = self.rest();
            let plain = memchr2(b'"', b'\\', rest)?;
            value.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain + 1;
            if rest[plain] == b'"' {
                return Some(value);
            }
            let escape = *rest.get(plain + 1)?;
            self.at += 1;
            value.push(match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.unicode()?,
                _ => return None,
            });
        }
    }

    /// Behind `\u`: four digits, or a pair of surrogates.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex4()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first);
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let second = self.hex4()?;
        (0xDC00..0xE000)
            .contains(&second)
            .then(|| 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
            .and_then(char::from_u32)
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.rest().get(..4)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
    }

    fn fields(&mut self, fields: &mut Fields<'b>) -> Option<()> {
        self.expect(b'{')?;
        if self.rest().first() == Some(&b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.key()?;
            let value = self.string()?;
            if fields.len() == FIELDS_MAX {
                return None;
            }
            fields.push((Str::Borrowed(name), value));
            if self.ends(b'}')? {
                return Some(());
            }
        }
    }
}
