//! # keepmq-client-core: how a producer and a consumer decide, as state machines
//!
//! Floor 2. Four cores, each of which implements [`Core`](keepmq_protocol::seam::Core) and is driven by somebody else: by
//! `keepmq-client` in production, by the universe in the simulator.
//!
//! ```text
//!   Producer       Command::Send ──▶ route, queue, attempt, another attempt ──▶ Work::Sent, exactly once
//!   PushConsumer   members → queues → pull → Work::Consume ──▶ listener ──▶ Command::Consumed → offset
//!   Admin          a question ──▶ one peer, or one name server after the other
//!   PullConsumer   Command::{Assign, Seek, Poll, Commit} ──▶ Work::{Polled, Committed …}
//! ```
//!
//! The nouns: [`Route`] says where a topic's queues are; a [`Message`] goes out, a [`Received`] comes in; a [`Receipt`] says
//! where a message was kept, a [`SendError`] whether it was refused or nobody knows. A `ProcessQueue` is the span of one queue
//! that a consumer has in hand; the offset that it commits is the lowest that is not processed yet.
//!
//! Deliberately absent: global state of any kind. Two clients in one process share nothing.
#![forbid(unsafe_code)]

mod config;
mod cx;
mod heartbeat;
mod routes;
pub use config::ClientConfig;
pub use routes::{Route, RouteError};

mod ids;
mod message;
mod received;
pub use message::{Message, MessageError};
pub use received::{MessageExt, Received, UnreadableMessage};

mod producer;
mod selector;
pub use producer::{
    Producer, ProducerCommand, ProducerConfig, ProducerReport, ProducerWork, Receipt, SendError, SendId, Target,
};

mod admin;
pub use admin::{Admin, AdminCommand, AdminWork, Peer};

pub mod assign;
mod consumer;
pub use consumer::{
    Batch, ConsumeFrom, ConsumerReport, MessageModel, PullCommand, PullConfig, PullConsumer, PullWork, PushCommand,
    PushConfig, PushConsumer, PushWork, SeekTo, Subscription, Verdict,
};

#[cfg(test)]
mod tests;
