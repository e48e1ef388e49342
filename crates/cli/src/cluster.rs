//! Questions to name servers and brokers.

use crate::args::Connect;
use crate::problem;
use keepmq_client::{Admin, AdminError};
use keepmq_protocol::body::{BrokerData, ClusterInfo, RouteData, TopicList};
use keepmq_protocol::request::{QueryOffset, RouteInfo};
use keepmq_protocol::{MessageQueue, Request, Response, ResponseCode, json};
use keepmq_server::Failure;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

/// The name servers and what they lead to.
pub(crate) struct Cluster {
    admin: Admin,
    name_servers: Vec<String>,
    timeout: Duration,
}

/// A master and what it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Master {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) cluster: String,
}

/// What the answer to a question was: of no use, when none came.
type Answered = Result<Response, AdminError>;

impl Cluster {
    pub(crate) async fn connect(connect: &Connect) -> Result<Self, Failure> {
        let admin = Admin::connect(&connect.name_servers).await.map_err(|error| problem::start(&error))?;
        let servers = connect.name_servers.split([';', ',']).map(str::trim).filter(|server| !server.is_empty());
        Ok(Self { admin, name_servers: servers.map(str::to_owned).collect(), timeout: connect.timeout })
    }

    pub(crate) fn name_servers(&self) -> &[String] {
        &self.name_servers
    }

    /// Asks anybody. The failure is that there was no answer.
    pub(crate) async fn ask(&self, peer: &str, request: Request<'static>) -> Answered {
        self.admin.call(peer, request).await
    }

    /// Asks one name server after the other until one answers.
    pub(crate) async fn ask_name_servers(&self, request: &Request<'static>) -> Result<Response, Failure> {
        let mut tried = Vec::new();
        for server in &self.name_servers {
            let answer = tokio::time::timeout(self.timeout, self.ask(server, request.clone())).await;
            match answer {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => tried.push((server, error.to_string())),
                Err(_) => tried.push((server, format!("no answer within {:?} (--timeout)", self.timeout))),
            }
        }
        Err(problem::unreachable(&tried))
    }

    /// Asks a master, and takes a no for a failure of what was to be done.
    pub(crate) async fn must(&self, master: &Master, doing: &str, request: Request<'static>) -> Result<Response, Failure> {
        let response = self.ask(&master.address, request).await;
        let response = response.map_err(|error| problem::broker(&master.name, &master.address, &error))?;
        must(doing, &master.name, response)
    }

    /// All brokers that the name servers know.
    pub(crate) async fn info(&self) -> Result<ClusterInfo, Failure> {
        let response = self.ask_name_servers(&Request::ClusterInfo).await?;
        parse("the list of brokers", &must("the list of brokers", "the name server", response)?)
    }

    /// All masters; of one cluster, when it is named.
    pub(crate) async fn masters(&self, cluster: Option<&str>) -> Result<Vec<Master>, Failure> {
        let info = self.info().await?;
        let mut masters: Vec<Master> = info.broker_addr_table.into_values().filter_map(master).collect();
        masters.retain(|master| cluster.is_none_or(|wanted| master.cluster == wanted));
        masters.sort();
        Ok(masters)
    }

    /// Where a topic is; `None`: no name server that was asked knows it.
    pub(crate) async fn route(&self, topic: &str) -> Result<Option<RouteData>, Failure> {
        let asked = RouteInfo { topic: topic.to_owned().into(), standard_json: Some(true) };
        let response = self.ask_name_servers(&Request::RouteInfo(asked)).await?;
        if response.code == ResponseCode::TopicNotExist as i32 {
            return Ok(None);
        }
        let response = must(&format!("the route of {topic:?}"), "the name server", response)?;
        parse(&format!("the route of {topic:?}"), &response).map(Some)
    }

    /// The masters that serve a topic; a failure when there is none.
    pub(crate) async fn masters_of(&self, topic: &str) -> Result<(RouteData, Vec<Master>), Failure> {
        let Some(route) = self.route(topic).await? else {
            let asked = self.name_servers.join(", ");
            return Err(problem::no_topic(topic, &format!("the name servers ({asked}) know no such topic")));
        };
        let masters = route.broker_datas.iter().cloned().filter_map(master).collect();
        Ok((route, masters))
    }

    /// All topics, or those that belong to the system.
    pub(crate) async fn topics(&self, of_the_system: bool) -> Result<Vec<String>, Failure> {
        let request = if of_the_system { Request::SystemTopics } else { Request::TopicList };
        let response = self.ask_name_servers(&request).await?;
        let list: TopicList = parse("the list of topics", &must("the list of topics", "the name server", response)?)?;
        Ok(list.topic_list)
    }

    /// How far a group is in a queue, as its broker says; `None`: nothing is committed.
    pub(crate) async fn committed(&self, master: &Master, group: &str, queue: &MessageQueue) -> Result<Option<u64>, Failure> {
        let asked = QueryOffset {
            group: group.to_owned().into(),
            topic: queue.topic.as_str().to_owned().into(),
            queue_id: i32::try_from(queue.id).expect("a topic has few queues"),
            zero_if_not_found: Some(false),
        };
        let response = self.ask(&master.address, Request::QueryOffset(asked)).await;
        let response = response.map_err(|error| problem::broker(&master.name, &master.address, &error))?;
        if response.code == ResponseCode::QueryNotFound as i32 {
            return Ok(None);
        }
        let response = must(&format!("the offset of {group:?}"), &master.name, response)?;
        let offset: i64 = response.field("offset").map_err(|error| problem::unreadable("an offset", &error))?;
        Ok(u64::try_from(offset).ok())
    }
}

fn master(broker: BrokerData) -> Option<Master> {
    let address = broker.broker_addrs.get(&0)?.clone();
    Some(Master { name: broker.broker_name, address, cluster: broker.cluster })
}

/// Takes a no for a failure.
pub(crate) fn must(doing: &str, who: &str, response: Response) -> Result<Response, Failure> {
    if response.is_ok() {
        return Ok(response);
    }
    Err(problem::refused(doing, who, response.code, response.remark.as_deref().unwrap_or_default()))
}

/// The body of an answer.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, response: &Response) -> Result<T, Failure> {
    json::parse(&response.body.concat()).map_err(|error| problem::unreadable(what, &error))
}

/// The numbers of queues, as tables of offsets hold them: the keys are objects. Broker, topic and queue, with the value.
pub(crate) fn by_queue<T: DeserializeOwned>(
    what: &str,
    response: &Response,
) -> Result<BTreeMap<(String, String, u32), T>, Failure> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Offsets<T> {
        offset_table: BTreeMap<String, T>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Queue {
        broker_name: String,
        topic: String,
        queue_id: u32,
    }
    let table: Offsets<T> = parse(what, response)?;
    let read = |(key, value): (String, T)| {
        let queue: Queue = json::parse(key.as_bytes()).map_err(|error| problem::unreadable(what, &error))?;
        Ok(((queue.topic, queue.broker_name, queue.queue_id), value))
    };
    table.offset_table.into_iter().map(read).collect()
}
