//! Load from several connections, pipelined, every message in the ledger.

use crate::client::{ANSWER, Client, Message, batch_request, send_request, sent, unique_key};
use crate::figures::Latencies;
use crate::scene::BROKER;
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_ledger::{Answer, Entry, Ledger, Verdict};
use keepmq_protocol::message::{self, BatchItem, property, push_batch_item};
use keepmq_protocol::record::crc;
use keepmq_protocol::{BrokerName, MessageQueue, Response, ResponseCode, Topic};
use keepmq_world::Chance;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The topic that the load goes to.
pub const TOPIC: &str = "Proving";
/// Its queues.
pub const QUEUES: u32 = 4;
/// Messages of a batch.
const BATCH: u64 = 4;
/// Tags that messages carry in turn.
pub const TAGS: [&str; 3] = ["red", "green", "blue"];
/// One request of so many is oneway, where a plan has such.
const ONEWAY: u64 = 23;
/// Bytes of a body that are drawn; a longer one repeats them.
const DRAWN: usize = 4_096;

/// What the load is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// Time between two requests of a connection; zero: as soon as there is room.
    pub every: Duration,
    /// Least and most bytes of a body.
    pub bodies: (u64, u64),
    /// Some requests want no answer.
    pub oneway: bool,
    /// Longest that an answer is waited for; then the connection is given up.
    pub patience: Duration,
}

impl Plan {
    /// As much as goes, of small messages.
    pub fn full(connections: usize, depth: usize) -> Self {
        Self { connections, depth, every: Duration::ZERO, bodies: (16, 2_000), oneway: false, patience: ANSWER }
    }

    /// So many requests a second over all connections, each of which waits for its answer.
    pub fn paced(connections: usize, a_second: u32) -> Self {
        let every = Duration::from_secs(1) * u32::try_from(connections).expect("few connections") / a_second;
        Self { every, ..Self::full(connections, 1) }
    }
}

/// What has come of the load besides what the ledger knows.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// From the moment at which a request was due to its answer.
    pub latencies: Latencies,
    /// Refusals by code, with the first text.
    pub refused: BTreeMap<i32, (u64, String)>,
    /// Answers that left the outcome open.
    pub unknown: u64,
    /// Connections that broke, with the first reason.
    pub broken: u64,
    /// Why the first did.
    pub why_broken: String,
}

/// The ledger, in memory and in a file: what is about to be sent stands in the file before it is sent.
#[derive(Debug)]
pub struct Books {
    file: BufWriter<File>,
    ledger: Ledger,
}

impl Books {
    /// New ones.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file: BufWriter::new(file), ledger: Ledger::default() })
    }

    /// Writes down what has happened, or is about to.
    pub fn record(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
        for entry in entries {
            writeln!(self.file, "{entry}").context("cannot write the ledger")?;
            self.ledger.record(entry)?;
        }
        self.file.flush().context("cannot write the ledger")
    }

    /// Reads every queue of the load's topic into the ledger.
    pub fn observe(&mut self, addr: SocketAddr) -> Result<()> {
        let mut client = Client::connect(addr)?;
        for id in 0..QUEUES {
            client.read_through(TOPIC, i32::try_from(id)?, |found| self.found(id, &found))?;
        }
        Ok(())
    }

    /// Writes down what a reader has found in a queue of the load's topic.
    pub fn found(&mut self, id: u32, messages: &[Message]) -> Result<()> {
        self.record(messages.iter().map(|message| Entry::Observed {
            queue: queue(id),
            offset: message.offset,
            id: id_of(&message.body),
            checksum: crc(&message.body),
        }))
    }

    /// Where in the log each message is that was acknowledged.
    pub fn positions(&self) -> BTreeMap<u64, u64> {
        self.ledger.kept().map(|(id, _, _, position)| (id, position.0)).collect()
    }

    /// The verdict so far.
    pub fn verdict(&self) -> Verdict {
        self.ledger.verdict()
    }
}

fn queue(id: u32) -> MessageQueue {
    MessageQueue {
        topic: Topic::new(TOPIC).expect("a legal name"),
        broker: BrokerName::new(BROKER).expect("a legal name"),
        id,
    }
}

/// The body of message `id`: the id, then bytes that only it has.
fn body(id: u64, (least, most): (u64, u64)) -> Vec<u8> {
    let mut chance = Chance::new(id);
    let len = usize::try_from(least + chance.below(most - least)).expect("a body is short");
    let mut body = Vec::with_capacity(len.max(DRAWN) + 8);
    body.extend(id.to_be_bytes());
    while body.len() < len.min(DRAWN) {
        body.extend(chance.word().to_be_bytes());
    }
    while body.len() < len {
        body.extend_from_within(..(len - body.len()).min(DRAWN));
    }
    body
}

/// The tag of message `id`.
fn tag(id: u64) -> &'static str {
    TAGS[usize::try_from(id % TAGS.len() as u64).expect("few tags")]
}

/// The id that a body says it is.
pub fn id_of(body: &[u8]) -> u64 {
    body.first_chunk().map_or(u64::MAX, |id| u64::from_be_bytes(*id))
}

fn properties(id: u64) -> String {
    let mut properties = unique_key(id);
    message::push(&mut properties, property::TAGS, tag(id));
    properties
}

/// Connections that send until they are told to stop, and come back whenever the broker does.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<Result<()>>>,
    /// Also when the story that started it fails.
    stopper: StopsOnDrop,
}

#[derive(Debug)]
struct StopsOnDrop(Arc<AtomicBool>);

impl Drop for StopsOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    plan: Plan,
    books: Mutex<Books>,
    seen: Mutex<Seen>,
    next_id: AtomicU64,
    kept: AtomicU64,
    in_flight: AtomicU64,
    /// Highest position that was acknowledged.
    highest: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins to send. The topic must exist.
    pub fn start(broker: SocketAddr, plan: Plan, books: Books) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            broker,
            plan,
            books: Mutex::new(books),
            seen: Mutex::default(),
            next_id: AtomicU64::new(1),
            kept: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            stop: Arc::clone(&stop),
        });
        let sender = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.send_all())
        };
        let senders = (0..plan.connections).map(sender).collect();
        Self { shared, senders, stopper: StopsOnDrop(stop) }
    }

    /// Messages that were acknowledged so far.
    pub fn kept(&self) -> u64 {
        self.shared.kept.load(Ordering::Relaxed)
    }

    /// Requests that wait for their answer right now.
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Highest position in the log that was acknowledged.
    pub fn highest(&self) -> u64 {
        self.shared.highest.load(Ordering::Relaxed)
    }

    /// Waits until this many more were acknowledged than `before`.
    pub fn wait_for(&self, before: u64, more: u64, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while self.kept() < before + more {
            ensure!(
                Instant::now() < end,
                "only {} of {more} sends were acknowledged within {patience:?}",
                self.kept() - before
            );
            ensure!(!self.senders.iter().any(JoinHandle::is_finished), "a sender has given up; stop says why");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What was seen since this was last asked for.
    pub fn seen(&self) -> Seen {
        std::mem::take(&mut *self.shared.seen())
    }

    /// The ledger, while the load goes on.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books()
    }

    /// Sends no more, waits for the answers that are still to come, and hands the ledger over.
    pub fn stop(self) -> Result<Books> {
        let Self { shared, senders, stopper } = self;
        drop(stopper);
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender has panicked"))??;
        }
        let shared = Arc::into_inner(shared).context("a sender still holds the ledger")?;
        Ok(shared.books.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    /// A panic of another sender ends the run anyway.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn send_all(&self) -> Result<()> {
        while !self.stopped() {
            match Client::connect_within(self.broker, self.plan.patience) {
                Ok(client) => self.send_on(client)?,
                // It is down: killed, or starting.
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Ok(())
    }

    /// Sends on one connection until it breaks or all is done; an error is one of ours, not the broker's.
    fn send_on(&self, mut client: Client) -> Result<()> {
        let mut waiting = Waiting::new();
        let mut due = Instant::now();
        loop {
            if self.stopped() && waiting.is_empty() {
                return Ok(());
            }
            if !self.stopped() {
                if waiting.is_empty() {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                self.post(&mut client, &mut waiting, &mut due)?;
            }
            let gone = match client.flush() {
                Ok(()) if waiting.is_empty() => None,
                Ok(()) => self.take(&mut client, &mut waiting)?,
                Err(error) => Some(format!("{error:#}")),
            };
            if let Some(why) = gone {
                // Whatever was under way has an outcome that nobody will tell us.
                self.in_flight.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
                let mut seen = self.seen();
                if seen.broken == 0 {
                    seen.why_broken = why;
                }
                seen.broken += 1;
                drop(seen);
                let lost = waiting.into_values().flat_map(|(_, ids)| ids);
                let unknown = lost.map(|id| Entry::Answered { id, answer: Answer::Unknown });
                return self.books().record(unknown);
            }
        }
    }

    /// Prepares as many requests as may be under way, and are due.
    fn post(&self, client: &mut Client, waiting: &mut Waiting, due: &mut Instant) -> Result<()> {
        let topic = Topic::new(TOPIC).expect("a legal name");
        let Plan { depth, every, bodies, oneway, .. } = self.plan;
        let now = Instant::now();
        let mut posted = Vec::new();
        while waiting.len() + posted.len() < depth && (every.is_zero() || *due <= now) {
            let first = self.next_id.fetch_add(BATCH, Ordering::Relaxed);
            // Every sixteenth request is a batch.
            let count = if (first / BATCH).is_multiple_of(16) { BATCH } else { 1 };
            let since = if every.is_zero() { now } else { *due };
            *due += every;
            posted.push((since, (first..first + count).map(|id| (id, body(id, bodies))).collect::<Vec<_>>()));
        }
        let attempted = posted.iter().flat_map(|(_, messages)| messages).map(|(id, body)| Entry::Attempted {
            id: *id,
            topic: topic.clone(),
            checksum: crc(body),
        });
        self.books().record(attempted)?;
        for (since, messages) in posted {
            let first = messages[0].0;
            let queue = i32::try_from(first / BATCH % u64::from(QUEUES)).expect("few queues");
            let opaque = match &messages[..] {
                [(id, body)] if oneway && (first / BATCH).is_multiple_of(ONEWAY) => {
                    client.post_oneway(&send_request(TOPIC, queue, body, &properties(*id)));
                    self.books().record([Entry::Answered { id: *id, answer: Answer::Unknown }])?;
                    continue;
                }
                [(id, body)] => client.post(&send_request(TOPIC, queue, body, &properties(*id))),
                messages => {
                    let mut items = Vec::new();
                    for (id, body) in messages {
                        push_batch_item(&mut items, &BatchItem { flag: 0, body, properties: &properties(*id) });
                    }
                    client.post(&batch_request(TOPIC, queue, &items))
                }
            };
            waiting.insert(opaque, (since, messages.into_iter().map(|(id, _)| id).collect()));
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes at least one answer, and all that are there. Answers why the connection is gone, if it is.
    fn take(&self, client: &mut Client, waiting: &mut Waiting) -> Result<Option<String>> {
        let mut next = match client.receive() {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(Some("the broker closed it".to_owned())),
            Err(error) => return Ok(Some(format!("{error:#}"))),
        };
        let now = Instant::now();
        let mut entries = Vec::new();
        let mut kept = 0;
        let mut seen = Seen::default();
        loop {
            let (opaque, response) = next;
            let (since, ids) =
                waiting.remove(&opaque).with_context(|| format!("an answer to {opaque}, which was not asked"))?;
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            let answers = answers(&response, ids.len())?;
            match answers.first().context("a request has messages")? {
                Answer::Kept { .. } => seen.latencies.add(now.saturating_duration_since(since)),
                Answer::Refused { code } => {
                    let text = || (0, response.remark.as_deref().unwrap_or_default().to_owned());
                    seen.refused.entry(*code).or_insert_with(text).0 += 1;
                }
                Answer::Unknown => seen.unknown += 1,
            }
            for (id, answer) in ids.into_iter().zip(answers) {
                if let Answer::Kept { position, .. } = &answer {
                    kept += 1;
                    self.highest.fetch_max(position.0, Ordering::Relaxed);
                }
                entries.push(Entry::Answered { id, answer });
            }
            match client.received()? {
                Some(more) => next = more,
                None => break,
            }
        }
        self.seen().merge(seen);
        self.books().record(entries)?;
        self.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(None)
    }
}

/// Requests under way: since when, and their messages.
type Waiting = BTreeMap<i32, (Instant, Vec<u64>)>;

impl Seen {
    fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        for (code, (count, text)) in other.refused {
            self.refused.entry(code).or_insert((0, text)).0 += count;
        }
        self.unknown += other.unknown;
    }
}

/// What a response says of each of so many messages.
fn answers(response: &Response, messages: usize) -> Result<Vec<Answer>> {
    let unknown = [ResponseCode::FlushDiskTimeout, ResponseCode::FlushSlaveTimeout, ResponseCode::SlaveNotAvailable];
    if response.is_ok() {
        let places = sent(response)?;
        ensure!(places.len() == messages, "{messages} messages were given {} places", places.len());
        let kept = |place: &crate::client::Sent| Answer::Kept {
            queue: queue(place.queue),
            offset: place.offset,
            position: place.position,
        };
        return Ok(places.iter().map(kept).collect());
    }
    let answer = match unknown.iter().any(|code| *code as i32 == response.code) {
        true => Answer::Unknown,
        false => Answer::Refused { code: response.code },
    };
    Ok(vec![answer; messages])
}
