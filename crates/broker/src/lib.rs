//! # keepmq-broker: what a broker does, as one state machine
//!
//! Floor 2. [`Broker`] implements [`Core`](keepmq_protocol::seam::Core): events in, effects out, time as an argument.
//!
//! | effect of its own | done by | event back |
//! |---|---|---|
//! | [`Task::Job`] | a job thread of the job's lane, or where it was emitted when it is quick | `Event::Done(JobDone)` |
//! | [`Task::Serve`] | a reader: where it was emitted when nothing must be waited for, else a reader thread | none: the reader answers with [`Serve::response`] |
#![forbid(unsafe_code)]

mod broker;
mod config;
mod serve;

pub use broker::Broker;
pub use config::{BrokerConfig, OpenBrokerError};
pub use serve::{Answer, Serve, Task};
