//! How long a broker reads before it serves again, and how fast: ours, and RocketMQ's in the same run.

use super::Options;
use crate::client::Client;
use crate::java_servers::JavaServers;
use crate::process::Folder;
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// As a scenario.
pub(super) const NAME: &str = "recovery";

/// Messages of 1 KB that make a log of a good GiB.
const MESSAGES: u64 = 900_000;
/// Restarts after SIGKILL, each with a little load before it.
const RESTARTS: usize = 21;
const TOPIC: &str = "Bench";

/// Measures, and answers lines of text. Without `options.java` RocketMQ is left out.
pub(super) fn measure(binary: &Path, options: &Options) -> Result<String> {
    let folder = Folder::new("bench-recovery")?;
    let mut lines = String::new();
    let ours = ours(binary, options, &folder.path().join("ours"), &mut lines)?;
    if let Some(script) = &options.java {
        let java = java(script, options, &folder.path().join("java"), &mut lines)?;
        writeln!(lines, "reading again, ours to RocketMQ's: **{:.1}**", ours / java)?;
    }
    Ok(lines)
}

/// MiB a second at which a log is read whose index is gone.
fn ours(binary: &Path, options: &Options, folder: &Path, lines: &mut String) -> Result<f64> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let scene = Scene::new(binary, folder)?.flushing(Mode::Async);
    let (mut broker, _) = scene.start_broker()?;
    fill(options, scene.broker, MESSAGES)?;
    let held = held(scene.broker)?;
    let log = log_bytes(&scene.store().join("commitlog"))?;

    let mut restarts = Vec::new();
    for _ in 0..RESTARTS {
        fill(options, scene.broker, 5_000)?;
        broker.kill()?;
        let (started, took) = scene.start_broker()?;
        broker = started;
        restarts.push(took);
    }
    restarts.sort_unstable();
    let (median, worst) = (restarts[RESTARTS / 2], restarts[RESTARTS - 1]);
    writeln!(
        lines,
        "a log of {} MiB, SIGKILL, restart until the first answer, {RESTARTS} times: median {median:.1?}, worst {worst:.1?}",
        log >> 20
    )?;

    let status = broker.stop()?;
    ensure!(status.success(), "the broker ended with {status}");
    for entry in fs::read_dir(scene.store().join("keepmq")).context("the store has no folder of its own")? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queues-")) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    warm(&scene.store().join("commitlog"))?;
    let (broker, took) = scene.start_broker()?;
    ensure!(self::held(scene.broker)? >= held, "messages are gone");
    let rate = mib_per_second(log, took.saturating_sub(restarts[0]));
    writeln!(lines, "the index removed, the log in the system's cache: {took:.2?}, {rate:.0} MiB/s")?;
    drop(broker);
    Ok(rate)
}

/// As `ours`, for RocketMQ: what its start takes longer with the log than without.
fn java(script: &Path, options: &Options, folder: &Path, lines: &mut String) -> Result<f64> {
    let start = || -> Result<(JavaServers, Duration)> {
        let began = Instant::now();
        Ok((JavaServers::start(script, &options.java_version, Mode::Async, folder)?, began.elapsed()))
    };
    let (servers, _) = start()?;
    drop(servers);
    let (servers, empty) = start()?;
    fill(options, servers.broker, MESSAGES)?;
    drop(servers);
    let store = folder.join("store");
    let log = log_bytes(&store.join("commitlog"))?;
    fs::remove_dir_all(store.join("consumequeue")).context("RocketMQ has made no consume queues")?;
    fs::remove_file(store.join("checkpoint")).context("RocketMQ has made no checkpoint")?;
    warm(&store.join("commitlog"))?;
    let (servers, full) = start()?;
    let rate = mib_per_second(log, full.saturating_sub(empty));
    writeln!(
        lines,
        "RocketMQ {}, as many messages, killed, without its consume queues and checkpoint: {full:.2?} where an empty one takes {empty:.2?}, {rate:.0} MiB/s",
        options.java_version
    )?;
    drop(servers);
    Ok(rate)
}

fn mib_per_second(bytes: u64, time: Duration) -> f64 {
    (bytes >> 20) as f64 / time.as_secs_f64().max(0.001)
}

fn fill(options: &Options, broker: SocketAddr, messages: u64) -> Result<()> {
    let mut command = Command::new(&options.load);
    command.args(["send", "--create", "--conns", "64", "--secs", "120", "--warm", "0", "--topic", TOPIC]);
    command.args(["--count", &messages.to_string(), "--addr", &broker.to_string()]);
    let output = command.output().with_context(|| format!("cannot start {}", options.load.display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Messages in the topic's first queues.
fn held(broker: SocketAddr) -> Result<i64> {
    let mut client = Client::connect(broker)?;
    (0..4).map(|queue| client.max_offset(TOPIC, queue)).sum()
}

/// Bytes up to the last that is not zero, of all segments: they have their length from the beginning.
fn log_bytes(folder: &Path) -> Result<u64> {
    let mut all = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let bytes = fs::read(entry?.path())?;
        all += bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    }
    Ok(all)
}

/// Reads all files, so that they are in the system's cache.
fn warm(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        io::copy(&mut fs::File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(())
}
