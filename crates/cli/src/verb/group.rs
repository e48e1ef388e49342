//! `keepmq group`: list, describe, lag.

use crate::args::{Connect, Output};
use crate::cluster::{Cluster, Master, at_broker};
use crate::table::Table;
use clap::{Args, Subcommand};
use keepmq_client::{AdminError, SubscriptionGroup};
use keepmq_protocol::ResponseCode;
use keepmq_server::{ExitCode, Failure, Problem};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Groups that every broker has for itself. Source: RocketMQ `MixAll`, `SubscriptionGroupManager.init`.
const SYSTEM: [&str; 13] = [
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_PULL",
    "CLIENT_INNER_PRODUCER",
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    "FILTERSRV_CONSUMER",
    "SCHEDULE_CONSUMER",
    "SELF_TEST_C_GROUP",
    "SELF_TEST_P_GROUP",
    "TOOLS_CONSUMER",
    "__MONITOR_CONSUMER",
];
const SYSTEM_PREFIX: &str = "CID_RMQ_SYS_";
/// What a broker says of a group that it does not know.
const MISSING: [ResponseCode; 2] = [ResponseCode::SubscriptionGroupNotExist, ResponseCode::TopicNotExist];

/// Consumer groups.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  keepmq group list\n  keepmq group lag billing\n  keepmq group describe billing -o json"
)]
pub struct Groups {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Their names, and the brokers that know them
    List {
        /// Those of the system, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        output: Output,
    },
    /// Who belongs to one, and its settings, on each broker
    Describe {
        /// Which
        group: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        output: Output,
    },
    /// What one has not consumed yet, in each queue
    Lag {
        /// Which
        group: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        output: Output,
    },
}

impl Groups {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        match &self.verb {
            Verb::List { all, connect, output } => list(*all, connect, *output).await,
            Verb::Describe { group, connect, output } => describe(group, connect, *output).await,
            Verb::Lag { group, connect, output } => lag(group, connect, *output).await,
        }
    }
}

async fn list(all: bool, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for master in cluster.masters(None).await? {
        for group in settings(&cluster, &master).await?.into_keys() {
            groups.entry(group).or_default().insert(master.name.clone());
        }
    }
    let mut table = Table::new(&["GROUP", "BROKERS"]);
    let shown = |group: &str| all || !(group.starts_with(SYSTEM_PREFIX) || SYSTEM.contains(&group));
    for (group, brokers) in groups.into_iter().filter(|(group, _)| shown(group)) {
        table.push([json!(group), json!(brokers.into_iter().collect::<Vec<_>>().join(","))]);
    }
    table.print(output.format)
}

async fn settings(cluster: &Cluster, master: &Master) -> Result<BTreeMap<String, SubscriptionGroup>, Failure> {
    let groups = cluster.admin().groups(&master.peer()).await;
    groups.map_err(|error| at_broker("the list of groups", master, &error))
}

async fn describe(group: &str, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut table = Table::new(&["BROKER", "MEMBERS", "CONSUME", "RETRY QUEUES", "RETRY MAX"]);
    let mut known = false;
    for master in cluster.masters(None).await? {
        let Some(settings) = settings(&cluster, &master).await?.remove(group) else { continue };
        known = true;
        let members = cluster.admin().members(&master.peer(), group).await;
        let members = members.map_err(|error| at_broker("the members of a group", &master, &error))?;
        let (enabled, queues, most) = (settings.consume_enable, settings.retry_queue_nums, settings.retry_max_times);
        let members = (!members.is_empty()).then(|| members.join(" "));
        table.push([json!(master.name), json!(members), json!(enabled), json!(queues), json!(most)]);
    }
    if known { table.print(output.format) } else { Err(no_group(group)) }
}

async fn lag(group: &str, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut table = Table::new(&["TOPIC", "BROKER", "QUEUE", "MAX OFFSET", "COMMITTED", "LAG"]);
    let mut known = false;
    for master in cluster.masters(None).await? {
        let what = format!("what {group:?} has consumed");
        let lags = match cluster.admin().group_lag(&master.peer(), group).await {
            // Java's answers to a group that it does not know.
            Err(AdminError::Refused { code, .. }) if MISSING.iter().any(|missing| *missing as i32 == code) => continue,
            lags => lags.map_err(|error| at_broker(&what, &master, &error))?,
        };
        for lag in lags {
            known = true;
            let (topic, broker) = (json!(lag.queue.topic.as_str()), json!(lag.queue.broker.as_str()));
            let behind = json!(lag.lag());
            table.push([topic, broker, json!(lag.queue.id), json!(lag.end.0), json!(lag.committed.0), behind]);
        }
    }
    if known { table.print(output.format) } else { Err(no_group(group)) }
}

fn no_group(group: &str) -> Failure {
    let what = "no broker knows it, or has an offset of it";
    let why = "a group comes to be when its first consumer does";
    let remedy = "look at the spelling: keepmq group list";
    let title = format!("there is no group {group:?}");
    Failure::new(ExitCode::NotFound, Problem::new(title, what, why, remedy))
}
