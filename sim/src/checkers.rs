//! The checkers: what was promised, what was seen, and whether the store still says the same after it has been through
//! something. Each has a name that a violation carries.

use crate::disk::{Call, DiskOp, SimDisk};
use crate::groups::Groups;
use crate::net::LinkId;
use crate::register::{Question, Register};
use crate::stage::{MILLI, Stage};
use crate::trace::Rare;
use crate::workload::TOPICS;
use keepmq_ledger::{Answer, Entry, Finding, Ledger};
use keepmq_protocol::message::{find, property};
use keepmq_protocol::record::{self, Found};
use keepmq_protocol::{BrokerName, LogOffset, MessageQueue, QueueOffset, ResponseCode, Topic};
use keepmq_store::{Flush, Recovered, StoreState};
use std::collections::{BTreeMap, BTreeSet};

/// A topic of the workload and a queue of it.
pub(crate) type QueueKey = (&'static str, u32);

/// Which process of which broker has said something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    pub(crate) broker: usize,
    pub(crate) life: u32,
}

/// The records of all that happened, for the checkers.
pub(crate) struct Books {
    pub(crate) ledger: Ledger,
    pub(crate) shelves: Vec<Shelf>,
    /// Topics that somebody has tried to delete: their messages may go.
    pub(crate) deleted: BTreeSet<&'static str>,
    /// Messages answered with FLUSH_DISK_TIMEOUT, and the place that the answer named.
    timed_out: BTreeMap<u64, MessageQueue>,
    timed_out_at: BTreeMap<u64, QueueOffset>,
    /// Places that a broker has said are damaged.
    reported: BTreeSet<(MessageQueue, u64)>,
    offsets: BTreeMap<Place, Register>,
    /// Commits that wanted no answer, by connection and number: the next answer there says that they have come.
    told: BTreeMap<LinkId, Vec<(i32, Commit)>>,
    pub(crate) groups: Groups,
}

/// Where a group has an offset: on a broker, for a group, in a queue.
pub(crate) type Place = (usize, &'static str, QueueKey);

/// A commit of an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    place: Place,
    nth: usize,
}

/// What is known of one broker.
pub(crate) struct Shelf {
    pub(crate) name: BrokerName,
    flush: Flush,
    keep_ms: u64,
    /// Bytes have gone bad: what lies in the log may be refused.
    pub(crate) rotten: bool,
    /// They lie behind this position, and nothing told the store that what stood there was durable: from there on it may be
    /// cut off, but not silently.
    may_cut: u64,
    /// A recovery was interrupted since: it may have cut them off, and what it would have said nobody has heard.
    interrupted: bool,
    /// A sync has failed since the last start.
    failed_sync: bool,
    /// Answered with OK: by position in the log.
    kept: BTreeMap<u64, Message>,
    /// Shown to a consumer.
    seen: BTreeMap<(QueueKey, u64), Message>,
    /// It stops: what is said to it without a wish for an answer may be ignored.
    pub(crate) stops: bool,
    /// When it has started last.
    pub(crate) started: u64,
    /// What must be there when the store is opened next.
    before: Option<Before>,
    /// Queues from which retention has taken everything.
    emptied: BTreeMap<QueueKey, u64>,
    /// When each segment got its name, by its position: the one before it was closed by then.
    named_at: BTreeMap<u64, u64>,
    /// Losses that the contract allows: what processes up to this life said of positions from here on is void.
    void: Vec<(u32, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    id: u64,
    queue: QueueKey,
    offset: u64,
    at: u64,
    checksum: u32,
}

/// The log as it was when the process ended.
struct Before {
    segments: Vec<(u64, Vec<u8>)>,
    appended: u64,
    commit: u64,
    /// The log must reach at least here.
    must: u64,
    synced: u64,
}

/// The queue's key, when the topic is one of the workload's.
pub(crate) fn key(topic: &str, queue: u32) -> Option<QueueKey> {
    TOPICS.iter().find(|known| **known == topic).map(|known| (*known, queue))
}

/// The records in what a reader was given, up to what is none.
pub(crate) fn records(mut bytes: &[u8]) -> impl Iterator<Item = record::Record<'_>> {
    std::iter::from_fn(move || {
        let found = record::decode_unchecked(bytes).ok()?;
        bytes = &bytes[found.bytes.len()..];
        Some(found)
    })
}

/// The id that a body carries.
pub(crate) fn id_of(body: &[u8]) -> u64 {
    body.first_chunk().map_or(u64::MAX, |id| u64::from_be_bytes(*id))
}

fn segments(disk: &SimDisk) -> Vec<(u64, Vec<u8>)> {
    let files = disk.files("commitlog").into_iter();
    files.filter_map(|(name, bytes)| Some((name.parse().ok()?, bytes))).collect()
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            shelves: Vec::new(),
            deleted: BTreeSet::new(),
            timed_out: BTreeMap::new(),
            timed_out_at: BTreeMap::new(),
            reported: BTreeSet::new(),
            offsets: BTreeMap::new(),
            told: BTreeMap::new(),
            groups: Groups::default(),
        }
    }

    pub(crate) fn note(&mut self, stage: &mut Stage, entry: Entry) {
        if let Err(error) = self.ledger.record(entry) {
            stage.blame("ledger", error.to_string());
        }
    }

    pub(crate) fn queue_name(&self, broker: usize, (topic, id): QueueKey) -> MessageQueue {
        let topic = Topic::new(topic).expect("the workload's topics are legal");
        MessageQueue { topic, broker: self.shelves[broker].name.clone(), id }
    }

    /// A message was answered with OK.
    pub(crate) fn kept(&mut self, stage: &mut Stage, by: Speaker, queue: QueueKey, offset: u64, at: u64, id: u64) {
        let broker = by.broker;
        if self.shelves[broker].is_void(by.life, at) {
            self.note(stage, Entry::Answered { id, answer: Answer::Unknown });
            return self.note(stage, Entry::Excused { id });
        }
        let answer = Answer::Kept {
            queue: self.queue_name(broker, queue),
            offset: QueueOffset(offset),
            position: LogOffset(at),
        };
        self.note(stage, Entry::Answered { id, answer });
        let shelf = &mut self.shelves[broker];
        let message = Message { id, queue, offset, at, checksum: 0 };
        if let Some(other) = shelf.kept.insert(at, message) {
            let other = other.id;
            stage.blame("position-reused", format!("messages {other} and {id} were both answered with position {at}"));
        }
        if let Some(next) = shelf.emptied.remove(&queue)
            && offset >= next
        {
            stage.happened(Rare::EmptiedQueueContinued);
        }
    }

    /// A message was answered with FLUSH_DISK_TIMEOUT.
    pub(crate) fn timed_out(&mut self, stage: &mut Stage, by: Speaker, queue: QueueKey, offset: u64, id: u64) {
        let broker = by.broker;
        stage.happened(Rare::FlushTimeout);
        self.note(stage, Entry::Answered { id, answer: Answer::Unknown });
        self.timed_out.insert(id, self.queue_name(broker, queue));
        self.timed_out_at.insert(id, QueueOffset(offset));
    }

    /// A consumer was shown the records in `bytes`. They must be what the queue holds from `from` on: without a gap, unless
    /// a filter was asked for. The offset behind the last.
    pub(crate) fn pulled(
        &mut self,
        stage: &mut Stage,
        by: Speaker,
        queue: QueueKey,
        from: u64,
        filtered: bool,
        bytes: &[u8],
    ) -> u64 {
        let mut rest = bytes;
        let mut next = from;
        while !rest.is_empty() {
            let found = record::decode_unchecked(rest).and_then(|found| record::decode(rest, found.at));
            let record = match found {
                Ok(Found::Record(record)) => record,
                other => {
                    stage.blame(
                        "bad-bytes",
                        format!("a pull from {queue:?} at {from} gave what is no record: {other:?}"),
                    );
                    return next;
                }
            };
            rest = &rest[record.bytes.len()..];
            let offset = record.queue_offset.0;
            let in_order = if filtered { offset >= next } else { offset == next };
            if !in_order || key(record.topic, record.queue_id) != Some(queue) {
                let (topic, id) = (record.topic, record.queue_id);
                stage.blame(
                    "order",
                    format!("a pull from {queue:?} at {next} gave offset {offset} of {topic} queue {id}"),
                );
            }
            next = offset + 1;
            self.seen(stage, by, queue, &record);
        }
        next
    }

    fn seen(&mut self, stage: &mut Stage, by: Speaker, queue: QueueKey, record: &record::Record<'_>) {
        let broker = by.broker;
        if self.shelves[broker].is_void(by.life, record.at.0) {
            return;
        }
        let id = id_of(record.body);
        let (offset, at) = (record.queue_offset.0, record.at.0);
        let message = Message { id, queue, offset, at, checksum: record::crc(record.body) };
        if let Some(place) = self.timed_out.get(&id)
            && (*place != self.queue_name(broker, queue) || self.timed_out_at.get(&id) != Some(&record.queue_offset))
        {
            let said = self.timed_out_at.get(&id);
            stage.blame("timeout-place", format!("message {id} was answered with FLUSH_DISK_TIMEOUT at {place:?} {said:?} and is at {queue:?} {offset}"));
        }
        if let Some(first) = self.shelves[broker].seen.insert((queue, offset), message)
            && first != message
        {
            stage.blame("offset-reused", format!("{queue:?} at {offset} was {first:?} and is {message:?}"));
        }
    }

    /// An offset is being committed; `told`: without a wish for an answer.
    pub(crate) fn commit(
        &mut self,
        place: Place,
        offset: i64,
        (link, opaque): (LinkId, i32),
        told: bool,
        now: u64,
    ) -> Commit {
        let nth = self.offsets.entry(place).or_default().write(Some(offset), link, now);
        let commit = Commit { place, nth };
        if told {
            self.told.entry(link).or_default().push((opaque, commit));
        }
        commit
    }

    /// A topic is being deleted on a broker, and with it every group's offsets there.
    pub(crate) fn deleting(&mut self, broker: usize, topic: &str, link: LinkId, now: u64) -> Vec<Commit> {
        let gone = self.offsets.iter_mut().filter(|((on, _, queue), _)| *on == broker && queue.0 == topic);
        gone.map(|(place, register)| Commit { place: *place, nth: register.write(None, link, now) }).collect()
    }

    /// A commit is there: `kept` says whether it stays there.
    fn committed(&mut self, by: Speaker, commit: Commit, kept: bool, now: u64) {
        let void = self.shelves[by.broker].is_void(by.life, u64::MAX);
        if let Some(register) = self.offsets.get_mut(&commit.place).filter(|_| !void) {
            register.done(commit.nth, now, by.life, kept);
        }
    }

    /// A commit has its answer.
    pub(crate) fn commit_answered(&mut self, by: Speaker, commit: Commit, code: Option<ResponseCode>, now: u64) {
        match code {
            Some(ResponseCode::Success) => self.committed(by, commit, true, now),
            Some(ResponseCode::FlushDiskTimeout) => {}
            _ => self.refused(commit),
        }
    }

    /// A pull that carried a commit has its answer. The commit is done when the pull has passed its checks, and may be ignored
    /// when the queue does not reach so far or the broker stops.
    pub(crate) fn pull_committed(&mut self, by: Speaker, commit: Commit, code: Option<ResponseCode>, now: u64) {
        use ResponseCode::{PullNotFound, PullRetryImmediately, Success};
        let passed = matches!(code, Some(Success | PullNotFound | PullRetryImmediately));
        let shelf = &self.shelves[by.broker];
        if passed && !shelf.stops && shelf.void.is_empty() {
            self.committed(by, commit, false, now);
        }
    }

    /// It was refused.
    fn refused(&mut self, commit: Commit) {
        if let Some(register) = self.offsets.get_mut(&commit.place) {
            register.refused(commit.nth);
        }
    }

    /// Somebody has answered a question: whatever came before it on the same connection has come, too.
    pub(crate) fn spoke(&mut self, link: LinkId, opaque: i32, by: Speaker, now: u64) {
        let Some(told) = self.told.get_mut(&link) else { return };
        let before = told.iter().take_while(|(number, _)| *number < opaque).count();
        let come: Vec<_> = told.drain(..before).collect();
        for (_, commit) in come {
            // It is ignored where there is no such topic, by a broker that stops, and where the queue does not reach so far.
            let shelf = &self.shelves[by.broker];
            if !shelf.stops && shelf.void.is_empty() && !self.deleted.contains(commit.place.2.0) {
                self.committed(by, commit, false, now);
            }
        }
    }

    /// Whether a group's offset may be this.
    pub(crate) fn check_offset(&mut self, stage: &mut Stage, place: Place, found: Option<i64>, by: Question) {
        let register = self.offsets.entry(place).or_default();
        if register.allows(found, by) {
            if register.survived(found, by.life) {
                stage.happened(Rare::CommitSurvived);
            }
            return;
        }
        let (choice, (_, group, queue)) = (register.choice(by), place);
        stage.blame("offset-kept", format!("{group} at {queue:?} is said to be at {found:?}; it can be at {choice:?}"));
    }

    /// Every place with an offset on a broker.
    pub(crate) fn places(&self, broker: usize) -> Vec<Place> {
        self.offsets.keys().filter(|(on, ..)| *on == broker).copied().collect()
    }

    /// A broker has opened its store again.
    pub(crate) fn opened(
        &mut self,
        stage: &mut Stage,
        by: Speaker,
        found: &Recovered,
        state: &StoreState,
        disk: &SimDisk,
    ) {
        let shelf = &mut self.shelves[by.broker];
        (shelf.stops, shelf.started) = (false, stage.now);
        let voids = shelf.void.len();
        let excused = shelf.opened(stage, by.life, found, state, disk);
        if shelf.void.len() > voids {
            let here = self.offsets.iter_mut().filter(|((broker, ..), _)| *broker == by.broker);
            here.for_each(|(_, register)| register.forget());
            self.groups.forgotten(by.broker);
        }
        for id in excused {
            self.note(stage, Entry::Excused { id });
        }
    }

    /// A reader was told that this offset cannot be read.
    pub(crate) fn reported(&mut self, queue: MessageQueue, offset: u64) {
        self.reported.insert((queue, offset));
    }

    /// Everything has been read, from the brokers that are not `down`: the verdict.
    pub(crate) fn judge(&mut self, stage: &mut Stage, found: &BTreeSet<u64>, down: &[BrokerName]) {
        for id in self.timed_out.keys() {
            stage.happened(if found.contains(id) { Rare::TimedOutAppeared } else { Rare::TimedOutLost });
        }
        let mut verdict = self.ledger.verdict();
        // What a broker has reported as damaged, or refuses to serve, is missing; but it was said.
        let said = |queue: &MessageQueue, from: u64, to: u64| {
            let reported = |offset| self.reported.contains(&(queue.clone(), offset));
            down.contains(&queue.broker) || (from..to).all(reported)
        };
        verdict.findings.retain(|finding| match finding {
            Finding::Lost { queue, offset, .. } => !said(queue, offset.0, offset.0 + 1),
            Finding::Gap { queue, from, to } => !said(queue, from.0, to.0),
            _ => true,
        });
        stage.line(format_args!("verdict: {verdict}"));
        if !verdict.is_clean() {
            stage.blame("ledger", verdict.to_string());
        }
    }
}

impl Shelf {
    pub(crate) fn new(name: BrokerName, flush: Flush, keep_ms: u64) -> Self {
        Self {
            name,
            flush,
            keep_ms,
            rotten: false,
            may_cut: u64::MAX,
            interrupted: false,
            failed_sync: false,
            kept: BTreeMap::new(),
            seen: BTreeMap::new(),
            stops: false,
            started: 0,
            before: None,
            emptied: BTreeMap::new(),
            named_at: BTreeMap::new(),
            void: Vec::new(),
        }
    }

    /// What the disk was asked to do. Retention takes only what is old enough, whatever the wall clock says.
    pub(crate) fn watch(&mut self, stage: &mut Stage, op: &DiskOp) {
        let segment = |path: &str| path.strip_prefix("commitlog/").and_then(|name| name.parse::<u64>().ok());
        match op {
            DiskOp::Failed(Call::Sync, _) => match (&mut self.before, self.flush) {
                // A recovery that cannot sync what a killed process had only written may lose it as that process could have.
                (Some(before), Flush::Async) => before.must = before.must.min(before.synced),
                _ => self.failed_sync = true,
            },
            DiskOp::Rename(_, path) => {
                if let Some(start) = segment(path) {
                    self.named_at.insert(start, stage.now);
                }
            }
            DiskOp::Remove(path, content) => {
                let Some(start) = segment(path) else { return };
                let end = start + content.len() as u64;
                let mut records = 0;
                walk(start, content, start, end, |_| records += 1);
                if records == 0 {
                    return;
                }
                if self.before.is_some() {
                    // Recovery drops segments behind a torn tail.
                    return;
                }
                stage.happened(Rare::SegmentRemoved);
                let age = self.named_at.get(&end).map_or(0, |closed| (stage.now - closed) / MILLI);
                if age < self.keep_ms {
                    let keep = self.keep_ms;
                    stage
                        .blame("retention", format!("{path} is removed {age} ms after it was closed; {keep} are kept"));
                }
            }
            _ => {}
        }
    }

    /// The store was harmed while nobody had it open.
    pub(crate) fn harmed(&mut self, may_cut: u64) {
        (self.rotten, self.may_cut, self.interrupted) = (true, may_cut, false);
    }

    /// A start did not come to its end.
    pub(crate) fn recovery_interrupted(&mut self) {
        self.interrupted = true;
    }

    /// Whether a process of this life spoke of something that has been lost since, as the contract allows.
    fn is_void(&self, life: u32, at: u64) -> bool {
        self.void.iter().any(|(upto, end)| life <= *upto && at >= *end)
    }

    /// Queues that are empty now although they were not always.
    pub(crate) fn emptied(&mut self, queue: QueueKey, next: u64) {
        self.emptied.insert(queue, next);
    }

    /// The process has ended: what it had promised.
    pub(crate) fn process_ended(&mut self, state: &StoreState, disk: &SimDisk) {
        let lost_pages = self.flush == Flush::Async && self.failed_sync;
        self.before = Some(Before {
            segments: segments(disk),
            appended: state.appended.0,
            commit: state.commit.0,
            must: if lost_pages { state.synced.0 } else { state.commit.0 },
            synced: state.synced.0,
        });
        self.failed_sync = false;
    }

    /// It has ended as asked: everything appended must be there, whatever happens to the power.
    pub(crate) fn stopped_cleanly(&mut self) {
        if let Some(before) = &mut self.before {
            before.must = before.appended;
            before.synced = before.appended;
            before.commit = before.appended;
        }
    }

    /// The power was cut: ASYNC_FLUSH may lose what was not synced.
    pub(crate) fn power_cut(&mut self) {
        if let (Flush::Async, Some(before)) = (self.flush, &mut self.before) {
            before.must = before.must.min(before.synced);
        }
    }

    /// Whether a message of this topic was answered with OK.
    pub(crate) fn has_kept(&self, topic: &str) -> bool {
        self.kept.values().any(|message| message.queue.0 == topic)
    }

    /// The store has been opened again: is everything there that must be, and nothing else? Gives the messages that are
    /// lost as the contract allows.
    fn opened(
        &mut self,
        stage: &mut Stage,
        life: u32,
        recovered: &Recovered,
        state: &StoreState,
        disk: &SimDisk,
    ) -> Vec<u64> {
        let Some(before) = self.before.take() else { return Vec::new() };
        let (min, end) = (state.min.0, recovered.end.0);
        let Before { appended, commit, must, .. } = before;
        if recovered.created && appended > 0 {
            stage.blame("kept-not-lost", format!("the store was made anew although its log had reached {appended}"));
        }
        // Rot above the durable mark looks as a torn tail does, and is cut off as one; the report says how much.
        let may_cut = std::mem::replace(&mut self.may_cut, u64::MAX);
        let reported = self.rotten && end >= may_cut && (recovered.cut > 0 || self.interrupted);
        if end < must && !reported {
            stage.blame(
                "kept-not-lost",
                format!(
                    "the log ends at {end} after recovery, {} bytes were cut; kept was everything before {must}",
                    recovered.cut
                ),
            );
        }
        if end > appended && !self.rotten {
            stage
                .blame("log-is-prefix", format!("the log ends at {end} after recovery; only {appended} were appended"));
        }
        let mut excused = Vec::new();
        if (must < commit || reported) && end < commit {
            // ASYNC_FLUSH and a power cut: what lies behind the new end is given up, and its offsets are free.
            excused = self.kept.split_off(&end).into_values().map(|message| message.id).collect();
            self.seen.retain(|_, message| message.at < end);
            self.void.push((life - 1, end));
            if reported {
                stage.happened(Rare::RotCut);
            } else if !excused.is_empty() {
                stage.happened(Rare::AsyncTailLost);
            }
        }
        if end > commit {
            stage.happened(Rare::UnackedSurvived);
        }
        if recovered.cut > 0 {
            stage.happened(Rare::TornTailCut);
        }
        if self.rotten {
            if !reported {
                stage.happened(Rare::RotHarmless);
            }
            return excused;
        }
        self.check_log(stage, &before, min, end, disk);
        if let Some((at, message)) = self.kept.range(end..).next() {
            stage.blame("kept-not-lost", format!("{message:?} was answered with position {at}; the log ends at {end}"));
        }
        if let Some(message) = self.seen.values().find(|message| message.at >= end) {
            stage.blame("seen-then-gone", format!("{message:?} was shown to a consumer; the log ends at {end}"));
        }
        excused
    }

    /// Every queue goes on behind the last offset that was answered, whether or not the message is still there.
    pub(crate) fn check_next(&self, stage: &mut Stage, next: impl Fn(QueueKey) -> u64) {
        let mut least: BTreeMap<QueueKey, u64> = BTreeMap::new();
        for message in self.kept.values() {
            let least = least.entry(message.queue).or_default();
            *least = (message.offset + 1).max(*least);
        }
        let back = least.into_iter().find(|(queue, least)| next(*queue) < *least);
        if let Some((queue, least)) = back.filter(|_| !self.rotten) {
            let next = next(queue);
            stage.blame(
                "offset-reused",
                format!("{queue:?} would go on at {next}; offsets below {least} were answered"),
            );
        }
    }

    /// The recovered log: byte for byte what was written, readable to its end, every queue without a gap, every kept
    /// message where its answer said.
    fn check_log(&self, stage: &mut Stage, before: &Before, min: u64, end: u64, disk: &SimDisk) {
        let now = segments(disk);
        for (start, bytes) in &now {
            let (from, to) = (min.max(*start), end.min(start + bytes.len() as u64));
            if from >= to {
                continue;
            }
            let within = |start: u64| (from - start) as usize..(to - start) as usize;
            let old = before.segments.iter().find(|(known, _)| known == start);
            let old = old.and_then(|(_, bytes)| bytes.get(within(*start)));
            if old != Some(&bytes[within(*start)]) {
                stage.blame(
                    "log-is-prefix",
                    format!("segment {start} differs between {from} and {to} from what was written"),
                );
            }
            // Anything left there would come back to life when the log has grown up to it.
            let behind = bytes.get(end.saturating_sub(*start) as usize..).unwrap_or_default();
            if let Some(left) = behind.iter().position(|byte| *byte != 0) {
                stage.blame(
                    "erased",
                    format!("the log ends at {end}, and segment {start} is not empty {left} bytes behind"),
                );
            }
        }
        let torn_at = before.segments.iter().find(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&end));
        if let Some((start, bytes)) = torn_at
            && end < before.appended
            && let Ok(torn) = record::decode_unchecked(&bytes[(end - start) as usize..])
            && torn.at.0 == end
            && find(torn.properties, property::BATCH).is_some()
        {
            stage.happened(Rare::BatchCut);
        }
        let mut next: BTreeMap<QueueKey, u64> = BTreeMap::new();
        let (mut of_batch, mut stored) = (0u32, i64::MIN);
        let mut kept = self.kept.range(min..end).peekable();
        let mut wrong = None;
        let mut reached = min;
        for (start, bytes) in &now {
            if start + bytes.len() as u64 <= min || *start >= end {
                continue;
            }
            reached = walk(*start, bytes, min.max(*start), end, |record| {
                let count = find(record.properties, property::BATCH).and_then(|count| count.parse().ok());
                of_batch = count.unwrap_or(of_batch).saturating_sub(1);
                if record.stored.0 < stored {
                    let (at, now) = (record.at, record.stored);
                    wrong = Some(("stamps", format!("times go back from {stored} to {now} at position {at}")));
                }
                stored = record.stored.0;
                let Some(queue) = key(record.topic, record.queue_id) else { return };
                let (offset, at) = (record.queue_offset.0, record.at.0);
                if let Some(wanted) = next.insert(queue, offset + 1)
                    && wanted != offset
                {
                    wrong = Some(("dense", format!("{queue:?} goes from {wanted} to {offset} at position {at}")));
                }
                while let Some((kept_at, message)) = kept.next_if(|(kept_at, _)| **kept_at <= at) {
                    let here = (*kept_at, message.id, message.queue, message.offset);
                    if here != (at, id_of(record.body), queue, offset) {
                        let there = (at, id_of(record.body), queue, offset);
                        wrong = Some(("kept-not-lost", format!("answered: {here:?}, in the log: {there:?}")));
                    }
                }
            });
        }
        if of_batch > 0 {
            wrong =
                Some(("batch-whole", format!("the log ends at {end} inside a batch, {of_batch} messages are missing")));
        }
        if let Some((at, message)) = kept.next() {
            wrong =
                Some(("kept-not-lost", format!("{message:?} was answered with position {at}; no record begins there")));
        }
        if reached != end && end > min {
            wrong = Some(("log-unreadable", format!("the log can be read up to {reached}, recovery says {end}")));
        }
        if let Some((checker, what)) = wrong {
            stage.blame(checker, what);
        }
    }
}

/// Shows the records of one segment between two positions. Where it came to an end: at `to`, behind a filler, or before
/// what is no record.
fn walk(start: u64, bytes: &[u8], from: u64, to: u64, mut each: impl FnMut(&record::Record<'_>)) -> u64 {
    let mut at = from;
    let end = start + bytes.len() as u64;
    while at < to.min(end) {
        match record::decode(&bytes[(at - start) as usize..], LogOffset(at)) {
            Ok(Found::Record(record)) => {
                each(&record);
                at += record.bytes.len() as u64;
            }
            Ok(Found::Blank) => return end.min(to),
            Err(_) => return at,
        }
    }
    at
}
