//! The JSON of bodies, and fastjson's dialect of it.

use keepmq_protocol::body::{
    BrokerMembers, CheckClientConfig, ClusterInfo, Heartbeat, KvConfig, KvTable, QueueLocks, RegisterBrokerBody,
    RouteData, SubscriptionGroup, TopicList, TopicTable,
};
use keepmq_protocol::frame::VERSION;
use keepmq_protocol::json::{parse, read, write_object_keyed};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The first byte says what the others are read as.
pub(crate) fn json(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    dialect(text);
    match which % 16 {
        0 => body::<Heartbeat>(text),
        1 => body::<CheckClientConfig>(text),
        2 => body::<QueueLocks>(text),
        3 => body::<SubscriptionGroup>(text),
        4 => body::<TopicTable>(text),
        5 => body::<RouteData>(text),
        6 => body::<ClusterInfo>(text),
        7 => body::<TopicList>(text),
        8 => body::<BrokerMembers>(text),
        9 => body::<KvTable>(text),
        10 => body::<KvConfig>(text),
        11 => registration(text, false, VERSION),
        12 => registration(text, false, 0),
        13 => registration(text, true, VERSION),
        _ => registration(text, true, 0),
    }
}

/// The reader of the dialect and serde_json agree about what both read, and what is read can be written and read again.
fn dialect(text: &[u8]) {
    let plain = read(text);
    // An integer as key makes it the dialect's reader that reads the rest.
    let wrapped = [b"{0:", text, b"}"].concat();
    if let (Ok(general), Ok(strict)) = (read(&wrapped), serde_json::from_slice::<Value>(text)) {
        assert!(alike(&general["0"], &strict), "the dialect's reader: {general}; serde_json: {strict}");
    }
    let Ok(value) = plain else { return };
    let again = read(value.to_string().as_bytes()).expect("what is written can be read");
    assert!(alike(&again, &value), "read {value}, and again {again}");
    let mut keyed = String::new();
    let key = serde_json::json!({ "queueId": 1, "text": text.len() });
    write_object_keyed(&mut keyed, [(key.clone(), value.clone())].into_iter());
    // Where it was at the deepest level before, it is too deep now.
    if let Ok(again) = read(keyed.as_bytes()) {
        assert!(alike(&again[key.to_string()], &value), "read {value}, and under an object {again}");
    }
}

fn body<T: DeserializeOwned + Serialize>(text: &[u8]) {
    let Ok(value) = parse::<T>(text) else { return };
    comes_back(&value, |written| parse(written).map_err(|error| error.to_string()));
}

fn registration(text: &[u8], compressed: bool, version: i32) {
    let Ok(value) = RegisterBrokerBody::read(text, compressed, version) else { return };
    comes_back(&value, |written| RegisterBrokerBody::read(written, false, VERSION));
}

/// Written and read again it says the same.
fn comes_back<T: Serialize>(value: &T, read: impl FnOnce(&[u8]) -> Result<T, String>) {
    let written = serde_json::to_vec(value).expect("a body is JSON");
    let again = read(&written).expect("what is written can be read");
    assert!(same(value, &again), "{} came back as another", String::from_utf8_lossy(&written));
}

/// Whether two bodies say the same.
pub(crate) fn same<T: Serialize>(one: &T, other: &T) -> bool {
    let json = |value: &T| serde_json::to_value(value).expect("a body is JSON");
    alike(&json(one), &json(other))
}

/// Equal, but for the last digits of numbers that are not integers: serde_json reads those fast, not exactly.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| (one - other).abs() <= one.abs() * 1e-14)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((name, one), (known, other))| name == known && alike(one, other))
        }
        _ => one == other,
    }
}
