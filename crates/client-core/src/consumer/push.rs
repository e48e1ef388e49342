use super::{ConsumeFrom, MessageModel, Subscription};
use crate::assign::Strategy;
use crate::config::ClientConfig;
use crate::received::Received;
use keepmq_protocol::MessageQueue;
use std::time::Duration;

/// What a push consumer must know. Names and defaults are RocketMQ's `DefaultMQPushConsumer`, where it has them.
#[derive(Clone, Debug)]
pub struct PushConfig {
    /// What every client must know.
    pub client: ClientConfig,
    /// The consumer group.
    pub group: String,
    /// What it wants; the same for all members of a group.
    pub subscriptions: Vec<Subscription>,
    /// Whether members share (messageModel).
    pub model: MessageModel,
    /// Where a new group begins (consumeFromWhere).
    pub from: ConsumeFrom,
    /// Who gets which queue (allocateMessageQueueStrategy).
    pub strategy: Strategy,
    /// Messages that a listener is given at once (consumeMessageBatchMaxSize: 1).
    pub batch: usize,
    /// Listeners that may run at once (consumeThreadMax: 20).
    pub listeners: usize,
    /// Messages of one pull (pullBatchSize: 32).
    pub pull_batch: u32,
    /// Messages of one queue that may be in hand (pullThresholdForQueue: 1000).
    pub queue_messages: usize,
    /// Bytes of one queue that may be in hand (pullThresholdSizeForQueue: 100 MiB).
    pub queue_bytes: usize,
    /// Between the lowest and the highest offset in hand (consumeConcurrentlyMaxSpan: 2000).
    pub queue_span: u64,
    /// How often offsets are committed (persistConsumerOffsetInterval: 5 s).
    pub commit_every: Duration,
    /// How often the members are asked for when nobody says that they changed (20 s).
    pub rebalance_every: Duration,
    /// How long a broker may hold a pull for which there is nothing (15 s).
    pub hold: Duration,
    /// How soon a listener that has said *later* is asked again; doubled each time.
    pub later: Duration,
    /// The longest such time.
    pub later_max: Duration,
}

impl PushConfig {
    /// RocketMQ's defaults; what was answered *later* comes again after 1 s, then 2, up to 60 s.
    pub fn new(client: ClientConfig, group: String, subscriptions: Vec<Subscription>) -> Self {
        Self {
            client,
            group,
            subscriptions,
            model: MessageModel::Clustering,
            from: ConsumeFrom::LastOffset,
            strategy: Strategy::Averagely,
            batch: 1,
            listeners: 20,
            pull_batch: 32,
            queue_messages: 1000,
            queue_bytes: 100 << 20,
            queue_span: 2000,
            commit_every: Duration::from_secs(5),
            rebalance_every: Duration::from_secs(20),
            hold: Duration::from_secs(15),
            later: Duration::from_secs(1),
            later_max: Duration::from_secs(60),
        }
    }
}

/// Messages in a listener's hands. Never used twice in the life of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch(pub u64);

/// What a listener says of the messages it was given. Source: RocketMQ `ConsumeConcurrentlyStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Processed: the offset may pass them (CONSUME_SUCCESS).
    Success,
    /// Not processed: give them again later, and hold the offset until then (RECONSUME_LATER). Also what a panic means.
    Later,
}

/// What a push consumer is told.
#[derive(Debug)]
pub enum PushCommand {
    /// A listener has ended.
    Consumed {
        /// With these messages.
        batch: Batch,
        /// As it says.
        verdict: Verdict,
    },
    /// Give nothing more to listeners; wait for those that run, commit, leave the group, then [`PushWork::Closed`]. A second
    /// one: at once.
    Close {
        /// From now on.
        within: Duration,
    },
}

/// What a push consumer wants done.
#[derive(Debug)]
pub enum PushWork {
    /// Give these to a listener; [`PushCommand::Consumed`] follows, exactly once. All are of one queue, in its order.
    Consume {
        /// Names the end of it.
        batch: Batch,
        /// What.
        messages: Vec<Received>,
        /// How often a listener has said *later* of them.
        failures: u32,
    },
    /// The queues that this member has now, of all its topics.
    Assigned(Vec<MessageQueue>),
    /// Something that a user must know and that this consumer goes on trying to do: no name server, no such topic, a message
    /// that cannot be read.
    Trouble(String),
    /// It has ended; nothing follows.
    Closed(ConsumerReport),
}

/// What a consumer has done in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerReport {
    /// Messages that a listener has processed.
    pub processed: u64,
    /// Times that a listener said *later*.
    pub failures: u64,
    /// Messages in hand that were given to no listener, or not processed: the group gets them again.
    pub given_up: u64,
    /// Queues whose last offset could not be committed: their messages come again.
    pub uncommitted: u64,
}
