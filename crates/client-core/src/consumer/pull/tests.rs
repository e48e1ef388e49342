use super::*;
use crate::config::ClientConfig;
use crate::consumer::Subscription;
use crate::received::tests::{queue, record};
use keepmq_protocol::Request;
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_protocol::response::{PullReply, ResponseHeader};
use keepmq_protocol::seam::CallError;
use keepmq_world::Timestamp;

/// A pull consumer of queue 0 of T on broker `a`, and that broker: the test says what it answers.
struct World {
    consumer: PullConsumer,
    now: u64,
    calls: Vec<(CallId, String, Request<'static>)>,
    works: Vec<PullWork>,
}

impl World {
    fn new(group: Option<&str>, expression: &str) -> Self {
        let client = ClientConfig::new(vec!["ns".to_owned()], "client".to_owned(), vec![127, 0, 0, 1], 1, 7);
        let mut config = PullConfig::new(client, group.map(str::to_owned));
        config.subscriptions =
            vec![Subscription { topic: Topic::new("T").unwrap(), expression: expression.to_owned() }];
        let now = Now { mono: Mono(0), wall: Timestamp(0) };
        let mut world = Self { consumer: PullConsumer::new(config, now), now: 0, calls: Vec::new(), works: Vec::new() };
        world.tell(PullCommand::Assign(vec![queue("T", "a", 0)]));
        let data = RouteData {
            broker_datas: vec![BrokerData {
                broker_addrs: [(0, "a".to_owned())].into(),
                broker_name: "a".to_owned(),
                ..BrokerData::default()
            }],
            queue_datas: vec![QueueData {
                broker_name: "a".to_owned(),
                perm: 6,
                read_queue_nums: 1,
                write_queue_nums: 1,
                topic_sys_flag: 0,
            }],
            ..RouteData::default()
        };
        world.answer(Ok(Response::ok().with_body(serde_json::to_vec(&data).unwrap())));
        world
    }

    fn handle(&mut self, event: Event<'_, PullCommand>) {
        self.consumer.handle(event, Now { mono: Mono(self.now), wall: Timestamp(0) });
        while let Some(effect) = self.consumer.poll_effect() {
            match effect {
                Effect::Call { call, peer, request, .. } => self.calls.push((call, peer, request)),
                Effect::Work(work) => self.works.push(work),
                Effect::Exit(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn tell(&mut self, command: PullCommand) {
        self.handle(Event::Done(command));
    }

    /// The only question that is out.
    fn asked(&self) -> &Request<'static> {
        let [(_, _, request)] = &self.calls[..] else { panic!("{:?}", self.calls) };
        request
    }

    fn answer(&mut self, outcome: Outcome) {
        let (call, ..) = self.calls.remove(0);
        self.handle(Event::Answered { call, outcome });
    }

    fn offset(&mut self, offset: i64) {
        self.answer(Ok(Response::ok().with_header(ResponseHeader::Offset(offset))));
    }

    fn pulled(&mut self, code: ResponseCode, offsets: &[(u64, &str)], next: u64) {
        let at = queue("T", "a", 0);
        let one = |(offset, tag): &(u64, &str)| record(&at, *offset, 0, b"body", &format!("TAGS\u{1}{tag}\u{2}"));
        let body: Vec<u8> = offsets.iter().flat_map(one).collect();
        let reply =
            PullReply { suggest_broker: 0, next: QueueOffset(next), min: QueueOffset(0), max: QueueOffset(next) };
        let response = Response::new(code).with_header(ResponseHeader::Pull(reply)).with_body(body);
        self.answer(Ok(response));
    }

    fn pull_from(&self) -> i64 {
        match self.asked() {
            Request::Pull(pull) => pull.offset,
            other => panic!("{other:?}"),
        }
    }

    /// What has been given: `poll:offsets`, `sought`, `committed`.
    fn given(&mut self) -> String {
        let word = |work| match work {
            PullWork::Polled { outcome: Ok(messages), .. } => {
                let offsets: Vec<String> = messages.iter().map(|message| message.offset.to_string()).collect();
                format!("polled({})", offsets.join(","))
            }
            PullWork::Sought { outcome: Ok(offset), .. } => format!("sought({offset})"),
            PullWork::Committed { outcome: Ok(()), .. } => "committed".to_owned(),
            PullWork::Polled { outcome: Err(_), .. }
            | PullWork::Sought { outcome: Err(_), .. }
            | PullWork::Committed { outcome: Err(_), .. } => "failed".to_owned(),
            PullWork::Queues { .. } => "queues".to_owned(),
            PullWork::Closed => "closed".to_owned(),
        };
        std::mem::take(&mut self.works).into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    fn poll(&mut self, max: usize) {
        self.tell(PullCommand::Poll { id: 1, max, wait: Duration::from_secs(1) });
    }
}

#[test]
fn what_is_committed_is_what_was_polled_and_only_when_the_broker_says_so() {
    let mut world = World::new(Some("g"), "*");
    assert!(matches!(world.asked(), Request::QueryOffset(query) if query.zero_if_not_found == Some(false)));
    world.offset(7);
    assert_eq!(world.pull_from(), 7);
    world.pulled(ResponseCode::Success, &[(7, "x"), (8, "x"), (9, "x")], 10);
    world.poll(2);
    assert_eq!(world.given(), "polled(7,8)");
    world.calls.clear();
    world.tell(PullCommand::Commit { id: 2 });
    assert!(matches!(world.asked(), Request::UpdateOffset(update) if update.offset == 9));
    assert_eq!(world.given(), "");
    world.answer(Ok(Response::ok()));
    assert_eq!(world.given(), "committed");
    world.poll(2);
    assert_eq!(world.given(), "polled(9)");
    world.tell(PullCommand::Commit { id: 3 });
    world.answer(Err(CallError::Lost { peer: "a".to_owned(), why: "gone".to_owned() }));
    assert_eq!(world.given(), "failed");
    world.tell(PullCommand::Commit { id: 4 });
    world.answer(Ok(Response::ok()));
    assert_eq!(world.given(), "committed", "what was not kept is committed again");
    world.tell(PullCommand::Commit { id: 5 });
    assert_eq!((world.given().as_str(), world.calls.len()), ("committed", 0), "there is nothing new");
}

#[test]
fn an_offset_that_is_not_known_is_asked_for_again_and_never_taken_for_zero() {
    let mut world = World::new(Some("g"), "*");
    world.answer(Err(CallError::Lost { peer: "a".to_owned(), why: "gone".to_owned() }));
    let asks = |world: &World| world.calls.iter().filter(|(_, _, r)| matches!(r, Request::QueryOffset(_))).count();
    assert_eq!(asks(&world), 0);
    world.calls.clear();
    world.now += 60_000_000;
    world.handle(Event::Tick);
    assert_eq!(asks(&world), 1);
    world.calls.retain(|(_, _, request)| matches!(request, Request::QueryOffset(_)));
    world.answer(Ok(Response::refuse(ResponseCode::SystemError, "no")));
    assert!(world.calls.iter().all(|(_, _, request)| !matches!(request, Request::Pull(_))));
    world.calls.clear();
    world.now += 2_000_000_000;
    world.handle(Event::Tick);
    world.calls.retain(|(_, _, request)| matches!(request, Request::QueryOffset(_)));
    world.answer(Ok(Response::refuse(ResponseCode::QueryNotFound, "none")));
    assert!(matches!(world.asked(), Request::MinOffset(_)), "a new group begins where it is told to");
    world.offset(3);
    assert_eq!(world.pull_from(), 3);
}

#[test]
fn after_a_seek_answers_to_what_was_asked_before_are_nobodys() {
    let mut world = World::new(None, "*");
    world.offset(0);
    let old = world.calls.remove(0).0;
    let queue = queue("T", "a", 0);
    world.tell(PullCommand::Seek { id: 5, queue: queue.clone(), to: SeekTo::Timestamp(Timestamp(99)) });
    assert!(matches!(world.asked(), Request::SearchOffset(search) if search.timestamp == 99));
    world.handle(Event::Answered { call: old, outcome: Ok(Response::ok()) });
    world.offset(4);
    assert_eq!((world.given().as_str(), world.pull_from()), ("sought(4)", 4));
    world.calls.clear();
    world.tell(PullCommand::Seek { id: 6, queue, to: SeekTo::Offset(QueueOffset(2)) });
    world.handle(Event::Tick);
    assert_eq!((world.given().as_str(), world.pull_from()), ("sought(2)", 2));
    world.tell(PullCommand::Commit { id: 7 });
    assert_eq!(world.given(), "failed", "it reads for no group");
}

#[test]
fn what_is_filtered_is_passed_over_and_a_poll_ends_with_its_time() {
    let mut world = World::new(None, "x");
    world.offset(0);
    world.poll(10);
    world.pulled(ResponseCode::Success, &[(0, "y"), (1, "y")], 2);
    assert_eq!((world.given().as_str(), world.pull_from()), ("", 2));
    world.pulled(ResponseCode::PullRetryImmediately, &[], 5);
    assert_eq!(world.pull_from(), 5);
    world.now += 1_000_000_000;
    world.handle(Event::Tick);
    assert_eq!(world.given(), "polled()");
    world.pulled(ResponseCode::PullOffsetMoved, &[], 9);
    world.pulled(ResponseCode::Success, &[(9, "x")], 10);
    world.poll(10);
    assert_eq!(world.given(), "polled(9)");
    world.poll(10);
    world.tell(PullCommand::Close);
    assert_eq!(world.given(), "failed closed");
    assert_eq!(world.consumer.deadline(), None);
}
