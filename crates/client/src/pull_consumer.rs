use crate::driver;
use crate::error::StartError;
use keepmq_client_core::{
    ConsumeFrom, PullCommand, PullConfig, PullConsumer as Core, PullWork, Received, RouteError, SeekTo, Subscription,
};
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::{ConsumerGroup, MessageQueue, QueueOffset, Topic};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// Why a pull consumer could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No name server has answered, or none knows the topic.
    #[error(transparent)]
    Route(#[from] Route),
    /// What a broker, or the consumer itself, has said.
    #[error("{0}")]
    Failed(String),
    /// It has been closed.
    #[error("the consumer has ended")]
    Ended,
}

/// A [`RouteError`], as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Route(pub RouteError);

/// Sets a pull consumer up.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PullConsumerBuilder {
    name_servers: String,
    config: PullConfig,
    topics: Vec<(String, String)>,
}

impl PullConsumerBuilder {
    /// Read and commit this group's offsets. Without a group nothing is kept.
    pub fn group(self, group: &str) -> Self {
        self.configure(|config| config.group = Some(group.to_owned()))
    }

    /// Of this topic only what the expression names: tags separated by `||`.
    pub fn subscribe(mut self, topic: &str, expression: &str) -> Self {
        self.topics.push((topic.to_owned(), expression.to_owned()));
        self
    }

    /// Where a queue begins for which the group has no offset. Default: with its first message.
    pub fn from(self, from: ConsumeFrom) -> Self {
        self.configure(|config| config.from = from)
    }

    /// Anything else.
    pub fn configure(mut self, change: impl FnOnce(&mut PullConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts it, with no queue assigned.
    ///
    /// # Errors
    /// The configuration makes no sense, or the system gives no thread.
    pub async fn start(self) -> Result<PullConsumer, StartError> {
        let Self { name_servers, mut config, topics } = self;
        if let Some(group) = &config.group {
            ConsumerGroup::check(group)?;
        }
        for (topic, expression) in topics {
            config.subscriptions.push(Subscription { topic: Topic::new(&topic)?, expression });
        }
        config.client = driver::complete(config.client, &name_servers).await?;
        let desk = Arc::new(Desk { open: Mutex::new(Open::default()) });
        let (hands, end) = (PullHands(Arc::clone(&desk)), Arc::clone(&desk));
        let core = |now| Core::new(config, now);
        let (inbox, ended) = driver::drive("keepmq-puller", core, |_| hands, move || end.close())?;
        Ok(PullConsumer { inbox, desk, last: AtomicU64::new(0), ended: Some(ended) })
    }
}

/// Reads the queues that it is assigned, when it is asked. Source of the notions: RocketMQ `DefaultLitePullConsumer.assign`.
///
/// It is no member of its group: queues that are assigned by hand are shared with nobody.
pub struct PullConsumer {
    inbox: Inbox<PullCommand>,
    desk: Arc<Desk>,
    last: AtomicU64,
    /// Ends with the thread; whoever closes takes it.
    ended: Option<oneshot::Receiver<()>>,
}

/// Who waits for which answer.
struct Desk {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    asks: HashMap<u64, Ask>,
    over: bool,
}

enum Ask {
    Queues(oneshot::Sender<Result<Vec<MessageQueue>, RouteError>>),
    Seek(oneshot::Sender<Result<QueueOffset, String>>),
    Poll(oneshot::Sender<Result<Vec<Received>, String>>),
    Commit(oneshot::Sender<Result<(), String>>),
}

impl PullConsumer {
    /// One that finds its brokers by these name servers: `host:port`, several separated by semicolons.
    pub fn builder(name_servers: &str) -> PullConsumerBuilder {
        let config = PullConfig::new(driver::blank(), None);
        PullConsumerBuilder { name_servers: name_servers.to_owned(), config, topics: Vec::new() }
    }

    /// The queues of a topic.
    ///
    /// # Errors
    /// No name server has answered, or none knows the topic.
    pub async fn queues(&self, topic: &Topic) -> Result<Vec<MessageQueue>, PullError> {
        let topic = topic.clone();
        let answer = self.ask(Ask::Queues, |id| PullCommand::Queues { id, topic }).await?;
        answer.map_err(|error| Route(error).into())
    }

    /// Reads these queues from now on, and no others. Those that stay keep their place.
    pub fn assign(&self, queues: Vec<MessageQueue>) {
        self.inbox.post(Word::Done(PullCommand::Assign(queues)));
    }

    /// Goes on at another place of an assigned queue; the answer is where that is.
    ///
    /// # Errors
    /// The queue is not assigned. A broker that does not answer is asked again until it does.
    pub async fn seek(&self, queue: &MessageQueue, to: SeekTo) -> Result<QueueOffset, PullError> {
        let queue = queue.clone();
        self.ask(Ask::Seek, |id| PullCommand::Seek { id, queue, to }).await?.map_err(PullError::Failed)
    }

    /// Messages, at most so many, each queue's in its order; none when none came in this time. A future that is dropped may
    /// take messages with it: they count as polled.
    ///
    /// # Errors
    /// No assigned queue can be read at all.
    pub async fn poll(&self, max: usize, wait: Duration) -> Result<Vec<Received>, PullError> {
        self.ask(Ask::Poll, |id| PullCommand::Poll { id, max, wait }).await?.map_err(PullError::Failed)
    }

    /// Keeps for the group how far it was polled; `Ok` when the brokers have confirmed it for all queues.
    ///
    /// # Errors
    /// There is no group, or a broker has not confirmed it: some queues may be committed, others not.
    pub async fn commit(&self) -> Result<(), PullError> {
        self.ask(Ask::Commit, |id| PullCommand::Commit { id }).await?.map_err(PullError::Failed)
    }

    /// Ends it. Nothing is committed.
    pub async fn close(mut self) {
        self.inbox.post(Word::Done(PullCommand::Close));
        if let Some(ended) = self.ended.take() {
            // It says nothing: it ends.
            ended.await.unwrap_or_default();
        }
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
        command: impl FnOnce(u64) -> PullCommand,
    ) -> Result<T, PullError> {
        let (end, ended) = oneshot::channel();
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = self.desk.open();
            if open.over {
                return Err(PullError::Ended);
            }
            open.asks.insert(id, ask(end));
        }
        self.inbox.post(Word::Done(command(id)));
        ended.await.map_err(|_| PullError::Ended)
    }
}

impl Drop for PullConsumer {
    fn drop(&mut self) {
        // Nothing is lost with it: what was not committed comes again.
        if self.ended.is_some() {
            self.inbox.post(Word::Done(PullCommand::Close));
        }
    }
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while holding the desk")
    }

    fn close(&self) {
        let mut open = self.open();
        open.over = true;
        open.asks.clear();
    }
}

/// Tells those who wait, on the consumer's thread.
#[derive(Clone)]
struct PullHands(Arc<Desk>);

impl Hands<Core> for PullHands {
    fn work(&mut self, work: PullWork) -> Option<Word<PullCommand>> {
        let (PullWork::Queues { id, .. }
        | PullWork::Sought { id, .. }
        | PullWork::Polled { id, .. }
        | PullWork::Committed { id, .. }) = &work
        else {
            return None;
        };
        let ask = self.0.open().asks.remove(id);
        // Whoever does not wait any more does not want to know.
        match (ask, work) {
            (Some(Ask::Queues(end)), PullWork::Queues { outcome, .. }) => drop(end.send(outcome)),
            (Some(Ask::Seek(end)), PullWork::Sought { outcome, .. }) => drop(end.send(outcome)),
            (Some(Ask::Poll(end)), PullWork::Polled { outcome, .. }) => drop(end.send(outcome)),
            (Some(Ask::Commit(end)), PullWork::Committed { outcome, .. }) => drop(end.send(outcome)),
            (ask, work) => unreachable!("{work:?} answers what was not asked: {}", ask.is_some()),
        }
        None
    }
}
