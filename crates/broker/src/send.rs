use crate::config::BrokerConfig;
use crate::counters::Traffic;
use crate::cx::{Checked, Cx, busy, not_appended, refuse};
use crate::groups;
use crate::pending::{Busy, Stake};
use crate::topics::{is_closed_to_clients, is_own};
use keepmq_protocol::body::{TopicConfig, perm};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::message::{BatchItem, UniqKey, batch, pairs, property, push, sys_flag};
use keepmq_protocol::record::{Draft, PROPERTIES_MAX, crc};
use keepmq_protocol::request::{Send, SendHeader};
use keepmq_protocol::response::{ResponseHeader, SendReply};
use keepmq_protocol::{QueueOffset, RETRY_PREFIX, Response, ResponseCode, Topic};
use keepmq_store::{AppendError, Appended, Disk, MetaRecord};
use keepmq_world::{Chance, Timestamp};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// Most messages of a batch.
const MAX_BATCH: usize = 10_000;
/// Of a message of a topic with several tags a message. Source: RocketMQ `MessageSysFlag.MULTI_TAGS_FLAG`.
const MULTI_TAGS: i32 = 0x2;
/// Of an inner batch: the client is to unpack it. Source: RocketMQ `MessageSysFlag.NEED_UNWRAP_FLAG`.
const NEED_UNWRAP: i32 = 0x40;
/// First version whose clients say how often a message may be retried. Source: RocketMQ `MQVersion.V3_4_9`.
const SAYS_MAX_RECONSUME: i32 = 121;

/// Sends: check, place, append. `Pending` waits for the disk.
pub(crate) struct Sending {
    chance: Chance,
    keys: UniqKeys,
    /// What every record gets: region, trace, cluster.
    added: String,
    region: Cow<'static, str>,
    /// Room for a property string that must be rewritten, and for `added` with a key: nearly never used, never given back.
    rewritten: String,
    added_with_key: String,
}

/// Where a message goes.
struct Target {
    queue_id: u32,
    sys_flag: i32,
    /// The topic must be made first.
    new: Option<TopicConfig>,
    /// Its place in the table of topics; of a new one, the last.
    place: Option<usize>,
}

impl Sending {
    pub(crate) fn new(config: &BrokerConfig, mut chance: Chance) -> Self {
        let mut added = String::new();
        push(&mut added, property::MSG_REGION, &config.region);
        push(&mut added, property::TRACE_ON, "true");
        push(&mut added, property::CLUSTER, &config.cluster);
        let region = match config.region.as_str() {
            // Then an answer needs no allocation.
            "DefaultRegion" => Cow::Borrowed("DefaultRegion"),
            other => Cow::Owned(other.to_owned()),
        };
        let keys = UniqKeys::new(config.address.ip(), &mut chance);
        Self { chance, keys, added, region, rewritten: String::new(), added_with_key: String::new() }
    }

    /// SEND_MESSAGE 10, SEND_MESSAGE_V2 310, SEND_BATCH_MESSAGE 320. `peer`: who sends.
    pub(crate) fn on_request<D: Disk>(&mut self, from: Caller, send: &Send<'_>, peer: SocketAddr, cx: &mut Cx<D>) {
        if let Err(refusal) = self.take(from, send, peer, cx) {
            cx.counters.refused(refusal.code);
            cx.reply(from, *refusal);
        }
    }

    fn take<D: Disk>(&mut self, from: Caller, send: &Send<'_>, peer: SocketAddr, cx: &mut Cx<D>) -> Checked<()> {
        if let Some(why) = cx.pending.busy(cx.now.mono) {
            let counts = &mut cx.counters.counts;
            match why {
                Busy::Stalled { .. } => counts.busy_stalled += 1,
                Busy::Many { .. } => counts.busy_waiting += 1,
            }
            return Err(busy(&why));
        }
        check_body(&send.body, cx.config.max_message_bytes)?;
        if send.header.batch {
            return self.take_batch(from, send, peer, cx);
        }
        let header = &send.header;
        let sent = header.properties.as_deref().unwrap_or_default();
        let seen = Seen::in_properties(sent);
        seen.check(header.sys_flag)?;
        let target = self.target(&from, header, peer, cx)?;

        let properties = if seen.rewrite {
            rewrite(sent, &mut self.rewritten);
            self.rewritten.as_str()
        } else {
            sent
        };
        let (key, added) = match seen.key {
            Some(key) => (UniqKey::new(key), self.added.as_str()),
            None => {
                let key = self.keys.next(cx.now.wall);
                self.added_with_key.clear();
                push(&mut self.added_with_key, property::UNIQ_KEY, key.as_str());
                self.added_with_key.push_str(&self.added);
                (key, self.added_with_key.as_str())
            }
        };
        let draft = draft(header, &target, &send.body, properties, added, peer, cx.config.address);
        check_properties(&draft)?;
        make_topic(target.new.as_ref(), cx)?;
        let appended = if keepmq_world::planted!("ack-without-writing") {
            let (at, view) = (cx.store.appended(), cx.store.queue(&header.topic, target.queue_id));
            Appended { at, end: at, queue_offset: view.map_or(QueueOffset(0), |view| view.max) }
        } else {
            cx.store.append(&draft, cx.now).map_err(|error| refused(&error, cx))?
        };
        if keepmq_world::planted!("refusal-after-append")
            && let Some(why) = cx.pending.busy(cx.now.mono + cx.config.live.flush_timeout)
        {
            return Err(busy(&why));
        }
        count(&target, std::iter::once(send.body.len()), cx);
        self.answer(from, &target, key, std::slice::from_ref(&appended), seen.wait, cx);
        Ok(())
    }

    fn take_batch<D: Disk>(&mut self, from: Caller, send: &Send<'_>, peer: SocketAddr, cx: &mut Cx<D>) -> Checked<()> {
        let header = &send.header;
        // The envelope's properties are the client's own notes (WAIT, an id of the batch); each message has its own.
        let envelope = Seen::in_properties(header.properties.as_deref().unwrap_or_default());
        envelope.check(header.sys_flag)?;
        if header.topic.starts_with(RETRY_PREFIX) {
            return Err(illegal("a batch cannot be sent to a retry topic: send the messages one by one"));
        }
        let items = batch(&send.body, MAX_BATCH).map_err(|error| illegal(&error.to_string()))?;
        let mut parts = Vec::with_capacity(items.len());
        for item in &items {
            parts.push(self.item_parts(item, cx.now.wall)?);
        }
        let target = self.target(&from, header, peer, cx)?;
        let mut drafts = Vec::with_capacity(items.len());
        for (item, (_, properties, added)) in items.iter().zip(&parts) {
            let draft = Draft {
                flag: item.flag,
                ..draft(header, &target, item.body, properties, added, peer, cx.config.address)
            };
            check_properties(&draft)?;
            drafts.push(draft);
        }
        make_topic(target.new.as_ref(), cx)?;
        let appended = cx.store.append_batch(&drafts, cx.now).map_err(|error| refused(&error, cx))?;
        count(&target, items.iter().map(|item| item.body.len()), cx);
        let (key, ..) = parts.swap_remove(0);
        self.answer(from, &target, key, &appended, envelope.wait, cx);
        Ok(())
    }

    /// Key, properties and what is added to them, of one message of a batch.
    fn item_parts<'b>(&mut self, item: &BatchItem<'b>, wall: Timestamp) -> Checked<(UniqKey, Cow<'b, str>, String)> {
        let seen = Seen::in_properties(item.properties);
        seen.check(0)?;
        let properties = if seen.rewrite {
            let mut rewritten = String::new();
            rewrite(item.properties, &mut rewritten);
            Cow::Owned(rewritten)
        } else {
            Cow::Borrowed(item.properties)
        };
        let mut added = String::with_capacity(self.added.len());
        let key = match seen.key {
            Some(key) => UniqKey::new(key),
            None => {
                let key = self.keys.next(wall);
                push(&mut added, property::UNIQ_KEY, key.as_str());
                key
            }
        };
        added.push_str(&self.added);
        Ok((key, properties, added))
    }

    /// The checks that topic, queue and group must pass, in RocketMQ's order. Changes nothing but the groups.
    fn target<D: Disk>(
        &mut self,
        from: &Caller,
        header: &SendHeader<'_>,
        peer: SocketAddr,
        cx: &mut Cx<D>,
    ) -> Checked<Target> {
        let topic = &*header.topic;
        let forbidden =
            || refuse(ResponseCode::NoPermission, format!("Sending message to topic[{topic}] is forbidden."));
        Topic::check(topic).map_err(|error| refuse(ResponseCode::InvalidParameter, error.to_string()))?;
        if is_own(topic) || is_closed_to_clients(topic) {
            return Err(forbidden());
        }
        let (place, known) = cx.tables.topics.place(topic).unzip();
        let new = match known {
            Some(_) => None,
            None => {
                let (default, queues) = (&*header.default_topic, header.default_topic_queues);
                let made = cx.tables.topics.inherit(topic, default, queues, header.unit_mode, cx.config.max_topics);
                Some(made.map_err(|why| refuse(ResponseCode::TopicNotExist, why))?)
            }
        };
        let config = known.or(new.as_ref()).expect("what is not known is made");
        if config.perm & perm::WRITE == 0 {
            let text = format!("the topic[{topic}] sending message is forbidden: its permission is {}", config.perm);
            return Err(refuse(ResponseCode::NoPermission, text));
        }
        // As RocketMQ: on other topics producers are served until they have seen the route, so that a drain costs no message.
        if config.order && cx.config.live.permission & perm::WRITE == 0 {
            let ip = cx.config.address.ip();
            let text = format!("the broker[{ip}] sending message to an ordered topic is forbidden (brokerPermission)");
            return Err(refuse(ResponseCode::NoPermission, text));
        }
        let queues = config.write_queue_nums.max(config.read_queue_nums);
        let queue_id = match u32::try_from(header.queue_id) {
            Ok(queue_id) => Some(queue_id).filter(|queue_id| *queue_id < queues),
            Err(_) if config.write_queue_nums == 0 => None,
            Err(_) => u32::try_from(self.chance.below(config.write_queue_nums.into())).ok(),
        };
        let queue_id = queue_id.ok_or_else(|| {
            let (queue_id, read, write) = (header.queue_id, config.read_queue_nums, config.write_queue_nums);
            refuse(
                ResponseCode::InvalidParameter,
                format!(
                    "request queueId[{queue_id}] is illegal, TopicConfig [topicName={topic}, readQueueNums={read}, \
                     writeQueueNums={write}] Producer: {peer}"
                ),
            )
        })?;
        let multi_tags = if config.topic_filter_type == "MULTI_TAG" { MULTI_TAGS } else { 0 };
        if let Some(group) = topic.strip_prefix(RETRY_PREFIX) {
            check_retry(from, header, group, cx)?;
        }
        Ok(Target { queue_id, sys_flag: header.sys_flag | multi_tags, new, place })
    }

    fn answer<D: Disk>(
        &self,
        from: Caller,
        target: &Target,
        key: UniqKey,
        appended: &[Appended],
        wait: bool,
        cx: &mut Cx<D>,
    ) {
        let (first, last) = (appended.first(), appended.last());
        let (first, last) = first.zip(last).expect("a batch without messages is refused before");
        let response = Response::ok().with_header(ResponseHeader::Send(SendReply {
            store_host: cx.config.address,
            positions: appended.iter().map(|appended| appended.at).collect(),
            queue_id: target.queue_id,
            queue_offset: first.queue_offset,
            transaction_id: key,
            region: self.region.clone(),
        }));
        if !wait && (cx.config.allow_client_relax || keepmq_world::planted!("wait-false-honoured")) {
            cx.counters.counts.sends_relaxed += u64::from(!from.oneway);
            cx.reply(from, response);
        } else {
            cx.reply_after(from, last.end, Stake::Wrote, response);
        }
    }
}

fn refused<D: Disk>(error: &AppendError, cx: &mut Cx<D>) -> Box<Response> {
    cx.counters.counts.not_appended(error);
    not_appended(error)
}

fn illegal(why: &str) -> Box<Response> {
    refuse(ResponseCode::MessageIllegal, format!("the message is illegal: {why}"))
}

fn check_body(body: &[u8], max: usize) -> Checked<()> {
    match body.len() {
        0 => Err(illegal("its body is empty")),
        len if len > max => Err(illegal(&format!("its body has {len} bytes, the limit is {max} (maxMessageSize)"))),
        _ => Ok(()),
    }
}

fn check_properties(draft: &Draft<'_>) -> Checked<()> {
    match draft.properties_size() {
        size if size > PROPERTIES_MAX => {
            Err(not_appended(&AppendError::Properties { bytes: size, max: PROPERTIES_MAX }))
        }
        _ => Ok(()),
    }
}

/// A retry topic belongs to a group, and a message that failed too often does not belong into it any more.
fn check_retry<D: Disk>(from: &Caller, header: &SendHeader<'_>, group: &str, cx: &mut Cx<D>) -> Checked<()> {
    groups::ensure(group, cx)?;
    let retry_max = cx.tables.groups.get(group).map_or(0, |config| config.retry_max_times);
    let max = match header.max_reconsume_times {
        Some(max) if from.version >= SAYS_MAX_RECONSUME => max,
        _ => retry_max,
    };
    match header.reconsume_times {
        Some(times) if times > max => {
            Err(illegal(&format!("it failed {times} times of {max}, and dead-letter topics are not supported yet")))
        }
        _ => Ok(()),
    }
}

/// The message is fully checked: now its topic may be made. By the log's order, what keeps the message keeps the topic.
fn make_topic<D: Disk>(new: Option<&TopicConfig>, cx: &mut Cx<D>) -> Checked<()> {
    match new {
        Some(config) => match cx.record(&MetaRecord::Topic(config.clone())) {
            Ok(_) => Ok(()),
            Err(error) => Err(not_appended(&error)),
        },
        None => Ok(()),
    }
}

/// Counts bodies that were appended.
fn count<D: Disk>(target: &Target, bodies: impl Iterator<Item = usize>, cx: &mut Cx<D>) {
    let mut traffic = Traffic::default();
    for bytes in bodies {
        cx.counters.message(bytes);
        traffic.add(Traffic { messages: 1, bytes: bytes as u64 });
    }
    if !cx.tables.topics.count(target.place, traffic) {
        cx.counters.counts.others.add(traffic);
    }
}

fn draft<'d>(
    header: &'d SendHeader<'_>,
    target: &Target,
    body: &'d [u8],
    properties: &'d str,
    added: &'d str,
    peer: SocketAddr,
    store_host: SocketAddr,
) -> Draft<'d> {
    Draft {
        topic: &header.topic,
        queue_id: target.queue_id,
        flag: header.flag,
        sys_flag: target.sys_flag,
        born_at: header.born_at,
        born_host: peer,
        store_host,
        reconsume_times: header.reconsume_times.unwrap_or_default(),
        prepared: 0,
        body,
        body_crc: crc(body),
        properties,
        added,
    }
}

/// What matters to us in a property string, found in one pass.
struct Seen<'p> {
    key: Option<&'p str>,
    /// It holds what clients may not send, or what we add ourselves.
    rewrite: bool,
    delayed: Option<&'p str>,
    half: bool,
    inner_batch: bool,
    wait: bool,
}

/// Properties that are taken out: those that only a broker may set, and those that it is about to add.
const NOT_KEPT: [&str; 6] =
    [property::POP_CK, property::CRC32, property::BATCH, property::MSG_REGION, property::TRACE_ON, property::CLUSTER];

impl<'p> Seen<'p> {
    fn in_properties(properties: &'p str) -> Self {
        let mut seen = Self { key: None, rewrite: false, delayed: None, half: false, inner_batch: false, wait: true };
        for (name, value) in pairs(properties) {
            match name {
                property::UNIQ_KEY => seen.key = Some(value),
                property::WAIT => seen.wait = !value.eq_ignore_ascii_case("false"),
                property::DELAY => {
                    // Level 0 and below is no delay.
                    seen.delayed = (!value.parse::<i32>().is_ok_and(|level| level <= 0)).then_some(property::DELAY);
                }
                property::TIMER_DELIVER_MS | property::TIMER_DELAY_MS | property::TIMER_DELAY_SEC => {
                    seen.delayed = Some(name);
                }
                property::TRAN_MSG => seen.half = value.eq_ignore_ascii_case("true"),
                property::INNER_NUM => seen.inner_batch = true,
                _ => seen.rewrite |= NOT_KEPT.contains(&name),
            }
        }
        seen
    }

    /// Refuses what is not built yet, rather than deliver it wrongly, and what no client may send.
    fn check(&self, flags: i32) -> Checked<()> {
        if self.half || flags & sys_flag::TRANSACTION_MASK != 0 {
            return Err(refuse(
                ResponseCode::NoPermission,
                "the broker sending transaction message is forbidden: transactions are not supported yet",
            ));
        }
        if let Some(name) = self.delayed {
            return Err(illegal(&format!("it is to be delayed ({name}), which is not supported yet: send it later")));
        }
        if self.inner_batch || flags & (sys_flag::INNER_BATCH | NEED_UNWRAP) != 0 {
            return Err(illegal(
                "inner batches (INNER_NUM) are for topics of queue.type=BatchCQ, which are not supported yet",
            ));
        }
        Ok(())
    }
}

fn rewrite(properties: &str, into: &mut String) {
    into.clear();
    for (name, value) in pairs(properties).filter(|(name, _)| !NOT_KEPT.contains(name)) {
        push(into, name, value);
    }
}

/// Makes ids for messages that came without one, in RocketMQ's shape, so that tools can read their time:
/// address (4 bytes), process (2), loader (4), milliseconds since the month began (4), counter (2), in hexadecimal digits.
/// Source: RocketMQ `MessageClientIDSetter`.
struct UniqKeys {
    prefix: String,
    counter: u16,
}

impl UniqKeys {
    fn new(address: IpAddr, chance: &mut Chance) -> Self {
        let address = match address {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => *ip.octets().last_chunk().expect("it has 16 bytes"),
        };
        let mut prefix: String = address.iter().map(|byte| format!("{byte:02X}")).collect();
        // In the place of process and loader: drawn anew at every start, so that ids of two lives differ.
        prefix.push_str(&format!("{:012X}", chance.word() >> 16));
        Self { prefix, counter: 0 }
    }

    fn next(&mut self, wall: Timestamp) -> UniqKey {
        self.counter = self.counter.wrapping_add(1);
        UniqKey::new(&format!("{}{:08X}{:04X}", self.prefix, since_month_began(wall), self.counter))
    }
}

/// Milliseconds since the first of the month (UTC).
fn since_month_began(wall: Timestamp) -> u32 {
    const DAY: i64 = 86_400_000;
    // Days from 0000-03-01, in a calendar whose years begin in March: then the length of a month follows a formula.
    let day = (wall.0.div_euclid(DAY) + 719_468).rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    u32::try_from(day_of_month * DAY + wall.0.rem_euclid(DAY)).expect("a month has less than 2^32 milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_begins_on_its_first_day() {
        const DAY: u32 = 86_400_000;
        for (wall, passed) in [
            (0, 0),
            (1_704_067_199_999, 31 * DAY - 1), // 2023-12-31T23:59:59.999
            (1_704_067_200_000, 0),            // 2024-01-01
            (1_709_164_800_000, 28 * DAY),     // 2024-02-29
            (1_709_251_200_123, 123),          // 2024-03-01
        ] {
            assert_eq!(since_month_began(Timestamp(wall)), passed, "{wall}");
        }
    }

    #[test]
    fn what_clients_may_not_send_is_taken_out_and_the_rest_stays() {
        let sent = "a\u{1}1\u{2}POP_CK\u{1}x\u{2}MSG_REGION\u{1}y\u{2}TAGS\u{1}t\u{2}__CRC32#\u{1}0\u{2}";
        assert!(Seen::in_properties(sent).rewrite);
        let mut kept = String::new();
        rewrite(sent, &mut kept);
        assert_eq!(kept, "a\u{1}1\u{2}TAGS\u{1}t\u{2}");
        assert!(!Seen::in_properties(&kept).rewrite);
    }
}
