//! `keepmq prove`: the promise on the user's own disk, with the user's own settings.

use crate::args::{duration, positive};
use crate::books::{Books, lost, observed};
use crate::ground::{Folder, Ground};
use crate::interrupt::Interrupt;
use crate::load::{Load, open, read_through, wall};
use crate::problem;
use crate::table::say;
use crate::verb::topic;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use keepmq_client::{Producer, Topic};
use keepmq_ledger::{Ledger, Verdict};
use keepmq_server::{ExitCode, Failure, Problem};
use keepmq_world::Chance;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const QUEUES: u32 = 4;
const SENDERS: usize = 64;
/// Bytes of a body besides the id.
const BYTES: (usize, usize) = (16, 1_500);
/// Without the user's settings: RocketMQ's, but small segments.
const CONF: &str = "flushDiskType=SYNC_FLUSH\nbrokerName=broker-a\nmappedFileSizeCommitLog=67108864\n";
/// Acknowledged between two kills at least.
const BETWEEN: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a broker with your settings on your disk, sends with a ledger beside it, kills the broker with SIGKILL at random moments,
/// starts it again, and compares: everything that was acknowledged must be there. Ends with 1 if anything is missing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq prove --conf /etc/keepmq/broker.conf --data /data/prove --kills 20\n  \
                        keepmq prove --check /data/prove/ledger --data /data/prove\n  \
                        keepmq prove --check ./ledger -n 10.0.0.5:9876\n\n\
                        Kills do not test the disk against a power cut: what the disk's own cache forgets, only pulling the plug shows.")]
pub struct Prove {
    /// Settings of the broker, as RocketMQ's broker.conf has them; its addresses and folders are replaced
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// How often the broker is killed
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    kills: u64,
    /// How long the load goes on altogether, besides the restarts: 20s, 10m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    secs: Duration,
    /// Where store and ledger are kept: a folder on the disk in question [default: a temporary one, removed when all is well]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Compare only: this ledger of an earlier run, with the store beside it (--data) or with a running broker (-n)
    #[arg(long, value_name = "LEDGER", conflicts_with_all = ["kills", "secs"])]
    check: Option<PathBuf>,
    /// With --check: the name servers that lead to the broker
    #[arg(
        short = 'n',
        long = "namesrv",
        value_name = "NAMESRV[;NAMESRV]",
        requires = "check",
        conflicts_with = "data"
    )]
    name_servers: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Chooses the moments
    #[arg(long, value_name = "N", hide = true)]
    seed: Option<u64>,
}

/// What came of it.
struct Outcome {
    verdict: Verdict,
    /// Kills, and how long each restart took until the broker answered.
    restarts: Vec<Duration>,
    /// Kills that hit sends under way.
    hits: usize,
}

impl Prove {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let conf = match &self.conf {
            None => CONF.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| unread(path, &error))?,
        };
        let mut folder = Folder::new(self.data.as_deref(), "prove");
        let outcome = match (&self.check, &self.name_servers) {
            (None, _) => self.kills(&folder, &conf, interrupt).await,
            (Some(ledger), Some(name_servers)) => interrupt.unless(check(ledger, name_servers)).await,
            (Some(ledger), None) => {
                let Some(data) = &self.data else {
                    let what = "neither --data nor -n is given";
                    let remedy =
                        "give the folder of the store (--data DIR), or the name servers of a running broker (-n)";
                    return Err(problem::usage("it is not said what to compare the ledger with", what, remedy));
                };
                interrupt.unless(check_store(ledger, data, &conf)).await
            }
        };
        let judged = outcome.and_then(|outcome| self.judge(&outcome));
        if judged.as_ref().is_err_and(|failure| ![ExitCode::Interrupted, ExitCode::Usage].contains(&failure.exit)) {
            folder.keep();
            eprintln!("store, ledger and logs are in {}", folder.path().display());
        }
        judged
    }

    async fn kills(&self, folder: &Folder, conf: &str, interrupt: &mut Interrupt) -> Result<Outcome, Failure> {
        if folder.path().join("store").exists() || folder.path().join("ledger").exists() {
            let what = format!("{} holds a store or a ledger already", folder.path().display());
            let remedy = "give a folder that is new or empty; --check compares with an earlier run";
            return Err(problem::usage("kills are proved on a new store", what, remedy));
        }
        let mut ground = interrupt.unless(Ground::start(folder.path(), conf)).await?;
        let story = self.story(&mut ground, folder);
        let outcome = interrupt.unless(story).await?;
        ground.stop().await?;
        Ok(outcome)
    }

    async fn story(&self, ground: &mut Ground, folder: &Folder) -> Result<Outcome, Failure> {
        let topic = Topic::new("keepmq-prove").expect("a legal name");
        let master = ground.cluster().masters(None).await?.pop().expect("the broker is found, or it is not ready");
        topic::create(ground.cluster(), &master, &topic, QUEUES).await?;
        let books = Arc::new(Mutex::new(Books::create(&folder.path().join("ledger"))?));
        let producer = Producer::builder(&ground.connect().name_servers, "keepmq-prove").start().await;
        let producer = producer.map_err(|error| problem::start(&error))?;
        let ids = Arc::new(AtomicU64::new(1));
        let mut chance = Chance::new(self.seed.unwrap_or_else(|| wall().unsigned_abs()));
        let between = self.secs / u32::try_from(self.kills + 1).unwrap_or(u32::MAX);
        let progress = bar(self.kills);
        let load = Load::start(&producer, &topic, &books, &ids, SENDERS, BYTES);
        let (mut restarts, mut hits) = (Vec::new(), 0);
        for _ in 0..self.kills {
            load.wait_for(BETWEEN, PATIENCE).await?;
            // Between nothing and twice the time: on the average they take what was asked for.
            let micros = u64::try_from(between.as_micros()).unwrap_or(u64::MAX / 2);
            tokio::time::sleep(Duration::from_micros(chance.below(2 * micros + 1))).await;
            hits += usize::from(load.in_flight() > 0);
            ground.kill_broker()?;
            restarts.push(ground.start_broker().await?);
            progress.inc(1);
            progress.set_message(format!("{} acknowledged", load.kept()));
        }
        load.wait_for(BETWEEN, PATIENCE).await?;
        tokio::time::sleep(between).await;
        load.stop().await;
        producer.close(Duration::from_secs(5)).await;
        progress.finish_and_clear();
        read_through(&ground.connect().name_servers, &topic, |message| open(&books).observe(message)).await?;
        let verdict = open(&books).verdict()?;
        Ok(Outcome { verdict, restarts, hits })
    }

    fn judge(&self, outcome: &Outcome) -> Result<(), Failure> {
        let Outcome { verdict, restarts, hits } = outcome;
        let lost = lost(verdict);
        let mut sorted = restarts.clone();
        sorted.sort();
        let at = |part: usize| sorted.get(sorted.len().saturating_sub(1) * part / 100).map(|time| time.as_millis());
        if self.json {
            let times: Vec<_> = restarts.iter().map(|time| time.as_millis() as u64).collect();
            let findings: Vec<_> = verdict.findings.iter().map(ToString::to_string).collect();
            say(&format!(
                "{}\n",
                json!({
                    "attempted": verdict.attempted, "acknowledged": verdict.kept, "refused": verdict.refused,
                    "unknown": verdict.unknown, "found": verdict.observed, "duplicated": verdict.duplicated,
                    "removed": verdict.removed, "lost": lost, "findings": findings, "kills": restarts.len(),
                    "kills_under_way": hits, "restart_ms": times,
                })
            ))?;
        } else {
            let kills = match (at(0), at(50), at(100)) {
                (Some(least), Some(median), Some(most)) => format!(
                    "kills         {:>8}   {hits} with sends under way; answers again after {least} / {median} / {most} ms \
                     (least, median, most)\n",
                    restarts.len()
                ),
                _ => String::new(),
            };
            say(&format!(
                "{kills}attempted     {:>8}\nacknowledged  {:>8}   SEND_OK\nlost          {lost:>8}\nduplicated    {:>8}   kept twice: sent \
                 again because the first answer did not come\nunknown       {:>8}   no answer: kept or not\nrefused       {:>8}\n",
                verdict.attempted, verdict.kept, verdict.duplicated, verdict.unknown, verdict.refused,
            ))?;
        }
        if verdict.is_clean() {
            if !self.json {
                say("nothing that was acknowledged is missing\n")?;
            }
            return Ok(());
        }
        let title = format!("{lost} acknowledged messages are missing, {} findings in all", verdict.findings.len());
        let why = "SEND_OK is a promise; with ASYNC_FLUSH it covers the end of the process, not that of the machine";
        let remedy = "keep the folder; look whether the disk, or somebody, has cut or changed files of the store";
        Err(Failure::new(ExitCode::Failed, Problem::new(title, verdict.to_string(), why, remedy)))
    }
}

/// Compares a ledger with what name servers lead to.
async fn check(ledger: &Path, name_servers: &str) -> Result<Outcome, Failure> {
    let (mut ledger, topics) = Books::read(ledger)?;
    for topic in topics {
        let mut failed = None;
        let take = |message: &keepmq_client::Received| failed = ledger_takes(&mut ledger, message).err();
        read_through(name_servers, &topic, take).await?;
        if let Some(failure) = failed {
            return Err(failure);
        }
    }
    Ok(Outcome { verdict: ledger.verdict(), restarts: Vec::new(), hits: 0 })
}

fn ledger_takes(ledger: &mut Ledger, message: &keepmq_client::Received) -> Result<(), Failure> {
    ledger.record(observed(message)).map_err(|error| problem::unreadable("the ledger", &error))
}

/// Compares a ledger with the store of an earlier run, for which a broker is started once more.
async fn check_store(ledger: &Path, data: &Path, conf: &str) -> Result<Outcome, Failure> {
    if !data.join("store").is_dir() {
        let what = format!("{} has no folder `store`", data.display());
        let why = "there is nothing to compare the ledger with";
        let remedy = "give the folder that was given to the earlier run with --data";
        return Err(Failure::new(ExitCode::NotFound, Problem::new("there is no store", what, why, remedy)));
    }
    // What the earlier run was given holds for this one, too.
    let earlier = std::fs::read_to_string(data.join("broker.conf"));
    let ground = Ground::start(data, earlier.as_deref().unwrap_or(conf)).await?;
    let outcome = check(ledger, &ground.connect().name_servers).await?;
    ground.stop().await?;
    Ok(outcome)
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    let title = format!("the configuration {} cannot be read", path.display());
    let why = "what is proved holds for the settings it is proved with";
    Failure::new(ExitCode::Configuration, Problem::new(title, error.to_string(), why, "give another file"))
}

/// On a terminal; elsewhere it draws nothing.
fn bar(kills: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} {bar:40} kill {pos} of {len}, {msg}");
    ProgressBar::new(kills).with_style(style.expect("the template is legal"))
}

/// With a unit, or in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}
