//! The scrub: reads the log again, all the time, a little at a time, so that bytes that have gone bad are heard of while the
//! sender, a copy or a backup may still have them.
//!
//! ```text
//!   Resting ──interval since the last round began──▶ Reading at … until … ──the end is reached──▶ Resting
//! ```
//! It finds and tells; it mends nothing, and stops nobody: what is damaged is not served by any reader.

use crate::config::Scrubbing;
use crate::disk::{Disk, File};
use crate::files::{Files, segment_path};
use crate::job::JobError;
use crate::log::{RECORD_MAX, Scan};
use crate::losses::Losses;
use crate::note;
use keepmq_protocol::record::{Found, RecordError};
use keepmq_world::Mono;
use std::fmt;
use std::time::Duration;

/// Where it lies: what the scrub has seen so far, replaced whole at the end of each segment and of each round.
///
/// ```text
///  "KMQSCRUB" │ version: u32 = 1 │ store: 16 bytes │ rounds: u64 │ began: u64 │ at: u64 │ records: u64 │ bytes: u64
///  │ damaged: u64 │ records: u64 │ bytes: u64 │ damaged: u64 │ crc32 of the above
/// ```
/// `began` is running time, in milliseconds; `at` is all ones between two rounds. The first three counts are of the round
/// under way, the others of the one before.
pub(crate) const PATH: &str = "keepmq/scrub";
const MAGIC: &[u8; 8] = b"KMQSCRUB";
const VERSION: u32 = 1;

/// Bytes of a piece, unless a record is longer.
const PIECE: usize = 256 << 10;
/// Of these at once: behind the last whole record of a piece a new read begins.
const READ: usize = 64 << 10;
/// Damaged places that one text names.
const NAMED: usize = 4;
const RESTING: u64 = u64::MAX;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Looked {
    /// Whole records.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Places where a record should be and is not what was written.
    pub damaged: u64,
}

impl Looked {
    fn add(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
        self.damaged += more.damaged;
    }
}

/// How far the scrub is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// Rounds that have ended, in all lives of the store.
    pub rounds: u64,
    /// Position of the next byte to look at; `None` between two rounds.
    pub at: Option<u64>,
    /// Of the round under way.
    pub round: Looked,
    /// Of the round before.
    pub last: Looked,
    /// Bytes looked at since the store was opened.
    pub bytes: u64,
}

/// The scrub's state.
#[derive(Debug)]
pub(crate) struct Scrub {
    config: Scrubbing,
    rounds: u64,
    /// Running time at which the round under way, or the last one, began.
    began: u64,
    at: u64,
    /// The end of this round: what was durable when it began, or when the store was opened.
    until: u64,
    /// The last place was damaged, and where the next record begins is not known.
    lost: bool,
    round: Looked,
    last: Looked,
    bytes: u64,
    /// When the next piece may be read.
    next_at: Mono,
    /// The file says less than this.
    pub(crate) unsaved: bool,
}

/// One piece: what is to be read, and then what was found.
pub(crate) struct ScrubPiece {
    from: u64,
    until: u64,
    lost: bool,
    looked: Looked,
    /// The first damaged places, in words.
    named: Vec<String>,
}

/// What the file says of the last whole round; none when there is none, or it cannot be read.
pub(crate) fn last_round(file: &[u8], store_id: [u8; 16]) -> Option<Looked> {
    let [rounds, .., records, bytes, damaged] = numbers(file, store_id)?;
    (rounds > 0).then_some(Looked { records, bytes, damaged })
}

fn numbers(file: &[u8], store_id: [u8; 16]) -> Option<[u64; 9]> {
    note::decode(*MAGIC, VERSION, store_id, file).ok()?.try_into().ok()
}

impl Scrub {
    /// `file` is what `keepmq/scrub` holds; nothing, or nothing that can be read, begins anew.
    pub(crate) fn new(config: Scrubbing, file: &[u8], store_id: [u8; 16], synced: u64, now: Mono) -> Self {
        let [rounds, began, at, r1, b1, d1, r2, b2, d2] =
            numbers(file, store_id).unwrap_or([0, 0, RESTING, 0, 0, 0, 0, 0, 0]);
        Self {
            config,
            rounds,
            began,
            at,
            until: synced,
            lost: false,
            round: Looked { records: r1, bytes: b1, damaged: d1 },
            last: Looked { records: r2, bytes: b2, damaged: d2 },
            bytes: 0,
            next_at: now,
            unsaved: false,
        }
    }

    pub(crate) fn encode(&self, store_id: [u8; 16]) -> Vec<u8> {
        let counts = [self.round, self.last].map(|looked| [looked.records, looked.bytes, looked.damaged]);
        let numbers = [self.rounds, self.began, self.at].into_iter().chain(counts.into_iter().flatten());
        note::encode(*MAGIC, VERSION, store_id, numbers)
    }

    pub(crate) fn state(&self) -> ScrubState {
        let Self { rounds, at, round, last, bytes, .. } = *self;
        ScrubState { rounds, at: (at != RESTING).then_some(at), round, last, bytes }
    }

    /// From now until the next piece is due, at this running time in milliseconds; `None`: never.
    pub(crate) fn due(&self, now: Mono, running: u64) -> Option<Mono> {
        if self.config.bytes_per_second == 0 {
            return None;
        }
        if self.at != RESTING {
            return Some(self.next_at);
        }
        let interval = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let next = if self.rounds == 0 { 0 } else { self.began.saturating_add(interval) };
        Some(now + Duration::from_millis(next.saturating_sub(running)))
    }

    /// The next piece of a log that begins at `min` and is durable up to `synced`, when one is due.
    pub(crate) fn next(&mut self, min: u64, synced: u64, now: Mono, running: u64) -> Option<ScrubPiece> {
        if self.due(now, running)? > now {
            return None;
        }
        if self.at == RESTING {
            (self.began, self.at, self.until, self.lost, self.round) = (running, min, synced, false, Looked::default());
        }
        if self.at < min {
            // Retention was faster; a segment begins with a record.
            (self.at, self.lost) = (min, false);
        }
        if self.at >= self.until {
            (self.rounds, self.last, self.round) = (self.rounds + 1, self.round, Looked::default());
            (self.at, self.unsaved) = (RESTING, true);
            return None;
        }
        let (looked, named) = (Looked::default(), Vec::new());
        Some(ScrubPiece { from: self.at, until: self.until, lost: self.lost, looked, named })
    }

    /// A piece has been read.
    pub(crate) fn read(&mut self, piece: &ScrubPiece, segment_bytes: u64, now: Mono) {
        self.unsaved |= piece.looked.damaged > 0 || piece.from / segment_bytes != self.at / segment_bytes;
        (self.at, self.lost) = (piece.from, piece.lost);
        self.round.add(piece.looked);
        self.bytes += piece.looked.bytes;
        let rate = self.config.bytes_per_second.max(1);
        self.next_at = now + Duration::from_nanos(piece.looked.bytes.saturating_mul(1_000_000_000) / rate);
    }
}

impl fmt::Debug for ScrubPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Looked { records, bytes, damaged } = self.looked;
        write!(f, "scrub {}..{}: {records} records, {bytes} bytes, {damaged} damaged", self.from, self.until)
    }
}

impl ScrubPiece {
    /// Reads and checks; never fails: what cannot be read is damaged.
    pub(crate) fn look<D: Disk>(&mut self, files: &Files<D>) {
        let max_record = usize::try_from(files.segment_bytes).map_or(RECORD_MAX, |segment| segment.min(RECORD_MAX));
        let base = files.base(self.from);
        let segment_end = base + files.segment_bytes;
        let end = (self.from + PIECE as u64).min(segment_end);
        let began = self.from;
        let outcome =
            Scan::little(files, base, max_record, READ).and_then(|mut scan| self.walk(&mut scan, &files.losses, end));
        if let Err(error) = outcome {
            // The device's error, most likely of one sector: go on behind the piece.
            self.damaged(base, &error.to_string());
            (self.from, self.lost) = (end, end < segment_end);
        }
        self.looked.bytes += self.from - began;
    }

    /// Looks at records up to `end`, where the first one behind it begins, or at the end of the segment.
    fn walk<F: File>(&mut self, scan: &mut Scan<F>, losses: &Losses, end: u64) -> Result<(), JobError> {
        while self.from < end && self.from < self.until {
            if let Some(loss) = losses.find(self.from) {
                // Somebody knows, and has accepted it.
                (self.from, self.lost) = (loss.to, false);
                continue;
            }
            if self.lost {
                match scan.next_record(self.from, end)? {
                    Some(at) => (self.from, self.lost) = (at, false),
                    None => {
                        (self.from, self.lost) = (end, end < scan.end);
                        return Ok(());
                    }
                }
            }
            match scan.item(self.from)? {
                Ok(Found::Record(record)) => {
                    let next = self.from + record.bytes.len() as u64;
                    self.looked.records += 1;
                    self.from = next;
                }
                Ok(Found::Blank) => {
                    self.from = scan.end;
                    return Ok(());
                }
                Err(error) => self.wrong(scan, &error),
            }
        }
        Ok(())
    }

    /// There should be a record, and there is none that is whole.
    fn wrong<F: File>(&mut self, scan: &Scan<F>, error: &RecordError) {
        self.damaged(scan.base, &error.to_string());
        (self.from, self.lost) = (self.from + 1, true);
    }

    fn damaged(&mut self, base: u64, what: &str) {
        self.looked.damaged += 1;
        if self.named.len() < NAMED {
            let (path, at) = (segment_path(base), self.from);
            self.named.push(format!("{} at position {at}, byte {} of the file: {what}", path.display(), at - base));
        }
    }

    /// What an operator must know; `None` when all is well.
    pub(crate) fn notice(&self) -> Option<String> {
        let damaged = self.looked.damaged;
        (damaged > 0).then(|| {
            format!(
                "the scrub has found {damaged} damaged places: {}{}. These messages are not served; everything else is. Look \
                 after the disk, copy the store, and see whether the senders or a backup still have them",
                self.named.join("; "),
                if damaged > self.named.len() as u64 { "; …" } else { "" }
            )
        })
    }
}
