//! What RocketMQ's own broker does when disks and power fail, measured on this machine with the same load and the same books:
//! where KeepMQ says that it does something else, here is what else.

use crate::client::Client;
use crate::cut::{self, CutDisk};
use crate::java_servers::JavaServers;
use crate::load::{Books, Load, Plan, QUEUES, TOPIC};
use crate::process::{Folder, PATIENCE, Process, on_path};
use crate::scene::{BROKER, Mode};
use anyhow::{Context, Result, ensure};
use keepmq_ledger::{Finding, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Small, so that there are rolls.
const SEGMENT: u64 = 4 * 1024 * 1024;
const DISK: u64 = 2 * 1024 * 1024 * 1024;
/// Of the load before anything happens, and while it does.
const BEFORE: Duration = Duration::from_secs(4);
const DURING: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The script that starts RocketMQ's own servers.
    #[arg(long)]
    java_servers: PathBuf,
    /// Of the servers.
    #[arg(long, default_value = "5.3.3")]
    version: String,
    /// Where the facts are written, too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only what has this in its name.
    #[arg(long, default_value = "")]
    only: String,
}

/// What happens to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Every sync of a mapped file fails from a moment on; then the power goes.
    Eio,
    /// The power goes as soon as the log has a new file with an acknowledged message in it.
    CutAtRoll,
    /// The power goes.
    Cut,
    /// A bit of a body in the middle of the log is another, after a clean stop.
    Flip,
    /// The log is gone, after a clean stop: its volume is not mounted.
    Empty,
    /// SIGKILL.
    Kill,
}

const FACTS: [(&str, Mode, &str, Harm); 6] = [
    ("every sync fails, SYNC_FLUSH", Mode::Sync, "", Harm::Eio),
    ("power cut at a new file of the log, SYNC_FLUSH", Mode::Sync, "", Harm::CutAtRoll),
    ("power cut, ASYNC_FLUSH (its default)", Mode::Async, "", Harm::Cut),
    ("one bit of the log is another, after a clean stop", Mode::Sync, "", Harm::Flip),
    ("the log's folder is empty at the start, after a clean stop", Mode::Sync, "", Harm::Empty),
    (
        "SIGKILL, ASYNC_FLUSH with transientStorePoolEnable=true",
        Mode::Async,
        "transientStorePoolEnable=true\ntransientStorePoolSize=3\n",
        Harm::Kill,
    ),
];

/// Measures, says and writes down.
pub fn run(options: &Options) -> Result<()> {
    let mut lines = vec![
        format!("# What RocketMQ {} does when disks and power fail", options.version),
        String::new(),
        "`keepmq-proving javafacts`: Java's broker on this machine under the load of our own checks, judged by the same ledger. \
         Power is cut as in `powercuts` (ext4's shutdown, nothing flushed)."
            .to_owned(),
        String::new(),
    ];
    for (name, mode, conf, harm) in FACTS {
        if !name.contains(&options.only) {
            continue;
        }
        let lack = (harm == Harm::Eio && on_path("strace").is_none()).then(|| "strace is not installed".to_owned());
        let told = match lack.or_else(cut::lacking) {
            Some(lack) => format!("not measured: {lack}"),
            None => measure(options, mode, conf, harm).unwrap_or_else(|error| format!("not measured: {error:#}")),
        };
        println!("{name}: {told}");
        lines.push(format!("- **{name}**: {told}"));
    }
    if let Some(out) = &options.out {
        std::fs::write(out, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, mode: Mode, conf: &str, harm: Harm) -> Result<String> {
    let folder = Folder::new("facts")?;
    let disk = CutDisk::new(folder.path(), DISK)?;
    // Only the store lies on the disk that fails.
    let (home, store) = (folder.path().join("java"), disk.path().join("store"));
    let log = store.join("commitlog");
    let conf = format!(
        "brokerName={BROKER}\nmappedFileSizeCommitLog={SEGMENT}\nstorePathRootDir={}\nstorePathCommitLog={}\n{conf}",
        store.display(),
        log.display()
    );
    let start = || JavaServers::start_with(&options.java_servers, &options.version, mode, &home, &conf);
    let java = start()?;
    Client::connect(java.broker)?.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
    disk.sync()?;
    let load = Load::start(java.broker, Plan::paced(4, 1_000), Books::open(&folder.path().join("ledger"))?);
    std::thread::sleep(BEFORE);
    ensure!(load.kept() > 0, "nothing was acknowledged before it");
    let mut said = String::new();
    let books = match harm {
        Harm::Eio => {
            let _strace = failing_syncs(java.pid, folder.path())?;
            let (kept, _) = (load.kept(), load.seen());
            std::thread::sleep(DURING);
            let seen = load.seen();
            said = format!(
                "while every msync and fdatasync failed for {DURING:?}, {} messages were acknowledged with SEND_OK, {} answers were \
                 unknown, and it went on running; then the power was cut: ",
                load.kept() - kept,
                seen.unknown
            );
            disk.cut()?;
            kill(java.pid)?;
            drop(java);
            load.stop()?
        }
        Harm::CutAtRoll => {
            let first = load.highest();
            let end = Instant::now() + PATIENCE;
            while load.highest() / SEGMENT == first / SEGMENT {
                ensure!(Instant::now() < end, "the log has no new file");
            }
            disk.cut()?;
            kill(java.pid)?;
            drop(java);
            load.stop()?
        }
        Harm::Cut => {
            disk.cut()?;
            kill(java.pid)?;
            drop(java);
            load.stop()?
        }
        Harm::Kill => {
            kill(java.pid)?;
            drop(java);
            load.stop()?
        }
        Harm::Flip | Harm::Empty => {
            let books = load.stop()?;
            let positions = books.positions();
            java.stop_cleanly()?;
            if harm == Harm::Empty {
                std::fs::rename(&log, store.join("elsewhere")).context("cannot move the log away")?;
                std::fs::create_dir(&log).context("cannot make an empty folder")?;
            } else {
                let (last, middle) = (positions.values().max().context("nothing was kept")?, positions.len() / 2);
                let hurt = positions.values().nth(middle).context("nothing was kept")?;
                flip(&log, *hurt)?;
                said = format!("a bit at {hurt} of a log that ends at {last}: ");
            }
            books
        }
    };
    if matches!(harm, Harm::Eio | Harm::CutAtRoll | Harm::Cut) {
        disk.restart()?;
    }
    let java = match start() {
        Ok(java) => java,
        Err(error) => return Ok(format!("{said}it does not start again: {error:#}")),
    };
    let text = match found(books, java.broker) {
        Ok(verdict) => summary(&verdict),
        Err(error) => format!("reading fails: {error:#}"),
    };
    kill(java.pid)?;
    Ok(format!("{said}it starts again: {text}"))
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process has a number")?;
    kill_process(pid, Signal::KILL).context("cannot kill Java's broker")
}

/// From now on every sync of the process is answered with EIO.
fn failing_syncs(pid: u32, folder: &Path) -> Result<Process> {
    let mut command = Command::new("strace");
    command.args(["-f", "-p", &pid.to_string(), "-o"]).arg(folder.join("trace"));
    command.args(["-e", "trace=msync,fdatasync,fsync", "-e", "inject=msync,fdatasync,fsync:error=EIO"]);
    let process = Process::start(&command, &folder.join("strace.log"))?;
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(folder.join("trace")).is_ok_and(|text| text.contains("INJECTED")) {
        ensure!(Instant::now() < end, "no sync has failed{}", process.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(process)
}

fn flip(log: &Path, position: u64) -> Result<()> {
    let base = position - position % SEGMENT;
    let path = log.join(format!("{base:020}"));
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    // Behind the 88 bytes that stand before a body, and the id that tells whose it is.
    let at = position - base + 88 + 12;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).context("cannot read the log")?;
    byte[0] ^= 1;
    file.write_all_at(&byte, at).context("cannot change the log")
}

/// Reads everything back, when the queues have come to rest.
fn found(mut books: Books, broker: SocketAddr) -> Result<Verdict> {
    let ends = || -> Result<Vec<i64>> {
        let mut client = Client::connect(broker)?;
        (0..i32::try_from(QUEUES)?).map(|queue| client.max_offset(TOPIC, queue)).collect()
    };
    let mut last = ends()?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = ends()?;
        if now == last {
            break;
        }
        last = now;
    }
    books.observe(broker)?;
    Ok(books.verdict())
}

fn summary(verdict: &Verdict) -> String {
    let count = |kind: fn(&Finding) -> bool| verdict.findings.iter().filter(|finding| kind(finding)).count();
    let lost = count(|finding| matches!(finding, Finding::Lost { .. }));
    let altered = count(|finding| matches!(finding, Finding::Altered { .. }));
    let others = verdict.findings.len() - lost - altered;
    format!(
        "of {} acknowledged messages {lost} are lost, {altered} are delivered with other bytes, {others} other findings ({} found)",
        verdict.kept, verdict.observed
    )
}
