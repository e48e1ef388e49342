use super::process_queue::Limits;
use super::questions::{Terms, place, read_place};
use super::queues::{Lent, Marks, Queues};
use super::{ConsumeFrom, Subscription, Verdict};
use crate::RouteError;
use crate::config::ClientConfig;
use crate::cx::Cx;
use crate::received::Received;
use crate::routes::{News, Routes};
use keepmq_protocol::seam::{CallId, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{MessageQueue, QueueOffset, Response, ResponseCode, Topic};
use keepmq_world::{Mono, Now, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The group in whose name those pull that have none. Brokers know it. Source: RocketMQ `MixAll.TOOLS_CONSUMER_GROUP`.
const NOBODY: &str = "TOOLS_CONSUMER";
/// What may be in hand of one queue. Source: RocketMQ `DefaultLitePullConsumer`.
const LIMITS: Limits = Limits { messages: 1000, bytes: 100 << 20, span: 2000 };

/// What a pull consumer must know. Source of names: RocketMQ `DefaultLitePullConsumer`.
#[derive(Clone, Debug)]
pub struct PullConfig {
    /// What every client must know.
    pub client: ClientConfig,
    /// The consumer group whose offsets are read and committed; `None`: nobody's, nothing is kept.
    pub group: Option<String>,
    /// Where an assigned queue begins without an offset of the group.
    pub from: ConsumeFrom,
    /// What is wanted of the topics; the whole of a topic that is not named.
    pub subscriptions: Vec<Subscription>,
    /// Messages of one pull.
    pub pull_batch: u32,
    /// How long a broker may hold a pull for which there is nothing.
    pub hold: Duration,
}

impl PullConfig {
    /// Whole topics, from the first message on where the group has no offset; RocketMQ's batches of 32.
    pub fn new(client: ClientConfig, group: Option<String>) -> Self {
        Self {
            client,
            group,
            from: ConsumeFrom::FirstOffset,
            subscriptions: Vec::new(),
            pull_batch: 32,
            hold: Duration::from_secs(15),
        }
    }
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// This offset.
    Offset(QueueOffset),
    /// The first message that is there.
    Begin,
    /// Behind the last one that is there.
    End,
    /// The first one that was stored then or later.
    /// Brokers of RocketMQ 4.9 answer with the message that is nearest in time, which may be an earlier one.
    Timestamp(Timestamp),
}

/// What a pull consumer is told. Each that has an `id` has one answer.
#[derive(Debug)]
pub enum PullCommand {
    /// Which queues a topic has. Answer: [`PullWork::Queues`].
    Queues {
        /// Names the answer.
        id: u64,
        /// Of this topic.
        topic: Topic,
    },
    /// Read these queues, and no others, each from the group's offset on. Queues that stay keep their place.
    Assign(Vec<MessageQueue>),
    /// Go on at another place. Answer: [`PullWork::Sought`].
    Seek {
        /// Names the answer.
        id: u64,
        /// In this queue.
        queue: MessageQueue,
        /// There.
        to: SeekTo,
    },
    /// Messages, in the order of each queue; what was polled is what the next commit commits. Answer: [`PullWork::Polled`].
    Poll {
        /// Names the answer.
        id: u64,
        /// At most so many messages.
        max: usize,
        /// At most so long, when there are none.
        wait: Duration,
    },
    /// Keep for the group how far it was polled until now; what is polled later is for the next one. Answer:
    /// [`PullWork::Committed`].
    Commit {
        /// Names the answer.
        id: u64,
    },
    /// End; [`PullWork::Closed`] follows.
    Close,
}

/// What a pull consumer wants done.
#[derive(Debug)]
pub enum PullWork {
    /// The queues of a topic.
    Queues {
        /// Of which question.
        id: u64,
        /// The queues.
        outcome: Result<Vec<MessageQueue>, RouteError>,
    },
    /// A queue goes on there.
    Sought {
        /// Of which command.
        id: u64,
        /// There; or why not.
        outcome: Result<QueueOffset, String>,
    },
    /// Messages, none when the time was over.
    Polled {
        /// Of which question.
        id: u64,
        /// The messages; or what keeps all queues from being read.
        outcome: Result<Vec<Received>, String>,
    },
    /// The offsets are kept, all of them; or why not all of them.
    Committed {
        /// Of which command.
        id: u64,
        /// How it went.
        outcome: Result<(), String>,
    },
    /// It has ended; nothing follows.
    Closed,
}

/// Reads the queues that it is told to, in the order of each, and commits what was polled when it is told to. It is no member
/// of its group: it shares nothing, and nobody hears of it.
pub struct PullConsumer {
    client: ClientConfig,
    cx: Cx<PullWork>,
    routes: Routes,
    queues: Queues,
    /// Who waits for the queues of a topic.
    asked: BTreeMap<Topic, Vec<u64>>,
    seeks: BTreeMap<CallId, (u64, MessageQueue)>,
    /// By the order in which they came.
    polls: Vec<Poll>,
    /// Else there is nothing to commit.
    has_group: bool,
    commits: Commits,
    closing: bool,
    closed: bool,
}

struct Poll {
    id: u64,
    max: usize,
    until: Mono,
}

/// One round of commits at a time, so that a lower one cannot overtake a higher one.
#[derive(Default)]
struct Commits {
    /// For whom the round is.
    ids: Vec<u64>,
    calls: BTreeSet<CallId>,
    /// Who came meanwhile, and how far each queue was polled when the last of them came: what was polled since is in nobody's
    /// hands yet.
    waiting: Vec<u64>,
    upto: Marks,
}

impl PullConsumer {
    /// A consumer that has no queues yet.
    pub fn new(config: PullConfig, now: Now) -> Self {
        let client = config.client;
        let has_group = config.group.is_some();
        let terms = Terms {
            commits: has_group,
            // What is kept for the group is up to whoever commits.
            pins: false,
            group: config.group.unwrap_or_else(|| NOBODY.to_owned()),
            from: config.from,
            subscriptions: config.subscriptions,
            version: now.wall.0,
            pull_batch: config.pull_batch,
            hold: config.hold,
            limits: LIMITS,
            patience: client.api_timeout,
        };
        Self {
            cx: Cx::new(client.seed, now),
            routes: Routes::new(client.name_servers.clone(), client.poll_name_servers, client.api_timeout, client.seed),
            queues: Queues::new(terms),
            asked: BTreeMap::new(),
            seeks: BTreeMap::new(),
            polls: Vec::new(),
            has_group,
            commits: Commits::default(),
            closing: false,
            closed: false,
            client,
        }
    }

    fn on_command(&mut self, command: PullCommand) {
        let now = self.cx.now.mono;
        let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
        match command {
            PullCommand::Queues { id, topic } => match lent.routes.get(&topic, &mut self.cx) {
                Some(route) => self.cx.work(PullWork::Queues { id, outcome: Ok(route.readable.clone()) }),
                None => self.asked.entry(topic).or_default().push(id),
            },
            PullCommand::Assign(queues) => {
                let queues = queues.into_iter().collect();
                self.queues.assign(None, &queues, |_| false, &mut lent, &mut self.cx);
            }
            PullCommand::Seek { id, queue, to } => self.seek(id, queue, to),
            PullCommand::Poll { id, max, wait } => self.polls.push(Poll { id, max, until: now + wait }),
            PullCommand::Commit { id } if self.has_group => {
                self.commits.waiting.push(id);
                self.commits.upto = self.queues.marks();
            }
            PullCommand::Commit { id } => {
                let outcome = Err("this consumer reads for no group: there is nothing to commit".to_owned());
                self.cx.work(PullWork::Committed { id, outcome });
            }
            PullCommand::Close => self.closing = true,
        }
    }

    fn seek(&mut self, id: u64, queue: MessageQueue, to: SeekTo) {
        let from = match to {
            SeekTo::Offset(QueueOffset(offset)) if i64::try_from(offset).is_err() => {
                return self.sought(id, &queue, Err(format!("no queue has an offset {offset}: they stay below 2^63")));
            }
            SeekTo::Offset(offset) => return self.sought(id, &queue, Ok(offset)),
            SeekTo::Begin => ConsumeFrom::FirstOffset,
            SeekTo::End => ConsumeFrom::LastOffset,
            SeekTo::Timestamp(time) => ConsumeFrom::Timestamp(time),
        };
        let Some(master) =
            self.routes.get(&queue.topic, &mut self.cx).and_then(|route| route.master(&queue.broker).cloned())
        else {
            let why = format!(
                "nobody knows yet where {} of {} is; ask for the queues of the topic first",
                queue.broker, queue.topic
            );
            return self.sought(id, &queue, Err(why));
        };
        let call = self.cx.call(&master, place(&queue, from), self.cx.now.mono + self.client.api_timeout);
        self.seeks.insert(call, (id, queue));
    }

    fn sought(&mut self, id: u64, queue: &MessageQueue, place: Result<QueueOffset, String>) {
        let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
        let outcome = place.and_then(|offset| match self.queues.restart(queue, offset, &mut lent, &mut self.cx) {
            true => Ok(offset),
            false => Err("the queue is not assigned".to_owned()),
        });
        self.cx.work(PullWork::Sought { id, outcome });
    }

    fn on_answer(&mut self, call: CallId, outcome: &Outcome) {
        if let Some(news) = self.routes.answered(call, outcome, &mut self.cx) {
            return self.on_news(news);
        }
        if let Some((id, queue)) = self.seeks.remove(&call) {
            return self.sought(id, &queue, read_place(outcome));
        }
        let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
        self.queues.answered(call, outcome, &mut lent, &mut self.cx);
        self.commits.calls.remove(&call);
    }

    fn on_news(&mut self, news: News) {
        let (topic, changed) = match news {
            News::Changed(topic) => (topic, true),
            News::Same(topic) | News::Failed(topic) => (topic, false),
            News::Asking => return,
        };
        if changed {
            let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
            self.queues.poke(Some(&topic), &mut lent, &mut self.cx);
        }
        let outcome = match (self.routes.known(&topic), self.routes.error(&topic)) {
            (Some(route), _) => Ok(route.readable.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => return,
        };
        for id in self.asked.remove(&topic).into_iter().flatten() {
            self.cx.work(PullWork::Queues { id, outcome: outcome.clone() });
        }
    }

    fn settle(&mut self) {
        self.routes.on_time(&mut self.cx);
        let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
        self.queues.on_time(&mut lent, &mut self.cx);
        self.answer_polls();
        self.commit();
        if self.closing && self.commits.ids.is_empty() && self.seeks.is_empty() {
            self.end();
        }
    }

    fn answer_polls(&mut self) {
        let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
        let mut polls = std::mem::take(&mut self.polls);
        polls.retain(|poll| {
            let mut messages: Vec<Received> = Vec::new();
            while messages.len() < poll.max && !self.closing {
                let Some((generation, taken, _)) = self.queues.take(poll.max - messages.len()) else { break };
                let offsets: Vec<QueueOffset> = taken.iter().map(|message| message.offset).collect();
                let never = |_| Duration::ZERO;
                self.queues.consumed(generation, &offsets, Verdict::Success, never, &mut lent, &mut self.cx);
                messages.extend(taken);
            }
            let over = self.closing || poll.until <= self.cx.now.mono;
            if messages.is_empty() && poll.max > 0 && !over {
                return true;
            }
            let trouble = if self.closing { Some("the consumer was closed") } else { self.queues.trouble_of_all() };
            let trouble = trouble.filter(|_| messages.is_empty() && poll.max > 0);
            let outcome = trouble.map_or(Ok(messages), |trouble| Err(trouble.to_owned()));
            self.cx.work(PullWork::Polled { id: poll.id, outcome });
            false
        });
        self.polls = polls;
    }

    fn commit(&mut self) {
        let commits = &mut self.commits;
        if !commits.ids.is_empty() && commits.calls.is_empty() {
            // What is polled while the round is under way is for the next one; what this one should have brought is not dirty.
            let why = self.queues.commit_trouble().map(str::to_owned);
            for id in commits.ids.drain(..) {
                let outcome = why.clone().map_or(Ok(()), Err);
                self.cx.work(PullWork::Committed { id, outcome });
            }
        }
        if commits.ids.is_empty() && !commits.waiting.is_empty() {
            commits.ids = std::mem::take(&mut commits.waiting);
            let mut lent = Lent { routes: &mut self.routes, heartbeats: None };
            let upto = std::mem::take(&mut commits.upto);
            commits.calls = self.queues.commit(Some(&upto), &mut lent, &mut self.cx).into_iter().collect();
            if commits.calls.is_empty() {
                self.commit();
            }
        }
    }

    fn end(&mut self) {
        for (topic, ids) in std::mem::take(&mut self.asked) {
            let servers = Vec::new();
            let error = self.routes.error(&topic).cloned().unwrap_or(RouteError::Unreachable(servers));
            for id in ids {
                self.cx.work(PullWork::Queues { id, outcome: Err(error.clone()) });
            }
        }
        self.closed = true;
        self.cx.work(PullWork::Closed);
        self.cx.emit(Effect::Exit(Exit::Clean));
    }
}

impl Core for PullConsumer {
    type Work = PullWork;
    type Done = PullCommand;

    fn handle(&mut self, event: Event<'_, PullCommand>, now: Now) {
        self.cx.now = now;
        if self.closed {
            return;
        }
        match event {
            Event::Answered { call, outcome } => self.on_answer(call, &outcome),
            Event::Request { from, request } if !from.oneway => {
                let text = format!("a consumer does not serve code {}", request.code());
                let response = Response::refuse(ResponseCode::RequestCodeNotSupported, text);
                self.cx.emit(Effect::Reply { to: from, response });
            }
            Event::Done(command) => self.on_command(command),
            Event::Stop => self.closing = true,
            Event::Request { .. } | Event::Tick | Event::Opened { .. } | Event::Closed { .. } | Event::Space { .. } => {
            }
        }
        if self.closing {
            self.queues.stop();
        }
        self.settle();
    }

    fn poll_effect(&mut self) -> Option<Effect<PullWork>> {
        self.cx.poll_effect()
    }

    fn deadline(&self) -> Option<Mono> {
        if self.closed {
            return None;
        }
        let polls = self.polls.iter().map(|poll| poll.until);
        polls.chain(self.routes.deadline()).chain(self.queues.deadline()).min()
    }
}

#[cfg(test)]
mod tests;
