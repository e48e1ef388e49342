use super::*;
use crate::body::{DataVersion, RegisterBrokerBody, Subscription, TopicConfig, TopicTable};
use crate::frame::{FRAME_MAX, Form, cut, read, write_request};
use crate::record::crc;

/// One request of every code, with every field set.
fn all() -> Vec<Request<'static>> {
    let send = |via| {
        Request::Send(Send {
            via,
            header: SendHeader {
                producer_group: "g".into(),
                topic: "T".into(),
                default_topic: "TBW102".into(),
                default_topic_queues: 4,
                queue_id: -1,
                sys_flag: 1,
                born_at: 1_700_000_000_000,
                flag: 5,
                properties: Some("TAGS\u{1}TagA\u{2}".into()),
                reconsume_times: Some(2),
                unit_mode: true,
                max_reconsume_times: Some(16),
                batch: via == SendVia::Batch,
                broker_name: Some("broker-a".into()),
            },
            body: b"the body".into(),
        })
    };
    let (topic, group, queue_id) = (|| "T".into(), || "G".into(), 3);
    let (broker_name, broker_addr, cluster) = ("broker-a", "10.0.0.1:10911", "C");
    let version = DataVersion { counter: 1, state_version: 0, timestamp: 1_700_000_000_000 };
    let table =
        TopicTable { data_version: version, topic_config_table: [("T".to_owned(), TopicConfig::default())].into() };
    let register = RegisterBrokerBody { topic_config_serialize_wrapper: table, ..RegisterBrokerBody::default() };
    vec![
        send(SendVia::V1),
        send(SendVia::V2),
        send(SendVia::Batch),
        Request::Pull(Pull {
            group: group(),
            topic: topic(),
            queue_id,
            offset: 7,
            max_messages: 32,
            sys_flag: 7,
            commit_offset: 5,
            suspend_ms: 15_000,
            subscription: Some("TagA || TagB".into()),
            sub_version: 1,
            expression_type: Some("TAG".into()),
            max_bytes: Some(262_144),
        }),
        Request::QueryOffset(QueryOffset { group: group(), topic: topic(), queue_id, zero_if_not_found: Some(false) }),
        Request::UpdateOffset(UpdateOffset {
            group: group(),
            topic: topic(),
            queue_id,
            offset: 9,
            if_absent: Some(true),
        }),
        Request::SearchOffset(SearchOffset { topic: topic(), queue_id, timestamp: -1, boundary: Some("UPPER".into()) }),
        Request::MaxOffset(MaxOffset { topic: topic(), queue_id, committed: Some(true) }),
        Request::MinOffset(MinOffset { topic: topic(), queue_id }),
        Request::EarliestTime(EarliestTime { topic: topic(), queue_id }),
        Request::ViewMessage(ViewMessage { topic: Some(topic()), offset: 4096 }),
        Request::Heartbeat(Box::new(Heartbeat { client_id: "c".to_owned(), ..Heartbeat::default() })),
        Request::Unregister(Unregister { client_id: "c".into(), producer_group: None, consumer_group: Some(group()) }),
        Request::CheckClientConfig(Box::new(CheckClientConfig {
            group: "G".to_owned(),
            subscription_data: Subscription { topic: "T".to_owned(), ..Subscription::default() },
            ..CheckClientConfig::default()
        })),
        Request::ConsumerList(ConsumerList { group: group() }),
        Request::ConsumersChanged(ConsumersChanged { group: group() }),
        Request::CreateTopic(CreateTopic {
            topic: topic(),
            default_topic: Some("TBW102".into()),
            read_queues: 8,
            write_queues: 4,
            perm: 6,
            filter_type: Some("SINGLE_TAG".into()),
            sys_flag: Some(0),
            order: true,
            attributes: Some("+message.type=FIFO".into()),
        }),
        Request::DeleteTopic(DeleteTopic { topic: topic(), cluster: None }),
        Request::DeleteTopicRoute(DeleteTopic { topic: topic(), cluster: Some("C".into()) }),
        Request::AllTopics,
        Request::CreateGroup(Box::new(SubscriptionGroup {
            group_name: "G".to_owned(),
            ..SubscriptionGroup::default()
        })),
        Request::AllGroups,
        Request::DeleteGroup(DeleteGroup { group: group(), clean_offsets: true }),
        Request::TopicStats(TopicStats { topic: topic() }),
        Request::GroupStats(GroupStats { group: group(), topic: Some(topic()) }),
        Request::BrokerConfig,
        Request::RuntimeInfo,
        Request::RegisterBroker(RegisterBroker {
            header: RegisterBrokerHeader {
                broker_name: broker_name.into(),
                broker_addr: broker_addr.into(),
                cluster: cluster.into(),
                ha_addr: "10.0.0.1:10912".into(),
                broker_id: 0,
                timeout_ms: Some(10_000),
                enable_acting_master: Some(false),
                compressed: false,
                body_crc: Some(crc(&serde_json::to_vec(&register).unwrap()).cast_signed()),
            },
            body: Box::new(register),
        }),
        Request::UnregisterBroker(UnregisterBroker {
            broker_name: broker_name.into(),
            broker_addr: broker_addr.into(),
            cluster: cluster.into(),
            broker_id: 0,
        }),
        Request::RouteInfo(RouteInfo { topic: topic(), standard_json: Some(true) }),
        Request::ClusterInfo,
        Request::TopicList,
        Request::QueryDataVersion(QueryDataVersion {
            header: QueryDataVersionHeader {
                broker_name: broker_name.into(),
                broker_addr: broker_addr.into(),
                cluster: cluster.into(),
                broker_id: 1,
            },
            version: Some(version),
        }),
        Request::Unsupported { code: 12_345 },
    ]
}

fn wire(request: &Request<'_>, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(&mut out, 1, form, false, request);
    out
}

fn refusal(bytes: &[u8]) -> String {
    let frame = read(&cut(bytes, FRAME_MAX).unwrap().unwrap()).unwrap();
    Request::read(&frame).expect_err("refused").remark
}

#[test]
fn every_request_comes_back_in_both_forms() {
    let mut codes = Vec::new();
    for request in all() {
        for form in [Form::Json, Form::Binary] {
            let bytes = wire(&request, form);
            let frame = read(&cut(&bytes, FRAME_MAX).unwrap().unwrap()).unwrap();
            assert_eq!(frame.code, request.code());
            assert_eq!(Request::read(&frame).as_ref(), Ok(&request), "{form:?}");
        }
        codes.push(request.code());
    }
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            10, 11, 14, 15, 17, 21, 26, 28, 29, 30, 31, 32, 33, 34, 35, 38, 40, 46, 103, 104, 105, 106, 200, 201, 202,
            206, 207, 208, 215, 216, 310, 320, 322, 12_345
        ]
    );
}

#[test]
fn a_refusal_names_what_is_missing_or_wrong() {
    let with = |from: &str, to: &str, request: &Request<'_>| {
        let text = String::from_utf8(wire(request, Form::Json).split_off(8)).unwrap();
        let header_len = text.find("\"version\":479}").unwrap() + "\"version\":479}".len();
        let (header, body) = text.split_at(header_len);
        assert!(text.contains(from), "{text}");
        let (header, body) = (header.replace(from, to), body.replace(from, to));
        let total = u32::try_from(4 + header.len() + body.len()).unwrap();
        let lead = u32::try_from(header.len()).unwrap();
        refusal(&[&total.to_be_bytes()[..], &lead.to_be_bytes(), header.as_bytes(), body.as_bytes()].concat())
    };
    let requests = all();
    let find = |code: i32| requests.iter().find(|request| request.code() == code).unwrap();
    assert_eq!(with("\"b\":", "\"x\":", find(310)), r#"the header field "topic" is missing"#);
    assert_eq!(
        with("\"-1\"", "\"one\"", find(310)),
        r#"the header field "queueId" is "one", which is not a 32-bit number"#
    );
    assert!(
        with("\"clientID\":\"c\"", "\"clientID\":{}", find(34)).starts_with("the body of HEART_BEAT cannot be read: ")
    );
    assert!(
        with("\"topicName\":\"\"", "\"topicName\":\"X\"", find(103)).starts_with("crc32 not match: the header says 0x")
    );
    assert!(with("{\"counter\"", "{counter", find(322)).contains("QUERY_DATA_VERSION"));
}
