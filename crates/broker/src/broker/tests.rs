use crate::testing::{A, B, World, config, live, message, pull};
use crate::{BrokerConfig, LiveConfig, Task};
use keepmq_protocol::body::{ConsumerData, Heartbeat, Subscription, SubscriptionGroup};
use keepmq_protocol::header::Str;
use keepmq_protocol::message::{BatchItem, find, push_batch_item};
use keepmq_protocol::record::{Found, decode};
use keepmq_protocol::request::{
    ConsumerList, CreateTopic, DeleteGroup, DeleteTopic, EarliestTime, GroupStats, MaxOffset, QueryOffset,
    SearchOffset, Send, TopicStats, Unregister, UpdateOffset, ViewMessage,
};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{CallError, Effect, Event, Exit};
use keepmq_protocol::{LogOffset, Request, Response, ResponseCode, json};
use std::time::Duration;

mod configuration;

const SECOND: Duration = Duration::from_secs(1);

fn create_topic(topic: &str, queues: i32) -> Request<'_> {
    Request::CreateTopic(CreateTopic {
        topic: topic.into(),
        default_topic: None,
        read_queues: queues,
        write_queues: queues,
        perm: 6,
        filter_type: None,
        sys_flag: None,
        order: false,
        attributes: None,
    })
}

fn delete_topic(topic: &str) -> Request<'_> {
    Request::DeleteTopic(DeleteTopic { topic: topic.into(), cluster: None })
}

fn update(group: &str, topic: &str, queue_id: i32, offset: i64) -> Request<'static> {
    let (group, topic) = (group.to_owned().into(), topic.to_owned().into());
    Request::UpdateOffset(UpdateOffset { group, topic, queue_id, offset, if_absent: None })
}

fn query(group: &str, topic: &str, queue_id: i32) -> Request<'static> {
    let (group, topic) = (group.to_owned().into(), topic.to_owned().into());
    Request::QueryOffset(QueryOffset { group, topic, queue_id, zero_if_not_found: None })
}

fn heartbeat(client: &str, group: &str, topics: &[(&str, &str, i64)]) -> Request<'static> {
    let subscription = |(topic, expression, version): &(&str, &str, i64)| Subscription {
        topic: (*topic).into(),
        sub_string: Some((*expression).into()),
        sub_version: *version,
        ..Subscription::default()
    };
    let consumer = ConsumerData {
        group_name: group.into(),
        message_model: Some("CLUSTERING".into()),
        subscription_data_set: topics.iter().map(subscription).collect(),
        ..ConsumerData::default()
    };
    Request::Heartbeat(Box::new(Heartbeat {
        client_id: client.into(),
        consumer_data_set: vec![consumer],
        ..Heartbeat::default()
    }))
}

fn at_of(sent: &Response) -> i64 {
    let id = sent.field::<Str<'_>>("msgId").unwrap();
    i64::from_str_radix(&id[16..32], 16).unwrap()
}

/// Code, offset field (or next offset of a pull) and bodies of the records.
fn told(response: &Response) -> String {
    let next = response.field::<i64>("offset").or_else(|_| response.field("nextBeginOffset"));
    let next = next.map_or_else(|_| "-".to_owned(), |next| next.to_string());
    format!("{} {next} {}", response.code, bodies(response).join(","))
}

fn bodies(response: &Response) -> Vec<String> {
    let bytes = response.body.concat();
    let mut rest = &bytes[..];
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        let at = LogOffset(u64::from_be_bytes(*rest[28..].first_chunk().unwrap()));
        let Ok(Found::Record(record)) = decode(rest, at) else { panic!("no record at {at}") };
        bodies.push(String::from_utf8(record.body.to_vec()).unwrap());
        rest = &rest[record.bytes.len()..];
    }
    bodies
}

fn json_of(response: &Response) -> serde_json::Value {
    json::read(&response.body.concat()).unwrap()
}

fn pushes(world: &mut World) -> Vec<u64> {
    let (pushed, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut world.effects).into_iter().partition(|effect| matches!(effect, Effect::Push { .. }));
    world.effects = others;
    let conn = |effect: Effect<Task>| match effect {
        Effect::Push { conn, .. } => conn.0,
        other => panic!("{other:?}"),
    };
    pushed.into_iter().map(conn).collect()
}

#[test]
fn a_message_is_acknowledged_when_it_is_kept_and_seen_only_then() {
    let mut world = World::new(config());
    world.hold = true;
    let sent = world.send(A, Request::Send(message("T", 1, "TAGS\u{1}t\u{2}", b"hello")));
    assert_eq!(world.answer(sent), None);
    let early = world.send(B, Request::Pull(pull("T", 1, 0, "*")));
    assert_eq!(world.answer(early), None, "nothing is kept, so the pull waits");
    world.flush();
    let ok = world.answer(sent).expect("kept");
    assert!(ok.is_ok());
    assert_eq!((ok.field("queueId"), ok.field("queueOffset")), (Ok(1), Ok(0)));
    assert_eq!(told(&world.answer(early).expect("woken")), "0 1 hello");

    let at = at_of(&ok);
    let view = Request::ViewMessage(ViewMessage { topic: None, offset: at });
    let found = world.ask(B, view);
    assert_eq!(bodies(&found), ["hello"]);
    let Ok(Found::Record(record)) = decode(&found.body[0], LogOffset(at.cast_unsigned())) else { panic!() };
    let property = |name| find(record.properties, name);
    assert_eq!(property("CLUSTER"), Some("DefaultCluster"));
    assert_eq!(property("TAGS"), Some("t"));
    let key = property("UNIQ_KEY").unwrap();
    assert_eq!(ok.field("transactionId"), Ok(Str::from(key)));
    assert_eq!((key.len(), record.born_host.to_string()), (32, "10.0.0.1:50000".to_owned()));

    // The topic's own record lies in front of it, and is nobody's business.
    let own = world.ask(B, Request::ViewMessage(ViewMessage { topic: None, offset: 0 }));
    assert_eq!((own.code, own.body.len()), (1, 0));
}

#[test]
fn what_is_not_on_disk_in_time_is_unknown_and_answered_once() {
    let mut world = World::new(config());
    world.hold = true;
    let sent = world.send(A, Request::Send(message("T", 0, "", b"late")));
    world.pass(5 * SECOND);
    let unknown = world.answer(sent).expect("after syncFlushTimeout");
    assert_eq!((unknown.code, unknown.field("queueOffset")), (10, Ok(0)));
    world.flush();
    assert_eq!(world.answer(sent), None);
    assert_eq!(told(&world.ask(B, Request::Pull(pull("T", 0, 0, "*")))), "0 1 late");
}

#[test]
fn bad_messages_are_refused_with_rocketmqs_codes_and_leave_nothing() {
    let mut world = World::new(BrokerConfig { max_topics: 1, ..config() });
    let long = format!("k\u{1}{}\u{2}", "v".repeat(32_700));
    let big = vec![0; 4097];
    let with = |change: &dyn Fn(&mut Send<'_>)| {
        let mut send = message("T", 0, "", b"x");
        change(&mut send);
        send
    };
    for (what, send, code) in [
        ("name", message("a/b", 0, "", b"x"), 29),
        ("own topic", message("rmq_sys_keepmq_meta", 0, "", b"x"), 16),
        ("system topic", message("SCHEDULE_TOPIC_XXXX", 0, "", b"x"), 16),
        ("queue", message("T", 4, "", b"x"), 29),
        ("empty", message("T", 0, "", b""), 13),
        ("large", message("T", 0, "", &big), 13),
        ("properties", message("T", 0, &long, b"x"), 13),
        ("delay", message("T", 0, "DELAY\u{1}3\u{2}", b"x"), 13),
        ("timer", message("T", 0, "TIMER_DELAY_SEC\u{1}3\u{2}", b"x"), 13),
        ("half", message("T", 0, "TRAN_MSG\u{1}true\u{2}", b"x"), 16),
        ("inner batch", message("T", 0, "INNER_NUM\u{1}3\u{2}", b"x"), 13),
        ("prepared", with(&|send| send.header.sys_flag = 4), 16),
        ("no default topic", with(&|send| send.header.default_topic = "none".into()), 17),
        ("retry topic of no group", message("%RETRY%a/b", 0, "", b"x"), 29),
        ("batch", with(&|send| send.header.batch = true), 13),
    ] {
        let refused = world.ask(A, Request::Send(send));
        assert_eq!(refused.code, code, "{what}: {refused:?}");
        assert!(refused.remark.is_some_and(|text| text.len() > 10), "{what}");
    }
    assert_eq!(world.broker.store().appended(), LogOffset(0), "nothing was appended, no topic made");
    assert!(world.ask(A, Request::Send(message("T", 0, "DELAY\u{1}0\u{2}", b"x"))).is_ok());
    let one_too_many = world.ask(A, Request::Send(message("U", 0, "", b"x")));
    assert_eq!(one_too_many.code, 17, "{one_too_many:?}");
}

#[test]
fn what_the_broker_adds_is_there_once_and_a_relaxed_wait_must_be_allowed() {
    let mut world = World::new(BrokerConfig { allow_client_relax: true, ..config() });
    let sent = "MSG_REGION\u{1}x\u{2}UNIQ_KEY\u{1}k\u{2}CLUSTER\u{1}y\u{2}__BATCHN#\u{1}9\u{2}a\u{1}b";
    let ok = world.ask(A, Request::Send(message("T", -1, sent, b"x")));
    let queue_id = ok.field::<i32>("queueId").unwrap();
    assert!((0..4).contains(&queue_id), "any queue of the four");
    let pulled = world.ask(B, Request::Pull(pull("T", queue_id, 0, "*")));
    let bytes = pulled.body.concat();
    let Ok(Found::Record(record)) = decode(&bytes, LogOffset(at_of(&ok).cast_unsigned())) else { panic!() };
    let properties = record.properties.replace(['\u{1}', '\u{2}'], " ");
    let (before_crc, _) = properties.split_once("__CRC32#").unwrap();
    assert_eq!(before_crc, "UNIQ_KEY k a b MSG_REGION DefaultRegion TRACE_ON true CLUSTER DefaultCluster ");

    world.hold = true;
    assert!(world.ask(A, Request::Send(message("T", 0, "WAIT\u{1}false\u{2}", b"x"))).is_ok());
    world.oneway(A, Request::Send(message("T", 0, "", b"y")));
    let waits = world.send(A, Request::Send(message("T", 0, "", b"z")));
    assert_eq!(world.answer(waits), None);
    world.flush();
    assert!(
        world.answer(waits).is_some_and(|response| response.field("queueOffset") == Ok(2 + i64::from(queue_id == 0)))
    );
    assert!(world.replies.is_empty(), "oneway is answered never");
}

#[test]
fn a_batch_is_stored_message_by_message() {
    let mut world = World::new(config());
    let mut body = Vec::new();
    for text in ["one", "two", "three"] {
        let properties = format!("UNIQ_KEY\u{1}{text}\u{2}POP_CK\u{1}x\u{2}");
        push_batch_item(&mut body, &BatchItem { flag: 1, body: text.as_bytes(), properties: &properties });
    }
    let mut batch = message("T", 0, "", &body);
    batch.header.batch = true;
    let ok = world.ask(A, Request::Send(batch));
    assert!(ok.is_ok(), "{ok:?}");
    let ids = ok.field::<Str<'_>>("msgId").unwrap();
    assert_eq!((ids.split(',').count(), ok.field("queueOffset")), (3, Ok(0)));
    assert_eq!(ok.field("transactionId"), Ok(Str::from("one")));
    let pulled = world.ask(B, Request::Pull(pull("T", 0, 1, "*")));
    assert_eq!(told(&pulled), "0 3 two,three");
    assert!(!String::from_utf8_lossy(&pulled.body.concat()).contains("POP_CK"));
}

#[test]
fn pulls_wait_for_what_passes_their_filter() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 1));
    let patient = world.send(B, Request::Pull(pull("T", 0, 0, "red")));
    world.ask(A, Request::Send(message("T", 0, "TAGS\u{1}blue\u{2}", b"1")));
    assert_eq!(world.answer(patient), None, "a blue one wakes nobody who wants red");
    world.ask(A, Request::Send(message("T", 0, "TAGS\u{1}red\u{2}", b"2")));
    assert_eq!(told(&world.answer(patient).expect("woken")), "0 2 2");

    let [first, second, third] = [(); 3].map(|()| world.send(B, Request::Pull(pull("T", 0, 2, "red"))));
    assert_eq!(told(&world.answer(third).expect("too many wait")), "19 2 ");
    world.pass(14 * SECOND);
    assert_eq!(world.answer(first), None);
    world.ask(A, Request::Send(message("T", 0, "", b"3")));
    world.pass(SECOND);
    for waited in [first, second] {
        assert_eq!(told(&world.answer(waited).expect("its time is over")), "19 3 ");
    }

    let filtered = world.ask(B, Request::Pull(pull("T", 0, 2, "red")));
    assert_eq!(told(&filtered), "20 3 ");
    for (offset, expected) in [(9, "21 3 "), (-1, "21 0 "), (0, "0 3 1,2,3")] {
        assert_eq!(told(&world.ask(B, Request::Pull(pull("T", 0, offset, "*")))), expected);
    }
    let gone = world.send(B, Request::Pull(pull("T", 0, 3, "*")));
    world.event(Event::Closed { conn: B });
    world.ask(A, Request::Send(message("T", 0, "", b"4")));
    assert_eq!(world.answer(gone), None);
}

#[test]
fn pulls_are_refused_in_rocketmqs_order() {
    let mut world = World::new(BrokerConfig { live: LiveConfig { auto_create_group: false, ..live() }, ..config() });
    let ask = |world: &mut World, change: &dyn Fn(&mut keepmq_protocol::request::Pull<'static>)| {
        let mut request = pull("T", 0, 0, "*");
        change(&mut request);
        world.ask(A, Request::Pull(request)).code
    };
    assert_eq!(ask(&mut world, &|_| ()), 26);
    assert_eq!(world.ask(A, Request::Send(message("%RETRY%none", 0, "", b"x"))).code, 26);
    let mut group = SubscriptionGroup { group_name: "G".into(), consume_enable: false, ..SubscriptionGroup::default() };
    world.ask(A, Request::CreateGroup(Box::new(group.clone())));
    assert_eq!(ask(&mut world, &|_| ()), 16);
    group.consume_enable = true;
    world.ask(A, Request::CreateGroup(Box::new(group)));
    assert_eq!(ask(&mut world, &|_| ()), 17);
    world.ask(A, create_topic("T", 1));
    assert_eq!(ask(&mut world, &|pull| pull.queue_id = 1), 29);
    assert_eq!(ask(&mut world, &|pull| pull.subscription = Some("||".into())), 23);
    assert_eq!(ask(&mut world, &|pull| pull.expression_type = Some("SQL92".into())), 1);
    assert_eq!(ask(&mut world, &|pull| pull.topic = "rmq_sys_keepmq_meta".into()), 17);
    assert_eq!(ask(&mut world, &|pull| pull.sys_flag = 0), 24);
    world.ask(A, heartbeat("c", "G", &[("U", "*", 1)]));
    assert_eq!(ask(&mut world, &|pull| pull.sys_flag = 0), 24);
    world.ask(A, heartbeat("c", "G", &[("T", "*", 2)]));
    assert_eq!(ask(&mut world, &|pull| (pull.sys_flag, pull.sub_version) = (0, 3)), 25);
    assert_eq!(ask(&mut world, &|pull| (pull.sys_flag, pull.sub_version) = (0, 2)), 19);
}

#[test]
fn offsets_are_gathered_confirmed_and_never_shown_before_they_are_kept() {
    let mut world = World::new(config());
    for _ in 0..3 {
        world.ask(A, Request::Send(message("T", 0, "", b"x")));
    }
    assert_eq!(told(&world.ask(A, query("new", "T", 0))), "0 0 ", "a queue that lost nothing is read from its start");
    assert_eq!(told(&world.ask(A, query("new", "T", 3))), "0 0 ", "an empty one, too");
    assert_eq!(world.ask(A, query("new", "none", 0)).code, 22);
    for (request, code) in [
        (update("G", "none", 0, 0), 17),
        (update("a/b", "T", 0, 0), 26),
        (update("G", "T", 0, -1), 29),
        (update("G", "T", 0, 4), 29),
        (update("G", "T", 4, 0), 29),
    ] {
        assert_eq!(world.ask(A, request).code, code);
    }
    let before = world.broker.store().appended();
    world.oneway(A, update("G", "T", 0, 1));
    world.oneway(A, update("G", "T", 0, 2));
    assert_eq!(world.answer(0), None);
    world.hold = true;
    // Whoever takes the queue over sees the last commit, once it is kept.
    let asked = world.send(B, query("G", "T", 0));
    assert_eq!(world.answer(asked), None);
    world.flush();
    assert_eq!(told(&world.answer(asked).expect("kept")), "0 2 ");
    let after = world.broker.store().appended();
    assert!(after > before);
    world.oneway(A, update("G", "T", 0, 2));
    world.pass(SECOND);
    assert_eq!(world.broker.store().appended(), after, "an equal one is dropped");

    world.oneway(A, update("G", "T", 0, 3));
    assert!(world.ask(A, update("G", "T", 0, 1)).is_ok(), "a lower one only repeats");
    world.pass(SECOND);
    assert_eq!(told(&world.ask(B, query("G", "T", 0))), "0 1 ", "and is not overtaken by what came before it");

    let mut pulling = pull("T", 0, 3, "*");
    (pulling.sys_flag, pulling.commit_offset) = (0b101, 3);
    world.ask(A, Request::Pull(pulling));
    world.pass(SECOND);
    assert_eq!(told(&world.ask(B, query("G", "T", 0))), "0 3 ");

    // What was gathered for a topic does not come back with a new one of that name.
    world.oneway(A, update("G", "T", 0, 1));
    world.ask(A, Request::DeleteTopic(DeleteTopic { topic: "T".into(), cluster: None }));
    world.ask(A, create_topic("T", 4));
    world.ask(A, Request::Send(message("T", 0, "", b"new")));
    world.pass(SECOND);
    assert_ne!(told(&world.ask(B, query("G", "T", 0))), "0 1 ");
}

#[test]
fn of_two_beginnings_that_members_keep_the_first_holds() {
    let mut world = World::new(config());
    for _ in 0..3 {
        world.ask(A, Request::Send(message("T", 0, "", b"x")));
    }
    let begin = |group: &str, offset| match update(group, "T", 0, offset) {
        Request::UpdateOffset(update) => Request::UpdateOffset(UpdateOffset { if_absent: Some(true), ..update }),
        other => other,
    };
    world.hold = true;
    let first = world.send(A, begin("G", 2));
    let second = world.send(B, begin("G", 3));
    assert_eq!((world.answer(first), world.answer(second)), (None, None), "the first is not kept yet");
    world.flush();
    world.hold = false;
    assert!(world.answer(first).is_some_and(|response| response.is_ok()));
    assert!(world.answer(second).is_some_and(|response| response.is_ok()), "it may ask what holds");
    assert_eq!(told(&world.ask(B, query("G", "T", 0))), "0 2 ");
    world.ask(A, update("G", "T", 0, 3));
    assert!(world.ask(B, begin("G", 1)).is_ok());
    assert_eq!(told(&world.ask(B, query("G", "T", 0))), "0 3 ", "one that is late takes nothing back");
    world.oneway(A, update("H", "T", 0, 1));
    world.ask(B, begin("H", 3));
    assert_eq!(told(&world.ask(B, query("H", "T", 0))), "0 1 ", "what is gathered counts");
    assert_eq!(world.ask(B, begin("G", 4)).code, 29, "an offset must be one");
}

#[test]
fn members_are_listed_and_told_of_each_other() {
    let mut world = World::new(config());
    let list = || Request::ConsumerList(ConsumerList { group: "G".into() });
    assert_eq!(world.ask(A, list()).code, 1);
    let beat = world.ask(A, heartbeat("c1", "G", &[("T", "*", 1)]));
    assert_eq!((beat.code, beat.field("IS_SUPPORT_HEART_BEAT_V2")), (0, Ok(false)));
    assert_eq!(pushes(&mut world), [1]);
    world.ask(A, heartbeat("c1", "G", &[("T", "*", 2)]));
    assert!(pushes(&mut world).is_empty(), "nothing that matters to others has changed");
    world.ask(B, heartbeat("c2", "G", &[("T", "*", 1)]));
    assert!(pushes(&mut world).is_empty(), "a second change in 100 ms is told when they are over");
    world.pass(SECOND);
    assert_eq!(pushes(&mut world), [1, 2]);
    assert_eq!(json_of(&world.ask(A, list())), serde_json::json!({ "consumerIdList": ["c1", "c2"] }));
    assert_eq!(told(&world.ask(A, query("G", "%RETRY%G", 0))), "0 0 ", "the retry topic is there");
    let leave = Unregister { client_id: "c2".into(), producer_group: None, consumer_group: Some("G".into()) };
    world.ask(B, Request::Unregister(leave));
    assert_eq!(pushes(&mut world), [1]);
    world.ask(B, heartbeat("c2", "G", &[("T", "*", 1)]));
    world.pass(SECOND);
    pushes(&mut world);
    world.event(Event::Closed { conn: B });
    assert_eq!(pushes(&mut world), [1]);
    world.pass(130 * SECOND);
    assert!(matches!(world.effects.as_slice(), [Effect::Close { conn: A }]), "{:?}", world.effects);
    assert_eq!(world.ask(A, list()).code, 1);
}

#[test]
fn tables_survive_a_kill_and_a_clean_stop() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 3));
    world.ask(A, create_topic("gone", 3));
    world.ask(A, Request::Send(message("T", 2, "", b"x")));
    world.ask(A, Request::Send(message("gone", 2, "", b"x")));
    world.ask(A, update("G", "T", 2, 1));
    world.ask(A, update("G", "gone", 2, 1));
    world.ask(A, delete_topic("gone"));
    let group = SubscriptionGroup { group_name: "H".into(), retry_max_times: 3, ..SubscriptionGroup::default() };
    world.ask(A, Request::CreateGroup(Box::new(group)));
    world.ask(A, Request::DeleteGroup(DeleteGroup { group: "none".into(), clean_offsets: true }));
    let check = |world: &mut World| {
        let topics = json_of(&world.ask(A, Request::AllTopics));
        assert_eq!(topics["topicConfigTable"]["T"]["readQueueNums"], 3);
        assert!(topics["topicConfigTable"]["gone"].is_null());
        let groups = json_of(&world.ask(A, Request::AllGroups));
        assert_eq!(groups["subscriptionGroupTable"]["H"]["retryMaxTimes"], 3);
        assert_eq!(told(&world.ask(A, query("G", "T", 2))), "0 1 ");
        assert_eq!(told(&world.ask(A, query("G", "gone", 2))), "22 - ");
    };
    check(&mut world);
    let mut killed = World::over(world.disk.copy(), config());
    check(&mut killed);

    let waiting = killed.send(B, Request::Pull(pull("T", 0, 0, "*")));
    killed.oneway(A, update("H", "T", 2, 1));
    killed.event(Event::Stop);
    assert_eq!(told(&killed.answer(waiting).expect("let go")), "19 0 ");
    assert!(matches!(killed.effects.as_slice(), [Effect::Exit(Exit::Clean)]), "{:?}", killed.effects);
    let topics = killed.disk.read("config/topics.json").expect("the export for Java");
    let topics = json::read(topics.as_bytes()).unwrap();
    let names: Vec<&String> = topics["topicConfigTable"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["T"], "Java makes its system topics by itself");
    let offsets = killed.disk.read("config/consumerOffset.json").unwrap();
    assert_eq!(json::read(offsets.as_bytes()).unwrap()["offsetTable"]["T@H"]["2"], 1);

    let mut stopped = World::over(killed.disk.copy(), config());
    check(&mut stopped);
    assert_eq!(told(&stopped.ask(A, query("H", "T", 2))), "0 1 ");
    assert_eq!(told(&stopped.ask(B, Request::Pull(pull("T", 2, 0, "*")))), "0 1 x");
}

#[test]
fn a_failed_sync_makes_everything_unknown_and_ends_the_broker() {
    let mut world = World::new(BrokerConfig { name_servers: vec!["ns:9876".into()], ..config() });
    world.ask(A, create_topic("T", 1));
    world.calls();
    world.hold = true;
    let sent = world.send(A, Request::Send(message("T", 0, "", b"x")));
    let waiting = world.send(B, Request::Pull(pull("T", 0, 0, "*")));
    world.disk.break_down();
    world.flush();
    let unknown = world.answer(sent).expect("answered at once");
    assert_eq!((unknown.code, unknown.field("queueOffset")), (10, Ok(0)));
    assert!(unknown.remark.unwrap().contains("unknown"));
    assert_eq!(world.answer(waiting).expect("answered").code, 14);
    assert_eq!(world.ask(A, Request::Send(message("T", 0, "", b"y"))).code, 14);
    let (farewell, ..) = match world.calls().as_slice() {
        [(call, _, Request::UnregisterBroker(_))] => (*call, ()),
        other => panic!("{other:?}"),
    };
    assert!(world.effects.iter().all(|effect| matches!(effect, Effect::Close { .. })), "{:?}", world.effects);
    world.answered(farewell, Ok(Response::ok()));
    let Some(Effect::Exit(Exit::Disk(why))) = world.effects.last() else { panic!("{:?}", world.effects) };
    assert!(why.contains("the disk is broken"), "{why}");
    world.pass(10 * SECOND);
}

/// A route as name servers answer with it.
fn leads_to(broker: &str) -> Response {
    let queues = format!(
        r#"{{"brokerDatas":[],"filterServerTable":{{}},"queueDatas":[{{"brokerName":"{broker}","perm":6,"readQueueNums":1,"topicSysFlag":0,"writeQueueNums":1}}]}}"#
    );
    Response::ok().with_body(queues)
}

#[test]
fn a_large_table_is_told_in_pieces_and_then_only_asked_after() {
    let config = BrokerConfig { name_servers: vec!["ns:9876".into()], max_topics: 10_000, ..config() };
    let mut before = World::new(BrokerConfig { name_servers: Vec::new(), ..config.clone() });
    for number in 0..5_000 {
        before.ask(A, create_topic(&format!("T{number}"), 1));
    }
    let mut world = World::over(before.disk.copy(), config);
    let mut told = std::collections::BTreeSet::new();
    let mut versions = Vec::new();
    for _ in 0..2 {
        let [(call, _, Request::RegisterBroker(register))] = &world.calls()[..] else { panic!() };
        let table = &register.body.topic_config_serialize_wrapper;
        told.extend(table.topic_config_table.keys().cloned());
        versions.push(table.data_version);
        assert!(!world.broker.is_registered());
        world.answered(*call, Ok(Response::ok()));
    }
    assert!(world.broker.is_registered());
    assert!((0..5_000).all(|number| told.contains(&format!("T{number}"))));
    assert!(versions[0].counter < 0 && versions[1].counter > 0, "a part is not taken for the whole: {versions:?}");

    world.pass(30 * SECOND);
    let [(call, _, Request::QueryDataVersion(query))] = &world.calls()[..] else { panic!() };
    assert_eq!(query.version, Some(versions[1]));
    let changed = |changed: &str| {
        Response::ok().with_header(ResponseHeader::Fields(vec![("changed".into(), changed.to_owned())]))
    };
    world.answered(*call, Ok(changed("false")));
    assert!(world.calls().is_empty());
    world.pass(30 * SECOND);
    let [(call, ..)] = &world.calls()[..] else { panic!() };
    world.answered(*call, Ok(changed("true")));
    let [(_, _, Request::RegisterBroker(_))] = &world.calls()[..] else { panic!("it is told all again") };
}

#[test]
fn name_servers_are_told_at_the_start_after_changes_and_again_after_failures() {
    let lost = || Err(CallError::Unreachable { peer: "ns:9876".into(), why: "refused".into() });
    let mut world = World::new(BrokerConfig { name_servers: vec!["ns:9876".into()], ..config() });
    let topics = |request: &Request<'_>| match request {
        Request::RegisterBroker(register) => {
            register.body.topic_config_serialize_wrapper.topic_config_table.keys().cloned().collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let [(first, _, request)] = &world.calls()[..] else { panic!() };
    assert!(topics(request).contains(&"TBW102".to_owned()));
    assert!(!world.broker.is_registered());
    world.answered(*first, lost());
    assert!(world.calls().is_empty());
    world.pass(SECOND);
    let [(second, ..)] = &world.calls()[..] else { panic!() };
    world.answered(*second, Ok(Response::ok()));
    assert!(world.broker.is_registered());

    world.hold = true;
    world.send(A, create_topic("T", 1));
    world.event(Event::Tick);
    assert!(world.calls().is_empty(), "the topic is not kept yet");
    world.flush();
    let [(third, _, request)] = &world.calls()[..] else { panic!() };
    assert_eq!(topics(request), ["T"], "what has changed, not all");
    world.ask(A, create_topic("U", 1));
    world.ask(A, create_topic("V", 1));
    assert!(world.calls().is_empty(), "one at a time");
    world.answered(*third, Ok(Response::ok()));
    // Does it know what it was told before?
    let [(probe, _, Request::RouteInfo(route))] = &world.calls()[..] else { panic!() };
    assert_eq!(route.topic, "SELF_TEST_TOPIC");
    world.answered(*probe, Ok(leads_to("broker-a")));
    world.pass(SECOND);
    let [(fourth, _, request)] = &world.calls()[..] else { panic!() };
    assert_eq!(topics(request), ["U", "V"], "gathered");
    world.answered(*fourth, Ok(Response::ok()));
    let [(probe, ..)] = &world.calls()[..] else { panic!() };
    world.answered(*probe, Ok(Response::refuse(ResponseCode::TopicNotExist, "it has been restarted")));
    let [(fifth, _, request)] = &world.calls()[..] else { panic!() };
    assert!(["T", "V", "TBW102"].iter().all(|topic| topics(request).contains(&(*topic).to_owned())));
    world.answered(*fifth, Ok(Response::ok()));
    assert!(world.broker.is_registered());
    world.pass(29 * SECOND);
    assert!(world.calls().is_empty());
    world.pass(SECOND);
    let [(fifth, ..)] = &world.calls()[..] else { panic!() };
    world.answered(*fifth, Ok(Response::ok()));

    world.event(Event::Stop);
    assert!(matches!(world.calls()[..], [(_, _, Request::UnregisterBroker(_))]));
    assert_eq!(world.ask(A, Request::Send(message("T", 0, "", b"x"))).code, 14);
    assert!(world.effects.is_empty());
    world.event(Event::Stop);
    assert!(matches!(world.effects[..], [Effect::Exit(Exit::Clean)]), "a second stop does not wait for name servers");
}

#[test]
fn operators_get_what_their_tools_read() {
    let mut world = World::new(config());
    for (request, code) in [
        (create_topic("TBW102", 1), 29),
        (create_topic("rmq_sys_keepmq_x", 1), 29),
        (create_topic("a b", 1), 29),
        (create_topic("T", -1), 29),
        (delete_topic("SELF_TEST_TOPIC"), 29),
        (delete_topic("none"), 0),
        (create_topic("T", 2), 0),
        (create_topic("T", 2), 0),
        (Request::Unsupported { code: 36 }, 3),
        (Request::ClusterInfo, 3),
    ] {
        assert_eq!(world.ask(A, request).code, code);
    }
    world.ask(A, Request::Send(message("T", 1, "", b"x")));
    let sent_at = world.now.wall.0;
    world.ask(A, update("G", "T", 1, 1));
    let queue = |id| serde_json::json!({ "brokerName": "broker-a", "queueId": id, "topic": "T" }).to_string();
    let stats = json_of(&world.ask(A, Request::TopicStats(TopicStats { topic: "T".into() })));
    assert_eq!(stats["offsetTable"][queue(1)]["maxOffset"], 1);
    assert_eq!(stats["offsetTable"][queue(1)]["lastUpdateTimestamp"], sent_at);
    assert_eq!(stats["offsetTable"][queue(0)]["maxOffset"], 0);
    let stats = json_of(&world.ask(A, Request::GroupStats(GroupStats { group: "G".into(), topic: None })));
    assert_eq!(stats["offsetTable"].as_object().unwrap().len(), 2);
    assert_eq!(stats["offsetTable"][queue(1)]["consumerOffset"], 1);
    assert_eq!(stats["offsetTable"][queue(1)]["lastTimestamp"], sent_at);
    let topics = json_of(&world.ask(A, Request::AllTopics));
    assert!(topics["topicConfigTable"].as_object().unwrap().keys().all(|topic| !topic.starts_with("rmq_sys_keepmq")));
    let runtime = json_of(&world.ask(A, Request::RuntimeInfo));
    assert_eq!(runtime["table"]["msgPutTotalTodayNow"], "1");
    assert_eq!(runtime["table"]["commitLogDiskRatio"], "-1.0", "nobody has told the free space yet");
    world.event(Event::Space { free: 250 });
    let runtime = json_of(&world.ask(A, Request::RuntimeInfo));
    assert_eq!(runtime["table"]["commitLogDiskRatio"], "0.7500");
    assert_eq!(runtime["table"]["keepmqSendsKept"], "1");
    assert_eq!(world.ask(A, Request::BrokerConfig).body.concat(), b"brokerName=broker-a\n");

    let max = |topic: &'static str| Request::MaxOffset(MaxOffset { topic: topic.into(), queue_id: 0, committed: None });
    assert_eq!(told(&world.ask(A, max("rmq_sys_keepmq_meta"))), "0 0 ");
    let search = |queue_id, timestamp| {
        Request::SearchOffset(SearchOffset { topic: "T".into(), queue_id, timestamp, boundary: None })
    };
    assert_eq!(told(&world.ask(A, search(1, sent_at))), "0 0 ");
    assert_eq!(told(&world.ask(A, search(1, sent_at + 1))), "0 1 ");
    assert_eq!(told(&world.ask(A, search(0, sent_at))), "0 0 ");
    let earliest = |queue_id| Request::EarliestTime(EarliestTime { topic: "T".into(), queue_id });
    assert_eq!(world.ask(A, earliest(1)).field("timestamp"), Ok(sent_at));
    assert_eq!(world.ask(A, earliest(0)).field("timestamp"), Ok(-1));

    let waiting = world.send(B, Request::Pull(pull("T", 1, 1, "*")));
    world.ask(A, delete_topic("T"));
    assert_eq!(world.answer(waiting).expect("nobody waits for a topic that is gone").code, 17);
    world.ask(A, create_topic("T", 2));
    assert_eq!(told(&world.ask(A, query("G", "T", 1))), "0 1 ", "the queue goes on where it was, its offsets are gone");
    world.pass(6 * SECOND);
    assert!(world.disk.read("config/subscriptionGroup.json").unwrap().contains("\"G\""));
}

mod groups;
mod overload;
mod retention;
