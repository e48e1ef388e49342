//! Ours and a reference alternately on the same machine: the ratio is what counts, absolute figures hold for one run only.

mod clients;
mod recovery;
mod servers;
mod topics;
mod upkeep;

use crate::client::Client;
use crate::scene::Mode;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::Request;
use serde::Deserialize;
use servers::{Contest, Server};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The load generator.
    #[arg(long)]
    load: PathBuf,
    /// The prototype of the write path.
    #[arg(long)]
    proto: PathBuf,
    /// What starts a Java broker; then that is the reference, and not the prototype.
    #[arg(long)]
    java: Option<PathBuf>,
    /// Version of the Java broker.
    #[arg(long, default_value = "5.3.3")]
    java_version: String,
    /// Where the Java programs lie.
    #[arg(long, default_value = "interop/java")]
    java_programs: PathBuf,
    /// Pairs of runs; the median of their ratios counts.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Measured seconds of a run, after one that is not.
    #[arg(long, default_value_t = 3)]
    secs: u64,
    /// Keep the table in bench/results.
    #[arg(long)]
    save: bool,
    /// Scenarios, by the beginning of their names; all, when none is named.
    scenarios: Vec<String>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    mode: Mode,
    work: Work,
}

/// What the load generator does.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// So many connections, each with so many sends under way.
    Send { connections: usize, in_flight: usize },
    /// As `Send`, and the reference is our own broker in ASYNC_FLUSH: what durability costs.
    Durability { connections: usize },
    /// Readers that pull what is there.
    Pull,
    /// A fixed rate in, readers that wait for it: the time from the one to the other.
    EndToEnd,
}

const fn send(name: &'static str, mode: Mode, connections: usize, in_flight: usize) -> Scenario {
    Scenario { name, mode, work: Work::Send { connections, in_flight } }
}

const SCENARIOS: &[Scenario] = &[
    send("send-sync-1", Mode::Sync, 1, 1),
    send("send-sync-16", Mode::Sync, 16, 1),
    send("send-sync-64", Mode::Sync, 64, 1),
    send("send-sync-256", Mode::Sync, 256, 1),
    send("send-sync-4x64", Mode::Sync, 4, 64),
    send("send-async-1", Mode::Async, 1, 1),
    send("send-async-16", Mode::Async, 16, 1),
    send("send-async-64", Mode::Async, 64, 1),
    send("send-async-256", Mode::Async, 256, 1),
    send("send-async-4x64", Mode::Async, 4, 64),
    Scenario { name: "pull", mode: Mode::Async, work: Work::Pull },
    Scenario { name: "e2e-sync", mode: Mode::Sync, work: Work::EndToEnd },
    Scenario { name: "e2e-async", mode: Mode::Async, work: Work::EndToEnd },
    Scenario { name: "durability-64", mode: Mode::Sync, work: Work::Durability { connections: 64 } },
];
/// What is more than a row: it answers lines of text.
struct Other {
    name: &'static str,
    measure: fn(&Path, &Options) -> Result<String>,
}

const OTHERS: &[Other] = &[
    Other { name: topics::NAME, measure: topics::measure },
    Other { name: clients::NAME, measure: clients::measure },
    Other { name: recovery::NAME, measure: recovery::measure },
    Other { name: upkeep::NAME, measure: upkeep::measure },
];
/// Messages that are there to be pulled.
const TO_PULL: u64 = 300_000;
/// Messages a second of the end-to-end scenarios.
const PACE: u64 = 1_000;
const TOPIC: &str = "Bench";

/// What the load generator reports.
#[derive(Clone, Debug, Deserialize)]
struct Run {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    #[serde(default)]
    broker_cpu_us: f64,
    #[serde(default)]
    rss_anon_kb: f64,
    /// Answers other than success.
    err: u64,
    /// A rejecting broker is a fast broker: it must also have done something.
    n: u64,
}

/// Measures, prints, and keeps the table if asked to.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    let wanted =
        |name: &str| options.scenarios.is_empty() || options.scenarios.iter().any(|word| name.starts_with(word));
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| wanted(scenario.name)).collect();
    // Only one of those that are more than a row compares with RocketMQ's servers.
    let others: Vec<_> = OTHERS
        .iter()
        .filter(|other| wanted(other.name) && (options.java.is_none() || other.name == recovery::NAME))
        .collect();
    if chosen.is_empty() && others.is_empty() {
        let names = SCENARIOS.iter().map(|scenario| scenario.name).chain(OTHERS.iter().map(|other| other.name));
        let names: Vec<_> = names.collect();
        bail!("no such scenario; there are {}", names.join(", "));
    }
    let mut table = String::from(
        "| scenario | ours msg/s | reference msg/s | ratio | p50 µs ours / ref | ratio | p99 µs ours / ref | ratio | CPU µs/msg ours / ref | messages per flush | RssAnon MiB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    println!("{table}");
    for scenario in chosen {
        // A Java broker is no reference for what durability costs ours.
        if options.java.is_some() && matches!(scenario.work, Work::Durability { .. }) {
            continue;
        }
        match measure(binary, options, scenario) {
            Ok(line) => {
                println!("{line}");
                writeln!(table, "{line}")?;
                tally.pass(&format!("bench: {}", scenario.name));
            }
            Err(error) => tally.fail(&format!("bench: {}", scenario.name), &format!("{error:#}")),
        }
    }
    for Other { name, measure } in others {
        match measure(binary, options) {
            Ok(lines) => {
                println!("{lines}");
                write!(table, "\n{lines}")?;
                tally.pass(&format!("bench: {name}"));
            }
            Err(error) => tally.fail(&format!("bench: {name}"), &format!("{error:#}")),
        }
    }
    if options.save { save(&table, options) } else { Ok(()) }
}

fn measure(binary: &Path, options: &Options, scenario: &Scenario) -> Result<String> {
    let contest = Contest::new(binary, options, scenario)?;
    for server in contest.references.iter().chain([&contest.ours]) {
        prepare(options, scenario, server)?;
    }
    let better = |run: &Run, than: &Run| match scenario.work {
        Work::EndToEnd => run.p50_us < than.p50_us,
        _ => run.rate > than.rate,
    };
    let (mut pairs, mut flushed) = (Vec::new(), (0, 0));
    for _ in 0..options.pairs {
        let before = flushes(contest.ours.addr)?;
        let mine = load(options, scenario, &contest.ours)?;
        let after = flushes(contest.ours.addr)?;
        flushed = (flushed.0 + after.0 - before.0, flushed.1 + after.1 - before.1);
        let mut best: Option<Run> = None;
        for reference in &contest.references {
            let run = load(options, scenario, reference)?;
            if best.as_ref().is_none_or(|best| better(&run, best)) {
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
    let compared = |of: fn(&Run) -> f64, digits: usize| {
        let (ours, reference) = (median(&|(ours, _)| of(ours)), median(&|(_, reference)| of(reference)));
        (format!("{ours:.digits$}"), format!("{reference:.digits$}"), median(&|(a, b)| of(a) / of(b)))
    };
    let (rate, p50) = (compared(|run| run.rate, 0), compared(|run| run.p50_us, 0));
    let (p99, cpu) = (compared(|run| run.p99_us, 0), compared(|run| run.broker_cpu_us, 1));
    let per_flush = match flushed {
        (0, _) => "–".to_owned(),
        (flushes, records) => format!("{:.1}", records as f64 / flushes as f64),
    };
    Ok(format!(
        "| {} | {} | {} | **{:.2}** | {} / {} | {:.2} | {} / {} | {:.2} | {} / {} | {per_flush} | {:.0} |",
        scenario.name,
        rate.0,
        rate.1,
        rate.2,
        p50.0,
        p50.1,
        p50.2,
        p99.0,
        p99.1,
        p99.2,
        cpu.0,
        cpu.1,
        median(&|(ours, _)| ours.rss_anon_kb) / 1024.0,
    ))
}

/// Creates the topic, and fills it when it is to be pulled from; otherwise warms up.
fn prepare(options: &Options, scenario: &Scenario, server: &Server) -> Result<()> {
    let to_pull = TO_PULL.to_string();
    // A virtual machine that compiles while it runs needs longer until it is as fast as it gets.
    let warm = if server.warms_up { "20" } else { "1" };
    let words: &[&str] = match scenario.work {
        Work::Pull => &["--count", &to_pull, "--secs", "60", "--warm", "0"],
        _ => &["--count", "10000000", "--secs", warm, "--warm", "0"],
    };
    generate(options, server, &[&["send", "--create", "--conns", "64"], words].concat())?;
    if server.warms_up && matches!(scenario.work, Work::Pull) {
        load(options, scenario, server)?;
    }
    Ok(())
}

fn load(options: &Options, scenario: &Scenario, server: &Server) -> Result<Run> {
    let (secs, pace) = (options.secs.to_string(), PACE.to_string());
    // A tail needs more messages than a rate.
    let long = (3 * options.secs).to_string();
    match scenario.work {
        Work::Pull => generate(options, server, &["pull", "--batch", "32", "--secs", "60"]),
        Work::EndToEnd => generate(options, server, &["e2e", "--rate", &pace, "--secs", &long, "--warm", "1"]),
        Work::Send { connections, in_flight } => {
            let (connections, in_flight) = (connections.to_string(), in_flight.to_string());
            let words = ["send", "--conns", &connections, "--inflight", &in_flight, "--secs", &secs, "--warm", "1"];
            generate(options, server, &words)
        }
        Work::Durability { connections } => {
            let connections = connections.to_string();
            generate(options, server, &["send", "--conns", &connections, "--secs", &secs, "--warm", "1"])
        }
    }
}

fn generate(options: &Options, server: &Server, words: &[&str]) -> Result<Run> {
    let mut command = Command::new(&options.load);
    command.args(words).args(["--topic", TOPIC, "--json", "--addr", &server.addr.to_string()]);
    command.args(["--pid", &server.pid.to_string()]);
    let output = command.output().with_context(|| format!("cannot start {}", options.load.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}{errors}", output.status);
    // An end-to-end run also says, in a second line, how long the acknowledgements took.
    let first = said.lines().next().unwrap_or_default();
    let run: Run = serde_json::from_str(first).with_context(|| format!("{command:?} said {said}{errors}"))?;
    ensure!(run.err == 0 && run.n > 0, "{command:?}: {} answers were not success: {said}", run.err);
    Ok(run)
}

/// Flushes of a broker of ours so far, and the records in them.
fn flushes(broker: SocketAddr) -> Result<(u64, u64)> {
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
    let response = Client::connect(broker)?.must(&Request::RuntimeInfo)?;
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
    let (reference, words) = match &options.java {
        None => ("the prototype of the write path (the better of its two ways for sync)".to_owned(), ""),
        Some(_) => (format!("RocketMQ {} with the same kind of flushing, warmed up", options.java_version), " --java"),
    };
    let text = format!(
        "# {date}\n\nCommit {commit} or later, {kernel}, {cores} cores. 1 KB messages, {} pairs of {} s, medians; the reference is \
         {reference}. `durability` compares SYNC_FLUSH with ASYNC_FLUSH, both ours.\n\n```sh\ncargo xtask bench{words} --save\n```\n\n{table}",
        options.pairs, options.secs
    );
    std::fs::create_dir_all("bench/results").context("cannot create bench/results")?;
    let path = PathBuf::from(format!("bench/results/{date}{}.md", if options.java.is_some() { "-java" } else { "" }));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("      kept in {}", path.display());
    Ok(())
}
