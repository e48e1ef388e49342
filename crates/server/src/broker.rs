//! The broker as a process: configuration → lock → disk → store → core → threads → drain.

use crate::config::BrokerSettings;
use crate::failure::{Failure, exit};
use crate::hands::{BrokerHands, spawn};
use crate::health::Health;
use crate::nameserver::limits;
use crate::watched::{Pulse, Watched};
use crate::{random, signals};
use keepmq_broker::{Broker, BrokerConfig, OpenBrokerError};
use keepmq_disk::{OsDisk, StoreLock, free_bytes};
use keepmq_net::{Inbox, Shard, Word};
use keepmq_protocol::seam::Exit;
use keepmq_store::{Flush, JobDone, Recovered, Store, StoreConfig};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often free space is looked at. It also shows that the event loop turns.
const SPACE_EVERY: Duration = Duration::from_secs(5);
/// Most pulls held at once, topics, groups. A million queues fit into the memory that is planned for them.
const MAX_PARKED: usize = 200_000;
const MAX_TOPICS: usize = 200_000;
const MAX_GROUPS: usize = 100_000;
/// Bytes of one write buffer; three at most.
const BUFFER: usize = 8 << 20;

/// A broker that serves.
pub(crate) struct RunningBroker {
    pub(crate) inbox: Inbox<JobDone>,
    /// Where it listens.
    pub(crate) listening: SocketAddr,
    /// Where clients are told to find it.
    pub(crate) address: SocketAddr,
    pub(crate) recovered: Recovered,
    core: Arc<Mutex<Watched<Broker<OsDisk>>>>,
    thread: JoinHandle<io::Result<Exit>>,
    /// Held until the last thread has ended.
    _lock: StoreLock,
}

/// Runs a broker until it is asked to stop.
pub fn run_broker(settings: BrokerSettings) -> Result<(), Failure> {
    let health = Health::default();
    if let Some(address) = settings.health {
        health.serve(address)?;
    }
    let flush = settings.flush;
    let broker = start(settings, &health)?;
    tracing::info!(
        address = %broker.address,
        durability = durability(flush),
        "the broker serves"
    );
    let inbox = broker.inbox.clone();
    signals::on_stop(move || inbox.post(Word::Stop))?;
    broker.join()
}

/// What an acknowledgement means, for a banner.
pub(crate) fn durability(flush: Flush) -> &'static str {
    match flush {
        Flush::Sync => "SAFE (fsync before ack)",
        Flush::Async => "RELAXED (written before ack; a power cut may take the last moments)",
    }
}

/// Opens everything and starts the threads.
pub(crate) fn start(settings: BrokerSettings, health: &Health) -> Result<RunningBroker, Failure> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let root = settings.root.as_path();
    let disk = OsDisk::make(root).map_err(|error| {
        let todo = "make the folder, give this user the right to write into it, or set storePathRootDir";
        Failure::io(format!("the store's folder {} cannot be used", root.display()), &error, todo)
    })?;
    let lock = StoreLock::take(disk.root())?;

    let mut shard = Shard::new(limits(settings.idle)).map_err(|error| {
        Failure::io("the event loop cannot be made", &error, "raise the limit of open files")
    })?;
    let listening = listen(&mut shard, settings.listen, "listenPort")?;
    if let Some(fast) = settings.fast_port.filter(|_| settings.listen.port() != 0) {
        listen(&mut shard, SocketAddr::new(settings.listen.ip(), fast), "listenPort (less two: RocketMQ's fast port)")?;
    }
    let address = SocketAddr::new(advertised(&settings), listening.port());

    let now = keepmq_net::now();
    let (store, recovered) = Store::open(disk, store_config(&settings, address), now)?;
    tell(&recovered);
    let hands = BrokerHands::start(&store, &shard.inbox())?;
    let config = broker_config(&settings, address);
    let broker = Broker::open(store, recovered.clone(), config, random(), now)?;
    let pulse = Pulse::default();
    let core = Arc::new(Mutex::new(Watched::new(broker, pulse.clone())));

    let inbox = shard.inbox();
    watch_space(root, inbox.clone())?;
    let checked = Arc::clone(&core);
    health.started(pulse, move || {
        let registered = checked.lock().expect("nobody panics while holding a core").core.is_registered();
        vec![("registered at the name servers", registered)]
    });
    let driven = Arc::clone(&core);
    let thread = spawn("broker", move || shard.run(&driven, hands))?;
    Ok(RunningBroker { inbox, listening, address, recovered, core, thread, _lock: lock })
}

impl RunningBroker {
    /// Whether a name server knows it.
    pub(crate) fn is_registered(&self) -> bool {
        self.core.lock().expect("nobody panics while holding a core").core.is_registered()
    }

    /// Waits for its end.
    pub(crate) fn join(self) -> Result<(), Failure> {
        ended(self.thread)
    }
}

/// Waits for the end of a shard.
pub(crate) fn ended(thread: JoinHandle<io::Result<Exit>>) -> Result<(), Failure> {
    let outcome = thread.join().expect("a panic ends the process at once");
    let exit = outcome.map_err(|error| Failure::io("the event loop has failed", &error, "look at the limits of the process"))?;
    Failure::of(exit)
}

/// Binds a port of a shard.
pub(crate) fn listen<D: Send + 'static>(
    shard: &mut Shard<D>,
    address: SocketAddr,
    key: &str,
) -> Result<SocketAddr, Failure> {
    shard.listen(address).map_err(|error| Failure {
        what: format!("cannot listen on {address}"),
        why: error.to_string(),
        todo: format!("stop the process that uses the port, or give {key} another one"),
        exit: exit::CONFIG,
    })
}

/// What recovery has done, for the log.
fn tell(recovered: &Recovered) {
    let Recovered { created, end, scanned, cut, .. } = recovered;
    if *created {
        tracing::info!("a new store was made");
    } else if *cut > 0 {
        tracing::warn!(
            end = end.0,
            scanned,
            cut,
            "the end of the log was torn and was cut; under SYNC_FLUSH none of it had been acknowledged"
        );
    } else {
        tracing::info!(end = end.0, scanned, "the store was opened");
    }
}

fn watch_space(root: &Path, inbox: Inbox<JobDone>) -> Result<(), Failure> {
    let root = root.to_owned();
    spawn("space", move || {
        loop {
            match free_bytes(&root) {
                Ok(free) => inbox.post(Word::Space { free }),
                Err(error) => tracing::warn!(%error, "free space cannot be read"),
            }
            std::thread::sleep(SPACE_EVERY);
        }
    })?;
    Ok(())
}

/// `brokerIP1`, else the local address by which the first name server is reached, else loopback. Never the first network card:
/// a wrong address is the most frequent reason why a first message cannot be sent.
fn advertised(settings: &BrokerSettings) -> IpAddr {
    if let Some(given) = settings.advertised {
        return given;
    }
    if !settings.listen.ip().is_unspecified() {
        return settings.listen.ip();
    }
    let found = settings.name_servers.iter().find_map(|server| {
        let server = server.to_socket_addrs().ok()?.find(SocketAddr::is_ipv4)?;
        // Connecting a datagram socket sends nothing: it only asks the routing table.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(server).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let (address, origin) = match found {
        Some(address) => (address, "the way to the name server"),
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), "no name server shows the way, so loopback"),
    };
    tracing::info!(%address, origin, "clients are told this address; set brokerIP1 to choose another");
    address
}

fn store_config(settings: &BrokerSettings, address: SocketAddr) -> StoreConfig {
    let (first, second) = (random().to_be_bytes(), random().to_be_bytes());
    let mut new_id = [0; 16];
    new_id[..8].copy_from_slice(&first);
    new_id[8..].copy_from_slice(&second);
    StoreConfig {
        cluster: settings.cluster.clone(),
        broker: settings.broker_name.clone(),
        segment_bytes: settings.segment_bytes,
        flush: settings.flush,
        flush_interval: settings.flush_interval,
        flush_bytes: 4 << 20,
        buffer_bytes: BUFFER,
        zero_ahead: 64 << 20,
        checkpoint_interval: Duration::from_secs(1),
        snapshot_bytes: 64 << 20,
        keep: settings.keep,
        store_host: address,
        adopt: settings.adopt,
        new_id,
        seed: random(),
    }
}

fn broker_config(settings: &BrokerSettings, address: SocketAddr) -> BrokerConfig {
    BrokerConfig {
        cluster: settings.cluster.clone(),
        name: settings.broker_name.clone(),
        address,
        name_servers: settings.name_servers.clone(),
        region: settings.region.clone(),
        auto_create_topic: settings.auto_create_topic,
        auto_create_group: settings.auto_create_group,
        default_topic_queues: settings.default_topic_queues,
        max_message_bytes: settings.max_message_bytes,
        allow_client_relax: settings.allow_client_relax,
        flush_timeout: settings.flush_timeout,
        register_every: settings.register_every,
        long_polling: settings.long_polling,
        client_timeout: settings.client_timeout,
        pull_messages: settings.pull_messages,
        pull_bytes: settings.pull_bytes,
        max_parked: MAX_PARKED,
        max_topics: MAX_TOPICS,
        max_groups: MAX_GROUPS,
        shown: settings.shown.clone(),
    }
}

impl From<OpenBrokerError> for Failure {
    fn from(error: OpenBrokerError) -> Self {
        Self {
            what: "the broker's tables cannot be read".to_owned(),
            why: error.to_string(),
            todo: "the messages are not touched; restore keepmq/meta-* from a copy, or ask for help with these lines".to_owned(),
            exit: exit::DAMAGED,
        }
    }
}
