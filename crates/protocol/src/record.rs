//! A message as it lies in the log, on the replication wire and in pull replies. Source: RocketMQ `MessageExtEncoder`,
//! `MessageDecoder`, `CommitLog`. All integers big-endian; offsets for IPv4 hosts.
//!
//! ```text
//!   0 size: u32 │ 4 magic: u32 │ 8 body crc: u32 │ 12 queue id: u32 │ 16 flag: i32 │ 20 queue offset: u64
//!  28 position: u64 │ 36 sys flag: i32 │ 40 born: i64 │ 48 born host: 4+4 (16+4) │ 56 stored: i64
//!  64 store host: 4+4 (16+4) │ 72 reconsume times: i32 │ 76 prepared transaction: i64
//!  84 body: u32 len, bytes │ topic: u8 len (v1) or u16 len (v2), bytes │ properties: u16 len, bytes
//! ```
//! The last 20 bytes of the properties are `__CRC32#` 0x01, ten digits, 0x02: the CRC over everything before them,
//! least significant digit first.

use crate::message::{VALUE_END, sys_flag};
use crate::{LogOffset, QueueOffset};
use keepmq_world::Timestamp;
use std::net::{IpAddr, SocketAddr};

/// Magic of a record whose topic length is one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic length is two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a segment.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Bytes of the CRC property.
pub const CRC_BYTES: usize = 20;
/// Bytes of the shortest record: IPv4 hosts, v1, empty body, topic and properties.
pub const MIN_BYTES: usize = 91;
/// Bytes of a blank's head: size and magic. A record must leave room for it in its segment.
pub const BLANK_BYTES: usize = 8;
/// Most bytes of a property string, CRC included.
pub const PROPERTIES_MAX: usize = 32_767;

/// A record about to be written.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Topic it is stored under.
    pub topic: &'a str,
    /// Queue of it.
    pub queue_id: u32,
    /// The user's own.
    pub flag: i32,
    /// Compression, transaction type; the two address bits are set by `encode`.
    pub sys_flag: i32,
    /// Milliseconds, by the producer's clock.
    pub born_at: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// Where clients find it.
    pub store_host: SocketAddr,
    /// Deliveries that failed before.
    pub reconsume_times: i32,
    /// Position of the half message, for a committed transaction.
    pub prepared: i64,
    /// The body.
    pub body: &'a [u8],
    /// [`crc`] of the body; computed where no lock is held.
    pub body_crc: u32,
    /// Properties as the producer sent them, without a CRC.
    pub properties: &'a str,
    /// Properties that the broker adds.
    pub added: &'a str,
}

/// What is given to a record when it is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where in the log.
    pub at: LogOffset,
    /// Where in its queue.
    pub queue_offset: QueueOffset,
    /// When.
    pub stored: Timestamp,
}

/// Bytes of the parts whose size does not depend on the message, for IPv4 hosts.
const FIXED: usize = MIN_BYTES - 1;
/// What an IPv6 address has more than an IPv4 one.
const V6_MORE: usize = 12;
/// Longest topic of a v1 record: its length is a signed byte in Java.
const V1_TOPIC_MAX: usize = 127;
/// Where a record's own position stands in it.
const AT: usize = 28;
/// Name of the CRC property with the byte behind it.
const CRC_NAME: &[u8; 9] = b"__CRC32#\x01";

impl Draft<'_> {
    /// Bytes of the record, CRC included.
    pub fn size(&self) -> usize {
        let hosts = [self.born_host, self.store_host].iter().filter(|host| host.is_ipv6()).count() * V6_MORE;
        let topic = if self.topic.len() > V1_TOPIC_MAX { 2 } else { 1 } + self.topic.len();
        FIXED + hosts + self.body.len() + topic + self.properties_size()
    }

    /// Bytes of its property string, CRC and a missing separator included.
    pub fn properties_size(&self) -> usize {
        [self.properties, self.added].iter().map(|part| part.len() + usize::from(unended(part))).sum::<usize>()
            + CRC_BYTES
    }

    /// Appends the record. Exactly `size()` bytes; the CRC is taken over the final bytes.
    pub fn encode(&self, place: Place, out: &mut Vec<u8>) {
        let start = out.len();
        let size = self.size();
        let properties = self.properties_size();
        assert!(properties <= PROPERTIES_MAX, "longer property strings are refused before: {properties}");
        let (magic, topic_len) = match u8::try_from(self.topic.len()) {
            Ok(len) if self.topic.len() <= V1_TOPIC_MAX => (MAGIC_V1, [0, len]),
            _ => (MAGIC_V2, u16::try_from(self.topic.len()).expect("a topic has at most 255 bytes").to_be_bytes()),
        };
        let v6 = |host: SocketAddr, bit| if host.is_ipv6() { bit } else { 0 };
        let sys_flag = self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6)
            | v6(self.born_host, sys_flag::BORN_HOST_V6)
            | v6(self.store_host, sys_flag::STORE_HOST_V6);
        let len = |len: usize| u32::try_from(len).expect("a record is smaller than a segment").to_be_bytes();

        out.reserve(size);
        out.extend_from_slice(&len(size));
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.body_crc.to_be_bytes());
        out.extend_from_slice(&self.queue_id.to_be_bytes());
        out.extend_from_slice(&self.flag.to_be_bytes());
        out.extend_from_slice(&place.queue_offset.0.to_be_bytes());
        out.extend_from_slice(&place.at.0.to_be_bytes());
        out.extend_from_slice(&sys_flag.to_be_bytes());
        out.extend_from_slice(&self.born_at.to_be_bytes());
        push_host(out, self.born_host);
        out.extend_from_slice(&place.stored.0.to_be_bytes());
        push_host(out, self.store_host);
        out.extend_from_slice(&self.reconsume_times.to_be_bytes());
        out.extend_from_slice(&self.prepared.to_be_bytes());
        out.extend_from_slice(&len(self.body.len()));
        out.extend_from_slice(self.body);
        out.extend_from_slice(if magic == MAGIC_V1 { &topic_len[1..] } else { &topic_len });
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(&u16::try_from(properties).expect("asserted above").to_be_bytes());
        for part in [self.properties, self.added] {
            out.extend_from_slice(part.as_bytes());
            if unended(part) {
                out.push(VALUE_END);
            }
        }
        let crc = crc(&out[start..]);
        out.extend_from_slice(&crc_property(crc));
        assert_eq!(out.len() - start, size, "`size` and `encode` count the same parts");
    }
}

/// Whether a part of a property string lacks its final separator.
fn unended(part: &str) -> bool {
    part.as_bytes().last().is_some_and(|last| *last != VALUE_END)
}

fn push_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&u32::from(host.port()).to_be_bytes());
}

/// The property that ends a record: ten decimal digits, the least significant first.
fn crc_property(mut crc: u32) -> [u8; CRC_BYTES] {
    let mut property = [VALUE_END; CRC_BYTES];
    property[..CRC_NAME.len()].copy_from_slice(CRC_NAME);
    for digit in &mut property[CRC_NAME.len()..CRC_BYTES - 1] {
        *digit = b'0' + u8::try_from(crc % 10).expect("a digit");
        crc /= 10;
    }
    property
}

/// A record, read where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'b> {
    /// All its bytes.
    pub bytes: &'b [u8],
    /// Queue.
    pub queue_id: u32,
    /// The user's own.
    pub flag: i32,
    /// Where in its queue.
    pub queue_offset: QueueOffset,
    /// Where in the log.
    pub at: LogOffset,
    /// Flags.
    pub sys_flag: i32,
    /// When the producer made it.
    pub born_at: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When it was stored.
    pub stored: Timestamp,
    /// Where clients find it.
    pub store_host: SocketAddr,
    /// Deliveries that failed before.
    pub reconsume_times: i32,
    /// Position of the half message.
    pub prepared: i64,
    /// CRC of the body, as stored.
    pub body_crc: u32,
    /// The body.
    pub body: &'b [u8],
    /// Topic.
    pub topic: &'b str,
    /// Property string, CRC included.
    pub properties: &'b str,
}

/// What stands at a position of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// A record, checked.
    Record(Record<'b>),
    /// The filler that ends a segment.
    Blank,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Eight zero bytes, or the end: nothing was written here.
    #[error("nothing is written here")]
    Nothing,
    /// The size is impossible, or reaches beyond what is there.
    #[error("a record says it is {size} bytes long; {left} are there")]
    Size {
        /// What it says.
        size: u32,
        /// What is there.
        left: usize,
    },
    /// Not one of the three magics.
    #[error("{0:#010x} is no record's magic")]
    Magic(u32),
    /// The inner lengths do not add up to the size.
    #[error("the parts of the record do not add up to its {size} bytes")]
    Layout {
        /// What it says.
        size: u32,
    },
    /// Topic or properties are no text.
    #[error("topic or properties are not UTF-8")]
    Text,
    /// The record was written for another place.
    #[error("the record was written for position {says} and stands at {stands}")]
    Place {
        /// Its position field.
        says: u64,
        /// Where it stands.
        stands: u64,
    },
    /// The CRC over the record does not match.
    #[error("the record's checksum is {stored:#x}, its bytes give {computed:#x}")]
    Crc {
        /// What it says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
}

/// Reads and checks what `bytes` begin with, which stand at `at`. A record without `__CRC32#` (written by Java) is
/// checked by its body's CRC; one whose `__CRC32#` is damaged does not pass for Java's.
pub fn decode(bytes: &[u8], at: LogOffset) -> Result<Found<'_>, RecordError> {
    let Some(lead) = bytes.first_chunk::<BLANK_BYTES>() else {
        // Too few bytes for anything: the end of a segment, or of what was read of it.
        return Err(match bytes.iter().all(|byte| *byte == 0) {
            true => RecordError::Nothing,
            false => RecordError::Size { size: 0, left: bytes.len() },
        });
    };
    let [s3, s2, s1, s0, magic @ ..] = *lead;
    let size = u32::from_be_bytes([s3, s2, s1, s0]);
    let magic = u32::from_be_bytes(magic);
    match (size, magic) {
        (0, 0) => return Err(RecordError::Nothing),
        (8.., MAGIC_BLANK) => return Ok(Found::Blank),
        (_, MAGIC_BLANK) => return Err(RecordError::Size { size, left: bytes.len() }),
        _ => {}
    }
    let record = decode_unchecked(bytes)?;
    if record.at != at {
        return Err(RecordError::Place { says: record.at.0, stands: at.0 });
    }
    match record.properties.as_bytes().last_chunk::<CRC_BYTES>() {
        Some(property) if is_crc_property(property) => {
            let computed = crc(&record.bytes[..record.bytes.len() - CRC_BYTES]);
            if *property != crc_property(computed) {
                return Err(RecordError::Crc { stored: crc_of(property), computed });
            }
        }
        _ => {
            let computed = crc(record.body);
            if record.body_crc != computed {
                return Err(RecordError::Crc { stored: record.body_crc, computed });
            }
        }
    }
    Ok(Found::Record(record))
}

/// Checks that `bytes` are a whole record that stands at `at`, as [`decode`] does, without taking it apart: the checksum of a
/// record of ours covers all that is in it.
pub fn verify(bytes: &[u8], at: LogOffset) -> Result<(), RecordError> {
    let ours = || {
        let (covered, property) = bytes.split_last_chunk::<CRC_BYTES>()?;
        let size = u32::from_be_bytes(*covered.first_chunk()?);
        let says = u64::from_be_bytes(*covered.get(AT..)?.first_chunk()?);
        (size as usize == bytes.len() && says == at.0 && *property == crc_property(crc(covered))).then_some(())
    };
    if ours().is_some() {
        return Ok(());
    }
    // Java's, or damaged: whoever knows says what.
    match decode(bytes, at)? {
        Found::Record(record) if record.bytes.len() == bytes.len() => Ok(()),
        _ => Err(RecordError::Size {
            size: bytes.first_chunk().map_or(0, |size| u32::from_be_bytes(*size)),
            left: bytes.len(),
        }),
    }
}

/// Whether the end of a property string is the CRC property, or was it before it was damaged: a record must not pass as
/// Java's because the name of its checksum is hurt. Most of the name is there after flipped bits; where a write was torn
/// inside it there are zeros, which Java does not write.
fn is_crc_property(end: &[u8; CRC_BYTES]) -> bool {
    let same = end.iter().zip(CRC_NAME).filter(|(byte, name)| byte == name).count();
    same > CRC_NAME.len() / 2 || end.contains(&0)
}

/// What the digits of a CRC property say, for an error text; all ones when they are no digits, or too large.
fn crc_of(property: &[u8; CRC_BYTES]) -> u32 {
    property[CRC_NAME.len()..CRC_BYTES - 1]
        .iter()
        .rev()
        .try_fold(0u64, |value, digit| Some(value * 10 + u64::from(char::from(*digit).to_digit(10)?)))
        .and_then(|value| u32::try_from(value).ok())
        .unwrap_or(u32::MAX)
}

/// As [`decode`], for bytes that were checked before.
pub fn decode_unchecked(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let mut lead = Rest(bytes);
    let short = RecordError::Size { size: 0, left: bytes.len() };
    let (size, magic) = lead.u32().zip(lead.u32()).ok_or(short)?;
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return Err(RecordError::Magic(magic));
    }
    let bytes = bytes
        .get(..size as usize)
        .filter(|bytes| bytes.len() >= MIN_BYTES)
        .ok_or(RecordError::Size { size, left: bytes.len() })?;
    let parts = parts(bytes, magic).ok_or(RecordError::Layout { size })?;
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| RecordError::Text);
    Ok(Record { topic: text(parts.topic)?, properties: text(parts.properties)?, ..parts.record })
}

/// A record whose topic and properties have not been checked to be text.
struct Parts<'b> {
    record: Record<'b>,
    topic: &'b [u8],
    properties: &'b [u8],
}

/// Takes a record apart; `None` when the parts are not exactly the whole, or a number is impossible.
fn parts(bytes: &[u8], magic: u32) -> Option<Parts<'_>> {
    let mut rest = Rest(&bytes[8..]);
    let body_crc = rest.u32()?;
    let queue_id = rest.u32()?;
    let flag = rest.i32()?;
    let queue_offset = QueueOffset(u64::try_from(rest.i64()?).ok()?);
    let at = LogOffset(u64::try_from(rest.i64()?).ok()?);
    let sys_flag = rest.i32()?;
    let born_at = rest.i64()?;
    let born_host = rest.host(sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
    let stored = Timestamp(rest.i64()?);
    let store_host = rest.host(sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
    let reconsume_times = rest.i32()?;
    let prepared = rest.i64()?;
    let body_len = rest.u32()? as usize;
    let body = rest.bytes(body_len)?;
    let topic_len = if magic == MAGIC_V1 {
        let [len] = rest.array()?;
        Some(usize::from(len)).filter(|len| *len <= V1_TOPIC_MAX)?
    } else {
        usize::from(u16::from_be_bytes(rest.array()?))
    };
    let topic = rest.bytes(topic_len)?;
    let properties_len = usize::from(u16::from_be_bytes(rest.array()?));
    let properties = rest.bytes(properties_len)?;
    let record = Record {
        bytes,
        queue_id,
        flag,
        queue_offset,
        at,
        sys_flag,
        born_at,
        born_host,
        stored,
        store_host,
        reconsume_times,
        prepared,
        body_crc,
        body,
        topic: "",
        properties: "",
    };
    (rest.0.is_empty() && properties_len <= PROPERTIES_MAX).then_some(Parts { record, topic, properties })
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn host(&mut self, v6: bool) -> Option<SocketAddr> {
        let ip: IpAddr = if v6 { self.array::<16>()?.into() } else { self.array::<4>()?.into() };
        Some(SocketAddr::new(ip, u16::try_from(self.u32()?).ok()?))
    }
}

/// CRC-32 (IEEE) without its top bit, as RocketMQ keeps it.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

#[cfg(test)]
mod tests;
