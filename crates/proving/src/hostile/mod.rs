//! Bad input against real processes. First each case alone: it is answered with RocketMQ's code and a text, and a good client
//! goes on as before. Then all of it at once, from a thousand connections and more, while good clients work: `storm.rs`.

mod cases;
mod name_server;
mod refusals;
mod storm;
mod strangers;

use crate::client::Client;
use crate::process::{Folder, Process, raise_files};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use cases::{TOPIC, bombs, frames, good_client, requests, throw};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What bad input may cost in memory, when it comes piece by piece.
const MEMORY_KIB: u64 = 96 * 1024;

/// What a single frame may cost: its own bytes, 16 MiB at most, in a buffer that may have grown to twice as much; and what is
/// made of it.
const EACH_KIB: u64 = 128 * 1024;

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Minutes instead of seconds.
    #[arg(long)]
    long: bool,
    /// Only the storm, of only this one; `all` of them.
    #[arg(long)]
    only: Option<String>,
}

/// Throws everything at a broker and a name server.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    raise_files();
    if options.only.is_none() {
        one_by_one(tally, binary)?;
        name_server::run(tally, binary)?;
        refusals::run(tally, binary)?;
    }
    let what = "hostile: good clients work on while everybody else misbehaves";
    storm::run(tally, what, binary, options.long, options.only.as_deref())
}

/// A handful of the cases, for those who test something else and want strangers about; another handful each round.
pub(crate) fn pests(broker: SocketAddr, round: u64) -> Result<()> {
    const HANDFUL: usize = 5;
    // Those that put something into the topic of the cases need it; making it again changes nothing.
    let mut client = Client::connect(broker)?;
    client.create_topic(TOPIC, 4)?;
    let cases: Vec<_> = frames().into_iter().chain(requests()).collect();
    let first = usize::try_from(round)? * HANDFUL % cases.len();
    for case in cases.iter().cycle().skip(first).take(HANDFUL) {
        throw(broker, case).with_context(|| case.what.clone())?;
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn one_by_one(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("hostile")?;
    let scene = Scene::new(binary, folder.path())?;
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, 4)?;
    let before = broker.status_kib("VmRSS")?;
    for case in frames().into_iter().chain(requests()).chain(bombs()) {
        let seen = throw(scene.broker, &case).and_then(|()| good_client(scene.broker));
        tally.check(&format!("hostile: {}", case.what), seen.map_err(|error| format!("{error:#}")));
    }
    let peak = broker.status_kib("VmHWM")?;
    let what = format!("hostile: none of these takes more than {EACH_KIB} KiB");
    let most = peak.saturating_sub(before);
    tally.check(&what, if most <= EACH_KIB { Ok(()) } else { Err(format!("one took {most} KiB")) });
    tally.check("hostile: 200 connections that announce 15 MiB each", greedy(&scene, &broker));
    let status = broker.stop()?;
    tally.check(
        "hostile: after all that, a clean stop",
        if status.success() { Ok(()) } else { Err(format!("{status}{}", broker.said())) },
    );
    Ok(())
}

/// Announced is not sent: memory must not be given for it.
fn greedy(scene: &Scene, broker: &Process) -> Result<(), String> {
    let story = || {
        let before = broker.status_kib("VmRSS")?;
        let mut body = vec![b'x'; 1024];
        body.splice(..0, (15u32 << 20).to_be_bytes().into_iter().chain([0, 0, 0, 100]));
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut client = Client::connect(scene.broker)?;
            client.raw(&body)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_millis(200));
        good_client(scene.broker)?;
        let after = broker.status_kib("VmRSS")?;
        ensure!(after < before + MEMORY_KIB, "memory went from {before} to {after} KiB");
        Ok(())
    };
    story().map_err(|error: anyhow::Error| format!("{error:#}"))
}
