//! Requests: one variant per code we serve or send. Source: RocketMQ `RequestCode` and the header classes of `remoting`.

mod admin;
mod group;
mod kv;
mod offset;
mod pull;
mod route;
mod send;

pub use admin::{CreateTopic, DeleteGroup, DeleteTopic, GroupStats, TopicStats};
pub use group::{ConsumerList, ConsumersChanged, Unregister};
pub use kv::{KvEntry, KvName, KvNamespace};
pub use offset::{EarliestTime, MaxOffset, MinOffset, QueryOffset, SearchOffset, UpdateOffset, ViewMessage};
pub use pull::{Pull, PullFlags};
pub use route::{
    BrokerHeartbeat, BrokerMembers, ClusterTopics, OneBroker, QueryDataVersion, QueryDataVersionHeader, RegisterBroker,
    RegisterBrokerHeader, RouteInfo, UnregisterBroker,
};
pub use send::{Send, SendHeader, SendVia};

use crate::body::{CheckClientConfig, Heartbeat, QueueLocks, SubscriptionGroup};
use crate::frame::Frame;
use crate::header::{FieldSink, HeaderError, Str};
use crate::json;
use crate::{Response, ResponseCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'b> {
    /// SEND_MESSAGE 10, SEND_MESSAGE_V2 310, SEND_BATCH_MESSAGE 320.
    Send(Send<'b>),
    /// PULL_MESSAGE 11, LITE_PULL_MESSAGE 361 (told apart by [`PullFlags::lite`]).
    Pull(Pull<'b>),
    /// QUERY_CONSUMER_OFFSET 14.
    QueryOffset(QueryOffset<'b>),
    /// UPDATE_CONSUMER_OFFSET 15.
    UpdateOffset(UpdateOffset<'b>),
    /// SEARCH_OFFSET_BY_TIMESTAMP 29.
    SearchOffset(SearchOffset<'b>),
    /// GET_MAX_OFFSET 30.
    MaxOffset(MaxOffset<'b>),
    /// GET_MIN_OFFSET 31.
    MinOffset(MinOffset<'b>),
    /// GET_EARLIEST_MSG_STORETIME 32.
    EarliestTime(EarliestTime<'b>),
    /// VIEW_MESSAGE_BY_ID 33.
    ViewMessage(ViewMessage<'b>),
    /// HEART_BEAT 34.
    Heartbeat(Box<Heartbeat>),
    /// UNREGISTER_CLIENT 35.
    Unregister(Unregister<'b>),
    /// CHECK_CLIENT_CONFIG 46.
    CheckClientConfig(Box<CheckClientConfig>),
    /// GET_CONSUMER_LIST_BY_GROUP 38.
    ConsumerList(ConsumerList<'b>),
    /// NOTIFY_CONSUMER_IDS_CHANGED 40, broker to client.
    ConsumersChanged(ConsumersChanged<'b>),
    /// LOCK_BATCH_MQ 41.
    LockQueues(Box<QueueLocks>),
    /// UNLOCK_BATCH_MQ 42.
    UnlockQueues(Box<QueueLocks>),
    /// UPDATE_AND_CREATE_TOPIC 17.
    CreateTopic(CreateTopic<'b>),
    /// DELETE_TOPIC_IN_BROKER 215.
    DeleteTopic(DeleteTopic<'b>),
    /// DELETE_TOPIC_IN_NAMESRV 216. Sent by tools after 215.
    DeleteTopicRoute(DeleteTopic<'b>),
    /// GET_ALL_TOPIC_CONFIG 21.
    AllTopics,
    /// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP 200.
    CreateGroup(Box<SubscriptionGroup>),
    /// GET_ALL_SUBSCRIPTIONGROUP_CONFIG 201.
    AllGroups,
    /// DELETE_SUBSCRIPTIONGROUP 207.
    DeleteGroup(DeleteGroup<'b>),
    /// GET_TOPIC_STATS_INFO 202.
    TopicStats(TopicStats<'b>),
    /// GET_CONSUME_STATS 208.
    GroupStats(GroupStats<'b>),
    /// UPDATE_BROKER_CONFIG 25: the text of a properties file.
    ChangeBrokerConfig(Str<'b>),
    /// GET_BROKER_CONFIG 26.
    BrokerConfig,
    /// GET_BROKER_RUNTIME_INFO 28.
    RuntimeInfo,
    /// REGISTER_BROKER 103.
    RegisterBroker(RegisterBroker<'b>),
    /// UNREGISTER_BROKER 104.
    UnregisterBroker(UnregisterBroker<'b>),
    /// GET_ROUTEINFO_BY_TOPIC 105.
    RouteInfo(RouteInfo<'b>),
    /// GET_BROKER_CLUSTER_INFO 106.
    ClusterInfo,
    /// GET_ALL_TOPIC_LIST_FROM_NAMESERVER 206.
    TopicList,
    /// QUERY_DATA_VERSION 322.
    QueryDataVersion(QueryDataVersion<'b>),
    /// PUT_KV_CONFIG 100.
    PutKv(KvEntry<'b>),
    /// GET_KV_CONFIG 101.
    GetKv(KvName<'b>),
    /// DELETE_KV_CONFIG 102.
    DeleteKv(KvName<'b>),
    /// GET_KVLIST_BY_NAMESPACE 219.
    ListKv(KvNamespace<'b>),
    /// WIPE_WRITE_PERM_OF_BROKER 205.
    WipeWrite(OneBroker<'b>),
    /// ADD_WRITE_PERM_OF_BROKER 327.
    AddWrite(OneBroker<'b>),
    /// GET_TOPICS_BY_CLUSTER 224.
    ClusterTopics(ClusterTopics<'b>),
    /// GET_SYSTEM_TOPIC_LIST_FROM_NS 304.
    SystemTopics,
    /// UPDATE_NAMESRV_CONFIG 318: the text of a properties file.
    ChangeNameServerConfig(Str<'b>),
    /// GET_NAMESRV_CONFIG 319.
    NameServerConfig,
    /// GET_BROKER_MEMBER_GROUP 901.
    BrokerMembers(BrokerMembers<'b>),
    /// BROKER_HEARTBEAT 904.
    BrokerHeartbeat(BrokerHeartbeat<'b>),
    /// A code that we do not serve; answered with REQUEST_CODE_NOT_SUPPORTED.
    Unsupported {
        /// The code.
        code: i32,
    },
}

/// A request that is answered before any core sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the answer.
    pub code: ResponseCode,
    /// What is wrong.
    pub remark: String,
}

/// The codes. Source: RocketMQ `RequestCode`.
mod code {
    pub(super) const SEND: i32 = 10;
    pub(super) const PULL: i32 = 11;
    pub(super) const QUERY_OFFSET: i32 = 14;
    pub(super) const UPDATE_OFFSET: i32 = 15;
    pub(super) const CREATE_TOPIC: i32 = 17;
    pub(super) const ALL_TOPICS: i32 = 21;
    pub(super) const CHANGE_BROKER_CONFIG: i32 = 25;
    pub(super) const BROKER_CONFIG: i32 = 26;
    pub(super) const RUNTIME_INFO: i32 = 28;
    pub(super) const SEARCH_OFFSET: i32 = 29;
    pub(super) const MAX_OFFSET: i32 = 30;
    pub(super) const MIN_OFFSET: i32 = 31;
    pub(super) const EARLIEST_TIME: i32 = 32;
    pub(super) const VIEW_MESSAGE: i32 = 33;
    pub(super) const HEARTBEAT: i32 = 34;
    pub(super) const UNREGISTER: i32 = 35;
    pub(super) const CONSUMER_LIST: i32 = 38;
    pub(super) const CONSUMERS_CHANGED: i32 = 40;
    pub(super) const LOCK_QUEUES: i32 = 41;
    pub(super) const UNLOCK_QUEUES: i32 = 42;
    pub(super) const CHECK_CLIENT_CONFIG: i32 = 46;
    pub(super) const PUT_KV: i32 = 100;
    pub(super) const GET_KV: i32 = 101;
    pub(super) const DELETE_KV: i32 = 102;
    pub(super) const REGISTER_BROKER: i32 = 103;
    pub(super) const UNREGISTER_BROKER: i32 = 104;
    pub(super) const ROUTE_INFO: i32 = 105;
    pub(super) const CLUSTER_INFO: i32 = 106;
    pub(super) const CREATE_GROUP: i32 = 200;
    pub(super) const ALL_GROUPS: i32 = 201;
    pub(super) const TOPIC_STATS: i32 = 202;
    pub(super) const WIPE_WRITE: i32 = 205;
    pub(super) const TOPIC_LIST: i32 = 206;
    pub(super) const DELETE_GROUP: i32 = 207;
    pub(super) const GROUP_STATS: i32 = 208;
    pub(super) const DELETE_TOPIC: i32 = 215;
    pub(super) const DELETE_TOPIC_ROUTE: i32 = 216;
    pub(super) const LIST_KV: i32 = 219;
    pub(super) const CLUSTER_TOPICS: i32 = 224;
    pub(super) const SYSTEM_TOPICS: i32 = 304;
    pub(super) const SEND_V2: i32 = 310;
    pub(super) const CHANGE_NAME_SERVER_CONFIG: i32 = 318;
    pub(super) const NAME_SERVER_CONFIG: i32 = 319;
    pub(super) const SEND_BATCH: i32 = 320;
    pub(super) const QUERY_DATA_VERSION: i32 = 322;
    pub(super) const ADD_WRITE: i32 = 327;
    pub(super) const LITE_PULL: i32 = 361;
    pub(super) const BROKER_MEMBERS: i32 = 901;
    pub(super) const BROKER_HEARTBEAT: i32 = 904;
}

impl<'b> Request<'b> {
    /// Reads the request that a frame carries. Any code is a request; one that we do not know is `Unsupported`.
    pub fn read(frame: &Frame<'b>) -> Result<Self, Refusal> {
        let fields = &frame.fields;
        Ok(match frame.code {
            code::SEND => Self::Send(Send::read(SendVia::V1, fields, frame.body)?),
            code::SEND_V2 => Self::Send(Send::read(SendVia::V2, fields, frame.body)?),
            code::SEND_BATCH => Self::Send(Send::read(SendVia::Batch, fields, frame.body)?),
            code::PULL => Self::Pull(Pull::read(fields)?),
            code::LITE_PULL => Self::Pull(Pull::read(fields)?.lite()),
            code::QUERY_OFFSET => Self::QueryOffset(QueryOffset::read(fields)?),
            code::UPDATE_OFFSET => Self::UpdateOffset(UpdateOffset::read(fields)?),
            code::SEARCH_OFFSET => Self::SearchOffset(SearchOffset::read(fields)?),
            code::MAX_OFFSET => Self::MaxOffset(MaxOffset::read(fields)?),
            code::MIN_OFFSET => Self::MinOffset(MinOffset::read(fields)?),
            code::EARLIEST_TIME => Self::EarliestTime(EarliestTime::read(fields)?),
            code::VIEW_MESSAGE => Self::ViewMessage(ViewMessage::read(fields)?),
            code::HEARTBEAT => Self::Heartbeat(body("HEART_BEAT", frame)?),
            code::UNREGISTER => Self::Unregister(Unregister::read(fields)?),
            code::CHECK_CLIENT_CONFIG => Self::CheckClientConfig(body("CHECK_CLIENT_CONFIG", frame)?),
            code::CONSUMER_LIST => Self::ConsumerList(ConsumerList::read(fields)?),
            code::CONSUMERS_CHANGED => Self::ConsumersChanged(ConsumersChanged::read(fields)?),
            code::LOCK_QUEUES => Self::LockQueues(body("LOCK_BATCH_MQ", frame)?),
            code::UNLOCK_QUEUES => Self::UnlockQueues(body("UNLOCK_BATCH_MQ", frame)?),
            code::CREATE_TOPIC => Self::CreateTopic(CreateTopic::read(fields)?),
            code::DELETE_TOPIC => Self::DeleteTopic(DeleteTopic::read(fields)?),
            code::DELETE_TOPIC_ROUTE => Self::DeleteTopicRoute(DeleteTopic::read(fields)?),
            code::ALL_TOPICS => Self::AllTopics,
            code::CREATE_GROUP => Self::CreateGroup(body("UPDATE_AND_CREATE_SUBSCRIPTIONGROUP", frame)?),
            code::ALL_GROUPS => Self::AllGroups,
            code::DELETE_GROUP => Self::DeleteGroup(DeleteGroup::read(fields)?),
            code::TOPIC_STATS => Self::TopicStats(TopicStats::read(fields)?),
            code::GROUP_STATS => Self::GroupStats(GroupStats::read(fields)?),
            code::CHANGE_BROKER_CONFIG => Self::ChangeBrokerConfig(text("UPDATE_BROKER_CONFIG", frame)?),
            code::BROKER_CONFIG => Self::BrokerConfig,
            code::RUNTIME_INFO => Self::RuntimeInfo,
            code::REGISTER_BROKER => Self::RegisterBroker(RegisterBroker::read(frame)?),
            code::UNREGISTER_BROKER => Self::UnregisterBroker(UnregisterBroker::read(fields)?),
            code::ROUTE_INFO => Self::RouteInfo(RouteInfo::read(fields)?),
            code::CLUSTER_INFO => Self::ClusterInfo,
            code::TOPIC_LIST => Self::TopicList,
            code::QUERY_DATA_VERSION => Self::QueryDataVersion(QueryDataVersion {
                header: QueryDataVersionHeader::read(fields)?,
                version: (!frame.body.is_empty()).then(|| body("QUERY_DATA_VERSION", frame)).transpose()?.map(|v| *v),
            }),
            code::PUT_KV => Self::PutKv(KvEntry::read(fields)?),
            code::GET_KV => Self::GetKv(KvName::read(fields)?),
            code::DELETE_KV => Self::DeleteKv(KvName::read(fields)?),
            code::LIST_KV => Self::ListKv(KvNamespace::read(fields)?),
            code::WIPE_WRITE => Self::WipeWrite(OneBroker::read(fields)?),
            code::ADD_WRITE => Self::AddWrite(OneBroker::read(fields)?),
            code::CLUSTER_TOPICS => Self::ClusterTopics(ClusterTopics::read(fields)?),
            code::SYSTEM_TOPICS => Self::SystemTopics,
            code::CHANGE_NAME_SERVER_CONFIG => Self::ChangeNameServerConfig(text("UPDATE_NAMESRV_CONFIG", frame)?),
            code::NAME_SERVER_CONFIG => Self::NameServerConfig,
            code::BROKER_MEMBERS => Self::BrokerMembers(BrokerMembers::read(fields)?),
            code::BROKER_HEARTBEAT => Self::BrokerHeartbeat(BrokerHeartbeat::read(fields)?),
            code => Self::Unsupported { code },
        })
    }

    /// The code on the wire.
    pub fn code(&self) -> i32 {
        match self {
            Self::Send(send) => match send.via {
                SendVia::V1 => code::SEND,
                SendVia::V2 => code::SEND_V2,
                SendVia::Batch => code::SEND_BATCH,
            },
            Self::Pull(pull) if PullFlags(pull.sys_flag).lite() => code::LITE_PULL,
            Self::Pull(_) => code::PULL,
            Self::QueryOffset(_) => code::QUERY_OFFSET,
            Self::UpdateOffset(_) => code::UPDATE_OFFSET,
            Self::SearchOffset(_) => code::SEARCH_OFFSET,
            Self::MaxOffset(_) => code::MAX_OFFSET,
            Self::MinOffset(_) => code::MIN_OFFSET,
            Self::EarliestTime(_) => code::EARLIEST_TIME,
            Self::ViewMessage(_) => code::VIEW_MESSAGE,
            Self::Heartbeat(_) => code::HEARTBEAT,
            Self::Unregister(_) => code::UNREGISTER,
            Self::CheckClientConfig(_) => code::CHECK_CLIENT_CONFIG,
            Self::ConsumerList(_) => code::CONSUMER_LIST,
            Self::ConsumersChanged(_) => code::CONSUMERS_CHANGED,
            Self::CreateTopic(_) => code::CREATE_TOPIC,
            Self::DeleteTopic(_) => code::DELETE_TOPIC,
            Self::DeleteTopicRoute(_) => code::DELETE_TOPIC_ROUTE,
            Self::AllTopics => code::ALL_TOPICS,
            Self::CreateGroup(_) => code::CREATE_GROUP,
            Self::AllGroups => code::ALL_GROUPS,
            Self::DeleteGroup(_) => code::DELETE_GROUP,
            Self::TopicStats(_) => code::TOPIC_STATS,
            Self::GroupStats(_) => code::GROUP_STATS,
            Self::BrokerConfig => code::BROKER_CONFIG,
            Self::RuntimeInfo => code::RUNTIME_INFO,
            Self::RegisterBroker(_) => code::REGISTER_BROKER,
            Self::UnregisterBroker(_) => code::UNREGISTER_BROKER,
            Self::RouteInfo(_) => code::ROUTE_INFO,
            Self::ClusterInfo => code::CLUSTER_INFO,
            Self::TopicList => code::TOPIC_LIST,
            Self::QueryDataVersion(_) => code::QUERY_DATA_VERSION,
            Self::LockQueues(_) => code::LOCK_QUEUES,
            Self::UnlockQueues(_) => code::UNLOCK_QUEUES,
            Self::ChangeBrokerConfig(_) => code::CHANGE_BROKER_CONFIG,
            Self::PutKv(_) => code::PUT_KV,
            Self::GetKv(_) => code::GET_KV,
            Self::DeleteKv(_) => code::DELETE_KV,
            Self::ListKv(_) => code::LIST_KV,
            Self::WipeWrite(_) => code::WIPE_WRITE,
            Self::AddWrite(_) => code::ADD_WRITE,
            Self::ClusterTopics(_) => code::CLUSTER_TOPICS,
            Self::SystemTopics => code::SYSTEM_TOPICS,
            Self::ChangeNameServerConfig(_) => code::CHANGE_NAME_SERVER_CONFIG,
            Self::NameServerConfig => code::NAME_SERVER_CONFIG,
            Self::BrokerMembers(_) => code::BROKER_MEMBERS,
            Self::BrokerHeartbeat(_) => code::BROKER_HEARTBEAT,
            Self::Unsupported { code } => *code,
        }
    }

    /// Writes the header fields.
    pub fn write_fields(&self, sink: &mut impl FieldSink) {
        match self {
            Self::Send(send) if send.via == SendVia::V1 => send.header.write(sink),
            Self::Send(send) => send.header.write_short(sink),
            Self::Pull(header) => header.write(sink),
            Self::QueryOffset(header) => header.write(sink),
            Self::UpdateOffset(header) => header.write(sink),
            Self::SearchOffset(header) => header.write(sink),
            Self::MaxOffset(header) => header.write(sink),
            Self::MinOffset(header) => header.write(sink),
            Self::EarliestTime(header) => header.write(sink),
            Self::ViewMessage(header) => header.write(sink),
            Self::Unregister(header) => header.write(sink),
            Self::ConsumerList(header) => header.write(sink),
            Self::ConsumersChanged(header) => header.write(sink),
            Self::CreateTopic(header) => header.write(sink),
            Self::DeleteTopic(header) | Self::DeleteTopicRoute(header) => header.write(sink),
            Self::DeleteGroup(header) => header.write(sink),
            Self::TopicStats(header) => header.write(sink),
            Self::GroupStats(header) => header.write(sink),
            // We write the plain form, whichever the header was read with.
            Self::RegisterBroker(register) => {
                RegisterBrokerHeader { compressed: false, ..register.header.clone() }.write(sink);
            }
            Self::UnregisterBroker(header) => header.write(sink),
            Self::RouteInfo(header) => header.write(sink),
            Self::QueryDataVersion(query) => query.header.write(sink),
            Self::PutKv(header) => header.write(sink),
            Self::GetKv(header) | Self::DeleteKv(header) => header.write(sink),
            Self::ListKv(header) => header.write(sink),
            Self::WipeWrite(header) | Self::AddWrite(header) => header.write(sink),
            Self::ClusterTopics(header) => header.write(sink),
            Self::BrokerMembers(header) => header.write(sink),
            Self::BrokerHeartbeat(header) => header.write(sink),
            Self::Heartbeat(_)
            | Self::LockQueues(_)
            | Self::UnlockQueues(_)
            | Self::ChangeBrokerConfig(_)
            | Self::ChangeNameServerConfig(_)
            | Self::NameServerConfig
            | Self::SystemTopics
            | Self::CheckClientConfig(_)
            | Self::AllTopics
            | Self::CreateGroup(_)
            | Self::AllGroups
            | Self::BrokerConfig
            | Self::RuntimeInfo
            | Self::ClusterInfo
            | Self::TopicList
            | Self::Unsupported { .. } => {}
        }
    }

    /// Appends the body.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Send(send) => out.extend_from_slice(&send.body),
            Self::Heartbeat(heartbeat) => write_json(out, heartbeat),
            Self::CheckClientConfig(config) => write_json(out, config),
            Self::CreateGroup(group) => write_json(out, group),
            Self::LockQueues(locks) | Self::UnlockQueues(locks) => write_json(out, locks),
            Self::ChangeBrokerConfig(text) | Self::ChangeNameServerConfig(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            Self::RegisterBroker(register) => write_json(out, &register.body),
            Self::QueryDataVersion(query) => {
                if let Some(version) = &query.version {
                    write_json(out, version);
                }
            }
            _ => {}
        }
    }
}

fn body<T: DeserializeOwned>(what: &str, frame: &Frame<'_>) -> Result<Box<T>, Refusal> {
    json::parse_within(frame.body, json::VALUES_MAX_OF_CLIENTS).map(Box::new).map_err(|error| unreadable(what, &error))
}

fn text<'b>(what: &str, frame: &Frame<'b>) -> Result<Str<'b>, Refusal> {
    std::str::from_utf8(frame.body).map(Str::Borrowed).map_err(|error| unreadable(what, &error))
}

/// The refusal of a request whose body is not what it should be.
fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal { code: ResponseCode::SystemError, remark: format!("the body of {what} cannot be read: {error}") }
}

fn write_json(out: &mut Vec<u8>, body: &impl Serialize) {
    serde_json::to_writer(out, body).expect("a body has text as keys, and memory takes any bytes");
}

impl From<HeaderError> for Refusal {
    /// A header that lacks something is a SYSTEM_ERROR in RocketMQ, too; the text says which field.
    fn from(error: HeaderError) -> Self {
        Self { code: ResponseCode::SystemError, remark: error.to_string() }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        Self::refuse(refusal.code, refusal.remark)
    }
}

#[cfg(test)]
mod tests;
