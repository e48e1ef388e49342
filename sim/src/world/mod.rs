//! The world of clients: brokers and name servers as in the universe, and around them the cores of real clients, each on a
//! machine of its own, which come, go, crash and stand still.
//!
//! ```text
//!   trouble ──heal──▶ settling ──all agree, nothing is missing──▶ last words ──consumed, once──▶ closing ──▶ everything is read
//! ```

mod consuming;
mod machine;
mod plan;
mod producing;
mod pulling;
mod truth;

use crate::broker_node::{BrokerNode, Wanted};
use crate::checkers::{Books, Shelf, records};
use crate::faults::Chaos;
use crate::host::{Directory, body_of};
use crate::name_node::{BrokerFacts, NameNode};
use crate::net::{Arrival, Net};
use crate::stage::{Due, MILLI, NodeId, SECOND, Stage};
use crate::trace::Rare;
use crate::universe::{Report, facts};
use crate::workload::{Lent, QUEUES, Shape, TOPICS};
use consuming::Consuming;
use keepmq_client_core::{Batch, Verdict};
use keepmq_protocol::message::{find, property, sys_flag};
use keepmq_protocol::request::{CreateTopic, Pull, QueryOffset};
use keepmq_protocol::{BrokerName, MessageQueue, Request, Response, Topic};
use keepmq_world::Chance;
use plan::{Fate, Plan};
use producing::Producing;
use pulling::Pulling;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use truth::{Progress, Truth};

/// What is due in this world only.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WorldDue {
    /// A client comes.
    Come { node: NodeId },
    /// Something happens to a client.
    Fate { node: NodeId, fate: Fate },
    /// A producer's user does his next thing.
    Act { node: NodeId, life: u32 },
    /// A listener has ended.
    Listened { node: NodeId, life: u32, batch: Batch, verdict: Verdict },
    /// An operator makes the topics.
    Create,
}

/// Messages that each producer sends when all is well.
const LAST_WORDS: u32 = 6;
/// How long after everything was well again the clients may take.
const PATIENCE: u64 = 120 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Trouble,
    Settling,
    LastWords { since: u64 },
    Closing { since: u64 },
    Over,
}

/// What is not as it will have to be, and which checker says so when it stays like that.
type Doubt = (&'static str, String);

struct World {
    plan: Plan,
    stage: Stage,
    net: Net,
    books: Books,
    directory: Directory,
    brokers: Vec<BrokerNode>,
    name_servers: Vec<NameNode>,
    producers: Vec<Producing>,
    consumers: Vec<Consuming>,
    pullers: Vec<Pulling>,
    truth: Truth,
    healed_at: Option<u64>,
    phase: Phase,
    /// Topics that the operator has made, by broker.
    made: BTreeSet<(usize, &'static str)>,
}

/// What somebody is lent: everything but the machines.
macro_rules! lent {
    ($world:ident) => {
        Lent {
            shape: shape($world.brokers.len(), $world.name_servers.len(), $world.healed_at),
            stage: &mut $world.stage,
            net: &mut $world.net,
            books: &mut $world.books,
            directory: &$world.directory,
        }
    };
}

/// A client's core handles something, and what it wants then is carried out.
macro_rules! drive {
    ($world:ident, $client:expr, $method:ident($($arg:expr),*)) => {{
        let mut lent = lent!($world);
        let (truth, plan) = (&mut $world.truth, &$world.plan);
        match $client {
            ClientAt::Producer(nth) => {
                let producer = &mut $world.producers[nth];
                if let Some(wants) = producer.machine.$method(&mut lent, $($arg),*) {
                    producer.carry_out(&mut lent, truth, plan, wants);
                }
            }
            ClientAt::Consumer(nth) => {
                let consumer = &mut $world.consumers[nth];
                if let Some(wants) = consumer.machine.$method(&mut lent, $($arg),*) {
                    consumer.carry_out(&mut lent, truth, plan, wants);
                }
            }
            ClientAt::Puller(nth) => {
                let puller = &mut $world.pullers[nth];
                if let Some(wants) = puller.machine.$method(&mut lent, $($arg),*) {
                    puller.carry_out(&mut lent, truth, wants);
                }
            }
        }
    }};
}

/// Of what there is of it, the servers ask only when everything was well again.
fn shape(brokers: usize, name_servers: usize, healed_at: Option<u64>) -> Shape {
    Shape {
        brokers,
        name_servers,
        clients: 0,
        body: 0,
        batch: 0,
        pause: 0,
        rest: 0,
        window: 0,
        beat_every: 0,
        client_timeout: 0,
        healed_at,
    }
}

/// Runs one seed. With `print`, every line of the trace goes to standard output.
pub(crate) fn run(seed: u64, print: bool) -> Report {
    let mut chance = Chance::new(seed ^ 0xC11E_4715);
    let plan = Plan::new(&mut chance.fork());
    let mut world = World::new(seed, plan, &mut chance, print);
    world.begin();
    while world.stage.violation.is_none() && world.phase != Phase::Over {
        let Some(due) = world.stage.next() else {
            world.stage.blame("liveness", "nothing is due any more, and the clients have not finished");
            break;
        };
        world.handle(due);
    }
    Report {
        seed,
        hash: world.stage.trace.hash(),
        events: world.stage.trace.lines(),
        counts: world.stage.counts,
        violation: world.stage.violation,
    }
}

impl World {
    fn new(seed: u64, plan: Plan, chance: &mut Chance, print: bool) -> Self {
        let mut directory = Directory::default();
        let mut books = Books::new();
        let servers = &plan.servers;
        let address = |net: u8, nth: usize, port| SocketAddr::from(([10, 0, net, nth as u8 + 1], port));
        for nth in 0..servers.brokers {
            directory.add(NodeId(nth), address(0, nth, 10_911));
        }
        for nth in 0..servers.name_servers {
            directory.add(NodeId(servers.brokers + nth), address(1, nth, 9_876));
        }
        let first = servers.brokers + servers.name_servers;
        for nth in 0..plan.producers.len() + plan.consumers.len() + plan.pullers.len() {
            directory.add(NodeId(first + nth), address(2, nth, 0));
        }
        let mut brokers = Vec::new();
        for nth in 0..servers.brokers {
            let name = format!("broker-{}", (b'a' + nth as u8) as char);
            brokers.push(BrokerNode::new(NodeId(nth), &name, servers, &directory, &mut chance.fork()));
            let name = BrokerName::new(&name).expect("a legal name");
            books.shelves.push(Shelf::new(name, servers.flush, servers.keep_ms));
        }
        let timeout = Duration::from_millis(servers.broker_timeout_ms);
        let name_server = |nth| NameNode::new(NodeId(servers.brokers + nth), timeout, chance.fork());
        let name_servers: Vec<_> = (0..servers.name_servers).map(name_server).collect();
        let producer = |(nth, client): (usize, &plan::ClientPlan)| {
            Producing::new(NodeId(first + nth), client.clone(), servers.sends)
        };
        let producers: Vec<_> = plan.producers.iter().enumerate().map(producer).collect();
        let first = first + producers.len();
        let consumer = |(nth, (group, client)): (usize, &(usize, plan::ClientPlan))| {
            Consuming::new(NodeId(first + nth), *group, client.clone())
        };
        let consumers: Vec<_> = plan.consumers.iter().enumerate().map(consumer).collect();
        let first = first + consumers.len();
        let puller = |(nth, (group, _)): (usize, &(usize, u64))| Pulling::new(NodeId(first + nth), *group);
        let pullers = plan.pullers.iter().enumerate().map(puller).collect();
        Self {
            stage: Stage::new(seed, chance.fork(), print),
            net: Net::default(),
            books,
            directory,
            brokers,
            producers,
            consumers,
            pullers,
            truth: Truth::new(&plan.groups, name_servers.len()),
            name_servers,
            healed_at: None,
            phase: Phase::Trouble,
            made: BTreeSet::new(),
            plan,
        }
    }

    fn begin(&mut self) {
        self.stage.line(format_args!("{:?}", self.plan));
        for node in 0..self.brokers.len() + self.name_servers.len() {
            self.net.set_life(NodeId(node), None);
            self.stage.at(0, Due::Boot { node: NodeId(node) });
        }
        let mut lent = lent!(self);
        for producer in &self.producers {
            lent.net.set_life(producer.machine.node, None);
            producer.announce(&mut lent);
        }
        for consumer in &self.consumers {
            lent.net.set_life(consumer.machine.node, None);
            consumer.announce(&mut lent);
        }
        for (puller, (_, comes)) in self.pullers.iter().zip(&self.plan.pullers) {
            let node = puller.machine.node;
            lent.net.set_life(node, None);
            lent.stage.at(*comes, Due::World(WorldDue::Come { node }));
        }
        self.stage.at(20 * MILLI, Due::World(WorldDue::Create));
        self.plan.servers.announce(&mut self.stage);
    }

    // ---- who gets what --------------------------------------------------------------------------------------------------

    fn broker(&mut self, node: NodeId, act: impl FnOnce(&mut BrokerNode, &mut Lent<'_>)) {
        let mut lent = lent!(self);
        act(&mut self.brokers[node.0], &mut lent);
    }

    fn name_server(&mut self, node: NodeId, act: impl FnOnce(&mut NameNode, &mut Lent<'_>, &[BrokerFacts<'_>])) {
        let facts: Vec<_> = self.brokers.iter().map(facts).collect();
        let first = self.brokers.len();
        let mut lent = lent!(self);
        act(&mut self.name_servers[node.0 - first], &mut lent, &facts);
    }

    fn kind(&self, node: NodeId) -> Kind {
        let (brokers, servers) = (self.brokers.len(), self.brokers.len() + self.name_servers.len());
        let (producers, consumers) =
            (servers + self.producers.len(), servers + self.producers.len() + self.consumers.len());
        match node.0 {
            nth if nth < brokers => Kind::Broker,
            nth if nth < servers => Kind::NameServer,
            nth if nth < producers => Kind::Client(ClientAt::Producer(nth - servers)),
            nth if nth < consumers => Kind::Client(ClientAt::Consumer(nth - producers)),
            nth => Kind::Client(ClientAt::Puller(nth - consumers)),
        }
    }

    fn client(&self, node: NodeId) -> ClientAt {
        match self.kind(node) {
            Kind::Client(client) => client,
            kind => unreachable!("{node:?} is no client: {kind:?}"),
        }
    }

    fn handle(&mut self, due: Due) {
        match &due {
            Due::Arrive { .. } | Due::Tick { .. } | Due::CallLate { .. } | Due::Step { .. } => {}
            due => self.stage.line(format_args!("{due:?}")),
        }
        match due {
            Due::Arrive { link, to_acceptor } => {
                if let Some(arrival) = self.net.arrive(&mut self.stage, link, to_acceptor) {
                    self.arrived(arrival);
                }
            }
            Due::Reset { link, acceptor } => {
                if let Some(arrival) = self.net.reset(link, acceptor) {
                    self.arrived(arrival);
                }
            }
            Due::Turn { node, life } => self.turn(node, life),
            Due::Tick { node, life, version } => self.tick(node, life, version),
            Due::CallLate { node, life, call } => match self.kind(node) {
                Kind::Broker => self.broker(node, |b, lent| b.call_late(lent, life, call)),
                Kind::NameServer => self.name_server(node, |n, lent, _| n.call_late(lent, life, call)),
                Kind::Client(client) => drive!(self, client, call_late(life, call)),
            },
            Due::Step { node, life, lane } => self.broker(node, |b, lent| b.step(lent, life, lane)),
            Due::Done { node, life, done } => self.broker(node, |b, lent| b.done(lent, life, *done)),
            Due::Saved { node, life, done } => self.name_server(node, |n, lent, _| n.saved(lent, life, done)),
            Due::Read { node, life, serve } => self.broker(node, |b, lent| b.read(lent, life, &serve)),
            Due::Boot { node } if self.kind(node) == Kind::Broker => self.broker(node, BrokerNode::boot),
            Due::Boot { node } => {
                self.truth.names_since[node.0 - self.brokers.len()] = self.stage.now;
                self.name_server(node, |n, lent, _| n.boot(lent));
            }
            Due::MustHaveStopped { node, life } => self.broker(node, |b, lent| b.must_have_stopped(lent, life)),
            Due::Space { node, life } => self.broker(node, |b, lent| {
                b.look_at_space(lent.stage);
                b.space(lent, life);
            }),
            Due::Chaos(chaos) => self.chaos(chaos),
            Due::Heal => self.heal(),
            Due::Review => self.review(),
            Due::World(due) => self.own(due),
            Due::Client { .. } | Due::AnswerLate { .. } | Due::Come { .. } | Due::Leave { .. } | Due::Noticed(_) => {
                unreachable!("scripted clients are of the universe")
            }
        }
    }

    fn own(&mut self, due: WorldDue) {
        let node = match due {
            WorldDue::Create => return self.create(),
            WorldDue::Come { node }
            | WorldDue::Fate { node, .. }
            | WorldDue::Act { node, .. }
            | WorldDue::Listened { node, .. } => node,
        };
        let client = self.client(node);
        let mut lent = lent!(self);
        let (truth, plan) = (&mut self.truth, &self.plan);
        match (client, due) {
            (ClientAt::Producer(nth), WorldDue::Come { .. }) => self.producers[nth].come(&mut lent, truth, plan),
            (ClientAt::Consumer(nth), WorldDue::Come { .. }) => self.consumers[nth].come(&mut lent, truth, plan),
            (ClientAt::Puller(nth), WorldDue::Come { .. }) => self.pullers[nth].come(&mut lent, truth, plan),
            (ClientAt::Producer(nth), WorldDue::Fate { fate, .. }) => {
                self.producers[nth].fate(&mut lent, truth, plan, fate);
            }
            (ClientAt::Consumer(nth), WorldDue::Fate { fate, .. }) => {
                self.consumers[nth].fate(&mut lent, truth, plan, fate);
            }
            (ClientAt::Producer(nth), WorldDue::Act { life, .. }) => {
                self.producers[nth].act(&mut lent, truth, plan, life);
            }
            (ClientAt::Puller(nth), WorldDue::Act { life, .. }) => self.pullers[nth].act(&mut lent, truth, life),
            (ClientAt::Consumer(nth), due) => self.consumers[nth].listened(&mut lent, truth, plan, due),
            (client, due) => unreachable!("{due:?} does not happen to {client:?}"),
        }
    }

    fn arrived(&mut self, Arrival { node, link, news }: Arrival) {
        self.stage.line(format_args!("{node:?} gets {} on {link:?}", news.name()));
        match self.kind(node) {
            Kind::Broker => self.broker(node, |b, lent| b.arrived(lent, link, news)),
            Kind::NameServer => self.name_server(node, |n, lent, facts| n.arrived(lent, link, news, facts)),
            Kind::Client(ClientAt::Producer(nth)) => self.producers[nth].machine.arrived(&mut lent!(self), link, news),
            Kind::Client(ClientAt::Consumer(nth)) => self.consumers[nth].machine.arrived(&mut lent!(self), link, news),
            Kind::Client(ClientAt::Puller(nth)) => self.pullers[nth].machine.arrived(&mut lent!(self), link, news),
        }
    }

    fn turn(&mut self, node: NodeId, life: u32) {
        match self.kind(node) {
            Kind::Broker => self.broker(node, |b, lent| b.turn(lent, life)),
            Kind::NameServer => self.name_server(node, |n, lent, facts| n.turn(lent, life, facts)),
            Kind::Client(client) => drive!(self, client, turn(life)),
        }
    }

    fn tick(&mut self, node: NodeId, life: u32, version: u64) {
        match self.kind(node) {
            Kind::Broker => self.broker(node, |b, lent| b.tick(lent, life, version)),
            Kind::NameServer => self.name_server(node, |n, lent, _| n.tick(lent, life, version)),
            Kind::Client(client) => drive!(self, client, tick(life, version)),
        }
    }

    // ---- what goes wrong ------------------------------------------------------------------------------------------------

    fn chaos(&mut self, chaos: Chaos) {
        if self.healed_at.is_some() {
            return;
        }
        let now = self.stage.now;
        match chaos {
            Chaos::Kill(node) => self.broker(node, |b, lent| b.crash(lent, false)),
            Chaos::PowerCut(node) => self.broker(node, |b, lent| b.crash(lent, true)),
            Chaos::Stop(node) => self.broker(node, |b, lent| b.stop(lent, Wanted::Running)),
            Chaos::NameServer(node) => self.name_server(node, |n, lent, _| n.crash(lent)),
            Chaos::Link => self.net.trouble(&mut self.stage),
            Chaos::Partition(a, b, long) if a != b => {
                self.stage.happened(Rare::Partitioned);
                self.net.partition(&mut self.stage, a, b, now + long);
            }
            Chaos::Partition(..) => {}
            Chaos::Slow(node, long) => self.brokers[node.0].slow(now + long),
            Chaos::Retire(_)
            | Chaos::Vanish(_)
            | Chaos::Rot(_)
            | Chaos::OldWords { .. }
            | Chaos::Clock(..)
            | Chaos::Full(..)
            | Chaos::Broken(..) => unreachable!("{chaos:?} is not planned here"),
        }
    }

    fn heal(&mut self) {
        self.healed_at = Some(self.stage.now);
        self.phase = Phase::Settling;
        self.net.heal(&mut self.stage);
        for broker in &mut self.brokers {
            broker.heal(&mut self.stage);
        }
        for nth in 0..self.name_servers.len() {
            self.name_server(NodeId(self.brokers.len() + nth), |n, lent, _| n.boot_later(lent));
        }
        self.made.clear();
        self.stage.after(SECOND, Due::World(WorldDue::Create));
        self.stage.after(500 * MILLI, Due::Review);
    }

    /// An operator makes topics on all brokers, unless the first message is to.
    fn create(&mut self) {
        let topics = if self.plan.servers.auto_create { &TOPICS[..1] } else { &TOPICS[..2] };
        for nth in 0..self.brokers.len() {
            for topic in topics {
                if self.made.contains(&(nth, topic)) {
                    continue;
                }
                let request = Request::CreateTopic(CreateTopic {
                    topic: (*topic).into(),
                    default_topic: Some("TBW102".into()),
                    read_queues: QUEUES as i32,
                    write_queues: QUEUES as i32,
                    perm: 6,
                    filter_type: Some("SINGLE_TAG".into()),
                    sys_flag: Some(0),
                    order: false,
                    attributes: None,
                });
                if self.ask(nth, &request).is_some_and(|response| response.is_ok()) {
                    self.made.insert((nth, topic));
                }
            }
        }
        let all = self.made.len() == self.brokers.len() * topics.len();
        if !all && (self.healed_at.is_some() || self.stage.now < 4 * SECOND) {
            self.stage.after(400 * MILLI, Due::World(WorldDue::Create));
        }
    }

    fn ask(&mut self, nth: usize, request: &Request<'_>) -> Option<Response> {
        let mut response = None;
        self.broker(NodeId(nth), |b, lent| response = b.probe(lent, request));
        response
    }

    // ---- the end --------------------------------------------------------------------------------------------------------

    fn review(&mut self) {
        let now = self.stage.now;
        let healed = self.healed_at.expect("the first review is put on the agenda when everything is well again");
        match self.phase {
            Phase::Trouble | Phase::Over => {}
            Phase::Settling => {
                let doubt = self.unsettled();
                // Whoever has gone without a word is forgotten by then: brokers look for them as often as that.
                let forgotten = healed + 2 * MILLI * self.plan.servers.client_timeout_ms + 3 * SECOND;
                match doubt {
                    None if now >= forgotten => {
                        self.stage.happened(Rare::GroupSettled);
                        self.truth.settled_at = Some(now);
                        self.phase = Phase::LastWords { since: now };
                        let mut lent = lent!(self);
                        for producer in &mut self.producers {
                            producer.send_more(&mut lent, LAST_WORDS);
                        }
                    }
                    Some(what) if now > healed + PATIENCE => self.late(healed, what),
                    _ => {}
                }
            }
            Phase::LastWords { since } => match self.unsettled() {
                None if now > since + 2 * SECOND => {
                    self.phase = Phase::Closing { since: now };
                    self.close_all();
                }
                Some(what) if now > since + PATIENCE / 2 => self.late(since, what),
                _ => {}
            },
            Phase::Closing { since } => {
                let producers = self.producers.iter().filter(|producer| producer.machine.runs()).count();
                let consumers = self.consumers.iter().filter(|consumer| consumer.machine.runs()).count();
                let pullers = self.pullers.iter().filter(|puller| puller.machine.runs()).count();
                if producers + consumers + pullers == 0 {
                    return self.end();
                }
                if now > since + 20 * SECOND {
                    self.late(
                        since,
                        (
                            "liveness",
                            format!("{producers} producers and {} consumers are not closed", consumers + pullers),
                        ),
                    );
                }
            }
        }
        self.stage.after(500 * MILLI, Due::Review);
    }

    fn late(&mut self, since: u64, (checker, what): Doubt) {
        let long = (self.stage.now - since) / SECOND;
        self.stage.blame(checker, format!("{long} s after everything was well: {what}"));
    }

    /// How far each queue reaches that has ever held a message.
    fn reaches(&self) -> Vec<(MessageQueue, u64)> {
        let mut reaches = Vec::new();
        for (nth, broker) in self.brokers.iter().enumerate() {
            for topic in &TOPICS[..2] {
                for id in 0..QUEUES {
                    if let Some((_, next)) = broker.bounds((topic, id)) {
                        reaches.push((self.queue(nth, topic, id), next));
                    }
                }
            }
        }
        reaches
    }

    fn queue(&self, broker: usize, topic: &str, id: u32) -> MessageQueue {
        let topic = Topic::new(topic).expect("a legal name");
        MessageQueue { topic, broker: self.books.shelves[broker].name.clone(), id }
    }

    /// What still has to happen before nothing more does.
    fn unsettled(&mut self) -> Option<Doubt> {
        if let Some(broker) = self.brokers.iter().find(|broker| !broker.serves()) {
            return Some(("liveness", format!("{} does not serve", broker.name())));
        }
        let reaches = self.reaches();
        self.truth.check_kept(&mut self.stage, &reaches);
        if let Some(what) = self.producers.iter().find_map(Producing::unfinished) {
            return Some(("liveness", what));
        }
        if let Some(consumer) = self.consumers.iter().find(|consumer| !consumer.is_here()) {
            return Some(("liveness", format!("consumer {:?} is not there", consumer.machine.node)));
        }
        self.truth.missing(&reaches).map(|what| ("not-consumed", what)).or_else(|| self.undivided(&reaches))
    }

    /// What keeps a group from having each queue in the hands of exactly one member.
    fn undivided(&self, reaches: &[(MessageQueue, u64)]) -> Option<Doubt> {
        for (nth, group) in self.plan.groups.iter().enumerate() {
            if !group.shared {
                let each = self.consumers.iter().filter(|consumer| consumer.group == nth);
                let lacks = |consumer: &Consuming| reaches.iter().find(|(queue, _)| !consumer.assigned.contains(queue));
                if let Some((queue, _)) = each.filter_map(lacks).next() {
                    return Some(("one-owner", format!("one of {} does not have {queue:?}", group.name)));
                }
                continue;
            }
            let mut owners: BTreeMap<&MessageQueue, NodeId> = BTreeMap::new();
            let members: Vec<_> = self.consumers.iter().filter(|consumer| consumer.group == nth).collect();
            for consumer in &members {
                for queue in &consumer.assigned {
                    if let Some(other) = owners.insert(queue, consumer.machine.node) {
                        let node = consumer.machine.node;
                        return Some((
                            "one-owner",
                            format!("{node:?} and {other:?} of {} both have {queue:?}", group.name),
                        ));
                    }
                }
            }
            let nobody = reaches.iter().find(|(queue, _)| !owners.contains_key(queue) && !members.is_empty());
            if let Some((queue, _)) = nobody {
                return Some(("one-owner", format!("nobody of {} has {queue:?}", group.name)));
            }
        }
        None
    }

    fn close_all(&mut self) {
        let mut lent = lent!(self);
        for producer in &mut self.producers {
            producer.close(&mut lent, &mut self.truth, &self.plan, 2_000, None);
        }
        for consumer in &mut self.consumers {
            consumer.close(&mut lent, &mut self.truth, &self.plan, 5_000, None);
        }
        for puller in &mut self.pullers {
            puller.close(&mut lent, &mut self.truth);
        }
    }

    /// Everything is read, and held against what was said.
    fn end(&mut self) {
        self.phase = Phase::Over;
        self.check_offsets();
        let mut found = BTreeMap::new();
        let reaches = self.reaches();
        if self.plan.servers.auto_create && reaches.iter().any(|(queue, _)| queue.topic.as_str() == TOPICS[1]) {
            self.stage.happened(Rare::TopicOfFirstMessage);
        }
        for (queue, next) in reaches {
            self.read(&queue, next, &mut found);
        }
        self.truth.judge(&mut self.stage, &found);
    }

    /// What was processed is committed, where the brokers keep it.
    fn check_offsets(&mut self) {
        let truth = std::mem::replace(&mut self.truth, Truth::new(&[], 0));
        for Progress { group, queue, done, whole, lowered, behind } in truth.progress() {
            let request = Request::QueryOffset(QueryOffset {
                group: group.into(),
                topic: queue.topic.as_str().to_owned().into(),
                queue_id: queue.id as i32,
                zero_if_not_found: Some(false),
            });
            let response = self.ask(self.broker_of(queue), &request);
            let found = response.as_ref().and_then(|response| response.field::<i64>("offset").ok());
            let fits = found.is_some_and(|found| if whole { found == done as i64 } else { found >= done as i64 });
            let short = behind && found.is_some_and(|found| found < done as i64);
            if fits {
                self.stage.happened(Rare::CommitSettled);
            } else if done > 0 && !lowered && !short {
                self.stage.blame(
                    "committed",
                    format!(
                        "{group} has processed all of {queue:?} up to {done} and was closed; its offset is {found:?}"
                    ),
                );
            }
        }
        self.truth = truth;
    }

    fn broker_of(&self, queue: &MessageQueue) -> usize {
        let named = self.books.shelves.iter().position(|shelf| shelf.name == queue.broker);
        named.expect("every queue is on a broker of this world")
    }

    fn read(&mut self, queue: &MessageQueue, next: u64, found: &mut BTreeMap<(MessageQueue, u64), u64>) {
        let nth = self.broker_of(queue);
        let mut at = 0;
        while at < next && self.stage.violation.is_none() {
            let request = Request::Pull(Pull {
                group: "audit".into(),
                topic: queue.topic.as_str().to_owned().into(),
                queue_id: queue.id as i32,
                offset: at as i64,
                max_messages: 32,
                sys_flag: 4,
                commit_offset: 0,
                suspend_ms: 0,
                subscription: Some("*".into()),
                sub_version: 0,
                expression_type: None,
                max_bytes: None,
            });
            let response = self.ask(nth, &request);
            let bytes = response.as_ref().map(body_of).unwrap_or_default();
            let before = at;
            for record in records(&bytes) {
                if record.sys_flag & sys_flag::COMPRESSED != 0 {
                    self.stage.happened(Rare::CompressedDelivered);
                }
                let id = find(record.properties, property::KEYS).and_then(|id| id.parse().ok());
                found.insert((queue.clone(), record.queue_offset.0), id.unwrap_or(u64::MAX));
                at = record.queue_offset.0 + 1;
            }
            if at == before {
                self.stage.blame("read", format!("{queue:?} at {at} of {next} gives nothing: {response:?}"));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Broker,
    NameServer,
    Client(ClientAt),
}

/// A client, by its place among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAt {
    Producer(usize),
    Consumer(usize),
    Puller(usize),
}
