//! A producer's machine and its user: messages of all kinds, now and then a close, a crash, a rest.

use super::WorldDue;
use super::machine::{Machine, Wants};
use super::plan::{API_TIMEOUT, ClientPlan, Fate, Plan, Way};
use super::truth::{End, Sent, Truth, body};
use crate::host::Left;
use crate::net::Goodbye;
use crate::stage::{Due, MILLI, NodeId, SECOND};
use crate::trace::Rare;
use crate::workload::{Lent, TOPICS};
use keepmq_client_core::{
    ClientConfig, Message, Producer, ProducerCommand, ProducerConfig, ProducerReport, ProducerWork, RouteError,
    SendError, SendId, Target,
};
use keepmq_protocol::{MessageQueue, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What there is to choose from.
const TAGS: [&str; 3] = ["red", "blue", "green"];
const STREAMS: [&str; 3] = ["north", "south", "east"];

pub(crate) struct Producing {
    pub(crate) machine: Machine<Producer>,
    plan: ClientPlan,
    /// Messages still to be sent.
    left: u32,
    /// Sends without an end.
    open: BTreeSet<u64>,
    /// Those that went in batches.
    batched: BTreeSet<u64>,
    /// Those that were asked for in one turn, each by itself.
    together: BTreeSet<u64>,
    /// The queues of each topic, when it was told of some.
    known: BTreeMap<Topic, Vec<MessageQueue>>,
    counted: ProducerReport,
    closing: Option<Closing>,
}

struct Closing {
    must_end_by: u64,
    /// It starts again so long after its end.
    again: Option<u64>,
}

/// What every client is told.
pub(crate) fn client_config(lent: &mut Lent<'_>, plan: &Plan, node: NodeId, life: u32) -> ClientConfig {
    let address = lent.directory.address(node).ip();
    let first = plan.servers.brokers;
    let names = (first..first + plan.servers.name_servers).map(|nth| lent.directory.address(NodeId(nth)).to_string());
    let mut names: Vec<String> = names.collect();
    let nth = lent.stage.chance.below(names.len() as u64) as usize;
    names.rotate_left(nth);
    let pid = u16::try_from(life).expect("a machine starts few processes");
    let host = vec![10, 0, 2, node.0 as u8];
    let id = format!("{address}@{life}");
    let seed = lent.stage.chance.word();
    ClientConfig {
        poll_name_servers: plan.poll_name_servers,
        heartbeat: plan.heartbeat,
        api_timeout: API_TIMEOUT,
        ..ClientConfig::new(names, id, host, pid, seed)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}

impl Producing {
    pub(crate) fn new(node: NodeId, plan: ClientPlan, sends: u32) -> Self {
        Self {
            machine: Machine::new(node),
            plan,
            left: sends,
            open: BTreeSet::new(),
            batched: BTreeSet::new(),
            together: BTreeSet::new(),
            known: BTreeMap::new(),
            counted: ProducerReport::default(),
            closing: None,
        }
    }

    pub(crate) fn announce(&self, lent: &mut Lent<'_>) {
        let node = self.machine.node;
        lent.stage.at(self.plan.comes, Due::World(WorldDue::Come { node }));
        for (at, fate) in &self.plan.fates {
            lent.stage.at(*at, Due::World(WorldDue::Fate { node, fate: *fate }));
        }
    }

    /// What keeps it from having sent everything.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let (node, left, open) = (self.machine.node, self.left, self.open.len());
        let done = left == 0 && open == 0 && self.machine.runs() && self.closing.is_none();
        (!done).then(|| format!("producer {node:?} has {left} messages to send and {open} under way"))
    }

    /// Some more, when all is well.
    pub(crate) fn send_more(&mut self, lent: &mut Lent<'_>, more: u32) {
        self.left += more;
        self.act_later(lent, SECOND / 10);
    }

    fn act_later(&mut self, lent: &mut Lent<'_>, longest: u64) {
        let pause = lent.stage.delay(MILLI, longest.max(2 * MILLI));
        let (node, life) = self.machine.who();
        lent.stage.after(pause, Due::World(WorldDue::Act { node, life }));
    }

    pub(crate) fn come(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan) {
        if self.machine.runs() {
            return;
        }
        (self.counted, self.closing) = (ProducerReport::default(), None);
        self.known.clear();
        let client = client_config(lent, plan, self.machine.node, self.machine.life + 1);
        let config = ProducerConfig {
            send_timeout: plan.send_timeout,
            attempt_timeout: plan.attempt_timeout,
            retries: plan.retries,
            compress_over: plan.compress_over,
            max_batch_bytes: plan.max_batch_bytes,
            in_flight: plan.in_flight,
            avoid_slow: lent.stage.chance.one_in(2),
            ..ProducerConfig::new(client, "producers".to_owned())
        };
        let wants = self.machine.boot(lent, |_, now| Producer::new(config, now));
        self.carry_out(lent, truth, plan, wants);
        self.act_later(lent, plan.servers.pause);
    }

    pub(crate) fn fate(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, fate: Fate) {
        if !self.machine.runs() {
            return;
        }
        let node = self.machine.node;
        match fate {
            Fate::Still(long) => {
                lent.stage.happened(Rare::ProducerPaused);
                self.machine.stand_still(lent.stage.now + long);
            }
            Fate::Gone(Way::Closed(within), long) => self.close(lent, truth, plan, within, Some(long)),
            Fate::Gone(way, long) => {
                if !self.open.is_empty() {
                    lent.stage.happened(Rare::ProducerCrashed);
                }
                truth.abandoned(std::mem::take(&mut self.open));
                let said = way == Way::Killed;
                self.machine.end(lent, if said { Goodbye::Said } else { Goodbye::Never });
                lent.stage.after(long, Due::World(WorldDue::Come { node }));
            }
        }
    }

    pub(crate) fn close(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &mut Truth,
        plan: &Plan,
        within: u64,
        again: Option<u64>,
    ) {
        if self.closing.is_some() || lent.stage.now < self.machine.still_until {
            return;
        }
        if !self.open.is_empty() {
            lent.stage.happened(Rare::ClosedInFlight);
        }
        // Brokers have half a second to hear of it.
        let must_end_by = lent.stage.now + MILLI * (within + 600);
        self.closing = Some(Closing { must_end_by, again });
        let within = Duration::from_millis(within);
        self.tell(lent, truth, plan, ProducerCommand::Close { within });
    }

    fn tell(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, command: ProducerCommand) {
        let wants = self.machine.tell(lent, [command]);
        self.carry_out(lent, truth, plan, wants);
    }

    /// The user does one thing, and comes back after a pause.
    pub(crate) fn act(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, life: u32) {
        if self.machine.life != life || !self.machine.runs() || self.closing.is_some() {
            return;
        }
        let (node, now) = (self.machine.node, lent.stage.now);
        if now < self.machine.still_until {
            return lent.stage.at(self.machine.still_until, Due::World(WorldDue::Act { node, life }));
        }
        if plan.names_only || lent.stage.chance.one_in(10) {
            for topic in &TOPICS[..2] {
                let topic = Topic::new(topic).expect("a legal name");
                self.tell(lent, truth, plan, ProducerCommand::Route { topic });
            }
        }
        if self.left == 0 {
            if plan.names_only && lent.shape.healed_at.is_none() {
                self.act_later(lent, SECOND / 5);
            }
            return;
        }
        let well = truth.settled_at.is_some();
        let topic = TOPICS[lent.stage.chance.below(2) as usize];
        match lent.stage.chance.below(20) {
            // One too many of these is refused, and in the end nothing must be.
            0 | 1 if !well || plan.in_flight > 10 => self.batch(lent, truth, plan, topic),
            2 if !well => {
                let (_, message) = self.message(lent, truth, plan, topic, None, End::Oneway);
                self.tell(lent, truth, plan, ProducerCommand::SendOneway { message, to: Target::Any });
            }
            3 if !well => self.together(lent, truth, plan),
            3..=8 => self.single(lent, truth, plan, topic, true),
            _ if well && self.open.len() >= plan.in_flight => {}
            _ => self.single(lent, truth, plan, topic, false),
        }
        self.act_later(lent, plan.servers.pause);
    }

    fn single(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, topic: &'static str, keyed: bool) {
        if truth.settled_at.is_some() && self.open.len() >= plan.in_flight {
            return;
        }
        let stream = if keyed { Some(*lent.stage.chance.pick(&STREAMS)) } else { None };
        let (id, message) = self.message(lent, truth, plan, topic, stream, End::Open);
        let legal = Topic::new(topic).expect("a legal name");
        let known = self.known.get(&legal).filter(|known| !known.is_empty());
        let to = match known {
            Some(known) if stream.is_none() && lent.stage.chance.one_in(6) => {
                Target::Queue(lent.stage.chance.pick(known).clone())
            }
            _ => Target::Any,
        };
        self.open.insert(id);
        self.tell(lent, truth, plan, ProducerCommand::Send { id: SendId(id), message, to, timeout: None });
    }

    /// Several sends, each by itself, in one turn of the producer: those of a topic may share a request.
    fn together(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan) {
        let mut commands = Vec::new();
        for _ in 0..2 + lent.stage.chance.below(5) {
            let topic = TOPICS[lent.stage.chance.below(2) as usize];
            let (id, message) = self.message(lent, truth, plan, topic, None, End::Open);
            self.open.insert(id);
            self.together.insert(id);
            commands.push(ProducerCommand::Send { id: SendId(id), message, to: Target::Any, timeout: None });
        }
        let wants = self.machine.tell(lent, commands);
        self.carry_out(lent, truth, plan, wants);
    }

    fn batch(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, topic: &'static str) {
        let number = 2 + lent.stage.chance.below(5);
        let mut messages = Vec::new();
        for _ in 0..number {
            let (id, message) = self.message(lent, truth, plan, topic, None, End::Open);
            self.open.insert(id);
            self.batched.insert(id);
            messages.push((SendId(id), message));
        }
        self.tell(lent, truth, plan, ProducerCommand::SendBatch { messages, to: Target::Any, timeout: None });
    }

    /// A message, and its number; it is written down.
    fn message(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &mut Truth,
        plan: &Plan,
        topic: &'static str,
        stream: Option<&str>,
        end: End,
    ) -> (u64, Message) {
        self.left = self.left.saturating_sub(1);
        let tag = *lent.stage.chance.pick(&TAGS);
        let len = 8 + lent.stage.chance.below(plan.body) as usize;
        let (now, until) = (lent.stage.now, lent.stage.now + nanos(plan.send_timeout));
        let id = truth.sends(Sent::new(self.machine.who(), topic, tag, len, now, until, end));
        let made = Message::new(topic, body(id, len)).and_then(|message| message.tag(tag));
        let made = made.and_then(|message| message.keys([id.to_string().as_str()]));
        let made = made.and_then(|message| match stream {
            Some(stream) => message.sharding_key(stream),
            None => Ok(message),
        });
        (id, made.expect("what is sent here is legal"))
    }

    pub(crate) fn carry_out(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &mut Truth,
        plan: &Plan,
        wants: Wants<ProducerWork>,
    ) {
        let mut together = BTreeSet::new();
        for left in wants.left {
            match left {
                Left::Work(ProducerWork::Sent { id: SendId(id), outcome }) => {
                    lent.stage.line(format_args!("send {id} ends: {outcome:?}"));
                    self.open.remove(&id);
                    match &outcome {
                        Ok(receipt) => {
                            self.counted.kept += 1;
                            if self.batched.contains(&id) {
                                lent.stage.happened(Rare::BatchReceipts);
                            }
                            // Two of them in one queue by one answer.
                            if self.together.contains(&id) && !together.insert(receipt.queue.clone()) {
                                lent.stage.happened(Rare::Gathered);
                            }
                            if receipt.attempts > 1 {
                                lent.stage.happened(Rare::SentAgain);
                            }
                        }
                        Err(SendError::Refused { attempts, .. }) => {
                            self.counted.refused += 1;
                            if *attempts == 0 && self.open.len() >= plan.in_flight {
                                lent.stage.happened(Rare::WindowFull);
                            }
                        }
                        Err(SendError::Unknown { .. }) => self.counted.unknown += 1,
                    }
                    truth.ended(lent.stage, id, &outcome, self.machine.still_until);
                }
                Left::Work(ProducerWork::Routed { topic, outcome }) => {
                    lent.stage.line(format_args!("{:?} hears of {topic}: {outcome:?}", self.machine.node));
                    self.routed(lent, truth, plan, topic, outcome);
                }
                Left::Work(ProducerWork::Closed(report)) => self.closed(lent, report),
                Left::Exit(_) => self.exit(lent),
                // Nothing is promised of a oneway message.
                Left::Work(ProducerWork::Told { .. }) | Left::Answered { .. } => {}
            }
        }
    }

    /// A route that is known is not given up because one name server, just started, knows nothing yet.
    fn routed(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &Truth,
        plan: &Plan,
        topic: Topic,
        outcome: Result<Vec<MessageQueue>, RouteError>,
    ) {
        let now = lent.stage.now;
        // As long as brokers may take to register with one that has just started.
        let learns = 2 * MILLI * plan.servers.register_every_ms + 3 * SECOND;
        let ignorant = truth.names_since.iter().filter(|since| **since + learns > now).count();
        let known = self.known.get(&topic).is_some_and(|known| !known.is_empty());
        let must = known && plan.names_only && self.closing.is_none() && ignorant * 2 <= truth.names_since.len();
        let given_up = match &outcome {
            Ok(queues) if queues.is_empty() => Some("a send would create it".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = given_up.filter(|_| must) {
            let node = self.machine.node;
            lent.stage.blame("route-kept", format!("{node:?} knew the route of {topic}, and has given it up: {why}"));
        }
        if let Ok(queues) = outcome {
            if ignorant > 0 && plan.names_only && now > 9 * SECOND {
                lent.stage.happened(Rare::RouteKept);
            }
            self.known.insert(topic, queues);
        }
    }

    fn closed(&mut self, lent: &mut Lent<'_>, report: ProducerReport) {
        let node = self.machine.node;
        lent.stage.line(format_args!("{node:?} is closed: {report:?}"));
        if let Some(id) = self.open.first() {
            lent.stage.blame("one-end", format!("{node:?} is closed, and send {id} has not ended"));
        }
        let ends = |report: &ProducerReport| [report.kept, report.refused, report.unknown];
        if ends(&report) != ends(&self.counted) {
            lent.stage.blame("one-end", format!("{node:?} reports {report:?}; it has said {:?}", self.counted));
        }
    }

    fn exit(&mut self, lent: &mut Lent<'_>) {
        let node = self.machine.node;
        let now = lent.stage.now;
        match self.closing.take() {
            None => lent.stage.blame("exit", format!("producer {node:?} ends by itself")),
            Some(Closing { must_end_by, again }) => {
                if now > must_end_by.max(self.machine.still_until + SECOND) {
                    lent.stage.blame("in-time", format!("{node:?} ends {} ns late", now - must_end_by));
                }
                if let Some(long) = again {
                    lent.stage.after(long, Due::World(WorldDue::Come { node }));
                }
            }
        }
        self.machine.end(lent, Goodbye::Said);
    }
}
