//! Consuming, and sending and consuming at once.

use super::figures::{Figures, bar};
use super::send::{Sender, bound, verdict};
use super::{Load, Reading};
use crate::interrupt::Interrupt;
use crate::load::wall;
use crate::problem;
use keepmq_client::{ConsumeFrom, PushConsumer, Received, Verdict};
use keepmq_server::{ExitCode, Failure, Problem};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often is looked whether it is over.
const LOOK: Duration = Duration::from_millis(20);
/// When nothing has come for so long, everything has.
const STILL: Duration = Duration::from_secs(2);
/// Messages that a listener is given at once.
const BATCH: usize = 32;
/// Longest that a new group waits for its queues.
const JOIN: Duration = Duration::from_secs(15);

/// What the listeners have seen.
struct Seen {
    figures: Figures,
    first: Option<Instant>,
    last: Instant,
}

/// A panic ends the process anyway.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn consumer(
    (name_servers, topic, group): (&str, &str, &str),
    seen: &Arc<Mutex<Seen>>,
    from: ConsumeFrom,
    latency: impl Fn(&Received) -> Option<Duration> + Send + Sync + 'static,
) -> Result<PushConsumer, Failure> {
    let seen = Arc::clone(seen);
    let listener = move |messages: Vec<Received>| {
        let now = Instant::now();
        let mut seen = lock(&seen);
        for message in &messages {
            if let Some(latency) = latency(message) {
                seen.figures.add(latency, message.body.len());
            }
        }
        seen.first.get_or_insert(now);
        seen.last = now;
        std::future::ready(Verdict::Success)
    };
    let builder = PushConsumer::builder(name_servers, group).subscribe(topic, "*").from(from).batch(BATCH);
    builder.start(listener).await.map_err(|error| problem::start(&error))
}

/// A group that nobody has.
fn fresh() -> String {
    format!("keepmq-bench-{}-{}", std::process::id(), wall())
}

pub(super) async fn run(reading: &Reading, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let seen = Arc::new(Mutex::new(Seen { figures: Figures::new(), first: None, last: Instant::now() }));
    let group = reading.group.clone().unwrap_or_else(fresh);
    let names = (reading.connect.name_servers.as_str(), reading.topic.as_str(), group.as_str());
    // From its birth, by the producer's clock: what has lain there for long says so.
    let born = |message: &Received| Some(Duration::from_millis((wall() - message.born.0).max(0).unsigned_abs()));
    let consumer = consumer(names, &seen, ConsumeFrom::FirstOffset, born).await?;
    let progress = bar(reading.count);
    let began = Instant::now();
    joined(&consumer, interrupt).await?;
    loop {
        tokio::time::sleep(LOOK).await;
        let (good, last) = {
            let seen = lock(&seen);
            (seen.figures.good, seen.last)
        };
        progress.set_position(good);
        let still = last.elapsed() > STILL && began.elapsed() > STILL;
        let enough = reading.count.is_some_and(|count| good >= count);
        if enough || still || began.elapsed() > reading.secs || interrupt.is_asked() {
            break;
        }
    }
    progress.finish_and_clear();
    consumer.close(Duration::from_secs(5)).await;
    let seen = lock(&seen);
    let took = seen.first.map_or(Duration::ZERO, |first| seen.last.duration_since(first));
    seen.figures.print("consume", &format!("group {group}, {BATCH} at once"), took, reading.json)?;
    verdict(&seen.figures, interrupt)
}

pub(super) async fn end_to_end(load: &Load, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let sender = Sender::start(load).await?;
    let began = sender.began();
    let seen = Arc::new(Mutex::new(Seen { figures: Figures::new(), first: None, last: Instant::now() }));
    // What is not ours, or of an earlier run, has been due at another time: it is told apart by its birth.
    let (since, group) = (wall(), fresh());
    let due = move |message: &Received| {
        let nanos = u64::from_be_bytes(*message.body.first_chunk()?);
        let ours = message.born.0 >= since;
        ours.then(|| began.elapsed().saturating_sub(Duration::from_nanos(nanos)))
    };
    let names = (load.connect.name_servers.as_str(), load.topic.as_str(), group.as_str());
    let consumer = consumer(names, &seen, ConsumeFrom::LastOffset, due).await?;
    joined(&consumer, interrupt).await?;
    let (sent, took) = sender.send(load, interrupt, &|_| {}).await?;
    let end = Instant::now();
    while lock(&seen).figures.good < sent.good && end.elapsed() < STILL {
        tokio::time::sleep(LOOK).await;
    }
    consumer.close(Duration::from_secs(5)).await;
    let mut seen = lock(&seen);
    let missing = sent.good.saturating_sub(seen.figures.good);
    (seen.figures.refused, seen.figures.unknown, seen.figures.why) = (sent.refused, sent.unknown, sent.why.clone());
    seen.figures.print("e2e", &bound(load), took, load.json)?;
    if missing > 0 && !interrupt.is_asked() {
        let what = format!("{} were acknowledged, {} came to the listener", sent.good, seen.figures.good);
        let why = "what does not come in time has no latency to be counted";
        let remedy = "look at the group's lag (keepmq group lag), and send less (--rate)";
        let title = format!("{missing} messages have not come within {STILL:?} after the last send");
        return Err(Failure::new(ExitCode::Failed, Problem::new(title, what, why, remedy)));
    }
    verdict(&seen.figures, interrupt)
}

/// Until the group has its queues.
async fn joined(consumer: &PushConsumer, interrupt: &Interrupt) -> Result<(), Failure> {
    let began = Instant::now();
    while consumer.assigned().is_empty() && !interrupt.is_asked() {
        if began.elapsed() > JOIN {
            let what = format!("it has none after {JOIN:?}");
            let why = "a group reads the queues that its brokers and name servers tell it of";
            let remedy = "see whether the topic exists (keepmq topic describe), and whether its brokers run";
            return Err(Failure::new(ExitCode::Unreachable, Problem::new("the group gets no queue", what, why, remedy)));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
