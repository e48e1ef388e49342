//! # keepmq-sim: the seeded universe
//!
//! One seed is one universe: brokers, name servers and clients with one virtual clock, a disk that keeps only what it has
//! promised, a net whose connections end, and a list of things that go wrong. The cores in it are the ones that are
//! shipped; only the world is made up. The same seed gives the same universe, event by event.
//!
//! - [`run`] runs one seed and gives its [`Report`]: the hash of everything that happened, how often [`RARE`] things did,
//!   and the [`Violation`] that a checker has found, if any.
//!
//! - [`states`] enumerates what a power cut may leave of a store, call by call, and [`rot`] damages it at rest.
//!
//! What goes wrong in a universe is paid from its budget (`budget.rs`), which also says what the contract demands then: that
//! nothing is lost, or, where a store was harmed at rest, that whatever is missing is said. Which mistake of which broker each
//! planted bug repeats, and which checker finds it, stands in `keepmq_world::planted`.
//!
//! A checker has a name. `kept-not-lost`, `log-is-prefix`, `log-unreadable`, `erased`, `batch-whole`, `dense`, `seen-then-gone`,
//! `stamps`, `missing`, `retention`, `open` look at a store each time it is opened again; `fence` at a broker whose disk has
//! failed; `visible`, `order`, `bad-bytes`, `offset-reused`, `position-reused`,
//! `timeout-place`, `offset-kept`, `one-answer`, `right-answer`, `codec`, `call`, `exit`, `read`, `woken`, `timely`, `notice`,
//! `one-owner`, `lock-stuck`, `kv` at what is said while it runs; `routes`, `search`, `view`, `liveness` and `ledger` (the verdict) at what is true when everything is well again.
#![forbid(unsafe_code)]

mod broker_node;
mod budget;
mod checkers;
mod decay;
mod desk;
mod disk;
mod faults;
mod fence;
mod groups;
mod host;
mod kv_desk;
mod member;
mod name_node;
mod net;
mod register;
mod stage;
mod states;
mod trace;
mod universe;
mod workload;
mod world;

pub use stage::Violation;
pub use states::{CLASSES, RotReport, SOMETIMES, StatesReport, rot, states};
pub use trace::{Counts, OF_CLIENTS, RARE};
pub use universe::Report;

/// Which kind of world a seed stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Servers, and scripted clients at the level of the protocol.
    Universe,
    /// Servers, and the cores of real clients.
    World,
}

/// Runs one seed. With `print`, every line of the trace goes to standard output.
pub fn run(kind: Kind, seed: u64, print: bool) -> Report {
    match kind {
        Kind::Universe => universe::run(seed, print),
        Kind::World => world::run(seed, print),
    }
}
