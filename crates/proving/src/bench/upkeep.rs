//! What the broker does beside its work, and whether anybody feels it: scrub, checkpoints, rolls and retention at a third of the
//! load that it takes.

use super::Options;
use crate::interop;
use crate::process::{Folder, Process};
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// As a scenario.
pub(super) const NAME: &str = "upkeep";

/// Part of the load that the broker takes.
const LOAD: f64 = 0.3;
/// Pairs, whatever is asked for: tails vary.
const PAIRS: usize = 5;
const TOPIC: &str = "Bench";

#[derive(Debug, Deserialize)]
struct Run {
    rate: f64,
    p99_us: f64,
    n: u64,
    err: u64,
}

/// Measures, and answers a line of text.
pub(super) fn measure(binary: &Path, options: &Options) -> Result<String> {
    let folder = Folder::new("bench-upkeep")?;
    let quiet = Side::start(binary, &folder, "quiet", |scene| scene.with("scrub.bytesPerSecond", "0"))?;
    // Segments that roll all the time and go again at once, and a scrub that never rests.
    let busy = Side::start(binary, &folder, "busy", |scene| {
        scene
            .with("mappedFileSizeCommitLog", &(32 << 20))
            .with("scrub.interval", "1000")
            .with("retention.lagPolicy", "delete")
            .with("diskMaxUsedSpaceRatio", "1")
            .with("cleanFileForciblyEnable", "true")
    })?;
    let secs = options.secs.to_string();
    let most = quiet.send(&["--secs", &secs])?.rate;
    busy.send(&["--secs", &secs])?;
    let (rate, secs) = (format!("{:.0}", most * LOAD), (3 * options.secs).to_string());
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let words = ["--rate", rate.as_str(), "--secs", &secs];
        pairs.push((quiet.send(&words)?.p99_us, busy.send(&words)?.p99_us));
    }
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[PAIRS / 2]
    };
    Ok(format!(
        "sends at {rate}/s of {most:.0}: p99 {:.0} µs; with rolls, scrub and retention all the time {:.0} µs: **{:.2}** (median of \
         {PAIRS} pairs)\n",
        median(&|pair| pair.0),
        median(&|pair| pair.1),
        median(&|pair| pair.1 / pair.0)
    ))
}

/// A broker, and how to load it.
struct Side {
    binary: std::path::PathBuf,
    scene: Scene,
    /// They end when this is dropped.
    _processes: [Process; 2],
}

impl Side {
    fn start(binary: &Path, folder: &Folder, name: &str, keys: impl FnOnce(Scene) -> Scene) -> Result<Self> {
        let folder = folder.path().join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let scene = keys(Scene::new(binary, &folder)?.flushing(Mode::Sync).registering());
        let name_server = scene.start_name_server()?;
        let (broker, _) = scene.start_broker()?;
        interop::wait_for_route(scene.name_server, "TBW102")?;
        Ok(Self { binary: binary.to_owned(), scene, _processes: [name_server, broker] })
    }

    fn send(&self, words: &[&str]) -> Result<Run> {
        let mut command = Command::new(&self.binary);
        command.args([
            "bench",
            "send",
            "--producers",
            "64",
            "--in-flight",
            "1",
            "--warm",
            "1",
            "--json",
            "--topic",
            TOPIC,
        ]);
        command.args(words).args(["--namesrv", &self.scene.name_server.to_string()]);
        let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        let run: Run = serde_json::from_str(said.trim()).with_context(|| format!("{command:?} said {said}"))?;
        ensure!(run.err == 0 && run.n > 0, "{command:?}: {} did not end well: {said}", run.err);
        Ok(run)
    }
}
