//! # keepmq-store: the log is the truth
//!
//! Floor 1: everything between an accepted message and the bytes of a file, over a [`Disk`] that is real in production and
//! lying in the simulator. Synchronous and passive: nothing here runs by itself.
//!
//! The nouns: a [`Store`] is owned by the broker core. It appends records into an open buffer, and hands out sealed bytes as
//! [`Job`]s. Whoever drives the core runs a job over the [`Files`] and brings back [`JobDone`]; only then do the marks move:
//!
//! ```text
//!   append ──▶ open buffer ──seal──▶ Job ──run: write, sync──▶ JobDone ──▶ written, synced ──▶ commit ──▶ visible
//! ```
//! On disk, below the store's root (each file's bytes stand beside its code):
//!
//! ```text
//!   commitlog/<position, 20 digits>   segments, byte for byte as RocketMQ has them
//!   keepmq/identity                   whose store it is             keepmq/next               the reserved next segment
//!   keepmq/checkpoint                 how far it is durable         keepmq/queues-<8 digits>  block log of the queues
//!   keepmq/meta-<20 digits>           snapshot: tables, directory of the queues
//!   keepmq/losses                     what an operator gave up
//!   keepmq/ages                       when segments were closed     keepmq/scrub              what the scrub has seen
//!   keepmq/room                       space kept for a snapshot on a full disk
//!   checkpoint, abort, config/*.json  exports for RocketMQ, never read
//! ```
//! A [`LogReader`] reads what is committed, from any thread. Queues, snapshots and Java's files are derived from the log and
//! can be made again by reading it.
//!
//! Deliberately absent: threads, timers, retries. The first failed write or sync is final.
#![forbid(unsafe_code)]

mod store;
pub use store::{AppendError, Appended, NoSpace, QueueView, Store, StoreState};

mod config;
pub use config::{Flush, LagPolicy, OpenError, Progress, Recovered, RetentionRules, Scrubbing, StoreConfig};

mod disk;
pub use disk::{Disk, File};

mod job;
pub use job::{Files, Job, JobDone, JobError, Lane, Notice};

mod files;

mod upkeep;

mod log;
pub use log::Need;

mod note;

mod scrub;
pub use scrub::{Looked, ScrubState};

mod losses;
pub use losses::{Loss, Missing};

mod identity;

mod checkpoint;

mod queues;
pub use queues::{Limits, Selection};

mod reader;
pub use reader::{LogReader, ReadError, ReadPlan, Served};

mod offline;
pub use offline::{Finding, Info, Report, Shown, SnapshotInfo, Torn, dump, inspect, verify};

#[cfg(test)]
mod testdisk;

mod meta;
pub use meta::{MetaError, MetaRecord, OffsetCommit, QueueEnd};
