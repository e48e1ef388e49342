//! The record log over its segments.

mod ages;
mod commit_log;
mod index;
mod rebuild;
mod recovery;
mod retention;
mod scan;
mod walk;

pub(crate) use ages::{Ages, PATH as AGES, SAVED_EVERY};
pub(crate) use commit_log::{Batch, CommitLog, Purpose, Reserved, Short};
pub(crate) use rebuild::{apply, batch_count, in_a_queue};
pub(crate) use recovery::{
    OWN_FILE_MAX, Restored, join_tables, numbered, own_file, restore, segments_of, snapshot_path,
};
pub use retention::Need;
pub(crate) use retention::{Retention, SegmentAge, Situation, Space, UNWRITTEN, choose, spare};
pub(crate) use scan::Scan;
pub(crate) use walk::{Bad, Extent, RECORD_MAX, Seen, walk};
