//! What a world of clients is like, and what goes wrong in it.

use crate::faults::{Chaos, Demand, Scenario};
use crate::stage::{MILLI, NodeId, SECOND};
use crate::workload::TOPICS;
use keepmq_client_core::assign::Strategy;
use keepmq_store::{Flush, LagPolicy};
use keepmq_world::Chance;
use std::time::Duration;

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is closed, and has so much time (in milliseconds).
    Closed(u64),
    /// Its process is killed; its system says so.
    Killed,
    /// Its machine is gone; the others find out by themselves.
    Vanished,
}

/// Something happens to a client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It ends, and comes again after so long.
    Gone(Way, u64),
    /// Its process stands still for so long.
    Still(u64),
}

/// A group as all its members are configured.
#[derive(Clone, Debug)]
pub(crate) struct GroupPlan {
    pub(crate) name: &'static str,
    /// Members share the queues; else each has all.
    pub(crate) shared: bool,
    /// It begins with the first message; else behind the last one.
    pub(crate) from_first: bool,
    /// Of these topics.
    pub(crate) topics: &'static [&'static str],
    /// The only tag that it wants.
    pub(crate) tag: Option<&'static str>,
    pub(crate) strategy: Strategy,
}

/// A client: when it comes first, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) comes: u64,
    pub(crate) fates: Vec<(u64, Fate)>,
}

/// Everything that a seed decides before the first event.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The machines of the servers, and what happens to them and to the net.
    pub(crate) servers: Scenario,
    /// Nothing happens but that name servers are restarted.
    pub(crate) names_only: bool,
    pub(crate) producers: Vec<ClientPlan>,
    /// By group.
    pub(crate) consumers: Vec<(usize, ClientPlan)>,
    pub(crate) groups: Vec<GroupPlan>,
    /// Pull consumers: whose offsets they commit, and when they come.
    pub(crate) pullers: Vec<(usize, u64)>,
    pub(crate) poll_name_servers: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) in_flight: usize,
    pub(crate) compress_over: usize,
    pub(crate) max_batch_bytes: usize,
    pub(crate) batch: usize,
    pub(crate) listeners: usize,
    pub(crate) pull_batch: u32,
    pub(crate) queue_messages: usize,
    pub(crate) commit_every: Duration,
    /// A listener says *later* once in so many times.
    pub(crate) later_in: u64,
    /// The longest time that a listener usually takes.
    pub(crate) listens: u64,
    /// Most bytes of a body.
    pub(crate) body: u64,
}

/// What one question of a client may take.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(1);

impl Plan {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let names_only = chance.one_in(8);
        let brokers = 1 + chance.below(3) as usize;
        let name_servers = if names_only { 2 + chance.below(2) } else { 1 + chance.below(3) } as usize;
        let heal_at = SECOND * if names_only { 20 } else { 6 + chance.below(12) };
        let register_every_ms = *chance.pick(if names_only { &[500, 2_000][..] } else { &[500, 2_000, 5_000] });
        let servers = servers(chance, brokers, name_servers, heal_at, register_every_ms);
        let mut plan = Self {
            servers,
            names_only,
            producers: Vec::new(),
            consumers: Vec::new(),
            groups: groups(chance),
            pullers: Vec::new(),
            poll_name_servers: Duration::from_secs(*chance.pick(&[1, 3, 10])),
            heartbeat: Duration::from_secs(2),
            send_timeout: Duration::from_millis(*chance.pick(&[1_000, 3_000])),
            attempt_timeout: Duration::from_millis(*chance.pick(&[200, 700, 2_000])),
            retries: chance.below(4) as u32,
            in_flight: *chance.pick(&[3, 100, 100]),
            compress_over: *chance.pick(&[100, 4_096]),
            max_batch_bytes: *chance.pick(&[600, 1 << 20]),
            batch: *chance.pick(&[1, 1, 3]),
            listeners: *chance.pick(&[1, 4, 20]),
            pull_batch: *chance.pick(&[2, 32]),
            queue_messages: *chance.pick(&[3, 1_000, 1_000]),
            commit_every: Duration::from_millis(*chance.pick(&[300, 1_000, 4_000])),
            later_in: *chance.pick(&[8, 30]),
            listens: *chance.pick(&[5, 60, 400]) * MILLI,
            body: *chance.pick(&[60, 400, 2_000]),
        };
        plan.people(chance);
        if chance.one_in(4) {
            // It reads one topic by hand.
            let (name, topics) = ("hand", &TOPICS[..1]);
            plan.pullers.push((plan.groups.len(), 3 * SECOND + chance.below(4 * SECOND)));
            plan.groups.push(GroupPlan { name, topics, ..plan.groups[0].clone() });
        }
        if names_only {
            // All at once: the first that is back knows nothing, and the others do not answer yet.
            for _ in 0..2 + chance.below(2) {
                let when = 9 * SECOND + chance.below(heal_at - 9 * SECOND);
                for nth in 0..name_servers {
                    plan.servers.chaos.push((when, Chaos::NameServer(NodeId(brokers + nth))));
                }
            }
        } else {
            plan.trouble(chance);
        }
        plan
    }

    /// Who there is, and when they come and go.
    fn people(&mut self, chance: &mut Chance) {
        let heal_at = self.servers.heal_at;
        let calm = self.names_only || chance.one_in(10);
        let client = |chance: &mut Chance, often: u64| {
            let comes = SECOND / 20 + chance.below(3 * SECOND);
            let mut fates = Vec::new();
            for _ in 0..if calm { 0 } else { chance.below(often + 1) } {
                let from = comes + chance.below(heal_at - comes);
                let long = *chance.pick(&[SECOND / 2, 2 * SECOND, 5 * SECOND, 9 * SECOND]);
                let long = long.min(heal_at - from);
                let fate = match chance.below(5) {
                    0 => Fate::Gone(Way::Killed, long),
                    1 => Fate::Gone(Way::Vanished, long),
                    2 => Fate::Still(long),
                    _ => Fate::Gone(Way::Closed(*chance.pick(&[0, 100, 2_000])), long),
                };
                fates.push((from, fate));
            }
            ClientPlan { comes, fates }
        };
        self.producers = (0..1 + chance.below(3)).map(|_| client(chance, 2)).collect();
        for group in 0..self.groups.len() {
            let members = if self.groups[group].shared { 1 + chance.below(3) } else { 1 };
            self.consumers.extend((0..members).map(|_| (group, client(chance, 3))));
        }
    }

    /// What happens to the servers and to the net.
    fn trouble(&mut self, chance: &mut Chance) {
        let servers = &mut self.servers;
        let brokers: Vec<NodeId> = (0..servers.brokers).map(NodeId).collect();
        let name_servers: Vec<NodeId> = (0..servers.name_servers).map(|nth| NodeId(servers.brokers + nth)).collect();
        let nodes = (servers.brokers + servers.name_servers + self.producers.len() + self.consumers.len()) as u64;
        let [kills, cuts, stops, names, links, partitions, slow] = match chance.below(6) {
            0 => [0; 7],
            1 => [3, 0, 2, 1, 0, 0, 0],
            2 => [1, 4, 0, 1, 0, 0, 3],
            3 => [0, 0, 0, 2, 8, 3, 0],
            4 => [0, 2, 0, 0, 0, 0, 4],
            _ => [2, 2, 1, 1, 5, 2, 2],
        };
        let heal_at = servers.heal_at;
        let when = |chance: &mut Chance| SECOND / 2 + chance.below(heal_at - SECOND / 2);
        let some = |chance: &mut Chance, most: u64| chance.below(most + 1);
        for _ in 0..some(chance, kills) {
            servers.chaos.push((when(chance), Chaos::Kill(*chance.pick(&brokers))));
        }
        for _ in 0..some(chance, cuts) {
            servers.chaos.push((when(chance), Chaos::PowerCut(*chance.pick(&brokers))));
        }
        for _ in 0..some(chance, stops) {
            servers.chaos.push((when(chance), Chaos::Stop(*chance.pick(&brokers))));
        }
        for _ in 0..some(chance, names) {
            servers.chaos.push((when(chance), Chaos::NameServer(*chance.pick(&name_servers))));
        }
        for _ in 0..some(chance, links) {
            servers.chaos.push((when(chance), Chaos::Link));
        }
        for _ in 0..some(chance, partitions) {
            let (a, b) = (chance.below(nodes) as usize, chance.below(nodes) as usize);
            let long = MILLI * (50 + chance.below(6_000));
            servers.chaos.push((when(chance), Chaos::Partition(NodeId(a), NodeId(b), long)));
        }
        for _ in 0..some(chance, slow) {
            let (broker, at) = (*chance.pick(&brokers), when(chance));
            servers.chaos.push((at, Chaos::Slow(broker, MILLI * (500 + chance.below(5_000)))));
            if cuts > 0 && chance.one_in(2) {
                // What waits for a slow disk, the power takes.
                servers.chaos.push((at + MILLI * (100 + chance.below(3_000)), Chaos::PowerCut(broker)));
            }
        }
        servers.ambushes = if cuts > 0 { chance.below(3) as u32 } else { 0 };
    }
}

fn groups(chance: &mut Chance) -> Vec<GroupPlan> {
    let mut groups = Vec::new();
    let strategy = |chance: &mut Chance| match chance.below(3) {
        0 => Strategy::Averagely,
        1 => Strategy::AveragelyByCircle,
        _ => Strategy::ConsistentHash { virtual_nodes: 10 },
    };
    let topics = &TOPICS[..2];
    let group = |name, shared, from_first, tag, strategy| GroupPlan { name, shared, from_first, topics, tag, strategy };
    groups.push(group("all", true, true, None, strategy(chance)));
    if chance.one_in(2) {
        groups.push(group("late", true, false, None, strategy(chance)));
    }
    if chance.one_in(4) {
        groups.push(group("red", true, true, Some("red"), strategy(chance)));
    }
    if chance.one_in(5) {
        groups.push(group("each", false, chance.one_in(2), None, Strategy::Averagely));
    }
    groups
}

fn servers(chance: &mut Chance, brokers: usize, name_servers: usize, heal_at: u64, register_every_ms: u64) -> Scenario {
    Scenario {
        brokers,
        name_servers,
        clients: 0,
        demand: Demand::Keep,
        flush: Flush::Sync,
        segment_bytes: *chance.pick(&[64, 256]) * 1024,
        flush_interval_ms: 200,
        flush_bytes: 4 << 20,
        buffer_bytes: 256 * 1024,
        zero_ahead: 32 * 1024,
        checkpoint_ms: *chance.pick(&[200, 1_000]),
        snapshot_bytes: *chance.pick(&[4 * 1024, 64 << 20]),
        keep_ms: 72 * 3_600_000,
        lag: LagPolicy::Keep,
        flush_timeout_ms: *chance.pick(&[50, 300, 5_000]),
        register_every_ms,
        broker_timeout_ms: 120_000,
        client_timeout_ms: *chance.pick(&[4_000, 8_000]),
        members: Vec::new(),
        last_leave: None,
        auto_create: chance.one_in(2),
        max_parked: 1_000,
        sends: 20 + chance.below(60) as u32,
        body: 0,
        batch: 0,
        pause: *chance.pick(&[20, 100, 300]) * MILLI,
        window: 0,
        rest: 0,
        ambushes: 0,
        heal_at,
        chaos: Vec::new(),
    }
}
