//! All queues of the store: which record is the n-th message of which queue.
//!
//! Per queue a tail of entries in memory; full or checkpointed tails go to disk as blocks of one append-only *block log* for
//! all queues. Everything here can be made again from the commit log, except where an emptied queue goes on: that stands in
//! the metadata snapshot.
//!
//! ```text
//!   append ──▶ tail ──advance──▶ visible          pick, search ◀── tail, or a block read by the reader
//!               └──checkpoint──▶ BlockWrite ──written, synced──▶ checkpointed ──▶ directory ──▶ encode (snapshot)
//!   decode (snapshot) ──▶ adopt (blocks behind it) ──▶ append (log behind `indexed`)
//! ```

mod consume_queue;
mod table;

mod block_log;
mod checkpoint;
mod directory;

pub(crate) mod cursor;

pub(crate) use block_log::{BlockFile, BlockRef, BlockWrite};
pub(crate) use checkpoint::BlockFiles;
pub(crate) use consume_queue::{ColdEntries, Entry, Picked, QueueIx, search_entries, select};
pub(crate) use table::Queues;

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

#[cfg(test)]
mod tests;
