use crate::config::{BrokerConfig, OpenBrokerError};
use crate::serve::Task;
use keepmq_protocol::seam::{Core, Effect, Event};
use keepmq_store::{Disk, JobDone, Recovered, Store};
use keepmq_world::{Mono, Now};

/// The broker.
pub struct Broker<D: Disk> {
    store: Store<D>,
}

impl<D: Disk> Broker<D> {
    /// Loads the tables and is ready to serve.
    pub fn open(
        store: Store<D>,
        recovered: Recovered,
        config: BrokerConfig,
        seed: u64,
        now: Now,
    ) -> Result<Self, OpenBrokerError> {
        let _ = (recovered, config, seed, now);
        Ok(Self { store })
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// Whether a name server has confirmed the registration (or there is none to confirm it), for `/readyz`.
    pub fn is_registered(&self) -> bool {
        todo!()
    }
}

impl<D: Disk> Core for Broker<D> {
    type Work = Task;
    type Done = JobDone;

    fn handle(&mut self, event: Event<'_, JobDone>, now: Now) {
        let _ = (event, now);
        todo!()
    }

    fn poll_effect(&mut self) -> Option<Effect<Task>> {
        todo!()
    }

    fn deadline(&self) -> Option<Mono> {
        todo!()
    }
}
