//! # keepmq-server: cores as processes
//!
//! Floor 4. Each role is one function: [`run_broker`], [`run_nameserver`], [`run_dev`]. It reads no clock and makes no decision
//! about a message; it opens files and ports, starts threads, and brings them down in order:
//!
//! ```text
//!   settings → lock → disk → Store::open → Broker::open → one shard thread (net)
//!                                                          ├ a thread a lane of jobs, one for cold reads (hands.rs)
//!                                                          ├ free space, signals, health
//!   SIGTERM → Word::Stop → the core drains → Exit → join
//! ```
#![forbid(unsafe_code)]

pub mod config;
mod failure;
mod log;

mod broker;
mod dev;
mod first_message;
mod nameserver;

mod hands;
mod health;
mod signals;
mod watched;

pub use broker::run_broker;
pub use dev::{DevOptions, run_dev};
pub use failure::{Failure, exit};
pub use log::{LogForm, start_log};
pub use nameserver::run_nameserver;

use std::hash::BuildHasher;

/// A word from the operating system's randomness: the seeds of cores, the identities of stores.
fn random() -> u64 {
    std::hash::RandomState::new().hash_one(std::process::id())
}

/// Switches a planted bug on; false when there is none of that name.
#[cfg(feature = "planted")]
pub fn plant(bug: &str) -> bool {
    keepmq_world::planted::arm(Some(bug))
}
