use super::*;
use crate::config::ClientConfig;
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::request::{Send, SendVia};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{CallError, Conn};
use keepmq_protocol::{BrokerName, Request, message};
use keepmq_world::Timestamp;
use std::borrow::Cow;

const SECOND: u64 = 1_000_000_000;

/// A producer, and everybody it talks to: the test says what they answer.
struct World {
    producer: Producer,
    now: u64,
    calls: Vec<(CallId, String, Request<'static>, Mono)>,
    told: Vec<(String, Request<'static>)>,
    works: Vec<ProducerWork>,
    exits: usize,
    sends: u64,
}

impl World {
    fn new(name_servers: &[&str], change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let servers = name_servers.iter().map(|server| (*server).to_owned()).collect();
        let client = ClientConfig::new(servers, "client".to_owned(), vec![127, 0, 0, 1], 1, 7);
        let mut config = ProducerConfig::new(client, "producers".to_owned());
        change(&mut config);
        let producer = Producer::new(config, at(0));
        Self { producer, now: 0, calls: Vec::new(), told: Vec::new(), works: Vec::new(), exits: 0, sends: 0 }
    }

    /// One that knows where T is: two queues on each of these brokers, which is also its address.
    fn routed(brokers: &[&str], change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let mut world = Self::new(&["ns"], change);
        world.tell(ProducerCommand::Route { topic: topic() });
        world.answer("ns", Ok(route(brokers, 6)));
        assert!(
            matches!(world.works.pop(), Some(ProducerWork::Routed { outcome: Ok(queues), .. }) if queues.len() == 2 * brokers.len())
        );
        world.hear_heartbeats();
        world
    }

    fn hear_heartbeats(&mut self) {
        while let Some(nth) = self.calls.iter().position(|(_, _, request, _)| matches!(request, Request::Heartbeat(_)))
        {
            let (call, ..) = self.calls.remove(nth);
            self.handle(Event::Answered { call, outcome: Ok(Response::ok()) });
        }
    }

    fn handle(&mut self, event: Event<'_, ProducerCommand>) {
        self.producer.handle(event, at(self.now));
        while let Some(effect) = self.producer.poll_effect() {
            match effect {
                Effect::Call { call, peer, request, until } => {
                    assert!(until > Mono(self.now), "a call that has no time");
                    self.calls.push((call, peer, request, until));
                }
                Effect::Tell { peer, request } => self.told.push((peer, request)),
                Effect::Work(work) => self.works.push(work),
                Effect::Exit(_) => self.exits += 1,
                Effect::Reply { .. } => self.told.push(("reply".to_owned(), Request::ClusterInfo)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn tell(&mut self, command: ProducerCommand) {
        self.handle(Event::Done(command));
    }

    fn send(&mut self, message: Message) -> SendId {
        self.sends += 1;
        let id = SendId(self.sends);
        self.tell(ProducerCommand::Send { id, message, to: Target::Any, timeout: None });
        id
    }

    /// Answers the oldest question to a peer.
    fn answer(&mut self, peer: &str, outcome: Outcome) {
        let nth = self.calls.iter().position(|(_, to, ..)| to == peer);
        let nth = nth.unwrap_or_else(|| panic!("{peer} was asked nothing: {:?}", self.calls));
        let (call, ..) = self.calls.remove(nth);
        self.handle(Event::Answered { call, outcome });
    }

    /// Answers the oldest send, whoever was asked.
    fn answer_send(&mut self, answer: impl FnOnce(&Send<'_>, &str) -> Outcome) -> String {
        let nth = self.calls.iter().position(|(_, _, request, _)| matches!(request, Request::Send(_)));
        let (call, peer, request, _) = self.calls.remove(nth.expect("a send is out"));
        let Request::Send(send) = request else { unreachable!("it was just looked at") };
        let outcome = answer(&send, &peer);
        self.handle(Event::Answered { call, outcome });
        peer
    }

    fn sends_out(&self) -> usize {
        self.calls.iter().filter(|(_, _, request, _)| matches!(request, Request::Send(_))).count()
    }

    /// Lets time pass, waking it whenever it wants to be woken, and letting calls time out.
    fn pass(&mut self, nanos: u64) {
        let end = self.now + nanos;
        loop {
            let deadline = self.producer.deadline().map_or(u64::MAX, |Mono(at)| at);
            let call = self.calls.iter().map(|(_, _, _, Mono(until))| *until).min().unwrap_or(u64::MAX);
            let next = deadline.min(call).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if call <= next {
                let nth = self.calls.iter().position(|(_, _, _, until)| *until == Mono(call)).unwrap();
                let (id, peer, ..) = self.calls.remove(nth);
                let outcome = Err(CallError::Lost { peer, why: "time ran out".to_owned() });
                self.handle(Event::Answered { call: id, outcome });
            } else {
                self.handle(Event::Tick);
            }
        }
        self.now = end;
    }

    /// How the sends have ended since somebody asked last: `1:ok`, `2:refused(2)`, `3:unknown`.
    fn ends(&mut self) -> String {
        let ends = std::mem::take(&mut self.works).into_iter().filter_map(|work| match work {
            ProducerWork::Sent { id, outcome } => Some(format!("{}:{}", id.0, end(&outcome))),
            ProducerWork::Closed(report) => {
                Some(format!("closed({}+{}+{})", report.kept, report.refused, report.unknown))
            }
            ProducerWork::Routed { .. } | ProducerWork::Told { .. } => None,
        });
        ends.collect::<Vec<_>>().join(" ")
    }
}

fn end(outcome: &Result<Receipt, SendError>) -> String {
    let code = |code: &Option<i32>| code.map_or(String::new(), |code| format!("({code})"));
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(SendError::Refused { code: known, .. }) => format!("refused{}", code(known)),
        Err(SendError::Unknown { code: known, .. }) => format!("unknown{}", code(known)),
    }
}

fn at(mono: u64) -> Now {
    Now { mono: Mono(mono), wall: Timestamp(1_700_000_000_000) }
}

fn topic() -> Topic {
    Topic::new("T").unwrap()
}

fn message() -> Message {
    Message::new("T", "body").unwrap()
}

fn route(brokers: &[&str], perm: i32) -> Response {
    let data = RouteData {
        broker_datas: brokers
            .iter()
            .map(|name| BrokerData {
                broker_addrs: [(0, (*name).to_owned())].into(),
                broker_name: (*name).to_owned(),
                ..BrokerData::default()
            })
            .collect(),
        queue_datas: brokers
            .iter()
            .map(|name| QueueData {
                broker_name: (*name).to_owned(),
                perm,
                read_queue_nums: 2,
                write_queue_nums: 2,
                topic_sys_flag: 0,
            })
            .collect(),
        ..RouteData::default()
    };
    Response::ok().with_body(serde_json::to_vec(&data).unwrap())
}

fn no_topic() -> Outcome {
    Ok(Response::refuse(ResponseCode::TopicNotExist, "no such topic"))
}

fn code(code: ResponseCode) -> impl FnOnce(&Send<'_>, &str) -> Outcome {
    move |_, _| Ok(Response::refuse(code, "so it is"))
}

fn unreachable(_: &Send<'_>, peer: &str) -> Outcome {
    Err(CallError::Unreachable { peer: peer.to_owned(), why: "refused".to_owned() })
}

fn lost(_: &Send<'_>, peer: &str) -> Outcome {
    Err(CallError::Lost { peer: peer.to_owned(), why: "the connection ended".to_owned() })
}

fn kept(send: &Send<'_>, peer: &str) -> Outcome {
    kept_as(ResponseCode::Success, 5)(send, peer)
}

/// The whole answer to a send, with another offset, or another code.
fn kept_as(code: ResponseCode, offset: u64) -> impl FnOnce(&Send<'_>, &str) -> Outcome {
    move |send, _| {
        let queue = send.header.queue_id.to_string();
        let fields = [("msgId", "ID".to_owned()), ("queueId", queue), ("queueOffset", offset.to_string())];
        let fields = fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
        Ok(Response { code: code as i32, ..Response::ok() }.with_header(ResponseHeader::Fields(fields)))
    }
}

fn uniq_key(send: &Send<'_>) -> String {
    message::find(send.header.properties.as_deref().unwrap(), "UNIQ_KEY").unwrap().to_owned()
}

#[test]
fn a_send_waits_for_its_route_and_ends_with_a_receipt() {
    let mut world = World::new(&["ns"], |_| {});
    world.send(message().tag("red").unwrap());
    assert_eq!(world.sends_out(), 0);
    world.answer("ns", Ok(route(&["a"], 6)));
    let mut key = String::new();
    world.answer_send(|send, peer| {
        key = uniq_key(send);
        assert_eq!(message::find(send.header.properties.as_deref().unwrap(), "TAGS"), Some("red"));
        kept(send, peer)
    });
    let Some(ProducerWork::Sent { outcome: Ok(receipt), .. }) = world.works.pop() else { panic!("{:?}", world.works) };
    assert_eq!((receipt.message_id, receipt.offset, receipt.attempts), (key, keepmq_protocol::QueueOffset(5), 1));
    assert_eq!((world.producer.messages, world.producer.bytes), (0, 0));
}

#[test]
fn a_refusal_goes_elsewhere_and_what_cannot_get_better_ends() {
    let mut world = World::routed(&["a", "b"], |_| {});
    world.send(message());
    let first = world.answer_send(code(ResponseCode::SystemBusy));
    let second = world.answer_send(code(ResponseCode::ServiceNotAvailable));
    assert_ne!(first, second);
    assert_eq!(world.sends_out(), 0, "all were tried: it rests");
    world.pass(SECOND / 20);
    world.answer_send(kept);
    assert_eq!(world.ends(), "1:ok");

    world.send(message());
    world.answer_send(code(ResponseCode::MessageIllegal));
    world.send(message());
    (0..3).for_each(|_| {
        world.pass(SECOND / 5);
        world.answer_send(code(ResponseCode::TopicNotExist));
    });
    assert_eq!(world.ends(), "2:refused(13) 3:refused(17)", "three attempts, and no more");

    world.send(message());
    let mut tries = 0;
    while world.ends().is_empty() {
        if world.sends_out() > 0 {
            tries += 1;
            world.answer_send(code(ResponseCode::SystemBusy));
        }
        world.pass(SECOND / 1000);
    }
    assert!(tries > 5, "a busy broker is asked as long as there is time: {tries}");
    assert_eq!(world.producer.report.refused, 3, "and what it has refused is known");
}

#[test]
fn what_may_have_been_kept_is_sent_again_under_its_id_and_never_called_refused() {
    let mut world = World::routed(&["a"], |_| {});
    world.send(message());
    let mut keys = BTreeSet::new();
    world.answer_send(|send, peer| {
        keys.insert(uniq_key(send));
        lost(send, peer)
    });
    world.pass(SECOND / 20);
    world.answer_send(|send, peer| {
        keys.insert(uniq_key(send));
        kept(send, peer)
    });
    assert_eq!((world.ends().as_str(), keys.len()), ("1:ok", 1));

    world.send(message());
    world.answer_send(code(ResponseCode::FlushDiskTimeout));
    world.pass(SECOND / 20);
    world.answer_send(code(ResponseCode::SystemBusy));
    world.pass(SECOND / 10);
    world.answer_send(code(ResponseCode::MessageIllegal));
    assert_eq!(world.ends(), "2:unknown(13)");
    world.send(message());
    world.answer_send(code(ResponseCode::SystemError));
    world.pass(3 * SECOND);
    assert_eq!(world.ends(), "3:unknown", "SYSTEM_ERROR says nothing; the next attempts were not answered");
}

#[test]
fn attempts_that_reach_nobody_do_not_count_and_end_with_the_time() {
    let mut world = World::routed(&["a"], |_| {});
    world.send(message());
    let mut tries = 0;
    while world.ends().is_empty() {
        if world.sends_out() > 0 {
            tries += 1;
            world.answer_send(unreachable);
        }
        world.pass(SECOND / 1000);
        assert!(world.now <= 4 * SECOND);
    }
    assert!(tries > 3, "{tries}");
    assert_eq!(world.producer.report.refused, 1, "nothing was ever sent: that is known");

    world.send(message());
    let began = world.now;
    world.pass(10 * SECOND);
    assert_eq!(world.ends(), "2:unknown");
    assert!(world.calls.iter().all(|(_, _, request, _)| !matches!(request, Request::Send(_))));
    assert!(world.now >= began + 3 * SECOND);
}

#[test]
fn an_answer_that_does_not_fit_is_not_believed() {
    let mut world = World::routed(&["a"], |config| config.retries = 0);
    world.send(message());
    world.answer_send(|send, _| {
        let other = (send.header.queue_id + 1).to_string();
        let fields = [("msgId", "ID".to_owned()), ("queueId", other), ("queueOffset", "5".to_owned())];
        let fields = fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
        Ok(Response::ok().with_header(ResponseHeader::Fields(fields)))
    });
    world.send(message());
    world.answer_send(|_, _| Ok(Response::ok()));
    assert_eq!(world.ends(), "1:unknown(0) 2:unknown(0)");
}

#[test]
fn a_key_keeps_its_queue_when_its_broker_is_away() {
    let mut world = World::routed(&["a", "b"], |_| {});
    let keyed = || message().sharding_key("k").unwrap();
    let queue_of = |world: &mut World| {
        let mut queue = None;
        let peer = world.answer_send(|send, peer| {
            queue = Some(send.header.queue_id);
            kept(send, peer)
        });
        (peer, queue)
    };
    world.send(keyed());
    let first = queue_of(&mut world);
    world.send(keyed());
    world.answer_send(code(ResponseCode::SystemBusy));
    world.pass(SECOND / 20);
    assert_eq!(queue_of(&mut world), first, "a retry stays");
    world.ends();
    let away = [if first.0 == "a" { "b" } else { "a" }];
    let polls = |world: &mut World| {
        (0..80).for_each(|_| {
            world.pass(SECOND / 2);
            world.hear_heartbeats();
            while world.calls.iter().any(|(_, peer, ..)| peer == "ns") {
                world.answer("ns", Ok(route(&away, 6)));
            }
        });
    };
    polls(&mut world);
    world.send(keyed());
    world.answer("ns", Ok(route(&["a", "b"], 6)));
    world.pass(SECOND / 10);
    assert_eq!(queue_of(&mut world), first, "who waits for it asks whether it is back");
    assert_eq!(world.ends(), "3:ok");
    polls(&mut world);
    world.send(keyed());
    world.pass(4 * SECOND);
    assert_eq!(world.ends(), "4:refused", "its queue is away, and no other will do");
}

#[test]
fn the_window_is_bounded_before_anything_is_kept() {
    let mut world = World::routed(&["a"], |config| (config.in_flight, config.in_flight_bytes) = (2, 10));
    world.send(message());
    world.send(message());
    world.send(message());
    assert_eq!(world.ends(), "3:refused");
    world.answer_send(kept);
    world.send(Message::new("T", "seven b").unwrap());
    world.send(Message::new("T", vec![0; 5 << 20]).unwrap());
    assert_eq!(world.ends(), "1:ok 4:refused 5:refused");
    world.answer_send(kept);
    assert_eq!((world.ends().as_str(), world.producer.messages, world.producer.bytes), ("2:ok", 0, 0));
}

#[test]
fn batches_are_split_and_each_message_has_an_end() {
    let mut world = World::routed(&["a"], |config| config.max_batch_bytes = 1000);
    let messages = (0..10).map(|n| (SendId(n), Message::new("T", vec![b'x'; 200]).unwrap())).collect();
    world.tell(ProducerCommand::SendBatch { messages, to: Target::Any, timeout: None });
    let mut sizes = Vec::new();
    while world.sends_out() > 0 {
        world.answer_send(|send, peer| {
            // One that is left over goes by itself.
            sizes.push(if send.via == SendVia::Batch { message::batch(&send.body, 100).unwrap().len() } else { 1 });
            kept(send, peer)
        });
    }
    assert_eq!(sizes.iter().sum::<usize>(), 10);
    assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= 4), "{sizes:?}");
    let offsets = world.works.iter().map(|work| match work {
        ProducerWork::Sent { outcome: Ok(receipt), .. } => receipt.offset.0,
        other => panic!("{other:?}"),
    });
    let by_part: Vec<u64> = sizes.iter().flat_map(|size| 5..5 + *size as u64).collect();
    assert_eq!(offsets.collect::<Vec<_>>(), by_part);
}

#[test]
fn large_bodies_are_packed_anew_for_each_attempt() {
    let mut world = World::routed(&["a"], |_| {});
    world.send(Message::new("T", vec![b'x'; 10_000]).unwrap());
    let mut bodies = Vec::new();
    let unpacked = |send: &Send<'_>| {
        assert_eq!(send.header.sys_flag, 0x301);
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&send.body[..]), &mut body).unwrap();
        body
    };
    world.answer_send(|send, peer| {
        bodies.push(unpacked(send));
        lost(send, peer)
    });
    world.pass(SECOND / 20);
    world.answer_send(|send, peer| {
        bodies.push(unpacked(send));
        kept(send, peer)
    });
    assert_eq!(bodies, [vec![b'x'; 10_000], vec![b'x'; 10_000]]);
}

#[test]
fn a_topic_that_nobody_knows_is_created_by_the_default_topics_settings() {
    let mut world = World::new(&["ns"], |config| config.default_topic_queues = 1);
    world.send(message());
    world.answer("ns", no_topic());
    world.answer("ns", Ok(route(&["a"], 7)));
    world.answer_send(|send, peer| {
        assert_eq!((&*send.header.topic, send.header.queue_id, send.header.default_topic_queues), ("T", 0, 1));
        kept(send, peer)
    });
    assert_eq!(world.ends(), "1:ok");

    let mut world = World::new(&["ns"], |_| {});
    world.send(message());
    while world.ends().is_empty() {
        while world.calls.iter().any(|(_, peer, ..)| peer == "ns") {
            world.answer("ns", no_topic());
        }
        world.pass(SECOND / 50);
        assert!(world.now < 4 * SECOND);
    }
    assert!(world.now >= 3 * SECOND, "it may be about to come: within the time of the send it is waited for");
}

#[test]
fn a_route_is_given_up_only_when_most_name_servers_say_so() {
    let mut world = World::new(&["n1", "n2", "n3"], |config| config.client.poll_name_servers = Duration::from_secs(1));
    world.send(message());
    world.answer("n1", Ok(route(&["a"], 6)));
    world.answer_send(kept);
    world.hear_heartbeats();
    world.pass(SECOND);
    world.answer("n1", no_topic());
    world.answer("n2", Err(CallError::Lost { peer: "n2".to_owned(), why: "gone".to_owned() }));
    world.answer("n3", Err(CallError::Lost { peer: "n3".to_owned(), why: "gone".to_owned() }));
    world.send(message());
    world.answer_send(kept);
    assert_eq!(world.ends(), "1:ok 2:ok", "one that knows nothing may just have started");
    world.pass(SECOND);
    world.answer("n1", no_topic());
    world.answer("n2", no_topic());
    world.answer("n3", Err(CallError::Lost { peer: "n3".to_owned(), why: "gone".to_owned() }));
    world.send(message());
    assert_eq!(world.sends_out(), 0);
}

#[test]
fn name_servers_that_do_not_answer_are_passed_over_and_named() {
    let gone = |peer: &str| Err(CallError::Unreachable { peer: peer.to_owned(), why: "refused".to_owned() });
    let mut world = World::new(&["n1", "n2"], |_| {});
    world.send(message());
    world.answer("n1", gone("n1"));
    world.answer("n2", Ok(route(&["a"], 6)));
    world.answer_send(kept);
    assert_eq!(world.ends(), "1:ok");

    let mut world = World::new(&["n1", "n2"], |_| {});
    world.send(message());
    while world.works.is_empty() {
        while let Some((_, peer, ..)) = world.calls.first() {
            let peer = peer.clone();
            world.answer(&peer, gone(&peer));
        }
        world.pass(SECOND / 50);
    }
    let Some(ProducerWork::Sent { outcome: Err(SendError::Refused { why, .. }), .. }) = world.works.pop() else {
        panic!()
    };
    assert!(why.contains("n1: refused") && why.contains("n2: refused"), "{why}");
}

#[test]
fn brokers_hear_of_the_producer_and_of_its_end() {
    let mut world = World::new(&["ns"], |_| {});
    world.send(message());
    world.answer("ns", Ok(route(&["a"], 6)));
    let beats = |world: &World| world.calls.iter().filter(|(_, _, r, _)| matches!(r, Request::Heartbeat(_))).count();
    assert_eq!(beats(&world), 1);
    world.hear_heartbeats();
    world.answer_send(kept);
    world.pass(29 * SECOND);
    assert_eq!(beats(&world), 0);
    world.pass(2 * SECOND);
    assert!(beats(&world) > 0);
    world.hear_heartbeats();
    world.calls.clear();
    world.tell(ProducerCommand::Close { within: Duration::from_secs(1) });
    let leaves = |request: &Request<'_>| matches!(request, Request::Unregister(u) if u.producer_group.as_deref() == Some("producers"));
    assert!(world.calls.iter().any(|(_, peer, request, _)| peer == "a" && leaves(request)));
    world.answer("a", Ok(Response::ok()));
    assert_eq!((world.ends().as_str(), world.exits), ("1:ok closed(1+0+0)", 1));
    assert_eq!(world.producer.deadline(), None);
}

#[test]
fn closing_ends_every_send_explicitly() {
    let mut world = World::routed(&["a"], |_| {});
    world.send(message());
    world.send(message());
    world.answer_send(code(ResponseCode::SystemBusy));
    world.tell(ProducerCommand::Close { within: Duration::from_millis(1) });
    world.send(message());
    world.pass(SECOND);
    assert_eq!(world.ends(), "3:refused 1:refused(2) 2:unknown closed(0+2+1)");
    assert_eq!(world.exits, 1);
}

#[test]
fn oneway_messages_are_told_and_forgotten() {
    let mut world = World::routed(&["a"], |_| {});
    world.tell(ProducerCommand::SendOneway { message: message(), to: Target::Any });
    assert!(matches!(&world.told[..], [(peer, Request::Send(_))] if peer == "a"));
    let mut world = World::new(&["ns"], |_| {});
    world.tell(ProducerCommand::SendOneway { message: message(), to: Target::Any });
    world.answer("ns", Ok(route(&["a"], 6)));
    assert_eq!(world.told.len(), 1, "it waited for its route");
    let told = world.works.iter().filter(|work| matches!(work, ProducerWork::Told { bytes: 4 }));
    assert_eq!(told.count(), 1, "and then gave its room back");
}

#[test]
fn what_a_producer_does_not_serve_is_refused() {
    let mut world = World::routed(&["a"], |_| {});
    let from =
        Caller { conn: Conn(1), opaque: 1, form: Form::Json, oneway: false, version: 0, language: Language::Java };
    world.handle(Event::Request { from, request: Request::ClusterInfo });
    world.handle(Event::Request { from: Caller { oneway: true, ..from }, request: Request::ClusterInfo });
    assert_eq!(world.told.len(), 1);
}

#[test]
fn each_name_server_is_asked_once_though_another_answer_changes_who_comes_first() {
    let gone = || Err(CallError::Lost { peer: "ns".to_owned(), why: "gone".to_owned() });
    let mut world = World::new(&["n1", "n2", "n3"], |_| {});
    world.tell(ProducerCommand::Route { topic: Topic::new("U").unwrap() });
    world.send(message());
    world.answer("n1", gone());
    world.answer("n2", Ok(route(&["a"], 6)));
    world.hear_heartbeats();
    let mut asked = Vec::new();
    while let Some((_, peer, ..)) = world.calls.first() {
        asked.push(peer.clone());
        world.answer(&asked[asked.len() - 1], gone());
    }
    assert_eq!(asked, ["n1", "n2", "n3"], "two answers of one server would pass for a majority");
}

#[test]
fn properties_that_leave_no_room_for_the_id_are_refused() {
    let mut world = World::routed(&["a"], |_| {});
    let full = || message().property("n", &"x".repeat(32_767 - 3)).unwrap();
    let messages = vec![(SendId(1), full()), (SendId(2), full()), (SendId(3), message())];
    world.tell(ProducerCommand::SendBatch { messages, to: Target::Any, timeout: None });
    world.answer_send(kept);
    assert_eq!(world.ends(), "1:refused 2:refused 3:ok");
}

#[test]
fn keys_of_a_topic_that_was_created_on_one_broker_create_it_on_the_other() {
    let mut world = World::new(&["ns"], |_| {});
    let mut peers = BTreeSet::new();
    let mut keyed = |world: &mut World, n: u32| {
        world.send(message().sharding_key(&format!("key {n}")).unwrap());
        while world.calls.iter().any(|(_, peer, ..)| peer == "ns") {
            let nth = world.calls.iter().position(|(_, peer, ..)| peer == "ns").unwrap();
            let Request::RouteInfo(info) = &world.calls[nth].2 else { unreachable!() };
            let answer = match (&*info.topic, n) {
                ("TBW102", _) => Ok(route(&["a", "b"], 7)),
                (_, 0) => no_topic(),
                _ => Ok(route(&["a"], 6)),
            };
            world.answer("ns", answer);
        }
        world.hear_heartbeats();
        assert_eq!(world.sends_out(), 1, "key {n}");
        peers.insert(world.answer_send(kept));
        world.pass(SECOND / 5);
    };
    (0..20).for_each(|n| keyed(&mut world, n));
    assert_eq!(peers.len(), 2);
}

#[test]
fn a_broker_without_a_queue_to_write_to_is_no_other_broker() {
    let mut world = World::new(&["ns"], |_| {});
    world.send(message());
    let mut data: RouteData = serde_json::from_slice(&route(&["a", "b"], 6).body.concat()).unwrap();
    data.queue_datas[1].perm = 4;
    world.answer("ns", Ok(Response::ok().with_body(serde_json::to_vec(&data).unwrap())));
    world.answer_send(code(ResponseCode::SystemBusy));
    assert_eq!(world.sends_out(), 0, "it is the only one: it rests");
}

#[test]
fn what_rocketmq_refuses_for_good_is_refused_and_tried_elsewhere() {
    for refusal in [204, 205] {
        let mut world = World::routed(&["a", "b"], |config| config.retries = 1);
        world.send(message());
        (0..2).for_each(|_| {
            world.answer_send(|_, _| Ok(Response { code: refusal, ..Response::ok() }));
        });
        assert_eq!(world.ends(), format!("1:refused({refusal})"));
    }
}

#[test]
fn a_queue_of_another_topic_is_refused_at_once() {
    let mut world = World::routed(&["a"], |_| {});
    let queue = MessageQueue { topic: Topic::new("U").unwrap(), broker: BrokerName::new("a").unwrap(), id: 0 };
    world.tell(ProducerCommand::Send {
        id: SendId(1),
        message: message(),
        to: Target::Queue(queue.clone()),
        timeout: None,
    });
    assert_eq!(world.ends(), "1:refused");
    world.tell(ProducerCommand::SendOneway { message: message(), to: Target::Queue(queue) });
    assert!(world.told.is_empty());
}

#[test]
fn oneway_messages_that_wait_are_bounded_and_counted_when_they_are_dropped() {
    let mut world = World::new(&["ns"], |config| config.in_flight_bytes = 10);
    let oneway = || ProducerCommand::SendOneway { message: message(), to: Target::Any };
    world.tell(oneway());
    world.tell(oneway());
    world.tell(oneway());
    assert_eq!((world.producer.bytes, world.producer.report.dropped), (8, 1));
    world.pass(4 * SECOND);
    assert_eq!((world.producer.messages, world.producer.bytes, world.producer.report.dropped), (0, 0, 3));
}

#[test]
fn nothing_follows_the_end() {
    let mut world = World::new(&["n1", "n2"], |_| {});
    world.tell(ProducerCommand::Route { topic: topic() });
    world.tell(ProducerCommand::Close { within: Duration::ZERO });
    assert!(matches!(&world.works[..], [ProducerWork::Routed { outcome: Err(_), .. }, ProducerWork::Closed(_)]));
    let asked = world.calls.len();
    world.answer("n1", no_topic());
    assert_eq!((world.calls.len(), world.works.len()), (asked - 1, 2), "no other name server is asked");
    assert_eq!(world.exits, 1);
}

#[test]
fn who_asks_for_queues_during_the_farewell_is_answered() {
    let mut world = World::routed(&["a"], |_| {});
    world.tell(ProducerCommand::Close { within: Duration::ZERO });
    world.tell(ProducerCommand::Route { topic: Topic::new("U").unwrap() });
    world.pass(SECOND);
    assert!(world.works.iter().any(|work| matches!(work, ProducerWork::Routed { .. })), "{:?}", world.works);
}

#[test]
fn a_message_that_is_not_on_disk_yet_gets_no_receipt_though_its_place_is_told() {
    for lesser in [ResponseCode::FlushDiskTimeout, ResponseCode::SlaveNotAvailable, ResponseCode::FlushSlaveTimeout] {
        let mut world = World::routed(&["a"], |config| config.retries = 0);
        world.send(message());
        world.answer_send(kept_as(lesser, 5));
        assert_eq!(world.ends(), format!("1:unknown({})", lesser as i32));
    }
}

#[test]
fn each_send_gets_its_own_answer() {
    let mut world = World::routed(&["a"], |_| {});
    let queue = MessageQueue { topic: topic(), broker: BrokerName::new("a").unwrap(), id: 1 };
    for id in 1..=3 {
        let to = Target::Queue(queue.clone());
        world.tell(ProducerCommand::Send { id: SendId(id), message: message(), to, timeout: None });
    }
    // In the order in which they were asked: 10, 11, 12.
    (10..13).for_each(|offset| {
        world.answer_send(kept_as(ResponseCode::Success, offset));
    });
    let offsets = world.works.iter().map(|work| match work {
        ProducerWork::Sent { id, outcome: Ok(receipt) } => (id.0, receipt.offset.0),
        other => panic!("{other:?}"),
    });
    assert_eq!(offsets.collect::<Vec<_>>(), [(1, 10), (2, 11), (3, 12)]);
}

#[test]
fn what_is_sent_in_one_turn_goes_out_together_and_is_refused_by_itself() {
    let mut world = World::routed(&["a"], |config| config.compress_over = 100);
    let turn = |world: &mut World, sends: &[(&str, usize)]| {
        let id = |world: &mut World| {
            world.sends += 1;
            SendId(world.sends)
        };
        for (topic, len) in sends {
            let (id, message) = (id(world), Message::new(topic, vec![b'b'; *len]).unwrap());
            let command = ProducerCommand::Send { id, message, to: Target::Any, timeout: None };
            world.producer.handle(Event::Done(command), at(world.now));
        }
        world.handle(Event::Tick);
    };
    let requests = |world: &World| -> Vec<(bool, usize)> {
        let sends = world.calls.iter().filter_map(|(_, _, request, _)| match request {
            Request::Send(send) => Some((send.via == SendVia::Batch, send.body.len())),
            _ => None,
        });
        sends.collect()
    };

    // The third is worth compressing, and goes by itself.
    turn(&mut world, &[("T", 10), ("T", 20), ("T", 200), ("T", 30)]);
    let out = requests(&world);
    assert_eq!(out.iter().filter(|(batch, _)| *batch).count(), 1, "{out:?}");
    assert_eq!(out.len(), 2, "{out:?}");
    world.answer_send(kept);
    world.answer_send(kept);
    let mut ends: Vec<String> = world.ends().split(' ').map(str::to_owned).collect();
    ends.sort();
    assert_eq!(ends, ["1:ok", "2:ok", "3:ok", "4:ok"]);

    // A broker that refuses them together is asked for each, and only the one that it does not like is refused.
    turn(&mut world, &[("T", 10), ("T", 11)]);
    world.answer_send(code(ResponseCode::MessageIllegal));
    assert_eq!(requests(&world), [(false, 10), (false, 11)]);
    world.answer_send(code(ResponseCode::MessageIllegal));
    world.answer_send(kept);
    assert_eq!(world.ends(), "5:refused(13) 6:ok");

    // What may have been kept is not taken apart.
    turn(&mut world, &[("T", 10), ("T", 11)]);
    world.answer_send(lost);
    world.pass(SECOND / 20);
    world.answer_send(code(ResponseCode::MessageIllegal));
    assert_eq!(world.ends(), "7:unknown(13) 8:unknown(13)");

    // One that does not know batches is not sent another.
    turn(&mut world, &[("T", 10), ("T", 11)]);
    world.answer_send(code(ResponseCode::RequestCodeNotSupported));
    world.answer_send(kept);
    world.answer_send(kept);
    turn(&mut world, &[("T", 10), ("T", 11)]);
    assert_eq!(requests(&world).len(), 2);
    world.answer_send(kept);
    world.answer_send(kept);
    assert_eq!(world.ends(), "9:ok 10:ok 11:ok 12:ok");
    assert_eq!((world.producer.messages, world.producer.bytes), (0, 0));

    // Closing in the same turn drops none of them.
    let mut world = World::routed(&["a"], |_| {});
    for id in 1..=2 {
        let command = ProducerCommand::Send { id: SendId(id), message: message(), to: Target::Any, timeout: None };
        world.producer.handle(Event::Done(command), at(0));
    }
    world.tell(ProducerCommand::Close { within: Duration::from_secs(1) });
    world.answer_send(kept);
    assert_eq!(world.ends(), "1:ok 2:ok");
}
