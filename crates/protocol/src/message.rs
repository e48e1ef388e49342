//! What is inside a message: properties, tags, keys, flags. Source: RocketMQ `MessageDecoder`, `MessageConst`, `MessageSysFlag`.

use crate::LogOffset;
use smallvec::SmallVec;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

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
    if name.is_empty() || name.as_bytes().contains(&NAME_END) {
        return None;
    }
    let mut rest = properties.as_bytes();
    loop {
        // From the end: the last of several counts, and what is asked for most often stands there.
        let begin = memchr::memrchr(VALUE_END, rest).map_or(0, |end| end + 1);
        let value = rest[begin..].strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(&[NAME_END]));
        if value.is_some_and(|value| !value.is_empty()) {
            // Cut at ASCII characters, behind a name that is text.
            return properties.get(begin + name.len() + 1..rest.len());
        }
        rest = rest.get(..begin.checked_sub(1)?)?;
    }
}

/// All pairs of a property string, in order. Entries without a name or a value are dropped, as RocketMQ drops them.
pub fn pairs(properties: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    properties
        .split(VALUE_END as char)
        .filter_map(|entry| entry.split_once(NAME_END as char))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
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

/// Bytes of a batch item besides body and properties.
const ITEM_FIXED: usize = 22;

/// Reads a batch body.
pub fn batch(body: &[u8], max: usize) -> Result<Vec<BatchItem<'_>>, BatchError> {
    let mut items = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let item = items.len();
        if item == max {
            return Err(BatchError::TooMany { max });
        }
        let size = signed(rest, 0).unwrap_or(ITEM_FIXED as i64);
        let short = |says, left| BatchError::Short { item, says, left };
        let (bytes, behind) =
            usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size)).ok_or(short(size, rest.len()))?;
        let room = bytes.len().checked_sub(ITEM_FIXED).ok_or(short(ITEM_FIXED as i64, bytes.len()))?;
        let fixed = |at| signed(bytes, at).expect("there is room for the fixed part");
        let body_len = fixed(16);
        let body_end = usize::try_from(body_len).ok().filter(|len| *len <= room).ok_or(short(body_len, room))? + 20;
        let properties_len = i16::from_be_bytes([bytes[body_end], bytes[body_end + 1]]);
        let properties = &bytes[body_end + 2..];
        if usize::try_from(properties_len) != Ok(properties.len()) {
            return Err(short(properties_len.into(), properties.len()));
        }
        items.push(BatchItem {
            flag: i32::try_from(fixed(12)).expect("read from 32 bits"),
            body: &bytes[20..body_end],
            properties: std::str::from_utf8(properties).map_err(|_| BatchError::Text { item })?,
        });
        rest = behind;
    }
    Ok(items)
}

fn signed(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().map(|four| i64::from(i32::from_be_bytes(*four)))
}

/// Appends one item to a batch body.
pub fn push_batch_item(out: &mut Vec<u8>, item: &BatchItem<'_>) {
    let size = i32::try_from(ITEM_FIXED + item.body.len() + item.properties.len()).expect("a message is below 2 GiB");
    let properties = i16::try_from(item.properties.len()).expect("properties are at most 32767 bytes");
    out.extend_from_slice(&size.to_be_bytes());
    // Magic and CRC: the broker sets its own.
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&item.flag.to_be_bytes());
    out.extend_from_slice(&(size - ITEM_FIXED as i32 - i32::from(properties)).to_be_bytes());
    out.extend_from_slice(item.body);
    out.extend_from_slice(&properties.to_be_bytes());
    out.extend_from_slice(item.properties.as_bytes());
}

/// Message id that encodes where a message lies. Source: RocketMQ `MessageDecoder.createMessageId`.
pub fn offset_msg_id(host: SocketAddr, at: LogOffset) -> String {
    let mut id = IdText::new();
    push_offset_msg_id(&mut id, host, at);
    id_text(&id).to_owned()
}

/// Offset ids being put together; one needs no allocation.
pub(crate) type IdText = SmallVec<[u8; 64]>;

/// What [`push_offset_msg_id`] wrote.
pub(crate) fn id_text(id: &IdText) -> &str {
    std::str::from_utf8(id).expect("hexadecimal digits and commas")
}

/// Appends an offset id: address, port and position in upper-case hexadecimal digits.
pub(crate) fn push_offset_msg_id(id: &mut IdText, host: SocketAddr, at: LogOffset) {
    let mut hex = |bytes: &[u8]| {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for byte in bytes {
            id.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    };
    match host.ip() {
        IpAddr::V4(ip) => hex(&ip.octets()),
        IpAddr::V6(ip) => hex(&ip.octets()),
    }
    hex(&u32::from(host.port()).to_be_bytes());
    hex(&at.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn property_strings_are_read_as_rocketmq_reads_them() {
        let of = |text: &str| pairs(text).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        assert_eq!(of("a\u{1}1\u{2}b\u{1}2\u{2}"), "a=1 b=2");
        assert_eq!(of("a\u{1}1\u{2}b\u{1}2"), "a=1 b=2", "the last separator may be missing");
        assert_eq!(of("\u{1}x\u{2}b\u{1}\u{2}c\u{2}\u{2}d\u{1}4"), "d=4", "no name, no value: no property");
        assert_eq!(of("a\u{1}b\u{1}c"), "a=b\u{1}c");
        assert_eq!(find("a\u{1}1\u{2}a\u{1}2\u{2}ab\u{1}3\u{2}", "a"), Some("2"), "the last wins");
        assert_eq!(find("a\u{1}\u{2}", "a"), None);
    }

    proptest! {
        #[test]
        fn a_property_is_found_as_all_are_read(text in "[ab\u{e4}\u{1}\u{2}]{0,24}", name in "[ab\u{e4}\u{1}]{0,3}") {
            let last = pairs(&text).rev().find(|(known, _)| *known == name).map(|(_, value)| value);
            prop_assert_eq!(find(&text, &name), last);
        }
    }

    #[test]
    fn known_hashes_and_ids() {
        assert_eq!(tag_hash("TagA"), 2_598_919);
        assert_eq!(tag_hash("TagB"), 2_598_920);
        let local = "127.0.0.1:10911".parse().unwrap();
        assert_eq!(offset_msg_id(local, LogOffset(0)), "7F00000100002A9F0000000000000000");
        let v6 = "[::1]:10911".parse().unwrap();
        assert_eq!(offset_msg_id(v6, LogOffset(0x1F)), "0000000000000000000000000000000100002A9F000000000000001F");
    }

    #[test]
    fn a_batch_comes_back_and_a_damaged_one_is_refused() {
        let items = [
            BatchItem { flag: -3, body: b"one", properties: "UNIQ_KEY\u{1}x\u{2}" },
            BatchItem { flag: 0, body: b"", properties: "" },
        ];
        let mut body = Vec::new();
        items.iter().for_each(|item| push_batch_item(&mut body, item));
        assert_eq!(batch(&body, 2).unwrap(), items);
        assert_eq!(batch(&body, 1), Err(BatchError::TooMany { max: 1 }));
        for end in 1..body.len() {
            let whole = end == body.len() - ITEM_FIXED;
            assert_eq!(batch(&body[..end], 2).is_ok(), whole, "cut at {end}");
        }
        for at in 0..body.len() {
            for value in [0, 0x7F, 0x80, 0xFF] {
                let mut damaged = body.clone();
                damaged[at] = value;
                // Never a panic; lengths that do not add up are refused.
                if let Ok(read) = batch(&damaged, 2) {
                    assert_eq!(read.len(), 2);
                    assert_eq!(read[0].body.len() + read[1].body.len(), 3);
                }
            }
        }
    }
}
