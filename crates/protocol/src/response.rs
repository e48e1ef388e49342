//! Responses. Source: RocketMQ `ResponseCode` and the response header classes of `remoting`.

use crate::header::{Field, FieldSink, Fields, HeaderError};
use crate::message::UniqKey;
use crate::{LogOffset, QueueOffset};
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::SocketAddr;

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
        let _ = code;
        todo!()
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
    /// Anything else, and what was received.
    Fields(Vec<(Cow<'static, str>, String)>),
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

    /// A code with the reason.
    pub fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { remark: Some(remark.into()), ..Self::new(code) }
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
        let _ = name;
        todo!()
    }

    /// A received response, with all fields it came with.
    pub fn read(frame: &crate::frame::Frame<'_>) -> Self {
        let _ = frame;
        todo!()
    }
}

impl ResponseHeader {
    /// Writes the fields.
    pub fn write(&self, sink: &mut impl FieldSink) {
        let _ = sink;
        todo!()
    }
}

/// Fields as they were received.
pub fn owned(fields: &Fields<'_>) -> Vec<(Cow<'static, str>, String)> {
    fields.iter().map(|(name, value)| (Cow::Owned(name.to_string()), value.to_string())).collect()
}
