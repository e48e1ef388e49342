//! Which job comes next, and what it means when it has ended.

use crate::checkpoint::{self, Slot};
use crate::config::{Flush, Scrubbing};
use crate::disk::Disk;
use crate::files::{LOG_DIR, NEXT, OWN_DIR, segment_path};
use crate::job::{Job, JobError, Lane, SnapshotFile, Step, Target, Task, replace};
use crate::log::{Batch, Need, Reserved, Restored, Retention, Space, snapshot_path};
use crate::meta::{MetaRecord, Snapshot};
use crate::queues::{BlockFile, BlockWrite, QueueIx};
use crate::scrub::Scrub;
use crate::store::Store;
use bytes::Bytes;
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::{Mono, Now, Timestamp, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time until something for which there was no space is tried again.
const SPACE_RETRY: Duration = Duration::from_secs(1);
/// A store that is being closed waits so long for space for its snapshot. The log holds all that would be in it.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Without an append for so long, memory is given back.
const IDLE: Duration = Duration::from_secs(60);
/// Most bytes zeroed by one job: the flush that must wait for it waits no longer than this takes.
const ZERO_PIECE: u64 = 1 << 20;
/// Zeroing begins at a page.
const PAGE: u64 = 4096;
/// Space that is kept for snapshots and the index. On a full disk it is given back before they are written again: only with a
/// snapshot may old segments go, and make space. It is this part of a segment.
const ROOM: &str = "keepmq/room";
const ROOM_SHARE: u64 = 64;

/// What the background lane has done and has to do.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// A background job is under way.
    busy: bool,
    /// There was no space for something that is written: nothing of the kind before this time.
    retry_at: Option<Mono>,
    /// There was no space to be reserved: none is asked for before this time.
    reserve_at: Option<Mono>,
    room: Room,
    /// When something was written that is not synced (ASYNC_FLUSH).
    unsynced_since: Option<Mono>,
    /// The slot written last.
    slot: Slot,
    checkpoint_at: Mono,
    /// A piece of the block log for which there was no space.
    piece: Option<BlockWrite>,
    /// The index is durable up to here.
    indexed: u64,
    /// End of the last record that deleted a topic: the index must not be ahead of it.
    deleted_upto: u64,
    zeroed: Zeroed,
    /// Snapshots on disk, oldest first: generation and position.
    snapshots: VecDeque<(u64, u64)>,
    /// Block files that the newest of them needs, when it was written by this process.
    needed_blocks: Option<Vec<u32>>,
    block_files: BTreeSet<u32>,
    /// The position whose tables they are, and the tables.
    tables: Option<(u64, Vec<u8>)>,
    /// A snapshot file for which there was no space.
    snapshot: Option<SnapshotFile>,
    /// Bytes of metadata records behind the newest snapshot.
    meta_bytes: u64,
    exports: BTreeMap<&'static str, Bytes>,
    retention: Retention,
    retention_at: Mono,
    /// Who still needed old segments at the last look.
    held: Option<Need>,
    /// Queues that begin later since the last removal, and where.
    moved: Vec<(QueueIx, QueueOffset)>,
    pub(crate) removed_segments: u64,
    space: Option<Space>,
    clock: Running,
    pub(crate) scrub: Scrub,
    /// Since when nothing was appended; `None` when memory was given back already.
    appended_at: Option<Mono>,
    /// Since when it is being closed.
    closing: Option<Mono>,
    /// It was closed without a snapshot, for want of space.
    gave_up: bool,
}

/// The file that keeps space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// It is there.
    Kept,
    /// It may be there, from an earlier life, or not.
    Unknown,
    /// There was no space for something that matters: it goes before the next attempt.
    Spent,
}

/// How long the store has been open, in all its lives.
#[derive(Clone, Copy, Debug)]
struct Running {
    opened: Mono,
    /// Milliseconds before this life.
    before: u64,
    /// What `keepmq/ages` says.
    saved: u64,
    /// A segment was closed since then.
    unsaved: bool,
}

impl Running {
    fn at(&self, now: Mono) -> u64 {
        let life = u64::try_from(now.since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.before.saturating_add(life)
    }
}

/// What is zeroed ahead of the tail.
#[derive(Debug)]
struct Zeroed {
    /// The last segment, up to this position of the log.
    last: u64,
    /// The reserved segment, up to this byte.
    reserved: u64,
    /// A range that is being zeroed: the segment (`None`: the reserved one) and the first byte in it.
    under_way: Option<(Option<u64>, u64)>,
}

impl Upkeep {
    pub(crate) fn new<D: Disk>(restored: &Restored<D>, scrubbing: Scrubbing, now: Now) -> Self {
        let (before, end) = (restored.ages.running, restored.log.synced);
        Self {
            busy: false,
            retry_at: None,
            reserve_at: None,
            room: Room::Unknown,
            unsynced_since: None,
            slot: restored.slot,
            checkpoint_at: now.mono,
            piece: None,
            indexed: restored.queues.indexed().0,
            deleted_upto: 0,
            zeroed: Zeroed { last: restored.slot.zeroed, reserved: 0, under_way: None },
            snapshots: restored.snapshots.clone(),
            needed_blocks: None,
            block_files: restored.block_files.iter().copied().collect(),
            tables: None,
            snapshot: None,
            meta_bytes: restored.meta_bytes,
            exports: BTreeMap::new(),
            retention: Retention::Idle,
            retention_at: now.mono + retire::LOOK_EVERY,
            held: None,
            moved: Vec::new(),
            removed_segments: 0,
            space: None,
            clock: Running { opened: now.mono, before, saved: before, unsaved: false },
            scrub: Scrub::new(scrubbing, &restored.scrub, restored.identity.store_id, end, now.mono),
            appended_at: None,
            closing: None,
            gave_up: false,
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(crate) fn appended(&mut self, now: Now) {
        self.appended_at = Some(now.mono);
    }

    /// The log goes on at `base`, in what was the reserved segment.
    pub(crate) fn rolled(&mut self, base: u64) {
        self.zeroed.last = base + std::mem::take(&mut self.zeroed.reserved);
    }

    pub(crate) fn meta_appended(&mut self, record: &MetaRecord, at: LogOffset, end: LogOffset) {
        self.meta_bytes += end.0 - at.0;
        if matches!(record, MetaRecord::TopicDeleted(_)) {
            self.deleted_upto = end.0;
        }
    }

    pub(crate) fn save(&mut self, at: u64, tables: Vec<u8>) {
        self.tables = Some((at, tables));
        self.meta_bytes = 0;
    }

    /// A newer file replaces one that waits.
    pub(crate) fn export(&mut self, files: impl IntoIterator<Item = (&'static str, Bytes)>) {
        self.exports.extend(files);
    }

    pub(crate) fn close(&mut self, now: Mono) {
        self.closing = Some(now);
        self.clock.unsaved = true;
    }

    pub(crate) fn is_closed(&self, synced: u64) -> bool {
        let idle = self.is_closing() && !self.busy;
        let saved = self.tables.is_none()
            && self.snapshot.is_none()
            && self.exports.is_empty()
            && self.piece.is_none()
            && !self.notes_wait()
            && self.slot.durable == synced;
        idle && (saved || self.gave_up)
    }

    /// Whether the store was closed without a snapshot, because there was no space for it.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Whether the disk has no space for the index: what is appended stays in memory until it has.
    pub(crate) fn index_waits(&self) -> bool {
        self.piece.is_some()
    }

    pub(crate) fn held(&self) -> Option<&Need> {
        self.held.as_ref()
    }

    pub(crate) fn free(&self) -> Option<u64> {
        self.space.map(|space| space.free)
    }

    pub(crate) fn set_space(&mut self, free: u64, total: u64) {
        self.space = Some(Space { free, total });
    }

    pub(crate) fn wants_tables(&self, snapshot_bytes: u64) -> bool {
        let on_its_way = self.tables.is_some() || self.snapshot.is_some();
        !self.is_closing() && !on_its_way && (self.meta_bytes >= snapshot_bytes || self.retention_waits())
    }

    /// Whether the removal of segments needs a snapshot that is not there yet. Both that are kept must reach it: if the
    /// newest cannot be read one day, the other needs the log behind it.
    fn retention_waits(&self) -> bool {
        let Retention::Saving { target, ends } = self.retention else { return false };
        let covers = |snapshot: Option<&(u64, u64)>, position| snapshot.is_some_and(|(_, at)| *at >= position);
        let both = self.snapshots.len() >= 2;
        !(both && covers(self.snapshots.front(), target) && covers(self.snapshots.back(), ends))
    }
}

mod notes;
mod retire;

impl<D: Disk> Store<D> {
    // ---- the flush lane --------------------------------------------------------------------------------------------------

    /// Everything that has gathered, as one flush.
    pub(crate) fn flush_job(&mut self) -> Option<Job> {
        if !self.log.wants_flush() || self.waits_for_zeroes() {
            return None;
        }
        let at = self.log.handed();
        let Batch { chunks, records, bytes } = self.log.take(self.spare.take());
        let upto = self.log.handed();
        let mut steps = Vec::with_capacity(chunks.len() + 1);
        let mut synced = self.log.synced;
        let mut segment = self.files.base(at);
        for chunk in chunks {
            let base = self.files.base(chunk.at);
            if base != segment {
                // The old segment is durable before the new one has its name: so a bad record in any but the last is rot.
                steps.push(Step::Sync(Target::Segment(segment)));
                steps.push(Step::Rename { from: NEXT.into(), to: segment_path(base) });
                if !planted!("directory-not-synced") {
                    steps.push(Step::SyncDir(LOG_DIR.into()));
                    steps.push(Step::SyncDir(OWN_DIR.into()));
                }
                steps.push(Step::OpenSegment(base));
                (segment, synced) = (base, base);
            }
            if let Some(spare) = self.files.remember(chunk.clone()) {
                self.spare = Some(spare);
            }
            steps.push(Step::Write { target: Target::Segment(base), at: chunk.at - base, bytes: chunk.bytes });
        }
        if self.config.flush == Flush::Sync {
            steps.push(Step::Sync(Target::Segment(segment)));
            synced = upto;
        }
        Some(Job::new(Lane::Flush, Task::Flush { at, upto, bytes, records, synced }, steps))
    }

    /// Whether the bytes to be flushed reach into a range that is being zeroed.
    fn waits_for_zeroes(&self) -> bool {
        let end = self.log.appended();
        match self.upkeep.zeroed.under_way {
            None => false,
            Some((Some(base), from)) => end > base + from,
            Some((None, _)) => self.files.base(end) != self.files.base(self.log.written),
        }
    }

    // ---- the background lane ---------------------------------------------------------------------------------------------

    /// The most urgent thing besides flushes.
    pub(crate) fn background_job(&mut self, now: Now) -> Option<Job> {
        if self.upkeep.appended_at.is_some_and(|at| now.mono.since(at) >= IDLE) {
            self.upkeep.appended_at = None;
            self.log.shrink();
            self.files.forget_chunks();
            self.spare = None;
        }
        if self.upkeep.busy {
            return None;
        }
        // What waits for space does not hold up the rest: a disk that is too full for a segment may take a snapshot, and only
        // with that may old segments go.
        self.give_up(now);
        let due = |at: &mut Option<Mono>| at.take_if(|at| now.mono >= *at).is_some() || at.is_none();
        let (reserves, writes) = (due(&mut self.upkeep.reserve_at), due(&mut self.upkeep.retry_at));
        let job = self
            .sync_job(now)
            .or_else(|| self.retire_job())
            .or_else(|| if reserves { self.reserve_job() } else { None })
            .or_else(|| if writes { self.write_job(now) } else { None })
            .or_else(|| self.zero_job())
            .or_else(|| self.survey_job())
            .or_else(|| self.scrub_job(now));
        self.upkeep.busy = job.is_some();
        job
    }

    /// What is written into files that grow.
    fn write_job(&mut self, now: Now) -> Option<Job> {
        let job = self.checkpoint_job(now).or_else(|| self.snapshot_job());
        let job = job.map(|job| match self.upkeep.room {
            Room::Spent => {
                self.upkeep.room = Room::Unknown;
                job.after(Step::Remove(ROOM.into()))
            }
            Room::Kept | Room::Unknown => job,
        });
        job.or_else(|| self.note_job(now)).or_else(|| self.export_job()).or_else(|| self.room_job())
    }

    /// A disk that stays full must not keep the process from ending. The log holds everything; the next start reads it again.
    fn give_up(&mut self, now: Now) {
        let upkeep = &mut self.upkeep;
        let late = upkeep.closing.is_some_and(|since| now.mono.since(since) >= GIVE_UP);
        if late && upkeep.retry_at.is_some() && !upkeep.gave_up {
            upkeep.gave_up = true;
            (upkeep.tables, upkeep.snapshot, upkeep.piece) = (None, None, None);
            upkeep.exports.clear();
        }
    }

    fn room_job(&mut self) -> Option<Job> {
        let due = self.upkeep.room != Room::Kept && self.log.reserved == Reserved::Ready && !self.upkeep.is_closing();
        due.then(|| {
            let len = (self.config.segment_bytes / ROOM_SHARE).max(PAGE);
            let steps = vec![Step::Create { path: ROOM.into(), len }, Step::SyncDir(OWN_DIR.into())];
            Job::new(Lane::Background, Task::Room, steps)
        })
    }

    fn sync_job(&mut self, now: Now) -> Option<Job> {
        let unsynced = self.log.written - self.log.synced;
        if unsynced == 0 {
            // A roll has synced it.
            self.upkeep.unsynced_since = None;
        }
        let since = self.upkeep.unsynced_since?;
        let due = unsynced >= self.config.flush_bytes
            || now.mono.since(since) >= self.config.flush_interval
            || self.upkeep.is_closing();
        due.then(|| {
            self.upkeep.unsynced_since = None;
            let upto = self.log.written;
            let steps = vec![Step::Sync(Target::Path(segment_path(self.files.base(upto))))];
            Job::new(Lane::Background, Task::Sync { upto }, steps)
        })
    }

    fn reserve_job(&mut self) -> Option<Job> {
        let rest = self.log.segment_end() - self.log.appended();
        let size = self.config.segment_bytes;
        let early = (size / 4).max((2 * self.config.zero_ahead).min(size / 2));
        // The name is free again once the last roll is on disk.
        let rolled = self.files.base(self.log.written) == self.files.base(self.log.appended());
        let due = self.log.reserved != Reserved::Ready && rolled && rest <= early && !self.upkeep.is_closing();
        due.then(|| {
            let next = PathBuf::from(NEXT);
            let steps = vec![
                Step::Create { path: next.clone(), len: size },
                Step::Sync(Target::Path(next)),
                Step::SyncDir(OWN_DIR.into()),
            ];
            Job::new(Lane::Background, Task::Reserve, steps)
        })
    }

    /// The slot that says what is durable now, and the steps that write it.
    fn next_slot(&self, log_min: u64) -> (Slot, [Step; 2]) {
        let slot = Slot {
            sequence: self.upkeep.slot.sequence + 1,
            durable: if planted!("checkpoint-ahead") { self.log.appended() } else { self.log.synced },
            log_min,
            zeroed: self.upkeep.zeroed.last,
            stored: self.log.last_stored.0,
        };
        let target = Target::Path(checkpoint::PATH.into());
        let bytes = Bytes::copy_from_slice(&slot.encode(self.store_id));
        (slot, [Step::Write { target: target.clone(), at: slot.place(), bytes }, Step::Sync(target)])
    }

    /// Whether a checkpoint would say something new, and may be written.
    fn checkpoint_waits(&self) -> bool {
        let something = self.log.synced > self.upkeep.slot.durable || self.upkeep.piece.is_some();
        something && self.upkeep.deleted_upto <= self.log.synced
    }

    fn checkpoint_job(&mut self, now: Now) -> Option<Job> {
        let due = self.checkpoint_waits()
            && (self.upkeep.is_closing()
                || now.mono.since(self.upkeep.checkpoint_at) >= self.config.checkpoint_interval);
        due.then(|| {
            self.upkeep.checkpoint_at = now.mono;
            // The slot comes first: an index that is durable never names what the slot does not.
            let (slot, steps) = self.next_slot(self.files.min());
            let mut steps = Vec::from(steps);
            let upto = match planted!("index-ahead-of-log") {
                true => self.log.appended(),
                false => self.log.synced,
            };
            let piece = match self.upkeep.gave_up {
                true => None,
                false => self.upkeep.piece.take().or_else(|| self.queues.checkpoint(LogOffset(upto))),
            };
            if let Some(piece) = &piece {
                let path = BlockFile::path(piece.file);
                if piece.at == 0 {
                    steps.push(Step::Create { path: path.clone(), len: 0 });
                }
                steps.push(Step::Piece);
                steps.push(Step::Sync(Target::Path(path)));
                if piece.at == 0 {
                    steps.push(Step::SyncDir(OWN_DIR.into()));
                }
            }
            Job::new(Lane::Background, Task::Checkpoint { slot, piece }, steps)
        })
    }

    fn snapshot_job(&mut self) -> Option<Job> {
        let file = match self.upkeep.snapshot.take() {
            Some(file) => file,
            None => {
                // Only what is synced may be in a snapshot: it is never undone.
                self.upkeep.tables.as_ref().filter(|(at, _)| *at <= self.log.synced)?;
                let (at, tables) = self.upkeep.tables.take().expect("looked at above");
                let generation = self.upkeep.snapshots.back().map_or(1, |(generation, _)| generation + 1);
                let (store_id, log_min) = (self.store_id, self.files.min());
                let snapshot = Snapshot { generation, store_id, at, log_min, queues: self.queues.encode(), tables };
                SnapshotFile { generation, at, bytes: snapshot.encode().into(), blocks: self.queues.live_files() }
            }
        };
        let mut steps = Vec::from(replace(&snapshot_path(file.generation), file.bytes.clone()));
        if planted!("snapshot-not-synced") {
            steps.retain(|step| !matches!(step, Step::Sync(_)));
        }
        steps.push(Step::SyncDir(OWN_DIR.into()));
        if self.upkeep.snapshots.len() >= 2 {
            let (oldest, _) = self.upkeep.snapshots[0];
            steps.push(Step::Remove(snapshot_path(oldest)));
        }
        steps.extend(self.dead_blocks(&file).into_iter().map(|dead| Step::Remove(BlockFile::path(dead))));
        Some(Job::new(Lane::Background, Task::Snapshot(file), steps))
    }

    /// Block files that neither the newest snapshot nor `file`, which is about to be, needs. Those above the highest
    /// that either knows came later.
    fn dead_blocks(&self, file: &SnapshotFile) -> Vec<u32> {
        let Some(needed) = &self.upkeep.needed_blocks else { return Vec::new() };
        let highest = needed.iter().max().min(file.blocks.iter().max()).copied().unwrap_or(0);
        let is_dead = |number: &u32| *number < highest && !needed.contains(number) && !file.blocks.contains(number);
        self.upkeep.block_files.iter().copied().filter(is_dead).collect()
    }

    fn export_job(&mut self) -> Option<Job> {
        if self.upkeep.is_closing() && (self.upkeep.tables.is_some() || self.checkpoint_waits()) {
            // `abort` goes last: until then RocketMQ would have to check everything.
            return None;
        }
        if self.upkeep.exports.is_empty() {
            return None;
        }
        let files = std::mem::take(&mut self.upkeep.exports);
        let mut steps = Vec::new();
        let mut dirs = BTreeSet::new();
        for (name, bytes) in &files {
            let path = Path::new(name);
            let dir = path.parent().unwrap_or(Path::new(""));
            if dirs.insert(dir.to_owned()) {
                steps.push(Step::CreateDir(dir.to_owned()));
            }
            steps.extend(replace(path, bytes.clone()));
        }
        steps.extend(replace(Path::new(JAVA_CHECKPOINT), java_checkpoint(self.log.last_stored)));
        if self.upkeep.is_closing() {
            steps.push(Step::Remove(JAVA_ABORT.into()));
        }
        dirs.insert(PathBuf::new());
        steps.extend(dirs.into_iter().map(Step::SyncDir));
        Some(Job::new(Lane::Background, Task::Export(files), steps))
    }

    fn zero_job(&mut self) -> Option<Job> {
        let ahead = self.config.zero_ahead;
        if ahead == 0 || self.upkeep.is_closing() {
            return None;
        }
        let (end, segment_end) = (self.log.appended(), self.log.segment_end());
        let base = segment_end - self.config.segment_bytes;
        // A segment that has been taken but has not its name yet can wait.
        let named = self.files.base(self.log.written) == base;
        let from = match self.upkeep.zeroed.last {
            zeroed if zeroed >= end => zeroed,
            // Outrun: starting at the end would make the next flush wait, and so again and again.
            _ => (end + ZERO_PIECE.min(ahead / 4)).next_multiple_of(PAGE),
        };
        let (base, from, limit, target) = if named && from < segment_end && from < end + ahead / 2 {
            (Some(base), from - base, (end + ahead).min(segment_end) - base, Target::Path(segment_path(base)))
        } else if self.log.reserved == Reserved::Ready
            && self.upkeep.zeroed.reserved < ahead.min(self.config.segment_bytes)
        {
            (None, self.upkeep.zeroed.reserved, ahead.min(self.config.segment_bytes), Target::Path(NEXT.into()))
        } else {
            return None;
        };
        let to = limit.min(from + ZERO_PIECE);
        self.upkeep.zeroed.under_way = Some((base, from));
        let steps = vec![Step::Zero { target: target.clone(), from, to }, Step::Sync(target)];
        Some(Job::new(Lane::Background, Task::Zero { base, from, to, written: self.log.written }, steps))
    }

    // ---- what a finished job means ---------------------------------------------------------------------------------------

    /// A job has ended well.
    pub(crate) fn done(&mut self, task: Task, now: Now) {
        if !matches!(task, Task::Flush { .. }) {
            self.upkeep.busy = false;
        }
        match task {
            Task::Flush { upto, bytes, records, synced, .. } => {
                self.log.flushed(upto, bytes, synced);
                self.flushes += 1;
                self.flushed_records += records;
                self.upkeep.clock.unsaved |= self.log.note_closed(self.upkeep.clock.at(now.mono));
                if self.log.written > self.log.synced {
                    self.upkeep.unsynced_since.get_or_insert(now.mono);
                }
                self.advance();
            }
            Task::Sync { upto } => {
                self.log.synced(upto);
                if self.log.written > self.log.synced {
                    self.upkeep.unsynced_since.get_or_insert(now.mono);
                }
            }
            Task::Reserve => self.log.reserved = Reserved::Ready,
            Task::Room => self.upkeep.room = Room::Kept,
            Task::Notes { .. } => {}
            Task::Scrub(piece) => self.upkeep.scrub.read(&piece, self.config.segment_bytes, now.mono),
            Task::Zero { base, to, written, .. } => {
                if base.is_some() {
                    // It stands in this segment, or in one before, which the roll has synced.
                    self.log.synced(written);
                }
                let zeroed = &mut self.upkeep.zeroed;
                zeroed.under_way = None;
                match base {
                    Some(base) => zeroed.last = zeroed.last.max(base + to),
                    None if self.log.reserved == Reserved::Ready => zeroed.reserved = to,
                    // It has been taken meanwhile, and its flush waits.
                    None => zeroed.last = zeroed.last.max(self.files.base(self.log.appended()) + to),
                }
            }
            Task::Checkpoint { slot, piece } => {
                self.upkeep.slot = slot;
                if let Some(piece) = piece {
                    self.upkeep.block_files.insert(piece.file);
                    self.upkeep.indexed = self.queues.checkpointed(piece).0;
                }
            }
            Task::Snapshot(file) => {
                let dead = self.dead_blocks(&file);
                self.upkeep.block_files.retain(|number| !dead.contains(number));
                self.upkeep.snapshots.push_back((file.generation, file.at));
                while self.upkeep.snapshots.len() > 2 {
                    self.upkeep.snapshots.pop_front();
                }
                self.upkeep.needed_blocks = Some(file.blocks);
            }
            Task::Export(_) => {}
            Task::Survey { min, firsts } => self.begin_at(min, &firsts),
            Task::Retire { slot, bases, .. } => {
                self.upkeep.slot = slot;
                self.log.closed.retain(|age| !bases.contains(&age.base));
                self.upkeep.retention = Retention::Idle;
                self.upkeep.removed_segments += bases.len() as u64;
                if let Some(space) = &mut self.upkeep.space {
                    // Until somebody looks again: what was removed by force need not be removed twice.
                    space.free += bases.len() as u64 * self.config.segment_bytes;
                }
            }
        }
    }

    /// A job ran out of space where that does no harm: it is done again later.
    pub(crate) fn no_space(&mut self, task: Task, error: &JobError, now: Now) {
        let again = Some(now.mono + SPACE_RETRY);
        self.upkeep.busy = false;
        match task {
            Task::Reserve => self.upkeep.reserve_at = again,
            _ => self.upkeep.retry_at = again,
        }
        match task {
            Task::Reserve => self.log.reserved = Reserved::NoSpace(error.to_string()),
            // Only what can free space again, or keeps memory from growing, is worth it.
            Task::Checkpoint { .. } | Task::Snapshot(_) => self.upkeep.room = Room::Spent,
            _ => {}
        }
        match task {
            Task::Reserve | Task::Room => {}
            Task::Notes { scrub } => self.not_noted(scrub),
            Task::Checkpoint { piece, .. } => self.upkeep.piece = piece,
            Task::Snapshot(file) => self.upkeep.snapshot = Some(file),
            Task::Export(files) => {
                for (name, bytes) in files {
                    // What came meanwhile is newer.
                    self.upkeep.exports.entry(name).or_insert(bytes);
                }
            }
            task => unreachable!("{task:?} may not run out of space"),
        }
    }

    /// When the next job is due, if none is asked for before.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        let upkeep = &self.upkeep;
        if self.stopped.is_some() {
            return None;
        }
        let idle = upkeep.appended_at.map(|at| at + IDLE);
        if upkeep.busy {
            return idle;
        }
        let unsynced = self.log.written > self.log.synced;
        let sync = upkeep.unsynced_since.filter(|_| unsynced).map(|since| since + self.config.flush_interval);
        let checkpoint = self.checkpoint_waits().then(|| upkeep.checkpoint_at + self.config.checkpoint_interval);
        let looks = upkeep.retention == Retention::Idle && !self.log.closed.is_empty() && !upkeep.is_closing();
        let retention = looks.then_some(upkeep.retention_at);
        let later = |due: Mono| upkeep.retry_at.map_or(due, |retry| due.max(retry));
        let writes = checkpoint.into_iter().chain(self.note_due()).map(later).min();
        let scrub = upkeep.scrub.due(upkeep.clock.opened, upkeep.clock.before).filter(|_| !upkeep.is_closing());
        let background = [sync, writes, retention, scrub, upkeep.retry_at, upkeep.reserve_at];
        background.into_iter().chain([idle]).flatten().min()
    }
}

// ---- exports for Java --------------------------------------------------------------------------------------------------

const JAVA_CHECKPOINT: &str = "checkpoint";
/// A file whose presence tells RocketMQ that the last stop was none.
pub(crate) const JAVA_ABORT: &str = "abort";

/// RocketMQ's checkpoint: the store time of the log's last record; no consume queue, no index. So it builds both from the
/// whole log.
///
/// ```text
///  0 log: i64 │ 8 consume queue: i64 │ 16 index: i64 │ zeroes up to 4096
/// ```
fn java_checkpoint(last_stored: Timestamp) -> Bytes {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(&last_stored.0.to_be_bytes());
    bytes.into()
}
