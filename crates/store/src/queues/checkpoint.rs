//! From tails to blocks: what the next piece of the block log holds, and what its durability means.

use super::block_log::{BlockFile, BlockWrite, FILE_HEAD, FULL, Found, Piece, block_bytes};
use super::consume_queue::{Entry, Queue, QueueIx, Slot, WARM};
use super::table::Queues;
use keepmq_protocol::{LogOffset, Topic};
use std::collections::BTreeMap;
use std::mem;

/// Bytes after which a new file is begun.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// What all tails together may hold in memory; beyond it, those that nobody appends to go.
const TAILS_BYTES: usize = 64 * 1024 * 1024;
/// So many times that, and they hold too much.
const TOO_MUCH: usize = 2;
/// Queues that one checkpoint looks at to find cold tails, and as many to find blocks to copy.
const LOOKED_AT: usize = 8192;
/// Bytes that one checkpoint copies out of mostly dead files.
const COPIED_BYTES: usize = 1024 * 1024;
/// A buffer that is kept for the next piece is at most this large.
const BUFFER: usize = 256 * 1024;
/// A file is copied out when less than one in so many of its bytes live.
const MOSTLY_DEAD: u64 = 4;
/// No offset or position comes near it; one that does was never ours.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// The state of saving.
pub(super) struct Checkpoints {
    pub(super) store_id: [u8; 16],
    /// File that is being written, and its end.
    pub(super) end: (u32, u64),
    /// Everything before this position of the log is in durable blocks.
    pub(super) indexed: LogOffset,
    pub(super) files: BlockFiles,
    /// Queues with something to save.
    dirty: Vec<QueueIx>,
    in_flight: Option<InFlight>,
    /// The last piece's, for the next.
    buffer: Vec<u8>,
    /// What all tails hold, by [`Queue::held`]; and what they may.
    held: usize,
    pub(super) may_hold: usize,
    /// A piece begins a new file when the last one has reached this.
    pub(super) file_bytes: u64,
    /// Where the sweep for cold tails goes on.
    hand: usize,
    /// The file that is copied out, and the queue where that goes on.
    copying: Option<(u32, usize)>,
}

/// What becomes true when the piece that is being written is durable.
struct InFlight {
    file: u32,
    end: u64,
    indexed: LogOffset,
    parts: Vec<(QueueIx, Part)>,
    /// The file that its copied blocks are read from.
    copied_from: Option<u32>,
}

enum Part {
    /// The queue begins there.
    Tombstone(u64),
    /// And its last entry.
    Block(Slot, Entry),
    /// An older block now lies elsewhere.
    Copy(Slot),
}

/// Bytes of the block files: all, and those that live.
#[derive(Default)]
pub(crate) struct BlockFiles {
    files: BTreeMap<u32, Space>,
}

#[derive(Default)]
struct Space {
    total: u64,
    live: u64,
}

impl BlockFiles {
    pub(super) fn more(&mut self, slot: &Slot, name: usize) {
        self.files.entry(slot.file).or_default().live += block_bytes(usize::from(slot.count), name) as u64;
    }

    pub(super) fn less(&mut self, slot: &Slot, name: usize) {
        let space = self.files.get_mut(&slot.file).expect("the file of a block is known");
        space.live -= block_bytes(usize::from(slot.count), name) as u64;
    }

    pub(super) fn set_total(&mut self, file: u32, total: u64) {
        self.files.entry(file).or_default().total = total;
    }

    /// Number and bytes of each file that holds a live block.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, u64)> {
        self.files.iter().filter(|(_, space)| space.live > 0).map(|(file, space)| (*file, space.total))
    }

    fn mostly_dead(&self, below: u32) -> Option<u32> {
        let is_dead = |space: &Space| space.live > 0 && space.live * MOSTLY_DEAD < space.total;
        self.files.range(..below).find(|(_, space)| is_dead(space)).map(|(file, _)| *file)
    }
}

impl Checkpoints {
    pub(super) fn new(store_id: [u8; 16]) -> Self {
        Self {
            store_id,
            end: (1, 0),
            indexed: LogOffset(0),
            files: BlockFiles::default(),
            dirty: Vec::new(),
            in_flight: None,
            buffer: Vec::new(),
            held: 0,
            may_hold: TAILS_BYTES,
            file_bytes: FILE_BYTES,
            hand: 0,
            copying: None,
        }
    }

    /// Files stay below this many bytes, and below what they have at most: a store with small segments has small files, too.
    pub(super) fn limit_files(&mut self, bytes: u64) {
        self.file_bytes = bytes.clamp(FILE_HEAD as u64 + 1, FILE_BYTES);
    }

    pub(super) fn dirty(&mut self, ix: QueueIx, queue: &mut Queue) {
        if !queue.dirty {
            queue.dirty = true;
            self.dirty.push(ix);
        }
    }

    /// A message was appended to a queue that held `before`.
    pub(super) fn appended(&mut self, ix: QueueIx, queue: &mut Queue, before: usize) {
        self.held += queue.held() - before;
        self.dirty(ix, queue);
    }

    pub(super) fn hold_too_much(&self) -> bool {
        self.held > TOO_MUCH * self.may_hold
    }

    /// A queue that held `before` has let go of entries.
    pub(super) fn cooled(&mut self, before: usize, queue: &Queue) {
        self.held -= before - queue.held();
    }
}

impl Queues {
    /// The next piece of the block log: blocks of all tails that changed, with entries that end at or before `synced` only,
    /// and a mark that says so. `None` when nothing changed. One piece is in flight at a time. Deletions of topics that were
    /// applied here lie before `synced`.
    pub(crate) fn checkpoint(&mut self, synced: LogOffset) -> Option<BlockWrite> {
        assert!(self.checkpoints.in_flight.is_none(), "one piece of the block log is written at a time");
        assert!(synced >= self.checkpoints.indexed, "what is synced only grows: {synced}");
        let (file, at) = match self.checkpoints.end {
            (file, at) if at >= self.checkpoints.file_bytes => (file + 1, 0),
            end => end,
        };
        let buffer = mem::take(&mut self.checkpoints.buffer);
        let mut piece = Piece::new(file, at, &self.checkpoints.store_id, buffer);
        let mut parts = Vec::new();
        for ix in mem::take(&mut self.checkpoints.dirty) {
            self.queue_mut(ix).dirty = false;
            self.save(ix, synced, &mut piece, &mut parts);
            let queue = &mut self.queues[ix.0 as usize];
            let saved = parts.last().filter(|(of, _)| *of == ix).map_or(queue.saved(), |(_, part)| part.end());
            if saved < queue.next {
                self.checkpoints.dirty(ix, queue);
            }
        }
        if piece.is_empty() {
            self.checkpoints.buffer = piece.bytes;
            return None;
        }
        let copied_from = self.copy_forward(&mut piece, &mut parts);
        let write = piece.mark(synced);
        let end = write.at + write.bytes.len() as u64;
        self.checkpoints.in_flight = Some(InFlight { file, end, indexed: synced, parts, copied_from });
        Some(write)
    }

    /// Adds what is to be said of one queue.
    fn save(&mut self, ix: QueueIx, synced: LogOffset, piece: &mut Piece, parts: &mut Vec<(QueueIx, Part)>) {
        let was_cleared = mem::take(&mut self.queue_mut(ix).cleared);
        let (topic, queue) = (self.topic(ix), self.queue(ix));
        let from = queue.saved().max(queue.min);
        if was_cleared {
            piece.add(topic, queue.id, from, queue.has_lost, [].iter());
            parts.push((ix, Part::Tombstone(from)));
        }
        let to = queue.tail_point(|entry| entry.end() <= synced);
        if to <= from {
            return;
        }
        let mut first = queue.merge_from(from, to);
        while first < to {
            let end = to.min(first + FULL as u64);
            let entries = queue.tail(first, end);
            let at_end = |packed: Option<&_>| Entry::unpack(packed.expect("a block has an entry"));
            let (head, last) = (at_end(entries.clone().next()), at_end(entries.clone().next_back()));
            let at = piece.add(topic, queue.id, first, queue.has_lost, entries);
            let count = u16::try_from(end - first).expect("a block has at most FULL entries");
            let slot = Slot { first, position: head.at.0, stored: head.stored.0, file: piece.file, at, count };
            parts.push((ix, Part::Block(slot, last)));
            first = end;
        }
    }

    /// Moves some live blocks out of a mostly dead file, so that it can go; answers which.
    fn copy_forward(&mut self, piece: &mut Piece, parts: &mut Vec<(QueueIx, Part)>) -> Option<u32> {
        let mostly_dead = || self.checkpoints.files.mostly_dead(piece.file).map(|file| (file, 0));
        let (file, start) = self.checkpoints.copying.or_else(mostly_dead)?;
        let (mut ix, full) = (start, piece.bytes.len() + COPIED_BYTES);
        while ix < self.queues.len().min(start + LOOKED_AT) && piece.bytes.len() < full {
            let of = QueueIx(ix as u32);
            let name = self.name_len(of);
            for from in self.queue(of).blocks.iter().filter(|slot| slot.file == file) {
                let at = piece.copy(from.block(name));
                parts.push((of, Part::Copy(Slot { file: piece.file, at, ..*from })));
            }
            ix += 1;
        }
        self.checkpoints.copying = (ix < self.queues.len()).then_some((file, ix));
        Some(file)
    }

    /// The piece is durable: its blocks join the directory. Returns the position up to which the index is now durable.
    pub(crate) fn checkpointed(&mut self, write: BlockWrite) -> LogOffset {
        let done = self.checkpoints.in_flight.take().expect("a piece that was written was in flight");
        assert!(done.file == write.file && done.indexed == write.indexed, "the piece in flight is the one written");
        self.checkpoints.end = (done.file, done.end);
        self.checkpoints.files.set_total(done.file, done.end);
        self.checkpoints.indexed = done.indexed;
        for (ix, part) in done.parts {
            let name = usize::from(self.name_len(ix));
            let (queue, files) = (&mut self.queues[ix.0 as usize], &mut self.checkpoints.files);
            match part {
                Part::Tombstone(first) => {
                    queue.unsaved = u32::try_from(queue.next - first).expect("unsaved messages are in memory");
                    queue.drop_blocks(first, name, files);
                }
                Part::Block(slot, last) => {
                    queue.place(slot, last, name, files).expect("blocks continue what was saved before");
                }
                Part::Copy(slot) => queue.moved(slot, name, files),
            }
            // What was retired or deleted meanwhile. After a deletion whose tombstone is still to come they stay.
            if !queue.cleared {
                queue.drop_blocks(queue.min, name, files);
            }
            let held = queue.held();
            queue.cool(WARM);
            self.checkpoints.cooled(held, queue);
        }
        self.cool_tails();
        if write.bytes.capacity() <= BUFFER {
            self.checkpoints.buffer = write.bytes;
        }
        self.checkpoints.indexed
    }

    /// Lets go of tails that nobody has appended to since the last round, as long as all together hold too much.
    fn cool_tails(&mut self) {
        for _ in 0..LOOKED_AT.min(self.queues.len()) {
            if self.checkpoints.held <= self.checkpoints.may_hold {
                return;
            }
            let queue = &mut self.queues[self.checkpoints.hand];
            if !mem::take(&mut queue.touched) {
                let held = queue.held();
                queue.cool(0);
                self.checkpoints.cooled(held, queue);
            }
            self.checkpoints.hand = (self.checkpoints.hand + 1) % self.queues.len();
        }
    }

    /// The files that `encode` speaks of now and those that a piece in flight reads, ascending; the one that is being written
    /// is the last. Files with higher numbers came later; whoever recovers from a snapshot taken now needs those, too.
    pub(crate) fn live_files(&self) -> Vec<u32> {
        let live = self.checkpoints.files.live().map(|(file, _)| file);
        let read = self.checkpoints.in_flight.as_ref().and_then(|piece| piece.copied_from);
        let mut files: Vec<u32> = live.chain(read).chain([self.checkpoints.end.0]).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    // ---- recovery -------------------------------------------------------------------------------------------------------

    /// Block files have about this many bytes at most.
    pub(crate) fn limit_files(&mut self, bytes: u64) {
        self.checkpoints.limit_files(bytes);
    }

    /// The block log begins anew, with this file.
    pub(crate) fn begin_blocks(&mut self, file: u32) {
        self.checkpoints.end = (file, 0);
    }

    /// The files that hold blocks which count, and the bytes of each that are known to be whole.
    pub(crate) fn block_totals(&self) -> impl Iterator<Item = (u32, u64)> {
        self.checkpoints.files.live()
    }

    /// File and position where the next piece goes; (1, 0) when nothing was ever written.
    pub(crate) fn block_end(&self) -> (u32, u64) {
        self.checkpoints.end
    }

    /// Everything before this position of the log is in the index; from here on it must be read again.
    pub(crate) fn indexed(&self) -> LogOffset {
        self.checkpoints.indexed
    }

    /// Takes over the whole pieces among `bytes`, the rest of `file` from position `from` on; answers the position behind the
    /// last of them, where the file is to be cut. Called with [`Self::block_end`], then with 0 for each later file in order.
    pub(crate) fn adopt(&mut self, file: u32, from: u64, bytes: &[u8]) -> Result<u64, String> {
        let mut done = 0;
        if from == 0 {
            self.checkpoints.end = (file, 0);
            if !BlockFile::check_head(bytes, file, &self.checkpoints.store_id)? {
                return Ok(0);
            }
            done = FILE_HEAD;
        }
        while let Some(piece) = BlockFile::piece(&bytes[done..], from + done as u64) {
            for found in &piece.blocks {
                self.adopt_block(file, found)?;
            }
            for found in &piece.copies {
                self.adopt_copy(file, found)?;
            }
            if piece.indexed < self.checkpoints.indexed || piece.indexed.0 > NUMBER_MAX {
                return Err(format!(
                    "a piece before {} is indexed up to {} where {} was reached before",
                    piece.end, piece.indexed, self.checkpoints.indexed
                ));
            }
            self.checkpoints.indexed = piece.indexed;
            self.checkpoints.end = (file, piece.end);
            self.checkpoints.files.set_total(file, piece.end);
            done = (piece.end - from) as usize;
        }
        Ok(self.checkpoints.end.1)
    }

    fn adopt_block(&mut self, file: u32, found: &Found<'_>) -> Result<(), String> {
        let Found { topic, queue_id, first, .. } = *found;
        let of_queue = |what: String| format!("block at {} of topic {topic}, queue {queue_id}: {what}", found.at);
        if first > NUMBER_MAX {
            return Err(of_queue(format!("{first} is no offset")));
        }
        let ix = match self.find(topic, queue_id) {
            Some(ix) => ix,
            None => self.add(Topic::new(topic).map_err(|error| of_queue(error.to_string()))?, queue_id),
        };
        let (queue, files) = (&mut self.queues[ix.0 as usize], &mut self.checkpoints.files);
        queue.has_lost |= found.has_lost;
        let Some((slot, last)) = slot_of(file, found).map_err(of_queue)? else {
            return queue.end_at(first, topic.len(), files).map_err(of_queue);
        };
        queue.place(slot, last, topic.len(), files).map_err(of_queue)
    }

    fn adopt_copy(&mut self, file: u32, found: &Found<'_>) -> Result<(), String> {
        if let Some(ix) = self.find(found.topic, found.queue_id)
            && let Some((slot, _)) = slot_of(file, found)?
        {
            self.queues[ix.0 as usize].moved(slot, found.topic.len(), &mut self.checkpoints.files);
        }
        Ok(())
    }
}

/// A block's slot and its last entry; none for a tombstone.
fn slot_of(file: u32, found: &Found<'_>) -> Result<Option<(Slot, Entry)>, String> {
    let Some((head, last)) = found.ends() else { return Ok(None) };
    let at = u32::try_from(found.at).map_err(|_| format!("{} is beyond 4 GiB", found.at))?;
    let (first, count) = (found.first, found.count());
    Ok(Some((Slot { first, position: head.at.0, stored: head.stored.0, file, at, count }, last)))
}

impl Part {
    /// What its queue has saved then.
    fn end(&self) -> u64 {
        match self {
            Self::Tombstone(first) => *first,
            Self::Block(slot, _) | Self::Copy(slot) => slot.end(),
        }
    }
}

#[cfg(test)]
impl Queues {
    pub(crate) fn hold_at_most(&mut self, bytes: usize) {
        self.checkpoints.may_hold = bytes;
    }
}

#[cfg(test)]
impl Checkpoints {
    pub(super) fn held(&self) -> usize {
        self.held
    }
}
