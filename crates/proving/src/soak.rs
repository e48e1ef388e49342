//! Everything together for a long time: memory must not grow, and the books must balance.

use crate::client::{Client, LATE, pull_request};
use crate::figures::slope;
use crate::good::{Good, judge};
use crate::hostile::pests;
use crate::load::{Books, Plan, TOPIC};
use crate::process::{Folder, Process};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::request::{DeleteTopic, Unregister};
use keepmq_world::Chance;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages a second, in 20 connections; one in 16 requests is a batch of four. With bodies of 500 bytes on average, 20
/// minutes fill some 2 GiB, and `fileReservedTime` (an hour at least) removes nothing meanwhile.
const PLAN: (usize, u32) = (20, 1_600);
const BODIES: (u64, u64) = (16, 1_000);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_secs(5);
/// Growth in the second half that is still none, in KiB a minute: the queue index in memory is bounded, the tables do not
/// grow (topics are deleted again, groups have eight names), so what is left is the allocator's slow settling and the noise
/// of buffers that breathe with the load, some MiB. A real leak of a byte a request would be 100 KiB a minute.
const SLOPE_KIB: f64 = 256.0;
/// Below this many samples in the second half the slope is noise, and only printed.
const JUDGED: usize = 30;
/// Rows of the table.
const ROWS: usize = 20;

/// Mixed load for so long.
pub fn run(tally: &mut Tally, binary: &Path, time: Duration, seed: u64) -> Result<()> {
    let what = format!("soak: {} minutes of everything: the books balance, memory does not grow", time.as_secs() / 60);
    let mut folder = Folder::new("soak")?;
    match story(binary, folder.path(), time, seed) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

fn story(binary: &Path, folder: &Path, time: Duration, seed: u64) -> Result<String> {
    let scene = Scene::new(binary, folder)?.with("mappedFileSizeCommitLog", &(64 << 20));
    let (mut broker, _) = scene.start_broker()?;
    let plan = Plan { bodies: BODIES, oneway: true, ..Plan::paced(PLAN.0, PLAN.1) };
    let good = Good::start(scene.broker, plan, Books::open(&folder.join("ledger"))?)?;
    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let mut samples = Vec::new();
    let told = std::thread::scope(|scope| {
        let (stop, addr) = (&stop, scene.broker);
        let threads = [
            ("topics", scope.spawn(move || until(stop, |round| topics(addr, round)))),
            ("groups", scope.spawn(move || groups(addr, stop, seed))),
            ("polls", scope.spawn(move || until(stop, |round| polls(addr, round)))),
            ("pests", scope.spawn(move || until(stop, |round| pests(addr, round)))),
        ];
        let watched = watch(&broker, &good, began, time, &mut samples);
        stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        for (name, thread) in threads {
            let rounds = thread.join().map_err(|_| anyhow!("{name}: a panic"))?.context(name)?;
            told.push(format!("{rounds} rounds of {name}"));
        }
        watched.map(|()| told.join(", "))
    });
    // Also when it has failed: how memory went until then may say why.
    table(&samples);
    let told = told?;
    let line = judge("good clients", &good.seen(), began.elapsed(), LATE)?;
    good.check()?;
    let verdict = good.stop()?;
    let second: Vec<_> = samples.split_off(samples.len() / 2).iter().map(|row| (row.minutes, row.kib as f64)).collect();
    let slope = slope(&second);
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    let told = format!("{verdict}; {line}; {told}; RssAnon grows by {slope:.0} KiB a minute in the second half");
    ensure!(second.len() < JUDGED || slope <= SLOPE_KIB, "{told}; {SLOPE_KIB} is the bound");
    Ok(told)
}

/// What was seen at one moment.
struct Sample {
    minutes: f64,
    kib: u64,
    kept: u64,
}

fn watch(broker: &Process, good: &Good, began: Instant, time: Duration, samples: &mut Vec<Sample>) -> Result<()> {
    while began.elapsed() < time {
        std::thread::sleep(SAMPLE.min(time.saturating_sub(began.elapsed())));
        good.check()?;
        let kib = broker.status_kib("RssAnon").with_context(|| broker.said())?;
        samples.push(Sample { minutes: began.elapsed().as_secs_f64() / 60.0, kib, kept: good.kept() });
    }
    Ok(())
}

fn table(samples: &[Sample]) {
    println!("      | minute | RssAnon KiB | acknowledged |\n      |--:|--:|--:|");
    let step = samples.len().div_ceil(ROWS).max(1);
    for Sample { minutes, kib, kept } in samples.iter().skip(step - 1).step_by(step) {
        println!("      | {minutes:.1} | {kib} | {kept} |");
    }
}

/// Does it again and again.
fn until(stop: &AtomicBool, mut once: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        once(round)?;
        round += 1;
    }
    Ok(round)
}

/// A topic is created, used, and deleted. The name comes again: what was in it does not.
fn topics(addr: SocketAddr, round: u64) -> Result<()> {
    let name = format!("Passing-{}", round % 4);
    let mut client = Client::connect(addr)?;
    client.create_topic(&name, 2)?;
    for message in 0..20u64 {
        client.send(&name, 0, &[round.to_be_bytes(), message.to_be_bytes()].concat())?;
    }
    let found = client.read_queue(&name, 0)?;
    let right =
        found.iter().zip(0u64..).all(|(found, n)| found.body == [round.to_be_bytes(), n.to_be_bytes()].concat());
    ensure!(found.len() == 20 && right, "topic {name}, made for the {round}th time, has {} messages", found.len());
    client.must(&Request::DeleteTopic(DeleteTopic { topic: name.into(), cluster: None }))?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// Members of eight groups come and go, politely or not.
fn groups(addr: SocketAddr, stop: &AtomicBool, seed: u64) -> Result<u64> {
    let mut chance = Chance::new(seed);
    let mut members: Vec<(Client, String, String)> = Vec::new();
    until(stop, |round| {
        let (group, id) = (format!("passing-{}", chance.below(8)), format!("client-{round}"));
        let mut client = Client::connect(addr)?;
        client.heartbeat(&id, &group, TOPIC)?;
        members.push((client, group, id));
        for (client, group, id) in &mut members {
            client.heartbeat(id, group, TOPIC)?;
        }
        if members.len() > 24 {
            let at = usize::try_from(chance.below(members.len() as u64))?;
            let (mut client, group, id) = members.swap_remove(at);
            if chance.one_in(2) {
                let leave =
                    Unregister { client_id: id.into(), producer_group: None, consumer_group: Some(group.into()) };
                client.must(&Request::Unregister(leave))?;
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    })
}

/// Long polls for what does not come; some are given up before their time.
fn polls(addr: SocketAddr, round: u64) -> Result<()> {
    const HELD: Duration = Duration::from_secs(3);
    let mut client = Client::connect(addr)?;
    let end = client.max_offset(TOPIC, 0)?;
    for _ in 0..100 {
        client.post(&pull_request(TOPIC, 0, end, "neverseen", HELD));
    }
    client.flush()?;
    if round.is_multiple_of(2) {
        std::thread::sleep(HELD / 3);
        return Ok(());
    }
    for _ in 0..100 {
        let (_, response) = client.receive()?.context("a poll was closed upon")?;
        ensure!(matches!(response.code, 19 | 20), "a poll for nothing was answered with {}", response.code);
    }
    Ok(())
}
