//! Writes frames and records as our encoders make them, each with a `.json` that says what Java must read out of it.
//!
//! `cargo run -p keepmq-protocol --example golden_ours -- FOLDER`
#![expect(clippy::disallowed_methods, reason = "an example that writes files")]

use keepmq_protocol::body::{
    BrokerData, ConsumerData, Heartbeat, ProducerData, QueueData, RegisterBrokerBody, RouteData, Subscription,
    TopicConfig,
};
use keepmq_protocol::frame::{
    Caller, FLAG_ONEWAY, FLAG_RESPONSE, Form, Language, VERSION, write_request, write_response_head,
};
use keepmq_protocol::message::{BatchItem, UniqKey, offset_msg_id, push, push_batch_item, sys_flag, tag_hash};
use keepmq_protocol::record::{Draft, Place, crc};
use keepmq_protocol::request::{
    Pull, QueryOffset, RegisterBroker, RegisterBrokerHeader, RouteInfo, Send, SendHeader, SendVia, UpdateOffset,
};
use keepmq_protocol::response::{PullReply, ResponseHeader, SendReply};
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{LogOffset, QueueOffset, Request, Response, ResponseCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or_else(|| io::Error::other("give a folder to write to"))?);
    fs::create_dir_all(&folder)?;
    let stored = records();
    for form in [Form::Json, Form::Binary] {
        requests(&folder, form)?;
        answers(&folder, form, &stored[0].1)?;
    }
    for (name, bytes, facts) in stored {
        write(&folder, &name, "record", &bytes, &facts)?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, extension: &str, bytes: &[u8], facts: &Value) -> io::Result<()> {
    fs::write(folder.join(name).with_extension(extension), bytes)?;
    fs::write(folder.join(name).with_extension("json"), format!("{facts:#}\n"))
}

/// Facts of a frame, named as in `tests/data`.
fn facts(code: i32, flag: i32, opaque: i32, remark: Option<&str>, fields: &Value, body: &[u8]) -> Value {
    let mut facts = json!({
        "code": code, "flag": flag, "opaque": opaque, "version": VERSION, "fields": fields, "body_len": body.len(),
        "body": String::from_utf8_lossy(body),
    });
    if let Some(remark) = remark {
        facts["remark"] = remark.into();
    }
    facts
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Json => "json",
        Form::Binary => "binary",
    }
}

fn properties() -> String {
    let mut text = String::new();
    for (name, value) in [
        ("TAGS", "TagA"),
        ("KEYS", "key-1 \"key\\2\""),
        ("UNIQ_KEY", "7F0000010BB818B4AAC2000000000005"),
        ("größe", "zwölf 😀\n"),
    ] {
        push(&mut text, name, value);
    }
    text
}

fn requests(folder: &Path, form: Form) -> io::Result<()> {
    let properties = properties();
    let mut batch = Vec::new();
    for body in [&b"one"[..], b"number two"] {
        push_batch_item(&mut batch, &BatchItem { flag: 7, body, properties: &properties });
    }
    let header = SendHeader {
        producer_group: "producers".into(),
        topic: "OrderTopic".into(),
        default_topic: "TBW102".into(),
        default_topic_queues: 4,
        queue_id: 3,
        sys_flag: 0,
        born_at: 1_700_000_000_123,
        flag: 7,
        properties: Some(properties.as_str().into()),
        reconsume_times: Some(2),
        unit_mode: false,
        max_reconsume_times: Some(16),
        batch: false,
        broker_name: Some("broker-a".into()),
    };
    let long = json!({
        "producerGroup": "producers", "topic": "OrderTopic", "defaultTopic": "TBW102", "defaultTopicQueueNums": "4",
        "queueId": "3", "sysFlag": "0", "bornTimestamp": "1700000000123", "flag": "7", "properties": properties,
        "reconsumeTimes": "2", "unitMode": "false", "maxReconsumeTimes": "16", "batch": "false", "bname": "broker-a",
    });
    let short = |batch: &str| {
        json!({
            "a": "producers", "b": "OrderTopic", "c": "TBW102", "d": "4", "e": "3", "f": "0", "g": "1700000000123", "h": "7",
            "i": properties, "j": "2", "k": "false", "l": "16", "m": batch, "n": "broker-a",
        })
    };
    let batch_header = SendHeader { batch: true, ..header.clone() };
    let subscription = Subscription {
        code_set: vec![tag_hash("TagA")],
        expression_type: Some("TAG".to_owned()),
        sub_string: Some("TagA".to_owned()),
        sub_version: 1_700_000_000_001,
        tags_set: vec!["TagA".to_owned()],
        topic: "OrderTopic".to_owned(),
        ..Subscription::default()
    };
    let heartbeat = Heartbeat {
        client_id: "10.1.2.3@123#456".to_owned(),
        consumer_data_set: vec![ConsumerData {
            consume_from_where: Some("CONSUME_FROM_LAST_OFFSET".to_owned()),
            consume_type: Some("CONSUME_PASSIVELY".to_owned()),
            group_name: "consumers".to_owned(),
            message_model: Some("CLUSTERING".to_owned()),
            subscription_data_set: vec![subscription],
            unit_mode: false,
        }],
        producer_data_set: vec![ProducerData { group_name: "producers".to_owned() }],
        ..Heartbeat::default()
    };
    let mut table = RegisterBrokerBody::default();
    table.topic_config_serialize_wrapper.data_version.counter = 5;
    let topic = TopicConfig { topic_name: "OrderTopic".to_owned(), read_queue_nums: 8, ..TopicConfig::default() };
    table.topic_config_serialize_wrapper.topic_config_table.insert("OrderTopic".to_owned(), topic);
    let table_crc = crc(&serde_json::to_vec(&table)?).cast_signed();
    let register = RegisterBrokerHeader {
        broker_name: "broker-a".into(),
        broker_addr: "10.0.0.1:10911".into(),
        cluster: "DefaultCluster".into(),
        ha_addr: "10.0.0.1:10912".into(),
        broker_id: 0,
        timeout_ms: None,
        enable_acting_master: None,
        compressed: false,
        body_crc: Some(table_crc),
    };
    let pull = Pull {
        group: "consumers".into(),
        topic: "OrderTopic".into(),
        queue_id: 2,
        offset: 17,
        max_messages: 32,
        sys_flag: 7,
        commit_offset: 15,
        suspend_ms: 15_000,
        subscription: Some("TagA || TagB".into()),
        sub_version: 1_700_000_000_001,
        expression_type: Some("TAG".into()),
        max_bytes: None,
    };
    let (group, topic) = (|| "consumers".into(), || "OrderTopic".into());
    let requests = [
        ("send-v1", Request::Send(Send { via: SendVia::V1, header: header.clone(), body: b"hello".into() }), long),
        ("send-v2", Request::Send(Send { via: SendVia::V2, header, body: b"hello".into() }), short("false")),
        (
            "send-batch",
            Request::Send(Send { via: SendVia::Batch, header: batch_header, body: (&batch[..]).into() }),
            short("true"),
        ),
        (
            "pull",
            Request::Pull(pull),
            json!({
                "consumerGroup": "consumers", "topic": "OrderTopic", "queueId": "2", "queueOffset": "17", "maxMsgNums": "32",
                "sysFlag": "7", "commitOffset": "15", "suspendTimeoutMillis": "15000", "subscription": "TagA || TagB",
                "subVersion": "1700000000001", "expressionType": "TAG",
            }),
        ),
        ("heartbeat", Request::Heartbeat(Box::new(heartbeat)), json!({})),
        (
            "query-offset",
            Request::QueryOffset(QueryOffset {
                group: group(),
                topic: topic(),
                queue_id: 2,
                zero_if_not_found: Some(false),
            }),
            json!({"consumerGroup": "consumers", "topic": "OrderTopic", "queueId": "2", "setZeroIfNotFound": "false"}),
        ),
        (
            "update-offset",
            Request::UpdateOffset(UpdateOffset {
                group: group(),
                topic: topic(),
                queue_id: 2,
                offset: 18,
                if_absent: None,
            }),
            json!({"consumerGroup": "consumers", "topic": "OrderTopic", "queueId": "2", "commitOffset": "18"}),
        ),
        (
            "route",
            Request::RouteInfo(RouteInfo { topic: topic(), standard_json: Some(true) }),
            json!({"topic": "OrderTopic", "acceptStandardJsonOnly": "true"}),
        ),
        (
            "register-broker",
            Request::RegisterBroker(RegisterBroker { header: register, body: Box::new(table) }),
            json!({
                "brokerName": "broker-a", "brokerAddr": "10.0.0.1:10911", "clusterName": "DefaultCluster",
                "haServerAddr": "10.0.0.1:10912", "brokerId": "0", "compressed": "false", "bodyCrc32": table_crc.to_string(),
            }),
        ),
    ];
    for (opaque, (name, request, fields)) in (1..).zip(requests) {
        let oneway = name == "update-offset";
        let (mut bytes, mut body) = (Vec::new(), Vec::new());
        write_request(&mut bytes, opaque, form, oneway, &request);
        request.write_body(&mut body);
        let flag = if oneway { FLAG_ONEWAY } else { 0 };
        let facts = facts(request.code(), flag, opaque, None, &fields, &body);
        write(folder, &format!("ours-{}-{name}", form_name(form)), "frame", &bytes, &facts)?;
    }
    Ok(())
}

fn answers(folder: &Path, form: Form, record: &[u8]) -> io::Result<()> {
    let caller = Caller { conn: Conn(1), opaque: 0, form, oneway: false, version: VERSION, language: Language::Java };
    let store_host: SocketAddr = "192.168.0.9:10911".parse().map_err(io::Error::other)?;
    let send = ResponseHeader::Send(SendReply {
        store_host,
        positions: [LogOffset(4096), LogOffset(8192)].into_iter().collect(),
        queue_id: 3,
        queue_offset: QueueOffset(41),
        transaction_id: UniqKey::new("7F0000010BB818B4AAC2000000000005"),
        region: "DefaultRegion".into(),
    });
    let pull = PullReply { suggest_broker: 0, next: QueueOffset(42), min: QueueOffset(0), max: QueueOffset(43) };
    let route = RouteData {
        broker_datas: vec![BrokerData {
            broker_addrs: [(0, "10.0.0.1:10911".to_owned()), (1, "10.0.0.2:10911".to_owned())].into(),
            broker_name: "broker-a".to_owned(),
            cluster: "DefaultCluster".to_owned(),
            enable_acting_master: false,
        }],
        queue_datas: vec![QueueData {
            broker_name: "broker-a".to_owned(),
            perm: 6,
            read_queue_nums: 8,
            topic_sys_flag: 0,
            write_queue_nums: 4,
        }],
        ..RouteData::default()
    };
    let answers = [
        (
            "answer-send",
            Response::ok().with_header(send),
            json!({
                "msgId": "C0A8000900002A9F0000000000001000,C0A8000900002A9F0000000000002000", "queueId": "3",
                "queueOffset": "41", "transactionId": "7F0000010BB818B4AAC2000000000005", "MSG_REGION": "DefaultRegion",
                "TRACE_ON": "true",
            }),
        ),
        (
            "answer-pull",
            Response::ok().with_header(ResponseHeader::Pull(pull)).with_body(record.to_vec()),
            json!({"suggestWhichBrokerId": "0", "nextBeginOffset": "42", "minOffset": "0", "maxOffset": "43"}),
        ),
        ("answer-route", Response::ok().with_body(serde_json::to_vec(&route)?), json!({})),
        ("answer-refused", Response::refuse(ResponseCode::SystemBusy, "\"later\"\n"), json!({})),
    ];
    for (opaque, (name, response, fields)) in (100..).zip(answers) {
        let mut bytes = Vec::new();
        write_response_head(&mut bytes, &Caller { opaque, ..caller }, &response);
        let body: Vec<u8> = response.body.concat();
        bytes.extend_from_slice(&body);
        let facts = facts(response.code, FLAG_RESPONSE, opaque, response.remark.as_deref(), &fields, &body);
        write(folder, &format!("ours-{}-{name}", form_name(form)), "frame", &bytes, &facts)?;
    }
    Ok(())
}

fn records() -> Vec<(String, Vec<u8>, Value)> {
    let long = format!("%RETRY%{}", "g".repeat(121));
    let cases = [
        ("ours-record", "OrderTopic", "10.1.2.3:54321", "192.168.0.9:10911"),
        ("ours-record-v6", "OrderTopic", "[2001:db8::7]:54321", "[fe80::1:2]:10911"),
        ("ours-record-long-topic", long.as_str(), "10.1.2.3:54321", "192.168.0.9:10911"),
    ];
    let properties = properties();
    let place = Place {
        at: LogOffset(1_234_567_890_123),
        queue_offset: QueueOffset(41),
        stored: keepmq_world::Timestamp(1_700_000_000_456),
    };
    cases
        .into_iter()
        .map(|(name, topic, born_host, store_host)| {
            let host = |text: &str| text.parse::<SocketAddr>().expect("a literal address");
            let draft = Draft {
                topic,
                queue_id: 2,
                flag: -5,
                sys_flag: 0,
                born_at: 1_700_000_000_123,
                born_host: host(born_host),
                store_host: host(store_host),
                reconsume_times: 3,
                prepared: 99,
                body: b"a stored body",
                body_crc: crc(b"a stored body"),
                properties: &properties,
                added: "CLUSTER\u{1}DefaultCluster\u{2}",
            };
            let mut bytes = Vec::new();
            draft.encode(place, &mut bytes);
            let v6 = sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6;
            let facts = json!({
                "topic": topic, "queue_id": 2, "flag": -5, "queue_offset": 41, "at": 1_234_567_890_123i64,
                "sys_flag": if draft.born_host.is_ipv6() { v6 } else { 0 }, "born_at": 1_700_000_000_123i64,
                "born_host": born_host, "store_host": store_host, "stored": 1_700_000_000_456i64, "reconsume_times": 3,
                "prepared": 99, "body": "a stored body", "body_crc": draft.body_crc,
                "msg_id": offset_msg_id(draft.store_host, place.at), "tag_hash": tag_hash("TagA"),
                "properties": {
                    "TAGS": "TagA", "KEYS": "key-1 \"key\\2\"", "UNIQ_KEY": "7F0000010BB818B4AAC2000000000005",
                    "größe": "zwölf 😀\n", "CLUSTER": "DefaultCluster",
                },
            });
            (name.to_owned(), bytes, facts)
        })
        .collect()
}
