//! A message that has come in: a stored record, read. Source: RocketMQ `MessageExt`, `MessageDecoder`.

use bytes::Bytes;
use flate2::read::ZlibDecoder;
use keepmq_protocol::message::{find, offset_msg_id, pairs, property, sys_flag};
use keepmq_protocol::record::{Record, decode_unchecked, verify};
use keepmq_protocol::{LogOffset, MessageQueue, QueueOffset};
use keepmq_world::Timestamp;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

/// Most bytes that a compressed body may have when it is unpacked: a message a user may send has 4 MiB by default. What of
/// one answer is unpacked at once has no more either.
const UNPACKED_MAX: u64 = 64 * 1024 * 1024;
/// Which compression a compressed body has. Source: RocketMQ `MessageSysFlag`, `CompressionType`: 0 is what clients before
/// 4.9.3 send, and means zlib, too.
const COMPRESSION_MASK: i32 = 0x700;
const COMPRESSION_LZ4: i32 = 0x100;
const COMPRESSION_ZSTD: i32 = 0x200;
const COMPRESSION_ZLIB: i32 = 0x300;

/// A message as a consumer gets it, shared by all its clones: what it holds is read through it, `message.body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received(Arc<MessageExt>);

/// What a consumer knows of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct MessageExt {
    /// Where it was kept.
    pub queue: MessageQueue,
    /// Where in that queue.
    pub offset: QueueOffset,
    /// What it says, unpacked.
    pub body: Bytes,
    /// The property string, as it lies in the answer that brought it; see [`MessageExt::property`].
    properties: Bytes,
    /// The user's own number.
    pub flag: i32,
    /// When the producer made it, by its clock; milliseconds since 1970.
    pub born: Timestamp,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When it was stored, by the broker's clock; milliseconds since 1970.
    pub stored: Timestamp,
    /// Deliveries that failed before.
    pub reconsume_times: u32,
    /// Where it lies.
    at: LogOffset,
    store_host: SocketAddr,
}

/// A record that a broker sent and that is not what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{queue:?} holds what cannot be read, at or behind offset {behind}: {why}")]
pub struct UnreadableMessage {
    /// Where.
    pub queue: MessageQueue,
    /// The last offset that could be read, or where reading began.
    pub behind: QueueOffset,
    /// What is wrong with it.
    pub why: String,
}

impl Deref for Received {
    type Target = MessageExt;

    fn deref(&self) -> &MessageExt {
        &self.0
    }
}

impl MessageExt {
    /// The producer's id for it (UNIQ_KEY); the broker's when a producer gave none.
    pub fn message_id(&self) -> Cow<'_, str> {
        self.property(property::UNIQ_KEY).map_or_else(|| self.offset_message_id().into(), Cow::Borrowed)
    }

    /// Where it lies, as an id that tools take.
    pub fn offset_message_id(&self) -> String {
        offset_msg_id(self.store_host, self.at)
    }

    /// The value of a property; `None` when the message has none of that name.
    pub fn property(&self, name: &str) -> Option<&str> {
        find(self.text(), name)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.properties).expect("a record whose properties are no text is not read")
    }

    /// All properties, RocketMQ's own among them, in the order in which they were stored.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.text())
    }

    /// Its tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(property::TAGS)
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(property::KEYS).into_iter().flat_map(|keys| keys.split(' ')).filter(|key| !key.is_empty())
    }

    /// What it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.properties.len()
    }

    /// Of a record that lies in `answer`.
    fn read(queue: &MessageQueue, record: &Record<'_>, answer: &Bytes) -> Result<Self, String> {
        Ok(Self {
            queue: queue.clone(),
            offset: record.queue_offset,
            body: unpack(record, answer)?,
            properties: answer.slice_ref(record.properties.as_bytes()),
            at: record.at,
            store_host: record.store_host,
            flag: record.flag,
            born: Timestamp(record.born_at),
            born_host: record.born_host,
            stored: record.stored,
            reconsume_times: u32::try_from(record.reconsume_times).unwrap_or(0),
        })
    }
}

/// Which tags a consumer wants, by name: a broker looks at their hashes only, and different tags may have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags(BTreeSet<String>);

impl Tags {
    /// From an expression: `*` or nothing is all, else tags separated by `||`.
    pub(crate) fn parse(expression: &str) -> Self {
        match expression.trim() {
            "" | "*" => Self::default(),
            tags => Self(tags.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()),
        }
    }

    fn want(&self, properties: &str) -> bool {
        self.0.is_empty() || find(properties, property::TAGS).is_some_and(|tag| self.0.contains(tag))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// What an answer to a pull holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// The messages that are wanted.
    pub(crate) messages: Vec<Received>,
    /// Where to go on: everything below was read, or is not wanted.
    pub(crate) next: QueueOffset,
    /// Why it does not go on at the answer's own place.
    pub(crate) unreadable: Option<UnreadableMessage>,
}

/// Reads the answer to a pull from `from` on, which says that it goes on at `next`.
///
/// Reading stops before a record that is not what it says: what is behind it is asked for again, so that nothing is passed
/// over. It stops, too, when enough is unpacked.
pub(crate) fn read(queue: &MessageQueue, from: QueueOffset, next: QueueOffset, tags: &Tags, answer: &Bytes) -> Pulled {
    let mut pulled = Pulled { messages: Vec::new(), next: from, unreadable: None };
    let mut rest = &answer[..];
    let mut unpacked = 0;
    while !rest.is_empty() {
        let (record, message) = match one(queue, pulled.next, next, tags, rest, answer) {
            Ok(read) => read,
            Err(why) => {
                pulled.unreadable = Some(UnreadableMessage { queue: queue.clone(), behind: pulled.next, why });
                return pulled;
            }
        };
        rest = &rest[record.bytes.len()..];
        pulled.next = record.queue_offset.next();
        if let Some(message) = message {
            unpacked += message.body.len() as u64;
            pulled.messages.push(message);
            if unpacked > UNPACKED_MAX {
                return pulled;
            }
        }
    }
    pulled.next = next;
    pulled
}

/// Reads and checks the first record of `rest`; the message is none when it is not wanted.
fn one<'a>(
    queue: &MessageQueue,
    from: QueueOffset,
    next: QueueOffset,
    tags: &Tags,
    rest: &'a [u8],
    answer: &Bytes,
) -> Result<(Record<'a>, Option<Received>), String> {
    let record = decode_unchecked(rest).map_err(|error| error.to_string())?;
    verify(record.bytes, record.at).map_err(|error| error.to_string())?;
    if record.topic != queue.topic.as_str() || record.queue_id != queue.id {
        return Err(format!("it was stored for queue {} of {}", record.queue_id, record.topic));
    }
    if record.queue_offset < from || record.queue_offset >= next {
        return Err(format!("its offset is {}, outside of the {from} to {next} of the answer", record.queue_offset));
    }
    if !tags.want(record.properties) {
        return Ok((record, None));
    }
    let message = MessageExt::read(queue, &record, answer)?;
    Ok((record, Some(Received(Arc::new(message)))))
}

/// The body as the producer had it. One that is not compressed is not copied.
fn unpack(record: &Record<'_>, answer: &Bytes) -> Result<Bytes, String> {
    if record.sys_flag & sys_flag::INNER_BATCH != 0 {
        return Err("it is an inner batch, which this client does not read".to_owned());
    }
    if record.sys_flag & sys_flag::COMPRESSED == 0 {
        return Ok(answer.slice_ref(record.body));
    }
    match record.sys_flag & COMPRESSION_MASK {
        0 | COMPRESSION_ZLIB => {}
        COMPRESSION_LZ4 => return Err("its body is compressed with LZ4; this client reads zlib".to_owned()),
        COMPRESSION_ZSTD => return Err("its body is compressed with ZSTD; this client reads zlib".to_owned()),
        kind => return Err(format!("its body is compressed in the unknown way {kind:#x}; this client reads zlib")),
    }
    let mut body = Vec::new();
    let read = ZlibDecoder::new(record.body).take(UNPACKED_MAX + 1).read_to_end(&mut body);
    read.map_err(|error| format!("its body is no zlib stream: {error}"))?;
    if body.len() as u64 > UNPACKED_MAX {
        return Err(format!("its body has more than {UNPACKED_MAX} bytes when it is unpacked"));
    }
    Ok(body.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use keepmq_protocol::record::{Draft, Place, crc};
    use keepmq_protocol::{BrokerName, LogOffset, Topic};
    use std::io::Write;

    pub(crate) fn queue(topic: &str, broker: &str, id: u32) -> MessageQueue {
        MessageQueue { topic: Topic::new(topic).unwrap(), broker: BrokerName::new(broker).unwrap(), id }
    }

    /// A stored record of queue `queue`.
    pub(crate) fn record(queue: &MessageQueue, offset: u64, sys_flag: i32, body: &[u8], properties: &str) -> Vec<u8> {
        let host = "127.0.0.1:10911".parse().unwrap();
        let mut out = Vec::new();
        Draft {
            topic: queue.topic.as_str(),
            queue_id: queue.id,
            flag: 5,
            sys_flag,
            born_at: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared: 0,
            body,
            body_crc: crc(body),
            properties,
            added: "",
        }
        .encode(
            Place { at: LogOffset(offset * 1000), queue_offset: QueueOffset(offset), stored: Timestamp(2) },
            &mut out,
        );
        out
    }

    fn read_all(records: &[Vec<u8>], tags: &str) -> Pulled {
        read(&queue("T", "b", 0), QueueOffset(3), QueueOffset(9), &Tags::parse(tags), &records.concat().into())
    }

    #[test]
    fn what_was_sent_comes_out_and_tags_of_the_same_hash_do_not() {
        let q = queue("T", "b", 0);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&[7; 5000]).unwrap();
        let packed = zlib.finish().unwrap();
        let records = [
            record(&q, 3, 0, b"plain", "TAGS\u{1}Aa\u{2}KEYS\u{1}k1 k2\u{2}UNIQ_KEY\u{1}id\u{2}"),
            record(&q, 4, 0, b"other", "TAGS\u{1}BB\u{2}"),
            record(&q, 6, sys_flag::COMPRESSED | COMPRESSION_ZLIB, &packed, "TAGS\u{1}Aa\u{2}colour\u{1}red\u{2}"),
        ];
        // Java's hash of "Aa" is that of "BB".
        let pulled = read_all(&records, "x || Aa");
        assert_eq!((pulled.next, pulled.unreadable), (QueueOffset(9), None));
        let [plain, packed] = &pulled.messages[..] else { panic!("{:?}", pulled.messages) };
        assert_eq!(
            (plain.offset, &plain.body[..], plain.tag(), &*plain.message_id()),
            (QueueOffset(3), &b"plain"[..], Some("Aa"), "id")
        );
        assert_eq!(plain.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(
            (packed.offset, &packed.body[..], packed.property("colour")),
            (QueueOffset(6), &[7; 5000][..], Some("red"))
        );
        assert_eq!(
            packed.message_id(),
            packed.offset_message_id(),
            "a message without the producer's id has the broker's"
        );
        assert_eq!(read_all(&records, "*").messages.len(), 3);
    }

    #[test]
    fn nothing_is_read_over_what_cannot_be_read() {
        let q = queue("T", "b", 0);
        let good = || record(&q, 3, 0, b"good", "");
        let mut rotten = record(&q, 4, 0, b"rotten", "");
        rotten[90] ^= 1;
        let torn = record(&q, 4, 0, b"torn", "")[..60].to_vec();
        let cases = [
            ("checksum", rotten),
            ("do not add up", torn),
            ("queue 0 of U", record(&queue("U", "b", 0), 4, 0, b"x", "")),
            ("queue 1 of T", record(&queue("T", "b", 1), 4, 0, b"x", "")),
            ("offset is 9", record(&q, 9, 0, b"x", "")),
            ("offset is 3", record(&q, 3, 0, b"x", "")),
            ("LZ4", record(&q, 4, sys_flag::COMPRESSED | COMPRESSION_LZ4, b"x", "")),
            ("ZSTD", record(&q, 4, sys_flag::COMPRESSED | COMPRESSION_ZSTD, b"x", "")),
            ("no zlib stream", record(&q, 4, sys_flag::COMPRESSED, b"x", "")),
        ];
        for (says, bad) in cases {
            let pulled = read_all(&[good(), bad, record(&q, 5, 0, b"behind", "")], "*");
            assert_eq!((pulled.messages.len(), pulled.next), (1, QueueOffset(4)), "{says}");
            let why = pulled.unreadable.unwrap().why;
            assert!(why.contains(says), "{says}: {why}");
        }
        // What nobody wants need not be unpacked.
        let unwanted = record(&q, 4, sys_flag::COMPRESSED | COMPRESSION_LZ4, b"x", "TAGS\u{1}no\u{2}");
        assert_eq!(read_all(&[unwanted], "yes").unreadable, None);
    }

    #[test]
    fn a_body_that_grows_without_end_is_refused() {
        let q = queue("T", "b", 0);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..65 {
            zlib.write_all(&[0; 1 << 20]).unwrap();
        }
        let pulled = read_all(&[record(&q, 3, sys_flag::COMPRESSED, &zlib.finish().unwrap(), "")], "*");
        assert!(pulled.unreadable.unwrap().why.contains("when it is unpacked"));
    }
}
