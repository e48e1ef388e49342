//! One half of a pair: what one client sends, another one receives. Both print the same line for the same message.

use crate::CLOSE;
use anyhow::{Context, Result, ensure};
use keepmq_client::{ConsumeFrom, Message, Producer, PushConsumer, Receipt, Received, Verdict};
use keepmq_protocol::record::crc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::sleep;

/// Messages that go one by one; as many as in the other languages.
const SINGLE: usize = 48;
/// Messages of the batch behind them.
const BATCH: usize = 10;
/// "Aa" and "BB" have the same hash: a broker lets both pass, a client must tell them apart.
const TAGS: [&str; 5] = ["A", "B", "C", "Aa", "BB"];
/// Longest that messages may take to arrive.
const ARRIVE: Duration = Duration::from_secs(30);
/// What comes too often comes within this time.
const QUIET: Duration = Duration::from_millis(500);

/// What is known of a message before it is sent.
struct Sample {
    message: Message,
    line: String,
}

fn sample(topic: &str, number: usize, sharded: bool) -> Result<Sample> {
    let (tag, flag) = (TAGS[number % TAGS.len()], 1000 + i32::try_from(number)?);
    let user = format!("välue-{number}");
    let shard = (sharded && number % 4 == 1).then(|| format!("shard-{}", number % 3));
    let body = match number % 8 {
        // Long enough to be compressed, unless it goes in a batch.
        7 => format!("a long body {number} ").repeat(1000).into_bytes(),
        3 => format!("ünïcödé ✓ {number}").into_bytes(),
        5 => (0..=255).collect(),
        _ => format!("body {number}").into_bytes(),
    };
    let (key, also) = (format!("key-{number}"), format!("also-{number}"));
    let line = line(&format!("{key}+{also}"), tag, flag, &user, shard.as_deref(), &body);
    let message = Message::new(topic, body)?.tag(tag)?.keys([&*key, &*also])?.property("user", &user)?.flag(flag);
    let message = match &shard {
        Some(shard) => message.sharding_key(shard)?,
        None => message,
    };
    Ok(Sample { message, line })
}

fn line(keys: &str, tag: &str, flag: i32, user: &str, shard: Option<&str>, body: &[u8]) -> String {
    format!("{keys} {tag} {flag} {user} {} {} {}", shard.unwrap_or("-"), body.len(), crc(body))
}

fn sent(line: &str, receipt: &Receipt) {
    let Receipt { queue, offset, message_id, offset_message_id, .. } = receipt;
    println!("sent {line} {} {offset} {message_id} {offset_message_id}", queue.id);
}

/// Sends the samples, and prints what each is and where it lies.
pub(crate) async fn send(name_server: &str, topic: &str) -> Result<()> {
    let producer = Producer::builder(name_server, "producers-of-ours").start().await?;
    for number in 0..SINGLE {
        let Sample { message, line } = sample(topic, number, true)?;
        sent(&line, &producer.send(message).await.with_context(|| line.clone())?);
    }
    let mut lines = Vec::new();
    let mut batch = Vec::new();
    for number in SINGLE..SINGLE + BATCH {
        // A batch goes to one queue: none of its messages chooses another one.
        let Sample { message, line } = sample(topic, number, false)?;
        batch.push(message);
        lines.push(line);
    }
    for (line, outcome) in lines.iter().zip(producer.send_batch(batch).await) {
        sent(line, &outcome.with_context(|| line.clone())?);
    }
    let report = producer.close(CLOSE).await;
    ensure!(report.kept == (SINGLE + BATCH) as u64, "the producer reports {report:?}");
    Ok(())
}

/// A message as `sent` prints it.
fn got(message: &Received) -> String {
    let keys: Vec<&str> = message.keys().collect();
    let user = message.property("user").unwrap_or("-");
    let tag = message.tag().unwrap_or("-");
    // The Go client has a name of its own for it.
    let shard = message.property("__SHARDINGKEY").or(message.property("SHARDING_KEY"));
    let line = line(&keys.join("+"), tag, message.flag, user, shard, &message.body);
    let (queue, offset) = (message.queue.id, message.offset);
    format!("got {line} {queue} {offset} {} {}", message.message_id(), message.offset_message_id())
}

/// Receives so many messages, and what comes shortly behind them, and prints all.
pub(crate) async fn take(name_server: &str, topic: &str, group: &str, expression: &str, count: usize) -> Result<()> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let all = Arc::clone(&all);
        move |messages: Vec<Received>| {
            all.lock().expect("nobody panics here").extend(messages.iter().map(got));
            async { Verdict::Success }
        }
    };
    let builder = PushConsumer::builder(name_server, group).subscribe(topic, expression);
    let consumer = builder.from(ConsumeFrom::FirstOffset).start(listener).await?;
    let end = Instant::now() + ARRIVE;
    while all.lock().expect("nobody panics here").len() < count && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(QUIET).await;
    let report = consumer.close(CLOSE).await;
    for line in all.lock().expect("nobody panics here").iter() {
        println!("{line}");
    }
    ensure!(report.uncommitted == 0 && report.given_up == 0, "the consumer reports {report:?}");
    Ok(())
}

/// A member of a group that prints what it takes, before the broker can hear of it.
pub(crate) async fn join(name_server: &str, member: &str, topic: &str, group: &str) -> Result<PushConsumer> {
    let builder = PushConsumer::builder(name_server, group).subscribe(topic, "*").from(ConsumeFrom::FirstOffset);
    let member = member.to_owned();
    // One listener, so that the order of a queue is the order in which it is consumed.
    let started = builder.listeners(1).start(move |messages| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        for message in &messages {
            let (queue, offset) = (message.queue.id, message.offset);
            println!("took {member} {queue} {offset} {} {now}", String::from_utf8_lossy(&message.body));
        }
        async { Verdict::Success }
    });
    Ok(started.await?)
}
