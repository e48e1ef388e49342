//! The tables: broker groups and their replicas, and which of them has queues of a topic.

use keepmq_protocol::BrokerName;
use keepmq_protocol::body::{
    BrokerData, BrokerMemberGroup, BrokerMembers, ClusterInfo, DataVersion, QueueData, RouteData, TOPICS_MAX,
    TopicConfig, TopicList, TopicTable, perm,
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
/// Most queues of a topic on one broker: clients make a list of all of them.
const QUEUES_MAX: u32 = 65_536;
/// All bits that RocketMQ knows: 8 priority, 4 read, 2 write, 1 inherit.
const PERM_MAX: i32 = 15;

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

/// A topic's permissions, once a tool has allowed or forbidden to write to its broker. As in RocketMQ, to allow is to read, too.
fn changed_perm(perm: i32, writable: bool) -> i32 {
    if writable { perm::READ | perm::WRITE } else { perm & !perm::WRITE }
}

/// The replicas that share a broker name. Never empty.
struct Group {
    cluster: String,
    acting_master: bool,
    /// A tool has allowed or forbidden to write to it.
    writable: Option<bool>,
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
    /// Version of its topics, as it has said last.
    said: DataVersion,
    /// It has surely said all topics of that version.
    complete: bool,
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

/// A broker's sign of life.
pub(crate) struct Sign<'a> {
    pub(crate) name: &'a str,
    /// `None`: it does not say which of those that share the name it is; its address does.
    pub(crate) id: Option<i64>,
    pub(crate) addr: &'a str,
    pub(crate) conn: Conn,
    pub(crate) age: u64,
}

/// Why a registration was refused; nothing of it was taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Name(#[from] keepmq_protocol::NameError),
    #[error("{addr:?} is no address of the form host:port")]
    Address { addr: String },
    #[error("{id} is no broker id: a master has 0, a replica more")]
    Id { id: i64 },
    #[error("{topic:?} cannot be a topic's name")]
    Topic { topic: String },
    #[error("topic {topic:?} has {queues} queues; the limit is {QUEUES_MAX}")]
    Queues { topic: String, queues: u32 },
    #[error("topic {topic:?} has the permissions {perm}, which are no sum of 4 (read), 2 (write), 1 (inherit)")]
    Perm { topic: String, perm: i32 },
    #[error("it has {topics} topics; the limit of one broker is {TOPICS_MAX}")]
    OwnTopics { topics: usize },
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
            writable: None,
            replicas: BTreeMap::new(),
        });
        group.cluster.replace_range(.., offer.cluster);
        group.acting_master = offer.acting_master.unwrap_or_default();
        // A replica that has become the master, or the reverse, is not both.
        let before = group.replicas.len();
        group.replicas.retain(|id, replica| *id == offer.id || replica.addr != offer.addr);
        let old = group.replicas.remove(&offer.id);
        let said = offer.topics.data_version;
        // Java brokers also say single topics that have changed. One topic from a broker of which we know nothing is most
        // likely that: its version must not pass for that of its whole table, or we would never ask for the rest.
        let whole = offer.topics.topic_config_table.len() != 1 || old.as_ref().is_some_and(|old| old.complete);
        // What a tool has changed here holds until the broker has something new to say. Everything else is taken as it is
        // said, also under a version that is known: a table may come in pieces, and a change may have been lost.
        if old.is_none_or(|old| old.addr != offer.addr || old.said != said) {
            group.writable = None;
        }
        let writable = group.writable;
        let replica = Replica {
            addr: offer.addr.to_owned(),
            ha_addr: offer.ha_addr.to_owned(),
            conn: offer.conn,
            age: offer.age,
            state_version: offer.topics.data_version.state_version,
            said,
            complete: whole,
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
                let perm = writable.map_or(config.perm, |writable| changed_perm(config.perm, writable));
                self.put_queues(topic, offer.name, config, perm & mask);
            }
        }
        Ok(master)
    }

    /// Everything that can be wrong with a registration, before any of it is kept.
    fn check(&self, offer: &Offer<'_>) -> Result<(), Refused> {
        BrokerName::new(offer.name)?;
        BrokerName::new(offer.cluster)?;
        for addr in [offer.addr, offer.ha_addr] {
            let port = addr.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
            if port.is_none() || addr.len() > ADDR_MAX || addr.chars().any(|c| c.is_control() || c == ' ') {
                return Err(Refused::Address { addr: addr.chars().take(ADDR_MAX).collect() });
            }
        }
        if offer.id < MASTER {
            return Err(Refused::Id { id: offer.id });
        }
        let known = self.brokers.get(offer.name).is_some_and(|group| group.replicas.contains_key(&offer.id));
        if !known && self.replicas >= self.max_brokers {
            return Err(Refused::Brokers { max: self.max_brokers });
        }
        let offered = &offer.topics.topic_config_table;
        if offered.len() > TOPICS_MAX as usize {
            return Err(Refused::OwnTopics { topics: offered.len() });
        }
        let mut topics = self.topics.len();
        for (topic, config) in offered {
            // Looser than for clients: Java registers topics named after the broker and its cluster, which may have dots.
            if topic.is_empty() || topic.len() > TOPIC_MAX || topic.chars().any(char::is_control) {
                return Err(Refused::Topic { topic: topic.chars().take(TOPIC_MAX).collect() });
            }
            let queues = config.read_queue_nums.max(config.write_queue_nums);
            if queues > QUEUES_MAX {
                return Err(Refused::Queues { topic: topic.clone(), queues });
            }
            if !(0..=PERM_MAX).contains(&config.perm) {
                return Err(Refused::Perm { topic: topic.clone(), perm: config.perm });
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

    fn put_queues(&mut self, topic: &str, broker: &str, config: &TopicConfig, perm: i32) {
        let queues = QueueData {
            broker_name: broker.to_owned(),
            perm,
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
            let expired = now > replica.expires && !planted!("expired-broker-stays");
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
    pub(crate) fn refresh(&mut self, sign: &Sign<'_>, now: Mono) -> Option<DataVersion> {
        let mut replicas = self.brokers.get_mut(sign.name)?.replicas.iter_mut();
        let (_, replica) = replicas.find(|(id, replica)| {
            replica.addr == sign.addr && sign.id.is_none_or(|said| said == **id) && replica.age <= sign.age
        })?;
        replica.expires = now + replica.timeout;
        // The broker has a new connection. The end of the old one may be told late, and is not its own.
        (replica.conn, replica.age) = (sign.conn, sign.age);
        replica.complete.then_some(replica.said)
    }

    /// Allows or forbids to write to a broker; answers how many topics that concerns.
    pub(crate) fn set_writable(&mut self, broker: &str, writable: bool) -> usize {
        let Some(group) = self.brokers.get_mut(broker) else { return 0 };
        group.writable = Some(writable);
        let queues = self.topics.values_mut().filter_map(|brokers| brokers.get_mut(broker));
        queues.map(|queues| queues.perm = changed_perm(queues.perm, writable)).count()
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

    /// The replicas that share a name; none when it is unknown. As in RocketMQ the cluster is not looked at.
    pub(crate) fn members(&self, cluster: &str, name: &str) -> BrokerMembers {
        let broker_addrs = self.broker_data(name).map(|data| data.broker_addrs).unwrap_or_default();
        let (broker_name, cluster) = (name.to_owned(), cluster.to_owned());
        BrokerMembers { broker_member_group: BrokerMemberGroup { broker_addrs, broker_name, cluster } }
    }

    pub(crate) fn topics(&self) -> TopicList {
        TopicList { broker_addr: None, topic_list: self.topics.keys().cloned().collect() }
    }

    /// Topics that have queues on a broker of this cluster.
    pub(crate) fn topics_of(&self, cluster: &str) -> TopicList {
        let belongs = |name: &String| self.brokers.get(name).is_some_and(|group| group.cluster == cluster);
        let topics = self.topics.iter().filter(|(_, brokers)| brokers.keys().any(belongs));
        TopicList { broker_addr: None, topic_list: topics.map(|(topic, _)| topic.clone()).collect() }
    }

    /// Topics named after clusters and brokers, and a broker that knows more of them.
    pub(crate) fn system_topics(&self) -> TopicList {
        let clusters = self.brokers.values().map(|group| &group.cluster);
        let names: BTreeSet<&String> = clusters.chain(self.brokers.keys()).collect();
        let mut replicas = self.brokers.values().flat_map(|group| group.replicas.values());
        let broker_addr = replicas.next().map(|replica| replica.addr.clone());
        TopicList { broker_addr, topic_list: names.into_iter().cloned().collect() }
    }
}
