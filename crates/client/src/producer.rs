use crate::driver;
use crate::error::StartError;
use keepmq_client_core::{
    Message, Producer as Core, ProducerCommand, ProducerConfig, ProducerReport, ProducerWork, Receipt, RouteError,
    SendError, SendId, Target,
};
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::{ConsumerGroup, MessageQueue, Topic};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, TryAcquireError, oneshot};
use tokio::time::timeout;

type Outcome = Result<Receipt, SendError>;
type Queues = Result<Vec<MessageQueue>, RouteError>;

/// Bytes of bodies under way are counted in pieces of so many.
const PIECE: usize = 1024;

/// Sets a producer up.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct ProducerBuilder {
    name_servers: String,
    config: ProducerConfig,
}

impl ProducerBuilder {
    /// From the call to its end, all attempts included. Default 3 s.
    pub fn send_timeout(self, time: Duration) -> Self {
        self.configure(|config| config.send_timeout = time)
    }

    /// Attempts behind the first one that may reach a broker. Default 2.
    pub fn retries(self, retries: u32) -> Self {
        self.configure(|config| config.retries = retries)
    }

    /// Messages that may be under way; [`Producer::send`] waits for room. Default 10,000, and 64 MiB of bodies.
    pub fn in_flight(self, messages: usize) -> Self {
        self.configure(|config| config.in_flight = messages)
    }

    /// Anything else.
    pub fn configure(mut self, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts it. Nobody is asked anything before the first send.
    ///
    /// # Errors
    /// The configuration makes no sense, or the system gives no thread.
    pub async fn start(self) -> Result<Producer, StartError> {
        let Self { name_servers, mut config } = self;
        ConsumerGroup::check(&config.group)?;
        let most = Semaphore::MAX_PERMITS;
        for (what, value) in [("in_flight", config.in_flight), ("in_flight_bytes", config.in_flight_bytes)] {
            if value == 0 || value > most {
                return Err(StartError::Value {
                    what,
                    value: value.to_string(),
                    must: "more than 0, and less than 2^61",
                });
            }
        }
        config.client = driver::complete(config.client, &name_servers).await?;
        let pieces = config.in_flight_bytes.div_ceil(PIECE).min(u32::MAX as usize);
        let desk = Arc::new(Desk {
            messages: Semaphore::new(config.in_flight),
            pieces: Semaphore::new(pieces),
            pieces_max: u32::try_from(pieces).expect("it was just bounded"),
            open: Mutex::new(Open::default()),
        });
        // The core counts, too. What waits here must not be refused there: a piece may be less than full.
        config.in_flight_bytes = usize::MAX;
        let patience = config.send_timeout;
        let (hands, end) = (ProducerHands(Arc::clone(&desk)), Arc::clone(&desk));
        let core = |now| Core::new(config, now);
        let (inbox, ended) = driver::drive("keepmq-producer", core, |_| hands, move || end.close())?;
        let ended = Mutex::new(Some(ended));
        Ok(Producer { shared: Arc::new(Shared { inbox, desk, patience, last: AtomicU64::new(0), ended }) })
    }
}

/// Sends messages. Cheap to clone: all clones are one producer.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Inbox<ProducerCommand>,
    desk: Arc<Desk>,
    patience: Duration,
    last: AtomicU64,
    /// Ends with the thread; whoever closes takes it.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Who waits for what.
struct Desk {
    messages: Semaphore,
    pieces: Semaphore,
    pieces_max: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    sends: HashMap<u64, Waiting>,
    routes: Vec<(Topic, oneshot::Sender<Queues>)>,
    closing: Option<oneshot::Sender<ProducerReport>>,
    /// Somebody has closed it, or asked for it.
    closed: bool,
    /// The thread has ended.
    over: bool,
}

/// Room for a message under way. Whoever takes it out of the desk gives it back.
struct Room {
    pieces: u32,
    /// Of the time of the send, when it had to wait.
    left: Option<Duration>,
}

struct Waiting {
    pieces: u32,
    end: End,
}

enum End {
    Future(oneshot::Sender<Outcome>),
    Callback(Box<dyn FnOnce(Outcome) + Send>),
}

impl Producer {
    /// A producer of this group that finds its brokers by these name servers: `host:port`, several separated by semicolons.
    pub fn builder(name_servers: &str, group: &str) -> ProducerBuilder {
        let config = ProducerConfig::new(driver::blank(), group.to_owned());
        ProducerBuilder { name_servers: name_servers.to_owned(), config }
    }

    /// Sends, and waits for the end: `Ok` is SEND_OK.
    ///
    /// Waits for room when too much is under way; that counts to the time of the send. Dropping the future before it is done
    /// gives up the answer, not the send: it may be kept.
    ///
    /// # Errors
    /// [`SendError::Refused`]: it was not kept. [`SendError::Unknown`]: nobody can say.
    pub async fn send(&self, message: Message) -> Outcome {
        self.send_to(message, Target::Any).await
    }

    /// As [`Producer::send`], to a queue of the caller's choice.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_to(&self, message: Message, to: Target) -> Outcome {
        let room = self.room(&message).await?;
        let (end, ended) = oneshot::channel();
        self.post(message, to, room, End::Future(end));
        ended.await.unwrap_or_else(|_| Err(cut_off()))
    }

    /// Sends, and calls back with the end, on the producer's own thread: a callback must not block. Never waits: when there is
    /// no room the callback has a refusal before this returns.
    pub fn send_async(&self, message: Message, callback: impl FnOnce(Outcome) + Send + 'static) {
        match self.shared.desk.try_room(&message) {
            Ok(room) => self.post(message, Target::Any, room, End::Callback(Box::new(callback))),
            Err(TryAcquireError::Closed) => callback(Err(gone())),
            Err(TryAcquireError::NoPermits) => callback(Err(full())),
        }
    }

    /// Sends messages of one topic in as few requests as they fit in. Each has its own end, in their order; what went in one
    /// request is kept or refused as one.
    ///
    /// Waits for room as [`Producer::send`] does, until a message has waited in vain: it and all behind it that find none are
    /// refused. Dropping the future gives up the answers, and those messages that have not found room yet.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Vec<Outcome> {
        let mut ends = Vec::with_capacity(messages.len());
        let mut batch = Vec::new();
        let mut in_vain = false;
        for message in messages {
            let room = match self.shared.desk.try_room(&message) {
                Ok(room) => Ok(room),
                Err(TryAcquireError::Closed) => Err(gone()),
                Err(TryAcquireError::NoPermits) if in_vain => Err(full()),
                Err(TryAcquireError::NoPermits) => {
                    // What has gathered goes first: it is what takes the room, and nobody else would end it.
                    self.tell_batch(&mut batch);
                    self.room(&message).await
                }
            };
            ends.push(room.map(|room| {
                let (end, ended) = oneshot::channel();
                batch.push((self.enter(room, End::Future(end)), message));
                ended
            }));
            in_vain = in_vain || ends.last().is_some_and(Result::is_err);
        }
        self.tell_batch(&mut batch);
        let mut outcomes = Vec::with_capacity(ends.len());
        for end in ends {
            outcomes.push(match end {
                Ok(ended) => ended.await.unwrap_or_else(|_| Err(cut_off())),
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Sends, and never hears of it: nothing is promised, not even that it leaves this process.
    ///
    /// # Errors
    /// There is no room in the window, or the producer has ended: nothing was sent.
    pub fn send_oneway(&self, message: Message) -> Result<(), SendError> {
        match self.shared.desk.try_room(&message) {
            // The room is given back when the message has been handed on.
            Ok(_) => {
                self.tell(ProducerCommand::SendOneway { message, to: Target::Any });
                Ok(())
            }
            Err(TryAcquireError::Closed) => Err(gone()),
            Err(TryAcquireError::NoPermits) => Err(full()),
        }
    }

    /// The queues of a topic that take messages; none when the first message will create it.
    ///
    /// # Errors
    /// No name server has answered, or none knows the topic and topics are not created by sends.
    pub async fn queues(&self, topic: &Topic) -> Queues {
        let ended = {
            let mut open = self.shared.desk.open();
            let (end, ended) = oneshot::channel();
            if !open.over {
                open.routes.push((topic.clone(), end));
            }
            ended
        };
        self.tell(ProducerCommand::Route { topic: topic.clone() });
        let gone = || RouteError::Unreachable(vec![("this producer".to_owned(), "it has ended".to_owned())]);
        ended.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Takes no more, ends what is under way within this time, fails the rest explicitly, and says what was done. A second
    /// call ends at once, and has an empty report. Dropping the future gives up the report; the producer ends all the same.
    pub async fn close(&self, within: Duration) -> ProducerReport {
        let ended = {
            let mut open = self.shared.desk.open();
            let (end, ended) = oneshot::channel();
            if !std::mem::replace(&mut open.closed, true) && !open.over {
                open.closing = Some(end);
            }
            ended
        };
        self.tell(ProducerCommand::Close { within });
        let report = ended.await.unwrap_or_default();
        let thread = self.shared.ended.lock().expect("nobody panics here").take();
        if let Some(thread) = thread {
            // It says nothing: it ends.
            thread.await.unwrap_or_default();
        }
        report
    }

    /// Waits until there is room for a message, and takes it.
    async fn room(&self, message: &Message) -> Result<Room, SendError> {
        let Shared { desk, patience, .. } = &*self.shared;
        match desk.try_room(message) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(gone()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let (pieces, begin) = (desk.pieces_of(message.body().len()), Instant::now());
        let acquired = timeout(*patience, async {
            let one = desk.messages.acquire().await.ok()?;
            Some((one, desk.pieces.acquire_many(pieces).await.ok()?))
        });
        match acquired.await {
            Ok(Some((one, many))) => {
                one.forget();
                many.forget();
                Ok(Room { pieces, left: Some(patience.saturating_sub(begin.elapsed())) })
            }
            Ok(None) => Err(gone()),
            Err(_) => Err(full()),
        }
    }

    fn post(&self, message: Message, to: Target, room: Room, end: End) {
        let timeout = room.left;
        let id = self.enter(room, end);
        self.tell(ProducerCommand::Send { id, message, to, timeout });
    }

    fn tell_batch(&self, batch: &mut Vec<(SendId, Message)>) {
        if !batch.is_empty() {
            let messages = std::mem::take(batch);
            self.tell(ProducerCommand::SendBatch { messages, to: Target::Any, timeout: None });
        }
    }

    fn enter(&self, Room { pieces, .. }: Room, end: End) -> SendId {
        let id = self.shared.last.fetch_add(1, Ordering::Relaxed);
        let over = {
            let mut open = self.shared.desk.open();
            open.sends.insert(id, Waiting { pieces, end });
            open.over
        };
        if over {
            self.shared.desk.end(id, Err(gone()));
        }
        SendId(id)
    }

    fn tell(&self, command: ProducerCommand) {
        self.shared.inbox.post(Word::Done(command));
    }
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while holding the desk")
    }

    /// Takes room for a message, if there is some.
    fn try_room(&self, message: &Message) -> Result<Room, TryAcquireError> {
        let pieces = self.pieces_of(message.body().len());
        let one = self.messages.try_acquire()?;
        self.pieces.try_acquire_many(pieces)?.forget();
        one.forget();
        Ok(Room { pieces, left: None })
    }

    /// A body larger than the window goes when nothing else is under way.
    fn pieces_of(&self, bytes: usize) -> u32 {
        let pieces = bytes.div_ceil(PIECE);
        u32::try_from(pieces).unwrap_or(u32::MAX).min(self.pieces_max)
    }

    /// The thread has ended: whoever still waits is told so, and nobody waits any more.
    fn close(&self) {
        self.messages.close();
        self.pieces.close();
        let waiting: Vec<u64> = {
            let mut open = self.open();
            open.over = true;
            open.routes.clear();
            open.closing = None;
            open.sends.keys().copied().collect()
        };
        for id in waiting {
            self.end(id, Err(cut_off()));
        }
    }

    fn give_back(&self, pieces: u32) {
        self.messages.add_permits(1);
        self.pieces.add_permits(pieces as usize);
    }

    fn end(&self, id: u64, outcome: Outcome) {
        let Some(Waiting { pieces, end }) = self.open().sends.remove(&id) else { return };
        self.give_back(pieces);
        match end {
            // Whoever does not wait any more does not want to know.
            End::Future(end) => drop(end.send(outcome)),
            End::Callback(callback) => {
                if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
                    tracing::error!("a callback of a send has panicked; the producer goes on");
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let open = self.desk.open();
        if !open.closed {
            if !open.sends.is_empty() {
                tracing::warn!(sends = open.sends.len(), "a producer is dropped with sends under way: close it first");
            }
            self.inbox.post(Word::Done(ProducerCommand::Close { within: Duration::ZERO }));
        }
    }
}

/// Tells those who wait, on the producer's thread.
#[derive(Clone)]
struct ProducerHands(Arc<Desk>);

impl Hands<Core> for ProducerHands {
    fn work(&mut self, work: ProducerWork) -> Option<Word<ProducerCommand>> {
        match work {
            ProducerWork::Sent { id, outcome } => self.0.end(id.0, outcome),
            ProducerWork::Told { bytes } => self.0.give_back(self.0.pieces_of(bytes)),
            ProducerWork::Routed { topic, outcome } => {
                let mut open = self.0.open();
                let asks = open.routes.extract_if(.., |(asked, _)| *asked == topic);
                for (_, end) in asks {
                    drop(end.send(outcome.clone()));
                }
            }
            ProducerWork::Closed(report) => {
                if let Some(end) = self.0.open().closing.take() {
                    // As above: whoever does not wait any more does not want to know.
                    end.send(report).unwrap_or_default();
                }
            }
        }
        None
    }
}

/// Under way when the thread ended.
fn cut_off() -> SendError {
    let why = "the producer was ended before the send was".to_owned();
    SendError::Unknown { message_id: String::new(), code: None, broker: None, why, attempts: 0 }
}

fn gone() -> SendError {
    refused("this producer has ended: nothing was sent")
}

fn full() -> SendError {
    refused("too much is under way already: nothing was sent. Brokers are slower than this producer is asked to be")
}

fn refused(why: &str) -> SendError {
    SendError::Refused { message_id: String::new(), code: None, broker: None, why: why.to_owned(), attempts: 0 }
}
