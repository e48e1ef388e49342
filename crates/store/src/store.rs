use crate::disk::Disk;
use crate::job::{Files, Job, JobDone, JobError};
use crate::meta::MetaRecord;
use crate::queues::{Limits, Selection};
use crate::reader::{LogReader, ReadError};
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::record::Draft;
use keepmq_protocol::{LogOffset, QueueOffset, Topic};
use keepmq_world::{Mono, Now, Timestamp};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// When a record counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Once it is synced (SYNC_FLUSH).
    Sync,
    /// Once it is written (ASYNC_FLUSH); a sync follows by itself.
    Async,
}

/// What the store needs to know.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Cluster and broker: part of the store's identity.
    pub cluster: String,
    /// Broker name.
    pub broker: String,
    /// Bytes of a segment (`mappedFileSizeCommitLog`, 1 GiB). At least 64 KiB.
    pub segment_bytes: u64,
    /// When a record is kept.
    pub flush: Flush,
    /// ASYNC_FLUSH: longest time that something stays unsynced (`flushIntervalCommitLog`, at most 500 ms).
    pub flush_interval: Duration,
    /// ASYNC_FLUSH: most bytes that stay unsynced before a sync is started, 4 MiB.
    pub flush_bytes: u64,
    /// Bytes that may wait in memory before appends are refused, 8 MiB a buffer.
    pub buffer_bytes: usize,
    /// Zeroed ahead of the tail, 64 MiB (less than a segment: the segment).
    pub zero_ahead: u64,
    /// Time between two checkpoints of the queues, 1 s.
    pub checkpoint_interval: Duration,
    /// Metadata records that make a snapshot due, 64 MiB.
    pub snapshot_bytes: u64,
    /// Segments whose last record is older are removed (`fileReservedTime`).
    pub keep: Duration,
    /// Where clients find messages; written into metadata records.
    pub store_host: SocketAddr,
    /// A store that somebody else has used since (another program, a copy) is taken over only when this is set.
    pub adopt: bool,
    /// Identity of a store that is made by this open.
    pub new_id: [u8; 16],
    /// Seed of the queue table's hash.
    pub seed: u64,
}

/// What `open` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The store did not exist.
    pub created: bool,
    /// Where the log ends.
    pub end: LogOffset,
    /// Records read again.
    pub scanned: u64,
    /// Bytes cut from the tail because the end of the log was torn.
    pub cut: u64,
    /// The broker's tables as of the last snapshot; empty when there is none.
    pub tables: Vec<u8>,
}

/// Why a store cannot be opened. Every text says which file, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] JobError),
    /// A file of ours is not what it should be.
    #[error("{path}: {what}. {todo}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong, with positions and sizes.
        what: String,
        /// What the operator can do.
        todo: String,
    },
    /// The store belongs to somebody else.
    #[error("{what}. {todo}")]
    Foreign {
        /// Whose it is.
        what: String,
        /// What the operator can do.
        todo: String,
    },
    /// The configuration does not fit the store.
    #[error("{0}")]
    Config(String),
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position.
    pub at: LogOffset,
    /// The position behind it: kept once `commit` has reached this.
    pub end: LogOffset,
    /// Its offset in its queue.
    pub queue_offset: QueueOffset,
}

/// Why a record was not appended. Nothing of it will ever be seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Larger than a segment can hold.
    #[error("a record of {bytes} bytes does not fit: the limit is {max}")]
    TooLarge {
        /// Bytes it has.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Properties longer than the format allows.
    #[error("properties of {bytes} bytes do not fit: the limit is {max}")]
    Properties {
        /// Bytes they have.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The buffers are full: the disk is slower than the producers.
    #[error("{waiting} bytes wait to be written; the limit is {max}")]
    Busy {
        /// Bytes waiting.
        waiting: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// No space could be reserved for the next segment.
    #[error("no space for the next segment: {0}")]
    Full(String),
    /// The store has stopped after an I/O error.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<JobError>),
}

/// A queue as others may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Lowest offset that can be read; equal to `max` when there is nothing.
    pub min: QueueOffset,
    /// Offset behind the highest committed message.
    pub max: QueueOffset,
    /// Store time of the last committed message still known in memory; 0 when unknown.
    pub last_stored: Timestamp,
    /// Whether retention has ever taken a message from it.
    pub has_lost: bool,
}

/// Numbers for metrics and `GET_BROKER_RUNTIME_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// First position that still exists.
    pub min: LogOffset,
    /// Marks, in order.
    pub synced: LogOffset,
    /// See [`Store::commit`].
    pub commit: LogOffset,
    /// Written to a file.
    pub written: LogOffset,
    /// End of the log, in memory.
    pub appended: LogOffset,
    /// Flush jobs that have ended.
    pub flushes: u64,
    /// Records those jobs carried.
    pub flushed_records: u64,
}

/// The log, its queues and the metadata snapshot; owned by the broker core.
pub struct Store<D: Disk> {
    files: Arc<Files<D>>,
}

impl<D: Disk> Store<D> {
    /// Opens or creates the store on `disk` and recovers: cuts and erases a torn tail, refuses rot, rebuilds the queues.
    /// The caller holds the store's lock. Reads and writes files: the only call of this type that does.
    pub fn open(disk: D, config: StoreConfig, now: Now) -> Result<(Self, Recovered), OpenError> {
        let _ = (disk, config, now);
        todo!()
    }

    /// Metadata records behind the snapshot that `open` loaded, in order; for the broker to apply to its tables, once, at start.
    pub fn replay(&self) -> Result<Vec<MetaRecord>, ReadError> {
        todo!()
    }

    /// The shared half, for those who run jobs.
    pub fn files(&self) -> Arc<Files<D>> {
        Arc::clone(&self.files)
    }

    /// A reader, for any thread.
    pub fn reader(&self) -> LogReader<D> {
        todo!()
    }

    /// Appends one message to its queue.
    pub fn append(&mut self, draft: &Draft<'_>, now: Now) -> Result<Appended, AppendError> {
        let _ = (draft, now);
        todo!()
    }

    /// Appends messages that survive together or not at all, to one queue. None is appended when one cannot be.
    /// The first draft's `added` must not yet hold `__BATCHN#`: the store adds it.
    pub fn append_batch(&mut self, drafts: &[Draft<'_>], now: Now) -> Result<Vec<Appended>, AppendError> {
        let _ = (drafts, now);
        todo!()
    }

    /// Appends a metadata record. The queues' side of it (a topic deleted) takes effect here, at once and in every replay.
    pub fn append_meta(&mut self, record: &MetaRecord, now: Now) -> Result<Appended, AppendError> {
        let _ = (record, now);
        todo!()
    }

    /// The next job, when there is one to start now. Ask until it answers `None`, after the events of a turn were handled.
    pub fn next_job(&mut self, now: Now) -> Option<Job> {
        let _ = now;
        todo!()
    }

    /// A job has ended. The error is final: the store has stopped, nothing appended after `commit` may be called kept.
    pub fn finished(&mut self, done: JobDone, now: Now) -> Result<(), Arc<JobError>> {
        let _ = (done, now);
        todo!()
    }

    /// Everything before this position is kept, as configured, and may be seen.
    pub fn commit(&self) -> LogOffset {
        todo!()
    }

    /// End of the log, in memory.
    pub fn appended(&self) -> LogOffset {
        todo!()
    }

    /// Takes the queues that gained visible messages since the last call, each once: (topic, queue id).
    pub fn take_grown(&mut self) -> Vec<(Topic, u32)> {
        todo!()
    }

    /// When `next_job` may have something although nothing happened.
    pub fn deadline(&self) -> Option<Mono> {
        todo!()
    }

    /// A queue as others may see it; `None` when nothing was ever stored in it.
    pub fn queue(&self, topic: &str, queue_id: u32) -> Option<QueueView> {
        let _ = (topic, queue_id);
        todo!()
    }

    /// What a pull from `from` gets: decided in memory, or a plan for the reader when older entries are needed.
    /// `from` must lie in `min..max` of the queue's view.
    pub fn select(&self, topic: &str, queue_id: u32, from: QueueOffset, filter: &TagFilter, limits: Limits) -> Selection {
        let _ = (topic, queue_id, from, filter, limits);
        todo!()
    }

    /// A plan that finds an offset by store time, for the reader. `upper`: the last at or before, else the first at or after.
    pub fn search(&self, topic: &str, queue_id: u32, time: Timestamp, upper: bool) -> crate::ReadPlan {
        let _ = (topic, queue_id, time, upper);
        todo!()
    }

    /// Whether the tables should be handed over with [`Store::save`], for a snapshot.
    pub fn wants_tables(&self) -> bool {
        todo!()
    }

    /// Takes the broker's tables as they are after the last appended record; they become the next snapshot.
    pub fn save(&mut self, tables: Vec<u8>) {
        let _ = tables;
        todo!()
    }

    /// Files for Java (`config/topics.json` …), to be written in the background; a newer set replaces one that waits.
    pub fn export(&mut self, files: Vec<(&'static str, Vec<u8>)>) {
        let _ = files;
        todo!()
    }

    /// Appends no more; flushes, checkpoints, saves `tables` and `exports`. `is_closed` when all of it is durable.
    pub fn close(&mut self, tables: Vec<u8>, exports: Vec<(&'static str, Vec<u8>)>) {
        let _ = (tables, exports);
        todo!()
    }

    /// Whether everything that `close` asked for has been done.
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Numbers.
    pub fn state(&self) -> StoreState {
        todo!()
    }
}
