//! # keepmq-nameserver: which broker serves which topic
//!
//! Floor 2. [`NameServer`] implements [`Core`](keepmq_protocol::seam::Core): `nameserver.rs` turns requests into answers,
//! `routes.rs` holds the tables, `kv.rs` the key-value configuration. Only that is kept on disk, by [`SaveKv`]: brokers say
//! everything again within their registration period.
//!
//! A registration belongs to the connection it came on. A farewell, be it an unregistration, a closed connection or
//! a passed deadline, takes away only what the same or an older connection has registered. So an event that was
//! late, or was overtaken by a restart of the broker, cannot remove what is fresh.
//!
//! Deliberately absent: acting masters, zones, and the notices to replicas that go with them.
#![forbid(unsafe_code)]

mod kv;
mod nameserver;
mod routes;

pub use kv::{KvSaved, SaveError, SaveKv, read_kv};
pub use nameserver::{Done, LiveConfig, NameServer, NameServerConfig, Task};
