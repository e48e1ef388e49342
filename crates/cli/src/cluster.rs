//! Questions to name servers and brokers, whose failures are the user's to read.

use crate::args::Connect;
use crate::problem;
use keepmq_client::{Admin, AdminError, MessageQueue, Peer, Topic};
use keepmq_protocol::body::TopicList;
use keepmq_protocol::request::QueryOffset;
use keepmq_protocol::{Request, Response, ResponseCode, json};
use keepmq_server::Failure;
use std::collections::BTreeMap;

/// The name servers and what they lead to.
pub(crate) struct Cluster {
    admin: Admin,
    name_servers: String,
}

/// A broker that takes messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Master {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) cluster: String,
}

impl Master {
    pub(crate) fn peer(&self) -> Peer {
        Peer::At(self.address.clone())
    }
}

impl Cluster {
    pub(crate) async fn connect(connect: &Connect) -> Result<Self, Failure> {
        let admin = Admin::connect(&connect.name_servers, connect.timeout).await;
        let admin = admin.map_err(|error| problem::start(&error))?;
        Ok(Self { admin, name_servers: connect.name_servers.clone() })
    }

    /// What was typed.
    pub(crate) fn name_servers(&self) -> &str {
        &self.name_servers
    }

    /// For questions that are the caller's to judge.
    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// All masters; of one cluster, when it is named.
    pub(crate) async fn masters(&self, cluster: Option<&str>) -> Result<Vec<Master>, Failure> {
        let info = self.admin.cluster().await.map_err(|error| at_name_servers("the list of brokers", &error))?;
        let mut masters = Vec::new();
        for (name, broker) in info.broker_addr_table {
            if let Some(address) = broker.broker_addrs.get(&0) {
                masters.push(Master { name, address: address.clone(), cluster: broker.cluster });
            }
        }
        masters.retain(|master| cluster.is_none_or(|wanted| master.cluster == wanted));
        masters.sort();
        Ok(masters)
    }

    /// The masters that serve a topic; a failure when there is none.
    pub(crate) async fn masters_of(&self, topic: &Topic) -> Result<Vec<Master>, Failure> {
        let route = self.admin.route(topic).await;
        let Some(route) = route.map_err(|error| at_name_servers(&format!("the route of \"{topic}\""), &error))? else {
            let asked = &self.name_servers;
            return Err(problem::no_topic(topic.as_str(), &format!("the name server ({asked}) knows no such topic")));
        };
        let mut masters = self.masters(None).await?;
        masters.retain(|master| route.brokers.keys().any(|broker| broker.as_str() == master.name));
        Ok(masters)
    }

    /// All topics, or those that belong to the system.
    pub(crate) async fn topics(&self, of_the_system: bool) -> Result<Vec<String>, Failure> {
        let what = "the list of topics";
        let request = if of_the_system { Request::SystemTopics } else { Request::TopicList };
        let answer =
            self.admin.must(&Peer::NameServer, request).await.map_err(|error| at_name_servers(what, &error))?;
        let list: TopicList = json::parse(&answer.body.concat()).map_err(|error| problem::unreadable(what, &error))?;
        Ok(list.topic_list)
    }

    /// How far a group is in a queue, as its broker says; 0 when nothing is committed.
    pub(crate) async fn committed(&self, master: &Master, group: &str, queue: &MessageQueue) -> Result<u64, Failure> {
        let what = format!("the offset of \"{group}\"");
        let asked = QueryOffset {
            group: group.to_owned().into(),
            topic: queue.topic.as_str().to_owned().into(),
            queue_id: i32::try_from(queue.id).expect("a topic has few queues"),
            zero_if_not_found: Some(false),
        };
        let answer = self.admin.ask(&master.peer(), Request::QueryOffset(asked)).await;
        let answer = answer.map_err(|error| at_broker(&what, master, &error))?;
        match answer.code {
            code if code == ResponseCode::QueryNotFound as i32 => Ok(0),
            code if code == ResponseCode::Success as i32 => offset(&answer),
            code => Err(problem::refused(&what, &master.name, code, answer.remark.as_deref().unwrap_or_default())),
        }
    }

    /// How far a group is in these queues, added up.
    pub(crate) async fn committed_in_all<'q>(
        &self,
        master: &Master,
        group: &str,
        queues: impl IntoIterator<Item = &'q MessageQueue>,
    ) -> Result<BTreeMap<MessageQueue, u64>, Failure> {
        let mut all = BTreeMap::new();
        for queue in queues {
            all.insert(queue.clone(), self.committed(master, group, queue).await?);
        }
        Ok(all)
    }
}

fn offset(answer: &Response) -> Result<u64, Failure> {
    let offset: i64 = answer.field("offset").map_err(|error| problem::unreadable("an offset", &error))?;
    Ok(u64::try_from(offset).unwrap_or(0))
}

/// A question to the name servers has failed.
pub(crate) fn at_name_servers(doing: &str, error: &AdminError) -> Failure {
    match error {
        AdminError::Unreachable { tried } => problem::unreachable(tried),
        AdminError::Refused { peer, code, remark } => problem::refused(doing, peer, *code, remark),
        AdminError::Unreadable { .. } => problem::unreadable(doing, error),
    }
}

/// A question to a broker has failed.
pub(crate) fn at_broker(doing: &str, master: &Master, error: &AdminError) -> Failure {
    match error {
        AdminError::Unreachable { .. } => problem::broker(&master.name, &master.address, error),
        AdminError::Refused { code, remark, .. } => problem::refused(doing, &master.name, *code, remark),
        AdminError::Unreadable { .. } => problem::unreadable(doing, error),
    }
}
