//! A store opened on files that somebody has changed.
//!
//! An input is one byte that chooses a store, one that says which checksums are set right afterwards, and then changes. What
//! then lies on the disk is opened: the store refuses it or opens, and either way says the same when it is asked again.

use crate::input::Input;
use crate::memory::{Content, MemoryDisk};
use crate::records::make_whole;
use keepmq_protocol::body::{SubscriptionGroup, TagFilter, TopicConfig};
use keepmq_protocol::record::{Draft, Found, Place, crc, decode};
use keepmq_protocol::{LogOffset, META_TOPIC, QueueOffset};
use keepmq_store::{
    Flush, Limits, MetaRecord, OffsetCommit, OpenError, QueueEnd, ReadPlan, Recovered, RetentionRules, Scrubbing,
    Selection, Store, StoreConfig,
};
use keepmq_world::{Mono, Now, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const SEGMENT: u64 = 64 << 10;
/// Most changes of one input.
const CHANGES_MAX: usize = 32;
/// Bytes of a checkpoint's slot, and of it those that are used.
const SLOT: (usize, usize) = (512, 72);
const TOPICS: [&str; 4] = ["A", "B", META_TOPIC, "%RETRY%g"];

fn config(adopt: bool) -> StoreConfig {
    StoreConfig {
        cluster: "DefaultCluster".into(),
        broker: "broker-a".into(),
        segment_bytes: SEGMENT,
        flush: Flush::Sync,
        flush_interval: Duration::from_millis(500),
        flush_bytes: 256,
        buffer_bytes: 8 << 10,
        zero_ahead: 16 << 10,
        checkpoint_interval: Duration::from_secs(1),
        snapshot_bytes: 4 << 10,
        retention: RetentionRules::keeping(Duration::from_secs(3600)),
        scrubbing: Scrubbing { bytes_per_second: 1 << 20, interval: Duration::from_secs(600) },
        place: "fuzz".into(),
        store_host: ([127, 0, 0, 1], 10911).into(),
        adopt,
        accept_loss: None,
        new_id: [9; 16],
        seed: 1,
    }
}

/// Opens what an input makes of one of the stores.
pub(crate) fn recovery(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (Some(which), Some(sums)) = (input.byte(), input.byte()) else { return };
    let stores = stores();
    let mut content = stores[usize::from(which & 0x7F) % stores.len()].clone();
    let config = config(which & 0x80 != 0);
    for _ in 0..CHANGES_MAX {
        if change(&mut content, &mut input).is_none() {
            break;
        }
    }
    set_sums_right(&mut content, sums);

    let disk = MemoryDisk::holding(content.clone());
    match Store::open(disk.clone(), config.clone(), now(0)) {
        Ok((mut store, recovered)) => use_it(&disk, &mut store, &recovered, &config),
        Err(error) => {
            if !matches!(error, OpenError::Io(_)) {
                nothing_was_changed(&content, &disk.content(), &error);
            }
            let again = Store::open(disk, config, now(1));
            let again = again.err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "what was refused is refused again, for the same reason");
        }
    }
}

/// A refusal must not take anything away: an operator is to find all that there was. Files without a byte may go, and segments
/// whose removal the checkpoint says was decided.
fn nothing_was_changed(before: &Content, after: &Content, error: &OpenError) {
    let log_min = before.get(Path::new("keepmq/checkpoint")).map_or(0, |bytes| {
        let of_slot = |slot: &[u8]| slot.get(44..)?.first_chunk().map(|min| u64::from_be_bytes(*min));
        bytes.chunks(SLOT.0).filter_map(of_slot).max().unwrap_or(0)
    });
    for (path, bytes) in before.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_kept = match path.starts_with("commitlog") {
            true => name.parse::<u64>().is_ok_and(|base| base >= log_min),
            false => name.starts_with("meta-") && !name.ends_with(".tmp"),
        };
        assert!(!is_kept || after.get(path) == Some(bytes), "{} was changed, although: {error}", path.display());
    }
}

/// Reads everything in it, lets it work, and opens it again: after a kill, and after a proper end.
fn use_it(disk: &MemoryDisk, store: &mut Store<MemoryDisk>, recovered: &Recovered, config: &StoreConfig) {
    let killed = MemoryDisk::holding(disk.content());
    let (_, again) = Store::open(killed, config.clone(), now(1)).expect("what was opened opens again after a kill");
    assert_eq!((again.end, again.cut, &again.tables), (recovered.end, 0, &recovered.tables));

    let replayed = store.replay();
    read_all(store);
    let host = config.store_host;
    let body = b"a message more";
    let draft = Draft {
        topic: "Fresh",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_at: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared: 0,
        body,
        body_crc: crc(body),
        properties: "",
        added: "",
    };
    let appended = store.append(&draft, now(2)).map(|appended| appended.end);
    let worked = settle(store, now(2)).is_ok();
    store.close(recovered.tables.clone(), Vec::new(), now(2));
    // A block that was damaged may stop it on the way. Then it is damaged the next time, too.
    if !worked || settle(store, now(3)).is_err() || replayed.is_err() {
        return;
    }
    let Ok(end) = appended else { return };
    let (store, last) = Store::open(disk.clone(), config.clone(), now(4)).expect("what was closed opens again");
    assert_eq!((last.end, last.cut, &last.tables), (end, 0, &recovered.tables));
    let fresh = store.queue("Fresh", 0).expect("a message was appended to it");
    assert!(fresh.max > fresh.min);
}

/// Everything that its queues say is there is read, or said to be damaged.
fn read_all(store: &Store<MemoryDisk>) {
    const PULL: Limits = Limits { messages: 64, bytes: 1 << 20, scanned: 64 };
    let (reader, all) = (store.reader(), TagFilter::all());
    for topic in TOPICS.into_iter().chain(["Fresh"]) {
        let queues: Vec<_> = store.queues_of(topic).collect();
        for (queue_id, view) in queues {
            assert!(view.min <= view.max);
            let mut from = view.min;
            for _ in 0..16 {
                if from >= view.max {
                    break;
                }
                let next = match store.select(topic, queue_id, from, &all, PULL) {
                    Selection::Nothing { next } => next,
                    Selection::Read(plan) => match reader.serve(&plan) {
                        Ok(keepmq_store::Served::Records { next, .. }) => next,
                        Ok(other) => panic!("a pull was served {other:?}"),
                        // Beyond it may be good ones.
                        Err(_) => from.next(),
                    },
                };
                assert!(next > from, "a read goes forward: {next} after {from}");
                from = next;
            }
            for time in [0, 1_700_000_000_500, i64::MAX] {
                drop(reader.serve(&store.search(topic, queue_id, Timestamp(time), time == 0)));
            }
            if let Some(plan) = store.earliest(topic, queue_id) {
                drop(reader.serve(&plan));
            }
        }
    }
    drop(reader.serve(&ReadPlan::record(0)));
}

// ---- stores ------------------------------------------------------------------------------------------------------------

fn now(seconds: u64) -> Now {
    let ms = i64::try_from(seconds * 1000).expect("a few seconds");
    Now { mono: Mono(seconds * 1_000_000_000), wall: Timestamp(1_700_000_000_000 + ms) }
}

/// None, and some that the real store has written.
fn stores() -> &'static [Content] {
    static STORES: OnceLock<Vec<Content>> = OnceLock::new();
    STORES.get_or_init(|| {
        let (killed, closed) = written(3, 40);
        let (long, long_closed) = written(60, 700);
        vec![Content::new(), killed, closed, long, long_closed]
    })
}

/// Runs all jobs that there are.
fn settle(store: &mut Store<MemoryDisk>, now: Now) -> Result<(), String> {
    let files = store.files();
    // Each job is made once: a store that goes on for longer than this goes on for ever.
    for _ in 0..1000 {
        let Some(job) = store.next_job(now) else { return Ok(()) };
        store.finished(job.run(&files), now).map_err(|error| error.to_string())?;
        if store.wants_tables() {
            store.save(b"tables".to_vec());
        }
    }
    panic!("the store always has something to do")
}

/// A store after some rounds of messages of so many bytes: as it is when its process is killed, and closed.
fn written(rounds: u64, bytes: usize) -> (Content, Content) {
    let disk = MemoryDisk::default();
    let (mut store, _) = Store::open(disk.clone(), config(false), now(0)).expect("an empty disk");
    let host = config(false).store_host;
    for round in 0..rounds {
        let at = now(round);
        let body = vec![b'0' + u8::try_from(round % 10).expect("a digit"); bytes];
        let message = |topic, queue_id| Draft {
            topic,
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_at: at.wall.0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared: 0,
            body: &body,
            body_crc: crc(&body),
            properties: "TAGS\u{1}t\u{2}",
            added: "",
        };
        for (topic, queue_id) in [("A", 0), ("A", 1), ("B", 0)] {
            store.append(&message(topic, queue_id), at).expect("there is room");
            settle(&mut store, at).expect("memory does not fail");
        }
        store.append_batch(&[message("A", 0), message("A", 0)], at).expect("there is room");
        for record in metadata(round) {
            store.append_meta(&record, at).expect("there is room");
        }
        settle(&mut store, at).expect("memory does not fail");
    }
    let killed = disk.content();
    store.close(b"tables".to_vec(), Vec::new(), now(1));
    settle(&mut store, now(rounds + 5)).expect("memory does not fail");
    assert!(store.is_closed());
    (killed, disk.content())
}

fn metadata(round: u64) -> Vec<MetaRecord> {
    let offset = i64::try_from(round).expect("a few");
    let commit = OffsetCommit { group: "g".into(), topic: "A".into(), queue_id: 1, offset };
    match round % 3 {
        0 => vec![MetaRecord::Topic(TopicConfig { topic_name: "A".into(), ..TopicConfig::default() })],
        1 => vec![MetaRecord::Offsets(vec![commit]), MetaRecord::TopicDeleted("B".into())],
        _ => vec![
            MetaRecord::Group(SubscriptionGroup { group_name: "g".into(), ..SubscriptionGroup::default() }),
            MetaRecord::QueueEnds(vec![QueueEnd { topic: "C".into(), queue_id: 0, next: 3 }]),
        ],
    }
}

// ---- changes -----------------------------------------------------------------------------------------------------------

/// One change; `None` when the input is used up.
fn change(content: &mut Content, input: &mut Input<'_>) -> Option<()> {
    let (what, which) = (input.byte()?, input.byte()?);
    let file = content.keys().nth(usize::from(which) % content.len().max(1)).cloned();
    let file = file.unwrap_or_else(|| PathBuf::from("keepmq/identity"));
    match what % 9 {
        0 => {
            let (at, len) = (input.short()?, usize::from(input.byte()?));
            write(content.entry(file).or_default(), at, input.bytes(len));
        }
        1 => {
            let (at, bit) = (input.short()?, input.byte()? % 8);
            if let Some(byte) = content.entry(file).or_default().get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        2 => content.entry(file).or_default().resize(input.short()?, 0),
        3 => drop(content.remove(&file)),
        4 => {
            let name = name(input)?;
            if let Some(bytes) = content.remove(&file) {
                content.insert(name, bytes);
            }
        }
        5 => {
            let (name, len) = (name(input)?, input.short()?);
            content.insert(name, input.bytes(len).to_vec());
        }
        6 => {
            // A piece of one file into another: what was written elsewhere, or before.
            let (from, at, len) = (usize::from(input.byte()?), input.short()?, input.short()?);
            let to = input.short()?;
            let source = content.values().nth(from % content.len().max(1))?;
            let piece = source.get(at..source.len().min(at + len)).unwrap_or_default().to_vec();
            write(content.entry(file).or_default(), to, &piece);
        }
        7 => segment_of(content, which).push_record(input)?,
        _ => {
            // Zeroes: a write that never came.
            let (at, len) = (input.short()?, input.short()?);
            let bytes = content.entry(file).or_default();
            let end = bytes.len().min(at + len);
            if let Some(piece) = bytes.get_mut(at..end) {
                piece.fill(0);
            }
        }
    }
    Some(())
}

/// Within the length that a segment has at most.
fn write(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let end = at + piece.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(piece);
}

/// A name that a store looks for, or nearly one.
fn name(input: &mut Input<'_>) -> Option<PathBuf> {
    let (kind, number) = (input.byte()?, u64::from(input.byte()?));
    Some(PathBuf::from(match kind % 10 {
        0 => format!("commitlog/{:020}", number * SEGMENT),
        1 => format!("commitlog/{number:020}"),
        2 => format!("keepmq/meta-{number:020}"),
        3 => format!("keepmq/queues-{number:08}"),
        4 => "keepmq/identity".to_owned(),
        5 => "keepmq/checkpoint".to_owned(),
        6 => "keepmq/next".to_owned(),
        7 => format!("keepmq/identity.{number}.tmp"),
        8 => format!("keepmq/meta-{}", u64::MAX - number),
        _ => format!("commitlog/{}", u64::MAX - number),
    }))
}

/// A segment and where it begins.
struct Segment<'c> {
    base: u64,
    bytes: &'c mut Vec<u8>,
}

fn segment_of(content: &mut Content, which: u8) -> Segment<'_> {
    let path = PathBuf::from(format!("commitlog/{:020}", u64::from(which % 4) * SEGMENT));
    Segment { base: u64::from(which % 4) * SEGMENT, bytes: content.entry(path).or_default() }
}

impl Segment<'_> {
    /// Where its records end.
    fn end(&self) -> usize {
        let mut at = 0;
        while let Some(rest) = self.bytes.get(at..)
            && let Ok(Found::Record(record)) = decode(rest, LogOffset(self.base + at as u64))
        {
            at += record.bytes.len();
        }
        at
    }

    /// A whole record behind the others, as a writer that is wrong might have put it there.
    fn push_record(self, input: &mut Input<'_>) -> Option<()> {
        let (topic, queue_id, offset) = (input.byte()?, input.byte()?, input.short()?);
        let (properties, len) = (input.byte()?, usize::from(input.byte()?));
        let body = input.bytes(len);
        let end = self.end();
        let host = ([127, 0, 0, 1], 10911).into();
        let draft = Draft {
            topic: TOPICS[usize::from(topic) % TOPICS.len()],
            queue_id: u32::from(queue_id),
            flag: 0,
            sys_flag: i32::from(properties & 0xC),
            born_at: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared: 0,
            body,
            body_crc: crc(body),
            properties: ["", "__BATCHN#\u{1}2\u{2}", "__BATCHN#\u{1}4294967295\u{2}", "TAGS\u{1}x"]
                [usize::from(properties & 3)],
            added: "",
        };
        let place = Place {
            at: LogOffset(self.base + end as u64),
            queue_offset: QueueOffset(offset as u64),
            stored: Timestamp(1_700_000_000_000),
        };
        let mut record = Vec::new();
        draft.encode(place, &mut record);
        if end + record.len() <= SEGMENT as usize {
            write(self.bytes, end, &record);
        }
        Some(())
    }
}

// ---- checksums ---------------------------------------------------------------------------------------------------------

/// Sets checksums right, as if whoever has changed the files had written them so. Each bit of `sums` is for one kind of file.
fn set_sums_right(content: &mut Content, sums: u8) {
    for (path, bytes) in content {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let own = path.parent() == Some(Path::new("keepmq"));
        match name.as_str() {
            "identity" if own && sums & 1 != 0 => last_four(bytes),
            "checkpoint" if own && sums & 2 != 0 => {
                bytes.chunks_mut(SLOT.0).filter_map(|slot| slot.get_mut(..SLOT.1)).for_each(last_four);
            }
            _ if own && name.starts_with("meta-") && sums & 4 != 0 => last_four(bytes),
            _ if own && name.starts_with("queues-") && sums & 8 != 0 => block_file(bytes),
            _ if sums & 16 != 0 && path.starts_with("commitlog") => {
                let base = name.parse().unwrap_or(0);
                records(bytes, base);
            }
            _ => {}
        }
    }
}

fn last_four(bytes: &mut [u8]) {
    if let Some((covered, sum)) = bytes.split_last_chunk_mut::<4>() {
        *sum = crc32fast::hash(covered).to_be_bytes();
    }
}

/// Head, blocks and marks: see the byte diagram of the block log.
fn block_file(bytes: &mut [u8]) {
    const HEAD: usize = 36;
    if let Some(head) = bytes.get_mut(..HEAD) {
        last_four(head);
    }
    let (mut at, mut sums) = (HEAD, Vec::new());
    while let Some(rest) = bytes.get_mut(at..) {
        let len = if rest.starts_with(b"KBLK") && rest.len() >= 24 {
            24 + usize::from(u16::from_be_bytes([rest[20], rest[21]])) * 20 + usize::from(rest[23])
        } else if rest.starts_with(b"KMRK") && rest.len() >= HEAD {
            HEAD
        } else {
            return;
        };
        let Some(piece) = rest.get_mut(..len) else { return };
        if piece.starts_with(b"KMRK") {
            let blocks = u32::from_be_bytes([piece[8], piece[9], piece[10], piece[11]]) as usize;
            let of_blocks: Vec<u8> = sums.drain(..).take(blocks).flatten().collect();
            piece[32..].copy_from_slice(&crc32fast::hash(&of_blocks).to_be_bytes());
        }
        let sum = crc32fast::hash(&piece[8..]).to_be_bytes();
        piece[4..8].copy_from_slice(&sum);
        sums.push(sum);
        if piece.starts_with(b"KMRK") {
            sums.clear();
        }
        at += len;
    }
}

/// Each record as far as sizes lead.
fn records(bytes: &mut [u8], base: u64) {
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..)
        && let Some(size) = rest.first_chunk().map(|size| u32::from_be_bytes(*size) as usize)
        && size > 0
        && let Some(record) = rest.get_mut(..size)
    {
        make_whole(record, base.saturating_add(at as u64), true);
        at += size;
    }
}
