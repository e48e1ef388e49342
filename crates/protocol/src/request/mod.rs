//! Requests: one variant per code we serve or send. Source: RocketMQ `RequestCode` and the header classes of `remoting`.

mod admin;
mod group;
mod offset;
mod pull;
mod route;
mod send;

pub use admin::{CreateTopic, DeleteGroup, DeleteTopic, GroupStats, TopicStats};
pub use group::{ConsumerList, ConsumersChanged, Unregister};
pub use offset::{EarliestTime, MaxOffset, MinOffset, QueryOffset, SearchOffset, UpdateOffset, ViewMessage};
pub use pull::{Pull, PullFlags};
pub use route::{QueryDataVersion, QueryDataVersionHeader, RegisterBroker, RegisterBrokerHeader, RouteInfo, UnregisterBroker};
pub use send::{Send, SendHeader, SendVia};

use crate::ResponseCode;
use crate::body::{CheckClientConfig, Heartbeat, SubscriptionGroup};
use crate::frame::Frame;
use crate::header::{FieldSink, HeaderError};

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'b> {
    /// SEND_MESSAGE 10, SEND_MESSAGE_V2 310, SEND_BATCH_MESSAGE 320.
    Send(Send<'b>),
    /// PULL_MESSAGE 11.
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

impl<'b> Request<'b> {
    /// Reads the request that a frame carries. Any code is a request; one that we do not know is `Unsupported`.
    pub fn read(frame: &Frame<'b>) -> Result<Self, Refusal> {
        let _ = frame;
        todo!()
    }

    /// The code on the wire.
    pub fn code(&self) -> i32 {
        todo!()
    }

    /// Writes the header fields.
    pub fn write_fields(&self, sink: &mut impl FieldSink) {
        let _ = sink;
        todo!()
    }

    /// Appends the body.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }
}

impl From<HeaderError> for Refusal {
    /// A header that lacks something is a SYSTEM_ERROR in RocketMQ, too; the text says which field.
    fn from(error: HeaderError) -> Self {
        Self { code: ResponseCode::SystemError, remark: error.to_string() }
    }
}
