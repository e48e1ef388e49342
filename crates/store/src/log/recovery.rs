use crate::checkpoint::{self, Slot};
use crate::config::{OpenError, Progress, Recovered, StoreConfig};
use crate::disk::{Disk, File};
use crate::files::{Files, LOG_DIR, NEXT, OWN_DIR, failed, segment_path};
use crate::identity::{self, Identity};
use crate::log::index::{Index, accept_indexed, go_on_as_known, load_index};
use crate::log::rebuild::{Accept, Rebuild};
use crate::log::scan::Scan;
use crate::log::walk::Extent;
use crate::log::{AGES, Ages, CommitLog, Reserved, SegmentAge};
use crate::losses::{self, Losses};
use crate::meta::Snapshot;
use crate::queues::Queues;
use crate::scrub;
use crate::upkeep::JAVA_ABORT;
use keepmq_protocol::record::{Found, RecordError};
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset};
use keepmq_world::{Keyed, Timestamp, planted};
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
    /// What was written down about running time.
    pub(crate) ages: Ages,
    /// What `keepmq/scrub` holds.
    pub(crate) scrub: Vec<u8>,
    pub(crate) recovered: Recovered,
}

/// Fewest bytes of a segment.
const SEGMENT_MIN: u64 = 64 << 10;
/// What a metadata record has, about: how much lies behind a snapshot needs no exact answer.
const META_RECORD_BYTES: u64 = 256;
/// A block file is this part of a segment: with segments of 1 GiB, 64 MiB.
const BLOCK_FILE_SHARE: u64 = 16;
/// Largest file of metadata that is believed.
pub(crate) const OWN_FILE_MAX: u64 = 4 << 30;

/// Opens or creates everything below the store's root.
///
/// Each step leaves a state that the next attempt understands, whatever the power cut left of it: the identity comes first,
/// then the first segment, then the checkpoint. A store with a checkpoint has had a log.
pub(crate) fn restore<D: Disk>(
    disk: D,
    config: &StoreConfig,
    now: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored<D>, OpenError> {
    check(config)?;
    let mut files = Files::new(disk, config.segment_bytes);
    let own = files.list(Path::new(OWN_DIR))?;
    let mut bases = segments_of(&files.list(Path::new(LOG_DIR))?);
    let mut identity = whose(&files, config, &own, &bases)?;
    let mut known = checkpoint_of(&files, &identity)?;
    let mut snapshots = snapshots_of(&own);
    if bases.is_empty() && planted!("missing-log-starts-empty") {
        own.iter()
            .filter(|name| *name != "identity")
            .try_for_each(|name| files.remove(&Path::new(OWN_DIR).join(name)))?;
        (known, snapshots) = (None, VecDeque::new());
    }
    let mut recovered = Recovered { created: known.is_none() && bases.is_empty(), ..Recovered::default() };

    clean(&files, &own)?;
    if bases.is_empty() {
        if known.is_some() || !snapshots.is_empty() {
            return Err(OpenError::Damaged {
                path: LOG_DIR.to_owned(),
                what: "the store's identity is here, but its log is missing".to_owned(),
                todo: "Mount the volume that holds the log, or correct storePathRootDir; nothing was changed"
                    .to_owned(),
            });
        }
        make_first_segment(&files)?;
        bases.push(0);
    }
    // A killed process may have made, renamed or removed names without syncing their folder: they are there, and a power cut
    // could still take them back. Nothing is built on them before they are durable.
    for folder in ["", OWN_DIR, LOG_DIR] {
        if !keepmq_world::planted!("recovery-trusts-names") {
            files.sync_dir(Path::new(folder))?;
        }
    }
    let slot = known.unwrap_or_default();
    if bases.first().is_some_and(|first| *first < slot.log_min) {
        // A killed process may have written the mark without a sync. It must be durable before what it lets go is removed.
        write_checkpoint(&files, &identity, slot, true)?;
    }
    check_segments(&files, config, &mut bases, known.map(|slot| slot.log_min))?;
    check_places(&files, &bases)?;
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
    files.losses = Losses::read(&files, identity.store_id)?.map_err(|what| damaged(Path::new(losses::PATH), what))?;
    let Index { mut queues, block_files, damage } = load_index(&files, &identity, keyed, queues, log_min)?;
    queues.limit_files(config.segment_bytes / BLOCK_FILE_SHARE);
    let accept = config.accept_loss.map(|at| Accept { at: at.0, now, store_id: identity.store_id });
    let mut indexed = queues.indexed().0.max(log_min);
    if planted!("rebuild-begins-too-late") {
        indexed = indexed.max(slot.durable);
    }
    let mut rebuild = Rebuild {
        config,
        queues,
        adopted: identity.adopted,
        first_seen: log_min > 0 && (snapshot.is_none() || damage.is_some()),
        accept,
        held: Vec::new(),
        last_stored: Timestamp(slot.stored),
        scanned: 0,
        foreign: false,
    };
    // Index and snapshot never name what was not synced, so they say as much as the mark does.
    let durable = slot.durable.max(indexed).max(snapshot.as_ref().map_or(0, |snapshot| snapshot.at));
    let log = Extent { bases: &bases, last: bases[bases.len() - 1], from: indexed, durable };
    let (end, cut) = rebuild.scan(&mut files, log, progress)?;
    if end < durable && !planted!("first-bad-record-ends-log") {
        return Err(damaged(
            &segment_path(files.base(end)),
            format!("the log ends at {end}, but everything before {durable} was durable"),
        ));
    }
    if let (Some(_), Some(snapshot)) = (&damage, &snapshot) {
        go_on_as_known(&mut rebuild.queues, snapshot, keyed, &identity)?;
    }
    if let Some(accept) = accept {
        accept_indexed(&mut files, log, &rebuild.queues, accept)?;
    }
    write_again(&files, slot.durable.max(log_min), end)?;
    if identity.adopted == u64::MAX || rebuild.foreign {
        identity.adopted = end;
        files.replace(Path::new(identity::PATH), &identity.encode())?;
    }

    let Rebuild { mut queues, last_stored, scanned, .. } = rebuild;
    queues.advance(LogOffset(end), &mut Vec::new());
    // Neither is needed to be right: without them segments are younger than they are, and the scrub begins anew.
    let scrub = files.read_whole(Path::new(scrub::PATH), OWN_FILE_MAX)?.unwrap_or_default();
    let ages = files.read_whole(Path::new(AGES), OWN_FILE_MAX)?.unwrap_or_default();
    let ages = Ages::decode(&ages, identity.store_id).unwrap_or_default();
    let closed = closed_segments(&files, &bases, last_stored, &ages)?;
    let slot = Slot {
        sequence: slot.sequence + 1,
        durable: end,
        log_min,
        zeroed: slot.zeroed.max(end),
        stored: last_stored.0,
    };
    write_checkpoint(&files, &identity, slot, known.is_some())?;
    let mut log = CommitLog::new(config, end, last_stored);
    log.closed = closed;
    log.reserved = reserve(&files)?;
    files.set_commit(end);

    let (meta_from, tables) = match snapshot {
        Some(snapshot) => split_tables(snapshot)?,
        None => (QueueOffset(0), Vec::new()),
    };
    let meta_records = queues.find(META_TOPIC, 0).map_or(0, |ix| queues.next(ix).0.saturating_sub(meta_from.0));
    // RocketMQ looks for it: until it is gone the last stop was none. A full disk must not keep consumers from draining it.
    match files.create(Path::new(JAVA_ABORT), 0) {
        Err(error) if error.no_space => {}
        made => drop(made?),
    }
    recovered.end = LogOffset(end);
    recovered.scanned = scanned;
    recovered.cut = cut;
    recovered.losses = files.losses.all().to_vec();
    recovered.tables = tables;
    recovered.remade.clone_from(&damage);
    Ok(Restored {
        files,
        identity,
        slot,
        queues,
        log,
        snapshots,
        meta_from,
        // Until a snapshot speaks of the new block files, each start makes the queues again.
        meta_bytes: if damage.is_some() { config.snapshot_bytes } else { meta_records * META_RECORD_BYTES },
        block_files,
        ages,
        scrub,
        recovered,
    })
}

fn check(config: &StoreConfig) -> Result<(), OpenError> {
    if !(SEGMENT_MIN..=i32::MAX as u64).contains(&config.segment_bytes) {
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

pub(super) fn damaged(path: &Path, what: String) -> OpenError {
    OpenError::Damaged {
        path: path.display().to_string(),
        what,
        todo: "Nothing was changed. Look at it with `keepmq store verify`, restore the file from a copy, or open a copy of \
               the store"
            .to_owned(),
    }
}

/// A segment that is not there.
pub(super) fn hole(at: u64, bytes: u64, proof: &str) -> OpenError {
    OpenError::Damaged {
        path: segment_path(at).display().to_string(),
        what: format!("the file is missing: {bytes} bytes from position {at} on, and {proof}"),
        todo: format!(
            "Nothing was changed. Restore the file from a copy; `keepmq store verify` names the messages that were in it. \
             Without a copy: put a file of zeroes as long as the others in its place (truncate -s), and give up what was in \
             it: keepmq broker --accept-loss {at}"
        ),
    }
}

// ---- what is there -----------------------------------------------------------------------------------------------------

pub(crate) fn segments_of(names: &[PathBuf]) -> Vec<u64> {
    // Names of another form (`lost+found`) are not ours to judge.
    let base = |name: &PathBuf| {
        let name = name.to_str()?;
        (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok())?
    };
    let mut bases: Vec<u64> = names.iter().filter_map(base).collect();
    bases.sort_unstable();
    bases
}

pub(crate) fn numbered<'n>(names: &'n [PathBuf], prefix: &'static str) -> impl Iterator<Item = u64> + 'n {
    names.iter().filter_map(move |name| {
        let digits = name.to_str()?.strip_prefix(prefix)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    })
}

/// Generations of snapshot files, oldest first; their positions are not known yet.
fn snapshots_of(own: &[PathBuf]) -> VecDeque<(u64, u64)> {
    // Nobody has written so many: a name that is beyond is none of ours, and there must be a next one.
    let mut generations: Vec<u64> =
        numbered(own, "meta-").filter(|generation| *generation <= i64::MAX as u64).collect();
    generations.sort_unstable();
    generations.into_iter().map(|generation| (generation, 0)).collect()
}

/// Where the snapshot of a generation lies.
pub(crate) fn snapshot_path(generation: u64) -> PathBuf {
    PathBuf::from(format!("{OWN_DIR}/meta-{generation:020}"))
}

/// A file that only a store of ours has, and that none has before its identity.
pub(crate) fn own_file(own: &[PathBuf]) -> Option<&PathBuf> {
    let is_ours = |name: &PathBuf| {
        let name = name.to_string_lossy();
        name == "checkpoint" || name.starts_with("meta-") || name.starts_with("queues-")
    };
    own.iter().find(|name| is_ours(name) && name.extension().is_none())
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
        // A start that was killed may have given it its name and no more. The log must not become durable before it: without it
        // the log would be taken for somebody else's.
        for folder in ["", OWN_DIR] {
            files.sync_dir(Path::new(folder))?;
        }
        return Ok(identity);
    }
    if let Some(name) = own_file(own) {
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
        return Err(hole(min, size, "the log begins there"));
    }
    for base in bases.drain(..retired) {
        files.remove(&segment_path(base))?;
    }
    if retired > 0 {
        files.sync_dir(Path::new(LOG_DIR))?;
    }
    if config.adopt
        && let [.., _, last] = bases[..]
        && files.open_segment(last)?.len().map_err(failed("read", &segment_path(last)))? == 0
    {
        // RocketMQ was stopped while it made the file, and would remove it, too.
        files.forget_segment(last);
        files.remove(&segment_path(last))?;
        bases.pop();
    }
    for (index, base) in bases.iter().enumerate() {
        let path = segment_path(*base);
        let len = files.open_segment(*base)?.len().map_err(failed("read", &path))?;
        if len != size {
            let may_be_whole = len >= SEGMENT_MIN && base.is_multiple_of(len);
            if index == 0 && may_be_whole && bases.get(1).is_none_or(|next| next - base == len) {
                return Err(OpenError::Config(format!(
                    "{} has {len} bytes, mappedFileSizeCommitLog says {size}: set it to {len} if the store was made with \
                     that; if not, the file was cut short: restore it from a copy",
                    path.display()
                )));
            }
            return Err(damaged(&path, format!("the file has {len} bytes, a segment has {size}")));
        }
        if base % size != 0 {
            return Err(damaged(&path, format!("its name is no multiple of a segment's {size} bytes")));
        }
        // None lies before its place: they are different multiples, in order.
        let expected = bases[0] + index as u64 * size;
        if *base != expected && !planted!("missing-segment-skipped") {
            return Err(hole(expected, base - expected, &format!("the log goes on at {base}")));
        }
    }
    Ok(())
}

/// Each segment begins with what was written for its place. Files that were exchanged are told before anything is written:
/// the end of the log would be looked for in the wrong one, and what stands behind it erased.
fn check_places<D: Disk>(files: &Files<D>, bases: &[u64]) -> Result<(), OpenError> {
    for base in bases {
        let mut scan = Scan::head(files, *base)?;
        if let Err(error @ RecordError::Place { .. }) = scan.item(*base)? {
            return Err(damaged(&scan.path, format!("position {base}: {error}")));
        }
    }
    Ok(())
}

/// When each segment was closed, as far as that was written down, else now; and when its last record was stored, at most: no
/// later than the first of the next.
fn closed_segments<D: Disk>(
    files: &Files<D>,
    bases: &[u64],
    last: Timestamp,
    ages: &Ages,
) -> Result<VecDeque<SegmentAge>, OpenError> {
    let mut closed = VecDeque::new();
    for pair in bases.windows(2) {
        let mut scan = Scan::head(files, pair[1])?;
        let last_stored = match scan.item(pair[1])? {
            Ok(Found::Record(record)) => record.stored,
            Ok(Found::Blank) | Err(RecordError::Nothing) => last,
            Err(_) if files.losses.find(pair[1]).is_some() => last,
            Err(error) => return Err(damaged(&scan.path, format!("position {}: {error}", pair[1]))),
        };
        let at = ages.closed.get(&pair[0]).map_or(ages.running, |at| ages.running.min(*at));
        closed.push_back(SegmentAge { base: pair[0], last_stored, closed: at });
    }
    Ok(closed)
}

fn write_checkpoint<D: Disk>(
    files: &Files<D>,
    identity: &Identity,
    slot: Slot,
    is_there: bool,
) -> Result<(), OpenError> {
    let path = Path::new(checkpoint::PATH);
    let bytes = slot.encode(identity.store_id);
    if is_there {
        let file = files.file(path)?;
        file.write_at(slot.place(), &bytes).map_err(failed("write", path))?;
        file.sync_data().map_err(failed("sync", path))?;
    } else {
        let mut whole = [0; checkpoint::BYTES];
        let at = usize::try_from(slot.place()).expect("one of two slots");
        whole[at..at + checkpoint::SLOT_BYTES].copy_from_slice(&bytes);
        files.replace(path, &whole)?;
    }
    Ok(())
}

/// Writes what stands between two positions over itself, and syncs it.
///
/// After a sync that failed, the kernel may show bytes that never reached the disk, and take them for clean: another sync
/// would find nothing to do. Only bytes that are written again are sure to be written.
fn write_again<D: Disk>(files: &Files<D>, from: u64, end: u64) -> Result<(), OpenError> {
    let mut at = from;
    let mut bytes = vec![0; 1 << 20];
    while at < end {
        let base = files.base(at);
        let path = segment_path(base);
        let segment = files.open_segment(base)?;
        let stop = end.min(base + files.segment_bytes);
        while at < stop {
            if let Some(loss) = files.losses.find(at) {
                at = loss.to;
                continue;
            }
            let stop = files.losses.next(at).map_or(stop, |lost| stop.min(lost));
            let size = usize::try_from(stop - at).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            segment.read_at(at - base, &mut bytes[..size]).map_err(failed("read", &path))?;
            segment.write_at(at - base, &bytes[..size]).map_err(failed("write", &path))?;
            at += size as u64;
        }
        segment.sync_data().map_err(failed("sync", &path))?;
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
    if let (Some((newest, _)), Some((last, at))) = (snapshots.back(), good.back().copied())
        && *newest > last
    {
        good.push_back((*newest, at));
    }
    *snapshots = good;
    Ok(match loaded {
        Some((snapshot, queues)) => (Some(snapshot), queues),
        None => (None, Queues::new(keyed, identity.store_id)),
    })
}

/// The broker's tables with, behind them, the offset in the metadata queue at which the records behind them begin.
pub(crate) fn join_tables(mut tables: Vec<u8>, meta_from: QueueOffset) -> Vec<u8> {
    tables.extend_from_slice(&meta_from.0.to_be_bytes());
    tables
}

fn split_tables(snapshot: Snapshot) -> Result<(QueueOffset, Vec<u8>), OpenError> {
    let mut tables = snapshot.tables;
    match tables.last_chunk() {
        Some(from) => {
            let from = QueueOffset(u64::from_be_bytes(*from));
            tables.truncate(tables.len() - 8);
            Ok((from, tables))
        }
        None => Err(damaged(&snapshot_path(snapshot.generation), "its tables are cut short".to_owned())),
    }
}
