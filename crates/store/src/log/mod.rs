//! The record log over its segments.

mod commit_log;
mod recovery;
mod retention;
mod scan;

pub(crate) use commit_log::{Batch, CommitLog, Reserved};
pub(crate) use recovery::{Restored, apply, batch_count, join_tables, restore, snapshot_path};
pub(crate) use retention::{Retention, SegmentAge, believed, choose};
