use crate::cx::{Checked, Cx, not_appended, refuse};
use crate::groups;
use crate::pending::Stake;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{QueryOffset, UpdateOffset};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::{QueueOffset, Response, ResponseCode};
use keepmq_store::{AppendError, Disk, MetaRecord, Need, OffsetCommit};
use keepmq_world::{Mono, planted};
use std::collections::BTreeMap;
use std::time::Duration;

/// Queue → offset.
type Queues = BTreeMap<u32, i64>;

/// Which offset each group wants next, per topic and queue.
pub(crate) struct Offsets {
    /// Group → topic → queue → offset.
    table: BTreeMap<String, BTreeMap<String, Queues>>,
}

impl Offsets {
    pub(crate) fn new(table: BTreeMap<String, BTreeMap<String, Queues>>) -> Self {
        Self { table }
    }

    pub(crate) fn get(&self, group: &str, topic: &str, queue_id: u32) -> Option<i64> {
        self.table.get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// Topics in which the group has committed something.
    pub(crate) fn topics(&self, group: &str) -> impl Iterator<Item = &str> {
        self.table.get(group).into_iter().flat_map(|topics| topics.keys().map(String::as_str))
    }

    pub(crate) fn all(&self) -> &BTreeMap<String, BTreeMap<String, Queues>> {
        &self.table
    }

    pub(crate) fn set(&mut self, commit: &OffsetCommit) {
        let topics = self.table.entry(commit.group.clone()).or_default();
        topics.entry(commit.topic.clone()).or_default().insert(commit.queue_id, commit.offset);
    }

    pub(crate) fn remove_topic(&mut self, topic: &str) {
        if planted!("deleted-topic-keeps-offsets") {
            return;
        }
        self.table.retain(|_, topics| {
            topics.remove(topic);
            !topics.is_empty()
        });
    }

    pub(crate) fn remove_group(&mut self, group: &str) {
        self.table.remove(group);
    }
}

/// The lowest place in the log that a group has not consumed: of each group that exists, in each topic in which it has
/// committed something. A queue where it has no offset counts from its first message, as in its lag.
pub(crate) fn lowest_needed<D: Disk>(cx: &Cx<D>) -> Option<Need> {
    let groups = cx.tables.offsets.all().iter().filter(|(group, _)| cx.tables.groups.get(group).is_some());
    let topics = groups.flat_map(|(group, topics)| topics.iter().map(move |(topic, queues)| (group, topic, queues)));
    let needs = topics.flat_map(|(group, topic, queues)| {
        cx.store.queues_of(topic).filter_map(move |(queue_id, view)| {
            let committed = |offset: &i64| QueueOffset(u64::try_from(*offset).unwrap_or(0));
            let offset = queues.get(&queue_id).map_or(view.min, committed);
            // Most groups are at the end of most queues.
            let at = if offset < view.max { cx.store.position(topic, queue_id, offset) } else { None }?;
            Some((at, group, topic, queue_id))
        })
    });
    let (at, group, topic, queue_id) = needs.min_by_key(|(at, ..)| *at)?;
    Some(Need { at, group: group.clone(), topic: topic.clone(), queue_id })
}

/// Commits that came without a wish for an answer, gathered into few records: the last per queue, equal ones dropped.
pub(crate) struct Commits {
    gathered: BTreeMap<Key, i64>,
    flush_at: Option<Mono>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: String,
    topic: String,
    queue_id: u32,
}

impl Key {
    fn at(self, offset: i64) -> OffsetCommit {
        OffsetCommit { group: self.group, topic: self.topic, queue_id: self.queue_id, offset }
    }
}

/// Longest time that a commit is gathered.
const GATHER: Duration = Duration::from_millis(100);
/// Most commits gathered; then they are written at once.
const GATHER_MAX: usize = 4_096;
/// Most commits of one record: with the longest names it stays below 64 KiB, the smallest segment.
const PER_RECORD: usize = 128;

impl Commits {
    pub(crate) fn new() -> Self {
        Self { gathered: BTreeMap::new(), flush_at: None }
    }

    /// UPDATE_CONSUMER_OFFSET 15.
    pub(crate) fn update<D: Disk>(&mut self, from: Caller, request: &UpdateOffset<'_>, cx: &mut Cx<D>) {
        let key = match check(&request.group, &request.topic, request.queue_id, request.offset, cx) {
            Ok(key) => key,
            Err(refusal) => {
                cx.counters.counts.offsets_ignored += 1;
                return cx.reply(from, *refusal);
            }
        };
        let known = cx.tables.offsets.get(&key.group, &key.topic, key.queue_id);
        if request.if_absent == Some(true) && (known.is_some() || self.gathered.contains_key(&key)) {
            return cx.reply_from_tables(from, Response::ok());
        }
        if from.oneway {
            return self.gather(key, request.offset, cx);
        }
        // This one is later than what was gathered for its queue, and must not be overtaken by it.
        let gathered = self.gathered.remove(&key);
        if gathered.is_none() && known == Some(request.offset) {
            return cx.reply_from_tables(from, Response::ok());
        }
        count_lowered(known, request.offset, cx);
        match cx.record(&MetaRecord::Offsets(vec![key.clone().at(request.offset)])) {
            Ok(_) if planted!("commit-answered-early") => cx.reply(from, Response::ok()),
            Ok(end) => cx.reply_after(from, end, Stake::Wrote, Response::ok()),
            Err(error) => {
                if let Some(offset) = gathered {
                    self.gathered.insert(key, offset);
                }
                cx.reply(from, *not_appended(&error));
            }
        }
    }

    /// A commit that came with a pull. Nobody waits for an answer about it, and a bad one does not spoil the pull.
    pub(crate) fn piggyback<D: Disk>(&mut self, group: &str, topic: &str, queue_id: i32, offset: i64, cx: &mut Cx<D>) {
        let known = u32::try_from(queue_id).ok().and_then(|queue_id| cx.tables.offsets.get(group, topic, queue_id));
        if self.gathered.is_empty() && known == Some(offset) {
            return;
        }
        match check(group, topic, queue_id, offset, cx) {
            Ok(key) => self.gather(key, offset, cx),
            Err(_) => cx.counters.counts.offsets_ignored += 1,
        }
    }

    fn gather<D: Disk>(&mut self, key: Key, offset: i64, cx: &mut Cx<D>) {
        let known = cx.tables.offsets.get(&key.group, &key.topic, key.queue_id);
        let waiting = self.gathered.get(&key).copied();
        if waiting.or(known) == Some(offset) {
            return;
        }
        count_lowered(waiting.or(known), offset, cx);
        self.gathered.insert(key, offset);
        self.flush_at.get_or_insert(cx.now.mono + GATHER);
        if self.gathered.len() >= GATHER_MAX {
            self.flush(cx);
        }
    }

    /// A topic or a group is gone: what was gathered for it must not come back with a new one of that name.
    pub(crate) fn forget(&mut self, gone: impl Fn(&str, &str) -> bool) {
        self.gathered.retain(|key, _| !gone(&key.group, &key.topic));
    }

    /// Writes what was gathered. What the store cannot take now is tried again a little later: nobody was promised anything.
    pub(crate) fn flush<D: Disk>(&mut self, cx: &mut Cx<D>) {
        self.flush_at = None;
        let mut commits: Vec<(Key, i64)> = std::mem::take(&mut self.gathered).into_iter().collect();
        // What was deleted meanwhile must not come back through its offsets.
        commits.retain(|(key, _)| {
            cx.tables.topics.get(&key.topic).is_some() && cx.tables.groups.get(&key.group).is_some()
        });
        for chunk in commits.chunks(PER_RECORD) {
            let record = chunk.iter().map(|(key, offset)| key.clone().at(*offset)).collect();
            match cx.record(&MetaRecord::Offsets(record)) {
                Ok(_) => {}
                // Nothing comes after it; but who asks must not be told what was there before.
                Err(AppendError::Stopped(_)) => self.gathered.extend(chunk.iter().cloned()),
                Err(_) => {
                    self.gathered.extend(chunk.iter().cloned());
                    self.flush_at = Some(cx.now.mono + GATHER);
                    if self.gathered.len() >= GATHER_MAX {
                        cx.counters.counts.offsets_ignored += self.gathered.len() as u64;
                        self.gathered.clear();
                    }
                }
            }
        }
    }

    /// QUERY_CONSUMER_OFFSET 14.
    pub(crate) fn query<D: Disk>(&mut self, from: Caller, request: &QueryOffset<'_>, cx: &mut Cx<D>) {
        let Ok(queue_id) = u32::try_from(request.queue_id) else {
            let text = format!("the queue id {} is negative", request.queue_id);
            return cx.reply(from, Response::refuse(ResponseCode::InvalidParameter, text));
        };
        // A member that takes over a queue must see what its predecessor committed just before it let go.
        let is_asked =
            |key: &Key| key.queue_id == queue_id && key.group == *request.group && key.topic == *request.topic;
        let gathered = self.gathered.keys().any(is_asked);
        if gathered && !planted!("gathered-commit-forgotten") {
            self.flush(cx);
            if self.gathered.keys().any(is_asked) {
                // It may be shown only when it can be kept; what was there before may not be shown any more.
                let text = "a later offset waits for room in the log: ask again a little later";
                return cx.reply(from, Response::refuse(ResponseCode::SystemBusy, text));
            }
        }
        let known = cx.tables.offsets.get(&request.group, &request.topic, queue_id);
        let offset = known.or_else(|| start(request, queue_id, cx));
        let response = match offset {
            Some(offset) => Response::ok().with_header(ResponseHeader::Offset(offset)),
            None => Response::refuse(
                ResponseCode::QueryNotFound,
                "Not found, maybe this group consumer boot first: it decides by itself where to start",
            ),
        };
        cx.reply_from_tables(from, response);
    }

    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        if self.flush_at.is_some_and(|at| at <= cx.now.mono) {
            self.flush(cx);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.flush_at
    }
}

/// Where a group without an offset starts, when that is certain: at the beginning of a queue that has lost nothing. (It
/// would otherwise ask for the end next, and skip what arrives in between.)
fn start<D: Disk>(request: &QueryOffset<'_>, queue_id: u32, cx: &Cx<D>) -> Option<i64> {
    if request.zero_if_not_found == Some(false) || cx.tables.topics.get(&request.topic).is_none() {
        return None;
    }
    match cx.store.queue(&request.topic, queue_id) {
        None => Some(0),
        Some(view) => (!view.has_lost).then(|| view.min.wire()),
    }
}

fn count_lowered<D: Disk>(before: Option<i64>, offset: i64, cx: &mut Cx<D>) {
    cx.counters.counts.offsets_lowered += u64::from(before.is_some_and(|before| offset < before));
}

/// What an offset commit must name: a topic, a queue of it, a group, and an offset that the queue has reached.
fn check<D: Disk>(group: &str, topic: &str, queue_id: i32, offset: i64, cx: &mut Cx<D>) -> Checked<Key> {
    let Some(config) = cx.tables.topics.get(topic) else {
        let text = format!("Topic {topic} not exist: offsets are only kept for topics of this broker");
        return Err(refuse(ResponseCode::TopicNotExist, text));
    };
    let invalid = |text: String| Err(refuse(ResponseCode::InvalidParameter, text));
    let queues = config.read_queue_nums.max(config.write_queue_nums);
    let view = u32::try_from(queue_id).ok().map(|queue_id| (queue_id, cx.store.queue(topic, queue_id)));
    let (queue_id, view) = match view {
        Some((queue_id, view)) if queue_id < queues || view.is_some() => (queue_id, view),
        _ => return invalid(format!("topic {topic} has no queue {queue_id}: it has {queues}")),
    };
    let max = view.map_or(0, |view| view.max.wire());
    if !(0..=max).contains(&offset) {
        return invalid(format!(
            "the offset {offset} of queue {queue_id} of {topic} cannot be committed: the queue has messages up to {max}"
        ));
    }
    groups::ensure(group, cx)?;
    Ok(Key { group: group.to_owned(), topic: topic.to_owned(), queue_id })
}
