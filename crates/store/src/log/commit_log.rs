use crate::config::{Flush, StoreConfig};
use crate::files::Chunk;
use crate::log::{SegmentAge, UNWRITTEN};
use bytes::Bytes;
use keepmq_protocol::record::{BLANK_BYTES, Draft, MAGIC_BLANK, Place};
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::{Timestamp, planted};
use std::collections::VecDeque;

/// What the open buffer begins with.
const OPEN_BYTES: usize = 256 << 10;
/// Up to here sealing copies the bytes and keeps the buffer: a chunk of one message must not pin 256 KiB.
const COPY_BYTES: usize = 64 << 10;

/// The tail of the log in memory: the open buffer, chunks that wait for a flush, and the marks.
///
/// ```text
///   synced ≤ written ≤ sealed ≤ appended
///   └ on disk ┘      └ chunks ┘└ open ┘
/// ```
#[derive(Debug)]
pub(crate) struct CommitLog {
    segment_bytes: u64,
    buffer_bytes: usize,
    flush: Flush,
    max_unsynced: u64,
    open: Vec<u8>,
    /// Position of the first byte in `open`.
    open_at: u64,
    sealed: Vec<Chunk>,
    /// Records in `sealed` and `open`.
    records: u64,
    /// Bytes in `sealed`, `open` and the flush that is under way.
    waiting: usize,
    flushing: bool,
    /// End of what was handed to flushes.
    handed: u64,
    pub(crate) written: u64,
    pub(crate) synced: u64,
    pub(crate) last_stored: Timestamp,
    pub(crate) reserved: Reserved,
    /// Segments before the last, oldest first.
    pub(crate) closed: VecDeque<SegmentAge>,
}

/// The next segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// It is there, under its preliminary name.
    Ready,
    /// It has been taken, or was never made.
    Missing,
    /// There was no space for it.
    NoSpace(String),
}

/// Who wants room in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Message,
    /// Offsets, topics, groups, ends of queues.
    Metadata,
}

/// When there is no space for the next segment, this part of the last one is left to metadata: consumers that catch up commit
/// offsets, and only then may old segments go.
const META_SHARE: u64 = 16;

/// Why there is no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// So many bytes wait already; so many may.
    Busy { waiting: usize, max: usize },
    /// The next segment is not there yet.
    Reserving,
    /// There was no space for it: what the operating system said.
    Full(String),
}

/// What one flush carries.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) records: u64,
    pub(crate) bytes: usize,
}

impl CommitLog {
    /// A log that ends at `end`, everything before it synced.
    pub(crate) fn new(config: &StoreConfig, end: u64, last_stored: Timestamp) -> Self {
        Self {
            segment_bytes: config.segment_bytes,
            buffer_bytes: config.buffer_bytes,
            flush: config.flush,
            max_unsynced: config.max_unsynced(),
            open: Vec::new(),
            open_at: end,
            sealed: Vec::new(),
            records: 0,
            waiting: 0,
            flushing: false,
            handed: end,
            written: end,
            synced: end,
            last_stored,
            reserved: Reserved::Missing,
            closed: VecDeque::new(),
        }
    }

    pub(crate) fn appended(&self) -> u64 {
        self.open_at + self.open.len() as u64
    }

    pub(crate) fn handed(&self) -> u64 {
        self.handed
    }

    /// End of the segment that the next record goes to, unless it does not fit.
    pub(crate) fn segment_end(&self) -> u64 {
        // A blank leaves the log at the first position of a segment that has it still to come.
        let at = self.appended();
        at - at % self.segment_bytes + self.segment_bytes
    }

    pub(crate) fn commit(&self) -> u64 {
        match self.flush {
            _ if planted!("ack-before-flush") => self.appended(),
            Flush::Async if planted!("ack-from-memory") => self.appended(),
            Flush::Sync => self.synced,
            Flush::Async => self.written,
        }
    }

    /// Most bytes of one record or batch: it must fit into a segment and into the buffers.
    pub(crate) fn max_record(&self) -> usize {
        let segment = usize::try_from(self.segment_bytes).expect("segments are below 2 GiB");
        (segment - BLANK_BYTES).min(self.max_waiting())
    }

    fn max_waiting(&self) -> usize {
        3 * self.buffer_bytes
    }

    /// Makes room for `size` bytes that stay together; whether that took the reserved segment. Nothing changes when there
    /// is none.
    pub(crate) fn room(&mut self, size: usize, purpose: Purpose) -> Result<bool, Short> {
        let busy = |waiting, max| Err(Short::Busy { waiting, max });
        if self.waiting + size > self.max_waiting() {
            return busy(self.waiting, self.max_waiting());
        }
        if self.flush == Flush::Async {
            // What a power cut can take stays bounded also when the disk syncs slower than it writes.
            let unsynced = self.appended() - self.synced;
            let max = self.max_unsynced;
            if unsynced + size as u64 > max {
                return busy(
                    usize::try_from(unsynced).unwrap_or(usize::MAX),
                    usize::try_from(max).unwrap_or(usize::MAX),
                );
            }
        }
        let rest = self.segment_end() - self.appended();
        let rolls = (size + BLANK_BYTES) as u64 > rest;
        let kept = if purpose == Purpose::Message { self.segment_bytes / META_SHARE } else { 0 };
        let ends = rolls || size as u64 + kept > rest;
        match &self.reserved {
            Reserved::Ready if rolls => self.roll(rest),
            Reserved::Missing if ends => return Err(Short::Reserving),
            Reserved::NoSpace(why) if ends => return Err(Short::Full(why.clone())),
            Reserved::Ready | Reserved::Missing | Reserved::NoSpace(_) => {}
        }
        if !self.open.is_empty() && self.open.len() + size > self.buffer_bytes {
            self.seal(None);
        }
        if self.open.capacity() == 0 {
            self.open.reserve(OPEN_BYTES.min(self.buffer_bytes));
        }
        Ok(rolls)
    }

    /// Ends the segment with a blank and goes on in the reserved one.
    fn roll(&mut self, rest: u64) {
        let end = self.segment_end();
        let size = u32::try_from(rest).expect("segments are below 2 GiB");
        self.open.extend_from_slice(&size.to_be_bytes());
        self.open.extend_from_slice(&MAGIC_BLANK.to_be_bytes());
        self.waiting += BLANK_BYTES;
        assert!(self.appended() <= end, "every record leaves room for a blank");
        self.closed.push_back(SegmentAge {
            base: end - self.segment_bytes,
            last_stored: self.last_stored,
            closed: UNWRITTEN,
        });
        self.seal(None);
        self.open_at = end;
        self.reserved = Reserved::Missing;
    }

    /// Appends one record for which there is room.
    pub(crate) fn push(&mut self, draft: &Draft<'_>, queue_offset: QueueOffset, stored: Timestamp) -> LogOffset {
        let at = LogOffset(self.appended());
        let before = self.open.len();
        draft.encode(Place { at, queue_offset, stored }, &mut self.open);
        self.waiting += self.open.len() - before;
        self.records += 1;
        self.last_stored = stored;
        at
    }

    /// The open buffer becomes a chunk. `spare` is memory to go on with.
    fn seal(&mut self, spare: Option<Vec<u8>>) {
        if self.open.is_empty() {
            return;
        }
        let at = self.open_at;
        self.open_at = self.appended();
        let bytes = if self.open.len() <= COPY_BYTES {
            let bytes = Bytes::copy_from_slice(&self.open);
            self.open.clear();
            bytes
        } else {
            Bytes::from(std::mem::replace(&mut self.open, spare.unwrap_or_default()))
        };
        assert!(self.open.is_empty(), "what is in the open buffer was appended: nothing was yet");
        self.sealed.push(Chunk { at, bytes });
    }

    /// Whether something waits and no flush is under way.
    pub(crate) fn wants_flush(&self) -> bool {
        let nothing = self.sealed.is_empty() && self.open.is_empty();
        !(self.flushing || nothing)
    }

    /// Seals what has gathered; a flush of it is under way from here on.
    pub(crate) fn take(&mut self, spare: Option<Vec<u8>>) -> Batch {
        assert!(!self.flushing, "one flush at a time: marks move without gaps");
        self.seal(spare);
        self.flushing = true;
        self.handed = self.open_at;
        let chunks = std::mem::take(&mut self.sealed);
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        Batch { chunks, records: std::mem::take(&mut self.records), bytes }
    }

    /// Segments whose end has been written since the last call were closed at this running time; whether there are any.
    pub(crate) fn note_closed(&mut self, running: u64) -> bool {
        let written = self.written - self.written % self.segment_bytes;
        let mut some = false;
        for age in self.closed.iter_mut().rev().take_while(|age| age.closed == UNWRITTEN) {
            if age.base < written {
                (age.closed, some) = (running, true);
            }
        }
        some
    }

    /// A flush has ended well.
    pub(crate) fn flushed(&mut self, upto: u64, bytes: usize, synced: u64) {
        assert!(self.flushing && upto >= self.written, "flushes end in order: {upto} after {}", self.written);
        self.flushing = false;
        self.waiting -= bytes;
        self.written = upto;
        self.synced(synced);
    }

    /// Everything before `upto` is durable.
    pub(crate) fn synced(&mut self, upto: u64) {
        assert!(upto <= self.written, "what is synced was written: {upto} > {}", self.written);
        self.synced = self.synced.max(upto);
    }

    /// Gives memory back when nothing has been appended for a while.
    pub(crate) fn shrink(&mut self) {
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }
}
