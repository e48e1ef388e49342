//! A broker as a process, or as a part of one.

use crate::config::BrokerSetup;
use crate::failure::{ExitCode, Failure, Problem};
use crate::health::Health;
use crate::jobs::{BrokerHands, Workers, spawn};
use crate::metrics::{Facts, Recovery};
use crate::stop::Stop;
use crate::takeover;
use keepmq_broker::{Broker, Done, OpenBrokerError};
use keepmq_disk::{LockError, OsDisk, StoreLock, free_bytes, total_bytes};
use keepmq_net::{Inbox, Shards, Word, now};
use keepmq_protocol::seam::Exit;
use keepmq_store::{Flush, OpenError, Progress, Recovered, Store};
use keepmq_world::Mono;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the free space of the disk is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(5);

/// Runs a broker until a signal ends it.
pub fn run(setup: BrokerSetup) -> Result<(), Failure> {
    for line in setup.settings.without_effect() {
        tracing::info!("{line}");
    }
    for warning in setup.settings.warnings() {
        tracing::warn!("{warning}");
    }
    let health = Health::recovering();
    if let Some(address) = setup.health {
        let address = health.answer_on(address).map_err(|error| {
            port_refused(
                address,
                "metricsPromExporterPort",
                "set metricsPromExporterPort to a free port, or to 0 for none",
                &error,
            )
        })?;
        tracing::info!("health: http://{address}/readyz, metrics: http://{address}/metrics");
    }
    let name_servers = setup.broker.name_servers.join(";");
    tracing::info!(
        "broker {} of {}, advertised as {} ({}), name servers: {}",
        setup.broker.name,
        setup.broker.cluster,
        setup.broker.address,
        setup.address_origin(),
        if name_servers.is_empty() { "none" } else { &name_servers },
    );
    match setup.store.flush {
        Flush::Sync => tracing::info!("{}", setup.durability()),
        // Less than the default promises: to be seen among a hundred lines.
        Flush::Async => tracing::warn!("{}", setup.durability()),
    }
    let opened = Opened::start(setup, &health)?;
    let inbox = opened.inbox();
    let stop = Stop::on_signal(move || {
        health.leaving();
        inbox.post(Word::Stop);
    })
    .map_err(|error| thread_refused(&error))?;
    tracing::info!(
        "ready: listening on {}",
        opened.listening().map(|at| at.to_string()).collect::<Vec<_>>().join(", ")
    );
    let outcome = opened.run();
    stop.join();
    outcome
}

/// A broker that is recovered and listens; nothing is answered yet.
pub(crate) struct Opened {
    core: Arc<Mutex<Broker<OsDisk>>>,
    shards: Shards<Done>,
    hands: BrokerHands,
    workers: Workers,
    space: Space,
    listening: Vec<SocketAddr>,
    /// The store did not exist before.
    pub(crate) created: bool,
    /// Given back last.
    lock: StoreLock,
}

impl Opened {
    /// Takes the lock, recovers the store, opens the ports.
    pub(crate) fn start(mut setup: BrokerSetup, health: &Health) -> Result<Self, Failure> {
        let disk = OsDisk::make(&setup.root).map_err(|error| folder_refused(&setup.root, &error))?;
        let disk = disk.writing_logs(setup.log_io);
        let root = disk.root().to_owned();
        let lock = StoreLock::take(&root).map_err(lock_refused)?;
        takeover::run(&mut setup, &disk)?;
        let (seed, flush) = (setup.store.seed, setup.store.flush);
        let disk_bytes = total_bytes(&root).map_err(|error| thread_refused(&error))?;
        setup.broker.disk_bytes = Some(disk_bytes);
        let awaited = flush == Flush::Sync;
        let began = now();
        let mut words = Words::new();
        let opened = Store::open_telling(disk, setup.store, began, &mut |progress| {
            health.recovered(progress);
            words.hear(progress);
        });
        let (store, recovered) = opened.map_err(|error| open_refused(error, &root))?;
        let created = recovered.created;
        let took = now().mono.since(began.mono);
        report(&recovered, &root, took);
        let recovery = Recovery { took, records: recovered.scanned, cut: recovered.cut };
        let (files, reader) = (store.files(), store.reader());
        // Another word than the store's: the two draw different numbers from it.
        let broker = Broker::open(store, recovered, setup.broker, !seed, now())
            .map_err(|error| tables_refused(&error, &root))?;

        let mut shards = Shards::new(setup.shards, setup.limits).map_err(|error| thread_refused(&error))?;
        let mut listening = Vec::new();
        for address in setup.listen {
            let taken = shards.listen(address).map_err(|error| {
                port_refused(
                    address,
                    "listenPort",
                    "set listenPort (listenPort - 2 must be free, too), or stop what uses it",
                    &error,
                )
            })?;
            listening.push(taken);
        }
        let settings = setup.settings;
        let threads = |inbox| {
            let (hands, workers) = BrokerHands::new(files, reader, settings, inbox, setup.shards, awaited)?;
            Ok((hands, workers, Space::watch(root, inbox.clone())?))
        };
        let (hands, workers, space) = threads(&shards.inbox()).map_err(|error: io::Error| thread_refused(&error))?;
        let facts =
            Facts { flush, disk_bytes, recovery, free: Arc::clone(&space.free), sent: Arc::clone(hands.sent()) };
        let core = health.serving(broker, shards.inbox(), facts);
        Ok(Self { core, shards, hands, workers, space, listening, created, lock })
    }

    pub(crate) fn inbox(&self) -> Inbox<Done> {
        self.shards.inbox()
    }

    /// The port, then the one for clients that use the VIP channel.
    pub(crate) fn listening(&self) -> impl Iterator<Item = SocketAddr> {
        self.listening.iter().copied()
    }

    /// Serves until the core is done.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let exit = self.shards.run(&self.core, self.hands);
        self.space.end();
        self.workers.join();
        drop(self.lock);
        match exit {
            Ok(Exit::Clean) => {
                let broker = self.core.lock().expect("a panic ends the process");
                if broker.store().state().gave_up {
                    tracing::warn!(
                        "there was no space for a snapshot: everything is in the log, and the next start reads more of it. Make \
                         room before that"
                    );
                }
                tracing::info!("stopped: everything that was accepted is on disk");
                Ok(())
            }
            Ok(Exit::Disk(what)) => {
                let title = "the disk has failed, and the broker has stopped";
                let why = "after a failed write or sync nobody knows what is on disk; trying again would be guessing";
                let remedy = "see to the disk, then start again: recovery reads what is really there. Messages that were \
                              acknowledged are kept; those answered with FLUSH_DISK_TIMEOUT may be";
                Err(Failure::new(ExitCode::Io, Problem::new(title, what, why, remedy)))
            }
            Err(error) => {
                let title = "the event loop has failed, and the broker has stopped";
                let why = "without it nobody is answered";
                Err(Failure::new(
                    ExitCode::Io,
                    Problem::new(title, error.to_string(), why, "start again; what was acknowledged is kept"),
                ))
            }
        }
    }
}

/// Looks at the free space of the store's disk.
struct Space {
    free: Arc<AtomicU64>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Space {
    fn watch(root: PathBuf, inbox: Inbox<Done>) -> io::Result<Self> {
        let free = Arc::new(AtomicU64::new(free_bytes(&root)?));
        inbox.post(Word::Space { free: free.load(Ordering::Relaxed) });
        let (stop, stopped) = channel();
        let seen = Arc::clone(&free);
        let thread = spawn("space", move || {
            while stopped.recv_timeout(SPACE_EVERY) == Err(RecvTimeoutError::Timeout) {
                match free_bytes(&root) {
                    Ok(free) => {
                        seen.store(free, Ordering::Relaxed);
                        inbox.post(Word::Space { free });
                    }
                    Err(error) => tracing::warn!(%error, "the free space of {} cannot be found out", root.display()),
                }
            }
        })?;
        Ok(Self { free, stop, thread })
    }

    fn end(self) {
        drop(self.stop);
        self.thread.join().expect("a panic ends the process");
    }
}

/// Tells of a recovery that takes its time: every two seconds, or twenty times.
struct Words {
    told: Mono,
    done: u64,
}

const WORD_EVERY: Duration = Duration::from_secs(2);
/// Less is done before anybody asks.
const WORD_BYTES: u64 = 64 << 20;

impl Words {
    fn new() -> Self {
        Self { told: now().mono, done: 0 }
    }

    fn hear(&mut self, Progress { done, total }: Progress) {
        let now = now().mono;
        let more = done - self.done;
        if now.since(self.told) >= WORD_EVERY || more >= WORD_BYTES.max(total / 20) {
            (self.told, self.done) = (now, done);
            tracing::info!("recovering: {done} of {total} bytes ({} %)", done * 100 / total.max(1));
        }
    }
}

fn report(recovered: &Recovered, root: &Path, took: Duration) {
    let Recovered { created, end, scanned, cut, remade, losses, .. } = recovered;
    if *created {
        tracing::info!("a new store in {}", root.display());
        return;
    }
    tracing::info!(
        "the store in {} was recovered in {took:.1?}: its log ends at {}, {scanned} records were read again",
        root.display(),
        end.0
    );
    if let Some(damage) = remade {
        tracing::warn!(
            "the index of the queues was made again from the log, which has everything that is in it: {damage}"
        );
    }
    for loss in losses {
        let (exact, perhaps) = loss.messages();
        let perhaps = if perhaps > 0 { format!(" and at most {perhaps} more") } else { String::new() };
        tracing::warn!(
            "the log has a stretch that was given up: positions {} to {}, {exact} messages{perhaps}; `keepmq store info` names them",
            loss.from,
            loss.to
        );
    }
    if *cut > 0 {
        tracing::warn!(
            "{cut} bytes were cut from the end of the log, which was torn by a crash or power cut. Under SYNC_FLUSH none of them \
             was acknowledged; under ASYNC_FLUSH some may have been"
        );
    }
}

/// A folder that cannot be had.
pub(crate) fn folder_refused(root: &Path, error: &io::Error) -> Failure {
    let title = format!("the store's folder {} cannot be made", root.display());
    let remedy = "set storePathRootDir (or --data) to a folder that this user may write to";
    Failure::new(ExitCode::Io, Problem::new(title, error.to_string(), "the messages are kept there", remedy))
}

/// A store that somebody else has open, or that cannot be locked.
pub fn lock_refused(error: LockError) -> Failure {
    match error {
        LockError::Held { root, holder } => {
            let title = format!("the store {} is in use", root.display());
            let why = "two processes that write one log destroy it";
            let what = format!("it is held by {holder}");
            let remedy = "stop that process, or set storePathRootDir (or --data) to another folder";
            Failure::new(ExitCode::InUse, Problem::new(title, what, why, remedy))
        }
        LockError::Io { .. } => {
            let remedy = "make the folder writable for this user, on a file system that has locks";
            let why = "without a lock two processes could write one log";
            Failure::new(ExitCode::Io, Problem::new("the store cannot be locked", error.to_string(), why, remedy))
        }
    }
}

/// A store that cannot be opened.
pub fn open_refused(error: OpenError, root: &Path) -> Failure {
    let root = root.display();
    match error {
        OpenError::Io(error) => {
            let (why, remedy) = if error.no_space {
                (
                    "the space that a store needs is reserved before anything is accepted",
                    "make room on this disk, or take a smaller mappedFileSizeCommitLog",
                )
            } else {
                (
                    "recovery has to read and write the store's files",
                    "see to the disk and the rights of the files, then start again",
                )
            };
            Failure::new(
                ExitCode::Io,
                Problem::new(format!("the store {root} cannot be opened"), error.to_string(), why, remedy),
            )
        }
        OpenError::Damaged { path, what, todo } => {
            let why = "these bytes were durable once; to go on without them would be to lose messages in silence";
            Failure::new(
                ExitCode::Damaged,
                Problem::new(format!("the store {root} is damaged: {path}"), what, why, todo),
            )
        }
        OpenError::Foreign { what, todo } => {
            let why = "a store belongs to one broker, and to whoever wrote it last";
            Failure::new(
                ExitCode::Configuration,
                Problem::new(format!("the store {root} is not this broker's"), what, why, todo),
            )
        }
        OpenError::NotDamaged { at } => {
            let why = "whatever is given up must have been looked at: a wrong number must not cost a message";
            let remedy = "give the position that the error or `keepmq store verify` names, or take --accept-loss away";
            let title = format!("--accept-loss {at} names nothing that is damaged in the store {root}");
            Failure::new(ExitCode::Configuration, Problem::new(title, error.to_string(), why, remedy))
        }
        OpenError::Config(what) => {
            let why = "a log keeps the shape that it was made with";
            let remedy = "change the key that is named, or give another storePathRootDir";
            Failure::new(
                ExitCode::Configuration,
                Problem::new(format!("the configuration does not fit the store {root}"), what, why, remedy),
            )
        }
    }
}

pub(crate) fn tables_refused(error: &OpenBrokerError, root: &Path) -> Failure {
    let title = format!("the store {} is damaged: its metadata cannot be read", root.display());
    let why = "topics, groups and offsets are made from it; starting without them would lose offsets in silence";
    let remedy = "nothing was changed; restore the folder keepmq/ from a copy, or report it with the text above";
    Failure::new(ExitCode::Damaged, Problem::new(title, error.to_string(), why, remedy))
}

/// A port that cannot be had.
pub(crate) fn port_refused(address: SocketAddr, key: &str, remedy: &str, error: &io::Error) -> Failure {
    let title = format!("cannot listen on {address} ({key})");
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
        _ => "clients could not connect",
    };
    Failure::new(ExitCode::Configuration, Problem::new(title, error.to_string(), why, remedy))
}

/// The system does not give what a process needs.
pub(crate) fn thread_refused(error: &io::Error) -> Failure {
    let why = "a broker needs a handful of threads, an event queue and the free space of its disk";
    let remedy = "raise the limits of this process (ulimit -u, -n), then start again";
    Failure::new(
        ExitCode::Io,
        Problem::new("the system does not give what a process needs", error.to_string(), why, remedy),
    )
}
