//! Work that the core decides and somebody else does: sealed bytes on their way to disk, snapshots, segments to prepare or remove.

use crate::disk::Disk;
use std::fmt;

/// Who runs a job. Jobs of one lane are run one at a time, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Writes and syncs that replies wait for.
    Flush,
    /// Everything else.
    Background,
}

/// The half of the store that jobs and readers share: the disk, the open segments, the last sealed chunks.
pub struct Files<D: Disk> {
    disk: std::marker::PhantomData<D>,
}

/// An opaque ticket.
pub struct Job {}

/// A job has ended.
#[derive(Debug)]
pub struct JobDone {}

/// Why a job failed: which file, which call, what the operating system said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} of {path} failed: {why}")]
pub struct JobError {
    /// "write", "sync", "rename" …
    pub call: &'static str,
    /// Which file, below the store's root.
    pub path: String,
    /// The operating system's words.
    pub why: String,
    /// There was no space: harmless while reserving, fatal otherwise.
    pub no_space: bool,
}

impl Job {
    /// Who runs it.
    pub fn lane(&self) -> Lane {
        todo!()
    }

    /// Whether it only writes, without a sync: cheap enough to be run where it was emitted.
    pub fn is_quick(&self) -> bool {
        todo!()
    }

    /// Runs one step (a write, a sync, a rename …); the answer when it was the last. The simulator calls this, and may cut
    /// the power between two steps.
    pub fn step<D: Disk>(&mut self, files: &Files<D>) -> Option<JobDone> {
        let _ = files;
        todo!()
    }

    /// Runs all steps.
    pub fn run<D: Disk>(mut self, files: &Files<D>) -> JobDone {
        loop {
            if let Some(done) = self.step(files) {
                return done;
            }
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
