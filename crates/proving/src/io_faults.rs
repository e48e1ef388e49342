//! Single calls to the disk fail, one after the other: strace answers them in the kernel's place, and the power goes behind
//! the broker that has stopped, so that whatever it has acknowledged without having it on disk is missing.

use crate::client::Client;
use crate::cut::{self, CutDisk};
use crate::interop::copy;
use crate::load::{Books, Load, Plan, QUEUES, TOPIC};
use crate::process::{Folder, Process, on_path};
use crate::scene::{Mode, Scene};
use crate::tally::Tally;
use crate::trace::{self, Call};
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::ResponseCode;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Small, so that a short load has several rolls.
const SEGMENT: u64 = 256 * 1024;
const DISK: u64 = 1024 * 1024 * 1024;
/// Acknowledged in a run in which nothing stops the broker.
const KEPT: u64 = 600;
/// Messages, their topic and the group that has read them, in the store that is there before.
const BEFORE: i64 = 600;
const BEFORE_TOPIC: &str = "Before";
const BEFORE_GROUP: &str = "before";
/// Longest that a broker may take to end, or to send what is asked for.
const BOUND: Duration = Duration::from_secs(40);

/// What is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Calls that fail, each in a run of its own.
    #[arg(long, default_value_t = 60)]
    calls: usize,
    /// A deliberate mistake that the binary was built with; what it does must be found.
    #[arg(long)]
    planted: Option<String>,
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The device has failed.
    Eio,
    /// There is no room; twice, so that a second attempt fails as well.
    NoSpace,
    /// Nothing was written, and no error said why.
    Nothing,
}

/// The store that the broker finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// None.
    Nothing,
    /// One of several segments, whose broker was killed.
    Killed,
}

/// The nth call of this name that each thread makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    found: Found,
    call: String,
    fault: Fault,
    nth: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, call, fault, nth } = self;
        write!(f, "{fault:?} at {call} number {nth} of a broker that finds {found:?}")
    }
}

impl Case {
    fn rule(&self) -> String {
        let Self { call, nth, .. } = self;
        match self.fault {
            Fault::Eio => format!("inject={call}:error=EIO:when={nth}"),
            Fault::NoSpace => format!("inject={call}:error=ENOSPC:when={nth}..{}", nth + 1),
            Fault::Nothing => format!("inject={call}:retval=0:when={nth}"),
        }
    }

    /// Whether nothing but the end may follow. Without room, what can be made again is made again later; a folder that
    /// is there need not be made, and a file that cannot be opened past the cache is written through it.
    fn is_final(&self) -> bool {
        self.fault != Fault::NoSpace && !matches!(&*self.call, "openat" | "mkdir")
    }
}

/// Calls that change what is on disk, and what each may be answered with.
const CALLS: &[(&str, &[Fault])] = &[
    ("pwrite64", &[Fault::Eio, Fault::NoSpace, Fault::Nothing]),
    ("fdatasync", &[Fault::Eio, Fault::NoSpace]),
    ("fsync", &[Fault::Eio]),
    ("rename", &[Fault::Eio, Fault::NoSpace]),
    ("fallocate", &[Fault::Eio, Fault::NoSpace]),
    ("ftruncate", &[Fault::Eio]),
    ("unlink", &[Fault::Eio]),
    ("openat", &[Fault::Eio, Fault::NoSpace]),
    ("mkdir", &[Fault::Eio, Fault::NoSpace]),
];

/// Lets so many calls fail, each in a run of its own, and judges each.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    let Options { calls, planted } = options;
    let what = match planted {
        None => format!("{calls} failing calls to the disk: the broker stops, and what it has acknowledged is there"),
        Some(bug) => format!("the planted bug {bug} is found by failing calls to the disk"),
    };
    if let Some(why) = lacking() {
        tally.skip(&what, &why);
        return Ok(());
    }
    let mut folder = Folder::new("faults")?;
    let told = Bench::new(binary, folder.path(), planted.as_deref()).and_then(|mut bench| bench.story(*calls));
    match (told, planted) {
        (Ok((count, None)), None) => tally.pass(&format!("{what}: {count}")),
        (Ok((_, Some(wrong))), Some(_)) => tally.pass(&format!("{what}: {wrong}")),
        (Ok((count, None)), Some(_)) => tally.fail(&what, &format!("nothing was wrong: {count}")),
        (Ok((count, Some(wrong))), None) => {
            tally.fail(&what, &format!("{wrong} ({count})"));
            folder.keep();
        }
        (Err(error), _) => {
            tally.fail(&what, &format!("{error:#}"));
            folder.keep();
        }
    }
    Ok(())
}

/// What this machine has not got, or `None`.
pub fn lacking() -> Option<String> {
    on_path("strace").is_none().then(|| "strace is not installed".to_owned()).or_else(cut::lacking)
}

/// What has happened in all runs.
#[derive(Debug, Default)]
struct Count {
    /// Runs in which something has failed, by call.
    failed: BTreeMap<String, u64>,
    /// The load ended before the call was made.
    missed: u64,
    /// Brokers that ended by themselves.
    ended: u64,
    /// Of those, before they were ready.
    starting: u64,
    /// Sends that were refused for lack of room, by brokers that went on.
    refused: u64,
    /// Longest from the first failure to the end.
    slowest: Duration,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed, missed, ended, starting, refused, slowest } = self;
        let by_call: Vec<_> = failed.iter().map(|(call, count)| format!("{call} {count}")).collect();
        write!(
            f,
            "{} failed ({}), {missed} were not reached; {ended} ended with exit code 9, {starting} of them while starting, the \
             slowest after {slowest:.1?}; the others went on, with {refused} sends refused for lack of room meanwhile",
            failed.values().sum::<u64>(),
            by_call.join(", ")
        )
    }
}

/// What all runs share.
struct Bench {
    scene: Scene,
    disk: CutDisk,
    /// The store that was there before, to be copied.
    killed: PathBuf,
    folder: PathBuf,
    /// What strace is to look at: libraries and `/proc` are nobody's store.
    paths: BTreeSet<String>,
    count: Count,
}

/// How a run ended.
struct Ran {
    books: Option<Books>,
    /// By itself: before it was told to, or with another code than 0.
    code: Option<i32>,
    was_ready: bool,
    refused: u64,
    said: String,
    calls: Vec<Call>,
}

impl Bench {
    fn new(binary: &Path, folder: &Path, planted: Option<&str>) -> Result<Self> {
        let disk = CutDisk::new(folder, DISK)?;
        let mut scene = Scene::new(binary, folder)?.flushing(Mode::Sync).with("mappedFileSizeCommitLog", &SEGMENT);
        let killed = scene.store();
        let (mut broker, _) = scene.start_broker()?;
        let mut client = Client::connect(scene.broker)?;
        client.create_topic(BEFORE_TOPIC, 1)?;
        client.create_group(BEFORE_GROUP)?;
        for number in 0..BEFORE {
            client.send(BEFORE_TOPIC, 0, &before(number))?;
        }
        client.commit(BEFORE_GROUP, BEFORE_TOPIC, 0, BEFORE)?;
        broker.kill()?;
        scene.planted = planted.map(str::to_owned);
        let scene = scene.with("storePathRootDir", &disk.path().join("store").display());
        Ok(Self { scene, disk, killed, folder: folder.to_owned(), paths: BTreeSet::new(), count: Count::default() })
    }

    /// Lets one call after the other fail; stops at the first after which something is wrong, and says what.
    fn story(&mut self, calls: usize) -> Result<(String, Option<String>)> {
        let mut cases = Vec::new();
        for found in [Found::Nothing, Found::Killed] {
            let ran = self.one(found, None).with_context(|| format!("without a fault, finding {found:?}"))?;
            ensure!(ran.code.is_none(), "without a fault, finding {found:?}: exit {:?}{}", ran.code, ran.said);
            self.judge_store(found, ran.books)?;
            self.paths.extend(trace::paths(&ran.calls, &self.scene.store()));
            cases.push(candidates(found, &ran.calls));
        }
        for case in spread(cases.concat(), calls) {
            if let Err(wrong) = self.case(&case) {
                return Ok((self.count.to_string(), Some(format!("{case}: {wrong:#}"))));
            }
        }
        let reached: u64 = self.count.failed.values().sum();
        ensure!(reached * 2 > calls as u64, "too few calls were reached: {}", self.count);
        Ok((self.count.to_string(), None))
    }

    fn case(&mut self, case: &Case) -> Result<()> {
        let ran = self.one(case.found, Some(case))?;
        let first = ran.calls.iter().find(|call| call.injected);
        let Some(first) = first else {
            ensure!(ran.code.is_none(), "nothing has failed, and yet it ended with {:?}{}", ran.code, ran.said);
            self.count.missed += 1;
            return self.judge_store(case.found, ran.books);
        };
        *self.count.failed.entry(case.call.clone()).or_default() += 1;
        match ran.code {
            None => ensure!(!case.is_final(), "the broker went on after {}", first.line),
            Some(9) => {
                ensure!(
                    ran.said.contains("error: "),
                    "it does not say why it has ended, after {}{}",
                    first.line,
                    ran.said
                );
                self.count.ended += 1;
                self.count.starting += u64::from(!ran.was_ready);
                let last = ran.calls.last().map_or(first.at, |last| last.at);
                self.count.slowest = self.count.slowest.max(last.saturating_sub(first.at));
            }
            Some(code) => bail!("it ended with {code} after {}{}", first.line, ran.said),
        }
        if ran.code.is_none() {
            self.count.refused += ran.refused;
        }
        self.judge_store(case.found, ran.books).with_context(|| format!("after {}", first.line))
    }

    /// One run of a broker under load, on a store of its own.
    fn one(&mut self, found: Found, case: Option<&Case>) -> Result<Ran> {
        let store = self.scene.store();
        if store.exists() {
            std::fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
        }
        if found == Found::Killed {
            copy(&self.killed, &store)?;
        }
        self.disk.sync()?;
        let (said, traced) = (self.folder.join("said"), self.folder.join("trace"));
        for file in [&said, &traced] {
            std::fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
        }
        let mut broker = Process::start(&self.under_strace(case, &traced)?, &said)?;
        let (ready, books, refused) = self.load(&mut broker)?;
        let mut code = broker.ended_within(Duration::ZERO)?;
        let by_itself = code.is_some();
        if !by_itself {
            // It is there, and has done all that was asked: its last calls may fail, too.
            broker.signal(rustix::process::Signal::TERM)?;
            code = broker.ended_within(BOUND)?;
        }
        let said = broker.said();
        let status = code.with_context(|| format!("it has not ended within {BOUND:?}{said}"))?;
        let code = status.code().with_context(|| format!("it was ended by a signal: {status}{said}"))?;
        ensure!(!by_itself || code != 0, "it ended by itself, and says that all is well{said}");
        let calls = trace::read(&traced, &store)?;
        let code = (code != 0).then_some(code);
        Ok(Ran { books, code, was_ready: ready, refused, said, calls })
    }

    fn under_strace(&self, case: Option<&Case>, traced: &Path) -> Result<Command> {
        let broker = self.scene.broker_command()?;
        let mut command = Command::new("strace");
        // The broker is our child, and strace its neighbour: signals and exit codes are the broker's own.
        command.args(["-D", "-f", "--seccomp-bpf", "-ttt", "-y", "-o"]).arg(traced);
        let names: Vec<_> = CALLS.iter().map(|(name, _)| *name).collect();
        command.args(["-e", &format!("trace={}", names.join(","))]);
        if let Some(case) = case {
            command.args(["-e", &case.rule()]);
            command.args(self.paths.iter().flat_map(|path| ["-P", path]));
        }
        command.arg("--").arg(broker.get_program()).args(broker.get_args());
        command.envs(broker.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(command)
    }

    /// Sends until enough is kept, or the broker has ended. Answers whether it was ready, the books, and how many sends
    /// were refused.
    fn load(&self, broker: &mut Process) -> Result<(bool, Option<Books>, u64)> {
        let addr = self.scene.broker;
        let end = Instant::now() + BOUND;
        // What fails may be this very request: then the broker ends, or refuses it for a while.
        while Client::connect_within(addr, BOUND)
            .and_then(|mut client| client.create_topic(TOPIC, i32::try_from(QUEUES)?))
            .is_err()
        {
            if broker.ended_within(Duration::from_millis(2))?.is_some() {
                return Ok((false, None, 0));
            }
            ensure!(Instant::now() < end, "it is not ready after {BOUND:?}{}", broker.said());
        }
        let load = Load::start(addr, Plan::full(2, 4), Books::open(&self.folder.join("ledger"))?);
        while load.kept() < KEPT && broker.ended_within(Duration::from_millis(2))?.is_none() {
            ensure!(Instant::now() < end, "{} of {KEPT} were kept within {BOUND:?}{}", load.kept(), broker.said());
        }
        let seen = load.seen();
        let books = load.stop()?;
        let definite = [ResponseCode::SystemBusy as i32, ResponseCode::ServiceNotAvailable as i32];
        if let Some((code, (_, text))) = seen.refused.iter().find(|(code, _)| !definite.contains(code)) {
            bail!("a send was refused with {code}: {text}");
        }
        Ok((true, Some(books), seen.refused.values().map(|(count, _)| count).sum()))
    }

    /// The power goes and comes back; then everything that was acknowledged must be there, and more be taken.
    fn judge_store(&mut self, found: Found, books: Option<Books>) -> Result<()> {
        self.disk.cut()?;
        self.disk.restart()?;
        let (mut broker, _) = self.scene.start_broker().context("the start behind it")?;
        let mut client = Client::connect(self.scene.broker)?;
        if let Some(mut books) = books {
            books.observe(self.scene.broker)?;
            let verdict = books.verdict();
            ensure!(verdict.is_clean(), "{verdict}");
        }
        if found == Found::Killed {
            let there = client.read_queue(BEFORE_TOPIC, 0)?;
            ensure!(
                there.len() as u64 == BEFORE.unsigned_abs(),
                "{} of {BEFORE} older messages are there",
                there.len()
            );
            let wrong = (0..).zip(&there).find(|(number, message)| message.body != before(*number));
            ensure!(wrong.is_none(), "an older message is another now: {wrong:?}");
            let offset = client.committed(BEFORE_GROUP, BEFORE_TOPIC, 0)?;
            ensure!(offset == BEFORE, "the older offset {BEFORE} is now {offset}");
        }
        client.create_topic(BEFORE_TOPIC, 1)?;
        client.send(BEFORE_TOPIC, 0, b"and it goes on")?;
        broker.kill()
    }
}

fn before(number: i64) -> Vec<u8> {
    format!("{number:04} {}", "before".repeat(100)).into_bytes()
}

/// Every call of a run that can be made to fail, in every way.
fn candidates(found: Found, calls: &[Call]) -> Vec<Case> {
    let mut cases = Vec::new();
    for Call { name, nth, .. } in calls {
        for (_, faults) in CALLS.iter().filter(|(known, _)| known == name) {
            cases.extend(faults.iter().map(|fault| Case { found, call: name.clone(), fault: *fault, nth: *nth }));
        }
    }
    // Several threads have an nth call of one name, and all of them fail.
    cases.sort();
    cases.dedup();
    cases
}

/// So many of them, of every kind as many as of the others as far as there are, from first to last.
fn spread(cases: Vec<Case>, mut left: usize) -> Vec<Case> {
    let mut kinds: BTreeMap<(Found, String, Fault), (usize, Vec<Case>)> = BTreeMap::new();
    for case in cases {
        kinds.entry((case.found, case.call.clone(), case.fault)).or_default().1.push(case);
    }
    let mut some_left = true;
    while some_left && left > 0 {
        some_left = false;
        for (wanted, of_kind) in kinds.values_mut().filter(|(wanted, of_kind)| *wanted < of_kind.len()).take(left) {
            *wanted += 1;
            left -= 1;
            some_left |= *wanted < of_kind.len();
        }
    }
    let take = |(wanted, of_kind): (usize, Vec<Case>)| {
        (0..wanted).map(move |index| of_kind[index * of_kind.len() / wanted].clone())
    };
    kinds.into_values().flat_map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_call_gets_its_share_from_first_to_last() {
        let case = |call: &str, nth| Case { found: Found::Killed, call: call.to_owned(), fault: Fault::Eio, nth };
        let cases: Vec<_> =
            (1..=100).map(|nth| case("pwrite64", nth)).chain((1..=3).map(|nth| case("rename", nth))).collect();
        let some: Vec<_> = spread(cases.clone(), 8).into_iter().map(|case| (case.call, case.nth)).collect();
        let pairs = |call: &str, all: &[usize]| all.iter().map(|nth| (call.to_owned(), *nth)).collect::<Vec<_>>();
        assert_eq!(some, [pairs("pwrite64", &[1, 21, 41, 61, 81]), pairs("rename", &[1, 2, 3])].concat());
        assert_eq!(spread(cases, 1000).len(), 103);
    }
}
