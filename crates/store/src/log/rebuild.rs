use crate::config::{OpenError, StoreConfig};
use crate::disk::{Disk, File};
use crate::files::{Files, segment_path};
use crate::log::recovery::damaged;
use crate::log::scan::Scan;
use crate::meta::MetaRecord;
use crate::queues::{Entry, Queues};
use keepmq_protocol::message::{self, property, sys_flag};
use keepmq_protocol::record::{CRC_BYTES, Found, Record, RecordError};
use keepmq_protocol::{META_TOPIC, QueueOffset, Topic};
use keepmq_world::{Timestamp, planted};
use std::path::Path;

/// The queues, as the log is read into them.
pub(super) struct Rebuild<'c> {
    pub(super) config: &'c StoreConfig,
    pub(super) queues: Queues,
    /// Another program may have written records before this position.
    pub(super) adopted: u64,
    /// A foreign log that does not begin at 0: a queue goes on where its first record says.
    pub(super) first_seen: bool,
    /// Records of a batch whose last has not been seen yet.
    pub(super) held: Vec<Held>,
    pub(super) last_stored: Timestamp,
    pub(super) scanned: u64,
    /// Whether another program has written behind `adopted`.
    pub(super) foreign: bool,
}

/// One record of an unfinished batch.
pub(super) struct Held {
    topic: String,
    queue_id: u32,
    queue_offset: QueueOffset,
    entry: Entry,
}

impl Rebuild<'_> {
    /// Reads the log from `from` on; its end, and how many bytes of a torn tail were erased behind it.
    pub(super) fn scan<D: Disk>(
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
            let ends_here = why.is_some() && planted!("first-bad-record-ends-log");
            if base != last && !ends_here {
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
        let path = scan.path.clone();
        loop {
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
            if missing > 0 && planted!("batch-cut-in-the-middle") {
                self.release(&path)?;
                return Ok((at, Some(error)));
            }
            self.held.clear();
            return Ok((if missing > 0 { batch_at } else { at }, Some(error)));
        }
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

    /// Bytes that a power cut may have taken or torn, at most, whichever way they were flushed.
    fn window(&self) -> u64 {
        self.config.max_unsynced()
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
        if end < durable && !planted!("first-bad-record-ends-log") {
            return Err(rot(scan, end, &why, &format!("everything before {durable} was durable")));
        }
        let quiet = self.window().max(self.config.zero_ahead).max(1 << 20);
        let behind = scan.behind(end, end.saturating_add(self.window()), quiet)?;
        if let Some(record) = behind.far_record.filter(|_| !planted!("first-bad-record-ends-log")) {
            return Err(rot(scan, end, &why, &format!("a whole record stands behind it, at {record}")));
        }
        let cut = behind.used.saturating_sub(end);
        if !planted!("torn-tail-kept") {
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
    let crc = record.properties.as_bytes().last_chunk().filter(|last| is_crc(last))?;
    batch_count(&record.properties[..record.properties.len() - crc.len()])
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
