//! A name server as a process, or as a part of one.

use crate::broker::{port_refused, thread_refused};
use crate::config::NameServerSetup;
use crate::failure::{ExitCode, Failure, Problem};
use crate::stop::Stop;
use keepmq_nameserver::NameServer;
use keepmq_net::{Hands, Inbox, Shards, Word};
use keepmq_protocol::seam::Exit;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// Runs a name server until a signal ends it.
pub fn run(setup: NameServerSetup) -> Result<(), Failure> {
    for line in setup.settings.without_effect() {
        tracing::info!("{line}");
    }
    for warning in setup.settings.warnings() {
        tracing::warn!("{warning}");
    }
    let opened = Opened::start(setup)?;
    let inbox = opened.inbox();
    let stop = Stop::on_signal(move || inbox.post(Word::Stop)).map_err(|error| thread_refused(&error))?;
    tracing::info!("ready: name server on {}", opened.listening);
    let outcome = opened.run();
    stop.join();
    outcome
}

/// A name server that listens; nothing is answered yet.
pub(crate) struct Opened {
    core: Arc<Mutex<NameServer>>,
    shards: Shards<Infallible>,
    pub(crate) listening: SocketAddr,
}

impl Opened {
    /// Opens the port.
    pub(crate) fn start(setup: NameServerSetup) -> Result<Self, Failure> {
        let NameServerSetup { config, listen, limits, seed, .. } = setup;
        // One is enough: routes are asked for every half minute.
        let mut shards = Shards::new(1, limits).map_err(|error| thread_refused(&error))?;
        let listening = shards.listen(listen).map_err(|error| {
            port_refused(
                listen,
                "listenPort",
                "set listenPort (or --listen, --port-base), or stop what uses it",
                &error,
            )
        })?;
        Ok(Self { core: Arc::new(Mutex::new(NameServer::new(config, seed))), shards, listening })
    }

    pub(crate) fn inbox(&self) -> Inbox<Infallible> {
        self.shards.inbox()
    }

    /// Serves until the core is done.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.shards.run(&self.core, NoHands) {
            Ok(Exit::Clean) => {
                tracing::info!("the name server has stopped");
                Ok(())
            }
            Ok(Exit::Disk(what)) => unreachable!("a name server has no disk: {what}"),
            Err(error) => {
                let title = "the event loop has failed, and the name server has stopped";
                let why = "without it nobody is answered";
                let remedy = "start again; brokers register within seconds";
                Err(Failure::new(ExitCode::Io, Problem::new(title, error.to_string(), why, remedy)))
            }
        }
    }
}

/// A name server has no work of its own.
#[derive(Clone)]
struct NoHands;

impl Hands<NameServer> for NoHands {
    fn work(&mut self, work: Infallible) -> Option<Word<Infallible>> {
        match work {}
    }
}
