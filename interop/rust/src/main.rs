//! Our own client against a broker. The arguments are the name server and a word that makes names new. Each line of the input
//! is a command; it prints "ok NAME" or "FAIL NAME: REASON" for each check, lines of facts for whoever compares them, and
//! "done" at its end. Between commands somebody else may kill, stop and start the servers.
#![forbid(unsafe_code)]

mod alone;
mod flow;
mod peer;

use anyhow::{Result, bail};
use flow::Flow;
use keepmq_client::PushConsumer;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a client may take to end.
const CLOSE: Duration = Duration::from_secs(10);

/// What lives between two commands.
struct Stage {
    name_server: String,
    run: String,
    members: BTreeMap<String, PushConsumer>,
    flow: Option<Flow>,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info").init();
    let words: Vec<String> = std::env::args().collect();
    let [_, name_server, run] = &words[..] else { bail!("usage: keepmq-interop NAME_SERVER RUN") };
    let (name_server, run) = (name_server.clone(), run.clone());
    let mut stage = Stage { name_server, run, members: BTreeMap::new(), flow: None };
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Err(error) = stage.command(&words).await {
            println!("FAIL {line}: {error:#}");
        }
        println!("done");
    }
    Ok(())
}

impl Stage {
    async fn command(&mut self, words: &[&str]) -> Result<()> {
        match words {
            ["alone"] => alone::all(&self.name_server, &self.run).await?,
            ["peer-send", topic] => peer::send(&self.name_server, topic).await?,
            ["peer-take", topic, group, expression, count] => {
                peer::take(&self.name_server, topic, group, expression, count.parse()?).await?;
            }
            ["peer-join", member, topic, group] => {
                let consumer = peer::join(&self.name_server, member, topic, group).await?;
                self.members.insert((*member).to_owned(), consumer);
            }
            ["peer-owns", member, topic] => {
                let Some(consumer) = self.members.get(*member) else { bail!("there is no such member") };
                let queues = consumer.assigned().into_iter().filter(|queue| queue.topic.as_str() == *topic);
                let queues: Vec<String> = queues.map(|queue| queue.id.to_string()).collect();
                println!("owns {}", queues.join(" "));
            }
            ["peer-leave", member] => {
                let Some(consumer) = self.members.remove(*member) else { bail!("there is no such member") };
                let report = consumer.close(CLOSE).await;
                anyhow::ensure!(report.uncommitted == 0, "a queue could not be committed: {report:?}");
            }
            ["flow-begin", topic] => self.flow = Some(Flow::start(&self.name_server, topic).await?),
            ["flow-end"] => {
                let Some(flow) = self.flow.take() else { bail!("nothing flows") };
                flow.end().await?;
            }
            _ => bail!("there is no such command"),
        }
        Ok(())
    }
}
