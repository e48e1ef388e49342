use crate::checkpoint::{self, Slot};
use crate::config::{Flush, OpenError, Recovered, StoreConfig};
use crate::disk::{Disk, File};
use crate::files::{Files, LOG_DIR, NEXT, OWN_DIR, failed, segment_path};
use crate::identity::{self, Identity};
use crate::job::first_at_or_behind;
use crate::log::scan::Scan;
use crate::log::{CommitLog, Reserved, SegmentAge};
use crate::meta::{MetaRecord, Snapshot};
use crate::queues::{BlockFile, Entry, Queues};
use keepmq_protocol::message::{self, property, sys_flag};
use keepmq_protocol::record::{CRC_BYTES, Found, Record, RecordError};
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset, Topic};
use keepmq_world::{Keyed, Timestamp};
use crate::upkeep::JAVA_ABORT;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// What `Store::open` found on disk, and made whole.
pub(crate) struct Restored<D: Disk> {
    pub(crate) files: Files<D>,
    pub(crate) identity: Identity,
    /// The slot that was written last.
    pub(crate) slot: Slot,
    pub(crate) queues: Queues,
    pub(crate) log: CommitLog,
    /// Snapshots on disk, oldest first: generation and position.
    pub(crate) snapshots: VecDeque<(u64, u64)>,
    /// Where in the metadata queue the records behind the snapshot begin.
    pub(crate) meta_from: QueueOffset,
    /// Bytes of metadata records behind the newest snapshot, about.
    pub(crate) meta_bytes: u64,
    pub(crate) block_files: Vec<u32>,
    pub(crate) recovered: Recovered,
}

/// What a metadata record has, about: how much lies behind a snapshot needs no exact answer.
const META_RECORD_BYTES: u64 = 256;
/// Largest file of metadata that is believed.
const OWN_FILE_MAX: u64 = 4 << 30;

/// Opens or creates everything below the store's root.
///
/// Each step leaves a state that the next attempt understands, whatever the power cut left of it: the identity comes first,
/// then the first segment, then the checkpoint. A store with a checkpoint has had a log.
pub(crate) fn restore<D: Disk>(disk: D, config: &StoreConfig) -> Result<Restored<D>, OpenError> {
    check(config)?;
    let files = Files::new(disk, config.segment_bytes);
    let own = files.list(Path::new(OWN_DIR))?;
    let mut bases = segments_of(&files.list(Path::new(LOG_DIR))?);
    let mut identity = whose(&files, config, &own, &bases)?;
    let known = checkpoint_of(&files, &identity)?;
    let mut snapshots = snapshots_of(&own);
    let mut recovered = Recovered { created: known.is_none() && bases.is_empty(), ..Recovered::default() };

    clean(&files, &own)?;
    if bases.is_empty() {
        if known.is_some() || !snapshots.is_empty() {
            return Err(OpenError::Damaged {
                path: LOG_DIR.to_owned(),
                what: "the store's identity is here, but its log is missing".to_owned(),
                todo: "Mount the volume that holds the log, or correct storePathRootDir; nothing was changed".to_owned(),
            });
        }
        make_first_segment(&files)?;
        bases.push(0);
    }
    let slot = known.unwrap_or_default();
    check_segments(&files, config, &mut bases, known.map(|slot| slot.log_min))?;
    let log_min = bases[0];
    files.set_min(log_min);

    let keyed = Keyed::new(config.seed);
    let (snapshot, queues) = load_snapshot(&files, &identity, keyed, &mut snapshots)?;
    if snapshot.is_none() && log_min > 0 && !config.adopt {
        return Err(OpenError::Damaged {
            path: OWN_DIR.to_owned(),
            what: format!("there is no metadata snapshot, and the log begins at {log_min}: what stood before is lost"),
            todo: "Restore the folder from a copy, or set adopt=true to go on with what the log still holds".to_owned(),
        });
    }
    let mut rebuild = Rebuild {
        config,
        queues,
        adopted: identity.adopted,
        first_seen: snapshot.is_none() && log_min > 0,
        held: Vec::new(),
        last_stored: Timestamp(slot.stored),
        scanned: 0,
    };
    let block_files = adopt_blocks(&files, &mut rebuild.queues)?;
    begin_at(&files, &mut rebuild.queues, log_min)?;

    let indexed = rebuild.queues.indexed().0.max(log_min);
    // The index never names what was not synced, so it says as much as the mark does.
    let durable = slot.durable.max(indexed);
    let snapshot_at = snapshot.as_ref().map_or(0, |snapshot| snapshot.at);
    let (end, cut) = rebuild.scan(&files, &bases, indexed, durable)?;
    if end < snapshot_at || end < durable {
        return Err(damaged(
            &segment_path(files.base(end)),
            format!("the log ends at {end}, but everything before {} was durable", durable.max(snapshot_at)),
        ));
    }
    if identity.adopted == u64::MAX {
        identity.adopted = end;
        files.replace(Path::new(identity::PATH), &identity.encode())?;
    }

    let Rebuild { mut queues, last_stored, scanned, .. } = rebuild;
    queues.advance(LogOffset(end), &mut Vec::new());
    let closed = ages(&files, &bases, last_stored)?;
    let slot = Slot {
        sequence: slot.sequence + 1,
        durable: end,
        log_min,
        zeroed: slot.zeroed.max(end),
        stored: last_stored.0,
    };
    write_checkpoint(&files, &identity, slot)?;
    let mut log = CommitLog::new(config, end, last_stored);
    log.closed = closed;
    log.reserved = reserve(&files)?;
    files.set_commit(end);

    let (meta_from, tables) = match snapshot {
        Some(snapshot) => split_tables(&snapshot)?,
        None => (QueueOffset(0), Vec::new()),
    };
    let meta_records = queues.find(META_TOPIC, 0).map_or(0, |ix| queues.next(ix).0.saturating_sub(meta_from.0));
    // RocketMQ looks for it: until it is gone the last stop was none.
    files.create(Path::new(JAVA_ABORT), 0)?;
    recovered.end = LogOffset(end);
    recovered.scanned = scanned;
    recovered.cut = cut;
    recovered.tables = tables;
    Ok(Restored {
        files,
        identity,
        slot,
        queues,
        log,
        snapshots,
        meta_from,
        meta_bytes: meta_records * META_RECORD_BYTES,
        block_files,
        recovered,
    })
}

fn check(config: &StoreConfig) -> Result<(), OpenError> {
    if !(64 << 10..=i32::MAX as u64).contains(&config.segment_bytes) {
        return Err(OpenError::Config(format!(
            "mappedFileSizeCommitLog is {}: it must lie between 65536 and 2147483647",
            config.segment_bytes
        )));
    }
    if config.buffer_bytes < 4096 {
        return Err(OpenError::Config(format!("the write buffer has {} bytes: at least 4096", config.buffer_bytes)));
    }
    Ok(())
}

fn damaged(path: &Path, what: String) -> OpenError {
    OpenError::Damaged {
        path: path.display().to_string(),
        what,
        todo: "Nothing was changed. Look at it with `keepmq store verify`, restore the file from a copy, or open a copy of \
               the store"
            .to_owned(),
    }
}

// ---- what is there -----------------------------------------------------------------------------------------------------

fn segments_of(names: &[PathBuf]) -> Vec<u64> {
    // Names of another form (`lost+found`) are not ours to judge.
    let base = |name: &PathBuf| {
        let name = name.to_str()?;
        (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok())?
    };
    let mut bases: Vec<u64> = names.iter().filter_map(base).collect();
    bases.sort_unstable();
    bases
}

fn numbered<'n>(names: &'n [PathBuf], prefix: &'static str) -> impl Iterator<Item = u64> + 'n {
    names.iter().filter_map(move |name| {
        let digits = name.to_str()?.strip_prefix(prefix)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    })
}

/// Generations of snapshot files, oldest first; their positions are not known yet.
fn snapshots_of(own: &[PathBuf]) -> VecDeque<(u64, u64)> {
    let mut generations: Vec<u64> = numbered(own, "meta-").collect();
    generations.sort_unstable();
    generations.into_iter().map(|generation| (generation, 0)).collect()
}

/// Where the snapshot of a generation lies.
pub(crate) fn snapshot_path(generation: u64) -> PathBuf {
    PathBuf::from(format!("{OWN_DIR}/meta-{generation:020}"))
}

/// Reads the store's identity, or makes it when nothing is there yet.
fn whose<D: Disk>(
    files: &Files<D>,
    config: &StoreConfig,
    own: &[PathBuf],
    bases: &[u64],
) -> Result<Identity, OpenError> {
    let path = Path::new(identity::PATH);
    if let Some(bytes) = files.read_whole(path, 1 << 20)? {
        let identity = Identity::decode(&bytes).map_err(|what| damaged(path, what))?;
        if identity.cluster != config.cluster || identity.broker != config.broker {
            return Err(OpenError::Foreign {
                what: format!(
                    "the store belongs to broker {} of cluster {}; this is broker {} of cluster {}",
                    identity.broker, identity.cluster, config.broker, config.cluster
                ),
                todo: "Correct brokerName, brokerClusterName or storePathRootDir".to_owned(),
            });
        }
        return Ok(identity);
    }
    let is_ours = |name: &PathBuf| {
        let name = name.to_string_lossy();
        name == "checkpoint" || name.starts_with("meta-") || name.starts_with("queues-")
    };
    if let Some(name) = own.iter().find(|name| is_ours(name) && name.extension().is_none()) {
        return Err(damaged(path, format!("the file is missing, but {OWN_DIR}/{} is there", name.display())));
    }
    if !bases.is_empty() && !config.adopt {
        return Err(OpenError::Foreign {
            what: format!("{LOG_DIR} holds a log that this program has not written"),
            todo: "Set adopt=true to take it over, after RocketMQ has been stopped for good; or choose another \
                   storePathRootDir"
                .to_owned(),
        });
    }
    let identity = Identity {
        store_id: config.new_id,
        cluster: config.cluster.clone(),
        broker: config.broker.clone(),
        adopted: if bases.is_empty() { 0 } else { u64::MAX },
    };
    files.create_dir(Path::new(OWN_DIR))?;
    files.sync_dir(Path::new(""))?;
    files.replace(path, &identity.encode())?;
    Ok(identity)
}

fn checkpoint_of<D: Disk>(files: &Files<D>, identity: &Identity) -> Result<Option<Slot>, OpenError> {
    let path = Path::new(checkpoint::PATH);
    let Some(bytes) = files.read_whole(path, 1 << 20)? else { return Ok(None) };
    match Slot::newest(&bytes, identity.store_id) {
        Some(slot) => Ok(Some(slot)),
        None => Err(damaged(path, "neither of its two slots is whole and of this store".to_owned())),
    }
}

/// Removes what an interrupted attempt left under a preliminary name.
fn clean<D: Disk>(files: &Files<D>, own: &[PathBuf]) -> Result<(), OpenError> {
    let left = |name: &&PathBuf| name.extension().is_some_and(|extension| extension == "tmp");
    for name in own.iter().filter(left) {
        files.remove(&Path::new(OWN_DIR).join(name))?;
    }
    // It may be the last segment under its first name, if a power cut kept both: never use it again.
    if own.iter().any(|name| name.as_os_str() == "next") {
        files.remove(Path::new(NEXT))?;
        files.sync_dir(Path::new(OWN_DIR))?;
    }
    Ok(())
}

// ---- segments ----------------------------------------------------------------------------------------------------------

fn make_first_segment<D: Disk>(files: &Files<D>) -> Result<(), OpenError> {
    files.create_dir(Path::new(LOG_DIR))?;
    files.sync_dir(Path::new(""))?;
    let path = Path::new(NEXT);
    let file = files.create(path, files.segment_bytes)?;
    file.sync_data().map_err(failed("sync", path))?;
    files.rename(path, &segment_path(0))?;
    files.sync_dir(Path::new(LOG_DIR))?;
    files.sync_dir(Path::new(OWN_DIR))?;
    Ok(())
}

/// Reserves the next segment under its preliminary name.
fn reserve<D: Disk>(files: &Files<D>) -> Result<Reserved, OpenError> {
    let path = Path::new(NEXT);
    match files.create(path, files.segment_bytes) {
        Err(error) if error.no_space => return Ok(Reserved::NoSpace(error.to_string())),
        file => file?.sync_data().map_err(failed("sync", path))?,
    }
    files.sync_dir(Path::new(OWN_DIR))?;
    Ok(Reserved::Ready)
}

/// The segments follow each other without a gap, have their length, and begin where the log begins.
fn check_segments<D: Disk>(
    files: &Files<D>,
    config: &StoreConfig,
    bases: &mut Vec<u64>,
    log_min: Option<u64>,
) -> Result<(), OpenError> {
    let size = config.segment_bytes;
    // Their removal was decided; the power failed before their names were gone.
    let retired = bases.partition_point(|base| Some(*base) < log_min);
    if let Some(min) = log_min
        && bases.get(retired) != Some(&min)
    {
        return Err(damaged(&segment_path(min), format!("the file is missing: the log begins at {min}")));
    }
    for base in bases.drain(..retired) {
        files.remove(&segment_path(base))?;
    }
    if retired > 0 {
        files.sync_dir(Path::new(LOG_DIR))?;
    }
    for (index, base) in bases.iter().enumerate() {
        let path = segment_path(*base);
        let len = files.open_segment(*base)?.len().map_err(failed("read", &path))?;
        if len != size {
            if index == 0 && len > 0 && bases.get(1).is_none_or(|next| next - base == len) {
                return Err(OpenError::Config(format!(
                    "the segments of this store have {len} bytes, mappedFileSizeCommitLog says {size}: set it to {len}"
                )));
            }
            return Err(damaged(&path, format!("the file has {len} bytes, a segment has {size}")));
        }
        let expected = bases[0] + index as u64 * size;
        if *base != expected {
            return Err(damaged(&segment_path(expected), format!("the file is missing: the log goes on at {base}")));
        }
        if base % size != 0 {
            return Err(damaged(&path, format!("its name is no multiple of a segment's {size} bytes")));
        }
    }
    Ok(())
}

/// When the last record of each closed segment was stored, at most: no later than the first of the next.
fn ages<D: Disk>(files: &Files<D>, bases: &[u64], last: Timestamp) -> Result<VecDeque<SegmentAge>, OpenError> {
    let mut closed = VecDeque::new();
    for pair in bases.windows(2) {
        let mut scan = Scan::new(files, pair[1], usize::MAX)?;
        let last_stored = match scan.item(pair[1])? {
            Ok(Found::Record(record)) => record.stored,
            Ok(Found::Blank) | Err(RecordError::Nothing) => last,
            Err(error) => return Err(damaged(&scan.path, format!("position {}: {error}", pair[1]))),
        };
        closed.push_back(SegmentAge { base: pair[0], last_stored });
    }
    Ok(closed)
}

fn write_checkpoint<D: Disk>(files: &Files<D>, identity: &Identity, slot: Slot) -> Result<(), OpenError> {
    let path = Path::new(checkpoint::PATH);
    let bytes = slot.encode(identity.store_id);
    match files.file(path) {
        Ok(file) => {
            file.write_at(slot.place(), &bytes).map_err(failed("write", path))?;
            file.sync_data().map_err(failed("sync", path))?;
        }
        Err(_) => {
            let mut whole = [0; checkpoint::BYTES];
            let at = usize::try_from(slot.place()).expect("one of two slots");
            whole[at..at + checkpoint::SLOT_BYTES].copy_from_slice(&bytes);
            files.replace(path, &whole)?;
        }
    }
    Ok(())
}

// ---- snapshot and index ------------------------------------------------------------------------------------------------

/// The newest snapshot that can be read, with its queues.
fn load_snapshot<D: Disk>(
    files: &Files<D>,
    identity: &Identity,
    keyed: Keyed,
    snapshots: &mut VecDeque<(u64, u64)>,
) -> Result<(Option<Snapshot>, Queues), OpenError> {
    let mut wrong = Vec::new();
    let mut loaded: Option<(Snapshot, Queues)> = None;
    let mut good = VecDeque::new();
    for (generation, _) in snapshots.iter().rev() {
        let path = snapshot_path(*generation);
        let Some(bytes) = files.read_whole(&path, OWN_FILE_MAX)? else { continue };
        let snapshot = match Snapshot::decode(&bytes) {
            Ok(snapshot) if snapshot.store_id != identity.store_id => {
                wrong.push(format!("{} belongs to another store", path.display()));
                continue;
            }
            Ok(snapshot) => snapshot,
            Err(what) => {
                wrong.push(format!("{}: {what}", path.display()));
                continue;
            }
        };
        good.push_front((*generation, snapshot.at));
        if loaded.is_none() {
            let queues = Queues::decode(&snapshot.queues, keyed, identity.store_id);
            loaded = Some((snapshot, queues.map_err(|what| damaged(&path, what))?));
        }
    }
    if loaded.is_none() && !wrong.is_empty() {
        return Err(damaged(Path::new(OWN_DIR), format!("no metadata snapshot can be read: {}", wrong.join("; "))));
    }
    // A damaged file keeps its generation taken, so that the next one is newer than it.
    if let (Some((newest, _)), Some((last, at))) = (snapshots.back(), good.back_mut()) {
        if newest > last {
            let at = *at;
            good.push_back((*newest, at));
        }
    }
    *snapshots = good;
    Ok(match loaded {
        Some((snapshot, queues)) => (Some(snapshot), queues),
        None => (None, Queues::new(keyed, identity.store_id)),
    })
}

/// The broker's tables with, before them, the offset in the metadata queue at which the records behind them begin.
pub(crate) fn join_tables(meta_from: QueueOffset, tables: &[u8]) -> Vec<u8> {
    [&meta_from.0.to_be_bytes(), tables].concat()
}

fn split_tables(snapshot: &Snapshot) -> Result<(QueueOffset, Vec<u8>), OpenError> {
    match snapshot.tables.split_first_chunk() {
        Some((from, tables)) => Ok((QueueOffset(u64::from_be_bytes(*from)), tables.to_vec())),
        None => Err(damaged(&snapshot_path(snapshot.generation), "its tables are cut short".to_owned())),
    }
}

/// Takes over the pieces of the block log behind the snapshot, and cuts off one that a power cut tore.
fn adopt_blocks<D: Disk>(files: &Files<D>, queues: &mut Queues) -> Result<Vec<u32>, OpenError> {
    let own = files.list(Path::new(OWN_DIR))?;
    let mut numbers: Vec<u32> = numbered(&own, "queues-").filter_map(|number| u32::try_from(number).ok()).collect();
    numbers.sort_unstable();
    let (first, from) = queues.block_end();
    let mut from = from;
    for number in numbers.iter().copied().filter(|number| *number >= first) {
        let path = BlockFile::path(number);
        let bytes = files.read_whole(&path, OWN_FILE_MAX)?.unwrap_or_default();
        let start = if number == first { std::mem::take(&mut from) } else { 0 };
        let behind = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).ok_or_else(|| {
            damaged(&path, format!("it has {} bytes, the snapshot knows of {start}", bytes.len()))
        })?;
        let end = queues.adopt(number, start, behind).map_err(|what| damaged(&path, what))?;
        if end < bytes.len() as u64 {
            let file = files.file(&path)?;
            file.truncate(end).map_err(failed("truncate", &path))?;
            file.sync_data().map_err(failed("sync", &path))?;
        }
    }
    Ok(numbers)
}

/// Retention may have moved the beginning of the log since the index was written.
fn begin_at<D: Disk>(files: &Files<D>, queues: &mut Queues, log_min: u64) -> Result<(), OpenError> {
    if log_min == 0 {
        return Ok(());
    }
    let min = LogOffset(log_min);
    let mut firsts = Vec::new();
    for (queue, block) in queues.straddling(min) {
        firsts.push((queue, first_at_or_behind(files, &block, log_min)?));
    }
    queues.retire(min, &firsts);
    Ok(())
}

// ---- the log behind the index ------------------------------------------------------------------------------------------

/// The queues, as the log is read into them.
struct Rebuild<'c> {
    config: &'c StoreConfig,
    queues: Queues,
    adopted: u64,
    /// A foreign log that does not begin at 0: a queue goes on where its first record says.
    first_seen: bool,
    /// Records of a batch whose last has not been seen yet.
    held: Vec<Held>,
    last_stored: Timestamp,
    scanned: u64,
}

/// One record of an unfinished batch.
struct Held {
    topic: String,
    queue_id: u32,
    queue_offset: QueueOffset,
    entry: Entry,
}

impl Rebuild<'_> {
    /// Reads the log from `from` on; its end, and how many bytes of a torn tail were erased behind it.
    fn scan<D: Disk>(
        &mut self,
        files: &Files<D>,
        bases: &[u64],
        from: u64,
        durable: u64,
    ) -> Result<(u64, u64), OpenError> {
        let last = *bases.last().expect("a log has a segment");
        let mut at = from;
        loop {
            let base = files.base(at);
            if !bases.contains(&base) {
                let what = format!("the file is missing: the index knows the log up to {from}");
                return Err(damaged(&segment_path(base), what));
            }
            let mut scan = Scan::new(files, base, self.max_record())?;
            let (end, why) = self.scan_segment(&mut scan, at)?;
            if base != last {
                if let Some(error) = why {
                    return Err(rot(&scan, end, &error, "the log goes on in the next file"));
                }
                at = scan.end;
                continue;
            }
            return self.end_of_log(&mut scan, end, why, durable);
        }
    }

    /// Reads records up to the blank (no error), or to the first position where there is no whole one.
    fn scan_segment<F: File>(
        &mut self,
        scan: &mut Scan<F>,
        from: u64,
    ) -> Result<(u64, Option<RecordError>), OpenError> {
        let mut at = from;
        let mut missing = 0;
        let mut batch_at = from;
        loop {
            let path = scan.path.clone();
            let error = match scan.item(at)? {
                Ok(Found::Blank) if missing == 0 => return Ok((at, None)),
                Ok(Found::Blank) => RecordError::Nothing,
                Ok(Found::Record(record)) => {
                    if missing == 0 {
                        batch_at = at;
                        missing = batch_of(&record).unwrap_or(1);
                    }
                    missing -= 1;
                    at += record.bytes.len() as u64;
                    self.take(&record, missing == 0, &path)?;
                    continue;
                }
                Err(error) => error,
            };
            if missing > 0 && keepmq_world::planted!("batch-cut-in-the-middle") {
                self.release(&path)?;
                return Ok((at, Some(error)));
            }
            self.held.clear();
            return Ok((if missing > 0 { batch_at } else { at }, Some(error)));
        }
    }

    /// One record of the log. Those of a batch count when the last has been seen.
    fn take(&mut self, record: &Record<'_>, is_last: bool, path: &Path) -> Result<(), OpenError> {
        if !record.properties.as_bytes().last_chunk::<CRC_BYTES>().is_some_and(is_crc)
            && record.at.0 >= self.adopted
            && !self.config.adopt
        {
            return Err(OpenError::Foreign {
                what: format!("another program has appended to the log since, at {} in {}", record.at, path.display()),
                todo: "Set adopt=true to take over what it has written".to_owned(),
            });
        }
        self.scanned += 1;
        self.last_stored = self.last_stored.max(record.stored);
        if matches!(record.sys_flag & sys_flag::TRANSACTION_MASK, 0x4 | 0xC) {
            // A half message or a rollback of RocketMQ's: no queue holds it.
            return Ok(());
        }
        Topic::check(record.topic).map_err(|error| damaged(path, format!("position {}: {error}", record.at)))?;
        let entry = entry_of(record);
        if !is_last || !self.held.is_empty() {
            let topic = record.topic.to_owned();
            self.held.push(Held { topic, queue_id: record.queue_id, queue_offset: record.queue_offset, entry });
            return if is_last { self.release(path) } else { Ok(()) };
        }
        self.index(record.topic, record.queue_id, record.queue_offset, entry, path)?;
        if record.topic == META_TOPIC {
            let meta = MetaRecord::decode(record.body);
            let meta = meta.map_err(|error| damaged(path, format!("position {}: {error}", record.at)))?;
            apply(&mut self.queues, &meta).map_err(|what| damaged(path, format!("position {}: {what}", record.at)))?;
        }
        Ok(())
    }

    fn release(&mut self, path: &Path) -> Result<(), OpenError> {
        for held in std::mem::take(&mut self.held) {
            self.index(&held.topic, held.queue_id, held.queue_offset, held.entry, path)?;
        }
        Ok(())
    }

    fn index(
        &mut self,
        topic: &str,
        queue_id: u32,
        offset: QueueOffset,
        entry: Entry,
        path: &Path,
    ) -> Result<(), OpenError> {
        let is_new = self.first_seen && self.queues.find(topic, queue_id).is_none();
        let ix = self.queues.find_or_add(topic, queue_id);
        if is_new {
            self.queues.set_next(ix, offset);
        }
        let next = self.queues.next(ix);
        if next != offset {
            let what = format!(
                "position {}: the record is message {offset} of queue {queue_id} of {topic}, but message {next} comes next",
                entry.at
            );
            return Err(damaged(path, what));
        }
        self.queues.append(ix, entry);
        Ok(())
    }

    /// No record is longer: written under this configuration or another.
    fn max_record(&self) -> usize {
        (128 << 20).min(usize::try_from(self.config.segment_bytes).unwrap_or(usize::MAX))
    }

    /// Bytes that a power cut may have taken or torn, at most.
    fn window(&self) -> u64 {
        let buffers = 3 * self.config.buffer_bytes as u64;
        match self.config.flush {
            Flush::Sync => buffers,
            Flush::Async => buffers + self.config.flush_bytes,
        }
    }

    /// Decides whether what follows the last whole record of the last segment is a torn tail, and erases it.
    fn end_of_log<F: File>(
        &self,
        scan: &mut Scan<F>,
        end: u64,
        why: Option<RecordError>,
        durable: u64,
    ) -> Result<(u64, u64), OpenError> {
        // A blank without a next segment was never built on: the log goes on before it.
        let why = why.unwrap_or(RecordError::Nothing);
        if end < durable {
            return Err(rot(scan, end, &why, &format!("everything before {durable} was durable")));
        }
        let quiet = self.window().max(self.config.zero_ahead).max(1 << 20);
        let behind = scan.behind(end, end.saturating_add(self.window()), quiet)?;
        if let Some(record) = behind.far_record {
            return Err(rot(scan, end, &why, &format!("a whole record stands behind it, at {record}")));
        }
        let cut = behind.used.saturating_sub(end);
        if !keepmq_world::planted!("torn-tail-kept") {
            // A record behind a torn one would return to life when the log grows up to it.
            scan.erase(end, behind.used)?;
        }
        scan.sync()?;
        Ok((end, cut))
    }
}

/// What a metadata record does to the queues. The text says why it cannot be true.
pub(crate) fn apply(queues: &mut Queues, meta: &MetaRecord) -> Result<(), String> {
    match meta {
        MetaRecord::TopicDeleted(topic) => queues.clear_topic(topic),
        MetaRecord::QueueEnds(ends) => {
            for end in ends {
                let known = queues.find(&end.topic, end.queue_id);
                let next = known.map_or(0, |ix| queues.next(ix).0);
                if known.is_none() {
                    Topic::check(&end.topic).map_err(|error| error.to_string())?;
                    let ix = queues.find_or_add(&end.topic, end.queue_id);
                    queues.set_next(ix, QueueOffset(end.next));
                } else if next < end.next {
                    return Err(format!("queue {} of {} went on at {}, not {next}", end.queue_id, end.topic, end.next));
                }
            }
        }
        MetaRecord::Topic(_) | MetaRecord::Group(_) | MetaRecord::GroupDeleted { .. } | MetaRecord::Offsets(_) => {}
    }
    Ok(())
}

fn entry_of(record: &Record<'_>) -> Entry {
    Entry {
        at: record.at,
        size: u32::try_from(record.bytes.len()).expect("a record says its size in 32 bits"),
        tag: message::find(record.properties, property::TAGS).map_or(0, message::tag_hash),
        stored: record.stored,
    }
}

fn is_crc(last: &[u8; CRC_BYTES]) -> bool {
    last.starts_with(property::CRC32.as_bytes())
}

/// Records of the batch that this one begins. Only the last property before the checksum counts: the store puts it there,
/// what a client sends stands elsewhere.
fn batch_of(record: &Record<'_>) -> Option<u32> {
    let properties = record.properties.as_bytes();
    let (before, last) = properties.split_last_chunk::<CRC_BYTES>()?;
    is_crc(last).then_some(())?;
    batch_count(std::str::from_utf8(before).ok()?)
}

/// The count that a property string ends with.
pub(crate) fn batch_count(properties: &str) -> Option<u32> {
    let (name, value) = message::pairs(properties).next_back()?;
    (name == property::BATCH).then(|| value.parse().ok().filter(|count| *count > 0))?
}

fn rot<F>(scan: &Scan<F>, at: u64, error: &RecordError, proof: &str) -> OpenError {
    damaged(
        &scan.path,
        format!("position {at}, byte {} of the file: {error}; this is no torn end, since {proof}", at - scan.base),
    )
}
