use crate::config::BrokerConfig;
use crate::groups::Groups;
use crate::offsets::Offsets;
use crate::topics::Topics;
use keepmq_protocol::LogOffset;
use keepmq_protocol::body::{DataVersion, SubscriptionGroup, TopicConfig, TopicTable};
use keepmq_store::MetaRecord;
use keepmq_world::{Keyed, Mono, Now, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the log's metadata records add up to. They are applied when they are appended, so the tables may be ahead of what
/// is kept: whoever answers from them waits for `end`.
pub(crate) struct Tables {
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) offsets: Offsets,
    /// End of the last record that was applied since the start.
    pub(crate) end: LogOffset,
    /// Records applied.
    pub(crate) changes: u64,
    /// The key of all tables of this core.
    pub(crate) keyed: Keyed,
}

/// The tables in a snapshot. JSON: it can be read by people, and grows by fields.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Saved {
    topics_version: DataVersion,
    topics: Vec<TopicConfig>,
    groups_version: DataVersion,
    groups: Vec<SubscriptionGroup>,
    /// Group → topic → queue → offset.
    offsets: BTreeMap<String, BTreeMap<String, BTreeMap<u32, i64>>>,
}

/// As [`Saved`], borrowed.
#[derive(Serialize)]
struct Save<'t> {
    topics_version: DataVersion,
    topics: Vec<&'t TopicConfig>,
    groups_version: DataVersion,
    groups: Vec<&'t SubscriptionGroup>,
    offsets: &'t BTreeMap<String, BTreeMap<String, BTreeMap<u32, i64>>>,
}

impl Tables {
    /// The tables of a snapshot (empty: there is none), with the system's own topics and groups. The text says what is wrong.
    pub(crate) fn open(saved: &[u8], config: &BrokerConfig, keyed: Keyed, wall: Timestamp) -> Result<Self, String> {
        let saved = match saved {
            [] => Saved::default(),
            bytes => serde_json::from_slice(bytes).map_err(|error| error.to_string())?,
        };
        let mut tables = Self {
            topics: Topics::new(keyed, config, saved.topics_version, wall),
            groups: Groups::new(keyed, saved.groups_version, wall),
            offsets: Offsets::new(saved.offsets),
            end: LogOffset::default(),
            changes: 0,
            keyed,
        };
        let records =
            saved.topics.into_iter().map(MetaRecord::Topic).chain(saved.groups.into_iter().map(MetaRecord::Group));
        tables.replay(records, wall)?;
        Ok(tables)
    }

    /// Applies records that were kept before this start.
    pub(crate) fn replay(
        &mut self,
        records: impl IntoIterator<Item = MetaRecord>,
        wall: Timestamp,
    ) -> Result<(), String> {
        for record in records {
            if !self.fold(&record, LogOffset::default(), wall) {
                return Err(format!("a record holds a name that is none: {record:?}"));
            }
            self.changes += 1;
        }
        Ok(())
    }

    /// Applies a record that was just appended.
    pub(crate) fn apply(&mut self, record: &MetaRecord, end: LogOffset, wall: Timestamp) {
        assert!(self.fold(record, end, wall), "names are checked before a record is made of them: {record:?}");
        assert!(end >= self.end, "the log only grows: {end} < {}", self.end);
        self.end = end;
        self.changes += 1;
    }

    /// False: a name is none.
    fn fold(&mut self, record: &MetaRecord, end: LogOffset, wall: Timestamp) -> bool {
        match record {
            MetaRecord::Topic(config) => return self.topics.insert(config.clone(), end, wall),
            MetaRecord::TopicDeleted(topic) => {
                self.topics.remove(topic, end, wall);
                self.offsets.remove_topic(topic);
            }
            MetaRecord::Group(config) => return self.groups.insert(config.clone(), wall),
            MetaRecord::GroupDeleted { group, clean_offsets } => {
                self.groups.remove(group, wall);
                if *clean_offsets {
                    self.offsets.remove_group(group);
                }
            }
            MetaRecord::Offsets(commits) => commits.iter().for_each(|commit| self.offsets.set(commit)),
            // The store's own.
            MetaRecord::QueueEnds(_) => {}
        }
        true
    }

    /// For the snapshot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let save = Save {
            topics_version: self.topics.version,
            topics: self.topics.records().into_values().collect(),
            groups_version: self.groups.version,
            groups: self.groups.records().into_values().collect(),
            offsets: self.offsets.all(),
        };
        serde_json::to_vec(&save).expect("text and numbers only, and memory takes any bytes")
    }

    /// The files that RocketMQ's broker reads at its start. Source: `TopicConfigManager`, `SubscriptionGroupManager`,
    /// `ConsumerOffsetManager`.
    pub(crate) fn export(&self) -> Vec<(&'static str, Vec<u8>)> {
        let topics = self.topics.records().into_iter().map(|(name, config)| (name.to_owned(), config.clone()));
        let topics = TopicTable { data_version: self.topics.version, topic_config_table: topics.collect() };
        let groups = json!({
            "dataVersion": self.groups.version,
            "forbiddenTable": {},
            "subscriptionGroupTable": self.groups.records(),
        });
        let mut offsets = BTreeMap::new();
        for (group, topics) in self.offsets.all() {
            for (topic, queues) in topics {
                offsets.insert(format!("{topic}@{group}"), queues);
            }
        }
        // The version of this file only counts for RocketMQ's slaves.
        let offsets = json!({ "dataVersion": DataVersion::default(), "offsetTable": offsets });
        let bytes = |value| serde_json::to_vec_pretty(&value).expect("text and numbers only");
        vec![
            ("config/topics.json", bytes(json!(topics))),
            ("config/subscriptionGroup.json", bytes(groups)),
            ("config/consumerOffset.json", bytes(offsets)),
        ]
    }
}

/// Says when the exports are due.
pub(crate) struct Exports {
    /// `Tables::changes` when they were written last.
    written: u64,
    next_at: Mono,
}

impl Exports {
    const EVERY: Duration = Duration::from_secs(5);

    /// Due once after the start, whatever there is: somebody may have removed the files.
    pub(crate) fn new(now: Now) -> Self {
        Self { written: u64::MAX, next_at: now.mono + Self::EVERY }
    }

    /// The files, when they are due. What is not kept yet is not exported.
    pub(crate) fn on_time(
        &mut self,
        tables: &Tables,
        commit: LogOffset,
        now: Mono,
    ) -> Option<Vec<(&'static str, Vec<u8>)>> {
        if now < self.next_at || self.written == tables.changes || tables.end > commit {
            return None;
        }
        self.written = tables.changes;
        self.next_at = now + Self::EVERY;
        Some(tables.export())
    }

    pub(crate) fn deadline(&self, tables: &Tables, commit: LogOffset) -> Option<Mono> {
        // Behind the commit the next event is the end of a flush, not a moment.
        (self.written != tables.changes && tables.end <= commit).then_some(self.next_at)
    }
}
