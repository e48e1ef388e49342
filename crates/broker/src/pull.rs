use crate::cx::{Checked, Cx, refuse};
use crate::groups;
use crate::members::{MAX_EXPRESSION, Members, is_tag, only_tags};
use crate::parked::{Parked, Waiter};
use crate::serve::{Answer, Serve};
use crate::topics::is_own;
use keepmq_protocol::body::{TagFilter, perm};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{Pull, PullFlags};
use keepmq_protocol::response::{PullReply, ResponseHeader};
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{QueueOffset, Response, ResponseCode, Topic};
use keepmq_store::{Disk, Limits, QueueView, ReadPlan, Selection};
use keepmq_world::Mono;
use std::borrow::Cow;
use std::time::Duration;

/// Most entries looked at for one pull (RocketMQ: `maxFilterMessageSize` of 20-byte entries).
const SCANNED: u32 = 800;
/// Longest time that a pull is held, whatever it asks for.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Time that it is held when `longPollingEnable` is off (RocketMQ: `shortPollingTimeMills`).
const HOLD_SHORT: Duration = Duration::from_secs(1);

/// Most parked pulls that are looked at, or let go, in one go, and the time from then to the next: a hundred thousand of them
/// cost a tenth of a second, in which everybody else wants something as well.
const AT_ONCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(1);

/// Pulls: check, then serve, or park until there is something.
pub(crate) struct Pulling {
    parked: Parked,
    /// Of looks at those whose queue has grown.
    looks: Allowance,
    /// Of answers to those whose time is up.
    partings: Allowance,
}

/// How much may be done before others have their turn.
#[derive(Default)]
struct Allowance {
    left: u32,
    again_at: Mono,
}

/// What a look at a queue gives.
enum Look {
    /// Messages pass.
    Found(ReadPlan, PullReply),
    /// Messages are there, none passes.
    Filtered(PullReply),
    /// There is nothing yet at this offset.
    Nothing(PullReply),
    /// The offset is not one of the queue: it is too high, or negative, or was one before the topic was deleted.
    Moved(PullReply),
    /// So many messages from the offset on have been removed.
    Removed(PullReply, u64),
}

impl Pulling {
    pub(crate) fn new(max_parked: usize) -> Self {
        Self { parked: Parked::new(max_parked), looks: Allowance::default(), partings: Allowance::default() }
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// PULL_MESSAGE 11, LITE_PULL_MESSAGE 361. The checks and their order are RocketMQ's. `hold`: it may be parked. False: it was refused.
    pub(crate) fn on_request<D: Disk>(
        &mut self,
        from: Caller,
        pull: &Pull<'_>,
        hold: bool,
        members: &Members,
        cx: &mut Cx<D>,
    ) -> bool {
        let (filter, queue_id) = match check(from.conn, pull, members, cx) {
            Ok(checked) => checked,
            Err(refusal) => {
                cx.reply(from, *refusal);
                return false;
            }
        };
        let limits = limits(pull, cx);
        let reply = match look(&pull.topic, queue_id, pull.offset, &filter, limits, cx) {
            Look::Nothing(reply) if hold && PullFlags(pull.sys_flag).suspend() && !self.parked.is_full(from.conn) => {
                reply
            }
            look => {
                let unheld = matches!(look, Look::Nothing(_)) && PullFlags(pull.sys_flag).suspend();
                cx.counters.counts.pulls_not_parked += u64::from(unheld && self.parked.is_full(from.conn));
                answer(from, look, cx);
                return true;
            }
        };
        let asked = Duration::from_millis(u64::try_from(pull.suspend_ms).unwrap_or(0)).min(HOLD_MAX);
        let time = if cx.config.live.long_polling { asked } else { asked.min(HOLD_SHORT) };
        let topic = cx.tables.topics.find(&pull.topic).map(|(topic, _)| topic.clone());
        let topic = topic.expect("`check` has found the topic");
        cx.counters.counts.pulls_parked += 1;
        let due = cx.now.mono + time;
        self.parked.park(Waiter { to: from, topic, queue_id, from: reply.next, filter, limits, due });
        true
    }

    /// A queue has new messages: those who wait for one that passes their filter are to be served.
    pub(crate) fn on_grown(&mut self, queue: &(Topic, u32)) {
        self.parked.grow(queue);
    }

    /// Serves those whose queue has grown and who find what they wait for. The others wait on, behind what they need not look
    /// at again.
    pub(crate) fn serve_parked<D: Disk>(&mut self, cx: &mut Cx<D>) {
        while self.parked.has_grown() && self.looks.take(cx.now.mono) {
            let Some(id) = self.parked.next_grown() else { return };
            let waiter = self.parked.get_mut(id).expect("who stands in a line is parked");
            let look = loop {
                match look(
                    waiter.topic.as_str(),
                    waiter.queue_id,
                    waiter.from.wire(),
                    &waiter.filter,
                    waiter.limits,
                    cx,
                ) {
                    Look::Filtered(reply) => waiter.from = reply.next,
                    other => break other,
                }
            };
            if !matches!(look, Look::Nothing(_)) {
                let waiter = self.parked.take(id).expect("it was there a moment ago");
                answer(waiter.to, look, cx);
            }
        }
    }

    /// A topic is gone: nobody waits for it any more.
    pub(crate) fn topic_deleted<D: Disk>(&mut self, topic: &str, cx: &mut Cx<D>) {
        for id in self.parked.on_topic(topic) {
            let waiter = self.parked.take(id).expect("`on_topic` has named it");
            cx.reply_from_tables(waiter.to, *no_topic(topic));
        }
    }

    pub(crate) fn closed(&mut self, conn: Conn) {
        self.parked.closed(conn);
    }

    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        let now = cx.now.mono;
        while self.parked.deadline().is_some_and(|due| due <= now) && self.partings.take(now) {
            let waiter = self.parked.take_due(now).expect("the first is due");
            let_go(&waiter, cx);
        }
    }

    /// Answers everybody, because the broker ends or nobody may read any more.
    pub(crate) fn stop<D: Disk>(&mut self, cx: &mut Cx<D>) {
        while let Some(waiter) = self.parked.take_any() {
            let_go(&waiter, cx);
        }
    }

    /// Answers everybody, because the disk has failed.
    pub(crate) fn fail<D: Disk>(&mut self, why: &str, cx: &mut Cx<D>) {
        while let Some(waiter) = self.parked.take_any() {
            cx.reply(waiter.to, Response::refuse(ResponseCode::ServiceNotAvailable, why.to_owned()));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        let due = self.parked.deadline().map(|due| due.max(self.partings.ready_at()));
        let grown = self.parked.has_grown().then(|| self.looks.ready_at());
        due.into_iter().chain(grown).min()
    }
}

impl Allowance {
    /// Takes one, if there is one.
    fn take(&mut self, now: Mono) -> bool {
        if now >= self.again_at {
            (self.left, self.again_at) = (AT_ONCE, now + PAUSE);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    /// From when on there is one; the past when there is one already.
    fn ready_at(&self) -> Mono {
        if self.left > 0 { Mono(0) } else { self.again_at }
    }
}

/// Looks once more, and answers whatever there is.
fn let_go<D: Disk>(waiter: &Waiter, cx: &mut Cx<D>) {
    let topic = waiter.topic.as_str();
    let look = look(topic, waiter.queue_id, waiter.from.wire(), &waiter.filter, waiter.limits, cx);
    answer(waiter.to, look, cx);
}

fn no_topic(topic: &str) -> Box<Response> {
    refuse(ResponseCode::TopicNotExist, format!("topic[{topic}] not exist, apply first please!"))
}

/// NO_PERMISSION with RocketMQ's number for whose permission lacks.
fn forbidden(kind: u8, text: String) -> Box<Response> {
    let header = ResponseHeader::Fields(vec![("forbiddenType".into(), kind.to_string())]);
    Box::new(Response::refuse(ResponseCode::NoPermission, text).with_header(header))
}

/// Source: RocketMQ `PullMessageProcessor.processRequest`, `ForbiddenType`.
fn check<D: Disk>(conn: Conn, pull: &Pull<'_>, members: &Members, cx: &mut Cx<D>) -> Checked<(TagFilter, u32)> {
    let (group, topic) = (&*pull.group, &*pull.topic);
    if cx.config.live.permission & perm::READ == 0 {
        let text = format!("the broker[{}] pulling message is forbidden (brokerPermission)", cx.config.address.ip());
        return Err(forbidden(1, text));
    }
    if PullFlags(pull.sys_flag).lite() && !cx.config.lite_pull {
        let broker = &cx.config.name;
        let text =
            format!("the broker[{broker}] for lite pull consumer is forbidden: its litePullMessageEnable is off");
        return Err(forbidden(1, text));
    }
    groups::ensure(group, cx)?;
    let settings = cx.tables.groups.get(group).expect("`ensure` has found or made it");
    if !settings.consume_enable {
        return Err(forbidden(2, format!("subscription group no permission, {group}: its consumeEnable is off")));
    }
    let config = match cx.tables.topics.get(topic) {
        Some(config) if !is_own(topic) => config,
        _ => return Err(no_topic(topic)),
    };
    if config.perm & perm::READ == 0 {
        return Err(forbidden(
            3,
            format!("the topic[{topic}] pulling message is forbidden: its permission is {}", config.perm),
        ));
    }
    let queue_id = u32::try_from(pull.queue_id).ok().filter(|queue_id| *queue_id < config.read_queue_nums);
    let queue_id = queue_id.ok_or_else(|| {
        let text = format!(
            "queueId[{}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{}] consumer group:[{group}]",
            pull.queue_id, config.read_queue_nums
        );
        refuse(ResponseCode::InvalidParameter, text)
    })?;
    if PullFlags(pull.sys_flag).subscription() {
        return parse(pull).map(|filter| (filter, queue_id));
    }
    let none = |code, text: String| Err(refuse(code, text));
    let Some(online) = members.online(group) else {
        return none(
            ResponseCode::SubscriptionNotExist,
            format!("the consumer's group info not exist, group {group}: it has sent no heartbeat to this broker yet"),
        );
    };
    if online.broadcast && !settings.consume_broadcast_enable {
        return Err(forbidden(4, format!("the consumer group[{group}] can not consume by broadcast way")));
    }
    let Some(want) = online.want(conn, topic) else {
        return none(
            ResponseCode::SubscriptionNotExist,
            format!("the consumer's subscription not exist, group {group} does not subscribe to {topic}"),
        );
    };
    if want.version < pull.sub_version {
        return none(
            ResponseCode::SubscriptionNotLatest,
            format!(
                "the consumer's subscription not latest, group {group}, topic {topic}: wait for the next heartbeat"
            ),
        );
    }
    want.filter.cloned().map(|filter| (filter, queue_id)).ok_or_else(only_tags)
}

/// The subscription in the header.
fn parse(pull: &Pull<'_>) -> Checked<TagFilter> {
    let bad = |why: String| {
        Err(refuse(ResponseCode::SubscriptionParseFailed, format!("parse the consumer's subscription failed: {why}")))
    };
    let expression = pull.subscription.as_deref().unwrap_or_default();
    if expression.len() > MAX_EXPRESSION {
        return bad(format!("the expression exceeds {MAX_EXPRESSION} bytes"));
    }
    match pull.expression_type.as_deref() {
        kind if is_tag(kind) => {
            let blank = expression.is_empty() || expression.split("||").any(|tag| !tag.trim().is_empty());
            if blank { Ok(TagFilter::parse(expression)) } else { bad(format!("{expression:?} names no tag")) }
        }
        Some("SQL92") => Err(only_tags()),
        kind => bad(format!("the expression type {:?} is neither TAG nor SQL92", kind.unwrap_or_default())),
    }
}

fn limits<D: Disk>(pull: &Pull<'_>, cx: &Cx<D>) -> Limits {
    let asked = |asked: i32, max: u32| u32::try_from(asked).unwrap_or(1).clamp(1, max.max(1));
    Limits {
        messages: asked(pull.max_messages, cx.config.live.pull_messages),
        bytes: asked(pull.max_bytes.filter(|bytes| *bytes > 0).unwrap_or(i32::MAX), cx.config.live.pull_bytes),
        scanned: SCANNED,
    }
}

/// Source: RocketMQ `GetMessageStatus` and its mapping to codes.
fn look<D: Disk>(topic: &str, queue_id: u32, offset: i64, filter: &TagFilter, limits: Limits, cx: &Cx<D>) -> Look {
    let (min, max, has_lost) = cx
        .store
        .queue(topic, queue_id)
        .map_or_else(Default::default, |view: QueueView| (view.min, view.max, view.has_lost));
    let reply = |next| PullReply { suggest_broker: 0, next, min, max };
    let Ok(from) = u64::try_from(offset).map(QueueOffset) else {
        return Look::Moved(reply(min));
    };
    if from < min {
        return if has_lost { Look::Removed(reply(min), min.0 - from.0) } else { Look::Moved(reply(min)) };
    }
    if from > max {
        return Look::Moved(reply(max));
    }
    if from == max {
        return Look::Nothing(reply(from));
    }
    match cx.store.select(topic, queue_id, from, filter, limits) {
        Selection::Read(plan) => Look::Found(plan, reply(from)),
        Selection::Nothing { next } => {
            assert!(next > from, "a look at a queue leads on: {next} after {from} of {topic}/{queue_id}");
            Look::Filtered(reply(next))
        }
    }
}

fn answer<D: Disk>(to: Caller, look: Look, cx: &mut Cx<D>) {
    let (code, status, reply): (_, Cow<'static, str>, _) = match look {
        Look::Found(plan, reply) => {
            cx.counters.counts.pulls_found += 1;
            return cx.serve(Serve { to, plan, answer: Answer::Pull(reply) });
        }
        Look::Filtered(reply) => (ResponseCode::PullRetryImmediately, "NO_MATCHED_MESSAGE".into(), reply),
        Look::Nothing(reply) => (ResponseCode::PullNotFound, "OFFSET_OVERFLOW_ONE".into(), reply),
        Look::Moved(reply) if reply.next == reply.min => {
            (ResponseCode::PullOffsetMoved, "OFFSET_TOO_SMALL".into(), reply)
        }
        Look::Moved(reply) => (ResponseCode::PullOffsetMoved, "OFFSET_OVERFLOW_BADLY".into(), reply),
        Look::Removed(reply, count) => {
            cx.counters.counts.lost_by_retention += count;
            let min = reply.min;
            let text =
                format!("OFFSET_TOO_SMALL: retention has removed {count} messages, the queue begins at {min} now");
            (ResponseCode::PullOffsetMoved, text.into(), reply)
        }
    };
    cx.counters.counts.pulls_missed += 1;
    cx.reply(to, Response::refuse(code, status).with_header(ResponseHeader::Pull(reply)));
}
