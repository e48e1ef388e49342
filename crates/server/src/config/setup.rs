//! What a role is started with, made from its settings.

use super::change::Refusal;
use super::{Origin, Settings, address};
use crate::failure::{ExitCode, Failure, Problem};
use crate::jobs::cores;
use keepmq_broker::{BrokerConfig, LiveConfig};
use keepmq_disk::LogIo;
use keepmq_nameserver::NameServerConfig;
use keepmq_net::NetLimits;
use keepmq_protocol::change::Configured;
use keepmq_protocol::frame::FRAME_MAX;
use keepmq_protocol::{BrokerName, LogOffset, Topic};
use keepmq_store::{Flush, LagPolicy, RetentionRules, Scrubbing, StoreConfig};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that an acknowledged message stays unsynced under ASYNC_FLUSH.
const FLUSH_INTERVAL_MAX: u32 = 500;
/// Bytes of a send besides its body: header, and properties at their longest.
const BESIDE_BODY: usize = 64 << 10;
/// Files that are not connections: segments, indexes, standard streams.
const FILES_KEPT: u64 = 512;
/// Most connections, whatever the system allows.
const CONNECTIONS_MAX: u64 = 65_536;

/// Finds the address that clients are told.
type Advertise = fn(&mut Settings, &[String], u16) -> Result<SocketAddr, Failure>;

/// A broker's.
#[derive(Debug)]
pub struct BrokerSetup {
    /// The core's.
    pub broker: BrokerConfig,
    /// Its store's.
    pub store: StoreConfig,
    /// Where the store lies.
    pub root: PathBuf,
    /// Where it listens: the port, and the port two below it ("VIP channel") where there is one.
    pub listen: Vec<SocketAddr>,
    /// Where it says how it is; `None` when nobody shall be told.
    pub health: Option<SocketAddr>,
    /// What is too much.
    pub limits: NetLimits,
    /// Event loops.
    pub shards: usize,
    /// How the end of the log is made durable under SYNC_FLUSH.
    pub log_io: LogIo,
    /// Every effective value.
    pub settings: Settings,
}

/// A name server's.
#[derive(Debug)]
pub struct NameServerSetup {
    /// The core's.
    pub config: NameServerConfig,
    /// Where its key-value configuration lies.
    pub kv_path: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What is too much.
    pub limits: NetLimits,
    /// Of its hash tables.
    pub seed: u64,
    /// Every effective value.
    pub settings: Settings,
}

impl BrokerSetup {
    /// Checks how the values go together, and derives what nobody has said.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        Self::with(settings, address::advertised)
    }

    /// The same values to be looked at; no name is looked up, so that it works anywhere and at once.
    pub fn preview(settings: Settings) -> Result<Settings, Failure> {
        Self::with(settings, address::expected).map(|setup| setup.settings)
    }

    fn with(mut settings: Settings, address: Advertise) -> Result<Self, Failure> {
        role(&mut settings)?;
        let cluster = name(&settings, "brokerClusterName")?;
        if settings.given("brokerName").is_none() {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let host = if host.is_empty() { "DEFAULT_BROKER".to_owned() } else { host };
            settings.derive("brokerName", host, "this machine's name");
        }
        let broker = name(&settings, "brokerName")?;
        for key in ["brokerClusterName", "brokerName"] {
            // Topics of these names exist, for requests to a whole cluster or broker.
            Topic::check(settings.text(key)).map_err(|error| {
                settings.refusal(
                    key,
                    format!("a topic is named after it: {error}"),
                    "give a name without other characters",
                )
            })?;
        }
        let root = root(&mut settings)?;
        if settings.given("namesrvAddr").is_none()
            && let Some(said) = std::env::var("NAMESRV_ADDR").ok().filter(|said| !said.is_empty())
        {
            settings.derive("namesrvAddr", said, "the environment's NAMESRV_ADDR, as in RocketMQ");
        }
        let name_servers = name_servers(&settings)?;
        let port: u16 = settings.number("listenPort");
        let bind = ip(&settings, "bindAddress")?;
        let mut listen = vec![SocketAddr::new(bind, port)];
        listen.extend(port.checked_sub(2).filter(|fast| *fast > 0).map(|fast| SocketAddr::new(bind, fast)));
        let address = address(&mut settings, &name_servers, port)?;
        settings.follow("fastListenPort", port.checked_sub(2).filter(|fast| *fast > 0), "listenPort - 2");
        settings.follow(
            "haListenPort",
            port.checked_add(1),
            "listenPort + 1, advertised only: nobody listens there yet",
        );
        let health = match settings.number("metricsPromExporterPort") {
            0 => None,
            port => Some(SocketAddr::new(ip(&settings, "metricsPromExporterHost")?, port)),
        };
        clamp(&mut settings, "registerNameServerPeriod", 10_000, 60_000);
        clamp(&mut settings, "diskMaxUsedSpaceRatio", 10, 95);
        clamp(&mut settings, "diskSpaceCleanForciblyRatio", 30, 85);
        let hours = hours(&settings)?;
        clamp(&mut settings, "flushIntervalCommitLog", 1, FLUSH_INTERVAL_MAX.into());
        if settings.number::<usize>("shards") == 0 {
            settings.derive("shards", shards_for(cores()).to_string(), "this machine's cores");
        }
        let shards = settings.number("shards");
        let segment_bytes: u64 = settings.number("mappedFileSizeCommitLog");
        let max_message_bytes: usize = settings.number("maxMessageSize");
        if (max_message_bytes + BESIDE_BODY) as u64 > segment_bytes {
            settings.warn(format!(
                "maxMessageSize={max_message_bytes} does not fit mappedFileSizeCommitLog={segment_bytes}: \
                 messages that do not fit a segment will be refused"
            ));
        }
        let live = live(&settings, hours);
        let millis = |key| Duration::from_millis(settings.number(key));
        let store = StoreConfig {
            cluster: cluster.clone(),
            broker: broker.clone(),
            segment_bytes,
            flush: if settings.text("flushDiskType") == "SYNC_FLUSH" { Flush::Sync } else { Flush::Async },
            flush_interval: millis("flushIntervalCommitLog"),
            flush_bytes: 4 << 20,
            buffer_bytes: (8 << 20).max(2 * (max_message_bytes + BESIDE_BODY)),
            zero_ahead: 64 << 20,
            checkpoint_interval: Duration::from_secs(1),
            snapshot_bytes: 64 << 20,
            retention: live.retention.clone(),
            scrubbing: Scrubbing {
                bytes_per_second: settings.number("scrub.bytesPerSecond"),
                interval: millis("scrub.interval"),
            },
            place: root.display().to_string(),
            store_host: address,
            adopt: settings.flag("adopt"),
            accept_loss: None,
            new_id: random()?,
            seed: u64::from_ne_bytes(random()?),
        };
        let broker = BrokerConfig {
            cluster,
            name: broker,
            address,
            name_servers,
            region: settings.text("regionId").to_owned(),
            max_message_bytes,
            allow_client_relax: settings.flag("allowClientRelax"),
            register_every: millis("registerNameServerPeriod"),
            lite_pull: settings.flag("litePullMessageEnable"),
            client_timeout: millis("channelExpiredTimeout"),
            max_parked: 100_000,
            max_topics: settings.number("maxTopics"),
            max_groups: settings.number("maxGroups"),
            // The store's folder may have to be made first.
            disk_bytes: None,
            live,
        };
        let limits = limits(&settings, FRAME_MAX.max(max_message_bytes + BESIDE_BODY))?;
        let log_io = if settings.text("log.io") == "direct" { LogIo::Direct } else { LogIo::Buffered };
        Ok(Self { broker, store, root, listen, health, limits, shards, log_io, settings })
    }

    /// Gives up what is damaged at this position of the log, and nothing else.
    #[must_use]
    pub fn accepting_loss(mut self, at: u64) -> Self {
        self.store.accept_loss = Some(LogOffset(at));
        self
    }

    /// Where the address that clients are told comes from, in words.
    pub fn address_origin(&self) -> String {
        let given = ["brokerIP1", "advertisedAddress"].into_iter().find(|key| self.settings.given(key).is_some());
        let key = given.expect("an address that nobody has given was derived");
        match &self.settings.setting(key).origin {
            Origin::Derived(from) => (*from).to_owned(),
            origin => format!("{key}, {origin}"),
        }
    }

    /// What SEND_OK means with this configuration, in words.
    pub fn durability(&self) -> String {
        match self.store.flush {
            Flush::Sync => "SYNC_FLUSH: SEND_OK means that the message is on this disk".to_owned(),
            Flush::Async => format!(
                "ASYNC_FLUSH: a power cut may take what was acknowledged in the last {} ms (a killed process loses nothing); \
                 flushDiskType=SYNC_FLUSH waits for the disk",
                self.store.flush_interval.as_millis()
            ),
        }
    }
}

impl NameServerSetup {
    /// Checks how the values go together.
    pub fn new(mut settings: Settings) -> Result<Self, Failure> {
        if settings.given("kvConfigPath").is_none() {
            let path =
                home(&settings, "kvConfigPath", "set it, or give a folder with --data")?.join("namesrv/kvConfig.json");
            settings.derive("kvConfigPath", path.display().to_string(), "the home folder");
        }
        let kv_path = std::path::absolute(settings.text("kvConfigPath"))
            .map_err(|error| settings.refusal("kvConfigPath", error.to_string(), "give the absolute path of a file"))?;
        let listen = SocketAddr::new(ip(&settings, "bindAddress")?, settings.number("listenPort"));
        let config = NameServerConfig {
            broker_timeout: Duration::from_secs(120),
            max_brokers: 10_000,
            max_topics: 1_000_000,
            live: names_live(&settings),
        };
        Ok(Self {
            config,
            kv_path,
            listen,
            limits: limits(&settings, FRAME_MAX)?,
            seed: u64::from_ne_bytes(random()?),
            settings,
        })
    }
}

/// What may change while the broker runs.
fn live(settings: &Settings, hours: u32) -> LiveConfig {
    LiveConfig {
        auto_create_topic: settings.flag("autoCreateTopicEnable"),
        auto_create_group: settings.flag("autoCreateSubscriptionGroup"),
        default_topic_queues: settings.number("defaultTopicQueueNums"),
        permission: settings.number("brokerPermission"),
        flush_timeout: Duration::from_millis(settings.number("syncFlushTimeout")),
        long_polling: settings.flag("longPollingEnable"),
        pull_messages: settings.number("maxTransferCountOnMessageInMemory"),
        pull_bytes: settings.number("maxTransferBytesOnMessageInMemory"),
        retention: RetentionRules {
            keep: Duration::from_secs(3600 * settings.number::<u64>("fileReservedTime")),
            hours,
            any_hour_above: percent(settings, "diskMaxUsedSpaceRatio", 10, 95),
            forced_above: settings
                .flag("cleanFileForciblyEnable")
                .then(|| percent(settings, "diskSpaceCleanForciblyRatio", 30, 85)),
            lag: if settings.text("retention.lagPolicy") == "delete" { LagPolicy::Delete } else { LagPolicy::Keep },
        },
        shown: settings.shown(),
    }
}

/// A percentage within RocketMQ's bounds, also when an operator has just changed it.
fn percent(settings: &Settings, key: &str, min: i64, max: i64) -> u8 {
    u8::try_from(settings.number::<i64>(key).clamp(min, max)).expect("a percentage is below 256")
}

/// The hours of `deleteWhen`, a bit each. They are UTC: a process cannot find out the zone without asking its environment.
fn hours(settings: &Settings) -> Result<u32, Failure> {
    let mut hours = 0;
    for hour in settings.text("deleteWhen").split(';').map(str::trim).filter(|hour| !hour.is_empty()) {
        match hour.parse::<u32>() {
            Ok(hour) if hour < 24 => hours |= 1 << hour,
            _ => {
                let why = format!("{hour:?} is no hour of the day");
                let remedy = "give hours from 00 to 23, several separated by semicolons; they are UTC";
                return Err(settings.refusal("deleteWhen", why, remedy));
            }
        }
    }
    Ok(hours)
}

/// Carries out a change of a broker's configuration that an operator has asked for.
pub(crate) fn configure_broker(settings: &mut Settings, text: &str) -> Configured<LiveConfig> {
    let outcome = settings.change(text);
    configured(outcome, || live(settings, hours(settings).expect("it cannot be changed while the process runs")))
}

/// The same of a name server's.
pub(crate) fn configure_name_server(settings: &mut Settings, text: &str) -> Configured<keepmq_nameserver::LiveConfig> {
    configured(settings.change(text), || names_live(settings))
}

fn configured<L>(outcome: Result<Option<String>, Refusal>, live: impl FnOnce() -> L) -> Configured<L> {
    match outcome {
        Ok(remark) => Configured::Changed { live: live(), remark },
        Err(Refusal { code, why }) => Configured::Refused { code, why },
    }
}

/// What may change while a name server runs.
fn names_live(settings: &Settings) -> keepmq_nameserver::LiveConfig {
    keepmq_nameserver::LiveConfig {
        scan_every: Duration::from_millis(settings.number("scanNotActiveBrokerInterval")),
        order_in_routes: settings.flag("orderMessageEnable"),
        order_to_brokers: settings.flag("returnOrderTopicConfigToBroker"),
        shown: settings.shown(),
    }
}

/// One broker, one disk, for now.
fn role(settings: &mut Settings) -> Result<(), Failure> {
    match settings.text("brokerRole") {
        "ASYNC_MASTER" => {}
        role => {
            let why = format!(
                "{role} promises that an acknowledged message is on a second machine, and KeepMQ cannot copy to one yet: \
                 it would be a promise that nobody keeps"
            );
            let remedy = "set brokerRole=ASYNC_MASTER; with flushDiskType=SYNC_FLUSH a message survives everything but the \
                          loss of this disk";
            return Err(settings.refusal("brokerRole", why, remedy));
        }
    }
    let id: i64 = settings.number("brokerId");
    if id != 0 {
        settings
            .warn(format!("{}: brokerId={id} is taken as 0, which a master has", settings.setting("brokerId").origin));
        settings.derive("brokerId", "0".to_owned(), "a master's id");
    }
    Ok(())
}

fn name(settings: &Settings, key: &str) -> Result<String, Failure> {
    BrokerName::new(settings.text(key))
        .map(|name| name.to_string())
        .map_err(|error| settings.refusal(key, error.to_string(), "give another name"))
}

/// The home folder, in which a file lies when nobody has said where.
fn home(settings: &Settings, key: &str, remedy: &str) -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).ok_or_else(|| settings.refusal(key, "it is not set, and HOME is not either", remedy))
}

/// The store's place. RocketMQ lets the log lie elsewhere; one folder is one store here, with one lock.
fn root(settings: &mut Settings) -> Result<PathBuf, Failure> {
    if settings.given("storePathRootDir").is_none() {
        let store = home(settings, "storePathRootDir", "set storePathRootDir")?.join("store");
        settings.derive("storePathRootDir", store.display().to_string(), "the home folder");
    }
    let root = PathBuf::from(settings.text("storePathRootDir"));
    let default = root.join("commitlog");
    match settings.given("storePathCommitLog") {
        // Compared by their parts: a slash more at the end is no other place.
        Some(log) if Path::new(log) != default => {
            let why = "a store is one folder here, so that one lock guards it";
            return Err(settings.refusal(
                "storePathCommitLog",
                why,
                format!("take it out, or set it to {}; a link may lead from there to another disk", default.display()),
            ));
        }
        Some(_) => {}
        None => settings.derive("storePathCommitLog", default.display().to_string(), "storePathRootDir"),
    }
    Ok(root)
}

fn name_servers(settings: &Settings) -> Result<Vec<String>, Failure> {
    let text = settings.text("namesrvAddr");
    let servers: Vec<_> =
        text.split(';').map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned).collect();
    match servers.iter().find(|server| !address::is_host_and_port(server)) {
        None => Ok(servers),
        Some(bad) => {
            let why = format!("{bad:?} is not host:port");
            Err(settings.refusal("namesrvAddr", why, "give host:port, several separated by semicolons"))
        }
    }
}

fn ip(settings: &Settings, key: &str) -> Result<IpAddr, Failure> {
    let text = settings.text(key);
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| {
        settings.refusal(
            key,
            "a process listens on an IP address",
            "give an address of this machine, or 0.0.0.0 for all",
        )
    })
}

fn clamp(settings: &mut Settings, key: &'static str, min: i64, max: i64) {
    let said: i64 = settings.number(key);
    let taken = said.clamp(min, max);
    if taken != said {
        settings.warn(format!("{}: {key}={said} is taken as {taken}", settings.setting(key).origin));
        settings.derive(key, taken.to_string(), "the nearest value that is allowed");
    }
}

fn limits(settings: &Settings, frame_bytes: usize) -> Result<NetLimits, Failure> {
    let connections = open_files().saturating_sub(FILES_KEPT).clamp(64, CONNECTIONS_MAX);
    Ok(NetLimits {
        frame_bytes,
        connections: usize::try_from(connections).expect("at most 65,536"),
        // One connection of a Java client carries the pulls of all its queues.
        unsent_bytes: 32 << 20,
        owed_bytes: 256 << 20,
        // A dozen of the largest messages on their way in at once.
        unread_bytes: (64 << 20).max(4 * frame_bytes),
        idle: Duration::from_secs(settings.number("serverChannelMaxIdleTimeSeconds")),
    })
}

/// Few cores are worth more undivided: clients, flushes and page cache need one, too. Beyond 32 shards the core's lock is the limit.
fn shards_for(cores: usize) -> usize {
    if cores < 4 { 1 } else { (cores - 1).min(32) }
}

/// Files that this process may open. The limit is raised as far as it may be: the low default is for programs that use `select`.
fn open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).map_err(|error| {
        let why = "names of stores and keys of hash tables are drawn from it";
        let remedy = "give this process the system's device files";
        Failure::new(ExitCode::Io, Problem::new("/dev/urandom cannot be read", error.to_string(), why, remedy))
    })?;
    Ok(bytes)
}
