use crate::driver;
use crate::error::StartError;
use keepmq_client_core::{Admin as Core, AdminCommand, AdminWork, Peer, Route};
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::body::{ClusterInfo, SubscriptionGroup, TopicConfig, TopicList};
use keepmq_protocol::json;
use keepmq_protocol::request::{ConsumerList, CreateTopic, DeleteTopic, GroupStats, RouteInfo, TopicStats};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Request, Response, ResponseCode, Topic};
use keepmq_world::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

type Outcome = Result<Box<Response>, Vec<(String, String)>>;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody has answered: each that was tried, with its reason.
    #[error("nobody has answered: {}", tried.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// `host:port`, and why it did not answer.
        tried: Vec<(String, String)>,
    },
    /// The answer is no.
    #[error("{peer} answers with code {code}: {remark}")]
    Refused {
        /// Who.
        peer: String,
        /// RocketMQ's `ResponseCode`.
        code: i32,
        /// What it says.
        remark: String,
    },
    /// The answer is not what it should be.
    #[error("the answer of {peer} cannot be read: {why}")]
    Unreadable {
        /// Who.
        peer: String,
        /// What is wrong with it.
        why: String,
    },
}

/// One queue of a topic, as its broker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Which.
    pub queue: MessageQueue,
    /// The first offset that is there.
    pub min: QueueOffset,
    /// Behind the last one.
    pub max: QueueOffset,
    /// When the last message was stored; 0: never, or not known.
    pub last_stored: Timestamp,
}

/// How far a group is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLag {
    /// Which.
    pub queue: MessageQueue,
    /// Behind the last message.
    pub end: QueueOffset,
    /// The next one that the group wants.
    pub committed: QueueOffset,
    /// When the last message that was consumed had been stored; 0: not known.
    pub last_consumed: Timestamp,
}

impl QueueLag {
    /// Messages that are not consumed yet.
    pub fn lag(&self) -> u64 {
        self.end.0.saturating_sub(self.committed.0)
    }
}

/// Asks name servers and brokers about topics and groups, and changes them. Source of the requests: RocketMQ
/// `DefaultMQAdminExt`.
pub struct Admin {
    inbox: Inbox<AdminCommand>,
    desk: Arc<Desk>,
    last: AtomicU64,
    timeout: Duration,
    name_servers: String,
}

struct Desk {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    asks: HashMap<u64, oneshot::Sender<Outcome>>,
    over: bool,
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while holding the desk")
    }
}

impl Admin {
    /// Asks through these name servers: `host:port`, several separated by semicolons. Each peer has so long to answer.
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// The text names no name server, or the system gives no thread.
    pub async fn connect(name_servers: &str, timeout: Duration) -> Result<Self, StartError> {
        let servers = driver::complete(driver::blank(), name_servers).await?.name_servers;
        let desk = Arc::new(Desk { open: Mutex::new(Open::default()) });
        let (hands, end) = (AdminHands(Arc::clone(&desk)), Arc::clone(&desk));
        let core = |now| Core::new(servers, now);
        let at_end = move || {
            let mut open = end.open();
            open.over = true;
            open.asks.clear();
        };
        let (inbox, _) = driver::drive("keepmq-admin", core, |_| hands, at_end)?;
        Ok(Self { inbox, desk, last: AtomicU64::new(0), timeout, name_servers: name_servers.to_owned() })
    }

    /// Asks one peer, or the first name server that answers. The answer may be a refusal.
    ///
    /// # Errors
    /// Nobody has answered.
    pub async fn ask(&self, peer: &Peer, request: Request<'static>) -> Result<Response, AdminError> {
        let (end, ended) = oneshot::channel();
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let over = {
            let mut open = self.desk.open();
            open.asks.insert(id, end);
            open.over
        };
        if !over {
            let (peer, timeout) = (peer.clone(), self.timeout);
            self.inbox.post(Word::Done(AdminCommand::Ask { id, peer, request: Box::new(request), timeout }));
        }
        let gone = || Err(vec![(self.name(peer), "this admin has ended".to_owned())]);
        let outcome = if over { gone() } else { ended.await.unwrap_or_else(|_| gone()) };
        outcome.map(|response| *response).map_err(|tried| AdminError::Unreachable { tried })
    }

    /// As [`Admin::ask`]; a refusal is an error.
    ///
    /// # Errors
    /// Nobody has answered, or the answer is no.
    pub async fn must(&self, peer: &Peer, request: Request<'static>) -> Result<Response, AdminError> {
        let response = self.ask(peer, request).await?;
        if response.is_ok() {
            return Ok(response);
        }
        let remark = response.remark.as_deref().unwrap_or("no reason is given").to_owned();
        Err(AdminError::Refused { peer: self.name(peer), code: response.code, remark })
    }

    /// Where a topic is; `None` when the name server knows no such topic.
    ///
    /// # Errors
    /// As [`Admin::must`], and an answer that cannot be read.
    pub async fn route(&self, topic: &Topic) -> Result<Option<Route>, AdminError> {
        let info = RouteInfo { topic: topic.as_str().to_owned().into(), standard_json: Some(true) };
        match self.must(&Peer::NameServer, Request::RouteInfo(info)).await {
            Err(AdminError::Refused { code, .. }) if code == ResponseCode::TopicNotExist as i32 => Ok(None),
            Err(error) => Err(error),
            Ok(response) => {
                let read = Route::read(topic, &response.body.concat());
                read.map(Some).map_err(|why| AdminError::Unreadable { peer: self.name(&Peer::NameServer), why })
            }
        }
    }

    /// Brokers by name, with the addresses of their replicas, and the cluster of each.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn cluster(&self) -> Result<ClusterInfo, AdminError> {
        let response = self.must(&Peer::NameServer, Request::ClusterInfo).await?;
        self.read(&Peer::NameServer, &response)
    }

    /// The masters: names and addresses.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn masters(&self) -> Result<Vec<(BrokerName, Peer)>, AdminError> {
        let mut masters = Vec::new();
        for (name, mut broker) in self.cluster().await?.broker_addr_table {
            let name = BrokerName::new(&name).map_err(|error| AdminError::Unreadable {
                peer: self.name(&Peer::NameServer),
                why: error.to_string(),
            })?;
            masters.extend(broker.broker_addrs.remove(&0).map(|address| (name, Peer::At(address))));
        }
        Ok(masters)
    }

    /// Names of all topics, system topics among them.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn topics(&self) -> Result<Vec<String>, AdminError> {
        let response = self.must(&Peer::NameServer, Request::TopicList).await?;
        let mut list: TopicList = self.read(&Peer::NameServer, &response)?;
        list.topic_list.sort();
        Ok(list.topic_list)
    }

    /// Creates a topic on a broker, or changes it there. `Ok` when the change is kept.
    ///
    /// # Errors
    /// As [`Admin::must`].
    pub async fn create_topic(&self, broker: &Peer, config: &TopicConfig) -> Result<(), AdminError> {
        let queues = |queues: u32| i32::try_from(queues).unwrap_or(i32::MAX);
        let create = CreateTopic {
            topic: config.topic_name.clone().into(),
            default_topic: Some("TBW102".into()),
            read_queues: queues(config.read_queue_nums),
            write_queues: queues(config.write_queue_nums),
            perm: config.perm,
            filter_type: Some(config.topic_filter_type.clone().into()),
            sys_flag: Some(config.topic_sys_flag),
            order: config.order,
            attributes: None,
        };
        self.must(broker, Request::CreateTopic(create)).await.map(drop)
    }

    /// Deletes a topic on all brokers that have it, and then in the name servers. What is in it is gone.
    ///
    /// # Errors
    /// As [`Admin::must`]; then some brokers may have deleted it, and others not.
    pub async fn delete_topic(&self, topic: &Topic) -> Result<(), AdminError> {
        let name = || DeleteTopic { topic: topic.as_str().to_owned().into(), cluster: None };
        for (_, broker) in self.masters().await? {
            self.must(&broker, Request::DeleteTopic(name())).await?;
        }
        // Brokers tell the name servers themselves; RocketMQ's do not.
        for server in self.name_servers.split([';', ',']).map(str::trim).filter(|server| !server.is_empty()) {
            self.must(&Peer::At(server.to_owned()), Request::DeleteTopicRoute(name())).await?;
        }
        Ok(())
    }

    /// The queues of a topic on one broker.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn topic_stats(&self, broker: &Peer, topic: &Topic) -> Result<Vec<QueueStats>, AdminError> {
        let stats = TopicStats { topic: topic.as_str().to_owned().into() };
        let response = self.must(broker, Request::TopicStats(stats)).await?;
        let table: Table<TopicOffset> = self.read(broker, &response)?;
        self.queues(broker, table, |queue, stats| QueueStats {
            queue,
            min: offset(stats.min_offset),
            max: offset(stats.max_offset),
            last_stored: Timestamp(stats.last_update_timestamp),
        })
    }

    /// The groups that a broker knows, by name.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn groups(&self, broker: &Peer) -> Result<BTreeMap<String, SubscriptionGroup>, AdminError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Groups {
            subscription_group_table: BTreeMap<String, SubscriptionGroup>,
        }
        let response = self.must(broker, Request::AllGroups).await?;
        self.read::<Groups>(broker, &response).map(|groups| groups.subscription_group_table)
    }

    /// How far a group is in the queues of one broker, of all topics for which it has offsets there.
    ///
    /// # Errors
    /// As [`Admin::route`].
    pub async fn group_lag(&self, broker: &Peer, group: &str) -> Result<Vec<QueueLag>, AdminError> {
        let stats = GroupStats { group: group.to_owned().into(), topic: None };
        let response = self.must(broker, Request::GroupStats(stats)).await?;
        let table: Table<GroupOffset> = self.read(broker, &response)?;
        self.queues(broker, table, |queue, stats| QueueLag {
            queue,
            end: offset(stats.broker_offset),
            committed: offset(stats.consumer_offset),
            last_consumed: Timestamp(stats.last_timestamp),
        })
    }

    /// The members of a group that a broker knows, by client id; none when nobody is there.
    ///
    /// # Errors
    /// Nobody has answered, or the answer cannot be read.
    pub async fn members(&self, broker: &Peer, group: &str) -> Result<Vec<String>, AdminError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Members {
            consumer_id_list: Vec<String>,
        }
        let list = ConsumerList { group: group.to_owned().into() };
        match self.must(broker, Request::ConsumerList(list)).await {
            // RocketMQ has no better code for an empty list.
            Err(AdminError::Refused { code, .. }) if code == ResponseCode::SystemError as i32 => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(response) => self.read::<Members>(broker, &response).map(|members| members.consumer_id_list),
        }
    }

    fn name(&self, peer: &Peer) -> String {
        match peer {
            Peer::NameServer => format!("the name server ({})", self.name_servers),
            Peer::At(address) => address.clone(),
        }
    }

    fn read<T: DeserializeOwned>(&self, peer: &Peer, response: &Response) -> Result<T, AdminError> {
        json::parse(&response.body.concat())
            .map_err(|error| AdminError::Unreadable { peer: self.name(peer), why: error.to_string() })
    }

    fn queues<S, T>(
        &self,
        peer: &Peer,
        table: Table<S>,
        row: impl Fn(MessageQueue, S) -> T,
    ) -> Result<Vec<T>, AdminError> {
        let mut rows: Vec<(MessageQueue, S)> = Vec::with_capacity(table.offset_table.len());
        for (key, stats) in table.offset_table {
            let queue = queue(&key).map_err(|why| AdminError::Unreadable { peer: self.name(peer), why })?;
            rows.push((queue, stats));
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(rows.into_iter().map(|(queue, stats)| row(queue, stats)).collect())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.inbox.post(Word::Done(AdminCommand::Close));
    }
}

/// A table by queue. Its keys are objects, which have become text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "S: DeserializeOwned")]
struct Table<S> {
    offset_table: BTreeMap<String, S>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TopicOffset {
    min_offset: i64,
    max_offset: i64,
    last_update_timestamp: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupOffset {
    broker_offset: i64,
    consumer_offset: i64,
    last_timestamp: i64,
}

fn queue(key: &str) -> Result<MessageQueue, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Key {
        broker_name: String,
        queue_id: u32,
        topic: String,
    }
    let Key { broker_name, queue_id, topic } = json::parse(key.as_bytes()).map_err(|error| error.to_string())?;
    let topic = Topic::new(&topic).map_err(|error| error.to_string())?;
    let broker = BrokerName::new(&broker_name).map_err(|error| error.to_string())?;
    Ok(MessageQueue { topic, broker, id: queue_id })
}

/// RocketMQ says -1 for what there is not.
fn offset(wire: i64) -> QueueOffset {
    QueueOffset(u64::try_from(wire).unwrap_or(0))
}

/// Tells those who wait, on the admin's thread.
#[derive(Clone)]
struct AdminHands(Arc<Desk>);

impl Hands<Core> for AdminHands {
    fn work(&mut self, work: AdminWork) -> Option<Word<AdminCommand>> {
        if let AdminWork::Answered { id, outcome } = work
            && let Some(end) = self.0.open().asks.remove(&id)
        {
            // Whoever does not wait any more does not want to know.
            drop(end.send(outcome));
        }
        None
    }
}
