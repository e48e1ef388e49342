use crate::disk::{Disk, File};
use crate::files::{Files, failed, segment_path};
use crate::job::JobError;
use keepmq_protocol::LogOffset;
use keepmq_protocol::record::{self, Found, MAGIC_V1, MAGIC_V2, Record, RecordError};
use keepmq_world::planted;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes read at once by those who go on.
const WINDOW: usize = 1 << 20;
/// First bytes of both magics.
const LEAD: [u8; 3] = [0xDA, 0xA3, 0x20];
/// Bytes of a record up to and with its position.
const UP_TO_POSITION: usize = 36;

/// Reads one segment forward, in large pieces.
pub(crate) struct Scan<F> {
    file: Arc<F>,
    pub(crate) path: PathBuf,
    /// First position of the segment, and the one behind it.
    pub(crate) base: u64,
    pub(crate) end: u64,
    /// No record is longer.
    max_record: usize,
    /// Bytes read at once.
    window: usize,
    buffer: Vec<u8>,
    buffer_at: u64,
    patient: bool,
    /// What the system has refused to read, and counts as zeroes.
    pub(crate) refused: Option<JobError>,
}

/// What a device loses at once, at least.
const PAGE: usize = 4096;

/// What lies behind the first position that holds no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Where a whole record begins that cannot be part of a torn tail.
    pub(crate) far_record: Option<u64>,
    /// Position behind the last byte that is not zero.
    pub(crate) used: u64,
}

impl<F: File> Scan<F> {
    pub(crate) fn new<D: Disk<File = F>>(files: &Files<D>, base: u64, max_record: usize) -> Result<Self, JobError> {
        let file = match files.segment(base) {
            Some(file) => file,
            None => files.open_segment(base)?,
        };
        let end = base + files.segment_bytes;
        let path = segment_path(base);
        let buffer = Vec::new();
        Ok(Self {
            file,
            path,
            base,
            end,
            max_record,
            window: WINDOW,
            buffer,
            buffer_at: base,
            patient: false,
            refused: None,
        })
    }

    /// For going past what the system refuses to read: that reads as zeroes, and stands in `refused`. Whoever decides where a
    /// log ends must look there.
    pub(crate) fn patient<D: Disk<File = F>>(files: &Files<D>, base: u64, max_record: usize) -> Result<Self, JobError> {
        Ok(Self { patient: true, ..Self::new(files, base, max_record)? })
    }

    /// For looking at a little of a segment: so many bytes are read at once, more only for a record that has more.
    pub(crate) fn little<D: Disk<File = F>>(
        files: &Files<D>,
        base: u64,
        max_record: usize,
        window: usize,
    ) -> Result<Self, JobError> {
        Ok(Self { window, ..Self::new(files, base, max_record)? })
    }

    /// The first position in `from..to` where a whole record begins.
    pub(crate) fn next_record(&mut self, from: u64, to: u64) -> Result<Option<u64>, JobError> {
        let want = usize::try_from(to - from).expect("a little") + UP_TO_POSITION;
        let bytes = self.bytes(from, want)?;
        let candidates: Vec<u64> = candidates(&bytes[..bytes.len().min(want)], from).collect();
        for start in candidates.into_iter().filter(|start| *start < to) {
            if matches!(self.item(start)?, Ok(Found::Record(_))) {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    /// For looking at a segment's first record alone.
    pub(crate) fn head<D: Disk<File = F>>(files: &Files<D>, base: u64) -> Result<Self, JobError> {
        Self::little(files, base, usize::MAX, 4096)
    }

    /// Bytes from `at` on: at least `want`, or what is left of the segment.
    fn bytes(&mut self, at: u64, want: usize) -> Result<&[u8], JobError> {
        let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
        let want = want.min(left);
        let have = usize::try_from(at.wrapping_sub(self.buffer_at)).ok().filter(|skip| *skip <= self.buffer.len());
        let skip = match have {
            Some(skip) if self.buffer.len() - skip >= want => skip,
            _ => {
                self.buffer.resize(want.max(self.window).min(left), 0);
                match self.file.read_at(at - self.base, &mut self.buffer) {
                    Err(_) if self.patient => {
                        if let Err(error) = read_what_can_be_read(&*self.file, at - self.base, &mut self.buffer) {
                            self.refused = Some(failed("read", &self.path)(error));
                        }
                    }
                    read => read.map_err(failed("read", &self.path))?,
                }
                self.buffer_at = at;
                0
            }
        };
        Ok(&self.buffer[skip..])
    }

    /// What stands at `at`.
    pub(crate) fn item(&mut self, at: u64) -> Result<Result<Found<'_>, RecordError>, JobError> {
        let max = self.max_record;
        let head = self.bytes(at, 8)?;
        let number =
            |at: usize| head.get(at..).and_then(|head| head.first_chunk()).map_or(0, |n| u32::from_be_bytes(*n));
        // The size is not yet to be trusted: it may ask for no more than the longest record has.
        let size = match number(4) {
            MAGIC_V1 | MAGIC_V2 => (number(0) as usize).min(max),
            _ => 8,
        };
        let bytes = self.bytes(at, size.max(8))?;
        Ok(match record::decode(bytes, LogOffset(at)) {
            Err(RecordError::Crc { .. }) if planted!("torn-record-accepted") => {
                record::decode_unchecked(bytes).map(Found::Record)
            }
            found => found,
        })
    }

    /// What would be a record if its checksum were right; none when its parts do not fit each other, or the place.
    pub(crate) fn claim(&mut self, at: u64) -> Result<Option<Record<'_>>, JobError> {
        let size = self.bytes(at, 4)?.first_chunk().map_or(0, |size| u32::from_be_bytes(*size)) as usize;
        let bytes = self.bytes(at, size.clamp(8, self.max_record.max(8)))?;
        Ok(record::decode_unchecked(bytes).ok().filter(|record| record.at.0 == at))
    }

    /// Looks behind `at`, where no record is, until `quiet` bytes in a row are zero; stops at a whole record at or behind `far`.
    pub(crate) fn behind(&mut self, at: u64, far: u64, quiet: u64) -> Result<Behind, JobError> {
        let mut behind = Behind { far_record: None, used: at };
        let mut from = at;
        while from < self.end && from.saturating_sub(behind.used) < quiet {
            let segment_end = self.end;
            let bytes = self.bytes(from, WINDOW)?;
            let window = &bytes[..bytes.len().min(WINDOW)];
            // Windows overlap by the head of a record, so that none is missed between two.
            let next = match from + window.len() as u64 {
                end if end == segment_end => end,
                end => end - UP_TO_POSITION as u64,
            };
            if let Some(last) = last_used(window) {
                behind.used = from + last as u64 + 1;
                let candidates: Vec<u64> =
                    candidates(window, from).filter(|start| *start > at && *start >= far).collect();
                for start in candidates {
                    if matches!(self.item(start)?, Ok(Found::Record(_))) {
                        behind.far_record = Some(start);
                        return Ok(behind);
                    }
                }
            }
            from = next;
        }
        Ok(behind)
    }

    /// Makes everything from `from` to `to` zero, where it is not.
    pub(crate) fn erase(&mut self, from: u64, to: u64) -> Result<(), JobError> {
        let mut at = from;
        while at < to {
            let bytes = self.bytes(at, WINDOW)?;
            let len = bytes.len().min(WINDOW).min(usize::try_from(to - at).unwrap_or(usize::MAX));
            if bytes[..len].iter().any(|byte| *byte != 0) {
                let zeroes = vec![0; len];
                self.file.write_at(at - self.base, &zeroes).map_err(failed("write", &self.path))?;
                self.buffer.clear();
            }
            at += len as u64;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), JobError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }
}

/// Page by page; what is refused is zero, and the last of the refusals is the answer.
fn read_what_can_be_read<F: File>(file: &F, at: u64, into: &mut [u8]) -> io::Result<()> {
    let (mut done, mut outcome) = (0, Ok(()));
    while done < into.len() {
        let from = at + done as u64;
        let page = PAGE - usize::try_from(from % PAGE as u64).expect("less than a page");
        let piece = &mut into[done..];
        let len = piece.len().min(page);
        if let Err(error) = file.read_at(from, &mut piece[..len]) {
            piece[..len].fill(0);
            outcome = Err(error);
        }
        done += len;
    }
    outcome
}

/// Where in `bytes`, which stand at `from`, a magic and the place's own position say that a record begins.
fn candidates(bytes: &[u8], from: u64) -> impl Iterator<Item = u64> {
    let begins_here = move |start: &usize| {
        let position = bytes.get(start + UP_TO_POSITION - 8..).and_then(|field| field.first_chunk());
        position.is_some_and(|position| u64::from_be_bytes(*position) == from + *start as u64)
    };
    let starts = memchr::memmem::find_iter(bytes, &LEAD).filter_map(|magic| magic.checked_sub(4)).filter(begins_here);
    starts.map(move |start| from + start as u64)
}

/// Where the last byte is that is not zero.
fn last_used(bytes: &[u8]) -> Option<usize> {
    let mut end = bytes.len();
    for block in bytes.rchunks(4096) {
        // A whole block at once: the compiler turns this into wide compares, and nearly every block is zero.
        if block.iter().fold(0, |seen, byte| seen | byte) != 0 {
            return bytes[..end].iter().rposition(|byte| *byte != 0);
        }
        end -= block.len();
    }
    None
}
