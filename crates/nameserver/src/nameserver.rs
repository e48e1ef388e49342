use keepmq_protocol::seam::{Core, Effect, Event};
use keepmq_world::{Mono, Now};
use std::convert::Infallible;
use std::time::Duration;

/// What a name server needs to know.
#[derive(Clone, Debug)]
pub struct NameServerConfig {
    /// A broker that says nothing is forgotten after so long, unless it asks for another time (RocketMQ: 120 s).
    pub broker_timeout: Duration,
    /// How often that is looked at (`scanNotActiveBrokerInterval`, 5 s).
    pub scan_every: Duration,
    /// Most brokers.
    pub max_brokers: usize,
    /// Most topics.
    pub max_topics: usize,
}

/// The name server.
pub struct NameServer {
    config: NameServerConfig,
}

impl NameServer {
    /// An empty one.
    pub fn new(config: NameServerConfig, seed: u64) -> Self {
        let _ = seed;
        Self { config }
    }
}

impl Core for NameServer {
    type Work = Infallible;
    type Done = Infallible;

    fn handle(&mut self, event: Event<'_, Infallible>, now: Now) {
        let _ = (event, now, &self.config);
        todo!()
    }

    fn poll_effect(&mut self) -> Option<Effect<Infallible>> {
        todo!()
    }

    fn deadline(&self) -> Option<Mono> {
        todo!()
    }
}
