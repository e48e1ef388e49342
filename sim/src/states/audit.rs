//! A store that has been opened, held against the story that it must tell.

use super::story::{Event, QUEUES, TOPICS, What};
use super::tape::TapeDisk;
use keepmq_protocol::body::TagFilter;
use keepmq_protocol::record::decode_unchecked;
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset};
use keepmq_store::{
    Limits, LogReader, MetaRecord, QueueView, ReadError, ReadPlan, Recovered, Selection, Served, Store,
};

/// What was found in a store.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// What contradicts the story.
    pub(super) wrong: Option<String>,
    /// Errors that readers were told.
    pub(super) errors: Vec<String>,
    /// Messages that were not shown, and an error said so.
    pub(super) withheld: u64,
}

const MANY: Limits = Limits { messages: 64, bytes: 1 << 20, scanned: 800 };
const ONE: Limits = Limits { messages: 1, bytes: 1, scanned: 1 };

/// Reads all that the store shows. `events` are those of the story in the order of the log; what ends behind the log's end is
/// taken for never appended. Who calls has made sure that nothing promised is missing there.
pub(super) fn audit(store: &Store<TapeDisk>, recovered: &Recovered, events: &[Event]) -> Audit {
    let mut audit = Audit::default();
    let end = recovered.end.0;
    let there = &events[..events.partition_point(|event| event.end <= end)];
    audit.check_end(there, events, end);
    let min = store.state().min.0;
    for (topic, name) in TOPICS.iter().enumerate() {
        for queue in 0..QUEUES {
            audit.check_queue(store, there, topic, name, queue, min);
        }
    }
    audit.check_metas(store, recovered, there, min);
    audit.check_places(store, there, min);
    audit
}

impl Audit {
    fn blame(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// The log ends behind a record, or where the next begins, and in no batch.
    fn check_end(&mut self, there: &[Event], events: &[Event], end: u64) {
        let last = there.last().map_or(0, |event| event.end);
        let next = events.get(there.len()).map_or(last, |event| event.at);
        if end != last && end != next {
            self.blame(|| format!("the log ends at {end}: between {last} and {next} is no place where a record ends"));
        }
        let cut = there.iter().rev().take(8).find_map(|event| match event.what {
            What::Message { batch: (from, to), .. } if from < end && to > end => Some((from, to)),
            _ => None,
        });
        if let Some((from, to)) = cut {
            self.blame(|| format!("the log ends at {end}, inside the batch {from}..{to}"));
        }
    }

    fn check_queue(
        &mut self,
        store: &Store<TapeDisk>,
        there: &[Event],
        topic: usize,
        name: &str,
        queue: u32,
        min: u64,
    ) {
        let (mut count, mut first, mut taken) = (0u64, 0u64, false);
        let mut bodies = Vec::new();
        for event in there {
            match &event.what {
                What::Message { topic: of, queue: id, body, .. } if (*of, *id) == (topic, queue) => {
                    if event.at < min {
                        first = count + 1;
                        taken = true;
                    } else {
                        bodies.push((count, body, event));
                    }
                    count += 1;
                }
                What::Meta(Some(MetaRecord::TopicDeleted(deleted))) if deleted == name => {
                    // What a deletion has emptied, retention need not have touched.
                    (first, taken) = (count, false);
                    bodies.clear();
                }
                What::Message { .. } | What::Meta(_) => {}
            }
        }
        let view = store.queue(name, queue);
        let (from, to) = view.map_or((0, 0), |view| (view.min.0, view.max.0));
        if (from, to) != (first, count) {
            self.blame(|| format!("queue {queue} of {name} holds {from}..{to}; it must hold {first}..{count}"));
            return;
        }
        if taken && view.is_some_and(|view| !view.has_lost) {
            self.blame(|| format!("queue {queue} of {name} says that retention has taken nothing from it"));
        }
        let reader = store.reader();
        let mut next = first;
        let mut expected = bodies.into_iter();
        while next < count {
            let read = self.read(store, &reader, name, queue, next, count);
            let Some(read) = read else {
                // An error names what lies there; what follows may be well.
                self.withheld += 1;
                expected.next();
                next += 1;
                continue;
            };
            if read.is_empty() {
                self.blame(|| format!("queue {queue} of {name} gives nothing at {next}; it reaches to {count}"));
                return;
            }
            for (offset, body, of) in read {
                let wanted = expected.next().map(|(nth, body, event)| (nth, body.as_ref(), event.at));
                if wanted != Some((offset, &body[..], of)) {
                    let (wanted, len) = (wanted.map(|(nth, _, at)| (nth, at)), body.len());
                    self.blame(|| {
                        format!(
                            "queue {queue} of {name} shows at {next} message {offset}, written at {of}, of {len} bytes; \
                             wanted is {wanted:?}"
                        )
                    });
                    return;
                }
                next = offset + 1;
            }
        }
    }

    /// Messages from an offset on: offset, body and position; `None` when an error says why there are none.
    fn read(
        &mut self,
        store: &Store<TapeDisk>,
        reader: &LogReader<TapeDisk>,
        topic: &str,
        queue: u32,
        from: u64,
        to: u64,
    ) -> Option<Vec<(u64, Vec<u8>, u64)>> {
        let mut last = None;
        for limits in [MANY, ONE] {
            let selected = store.select(topic, queue, QueueOffset(from), &TagFilter::all(), limits);
            let Selection::Read(plan) = selected else { return Some(Vec::new()) };
            match reader.serve(&plan) {
                Ok(Served::Records { bytes, .. }) => {
                    let mut messages = Vec::new();
                    for mut piece in bytes.iter().map(|piece| &piece[..]) {
                        while !piece.is_empty() {
                            let Ok(record) = decode_unchecked(piece) else {
                                self.blame(|| format!("queue {queue} of {topic}, {from}: what is served is no record"));
                                return Some(Vec::new());
                            };
                            if (record.topic, record.queue_id) != (topic, queue) {
                                let (other, id) = (record.topic, record.queue_id);
                                self.blame(|| {
                                    format!("queue {queue} of {topic} shows a message of queue {id} of {other}")
                                });
                            }
                            messages.push((record.queue_offset.0, record.body.to_vec(), record.at.0));
                            piece = &piece[record.bytes.len()..];
                        }
                    }
                    messages.retain(|(offset, ..)| *offset < to);
                    return Some(messages);
                }
                Ok(other) => {
                    self.blame(|| format!("records were asked for: {other:?}"));
                    return Some(Vec::new());
                }
                Err(error) => last = Some(error.to_string()),
            }
        }
        self.errors.extend(last);
        None
    }

    /// The tables of the snapshot and the records behind it are all metadata records there are.
    fn check_metas(&mut self, store: &Store<TapeDisk>, recovered: &Recovered, there: &[Event], min: u64) {
        let metas: Vec<&Event> = there.iter().filter(|event| matches!(event.what, What::Meta(_))).collect();
        let view = store.queue(META_TOPIC, 0);
        let removed = metas.iter().filter(|event| event.at < min).count() as u64;
        let wanted = (removed, metas.len() as u64);
        if !metas.is_empty() && view.map(|QueueView { min, max, .. }| (min.0, max.0)) != Some(wanted) {
            self.blame(|| format!("the metadata queue is {view:?}; it must hold {wanted:?}"));
        }
        let in_tables = recovered.tables.first_chunk().map_or(0, |count| u64::from_be_bytes(*count)) as usize;
        let replayed = match store.replay() {
            Ok(replayed) => replayed,
            Err(error) => return self.errors.push(format!("metadata: {error}")),
        };
        let same = |(event, record): (&&Event, &MetaRecord)| match &event.what {
            What::Meta(Some(wanted)) => wanted == record,
            What::Meta(None) => matches!(record, MetaRecord::QueueEnds(_)),
            What::Message { .. } => false,
        };
        let behind = metas.get(in_tables..);
        if !behind.is_some_and(|behind| behind.len() == replayed.len() && behind.iter().zip(&replayed).all(same)) {
            let (all, replayed) = (metas.len(), replayed.len());
            self.blame(|| {
                format!("{in_tables} metadata records in the snapshot and {replayed} behind it: {all} were written")
            });
        }
    }

    /// Messages are found by their position, too.
    fn check_places(&mut self, store: &Store<TapeDisk>, there: &[Event], min: u64) {
        let reader = store.reader();
        for event in there.iter().rev().step_by(16).take_while(|event| event.at >= min) {
            match reader.serve(&ReadPlan::record(event.at)) {
                Ok(Served::Records { bytes, .. }) => {
                    let found = bytes.first().map(|bytes| decode_unchecked(bytes));
                    let is_it = match (&event.what, found) {
                        (What::Message { body, .. }, Some(Ok(record))) => {
                            record.body == &body[..] && record.at == LogOffset(event.at)
                        }
                        (What::Meta(_), Some(Ok(record))) => record.topic == META_TOPIC,
                        _ => false,
                    };
                    if !is_it {
                        self.blame(|| format!("another record is shown at {}", event.at));
                    }
                }
                // Where the head of a record is gone, nobody can know that there was one: the queue can.
                Err(error @ (ReadError::Damaged { .. } | ReadError::Io { .. } | ReadError::Nothing { .. })) => {
                    self.errors.push(error.to_string());
                }
                other => self.blame(|| format!("the record at {} is not found by its place: {other:?}", event.at)),
            }
        }
    }
}
