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

use crate::{LogOffset, QueueOffset};
use keepmq_world::Timestamp;
use std::net::SocketAddr;

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

impl Draft<'_> {
    /// Bytes of the record, CRC included.
    pub fn size(&self) -> usize {
        todo!()
    }

    /// Bytes of its property string, CRC and a missing separator included.
    pub fn properties_size(&self) -> usize {
        todo!()
    }

    /// Appends the record. Exactly `size()` bytes; the CRC is taken over the final bytes.
    pub fn encode(&self, place: Place, out: &mut Vec<u8>) {
        let _ = (place, out);
        todo!()
    }
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
/// checked by its body's CRC.
pub fn decode(bytes: &[u8], at: LogOffset) -> Result<Found<'_>, RecordError> {
    let _ = (bytes, at);
    todo!()
}

/// As [`decode`], for bytes that were checked before.
pub fn decode_unchecked(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let _ = bytes;
    todo!()
}

/// CRC-32 (IEEE) without its top bit, as RocketMQ keeps it.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}
