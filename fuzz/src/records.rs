//! Records of the log, and what is inside a message.

use keepmq_protocol::LogOffset;
use keepmq_protocol::message::{find, pairs, push_batch_item};
use keepmq_protocol::record::{
    BLANK_BYTES, CRC_BYTES, Draft, Found, MAGIC_V1, MIN_BYTES, Place, Record, crc, decode, decode_unchecked,
};

/// Most messages of a batch that are read.
const BATCH_MAX: usize = 1000;
/// How the property begins that holds the checksum over a whole record.
const CRC_NAME: &[u8] = b"__CRC32#\x01";
/// Bit of the first byte: size, place and checksums are set right before reading, else hardly anything would get past them.
const WHOLE: u8 = 1;
/// Bit of the first byte: with WHOLE, the checksum over the whole record, too; else it is one of RocketMQ's.
const OURS: u8 = 2;

/// One record: the first byte says what is made of the others before they are read.
pub(crate) fn record(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let at = LogOffset(u64::from(how >> 2) << 33);
    let mut bytes = bytes.to_vec();
    if how & WHOLE != 0 {
        make_whole(&mut bytes, at.0, how & OURS != 0);
    }
    let Ok(Found::Record(record)) = decode(&bytes, at) else { return };
    let len = record.bytes.len();
    assert!((MIN_BYTES..=bytes.len()).contains(&len));
    assert_eq!(decode_unchecked(&bytes), Ok(record));
    for shorter in [0, BLANK_BYTES, MIN_BYTES - 1, len - CRC_BYTES, len - 1] {
        assert!(decode(&bytes[..shorter], at).is_err(), "{shorter} of {len} bytes pass for a record");
    }
    for (name, _) in pairs(record.properties) {
        assert!(find(record.properties, name).is_some());
    }
    if !record.properties.as_bytes().last_chunk::<CRC_BYTES>().is_some_and(|end| end.starts_with(CRC_NAME)) {
        return;
    }
    encode_again(&record);
    // No changed bit passes. Which one is tried, the record itself says.
    let bit = crc(record.bytes) as usize % (len * 8);
    let mut changed = record.bytes.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    let passes = matches!(decode(&changed, at), Ok(Found::Record(_)));
    assert!(!passes, "bit {} of byte {} may be changed", bit % 8, bit / 8);
}

/// Written from what was read, a record of ours is the same bytes, if it stands as we write it.
fn encode_again(record: &Record<'_>) {
    let properties = &record.properties[..record.properties.len() - CRC_BYTES];
    let written_by_us = properties.is_empty() || properties.ends_with('\u{2}');
    let is_v1 = record.bytes[4..8] == MAGIC_V1.to_be_bytes();
    if !written_by_us || record.topic.len() > 255 || is_v1 != (record.topic.len() <= 127) {
        return;
    }
    let draft = Draft {
        topic: record.topic,
        queue_id: record.queue_id,
        flag: record.flag,
        sys_flag: record.sys_flag,
        born_at: record.born_at,
        born_host: record.born_host,
        store_host: record.store_host,
        reconsume_times: record.reconsume_times,
        prepared: record.prepared,
        body: record.body,
        body_crc: record.body_crc,
        properties,
        added: "",
    };
    let mut again = Vec::new();
    draft.encode(Place { at: record.at, queue_offset: record.queue_offset, stored: record.stored }, &mut again);
    assert_eq!(again, record.bytes);
}

/// Gives the bytes the size, the place and the checksums that make a record of them, if they have its parts.
/// `ours`: the checksum over the whole record stands at its end, too.
pub(crate) fn make_whole(bytes: &mut [u8], at: u64, ours: bool) {
    if bytes.len() < MIN_BYTES {
        return;
    }
    let size = u32::try_from(bytes.len()).expect("an input is short");
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    bytes[28..36].copy_from_slice(&at.to_be_bytes());
    let Ok(record) = decode_unchecked(bytes) else { return };
    let (body, fits) = (crc(record.body), record.properties.len() >= CRC_BYTES);
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    if ours && fits {
        let (covered, property) = bytes.split_at_mut(size as usize - CRC_BYTES);
        let digits: Vec<u8> = format!("{:010}", crc(covered)).bytes().rev().collect();
        property.copy_from_slice(&[CRC_NAME, &digits, b"\x02"].concat());
    }
}

/// The body of a batch.
pub(crate) fn batch(bytes: &[u8]) {
    let Ok(items) = keepmq_protocol::message::batch(bytes, BATCH_MAX) else { return };
    let mut again = Vec::new();
    items.iter().for_each(|item| push_batch_item(&mut again, item));
    assert_eq!(keepmq_protocol::message::batch(&again, BATCH_MAX), Ok(items));
}
