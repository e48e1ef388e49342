//! A name server's machine. What it must list is what it has confirmed to those who still live; on disk it keeps only its
//! key-value configuration (`kv_desk.rs`).

use crate::host::{Host, Left, body_of};
use crate::kv_desk::{KvDesk, NAMESPACE};
use crate::net::{Goodbye, LinkId, News};
use crate::stage::{Due, MILLI, NodeId, SECOND};
use crate::trace::Rare;
use crate::workload::Lent;
use keepmq_nameserver::{Done, KvSaved, LiveConfig, NameServer, NameServerConfig, SaveKv, Task};
use keepmq_protocol::body::{ClusterInfo, RouteData};
use keepmq_protocol::frame::Form;
use keepmq_protocol::json;
use keepmq_protocol::request::{DeleteTopic, KvName, RouteInfo};
use keepmq_protocol::seam::{CallId, Event, Exit};
use keepmq_protocol::{Request, Response};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::time::Duration;

/// Two saves of a slow disk; everything else takes no time.
const ANSWERS_WITHIN: u64 = 15 * SECOND;
/// REGISTER_BROKER and UNREGISTER_BROKER.
const REGISTER: i32 = 103;
const UNREGISTER: i32 = 104;
/// PUT_KV_CONFIG and DELETE_KV_CONFIG.
const CHANGE_KV: [i32; 2] = [100, 102];

pub(crate) struct NameNode {
    pub(crate) node: NodeId,
    config: NameServerConfig,
    life: u32,
    running: Option<Host<NameServer>>,
    booting: bool,
    chance: Chance,
    /// Which broker, in which life, dialled a connection that was accepted here.
    dialled_by: BTreeMap<LinkId, (NodeId, u32)>,
    /// The registration of each broker that was confirmed last: life, connection, time.
    confirmed: BTreeMap<NodeId, Confirmed>,
    desk: KvDesk,
}

#[derive(Clone, Copy, Debug)]
struct Confirmed {
    life: u32,
    link: LinkId,
    at: u64,
}

/// A broker, as the universe knows it.
pub(crate) struct BrokerFacts<'u> {
    pub(crate) node: NodeId,
    pub(crate) name: &'u str,
    pub(crate) address: String,
    /// Life of its process; `None`: it does not serve.
    pub(crate) life: Option<u32>,
}

impl NameNode {
    pub(crate) fn new(node: NodeId, broker_timeout: Duration, mut chance: Chance) -> Self {
        let config = NameServerConfig {
            broker_timeout,
            max_brokers: 100,
            max_topics: 1000,
            live: LiveConfig {
                scan_every: Duration::from_secs(5),
                order_in_routes: true,
                order_to_brokers: true,
                shown: Vec::new(),
            },
        };
        let desk = KvDesk::new(chance.fork());
        Self {
            node,
            config,
            life: 0,
            running: None,
            booting: false,
            chance,
            dialled_by: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            desk,
        }
    }

    pub(crate) fn boot(&mut self, lent: &mut Lent<'_>) {
        self.booting = false;
        self.life += 1;
        let core = NameServer::new(self.config.clone(), self.desk.read(lent.stage), self.chance.word());
        lent.net.set_life(self.node, Some(self.life));
        self.running = Some(Host::new(core, self.node, self.life, 0, lent.net, ANSWERS_WITHIN));
        self.settle(lent);
    }

    /// Killed; it starts again and knows nothing but what is on its disk.
    pub(crate) fn crash(&mut self, lent: &mut Lent<'_>) {
        lent.stage.line(format_args!("{:?} is killed", self.node));
        if self.running.take().is_some() {
            lent.stage.happened(Rare::NameServerRestarted);
        }
        self.desk.killed(lent.stage);
        self.dialled_by.clear();
        self.confirmed.clear();
        lent.net.set_life(self.node, None);
        lent.net.process_ended(lent.stage, self.node, Goodbye::Said);
        self.boot_later(lent);
    }

    pub(crate) fn boot_later(&mut self, lent: &mut Lent<'_>) {
        if self.running.is_none() && !std::mem::replace(&mut self.booting, true) {
            let delay = lent.stage.delay(5 * MILLI, 3 * SECOND);
            lent.stage.after(delay, Due::Boot { node: self.node });
        }
    }

    pub(crate) fn arrived(&mut self, lent: &mut Lent<'_>, link: LinkId, news: News, brokers: &[BrokerFacts<'_>]) {
        let Some(host) = &mut self.running else { return };
        match &news {
            News::Frame { by, .. } => {
                if let Some((_, life)) = self.dialled_by.get_mut(&link) {
                    *life = *by;
                }
            }
            News::Opened { peer } if brokers.iter().any(|broker| broker.node == *peer) => {
                self.dialled_by.insert(link, (*peer, 0));
            }
            _ => {}
        }
        host.arrived(lent.stage, link, news);
    }

    pub(crate) fn turn(&mut self, lent: &mut Lent<'_>, life: u32, brokers: &[BrokerFacts<'_>]) {
        let Some(host) = self.running.as_mut().filter(|_| self.life == life) else { return };
        let ended = host.turn(lent.stage, lent.directory);
        let mut stale = self.settle(lent);
        for link in ended {
            let Some((broker, _)) = self.dialled_by.remove(&link) else { continue };
            match self.confirmed.get(&broker) {
                Some(confirmed) if confirmed.link == link => {
                    self.confirmed.remove(&broker);
                }
                Some(_) => {
                    lent.stage.happened(Rare::StaleClosed);
                    stale = true;
                }
                None => {}
            }
        }
        if stale {
            self.check_fresh(lent, brokers);
        }
        self.change_kv(lent);
    }

    /// A tool changes something, or looks whether it is as it should be.
    fn change_kv(&mut self, lent: &mut Lent<'_>) {
        let Some(host) = &mut self.running else { return };
        let Some((key, value)) = self.desk.change() else { return };
        let link = host.ask(lent.stage, lent.net, &KvDesk::request(key, &value));
        self.desk.asked(key, link.0, value);
        self.settle(lent);
        self.check_kv(lent);
    }

    /// Whoever reads sees what was confirmed last, neither more nor less.
    fn check_kv(&mut self, lent: &mut Lent<'_>) {
        for (key, confirmed) in self.desk.confirmed() {
            let request = Request::GetKv(KvName { namespace: NAMESPACE.into(), key: key.into() });
            // It may have ended meanwhile.
            let Some(response) = self.probe(lent, &request) else { return };
            let found = response.field::<Option<keepmq_protocol::header::Str<'_>>>("value");
            if found.as_ref().ok().map(|found| found.as_deref()) != Some(confirmed.as_deref()) {
                lent.stage
                    .blame("kv", format!("{:?} says of {key} {found:?}, and has confirmed {confirmed:?}", self.node));
            }
        }
    }

    pub(crate) fn saved(&mut self, lent: &mut Lent<'_>, life: u32, done: KvSaved) {
        if self.life == life
            && let Some(host) = &mut self.running
        {
            self.desk.saved(lent.stage, &done.outcome);
            host.event(lent.stage, Event::Done(Done::Saved(done)));
            self.settle(lent);
        }
    }

    fn save(&mut self, lent: &mut Lent<'_>, save: SaveKv) {
        let well = lent.shape.healed_at.is_some();
        let (took, done) = self.desk.save(lent.stage, save, well);
        lent.stage.after(took, Due::Saved { node: self.node, life: self.life, done });
    }

    pub(crate) fn tick(&mut self, lent: &mut Lent<'_>, life: u32, version: u64) {
        if let Some(host) = self.running.as_mut().filter(|_| self.life == life)
            && host.tick(lent.stage, version)
        {
            self.settle(lent);
        }
    }

    pub(crate) fn call_late(&mut self, lent: &mut Lent<'_>, life: u32, call: CallId) {
        if let Some(host) = self.running.as_mut().filter(|_| self.life == life) {
            host.call_late(lent.stage, call);
            self.settle(lent);
        }
    }

    /// Whether an old broker has spoken after a new one.
    fn settle(&mut self, lent: &mut Lent<'_>) -> bool {
        let Some(host) = &mut self.running else { return false };
        let mut stale = false;
        let mut ended = false;
        for left in host.settle(lent.stage, lent.net, lent.directory) {
            match left {
                Left::Answered { link, code: REGISTER, response_code: 0 } => {
                    if let Some((broker, life)) = self.dialled_by.get(&link) {
                        let confirmed = Confirmed { life: *life, link, at: lent.stage.now };
                        let newer = self.confirmed.get(broker).is_none_or(|known| known.life <= *life);
                        if newer {
                            self.confirmed.insert(*broker, confirmed);
                        }
                    }
                }
                Left::Answered { link, code: UNREGISTER, .. } => {
                    if let Some((broker, life)) = self.dialled_by.get(&link) {
                        if self.confirmed.get(broker).is_some_and(|known| known.life > *life) {
                            lent.stage.happened(Rare::StaleUnregister);
                            stale = true;
                        } else {
                            self.confirmed.remove(broker);
                        }
                    }
                }
                Left::Answered { link, code, response_code } if CHANGE_KV.contains(&code) => {
                    self.desk.answered(link.0, response_code);
                }
                Left::Answered { .. } => {}
                Left::Work(Task::Save(save)) => self.save(lent, save),
                Left::Work(Task::Configure(text)) => unreachable!("nobody changes a configuration here: {text}"),
                Left::Exit(Exit::Disk(_)) => ended = true,
                Left::Exit(exit) => lent.stage.blame("exit", format!("a name server ends by itself: {exit:?}")),
            }
        }
        if ended {
            self.crash(lent);
        }
        stale
    }

    /// Whoever lives, and has the confirmation of this name server, is listed.
    fn check_fresh(&mut self, lent: &mut Lent<'_>, brokers: &[BrokerFacts<'_>]) {
        let Some(info) = self.cluster(lent) else { return };
        let timeout = self.config.broker_timeout.as_nanos() as u64;
        for broker in brokers {
            let Some(confirmed) = self.confirmed.get(&broker.node) else { continue };
            let fresh = broker.life == Some(confirmed.life) && lent.stage.now < confirmed.at + timeout;
            if fresh && !lists(&info, broker) {
                let name = broker.name;
                lent.stage.blame(
                    "routes",
                    format!("{:?} has forgotten {name}, which it has confirmed: {confirmed:?}", self.node),
                );
            }
        }
    }

    /// A tool takes a topic out of the routes, as it does when it has deleted it on the brokers.
    pub(crate) fn delete_route(&mut self, lent: &mut Lent<'_>, topic: &str) {
        let request = Request::DeleteTopicRoute(DeleteTopic { topic: topic.into(), cluster: None });
        if self.probe(lent, &request).is_some_and(|response| !response.is_ok()) {
            lent.stage.blame("routes", format!("{:?} does not take {topic} out of the routes", self.node));
        }
    }

    /// In the end: every broker that serves is listed with its address and its topics, no other is.
    pub(crate) fn check_converged(
        &mut self,
        lent: &mut Lent<'_>,
        brokers: &[BrokerFacts<'_>],
        topics: &[(NodeId, &str)],
        absent: &[(NodeId, &str)],
    ) {
        self.check_kv(lent);
        let Some(info) = self.cluster(lent) else {
            return lent.stage.blame("routes", format!("{:?} does not tell what it knows", self.node));
        };
        for broker in brokers {
            match (broker.life.is_some(), info.broker_addr_table.contains_key(broker.name)) {
                (true, _) if !lists(&info, broker) => {
                    lent.stage.blame(
                        "routes",
                        format!("{:?} does not list {} at {}: {info:?}", self.node, broker.name, broker.address),
                    );
                }
                (false, true) => {
                    lent.stage.blame("routes", format!("{:?} still lists {}, which is gone", self.node, broker.name));
                }
                (false, false) => lent.stage.happened(Rare::BrokerGone),
                _ => {}
            }
        }
        let absent = absent.iter().map(|topic| (topic, false));
        for ((node, topic), wanted) in topics.iter().map(|topic| (topic, true)).chain(absent) {
            let Some(broker) = brokers.iter().find(|broker| broker.node == *node && broker.life.is_some()) else {
                continue;
            };
            let request = Request::RouteInfo(RouteInfo { topic: (*topic).into(), standard_json: Some(true) });
            let response = self.probe(lent, &request);
            let body = response.as_ref().map(body_of).unwrap_or_default();
            let route = json::parse::<RouteData>(&body).unwrap_or_default();
            if route.queue_datas.iter().any(|queue| queue.broker_name == broker.name) != wanted {
                let (node, name) = (self.node, broker.name);
                let what = if wanted { "has no route" } else { "still has a route" };
                lent.stage.blame("routes", format!("{node:?} {what} to {topic} at {name}: {response:?}"));
            }
        }
    }

    fn cluster(&mut self, lent: &mut Lent<'_>) -> Option<ClusterInfo> {
        let response = self.probe(lent, &Request::ClusterInfo)?;
        json::parse(&body_of(&response)).ok()
    }

    fn probe(&mut self, lent: &mut Lent<'_>, request: &Request<'_>) -> Option<Response> {
        self.running.as_mut()?.probe(lent.stage, lent.net, request, Form::Json);
        self.settle(lent);
        let response = self.running.as_mut()?.probed(lent.stage);
        self.settle(lent);
        response
    }
}

fn lists(info: &ClusterInfo, broker: &BrokerFacts<'_>) -> bool {
    let known = info.broker_addr_table.get(broker.name);
    known.is_some_and(|known| known.broker_addrs.values().any(|address| *address == broker.address))
}
