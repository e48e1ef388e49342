use super::{Refusal, unreadable};
use crate::ResponseCode;
use crate::body::{DataVersion, RegisterBrokerBody};
use crate::frame::Frame;
use crate::header;
use crate::header::Str;
use crate::record::crc;

header! {
    /// Header of REGISTER_BROKER 103.
    pub struct RegisterBrokerHeader<'b> {
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
        /// Where clients reach it, `ip:port`.
        pub broker_addr: Str<'b> = "brokerAddr",
        /// Its cluster.
        pub cluster: Str<'b> = "clusterName",
        /// Where replicas reach it.
        pub ha_addr: Str<'b> = "haServerAddr",
        /// 0 is the master.
        pub broker_id: i64 = "brokerId",
        /// 5.x: forget the broker after so long, milliseconds.
        pub timeout_ms: Option<i64> = "heartbeatTimeoutMillis",
        /// 5.x.
        pub enable_acting_master: Option<bool> = "enableActingMaster",
        /// Form of the body.
        pub compressed: bool = "compressed",
        /// CRC of the body; 0 is not checked.
        pub body_crc: Option<i32> = "bodyCrc32",
    }
}

/// REGISTER_BROKER 103.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterBroker<'b> {
    /// What the header says.
    pub header: RegisterBrokerHeader<'b>,
    /// What the broker serves.
    pub body: Box<RegisterBrokerBody>,
}

impl<'b> RegisterBroker<'b> {
    /// Reads it, and checks the body's CRC when there is one.
    pub(super) fn read(frame: &Frame<'b>) -> Result<Self, Refusal> {
        let header = RegisterBrokerHeader::read(&frame.fields)?;
        let says = header.body_crc.unwrap_or_default().cast_unsigned();
        let computed = crc(frame.body);
        if says != 0 && says != computed {
            // Java's text, and what it leaves out.
            let remark = format!("crc32 not match: the header says {says:#x}, the body gives {computed:#x}");
            return Err(Refusal { code: ResponseCode::SystemError, remark });
        }
        let body = RegisterBrokerBody::read(frame.body, header.compressed, frame.version)
            .map_err(|error| unreadable("REGISTER_BROKER", &error))?;
        Ok(Self { header, body: Box::new(body) })
    }
}

header! {
    /// UNREGISTER_BROKER 104.
    pub struct UnregisterBroker<'b> {
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
        /// Its address.
        pub broker_addr: Str<'b> = "brokerAddr",
        /// Its cluster.
        pub cluster: Str<'b> = "clusterName",
        /// 0 is the master.
        pub broker_id: i64 = "brokerId",
    }
}
header! {
    /// GET_ROUTEINFO_BY_TOPIC 105.
    pub struct RouteInfo<'b> {
        /// The topic.
        pub topic: Str<'b> = "topic",
        /// Quoted map keys, please (5.x).
        pub standard_json: Option<bool> = "acceptStandardJsonOnly",
    }
}
header! {
    /// Header of QUERY_DATA_VERSION 322.
    pub struct QueryDataVersionHeader<'b> {
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
        /// Its address.
        pub broker_addr: Str<'b> = "brokerAddr",
        /// Its cluster.
        pub cluster: Str<'b> = "clusterName",
        /// 0 is the master.
        pub broker_id: i64 = "brokerId",
    }
}

/// QUERY_DATA_VERSION 322.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryDataVersion<'b> {
    /// What the header says.
    pub header: QueryDataVersionHeader<'b>,
    /// The version that the broker has; `None` when the body is empty.
    pub version: Option<DataVersion>,
}

header! {
    /// WIPE_WRITE_PERM_OF_BROKER 205 and ADD_WRITE_PERM_OF_BROKER 327.
    pub struct OneBroker<'b> {
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
    }
}
header! {
    /// GET_TOPICS_BY_CLUSTER 224.
    pub struct ClusterTopics<'b> {
        /// The cluster.
        pub cluster: Str<'b> = "cluster",
    }
}
header! {
    /// GET_BROKER_MEMBER_GROUP 901.
    pub struct BrokerMembers<'b> {
        /// The cluster.
        pub cluster: Str<'b> = "clusterName",
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
    }
}
header! {
    /// BROKER_HEARTBEAT 904. What only a controller reads is left out.
    pub struct BrokerHeartbeat<'b> {
        /// Its cluster.
        pub cluster: Str<'b> = "clusterName",
        /// Its address.
        pub broker_addr: Str<'b> = "brokerAddr",
        /// The broker group's name.
        pub broker_name: Str<'b> = "brokerName",
        /// 0 is the master; older brokers do not say it.
        pub broker_id: Option<i64> = "brokerId",
        /// Forget the broker after so long, milliseconds. (The spelling is RocketMQ's.)
        pub timeout_ms: Option<i64> = "heartbeatTimeoutMills",
    }
}
