//! Who gets which queue: the strategies that RocketMQ has, with the same result for the same input.
//! Source: RocketMQ `org.apache.rocketmq.client.consumer.rebalance`.

use keepmq_protocol::MessageQueue;
use md5::{Digest, Md5};
use std::collections::BTreeMap;

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

impl Strategy {
    /// The queues of `me`, out of `queues` of one topic, shared with `members`.
    ///
    /// Order and repetition of the input do not matter: queues are sorted by broker and number, members by their id. A broker
    /// names a member twice that has come back before its old connection was closed; RocketMQ counts it twice, and leaves what
    /// falls to the second to nobody. Nothing when `me` is no member.
    pub fn allocate(&self, me: &str, queues: &[MessageQueue], members: &[String]) -> Vec<MessageQueue> {
        let mut queues = queues.to_vec();
        queues.sort_unstable();
        queues.dedup();
        let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
        members.sort_unstable();
        members.dedup();
        let Ok(index) = members.binary_search(&me) else { return Vec::new() };
        let of = members.len();
        match self {
            Self::Averagely => {
                let (each, more) = (queues.len() / of, queues.len() % of);
                let start = index * each + index.min(more);
                let size = each + usize::from(index < more);
                queues.drain(start..start + size).collect()
            }
            Self::AveragelyByCircle => queues.into_iter().skip(index).step_by(of).collect(),
            Self::ConsistentHash { virtual_nodes } => {
                // Of two places with one hash the later one holds, as in RocketMQ.
                let places = members.iter().flat_map(|member| (0..*virtual_nodes).map(move |node| (member, node)));
                let ring: BTreeMap<u32, &str> =
                    places.map(|(member, node)| (hash(&format!("{member}-{node}")), *member)).collect();
                let owner = |queue: &MessageQueue| {
                    let from = ring.range(hash(&key(queue))..).next();
                    from.or(ring.first_key_value()).map(|(_, member)| *member)
                };
                queues.retain(|queue| owner(queue) == Some(me));
                queues
            }
            Self::MachineRoom { rooms } => {
                queues.retain(|queue| room(queue.broker.as_str()).is_some_and(|room| rooms.iter().any(|r| r == room)));
                let (each, more) = (queues.len() / of, queues.len() % of);
                let block = queues.iter().skip(index * each).take(each);
                let rest = queues.iter().skip(of * each + index).take(usize::from(index < more));
                block.chain(rest).cloned().collect()
            }
            Self::Config { queues } => queues.clone(),
        }
    }
}

/// The room in a broker's name. As Java's `split` has it, separators at the end do not count.
fn room(broker: &str) -> Option<&str> {
    let (room, name) = broker.trim_end_matches('@').split_once('@')?;
    (!name.contains('@')).then_some(room)
}

/// A queue as its Java object writes itself.
fn key(queue: &MessageQueue) -> String {
    format!("MessageQueue [topic={}, brokerName={}, queueId={}]", queue.topic, queue.broker, queue.id)
}

/// Source: RocketMQ `ConsistentHashRouter.MD5Hash`: the first four bytes of the MD5.
fn hash(key: &str) -> u32 {
    let digest = Md5::digest(key.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}
