//! The directory in the metadata snapshot: what is durable of every queue, as of [`Queues::indexed`].
//!
//! ```text
//!  version: u8 │ file, its end │ indexed │ files × (number, bytes) │ topics × (name, queues × queue)
//!  queue    id │ flags: u8 │ min │ next │ last position │ last stored │ blocks × block
//!  block    file │ at │ first, behind the end of the block before │ count │ position and store time of the first entry,
//!           behind those of the block before
//! ```
//! All numbers but the two bytes are varints; `things × thing` begins with the count. Flag 1: retention has taken messages.

use super::checkpoint::NUMBER_MAX;
use super::consume_queue::{Queue, QueueIx, Slot};
use super::cursor::{Cursor, put_text, put_varint};
use super::table::Queues;
use keepmq_protocol::{LogOffset, Topic};
use keepmq_world::{Keyed, planted};

const VERSION: u8 = 1;
const HAS_LOST: u8 = 1;
/// Fewest bytes of a topic, a queue, a block, a file.
const TOPIC: usize = 2;
const QUEUE: usize = 7;
const BLOCK: usize = 6;
const FILE: usize = 2;

impl Queues {
    /// The directory (blocks, next offsets, minima of every queue), for the snapshot; only what is durable.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let checkpoints = &self.checkpoints;
        // A queue with one block takes some 40 bytes.
        let mut into = Vec::with_capacity(256 + self.queues.len() * 40 + self.topics.len() * 24);
        into.push(VERSION);
        let (file, at) = checkpoints.end;
        put_varint(&mut into, u64::from(file));
        put_varint(&mut into, at);
        put_varint(&mut into, checkpoints.indexed.0);
        put_varint(&mut into, checkpoints.files.live().count() as u64);
        for (file, total) in checkpoints.files.live() {
            put_varint(&mut into, u64::from(file));
            put_varint(&mut into, total);
        }
        put_varint(&mut into, self.topics.len() as u64);
        for (topic, ids) in &self.topics {
            put_text(&mut into, topic.as_str());
            put_varint(&mut into, ids.len() as u64);
            for (_, ix) in ids {
                put_queue(&mut into, self.queue(*ix));
            }
        }
        into
    }

    /// The directory of a snapshot; then the blocks behind it are added with [`Self::adopt`].
    pub(crate) fn decode(bytes: &[u8], keyed: Keyed, store_id: [u8; 16]) -> Result<Self, String> {
        let mut from = Cursor::new(bytes);
        let version = from.u8()?;
        if version != VERSION {
            return Err(format!("the directory of queues has version {version}, this program reads version {VERSION}"));
        }
        let mut queues = Self::new(keyed, store_id);
        let checkpoints = &mut queues.checkpoints;
        checkpoints.end = (from.small()?, from.varint()?);
        checkpoints.indexed = LogOffset(number(&mut from)?);
        for _ in 0..from.count(FILE)? {
            checkpoints.files.set_total(from.small()?, from.varint()?);
        }
        for _ in 0..from.count(TOPIC)? {
            let topic = Topic::new(from.text()?).map_err(|error| error.to_string())?;
            for _ in 0..from.count(QUEUE)? {
                queues.take_queue(&topic, &mut from)?;
            }
        }
        match from.left() {
            0 => Ok(queues),
            left => Err(format!("{left} bytes stand behind the directory of queues")),
        }
    }

    fn take_queue(&mut self, topic: &Topic, from: &mut Cursor<'_>) -> Result<(), String> {
        let id = from.small()?;
        if self.find(topic.as_str(), id).is_some() {
            return Err(format!("queue {id} of topic {topic} stands there twice"));
        }
        let ix: QueueIx = self.add(topic.clone(), id);
        let (queue, files) = (&mut self.queues[ix.0 as usize], &mut self.checkpoints.files);
        queue.has_lost = from.u8()? & HAS_LOST != 0;
        (queue.min, queue.next) = (number(from)?, number(from)?);
        (queue.saved_at, queue.saved_stored) = (number(from)?, number(from)? as i64);
        let count = from.count(BLOCK)?;
        queue.blocks.reserve_exact(count);
        let mut last = Slot::default();
        for _ in 0..count {
            last = Slot {
                file: from.small()?,
                at: from.small()?,
                first: after(last.end(), from)?,
                count: from.small()?,
                position: after(last.position, from)?,
                stored: after(last.stored as u64, from)? as i64,
            };
            files.more(&last, topic.as_str().len());
            queue.blocks.push(last);
        }
        let follow = queue.blocks.windows(2).all(|pair| pair[0].end() == pair[1].first);
        let reach = queue.min == queue.next || queue.blocks.first().is_some_and(|slot| slot.first <= queue.min);
        let end = queue.blocks.last().map_or(queue.next, Slot::end);
        if !follow || !reach || end != queue.next || queue.min > queue.next {
            return Err(format!("the blocks of queue {id} of topic {topic} do not hold {}..{}", queue.min, queue.next));
        }
        if planted!("offsets-restart-after-retention") && queue.blocks.is_empty() {
            (queue.min, queue.next) = (0, 0);
        }
        Ok(())
    }
}

fn put_queue(into: &mut Vec<u8>, queue: &Queue) {
    let next = queue.saved();
    // A deletion without a tombstone may not be durable: replay will find it, if it is.
    let min = if queue.cleared { queue.blocks.first().map_or(next, |slot| slot.first) } else { queue.min.min(next) };
    put_varint(into, u64::from(queue.id));
    into.push(if queue.has_lost { HAS_LOST } else { 0 });
    for number in [min, next, queue.saved_at, queue.saved_stored as u64, queue.blocks.len() as u64] {
        put_varint(into, number);
    }
    let mut last = Slot::default();
    for slot in &queue.blocks {
        put_varint(into, u64::from(slot.file));
        put_varint(into, u64::from(slot.at));
        put_varint(into, slot.first - last.end());
        put_varint(into, u64::from(slot.count));
        put_varint(into, slot.position - last.position);
        put_varint(into, (slot.stored - last.stored) as u64);
        last = *slot;
    }
}

/// A number that an offset, a position or a time can be.
fn number(from: &mut Cursor<'_>) -> Result<u64, String> {
    after(0, from)
}

fn after(last: u64, from: &mut Cursor<'_>) -> Result<u64, String> {
    let step = from.varint()?;
    last.checked_add(step)
        .filter(|number| *number <= NUMBER_MAX)
        .ok_or_else(|| format!("{last} + {step} is no offset, position or time"))
}
