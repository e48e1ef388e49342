//! More than the disk takes: what is refused was not stored, what is accepted comes soon, and afterwards all is well.

use crate::client::{ANSWER, Client};
use crate::load::{Books, Load, Plan, QUEUES, Seen, TOPIC};
use crate::process::Folder;
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_protocol::ResponseCode;
use std::path::Path;
use std::time::{Duration, Instant};

/// Large messages from many connections: five times what may wait for the disk is under way at any time, so that the limit is
/// met however fast the disk is.
const PLAN: Plan = Plan {
    connections: 64,
    depth: 8,
    every: Duration::ZERO,
    bodies: (100 << 10, 400 << 10),
    oneway: false,
    patience: ANSWER,
};
/// So much is stored at most: a fast disk would be filled.
const KEPT: u64 = 6_000;
/// What the broker may use meanwhile: 64 MiB of frames that are coming in, and the half again that buffers grow beyond
/// them; 24 MiB that wait for the disk; the allocator's gaps.
const MEMORY_KIB: u64 = 256 * 1024;
/// Longest that an accepted message may take from the moment at which it is handed to its socket: everything that is under way
/// then, 128 MiB, at 8 MB/s. (Within the broker it may take `syncFlushTimeout`, 5 s: after that its outcome would be unknown,
/// which is looked at by itself.)
const ACCEPTED: Duration = Duration::from_secs(16);
/// How soon a send succeeds when the load is gone: or as soon as the slowest that was accepted under it, on a disk that is as
/// slow as that.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Both ways of flushing.
pub fn run(tally: &mut Tally, binary: &Path, time: Duration) -> Result<()> {
    for mode in [Mode::Sync, Mode::Async] {
        let what =
            format!("overload, {mode:?} flush: refused is not stored, accepted is soon, and afterwards all is well");
        let mut folder = Folder::new("overload")?;
        match story(binary, folder.path(), mode, time) {
            Ok(told) => tally.pass(&format!("{what}: {told}")),
            Err(error) => {
                tally.fail(&what, &format!("{error:#}"));
                folder.keep();
            }
        }
    }
    Ok(())
}

fn story(binary: &Path, folder: &Path, mode: Mode, time: Duration) -> Result<String> {
    let scene = Scene::new(binary, folder)?.flushing(mode).with("mappedFileSizeCommitLog", &(128 << 20));
    let (mut broker, _) = scene.start_broker()?;
    let mut client = Client::connect(scene.broker)?;
    client.create_topic(TOPIC, i32::try_from(QUEUES)?)?;
    let load = Load::start(scene.broker, PLAN, Books::open(&folder.join("ledger"))?);
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < time && load.kept() < KEPT {
        std::thread::sleep(Duration::from_millis(50));
        most = most.max(broker.status_kib("RssAnon")?);
    }
    let took = began.elapsed();
    // Everybody has a last answer to come; then it is over.
    let seen = load.seen();
    let mut books = load.stop()?;
    let stopped = Instant::now();
    client.send("AfterOverload", 0, b"a normal message").context("a normal send after the load")?;
    let normal = stopped.elapsed();
    books.observe(scene.broker).context("reading everything back")?;
    let verdict = books.verdict();
    let Seen { latencies, refused, unknown, broken, why_broken } = &seen;
    let told = format!(
        "{verdict}; {:.0} requests/s accepted, {latencies}; refused: {refused:?}; RssAnon {most} KiB at most; the next send took {normal:.0?}",
        latencies.len() as f64 / took.as_secs_f64()
    );
    ensure!(verdict.is_clean() && verdict.duplicated == 0, "{told}");
    ensure!(*broken == 0, "{told}; {broken} connections broke: {why_broken}");
    ensure!(*unknown == 0, "{told}; {unknown} answers left the outcome open");
    for (code, (_, text)) in refused {
        ensure!(*code == ResponseCode::SystemBusy as i32, "{told}; code {code} is not SYSTEM_BUSY");
        ensure!(text.contains("limit is") || text.contains("being reserved"), "{told}; the text names no limit");
    }
    // Without syncs a quick disk may take it all: what is refused then waits for a segment, by chance.
    ensure!(!refused.is_empty() || mode == Mode::Async, "{told}; it was no overload");
    ensure!(latencies.max() < ACCEPTED, "{told}; nothing accepted may wait {ACCEPTED:?}");
    ensure!(normal < AT_ONCE.max(latencies.max()), "{told}; that is not at once");
    ensure!(most <= MEMORY_KIB, "{told}; the bound is {MEMORY_KIB} KiB");
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    Ok(told)
}
