//! # keepmq-nameserver: which broker serves which topic
//!
//! Floor 2. [`NameServer`] implements [`Core`](keepmq_protocol::seam::Core). It keeps nothing on disk: brokers register again.
#![forbid(unsafe_code)]

mod nameserver;
mod routes;

pub use nameserver::{NameServer, NameServerConfig};
