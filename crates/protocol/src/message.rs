//! What is inside a message: properties, tags, keys, flags. Source: RocketMQ `MessageDecoder`, `MessageConst`, `MessageSysFlag`.

use std::fmt;

/// Separates a property's name from its value.
pub const NAME_END: u8 = 1;
/// Ends a property.
pub const VALUE_END: u8 = 2;

/// Names of properties that the broker reads or writes.
pub mod property {
    /// Space-separated keys.
    pub const KEYS: &str = "KEYS";
    /// The tag.
    pub const TAGS: &str = "TAGS";
    /// Delay level.
    pub const DELAY: &str = "DELAY";
    /// The client's id of the message.
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    /// `false`: the producer does not wait for disk and copies.
    pub const WAIT: &str = "WAIT";
    /// `true`: a half message.
    pub const TRAN_MSG: &str = "TRAN_MSG";
    /// Absolute due time, milliseconds.
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    /// Delay, milliseconds.
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    /// Delay, seconds.
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    /// Receipt of a pop; clients may not send it.
    pub const POP_CK: &str = "POP_CK";
    /// Items of an inner batch.
    pub const INNER_NUM: &str = "INNER_NUM";
    /// Region of the broker.
    pub const MSG_REGION: &str = "MSG_REGION";
    /// Whether sends are traced.
    pub const TRACE_ON: &str = "TRACE_ON";
    /// The broker's cluster.
    pub const CLUSTER: &str = "CLUSTER";
    /// CRC over the whole record, always last.
    pub const CRC32: &str = "__CRC32#";
    /// Ours: on the first record of a batch, how many records belong together.
    pub const BATCH: &str = "__BATCHN#";
}

/// Bits of a message's `sysFlag`.
pub mod sys_flag {
    /// The body is compressed.
    pub const COMPRESSED: i32 = 1;
    /// Mask of the transaction type.
    pub const TRANSACTION_MASK: i32 = 0xC;
    /// Half message.
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    /// The producer's address is IPv6.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The broker's address is IPv6.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// Inner batch.
    pub const INNER_BATCH: i32 = 0x80;
}

/// The value of `name` in a property string; `None` when absent or empty. The last of several wins, as in RocketMQ.
pub fn find<'p>(properties: &'p str, name: &str) -> Option<&'p str> {
    let _ = (properties, name);
    todo!()
}

/// All pairs of a property string, in order. Entries without a name or a value are dropped, as RocketMQ drops them.
pub fn pairs(properties: &str) -> impl Iterator<Item = (&str, &str)> {
    let _ = properties;
    std::iter::empty()
}

/// Appends one property.
pub fn push(properties: &mut String, name: &str, value: &str) {
    properties.push_str(name);
    properties.push(NAME_END as char);
    properties.push_str(value);
    properties.push(VALUE_END as char);
}

/// Java's `String.hashCode` of a tag, as RocketMQ keeps it in a queue entry: over UTF-16 code units.
pub fn tag_hash(tag: &str) -> i32 {
    tag.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// A message's UNIQ_KEY. Nearly always 32 hexadecimal digits; then it needs no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum UniqKey {
    /// 32 bytes of ASCII.
    Usual([u8; 32]),
    /// Anything else a client may send.
    Other(Box<str>),
}

impl UniqKey {
    /// Keeps `text`.
    pub fn new(text: &str) -> Self {
        match <[u8; 32]>::try_from(text.as_bytes()) {
            Ok(digits) if text.is_ascii() => Self::Usual(digits),
            _ => Self::Other(text.into()),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Usual(digits) => std::str::from_utf8(digits).expect("`new` keeps ASCII only"),
            Self::Other(text) => text,
        }
    }
}

impl fmt::Debug for UniqKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One item of a SEND_BATCH_MESSAGE body.
///
/// ```text
///  size: u32 │ magic: u32 │ crc: u32 │ flag: i32 │ len: u32, body │ len: u16, properties
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'b> {
    /// The user's own.
    pub flag: i32,
    /// The body.
    pub body: &'b [u8],
    /// Its property string.
    pub properties: &'b str,
}

/// Why a batch body is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A length reaches beyond the body.
    #[error("item {item} of the batch is cut short: it says {says} bytes and {left} are left")]
    Short {
        /// Counted from 0.
        item: usize,
        /// What the length says.
        says: i64,
        /// What is left.
        left: usize,
    },
    /// Properties that are no text.
    #[error("the properties of item {item} of the batch are not UTF-8")]
    Text {
        /// Counted from 0.
        item: usize,
    },
    /// Too many of them.
    #[error("the batch has more than {max} messages")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// Reads a batch body.
pub fn batch(body: &[u8], max: usize) -> Result<Vec<BatchItem<'_>>, BatchError> {
    let _ = (body, max);
    todo!()
}

/// Appends one item to a batch body.
pub fn push_batch_item(out: &mut Vec<u8>, item: &BatchItem<'_>) {
    let _ = (out, item);
    todo!()
}

/// Message id that encodes where a message lies. Source: RocketMQ `MessageDecoder.createMessageId`.
pub fn offset_msg_id(host: std::net::SocketAddr, at: crate::LogOffset) -> String {
    let _ = (host, at);
    todo!()
}
