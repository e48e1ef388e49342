//! Goes through the log without changing it, past what is damaged: for questions about a whole log, where recovery would stop.

use crate::disk::{Disk, File};
use crate::files::Files;
use crate::job::JobError;
use crate::log::scan::Scan;
use crate::losses::{Loss, Losses};
use keepmq_protocol::record::{BLANK_BYTES, Found, Record, RecordError};
use std::ops::ControlFlow;

/// No record is longer, whoever wrote it.
pub(crate) const RECORD_MAX: usize = 128 << 20;

/// So many zeroes behind the durable mark, and nothing was ever written behind them: more than a power cut may take, and what
/// is zeroed ahead, with the buffers that a broker has by default.
const QUIET: u64 = 256 << 20;

/// What stands in the log, one behind the other.
pub(crate) enum Seen<'w> {
    /// A whole record.
    Record(&'w Record<'w>),
    /// What was accepted as lost.
    Lost(&'w Loss),
    /// No whole record.
    Bad(&'w Bad),
}

/// A stretch of one segment in which no whole record is.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    /// Where the record should begin.
    pub(crate) at: u64,
    /// Where the next whole one begins (or what was given up), else where the segment ends; in the last segment behind the last byte that is not zero.
    pub(crate) to: u64,
    /// Something that counts follows in this segment.
    pub(crate) followed: bool,
    /// It lies in the last segment.
    pub(crate) in_last: bool,
    /// First position of the segment.
    pub(crate) base: u64,
    /// What is wrong with the first record in it.
    pub(crate) why: RecordError,
}

impl Bad {
    /// Looks how far it goes, until `quiet` bytes in a row are zero, or to what was given up already.
    pub(crate) fn measure<F: File>(
        scan: &mut Scan<F>,
        losses: &Losses,
        at: u64,
        why: RecordError,
        in_last: bool,
        quiet: u64,
    ) -> Result<Self, JobError> {
        let mut behind = scan.behind(at, at + 1, quiet)?;
        if let Some(lost) = losses.next(at).filter(|lost| *lost < scan.end)
            && behind.far_record.is_none_or(|record| lost < record)
        {
            behind.far_record = Some(lost);
        }
        let to = match behind.far_record {
            Some(next) => next,
            // What goes on behind it needs room for the blank that ends the segment.
            None if in_last => behind.used.min(scan.end - BLANK_BYTES as u64).max(at),
            None => scan.end,
        };
        Ok(Self { at, to, followed: behind.far_record.is_some(), in_last, base: scan.base, why })
    }
}

/// The log, for those who go through it.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'b> {
    /// Segments to be read.
    pub(crate) bases: &'b [u64],
    /// The log's last segment.
    pub(crate) last: u64,
    /// Where reading begins.
    pub(crate) from: u64,
    /// Everything before this was synced once.
    pub(crate) durable: u64,
}

/// Shows what stands in these segments; the position behind the last record.
pub(crate) fn walk<D: Disk, E: From<JobError>>(
    files: &Files<D>,
    log: Extent<'_>,
    mut see: impl FnMut(Seen<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<u64, E> {
    let Extent { bases, last, from, durable } = log;
    let mut end = from;
    for base in bases.iter().copied().filter(|base| base + files.segment_bytes > from) {
        let mut scan = Scan::patient(files, base, RECORD_MAX)?;
        let mut at = base.max(from);
        while at < scan.end {
            let flow = if let Some(loss) = files.losses.find(at) {
                (at, end) = (loss.to, loss.to);
                see(Seen::Lost(loss))?
            } else {
                let why = match scan.item(at)? {
                    Ok(Found::Record(record)) => {
                        let next = at + record.bytes.len() as u64;
                        if see(Seen::Record(&record))?.is_break() {
                            return Ok(at);
                        }
                        (at, end) = (next, next);
                        continue;
                    }
                    Ok(Found::Blank) if base != last => break,
                    Ok(Found::Blank) => RecordError::Nothing,
                    Err(error) => error,
                };
                let quiet = if at < durable || base != last { u64::MAX } else { QUIET };
                let bad = Bad::measure(&mut scan, &files.losses, at, why, base == last, quiet)?;
                if bad.in_last && bad.to == at {
                    return Ok(end);
                }
                at = bad.to;
                let flow = see(Seen::Bad(&bad))?;
                if bad.in_last && !bad.followed {
                    return Ok(end);
                }
                flow
            };
            if flow.is_break() {
                return Ok(end);
            }
        }
    }
    Ok(end)
}
