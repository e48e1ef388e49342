//! The tables: broker groups and their replicas, and which of them has queues of a topic.

use keepmq_protocol::BrokerName;
use keepmq_protocol::body::{
    BrokerData, ClusterInfo, DataVersion, QueueData, RouteData, TopicConfig, TopicList, TopicTable, perm,
};
use keepmq_protocol::seam::Conn;
use keepmq_world::{Mono, planted};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The id of a master.
const MASTER: i64 = 0;
/// Longest topic that RocketMQ knows: a retry or dead-letter topic.
const TOPIC_MAX: usize = 255;
/// Longest address: a host name of 253 characters, a colon, a port.
const ADDR_MAX: usize = 259;

/// Who serves what.
pub(crate) struct Routes {
    brokers: BTreeMap<String, Group>,
    /// Topic → broker → its queues. Never an empty inner map.
    topics: BTreeMap<String, BTreeMap<String, QueueData>>,
    /// Replicas of all groups.
    replicas: usize,
    max_brokers: usize,
    max_topics: usize,
}

/// The replicas that share a broker name. Never empty.
struct Group {
    cluster: String,
    acting_master: bool,
    replicas: BTreeMap<i64, Replica>,
}

/// One broker process, as it has introduced itself.
struct Replica {
    addr: String,
    ha_addr: String,
    conn: Conn,
    /// Age of `conn`: a higher number was opened later.
    age: u64,
    /// Epoch of the controller that made it what it is; 0 without one.
    state_version: i64,
    /// Version of its topics, once it has surely said them all.
    complete: Option<DataVersion>,
    timeout: Duration,
    expires: Mono,
}

/// A broker's registration.
pub(crate) struct Offer<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: i64,
    pub(crate) addr: &'a str,
    pub(crate) ha_addr: &'a str,
    pub(crate) cluster: &'a str,
    /// `None`: a broker older than 5.0.
    pub(crate) acting_master: Option<bool>,
    pub(crate) topics: &'a TopicTable,
    pub(crate) conn: Conn,
    pub(crate) age: u64,
    pub(crate) timeout: Duration,
}

/// Why a registration was refused; nothing of it was taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Name(#[from] keepmq_protocol::NameError),
    #[error("{addr:?} is no address of the form host:port")]
    Address { addr: String },
    #[error("{topic:?} cannot be a topic's name")]
    Topic { topic: String },
    #[error("{max} brokers are registered, which is the limit")]
    Brokers { max: usize },
    #[error("with its topics there would be {topics}; the limit is {max}")]
    Topics { topics: usize, max: usize },
}

impl Routes {
    pub(crate) fn new(max_brokers: usize, max_topics: usize) -> Self {
        Self { brokers: BTreeMap::new(), topics: BTreeMap::new(), replicas: 0, max_brokers, max_topics }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Takes a registration. Answers the addresses of its master, for clients and for replicas, when it is not the master itself.
    pub(crate) fn register(&mut self, offer: &Offer<'_>, now: Mono) -> Result<Option<(String, String)>, Refused> {
        self.check(offer)?;
        if self.is_outdated(offer) {
            // As RocketMQ: not an error, for the broker cannot mend it. It is answered as if it had no master.
            return Ok(None);
        }
        let group = self.brokers.entry(offer.name.to_owned()).or_insert_with(|| Group {
            cluster: String::new(),
            acting_master: false,
            replicas: BTreeMap::new(),
        });
        group.cluster.replace_range(.., offer.cluster);
        group.acting_master = offer.acting_master.unwrap_or_default();
        // A replica that has become the master, or the reverse, is not both.
        let before = group.replicas.len();
        group.replicas.retain(|id, replica| *id == offer.id || replica.addr != offer.addr);
        let old = group.replicas.remove(&offer.id);
        // Java brokers also say single topics that have changed. One topic from a broker of which we know nothing is most
        // likely that: its version must not pass for that of its whole table, or we would never ask for the rest.
        let whole = offer.topics.topic_config_table.len() != 1 || old.is_some_and(|old| old.complete.is_some());
        let replica = Replica {
            addr: offer.addr.to_owned(),
            ha_addr: offer.ha_addr.to_owned(),
            conn: offer.conn,
            age: offer.age,
            state_version: offer.topics.data_version.state_version,
            complete: whole.then_some(offer.topics.data_version),
            timeout: offer.timeout,
            expires: now + offer.timeout,
        };
        group.replicas.insert(offer.id, replica);
        self.replicas = self.replicas - before + group.replicas.len();
        let first = group.replicas.keys().next() == Some(&offer.id);
        let master = group.replicas.get(&MASTER).filter(|_| offer.id != MASTER);
        let master = master.map(|master| (master.addr.clone(), master.ha_addr.clone()));
        if offer.id == MASTER || (first && offer.acting_master.is_some()) {
            // Nobody may write to a replica that stands in for its master.
            let mask = if offer.id != MASTER && offer.acting_master == Some(true) { !perm::WRITE } else { !0 };
            for (topic, config) in &offer.topics.topic_config_table {
                self.put_queues(topic, offer.name, config, mask);
            }
        }
        Ok(master)
    }

    /// Everything that can be wrong with a registration, before any of it is kept.
    fn check(&self, offer: &Offer<'_>) -> Result<(), Refused> {
        BrokerName::new(offer.name)?;
        BrokerName::new(offer.cluster)?;
        for addr in [offer.addr, offer.ha_addr] {
            let port = addr.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() || addr.len() > ADDR_MAX || addr.chars().any(|c| c.is_control() || c == ' ') {
                return Err(Refused::Address { addr: addr.chars().take(ADDR_MAX).collect() });
            }
        }
        let known = self.brokers.get(offer.name).is_some_and(|group| group.replicas.contains_key(&offer.id));
        if !known && self.replicas >= self.max_brokers {
            return Err(Refused::Brokers { max: self.max_brokers });
        }
        let mut topics = self.topics.len();
        for topic in offer.topics.topic_config_table.keys() {
            // Looser than for clients: Java registers topics named after the broker and its cluster, which may have dots.
            if topic.is_empty() || topic.len() > TOPIC_MAX || topic.chars().any(char::is_control) {
                return Err(Refused::Topic { topic: topic.chars().take(TOPIC_MAX).collect() });
            }
            topics += usize::from(!self.topics.contains_key(topic));
        }
        if topics > self.max_topics {
            return Err(Refused::Topics { topics, max: self.max_topics });
        }
        Ok(())
    }

    /// Whether something fresher stands in its place.
    fn is_outdated(&self, offer: &Offer<'_>) -> bool {
        let replicas = self.brokers.get(offer.name).into_iter().flat_map(|group| &group.replicas);
        replicas.into_iter().any(|(id, held)| match held.addr == offer.addr {
            // The same broker: what it says on its latest connection holds.
            true => held.age > offer.age,
            // Another claims the place: the controller's later word holds, without one the later connection.
            false => {
                let (says, age) = (offer.topics.data_version.state_version, offer.age);
                *id == offer.id && (held.state_version, held.age) > (says, age)
            }
        })
    }

    fn put_queues(&mut self, topic: &str, broker: &str, config: &TopicConfig, mask: i32) {
        let queues = QueueData {
            broker_name: broker.to_owned(),
            perm: config.perm & mask,
            read_queue_nums: config.read_queue_nums,
            topic_sys_flag: config.topic_sys_flag,
            write_queue_nums: config.write_queue_nums,
        };
        self.topics.entry(topic.to_owned()).or_default().insert(broker.to_owned(), queues);
    }

    /// A broker takes its leave on a connection of this age: what it, or an older connection, has registered goes.
    pub(crate) fn unregister(&mut self, name: &str, id: i64, addr: &str, age: u64) {
        self.remove_if(|group, replica_id, replica| {
            let meant = group == name && replica_id == id && replica.addr == addr;
            meant && (replica.age <= age || planted!("stale-unregister-wins"))
        });
    }

    /// A connection is gone, and with it what it had registered.
    pub(crate) fn closed(&mut self, conn: Conn) {
        self.remove_if(|_, _, replica| replica.conn == conn);
    }

    /// Forgets whoever has been silent too long; answers the connections they came on.
    pub(crate) fn expire(&mut self, now: Mono) -> BTreeSet<Conn> {
        let mut conns = BTreeSet::new();
        self.remove_if(|_, _, replica| {
            let expired = now > replica.expires;
            if expired {
                conns.insert(replica.conn);
            }
            expired
        });
        conns
    }

    fn remove_if(&mut self, mut gone: impl FnMut(&str, i64, &Replica) -> bool) {
        let mut empty = BTreeSet::new();
        for (name, group) in &mut self.brokers {
            let before = group.replicas.len();
            group.replicas.retain(|id, replica| !gone(name, *id, replica));
            self.replicas -= before - group.replicas.len();
            if group.replicas.is_empty() {
                empty.insert(name.clone());
            } else if group.acting_master && !group.replicas.contains_key(&MASTER) {
                // Replicas are left to read from, and nobody to write to.
                let queues = self.topics.values_mut().filter_map(|brokers| brokers.get_mut(name));
                queues.for_each(|queues| queues.perm &= !perm::WRITE);
            }
        }
        if empty.is_empty() {
            return;
        }
        self.brokers.retain(|name, _| !empty.contains(name));
        self.topics.retain(|_, brokers| {
            brokers.retain(|name, _| !empty.contains(name));
            !brokers.is_empty()
        });
    }

    /// Whether a registration belongs to this connection.
    pub(crate) fn has_conn(&self, conn: Conn) -> bool {
        self.brokers.values().flat_map(|group| group.replicas.values()).any(|replica| replica.conn == conn)
    }

    /// A sign of life. Answers the version of the broker's topics, when it has surely said them all.
    pub(crate) fn refresh(&mut self, name: &str, id: i64, addr: &str, now: Mono) -> Option<DataVersion> {
        let replica = self.brokers.get_mut(name)?.replicas.get_mut(&id).filter(|replica| replica.addr == addr)?;
        replica.expires = now + replica.timeout;
        replica.complete
    }

    /// Forgets a topic, on all brokers or on those of one cluster.
    pub(crate) fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(queues) = self.topics.get_mut(topic) else { return };
        let brokers = &self.brokers;
        match cluster.filter(|cluster| !cluster.is_empty()) {
            Some(cluster) => {
                queues.retain(|name, _| brokers.get(name).is_some_and(|group| group.cluster != cluster));
            }
            None => queues.clear(),
        }
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    pub(crate) fn of_topic(&self, topic: &str) -> Option<RouteData> {
        let queues = self.topics.get(topic)?;
        let broker_datas = queues.keys().filter_map(|name| self.broker_data(name)).collect();
        Some(RouteData { broker_datas, queue_datas: queues.values().cloned().collect(), ..RouteData::default() })
    }

    fn broker_data(&self, name: &str) -> Option<BrokerData> {
        let group = self.brokers.get(name)?;
        Some(BrokerData {
            broker_addrs: group.replicas.iter().map(|(id, replica)| (*id, replica.addr.clone())).collect(),
            broker_name: name.to_owned(),
            cluster: group.cluster.clone(),
            enable_acting_master: group.acting_master,
        })
    }

    pub(crate) fn clusters(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for (name, group) in &self.brokers {
            info.cluster_addr_table.entry(group.cluster.clone()).or_default().push(name.clone());
            info.broker_addr_table.extend(self.broker_data(name).map(|data| (name.clone(), data)));
        }
        info
    }

    pub(crate) fn topics(&self) -> TopicList {
        TopicList { broker_addr: None, topic_list: self.topics.keys().cloned().collect() }
    }
}
