//! All queues of the store: which record is the n-th message of which queue.
//!
//! Per queue a tail of entries in memory; full or checkpointed tails go to disk as blocks of one append-only *block log* for
//! all queues. Everything here can be rebuilt from the commit log.

mod block_log;
mod consume_queue;

pub(crate) use block_log::{BlockFile, BlockRef, BlockWrite};
pub(crate) use consume_queue::{ColdEntries, Entry, QueueIx, Queues};

use crate::reader::ReadPlan;
use keepmq_protocol::QueueOffset;

/// Bounds of one pull. The first message is always given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: u32,
    /// Bytes of records.
    pub bytes: u32,
    /// Entries looked at, matching or not (RocketMQ: 800).
    pub scanned: u32,
}

/// What a pull gets.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These records, or what a cold block holds: for the reader.
    Read(ReadPlan),
    /// Nothing passes the filter among the entries looked at.
    Nothing {
        /// Offset to go on from.
        next: QueueOffset,
    },
}
