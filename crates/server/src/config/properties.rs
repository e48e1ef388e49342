//! Java's `.properties` files, with the line of every key kept. Source: the documentation of `java.util.Properties.load`.

use std::fmt;
use std::ops::Range;

/// One key with its value, as the file says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line on which it begins, counted from 1.
    pub line: usize,
    /// Its escapes resolved.
    pub key: String,
    /// Blanks behind it included: Java keeps them, and then cannot read a number.
    pub value: String,
}

/// A file.
#[derive(Debug, PartialEq, Eq)]
pub struct Properties {
    /// In the order in which they stand.
    pub entries: Vec<Entry>,
    /// It was no UTF-8, and has been read as ISO-8859-1.
    pub latin: bool,
}

/// An escape that stands for no character.
#[derive(Debug, PartialEq, Eq)]
pub struct BadEscape {
    /// The line on which its key begins, counted from 1.
    pub line: usize,
    /// What was found behind the backslash.
    found: String,
}

impl fmt::Display for BadEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\\{} stands for no character", self.found)
    }
}

/// Reads a file.
pub fn read(bytes: &[u8]) -> Result<Properties, BadEscape> {
    let (text, latin) = decode(bytes);
    let mut entries = Vec::new();
    for logical in logical_lines(&text) {
        entries.push(entry(&logical.text, logical.line)?);
    }
    Ok(Properties { entries, latin })
}

/// The same file with other values, and everything else as it is. Where a key stands several times, the last one is the one
/// that holds, so it is changed; one that stands nowhere is added at the end. Keys and values are plain words: nothing in
/// them need be escaped.
pub fn edit(bytes: &[u8], changes: &[(&str, &str)]) -> Result<Vec<u8>, BadEscape> {
    let (mut text, latin) = decode(bytes);
    let end_of_line = if text.contains("\r\n") { "\r\n" } else { "\n" };
    for (key, value) in changes {
        let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        assert!(plain(key) && plain(value), "what changes at once is a word or a number: {key}={value}");
        let lines = logical_lines(&text);
        let mut found = None;
        for logical in &lines {
            if entry(&logical.text, logical.line)?.key == *key {
                found = Some(logical);
            }
        }
        if let Some(Logical { range, open, .. }) = found {
            let old = &text[range.clone()];
            // Of several lines, or with a backslash behind which nothing follows: that would escape what is put there.
            let new = if old.contains(['\n', '\r']) || *open {
                format!("{key}={value}")
            } else {
                let (name, rest) = split(old);
                let before = &old[..name.len() + rest.len() - separated(rest).len()];
                // A key without a separator has no value that could be replaced.
                if before.len() == name.len() { format!("{before}={value}") } else { format!("{before}{value}") }
            };
            text.replace_range(range.clone(), &new);
            continue;
        }
        if !text.is_empty() && !text.ends_with(['\n', '\r']) {
            text.push_str(end_of_line);
        }
        // The last line may say that it goes on in the next: then the next is an empty one.
        if lines.last().is_some_and(|last| last.open) {
            text.push_str(end_of_line);
        }
        text.push_str(&format!("{key}={value}{end_of_line}"));
    }
    if latin {
        let byte = |c| u8::try_from(c).expect("in ISO-8859-1 every character is a byte, and what was added is ASCII");
        let bytes: Vec<u8> = text.chars().map(byte).collect();
        // What was changed may have been all that was no UTF-8. Then the other characters are written so that they are read again.
        if text.is_ascii() || decode(&bytes).1 {
            return Ok(bytes);
        }
    }
    Ok(text.into_bytes())
}

/// The text, and whether it was no UTF-8.
fn decode(bytes: &[u8]) -> (String, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        // In ISO-8859-1 every byte is the character of its number.
        Err(_) => (bytes.iter().map(|byte| char::from(*byte)).collect(), true),
    }
}

/// A key with its value, perhaps on several lines.
struct Logical {
    /// On which it begins, counted from 1.
    line: usize,
    /// Where it lies in the file, from its first character to its last.
    range: Range<usize>,
    /// Joined.
    text: String,
    /// The file ends although it says that it goes on.
    open: bool,
}

/// All that are neither empty nor comments.
fn logical_lines(text: &str) -> Vec<Logical> {
    let mut lines = physical_lines(text).into_iter().zip(1..);
    let mut found = Vec::new();
    while let Some((range, line)) = lines.next() {
        let first = text[range.clone()].trim_start_matches('\u{FEFF}').trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let start = range.end - first.len();
        let mut logical = Logical { line, range: start..range.end, text: first.to_owned(), open: false };
        // A line whose last character is an unescaped backslash goes on in the next, whatever that begins with.
        while logical.text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            logical.text.pop();
            let Some((next, _)) = lines.next() else {
                logical.open = true;
                break;
            };
            logical.range.end = next.end;
            logical.text.push_str(text[next].trim_start_matches(is_blank));
        }
        found.push(logical);
    }
    found
}

/// Where the lines lie, without their ends: `\n`, `\r\n` or `\r`.
fn physical_lines(text: &str) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while let Some(length) = text[start..].find(['\n', '\r']) {
        let end = start + length;
        lines.push(start..end);
        start = end + if text[end..].starts_with("\r\n") { 2 } else { 1 };
    }
    if start < text.len() {
        lines.push(start..text.len());
    }
    lines
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0C')
}

fn entry(line: &str, number: usize) -> Result<Entry, BadEscape> {
    let (key, rest) = split(line);
    Ok(Entry { line: number, key: unescape(key, number)?, value: unescape(separated(rest), number)? })
}

/// The key ends at the first `=`, `:` or blank that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = !escaped && (matches!(c, '=' | ':') || is_blank(c));
        escaped = c == '\\' && !escaped;
        ends
    });
    line.split_at(end.unwrap_or(line.len()))
}

/// What stands behind the separator: blanks, and one `=` or `:` among them.
fn separated(rest: &str) -> &str {
    let rest = rest.trim_start_matches(is_blank);
    rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank)
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
    fn a_value_is_changed_where_it_stands_and_the_rest_stays() {
        for (before, after) in [
            ("# mine\nflag = false\nb=2\n", "# mine\nflag = true\nb=2\n"),
            ("  flag:false  \r\n! end\r\n", "  flag:true\r\n! end\r\n"),
            ("flag false\r", "flag true\r"),
            ("flag", "flag=true"),
            ("flag=", "flag=true"),
            ("flag=1\n#flag=2\nflag=3", "flag=1\n#flag=2\nflag=true"),
            ("fl\\u0061g=false\n", "fl\\u0061g=true\n"),
            ("flag=fal\\\n   se\nb=2\n", "flag=true\nb=2\n"),
            ("\u{FEFF}flag=false\n", "\u{FEFF}flag=true\n"),
            ("", "flag=true\n"),
            ("b=\u{e4}\n\n", "b=\u{e4}\n\nflag=true\n"),
            ("b=2", "b=2\nflag=true\n"),
            ("b=2\r\n# end", "b=2\r\n# end\r\nflag=true\r\n"),
            ("b=2\\", "b=2\\\n\nflag=true\n"),
            ("b=2\\\n", "b=2\\\n\nflag=true\n"),
        ] {
            let edited = edit(before.as_bytes(), &[("flag", "true")]).unwrap();
            assert_eq!(String::from_utf8(edited.clone()).unwrap(), after, "{before:?}");
            // What is read from it: the others as they were, and the new value last.
            let said = |text| -> Vec<_> { pairs(text).into_iter().map(|(_, key, value)| (key, value)).collect() };
            let others = |text| -> Vec<_> { said(text).into_iter().filter(|(key, _)| key != "flag").collect() };
            assert_eq!(others(&edited), others(before.as_bytes()));
            let last = said(&edited).into_iter().rfind(|(key, _)| key == "flag");
            assert_eq!(last, Some(("flag".into(), "true".into())));
        }
        let several = edit(b"a=1\nb=2\n", &[("b", "3"), ("c", "4"), ("a", "5")]).unwrap();
        assert_eq!(several, b"a=5\nb=3\nc=4\n");
    }

    #[test]
    fn bytes_that_are_no_utf8_stay_as_they_are() {
        assert_eq!(edit(b"# \xE4\na=\xF6\n", &[("b", "1")]).unwrap(), b"# \xE4\na=\xF6\nb=1\n");
    }

    #[test]
    fn when_all_that_was_no_utf8_is_replaced_the_rest_says_what_it_said() {
        let before = b"a=\xE4\nb=\xC3\xA4\n";
        let edited = edit(before, &[("a", "1")]).unwrap();
        let b = |text| pairs(text).into_iter().find(|(_, key, _)| key == "b").map(|(.., value)| value);
        assert_eq!(b(&edited), b(before));
        assert_eq!(edit(b"a=\xE4\nb=c\n", &[("a", "1")]).unwrap(), b"a=1\nb=c\n");
    }

    #[test]
    fn an_escape_that_is_none_names_its_line() {
        for text in ["\na=\\u12", "\na=\\uzzzz", "\na=\\ud83d", "\na=\\u+123"] {
            assert_eq!(read(text.as_bytes()).unwrap_err().line, 2, "{text:?}");
        }
    }
}
