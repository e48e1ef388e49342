//! The broker stands still under load (SIGSTOP), for as long as a long pause of a machine, and goes on: nobody is told anything
//! that is not so.

use crate::client::{Client, lock_queues};
use crate::good::Good;
use crate::load::{Books, Plan, TOPIC};
use crate::process::{Folder, PATIENCE, Process};
use crate::scene::{BROKER, Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_protocol::ResponseCode;
use keepmq_world::Chance;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// As RocketMQ's producers wait for an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Of a pause.
const SHORTEST: Duration = Duration::from_millis(100);
const GROUP: &str = "pauses-in-order";

/// So many pauses of at most this long.
pub fn run(tally: &mut Tally, binary: &Path, count: u64, longest: Duration, seed: u64) -> Result<()> {
    let what = format!("{count} pauses of the broker of {SHORTEST:?} to {longest:?} under load");
    let mut folder = Folder::new("pauses")?;
    match story(binary, folder.path(), count, longest, seed) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn story(binary: &Path, folder: &Path, count: u64, longest: Duration, seed: u64) -> Result<String> {
    let scene = Scene::new(binary, folder)?.flushing(Mode::Sync).with("mappedFileSizeCommitLog", &(4 << 20));
    let (mut broker, _) = scene.start_broker()?;
    let plan = Plan { patience: SEND_TIMEOUT, ..Plan::paced(4, 400) };
    let good = Good::start(scene.broker, plan, Books::open(&folder.join("ledger"))?)?;
    let locks = Locks::start(scene.broker)?;
    let mut chance = Chance::new(seed);
    let (mut paused, mut late) = (Duration::ZERO, 0);
    for pause in 1..=count {
        let span = u64::try_from((longest - SHORTEST).as_millis())?;
        // The first is the longest: the one that answers come too late for.
        let pause_of = if pause == 1 { longest } else { SHORTEST + Duration::from_millis(chance.below(span)) };
        let before = good.kept();
        broker.signal(Signal::STOP)?;
        std::thread::sleep(pause_of);
        broker.signal(Signal::CONT)?;
        paused += pause_of;
        late += u64::from(pause_of > SEND_TIMEOUT);
        goes_on(&good, &mut broker, before).with_context(|| format!("after pause {pause}, of {pause_of:.1?}"))?;
        std::thread::sleep(Duration::from_millis(chance.below(500)));
    }
    let seen = good.seen();
    // What has waited through a pause has waited too long for more to be let in behind it, which is a definite refusal.
    let busy = seen.refused.get(&(ResponseCode::SystemBusy as i32)).map_or(0, |(count, _)| *count);
    let others = seen.refused.iter().find(|(code, _)| **code != ResponseCode::SystemBusy as i32);
    ensure!(others.is_none(), "a pause is no reason to refuse a send: {others:?}");
    let unanswered = seen.broken;
    ensure!(longest <= SEND_TIMEOUT || unanswered > 0, "nobody's time was over, and {late} pauses were longer");
    let told = locks.end()?;
    let books = good.stop()?;
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    Ok(format!(
        "{books}; {paused:.1?} in all, {late} longer than senders wait; {unanswered} connections were given up, {} answers came as \
         unknown, {busy} sends were refused as too much; {told}",
        seen.unknown
    ))
}

/// Sends are acknowledged again.
fn goes_on(good: &Good, broker: &mut Process, before: u64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while good.kept() < before + 100 {
        good.check()?;
        ensure!(broker.ended_within(Duration::ZERO)?.is_none(), "the broker has ended{}", broker.said());
        ensure!(Instant::now() < end, "nothing is acknowledged{}", broker.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Two members of a group that want the lock of the same queue: one has it and renews it, the other asks again and again.
struct Locks {
    stop: Arc<AtomicBool>,
    outcome: mpsc::Receiver<Result<u64>>,
}

impl Locks {
    fn start(broker: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, outcome) = mpsc::channel();
        let mut owner = Client::connect(broker)?;
        owner.heartbeat("owner", GROUP, TOPIC)?;
        ensure!(lock_queues(&mut owner, "owner", GROUP, TOPIC, BROKER, 1)?, "a free lock is not given");
        let mut other = Client::connect(broker)?;
        other.heartbeat("other", GROUP, TOPIC)?;
        type Rule = fn(bool) -> Result<()>;
        let members: [(&'static str, Client, Duration, Rule); 2] = [
            ("owner", owner, Duration::from_secs(1), |given| {
                ensure!(given, "the owner was refused its own lock");
                Ok(())
            }),
            ("other", other, Duration::from_millis(50), |given| {
                ensure!(!given, "the lock was given to a second member while the first renews it");
                Ok(())
            }),
        ];
        for (name, mut client, every, rule) in members {
            let (stop, told) = (Arc::clone(&stop), told.clone());
            std::thread::spawn(move || {
                let mut asked = 0;
                let mut ask = || -> Result<u64> {
                    while !stop.load(Ordering::Relaxed) {
                        rule(lock_queues(&mut client, name, GROUP, TOPIC, BROKER, 1)?)?;
                        asked += 1;
                        std::thread::sleep(every);
                    }
                    Ok(asked)
                };
                // Whoever listens may have given up.
                let _ = told.send(ask().with_context(|| format!("the lock's {name}")));
            });
        }
        Ok(Self { stop, outcome })
    }

    fn end(self) -> Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = 0;
        for _ in 0..2 {
            asked += self.outcome.recv_timeout(PATIENCE).map_err(|_| anyhow!("a member says nothing any more"))??;
        }
        Ok(format!("a queue's lock was asked for {asked} times and had one owner"))
    }
}
