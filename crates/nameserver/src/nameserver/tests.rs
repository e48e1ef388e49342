mod configuration;
mod kv;

use super::*;
use keepmq_protocol::body::{DataVersion, RegisterBrokerBody, TopicConfig};
use keepmq_protocol::frame::{Form, Language};
use keepmq_protocol::request::{
    BrokerMembers, ClusterTopics, DeleteTopic, OneBroker, QueryDataVersionHeader, RegisterBrokerHeader,
};
use keepmq_world::Timestamp;

/// A name server and what a story does with it. Connections are numbers; a story opens them before it uses them.
struct Story {
    server: NameServer,
    seconds: u64,
    opaque: i32,
    /// What brokers that register ask for.
    timeout_ms: Option<i64>,
}

const CONFIG: NameServerConfig = NameServerConfig {
    broker_timeout: Duration::from_secs(120),
    max_brokers: 3,
    max_topics: 4,
    live: LiveConfig {
        scan_every: Duration::from_secs(5),
        order_in_routes: true,
        order_to_brokers: true,
        shown: Vec::new(),
    },
};

fn story() -> Story {
    Story { server: NameServer::new(CONFIG, KvConfig::default(), 7), seconds: 100, opaque: 0, timeout_ms: None }
}

impl Story {
    fn now(&self) -> Now {
        Now { mono: Mono(self.seconds * 1_000_000_000), wall: Timestamp(0) }
    }

    fn event(&mut self, event: Event<'_, Done>) -> Vec<Effect<Task>> {
        let now = self.now();
        self.server.handle(event, now);
        std::iter::from_fn(|| self.server.poll_effect()).collect()
    }

    fn open(&mut self, conn: u64) {
        let peer = "10.0.0.9:4000".parse().unwrap();
        assert!(self.event(Event::Opened { conn: Conn(conn), peer }).is_empty());
    }

    fn close(&mut self, conn: u64) {
        assert!(self.event(Event::Closed { conn: Conn(conn) }).is_empty());
    }

    fn ask(&mut self, conn: u64, request: Request<'_>) -> Response {
        let from = self.caller(conn);
        let mut effects = self.event(Event::Request { from, request });
        match (effects.pop(), effects.is_empty()) {
            (Some(Effect::Reply { to, response }), true) if to == from => response,
            other => panic!("one reply to the one who asked, not {other:?}"),
        }
    }

    fn caller(&mut self, conn: u64) -> Caller {
        self.opaque += 1;
        Caller {
            conn: Conn(conn),
            opaque: self.opaque,
            form: Form::Json,
            oneway: false,
            version: 479,
            language: Language::Java,
        }
    }

    /// Registers broker `name`, id 0, at `addr` with these topics, and answers the remark of a refusal.
    fn register(&mut self, conn: u64, name: &str, addr: &str, topics: &str) -> String {
        self.register_as(conn, name, 0, addr, 0, topics).remark.unwrap_or_default().into_owned()
    }

    fn register_as(&mut self, conn: u64, name: &str, id: i64, addr: &str, epoch: i64, topics: &str) -> Response {
        self.register_topics(conn, (name, id, addr), version(epoch), topics, &TopicConfig::default())
    }

    fn register_topics(
        &mut self,
        conn: u64,
        (name, id, addr): (&str, i64, &str),
        version: DataVersion,
        topics: &str,
        like: &TopicConfig,
    ) -> Response {
        let mut body = RegisterBrokerBody::default();
        body.topic_config_serialize_wrapper.data_version = version;
        for topic in topics.split_whitespace() {
            let config = TopicConfig { topic_name: topic.to_owned(), ..like.clone() };
            body.topic_config_serialize_wrapper.topic_config_table.insert(topic.to_owned(), config);
        }
        let header = RegisterBrokerHeader {
            broker_name: name.into(),
            broker_addr: addr.into(),
            cluster: "C".into(),
            ha_addr: "h:10912".into(),
            broker_id: id,
            timeout_ms: self.timeout_ms,
            enable_acting_master: Some(true),
            compressed: false,
            body_crc: None,
        };
        self.ask(conn, Request::RegisterBroker(RegisterBroker { header, body: Box::new(body) }))
    }

    fn unregister(&mut self, conn: u64, name: &str, addr: &str) {
        let request =
            UnregisterBroker { broker_name: name.into(), broker_addr: addr.into(), cluster: "C".into(), broker_id: 0 };
        assert!(self.ask(conn, Request::UnregisterBroker(request)).is_ok());
    }

    /// What a client sees of a topic: `addresses queues×perm` of every broker.
    fn route(&mut self, topic: &str) -> String {
        self.open(999);
        let response = self.ask(999, Request::RouteInfo(RouteInfo { topic: topic.into(), standard_json: None }));
        self.close(999);
        if !response.is_ok() {
            return response.code.to_string();
        }
        let route: keepmq_protocol::body::RouteData = serde_json::from_slice(&response.body[0]).unwrap();
        let one = |(broker, queues): (&keepmq_protocol::body::BrokerData, &keepmq_protocol::body::QueueData)| {
            assert_eq!(broker.broker_name, queues.broker_name);
            let addrs: Vec<_> = broker.broker_addrs.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
            format!("{} {}x{}", addrs.join(","), queues.write_queue_nums, queues.perm)
        };
        route.broker_datas.iter().zip(&route.queue_datas).map(one).collect::<Vec<_>>().join(" | ")
    }

    /// Lets time pass, with a tick at every deadline as a driver would; answers the connections that were closed.
    fn pass(&mut self, seconds: u64) -> Vec<u64> {
        let end = self.seconds + seconds;
        let mut closed = Vec::new();
        while let Some(Mono(next)) = self.server.deadline().filter(|next| next.0 <= end * 1_000_000_000) {
            assert!(next > self.now().mono.0, "a deadline lies ahead");
            self.seconds = next / 1_000_000_000;
            for effect in self.event(Event::Tick) {
                match effect {
                    Effect::Close { conn } => closed.push(conn.0),
                    other => panic!("a tick only closes: {other:?}"),
                }
            }
        }
        self.seconds = end;
        closed
    }
}

fn version(state_version: i64) -> DataVersion {
    DataVersion { counter: 1, state_version, timestamp: 5 }
}

#[test]
fn a_client_finds_what_brokers_have_said_and_is_told_when_nobody_has() {
    let mut s = story();
    s.open(1);
    s.open(2);
    assert_eq!(s.route("orders"), "17");
    assert_eq!(s.register(1, "a", "h:1", "orders TBW102"), "");
    assert_eq!(s.register(2, "b", "h:2", "orders"), "");
    assert_eq!(s.route("orders"), "0=h:1 16x6 | 0=h:2 16x6");
    let missing = s.ask(1, Request::RouteInfo(RouteInfo { topic: "none".into(), standard_json: None }));
    assert_eq!(
        missing.remark.as_deref(),
        Some(
            "No topic route info in name server for the topic: none\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        )
    );
    let text = |response: Response| String::from_utf8(response.body[0].to_vec()).unwrap();
    assert_eq!(text(s.ask(1, Request::TopicList)), r#"{"topicList":["TBW102","orders"]}"#);
    assert_eq!(
        text(s.ask(1, Request::ClusterInfo)),
        concat!(
            r#"{"brokerAddrTable":{"a":{"brokerAddrs":{"0":"h:1"},"brokerName":"a","cluster":"C","enableActingMaster":true},"#,
            r#""b":{"brokerAddrs":{"0":"h:2"},"brokerName":"b","cluster":"C","enableActingMaster":true}},"#,
            r#""clusterAddrTable":{"C":["a","b"]}}"#
        )
    );
    for request in [Request::Unsupported { code: 9 }, Request::RuntimeInfo] {
        let remark = format!(" request type {} not supported", request.code());
        let unknown = s.ask(1, request);
        assert_eq!((unknown.code, unknown.remark.as_deref()), (3, Some(remark.as_str())));
    }
}

#[test]
fn topics_are_added_by_increments_and_removed_by_word() {
    let mut s = story();
    s.open(1);
    s.register(1, "a", "h:1", "t1 t2");
    s.register(1, "a", "h:1", "t3");
    assert_eq!(s.route("t1"), "0=h:1 16x6", "an increment takes nothing away");
    let delete = |cluster: Option<&'static str>| {
        Request::DeleteTopicRoute(DeleteTopic { topic: "t1".into(), cluster: cluster.map(Into::into) })
    };
    s.ask(1, delete(Some("other")));
    assert_eq!(s.route("t1"), "0=h:1 16x6", "another cluster's topic was meant");
    s.ask(1, delete(Some("C")));
    assert_eq!((s.route("t1").as_str(), s.route("t2").as_str()), ("17", "0=h:1 16x6"));
}

#[test]
fn a_closed_connection_takes_with_it_what_came_on_it() {
    let mut s = story();
    s.open(1);
    s.open(2);
    s.register(1, "a", "h:1", "t u");
    s.register(2, "b", "h:2", "t");
    s.close(1);
    assert_eq!((s.route("t").as_str(), s.route("u").as_str()), ("0=h:2 16x6", "17"));
}

#[test]
fn what_is_late_does_not_remove_what_is_fresh() {
    let mut s = story();
    // Drivers may name connections as they like: age is the order in which they were opened.
    s.open(9);
    s.register(9, "a", "h:1", "t u");
    s.open(8);
    s.open(3);
    s.register(3, "a", "h:1", "t u");
    s.unregister(9, "a", "h:1");
    assert_eq!(s.route("t"), "0=h:1 16x6", "the old process's farewell comes after the new one's registration");
    s.register(9, "a", "h:1", "t u");
    s.close(9);
    assert_eq!(s.route("t"), "0=h:1 16x6", "an older connection's words come late, and then its end");
    s.open(4);
    s.unregister(4, "a", "h:2");
    assert_eq!(s.route("t"), "0=h:1 16x6", "another broker is meant");
    s.unregister(4, "a", "h:1");
    assert_eq!(s.route("t"), "17", "a farewell on a newer connection counts");
    s.open(5);
    s.register(5, "a", "h:1", "t u");
    s.unregister(5, "a", "h:1");
    assert_eq!(s.route("t"), "17", "and so does one on the same");
    // Here and not in a test of its own: a planted bug is armed for the whole process, and tests share one.
    #[cfg(feature = "planted")]
    {
        s.register(5, "a", "h:1", "t u");
        assert!(keepmq_world::planted::arm(Some("stale-unregister-wins")));
        s.unregister(8, "a", "h:1");
        assert!(keepmq_world::planted::arm(None));
        assert_eq!(s.route("t"), "17", "the story sees the bug it is there for");
    }
}

#[test]
fn tools_are_told_which_topics_and_brokers_there_are() {
    let mut s = story();
    s.open(1);
    let said = |s: &mut Story, request| {
        let response = s.ask(1, request);
        assert!(response.is_ok());
        String::from_utf8(response.body[0].to_vec()).unwrap()
    };
    assert_eq!(said(&mut s, Request::SystemTopics), r#"{"topicList":[]}"#);
    s.register(1, "b", "h:2", "t u");
    s.register_as(1, "b", 1, "h:3", 0, "");
    s.register(1, "a", "h:1", "t");
    assert_eq!(said(&mut s, Request::SystemTopics), r#"{"brokerAddr":"h:1","topicList":["C","a","b"]}"#);
    for (cluster, topics) in [("C", r#"{"topicList":["t","u"]}"#), ("D", r#"{"topicList":[]}"#)] {
        assert_eq!(said(&mut s, Request::ClusterTopics(ClusterTopics { cluster: cluster.into() })), topics);
    }
    let members = |broker_name: &'static str| {
        Request::BrokerMembers(BrokerMembers { cluster: "C".into(), broker_name: broker_name.into() })
    };
    assert_eq!(
        said(&mut s, members("b")),
        r#"{"brokerMemberGroup":{"brokerAddrs":{"0":"h:2","1":"h:3"},"brokerName":"b","cluster":"C"}}"#
    );
    assert_eq!(
        said(&mut s, members("x")),
        r#"{"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"x","cluster":"C"}}"#
    );
}

#[test]
fn a_broker_that_may_not_be_written_to_stays_so_until_it_has_something_new_to_say() {
    let mut s = story();
    s.open(1);
    let change = |s: &mut Story, add: bool, broker: &'static str| {
        let broker = OneBroker { broker_name: broker.into() };
        let (request, field) = match add {
            true => (Request::AddWrite(broker), "addTopicCount"),
            false => (Request::WipeWrite(broker), "wipeTopicCount"),
        };
        s.ask(1, request).field::<i32>(field).unwrap()
    };
    s.register(1, "a", "h:1", "t u");
    s.register(1, "b", "h:2", "t u");
    assert_eq!((change(&mut s, false, "a"), change(&mut s, false, "x")), (2, 0));
    s.register(1, "a", "h:1", "t u");
    assert_eq!(s.route("t"), "0=h:1 16x4 | 0=h:2 16x6", "the same again is nothing new");
    s.register(1, "a", "h:1", "t u v");
    assert_eq!(s.route("v"), "0=h:1 16x4", "another piece of the same table");
    assert_eq!((change(&mut s, true, "a"), s.route("t").as_str()), (3, "0=h:1 16x6 | 0=h:2 16x6"));
    change(&mut s, false, "a");
    s.register_as(1, "a", 0, "h:1", 1, "t u v");
    assert_eq!(s.route("t"), "0=h:1 16x6 | 0=h:2 16x6", "a new version takes the place of what a tool had changed");
}

#[test]
fn a_lost_increment_is_made_good_by_the_next_whole_table() {
    let mut s = story();
    s.open(1);
    let said = |s: &mut Story, counter, topics, queues| {
        let like = TopicConfig { write_queue_nums: queues, ..TopicConfig::default() };
        let version = DataVersion { counter, state_version: 0, timestamp: 5 };
        assert!(s.register_topics(1, ("a", 0, "h:1"), version, topics, &like).is_ok());
    };
    said(&mut s, 1, "t u", 4);
    // The second change, of t, never comes; the third does. Then all is said, in two pieces, under the version that is known.
    said(&mut s, 3, "u", 8);
    said(&mut s, 3, "u v", 8);
    said(&mut s, 3, "t w", 8);
    assert_eq!((s.route("t").as_str(), s.route("u").as_str()), ("0=h:1 8x6", "0=h:1 8x6"));
}

#[test]
fn a_sign_of_life_keeps_a_broker_also_on_another_connection() {
    let mut s = story();
    s.open(1);
    s.open(2);
    s.open(3);
    s.open(4);
    s.register(3, "a", "h:1", "t u");
    let beat = |s: &mut Story, conn, name: &'static str, addr: &'static str| {
        let broker_id = (conn == 2).then_some(0);
        let (cluster, broker_name, broker_addr) = ("C".into(), name.into(), addr.into());
        let beat = BrokerHeartbeat { cluster, broker_addr, broker_name, broker_id, timeout_ms: None };
        assert!(s.ask(conn, Request::BrokerHeartbeat(beat)).is_ok(), "as RocketMQ, also when it is unknown");
    };
    s.pass(100);
    beat(&mut s, 3, "a", "h:1");
    assert!(s.pass(100).is_empty(), "a heartbeat is enough");
    assert_eq!(s.route("t"), "0=h:1 16x6");
    beat(&mut s, 4, "a", "h:1");
    beat(&mut s, 4, "x", "h:9");
    s.close(3);
    assert_eq!(s.route("t"), "0=h:1 16x6", "the end of the old connection is told after a sign of life on the new one");
    s.pass(100);
    beat(&mut s, 2, "a", "h:1");
    beat(&mut s, 4, "a", "h:2");
    assert_eq!(s.pass(30), [4], "words on an older connection, or from another address, are no sign of life");
    assert_eq!(s.route("t"), "17");
}

#[test]
fn a_broker_is_forgotten_after_the_time_it_has_asked_for() {
    let mut s = story();
    s.open(1);
    s.open(2);
    s.timeout_ms = Some(10_000);
    s.register(1, "a", "h:1", "t u");
    s.timeout_ms = Some(i64::MAX);
    s.register(2, "b", "h:2", "t u");
    assert_eq!((s.pass(9), s.route("t").as_str()), (vec![], "0=h:1 16x6 | 0=h:2 16x6"));
    assert_eq!((s.pass(7), s.route("t").as_str()), (vec![1], "0=h:2 16x6"), "ten seconds and a scan");
    assert_eq!(s.pass(3600), [2], "nobody is kept for longer than an hour of silence");
}

#[test]
fn a_silent_broker_is_forgotten_and_its_connection_ended() {
    let mut s = story();
    s.open(1);
    s.open(2);
    assert_eq!(s.server.deadline(), None, "nobody to look at");
    s.register(1, "a", "h:1", "t u");
    s.register(2, "b", "h:2", "t u");
    assert!(s.pass(100).is_empty());
    let sign = QueryDataVersionHeader {
        broker_name: "b".into(),
        broker_addr: "h:2".into(),
        cluster: "C".into(),
        broker_id: 0,
    };
    s.ask(2, Request::QueryDataVersion(QueryDataVersion { header: sign, version: None }));
    assert_eq!(s.pass(30), [1], "two minutes and a scan");
    assert_eq!(s.route("t"), "0=h:2 16x6");
    assert_eq!(s.pass(200), [2]);
    assert_eq!((s.route("t").as_str(), s.server.deadline()), ("17", None));
}

#[test]
fn whoever_may_not_have_said_everything_is_asked_again() {
    let mut s = story();
    s.open(1);
    let changed = |s: &mut Story, state_version| {
        let header = QueryDataVersionHeader {
            broker_name: "a".into(),
            broker_addr: "h:1".into(),
            cluster: "C".into(),
            broker_id: 0,
        };
        let query = QueryDataVersion { header, version: Some(version(state_version)) };
        let response = s.ask(1, Request::QueryDataVersion(query));
        let stored = response.body.first().map(|body| String::from_utf8(body.to_vec()).unwrap());
        (response.field::<bool>("changed").unwrap(), stored)
    };
    let stored = |version: i64| Some(format!(r#"{{"counter":1,"stateVersion":{version},"timestamp":5}}"#));
    assert_eq!(changed(&mut s, 0), (true, None), "unknown");
    s.register(1, "a", "h:1", "new");
    assert_eq!(changed(&mut s, 0), (true, None), "one topic after a restart of ours is an increment, not the table");
    s.register(1, "a", "h:1", "new old");
    assert_eq!(changed(&mut s, 0), (false, stored(0)));
    assert_eq!(changed(&mut s, 1), (true, stored(0)));
    s.register(1, "a", "h:1", "newer");
    assert_eq!(changed(&mut s, 0), (false, stored(0)), "an increment to what we know whole leaves it whole");
}

#[test]
fn a_new_master_takes_the_place_and_the_old_one_does_not_take_it_back() {
    let mut s = story();
    s.open(1);
    s.open(2);
    s.open(3);
    s.register_as(2, "a", 0, "h:71", 1, "t u");
    let replica = s.register_as(1, "a", 1, "h:72", 1, "t u");
    assert_eq!(replica.field::<keepmq_protocol::header::Str<'_>>("masterAddr").unwrap(), "h:71");
    assert_eq!(s.route("t"), "0=h:71,1=h:72 16x6");
    // Elected; its connection is older than the old master's.
    assert!(s.register_as(1, "a", 0, "h:72", 2, "t u").is_ok());
    assert_eq!(s.route("t"), "0=h:72 16x6");
    s.register_as(3, "a", 0, "h:71", 1, "t u");
    s.unregister(3, "a", "h:71");
    assert_eq!(s.route("t"), "0=h:72 16x6", "the old master has not heard of it yet");
    // Without a controller the later connection holds: a broker that moved.
    s.register_as(3, "b", 0, "h:3", 0, "t u");
    s.register_as(1, "b", 0, "h:4", 0, "t u");
    assert_eq!(s.route("t"), "0=h:72 16x6 | 0=h:3 16x6");
}

#[test]
fn without_its_master_a_group_is_read_only() {
    let mut s = story();
    s.open(1);
    s.open(2);
    s.register_as(1, "a", 0, "h:1", 0, "t u");
    s.register_as(2, "a", 1, "h:2", 0, "t u");
    s.close(1);
    assert_eq!(s.route("t"), "1=h:2 16x4");
    s.register_as(2, "a", 1, "h:2", 0, "t u");
    assert_eq!(s.route("t"), "1=h:2 16x4");
}

#[test]
fn bad_and_boundless_registrations_are_refused_whole() {
    let mut s = story();
    s.open(1);
    s.register(1, "a", "h:1", "t1 t2 t3");
    for (name, addr, topics, why) in [
        ("", "h:2", "", "broker name is blank"),
        ("x/y", "h:2", "", "illegal characters"),
        ("b", "h", "", r#""h" is no address of the form host:port"#),
        ("b", "h:99999", "", "no address"),
        ("b", "h:0", "", "no address"),
        ("b", ":1", "", "no address"),
        ("b", "h 2:1", "", "no address"),
        ("b", "h:2", "t\u{1}", "cannot be a topic's name"),
        ("b", "h:2", "t4 t5", "with its topics there would be 5; the limit is 4"),
    ] {
        let remark = s.register(1, name, addr, topics);
        assert!(remark.starts_with("register broker failed: ") && remark.contains(why), "{why}: {remark}");
    }
    let like = TopicConfig::default();
    for (id, like, why) in [
        (-1, like.clone(), "-1 is no broker id"),
        (0, TopicConfig { perm: 16, ..like.clone() }, r#"topic "t4" has the permissions 16"#),
        (0, TopicConfig { perm: -2, ..like.clone() }, "the permissions -2"),
        (0, TopicConfig { read_queue_nums: 65_537, ..like }, "65537 queues; the limit is 65536"),
    ] {
        let refused = s.register_topics(1, ("b", id, "h:2"), version(0), "t4", &like);
        assert!(refused.code == 1 && refused.remark.as_deref().unwrap().contains(why), "{why}: {refused:?}");
    }
    assert_eq!(
        s.ask(1, Request::BrokerMembers(BrokerMembers { cluster: "C".into(), broker_name: "b".into() })).body[0],
        { &br#"{"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"b","cluster":"C"}}"#[..] }
    );
    assert_eq!(s.route("t4"), "17");
    s.register(1, "b", "h:2", "t4");
    s.register(1, "c", "h:3", "");
    assert_eq!(s.register(1, "d", "h:4", ""), "register broker failed: 3 brokers are registered, which is the limit");
    assert_eq!(s.register(1, "b", "h:2", "t1"), "", "who is in may speak again");
}

#[test]
fn a_oneway_request_is_carried_out_without_an_answer_and_a_stop_ends_all() {
    let mut s = story();
    s.open(1);
    let from =
        Caller { conn: Conn(1), opaque: 1, form: Form::Binary, oneway: true, version: 0, language: Language::Go };
    assert!(s.event(Event::Request { from, request: Request::TopicList }).is_empty());
    assert!(matches!(s.event(Event::Stop)[..], [Effect::Exit(Exit::Clean)]));
}
