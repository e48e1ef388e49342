//! `cargo xtask fuzz`: libFuzzer on the targets of `fuzz/`, with the compiler that builds everything else.
//!
//! The flags are those that cargo-fuzz sets, without AddressSanitizer: that alone needs another compiler, and the code has no
//! `unsafe` in which it could find anything.

use crate::run::{cargo, command, quiet, root, target};
use crate::tally::Tally;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The target; all, one after the other, when none is named.
    target: Option<String>,
    /// For how long each is tried.
    #[arg(long, default_value_t = 60)]
    secs: u64,
    /// Put what reaches new code into the kept corpus, as few inputs as reach the same as all.
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// Every target for so long.
    pub(crate) fn all(secs: u64) -> Self {
        Self { target: None, secs, keep: false }
    }
}

/// Named, so that build scripts are built without these flags.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What lets libFuzzer see where an input gets, and what it is compared with; and a sum that overflows is a finding.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks=on";
/// Longest input, longest that one may take, and most memory: what is beyond is a finding. Kept inputs are at most 1 MiB together.
const LIMITS: &str = "-max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 -print_final_stats=1";

/// Inputs that a target keeps at most, besides findings: the smallest.
const KEPT_MAX: usize = 180;

pub(crate) fn run(tally: &mut Tally, options: &Options) -> Result<()> {
    let targets = targets(&root().join("fuzz/corpus"))?;
    let chosen: Vec<_> =
        targets.iter().filter(|name| options.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "there is no such target; there are {}", targets.join(", "));
    let home = target().join("fuzz");
    let words =
        format!("build --quiet --profile sim --target {TRIPLE} -p keepmq-fuzz --features libfuzzer --target-dir");
    if let Err(why) = quiet(cargo(&words).arg(&home).env("RUSTFLAGS", FLAGS))? {
        tally.fail("fuzz: build", &why);
        return Ok(());
    }
    let binary = home.join(TRIPLE).join("sim/keepmq-fuzz");
    for name in chosen {
        let [found, findings, merged] = ["found", "findings", "merged"].map(|what| home.join(what).join(name));
        for folder in [&found, &findings] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let kept = root().join("fuzz/corpus").join(name);
        let program = || {
            let mut program = command(&binary);
            program.env("KEEPMQ_FUZZ_TARGET", name).args(LIMITS.split_whitespace());
            program
        };
        let began = Instant::now();
        let artifacts = format!("-artifact_prefix={}/", findings.display());
        let seconds = format!("-max_total_time={}", options.secs);
        match quiet(program().args([artifacts, seconds]).args([&found, &kept]))? {
            Ok(()) => tally.pass(&format!("fuzz: {name}: nothing found"), Some(began.elapsed())),
            Err(why) => {
                tally.fail(&format!("fuzz: {name}"), &format!("the input is in {}\n{why}", findings.display()));
                continue;
            }
        }
        if options.keep {
            // Counting no repetitions: as few inputs as get to every place.
            let choose = ["-set_cover_merge=1", "-use_counters=0"];
            keep(&merged, &kept, program().args(choose).args([&merged, &kept, &found]))?;
        }
    }
    Ok(())
}

/// The targets are the folders of the corpus: `tests/corpus.rs` sees to it that each target has one.
fn targets(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(corpus).with_context(|| format!("cannot list {}", corpus.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Lets libFuzzer choose inputs into an empty folder, which then take the place of the kept ones.
fn keep(merged: &PathBuf, kept: &PathBuf, merge: &mut std::process::Command) -> Result<()> {
    if merged.exists() {
        std::fs::remove_dir_all(merged).with_context(|| format!("cannot empty {}", merged.display()))?;
    }
    std::fs::create_dir_all(merged).with_context(|| format!("cannot make {}", merged.display()))?;
    if let Err(why) = quiet(merge)? {
        anyhow::bail!("the inputs could not be merged: {why}");
    }
    for entry in std::fs::read_dir(kept)? {
        let path = entry?.path();
        // What was a finding stays, whatever else gets to the same place.
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("finding-")) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let mut chosen = Vec::new();
    for entry in std::fs::read_dir(merged)? {
        let entry = entry?;
        chosen.push((entry.metadata()?.len(), entry.path()));
    }
    chosen.sort();
    for (_, from) in chosen.iter().take(KEPT_MAX) {
        std::fs::copy(from, kept.join(from.file_name().unwrap_or_default()))
            .with_context(|| format!("cannot keep {}", from.display()))?;
    }
    Ok(())
}
