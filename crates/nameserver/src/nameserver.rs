use crate::kv::{Answers, Change, Kv, KvSaved, SaveKv};
use crate::routes::{Offer, Routes, Sign};
use keepmq_protocol::body::{KvConfig, KvTable};
use keepmq_protocol::change::{Changing, Configured, properties};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{
    BrokerHeartbeat, KvName, QueryDataVersion, RegisterBroker, RouteInfo, UnregisterBroker,
};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{Conn, Core, Effect, Event, Exit};
use keepmq_protocol::{Request, Response, ResponseCode};
use keepmq_world::{Keyed, Map, Mono, Now};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

/// What a name server needs to know.
#[derive(Clone, Debug)]
pub struct NameServerConfig {
    /// A broker that says nothing is forgotten after so long, unless it asks for another time (RocketMQ: 120 s).
    pub broker_timeout: Duration,
    /// Most brokers.
    pub max_brokers: usize,
    /// Most topics.
    pub max_topics: usize,
    /// What may change while it runs.
    pub live: LiveConfig,
}

/// What operators may change while the name server runs (UPDATE_NAMESRV_CONFIG). It is replaced as a whole.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// How often it is looked for silent brokers (`scanNotActiveBrokerInterval`, 5 s).
    pub scan_every: Duration,
    /// Routes of ordered topics say on which brokers their queues are (`orderMessageEnable`; RocketMQ: no).
    pub order_in_routes: bool,
    /// A broker that registers is told which topics are ordered (`returnOrderTopicConfigToBroker`; RocketMQ: yes).
    pub order_to_brokers: bool,
    /// Every effective key with its value, for GET_NAMESRV_CONFIG.
    pub shown: Vec<(String, String)>,
}

/// Work that only a name server has.
#[derive(Debug)]
pub enum Task {
    /// Its key-value configuration is to be saved; [`Done::Saved`] follows.
    Save(SaveKv),
    /// Properties to be checked and kept in the configuration file; [`Done::Configured`] follows. One at a time.
    Configure(String),
}

/// Such work has ended.
#[derive(Debug)]
pub enum Done {
    /// [`Task::Save`].
    Saved(KvSaved),
    /// [`Task::Configure`].
    Configured(Box<Configured<LiveConfig>>),
}

/// The name server.
pub struct NameServer {
    config: NameServerConfig,
    routes: Routes,
    kv: Kv,
    /// The age of every open connection: a higher number was opened later. What a driver calls it says nothing of that.
    ages: Map<Conn, u64>,
    opened: u64,
    next_scan: Mono,
    effects: VecDeque<Effect<Task>>,
    changing: Changing,
    /// How it ends, once nobody waits for a save any more.
    ending: Option<Exit>,
}

/// Longest silence that a broker may ask for; beyond it, clients would be sent to a dead one for longer than they wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The namespace of RocketMQ's own: topic → `broker-a:4;broker-b:4`.
const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// What RocketMQ 5 appends to the text of a missing route.
const FAQ: &str = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.";

impl NameServer {
    /// One that knows no broker yet, and of the key-value configuration what is on disk.
    pub fn new(config: NameServerConfig, kv: KvConfig, seed: u64) -> Self {
        let routes = Routes::new(config.max_brokers, config.max_topics);
        Self {
            config,
            routes,
            kv: Kv::new(kv),
            ages: Keyed::new(seed).map(),
            opened: 0,
            next_scan: Mono::default(),
            effects: VecDeque::new(),
            changing: Changing::default(),
            ending: None,
        }
    }

    /// `None`: the answer comes when something is on disk.
    fn answer(&mut self, from: &Caller, request: &Request<'_>, now: Now) -> Option<Response> {
        let age =
            *self.ages.get(&from.conn).expect("a connection is opened before it asks and asks nothing once closed");
        Some(match request {
            Request::NameServerConfig => Response::ok().with_body(properties(&self.config.live.shown)),
            Request::ChangeNameServerConfig(text) => match self.changing.begin(*from, text) {
                Ok(text) => {
                    self.effects.push_back(Effect::Work(Task::Configure(text)));
                    return None;
                }
                Err(refusal) => *refusal,
            },
            Request::PutKv(put) => return self.change_kv(from, &put.namespace, &put.key, Some(&put.value)),
            Request::DeleteKv(KvName { namespace, key }) => return self.change_kv(from, namespace, key, None),
            Request::GetKv(KvName { namespace, key }) => match self.kv.get(namespace, key) {
                Some(value) => {
                    Response::ok().with_header(ResponseHeader::Fields(vec![(Cow::Borrowed("value"), value.clone())]))
                }
                None => not_found(format!("there is no key {key:?} in the namespace {namespace:?}")),
            },
            Request::ListKv(list) => match self.kv_table(&list.namespace) {
                Some(table) => json(&table),
                None => not_found(format!("there is no namespace {:?}", list.namespace)),
            },
            Request::RegisterBroker(register) => self.register(register, from.conn, age, now),
            Request::UnregisterBroker(UnregisterBroker { broker_name, broker_addr, broker_id, .. }) => {
                self.routes.unregister(broker_name, *broker_id, broker_addr, age);
                Response::ok()
            }
            Request::QueryDataVersion(query) => self.query_version(query, from.conn, age, now),
            Request::BrokerHeartbeat(BrokerHeartbeat {
                broker_name: name, broker_addr: addr, broker_id: id, ..
            }) => {
                // As RocketMQ: a broker that we do not know is not told so; it registers within its period.
                self.routes.refresh(&Sign { name, id: *id, addr, conn: from.conn, age }, now.mono);
                Response::ok()
            }
            Request::RouteInfo(RouteInfo { topic, .. }) => match self.routes.of_topic(topic) {
                Some(mut route) => {
                    if self.config.live.order_in_routes {
                        route.order_topic_conf = self.kv.get(ORDER_TOPIC_CONFIG, topic).cloned();
                    }
                    json(&route)
                }
                None => Response::refuse(
                    ResponseCode::TopicNotExist,
                    format!("No topic route info in name server for the topic: {topic}{FAQ}"),
                ),
            },
            Request::ClusterInfo => json(&self.routes.clusters()),
            Request::BrokerMembers(ask) => json(&self.routes.members(&ask.cluster, &ask.broker_name)),
            Request::TopicList => json(&self.routes.topics()),
            Request::ClusterTopics(ask) => json(&self.routes.topics_of(&ask.cluster)),
            Request::SystemTopics => json(&self.routes.system_topics()),
            Request::WipeWrite(broker) => count("wipeTopicCount", self.routes.set_writable(&broker.broker_name, false)),
            Request::AddWrite(broker) => count("addTopicCount", self.routes.set_writable(&broker.broker_name, true)),
            Request::DeleteTopicRoute(delete) => {
                self.routes.delete_topic(&delete.topic, delete.cluster.as_deref());
                Response::ok()
            }
            other => Response::refuse(
                ResponseCode::RequestCodeNotSupported,
                format!(" request type {} not supported", other.code()),
            ),
        })
    }

    fn change_kv(&mut self, from: &Caller, namespace: &str, key: &str, value: Option<&str>) -> Option<Response> {
        if self.ending.is_some() {
            return Some(Response::refuse(ResponseCode::ServiceNotAvailable, "this name server is about to end"));
        }
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.kv.change(*from, Change { namespace, key, value: value.map(str::to_owned) })
    }

    fn kv_table(&self, namespace: &str) -> Option<KvTable> {
        self.kv.namespace(namespace).map(|table| KvTable { table: table.clone() })
    }

    fn register(&mut self, register: &RegisterBroker<'_>, conn: Conn, age: u64, now: Now) -> Response {
        let header = &register.header;
        let timeout = header
            .timeout_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .filter(|ms| *ms > 0)
            .map_or(self.config.broker_timeout, |ms| Duration::from_millis(ms).min(TIMEOUT_MAX));
        if self.routes.is_empty() {
            self.next_scan = now.mono + self.config.live.scan_every;
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
            Ok(master) => {
                let order = self.config.live.order_to_brokers.then(|| self.kv_table(ORDER_TOPIC_CONFIG)).flatten();
                order.map_or_else(Response::ok, |order| json(&order)).with_header(ResponseHeader::Fields(
                    master
                        .into_iter()
                        .flat_map(|(addr, ha_addr)| [("masterAddr", addr), ("haServerAddr", ha_addr)])
                        .map(|(name, value)| (Cow::Borrowed(name), value))
                        .collect(),
                ))
            }
            Err(refused) => Response::refuse(ResponseCode::SystemError, format!("register broker failed: {refused}")),
        }
    }

    fn query_version(&mut self, query: &QueryDataVersion<'_>, conn: Conn, age: u64, now: Now) -> Response {
        let header = &query.header;
        let (name, addr) = (&header.broker_name, &header.broker_addr);
        let known = self.routes.refresh(&Sign { name, id: Some(header.broker_id), addr, conn, age }, now.mono);
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
        self.next_scan = now + self.config.live.scan_every;
    }
}

fn not_found(what: String) -> Response {
    Response::refuse(ResponseCode::QueryNotFound, what)
}

fn count(name: &'static str, topics: usize) -> Response {
    Response::ok().with_header(ResponseHeader::Fields(vec![(Cow::Borrowed(name), topics.to_string())]))
}

fn json(body: &impl Serialize) -> Response {
    Response::ok().with_body(serde_json::to_vec(body).expect("a body has text or numbers as keys"))
}

impl NameServer {
    fn reply(&mut self, to: Caller, response: Response) {
        if !to.oneway {
            self.effects.push_back(Effect::Reply { to, response });
        }
    }

    fn reply_all(&mut self, answers: Answers) {
        answers.into_iter().for_each(|(to, response)| self.reply(to, response));
    }

    /// Only when everything that has come in was looked at: one save for all changes that it brings.
    fn save_or_end(&mut self) {
        let mut answers = Answers::new();
        let save = self.kv.next_save(&mut answers);
        self.reply_all(answers);
        self.effects.extend(save.map(|save| Effect::Work(Task::Save(save))));
        if self.kv.is_idle() {
            self.effects.extend(self.ending.take().map(Effect::Exit));
        }
    }
}

impl Core for NameServer {
    type Work = Task;
    type Done = Done;

    fn handle(&mut self, event: Event<'_, Done>, now: Now) {
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
                if let Some(response) = self.answer(&from, &request, now) {
                    self.reply(from, response);
                }
            }
            Event::Answered { call, .. } => unreachable!("a name server asks nobody, yet {call:?} was answered"),
            Event::Done(Done::Configured(configured)) => {
                let (to, response, live) = self.changing.end(*configured);
                if let Some(live) = live {
                    self.next_scan = self.next_scan.min(now.mono + live.scan_every);
                    self.config.live = live;
                }
                self.reply(to, response);
            }
            Event::Done(Done::Saved(done)) => {
                let mut answers = Answers::new();
                let outcome = self.kv.saved(done, &mut answers);
                self.reply_all(answers);
                if let Err(what) = outcome {
                    self.ending = Some(Exit::Disk(what));
                }
            }
            // What it keeps is small; a full disk is told by the save that fails.
            Event::Space { .. } => {}
            Event::Tick if now.mono >= self.next_scan => self.scan(now.mono),
            Event::Tick => {}
            Event::Stop => {
                self.ending.get_or_insert(Exit::Clean);
            }
        }
    }

    fn poll_effect(&mut self) -> Option<Effect<Task>> {
        if self.effects.is_empty() {
            self.save_or_end();
        }
        self.effects.pop_front()
    }

    fn deadline(&self) -> Option<Mono> {
        (!self.routes.is_empty()).then_some(self.next_scan)
    }
}

#[cfg(test)]
mod tests;
