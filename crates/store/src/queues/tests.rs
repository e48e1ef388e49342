//! The queues beside a model of them, over files that crash.

use super::*;
use keepmq_protocol::LogOffset;
use keepmq_protocol::body::TagFilter;
use keepmq_world::{Keyed, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;

const ID: [u8; 16] = *b"a store identity";
const ALL: Limits = Limits { messages: 1 << 20, bytes: u32::MAX, scanned: 1 << 20 };

fn keyed() -> Keyed {
    Keyed::new(1)
}

fn entry(at: u64, stored: i64) -> Entry {
    Entry { at: LogOffset(at), size: 10, tag: 7, stored: Timestamp(stored) }
}

// ---- what a pull gets ---------------------------------------------------------------------------------------------------

#[test]
fn select_stops_at_each_limit_and_always_gives_the_first() {
    let (a, b) = (keepmq_protocol::message::tag_hash("A"), keepmq_protocol::message::tag_hash("B"));
    let entries = [a, b, a, b, b, a].map(|tag| Entry { tag, ..entry(0, 0) });
    let pull = |filter: &str, messages, bytes, scanned| {
        let filter = TagFilter::parse(filter);
        let limits = Limits { messages, bytes, scanned };
        let (picked, next) = select(entries.into_iter(), QueueOffset(100), &filter, limits);
        (picked.len(), next.0 - 100)
    };
    assert_eq!(pull("*", 32, 1000, 800), (6, 6), "everything");
    assert_eq!(pull("A", 32, 1000, 800), (3, 6), "filtered");
    assert_eq!(pull("A", 2, 1000, 800), (2, 3), "as many as wanted: behind the last");
    assert_eq!(pull("*", 32, 29, 800), (2, 2), "bytes");
    assert_eq!(pull("A", 32, 19, 800), (1, 2), "bytes: up to the one that did not fit");
    assert_eq!(pull("*", 32, 1, 800), (1, 1), "the first is given whatever its size");
    assert_eq!(pull("A", 32, 1000, 5), (2, 5), "looked at");
    assert_eq!(pull("none", 32, 1000, 4), (0, 4), "nothing passes, the offset moves on");
}

#[test]
fn what_waits_for_commit_is_not_seen() {
    let mut queues = Queues::new(keyed(), ID);
    let (one, two) = (queues.find_or_add("T", 0), queues.find_or_add("T", 1));
    for at in 0..6 {
        queues.append(if at % 2 == 0 { one } else { two }, entry(at * 10, 5 + at as i64));
    }
    let mut grown = Vec::new();
    queues.advance(LogOffset(39), &mut grown);
    assert_eq!(grown, [one, two, one]);
    let view = queues.view(one);
    assert_eq!((view.min.0, view.max.0, view.last_stored.0), (0, 2, 7));
    assert_eq!(queues.next(one), QueueOffset(3));
    let Picked::Entries { entries, next } = queues.pick(one, QueueOffset(0), &TagFilter::all(), ALL) else {
        panic!("all is in memory")
    };
    assert_eq!((entries.len(), next.0), (2, 2));
    assert_eq!(queues.search(one, Timestamp(100), false), Ok(QueueOffset(2)), "the end that may be seen");

    // A deletion shows at once, but the end that others see still waits.
    queues.clear_topic("T");
    let view = queues.view(one);
    assert_eq!((view.min.0, view.max.0), (2, 2));
    queues.append(one, entry(60, 20));
    queues.advance(LogOffset(70), &mut grown);
    let view = queues.view(one);
    assert_eq!((view.min.0, view.max.0), (3, 4), "offsets go on after a deletion");
}

#[test]
fn ids_are_found_whatever_their_order() {
    let mut queues = Queues::new(keyed(), ID);
    let ixs: Vec<_> = [5, 0, 1, u32::MAX, 2].map(|id| (id, queues.find_or_add("T", id))).into();
    let other = queues.find_or_add("U", 0);
    for (id, ix) in ixs {
        assert_eq!(queues.find_or_add("T", id), ix);
        assert_eq!((queues.name(ix).0.as_str(), queues.name(ix).1), ("T", id));
        assert_ne!(ix, other);
    }
    assert_eq!(queues.find("T", 3), None);
    assert_eq!(queues.find("V", 0), None);
}

#[test]
fn a_million_idle_queues_fit_into_the_budget() {
    assert!(size_of::<consume_queue::Queue>() <= 88);
    assert!(size_of::<consume_queue::Slot>() <= 40);
}

// ---- searching by time --------------------------------------------------------------------------------------------------

/// What `search` promises, said the slow way.
fn search_slowly(entries: &[(u64, Entry)], min: u64, max: u64, time: i64, upper: bool) -> u64 {
    let mut times = entries.iter().map(|(offset, entry)| (*offset, entry.stored.0));
    match upper {
        false => times.find(|(_, stored)| *stored >= time).map_or(max, |(offset, _)| offset),
        true => times.rfind(|(_, stored)| *stored <= time).map_or(min, |(offset, _)| offset),
    }
}

#[test]
fn a_search_among_equal_times_finds_the_first_or_the_last() {
    let entries: Vec<Entry> = [10, 10, 20, 20, 20, 30].iter().map(|time| entry(0, *time)).collect();
    let search = |time, upper| search_entries(&entries, QueueOffset(50), Timestamp(time), upper).0;
    let cases = [(9, 50, 50), (10, 50, 51), (15, 52, 51), (20, 52, 54), (30, 55, 55), (31, 56, 55)];
    for (time, lower, upper) in cases {
        assert_eq!((search(time, false), search(time, true)), (lower, upper), "{time}");
    }
}

// ---- the block log --------------------------------------------------------------------------------------------------------

/// Runs a checkpoint of everything up to `synced`; the piece's file, position and bytes.
fn save(queues: &mut Queues, synced: u64) -> (u32, u64, Vec<u8>) {
    let mut piece = queues.checkpoint(LogOffset(synced)).expect("something is to be saved");
    piece.read_copies(|block, _| Err(format!("{block:?} is not to be copied"))).unwrap();
    let (file, at, bytes) = (piece.file, piece.at, piece.bytes.clone());
    assert_eq!(queues.checkpointed(piece), LogOffset(synced));
    (file, at, bytes)
}

fn some_queues() -> (Queues, Vec<u8>) {
    let mut queues = Queues::new(keyed(), ID);
    let (one, two) = (queues.find_or_add("T", 0), queues.find_or_add("%RETRY%g", 3));
    let mut bytes = Vec::new();
    for round in 0..3 {
        for n in 0..5 {
            let at = (round * 5 + n) * 10;
            queues.append(if n == 3 { two } else { one }, entry(at, at as i64));
        }
        bytes.extend(save(&mut queues, (round + 1) * 50).2);
    }
    queues.advance(LogOffset(150), &mut Vec::new());
    (queues, bytes)
}

#[test]
fn a_file_cut_anywhere_gives_back_its_whole_pieces() {
    let (_, bytes) = some_queues();
    let mut wholes = Vec::new();
    for cut in 0..=bytes.len() {
        let mut queues = Queues::new(keyed(), ID);
        let end = queues.adopt(1, 0, &bytes[..cut]).unwrap();
        assert!(end as usize <= cut);
        assert_eq!(queues.block_end(), (1, end));
        let next = queues.find("T", 0).map_or(0, |ix| queues.next(ix).0);
        assert_eq!(next, queues.indexed().0 / 50 * 4, "what is indexed is there: cut at {cut}");
        wholes.push(queues.indexed().0);
    }
    wholes.dedup();
    assert_eq!(wholes, [0, 50, 100, 150], "each piece counts as soon as it is whole");
}

#[test]
fn a_changed_bit_is_found_and_ends_what_counts() {
    let (_, bytes) = some_queues();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut queues = Queues::new(keyed(), ID);
        match queues.adopt(1, 0, &bad) {
            Ok(end) => assert!((end as usize) <= bit / 8, "bit {bit} lies behind what was taken: {end}"),
            Err(_) => assert!(bit / 8 < block_log::FILE_HEAD, "bit {bit}"),
        }
    }
}

#[test]
fn a_block_log_of_another_store_or_under_another_name_is_refused() {
    let (_, bytes) = some_queues();
    let adopt = |id, file, bytes: &[u8]| Queues::new(keyed(), id).adopt(file, 0, bytes);
    assert!(adopt(*b"another identity", 1, &bytes).unwrap_err().contains("another store"));
    assert!(adopt(ID, 2, &bytes).unwrap_err().contains("renamed"));
    assert!(adopt(ID, 1, b"somebody else's file, which is longer than a head").is_err());
    assert_eq!(adopt(ID, 1, &[0; 5000]), Ok(0), "created, and the power went before its first sector was written");
}

#[test]
fn a_missing_piece_is_noticed_where_the_next_one_does_not_continue() {
    let mut queues = Queues::new(keyed(), ID);
    let one = queues.find_or_add("T", 0);
    queues.append(one, entry(0, 1));
    let first = save(&mut queues, 10).2;
    // More than before, so that it does not hold the first block's entry, too.
    for at in 1..=block_log::FULL as u64 {
        queues.append(one, entry(at * 10, 1));
    }
    queues.queue_mut(one).cool(0);
    let second = save(&mut queues, 3000).2;
    let mut recovered = Queues::new(keyed(), ID);
    let moved = [&first[..block_log::FILE_HEAD], &second].concat();
    assert_eq!(recovered.adopt(1, 0, &moved), Ok(0), "a piece says where it lies");
    assert!(recovered.adopt(1, first.len() as u64, &second).unwrap_err().contains("topic T, queue 0"));
}

#[test]
fn a_slow_queue_is_written_few_times_and_has_long_blocks() {
    let mut queues = Queues::new(keyed(), ID);
    let ix = queues.find_or_add("T", 0);
    let (count, mut written) = (10 * block_log::FULL as u64, 0);
    for n in 0..count {
        queues.append(ix, entry(n * 10, n as i64));
        written += save(&mut queues, (n + 1) * 10).2.len() as u64;
    }
    let blocks = queues.queue(ix).blocks.len() as u64;
    assert!(blocks <= 2 * 10 + 8, "{blocks} blocks");
    // A checkpoint for each single message is the worst case: each pays for a head and a mark, too.
    assert!(written / count < 20 * 8 + 80, "an entry of 20 bytes costs {} on disk", written / count);
}

#[test]
fn a_mostly_dead_file_is_emptied_and_may_go() {
    let mut queues = Queues::new(keyed(), ID);
    queues.checkpoints.file_bytes = 20_000;
    let (slow, busy) = (queues.find_or_add("slow", 0), queues.find_or_add("busy", 0));
    let mut files: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    queues.append(slow, entry(0, 1));
    let mut end = 10;
    for round in 0..200 {
        for _ in 0..20 {
            queues.append(busy, entry(end, 2));
            end += 10;
        }
        let mut piece = queues.checkpoint(LogOffset(end)).unwrap();
        let read = |block: &BlockRef, into: &mut [u8]| {
            into.copy_from_slice(&files[&block.file][block.at as usize..][..into.len()]);
            Ok::<_, String>(())
        };
        piece.read_copies(read).unwrap();
        files.entry(piece.file).or_default().extend_from_slice(&piece.bytes);
        queues.checkpointed(piece);
        // Of the busy queue only the last messages are kept.
        if round > 20 {
            queues.queue_mut(busy).min = queues.next(busy).0 - 50;
        }
    }
    let live = queues.live_files();
    assert!(queues.block_end().0 > 5, "many files were written: {:?}", queues.block_end());
    assert!(live.len() <= 2 && !live.contains(&1), "few are needed: {live:?}");
    // The slow queue's only message moved along, and a recovery from all files finds it there.
    let mut recovered = Queues::new(keyed(), ID);
    for (number, bytes) in &files {
        assert_eq!(recovered.adopt(*number, 0, bytes), Ok(bytes.len() as u64));
    }
    for queues in [&queues, &recovered] {
        let slot = queues.queue(slow).blocks[0];
        assert!(live.contains(&slot.file) && slot.count == 1, "{slot:?}");
        let block = slot.block(4);
        let bytes = &files[&block.file][block.at as usize..][..BlockFile::bytes_of(&block)];
        assert_eq!(BlockFile::entries(bytes, &block), Ok(vec![entry(0, 1)]));
    }
}

#[test]
fn tails_that_nobody_appends_to_leave_memory_when_it_is_short() {
    let mut queues = Queues::new(keyed(), ID);
    queues.checkpoints.may_hold = 4000;
    let mut end = 0;
    for round in 0..20 {
        for id in round..round + 10 {
            let ix = queues.find_or_add("T", id);
            queues.append(ix, entry(end, 1));
            end += 10;
        }
        save(&mut queues, end);
    }
    assert!(queues.checkpoints.held() <= 4000, "{}", queues.checkpoints.held());
    assert_eq!(queues.queue(queues.find("T", 0).unwrap()).held(), 0, "the coldest are gone");
    assert_ne!(queues.queue(queues.find("T", 28).unwrap()).held(), 0, "the warmest are there");
}

#[test]
fn an_emptied_queue_goes_on_where_it_was_after_a_snapshot_and_after_a_record() {
    let (mut queues, _) = some_queues();
    let ix = queues.find("T", 0).unwrap();
    let emptied: Vec<_> = queues.emptied_by(LogOffset(1000)).iter().map(|ix| queues.next(*ix).0).collect();
    assert_eq!(emptied, [12, 3]);
    assert_eq!(queues.straddling(LogOffset(1000)), [], "no block must be read for a queue that is emptied");
    queues.retire(LogOffset(1000), &[]);
    let lost = |queues: &Queues, ix| {
        let view = queues.view(ix);
        (view.min.0, view.max.0, view.has_lost)
    };
    assert_eq!(lost(&queues, ix), (12, 12, true));
    assert_eq!(queues.live_files(), [1], "the file that is written to");

    let mut recovered = Queues::decode(&queues.encode(), keyed(), ID).unwrap();
    let ix = recovered.find("T", 0).unwrap();
    assert_eq!(lost(&recovered, ix), (12, 12, true));
    recovered.append(ix, entry(2000, 1));
    assert_eq!(recovered.next(ix).0, 13);

    let mut rebuilt = Queues::new(keyed(), ID);
    let ix = rebuilt.find_or_add("T", 0);
    rebuilt.set_next(ix, QueueOffset(12));
    rebuilt.set_next(ix, QueueOffset(5));
    assert_eq!(lost(&rebuilt, ix), (12, 12, true), "never back");
    let bytes = save(&mut rebuilt, 3000).2;
    let mut recovered = Queues::new(keyed(), ID);
    recovered.adopt(1, 0, &bytes).unwrap();
    assert_eq!(lost(&recovered, recovered.find("T", 0).unwrap()), (12, 12, true), "a tombstone says so");
}

#[test]
#[should_panic(expected = "entries would be missing")]
fn a_queue_with_entries_does_not_jump() {
    let (mut queues, _) = some_queues();
    let ix = queues.find("T", 0).unwrap();
    queues.set_next(ix, QueueOffset(1000));
}

#[test]
fn a_snapshot_that_is_cut_or_longer_is_refused() {
    let bytes = some_queues().0.encode();
    assert!(Queues::decode(&bytes, keyed(), ID).is_ok());
    for cut in 0..bytes.len() {
        assert!(Queues::decode(&bytes[..cut], keyed(), ID).is_err(), "cut at {cut}");
    }
    assert!(Queues::decode(&[&bytes[..], &[0]].concat(), keyed(), ID).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoders_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
    ) {
        let (queues, file) = some_queues();
        let snapshot = queues.encode();
        for good in [&snapshot, &file] {
            let mut bytes = good.clone();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + noise.len() / 8).min(good.len()), noise.iter().copied());
            for bytes in [&bytes, &noise] {
                let _ = Queues::decode(bytes, keyed(), ID).map(|mut queues| queues.straddling(LogOffset(70)));
                let _ = Queues::new(keyed(), ID).adopt(1, 0, bytes);
                let block = BlockRef { file: 1, at: 0, first: QueueOffset(0), count: 4, name: 1 };
                let _ = BlockFile::entries(bytes, &block);
            }
        }
    }
}

// ---- the model ----------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    /// To one of the queues, so many, so many milliseconds apart.
    Append(u8, u16, u8),
    /// All that was appended is synced and committed.
    Sync,
    /// A piece is begun.
    Checkpoint,
    /// The piece has become durable.
    Written,
    /// A topic is deleted.
    Delete(u8),
    /// Everything before this hundredth of what is indexed is to go.
    Survey(u8),
    /// It goes.
    Retire,
    Snapshot,
    /// The piece in flight survives up to this hundredth of its bytes; unsynced log is lost.
    Crash(u8),
}

/// What lies in the log.
#[derive(Clone, Debug)]
enum Logged {
    Message(usize, Entry),
    Deleted(usize),
    Ends(Vec<(usize, u64)>),
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// By queue: what can be read, and what comes next.
    queues: BTreeMap<usize, (BTreeMap<u64, Entry>, u64)>,
}

impl Model {
    fn apply(&mut self, logged: &Logged) {
        match logged {
            Logged::Message(queue, entry) => {
                let (entries, next) = self.queues.entry(*queue).or_default();
                entries.insert(*next, *entry);
                *next += 1;
            }
            Logged::Deleted(topic) => {
                for (_, (entries, _)) in self.queues.iter_mut().filter(|(queue, _)| topic_of(**queue) == *topic) {
                    entries.clear();
                }
            }
            Logged::Ends(_) => {}
        }
    }

    fn retire(&mut self, min: u64) {
        for (entries, _) in self.queues.values_mut() {
            entries.retain(|_, entry| entry.at.0 >= min);
        }
    }
}

/// Queues 0, 1, 2 are of topic 0, the next three of topic 1 …
fn topic_of(queue: usize) -> usize {
    queue / 3
}

fn topic_name(topic: usize) -> String {
    format!("topic-{topic}")
}

struct Play {
    queues: Queues,
    files: BTreeMap<u32, Vec<u8>>,
    piece: Option<BlockWrite>,
    /// Positions and what lies there.
    log: Vec<(u64, Logged)>,
    end: u64,
    synced: u64,
    log_min: u64,
    clock: i64,
    /// The snapshots kept, and the files they need.
    snapshots: Vec<(Vec<u8>, Vec<u32>)>,
    /// The tails that may stay in memory.
    may_hold: usize,
    /// Deletions before this position were applied.
    deleted: u64,
    /// What is to go, and the first offsets then.
    surveyed: Option<(u64, Vec<(QueueIx, QueueOffset)>)>,
}

impl Play {
    fn new(may_hold: usize) -> Self {
        let mut play = Self {
            queues: Queues::new(keyed(), ID),
            files: BTreeMap::new(),
            piece: None,
            log: Vec::new(),
            end: 0,
            synced: 0,
            log_min: 0,
            clock: 1000,
            snapshots: Vec::new(),
            may_hold,
            deleted: 0,
            surveyed: None,
        };
        play.limit();
        play
    }

    fn limit(&mut self) {
        self.queues.checkpoints.may_hold = self.may_hold;
        self.queues.checkpoints.file_bytes = 6000;
    }

    fn log(&mut self, logged: Logged) {
        self.queue(&logged);
        self.log.push((self.end, logged));
        self.end += 10;
    }

    /// What the store does with a record, when it is appended and when it is read again.
    fn queue(&mut self, logged: &Logged) {
        match logged {
            Logged::Message(queue, entry) => {
                let ix = self.queues.find_or_add(&topic_name(topic_of(*queue)), *queue as u32);
                self.queues.append(ix, *entry);
            }
            Logged::Deleted(topic) => self.queues.clear_topic(&topic_name(*topic)),
            Logged::Ends(ends) => {
                for (queue, next) in ends {
                    let ix = self.queues.find_or_add(&topic_name(topic_of(*queue)), *queue as u32);
                    self.queues.set_next(ix, QueueOffset(*next));
                }
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Append(queue, count, apart) => {
                for _ in 0..*count {
                    self.clock += i64::from(*apart);
                    self.log(Logged::Message(usize::from(*queue), entry(self.end, self.clock)));
                }
            }
            Op::Sync => {
                self.synced = self.end;
                self.queues.advance(LogOffset(self.synced), &mut Vec::new());
            }
            Op::Checkpoint => {
                // The store's rule: no checkpoint while a deletion is not synced.
                if self.piece.is_none() && self.deleted <= self.synced {
                    self.piece = self.queues.checkpoint(LogOffset(self.synced));
                }
            }
            Op::Written => {
                if let Some(mut piece) = self.piece.take() {
                    self.write(&mut piece, 100);
                    self.queues.checkpointed(piece);
                }
            }
            Op::Delete(topic) => {
                self.log(Logged::Deleted(usize::from(*topic)));
                self.deleted = self.end;
            }
            Op::Survey(hundredth) => {
                let min = (self.queues.indexed().0 * u64::from(*hundredth) / 100).next_multiple_of(10);
                if min > self.log_min && min <= self.queues.indexed().0 {
                    self.survey(min);
                }
            }
            Op::Retire => {
                if let Some((min, firsts)) = self.surveyed.take() {
                    self.queues.retire(LogOffset(min), &firsts);
                    self.log.retain(|(at, _)| *at >= min);
                    self.log_min = min;
                }
            }
            Op::Snapshot => self.snapshot(),
            Op::Crash(hundredth) => self.crash(*hundredth),
        }
    }

    fn survey(&mut self, min: u64) {
        let ends = self.queues.emptied_by(LogOffset(min)).into_iter();
        let ends = ends.map(|ix| (self.queues.name(ix).1 as usize, self.queues.next(ix).0)).collect();
        self.log(Logged::Ends(ends));
        self.step(&Op::Sync);
        self.snapshot();
        self.surveyed = Some((min, self.firsts(min)));
    }

    fn firsts(&mut self, min: u64) -> Vec<(QueueIx, QueueOffset)> {
        let straddling = self.queues.straddling(LogOffset(min));
        let first = |(ix, block): (QueueIx, BlockRef)| {
            let entries = self.block(&block);
            (ix, QueueOffset(block.first.0 + entries.partition_point(|entry| entry.at.0 < min) as u64))
        };
        straddling.into_iter().map(first).collect()
    }

    fn snapshot(&mut self) {
        self.snapshots.push((self.queues.encode(), self.queues.live_files()));
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
        if let [(_, one), (_, two)] = &self.snapshots[..] {
            let highest = one.iter().max().min(two.iter().max()).copied().unwrap_or(0);
            self.files.retain(|file, _| *file >= highest || one.contains(file) || two.contains(file));
        }
    }

    fn write(&mut self, piece: &mut BlockWrite, hundredth: usize) {
        let files = &self.files;
        let read = |block: &BlockRef, into: &mut [u8]| {
            into.copy_from_slice(&files[&block.file][block.at as usize..][..into.len()]);
            Ok::<_, String>(())
        };
        piece.read_copies(read).unwrap();
        let file = self.files.entry(piece.file).or_default();
        assert_eq!(file.len() as u64, piece.at, "pieces follow each other");
        file.extend_from_slice(&piece.bytes[..piece.bytes.len() * hundredth / 100]);
    }

    fn crash(&mut self, hundredth: u8) {
        if let Some(mut piece) = self.piece.take() {
            self.write(&mut piece, usize::from(hundredth));
        }
        self.log.retain(|(at, _)| *at < self.synced);
        self.end = self.synced;
        self.deleted = self.deleted.min(self.end);
        self.queues = match self.snapshots.last() {
            Some((bytes, _)) => Queues::decode(bytes, keyed(), ID).unwrap(),
            None => Queues::new(keyed(), ID),
        };
        self.limit();
        let (file, mut from) = self.queues.block_end();
        for (number, bytes) in self.files.range_mut(file..) {
            let whole = self.queues.adopt(*number, from, &bytes[from as usize..]).unwrap();
            bytes.truncate(whole as usize);
            from = 0;
        }
        let indexed = self.queues.indexed().0;
        assert!(indexed <= self.synced, "the index is not ahead of the log");
        self.surveyed = None;
        let firsts = self.firsts(self.log_min);
        self.queues.retire(LogOffset(self.log_min), &firsts);
        let again: Vec<Logged> = self.log.iter().filter(|(at, _)| *at >= indexed).map(|(_, l)| l.clone()).collect();
        for logged in &again {
            self.queue(logged);
        }
        self.step(&Op::Sync);
    }

    fn block(&self, block: &BlockRef) -> Vec<Entry> {
        let bytes = &self.files[&block.file][block.at as usize..][..BlockFile::bytes_of(block)];
        BlockFile::entries(bytes, block).unwrap()
    }

    /// What a reader makes of a block.
    fn cold(&self, cold: &ColdEntries) -> Vec<Entry> {
        let mut entries = self.block(&cold.block);
        entries.truncate((cold.visible.0 - cold.block.first.0) as usize);
        entries.drain(..(cold.from.0 - cold.block.first.0) as usize);
        assert!(!entries.is_empty());
        entries
    }

    fn read(&self, ix: QueueIx) -> Vec<(u64, Entry)> {
        let view = self.queues.view(ix);
        let (mut from, mut all) = (view.min, Vec::new());
        while from < view.max {
            let (entries, next) = match self.queues.pick(ix, from, &TagFilter::all(), ALL) {
                Picked::Entries { entries, next } => (entries, next),
                Picked::Cold(cold) => select(self.cold(&cold).into_iter(), from, &TagFilter::all(), ALL),
            };
            assert_eq!(next.0, from.0 + entries.len() as u64);
            all.extend((from.0..).zip(entries));
            from = next;
        }
        all
    }

    fn check(&self, model: &Model) {
        for (queue, (entries, next)) in &model.queues {
            let Some(ix) = self.queues.find(&topic_name(topic_of(*queue)), *queue as u32) else {
                assert!(*next == 0, "queue {queue} is missing");
                continue;
            };
            assert_eq!(self.queues.next(ix).0, *next, "queue {queue} goes on where it was");
            let visible: Vec<(u64, Entry)> =
                entries.iter().filter(|(_, e)| e.end().0 <= self.synced).map(|(o, e)| (*o, *e)).collect();
            assert_eq!(self.read(ix), visible, "queue {queue}");
            let view = self.queues.view(ix);
            let (min, max) = (view.min.0, view.max.0);
            let times = visible.iter().step_by(1 + visible.len() / 9).map(|(_, entry)| entry.stored.0);
            for time in times.flat_map(|time| [time - 1, time, time + 1]).chain([0, i64::MAX]) {
                for upper in [false, true] {
                    let found = match self.queues.search(ix, Timestamp(time), upper) {
                        Ok(offset) => offset,
                        Err(cold) => search_entries(&self.cold(&cold), cold.from, Timestamp(time), upper),
                    };
                    let wanted = search_slowly(&visible, min, max, time, upper);
                    assert_eq!(found.0, wanted, "queue {queue}, time {time}, upper {upper}");
                }
            }
        }
        let held: usize = self.queues.all().map(|ix| self.queues.queue(ix).held()).sum();
        assert_eq!(self.queues.checkpoints.held(), held);
    }
}

fn play(may_hold: usize, ops: &[Op]) {
    let mut play = Play::new(may_hold);
    // The model as of each position of the log, so that a crash can go back.
    let mut model = Model::default();
    let mut synced = Model::default();
    for op in ops {
        let (before, min) = (play.log.last().map(|(at, _)| *at), play.log_min);
        play.step(op);
        if let Op::Crash(_) = op {
            model = synced.clone();
        } else {
            let new = play.log.iter().filter(|(at, _)| before.is_none_or(|before| *at > before));
            for (_, logged) in new {
                model.apply(logged);
            }
        }
        if play.log_min > min {
            model.retire(play.log_min);
            synced.retire(play.log_min);
        }
        if play.synced == play.end {
            synced = model.clone();
        }
        play.check(&model);
    }
    // Whatever happened, a clean stop and start brings all of it back.
    for op in [Op::Sync, Op::Written, Op::Checkpoint, Op::Written, Op::Crash(0)] {
        play.step(&op);
    }
    play.check(&model);
    assert_eq!(play.queues.indexed().0.max(play.log_min), play.queues.indexed().0);
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0u8..9, prop_oneof![4 => 1u16..8, 1 => 1u16..500], 0u8..3).prop_map(|(q, n, apart)| Op::Append(q, n, apart)),
        5 => Just(Op::Sync),
        5 => Just(Op::Checkpoint),
        5 => Just(Op::Written),
        1 => (0u8..3).prop_map(Op::Delete),
        2 => (0u8..=100).prop_map(Op::Survey),
        2 => Just(Op::Retire),
        2 => Just(Op::Snapshot),
        2 => (0u8..=100).prop_map(Op::Crash),
    ];
    proptest::collection::vec(op, 1..60)
}

#[test]
fn a_deletion_that_a_power_cut_undoes_costs_nothing() {
    use Op::*;
    let saved = [Append(0, 5, 1), Append(1, 300, 0), Sync, Checkpoint, Written];
    let retired_meanwhile = [Survey(1), Delete(0), Retire, Snapshot, Crash(0)];
    let deleted_in_flight = [Append(0, 5, 1), Sync, Checkpoint, Delete(0), Written, Snapshot, Crash(0)];
    let deleted_twice = [Delete(0), Sync, Checkpoint, Append(0, 5, 1), Delete(0), Written, Snapshot, Crash(0)];
    for rest in [&retired_meanwhile[..], &deleted_in_flight, &deleted_twice] {
        play(1 << 30, &[&saved[..], rest].concat());
    }
}

#[test]
fn a_file_stays_as_long_as_a_piece_in_flight_reads_from_it() {
    use Op::*;
    let mostly_dead = [Append(3, 288, 0), Append(0, 4, 0), Sync, Append(0, 201, 0), Checkpoint, Delete(1), Written];
    let copied_while_the_rest_dies = [Survey(1), Append(0, 1, 0), Checkpoint, Written, Survey(59), Checkpoint, Retire];
    play(0, &[&mostly_dead[..], &copied_while_the_rest_dies, &[Snapshot, Survey(60), Written]].concat());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_moves_or_revives_an_entry(ops in ops(), may_hold in prop_oneof![Just(0usize), Just(5000), Just(1 << 30)]) {
        play(may_hold, &ops);
    }
}
