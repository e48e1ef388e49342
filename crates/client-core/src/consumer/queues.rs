//! The queues that a consumer reads: where each begins, one pull after the other, and how far it may be committed.

use super::process_queue::ProcessQueue;
use super::questions::{Kind, Start, Terms, heard, is_ok, name, offset_in, refused, replica, success, update};
use super::{ConsumeFrom, Verdict};
use crate::cx::Cx;
use crate::heartbeat::Heartbeats;
use crate::received::{self, Received};
use crate::routes::Routes;
use keepmq_protocol::seam::{CallId, Outcome};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, ResponseCode, Topic};
use keepmq_world::{Mono, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How soon what has failed is tried again: doubled each time.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest such time. Source: RocketMQ `pullTimeDelayMillsWhenException`.
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// How long a queue waits for a route, or to be announced, when nobody says that it is there.
const LOOK: Duration = Duration::from_secs(1);
/// RocketMQ looks at the pulls that it holds each 5 s only; until then it may be late.
const LATE: Duration = Duration::from_secs(10);
/// An answer without messages that comes sooner than this was not held: the next pull waits a little.
const QUICK: Duration = Duration::from_millis(100);

/// What the queues are lent.
pub(crate) struct Lent<'l> {
    pub(crate) routes: &'l mut Routes,
    /// Who says that this member is there; `None` for a consumer that is no member.
    pub(crate) heartbeats: Option<&'l Heartbeats>,
}

impl Lent<'_> {
    fn announced(&self, broker: &BrokerName) -> bool {
        self.heartbeats.is_none_or(|heartbeats| heartbeats.is_known_to(broker))
    }
}

/// One time that a queue is assigned. What was begun under another one has no effect on this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u64);

/// A place in each queue, by its assignment.
pub(crate) type Marks = BTreeMap<Generation, QueueOffset>;

/// All queues that are assigned.
pub(crate) struct Queues {
    terms: Terms,
    owned: BTreeMap<MessageQueue, Generation>,
    /// Where a member whose offsets no broker keeps goes on in a queue that was not in the route for a while. Beginning again
    /// would repeat everything, or pass over what came meanwhile.
    kept: BTreeMap<MessageQueue, QueueOffset>,
    readings: BTreeMap<Generation, Reading>,
    last: u64,
    calls: BTreeMap<CallId, (Generation, Asked)>,
    /// Whose messages are handed out next; each at most once.
    turn: VecDeque<Generation>,
    /// Nothing happens by itself before.
    wake: Option<Mono>,
    /// Nothing new is pulled.
    stopped: bool,
    troubles: Vec<String>,
    /// The set of queues whose beginning is known has changed.
    changed: bool,
    given_up: u64,
    uncommitted: u64,
}

/// A queue under one assignment.
struct Reading {
    queue: MessageQueue,
    stage: Stage,
    /// It did not exist when this consumer first saw its topic.
    fresh: bool,
    /// The one question or pull that is under way.
    call: Option<CallId>,
    /// The next one is not before.
    at: Mono,
    again: Duration,
    /// Who is pulled from; 0 is the master.
    replica: i64,
    /// What the broker has confirmed.
    committed: Option<QueueOffset>,
    committing: Option<CallId>,
    in_turn: bool,
    trouble: Trouble,
    commit_trouble: Trouble,
}

enum Stage {
    /// Nothing is pulled before the beginning is known: an error is not an offset.
    Starting(Start),
    Reading(ProcessQueue),
}

enum Asked {
    Start,
    Pull {
        from: QueueOffset,
        at: Mono,
    },
    Commit(QueueOffset),
    /// A commit of a queue that was given away meanwhile; when it has ended, this one follows it.
    Before(MessageQueue, QueueOffset),
    /// The last commit of a queue that was given away.
    Last,
}

/// What is wrong; it is said once.
#[derive(Default)]
struct Trouble(Option<(Kind, String)>);

impl Trouble {
    /// Whether it is to be said.
    fn is_new(&mut self, kind: Kind, text: &str) -> bool {
        let new = self.0.as_ref().is_none_or(|(known, _)| *known != kind);
        self.0 = Some((kind, text.to_owned()));
        new
    }
}

impl Queues {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            owned: BTreeMap::new(),
            kept: BTreeMap::new(),
            readings: BTreeMap::new(),
            last: 0,
            calls: BTreeMap::new(),
            turn: VecDeque::new(),
            wake: None,
            stopped: false,
            troubles: Vec::new(),
            changed: false,
            given_up: 0,
            uncommitted: 0,
        }
    }

    /// These are the queues of `topic` now; `None`: of all topics. What is processed of the others is committed.
    /// `fresh`: whether a queue did not exist when the consumer came to its topic.
    pub(crate) fn assign<W>(
        &mut self,
        topic: Option<&Topic>,
        wanted: &BTreeSet<MessageQueue>,
        fresh: impl Fn(&MessageQueue) -> bool,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) {
        let gone = |queue: &&MessageQueue| topic.is_none_or(|topic| queue.topic == *topic) && !wanted.contains(queue);
        for queue in self.owned.keys().filter(gone).cloned().collect::<Vec<_>>() {
            if !planted!("removed-queue-still-delivers") {
                self.let_go(&queue, lent, cx);
            }
        }
        for queue in wanted {
            if let Some(generation) = self.owned.get(queue).copied() {
                if planted!("pull-started-twice") {
                    self.readings.get_mut(&generation).expect("an owned queue is read").call = None;
                    self.advance(generation, lent, cx);
                }
                continue;
            }
            let stage = match self.kept.remove(queue) {
                Some(at) => Stage::Reading(ProcessQueue::new(at)),
                None if self.terms.commits => Stage::Starting(Start::Query(None)),
                None => Stage::Starting(Start::Begin),
            };
            self.begin(queue.clone(), stage, fresh(queue), lent, cx);
        }
    }

    fn begin<W>(&mut self, queue: MessageQueue, stage: Stage, fresh: bool, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        self.last += 1;
        let generation = Generation(self.last);
        self.changed |= matches!(stage, Stage::Reading(_));
        let reading = Reading {
            queue: queue.clone(),
            stage,
            fresh,
            call: None,
            at: cx.now.mono,
            again: AGAIN,
            replica: 0,
            committed: None,
            committing: None,
            in_turn: false,
            trouble: Trouble::default(),
            commit_trouble: Trouble::default(),
        };
        self.owned.insert(queue, generation);
        self.readings.insert(generation, reading);
        self.advance(generation, lent, cx);
    }

    /// Gives a queue away. One that comes back is another generation, and begins with what is committed.
    fn let_go<W>(&mut self, queue: &MessageQueue, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        let Some(generation) = self.owned.remove(queue) else { return };
        let reading = self.readings.remove(&generation).expect("an owned queue is read");
        let Stage::Reading(span) = &reading.stage else { return };
        self.changed = true;
        self.given_up += span.len() as u64;
        let upto = span.committable();
        if !self.terms.commits && lent.heartbeats.is_some() {
            self.kept.insert(queue.clone(), upto);
        }
        if !self.terms.commits || reading.committed.is_some_and(|committed| committed >= upto) {
            return;
        }
        match reading.committing {
            // Two commits of one queue that are under way may change places.
            Some(call) => {
                self.calls.insert(call, (generation, Asked::Before(queue.clone(), upto)));
            }
            None => self.commit_last(queue, upto, generation, lent, cx),
        }
    }

    fn commit_last<W>(
        &mut self,
        queue: &MessageQueue,
        upto: QueueOffset,
        generation: Generation,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) {
        let Some(master) = lent.routes.known(&queue.topic).and_then(|route| route.master(&queue.broker)) else {
            self.uncommitted += 1;
            return;
        };
        let request = update(&self.terms.group, queue, upto, None);
        let call = cx.call(master, request, cx.now.mono + self.terms.patience);
        self.calls.insert(call, (generation, Asked::Last));
    }

    /// Goes on at another place of a queue that is assigned; whether it is.
    pub(crate) fn restart<W>(
        &mut self,
        queue: &MessageQueue,
        at: QueueOffset,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) -> bool {
        let Some(generation) = self.owned.remove(queue) else { return false };
        self.readings.remove(&generation);
        self.begin(queue.clone(), Stage::Reading(ProcessQueue::new(at)), false, lent, cx);
        true
    }

    /// Pulls nothing more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// What a queue was waiting for may be there: its route, or that the group is announced to its broker.
    pub(crate) fn poke<W>(&mut self, topic: Option<&Topic>, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        let of = |queue: &MessageQueue| topic.is_none_or(|topic| queue.topic == *topic);
        let generations: Vec<Generation> =
            self.owned.iter().filter(|(queue, _)| of(queue)).map(|(_, generation)| *generation).collect();
        for generation in generations {
            let reading = self.readings.get_mut(&generation).expect("an owned queue is read");
            if reading.trouble.0.is_none() {
                reading.at = cx.now.mono;
            }
            self.advance(generation, lent, cx);
        }
    }

    /// Asks the next question, or pulls, when it is time and nothing is under way.
    fn advance<W>(&mut self, generation: Generation, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        let now = cx.now.mono;
        let Some(reading) = self.readings.get_mut(&generation) else { return };
        if reading.call.is_some() || self.stopped {
            return;
        }
        if reading.at > now {
            self.wake = Some(self.wake.map_or(reading.at, |wake| wake.min(reading.at)));
            return;
        }
        // Whatever is processed makes room, and leads here again.
        if matches!(&reading.stage, Stage::Reading(span) if !span.has_room(&self.terms.limits)) {
            return;
        }
        let queue = &reading.queue;
        let asked = lent.routes.get(&queue.topic, cx).and_then(|route| match &reading.stage {
            Stage::Starting(Start::Begin)
                if self.terms.from == ConsumeFrom::LastOffset
                    && !lent.announced(&queue.broker)
                    && !planted!("last-offset-skips") =>
            {
                None
            }
            Stage::Starting(start) => {
                let master = Arc::clone(route.master(&queue.broker)?);
                let request = self.terms.question(queue, *start, reading.fresh);
                Some((master, request, now + self.terms.patience, Asked::Start))
            }
            Stage::Reading(span) => {
                let request = self.terms.pull(queue, span.next());
                let until = now + self.terms.hold + self.terms.patience + LATE;
                let asked = Asked::Pull { from: span.next(), at: now };
                replica(&route, &queue.broker, reading.replica).map(|peer| (peer, request, until, asked))
            }
        });
        let Some((peer, request, until, asked)) = asked else {
            lent.routes.want(&queue.topic, cx);
            reading.at = now + LOOK;
            self.wake = Some(self.wake.map_or(reading.at, |wake| wake.min(reading.at)));
            return;
        };
        let call = cx.call(&peer, request, until);
        reading.call = Some(call);
        self.calls.insert(call, (generation, asked));
    }

    /// Takes an answer; false when the call is none of ours.
    pub(crate) fn answered<W>(&mut self, call: CallId, outcome: &Outcome, lent: &mut Lent<'_>, cx: &mut Cx<W>) -> bool {
        let Some((generation, asked)) = self.calls.remove(&call) else { return false };
        match asked {
            Asked::Last => self.uncommitted += u64::from(!is_ok(outcome)),
            // Ours again: it commits for itself, perhaps more by now, or less since somebody wants it so.
            Asked::Before(queue, _) if self.owned.contains_key(&queue) => {}
            Asked::Before(queue, upto) => self.commit_last(&queue, upto, generation, lent, cx),
            Asked::Commit(offset) => self.on_committed(generation, offset, outcome),
            Asked::Start | Asked::Pull { .. } => {
                let Some(reading) = self.readings.get_mut(&generation) else { return true };
                reading.call = None;
                let went = match asked {
                    Asked::Pull { from, at } => self.on_pulled(generation, from, at, outcome, lent, cx),
                    _ => self.on_started(generation, outcome),
                };
                match went {
                    Ok(()) => self.advance(generation, lent, cx),
                    Err((kind, why)) => self.failed(generation, kind, &why, lent, cx),
                }
            }
        }
        true
    }

    /// A question or a pull has failed: again a little later, and perhaps elsewhere.
    fn failed<W>(&mut self, generation: Generation, kind: Kind, why: &str, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        let Some(reading) = self.readings.get_mut(&generation) else { return };
        reading.replica = 0;
        reading.at = cx.now.mono + reading.again;
        reading.again = (reading.again * 2).min(AGAIN_MAX);
        lent.routes.want(&reading.queue.topic, cx);
        // The route may be asked for at once, but its answer comes in another event.
        let text = match kind {
            Kind::Silent => why.to_owned(),
            _ => format!("{}: {why}", name(&reading.queue)),
        };
        if reading.trouble.is_new(kind, &text) {
            self.say(generation, text);
        }
        self.advance(generation, lent, cx);
    }

    /// A broker that is down is one trouble, however many queues it has.
    fn say(&mut self, generation: Generation, text: String) {
        let same = |(other, reading): (&Generation, &Reading)| {
            *other != generation && reading.trouble.0.as_ref().is_some_and(|(_, said)| *said == text)
        };
        if !self.readings.iter().any(same) {
            self.troubles.push(text);
        }
    }

    fn on_started(&mut self, generation: Generation, outcome: &Outcome) -> Result<(), (Kind, String)> {
        let reading = self.readings.get_mut(&generation).expect("the caller has looked");
        let Stage::Starting(start) = reading.stage else { return Ok(()) };
        let response = heard(outcome)?;
        let found = match start {
            Start::Query(otherwise) if response.code == ResponseCode::QueryNotFound as i32 => {
                let pin = |offset| match planted!("last-offset-skips") {
                    true => Stage::Reading(ProcessQueue::new(offset)),
                    false => Stage::Starting(Start::Pin(offset)),
                };
                reading.stage = otherwise.map_or(Stage::Starting(Start::Begin), pin);
                self.changed |= matches!(reading.stage, Stage::Reading(_));
                reading.trouble = Trouble::default();
                return Ok(());
            }
            Start::Confirm(offset) if response.code == ResponseCode::QueryNotFound as i32 => {
                reading.stage = Stage::Starting(Start::Pin(offset));
                let why = format!("the broker has said that it keeps offset {offset} for the group, and has none");
                return Err((Kind::Unreadable, why));
            }
            Start::Query(_) | Start::Confirm(_) => {
                let offset = offset_in(response, "offset")?;
                reading.committed = Some(offset);
                Some(offset)
            }
            Start::Begin => {
                let offset = offset_in(response, "offset")?;
                if self.terms.pins {
                    reading.stage = Stage::Starting(Start::Query(Some(offset)));
                }
                (!self.terms.pins).then_some(offset)
            }
            Start::Pin(offset) => {
                success(response)?;
                // What was wrong stays so until it is confirmed.
                reading.stage = Stage::Starting(Start::Confirm(offset));
                return Ok(());
            }
        };
        reading.trouble = Trouble::default();
        reading.again = AGAIN;
        if let Some(offset) = found {
            reading.stage = Stage::Reading(ProcessQueue::new(offset));
            self.changed = true;
        }
        Ok(())
    }

    fn on_pulled<W>(
        &mut self,
        generation: Generation,
        from: QueueOffset,
        asked_at: Mono,
        outcome: &Outcome,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) -> Result<(), (Kind, String)> {
        let response = heard(outcome)?;
        let reading = self.readings.get_mut(&generation).expect("the caller has looked");
        let Stage::Reading(span) = &mut reading.stage else { return Ok(()) };
        let code = ResponseCode::from_wire(response.code);
        let (Some(ResponseCode::Success | ResponseCode::PullNotFound | ResponseCode::PullRetryImmediately)
        | Some(ResponseCode::PullOffsetMoved)) = code
        else {
            return Err(refused(response));
        };
        let next = offset_in(response, "nextBeginOffset")?;
        reading.replica = response
            .field::<i64>("suggestWhichBrokerId")
            .map_err(|error| (Kind::Unreadable, format!("the answer to a pull cannot be read: {error}")))?;
        if code == Some(ResponseCode::PullOffsetMoved) {
            let queue = reading.queue.clone();
            return self.on_moved(&queue, generation, from, next, lent, cx);
        }
        if next < from {
            let why = format!("the answer to a pull at {from} goes back to {next}");
            return Err((Kind::Unreadable, why));
        }
        let body = match &response.body[..] {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        };
        let pulled = received::read(&reading.queue, from, next, &self.terms.tags(&reading.queue.topic), &body);
        let brought = !pulled.messages.is_empty();
        span.put(pulled.messages, pulled.next);
        if !reading.in_turn && span.is_ready() {
            reading.in_turn = true;
            self.turn.push_back(generation);
        }
        if let Some(unreadable) = pulled.unreadable {
            return Err((Kind::Unreadable, unreadable.to_string()));
        }
        reading.trouble = Trouble::default();
        if !brought && pulled.next == from && cx.now.mono.since(asked_at) < QUICK {
            // It does not hold our pulls: asking on and on would keep it from other things.
            reading.at = cx.now.mono + reading.again;
            reading.again = (reading.again * 2).min(AGAIN_MAX);
        } else {
            reading.again = AGAIN;
        }
        Ok(())
    }

    /// The offset is none of the queue's any more.
    fn on_moved<W>(
        &mut self,
        queue: &MessageQueue,
        generation: Generation,
        from: QueueOffset,
        next: QueueOffset,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) -> Result<(), (Kind, String)> {
        let reading = self.readings.get_mut(&generation).expect("the caller has looked");
        let Stage::Reading(span) = &mut reading.stage else { return Ok(()) };
        let name = name(queue);
        if next == from {
            return Err((Kind::Unreadable, format!("offset {from} is refused, and named as the one to go on at")));
        }
        reading.trouble = Trouble::default();
        if next > from {
            span.skip(next);
            let skipped = next.0 - from.0;
            self.troubles.push(format!(
                "{name}: {skipped} offsets are skipped, {from} to {next}: the broker has them no longer. Their messages \
                 were removed before this group processed them; see how long the broker keeps messages"
            ));
            return Ok(());
        }
        // Fewer than there were: what is in hand, and what is committed, belongs to a queue that is no longer this one.
        self.given_up += span.len() as u64;
        self.troubles.push(format!(
            "{name}: the broker has no offset {from}, and goes on at {next}: the topic was made anew, or the broker has \
             lost messages"
        ));
        self.restart(queue, next, lent, cx);
        Ok(())
    }

    fn on_committed(&mut self, generation: Generation, offset: QueueOffset, outcome: &Outcome) {
        let Some(reading) = self.readings.get_mut(&generation) else { return };
        reading.committing = None;
        match heard(outcome).and_then(success) {
            Ok(()) => {
                reading.committed = reading.committed.max(Some(offset));
                reading.commit_trouble = Trouble::default();
            }
            Err((kind, why)) => {
                let text = format!("{}: offset {offset} is not committed yet: {why}", name(&reading.queue));
                if reading.commit_trouble.is_new(kind, &text) {
                    self.troubles.push(text);
                }
            }
        }
    }

    /// How far each queue may be committed now.
    pub(crate) fn marks(&self) -> Marks {
        let mark = |(generation, reading): (&Generation, &Reading)| match &reading.stage {
            Stage::Starting(_) => None,
            Stage::Reading(span) => Some((*generation, span.committable())),
        };
        self.readings.iter().filter_map(mark).collect()
    }

    /// Commits what is processed and not committed, of all queues; with marks, no further than those. The calls that this takes.
    ///
    /// It asks and hears: a commit that nobody confirms may be lost without anybody knowing.
    pub(crate) fn commit<W>(&mut self, marks: Option<&Marks>, lent: &mut Lent<'_>, cx: &mut Cx<W>) -> Vec<CallId> {
        let mut calls = Vec::new();
        for (generation, reading) in &mut self.readings {
            let Some(mut upto) = reading.dirty(&self.terms).filter(|_| reading.committing.is_none()) else { continue };
            if let Some(marks) = marks {
                let Some(mark) = marks.get(generation) else { continue };
                upto = upto.min(*mark);
                if reading.committed.is_some_and(|committed| committed >= upto) {
                    continue;
                }
            }
            let route = lent.routes.known(&reading.queue.topic);
            let Some(master) = route.and_then(|route| route.master(&reading.queue.broker)) else {
                lent.routes.want(&reading.queue.topic, cx);
                let text =
                    format!("{}: offset {upto} is not committed yet: its master is not known", name(&reading.queue));
                if reading.commit_trouble.is_new(Kind::Silent, &text) {
                    self.troubles.push(text);
                }
                continue;
            };
            let request = update(&self.terms.group, &reading.queue, upto, None);
            let call = cx.call(master, request, cx.now.mono + self.terms.patience);
            reading.committing = Some(call);
            self.calls.insert(call, (*generation, Asked::Commit(upto)));
            calls.push(call);
        }
        calls
    }

    /// Whether a commit is under way.
    pub(crate) fn is_committing(&self) -> bool {
        self.calls.values().any(|(_, asked)| matches!(asked, Asked::Commit(_) | Asked::Before(..) | Asked::Last))
    }

    /// Queues of which something is processed and not committed.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = &MessageQueue> {
        self.readings.values().filter(|reading| reading.dirty(&self.terms).is_some()).map(|reading| &reading.queue)
    }

    /// Messages of the queue whose turn it is.
    pub(crate) fn take(&mut self, max: usize) -> Option<(Generation, Vec<Received>, u32)> {
        loop {
            let generation = self.turn.pop_front()?;
            let Some(reading) = self.readings.get_mut(&generation) else { continue };
            let Stage::Reading(span) = &mut reading.stage else { continue };
            let (messages, failures) = span.take(max);
            reading.in_turn = span.is_ready();
            if reading.in_turn {
                self.turn.push_back(generation);
            }
            if !messages.is_empty() {
                return Some((generation, messages, failures));
            }
        }
    }

    /// What was taken has been looked at. Of no effect when the queue is no longer ours, or ours again.
    pub(crate) fn consumed<W>(
        &mut self,
        generation: Generation,
        offsets: &[QueueOffset],
        verdict: Verdict,
        wait: impl Fn(u32) -> Duration,
        lent: &mut Lent<'_>,
        cx: &mut Cx<W>,
    ) {
        let Some(reading) = self.readings.get_mut(&generation) else { return };
        let Stage::Reading(span) = &mut reading.stage else { return };
        span.consumed(offsets, verdict, cx.now.mono, wait);
        if let Some(at) = span.deadline() {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        self.advance(generation, lent, cx);
    }

    pub(crate) fn on_time<W>(&mut self, lent: &mut Lent<'_>, cx: &mut Cx<W>) {
        if self.wake.is_none_or(|wake| wake > cx.now.mono) {
            return;
        }
        self.wake = None;
        let generations: Vec<Generation> = self.readings.keys().copied().collect();
        for generation in generations {
            let reading = self.readings.get_mut(&generation).expect("it was just there");
            if let Stage::Reading(span) = &mut reading.stage {
                span.on_time(cx.now.mono);
                if !reading.in_turn && span.is_ready() {
                    reading.in_turn = true;
                    self.turn.push_back(generation);
                }
                if let Some(at) = span.deadline() {
                    self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
                }
            }
            self.advance(generation, lent, cx);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.wake
    }

    /// The queues whose beginning is known, when they are others than before.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<MessageQueue>> {
        std::mem::take(&mut self.changed).then(|| {
            let read = |generation: &Generation| matches!(self.readings[generation].stage, Stage::Reading(_));
            self.owned.iter().filter(|(_, generation)| read(generation)).map(|(queue, _)| queue.clone()).collect()
        })
    }

    /// What has gone wrong since it was asked last.
    pub(crate) fn take_troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles)
    }

    /// What keeps every queue from being read, if anything does.
    pub(crate) fn trouble_of_all(&self) -> Option<&str> {
        let troubles = self.readings.values().map(|reading| reading.trouble.0.as_ref().map(|(_, text)| text.as_str()));
        troubles.reduce(|one, other| one.and(other)).flatten()
    }

    /// Why something that was processed is not committed, when its last commit has failed or could not be tried.
    pub(crate) fn commit_trouble(&self) -> Option<&str> {
        self.readings.values().find_map(|reading| reading.commit_trouble.0.as_ref()).map(|(_, text)| text.as_str())
    }

    /// Messages that were in hand and are not processed, and queues whose last offset is not committed.
    pub(crate) fn left(&self) -> (u64, u64) {
        let in_hand = |reading: &Reading| match &reading.stage {
            Stage::Starting(_) => 0,
            Stage::Reading(span) => span.len() as u64,
        };
        let in_hand: u64 = self.readings.values().map(in_hand).sum();
        let last = self.calls.values().filter(|(_, asked)| matches!(asked, Asked::Before(..) | Asked::Last)).count();
        (self.given_up + in_hand, self.uncommitted + last as u64 + self.dirty().count() as u64)
    }
}

impl Reading {
    /// What may be committed and is not.
    fn dirty(&self, terms: &Terms) -> Option<QueueOffset> {
        let Stage::Reading(span) = &self.stage else { return None };
        let upto = span.committable();
        (terms.commits && self.committed.is_none_or(|committed| committed < upto)).then_some(upto)
    }
}
