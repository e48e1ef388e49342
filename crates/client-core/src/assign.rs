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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::received::tests::queue;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn queues(number: u32) -> Vec<MessageQueue> {
        ["r1@a", "r2@b"].iter().flat_map(|broker| (0..number).map(|id| queue("T", broker, id))).collect()
    }

    fn members(number: usize) -> Vec<String> {
        let mut members: Vec<String> = (0..number).map(|n| format!("10.0.0.{n}@{}#x", n * 7919)).collect();
        members.sort_unstable();
        members
    }

    fn strategies() -> [Strategy; 5] {
        [
            Strategy::Averagely,
            Strategy::AveragelyByCircle,
            Strategy::ConsistentHash { virtual_nodes: 10 },
            Strategy::ConsistentHash { virtual_nodes: 3 },
            Strategy::MachineRoom { rooms: vec!["r1".to_owned()] },
        ]
    }

    /// Members, strategy, and what RocketMQ 4.9.8 gives each member of ten queues.
    #[test]
    fn the_result_is_that_of_java() {
        let queues = queues(5);
        let rows = [
            (1, 0, "0 1 2 3 4 5 6 7 8 9"),
            (1, 1, "0 1 2 3 4 5 6 7 8 9"),
            (1, 2, "0 1 2 3 4 5 6 7 8 9"),
            (1, 3, "0 1 2 3 4 5 6 7 8 9"),
            (1, 4, "0 1 2 3 4"),
            (3, 0, "0 1 2 3|4 5 6|7 8 9"),
            (3, 1, "0 3 6 9|1 4 7|2 5 8"),
            (3, 2, "5 9|0 2 3 7|1 4 6 8"),
            (3, 3, "1|0 2 3 5 6 7 9|4 8"),
            (3, 4, "0 3|1 4|2"),
            (4, 0, "0 1 2|3 4 5|6 7|8 9"),
            (4, 1, "0 4 8|1 5 9|2 6|3 7"),
            (4, 2, "5 9|0 3 7|1|2 4 6 8"),
            (4, 3, "1|0 3||2 4 5 6 7 8 9"),
            (4, 4, "0 4|1|2|3"),
        ];
        for (count, strategy, expected) in rows {
            let (members, strategy) = (members(count), &strategies()[strategy]);
            let number = |queue: MessageQueue| queues.binary_search(&queue).unwrap().to_string();
            let of = |me: &String| {
                let queues = strategy.allocate(me, &queues, &members).into_iter();
                queues.map(number).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(members.iter().map(of).collect::<Vec<_>>().join("|"), expected, "{count} {strategy:?}");
        }
    }

    #[test]
    fn who_is_no_member_has_nothing_and_a_list_is_what_it_says() {
        assert_eq!(Strategy::Averagely.allocate("stranger", &queues(5), &members(3)), []);
        let fixed = vec![queue("T", "r1@a", 2)];
        let config = Strategy::Config { queues: fixed.clone() };
        assert_eq!(config.allocate(&members(3)[2], &queues(5), &members(3)), fixed);
        for (broker, expected) in [("r@b", Some("r")), ("r", None), ("r@", None), ("r@b@", Some("r")), ("a@b@c", None)]
        {
            assert_eq!(room(broker), expected, "{broker}");
        }
    }

    proptest! {
        /// However the list is ordered, and whoever stands in it twice.
        #[test]
        fn every_queue_has_exactly_one_owner(count in 1usize..20, number in 0u32..40, turn in 0usize..20, strategy in 0usize..4) {
            let (strategy, all) = (&strategies()[strategy], queues(number));
            let mut listed = members(count);
            listed.rotate_left(turn % count);
            listed.push(listed[0].clone());
            let mut owned: Vec<MessageQueue> =
                members(count).iter().flat_map(|me| strategy.allocate(me, &all, &listed)).collect();
            owned.sort_unstable();
            prop_assert_eq!(owned, all);
        }
    }
}
