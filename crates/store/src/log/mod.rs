//! The record log over its segments.

mod commit_log;
mod index;
mod rebuild;
mod recovery;
mod retention;
mod scan;
mod walk;

pub(crate) use commit_log::{Batch, CommitLog, Reserved};
pub(crate) use rebuild::{apply, batch_count, in_a_queue};
pub(crate) use recovery::{OWN_FILE_MAX, Restored, join_tables, numbered, restore, segments_of, snapshot_path};
pub(crate) use retention::{Retention, SegmentAge, believed, choose};
pub(crate) use walk::{Bad, Extent, Seen, walk};
