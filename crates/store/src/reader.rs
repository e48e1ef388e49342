//! Reading what is committed, from any thread.

use crate::disk::{Disk, File};
use crate::files::{Files, WINDOW_BYTES, failed, segment_path};
use crate::job::JobError;
use crate::queues::{BlockFile, ColdEntries, Entry, Limits, Picked, search_entries, select};
use bytes::Bytes;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::record::{self, Found, MIN_BYTES};
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::{Timestamp, planted};
use std::path::Path;
use std::sync::Arc;

/// What is to be read; made by [`Store`](crate::Store), which has decided that it may be seen.
#[derive(Clone, Debug)]
pub struct ReadPlan(Plan);

#[derive(Clone, Debug)]
enum Plan {
    /// Records picked in memory.
    Entries { entries: Vec<Entry>, next: QueueOffset },
    /// Records to be picked in a block on disk.
    Cold { cold: ColdEntries, filter: TagFilter, limits: Limits },
    /// One record.
    Record { at: u64 },
    /// An offset, known already.
    Offset(QueueOffset),
    /// An offset to be searched in a block on disk.
    Search { cold: ColdEntries, time: Timestamp, upper: bool },
    /// A store time, known already.
    Time(Timestamp),
    /// Store time of the first entry in a block on disk.
    FirstTime(ColdEntries),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Records, as they lie in the log, in pieces; empty when everything was filtered away.
    Records {
        /// Pieces.
        bytes: Vec<Bytes>,
        /// How many.
        count: u32,
        /// Messages that were passed over, because they were accepted as lost.
        lost: u32,
        /// Offset to go on from.
        next: QueueOffset,
    },
    /// An offset found by time.
    Offset(QueueOffset),
    /// A store time, for GET_EARLIEST_MSG_STORETIME.
    Time(keepmq_world::Timestamp),
}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was there once; retention has taken it.
    #[error("the messages at this place have been removed: the log begins at {min}")]
    Removed {
        /// Where the log begins.
        min: u64,
    },
    /// No record begins there, or it is not committed.
    #[error("can not find message by the offset, {at}")]
    Nothing {
        /// The position.
        at: u64,
    },
    /// The bytes fail their checksum, or a file is not what the log says.
    #[error("{path} is damaged at {at}: {what}")]
    Damaged {
        /// Which file.
        path: String,
        /// Position in the log.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("reading {path} failed: {why}")]
    Io {
        /// Which file.
        path: String,
        /// Its words.
        why: String,
    },
}

/// So many records of a pull in one window: then it is read whole.
const WORTH_A_WINDOW: usize = 4;

/// Reads from the last sealed chunks in memory, else from files; checks every record that comes from a file.
pub struct LogReader<D: Disk> {
    files: Arc<Files<D>>,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self { files: Arc::clone(&self.files) }
    }
}

impl ReadPlan {
    /// One record, by its position in the log (VIEW_MESSAGE_BY_ID). `Served::Records` with one record.
    pub fn record(at: u64) -> Self {
        Self(Plan::Record { at })
    }

    pub(crate) fn picked(picked: Picked, filter: &TagFilter, limits: Limits) -> Self {
        Self(match picked {
            Picked::Entries { entries, next } => Plan::Entries { entries, next },
            Picked::Cold(cold) => Plan::Cold { cold, filter: filter.clone(), limits },
        })
    }

    pub(crate) fn offset(offset: QueueOffset) -> Self {
        Self(Plan::Offset(offset))
    }

    pub(crate) fn search(cold: ColdEntries, time: Timestamp, upper: bool) -> Self {
        Self(Plan::Search { cold, time, upper })
    }

    /// The time of the one entry that was picked.
    pub(crate) fn earliest(picked: Picked) -> Self {
        Self(match picked {
            Picked::Entries { entries, .. } => {
                Plan::Time(entries.first().expect("a queue with messages has a first").stored)
            }
            Picked::Cold(cold) => Plan::FirstTime(cold),
        })
    }
}

/// Whether a read may wait for the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Allowed,
    Never,
}

/// Why a read ended without an answer.
enum Stop {
    /// It would have to wait for the device.
    MustWait,
    Failed(ReadError),
}

impl From<JobError> for Stop {
    fn from(JobError { path, why, .. }: JobError) -> Self {
        Self::Failed(ReadError::Io { path, why })
    }
}

impl<D: Disk> LogReader<D> {
    pub(crate) fn new(files: Arc<Files<D>>) -> Self {
        Self { files }
    }

    /// Reads without waiting for the device; `None` when it would have to wait: then use [`LogReader::serve`] where waiting
    /// is allowed.
    pub fn try_serve(&self, plan: &ReadPlan) -> Option<Result<Served, ReadError>> {
        match self.read(&plan.0, Wait::Never) {
            Ok(served) => Some(Ok(served)),
            Err(Stop::Failed(error)) => Some(Err(error)),
            Err(Stop::MustWait) => None,
        }
    }

    /// Reads.
    pub fn serve(&self, plan: &ReadPlan) -> Result<Served, ReadError> {
        self.read(&plan.0, Wait::Allowed).map_err(|stop| match stop {
            Stop::Failed(error) => error,
            Stop::MustWait => unreachable!("waiting is allowed"),
        })
    }

    fn read(&self, plan: &Plan, wait: Wait) -> Result<Served, Stop> {
        match plan {
            Plan::Entries { entries, next } => self.records(entries, *next, wait),
            Plan::Cold { cold, filter, limits } => {
                let entries = self.block(cold, wait)?;
                let (picked, next) = select(entries.into_iter(), cold.from, filter, *limits);
                self.records(&picked, next, wait)
            }
            Plan::Record { at } => {
                let bytes = self.record(*at, wait)?;
                let next = match record::decode_unchecked(&bytes) {
                    Ok(record) => record.queue_offset.next(),
                    Err(_) => return Err(Stop::Failed(ReadError::Nothing { at: *at })),
                };
                Ok(Served::Records { bytes: vec![bytes], count: 1, lost: 0, next })
            }
            Plan::Offset(offset) => Ok(Served::Offset(*offset)),
            Plan::Search { cold, time, upper } => {
                let entries = self.block(cold, wait)?;
                Ok(Served::Offset(search_entries(&entries, cold.from, *time, *upper)))
            }
            Plan::Time(time) => Ok(Served::Time(*time)),
            Plan::FirstTime(cold) => {
                let entries = self.block(cold, wait)?;
                Ok(Served::Time(entries.first().expect("a block with the entry asked for").stored))
            }
        }
    }

    /// The entries of a block that may be seen, from `cold.from` on.
    fn block(&self, cold: &ColdEntries, wait: Wait) -> Result<Vec<Entry>, Stop> {
        let path = BlockFile::path(cold.block.file);
        let mut bytes = vec![0; BlockFile::bytes_of(&cold.block)];
        fill(&*self.files.file(&path)?, &path, cold.block.at, &mut bytes, wait)?;
        let mut entries = BlockFile::entries(&bytes, &cold.block).map_err(|what| {
            Stop::Failed(ReadError::Damaged { path: path.display().to_string(), at: cold.block.at, what })
        })?;
        let index =
            |offset: QueueOffset| usize::try_from(offset.0.saturating_sub(cold.block.first.0)).unwrap_or(usize::MAX);
        entries.truncate(index(cold.visible));
        entries.drain(..index(cold.from).min(entries.len()));
        Ok(entries)
    }

    /// Records that the queues name, neighbours in one piece.
    fn records(&self, entries: &[Entry], next: QueueOffset, wait: Wait) -> Result<Served, Stop> {
        let min = self.files.min();
        if entries.iter().any(|entry| entry.at.0 < min) {
            return Err(Stop::Failed(ReadError::Removed { min }));
        }
        let is_lost = |entry: &Entry| self.files.losses.find(entry.at.0).is_some();
        let there: Vec<Entry>;
        let all = entries;
        let entries = match entries.iter().any(is_lost) {
            false => entries,
            true => {
                there = entries.iter().copied().filter(|entry| !is_lost(entry)).collect();
                &there
            }
        };
        let mut pieces = Vec::new();
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let chunks = self.files.chunks();
            // An index that is wrong may name what no chunk holds: it is read where it should lie, and told from a record there.
            let chunk = chunks.find(first.at.0).filter(|chunk| first.end().0 <= chunk.end());
            let done = if let Some(chunk) = chunk {
                let count = run(rest, |entry| entry.end().0 <= chunk.end());
                pieces.push(slice(&chunk.bytes, chunk.at, &rest[..count]));
                count
            } else {
                // Chunks are the newest part of the log, and entries go forward: behind one that is cached all are.
                let cached = chunks.first();
                drop(chunks);
                let uncached = rest.partition_point(|entry| entry.at.0 < cached).max(1);
                let whole = pieces.len();
                match self.read_near(&rest[..uncached], &mut pieces, wait) {
                    Err(Stop::Failed(ReadError::Damaged { .. })) if planted!("damaged-record-skipped") => uncached,
                    Err(Stop::Failed(error @ (ReadError::Damaged { .. } | ReadError::Io { .. }))) => {
                        pieces.truncate(whole);
                        return self.before_damage((all, entries, rest), pieces, error, wait);
                    }
                    read => read?,
                }
            };
            rest = &rest[done..];
        }
        let number = |entries: usize| u32::try_from(entries).expect("limits bound a pull");
        let (count, lost) = (number(entries.len()), number(all.len() - entries.len()));
        Ok(Served::Records { bytes: pieces, count, lost, next })
    }

    /// One of the `rest` cannot be read. What stands before it is served, and whoever asks for what follows is told: a damaged
    /// message must not keep the good ones before it from those who pull several at once.
    fn before_damage(
        &self,
        (all, entries, rest): (&[Entry], &[Entry], &[Entry]),
        mut pieces: Vec<Bytes>,
        error: ReadError,
        wait: Wait,
    ) -> Result<Served, Stop> {
        let mut good = entries.len() - rest.len();
        for entry in rest {
            match self.run_from_file(std::slice::from_ref(entry), wait) {
                Ok(record) => pieces.push(record),
                Err(Stop::MustWait) => return Err(Stop::MustWait),
                Err(Stop::Failed(_)) => break,
            }
            good += 1;
        }
        let Some((last, piece)) = good.checked_sub(1).map(|last| entries[last]).zip(pieces.last()) else {
            return Err(Stop::Failed(error));
        };
        let record = record::decode_unchecked(&piece[piece.len() - last.size as usize..]);
        let next = record.map_err(|what| self.damaged(last.at.0, what.to_string()))?.queue_offset.next();
        let number = |entries: usize| u32::try_from(entries).expect("limits bound a pull");
        let before = all.iter().take_while(|entry| entry.at <= last.at).count();
        Ok(Served::Records { bytes: pieces, count: number(good), lost: number(before - good), next })
    }

    /// Reads the first of these records and others that lie near; how many. Each is checked.
    fn read_near(&self, entries: &[Entry], pieces: &mut Vec<Bytes>, wait: Wait) -> Result<usize, Stop> {
        let base = self.files.base(entries[0].at.0);
        let start = entries[0].at.0 - (entries[0].at.0 - base) % WINDOW_BYTES;
        let end = (start + WINDOW_BYTES).min(base + self.files.segment_bytes).min(self.files.commit());
        let inside = entries.iter().take_while(|entry| entry.end().0 <= end).count();
        let mut one_by_one = || {
            let count = run(entries, |entry| self.files.base(entry.at.0) == base);
            pieces.push(self.run_from_file(&entries[..count], wait)?);
            Ok(count)
        };
        if inside < WORTH_A_WINDOW {
            return one_by_one();
        }
        let last = entries[inside - 1].end().0;
        let window = match self.files.window(start).filter(|window| last - start <= window.len() as u64) {
            Some(window) => window,
            None => {
                let len = usize::try_from(end - start).expect("a window is small");
                let mut window = self.files.spare_window();
                window.resize(len, 0);
                match self.fill_segment(start, &mut window, wait) {
                    // A bad place between the records that are wanted is no reason not to give them.
                    Err(Stop::Failed(ReadError::Io { .. })) => return one_by_one(),
                    read => read?,
                }
                let window = Bytes::from(window);
                self.files.remember_window(start, window.clone());
                window
            }
        };
        let mut rest = &entries[..inside];
        while !rest.is_empty() {
            let count = run(rest, |_| true);
            let piece = slice(&window, start, &rest[..count]);
            self.check(&rest[..count], &piece)?;
            pieces.push(piece);
            rest = &rest[count..];
        }
        Ok(inside)
    }

    /// Neighbouring records of one segment, in one read, each checked.
    fn run_from_file(&self, entries: &[Entry], wait: Wait) -> Result<Bytes, Stop> {
        let (first, last) = (entries[0], entries[entries.len() - 1]);
        let len = usize::try_from(last.end().0 - first.at.0).expect("limits bound a pull");
        let bytes = self.segment_bytes(first.at.0, len, wait)?;
        self.check(entries, &bytes)?;
        Ok(bytes.into())
    }

    /// Whether `bytes` are these neighbours.
    fn check(&self, entries: &[Entry], bytes: &[u8]) -> Result<(), Stop> {
        for entry in entries {
            let start = usize::try_from(entry.at.0 - entries[0].at.0).expect("inside the run");
            if let Err(error) = record::verify(&bytes[start..][..entry.size as usize], entry.at)
                && !planted!("damaged-bytes-served")
            {
                return Err(self.damaged(entry.at.0, error.to_string()));
            }
        }
        Ok(())
    }

    /// The record that begins at a position somebody named.
    fn record(&self, at: u64, wait: Wait) -> Result<Bytes, Stop> {
        let (min, commit) = (self.files.min(), self.files.commit());
        let nothing = Stop::Failed(ReadError::Nothing { at });
        if at < min {
            return Err(Stop::Failed(ReadError::Removed { min }));
        }
        let segment_end = self.files.base(at) + self.files.segment_bytes;
        let end = commit.min(segment_end);
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        if left < MIN_BYTES {
            return Err(nothing);
        }
        let cached = self.files.chunks().find(at).map(|chunk| {
            let from = usize::try_from(at - chunk.at).expect("inside a chunk");
            chunk.bytes.slice(from..)
        });
        let bytes = match cached {
            Some(bytes) => bytes.slice(..bytes.len().min(left)),
            None => {
                // Nothing says that a record begins here: its size is believed only as far as the committed log goes.
                let head = self.segment_bytes(at, MIN_BYTES, wait)?;
                let size = head.first_chunk().map_or(0, |size| u32::from_be_bytes(*size)) as usize;
                match record::decode(&head, LogOffset(at)) {
                    Err(record::RecordError::Size { .. }) if (MIN_BYTES..=left).contains(&size) => {
                        self.segment_bytes(at, size, wait)?.into()
                    }
                    _ => head.into(),
                }
            }
        };
        match record::decode(&bytes, LogOffset(at)) {
            Ok(Found::Record(record)) => {
                let len = record.bytes.len();
                Ok(bytes.slice(..len))
            }
            // Right position, wrong checksum: that was a record.
            Err(error @ record::RecordError::Crc { .. }) => Err(self.damaged(at, error.to_string())),
            _ => Err(nothing),
        }
    }

    fn segment_bytes(&self, at: u64, len: usize, wait: Wait) -> Result<Vec<u8>, Stop> {
        // An index that is wrong may name any size: nothing is allocated for what no segment can hold.
        if at - self.files.base(at) + len as u64 > self.files.segment_bytes {
            return Err(self.damaged(at, format!("{len} bytes from there on reach beyond the segment")));
        }
        let mut bytes = vec![0; len];
        self.fill_segment(at, &mut bytes, wait)?;
        Ok(bytes)
    }

    fn fill_segment(&self, at: u64, into: &mut [u8], wait: Wait) -> Result<(), Stop> {
        let base = self.files.base(at);
        let path = segment_path(base);
        let Some(file) = self.files.segment(base) else {
            let min = self.files.min();
            return Err(match at < min {
                true => Stop::Failed(ReadError::Removed { min }),
                false => self.damaged(at, "the file is missing".to_owned()),
            });
        };
        fill(&*file, &path, at - base, into, wait)
    }

    fn damaged(&self, at: u64, what: String) -> Stop {
        let path = segment_path(self.files.base(at)).display().to_string();
        Stop::Failed(ReadError::Damaged { path, at, what })
    }
}

/// How many entries from the first on name records that lie one behind the other and pass.
fn run(entries: &[Entry], passes: impl Fn(&Entry) -> bool) -> usize {
    let neighbours = entries.windows(2).take_while(|pair| pair[0].end() == pair[1].at && passes(&pair[1])).count();
    1 + neighbours
}

/// The bytes of neighbours out of those that begin at position `at`.
fn slice(bytes: &Bytes, at: u64, entries: &[Entry]) -> Bytes {
    let from = usize::try_from(entries[0].at.0 - at).expect("inside the bytes");
    let to = usize::try_from(entries[entries.len() - 1].end().0 - at).expect("inside the bytes");
    bytes.slice(from..to)
}

fn fill<F: File>(file: &F, path: &Path, at: u64, into: &mut [u8], wait: Wait) -> Result<(), Stop> {
    match wait {
        Wait::Allowed => file.read_at(at, into).map_err(failed("read", path))?,
        Wait::Never if file.read_cached_at(at, into).map_err(failed("read", path))? => {}
        Wait::Never => return Err(Stop::MustWait),
    }
    Ok(())
}
