//! The steps of `cargo xtask test`, in the order in which they fail soonest.

use crate::fuzz;
use crate::run::{cargo, command, lines, quiet, root, target};
use crate::tally::{Counts, Tally};
use crate::tidy;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Step {
    /// Floors, waterline, budgets, walks, links and commands of the documents.
    Tidy,
    /// rustfmt and clippy.
    Lint,
    /// All `cargo test`.
    Unit,
    /// The simulated world, and the planted bugs that it must find.
    Sim,
    /// Real processes: kills, power cuts, bad input, overload, memory.
    Crash,
    /// Clients: the examples of ours, and RocketMQ's own.
    Interop,
    /// Bytes that nobody thought of, for a long time. By day the unit tests give all kept ones to the same targets.
    Fuzz,
}

impl Step {
    pub(crate) const ALL: &[Self] = &[Self::Tidy, Self::Lint, Self::Unit, Self::Sim, Self::Crash, Self::Interop];
    pub(crate) const NIGHT: &[Self] =
        &[Self::Tidy, Self::Lint, Self::Unit, Self::Sim, Self::Crash, Self::Interop, Self::Fuzz];
}

/// How much of everything.
pub(crate) struct Sizes {
    pub(crate) seeds: u64,
    pub(crate) first_seed: u64,
    /// Seeds in which a planted bug must be found.
    pub(crate) planted_seeds: u64,
    /// Different crash states of recorded calls.
    pub(crate) states: u64,
    /// Stores that are damaged at rest.
    pub(crate) rotten: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    /// With ASYNC_FLUSH, each on a store of its own.
    pub(crate) async_cuts: u64,
    /// Calls to the disk that fail, each in a run of its own.
    pub(crate) io_faults: u64,
    pub(crate) pauses: u64,
    /// Milliseconds of the longest.
    pub(crate) longest_pause: u64,
    /// Of Java's brokers whose stores are taken over.
    pub(crate) java_versions: &'static str,
    /// Of the mixed load; none by day, when there is no time to see memory grow.
    pub(crate) soak_minutes: u64,
    /// For each target of the fuzzer.
    pub(crate) fuzz_secs: u64,
}

impl Sizes {
    pub(crate) const CI: Self = Self {
        seeds: 300,
        first_seed: 1,
        planted_seeds: 1000,
        states: 20_000,
        rotten: 1000,
        kills: 30,
        power_cuts: 20,
        async_cuts: 5,
        io_faults: 60,
        pauses: 10,
        longest_pause: 4_000,
        java_versions: "5.3.3",
        soak_minutes: 0,
        fuzz_secs: 60,
    };
    pub(crate) const NIGHT: Self = Self {
        seeds: 20_000,
        first_seed: 1,
        planted_seeds: 1000,
        states: 300_000,
        rotten: 20_000,
        kills: 200,
        power_cuts: 500,
        async_cuts: 50,
        io_faults: 600,
        pauses: 60,
        longest_pause: 8_000,
        java_versions: "5.3.3,4.9.8",
        soak_minutes: 20,
        fuzz_secs: 600,
    };
}

pub(crate) fn run(steps: &[Step], sizes: &Sizes, mut tally: Tally) -> Result<bool> {
    for step in steps {
        match step {
            Step::Tidy => tidy(&mut tally)?,
            Step::Lint => {
                check(&mut tally, "lint: rustfmt", "fmt --all --check")?;
                check(&mut tally, "lint: clippy", "clippy --workspace --all-targets -- -D warnings")?;
            }
            Step::Unit => unit(&mut tally)?,
            Step::Sim => sim(&mut tally, sizes)?,
            Step::Crash => crash(&mut tally, sizes)?,
            Step::Interop => interop(&mut tally)?,
            Step::Fuzz => fuzz::run(&mut tally, &fuzz::Options::all(sizes.fuzz_secs))?,
        }
    }
    Ok(tally.close())
}

fn check(tally: &mut Tally, what: &str, cargo_words: &str) -> Result<()> {
    let began = Instant::now();
    match quiet(&mut cargo(cargo_words))? {
        Ok(()) => tally.pass(what, Some(began.elapsed())),
        Err(why) => tally.fail(what, &why),
    }
    Ok(())
}

/// Builds; answers whether it could be built.
fn build(tally: &mut Tally, what: &str, cargo_words: &str) -> Result<bool> {
    match quiet(&mut cargo(cargo_words))? {
        Ok(()) => Ok(true),
        Err(why) => {
            tally.fail(what, &why);
            Ok(false)
        }
    }
}

fn tidy(tally: &mut Tally) -> Result<()> {
    let project = tidy::Project::read(&root())?;
    for (rule, check) in tidy::RULES {
        let faults = check(&project);
        match faults.is_empty() {
            true => tally.pass(&format!("tidy: {rule}"), None),
            false => tally.fail(&format!("tidy: {rule}"), &format!("\n  {}", faults.join("\n  "))),
        }
    }
    Ok(())
}

/// Every test binary with at least one test is a check.
fn unit(tally: &mut Tally) -> Result<()> {
    let mut running = String::from("cargo test");
    let mut said = Vec::new();
    let mut failures = 0;
    let good = lines(&mut cargo("test --workspace --no-fail-fast"), |line| {
        let word = line.trim_start();
        if let Some(what) = word.strip_prefix("Running ").or_else(|| word.strip_prefix("Doc-tests ")) {
            running = test_name(what);
            said.clear();
        } else if let Some(result) = line.strip_prefix("test result: ") {
            match result.starts_with("ok.") {
                true if result.contains(" 0 passed; 0 failed") => {}
                true => tally.pass(&format!("unit: {running}: {}", result.trim_start_matches("ok. ")), None),
                false => {
                    failures += 1;
                    tally.fail(&format!("unit: {running}"), &format!("{result}\n  {}", said.join("\n  ")));
                }
            }
        } else {
            said.push(line.to_owned());
        }
    })?;
    if !good && failures == 0 {
        tally.fail("unit", &format!("cargo test failed before any test did\n  {}", said.join("\n  ")));
    }
    Ok(())
}

/// `keepmq_broker, src/lib.rs` of what cargo says: `unittests src/lib.rs (target/debug/deps/keepmq_broker-1d77b53153b62f0e)`.
fn test_name(running: &str) -> String {
    let binary = running.rsplit_once(" (").and_then(|(what, path)| {
        let (name, _) = path.rsplit('/').next()?.rsplit_once('-')?;
        Some(format!("{name}, {}", what.trim_start_matches("unittests ")))
    });
    // Documentation tests only name their crate.
    binary.unwrap_or_else(|| running.to_owned())
}

fn build_sim(tally: &mut Tally, step: &str) -> Result<bool> {
    build(tally, &format!("{step}: build of the simulator"), "build --quiet --profile sim -p keepmq-sim")
}

/// Lets the simulator check one thing.
fn play(tally: &mut Tally, what: &str, words: &str) -> Result<()> {
    let began = Instant::now();
    match quiet(command(target().join("sim/keepmq-sim")).args(words.split_whitespace()))? {
        Ok(()) => tally.pass(what, Some(began.elapsed())),
        Err(why) => tally.fail(what, &why),
    }
    Ok(())
}

fn sim(tally: &mut Tally, sizes: &Sizes) -> Result<()> {
    if !build_sim(tally, "sim")? {
        return Ok(());
    }
    let Sizes { seeds, first_seed, planted_seeds, .. } = sizes;
    let mut play = |what: &str, words: &str| play(tally, &format!("sim: {what}"), words);
    let results = target().join("sim/results.json");
    let results = results.display();
    play(
        &format!("{seeds} seeds from {first_seed} on, every rare path reached"),
        &format!("run --seeds {seeds} --from {first_seed} --require-sometimes --results {results}"),
    )?;
    play("the same seeds give the same traces, in another process", &format!("check {results}"))?;
    let worlds = target().join("sim/worlds.json");
    let worlds = worlds.display();
    play(
        &format!("{seeds} worlds of real clients from {first_seed} on, every rare path reached"),
        &format!("run --world --seeds {seeds} --from {first_seed} --require-sometimes --results {worlds}"),
    )?;
    play("the same worlds give the same traces, in another process", &format!("check {worlds}"))?;
    // Long runs that were done once: ten seeds of each must still be the same universes.
    for (what, file) in [("universes", "long-run.json"), ("worlds", "world.json")] {
        let kept = root().join("sim/results").join(file);
        play(
            &format!("ten seeds of the long run of {what} give the traces they gave then"),
            &format!("check {}", kept.display()),
        )?;
    }
    for bug in tidy::planted_bugs(&root())?.iter().filter(|bug| !ELSEWHERE.contains(&bug.as_str())) {
        play(&format!("finds the planted bug {bug}"), &format!("run --planted {bug} --seeds {planted_seeds}"))?;
    }
    Ok(())
}

/// Builds the product, alone: together with the simulator Cargo would compile the planted bugs into it.
fn build_product(tally: &mut Tally, step: &str) -> Result<bool> {
    Ok(build(tally, &format!("{step}: build of keepmq"), "build --quiet --release -p keepmq")?
        && build(tally, &format!("{step}: build of proving"), "build --quiet --release -p keepmq-proving")?)
}

/// Planted bugs that the crash states must show.
const OF_STATES: [&str; 8] = [
    "torn-tail-kept",
    "index-ahead-of-log",
    "directory-not-synced",
    "batch-cut-in-the-middle",
    "ack-before-flush",
    "offsets-restart-after-retention",
    "checkpoint-ahead",
    "recovery-trusts-names",
];
/// Planted bugs that damage at rest must show.
const OF_ROT: [&str; 3] = ["damaged-snapshot-believed", "damaged-bytes-served", "damaged-record-skipped"];
/// Those of them that the simulated world meets too seldom, within the seeds that a run has.
const ELSEWHERE: [&str; 2] = ["damaged-snapshot-believed", "index-ahead-of-log"];

/// One store, its calls to the disk, and all that may become of them.
fn at_rest(tally: &mut Tally, sizes: &Sizes) -> Result<()> {
    if !build_sim(tally, "crash")? {
        return Ok(());
    }
    let Sizes { states, rotten, .. } = sizes;
    let words = format!("states --states {states}");
    play(tally, &format!("crash: {states} crash states of recorded calls recover, every rare path reached"), &words)?;
    let words = format!("rot --cases {rotten}");
    play(tally, &format!("crash: {rotten} stores damaged at rest: told, cut above the mark, or made again"), &words)?;
    for (verb, bugs) in [("states", &OF_STATES[..]), ("rot", &OF_ROT[..])] {
        for bug in bugs {
            play(tally, &format!("crash: {verb} find the planted bug {bug}"), &format!("{verb} --planted {bug}"))?;
        }
    }
    Ok(())
}

fn crash(tally: &mut Tally, sizes: &Sizes) -> Result<()> {
    at_rest(tally, sizes)?;
    if !build_product(tally, "crash")? {
        return Ok(());
    }
    let Sizes { kills, power_cuts, async_cuts, io_faults, pauses, longest_pause, java_versions, soak_minutes, .. } =
        sizes;
    proving(tally, &format!("kills --mode sync --count {kills}"))?;
    proving(tally, &format!("kills --mode async --count {kills}"))?;
    proving(tally, &format!("powercuts --count {power_cuts}"))?;
    proving(tally, &format!("asynccuts --count {async_cuts}"))?;
    proving(tally, &format!("iofaults --calls {io_faults}"))?;
    proving(tally, &format!("pauses --count {pauses} --longest {longest_pause}"))?;
    let mut words = format!("javastores --versions {java_versions}");
    if let Some(servers) = java_servers() {
        words.push_str(&format!(" --java-servers {}", servers.display()));
    }
    proving(tally, &words)?;
    // Its own folder, and a profile that builds fast: it must only be wrong in one place.
    let planted = "build --quiet --profile sim -p keepmq --features planted --target-dir";
    let dir = target().join("planted");
    if build(tally, "crash: build of keepmq with planted bugs", &format!("{planted} {}", dir.display()))? {
        let binary = dir.join("sim/keepmq");
        proving(
            tally,
            &format!("powercuts --count {power_cuts} --binary {} --planted ack-before-flush", binary.display()),
        )?;
        proving(
            tally,
            &format!("iofaults --calls {io_faults} --binary {} --planted sync-error-ignored", binary.display()),
        )?;
        proving(tally, &format!("tour --binary {} --planted ack-without-writing", binary.display()))?;
    }
    let night = *soak_minutes > 0;
    proving(tally, if night { "hostile --long" } else { "hostile" })?;
    proving(tally, if night { "overload --secs 60" } else { "overload" })?;
    proving(tally, "idle")?;
    if night {
        proving(tally, &format!("soak --minutes {soak_minutes}"))?;
    }
    proving(tally, "tour")?;
    proving(tally, "prove")?;
    proving(tally, "dev")?;
    proving(tally, "rss")
}

fn interop(tally: &mut Tally) -> Result<()> {
    if !build_product(tally, "interop")? {
        return Ok(());
    }
    let words = "build --quiet --release -p keepmq-client --examples";
    if build(tally, "interop: build of our client's examples", words)? {
        proving(tally, &format!("examples --dir {}", target().join("release/examples").display()))?;
    }
    let golden = target().join("golden");
    let words = format!("run --quiet -p keepmq-protocol --example golden_ours {}", golden.display());
    if build(tally, "interop: writing golden files", &words)?
        && build(tally, "interop: build of the program for our client", "build --quiet --release -p keepmq-interop")?
    {
        let ours = target().join("release/keepmq-interop");
        let mut words = format!("interop --golden {} --ours {}", golden.display(), ours.display());
        if let Some(servers) = java_servers() {
            words.push_str(&format!(" --java-servers {}", servers.display()));
        }
        proving(tally, &words)?;
    }
    acceptance(tally)
}

/// What starts RocketMQ's own servers; where it is missing, their checks are skipped by name.
fn java_servers() -> Option<PathBuf> {
    let servers = root().join("../shared/bench/java-peer/java-peer.sh");
    servers.is_file().then_some(servers)
}

/// RocketMQ's own integration tests, where they lie beside the project.
fn acceptance(tally: &mut Tally) -> Result<()> {
    let suite = root().join("../shared/acceptance/java-it/run");
    if !suite.is_file() {
        tally.skip("interop: RocketMQ's integration tests", "there is no ../shared");
        return Ok(());
    }
    proving(tally, &format!("acceptance --suite {}", suite.display()))
}

/// Lets the proving program check; it counts as we do.
fn proving(tally: &mut Tally, words: &str) -> Result<()> {
    let program: PathBuf = target().join("release/keepmq-proving");
    let mut words: Vec<&str> = words.split_whitespace().collect();
    let binary = target().join("release/keepmq");
    let binary = binary.to_string_lossy();
    if !words.contains(&"--binary") {
        words.extend(["--binary", &binary]);
    }
    if tally.strict() {
        words.push("--strict");
    }
    let mut counts = None;
    let good = lines(command(&program).args(&words), |line| match Counts::read(line) {
        Some(read) => counts = Some(read),
        None => println!("{line}"),
    })?;
    match counts {
        Some(counts) if good == (counts.failed == 0) => tally.add(&counts),
        _ => tally.fail(&words.join(" "), "it ended without counting its checks"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_named_by_their_crate() {
        let cargo = "unittests src/lib.rs (/t/debug/deps/keepmq_broker-1d77b53153b62f0e)";
        assert_eq!(test_name(cargo), "keepmq_broker, src/lib.rs");
        assert_eq!(test_name("tests/golden.rs (target/debug/deps/golden-f108)"), "golden, tests/golden.rs");
        assert_eq!(test_name("keepmq_world"), "keepmq_world");
    }
}
