//! A push consumer's machine and its listeners, which take their time and sometimes say *later*.

use super::WorldDue;
use super::machine::{Committed, Machine, Wants, Who};
use super::plan::{API_TIMEOUT, ClientPlan, Fate, Plan, Way};
use super::producing::client_config;
use super::truth::{Over, Reader, Truth};
use crate::host::Left;
use crate::net::Goodbye;
use crate::stage::{Due, MICRO, MILLI, NodeId, SECOND};
use crate::trace::Rare;
use crate::workload::Lent;
use keepmq_client_core::{
    Batch, ConsumeFrom, ConsumerReport, MessageExt, MessageModel, PushCommand, PushConfig, PushConsumer, PushWork,
    Received, Subscription, Verdict,
};
use keepmq_protocol::{MessageQueue, QueueOffset, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) struct Consuming {
    pub(crate) machine: Machine<PushConsumer>,
    /// Its group in the plan, and among those whose progress is watched.
    pub(crate) group: usize,
    watched: usize,
    plan: ClientPlan,
    pub(crate) assigned: BTreeSet<MessageQueue>,
    /// Handed out since the queue was assigned last.
    handed: BTreeSet<(MessageQueue, u64)>,
    running: BTreeMap<Batch, Vec<(MessageQueue, u64)>>,
    closing: Option<Closing>,
}

struct Closing {
    must_end_by: u64,
    again: Option<u64>,
    report: Option<ConsumerReport>,
}

/// The queue that a commit is of.
pub(crate) fn committed_queue(lent: &Lent<'_>, peer: &str, topic: &str, id: u32) -> MessageQueue {
    let broker = lent.directory.node_at(peer).expect("it was dialled");
    let broker = lent.books.shelves[broker.0].name.clone();
    MessageQueue { topic: Topic::new(topic).expect("a legal name"), broker, id }
}

impl Consuming {
    pub(crate) fn new(node: NodeId, group: usize, plan: ClientPlan) -> Self {
        Self {
            machine: Machine::new(node),
            group,
            watched: group,
            plan,
            assigned: BTreeSet::new(),
            handed: BTreeSet::new(),
            running: BTreeMap::new(),
            closing: None,
        }
    }

    fn reader(&self) -> Reader {
        Reader { who: self.machine.who(), group: self.watched }
    }

    pub(crate) fn announce(&self, lent: &mut Lent<'_>) {
        let node = self.machine.node;
        lent.stage.at(self.plan.comes, Due::World(WorldDue::Come { node }));
        for (at, fate) in &self.plan.fates {
            lent.stage.at(*at, Due::World(WorldDue::Fate { node, fate: *fate }));
        }
    }

    /// Whether it takes part.
    pub(crate) fn is_here(&self) -> bool {
        self.machine.runs() && self.closing.is_none()
    }

    pub(crate) fn come(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan) {
        if self.machine.runs() {
            return;
        }
        self.closing = None;
        self.assigned.clear();
        self.handed.clear();
        self.running.clear();
        let group = &plan.groups[self.group];
        if !group.shared {
            self.watched = truth.alone(group);
        }
        let client = client_config(lent, plan, self.machine.node, self.machine.life + 1);
        let subscription = |topic: &&str| Subscription {
            topic: Topic::new(topic).expect("a legal name"),
            expression: group.tag.unwrap_or("*").to_owned(),
        };
        let config = PushConfig {
            model: if group.shared { MessageModel::Clustering } else { MessageModel::Broadcasting },
            from: if group.from_first { ConsumeFrom::FirstOffset } else { ConsumeFrom::LastOffset },
            strategy: group.strategy.clone(),
            batch: plan.batch,
            listeners: plan.listeners,
            pull_batch: plan.pull_batch,
            queue_messages: plan.queue_messages,
            commit_every: plan.commit_every,
            rebalance_every: Duration::from_secs(3),
            hold: Duration::from_secs(4),
            later: Duration::from_millis(200),
            later_max: Duration::from_secs(2),
            ..PushConfig::new(client, group.name.to_owned(), group.topics.iter().map(subscription).collect())
        };
        let wants = self.machine.boot(lent, |_, now| PushConsumer::new(config, now));
        self.carry_out(lent, truth, plan, wants);
    }

    pub(crate) fn fate(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, fate: Fate) {
        if !self.machine.runs() {
            return;
        }
        let node = self.machine.node;
        match fate {
            Fate::Still(long) => {
                if long > MILLI * plan.servers.client_timeout_ms {
                    lent.stage.happened(Rare::MemberPaused);
                }
                self.machine.stand_still(lent.stage.now + long);
            }
            Fate::Gone(Way::Closed(within), long) => self.close(lent, truth, plan, within, Some(long)),
            Fate::Gone(way, long) => {
                truth.over(self.reader(), Over::Crashed);
                let said = way == Way::Killed;
                self.machine.end(lent, if said { Goodbye::Said } else { Goodbye::Never });
                lent.stage.after(long, Due::World(WorldDue::Come { node }));
            }
        }
    }

    pub(crate) fn close(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &mut Truth,
        plan: &Plan,
        within: u64,
        again: Option<u64>,
    ) {
        if self.closing.is_some() || lent.stage.now < self.machine.still_until {
            return;
        }
        // Listeners have what they are given, commits the time of a question, the farewell a second.
        let must_end_by = lent.stage.now + MILLI * (within + 1_100) + API_TIMEOUT.as_nanos() as u64;
        self.closing = Some(Closing { must_end_by, again, report: None });
        let wants = self.machine.tell(lent, [PushCommand::Close { within: Duration::from_millis(within) }]);
        self.carry_out(lent, truth, plan, wants);
    }

    /// A listener has ended.
    pub(crate) fn listened(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, due: WorldDue) {
        let WorldDue::Listened { node, life, batch, verdict } = due else { return };
        if self.machine.who() != (node, life) || !self.machine.runs() {
            return;
        }
        if lent.stage.now < self.machine.still_until {
            return lent.stage.at(self.machine.still_until, Due::World(due));
        }
        let messages = self.running.remove(&batch).expect("a listener ends once");
        if verdict == Verdict::Success {
            for (queue, offset) in &messages {
                truth.processed(self.watched, queue, *offset);
            }
        }
        let wants = self.machine.tell(lent, [PushCommand::Consumed { batch, verdict }]);
        self.carry_out(lent, truth, plan, wants);
    }

    pub(crate) fn carry_out(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan, wants: Wants<PushWork>) {
        for Committed { peer, topic, queue, offset, if_absent } in wants.commits {
            let queue = committed_queue(lent, &peer, &topic, queue);
            lent.stage.line(format_args!("{:?} commits {offset} of {queue:?}", self.machine.node));
            truth.commits(lent.stage, self.reader(), &queue, offset, if_absent);
        }
        for left in wants.left {
            match left {
                Left::Work(PushWork::Consume { batch, messages, failures }) => {
                    self.consume(lent, truth, plan, batch, &messages, failures);
                }
                Left::Work(PushWork::Assigned(queues)) => self.assign(lent, truth, queues),
                Left::Work(PushWork::Trouble(text)) => {
                    lent.stage.line(format_args!("{:?} says: {text}", self.machine.node));
                }
                Left::Work(PushWork::Closed(report)) => {
                    lent.stage.line(format_args!("{:?} is closed: {report:?}", self.machine.node));
                    if let Some(closing) = &mut self.closing {
                        closing.report = Some(report);
                    }
                }
                Left::Exit(_) => return self.exit(lent, truth),
                Left::Answered { .. } => {}
            }
        }
    }

    fn assign(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, queues: Vec<MessageQueue>) {
        lent.stage.line(format_args!("{:?} has {queues:?}", self.machine.node));
        let queues: BTreeSet<MessageQueue> = queues.into_iter().collect();
        for gone in self.assigned.difference(&queues) {
            if self.running.values().flatten().any(|(queue, _)| queue == gone) {
                lent.stage.happened(Rare::LostWhileRunning);
            }
            self.handed.retain(|(queue, _)| queue != gone);
        }
        for moved in self.assigned.symmetric_difference(&queues) {
            truth.moved(lent.stage, self.watched, moved);
        }
        for queue in &queues {
            truth.assigned(lent.stage, self.reader(), queue);
        }
        self.assigned = queues;
    }

    fn consume(
        &mut self,
        lent: &mut Lent<'_>,
        truth: &mut Truth,
        plan: &Plan,
        batch: Batch,
        messages: &[Received],
        failures: u32,
    ) {
        let (node, life): Who = self.machine.who();
        let mut running = Vec::new();
        for message in messages {
            let MessageExt { queue, offset: QueueOffset(offset), .. } = &**message;
            lent.stage.line(format_args!("{node:?} is given {queue:?} {offset}, {failures} failures"));
            let place = (queue.clone(), *offset);
            let before = !self.handed.insert(place.clone());
            truth.handed(lent.stage, self.reader(), message, failures > 0, before);
            running.push(place);
        }
        self.running.insert(batch, running);
        let verdict =
            if failures < 4 && lent.stage.chance.one_in(plan.later_in) { Verdict::Later } else { Verdict::Success };
        if failures > 0 && verdict == Verdict::Success {
            lent.stage.happened(Rare::LaterThenSuccess);
        }
        let longest = if lent.stage.chance.one_in(40) { 3 * SECOND } else { plan.listens };
        let long = lent.stage.delay(10 * MICRO, longest);
        lent.stage.after(long, Due::World(WorldDue::Listened { node, life, batch, verdict }));
    }

    fn exit(&mut self, lent: &mut Lent<'_>, truth: &mut Truth) {
        let (node, now) = (self.machine.node, lent.stage.now);
        match self.closing.take() {
            None => lent.stage.blame("exit", format!("consumer {node:?} ends by itself")),
            Some(Closing { must_end_by, again, report }) => {
                // Whoever stands still meanwhile has it all before himself.
                if now > must_end_by.max(self.machine.still_until + 3 * SECOND) {
                    lent.stage.blame("in-time", format!("{node:?} ends {} ns late", now - must_end_by));
                }
                let committed = report.is_some_and(|report| report.uncommitted == 0);
                if !committed {
                    lent.stage.happened(Rare::ClosedUncommitted);
                }
                truth.over(self.reader(), if committed { Over::Committed } else { Over::Uncommitted });
                if let Some(long) = again {
                    lent.stage.after(long, Due::World(WorldDue::Come { node }));
                }
            }
        }
        self.machine.end(lent, Goodbye::Said);
    }
}
