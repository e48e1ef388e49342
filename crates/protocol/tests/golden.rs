//! Bytes that RocketMQ's Java code wrote: see `data/README.md`.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "the recorded bytes lie in files; a test may stop")]

use keepmq_protocol::body::{RegisterBrokerBody, RouteData};
use keepmq_protocol::frame::{FLAG_RESPONSE, FRAME_MAX, Form, Frame, cut, read, write_request};
use keepmq_protocol::message::{batch, find, offset_msg_id, pairs, push, push_batch_item, tag_hash};
use keepmq_protocol::record::{CRC_BYTES, Draft, Found, Place, Record, decode};
use keepmq_protocol::request::{Pull, SendVia};
use keepmq_protocol::{LogOffset, Request, Response, json};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// Every recorded file of this kind: its name, its bytes, what Java says about it.
fn recorded(extension: &str) -> Vec<(String, Vec<u8>, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|there| there == extension) {
            let facts = fs::read(path.with_extension("json")).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read(&path).unwrap(), serde_json::from_slice(&facts).unwrap()));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

fn fields_of(frame: &Frame<'_>) -> Map<String, Value> {
    frame.fields.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect()
}

fn parse(bytes: &[u8]) -> Frame<'_> {
    let raw = cut(bytes, FRAME_MAX).unwrap().expect("a whole frame");
    assert_eq!(raw.size, bytes.len());
    read(&raw).unwrap()
}

#[test]
fn frames_say_what_java_says_they_say() {
    let frames = recorded("frame");
    assert_eq!(frames.len(), 80, "two versions, two forms, twenty frames");
    for (name, bytes, facts) in frames {
        let frame = parse(&bytes);
        assert_eq!(frame.form == Form::Binary, name.contains("-binary-"), "{name}");
        assert_eq!(Value::from(frame.code), facts["code"], "{name}");
        assert_eq!(Value::from(frame.opaque), facts["opaque"], "{name}");
        assert_eq!(Value::from(frame.flag), facts["flag"], "{name}");
        assert_eq!(Value::from(frame.version), facts["version"], "{name}");
        assert_eq!(Value::from(frame.remark.as_deref()), facts["remark"], "{name}");
        assert_eq!(Value::from(fields_of(&frame)), facts["fields"], "{name}");
        assert_eq!(Value::from(frame.body.len()), facts["body_len"], "{name}");
        if frame.flag & FLAG_RESPONSE == 0 {
            request(&name, &frame);
        } else {
            answer(&name, &frame);
        }
    }
}

/// A request is one that we know, and written by us it says the same.
fn request(name: &str, frame: &Frame<'_>) {
    let request = Request::read(frame).unwrap_or_else(|refusal| panic!("{name}: {}", refusal.remark));
    assert_eq!(request.code(), frame.code, "{name}");
    let mut ours = Vec::new();
    write_request(&mut ours, frame.opaque, frame.form, frame.flag != 0, &request);
    let ours = parse(&ours);
    assert_eq!((ours.code, ours.opaque, ours.flag), (frame.code, frame.opaque, frame.flag), "{name}");
    let compressed = name.ends_with("-compressed");
    let theirs = fields_of(frame);
    for (field, value) in fields_of(&ours) {
        assert!(theirs.get(&field) == Some(&value) || (compressed && field == "compressed"), "{name}: {field} {value}");
    }
    match &request {
        Request::Send(send) => {
            assert_eq!(ours.body, frame.body, "{name}");
            if let Some(text) = &send.header.properties {
                properties(name, text);
            }
            if send.via == SendVia::Batch {
                let items = batch(&send.body, 3).unwrap();
                let mut again = Vec::new();
                for item in &items {
                    properties(name, item.properties);
                    push_batch_item(&mut again, item);
                }
                assert_eq!(again, *send.body, "{name}");
                assert_eq!(items.iter().map(|item| item.body).collect::<Vec<_>>(), [&b"one"[..], b"number two", b"3"]);
            }
        }
        Request::RegisterBroker(register) => {
            let RegisterBrokerBody { filter_server_list, topic_config_serialize_wrapper: table } = &*register.body;
            assert!(filter_server_list.is_empty(), "{name}");
            assert_eq!((table.data_version.counter, table.data_version.timestamp), (5, 1_700_000_000_003), "{name}");
            let topics: Vec<String> = table
                .topic_config_table
                .iter()
                .map(|(key, t)| {
                    format!("{key}={} {}/{} {}", t.topic_name, t.read_queue_nums, t.write_queue_nums, t.perm)
                })
                .collect();
            assert_eq!(topics, ["OrderTopic=OrderTopic 8/4 6", "TBW102=TBW102 8/8 7"], "{name}");
            let attribute = table.topic_config_table["TBW102"].attributes.get("message.type").map(String::as_str);
            assert_eq!(attribute, name.starts_with("5.").then_some("FIFO"), "{name}");
        }
        Request::Heartbeat(heartbeat) => {
            assert_eq!(heartbeat.client_id, "10.1.2.3@123#456");
            assert_eq!(heartbeat.producer_data_set[0].group_name, "CLIENT_INNER_PRODUCER");
            let consumer = &heartbeat.consumer_data_set[0];
            assert_eq!(consumer.message_model.as_deref(), Some("CLUSTERING"));
            let tags = consumer.subscription_data_set.iter().find(|data| data.topic == "OrderTopic").unwrap();
            assert_eq!(tags.code_set, [tag_hash("TagA"), tag_hash("TagB")]);
            assert_eq!(tags.sub_version, 1_700_000_000_001);
            // Same names, same order, same defaults: what Java wrote is what we write, but for fields of the other version.
            let (ours, theirs): (Value, Value) =
                (serde_json::from_slice(ours.body).unwrap(), serde_json::from_slice(frame.body).unwrap());
            for (key, value) in theirs.as_object().unwrap() {
                assert_eq!(&ours[key], value, "{name}: {key}");
            }
        }
        Request::Pull(Pull { offset, max_bytes, .. }) => {
            assert_eq!((*offset, *max_bytes), (17, name.starts_with("5.").then_some(262_144)));
        }
        Request::UpdateOffset(update) => assert_eq!((update.offset, frame.flag), (18, 2)),
        _ => {}
    }
}

/// A property string, taken apart and put together again. Java 4.9 leaves the last separator out.
fn properties(name: &str, text: &str) {
    let mut again = String::new();
    for (name, value) in pairs(text) {
        push(&mut again, name, value);
    }
    assert_eq!(again.trim_end_matches('\u{2}'), text.trim_end_matches('\u{2}'), "{name}");
    assert_eq!(find(text, "größe"), Some("zwölf 😀"), "{name}");
    assert_eq!(find(text, "KEYS"), Some("key-1 \"key\\2\""), "{name}");
}

fn answer(name: &str, frame: &Frame<'_>) {
    let answer = Response::read(frame);
    assert!(answer.is_ok(), "{name}");
    if name.ends_with("-answer-send") {
        assert_eq!(answer.field::<i64>("queueOffset"), Ok(41), "{name}");
        assert_eq!(answer.field::<bool>("TRACE_ON"), Ok(true), "{name}");
    } else if name.ends_with("-answer-pull") {
        assert_eq!(answer.field::<i64>("nextBeginOffset"), Ok(42), "{name}");
        let record = record(&answer.body[0], 1_234_567_890_123);
        assert_eq!(record.body, b"a stored body", "{name}");
    } else if name.ends_with("-answer-route") {
        let route: RouteData = json::parse(frame.body).unwrap();
        assert_eq!(route.broker_datas[0].broker_addrs[&1], "10.0.0.2:10911", "{name}");
        assert_eq!(route.queue_datas[0].write_queue_nums, 4, "{name}");
    } else {
        assert!(name.ends_with("-answer-consume-stats"), "{name}");
        let stats = json::read(frame.body).unwrap();
        let queue = r#"{"brokerName":"broker-a","queueId":2,"topic":"OrderTopic"}"#;
        assert_eq!(stats["offsetTable"][queue]["consumerOffset"], 7, "{name}");
        let mut table = String::new();
        let key = serde_json::from_str(queue).unwrap();
        json::write_object_keyed(&mut table, std::iter::once((key, stats["offsetTable"][queue].clone())));
        let theirs = std::str::from_utf8(frame.body).unwrap();
        assert!(theirs.contains(&format!("\"offsetTable\":{table}")), "{name}: {table}");
    }
}

fn record(bytes: &[u8], at: u64) -> Record<'_> {
    match decode(bytes, LogOffset(at)) {
        Ok(Found::Record(record)) => record,
        other => panic!("no record: {other:?}"),
    }
}

#[test]
fn records_say_what_java_says_they_say() {
    let records = recorded("record");
    assert_eq!(records.len(), 4, "two versions, both kinds of address");
    for (name, bytes, facts) in records {
        let record = record(&bytes, facts["at"].as_u64().unwrap());
        let pairs: Map<String, Value> =
            pairs(record.properties).map(|(name, value)| (name.to_owned(), value.into())).collect();
        let ours = serde_json::json!({
            "at": record.at.0,
            "body": std::str::from_utf8(record.body).unwrap(),
            "body_crc": record.body_crc,
            "born_at": record.born_at,
            "born_host": facts["born_host"],
            "flag": record.flag,
            "msg_id": offset_msg_id(record.store_host, record.at),
            "prepared": record.prepared,
            "properties": pairs,
            "queue_id": record.queue_id,
            "queue_offset": record.queue_offset.0,
            "reconsume_times": record.reconsume_times,
            "store_host": facts["store_host"],
            "stored": record.stored.0,
            "sys_flag": record.sys_flag,
            "tag_hash": find(record.properties, "TAGS").map(tag_hash),
            "topic": record.topic,
        });
        assert_eq!(ours, facts, "{name}");
        assert_eq!(record.born_host, facts["born_host"].as_str().unwrap().parse().unwrap(), "{name}");
        assert_eq!(record.store_host, facts["store_host"].as_str().unwrap().parse().unwrap(), "{name}");

        // Written by us it differs in the CRC property, and so in the size and the length of the properties.
        let draft = Draft {
            topic: record.topic,
            queue_id: record.queue_id,
            flag: record.flag,
            sys_flag: record.sys_flag,
            born_at: record.born_at,
            born_host: record.born_host,
            store_host: record.store_host,
            reconsume_times: record.reconsume_times,
            prepared: record.prepared,
            body: record.body,
            body_crc: record.body_crc,
            properties: record.properties,
            added: "",
        };
        let place = Place { at: record.at, queue_offset: record.queue_offset, stored: record.stored };
        let mut again = Vec::new();
        draft.encode(place, &mut again);
        let properties_len = bytes.len() - record.properties.len() - 2;
        assert_eq!(again[4..properties_len], bytes[4..properties_len], "{name}");
        let properties = &again[properties_len + 2..again.len() - CRC_BYTES];
        let ours = properties.strip_suffix(b"\x02").unwrap();
        assert_eq!(ours, record.properties.trim_end_matches('\u{2}').as_bytes(), "{name}");
    }
}
