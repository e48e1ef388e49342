//! The queues as the files of the index have them, or that they must be made again from the log.

use crate::config::OpenError;
use crate::disk::{Disk, File};
use crate::files::{Files, OWN_DIR, failed};
use crate::identity::Identity;
use crate::job::first_at_or_behind;
use crate::log::rebuild::{Accept, limit};
use crate::log::recovery::{OWN_FILE_MAX, damaged, numbered};
use crate::log::walk::{Extent, Seen, walk};
use crate::losses::{Loss, Missing};
use crate::meta::Snapshot;
use crate::queues::{BlockFile, Queues};
use keepmq_protocol::{LogOffset, QueueOffset};
use keepmq_world::Keyed;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// The queues before the log behind them is read.
pub(super) struct Index {
    pub(super) queues: Queues,
    /// Numbers of the block files that are there.
    pub(super) block_files: Vec<u32>,
    /// Why nothing of the index can be used, and all of the log must be read.
    pub(super) damage: Option<String>,
}

/// Completes the snapshot's directory by the block log behind it. A damaged block log is no reason to stop: the log has
/// everything that is in it.
pub(super) fn load_index<D: Disk>(
    files: &Files<D>,
    identity: &Identity,
    keyed: Keyed,
    mut queues: Queues,
    log_min: u64,
) -> Result<Index, OpenError> {
    let own = files.list(Path::new(OWN_DIR))?;
    let mut numbers: Vec<u32> = numbered(&own, "queues-").filter_map(|number| u32::try_from(number).ok()).collect();
    numbers.sort_unstable();
    let whole = whole_files(files, &queues)
        .and_then(|()| adopt_blocks(files, &mut queues, &numbers))
        .and_then(|()| begin_at(files, &mut queues, log_min));
    let damage = match whole {
        Ok(()) => None,
        Err(OpenError::Damaged { path, what, .. }) => {
            queues = Queues::new(keyed, identity.store_id);
            // The old files stay until two snapshots do without them.
            queues.begin_blocks(numbers.last().map_or(1, |last| last + 1));
            Some(format!("{path}: {what}"))
        }
        Err(error) => return Err(error),
    };
    Ok(Index { queues, block_files: numbers, damage })
}

/// The files that the directory speaks of are there, with all that it knows of.
fn whole_files<D: Disk>(files: &Files<D>, queues: &Queues) -> Result<(), OpenError> {
    for (number, bytes) in queues.block_totals() {
        let path = BlockFile::path(number);
        let Some(len) = files.len_of(&path)? else {
            return Err(damaged(&path, "the file is missing".to_owned()));
        };
        if len < bytes {
            return Err(damaged(&path, format!("it has {len} bytes, the snapshot knows of {bytes}")));
        }
    }
    Ok(())
}

/// Where queues go on of which the log that was read has less than the snapshot knows: their messages were taken by retention.
pub(super) fn go_on_as_known(
    queues: &mut Queues,
    snapshot: &Snapshot,
    keyed: Keyed,
    identity: &Identity,
) -> Result<(), OpenError> {
    let directory = Queues::decode(&snapshot.queues, keyed, identity.store_id);
    let directory = directory.map_err(|what| damaged(Path::new(OWN_DIR), what))?;
    for (topic, queue, next) in directory.ends() {
        let ix = queues.find_or_add(topic.as_str(), queue);
        let known = queues.next(ix);
        if known.0 >= next {
            continue;
        }
        if !queues.is_empty(ix) {
            let what =
                format!("queue {queue} of {topic} goes on at {next} by the snapshot, and the log has {known} only");
            return Err(damaged(Path::new(OWN_DIR), what));
        }
        queues.set_next(ix, QueueOffset(next));
    }
    Ok(())
}

/// Accepts a damaged place that the index covers (the log was read behind it), unless it was accepted already. The index knows what was in it.
pub(super) fn accept_indexed<D: Disk>(
    files: &mut Files<D>,
    log: Extent<'_>,
    queues: &Queues,
    accept: Accept,
) -> Result<(), OpenError> {
    if files.losses.find(accept.at).is_some_and(|loss| loss.from == accept.at) {
        return Ok(());
    }
    let base = files.base(accept.at);
    let mut to = None;
    if accept.at < log.from && log.bases.contains(&base) {
        walk(files, Extent { bases: &[base], from: base, ..log }, |seen| -> Result<_, OpenError> {
            if let Seen::Bad(bad) = seen
                && bad.at == accept.at
            {
                to = Some(bad.to.min(log.from));
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let Some(to) = to else { return Err(OpenError::NotDamaged { at: accept.at }) };
    let missing = indexed_between(files, queues, accept.at, to)?;
    let loss = Loss { accepted: accept.now.0, from: accept.at, to, missing };
    limit(&loss)?;
    files.accept(loss, accept.store_id)?;
    Ok(())
}

/// What the blocks say was between two positions.
fn indexed_between<D: Disk>(files: &Files<D>, queues: &Queues, from: u64, to: u64) -> Result<Vec<Missing>, OpenError> {
    let mut found: BTreeMap<(String, u32), (u64, u64)> = BTreeMap::new();
    for (ix, block) in queues.blocks_between(LogOffset(from), LogOffset(to)) {
        let path = BlockFile::path(block.file);
        let mut bytes = vec![0; BlockFile::bytes_of(&block)];
        files.file(&path)?.read_at(block.at, &mut bytes).map_err(failed("read", &path))?;
        let entries = BlockFile::entries(&bytes, &block).map_err(|what| damaged(&path, what))?;
        let inside = entries.iter().zip(block.first.0..).filter(|(entry, _)| (from..to).contains(&entry.at.0));
        for (_, offset) in inside {
            let (topic, queue) = queues.name(ix);
            found.entry((topic.as_str().to_owned(), queue)).or_insert((offset, 0)).1 += 1;
        }
    }
    let missing = |((topic, queue), (first, count))| Missing { topic, queue, first, count, exact: true };
    Ok(found.into_iter().map(missing).collect())
}

/// Takes over the pieces of the block log behind the snapshot, and cuts off one that a power cut tore.
fn adopt_blocks<D: Disk>(files: &Files<D>, queues: &mut Queues, numbers: &[u32]) -> Result<(), OpenError> {
    let (first, from) = queues.block_end();
    for number in numbers.iter().copied().filter(|number| *number >= first) {
        let path = BlockFile::path(number);
        let file = files.file(&path)?;
        let len = file.len().map_err(failed("read", &path))?;
        let start = if number == first { from } else { 0 };
        let Some(size) = len.checked_sub(start).filter(|size| *size <= OWN_FILE_MAX) else {
            return Err(damaged(&path, format!("it has {len} bytes, the snapshot knows of {start}")));
        };
        let mut bytes = vec![0; usize::try_from(size).expect("limited above")];
        file.read_at(start, &mut bytes).map_err(failed("read", &path))?;
        let end = queues.adopt(number, start, &bytes).map_err(|what| damaged(&path, what))?;
        if end < len && Some(&number) != numbers.last() {
            // Only the last piece of the last file can be torn: the next file is begun when this one is durable to its end.
            return Err(damaged(
                &path,
                format!("position {end} of {len}: no whole piece, although a later file follows"),
            ));
        }
        if end < len {
            file.truncate(end).map_err(failed("truncate", &path))?;
        }
        // As the log's tail: one piece was under way when the last process ended, and its sync may have failed.
        let whole = usize::try_from(end - start).expect("part of what was read");
        let last = BlockFile::last_piece(&bytes[..whole]).map_or(0, |at| at.saturating_sub(start));
        let last = usize::try_from(last).expect("part of what was read");
        file.write_at(start + last as u64, &bytes[last..whole]).map_err(failed("write", &path))?;
        file.sync_data().map_err(failed("sync", &path))?;
    }
    Ok(())
}

/// Retention may have moved the beginning of the log since the index was written.
fn begin_at<D: Disk>(files: &Files<D>, queues: &mut Queues, log_min: u64) -> Result<(), OpenError> {
    if log_min == 0 {
        return Ok(());
    }
    let min = LogOffset(log_min);
    let mut firsts = Vec::new();
    for (queue, block) in queues.straddling(min) {
        let first = first_at_or_behind(files, &block, log_min)?;
        firsts.push((queue, first.map_err(|what| damaged(&BlockFile::path(block.file), what))?));
    }
    queues.retire(min, &firsts);
    Ok(())
}
