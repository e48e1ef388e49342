//! A name server as a process, or as a part of one.

use crate::broker::{port_refused, thread_refused};
use crate::config::NameServerSetup;
use crate::failure::{ExitCode, Failure, Problem};
use crate::jobs::spawn;
use crate::kvfile::KvFile;
use crate::stop::Stop;
use keepmq_nameserver::{KvSaved, NameServer, SaveKv};
use keepmq_net::{Hands, Inbox, Shard, Word};
use keepmq_protocol::seam::Exit;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

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
    shard: Shard<KvSaved>,
    hands: NameServerHands,
    saver: JoinHandle<()>,
    pub(crate) listening: SocketAddr,
}

impl Opened {
    /// Reads the key-value configuration, opens the port.
    pub(crate) fn start(setup: NameServerSetup) -> Result<Self, Failure> {
        let NameServerSetup { config, kv_path, listen, limits, seed, .. } = setup;
        let (file, kv) = KvFile::open(&kv_path)?;
        let entries: usize = kv.config_table.values().map(|entries| entries.len()).sum();
        tracing::info!("{entries} entries of key-value configuration in {}", kv_path.display());
        let mut shard = Shard::new(limits).map_err(|error| thread_refused(&error))?;
        let listening = shard.listen(listen).map_err(|error| {
            port_refused(
                listen,
                "listenPort",
                "set listenPort (or --listen, --port-base), or stop what uses it",
                &error,
            )
        })?;
        let (hands, saver) = NameServerHands::new(file, shard.inbox()).map_err(|error| thread_refused(&error))?;
        let core = Arc::new(Mutex::new(NameServer::new(config, kv, seed)));
        Ok(Self { core, shard, hands, saver, listening })
    }

    pub(crate) fn inbox(&self) -> Inbox<KvSaved> {
        self.shard.inbox()
    }

    /// Serves until the core is done.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let exit = self.shard.run(&self.core, self.hands);
        self.saver.join().expect("a panic ends the process");
        match exit {
            Ok(Exit::Clean) => {
                tracing::info!("the name server has stopped");
                Ok(())
            }
            Ok(Exit::Disk(what)) => {
                let title = "the disk has failed, and the name server has stopped";
                let why = "nobody knows whether the last change of the key-value configuration is on disk";
                let remedy =
                    "see to the disk, then start again, and look at what it has read; brokers register within seconds";
                Err(Failure::new(ExitCode::Io, Problem::new(title, what, why, remedy)))
            }
            Err(error) => {
                let title = "the event loop has failed, and the name server has stopped";
                let why = "without it nobody is answered";
                let remedy = "start again; brokers register within seconds";
                Err(Failure::new(ExitCode::Io, Problem::new(title, error.to_string(), why, remedy)))
            }
        }
    }
}

/// Hands the saves to a thread of their own: clients that ask for routes do not wait for a disk.
struct NameServerHands {
    saves: SyncSender<SaveKv>,
}

impl NameServerHands {
    /// With the thread, which ends when the hands are dropped.
    fn new(mut file: KvFile, inbox: Inbox<KvSaved>) -> io::Result<(Self, JoinHandle<()>)> {
        // One save is under way at a time: the channel never fills.
        let (saves, asked) = sync_channel(1);
        let saver = spawn("kv", move || {
            for SaveKv { ticket, bytes } in asked {
                let outcome = file.save(bytes);
                if let Err(error) = &outcome {
                    tracing::error!(%error, "the key-value configuration was not saved");
                }
                inbox.post(Word::Done(KvSaved { ticket, outcome }));
            }
        })?;
        Ok((Self { saves }, saver))
    }
}

impl Hands<NameServer> for NameServerHands {
    fn work(&mut self, save: SaveKv) -> Option<Word<KvSaved>> {
        self.saves.send(save).expect("the thread lives as long as its hands");
        None
    }
}
