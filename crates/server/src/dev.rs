//! Everything in one process, for a developer's day.

use crate::broker::{self, folder_refused, thread_refused};
use crate::config::{BROKER, BrokerSetup, Flag, NAME_SERVER, NameServerSetup, Settings};
use crate::failure::{ExitCode, Failure, Problem};
use crate::firstword::{self, QUEUES, Seen, TOPIC};
use crate::health::Health;
use crate::nameserver;
use crate::stop::Stop;
use keepmq_disk::{OsDisk, free_bytes};
use keepmq_net::{Word, now};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

/// Where the data of a day lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// In this folder, for tomorrow as well.
    Kept(PathBuf),
    /// In a folder of its own, which is removed at the end.
    Ephemeral,
}

/// RocketMQ's segment size.
const SEGMENT: u64 = 1 << 30;
/// So many of them must fit the disk, so that a day's work does.
const SEGMENTS: u64 = 4;
const SEGMENT_MIN: u64 = 64 << 10;

/// Runs name server and broker until a signal ends them. The name server's port is `port_base`, the broker's is ten above it.
pub fn run(data: &Data, port_base: Option<u16>) -> Result<(), Failure> {
    let began = Instant::now();
    let folder = match data {
        Data::Kept(folder) => folder.clone(),
        Data::Ephemeral => std::env::temp_dir().join(format!("keepmq-dev-{}-{}", std::process::id(), now().wall)),
    };
    let root = OsDisk::make(&folder).map_err(|error| folder_refused(&folder, &error))?.root().to_owned();
    let _removed = (*data == Data::Ephemeral).then(|| Ephemeral(root.clone()));
    let (name_server_port, broker_port) = match port_base {
        Some(base) => (base, base + 10),
        None => (9876, 10911),
    };
    let mut notes = Vec::new();
    let segment = segment(&root, &mut notes).map_err(|error| folder_refused(&root, &error))?;
    let local = || "127.0.0.1".to_owned();
    let flags: [Flag; 3] = [
        ("bindAddress", local(), "keepmq dev"),
        ("listenPort", name_server_port.to_string(), "--port-base"),
        ("kvConfigPath", root.join("namesrv/kvConfig.json").display().to_string(), "--data"),
    ];
    let name_server = nameserver::Opened::start(NameServerSetup::new(Settings::read(&NAME_SERVER, None, &flags)?)?)?;
    let flags: [Flag; 8] = [
        ("bindAddress", local(), "keepmq dev"),
        ("brokerIP1", local(), "keepmq dev"),
        // The data may be opened on another machine, or in a container with another name each time.
        ("brokerName", "broker-a".to_owned(), "keepmq dev"),
        ("listenPort", broker_port.to_string(), "--port-base"),
        ("metricsPromExporterHost", local(), "keepmq dev"),
        ("namesrvAddr", name_server.listening.to_string(), "--port-base"),
        ("storePathRootDir", root.display().to_string(), "--data"),
        ("mappedFileSizeCommitLog", segment.to_string(), "keepmq dev"),
    ];
    let setup = BrokerSetup::new(Settings::read(&BROKER, None, &flags)?)?;
    let durability = setup.durability();
    let health = Health::recovering();
    let health_line = match setup.health.map(|address| (address, health.answer_on(address))) {
        None => "off".to_owned(),
        Some((_, Ok(address))) => format!("http://{address}/readyz"),
        Some((address, Err(error))) => format!("off: {address} cannot be had ({error})"),
    };
    let broker = broker::Opened::start(setup, &health)?;
    let address = broker.listening().next().expect("a broker has a port");
    let name_server_address = name_server.listening;
    let created = broker.created;

    let (to_broker, to_name_server) = (broker.inbox(), name_server.inbox());
    let asked = to_broker.clone();
    let stop = Stop::on_signal(move || {
        health.leaving();
        asked.post(Word::Stop);
    })
    .map_err(|error| thread_refused(&error))?;
    let ended = to_broker.clone();
    let name_server = thread("nameserver", move || {
        let outcome = name_server.run();
        // By itself it ends only when it fails, and then the broker is of no use.
        ended.post(Word::Stop);
        outcome
    })?;
    let broker = thread("broker", move || broker.run())?;

    let first = created.then(|| firstword::speak(name_server_address, address, now().wall)).transpose();
    let first = first.map_err(|error| no_first_word(&error));
    if let Ok(seen) = &first {
        let mut text = banner(data, &root, [name_server_address, address], &durability, &health_line, seen.as_ref());
        notes.iter().for_each(|note| text += &format!("note: {note}\n"));
        text += &format!("ready in {:.1} s: Ctrl-C stops cleanly (drain, flush, exit)", began.elapsed().as_secs_f64());
        say(&text);
    } else {
        to_broker.post(Word::Stop);
    }
    let broker = broker.join().expect("a panic ends the process");
    // Last: the broker takes its leave of it.
    to_name_server.post(Word::Stop);
    let name_server = name_server.join().expect("a panic ends the process");
    stop.join();
    if first.is_ok() && broker.is_ok() {
        say("stopped: everything that was accepted is on disk");
    }
    first.and(broker).and(name_server)
}

fn thread(
    name: &str,
    run: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<Result<(), Failure>>, Failure> {
    Builder::new().name(name.to_owned()).spawn(run).map_err(|error| thread_refused(&error))
}

fn banner(
    data: &Data,
    root: &Path,
    [name_server, broker]: [SocketAddr; 2],
    durability: &str,
    health: &str,
    seen: Option<&Seen>,
) -> String {
    let fate = if *data == Data::Ephemeral { "removed at the end" } else { "kept" };
    let version = env!("CARGO_PKG_VERSION");
    let first = match seen {
        None => format!("  store         recovered; nothing was sent to {TOPIC} this time"),
        Some(Seen { queue, offset, acknowledged }) => format!(
            "  topic         {TOPIC} ({QUEUES} queues), created on this new store\n                \
             sent 1 message: SEND_OK in {:.1} ms, queue {queue}, offset {offset}; pulled it back",
            acknowledged.as_secs_f64() * 1e3
        ),
    };
    format!(
        "keepmq {version}  dev: everything in this process, data in {} ({fate})\n  \
           name server   {name_server:<20} clients: namesrvAddr={name_server}\n  \
           broker        {broker:<20} {durability}\n  \
           health        {health}\n{first}\n",
        root.display()
    )
}

/// On standard output. Whoever reads it may go; the broker stays.
fn say(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        tracing::warn!(%error, "nobody reads what is printed");
    }
}

/// The size of the store's segments, or of those that it will have.
fn segment(root: &Path, notes: &mut Vec<String>) -> io::Result<u64> {
    match std::fs::read_dir(root.join("commitlog")) {
        Ok(mut files) => {
            if let Some(file) = files.next() {
                let bytes = file?.metadata()?.len();
                // Anything else is for the store to judge.
                return Ok(if bytes.is_power_of_two() && (SEGMENT_MIN..=SEGMENT).contains(&bytes) {
                    bytes
                } else {
                    SEGMENT
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let free = free_bytes(root)?;
    let fits = (free / SEGMENTS).max(SEGMENT_MIN);
    if fits >= SEGMENT {
        return Ok(SEGMENT);
    }
    let segment = 1 << fits.ilog2();
    notes.push(format!(
        "{} MiB are free, too few for segments of 1 GiB as RocketMQ has them: they will have {} KiB",
        free >> 20,
        segment >> 10
    ));
    Ok(segment)
}

fn no_first_word(error: &io::Error) -> Failure {
    let title = "the first message did not come back";
    let why = "a broker that cannot be talked to is of no use to a developer";
    let remedy = "look at the log above; --log debug says more";
    Failure::new(ExitCode::Unreachable, Problem::new(title, error.to_string(), why, remedy))
}

/// A folder that goes when this is dropped.
struct Ephemeral(PathBuf);

impl Drop for Ephemeral {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} could not be removed", self.0.display());
        }
    }
}
