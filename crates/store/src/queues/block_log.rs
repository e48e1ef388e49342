//! The block log: one file family `keepmq/queues-<number, 8 digits>` for all queues.
//!
//! A file is a head and then pieces; a piece is the blocks of one checkpoint and a mark behind them. Only what a mark covers
//! counts. Numbers are big-endian.
//!
//! ```text
//!  file     head │ piece │ piece │ …
//!  head     "KMQUEUES" │ version: u8 │ 0: 3 bytes │ number: u32 │ store id: 16 bytes │ crc of the above: u32
//!  piece    block × blocks │ copied block × copies │ mark
//!  block    "KBLK" │ crc of what follows: u32 │ queue id: u32 │ first offset: u64 │ count: u16 │ flags: u8 │ len: u8
//!           │ entry × count, 20 bytes each │ topic, len bytes
//!  mark     "KMRK" │ crc of what follows: u32 │ blocks: u32 │ copies: u32 │ start of the piece: u64 │ indexed: u64
//!           │ crc over the blocks' crc fields, without the copies': u32
//! ```
//! A block takes the place of all blocks of its queue that begin at or behind its first offset. One with count 0 is a
//! *tombstone*: the queue is empty and goes on at `first offset`. Flag 1: retention has taken messages from the queue.
//! A copied block is an older one, as it was, from a file that is to go: it takes the place of its original.

use super::consume_queue::{Entry, Packed};
use super::cursor::Cursor;
use keepmq_protocol::{LogOffset, QueueOffset, Topic};
use std::path::PathBuf;

const FILE_MAGIC: &[u8; 8] = b"KMQUEUES";
const BLOCK_MAGIC: &[u8; 4] = b"KBLK";
const MARK_MAGIC: &[u8; 4] = b"KMRK";
const VERSION: u8 = 1;
/// Bytes before the entries of a block.
const BLOCK_HEAD: usize = 24;
const MARK: usize = 36;
const HAS_LOST: u8 = 1;

/// Bytes of a file's head.
pub(super) const FILE_HEAD: usize = 36;
/// Entries of a full block: 4 KiB.
pub(super) const FULL: usize = 204;

/// Where a block lies and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef {
    pub(crate) file: u32,
    pub(crate) at: u64,
    pub(crate) first: QueueOffset,
    pub(crate) count: u32,
    /// Bytes of the topic's name, which stands behind the entries.
    pub(super) name: u8,
}

/// A live block of a mostly dead file, to be read and put into a piece before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) block: BlockRef,
    /// Where it goes in the piece's bytes.
    pub(super) into: usize,
}

/// Bytes for the end of the block log. When `at` is zero they begin a new file (or one that is empty).
#[derive(Debug)]
pub(crate) struct BlockWrite {
    pub(crate) file: u32,
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    /// Everything before this position of the log is indexed once these bytes are durable.
    pub(crate) indexed: LogOffset,
    pub(super) copies: Vec<Copied>,
}

impl BlockWrite {
    /// Fills in the copied blocks; to be called before the bytes are written. `read` fills the buffer from `block.at` of the
    /// block's file.
    pub(crate) fn read_copies<E: From<String>>(
        &mut self,
        mut read: impl FnMut(&BlockRef, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for copied in &self.copies {
            let into = &mut self.bytes[copied.into..][..BlockFile::bytes_of(&copied.block)];
            read(&copied.block, into)?;
            BlockFile::entries(into, &copied.block)?;
        }
        Ok(())
    }
}

/// One checkpoint's blocks as they are put together.
pub(super) struct Piece {
    pub(super) file: u32,
    /// Where the piece begins in the file; zero: with the file's head.
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
    blocks: u32,
    copies: Vec<Copied>,
    sums: crc32fast::Hasher,
}

impl Piece {
    /// `bytes` are a buffer from before.
    pub(super) fn new(file: u32, at: u64, store_id: &[u8; 16], mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        if at == 0 {
            bytes.extend_from_slice(FILE_MAGIC);
            bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
            bytes.extend_from_slice(&file.to_be_bytes());
            bytes.extend_from_slice(store_id);
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_be_bytes());
        }
        Self { file, at, bytes, blocks: 0, copies: Vec::new(), sums: crc32fast::Hasher::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Adds a block (without entries: a tombstone); answers where it lies in the file.
    pub(super) fn add<'p>(
        &mut self,
        topic: &Topic,
        queue_id: u32,
        first: u64,
        has_lost: bool,
        entries: impl ExactSizeIterator<Item = &'p Packed>,
    ) -> u32 {
        let start = self.bytes.len();
        let name = topic.as_str().as_bytes();
        let count = u16::try_from(entries.len()).expect("a block has at most FULL entries");
        let len = u8::try_from(name.len()).expect("a topic's name has at most 255 bytes");
        self.bytes.extend_from_slice(BLOCK_MAGIC);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&queue_id.to_be_bytes());
        self.bytes.extend_from_slice(&first.to_be_bytes());
        self.bytes.extend_from_slice(&count.to_be_bytes());
        self.bytes.extend_from_slice(&[if has_lost { HAS_LOST } else { 0 }, len]);
        for entry in entries {
            self.bytes.extend_from_slice(entry);
        }
        self.bytes.extend_from_slice(name);
        let crc = crc32fast::hash(&self.bytes[start + 8..]).to_be_bytes();
        self.bytes[start + 4..start + 8].copy_from_slice(&crc);
        self.sums.update(&crc);
        self.blocks += 1;
        self.place(start)
    }

    /// Leaves room for a block that whoever writes the piece copies from its old place; answers where it will lie.
    pub(super) fn copy(&mut self, block: BlockRef) -> u32 {
        let start = self.bytes.len();
        self.bytes.resize(start + BlockFile::bytes_of(&block), 0);
        self.copies.push(Copied { block, into: start });
        self.place(start)
    }

    fn place(&self, start: usize) -> u32 {
        u32::try_from(self.at + start as u64).expect("a block file stays below 4 GiB")
    }

    /// Closes the piece.
    pub(super) fn mark(mut self, indexed: LogOffset) -> BlockWrite {
        let mut mark = [0; MARK];
        mark[..4].copy_from_slice(MARK_MAGIC);
        mark[8..12].copy_from_slice(&self.blocks.to_be_bytes());
        mark[12..16].copy_from_slice(&u32::try_from(self.copies.len()).expect("few copies").to_be_bytes());
        mark[16..24].copy_from_slice(&self.at.to_be_bytes());
        mark[24..32].copy_from_slice(&indexed.0.to_be_bytes());
        mark[32..].copy_from_slice(&self.sums.finalize().to_be_bytes());
        let crc = crc32fast::hash(&mark[8..]);
        mark[4..8].copy_from_slice(&crc.to_be_bytes());
        self.bytes.extend_from_slice(&mark);
        BlockWrite { file: self.file, at: self.at, bytes: self.bytes, indexed, copies: self.copies }
    }
}

/// A block found in a file.
#[derive(Clone, Copy)]
pub(super) struct Found<'b> {
    pub(super) topic: &'b str,
    pub(super) queue_id: u32,
    pub(super) at: u64,
    pub(super) first: u64,
    pub(super) has_lost: bool,
    entries: &'b [Packed],
    crc: u32,
}

impl Found<'_> {
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.entries.len()).expect("the count of a block has 16 bits")
    }

    /// The first and the last entry; none in a tombstone.
    pub(super) fn ends(&self) -> Option<(Entry, Entry)> {
        Some((Entry::unpack(self.entries.first()?), Entry::unpack(self.entries.last()?)))
    }
}

/// A whole piece found in a file.
pub(super) struct FoundPiece<'b> {
    pub(super) blocks: Vec<Found<'b>>,
    pub(super) copies: Vec<Found<'b>>,
    pub(super) indexed: LogOffset,
    /// Position behind its mark.
    pub(super) end: u64,
}

/// Reading block files.
pub(crate) enum BlockFile {}

impl BlockFile {
    /// The file's name, below the store's root.
    pub(crate) fn path(file: u32) -> PathBuf {
        format!("keepmq/queues-{file:08}").into()
    }

    /// Bytes of a block at its position, with head and topic.
    pub(crate) fn bytes_of(block: &BlockRef) -> usize {
        block_bytes(block.count as usize, usize::from(block.name))
    }

    /// The entries of one block; the first has offset `block.first`. The text says what is wrong.
    pub(crate) fn entries(bytes: &[u8], block: &BlockRef) -> Result<Vec<Entry>, String> {
        let found = Self::block(bytes, block.at)?;
        if found.first != block.first.0 || found.entries.len() != block.count as usize {
            return Err(format!(
                "the block at {} holds {} entries from {} where {} from {} were written",
                block.at,
                found.entries.len(),
                found.first,
                block.count,
                block.first
            ));
        }
        let entries: Vec<Entry> = found.entries.iter().map(Entry::unpack).collect();
        // The checksum says that they are as they were written. Readers count on more: that they go forward. Only messages that
        // were given up may share a place.
        let goes_back = |one: &Entry, next: &Entry| next.at < one.end() && (next.at, next.size) != (one.at, one.size);
        match entries.windows(2).position(|pair| goes_back(&pair[0], &pair[1])) {
            None => Ok(entries),
            Some(before) => Err(format!(
                "the block at {} names position {} behind a record that ends at {}",
                block.at,
                entries[before + 1].at,
                entries[before].end()
            )),
        }
    }

    /// Where in the file the piece begins whose mark these bytes end with.
    pub(crate) fn last_piece(bytes: &[u8]) -> Option<u64> {
        let mark = bytes.last_chunk::<MARK>().filter(|mark| mark.starts_with(MARK_MAGIC))?;
        Cursor::new(&mark[16..]).u64().ok()
    }

    /// Whether the file has a head of ours; false when nothing of it was ever written.
    pub(super) fn check_head(bytes: &[u8], file: u32, store_id: &[u8; 16]) -> Result<bool, String> {
        // The head lies in one sector: after a power cut it is there or it is not.
        let Some(head) = bytes.first_chunk::<FILE_HEAD>().filter(|head| **head != [0; FILE_HEAD]) else {
            return Ok(false);
        };
        let (fields, crc) = head.split_at(FILE_HEAD - 4);
        if &fields[..8] != FILE_MAGIC || crc32fast::hash(fields).to_be_bytes() != crc {
            return Err("it does not begin with the head of a block file".to_owned());
        }
        if fields[8] != VERSION {
            return Err(format!("its format has version {}, this program reads version {VERSION}", fields[8]));
        }
        if &fields[16..32] != store_id {
            return Err("it belongs to another store".to_owned());
        }
        if fields[12..16] != file.to_be_bytes() {
            return Err(format!("its head says that it is not file {file}: it was renamed"));
        }
        Ok(true)
    }

    /// The piece that begins at the start of `bytes`, position `at` of its file (behind the head); `None` when there is no
    /// whole one.
    pub(super) fn piece(bytes: &[u8], at: u64) -> Option<FoundPiece<'_>> {
        let (mut blocks, mut done) = (Vec::new(), 0);
        loop {
            let rest = bytes.get(done..)?;
            if rest.starts_with(MARK_MAGIC) {
                return Self::close(blocks, rest, at, at + done as u64);
            }
            let block = Self::block(rest, at + done as u64).ok()?;
            done += block_bytes(block.entries.len(), block.topic.len());
            blocks.push(block);
        }
    }

    fn close<'b>(mut blocks: Vec<Found<'b>>, bytes: &[u8], start: u64, mark_at: u64) -> Option<FoundPiece<'b>> {
        let mark: &[u8; MARK] = bytes.first_chunk()?;
        let mut cursor = Cursor::new(&mark[4..]);
        if cursor.u32().ok()? != crc32fast::hash(&mark[8..]) {
            return None;
        }
        let (count, copies) = (cursor.u32().ok()? as usize, cursor.u32().ok()? as usize);
        let (piece_at, indexed, sum) = (cursor.u64().ok()?, cursor.u64().ok()?, cursor.u32().ok()?);
        // The first piece of a file begins with the head.
        let piece_at = if piece_at == 0 { FILE_HEAD as u64 } else { piece_at };
        if piece_at != start || count.checked_add(copies)? != blocks.len() {
            return None;
        }
        let copies = blocks.split_off(count);
        let mut sums = crc32fast::Hasher::new();
        for block in &blocks {
            sums.update(&block.crc.to_be_bytes());
        }
        let end = mark_at + MARK as u64;
        (sums.finalize() == sum).then_some(FoundPiece { blocks, copies, indexed: LogOffset(indexed), end })
    }

    fn block(bytes: &[u8], at: u64) -> Result<Found<'_>, String> {
        let wrong = |what: String| format!("the block at {at} is damaged: {what}");
        let mut cursor = Cursor::new(bytes);
        if &cursor.array::<4>().map_err(wrong)? != BLOCK_MAGIC {
            return Err(wrong("its magic is not there".to_owned()));
        }
        let crc = cursor.u32().map_err(wrong)?;
        let queue_id = cursor.u32().map_err(wrong)?;
        let first = cursor.u64().map_err(wrong)?;
        let count = cursor.u16().map_err(wrong)?;
        let [flags, len] = cursor.array().map_err(wrong)?;
        let entries = cursor.take(usize::from(count) * Entry::BYTES).map_err(wrong)?;
        let name = cursor.take(usize::from(len)).map_err(wrong)?;
        if crc32fast::hash(&bytes[8..block_bytes(usize::from(count), name.len())]) != crc {
            return Err(wrong("its checksum is wrong".to_owned()));
        }
        let (entries, _) = entries.as_chunks();
        let topic = std::str::from_utf8(name).map_err(|error| wrong(format!("its topic is no text: {error}")))?;
        Ok(Found { topic, queue_id, at, first, has_lost: flags & HAS_LOST != 0, entries, crc })
    }
}

/// Bytes of a block with its head and the topic's name.
pub(super) fn block_bytes(count: usize, name: usize) -> usize {
    BLOCK_HEAD + count * Entry::BYTES + name
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_world::Timestamp;

    #[test]
    fn entries_that_go_back_are_no_block() {
        let entry = |at, size| Entry { at: LogOffset(at), size, tag: 0, stored: Timestamp(1) };
        for (entries, good) in [
            ([entry(100, 50), entry(150, 50)], true),
            ([entry(100, 50), entry(900, 50)], true),
            ([entry(100, 1), entry(100, 1)], true),
            ([entry(100, 50), entry(149, 50)], false),
            ([entry(100, 50), entry(0, 0)], false),
        ] {
            let mut piece = Piece::new(1, 0, &[7; 16], Vec::new());
            let packed = entries.map(|entry| entry.pack());
            let at = piece.add(&Topic::new("T").unwrap(), 0, 5, false, packed.iter());
            let block = BlockRef { file: 1, at: u64::from(at), first: QueueOffset(5), count: 2, name: 1 };
            let read = BlockFile::entries(&piece.bytes[at as usize..], &block);
            assert_eq!(read.is_ok(), good, "{entries:?}: {read:?}");
        }
    }
}
