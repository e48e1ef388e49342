//! What a producer is told, what it wants done, and how a send ends.

use crate::config::ClientConfig;
use crate::message::Message;
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset};
use std::time::Duration;

/// Names a send, for whoever asked for it. Never used twice in the life of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u64);

/// What a producer must know. Names and defaults are RocketMQ's `DefaultMQProducer`, where it has them.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// What every client must know.
    pub client: ClientConfig,
    /// The producer group; brokers hear of it.
    pub group: String,
    /// From the command to its end, attempts and waiting included (sendMsgTimeout: 3 s).
    pub send_timeout: Duration,
    /// One attempt, when there is time for another behind it.
    pub attempt_timeout: Duration,
    /// Attempts behind the first one that may reach a broker (retryTimesWhenSendFailed: 2). Attempts that reach nobody, and
    /// those for which a broker is too busy, do not count: they end with the time.
    pub retries: u32,
    /// Queues of a topic that a send creates (defaultTopicQueueNums: 4).
    pub default_topic_queues: u32,
    /// Bodies of so many bytes are compressed (compressMsgBodyOverHowmuch: 4096).
    pub compress_over: usize,
    /// Largest body (maxMessageSize: 4 MiB).
    pub max_message_bytes: usize,
    /// Largest body of one request that carries a batch; what is larger is split.
    pub max_batch_bytes: usize,
    /// Largest body of one request that carries messages which were sent in one turn of the producer, each by itself: they go
    /// out together, without waiting for more. 0: each goes alone (autoBatch, batchMaxBytes; RocketMQ's client does not).
    pub auto_batch_bytes: usize,
    /// Messages that may be under way.
    pub in_flight: usize,
    /// Bytes of bodies that may be under way.
    pub in_flight_bytes: usize,
    /// Avoid brokers that were slow for a while (sendLatencyFaultEnable).
    pub avoid_slow: bool,
}

impl ProducerConfig {
    /// RocketMQ's defaults, and 10,000 messages or 64 MiB under way.
    pub fn new(client: ClientConfig, group: String) -> Self {
        Self {
            client,
            group,
            send_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(2),
            retries: 2,
            default_topic_queues: 4,
            compress_over: 4096,
            max_message_bytes: 4 << 20,
            max_batch_bytes: 1 << 20,
            auto_batch_bytes: 128 << 10,
            in_flight: 10_000,
            in_flight_bytes: 64 << 20,
            avoid_slow: true,
        }
    }
}

/// Which queue a message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any; another one when the first refuses. A message with a sharding key: the one that its key chooses, and no other.
    Any,
    /// This one, and no other.
    Queue(MessageQueue),
}

/// What a producer is told.
#[derive(Debug)]
pub enum ProducerCommand {
    /// Send; [`ProducerWork::Sent`] follows, exactly once.
    Send {
        /// Names the end of it.
        id: SendId,
        /// What.
        message: Message,
        /// Where to.
        to: Target,
        /// Another time than the configured one.
        timeout: Option<Duration>,
    },
    /// Send several of one topic, in as few requests as they fit in; each of them ends by its own id, and what went in one
    /// request is kept or refused as one.
    SendBatch {
        /// What, each with its id.
        messages: Vec<(SendId, Message)>,
        /// Where to.
        to: Target,
        /// Another time than the configured one.
        timeout: Option<Duration>,
    },
    /// Send, and never hear of it. It ends, for the bounds, when it has been handed on.
    SendOneway {
        /// What.
        message: Message,
        /// Where to.
        to: Target,
    },
    /// Make sure that the route of a topic is known, or why not; [`ProducerWork::Routed`] follows.
    Route {
        /// Of this topic.
        topic: keepmq_protocol::Topic,
    },
    /// Take no more; end what is under way within this time, then [`ProducerWork::Closed`]. A second one: at once.
    Close {
        /// From now on.
        within: Duration,
    },
}

/// What a producer wants done.
#[derive(Debug)]
pub enum ProducerWork {
    /// A send has ended.
    Sent {
        /// Which.
        id: SendId,
        /// How.
        outcome: Result<Receipt, SendError>,
    },
    /// A oneway message has been handed on, or dropped: there is room again. In the order of the commands, as long as none
    /// waits for its route.
    Told {
        /// Bytes of its body.
        bytes: usize,
    },
    /// What is known of a topic: its writable queues, empty when the first message may create it, or why there is nothing.
    Routed {
        /// The topic.
        topic: keepmq_protocol::Topic,
        /// Its queues.
        outcome: Result<Vec<MessageQueue>, crate::RouteError>,
    },
    /// It has ended; nothing follows.
    Closed(ProducerReport),
}

/// A message that was kept, as durably as the broker is configured to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id that this client gave it (UNIQ_KEY).
    pub message_id: String,
    /// Where it lies, as an id that tools take.
    pub offset_message_id: String,
    /// In which queue.
    pub queue: MessageQueue,
    /// Where in that queue.
    pub offset: QueueOffset,
    /// Requests that it took. Behind one whose end was not known there may be a copy, under the same id.
    pub attempts: u32,
}

/// A send that did not end with SEND_OK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It was not kept and never will be: nobody consumes it.
    #[error("refused: {why}")]
    Refused {
        /// The id of the message.
        message_id: String,
        /// The broker's answer (RocketMQ's `ResponseCode`), when one answered.
        code: Option<i32>,
        /// Who answered, or was tried last.
        broker: Option<BrokerName>,
        /// What happened.
        why: String,
        /// Requests that were sent.
        attempts: u32,
    },
    /// Nobody can say whether it was kept. If it was, it has this id; sending it again may make a second copy.
    #[error("unknown: {why}")]
    Unknown {
        /// The id of the message.
        message_id: String,
        /// The broker's answer, when one answered: FLUSH_DISK_TIMEOUT 10, FLUSH_SLAVE_TIMEOUT 12, SLAVE_NOT_AVAILABLE 11 …
        code: Option<i32>,
        /// Who answered, or was tried last.
        broker: Option<BrokerName>,
        /// What happened.
        why: String,
        /// Requests that were sent.
        attempts: u32,
    },
}

/// What a producer has done in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerReport {
    /// Sends that ended with SEND_OK.
    pub kept: u64,
    /// Sends that were refused.
    pub refused: u64,
    /// Sends whose end nobody knows.
    pub unknown: u64,
    /// Requests behind the first of a send.
    pub retries: u64,
    /// Oneway messages that were handed to nobody: no room, no route in time, or the producer was closed first.
    pub dropped: u64,
}
