//! One universe: a seed, a clock, an agenda, and everybody in it. It runs until the clients have finished after everything
//! was well again, or until a checker has found something.

use crate::broker_node::{BrokerNode, Wanted};
use crate::checkers::{Books, QueueKey, Shelf, id_of, key, records};
use crate::decay::Damage;
use crate::faults::{Chaos, Demand, Scenario};
use crate::host::{Directory, body_of};
use crate::member::{Member, Mode};
use crate::name_node::{BrokerFacts, NameNode};
use crate::net::{Arrival, LinkId, Net};
use crate::register::Question;
use crate::stage::{Due, MILLI, NodeId, SECOND, Stage, Violation};
use crate::trace::{Counts, Rare};
use crate::workload::{Client, DELETED, Lent, QUEUES, Shape, TOPICS};
use keepmq_ledger::Entry;
use keepmq_protocol::message::{property, push};
use keepmq_protocol::record;
use keepmq_protocol::request::{
    MaxOffset, MinOffset, Pull, QueryOffset, SearchOffset, Send, SendHeader, SendVia, ViewMessage,
};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Request, Response, ResponseCode};
use keepmq_world::Chance;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How a seed went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of everything that happened.
    pub hash: u64,
    /// Lines of the trace: events, answers, disk calls.
    pub events: u64,
    /// How often each rare thing happened.
    pub counts: Counts,
    /// What a checker has found.
    pub violation: Option<Violation>,
}

struct Universe {
    scenario: Scenario,
    stage: Stage,
    net: Net,
    books: Books,
    directory: Directory,
    brokers: Vec<BrokerNode>,
    name_servers: Vec<NameNode>,
    clients: Vec<Client>,
    members: Vec<Member>,
    /// When the members of a group changed last.
    changed_at: u64,
    healed_at: Option<u64>,
    /// Deleted topics that a tool has taken out of all routes.
    unrouted: Vec<(NodeId, &'static str)>,
    /// When the clients had sent and read everything.
    quiet_at: Option<u64>,
    finished: bool,
    found: BTreeSet<u64>,
}

/// No universe lasts so long, in milliseconds: a clock was set between two messages.
const LEAP: i64 = 3_000_000;

/// What somebody is lent: everything but the machines.
macro_rules! lent {
    ($universe:ident) => {
        Lent {
            shape: $universe.shape(),
            stage: &mut $universe.stage,
            net: &mut $universe.net,
            books: &mut $universe.books,
            directory: &$universe.directory,
        }
    };
}

/// Runs one seed. With `print`, every line of the trace goes to standard output.
pub(crate) fn run(seed: u64, print: bool) -> Report {
    let mut chance = Chance::new(seed);
    let scenario = Scenario::new(&mut chance.fork());
    let mut universe = Universe::new(seed, scenario, &mut chance, print);
    universe.begin();
    while universe.stage.violation.is_none() && !universe.finished {
        let Some(due) = universe.stage.next() else {
            universe.stage.blame("liveness", "nothing is due any more, and the clients have not finished");
            break;
        };
        universe.handle(due);
    }
    Report {
        seed,
        hash: universe.stage.trace.hash(),
        events: universe.stage.trace.lines(),
        counts: universe.stage.counts,
        violation: universe.stage.violation,
    }
}

impl Universe {
    fn new(seed: u64, scenario: Scenario, chance: &mut Chance, print: bool) -> Self {
        let mut directory = Directory::default();
        let mut books = Books::new();
        let address = |net: u8, nth: usize, port| SocketAddr::from(([10, 0, net, nth as u8 + 1], port));
        for nth in 0..scenario.brokers {
            directory.add(NodeId(nth), address(0, nth, 10_911));
        }
        for nth in 0..scenario.name_servers {
            directory.add(NodeId(scenario.brokers + nth), address(1, nth, 9_876));
        }
        let first_client = scenario.brokers + scenario.name_servers;
        for nth in 0..scenario.clients + scenario.members.len() {
            directory.add(NodeId(first_client + nth), address(2, nth, 0));
        }
        let mut brokers = Vec::new();
        for nth in 0..scenario.brokers {
            let name = format!("broker-{}", (b'a' + nth as u8) as char);
            brokers.push(BrokerNode::new(NodeId(nth), &name, &scenario, &directory, &mut chance.fork()));
            let name = BrokerName::new(&name).expect("a legal name");
            books.shelves.push(Shelf::new(name, scenario.flush, scenario.keep_ms));
        }
        let timeout = Duration::from_millis(scenario.broker_timeout_ms);
        let name_server = |nth| NameNode::new(NodeId(scenario.brokers + nth), timeout, chance.fork());
        let name_servers = (0..scenario.name_servers).map(name_server).collect();
        let stage = Stage::new(seed, chance.fork(), print);
        let mut universe = Self {
            stage,
            net: Net::default(),
            books,
            directory,
            brokers,
            name_servers,
            clients: Vec::new(),
            members: Vec::new(),
            changed_at: 0,
            healed_at: None,
            unrouted: Vec::new(),
            quiet_at: None,
            finished: false,
            found: BTreeSet::new(),
            scenario,
        };
        let shape = universe.shape();
        let client = |nth| Client::new(NodeId(first_client + nth), nth, shape, universe.scenario.sends);
        universe.clients = (0..universe.scenario.clients).map(client).collect();
        let first_member = first_client + universe.scenario.clients;
        let member = |(nth, (mode, _)): (usize, &(Mode, _))| Member::new(NodeId(first_member + nth), *mode);
        universe.members = universe.scenario.members.iter().enumerate().map(member).collect();
        universe
    }

    fn begin(&mut self) {
        self.stage.line(format_args!("{:?}", self.scenario));
        let nodes = self.brokers.len() + self.name_servers.len();
        for node in 0..nodes {
            self.net.set_life(NodeId(node), None);
            self.stage.at(0, Due::Boot { node: NodeId(node) });
        }
        for client in &self.clients {
            self.net.set_life(client.node, Some(1));
            self.stage.at(MILLI, Due::Client { node: client.node });
        }
        for member in &self.members {
            self.net.set_life(member.node, Some(1));
        }
        self.scenario.announce(&mut self.stage);
    }

    fn shape(&self) -> Shape {
        Shape {
            brokers: self.brokers.len(),
            name_servers: self.name_servers.len(),
            clients: self.scenario.clients,
            body: self.scenario.body,
            batch: self.scenario.batch,
            pause: self.scenario.pause,
            rest: self.scenario.rest,
            window: self.scenario.window,
            beat_every: (self.scenario.client_timeout_ms * MILLI / 4).min(30 * SECOND),
            client_timeout: self.scenario.client_timeout_ms * MILLI,
            healed_at: self.healed_at,
        }
    }

    /// One broker, and what it is lent.
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

    fn client(&mut self, node: NodeId, act: impl FnOnce(&mut Client, &mut Lent<'_>)) {
        let first = self.brokers.len() + self.name_servers.len();
        let mut lent = lent!(self);
        act(&mut self.clients[node.0 - first], &mut lent);
    }

    fn member(&mut self, node: NodeId, act: impl FnOnce(&mut Member, &mut Lent<'_>)) {
        let first = self.brokers.len() + self.name_servers.len() + self.clients.len();
        let mut lent = lent!(self);
        act(&mut self.members[node.0 - first], &mut lent);
    }

    fn is_client(&self, node: NodeId) -> bool {
        node.0 < self.brokers.len() + self.name_servers.len() + self.clients.len()
    }

    fn is_broker(&self, node: NodeId) -> bool {
        node.0 < self.brokers.len()
    }

    fn is_name_server(&self, node: NodeId) -> bool {
        !self.is_broker(node) && node.0 < self.brokers.len() + self.name_servers.len()
    }

    fn handle(&mut self, due: Due) {
        match &due {
            Due::Arrive { .. }
            | Due::Tick { .. }
            | Due::AnswerLate { .. }
            | Due::CallLate { .. }
            | Due::Step { .. } => {}
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
            Due::Turn { node, life } if self.is_broker(node) => self.broker(node, |b, lent| b.turn(lent, life)),
            Due::Turn { node, life } => self.name_server(node, |n, lent, facts| n.turn(lent, life, facts)),
            Due::Tick { node, life, version } if self.is_broker(node) => {
                self.broker(node, |b, lent| b.tick(lent, life, version));
            }
            Due::Tick { node, life, version } => self.name_server(node, |n, lent, _| n.tick(lent, life, version)),
            Due::CallLate { node, life, call } if self.is_broker(node) => {
                self.broker(node, |b, lent| b.call_late(lent, life, call));
            }
            Due::CallLate { node, life, call } => self.name_server(node, |n, lent, _| n.call_late(lent, life, call)),
            Due::Step { node, life, lane } => self.broker(node, |b, lent| b.step(lent, life, lane)),
            Due::Done { node, life, done } => self.broker(node, |b, lent| b.done(lent, life, *done)),
            Due::Saved { node, life, done } => self.name_server(node, |n, lent, _| n.saved(lent, life, done)),
            Due::Read { node, life, serve } => self.broker(node, |b, lent| b.read(lent, life, &serve)),
            Due::Boot { node } if self.is_broker(node) => self.broker(node, BrokerNode::boot),
            Due::Boot { node } => self.name_server(node, |n, lent, _| n.boot(lent)),
            Due::MustHaveStopped { node, life } => self.broker(node, |b, lent| b.must_have_stopped(lent, life)),
            Due::Space { node, life } => self.broker(node, |b, lent| {
                b.look_at_space(lent.stage);
                b.space(lent, life);
            }),
            Due::Client { node } if self.is_client(node) => self.client(node, Client::act),
            Due::Client { node } => self.member(node, Member::act),
            Due::AnswerLate { node, opaque } if self.is_client(node) => {
                self.client(node, |c, lent| c.late(lent, opaque));
            }
            Due::AnswerLate { node, opaque } => self.member(node, |m, lent| m.late(lent, opaque)),
            Due::Come { node } => {
                self.changed_at = self.stage.now;
                self.member(node, Member::come);
            }
            Due::Leave { node, leave } => {
                self.changed_at = self.stage.now;
                self.member(node, |m, lent| m.leave(lent, leave));
            }
            Due::Noticed(change) => self.books.groups.check_noticed(&mut self.stage, &self.net, &change),
            Due::Chaos(chaos) => self.chaos(chaos),
            Due::Heal => self.heal(),
            Due::Review => self.review(),
            Due::World(due) => unreachable!("{due:?} is of the world of clients"),
        }
    }

    fn arrived(&mut self, Arrival { node, link, news }: Arrival) {
        self.stage.line(format_args!("{node:?} gets {} on {link:?}", news.name()));
        if self.is_broker(node) {
            self.broker(node, |b, lent| b.arrived(lent, link, news));
        } else if self.is_name_server(node) {
            self.name_server(node, |n, lent, facts| n.arrived(lent, link, news, facts));
        } else if self.is_client(node) {
            self.client(node, |c, lent| c.arrived(lent, link, news));
        } else {
            self.member(node, |m, lent| m.arrived(lent, link, news));
        }
    }

    fn chaos(&mut self, chaos: Chaos) {
        if self.healed_at.is_some() {
            return;
        }
        let now = self.stage.now;
        match chaos {
            Chaos::Kill(node) => self.crash(node, false),
            Chaos::PowerCut(node) => self.crash(node, true),
            Chaos::Stop(node) => self.broker(node, |b, lent| b.stop(lent, Wanted::Running)),
            Chaos::Retire(node) => self.broker(node, |b, lent| b.stop(lent, Wanted::Retired)),
            Chaos::Vanish(node) => self.broker(node, BrokerNode::vanish),
            Chaos::Rot(Damage { node, harm }) => self.broker(node, |b, lent| b.decay(lent, harm)),
            Chaos::NameServer(node) => self.name_server(node, |n, lent, _| n.crash(lent)),
            Chaos::Link => self.net.trouble(&mut self.stage),
            Chaos::Partition(a, b, long) if a != b => {
                self.stage.happened(Rare::Partitioned);
                self.net.partition(&mut self.stage, a, b, now + long);
            }
            Chaos::Partition(..) => {}
            Chaos::OldWords { broker, name_server, stop } => {
                let until = now + if stop { 3 * SECOND } else { 0 } + self.stage.delay(500 * MILLI, 5 * SECOND);
                self.net.hold_back(&mut self.stage, broker, name_server, until);
                if stop {
                    self.chaos(Chaos::Stop(broker));
                } else {
                    self.crash(broker, false);
                }
            }
            Chaos::Clock(node, by, when) => self.brokers[node.0].step_clock(&mut self.stage, by, when),
            Chaos::Slow(node, long) => self.brokers[node.0].slow(now + long),
            Chaos::Full(node, long) => self.brokers[node.0].full(&mut self.stage, now + long),
            Chaos::Broken(node, failing, when) => self.brokers[node.0].break_disk(failing, when),
        }
    }

    fn crash(&mut self, node: NodeId, power: bool) {
        self.broker(node, |b, lent| b.crash(lent, power));
    }

    fn heal(&mut self) {
        self.healed_at = Some(self.stage.now);
        self.net.heal(&mut self.stage);
        for nth in 0..self.brokers.len() {
            self.brokers[nth].heal(&mut self.stage);
        }
        for nth in 0..self.name_servers.len() {
            self.name_server(NodeId(self.brokers.len() + nth), |n, lent, _| n.boot_later(lent));
        }
        if let (Some(leave), Some(first)) = (self.scenario.last_leave, self.members.first()) {
            let node = first.node;
            self.changed_at = self.stage.now + 3 * SECOND;
            self.stage.at(self.changed_at, Due::Leave { node, leave });
        }
        self.stage.after(500 * MILLI, Due::Review);
    }

    // ---- the end --------------------------------------------------------------------------------------------------------

    /// Have the clients finished? Then the routes settle, and everything is read.
    fn review(&mut self) {
        let now = self.stage.now;
        let healed = self.healed_at.unwrap_or(now);
        if let Some(quiet) = self.quiet_at {
            // Brokers register again and again; who has gone without a word is missed when its connection breaks.
            let registered = quiet + SECOND * 8 + 2 * self.scenario.register_every_ms * MILLI;
            let gone = self.brokers.iter().filter(|broker| broker.state == Wanted::Retired);
            let missed = gone.map(|broker| broker.ended_at + 45 * SECOND).max().unwrap_or_default();
            let settled = registered.max(missed);
            if now < settled {
                return self.stage.at(settled, Due::Review);
            }
            return self.end();
        }
        // Members forget and are forgotten, and then share out again; locks of an earlier life are waited for.
        let patience = self.members.first().map_or(120 * SECOND, |_| 160 * SECOND + self.shape().client_timeout);
        match self.unfinished().or_else(|| self.undivided()) {
            None => {
                if !self.members.is_empty() {
                    self.stage.happened(Rare::GroupSettled);
                }
                self.quiet_at = Some(now);
                // A name server keeps the route of a deleted topic until a tool takes it out; then no broker brings it back.
                self.unrouted = self.deleted_topics();
                for nth in 0..self.name_servers.len() * usize::from(!self.unrouted.is_empty()) {
                    let node = NodeId(self.brokers.len() + nth);
                    self.name_server(node, |n, lent, _| n.delete_route(lent, DELETED));
                }
            }
            Some(what) if now > healed.max(self.changed_at) + patience => {
                let long = (now - healed) / SECOND;
                return self.stage.blame("liveness", format!("{long} s after everything was well again: {what}"));
            }
            Some(_) => {}
        }
        self.stage.after(500 * MILLI, Due::Review);
    }

    /// What somebody still has to do.
    fn unfinished(&self) -> Option<String> {
        for broker in &self.brokers {
            let down = matches!(broker.state, Wanted::Refusing | Wanted::Retired);
            if !down && !broker.serves() {
                return Some(format!("{} does not serve", broker.name()));
            }
        }
        for client in &self.clients {
            if !client.has_sent() {
                return Some(format!("{:?} has not sent everything", client.node));
            }
        }
        if self.scenario.demand == Demand::Detect {
            // A reader may stand before a damaged message for good.
            return None;
        }
        for reader in self.clients.iter().flat_map(|client| &client.readers) {
            let bounds = self.brokers[reader.broker].bounds(reader.queue);
            if let Some((_, next)) = bounds.filter(|_| !self.books.deleted.contains(reader.queue.0))
                && reader.at != Some(next)
            {
                return Some(format!("the reader of {:?} is at {:?}, the queue at {next}", reader.queue, reader.at));
            }
        }
        None
    }

    /// What keeps the groups from sharing all queues out and consuming them.
    fn undivided(&self) -> Option<String> {
        if self.stage.now < self.changed_at {
            return Some("a member is still to go".to_owned());
        }
        if !self.brokers.iter().any(BrokerNode::serves) {
            return None;
        }
        for member in self.members.iter().filter(|member| member.is_here()) {
            let here = self.members.iter().filter(|other| other.is_here() && other.mode == member.mode);
            let mut ids: Vec<String> = here.map(Member::id).collect();
            ids.sort_unstable();
            let mut wanted = member.mine(&ids, self.brokers.len());
            wanted.sort_unstable();
            let (mine, id): (Vec<_>, _) = (member.progress().map(|(key, _)| key).collect(), member.id());
            if mine != wanted {
                return Some(format!("{id} consumes {mine:?}; of {ids:?} it is to consume {wanted:?}"));
            }
            if self.scenario.demand == Demand::Detect {
                continue;
            }
            for ((broker, queue), at) in member.progress() {
                // What is on a broker that is gone is nobody's.
                if let Some((_, next)) = self.brokers[broker].bounds(queue)
                    && at != Some(next)
                {
                    return Some(format!("{id} is at {at:?} of {queue:?} on broker {broker}, which has {next}"));
                }
            }
        }
        None
    }

    fn end(&mut self) {
        self.finished = true;
        for nth in 0..self.brokers.len() {
            if self.brokers[nth].serves() && !self.brokers[nth].is_registered() {
                let name = self.brokers[nth].name();
                let what = format!("{name} does not know that it is registered");
                self.stage.blame("routes", what);
            }
        }
        self.check_routes();
        for nth in 0..self.brokers.len() {
            self.broker(NodeId(nth), BrokerNode::wake);
            if self.brokers[nth].serves() {
                self.last_message(nth);
                self.read_everything(nth);
            }
        }
        let down = self.brokers.iter().filter(|broker| !broker.serves());
        let down: Vec<BrokerName> = down.map(|broker| self.books.shelves[broker.node.0].name.clone()).collect();
        // A last time: what the log holds, byte for byte.
        for nth in 0..self.brokers.len() {
            if self.brokers[nth].serves() {
                let power = self.stage.chance.one_in(2);
                self.crash(NodeId(nth), power);
                self.broker(NodeId(nth), BrokerNode::boot);
                self.check_offsets(nth);
            }
        }
        let open: Vec<u64> = self.books.ledger.open().collect();
        if let Some(id) = open.first() {
            self.stage.blame("liveness", format!("message {id} has no answer, and nobody waits for one"));
        }
        let found = std::mem::take(&mut self.found);
        self.books.judge(&mut self.stage, &found, &down);
    }

    /// A broker that is well takes a message.
    fn last_message(&mut self, nth: usize) {
        let mut properties = String::new();
        push(&mut properties, property::UNIQ_KEY, "LAST");
        let header = SendHeader {
            producer_group: "producers".into(),
            topic: "last".into(),
            default_topic: "TBW102".into(),
            default_topic_queues: 1,
            queue_id: 0,
            sys_flag: 0,
            born_at: 0,
            flag: 0,
            properties: Some(properties.into()),
            reconsume_times: None,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: None,
        };
        let request = Request::Send(Send { via: SendVia::V2, header, body: b"the last one".into() });
        let was_full = self.brokers[nth].refused_for_space();
        let mut code = None;
        self.broker(NodeId(nth), |b, lent| {
            code = b.probe(lent, &request).map(|response| response.code);
        });
        // Without an answer it waits for the flush, which is a promise to store it; a refusal must say that there is no such topic.
        match code.and_then(ResponseCode::from_wire) {
            None | Some(ResponseCode::Success) => {
                if was_full {
                    self.stage.happened(Rare::FullRecovered);
                }
            }
            Some(ResponseCode::TopicNotExist) if !self.scenario.auto_create => {}
            other => self.stage.blame("liveness", format!("broker {nth} is well and answers a message with {other:?}")),
        }
    }

    /// Every queue, from its first message to its last, for the ledger.
    fn read_everything(&mut self, nth: usize) {
        for topic in TOPICS {
            for queue in 0..QUEUES {
                self.read_queue(nth, topic, queue);
            }
        }
    }

    fn ask(&mut self, nth: usize, request: &Request<'_>) -> Option<Response> {
        let mut response = None;
        self.broker(NodeId(nth), |b, lent| {
            response = b.probe(lent, request);
        });
        response
    }

    fn read_queue(&mut self, nth: usize, topic: &'static str, queue: u32) {
        let queue_id = queue as i32;
        let bound = |response: Option<Response>| response.filter(Response::is_ok)?.field::<i64>("offset").ok();
        let min = self.ask(nth, &Request::MinOffset(MinOffset { topic: topic.into(), queue_id }));
        let max = self.ask(nth, &Request::MaxOffset(MaxOffset { topic: topic.into(), queue_id, committed: None }));
        let name = self.books.queue_name(nth, (topic, queue));
        let (Some(min), Some(max)) = (bound(min), bound(max)) else {
            if self.brokers[nth].knows(topic) && !self.books.deleted.contains(topic) {
                self.stage.blame("read", format!("{topic} queue {queue} of broker {nth} does not tell its bounds"));
            }
            return self.removed(name, topic, 0);
        };
        let (mut at, max) = (min as u64, max as u64);
        self.removed(name.clone(), topic, at);
        let mut records = Vec::new();
        while at < max && self.stage.violation.is_none() {
            let request = Request::Pull(Pull {
                group: "audit".into(),
                topic: topic.into(),
                queue_id,
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
            let Some(response) = self.ask(nth, &request) else {
                return self.stage.blame("read", format!("a pull from {topic} queue {queue} at {at} has no answer"));
            };
            if !response.is_ok() {
                if self.scenario.demand != Demand::Detect {
                    return self.stage.blame("read", format!("{topic} queue {queue} at {at} of {max}: {response:?}"));
                }
                // Damaged, and reported: on to the next.
                self.books.reported(name.clone(), at);
                at += 1;
                continue;
            }
            let bytes = body_of(&response);
            let by = self.brokers[nth].speaker();
            let Some(key) = key(topic, queue) else { return };
            let after = self.books.pulled(&mut self.stage, by, key, at, false, &bytes);
            self.observe(&bytes, &name, &mut records);
            if after == at {
                return self
                    .stage
                    .blame("read", format!("a pull from {topic} queue {queue} at {at} of {max} gives nothing"));
            }
            at = after;
        }
        if let Some(queue) = key(topic, queue) {
            self.find_again(nth, queue, &records, max);
        }
    }

    /// No group's offset was lost.
    fn check_offsets(&mut self, nth: usize) {
        for place in self.books.places(nth) {
            let (_, group, (topic, queue)) = place;
            let (group, topic, queue_id) = (group.into(), topic.into(), queue as i32);
            let request = Request::QueryOffset(QueryOffset { group, topic, queue_id, zero_if_not_found: Some(false) });
            let since = self.stage.now;
            let found = self.ask(nth, &request).and_then(|response| response.field::<i64>("offset").ok());
            let by = Question { link: LinkId(0), since, life: self.brokers[nth].speaker().life };
            self.books.check_offset(&mut self.stage, place, found, by);
        }
    }

    /// Messages are found by their time and by their position, too.
    fn find_again(&mut self, nth: usize, (topic, queue): QueueKey, records: &[(u64, i64, u64)], max: u64) {
        if records.is_empty() || self.scenario.demand == Demand::Detect {
            return;
        }
        let wall = self.brokers[nth].wall(&self.stage);
        if records.iter().any(|(_, stored, _)| *stored > wall) {
            self.stage.happened(Rare::StampHeld);
        }
        let leaps = records.windows(2).any(|pair| pair[1].1 - pair[0].1 > LEAP);
        for _ in 0..3 {
            let (offset, stored, at) = *self.stage.chance.pick(records);
            let timestamp = stored + i64::from(self.stage.chance.one_in(2));
            let request = SearchOffset { topic: topic.into(), queue_id: queue as i32, timestamp, boundary: None };
            let found = self.ask(nth, &Request::SearchOffset(request));
            let wanted = records.iter().find(|(_, stored, _)| *stored >= timestamp).map_or(max, |(offset, ..)| *offset);
            let said = found.and_then(|response| response.field::<i64>("offset").ok());
            if said != Some(wanted as i64) {
                let what = format!(
                    "the first of {topic} queue {queue} since {timestamp} is said to be {said:?}, it is {wanted}"
                );
                self.stage.blame("search", what);
            } else if leaps {
                self.stage.happened(Rare::FoundByTime);
            }
            let view = Request::ViewMessage(ViewMessage { topic: Some(topic.into()), offset: at as i64 });
            let body = self.ask(nth, &view).as_ref().map(body_of).unwrap_or_default();
            let viewed = record::decode_unchecked(&body).map(|record| (record.at.0, record.queue_offset.0));
            if viewed != Ok((at, offset)) {
                self.stage
                    .blame("view", format!("position {at} holds offset {offset} of {topic}, and shows {viewed:?}"));
            }
        }
    }

    /// What lies below the minimum of a queue was taken by retention, or with its topic.
    fn removed(&mut self, queue: MessageQueue, topic: &str, min: u64) {
        let below = QueueOffset(if self.books.deleted.contains(topic) { u64::MAX } else { min });
        self.books.note(&mut self.stage, Entry::Removed { queue, below });
    }

    /// Writes down what was read. `places` gets offset, time and position of each.
    fn observe(&mut self, bytes: &[u8], queue: &MessageQueue, places: &mut Vec<(u64, i64, u64)>) {
        for found in records(bytes) {
            let id = id_of(found.body);
            self.found.insert(id);
            places.push((found.queue_offset.0, found.stored.0, found.at.0));
            let checksum = record::crc(found.body);
            let entry = Entry::Observed { queue: queue.clone(), offset: found.queue_offset, id, checksum };
            self.books.note(&mut self.stage, entry);
        }
    }

    /// Topics that brokers have deleted.
    fn deleted_topics(&mut self) -> Vec<(NodeId, &'static str)> {
        let mut deleted = Vec::new();
        for nth in 0..self.brokers.len() * usize::from(self.books.deleted.contains(DELETED)) {
            let known = self.ask(nth, &Request::AllTopics).filter(Response::is_ok);
            let named = |body: Vec<u8>| String::from_utf8_lossy(&body).contains(&format!("\"{DELETED}\""));
            if known.is_some_and(|response| !named(body_of(&response))) {
                self.stage.happened(Rare::DeletedUnrouted);
                deleted.push((NodeId(nth), DELETED));
            }
        }
        deleted
    }

    fn check_routes(&mut self) {
        let served: Vec<(NodeId, &str)> = self
            .brokers
            .iter()
            .flat_map(|broker| TOPICS.iter().filter(|topic| broker.knows(topic)).map(|topic| (broker.node, *topic)))
            .filter(|(_, topic)| !self.books.deleted.contains(topic))
            .collect();
        let mut absent = self.deleted_topics();
        absent.retain(|topic| self.unrouted.contains(topic));
        for nth in 0..self.name_servers.len() {
            let node = NodeId(self.brokers.len() + nth);
            self.name_server(node, |n, lent, facts| n.check_converged(lent, facts, &served, &absent));
        }
    }
}

pub(crate) fn facts(broker: &BrokerNode) -> BrokerFacts<'_> {
    let life = broker.life().filter(|_| broker.serves());
    BrokerFacts { node: broker.node, name: broker.name(), address: broker.address(), life }
}
