//! Clients who do everything right: a paced load with a ledger, and readers that follow it.

use crate::client::{Client, LATE};
use crate::load::{Books, Load, Plan, QUEUES, Seen, TAGS, TOPIC, id_of};
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_protocol::ResponseCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a pull waits for messages.
const POLL: Duration = Duration::from_secs(2);
/// Pulls between two commits of a reader.
const COMMIT_EVERY: u32 = 20;

/// A load and its readers.
#[derive(Debug)]
pub struct Good {
    broker: SocketAddr,
    load: Load,
    readers: Vec<JoinHandle<Result<u64>>>,
    stop: Stop,
}

/// Ends the readers also when the story that started them fails.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Good {
    /// Creates the topic and begins: a reader for each queue, and one for each tag over all of them.
    pub fn start(broker: SocketAddr, plan: Plan, books: Books) -> Result<Self> {
        let mut client = Client::connect(broker)?;
        client.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
        let load = Load::start(broker, plan, books);
        let stop = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        for queue in 0..QUEUES {
            let stop = Arc::clone(&stop);
            readers.push(std::thread::spawn(move || follow(broker, queue, &stop)));
        }
        for tag in TAGS {
            let stop = Arc::clone(&stop);
            readers.push(std::thread::spawn(move || sift(broker, tag, &stop)));
        }
        Ok(Self { broker, load, readers, stop: Stop(stop) })
    }

    /// What was seen since this was last asked for, and since when that is.
    pub fn seen(&self) -> Seen {
        self.load.seen()
    }

    /// Messages that were acknowledged so far.
    pub fn kept(&self) -> u64 {
        self.load.kept()
    }

    /// Whether nobody has given up.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.readers.iter().any(JoinHandle::is_finished), "a reader has given up; the end says why");
        Ok(())
    }

    /// Sends no more, lets the readers come to the end, reads everything once more, and judges. Says what there was.
    pub fn stop(self) -> Result<String> {
        let Self { broker, load, readers, stop } = self;
        let mut books = load.stop()?;
        // What was sent oneway last may still be on its way: nobody is told when it has arrived.
        std::thread::sleep(Duration::from_secs(1));
        drop(stop);
        let (mut followed, mut sifted) = (0, 0);
        for (index, reader) in readers.into_iter().enumerate() {
            let read = reader.join().map_err(|_| anyhow!("a reader has panicked"))?.context("a reader")?;
            *if index < QUEUES as usize { &mut followed } else { &mut sifted } += read;
        }
        books.observe(broker).context("reading everything back")?;
        let verdict = books.verdict();
        ensure!(verdict.is_clean(), "{verdict}");
        ensure!(verdict.duplicated == 0, "nobody sends twice, and yet: {verdict}");
        ensure!(
            followed == verdict.observed && sifted == followed,
            "of {} messages that are there, the readers of all found {followed}, those of one tag each {sifted}",
            verdict.observed
        );
        Ok(verdict.to_string())
    }
}

/// Reads one queue to its end, as it grows; every offset must come, in order. Answers how many there were.
fn follow(broker: SocketAddr, queue: u32, stop: &AtomicBool) -> Result<u64> {
    let mut read = 0;
    read_on(broker, queue, "*", stop, &mut |offset, _| {
        ensure!(offset == read, "queue {queue} gives offset {offset} where {read} follows");
        read += 1;
        Ok(())
    })?;
    Ok(read)
}

/// Reads the messages with one tag, of all queues.
fn sift(broker: SocketAddr, tag: &'static str, stop: &AtomicBool) -> Result<u64> {
    let all: Vec<Result<u64>> = std::thread::scope(|scope| {
        let one = |queue| {
            scope.spawn(move || {
                let (mut read, mut last) = (0, None);
                read_on(broker, queue, tag, stop, &mut |offset, body| {
                    let id = id_of(body);
                    let carries = TAGS[usize::try_from(id % TAGS.len() as u64)?];
                    ensure!(carries == tag, "a pull for {tag} gives message {id}, which is {carries}");
                    ensure!(
                        last.is_none_or(|last| last < offset),
                        "queue {queue} gives offset {offset} after {last:?}"
                    );
                    last = Some(offset);
                    read += 1;
                    Ok(())
                })?;
                Ok(read)
            })
        };
        let threads: Vec<_> = (0..QUEUES).map(one).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a reader has panicked"))?).collect()
    });
    all.into_iter().sum()
}

/// Follows a queue with long polls until `stop` is set and nothing more comes; commits now and then.
fn read_on(
    broker: SocketAddr,
    queue: u32,
    tag: &str,
    stop: &AtomicBool,
    each: &mut impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let (group, id) = (format!("reader-{}", if tag == "*" { "all" } else { tag }), i32::try_from(queue)?);
    let mut at = 0;
    for pulls in 1u32.. {
        let began = Instant::now();
        // Read before the pull: what is acknowledged before the load ends is there for it.
        let last = stop.load(Ordering::Relaxed);
        let pulled = client.pull_with(TOPIC, id, at, tag, if last { Duration::ZERO } else { POLL })?;
        let took = began.elapsed();
        ensure!(took < POLL + 3 * LATE, "a pull of {POLL:?} was answered after {took:?}");
        for message in &pulled.messages {
            each(message.offset.0, &message.body)?;
        }
        let next = match pulled.code {
            0 | 20 => pulled.next,
            19 if last => return Ok(()),
            // Held for its time, or there was no room to hold it.
            19 => {
                std::thread::sleep(Duration::from_millis(u64::from(took < POLL / 2) * 5));
                at
            }
            code => anyhow::bail!("a pull of {tag} at {at} of queue {queue} was answered with {code}: {pulled:?}"),
        };
        ensure!(next >= at, "a pull at {at} of queue {queue} leads back to {next}");
        at = next;
        if pulls.is_multiple_of(COMMIT_EVERY) {
            client.commit(&group, TOPIC, id, at)?;
        }
    }
    Ok(())
}

/// One line on what was seen in so long; and what good clients may not see. A broker that is busy says so and has stored
/// nothing: that is counted, and no error. `late`: nobody may have waited so long.
pub fn judge(what: &str, seen: &Seen, time: Duration, late: Duration) -> Result<String> {
    let busy = seen.refused.get(&(ResponseCode::SystemBusy as i32)).map_or(0, |(count, _)| *count);
    let others: Vec<_> = seen.refused.iter().filter(|(code, _)| **code != ResponseCode::SystemBusy as i32).collect();
    let rate = seen.latencies.len() as f64 / time.as_secs_f64();
    let line = format!("{what}: {rate:.0} requests/s, {}, {busy} times busy", seen.latencies);
    ensure!(!seen.latencies.is_empty(), "{line}: nothing was acknowledged");
    ensure!(others.is_empty(), "{line}; refused: {others:?}");
    ensure!(seen.unknown == 0, "{line}; {} answers left the outcome open", seen.unknown);
    ensure!(seen.broken == 0, "{line}; {} connections broke: {}", seen.broken, seen.why_broken);
    ensure!(seen.latencies.max() < late, "{line}; nobody may wait {late:.1?}");
    Ok(line)
}
