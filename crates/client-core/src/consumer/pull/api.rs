//! What a pull consumer is told, and what it wants done.

use crate::RouteError;
use crate::config::ClientConfig;
use crate::consumer::{ConsumeFrom, Subscription};
use crate::received::Received;
use keepmq_protocol::{MessageQueue, QueueOffset, Topic};
use keepmq_world::Timestamp;
use std::time::Duration;

/// What a pull consumer must know. Source of names: RocketMQ `DefaultLitePullConsumer`.
#[derive(Clone, Debug)]
pub struct PullConfig {
    /// What every client must know.
    pub client: ClientConfig,
    /// The consumer group whose offsets are read and committed; `None`: nobody's, nothing is kept.
    pub group: Option<String>,
    /// Where an assigned queue begins without an offset of the group.
    pub from: ConsumeFrom,
    /// What is wanted of the topics; the whole of a topic that is not named.
    pub subscriptions: Vec<Subscription>,
    /// Messages of one pull.
    pub pull_batch: u32,
    /// How long a broker may hold a pull for which there is nothing.
    pub hold: Duration,
}

impl PullConfig {
    /// Whole topics, from the first message on where the group has no offset; RocketMQ's batches of 32.
    pub fn new(client: ClientConfig, group: Option<String>) -> Self {
        Self {
            client,
            group,
            from: ConsumeFrom::FirstOffset,
            subscriptions: Vec::new(),
            pull_batch: 32,
            hold: Duration::from_secs(15),
        }
    }
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// This offset.
    Offset(QueueOffset),
    /// The first message that is there.
    Begin,
    /// Behind the last one that is there.
    End,
    /// The first one that was stored then or later.
    Timestamp(Timestamp),
}

/// What a pull consumer is told. Each that has an `id` has one answer.
#[derive(Debug)]
pub enum PullCommand {
    /// Which queues a topic has. Answer: [`PullWork::Queues`].
    Queues {
        /// Names the answer.
        id: u64,
        /// Of this topic.
        topic: Topic,
    },
    /// Read these queues, and no others, each from the group's offset on. Queues that stay keep their place.
    Assign(Vec<MessageQueue>),
    /// Go on at another place. Answer: [`PullWork::Sought`].
    Seek {
        /// Names the answer.
        id: u64,
        /// In this queue.
        queue: MessageQueue,
        /// There.
        to: SeekTo,
    },
    /// Messages, in the order of each queue; what was polled is what the next commit commits. Answer: [`PullWork::Polled`].
    Poll {
        /// Names the answer.
        id: u64,
        /// At most so many messages.
        max: usize,
        /// At most so long, when there are none.
        wait: Duration,
    },
    /// Keep for the group how far it was polled. Answer: [`PullWork::Committed`].
    Commit {
        /// Names the answer.
        id: u64,
    },
    /// End; [`PullWork::Closed`] follows.
    Close,
}

/// What a pull consumer wants done.
#[derive(Debug)]
pub enum PullWork {
    /// The queues of a topic.
    Queues {
        /// Of which question.
        id: u64,
        /// The queues.
        outcome: Result<Vec<MessageQueue>, RouteError>,
    },
    /// A queue goes on there.
    Sought {
        /// Of which command.
        id: u64,
        /// There; or why not.
        outcome: Result<QueueOffset, String>,
    },
    /// Messages, none when the time was over.
    Polled {
        /// Of which question.
        id: u64,
        /// The messages; or what keeps all queues from being read.
        outcome: Result<Vec<Received>, String>,
    },
    /// The offsets are kept, all of them; or why not all of them.
    Committed {
        /// Of which command.
        id: u64,
        /// How it went.
        outcome: Result<(), String>,
    },
    /// It has ended; nothing follows.
    Closed,
}
