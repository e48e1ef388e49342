//! The end of a log, written past the system's cache.
//!
//! `O_DIRECT | O_DSYNC` makes one call of what is otherwise a copy into the cache, a write-back and a flush: about half the
//! time and half the CPU of a small group commit. The device takes whole blocks only, so the block in which the last write
//! ended is kept, and written again with what comes next, as the cache would do.

use rustix::fs::OFlags;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a device takes as a whole; a multiple of every logical block that is in use.
const BLOCK: usize = 4096;
/// Larger writes go through the cache: there the copy is not what takes the time, and no memory is held for them here.
const MOST: usize = 512 << 10;

/// Blocks on their way to the device. One for all files of a disk: a log has one end.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    memory: Vec<u8>,
    /// Whose last block stands at the front, and where that file's writing ended.
    held: Option<(u64, u64)>,
}

/// The other way to write to a file.
#[derive(Debug)]
pub(crate) struct Direct {
    /// Tells files apart, also those of one name.
    id: u64,
    way: Mutex<Way>,
}

#[derive(Debug)]
enum Way {
    /// Not asked for yet.
    Untried,
    Open(fs::File),
    /// The file system cannot, or nobody wants it.
    Closed,
}

/// Written, or not: then the caller goes the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Durable,
    Nothing,
}

impl Direct {
    /// `wanted`: whether it is to be tried at all.
    pub(crate) fn new(wanted: bool) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let way = if wanted { Way::Untried } else { Way::Closed };
        Self { id: LAST.fetch_add(1, Ordering::Relaxed), way: Mutex::new(way) }
    }

    /// Writes `bytes` at `at` of the file that has this name, durably, if it can be done this way. `file` is the same file,
    /// opened as usual, of `len` bytes.
    pub(crate) fn write(
        &self,
        (path, file, len): (&Path, &fs::File, u64),
        at: u64,
        bytes: &[u8],
        staging: &Mutex<Staging>,
    ) -> io::Result<Done> {
        let end = at + bytes.len() as u64;
        if bytes.len() > MOST || end.next_multiple_of(BLOCK as u64) > len {
            return Ok(Done::Nothing);
        }
        let mut way = lock(&self.way);
        if matches!(*way, Way::Untried) {
            *way = open(path);
        }
        let Way::Open(direct) = &*way else { return Ok(Done::Nothing) };
        let mut staging = lock(staging);
        let blocks = staging.fill((self.id, file), at, bytes)?;
        let begin = at - at % BLOCK as u64;
        match direct.write_at(blocks, begin) {
            Ok(written) if written == blocks.len() => {}
            // A device with larger blocks than any that we know has taken nothing.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                staging.held = None;
                drop(staging);
                *way = Way::Closed;
                return Ok(Done::Nothing);
            }
            Ok(written) => {
                let what = format!("{written} of {} bytes were written", blocks.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, what));
            }
            Err(error) => return Err(error),
        }
        staging.keep_last_block(self.id, at, bytes.len());
        Ok(Done::Durable)
    }
}

fn open(path: &Path) -> Way {
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
    let flags = i32::try_from(flags).expect("flags of the system's own calls");
    // Whatever the reason, the usual way will find it out, or do without.
    fs::OpenOptions::new().write(true).custom_flags(flags).open(path).map_or(Way::Closed, Way::Open)
}

impl Staging {
    /// Blocks that hold `bytes` at their place, behind what stands in the first block already.
    fn fill(&mut self, (id, file): (u64, &fs::File), at: u64, bytes: &[u8]) -> io::Result<&[u8]> {
        let before = usize::try_from(at % BLOCK as u64).expect("less than a block");
        let used = before + bytes.len();
        let len = used.next_multiple_of(BLOCK);
        if self.memory.len() < len + BLOCK {
            // What is held moves with it, to where the new memory's first block begins.
            let mut memory = vec![0; (len + BLOCK).max(64 << 10)];
            let (from, to) = (self.start(), aligned(&memory));
            if !self.memory.is_empty() {
                memory[to..to + BLOCK].copy_from_slice(&self.memory[from..from + BLOCK]);
            }
            self.memory = memory;
        }
        let start = self.start();
        let blocks = &mut self.memory[start..start + len];
        if before > 0 && self.held != Some((id, at)) {
            file.read_exact_at(&mut blocks[..before], at - before as u64)?;
        }
        // Until it is known to be written nothing is held.
        self.held = None;
        blocks[before..used].copy_from_slice(bytes);
        blocks[used..].fill(0);
        Ok(blocks)
    }

    /// Moves the block in which the bytes just written end to the front.
    fn keep_last_block(&mut self, id: u64, at: u64, len: usize) {
        let start = self.start();
        let used = usize::try_from(at % BLOCK as u64).expect("less than a block") + len;
        let last = start + used / BLOCK * BLOCK;
        self.memory.copy_within(last..(start + used), start);
        self.held = Some((id, at + len as u64));
    }

    fn start(&self) -> usize {
        aligned(&self.memory)
    }
}

/// Where the first whole block of this memory begins.
fn aligned(memory: &[u8]) -> usize {
    match memory.as_ptr().align_offset(BLOCK) {
        offset if offset < memory.len() => offset,
        _ => 0,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogIo, OsDisk};
    use keepmq_store::{Disk, File};

    /// Pieces of a log, by their lengths: less than a block, to its end, over several, and more than goes this way.
    const LENGTHS: [usize; 12] = [1, 91, 4004, 4096, 4095, 1, 10_000, 3, MOST, 7, MOST + 1, 4096];

    fn piece(len: usize, nth: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from((at * 31 + nth * 7) % 251 + 1).unwrap()).collect()
    }

    /// Writes the pieces to `names` in turn, and answers what each file must hold.
    fn write(disk: &OsDisk, names: [&str; 2], reopen: bool) -> [Vec<u8>; 2] {
        let mut expected = [Vec::new(), Vec::new()];
        let open = |name: &str| disk.open(Path::new(name)).unwrap();
        let mut files = names.map(open);
        for (nth, len) in LENGTHS.into_iter().enumerate() {
            for (which, name) in names.into_iter().enumerate() {
                if reopen {
                    files[which] = open(name);
                }
                let bytes = piece(len, nth + which);
                files[which].write_durably_at(expected[which].len() as u64, &bytes).unwrap();
                expected[which].extend_from_slice(&bytes);
            }
        }
        expected
    }

    #[test]
    fn a_log_that_goes_past_the_cache_reads_as_one_that_goes_through_it() {
        let folder = tempfile::tempdir().unwrap();
        for (log_io, reopen) in [(LogIo::Direct, false), (LogIo::Direct, true), (LogIo::Buffered, false)] {
            let root = folder.path().join(format!("{log_io:?}{reopen}"));
            let disk = OsDisk::make(&root).unwrap().writing_logs(log_io);
            let names = ["a", "b"];
            const LEN: usize = 2 << 20;
            for name in names {
                disk.create(Path::new(name), LEN as u64).unwrap();
            }
            let expected = write(&disk, names, reopen);
            for (name, mut expected) in names.into_iter().zip(expected) {
                let mut found = vec![1; LEN];
                disk.open(Path::new(name)).unwrap().read_at(0, &mut found).unwrap();
                expected.resize(LEN, 0);
                assert!(found == expected, "{log_io:?}, reopened: {reopen}, file {name}");
            }
        }
    }

    #[test]
    fn what_a_reader_has_seen_of_the_last_block_does_not_hide_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::make(folder.path()).unwrap().writing_logs(LogIo::Direct);
        let file = disk.create(Path::new("f"), 8192).unwrap();
        let reader = disk.open(Path::new("f")).unwrap();
        let mut found = [0; 100];
        for nth in 0..80 {
            file.write_durably_at(nth * 100, &piece(100, 0)).unwrap();
            reader.read_at(nth * 100, &mut found).unwrap();
            assert_eq!(found[..], piece(100, 0), "piece {nth}");
        }
    }

    #[test]
    fn the_last_bytes_of_a_file_that_ends_within_a_block_go_the_usual_way() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::make(folder.path()).unwrap().writing_logs(LogIo::Direct);
        let file = disk.create(Path::new("f"), 5000).unwrap();
        file.write_durably_at(0, &piece(4990, 0)).unwrap();
        file.write_durably_at(4990, &piece(10, 1)).unwrap();
        assert_eq!(file.len().unwrap(), 5000, "no byte was added");
        let mut found = vec![0; 5000];
        file.read_at(0, &mut found).unwrap();
        assert_eq!(found, [piece(4990, 0), piece(10, 1)].concat());
    }
}
