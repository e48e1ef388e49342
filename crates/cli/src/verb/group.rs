//! `keepmq group`: list, describe, lag.

use crate::args::{Connect, Output};
use crate::cluster::{Cluster, by_queue, parse};
use crate::table::Table;
use clap::{Args, Subcommand};
use keepmq_protocol::body::SubscriptionGroup;
use keepmq_protocol::request::{ConsumerList, GroupStats};
use keepmq_protocol::{Request, ResponseCode};
use keepmq_server::{ExitCode, Failure, Problem};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Consumer groups.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq group list\n  keepmq group lag billing\n  keepmq group describe billing -o json")]
pub struct Groups {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Their names, and the brokers that know them
    List {
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
            Verb::List { connect, output } => list(connect, *output).await,
            Verb::Describe { group, connect, output } => describe(group, connect, *output).await,
            Verb::Lag { group, connect, output } => lag(group, connect, *output).await,
        }
    }
}

/// The settings of all groups, by broker.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupTable {
    subscription_group_table: BTreeMap<String, SubscriptionGroup>,
}

async fn list(connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for master in cluster.masters(None).await? {
        let what = "the list of groups";
        let answer = cluster.must(&master, what, Request::AllGroups).await?;
        let table: GroupTable = parse(what, &answer)?;
        for group in table.subscription_group_table.into_keys() {
            groups.entry(group).or_default().insert(master.name.clone());
        }
    }
    let mut table = Table::new(&["GROUP", "BROKERS"]);
    for (group, brokers) in groups {
        table.push([json!(group), json!(brokers.into_iter().collect::<Vec<_>>().join(","))]);
    }
    table.print(output.format)
}

async fn describe(group: &str, connect: &Connect, output: Output) -> Result<(), Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members {
        consumer_id_list: Vec<String>,
    }
    let cluster = Cluster::connect(connect).await?;
    let mut table = Table::new(&["BROKER", "MEMBERS", "CONSUME", "RETRY QUEUES", "RETRY MAX"]);
    let mut known = false;
    for master in cluster.masters(None).await? {
        let what = "the settings of groups";
        let answer = cluster.must(&master, what, Request::AllGroups).await?;
        let mut settings: GroupTable = parse(what, &answer)?;
        let Some(settings) = settings.subscription_group_table.remove(group) else { continue };
        known = true;
        let asked = Request::ConsumerList(ConsumerList { group: group.to_owned().into() });
        let response = cluster.ask(&master.address, asked).await;
        let response = response.map_err(|error| crate::problem::broker(&master.name, &master.address, &error))?;
        // A group without a member is answered with an error.
        let members = match response.is_ok() {
            true => parse::<Members>("the members of a group", &response)?.consumer_id_list,
            false => Vec::new(),
        };
        let members = if members.is_empty() { json!(null) } else { json!(members.join(" ")) };
        table.push([
            json!(master.name),
            members,
            json!(settings.consume_enable),
            json!(settings.retry_queue_nums),
            json!(settings.retry_max_times),
        ]);
    }
    if !known {
        return Err(no_group(group));
    }
    table.print(output.format)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    broker_offset: i64,
    consumer_offset: i64,
}

async fn lag(group: &str, connect: &Connect, output: Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    let mut table = Table::new(&["TOPIC", "BROKER", "QUEUE", "MAX OFFSET", "COMMITTED", "LAG"]);
    let mut known = false;
    for master in cluster.masters(None).await? {
        let what = format!("what {group:?} has consumed");
        let asked = Request::GroupStats(GroupStats { group: group.to_owned().into(), topic: None });
        let response = cluster.ask(&master.address, asked).await;
        let response = response.map_err(|error| crate::problem::broker(&master.name, &master.address, &error))?;
        let missing = [ResponseCode::SubscriptionGroupNotExist, ResponseCode::TopicNotExist];
        if missing.iter().any(|code| *code as i32 == response.code) {
            continue;
        }
        let response = crate::cluster::must(&what, &master.name, response)?;
        for ((topic, broker, queue), Stats { broker_offset, consumer_offset }) in by_queue(&what, &response)? {
            known = true;
            let lag = broker_offset - consumer_offset;
            table.push([json!(topic), json!(broker), json!(queue), json!(broker_offset), json!(consumer_offset), json!(lag)]);
        }
    }
    if !known {
        return Err(no_group(group));
    }
    table.print(output.format)
}

fn no_group(group: &str) -> Failure {
    let what = "no broker knows it, or has an offset of it";
    let why = "a group comes to be when its first consumer does";
    let remedy = "look at the spelling: keepmq group list";
    let title = format!("there is no group {group:?}");
    Failure::new(ExitCode::NotFound, Problem::new(title, what, why, remedy))
}
