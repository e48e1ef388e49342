//! # keepmq-net: listeners, dialling, connections, and the shard that drives any core
//!
//! Floor 3. A [`Shard`] is one thread with an event loop over its sockets (mio). One turn of the loop:
//!
//! ```text
//!   read every ready socket → cut frames, read requests (no lock) → lock the core once: handle all, drain the effects → unlock
//!   → write each connection's replies with one write → carry out the work (Hands)
//! ```
#![forbid(unsafe_code)]

mod connection;
mod dial;
mod listener;
mod shard;

pub use shard::{Hands, Inbox, NetLimits, Shard, Word};
