use keepmq_protocol::Request;
use keepmq_protocol::seam::{CallId, Effect};
use keepmq_world::{Chance, Mono, Now};
use std::collections::VecDeque;

/// What a part is lent for the time of one call: the time, chance, and the ways to ask others. `W` is the core's own work.
pub(crate) struct Cx<W> {
    /// Time of the event being handled.
    pub(crate) now: Now,
    pub(crate) chance: Chance,
    effects: VecDeque<Effect<W>>,
    last_call: u64,
}

impl<W> Cx<W> {
    pub(crate) fn new(seed: u64, now: Now) -> Self {
        Self { now, chance: Chance::new(seed), effects: VecDeque::new(), last_call: 0 }
    }

    /// Asks another process; the answer is recognised by the id.
    pub(crate) fn call(&mut self, peer: &str, request: Request<'static>, until: Mono) -> CallId {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.effects.push_back(Effect::Call { call, peer: peer.to_owned(), request, until });
        call
    }

    /// Tells another process something, and hears nothing of it.
    pub(crate) fn tell(&mut self, peer: &str, request: Request<'static>) {
        self.effects.push_back(Effect::Tell { peer: peer.to_owned(), request });
    }

    pub(crate) fn emit(&mut self, effect: Effect<W>) {
        self.effects.push_back(effect);
    }

    pub(crate) fn work(&mut self, work: W) {
        self.emit(Effect::Work(work));
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect<W>> {
        self.effects.pop_front()
    }
}
