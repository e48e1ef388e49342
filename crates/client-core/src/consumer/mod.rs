//! Consumers: `PushConsumer` has its messages processed by a listener, [`PullConsumer`] is asked for them.

mod pull;
mod push;

pub use pull::{PullCommand, PullConfig, PullConsumer, PullWork, SeekTo};
pub use push::{Batch, ConsumerReport, PushCommand, PushConfig, PushWork, Verdict};

use keepmq_protocol::Topic;
use keepmq_protocol::body::TagFilter;
use keepmq_world::Timestamp;

/// Whether the members of a group share its messages. Source: RocketMQ `MessageModel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageModel {
    /// Each message goes to one member; offsets live at the broker.
    Clustering,
    /// Each member gets all, from the end of each queue on; offsets live as long as the consumer.
    Broadcasting,
}

/// Where a group begins in a queue for which it has no offset. Source: RocketMQ `ConsumeFromWhere`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// Behind the last message there is when the group comes to the queue.
    LastOffset,
    /// With the first message that is there.
    FirstOffset,
    /// With the first one that was stored at this time or later; milliseconds since 1970.
    Timestamp(Timestamp),
}

/// What a consumer wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: Topic,
    /// `*`, or tags separated by `||`.
    pub expression: String,
}

impl Subscription {
    /// The filter that the expression means.
    pub(crate) fn filter(&self) -> TagFilter {
        TagFilter::parse(&self.expression)
    }
}
