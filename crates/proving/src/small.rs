//! Short checks: the memory of an idle product, and the README's first command.

use crate::client::Client;
use crate::process::{Folder, PATIENCE, Process, free_port};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a broker and a name server that do nothing may use together.
const IDLE_KIB: u64 = 24 * 1024;
/// How long they have been doing nothing by then.
const SETTLED: Duration = Duration::from_secs(30);

/// Memory of a broker and a name server on a fresh store.
pub fn rss(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("rss")?;
    let scene = Scene::new(binary, folder.path())?.registering();
    let name_server = scene.start_name_server()?;
    let (broker, _) = scene.start_broker()?;
    std::thread::sleep(SETTLED);
    let (first, second) = (broker.status_kib("VmRSS")?, name_server.status_kib("VmRSS")?);
    let what = format!("idle: broker {first} KiB and name server {second} KiB resident after {SETTLED:?}");
    let limit = format!("more than {IDLE_KIB} KiB together");
    tally.check(&what, if first + second <= IDLE_KIB { Ok(()) } else { Err(limit) });
    Ok(())
}

/// `keepmq dev`, as the README says: everything in one process, a first message, a clean end on Ctrl-C.
pub fn dev(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("dev")?;
    tally.check("dev: starts, shows a message, keeps it, ends on Ctrl-C", {
        first_minutes(binary, folder.path()).map_err(|error| format!("{error:#}"))
    });
    Ok(())
}

fn first_minutes(binary: &Path, folder: &Path) -> Result<()> {
    let base = free_port()?;
    let broker = SocketAddr::from((Ipv4Addr::LOCALHOST, base + 10));
    let mut command = Command::new(binary);
    command.arg("dev").arg("--data").arg(folder.join("data")).args(["--port-base", &base.to_string()]);
    // A second start finds what the first has kept.
    for start in 1..=2 {
        let mut process = Process::start(&command, &folder.join("log"))?;
        process.wait_for(broker)?;
        // Its port is open before it has sent and shown the first message.
        let end = Instant::now() + PATIENCE;
        while said(folder)?.matches("ready in").count() < start {
            ensure!(Instant::now() < end, "start {start} is not ready after {PATIENCE:?}{}", process.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let kept: usize = demo_messages(broker).with_context(|| process.said())?;
        ensure!(kept > 0, "start {start}: the topic demo has no message{}", process.said());
        process.signal(Signal::INT)?;
        let status = process.ended_within(PATIENCE)?.context("it does not end on Ctrl-C")?;
        ensure!(status.success(), "start {start} ended with {status}{}", process.said());
    }
    let said = said(folder)?;
    for word in ["demo", &broker.port().to_string()] {
        ensure!(said.contains(word), "it did not say {word:?}: {said}");
    }
    Ok(())
}

fn said(folder: &Path) -> Result<String> {
    std::fs::read_to_string(folder.join("log")).context("cannot read what it said")
}

fn demo_messages(broker: SocketAddr) -> Result<usize> {
    let mut client = Client::connect(broker)?;
    let mut messages = 0;
    // A topic that was made by a send has at least one queue; which one was used is the broker's choice.
    for queue in 0..16 {
        let pulled = client.pull("demo", queue, 0)?;
        messages += pulled.messages.len();
    }
    Ok(messages)
}
