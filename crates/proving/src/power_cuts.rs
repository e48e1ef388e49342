//! The power fails under load, again and again: what was acknowledged under SYNC_FLUSH is on the disk.

use crate::client::Client;
use crate::cut::{CutDisk, lacking};
use crate::load::{Books, Load, Plan, QUEUES, TOPIC};
use crate::process::{Folder, PATIENCE, Process};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_ledger::Finding;
use keepmq_world::Chance;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Acknowledged between any two cuts.
const BETWEEN: u64 = 500;
/// So many cuts are many: then at least [`SHARP`] must hit each moment.
const MANY: u64 = 20;
const SHARP: u64 = 3;
const SEGMENT: u64 = 4 * 1024 * 1024;
const DISK: u64 = 2 * 1024 * 1024 * 1024;
const CONNECTIONS: usize = 4;
const DEPTH: usize = 8;

/// Of ASYNC_FLUSH.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest that a sync, once begun, may take of a shared machine, and what the clocks of two programs differ by.
const SYNC_MOST: Duration = Duration::from_millis(500);

/// What a run must find.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Nothing is lost.
    Kept,
    /// The product was built with this deliberate mistake; the loss must be found.
    Loss(&'a str),
}

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// At any time.
    Any,
    /// As the log goes on in a new file: it has its name, and nothing in it is acknowledged.
    Roll,
    /// As the broker writes the snapshot of its tables.
    Snapshot,
}

impl Moment {
    /// In turn.
    fn of(cut: u64) -> Self {
        match cut % 5 {
            1 | 3 => Self::Roll,
            2 | 4 => Self::Snapshot,
            _ => Self::Any,
        }
    }
}

/// Cuts so often, and judges after each.
pub fn run(tally: &mut Tally, binary: &Path, expected: Expected<'_>, count: u64, seed: u64) -> Result<()> {
    let what = match expected {
        Expected::Kept => {
            format!("{count} power cuts under load, at rolls and snapshots too, Sync flush, nothing lost")
        }
        Expected::Loss(bug) => format!("the planted bug {bug} is found by {count} power cuts"),
    };
    if let Some(why) = lacking() {
        tally.skip(&what, &why);
        return Ok(());
    }
    let mut folder = Folder::new("cuts")?;
    let told = story(binary, folder.path(), expected, count, seed);
    match (told, expected) {
        (Ok(Told { losses: 0, text }), Expected::Kept) => tally.pass(&format!("{what}: {text}")),
        (Ok(Told { losses: 1.., text }), Expected::Loss(_)) => {
            // The rest are the lost messages one by one.
            tally.pass(&format!("{what}: {}", text.lines().next().unwrap_or_default()));
        }
        (Ok(Told { text, .. }), _) => tally.fail(&what, &text),
        (Err(error), _) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

struct Told {
    losses: usize,
    text: String,
}

fn story(binary: &Path, folder: &Path, expected: Expected<'_>, count: u64, seed: u64) -> Result<Told> {
    let disk = CutDisk::new(folder, DISK)?;
    really_cuts(&disk).context("the power cut itself")?;
    let mut scene = Scene::new(binary, folder)?
        .flushing(Mode::Sync)
        .with("mappedFileSizeCommitLog", &SEGMENT)
        .with("storePathRootDir", &disk.path().join("store").display());
    if let Expected::Loss(bug) = expected {
        scene.planted = Some(bug.to_owned());
    }
    let mut chance = Chance::new(seed);
    let mut restarts = Vec::new();
    let mut hits: BTreeMap<Moment, u64> = BTreeMap::new();
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
    let load = Load::start(scene.broker, Plan::full(CONNECTIONS, DEPTH), Books::open(&folder.join("ledger"))?);
    let sharp = |hits: &BTreeMap<Moment, u64>, moment| hits.get(&moment).copied().unwrap_or_default() >= SHARP;
    let mut cut = 0;
    loop {
        cut += 1;
        // As many as asked for, and more of those that have missed too often: the moment is a millisecond long.
        let moment = match [Moment::Roll, Moment::Snapshot].into_iter().find(|moment| !sharp(&hits, *moment)) {
            _ if cut <= count => Moment::of(cut),
            Some(missing) if count >= MANY && cut <= 2 * count => missing,
            _ => break,
        };
        load.wait_for(load.kept(), BETWEEN, PATIENCE).with_context(|| format!("before cut {cut}"))?;
        let hit = strike(&disk, &scene.store(), &mut broker, &load, moment, &mut chance)
            .with_context(|| format!("cut {cut}, {moment:?}"))?;
        *hits.entry(moment).or_default() += u64::from(hit);
        // It may have noticed, and ended by itself.
        broker.kill()?;
        disk.restart()?;
        // Whoever holds the ledger keeps the senders from sending: what is read now is what the cut has left.
        let mut books = load.books();
        let (next, took) = scene.start_broker().with_context(|| format!("after cut {cut}"))?;
        broker = next;
        restarts.push(took.as_millis());
        books.observe(scene.broker)?;
        let verdict = books.verdict();
        let lost = verdict.findings.iter().filter(|finding| matches!(finding, Finding::Lost { .. })).count();
        if lost > 0 || (!verdict.is_clean() && matches!(expected, Expected::Kept)) {
            drop(books);
            drop(broker);
            load.stop()?;
            return Ok(Told { losses: verdict.findings.len(), text: format!("at cut {cut}: {verdict}") });
        }
    }
    let mut books = load.stop()?;
    books.observe(scene.broker)?;
    let verdict = books.verdict();
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    restarts.sort_unstable();
    let [rolls, snapshots] =
        [Moment::Roll, Moment::Snapshot].map(|moment| hits.get(&moment).copied().unwrap_or_default());
    // Few may miss by chance; many that miss are a blunt test.
    let blunt = count >= MANY && rolls.min(snapshots) < SHARP;
    ensure!(!blunt, "of {} cuts only {rolls} hit a roll and {snapshots} a snapshot", cut - 1);
    let text = format!(
        "{verdict}; {rolls} cuts hit a roll, {snapshots} a snapshot; ready again after at most {} ms",
        restarts.last().copied().unwrap_or_default()
    );
    Ok(Told { losses: verdict.findings.len(), text })
}

/// Cuts the power at such a moment; answers whether it was one.
fn strike(
    disk: &CutDisk,
    store: &Path,
    broker: &mut Process,
    load: &Load,
    moment: Moment,
    chance: &mut Chance,
) -> Result<bool> {
    // What follows a name takes less than a millisecond: two folders are synced, and the first group is written.
    let jitter = Duration::from_micros(chance.below(600));
    match moment {
        Moment::Any => {
            std::thread::sleep(Duration::from_micros(chance.below(100_000)));
            disk.cut()?;
            Ok(true)
        }
        Moment::Roll => {
            let base = newest(&store.join("commitlog"))? + SEGMENT;
            let next = store.join(format!("commitlog/{base:020}"));
            watch(&[&next], broker)?;
            spin(jitter);
            disk.cut()?;
            Ok(load.highest() < base)
        }
        Moment::Snapshot => {
            // At a clean stop it is written for sure.
            let last = snapshots(&store.join("keepmq"))?;
            let [aside, named] = ["", ".tmp"].map(|ending| store.join(format!("keepmq/meta-{:020}{ending}", last + 1)));
            broker.signal(Signal::TERM)?;
            watch(&[&aside, &named], broker)?;
            spin(jitter);
            disk.cut()?;
            Ok(broker.ended_within(Duration::ZERO)?.is_none())
        }
    }
}

/// Waits until one of these names is there, or the broker has ended; looks as often as it can, since what follows the name takes
/// a millisecond.
fn watch(names: &[&Path], broker: &mut Process) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for look in 0u64.. {
        if names.iter().any(|name| name.exists()) {
            return Ok(());
        }
        if look.is_multiple_of(1_024) {
            ensure!(Instant::now() < end, "none of {names:?} has come within {PATIENCE:?}{}", broker.said());
            if broker.ended_within(Duration::ZERO)?.is_some() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Where the newest segment begins.
fn newest(log: &Path) -> Result<u64> {
    numbers(log, "")?.max().context("the log has no segment")
}

/// The generation of the newest snapshot; 0 when there is none.
fn snapshots(own: &Path) -> Result<u64> {
    Ok(numbers(own, "meta-")?.max().unwrap_or_default())
}

fn numbers(folder: &Path, prefix: &'static str) -> Result<impl Iterator<Item = u64>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(move |name| name.strip_prefix(prefix)?.parse().ok()))
}

/// What was acknowledged under ASYNC_FLUSH and is lost in a power cut is not older than the time that the broker says.
pub fn run_async(tally: &mut Tally, binary: &Path, count: u64, seed: u64) -> Result<()> {
    let what = format!("{count} power cuts under load, Async flush: only what was acknowledged last is lost");
    if let Some(why) = lacking() {
        tally.skip(&what, &why);
        return Ok(());
    }
    let mut folder = Folder::new("cuts")?;
    match lossy_story(binary, folder.path(), count, seed) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn lossy_story(binary: &Path, folder: &Path, count: u64, seed: u64) -> Result<String> {
    let disk = CutDisk::new(folder, DISK)?;
    really_cuts(&disk).context("the power cut itself")?;
    let mut chance = Chance::new(seed);
    let (mut lost, mut oldest, mut kept) = (0, Duration::ZERO, 0);
    for cut in 1..=count {
        // A store of its own for each: what is lost leaves its offsets to the next.
        let store = disk.path().join(format!("store-{cut}"));
        let scene = Scene::new(binary, folder)?
            .flushing(Mode::Async)
            .with("mappedFileSizeCommitLog", &SEGMENT)
            .with("flushIntervalCommitLog", &INTERVAL.as_millis())
            .with("storePathRootDir", &store.display());
        let (mut broker, _) = scene.start_broker()?;
        Client::connect(scene.broker)?.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
        // Bodies that no device is behind with: how long a sync takes is not the question here.
        let plan = Plan { bodies: (16, 500), ..Plan::paced(CONNECTIONS, 2_000) };
        let load = Load::start(scene.broker, plan, Books::open(&folder.join("ledger"))?);
        let end = Instant::now() + Duration::from_millis(1_500 + chance.below(1_000));
        let mut marks = Vec::new();
        while Instant::now() < end {
            marks.push((Instant::now(), load.highest()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let at = Instant::now();
        disk.cut()?;
        broker.kill()?;
        disk.restart()?;
        let mut books = load.stop()?;
        let (mut broker, _) = scene.start_broker().with_context(|| format!("after cut {cut}"))?;
        let said = std::fs::read_to_string(folder.join("broker.log")).context("cannot read what it said")?;
        let promise = format!("may take what was acknowledged in the last {} ms", INTERVAL.as_millis());
        ensure!(said.contains(&promise), "it does not say what a power cut takes: {}", broker.said());
        books.observe(scene.broker)?;
        let verdict = books.verdict();
        let positions = books.positions();
        for finding in &verdict.findings {
            let Finding::Lost { id, .. } = finding else { bail!("cut {cut}: {verdict}") };
            let position = *positions.get(id).with_context(|| format!("message {id} has no place"))?;
            // It was acknowledged no later than when this mark was seen.
            let seen = marks.iter().find(|(_, highest)| *highest >= position).map_or(at, |(seen, _)| *seen);
            let age = at.saturating_duration_since(seen);
            ensure!(age <= INTERVAL + SYNC_MOST, "cut {cut}: message {id}, acknowledged {age:.1?} before it, is lost");
            oldest = oldest.max(age);
            lost += 1;
        }
        kept += verdict.kept;
        broker.kill()?;
    }
    ensure!(count < 5 || lost > 0, "nothing is lost in {count} cuts: nothing was seen of what they take");
    Ok(format!(
        "of {kept} acknowledged {lost} are lost, the oldest acknowledged {} ms before the cut",
        oldest.as_millis()
    ))
}

/// A cut that loses nothing would prove nothing: what was synced must be there after it, what was not must be gone.
fn really_cuts(disk: &CutDisk) -> Result<()> {
    let path = |name: &str| disk.path().join(name);
    let mut synced = File::create(path("synced")).context("cannot create a file")?;
    synced.write_all(b"kept").and_then(|()| synced.sync_all()).context("cannot sync a file")?;
    File::open(disk.path()).and_then(|folder| folder.sync_all()).context("cannot sync a folder")?;
    std::fs::write(path("unsynced"), "gone").context("cannot write a file")?;
    disk.cut()?;
    drop(synced);
    disk.restart()?;
    let found = std::fs::read(path("synced")).context("what was synced is gone")?;
    ensure!(found == b"kept", "what was synced has become {found:?}");
    let left = std::fs::read(path("unsynced")).unwrap_or_default();
    ensure!(left != b"gone", "what was not synced is there: this file system does not lose what it should");
    Ok(())
}
