use crate::config::BrokerConfig;
use crate::groups::Groups;
use crate::offsets::Offsets;
use crate::topics::Topics;
use keepmq_protocol::LogOffset;
use keepmq_protocol::body::{DataVersion, SubscriptionGroup, TopicConfig};
use keepmq_store::MetaRecord;
use keepmq_world::{Keyed, Mono, Now, Timestamp};
use serde::{Deserialize, Serialize};
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
    changes: Changes,
    /// The key of all tables of this core.
    pub(crate) keyed: Keyed,
}

/// How often each table has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    topics: u64,
    groups: u64,
    offsets: u64,
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
            changes: Changes::default(),
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
        }
        Ok(())
    }

    /// Applies a record that was just appended.
    pub(crate) fn apply(&mut self, record: &MetaRecord, end: LogOffset, wall: Timestamp) {
        assert!(self.fold(record, end, wall), "names are checked before a record is made of them: {record:?}");
        assert!(end >= self.end, "the log only grows: {end} < {}", self.end);
        self.end = end;
    }

    /// False: a name is none.
    fn fold(&mut self, record: &MetaRecord, end: LogOffset, wall: Timestamp) -> bool {
        let changes = &mut self.changes;
        match record {
            MetaRecord::Topic(_) => changes.topics += 1,
            MetaRecord::TopicDeleted(_) => {
                (changes.topics, changes.offsets) = (changes.topics + 1, changes.offsets + 1);
            }
            MetaRecord::Group(_) => changes.groups += 1,
            MetaRecord::GroupDeleted { .. } => {
                (changes.groups, changes.offsets) = (changes.groups + 1, changes.offsets + 1);
            }
            MetaRecord::Offsets(_) => changes.offsets += 1,
            MetaRecord::QueueEnds(_) => {}
        }
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
        vec![self.export_topics(), self.export_groups(), self.export_offsets()]
    }

    fn export_topics(&self) -> (&'static str, Vec<u8>) {
        let topics = TopicsFile { data_version: self.topics.version, topic_config_table: self.topics.records() };
        ("config/topics.json", pretty(&topics))
    }

    fn export_groups(&self) -> (&'static str, Vec<u8>) {
        let groups = GroupsFile {
            data_version: self.groups.version,
            forbidden_table: BTreeMap::new(),
            subscription_group_table: self.groups.records(),
        };
        ("config/subscriptionGroup.json", pretty(&groups))
    }

    fn export_offsets(&self) -> (&'static str, Vec<u8>) {
        let mut offset_table = BTreeMap::new();
        for (group, topics) in self.offsets.all() {
            for (topic, queues) in topics {
                offset_table.insert(format!("{topic}@{group}"), queues);
            }
        }
        // The version of this file only counts for RocketMQ's slaves.
        let offsets = OffsetsFile { data_version: DataVersion::default(), offset_table };
        ("config/consumerOffset.json", pretty(&offsets))
    }
}

fn pretty(file: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(file).expect("text and numbers only, and memory takes any bytes")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicsFile<'t> {
    data_version: DataVersion,
    topic_config_table: BTreeMap<&'t str, &'t TopicConfig>,
}

/// Source: RocketMQ `SubscriptionGroupWrapper`: the file's content, and the body of GET_ALL_SUBSCRIPTIONGROUP_CONFIG.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupsFile<'t> {
    pub(crate) data_version: DataVersion,
    /// Topics that a group may not read: nothing that we serve sets them.
    pub(crate) forbidden_table: BTreeMap<&'t str, ()>,
    pub(crate) subscription_group_table: BTreeMap<&'t str, &'t SubscriptionGroup>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OffsetsFile<'t> {
    data_version: DataVersion,
    /// `topic@group` → queue → offset.
    offset_table: BTreeMap<String, &'t BTreeMap<u32, i64>>,
}

/// Says when the exports are due.
pub(crate) struct Exports {
    /// `Tables::changes` when they were written last.
    written: Changes,
    next_at: Mono,
}

impl Exports {
    const EVERY: Duration = Duration::from_secs(5);
    /// Writing them takes the core's time: large ones are written less often.
    const MORE_PER_MEBIBYTE: Duration = Duration::from_secs(1);

    /// All are due once after the start, whatever there is: somebody may have removed the files.
    pub(crate) fn new(now: Now) -> Self {
        Self {
            written: Changes { topics: u64::MAX, groups: u64::MAX, offsets: u64::MAX },
            next_at: now.mono + Self::EVERY,
        }
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
        // A table with 100,000 topics is not written anew because somebody has committed an offset.
        let (before, after) = (self.written, tables.changes);
        self.written = after;
        let mut files = Vec::new();
        if before.topics != after.topics {
            files.push(tables.export_topics());
        }
        if before.groups != after.groups {
            files.push(tables.export_groups());
        }
        if before.offsets != after.offsets {
            files.push(tables.export_offsets());
        }
        let mebibytes = files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() >> 20;
        let more = u32::try_from(mebibytes).map_or(Duration::MAX, |count| Self::MORE_PER_MEBIBYTE * count);
        self.next_at = now + Self::EVERY.saturating_add(more);
        Some(files)
    }

    pub(crate) fn deadline(&self, tables: &Tables, commit: LogOffset) -> Option<Mono> {
        // Behind the commit the next event is the end of a flush, not a moment.
        (self.written != tables.changes && tables.end <= commit).then_some(self.next_at)
    }
}
