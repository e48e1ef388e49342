use crate::{BrokerName, Topic};

/// One queue of a topic, on one broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageQueue {
    /// The topic it belongs to.
    pub topic: Topic,
    /// The broker (group) it lies on.
    pub broker: BrokerName,
    /// Its number, from 0.
    pub id: u32,
}
