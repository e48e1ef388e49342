use super::{MessageModel, PushConfig};
use crate::assign::Strategy;
use crate::cx::Cx;
use crate::heartbeat::Heartbeats;
use crate::routes::Routes;
use keepmq_protocol::request::ConsumerList;
use keepmq_protocol::seam::{CallId, Outcome};
use keepmq_protocol::{MessageQueue, Request, Topic, json};
use keepmq_world::Mono;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How soon the members are asked for again when there was no answer, or one that cannot be right.
const AGAIN: Duration = Duration::from_secs(1);
/// Most members that are believed.
const MEMBERS_MAX: usize = 100_000;

/// Who gets which queue: asks for the members of the group, and applies the strategy to what they and the route say.
///
/// Each topic is asked for by itself, at one broker that has confirmed that it knows us. A list without us is not believed at
/// once: a broker that has just started knows nobody, and whoever gives up its queues then makes everybody repeat. We say that
/// we are there and ask again. When the next list is without us, too, the others share our queues already; holding them would
/// only have every message processed twice.
pub(crate) struct Rebalance {
    group: String,
    client_id: String,
    strategy: Strategy,
    every: Duration,
    patience: Duration,
    /// Members share queues; else each has all, and nobody is asked.
    shared: bool,
    topics: BTreeMap<Topic, Sharing>,
    calls: BTreeMap<CallId, Topic>,
}

struct Sharing {
    due: Mono,
    asking: bool,
    /// The last list was without us.
    missed: bool,
    /// The queues that the topic had when it was seen first; none when it did not exist.
    first_seen: Option<BTreeSet<MessageQueue>>,
}

/// What an answer leads to.
pub(crate) enum Shared {
    /// These are ours.
    Queues(Topic, BTreeSet<MessageQueue>),
    /// The broker does not know us, or not any more.
    Unknown,
    /// Everything stays as it is.
    Same,
}

/// Body of the answer to GET_CONSUMER_LIST_BY_GROUP 38.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    consumer_id_list: Vec<String>,
}

impl Rebalance {
    pub(crate) fn new(config: &PushConfig, topics: impl Iterator<Item = Topic>, now: Mono) -> Self {
        let sharing = |topic| (topic, Sharing { due: now, asking: false, missed: false, first_seen: None });
        Self {
            group: config.group.clone(),
            client_id: config.client.client_id.clone(),
            strategy: config.strategy.clone(),
            every: config.rebalance_every,
            patience: config.client.api_timeout,
            shared: config.model == MessageModel::Clustering,
            topics: topics.map(sharing).collect(),
            calls: BTreeMap::new(),
        }
    }

    /// Something has changed: the members (of all topics), or the route of one.
    pub(crate) fn hurry(&mut self, topic: Option<&Topic>, now: Mono) {
        let of = |(known, _): &(&Topic, &mut Sharing)| topic.is_none_or(|topic| topic == *known);
        self.topics.iter_mut().filter(of).for_each(|(_, sharing)| sharing.due = now);
    }

    /// What is known of a topic when there is no route: it does not exist, so whatever appears later is new.
    pub(crate) fn absent(&mut self, topic: &Topic) {
        if let Some(sharing) = self.topics.get_mut(topic) {
            sharing.first_seen.get_or_insert_with(BTreeSet::new);
        }
    }

    /// Whether a queue did not exist when its topic was seen first.
    pub(crate) fn is_fresh(&self, queue: &MessageQueue) -> bool {
        let first_seen = self.topics.get(&queue.topic).and_then(|sharing| sharing.first_seen.as_ref());
        first_seen.is_some_and(|seen| !seen.contains(queue))
    }

    /// Asks for what is due. Without sharing it is known at once.
    pub(crate) fn on_time<W>(&mut self, routes: &Routes, heartbeats: &Heartbeats, cx: &mut Cx<W>) -> Vec<Shared> {
        let now = cx.now.mono;
        let mut shared = Vec::new();
        for (topic, sharing) in &mut self.topics {
            if sharing.due > now || sharing.asking {
                continue;
            }
            sharing.due = now + AGAIN.min(self.every);
            let Some(route) = routes.known(topic) else { continue };
            sharing.first_seen.get_or_insert_with(|| route.readable.iter().cloned().collect());
            if !self.shared {
                sharing.due = now + self.every;
                shared.push(Shared::Queues(topic.clone(), route.readable.iter().cloned().collect()));
                continue;
            }
            let known: Vec<&Arc<str>> = route
                .brokers
                .iter()
                .filter(|(broker, _)| heartbeats.is_known_to(broker))
                .filter_map(|(_, replicas)| replicas.get(&0).or(replicas.values().next()))
                .collect();
            if known.is_empty() {
                continue;
            }
            let address = *cx.chance.pick(&known);
            let request = Request::ConsumerList(ConsumerList { group: self.group.clone().into() });
            let call = cx.call(address, request, now + self.patience);
            sharing.asking = true;
            sharing.due = now + self.every;
            self.calls.insert(call, topic.clone());
        }
        shared
    }

    /// Takes an answer; `None` when the call is none of ours.
    pub(crate) fn answered<W>(
        &mut self,
        call: CallId,
        outcome: &Outcome,
        routes: &mut Routes,
        cx: &mut Cx<W>,
    ) -> Option<Shared> {
        let topic = self.calls.remove(&call)?;
        let sharing = self.topics.get_mut(&topic).expect("topics do not change");
        sharing.asking = false;
        let soon = cx.now.mono + AGAIN.min(self.every);
        let Some(members) = members(outcome) else {
            sharing.due = sharing.due.min(soon);
            routes.want(&topic, cx);
            return Some(Shared::Unknown);
        };
        let missing = !members.contains(&self.client_id);
        let missed = std::mem::replace(&mut sharing.missed, missing);
        if missing {
            sharing.due = sharing.due.min(soon);
            if !missed {
                return Some(Shared::Unknown);
            }
        }
        let Some(route) = routes.known(&topic) else { return Some(Shared::Same) };
        let mut queues: BTreeSet<MessageQueue> =
            self.strategy.allocate(&self.client_id, &route.readable, &members).into_iter().collect();
        // A configured list names queues of other topics, and some that do not exist.
        queues.retain(|queue| route.readable.binary_search(queue).is_ok());
        Some(Shared::Queues(topic, queues))
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.topics.values().filter(|sharing| !sharing.asking).map(|sharing| sharing.due).min()
    }
}

fn members(outcome: &Outcome) -> Option<Vec<String>> {
    let response = outcome.as_ref().ok().filter(|response| response.is_ok())?;
    let list: List = json::parse(&response.body.concat()).ok()?;
    Some(list.consumer_id_list).filter(|members| members.len() <= MEMBERS_MAX)
}
