//! A pull consumer's machine: it reads one topic by hand, from its first messages to its last, and commits what it was given.

use super::WorldDue;
use super::consuming::committed_queue;
use super::machine::{Committed, Machine, Wants};
use super::plan::Plan;
use super::producing::client_config;
use super::truth::{Reader, Truth};
use crate::host::Left;
use crate::net::Goodbye;
use crate::stage::{Due, NodeId, SECOND};
use crate::trace::Rare;
use crate::workload::{Lent, TOPICS};
use keepmq_client_core::{PullCommand, PullConfig, PullConsumer, PullWork};
use keepmq_protocol::{MessageQueue, QueueOffset, Topic};
use std::collections::BTreeMap;
use std::time::Duration;

/// The answers are recognised by these.
const QUEUES: u64 = 1;
const POLL: u64 = 2;
const COMMIT: u64 = 3;

pub(crate) struct Pulling {
    pub(crate) machine: Machine<PullConsumer>,
    /// Among those whose progress is watched.
    watched: usize,
    /// What it has assigned itself, and how far it was given each.
    at: BTreeMap<MessageQueue, u64>,
    closing: bool,
}

impl Pulling {
    pub(crate) fn new(node: NodeId, watched: usize) -> Self {
        Self { machine: Machine::new(node), watched, at: BTreeMap::new(), closing: false }
    }

    pub(crate) fn come(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, plan: &Plan) {
        let client = client_config(lent, plan, self.machine.node, self.machine.life + 1);
        let config = PullConfig {
            hold: Duration::from_secs(2),
            pull_batch: plan.pull_batch,
            ..PullConfig::new(client, Some(plan.groups[self.watched].name.to_owned()))
        };
        let wants = self.machine.boot(lent, |_, now| PullConsumer::new(config, now));
        self.carry_out(lent, truth, wants);
        self.tell(lent, truth, PullCommand::Queues { id: QUEUES, topic: topic() });
    }

    fn tell(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, command: PullCommand) {
        let wants = self.machine.tell(lent, [command]);
        self.carry_out(lent, truth, wants);
    }

    /// It looks again which queues there are: there may be more when brokers have come.
    pub(crate) fn act(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, life: u32) {
        if self.machine.life == life && self.machine.runs() && !self.closing {
            self.tell(lent, truth, PullCommand::Queues { id: QUEUES, topic: topic() });
        }
    }

    pub(crate) fn close(&mut self, lent: &mut Lent<'_>, truth: &mut Truth) {
        if self.machine.runs() {
            self.closing = true;
            self.tell(lent, truth, PullCommand::Commit { id: COMMIT });
        }
    }

    pub(crate) fn carry_out(&mut self, lent: &mut Lent<'_>, truth: &mut Truth, wants: Wants<PullWork>) {
        let reader = Reader { who: self.machine.who(), group: self.watched };
        for Committed { peer, topic, queue, offset, if_absent } in wants.commits {
            let queue = committed_queue(lent, &peer, &topic, queue);
            truth.commits(lent.stage, reader, &queue, offset, if_absent);
        }
        for left in wants.left {
            match left {
                Left::Work(PullWork::Queues { outcome, .. }) => {
                    let (node, life) = self.machine.who();
                    lent.stage.after(3 * SECOND, Due::World(WorldDue::Act { node, life }));
                    let Ok(queues) = outcome else { continue };
                    let first = self.at.is_empty() && !queues.is_empty();
                    queues.iter().for_each(|queue| {
                        self.at.entry(queue.clone()).or_default();
                    });
                    let all = self.at.keys().cloned().collect();
                    self.tell(lent, truth, PullCommand::Assign(all));
                    if first {
                        self.poll(lent, truth);
                    }
                }
                Left::Work(PullWork::Polled { outcome, .. }) => {
                    for message in outcome.as_deref().unwrap_or_default() {
                        truth.handed(lent.stage, reader, message, false, false);
                        let QueueOffset(offset) = message.offset;
                        truth.processed(self.watched, &message.queue, offset);
                        self.at.insert(message.queue.clone(), offset + 1);
                    }
                    if lent.stage.chance.one_in(4) {
                        self.tell(lent, truth, PullCommand::Commit { id: COMMIT });
                    }
                    if !self.closing {
                        self.poll(lent, truth);
                    }
                }
                Left::Work(PullWork::Committed { outcome, .. }) if self.closing => {
                    if let Err(why) = outcome {
                        lent.stage
                            .blame("committed", format!("a pull consumer cannot commit though all is well: {why}"));
                    }
                    self.tell(lent, truth, PullCommand::Close);
                }
                Left::Exit(_) => {
                    lent.stage.happened(Rare::PulledByHand);
                    self.machine.end(lent, Goodbye::Said);
                }
                Left::Work(PullWork::Committed { .. } | PullWork::Sought { .. } | PullWork::Closed)
                | Left::Answered { .. } => {}
            }
        }
    }

    fn poll(&mut self, lent: &mut Lent<'_>, truth: &mut Truth) {
        self.tell(lent, truth, PullCommand::Poll { id: POLL, max: 10, wait: Duration::from_secs(1) });
    }
}

fn topic() -> Topic {
    Topic::new(TOPICS[0]).expect("a legal name")
}
