use super::process_queue::Limits;
use super::questions::Terms;
use super::queues::{Generation, Lent, Queues};
use super::rebalance::{Rebalance, Shared};
use super::{ConsumeFrom, MessageModel, Subscription};
use crate::RouteError;
use crate::assign::Strategy;
use crate::config::ClientConfig;
use crate::cx::Cx;
use crate::heartbeat::Heartbeats;
use crate::received::{Received, Tags};
use crate::routes::{News, Routes};
use keepmq_protocol::body::{self, ConsumerData, Heartbeat};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::message::tag_hash;
use keepmq_protocol::request::Unregister;
use keepmq_protocol::seam::{CallId, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{MessageQueue, QueueOffset, Request, Response, ResponseCode, Topic};
use keepmq_world::{Mono, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is left to listeners when the process is told to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How soon a last commit that has failed is tried again.
const COMMIT_AGAIN: Duration = Duration::from_millis(200);
/// How long brokers are given to hear that this member leaves: they find out by themselves.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What a push consumer must know. Names and defaults are RocketMQ's `DefaultMQPushConsumer`, where it has them.
#[derive(Clone, Debug)]
pub struct PushConfig {
    /// What every client must know.
    pub client: ClientConfig,
    /// The consumer group.
    pub group: String,
    /// What it wants; the same for all members of a group.
    pub subscriptions: Vec<Subscription>,
    /// Whether members share (messageModel).
    pub model: MessageModel,
    /// Where a new group begins (consumeFromWhere).
    pub from: ConsumeFrom,
    /// Who gets which queue (allocateMessageQueueStrategy).
    pub strategy: Strategy,
    /// Messages that a listener is given at once (consumeMessageBatchMaxSize: 1).
    pub batch: usize,
    /// Listeners that may run at once (consumeThreadMax: 20).
    pub listeners: usize,
    /// Messages of one pull (pullBatchSize: 32).
    pub pull_batch: u32,
    /// Messages of one queue that may be in hand (pullThresholdForQueue: 1000).
    pub queue_messages: usize,
    /// Bytes of one queue that may be in hand (pullThresholdSizeForQueue: 100 MiB).
    pub queue_bytes: usize,
    /// Between the lowest and the highest offset in hand (consumeConcurrentlyMaxSpan: 2000).
    pub queue_span: u64,
    /// How often offsets are committed (persistConsumerOffsetInterval: 5 s).
    pub commit_every: Duration,
    /// How often the members are asked for when nobody says that they changed (20 s).
    pub rebalance_every: Duration,
    /// How long a broker may hold a pull for which there is nothing (15 s).
    pub hold: Duration,
    /// How soon a listener that has said *later* is asked again; doubled each time.
    pub later: Duration,
    /// The longest such time.
    pub later_max: Duration,
}

impl PushConfig {
    /// RocketMQ's defaults; what was answered *later* comes again after 1 s, then 2, up to 60 s.
    pub fn new(client: ClientConfig, group: String, subscriptions: Vec<Subscription>) -> Self {
        Self {
            client,
            group,
            subscriptions,
            model: MessageModel::Clustering,
            from: ConsumeFrom::LastOffset,
            strategy: Strategy::Averagely,
            batch: 1,
            listeners: 20,
            pull_batch: 32,
            queue_messages: 1000,
            queue_bytes: 100 << 20,
            queue_span: 2000,
            commit_every: Duration::from_secs(5),
            rebalance_every: Duration::from_secs(20),
            hold: Duration::from_secs(15),
            later: Duration::from_secs(1),
            later_max: Duration::from_secs(60),
        }
    }
}

/// Messages in a listener's hands. Never used twice in the life of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch(pub u64);

/// What a listener says of the messages it was given. Source: RocketMQ `ConsumeConcurrentlyStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Processed: the offset may pass them (CONSUME_SUCCESS).
    Success,
    /// Not processed: give them again later, and hold the offset until then (RECONSUME_LATER). Also what a panic means.
    Later,
}

/// What a push consumer is told.
#[derive(Debug)]
pub enum PushCommand {
    /// A listener has ended.
    Consumed {
        /// With these messages.
        batch: Batch,
        /// As it says.
        verdict: Verdict,
    },
    /// Give nothing more to listeners; wait for those that run, commit, leave the group, then [`PushWork::Closed`]. A second
    /// one: at once.
    Close {
        /// From now on.
        within: Duration,
    },
}

/// What a push consumer wants done.
#[derive(Debug)]
pub enum PushWork {
    /// Give these to a listener; [`PushCommand::Consumed`] follows, exactly once. All are of one queue, in its order.
    Consume {
        /// Names the end of it.
        batch: Batch,
        /// What.
        messages: Vec<Received>,
        /// How often a listener has said *later* of them.
        failures: u32,
    },
    /// The queues that this member has now, of all its topics.
    Assigned(Vec<MessageQueue>),
    /// Something that a user must know and that this consumer goes on trying to do: no name server, no such topic, a message
    /// that cannot be read.
    Trouble(String),
    /// It has ended; nothing follows.
    Closed(ConsumerReport),
}

/// What a consumer has done in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerReport {
    /// Messages that a listener has processed.
    pub processed: u64,
    /// Times that a listener said *later*.
    pub failures: u64,
    /// Messages in hand that were given to no listener, or not processed: the group gets them again.
    pub given_up: u64,
    /// Queues whose last offset could not be committed: their messages come again.
    pub uncommitted: u64,
}

/// A member of a group: shares its queues with the others, pulls, gives messages to listeners, and commits what they have
/// processed.
pub struct PushConsumer {
    config: PushConfig,
    cx: Cx<PushWork>,
    routes: Routes,
    heartbeats: Heartbeats,
    heartbeat: Heartbeat,
    rebalance: Rebalance,
    queues: Queues,
    running: BTreeMap<Batch, (Generation, Vec<QueueOffset>)>,
    last_batch: u64,
    commit_at: Mono,
    phase: Phase,
    /// Topics without a route, of which the user has heard.
    lost: BTreeSet<Topic>,
    report: ConsumerReport,
}

enum Phase {
    Running,
    /// Nothing more is handed out; listeners that run may end.
    Draining {
        until: Mono,
    },
    Committing {
        until: Mono,
    },
    Leaving {
        until: Mono,
        calls: BTreeSet<CallId>,
    },
    Closed,
}

impl PushConsumer {
    /// A consumer that begins at once.
    pub fn new(config: PushConfig, now: Now) -> Self {
        let client = &config.client;
        let shared = config.model == MessageModel::Clustering;
        let mut cx = Cx::new(client.seed, now);
        let mut routes =
            Routes::new(client.name_servers.clone(), client.poll_name_servers, client.api_timeout, client.seed);
        for subscription in &config.subscriptions {
            routes.want(&subscription.topic, &mut cx);
        }
        let rebalance = Rebalance::new(
            &config,
            config.subscriptions.iter().map(|subscription| subscription.topic.clone()),
            now.mono,
        );
        let terms = Terms {
            group: config.group.clone(),
            from: config.from,
            commits: shared,
            pins: shared,
            subscriptions: config.subscriptions.clone(),
            version: now.wall.0,
            pull_batch: config.pull_batch,
            hold: config.hold,
            limits: Limits { messages: config.queue_messages, bytes: config.queue_bytes, span: config.queue_span },
            patience: client.api_timeout,
        };
        Self {
            heartbeats: Heartbeats::new(client.heartbeat, client.api_timeout, false),
            heartbeat: heartbeat(&config, now),
            queues: Queues::new(terms),
            running: BTreeMap::new(),
            last_batch: 0,
            commit_at: now.mono + config.commit_every,
            phase: Phase::Running,
            lost: BTreeSet::new(),
            report: ConsumerReport::default(),
            config,
            cx,
            routes,
            rebalance,
        }
    }

    fn on_answer(&mut self, call: CallId, outcome: &Outcome) {
        let now = self.cx.now.mono;
        if let Some(news) = self.routes.answered(call, outcome, &mut self.cx) {
            self.on_news(news);
        } else if let Some(news) = self.heartbeats.answered(call, outcome, now) {
            if news {
                self.rebalance.hurry(None, now);
                let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
                self.queues.poke(None, &mut lent, &mut self.cx);
            }
        } else if let Some(shared) = self.rebalance.answered(call, outcome, &mut self.routes, &mut self.cx) {
            self.share(shared);
        } else {
            let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
            let ours = self.queues.answered(call, outcome, &mut lent, &mut self.cx);
            if let Phase::Leaving { calls, .. } = &mut self.phase
                && !ours
            {
                calls.remove(&call);
            }
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Changed(topic) => {
                self.heartbeats.meet(&self.routes, self.cx.now.mono);
                self.rebalance.hurry(Some(&topic), self.cx.now.mono);
                let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
                self.queues.poke(Some(&topic), &mut lent, &mut self.cx);
                self.lost.remove(&topic);
            }
            News::Same(topic) => {
                self.lost.remove(&topic);
            }
            News::Failed(topic) => {
                let error = self.routes.error(&topic).expect("a round that has failed says why");
                if matches!(error, RouteError::Unknown { .. }) {
                    self.rebalance.absent(&topic);
                }
                let text = format!("{topic}: {error}");
                if self.lost.insert(topic) {
                    self.cx.work(PushWork::Trouble(text));
                }
            }
            News::Asking => {}
        }
    }

    fn share(&mut self, shared: Shared) {
        match shared {
            Shared::Queues(topic, queues) if matches!(self.phase, Phase::Running) => {
                let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
                let fresh = |queue: &MessageQueue| self.rebalance.is_fresh(queue);
                self.queues.assign(Some(&topic), &queues, fresh, &mut lent, &mut self.cx);
            }
            Shared::Unknown => self.heartbeats.renew(self.cx.now.mono),
            Shared::Queues(..) | Shared::Same => {}
        }
    }

    fn on_request(&mut self, from: Caller, request: &Request<'_>) {
        match request {
            Request::ConsumersChanged(changed) => {
                if *changed.group == *self.config.group {
                    self.rebalance.hurry(None, self.cx.now.mono);
                }
            }
            _ if from.oneway => {}
            other => {
                let text = format!("a consumer does not serve code {}", other.code());
                let response = Response::refuse(ResponseCode::RequestCodeNotSupported, text);
                self.cx.emit(Effect::Reply { to: from, response });
            }
        }
    }

    fn on_consumed(&mut self, batch: Batch, verdict: Verdict) {
        let (generation, offsets) = self.running.remove(&batch).expect("a listener ends once");
        match verdict {
            Verdict::Success => self.report.processed += offsets.len() as u64,
            Verdict::Later => self.report.failures += 1,
        }
        let (first, most) = (self.config.later, self.config.later_max);
        let wait = |failures: u32| first.saturating_mul(1 << (failures - 1).min(30)).min(most);
        let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
        self.queues.consumed(generation, &offsets, verdict, wait, &mut lent, &mut self.cx);
    }

    fn close(&mut self, within: Duration) {
        let now = self.cx.now.mono;
        self.queues.stop();
        self.phase = match &self.phase {
            Phase::Running => Phase::Draining { until: now + within },
            // Asked twice: at once.
            _ => Phase::Leaving { until: now, calls: BTreeSet::new() },
        };
    }

    /// What the event and the time lead to.
    fn settle(&mut self) {
        let now = self.cx.now.mono;
        self.routes.on_time(&mut self.cx);
        if !matches!(self.phase, Phase::Leaving { .. }) {
            self.heartbeats.on_time(|| self.heartbeat.clone(), &mut self.cx);
        }
        if matches!(self.phase, Phase::Running) {
            for shared in self.rebalance.on_time(&self.routes, &self.heartbeats, &mut self.cx) {
                self.share(shared);
            }
        }
        let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
        self.queues.on_time(&mut lent, &mut self.cx);
        if self.commit_at <= now {
            self.queues.commit(None, &mut lent, &mut self.cx);
            let closing = matches!(self.phase, Phase::Committing { .. });
            self.commit_at = now + if closing { COMMIT_AGAIN } else { self.config.commit_every };
        }
        if matches!(self.phase, Phase::Running) {
            self.deliver();
        }
        if let Some(queues) = self.queues.take_changed() {
            self.cx.work(PushWork::Assigned(queues));
        }
        for trouble in self.queues.take_troubles() {
            self.cx.work(PushWork::Trouble(trouble));
        }
        self.end();
    }

    fn deliver(&mut self) {
        while self.running.len() < self.config.listeners {
            let Some((generation, messages, failures)) = self.queues.take(self.config.batch) else { return };
            self.last_batch += 1;
            let batch = Batch(self.last_batch);
            self.running.insert(batch, (generation, messages.iter().map(|message| message.offset).collect()));
            self.cx.work(PushWork::Consume { batch, messages, failures });
        }
    }

    /// Goes on towards the end, as far as it is time for.
    fn end(&mut self) {
        let now = self.cx.now.mono;
        if let Phase::Draining { until } = self.phase
            && (self.running.is_empty() || until <= now)
        {
            self.phase = Phase::Committing { until: now + self.config.client.api_timeout };
            let mut lent = Lent { routes: &mut self.routes, heartbeats: Some(&self.heartbeats) };
            self.queues.commit(None, &mut lent, &mut self.cx);
            self.commit_at = now + COMMIT_AGAIN;
        }
        if let Phase::Committing { until } = self.phase
            && (until <= now || !self.queues.is_committing() && self.queues.dirty().next().is_none())
        {
            let unregister = Unregister {
                client_id: self.config.client.client_id.clone().into(),
                producer_group: None,
                consumer_group: Some(self.config.group.clone().into()),
            };
            let calls = self.heartbeats.leave(&unregister, &mut self.cx).into_iter().collect();
            self.phase = Phase::Leaving { until: now + LEAVE_WITHIN, calls };
        }
        if let Phase::Leaving { until, calls } = &self.phase
            && (*until <= now || calls.is_empty())
        {
            let (given_up, uncommitted) = self.queues.left();
            let report = ConsumerReport { given_up, uncommitted, ..self.report };
            self.phase = Phase::Closed;
            self.cx.work(PushWork::Closed(report));
            self.cx.emit(Effect::Exit(Exit::Clean));
        }
    }
}

impl Core for PushConsumer {
    type Work = PushWork;
    type Done = PushCommand;

    fn handle(&mut self, event: Event<'_, PushCommand>, now: Now) {
        self.cx.now = now;
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match event {
            Event::Answered { call, outcome } => self.on_answer(call, &outcome),
            Event::Request { from, request } => self.on_request(from, &request),
            Event::Done(PushCommand::Consumed { batch, verdict }) => self.on_consumed(batch, verdict),
            Event::Done(PushCommand::Close { within }) => self.close(within),
            Event::Stop if matches!(self.phase, Phase::Running) => self.close(STOP_WITHIN),
            Event::Stop | Event::Tick | Event::Opened { .. } | Event::Closed { .. } | Event::Space { .. } => {}
        }
        self.settle();
    }

    fn poll_effect(&mut self) -> Option<Effect<PushWork>> {
        self.cx.poll_effect()
    }

    fn deadline(&self) -> Option<Mono> {
        let (until, leaving) = match &self.phase {
            Phase::Running => (None, false),
            Phase::Draining { until } | Phase::Committing { until } => (Some(*until), false),
            Phase::Leaving { until, .. } => (Some(*until), true),
            Phase::Closed => return None,
        };
        let heartbeat = if leaving { None } else { self.heartbeats.deadline() };
        let rebalance = if until.is_none() { self.rebalance.deadline() } else { None };
        let others = [until, heartbeat, rebalance, self.routes.deadline(), self.queues.deadline()];
        others.into_iter().flatten().chain([self.commit_at]).min()
    }
}

/// What brokers are told of this member.
fn heartbeat(config: &PushConfig, now: Now) -> Heartbeat {
    let subscription = |subscription: &Subscription| {
        let tags = Tags::parse(&subscription.expression);
        body::Subscription {
            class_filter_mode: false,
            code_set: tags.names().map(tag_hash).collect(),
            expression_type: Some("TAG".to_owned()),
            sub_string: Some(subscription.expression.clone()),
            sub_version: now.wall.0,
            tags_set: tags.names().map(str::to_owned).collect(),
            topic: subscription.topic.to_string(),
        }
    };
    let from = match config.from {
        ConsumeFrom::LastOffset => "CONSUME_FROM_LAST_OFFSET",
        ConsumeFrom::FirstOffset => "CONSUME_FROM_FIRST_OFFSET",
        ConsumeFrom::Timestamp(_) => "CONSUME_FROM_TIMESTAMP",
    };
    let model = match config.model {
        MessageModel::Clustering => "CLUSTERING",
        MessageModel::Broadcasting => "BROADCASTING",
    };
    let group = ConsumerData {
        consume_from_where: Some(from.to_owned()),
        consume_type: Some("CONSUME_PASSIVELY".to_owned()),
        group_name: config.group.clone(),
        message_model: Some(model.to_owned()),
        subscription_data_set: config.subscriptions.iter().map(subscription).collect(),
        unit_mode: false,
    };
    Heartbeat { client_id: config.client.client_id.clone(), consumer_data_set: vec![group], ..Heartbeat::default() }
}

#[cfg(test)]
mod tests;
