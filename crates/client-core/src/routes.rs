//! Where topics are, as far as this client knows. Source of the protocol: RocketMQ `MQClientInstance`, `TopicRouteData`.

use crate::cx::Cx;
use keepmq_protocol::body::{RouteData, perm};
use keepmq_protocol::json;
use keepmq_protocol::request::RouteInfo;
use keepmq_protocol::seam::{CallError, CallId, Outcome};
use keepmq_protocol::{BrokerName, MessageQueue, Request, Response, ResponseCode, Topic};
use keepmq_world::{Keyed, Map, Mono};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Most queues of one route. RocketMQ's tools make a few per broker; a name server that says more is not believed.
const QUEUES_MAX: u64 = 65_536;
/// Least time between two questions for one topic.
const GATHER: Duration = Duration::from_millis(100);
/// How soon a topic that somebody waits for is asked for again when nobody knew it, or nobody answered: doubled each time.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// The topic whose route serves for topics that the first send is to create. Source: RocketMQ `AUTO_CREATE_TOPIC_KEY_TOPIC`.
const DEFAULT_TOPIC: &str = "TBW102";

/// Where the queues of one topic are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Route {
    /// Queues that take messages, in order of broker and number.
    pub writable: Vec<MessageQueue>,
    /// Queues that give messages, in the same order.
    pub readable: Vec<MessageQueue>,
    /// Addresses by broker and replica; 0 is the master.
    pub brokers: BTreeMap<BrokerName, BTreeMap<i64, Arc<str>>>,
}

impl Route {
    /// The master's address.
    pub fn master(&self, broker: &BrokerName) -> Option<&Arc<str>> {
        self.brokers.get(broker)?.get(&0)
    }

    /// Brokers that take messages.
    pub(crate) fn masters(&self) -> usize {
        self.writable.chunk_by(|one, next| one.broker == next.broker).count()
    }

    /// No queue of either kind.
    pub fn is_empty(&self) -> bool {
        self.writable.is_empty() && self.readable.is_empty()
    }

    /// Reads the body of an answer to GET_ROUTEINFO_BY_TOPIC 105. The text says what is wrong with it.
    pub fn read(topic: &Topic, body: &[u8]) -> Result<Self, String> {
        let data: RouteData = json::parse(body).map_err(|error| error.to_string())?;
        let mut route = Self::default();
        for broker in data.broker_datas {
            let name = BrokerName::new(&broker.broker_name).map_err(|error| error.to_string())?;
            let replicas = broker.broker_addrs.into_iter().map(|(id, address)| (id, address.into()));
            route.brokers.entry(name).or_default().extend(replicas);
        }
        let numbers =
            data.queue_datas.iter().map(|queues| u64::from(queues.read_queue_nums.max(queues.write_queue_nums)));
        let all: u64 = numbers.sum();
        if all > QUEUES_MAX {
            return Err(format!("it has {all} queues; the limit is {QUEUES_MAX}"));
        }
        for queues in &data.queue_datas {
            let broker = BrokerName::new(&queues.broker_name).map_err(|error| error.to_string())?;
            let of =
                |number: u32| (0..number).map(|id| MessageQueue { topic: topic.clone(), broker: broker.clone(), id });
            if queues.perm & perm::READ != 0 && route.brokers.contains_key(&broker) {
                route.readable.extend(of(queues.read_queue_nums));
            }
            // Only a master takes messages.
            if queues.perm & perm::WRITE != 0 && route.master(&broker).is_some() {
                route.writable.extend(of(queues.write_queue_nums));
            }
        }
        for queues in [&mut route.writable, &mut route.readable] {
            queues.sort_unstable();
            queues.dedup();
        }
        Ok(route)
    }
}

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No name server has answered. Each with its reason, in the order in which they were asked.
    Unreachable(Vec<(String, String)>),
    /// The name servers that answered do not know the topic, nor one whose settings a new topic could take.
    Unknown {
        /// Who said so.
        servers: Vec<String>,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(tried) => {
                write!(f, "no name server has answered")?;
                tried.iter().try_for_each(|(server, why)| write!(f, "; {server}: {why}"))
            }
            Self::Unknown { servers } => write!(f, "no route: {} know no such topic", servers.join(", ")),
        }
    }
}

/// What an answer has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The route of a topic is new, or another one.
    Changed(Topic),
    /// It is as it was.
    Same(Topic),
    /// Every name server was asked, and there is none; what was known before, if anything was, still holds.
    Failed(Topic),
    /// An answer to a question of which the end is not known yet.
    Asking,
}

/// The routes of all topics in use.
///
/// A topic is asked for at one name server; when that does not answer, or knows nothing of it, at the next, until all were
/// asked. A route that is known is given up for "no such topic" only when more than half of the name servers say so: one that
/// has just started knows nothing yet (row N4 of RocketMQ's losses).
pub(crate) struct Routes {
    servers: Vec<String>,
    /// Which one is asked first.
    first: usize,
    every: Duration,
    patience: Duration,
    topics: Map<Topic, Entry>,
    calls: BTreeMap<CallId, Topic>,
}

struct Entry {
    route: Option<Arc<Route>>,
    /// How the last round of questions ended, when it did not end with a route.
    error: Option<RouteError>,
    round: Option<Round>,
    next_at: Mono,
    asked_at: Option<Mono>,
    again: Duration,
    /// Somebody waits for it.
    wanted: bool,
}

/// The questions of one round.
struct Round {
    /// Who was asked first. The answer to another topic's question may change who is asked first from then on, but not this:
    /// one server would be asked twice, and pass for a majority.
    first: usize,
    asked: usize,
    silent: Vec<(String, String)>,
    ignorant: Vec<String>,
}

impl Routes {
    pub(crate) fn new(servers: Vec<String>, every: Duration, patience: Duration, seed: u64) -> Self {
        assert!(!servers.is_empty(), "a client has at least one name server");
        let topics = Keyed::new(seed).map();
        Self { servers, first: 0, every, patience, topics, calls: BTreeMap::new() }
    }

    /// The route of a topic; one that is not known yet is asked for.
    pub(crate) fn get<W>(&mut self, topic: &Topic, cx: &mut Cx<W>) -> Option<Arc<Route>> {
        if let Some(route) = self.topics.get(topic).and_then(|entry| entry.route.clone()) {
            return Some(route);
        }
        self.want(topic, cx);
        None
    }

    /// The route as it is known, if it is.
    pub(crate) fn known(&self, topic: &Topic) -> Option<&Arc<Route>> {
        self.topics.get(topic)?.route.as_ref()
    }

    /// How the last round of questions for it ended, when it did not end with a route.
    pub(crate) fn error(&self, topic: &Topic) -> Option<&RouteError> {
        self.topics.get(topic)?.error.as_ref()
    }

    /// The route that a topic which does not exist may have, so that the first message creates it.
    pub(crate) fn default_route<W>(&mut self, cx: &mut Cx<W>) -> Option<Arc<Route>> {
        self.get(&default_topic(), cx)
    }

    /// Somebody waits for it, or has reason to think that what is known is old: ask soon.
    pub(crate) fn want<W>(&mut self, topic: &Topic, cx: &mut Cx<W>) {
        let now = cx.now.mono;
        let entry = self.topics.entry(topic.clone()).or_insert_with(|| Entry {
            route: None,
            error: None,
            round: None,
            next_at: now,
            asked_at: None,
            again: AGAIN,
            wanted: true,
        });
        entry.wanted = true;
        if entry.round.is_none() {
            // A round that has failed says itself when to try again.
            let soonest =
                entry.asked_at.map_or(now, |asked| asked + if entry.error.is_some() { entry.again } else { GATHER });
            entry.next_at = entry.next_at.min(soonest.max(now));
        }
        self.on_time(cx);
    }

    /// Asks for what is due.
    pub(crate) fn on_time<W>(&mut self, cx: &mut Cx<W>) {
        let now = cx.now.mono;
        let due = |entry: &Entry| entry.round.is_none() && entry.next_at <= now;
        let topics: Vec<Topic> =
            self.topics.iter().filter(|(_, entry)| due(entry)).map(|(topic, _)| topic.clone()).collect();
        for topic in topics {
            let entry = self.topics.get_mut(&topic).expect("it was just found");
            entry.round = Some(Round { first: self.first, asked: 0, silent: Vec::new(), ignorant: Vec::new() });
            entry.asked_at = Some(now);
            self.ask(topic, cx);
        }
    }

    fn ask<W>(&mut self, topic: Topic, cx: &mut Cx<W>) {
        let round = self.topics.get_mut(&topic).and_then(|entry| entry.round.as_mut()).expect("a round is under way");
        let server = &self.servers[(round.first + round.asked) % self.servers.len()];
        let info = RouteInfo { topic: topic.as_str().to_owned().into(), standard_json: Some(true) };
        let call = cx.call(server, Request::RouteInfo(info), cx.now.mono + self.patience);
        self.calls.insert(call, topic);
    }

    /// Takes an answer; `None` when the call is none of ours.
    pub(crate) fn answered<W>(&mut self, call: CallId, outcome: &Outcome, cx: &mut Cx<W>) -> Option<News> {
        let topic = self.calls.remove(&call)?;
        let servers = self.servers.len();
        let entry = self.topics.get_mut(&topic).expect("topics are not forgotten");
        let round = entry.round.as_mut().expect("the question belongs to a round");
        let at = (round.first + round.asked) % servers;
        let server = self.servers[at].clone();
        match read(&topic, outcome) {
            Ok(Some(route)) => {
                // The others need not be asked, and this one is asked first from now on.
                self.first = at;
                entry.round = None;
                return Some(entry.take(topic, route, self.every, cx));
            }
            Ok(None) => round.ignorant.push(server),
            Err(why) => round.silent.push((server, why)),
        }
        round.asked += 1;
        if round.asked < servers {
            self.ask(topic, cx);
            return Some(News::Asking);
        }
        let round = entry.round.take().expect("it was just there");
        let now = cx.now.mono;
        entry.next_at = now + if entry.wanted || entry.route.is_some() { entry.again } else { self.every };
        entry.again = (entry.again * 2).min(AGAIN_MAX.min(self.every));
        let majority = round.ignorant.len() * 2 > servers;
        let believed = majority || keepmq_world::planted!("empty-route-accepted") && !round.ignorant.is_empty();
        entry.error = Some(match round.ignorant.is_empty() {
            true => RouteError::Unreachable(round.silent),
            false => RouteError::Unknown { servers: round.ignorant },
        });
        if believed && entry.route.take().is_some() {
            return Some(News::Changed(topic));
        }
        Some(News::Failed(topic))
    }

    /// Who may be told that this client lives: address by broker and replica.
    pub(crate) fn brokers(&self) -> BTreeMap<(BrokerName, i64), Arc<str>> {
        let mut brokers = BTreeMap::new();
        for route in self.topics.values().filter_map(|entry| entry.route.as_ref()) {
            for (name, replicas) in &route.brokers {
                brokers.extend(replicas.iter().map(|(id, address)| ((name.clone(), *id), Arc::clone(address))));
            }
        }
        brokers
    }

    /// When to ask next.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.topics.values().filter(|entry| entry.round.is_none()).map(|entry| entry.next_at).min()
    }
}

impl Entry {
    fn take<W>(&mut self, topic: Topic, route: Route, every: Duration, cx: &mut Cx<W>) -> News {
        self.error = None;
        self.again = AGAIN;
        self.wanted = false;
        // Not all clients of a cluster at the same moment.
        let jitter = cx.chance.below(1 + u64::try_from(every.as_nanos() / 10).unwrap_or(u64::MAX));
        self.next_at = cx.now.mono + every.saturating_sub(Duration::from_nanos(jitter));
        if self.route.as_deref() == Some(&route) {
            return News::Same(topic);
        }
        self.route = Some(Arc::new(route));
        News::Changed(topic)
    }
}

/// The route; `None` when the name server knows none; else why it did not say.
fn read(topic: &Topic, outcome: &Outcome) -> Result<Option<Route>, String> {
    let response: &Response = match outcome {
        Ok(response) => response,
        Err(CallError::Unreachable { why, .. } | CallError::Lost { why, .. }) => return Err(why.clone()),
    };
    if response.code == ResponseCode::TopicNotExist as i32 {
        return Ok(None);
    }
    if !response.is_ok() {
        let remark = response.remark.as_deref().unwrap_or("no reason is given");
        return Err(format!("it answers with code {}: {remark}", response.code));
    }
    let body = response.body.concat();
    let route = Route::read(topic, &body).map_err(|error| format!("its answer cannot be read: {error}"))?;
    // Brokers that are there without a queue of the topic are as good as no route.
    Ok(Some(route).filter(|route| !route.is_empty()))
}

/// The topic whose settings a new topic takes.
pub(crate) fn default_topic() -> Topic {
    Topic::new(DEFAULT_TOPIC).expect("a legal name")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use keepmq_protocol::body::{BrokerData, QueueData};
    use keepmq_protocol::seam::Effect;
    use keepmq_world::{Now, Timestamp};

    const SECOND: u64 = 1_000_000_000;

    /// What a name server says of a broker: its replicas and their addresses, what may be done with its queues, and how many.
    pub(crate) type Told<'a> = (&'a str, &'a [(i64, &'a str)], i32, u32);

    fn topic() -> Topic {
        Topic::new("T").unwrap()
    }

    pub(crate) fn at(mono: u64) -> Now {
        Now { mono: Mono(mono), wall: Timestamp(0) }
    }

    /// A name server's answer.
    pub(crate) fn route(brokers: &[Told<'_>]) -> Response {
        let broker = |(name, replicas, ..): &Told<'_>| BrokerData {
            broker_name: (*name).to_owned(),
            broker_addrs: replicas.iter().map(|(id, address)| (*id, (*address).to_owned())).collect(),
            ..BrokerData::default()
        };
        let queues = |(name, _, perm, number): &Told<'_>| QueueData {
            broker_name: (*name).to_owned(),
            read_queue_nums: *number,
            write_queue_nums: *number,
            perm: *perm,
            topic_sys_flag: 0,
        };
        let data = RouteData {
            broker_datas: brokers.iter().map(broker).collect(),
            queue_datas: brokers.iter().map(queues).collect(),
            ..RouteData::default()
        };
        Response::ok().with_body(serde_json::to_vec(&data).unwrap())
    }

    /// Asks for a topic, and answers whatever is asked.
    pub(crate) fn learn(routes: &mut Routes, cx: &mut Cx<()>, answer: Response) {
        routes.want(&topic(), cx);
        let Some(Effect::Call { call, .. }) = cx.poll_effect() else { panic!("nobody was asked") };
        assert!(matches!(routes.answered(call, &Ok(answer), cx), Some(News::Changed(_))));
    }

    fn unknown() -> Response {
        Response::refuse(ResponseCode::TopicNotExist, "no such topic")
    }

    fn servers(number: usize) -> Routes {
        let names = (0..number).map(|n| format!("n{n}")).collect();
        Routes::new(names, Duration::from_secs(30), Duration::from_secs(3), 1)
    }

    /// Answers all that is asked; the name servers that were, and what came of it in the end.
    fn answer_all(
        routes: &mut Routes,
        cx: &mut Cx<()>,
        answer: impl Fn(&str) -> Option<Response>,
    ) -> (String, Option<News>) {
        let (mut asked, mut news) = (Vec::new(), None);
        while let Some(effect) = cx.poll_effect() {
            let Effect::Call { call, peer, .. } = effect else { panic!("{effect:?}") };
            let lost = CallError::Lost { peer: peer.clone(), why: "gone".to_owned() };
            news = routes.answered(call, &answer(&peer).ok_or(lost), cx);
            asked.push(peer);
        }
        (asked.join(" "), news)
    }

    #[test]
    fn only_a_master_that_may_be_written_to_takes_messages() {
        let answer = route(&[
            ("both", &[(0, "a:1"), (1, "a:2")], 6, 1),
            ("orphan", &[(1, "b:2")], 6, 1),
            ("read", &[(0, "c:1")], 4, 1),
            ("write", &[(0, "d:1")], 2, 1),
        ]);
        let route = Route::read(&topic(), &answer.body.concat()).unwrap();
        let names = |queues: &[MessageQueue]| queues.iter().map(|q| q.broker.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (names(&route.writable).as_str(), names(&route.readable).as_str()),
            ("both write", "both orphan read")
        );
        assert_eq!((route.masters(), route.master(&BrokerName::new("both").unwrap()).map(|a| &**a)), (2, Some("a:1")));
    }

    #[test]
    fn an_answer_that_cannot_be_right_is_not_believed() {
        let many = self::route(&[("a", &[(0, "a:1")], 6, 65_536), ("b", &[(0, "b:1")], 6, 1)]);
        assert!(Route::read(&topic(), &many.body.concat()).unwrap_err().contains("the limit is 65536"));
        assert!(Route::read(&topic(), b"{").is_err());
        let mut routes = servers(2);
        let mut cx = Cx::new(1, at(0));
        assert!(routes.get(&topic(), &mut cx).is_none());
        let (asked, news) = answer_all(&mut routes, &mut cx, |server| match server {
            "n0" => Some(Response::ok().with_body(b"{".to_vec())),
            _ => Some(self::route(&[("a", &[(0, "a:1")], 6, 1)])),
        });
        assert_eq!((asked.as_str(), news), ("n0 n1", Some(News::Changed(topic()))), "the next one is asked");
    }

    #[test]
    fn a_known_route_survives_one_who_forgot_it_and_not_the_majority() {
        let cases = [
            ("one of three has forgotten it, two are silent", "n0", "", true),
            ("two of three have forgotten it", "n0 n2", "", false),
            ("all three", "n0 n1 n2", "", false),
            ("two of three know no queue of it", "", "n1 n2", false),
            ("one has forgotten it, one knows no queue of it", "n0", "n1", false),
        ];
        for (story, forgot, empty, stays) in cases {
            let mut routes = servers(3);
            let mut cx = Cx::new(1, at(0));
            learn(&mut routes, &mut cx, route(&[("a", &[(0, "a:1")], 6, 1)]));
            cx.now = at(31 * SECOND);
            routes.on_time(&mut cx);
            let (asked, _) = answer_all(&mut routes, &mut cx, |server| match server {
                _ if forgot.contains(server) => Some(unknown()),
                _ if empty.contains(server) => Some(route(&[])),
                _ => None,
            });
            assert_eq!((asked.as_str(), routes.known(&topic()).is_some()), ("n0 n1 n2", stays), "{story}");
        }
    }

    #[test]
    fn a_topic_is_asked_for_at_intervals_however_many_want_it() {
        let mut routes = servers(1);
        let mut cx = Cx::new(1, at(0));
        let mut rounds = Vec::new();
        for ms in 0..3_000 {
            cx.now = at(ms * 1_000_000);
            assert!(routes.get(&topic(), &mut cx).is_none());
            if !answer_all(&mut routes, &mut cx, |_| Some(unknown())).0.is_empty() {
                rounds.push(ms);
            }
        }
        assert_eq!(rounds, [0, 100, 300, 700, 1_500], "the wait doubles each time");
        assert!(matches!(routes.error(&topic()), Some(RouteError::Unknown { servers }) if servers == &["n0"]));
    }
}
