//! Everything at once, while good clients work.

use super::cases::TOPIC;
use super::strangers::{self, Stage};
use crate::client::{Client, LATE};
use crate::good::{Good, judge};
use crate::load::{Books, Plan};
use crate::process::{Folder, Process, raise_files};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
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
/// What the broker may use on top when the same strangers come once more. All that it held for them is free by then, but the C
/// library's allocator gives back only what lies at the end of its heap, and something small always lies behind the large: so
/// what is left says little, and what is used again says that it was free.
const AGAIN_KIB: u64 = 128 * 1024;
/// Longest that a good client waits in the storm, from the moment at which its request was due. Its request and its answer stand
/// behind a few turns of the shard, of a MiB each: tens of milliseconds here, where strangers and broker share two cores. What
/// is looked for is a turn without bounds, which takes seconds, and all requests that were due meanwhile are behind it. A machine
/// that is ten times slower, or whose disk stands still for the 5 s after which a send has no outcome (looked at as well), is no
/// reason to fail.
const STORM_LATE: Duration = LATE;
/// Files besides the idle connections, of ours or the broker's.
const FILES: u64 = 5_000;

/// How long what takes.
struct Times {
    quiet: Duration,
    storm: Duration,
    again: Duration,
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
        true => {
            Times { quiet: Duration::from_secs(60), storm: Duration::from_secs(300), again: Duration::from_secs(60) }
        }
        false => {
            let seconds = Duration::from_secs;
            Times { quiet: seconds(6), storm: seconds(25), again: seconds(10) }
        }
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
    let mut faults = Vec::new();
    let during = storm("storm", &broker, &good, chosen, scene.broker, times.storm, &mut faults)?;
    let after = broker.status_kib("RssAnon")?;
    let again = storm("again", &broker, &good, chosen, scene.broker, times.again, &mut faults)?;
    println!("      RssAnon: {before} KiB before, {during} during, {after} after, {again} during the second");
    good.check()?;
    let verdict = good.stop()?;
    let status = broker.stop()?;
    let said = std::fs::read_to_string(folder.join("broker.log")).context("cannot read what the broker said")?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    ensure!(during <= DURING_KIB, "RssAnon went from {before} to {during} KiB, and {DURING_KIB} is the bound");
    let bound = during + AGAIN_KIB;
    ensure!(again <= bound, "RssAnon went to {during} KiB, and when all came again, to {again}: {bound} is the bound");
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    ensure!(!said.contains("panicked"), "the broker has panicked: {}", broker.said());
    Ok(verdict)
}

/// Lets the strangers loose on the broker for so long. Answers the most memory that it used; puts what was wrong with `faults`.
fn storm(
    what: &str,
    broker: &Process,
    good: &Good,
    chosen: &[Stranger],
    addr: SocketAddr,
    time: Duration,
    faults: &mut Vec<String>,
) -> Result<u64> {
    good.seen();
    let began = Instant::now();
    let stage = Stage { broker: addr, until: began + time };
    let threads: Vec<(&str, JoinHandle<Result<String>>)> =
        chosen.iter().copied().map(|(name, stranger)| (name, std::thread::spawn(move || stranger(&stage)))).collect();
    let mut most = 0;
    while threads.iter().any(|(_, thread)| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(100));
        most = most.max(broker.status_kib("RssAnon").with_context(|| broker.said())?);
    }
    let seen = good.seen();
    for (name, thread) in threads {
        match thread.join() {
            Ok(Ok(told)) => println!("      {name}: {told}"),
            Ok(Err(error)) => faults.push(format!("{name}: {error:#}")),
            Err(_) => faults.push(format!("{name} has panicked")),
        }
    }
    match judge(what, &seen, began.elapsed(), STORM_LATE) {
        Ok(told) => println!("      {told}"),
        Err(error) => faults.push(format!("{error:#}")),
    }
    Ok(most)
}
