//! The power fails under load, again and again: what was acknowledged under SYNC_FLUSH is on the disk.

use crate::client::Client;
use crate::cut::{CutDisk, lacking};
use crate::load::{Books, Load, Plan, QUEUES, TOPIC};
use crate::process::{Folder, PATIENCE};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_ledger::Finding;
use keepmq_world::Chance;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Acknowledged between any two cuts.
const BETWEEN: u64 = 500;
const SEGMENT: u64 = 4 * 1024 * 1024;
const DISK: u64 = 2 * 1024 * 1024 * 1024;
const CONNECTIONS: usize = 4;
const DEPTH: usize = 8;

/// What a run must find.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Nothing is lost.
    Kept,
    /// The product was built with this deliberate mistake; the loss must be found.
    Loss(&'a str),
}

/// Cuts so often, and judges after each.
pub fn run(tally: &mut Tally, binary: &Path, expected: Expected<'_>, count: u64, seed: u64) -> Result<()> {
    let what = match expected {
        Expected::Kept => format!("{count} power cuts under load, Sync flush, nothing lost"),
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
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
    let load = Load::start(scene.broker, Plan::full(CONNECTIONS, DEPTH), Books::open(&folder.join("ledger"))?);
    for cut in 1..=count {
        load.wait_for(load.kept(), BETWEEN, PATIENCE).with_context(|| format!("before cut {cut}"))?;
        std::thread::sleep(Duration::from_micros(chance.below(100_000)));
        disk.cut()?;
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
    let text = format!("{verdict}; ready again after at most {} ms", restarts.last().copied().unwrap_or_default());
    Ok(Told { losses: verdict.findings.len(), text })
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
