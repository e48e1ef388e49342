use super::*;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

fn compressed(version: i32) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    let mut part = |text: &str| {
        zlib.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        zlib.write_all(text.as_bytes()).unwrap();
    };
    part(r#"{"counter":3,"stateVersion":0,"timestamp":17}"#);
    // A count looks like the length of an empty part and is followed by its items.
    let count = |zlib: &mut ZlibEncoder<Vec<u8>>, count: u32| zlib.write_all(&count.to_be_bytes()).unwrap();
    count(&mut zlib, 2);
    for text in [r#"A 4 8 6 SINGLE_TAG {"message.type":"FIFO"}"#, "B 1 1 2 MULTI_TAG", r#"["f"]"#] {
        zlib.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        zlib.write_all(text.as_bytes()).unwrap();
    }
    if version >= HAS_QUEUE_MAPPINGS {
        count(&mut zlib, 1);
        count(&mut zlib, 2);
        zlib.write_all(b"{}").unwrap();
    }
    zlib.finish().unwrap()
}

#[test]
fn a_compressed_registration_is_read() {
    for version in [409, 479] {
        let body = RegisterBrokerBody::read(&compressed(version), true, version).unwrap();
        let TopicTable { data_version, topic_config_table } = body.topic_config_serialize_wrapper;
        assert_eq!(data_version, DataVersion { counter: 3, state_version: 0, timestamp: 17 });
        let topics: Vec<String> = topic_config_table
            .values()
            .map(|t| {
                format!(
                    "{} {} {} {} {} {:?}",
                    t.topic_name, t.read_queue_nums, t.write_queue_nums, t.perm, t.topic_filter_type, t.attributes
                )
            })
            .collect();
        assert_eq!(topics, [r#"A 4 8 6 SINGLE_TAG {"message.type": "FIFO"}"#, "B 1 1 2 MULTI_TAG {}"]);
        assert_eq!(body.filter_server_list, ["f"]);
    }
}

#[test]
fn a_registration_of_a_million_topics_is_refused_before_they_are_made() {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(b"\0\0\0\x02{}\x00\x0f\x42\x40").unwrap();
    let refused = RegisterBrokerBody::read(&zlib.finish().unwrap(), true, 479).unwrap_err();
    assert!(refused.contains("announces 1000000 topics; the limit is 200000"), "{refused}");
    let topics: Vec<String> = (0..=TOPICS_MAX).map(|nth| format!(r#""{nth}":{{}}"#)).collect();
    let table = format!(r#"{{"topicConfigTable":{{{}}}}}"#, topics.join(","));
    let refused = RegisterBrokerBody::read(table.as_bytes(), false, 36).unwrap_err();
    assert!(refused.contains("200001 topics; the limit is 200000"), "{refused}");
    let negative = br#"{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":{"readQueueNums":-1}}}}"#;
    let refused = RegisterBrokerBody::read(negative, false, 479).unwrap_err();
    assert!(refused.contains("`-1`"), "{refused}");
}

#[test]
fn a_registration_that_is_cut_or_blown_up_is_refused() {
    assert!(RegisterBrokerBody::read(&compressed(409), true, 479).unwrap_err().contains("inside a number"));
    assert!(RegisterBrokerBody::read(b"plain", true, 479).unwrap_err().contains("zlib"));
    let mut bomb = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..=INFLATED_MAX >> 20 {
        bomb.write_all(&[b'0'; 1 << 20]).unwrap();
    }
    assert!(RegisterBrokerBody::read(&bomb.finish().unwrap(), true, 479).unwrap_err().contains("more than"));
    assert_eq!(RegisterBrokerBody::read(b"", true, 479), Ok(RegisterBrokerBody::default()));
    let old = RegisterBrokerBody::read(br#"{"topicConfigTable":{"T":{"perm":4}}}"#, false, 36).unwrap();
    assert_eq!(old.topic_config_serialize_wrapper.topic_config_table["T"].perm, 4);
}

#[test]
fn bodies_are_read_as_java_and_others_write_them() {
    let heartbeat: Heartbeat = json::parse(
        br#"{"clientID":"c","consumerDataSet":[{"consumeType":null,"groupName":"G","subscriptionDataSet":[
            {"codeSet":["-5",2598919],"subVersion":"17","subString":"*","tagsSet":null,"topic":"T","new":{}}],"unitMode":false}],
            "producerDataSet":null,"isWithoutSub":true}"#,
    )
    .unwrap();
    let consumer = &heartbeat.consumer_data_set[0];
    let subscription = &consumer.subscription_data_set[0];
    assert_eq!((consumer.consume_type.as_deref(), heartbeat.without_sub), (None, true));
    assert_eq!((&subscription.code_set[..], subscription.sub_version), (&[-5, 2_598_919][..], 17));

    let route: RouteData =
        json::parse(br#"{"brokerDatas":[{"brokerAddrs":{0:"a:1",1:"b:2"},"brokerName":"n","cluster":"C"}]}"#).unwrap();
    assert_eq!(route.broker_datas[0].broker_addrs[&1], "b:2");
    let text = serde_json::to_string(&route).unwrap();
    assert!(text.contains(r#""brokerAddrs":{"0":"a:1","1":"b:2"}"#), "{text}");
    assert!(!text.contains(' ') && !text.contains("null"), "Go splits the text at colons and commas: {text}");
    assert!(json::parse::<Heartbeat>(br#"{"consumerDataSet":{}}"#).is_err());
    assert!(json::parse::<Subscription>(br#"{"subVersion":"x"}"#).is_err());
}

#[test]
fn keys_of_bodies_are_in_alphabetical_order() {
    fn sorted(value: &serde_json::Value, text: &str) {
        // Values are kept sorted: text that equals the value's own is sorted, too.
        assert_eq!(value.to_string(), text);
    }
    let texts = [
        serde_json::to_string(&TopicConfig::default()),
        serde_json::to_string(&SubscriptionGroup::default()),
        serde_json::to_string(&Subscription::default()),
        serde_json::to_string(&Heartbeat::default()),
        serde_json::to_string(&ConsumerData::default()),
        serde_json::to_string(&RegisterBrokerBody::default()),
        serde_json::to_string(&BrokerData::default()),
        serde_json::to_string(&QueueData::default()),
        serde_json::to_string(&RouteData::default()),
    ];
    for text in texts {
        let text = text.unwrap();
        sorted(&serde_json::from_str(&text).unwrap(), &text);
    }
}

#[test]
fn tags_pass_by_hash() {
    let filter = TagFilter::parse(" TagA||TagB || ");
    assert!(filter.passes(tag_hash("TagA")) && filter.passes(tag_hash("TagB")) && !filter.passes(0));
    for all in ["", "*", " * "] {
        assert!(TagFilter::parse(all).passes(0));
    }
}
