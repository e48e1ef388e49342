//! `keepmq topic`: list, describe, create, delete.

use crate::args::{Connect, Output};
use crate::cluster::{Cluster, Master, at_broker, at_name_servers};
use crate::problem;
use crate::table::{Table, say};
use clap::{Args, Subcommand};
use keepmq_client::{Peer, QueueStats, Topic, TopicConfig};
use keepmq_protocol::request::DeleteTopic;
use keepmq_protocol::{DLQ_PREFIX, RETRY_PREFIX, Request};
use keepmq_server::{ExitCode, Failure, Problem};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Brokers register every 30 s at the latest, and tell of new topics at once.
const VISIBLE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Topics that every broker has for itself. Source: RocketMQ `TopicValidator`.
const SYSTEM: [&str; 9] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];
const SYSTEM_PREFIX: &str = "rmq_sys_";

/// Topics.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  keepmq topic list\n  keepmq topic create orders --queues 8\n  keepmq topic describe orders -o json"
)]
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
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        queues: u32,
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
            Verb::Describe { topic, connect, output } => describe(&named(topic)?, connect, *output).await,
            Verb::Create { topic, queues, cluster, broker, connect } => {
                let topic = named(topic)?;
                let known = Cluster::connect(connect).await?;
                let mut masters = known.masters(cluster.as_deref()).await?;
                masters.retain(|master| broker.as_ref().is_none_or(|wanted| master.name == *wanted));
                if masters.is_empty() {
                    return Err(no_master(&known, cluster.as_deref(), broker.as_deref()));
                }
                for master in &masters {
                    create(&known, master, &topic, *queues).await?;
                    say(&format!("created {topic} on {} ({}): {queues} queues\n", master.name, master.address))?;
                }
                Ok(())
            }
            Verb::Delete { topic, connect } => delete(&named(topic)?, connect).await,
        }
    }
}

/// Makes a topic on one broker, and waits until the name server leads to it: a producer that came before would take it for a topic
/// that it has to create, with other queues.
pub(super) async fn create(cluster: &Cluster, master: &Master, topic: &Topic, queues: u32) -> Result<(), Failure> {
    let config = TopicConfig {
        topic_name: topic.as_str().to_owned(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        ..TopicConfig::default()
    };
    let created = cluster.admin().create_topic(&master.peer(), &config).await;
    created.map_err(|error| at_broker(&format!("the topic \"{topic}\""), master, &error))?;
    let began = Instant::now();
    loop {
        let route = cluster.admin().route(topic).await;
        let route = route.map_err(|error| at_name_servers(&format!("the route of \"{topic}\""), &error))?;
        if route.is_some_and(|route| route.brokers.keys().any(|broker| broker.as_str() == master.name)) {
            return Ok(());
        }
        if began.elapsed() > VISIBLE {
            eprintln!("note: the name server does not lead to it after {VISIBLE:?}; it will");
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A name from the command line.
pub(super) fn named(topic: &str) -> Result<Topic, Failure> {
    Topic::new(topic)
        .map_err(|error| problem::usage(format!("{topic:?} is no name of a topic"), error, "choose another name"))
}

async fn list(all: bool, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let topics = cluster.topics(false).await?;
    let hidden: BTreeSet<String> =
        if all { BTreeSet::new() } else { cluster.topics(true).await?.into_iter().collect() };
    let of_groups = |topic: &str| topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX);
    let of_the_system = |topic: &str| topic.starts_with(SYSTEM_PREFIX) || SYSTEM.contains(&topic);
    let plain = |topic: &String| !(hidden.contains(topic) || of_groups(topic) || of_the_system(topic));
    let shown: BTreeSet<String> = topics.into_iter().filter(|topic| all || plain(topic)).collect();
    let mut table = Table::new(&["TOPIC"]);
    shown.into_iter().for_each(|topic| table.push([json!(topic)]));
    table.print(output.format)
}

async fn describe(topic: &Topic, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut table = Table::new(&["BROKER", "ADDRESS", "QUEUE", "MIN OFFSET", "MAX OFFSET", "LAST STORED"]);
    for master in cluster.masters_of(topic).await? {
        let stats = cluster.admin().topic_stats(&master.peer(), topic).await;
        let what = format!("what is in \"{topic}\"");
        for QueueStats { queue, min, max, last_stored } in stats.map_err(|error| at_broker(&what, &master, &error))? {
            let last = (last_stored.0 > 0).then_some(last_stored.0);
            let (broker, address) = (json!(queue.broker.as_str()), json!(master.address));
            table.push([broker, address, json!(queue.id), json!(min.0), json!(max.0), json!(last)]);
        }
    }
    table.print(output.format)
}

async fn delete(topic: &Topic, connect: &Connect) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    for master in remove(&cluster, topic).await? {
        say(&format!("deleted {topic} on {} ({})\n", master.name, master.address))?;
    }
    Ok(())
}

/// Removes a topic from the brokers that serve it, which it answers, and from the name servers.
pub(super) async fn remove(cluster: &Cluster, topic: &Topic) -> Result<Vec<Master>, Failure> {
    let masters = cluster.masters_of(topic).await?;
    let request = || DeleteTopic { topic: topic.as_str().to_owned().into(), cluster: None };
    for master in &masters {
        let deleted = cluster.admin().must(&master.peer(), Request::DeleteTopic(request())).await;
        deleted.map_err(|error| at_broker(&format!("deleting \"{topic}\""), master, &error))?;
    }
    // Each name server has routes of its own; one that is down learns from the brokers.
    for server in cluster.name_servers().split([';', ',']).map(str::trim).filter(|server| !server.is_empty()) {
        let told = cluster.admin().must(&Peer::At(server.to_owned()), Request::DeleteTopicRoute(request())).await;
        if let Err(error) = told {
            eprintln!("note: name server {server} was not told: {error}");
        }
    }
    Ok(masters)
}

/// None of the brokers that were meant.
pub(super) fn no_master(known: &Cluster, cluster: Option<&str>, broker: Option<&str>) -> Failure {
    let wanted = match (cluster, broker) {
        (Some(cluster), _) => format!("no master of cluster {cluster:?} is known"),
        (_, Some(broker)) => format!("no master called {broker:?} is known"),
        (None, None) => "no broker has registered".to_owned(),
    };
    let what = format!("{wanted} to {}", known.name_servers());
    let why = "a topic is made by the brokers that shall serve it";
    let remedy = "start a broker that has these name servers (namesrvAddr), or look at the spelling";
    Failure::new(ExitCode::NotFound, Problem::new("there is no broker to make the topic", what, why, remedy))
}
