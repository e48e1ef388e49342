//! One store, two brokers: what RocketMQ's broker has written is taken over with everything in it, or refused with a reason; and
//! RocketMQ's broker finds everything in what KeepMQ has written.

use crate::client::{Client, Message, batch_request, half_request, send_request, sent, unique_key};
use crate::java_servers::JavaServers;
use crate::process::{Folder, PATIENCE, Process};
use crate::scene::{BROKER, Mode, Scene};
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::message::{self, BatchItem, property, push_batch_item};
use keepmq_protocol::{Request, Response};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Small, so that there are several.
const SEGMENT: u64 = 1024 * 1024;
/// Each with its queues. The first topic's messages are the oldest: retention takes all of them, and its offsets stay.
const TOPICS: [(&str, i32); 3] = [("Gone", 1), ("Plain", 3), ("Batches", 2)];
const GROUPS: [&str; 2] = ["readers", "slow-readers"];
/// Messages of a topic.
const MESSAGES: usize = 600;
/// `DELETE_EXPIRED_COMMITLOG`. Source: RocketMQ `RequestCode`.
const DELETE_EXPIRED: i32 = 329;

/// What is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The script that starts RocketMQ's own servers.
    #[arg(long)]
    java_servers: Option<PathBuf>,
    /// Versions of the servers.
    #[arg(long, value_delimiter = ',', default_value = "5.3.3")]
    versions: Vec<String>,
}

/// With every version.
pub fn run(tally: &mut Tally, binary: &Path, options: &Options) -> Result<()> {
    for version in &options.versions {
        let what =
            format!("stores of Java's broker {version}: taken over whole, given back whole, or refused with a reason");
        let script = match (&options.java_servers, crate::interop::lacking(&["java", "bash"])) {
            (Some(script), None) => script,
            (None, _) => {
                tally.skip(&what, "there is no script that starts them (--java-servers)");
                continue;
            }
            (_, Some(lack)) => {
                tally.skip(&what, &lack);
                continue;
            }
        };
        let mut folder = Folder::new("stores")?;
        let story = Story { binary, script, version, folder: folder.path() };
        match story.tell() {
            Ok(told) => tally.pass(&format!("{what}: {told}")),
            Err(error) => {
                tally.fail(&what, &format!("{error:#}"));
                folder.keep();
            }
        }
    }
    Ok(())
}

/// What a broker says of everything that is kept.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    /// Topic and queue: the lowest offset, the one behind the highest, and the messages.
    queues: BTreeMap<(String, i32), (i64, i64, Vec<Message>)>,
    /// Group, topic and queue.
    offsets: BTreeMap<(String, String, i32), i64>,
}

struct Story<'s> {
    binary: &'s Path,
    script: &'s Path,
    version: &'s str,
    folder: &'s Path,
}

impl Story<'_> {
    fn tell(&self) -> Result<String> {
        let scene = self.scene()?;
        let store = scene.store();
        let java = self.java()?;
        fill(java.broker, "by Java").context("a fresh store of Java's")?;
        // Whoever looks too early finds less: Java's broker moves messages into queues behind their answer.
        let filled = content(java.broker, |content| content.messages() == TOPICS.len() * MESSAGES)?;
        expire(java.broker).context("retention")?;
        content(java.broker, |content| content.queues[&("Gone".to_owned(), 0)].2.is_empty())?;
        settled(&store.join("commitlog"))?;
        let kept = content(java.broker, |content| content.queues[&("Gone".to_owned(), 0)].2.is_empty())?;
        ensure!(kept.offsets == filled.offsets && kept.messages() > 0, "retention has taken too much");
        refused(&scene, &["--adopt"], 7, "in use").context("while Java's broker runs")?;
        java.stop_cleanly()?;

        let refusals = self.refusals(&scene)?;
        let (mut broker, _) = scene.clone().taking_over().start_broker()?;
        let taken = content(scene.broker, |_| true)?;
        same(&kept, &taken).context("what KeepMQ finds of Java's")?;
        goes_on(scene.broker, &kept)?;
        groups_are_there(scene.broker)?;
        fill(scene.broker, "by KeepMQ")?;
        let more = content(scene.broker, |_| true)?;
        broker.kill()?;
        let (mut broker, _) = scene.start_broker().context("killed, and started without --adopt")?;
        same(&more, &content(scene.broker, |_| true)?).context("after a kill")?;
        let status = broker.stop()?;
        ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());

        let java = self.java().context("Java on what KeepMQ has written")?;
        let back = content(java.broker, |content| content.messages() == more.messages())?;
        same(&more, &back).context("what Java finds of KeepMQ's")?;
        goes_on(java.broker, &more)?;
        waiting(java.broker)?;
        java.stop_cleanly()?;
        refused(&scene, &[], 3, "RocketMQ")?;
        refused(&scene, &["--adopt"], 3, "half messages")?;
        let offsets = store.join("config/consumerOffset.json");
        let text = fs::read_to_string(&offsets).context("cannot read Java's offsets")?;
        let resolved = text.replacen(
            "\"offsetTable\":{",
            "\"offsetTable\":{\n\t\t\"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS\":{0:1},",
            1,
        );
        fs::write(&offsets, resolved).context("cannot write Java's offsets")?;
        refused(&scene, &["--adopt"], 3, "1 delayed messages").context("half messages resolved")?;
        Ok(format!(
            "{} messages, {} offsets, there and back, {} of them beyond a retention that has emptied a queue; {} refusals",
            more.messages(),
            more.offsets.len(),
            kept.messages(),
            refusals + 4
        ))
    }

    fn scene(&self) -> Result<Scene> {
        let scene =
            Scene::new(self.binary, self.folder)?.flushing(Mode::Sync).with("mappedFileSizeCommitLog", &SEGMENT);
        Ok(scene.with("storePathRootDir", &self.folder.join("java/store").display()))
    }

    fn java(&self) -> Result<JavaServers> {
        // Retention that takes every segment but the last, when it is told to.
        let conf =
            format!("brokerName={BROKER}\nmappedFileSizeCommitLog={SEGMENT}\nfileReservedTime=0\ndeleteWhen=25\n");
        JavaServers::start_with(self.script, self.version, Mode::Sync, &self.folder.join("java"), &conf)
    }

    /// Stores of Java's that are not taken over as they are; what was changed is changed back. Answers how many.
    fn refusals(&self, scene: &Scene) -> Result<usize> {
        let store = scene.store();
        refused(scene, &[], 3, "--adopt")?;
        let marks = [
            ("abort", "not stopped cleanly"),
            ("consumequeue/CURRENT", "RocksDB"),
            ("config/rdb", "RocksDB"),
            ("dledger-n0", "DLedger"),
        ];
        for (mark, word) in marks {
            let path = store.join(mark);
            fs::write(&path, "4711").with_context(|| format!("cannot write {}", path.display()))?;
            let result = refused(scene, &["--adopt"], 3, word).with_context(|| format!("with {mark}"));
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            result?;
        }
        let tables = ["config/topics.json", "config/subscriptionGroup.json", "config/consumerOffset.json"];
        for table in tables {
            let path = store.join(table);
            let whole = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let halves: [Option<&[u8]>; 2] = [None, Some(&whole[..whole.len() / 2])];
            for left in halves {
                match left {
                    None => fs::remove_file(&path),
                    Some(half) => fs::write(&path, half),
                }
                .with_context(|| format!("cannot change {}", path.display()))?;
                let result = refused(scene, &["--adopt"], 8, table).with_context(|| format!("{table} spoilt"));
                fs::write(&path, &whole).with_context(|| format!("cannot write {}", path.display()))?;
                result?;
            }
        }
        Ok(1 + marks.len() + 2 * tables.len())
    }
}

impl Content {
    fn messages(&self) -> usize {
        self.queues.values().map(|(_, _, messages)| messages.len()).sum()
    }
}

/// Creates topics and groups, sends, and commits offsets.
fn fill(broker: SocketAddr, by: &str) -> Result<()> {
    let mut client = Client::connect(broker)?;
    for group in GROUPS {
        client.create_group(group)?;
    }
    for (topic, queues) in TOPICS {
        client.create_topic(topic, queues)?;
        let mut left = MESSAGES;
        while left > 0 {
            let queue = i32::try_from(left)? % queues;
            let body = format!("{topic} {left} {by} {}", "x".repeat(1_500)).into_bytes();
            let mut properties = unique_key(left as u64);
            message::push(&mut properties, property::TAGS, if left.is_multiple_of(2) { "even" } else { "odd" });
            let count = if topic == "Batches" { left.min(5) } else { 1 };
            let request = if count == 1 {
                send_request(topic, queue, &body, &properties)
            } else {
                let mut items = Vec::new();
                for _ in 0..count {
                    push_batch_item(&mut items, &BatchItem { flag: 0, body: &body, properties: &properties });
                }
                let places = sent(&client.must(&batch_request(topic, queue, &items))?)?;
                ensure!(places.len() == count, "a batch of {count} was given {} places", places.len());
                left -= count;
                continue;
            };
            client.must(&request)?;
            left -= 1;
        }
        for (part, group) in (1..).zip(GROUPS) {
            for queue in 0..queues {
                let end = client.max_offset(topic, queue)?;
                client.commit(group, topic, queue, end / part)?;
            }
        }
    }
    Ok(())
}

/// Everything that the broker has, as soon as it `is_whole`. RocketMQ's broker takes messages and queues away one after the other,
/// and cannot be read in between.
fn content(broker: SocketAddr, is_whole: impl Fn(&Content) -> bool) -> Result<Content> {
    let end = Instant::now() + PATIENCE;
    loop {
        let why = match read(broker) {
            Ok(content) if is_whole(&content) => return Ok(content),
            Ok(content) => format!("it has {} messages", content.messages()),
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < end, "not whole after {PATIENCE:?}: {why}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn read(broker: SocketAddr) -> Result<Content> {
    let mut client = Client::connect(broker)?;
    let mut content = Content::default();
    for (topic, queues) in TOPICS {
        for queue in 0..queues {
            let (min, max) = (first(&mut client, topic, queue)?, client.max_offset(topic, queue)?);
            let mut messages = Vec::new();
            client.read_from(topic, queue, min, |found| {
                messages.extend(found);
                Ok(())
            })?;
            content.queues.insert((topic.to_owned(), queue), (min, max, messages));
            for group in GROUPS {
                let offset = client.committed(group, topic, queue)?;
                content.offsets.insert((group.to_owned(), topic.to_owned(), queue), offset);
            }
        }
    }
    Ok(content)
}

/// Waits until no segment has gone for longer than RocketMQ rests between two looks for old ones (10 s).
fn settled(folder: &Path) -> Result<()> {
    let count = || Ok::<_, anyhow::Error>(fs::read_dir(folder).context("there is no commit log")?.count());
    let (mut known, mut since) = (count()?, Instant::now());
    let end = Instant::now() + PATIENCE;
    while since.elapsed() < Duration::from_secs(12) {
        ensure!(Instant::now() < end, "RocketMQ still removes segments after {PATIENCE:?}: {known} are left");
        std::thread::sleep(Duration::from_millis(100));
        let now = count()?;
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// The lowest offset that can be read. RocketMQ may name lower ones, whose records its retention has removed: it corrects that
/// late, and answers pulls there with "removing" for minutes.
fn first(client: &mut Client, topic: &str, queue: i32) -> Result<i64> {
    let mut at = client.min_offset(topic, queue)?;
    loop {
        let pulled = client.pull(topic, queue, at)?;
        if pulled.remark.as_deref() != Some("MESSAGE_WAS_REMOVING") {
            return Ok(at);
        }
        at += 1;
    }
}

/// Says where two differ, not all of both.
fn same(before: &Content, after: &Content) -> Result<()> {
    for (queue, (min, max, messages)) in &before.queues {
        let (min_now, max_now, messages_now) = &after.queues[queue];
        ensure!(
            (min, max) == (min_now, max_now),
            "{queue:?} went from {min} to {max}, and goes from {min_now} to {max_now}"
        );
        let changed = messages.iter().zip(messages_now).find(|(one, other)| one != other);
        ensure!(changed.is_none(), "{queue:?}: {changed:?}");
        ensure!(
            messages.len() == messages_now.len(),
            "{queue:?} had {} messages, and has {}",
            messages.len(),
            messages_now.len()
        );
    }
    let moved = before.offsets.iter().find(|(key, offset)| after.offsets.get(*key) != Some(*offset));
    ensure!(moved.is_none(), "the offset {moved:?} is now {:?}", moved.and_then(|(key, _)| after.offsets.get(key)));
    Ok(())
}

/// The next message of a queue gets the next offset, also where retention has left none.
fn goes_on(broker: SocketAddr, before: &Content) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let (_, max, _) = &before.queues[&("Gone".to_owned(), 0)];
    let sent = client.send("Gone", 0, b"one more")?;
    ensure!(i64::try_from(sent.offset.0)? == *max, "the queue ended at {max}, and goes on at {}", sent.offset);
    Ok(())
}

fn groups_are_there(broker: SocketAddr) -> Result<()> {
    let response = Client::connect(broker)?.must(&Request::AllGroups)?;
    let text = body(&response);
    let missing = GROUPS.into_iter().find(|group| !text.contains(&format!("\"{group}\"")));
    ensure!(missing.is_none(), "the group {missing:?} is not there: {text}");
    Ok(())
}

fn body(response: &Response) -> String {
    let bytes: Vec<u8> = response.body.iter().flat_map(|piece| piece.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Lets RocketMQ's retention take what it may: every segment but the last.
fn expire(broker: SocketAddr) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let header = format!(
        r#"{{"code":{DELETE_EXPIRED},"flag":0,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":435}}"#
    );
    let length = u32::try_from(header.len())?;
    client.raw(&[&(length + 4).to_be_bytes()[..], &length.to_be_bytes(), header.as_bytes()].concat())?;
    let (_, response) = client.receive()?.context("no answer")?;
    ensure!(response.is_ok(), "it was refused with {}: {:?}", response.code, response.remark);
    Ok(())
}

/// Leaves what a takeover must not lose: a half message, and one that is to come in ten minutes.
fn waiting(broker: SocketAddr) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let mut half = unique_key(1);
    message::push(&mut half, "TRAN_MSG", "true");
    message::push(&mut half, "PGROUP", "proving");
    client.must(&half_request("Plain", 0, b"half", &half))?;
    let mut delayed = unique_key(2);
    message::push(&mut delayed, "DELAY", "14");
    client.must(&send_request("Plain", 0, b"later", &delayed))?;
    Ok(())
}

/// A start that is refused: with this exit code, and this in its text.
fn refused(scene: &Scene, flags: &[&str], code: i32, word: &str) -> Result<()> {
    let mut command = scene.broker_command()?;
    command.args(flags);
    let log = scene.folder.join("refused.log");
    fs::write(&log, "").context("cannot empty a log")?;
    let mut broker = Process::start(&command, &log)?;
    let status = broker.ended_within(PATIENCE)?.with_context(|| format!("it has started{}", broker.said()))?;
    let said = fs::read_to_string(&log).context("cannot read what it said")?;
    ensure!(status.code() == Some(code), "it ended with {status}, not with {code}: {said}");
    if !said.contains(word) || !said.contains("\n  do ") {
        bail!("it does not say {word:?} and what to do: {said}");
    }
    Ok(())
}
