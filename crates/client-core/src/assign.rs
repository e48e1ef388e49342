//! Who gets which queue: the strategies that RocketMQ has, with the same result for the same input.
//! Source: RocketMQ `org.apache.rocketmq.client.consumer.rebalance`.

use keepmq_protocol::MessageQueue;

/// How the queues of a topic are shared among the members of a group. All members must use the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// A block of neighbours for each (AllocateMessageQueueAveragely, `AVG`). The default.
    Averagely,
    /// One after the other in turns (AllocateMessageQueueAveragelyByCircle, `AVG_BY_CIRCLE`).
    AveragelyByCircle,
    /// By a ring of hashes (AllocateMessageQueueConsistentHash, `CONSISTENT_HASH`): few queues move when members come and go.
    ConsistentHash {
        /// Places on the ring for each member; RocketMQ: 10.
        virtual_nodes: u32,
    },
    /// Only queues of these rooms, where brokers are named `room@name` (AllocateMessageQueueByMachineRoom, `MACHINE_ROOM`).
    MachineRoom {
        /// The rooms.
        rooms: Vec<String>,
    },
    /// These, whatever the others have (AllocateMessageQueueByConfig, `CONFIG`).
    Config {
        /// The queues.
        queues: Vec<MessageQueue>,
    },
}
