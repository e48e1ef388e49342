//! The name server as a process.

use crate::broker::{ended, listen};
use crate::config::NameServerSettings;
use crate::failure::Failure;
use crate::hands::spawn;
use crate::health::Health;
use crate::watched::{Pulse, Watched};
use crate::{random, signals};
use keepmq_nameserver::{NameServer, NameServerConfig};
use keepmq_net::{Hands, Inbox, NetLimits, Shard, Word};
use keepmq_protocol::frame::FRAME_MAX;
use keepmq_protocol::seam::{Core, Exit};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Brokers and topics that one name server knows at most.
const MAX_BROKERS: usize = 10_000;
const MAX_TOPICS: usize = 200_000;

/// What one shard takes from its connections.
pub(crate) fn limits(idle: Duration) -> NetLimits {
    NetLimits { frame_bytes: FRAME_MAX, connections: 50_000, unsent_bytes: 16 << 20, unread_bytes: 256 << 20, idle }
}

/// A name server that serves.
pub(crate) struct RunningNameServer {
    pub(crate) inbox: Inbox<Infallible>,
    pub(crate) address: SocketAddr,
    thread: JoinHandle<io::Result<Exit>>,
}

/// Runs a name server until it is asked to stop.
pub fn run_nameserver(settings: &NameServerSettings) -> Result<(), Failure> {
    let health = Health::default();
    if let Some(address) = settings.health {
        health.serve(address)?;
    }
    let server = start(settings, &health)?;
    tracing::info!(address = %server.address, "the name server serves");
    let inbox = server.inbox.clone();
    signals::on_stop(move || inbox.post(Word::Stop))?;
    server.join()
}

pub(crate) fn start(settings: &NameServerSettings, health: &Health) -> Result<RunningNameServer, Failure> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let mut shard = Shard::new(limits(settings.idle))
        .map_err(|error| Failure::io("the event loop cannot be made", &error, "raise the limit of open files"))?;
    let address = listen(&mut shard, settings.listen, "listenPort (--listen)")?;
    let config = NameServerConfig {
        broker_timeout: settings.broker_timeout,
        scan_every: settings.scan_every,
        max_brokers: MAX_BROKERS,
        max_topics: MAX_TOPICS,
    };
    let pulse = Pulse::default();
    let core = Arc::new(Mutex::new(Watched::new(NameServer::new(config, random()), pulse.clone())));
    let inbox = shard.inbox();
    beat(inbox.clone())?;
    health.started(pulse, Vec::new);
    let thread = spawn("nameserver", move || shard.run(&core, NoHands))?;
    Ok(RunningNameServer { inbox, address, thread })
}

/// Shows that the event loop turns: a name server without brokers has nothing to do by itself.
fn beat(inbox: Inbox<Infallible>) -> Result<(), Failure> {
    spawn("pulse", move || {
        loop {
            inbox.post(Word::Space { free: u64::MAX });
            std::thread::sleep(Duration::from_secs(5));
        }
    })?;
    Ok(())
}

impl RunningNameServer {
    /// Waits for its end.
    pub(crate) fn join(self) -> Result<(), Failure> {
        ended(self.thread)
    }
}

/// A name server has no work of its own.
struct NoHands;

impl<C: Core<Work = Infallible>> Hands<C> for NoHands {
    fn work(&mut self, work: Infallible) -> Option<Word<C::Done>> {
        match work {}
    }
}
