use crate::config::{OpenError, Progress, StoreConfig};
use crate::disk::{Disk, File};
use crate::files::{Files, segment_path};
use crate::log::recovery::{damaged, hole};
use crate::log::scan::Scan;
use crate::log::walk::{Bad, Extent, Seen, walk};
use crate::losses::{self, Loss, Losses, Missing};
use crate::meta::MetaRecord;
use crate::queues::{Entry, Queues};
use keepmq_protocol::message::{self, property, sys_flag};
use keepmq_protocol::record::{BLANK_BYTES, CRC_BYTES, Found, MIN_BYTES, Record, RecordError};
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset, Topic};
use keepmq_world::{Timestamp, planted};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Bytes of the shortest record of ours, without the topic's name.
const SMALLEST: u64 = (MIN_BYTES + CRC_BYTES) as u64;
/// Offsets that one loss may take: 80 MB of entries.
const PASSED_MAX: u64 = 4 << 20;

/// The queues, as the log is read into them.
pub(super) struct Rebuild<'c> {
    pub(super) config: &'c StoreConfig,
    pub(super) queues: Queues,
    /// Another program may have written records before this position.
    pub(super) adopted: u64,
    /// The log does not begin at 0, and nothing else knows the queues: each goes on where its first record says.
    pub(super) first_seen: bool,
    /// A damaged place that may be passed over.
    pub(super) accept: Option<Accept>,
    /// Records of a batch whose last has not been seen yet.
    pub(super) held: Vec<Held>,
    pub(super) last_stored: Timestamp,
    pub(super) scanned: u64,
    /// Whether another program has written behind `adopted`.
    pub(super) foreign: bool,
}

/// What an operator has allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accept {
    pub(super) at: u64,
    /// When.
    pub(super) now: Timestamp,
    pub(super) store_id: [u8; 16],
}

/// One record of an unfinished batch.
pub(super) struct Held {
    topic: String,
    queue_id: u32,
    queue_offset: QueueOffset,
    entry: Entry,
}

/// Where the records of a segment stop.
enum Stop {
    /// At the blank that ends a segment, or at its last byte.
    Blank(u64),
    /// No whole record is at `at`; `end` is behind the last record that counts: an unfinished batch does not.
    Bad { at: u64, end: u64, why: RecordError },
}

/// Bytes between two words about progress.
const PROGRESS_EVERY: u64 = 1 << 20;

impl Rebuild<'_> {
    /// Reads the log; its end, and how many bytes of a torn tail were erased behind it.
    pub(super) fn scan<D: Disk>(
        &mut self,
        files: &mut Files<D>,
        log: Extent<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(u64, u64), OpenError> {
        let last = log.last;
        let mut at = log.from;
        loop {
            let base = files.base(at);
            if !log.bases.contains(&base) {
                return Err(hole(base, files.segment_bytes, &format!("the index knows the log up to {}", log.from)));
            }
            let mut scan = Scan::patient(files, base, self.max_record())?;
            let total = last.max(log.durable) - log.from;
            let mut tell = |at: u64| progress(Progress { done: at - log.from, total: total.max(at - log.from) });
            tell(at);
            let (end, bad, why) = match self.scan_segment(&mut scan, at, &files.losses, &mut tell)? {
                Stop::Blank(_) if base != last => {
                    at = scan.end;
                    continue;
                }
                // A blank without a next segment was never built on: the log goes on before it.
                Stop::Blank(end) => (end, end, RecordError::Nothing),
                Stop::Bad { at, end, why } => (end, at, why),
            };
            if planted!("first-bad-record-ends-log") {
                let quiet = self.window().max(self.config.zero_ahead).max(1 << 20);
                let behind = scan.behind(end, end.saturating_add(self.window()), quiet)?;
                return self.cut(&mut scan, end, behind.used);
            }
            let proof = if base != last {
                "the log goes on in the next file".to_owned()
            } else if end < log.durable {
                format!("everything before {} was durable", log.durable)
            } else {
                let quiet = self.window().max(self.config.zero_ahead).max(1 << 20);
                let behind = scan.behind(end, end.saturating_add(self.window()), quiet)?;
                let Some(record) = behind.far_record else {
                    // What cannot be read is not known to be torn.
                    return match scan.refused.take() {
                        Some(refused) => Err(refused.into()),
                        None => self.cut(&mut scan, end, behind.used),
                    };
                };
                format!("a whole record stands behind it, at {record}")
            };
            // The rest of a batch that has lost some of its records is kept: all of them were acknowledged.
            self.release(&scan.path)?;
            let mut bad = Bad::measure(&mut scan, &files.losses, bad, why, base == last, u64::MAX)?;
            if bad.in_last && !bad.followed {
                bad.to = bad.to.max(log.durable).min(scan.end - BLANK_BYTES as u64);
            }
            let refused = scan.refused.take().map_or(String::new(), |refused| format!(" ({refused})"));
            let missing = self.missing(files, log, &bad)?;
            match self.accept {
                Some(accept) if accept.at == bad.at => {
                    let loss = Loss { accepted: accept.now.0, from: bad.at, to: bad.to, missing };
                    limit(&loss)?;
                    files.accept(loss, accept.store_id)?;
                    at = bad.at;
                }
                _ => return Err(rot(&bad, &missing, &format!("{proof}{refused}"))),
            }
        }
    }

    /// Reads records up to the blank, or to the first position where there is no whole one.
    fn scan_segment<F: File>(
        &mut self,
        scan: &mut Scan<F>,
        from: u64,
        losses: &Losses,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Stop, OpenError> {
        let mut at = from;
        let mut missing = 0;
        let mut batch_at = from;
        let mut told = from;
        let path = scan.path.clone();
        loop {
            if at - told >= PROGRESS_EVERY {
                told = at;
                tell(at);
            }
            if let Some(loss) = losses.find(at) {
                missing = 0;
                self.release(&path)?;
                self.pass(loss, &path)?;
                at = loss.to;
                if at >= scan.end {
                    return Ok(Stop::Blank(at));
                }
                continue;
            }
            let why = match scan.item(at)? {
                Ok(Found::Blank) if missing == 0 => return Ok(Stop::Blank(at)),
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
            if missing > 0 && planted!("batch-cut-in-the-middle") {
                self.release(&path)?;
                return Ok(Stop::Bad { at, end: at, why });
            }
            return Ok(Stop::Bad { at, end: if missing > 0 { batch_at } else { at }, why });
        }
    }

    /// Goes past what is lost. Its offsets stay taken: entries that lead to no record stand in for them.
    fn pass(&mut self, loss: &Loss, path: &Path) -> Result<(), OpenError> {
        let entry = Entry { at: LogOffset(loss.from), size: 1, tag: 0, stored: self.last_stored };
        for Missing { topic, queue, first, count, .. } in &loss.missing {
            Topic::check(topic).map_err(|error| damaged(Path::new(losses::PATH), error.to_string()))?;
            for offset in *first..first.saturating_add(*count) {
                self.index(topic, *queue, QueueOffset(offset), entry, path)?;
            }
        }
        Ok(())
    }

    /// What was in a damaged stretch, by what stands before and behind it.
    fn missing<D: Disk>(&self, files: &Files<D>, log: Extent<'_>, bad: &Bad) -> Result<Vec<Missing>, OpenError> {
        if let Some(missing) = self.claimed(files, bad)? {
            return Ok(missing);
        }
        let mut behind: BTreeMap<(String, u32), u64> = BTreeMap::new();
        walk(files, Extent { from: bad.to, ..log }, |seen| -> Result<_, OpenError> {
            match seen {
                Seen::Record(record) if in_a_queue(record) => {
                    let queue = (record.topic.to_owned(), record.queue_id);
                    behind.entry(queue).or_insert(record.queue_offset.0);
                }
                Seen::Lost(loss) => {
                    for Missing { topic, queue, first, .. } in &loss.missing {
                        behind.entry((topic.clone(), *queue)).or_insert(*first);
                    }
                }
                Seen::Record(_) | Seen::Bad(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut missing = Vec::new();
        for (topic, queue, first) in self.queues.ends() {
            let key = (topic.as_str().to_owned(), queue);
            let (count, exact) = match behind.remove(&key) {
                Some(next) => (next.saturating_sub(first), true),
                None => ((bad.to - bad.at) / (SMALLEST + key.0.len() as u64), false),
            };
            missing.push(Missing { topic: key.0, queue, first, count, exact });
        }
        if !self.first_seen {
            // Their first messages were in it.
            let of_new = |((topic, queue), count)| Missing { topic, queue, first: 0, count, exact: true };
            missing.extend(behind.into_iter().map(of_new));
        }
        missing.retain(|missing| missing.count > 0);
        missing.sort_unstable();
        Ok(missing)
    }

    /// What the damaged bytes say themselves, if that is believable: each record ends where the next begins, the last one where
    /// whole records go on, and each says that it is the next message of its queue.
    fn claimed<D: Disk>(&self, files: &Files<D>, bad: &Bad) -> Result<Option<Vec<Missing>>, OpenError> {
        let mut scan = Scan::patient(files, bad.base, self.max_record())?;
        let mut counts: BTreeMap<(String, u32), (u64, u64)> = BTreeMap::new();
        let mut at = bad.at;
        while bad.followed && at < bad.to {
            let Some(record) = scan.claim(at)? else { return Ok(None) };
            at += record.bytes.len() as u64;
            if Topic::check(record.topic).is_err() {
                return Ok(None);
            }
            if !in_a_queue(&record) {
                continue;
            }
            let known = self.queues.find(record.topic, record.queue_id);
            let next = known.map_or(QueueOffset(0), |ix| self.queues.next(ix));
            let (_, count) = counts.entry((record.topic.to_owned(), record.queue_id)).or_insert((next.0, 0));
            if record.queue_offset.0 != next.0 + *count {
                return Ok(None);
            }
            *count += 1;
        }
        let missing = |((topic, queue), (first, count))| Missing { topic, queue, first, count, exact: true };
        Ok((bad.followed && at == bad.to).then(|| counts.into_iter().map(missing).collect()))
    }

    /// One record of the log. Those of a batch count when the last has been seen.
    fn take(&mut self, record: &Record<'_>, is_last: bool, path: &Path) -> Result<(), OpenError> {
        let ours = record.properties.as_bytes().last_chunk::<CRC_BYTES>().is_some_and(is_crc);
        if !ours && record.at.0 >= self.adopted {
            if !self.config.adopt {
                let at = record.at;
                return Err(OpenError::Foreign {
                    what: format!("another program has appended to the log since, at {at} in {}", path.display()),
                    todo: "Set adopt=true to take over what it has written".to_owned(),
                });
            }
            self.foreign = true;
        }
        self.scanned += 1;
        self.last_stored = self.last_stored.max(record.stored);
        if !in_a_queue(record) {
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

    /// Bytes that a power cut may have taken or torn, at most, whichever way they were flushed.
    fn window(&self) -> u64 {
        self.config.max_unsynced()
    }

    /// Erases a torn tail: what stands between the log's end and the last byte that is not zero.
    fn cut<F: File>(&self, scan: &mut Scan<F>, end: u64, used: u64) -> Result<(u64, u64), OpenError> {
        if !planted!("torn-tail-kept") {
            // A record behind a torn one would return to life when the log grows up to it.
            scan.erase(end, used)?;
        }
        scan.sync()?;
        Ok((end, used.saturating_sub(end)))
    }
}

/// Whether a queue holds it; a half message or a rollback of RocketMQ's is in none.
pub(crate) fn in_a_queue(record: &Record<'_>) -> bool {
    !matches!(record.sys_flag & sys_flag::TRANSACTION_MASK, 0x4 | 0xC)
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
    let crc = record.properties.as_bytes().last_chunk().filter(|last| is_crc(last))?;
    batch_count(&record.properties[..record.properties.len() - crc.len()])
}

/// The count that a property string ends with.
pub(crate) fn batch_count(properties: &str) -> Option<u32> {
    let (name, value) = message::pairs(properties).next_back()?;
    (name == property::BATCH).then(|| value.parse().ok().filter(|count| *count > 0))?
}

/// The damage, in words: where, how much, which messages, and what can be done.
fn rot(bad: &Bad, missing: &[Missing], proof: &str) -> OpenError {
    let Bad { at, to, base, why, .. } = bad;
    let path = segment_path(*base);
    let goes_on = if bad.followed {
        format!("up to {to}, where the next whole record begins")
    } else {
        format!("up to {to}, and no whole record follows in this file")
    };
    OpenError::Damaged {
        path: path.display().to_string(),
        what: format!(
            "position {at}, byte {} of the file: {why}; this is no torn end, since {proof}. {} bytes cannot be read, {goes_on}. \
             {}",
            at - base,
            to - at,
            losses::words(missing)
        ),
        todo: format!(
            "Nothing was changed. Restore the file from a copy; `keepmq store verify` finds all that is damaged. To go on \
             without what is missing: keepmq broker --accept-loss {at}"
        ),
    }
}

/// Refuses to pass over more than the queues can take note of.
pub(super) fn limit(loss: &Loss) -> Result<(), OpenError> {
    let (exact, perhaps) = loss.messages();
    if exact.saturating_add(perhaps) <= PASSED_MAX {
        return Ok(());
    }
    Err(OpenError::Damaged {
        path: losses::PATH.to_owned(),
        what: format!(
            "passing over {} bytes from {} on would take {} offsets, more than {PASSED_MAX}",
            loss.to - loss.from,
            loss.from,
            exact.saturating_add(perhaps)
        ),
        todo: "Nothing was changed. Restore the file from a copy".to_owned(),
    })
}
