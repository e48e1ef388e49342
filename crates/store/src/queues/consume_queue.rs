//! One queue: its last entries in memory, the blocks that hold the older ones, and where it begins and ends.

use super::block_log::{BlockRef, FULL};
use super::{BlockFiles, Limits};
use crate::store::QueueView;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::Timestamp;
use std::collections::{VecDeque, vec_deque};

/// One message of a queue: 20 bytes, in memory as on disk.
///
/// ```text
///  position: u48 │ size: u32 │ tag hash: i32 │ stored, ms: u48
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: LogOffset,
    pub(crate) size: u32,
    pub(crate) tag: i32,
    pub(crate) stored: Timestamp,
}

pub(super) type Packed = [u8; Entry::BYTES];

const U48_MAX: u64 = (1 << 48) - 1;

impl Entry {
    pub(crate) const BYTES: usize = 20;

    /// Position behind the record.
    pub(crate) fn end(&self) -> LogOffset {
        LogOffset(self.at.0 + u64::from(self.size))
    }

    pub(super) fn pack(&self) -> Packed {
        assert!(self.at.0 <= U48_MAX, "a log ends before 2^48: {}", self.at);
        let stored = u64::try_from(self.stored.0).expect("times were clamped before");
        let mut packed = [0; Self::BYTES];
        packed[..6].copy_from_slice(&self.at.0.to_be_bytes()[2..]);
        packed[6..10].copy_from_slice(&self.size.to_be_bytes());
        packed[10..14].copy_from_slice(&self.tag.to_be_bytes());
        packed[14..].copy_from_slice(&stored.to_be_bytes()[2..]);
        packed
    }

    pub(super) fn unpack(packed: &Packed) -> Self {
        let [a0, a1, a2, a3, a4, a5, s0, s1, s2, s3, t0, t1, t2, t3, m0, m1, m2, m3, m4, m5] = *packed;
        Self {
            at: LogOffset(u64::from_be_bytes([0, 0, a0, a1, a2, a3, a4, a5])),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            tag: i32::from_be_bytes([t0, t1, t2, t3]),
            stored: Timestamp(i64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5])),
        }
    }
}

/// A queue's place in the table; stable as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueIx(pub(crate) u32);

/// Entries that must be read from a block on disk first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColdEntries {
    pub(crate) block: BlockRef,
    /// Entries before this offset do not count.
    pub(crate) from: QueueOffset,
    /// Entries at or beyond this offset may not be seen.
    pub(crate) visible: QueueOffset,
}

/// The picked entries, in order, or the block to pick from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    Entries { entries: Vec<Entry>, next: QueueOffset },
    Cold(ColdEntries),
}

/// The one function that decides what a pull gets: for tails in memory (core) and for blocks from disk (reader).
/// `entries` begin at offset `from`. The answer's offset lies behind the last entry that was dealt with: picked or filtered.
pub(crate) fn select(
    entries: impl Iterator<Item = Entry>,
    from: QueueOffset,
    filter: &TagFilter,
    limits: Limits,
) -> (Vec<Entry>, QueueOffset) {
    let (mut picked, mut bytes, mut next) = (Vec::new(), 0u64, from);
    for entry in entries.take(limits.scanned.max(1) as usize) {
        if filter.passes(entry.tag) {
            bytes += u64::from(entry.size);
            if !picked.is_empty() && bytes > u64::from(limits.bytes) {
                break;
            }
            picked.push(entry);
        }
        next = next.next();
        if picked.len() >= limits.messages.max(1) as usize {
            break;
        }
    }
    (picked, next)
}

/// Where `time` falls among entries that begin at `from`: the first at or after it (the end when there is none), or, `upper`,
/// the last at or before it (the first entry when there is none).
pub(crate) fn search_entries(entries: &[Entry], from: QueueOffset, time: Timestamp, upper: bool) -> QueueOffset {
    let found = if upper {
        entries.partition_point(|entry| entry.stored <= time).saturating_sub(1)
    } else {
        entries.partition_point(|entry| entry.stored < time)
    };
    QueueOffset(from.0 + found as u64)
}

/// A durable block, as the directory keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) first: u64,
    /// Position of the first entry's record.
    pub(super) position: u64,
    /// Store time of the first entry.
    pub(super) stored: i64,
    pub(super) file: u32,
    pub(super) at: u32,
    pub(super) count: u16,
}

impl Slot {
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub(super) fn block(&self, name: u8) -> BlockRef {
        let (first, count) = (QueueOffset(self.first), u32::from(self.count));
        BlockRef { file: self.file, at: u64::from(self.at), first, count, name }
    }
}

/// One queue. There may be a million: 88 bytes, and what it holds.
///
/// ```text
///            ┌────────── blocks ──────────┐
///            │              ┌───────────── tail ─────────────┐
///   ┄┄┄┄┄┄┄┄┄┼──────────────┼─────────────┼──────────┼───────┤
///   lost    min                         saved     visible   next
/// ```
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Index into the table of topics.
    pub(super) topic: u32,
    pub(super) id: u32,
    pub(super) next: u64,
    /// What lies before it is lost to retention or deletion, and may still have blocks.
    pub(super) min: u64,
    /// Messages that wait for commit: the last ones.
    pub(super) unseen: u32,
    /// Messages that no durable block holds: the last ones.
    pub(super) unsaved: u32,
    /// Position and store time of the last entry of a durable block.
    pub(super) saved_at: u64,
    pub(super) saved_stored: i64,
    /// Ends before `next`; holds at least what is unsaved and not deleted. Boxed: most queues of many have none.
    #[expect(clippy::box_collection, reason = "a million idle queues pay 8 bytes instead of 32")]
    tail: Option<Box<VecDeque<Packed>>>,
    pub(super) blocks: Vec<Slot>,
    /// In the list of queues that the next checkpoint looks at.
    pub(super) dirty: bool,
    /// Its topic was deleted and no tombstone says so yet. Until then the blocks before `min` stay in the directory: the
    /// deletion may not be durable, and a snapshot must not be ahead of the log.
    pub(super) cleared: bool,
    pub(super) has_lost: bool,
    /// Appended to since the sweep for cold tails came by.
    pub(super) touched: bool,
}

/// What an empty tail costs beside its entries, for the budget of all tails.
const TAIL_BYTES: usize = 100;
/// Entries of a tail that a checkpoint leaves in memory.
pub(super) const WARM: usize = 2 * FULL;

impl Queue {
    pub(super) fn new(topic: u32, id: u32) -> Self {
        Self { topic, id, ..Self::default() }
    }

    pub(super) fn visible(&self) -> u64 {
        self.next - u64::from(self.unseen)
    }

    /// Offset behind the last entry of a durable block.
    pub(super) fn saved(&self) -> u64 {
        self.next - u64::from(self.unsaved)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.min == self.next
    }

    /// Position and store time of the last message.
    fn last(&self) -> (LogOffset, Timestamp) {
        let last = self.tail.as_ref().and_then(|tail| tail.back()).map(Entry::unpack);
        last.map_or((LogOffset(self.saved_at), Timestamp(self.saved_stored)), |entry| (entry.at, entry.stored))
    }

    /// Whether it has messages and would have none if the log began at `min`.
    pub(super) fn is_emptied_by(&self, min: LogOffset) -> bool {
        !self.is_empty() && self.last().0 < min
    }

    fn tail_first(&self) -> u64 {
        self.next - self.tail.as_ref().map_or(0, |tail| tail.len() as u64)
    }

    /// The tail's entries in `from..to`, which it must hold.
    pub(super) fn tail(&self, from: u64, to: u64) -> vec_deque::Iter<'_, Packed> {
        let first = self.tail_first();
        assert!(first <= from && from <= to && to <= self.next, "a tail holds what is asked of it: {from}..{to}");
        match &self.tail {
            Some(tail) => tail.range((from - first) as usize..(to - first) as usize),
            None => EMPTY.range(..),
        }
    }

    /// Where entries of the tail stop to satisfy `before`.
    pub(super) fn tail_point(&self, before: impl Fn(&Entry) -> bool) -> u64 {
        let point = self.tail.as_ref().map_or(0, |tail| tail.partition_point(|packed| before(&Entry::unpack(packed))));
        self.tail_first() + point as u64
    }

    /// Bytes that the tail holds, by the budget.
    pub(super) fn held(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| TAIL_BYTES + tail.len() * Entry::BYTES)
    }

    pub(super) fn push(&mut self, mut entry: Entry) {
        let (at, stored) = self.last();
        assert!(entry.at >= at, "positions in a queue only grow: {} follows {at} at offset {}", entry.at, self.next);
        // Times are monotone in a log of ours. In one of another program a clock may have gone back: searches need the order.
        entry.stored = Timestamp(entry.stored.0.clamp(stored.0, U48_MAX as i64));
        self.tail.get_or_insert_default().push_back(entry.pack());
        self.next += 1;
        self.unseen += 1;
        self.unsaved += 1;
        self.touched = true;
    }

    pub(super) fn view(&self) -> QueueView {
        let visible = self.visible();
        // A deletion moves `min` at once; what others see of the queue's end still waits for commit.
        let min = self.min.min(visible);
        let last_stored = if self.unseen == 0 {
            self.last().1
        } else {
            visible.checked_sub(1).and_then(|last| self.stored_at(last)).unwrap_or_default()
        };
        QueueView { min: QueueOffset(min), max: QueueOffset(visible), last_stored, has_lost: self.has_lost }
    }

    /// Store time of a visible message, when memory knows it.
    pub(super) fn stored_at(&self, offset: u64) -> Option<Timestamp> {
        let held = self.min.max(self.tail_first())..self.visible();
        held.contains(&offset)
            .then(|| self.tail(offset, offset + 1).next().map(|packed| Entry::unpack(packed).stored))?
    }

    /// Where the message lies, or what its block begins with: no later.
    pub(super) fn position(&self, offset: u64) -> Option<LogOffset> {
        let offset = offset.max(self.min);
        if offset >= self.next {
            return None;
        }
        if offset >= self.tail_first() {
            return self.tail(offset, offset + 1).next().map(|packed| Entry::unpack(packed).at);
        }
        let behind = self.blocks.partition_point(|slot| slot.first <= offset);
        behind.checked_sub(1).map(|at| LogOffset(self.blocks[at].position))
    }

    pub(super) fn pick(&self, from: QueueOffset, filter: &TagFilter, limits: Limits, name: u8) -> Picked {
        let visible = self.visible();
        assert!(self.min <= from.0 && from.0 < visible, "{from} lies in what can be read: {}..{visible}", self.min);
        if from.0 >= self.tail_first() {
            let (entries, next) = select(self.tail(from.0, visible).map(Entry::unpack), from, filter, limits);
            return Picked::Entries { entries, next };
        }
        let block = self.block_of(from.0, name).unwrap_or_else(|| panic!("blocks hold what the tail does not: {from}"));
        Picked::Cold(ColdEntries { block, from, visible: QueueOffset(visible) })
    }

    pub(super) fn search(&self, time: Timestamp, upper: bool, name: u8) -> Result<QueueOffset, ColdEntries> {
        let QueueView { min, max, .. } = self.view();
        if min == max {
            return Ok(max);
        }
        let is_before = |stored: i64| if upper { stored <= time.0 } else { stored < time.0 };
        if self.unseen == 0 && is_before(self.last().1.0) {
            return Ok(if upper { QueueOffset(max.0 - 1) } else { max });
        }
        // Where `is_before` ends, there (or, for `upper`, one before) is the answer: in the tail, or in the last block that
        // begins before it.
        let warm = self.tail_first().max(min.0).min(max.0);
        if warm < max.0 && self.tail(warm, max.0).next().is_some_and(|e| is_before(Entry::unpack(e).stored.0)) {
            let behind = QueueOffset(self.tail_point(|entry| is_before(entry.stored.0)).min(max.0));
            return Ok(if upper { QueueOffset(behind.0 - 1) } else { behind });
        }
        if warm == min.0 {
            return Ok(min);
        }
        let blocks = &self.blocks[self.blocks.partition_point(|slot| slot.end() <= min.0)..];
        let blocks = &blocks[..blocks.partition_point(|slot| slot.first < warm)];
        match blocks.partition_point(|slot| is_before(slot.stored)) {
            0 => Ok(min),
            n => {
                let block = blocks[n - 1].block(name);
                Err(ColdEntries { block, from: block.first.max(min), visible: max })
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.min = self.next;
        self.tail = None;
        self.cleared = true;
    }

    pub(super) fn set_next(&mut self, next: u64) {
        assert!(
            self.is_empty(),
            "a queue that has entries {}..{} cannot go on at {next}: entries would be missing",
            self.min,
            self.next
        );
        self.clear();
        (self.next, self.min, self.unseen, self.unsaved) = (next, next, 0, 0);
        self.has_lost = true;
    }

    /// Takes a durable block, whose last entry is `last`, into the directory. It replaces those that begin at or behind its
    /// first offset.
    pub(super) fn place(&mut self, slot: Slot, last: Entry, name: usize, files: &mut BlockFiles) -> Result<(), String> {
        let saved = self.saved();
        if slot.first > saved || slot.end() < saved {
            return Err(format!("a block holds {}..{} where {saved} goes on", slot.first, slot.end()));
        }
        while let Some(old) = self.blocks.pop_if(|old| old.first >= slot.first) {
            files.less(&old, name);
        }
        if let Some(old) = self.blocks.last().filter(|old| old.end() > slot.first) {
            return Err(format!("a block holds {}..{} where {} goes on", slot.first, slot.end(), old.end()));
        }
        // A recovered queue grows by its blocks; in a running one they follow what it has.
        self.next = self.next.max(slot.end());
        self.unsaved = u32::try_from(self.next - slot.end()).expect("unsaved messages are in memory");
        if self.blocks.len() == self.blocks.capacity() {
            // Most queues of many have one block: growing to four at once would cost a million of them 120 MB.
            self.blocks.reserve_exact(1 + self.blocks.len() / 2);
        }
        files.more(&slot, name);
        self.blocks.push(slot);
        (self.saved_at, self.saved_stored) = (last.at.0, last.stored.0);
        Ok(())
    }

    /// Recovery: a tombstone says that the queue is empty and goes on at `first`.
    pub(super) fn end_at(&mut self, first: u64, name: usize, files: &mut BlockFiles) -> Result<(), String> {
        if first < self.next {
            return Err(format!("the queue ends at {first}, but it went up to {} before", self.next));
        }
        (self.next, self.min, self.unsaved) = (first, first, 0);
        self.drop_blocks(first, name, files);
        Ok(())
    }

    /// A block now lies elsewhere; nothing happens when it has been replaced since.
    pub(super) fn moved(&mut self, to: Slot, name: usize, files: &mut BlockFiles) {
        if let Ok(at) = self.blocks.binary_search_by_key(&to.first, |slot| slot.first)
            && self.blocks[at].count == to.count
        {
            files.less(&self.blocks[at], name);
            files.more(&to, name);
            self.blocks[at] = to;
        }
    }

    /// Forgets the blocks that hold only what lies before `first`: it is lost, and that is durable.
    pub(super) fn drop_blocks(&mut self, first: u64, name: usize, files: &mut BlockFiles) {
        let dead = self.blocks.iter().take_while(|slot| slot.end() <= first).count();
        for slot in self.blocks.drain(..dead) {
            files.less(&slot, name);
        }
        if self.blocks.is_empty() {
            self.blocks = Vec::new();
        }
    }

    /// Where the next block should begin when the durable ones end at `from` and it ends at `to`: short ones before it are
    /// written again with it, as long as it grows to twice the size by that. So a queue has few blocks behind its long ones,
    /// each longer than the next, and an entry is written some eight times at most.
    pub(super) fn merge_from(&self, from: u64, to: u64) -> u64 {
        let tail_first = self.tail_first();
        let mut first = from;
        for slot in self.blocks.iter().rev() {
            let (old, new) = (u64::from(slot.count), to - first);
            if slot.first < tail_first || slot.end() != first || old > new || old + new > FULL as u64 {
                break;
            }
            first = slot.first;
        }
        first
    }

    /// Lets go of the tail's entries that a durable block holds, but for the last `keep`.
    pub(super) fn cool(&mut self, keep: usize) {
        let (saved, first) = (self.saved().max(self.min), self.tail_first());
        let Some(tail) = &mut self.tail else { return };
        let gone = tail.len().saturating_sub(keep).min(saved.saturating_sub(first) as usize);
        tail.drain(..gone);
        if tail.is_empty() {
            self.tail = None;
        } else if tail.capacity() > 2 * tail.len().max(FULL) {
            tail.shrink_to_fit();
        }
    }

    /// The last block that begins before `min` of the log, unless all of the queue lies before it: in it or behind it is the
    /// first message that stays.
    pub(super) fn straddling(&self, min: LogOffset, name: u8) -> Option<BlockRef> {
        if self.is_empty() || self.is_emptied_by(min) {
            return None;
        }
        let behind = self.blocks.partition_point(|slot| slot.position < min.0);
        let slot = self.blocks[behind.checked_sub(1)?];
        (slot.end() > self.min).then(|| slot.block(name))
    }

    /// The block that holds this offset.
    pub(super) fn block_of(&self, offset: u64, name: u8) -> Option<BlockRef> {
        let behind = self.blocks.partition_point(|slot| slot.first <= offset);
        let slot = self.blocks[behind.checked_sub(1)?];
        (offset < slot.end()).then(|| slot.block(name))
    }

    /// Those that may hold a record between two positions.
    pub(super) fn blocks_between(&self, from: LogOffset, to: LogOffset) -> &[Slot] {
        let first = self.blocks.partition_point(|slot| slot.position <= from.0).saturating_sub(1);
        let behind = self.blocks.partition_point(|slot| slot.position < to.0);
        &self.blocks[first.min(behind)..behind]
    }

    /// Retention has taken what lies before `first`.
    pub(super) fn retire(&mut self, first: u64) {
        if first <= self.min {
            return;
        }
        assert!(first <= self.saved(), "retention takes only what is in durable blocks: {first} > {}", self.saved());
        (self.min, self.has_lost) = (first, true);
        let gone = first.saturating_sub(self.tail_first()) as usize;
        if let Some(tail) = &mut self.tail {
            tail.drain(..gone);
            if tail.is_empty() {
                self.tail = None;
            }
        }
    }
}

static EMPTY: VecDeque<Packed> = VecDeque::new();
