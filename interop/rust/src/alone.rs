//! Our client without any other, against whichever servers: everything that it promises, once.

use crate::CLOSE;
use anyhow::{Context, Result, ensure};
use keepmq_client::{
    ConsumeFrom, Message, MessageQueue, Producer, PullConsumer, PushConsumer, QueueOffset, Received, SeekTo, Timestamp,
    Topic, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Longest that anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);
/// What must not come would come within this time.
const QUIET: Duration = Duration::from_millis(1500);
const FEW: usize = 40;
const QUEUES: usize = 4;

struct Alone<'a> {
    name_server: &'a str,
    run: &'a str,
    producer: Producer,
}

/// Everything; each check prints its line.
pub(crate) async fn all(name_server: &str, run: &str) -> Result<()> {
    let producer = Producer::builder(name_server, "producers-of-ours").send_timeout(Duration::from_secs(10)).start();
    let alone = Alone { name_server, run, producer: producer.await? };
    check("every kind of send: one receipt and one place for each message", alone.sends()).await;
    check("a group goes on after a restart exactly where it has committed", alone.restart()).await;
    check("members of a group share its queues, and take over from one that leaves", alone.shared()).await;
    check("tags filter, also those of one hash", alone.tags()).await;
    check("what a listener puts off comes again, and nothing is passed over", alone.later()).await;
    check("a pull consumer seeks, polls and commits, and another goes on there", alone.pulls()).await;
    let report = alone.producer.close(CLOSE).await;
    check("the producer's report: nothing refused, nothing unknown", async {
        ensure!((report.refused, report.unknown) == (0, 0), "{report:?}");
        Ok(())
    })
    .await;
    Ok(())
}

async fn check(name: &str, story: impl Future<Output = Result<()>>) {
    match story.await {
        Ok(()) => println!("ok {name}"),
        Err(error) => println!("FAIL {name}: {error:#}"),
    }
}

/// Waits until it holds.
async fn within(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        ensure!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What a listener has been given.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Received>>>);

impl Seen {
    fn open(&self) -> MutexGuard<'_, Vec<Received>> {
        self.0.lock().expect("nobody panics while holding it")
    }

    fn keys(&self) -> BTreeSet<String> {
        self.open().iter().map(key).collect()
    }
}

fn key(message: &Received) -> String {
    message.keys().collect()
}

fn keys(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|number| format!("key-{number}")).collect()
}

impl Alone<'_> {
    fn topic(&self, what: &str) -> String {
        format!("{what}-{}", self.run)
    }

    fn message(topic: &str, number: usize) -> Result<Message> {
        Ok(Message::new(topic, format!("body {number}"))?.tag("tag")?.keys([&*format!("key-{number}")])?)
    }

    async fn some(&self, topic: &str, numbers: std::ops::Range<usize>) -> Result<()> {
        for number in numbers {
            self.producer.send(Self::message(topic, number)?).await.with_context(|| format!("message {number}"))?;
        }
        Ok(())
    }

    async fn consumer(&self, topic: &str, expression: &str, seen: &Seen) -> Result<PushConsumer> {
        let builder = PushConsumer::builder(self.name_server, topic).subscribe(topic, expression);
        let seen = seen.clone();
        let started = builder.from(ConsumeFrom::FirstOffset).start(move |messages| {
            seen.open().extend(messages);
            async { Verdict::Success }
        });
        Ok(started.await?)
    }

    /// Name servers hear of a new topic a moment after its first message is acknowledged.
    async fn queues(&self, puller: &PullConsumer, topic: &str) -> Result<Vec<MessageQueue>> {
        let end = Instant::now() + PATIENCE;
        loop {
            match puller.queues(&Topic::new(topic)?).await {
                Ok(queues) if queues.len() == QUEUES => return Ok(queues),
                seen => ensure!(Instant::now() < end, "the topic should have {QUEUES} queues: {seen:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn sends(&self) -> Result<()> {
        let topic = self.topic("sends");
        let mut receipts = Vec::new();
        for number in 0..20 {
            receipts.push(self.producer.send(Self::message(&topic, number)?).await?);
        }
        let (ends, mut ended) = mpsc::unbounded_channel();
        for number in 20..120 {
            let ends = ends.clone();
            // Nobody listens any more only when this check has failed already.
            self.producer.send_async(Self::message(&topic, number)?, move |outcome| drop(ends.send(outcome)));
        }
        drop(ends);
        while let Some(outcome) = ended.recv().await {
            receipts.push(outcome?);
        }
        let batch: Result<Vec<_>> = (120..140).map(|number| Self::message(&topic, number)).collect();
        for outcome in self.producer.send_batch(batch?).await {
            receipts.push(outcome?);
        }
        let long = "a body that is compressed ".repeat(10_000);
        receipts.push(self.producer.send(Message::new(&topic, long.clone())?.keys(["key-140"])?).await?);
        for number in 141..151 {
            self.producer.send_oneway(Self::message(&topic, number)?)?;
        }
        let places: BTreeSet<_> = receipts.iter().map(|receipt| (receipt.queue.clone(), receipt.offset)).collect();
        let ids: BTreeSet<_> = receipts.iter().map(|receipt| &receipt.message_id).collect();
        ensure!(receipts.len() == 141, "{} receipts", receipts.len());
        ensure!((places.len(), ids.len()) == (141, 141), "{} places, {} ids", places.len(), ids.len());
        let queues: BTreeSet<_> = receipts.iter().map(|receipt| receipt.queue.id).collect();
        ensure!(queues.len() == QUEUES, "only {queues:?} are used");

        let puller = PullConsumer::builder(self.name_server).start().await?;
        puller.assign(self.queues(&puller, &topic).await?);
        let polled = polled(&puller, 151).await?;
        let found: BTreeMap<_, _> =
            polled.iter().map(|message| ((message.queue.clone(), message.offset), message)).collect();
        ensure!(found.len() == polled.len(), "{} messages at {} places", polled.len(), found.len());
        ensure!(polled.iter().map(key).collect::<BTreeSet<_>>() == keys(0..151), "other keys came out");
        for receipt in &receipts {
            let message =
                found.get(&(receipt.queue.clone(), receipt.offset)).with_context(|| format!("{receipt:?}"))?;
            ensure!(message.message_id() == receipt.message_id, "{receipt:?} is {}", message.message_id());
            ensure!(message.offset_message_id() == receipt.offset_message_id, "{receipt:?} is {message:?}");
        }
        for message in &polled {
            let key = key(message);
            let expected = if key == "key-140" { long.clone() } else { key.replace("key-", "body ") };
            ensure!(message.body == expected, "the body of {key} has {} bytes", message.body.len());
        }
        puller.close().await;
        Ok(())
    }

    async fn restart(&self) -> Result<()> {
        let topic = self.topic("restart");
        self.some(&topic, 0..FEW).await?;
        let first = Seen::default();
        let consumer = self.consumer(&topic, "*", &first).await?;
        within("the first life has everything", || first.keys() == keys(0..FEW)).await?;
        let report = consumer.close(CLOSE).await;
        ensure!((report.processed, report.given_up, report.uncommitted) == (FEW as u64, 0, 0), "{report:?}");
        self.some(&topic, FEW..2 * FEW).await?;

        // Asked in another way: whoever reads for this group begins where it has committed.
        let puller = PullConsumer::builder(self.name_server).group(&topic).start().await?;
        puller.assign(self.queues(&puller, &topic).await?);
        let polled: BTreeSet<_> = polled(&puller, FEW).await?.iter().map(key).collect();
        ensure!(polled == keys(FEW..2 * FEW), "polled {polled:?}");
        puller.close().await;

        let second = Seen::default();
        let consumer = self.consumer(&topic, "*", &second).await?;
        within("the second life has the rest", || second.keys() == keys(FEW..2 * FEW)).await?;
        sleep(QUIET).await;
        consumer.close(CLOSE).await;
        let count = second.open().len();
        ensure!(count == FEW, "{count} messages, not {FEW}");
        Ok(())
    }

    async fn shared(&self) -> Result<()> {
        let topic = self.topic("shared");
        self.some(&topic, 0..FEW).await?;
        let (seen, second_seen) = (Seen::default(), Seen::default());
        let first = self.consumer(&topic, "*", &seen).await?;
        within("the first has all queues", || first.assigned().len() == QUEUES).await?;
        let second = self.consumer(&topic, "*", &second_seen).await?;
        let shared = || {
            let all: BTreeSet<_> = first.assigned().into_iter().chain(second.assigned()).collect();
            all.len() == QUEUES && first.assigned().len() == QUEUES / 2 && second.assigned().len() == QUEUES / 2
        };
        within("each has half of the queues", shared).await?;
        self.some(&topic, FEW..2 * FEW).await?;
        let all = || seen.keys().union(&second_seen.keys()).cloned().collect::<BTreeSet<_>>();
        within("all messages arrive", || all() == keys(0..2 * FEW)).await?;
        ensure!(!second_seen.open().is_empty(), "the second has received nothing");
        second.close(CLOSE).await;
        within("the first has all queues again", || first.assigned().len() == QUEUES).await?;
        self.some(&topic, 2 * FEW..3 * FEW).await?;
        within("the first receives everything", || seen.keys().is_superset(&keys(2 * FEW..3 * FEW))).await?;
        first.close(CLOSE).await;
        Ok(())
    }

    async fn tags(&self) -> Result<()> {
        let topic = self.topic("tags");
        for (number, tag) in ["A", "B", "Aa", "BB"].iter().cycle().take(FEW).enumerate() {
            let message = Message::new(&topic, "body")?.tag(tag)?.keys([&*format!("key-{number}")])?;
            self.producer.send(message).await?;
        }
        let seen = Seen::default();
        let consumer = self.consumer(&topic, "A || Aa", &seen).await?;
        within("half of the messages arrive", || seen.keys().len() == FEW / 2).await?;
        sleep(QUIET).await;
        consumer.close(CLOSE).await;
        let tags: Vec<_> = seen.open().iter().filter_map(|message| message.tag().map(str::to_owned)).collect();
        ensure!(tags.len() == FEW / 2, "{} messages", tags.len());
        ensure!(tags.iter().all(|tag| tag == "A" || tag == "Aa"), "{tags:?}");
        Ok(())
    }

    async fn later(&self) -> Result<()> {
        let topic = self.topic("later");
        self.some(&topic, 0..FEW).await?;
        let seen = Seen::default();
        let attempts = Arc::new(AtomicUsize::new(0));
        let listener = {
            let (seen, attempts) = (seen.clone(), Arc::clone(&attempts));
            move |messages: Vec<Received>| {
                let (seen, attempts) = (seen.clone(), Arc::clone(&attempts));
                async move {
                    let odd = messages.iter().any(|message| key(message) == "key-7");
                    if odd && attempts.fetch_add(1, Ordering::Relaxed) < 2 {
                        return Verdict::Later;
                    }
                    seen.open().extend(messages);
                    Verdict::Success
                }
            }
        };
        let builder = PushConsumer::builder(self.name_server, &topic).subscribe(&topic, "*");
        let builder = builder.from(ConsumeFrom::FirstOffset).configure(|config| {
            config.later = Duration::from_millis(200);
        });
        let consumer = builder.start(listener).await?;
        within("everything is processed", || seen.keys() == keys(0..FEW)).await?;
        let report = consumer.close(CLOSE).await;
        ensure!((report.processed, report.failures, report.uncommitted) == (FEW as u64, 2, 0), "{report:?}");
        Ok(())
    }

    async fn pulls(&self) -> Result<()> {
        let topic = self.topic("pulls");
        self.some(&topic, 0..FEW).await?;
        let puller = PullConsumer::builder(self.name_server).group(&topic).start().await?;
        let queues = self.queues(&puller, &topic).await?;
        puller.assign(queues.clone());
        let first = polled(&puller, FEW).await?;
        ensure!(first.iter().map(key).collect::<BTreeSet<_>>() == keys(0..FEW), "other keys came out");

        let queue = &queues[1];
        puller.assign(vec![queue.clone()]);
        let end = first.iter().filter(|message| message.queue == *queue).count() as u64;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
        let late = Timestamp(i64::try_from(now)? + 60_000);
        for (to, least, most) in [
            (SeekTo::Offset(QueueOffset(end / 2)), end / 2, end / 2),
            (SeekTo::Begin, 0, 0),
            (SeekTo::Timestamp(Timestamp(0)), 0, 0),
            // Brokers of RocketMQ 4.9 answer with the message that is nearest in time, which is an earlier one here.
            (SeekTo::Timestamp(late), end - 1, end),
            (SeekTo::End, end, end),
        ] {
            let at = puller.seek(queue, to).await?.0;
            ensure!((least..=most).contains(&at), "{to:?} leads to {at}, not {most}");
            let seen = polled(&puller, usize::try_from(end - at)?).await?;
            let seen: Vec<u64> = seen.iter().map(|message| message.offset.0).collect();
            ensure!(seen == (at..end).collect::<Vec<_>>(), "behind {to:?} are {seen:?}");
        }
        let to = keepmq_client::Target::Queue(queue.clone());
        let receipt = self.producer.send_to(Self::message(&topic, FEW)?, to).await?;
        ensure!(receipt.offset == QueueOffset(end), "{receipt:?} is not at {end}");
        let seen = polled(&puller, 1).await?;
        ensure!(seen.len() == 1 && key(&seen[0]) == format!("key-{FEW}"), "at the end came {seen:?}");
        puller.seek(queue, SeekTo::Offset(QueueOffset(end / 2))).await?;
        let one = puller.poll(1, PATIENCE).await?;
        ensure!(one.len() == 1 && one[0].offset.0 == end / 2, "one came: {one:?}");
        puller.commit().await?;
        puller.close().await;

        let another = PullConsumer::builder(self.name_server).group(&topic).start().await?;
        another.assign(vec![queue.clone()]);
        let next = another.poll(1, PATIENCE).await?;
        ensure!(
            next.first().is_some_and(|message| message.offset.0 == end / 2 + 1),
            "the next one began with {next:?}"
        );
        another.close().await;
        Ok(())
    }
}

/// So many messages; what comes behind them is an error.
async fn polled(puller: &PullConsumer, count: usize) -> Result<Vec<Received>> {
    let mut all = Vec::new();
    let end = Instant::now() + PATIENCE;
    while all.len() < count && Instant::now() < end {
        all.extend(puller.poll(500, Duration::from_secs(1)).await?);
    }
    all.extend(puller.poll(500, Duration::from_millis(200)).await?);
    ensure!(all.len() == count, "{} messages were polled, not {count}", all.len());
    Ok(all)
}
