//! The verbs `states` and `rot`: crash states and corruption at rest of one store.

use anyhow::{Context, Result, ensure};
use keepmq_sim::{CLASSES, RotReport, SOMETIMES, StatesReport};
use keepmq_world::planted;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Crash states of one story: more of them only look at the same moments more closely.
const PER_STORY: u64 = 5000;

#[derive(clap::Args)]
pub(crate) struct States {
    /// How many different crash states.
    #[arg(long, default_value_t = 20_000)]
    states: u64,
    #[command(flatten)]
    shared: Shared,
}

#[derive(clap::Args)]
pub(crate) struct Rot {
    /// How many damaged stores.
    #[arg(long, default_value_t = 500)]
    cases: u64,
    #[command(flatten)]
    shared: Shared,
}

#[derive(clap::Args)]
struct Shared {
    /// The first story's seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// A deliberate mistake, by name; then it must be found.
    #[arg(long)]
    planted: Option<String>,
    /// Writes the counts to this file.
    #[arg(long)]
    results: Option<PathBuf>,
}

impl Shared {
    fn arm(&self) -> Result<()> {
        ensure!(self.jobs > 0, "somebody has to do it: at least one thread");
        if let Some(bug) = &self.planted {
            ensure!(planted::arm(Some(bug)), "{bug:?} is no planted bug");
        }
        Ok(())
    }

    /// So many parts, on as many threads as asked for; in their order. With a planted bug the search ends early.
    fn all<R: Send>(&self, parts: u64, run: impl Fn(u64) -> (R, bool) + Sync) -> Vec<R> {
        let next = AtomicU64::new(0);
        let found = AtomicU64::new(u64::MAX);
        let reports = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    loop {
                        let part = next.fetch_add(1, Ordering::Relaxed);
                        if part >= parts || part > found.load(Ordering::Relaxed) {
                            return;
                        }
                        let (report, bad) = run(part);
                        if bad && self.planted.is_some() {
                            found.fetch_min(part, Ordering::Relaxed);
                        }
                        reports.lock().expect("no thread panics while it holds the reports").insert(part, report);
                    }
                });
            }
        });
        reports.into_inner().expect("no thread panics while it holds the reports").into_values().collect()
    }

    /// Says what was found; whether that is as it should be.
    fn verdict(&self, violations: &[String]) -> bool {
        let shown = if self.planted.is_some() { 1 } else { 20 };
        violations.iter().take(shown).for_each(|violation| println!("{violation}"));
        match &self.planted {
            Some(bug) => println!("{bug}: {}", if violations.is_empty() { "not found" } else { "found" }),
            None => println!("{} violations", violations.len()),
        }
        violations.is_empty() != self.planted.is_some()
    }

    fn write(&self, results: &impl Serialize) -> Result<()> {
        let Some(file) = &self.results else { return Ok(()) };
        write(file, &serde_json::to_string_pretty(results)?)
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// What a run of `states` leaves behind.
#[derive(Serialize)]
struct StatesResults {
    seed: u64,
    states: u64,
    sometimes: BTreeMap<&'static str, u64>,
    followed: BTreeMap<String, u64>,
    violations: Vec<String>,
}

impl States {
    pub(crate) fn run(&self) -> Result<bool> {
        self.shared.arm()?;
        ensure!(self.states > 0, "a run needs at least one state");
        let begun = Instant::now();
        // At least one story of either flush mode.
        let stories = self.states.div_ceil(PER_STORY).max(2);
        // Some more, since all stories begin with the same few states.
        let budget = usize::try_from(self.states.div_ceil(stories) + 40).context("so many states")?;
        let reports = self.shared.all(stories, |story| {
            let report = keepmq_sim::states(self.shared.seed + story, budget);
            let bad = report.violation.is_some();
            (report, bad)
        });
        let results = StatesResults::new(self.shared.seed, reports);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{} crash states of {stories} stories in {seconds:.1} s", results.states);
        for (name, count) in &results.sometimes {
            println!("{count:>10} × {name}");
        }
        for (name, count) in &results.followed {
            println!("{count:>10} behind {name}");
        }
        self.shared.write(&results)?;
        let good = self.shared.verdict(&results.violations);
        if self.shared.planted.is_some() {
            return Ok(good);
        }
        let never: Vec<_> = results.sometimes.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
        if !never.is_empty() {
            println!("never in these states: {never:?}");
        }
        let enough = results.states >= self.states;
        if !enough {
            println!("{} were asked for", self.states);
        }
        Ok(good && never.is_empty() && enough)
    }
}

impl StatesResults {
    fn new(seed: u64, reports: Vec<StatesReport>) -> Self {
        let mut results = Self {
            seed,
            states: 0,
            sometimes: SOMETIMES.iter().map(|name| (*name, 0)).collect(),
            followed: BTreeMap::new(),
            violations: Vec::new(),
        };
        let mut states = Vec::new();
        for StatesReport { states: of_story, followed, sometimes, violation } in reports {
            states.extend(of_story);
            for (name, count) in followed {
                *results.followed.entry(name).or_default() += count;
            }
            for (name, count) in SOMETIMES.iter().zip(sometimes) {
                *results.sometimes.entry(name).or_default() += count;
            }
            results.violations.extend(violation);
        }
        // The first states of all stories are the same.
        states.sort_unstable();
        states.dedup();
        results.states = states.len() as u64;
        results
    }
}

/// What a run of `rot` leaves behind.
#[derive(Serialize)]
struct RotResults {
    seed: u64,
    cases: u64,
    classes: BTreeMap<&'static str, u64>,
    done: BTreeMap<String, BTreeMap<&'static str, u64>>,
    violations: Vec<String>,
}

impl Rot {
    pub(crate) fn run(&self) -> Result<bool> {
        self.shared.arm()?;
        ensure!(self.cases > 0, "a run needs at least one case");
        let begun = Instant::now();
        // Each part is four stores: both flush modes, stopped and killed.
        let parts = self.cases.div_ceil(500);
        let reports = self.shared.all(parts, |part| {
            let cases = (self.cases - part * 500).min(500);
            let report = keepmq_sim::rot(self.shared.seed + part * 4, cases);
            let bad = report.violation.is_some();
            (report, bad)
        });
        let mut results = RotResults {
            seed: self.shared.seed,
            cases: 0,
            classes: CLASSES.iter().map(|name| (*name, 0)).collect(),
            done: BTreeMap::new(),
            violations: Vec::new(),
        };
        for RotReport { classes, done, violation } in reports {
            results.cases += classes.iter().sum::<u64>();
            for (name, count) in CLASSES.iter().zip(classes) {
                *results.classes.entry(name).or_default() += count;
            }
            for (what, classes) in done {
                let into = results.done.entry(what).or_default();
                for (name, count) in CLASSES.iter().zip(classes).filter(|(_, count)| *count > 0) {
                    *into.entry(name).or_default() += count;
                }
            }
            results.violations.extend(violation);
        }
        println!("{} damaged stores in {:.1} s", results.cases, begun.elapsed().as_secs_f64());
        for (name, count) in &results.classes {
            println!("{count:>10} × {name}");
        }
        self.shared.write(&results)?;
        let good = self.shared.verdict(&results.violations);
        Ok(good && (self.shared.planted.is_some() || results.cases == self.cases))
    }
}
