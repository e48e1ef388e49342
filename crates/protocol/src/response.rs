//! Responses. Source: RocketMQ `ResponseCode` and the response header classes of `remoting`.

use crate::header::{Field, FieldSink, Fields, HeaderError, Str, read_field};
use crate::message::{IdText, UniqKey, id_text, push_offset_msg_id};
use crate::{LogOffset, QueueOffset};
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::SocketAddr;

/// Longest text of an answer, in bytes.
const REMARK_MAX: usize = 2_000;

/// The codes that we send. Source: RocketMQ `ResponseCode`, `RemotingSysResponseCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are RocketMQ's; docs/promise.md says what each means for a message")]
pub enum ResponseCode {
    Success = 0,
    SystemError = 1,
    SystemBusy = 2,
    RequestCodeNotSupported = 3,
    FlushDiskTimeout = 10,
    SlaveNotAvailable = 11,
    FlushSlaveTimeout = 12,
    MessageIllegal = 13,
    ServiceNotAvailable = 14,
    NoPermission = 16,
    TopicNotExist = 17,
    PullNotFound = 19,
    PullRetryImmediately = 20,
    PullOffsetMoved = 21,
    QueryNotFound = 22,
    SubscriptionParseFailed = 23,
    SubscriptionNotExist = 24,
    SubscriptionNotLatest = 25,
    SubscriptionGroupNotExist = 26,
    InvalidParameter = 29,
}

impl ResponseCode {
    /// The code for a number from the wire; `None` for one that we never send.
    pub fn from_wire(code: i32) -> Option<Self> {
        [
            Self::Success,
            Self::SystemError,
            Self::SystemBusy,
            Self::RequestCodeNotSupported,
            Self::FlushDiskTimeout,
            Self::SlaveNotAvailable,
            Self::FlushSlaveTimeout,
            Self::MessageIllegal,
            Self::ServiceNotAvailable,
            Self::NoPermission,
            Self::TopicNotExist,
            Self::PullNotFound,
            Self::PullRetryImmediately,
            Self::PullOffsetMoved,
            Self::QueryNotFound,
            Self::SubscriptionParseFailed,
            Self::SubscriptionNotExist,
            Self::SubscriptionNotLatest,
            Self::SubscriptionGroupNotExist,
            Self::InvalidParameter,
        ]
        .into_iter()
        .find(|known| *known as i32 == code)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// How it went, as on the wire: answers from others may carry codes that we do not know.
    pub code: i32,
    /// Text for people.
    pub remark: Option<Cow<'static, str>>,
    /// Fields.
    pub header: ResponseHeader,
    /// Body, in pieces that go out one behind the other.
    pub body: Body,
}

/// Body of a response: pieces, so that log bytes are sent from where they lie.
pub type Body = SmallVec<[Bytes; 1]>;

/// The fields of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseHeader {
    /// None.
    Empty,
    /// Of a send.
    Send(SendReply),
    /// Of a pull.
    Pull(PullReply),
    /// `offset`.
    Offset(i64),
    /// `timestamp`.
    Timestamp(i64),
    /// Anything else.
    Fields(Vec<(Cow<'static, str>, String)>),
    /// What was received.
    Received(ReceivedFields),
}

/// Fields of a response that has come in: names and values one behind the other in one text, so that an answer to a send
/// costs one allocation and not a dozen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedFields {
    text: String,
    /// Where each name and each value ends, by turns. A frame is shorter than 4 GiB.
    ends: SmallVec<[u32; 16]>,
}

/// Header of the answer to a send. Source: RocketMQ `SendMessageResponseHeader`.
///
/// `msgId` on the wire is made from `store_host` and `positions` when the answer is written.
#[derive(Clone, Debug, PartialEq)]
pub struct SendReply {
    /// Address that clients find the message under.
    pub store_host: SocketAddr,
    /// Where the message, or each item of a batch, lies in the log.
    pub positions: SmallVec<[LogOffset; 1]>,
    /// The queue.
    pub queue_id: u32,
    /// Offset of the (first) message in its queue.
    pub queue_offset: QueueOffset,
    /// `UNIQ_KEY` of the (first) message.
    pub transaction_id: UniqKey,
    /// `MSG_REGION`; RocketMQ's default is `DefaultRegion`.
    pub region: Cow<'static, str>,
}

/// Header of the answer to a pull. Source: RocketMQ `PullMessageResponseHeader`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullReply {
    /// Broker id to pull from next time; 0 is the master.
    pub suggest_broker: i64,
    /// Offset to go on from.
    pub next: QueueOffset,
    /// Lowest offset of the queue.
    pub min: QueueOffset,
    /// Offset behind the highest that may be seen.
    pub max: QueueOffset,
}

impl Response {
    /// A code alone.
    pub fn new(code: ResponseCode) -> Self {
        Self { code: code as i32, remark: None, header: ResponseHeader::Empty, body: Body::new() }
    }

    /// Success.
    pub fn ok() -> Self {
        Self::new(ResponseCode::Success)
    }

    /// A code with the reason. A long one is cut: it may name what was sent, and an answer is no echo.
    pub fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Self {
        let mut remark = remark.into();
        if remark.len() > REMARK_MAX {
            let end = remark.floor_char_boundary(REMARK_MAX);
            remark = format!("{}…", &remark[..end]).into();
        }
        Self { remark: Some(remark), ..Self::new(code) }
    }

    /// With these fields.
    #[must_use]
    pub fn with_header(self, header: ResponseHeader) -> Self {
        Self { header, ..self }
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body.push(body.into());
        self
    }

    /// Whether the code is SUCCESS.
    pub fn is_ok(&self) -> bool {
        self.code == ResponseCode::Success as i32
    }

    /// Reads one field of a received response.
    pub fn field<'s, T: Field<'s>>(&'s self, name: &'static str) -> Result<T, HeaderError> {
        let text = match &self.header {
            // Of several the last holds, as everywhere.
            ResponseHeader::Fields(fields) => {
                fields.iter().rev().find(|(known, _)| known == name).map(|(_, value)| Str::Borrowed(value.as_str()))
            }
            ResponseHeader::Received(fields) => fields.last(name).map(Str::Borrowed),
            header => {
                let mut wanted = Wanted { name, value: None };
                header.write(&mut wanted);
                wanted.value.map(Str::Owned)
            }
        };
        match text {
            Some(text) => read_field(name, &text),
            None => T::absent().ok_or(HeaderError::Missing(name)),
        }
    }

    /// A received response, with all fields it came with.
    pub fn read(frame: &crate::frame::Frame<'_>) -> Self {
        let mut response = Self {
            code: frame.code,
            remark: frame.remark.as_ref().map(|remark| Cow::Owned(remark.to_string())),
            header: ResponseHeader::Received(ReceivedFields::new(&frame.fields)),
            body: Body::new(),
        };
        if !frame.body.is_empty() {
            response.body.push(Bytes::copy_from_slice(frame.body));
        }
        response
    }
}

impl ResponseHeader {
    /// Writes the fields.
    pub fn write(&self, sink: &mut impl FieldSink) {
        match self {
            Self::Empty => {}
            Self::Send(send) => send.write(sink),
            Self::Pull(pull) => {
                sink.number("suggestWhichBrokerId", pull.suggest_broker);
                sink.number("nextBeginOffset", pull.next.wire());
                sink.number("minOffset", pull.min.wire());
                sink.number("maxOffset", pull.max.wire());
            }
            Self::Offset(offset) => sink.number("offset", *offset),
            Self::Timestamp(timestamp) => sink.number("timestamp", *timestamp),
            Self::Fields(fields) => fields.iter().for_each(|(name, value)| sink.text(name, value)),
            Self::Received(fields) => fields.iter().for_each(|(name, value)| sink.text(name, value)),
        }
    }
}

impl SendReply {
    fn write(&self, sink: &mut impl FieldSink) {
        let mut id = IdText::new();
        for (item, at) in self.positions.iter().enumerate() {
            if item > 0 {
                id.push(b',');
            }
            push_offset_msg_id(&mut id, self.store_host, *at);
        }
        sink.text("msgId", id_text(&id));
        sink.number("queueId", i64::from(self.queue_id));
        sink.number("queueOffset", self.queue_offset.wire());
        sink.text("transactionId", self.transaction_id.as_str());
        sink.text("MSG_REGION", &self.region);
        // Go does not trace when this is missing, Java does.
        sink.text("TRACE_ON", "true");
    }
}

/// Keeps the one field that is asked for.
struct Wanted {
    name: &'static str,
    value: Option<String>,
}

impl FieldSink for Wanted {
    fn text(&mut self, name: &str, value: &str) {
        if name == self.name {
            self.value = Some(value.to_owned());
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        if name == self.name {
            self.value = Some(value.to_string());
        }
    }
}

impl ReceivedFields {
    fn new(fields: &Fields<'_>) -> Self {
        let mut received = Self::default();
        received.text.reserve_exact(fields.iter().map(|(name, value)| name.len() + value.len()).sum());
        for text in fields.iter().flat_map(|(name, value)| [name, value]) {
            received.text.push_str(text);
            received.ends.push(u32::try_from(received.text.len()).expect("a frame is shorter than 4 GiB"));
        }
        received
    }

    /// Name and value of each, as they came.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        (0..self.ends.len() / 2).map(|field| (self.piece(2 * field), self.piece(2 * field + 1)))
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn piece(&self, which: usize) -> &str {
        let begin = which.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin as usize..self.ends[which] as usize]
    }
}
