use crate::driver;
use crate::error::StartError;
use keepmq_client_core::assign::Strategy;
use keepmq_client_core::{
    Batch, ConsumeFrom, ConsumerReport, MessageModel, PushCommand, PushConfig, PushConsumer as Core, PushWork,
    Received, Subscription, Verdict,
};
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::{ConsumerGroup, MessageQueue, Topic};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Sets a push consumer up.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PushConsumerBuilder {
    name_servers: String,
    config: PushConfig,
    topics: Vec<(String, String)>,
}

impl PushConsumerBuilder {
    /// Consume this topic: all of it for `*`, else only what has one of the tags, which are separated by `||`. All members of
    /// a group must subscribe alike.
    pub fn subscribe(mut self, topic: &str, expression: &str) -> Self {
        self.topics.push((topic.to_owned(), expression.to_owned()));
        self
    }

    /// Where a new group begins. Default: behind the last message there is.
    pub fn from(self, from: ConsumeFrom) -> Self {
        self.configure(|config| config.from = from)
    }

    /// Whether the members of the group share its messages. Default: they do.
    pub fn model(self, model: MessageModel) -> Self {
        self.configure(|config| config.model = model)
    }

    /// Which member gets which queue; the same for all members.
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.configure(|config| config.strategy = strategy)
    }

    /// Listeners that may run at once. Default 20. With one, what a queue holds is processed in its order.
    pub fn listeners(self, listeners: usize) -> Self {
        self.configure(|config| config.listeners = listeners)
    }

    /// Messages that a listener is given at once. Default 1.
    pub fn batch(self, messages: usize) -> Self {
        self.configure(|config| config.batch = messages)
    }

    /// Anything else.
    pub fn configure(mut self, change: impl FnOnce(&mut PushConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts it: `listener` is given messages, on the runtime that this is called in, and says what became of them. A
    /// listener that panics has said [`Verdict::Later`].
    ///
    /// # Errors
    /// The configuration makes no sense, there is no runtime, or the system gives no thread. That no name server answers is no
    /// error: the consumer goes on asking, and logs it.
    pub async fn start<L, F>(self, listener: L) -> Result<PushConsumer, StartError>
    where
        L: Fn(Vec<Received>) -> F + Send + Sync + 'static,
        F: Future<Output = Verdict> + Send + 'static,
    {
        let Self { name_servers, mut config, topics } = self;
        ConsumerGroup::check(&config.group)?;
        for (topic, expression) in topics {
            config.subscriptions.push(Subscription { topic: Topic::new(&topic)?, expression });
        }
        if config.subscriptions.is_empty() {
            let value = "empty".to_owned();
            return Err(StartError::Value { what: "the subscription", value, must: "of one topic at least" });
        }
        for (what, value) in [("listeners", config.listeners), ("batch", config.batch)] {
            if value == 0 {
                return Err(StartError::Value { what, value: value.to_string(), must: "more than 0" });
            }
        }
        let runtime = Handle::try_current().map_err(|_| StartError::Runtime)?;
        config.client = driver::complete(config.client, &name_servers).await?;
        let desk = Arc::new(Desk { open: Mutex::new(Open::default()) });
        let (group, end) = (config.group.clone(), Arc::clone(&desk));
        let listener: Arc<Listener> = Arc::new(move |messages| Box::pin(listener(messages)));
        let hands = |inbox| PushHands { desk: Arc::clone(&desk), group, listener, runtime, inbox };
        let core = |now| Core::new(config, now);
        let (inbox, ended) = driver::drive("keepmq-consumer", core, hands, move || end.close())?;
        Ok(PushConsumer { inbox, desk, ended: Mutex::new(Some(ended)) })
    }
}

type Listener = dyn Fn(Vec<Received>) -> Pin<Box<dyn Future<Output = Verdict> + Send>> + Send + Sync;

/// Consumes as a member of a group: queues are shared among the members, messages are given to a listener, and the group's
/// offsets pass only what it has processed.
pub struct PushConsumer {
    inbox: Inbox<PushCommand>,
    desk: Arc<Desk>,
    /// Ends with the thread; whoever closes takes it.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

struct Desk {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    assigned: Vec<MessageQueue>,
    closed: bool,
    closing: Option<oneshot::Sender<ConsumerReport>>,
    /// The thread has ended.
    over: bool,
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while holding the desk")
    }

    /// The thread has ended: nobody waits for it any more.
    fn close(&self) {
        let mut open = self.open();
        open.over = true;
        open.closing = None;
        open.assigned.clear();
    }
}

impl PushConsumer {
    /// A member of this group that finds its brokers by these name servers: `host:port`, several separated by semicolons.
    pub fn builder(name_servers: &str, group: &str) -> PushConsumerBuilder {
        let config = PushConfig::new(driver::blank(), group.to_owned(), Vec::new());
        PushConsumerBuilder { name_servers: name_servers.to_owned(), config, topics: Vec::new() }
    }

    /// The queues that this member has now.
    pub fn assigned(&self) -> Vec<MessageQueue> {
        self.desk.open().assigned.clone()
    }

    /// Gives nothing more to listeners, waits within this time for those that run, commits, leaves the group, and says what
    /// was done. A second call ends at once, and has an empty report. Dropping the future gives up the report; the consumer
    /// ends all the same.
    pub async fn close(&self, within: Duration) -> ConsumerReport {
        let ended = {
            let mut open = self.desk.open();
            let (end, ended) = oneshot::channel();
            if !std::mem::replace(&mut open.closed, true) && !open.over {
                open.closing = Some(end);
            }
            ended
        };
        self.inbox.post(Word::Done(PushCommand::Close { within }));
        let report = ended.await.unwrap_or_default();
        let thread = self.ended.lock().expect("nobody panics here").take();
        if let Some(thread) = thread {
            // It says nothing: it ends.
            thread.await.unwrap_or_default();
        }
        report
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        if !self.desk.open().closed {
            tracing::warn!("a consumer is dropped: what its listeners do now is not committed. Close it first");
            self.inbox.post(Word::Done(PushCommand::Close { within: Duration::ZERO }));
        }
    }
}

/// Starts listeners, and tells those who wait; on the consumer's thread.
#[derive(Clone)]
struct PushHands {
    desk: Arc<Desk>,
    group: String,
    listener: Arc<Listener>,
    runtime: Handle,
    inbox: Inbox<PushCommand>,
}

impl Hands<Core> for PushHands {
    fn work(&mut self, work: PushWork) -> Option<Word<PushCommand>> {
        match work {
            PushWork::Consume { batch, messages, .. } => {
                let held = Held { inbox: self.inbox.clone(), batch, verdict: Verdict::Later };
                let listener = Arc::clone(&self.listener);
                // Nobody waits for it: what it holds tells its end, also when it panics or its runtime ends.
                self.runtime.spawn(async move {
                    let mut held = held;
                    held.verdict = listener(messages).await;
                });
            }
            PushWork::Assigned(queues) => self.desk.open().assigned = queues,
            PushWork::Trouble(what) => tracing::warn!(group = self.group, "{what}"),
            PushWork::Closed(report) => {
                let mut open = self.desk.open();
                open.assigned.clear();
                if let Some(end) = open.closing.take() {
                    // Whoever does not wait any more does not want to know.
                    end.send(report).unwrap_or_default();
                }
            }
        }
        None
    }
}

/// Messages in a listener's hands; when it lets go of them, the consumer hears what it has said.
struct Held {
    inbox: Inbox<PushCommand>,
    batch: Batch,
    verdict: Verdict,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self { inbox, batch, verdict } = self;
        if std::thread::panicking() {
            tracing::error!("a listener has panicked: its messages come again later");
        }
        inbox.post(Word::Done(PushCommand::Consumed { batch: *batch, verdict: *verdict }));
    }
}
