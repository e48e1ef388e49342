//! A name server as a process, or as a part of one.

use crate::broker::{port_refused, thread_refused};
use crate::config::{NameServerSetup, Settings, configure_name_server};
use crate::failure::{ExitCode, Failure, Problem};
use crate::jobs::{configuration, spawn};
use crate::kvfile::KvFile;
use crate::stop::Stop;
use keepmq_nameserver::{Done, KvSaved, NameServer, SaveKv, Task};
use keepmq_net::{Hands, Inbox, Shards, Word};
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
    shards: Shards<Done>,
    hands: NameServerHands,
    threads: [JoinHandle<()>; 2],
    pub(crate) listening: SocketAddr,
}

impl Opened {
    /// Reads the key-value configuration, opens the port.
    pub(crate) fn start(setup: NameServerSetup) -> Result<Self, Failure> {
        let NameServerSetup { config, kv_path, listen, limits, seed, settings } = setup;
        let (file, kv) = KvFile::open(&kv_path)?;
        let entries: usize = kv.config_table.values().map(|entries| entries.len()).sum();
        tracing::info!("{entries} entries of key-value configuration in {}", kv_path.display());
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
        let (hands, threads) =
            NameServerHands::new(file, settings, &shards.inbox()).map_err(|error| thread_refused(&error))?;
        let core = Arc::new(Mutex::new(NameServer::new(config, kv, seed)));
        Ok(Self { core, shards, hands, threads, listening })
    }

    pub(crate) fn inbox(&self) -> Inbox<Done> {
        self.shards.inbox()
    }

    /// Serves until the core is done.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let exit = self.shards.run(&self.core, self.hands);
        for thread in self.threads {
            thread.join().expect("a panic ends the process");
        }
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

/// Hands files to threads of their own: clients that ask for routes do not wait for a disk.
#[derive(Clone)]
struct NameServerHands {
    saves: SyncSender<SaveKv>,
    changes: SyncSender<String>,
}

impl NameServerHands {
    /// With the threads, which end when the hands are dropped.
    fn new(mut file: KvFile, settings: Settings, inbox: &Inbox<Done>) -> io::Result<(Self, [JoinHandle<()>; 2])> {
        // One save is under way at a time: the channel never fills.
        let (saves, asked) = sync_channel(1);
        let (changes, changer) = configuration(settings, inbox.clone(), |settings, text| {
            Done::Configured(Box::new(configure_name_server(settings, text)))
        })?;
        let inbox = inbox.clone();
        let saver = spawn("kv", move || {
            for SaveKv { ticket, bytes } in asked {
                let outcome = file.save(bytes);
                if let Err(error) = &outcome {
                    tracing::error!(%error, "the key-value configuration was not saved");
                }
                inbox.post(Word::Done(Done::Saved(KvSaved { ticket, outcome })));
            }
        })?;
        Ok((Self { saves, changes }, [saver, changer]))
    }
}

impl Hands<NameServer> for NameServerHands {
    fn work(&mut self, work: Task) -> Option<Word<Done>> {
        match work {
            Task::Save(save) => self.saves.send(save).expect("the thread lives as long as its hands"),
            Task::Configure(text) => self.changes.send(text).expect("the thread lives as long as its hands"),
        }
        None
    }
}
