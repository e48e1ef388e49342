//! What name servers and brokers answer, as a consumer reads it.
//!
//! An input is a life of a consumer, step by step: which of its questions is answered, and how. Some answers are as they should
//! be, or a route would hardly ever be found, and nothing behind it reached.

use crate::input::Input;
use bytes::Bytes;
use keepmq_client_core::{Batch, ClientConfig, PushCommand, PushConfig, PushConsumer, PushWork, Subscription, Verdict};
use keepmq_protocol::body::{BrokerData, QueueData, RouteData};
use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::record::{Draft, Place, crc};
use keepmq_protocol::request::{ConsumersChanged, Pull};
use keepmq_protocol::response::{PullReply, ResponseHeader};
use keepmq_protocol::seam::{CallError, CallId, Conn, Core, Effect, Event, Outcome};
use keepmq_protocol::{LogOffset, QueueOffset, Request, Response, ResponseCode, Topic};
use keepmq_world::{Mono, Now, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

const TOPIC: &str = "T";
const BROKER: &str = "a";
/// Fields that a consumer reads in one answer or another.
const FIELDS: [&str; 4] = ["offset", "nextBeginOffset", "maxOffset", "suggestWhichBrokerId"];
const STEPS_MAX: usize = 200;
/// Wake-ups that may lead to nothing before a consumer counts as one that spins.
const WAKES_MAX: usize = 1000;

pub(crate) fn answers(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut life = Life::new();
    for _ in 0..STEPS_MAX {
        if life.over || life.step(&mut input).is_none() {
            break;
        }
    }
    // Whatever it was told, it ends when it is to end.
    life.handle(Event::Done(PushCommand::Close { within: Duration::from_secs(1) }));
    life.pass(Duration::from_secs(120));
    assert!(life.over, "it was told to end two minutes ago");
}

struct Life {
    core: PushConsumer,
    now: Duration,
    calls: VecDeque<(CallId, Request<'static>, Mono)>,
    running: VecDeque<Batch>,
    over: bool,
}

impl Life {
    fn new() -> Self {
        let client = ClientConfig::new(vec!["ns:1".to_owned()], "me".to_owned(), vec![127, 0, 0, 1], 1, 7);
        let topic = Topic::new(TOPIC).expect("a legal name");
        let wanted = Subscription { topic, expression: "*".to_owned() };
        let now = Duration::from_secs(1);
        let core = PushConsumer::new(PushConfig::new(client, "g".to_owned(), vec![wanted]), at(now));
        let mut life = Self { core, now, calls: VecDeque::new(), running: VecDeque::new(), over: false };
        life.handle(Event::Tick);
        life
    }

    fn handle(&mut self, event: Event<'_, PushCommand>) {
        self.core.handle(event, at(self.now));
        while let Some(effect) = self.core.poll_effect() {
            assert!(!self.over, "nothing follows the end: {effect:?}");
            match effect {
                Effect::Call { call, request, until, .. } => self.calls.push_back((call, request, until)),
                Effect::Work(PushWork::Consume { batch, messages, .. }) => {
                    assert!(!messages.is_empty() && messages.is_sorted_by_key(|message| message.offset));
                    assert!(messages.iter().all(|message| message.queue.topic.as_str() == TOPIC));
                    self.running.push_back(batch);
                }
                Effect::Exit(_) => self.over = true,
                Effect::Work(_) | Effect::Tell { .. } | Effect::Reply { .. } => {}
                other => panic!("a client does not do this: {other:?}"),
            }
        }
    }

    fn answer(&mut self, nth: usize, outcome: Outcome) {
        let (call, ..) = self.calls.remove(nth).expect("one of the questions");
        self.handle(Event::Answered { call, outcome });
    }

    /// Lets time pass, with every wake-up in it, and every question whose time is up.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..WAKES_MAX {
            let wake = self.core.deadline().map(|Mono(at)| Duration::from_nanos(at));
            let lost = (0..self.calls.len()).min_by_key(|nth| self.calls[*nth].2);
            let lost = lost.map(|nth| (Duration::from_nanos(self.calls[nth].2.0), nth));
            match (wake, lost) {
                (_, Some((at, nth))) if at <= end && wake.is_none_or(|wake| at <= wake) => {
                    self.now = self.now.max(at);
                    self.answer(nth, Err(lost_call()));
                }
                (Some(at), _) if at <= end => {
                    self.now = self.now.max(at);
                    self.handle(Event::Tick);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("it wants to be woken at {:?}, again and again, and it is {:?}", self.core.deadline(), self.now);
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let how = input.byte()?;
        let nth = usize::from(how >> 3) % self.calls.len().max(1);
        match how % 8 {
            0 => self.pass(Duration::from_millis(u64::from(input.byte()?) * 100)),
            1 => {
                if let Some(batch) = self.running.pop_front() {
                    self.handle(Event::Done(PushCommand::Consumed { batch, verdict: Verdict::Success }));
                }
            }
            2 => {
                let (form, language) = (Form::Json, Language::default());
                let from = Caller { conn: Conn(1), opaque: 1, form, oneway: how >> 7 == 0, version: 0, language };
                let request = Request::ConsumersChanged(ConsumersChanged { group: "g".into() });
                self.handle(Event::Request { from, request });
            }
            _ if self.calls.is_empty() => {}
            3 => self.answer(nth, Err(lost_call())),
            4 => {
                let response = anything(input)?;
                self.answer(nth, Ok(response));
            }
            5 => {
                // As it should be, but for a few bytes of its body.
                let mut response = proper(&self.calls[nth].1, input)?;
                let mut body = response.body.concat();
                for _ in 0..=input.byte()? % 4 {
                    let (place, bits) = (input.short()?, input.byte()?);
                    if let Some(byte) = body.len().checked_sub(1).and_then(|last| body.get_mut(place % (last + 1))) {
                        *byte ^= bits;
                    }
                }
                response.body.clear();
                self.answer(nth, Ok(response.with_body(body)));
            }
            _ => {
                let response = proper(&self.calls[nth].1, input)?;
                self.answer(nth, Ok(response));
            }
        }
        Some(())
    }
}

fn at(now: Duration) -> Now {
    let nanos = u64::try_from(now.as_nanos()).expect("a short life");
    Now { mono: Mono(nanos), wall: Timestamp(1_700_000_000_000) }
}

fn lost_call() -> CallError {
    CallError::Lost { peer: "a:1".to_owned(), why: "time ran out".to_owned() }
}

/// Code, fields and body as they come.
fn anything(input: &mut Input<'_>) -> Option<Response> {
    let mut response = Response::ok();
    response.code = i32::from(input.byte()?);
    let which = input.byte()?;
    let mut fields = Vec::new();
    for (bit, name) in FIELDS.into_iter().enumerate() {
        if which & (1 << bit) != 0 {
            let len = usize::from(input.byte()? % 24);
            fields.push((name.into(), String::from_utf8_lossy(input.bytes(len)).into_owned()));
        }
    }
    response.header = ResponseHeader::Fields(fields);
    let len = input.short()?;
    Some(response.with_body(input.bytes(len).to_vec()))
}

/// What a healthy name server or broker might say.
fn proper(request: &Request<'_>, input: &mut Input<'_>) -> Option<Response> {
    Some(match request {
        Request::RouteInfo(_) => {
            let queues = u32::from(input.byte()? % 3);
            let route = RouteData {
                broker_datas: vec![BrokerData {
                    broker_addrs: [(0, "a:1".to_owned())].into(),
                    broker_name: BROKER.to_owned(),
                    ..BrokerData::default()
                }],
                queue_datas: vec![QueueData {
                    broker_name: BROKER.to_owned(),
                    perm: 6,
                    read_queue_nums: queues,
                    write_queue_nums: queues,
                    topic_sys_flag: 0,
                }],
                ..RouteData::default()
            };
            Response::ok().with_body(serde_json::to_vec(&route).expect("a body is JSON"))
        }
        Request::ConsumerList(_) => Response::ok().with_body(Bytes::from_static(br#"{"consumerIdList":["me"]}"#)),
        Request::QueryOffset(_) | Request::MinOffset(_) | Request::MaxOffset(_) | Request::SearchOffset(_) => {
            Response::ok().with_header(ResponseHeader::Offset(i64::from(input.byte()?)))
        }
        Request::Pull(pull) => records(pull, input)?,
        _ => Response::ok(),
    })
}

/// Messages from where a pull asks for them.
fn records(pull: &Pull<'_>, input: &mut Input<'_>) -> Option<Response> {
    let from = u64::try_from(pull.offset).ok()?;
    let (count, sys_flag) = (u64::from(input.byte()? % 4), i32::from(input.byte()?));
    let host = ([127, 0, 0, 1], 10911).into();
    let mut bytes = Vec::new();
    for offset in from..from.checked_add(count)? {
        let len = usize::from(input.byte()?);
        let body = input.bytes(len);
        let draft = Draft {
            topic: TOPIC,
            queue_id: u32::try_from(pull.queue_id).ok()?,
            flag: 0,
            sys_flag,
            born_at: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared: 0,
            body,
            body_crc: crc(body),
            properties: "",
            added: "",
        };
        let place = Place { at: LogOffset(offset * 1000), queue_offset: QueueOffset(offset), stored: Timestamp(0) };
        draft.encode(place, &mut bytes);
    }
    let next = QueueOffset(from + count);
    let code = if count == 0 { ResponseCode::PullNotFound } else { ResponseCode::Success };
    let reply = PullReply { suggest_broker: 0, next, min: QueueOffset(0), max: next };
    Some(Response::new(code).with_header(ResponseHeader::Pull(reply)).with_body(bytes))
}
