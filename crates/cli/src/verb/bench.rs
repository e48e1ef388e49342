//! `keepmq bench`: load with latency percentiles, against any broker that speaks RocketMQ's protocol.

use crate::args::Connect;
use crate::interrupt::Interrupt;
use crate::problem;
use crate::table::say;
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use keepmq_client::{
    Admin, ConsumeFrom, Message, MessageQueue, Peer, Producer, PullConsumer, PushConsumer, SeekTo, SendError, Topic,
    TopicConfig, Verdict,
};
use keepmq_server::{ExitCode, Failure, Problem};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};

/// Where the messages go.
const TOPIC: &str = "KeepmqBench";
/// Latencies are counted up to here, with three digits.
const LATENCY_MAX_US: u64 = 120_000_000;
/// How long a consumer waits for the next message before it takes it for the last one.
const LAST: Duration = Duration::from_secs(3);

/// Load, and how long it took
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    keepmq bench send --in-flight 64 --secs 10        as fast as it goes, 64 sends under way\n  \
    keepmq bench send --rate 1000 --secs 30           1,000 a second, latency from the moment each was due\n  \
    keepmq bench consume                              reads what is there, as fast as it goes\n  \
    keepmq bench e2e --rate 1000 --json               from the send to the listener")]
pub struct Bench {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Sends, and waits for each answer
    Send(Send),
    /// Consumes what is in the topic, by a group of its own
    Consume(Consume),
    /// Sends at a rate, and consumes: the time from when a message was due to the listener that has it
    E2e(EndToEnd),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    connect: Connect,
    /// The topic; created with --queues when it does not exist
    #[arg(long, default_value = TOPIC)]
    topic: String,
    /// Queues of a topic that is created, on each broker
    #[arg(long, default_value_t = 4)]
    queues: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Send {
    #[command(flatten)]
    common: Common,
    /// Producers, each with its own connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    producers: u32,
    /// Sends that each producer has under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    size: u32,
    /// Messages a second, of all producers together, instead of as many as go
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 1)]
    warm: u64,
}

#[derive(Debug, Args)]
struct Consume {
    #[command(flatten)]
    common: Common,
    /// With a group's listeners ("push"), or by asking for messages ("pull")
    #[arg(long, default_value = "push", value_parser = ["push", "pull"])]
    by: String,
    /// Listeners that may run at once
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    listeners: u32,
    /// Messages that a listener is given at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// At most so many messages
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
}

#[derive(Debug, Args)]
struct EndToEnd {
    #[command(flatten)]
    common: Common,
    /// Messages a second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=4 << 20))]
    size: u32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 1)]
    warm: u64,
}

impl Bench {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        match &self.load {
            // What is under way is brought to its end, and the figures are those of the time that it took.
            Load::Send(send) => self::send(send, interrupt).await?,
            Load::Consume(consume) => interrupt.unless(self::consume(consume)).await?,
            Load::E2e(both) => end_to_end(both, interrupt).await?,
        }
        if interrupt.is_asked() { Err(Failure::said(ExitCode::Interrupted)) } else { Ok(()) }
    }
}

// ---- send ----------------------------------------------------------------------------------------------------------------

async fn send(send: &Send, interrupt: &Interrupt) -> Result<(), Failure> {
    let Connect { name_servers, timeout: patience } = &send.common.connect;
    create(&send.common).await?;
    let mut producers = Vec::new();
    for _ in 0..send.producers {
        let producer = Producer::builder(name_servers, "keepmq-bench").configure(|config| {
            // Bodies stay as they are: what is measured is the way, not zlib.
            config.compress_over = usize::MAX;
        });
        producers.push(producer.start().await.map_err(|error| problem::start(&error))?);
    }
    let seen = Arc::new(Seen::new());
    let began = Instant::now();
    let from = began + Duration::from_secs(send.warm);
    let until = from + Duration::from_secs(send.secs);
    let message = Message::new(&send.common.topic, vec![b'k'; send.size as usize]).map_err(|error| usage(&error))?;
    let mut tasks = Vec::new();
    let lanes = send.producers * send.in_flight;
    for (index, producer) in (0..).zip(&producers) {
        for nth in (0..send.in_flight).map(|lane| index * send.in_flight + lane) {
            let lane = Lane {
                producer: producer.clone(),
                message: message.clone(),
                seen: Arc::clone(&seen),
                interrupt: interrupt.clone(),
                from,
                until,
                // Each lane sends its share of the rate, one after the other.
                pace: send.rate.map(|rate| Pace {
                    every: Duration::from_secs_f64(f64::from(lanes) / rate as f64),
                    first: began + Duration::from_secs_f64(f64::from(nth) / rate as f64),
                }),
            };
            tasks.push(tokio::spawn(lane.run()));
        }
    }
    let bar = bar(send.warm + send.secs, &seen);
    for task in tasks {
        task.await.map_err(|error| broken(&error))?;
    }
    let measured = measured(from, until);
    bar.finish_and_clear();
    for producer in producers {
        producer.close(*patience).await;
    }
    let words = json!({
        "what": "send", "producers": send.producers, "inflight": send.in_flight, "size": send.size, "rate_asked": send.rate,
    });
    report(&seen, measured, words, send.common.json)
}

/// The seconds that were measured: fewer than asked for when the user has had enough.
fn measured(from: Instant, until: Instant) -> f64 {
    Instant::now().min(until).saturating_duration_since(from).as_secs_f64()
}

struct Pace {
    every: Duration,
    first: Instant,
}

/// One send after the other.
struct Lane {
    producer: Producer,
    message: Message,
    seen: Arc<Seen>,
    interrupt: Interrupt,
    from: Instant,
    until: Instant,
    pace: Option<Pace>,
}

impl Lane {
    async fn run(self) {
        if let Some(Pace { every, first }) = self.pace {
            return self.at_a_rate(every, first).await;
        }
        let mut lane = self;
        while lane.goes_on(Instant::now()) {
            let (end, ended) = oneshot::channel();
            lane.one_after_the_other(end);
            // A lane that the producer has dropped has ended, too.
            let Ok(back) = ended.await else { return };
            lane = back;
        }
    }

    /// Each send counts from when it was due, whether or not the one before it has ended: a broker that stands still for a
    /// second is slow for all messages of that second, and not for one.
    async fn at_a_rate(self, every: Duration, first: Instant) {
        for nth in 0.. {
            let due = first + every * nth;
            sleep_until(due.into()).await;
            if !self.goes_on(due) {
                return;
            }
            let outcome = self.producer.send(self.message.clone()).await;
            self.count(due, &outcome.map(drop));
        }
    }

    /// The end of one send starts the next, on the producer's own thread, until one fails or it is time.
    fn one_after_the_other(self, end: oneshot::Sender<Self>) {
        let began = Instant::now();
        let (producer, message) = (self.producer.clone(), self.message.clone());
        producer.send_async(message, move |outcome| {
            let failed = outcome.is_err();
            self.count(began, &outcome.map(drop));
            // One that has failed at once would begin the next within itself, and so on.
            if failed || !self.goes_on(Instant::now()) {
                // Whoever waits for it may be gone.
                return drop(end.send(self));
            }
            self.one_after_the_other(end);
        });
    }

    fn goes_on(&self, now: Instant) -> bool {
        now < self.until && !self.interrupt.is_asked()
    }

    fn count(&self, began: Instant, outcome: &Result<(), SendError>) {
        if began >= self.from {
            self.seen.ended(began, outcome);
        }
    }
}

// ---- consume -------------------------------------------------------------------------------------------------------------

async fn consume(consume: &Consume) -> Result<(), Failure> {
    let Connect { name_servers, timeout: patience } = &consume.common.connect;
    let topic = Topic::new(&consume.common.topic).map_err(|error| usage(&error))?;
    let seen = Arc::new(Seen::new());
    let (count, bytes) = match consume.by.as_str() {
        "pull" => pulled(consume, &topic, name_servers, &seen).await?,
        _ => pushed(consume, &topic, name_servers, *patience, &seen).await?,
    };
    let secs = seen.first_to_last().as_secs_f64();
    if count == 0 {
        let title = format!("there is nothing in {topic} to be consumed");
        let problem =
            Problem::new(&title, "no message came", "a rate of nothing says nothing", "send some: keepmq bench send");
        return Err(Failure::new(ExitCode::NotFound, problem));
    }
    let rate = count as f64 / secs.max(1e-9);
    let mib = bytes as f64 / secs.max(1e-9) / f64::from(1 << 20);
    if consume.common.json {
        say(&format!(
            "{}\n",
            json!({"what": "consume", "by": consume.by, "n": count, "secs": secs, "rate": rate, "mib_per_s": mib, "err": 0})
        ))
    } else {
        say(&format!("{count} messages in {secs:.2} s: {rate:.0} a second, {mib:.0} MiB/s\n"))
    }
}

/// A group that nobody else has, so that it begins at the beginning.
fn group() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("keepmq-bench-{}", now.as_millis())
}

async fn pushed(
    consume: &Consume,
    topic: &Topic,
    name_servers: &str,
    patience: Duration,
    seen: &Arc<Seen>,
) -> Result<(u64, u64), Failure> {
    let mine = Arc::clone(seen);
    let consumer = PushConsumer::builder(name_servers, &group())
        .subscribe(topic.as_str(), "*")
        .from(ConsumeFrom::FirstOffset)
        .listeners(consume.listeners as usize)
        .batch(consume.batch as usize)
        .start(move |messages| {
            mine.consumed(&messages);
            std::future::ready(Verdict::Success)
        });
    let consumer = consumer.await.map_err(|error| problem::start(&error))?;
    let bar = bar(u64::MAX, seen);
    let began = Instant::now();
    loop {
        sleep(Duration::from_millis(20)).await;
        let idle = seen.last().map_or(began.elapsed().saturating_sub(patience), |last| last.elapsed());
        if seen.count() >= consume.count || idle >= LAST {
            break;
        }
    }
    bar.finish_and_clear();
    consumer.close(patience).await;
    Ok((seen.count(), seen.bytes()))
}

async fn pulled(consume: &Consume, topic: &Topic, name_servers: &str, seen: &Arc<Seen>) -> Result<(u64, u64), Failure> {
    let puller = PullConsumer::builder(name_servers).start().await.map_err(|error| problem::start(&error))?;
    let queues: Vec<MessageQueue> = puller.queues(topic).await.map_err(|error| unreachable(&error))?;
    puller.assign(queues.clone());
    for queue in &queues {
        puller.seek(queue, SeekTo::Begin).await.map_err(|error| unreachable(&error))?;
    }
    let bar = bar(u64::MAX, seen);
    while seen.count() < consume.count {
        let messages = puller.poll(1000, LAST).await.map_err(|error| unreachable(&error))?;
        if messages.is_empty() {
            break;
        }
        seen.consumed(&messages);
    }
    bar.finish_and_clear();
    puller.close().await;
    Ok((seen.count(), seen.bytes()))
}

// ---- end to end ----------------------------------------------------------------------------------------------------------

async fn end_to_end(both: &EndToEnd, interrupt: &Interrupt) -> Result<(), Failure> {
    let Connect { name_servers, timeout: patience } = &both.common.connect;
    create(&both.common).await?;
    let seen = Arc::new(Seen::new());
    let began = Instant::now();
    let from = began + Duration::from_secs(1 + both.warm);
    let until = from + Duration::from_secs(both.secs);
    let mine = Arc::clone(&seen);
    let consumer = PushConsumer::builder(name_servers, &group())
        .subscribe(&both.common.topic, "*")
        .from(ConsumeFrom::LastOffset)
        .start(move |messages| {
            for message in &messages {
                // When it was due, in nanoseconds since this bench began; a message of another run is none of ours.
                let due = message.body.first_chunk::<16>().and_then(|chunk| {
                    let (run, due) = chunk.split_first_chunk::<8>()?;
                    let due = u64::from_be_bytes(due.try_into().ok()?);
                    (u64::from_be_bytes(*run) == mine.run).then(|| began + Duration::from_nanos(due))
                });
                if let Some(due) = due.filter(|due| *due >= from) {
                    mine.ended(due, &Ok(()));
                }
            }
            std::future::ready(Verdict::Success)
        });
    let consumer = consumer.await.map_err(|error| problem::start(&error))?;
    let assigned = timeout((*patience).max(Duration::from_secs(10)), async {
        while consumer.assigned().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    if assigned.await.is_err() {
        let problem = Problem::new(
            "the consumer has no queues",
            "its group was given none within 10 s",
            "what is sent would be consumed by nobody",
            "look whether the broker can be reached: keepmq topic describe",
        );
        return Err(Failure::new(ExitCode::Unreachable, problem));
    }
    let producer =
        Producer::builder(name_servers, "keepmq-bench").configure(|config| config.compress_over = usize::MAX);
    let producer = producer.start().await.map_err(|error| problem::start(&error))?;
    let bar = bar(1 + both.warm + both.secs, &seen);
    let every = Duration::from_secs_f64(1.0 / both.rate as f64);
    let first = Instant::now();
    let (failed, mut sent) = (Arc::new(AtomicU64::new(0)), 0u64);
    for nth in 0.. {
        let due = first + every * nth;
        sleep_until(due.into()).await;
        if due >= until || interrupt.is_asked() {
            break;
        }
        let mut body = vec![b'k'; both.size as usize];
        let nanos = u64::try_from(due.duration_since(began).as_nanos()).unwrap_or(u64::MAX);
        body[..8].copy_from_slice(&seen.run.to_be_bytes());
        body[8..16].copy_from_slice(&nanos.to_be_bytes());
        let message = Message::new(&both.common.topic, body).map_err(|error| usage(&error))?;
        let failed = Arc::clone(&failed);
        sent += u64::from(due >= from);
        producer.send_async(message, move |outcome| {
            failed.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
        });
    }
    let measured = measured(from, until);
    producer.close(*patience).await;
    let end = Instant::now() + LAST;
    while seen.count() < sent && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
    bar.finish_and_clear();
    consumer.close(*patience).await;
    // A send that failed and was not kept is not seen either.
    seen.failed(failed.load(Ordering::Relaxed).max(sent.saturating_sub(seen.count())));
    let words = json!({"what": "e2e", "rate_asked": both.rate, "size": both.size});
    report(&seen, measured, words, both.common.json)
}

// ---- what was seen -------------------------------------------------------------------------------------------------------

/// What has ended so far.
struct Seen {
    /// Tells the messages of this run from others'.
    run: u64,
    count: AtomicU64,
    bytes: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    latencies: Histogram<u64>,
    refused: u64,
    unknown: u64,
    why: Option<String>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Seen {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds that make sense");
        let inner = Inner { latencies, refused: 0, unknown: 0, why: None, first: None, last: None };
        Self {
            run: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }

    fn ended(&self, due: Instant, outcome: &Result<(), SendError>) {
        let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.inner();
        match outcome {
            Ok(()) => {
                inner.latencies.saturating_record(took.max(1));
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                match error {
                    SendError::Refused { .. } => inner.refused += 1,
                    SendError::Unknown { .. } => inner.unknown += 1,
                }
                inner.why.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn failed(&self, more: u64) {
        self.inner().unknown += more;
    }

    fn consumed(&self, messages: &[keepmq_client::Received]) {
        let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
        self.count.fetch_add(messages.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let mut inner = self.inner();
        inner.first.get_or_insert(now);
        inner.last = Some(now);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn last(&self) -> Option<Instant> {
        self.inner().last
    }

    fn first_to_last(&self) -> Duration {
        let inner = self.inner();
        inner.first.zip(inner.last).map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

fn report(seen: &Seen, secs: f64, words: serde_json::Value, as_json: bool) -> Result<(), Failure> {
    let inner = seen.inner();
    let (count, rate) = (seen.count(), seen.count() as f64 / secs.max(0.001));
    let at = |quantile| inner.latencies.value_at_quantile(quantile);
    let failed = inner.refused + inner.unknown;
    if as_json {
        let mut line = words;
        let figures = json!({
            "n": count, "secs": secs, "rate": rate, "refused": inner.refused, "unknown": inner.unknown, "err": failed,
            "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p99.9_us": at(0.999), "max_us": inner.latencies.max(),
        });
        if let (Some(line), serde_json::Value::Object(figures)) = (line.as_object_mut(), figures) {
            line.extend(figures);
        }
        say(&format!("{line}\n"))?;
    } else {
        let ms = |us: u64| format!("{:.2} ms", us as f64 / 1e3);
        say(&format!(
            "{count} messages in {secs:.2} s: {rate:.0} a second; {} refused, {} unknown\n\
             latency  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}\n",
            inner.refused,
            inner.unknown,
            ms(at(0.5)),
            ms(at(0.9)),
            ms(at(0.99)),
            ms(at(0.999)),
            ms(inner.latencies.max())
        ))?;
    }
    if failed == 0 && count > 0 {
        return Ok(());
    }
    let what = inner.why.clone().unwrap_or_else(|| "messages were not seen again".to_owned());
    let title = format!("{failed} of {} messages did not end as they should", count + failed);
    let why = "a broker that refuses is a fast broker: the figures above are not those of sends that were kept";
    Err(Failure::new(
        ExitCode::NotAllKept,
        Problem::new(&title, what, why, "ask for less, or look at the broker's log"),
    ))
}

/// Shows how far it is, on a terminal.
fn bar(secs: u64, seen: &Arc<Seen>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = if secs == u64::MAX { ProgressBar::no_length() } else { ProgressBar::new(secs * 10) };
    let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (shown, seen) = (bar.clone(), Arc::clone(seen));
    // Ends with the bar.
    tokio::spawn(async move {
        let mut before = 0;
        while !shown.is_finished() {
            sleep(Duration::from_millis(100)).await;
            let count = seen.count();
            shown.inc(1);
            shown.set_message(format!("{count} messages, {} a second", (count - before) * 10));
            before = count;
        }
    });
    bar
}

/// Creates the topic where it is not, and waits until it has a route.
async fn create(common: &Common) -> Result<(), Failure> {
    let Connect { name_servers, timeout: patience } = &common.connect;
    let topic = Topic::new(&common.topic).map_err(|error| usage(&error))?;
    let admin = Admin::connect(name_servers, *patience).await.map_err(|error| problem::start(&error))?;
    if admin.route(&topic).await.map_err(|error| unreachable(&error))?.is_some() {
        return Ok(());
    }
    let config = TopicConfig {
        topic_name: common.topic.clone(),
        read_queue_nums: common.queues,
        write_queue_nums: common.queues,
        ..TopicConfig::default()
    };
    for (_, broker) in admin.masters().await.map_err(|error| unreachable(&error))? {
        let broker: Peer = broker;
        admin.create_topic(&broker, &config).await.map_err(|error| unreachable(&error))?;
    }
    let end = Instant::now() + (*patience).max(Duration::from_secs(3));
    while admin.route(&topic).await.map_err(|error| unreachable(&error))?.is_none() {
        if Instant::now() > end {
            let problem = Problem::new(
                format!("{topic} has no route"),
                "a broker has created it, and the name servers do not know it yet",
                "nobody can send to it before",
                "try again; see whether brokers register: keepmq topic describe",
            );
            return Err(Failure::new(ExitCode::NotFound, problem));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn usage(error: &dyn std::fmt::Display) -> Failure {
    let problem = Problem::new("the message cannot be made", error.to_string(), "nothing was sent", "see --help");
    Failure::new(ExitCode::Usage, problem)
}

fn unreachable(error: &dyn std::fmt::Display) -> Failure {
    let problem = Problem::new(
        "the cluster cannot be asked",
        error.to_string(),
        "without it there is nobody to measure",
        "give the name servers with -n host:port, and see that brokers are registered there",
    );
    Failure::new(ExitCode::Unreachable, problem)
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    let problem = Problem::new("the bench has failed", error.to_string(), "its figures are not whole", "report this");
    Failure::new(ExitCode::Failed, problem)
}
