use super::*;
use crate::received::tests::{queue, record};
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_protocol::response::{PullReply, ResponseHeader};
use keepmq_protocol::seam::{CallError, Conn};
use keepmq_world::Timestamp;

/// A push consumer `me` of topic T, and all that it talks to: a name server, and broker `b`, which does what a broker does
/// unless the test says otherwise. What happens stands in `log`.
struct World {
    consumer: PushConsumer,
    now: Now,
    queues: u32,
    /// Tags of the messages of each queue; the body is the offset.
    stored: BTreeMap<u32, Vec<&'static str>>,
    /// The first offset that is still there.
    min: u64,
    offsets: BTreeMap<u32, i64>,
    /// The broker knows commits under a condition.
    conditional: bool,
    members: Vec<&'static str>,
    /// Codes of requests that nobody answers for now.
    silent: BTreeSet<i32>,
    /// They are lost instead.
    failing: BTreeSet<i32>,
    waiting: Vec<(CallId, Request<'static>)>,
    calls: Vec<i32>,
    given: BTreeMap<String, Batch>,
    log: Vec<String>,
}

fn wire(queue: &MessageQueue) -> i32 {
    i32::try_from(queue.id).unwrap()
}

const PULL: i32 = 11;
const QUERY: i32 = 14;
const UPDATE: i32 = 15;
const HEARTBEAT: i32 = 34;
const MEMBERS: i32 = 38;

impl World {
    fn new(configure: impl FnOnce(&mut PushConfig)) -> Self {
        let mut client = ClientConfig::new(vec!["ns".to_owned()], "me".to_owned(), vec![127, 0, 0, 1], 1, 7);
        client.heartbeat = Duration::from_secs(30);
        let subscription = Subscription { topic: Topic::new("T").unwrap(), expression: "x || y".to_owned() };
        let mut config = PushConfig::new(client, "g".to_owned(), vec![subscription]);
        config.from = ConsumeFrom::FirstOffset;
        configure(&mut config);
        let now = Now { mono: Mono(0), wall: Timestamp(1) };
        Self {
            consumer: PushConsumer::new(config, now),
            now,
            queues: 1,
            stored: BTreeMap::new(),
            min: 0,
            offsets: BTreeMap::new(),
            conditional: true,
            members: vec!["me"],
            silent: BTreeSet::new(),
            failing: BTreeSet::new(),
            waiting: Vec::new(),
            calls: Vec::new(),
            given: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// Stores messages with these tags.
    fn store(&mut self, id: u32, tags: &'static str) -> &mut Self {
        self.stored.entry(id).or_default().extend(tags.split(' '));
        self
    }

    /// Everybody answers, until there is nothing more to answer. What has happened.
    fn run(&mut self) -> String {
        loop {
            while let Some(effect) = self.consumer.poll_effect() {
                self.take(effect);
            }
            let Some(at) = self.waiting.iter().position(|(_, request)| self.answer(request).is_some()) else { break };
            let (call, request) = self.waiting.remove(at);
            let outcome = self.answer(&request).expect("it was there a moment ago");
            if let (Request::UpdateOffset(update), Ok(_)) = (&request, &outcome) {
                let id = u32::try_from(update.queue_id).unwrap();
                if !(self.conditional && update.if_absent == Some(true) && self.offsets.contains_key(&id)) {
                    self.offsets.insert(id, update.offset);
                    self.log.push(format!("commit {}@{}", update.queue_id, update.offset));
                }
            }
            self.consumer.handle(Event::Answered { call, outcome }, self.now);
        }
        std::mem::take(&mut self.log).join(" ")
    }

    fn take(&mut self, effect: Effect<PushWork>) {
        match effect {
            Effect::Call { call, request, .. } => {
                self.calls.push(request.code());
                if let Request::Pull(pull) = &request {
                    let same =
                        |other: &Request<'_>| matches!(other, Request::Pull(other) if other.queue_id == pull.queue_id);
                    assert!(!self.waiting.iter().any(|(_, other)| same(other)), "two pulls of queue {}", pull.queue_id);
                }
                self.waiting.push((call, request));
            }
            Effect::Work(PushWork::Consume { batch, messages, .. }) => {
                let names = messages.iter().map(|message| format!("{}@{}", message.queue.id, message.offset));
                let name = names.collect::<Vec<_>>().join("+");
                self.log.push(format!("give {name}"));
                assert_eq!(self.given.insert(name.clone(), batch), None, "{name} is given twice at once");
            }
            Effect::Work(PushWork::Assigned(queues)) => {
                // A pull of a queue that was given away is of another generation.
                let stays = |id: i32| queues.iter().any(|queue| wire(queue) == id);
                self.waiting.retain(|(_, other)| !matches!(other, Request::Pull(pull) if !stays(pull.queue_id)));
                let ids: Vec<String> = queues.iter().map(|queue| queue.id.to_string()).collect();
                self.log.push(format!("assigned[{}]", ids.join(",")));
            }
            Effect::Work(PushWork::Trouble(text)) => self.log.push(format!("trouble[{text}]")),
            Effect::Work(PushWork::Closed(report)) => self.log.push(format!(
                "closed[{} processed, {} failures, {} given up, {} uncommitted]",
                report.processed, report.failures, report.given_up, report.uncommitted
            )),
            Effect::Exit(Exit::Clean) => self.log.push("exit".to_owned()),
            Effect::Reply { response, .. } => self.log.push(format!("reply {}", response.code)),
            other => panic!("{other:?}"),
        }
    }

    /// `None`: not yet.
    fn answer(&self, request: &Request<'_>) -> Option<Outcome> {
        if self.failing.contains(&request.code()) {
            let (peer, why) = ("b:1".to_owned(), "it is down".to_owned());
            return Some(Err(CallError::Lost { peer, why }));
        }
        if self.silent.contains(&request.code()) {
            return None;
        }
        let len = |id: i32| self.stored.get(&u32::try_from(id).unwrap()).map_or(0, Vec::len) as u64;
        let offset = |offset: u64| Response::ok().with_header(ResponseHeader::Offset(i64::try_from(offset).unwrap()));
        Some(Ok(match request {
            Request::RouteInfo(_) if self.queues == 0 => Response::new(ResponseCode::TopicNotExist),
            Request::RouteInfo(_) => Response::ok().with_body(self.route()),
            Request::ConsumerList(_) => {
                let list = serde_json::json!({ "consumerIdList": self.members });
                Response::ok().with_body(serde_json::to_vec(&list).unwrap())
            }
            Request::QueryOffset(query) => match self.offsets.get(&u32::try_from(query.queue_id).unwrap()) {
                Some(found) => Response::ok().with_header(ResponseHeader::Offset(*found)),
                None => Response::new(ResponseCode::QueryNotFound),
            },
            Request::MaxOffset(max) => offset(len(max.queue_id)),
            Request::MinOffset(_) => offset(self.min),
            Request::Heartbeat(_) | Request::Unregister(_) | Request::UpdateOffset(_) => Response::ok(),
            Request::Pull(pull) => {
                let id = u32::try_from(pull.queue_id).unwrap();
                let (from, max) = (u64::try_from(pull.offset).unwrap(), len(pull.queue_id));
                let reply = |code, next| {
                    let reply = PullReply {
                        suggest_broker: 0,
                        next: QueueOffset(next),
                        min: QueueOffset(self.min),
                        max: QueueOffset(max),
                    };
                    Response::new(code).with_header(ResponseHeader::Pull(reply))
                };
                if from > max || from < self.min {
                    return Some(Ok(reply(ResponseCode::PullOffsetMoved, from.clamp(self.min, max))));
                }
                if from == max {
                    return None;
                }
                let next = max.min(from + u64::try_from(pull.max_messages).unwrap());
                let one = |at: u64| {
                    let tag = self.stored[&id][usize::try_from(at).unwrap()];
                    record(&queue("T", "b", id), at, 0, b"body", &format!("TAGS\u{1}{tag}\u{2}"))
                };
                reply(ResponseCode::Success, next).with_body((from..next).map(one).collect::<Vec<_>>().concat())
            }
            other => panic!("{other:?}"),
        }))
    }

    fn route(&self) -> Vec<u8> {
        let broker = BrokerData {
            broker_addrs: [(0, "b:1".to_owned())].into(),
            broker_name: "b".to_owned(),
            ..BrokerData::default()
        };
        let queues = QueueData {
            broker_name: "b".to_owned(),
            perm: 6,
            read_queue_nums: self.queues,
            write_queue_nums: self.queues,
            topic_sys_flag: 0,
        };
        let route = RouteData { broker_datas: vec![broker], queue_datas: vec![queues], ..RouteData::default() };
        serde_json::to_vec(&route).unwrap()
    }

    /// A listener ends.
    fn end(&mut self, name: &str, verdict: Verdict) -> String {
        let batch = self.given.remove(name).expect("it was given");
        self.consumer.handle(Event::Done(PushCommand::Consumed { batch, verdict }), self.now);
        self.run()
    }

    fn done(&mut self, name: &str) -> String {
        self.end(name, Verdict::Success)
    }

    /// Time passes; the consumer is woken when it wants to be.
    fn pass(&mut self, millis: u64) -> String {
        let end = self.now.mono + Duration::from_millis(millis);
        let mut log = Vec::new();
        for woken in 0.. {
            assert!(woken < 10_000, "it never sleeps");
            self.now.mono = self.consumer.deadline().map_or(end, |at| at.clamp(self.now.mono, end));
            self.consumer.handle(Event::Tick, self.now);
            log.push(self.run());
            if self.now.mono == end {
                break;
            }
        }
        log.retain(|part| !part.is_empty());
        log.join(" ")
    }

    /// The broker says that the members have changed.
    fn notice(&mut self, members: Vec<&'static str>) -> String {
        self.members = members;
        let group = keepmq_protocol::request::ConsumersChanged { group: "g".into() };
        self.request(Request::ConsumersChanged(group), true)
    }

    fn request(&mut self, request: Request<'static>, oneway: bool) -> String {
        let from = Caller {
            conn: Conn(1),
            opaque: 1,
            form: keepmq_protocol::frame::Form::Json,
            oneway,
            version: 479,
            language: keepmq_protocol::frame::Language::Java,
        };
        self.consumer.handle(Event::Request { from, request }, self.now);
        self.run()
    }

    fn close(&mut self, millis: u64) -> String {
        let within = Duration::from_millis(millis);
        self.consumer.handle(Event::Done(PushCommand::Close { within }), self.now);
        self.run()
    }
}

#[test]
fn only_what_is_processed_is_committed_and_later_holds_the_offset() {
    let mut world = World::new(|_| {});
    world.store(0, "x y x no x");
    assert_eq!(world.run(), "commit 0@0 assigned[0] give 0@0 give 0@1 give 0@2 give 0@4");
    world.done("0@1");
    assert_eq!(world.pass(5_000), "", "0@0 is not processed");
    assert_eq!(world.end("0@0", Verdict::Later), "");
    world.done("0@2");
    world.done("0@4");
    assert_eq!(world.pass(999), "");
    assert_eq!(world.pass(1), "give 0@0", "after a second");
    assert_eq!(world.end("0@0", Verdict::Later), "");
    assert_eq!(world.pass(1_999), "");
    assert_eq!(world.pass(1), "give 0@0", "after two more");
    world.done("0@0");
    assert_eq!(world.pass(5_000), "commit 0@5", "what is filtered counts as processed");
    assert_eq!(world.pass(60_000), "", "and it is committed once");
}

#[test]
fn listeners_are_few_batches_are_of_one_queue_and_every_queue_has_its_turn() {
    let mut world = World::new(|config| (config.batch, config.listeners) = (2, 2));
    world.queues = 2;
    world.store(0, "x x x").store(1, "x");
    assert_eq!(world.run(), "commit 0@0 commit 1@0 assigned[0] assigned[0,1] give 0@0+0@1 give 0@2");
    assert_eq!(world.done("0@2"), "give 1@0");
}

#[test]
fn a_queue_that_is_given_away_is_committed_and_what_runs_moves_it_no_more() {
    let mut world = World::new(|config| config.listeners = 2);
    world.queues = 2;
    world.store(1, "x x x");
    world.run();
    world.done("1@0");
    assert_eq!(world.notice(vec!["me", "z"]), "assigned[0] commit 1@1", "nothing more of it is given");
    assert_eq!(world.done("1@1"), "");
    assert_eq!(world.pass(5_000), "", "what ran has no effect");
}

#[test]
fn what_was_begun_before_a_queue_came_back_has_no_effect() {
    let mut world = World::new(|config| config.listeners = 2);
    world.store(0, "x x x");
    assert_eq!(world.run(), "commit 0@0 assigned[0] give 0@0 give 0@1");
    world.done("0@0");
    let away = world.notice(vec!["a", "me"]);
    assert_eq!(away, "assigned[] commit 0@1", "nothing more is delivered");
    assert_eq!(world.done("0@1"), "", "its messages are nobody's business here");
    world.given.clear();
    world.offsets.insert(0, 1);
    assert_eq!(world.notice(vec!["me"]), "assigned[0] give 0@1", "it begins with what is committed; 0@2 still runs");
    assert_eq!(world.pass(6_000), "");
}

#[test]
fn queues_that_stay_are_pulled_once() {
    let mut world = World::new(|_| {});
    world.queues = 4;
    world.run();
    // `take` asserts that there is one pull of each queue.
    assert_eq!(world.notice(vec!["me", "z"]), "assigned[0,1]");
    assert_eq!(world.notice(vec!["me"]), "assigned[0,1,2] assigned[0,1,2,3]");
    assert_eq!(world.notice(vec!["me"]), "");
    world.store(0, "x");
    assert_eq!(world.run(), "give 0@0");
}

#[test]
fn a_list_without_us_is_believed_the_second_time() {
    let mut world = World::new(|_| {});
    world.run();
    let beats = |world: &World| world.calls.iter().filter(|code| **code == HEARTBEAT).count();
    let before = beats(&world);
    assert_eq!(world.notice(vec!["a"]), "", "a broker that has just started knows nobody");
    assert_eq!(beats(&world), before + 1, "it is told that we are there");
    assert_eq!(world.pass(1_000), "assigned[]", "the others have our queues");
    world.members = vec!["a", "me"];
    assert_eq!(world.notice(vec!["me"]), "assigned[0]");
    world.failing.insert(MEMBERS);
    assert_eq!(world.pass(60_000), "", "nobody says who the members are: all stays as it is");
}

#[test]
fn nothing_is_pulled_while_the_offset_is_not_known() {
    let mut world = World::new(|_| {});
    world.store(0, "x x");
    world.offsets.insert(0, 1);
    world.failing.insert(QUERY);
    assert_eq!(world.run(), "trouble[no answer from b:1: it is down]");
    assert_eq!(world.pass(10_000), "", "it is said once");
    let asked = world.calls.iter().filter(|code| **code == QUERY).count();
    assert!((10..=20).contains(&asked), "{asked} questions in ten seconds");
    assert!(!world.calls.contains(&PULL), "unknown is not zero");
    world.failing.clear();
    assert_eq!(world.pass(1_000), "assigned[0] give 0@1");
}

#[test]
fn the_end_is_asked_for_after_the_broker_knows_us_and_kept_before_anything_is_pulled() {
    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.store(0, "x x");
    world.silent.insert(HEARTBEAT);
    assert_eq!(world.run(), "");
    world.store(0, "x");
    world.silent = [UPDATE].into();
    assert_eq!(world.run(), "", "where the group begins is not kept yet");
    assert!(!world.calls.contains(&PULL));
    world.silent.clear();
    world.store(0, "x");
    assert_eq!(world.run(), "commit 0@3 assigned[0] give 0@3", "what came after the question is not passed over");
}

#[test]
fn another_members_beginning_is_found_just_before_ours_is_kept() {
    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.store(0, "x x x x");
    world.silent.insert(30);
    world.run();
    world.offsets.insert(0, 2);
    world.silent.clear();
    assert_eq!(world.run(), "assigned[0] give 0@2 give 0@3", "ours would have been 4");
}

#[test]
fn of_two_beginnings_that_are_kept_at_once_the_first_holds_or_the_one_that_the_broker_says() {
    for (conditional, another, log) in [
        (true, 2, "assigned[0] give 0@2 give 0@3"),
        // As RocketMQ's: ours is the last. What the other has begun with is among what was there before anybody had the queue.
        (false, 2, "commit 0@4 assigned[0]"),
    ] {
        let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
        world.conditional = conditional;
        world.store(0, "x x x x");
        world.silent.insert(UPDATE);
        world.run();
        world.offsets.insert(0, another);
        world.silent.clear();
        assert_eq!(world.run(), log);
    }
    // As RocketMQ's, and ours was the first: the other one's came behind it.
    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.store(0, "x x");
    world.silent.insert(UPDATE);
    world.run();
    (world.silent, world.failing) = (BTreeSet::new(), [QUERY].into());
    assert_eq!(world.run(), "commit 0@2 trouble[no answer from b:1: it is down]");
    world.store(0, "x x").offsets.insert(0, 3);
    world.failing.clear();
    assert_eq!(world.pass(1_000), "assigned[0] give 0@3", "the group begins once");
}

#[test]
fn a_beginning_that_is_said_to_be_kept_and_is_not_is_none() {
    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.store(0, "x x");
    world.silent.insert(UPDATE);
    world.run();
    (world.silent, world.failing) = (BTreeSet::new(), [QUERY].into());
    world.run();
    world.offsets.clear();
    (world.silent, world.failing) = ([UPDATE].into(), BTreeSet::new());
    assert_eq!(
        world.pass(500),
        "trouble[queue 0 of T on b: the broker has said that it keeps offset 2 for the group, and has none]"
    );
    assert!(!world.calls.contains(&PULL));
    world.silent.clear();
    assert_eq!(world.pass(1_000), "commit 0@2 assigned[0]");
}

#[test]
fn a_queue_that_is_new_begins_with_its_first_message() {
    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.store(0, "x x");
    assert_eq!(world.run(), "commit 0@2 assigned[0]");
    world.queues = 2;
    world.store(1, "x x");
    assert_eq!(world.pass(31_000), "commit 1@0 assigned[0,1] give 1@0 give 1@1");

    let mut world = World::new(|config| config.from = ConsumeFrom::LastOffset);
    world.queues = 0;
    assert_eq!(world.run(), "trouble[\"T\": no route: ns know no such topic]".replace('"', ""));
    world.queues = 1;
    world.store(0, "x");
    assert_eq!(world.pass(3_000), "commit 0@0 assigned[0] give 0@0", "there was no such topic when we came");
}

#[test]
fn pulls_end_with_the_room_and_go_on_with_it() {
    let mut world = World::new(|config| (config.pull_batch, config.queue_messages, config.listeners) = (2, 3, 1));
    world.store(0, "x x x x x x");
    assert_eq!(world.run(), "commit 0@0 assigned[0] give 0@0");
    let pulls = |world: &World| world.calls.iter().filter(|code| **code == PULL).count();
    assert_eq!(pulls(&world), 2, "four are in hand");
    world.done("0@0");
    assert_eq!(pulls(&world), 2);
    world.done("0@1");
    assert_eq!(pulls(&world), 3);
}

#[test]
fn what_the_broker_no_longer_has_is_skipped_aloud() {
    let mut world = World::new(|_| {});
    world.store(0, "x x x x x x");
    (world.min, world.offsets) = (4, [(0, 1)].into());
    let log = world.run();
    assert!(log.contains("trouble[queue 0 of T on b: 3 offsets are skipped, 1 to 4"), "{log}");
    assert!(log.ends_with("give 0@4 give 0@5"), "{log}");
    world.stored.clear();
    world.min = 0;
    world.done("0@4");
    world.done("0@5");
    let mut anew = World::new(|_| {});
    anew.store(0, "x x").offsets.insert(0, 9);
    let log = anew.run();
    assert!(log.contains("has no offset 9, and goes on at 2"), "{log}");
    assert_eq!(anew.pass(5_000), "commit 0@2", "the place that the broker has named may be lower");
}

#[test]
fn a_commit_that_nobody_confirms_is_made_again() {
    let mut world = World::new(|_| {});
    world.store(0, "x x");
    world.run();
    world.done("0@0");
    world.failing.insert(UPDATE);
    assert_eq!(
        world.pass(5_000),
        "trouble[queue 0 of T on b: offset 1 is not committed yet: no answer from b:1: it is down]"
    );
    assert_eq!(world.pass(10_000), "", "it is said once");
    world.failing.clear();
    assert_eq!(world.pass(5_000), "commit 0@1");
}

#[test]
fn a_broadcast_reads_all_queues_and_keeps_nothing() {
    let mut world = World::new(|config| config.model = MessageModel::Broadcasting);
    world.queues = 2;
    world.members = vec!["a", "me"];
    world.store(1, "x");
    assert_eq!(world.run(), "assigned[0] assigned[0,1] give 1@0");
    world.done("1@0");
    assert_eq!(world.pass(60_000), "");
    assert!(![QUERY, UPDATE, MEMBERS].iter().any(|code| world.calls.contains(code)));
}

#[test]
fn a_close_waits_for_listeners_commits_leaves_and_says_what_is_left() {
    let mut world = World::new(|config| config.listeners = 2);
    world.store(0, "x x x");
    world.run();
    assert_eq!(world.close(10_000), "");
    world.store(0, "x");
    assert_eq!(world.done("0@0"), "", "one still runs, and nothing more is given");
    let log = world.done("0@1");
    assert_eq!(log, "commit 0@2 closed[2 processed, 0 failures, 2 given up, 0 uncommitted] exit");
    assert_eq!(world.calls.last(), Some(&35), "brokers hear that it leaves");
    assert_eq!(world.pass(60_000), "");
}

#[test]
fn a_close_ends_in_its_time_whatever_the_others_do() {
    let mut world = World::new(|_| {});
    world.store(0, "x x");
    world.run();
    world.done("0@0");
    world.silent = [UPDATE, 35].into();
    assert_eq!(world.close(2_000), "");
    assert_eq!(world.pass(1_999), "", "a listener runs");
    assert_eq!(world.pass(4_100), "closed[1 processed, 0 failures, 1 given up, 1 uncommitted] exit");

    let mut world = World::new(|_| {});
    world.store(0, "x");
    world.run();
    world.close(60_000);
    assert_eq!(
        world.close(60_000),
        "closed[0 processed, 0 failures, 1 given up, 0 uncommitted] exit",
        "twice: at once"
    );
}

#[test]
fn what_a_consumer_does_not_serve_is_refused() {
    let mut world = World::new(|_| {});
    world.run();
    assert_eq!(world.request(Request::Unsupported { code: 221 }, false), "reply 3");
    assert_eq!(world.request(Request::Unsupported { code: 221 }, true), "");
}
