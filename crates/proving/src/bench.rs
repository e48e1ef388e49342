//! Ours and a reference alternately on the same machine: the ratio is what counts, absolute figures hold for one run only.

use crate::client::Client;
use crate::process::{Folder, Process, free_port};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::Request;
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The load generator.
    #[arg(long)]
    load: PathBuf,
    /// The reference: a prototype of the write path.
    #[arg(long)]
    proto: PathBuf,
    /// Pairs of runs; the median of their ratios counts.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Measured seconds of a run, after one that is not.
    #[arg(long, default_value_t = 3)]
    secs: u64,
    /// Keep the table in bench/results.
    #[arg(long)]
    save: bool,
    /// One scenario; all, when none is named.
    scenario: Option<String>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    mode: Mode,
    /// Connections that send; 0: readers that pull what is there.
    connections: usize,
}

const fn row(name: &'static str, mode: Mode, connections: usize) -> Scenario {
    Scenario { name, mode, connections }
}

const SCENARIOS: &[Scenario] = &[
    row("send-sync-1", Mode::Sync, 1),
    row("send-sync-16", Mode::Sync, 16),
    row("send-sync-64", Mode::Sync, 64),
    row("send-async-1", Mode::Async, 1),
    row("send-async-16", Mode::Async, 16),
    row("send-async-64", Mode::Async, 64),
    row("pull", Mode::Async, 0),
];
/// Messages that are there to be pulled.
const TO_PULL: u64 = 300_000;
const TOPIC: &str = "Bench";

/// What the load generator reports.
#[derive(Clone, Debug, Deserialize)]
struct Run {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    broker_cpu_us: f64,
    rss_anon_kb: f64,
    /// Answers other than success.
    err: u64,
    /// A rejecting broker is a fast broker: it must also have done something.
    n: u64,
}

/// A server that is measured.
struct Server {
    process: Process,
    addr: SocketAddr,
}

/// Measures, prints, and keeps the table if asked to.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    let wanted = |scenario: &&Scenario| options.scenario.as_deref().is_none_or(|name| name == scenario.name);
    let chosen: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        bail!("no such scenario; there are {}", names.join(", "));
    }
    let mut table = String::from(
        "| scenario | ours msg/s | reference msg/s | ratio | p50 µs ours / ref | p99 µs ours / ref | CPU µs/msg ours / ref | messages per flush | RssAnon MiB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    println!("{table}");
    for scenario in chosen {
        match measure(binary, options, scenario) {
            Ok(line) => {
                println!("{line}");
                writeln!(table, "{line}")?;
                tally.pass(&format!("bench: {}", scenario.name));
            }
            Err(error) => tally.fail(&format!("bench: {}", scenario.name), &format!("{error:#}")),
        }
    }
    if options.save { save(&table, options) } else { Ok(()) }
}

fn measure(binary: &Path, options: &Options, scenario: &Scenario) -> Result<String> {
    let folder = Folder::new("bench")?;
    let scene = Scene::new(binary, folder.path())?.flushing(scenario.mode);
    let (process, _) = scene.start_broker()?;
    let ours = Server { process, addr: scene.broker };
    // The better of the prototype's ways to keep the same promise.
    let ways: &[&str] = if scenario.mode == Mode::Sync { &["sync", "inline"] } else { &["write"] };
    let mut references = Vec::new();
    for way in ways {
        references.push(prototype(options, way, folder.path())?);
    }
    for server in references.iter().chain([&ours]) {
        prepare(options, scenario, server)?;
    }
    let (mut pairs, mut flushed) = (Vec::new(), (0, 0));
    for _ in 0..options.pairs {
        let before = flushes(&scene)?;
        let mine = load(options, scenario, &ours)?;
        let after = flushes(&scene)?;
        flushed = (flushed.0 + after.0 - before.0, flushed.1 + after.1 - before.1);
        let mut best: Option<Run> = None;
        for reference in &references {
            let run = load(options, scenario, reference)?;
            if best.as_ref().is_none_or(|best| run.rate > best.rate) {
                best = Some(run);
            }
        }
        pairs.push((mine, best.context("there is a reference")?));
    }
    let median = |of: &dyn Fn(&(Run, Run)) -> f64| {
        let mut values: Vec<_> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let per_flush = match flushed {
        (0, _) => "–".to_owned(),
        (flushes, records) => format!("{:.1}", records as f64 / flushes as f64),
    };
    Ok(format!(
        "| {} | {:.0} | {:.0} | **{:.2}** | {:.0} / {:.0} | {:.0} / {:.0} | {:.1} / {:.1} | {per_flush} | {:.0} |",
        scenario.name,
        median(&|(ours, _)| ours.rate),
        median(&|(_, reference)| reference.rate),
        median(&|(ours, reference)| ours.rate / reference.rate),
        median(&|(ours, _)| ours.p50_us),
        median(&|(_, reference)| reference.p50_us),
        median(&|(ours, _)| ours.p99_us),
        median(&|(_, reference)| reference.p99_us),
        median(&|(ours, _)| ours.broker_cpu_us),
        median(&|(_, reference)| reference.broker_cpu_us),
        median(&|(ours, _)| ours.rss_anon_kb) / 1024.0,
    ))
}

fn prototype(options: &Options, way: &str, folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut command = Command::new(&options.proto);
    command.args(["--mode", way, "--port", &port.to_string(), "--prezero", "1024", "--file"]);
    command.arg(folder.join(format!("proto-{way}.log")));
    let mut process = Process::start(&command, &folder.join(format!("proto-{way}.said")))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    process.wait_for(addr)?;
    Ok(Server { process, addr })
}

/// Creates the topic, and fills it when it is to be pulled from; otherwise warms up.
fn prepare(options: &Options, scenario: &Scenario, server: &Server) -> Result<()> {
    let amount = match scenario.connections {
        0 => ["--count", &TO_PULL.to_string(), "--secs", "60", "--warm", "0"].map(str::to_owned),
        _ => ["--count", "1000000", "--secs", "1", "--warm", "0"].map(str::to_owned),
    };
    let words: Vec<_> = ["send", "--create", "--conns", "64"].map(str::to_owned).into_iter().chain(amount).collect();
    generate(options, server, &words).map(drop)
}

fn load(options: &Options, scenario: &Scenario, server: &Server) -> Result<Run> {
    let (connections, secs) = (scenario.connections.to_string(), options.secs.to_string());
    let words: Vec<&str> = match scenario.connections {
        0 => vec!["pull", "--batch", "32", "--secs", "60"],
        _ => vec!["send", "--conns", &connections, "--secs", &secs, "--warm", "1"],
    };
    generate(options, server, &words.into_iter().map(str::to_owned).collect::<Vec<_>>())
}

fn generate(options: &Options, server: &Server, words: &[String]) -> Result<Run> {
    let mut command = Command::new(&options.load);
    command.args(words).args(["--topic", TOPIC, "--json", "--addr", &server.addr.to_string()]);
    command.args(["--pid", &server.process.id().to_string()]);
    let output = command.output().with_context(|| format!("cannot start {}", options.load.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}{errors}", output.status);
    let run: Run = serde_json::from_str(&said).with_context(|| format!("{command:?} said {said}{errors}"))?;
    ensure!(run.err == 0 && run.n > 0, "{command:?}: {} answers were not success: {said}", run.err);
    Ok(run)
}

/// Flushes of the broker so far, and the records in them.
fn flushes(scene: &Scene) -> Result<(u64, u64)> {
    #[derive(Deserialize)]
    struct Info {
        table: Table,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Table {
        keepmq_flushes: String,
        keepmq_flushed_records: String,
    }
    let response = Client::connect(scene.broker)?.must(&Request::RuntimeInfo)?;
    let Info { table } = serde_json::from_slice(&response.body.concat()).context("the broker's runtime information")?;
    Ok((table.keepmq_flushes.parse()?, table.keepmq_flushed_records.parse()?))
}

/// Writes the table down, with the machine and the commit it holds for.
fn save(table: &str, options: &Options) -> Result<()> {
    let said = |program: &str, words: &[&str]| -> Result<String> {
        let output = Command::new(program).args(words).output().with_context(|| format!("cannot start {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (date, commit) = (said("date", &["-u", "+%F-%H%M"])?, said("git", &["rev-parse", "--short", "HEAD"])?);
    let (kernel, cores) = (said("uname", &["-sr"])?, said("nproc", &[])?);
    let text = format!(
        "# {date}\n\nCommit {commit} or later, {kernel}, {cores} cores. 1 KB messages, {} pairs of {} s, medians; the reference is the \
         prototype of the write path (the better of its two ways for sync).\n\n```sh\ncargo xtask bench --save\n```\n\n{table}",
        options.pairs, options.secs
    );
    std::fs::create_dir_all("bench/results").context("cannot create bench/results")?;
    let path = PathBuf::from(format!("bench/results/{date}.md"));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("      kept in {}", path.display());
    Ok(())
}
