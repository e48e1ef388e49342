//! # keepmq-broker: what a broker does, as one state machine
//!
//! Floor 2. [`Broker`] implements [`Core`](keepmq_protocol::seam::Core): events in, effects out, time as an argument.
//!
//! | effect of its own | done by | event back |
//! |---|---|---|
//! | [`Task::Job`] | a job thread of the job's lane, or where it was emitted when it is quick | [`Done::Job`] |
//! | [`Task::Serve`] | a reader: where it was emitted when nothing must be waited for, else a reader thread | none: the reader answers with [`Serve::response`] |
//! | [`Task::Configure`] | whoever knows the keys and the configuration file | [`Done::Configured`] |
//!
//! Each part is one file and owns its state; [`Broker`] calls the parts by name and lends them a `Cx` (store, tables, replies).
//! The tables (topics, groups, offsets) are folds of the log's metadata records: a change is a record first.
//!
//! Deliberately absent, and refused rather than done wrongly: delayed and half messages, sending back, pop, SQL filters.
#![forbid(unsafe_code)]

mod broker;
mod config;
mod serve;
pub use broker::Broker;
pub use config::{BrokerConfig, LiveConfig, OpenBrokerError};
pub use serve::{Answer, Done, Serve, Task};

mod cx;
mod pending;

mod groups;
mod offsets;
mod tables;
pub mod takeover;
mod topics;

mod locks;
mod members;
mod parked;
mod pull;
mod registration;
mod send;

mod admin;
mod counters;
mod histogram;
mod numbers;
pub use counters::{Counts, Traffic};
pub use histogram::Histogram;
pub use numbers::{Lag, Numbers, TopicNumbers};

#[cfg(test)]
mod testing;
