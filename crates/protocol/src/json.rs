//! The JSON of Java bodies: standard JSON, plus unquoted integer keys and objects as keys (fastjson's dialect).

use serde_json::Value;

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

/// Reads JSON or fastjson's dialect. Keys become text: `{0:"a"}` reads as `{"0":"a"}`; an object as key becomes its compact JSON.
pub fn read(text: &[u8]) -> Result<Value, JsonError> {
    let _ = text;
    todo!()
}

/// Writes a map whose keys are JSON objects, as Java reads it: `{{"topic":"T"}:1}`.
pub fn write_object_keyed(out: &mut String, entries: impl Iterator<Item = (Value, Value)>) {
    let _ = (out, entries);
    todo!()
}
