use crate::cx::{Checked, Cx, not_appended, refuse};
use crate::topics;
use keepmq_protocol::body::{DataVersion, SubscriptionGroup, perm};
use keepmq_protocol::{ConsumerGroup, ResponseCode, retry_topic};
use keepmq_store::{Disk, MetaRecord};
use keepmq_world::{Keyed, Map, Timestamp};
use std::collections::BTreeMap;

/// Groups that RocketMQ makes at every start. Source: `SubscriptionGroupManager.init`.
const PREDEFINED: [&str; 14] = [
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "CLIENT_INNER_PRODUCER",
    "SELF_TEST_P_GROUP",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
    "CID_RMQ_SYS_TRANS",
];

/// The consumer groups' settings: predefined ones, and those that are records of the log. Only the latter are in snapshots
/// and exports; a predefined group that an operator changes becomes one of them, one that is deleted is as new.
pub(crate) struct Groups {
    table: Map<ConsumerGroup, Entry>,
    recorded: usize,
    pub(crate) version: DataVersion,
}

struct Entry {
    config: SubscriptionGroup,
    predefined: bool,
}

impl Groups {
    /// The predefined groups. `version` is the last one known of the table before.
    pub(crate) fn new(keyed: Keyed, version: DataVersion, wall: Timestamp) -> Self {
        let mut groups = Self { table: keyed.map(), recorded: 0, version };
        groups.next_version(wall);
        for name in PREDEFINED {
            groups.predefine(name);
        }
        groups
    }

    fn predefine(&mut self, name: &str) {
        let group = ConsumerGroup::new(name).expect("predefined names are legal");
        self.table.insert(group, Entry { config: defaults(name), predefined: true });
    }

    fn next_version(&mut self, wall: Timestamp) {
        self.version.counter += 1;
        self.version.timestamp = wall.0;
    }

    pub(crate) fn get(&self, group: &str) -> Option<&SubscriptionGroup> {
        self.table.get(group).map(|entry| &entry.config)
    }

    /// How many are records of the log; what `max_groups` limits.
    pub(crate) fn recorded(&self) -> usize {
        self.recorded
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// All, by name.
    pub(crate) fn all(&self) -> BTreeMap<&str, &SubscriptionGroup> {
        self.table.iter().map(|(group, entry)| (group.as_str(), &entry.config)).collect()
    }

    /// Those that are records, by name.
    pub(crate) fn records(&self) -> BTreeMap<&str, &SubscriptionGroup> {
        let recorded = self.table.iter().filter(|(_, entry)| !entry.predefined);
        recorded.map(|(group, entry)| (group.as_str(), &entry.config)).collect()
    }

    /// Takes a group from a record. False: its name is none.
    pub(crate) fn insert(&mut self, config: SubscriptionGroup, wall: Timestamp) -> bool {
        let Ok(group) = ConsumerGroup::new(&config.group_name) else { return false };
        let before = self.table.insert(group, Entry { config, predefined: false });
        self.recorded += usize::from(before.is_none_or(|before| before.predefined));
        self.next_version(wall);
        true
    }

    pub(crate) fn remove(&mut self, group: &str, wall: Timestamp) {
        if let Some(entry) = self.table.swap_remove(group) {
            self.recorded -= usize::from(!entry.predefined);
            self.next_version(wall);
        }
        if PREDEFINED.contains(&group) {
            self.predefine(group);
        }
    }
}

fn defaults(name: &str) -> SubscriptionGroup {
    SubscriptionGroup { group_name: name.to_owned(), ..SubscriptionGroup::default() }
}

/// Makes the group when it does not exist and may be made by being used. The answer says why it cannot be.
pub(crate) fn ensure<D: Disk>(name: &str, cx: &mut Cx<D>) -> Checked<()> {
    if cx.tables.groups.get(name).is_some() {
        return Ok(());
    }
    let missing = |why: String| Err(refuse(ResponseCode::SubscriptionGroupNotExist, why));
    if let Err(error) = ConsumerGroup::check(name) {
        return missing(format!("subscription group does not exist: {error}"));
    }
    if !cx.config.live.auto_create_group {
        return missing(format!(
            "subscription group [{name}] does not exist: create it first (autoCreateSubscriptionGroup is off)"
        ));
    }
    let max = cx.config.max_groups;
    if cx.tables.groups.recorded() >= max {
        return missing(format!(
            "subscription group [{name}] does not exist, and this broker has its limit of {max} groups: delete some, or raise maxGroups"
        ));
    }
    match cx.record(&MetaRecord::Group(defaults(name))) {
        Ok(_) => Ok(()),
        Err(error) => Err(not_appended(&error)),
    }
}

/// Makes the group's retry topic when it does not exist.
pub(crate) fn ensure_retry_topic<D: Disk>(group: &str, ordered: bool, cx: &mut Cx<D>) -> Checked<()> {
    let topic = retry_topic(group);
    let queues = cx.tables.groups.get(group).map_or(0, |config| config.retry_queue_nums);
    let Ok(queues @ 1..) = u32::try_from(queues) else {
        // No retry queues: the operator wants none.
        return Ok(());
    };
    if cx.tables.topics.get(&topic).is_some() {
        return Ok(());
    }
    let max = cx.config.max_topics;
    if cx.tables.topics.recorded() >= max {
        return Err(refuse(
            ResponseCode::SystemError,
            format!(
                "{topic} cannot be made: this broker has its limit of {max} topics: delete some, or raise maxTopics"
            ),
        ));
    }
    let mut config = topics::settings(topic, queues, perm::READ | perm::WRITE);
    config.order = ordered;
    match cx.record(&MetaRecord::Topic(config)) {
        Ok(_) => Ok(()),
        Err(error) => Err(not_appended(&error)),
    }
}
