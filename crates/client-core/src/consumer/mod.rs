//! Consumers: `PushConsumer` has its messages processed by a listener, `PullConsumer` is asked for them.

mod push;
pub use push::{Batch, ConsumerReport, PushCommand, PushConfig, PushConsumer, PushWork, Verdict};

mod pull;
pub use pull::{PullCommand, PullConfig, PullConsumer, PullWork, SeekTo};

mod process_queue;
mod questions;
mod queues;
mod rebalance;

use keepmq_protocol::Topic;
use keepmq_world::Timestamp;

/// Whether the members of a group share its messages. Source: RocketMQ `MessageModel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageModel {
    /// Each message goes to one member; offsets live at the broker.
    Clustering,
    /// Each member gets all; offsets live as long as the consumer, so each start begins where [`ConsumeFrom`] says.
    Broadcasting,
}

/// Where a group begins in a queue for which it has no offset. Source: RocketMQ `ConsumeFromWhere`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// Behind the last message there is when the group comes to the queue.
    ///
    /// What is promised: the place is found after the queue's broker has confirmed that it knows this member, and it is kept for
    /// the group before anything is pulled. So whatever is stored after the queue first stands among those assigned
    /// ([`PushWork::Assigned`]) is not passed over, also when the consumer ends before its first commit. A queue that did not
    /// exist when the consumer first saw the topic, or when there was no such topic, begins with its first message.
    ///
    /// What is not: a message stored between the start of the consumer and that moment may come or not, since the broker does
    /// not say which of them it was given first.
    LastOffset,
    /// With the first message that is there.
    FirstOffset,
    /// With the first one that was stored at this time or later; milliseconds since 1970.
    /// Brokers of RocketMQ 4.9 answer with the message that is nearest in time, which may be an earlier one.
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
