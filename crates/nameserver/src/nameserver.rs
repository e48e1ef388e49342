use crate::routes::{Offer, Routes};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{QueryDataVersion, RegisterBroker, RouteInfo, UnregisterBroker};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{Conn, Core, Effect, Event, Exit};
use keepmq_protocol::{Request, Response, ResponseCode};
use keepmq_world::{Keyed, Map, Mono, Now};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// What a name server needs to know.
#[derive(Clone, Debug)]
pub struct NameServerConfig {
    /// A broker that says nothing is forgotten after so long, unless it asks for another time (RocketMQ: 120 s).
    pub broker_timeout: Duration,
    /// How often that is looked at (`scanNotActiveBrokerInterval`, 5 s).
    pub scan_every: Duration,
    /// Most brokers.
    pub max_brokers: usize,
    /// Most topics.
    pub max_topics: usize,
}

/// The name server.
pub struct NameServer {
    config: NameServerConfig,
    routes: Routes,
    /// The age of every open connection: a higher number was opened later. What a driver calls it says nothing of that.
    ages: Map<Conn, u64>,
    opened: u64,
    next_scan: Mono,
    effects: VecDeque<Effect<Infallible>>,
}

/// Longest silence that a broker may ask for; beyond it, clients would be sent to a dead one for longer than they wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What RocketMQ 5 appends to the text of a missing route.
const FAQ: &str = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.";

impl NameServer {
    /// An empty one.
    pub fn new(config: NameServerConfig, seed: u64) -> Self {
        let routes = Routes::new(config.max_brokers, config.max_topics);
        Self {
            config,
            routes,
            ages: Keyed::new(seed).map(),
            opened: 0,
            next_scan: Mono::default(),
            effects: VecDeque::new(),
        }
    }

    fn answer(&mut self, from: &Caller, request: &Request<'_>, now: Now) -> Response {
        let age =
            *self.ages.get(&from.conn).expect("a connection is opened before it asks and asks nothing once closed");
        match request {
            Request::RegisterBroker(register) => self.register(register, from.conn, age, now),
            Request::UnregisterBroker(UnregisterBroker { broker_name, broker_addr, broker_id, .. }) => {
                self.routes.unregister(broker_name, *broker_id, broker_addr, age);
                Response::ok()
            }
            Request::QueryDataVersion(query) => self.query_version(query, now),
            Request::RouteInfo(RouteInfo { topic, .. }) => match self.routes.of_topic(topic) {
                Some(route) => json(&route),
                None => Response::refuse(
                    ResponseCode::TopicNotExist,
                    format!("No topic route info in name server for the topic: {topic}{FAQ}"),
                ),
            },
            Request::ClusterInfo => json(&self.routes.clusters()),
            Request::TopicList => json(&self.routes.topics()),
            Request::DeleteTopicRoute(delete) => {
                self.routes.delete_topic(&delete.topic, delete.cluster.as_deref());
                Response::ok()
            }
            other => Response::refuse(
                ResponseCode::RequestCodeNotSupported,
                format!(" request type {} not supported", other.code()),
            ),
        }
    }

    fn register(&mut self, register: &RegisterBroker<'_>, conn: Conn, age: u64, now: Now) -> Response {
        let header = &register.header;
        let timeout = header
            .timeout_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .filter(|ms| *ms > 0)
            .map_or(self.config.broker_timeout, |ms| Duration::from_millis(ms).min(TIMEOUT_MAX));
        if self.routes.is_empty() {
            self.next_scan = now.mono + self.config.scan_every;
        }
        let offer = Offer {
            name: &header.broker_name,
            id: header.broker_id,
            addr: &header.broker_addr,
            ha_addr: &header.ha_addr,
            cluster: &header.cluster,
            acting_master: header.enable_acting_master,
            topics: &register.body.topic_config_serialize_wrapper,
            conn,
            age,
            timeout,
        };
        match self.routes.register(&offer, now.mono) {
            Ok(master) => Response::ok().with_header(ResponseHeader::Fields(
                master
                    .into_iter()
                    .flat_map(|(addr, ha_addr)| [("masterAddr", addr), ("haServerAddr", ha_addr)])
                    .map(|(name, value)| (Cow::Borrowed(name), value))
                    .collect(),
            )),
            Err(refused) => Response::refuse(ResponseCode::SystemError, format!("register broker failed: {refused}")),
        }
    }

    fn query_version(&mut self, query: &QueryDataVersion<'_>, now: Now) -> Response {
        let header = &query.header;
        let known = self.routes.refresh(&header.broker_name, header.broker_id, &header.broker_addr, now.mono);
        // "Changed" makes the broker say everything: also when we know nothing of it, or not surely all.
        let changed = known.is_none() || known != query.version;
        let fields = vec![(Cow::Borrowed("changed"), changed.to_string())];
        let response = match known {
            Some(version) => json(&version),
            None => Response::ok(),
        };
        response.with_header(ResponseHeader::Fields(fields))
    }

    fn scan(&mut self, now: Mono) {
        for conn in self.routes.expire(now) {
            // Its broker says nothing any more; ending the connection tells it, should it still be there.
            if self.ages.contains_key(&conn) && !self.routes.has_conn(conn) {
                self.effects.push_back(Effect::Close { conn });
            }
        }
        self.next_scan = now + self.config.scan_every;
    }
}

fn json(body: &impl Serialize) -> Response {
    Response::ok().with_body(serde_json::to_vec(body).expect("a body has text or numbers as keys"))
}

impl Core for NameServer {
    type Work = Infallible;
    type Done = Infallible;

    fn handle(&mut self, event: Event<'_, Infallible>, now: Now) {
        match event {
            Event::Opened { conn, .. } => {
                self.opened += 1;
                let known = self.ages.insert(conn, self.opened);
                assert!(known.is_none(), "a driver gives no connection the name of another: {conn:?}");
            }
            Event::Closed { conn } => {
                self.ages.swap_remove(&conn);
                self.routes.closed(conn);
            }
            Event::Request { from, request } => {
                let response = self.answer(&from, &request, now);
                if !from.oneway {
                    self.effects.push_back(Effect::Reply { to: from, response });
                }
            }
            Event::Answered { call, .. } => unreachable!("a name server asks nobody, yet {call:?} was answered"),
            Event::Done(never) => match never {},
            // It keeps nothing on disk.
            Event::Space { .. } => {}
            Event::Tick if now.mono >= self.next_scan => self.scan(now.mono),
            Event::Tick => {}
            Event::Stop => self.effects.push_back(Effect::Exit(Exit::Clean)),
        }
    }

    fn poll_effect(&mut self) -> Option<Effect<Infallible>> {
        self.effects.pop_front()
    }

    fn deadline(&self) -> Option<Mono> {
        (!self.routes.is_empty()).then_some(self.next_scan)
    }
}

#[cfg(test)]
mod tests;
