//! `keepmq topic`: list, describe, create, delete.

use crate::args::{Connect, Output};
use crate::cluster::{Cluster, Master, by_queue, must};
use crate::problem;
use crate::table::{Table, say};
use clap::{Args, Subcommand};
use keepmq_protocol::request::{CreateTopic, DeleteTopic, TopicStats};
use keepmq_protocol::{DLQ_PREFIX, RETRY_PREFIX, Request, Topic};
use keepmq_server::{ExitCode, Failure, Problem};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;

/// Topics.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq topic list\n  keepmq topic create orders --queues 8\n  keepmq topic describe orders -o json")]
pub struct Topics {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Their names
    List {
        /// Those of groups and of the system, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        output: Output,
    },
    /// The queues of one: where they are, and what is in them
    Describe {
        /// Which
        topic: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        output: Output,
    },
    /// Make one, or change it: on every master, or on some
    Create {
        /// Its name
        topic: String,
        /// Queues on each broker
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
        queues: i32,
        /// On the masters of this cluster only
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
        /// On this broker only
        #[arg(long, value_name = "BROKER", conflicts_with = "cluster")]
        broker: Option<String>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Remove one, with its messages and the offsets of its groups
    Delete {
        /// Which
        topic: String,
        #[command(flatten)]
        connect: Connect,
    },
}

impl Topics {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        match &self.verb {
            Verb::List { all, connect, output } => list(*all, connect, *output).await,
            Verb::Describe { topic, connect, output } => describe(topic, connect, *output).await,
            Verb::Create { topic, queues, cluster, broker, connect } => {
                let known = Cluster::connect(connect).await?;
                let mut masters = known.masters(cluster.as_deref()).await?;
                masters.retain(|master| broker.as_ref().is_none_or(|wanted| master.name == *wanted));
                if masters.is_empty() {
                    return Err(no_master(&known, cluster.as_deref(), broker.as_deref()));
                }
                for master in &masters {
                    create(&known, master, topic, *queues).await?;
                    say(&format!("created {topic} on {} ({}): {queues} queues\n", master.name, master.address))?;
                }
                Ok(())
            }
            Verb::Delete { topic, connect } => delete(topic, connect).await,
        }
    }
}

/// Makes a topic on one broker.
pub(super) async fn create(cluster: &Cluster, master: &Master, topic: &str, queues: i32) -> Result<(), Failure> {
    Topic::check(topic).map_err(|error| {
        problem::usage(format!("{topic:?} is no name of a topic"), error, "choose another name")
    })?;
    let request = CreateTopic {
        topic: topic.to_owned().into(),
        default_topic: Some("TBW102".into()),
        read_queues: queues,
        write_queues: queues,
        perm: 6,
        filter_type: Some("SINGLE_TAG".into()),
        sys_flag: Some(0),
        order: false,
        attributes: None,
    };
    cluster.must(master, &format!("the topic {topic:?}"), Request::CreateTopic(request)).await.map(drop)
}

async fn list(all: bool, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let topics = cluster.topics(false).await?;
    let hidden: BTreeSet<String> = if all { BTreeSet::new() } else { cluster.topics(true).await?.into_iter().collect() };
    let of_groups = |topic: &str| topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX);
    let shown: BTreeSet<String> =
        topics.into_iter().filter(|topic| all || !(hidden.contains(topic) || of_groups(topic))).collect();
    let mut table = Table::new(&["TOPIC"]);
    shown.into_iter().for_each(|topic| table.push([json!(topic)]));
    table.print(output.format)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    min_offset: i64,
    max_offset: i64,
    last_update_timestamp: i64,
}

async fn describe(topic: &str, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let (route, masters) = cluster.masters_of(topic).await?;
    let mut table = Table::new(&["BROKER", "ADDRESS", "QUEUE", "PERM", "MIN OFFSET", "MAX OFFSET", "LAST STORED"]);
    for master in masters {
        let asked = Request::TopicStats(TopicStats { topic: topic.to_owned().into() });
        let what = format!("what is in {topic:?}");
        let stats = cluster.must(&master, &what, asked).await?;
        let perm = route.queue_datas.iter().find(|queues| queues.broker_name == master.name).map(|queues| queues.perm);
        for ((_, broker, queue), Stats { min_offset, max_offset, last_update_timestamp }) in by_queue(&what, &stats)? {
            table.push([
                json!(broker),
                json!(master.address),
                json!(queue),
                json!(perm),
                json!(min_offset),
                json!(max_offset),
                json!((last_update_timestamp > 0).then_some(last_update_timestamp)),
            ]);
        }
    }
    table.print(output.format)
}

async fn delete(topic: &str, connect: &Connect) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let (_, masters) = cluster.masters_of(topic).await?;
    let request = || DeleteTopic { topic: topic.to_owned().into(), cluster: None };
    for master in &masters {
        cluster.must(master, &format!("deleting {topic:?}"), Request::DeleteTopic(request())).await?;
        say(&format!("deleted {topic} on {} ({})\n", master.name, master.address))?;
    }
    // Each name server has routes of its own; one that is down learns from the brokers.
    for server in cluster.name_servers() {
        match cluster.ask(server, Request::DeleteTopicRoute(request())).await {
            Ok(response) => drop(must(&format!("deleting the route of {topic:?}"), server, response)?),
            Err(error) => eprintln!("note: name server {server} was not told: {error}"),
        }
    }
    Ok(())
}

fn no_master(known: &Cluster, cluster: Option<&str>, broker: Option<&str>) -> Failure {
    let wanted = match (cluster, broker) {
        (Some(cluster), _) => format!("no master of cluster {cluster:?} is known"),
        (_, Some(broker)) => format!("no master called {broker:?} is known"),
        (None, None) => "no broker has registered".to_owned(),
    };
    let what = format!("{wanted} to {}", known.name_servers().join(", "));
    let why = "a topic is made by the brokers that shall serve it";
    let remedy = "start a broker that has these name servers (namesrvAddr), or look at the spelling";
    Failure::new(ExitCode::NotFound, Problem::new("there is no broker to make the topic", what, why, remedy))
}
