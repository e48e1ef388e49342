//! Bodies that are JSON. Names and defaults are RocketMQ's; unknown fields are ignored, as fastjson ignores them.

use crate::header::Str;
use crate::json;
use crate::message::tag_hash;
use flate2::read::ZlibDecoder;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::io::Read;

/// Version of a table. Source: RocketMQ `DataVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    /// Changes since the table was made.
    pub counter: i64,
    /// Epoch of the controller; 0 without one.
    pub state_version: i64,
    /// When it changed last, milliseconds.
    pub timestamp: i64,
}

/// A topic's settings. Source: RocketMQ `TopicConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// 5.x.
    pub attributes: BTreeMap<String, String>,
    /// Ordered topic.
    pub order: bool,
    /// 4 read, 2 write, 1 inherit.
    pub perm: i32,
    /// Queues to read from.
    pub read_queue_nums: u32,
    /// `SINGLE_TAG` or `MULTI_TAG`.
    pub topic_filter_type: String,
    /// The name.
    pub topic_name: String,
    /// Unit bits.
    pub topic_sys_flag: i32,
    /// Queues to write to.
    pub write_queue_nums: u32,
}

/// Permission bits of a topic.
pub mod perm {
    /// Readable.
    pub const READ: i32 = 4;
    /// Writable.
    pub const WRITE: i32 = 2;
    /// New topics may be made after it.
    pub const INHERIT: i32 = 1;
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: perm::READ | perm::WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

/// A consumer group's settings. Source: RocketMQ `SubscriptionGroupConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct SubscriptionGroup {
    pub attributes: BTreeMap<String, String>,
    pub broker_id: i64,
    pub consume_broadcast_enable: bool,
    pub consume_enable: bool,
    pub consume_from_min_enable: bool,
    pub consume_message_orderly: bool,
    pub consume_timeout_minute: i32,
    pub group_name: String,
    pub group_retry_policy: serde_json::Value,
    pub group_sys_flag: i32,
    pub notify_consumer_ids_changed_enable: bool,
    pub retry_max_times: i32,
    pub retry_queue_nums: i32,
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroup {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: serde_json::json!({"type": "CUSTOMIZED"}),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            which_broker_when_consume_slowly: 1,
        }
    }
}

/// What a consumer wants of a topic. Source: RocketMQ `SubscriptionData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct Subscription {
    pub class_filter_mode: bool,
    // C++ clients write these two as text.
    #[serde(deserialize_with = "json::numbers")]
    pub code_set: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_string: Option<String>,
    #[serde(deserialize_with = "json::number")]
    pub sub_version: i64,
    pub tags_set: Vec<String>,
    pub topic: String,
}

/// Which tags pass: all, or those whose hash is in the list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TagFilter {
    /// Sorted; empty: everything passes.
    hashes: Vec<i32>,
}

impl TagFilter {
    /// Everything passes.
    pub fn all() -> Self {
        Self::default()
    }

    /// From an expression: absent, empty or `*` is all; else tags separated by `||`. Source: RocketMQ `FilterAPI`.
    pub fn parse(expression: &str) -> Self {
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Self::all();
        }
        let mut hashes: Vec<i32> =
            expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(tag_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self { hashes }
    }

    /// Whether a message whose tag has this hash passes.
    pub fn passes(&self, hash: i32) -> bool {
        self.hashes.is_empty() || self.hashes.binary_search(&hash).is_ok()
    }
}

/// HEART_BEAT 34. Source: RocketMQ `HeartbeatData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct Heartbeat {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    #[serde(alias = "isWithoutSub")]
    pub without_sub: bool,
}

/// One consumer group of a client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct ConsumerData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consume_from_where: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consume_type: Option<String>,
    pub group_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_model: Option<String>,
    pub subscription_data_set: Vec<Subscription>,
    pub unit_mode: bool,
}

/// One producer group of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct ProducerData {
    pub group_name: String,
}

/// CHECK_CLIENT_CONFIG 46.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct CheckClientConfig {
    pub client_id: String,
    pub group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub subscription_data: Subscription,
}

/// LOCK_BATCH_MQ 41 and UNLOCK_BATCH_MQ 42. Source: RocketMQ `LockBatchRequestBody`, `UnlockBatchRequestBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct QueueLocks {
    pub client_id: String,
    pub consumer_group: String,
    pub mq_set: Vec<QueueName>,
    pub only_this_broker: bool,
}

/// A queue as bodies name it: not checked yet. Source: RocketMQ `MessageQueue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct QueueName {
    pub broker_name: String,
    pub queue_id: i32,
    pub topic: String,
}

/// Body of REGISTER_BROKER 103. Source: RocketMQ `RegisterBrokerBody`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    /// Always empty today.
    pub filter_server_list: Vec<String>,
    /// The topics and their version.
    pub topic_config_serialize_wrapper: TopicTable,
}

/// Topics with a version. Source: RocketMQ `TopicConfigSerializeWrapper`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// By name.
    #[serde(deserialize_with = "few_topics")]
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

/// Refuses too many before it makes topics of them.
fn few_topics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, TopicConfig>, D::Error> {
    let topics = serde_json::Map::deserialize(deserializer)?;
    if topics.len() > TOPICS_MAX as usize {
        return Err(D::Error::custom(format!("{} topics; the limit is {TOPICS_MAX}", topics.len())));
    }
    let read = |(name, topic)| serde_json::from_value(topic).map(|topic| (name, topic));
    topics.into_iter().map(read).collect::<Result<_, _>>().map_err(D::Error::custom)
}

impl RegisterBrokerBody {
    /// Reads the plain or the compressed form. Source: RocketMQ `RegisterBrokerBody.decode`.
    pub fn read(body: &[u8], compressed: bool, version: i32) -> Result<Self, String> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        if compressed {
            return Self::inflate(body, version);
        }
        if version < HAS_REGISTER_BODY {
            let topic_config_serialize_wrapper = json::parse(body).map_err(|error| error.to_string())?;
            return Ok(Self { topic_config_serialize_wrapper, ..Self::default() });
        }
        json::parse(body).map_err(|error| error.to_string())
    }

    /// ```text
    ///  len: u32, DataVersion │ topics: u32 │ topics × (len: u32, topic) │ len: u32, filter servers │ …
    /// ```
    /// Static topics follow from 5.0 on; we have none.
    fn inflate(body: &[u8], version: i32) -> Result<Self, String> {
        let mut bytes = Vec::new();
        ZlibDecoder::new(body)
            .take(INFLATED_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("it is no zlib stream: {error}"))?;
        if bytes.len() as u64 > INFLATED_MAX {
            return Err(format!("inflated it has more than {INFLATED_MAX} bytes"));
        }
        let mut rest = &bytes[..];
        let mut read = Self::default();
        let table = &mut read.topic_config_serialize_wrapper;
        table.data_version = json::parse(part(&mut rest)?).map_err(|error| error.to_string())?;
        let topics = number(&mut rest)?;
        if topics > TOPICS_MAX {
            return Err(format!("it announces {topics} topics; the limit is {TOPICS_MAX}"));
        }
        for _ in 0..topics {
            let topic = TopicConfig::from_line(part(&mut rest)?)?;
            table.topic_config_table.insert(topic.topic_name.clone(), topic);
        }
        read.filter_server_list = json::parse(part(&mut rest)?).map_err(|error| error.to_string())?;
        if version >= HAS_QUEUE_MAPPINGS {
            for _ in 0..number(&mut rest)? {
                part(&mut rest)?;
            }
        }
        Ok(read)
    }
}

/// First version whose plain body is a whole [`RegisterBrokerBody`]; before it is the topic table alone.
const HAS_REGISTER_BODY: i32 = 37;
/// First version whose compressed body ends in static topics.
const HAS_QUEUE_MAPPINGS: i32 = 413;
/// Most bytes of a compressed body when inflated; 100,000 topics have a tenth of it.
const INFLATED_MAX: u64 = 64 * 1024 * 1024;
/// Most topics of one registration, twice what a broker of ours has at most: a topic takes some ten times the memory of its text.
pub const TOPICS_MAX: u32 = 200_000;

fn number(rest: &mut &[u8]) -> Result<u32, String> {
    let (number, behind) = rest.split_first_chunk().ok_or("it ends inside a number")?;
    *rest = behind;
    Ok(u32::from_be_bytes(*number))
}

fn part<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let len = number(rest)?;
    let left = rest.len();
    let (part, behind) =
        rest.split_at_checked(len as usize).ok_or_else(|| format!("a part has {len} bytes where {left} are left"))?;
    *rest = behind;
    Ok(part)
}

impl TopicConfig {
    /// From the line that a compressed registration holds: name, read queues, write queues, permissions, filter type,
    /// attributes, separated by single spaces. Source: RocketMQ `TopicConfig.decode`.
    fn from_line(line: &[u8]) -> Result<Self, String> {
        let line = std::str::from_utf8(line).map_err(|error| format!("a topic is no text: {error}"))?;
        let bad = || format!("{:?} is no topic line", line.chars().take(200).collect::<String>());
        let mut words = line.splitn(6, ' ');
        let mut word = || words.next().ok_or_else(bad);
        let mut topic = Self {
            topic_name: word()?.to_owned(),
            read_queue_nums: word()?.parse().map_err(|_| bad())?,
            write_queue_nums: word()?.parse().map_err(|_| bad())?,
            perm: word()?.parse().map_err(|_| bad())?,
            topic_filter_type: word()?.to_owned(),
            ..Self::default()
        };
        if let Some(attributes) = words.next().filter(|text| !text.trim().is_empty()) {
            topic.attributes = json::parse(attributes.as_bytes()).map_err(|error| error.to_string())?;
        }
        Ok(topic)
    }
}

/// Body of GET_ROUTEINFO_BY_TOPIC 105. Source: RocketMQ `TopicRouteData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteData {
    /// The brokers.
    pub broker_datas: Vec<BrokerData>,
    /// Always empty.
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// `broker-a:4;broker-b:4`, for ordered topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// Their queues.
    pub queue_datas: Vec<QueueData>,
}

/// One broker group of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct BrokerData {
    pub broker_addrs: BTreeMap<i64, String>,
    pub broker_name: String,
    pub cluster: String,
    pub enable_acting_master: bool,
}

/// One broker group's queues of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct QueueData {
    pub broker_name: String,
    pub perm: i32,
    pub read_queue_nums: u32,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

/// Body of GET_BROKER_CLUSTER_INFO 106. Source: RocketMQ `ClusterInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct ClusterInfo {
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    pub cluster_addr_table: BTreeMap<String, Vec<String>>,
}

/// Body of the answer to GET_ALL_TOPIC_LIST_FROM_NAMESERVER 206.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct TopicList {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    pub topic_list: Vec<String>,
}

/// Body of the answer to GET_BROKER_MEMBER_GROUP 901. Source: RocketMQ `GetBrokerMemberGroupResponseBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct BrokerMembers {
    pub broker_member_group: BrokerMemberGroup,
}

/// The replicas that share a broker name. Source: RocketMQ `BrokerMemberGroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct BrokerMemberGroup {
    pub broker_addrs: BTreeMap<i64, String>,
    pub broker_name: String,
    pub cluster: String,
}

/// Body of the answers to GET_KVLIST_BY_NAMESPACE 219 and to a registration. Source: RocketMQ `KVTable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are RocketMQ's")]
pub struct KvTable {
    pub table: BTreeMap<String, String>,
}

/// Everything in `kvConfig.json`. Source: RocketMQ `KVConfigSerializeWrapper`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvConfig {
    /// Namespace → key → value. Not optional: a file without it is none of RocketMQ's.
    pub config_table: BTreeMap<String, BTreeMap<String, String>>,
}

/// A subscription expression as a header carries it.
pub fn filter_of(expression: Option<&Str<'_>>) -> TagFilter {
    expression.map_or_else(TagFilter::all, |text| TagFilter::parse(text))
}

#[cfg(test)]
mod tests;
