//! # keepmq-net: listeners, dialling, connections, and the shard that drives any core
//!
//! Floor 3. A shard is one thread with an event loop over its sockets (mio: plain readiness, since a task per connection could
//! not gather what belongs together); [`Shards`] are those that drive one core. One turn of the loop:
//!
//! ```text
//!   wait for sockets, words from other threads, or a deadline
//!   → read every ready socket, within a budget       sockets.rs, connection.rs
//!   → cut frames, read requests; no lock yet          incoming.rs
//!   → lock the core once: handle all, drain the effects, post what others must do, unlock      talk.rs
//!   → encode the replies, start calls, hand out the work (Hands)
//!   → words that came back at once: lock the core a second time
//!   → one write per connection                        outgoing.rs
//! ```
//!
//! The nouns: an [`Inbox`] takes [`Word`]s from other threads; [`Hands`] carry out the core's own work. A connection belongs to one
//! shard from its first byte on; the first shard, the head, accepts and gives it to the one with the fewest. The head also makes
//! the calls, hears the words that are no replies, and watches the clock for the core (crew.rs). Limits are the process's (crowd.rs).
//!
//! Calls: one connection per peer, made by a short-lived thread and then used again and again. A core hears `Opened` of
//! such a connection only when a request comes in on it, and `Closed` only when it has heard `Opened`.
//!
//! Deliberately absent: decisions about messages, timers on the way of an acknowledgement, retries of calls (the core calls again).
#![forbid(unsafe_code)]

mod shards;

mod driver;
mod talk;

mod crew;
mod crowd;
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
pub use shards::{Hands, NetLimits, Shards};

#[cfg(test)]
mod tests;
