use crate::config::{OpenError, Progress, Recovered, RetentionRules, StoreConfig};
use crate::disk::Disk;
use crate::files::Files;
use crate::job::{Job, JobDone, JobError};
use crate::log::{self, CommitLog, Need, Purpose, Reserved, Restored, Short};
use crate::meta::MetaRecord;
use crate::queues::{Entry, Limits, Picked, QueueIx, Queues, Selection};
use crate::reader::{LogReader, ReadError, ReadPlan, Served};
use crate::scrub::ScrubState;
use crate::upkeep::Upkeep;
use bytes::Bytes;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::message::{self, property};
use keepmq_protocol::record::{self, Draft, PROPERTIES_MAX};
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset, Topic};
use keepmq_world::{Mono, Now, Timestamp, planted};
use std::sync::Arc;

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position.
    pub at: LogOffset,
    /// The position behind it: kept once `commit` has reached this.
    pub end: LogOffset,
    /// Its offset in its queue.
    pub queue_offset: QueueOffset,
}

/// Why a record was not appended. Nothing of it will ever be seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Larger than a segment can hold.
    #[error("a record of {bytes} bytes does not fit: the limit is {max}")]
    TooLarge {
        /// Bytes it has.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Properties longer than the format allows.
    #[error("properties of {bytes} bytes do not fit: the limit is {max}")]
    Properties {
        /// Bytes they have.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The buffers are full: the disk is slower than the producers.
    #[error("{waiting} bytes wait to be written; the limit is {max}")]
    Busy {
        /// Bytes waiting.
        waiting: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The segment is full, and the next one is still being reserved.
    #[error("the next segment is still being reserved: the disk is slower than the producers")]
    Reserving,
    /// There is no space for the next segment, or for the index.
    #[error(transparent)]
    Full(Box<NoSpace>),
    /// The store has stopped after an I/O error.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<JobError>),
}

/// What there is no space for, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no space for {what} on the file system that holds {place}: {free} bytes are free there; {why}{held}",
    free = free.map_or_else(|| "too few".to_owned(), |free| free.to_string()),
    held = held.as_ref().map_or_else(String::new, |need| format!(". Old messages stay there, since {need}")))]
pub struct NoSpace {
    /// The next segment, or the index.
    pub what: &'static str,
    /// The store's folder.
    pub place: String,
    /// Bytes free, as last looked at; `None`: nobody has looked.
    pub free: Option<u64>,
    /// What the operating system said.
    pub why: String,
    /// Who keeps old segments from going.
    pub held: Option<Need>,
}

/// A queue as others may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Lowest offset that can be read; equal to `max` when there is nothing.
    pub min: QueueOffset,
    /// Offset behind the highest committed message.
    pub max: QueueOffset,
    /// Store time of the last committed message still known in memory; 0 when unknown.
    pub last_stored: Timestamp,
    /// Whether retention has ever taken a message from it.
    pub has_lost: bool,
}

/// Numbers for metrics and `GET_BROKER_RUNTIME_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// First position that still exists.
    pub min: LogOffset,
    /// Marks, in order.
    pub synced: LogOffset,
    /// See [`Store::commit`].
    pub commit: LogOffset,
    /// Written to a file.
    pub written: LogOffset,
    /// End of the log, in memory.
    pub appended: LogOffset,
    /// Flush jobs that have ended.
    pub flushes: u64,
    /// Records those jobs carried.
    pub flushed_records: u64,
    /// No space could be reserved for the next segment; it is tried again.
    pub full: bool,
    /// Nothing moves any more, after an I/O error.
    pub stopped: bool,
    /// Segments removed since the store was opened.
    pub removed_segments: u64,
    /// Old segments stay because a group has not consumed what is in them.
    pub held: bool,
    /// It was closed without a snapshot, for want of space: the next start reads more of the log.
    pub gave_up: bool,
    /// What the scrub has seen.
    pub scrub: ScrubState,
}

/// The log, its queues and the metadata snapshot; owned by the broker core.
pub struct Store<D: Disk> {
    pub(crate) files: Arc<Files<D>>,
    pub(crate) config: StoreConfig,
    pub(crate) store_id: [u8; 16],
    pub(crate) queues: Queues,
    pub(crate) log: CommitLog,
    pub(crate) upkeep: Upkeep,
    /// Queues that gained visible messages since they were asked for; some perhaps twice.
    pub(crate) grown: Vec<QueueIx>,
    /// The first I/O error. Nothing moves after it.
    pub(crate) stopped: Option<Arc<JobError>>,
    /// Where in the metadata queue the records behind the loaded snapshot begin.
    meta_from: QueueOffset,
    /// Memory of a chunk that readers no longer need, to be filled again.
    pub(crate) spare: Option<Vec<u8>>,
    pub(crate) flushes: u64,
    pub(crate) flushed_records: u64,
}

/// Bounds of one read of metadata records.
const REPLAY: Limits = Limits { messages: 512, bytes: 4 << 20, scanned: 512 };

impl<D: Disk> Store<D> {
    /// Opens or creates the store on `disk` and recovers: cuts and erases a torn tail, refuses rot, rebuilds the queues.
    /// The caller holds the store's lock. Reads and writes files: the only call of this type that does.
    pub fn open(disk: D, config: StoreConfig, now: Now) -> Result<(Self, Recovered), OpenError> {
        Self::open_telling(disk, config, now, &mut |_| {})
    }

    /// As `open`; tells about every MiB how far the reading of the log is.
    pub fn open_telling(
        disk: D,
        config: StoreConfig,
        now: Now,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Recovered), OpenError> {
        let restored = log::restore(disk, &config, now.wall, progress)?;
        let upkeep = Upkeep::new(&restored, config.scrubbing, now);
        let Restored { files, identity, queues, log, meta_from, recovered, .. } = restored;
        let store = Self {
            files: Arc::new(files),
            config,
            store_id: identity.store_id,
            queues,
            log,
            upkeep,
            grown: Vec::new(),
            stopped: None,
            meta_from,
            spare: None,
            flushes: 0,
            flushed_records: 0,
        };
        Ok((store, recovered))
    }

    /// Metadata records behind the snapshot that `open` loaded, in order; for the broker to apply to its tables, once, at start.
    pub fn replay(&self) -> Result<Vec<MetaRecord>, ReadError> {
        let mut records = Vec::new();
        let Some(ix) = self.queues.find(META_TOPIC, 0) else { return Ok(records) };
        let view = self.queues.view(ix);
        let reader = self.reader();
        let mut from = self.meta_from.max(view.min);
        while from < view.max {
            let picked = self.queues.pick(ix, from, &TagFilter::all(), REPLAY);
            let plan = ReadPlan::picked(picked, &TagFilter::all(), REPLAY);
            let Served::Records { bytes, next, .. } = reader.serve(&plan)? else {
                unreachable!("a plan of entries gives records")
            };
            for piece in &bytes {
                decode_all(piece, &mut records)?;
            }
            assert!(next > from, "a read goes forward: {next} after {from}");
            from = next;
        }
        Ok(records)
    }

    /// The shared half, for those who run jobs.
    pub fn files(&self) -> Arc<Files<D>> {
        Arc::clone(&self.files)
    }

    /// A reader, for any thread.
    pub fn reader(&self) -> LogReader<D> {
        LogReader::new(self.files())
    }

    /// Appends one message to its queue.
    pub fn append(&mut self, draft: &Draft<'_>, now: Now) -> Result<Appended, AppendError> {
        let mut draft = *draft;
        if draft.added.is_empty() && log::batch_count(draft.properties).is_some() {
            // A client's own property in the place where the store puts its count: another behind it makes it mean nothing.
            draft.added = BATCH_OF_ONE;
        }
        self.append_one(&draft, Purpose::Message, now)
    }

    fn append_one(&mut self, draft: &Draft<'_>, purpose: Purpose, now: Now) -> Result<Appended, AppendError> {
        self.place(std::slice::from_ref(draft), purpose, now)?;
        Ok(self.push(draft, now))
    }

    /// Appends messages that survive together or not at all, to one queue. None is appended when one cannot be.
    /// The first draft's `added` must not yet hold `__BATCHN#`: the store adds it.
    pub fn append_batch(&mut self, drafts: &[Draft<'_>], now: Now) -> Result<Vec<Appended>, AppendError> {
        let Some(first) = drafts.first() else { return Ok(Vec::new()) };
        if drafts.len() == 1 {
            return Ok(vec![self.append(first, now)?]);
        }
        let mut added = first.added.to_owned();
        if !added.is_empty() && !added.ends_with(message::VALUE_END as char) {
            added.push(message::VALUE_END as char);
        }
        message::push(&mut added, property::BATCH, &drafts.len().to_string());
        let mut drafts = drafts.to_vec();
        drafts[0].added = &added;
        self.place(&drafts, Purpose::Message, now)?;
        Ok(drafts.iter().map(|draft| self.push(draft, now)).collect())
    }

    /// Appends a metadata record. The queues' side of it (a topic deleted) takes effect here, at once and in every replay.
    pub fn append_meta(&mut self, record: &MetaRecord, now: Now) -> Result<Appended, AppendError> {
        let body = record.encode();
        let host = self.config.store_host;
        let draft = Draft {
            topic: META_TOPIC,
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_at: now.wall.0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared: 0,
            body: &body,
            body_crc: record::crc(&body),
            properties: "",
            added: "",
        };
        let appended = self.append_one(&draft, Purpose::Metadata, now)?;
        log::apply(&mut self.queues, record).expect("what the broker writes down about queues is so");
        self.upkeep.meta_appended(record, appended.at, appended.end);
        Ok(appended)
    }

    /// Checks limits and makes room for records that stay together. Nothing has changed when it fails.
    fn place(&mut self, drafts: &[Draft<'_>], purpose: Purpose, now: Now) -> Result<(), AppendError> {
        if let Some(error) = &self.stopped {
            return Err(AppendError::Stopped(Arc::clone(error)));
        }
        if self.upkeep.is_closing() {
            return Err(AppendError::Stopped(Arc::new(JobError {
                call: "append",
                path: "commitlog".to_owned(),
                why: "the store is being closed".to_owned(),
                no_space: false,
            })));
        }
        let mut bytes = 0;
        for draft in drafts {
            let properties = draft.properties_size();
            if properties > PROPERTIES_MAX {
                return Err(AppendError::Properties { bytes: properties, max: PROPERTIES_MAX });
            }
            bytes += draft.size();
        }
        let max = self.log.max_record();
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        if purpose == Purpose::Message && self.upkeep.index_waits() && self.queues.hold_too_much() {
            return Err(self.full("the index of the queues", "it grows in memory until there is some".to_owned()));
        }
        let rolled = self.log.room(bytes, purpose).map_err(|short| match short {
            Short::Busy { waiting, max } => AppendError::Busy { waiting, max },
            Short::Reserving => AppendError::Reserving,
            Short::Full(why) => self.full("the next segment", why),
        })?;
        if rolled {
            self.upkeep.rolled(self.files.base(self.log.appended()));
        }
        self.upkeep.appended(now);
        Ok(())
    }

    fn full(&self, what: &'static str, why: String) -> AppendError {
        let (place, free, held) = (self.config.place.clone(), self.upkeep.free(), self.upkeep.held().cloned());
        AppendError::Full(Box::new(NoSpace { what, place, free, why, held }))
    }

    /// Appends a record for which `place` has made room.
    fn push(&mut self, draft: &Draft<'_>, now: Now) -> Appended {
        // The wall clock may go back; times in the log do not.
        let stored = match planted!("stamps-follow-the-clock") {
            true => now.wall,
            false => self.log.last_stored.max(now.wall),
        };
        let ix = self.queues.find_or_add(draft.topic, draft.queue_id);
        let queue_offset = match planted!("offset-given-twice") {
            true => self.queues.view(ix).max,
            false => self.queues.next(ix),
        };
        let at = self.log.push(draft, queue_offset, stored);
        let end = self.log.appended();
        let size = u32::try_from(end - at.0).expect("a record fits into a segment");
        // What the broker added stands behind what the client sent, and the last of several counts.
        let tag =
            message::find(draft.added, property::TAGS).or_else(|| message::find(draft.properties, property::TAGS));
        self.queues.append(ix, Entry { at, size, tag: tag.map_or(0, message::tag_hash), stored });
        if planted!("ack-before-flush") {
            self.advance();
        }
        if planted!("unflushed-visible") {
            self.files.set_commit(end);
            self.queues.advance(LogOffset(end), &mut self.grown);
        }
        Appended { at, end: LogOffset(end), queue_offset }
    }

    /// The commit mark has moved: readers and queues learn of it.
    pub(crate) fn advance(&mut self) {
        let commit = self.log.commit();
        self.files.set_commit(commit);
        self.queues.advance(LogOffset(commit), &mut self.grown);
    }

    /// The next job, when there is one to start now. Ask until it answers `None`, after the events of a turn were handled.
    pub fn next_job(&mut self, now: Now) -> Option<Job> {
        if self.stopped.is_some() {
            return None;
        }
        self.flush_job().or_else(|| self.background_job(now))
    }

    /// A job has ended. The error is final: the store has stopped, nothing appended after `commit` may be called kept.
    pub fn finished(&mut self, done: JobDone, now: Now) -> Result<(), Arc<JobError>> {
        let JobDone { task, outcome } = done;
        if self.stopped.is_none() {
            match outcome {
                Ok(()) => self.done(task, now),
                Err(error) if task.may_be_repeated(&error) => self.no_space(task, &error, now),
                Err(_) if planted!("failed-job-forgotten") => {}
                Err(error) => self.stopped = Some(Arc::new(error)),
            }
        }
        match &self.stopped {
            Some(error) => Err(Arc::clone(error)),
            None => Ok(()),
        }
    }

    /// Everything before this position is kept, as configured, and may be seen.
    pub fn commit(&self) -> LogOffset {
        LogOffset(self.log.commit())
    }

    /// End of the log, in memory.
    pub fn appended(&self) -> LogOffset {
        LogOffset(self.log.appended())
    }

    /// Takes the queues that gained visible messages since the last call, each once: (topic, queue id).
    pub fn take_grown(&mut self) -> Vec<(Topic, u32)> {
        self.grown.sort_unstable();
        self.grown.dedup();
        let name = |ix| {
            let (topic, queue_id) = self.queues.name(ix);
            (topic.clone(), queue_id)
        };
        let names = self.grown.iter().copied().map(name).collect();
        self.grown.clear();
        names
    }

    /// When `next_job` may have something although nothing happened.
    pub fn deadline(&self) -> Option<Mono> {
        self.next_due()
    }

    /// A queue as others may see it; `None` when nothing was ever stored in it.
    pub fn queue(&self, topic: &str, queue_id: u32) -> Option<QueueView> {
        self.queues.find(topic, queue_id).map(|ix| self.queues.view(ix))
    }

    /// The queues of a topic in which something was ever stored, by id.
    pub fn queues_of(&self, topic: &str) -> impl Iterator<Item = (u32, QueueView)> {
        self.queues.of(topic).iter().map(|(queue_id, ix)| (*queue_id, self.queues.view(*ix)))
    }

    /// Store time of a message that others may see, when memory knows it.
    pub fn stored_at(&self, topic: &str, queue_id: u32, offset: QueueOffset) -> Option<Timestamp> {
        self.queues.find(topic, queue_id).and_then(|ix| self.queues.stored_at(ix, offset))
    }

    /// What a pull from `from` gets: decided in memory, or a plan for the reader when older entries are needed.
    /// `from` must lie in `min..max` of the queue's view.
    pub fn select(
        &self,
        topic: &str,
        queue_id: u32,
        from: QueueOffset,
        filter: &TagFilter,
        limits: Limits,
    ) -> Selection {
        let ix = self.queues.find(topic, queue_id).expect("a queue with a view is there");
        match self.queues.pick(ix, from, filter, limits) {
            Picked::Entries { entries, next } if entries.is_empty() => Selection::Nothing { next },
            picked => Selection::Read(ReadPlan::picked(picked, filter, limits)),
        }
    }

    /// A plan that finds an offset by store time, for the reader. `upper`: the last at or before, else the first at or after.
    pub fn search(&self, topic: &str, queue_id: u32, time: Timestamp, upper: bool) -> ReadPlan {
        match self.queues.find(topic, queue_id).map(|ix| self.queues.search(ix, time, upper)) {
            None => ReadPlan::offset(QueueOffset(0)),
            Some(Ok(offset)) => ReadPlan::offset(offset),
            Some(Err(cold)) => ReadPlan::search(cold, time, upper),
        }
    }

    /// A plan for the store time of a queue's first message (GET_EARLIEST_MSG_STORETIME); `None` when it has no message.
    pub fn earliest(&self, topic: &str, queue_id: u32) -> Option<ReadPlan> {
        let ix = self.queues.find(topic, queue_id)?;
        let view = self.queues.view(ix);
        (view.min < view.max).then(|| {
            let first = Limits { messages: 1, bytes: 0, scanned: 1 };
            ReadPlan::earliest(self.queues.pick(ix, view.min, &TagFilter::all(), first))
        })
    }

    /// Whether the tables should be handed over with [`Store::save`], for a snapshot.
    pub fn wants_tables(&self) -> bool {
        self.stopped.is_none() && self.upkeep.wants_tables(self.config.snapshot_bytes)
    }

    /// Takes the broker's tables as they are after the last appended record; they become the next snapshot.
    pub fn save(&mut self, tables: Vec<u8>) {
        let meta_from = self.queues.find(META_TOPIC, 0).map_or(QueueOffset(0), |ix| self.queues.next(ix));
        self.upkeep.save(self.log.appended(), log::join_tables(tables, meta_from));
    }

    /// Which segments go when, from the next look on.
    pub fn set_retention(&mut self, rules: RetentionRules) {
        self.config.retention = rules;
    }

    /// What is free of the disk, and how large it is, in bytes.
    pub fn set_space(&mut self, free: u64, total: u64) {
        self.upkeep.set_space(free, total);
    }

    /// Where the message of a queue lies in the log, or something before it; `None`: the queue does not go so far.
    pub fn position(&self, topic: &str, queue_id: u32, offset: QueueOffset) -> Option<LogOffset> {
        self.queues.position(self.queues.find(topic, queue_id)?, offset)
    }

    /// Files for Java (`config/topics.json` …), to be written in the background; a newer one replaces one of the same name that waits.
    pub fn export(&mut self, files: Vec<(&'static str, Vec<u8>)>) {
        self.upkeep.export(files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))));
    }

    /// Appends no more; flushes, checkpoints, saves `tables` and `exports`. `is_closed` when all of it is durable; or, when
    /// there is no space for some seconds, everything that was appended is: the next start reads the rest from the log.
    pub fn close(&mut self, tables: Vec<u8>, exports: Vec<(&'static str, Vec<u8>)>, now: Now) {
        self.save(tables);
        self.export(exports);
        self.upkeep.close(now.mono);
    }

    /// Whether everything that `close` asked for has been done.
    pub fn is_closed(&self) -> bool {
        self.stopped.is_none() && self.log.synced == self.log.appended() && self.upkeep.is_closed(self.log.synced)
    }

    /// Numbers.
    pub fn state(&self) -> StoreState {
        StoreState {
            min: LogOffset(self.files.min()),
            synced: LogOffset(self.log.synced),
            commit: self.commit(),
            written: LogOffset(self.log.written),
            appended: self.appended(),
            flushes: self.flushes,
            flushed_records: self.flushed_records,
            full: matches!(self.log.reserved, Reserved::NoSpace(_)),
            stopped: self.stopped.is_some(),
            removed_segments: self.upkeep.removed_segments,
            held: self.upkeep.held().is_some(),
            gave_up: self.upkeep.gave_up(),
            scrub: self.upkeep.scrub.state(),
        }
    }
}

/// `__BATCHN#` of a record that stands alone.
const BATCH_OF_ONE: &str = "__BATCHN#\u{1}1\u{2}";

/// The metadata records in a run of records.
fn decode_all(mut bytes: &[u8], into: &mut Vec<MetaRecord>) -> Result<(), ReadError> {
    while !bytes.is_empty() {
        // The reader has checked them, or they never left this process.
        let record = record::decode_unchecked(bytes).map_err(|error| error.to_string());
        let decoded = record.and_then(|record| {
            bytes = &bytes[record.bytes.len()..];
            MetaRecord::decode(record.body).map_err(|error| format!("position {}: {error}", record.at))
        });
        into.push(decoded.map_err(|what| ReadError::Damaged { path: "commitlog".to_owned(), at: 0, what })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
