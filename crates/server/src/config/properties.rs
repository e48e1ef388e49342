//! Java's `.properties` files, with the line of every key kept. Source: the documentation of `java.util.Properties.load`.

use std::fmt;

/// One key with its value, as the file says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The line on which it begins, counted from 1.
    pub(super) line: usize,
    pub(super) key: String,
    /// Blanks behind it included: Java keeps them, and then cannot read a number.
    pub(super) value: String,
}

/// A file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) entries: Vec<Entry>,
    /// It was no UTF-8, and has been read as ISO-8859-1.
    pub(super) latin: bool,
}

/// An escape that stands for no character.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadEscape {
    pub(super) line: usize,
    /// What was found behind the backslash.
    found: String,
}

impl fmt::Display for BadEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\\{} stands for no character", self.found)
    }
}

/// Reads a file.
pub(super) fn read(bytes: &[u8]) -> Result<Properties, BadEscape> {
    let (text, latin) = match std::str::from_utf8(bytes) {
        Ok(text) => (text.strip_prefix('\u{FEFF}').unwrap_or(text).to_owned(), false),
        // In ISO-8859-1 every byte is the character of its number.
        Err(_) => (bytes.iter().map(|byte| char::from(*byte)).collect(), true),
    };
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n').zip(1..);
    let mut entries = Vec::new();
    while let Some((first, line)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        // A line whose last character is an unescaped backslash goes on in the next, whatever that begins with.
        while logical.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            logical.pop();
            let Some((next, _)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        entries.push(entry(&logical, line)?);
    }
    Ok(Properties { entries, latin })
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0C')
}

/// The key ends at the first `=`, `:` or blank that is not escaped; blanks and one `=` or `:` separate it from the value.
fn entry(line: &str, number: usize) -> Result<Entry, BadEscape> {
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = !escaped && (matches!(c, '=' | ':') || is_blank(c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank);
    Ok(Entry { line: number, key: unescape(key, number)?, value: unescape(value, number)? })
}

fn unescape(text: &str, line: usize) -> Result<String, BadEscape> {
    // UTF-16, since a character outside the basic plane is written as two escapes.
    let mut units = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    let mut push = |c: char| units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    while let Some(c) = rest.next() {
        if c != '\\' {
            push(c);
            continue;
        }
        match rest.next() {
            Some('t') => push('\t'),
            Some('n') => push('\n'),
            Some('r') => push('\r'),
            Some('f') => push('\x0C'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let all = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| all);
                let Some(unit) = unit else { return Err(BadEscape { line, found: format!("u{digits}") }) };
                match char::from_u32(u32::from(unit)) {
                    Some(c) => push(c),
                    None => units_of(&mut rest, unit, line).map(&mut push)?,
                }
            }
            // Any other character stands for itself.
            Some(other) => push(other),
            None => {}
        }
    }
    Ok(String::from_utf16(&units).expect("only whole characters were pushed"))
}

/// The character whose first half is `first`; the second half must follow as an escape.
fn units_of(rest: &mut std::str::Chars<'_>, first: u16, line: usize) -> Result<char, BadEscape> {
    let second: String = rest.by_ref().take(6).collect();
    let unit = second.strip_prefix("\\u").and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let pair = unit.and_then(|unit| char::decode_utf16([first, unit]).next()?.ok());
    pair.ok_or_else(|| BadEscape { line, found: format!("u{first:04x}{second}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &[u8]) -> Vec<(usize, String, String)> {
        read(text).unwrap().entries.into_iter().map(|entry| (entry.line, entry.key, entry.value)).collect()
    }

    #[test]
    fn what_java_reads_we_read() {
        for (text, key, value) in [
            ("a=b", "a", "b"),
            ("a:b", "a", "b"),
            ("a b", "a", "b"),
            ("  a  =  b  ", "a", "b  "),
            ("\ta\t:\tb", "a", "b"),
            ("a = = b", "a", "= b"),
            ("a", "a", ""),
            ("a=", "a", ""),
            ("=b", "", "b"),
            ("a\\ b=c", "a b", "c"),
            ("a\\=b=c", "a=b", "c"),
            ("a\\:b c", "a:b", "c"),
            ("a=b\\\n   c", "a", "bc"),
            ("a=b\\\\\nc=d", "a", "b\\"),
            ("a=b\\\n#c", "a", "b#c"),
            ("a=b\\", "a", "b"),
            ("a=C:\\\\store", "a", "C:\\store"),
            ("a=\\t\\n\\r\\f\\q", "a", "\t\n\r\x0Cq"),
            ("a=\\u00e4\\u4F60", "a", "\u{e4}\u{4F60}"),
            ("a=\\ud83d\\ude00", "a", "\u{1F600}"),
            ("a=b#c", "a", "b#c"),
            ("\u{FEFF}a=b", "a", "b"),
        ] {
            let found = &pairs(text.as_bytes())[0];
            assert_eq!((found.1.as_str(), found.2.as_str()), (key, value), "{text:?}");
        }
    }

    #[test]
    fn comments_and_empty_lines_count_but_say_nothing() {
        let text = b"# one\r\n! two\n\n   \n  # three\ra=1\\\n  2\nb=3";
        assert_eq!(pairs(text), [(6, "a".into(), "12".into()), (8, "b".into(), "3".into())]);
    }

    #[test]
    fn a_comment_is_never_continued() {
        assert_eq!(pairs(b"# a\\\nb=c"), [(2, "b".into(), "c".into())]);
    }

    #[test]
    fn bytes_that_are_no_utf8_are_read_as_java_reads_them() {
        let utf8 = read("a=\u{e4}".as_bytes()).unwrap();
        assert_eq!((utf8.entries[0].value.as_str(), utf8.latin), ("\u{e4}", false));
        let latin = read(b"a=\xE4").unwrap();
        assert_eq!((latin.entries[0].value.as_str(), latin.latin), ("\u{e4}", true));
    }

    #[test]
    fn an_escape_that_is_none_names_its_line() {
        for text in ["\na=\\u12", "\na=\\uzzzz", "\na=\\ud83d", "\na=\\u+123"] {
            assert_eq!(read(text.as_bytes()).unwrap_err().line, 2, "{text:?}");
        }
    }
}
