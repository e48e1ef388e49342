//! `keepmq tour`: the main job in one command. Every line is read from results.

use crate::books::{Books, body, lost};
use crate::cluster::Master;
use crate::ground::{Folder, Ground};
use crate::interrupt::Interrupt;
use crate::load::{Load, Shared, ends, open, unread};
use crate::problem;
use crate::table::say;
use crate::verb::topic;
use clap::Args;
use keepmq_client::{
    BrokerName, ConsumeFrom, Message, MessageQueue, Producer, PullConsumer, PushConsumer, Received, Topic, Verdict,
};
use keepmq_ledger::Finding;
use keepmq_server::{ExitCode, Failure, Problem};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const TOPIC: &str = "tour";
const GROUP: &str = "tour-group";
const QUEUES: u32 = 4;
/// Bytes of a body besides the id.
const BYTES: (usize, usize) = (32, 200);
/// Small segments: a tour needs no gigabyte.
const CONF: &str = "flushDiskType=SYNC_FLUSH\nbrokerName=broker-a\nmappedFileSizeCommitLog=67108864\n";
/// Sends under way in the load.
const SENDERS: usize = 32;
/// How soon what was answered *later* comes again.
const LATER: Duration = Duration::from_millis(600);
/// How often the consumer commits.
const COMMIT: Duration = Duration::from_millis(100);
/// How long nothing may come before what is missing is called missing.
const STILL: Duration = Duration::from_secs(3);

/// Starts a name server and a broker of its own, sends and consumes in every way, kills the broker with SIGKILL in the middle of a
/// load, starts it again, consumes everything, and compares. Ends with 0 only if everything that was acknowledged was consumed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq tour\n  keepmq tour --fast --data ./tour")]
pub struct Tour {
    /// Where name server and broker keep their data [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Less load
    #[arg(long)]
    fast: bool,
}

/// What a tour has by the way.
struct Story {
    topic: Topic,
    books: Shared,
    ids: Arc<AtomicU64>,
}

/// What the listener has seen.
#[derive(Default)]
struct Seen {
    /// Given to the listener, the same place counted as often as it came.
    deliveries: u64,
    places: BTreeMap<MessageQueue, BTreeSet<u64>>,
    /// What was answered *later*, and when; then, when it came again.
    later: Option<(Received, Instant)>,
    again: Option<Duration>,
}

impl Tour {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let mut folder = Folder::new(self.data.as_deref(), "tour");
        let outcome = interrupt.unless(self.story(&folder)).await;
        if outcome.as_ref().is_err_and(|failure| ![ExitCode::Interrupted, ExitCode::Usage].contains(&failure.exit)) {
            folder.keep();
            eprintln!("what is left of it is in {}", folder.path().display());
        }
        outcome
    }

    async fn story(&self, folder: &Folder) -> Result<(), Failure> {
        let began = Instant::now();
        if folder.path().join("store").exists() {
            let what = format!("{} holds a store already", folder.path().display());
            let remedy = "give a folder that is new or empty";
            return Err(problem::usage("a tour begins on an empty store", what, remedy));
        }
        let mut ground = Ground::start(folder.path(), CONF).await?;
        let [name_server, broker] = ground.ids();
        say(&format!(
            "keepmq {} tour, data in {} ({})\n  name server   {} (process {name_server})\n  broker        {} (process {broker}), \
             SYNC_FLUSH: it answers when the disk has it\n",
            env!("CARGO_PKG_VERSION"),
            folder.path().display(),
            folder.fate(),
            ground.name_server,
            ground.broker_address
        ))?;
        let master = ground.cluster().masters(None).await?.pop().expect("the broker is found, or it is not ready");
        let topic = Topic::new(TOPIC).expect("a legal name");
        topic::create(ground.cluster(), &master, &topic, QUEUES).await?;

        let story = Story {
            topic,
            books: Arc::new(Mutex::new(Books::create(&folder.path().join("ledger"))?)),
            ids: Arc::new(AtomicU64::new(1)),
        };
        let producer = Producer::builder(&ground.connect().name_servers, "tour-producer");
        // Long enough for a broker to be killed and to come back.
        let producer =
            producer.send_timeout(Duration::from_secs(8)).start().await.map_err(|error| problem::start(&error))?;
        let size = if self.fast { 1 } else { 5 };
        story.one_by_one(&producer, 10 * size).await?;
        story.with_callbacks(&producer, 200 * size).await?;
        story.as_a_batch(&producer, 20 * size).await?;
        let mut deliveries = story.consume_with_patience(&ground, &master).await?;
        story.kill(&mut ground, &producer, Duration::from_millis(if self.fast { 600 } else { 2_000 })).await?;
        producer.close(Duration::from_secs(5)).await;
        deliveries += story.consume_the_rest(&ground, &master).await?;
        story.judge(&ground, deliveries, began)?;
        ground.stop().await
    }
}

impl Story {
    fn message(&self) -> (u64, Message) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let body = body(id, BYTES.0, BYTES.1);
        open(&self.books).attempt(id, &self.topic, &body);
        (id, Message::new(TOPIC, body).expect("a legal topic and a body"))
    }

    async fn one_by_one(&self, producer: &Producer, count: usize) -> Result<(), Failure> {
        let mut times = Vec::new();
        for _ in 0..count {
            let (id, message) = self.message();
            let began = Instant::now();
            let outcome = producer.send(message).await;
            open(&self.books).answer(id, &outcome);
            times.extend(outcome.is_ok().then(|| began.elapsed()));
        }
        times.sort();
        let median = times.get(times.len() / 2).map_or_else(|| "-".to_owned(), |time| ms(*time));
        say(&format!("1 send          one by one: {} of {count} SEND_OK, median {median}\n", times.len()))
    }

    async fn with_callbacks(&self, producer: &Producer, count: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let (done, mut ended) = tokio::sync::mpsc::channel(count);
        for _ in 0..count {
            let (id, message) = self.message();
            let (books, done) = (Arc::clone(&self.books), done.clone());
            producer.send_async(message, move |outcome| {
                open(&books).answer(id, &outcome);
                done.try_send(outcome.is_ok()).expect("there is room for each, and the tour waits for all");
            });
        }
        drop(done);
        let mut kept = 0;
        while let Some(ok) = ended.recv().await {
            kept += u32::from(ok);
        }
        say(&format!("2 send async    with callbacks: {kept} of {count} SEND_OK in {}\n", ms(began.elapsed())))
    }

    async fn as_a_batch(&self, producer: &Producer, count: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let (ids, messages): (Vec<u64>, Vec<Message>) = (0..count).map(|_| self.message()).unzip();
        let outcomes = producer.send_batch(messages).await;
        let kept = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        ids.into_iter().zip(&outcomes).for_each(|(id, outcome)| open(&self.books).answer(id, outcome));
        say(&format!("3 send batch    as one batch: {kept} of {count} SEND_OK in {}\n", ms(began.elapsed())))
    }

    /// Consumes what is there; the first message is answered *later* once, and the group's offset must wait for it.
    async fn consume_with_patience(&self, ground: &Ground, master: &Master) -> Result<u64, Failure> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let consumer = self.consumer(ground, &seen, true).await?;
        let consumed = self.wait_for_all(ground, &seen, async || {
            let late = {
                let seen = lock(&seen);
                seen.later.clone().filter(|_| seen.again.is_none())
            };
            let Some((message, _)) = late else { return Ok(()) };
            let committed = ground.cluster().committed(master, GROUP, &message.queue).await?;
            // It may have come again while the broker was asked.
            if committed > message.offset.0 && lock(&seen).again.is_none() {
                let what = format!("queue {} stands at {committed}, and {} waits", message.queue.id, message.offset);
                let why = "a consumer that ends now would lose what waits";
                let problem = Problem::new("the group's offset has passed a message", what, why, "report this");
                return Err(Failure::new(ExitCode::Failed, problem));
            }
            Ok(())
        });
        let consumed = consumed.await;
        let report = consumer.close(Duration::from_secs(5)).await;
        consumed?;
        let (deliveries, later) = {
            let seen = lock(&seen);
            let later = seen.later.as_ref().map(|(message, _)| (message.queue.id, message.offset, seen.again));
            (seen.deliveries, later)
        };
        let patience = match later {
            None => "no message came".to_owned(),
            Some((queue, offset, None)) => format!("q{queue}@{offset} was answered later and did not come again"),
            Some((queue, offset, Some(after))) => {
                let after = ms(after);
                format!("q{queue}@{offset} was answered later, came again after {after}, and the offset waited for it")
            }
        };
        let processed = report.processed;
        say(&format!("4 consume       as group {GROUP}: {processed} processed; {patience}\n"))?;
        Ok(deliveries)
    }

    async fn kill(&self, ground: &mut Ground, producer: &Producer, half: Duration) -> Result<(), Failure> {
        let load = Load::start(std::slice::from_ref(producer), &self.topic, &self.books, &self.ids, SENDERS, BYTES);
        tokio::time::sleep(half).await;
        let (before, in_flight, [_, killed]) = (load.kept(), load.in_flight(), ground.ids());
        ground.kill_broker()?;
        let ready = ground.start_broker().await?;
        let began = Instant::now();
        // It ends in any case: a broker that keeps nothing any more is for the books to judge.
        while load.kept() == before && began.elapsed() < Duration::from_secs(8) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let again = ready + began.elapsed();
        tokio::time::sleep(half).await;
        let kept = load.kept();
        load.stop().await;
        let [_, broker] = ground.ids();
        say(&format!(
            "5 kill          SIGKILL to process {killed} after {before} SEND_OK, {in_flight} sends under way;\n                \
             process {broker} answers after {}, the first SEND_OK after {}; {} more SEND_OK\n",
            ms(ready),
            ms(again),
            kept - before
        ))
    }

    async fn consume_the_rest(&self, ground: &Ground, master: &Master) -> Result<u64, Failure> {
        let committed = self.committed(ground, master).await?;
        let before: u64 = committed.values().sum();
        let seen = Arc::new(Mutex::new(Seen::default()));
        // What was processed before counts as seen: the group goes on behind it.
        for (queue, committed) in committed {
            lock(&seen).places.entry(queue).or_default().extend(0..committed);
        }
        let consumer = self.consumer(ground, &seen, false).await?;
        let consumed = self.wait_for_all(ground, &seen, async || Ok(())).await;
        let report = consumer.close(Duration::from_secs(5)).await;
        consumed?;
        let after: u64 = self.committed(ground, master).await?.into_values().sum();
        let processed = report.processed;
        say(&format!(
            "6 consume       the rest, from offsets that add up to {before}: {processed} processed; now {after}\n"
        ))?;
        Ok(lock(&seen).deliveries)
    }

    async fn committed(&self, ground: &Ground, master: &Master) -> Result<BTreeMap<MessageQueue, u64>, Failure> {
        let broker = BrokerName::new(&master.name).map_err(|error| problem::unreadable("the broker's name", &error))?;
        let queue = |id| MessageQueue { topic: self.topic.clone(), broker: broker.clone(), id };
        let queues: Vec<_> = (0..QUEUES).map(queue).collect();
        ground.cluster().committed_in_all(master, GROUP, &queues).await
    }

    async fn consumer(&self, ground: &Ground, seen: &Arc<Mutex<Seen>>, patient: bool) -> Result<PushConsumer, Failure> {
        let (books, seen) = (Arc::clone(&self.books), Arc::clone(seen));
        let listener = move |messages: Vec<Received>| {
            let verdict = listen(&books, &mut lock(&seen), &messages, patient);
            std::future::ready(verdict)
        };
        let builder = PushConsumer::builder(&ground.connect().name_servers, GROUP).subscribe(TOPIC, "*");
        let builder = builder.from(ConsumeFrom::FirstOffset).configure(|config| {
            config.commit_every = COMMIT;
            config.later = LATER;
        });
        builder.start(listener).await.map_err(|error| problem::start(&error))
    }

    /// Waits until every place up to where the queues end by now has been consumed, or nothing comes any more.
    async fn wait_for_all(
        &self,
        ground: &Ground,
        seen: &Arc<Mutex<Seen>>,
        mut meanwhile: impl AsyncFnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let puller = PullConsumer::builder(&ground.connect().name_servers).start().await;
        let puller = puller.map_err(|error| problem::start(&error))?;
        let ends = ends(&puller, &self.topic).await.map_err(|error| unread(&error))?;
        puller.close().await;
        let missing = || {
            let seen = lock(seen);
            ends.iter()
                .map(|(queue, end)| end.0 - seen.places.get(queue).map_or(0, |places| places.len() as u64))
                .sum::<u64>()
        };
        let (mut last, mut since) = (missing(), Instant::now());
        while last > 0 && since.elapsed() < STILL {
            meanwhile().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = missing();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn judge(&self, ground: &Ground, deliveries: u64, began: Instant) -> Result<(), Failure> {
        let verdict = open(&self.books).verdict()?;
        let lost = lost(&verdict);
        let consumed = verdict.kept - lost;
        let places = verdict.observed;
        let copies = verdict.duplicated;
        let kept_unknown = places - copies - consumed.min(places - copies);
        say(&format!(
            "ledger\n  attempted     {:>8}\n  acknowledged  {:>8}   SEND_OK\n  consumed      {consumed:>8}   of the acknowledged\n  \
             lost          {lost:>8}\n  refused       {:>8}   not kept, as they were told\n  unknown       {:>8}   no answer, \
             {kept_unknown} of them kept: their sender decides\n  duplicates    {copies:>8}   kept twice: sent again because the first \
             answer did not come\n  deliveries    {deliveries:>8}   to the listener; {} more than places, for what was answered later\n",
            verdict.attempted,
            verdict.kept,
            verdict.refused,
            verdict.unknown,
            deliveries.saturating_sub(places),
        ))?;
        let seconds = began.elapsed().as_secs_f64();
        if verdict.is_clean() {
            return say(&format!(
                "the books balance: everything that was acknowledged was consumed ({seconds:.1} s)\n"
            ));
        }
        let others = verdict.findings.iter().filter(|finding| !matches!(finding, Finding::Lost { .. })).count();
        let title = format!("the books do not balance: {lost} lost, {others} other findings");
        let why = "an acknowledged message must be consumed, once and unchanged";
        let remedy = format!("keep the folder, and report this; the broker was process {}", ground.ids()[1]);
        Err(Failure::new(ExitCode::Failed, Problem::new(title, verdict.to_string(), why, remedy)))
    }
}

/// What the listener does with messages. A patient one answers *later* to the first that it ever sees.
fn listen(books: &Shared, seen: &mut Seen, messages: &[Received], patient: bool) -> Verdict {
    seen.deliveries += messages.len() as u64;
    if patient && seen.later.is_none() {
        seen.later = messages.first().map(|first| (first.clone(), Instant::now()));
        return Verdict::Later;
    }
    for message in messages {
        if let Some((late, since)) = &seen.later
            && (&late.queue, late.offset) == (&message.queue, message.offset)
        {
            seen.again = seen.again.or(Some(since.elapsed()));
        }
        seen.places.entry(message.queue.clone()).or_default().insert(message.offset.0);
        open(books).observe(message);
    }
    Verdict::Success
}

/// A panic ends the process anyway.
fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}
