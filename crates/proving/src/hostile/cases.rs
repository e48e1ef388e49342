//! Bad frames and bad requests, and what must come of each.

use crate::client::{Client, unique_key};
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::frame::{Form, write_request};
use keepmq_protocol::{Request, Response, ResponseCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// A topic that exists, with four queues.
pub(super) const TOPIC: &str = "Hostile";
/// RocketMQ's default `maxMessageSize`.
const BODY_MAX: usize = 4 * 1024 * 1024;

/// Longest text of an answer: it is for people, and no echo.
const REMARK_MAX: usize = 2_048;

/// What must come of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// An answer with this code, and this in its text.
    Code(i32, &'static str),
    /// The connection is closed, or the frame passed over: in either case no answer.
    NoAnswer,
}
use Expected::{Code, NoAnswer};

/// Bytes that somebody sends.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) what: String,
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Expected,
}

impl Case {
    pub(super) fn new(what: &str, bytes: Vec<u8>, expected: Expected) -> Self {
        Self { what: what.to_owned(), bytes, expected }
    }
}

/// One frame from a header and a body.
pub(super) fn frame(header: &Value, body: &[u8]) -> Vec<u8> {
    raw_frame(header.to_string().as_bytes(), body)
}

pub(super) fn raw_frame(header: &[u8], body: &[u8]) -> Vec<u8> {
    let int = |len: usize| u32::try_from(len).expect("a short frame").to_be_bytes();
    [&int(4 + header.len() + body.len()), &int(header.len())[..], header, body].concat()
}

pub(super) fn command(code: i32, fields: &Value) -> Value {
    json!({"code": code, "flag": 0, "language": "JAVA", "opaque": 7, "version": 479, "extFields": fields})
}

/// Bytes that are not a readable frame.
pub(super) fn frames() -> Vec<Case> {
    let mut half = frame(&command(105, &json!({"topic": TOPIC})), b"");
    half.truncate(half.len() / 2);
    let deep = format!("{{\"code\":105,\"extFields\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of length -1", (-1i32).to_be_bytes().to_vec()),
        ("a frame of length 0", vec![0; 4]),
        ("a frame of length 3", vec![0, 0, 0, 3, 0, 0, 0]),
        ("a frame of 17 MiB", (17i32 << 20).to_be_bytes().to_vec()),
        ("a frame of 2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a header longer than its frame", vec![0, 0, 0, 8, 0, 0, 1, 0, b'{', b'}', b' ', b' ']),
        ("a header of an unknown form", vec![0, 0, 0, 6, 9, 0, 0, 2, b'{', b'}']),
        ("half a frame, then silence", half),
        ("a header that is no JSON", raw_frame(b"{\"code\":105,", b"")),
        ("a header that is no text", raw_frame(&[0xFF; 64], b"")),
        ("a header nested 100,000 deep", raw_frame(deep.as_bytes(), b"")),
        ("a binary header that is cut short", vec![0, 0, 0, 10, 1, 0, 0, 6, 0, 105, 0, 1, 1, 0]),
        ("what a browser sends", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ];
    cases.into_iter().map(|(what, bytes)| Case::new(what, bytes, NoAnswer)).collect()
}

/// Frames whose request is bad.
pub(super) fn requests() -> Vec<Case> {
    let send = |change: &dyn Fn(&mut Value), body: &[u8]| {
        let mut fields = json!({
            "a": "g", "b": TOPIC, "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1", "h": "0",
            "i": unique_key(1), "j": "0", "k": "false", "m": "false",
        });
        change(&mut fields);
        frame(&command(310, &fields), body)
    };
    let topic = |name: &str| send(&|fields| fields["b"] = json!(name), b"body");
    let field = |name: &'static str, value: Value| send(&|fields| fields[name] = value.clone(), b"body");
    let without = |name: &'static str| {
        let remove = |fields: &mut Value| {
            fields.as_object_mut().expect("fields are an object").remove(name);
        };
        send(&remove, b"body")
    };
    let pull = |topic: &str, queue: &str, offset: &str| {
        let fields = json!({
            "consumerGroup": "g", "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": "32",
            "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
        });
        frame(&command(11, &fields), b"")
    };
    let create = |name: &str, queues: i64| {
        let fields = json!({
            "topic": name, "defaultTopic": "TBW102", "readQueueNums": queues.to_string(),
            "writeQueueNums": queues.to_string(), "perm": "6", "topicFilterType": "SINGLE_TAG", "order": "false",
        });
        frame(&command(17, &fields), b"")
    };
    let batch = |body: &[u8]| send(&|fields| fields["m"] = json!("true"), body);
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("an unknown code", frame(&command(9_999, &json!({})), b""), Code(3, " request type 9999 not supported")),
        ("a negative code", frame(&command(-5, &json!({})), b""), Code(3, "-5")),
        ("a send without a topic", without("b"), Code(1, "topic")),
        ("a send without fields", frame(&command(310, &json!({})), b"x"), Code(1, "missing")),
        ("a queue that is no number", field("e", json!("zero")), Code(1, "queueId")),
        ("a time that is a word", field("g", json!("soon")), Code(1, "bornTimestamp")),
        ("a field that is an object", field("g", json!({"a": 1})), Code(1, "bornTimestamp")),
        ("a topic with a slash", topic("a/b"), Code(29, "illegal")),
        ("a topic that is ..", topic(".."), Code(29, "illegal")),
        ("a topic with a NUL", topic("a\0b"), Code(29, "illegal")),
        ("a topic that is an absolute path", topic("/etc/passwd"), Code(29, "illegal")),
        ("an empty topic", topic(""), Code(29, "blank")),
        ("a topic of 128 characters", topic(&"x".repeat(128)), Code(29, "longer")),
        ("a send to the metadata's topic", topic("rmq_sys_keepmq_meta"), Code(16, "forbidden")),
        ("a send to the delay topic", topic("SCHEDULE_TOPIC_XXXX"), Code(16, "forbidden")),
        ("a queue beyond the topic's", field("e", json!("4")), Code(29, "queue")),
        ("the highest queue there is", field("e", json!(i32::MAX.to_string())), Code(29, "queue")),
        ("an empty body", send(&|_| (), b""), Code(13, "")),
        ("a body over the limit", send(&|_| (), &vec![b'x'; BODY_MAX + 1]), Code(13, "")),
        ("properties over the limit", field("i", json!(format!("k\u{1}{}\u{2}", "v".repeat(32_768)))), Code(13, "")),
        ("a delayed message", field("i", json!("DELAY\u{1}3\u{2}")), Code(13, "")),
        ("a half message", field("f", json!("4")), Code(16, "")),
        ("a batch that is none", batch(b"not a batch"), Code(13, "batch")),
        ("a batch with a negative length", batch(&[0xFF; 40]), Code(13, "batch")),
        ("a pull from a topic that is not", pull("Nowhere", "0", "0"), Code(17, "Nowhere")),
        ("a pull from the metadata", pull("rmq_sys_keepmq_meta", "0", "0"), Code(17, "rmq_sys_keepmq_meta")),
        ("a pull from a queue beyond the topic's", pull(TOPIC, "4", "0"), Code(29, "queueId")),
        ("a pull from a negative queue", pull(TOPIC, "-1", "0"), Code(29, "queueId")),
        ("a pull below the minimum", pull(TOPIC, "1", "-1"), Code(21, "")),
        ("a pull above the maximum", pull(TOPIC, "1", "1000000"), Code(21, "")),
        ("a pull at the highest number", pull(TOPIC, "1", &i64::MAX.to_string()), Code(21, "")),
        ("a topic to be created with a slash", create("a/b", 4), Code(29, "illegal")),
        ("a topic to be created with -1 queues", create("Minus", -1), Code(29, "QueueNums")),
        ("a topic to be created with 2 billion queues", create("Many", 2_000_000_000), Code(29, "QueueNums")),
        ("a heartbeat that is no JSON", frame(&command(34, &json!({})), b"{not json"), Code(1, "HEART_BEAT")),
        (
            "a heartbeat nested deep",
            frame(&command(34, &json!({})), "[".repeat(100_000).as_bytes()),
            Code(1, "HEART_BEAT"),
        ),
        (
            "an offset of a group with a bad name",
            frame(
                &command(15, &json!({"consumerGroup": "a/b", "topic": TOPIC, "queueId": "0", "commitOffset": "0"})),
                b"",
            ),
            Code(26, "illegal"),
        ),
        (
            "a negative offset",
            frame(
                &command(15, &json!({"consumerGroup": "g", "topic": TOPIC, "queueId": "0", "commitOffset": "-1"})),
                b"",
            ),
            Code(29, ""),
        ),
        (
            "a message at a position beyond the log",
            frame(&command(33, &json!({"offset": "99999999999"})), b""),
            Code(1, ""),
        ),
        ("born at no time", field("g", json!("0")), Code(0, "")),
        ("born before everything", field("g", json!(i64::MIN.to_string())), Code(0, "")),
        ("born after everything", field("g", json!(i64::MAX.to_string())), Code(0, "")),
        ("a topic of 1 MiB", topic(&"x".repeat(1 << 20)), Code(29, "longer")),
        ("a pull from a topic of 1 MiB", pull(&"x".repeat(1 << 20), "0", "0"), Code(17, "topic[xxx")),
        ("a queue that is a number of 1 MiB", field("e", json!("1".repeat(1 << 20))), Code(1, "queueId")),
        ("a message at a negative position", frame(&command(33, &json!({"offset": "-1"})), b""), Code(1, "")),
    ];
    cases.into_iter().map(|(what, bytes, expected)| Case::new(what, bytes, expected)).collect()
}

/// Frames that fit the limits and want to become much more than they are.
pub(super) fn bombs() -> Vec<Case> {
    let fields: String = (0..100_000).map(|n| format!("\"k{n}\":\"v\",")).collect();
    let header = format!("{{\"code\":28,\"extFields\":{{{fields}\"z\":1}}}}");
    let beat = |body: &str| frame(&command(34, &json!({})), body.as_bytes());
    let list = |before: &str, item: &str, count: usize, behind: &str| {
        format!("{before}{}{item}{behind}", format!("{item},").repeat(count - 1))
    };
    let consumers = list("{\"clientID\":\"bomb\",\"consumerDataSet\":[", "{}", 3_900_000, "]}");
    let few = list("{\"clientID\":\"bomb\",\"consumerDataSet\":[", "{}", 190_000, "]}");
    let subscriptions = list(
        "{\"clientID\":\"bomb\",\"consumerDataSet\":[{\"groupName\":\"bomb\",\"subscriptionDataSet\":[",
        "{}",
        3_900_000,
        "]}]}",
    );
    let tags = list(
        "{\"clientID\":\"bomb\",\"consumerDataSet\":[{\"groupName\":\"bomb\",\"subscriptionDataSet\":[{\"topic\":\"Hostile\",\"tagsSet\":[",
        "\"\"",
        3_900_000,
        "]}]}]}",
    );
    let map: String = (0..800_000).map(|n| format!("\"k{n}\":{{}},")).collect();
    let unknown = format!("{{\"clientID\":\"bomb\",\"more\":{{{map}\"z\":1}}}}");
    let attributes = format!("{{\"groupName\":\"bomb\",\"attributes\":{{{}\"z\":\"1\"}}}}", {
        (0..700_000).map(|n| format!("\"k{n}\":\"\",")).collect::<String>()
    });
    let policy = format!("{{\"groupName\":\"bomb\",\"groupRetryPolicy\":{}}}", { list("[", "[]", 3_900_000, "]") });
    vec![
        Case::new("a header of 100,000 fields", raw_frame(header.as_bytes(), b""), NoAnswer),
        Case::new("a heartbeat of 3.9 million groups", beat(&consumers), Code(1, "values")),
        Case::new("a heartbeat of 3.9 million subscriptions", beat(&subscriptions), Code(1, "values")),
        Case::new("a heartbeat of 190,000 groups", beat(&few), Code(1, "consumer groups")),
        Case::new("a heartbeat of 3.9 million tags", beat(&tags), Code(1, "values")),
        Case::new("a heartbeat with a map of 800,000", beat(&unknown), Code(1, "values")),
        Case::new(
            "a group of 700,000 attributes",
            frame(&command(200, &json!({})), attributes.as_bytes()),
            Code(1, "values"),
        ),
        Case::new(
            "a group with a policy of 3.9 million",
            frame(&command(200, &json!({})), policy.as_bytes()),
            Code(1, "values"),
        ),
    ]
}

/// Sends the bytes, and looks at what comes.
pub(super) fn throw(broker: SocketAddr, case: &Case) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let sent = client.raw(&case.bytes);
    match hear(&mut client, case, sent.is_ok())? {
        Heard::Closed if matches!(case.expected, Code(..)) => bail!("the connection was closed instead of an answer"),
        Heard::Busy => bail!("nobody else is there, and yet the broker is busy"),
        _ => Ok(()),
    }
}

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The expected answer.
    Answer,
    /// The broker is busy, and looks no further.
    Busy,
    /// Nothing, and the connection goes on or waits.
    Silence,
    Closed,
}

/// Looks at what comes of a case whose bytes were sent; any other answer than the expected is an error.
pub(super) fn hear(client: &mut Client, case: &Case, sent: bool) -> Result<Heard> {
    match case.expected {
        Code(code, text) => match client.receive() {
            Ok(Some((_, response))) if response.code == ResponseCode::SystemBusy as i32 => {
                judge(&response, response.code, "").map(|()| Heard::Busy)
            }
            Ok(Some((_, response))) => judge(&response, code, text).map(|()| Heard::Answer),
            // A connection may be closed while we are still sending, in the hard way.
            _ => Ok(Heard::Closed),
        },
        NoAnswer => {
            // A good request behind it tells whether the broker reads on; that one may be answered.
            let mut good = Vec::new();
            write_request(&mut good, 4_711, Form::Json, false, &Request::RuntimeInfo);
            if !sent || client.raw(&good).is_err() {
                return Ok(Heard::Closed);
            }
            client.patience(Duration::from_millis(300))?;
            match client.receive() {
                Ok(Some((opaque, _))) if opaque != 4_711 => bail!("it was answered, as request {opaque}"),
                Ok(Some(_)) => Ok(Heard::Silence),
                Ok(None) => Ok(Heard::Closed),
                // Closed the hard way, or still waiting for the rest of a frame.
                Err(_) => Ok(Heard::Silence),
            }
        }
    }
}

pub(super) fn judge(response: &Response, code: i32, text: &str) -> Result<()> {
    let remark = response.remark.as_deref().unwrap_or_default();
    // A pull's codes speak for themselves, RocketMQ sends no text with them.
    let silent = matches!(response.code, 0 | 19 | 21);
    ensure!(response.code == code, "expected code {code}, seen {} with {remark:?}", response.code);
    ensure!(silent || !remark.is_empty(), "code {code} without a text");
    ensure!(remark.contains(text), "expected {text:?} in the text, seen {remark:?}");
    ensure!(remark.len() <= REMARK_MAX, "code {code} with a text of {} bytes", remark.len());
    Ok(())
}

/// Somebody who does everything right.
pub(super) fn good_client(broker: SocketAddr) -> Result<()> {
    let mut client = Client::connect(broker).context("a good client")?;
    let sent = client.send(TOPIC, 3, b"good").context("a good client")?;
    let pulled = client.pull(TOPIC, 3, i64::try_from(sent.offset.0)?).context("a good client")?;
    ensure!(pulled.messages.first().is_some_and(|found| found.body == b"good"), "a good client sees {pulled:?}");
    Ok(())
}
