//! Everything in one process, for a developer's day.

use crate::config::{BrokerSettings, NameServerSettings};
use crate::failure::Failure;
use crate::first_message;
use crate::health::Health;
use crate::{broker, nameserver, signals};
use keepmq_disk::free_bytes;
use keepmq_net::Word;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What `keepmq dev` is told.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Where the data lies.
    pub data: PathBuf,
    /// The folder is removed at the end.
    pub ephemeral: bool,
    /// Port of the name server; the broker's is ten above, or 10911 when this is RocketMQ's own 9876.
    pub port_base: Option<u16>,
}

/// RocketMQ's ports.
const NAMESERVER: u16 = 9876;
const BROKER: u16 = 10911;
/// Longest that the broker may take to be known to its own name server.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Runs name server and broker, on loopback only, until asked to stop.
pub fn run_dev(options: &DevOptions) -> Result<(), Failure> {
    let begun = Instant::now();
    let (name_port, broker_port) = match options.port_base {
        None => (NAMESERVER, BROKER),
        Some(base) => (base, base.checked_add(10).unwrap_or(base)),
    };
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let names = nameserver::start(&NameServerSettings::local(local(name_port)), &Health::default())?;
    let mut settings = BrokerSettings::local(local(broker_port), names.address, &options.data);
    settings.segment_bytes = segment_bytes(&options.data, settings.segment_bytes)?;
    let (flush, health_address) = (settings.flush, settings.health);
    let health = Health::default();
    let running = broker::start(settings, &health)?;
    // A second `dev` on the machine must not fail for the sake of its health port.
    let health_at = health_address.and_then(|address| health.serve(address).ok());
    stop_broker_on_signal(&running)?;

    while !running.is_registered() && begun.elapsed() < KNOWN_WITHIN {
        std::thread::sleep(Duration::from_millis(1));
    }
    let version = env!("CARGO_PKG_VERSION");
    let kept = if options.ephemeral { "removed at the end" } else { "kept" };
    println!("keepmq {version}  dev: everything in this process, data in {} ({kept})", options.data.display());
    println!("  name server   {}     clients: namesrvAddr={}", names.address, names.address);
    println!("  broker        {}    durability: {}", running.listening, broker::durability(flush));
    if let Some(address) = health_at {
        println!("  health        http://{address}/readyz");
    }
    if running.recovered.created {
        let first = first_message::send_and_pull(running.address)?;
        println!("  topic demo    created; sent a message and pulled it back: {first}");
    } else {
        println!("  store         {} bytes of log, as it was left", running.recovered.end);
    }
    println!("ready in {:.1} s; Ctrl-C stops cleanly (drain, flush, exit)", begun.elapsed().as_secs_f64());

    // The broker takes its leave from the name server, so it goes first.
    let outcome = running.join();
    names.inbox.post(Word::Stop);
    names.join()?;
    outcome?;
    if options.ephemeral {
        std::fs::remove_dir_all(&options.data).map_err(|error| {
            Failure::io(format!("{} cannot be removed", options.data.display()), &error, "remove it by hand")
        })?;
    }
    println!("stopped");
    Ok(())
}

fn stop_broker_on_signal(running: &broker::RunningBroker) -> Result<(), Failure> {
    let inbox = Arc::new(Mutex::new(running.inbox.clone()));
    signals::on_stop(move || inbox.lock().expect("nobody panics while posting").post(Word::Stop))
}

/// RocketMQ's segment size, or the largest that leaves room for four where space is short.
fn segment_bytes(data: &std::path::Path, usual: u64) -> Result<u64, Failure> {
    let there = data.ancestors().find(|folder| folder.exists() && !folder.as_os_str().is_empty());
    let there = there.unwrap_or_else(|| std::path::Path::new("."));
    let free = free_bytes(there)
        .map_err(|error| Failure::io("free space cannot be read", &error, "give --data another folder"))?;
    let mut bytes = usual;
    while bytes * 4 > free && bytes > 1 << 20 {
        bytes /= 2;
    }
    if bytes < usual && !data.join("keepmq").exists() {
        tracing::warn!(free, segment = bytes, "space is short: smaller segments than RocketMQ's are made");
    }
    Ok(if data.join("keepmq").exists() { existing_segment(data).unwrap_or(bytes) } else { bytes })
}

/// The size of the segments that a store already has.
fn existing_segment(data: &std::path::Path) -> Option<u64> {
    let mut segments = std::fs::read_dir(data.join("commitlog")).ok()?;
    segments.find_map(|segment| Some(segment.ok()?.metadata().ok()?.len())).filter(|bytes| *bytes > 0)
}
