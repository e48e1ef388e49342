//! Two clients of different makers: what one sends the other receives, and they are members of one group.

use super::program::Program;
use crate::client::Client;
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::request::QueryOffset;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Tags that are wanted; of another one the hash is the same as that of `Aa`.
const WANTED: [&str; 3] = ["A", "C", "Aa"];
/// What a change of the members may take. Without being told of it, clients look only every 20 seconds.
const TOLD: Duration = Duration::from_secs(10);
/// What the last messages may take to arrive.
const LAST: Duration = Duration::from_secs(30);
const QUEUES: u32 = 8;

/// A program, and what it is called; in names of topics, too.
pub(super) struct Half<'p> {
    pub(super) name: &'p str,
    pub(super) program: &'p mut Program,
}

/// What one sends is received by the other: every line that they print of a message is the same.
pub(super) fn exchange(tally: &mut Tally, from: &mut Half<'_>, to: &mut Half<'_>) -> Result<()> {
    let (sender, receiver) = (from.name, to.name);
    let topic = format!("{sender}-to-{receiver}");
    let sent = from.program.ask(&format!("peer-send {topic}"), "sent")?;
    tally.check(&format!("interop pair: {sender} sends one sharding key to one queue"), one_queue_each(&sent));
    let mut take =
        |group: &str, tags: &str, count| to.program.ask(&format!("peer-take {topic} {group} {tags} {count}"), "got");
    let got = take(&topic, "*", sent.len())?;
    let what = "body, tag, keys, property, flag, sharding key, place and both ids, also compressed and of a batch";
    tally.check(&format!("interop pair: {receiver} receives from {sender} {what}"), same(&sent, got));
    let tagged = sent.iter().filter(|line| word(line, 1).is_ok_and(|tag| WANTED.contains(&tag)));
    let tagged: Vec<_> = tagged.cloned().collect();
    let got = take(&format!("{topic}-tagged"), &WANTED.join("||"), tagged.len())?;
    tally.check(&format!("interop pair: {receiver} receives from {sender} by tag"), same(&tagged, got));
    Ok(())
}

/// A word of a line: keys, tag, flag, property, sharding key, length and checksum of the body, queue, offset, and both ids.
fn word(line: &str, at: usize) -> Result<&str, String> {
    line.split(' ').nth(at).ok_or_else(|| format!("no message is described by {line:?}"))
}

/// The same lines, each as often.
fn same(sent: &[String], mut got: Vec<String>) -> Result<(), String> {
    let mut sent = sent.to_vec();
    sent.sort_unstable();
    got.sort_unstable();
    if sent == got {
        return Ok(());
    }
    let first = sent.iter().zip(&got).find(|(sent, got)| sent != got);
    Err(format!("{} were sent, {} received; the first that differ: {first:?}", sent.len(), got.len()))
}

fn one_queue_each(sent: &[String]) -> Result<(), String> {
    let mut queues: BTreeMap<&str, &str> = BTreeMap::new();
    for line in sent {
        let (shard, queue) = (word(line, 4)?, word(line, 7)?);
        if shard != "-" && *queues.entry(shard).or_insert(queue) != queue {
            return Err(format!("{shard} went to queue {} and to queue {queue}", queues[shard]));
        }
    }
    if queues.len() < 3 { Err(format!("only these keys were sent: {queues:?}")) } else { Ok(()) }
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug)]
enum Act {
    Join,
    Leave,
    Kill,
}

/// Starts a program with this name, of whichever maker.
pub(super) type Start<'s> = &'s dyn Fn(&str) -> Result<Program>;

/// Members of both makers come, leave and die while messages flow; those of theirs are called "theirs".
pub(super) fn shared_group(
    tally: &mut Tally,
    peer: &str,
    scene: &Scene,
    ours: Start<'_>,
    theirs: Start<'_>,
) -> Result<()> {
    use Act::{Join, Kill, Leave};
    let topic = format!("shared-with-{peer}");
    let mut flow = ours("flow")?;
    flow.tell(&format!("flow-begin {topic}"))?;
    let mut group = Group { topic: topic.clone(), members: BTreeMap::new(), deliveries: Vec::new() };
    let story = [
        (Join, "ours-1"),
        (Join, "theirs-2"),
        (Join, "ours-3"),
        (Leave, "theirs-2"),
        (Kill, "ours-3"),
        (Join, "theirs-4"),
        (Kill, "theirs-4"),
        (Join, "theirs-5"),
        (Leave, "ours-1"),
        // The last is one of ours: it commits all that its listeners have processed before it leaves. The others may not.
        (Join, "ours-6"),
        (Leave, "theirs-5"),
    ];
    for (act, member) in story {
        match act {
            Join => {
                let program = if member.starts_with("ours") { ours(member)? } else { theirs(member)? };
                group.join(member, program)?;
            }
            Leave => group.leave(member)?,
            Kill => group.kill(member)?,
        }
        let what = format!("interop group of ours and {peer}: {act:?} {member}: queues are shared, messages flow")
            .to_lowercase();
        tally.check(&what, group.settle().map_err(|error| format!("{error:#}")));
    }
    let kept = flow.ask("flow-end", "kept")?;
    flow.end()?;
    let kept: Vec<Kept> = kept.iter().map(|line| Kept::read(line)).collect::<Result<_>>()?;
    let end = Instant::now() + LAST;
    let mut verdict = group.judge(&kept)?;
    while verdict.is_err() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        verdict = group.judge(&kept)?;
    }
    tally.check(&format!("interop group of ours and {peer}: nothing missed, every queue in its order"), verdict);
    group.leave("ours-6")?;
    tally.check(&format!("interop group of ours and {peer}: everything is committed"), committed(scene, &topic, &kept));
    Ok(())
}

/// Our producer and our consumer run while servers are killed and come back.
pub(super) fn killed(program: &mut Program, kill: impl FnOnce() -> Result<()>) -> Result<()> {
    program.tell("flow-begin killed")?;
    program.tell("peer-join one killed killed")?;
    let mut bodies = BTreeSet::new();
    flows(program, &mut bodies).context("before they are killed")?;
    kill()?;
    flows(program, &mut bodies).context("after they were killed")?;
    let kept = program.ask("flow-end", "kept")?;
    let kept: Vec<Kept> = kept.iter().map(|line| Kept::read(line)).collect::<Result<_>>()?;
    let end = Instant::now() + LAST;
    loop {
        gather(program, &mut bodies)?;
        let missing = kept.iter().filter(|kept| !bodies.contains(&kept.body)).count();
        if missing == 0 {
            return program.tell("peer-leave one");
        }
        ensure!(Instant::now() < end, "{missing} of {} acknowledged messages are missing", kept.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until more messages come.
fn flows(program: &mut Program, bodies: &mut BTreeSet<String>) -> Result<()> {
    gather(program, bodies)?;
    let (end, enough) = (Instant::now() + LAST, bodies.len() + 100);
    while bodies.len() < enough {
        ensure!(Instant::now() < end, "nothing flows");
        std::thread::sleep(Duration::from_millis(20));
        gather(program, bodies)?;
    }
    Ok(())
}

/// Adds what was taken meanwhile.
fn gather(program: &mut Program, bodies: &mut BTreeSet<String>) -> Result<()> {
    for line in program.took() {
        bodies.insert(Delivery::read(&line)?.kept.body);
    }
    Ok(())
}

/// A message that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    queue: u32,
    offset: u64,
    body: String,
}

impl Kept {
    fn read(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [queue, offset, body] = words[..] else { anyhow::bail!("nothing is kept by {line:?}") };
        Ok(Self { queue: queue.parse()?, offset: offset.parse()?, body: body.to_owned() })
    }
}

/// A message that a member was given.
#[derive(Clone, Debug)]
struct Delivery {
    member: String,
    kept: Kept,
    /// By the clock that all programs share; microseconds.
    at: u64,
}

impl Delivery {
    fn read(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [member, queue, offset, body, at] = words[..] else { anyhow::bail!("nothing is taken by {line:?}") };
        let kept = Kept { queue: queue.parse()?, offset: offset.parse()?, body: body.to_owned() };
        Ok(Self { member: member.to_owned(), kept, at: at.parse()? })
    }
}

struct Group {
    topic: String,
    members: BTreeMap<String, Program>,
    deliveries: Vec<Delivery>,
}

impl Group {
    fn join(&mut self, member: &str, mut program: Program) -> Result<()> {
        program.tell(&format!("peer-join {member} {0} {0}", self.topic))?;
        self.members.insert(member.to_owned(), program);
        Ok(())
    }

    fn leave(&mut self, member: &str) -> Result<()> {
        let mut program = self.members.remove(member).context("it has joined")?;
        program.tell(&format!("peer-leave {member}"))?;
        let took = program.took();
        self.add(&took)?;
        program.end()
    }

    fn kill(&mut self, member: &str) -> Result<()> {
        let took = self.members.remove(member).context("it has joined")?.kill()?;
        self.add(&took)
    }

    fn add(&mut self, took: &[String]) -> Result<()> {
        for line in took {
            self.deliveries.push(Delivery::read(line)?);
        }
        Ok(())
    }

    fn gather(&mut self) -> Result<()> {
        let took: Vec<String> = self.members.values_mut().flat_map(Program::took).collect();
        self.add(&took)
    }

    /// Which queues each member has by its own count.
    fn owns(&mut self) -> Result<BTreeMap<String, BTreeSet<u32>>> {
        let mut all = BTreeMap::new();
        for (member, program) in &mut self.members {
            let answer = program.ask(&format!("peer-owns {member} {}", self.topic), "owns")?;
            let queues = answer.iter().flat_map(|line| line.split_whitespace()).map(str::parse);
            all.insert(member.clone(), queues.collect::<Result<_, _>>().context("queues are numbers")?);
        }
        Ok(all)
    }

    /// Waits until the members have shared the queues, and each of them receives from each of its own.
    fn settle(&mut self) -> Result<()> {
        let end = Instant::now() + TOLD;
        let owned = loop {
            let owned = self.owns()?;
            match fair(&owned) {
                Ok(()) => break owned,
                Err(why) => ensure!(Instant::now() < end, "after {TOLD:?}: {why}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        self.gather()?;
        let before = self.deliveries.len();
        loop {
            self.gather()?;
            let received = |member: &str, queue| {
                let of = |delivery: &Delivery| delivery.member == member && delivery.kept.queue == queue;
                self.deliveries[before..].iter().any(of)
            };
            let pairs = owned.iter().flat_map(|(member, queues)| queues.iter().map(move |queue| (member, *queue)));
            let silent: Vec<_> = pairs.filter(|(member, queue)| !received(member, *queue)).collect();
            if silent.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "after {TOLD:?} nothing has come of {silent:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything was delivered, and the first deliveries of each queue stand in its order.
    fn judge(&mut self, kept: &[Kept]) -> Result<Result<(), String>> {
        self.gather()?;
        Ok(judge(kept, &self.deliveries))
    }
}

/// Every queue has one owner, and each member has a block of neighbours that is as large as those of the others, or almost.
fn fair(owned: &BTreeMap<String, BTreeSet<u32>>) -> Result<(), String> {
    let sizes: BTreeSet<usize> = owned.values().map(BTreeSet::len).collect();
    let complete = owned.values().flatten().copied().collect::<BTreeSet<u32>>() == (0..QUEUES).collect();
    let disjoint = owned.values().map(BTreeSet::len).sum::<usize>() == QUEUES as usize;
    let even = sizes.first().zip(sizes.last()).is_some_and(|(least, most)| most - least <= 1);
    let blocks = owned.values().all(|queues| {
        let span = queues.first().zip(queues.last()).map(|(first, last)| (last - first) as usize + 1);
        span == Some(queues.len())
    });
    if complete && disjoint && even && blocks { Ok(()) } else { Err(format!("queues are shared so: {owned:?}")) }
}

fn judge(kept: &[Kept], deliveries: &[Delivery]) -> Result<(), String> {
    let mut expected: BTreeMap<(u32, u64), &str> = BTreeMap::new();
    for Kept { queue, offset, body } in kept {
        if let Some(before) = expected.insert((*queue, *offset), body) {
            return Err(format!("{before} and {body} were both acknowledged at queue {queue}, offset {offset}"));
        }
    }
    let mut in_order: Vec<&Delivery> = deliveries.iter().collect();
    in_order.sort_by_key(|delivery| delivery.at);
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for Delivery { member, kept: Kept { queue, offset, body }, .. } in in_order {
        if expected.get(&(*queue, *offset)) != Some(&body.as_str()) {
            return Err(format!(
                "{member} was given {body} at queue {queue}, offset {offset}, which was not sent there"
            ));
        }
        let next = next.entry(*queue).or_default();
        if offset > next {
            return Err(format!("queue {queue}: {member} was given {offset} before {next}"));
        }
        *next = (*next).max(offset + 1);
    }
    let missing = kept.iter().filter(|kept| kept.offset >= next.get(&kept.queue).copied().unwrap_or(0)).count();
    if missing > 0 { Err(format!("{missing} of {} acknowledged messages are missing", kept.len())) } else { Ok(()) }
}

/// What a group has committed when its members have left is what it has consumed.
fn committed(scene: &Scene, topic: &str, kept: &[Kept]) -> Result<(), String> {
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    for Kept { queue, offset, .. } in kept {
        let end = ends.entry(*queue).or_default();
        *end = (*end).max(offset + 1);
    }
    let ask = |queue: u32| -> Result<i64> {
        let queue_id = i32::try_from(queue)?;
        let asked = QueryOffset { group: topic.into(), topic: topic.into(), queue_id, zero_if_not_found: None };
        Ok(Client::connect(scene.broker)?.must(&Request::QueryOffset(asked))?.field("offset")?)
    };
    for (queue, expected) in ends {
        let seen = ask(queue).map_err(|error| format!("{error:#}"))?;
        if u64::try_from(seen) != Ok(expected) {
            return Err(format!("queue {queue} is committed up to {seen}, not {expected}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> BTreeMap<String, BTreeSet<u32>> {
        let member = |word: &str| {
            let (name, queues) = word.split_once(':').unwrap();
            (name.to_owned(), queues.chars().map(|queue| queue.to_digit(10).unwrap()).collect())
        };
        text.split(' ').map(member).collect()
    }

    #[test]
    fn shares_that_are_not_those_of_the_average_are_found() {
        for good in ["a:01234567", "a:0123 b:4567", "a:4567 b:0123", "a:012 b:345 c:67"] {
            assert_eq!(fair(&shares(good)), Ok(()), "{good}");
        }
        for bad in ["a:0123456", "a:0123 b:567", "a:01234 b:4567", "a:012345 b:67", "a:0246 b:1357", "a:01234567 b:"] {
            assert!(fair(&shares(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_or_out_of_order_is_found() {
        let kept = ["0 0 a", "0 1 b", "1 0 c"].map(|line| Kept::read(line).unwrap());
        let says = |lines: &[&str]| {
            let deliveries: Vec<_> = lines.iter().map(|line| Delivery::read(line).unwrap()).collect();
            judge(&kept, &deliveries).err().unwrap_or_default()
        };
        assert_eq!(says(&["m 0 0 a 10", "m 1 0 c 11", "n 0 0 a 12", "n 0 1 b 13"]), "", "again is allowed");
        assert_eq!(says(&["m 0 0 a 10", "n 0 1 b 13"]), "1 of 3 acknowledged messages are missing");
        assert_eq!(says(&["m 0 0 a 14", "m 1 0 c 11", "n 0 1 b 13"]), "queue 0: n was given 1 before 0");
        assert_eq!(says(&["m 0 0 b 14"]), "m was given b at queue 0, offset 0, which was not sent there");
    }

    #[test]
    fn a_line_that_differs_is_found() {
        let lines = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(same(&lines("a,b"), lines("b,a")), Ok(()));
        for got in ["a", "a,a", "a,b,b", "a,c"] {
            assert!(same(&lines("a,b"), lines(got)).is_err(), "{got}");
        }
        let message = |shard: usize, queue: usize| format!("k A 1 u shard-{shard} 1 1 {queue} 0 id id");
        let sent: Vec<_> = (0..6).map(|number| message(number % 3, number % 3)).collect();
        assert_eq!(one_queue_each(&sent), Ok(()));
        assert!(one_queue_each(&[&sent[..], &[message(0, 1)]].concat()).unwrap_err().contains("shard-0"));
        assert!(one_queue_each(&sent[..2]).is_err());
    }
}
