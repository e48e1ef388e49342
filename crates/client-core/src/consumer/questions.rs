//! What brokers are asked about a queue, and how their answers are read.

use super::process_queue::Limits;
use super::{ConsumeFrom, Subscription};
use crate::received::Tags;
use crate::routes::Route;
use keepmq_protocol::request::{MaxOffset, MinOffset, Pull, QueryOffset, SearchOffset, UpdateOffset};
use keepmq_protocol::seam::{CallError, Outcome};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Request, Response, Topic};
use keepmq_world::planted;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one pull. Source: RocketMQ `pullBatchSizeInBytes`.
const PULL_BYTES: i32 = 256 * 1024;
/// A pull may be held (`FLAG_SUSPEND`), and says itself what it wants (`FLAG_SUBSCRIPTION`).
const PULL_FLAGS: i32 = 0x2 | 0x4;

/// How queues are read.
pub(crate) struct Terms {
    pub(crate) group: String,
    pub(crate) from: ConsumeFrom,
    /// The group's offsets live at the broker; else nowhere.
    pub(crate) commits: bool,
    /// Where a group begins is kept for it before anything is pulled.
    pub(crate) pins: bool,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Version of the subscriptions: when this consumer was made, in milliseconds.
    pub(crate) version: i64,
    pub(crate) pull_batch: u32,
    pub(crate) hold: Duration,
    pub(crate) limits: Limits,
    /// What one question may take.
    pub(crate) patience: Duration,
}

/// How the beginning of a queue is found: `Query → Begin → Query → Pin → Confirm`.
///
/// Where a group begins is kept at the broker before anything is pulled. Else a consumer that ends before its first commit
/// would find the end further on when it comes back, and pass over what came meanwhile. Just before, the group's offset is asked
/// for once more: another member may have kept one. And once more behind it: of two members that keep a beginning at once,
/// KeepMQ's brokers take the first, and RocketMQ's the last; whoever believes in its own has the group begin twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The group's offset; when there is none: this one, if it is known.
    Query(Option<QueueOffset>),
    /// Where the configuration says that a group begins.
    Begin,
    /// Keeping it, unless there is one by now.
    Pin(QueueOffset),
    /// What the broker holds, now that this one was kept.
    Confirm(QueueOffset),
}

/// In which way something has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no answer.
    Silent,
    /// The answer is no.
    Code(i32),
    /// The answer makes no sense.
    Unreadable,
}

impl Terms {
    fn expression(&self, topic: &Topic) -> &str {
        let of = |subscription: &&Subscription| subscription.topic == *topic;
        self.subscriptions.iter().find(of).map_or("*", |subscription| subscription.expression.as_str())
    }

    pub(super) fn tags(&self, topic: &Topic) -> Tags {
        Tags::parse(self.expression(topic))
    }

    pub(super) fn pull(&self, queue: &MessageQueue, from: QueueOffset) -> Request<'static> {
        Request::Pull(Pull {
            group: self.group.clone().into(),
            topic: queue.topic.as_str().to_owned().into(),
            queue_id: wire_id(queue),
            offset: from.wire(),
            max_messages: i32::try_from(self.pull_batch).unwrap_or(i32::MAX),
            sys_flag: PULL_FLAGS,
            commit_offset: 0,
            suspend_ms: i64::try_from(self.hold.as_millis()).unwrap_or(i64::MAX),
            subscription: Some(self.expression(&queue.topic).to_owned().into()),
            sub_version: self.version,
            expression_type: Some("TAG".into()),
            max_bytes: Some(PULL_BYTES),
        })
    }

    pub(super) fn question(&self, queue: &MessageQueue, start: Start, fresh: bool) -> Request<'static> {
        match start {
            Start::Query(_) | Start::Confirm(_) => Request::QueryOffset(QueryOffset {
                group: self.group.clone().into(),
                topic: queue.topic.as_str().to_owned().into(),
                queue_id: wire_id(queue),
                zero_if_not_found: Some(false),
            }),
            Start::Pin(offset) => update(&self.group, queue, offset, Some(true)),
            // Nobody in the group has seen a queue that is new; it begins with its first message.
            Start::Begin if fresh && self.from == ConsumeFrom::LastOffset && !planted!("last-offset-skips") => {
                place(queue, ConsumeFrom::FirstOffset)
            }
            Start::Begin => place(queue, self.from),
        }
    }
}

/// Asks a broker for an offset of a queue.
pub(crate) fn place(queue: &MessageQueue, at: ConsumeFrom) -> Request<'static> {
    let topic = || queue.topic.as_str().to_owned().into();
    let queue_id = wire_id(queue);
    match at {
        ConsumeFrom::LastOffset => Request::MaxOffset(MaxOffset { topic: topic(), queue_id, committed: None }),
        ConsumeFrom::FirstOffset => Request::MinOffset(MinOffset { topic: topic(), queue_id }),
        ConsumeFrom::Timestamp(time) => {
            Request::SearchOffset(SearchOffset { topic: topic(), queue_id, timestamp: time.0, boundary: None })
        }
    }
}

/// Reads the answer to [`place`].
pub(crate) fn read_place(outcome: &Outcome) -> Result<QueueOffset, String> {
    heard(outcome).and_then(|response| offset_in(response, "offset")).map_err(|(_, why)| why)
}

/// Commits an offset; `if_absent`: only when the group has none.
pub(super) fn update(
    group: &str,
    queue: &MessageQueue,
    offset: QueueOffset,
    if_absent: Option<bool>,
) -> Request<'static> {
    Request::UpdateOffset(UpdateOffset {
        group: group.to_owned().into(),
        topic: queue.topic.as_str().to_owned().into(),
        queue_id: wire_id(queue),
        offset: offset.wire(),
        if_absent,
    })
}

fn wire_id(queue: &MessageQueue) -> i32 {
    // A queue that a user has thought out may have any number; no broker has one of these, and it says so.
    i32::try_from(queue.id).unwrap_or(i32::MAX)
}

pub(super) fn name(queue: &MessageQueue) -> String {
    format!("queue {} of {} on {}", queue.id, queue.topic, queue.broker)
}

/// The replica that is suggested, when it is known; else the master, else any that is there.
pub(super) fn replica(route: &Route, broker: &BrokerName, suggested: i64) -> Option<Arc<str>> {
    let replicas = route.brokers.get(broker)?;
    let chosen = replicas.get(&suggested).or_else(|| replicas.get(&0)).or_else(|| replicas.values().next());
    chosen.cloned()
}

pub(super) fn heard(outcome: &Outcome) -> Result<&Response, (Kind, String)> {
    outcome.as_ref().map_err(|error: &CallError| (Kind::Silent, error.to_string()))
}

pub(super) fn is_ok(outcome: &Outcome) -> bool {
    outcome.as_ref().is_ok_and(Response::is_ok)
}

pub(super) fn success(response: &Response) -> Result<(), (Kind, String)> {
    if response.is_ok() { Ok(()) } else { Err(refused(response)) }
}

pub(super) fn refused(response: &Response) -> (Kind, String) {
    let remark = response.remark.as_deref().unwrap_or("no reason is given");
    (Kind::Code(response.code), format!("the broker answers with code {}: {remark}", response.code))
}

/// An offset in an answer that has one; `offset` only in one that says SUCCESS.
pub(super) fn offset_in(response: &Response, field: &'static str) -> Result<QueueOffset, (Kind, String)> {
    if field == "offset" {
        success(response)?;
    }
    let unreadable = |why: String| (Kind::Unreadable, format!("the answer cannot be read: {why}"));
    let offset = response.field::<i64>(field).map_err(|error| unreadable(error.to_string()))?;
    u64::try_from(offset).map(QueueOffset).map_err(|_| unreadable(format!("{field} is {offset}")))
}
