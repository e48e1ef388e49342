//! # keepmq-net: listeners, dialling, connections, and the shard that drives any core
//!
//! Floor 3. A [`Shard`] is one thread with an event loop over its sockets (mio: plain readiness, since a task per connection could
//! not gather what belongs together). One turn of the loop:
//!
//! ```text
//!   wait for sockets, words from other threads, or a deadline
//!   → read every ready socket, within a budget       sockets.rs, connection.rs
//!   → cut frames, read requests; no lock yet          incoming.rs
//!   → lock the core once: handle all, drain the effects, unlock
//!   → encode the replies, start calls, hand out the work (Hands)
//!   → words that came back at once: lock the core a second time
//!   → one write per connection                        outgoing.rs
//! ```
//!
//! The nouns: a [`Shard`] has an [`Inbox`] for [`Word`]s from other threads, and [`Hands`] that carry out the core's own work.
//! A core is driven by one shard; several shards of a process have a core each. They agree on the time: [`now`].
//!
//! Calls: one connection per peer, made by a short-lived thread and then used again and again. A core hears `Opened` of
//! such a connection only when a request comes in on it, and `Closed` only when it has heard `Opened`.
//!
//! Deliberately absent: decisions about messages, timers on the way of an acknowledgement, retries of calls (the core calls again).
#![forbid(unsafe_code)]

mod shard;

mod driver;
mod inbox;
mod sockets;

mod connection;
mod connections;
mod incoming;
mod outgoing;

mod calls;
mod dial;
mod listener;

mod clock;
mod seldom;

pub use clock::now;
pub use inbox::{Inbox, Word};
pub use shard::{Hands, NetLimits, Shard};

#[cfg(test)]
mod tests;
