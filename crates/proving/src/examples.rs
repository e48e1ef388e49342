//! Our own client library, as those who use it see it: its examples, against `keepmq dev`.

use crate::interop::wait_for_route;
use crate::process::{Folder, PATIENCE, Process, free_port};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

const TOPIC: &str = "Examples";
const GROUP: &str = "examples";

/// What is there to be run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the built examples lie.
    #[arg(long, default_value = "target/release/examples")]
    dir: PathBuf,
}

/// Runs them all.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    let mut folder = Folder::new("examples")?;
    let told = story(binary, &options.dir, folder.path()).map_err(|error| format!("{error:#}"));
    if told.is_err() {
        folder.keep();
    }
    tally.check("client: the examples send, and consume exactly that, twice in one group", told);
    Ok(())
}

fn story(binary: &Path, examples: &Path, folder: &Path) -> Result<()> {
    let base = free_port()?;
    let name_server = SocketAddr::from((Ipv4Addr::LOCALHOST, base));
    let mut command = Command::new(binary);
    command.arg("dev").arg("--data").arg(folder.join("data")).args(["--port-base", &base.to_string()]);
    let mut dev = Process::start(&command, &folder.join("dev"))?;
    dev.wait_for(name_server)?;
    wait_for_route(name_server, "TBW102")?;
    let mut runs = 0;
    let mut example = |name: &str, words: &[&str]| {
        runs += 1;
        let mut command = Command::new(examples.join(name));
        command.args([&name_server.to_string(), TOPIC]).args(words);
        let log = folder.join(format!("{runs}-{name}"));
        let mut process = Process::start(&command, &log)?;
        let status = process.ended_within(PATIENCE)?.with_context(|| format!("{name} does not end"))?;
        ensure!(status.success(), "{name} ended with {status}{}", process.said());
        let said = std::fs::read_to_string(&log).with_context(|| format!("cannot read what {name} said"))?;
        Ok(said.lines().map(str::to_owned).collect::<Vec<_>>())
    };

    let sent = example("send", &[])?;
    expect(&sent, "10 kept, 0 refused, 0 unknown")?;
    let kept = places(&sent, "kept: ", ", ")?;
    expect(&example("send_async", &[])?, "1000 kept")?;
    let consumed = example("consume", &[GROUP, "1010"])?;
    expect(&consumed, "1010 processed, 0 given up, 0 queues uncommitted")?;
    let first = places(&consumed, "", ": ")?;
    ensure!(first.len() == 1010, "{} different messages of 1010 were consumed", first.len());
    ensure!(kept.len() == 10 && kept.keys().all(|place| first.contains_key(place)), "{kept:?} are not all consumed");
    let orders: BTreeSet<&str> = first.values().map(String::as_str).collect();
    ensure!((0..1_000).all(|number| orders.contains(&*format!("order {number}"))), "an order is missing: {orders:?}");

    // The group goes on behind what it has committed.
    let kept = places(&example("send", &[])?, "kept: ", ", ")?;
    let consumed = places(&example("consume", &[GROUP, "10"])?, "", ": ")?;
    ensure!(consumed.keys().eq(kept.keys()), "sent {kept:?}, and the group was given {consumed:?}");
    let status = dev.stop()?;
    ensure!(status.success(), "dev ended with {status}{}", dev.said());
    Ok(())
}

fn expect(said: &[String], last: &str) -> Result<()> {
    ensure!(said.last().is_some_and(|line| line == last), "it ends with {:?}, not with {last:?}", said.last());
    Ok(())
}

/// What is said of `queue Q offset O` behind `before`, up to `separator` and behind it.
fn places(said: &[String], before: &str, separator: &str) -> Result<BTreeMap<String, String>> {
    let mut places = BTreeMap::new();
    for line in said.iter().filter_map(|line| line.strip_prefix(before)).filter(|line| line.starts_with("queue ")) {
        let (place, rest) = line.split_once(separator).with_context(|| format!("{line:?} names no place"))?;
        let before = places.insert(place.to_owned(), rest.to_owned());
        ensure!(before.is_none(), "{place} comes twice");
    }
    Ok(places)
}
