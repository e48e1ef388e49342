use crate::job::JobError;
use crate::losses::Loss;
use keepmq_protocol::LogOffset;
use std::net::SocketAddr;
use std::time::Duration;

/// When a record counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Once it is synced (SYNC_FLUSH).
    Sync,
    /// Once it is written (ASYNC_FLUSH); a sync follows by itself.
    Async,
}

/// Which segments may be removed when. Names in parentheses are RocketMQ's keys. The last segment always stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRules {
    /// Segments that were full longer ago may go (`fileReservedTime`). Counted while the store is open.
    pub keep: Duration,
    /// Hours of the day, UTC, at which they go: a bit each, from the lowest for 0 h (`deleteWhen`).
    pub hours: u32,
    /// Above this percentage of the disk in use they go at any hour (`diskMaxUsedSpaceRatio`).
    pub any_hour_above: u8,
    /// Above this one younger segments go as well (`diskSpaceCleanForciblyRatio`); `None`: never
    /// (`cleanFileForciblyEnable=false`).
    pub forced_above: Option<u8>,
    /// What becomes of messages that a group has not consumed (`retention.lagPolicy`).
    pub lag: LagPolicy,
}

/// What becomes of messages that are old enough to go while a group has not consumed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagPolicy {
    /// They stay. A disk that fills up by that refuses messages.
    Keep,
    /// They go, and the group has lost them.
    Delete,
}

impl RetentionRules {
    /// All hours.
    pub const ALWAYS: u32 = (1 << 24) - 1;

    /// Everything is kept for so long, and goes then at any hour; what is not consumed stays.
    pub fn keeping(keep: Duration) -> Self {
        Self { keep, hours: Self::ALWAYS, any_hour_above: 75, forced_above: None, lag: LagPolicy::Keep }
    }
}

/// How the scrub reads the log again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubbing {
    /// At most so many bytes a second; 0: never.
    pub bytes_per_second: u64,
    /// From the beginning of a round to that of the next.
    pub interval: Duration,
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
    /// Which segments go when.
    pub retention: RetentionRules,
    /// How what lies in the log is read again.
    pub scrubbing: Scrubbing,
    /// Where the store lies; for texts.
    pub place: String,
    /// Where clients find messages; written into metadata records.
    pub store_host: SocketAddr,
    /// A store that somebody else has used since (another program, a copy) is taken over only when this is set.
    pub adopt: bool,
    /// The damaged place that the operator gives up: the position that an error has named. Nothing else is passed over.
    pub accept_loss: Option<LogOffset>,
    /// Identity of a store that is made by this open.
    pub new_id: [u8; 16],
    /// Seed of the queue table's hash.
    pub seed: u64,
}

impl StoreConfig {
    /// Most bytes that may be appended and not synced, in either mode: what a power cut can take or tear. Under ASYNC_FLUSH
    /// a sync is started far earlier; this is where producers wait for a disk that syncs slower than it writes.
    pub(crate) fn max_unsynced(&self) -> u64 {
        3 * self.buffer_bytes as u64 + 32 * self.flush_bytes
    }
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
    /// Why the queues were made again from the whole log: what was wrong with their files.
    pub remade: Option<String>,
    /// What is passed over, all that was ever accepted.
    pub losses: Vec<Loss>,
    /// The broker's tables as of the last snapshot; empty when there is none.
    pub tables: Vec<u8>,
}

/// How far a long reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to be read, as far as known; at least `done`.
    pub total: u64,
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
    /// Something is to be accepted as lost that is not damaged.
    #[error(
        "nothing damaged begins at position {at} of the log; only the very position that an error or `keepmq store verify` names \
         can be given up"
    )]
    NotDamaged {
        /// The position.
        at: u64,
    },
    /// The configuration does not fit the store.
    #[error("{0}")]
    Config(String),
}
