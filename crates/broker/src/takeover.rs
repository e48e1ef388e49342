//! What a broker takes over from a store that RocketMQ has written: topics, groups, offsets, and where queues go on that
//! retention has emptied. And why it takes nothing: what it would lose or misread.

use crate::broker::Broker;
use keepmq_protocol::body::{SubscriptionGroup, TopicConfig};
use keepmq_protocol::{ConsumerGroup, Topic, json};
use keepmq_store::{AppendError, Disk, MetaRecord, OffsetCommit, QueueEnd};
use keepmq_world::Now;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// RocketMQ's tables, as they lie below the root of a store.
const TOPICS: &str = "config/topics.json";
const GROUPS: &str = "config/subscriptionGroup.json";
const OFFSETS: &str = "config/consumerOffset.json";
/// Next offsets of delayed messages, by level.
const DELAYS: &str = "config/delayOffset.json";
/// How many messages each topic has waiting in the timer.
const TIMER: &str = "config/timermetrics";
const LMQ: &str = "config/lmqConsumerOffset.json";
const STATIC_TOPICS: &str = "config/topicQueueMapping.json";

/// The files whose content is looked at.
pub const FILES: [&str; 7] = [TOPICS, GROUPS, OFFSETS, DELAYS, TIMER, LMQ, STATIC_TOPICS];

const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
const REVIVE_PREFIX: &str = "rmq_sys_REVIVE_LOG_";

/// Offsets in one record.
const OFFSETS_PER_RECORD: usize = 500;

/// What lies beside a log.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// The store has a log.
    pub log: bool,
    /// It has KeepMQ's identity.
    pub known: bool,
    /// The file `abort`, if it is there.
    pub abort: Option<Vec<u8>>,
    /// Files and folders that mark a kind of store, of those in [`MARKS`], and `dledger-…`.
    pub marks: BTreeSet<String>,
    /// The content of [`FILES`], of those that are there.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// Where RocketMQ's consume queues end.
    pub ends: Vec<QueueEnd>,
}

/// Marks of stores that RocketMQ keeps in another way, and what they are.
pub const MARKS: [(&str, &str); 4] = [
    ("consumequeue/CURRENT", "its queues are a RocksDB database (storeType=defaultRocksDB)"),
    ("config/topics", "its tables are RocksDB databases"),
    ("config/consumerOffsets", "its tables are RocksDB databases"),
    ("config/rdb", "its tables are RocksDB databases"),
];

/// Why a store is not taken over, or not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverError {
    /// Nobody has said that it shall be.
    #[error("{0} was written by RocketMQ")]
    NotAsked(&'static str),
    /// RocketMQ was killed, or still runs elsewhere.
    #[error("the file abort is there: RocketMQ was not stopped cleanly, and its tables may be older than its log")]
    Unclean,
    /// It is kept in a way that cannot be read here, or holds what cannot be done here.
    #[error("{0}")]
    Kind(String),
    /// Messages wait in it that nobody would deliver any more.
    #[error("{0}")]
    Waiting(String),
    /// A file is missing, or half.
    #[error("{path}: {what}")]
    Damaged {
        /// Below the store's root.
        path: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// Why a record cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It cannot be written down.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// RocketMQ's index knows messages that the log has not got.
    #[error("queue {} of {} ends at {} by RocketMQ's index, and at {found} by its log", end.queue_id, end.topic, end.next)]
    Short {
        /// By the index.
        end: QueueEnd,
        /// By the log.
        found: u64,
    },
}

impl<D: Disk> Broker<D> {
    /// Takes over a record of [`take_over`], before anybody is connected: the broker that does it is stopped then, and its
    /// clean end says that all is kept. What follows from the configuration, or from the log, is left out.
    pub fn adopt(&mut self, record: MetaRecord, now: Now) -> Result<(), AdoptError> {
        let cx = &mut self.cx;
        cx.now = now;
        let record = match record {
            MetaRecord::Topic(topic) if cx.tables.topics.is_system(&topic.topic_name) => return Ok(()),
            MetaRecord::Offsets(mut lines) => {
                lines.retain(|line| !cx.tables.topics.is_system(&line.topic));
                MetaRecord::Offsets(lines)
            }
            MetaRecord::QueueEnds(ends) => {
                let Some(end) = ends.first() else { return Ok(()) };
                match cx.store.queue(&end.topic, end.queue_id).map(|view| view.max.0) {
                    Some(found) if found >= end.next => return Ok(()),
                    Some(found) => return Err(AdoptError::Short { end: end.clone(), found }),
                    None => MetaRecord::QueueEnds(ends),
                }
            }
            record => record,
        };
        cx.record(&record)?;
        Ok(())
    }
}

/// Whether RocketMQ has written this table. It indents by tabs; KeepMQ, which exports the same files, by blanks. An empty one
/// says nothing of either.
fn is_foreign(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !bytes.starts_with(b"{\n  \"")
}

/// What to take over, as records in their order; none when the store is KeepMQ's already. `asked`: the operator wants it.
pub fn take_over(beside: &Beside, asked: bool) -> Result<Vec<MetaRecord>, TakeoverError> {
    let tables = [TOPICS, GROUPS, OFFSETS];
    let foreign = tables.into_iter().find(|path| beside.files.get(path).is_some_and(|bytes| is_foreign(bytes)));
    let Some(first) = foreign.or((beside.log && !beside.known).then_some("commitlog")) else { return Ok(Vec::new()) };
    if !beside.log {
        return Err(TakeoverError::Damaged { path: "commitlog", what: format!("there is no log, but {first}") });
    }
    if !asked {
        return Err(TakeoverError::NotAsked(first));
    }
    // KeepMQ makes an empty one while it runs; RocketMQ's holds the number of its process.
    if beside.abort.as_ref().is_some_and(|content| !beside.known || !content.is_empty()) {
        return Err(TakeoverError::Unclean);
    }
    refuse_other_kinds(beside)?;
    let topics: TopicsFile = read(beside, TOPICS)?;
    let groups: GroupsFile = read(beside, GROUPS)?;
    let offsets: OffsetsFile = read(beside, OFFSETS)?;
    refuse_other_topics(&topics)?;
    refuse_what_waits(beside, &offsets)?;
    records(topics, groups, offsets, &beside.ends)
}

fn refuse_other_kinds(beside: &Beside) -> Result<(), TakeoverError> {
    let marks = MARKS.iter().filter(|(mark, _)| beside.marks.contains(*mark));
    if let Some((mark, what)) = marks.into_iter().next() {
        return Err(TakeoverError::Kind(format!("{mark} is there: {what}")));
    }
    if let Some(mark) = beside.marks.iter().find(|mark| mark.starts_with("dledger-")) {
        return Err(TakeoverError::Kind(format!("{mark} is there: its log is DLedger's")));
    }
    let filled = |path: &'static str, table: &str| -> Result<bool, TakeoverError> {
        let Some(bytes) = beside.files.get(path).filter(|bytes| !bytes.is_empty()) else { return Ok(false) };
        let value = json::read(bytes).map_err(|error| damaged(path, &error))?;
        Ok(value[table].as_object().is_some_and(|entries| !entries.is_empty()))
    };
    if filled(LMQ, "lmqOffsetTable")? || beside.ends.iter().any(|end| end.topic.starts_with("%LMQ%")) {
        return Err(TakeoverError::Kind(format!("it has light message queues ({LMQ}), which are not built here")));
    }
    if filled(STATIC_TOPICS, "topicQueueMappingInfoMap")? {
        return Err(TakeoverError::Kind(format!("{STATIC_TOPICS} has entries: static topics are not built here")));
    }
    Ok(())
}

fn refuse_other_topics(topics: &TopicsFile) -> Result<(), TakeoverError> {
    for (name, config) in &topics.topic_config_table {
        for (attribute, plain) in [("queue.type", "SimpleCQ"), ("cleanup.policy", "DELETE")] {
            if let Some(kind) = config.attributes.get(attribute).filter(|kind| *kind != plain) {
                let what = format!(
                    "topic {name} has {attribute}={kind}, which is not built here: its messages would be misread"
                );
                return Err(TakeoverError::Kind(what));
            }
        }
    }
    Ok(())
}

/// Messages that RocketMQ still had to deliver, and that nobody here would.
fn refuse_what_waits(beside: &Beside, offsets: &OffsetsFile) -> Result<(), TakeoverError> {
    let behind = |topic: &str, group: &str| -> u64 {
        let ends = beside.ends.iter().filter(|end| end.topic == topic);
        let done = offsets.offset_table.get(&format!("{topic}@{group}"));
        ends.map(|end| {
            let done = done.and_then(|queues| queues.get(&end.queue_id)).copied().unwrap_or_default();
            end.next.saturating_sub(u64::try_from(done).unwrap_or_default())
        })
        .sum()
    };
    let halves = behind(HALF_TOPIC, "CID_RMQ_SYS_TRANS");
    if halves > 0 {
        let what = format!("{halves} half messages of transactions are not known to be resolved; they would never be");
        return Err(TakeoverError::Waiting(what));
    }
    let revives = beside.ends.iter().filter(|end| end.topic.starts_with(REVIVE_PREFIX));
    let names: BTreeSet<&str> = revives.map(|end| &*end.topic).collect();
    let popped: u64 = names.into_iter().map(|topic| behind(topic, "CID_RMQ_SYS_REVIVE_GROUP")).sum();
    if popped > 0 {
        let what =
            format!("{popped} records of POP consumers are not worked off: what they stand for would not come again");
        return Err(TakeoverError::Waiting(what));
    }
    let delays: DelaysFile =
        if beside.files.contains_key(DELAYS) { read(beside, DELAYS)? } else { DelaysFile::default() };
    let mut delayed = 0;
    for end in beside.ends.iter().filter(|end| end.topic == SCHEDULE_TOPIC) {
        let done = delays.offset_table.get(&(end.queue_id + 1)).copied().unwrap_or_default();
        delayed += end.next.saturating_sub(u64::try_from(done).unwrap_or_default());
    }
    if beside.files.get(TIMER).is_some_and(|bytes| !bytes.is_empty()) {
        let timer: TimerFile = read(beside, TIMER)?;
        delayed +=
            timer.timing_count.values().map(|metric| u64::try_from(metric.count).unwrap_or_default()).sum::<u64>();
    }
    if delayed > 0 {
        return Err(TakeoverError::Waiting(format!(
            "{delayed} delayed messages are not delivered yet; they would never be"
        )));
    }
    Ok(())
}

fn records(
    topics: TopicsFile,
    groups: GroupsFile,
    offsets: OffsetsFile,
    ends: &[QueueEnd],
) -> Result<Vec<MetaRecord>, TakeoverError> {
    let mut records = Vec::new();
    for (name, topic) in topics.topic_config_table {
        Topic::check(&name).map_err(|error| damaged(TOPICS, &error))?;
        records.push(MetaRecord::Topic(TopicConfig { topic_name: name, ..topic }));
    }
    for (name, group) in groups.subscription_group_table {
        ConsumerGroup::check(&name).map_err(|error| damaged(GROUPS, &error))?;
        records.push(MetaRecord::Group(SubscriptionGroup { group_name: name, ..group }));
    }
    let mut commits = Vec::new();
    for (key, queues) in offsets.offset_table {
        let (topic, group) =
            key.split_once('@').ok_or_else(|| damaged(OFFSETS, &format!("{key:?} is no topic@group")))?;
        Topic::check(topic).map_err(|error| damaged(OFFSETS, &error))?;
        ConsumerGroup::check(group).map_err(|error| damaged(OFFSETS, &error))?;
        let commit =
            |(queue_id, offset)| OffsetCommit { group: group.to_owned(), topic: topic.to_owned(), queue_id, offset };
        commits.extend(queues.into_iter().map(commit));
    }
    // Queues before offsets: whoever reads an offset finds the queue that it points into.
    records.extend(ends.iter().filter(|end| end.next > 0).map(|end| MetaRecord::QueueEnds(vec![end.clone()])));
    records.extend(commits.chunks(OFFSETS_PER_RECORD).map(|commits| MetaRecord::Offsets(commits.to_vec())));
    Ok(records)
}

fn read<T: DeserializeOwned>(beside: &Beside, path: &'static str) -> Result<T, TakeoverError> {
    let bytes = beside.files.get(path).ok_or_else(|| damaged(path, &"it is missing"))?;
    if bytes.is_empty() {
        return Err(damaged(path, &"it is empty"));
    }
    json::parse(bytes).map_err(|error| damaged(path, &error))
}

fn damaged(path: &'static str, what: &dyn fmt::Display) -> TakeoverError {
    TakeoverError::Damaged { path, what: what.to_string() }
}

/// Source: RocketMQ `TopicConfigSerializeWrapper`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopicsFile {
    topic_config_table: BTreeMap<String, TopicConfig>,
}

/// Source: RocketMQ `SubscriptionGroupWrapper`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupsFile {
    subscription_group_table: BTreeMap<String, SubscriptionGroup>,
}

/// Source: RocketMQ `ConsumerOffsetManager`: `topic@group` → queue → offset.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OffsetsFile {
    offset_table: BTreeMap<String, BTreeMap<u32, i64>>,
}

/// Source: RocketMQ `DelayOffsetSerializeWrapper`: level → offset.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DelaysFile {
    offset_table: BTreeMap<u32, i64>,
}

/// Source: RocketMQ `TimerMetrics.TimerMetricsSerializeWrapper`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimerFile {
    #[serde(default)]
    timing_count: BTreeMap<String, Metric>,
}

#[derive(Deserialize)]
struct Metric {
    count: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RocketMQ 5.3.3 writes them: tabs, and numbers as keys without quotes.
    fn java() -> Beside {
        let topics = "{\n\t\"dataVersion\":{\"counter\":1,\"stateVersion\":0,\"timestamp\":1},\n\t\"topicConfigTable\":{\n\t\t\"T\":{\n\t\t\t\"attributes\":{},\n\t\t\t\"order\":false,\n\t\t\t\"perm\":6,\n\t\t\t\"readQueueNums\":3,\n\t\t\t\"topicFilterType\":\"SINGLE_TAG\",\n\t\t\t\"topicName\":\"T\",\n\t\t\t\"topicSysFlag\":0,\n\t\t\t\"writeQueueNums\":2\n\t\t}\n\t}\n}";
        let groups = "{\n\t\"forbiddenTable\":{},\n\t\"subscriptionGroupTable\":{\n\t\t\"G\":{\"groupName\":\"G\",\"retryMaxTimes\":5}\n\t}\n}";
        let offsets = "{\n\t\"offsetTable\":{\n\t\t\"T@G\":{0:7,1:9},\n\t\t\"%RETRY%G@G\":{0:1}\n\t}\n}";
        let files = [(TOPICS, topics), (GROUPS, groups), (OFFSETS, offsets)];
        Beside {
            log: true,
            files: files.into_iter().map(|(path, text)| (path, text.as_bytes().to_vec())).collect(),
            ends: vec![end("T", 0, 7), end("T", 1, 12)],
            ..Beside::default()
        }
    }

    fn end(topic: &str, queue_id: u32, next: u64) -> QueueEnd {
        QueueEnd { topic: topic.to_owned(), queue_id, next }
    }

    fn with(path: &'static str, text: &str) -> Beside {
        let mut beside = java();
        beside.files.insert(path, text.as_bytes().to_vec());
        beside
    }

    #[test]
    fn topics_groups_ends_and_offsets_are_taken_over() {
        let records = take_over(&java(), true).unwrap();
        let [
            MetaRecord::Topic(topic),
            MetaRecord::Group(group),
            MetaRecord::QueueEnds(_),
            MetaRecord::QueueEnds(ends),
            MetaRecord::Offsets(offsets),
        ] = &records[..]
        else {
            panic!("{records:?}")
        };
        assert_eq!((&*topic.topic_name, topic.read_queue_nums, topic.write_queue_nums), ("T", 3, 2));
        assert_eq!((&*group.group_name, group.retry_max_times), ("G", 5));
        assert_eq!(ends, &[end("T", 1, 12)]);
        let offsets: Vec<_> =
            offsets.iter().map(|line| (&*line.topic, &*line.group, line.queue_id, line.offset)).collect();
        assert_eq!(offsets, [("%RETRY%G", "G", 0, 1), ("T", "G", 0, 7), ("T", "G", 1, 9)]);
    }

    #[test]
    fn what_is_ours_is_left_alone_and_what_is_not_asked_for_is_refused() {
        let ours = "{\n  \"dataVersion\": {\n    \"counter\": 1\n  }\n}";
        let files: BTreeMap<_, _> = [TOPICS, GROUPS, OFFSETS].map(|path| (path, ours.as_bytes().to_vec())).into();
        let known = Beside { log: true, known: true, abort: Some(Vec::new()), files, ..Beside::default() };
        assert_eq!(take_over(&known, true), Ok(Vec::new()));
        assert_eq!(take_over(&known, false), Ok(Vec::new()));
        let emptied = [TOPICS, GROUPS, OFFSETS].map(|path| (path, Vec::new())).into();
        assert_eq!(take_over(&Beside { files: emptied, ..known }, false), Ok(Vec::new()), "they are exported again");
        assert_eq!(take_over(&Beside::default(), true), Ok(Vec::new()), "a new store");
        assert_eq!(take_over(&java(), false), Err(TakeoverError::NotAsked(TOPICS)));
        // RocketMQ was used in between, or a takeover did not come to its end.
        let back = Beside { known: true, abort: Some(Vec::new()), ..java() };
        assert_eq!(take_over(&back, false), Err(TakeoverError::NotAsked(TOPICS)));
        assert!(take_over(&back, true).is_ok_and(|records| records.len() == 5));
        assert!(matches!(
            take_over(&Beside { log: false, ..java() }, true),
            Err(TakeoverError::Damaged { path: "commitlog", .. })
        ));
    }

    #[test]
    fn what_would_be_lost_or_misread_is_refused() {
        let text = |beside: Beside| take_over(&beside, true).unwrap_err().to_string();
        assert!(text(Beside { abort: Some(b"4711".to_vec()), ..java() }).contains("abort"));
        for mark in MARKS.map(|(mark, _)| mark).into_iter().chain(["dledger-n0"]) {
            assert!(text(Beside { marks: [mark.to_owned()].into(), ..java() }).contains(mark), "{mark}");
        }
        for path in [TOPICS, GROUPS, OFFSETS] {
            let mut beside = java();
            let whole = beside.files.remove(path).unwrap();
            assert!(text(beside).contains("missing"), "{path}");
            let half = String::from_utf8_lossy(&whole[..whole.len() / 2]).into_owned();
            assert!(text(with(path, &half)).starts_with(path), "{path}");
            assert!(text(with(path, "")).contains("empty"), "{path}");
        }
        let batch =
            "{\n\t\"topicConfigTable\":{\"T\":{\"attributes\":{\"queue.type\":\"BatchCQ\"},\"topicName\":\"T\"}}}";
        assert!(text(with(TOPICS, batch)).contains("BatchCQ"));
        assert!(text(with(LMQ, "{\"lmqOffsetTable\":{\"%LMQ%a@g\":3}}")).contains(LMQ));
        assert!(text(with(STATIC_TOPICS, "{\"topicQueueMappingInfoMap\":{\"T\":{}}}")).contains("static"));
        assert!(text(with(TIMER, "{\"timingCount\":{\"T\":{\"count\":2,\"timeStamp\":1}}}")).contains("2 delayed"));
    }

    #[test]
    fn what_waits_is_counted_against_what_was_done() {
        let waiting = |topic: &str, queue: u32, key: &str, done: u64| {
            let offsets = format!("{{\n\t\"offsetTable\":{{\"{key}\":{{{queue}:{done}}}}}}}");
            let mut beside = with(OFFSETS, &offsets);
            beside.files.insert(DELAYS, format!("{{\"offsetTable\":{{3:{done}}}}}").into_bytes());
            beside.ends.push(end(topic, queue, 10));
            take_over(&beside, true).map(drop)
        };
        for (topic, queue, key) in [
            (HALF_TOPIC, 0, "RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS"),
            ("rmq_sys_REVIVE_LOG_C", 5, "rmq_sys_REVIVE_LOG_C@CID_RMQ_SYS_REVIVE_GROUP"),
            (SCHEDULE_TOPIC, 2, "T@G"),
        ] {
            assert_eq!(waiting(topic, queue, key, 10), Ok(()), "{topic}");
            let error = waiting(topic, queue, key, 7).unwrap_err();
            assert!(error.to_string().starts_with("3 "), "{topic}: {error}");
        }
    }
}
