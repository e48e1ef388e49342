//! Our client library against a load generator that does nothing but write frames, and against the Java client: on one broker, in
//! one run.

use super::Options;
use crate::interop;
use crate::process::{Folder, Process};
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// As a scenario.
pub(super) const NAME: &str = "client";

/// Sends under way of the one producer.
const IN_FLIGHT: &str = "64";
const SIZE: &str = "1024";
/// Seconds that the Java client runs before it is measured: a virtual machine that compiles while it runs is slow at first.
const JAVA_WARM: &str = "8";
/// Version of the Java client.
const JAVA: &str = "5.3.3";
/// Messages that are there to be consumed.
const TO_CONSUME: &str = "300000";
const TOPIC: &str = "Bench";

#[derive(Debug, Deserialize)]
struct Run {
    rate: f64,
    n: u64,
    err: u64,
}

/// Measures, and answers lines of text. Without Java, the Java client is left out by name.
pub(super) fn measure(binary: &Path, options: &Options) -> Result<String> {
    let java = &options.java_programs;
    let folder = Folder::new("bench-clients")?;
    let scene = Scene::new(binary, folder.path())?.flushing(Mode::Sync).registering();
    let _name_server = scene.start_name_server()?;
    let (_broker, _) = scene.start_broker()?;
    interop::wait_for_route(scene.name_server, "TBW102")?;
    let (name_server, broker) = (scene.name_server.to_string(), scene.broker.to_string());
    let secs = options.secs.to_string();

    let raw = |words: &[&str]| {
        let mut command = Command::new(&options.load);
        command.args(words).args(["--topic", TOPIC, "--json", "--addr", &broker]);
        run(command)
    };
    let ours = |words: &[&str]| {
        let mut command = Command::new(binary);
        command.arg("bench").args(words).args(["--topic", TOPIC, "--json", "--namesrv", &name_server]);
        run(command)
    };
    raw(&["send", "--create", "--conns", "16", "--count", TO_CONSUME, "--secs", "60", "--warm", "0"])?;
    interop::wait_for_route(scene.name_server, TOPIC)?;

    let mut lines = String::new();
    let consumed = pairs(options.pairs, || {
        let ours = ours(&["consume", "--by", "push"])?;
        Ok((ours.rate, raw(&["pull", "--batch", "32", "--secs", "60"])?.rate))
    })?;
    writeln!(lines, "push consumer: {} messages/s, raw pull {}: **{:.2}**", consumed.0, consumed.1, consumed.2)?;
    let sent = pairs(options.pairs, || {
        let ours = ours(&["send", "--in-flight", IN_FLIGHT, "--size", SIZE, "--secs", &secs, "--warm", "1"])?;
        Ok((ours.rate, raw(&["send", "--conns", "1", "--inflight", IN_FLIGHT, "--secs", &secs, "--warm", "1"])?.rate))
    })?;
    writeln!(
        lines,
        "one producer with {IN_FLIGHT} under way: {} messages/s, raw load generator {}: **{:.2}**",
        sent.0, sent.1, sent.2
    )?;
    if let Some(lack) = interop::lacking(&["java", "mvn"]) {
        writeln!(lines, "the Java client is left out: {lack}")?;
    } else {
        let class_path = interop::built(java, JAVA)?;
        let home = folder.path().join("java-home");
        let against = pairs(options.pairs, || {
            let ours = ours(&["send", "--in-flight", IN_FLIGHT, "--size", SIZE, "--secs", &secs, "--warm", "1"])?;
            let mut command = Command::new("java");
            command.args(["-Xmx512m", "-cp", &class_path]);
            command.arg(format!("-Duser.home={}", home.display()));
            command.arg(format!("-Drocketmq.client.logRoot={}", home.display()));
            command.args(["keepmq.interop.Load", &name_server, TOPIC, IN_FLIGHT, SIZE, JAVA_WARM, &secs]);
            Ok((ours.rate, run(command)?.rate))
        })?;
        writeln!(
            lines,
            "the same against the Java client {JAVA}, {JAVA_WARM} s warmed up: {} messages/s, Java {}: **{:.2}**",
            against.0, against.1, against.2
        )?;
    }
    writeln!(lines, "a consumer that has nothing to do: VmRSS {:.1} MiB", idle(binary, &name_server, folder.path())?)?;
    Ok(lines)
}

/// Medians of both sides, and of their ratio.
fn pairs(count: usize, mut pair: impl FnMut() -> Result<(f64, f64)>) -> Result<(String, String, f64)> {
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push(pair()?);
    }
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok((format!("{:.0}", median(&|run| run.0)), format!("{:.0}", median(&|run| run.1)), median(&|run| run.0 / run.1)))
}

fn run(mut command: Command) -> Result<Run> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}{errors}", output.status);
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let run: Run = serde_json::from_str(line).with_context(|| format!("{command:?} said {said}{errors}"))?;
    ensure!(run.err == 0 && run.n > 0, "{command:?}: {} did not end well: {said}", run.err);
    Ok(run)
}

/// MiB of a consumer that waits.
fn idle(binary: &Path, name_server: &str, folder: &Path) -> Result<f64> {
    let mut command = Command::new(binary);
    command.args(["consume", TOPIC, "-g", "bench-idle", "--from", "last", "--namesrv", name_server]);
    let process = Process::start(&command, &folder.join("idle.log"))?;
    std::thread::sleep(Duration::from_secs(5));
    let kib = process.status_kib("VmRSS").with_context(|| process.said())?;
    Ok(kib as f64 / 1024.0)
}
