//! # keepmq-server: runs cores as a process
//!
//! Floor 4, above the waterline: threads, files, signals, configuration. One function a role:
//!
//! - [`broker::run`]: configuration → lock → recovery → ports → threads; ends on SIGTERM after draining.
//! - [`nameserver::run`]: the same with less; its one file is `kvfile.rs`.
//! - [`dev::run`]: both in one process, on loopback, with a first message through their own ports.
//!
//! ```text
//!   Settings (config.rs) ──▶ BrokerSetup (config/setup.rs) ──▶ Opened (broker.rs) ──▶ Shards + BrokerHands (jobs.rs)
//!   SIGTERM (stop.rs) ──▶ not ready (health.rs) ──▶ Word::Stop ──▶ the core drains ──▶ Exit ──▶ threads end, lock given back
//! ```
//! A panic in any thread ends the process ([`log::init`]): the store is made for being killed, not for going on half.
//!
//! Deliberately absent: decisions about messages. Whoever looks for one finds it in the cores.
#![forbid(unsafe_code)]

pub mod broker;
pub mod dev;
pub mod nameserver;

mod failure;
pub use failure::{ExitCode, Failure, Problem};

pub mod config;

mod health;
mod jobs;
mod kvfile;
mod metrics;
mod stop;
mod syncs;
mod takeover;

mod firstword;

pub mod log;

#[cfg(feature = "planted")]
pub mod planted;
