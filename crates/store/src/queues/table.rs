//! The table of queues: found by name, appended to, made visible, read and retired.

use super::checkpoint::Checkpoints;
use super::consume_queue::{ColdEntries, Entry, Picked, Queue, QueueIx};
use super::{BlockRef, Limits};
use crate::store::QueueView;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::{LogOffset, QueueOffset, Topic};
use keepmq_world::{Keyed, Map, Timestamp, planted};
use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

/// All queues.
pub(crate) struct Queues {
    /// By topic the queue ids in order. A topic stays when it is deleted: its offsets go on.
    pub(super) topics: Map<Topic, Vec<(u32, QueueIx)>>,
    pub(super) queues: Vec<Queue>,
    /// Ends of the messages that wait for commit, in log order.
    unseen: VecDeque<(LogOffset, QueueIx)>,
    /// Queues that `straddling` found emptied, with the offset where each went on then; for `retire`.
    emptied: (LogOffset, Vec<(QueueIx, QueueOffset)>),
    pub(super) checkpoints: Checkpoints,
}

/// Room for messages that wait for commit, kept when there are none.
const UNSEEN: usize = 4096;

impl Queues {
    pub(crate) fn new(keyed: Keyed, store_id: [u8; 16]) -> Self {
        let checkpoints = Checkpoints::new(store_id);
        Self {
            topics: keyed.map(),
            queues: Vec::new(),
            unseen: VecDeque::new(),
            emptied: Default::default(),
            checkpoints,
        }
    }

    pub(crate) fn find(&self, topic: &str, queue_id: u32) -> Option<QueueIx> {
        find_in(self.topics.get(topic)?, queue_id).ok()
    }

    /// The queues of a topic.
    pub(crate) fn of(&self, topic: &str) -> &[(u32, QueueIx)] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// The queue, made when it does not exist. No allocation when it does. The topic's name has been checked.
    pub(crate) fn find_or_add(&mut self, topic: &str, queue_id: u32) -> QueueIx {
        match self.find(topic, queue_id) {
            Some(ix) => ix,
            None => self.add(Topic::new(topic).expect("names are checked before they come here"), queue_id),
        }
    }

    /// A queue that is not there yet.
    pub(super) fn add(&mut self, topic: Topic, queue_id: u32) -> QueueIx {
        let ix = QueueIx(u32::try_from(self.queues.len()).expect("fewer than 2^32 queues"));
        let entry = self.topics.entry(topic);
        let topic = u32::try_from(entry.index()).expect("fewer topics than queues");
        let ids = entry.or_default();
        let place = find_in(ids, queue_id).expect_err("a queue is added once");
        ids.insert(place, (queue_id, ix));
        self.queues.push(Queue::new(topic, queue_id));
        ix
    }

    pub(super) fn topic(&self, ix: QueueIx) -> &Topic {
        let at = self.queue(ix).topic as usize;
        let (topic, _) = self.topics.get_index(at).expect("topics are never removed");
        topic
    }

    pub(super) fn name_len(&self, ix: QueueIx) -> u8 {
        u8::try_from(self.topic(ix).as_str().len()).expect("a topic's name has at most 255 bytes")
    }

    pub(super) fn queue(&self, ix: QueueIx) -> &Queue {
        &self.queues[ix.0 as usize]
    }

    pub(super) fn queue_mut(&mut self, ix: QueueIx) -> &mut Queue {
        &mut self.queues[ix.0 as usize]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = QueueIx> + use<> {
        (0..self.queues.len() as u32).map(QueueIx)
    }

    pub(crate) fn name(&self, ix: QueueIx) -> (&Topic, u32) {
        (self.topic(ix), self.queue(ix).id)
    }

    /// Each queue, and the offset that its next message gets.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&Topic, u32, u64)> {
        self.all().map(|ix| (self.topic(ix), self.queue(ix).id, self.queue(ix).next))
    }

    pub(crate) fn is_empty(&self, ix: QueueIx) -> bool {
        self.queue(ix).is_empty()
    }

    /// The offsets that durable blocks hold, and that were not deleted.
    pub(crate) fn indexed_of(&self, ix: QueueIx) -> Range<u64> {
        let queue = self.queue(ix);
        queue.min.min(queue.saved())..queue.saved()
    }

    /// The durable block that holds this message.
    pub(crate) fn block_of(&self, ix: QueueIx, offset: QueueOffset) -> Option<BlockRef> {
        let indexed = self.indexed_of(ix).contains(&offset.0);
        indexed.then(|| self.queue(ix).block_of(offset.0, self.name_len(ix)))?
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The blocks that hold the records between two positions, and some beside them; in the order in which they lie on disk.
    pub(crate) fn blocks_between(&self, from: LogOffset, to: LogOffset) -> Vec<(QueueIx, BlockRef)> {
        let of_queue = |ix| {
            let name = self.name_len(ix);
            self.queue(ix).blocks_between(from, to).iter().map(move |slot| (ix, slot.block(name)))
        };
        let mut blocks: Vec<_> = self.all().flat_map(of_queue).collect();
        blocks.sort_unstable_by_key(|(_, block)| (block.file, block.at));
        blocks
    }

    /// Offset that the next message gets.
    pub(crate) fn next(&self, ix: QueueIx) -> QueueOffset {
        QueueOffset(self.queue(ix).next)
    }

    /// Adds the next message. Not visible before `advance` has passed its end.
    pub(crate) fn append(&mut self, ix: QueueIx, entry: Entry) {
        let end = entry.end();
        if let Some((last, _)) = self.unseen.back() {
            assert!(end >= *last, "messages come in log order: {end} follows {last}");
        }
        self.unseen.push_back((end, ix));
        let queue = &mut self.queues[ix.0 as usize];
        let held = queue.held();
        queue.push(entry);
        self.checkpoints.appended(ix, queue, held);
    }

    /// Recovery: the queue goes on at `next` (never back). It has no entries, or goes on there anyway.
    pub(crate) fn set_next(&mut self, ix: QueueIx, next: QueueOffset) {
        if next.0 > self.queue(ix).next {
            self.unseen.retain(|(_, waiting)| *waiting != ix);
            let queue = &mut self.queues[ix.0 as usize];
            queue.set_next(next.0);
            self.checkpoints.dirty(ix, queue);
        }
    }

    /// Makes every entry that ends at or before `commit` visible; tells each queue that gained one (it may be told twice).
    pub(crate) fn advance(&mut self, commit: LogOffset, grown: &mut Vec<QueueIx>) {
        while let Some((_, ix)) = self.unseen.pop_front_if(|(end, _)| *end <= commit) {
            self.queues[ix.0 as usize].unseen -= 1;
            if grown.last() != Some(&ix) {
                grown.push(ix);
            }
        }
        if self.unseen.is_empty() && self.unseen.capacity() > 16 * UNSEEN {
            self.unseen.shrink_to(UNSEEN);
        }
    }

    pub(crate) fn view(&self, ix: QueueIx) -> QueueView {
        self.queue(ix).view()
    }

    pub(crate) fn stored_at(&self, ix: QueueIx, offset: QueueOffset) -> Option<Timestamp> {
        self.queue(ix).stored_at(offset.0)
    }

    /// Where the message lies, or the one that its block begins with; of one that is gone, the queue's first. `None`: there
    /// is none yet.
    pub(crate) fn position(&self, ix: QueueIx, offset: QueueOffset) -> Option<LogOffset> {
        self.queue(ix).position(offset.0)
    }

    /// Whether tails hold much more than they may, because no block of them could be written.
    pub(crate) fn hold_too_much(&self) -> bool {
        self.checkpoints.hold_too_much()
    }

    /// What a pull gets. `from` lies in `min..max` of the view.
    pub(crate) fn pick(&self, ix: QueueIx, from: QueueOffset, filter: &TagFilter, limits: Limits) -> Picked {
        self.queue(ix).pick(from, filter, limits, self.name_len(ix))
    }

    /// By store time, among visible messages: the offset (Ok), or the block in which it lies (Err): there
    /// [`search_entries`](super::search_entries) finds it, among the entries from `from` on that are visible.
    ///
    /// The first message stored at or after `time`, the end when there is none; `upper`: the last message stored at or before
    /// it, the first when there is none.
    pub(crate) fn search(&self, ix: QueueIx, time: Timestamp, upper: bool) -> Result<QueueOffset, ColdEntries> {
        self.queue(ix).search(time, upper, self.name_len(ix))
    }

    /// A deleted topic: its queues are empty, their next offsets go on.
    pub(crate) fn clear_topic(&mut self, topic: &str) {
        for (_, ix) in self.topics.get(topic).into_iter().flatten() {
            let queue = &mut self.queues[ix.0 as usize];
            let held = queue.held();
            queue.clear();
            self.checkpoints.cooled(held, queue);
            self.checkpoints.dirty(*ix, queue);
        }
    }

    /// Queues that would lose their last entry if the log began at `min`.
    pub(crate) fn emptied_by(&self, min: LogOffset) -> Vec<QueueIx> {
        self.all().filter(|ix| self.queue(*ix).is_emptied_by(min)).collect()
    }

    /// Blocks that straddle `min`, a position up to which the index is durable: the first readable offset of these queues is
    /// only known after reading the block. In the order in which they lie on disk.
    pub(crate) fn straddling(&mut self, min: LogOffset) -> Vec<(QueueIx, BlockRef)> {
        // They may get messages before `retire`: then their last block would straddle, unasked.
        let emptied = self.emptied_by(min).into_iter();
        self.emptied = (min, emptied.map(|ix| (ix, self.next(ix))).collect());
        let straddling = |ix| Some((ix, self.queue(ix).straddling(min, self.name_len(ix))?));
        let mut blocks: Vec<(QueueIx, BlockRef)> = self.all().filter_map(straddling).collect();
        blocks.sort_unstable_by_key(|(_, block)| (block.file, block.at));
        blocks
    }

    /// The log now begins at `min`: drops what lies before it. `firsts` are the answers to `straddling`, which was asked last
    /// for the same position. Answers the queues that begin later now, and where.
    pub(crate) fn retire(&mut self, min: LogOffset, firsts: &[(QueueIx, QueueOffset)]) -> Vec<(QueueIx, QueueOffset)> {
        let (asked, emptied) = mem::take(&mut self.emptied);
        assert!(asked == min, "what goes was looked at before: {asked}, not {min}");
        if planted!("queue-minimum-stays") {
            return Vec::new();
        }
        let mut moved = Vec::new();
        for (ix, first) in emptied.iter().chain(firsts) {
            let name = usize::from(self.name_len(*ix));
            let queue = &mut self.queues[ix.0 as usize];
            let (held, min) = (queue.held(), queue.min);
            queue.retire(first.0);
            self.checkpoints.cooled(held, queue);
            if !queue.cleared {
                queue.drop_blocks(queue.min, name, &mut self.checkpoints.files);
            }
            if queue.min > min {
                moved.push((*ix, QueueOffset(queue.min)));
            }
        }
        moved
    }
}

/// Where an id stands, or would stand, in a topic's queues. Most topics have all ids from 0 on: then it is its own place.
fn find_in(ids: &[(u32, QueueIx)], id: u32) -> Result<QueueIx, usize> {
    if let Some((found, ix)) = ids.get(id as usize)
        && *found == id
    {
        return Ok(*ix);
    }
    ids.binary_search_by_key(&id, |(id, _)| *id).map(|at| ids[at].1)
}
