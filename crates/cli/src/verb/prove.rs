//! `keepmq prove`: the promise on the user's own disk, with the user's own settings.

mod report;

use crate::args::{Connect, amount, duration, positive};
use crate::books::{Books, observed};
use crate::cluster::Cluster;
use crate::ground::{Folder, Ground};
use crate::interrupt::Interrupt;
use crate::load::{Load, Shared, open, read_through, wall};
use crate::problem;
use crate::verb::topic;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use keepmq_client::{Producer, Topic};
use keepmq_ledger::Ledger;
use keepmq_server::{ExitCode, Failure, Problem};
use keepmq_world::Chance;
use report::{Kill, Outcome};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const QUEUES: u32 = 4;
const KILLS_MAX: u64 = 100_000;
const CONNECTIONS_MAX: usize = 1_000;
/// Bytes of a body besides the id.
const BYTES: (usize, usize) = (16, 1_500);
/// Without the user's settings: RocketMQ's, but small segments.
const CONF: &str = "flushDiskType=SYNC_FLUSH\nbrokerName=broker-a\nmappedFileSizeCommitLog=67108864\n";
/// Bytes of a body with which the log is filled.
const FILL: usize = 16 << 10;
/// Acknowledged behind the last kill at least: the last start is to have been one.
const AFTER: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a broker with your settings on your disk, sends with a ledger beside it, kills the broker with SIGKILL at random moments,
/// starts it again, and compares: everything that was acknowledged must be there. Ends with 1 if anything is missing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keepmq prove --conf /etc/keepmq/broker.conf --data /data/prove --kills 20\n  \
                        keepmq prove --data /data/prove --log-size 10GiB --kills 20 --secs 2m --json\n  \
                        keepmq prove --remote 10.0.0.5:9876 --secs 30\n  \
                        keepmq prove --check /data/prove/ledger --data /data/prove\n  \
                        keepmq prove --check ./ledger -n 10.0.0.5:9876\n\n\
                        Kills do not test the disk against a power cut: what the disk's own cache forgets, only pulling the plug shows.")]
pub struct Prove {
    /// Settings of the broker, as RocketMQ's broker.conf has them; its addresses and folders are replaced
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// How often the broker is killed; any moment of the load is as likely as any other
    #[arg(long, value_name = "N", default_value = "5", value_parser = kills)]
    kills: u64,
    /// How long the load goes on altogether, besides the restarts: 20s, 10m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    secs: Duration,
    /// Connections, each with one send under way
    #[arg(long, value_name = "N", default_value = "64", value_parser = connections)]
    connections: usize,
    /// Fill the log with so many bytes first, so that it is started again with a log as long as yours: 64MiB, 10GiB
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    log_size: Option<u64>,
    /// Where store and ledger are kept: a folder on the disk in question [default: a temporary one, removed when all is well]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// No kills: brokers that run already, behind these name servers, take the load in a topic that is made for it, and removed when
    /// all is well
    #[arg(long, value_name = "NAMESRV[;NAMESRV]", conflicts_with_all = ["kills", "conf", "log_size", "check"])]
    remote: Option<String>,
    /// Compare only: this ledger of an earlier run, with the store beside it (--data) or with a running broker (-n)
    #[arg(long, value_name = "LEDGER", conflicts_with_all = ["kills", "secs", "connections", "log_size"])]
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
    /// Print the result as JSON, with every kill and every queue
    #[arg(long)]
    json: bool,
    /// Chooses the moments of the kills. Every run prints its own, so that it can be had again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Prove {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let conf = match &self.conf {
            None => CONF.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| unread(path, &error))?,
        };
        let mut folder = Folder::new(self.data.as_deref(), "prove");
        let outcome = match (&self.remote, &self.check, &self.name_servers) {
            (Some(name_servers), ..) => self.remote(&folder, name_servers, interrupt).await,
            (None, None, _) => self.kills(&folder, &conf, interrupt).await,
            (None, Some(ledger), Some(name_servers)) => {
                interrupt.unless(check(ledger, name_servers)).await.map(|ledger| Outcome::compared(&ledger))
            }
            (None, Some(ledger), None) => {
                let Some(data) = &self.data else {
                    let what = "neither --data nor -n is given";
                    let remedy =
                        "give the folder of the store (--data DIR), or the name servers of a running broker (-n)";
                    return Err(problem::usage("it is not said what to compare the ledger with", what, remedy));
                };
                let checked = interrupt.unless(check_store(ledger, data, &conf)).await;
                checked.map(|ledger| Outcome::compared(&ledger))
            }
        };
        let judged = outcome.and_then(|outcome| {
            outcome.print(self.json)?;
            outcome.judge()
        });
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
        let mut stand = self.stand(&ground.connect().name_servers, topic, folder).await?;
        let filled = match self.log_size {
            None => None,
            Some(bytes) => Some(stand.fill(bytes).await?),
        };
        let mut chance = Chance::new(stand.seed);
        let moments = moments(&mut chance, self.kills, self.secs);
        let progress = bar(self.kills, "{elapsed} {bar:40} kill {pos} of {len}, {msg}");
        let load = stand.load(BYTES);
        let mut kills = Vec::new();
        let mut loaded = Duration::ZERO;
        for at in moments {
            // The load's own time: while the broker starts, it stands still.
            tokio::time::sleep(at - loaded).await;
            loaded = at;
            let (acknowledged, under_way) = (load.kept(), load.in_flight());
            ground.kill_broker()?;
            let restart = ground.start_broker().await?;
            kills.push(Kill { at, acknowledged, under_way, restart });
            progress.inc(1);
            progress.set_message(format!("{} acknowledged", load.kept()));
        }
        tokio::time::sleep(self.secs.saturating_sub(loaded)).await;
        load.wait_for(AFTER, PATIENCE).await?;
        load.stop().await;
        progress.finish_and_clear();
        let seed = stand.seed;
        let mut outcome = Outcome::compared(&stand.compare(&ground.connect().name_servers).await?);
        (outcome.seed, outcome.filled, outcome.kills) = (Some(seed), filled, kills);
        Ok(outcome)
    }

    /// The same without kills, where somebody else's brokers run.
    async fn remote(&self, folder: &Folder, name_servers: &str, interrupt: &mut Interrupt) -> Result<Outcome, Failure> {
        std::fs::create_dir_all(folder.path())
            .map_err(|error| problem::io(&format!("the folder {} cannot be used", folder.path().display()), &error))?;
        let connect = Connect { name_servers: name_servers.to_owned(), timeout: Duration::from_secs(3) };
        let cluster = Cluster::connect(&connect).await?;
        let masters = cluster.masters(None).await?;
        if masters.is_empty() {
            return Err(topic::no_master(&cluster, None, None));
        }
        // Nobody else's: what is found in it is ours, or must not be there.
        let topic = Topic::new(&format!("keepmq-prove-{}-{}", std::process::id(), wall())).expect("a legal name");
        for master in &masters {
            topic::create(&cluster, master, &topic, QUEUES).await?;
        }
        let outcome = interrupt.unless(self.remote_story(name_servers, topic.clone(), folder)).await;
        let nothing_to_see = match &outcome {
            Ok(outcome) => outcome.is_clean(),
            Err(failure) => failure.exit == ExitCode::Interrupted,
        };
        if nothing_to_see {
            topic::remove(&cluster, &topic).await?;
        } else {
            eprintln!(
                "the topic is left for those who look into it; then: keepmq topic delete {topic} -n '{name_servers}'"
            );
        }
        outcome
    }

    async fn remote_story(&self, name_servers: &str, topic: Topic, folder: &Folder) -> Result<Outcome, Failure> {
        let stand = self.stand(name_servers, topic, folder).await?;
        let load = stand.load(BYTES);
        tokio::time::sleep(self.secs).await;
        load.wait_for(1, PATIENCE).await?;
        load.stop().await;
        stand.compare(name_servers).await.map(|ledger| Outcome::compared(&ledger))
    }

    /// Everything that sends: a client for each connection, and the books.
    async fn stand(&self, name_servers: &str, topic: Topic, folder: &Folder) -> Result<Stand, Failure> {
        let mut producers = Vec::new();
        for _ in 0..self.connections {
            let producer = Producer::builder(name_servers, "keepmq-prove").start().await;
            producers.push(producer.map_err(|error| problem::start(&error))?);
        }
        let books = Arc::new(Mutex::new(Books::create(&folder.path().join("ledger"))?));
        let seed = self.seed.unwrap_or_else(|| wall().unsigned_abs());
        Ok(Stand { topic, producers, books, ids: Arc::new(AtomicU64::new(1)), seed })
    }
}

/// What sends, and what is written about it.
struct Stand {
    topic: Topic,
    producers: Vec<Producer>,
    books: Shared,
    ids: Arc<AtomicU64>,
    seed: u64,
}

impl Stand {
    fn load(&self, bytes: (usize, usize)) -> Load {
        Load::start(&self.producers, &self.topic, &self.books, &self.ids, self.producers.len(), bytes)
    }

    /// Sends until so many bytes are in the log. These messages stand in the books as all others do.
    async fn fill(&mut self, bytes: u64) -> Result<(u64, Duration), Failure> {
        let (began, goal) = (Instant::now(), bytes.div_ceil(FILL as u64));
        let progress =
            bar(goal * FILL as u64, "{elapsed} {bar:40} filling the log: {binary_bytes} of {binary_total_bytes}");
        let load = self.load((FILL, FILL));
        while load.kept() < goal {
            load.wait_for((goal - load.kept()).min(AFTER), PATIENCE).await?;
            progress.set_position(load.kept() * FILL as u64);
        }
        load.stop().await;
        progress.finish_and_clear();
        Ok((goal * FILL as u64, began.elapsed()))
    }

    /// Reads everything that is there into the books.
    async fn compare(self, name_servers: &str) -> Result<Ledger, Failure> {
        for producer in self.producers {
            producer.close(Duration::from_secs(5)).await;
        }
        read_through(name_servers, &self.topic, |message| open(&self.books).observe(message)).await?;
        let ledger = open(&self.books).ledger()?.clone();
        Ok(ledger)
    }
}

/// So many moments, in order: any is as likely as any other.
fn moments(chance: &mut Chance, kills: u64, within: Duration) -> Vec<Duration> {
    let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX - 1);
    let mut moments: Vec<_> = (0..kills).map(|_| Duration::from_micros(chance.below(micros + 1))).collect();
    moments.sort_unstable();
    moments
}

/// Compares a ledger with what name servers lead to.
async fn check(ledger: &Path, name_servers: &str) -> Result<Ledger, Failure> {
    let (mut ledger, topics) = Books::read(ledger)?;
    for topic in topics {
        let mut failed = None;
        let take = |message: &keepmq_client::Received| failed = ledger_takes(&mut ledger, message).err();
        read_through(name_servers, &topic, take).await?;
        if let Some(failure) = failed {
            return Err(failure);
        }
    }
    Ok(ledger)
}

fn ledger_takes(ledger: &mut Ledger, message: &keepmq_client::Received) -> Result<(), Failure> {
    ledger.record(observed(message)).map_err(|error| problem::unreadable("the ledger", &error))
}

/// Compares a ledger with the store of an earlier run, for which a broker is started once more.
async fn check_store(ledger: &Path, data: &Path, conf: &str) -> Result<Ledger, Failure> {
    if !data.join("store").is_dir() {
        let what = format!("{} has no folder `store`", data.display());
        let why = "there is nothing to compare the ledger with";
        let remedy = "give the folder that was given to the earlier run with --data";
        return Err(Failure::new(ExitCode::NotFound, Problem::new("there is no store", what, why, remedy)));
    }
    // What the earlier run was given holds for this one, too.
    let earlier = std::fs::read_to_string(data.join("broker.conf"));
    let ground = Ground::start(data, earlier.as_deref().unwrap_or(conf)).await?;
    let ledger = check(ledger, &ground.connect().name_servers).await?;
    ground.stop().await?;
    Ok(ledger)
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    let title = format!("the configuration {} cannot be read", path.display());
    let why = "what is proved holds for the settings it is proved with";
    Failure::new(ExitCode::Configuration, Problem::new(title, error.to_string(), why, "give another file"))
}

/// On a terminal; elsewhere it draws nothing.
fn bar(steps: u64, template: &str) -> ProgressBar {
    ProgressBar::new(steps).with_style(ProgressStyle::with_template(template).expect("the template is legal"))
}

/// How often a broker can be killed within a life.
fn kills(text: &str) -> Result<u64, String> {
    positive(text).and_then(|kills| if kills <= KILLS_MAX { Ok(kills) } else { Err(format!("at most {KILLS_MAX}")) })
}

/// Each connection is a client of its own, with a thread.
fn connections(text: &str) -> Result<usize, String> {
    let few = |count| usize::try_from(count).ok().filter(|count| *count <= CONNECTIONS_MAX);
    positive(text).and_then(|count| few(count).ok_or_else(|| format!("at most {CONNECTIONS_MAX}")))
}

/// With a unit, or in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_over_the_whole_time_and_come_again_with_their_seed() {
        let within = Duration::from_secs(10);
        let drawn = moments(&mut Chance::new(7), 10_000, within);
        assert!(drawn.is_sorted() && drawn.iter().all(|at| *at <= within));
        for tenth in 0..10 {
            let from = Duration::from_secs(tenth);
            let there = drawn.iter().filter(|at| (from..from + Duration::from_secs(1)).contains(at)).count();
            assert!((850..1150).contains(&there), "{there} of 10,000 in second {tenth}");
        }
        assert_eq!(drawn, moments(&mut Chance::new(7), 10_000, within));
        assert_eq!(moments(&mut Chance::new(7), 1, Duration::ZERO), [Duration::ZERO]);
    }
}
