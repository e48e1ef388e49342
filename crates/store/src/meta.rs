//! Metadata: records of the system topic, and the snapshot that spares reading them all again.

use crate::queues::cursor::{Cursor, put_varint};
use keepmq_protocol::body::{SubscriptionGroup, TopicConfig};

/// A change of the broker's tables, as it lies in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaRecord {
    /// A topic created or changed.
    Topic(TopicConfig),
    /// A topic deleted: its queues are empty from here on; their next offsets go on.
    TopicDeleted(String),
    /// A group created or changed.
    Group(SubscriptionGroup),
    /// A group deleted, with or without its offsets.
    GroupDeleted {
        /// The group.
        group: String,
        /// Its offsets, too.
        clean_offsets: bool,
    },
    /// Offsets committed, the last per key.
    Offsets(Vec<OffsetCommit>),
    /// Next offsets of queues that retention is about to empty.
    QueueEnds(Vec<QueueEnd>),
}

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Whose.
    pub group: String,
    /// In which topic.
    pub topic: String,
    /// In which queue.
    pub queue_id: u32,
    /// The next offset wanted.
    pub offset: i64,
}

/// Where a queue goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEnd {
    /// Topic.
    pub topic: String,
    /// Queue.
    pub queue_id: u32,
    /// Offset of the next message.
    pub next: u64,
}

/// Why bytes are not a metadata record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a metadata record cannot be read: {0}")]
pub struct MetaError(pub String);

const VERSION: u8 = 1;
/// Longest name in a list; RocketMQ's longest have 255 bytes.
const NAME_MAX: usize = 255;

impl MetaRecord {
    /// As the body of a record.
    ///
    /// ```text
    ///  version: u8 │ kind: u8 │
    ///   1 topic            JSON
    ///   2 topic deleted    name
    ///   3 group            JSON
    ///   4 group deleted    clean offsets: u8 │ name
    ///   5 offsets          n × (group │ topic │ queue id │ offset, zigzag)
    ///   6 queue ends       n × (topic │ queue id │ next)
    /// ```
    /// Lists begin with their count; numbers in them are varints. A name there is its length + 1 and its bytes, or 0 when it is
    /// the same as in the line before: a commit of a hundred queues repeats group and topic.
    pub fn encode(&self) -> Vec<u8> {
        let mut into = vec![VERSION, self.kind()];
        match self {
            Self::Topic(topic) => put_json(&mut into, topic),
            Self::Group(group) => put_json(&mut into, group),
            Self::TopicDeleted(topic) => into.extend_from_slice(topic.as_bytes()),
            Self::GroupDeleted { group, clean_offsets } => {
                into.push(u8::from(*clean_offsets));
                into.extend_from_slice(group.as_bytes());
            }
            Self::Offsets(offsets) => {
                put_varint(&mut into, offsets.len() as u64);
                let (mut group, mut topic) = (None, None);
                for line in offsets {
                    put_name(&mut into, &mut group, &line.group);
                    put_name(&mut into, &mut topic, &line.topic);
                    put_varint(&mut into, u64::from(line.queue_id));
                    put_varint(&mut into, ((line.offset << 1) ^ (line.offset >> 63)).cast_unsigned());
                }
            }
            Self::QueueEnds(ends) => {
                put_varint(&mut into, ends.len() as u64);
                let mut topic = None;
                for line in ends {
                    put_name(&mut into, &mut topic, &line.topic);
                    put_varint(&mut into, u64::from(line.queue_id));
                    put_varint(&mut into, line.next);
                }
            }
        }
        into
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Topic(_) => 1,
            Self::TopicDeleted(_) => 2,
            Self::Group(_) => 3,
            Self::GroupDeleted { .. } => 4,
            Self::Offsets(_) => 5,
            Self::QueueEnds(_) => 6,
        }
    }

    /// From the body of a record.
    pub fn decode(body: &[u8]) -> Result<Self, MetaError> {
        Self::read(body).map_err(MetaError)
    }

    fn read(body: &[u8]) -> Result<Self, String> {
        let mut from = Cursor::new(body);
        let [version, kind] = from.array()?;
        if version != VERSION {
            return Err(format!("it has version {version}, this program reads version {VERSION}"));
        }
        let record = match kind {
            1 => Self::Topic(json(&mut from)?),
            2 => Self::TopicDeleted(rest(&mut from)?),
            3 => Self::Group(json(&mut from)?),
            4 => Self::GroupDeleted { clean_offsets: from.u8()? != 0, group: rest(&mut from)? },
            5 => Self::Offsets(offsets(&mut from)?),
            6 => Self::QueueEnds(queue_ends(&mut from)?),
            kind => return Err(format!("its kind {kind} is unknown: a newer program wrote it")),
        };
        match from.left() {
            0 => Ok(record),
            left => Err(format!("{left} bytes stand behind it")),
        }
    }
}

fn put_json(into: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(into, value).expect("settings are texts, numbers and lists of them");
}

fn json<T: serde::de::DeserializeOwned>(from: &mut Cursor<'_>) -> Result<T, String> {
    serde_json::from_slice(from.take(from.left())?).map_err(|error| error.to_string())
}

fn rest(from: &mut Cursor<'_>) -> Result<String, String> {
    let bytes = from.take(from.left())?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| format!("a name is no text: {error}"))
}

fn put_name<'n>(into: &mut Vec<u8>, last: &mut Option<&'n str>, name: &'n str) {
    if last.replace(name) == Some(name) {
        put_varint(into, 0);
    } else {
        put_varint(into, name.len() as u64 + 1);
        into.extend_from_slice(name.as_bytes());
    }
}

fn name<'b>(from: &mut Cursor<'b>, last: &mut Option<&'b str>) -> Result<String, String> {
    let name = match from.small::<usize>()? {
        0 => last.ok_or("the first line repeats a name")?,
        len if len - 1 > NAME_MAX => return Err(format!("a name has {} bytes", len - 1)),
        len => std::str::from_utf8(from.take(len - 1)?).map_err(|error| format!("a name is no text: {error}"))?,
    };
    *last = Some(name);
    Ok(name.to_owned())
}

fn offsets(from: &mut Cursor<'_>) -> Result<Vec<OffsetCommit>, String> {
    let (count, mut last_group, mut last_topic) = (from.count(4)?, None, None);
    let line = |_| {
        let (group, topic) = (name(from, &mut last_group)?, name(from, &mut last_topic)?);
        let (queue_id, zigzag) = (from.small()?, from.varint()?);
        let offset = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        Ok(OffsetCommit { group, topic, queue_id, offset })
    };
    (0..count).map(line).collect()
}

fn queue_ends(from: &mut Cursor<'_>) -> Result<Vec<QueueEnd>, String> {
    let (count, mut last_topic) = (from.count(3)?, None);
    let line = |_| Ok(QueueEnd { topic: name(from, &mut last_topic)?, queue_id: from.small()?, next: from.varint()? });
    (0..count).map(line).collect()
}

// ---- the snapshot file: keepmq/meta-<generation, 20 digits> -------------------------------------------------------------

/// A snapshot: the tables and the queue directory as of one position of the log.
///
/// ```text
///  "KMQSNAP1" │ version: u32 │ store id: 16 bytes │ generation: u64 │ at: u64 │ log_min: u64 │ len: u64, queues │
///  len: u64, tables │ crc of the above: u32
/// ```
/// Numbers are big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Counts up.
    pub(crate) generation: u64,
    /// Identity of the store.
    pub(crate) store_id: [u8; 16],
    /// Everything before this position is in it.
    pub(crate) at: u64,
    /// First position of the log that still existed.
    pub(crate) log_min: u64,
    /// `Queues::encode`.
    pub(crate) queues: Vec<u8>,
    /// The broker's own.
    pub(crate) tables: Vec<u8>,
}

const SNAPSHOT_MAGIC: &[u8; 8] = b"KMQSNAP1";
const SNAPSHOT_VERSION: u32 = 1;
/// Bytes beside the two parts.
const SNAPSHOT_FIXED: usize = 8 + 4 + 16 + 3 * 8 + 2 * 8 + 4;

impl Snapshot {
    /// The file's bytes: magic, version, identity, fields, CRC.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut into = Vec::with_capacity(SNAPSHOT_FIXED + self.queues.len() + self.tables.len());
        into.extend_from_slice(SNAPSHOT_MAGIC);
        into.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        into.extend_from_slice(&self.store_id);
        for number in [self.generation, self.at, self.log_min] {
            into.extend_from_slice(&number.to_be_bytes());
        }
        for part in [&self.queues, &self.tables] {
            into.extend_from_slice(&(part.len() as u64).to_be_bytes());
            into.extend_from_slice(part);
        }
        let crc = crc32fast::hash(&into);
        into.extend_from_slice(&crc.to_be_bytes());
        into
    }

    /// Reads a file's bytes; the text says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (fields, crc) = bytes.split_last_chunk().ok_or("it is empty")?;
        let mut from = Cursor::new(fields);
        if !fields.starts_with(SNAPSHOT_MAGIC) {
            return Err("it does not begin as a snapshot does".to_owned());
        }
        if crc32fast::hash(fields) != u32::from_be_bytes(*crc) && !keepmq_world::planted!("damaged-snapshot-believed") {
            return Err(format!("the checksum over its {} bytes is wrong", bytes.len()));
        }
        from.take(SNAPSHOT_MAGIC.len())?;
        let version = from.u32()?;
        if version != SNAPSHOT_VERSION {
            return Err(format!("it has version {version}, this program reads version {SNAPSHOT_VERSION}"));
        }
        let store_id = from.array()?;
        let (generation, at, log_min) = (from.u64()?, from.u64()?, from.u64()?);
        let (queues, tables) = (part(&mut from)?, part(&mut from)?);
        match from.left() {
            0 => Ok(Self { generation, store_id, at, log_min, queues, tables }),
            left => Err(format!("{left} bytes stand behind its tables")),
        }
    }
}

fn part(from: &mut Cursor<'_>) -> Result<Vec<u8>, String> {
    let len = from.u64()?;
    let len = usize::try_from(len).map_err(|_| format!("a part has {len} bytes"))?;
    from.take(len).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commit(group: &str, topic: &str, queue_id: u32, offset: i64) -> OffsetCommit {
        OffsetCommit { group: group.to_owned(), topic: topic.to_owned(), queue_id, offset }
    }

    fn samples() -> Vec<MetaRecord> {
        let topic = TopicConfig { topic_name: "T".to_owned(), order: true, ..TopicConfig::default() };
        let group =
            SubscriptionGroup { group_name: "g".to_owned(), retry_max_times: -1, ..SubscriptionGroup::default() };
        vec![
            MetaRecord::Topic(topic),
            MetaRecord::TopicDeleted("%RETRY%g".to_owned()),
            MetaRecord::Group(group),
            MetaRecord::GroupDeleted { group: "g".to_owned(), clean_offsets: true },
            MetaRecord::Offsets(vec![commit("g", "T", 0, 0), commit("g", "T", 1, i64::MAX), commit("h", "T", 1, -1)]),
            MetaRecord::QueueEnds(vec![QueueEnd { topic: "T".to_owned(), queue_id: u32::MAX, next: u64::MAX }]),
        ]
    }

    #[test]
    fn records_come_back_and_no_cut_or_longer_one_passes_for_another() {
        for record in samples() {
            let bytes = record.encode();
            assert_eq!(MetaRecord::decode(&bytes).as_ref(), Ok(&record));
            // Names and JSON end with the record: what is cut off a name is not missed. The record's CRC covers that.
            if !matches!(record, MetaRecord::TopicDeleted(_) | MetaRecord::GroupDeleted { .. }) {
                for cut in 0..bytes.len() {
                    assert!(MetaRecord::decode(&bytes[..cut]).is_err(), "{record:?} cut at {cut}");
                }
                assert!(MetaRecord::decode(&[&bytes[..], &[0]].concat()).is_err(), "{record:?} and a byte");
            }
        }
    }

    #[test]
    fn repeated_names_cost_a_byte() {
        let lines = |n| MetaRecord::Offsets((0..n).map(|id| commit("a-long-group", "a-long-topic", id, 7)).collect());
        assert_eq!(lines(101).encode().len() - lines(1).encode().len(), 100 * 4);
    }

    #[test]
    fn a_later_format_is_refused_with_a_reason() {
        assert_eq!(
            MetaRecord::decode(&[2, 1]),
            Err(MetaError("it has version 2, this program reads version 1".to_owned()))
        );
        assert!(MetaRecord::decode(&[1, 99]).is_err_and(|e| e.0.contains("kind 99")));
    }

    fn a_snapshot() -> Snapshot {
        Snapshot {
            generation: 7,
            store_id: *b"0123456789abcdef",
            at: 900,
            log_min: 100,
            queues: vec![1; 9],
            tables: vec![2; 5],
        }
    }

    #[test]
    fn a_snapshot_with_any_bit_changed_or_any_byte_missing_is_refused() {
        let bytes = a_snapshot().encode();
        assert_eq!(Snapshot::decode(&bytes), Ok(a_snapshot()));
        for at in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(Snapshot::decode(&bad).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_list_comes_back(lines in proptest::collection::vec(("[a-c]{0,2}", "[a-c]{0,2}", any::<u32>(), any::<i64>()), 0..40)) {
            let offsets = lines.iter().map(|(group, topic, id, offset)| commit(group, topic, *id, *offset)).collect();
            let ends = lines.iter().map(|(_, topic, queue_id, next)| {
                QueueEnd { topic: topic.clone(), queue_id: *queue_id, next: next.cast_unsigned() }
            });
            for record in [MetaRecord::Offsets(offsets), MetaRecord::QueueEnds(ends.collect())] {
                prop_assert_eq!(MetaRecord::decode(&record.encode()), Ok(record));
            }
        }

        #[test]
        fn what_is_read_from_any_bytes_is_written_again(kind in 0u8..8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = MetaRecord::decode(&[&[1, kind], &body[..]].concat()) {
                prop_assert_eq!(MetaRecord::decode(&record.encode()), Ok(record));
            }
        }
    }
}
