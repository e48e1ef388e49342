//! Members of consumer groups, as stock clients are: they send heartbeats, share the queues out, take them over with the
//! group's offset, lock them when they consume in order, pull, commit, and go in every way in which a process can go.

use crate::checkers::{Commit, Place, QueueKey, Speaker};
use crate::desk::{Desk, Heard, Waiting};
use crate::groups::{BELIEVED, share};
use crate::host::body_of;
use crate::net::{LinkId, News};
use crate::register::Question;
use crate::stage::{Due, MILLI, NodeId, SECOND};
use crate::trace::Rare;
use crate::workload::{Lent, PATIENCE, QUEUES};
use keepmq_protocol::body::{ConsumerData, Heartbeat, QueueLocks, QueueName, Subscription};
use keepmq_protocol::request::{ConsumerList, Pull, QueryOffset, Unregister, UpdateOffset};
use keepmq_protocol::{Request, Response, ResponseCode, json};
use std::collections::BTreeMap;

/// What the groups consume.
pub(crate) const CONSUMED: [&str; 2] = ["auto", "made"];
/// Periods of stock clients: sharing out, renewing locks, committing. Source: RocketMQ `RebalanceService`,
/// `ConsumeMessageOrderlyService`, `MQClientInstance`.
const SHARE_EVERY: u64 = 20 * SECOND;
const LOCK_EVERY: u64 = 20 * SECOND;
const COMMIT_EVERY: u64 = 5 * SECOND;
/// Brokers look for silent clients every so often.
const SCAN: u64 = 10 * SECOND;
/// A lock that is not given within this is not taken any more.
const LOCK_PATIENCE: u64 = SECOND;
/// When an unlock had no answer, the lock is not asked for again before it must have been lost or have come.
const UNLOCK_LOST: u64 = 25 * SECOND;

/// How a group consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Ordered,
    Broadcast,
}

impl Mode {
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Shared => "sharing",
            Self::Ordered => "ordering",
            Self::Broadcast => "broadcasting",
        }
    }
}

/// How a member goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It says so.
    Politely,
    /// Its process ends.
    Closing,
    /// It is still for a while; its connections stay.
    Silently,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Here,
    Still { since: u64 },
    Gone,
}

pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) mode: Mode,
    state: State,
    /// How often it was started; each time it has another name.
    starts: u32,
    desk: Desk<Ask>,
    hands: BTreeMap<(usize, QueueKey), Hand>,
    /// Until when a lock must not be asked for.
    unlocking: BTreeMap<(usize, QueueKey), u64>,
    /// What came while it was still.
    inbox: Vec<(LinkId, News)>,
    sharing: bool,
    beat_at: u64,
    share_at: u64,
    lock_at: u64,
    commit_at: u64,
    wake_at: u64,
    /// Of the broadcasting: where it stopped.
    local: BTreeMap<(usize, QueueKey), u64>,
}

/// A queue that it consumes.
#[derive(Default)]
struct Hand {
    /// What it has consumed so far; `None`: must be asked for.
    at: Option<u64>,
    committed: u64,
    busy: bool,
    not_before: u64,
    locked_until: u64,
}

#[derive(Debug)]
enum Ask {
    Beat,
    Members,
    Lock(Vec<QueueKey>),
    Unlock(QueueKey, u32),
    Query(QueueKey),
    Pull(QueueKey, u64, Option<Commit>),
    Commit(Option<Commit>),
    Unregister,
}

impl Member {
    pub(crate) fn new(node: NodeId, mode: Mode) -> Self {
        Self {
            node,
            mode,
            state: State::Gone,
            starts: 0,
            desk: Desk::new(node),
            hands: BTreeMap::new(),
            unlocking: BTreeMap::new(),
            inbox: Vec::new(),
            sharing: false,
            beat_at: 0,
            share_at: 0,
            lock_at: 0,
            commit_at: 0,
            wake_at: 0,
            local: BTreeMap::new(),
        }
    }

    pub(crate) fn is_here(&self) -> bool {
        self.state == State::Here
    }

    pub(crate) fn id(&self) -> String {
        format!("member-{}-{}", self.node.0, self.starts)
    }

    /// How far it has consumed each queue that is its own.
    pub(crate) fn progress(&self) -> impl Iterator<Item = ((usize, QueueKey), Option<u64>)> {
        self.hands.iter().map(|(key, hand)| (*key, hand.at))
    }

    fn place(&self, (broker, queue): (usize, QueueKey)) -> Place {
        (broker, self.mode.group(), queue)
    }

    // ---- coming and going -----------------------------------------------------------------------------------------------

    /// It comes, or goes on.
    pub(crate) fn come(&mut self, lent: &mut Lent<'_>) {
        let now = lent.stage.now;
        match std::mem::replace(&mut self.state, State::Here) {
            State::Here => return,
            State::Still { .. } => {}
            State::Gone => {
                self.starts += 1;
                self.unlocking.clear();
                (self.sharing, self.beat_at, self.share_at) = (false, now, now + 200 * MILLI);
                (self.lock_at, self.commit_at) = (now + SECOND, now + COMMIT_EVERY);
            }
        }
        lent.stage.line(format_args!("{} comes", self.id()));
        if self.mode != Mode::Broadcast {
            lent.books.groups.awake(self.node, self.mode.group(), now);
        }
        for (link, news) in std::mem::take(&mut self.inbox) {
            self.arrived(lent, link, news);
        }
        self.go(lent);
    }

    pub(crate) fn leave(&mut self, lent: &mut Lent<'_>, leave: Leave) {
        if self.state != State::Here {
            return;
        }
        lent.stage.line(format_args!("{} leaves {leave:?}", self.id()));
        let now = lent.stage.now;
        match leave {
            Leave::Politely => {
                let keys: Vec<_> = self.hands.keys().copied().collect();
                keys.into_iter().for_each(|key| self.release(lent, key));
                for broker in (0..lent.shape.brokers).filter(|broker| self.desk.is_linked(*broker)).collect::<Vec<_>>()
                {
                    let (client_id, consumer_group) = (self.id().into(), Some(self.mode.group().into()));
                    let request = Request::Unregister(Unregister { client_id, producer_group: None, consumer_group });
                    self.desk.ask(lent, broker, &request, Ask::Unregister, PATIENCE);
                }
                self.state = State::Gone;
            }
            Leave::Closing => {
                lent.books.groups.gone(lent.stage, lent.net, self.node);
                for link in self.desk.links() {
                    self.desk.close(lent, link);
                }
                self.hands.clear();
                self.state = State::Gone;
            }
            Leave::Silently => {
                self.state = State::Still { since: now };
                lent.books.groups.still(lent.stage, lent.net, self.node, lent.shape.client_timeout + SCAN);
            }
        }
    }

    /// It gives a queue back: commits what it has consumed, and then the lock.
    fn release(&mut self, lent: &mut Lent<'_>, key: (usize, QueueKey)) {
        let Some(hand) = self.hands.remove(&key) else { return };
        self.local.extend(hand.at.map(|at| (key, at)));
        if let Some(at) = hand.at.filter(|at| *at > hand.committed && self.may_work(&hand, lent.stage.now)) {
            self.commit(lent, key, at, true);
        }
        if self.mode == Mode::Ordered {
            lent.books.groups.rests(self.place(key), self.node);
            let request = Request::UnlockQueues(self.locks(lent, key.0, &[key.1]));
            self.unlocking.insert(key, lent.stage.now + UNLOCK_LOST);
            self.desk.ask(lent, key.0, &request, Ask::Unlock(key.1, self.starts), PATIENCE);
        }
    }

    fn may_work(&self, hand: &Hand, now: u64) -> bool {
        self.mode != Mode::Ordered || hand.locked_until > now
    }

    // ---- what it does by itself -----------------------------------------------------------------------------------------

    /// Its alarm.
    pub(crate) fn act(&mut self, lent: &mut Lent<'_>) {
        if lent.stage.now >= self.wake_at {
            self.go(lent);
        }
    }

    /// Does what is due, and sets the alarm for what is due next.
    fn go(&mut self, lent: &mut Lent<'_>) {
        if self.state != State::Here {
            return;
        }
        let now = lent.stage.now;
        if now >= self.beat_at {
            self.beat_at = now + lent.shape.beat_every;
            for broker in 0..lent.shape.brokers {
                self.beat(lent, broker);
            }
        }
        if now >= self.share_at && !self.sharing {
            self.share_at = now + SHARE_EVERY;
            let linked: Vec<usize> = (0..lent.shape.brokers).filter(|broker| self.desk.is_linked(*broker)).collect();
            let broker = if linked.is_empty() { 0 } else { *lent.stage.chance.pick(&linked) };
            self.sharing = true;
            let request = Request::ConsumerList(ConsumerList { group: self.mode.group().into() });
            self.ask(lent, broker, &request, Ask::Members, PATIENCE);
        }
        if self.mode == Mode::Ordered && now >= self.lock_at {
            self.lock_at = now + LOCK_EVERY;
            for broker in 0..lent.shape.brokers {
                let mine = self.hands.iter().filter(|((on, _), hand)| *on == broker && hand.locked_until > 0);
                let mine: Vec<_> = mine.map(|((_, queue), _)| *queue).collect();
                self.lock(lent, broker, mine);
            }
        }
        if self.mode != Mode::Broadcast && now >= self.commit_at {
            self.commit_at = now + COMMIT_EVERY;
            let wanted = self.hands.iter().filter(|(_, hand)| self.may_work(hand, now));
            let wanted: Vec<_> = wanted.filter_map(|(key, hand)| Some((*key, hand.at?, hand.committed))).collect();
            for (key, at, committed) in wanted {
                if at > committed {
                    let told = !lent.stage.chance.one_in(4);
                    self.commit(lent, key, at, told);
                }
            }
        }
        let keys: Vec<_> = self.hands.keys().copied().collect();
        keys.into_iter().for_each(|key| self.step(lent, key));
        let free = self.hands.values().filter(|hand| !hand.busy).map(|hand| hand.not_before);
        let mut next = free.chain([self.beat_at, self.commit_at]).min().unwrap_or_default();
        if !self.sharing {
            next = next.min(self.share_at);
        }
        if self.mode == Mode::Ordered {
            next = next.min(self.lock_at);
        }
        let next = next.max(now + MILLI);
        if self.wake_at <= now || next < self.wake_at {
            self.wake_at = next;
            lent.stage.at(next, Due::Client { node: self.node });
        }
    }

    /// The next thing to be done with a queue: lock it, ask where the group is, pull.
    fn step(&mut self, lent: &mut Lent<'_>, key: (usize, QueueKey)) {
        let (now, (broker, queue)) = (lent.stage.now, key);
        let Some(hand) = self.hands.get_mut(&key).filter(|hand| !hand.busy && hand.not_before <= now) else { return };
        let (topic, queue_id) = (queue.0.into(), queue.1 as i32);
        let group = self.mode.group().into();
        if self.mode == Mode::Ordered && hand.locked_until <= now {
            // Whoever has lost a lock asks again where the group is.
            hand.at = None;
            hand.not_before = now + 3 * SECOND;
            return self.lock(lent, broker, vec![queue]);
        }
        let Some(from) = hand.at else {
            hand.busy = true;
            let request = Request::QueryOffset(QueryOffset { group, topic, queue_id, zero_if_not_found: Some(false) });
            self.ask(lent, broker, &request, Ask::Query(queue), PATIENCE);
            return;
        };
        hand.busy = true;
        let commits = self.mode != Mode::Broadcast && from > 0 && lent.stage.chance.one_in(2);
        let suspend_ms = 1_000 + lent.stage.chance.below(9_000);
        let request = Request::Pull(Pull {
            group,
            topic,
            queue_id,
            offset: from as i64,
            max_messages: 1 + lent.stage.chance.below(32) as i32,
            // What the heartbeat says holds, or what the request says: it is the same.
            sys_flag: i32::from(commits) | 2 | if lent.stage.chance.one_in(2) { 4 } else { 0 },
            commit_offset: if commits { from as i64 } else { 0 },
            suspend_ms: suspend_ms as i64,
            subscription: Some("*".into()),
            sub_version: 1,
            expression_type: Some("TAG".into()),
            max_bytes: None,
        });
        let asked = self.ask(lent, broker, &request, Ask::Pull(queue, from, None), PATIENCE);
        if commits {
            let commit = lent.books.commit(self.place(key), from as i64, asked, false, now);
            if let Ask::Pull(.., noted) = self.desk.last_mut() {
                *noted = Some(commit);
            }
        }
    }

    /// Asks; over a new connection it introduces itself first.
    fn ask(
        &mut self,
        lent: &mut Lent<'_>,
        broker: usize,
        request: &Request<'_>,
        ask: Ask,
        patience: u64,
    ) -> (LinkId, i32) {
        if !self.desk.is_linked(broker) {
            self.beat(lent, broker);
        }
        self.desk.ask(lent, broker, request, ask, patience)
    }

    fn beat(&mut self, lent: &mut Lent<'_>, broker: usize) {
        let subscription = |topic: &&str| Subscription {
            topic: (*topic).to_owned(),
            sub_string: Some("*".to_owned()),
            expression_type: Some("TAG".to_owned()),
            sub_version: 1,
            ..Subscription::default()
        };
        let model = if self.mode == Mode::Broadcast { "BROADCASTING" } else { "CLUSTERING" };
        let consumer = ConsumerData {
            group_name: self.mode.group().to_owned(),
            consume_type: Some("CONSUME_PASSIVELY".to_owned()),
            message_model: Some(model.to_owned()),
            consume_from_where: Some("CONSUME_FROM_FIRST_OFFSET".to_owned()),
            subscription_data_set: CONSUMED.iter().map(subscription).collect(),
            unit_mode: false,
        };
        let beat = Heartbeat { client_id: self.id(), consumer_data_set: vec![consumer], ..Heartbeat::default() };
        let request = Request::Heartbeat(Box::new(beat));
        let (link, _) = self.desk.ask(lent, broker, &request, Ask::Beat, PATIENCE);
        lent.books.groups.beats(self.node, link, lent.stage.now);
    }

    fn locks(&self, lent: &Lent<'_>, broker: usize, queues: &[QueueKey]) -> Box<QueueLocks> {
        let broker_name = lent.books.shelves[broker].name.as_str();
        let name = |(topic, queue): &QueueKey| QueueName {
            broker_name: broker_name.to_owned(),
            queue_id: *queue as i32,
            topic: (*topic).to_owned(),
        };
        let mq_set = queues.iter().map(name).collect();
        let consumer_group = self.mode.group().to_owned();
        Box::new(QueueLocks { client_id: self.id(), consumer_group, mq_set, only_this_broker: false })
    }

    fn lock(&mut self, lent: &mut Lent<'_>, broker: usize, mut queues: Vec<QueueKey>) {
        let now = lent.stage.now;
        queues.retain(|queue| self.unlocking.get(&(broker, *queue)).is_none_or(|until| *until <= now));
        if queues.is_empty() {
            return;
        }
        let request = Request::LockQueues(self.locks(lent, broker, &queues));
        let (link, _) = self.ask(lent, broker, &request, Ask::Lock(queues.clone()), LOCK_PATIENCE);
        for queue in queues {
            lent.books.groups.claims(self.place((broker, queue)), (self.node, self.starts), link, now);
        }
    }

    fn commit(&mut self, lent: &mut Lent<'_>, key: (usize, QueueKey), offset: u64, told: bool) {
        if self.mode == Mode::Broadcast {
            return;
        }
        let ((broker, (topic, queue)), now) = (key, lent.stage.now);
        let (group, offset) = (self.mode.group().into(), offset as i64);
        let update = UpdateOffset { group, topic: topic.into(), queue_id: queue as i32, offset, if_absent: None };
        let request = Request::UpdateOffset(update);
        let asked = match told {
            true => self.desk.tell(lent, broker, &request),
            false => self.ask(lent, broker, &request, Ask::Commit(None), PATIENCE),
        };
        let commit = lent.books.commit(self.place(key), offset, asked, told, now);
        if let Some(hand) = self.hands.get_mut(&key) {
            hand.committed = offset as u64;
        }
        if !told && let Ask::Commit(noted) = self.desk.last_mut() {
            *noted = Some(commit);
        }
    }

    // ---- what it hears --------------------------------------------------------------------------------------------------

    pub(crate) fn arrived(&mut self, lent: &mut Lent<'_>, link: LinkId, news: News) {
        if let State::Still { since } = self.state {
            if matches!(news, News::DialledClosed { .. }) && lent.stage.now >= since + lent.shape.client_timeout {
                lent.stage.happened(Rare::MemberExpired);
            }
            return self.inbox.push((link, news));
        }
        match news {
            News::Frame { bytes, by, .. } => match self.desk.frame(lent, link, by, &bytes) {
                Some(Heard::Answer(waiting, by, response)) => self.answered(lent, waiting, by, &response),
                Some(Heard::Told(40)) => {
                    lent.stage.happened(Rare::ClientsTold);
                    lent.books.groups.told(self.node, link, lent.stage.now);
                    self.share_at = lent.stage.now;
                }
                Some(Heard::Told(other)) => lent.stage.blame("codec", format!("a broker pushes {other}")),
                None => {}
            },
            News::DialledClosed { .. } => {
                let over = self.desk.lost(link);
                over.iter().for_each(|waiting| self.unanswered(lent, waiting));
            }
            News::Opened { .. } | News::ClosedByPeer => unreachable!("nobody dials a member"),
        }
        self.go(lent);
    }

    /// No answer in time.
    pub(crate) fn late(&mut self, lent: &mut Lent<'_>, opaque: i32) {
        if let State::Still { .. } = self.state {
            // It hears of it when it goes on.
            return lent.stage.after(SECOND, Due::AnswerLate { node: self.node, opaque });
        }
        let Some(waiting) = self.desk.late(lent, opaque) else { return };
        if !matches!(waiting.ask, Ask::Lock(_)) {
            let others = self.desk.close(lent, waiting.link);
            others.iter().for_each(|other| self.unanswered(lent, other));
        }
        self.unanswered(lent, &waiting);
        self.go(lent);
    }

    fn unanswered(&mut self, lent: &mut Lent<'_>, waiting: &Waiting<Ask>) {
        let broker = waiting.to;
        match &waiting.ask {
            Ask::Members => {
                self.sharing = false;
                self.share_at = self.share_at.min(lent.stage.now + 3 * SECOND);
            }
            Ask::Query(queue) | Ask::Pull(queue, ..) => self.free(lent, (broker, *queue), 3 * SECOND),
            // What it may have committed is not sure: it does so again.
            Ask::Commit(_) => self.hands.values_mut().for_each(|hand| hand.committed = 0),
            Ask::Beat | Ask::Lock(_) | Ask::Unlock(..) | Ask::Unregister => {}
        }
    }

    fn free(&mut self, lent: &mut Lent<'_>, key: (usize, QueueKey), pause: u64) {
        if let Some(hand) = self.hands.get_mut(&key) {
            hand.busy = false;
            hand.not_before = lent.stage.now + lent.stage.delay(0, pause);
        }
    }

    fn answered(&mut self, lent: &mut Lent<'_>, waiting: Waiting<Ask>, by: Speaker, response: &Response) {
        let Waiting { ask, link, to: broker, since } = waiting;
        let code = ResponseCode::from_wire(response.code);
        match ask {
            Ask::Beat if response.is_ok() && self.state == State::Here => {
                lent.books.groups.beaten(lent.stage, self.node, broker, link);
            }
            Ask::Beat => {}
            Ask::Members => {
                self.sharing = false;
                if response.is_ok() {
                    self.share(lent, &body_of(response));
                }
            }
            Ask::Lock(queues) => self.locked(lent, broker, &queues, since, response),
            Ask::Unlock(queue, holder) => {
                self.unlocking.remove(&(broker, queue));
                lent.books.groups.unlocked(self.place((broker, queue)), (self.node, holder), link, lent.stage.now);
            }
            Ask::Query(queue) => {
                let offset = match code {
                    Some(ResponseCode::Success) => response.field::<i64>("offset").ok(),
                    Some(ResponseCode::QueryNotFound) => None,
                    // A broker that cannot say it now. Not to know is not to begin at the beginning.
                    _ => return self.free(lent, (broker, queue), SECOND),
                };
                let question = Question { link, since, life: by.life };
                let place = self.place((broker, queue));
                if self.mode != Mode::Broadcast {
                    lent.books.check_offset(lent.stage, place, offset, question);
                }
                let local = self.local.get(&(broker, queue)).copied().filter(|_| self.mode == Mode::Broadcast);
                if let Some(hand) = self.hands.get_mut(&(broker, queue)) {
                    let at = local.unwrap_or(offset.unwrap_or_default() as u64);
                    hand.at = Some(at);
                    hand.committed = at;
                }
                self.free(lent, (broker, queue), 10 * MILLI);
            }
            Ask::Pull(queue, from, commit) => self.pulled(lent, by, queue, from, commit, response),
            Ask::Commit(commit) => {
                commit.into_iter().for_each(|commit| lent.books.commit_answered(by, commit, code, lent.stage.now));
            }
            Ask::Unregister => {
                if response.is_ok() && self.state == State::Gone {
                    lent.books.groups.left(lent.stage, lent.net, self.node, broker, since);
                }
            }
        }
    }

    /// The members of its group, as a broker knows them: which queues are its own now?
    fn share(&mut self, lent: &mut Lent<'_>, body: &[u8]) {
        #[derive(serde::Deserialize)]
        struct List {
            #[serde(rename = "consumerIdList")]
            ids: Vec<String>,
        }
        let Ok(List { mut ids }) = json::parse::<List>(body) else {
            return lent.stage.blame("codec", "a list of members cannot be read");
        };
        ids.sort_unstable();
        if self.state != State::Here {
            return;
        }
        let mine = self.mine(&ids, lent.shape.brokers);
        let gone: Vec<_> = self.hands.keys().filter(|key| !mine.contains(key)).copied().collect();
        gone.into_iter().for_each(|key| self.release(lent, key));
        for key in mine {
            self.hands.entry(key).or_default();
        }
    }

    /// The queues that are its own when these are the members of its group.
    pub(crate) fn mine(&self, ids: &[String], brokers: usize) -> Vec<(usize, QueueKey)> {
        let queues = |topic: &&'static str| -> Vec<(usize, QueueKey)> {
            (0..brokers)
                .flat_map(|broker| (0..QUEUES).map(move |queue| (broker, queue)))
                .map(|(b, q)| (b, (*topic, q)))
                .collect()
        };
        let of_topic = |queues: Vec<_>| match self.mode {
            Mode::Broadcast => queues,
            Mode::Shared | Mode::Ordered => share(&queues, ids, &self.id()),
        };
        CONSUMED.iter().map(queues).flat_map(of_topic).collect()
    }

    fn locked(&mut self, lent: &mut Lent<'_>, broker: usize, queues: &[QueueKey], since: u64, response: &Response) {
        #[derive(serde::Deserialize)]
        struct Granted {
            #[serde(rename = "lockOKMQSet")]
            queues: Vec<QueueName>,
        }
        // Whoever was still for a while has waited too long.
        if !response.is_ok() || lent.stage.now > since + LOCK_PATIENCE || self.state != State::Here {
            return;
        }
        let Ok(granted) = json::parse::<Granted>(&body_of(response)) else {
            return lent.stage.blame("codec", "an answer to a lock cannot be read");
        };
        for queue in queues {
            let place = self.place((broker, *queue));
            let named = |name: &QueueName| name.topic == queue.0 && name.queue_id == queue.1 as i32;
            let Some(hand) = self.hands.get_mut(&(broker, *queue)) else { continue };
            if granted.queues.iter().any(named) {
                hand.locked_until = lent.stage.now + BELIEVED;
                hand.not_before = lent.stage.now;
                lent.books.groups.granted(lent.stage, place, self.node);
            } else if lent.books.shelves[broker].has_kept(queue.0) {
                let started = lent.books.shelves[broker].started;
                lent.books.groups.refused(lent.stage, place, (self.node, self.starts), since, started);
            }
        }
    }

    fn pulled(
        &mut self,
        lent: &mut Lent<'_>,
        by: Speaker,
        queue: QueueKey,
        from: u64,
        commit: Option<Commit>,
        response: &Response,
    ) {
        use ResponseCode::{PullNotFound, PullOffsetMoved, PullRetryImmediately, Success};
        let (key, now) = ((by.broker, queue), lent.stage.now);
        let code = ResponseCode::from_wire(response.code);
        let looked = matches!(code, Some(Success | PullNotFound | PullRetryImmediately | PullOffsetMoved));
        if let Some(commit) = commit {
            lent.books.pull_committed(by, commit, code, now);
        }
        let next = response.field::<i64>("nextBeginOffset").ok().and_then(|next| u64::try_from(next).ok());
        let bytes = body_of(response);
        if code == Some(Success) {
            let after = lent.books.pulled(lent.stage, by, queue, from, false, &bytes);
            if next != Some(after) {
                lent.stage.blame("order", format!("a pull from {from} gave messages up to {after} and says {next:?}"));
            }
        }
        let works = self.hands.get(&key).is_some_and(|hand| self.may_work(hand, now));
        if let Some(hand) = self.hands.get_mut(&key).filter(|hand| hand.at == Some(from) && works && looked) {
            hand.at = next.or(hand.at);
            if code == Some(PullOffsetMoved) {
                lent.stage.happened(Rare::OffsetMoved);
                // What it has committed before is beyond what there is, or before it.
                hand.committed = 0;
            }
        }
        self.free(lent, key, if looked { 10 * MILLI } else { 2 * SECOND });
    }
}
