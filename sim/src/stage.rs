//! The clock, the agenda and the notebook that every part of a universe is lent.

use crate::faults::Chaos;
use crate::groups::Change;
use crate::member::Leave;
use crate::net::LinkId;
use crate::trace::{Counts, RARE, Rare, Trace};
use crate::world::WorldDue;
use keepmq_broker::Serve;
use keepmq_nameserver::KvSaved;
use keepmq_protocol::seam::CallId;
use keepmq_store::{JobDone, Lane};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use std::collections::BTreeMap;
use std::fmt;

pub(crate) const MICRO: u64 = 1_000;
pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Wall time at the beginning of every universe.
const EPOCH: i64 = 1_700_000_000_000;

/// A process's machine: a broker, a name server or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) usize);

/// What is due at some time.
#[derive(Debug)]
pub(crate) enum Due {
    /// The next item of one direction of a link arrives.
    Arrive { link: LinkId, to_acceptor: bool },
    /// One end of a link learns that the link is gone.
    Reset { link: LinkId, acceptor: bool },
    /// A core handles what has come in.
    Turn { node: NodeId, life: u32 },
    /// A core's deadline.
    Tick { node: NodeId, life: u32, version: u64 },
    /// A call is given up.
    CallLate { node: NodeId, life: u32, call: CallId },
    /// One step of the job at the head of a lane.
    Step { node: NodeId, life: u32, lane: Lane },
    /// A core hears that its job has ended.
    Done { node: NodeId, life: u32, done: Box<JobDone> },
    /// A name server hears that its save has ended.
    Saved { node: NodeId, life: u32, done: KvSaved },
    /// A read that waits for the device.
    Read { node: NodeId, life: u32, serve: Box<Serve> },
    /// A process starts.
    Boot { node: NodeId },
    /// A process that was asked to stop must have ended.
    MustHaveStopped { node: NodeId, life: u32 },
    /// A broker's shell looks at the free space.
    Space { node: NodeId, life: u32 },
    /// A client does its next thing.
    Client { node: NodeId },
    /// A client gives up waiting for an answer.
    AnswerLate { node: NodeId, opaque: i32 },
    /// A member of a group comes.
    Come { node: NodeId },
    /// A member of a group goes.
    Leave { node: NodeId, leave: Leave },
    /// Those whom a change of their group concerns must have heard of it.
    Noticed(Box<Change>),
    /// Something goes wrong.
    Chaos(Chaos),
    /// Everything is well again.
    Heal,
    /// Look whether the clients have finished.
    Review,
    /// Something that only happens in the world of clients.
    World(WorldDue),
}

/// A checker has found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker.
    pub checker: &'static str,
    /// The seed that shows it.
    pub seed: u64,
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checker, seed, at, what } = self;
        write!(f, "{checker}: seed {seed}, at {:.6} s: {what}", *at as f64 / 1e9)
    }
}

pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) now: u64,
    /// For latencies and everything else that belongs to no single part.
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) violation: Option<Violation>,
    agenda: BTreeMap<(u64, u64), Due>,
    sequence: u64,
}

impl Stage {
    pub(crate) fn new(seed: u64, chance: Chance, print: bool) -> Self {
        Self {
            seed,
            now: 0,
            chance,
            trace: Trace::new(print),
            counts: [0; RARE.len()],
            violation: None,
            agenda: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub(crate) fn at(&mut self, when: u64, due: Due) {
        self.sequence += 1;
        self.agenda.insert((when.max(self.now), self.sequence), due);
    }

    pub(crate) fn after(&mut self, delay: u64, due: Due) {
        self.at(self.now + delay, due);
    }

    /// The next thing that is due; the clock moves to it.
    pub(crate) fn next(&mut self) -> Option<Due> {
        let ((when, _), due) = self.agenda.pop_first()?;
        self.now = when;
        Some(due)
    }

    pub(crate) fn happened(&mut self, rare: Rare) {
        self.counts[rare as usize] += 1;
    }

    /// A checker has something to say. The first finding stands; what follows from it may be noise.
    pub(crate) fn blame(&mut self, checker: &'static str, what: impl Into<String>) {
        if self.violation.is_none() {
            let violation = Violation { checker, seed: self.seed, at: self.now, what: what.into() };
            self.trace.line(self.now, format_args!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    pub(crate) fn line(&mut self, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    /// The two clocks of a node whose wall clock is off by `skew` milliseconds.
    pub(crate) fn clocks(&self, skew: i64) -> Now {
        let elapsed = i64::try_from(self.now / MILLI).expect("a universe lasts minutes");
        Now { mono: Mono(self.now), wall: Timestamp(EPOCH + elapsed + skew) }
    }

    /// A time between `low` and `high`, small ones more often.
    pub(crate) fn delay(&mut self, low: u64, high: u64) -> u64 {
        let spread = high - low + 1;
        low + self.chance.below(spread).min(self.chance.below(spread))
    }
}
