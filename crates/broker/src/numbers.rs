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
