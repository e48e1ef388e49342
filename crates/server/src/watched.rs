use keepmq_protocol::seam::{Core, Effect, Event};
use keepmq_world::{Mono, Now};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// When a core was last driven, in its driver's [`Mono`] nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// When.
    pub(crate) fn last(&self) -> Mono {
        Mono(self.0.load(Ordering::Relaxed))
    }
}

/// A core whose event loop can be seen to turn, from another thread and without its lock.
pub(crate) struct Watched<C> {
    pub(crate) core: C,
    pulse: Pulse,
}

impl<C: Core> Watched<C> {
    /// Watches `core`.
    pub(crate) fn new(core: C, pulse: Pulse) -> Self {
        Self { core, pulse }
    }
}

impl<C: Core> Core for Watched<C> {
    type Work = C::Work;
    type Done = C::Done;

    fn handle(&mut self, event: Event<'_, C::Done>, now: Now) {
        self.pulse.0.store(now.mono.0, Ordering::Relaxed);
        self.core.handle(event, now);
    }

    fn poll_effect(&mut self) -> Option<Effect<C::Work>> {
        self.core.poll_effect()
    }

    fn deadline(&self) -> Option<Mono> {
        self.core.deadline()
    }
}
