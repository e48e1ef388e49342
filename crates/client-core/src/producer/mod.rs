//! How a producer decides: a send waits for its route, is tried, tried elsewhere, and ends exactly once, in its time.
//!
//! ```text
//!   Send ──▶ Waiting (for the route) ──▶ Asking (a request is out) ──SEND_OK──▶ Sent(Ok)
//!                      ▲                     │ refused, unknown, not reached
//!                      └── Resting ◀─────────┘           └── no attempt left, no time left ──▶ Sent(Err)
//! ```
//! Once the end of one attempt is unknown, a later refusal does not make the send refused: it may have been kept.

mod api;
mod attempt;
mod gather;
mod parcel;

pub use api::{ProducerCommand, ProducerConfig, ProducerReport, ProducerWork, Receipt, SendError, SendId, Target};

use crate::cx::Cx;
use crate::heartbeat::Heartbeats;
use crate::ids::MessageIds;
use crate::message::{Message, MessageError, PROPERTIES_MAX};
use crate::routes::{News, Route, RouteError, Routes, default_topic};
use crate::selector::Selector;
use attempt::{Ended, Item};
use gather::{Gathered, Group};
use keepmq_protocol::body::{Heartbeat, ProducerData};
use keepmq_protocol::request::Unregister;
use keepmq_protocol::seam::{CallId, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{MessageQueue, Response, ResponseCode, Topic};
use keepmq_world::{Mono, Now, planted};
use parcel::{Last, Parcel, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

type Cxp = Cx<ProducerWork>;

/// The longest rest of a send.
const REST_MAX: Duration = Duration::from_millis(500);
/// What there is to end when the process is asked to.
const STOP: Duration = Duration::from_secs(3);
/// How long brokers may take to hear our farewell.
const FAREWELL: Duration = Duration::from_millis(500);

/// A producer: see the module.
pub struct Producer {
    config: ProducerConfig,
    cx: Cxp,
    routes: Routes,
    heartbeats: Heartbeats,
    selector: Selector,
    ids: MessageIds,
    /// What was sent in this turn, and goes out at its end.
    gathered: Gathered,
    parcels: BTreeMap<u64, Parcel>,
    last_parcel: u64,
    /// Which parcel a request carries.
    calls: BTreeMap<CallId, u64>,
    /// Parcels that wait for the route of a topic.
    waiting: BTreeMap<Topic, BTreeSet<u64>>,
    /// When each parcel that asks nobody is looked at again.
    wakes: BTreeSet<(Mono, u64)>,
    /// Queues among which sharding keys choose.
    shards: BTreeMap<Topic, Arc<[MessageQueue]>>,
    /// Who wants to know the queues of a topic, and until when.
    asked: Vec<(Topic, Mono)>,
    /// Oneway messages that wait for their route, and until when.
    oneways: Vec<(Item, Target, Mono)>,
    messages: usize,
    bytes: usize,
    report: ProducerReport,
    life: Life,
}

enum Life {
    Open,
    /// Ends what is under way.
    Closing {
        until: Mono,
    },
    /// Says farewell.
    Leaving {
        calls: BTreeSet<CallId>,
        until: Mono,
    },
    Over,
}

/// Where a message can go.
enum Way {
    Known(Arc<Route>),
    /// The first message creates the topic, by this one's settings.
    Creates(Arc<Route>),
    /// Not known yet, or not there; this is what is known of the reason.
    None(String),
}

impl Producer {
    /// One that has asked nobody anything yet.
    pub fn new(config: ProducerConfig, now: Now) -> Self {
        let client = &config.client;
        let mut cx = Cx::new(client.seed, now);
        let who = u32::try_from(cx.chance.word() & u64::from(u32::MAX)).expect("32 bits");
        Self {
            routes: Routes::new(
                client.name_servers.clone(),
                client.poll_name_servers,
                client.api_timeout.min(config.attempt_timeout),
                cx.chance.word(),
            ),
            heartbeats: Heartbeats::new(client.heartbeat, client.api_timeout, true),
            selector: Selector::new(config.avoid_slow, &mut cx.chance),
            ids: MessageIds::new(&client.host, client.pid, who),
            gathered: Gathered::default(),
            parcels: BTreeMap::new(),
            last_parcel: 0,
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            wakes: BTreeSet::new(),
            shards: BTreeMap::new(),
            asked: Vec::new(),
            oneways: Vec::new(),
            messages: 0,
            bytes: 0,
            report: ProducerReport::default(),
            life: Life::Open,
            config,
            cx,
        }
    }

    /// Sends that have not ended.
    pub fn under_way(&self) -> usize {
        self.messages
    }

    // ---- commands -------------------------------------------------------------------------------------------------------

    fn command(&mut self, command: ProducerCommand) {
        match command {
            ProducerCommand::Send { id, message, to, timeout } => {
                let item = self.item(id, message);
                match self.admit(item, &to, timeout) {
                    Some((item, until)) if to == Target::Any && Gathered::takes(&self.config, &item) => {
                        if let Some(group) = self.gathered.add(item, until, self.config.auto_batch_bytes) {
                            self.start_group(group);
                        }
                    }
                    Some((item, until)) => self.start(vec![item], to, until),
                    None => {}
                }
            }
            ProducerCommand::SendBatch { messages, to, timeout } => self.batch(messages, &to, timeout),
            ProducerCommand::SendOneway { message, to } => {
                let item = self.item(SendId(0), message);
                match self.make_room(&item, &to) {
                    Ok(()) => self.oneway(item, to, self.cx.now.mono + self.config.send_timeout),
                    Err(_) => {
                        self.report.dropped += 1;
                        self.cx.work(ProducerWork::Told { bytes: item.message.body().len() });
                    }
                }
            }
            ProducerCommand::Route { topic } if matches!(self.life, Life::Leaving { .. } | Life::Over) => {
                self.cx.work(ProducerWork::Routed { topic, outcome: Err(RouteError::Unreachable(Vec::new())) });
            }
            ProducerCommand::Route { topic } => {
                let until = self.cx.now.mono + self.config.send_timeout;
                self.asked.push((topic, until));
                self.look_again();
            }
            ProducerCommand::Close { within } => self.close(within),
        }
    }

    fn item(&mut self, send: SendId, message: Message) -> Item {
        Item { send, message_id: self.ids.next(self.cx.now.wall), message }
    }

    /// Takes a send in, or ends it at once.
    fn admit(&mut self, item: Item, to: &Target, timeout: Option<Duration>) -> Option<(Item, Mono)> {
        let Err(why) = self.make_room(&item, to) else {
            return Some((item, self.cx.now.mono + timeout.unwrap_or(self.config.send_timeout)));
        };
        self.report.refused += 1;
        let Item { send: id, message_id, .. } = item;
        let error = SendError::Refused { message_id, code: None, broker: None, why, attempts: 0 };
        self.cx.work(ProducerWork::Sent { id, outcome: Err(error) });
        None
    }

    /// Counts a message among those under way; the text says why it may not be one of them.
    fn make_room(&mut self, item: &Item, to: &Target) -> Result<(), String> {
        let bytes = item.message.body().len();
        if !matches!(self.life, Life::Open) {
            return Err("this producer is being closed".to_owned());
        }
        self.check(item).map_err(|error| error.to_string())?;
        if let Target::Queue(queue) = to
            && queue.topic != *item.message.topic()
        {
            return Err(format!(
                "its topic is {}, and the queue it is to go to is one of {}",
                item.message.topic(),
                queue.topic
            ));
        }
        if self.messages >= self.config.in_flight {
            return Err(format!("{} messages are under way already, as many as this producer lets be", self.messages));
        }
        if self.bytes + bytes > self.config.in_flight_bytes && self.messages > 0 {
            let most = self.config.in_flight_bytes;
            return Err(format!(
                "{} bytes are under way already; with this message it would be more than {most}",
                self.bytes
            ));
        }
        self.messages += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn check(&self, item: &Item) -> Result<(), MessageError> {
        let (len, max) = (item.message.body().len(), self.config.max_message_bytes);
        if len > max {
            return Err(MessageError::TooLarge { len, max });
        }
        match attempt::properties_len(item) {
            len if len > PROPERTIES_MAX => Err(MessageError::Properties { len }),
            _ => Ok(()),
        }
    }

    /// As few parcels as the messages fit in. Those of one have one topic, and one sharding key or none.
    fn batch(&mut self, messages: Vec<(SendId, Message)>, to: &Target, timeout: Option<Duration>) {
        let mut parcel: Vec<Item> = Vec::new();
        let mut bytes = 0;
        for (id, message) in messages {
            let item = self.item(id, message);
            let Some((item, until)) = self.admit(item, to, timeout) else { continue };
            let size = attempt::size(&item);
            let fits = parcel.first().is_none_or(|first| {
                first.message.topic() == item.message.topic()
                    && first.message.shard() == item.message.shard()
                    && bytes + size <= self.config.max_batch_bytes
            });
            if !fits {
                self.start(std::mem::take(&mut parcel), to.clone(), until);
                bytes = 0;
            }
            bytes += size;
            parcel.push(item);
        }
        if !parcel.is_empty() {
            let until = self.cx.now.mono + timeout.unwrap_or(self.config.send_timeout);
            self.start(parcel, to.clone(), until);
        }
    }

    // ---- the way of a parcel --------------------------------------------------------------------------------------------

    /// Lets out what has gathered.
    fn start_gathered(&mut self) {
        while let Some(group) = self.gathered.take() {
            self.start_group(group);
        }
    }

    fn start_group(&mut self, Group { items, until, .. }: Group) {
        let gathered = items.len() > 1;
        self.begin(Parcel { gathered, ..Parcel::new(items, Target::Any, until) });
    }

    fn start(&mut self, items: Vec<Item>, to: Target, until: Mono) {
        self.begin(Parcel::new(items, to, until));
    }

    fn begin(&mut self, parcel: Parcel) {
        self.last_parcel += 1;
        self.advance(self.last_parcel, parcel);
    }

    /// A broker refuses messages that only this producer has put together: each is asked for by itself, so that none is refused
    /// for another's sake.
    fn part(&mut self, parcel: Parcel) {
        let Parcel { items, to, until, attempts, .. } = parcel;
        for item in items {
            self.begin(Parcel { attempts, ..Parcel::new(vec![item], to.clone(), until) });
        }
    }

    /// Goes on with a parcel that asks nobody and stands nowhere.
    fn advance(&mut self, id: u64, mut parcel: Parcel) {
        let now = self.cx.now.mono;
        if parcel.until <= now {
            return self.give_up(parcel);
        }
        let topic = parcel.items[0].message.topic().clone();
        let route = match self.way(&topic) {
            Way::Known(route) => route,
            Way::Creates(model) => Arc::new(self.created(&topic, &model)),
            Way::None(why) => {
                // What a broker has said counts more.
                if parcel.attempts == 0 {
                    parcel.last.why = why;
                }
                return self.wait(id, parcel, topic);
            }
        };
        let queue = match (&parcel.to, parcel.items[0].message.shard()) {
            (Target::Queue(queue), _) => Some(queue.clone()),
            (Target::Any, Some(key)) => {
                let chosen = parcel.shard.take().or_else(|| self.shard(&topic, &route, key));
                parcel.shard.clone_from(&chosen);
                chosen
            }
            (Target::Any, None) => self.selector.pick(&route.writable, parcel.avoid.as_ref(), now).cloned(),
        };
        let address = queue.as_ref().and_then(|queue| self.master(queue, &route, parcel.shard.is_some()));
        let (Some(queue), Some(address)) = (queue, address) else {
            parcel.last.why = format!("no queue of {topic} that it may go to takes messages now");
            // It may be back by now: the route that does not name it can be as old as they are polled for.
            self.routes.want(&topic, &mut self.cx);
            return self.rest(id, parcel);
        };
        let left = parcel.until.since(now);
        let more = parcel.counted < self.config.retries;
        let time = if more { left.min(self.config.attempt_timeout) } else { left };
        let request = attempt::request(&self.config, &parcel.items, &queue, self.cx.now.wall);
        let call = self.cx.call(&address, request, now + time);
        self.report.retries += u64::from(parcel.attempts > 0);
        parcel.attempts += 1;
        parcel.counted += 1;
        parcel.in_turn += 1;
        parcel.state = State::Asking { queue, since: now };
        self.calls.insert(call, id);
        self.parcels.insert(id, parcel);
    }

    fn way(&mut self, topic: &Topic) -> Way {
        if let Some(route) = self.routes.get(topic, &mut self.cx) {
            if route.writable.is_empty() {
                self.routes.want(topic, &mut self.cx);
                return Way::None(format!("no queue of {topic} takes messages now"));
            }
            return Way::Known(route);
        }
        match self.routes.error(topic) {
            None => Way::None("the name servers have not said yet where its queues are".to_owned()),
            Some(error @ RouteError::Unreachable(_)) => Way::None(error.to_string()),
            Some(error) => {
                let why = error.to_string();
                let model = self.routes.default_route(&mut self.cx).filter(|route| !route.writable.is_empty());
                model.map_or(Way::None(why), Way::Creates)
            }
        }
    }

    /// The route that a topic will have when its first message has created it.
    fn created(&self, topic: &Topic, model: &Route) -> Route {
        let few = |queue: &&MessageQueue| queue.id < self.config.default_topic_queues;
        let queue = |queue: &MessageQueue| MessageQueue { topic: topic.clone(), ..queue.clone() };
        let writable = model.writable.iter().filter(few).map(queue).collect();
        Route { writable, readable: Vec::new(), brokers: model.brokers.clone() }
    }

    /// The queue that a key chooses. The list it chooses from only grows: a broker that is gone for a while must not send its
    /// keys to other queues, where they would overtake themselves.
    fn shard(&mut self, topic: &Topic, route: &Route, key: &str) -> Option<MessageQueue> {
        let known = self.shards.get(topic);
        let grown = known.is_none_or(|known| {
            known.len() < route.writable.len() && known.iter().all(|queue| route.writable.binary_search(queue).is_ok())
        });
        if grown {
            self.shards.insert(topic.clone(), route.writable.clone().into());
        }
        let queues = self.shards.get(topic)?;
        // As RocketMQ's SelectMessageQueueByHash: Java's String.hashCode of the key.
        let hash = keepmq_protocol::message::tag_hash(key).unsigned_abs() as usize;
        queues.get(hash.checked_rem(queues.len())?).cloned()
    }

    /// Where the master of a writable queue is.
    ///
    /// A key of a topic that sends create has chosen among all brokers that may create it, and the first message has created it
    /// on one of them. The others get it in the same way; without that their keys had nowhere to go.
    fn master(&self, queue: &MessageQueue, route: &Route, keyed: bool) -> Option<Arc<str>> {
        let there = |route: &Route| {
            let writable = route.writable.binary_search(queue).is_ok();
            route.master(&queue.broker).filter(|_| writable).cloned()
        };
        if !keyed || route.brokers.contains_key(&queue.broker) {
            return there(route);
        }
        there(&self.created(&queue.topic, self.routes.known(&default_topic())?))
    }

    fn wait(&mut self, id: u64, mut parcel: Parcel, topic: Topic) {
        parcel.state = State::Waiting;
        self.wakes.insert((parcel.until, id));
        self.waiting.entry(topic).or_default().insert(id);
        self.parcels.insert(id, parcel);
    }

    fn rest(&mut self, id: u64, mut parcel: Parcel) {
        let now = self.cx.now.mono;
        let nanos = u64::try_from(parcel.rest.as_nanos()).expect("at most half a second");
        // Between half of it and all: those who failed together need not come again together.
        let at = now + Duration::from_nanos(nanos / 2 + self.cx.chance.below(nanos / 2 + 1));
        if at >= parcel.until {
            return self.give_up(parcel);
        }
        parcel.rest = (parcel.rest * 2).min(REST_MAX);
        parcel.in_turn = 0;
        parcel.state = State::Resting(at);
        self.wakes.insert((at, id));
        self.parcels.insert(id, parcel);
    }

    fn answered(&mut self, call: CallId, outcome: &Outcome) {
        let Some(id) = self.calls.remove(&call) else { return };
        let id = self.swapped(id);
        // It may have been given up meanwhile.
        let Some(mut parcel) = self.parcels.remove(&id) else { return };
        let State::Asking { queue, since } = parcel.state else { unreachable!("a call is out for parcel {id}") };
        parcel.state = State::Waiting;
        let now = self.cx.now.mono;
        let (code, why, again) = match attempt::ended(outcome, &parcel.items, &queue, parcel.attempts) {
            Ended::Kept(receipts) => {
                self.selector.answered(&queue.broker, now.since(since), now);
                return self.keep(parcel, receipts);
            }
            Ended::NotSent(why) => {
                // It has reached nobody: no attempt.
                parcel.attempts -= 1;
                parcel.counted -= 1;
                self.selector.failed(&queue.broker, now);
                (None, why, true)
            }
            Ended::Refused { code, why, again, busy } => {
                // It leaves no copy, and ends by itself: only the time bounds how often it is tried.
                parcel.counted -= u32::from(busy);
                self.selector.answered(&queue.broker, now.since(since), now);
                (Some(code), why, again)
            }
            Ended::Unknown { code, why } => {
                parcel.doubt = true;
                self.selector.failed(&queue.broker, now);
                (code, why, true)
            }
        };
        if !again && parcel.gathered && !parcel.doubt && parcel.until > now {
            if code == Some(ResponseCode::RequestCodeNotSupported as i32) {
                // It will not understand the next one either.
                self.config.auto_batch_bytes = 0;
            }
            return self.part(parcel);
        }
        parcel.last = Last { code, broker: Some(queue.broker.clone()), why };
        if planted!("retry-without-time") {
            parcel.until = parcel.until.max(now + REST_MAX);
        }
        if !again || parcel.counted > self.config.retries || parcel.until <= now {
            return self.give_up(parcel);
        }
        self.routes.want(&queue.topic, &mut self.cx);
        parcel.avoid = Some(queue.broker);
        let fixed = parcel.shard.is_some() || matches!(parcel.to, Target::Queue(_));
        let brokers = self.routes.known(&queue.topic).map_or(1, |route| route.masters());
        if fixed || parcel.in_turn >= brokers {
            return self.rest(id, parcel);
        }
        self.advance(id, parcel);
    }

    /// With the planted bug: the answer is taken for that of another parcel that has asked the same queue.
    fn swapped(&mut self, id: u64) -> u64 {
        if !planted!("responses-swapped") {
            return id;
        }
        let asks = |parcel: &Parcel| match &parcel.state {
            State::Asking { queue, .. } => Some((queue.clone(), parcel.items.len())),
            State::Waiting | State::Resting(_) => None,
        };
        let mine = self.parcels.get(&id).and_then(asks);
        let other = self.calls.iter().find(|(_, other)| self.parcels.get(other).and_then(asks) == mine);
        let Some((call, other)) = other.map(|(call, other)| (*call, *other)) else { return id };
        self.calls.insert(call, id);
        other
    }

    fn keep(&mut self, parcel: Parcel, receipts: Vec<Receipt>) {
        self.messages -= parcel.items.len();
        self.bytes -= parcel.bytes;
        self.report.kept += receipts.len() as u64;
        for (item, receipt) in parcel.items.into_iter().zip(receipts) {
            self.cx.work(ProducerWork::Sent { id: item.send, outcome: Ok(receipt) });
        }
    }

    /// Ends a parcel that was not kept, as far as anybody knows.
    fn give_up(&mut self, parcel: Parcel) {
        let Parcel { items, bytes, attempts, last: Last { code, broker, why }, doubt, state, .. } = parcel;
        self.messages -= items.len();
        self.bytes -= bytes;
        // One that is out may still arrive.
        let doubt = doubt || matches!(state, State::Asking { .. });
        for Item { send: id, message_id, .. } in items {
            let (broker, why) = (broker.clone(), why.clone());
            let error = if doubt {
                self.report.unknown += 1;
                SendError::Unknown { message_id, code, broker, why, attempts }
            } else {
                self.report.refused += 1;
                SendError::Refused { message_id, code, broker, why, attempts }
            };
            self.cx.work(ProducerWork::Sent { id, outcome: Err(error) });
        }
    }

    // ---- oneway, queues -------------------------------------------------------------------------------------------------

    /// Hands a oneway message on, or lets it wait for its route. Nothing is promised, and nobody hears of its end.
    fn oneway(&mut self, item: Item, to: Target, until: Mono) {
        let topic = item.message.topic().clone();
        let route = match self.way(&topic) {
            Way::Known(route) => Some(route),
            Way::Creates(model) => Some(Arc::new(self.created(&topic, &model))),
            Way::None(_) if until > self.cx.now.mono => return self.oneways.push((item, to, until)),
            Way::None(_) => None,
        };
        self.messages -= 1;
        self.bytes -= item.message.body().len();
        self.cx.work(ProducerWork::Told { bytes: item.message.body().len() });
        let keyed = to == Target::Any && item.message.shard().is_some();
        let queue = route.as_ref().and_then(|route| match (to, item.message.shard()) {
            (Target::Queue(queue), _) => Some(queue),
            (Target::Any, Some(key)) => self.shard(&topic, route, key),
            (Target::Any, None) => self.selector.pick(&route.writable, None, self.cx.now.mono).cloned(),
        });
        let there = queue.zip(route).and_then(|(queue, route)| Some((self.master(&queue, &route, keyed)?, queue)));
        let Some((address, queue)) = there else {
            self.report.dropped += 1;
            return;
        };
        let request = attempt::request(&self.config, std::slice::from_ref(&item), &queue, self.cx.now.wall);
        self.cx.tell(&address, request);
    }

    /// Answers those who want to know queues, as far as they are known, and sends what waited for a route.
    fn look_again(&mut self) {
        let now = self.cx.now.mono;
        for (topic, until) in std::mem::take(&mut self.asked) {
            let outcome = match self.way(&topic) {
                Way::Known(route) => Ok(route.writable.clone()),
                Way::Creates(_) => Ok(Vec::new()),
                Way::None(_) if until > now => {
                    self.asked.push((topic, until));
                    continue;
                }
                Way::None(_) => match self.routes.error(&topic) {
                    Some(error) => Err(error.clone()),
                    None if self.routes.known(&topic).is_some() => Ok(Vec::new()),
                    None => Err(RouteError::Unreachable(Vec::new())),
                },
            };
            self.cx.work(ProducerWork::Routed { topic, outcome });
        }
        for (item, to, until) in std::mem::take(&mut self.oneways) {
            self.oneway(item, to, until);
        }
    }

    // ---- time and the end -----------------------------------------------------------------------------------------------

    fn on_time(&mut self) {
        let now = self.cx.now.mono;
        if matches!(self.life, Life::Over) {
            return;
        }
        if !matches!(self.life, Life::Leaving { .. }) {
            self.routes.on_time(&mut self.cx);
            let heartbeat = || heartbeat(&self.config);
            self.heartbeats.on_time(heartbeat, &mut self.cx);
        }
        while let Some((at, id)) = self.wakes.first().copied()
            && at <= now
        {
            self.wake(id);
        }
        if self
            .asked
            .iter()
            .map(|(_, until)| until)
            .chain(self.oneways.iter().map(|(_, _, until)| until))
            .any(|at| *at <= now)
        {
            self.look_again();
        }
        match &self.life {
            Life::Closing { until } if self.parcels.is_empty() || *until <= now => self.leave(),
            Life::Leaving { calls, until } if calls.is_empty() || *until <= now => self.end(),
            _ => {}
        }
    }

    /// Takes a parcel that waits or rests away from where it stands, and goes on with it.
    fn wake(&mut self, id: u64) {
        let parcel = self.parcels.remove(&id).expect("whatever is to be woken is there");
        match &parcel.state {
            State::Waiting => {
                self.wakes.remove(&(parcel.until, id));
                let topic = parcel.items[0].message.topic();
                if let Some(waiting) = self.waiting.get_mut(topic) {
                    waiting.remove(&id);
                    if waiting.is_empty() {
                        self.waiting.remove(topic);
                    }
                }
            }
            State::Resting(at) => {
                self.wakes.remove(&(*at, id));
            }
            State::Asking { .. } => unreachable!("parcel {id} waits for an answer, which comes in its time"),
        }
        self.advance(id, parcel);
    }

    /// There is news of a topic: those who wait for it look again.
    fn news(&mut self, news: &News) {
        let topic = match news {
            News::Asking => return,
            News::Same(topic) | News::Failed(topic) => topic,
            News::Changed(topic) => {
                self.heartbeats.meet(&self.routes, self.cx.now.mono);
                topic
            }
        };
        let ids: Vec<u64> = if *topic == default_topic() {
            self.waiting.values().flatten().copied().collect()
        } else {
            self.waiting.get(topic).into_iter().flatten().copied().collect()
        };
        for id in ids {
            self.wake(id);
        }
        self.look_again();
    }

    fn close(&mut self, within: Duration) {
        let now = self.cx.now.mono;
        match &mut self.life {
            Life::Open => self.life = Life::Closing { until: now + within },
            // Asked a second time: at once.
            Life::Closing { until } | Life::Leaving { until, .. } => *until = now,
            Life::Over => {}
        }
    }

    /// Ends what has not ended, and takes leave.
    fn leave(&mut self) {
        for (_, mut parcel) in std::mem::take(&mut self.parcels) {
            if planted!("close-drops-in-flight") {
                continue;
            }
            parcel.last.why = format!("the producer was closed before it ended; {}", parcel.last.why);
            self.give_up(parcel);
        }
        self.wakes.clear();
        self.waiting.clear();
        self.calls.clear();
        for (item, ..) in std::mem::take(&mut self.oneways) {
            self.messages -= 1;
            self.bytes -= item.message.body().len();
            self.report.dropped += 1;
            self.cx.work(ProducerWork::Told { bytes: item.message.body().len() });
        }
        for (topic, _) in std::mem::take(&mut self.asked) {
            self.cx.work(ProducerWork::Routed { topic, outcome: Err(RouteError::Unreachable(Vec::new())) });
        }
        let unregister = Unregister {
            client_id: self.config.client.client_id.clone().into(),
            producer_group: Some(self.config.group.clone().into()),
            consumer_group: None,
        };
        let calls: BTreeSet<_> = self.heartbeats.leave(&unregister, &mut self.cx).into_iter().collect();
        if calls.is_empty() {
            return self.end();
        }
        self.life = Life::Leaving { calls, until: self.cx.now.mono + FAREWELL };
    }

    fn end(&mut self) {
        self.life = Life::Over;
        self.cx.work(ProducerWork::Closed(self.report));
        self.cx.emit(Effect::Exit(Exit::Clean));
    }
}

impl Core for Producer {
    type Work = ProducerWork;
    type Done = ProducerCommand;

    fn handle(&mut self, event: Event<'_, ProducerCommand>, now: Now) {
        self.cx.now = now;
        if !matches!(event, Event::Done(ProducerCommand::Send { .. })) {
            self.start_gathered();
        }
        match event {
            Event::Done(command) => self.command(command),
            Event::Answered { call, outcome } => match &mut self.life {
                Life::Open | Life::Closing { .. } => {
                    if let Some(news) = self.routes.answered(call, &outcome, &mut self.cx) {
                        self.news(&news);
                    } else if self.heartbeats.answered(call, &outcome, now.mono).is_none() {
                        self.answered(call, &outcome);
                    }
                }
                Life::Leaving { calls, .. } => {
                    calls.remove(&call);
                }
                // Nothing follows the end.
                Life::Over => {}
            },
            Event::Request { from, .. } => {
                if !from.oneway {
                    let response =
                        Response::refuse(ResponseCode::RequestCodeNotSupported, "a producer does not serve this");
                    self.cx.emit(Effect::Reply { to: from, response });
                }
            }
            Event::Stop => self.close(STOP),
            Event::Opened { .. } | Event::Closed { .. } | Event::Space { .. } | Event::Tick => {}
        }
        self.on_time();
    }

    fn poll_effect(&mut self) -> Option<Effect<ProducerWork>> {
        self.start_gathered();
        self.cx.poll_effect()
    }

    fn deadline(&self) -> Option<Mono> {
        let own = match &self.life {
            Life::Over => return None,
            Life::Leaving { until, .. } => return Some(*until),
            Life::Closing { until } => Some(*until),
            Life::Open => None,
        };
        let waits = self.asked.iter().map(|(_, until)| *until).chain(self.oneways.iter().map(|(_, _, until)| *until));
        let wake = self.wakes.first().map(|(at, _)| *at);
        [own, wake, self.routes.deadline(), self.heartbeats.deadline()].into_iter().flatten().chain(waits).min()
    }
}

fn heartbeat(config: &ProducerConfig) -> Heartbeat {
    Heartbeat {
        client_id: config.client.client_id.clone(),
        producer_data_set: vec![ProducerData { group_name: config.group.clone() }],
        ..Heartbeat::default()
    }
}

#[cfg(test)]
mod tests;
