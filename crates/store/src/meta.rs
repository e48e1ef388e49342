//! Metadata: records of the system topic, and the snapshot that spares reading them all again.

use keepmq_protocol::body::{SubscriptionGroup, TopicConfig};

/// A change of the broker's tables, as it lies in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaRecord {
    /// A topic created or changed.
    Topic(TopicConfig),
    /// A topic deleted: its queues are empty from here on; their next offsets go on.
    TopicDeleted(String),
    /// A group created or changed.
    Group(SubscriptionGroup),
    /// A group deleted, with or without its offsets.
    GroupDeleted {
        /// The group.
        group: String,
        /// Its offsets, too.
        clean_offsets: bool,
    },
    /// Offsets committed, the last per key.
    Offsets(Vec<OffsetCommit>),
    /// Next offsets of queues that retention is about to empty.
    QueueEnds(Vec<QueueEnd>),
}

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Whose.
    pub group: String,
    /// In which topic.
    pub topic: String,
    /// In which queue.
    pub queue_id: u32,
    /// The next offset wanted.
    pub offset: i64,
}

/// Where a queue goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEnd {
    /// Topic.
    pub topic: String,
    /// Queue.
    pub queue_id: u32,
    /// Offset of the next message.
    pub next: u64,
}

/// Why bytes are not a metadata record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a metadata record cannot be read: {0}")]
pub struct MetaError(pub String);

impl MetaRecord {
    /// As the body of a record.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// From the body of a record.
    pub fn decode(body: &[u8]) -> Result<Self, MetaError> {
        let _ = body;
        todo!()
    }
}

// ---- the snapshot file: keepmq/meta-<generation, 20 digits> -------------------------------------------------------------

/// A snapshot: the tables and the queue directory as of one position of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Counts up.
    pub(crate) generation: u64,
    /// Identity of the store.
    pub(crate) store_id: [u8; 16],
    /// Everything before this position is in it.
    pub(crate) at: u64,
    /// First position of the log that still existed.
    pub(crate) log_min: u64,
    /// `Queues::encode`.
    pub(crate) queues: Vec<u8>,
    /// The broker's own.
    pub(crate) tables: Vec<u8>,
}

impl Snapshot {
    /// The file's bytes: magic, version, identity, fields, CRC.
    pub(crate) fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads a file's bytes; the text says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let _ = bytes;
        todo!()
    }
}
