//! SIGKILL under load, again and again: nothing that was acknowledged may be missing afterwards.

use crate::client::Client;
use crate::load::{Books, Load, Plan, QUEUES, TOPIC};
use crate::process::{Folder, PATIENCE, Process};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_world::Chance;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;

/// Acknowledged between any two kills.
const BETWEEN: u64 = 1_000;
/// Small segments, so that many kills hit a roll.
const SEGMENT: u64 = 1024 * 1024;
const CONNECTIONS: usize = 4;
const DEPTH: usize = 16;
const GROUP: &str = "proving-offsets";

/// How often a kill hit something at work.
#[derive(Debug, Default)]
struct Hits {
    flush: u64,
    roll: u64,
    stop: u64,
}

/// Kills so often, and judges.
pub fn run(tally: &mut Tally, binary: &Path, mode: Mode, count: u64, seed: u64) -> Result<()> {
    let what = format!("{count} kills under load, {mode:?} flush, nothing lost");
    let mut folder = Folder::new("kills")?;
    match story(binary, folder.path(), mode, count, seed) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn story(binary: &Path, folder: &Path, mode: Mode, count: u64, seed: u64) -> Result<String> {
    let scene = Scene::new(binary, folder)?.flushing(mode).with("mappedFileSizeCommitLog", &SEGMENT);
    let mut chance = Chance::new(seed);
    let (mut broker, _) = scene.start_broker()?;
    let mut client = Client::connect(scene.broker)?;
    client.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
    client.create_group(GROUP)?;
    let load = Load::start(scene.broker, Plan::full(CONNECTIONS, DEPTH), Books::open(&folder.join("ledger"))?);
    let mut hits = Hits::default();
    let mut restarts = Vec::new();
    for kill in 1..=count {
        load.wait_for(load.kept(), BETWEEN, PATIENCE)?;
        let offset = i64::try_from(kill)?;
        Client::connect(scene.broker)?.commit(GROUP, TOPIC, 0, offset)?;
        std::thread::sleep(Duration::from_micros(chance.below(50_000)));
        strike(&mut broker, &load, &scene, &mut chance, &mut hits)?;
        let (next, took) = scene.start_broker().with_context(|| format!("after kill {kill}"))?;
        broker = next;
        restarts.push(took);
        let found = Client::connect(scene.broker)?.committed(GROUP, TOPIC, 0)?;
        ensure!(found == offset, "kill {kill}: offset {offset} was committed and confirmed, and is now {found}");
    }
    load.wait_for(load.kept(), BETWEEN, PATIENCE)?;
    let mut books = load.stop()?;
    books.observe(scene.broker)?;
    let verdict = books.verdict();
    ensure!(verdict.is_clean(), "{verdict}");
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    // Few kills may miss by chance; many that all miss are a blunt test.
    let blunt = count >= 20 && [hits.flush, hits.roll, hits.stop].contains(&0);
    ensure!(!blunt, "of {count} kills some kind of moment was never hit: {hits:?}");
    restarts.sort();
    let at = |part: usize| restarts[(restarts.len() - 1) * part / 100].as_millis();
    Ok(format!(
        "{verdict}; {} kills hit a flush, {} a roll, {} a clean stop; ready again after {} / {} / {} ms (min, median, max)",
        hits.flush,
        hits.roll,
        hits.stop,
        at(0),
        at(50),
        at(100)
    ))
}

/// Ends the broker: mostly at once, every fifth time in the middle of a clean stop, where it writes its snapshot.
fn strike(broker: &mut Process, load: &Load, scene: &Scene, chance: &mut Chance, hits: &mut Hits) -> Result<()> {
    if chance.one_in(5) {
        broker.signal(Signal::TERM)?;
        if broker.ended_within(Duration::from_micros(chance.below(10_000)))?.is_none() {
            hits.stop += 1;
        }
    }
    let in_flight = load.in_flight();
    broker.kill()?;
    hits.flush += u64::from(in_flight > 0);
    hits.roll += u64::from(rolling(scene, load.highest())?);
    Ok(())
}

/// Whether the kill hit a roll: the newest segment has nothing yet that was acknowledged, or the one behind it is not
/// ready to be used.
fn rolling(scene: &Scene, acknowledged: u64) -> Result<bool> {
    let store = scene.store();
    let log = store.join("commitlog");
    let mut newest = None;
    for entry in std::fs::read_dir(&log).with_context(|| format!("cannot list {}", log.display()))? {
        let name = entry.context("cannot list the segments")?.file_name();
        newest = newest.max(name.to_string_lossy().parse::<u64>().ok());
    }
    let reserved = std::fs::metadata(store.join("keepmq/next")).map_or(0, |file| file.len());
    Ok(newest.is_some_and(|base| base > acknowledged) || reserved < SEGMENT)
}
