//! Work that the core decides and somebody else does: sealed bytes on their way to disk, snapshots, segments to prepare or remove.

use crate::checkpoint::Slot;
use crate::disk::{Disk, File};
use crate::files::{Failure, aside, failed, segment_path};
use crate::queues::{BlockFile, BlockRef, BlockWrite, QueueIx};
use crate::scrub::ScrubPiece;
use bytes::Bytes;
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::planted;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use crate::files::Files;

/// Who runs a job. Jobs of one lane are run one at a time, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Writes and syncs that replies wait for.
    Flush,
    /// Everything else.
    Background,
}

/// An opaque ticket.
pub struct Job {
    lane: Lane,
    task: Task,
    steps: VecDeque<Step>,
}

/// A job has ended.
pub struct JobDone {
    pub(crate) task: Task,
    pub(crate) outcome: Result<(), JobError>,
}

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

/// What a job is for, and what the store needs to know when it has ended.
pub(crate) enum Task {
    /// Chunks written; synced, too, up to `synced`.
    Flush { at: u64, upto: u64, bytes: usize, records: u64, synced: u64 },
    /// What was written before is synced.
    Sync { upto: u64 },
    /// The next segment is reserved.
    Reserve,
    /// A piece ahead of the tail, or of the reserved segment, is zeroed. `to` is a position in the file.
    /// Its sync also covers what was `written` to the segment before.
    Zero { base: Option<u64>, from: u64, to: u64, written: u64 },
    /// The checkpoint's slot, then a piece of the block log.
    Checkpoint { slot: Slot, piece: Option<BlockWrite> },
    /// A snapshot file.
    Snapshot(SnapshotFile),
    /// Files for Java.
    Export(BTreeMap<&'static str, Bytes>),
    /// First readable offsets of queues whose block straddles `min`.
    Survey { min: u64, firsts: Vec<(QueueIx, QueueOffset)> },
    /// Segments removed; and that in words.
    Retire { slot: Slot, bases: Vec<u64>, told: String },
    /// Space for the next snapshot is kept.
    Room,
    /// How old the segments are; and, where it says so, what the scrub has seen.
    Notes { scrub: bool },
    /// A piece of the log is read again.
    Scrub(ScrubPiece),
}

/// A snapshot, encoded, on its way to disk.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) generation: u64,
    /// The tables are those of this position.
    pub(crate) at: u64,
    pub(crate) bytes: Bytes,
    /// Block files that its directory needs.
    pub(crate) blocks: Vec<u32>,
}

/// One call to the disk. The power may fail between any two.
#[derive(Debug)]
pub(crate) enum Step {
    Write {
        target: Target,
        at: u64,
        bytes: Bytes,
    },
    /// A write and its sync.
    WriteDurably {
        target: Target,
        at: u64,
        bytes: Bytes,
    },
    Zero {
        target: Target,
        from: u64,
        to: u64,
    },
    Sync(Target),
    Create {
        path: PathBuf,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    SyncDir(PathBuf),
    CreateDir(PathBuf),
    OpenSegment(u64),
    ForgetSegment(u64),
    FirstIn {
        queue: QueueIx,
        block: BlockRef,
        min: u64,
    },
    /// The piece of the block log that the task carries.
    Piece,
    /// The piece of the log that the task carries.
    Scrub,
}

/// What an operator should read about a job that has ended, in the process's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// As it should be.
    Normal(String),
    /// Somebody has to do something.
    Bad(String),
}

/// Which file.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The segment that begins here, by the handle of flushes and readers.
    Segment(u64),
    /// Any file, by the handle of the background lane: also a segment.
    Path(PathBuf),
}

/// Zeroes to write, a piece at a time.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl Job {
    pub(crate) fn new(lane: Lane, task: Task, steps: Vec<Step>) -> Self {
        assert!(!steps.is_empty(), "a job has something to do: {task:?}");
        Self { lane, task, steps: steps.into() }
    }

    /// The same job, which begins with this.
    pub(crate) fn after(mut self, first: Step) -> Self {
        self.steps.push_front(first);
        self
    }

    /// Who runs it.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Whether it only writes, without a sync: cheap enough to be run where it was emitted.
    pub fn is_quick(&self) -> bool {
        self.lane == Lane::Flush && self.steps.iter().all(|step| matches!(step, Step::Write { .. }))
    }

    /// Runs one step (a write, a sync, a rename …); the answer when it was the last. The simulator calls this, and may cut
    /// the power between two steps.
    pub fn step<D: Disk>(&mut self, files: &Files<D>) -> Option<JobDone> {
        let outcome = match self.steps.pop_front() {
            Some(step) => self.carry_out_if_well(step, files),
            None => Ok(()),
        };
        if outcome.is_ok() && !self.steps.is_empty() {
            return None;
        }
        self.steps.clear();
        Some(JobDone { task: std::mem::replace(&mut self.task, Task::Reserve), outcome })
    }

    /// Runs all steps. A write of the log and the sync behind it are one call; [`Job::step`] makes two of them, so that the
    /// simulator can cut the power between.
    pub fn run<D: Disk>(mut self, files: &Files<D>) -> JobDone {
        if let [Step::Write { target: Target::Segment(base), .. }, Step::Sync(Target::Segment(same))] =
            self.steps.make_contiguous()
            && base == same
        {
            self.steps.pop_back();
            if let Some(Step::Write { target, at, bytes }) = self.steps.pop_back() {
                self.steps.push_back(Step::WriteDurably { target, at, bytes });
            }
        }
        loop {
            if let Some(done) = self.step(files) {
                return done;
            }
        }
    }

    /// Carries out a step, unless one has failed before, of whatever job.
    fn carry_out_if_well<D: Disk>(&mut self, step: Step, files: &Files<D>) -> Result<(), JobError> {
        files.unless_failed(|| {
            self.carry_out(step, files).map_err(|error| match self.task.may_be_repeated(&error) {
                true => Failure::Repeatable(error),
                false => Failure::Final(error),
            })
        })
    }

    fn carry_out<D: Disk>(&mut self, step: Step, files: &Files<D>) -> Result<(), JobError> {
        match step {
            Step::Write { target, at, bytes } => {
                let file = target.file(files)?;
                match file.write_at(at, &bytes) {
                    Err(_) if planted!("short-write-ignored") => Ok(()),
                    written => written.map_err(failed("write", &target.path())),
                }
            }
            Step::WriteDurably { target, at, bytes } => {
                let file = target.file(files)?;
                // "sync": whatever has failed, nothing is known of these bytes.
                file.write_durably_at(at, &bytes).map_err(failed("sync", &target.path()))
            }
            Step::Zero { target, mut from, to } => {
                let file = target.file(files)?;
                while from < to {
                    let len = usize::try_from(to - from).unwrap_or(usize::MAX).min(ZEROES.len());
                    file.write_at(from, &ZEROES[..len]).map_err(failed("write", &target.path()))?;
                    from += len as u64;
                }
                Ok(())
            }
            Step::Sync(target) => {
                let file = target.file(files)?;
                let synced = match file.sync_data() {
                    Err(_) if planted!("second-sync-believed") => file.sync_data(),
                    synced => synced,
                };
                believed(synced).map_err(failed("sync", &target.path()))
            }
            Step::Create { path, len } => files.create(&path, len).map(drop),
            Step::Rename { from, to } => files.rename(&from, &to),
            Step::Remove(path) => files.remove(&path),
            Step::SyncDir(dir) => files.sync_dir(&dir),
            Step::CreateDir(dir) => files.create_dir(&dir),
            Step::OpenSegment(base) => files.open_segment(base).map(drop),
            Step::ForgetSegment(base) => {
                files.forget_segment(base);
                Ok(())
            }
            Step::Scrub => match &mut self.task {
                Task::Scrub(piece) => {
                    piece.look(files);
                    Ok(())
                }
                task => panic!("only a scrub carries a piece of the log: {task:?}"),
            },
            Step::Piece => match &mut self.task {
                Task::Checkpoint { piece: Some(piece), .. } => write_piece(files, piece),
                task => panic!("only a checkpoint carries a piece: {task:?}"),
            },
            Step::FirstIn { queue, block, min } => {
                let path = || BlockFile::path(block.file).display().to_string();
                let first = first_at_or_behind(files, &block, min)?.map_err(|why| JobError {
                    call: "read",
                    path: path(),
                    why,
                    no_space: false,
                })?;
                match &mut self.task {
                    Task::Survey { firsts, .. } => firsts.push((queue, first)),
                    task => panic!("only a survey looks for first entries: {task:?}"),
                }
                Ok(())
            }
        }
    }
}

/// What the disk has answered.
fn believed(answer: io::Result<()>) -> io::Result<()> {
    if keepmq_world::planted!("sync-error-ignored") { Ok(()) } else { answer }
}

impl JobDone {
    /// What an operator should read about it.
    pub fn notice(&self) -> Option<Notice> {
        match &self.task {
            Task::Retire { told, .. } if self.outcome.is_ok() => Some(Notice::Normal(told.clone())),
            Task::Scrub(piece) => piece.notice().map(Notice::Bad),
            _ => None,
        }
    }
}

fn write_piece<D: Disk>(files: &Files<D>, piece: &mut BlockWrite) -> Result<(), JobError> {
    let path = BlockFile::path(piece.file);
    let copied = piece.read_copies(|block, into| -> Result<(), String> {
        let from = BlockFile::path(block.file);
        let read = files.file(&from).and_then(|file| file.read_at(block.at, into).map_err(failed("read", &from)));
        read.map_err(|error| error.to_string())
    });
    copied.map_err(|why| JobError { call: "copy", path: path.display().to_string(), why, no_space: false })?;
    files.file(&path)?.write_at(piece.at, &piece.bytes).map_err(failed("write", &path))
}

/// The offset of the first entry of a block whose record still exists when the log begins at `min`; or what is wrong with
/// the block.
pub(crate) fn first_at_or_behind<D: Disk>(
    files: &Files<D>,
    block: &BlockRef,
    min: u64,
) -> Result<Result<QueueOffset, String>, JobError> {
    let path = BlockFile::path(block.file);
    let mut bytes = vec![0; BlockFile::bytes_of(block)];
    files.file(&path)?.read_at(block.at, &mut bytes).map_err(failed("read", &path))?;
    Ok(BlockFile::entries(&bytes, block).map(|entries| {
        let gone = entries.partition_point(|entry| entry.at < LogOffset(min));
        QueueOffset(block.first.0 + gone as u64)
    }))
}

/// The steps that write a file beside its name, make it durable and give it the name.
pub(crate) fn replace(path: &Path, bytes: Bytes) -> [Step; 4] {
    let aside = aside(path);
    [
        Step::Create { path: aside.clone(), len: bytes.len() as u64 },
        Step::Write { target: Target::Path(aside.clone()), at: 0, bytes },
        Step::Sync(Target::Path(aside.clone())),
        Step::Rename { from: aside, to: path.to_owned() },
    ]
}

impl Target {
    fn path(&self) -> PathBuf {
        match self {
            Self::Segment(base) => segment_path(*base),
            Self::Path(path) => path.clone(),
        }
    }

    fn file<D: Disk>(&self, files: &Files<D>) -> Result<std::sync::Arc<D::File>, JobError> {
        match self {
            Self::Segment(base) => match files.segment(*base) {
                Some(file) => Ok(file),
                None => files.open_segment(*base),
            },
            Self::Path(path) => files.file(path),
        }
    }
}

impl Task {
    /// Whether there was no space, and that left everything as it was: the job reserves, or writes what can be made again.
    /// Never after a failed sync: then nothing is known.
    pub(crate) fn may_be_repeated(&self, error: &JobError) -> bool {
        let harmless = matches!(
            self,
            Self::Reserve
                | Self::Room
                | Self::Snapshot(_)
                | Self::Export(_)
                | Self::Checkpoint { .. }
                | Self::Notes { .. }
        );
        harmless && error.no_space && error.call != "sync" && !planted!("full-taken-for-failed")
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}, {} steps", self.lane, self.task, self.steps.len())
    }
}

impl fmt::Debug for JobDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(()) => write!(f, "{:?}: done", self.task),
            Err(error) => write!(f, "{:?}: {error}", self.task),
        }
    }
}

/// One line, without the bytes: it stands in every trace.
impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush { at, upto, bytes, records, synced } => {
                write!(f, "flush {records} records, {bytes} bytes, {at}..{upto}, synced {synced}")
            }
            Self::Sync { upto } => write!(f, "sync to {upto}"),
            Self::Reserve => f.write_str("reserve the next segment"),
            Self::Zero { base: Some(base), from, to, .. } => write!(f, "zero {from}..{to} of segment {base}"),
            Self::Zero { base: None, from, to, .. } => write!(f, "zero {from}..{to} of the next segment"),
            Self::Checkpoint { slot, piece: None } => write!(f, "checkpoint {} at {}", slot.sequence, slot.durable),
            Self::Checkpoint { slot, piece: Some(BlockWrite { file, at, bytes, .. }) } => {
                let (sequence, durable, len) = (slot.sequence, slot.durable, bytes.len());
                write!(f, "checkpoint {sequence} at {durable}, {len} bytes of blocks at {at} of {file}")
            }
            Self::Snapshot(SnapshotFile { generation, at, bytes, .. }) => {
                write!(f, "snapshot {generation} at {at}, {} bytes", bytes.len())
            }
            Self::Export(files) => {
                f.write_str("export")?;
                files.iter().try_for_each(|(name, bytes)| write!(f, " {name} ({} bytes)", bytes.len()))
            }
            Self::Survey { min, .. } => write!(f, "survey the queues at {min}"),
            Self::Retire { bases, .. } => write!(f, "remove segments {bases:?}"),
            Self::Room => f.write_str("keep room for a snapshot"),
            Self::Notes { scrub } => write!(f, "write down ages{}", if *scrub { " and the scrub" } else { "" }),
            Self::Scrub(piece) => piece.fmt(f),
        }
    }
}
