//! A message that has come in: a stored record, read. Source: RocketMQ `MessageExt`, `MessageDecoder`.

use bytes::Bytes;
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset};
use keepmq_world::Timestamp;
use std::net::SocketAddr;

/// Most bytes that a compressed body may have when it is unpacked: a message a user may send has 4 MiB by default.
const UNPACKED_MAX: u64 = 64 * 1024 * 1024;

/// A message as a consumer gets it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Where it was kept.
    pub queue: MessageQueue,
    /// Where in that queue.
    pub offset: QueueOffset,
    /// What it says, unpacked.
    pub body: Bytes,
    /// The producer's id for it (UNIQ_KEY); the broker's when a producer gave none.
    pub message_id: String,
    /// Where it lies, as an id that tools take.
    pub offset_message_id: String,
    /// The property string; see [`Received::property`].
    properties: String,
    /// The user's own number.
    pub flag: i32,
    /// When the producer made it, by its clock; milliseconds since 1970.
    pub born: Timestamp,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When it was stored, by the broker's clock; milliseconds since 1970.
    pub stored: Timestamp,
    /// Deliveries that failed before.
    pub reconsume_times: u32,
}

/// A record that a broker sent and that is not what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{queue:?} holds what cannot be read, at or behind offset {behind}: {why}")]
pub struct UnreadableMessage {
    /// Where.
    pub queue: MessageQueue,
    /// The last offset that could be read, or where reading began.
    pub behind: QueueOffset,
    /// What is wrong with it.
    pub why: String,
}
