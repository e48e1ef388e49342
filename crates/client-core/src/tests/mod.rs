//! Name servers and brokers that answer anything, and the clients that live with them.
//!
//! Each case is a life: a list of steps, drawn by proptest, and then the end. An answer is honest, or one of [`World::hostile`].
//! Whatever comes, no core panics, asks for time that is over, spins, or breaks what its documentation says of its works.

mod producer;
mod pull;
mod push;
mod routes;

use crate::config::ClientConfig;
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::request::{ConsumersChanged, Pull};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{CallError, CallId, Conn, Core, Effect, Event, Outcome};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Request, Response, ResponseCode, Topic};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config, RngSeed};
use std::time::Duration;

const MS: u64 = 1_000_000;
/// Names of fields that anybody reads, in any answer.
const FIELDS: [&str; 7] =
    ["queueId", "queueOffset", "msgId", "offset", "nextBeginOffset", "suggestWhichBrokerId", "maxOffset"];
const VALUES: [&str; 12] =
    ["0", "1", "7", "-1", "", " 3", "1.5", "NaN", "2147483648", "9223372036854775807", "9223372036854775808", "é\u{1}"];

/// Bodies that are JSON, and not what was asked for.
const STRANGE: [&str; 8] = [
    "null",
    "[]",
    "{}",
    r#"{"consumerIdList":null}"#,
    r#"{"consumerIdList":["me","me","","me"]}"#,
    r#"{"consumerIdList":[1,true]}"#,
    r#"{"consumerIdList":"me"}"#,
    r#"{"brokerDatas":{},"queueDatas":7}"#,
];

/// One thing that happens: which, and what is drawn for it.
type Step = (u8, u64);

fn life() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((any::<u8>(), any::<u64>()), 1..160)
}

/// Enough to try each kind of answer to each request often; the swarm is the simulator's. The same lives every time, unless
/// `PROPTEST_RNG_SEED` asks for others.
fn cases(cases: u32) -> Config {
    let rng_seed = match Config::default().rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    Config { failure_persistence: None, rng_seed, ..Config::with_cases(cases) }
}

fn client() -> ClientConfig {
    ClientConfig::new(vec!["ns1".to_owned(), "ns2".to_owned()], "me".to_owned(), vec![127, 0, 0, 1], 1, 7)
}

/// A core, and all that it has asked.
struct World<C: Core> {
    core: C,
    now: u64,
    calls: Vec<(CallId, String, Request<'static>, Mono)>,
    /// What it wanted done and what it wanted kept, in order, each with its time.
    seen: Vec<(u64, Seen<C::Work>)>,
    exits: usize,
}

enum Seen<W> {
    Work(W),
    /// The offset that a group shall have.
    Commit(MessageQueue, QueueOffset),
}

impl<C: Core> World<C> {
    fn new(core: C) -> Self {
        let mut world = Self { core, now: 0, calls: Vec::new(), seen: Vec::new(), exits: 0 };
        world.handle(Event::Tick);
        world
    }

    fn handle(&mut self, event: Event<'_, C::Done>) {
        let now = Now { mono: Mono(self.now), wall: Timestamp(1_700_000_000_000) };
        let reply_due = matches!(&event, Event::Request { from, .. } if !from.oneway);
        let mut replies = 0;
        self.core.handle(event, now);
        while let Some(effect) = self.core.poll_effect() {
            assert_eq!(self.exits, 0, "nothing follows Exit: {effect:?}");
            match effect {
                Effect::Call { call, peer, request, until } => {
                    assert!(until > now.mono, "a question without time: {request:?}");
                    if let Request::UpdateOffset(update) = &request {
                        let at = queue(&peer[..1], u32::try_from(update.queue_id).unwrap());
                        let offset = QueueOffset(u64::try_from(update.offset).unwrap());
                        self.seen.push((self.now, Seen::Commit(at, offset)));
                    }
                    self.calls.push((call, peer, request, until));
                }
                Effect::Work(work) => self.seen.push((self.now, Seen::Work(work))),
                Effect::Tell { .. } => {}
                Effect::Reply { .. } => replies += 1,
                Effect::Exit(_) => self.exits += 1,
                other => panic!("a client does not do this: {other:?}"),
            }
        }
        if self.exits == 0 {
            assert!(replies <= usize::from(reply_due), "each request has one answer at most");
        }
        assert!(self.exits == 0 || self.core.deadline().is_none(), "who has ended waits for nothing");
    }

    /// Answers the nth question.
    fn answer(&mut self, nth: usize, outcome: Outcome) {
        let (call, ..) = self.calls.remove(nth);
        self.handle(Event::Answered { call, outcome });
    }

    /// Something that a broker says unasked.
    fn be_told(&mut self, chance: &mut Chance, group: &str) {
        let from = Caller {
            conn: Conn(1),
            opaque: 1,
            form: Form::Json,
            oneway: chance.one_in(2),
            version: 0,
            language: Language::default(),
        };
        let request = match chance.below(3) {
            0 => Request::ConsumersChanged(ConsumersChanged { group: group.to_owned().into() }),
            1 => Request::ConsumersChanged(ConsumersChanged { group: "others".into() }),
            _ => Request::ClusterInfo,
        };
        self.handle(Event::Request { from, request });
    }

    /// Lets time pass: the core is woken when it wants to be; calls run out of time, of which `hear` hears.
    fn pass(&mut self, nanos: u64, mut hear: impl FnMut(&Request<'static>, &Outcome)) {
        let end = self.now.saturating_add(nanos);
        let mut turns = 0;
        while self.exits == 0 {
            let wake = self.core.deadline().map_or(u64::MAX, |Mono(at)| at).max(self.now);
            let nth = (0..self.calls.len()).min_by_key(|nth| self.calls[*nth].3);
            let lost = nth.map_or(u64::MAX, |nth| self.calls[nth].3.0);
            if wake.min(lost) > end {
                break;
            }
            turns += 1;
            assert!(turns < 20_000, "it spins: {:?}", self.core.deadline());
            self.now = wake.min(lost);
            match nth.filter(|_| lost <= wake) {
                Some(nth) => {
                    let lost = Err(CallError::Lost { peer: self.calls[nth].1.clone(), why: "time ran out".to_owned() });
                    hear(&self.calls[nth].2, &lost);
                    self.answer(nth, lost);
                }
                None => self.handle(Event::Tick),
            }
        }
        self.now = end;
    }

    /// A wake-up must lead to another deadline than the one that is over.
    fn does_not_spin(&mut self) {
        for _ in 0..3 {
            if self.core.deadline().is_none_or(|at| at > Mono(self.now)) {
                return;
            }
            self.handle(Event::Tick);
        }
        panic!("it wants to be woken at {:?}, again and again, and it is {}", self.core.deadline(), self.now);
    }

    /// The answer of somebody who is broken, or wants to break us. `honest` is what it is made from.
    fn hostile(chance: &mut Chance, peer: &str, honest: Response) -> Outcome {
        let why = || "so it is".to_owned();
        match chance.below(10) {
            0 => return Err(CallError::Lost { peer: peer.to_owned(), why: why() }),
            1 => return Err(CallError::Unreachable { peer: peer.to_owned(), why: why() }),
            _ => {}
        }
        let mut response = honest;
        if chance.one_in(2) {
            let random = i32::from_be_bytes(chance.word().to_be_bytes()[..4].try_into().unwrap());
            let code = [0, 0, 0, 1, 2, 10, 11, 12, 13, 14, 16, 17, 19, 20, 21, 22, 29, 204, -1, 999, random];
            response.code = *chance.pick(&code);
        }
        if chance.one_in(3) {
            response.remark = Some((*chance.pick(&["", "a\0b", "[REJECTREQUEST]"])).into());
        }
        if chance.one_in(2) {
            let mut fields = Vec::new();
            for name in FIELDS {
                if chance.below(4) > 0 {
                    fields.push((name.into(), (*chance.pick(&VALUES)).to_owned()));
                }
            }
            response.header = ResponseHeader::Fields(fields);
        }
        if chance.one_in(2) {
            let bytes = mutated(chance, response.body.concat());
            let at = chance.below(1 + bytes.len() as u64) as usize;
            response.body.clear();
            // A body may come in pieces.
            for piece in [&bytes[..at], &bytes[at..]] {
                response.body.push(piece.to_vec().into());
            }
        }
        Ok(response)
    }
}

/// Other bytes, most often made from these.
fn mutated(chance: &mut Chance, mut bytes: Vec<u8>) -> Vec<u8> {
    let random = |chance: &mut Chance, most| (0..chance.below(most)).map(|_| chance.word() as u8).collect::<Vec<u8>>();
    match chance.below(8) {
        0 => return random(chance, 300),
        1 => bytes.truncate(chance.below(1 + bytes.len() as u64) as usize),
        2 => bytes.extend(random(chance, 20)),
        3 => bytes = bytes.repeat(2),
        4 => return chance.pick(&STRANGE).as_bytes().to_vec(),
        _ => {
            for _ in 0..=chance.below(3) {
                if let Some(at) = (bytes.len() as u64).checked_sub(1).map(|last| chance.below(last + 1) as usize) {
                    bytes[at] ^= 1 << chance.below(8);
                }
            }
        }
    }
    bytes
}

fn topic() -> Topic {
    Topic::new("T").unwrap()
}

fn queue(broker: &str, id: u32) -> MessageQueue {
    MessageQueue { topic: topic(), broker: BrokerName::new(broker).unwrap(), id }
}

/// Two brokers with two queues each; now and then only one, or another number.
fn route(chance: &mut Chance) -> Response {
    let brokers = *chance.pick(&[&["a", "b"] as &[&str], &["a", "b"], &["a", "b"], &["a", "b"], &["a"], &["b"], &[]]);
    let queues = *chance.pick(&[2, 2, 2, 2, 2, 1, 3]);
    let perm = *chance.pick(&[6, 6, 6, 6, 6, 6, 4, 2, 0]);
    let data = RouteData {
        broker_datas: brokers
            .iter()
            .map(|name| BrokerData {
                broker_addrs: [(0, format!("{name}:0")), (1, format!("{name}:1"))].into(),
                broker_name: (*name).to_owned(),
                ..BrokerData::default()
            })
            .collect(),
        queue_datas: brokers
            .iter()
            .map(|name| QueueData {
                broker_name: (*name).to_owned(),
                perm,
                read_queue_nums: queues,
                write_queue_nums: queues,
                topic_sys_flag: 0,
            })
            .collect(),
        ..RouteData::default()
    };
    Response::ok().with_body(serde_json::to_vec(&data).unwrap())
}

/// The body that every broker has at this place.
fn body(queue: &MessageQueue, offset: u64) -> String {
    format!("{} {offset}", queue.id)
}

/// The records that a broker has from `pull` on, some of them wanted by nobody.
fn records(chance: &mut Chance, pull: &Pull<'_>) -> Response {
    use crate::received::tests::record;
    use keepmq_protocol::response::PullReply;
    let at = queue("a", u32::try_from(pull.queue_id).unwrap());
    let from = u64::try_from(pull.offset).unwrap();
    let count = chance.below(4).min(i64::MAX as u64 - from);
    let one = |offset| {
        let tag = if offset % 5 == 4 { "no" } else { "yes" };
        record(&at, offset, 0, body(&at, offset).as_bytes(), &format!("TAGS\u{1}{tag}\u{2}"))
    };
    let bytes: Vec<u8> = (from..from + count).flat_map(one).collect();
    let code = if count == 0 { ResponseCode::PullNotFound } else { ResponseCode::Success };
    let next = QueueOffset(from + count);
    let reply = PullReply { suggest_broker: chance.below(3) as i64, next, min: QueueOffset(0), max: next };
    Response::new(code).with_header(ResponseHeader::Pull(reply)).with_body(bytes)
}

/// What a healthy name server or broker says.
fn honest(chance: &mut Chance, request: &Request<'_>) -> Response {
    match request {
        Request::RouteInfo(_) => route(chance),
        Request::Pull(pull) => records(chance, pull),
        Request::QueryOffset(_) if chance.one_in(2) => Response::refuse(ResponseCode::QueryNotFound, "none"),
        Request::QueryOffset(_) | Request::MinOffset(_) | Request::MaxOffset(_) | Request::SearchOffset(_) => {
            Response::ok().with_header(ResponseHeader::Offset(chance.below(20) as i64))
        }
        Request::ConsumerList(_) => {
            let members = chance.pick(&[r#"["me"]"#, r#"["me"]"#, r#"["me"]"#, r#"["me","you"]"#, r#"["you"]"#, "[]"]);
            Response::ok().with_body(format!(r#"{{"consumerIdList":{members}}}"#))
        }
        _ => Response::ok(),
    }
}

/// What a consumer may give to its user: what was stored, where it was stored.
fn is_true(message: &crate::Received) {
    let QueueOffset(offset) = message.offset;
    assert_eq!(message.body, body(&message.queue, offset), "{:?} at {offset}", message.queue);
    assert_eq!(message.tag(), Some("yes"), "the others are not wanted");
}

/// Once in how many times an answer is hostile, in this life.
fn lie(life: &[Step]) -> u64 {
    *Chance::new(life.len() as u64).pick(&[2, 4, 10])
}

/// One of the questions is answered to a consumer; once in `lie` times as nobody should. Which, and how.
fn answer_consumer<C: Core>(
    world: &mut World<C>,
    chance: &mut Chance,
    lie: u64,
) -> Option<(Request<'static>, Outcome)> {
    let most = (world.calls.len() as u64).checked_sub(1)?;
    let nth = chance.below(most + 1) as usize;
    let (_, peer, request, _) = &world.calls[nth];
    let (peer, request) = (peer.clone(), request.clone());
    let good = honest(chance, &request);
    let body = good.body.clone();
    let mut outcome = if chance.one_in(lie) { World::<C>::hostile(chance, &peer, good) } else { Ok(good) };
    if let (Request::RouteInfo(_), Ok(response)) = (&request, &mut outcome) {
        // Strange routes are looked at elsewhere; here an address tells whose it is.
        response.body = body;
    }
    world.answer(nth, outcome.clone());
    Some((request, outcome))
}

fn short_time(chance: &mut Chance) -> u64 {
    *chance.pick(&[1, 60, 300, 1_100, 5_000, 31_000]) * MS
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
