//! Table look-ups and edits for operators and their tools; look-ups by offset and time for consumers.

use crate::config::LiveConfig;
use crate::cx::{Checked, Cx, not_appended, refuse};
use crate::histogram::Histogram;
use crate::members::Members;
use crate::pending::Stake;
use crate::serve::{Answer, Serve, Task};
use crate::tables::GroupsFile;
use crate::topics::{MAX_QUEUES, edit_attributes, is_own};
use keepmq_protocol::body::{DataVersion, SubscriptionGroup, TopicConfig};
use keepmq_protocol::change::{Changing, properties};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::json::write_object_keyed;
use keepmq_protocol::request::{
    CreateTopic, DeleteGroup, DeleteTopic, EarliestTime, GroupStats, MaxOffset, MinOffset, SearchOffset, TopicStats,
    ViewMessage,
};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::Effect;
use keepmq_protocol::{ConsumerGroup, LogOffset, QueueOffset, Response, ResponseCode, Topic};
use keepmq_store::{Disk, MetaRecord, QueueView, ReadPlan};
use keepmq_world::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The name of `frame::VERSION`.
const VERSION_NAME: &str = "V5_3_3";

/// Largest settings of a group, as JSON. With the longest retry policy they have about 1 KiB.
const MAX_GROUP_BYTES: usize = 16 << 10;

fn invalid(text: String) -> Box<Response> {
    refuse(ResponseCode::InvalidParameter, text)
}

// ---- offsets and times of a queue ----------------------------------------------------------------------------------------

/// A queue that others may see. Of one that does not exist, RocketMQ says what it says of an empty one.
fn view<D: Disk>(topic: &str, queue_id: i32, cx: &Cx<D>) -> Option<(u32, QueueView)> {
    let queue_id = u32::try_from(queue_id).ok().filter(|_| !is_own(topic))?;
    cx.store.queue(topic, queue_id).map(|view| (queue_id, view))
}

fn offset(offset: i64) -> Response {
    Response::ok().with_header(ResponseHeader::Offset(offset))
}

/// GET_MAX_OFFSET 30.
pub(crate) fn max_offset<D: Disk>(from: Caller, request: &MaxOffset<'_>, cx: &mut Cx<D>) {
    let view = view(&request.topic, request.queue_id, cx);
    cx.reply(from, offset(view.map_or(0, |(_, view)| view.max.wire())));
}

/// GET_MIN_OFFSET 31.
pub(crate) fn min_offset<D: Disk>(from: Caller, request: &MinOffset<'_>, cx: &mut Cx<D>) {
    let view = view(&request.topic, request.queue_id, cx);
    cx.reply(from, offset(view.map_or(0, |(_, view)| view.min.wire())));
}

/// SEARCH_OFFSET_BY_TIMESTAMP 29.
pub(crate) fn search_offset<D: Disk>(from: Caller, request: &SearchOffset<'_>, cx: &mut Cx<D>) {
    let (queue_id, view) = match view(&request.topic, request.queue_id, cx) {
        None => return cx.reply(from, offset(0)),
        Some((_, view)) if view.min == view.max => return cx.reply(from, offset(view.max.wire())),
        Some(found) => found,
    };
    assert!(view.min < view.max, "a queue that is not empty has a message");
    let upper = request.boundary.as_deref().is_some_and(|boundary| boundary.eq_ignore_ascii_case("upper"));
    let plan = cx.store.search(&request.topic, queue_id, Timestamp(request.timestamp), upper);
    cx.serve(Serve { to: from, plan, answer: Answer::Offset });
}

/// GET_EARLIEST_MSG_STORETIME 32.
pub(crate) fn earliest_time<D: Disk>(from: Caller, request: &EarliestTime<'_>, cx: &mut Cx<D>) {
    let view = view(&request.topic, request.queue_id, cx);
    match view.and_then(|(queue_id, _)| cx.store.earliest(&request.topic, queue_id)) {
        Some(plan) => cx.serve(Serve { to: from, plan, answer: Answer::Time }),
        None => cx.reply(from, Response::ok().with_header(ResponseHeader::Timestamp(-1))),
    }
}

/// VIEW_MESSAGE_BY_ID 33.
pub(crate) fn view_message<D: Disk>(from: Caller, request: &ViewMessage<'_>, cx: &mut Cx<D>) {
    match u64::try_from(request.offset) {
        Ok(at) if LogOffset(at) < cx.store.commit() => {
            cx.serve(Serve { to: from, plan: ReadPlan::record(at), answer: Answer::Record });
        }
        _ => {
            let text = format!("can not find message by the offset, {}", request.offset);
            cx.reply(from, Response::refuse(ResponseCode::SystemError, text));
        }
    }
}

// ---- topics --------------------------------------------------------------------------------------------------------------

/// UPDATE_AND_CREATE_TOPIC 17.
pub(crate) fn create_topic<D: Disk>(from: Caller, request: &CreateTopic<'_>, cx: &mut Cx<D>) {
    let made = match wanted_topic(request, cx) {
        Ok(made) => made,
        Err(refusal) => return cx.reply(from, *refusal),
    };
    if cx.tables.topics.get(&request.topic) == Some(&made) {
        return cx.reply_from_tables(from, Response::ok());
    }
    change(from, &MetaRecord::Topic(made), cx);
}

/// Answers when the change is kept. False: it could not be made.
fn change<D: Disk>(from: Caller, record: &MetaRecord, cx: &mut Cx<D>) -> bool {
    match cx.record(record) {
        Ok(end) => {
            cx.reply_after(from, end, Stake::Wrote, Response::ok());
            true
        }
        Err(error) => {
            cx.reply(from, *not_appended(&error));
            false
        }
    }
}

fn check_topic<D: Disk>(topic: &str, cx: &Cx<D>) -> Checked<()> {
    Topic::check(topic).map_err(|error| invalid(error.to_string()))?;
    match cx.tables.topics.is_system(topic) {
        true => Err(invalid(format!("The topic[{topic}] is conflict with system topic."))),
        false => Ok(()),
    }
}

fn wanted_topic<D: Disk>(request: &CreateTopic<'_>, cx: &Cx<D>) -> Checked<TopicConfig> {
    let topic = &*request.topic;
    check_topic(topic, cx)?;
    let known = cx.tables.topics.get(topic);
    let max = cx.config.max_topics;
    if known.is_none() && cx.tables.topics.recorded() >= max {
        let text = format!("topic [{topic}] cannot be created: this broker has its limit of {max} topics (maxTopics)");
        return Err(refuse(ResponseCode::SystemError, text));
    }
    let queues = |what: &str, count: i32| match u32::try_from(count) {
        Ok(count) if count <= MAX_QUEUES => Ok(count),
        _ => Err(invalid(format!("{what} of topic [{topic}] is {count}: it must be 0 to {MAX_QUEUES}"))),
    };
    // 8 is RocketMQ's priority bit: kept, without a meaning.
    if !(0..16).contains(&request.perm) {
        let text = format!(
            "perm of topic [{topic}] is {}: it must be a sum of 4 (read), 2 (write), 1 (inherit)",
            request.perm
        );
        return Err(invalid(text));
    }
    let filter_type = request.filter_type.as_deref().unwrap_or("SINGLE_TAG");
    if !matches!(filter_type, "SINGLE_TAG" | "MULTI_TAG") {
        let text = format!("topicFilterType of topic [{topic}] is {filter_type:?}: it must be SINGLE_TAG or MULTI_TAG");
        return Err(invalid(text));
    }
    let edits = request.attributes.as_deref().unwrap_or_default();
    let attributes = edit_attributes(known.map(|known| &known.attributes), edits)
        .map_err(|why| refuse(ResponseCode::SystemError, format!("topic [{topic}]: {why}")))?;
    Ok(TopicConfig {
        attributes,
        order: request.order,
        perm: request.perm,
        read_queue_nums: queues("readQueueNums", request.read_queues)?,
        topic_filter_type: filter_type.to_owned(),
        topic_name: topic.to_owned(),
        topic_sys_flag: request.sys_flag.unwrap_or_default(),
        write_queue_nums: queues("writeQueueNums", request.write_queues)?,
    })
}

/// DELETE_TOPIC_IN_BROKER 215. True: it has been deleted.
pub(crate) fn delete_topic<D: Disk>(from: Caller, request: &DeleteTopic<'_>, cx: &mut Cx<D>) -> bool {
    let topic = &*request.topic;
    if let Err(refusal) = check_topic(topic, cx) {
        cx.reply(from, *refusal);
        return false;
    }
    if cx.tables.topics.get(topic).is_none() {
        cx.reply_from_tables(from, Response::ok());
        return false;
    }
    change(from, &MetaRecord::TopicDeleted(topic.to_owned()), cx)
}

/// GET_ALL_TOPIC_CONFIG 21. Without `totalTopicNum`: clients then take the answer for the whole table, which it is.
pub(crate) fn all_topics<D: Disk>(from: Caller, cx: &mut Cx<D>) {
    let body = TopicsBody {
        data_version: cx.tables.topics.version,
        mapping_data_version: DataVersion::default(),
        topic_config_table: cx.tables.topics.all(),
        topic_queue_mapping_detail_map: BTreeMap::new(),
        topic_queue_mapping_info_map: BTreeMap::new(),
    };
    let body = written(&body);
    cx.reply_from_tables(from, Response::ok().with_body(body));
}

/// Source: RocketMQ `TopicConfigAndMappingSerializeWrapper`. The last two are for static topics: we have none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicsBody<'t> {
    data_version: DataVersion,
    mapping_data_version: DataVersion,
    topic_config_table: BTreeMap<&'t str, &'t TopicConfig>,
    topic_queue_mapping_detail_map: BTreeMap<&'t str, ()>,
    topic_queue_mapping_info_map: BTreeMap<&'t str, ()>,
}

fn written(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("text and numbers only, and memory takes any bytes")
}

/// GET_TOPIC_STATS_INFO 202.
pub(crate) fn topic_stats<D: Disk>(from: Caller, request: &TopicStats<'_>, cx: &mut Cx<D>) {
    let topic = &*request.topic;
    let Some(config) = cx.tables.topics.get(topic) else {
        return cx.reply_from_tables(from, no_topic(topic));
    };
    let stats = (0..config.read_queue_nums.max(config.write_queue_nums)).map(|queue_id| {
        let view = cx.store.queue(topic, queue_id);
        let stats = json!({
            "lastUpdateTimestamp": view.map_or(0, |view| view.last_stored.0),
            "maxOffset": view.map_or(0, |view| view.max.wire()),
            "minOffset": view.map_or(0, |view| view.min.wire()),
        });
        (queue_key(topic, queue_id, cx), stats)
    });
    let mut body = String::from("{\"offsetTable\":");
    write_object_keyed(&mut body, stats);
    body.push_str(",\"topicPutTps\":0.0}");
    cx.reply_from_tables(from, Response::ok().with_body(body));
}

fn no_topic(topic: &str) -> Response {
    Response::refuse(ResponseCode::TopicNotExist, format!("topic[{topic}] not exist"))
}

fn queue_key<D: Disk>(topic: &str, queue_id: u32, cx: &Cx<D>) -> Value {
    json!({ "brokerName": cx.config.name, "queueId": queue_id, "topic": topic })
}

// ---- groups --------------------------------------------------------------------------------------------------------------

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP 200.
pub(crate) fn create_group<D: Disk>(from: Caller, group: &SubscriptionGroup, cx: &mut Cx<D>) {
    if let Err(refusal) = check_group(group, cx) {
        return cx.reply(from, *refusal);
    }
    if cx.tables.groups.get(&group.group_name) == Some(group) {
        return cx.reply_from_tables(from, Response::ok());
    }
    change(from, &MetaRecord::Group(group.clone()), cx);
}

fn check_group<D: Disk>(group: &SubscriptionGroup, cx: &Cx<D>) -> Checked<()> {
    let name = group.group_name.as_str();
    ConsumerGroup::check(name).map_err(|error| invalid(error.to_string()))?;
    let max = cx.config.max_groups;
    if cx.tables.groups.get(name).is_none() && cx.tables.groups.recorded() >= max {
        let text = format!("group [{name}] cannot be created: this broker has its limit of {max} groups (maxGroups)");
        return Err(refuse(ResponseCode::SystemError, text));
    }
    if u32::try_from(group.retry_queue_nums).is_ok_and(|queues| queues > MAX_QUEUES) {
        let text =
            format!("retryQueueNums of group [{name}] is {}: it must be at most {MAX_QUEUES}", group.retry_queue_nums);
        return Err(invalid(text));
    }
    let size = written(group).len();
    if size > MAX_GROUP_BYTES {
        return Err(invalid(format!(
            "the settings of group [{name}] have {size} bytes: the limit is {MAX_GROUP_BYTES}"
        )));
    }
    // RocketMQ knows the field and no attribute that could stand in it.
    if let Some(attribute) = group.attributes.keys().next() {
        let text = format!("group [{name}]: unsupported key: {attribute}");
        return Err(refuse(ResponseCode::SystemError, text));
    }
    Ok(())
}

/// DELETE_SUBSCRIPTIONGROUP 207.
pub(crate) fn delete_group<D: Disk>(from: Caller, request: &DeleteGroup<'_>, cx: &mut Cx<D>) {
    let group = request.group.to_string();
    let has_offsets = cx.tables.offsets.topics(&group).next().is_some();
    if cx.tables.groups.get(&group).is_none() && !(request.clean_offsets && has_offsets) {
        return cx.reply_from_tables(from, Response::ok());
    }
    change(from, &MetaRecord::GroupDeleted { group, clean_offsets: request.clean_offsets }, cx);
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG 201. Whole, as the topics are.
pub(crate) fn all_groups<D: Disk>(from: Caller, cx: &mut Cx<D>) {
    let body = GroupsFile {
        data_version: cx.tables.groups.version,
        forbidden_table: BTreeMap::new(),
        subscription_group_table: cx.tables.groups.all(),
    };
    let body = written(&body);
    cx.reply_from_tables(from, Response::ok().with_body(body));
}

/// GET_CONSUME_STATS 208: of one topic, or of all in which the group has an offset; not of those that its members do not
/// subscribe to any more.
pub(crate) fn group_stats<D: Disk>(from: Caller, request: &GroupStats<'_>, members: &Members, cx: &mut Cx<D>) {
    let group = &*request.group;
    let online = members.online(group);
    let topics: Vec<&str> = match request.topic.as_deref() {
        Some(topic) if !topic.is_empty() => vec![topic],
        _ => cx.tables.offsets.topics(group).collect(),
    };
    let subscribed = |topic: &&str| online.is_none_or(|online| online.wants(topic));
    let stats = topics.into_iter().filter(subscribed).flat_map(|topic| {
        let queues = cx.tables.topics.get(topic).map_or(0, |config| config.read_queue_nums);
        let cx = &*cx;
        (0..queues).map(move |queue_id| {
            let view = cx.store.queue(topic, queue_id);
            let max = view.map_or(0, |view| view.max.wire());
            let committed = cx.tables.offsets.get(group, topic, queue_id).unwrap_or(0);
            // Of the last message consumed. Memory knows those of the queue's last few hundred messages; 0: not known.
            let consumed = u64::try_from(committed - 1).ok().map(QueueOffset);
            let last = match view {
                Some(view) if committed == max => view.last_stored,
                _ => consumed.and_then(|at| cx.store.stored_at(topic, queue_id, at)).unwrap_or_default(),
            }
            .0;
            let stats = json!({
                "brokerOffset": max,
                "consumerOffset": committed,
                "lastTimestamp": last,
                "pullOffset": committed,
            });
            (queue_key(topic, queue_id, cx), stats)
        })
    });
    let mut body = String::from("{\"consumeTps\":0.0,\"offsetTable\":");
    write_object_keyed(&mut body, stats);
    body.push('}');
    cx.reply_from_tables(from, Response::ok().with_body(body));
}

// ---- the broker ----------------------------------------------------------------------------------------------------------

/// GET_BROKER_CONFIG 26.
pub(crate) fn broker_config<D: Disk>(from: Caller, cx: &mut Cx<D>) {
    let text = properties(&cx.config.live.shown);
    let version = json!(cx.config_version).to_string();
    let header = ResponseHeader::Fields(vec![("version".into(), version)]);
    cx.reply(from, Response::ok().with_header(header).with_body(text));
}

/// UPDATE_BROKER_CONFIG 25, first half: the rest is the shell's.
pub(crate) fn change_broker_config<D: Disk>(from: Caller, text: &str, changing: &mut Changing, cx: &mut Cx<D>) {
    match changing.begin(from, text) {
        Ok(text) => cx.effects.push_back(Effect::Work(Task::Configure(text))),
        Err(refusal) => cx.reply(from, *refusal),
    }
}

/// Lets another configuration hold. All that was made from the old one is made again.
pub(crate) fn apply<D: Disk>(live: LiveConfig, cx: &mut Cx<D>) {
    cx.pending.set_timeout(live.flush_timeout);
    cx.store.set_retention(live.retention.clone());
    let of_topics = |live: &LiveConfig| (live.permission, live.auto_create_topic, live.default_topic_queues);
    if of_topics(&live) != of_topics(&cx.config.live) {
        cx.tables.topics.reconfigure(&live, cx.now.wall);
    }
    cx.config_version.counter += 1;
    cx.config_version.timestamp = cx.now.wall.0;
    cx.config.live = live;
}

/// GET_BROKER_RUNTIME_INFO 28: the keys that tools read, and what we count. Numbers that we do not have are not made up:
/// they are 0 where a tool insists on a key, else absent.
pub(crate) fn runtime_info<D: Disk>(from: Caller, active: bool, parked: usize, locks: usize, cx: &mut Cx<D>) {
    let (state, counts) = (cx.store.state(), cx.counters.counts);
    let rates = |of: fn(&crate::counters::Counts) -> u64| cx.counters.rates(cx.now.mono, of);
    let found = rates(|counts| counts.pulls_found);
    let average = counts.bytes_in as f64 / counts.messages_in.max(1) as f64;
    let behind = |mark: LogOffset| state.appended.0 - mark.0;
    let used = |(free, total): (u64, u64)| total.saturating_sub(free) as f64 / total.max(1) as f64;
    let ratio = cx.counters.free.zip(cx.config.disk_bytes).map(used);
    // RocketMQ's answer when it does not know is -1, too.
    let ratio = ratio.map_or_else(|| "-1.0".to_owned(), |used| format!("{used:.4}"));
    let [today, yesterday] = cx.counters.mornings;
    let (tally, flush_times) = (&cx.pending.tally, &cx.counters.flush_times);
    let mean_micros = |times: &Histogram| times.sum().checked_div(times.count()).map_or(0, |mean| mean / 1000);
    let mut table: BTreeMap<&str, String> = [
        "pageCacheLockTimeMills",
        "timerReadBehind",
        "timerOffsetBehind",
        "timerCongestNum",
        "sendThreadPoolQueueHeadWaitTimeMills",
        "pullThreadPoolQueueSize",
        "pullThreadPoolQueueHeadWaitTimeMills",
        "queryThreadPoolQueueSize",
        "queryThreadPoolQueueHeadWaitTimeMills",
        "ackThreadPoolQueueSize",
        "ackThreadPoolQueueHeadWaitTimeMills",
        "startAcceptSendRequestTimeStamp",
    ]
    .map(|key| (key, "0".to_owned()))
    .into();
    table.extend([
        ("brokerActive", active.to_string()),
        ("brokerVersion", keepmq_protocol::frame::VERSION.to_string()),
        ("brokerVersionDesc", VERSION_NAME.to_owned()),
        ("bootTimestamp", cx.counters.started.to_string()),
        ("runtime", runtime(cx.now.mono.since(cx.counters.since))),
        // Since the start: what was before is not counted.
        ("msgPutTotalYesterdayMorning", yesterday.messages_in.to_string()),
        ("msgPutTotalTodayMorning", today.messages_in.to_string()),
        ("msgGetTotalYesterdayMorning", yesterday.pulls_found.to_string()),
        ("msgGetTotalTodayMorning", today.pulls_found.to_string()),
        ("msgPutTotalTodayNow", counts.messages_in.to_string()),
        ("msgGetTotalTodayNow", counts.pulls_found.to_string()),
        ("putMessageTimesTotal", counts.messages_in.to_string()),
        ("putMessageFailedTimes", counts.sends_refused.to_string()),
        ("putMessageSizeTotal", counts.bytes_in.to_string()),
        ("putMessageAverageSize", format!("{average:.2}")),
        ("putTps", rates(|counts| counts.messages_in)),
        ("getFoundTps", found.clone()),
        ("getMissTps", rates(|counts| counts.pulls_missed)),
        ("getTotalTps", rates(|counts| counts.pulls_found + counts.pulls_missed)),
        // Readers count their own messages; what the core knows is a lower bound: each such pull carried at least one.
        ("getTransferredTps", found),
        ("timerEnqueueTps", "0.0".to_owned()),
        ("timerDequeueTps", "0.0".to_owned()),
        ("sendThreadPoolQueueSize", cx.pending.len().to_string()),
        // RocketMQ's answer when it does not know.
        ("earliestMessageTimeStamp", "-1".to_owned()),
        ("commitLogDiskRatio", ratio.clone()),
        ("consumeQueueDiskRatio", ratio),
        ("commitLogMinOffset", state.min.to_string()),
        ("commitLogMaxOffset", state.commit.to_string()),
        ("dispatchBehindBytes", behind(state.commit).to_string()),
        ("remainHowManyDataToFlush", format!("{} B", behind(state.synced))),
        ("keepmqFlushes", state.flushes.to_string()),
        ("keepmqFlushedRecords", state.flushed_records.to_string()),
        ("keepmqParkedPulls", parked.to_string()),
        ("keepmqPullsParkedTotal", counts.pulls_parked.to_string()),
        ("keepmqPullsNotParked", counts.pulls_not_parked.to_string()),
        ("keepmqSendsRefusedStalled", counts.busy_stalled.to_string()),
        ("keepmqSendsRefusedWaiting", counts.busy_waiting.to_string()),
        ("keepmqAppendsRefusedBuffers", counts.busy_buffers.to_string()),
        ("keepmqAppendsRefusedSegment", counts.busy_segment.to_string()),
        ("keepmqAppendsRefusedDiskFull", counts.disk_full.to_string()),
        ("keepmqSendsKept", tally.sends_kept.to_string()),
        ("keepmqSendsRelaxed", counts.sends_relaxed.to_string()),
        ("keepmqUnknownOutcomes", tally.unknown.to_string()),
        ("keepmqMeanFlushMicros", mean_micros(flush_times).to_string()),
        ("keepmqMeanCommitMicros", mean_micros(&tally.commit_times).to_string()),
        ("keepmqBufferedBytes", behind(state.written).to_string()),
        ("keepmqUnsyncedBytes", behind(state.synced).to_string()),
        ("keepmqStoreStopped", state.stopped.to_string()),
        ("keepmqDiskFull", state.full.to_string()),
        ("keepmqLostByRetention", counts.lost_by_retention.to_string()),
        ("keepmqSegmentsRemoved", state.removed_segments.to_string()),
        ("keepmqRetentionHeld", state.held.to_string()),
        ("keepmqScrubRounds", state.scrub.rounds.to_string()),
        ("keepmqScrubDamaged", state.scrub.round.damaged.max(state.scrub.last.damaged).to_string()),
        ("keepmqOffsetsLowered", counts.offsets_lowered.to_string()),
        ("keepmqOffsetsIgnored", counts.offsets_ignored.to_string()),
        ("keepmqSubscriptionsDiffer", counts.subscriptions_differ.to_string()),
        ("keepmqQueueLocks", locks.to_string()),
        ("keepmqLocksTooEarly", counts.locks_early.to_string()),
        ("keepmqLargestMessage", counts.largest.to_string()),
    ]);
    if let Some(free) = cx.counters.free {
        let total = cx.config.disk_bytes.map_or_else(|| "unknown".to_owned(), |total| format!("{total} B"));
        table.insert("commitLogDirCapacity", format!("Total : {total}, Free : {free} B."));
    }
    cx.reply(from, Response::ok().with_body(json!({ "table": table }).to_string()));
}

fn runtime(passed: Duration) -> String {
    let seconds = passed.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {} seconds ]", seconds % 60)
}
