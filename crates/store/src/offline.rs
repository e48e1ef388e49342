//! A store that nobody has open, looked at without changing a byte: for people, for the simulator, and for tests of damage.
//!
//! - [`inspect`]: whose it is, how far it goes, what lies where.
//! - [`verify`]: reads everything, and holds the log, its index and its marks against each other.
//! - [`dump`]: the records, one after the other, past what is damaged.
//!
//! The caller holds the store's lock.

mod verify;
pub use verify::{Finding, Report, Torn, verify};

use crate::checkpoint::{self, Slot};
use crate::config::OpenError;
use crate::disk::{Disk, File};
use crate::files::{Files, LOG_DIR, OWN_DIR, failed, segment_path};
use crate::identity::{self, Identity};
use crate::log::{Extent, OWN_FILE_MAX, Seen, numbered, segments_of, snapshot_path, walk};
use crate::losses::{Loss, Losses};
use crate::meta::Snapshot;
use crate::queues::{BlockFile, Queues};
use crate::scrub::{self, Looked};
use crate::upkeep::JAVA_ABORT;
use keepmq_protocol::LogOffset;
use keepmq_protocol::record::Record;
use keepmq_world::Keyed;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What `info` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Drawn when the store was made, in hexadecimal digits. None: another program's store, without an identity of ours.
    pub store_id: Option<String>,
    /// Its cluster.
    pub cluster: Option<String>,
    /// Its broker.
    pub broker: Option<String>,
    /// Records before this position may be RocketMQ's own.
    pub adopted: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// First positions of the segments.
    pub segments: Vec<u64>,
    /// The log begins here.
    pub log_min: u64,
    /// Everything before this was synced, by the mark.
    pub durable: u64,
    /// How often the mark was written.
    pub marks: u64,
    /// Store time of the last record before the mark, in milliseconds since 1970.
    pub last_stored: i64,
    /// Everything before this is in the durable index.
    pub indexed: u64,
    /// Snapshots, the oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Files of the index: path and bytes.
    pub index_files: Vec<(String, u64)>,
    /// Topics in which something was ever stored, as far as the index goes; our own among them.
    pub topics: usize,
    /// Their queues.
    pub queues: usize,
    /// The last broker that had it ended in order.
    pub clean_stop: bool,
    /// What was given up.
    pub losses: Vec<Loss>,
    /// The last whole round of the scrub.
    pub scrubbed: Option<Looked>,
    /// What is wrong with files that were looked at. `verify` looks at all.
    pub wrong: Vec<String>,
}

/// A snapshot file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Counts up.
    pub generation: u64,
    /// Bytes.
    pub bytes: u64,
    /// Position of the log whose tables they are; none when it cannot be read.
    pub at: Option<u64>,
}

/// What stands in the log.
#[derive(Clone, Debug)]
pub enum Shown<'r> {
    /// A whole record.
    Record(&'r Record<'r>),
    /// No whole record begins at `from`; the next one, or nothing more, at `to`.
    Damaged {
        /// Position.
        from: u64,
        /// Position.
        to: u64,
        /// What is wrong, or that it was accepted as lost.
        why: String,
    },
}

/// What is there, as far as it can be read. What cannot is in `wrong`: path and what is wrong with it.
struct Ground<D: Disk> {
    files: Files<D>,
    identity: Option<Identity>,
    /// Segments of the usual length, and the others with theirs.
    bases: Vec<u64>,
    odd: Vec<(u64, u64)>,
    slot: Option<Slot>,
    /// Oldest first.
    snapshots: Vec<(SnapshotInfo, Option<Snapshot>)>,
    queues: Queues,
    /// By number, with their length.
    blocks: BTreeMap<u32, u64>,
    /// A piece of the index was being written at the end.
    torn_piece: Option<String>,
    clean_stop: bool,
    wrong: Vec<(String, String)>,
}

impl<D: Disk> Ground<D> {
    fn read(disk: D) -> Result<Self, OpenError> {
        // The length of a segment is not known yet; until then nothing asks for it.
        let mut files = Files::new(disk, 1);
        let own = files.list(Path::new(OWN_DIR))?;
        let names = segments_of(&files.list(Path::new(LOG_DIR))?);
        let mut wrong = Vec::new();
        let identity = match files.read_whole(Path::new(identity::PATH), 1 << 20)?.map(|bytes| Identity::decode(&bytes))
        {
            None if names.is_empty() => {
                return Err(OpenError::Foreign {
                    what: format!("there is neither {} nor a segment in {LOG_DIR}/", identity::PATH),
                    todo: "Give the folder that storePathRootDir names".to_owned(),
                });
            }
            None => {
                if let Some(name) = crate::log::own_file(&own) {
                    let what = format!("the file is missing, but {OWN_DIR}/{} is there", name.display());
                    wrong.push((identity::PATH.to_owned(), what));
                }
                None
            }
            Some(Ok(identity)) => Some(identity),
            Some(Err(what)) => {
                wrong.push((identity::PATH.to_owned(), what));
                None
            }
        };
        let mut lens = Vec::new();
        for base in names {
            let path = segment_path(base);
            lens.push((base, files.len_of(&path)?.unwrap_or(0)));
        }
        files.segment_bytes = usual(&lens);
        let is_usual = |(_, len): &(u64, u64)| *len == files.segment_bytes;
        let bases = lens.iter().filter(|file| is_usual(file)).map(|(base, _)| *base).collect();
        let odd = lens.iter().copied().filter(|file| !is_usual(file)).collect();
        let clean_stop = files.len_of(Path::new(JAVA_ABORT))?.is_none();
        let queues = Queues::new(Keyed::new(0), [0; 16]);
        let (slot, snapshots, blocks, torn_piece) = (None, Vec::new(), BTreeMap::new(), None);
        let mut ground =
            Self { files, identity, bases, odd, slot, snapshots, queues, blocks, torn_piece, clean_stop, wrong };
        if let Some(id) = ground.identity.as_ref().map(|identity| identity.store_id) {
            ground.read_own(id, &own)?;
        }
        Ok(ground)
    }

    fn read_own(&mut self, id: [u8; 16], own: &[std::path::PathBuf]) -> Result<(), OpenError> {
        match Losses::read(&self.files, id)? {
            Ok(losses) => self.files.losses = losses,
            Err(what) => self.wrong.push((crate::losses::PATH.to_owned(), what)),
        }
        match self.files.read_whole(Path::new(checkpoint::PATH), 1 << 20)?.map(|bytes| Slot::newest(&bytes, id)) {
            Some(Some(slot)) => self.slot = Some(slot),
            Some(None) => {
                let what = "neither of its two slots is whole and of this store".to_owned();
                self.wrong.push((checkpoint::PATH.to_owned(), what));
            }
            None => self.wrong.push((checkpoint::PATH.to_owned(), "the file is missing".to_owned())),
        }
        let mut generations: Vec<u64> = numbered(own, "meta-").collect();
        generations.sort_unstable();
        self.queues = Queues::new(Keyed::new(0), id);
        for generation in generations {
            let path = snapshot_path(generation);
            let bytes = self.files.read_whole(&path, OWN_FILE_MAX)?.unwrap_or_default();
            let len = bytes.len() as u64;
            let whole = Snapshot::decode(&bytes).and_then(|snapshot| {
                if snapshot.store_id != id {
                    return Err("it belongs to another store".to_owned());
                }
                self.queues = Queues::decode(&snapshot.queues, Keyed::new(0), id)?;
                Ok(snapshot)
            });
            let snapshot = match whole {
                Ok(snapshot) => Some(snapshot),
                Err(what) => {
                    self.wrong.push((path.display().to_string(), what));
                    None
                }
            };
            let at = snapshot.as_ref().map(|snapshot| snapshot.at);
            self.snapshots.push((SnapshotInfo { generation, bytes: len, at }, snapshot));
        }
        self.read_blocks(own)
    }

    /// Completes the index by the pieces behind the snapshot.
    fn read_blocks(&mut self, own: &[std::path::PathBuf]) -> Result<(), OpenError> {
        for number in numbered(own, "queues-").filter_map(|number| u32::try_from(number).ok()) {
            let len = self.files.len_of(&BlockFile::path(number))?.unwrap_or(0);
            self.blocks.insert(number, len);
        }
        let totals: Vec<(u32, u64)> = self.queues.block_totals().collect();
        for (number, known) in totals {
            let path = BlockFile::path(number).display().to_string();
            match self.blocks.get(&number) {
                None => self.wrong.push((path, "the file is missing".to_owned())),
                Some(len) if *len < known => {
                    self.wrong.push((path, format!("it has {len} bytes, the snapshot knows of {known}")));
                }
                Some(_) => {}
            }
        }
        let (first, from) = self.queues.block_end();
        let last = self.blocks.keys().next_back().copied();
        for (number, len) in self.blocks.range(first..).map(|(number, len)| (*number, *len)).collect::<Vec<_>>() {
            let path = BlockFile::path(number);
            let start = if number == first { from } else { 0 };
            let Some(size) = len.checked_sub(start).filter(|size| *size <= OWN_FILE_MAX) else { return Ok(()) };
            let mut bytes = vec![0; usize::try_from(size).expect("limited above")];
            self.files.file(&path)?.read_at(start, &mut bytes).map_err(failed("read", &path))?;
            match self.queues.adopt(number, start, &bytes) {
                Ok(end) if end == len => {}
                Ok(end) if Some(number) == last => {
                    self.torn_piece = Some(format!("{}: {} bytes at its end", path.display(), len - end));
                }
                Ok(end) => {
                    let what = format!("position {end} of {len}: no whole piece, although a later file follows");
                    self.wrong.push((path.display().to_string(), what));
                    return Ok(());
                }
                Err(what) => {
                    self.wrong.push((path.display().to_string(), what));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn log_min(&self) -> u64 {
        self.slot.map_or_else(|| self.bases.first().copied().unwrap_or(0), |slot| slot.log_min)
    }

    /// Everything before this was synced once.
    fn durable(&self) -> u64 {
        let snapshot = self.snapshots.iter().filter_map(|(info, _)| info.at).max().unwrap_or(0);
        self.slot.map_or(0, |slot| slot.durable).max(self.queues.indexed().0).max(snapshot)
    }

    fn log(&self) -> Extent<'_> {
        let last = self.bases.iter().chain(self.odd.iter().map(|(base, _)| base)).max().copied().unwrap_or(0);
        Extent { bases: &self.bases, last, from: self.log_min(), durable: self.durable() }
    }
}

/// The length that most of the files have.
fn usual(files: &[(u64, u64)]) -> u64 {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, len) in files.iter().filter(|(_, len)| *len > 0) {
        *counts.entry(*len).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(1, |(len, _)| len)
}

/// Looks at the store's own files, and at the names of the others.
pub fn inspect<D: Disk>(disk: D) -> Result<Info, OpenError> {
    let ground = Ground::read(disk)?;
    let identity = ground.identity.as_ref();
    let queues = ground.queues.ends().count();
    let slot = ground.slot.unwrap_or_default();
    let mut wrong: Vec<String> = ground.wrong.iter().map(|(path, what)| format!("{path}: {what}")).collect();
    let length = |(base, len): &(u64, u64)| format!("{}: the file has {len} bytes", segment_path(*base).display());
    wrong.extend(ground.odd.iter().map(length));
    Ok(Info {
        store_id: identity.map(|identity| format!("{:032x}", u128::from_be_bytes(identity.store_id))),
        cluster: identity.map(|identity| identity.cluster.clone()),
        broker: identity.map(|identity| identity.broker.clone()),
        adopted: identity.map_or(0, |identity| identity.adopted),
        segment_bytes: ground.files.segment_bytes,
        log_min: ground.log_min(),
        durable: slot.durable,
        marks: slot.sequence,
        last_stored: slot.stored,
        indexed: ground.queues.indexed().0,
        snapshots: ground.snapshots.iter().map(|(info, _)| info.clone()).collect(),
        index_files: ground.blocks.iter().map(|(n, len)| (BlockFile::path(*n).display().to_string(), *len)).collect(),
        topics: ground.queues.topic_count(),
        queues,
        clean_stop: ground.clean_stop,
        losses: ground.files.losses.all().to_vec(),
        scrubbed: scrubbed(&ground)?,
        wrong,
        segments: ground.bases,
    })
}

/// What the file of the scrub says of its last whole round.
fn scrubbed<D: Disk>(ground: &Ground<D>) -> Result<Option<Looked>, OpenError> {
    let file = ground.files.read_whole(Path::new(scrub::PATH), 1 << 20)?.unwrap_or_default();
    Ok(ground.identity.as_ref().and_then(|identity| scrub::last_round(&file, identity.store_id)))
}

/// Shows the records from `from` on, until `see` breaks. Where no record begins at `from`, it goes on with the next.
pub fn dump<D: Disk>(
    disk: D,
    from: LogOffset,
    see: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    let ground = Ground::read(disk)?;
    let from = from.0.max(ground.bases.first().copied().unwrap_or(0));
    walk(&ground.files, Extent { from, ..ground.log() }, |seen| -> Result<_, OpenError> {
        Ok(match seen {
            Seen::Record(record) => see(Shown::Record(record)),
            Seen::Lost(Loss { from, to, .. }) => {
                see(Shown::Damaged { from: *from, to: *to, why: "accepted as lost".to_owned() })
            }
            Seen::Bad(bad) => see(Shown::Damaged { from: bad.at, to: bad.to, why: bad.why.to_string() }),
        })
    })?;
    Ok(())
}
