//! `keepmq consume`: look at a topic, or consume it as a member of a group.

use crate::args::{Connect, duration, time};
use crate::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::load::{ends, wall};
use crate::problem;
use crate::table::{Format, say};
use crate::verb::topic::named;
use clap::Args;
use keepmq_client::{ConsumeFrom, PullConsumer, PushConsumer, Received, SeekTo, Topic, Verdict};
use keepmq_server::{ExitCode, Failure, Problem};
use keepmq_world::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(500);
/// What a member of a group may still take when it leaves.
const LEAVE: Duration = Duration::from_secs(5);

/// Without a group: looks at what is there, and changes nothing. With one: joins it, and commits what has been printed.
/// Ends on Ctrl-C, or when told by -n or --end.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  keepmq consume orders --end\n  keepmq consume orders --from -15m --tag 'created || paid'\n  \
                        keepmq consume orders -g billing -n 10 -o ndjson"
)]
pub struct Consume {
    /// From where
    topic: String,
    /// The consumer group to join
    #[arg(short = 'g', long, value_name = "GROUP")]
    group: Option<String>,
    /// Where to begin: first, last, now, -15m, 2026-11-24T15:00:00Z or milliseconds since 1970; for a group only where it has
    /// nothing committed
    #[arg(long, value_name = "PLACE", default_value = "first", allow_hyphen_values = true, value_parser = place)]
    from: ConsumeFrom,
    /// Tags that are wanted, separated by ||
    #[arg(long, value_name = "TAGS", default_value = "*")]
    tag: String,
    /// Ends after so many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Ends when everything has been read that was there at the start; without a group
    #[arg(short = 'e', long, conflicts_with = "group")]
    end: bool,
    /// Name servers, host:port, several separated by semicolons; without a short form: here -n counts messages
    #[arg(long = "namesrv", value_name = "NAMESRV[;NAMESRV]", env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    name_servers: String,
    /// What one question may take: 500ms, 3s, 1m
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    timeout: Duration,
    /// Form of the result; JSON is one object a line
    #[arg(short = 'o', long = "output", value_name = "FORM", value_enum, default_value_t)]
    format: Format,
}

impl Consume {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let topic = named(&self.topic)?;
        let connect = Connect { name_servers: self.name_servers.clone(), timeout: self.timeout };
        interrupt.unless(async { Cluster::connect(&connect).await?.masters_of(&topic).await }).await?;
        match &self.group {
            None => self.browse(&topic, interrupt).await,
            Some(group) => self.join(group, interrupt).await,
        }
    }

    async fn browse(&self, topic: &Topic, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let builder = PullConsumer::builder(&self.name_servers).subscribe(topic.as_str(), &self.tag);
        let puller = builder.start().await.map_err(|error| problem::start(&error))?;
        let read = interrupt.unless(self.read(&puller, topic)).await;
        puller.close().await;
        read
    }

    async fn read(&self, puller: &PullConsumer, topic: &Topic) -> Result<(), Failure> {
        // The end of a queue also says that its broker can be reached.
        let ends = tokio::time::timeout(self.timeout, ends(puller, topic)).await;
        let ends = match ends {
            Ok(ends) => ends.map_err(|error| unread(&error.to_string()))?,
            Err(_) => return Err(unread(&format!("no broker has answered within {:?}", self.timeout))),
        };
        let mut left = BTreeMap::new();
        for (queue, end) in ends {
            let to = match self.from {
                ConsumeFrom::FirstOffset => SeekTo::Begin,
                ConsumeFrom::LastOffset => SeekTo::Offset(end),
                ConsumeFrom::Timestamp(time) => SeekTo::Timestamp(time),
            };
            let begin = puller.seek(&queue, to).await.map_err(|error| unread(&error.to_string()))?;
            if begin < end {
                left.insert(queue, end);
            }
        }
        let mut more = self.count.unwrap_or(u64::MAX);
        // With a filter the last message of a queue may never come: then the first silence is the end.
        let mut silent = false;
        while more > 0 && !(self.end && (left.is_empty() || silent)) {
            let most = usize::try_from(more.min(100)).expect("at most 100");
            let messages = puller.poll(most, POLL).await.map_err(|error| unread(&error.to_string()))?;
            silent = messages.is_empty() && self.tag != "*";
            more -= messages.len() as u64;
            for message in &messages {
                say(&self.text(message))?;
                if left.get(&message.queue).is_some_and(|end| message.offset.0 + 1 >= end.0) {
                    left.remove(&message.queue);
                }
            }
        }
        Ok(())
    }

    async fn join(&self, group: &str, interrupt: &mut Interrupt) -> Result<(), Failure> {
        // The listener waits until its message has been printed: what was not, comes again.
        let (hand, mut messages) = mpsc::channel::<(Vec<Received>, oneshot::Sender<()>)>(1);
        let hand = Arc::new(Mutex::new(hand));
        let listener = move |messages: Vec<Received>| {
            let hand = Arc::clone(&hand);
            async move {
                let (printed, done) = oneshot::channel();
                let handed = hand.lock().await.send((messages, printed)).await;
                if handed.is_ok() && done.await.is_ok() { Verdict::Success } else { Verdict::Later }
            }
        };
        let builder = PushConsumer::builder(&self.name_servers, group).subscribe(&self.topic, &self.tag);
        let builder = builder.from(self.from).listeners(1);
        let consumer = builder.start(listener).await.map_err(|error| problem::start(&error))?;
        let mut more = self.count.unwrap_or(u64::MAX);
        let printing = async {
            while more > 0 {
                let Some((batch, printed)) = messages.recv().await else { break };
                batch.iter().try_for_each(|message| say(&self.text(message)))?;
                more = more.saturating_sub(batch.len() as u64);
                // A listener that is gone has been told that it is over: the message comes again.
                printed.send(()).unwrap_or_default();
            }
            Ok(())
        };
        let outcome = interrupt.unless(printing).await;
        drop(messages);
        let report = consumer.close(LEAVE).await;
        let processed = report.processed;
        if report.uncommitted > 0 {
            let what = format!("the offsets of {} queues could not be committed", report.uncommitted);
            let why = "the group gets their last messages once more";
            let remedy = "see that the brokers run; consume twice what comes twice";
            outcome?;
            let title = format!("{processed} messages, not all of them committed");
            return Err(Failure::new(ExitCode::Failed, Problem::new(title, what, why, remedy)));
        }
        eprintln!("{processed} messages, committed for group {group}");
        outcome
    }

    fn text(&self, message: &Received) -> String {
        if self.format != Format::Table {
            return format!("{}\n", object(message));
        }
        let tag = message.tag().map_or_else(String::new, |tag| format!("  [{}]", printable(tag)));
        let keys: Vec<String> = message.keys().map(printable).collect();
        let keys = if keys.is_empty() { String::new() } else { format!("  {{{}}}", keys.join(" ")) };
        let (queue, offset) = (message.queue.id, message.offset);
        let body = printable(&String::from_utf8_lossy(&message.body));
        format!("{}  q{queue}@{offset}{tag}{keys}  {body}\n", clock(message.stored))
    }
}

fn object(message: &Received) -> Value {
    let properties: Map<String, Value> =
        message.properties().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    json!({
        "topic": message.queue.topic.as_str(),
        "broker": message.queue.broker.as_str(),
        "queue": message.queue.id,
        "offset": message.offset.0,
        "id": message.message_id(),
        "born": message.born.0,
        "stored": message.stored.0,
        "reconsume_times": message.reconsume_times,
        "properties": properties,
        "body": String::from_utf8_lossy(&message.body),
    })
}

/// What others have stored may hold anything; a terminal must not obey it, and a line stays a line.
fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, char| {
        if char.is_control() && char != '\t' {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
        out
    })
}

/// The time of day, in UTC.
fn clock(Timestamp(ms): Timestamp) -> String {
    let of_day = ms.rem_euclid(86_400_000);
    let (hour, minute, second, ms) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60, of_day % 1_000);
    format!("{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn place(text: &str) -> Result<ConsumeFrom, String> {
    match text {
        "first" => Ok(ConsumeFrom::FirstOffset),
        "last" => Ok(ConsumeFrom::LastOffset),
        other => time(other, wall()).map(|at| ConsumeFrom::Timestamp(Timestamp(at))),
    }
}

fn unread(what: &str) -> Failure {
    let why = "a broker that the name server knows does not give its messages";
    let remedy = "see that the broker runs; is its address (brokerIP1 in broker.conf) one that this machine can reach?";
    Failure::new(ExitCode::Unreachable, Problem::new("the topic cannot be read", what, why, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(printable("a\tb\n\u{1b}[2Jc"), "a\tb\\n\\u{1b}[2Jc");
        assert_eq!(clock(Timestamp(1_709_164_801_007)), "00:00:01.007Z");
    }
}
