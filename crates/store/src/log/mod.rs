//! The record log over its segments.

mod commit_log;
mod rebuild;
mod recovery;
mod retention;
mod scan;

pub(crate) use commit_log::{Batch, CommitLog, Reserved};
pub(crate) use rebuild::{apply, batch_count};
pub(crate) use recovery::{Restored, join_tables, restore, snapshot_path};
pub(crate) use retention::{Retention, SegmentAge, believed, choose};
