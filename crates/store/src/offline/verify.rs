//! Everything read, and held against each other.

use super::Ground;
use crate::config::{OpenError, Progress};
use crate::disk::{Disk, File};
use crate::files::{Files, LOG_DIR, failed, segment_path};
use crate::log::{Bad, Extent, Seen, in_a_queue, walk};
use crate::losses::{Loss, Missing};
use crate::queues::{BlockFile, BlockRef, Entry, QueueIx, Queues};
use keepmq_protocol::message::{self, property};
use keepmq_protocol::record::Record;
use keepmq_protocol::{QueueOffset, Topic};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Findings that a report holds; the rest is counted.
const FINDINGS: usize = 1000;
/// Runs of missing messages that one finding holds.
const RUNS: usize = 1000;
/// Blocks of the index that stay in memory.
const BLOCKS: usize = 4096;
/// Bytes that a power cut may have torn at most, with the buffers that a broker has by default.
const TORN_MAX: u64 = 3 * (8 << 20) + 32 * (4 << 20);
/// Bytes between two words about progress.
const PROGRESS_EVERY: u64 = 4 << 20;

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whole records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries of the index that were held against them.
    pub entries: u64,
    /// The log begins here.
    pub log_min: u64,
    /// And ends here: behind its last whole record.
    pub end: u64,
    /// Everything before this was synced once.
    pub durable: u64,
    /// Bytes behind the end that were being written when the last broker ended. Recovery cuts them off; that is no damage.
    pub torn: Option<Torn>,
    /// What was given up before.
    pub losses: Vec<Loss>,
    /// What is right as it is, and worth knowing.
    pub notes: Vec<String>,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Findings that the list has no room for.
    pub more: u64,
}

/// A torn end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// Position.
    pub at: u64,
    /// Bytes that are not zero, up to the last.
    pub bytes: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which file, below the store's root.
    pub file: String,
    /// Position in the log, when it is about the log.
    pub position: Option<u64>,
    /// Byte in the file.
    pub byte: u64,
    /// How many are concerned.
    pub bytes: u64,
    /// What is wrong.
    pub what: String,
    /// Messages that are missing by it, as far as index or neighbours tell.
    pub missing: Vec<Missing>,
    /// It lies below the durable mark: what was there may have been acknowledged.
    pub durable: bool,
    /// What the operator can do.
    pub todo: String,
}

impl Report {
    /// Nothing is wrong; a torn end may be there.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

const REMAKE: &str =
    "With no broker running move keepmq/queues-* away: the next start makes the index again from the log";
const RESTORE: &str = "Restore the file from a copy; nothing else has what is in it";

/// Reads every record, every block of the index, every snapshot and mark. `progress` hears of it every few MiB.
pub fn verify<D: Disk>(disk: D, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let ground = Ground::read(disk)?;
    let mut report = Report {
        log_min: ground.log_min(),
        durable: ground.durable(),
        losses: ground.files.losses.all().to_vec(),
        ..Report::default()
    };
    own_files(&ground, &mut report);
    segments(&ground, &mut report);
    let Extent { last, from, durable, .. } = ground.log();
    let mut check = Check {
        files: &ground.files,
        is_ours: ground.identity.is_some(),
        log: Extent { bases: &ground.bases, last, from, durable },
        blocks: &ground.blocks,
        seen: vec![None; ground.queues.ends().count()],
        queues: ground.queues,
        cache: BTreeMap::new(),
        report,
        last_bad: None,
    };
    check.log(progress)?;
    check.ends()?;
    Ok(check.report)
}

fn own_files<D: Disk>(ground: &Ground<D>, report: &mut Report) {
    if ground.identity.is_none() && ground.wrong.is_empty() {
        report.notes.push("the store has no identity of KeepMQ's: only its log was read".to_owned());
    }
    for (file, what) in &ground.wrong {
        let todo = if file.contains("queues-") { REMAKE } else { RESTORE };
        let (file, what) = (file.clone(), what.clone());
        let missing = Vec::new();
        report.find(Finding {
            file,
            position: None,
            byte: 0,
            bytes: 0,
            what,
            missing,
            durable: true,
            todo: todo.to_owned(),
        });
    }
    if let Some(piece) = &ground.torn_piece {
        report
            .notes
            .push(format!("the index was being written when the last broker ended ({piece}); that is no damage"));
    }
}

/// Which segments are there, and how long they are.
fn segments<D: Disk>(ground: &Ground<D>, report: &mut Report) {
    let size = ground.files.segment_bytes;
    for (base, len) in &ground.odd {
        gone(report, *base, size, format!("the file has {len} bytes, the others have {size}"));
    }
    let mut all: Vec<u64> = ground.bases.iter().copied().chain(ground.odd.iter().map(|(base, _)| *base)).collect();
    all.sort_unstable();
    if all.is_empty() {
        let what = "no segment is there, although the store has an identity".to_owned();
        let (file, todo) =
            (LOG_DIR.to_owned(), "Mount the volume that holds the log, or give another folder".to_owned());
        let (durable, missing) = (report.durable > 0, Vec::new());
        report.find(Finding { file, position: None, byte: 0, bytes: 0, what, missing, durable, todo });
        return;
    }
    let before = all.iter().filter(|base| **base < report.log_min).count();
    if before > 0 {
        report.notes.push(format!("the removal of {before} old segments was under way; the next start ends it"));
    }
    let end = all.last().map_or(report.log_min, |last| last + size).max(report.durable.div_ceil(size) * size);
    for base in (report.log_min..end).step_by(usize::try_from(size).expect("segments are below 2 GiB")) {
        // The mark may stand at the first byte of a segment that was never made.
        if all.binary_search(&base).is_err() && (base < report.durable || all.last().is_some_and(|last| base < *last)) {
            gone(report, base, size, "the file is missing".to_owned());
        }
    }
}

/// What was in it is noted when the records on both sides have come.
fn gone(report: &mut Report, base: u64, size: u64, what: String) {
    let durable = base < report.durable;
    let todo = format!(
        "{RESTORE}. If there is no copy: a file of {size} zero bytes in its place (truncate -s) can be given up with \
         keepmq broker --accept-loss {base}"
    );
    let file = segment_path(base).display().to_string();
    let missing = Vec::new();
    report.find(Finding { file, position: Some(base), byte: 0, bytes: size, what, missing, durable, todo });
}

/// The log on its way past, held against the index.
struct Check<'g, D: Disk> {
    files: &'g Files<D>,
    log: Extent<'g>,
    /// The files of the index, and their lengths.
    blocks: &'g BTreeMap<u32, u64>,
    queues: Queues,
    /// There is an index to hold the log against.
    is_ours: bool,
    report: Report,
    /// By queue: the offset that comes next; none when nothing of it has come yet.
    seen: Vec<Option<u64>>,
    /// Entries by the place of their block; none of one that is damaged.
    cache: BTreeMap<(u32, u64), Option<Vec<Entry>>>,
    /// The finding about the damaged stretch that came last.
    last_bad: Option<usize>,
}

impl<D: Disk> Check<'_, D> {
    fn log(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), OpenError> {
        let min = self.report.log_min;
        let (files, last) = (self.files, self.log.last);
        let total = last.max(self.report.durable).saturating_sub(min);
        let mut told = 0;
        let end = walk(files, self.log, |seen| -> Result<_, OpenError> {
            match seen {
                Seen::Record(record) => {
                    let done = record.at.0.saturating_sub(min);
                    if done >= told + PROGRESS_EVERY {
                        told = done;
                        progress(Progress { done, total: total.max(done) });
                    }
                    self.record(record)?;
                }
                Seen::Lost(loss) => self.lost(loss)?,
                Seen::Bad(bad) => return Ok(self.bad(bad)),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.report.end = end;
        progress(Progress { done: total, total });
        if end < self.report.durable && self.last_bad.is_none_or(|at| self.report.findings[at].position < Some(end)) {
            let base = self.files.base(end);
            let durable = self.report.durable;
            self.damage(base, end, durable, format!("the log ends here, but everything before {durable} was durable"));
        }
        Ok(())
    }

    fn damage(&mut self, base: u64, at: u64, to: u64, what: String) {
        self.last_bad = Some(self.report.findings.len()).filter(|at| *at < FINDINGS);
        let (file, durable) = (segment_path(base).display().to_string(), at < self.report.durable);
        let todo = format!(
            "Restore the file from a copy, with no broker running; or give up what is missing: keepmq broker --accept-loss {at}"
        );
        let missing = Vec::new();
        let (byte, bytes) = (at - base, to - at);
        self.report.find(Finding { file, position: Some(at), byte, bytes, what, missing, durable, todo });
    }

    fn bad(&mut self, bad: &Bad) -> ControlFlow<()> {
        let Bad { at, to, base, .. } = *bad;
        if bad.in_last && at >= self.report.durable && (!bad.followed || to < at + TORN_MAX) {
            self.report.torn = Some(Torn { at, bytes: to - at });
            return ControlFlow::Break(());
        }
        let to = if bad.followed || !bad.in_last { to } else { to.max(self.report.durable) };
        let behind = if bad.followed {
            "where the next whole record begins"
        } else {
            "and no whole record follows in this file"
        };
        self.damage(base, at, to, format!("{}; up to {to}, {behind}", bad.why));
        ControlFlow::Continue(())
    }

    /// Its messages are known to be missing.
    fn lost(&mut self, loss: &Loss) -> Result<(), OpenError> {
        for Missing { topic, queue, first, count, .. } in &loss.missing {
            if Topic::check(topic).is_err() {
                continue;
            }
            let ix = self.queue(topic, *queue);
            let next = self.seen[ix.0 as usize].unwrap_or(*first);
            if next < *first {
                self.gap(ix, next, *first)?;
            }
            self.seen[ix.0 as usize] = Some(next.max(first.saturating_add(*count)));
        }
        Ok(())
    }

    fn queue(&mut self, topic: &str, queue: u32) -> QueueIx {
        let ix = self.queues.find_or_add(topic, queue);
        self.seen.resize(self.seen.len().max(ix.0 as usize + 1), None);
        ix
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), OpenError> {
        self.report.records += 1;
        self.report.bytes += record.bytes.len() as u64;
        if !in_a_queue(record) || !self.is_ours {
            return Ok(());
        }
        let at = record.at.0;
        if let Err(error) = Topic::check(record.topic) {
            let base = self.files.base(at);
            self.damage(base, at, at + record.bytes.len() as u64, error.to_string());
            return Ok(());
        }
        let ix = self.queue(record.topic, record.queue_id);
        let offset = record.queue_offset.0;
        match self.seen[ix.0 as usize] {
            None => self.beginning(ix, offset)?,
            Some(next) if next < offset => self.gap(ix, next, offset)?,
            Some(next) if next > offset => {
                let base = self.files.base(at);
                let what = format!(
                    "the record is message {offset} of queue {} of {}, but message {next} comes next",
                    record.queue_id, record.topic
                );
                self.damage(base, at, at + record.bytes.len() as u64, what);
                return Ok(());
            }
            Some(_) => {}
        }
        self.seen[ix.0 as usize] = Some(offset + 1);
        let Some((block, Some(entry))) = self.entry(ix, offset)? else { return Ok(()) };
        self.report.entries += 1;
        let tag = message::find(record.properties, property::TAGS).map_or(0, message::tag_hash);
        if (entry.at, entry.size as usize, entry.tag) != (record.at, record.bytes.len(), tag) {
            let what = format!(
                "the entry of message {offset} of queue {} of {} says position {}, {} bytes, tag {:#x}; the record has position \
                 {at}, {} bytes, tag {tag:#x}",
                record.queue_id,
                record.topic,
                entry.at,
                entry.size,
                entry.tag,
                record.bytes.len()
            );
            self.index(block, what);
        }
        Ok(())
    }

    fn index(&mut self, block: BlockRef, what: String) {
        let file = BlockFile::path(block.file).display().to_string();
        let (byte, bytes, missing) = (block.at, BlockFile::bytes_of(&block) as u64, Vec::new());
        let todo = REMAKE.to_owned();
        self.report.find(Finding { file, position: None, byte, bytes, what, missing, durable: true, todo });
    }

    /// The first record of a queue that has come: nothing that the log should have may stand before it.
    fn beginning(&mut self, ix: QueueIx, offset: u64) -> Result<(), OpenError> {
        let mut first = offset;
        if self.report.log_min == 0 {
            first = 0;
        }
        while self.report.log_min > 0
            && let Some(before) = first.checked_sub(1)
            && let Some((_, Some(entry))) = self.entry(ix, before)?
            && entry.at.0 >= self.report.log_min
        {
            first = before;
        }
        if first < offset { self.gap(ix, first, offset) } else { Ok(()) }
    }

    /// Messages from `first` to before `next` did not come.
    fn gap(&mut self, ix: QueueIx, first: u64, next: u64) -> Result<(), OpenError> {
        let mut offset = first;
        while offset < next {
            // Those of which the index knows where they were belong to the damage that is there.
            let at = self.entry(ix, offset)?.and_then(|(_, entry)| entry).map(|entry| entry.at.0);
            let finding = match at {
                Some(at) => self.at_position(at),
                None => self.last_bad,
            };
            let indexed = self.queues.indexed_of(ix);
            let end = match at {
                None if offset < indexed.start => next.min(indexed.start),
                None if offset >= indexed.end => next,
                // Known, or in a block that is damaged.
                _ => offset + 1,
            };
            let (topic, queue) = self.queues.name(ix);
            let missing = Missing { topic: topic.to_string(), queue, first: offset, count: end - offset, exact: true };
            match finding {
                Some(finding) => add(&mut self.report.findings[finding].missing, missing),
                None => self.nowhere(at, missing),
            }
            offset = end;
        }
        Ok(())
    }

    /// The finding about the damaged stretch in which a position lies.
    fn at_position(&self, at: u64) -> Option<usize> {
        let holds = |finding: &Finding| finding.position.is_some_and(|from| from <= at && at < from + finding.bytes);
        self.report.findings.iter().position(holds)
    }

    /// A message is missing although no damage is where it was.
    fn nowhere(&mut self, at: Option<u64>, missing: Missing) {
        let file = at.map_or("commitlog".to_owned(), |at| segment_path(self.files.base(at)).display().to_string());
        let (byte, what) = match at {
            Some(at) => {
                (at - self.files.base(at), format!("{missing}: the index says that it lies at {at}, and it does not"))
            }
            None => (0, format!("{missing}: no record has it")),
        };
        let todo = format!("{RESTORE}; if the log is right: {}", REMAKE.to_lowercase());
        self.report.find(Finding {
            file,
            position: at,
            byte,
            bytes: 0,
            what,
            missing: vec![missing],
            durable: true,
            todo,
        });
    }

    /// What the index says of a message, with the block; no block when it says nothing, no entry when the block is damaged.
    fn entry(&mut self, ix: QueueIx, offset: u64) -> Result<Option<(BlockRef, Option<Entry>)>, OpenError> {
        let Some(block) = self.queues.block_of(ix, QueueOffset(offset)) else { return Ok(None) };
        let place = (block.file, block.at);
        if !self.cache.contains_key(&place) {
            if self.cache.len() >= BLOCKS {
                self.cache.clear();
            }
            let entries = self.block(&block)?;
            self.cache.insert(place, entries);
        }
        let nth = usize::try_from(offset - block.first.0).expect("inside a block");
        let entries = self.cache.get(&place).expect("just put there");
        Ok(Some((block, entries.as_ref().map(|entries| entries[nth]))))
    }

    fn block(&mut self, block: &BlockRef) -> Result<Option<Vec<Entry>>, OpenError> {
        let path = BlockFile::path(block.file);
        let mut bytes = vec![0; BlockFile::bytes_of(block)];
        let Some(len) = self.blocks.get(&block.file) else { return Ok(None) };
        if *len < block.at + bytes.len() as u64 {
            return Ok(None);
        }
        self.files.file(&path)?.read_at(block.at, &mut bytes).map_err(failed("read", &path))?;
        match BlockFile::entries(&bytes, block) {
            Ok(entries) => Ok(Some(entries)),
            Err(what) => {
                self.index(*block, what);
                Ok(None)
            }
        }
    }

    /// The last messages of queues, of which no record told that they are missing.
    fn ends(&mut self) -> Result<(), OpenError> {
        for n in 0..self.seen.len() {
            let ix = QueueIx(u32::try_from(n).expect("fewer than 2^32 queues"));
            let indexed = self.queues.indexed_of(ix);
            let mut first = match self.seen[n] {
                Some(next) => next.max(indexed.start),
                None => indexed.start,
            };
            // What retention has taken is not missing.
            while first < indexed.end
                && let Some((_, Some(entry))) = self.entry(ix, first)?
                && entry.at.0 < self.report.log_min
            {
                first += 1;
            }
            if first < indexed.end {
                self.gap(ix, first, indexed.end)?;
            }
        }
        Ok(())
    }
}

/// One run more, or the last one longer.
fn add(runs: &mut Vec<Missing>, more: Missing) {
    if let Some(last) = runs.iter_mut().rev().find(|run| run.topic == more.topic && run.queue == more.queue)
        && last.first + last.count == more.first
    {
        last.count += more.count;
    } else if runs.len() < RUNS {
        runs.push(more);
    }
}
