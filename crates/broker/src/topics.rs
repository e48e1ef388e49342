use crate::config::{BrokerConfig, LiveConfig};
use crate::counters::{SHOWN, Traffic};
use keepmq_protocol::body::{DataVersion, TopicConfig, perm};
use keepmq_protocol::{LogOffset, OWN_PREFIX, RETRY_PREFIX, Topic};
use keepmq_world::{Keyed, Map, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The topic whose settings new topics inherit.
pub(crate) const DEFAULT_TOPIC: &str = "TBW102";
/// Most queues of a topic.
pub(crate) const MAX_QUEUES: u32 = 65_536;

/// System names that RocketMQ reserves wherever they are made. Source: `TopicValidator`.
const RESERVED: [&str; 10] = [
    DEFAULT_TOPIC,
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];
/// Those that no client may send to.
const NOT_FOR_CLIENTS: [&str; 6] = [
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// Whether it is one of KeepMQ's own, which nobody outside sees.
pub(crate) fn is_own(topic: &str) -> bool {
    topic.starts_with(OWN_PREFIX)
}

/// Whether clients may never send to it.
pub(crate) fn is_closed_to_clients(topic: &str) -> bool {
    NOT_FOR_CLIENTS.contains(&topic)
}

/// The topic table: system topics, which follow from the configuration and are made at every start, and topics that are
/// records of the log. Only the latter are in snapshots and exports: Java, too, makes its system topics by itself.
pub(crate) struct Topics {
    table: Map<Topic, Entry>,
    /// How many are records.
    recorded: usize,
    /// Version of the table. Every start is a version of its own: it may have lost changes that were never kept.
    pub(crate) version: DataVersion,
    /// What has changed since the start.
    pub(crate) changes: Changes,
}

struct Entry {
    config: TopicConfig,
    system: bool,
    /// End of the record it stands in; 0 for what was there at the start.
    end: LogOffset,
    /// What was sent to it since the start.
    traffic: Traffic,
}

/// The latest changes of the topics, so that name servers need not be told of all topics whenever one is new.
pub(crate) struct Changes {
    latest: VecDeque<Change>,
    /// Changes that are not in `latest` any more.
    forgotten: u64,
    /// The state behind the last of those.
    before: Told,
}

struct Change {
    topic: Topic,
    told: Told,
}

/// A state of the table: after so many changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    end: LogOffset,
    version: DataVersion,
}

/// Changes that are remembered.
const REMEMBERED: usize = 16_384;

impl Changes {
    fn push(&mut self, topic: Topic, told: Told) {
        if self.latest.len() == REMEMBERED
            && let Some(first) = self.latest.pop_front()
        {
            self.forgotten += 1;
            self.before = first.told;
        }
        self.latest.push_back(Change { topic, told });
    }

    /// Everything may have changed: no list of changes leads here from before.
    fn everything(&mut self, version: DataVersion) {
        let end = self.latest.back().map_or(self.before.end, |last| last.told.end);
        self.forgotten += self.latest.len() as u64 + 1;
        self.latest.clear();
        self.before = Told { end, version };
    }

    /// How many changes are kept when the log is kept up to `commit`, and the table's version then. `None`: fewer than can be
    /// told apart.
    pub(crate) fn kept(&self, commit: LogOffset) -> Option<(u64, DataVersion)> {
        if self.before.end > commit {
            return None;
        }
        let kept = self.latest.partition_point(|change| change.told.end <= commit);
        let version = kept.checked_sub(1).map_or(self.before.version, |last| self.latest[last].told.version);
        Some((self.forgotten + kept as u64, version))
    }

    /// The topics that changes number `from` up to `until` were made to, each once. `None`: some are forgotten.
    pub(crate) fn between(&self, from: u64, until: u64) -> Option<BTreeSet<&Topic>> {
        let index = |number: u64| usize::try_from(number.checked_sub(self.forgotten)?).ok();
        let changes = self.latest.range(index(from)?..index(until)?);
        Some(changes.map(|change| &change.topic).collect())
    }
}

impl Topics {
    /// The system topics. `version` is the last one known of the table before.
    pub(crate) fn new(keyed: Keyed, config: &BrokerConfig, version: DataVersion, wall: Timestamp) -> Self {
        let before = Told { end: LogOffset::default(), version };
        let changes = Changes { latest: VecDeque::new(), forgotten: 0, before };
        let mut topics = Self { table: keyed.map(), recorded: 0, version, changes };
        topics.next_version(wall);
        topics.changes.before.version = topics.version;
        let read_write = perm::READ | perm::WRITE;
        let mut system = vec![
            ("SELF_TEST_TOPIC".to_owned(), 1, read_write),
            ("BenchmarkTest".to_owned(), 1024, read_write),
            ("OFFSET_MOVED_EVENT".to_owned(), 1, read_write),
            (config.cluster.clone(), 16, read_write | perm::INHERIT),
            (config.name.clone(), 1, read_write | perm::INHERIT),
        ];
        if config.live.auto_create_topic {
            system.push(default_topic(&config.live));
        }
        let end = LogOffset::default();
        for (name, queues, perm) in system {
            // A host name may be no topic name (it may hold dots); then this topic does not exist, as nobody could ask for it.
            if let Ok(topic) = Topic::new(&name) {
                let entry =
                    Entry { config: settings(name, queues, perm), system: true, end, traffic: Traffic::default() };
                topics.table.insert(topic, entry);
            }
        }
        topics
    }

    /// What follows from a configuration that has changed. Name servers are told all topics: permissions may have changed.
    pub(crate) fn reconfigure(&mut self, live: &LiveConfig, wall: Timestamp) {
        let topic = Topic::new(DEFAULT_TOPIC).expect("it has only letters and digits");
        if live.auto_create_topic {
            let (name, queues, perm) = default_topic(live);
            let traffic = self.table.get(&topic).map_or_else(Traffic::default, |before| before.traffic);
            let config = settings(name, queues, perm);
            self.table.insert(topic, Entry { config, system: true, end: LogOffset::default(), traffic });
        } else {
            self.table.swap_remove(&topic);
        }
        self.next_version(wall);
        self.changes.everything(self.version);
    }

    fn next_version(&mut self, wall: Timestamp) {
        self.version.counter += 1;
        self.version.timestamp = wall.0;
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&TopicConfig> {
        self.table.get(topic).map(|entry| &entry.config)
    }

    /// The name as it is kept, with its settings.
    pub(crate) fn find(&self, topic: &str) -> Option<(&Topic, &TopicConfig)> {
        self.table.get_key_value(topic).map(|(name, entry)| (name, &entry.config))
    }

    /// Its place in the table, with its settings. A place holds until a topic is removed.
    pub(crate) fn place(&self, topic: &str) -> Option<(usize, &TopicConfig)> {
        self.table.get_full(topic).map(|(place, _, entry)| (place, &entry.config))
    }

    /// Counts messages of the topic at `place`; `None`: the one that was made last. False: it has no numbers of its own.
    pub(crate) fn count(&mut self, place: Option<usize>, traffic: Traffic) -> bool {
        let place = place.unwrap_or(self.table.len() - 1);
        let (_, entry) = self.table.get_index_mut(place).expect("a place that was looked up in this event");
        entry.traffic.add(traffic);
        place < SHOWN
    }

    /// Those that have numbers of their own: name, whether it is a system topic, and what was sent to it since the start.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&Topic, bool, Traffic)> {
        self.table.iter().take(SHOWN).map(|(topic, entry)| (topic, self.is_system(topic.as_str()), entry.traffic))
    }

    /// Whether operators may neither make nor delete it.
    pub(crate) fn is_system(&self, topic: &str) -> bool {
        RESERVED.contains(&topic)
            || topic.starts_with("rmq_sys_")
            || self.table.get(topic).is_some_and(|entry| entry.system)
    }

    /// How many are records of the log; what `max_topics` limits.
    pub(crate) fn recorded(&self) -> usize {
        self.recorded
    }

    /// All that others may see, by name.
    pub(crate) fn all(&self) -> BTreeMap<&str, &TopicConfig> {
        self.table.iter().map(|(topic, entry)| (topic.as_str(), &entry.config)).collect()
    }

    /// Those that are records, by name.
    pub(crate) fn records(&self) -> BTreeMap<&str, &TopicConfig> {
        let recorded = self.table.iter().filter(|(_, entry)| !entry.system);
        recorded.map(|(topic, entry)| (topic.as_str(), &entry.config)).collect()
    }

    /// Takes a topic from a record. False: its name is none.
    pub(crate) fn insert(&mut self, config: TopicConfig, end: LogOffset, wall: Timestamp) -> bool {
        let Ok(topic) = Topic::new(&config.topic_name) else { return false };
        let traffic = self.table.get(&topic).map_or_else(Traffic::default, |before| before.traffic);
        let before = self.table.insert(topic.clone(), Entry { config, system: false, end, traffic });
        self.recorded += usize::from(before.is_none_or(|before| before.system));
        self.changed(topic, end, wall);
        true
    }

    pub(crate) fn remove(&mut self, topic: &str, end: LogOffset, wall: Timestamp) {
        if let Some((topic, entry)) = self.table.swap_remove_entry(topic) {
            self.recorded -= usize::from(!entry.system);
            self.changed(topic, end, wall);
        }
    }

    fn changed(&mut self, topic: Topic, end: LogOffset, wall: Timestamp) {
        self.next_version(wall);
        // What was there at the start is no change since then.
        if end == LogOffset::default() {
            self.changes.before.version = self.version;
        } else {
            self.changes.push(topic, Told { end, version: self.version });
        }
    }

    /// All names, to be gone through in pieces.
    pub(crate) fn names(&self) -> Vec<Topic> {
        self.table.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Its settings, if they are kept when the log is kept up to `commit`.
    pub(crate) fn kept(&self, topic: &str, commit: LogOffset) -> Option<&TopicConfig> {
        self.table.get(topic).filter(|entry| entry.end <= commit).map(|entry| &entry.config)
    }

    /// Settings of a topic that a send would create: inherited from `default`, which must allow that. The text says why not.
    pub(crate) fn inherit(
        &self,
        topic: &str,
        default: &str,
        queues: i32,
        unit: bool,
        max: usize,
    ) -> Result<TopicConfig, String> {
        if self.recorded >= max {
            return Err(format!(
                "topic[{topic}] not exist, and this broker has its limit of {max} topics: delete some, or raise maxTopics"
            ));
        }
        let retry = topic.starts_with(RETRY_PREFIX);
        let unit_flag = if unit { 1 << usize::from(retry) } else { 0 };
        let made = match self.get(default).filter(|config| config.perm & perm::INHERIT != 0) {
            Some(config) => {
                let queues = u32::try_from(queues).unwrap_or(0).min(config.write_queue_nums);
                settings(topic.to_owned(), queues, config.perm & !perm::INHERIT)
            }
            None if retry => settings(topic.to_owned(), 1, perm::READ | perm::WRITE),
            None => {
                return Err(format!(
                    "topic[{topic}] not exist, apply first please! It is not created by a send, because {default:?} is \
                     no topic of this broker that others are made after (autoCreateTopicEnable)"
                ));
            }
        };
        Ok(TopicConfig { topic_sys_flag: unit_flag, ..made })
    }
}

fn default_topic(live: &LiveConfig) -> (String, u32, i32) {
    (DEFAULT_TOPIC.to_owned(), live.default_topic_queues, perm::READ | perm::WRITE | perm::INHERIT)
}

/// Settings with as many queues to read as to write.
pub(crate) fn settings(topic_name: String, queues: u32, perm: i32) -> TopicConfig {
    TopicConfig { topic_name, read_queue_nums: queues, write_queue_nums: queues, perm, ..TopicConfig::default() }
}

/// Applies `+name=value,-name` to a topic's attributes. `before` is `None` for a new topic. The text says what is wrong.
pub(crate) fn edit_attributes(
    before: Option<&BTreeMap<String, String>>,
    edits: &str,
) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = before.cloned().unwrap_or_default();
    for edit in edits.split(',').map(str::trim).filter(|edit| !edit.is_empty()) {
        if let Some(edit) = edit.strip_prefix('+') {
            let (name, value) = edit.split_once('=').ok_or_else(|| format!("attribute {edit:?} has no value"))?;
            check_attribute(name, value)?;
            if before.is_some() && is_fixed(name) && attributes.get(name).is_none_or(|now| now != value) {
                return Err(format!("attempt to update an unchangeable attribute. key: {name}"));
            }
            attributes.insert(name.to_owned(), value.to_owned());
        } else if let Some(edit) = edit.strip_prefix('-') {
            let name = edit.split('=').next().unwrap_or(edit);
            if before.is_none() {
                return Err(format!("only add attribute is supported while creating topic. key: {name}"));
            }
            if is_fixed(name) {
                return Err(format!("attempt to update an unchangeable attribute. key: {name}"));
            }
            if attributes.remove(name).is_none() {
                return Err(format!("attempt to delete a nonexistent key: {name}"));
            }
        } else {
            return Err(format!("attribute {edit:?} begins with neither + (set) nor - (delete)"));
        }
    }
    Ok(attributes)
}

fn is_fixed(name: &str) -> bool {
    matches!(name, "queue.type" | "cleanup.policy")
}

fn check_attribute(name: &str, value: &str) -> Result<(), String> {
    let known = match name {
        "message.type" => matches!(value, "UNSPECIFIED" | "NORMAL" | "FIFO" | "DELAY" | "TRANSACTION" | "MIXED"),
        "queue.type" if value == "BatchCQ" => {
            return Err("queue.type=BatchCQ is not supported yet: use SimpleCQ".into());
        }
        "queue.type" => value == "SimpleCQ",
        "cleanup.policy" if value == "COMPACTION" => {
            return Err("cleanup.policy=COMPACTION is not supported yet: use DELETE".into());
        }
        "cleanup.policy" => value == "DELETE",
        // As many characters as the largest has.
        "reserve.time" => value.len() <= 19 && value.parse::<i64>().is_ok_and(|time| time >= -1),
        _ => return Err(format!("unsupported key: {name}")),
    };
    if known { Ok(()) } else { Err(format!("value is not valid: {name}={value}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_edited_as_rocketmq_edits_them() {
        let text = |attributes: BTreeMap<String, String>| {
            attributes.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let edit = |before: Option<&str>, edits| {
            let before = before.map(|before| {
                let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
                before.split_whitespace().filter_map(pair).collect::<BTreeMap<_, _>>()
            });
            edit_attributes(before.as_ref(), edits).map(text)
        };
        assert_eq!(
            edit(None, "+message.type=FIFO, +queue.type=SimpleCQ"),
            Ok("message.type=FIFO queue.type=SimpleCQ".into())
        );
        assert_eq!(edit(Some("message.type=FIFO reserve.time=5"), "-message.type"), Ok("reserve.time=5".into()));
        assert_eq!(edit(Some(""), ""), Ok(String::new()));
        for (before, edits) in [
            (None, "-message.type"),
            (None, "message.type=FIFO"),
            (None, "+message.type"),
            (None, "+message.type=ODD"),
            (None, "+colour=red"),
            (None, "+queue.type=BatchCQ"),
            (None, "+cleanup.policy=COMPACTION"),
            (Some(""), "-reserve.time"),
            (Some("queue.type=SimpleCQ"), "-queue.type"),
        ] {
            assert!(edit(before, edits).is_err(), "{before:?} {edits}");
        }
    }
}
