//! What the clients were told, what they have handed out, and what must be true of it.
//!
//! A send is written down before its producer hears of it, and its end when the producer says so. A group has a lane for each
//! queue: how far it was handed out for the first time, and how far everything is processed.

use super::machine::Who;
use super::plan::GroupPlan;
use crate::stage::{MILLI, SECOND, Stage};
use crate::trace::Rare;
use keepmq_client_core::{MessageExt, Receipt, Received, SendError};
use keepmq_protocol::{MessageQueue, QueueOffset};
use std::collections::{BTreeMap, BTreeSet};

/// What a message's end may come later than its time.
const SLACK: u64 = 20 * MILLI;
/// What was sent before that has arrived.
const LATE: u64 = 10 * SECOND;
/// What a broker whose disk is slow may answer at any time: SYSTEM_BUSY, FLUSH_DISK_TIMEOUT.
const SLOW_DISK: [Option<i32>; 2] = [Some(2), Some(10)];

/// A message that somebody has sent, or tried to.
pub(crate) struct Sent {
    pub(crate) by: Who,
    pub(crate) topic: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) len: usize,
    at: u64,
    /// It must have ended by then.
    until: u64,
    pub(crate) end: End,
    /// Somebody was given it.
    handed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Kept {
        queue: MessageQueue,
        offset: u64,
        attempts: u32,
    },
    Refused,
    Unknown,
    /// Its producer was gone first.
    Abandoned,
    /// Nobody hears of it.
    Oneway,
}

/// How a consumer's life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Crashed,
    Committed,
    Uncommitted,
}

/// A group; a consumer that shares with nobody is one by itself.
struct Group {
    plan: GroupPlan,
    lanes: BTreeMap<MessageQueue, Lane>,
    /// It is still there, so it must get everything.
    counts: bool,
}

#[derive(Default)]
struct Lane {
    /// Where the group has begun.
    start: Option<u64>,
    /// Behind the last one that was handed out for the first time.
    next: Option<u64>,
    /// Who was given each last, and when.
    handed: BTreeMap<u64, (Who, u64)>,
    processed: BTreeSet<u64>,
    /// Everything from `start` to here is processed.
    done: u64,
    /// What members have tried to keep as the beginning, until one of them had it: the broker has taken one of these.
    pins: BTreeSet<u64>,
    /// The highest offset that somebody has committed, and when somebody else has sent a lower one behind it.
    highest: u64,
    lowered_at: Option<u64>,
    /// When it has gone from one member to another last, as either of them says. Also when all is well a new queue has them all
    /// shared out anew; who takes one over may hear of it before who has it, and begins with what is committed by then.
    moved_at: u64,
    /// Who has committed last, and when.
    last_commit: Option<(Who, u64)>,
    /// When some member was the first to say that the queue is its.
    assigned_at: Option<u64>,
}

/// Who was given a message, and which group that is.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) who: Who,
    pub(crate) group: usize,
}

pub(crate) struct Truth {
    pub(crate) sent: Vec<Sent>,
    groups: Vec<Group>,
    /// Places named in receipts.
    places: BTreeMap<(MessageQueue, u64), u64>,
    over: BTreeMap<Who, Over>,
    /// Since when nobody comes or goes, and everything is well.
    pub(crate) settled_at: Option<u64>,
    /// When each name server has started last.
    pub(crate) names_since: Vec<u64>,
}

/// How far a group is in a queue.
#[derive(Clone)]
pub(crate) struct Progress<'t> {
    pub(crate) group: &'static str,
    pub(crate) queue: &'t MessageQueue,
    /// Everything below is processed.
    pub(crate) done: u64,
    /// It wants all messages.
    pub(crate) whole: bool,
    /// The offset at the broker may be an older one.
    pub(crate) lowered: bool,
    /// Who has taken the queue over was not given everything again that others had processed before.
    pub(crate) behind: bool,
}

/// The body of a message.
pub(crate) fn body(id: u64, len: usize) -> Vec<u8> {
    let pattern = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    id.to_be_bytes().into_iter().chain(pattern.into_iter().cycle()).take(len.max(8)).collect()
}

impl Truth {
    pub(crate) fn new(groups: &[GroupPlan], name_servers: usize) -> Self {
        let group = |plan: &GroupPlan| Group { plan: plan.clone(), lanes: BTreeMap::new(), counts: plan.shared };
        Self {
            sent: Vec::new(),
            groups: groups.iter().map(group).collect(),
            places: BTreeMap::new(),
            over: BTreeMap::new(),
            settled_at: None,
            names_since: vec![0; name_servers],
        }
    }

    /// A consumer that shares with nobody has come: its own group.
    pub(crate) fn alone(&mut self, plan: &GroupPlan) -> usize {
        self.groups.push(Group { plan: plan.clone(), lanes: BTreeMap::new(), counts: true });
        self.groups.len() - 1
    }

    // ---- sends ----------------------------------------------------------------------------------------------------------

    /// Somebody is about to send a message; its number.
    pub(crate) fn sends(&mut self, sent: Sent) -> u64 {
        self.sent.push(sent);
        self.sent.len() as u64 - 1
    }

    fn sent_mut(&mut self, id: u64) -> Option<&mut Sent> {
        self.sent.get_mut(usize::try_from(id).ok()?)
    }

    /// A send has ended. `still`: until when its producer stood still.
    pub(crate) fn ended(&mut self, stage: &mut Stage, id: u64, outcome: &Result<Receipt, SendError>, still: u64) {
        let settled = self.settled_at;
        let Some(sent) = usize::try_from(id).ok().and_then(|id| self.sent.get_mut(id)) else {
            return stage.blame("one-end", format!("a send {id} that nobody has begun ends"));
        };
        if sent.end != End::Open {
            let end = &sent.end;
            return stage.blame("one-end", format!("send {id} ends with {outcome:?}; it has ended before: {end:?}"));
        }
        let by = sent.until.max(still) + SLACK;
        if stage.now > by {
            let late = (stage.now - sent.until) as f64 / 1e6;
            stage.blame("in-time", format!("send {id} ends {late} ms after its time"));
        }
        let well = settled.is_some_and(|settled| sent.at >= settled);
        match outcome {
            Ok(receipt) => {
                let Receipt { queue, offset: QueueOffset(offset), attempts, .. } = receipt.clone();
                if queue.topic.as_str() != sent.topic {
                    stage.blame("receipt", format!("message {id} of {} has a receipt for {queue:?}", sent.topic));
                }
                sent.end = End::Kept { queue: queue.clone(), offset, attempts };
                if let Some(other) = self.places.insert((queue.clone(), offset), id) {
                    stage.blame(
                        "receipt",
                        format!("messages {other} and {id} both have a receipt for {queue:?} {offset}"),
                    );
                }
            }
            Err(error @ SendError::Refused { code, .. }) => {
                stage.happened(Rare::SendRefused);
                sent.end = End::Refused;
                if sent.handed {
                    stage.blame("refused-delivered", format!("message {id} was consumed and is refused: {error}"));
                }
                if well && !SLOW_DISK.contains(code) {
                    stage.blame("liveness", format!("message {id} is refused although all is well: {error}"));
                }
            }
            Err(error @ SendError::Unknown { code, .. }) => {
                sent.end = End::Unknown;
                if well && !SLOW_DISK.contains(code) {
                    stage.blame("liveness", format!("nobody knows of message {id} although all is well: {error}"));
                }
            }
        }
    }

    /// A producer is gone without a word: what it had under way has no end.
    pub(crate) fn abandoned(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            if let Some(sent) = self.sent_mut(id) {
                sent.end = End::Abandoned;
            }
        }
    }

    // ---- consumers ------------------------------------------------------------------------------------------------------

    fn lane(&mut self, group: usize, queue: &MessageQueue) -> &mut Lane {
        let Group { plan, lanes, .. } = &mut self.groups[group];
        let start = plan.from_first.then_some(0);
        lanes.entry(queue.clone()).or_insert_with(|| Lane { start, next: start, ..Lane::default() })
    }

    /// A consumer says that a queue is its. Of a group that begins at the end it is known from now on where it has begun.
    pub(crate) fn assigned(&mut self, stage: &mut Stage, Reader { group, .. }: Reader, queue: &MessageQueue) {
        let now = stage.now;
        let lane = self.lane(group, queue);
        if lane.assigned_at.is_some() {
            return;
        }
        lane.assigned_at = Some(now);
        if lane.start.is_some() || lane.pins.is_empty() {
            return;
        }
        stage.happened(Rare::BeganAtEnd);
        // Of several it shows with the first message which one the broker has got first.
        if let [start] = lane.pins.iter().copied().collect::<Vec<_>>()[..] {
            (lane.start, lane.next, lane.done) = (Some(start), Some(start), start);
        }
    }

    /// A consumer has given a queue away, or was given it.
    pub(crate) fn moved(&mut self, stage: &Stage, group: usize, queue: &MessageQueue) {
        let now = stage.now;
        self.lane(group, queue).moved_at = now;
    }

    /// A listener is given a message. `again`: it has said *later* of it. `before`: this life of the consumer has handed it
    /// out under this assignment.
    pub(crate) fn handed(
        &mut self,
        stage: &mut Stage,
        Reader { who, group }: Reader,
        message: &Received,
        again: bool,
        before: bool,
    ) {
        let MessageExt { queue, offset: QueueOffset(offset), .. } = &**message;
        let Some(id) = self.check_content(stage, group, message) else { return };
        let (name, whole) = (self.groups[group].plan.name, self.groups[group].plan.tag.is_none());
        let text = move || format!("message {id} at {queue:?} {offset} to {name} at {who:?}");
        if again != before {
            let what =
                if before { "given twice in one assignment" } else { "said to be given again, and never was before" };
            return stage.blame("twice", format!("{} is {what}", text()));
        }
        let (settled, now) = (self.settled_at, stage.now);
        let lane = self.lane(group, queue);
        let Some((last, last_at)) = lane.handed.insert(*offset, (who, now)) else {
            if lane.start.is_none() {
                if whole && !lane.pins.is_empty() && !lane.pins.contains(offset) {
                    let pins = &lane.pins;
                    stage.blame("order", format!("{} is the first of all; the group was to begin at {pins:?}", text()));
                }
                (lane.start, lane.done) = (Some(*offset), *offset);
            }
            let next = *lane.next.get_or_insert(*offset);
            let in_order = if whole { *offset == next } else { *offset >= next };
            if !in_order {
                stage.blame("order", format!("{} is the first; {next} was to be the next", text()));
            }
            lane.next = Some(*offset + 1);
            return;
        };
        if again {
            return;
        }
        // One that was handed out before may wait for long in the hands of who has taken the queue over since.
        if settled.is_some_and(|at| lane.moved_at < at && last_at >= at) && lane.lowered_at.is_none() {
            stage.blame("twice", format!("{} comes again although all is well; {last:?} had it before", text()));
        }
        stage.happened(match self.over.get(&last) {
            Some(Over::Crashed) => Rare::RepeatedAfterCrash,
            Some(Over::Uncommitted) => Rare::RepeatedUncommitted,
            Some(Over::Committed) | None => Rare::RepeatedAfterRebalance,
        });
    }

    /// The message is one that was sent, as it was sent, and may be here.
    fn check_content(&mut self, stage: &mut Stage, group: usize, message: &Received) -> Option<u64> {
        let MessageExt { queue, offset: QueueOffset(offset), body: bytes, .. } = &**message;
        let key = message.keys().next().and_then(|key| key.parse::<u64>().ok());
        let tag = self.groups[group].plan.tag;
        let Some((id, sent)) = key.and_then(|id| Some((id, self.sent_mut(id)?))) else {
            stage.blame("content", format!("{queue:?} {offset} holds what nobody has sent: {message:?}"));
            return None;
        };
        if body(id, sent.len) != bytes[..] || message.tag() != Some(sent.tag) || queue.topic.as_str() != sent.topic {
            stage.blame("content", format!("message {id} is not as it was sent: {message:?}"));
        }
        if tag.is_some_and(|tag| tag != sent.tag) {
            stage.blame("content", format!("message {id} has a tag that was not asked for: {message:?}"));
        }
        sent.handed = true;
        match &sent.end {
            End::Refused => {
                stage.blame("refused-delivered", format!("message {id} was refused and is at {queue:?} {offset}"));
            }
            End::Kept { queue: kept, offset: at, attempts: ..=1 } if (kept, at) != (queue, offset) => {
                stage.blame("receipt", format!("message {id} was kept at {kept:?} {at}, and is at {queue:?} {offset}"));
            }
            _ => {}
        }
        Some(id)
    }

    /// A listener has processed a message.
    pub(crate) fn processed(&mut self, group: usize, queue: &MessageQueue, offset: u64) {
        let lane = self.lane(group, queue);
        lane.processed.insert(offset);
        while lane.processed.contains(&lane.done) {
            lane.done += 1;
        }
    }

    /// A consumer commits. `if_absent`: it keeps where the group begins, unless that is kept already.
    pub(crate) fn commits(
        &mut self,
        stage: &mut Stage,
        Reader { who, group }: Reader,
        queue: &MessageQueue,
        offset: u64,
        if_absent: bool,
    ) {
        let GroupPlan { name, tag, shared, .. } = &self.groups[group].plan;
        let (name, whole, shared) = (*name, tag.is_none(), *shared);
        if !shared {
            return stage.blame("committed", format!("{who:?} shares with nobody and commits {queue:?} {offset}"));
        }
        let now = stage.now;
        let lane = self.lane(group, queue);
        if if_absent {
            // Whoever says that the queue is its has found one kept: what comes now comes too late.
            if lane.assigned_at.is_none() {
                lane.pins.insert(offset);
            }
            return;
        }
        let other = lane.last_commit.replace((who, now)).filter(|(last, at)| *last != who && at + LATE > now);
        if lane.start.is_none() {
            (lane.start, lane.next, lane.done) = (Some(offset), Some(offset), offset);
        }
        if offset < lane.highest {
            // A member that has given the queue away, or has not heard of it yet, comes late: RocketMQ's brokers take the
            // lower offset, and messages are repeated. What was lowered stays so until the next commit.
            stage.happened(Rare::CommitLowered);
            lane.lowered_at = Some(now);
        } else if other.is_some() && offset > lane.highest {
            // That one's commit, which is lower, may come behind this one.
            lane.lowered_at = Some(now);
        } else if lane.lowered_at.is_some_and(|at| at + LATE < now) {
            lane.lowered_at = None;
        }
        lane.highest = lane.highest.max(offset);
        let low = lane.start.unwrap_or(0).min(offset);
        let open = lane.handed.range(low..offset).find(|(handed, _)| !lane.processed.contains(handed));
        if let Some((open, _)) = open {
            stage.blame(
                "committed",
                format!("{who:?} commits {offset} of {queue:?} for {name}; {open} is not processed"),
            );
        }
        if whole && offset > lane.done.max(low) {
            let done = lane.done;
            stage.blame(
                "committed",
                format!("{who:?} commits {offset} of {queue:?} for {name}; {done} is not processed"),
            );
        }
    }

    /// A consumer's life is over.
    pub(crate) fn over(&mut self, Reader { who, group }: Reader, over: Over) {
        self.over.insert(who, over);
        let group = &mut self.groups[group];
        group.counts &= group.plan.shared;
    }

    // ---- the end --------------------------------------------------------------------------------------------------------

    /// What was kept is there: no queue ends before it.
    pub(crate) fn check_kept(&self, stage: &mut Stage, reaches: &[(MessageQueue, u64)]) {
        for (id, sent) in self.sent.iter().enumerate() {
            let End::Kept { queue, offset, .. } = &sent.end else { continue };
            let next = reaches.iter().find(|(reached, _)| reached == queue).map_or(0, |(_, next)| *next);
            if *offset >= next {
                stage.blame(
                    "lost",
                    format!("message {id} was kept at {queue:?} {offset}, and the queue reaches to {next}"),
                );
            }
        }
    }

    /// What some group still has to process. `reaches` tells each queue and how far it reaches.
    pub(crate) fn missing(&self, reaches: &[(MessageQueue, u64)]) -> Option<String> {
        for group in self.groups.iter().filter(|group| group.counts) {
            let GroupPlan { name, tag, from_first, topics, .. } = &group.plan;
            let wants = |queue: &MessageQueue| topics.contains(&queue.topic.as_str());
            for (queue, next) in reaches.iter().filter(|(queue, _)| *from_first && tag.is_none() && wants(queue)) {
                let done = group.lanes.get(queue).map_or(0, |lane| lane.done);
                if done < *next {
                    return Some(format!("{name} has not processed {done} of {queue:?}, which reaches to {next}"));
                }
            }
            for (id, sent) in self.sent.iter().enumerate() {
                let End::Kept { queue, offset, .. } = &sent.end else { continue };
                let lane = group.lanes.get(queue);
                // Whatever was sent after a member has said that it has the queue.
                let promised = *from_first || lane.and_then(|lane| lane.assigned_at).is_some_and(|at| at < sent.at);
                if promised
                    && wants(queue)
                    && tag.is_none_or(|tag| tag == sent.tag)
                    && !lane.is_some_and(|lane| lane.processed.contains(offset))
                {
                    return Some(format!("{name} has not processed message {id}, kept at {queue:?} {offset}"));
                }
            }
        }
        None
    }

    /// Everything that the brokers hold has been read: every message where its receipt says, what was refused nowhere, and
    /// no copy without a cause.
    pub(crate) fn judge(&self, stage: &mut Stage, found: &BTreeMap<(MessageQueue, u64), u64>) {
        let mut copies: BTreeMap<u64, Vec<&(MessageQueue, u64)>> = BTreeMap::new();
        for (place, id) in found {
            copies.entry(*id).or_default().push(place);
        }
        for (id, sent) in self.sent.iter().enumerate() {
            let places = copies.remove(&(id as u64)).unwrap_or_default();
            match &sent.end {
                End::Kept { queue, offset, attempts } => {
                    if found.get(&(queue.clone(), *offset)) != Some(&(id as u64)) {
                        let there = found.get(&(queue.clone(), *offset));
                        stage.blame(
                            "receipt",
                            format!(
                                "message {id} was kept at {queue:?} {offset}; there is {there:?}, it is at {places:?}"
                            ),
                        );
                    }
                    if places.len() > 1 {
                        stage.happened(Rare::TwoCopies);
                    }
                    if places.len() > *attempts as usize {
                        stage.blame("copies", format!("message {id} took {attempts} attempts and is at {places:?}"));
                    }
                }
                End::Refused if !places.is_empty() => {
                    stage.blame("refused-delivered", format!("message {id} was refused and is at {places:?}"));
                }
                End::Unknown | End::Abandoned => {
                    stage.happened(if places.is_empty() { Rare::UnknownAbsent } else { Rare::UnknownFound });
                }
                End::Oneway if places.len() == 1 => stage.happened(Rare::OnewayKept),
                End::Oneway if places.len() > 1 => {
                    stage.blame("copies", format!("message {id} went oneway and is at {places:?}"));
                }
                End::Open => stage.blame("one-end", format!("send {id} of {:?} has not ended", sent.by)),
                End::Refused | End::Oneway => {}
            }
        }
        if let Some((id, places)) = copies.first_key_value() {
            stage.blame("content", format!("message {id} at {places:?} was sent by nobody"));
        }
    }

    /// Where each group that shares has processed everything up to, by queue.
    pub(crate) fn progress(&self) -> impl Iterator<Item = Progress<'_>> {
        self.groups.iter().filter(|group| group.plan.shared).flat_map(|group| {
            let whole = group.plan.tag.is_none();
            group.lanes.iter().map(move |(queue, lane)| {
                let Lane { done, lowered_at, moved_at, .. } = lane;
                let since = lane.handed.iter().filter(|(_, (_, at))| at >= moved_at).map(|(offset, _)| offset + 1);
                let behind = since.max().is_none_or(|reached| reached < *done);
                Progress { group: group.plan.name, queue, done: *done, whole, lowered: lowered_at.is_some(), behind }
            })
        })
    }
}

impl Sent {
    pub(crate) fn new(
        by: Who,
        topic: &'static str,
        tag: &'static str,
        len: usize,
        at: u64,
        until: u64,
        end: End,
    ) -> Self {
        Self { by, topic, tag, len, at, until, end, handed: false }
    }
}
