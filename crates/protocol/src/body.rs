//! Bodies that are JSON. Names and defaults are RocketMQ's; unknown fields are ignored, as fastjson ignores them.

use crate::header::Str;
use crate::message::tag_hash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    pub code_set: Vec<i32>,
    pub expression_type: Option<String>,
    pub sub_string: Option<String>,
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
    pub consume_from_where: Option<String>,
    pub consume_type: Option<String>,
    pub group_name: String,
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
    pub namespace: Option<String>,
    pub subscription_data: Subscription,
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
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

impl RegisterBrokerBody {
    /// Reads the plain or the compressed form. Source: RocketMQ `RegisterBrokerBody.decode`.
    pub fn read(body: &[u8], compressed: bool, version: i32) -> Result<Self, String> {
        let _ = (body, compressed, version);
        todo!()
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

/// A subscription expression as a header carries it.
pub fn filter_of(expression: Option<&Str<'_>>) -> TagFilter {
    expression.map_or_else(TagFilter::all, |text| TagFilter::parse(text))
}
