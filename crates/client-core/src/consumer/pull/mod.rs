//! How a pull consumer decides. Source of the protocol: RocketMQ `DefaultLitePullConsumerImpl`, `DefaultMQPullConsumerImpl`.
//!
//! ```text
//!   Assign, Seek ──▶ Finding (where to begin) ──▶ Reading: pull ⇄ buffer ──▶ Polled
//!                                                                └─ polled up to ──▶ Commit
//! ```
//! It is no member of its group: who assigns queues by hand shares with nobody. It sends no heartbeats, and every pull says
//! itself what it wants.

mod api;

pub use api::{PullCommand, PullConfig, PullWork, SeekTo};

use crate::consumer::ConsumeFrom;
use crate::cx::Cx;
use crate::received::{Received, Tags, read};
use crate::routes::{News, RouteError, Routes};
use keepmq_protocol::request::{MaxOffset, MinOffset, Pull, QueryOffset, SearchOffset, UpdateOffset};
use keepmq_protocol::seam::{CallId, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{MessageQueue, QueueOffset, Request, Response, ResponseCode, Topic};
use keepmq_world::{Mono, Now};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What reads for nobody in particular. Source: RocketMQ `MixAll.TOOLS_CONSUMER_GROUP`.
const NOBODY: &str = "TOOLS_CONSUMER";
/// `PullSysFlag`: the broker may hold the request; the filter is in the header.
const HOLD_AND_FILTER: i32 = 0x2 | 0x4;
/// How soon a broker that did not answer is asked again: doubled each time.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// A pull may be answered so long after the broker had to let it go.
const BEYOND_HOLD: Duration = Duration::from_secs(10);

/// A pull consumer: see the module.
pub struct PullConsumer {
    config: PullConfig,
    cx: Cx<PullWork>,
    routes: Routes,
    lanes: BTreeMap<MessageQueue, Lane>,
    last_turn: u64,
    calls: BTreeMap<CallId, Ask>,
    /// Who wants to know the queues of a topic, and until when.
    asked: Vec<(u64, Topic, Mono)>,
    polls: VecDeque<Poll>,
    commits: BTreeMap<u64, Commit>,
    /// Which queue the next poll begins with.
    next: usize,
    over: bool,
}

/// One assigned queue.
struct Lane {
    /// Changes when it goes on elsewhere: answers to what was asked before are nobody's.
    turn: u64,
    step: Step,
    tags: Tags,
    expression: String,
    buffer: VecDeque<Received>,
    /// Where the next pull begins.
    pull_from: QueueOffset,
    /// All below was polled.
    polled: QueueOffset,
    asking: bool,
    at: Mono,
    again: Duration,
    /// Why the last question was not answered as one hopes.
    trouble: Option<String>,
    replica: i64,
}

enum Step {
    /// Where it begins is not known. Whoever has sought it is told.
    Finding(Find, Option<u64>),
    Reading,
}

#[derive(Clone, Copy)]
enum Find {
    Group,
    To(SeekTo),
}

enum Ask {
    Find(MessageQueue, u64, Find),
    Pull(MessageQueue, u64),
    Commit(u64, MessageQueue),
}

struct Poll {
    id: u64,
    max: usize,
    until: Mono,
}

/// A commit of several queues.
struct Commit {
    waits: usize,
    failed: Option<String>,
}

impl PullConsumer {
    /// One that has asked nobody anything yet.
    pub fn new(config: PullConfig, now: Now) -> Self {
        let client = &config.client;
        let mut cx = Cx::new(client.seed, now);
        let seed = cx.chance.word();
        Self {
            routes: Routes::new(client.name_servers.clone(), client.poll_name_servers, client.api_timeout, seed),
            lanes: BTreeMap::new(),
            last_turn: 0,
            calls: BTreeMap::new(),
            asked: Vec::new(),
            polls: VecDeque::new(),
            commits: BTreeMap::new(),
            next: 0,
            over: false,
            config,
            cx,
        }
    }

    // ---- commands -------------------------------------------------------------------------------------------------------

    fn command(&mut self, command: PullCommand) {
        if self.over {
            return;
        }
        match command {
            PullCommand::Queues { id, topic } => {
                self.asked.push((id, topic, self.cx.now.mono + self.config.client.api_timeout));
                self.tell_queues();
            }
            PullCommand::Assign(queues) => {
                let mut before = std::mem::take(&mut self.lanes);
                for queue in queues {
                    let lane = before.remove(&queue).unwrap_or_else(|| self.lane(&queue));
                    self.lanes.insert(queue, lane);
                }
                let dropped = before.into_values().filter_map(|lane| match lane.step {
                    Step::Finding(_, Some(id)) => Some(id),
                    _ => None,
                });
                for id in dropped.collect::<Vec<_>>() {
                    let outcome = Err("the queue is not assigned any more".to_owned());
                    self.cx.work(PullWork::Sought { id, outcome });
                }
            }
            PullCommand::Seek { id, queue, to } => self.seek(id, queue, to),
            PullCommand::Poll { id, max, wait } => {
                self.polls.push_back(Poll { id, max: max.max(1), until: self.cx.now.mono + wait });
            }
            PullCommand::Commit { id } => self.commit(id),
            PullCommand::Close => self.end(),
        }
    }

    fn lane(&mut self, queue: &MessageQueue) -> Lane {
        let wanted = self.config.subscriptions.iter().find(|wanted| wanted.topic == queue.topic);
        let expression = wanted.map_or("*", |wanted| &wanted.expression).to_owned();
        let find = if self.config.group.is_some() { Find::Group } else { Find::To(self.default_start()) };
        self.last_turn += 1;
        Lane {
            turn: self.last_turn,
            step: Step::Finding(find, None),
            tags: Tags::parse(&expression),
            expression,
            buffer: VecDeque::new(),
            pull_from: QueueOffset(0),
            polled: QueueOffset(0),
            asking: false,
            at: self.cx.now.mono,
            again: AGAIN,
            trouble: None,
            replica: 0,
        }
    }

    fn default_start(&self) -> SeekTo {
        match self.config.from {
            ConsumeFrom::FirstOffset => SeekTo::Begin,
            ConsumeFrom::LastOffset => SeekTo::End,
            ConsumeFrom::Timestamp(time) => SeekTo::Timestamp(time),
        }
    }

    fn seek(&mut self, id: u64, queue: MessageQueue, to: SeekTo) {
        if !self.lanes.contains_key(&queue) {
            let outcome = Err("the queue is not assigned to this consumer: assign it first".to_owned());
            return self.cx.work(PullWork::Sought { id, outcome });
        }
        // A new lane: nothing of what was asked or read before counts.
        let lane = Lane { step: Step::Finding(Find::To(to), Some(id)), ..self.lane(&queue) };
        if let Some(Lane { step: Step::Finding(_, Some(id)), .. }) = self.lanes.insert(queue, lane) {
            let outcome = Err("it was sought again meanwhile".to_owned());
            self.cx.work(PullWork::Sought { id, outcome });
        }
    }

    fn commit(&mut self, id: u64) {
        let Some(group) = self.config.group.clone() else {
            let outcome = Err("this consumer reads for no group: there is nothing to commit".to_owned());
            return self.cx.work(PullWork::Committed { id, outcome });
        };
        let mut commit = Commit { waits: 0, failed: None };
        let until = self.cx.now.mono + self.config.client.api_timeout;
        for (queue, lane) in self.lanes.iter().filter(|(_, lane)| matches!(lane.step, Step::Reading)) {
            let Some(address) = self.routes.known(&queue.topic).and_then(|route| route.master(&queue.broker)).cloned()
            else {
                commit.failed = Some(format!("{}: its master is in no route", queue.broker));
                continue;
            };
            let update = UpdateOffset {
                group: group.clone().into(),
                topic: queue.topic.as_str().to_owned().into(),
                queue_id: wire(queue),
                offset: lane.polled.wire(),
            };
            let call = self.cx.call(&address, Request::UpdateOffset(update), until);
            self.calls.insert(call, Ask::Commit(id, queue.clone()));
            commit.waits += 1;
        }
        self.commits.insert(id, commit);
        self.tell_commit(id);
    }

    fn tell_commit(&mut self, id: u64) {
        if self.commits.get(&id).is_some_and(|commit| commit.waits == 0)
            && let Some(Commit { failed, .. }) = self.commits.remove(&id)
        {
            self.cx.work(PullWork::Committed { id, outcome: failed.map_or(Ok(()), Err) });
        }
    }

    fn tell_queues(&mut self) {
        let now = self.cx.now.mono;
        for (id, topic, until) in std::mem::take(&mut self.asked) {
            let outcome = match (self.routes.get(&topic, &mut self.cx), self.routes.error(&topic)) {
                (Some(route), _) => Ok(route.readable.clone()),
                (None, Some(error)) if until <= now => Err(error.clone()),
                // All name servers that were asked have answered, and most of them.
                (None, Some(error @ RouteError::Unknown { .. })) => Err(error.clone()),
                (None, None) if until <= now => Err(RouteError::Unreachable(Vec::new())),
                (None, _) => {
                    self.asked.push((id, topic, until));
                    continue;
                }
            };
            self.cx.work(PullWork::Queues { id, outcome });
        }
    }

    fn end(&mut self) {
        self.over = true;
        let gone = || "the consumer was closed".to_owned();
        for Poll { id, .. } in std::mem::take(&mut self.polls) {
            self.cx.work(PullWork::Polled { id, outcome: Err(gone()) });
        }
        for id in std::mem::take(&mut self.commits).into_keys() {
            self.cx.work(PullWork::Committed { id, outcome: Err(gone()) });
        }
        for lane in std::mem::take(&mut self.lanes).into_values() {
            if let Step::Finding(_, Some(id)) = lane.step {
                self.cx.work(PullWork::Sought { id, outcome: Err(gone()) });
            }
        }
        for (id, ..) in std::mem::take(&mut self.asked) {
            self.cx.work(PullWork::Queues { id, outcome: Err(RouteError::Unreachable(Vec::new())) });
        }
        self.cx.work(PullWork::Closed);
        self.cx.emit(Effect::Exit(Exit::Clean));
    }

    // ---- asking ---------------------------------------------------------------------------------------------------------

    /// Asks for every queue what is to be asked now.
    fn ask(&mut self) {
        let now = self.cx.now.mono;
        let batch = self.config.pull_batch as usize;
        for (queue, lane) in &mut self.lanes {
            if lane.asking || lane.at > now || matches!(lane.step, Step::Reading) && lane.buffer.len() >= batch {
                continue;
            }
            let Some(route) = self.routes.get(&queue.topic, &mut self.cx) else {
                lane.trouble = self.routes.error(&queue.topic).map(ToString::to_string);
                lane.at = now + AGAIN_MAX;
                continue;
            };
            let replicas = route.brokers.get(&queue.broker);
            let address = |id: i64| replicas.and_then(|replicas| replicas.get(&id)).cloned();
            let address: Option<Arc<str>> = match &lane.step {
                // Any replica has messages.
                Step::Reading => {
                    address(lane.replica).or_else(|| address(0)).or_else(|| replicas?.values().next().cloned())
                }
                Step::Finding(..) => address(0),
            };
            let Some(address) = address else {
                lane.fail(format!("broker {} is in no route", queue.broker), now);
                self.routes.want(&queue.topic, &mut self.cx);
                continue;
            };
            let topic = || queue.topic.as_str().to_owned().into();
            let (request, time, ask) = match &lane.step {
                Step::Reading => {
                    let hold = self.config.hold;
                    let pull = Pull {
                        group: self.config.group.clone().unwrap_or_else(|| NOBODY.to_owned()).into(),
                        topic: topic(),
                        queue_id: wire(queue),
                        offset: lane.pull_from.wire(),
                        max_messages: i32::try_from(self.config.pull_batch).unwrap_or(i32::MAX),
                        sys_flag: HOLD_AND_FILTER,
                        commit_offset: 0,
                        suspend_ms: i64::try_from(hold.as_millis()).unwrap_or(i64::MAX),
                        subscription: Some(lane.expression.clone().into()),
                        sub_version: 0,
                        expression_type: Some("TAG".into()),
                        max_bytes: None,
                    };
                    (Request::Pull(pull), hold + BEYOND_HOLD, Ask::Pull(queue.clone(), lane.turn))
                }
                Step::Finding(find, sought) => {
                    let request = match find {
                        Find::To(SeekTo::Offset(offset)) => {
                            let (offset, sought) = (*offset, *sought);
                            lane.found(offset);
                            if let Some(id) = sought {
                                self.cx.work(PullWork::Sought { id, outcome: Ok(offset) });
                            }
                            continue;
                        }
                        Find::Group => Request::QueryOffset(QueryOffset {
                            group: self.config.group.clone().unwrap_or_default().into(),
                            topic: topic(),
                            queue_id: wire(queue),
                            zero_if_not_found: Some(false),
                        }),
                        Find::To(SeekTo::Begin) => {
                            Request::MinOffset(MinOffset { topic: topic(), queue_id: wire(queue) })
                        }
                        Find::To(SeekTo::End) => Request::MaxOffset(MaxOffset {
                            topic: topic(),
                            queue_id: wire(queue),
                            committed: Some(true),
                        }),
                        Find::To(SeekTo::Timestamp(time)) => Request::SearchOffset(SearchOffset {
                            topic: topic(),
                            queue_id: wire(queue),
                            timestamp: time.0,
                            boundary: None,
                        }),
                    };
                    (request, self.config.client.api_timeout, Ask::Find(queue.clone(), lane.turn, *find))
                }
            };
            lane.asking = true;
            let call = self.cx.call(&address, request, now + time);
            self.calls.insert(call, ask);
        }
    }

    fn answered(&mut self, call: CallId, outcome: &Outcome) {
        match self.calls.remove(&call) {
            None => {}
            Some(Ask::Find(queue, turn, find)) => self.found(&queue, turn, find, outcome),
            Some(Ask::Pull(queue, turn)) => self.pulled(&queue, turn, outcome),
            Some(Ask::Commit(id, queue)) => {
                if let Some(commit) = self.commits.get_mut(&id) {
                    commit.waits -= 1;
                    if let Some(why) = complaint(outcome) {
                        commit.failed =
                            Some(format!("queue {} of {} on {}: {why}", queue.id, queue.topic, queue.broker));
                    }
                    self.tell_commit(id);
                }
            }
        }
    }

    fn found(&mut self, queue: &MessageQueue, turn: u64, find: Find, outcome: &Outcome) {
        let start = self.default_start();
        let now = self.cx.now.mono;
        let Some(lane) = self.lanes.get_mut(queue).filter(|lane| lane.turn == turn) else { return };
        lane.asking = false;
        let Step::Finding(wanted, sought) = &mut lane.step else { return };
        let not_found = |response: &Response| response.code == ResponseCode::QueryNotFound as i32;
        if matches!(find, Find::Group) && outcome.as_ref().is_ok_and(not_found) {
            *wanted = Find::To(start);
            return;
        }
        let offset = outcome.as_ref().ok().filter(|response| response.is_ok());
        let offset = offset.and_then(|response| response.field::<i64>("offset").ok());
        match offset.and_then(|offset| u64::try_from(offset).ok()) {
            Some(offset) => {
                let sought = *sought;
                lane.found(QueueOffset(offset));
                if let Some(id) = sought {
                    self.cx.work(PullWork::Sought { id, outcome: Ok(QueueOffset(offset)) });
                }
            }
            // What is not known is not zero: it is asked again.
            None => {
                lane.fail(complaint(outcome).unwrap_or_else(|| "its answer holds no offset".to_owned()), now);
                self.routes.want(&queue.topic, &mut self.cx);
            }
        }
    }

    fn pulled(&mut self, queue: &MessageQueue, turn: u64, outcome: &Outcome) {
        let now = self.cx.now.mono;
        let Some(lane) = self.lanes.get_mut(queue).filter(|lane| lane.turn == turn) else { return };
        lane.asking = false;
        let next = |response: &Response| {
            let next = response.field::<i64>("nextBeginOffset").ok().and_then(|next| u64::try_from(next).ok());
            next.map(QueueOffset)
        };
        let response = match outcome {
            Ok(response) => response,
            Err(error) => {
                lane.fail(error.to_string(), now);
                return self.routes.want(&queue.topic, &mut self.cx);
            }
        };
        match (ResponseCode::from_wire(response.code), next(response)) {
            (Some(ResponseCode::Success), Some(next)) => {
                let body = match &response.body[..] {
                    [one] => one.clone(),
                    pieces => pieces.concat().into(),
                };
                let pulled = read(queue, lane.pull_from, next, &lane.tags, &body);
                lane.buffer.extend(pulled.messages);
                lane.pull_from = pulled.next;
                match pulled.unreadable {
                    Some(unreadable) => lane.fail(unreadable.to_string(), now),
                    None => lane.well(now),
                }
            }
            // The place does not exist any more, or not yet: the broker says where it goes on.
            (
                Some(ResponseCode::PullRetryImmediately | ResponseCode::PullNotFound | ResponseCode::PullOffsetMoved),
                Some(next),
            ) => {
                lane.pull_from = next;
                lane.well(now);
            }
            _ => lane.fail(complaint(outcome).unwrap_or_else(|| "its answer holds no offset".to_owned()), now),
        }
        if let Ok(replica) = response.field::<i64>("suggestWhichBrokerId") {
            lane.replica = replica;
        }
    }

    // ---- giving ---------------------------------------------------------------------------------------------------------

    fn give(&mut self) {
        let now = self.cx.now.mono;
        while let Some(poll) = self.polls.front() {
            let messages = self.take(poll.max);
            let poll = self.polls.front().expect("it was just there");
            let outcome = if messages.is_empty() {
                if poll.until > now {
                    return;
                }
                // When nothing can be read at all, a caller should hear why; an empty queue is no trouble.
                let all = !self.lanes.is_empty() && self.lanes.values().all(|lane| lane.trouble.is_some());
                let first = self.lanes.values().find_map(|lane| lane.trouble.clone()).filter(|_| all);
                first.map_or(Ok(Vec::new()), Err)
            } else {
                Ok(messages)
            };
            let id = poll.id;
            self.polls.pop_front();
            self.cx.work(PullWork::Polled { id, outcome });
        }
    }

    /// Messages of one queue after the other, beginning with another one each time.
    fn take(&mut self, max: usize) -> Vec<Received> {
        let mut messages = Vec::new();
        let count = self.lanes.len();
        self.next = self.next.wrapping_add(1);
        let first = self.next.checked_rem(count).unwrap_or(0);
        for nth in (first..count).chain(0..first) {
            let (_, lane) = self.lanes.iter_mut().nth(nth).expect("below their number");
            while messages.len() < max
                && let Some(message) = lane.buffer.pop_front()
            {
                lane.polled = message.offset.next();
                messages.push(message);
            }
            // What was filtered behind the last message is done with it.
            if lane.buffer.is_empty() && matches!(lane.step, Step::Reading) {
                lane.polled = lane.pull_from;
            }
        }
        messages
    }
}

impl Lane {
    fn found(&mut self, at: QueueOffset) {
        self.step = Step::Reading;
        (self.pull_from, self.polled) = (at, at);
        self.again = AGAIN;
        self.trouble = None;
    }

    fn well(&mut self, now: Mono) {
        self.again = AGAIN;
        self.trouble = None;
        self.at = now;
    }

    fn fail(&mut self, why: String, now: Mono) {
        self.trouble = Some(why);
        self.at = now + self.again;
        self.again = (self.again * 2).min(AGAIN_MAX);
        self.replica = 0;
    }
}

fn wire(queue: &MessageQueue) -> i32 {
    i32::try_from(queue.id).expect("a route has at most 65,536 queues")
}

/// Why an answer is not what one hopes for; none when it is.
fn complaint(outcome: &Outcome) -> Option<String> {
    match outcome {
        Ok(response) if response.is_ok() => None,
        Ok(response) => {
            let remark = response.remark.as_deref().unwrap_or("no reason is given");
            Some(format!("the broker answers with code {}: {remark}", response.code))
        }
        Err(error) => Some(error.to_string()),
    }
}

impl Core for PullConsumer {
    type Work = PullWork;
    type Done = PullCommand;

    fn handle(&mut self, event: Event<'_, PullCommand>, now: Now) {
        self.cx.now = now;
        match event {
            Event::Done(command) => self.command(command),
            Event::Answered { call, outcome } => match self.routes.answered(call, &outcome, &mut self.cx) {
                None => self.answered(call, &outcome),
                Some(News::Asking) => {}
                Some(News::Changed(topic) | News::Same(topic) | News::Failed(topic)) => {
                    for (_, lane) in self.lanes.iter_mut().filter(|(queue, _)| queue.topic == topic) {
                        lane.at = lane.at.min(now.mono);
                    }
                    self.tell_queues();
                }
            },
            Event::Request { from, .. } => {
                if !from.oneway {
                    let response =
                        Response::refuse(ResponseCode::RequestCodeNotSupported, "a consumer does not serve this");
                    self.cx.emit(Effect::Reply { to: from, response });
                }
            }
            Event::Stop if !self.over => self.end(),
            Event::Stop | Event::Opened { .. } | Event::Closed { .. } | Event::Space { .. } | Event::Tick => {}
        }
        if !self.over {
            self.routes.on_time(&mut self.cx);
            if self.asked.iter().any(|(_, _, until)| *until <= now.mono) {
                self.tell_queues();
            }
            self.give();
            self.ask();
        }
    }

    fn poll_effect(&mut self) -> Option<Effect<PullWork>> {
        self.cx.poll_effect()
    }

    fn deadline(&self) -> Option<Mono> {
        if self.over {
            return None;
        }
        let batch = self.config.pull_batch as usize;
        let idle = self.lanes.values().filter(|lane| !lane.asking && lane.buffer.len() < batch);
        let lanes = idle.map(|lane| lane.at);
        let asked = self.asked.iter().map(|(_, _, until)| *until);
        let polls = self.polls.front().map(|poll| poll.until);
        lanes.chain(asked).chain(polls).chain(self.routes.deadline()).min()
    }
}

#[cfg(test)]
mod tests;
