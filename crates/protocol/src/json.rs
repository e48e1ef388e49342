//! The JSON of Java bodies: standard JSON, plus unquoted integer keys and objects as keys (fastjson's dialect).

use memchr::memchr2;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};
use serde_json::{Map, Value};
use std::str::FromStr;

/// Why text is not JSON, not even fastjson's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {what} at byte {at}")]
pub struct JsonError {
    /// What was found.
    pub what: String,
    /// Where.
    pub at: usize,
}

/// Deepest nesting that is read.
pub const DEPTH_MAX: usize = 64;

/// Most commas, colons and opening brackets of a text that is read: a value takes many times the memory of its text. The
/// largest frame, full of topics as brokers write them, has 1.8 million.
pub const VALUES_MAX: usize = 2_000_000;
/// The same for what clients send: the subscriptions to 25,000 topics.
pub const VALUES_MAX_OF_CLIENTS: usize = 400_000;

/// Reads JSON or fastjson's dialect. Keys become text: `{0:"a"}` reads as `{"0":"a"}`; an object as key becomes its compact JSON.
pub fn read(text: &[u8]) -> Result<Value, JsonError> {
    read_within(text, VALUES_MAX)
}

fn read_within(text: &[u8], values_max: usize) -> Result<Value, JsonError> {
    check_size(text, values_max)?;
    // Nearly all bodies are plain JSON, and nobody reads that faster.
    serde_json::from_slice(text).or_else(|_| {
        let mut reader = Reader { text, at: 0, in_key: false };
        let value = reader.value()?;
        match reader.peek() {
            None => Ok(value),
            Some(_) => Err(reader.error("something behind the end")),
        }
    })
}

/// Reads a body. Null is as good as absent, as in Java.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    parse_within(text, VALUES_MAX)
}

/// As [`parse`], with a limit of its own in place of [`VALUES_MAX`].
pub fn parse_within<T: DeserializeOwned>(text: &[u8], values_max: usize) -> Result<T, JsonError> {
    let mut value = read_within(text, values_max)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(|error| JsonError { what: error.to_string(), at: 0 })
}

/// For serde: a number, also when written as text, which fastjson takes as well.
pub fn number<'de, D: Deserializer<'de>, T: DeserializeOwned + FromStr>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    to_number(value).map_err(D::Error::custom)
}

/// For serde: numbers, as [`number`] takes them.
pub fn numbers<'de, D: Deserializer<'de>, T: DeserializeOwned + FromStr>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    values.into_iter().map(to_number).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn to_number<T: DeserializeOwned + FromStr>(value: Value) -> Result<T, String> {
    match &value {
        Value::String(text) => text.parse().map_err(|_| format!("{text:?} is no such number")),
        _ => serde_json::from_value(value).map_err(|error| error.to_string()),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => {
            items.retain(|inner| !inner.is_null());
            items.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

/// Refuses what is too deep for a stack or too rich for memory, before anything is made of it.
fn check_size(text: &[u8], values_max: usize) -> Result<(), JsonError> {
    let (mut depth, mut values, mut at) = (0usize, 0usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                (depth, values) = (depth + 1, values + 1);
                if depth > DEPTH_MAX {
                    return Err(JsonError { what: format!("more than {DEPTH_MAX} levels"), at });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' | b':' => values += 1,
            b'"' => at += string_len(&text[at..]).unwrap_or(1) - 1,
            _ => {}
        }
        if values > values_max {
            return Err(JsonError { what: format!("more than {values_max} values"), at });
        }
        at += 1;
    }
    Ok(())
}

/// Bytes of the string that `text` begins with, both quotation marks included.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Reads fastjson's dialect. `check_size` has bounded the recursion.
struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    /// Inside an object that is a key. No such key has a key like it inside; its text would double with every level.
    in_key: bool,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> JsonError {
        JsonError { what: what.to_owned(), at: self.at }
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        self.at += self.text[self.at..].iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
        self.text.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        match self.accept(byte) {
            true => Ok(()),
            false => Err(self.error(&format!("no {:?}", char::from(byte)))),
        }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Value::String),
            Some(_) => self.word(),
            None => Err(self.error("the end")),
        }
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        self.expect(b'{')?;
        let mut map = Map::new();
        if self.accept(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            let key = match self.peek() {
                Some(b'"') => self.string()?,
                Some(b'{') if !self.in_key => {
                    self.in_key = true;
                    let key = self.object()?.to_string();
                    self.in_key = false;
                    key
                }
                _ => self.integer_key()?,
            };
            self.expect(b':')?;
            let value = self.value()?;
            map.insert(key, value);
            if !self.accept(b',') {
                self.expect(b'}')?;
                return Ok(Value::Object(map));
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        if self.accept(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if !self.accept(b',') {
                self.expect(b']')?;
                return Ok(Value::Array(items));
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let len = string_len(&self.text[self.at..]).ok_or_else(|| self.error("a string without an end"))?;
        let text = serde_json::from_slice(&self.text[self.at..self.at + len])
            .map_err(|error| self.error(&format!("no string ({error})")))?;
        self.at += len;
        Ok(text)
    }

    fn integer_key(&mut self) -> Result<String, JsonError> {
        let token = self.token();
        let key = std::str::from_utf8(token).ok().and_then(|token| token.parse::<i64>().ok());
        let key = key.ok_or_else(|| self.error("a key that is neither text, integer nor object"))?;
        self.at += token.len();
        Ok(key.to_string())
    }

    /// A number, true, false, null.
    fn word(&mut self) -> Result<Value, JsonError> {
        let token = self.token();
        let value = serde_json::from_slice(token).map_err(|error| self.error(&error.to_string()))?;
        self.at += token.len();
        Ok(value)
    }

    fn token(&self) -> &[u8] {
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        &rest[..len]
    }
}

/// Writes a map whose keys are JSON objects, as Java reads it: `{{"topic":"T"}:1}`.
pub fn write_object_keyed(out: &mut String, entries: impl Iterator<Item = (Value, Value)>) {
    out.push('{');
    for (place, (key, value)) in entries.enumerate() {
        if place > 0 {
            out.push(',');
        }
        out.push_str(&key.to_string());
        out.push(':');
        out.push_str(&value.to_string());
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_java_writes_is_read() {
        for (text, value) in [
            (r#"{"a":[1,-2.5,true,null,"\u0041"]}"#, json!({"a": [1, -2.5, true, null, "A"]})),
            (r#"{"brokerAddrs":{0:"a:1",1:"b:2"}}"#, json!({"brokerAddrs": {"0": "a:1", "1": "b:2"}})),
            (
                "{\n\t\"offsetTable\":{\n\t\t\"T@G\":{0:5280 , -1 : {}}\n\t}\n}",
                json!({"offsetTable": {"T@G": {"0": 5280, "-1": {}}}}),
            ),
            (
                r#"{"t":{{"topic":"T","brokerName":"b","queueId":0}:123}}"#,
                json!({"t": {r#"{"brokerName":"b","queueId":0,"topic":"T"}"#: 123}}),
            ),
            (r#"{0:"\"}{\\",1:[]}"#, json!({"0": "\"}{\\", "1": []})),
        ] {
            assert_eq!(read(text.as_bytes()), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (text, at) in [
            ("", 0),
            ("{0:", 3),
            ("{0:1", 4),
            ("{0:1}x", 5),
            ("{a:1}", 1),
            ("{'a':1}", 1),
            ("{0:1,}", 5),
            ("{0:\"x}", 3),
            ("{0:01}", 3),
            ("{99999999999999999999:1}", 1),
        ] {
            assert_eq!(read(text.as_bytes()).map_err(|error| error.at), Err(at), "{text}");
        }
        assert!(read("[".repeat(DEPTH_MAX).as_bytes()).is_err());
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(deep(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(read(deep(DEPTH_MAX + 1).as_bytes()).map_err(|error| error.at), Err(DEPTH_MAX));
        assert!(read(format!("[{}1]", "1,".repeat(VALUES_MAX)).as_bytes()).is_err());
        assert!(read(b"{{0:{1:2}}:1}").is_ok());
        assert_eq!(read(b"{{{0:1}:1}:1}").map_err(|error| error.at), Err(2));
    }

    #[test]
    fn object_keys_are_written_as_java_reads_them() {
        let mut out = String::new();
        let queue = |id| json!({"topic": "T", "queueId": id});
        write_object_keyed(&mut out, [(queue(0), json!(1)), (queue(1), json!({"a": 2}))].into_iter());
        assert_eq!(out, r#"{{"queueId":0,"topic":"T"}:1,{"queueId":1,"topic":"T"}:{"a":2}}"#);
        assert_eq!(read(out.as_bytes()).unwrap()[queue(1).to_string()], json!({"a": 2}));
    }
}
