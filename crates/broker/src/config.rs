use keepmq_store::RetentionRules;
use std::net::SocketAddr;
use std::time::Duration;

/// What the broker needs to know. Names in parentheses are RocketMQ's keys.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `brokerClusterName`.
    pub cluster: String,
    /// `brokerName`.
    pub name: String,
    /// Where clients reach it (`brokerIP1`:`listenPort`).
    pub address: SocketAddr,
    /// `namesrvAddr`, split at `;`.
    pub name_servers: Vec<String>,
    /// `regionId`.
    pub region: String,
    /// Largest body (`maxMessageSize`).
    pub max_message_bytes: usize,
    /// A producer's `WAIT=false` may lower the wait (`allowClientRelax`).
    pub allow_client_relax: bool,
    /// `registerNameServerPeriod`.
    pub register_every: Duration,
    /// `litePullMessageEnable`.
    pub lite_pull: bool,
    /// A silent client is forgotten after so long (RocketMQ: 120 s).
    pub client_timeout: Duration,
    /// Most pulls held at once.
    pub max_parked: usize,
    /// Most topics.
    pub max_topics: usize,
    /// Most groups.
    pub max_groups: usize,
    /// Size of the store's disk, as far as known.
    pub disk_bytes: Option<u64>,
    /// What may change while it runs.
    pub live: LiveConfig,
}

/// What operators may change while the broker runs (UPDATE_BROKER_CONFIG). It is replaced as a whole.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// `autoCreateTopicEnable`.
    pub auto_create_topic: bool,
    /// `autoCreateSubscriptionGroup`.
    pub auto_create_group: bool,
    /// Queues of `TBW102` (`defaultTopicQueueNums`).
    pub default_topic_queues: u32,
    /// What clients may do here: 4 read, 2 write (`brokerPermission`).
    pub permission: i32,
    /// `syncFlushTimeout`.
    pub flush_timeout: Duration,
    /// `longPollingEnable`.
    pub long_polling: bool,
    /// Most messages of one pull (`maxTransferCountOnMessageInMemory`).
    pub pull_messages: u32,
    /// Most bytes of one pull (`maxTransferBytesOnMessageInMemory`).
    pub pull_bytes: u32,
    /// Which segments go when; what the store was opened with.
    pub retention: RetentionRules,
    /// Every effective key with its value, for GET_BROKER_CONFIG.
    pub shown: Vec<(String, String)>,
}

/// Why the broker's tables cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum OpenBrokerError {
    /// Metadata records behind the snapshot cannot be read.
    #[error(transparent)]
    Read(#[from] keepmq_store::ReadError),
    /// The snapshot's tables cannot be read.
    #[error("the broker's tables in the metadata snapshot cannot be read: {0}")]
    Tables(String),
}
