//! The block log: one file family `keepmq/queues-<number, 8 digits>` for all queues.

use keepmq_protocol::{LogOffset, QueueOffset};

/// Where a block lies and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef {
    pub(crate) file: u32,
    pub(crate) at: u64,
    pub(crate) first: QueueOffset,
    pub(crate) count: u32,
}

/// Bytes for the end of the block log.
#[derive(Debug)]
pub(crate) struct BlockWrite {
    pub(crate) file: u32,
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    /// Everything before this position of the log is indexed once these bytes are durable.
    pub(crate) indexed: LogOffset,
}

/// Reading block files.
pub(crate) struct BlockFile {}
