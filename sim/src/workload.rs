//! Scripted clients: they send, pull, commit, ask and create, at the level of the protocol, and tell the books what they
//! were told.

use crate::checkers::{Books, Commit, QueueKey, Speaker};
use crate::desk::{Desk, Heard, Waiting};
use crate::host::{Directory, body_of};
use crate::net::{LinkId, Net, News};
use crate::register::Question;
use crate::stage::{Due, MILLI, NodeId, SECOND, Stage};
use crate::trace::Rare;
use keepmq_ledger::{Answer, Entry};
use keepmq_protocol::body::{ConsumerData, Heartbeat, ProducerData, Subscription};
use keepmq_protocol::message::{BatchItem, property, push, push_batch_item};
use keepmq_protocol::record::crc;
use keepmq_protocol::request::{
    ConsumerList, CreateTopic, DeleteTopic, EarliestTime, GroupStats, MaxOffset, MinOffset, Pull, QueryOffset,
    RouteInfo, SearchOffset, Send, SendHeader, SendVia, TopicStats, Unregister, UpdateOffset, ViewMessage,
};
use keepmq_protocol::{Request, Response, ResponseCode, Topic};

/// The topics of every universe: made by a client, made by a send, deleted and made again, seldom used.
pub(crate) const TOPICS: [&str; 4] = ["made", "auto", "gone", "rare"];
pub(crate) const DELETED: &str = "gone";
const SELDOM: &str = "rare";
/// Queues of each topic.
pub(crate) const QUEUES: u32 = 2;
/// Largest body that the brokers take.
pub(crate) const BODY_MAX: usize = 24 * 1024;
pub(crate) const PATIENCE: u64 = 15 * SECOND;
/// Every client reads as a group of its own.
const READERS: [&str; 6] = ["g0", "g1", "g2", "g3", "g4", "g5"];

/// What a client is lent.
pub(crate) struct Lent<'u> {
    pub(crate) stage: &'u mut Stage,
    pub(crate) net: &'u mut Net,
    pub(crate) books: &'u mut Books,
    pub(crate) directory: &'u Directory,
    pub(crate) shape: Shape,
}

/// Who there is, and how the clients behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) brokers: usize,
    pub(crate) name_servers: usize,
    pub(crate) clients: usize,
    pub(crate) body: u64,
    pub(crate) batch: u64,
    pub(crate) pause: u64,
    pub(crate) rest: u64,
    /// Requests of one client that may wait for an answer.
    pub(crate) window: usize,
    /// How often members of groups send heartbeats, and after what silence brokers forget them.
    pub(crate) beat_every: u64,
    pub(crate) client_timeout: u64,
    /// When everything was well again.
    pub(crate) healed_at: Option<u64>,
}

pub(crate) struct Client {
    pub(crate) node: NodeId,
    index: usize,
    desk: Desk<Ask>,
    /// Messages still to be sent.
    sends: u32,
    /// It rests when no more than so many are left.
    rests_at: Option<u32>,
    sent: u64,
    /// A message was refused as too much, and none was taken since.
    refused: bool,
    /// Topics that it still has to create.
    creates: Vec<(usize, &'static str)>,
    pub(crate) readers: Vec<Reader>,
}

enum Ask {
    Send(Parcel),
    Pull { reader: usize, from: u64, held: Option<u64>, commit: Option<Commit> },
    Query { reader: usize },
    Commit(Commit),
    Create { topic: &'static str },
    Delete(Vec<Commit>),
    Other,
}

/// A message or a batch on its way.
struct Parcel {
    items: Vec<(u64, Vec<u8>)>,
    queue: Option<u32>,
    topic: &'static str,
    via: SendVia,
    properties: String,
    /// `UNIQ_KEY` of the first.
    key: String,
    tries: u32,
    oneway: bool,
}

/// A consumer of one queue.
pub(crate) struct Reader {
    pub(crate) broker: usize,
    pub(crate) queue: QueueKey,
    group: &'static str,
    filter: Option<&'static str>,
    /// The next offset wanted; `None`: must be asked for.
    pub(crate) at: Option<u64>,
    busy: bool,
    not_before: u64,
}

impl Client {
    pub(crate) fn new(node: NodeId, index: usize, shape: Shape, sends: u32) -> Self {
        let mut creates = Vec::new();
        let mut readers = Vec::new();
        for broker in 0..shape.brokers {
            if index == 0 {
                creates.extend([(broker, TOPICS[0]), (broker, DELETED), (broker, SELDOM)]);
            }
            for (nth, topic) in TOPICS.iter().enumerate() {
                let mine = (0..QUEUES).filter(|queue| (nth + *queue as usize) % shape.clients == index);
                readers.extend(mine.map(|queue| Reader::new(broker, (*topic, queue), READERS[index], None)));
            }
            if index == 1 {
                readers.push(Reader::new(broker, (TOPICS[0], 0), "filtering", Some("red || blue")));
            }
        }
        Self {
            node,
            index,
            desk: Desk::new(node),
            sends,
            rests_at: (shape.rest > 0).then_some(sends / 3),
            sent: 0,
            refused: false,
            creates,
            readers,
        }
    }

    /// Whether everything that it wanted to send has an answer.
    pub(crate) fn has_sent(&self) -> bool {
        self.sends == 0 && !self.desk.waiting().any(|ask| matches!(ask, Ask::Send(_)))
    }

    /// Does one thing, and comes back after a pause.
    pub(crate) fn act(&mut self, lent: &mut Lent<'_>) {
        if self.rests_at == Some(self.sends) {
            self.rests_at = None;
            let rest = lent.shape.rest;
            return lent.stage.after(rest, Due::Client { node: self.node });
        }
        let longest = if self.sends > 0 { lent.shape.pause } else { 400 * MILLI };
        let pause = lent.stage.delay(MILLI, longest);
        lent.stage.after(pause, Due::Client { node: self.node });
        self.read(lent);
        if self.desk.waiting().len() >= lent.shape.window {
            return;
        }
        let broker = lent.stage.chance.below(lent.shape.brokers as u64) as usize;
        match lent.stage.chance.below(24) {
            0 => self.heartbeat(lent, broker),
            1 => self.look(lent, broker),
            2 if !self.creates.is_empty() => {
                let (broker, topic) = self.creates.swap_remove(0);
                self.create(lent, broker, topic);
            }
            3 if self.index == 1 && lent.shape.healed_at.is_none() && lent.stage.chance.one_in(6) => {
                lent.books.deleted.insert(DELETED);
                let request = Request::DeleteTopic(DeleteTopic { topic: DELETED.into(), cluster: None });
                let (link, _) = self.ask(lent, broker, &request, Ask::Other);
                *self.desk.last_mut() = Ask::Delete(lent.books.deleting(broker, DELETED, link, lent.stage.now));
            }
            _ if self.sends > 0 => {
                self.sends -= 1;
                let parcel = self.parcel(lent);
                self.send(lent, broker, parcel);
            }
            _ => {}
        }
    }

    fn create(&mut self, lent: &mut Lent<'_>, broker: usize, topic: &'static str) {
        let request = Request::CreateTopic(CreateTopic {
            topic: topic.into(),
            default_topic: Some("TBW102".into()),
            read_queues: QUEUES as i32,
            write_queues: QUEUES as i32,
            perm: 6,
            filter_type: Some("SINGLE_TAG".into()),
            sys_flag: Some(0),
            order: false,
            attributes: None,
        });
        self.ask(lent, broker, &request, Ask::Create { topic });
    }

    fn heartbeat(&mut self, lent: &mut Lent<'_>, broker: usize) {
        let subscription = |topic: &str, expression: &str| Subscription {
            topic: topic.to_owned(),
            sub_string: Some(expression.to_owned()),
            expression_type: Some("TAG".to_owned()),
            sub_version: 1,
            ..Subscription::default()
        };
        let group = |name: String, subscriptions| ConsumerData {
            group_name: name,
            consume_type: Some("CONSUME_PASSIVELY".to_owned()),
            message_model: Some("CLUSTERING".to_owned()),
            consume_from_where: Some("CONSUME_FROM_FIRST_OFFSET".to_owned()),
            subscription_data_set: subscriptions,
            unit_mode: false,
        };
        let all = |_| TOPICS.iter().map(|topic| subscription(topic, "*")).collect::<Vec<_>>();
        let heartbeat = Heartbeat {
            client_id: format!("client-{}", self.index),
            consumer_data_set: vec![
                group(READERS[self.index].to_owned(), all(())),
                group("shared".to_owned(), all(())),
            ],
            producer_data_set: vec![ProducerData { group_name: "producers".to_owned() }],
            ..Heartbeat::default()
        };
        self.ask(lent, broker, &Request::Heartbeat(Box::new(heartbeat)), Ask::Other);
    }

    /// Asks something whose answer is only checked for being one.
    fn look(&mut self, lent: &mut Lent<'_>, broker: usize) {
        let topic = *lent.stage.chance.pick(&TOPICS);
        let queue_id = lent.stage.chance.below(u64::from(QUEUES)) as i32;
        let wall = lent.stage.clocks(0).wall.0;
        let request = match lent.stage.chance.below(16) {
            0 => Request::MaxOffset(MaxOffset { topic: topic.into(), queue_id, committed: Some(true) }),
            1 => Request::MinOffset(MinOffset { topic: topic.into(), queue_id }),
            2 => Request::EarliestTime(EarliestTime { topic: topic.into(), queue_id }),
            3 => {
                let timestamp = wall - lent.stage.chance.below(10_000) as i64;
                Request::SearchOffset(SearchOffset { topic: topic.into(), queue_id, timestamp, boundary: None })
            }
            4 => {
                let offset = lent.stage.chance.below(200_000) as i64;
                Request::ViewMessage(ViewMessage { topic: Some(topic.into()), offset })
            }
            5 => Request::TopicStats(TopicStats { topic: topic.into() }),
            6 => Request::ConsumerList(ConsumerList { group: "shared".into() }),
            7 => Request::AllTopics,
            8 => Request::AllGroups,
            9 => Request::RuntimeInfo,
            10 => Request::Unsupported { code: 999 },
            11 => Request::GroupStats(GroupStats { group: "shared".into(), topic: None }),
            12 => Request::BrokerConfig,
            13 => {
                let consumer_group = Some("shared".into());
                let client_id = format!("client-{}", self.index).into();
                Request::Unregister(Unregister { client_id, producer_group: None, consumer_group })
            }
            _ => {
                let nth = lent.stage.chance.below(lent.shape.name_servers as u64) as usize;
                let route = Request::RouteInfo(RouteInfo { topic: topic.into(), standard_json: Some(true) });
                self.ask(lent, lent.shape.brokers + nth, &route, Ask::Other);
                return;
            }
        };
        self.ask(lent, broker, &request, Ask::Other);
    }

    /// A new message or batch, written down before it goes out.
    fn parcel(&mut self, lent: &mut Lent<'_>) -> Parcel {
        let chance = &mut lent.stage.chance;
        let topic = match chance.below(16) {
            0 => DELETED,
            1..=5 => "auto",
            6 if chance.one_in(2) => SELDOM,
            _ => "made",
        };
        let via = match chance.below(6) {
            0 => SendVia::Batch,
            1..=3 if lent.shape.batch > 10 => SendVia::Batch,
            1 | 2 => SendVia::V1,
            _ => SendVia::V2,
        };
        let count = if via == SendVia::Batch { 2 + chance.below(lent.shape.batch - 1) } else { 1 };
        let mut items = Vec::new();
        for _ in 0..count {
            self.sent += 1;
            let id = (self.index as u64 + 1) << 32 | self.sent;
            let len = match chance.below(60) {
                0 => chance.below(BODY_MAX as u64 - 8),
                1 if count == 1 => BODY_MAX as u64 + 1,
                _ => chance.below(lent.shape.body).min(chance.below(lent.shape.body)),
            };
            let len = if count > 1 { len.min(BODY_MAX as u64 / count - 200) } else { len };
            let mut body = id.to_be_bytes().to_vec();
            let fill = (id as u8).wrapping_mul(31);
            body.extend((0..len).map(|nth| fill.wrapping_add(nth as u8)));
            items.push((id, body));
        }
        let key = format!("{:032X}", items[0].0);
        let mut properties = String::new();
        if via != SendVia::Batch {
            push(&mut properties, property::UNIQ_KEY, &key);
            if chance.one_in(2) {
                let tag = chance.pick(&["red", "green", "blue"]);
                push(&mut properties, property::TAGS, tag);
            }
            match chance.below(40) {
                0 => push(&mut properties, property::DELAY, "3"),
                1 => push(&mut properties, property::TRAN_MSG, "true"),
                2..=5 => push(&mut properties, property::WAIT, "false"),
                _ => {}
            }
        }
        let queue = (!chance.one_in(4)).then(|| chance.below(u64::from(QUEUES)) as u32);
        let oneway = via != SendVia::Batch && chance.one_in(12);
        for (id, body) in &items {
            let topic = Topic::new(topic).expect("the workload's topics are legal");
            lent.books.note(lent.stage, Entry::Attempted { id: *id, topic, checksum: crc(body) });
        }
        Parcel { items, queue, topic, via, properties, key, tries: 0, oneway }
    }

    fn send(&mut self, lent: &mut Lent<'_>, broker: usize, parcel: Parcel) {
        let mut batch = Vec::new();
        if parcel.via == SendVia::Batch {
            for (id, body) in &parcel.items {
                let mut properties = String::new();
                push(&mut properties, property::UNIQ_KEY, &format!("{id:032X}"));
                push_batch_item(&mut batch, &BatchItem { flag: 0, body, properties: &properties });
            }
        }
        let header = SendHeader {
            producer_group: "producers".into(),
            topic: parcel.topic.into(),
            default_topic: "TBW102".into(),
            default_topic_queues: QUEUES as i32,
            queue_id: parcel.queue.map_or(-1, |queue| queue as i32),
            sys_flag: if parcel.properties.contains("TRAN_MSG") { 4 } else { 0 },
            born_at: lent.stage.clocks(0).wall.0,
            flag: 7,
            properties: Some(parcel.properties.clone().into()),
            reconsume_times: Some(0),
            unit_mode: false,
            max_reconsume_times: None,
            batch: parcel.via == SendVia::Batch,
            broker_name: None,
        };
        let body = if parcel.via == SendVia::Batch { batch } else { parcel.items[0].1.clone() };
        let request = Request::Send(Send { via: parcel.via, header, body: (&body[..]).into() });
        if parcel.oneway {
            self.desk.tell(lent, broker, &request);
            self.unknown(lent, &parcel);
        } else {
            self.ask(lent, broker, &request, Ask::Send(parcel));
        }
    }

    fn unknown(&mut self, lent: &mut Lent<'_>, parcel: &Parcel) {
        for (id, _) in &parcel.items {
            lent.books.note(lent.stage, Entry::Answered { id: *id, answer: Answer::Unknown });
        }
    }

    /// Every reader that is free asks for its offset or for messages.
    fn read(&mut self, lent: &mut Lent<'_>) {
        for nth in 0..self.readers.len() {
            let now = lent.stage.now;
            let reader = &mut self.readers[nth];
            if reader.busy || now < reader.not_before || self.desk.waiting().len() >= lent.shape.window {
                continue;
            }
            // As after a rebalance: whoever gets the queue asks where the group is.
            if reader.filter.is_none() && lent.stage.chance.one_in(40) {
                reader.at = None;
            }
            reader.busy = true;
            let ((topic, queue), broker) = (reader.queue, reader.broker);
            let (group, queue_id) = (reader.group, queue as i32);
            let Some(from) = reader.at else {
                // Of a topic that may be deleted it must be clear whether there is an offset.
                let zero_if_not_found = Some(topic != DELETED && lent.stage.chance.one_in(2));
                let (group, topic) = (group.into(), topic.into());
                let request = Request::QueryOffset(QueryOffset { group, topic, queue_id, zero_if_not_found });
                self.ask(lent, broker, &request, Ask::Query { reader: nth });
                continue;
            };
            let held = lent.stage.chance.one_in(2).then(|| MILLI * (100 + lent.stage.chance.below(3_000)));
            let commits = reader.filter.is_none() && from > 0 && lent.stage.chance.one_in(6);
            let request = Request::Pull(Pull {
                group: group.into(),
                topic: topic.into(),
                queue_id,
                offset: from as i64,
                max_messages: 1 + lent.stage.chance.below(32) as i32,
                sys_flag: i32::from(commits) | if held.is_some() { 2 } else { 0 } | 4,
                commit_offset: if commits { from as i64 } else { 0 },
                suspend_ms: held.map_or(0, |held| (held / MILLI) as i64),
                subscription: Some(reader.filter.unwrap_or("*").into()),
                sub_version: 0,
                expression_type: Some("TAG".into()),
                max_bytes: None,
            });
            let asked = self.ask(lent, broker, &request, Ask::Other);
            let place = (broker, group, (topic, queue));
            let commit = commits.then(|| lent.books.commit(place, from as i64, asked, false, now));
            *self.desk.last_mut() = Ask::Pull { reader: nth, from, held, commit };
        }
    }

    fn ask(&mut self, lent: &mut Lent<'_>, broker: usize, request: &Request<'_>, ask: Ask) -> (LinkId, i32) {
        self.desk.ask(lent, broker, request, ask, PATIENCE)
    }

    /// No answer in time: the connection is no good, and whatever else waits on it is given up as well.
    pub(crate) fn late(&mut self, lent: &mut Lent<'_>, opaque: i32) {
        let Some(waiting) = self.desk.late(lent, opaque) else { return };
        let others = self.desk.close(lent, waiting.link);
        [waiting].into_iter().chain(others).for_each(|waiting| self.unanswered(lent, waiting));
    }

    pub(crate) fn arrived(&mut self, lent: &mut Lent<'_>, link: LinkId, news: News) {
        match news {
            News::Frame { bytes, by, .. } => match self.desk.frame(lent, link, by, &bytes) {
                Some(Heard::Answer(waiting, by, response)) => self.answered(lent, waiting, by, &response),
                Some(Heard::Told(40)) => lent.stage.happened(Rare::ClientsTold),
                Some(Heard::Told(other)) => lent.stage.blame("codec", format!("a broker pushes {other}")),
                None => {}
            },
            News::DialledClosed { .. } => {
                let over = self.desk.lost(link);
                over.into_iter().for_each(|waiting| self.unanswered(lent, waiting));
            }
            News::Opened { .. } | News::ClosedByPeer => unreachable!("nobody dials a client"),
        }
    }

    fn unanswered(&mut self, lent: &mut Lent<'_>, waiting: Waiting<Ask>) {
        match waiting.ask {
            Ask::Send(mut parcel) => {
                // The same message again, over a new connection; or it is given up, and nobody knows.
                if parcel.tries < 2 && lent.stage.chance.one_in(2) {
                    parcel.tries += 1;
                    self.send(lent, waiting.to, parcel);
                } else {
                    self.unknown(lent, &parcel);
                }
            }
            Ask::Pull { reader, .. } | Ask::Query { reader, .. } => self.free(lent, reader, 50 * MILLI),
            Ask::Create { topic } => self.creates.push((waiting.to, topic)),
            Ask::Commit(_) | Ask::Delete(_) | Ask::Other => {}
        }
    }

    fn free(&mut self, lent: &mut Lent<'_>, reader: usize, pause: u64) {
        self.readers[reader].busy = false;
        self.readers[reader].not_before = lent.stage.now + lent.stage.delay(0, pause);
    }

    fn answered(&mut self, lent: &mut Lent<'_>, waiting: Waiting<Ask>, by: Speaker, response: &Response) {
        let (Waiting { ask, link, to: broker, since }, now) = (waiting, lent.stage.now);
        let code = ResponseCode::from_wire(response.code);
        match ask {
            Ask::Send(parcel) => self.send_answered(lent, by, &parcel, response),
            Ask::Pull { reader, from, held, commit } => {
                if let Some(commit) = commit {
                    lent.books.pull_committed(by, commit, code, now);
                }
                self.pull_answered(lent, by, reader, from, response);
                let waited = now - since;
                match (held, code) {
                    (Some(_), Some(ResponseCode::Success)) if waited > 60 * MILLI => {
                        lent.stage.happened(Rare::LongPollWoken);
                    }
                    (Some(held), Some(ResponseCode::PullNotFound)) if waited >= held => {
                        lent.stage.happened(Rare::LongPollTimedOut);
                    }
                    _ => {}
                }
            }
            Ask::Query { reader } => {
                let question = Question { link, since, life: by.life };
                self.query_answered(lent, question, reader, response);
            }
            Ask::Commit(commit) => lent.books.commit_answered(by, commit, code, now),
            Ask::Create { topic } => match code {
                Some(ResponseCode::Success) if topic == DELETED && lent.books.deleted.contains(DELETED) => {
                    lent.stage.happened(Rare::TopicCreatedAgain);
                }
                Some(ResponseCode::Success) => {}
                _ => self.creates.push((broker, topic)),
            },
            Ask::Delete(gone) => {
                for commit in gone {
                    lent.books.commit_answered(by, commit, code, now);
                }
                if code == Some(ResponseCode::Success) {
                    lent.stage.happened(Rare::TopicDeleted);
                    if !lent.stage.chance.one_in(3) {
                        self.creates.push((broker, DELETED));
                    }
                }
            }
            Ask::Other => {}
        }
    }

    fn send_answered(&mut self, lent: &mut Lent<'_>, by: Speaker, parcel: &Parcel, response: &Response) {
        let stage = &mut *lent.stage;
        match ResponseCode::from_wire(response.code) {
            Some(code @ (ResponseCode::Success | ResponseCode::FlushDiskTimeout)) => {
                let Some(place) = place(response) else {
                    return stage.blame("right-answer", format!("an answer to a send says no place: {response:?}"));
                };
                let wrong_queue = place.queue >= QUEUES || parcel.queue.is_some_and(|queue| queue != place.queue);
                if wrong_queue || place.key != parcel.key || place.positions.len() != parcel.items.len() {
                    let (key, queue) = (&parcel.key, parcel.queue);
                    stage.blame("right-answer", format!("message {key} to queue {queue:?} is answered with {place:?}"));
                    return;
                }
                let places = (place.offset..).zip(place.positions);
                for ((id, _), (offset, at)) in parcel.items.iter().zip(places) {
                    let queue = (parcel.topic, place.queue);
                    match code {
                        ResponseCode::Success => lent.books.kept(stage, by, queue, offset, at, *id),
                        // An earlier try may have another place.
                        _ if parcel.tries > 0 => {
                            lent.books.note(stage, Entry::Answered { id: *id, answer: Answer::Unknown });
                        }
                        _ => lent.books.timed_out(stage, by, queue, offset, *id),
                    }
                }
                if code == ResponseCode::Success && std::mem::take(&mut self.refused) {
                    stage.happened(Rare::TakenAgain);
                }
                if parcel.via == SendVia::Batch && code == ResponseCode::Success {
                    stage.happened(Rare::BatchKept);
                }
            }
            Some(
                code @ (ResponseCode::SystemBusy
                | ResponseCode::ServiceNotAvailable
                | ResponseCode::MessageIllegal
                | ResponseCode::NoPermission
                | ResponseCode::TopicNotExist
                | ResponseCode::SystemError),
            ) => {
                if code == ResponseCode::SystemBusy {
                    stage.happened(Rare::BusyRefused);
                    self.refused = true;
                }
                for (id, _) in &parcel.items {
                    // An earlier try may have been kept.
                    let answer =
                        if parcel.tries == 0 { Answer::Refused { code: code as i32 } } else { Answer::Unknown };
                    lent.books.note(stage, Entry::Answered { id: *id, answer });
                }
            }
            _ => stage.blame("right-answer", format!("a send is answered with {response:?}")),
        }
    }

    fn pull_answered(&mut self, lent: &mut Lent<'_>, by: Speaker, nth: usize, from: u64, response: &Response) {
        let reader = &mut self.readers[nth];
        let stage = &mut *lent.stage;
        let next = response.field::<i64>("nextBeginOffset").ok().and_then(|next| u64::try_from(next).ok());
        let mut pause = SECOND;
        match ResponseCode::from_wire(response.code) {
            Some(ResponseCode::Success) => {
                let bytes = body_of(response);
                let filtered = reader.filter.is_some();
                let after = lent.books.pulled(stage, by, reader.queue, from, filtered, &bytes);
                if next.is_none_or(|next| if filtered { next < after } else { next != after }) {
                    stage.blame(
                        "order",
                        format!("a pull from {from} gave messages up to {after} and says to go on at {next:?}"),
                    );
                }
                reader.at = next;
                pause = 20 * MILLI;
                if !filtered && stage.chance.one_in(2) {
                    self.commit(lent, nth, after as i64);
                }
            }
            Some(ResponseCode::PullOffsetMoved) => {
                stage.happened(Rare::OffsetMoved);
                reader.at = next;
            }
            Some(ResponseCode::PullRetryImmediately) => {
                if reader.filter.is_none() && next != Some(from) {
                    stage.blame("order", format!("a pull without a filter skips from {from} to {next:?}"));
                }
                reader.at = next.or(reader.at);
            }
            Some(ResponseCode::PullNotFound) => {}
            // A topic or a group that does not exist yet, a broker that stops, bytes that have gone bad.
            _ => pause = SECOND,
        }
        self.free(lent, nth, pause);
    }

    fn commit(&mut self, lent: &mut Lent<'_>, nth: usize, offset: i64) {
        let Reader { broker, queue: (topic, queue), group, .. } = self.readers[nth];
        let (place, now) = ((broker, group, (topic, queue)), lent.stage.now);
        let (group, topic) = (group.into(), topic.into());
        let request =
            Request::UpdateOffset(UpdateOffset { group, topic, queue_id: queue as i32, offset, if_absent: None });
        if lent.stage.chance.one_in(4) {
            let told = self.desk.tell(lent, broker, &request);
            lent.books.commit(place, offset, told, true, now);
        } else {
            let asked = self.ask(lent, broker, &request, Ask::Other);
            *self.desk.last_mut() = Ask::Commit(lent.books.commit(place, offset, asked, false, now));
        }
    }

    fn query_answered(&mut self, lent: &mut Lent<'_>, by: Question, nth: usize, response: &Response) {
        let Reader { broker, queue, group, .. } = self.readers[nth];
        let found = match ResponseCode::from_wire(response.code) {
            Some(ResponseCode::Success) => response.field::<i64>("offset").ok(),
            Some(ResponseCode::QueryNotFound) => None,
            _ => return self.free(lent, nth, 100 * MILLI),
        };
        // Without an offset it may be told to begin at the beginning.
        let checked = found.filter(|offset| *offset != 0 || queue.0 == DELETED);
        lent.books.check_offset(lent.stage, (broker, group, queue), checked, by);
        self.readers[nth].at = Some(found.unwrap_or_default() as u64);
        self.free(lent, nth, 100 * MILLI);
    }
}

impl Reader {
    fn new(broker: usize, queue: QueueKey, group: &'static str, filter: Option<&'static str>) -> Self {
        // A filtering reader has no offsets to come back to; it begins at the beginning.
        let at = filter.map(|_| 0);
        Self { broker, queue, group, filter, at, busy: false, not_before: 0 }
    }
}

/// Where an answer to a send says that the message is.
#[derive(Debug)]
pub(crate) struct Place {
    queue: u32,
    offset: u64,
    positions: Vec<u64>,
    key: String,
}

fn place(response: &Response) -> Option<Place> {
    let ids: String = response.field::<std::borrow::Cow<'_, str>>("msgId").ok()?.into_owned();
    let position = |id: &str| u64::from_str_radix(id.get(id.len().checked_sub(16)?..)?, 16).ok();
    Some(Place {
        queue: u32::try_from(response.field::<i32>("queueId").ok()?).ok()?,
        offset: u64::try_from(response.field::<i64>("queueOffset").ok()?).ok()?,
        positions: ids.split(',').map(position).collect::<Option<_>>()?,
        key: response.field::<std::borrow::Cow<'_, str>>("transactionId").ok()?.into_owned(),
    })
}
