use super::{BlockRef, BlockWrite, Limits};
use crate::store::QueueView;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::{LogOffset, QueueOffset, Topic};
use keepmq_world::{Keyed, Timestamp};

/// One message of a queue: 20 bytes on disk.
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

impl Entry {
    pub(crate) const BYTES: usize = 20;
    /// Position behind the record.
    pub(crate) fn end(&self) -> LogOffset {
        LogOffset(self.at.0 + u64::from(self.size))
    }
}

/// A queue's place in the table; stable as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueIx(pub(crate) u32);

/// Entries that must be read from a block on disk first.
#[derive(Clone, Debug)]
pub(crate) struct ColdEntries {
    pub(crate) block: BlockRef,
    pub(crate) from: QueueOffset,
    /// Entries at or beyond this offset may not be seen.
    pub(crate) visible: QueueOffset,
}

/// The picked entries, in order, or the block to pick from.
#[derive(Clone, Debug)]
pub(crate) enum Picked {
    Entries { entries: Vec<Entry>, next: QueueOffset },
    Cold(ColdEntries),
}

/// All queues.
pub(crate) struct Queues {}

/// The one function that decides what a pull gets: for tails in memory (core) and for blocks from disk (reader).
/// `entries` begin at offset `from`.
pub(crate) fn select(
    entries: impl Iterator<Item = Entry>,
    from: QueueOffset,
    filter: &TagFilter,
    limits: Limits,
) -> (Vec<Entry>, QueueOffset) {
    let _ = (entries.count(), from, filter, limits);
    todo!()
}

impl Queues {
    pub(crate) fn new(keyed: Keyed) -> Self {
        let _ = keyed;
        todo!()
    }
    pub(crate) fn find(&self, topic: &str, queue_id: u32) -> Option<QueueIx> {
        let _ = (topic, queue_id);
        todo!()
    }
    /// The queue, made when it does not exist. No allocation when it does.
    pub(crate) fn find_or_add(&mut self, topic: &str, queue_id: u32) -> QueueIx {
        let _ = (topic, queue_id);
        todo!()
    }
    pub(crate) fn name(&self, ix: QueueIx) -> (&Topic, u32) {
        let _ = ix;
        todo!()
    }
    /// Offset that the next message gets.
    pub(crate) fn next(&self, ix: QueueIx) -> QueueOffset {
        let _ = ix;
        todo!()
    }
    /// Adds the next message. Not visible before `advance` has passed its end.
    pub(crate) fn append(&mut self, ix: QueueIx, entry: Entry) {
        let _ = (ix, entry);
        todo!()
    }
    /// Recovery: the queue goes on at `next` (never back).
    pub(crate) fn set_next(&mut self, ix: QueueIx, next: QueueOffset) {
        let _ = (ix, next);
        todo!()
    }
    /// Makes every entry that ends at or before `commit` visible; tells each queue that gained one (it may be told twice).
    pub(crate) fn advance(&mut self, commit: LogOffset, grown: &mut Vec<QueueIx>) {
        let _ = (commit, grown);
        todo!()
    }
    pub(crate) fn view(&self, ix: QueueIx) -> QueueView {
        let _ = ix;
        todo!()
    }
    /// What a pull gets. `from` lies in `min..max` of the view.
    pub(crate) fn pick(&self, ix: QueueIx, from: QueueOffset, filter: &TagFilter, limits: Limits) -> Picked {
        let _ = (ix, from, filter, limits);
        todo!()
    }
    /// By store time, among visible messages: the offset (Ok), or the block in which it lies (Err).
    pub(crate) fn search(&self, ix: QueueIx, time: Timestamp, upper: bool) -> Result<QueueOffset, ColdEntries> {
        let _ = (ix, time, upper);
        todo!()
    }
    /// A deleted topic: its queues are empty, their next offsets go on.
    pub(crate) fn clear_topic(&mut self, topic: &str) {
        let _ = topic;
        todo!()
    }
    /// Queues that would lose their last entry if the log began at `min`, with their next offset.
    pub(crate) fn emptied_by(&self, min: LogOffset) -> Vec<QueueIx> {
        let _ = min;
        todo!()
    }
    /// Blocks that straddle `min`: the first readable offset of these queues is only known after reading the block.
    pub(crate) fn straddling(&self, min: LogOffset) -> Vec<(QueueIx, BlockRef)> {
        let _ = min;
        todo!()
    }
    /// The log now begins at `min`: drops what lies before it. `firsts` are the answers to `straddling`.
    pub(crate) fn retire(&mut self, min: LogOffset, firsts: &[(QueueIx, QueueOffset)]) {
        let _ = (min, firsts);
        todo!()
    }
    /// The next piece of the block log: blocks of all tails that changed, with entries that end at or before `synced` only,
    /// and a mark that says so. `None` when nothing changed. One piece is in flight at a time.
    pub(crate) fn checkpoint(&mut self, synced: LogOffset) -> Option<BlockWrite> {
        let _ = synced;
        todo!()
    }
    /// The piece is durable: its blocks join the directory. Returns the position up to which the index is now durable.
    pub(crate) fn checkpointed(&mut self, write: BlockWrite) -> LogOffset {
        let _ = write;
        todo!()
    }
    /// The directory (blocks, next offsets, minima of every queue), for the snapshot; only what is durable.
    pub(crate) fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// The directory of a snapshot; then the blocks behind it (`BlockFile::scan`) are added with `adopt`.
    pub(crate) fn decode(bytes: &[u8], keyed: Keyed) -> Result<Self, String> {
        let _ = (bytes, keyed);
        todo!()
    }
}
