//! A client's machine: a process with one core in it, most of the time.

use crate::host::{Host, Left};
use crate::net::{Goodbye, LinkId, News};
use crate::stage::{Due, NodeId};
use crate::workload::Lent;
use keepmq_protocol::Request;
use keepmq_protocol::request::UpdateOffset;
use keepmq_protocol::seam::{CallId, Core, Effect, Event};
use keepmq_world::{Mono, Now};

/// A process, named by its machine and by how often that has started one.
pub(crate) type Who = (NodeId, u32);

/// A commit that a core has sent.
pub(crate) struct Committed {
    pub(crate) peer: String,
    pub(crate) topic: String,
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    /// Only as the group's beginning, if it has none.
    pub(crate) if_absent: bool,
}

/// A core, and the commits that it sends.
pub(crate) struct Watched<C> {
    core: C,
    commits: Vec<Committed>,
}

impl<C: Core> Core for Watched<C> {
    type Work = C::Work;
    type Done = C::Done;

    fn handle(&mut self, event: Event<'_, C::Done>, now: Now) {
        self.core.handle(event, now);
    }

    fn poll_effect(&mut self) -> Option<Effect<C::Work>> {
        let effect = self.core.poll_effect();
        if let Some(Effect::Call { peer, request: Request::UpdateOffset(update), .. }) = &effect {
            let UpdateOffset { topic, queue_id, offset, .. } = update;
            let (queue, offset) = (u32::try_from(*queue_id), u64::try_from(*offset));
            let (queue, offset) = (queue.expect("a queue's number"), offset.expect("an offset"));
            let if_absent = update.if_absent == Some(true);
            self.commits.push(Committed { peer: peer.clone(), topic: topic.to_string(), queue, offset, if_absent });
        }
        effect
    }

    fn deadline(&self) -> Option<Mono> {
        self.core.deadline()
    }
}

/// What a core wants done when it has handled an event.
pub(crate) struct Wants<W> {
    pub(crate) left: Vec<Left<W>>,
    pub(crate) commits: Vec<Committed>,
}

pub(crate) struct Machine<C: Core> {
    pub(crate) node: NodeId,
    pub(crate) life: u32,
    host: Option<Host<Watched<C>>>,
    /// The process stands still until then.
    pub(crate) still_until: u64,
}

impl<C: Core> Machine<C> {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, life: 0, host: None, still_until: 0 }
    }

    pub(crate) fn runs(&self) -> bool {
        self.host.is_some()
    }

    pub(crate) fn who(&self) -> Who {
        (self.node, self.life)
    }

    /// A process starts; `core` is made for its number.
    pub(crate) fn boot(&mut self, lent: &mut Lent<'_>, core: impl FnOnce(u32, Now) -> C) -> Wants<C::Work> {
        self.life += 1;
        self.still_until = 0;
        let core = Watched { core: core(self.life, lent.stage.clocks(0)), commits: Vec::new() };
        lent.stage.line(format_args!("{:?} starts, life {}", self.node, self.life));
        lent.net.set_life(self.node, Some(self.life));
        // Clients are asked nothing that they would answer late.
        self.host = Some(Host::new(core, self.node, self.life, 0, lent.net, u64::MAX));
        self.settle(lent)
    }

    /// The process ends.
    pub(crate) fn end(&mut self, lent: &mut Lent<'_>, goodbye: Goodbye) {
        lent.stage.line(format_args!("{:?} ends, life {}: {goodbye:?}", self.node, self.life));
        self.host = None;
        lent.net.set_life(self.node, None);
        lent.net.process_ended(lent.stage, self.node, goodbye);
    }

    /// The process stands still.
    pub(crate) fn stand_still(&mut self, until: u64) {
        self.still_until = self.still_until.max(until);
    }

    pub(crate) fn arrived(&mut self, lent: &mut Lent<'_>, link: LinkId, news: News) {
        if let Some(host) = &mut self.host {
            host.arrived(lent.stage, link, news);
        }
    }

    /// The core of this life, unless it stands still: then `due` comes again when it goes on.
    fn awake(&mut self, lent: &mut Lent<'_>, life: u32, due: Due) -> Option<&mut Host<Watched<C>>> {
        if self.life == life && self.host.is_some() && lent.stage.now < self.still_until {
            lent.stage.at(self.still_until, due);
            return None;
        }
        self.host.as_mut().filter(|_| self.life == life)
    }

    pub(crate) fn turn(&mut self, lent: &mut Lent<'_>, life: u32) -> Option<Wants<C::Work>> {
        let due = Due::Turn { node: self.node, life };
        self.awake(lent, life, due)?.turn(lent.stage, lent.directory);
        Some(self.settle(lent))
    }

    pub(crate) fn tick(&mut self, lent: &mut Lent<'_>, life: u32, version: u64) -> Option<Wants<C::Work>> {
        let due = Due::Tick { node: self.node, life, version };
        self.awake(lent, life, due)?.tick(lent.stage, version).then(|| self.settle(lent))
    }

    pub(crate) fn call_late(&mut self, lent: &mut Lent<'_>, life: u32, call: CallId) -> Option<Wants<C::Work>> {
        let due = Due::CallLate { node: self.node, life, call };
        self.awake(lent, life, due)?.call_late(lent.stage, call);
        Some(self.settle(lent))
    }

    /// Its shell tells the core something, or several things in one turn.
    pub(crate) fn tell(&mut self, lent: &mut Lent<'_>, done: impl IntoIterator<Item = C::Done>) -> Wants<C::Work> {
        for done in done {
            lent.stage.line(format_args!("{:?} is told {done:?}", self.node));
            if let Some(host) = &mut self.host {
                host.event(lent.stage, Event::Done(done));
            }
        }
        self.settle(lent)
    }

    fn settle(&mut self, lent: &mut Lent<'_>) -> Wants<C::Work> {
        let Some(host) = &mut self.host else { return Wants { left: Vec::new(), commits: Vec::new() } };
        let left = host.settle(lent.stage, lent.net, lent.directory);
        Wants { left, commits: std::mem::take(&mut host.core.commits) }
    }
}
