//! What a universe is like and what goes wrong in it. A scenario stays within what the contract covers, or says what it
//! demands instead.

use crate::budget::Budget;
use crate::decay::{Damage, Harm};
use crate::disk::{Call, Failing};
use crate::member::{Leave, Mode};
use crate::stage::{Due, MILLI, NodeId, SECOND, Stage};
use keepmq_store::{Flush, LagPolicy};
use keepmq_world::Chance;

/// Something goes wrong, or somebody does something drastic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chaos {
    /// A broker's process is killed.
    Kill(NodeId),
    /// The power of a broker's machine goes.
    PowerCut(NodeId),
    /// An operator stops a broker and starts it again.
    Stop(NodeId),
    /// An operator stops a broker for good.
    Retire(NodeId),
    /// A broker's machine is switched off for good, and nobody is told.
    Vanish(NodeId),
    /// A name server is killed and starts again, knowing nothing.
    NameServer(NodeId),
    /// A link is cut or stalls.
    Link,
    /// Two nodes do not reach each other for a while.
    Partition(NodeId, NodeId, u64),
    /// What a broker has told a name server so far arrives late, after its successor has registered.
    OldWords { broker: NodeId, name_server: NodeId, stop: bool },
    /// A wall clock jumps, by milliseconds: now, or before the next start.
    Clock(NodeId, i64, When),
    /// A disk takes its time.
    Slow(NodeId, u64),
    /// A disk has no space for new files.
    Full(NodeId, u64),
    /// A disk fails a call, once: the next such calls count, or those of the next start.
    Broken(NodeId, Failing, When),
    /// A broker is stopped or killed; its store is harmed; it is started again.
    Rot(Damage),
}

/// Whom something befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// A broker that runs.
    Now,
    /// A broker at its next start.
    AtStart,
}

/// What the contract demands of a store in this universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Nothing acknowledged is lost.
    Keep,
    /// Nothing bad is served, nothing is silently skipped or cut.
    Detect,
}

/// Everything that a seed decides before the first event.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) brokers: usize,
    pub(crate) name_servers: usize,
    pub(crate) clients: usize,
    pub(crate) demand: Demand,
    pub(crate) flush: Flush,
    pub(crate) segment_bytes: u64,
    pub(crate) flush_interval_ms: u64,
    pub(crate) flush_bytes: u64,
    pub(crate) buffer_bytes: usize,
    pub(crate) zero_ahead: u64,
    pub(crate) checkpoint_ms: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) keep_ms: u64,
    /// What becomes of old messages that a group has not consumed.
    pub(crate) lag: LagPolicy,
    pub(crate) flush_timeout_ms: u64,
    pub(crate) register_every_ms: u64,
    pub(crate) broker_timeout_ms: u64,
    /// Silent clients are forgotten after so long.
    pub(crate) client_timeout_ms: u64,
    /// The members of consumer groups, and when they go.
    pub(crate) members: Vec<(Mode, Vec<Absence>)>,
    /// What one member does when everything is well.
    pub(crate) last_leave: Option<Leave>,
    pub(crate) auto_create: bool,
    pub(crate) max_parked: usize,
    /// Messages that each client sends.
    pub(crate) sends: u32,
    /// Most bytes of a usual body.
    pub(crate) body: u64,
    /// Most messages of a batch. Many fill whole blocks of the queue index.
    pub(crate) batch: u64,
    /// Longest pause between two acts of a client.
    pub(crate) pause: u64,
    /// Requests of one client that may wait for an answer.
    pub(crate) window: usize,
    /// How long a client rests before it sends the last third: long enough for retention to take what there is.
    pub(crate) rest: u64,
    /// Power cuts that wait until a job is half done.
    pub(crate) ambushes: u32,
    /// When everything is well again.
    pub(crate) heal_at: u64,
    pub(crate) chaos: Vec<(u64, Chaos)>,
}

/// A member of a group goes, and comes again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence {
    from: u64,
    leave: Leave,
    long: u64,
}

impl Scenario {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let budget = Budget::draw(chance);
        let brokers = if chance.one_in(5) { 2 } else { 1 };
        let flush = if chance.below(10) < 7 { Flush::Sync } else { Flush::Async };
        let burst = chance.one_in(4);
        let mut scenario = Self {
            brokers,
            name_servers: 1 + (chance.below(4) / 2 + chance.below(2)) as usize,
            clients: 2 + chance.below(4) as usize,
            demand: budget.demand(),
            flush,
            segment_bytes: *chance.pick(&[64, 64, 96, 128, 256]) * 1024,
            flush_interval_ms: *chance.pick(&[20, 200, 500]),
            flush_bytes: *chance.pick(&[16 * 1024, 4 << 20]),
            buffer_bytes: *chance.pick(&[48, 64, 256, 1024]) * 1024,
            zero_ahead: *chance.pick(&[4 * 1024, 32 * 1024, 64 << 20]),
            checkpoint_ms: *chance.pick(&[30, 200, 1000]),
            snapshot_bytes: *chance.pick(&[4 * 1024, 16 * 1024, 64 << 20]),
            keep_ms: *chance.pick(&[2_000, 6_000, 72 * 3_600_000, 72 * 3_600_000]),
            lag: *chance.pick(&[LagPolicy::Keep, LagPolicy::Delete]),
            flush_timeout_ms: *chance.pick(&[50, 1_000, 5_000]),
            register_every_ms: *chance.pick(&[500, 2_000, 10_000]),
            broker_timeout_ms: *chance.pick(&[20_000, 120_000]),
            client_timeout_ms: *chance.pick(&[12_000, 12_000, 120_000]),
            members: Vec::new(),
            last_leave: None,
            auto_create: !chance.one_in(6),
            max_parked: if chance.one_in(10) { 2 } else { 1000 },
            sends: 10 + chance.below(40) as u32,
            body: *chance.pick(&[60, 400, 2_000, 6_000]),
            batch: if chance.one_in(6) { 60 } else { 6 },
            pause: if burst { 6 * MILLI } else { *chance.pick(&[60, 250]) * MILLI },
            window: 24,
            rest: if chance.one_in(5) { 10 * SECOND } else { 0 },
            ambushes: budget.ambushes as u32,
            heal_at: SECOND * (3 + chance.below(9)),
            chaos: Vec::new(),
        };
        if scenario.rest > 0 {
            // Retention empties queues, and the last third of the messages finds them so.
            scenario.keep_ms = 2_000;
            scenario.segment_bytes = 64 * 1024;
            scenario.body = 6_000;
        }
        if budget.full > 0 {
            // A segment is filled while there is no space for the next one.
            scenario.segment_bytes = 64 * 1024;
            scenario.body = 6_000;
        }
        match chance.below(9) {
            0..=2 => scenario.gather(chance),
            3 => scenario.flood(chance),
            _ => {}
        }
        scenario.plan(budget, chance);
        scenario
    }

    /// Everybody sends more than the disk takes, which is slow just then.
    fn flood(&mut self, chance: &mut Chance) {
        (self.window, self.pause, self.body) = (100, 2 * MILLI, 3_000);
        self.sends = 80 + chance.below(80) as u32;
        self.buffer_bytes = *chance.pick(&[48, 256]) * 1024;
        self.flush_timeout_ms = *chance.pick(&[300, 1_000]);
        if self.demand == Demand::Detect {
            // The durable mark follows a slow disk's syncs at a distance; what goes bad in between passes for torn.
            return;
        }
        for broker in 0..self.brokers {
            self.chaos.push((SECOND / 20 + chance.below(SECOND), Chaos::Slow(NodeId(broker), 4 * SECOND)));
        }
    }

    /// Consumer groups come together. For some there is time enough that locks and silent members are forgotten.
    fn gather(&mut self, chance: &mut Chance) {
        if chance.one_in(3) {
            self.heal_at += SECOND * (20 + chance.below(50));
        }
        let mode = *chance.pick(&[Mode::Shared, Mode::Ordered, Mode::Ordered]);
        let mut modes = vec![mode; 2 + chance.below(2) as usize];
        if chance.one_in(4) {
            modes.push(Mode::Broadcast);
        }
        for mode in modes {
            let mut absences = Vec::new();
            for _ in 0..chance.below(3) {
                let from = SECOND + chance.below(self.heal_at - SECOND);
                let long = *chance.pick(&[SECOND, 4 * SECOND, 15 * SECOND, 40 * SECOND]);
                let leave = *chance.pick(&[Leave::Politely, Leave::Closing, Leave::Silently]);
                absences.push(Absence { from, leave, long });
            }
            self.members.push((mode, absences));
        }
        self.last_leave = *chance.pick(&[
            None,
            Some(Leave::Politely),
            Some(Leave::Closing),
            if self.client_timeout_ms < 100_000 { Some(Leave::Silently) } else { None },
        ]);
    }

    /// Spends the budget.
    fn plan(&mut self, budget: Budget, chance: &mut Chance) {
        let brokers: Vec<NodeId> = (0..self.brokers).map(NodeId).collect();
        let name_servers: Vec<NodeId> = (0..self.name_servers).map(|index| NodeId(self.brokers + index)).collect();
        let nodes = self.brokers + self.name_servers + self.clients;
        let mut times = chance.fork();
        let heal_at = self.heal_at;
        let mut when = move || SECOND / 2 + times.below(heal_at - SECOND / 2);
        let mut add = |chaos| self.chaos.push((when(), chaos));
        for _ in 0..budget.kills {
            add(Chaos::Kill(*chance.pick(&brokers)));
        }
        for _ in 0..budget.stops {
            add(Chaos::Stop(*chance.pick(&brokers)));
        }
        for _ in 0..budget.power_cuts {
            add(Chaos::PowerCut(*chance.pick(&brokers)));
        }
        for _ in 0..budget.name_servers {
            add(Chaos::NameServer(*chance.pick(&name_servers)));
        }
        for _ in 0..budget.old_words {
            let (broker, name_server) = (*chance.pick(&brokers), *chance.pick(&name_servers));
            add(Chaos::OldWords { broker, name_server, stop: chance.one_in(2) });
        }
        for _ in 0..budget.links {
            add(Chaos::Link);
        }
        for _ in 0..budget.partitions {
            let (a, b) = (chance.below(nodes as u64) as usize, chance.below(nodes as u64) as usize);
            let long = MILLI * (50 + chance.below(6_000));
            add(Chaos::Partition(NodeId(a), NodeId(b), long));
        }
        for _ in 0..budget.small_steps {
            let step = *chance.pick(&[-3_600_000, -1_500, -20, 20, 1_500, 3_600_000]);
            add(Chaos::Clock(*chance.pick(&brokers), step, when_of(chance)));
        }
        for _ in 0..budget.large_steps {
            let days = *chance.pick(&[-3_650, -400, -30, -2, 2, 30, 400, 3_650]);
            add(Chaos::Clock(*chance.pick(&brokers), days * DAY, when_of(chance)));
        }
        for _ in 0..budget.slow {
            let long = MILLI * (100 + chance.below(6_000));
            add(Chaos::Slow(*chance.pick(&brokers), long));
        }
        for _ in 0..budget.full {
            let long = MILLI * (500 + chance.below(6_000));
            add(Chaos::Full(*chance.pick(&brokers), long));
        }
        for _ in 0..budget.broken {
            add(Chaos::Broken(*chance.pick(&brokers), failing(chance, When::Now), When::Now));
        }
        for _ in 0..budget.broken_starts {
            let broker = *chance.pick(&brokers);
            add(Chaos::Broken(broker, failing(chance, When::AtStart), When::AtStart));
            // It does not wait for a start that may never come.
            add(Chaos::Kill(broker));
        }
        for _ in 0..budget.damage {
            let harm = *chance.pick(&HARMS);
            add(Chaos::Rot(Damage { node: *chance.pick(&brokers), harm }));
        }
        if self.brokers > 1 && chance.one_in(2) {
            let vanishes = chance.one_in(2);
            add(if vanishes { Chaos::Vanish(brokers[1]) } else { Chaos::Retire(brokers[1]) });
            self.broker_timeout_ms = if vanishes { 20_000 } else { self.broker_timeout_ms };
        }
    }

    /// Puts what goes wrong on the agenda.
    pub(crate) fn announce(&self, stage: &mut Stage) {
        for (when, chaos) in &self.chaos {
            stage.at(*when, Due::Chaos(*chaos));
        }
        stage.at(self.heal_at, Due::Heal);
        let first = self.brokers + self.name_servers + self.clients;
        for (nth, (_, absences)) in self.members.iter().enumerate() {
            let node = NodeId(first + nth);
            let begin = stage.chance.below(2 * SECOND);
            stage.at(begin, Due::Come { node });
            for Absence { from, leave, long } in absences {
                stage.at(*from, Due::Leave { node, leave: *leave });
                stage.at(*from + *long, Due::Come { node });
            }
        }
    }
}

/// How a store at rest is harmed, more often what is likelier.
const HARMS: [Harm; 10] = [
    Harm::Below,
    Harm::Below,
    Harm::Above,
    Harm::Above,
    Harm::Unindexed,
    Harm::Unindexed,
    Harm::Name,
    Harm::Name,
    Harm::Log,
    Harm::Log,
];

/// Of a clock in the hands of people.
const DAY: i64 = 86_400_000;

fn when_of(chance: &mut Chance) -> When {
    if chance.one_in(3) { When::AtStart } else { When::Now }
}

/// A call that is going to fail. What is seldom called has not far to go, and a start makes few calls.
fn failing(chance: &mut Chance, when: When) -> Failing {
    let often = match when {
        When::Now => 1 + chance.below(14) as u32,
        When::AtStart => 1 + chance.below(4) as u32,
    };
    let (call, below, nth) = match chance.below(16) {
        0..=2 => (Call::Write, "commitlog", often),
        3 => (Call::Write, "keepmq", often),
        4..=7 => (Call::Sync, "commitlog", often),
        8 => (Call::Sync, "keepmq", often),
        9 | 10 => (Call::Create, "", 1 + often % 2),
        11 => (Call::Remove, "", 1),
        12 => (Call::Read, "", often),
        13 => (Call::Rename, "", 1),
        _ => (Call::SyncDir, "", 1 + often % 2),
    };
    Failing { call, below, nth }
}
