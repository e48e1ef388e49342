//! A blocking client that speaks frames, several requests in flight if wanted.

use anyhow::{Context, Result, bail, ensure};
use keepmq_protocol::body::{ConsumerData, Heartbeat, QueueLocks, QueueName, Subscription, SubscriptionGroup};
use keepmq_protocol::frame::{self, FRAME_MAX, Form};
use keepmq_protocol::header::Str;
use keepmq_protocol::message::{self, property};
use keepmq_protocol::record::{self, Found};
use keepmq_protocol::request::{
    CreateTopic, MaxOffset, MinOffset, Pull, QueryOffset, Send, SendHeader, SendVia, UpdateOffset,
};
use keepmq_protocol::{LogOffset, QueueOffset, Request, Response, ResponseCode};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest wait for an answer; longer than the broker's own `syncFlushTimeout`.
pub const ANSWER: Duration = Duration::from_secs(20);
/// Longest that a good client may wait while others misbehave: generous, as two cores are shared by all of them. (A send that
/// waits 5 s for the disk has no outcome any more, which nobody may see either.)
pub const LATE: Duration = Duration::from_secs(10);
/// Longest that a broker may be busy: a slow disk takes half a minute for what strangers have it write.
const BUSY: Duration = Duration::from_secs(60);
/// Most bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes of `incoming` that were answered with already.
    taken: usize,
    opaque: i32,
    /// Requests that the broker has sent us.
    pushed: u64,
}

/// A message that a pull found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where in its queue.
    pub offset: QueueOffset,
    /// Where in the log.
    pub position: LogOffset,
    /// The body.
    pub body: Vec<u8>,
    /// The property string.
    pub properties: String,
}

/// The answer to a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The code on the wire.
    pub code: i32,
    /// The text with it.
    pub remark: Option<String>,
    /// Offset to go on from.
    pub next: i64,
    /// Lowest offset.
    pub min: i64,
    /// Offset behind the highest.
    pub max: i64,
    /// What was found.
    pub messages: Vec<Message>,
}

/// What an accepted send was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The queue.
    pub queue: u32,
    /// Where in it.
    pub offset: QueueOffset,
    /// Where in the log.
    pub position: LogOffset,
}

impl Client {
    /// Connects.
    pub fn connect(addr: SocketAddr) -> Result<Self> {
        Self::connect_within(addr, ANSWER)
    }

    /// As [`Client::connect`], with another limit for connecting and for each read and write.
    pub fn connect_within(addr: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, patience).with_context(|| format!("cannot reach {addr}"))?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.set_read_timeout(Some(patience)).context("cannot set a time limit")?;
        stream.set_write_timeout(Some(patience)).context("cannot set a time limit")?;
        Ok(Self { stream, outgoing: Vec::new(), incoming: Vec::new(), taken: 0, opaque: 0, pushed: 0 })
    }

    /// Prepares a request; [`Client::flush`] sends it. Answers its number.
    pub fn post(&mut self, request: &Request<'_>) -> i32 {
        self.opaque += 1;
        frame::write_request(&mut self.outgoing, self.opaque, Form::Json, false, request);
        self.opaque
    }

    /// As [`Client::post`], and nobody will answer.
    pub fn post_oneway(&mut self, request: &Request<'_>) {
        self.opaque += 1;
        frame::write_request(&mut self.outgoing, self.opaque, Form::Json, true, request);
    }

    /// Sends what was prepared.
    pub fn flush(&mut self) -> Result<()> {
        let sent = self.stream.write_all(&self.outgoing).context("cannot send");
        self.outgoing.clear();
        sent
    }

    /// Waits no longer than this for an answer.
    pub fn patience(&mut self, patience: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(patience)).context("cannot set a time limit")
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    /// The next response, and the number of the request it answers. `None`: the other side has closed the connection.
    pub fn receive(&mut self) -> Result<Option<(i32, Response)>> {
        loop {
            if let Some(response) = self.received()? {
                return Ok(Some(response));
            }
            if self.fill().context("no answer")? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let len = self.incoming.len();
        self.incoming.resize(len + CHUNK, 0);
        let read = self.stream.read(&mut self.incoming[len..]);
        self.incoming.truncate(len + read.as_ref().copied().unwrap_or(0));
        read
    }

    /// From now on, [`Client::exchange`] is the way to send and to hear, and nothing waits.
    pub fn never_wait(&mut self) -> Result<()> {
        self.stream.set_nonblocking(true).context("cannot make a socket nonblocking")
    }

    /// Sends of what was prepared, and takes in of what has come, as much as goes at once. Answers how many bytes went each way.
    pub fn exchange(&mut self) -> Result<(usize, usize)> {
        let at_once = |moved: io::Result<usize>| match moved {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            moved => moved.map(Some),
        };
        let sent = match self.outgoing.is_empty() {
            true => 0,
            false => at_once(self.stream.write(&self.outgoing)).context("cannot send")?.unwrap_or(0),
        };
        self.outgoing.drain(..sent);
        let heard = at_once(self.fill()).context("no answer")?;
        ensure!(heard != Some(0), "the other side has closed the connection");
        Ok((sent, heard.unwrap_or(0)))
    }

    /// Bytes that were prepared and are not sent.
    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// The next response that has come in whole already.
    pub fn received(&mut self) -> Result<Option<(i32, Response)>> {
        while let Some(raw) = frame::cut(&self.incoming[self.taken..], FRAME_MAX)? {
            let read = frame::read(&raw)?;
            let response = read.is_response().then(|| (read.opaque, Response::read(&read)));
            self.taken += raw.size;
            match response {
                Some(response) => return Ok(Some(response)),
                None => self.pushed += 1,
            }
        }
        self.incoming.drain(..self.taken);
        self.taken = 0;
        Ok(None)
    }

    /// Asks one thing and waits for its answer. Nothing else may be in flight.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Response> {
        let asked = self.post(request);
        self.flush()?;
        let (answered, response) = self.receive()?.context("the connection was closed instead of an answer")?;
        ensure!(asked == answered, "request {asked} was answered as {answered}");
        Ok(response)
    }

    /// As [`Client::ask`]; anything but SUCCESS is an error. SYSTEM_BUSY promises that nothing was stored and asks to come
    /// again: so it is asked again, for a while.
    pub fn must(&mut self, request: &Request<'_>) -> Result<Response> {
        let end = Instant::now() + BUSY;
        let mut response = self.ask(request)?;
        while response.code == ResponseCode::SystemBusy as i32 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            response = self.ask(request)?;
        }
        if !response.is_ok() {
            bail!("request {} was refused with {}: {:?}", request.code(), response.code, response.remark);
        }
        Ok(response)
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, topic: &str, queues: i32) -> Result<()> {
        self.must(&create_topic(topic, queues)).map(drop)
    }

    /// Creates a consumer group.
    pub fn create_group(&mut self, group: &str) -> Result<()> {
        let group = SubscriptionGroup { group_name: group.to_owned(), ..SubscriptionGroup::default() };
        self.must(&Request::CreateGroup(Box::new(group))).map(drop)
    }

    /// Sends one message and waits; any code but SEND_OK is an error.
    pub fn send(&mut self, topic: &str, queue: i32, body: &[u8]) -> Result<Sent> {
        let properties = unique_key(0);
        let places = sent(&self.must(&send_request(topic, queue, body, &properties))?)?;
        places.first().copied().context("an answer without a message id")
    }

    /// Pulls once, without waiting.
    pub fn pull(&mut self, topic: &str, queue: i32, offset: i64) -> Result<Pulled> {
        self.pull_with(topic, queue, offset, "*", Duration::ZERO)
    }

    /// Pulls once what passes `tags`, and lets the broker wait for it.
    pub fn pull_with(&mut self, topic: &str, queue: i32, offset: i64, tags: &str, wait: Duration) -> Result<Pulled> {
        let response = self.ask(&pull_request(topic, queue, offset, tags, wait))?;
        let number = |name| response.field::<Option<i64>>(name).map(|found| found.unwrap_or(-1));
        let body: Vec<u8> = response.body.iter().flat_map(|piece| piece.iter().copied()).collect();
        let (next, min, max) = (number("nextBeginOffset")?, number("minOffset")?, number("maxOffset")?);
        let messages = messages(&body).with_context(|| format!("{topic} queue {queue} from {offset} on"))?;
        let remark = response.remark.map(String::from);
        Ok(Pulled { code: response.code, remark, next, min, max, messages })
    }

    /// Everything in a queue, from its lowest offset on. In a topic that is not there, there is nothing.
    pub fn read_queue(&mut self, topic: &str, queue: i32) -> Result<Vec<Message>> {
        let mut all = Vec::new();
        self.read_through(topic, queue, |found| {
            all.extend(found);
            Ok(())
        })?;
        Ok(all)
    }

    /// As [`Client::read_queue`], without holding all of it at once.
    pub fn read_through(
        &mut self,
        topic: &str,
        queue: i32,
        each: impl FnMut(Vec<Message>) -> Result<()>,
    ) -> Result<()> {
        if self.pull(topic, queue, 0)?.code == ResponseCode::TopicNotExist as i32 {
            return Ok(());
        }
        let min = self.min_offset(topic, queue)?;
        self.read_from(topic, queue, min, each)
    }

    /// As [`Client::read_through`], from an offset on.
    pub fn read_from(
        &mut self,
        topic: &str,
        queue: i32,
        mut at: i64,
        mut each: impl FnMut(Vec<Message>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let pulled = self.pull(topic, queue, at)?;
            match pulled.code {
                0 => ensure!(pulled.next > at, "{topic} queue {queue}: a pull at {at} goes on at {}", pulled.next),
                19 if pulled.max == at => return Ok(()),
                code => bail!("{topic} queue {queue}: a pull at {at} was answered with {code} ({pulled:?})"),
            }
            at = pulled.next;
            each(pulled.messages)?;
        }
    }

    /// A queue's lowest offset.
    pub fn min_offset(&mut self, topic: &str, queue: i32) -> Result<i64> {
        Ok(self.must(&Request::MinOffset(MinOffset { topic: topic.into(), queue_id: queue }))?.field("offset")?)
    }

    /// The offset behind a queue's highest.
    pub fn max_offset(&mut self, topic: &str, queue: i32) -> Result<i64> {
        let asked = MaxOffset { topic: topic.into(), queue_id: queue, committed: None };
        Ok(self.must(&Request::MaxOffset(asked))?.field("offset")?)
    }

    /// Commits a group's offset, and waits for the answer.
    pub fn commit(&mut self, group: &str, topic: &str, queue: i32, offset: i64) -> Result<()> {
        let commit =
            UpdateOffset { group: group.into(), topic: topic.into(), queue_id: queue, offset, if_absent: None };
        self.must(&Request::UpdateOffset(commit)).map(drop)
    }

    /// A group's offset; -1 when it has none.
    pub fn committed(&mut self, group: &str, topic: &str, queue: i32) -> Result<i64> {
        let asked =
            QueryOffset { group: group.into(), topic: topic.into(), queue_id: queue, zero_if_not_found: Some(false) };
        let response = self.ask(&Request::QueryOffset(asked))?;
        match response.code {
            0 => Ok(response.field("offset")?),
            code if code == ResponseCode::QueryNotFound as i32 => Ok(-1),
            code => bail!("{group}'s offset in {topic}: {code}, {:?}", response.remark),
        }
    }

    /// Says that this client is a member of a group that wants all of a topic.
    pub fn heartbeat(&mut self, client: &str, group: &str, topic: &str) -> Result<()> {
        self.must(&heartbeat_request(client, group, topic)).map(drop)
    }

    /// Requests that the broker has sent so far.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Gives up the memory that nothing waits in: there are thousands of us.
    pub fn shrink(&mut self) {
        self.incoming.shrink_to_fit();
        self.outgoing.shrink_to_fit();
    }
}

/// A pull. The filter stands in its header; it waits for messages when `wait` is not zero.
pub fn pull_request<'b>(topic: &'b str, queue: i32, offset: i64, tags: &'b str, wait: Duration) -> Request<'b> {
    Request::Pull(Pull {
        group: "proving".into(),
        topic: topic.into(),
        queue_id: queue,
        offset,
        max_messages: 1024,
        sys_flag: if wait.is_zero() { 4 } else { 6 },
        commit_offset: 0,
        suspend_ms: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
        subscription: Some(tags.into()),
        sub_version: 0,
        expression_type: None,
        max_bytes: None,
    })
}

/// The heartbeat of a member of one group that wants all of one topic.
pub fn heartbeat_request(client: &str, group: &str, topic: &str) -> Request<'static> {
    let wants = Subscription { topic: topic.to_owned(), sub_string: Some("*".to_owned()), ..Subscription::default() };
    let consumer =
        ConsumerData { group_name: group.to_owned(), subscription_data_set: vec![wants], ..ConsumerData::default() };
    let beat = Heartbeat { client_id: client.to_owned(), consumer_data_set: vec![consumer], ..Heartbeat::default() };
    Request::Heartbeat(Box::new(beat))
}

/// Asks for the lock of one queue; answers whether it was given.
pub fn lock_queues(
    client: &mut Client,
    id: &str,
    group: &str,
    topic: &str,
    broker: &str,
    queue_id: i32,
) -> Result<bool> {
    let queue = QueueName { broker_name: broker.to_owned(), queue_id, topic: topic.to_owned() };
    let locks = QueueLocks {
        client_id: id.to_owned(),
        consumer_group: group.to_owned(),
        mq_set: vec![queue],
        only_this_broker: false,
    };
    let response = client.must(&Request::LockQueues(Box::new(locks)))?;
    let body: Vec<u8> = response.body.iter().flat_map(|piece| piece.iter().copied()).collect();
    let given: serde_json::Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
    let given = given["lockOKMQSet"].as_array().context("the answer names no locks")?;
    Ok(!given.is_empty())
}

/// The creation of a topic.
pub fn create_topic(topic: &str, queues: i32) -> Request<'_> {
    Request::CreateTopic(CreateTopic {
        topic: topic.into(),
        default_topic: Some("TBW102".into()),
        read_queues: queues,
        write_queues: queues,
        perm: 6,
        filter_type: Some("SINGLE_TAG".into()),
        sys_flag: Some(0),
        order: false,
        attributes: None,
    })
}

/// The property string of a message that only needs an id.
pub fn unique_key(id: u64) -> String {
    let mut properties = String::new();
    message::push(&mut properties, property::UNIQ_KEY, &format!("{id:032X}"));
    properties
}

/// A send to one queue.
pub fn send_request<'b>(topic: &'b str, queue: i32, body: &'b [u8], properties: &'b str) -> Request<'b> {
    Request::Send(Send { via: SendVia::V2, header: send_header(topic, queue, properties), body: body.into() })
}

/// A send of a half message: the first half of a transaction.
pub fn half_request<'b>(topic: &'b str, queue: i32, body: &'b [u8], properties: &'b str) -> Request<'b> {
    // `MessageSysFlag.TRANSACTION_PREPARED_TYPE`.
    let header = SendHeader { sys_flag: 0x4, ..send_header(topic, queue, properties) };
    Request::Send(Send { via: SendVia::V2, header, body: body.into() })
}

/// A send of several messages to one queue; `body` holds the items.
pub fn batch_request<'b>(topic: &'b str, queue: i32, body: &'b [u8]) -> Request<'b> {
    let header = SendHeader { batch: true, ..send_header(topic, queue, "") };
    Request::Send(Send { via: SendVia::Batch, header, body: body.into() })
}

fn send_header<'b>(topic: &'b str, queue: i32, properties: &'b str) -> SendHeader<'b> {
    SendHeader {
        producer_group: "proving".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queues: 4,
        queue_id: queue,
        sys_flag: 0,
        born_at: 1,
        flag: 0,
        properties: Some(Str::Borrowed(properties)),
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    }
}

/// The places that an accepted send was given: one, or one for each message of a batch.
pub fn sent(response: &Response) -> Result<Vec<Sent>> {
    let queue = u32::try_from(response.field::<i32>("queueId")?).context("a negative queue")?;
    let offset = u64::try_from(response.field::<i64>("queueOffset")?).context("a negative offset")?;
    let ids: Str<'_> = response.field("msgId")?;
    let position = |id: &str| {
        let digits = id.get(id.len().saturating_sub(16)..)?;
        u64::from_str_radix(digits, 16).ok().map(LogOffset)
    };
    let place = |(item, id)| {
        let position = position(id).with_context(|| format!("{id:?} is no message id"))?;
        Ok(Sent { queue, offset: QueueOffset(offset + item), position })
    };
    (0..).zip(ids.split(',')).map(place).collect()
}

/// The records of a pull's body, checked as they are on disk.
fn messages(body: &[u8]) -> Result<Vec<Message>> {
    let mut rest = body;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        // The position is part of what is checked on disk; here the record says it itself.
        let at = record::decode_unchecked(rest)?.at;
        let Found::Record(record) = record::decode(rest, at)? else { bail!("a blank in the answer to a pull") };
        rest = &rest[record.bytes.len()..];
        messages.push(Message {
            offset: record.queue_offset,
            position: record.at,
            body: record.body.to_vec(),
            properties: record.properties.to_owned(),
        });
    }
    Ok(messages)
}
