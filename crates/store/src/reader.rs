//! Reading what is committed, from any thread.

use crate::disk::Disk;
use crate::job::Files;
use bytes::Bytes;
use keepmq_protocol::QueueOffset;
use std::sync::Arc;

/// What is to be read; made by [`Store`](crate::Store), which has decided that it may be seen.
#[derive(Clone, Debug)]
pub struct ReadPlan {}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Records, as they lie in the log, in pieces; empty when everything was filtered away.
    Records {
        /// Pieces.
        bytes: Vec<Bytes>,
        /// How many.
        count: u32,
        /// Offset to go on from.
        next: QueueOffset,
    },
    /// An offset found by time.
    Offset(QueueOffset),
    /// A store time, for GET_EARLIEST_MSG_STORETIME.
    Time(keepmq_world::Timestamp),
}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was there once; retention has taken it.
    #[error("the messages at this place have been removed: the log begins at {min}")]
    Removed {
        /// Where the log begins.
        min: u64,
    },
    /// No record begins there, or it is not committed.
    #[error("can not find message by the offset, {at}")]
    Nothing {
        /// The position.
        at: u64,
    },
    /// The bytes fail their checksum, or a file is not what the log says.
    #[error("{path} is damaged at {at}: {what}")]
    Damaged {
        /// Which file.
        path: String,
        /// Position in the log.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("reading {path} failed: {why}")]
    Io {
        /// Which file.
        path: String,
        /// Its words.
        why: String,
    },
}

/// Reads from the last sealed chunks in memory, else from files; checks every record that comes from a file.
pub struct LogReader<D: Disk> {
    files: Arc<Files<D>>,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self { files: Arc::clone(&self.files) }
    }
}

impl ReadPlan {
    /// One record, by its position in the log (VIEW_MESSAGE_BY_ID). `Served::Records` with one record.
    pub fn record(at: u64) -> Self {
        let _ = at;
        todo!()
    }
}

impl<D: Disk> LogReader<D> {
    /// Reads without waiting for the device; `None` when it would have to wait: then use [`LogReader::serve`] where waiting
    /// is allowed.
    pub fn try_serve(&self, plan: &ReadPlan) -> Option<Result<Served, ReadError>> {
        let _ = (plan, &self.files);
        todo!()
    }

    /// Reads.
    pub fn serve(&self, plan: &ReadPlan) -> Result<Served, ReadError> {
        let _ = plan;
        todo!()
    }
}
