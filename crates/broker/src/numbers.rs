use crate::counters::{Counts, SHOWN, Traffic};
use crate::cx::Cx;
use crate::histogram::Histogram;
use crate::members::Members;
use keepmq_protocol::Topic;
use keepmq_store::{Disk, StoreState};
use keepmq_world::Timestamp;
use std::collections::BTreeMap;

/// Most queues looked at for lags: what bounds the time that taking the numbers costs.
const QUEUES: usize = 20_000;

/// A broker's numbers at one moment, for whoever shows them. Copied under the core's lock, formatted outside; how much is
/// copied does not depend on how many topics and groups there are.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// `brokerClusterName`.
    pub cluster: String,
    /// `brokerName`.
    pub name: String,
    /// When the broker was opened.
    pub started: Timestamp,
    /// 4: messages may be read; 2: written.
    pub perm: i32,
    /// Since the start.
    pub counts: Counts,
    /// Refused sends by the code of the answer.
    pub refused: BTreeMap<i32, u64>,
    /// Sends answered with SEND_OK once they were kept.
    pub sends_kept: u64,
    /// Sends and changes whose outcome was answered as unknown.
    pub unknown: u64,
    /// Sizes of message bodies, in bytes.
    pub sizes: Histogram,
    /// Nanoseconds from the start of a flush to its end.
    pub flush_times: Histogram,
    /// Nanoseconds from append to answer.
    pub commit_times: Histogram,
    /// The store's.
    pub store: StoreState,
    /// Replies that wait for the disk.
    pub waiting: usize,
    /// Pulls that wait for messages.
    pub parked: usize,
    /// Connections.
    pub connections: usize,
    /// How many topics there are.
    pub topic_count: usize,
    /// How many consumer groups there are.
    pub group_count: usize,
    /// The first topics of the table.
    pub topics: Vec<TopicNumbers>,
    /// Members of groups that have some.
    pub members: Vec<(String, usize)>,
    /// Groups with members that are not among them.
    pub members_left_out: usize,
    /// What groups have not consumed yet.
    pub lags: Vec<Lag>,
    /// Groups with offsets whose lags are not, or not all, among them.
    pub lags_left_out: usize,
}

/// A topic's.
#[derive(Clone, Debug)]
pub struct TopicNumbers {
    /// Its name.
    pub topic: Topic,
    /// Whether it is one of RocketMQ's own.
    pub system: bool,
    /// What was sent to it since the start.
    pub traffic: Traffic,
}

/// What a group has not consumed of a topic.
#[derive(Clone, Debug)]
pub struct Lag {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// Messages behind its offsets, whether they pass its filter or not. Of a queue where it has none: all that are there.
    pub messages: u64,
}

impl Numbers {
    pub(crate) fn new<D: Disk>(perm: i32, parked: usize, members: &Members, cx: &Cx<D>) -> Self {
        let (counters, tally, tables) = (&cx.counters, &cx.pending.tally, &cx.tables);
        let topic =
            |(topic, system, traffic): (&Topic, bool, Traffic)| TopicNumbers { topic: topic.clone(), system, traffic };
        let (lags, lags_left_out) = lags(cx);
        Self {
            cluster: cx.config.cluster.clone(),
            name: cx.config.name.clone(),
            started: counters.started,
            perm,
            counts: counters.counts,
            refused: counters.refused.clone(),
            sends_kept: tally.sends_kept,
            unknown: tally.unknown,
            sizes: counters.sizes,
            flush_times: counters.flush_times,
            commit_times: tally.commit_times,
            store: cx.store.state(),
            waiting: cx.pending.len(),
            parked,
            connections: members.len(),
            topic_count: tables.topics.len(),
            group_count: tables.groups.len(),
            topics: tables.topics.shown().map(topic).collect(),
            members: members.sizes().take(SHOWN).map(|(group, size)| (group.to_owned(), size)).collect(),
            members_left_out: members.sizes().len().saturating_sub(SHOWN),
            lags,
            lags_left_out,
        }
    }
}

/// The lags of the first groups, by name; and how many groups are left out.
fn lags<D: Disk>(cx: &Cx<D>) -> (Vec<Lag>, usize) {
    let mut lags = Vec::new();
    let (mut looked, mut groups) = (0, 0);
    let all = cx.tables.offsets.all();
    'all: for (group, topics) in all {
        for (topic, offsets) in topics {
            let mut messages = 0;
            for (queue_id, view) in cx.store.queues_of(topic) {
                let committed = offsets.get(&queue_id).copied().unwrap_or(view.min.wire());
                messages += u64::try_from(view.max.wire() - committed).unwrap_or(0);
                looked += 1;
                if looked > QUEUES {
                    break 'all;
                }
            }
            if lags.len() == SHOWN {
                break 'all;
            }
            lags.push(Lag { group: group.clone(), topic: topic.clone(), messages });
        }
        groups += 1;
    }
    (lags, all.len() - groups)
}

#[cfg(test)]
mod tests {
    use crate::BrokerConfig;
    use crate::counters::{SHOWN, Traffic};
    use crate::testing::{A, B, World, config, message, pull};
    use keepmq_protocol::Request;
    use keepmq_protocol::request::{CreateTopic, GroupStats, UpdateOffset};
    use std::time::Duration;

    fn create(topic: &str) -> Request<'_> {
        Request::CreateTopic(CreateTopic {
            topic: topic.into(),
            default_topic: None,
            read_queues: 1,
            write_queues: 1,
            perm: 6,
            filter_type: None,
            sys_flag: None,
            order: false,
            attributes: None,
        })
    }

    #[test]
    fn sends_are_told_apart_by_what_was_answered() {
        let mut world = World::new(BrokerConfig { allow_client_relax: true, ..config() });
        world.ask(A, Request::Send(message("T", 0, "", b"12345")));
        world.ask(A, Request::Send(message("T", 0, "WAIT\u{1}false\u{2}", b"123")));
        world.ask(A, Request::Send(message("T", 0, "", b"")));
        world.ask(A, Request::Send(message("TBW102_", 9, "", b"1")));
        world.oneway(A, Request::Send(message("T", 0, "", b"1")));
        world.hold = true;
        let late = world.send(B, Request::Send(message("T", 0, "", b"1")));
        world.pass(Duration::from_secs(6));
        assert_eq!(world.answer(late).map(|answer| answer.code), Some(10));
        world.flush();

        let numbers = world.broker.numbers();
        assert_eq!((numbers.sends_kept, numbers.counts.sends_relaxed, numbers.unknown), (1, 1, 1));
        assert_eq!(numbers.refused.into_iter().collect::<Vec<_>>(), [(13, 1), (29, 1)]);
        assert_eq!((numbers.sizes.count(), numbers.sizes.sum(), numbers.counts.largest), (4, 10, 5));
        // The late flush took as long as it was held.
        assert!(numbers.flush_times.sum() >= 6_000_000_000, "{:?}", numbers.flush_times);
        let shown = numbers.topics.iter().find(|shown| shown.topic.as_str() == "T").expect("it is among the first");
        assert_eq!((shown.system, shown.traffic), (false, Traffic { messages: 4, bytes: 10 }));
    }

    #[test]
    fn a_topic_keeps_its_count_when_it_is_changed_and_lags_are_what_is_left() {
        let mut world = World::new(config());
        for queue_id in [0, 0, 1] {
            world.ask(A, Request::Send(message("T", queue_id, "", b"1")));
        }
        world.ask(A, create("T"));
        world.ask(A, Request::Pull(pull("T", 0, 0, "*")));
        world.ask(
            A,
            Request::UpdateOffset(UpdateOffset {
                group: "G".into(),
                topic: "T".into(),
                queue_id: 0,
                offset: 1,
                if_absent: None,
            }),
        );
        let numbers = world.broker.numbers();
        let lags: Vec<_> = numbers.lags.iter().map(|lag| (&*lag.group, &*lag.topic, lag.messages)).collect();
        assert_eq!(lags, [("G", "T", 2)]);
        let stats = world.ask(A, Request::GroupStats(GroupStats { group: "G".into(), topic: None })).body.concat();
        let stats = String::from_utf8(stats).expect("JSON is UTF-8");
        let wanted = format!("\"consumerOffset\":1,\"lastTimestamp\":{}", world.now.wall);
        assert!(stats.contains(&wanted), "the group is behind, and when it last consumed is known: {stats}");
        let shown = numbers.topics.iter().find(|shown| shown.topic.as_str() == "T").expect("it is among the first");
        assert_eq!(shown.traffic.messages, 3);
    }

    #[test]
    fn what_is_copied_does_not_grow_with_the_broker() {
        let mut world = World::new(BrokerConfig { max_topics: 2 * SHOWN, ..config() });
        let system = world.broker.numbers().topic_count;
        for nth in 0..SHOWN {
            world.ask(A, create(&format!("T{nth}")));
        }
        for topic in ["T0", "T1", "T999", "T999"] {
            world.ask(A, Request::Send(message(topic, 0, "", b"123")));
        }
        let numbers = world.broker.numbers();
        assert_eq!((numbers.topic_count, numbers.topics.len()), (system + SHOWN, SHOWN));
        assert_eq!(numbers.topics.iter().map(|shown| shown.traffic.messages).sum::<u64>(), 2);
        assert_eq!((numbers.counts.others, numbers.counts.messages_in), (Traffic { messages: 2, bytes: 6 }, 4));
    }
}
