//! Everything at once, while good clients work.

use super::cases::TOPIC;
use super::strangers::{self, Stage};
use crate::client::Client;
use crate::good::{Good, judge};
use crate::load::{Books, Plan};
use crate::process::{Folder, Process, raise_files};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Good clients, and their requests a second: a load that a quiet machine does not notice.
const GOOD: (usize, u32) = (8, 400);
/// What the broker may use while it lasts. What it holds for others is bounded: 64 MiB of incomplete frames, in buffers that may
/// have grown to twice that; 64 MiB of answers for each of two peers that take none; 24 MiB of records that wait for the disk
/// and 16 of the log's end; some 40 MiB of parked pulls, and as much for ten thousand connections. That makes 376,
/// and a third more for the allocator's gaps.
const DURING_KIB: u64 = 512 * 1024;
/// What may be left of it. All of it is free then, but the C library's allocator gives back only what lies at the end of its
/// heap, and something small always lies behind the large.
const AFTER_KIB: u64 = 384 * 1024;
/// Longest that a good client waits in the storm. A broker takes requests as they come, a hundred thousand pulls at a time cost
/// it seconds of a core, and the strangers want the same cores: what it really is stands in the figures. (That no send waits
/// 5 s for the disk is looked at as well: it would have no outcome then.)
const STORM_LATE: Duration = Duration::from_secs(30);
/// Longest until memory is given back: two of the shard's looks at quiet connections, and some.
const CALM: Duration = Duration::from_secs(12);
/// Files besides the idle connections, of ours or the broker's.
const FILES: u64 = 5_000;

/// How long what takes.
struct Times {
    quiet: Duration,
    storm: Duration,
}

type Stranger = (&'static str, fn(&Stage) -> Result<String>);

/// All strangers, by name.
const STRANGERS: &[Stranger] = &[
    ("cases", strangers::cases),
    ("bombs", strangers::bombs),
    ("deaf senders", strangers::deaf_senders),
    ("deaf pullers", strangers::deaf_pullers),
    ("a hundred thousand pulls", strangers::pulls),
    ("subscriptions", strangers::subscriptions),
    ("members", strangers::members),
    ("clocks", strangers::clocks),
    ("slow frames", strangers::slow_frames),
    ("announcements", strangers::announcements),
    ("idle", strangers::idle),
];

/// Names all of them.
const ALL: &str = "all";

/// The storm, as one check; `only` one of the strangers, if it is named.
pub(super) fn run(tally: &mut Tally, what: &str, binary: &Path, long: bool, only: Option<&str>) -> Result<()> {
    let times = match long {
        true => Times { quiet: Duration::from_secs(60), storm: Duration::from_secs(300) },
        false => Times { quiet: Duration::from_secs(6), storm: Duration::from_secs(25) },
    };
    let mut chosen: Vec<Stranger> =
        STRANGERS.iter().copied().filter(|(name, _)| only.is_none_or(|only| only == *name || only == ALL)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = STRANGERS.iter().map(|(name, _)| *name).collect();
        bail!("no such stranger; there are {}, or {ALL}", names.join(", "));
    }
    let files = raise_files();
    if files < strangers::IDLE as u64 + FILES {
        chosen.retain(|(name, _)| *name != "idle");
        let why = format!("{files} files may be open (ulimit -Hn)");
        tally.skip(&format!("hostile: {} idle connections in the storm", strangers::IDLE), &why);
    }
    let mut folder = Folder::new("storm")?;
    match story(binary, folder.path(), &times, &chosen) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => {
            tally.fail(what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn story(binary: &Path, folder: &Path, times: &Times, chosen: &[Stranger]) -> Result<String> {
    let scene = Scene::new(binary, folder)?.with("mappedFileSizeCommitLog", &(64 << 20));
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, 4)?;
    let good = Good::start(scene.broker, Plan::paced(GOOD.0, GOOD.1), Books::open(&folder.join("ledger"))?)?;
    // What happens once only is not part of it.
    std::thread::sleep(Duration::from_secs(1));
    good.seen();
    std::thread::sleep(times.quiet);
    println!("      {}", judge("quiet", &good.seen(), times.quiet, Duration::MAX)?);
    let before = broker.status_kib("RssAnon")?;

    let began = Instant::now();
    let stage = Stage { broker: scene.broker, until: began + times.storm };
    let threads: Vec<(&str, JoinHandle<Result<String>>)> =
        chosen.iter().copied().map(|(name, stranger)| (name, std::thread::spawn(move || stranger(&stage)))).collect();
    let mut during = before;
    while threads.iter().any(|(_, thread)| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(100));
        during = during.max(broker.status_kib("RssAnon").with_context(|| broker.said())?);
    }
    let seen = good.seen();
    let took = began.elapsed();
    let mut faults = Vec::new();
    for (name, thread) in threads {
        match thread.join() {
            Ok(Ok(told)) => println!("      {name}: {told}"),
            Ok(Err(error)) => faults.push(format!("{name}: {error:#}")),
            Err(_) => faults.push(format!("{name} has panicked")),
        }
    }
    let storm = judge("storm", &seen, took, STORM_LATE);
    println!("      {}", storm.as_ref().map_or_else(|error| format!("{error:#}"), Clone::clone));
    let after = calm(&broker, before)?;
    println!("      RssAnon: {before} KiB before, {during} during, {after} after");
    good.check()?;
    let verdict = good.stop()?;
    let status = broker.stop()?;
    let said = std::fs::read_to_string(folder.join("broker.log")).context("cannot read what the broker said")?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    storm?;
    ensure!(during <= DURING_KIB, "RssAnon went from {before} to {during} KiB, and {DURING_KIB} is the bound");
    ensure!(after <= before + AFTER_KIB, "RssAnon was {before} KiB before and stays at {after} KiB");
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    ensure!(!said.contains("panicked"), "the broker has panicked: {}", broker.said());
    Ok(verdict)
}

/// Waits until memory is given back, and says how much is left.
fn calm(broker: &Process, before: u64) -> Result<u64> {
    let end = Instant::now() + CALM;
    loop {
        let now = broker.status_kib("RssAnon")?;
        if now <= before + AFTER_KIB / 4 || Instant::now() > end {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
