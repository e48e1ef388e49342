//! `cargo xtask bench`: builds everything and lets `keepmq-proving bench` measure.

use crate::run::{cargo, command, lines, quiet, root, target};
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenarios, by the beginning of their names; all, when none is named.
    scenarios: Vec<String>,
    /// Against a Java RocketMQ instead of the prototype.
    #[arg(long)]
    java: bool,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Keep the table in bench/results.
    #[arg(long)]
    save: bool,
}

/// Answers whether something failed. The ratios only inform: this machine's neighbours are not ours to judge.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tools = root().join("../shared/bench/tools/Cargo.toml");
    if !tools.is_file() {
        bail!("there is no ../shared/bench/tools: the load generator and the reference are kept there");
    }
    let tools_target = target().join("bench-tools");
    let build_tools =
        format!("build --quiet --release --manifest-path {} --target-dir {}", tools.display(), tools_target.display());
    for words in ["build --quiet --release -p keepmq", "build --quiet --release -p keepmq-proving", &build_tools] {
        if let Err(why) = quiet(&mut cargo(words))? {
            bail!("{why}");
        }
    }
    let tool = |name: &str| tools_target.join("release").join(name);
    let mut bench = command(target().join("release/keepmq-proving"));
    bench.arg("bench").arg("--load").arg(tool("load")).arg("--proto").arg(tool("proto"));
    bench.arg("--binary").arg(target().join("release/keepmq")).args(["--pairs", &options.pairs.to_string()]);
    if options.save {
        bench.arg("--save");
    }
    if options.java {
        bench.arg("--java").arg(root().join("../shared/bench/java-peer/java-peer.sh"));
    }
    bench.args(&options.scenarios);
    Ok(!lines(&mut bench, |line| println!("{line}"))?)
}
