//! Load through the client, whose every answer is kept in the books, and the reading of what came of it.

use crate::books::{Books, body};
use crate::problem;
use keepmq_client::{Message, MessageQueue, Producer, PullConsumer, PullError, QueueOffset, Received, SeekTo, Topic};
use keepmq_server::{ExitCode, Failure, Problem};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// Longest that a queue's messages may take to be read when nothing new comes.
const STILL: Duration = Duration::from_secs(10);
/// Between two sends of one sender when the last was not kept.
const PAUSE: Duration = Duration::from_millis(5);

/// Milliseconds since 1970.
pub(crate) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The books, as several senders write in them.
pub(crate) type Shared = Arc<Mutex<Books>>;

/// A panic ends the process anyway.
pub(crate) fn open(books: &Shared) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Senders that go on until they are told to stop.
pub(crate) struct Load {
    state: Arc<State>,
    senders: JoinSet<()>,
}

struct State {
    stop: AtomicBool,
    kept: AtomicU64,
    in_flight: AtomicU64,
    ids: Arc<AtomicU64>,
}

impl Load {
    /// So many at a time, each with one of the producers, of so many bytes each besides the id. `ids` gives each message its own.
    pub(crate) fn start(
        producers: &[Producer],
        topic: &Topic,
        books: &Shared,
        ids: &Arc<AtomicU64>,
        senders: usize,
        bytes: (usize, usize),
    ) -> Self {
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            kept: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            ids: Arc::clone(ids),
        });
        let mut tasks = JoinSet::new();
        for producer in producers.iter().cycle().take(senders) {
            let (state, producer, topic, books) =
                (Arc::clone(&state), producer.clone(), topic.clone(), Arc::clone(books));
            tasks.spawn(async move {
                while !state.stop.load(Ordering::Relaxed) {
                    let id = state.ids.fetch_add(1, Ordering::Relaxed);
                    let body = body(id, bytes.0, bytes.1);
                    open(&books).attempt(id, &topic, &body);
                    let message = Message::new(topic.as_str(), body).expect("a legal topic and a body");
                    state.in_flight.fetch_add(1, Ordering::Relaxed);
                    let outcome = producer.send(message).await;
                    state.in_flight.fetch_sub(1, Ordering::Relaxed);
                    open(&books).answer(id, &outcome);
                    match outcome {
                        Ok(_) => drop(state.kept.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                }
            });
        }
        Self { state, senders: tasks }
    }

    /// Messages that were acknowledged so far.
    pub(crate) fn kept(&self) -> u64 {
        self.state.kept.load(Ordering::Relaxed)
    }

    /// Sends that wait for their answer right now.
    pub(crate) fn in_flight(&self) -> u64 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged.
    pub(crate) async fn wait_for(&self, more: u64, patience: Duration) -> Result<(), Failure> {
        let (goal, began) = (self.kept() + more, Instant::now());
        while self.kept() < goal {
            if began.elapsed() > patience {
                let missing = goal - self.kept();
                let what = format!("{missing} of {more} sends were not acknowledged within {patience:?}");
                let why = "a broker that keeps nothing proves nothing";
                let remedy = "look at the broker's log, and at the disk";
                return Err(Failure::new(
                    ExitCode::Failed,
                    Problem::new("the load does not get on", what, why, remedy),
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Sends no more, and waits for the answers that are still to come.
    pub(crate) async fn stop(mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        while self.senders.join_next().await.is_some() {}
    }
}

/// Where each queue of a topic ends by now.
pub(crate) async fn ends(
    puller: &PullConsumer,
    topic: &Topic,
) -> Result<BTreeMap<MessageQueue, QueueOffset>, PullError> {
    let queues = puller.queues(topic).await?;
    puller.assign(queues.clone());
    let mut ends = BTreeMap::new();
    for queue in queues {
        let end = puller.seek(&queue, SeekTo::End).await?;
        ends.insert(queue, end);
    }
    Ok(ends)
}

/// Reads a topic from its first messages up to where its queues end by now.
pub(crate) async fn read_through(
    name_servers: &str,
    topic: &Topic,
    mut found: impl FnMut(&Received),
) -> Result<u64, Failure> {
    let puller = PullConsumer::builder(name_servers).start().await.map_err(|error| problem::start(&error))?;
    let mut left = ends(&puller, topic).await.map_err(|error| unread(&error))?;
    for queue in left.keys() {
        puller.seek(queue, SeekTo::Begin).await.map_err(|error| unread(&error))?;
    }
    left.retain(|_, end| end.0 > 0);
    let (mut read, mut last) = (0, Instant::now());
    while !left.is_empty() {
        let messages = puller.poll(1_000, Duration::from_millis(200)).await.map_err(|error| unread(&error))?;
        if messages.is_empty() && last.elapsed() > STILL {
            // What cannot be read is missing, and the books say so.
            break;
        }
        for message in &messages {
            last = Instant::now();
            read += 1;
            found(message);
            if left.get(&message.queue).is_some_and(|end| message.offset.0 + 1 >= end.0) {
                left.remove(&message.queue);
            }
        }
    }
    puller.close().await;
    Ok(read)
}

/// What was to be compared cannot be read.
pub(crate) fn unread(error: &PullError) -> Failure {
    let why = "what is not read cannot be compared";
    let remedy = "look at the logs of the broker and of the name server";
    Failure::new(ExitCode::Failed, Problem::new("the messages cannot be read", error.to_string(), why, remedy))
}
