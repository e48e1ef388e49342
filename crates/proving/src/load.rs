//! Load from several connections, pipelined, every message in the ledger.

use crate::client::{Client, batch_request, send_request, sent, unique_key};
use crate::scene::BROKER;
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_ledger::{Answer, Entry, Ledger, Verdict};
use keepmq_protocol::message::{BatchItem, push_batch_item};
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
use std::time::Duration;

/// The topic that the load goes to.
pub const TOPIC: &str = "Proving";
/// Its queues.
pub const QUEUES: u32 = 4;
/// Messages of a batch.
const BATCH: u64 = 4;
/// Least and most bytes of a body.
const BODY: (u64, u64) = (16, 2_000);

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
            let found = client.read_queue(TOPIC, i32::try_from(id)?)?;
            let observed = found.into_iter().map(|message| Entry::Observed {
                queue: queue(id),
                offset: message.offset,
                id: message.body.first_chunk().map_or(u64::MAX, |id| u64::from_be_bytes(*id)),
                checksum: crc(&message.body),
            });
            self.record(observed)?;
        }
        Ok(())
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
fn body(id: u64) -> Vec<u8> {
    let mut chance = Chance::new(id);
    let len = usize::try_from(BODY.0 + chance.below(BODY.1 - BODY.0)).expect("a body is short");
    let mut body = id.to_be_bytes().to_vec();
    while body.len() < len {
        body.extend(chance.word().to_be_bytes());
    }
    body
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
    depth: usize,
    books: Mutex<Books>,
    next_id: AtomicU64,
    kept: AtomicU64,
    in_flight: AtomicU64,
    /// Highest position that was acknowledged.
    highest: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins to send. The topic must exist.
    pub fn start(broker: SocketAddr, connections: usize, depth: usize, books: Books) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            broker,
            depth,
            books: Mutex::new(books),
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
        let senders = (0..connections).map(sender).collect();
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
        let end = std::time::Instant::now() + patience;
        while self.kept() < before + more {
            ensure!(
                std::time::Instant::now() < end,
                "only {} of {more} sends were acknowledged within {patience:?}",
                self.kept() - before
            );
            ensure!(!self.senders.iter().any(JoinHandle::is_finished), "a sender has given up; stop says why");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
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

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn send_all(&self) -> Result<()> {
        while !self.stopped() {
            match Client::connect(self.broker) {
                Ok(client) => self.send_on(client)?,
                // It is down: killed, or starting.
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Ok(())
    }

    /// Sends on one connection until it breaks or all is done; an error is one of ours, not the broker's.
    fn send_on(&self, mut client: Client) -> Result<()> {
        let mut waiting: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
        loop {
            if self.stopped() && waiting.is_empty() {
                return Ok(());
            }
            if !self.stopped() {
                self.post(&mut client, &mut waiting)?;
            }
            if client.flush().is_err() || !self.take(&mut client, &mut waiting)? {
                // Whatever was under way has an outcome that nobody will tell us.
                self.in_flight.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
                let lost = waiting.into_values().flatten();
                let unknown = lost.map(|id| Entry::Answered { id, answer: Answer::Unknown });
                return self.books().record(unknown);
            }
        }
    }

    /// Prepares as many requests as may be under way.
    fn post(&self, client: &mut Client, waiting: &mut BTreeMap<i32, Vec<u64>>) -> Result<()> {
        let topic = Topic::new(TOPIC).expect("a legal name");
        let mut posted = Vec::new();
        while waiting.len() + posted.len() < self.depth {
            let first = self.next_id.fetch_add(BATCH, Ordering::Relaxed);
            // Every sixteenth request is a batch.
            let count = if (first / BATCH).is_multiple_of(16) { BATCH } else { 1 };
            posted.push((first, count));
        }
        let mut bodies = Vec::new();
        for (first, count) in posted {
            bodies.push((first..first + count).map(|id| (id, body(id))).collect::<Vec<_>>());
        }
        let attempted = bodies.iter().flatten().map(|(id, body)| Entry::Attempted {
            id: *id,
            topic: topic.clone(),
            checksum: crc(body),
        });
        self.books().record(attempted)?;
        for messages in bodies {
            let first = messages[0].0;
            let queue = i32::try_from(first / BATCH % u64::from(QUEUES)).expect("few queues");
            let opaque = match &messages[..] {
                [(id, body)] => client.post(&send_request(TOPIC, queue, body, &unique_key(*id))),
                messages => {
                    let mut items = Vec::new();
                    for (id, body) in messages {
                        push_batch_item(&mut items, &BatchItem { flag: 0, body, properties: &unique_key(*id) });
                    }
                    client.post(&batch_request(TOPIC, queue, &items))
                }
            };
            waiting.insert(opaque, messages.into_iter().map(|(id, _)| id).collect());
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes at least one answer, and all that are there. False: the connection is gone.
    fn take(&self, client: &mut Client, waiting: &mut BTreeMap<i32, Vec<u64>>) -> Result<bool> {
        let Ok(Some(mut next)) = client.receive() else { return Ok(false) };
        let mut entries = Vec::new();
        let mut kept = 0;
        loop {
            let (opaque, response) = next;
            let ids = waiting.remove(&opaque).with_context(|| format!("an answer to {opaque}, which was not asked"))?;
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            let answers = answers(&response, ids.len())?;
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
        self.books().record(entries)?;
        self.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(true)
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
