use super::*;
use crate::config::{Flush, Scrubbing};
use crate::job::Lane;
use crate::testdisk::TestDisk;
use keepmq_world::Chance;
use std::time::Duration;

const SEGMENT: u64 = 64 << 10;
const HOST: &str = "127.0.0.1:10911";

fn config() -> StoreConfig {
    StoreConfig {
        cluster: "DefaultCluster".into(),
        broker: "broker-a".into(),
        segment_bytes: SEGMENT,
        flush: Flush::Sync,
        flush_interval: Duration::from_millis(500),
        flush_bytes: 4 << 10,
        buffer_bytes: 8 << 10,
        zero_ahead: 16 << 10,
        checkpoint_interval: Duration::from_secs(1),
        snapshot_bytes: 1 << 20,
        retention: RetentionRules::keeping(Duration::from_secs(3600)),
        scrubbing: Scrubbing { bytes_per_second: 0, interval: Duration::from_secs(24 * 3600) },
        place: "/data/store".into(),
        store_host: HOST.parse().unwrap(),
        adopt: false,
        accept_loss: None,
        new_id: [9; 16],
        seed: 1,
    }
}

fn at(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000_000), wall: Timestamp(1_700_000_000_000 + ms as i64) }
}

/// A store with its disk, and what it has been told.
struct Rig {
    disk: TestDisk,
    store: Store<TestDisk>,
    recovered: Recovered,
    now: Now,
    /// Who needs what is old.
    need: Option<Need>,
}

impl Rig {
    fn new(config: StoreConfig) -> Self {
        Self::open(TestDisk::default(), config, at(0)).unwrap()
    }

    fn open(disk: TestDisk, config: StoreConfig, now: Now) -> Result<Self, OpenError> {
        let (store, recovered) = Store::open(disk.clone(), config, now)?;
        Ok(Self { disk, store, recovered, now, need: None })
    }

    fn wait(&mut self, ms: u64) {
        self.now =
            Now { mono: self.now.mono + Duration::from_millis(ms), wall: Timestamp(self.now.wall.0 + ms as i64) };
    }

    fn append(&mut self, topic: &str, body: &[u8]) -> Result<Appended, AppendError> {
        self.store.append(&draft(topic, body), self.now)
    }

    fn batch(&mut self, topic: &str, bodies: &[&[u8]]) -> Vec<Appended> {
        let drafts: Vec<_> = bodies.iter().map(|body| draft(topic, body)).collect();
        self.store.append_batch(&drafts, self.now).unwrap()
    }

    /// Runs everything that can be run now.
    fn settle(&mut self) {
        self.try_settle().unwrap();
    }

    fn try_settle(&mut self) -> Result<(), Arc<JobError>> {
        let files = self.store.files();
        loop {
            self.retire();
            let Some(job) = self.store.next_job(self.now) else { break };
            self.store.finished(job.run(&files), self.now)?;
        }
        let due = self.store.deadline();
        assert!(due.is_none_or(|due| due > self.now.mono), "whoever waits for {due:?} would wait in vain");
        Ok(())
    }

    /// Lets go of old segments, if there are any.
    fn retire(&mut self) {
        if let Some(target) = self.store.may_retire(self.now) {
            self.store.retire(target, self.need.clone(), self.now);
        }
    }

    /// Appends, and flushes as often as the store is busy.
    fn put(&mut self, topic: &str, body: &[u8]) -> Appended {
        loop {
            match self.append(topic, body) {
                Ok(appended) => return appended,
                Err(AppendError::Busy { .. } | AppendError::Reserving) => self.settle(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// All readable bodies of a queue.
    fn bodies(&self, topic: &str) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let Some(view) = self.store.queue(topic, 0) else { return bodies };
        let limits = Limits { messages: 7, bytes: 1 << 20, scanned: 800 };
        let mut from = view.min;
        while from < view.max {
            let Selection::Read(plan) = self.store.select(topic, 0, from, &TagFilter::all(), limits) else {
                panic!("nothing filters")
            };
            let Served::Records { bytes, count, next, .. } = self.store.reader().serve(&plan).unwrap() else {
                panic!("records were asked for")
            };
            let before = bodies.len();
            for mut piece in bytes.iter().map(|piece| &piece[..]) {
                while !piece.is_empty() {
                    let record = record::decode_unchecked(piece).unwrap();
                    assert_eq!(record.queue_offset.0, from.0 + (bodies.len() - before) as u64);
                    bodies.push(record.body.to_vec());
                    piece = &piece[record.bytes.len()..];
                }
            }
            assert_eq!(bodies.len() - before, count as usize);
            from = next;
        }
        bodies
    }
}

fn draft<'b>(topic: &'b str, body: &'b [u8]) -> Draft<'b> {
    Draft {
        topic,
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_at: 1,
        born_host: "10.0.0.1:5".parse().unwrap(),
        store_host: HOST.parse().unwrap(),
        reconsume_times: 0,
        prepared: 0,
        body,
        body_crc: record::crc(body),
        properties: "TAGS\u{1}TagA\u{2}",
        added: "",
    }
}

/// The body of the n-th message, `len` bytes.
fn body(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 7 + at) as u8).collect()
}

#[test]
fn a_record_is_visible_once_it_is_synced_and_not_before() {
    let mut rig = Rig::new(config());
    assert!(rig.recovered.created);
    rig.settle();
    let first = rig.append("T", b"one").unwrap();
    let second = rig.append("T", b"two").unwrap();
    assert_eq!((first.at.0, first.queue_offset.0, second.queue_offset.0), (0, 0, 1));
    assert_eq!(second.at, first.end);
    assert_eq!(rig.store.queue("T", 0).unwrap().max.0, 0);

    let files = rig.store.files();
    let job = rig.store.next_job(rig.now).unwrap();
    assert_eq!(job.lane(), Lane::Flush);
    assert!(!job.is_quick());
    rig.append("T", b"three").unwrap();
    assert_eq!(rig.store.commit().0, 0, "the job has not been run");
    assert!(rig.store.take_grown().is_empty());
    rig.store.finished(job.run(&files), rig.now).unwrap();
    assert_eq!(rig.store.commit(), second.end, "what came during the flush waits for the next");
    let grown = rig.store.take_grown();
    assert_eq!(grown.iter().map(|(topic, id)| (topic.as_str(), *id)).collect::<Vec<_>>(), [("T", 0)]);
    assert_eq!(rig.bodies("T"), [b"one", b"two"]);

    let view = |at| rig.store.reader().serve(&ReadPlan::record(at));
    assert!(matches!(view(first.at.0), Ok(Served::Records { count: 1, .. })));
    assert_eq!(view(first.at.0 + 1), Err(ReadError::Nothing { at: 1 }));
    assert!(matches!(view(second.end.0), Err(ReadError::Nothing { .. })), "there, but not committed");
    rig.settle();
    assert_eq!(rig.bodies("T").len(), 3);
    assert_eq!(rig.store.state().flushed_records, 3);
}

#[test]
fn asynchronous_flush_shows_what_is_written_and_syncs_soon() {
    let mut rig = Rig::new(StoreConfig { flush: Flush::Async, zero_ahead: 0, ..config() });
    rig.settle();
    let appended = rig.append("T", b"one").unwrap();
    let files = rig.store.files();
    let job = rig.store.next_job(rig.now).unwrap();
    assert!(job.is_quick());
    rig.store.finished(job.run(&files), rig.now).unwrap();
    assert_eq!(rig.store.commit(), appended.end);
    assert_eq!(rig.store.state().synced.0, 0);
    assert!(rig.store.next_job(rig.now).is_none());
    assert_eq!(rig.store.deadline(), Some(rig.now.mono + Duration::from_millis(500)));
    rig.wait(500);
    rig.settle();
    assert_eq!(rig.store.state().synced, appended.end);
    for n in 0..6 {
        rig.put("T", &body(n, 1000));
    }
    rig.settle();
    assert_eq!(rig.store.state().synced, rig.store.appended(), "enough unsynced bytes are synced without a wait");
    // A kill loses nothing that was written.
    rig.put("T", b"last");
    rig.settle();
    let again = Rig::open(rig.disk.copy(), rig.store.config.clone(), at(9000)).unwrap();
    assert_eq!(again.bodies("T").len(), 8);
}

#[test]
fn a_segment_takes_what_leaves_room_for_a_blank_and_nothing_more() {
    let fixed = draft("T", b"").size() as u64;
    for (left, rolls) in [(8, false), (9, false), (7, true), (0, true), (4096, false)] {
        let mut rig = Rig::new(StoreConfig { buffer_bytes: 64 << 10, ..config() });
        rig.settle();
        rig.put("T", &body(0, 20_000));
        // The second would leave `left` bytes of the segment.
        let size = SEGMENT - rig.store.appended().0 - left;
        let second = rig.put("T", &body(1, (size - fixed) as usize));
        assert_eq!(second.end.0 - second.at.0, size);
        assert_eq!(second.at.0 == SEGMENT, rolls, "{left} bytes left");
        let third = rig.put("T", &body(2, 5000));
        assert_eq!(third.at.0, if rolls { second.end.0 } else { SEGMENT });
        rig.settle();
        assert_eq!(rig.store.commit(), third.end);
        let expected = [body(0, 20_000), body(1, (size - fixed) as usize), body(2, 5000)];
        assert_eq!(rig.bodies("T"), expected);
        let again = Rig::open(rig.disk.after_power_cut(&mut Chance::new(left), 0), config(), at(9000)).unwrap();
        assert_eq!(again.recovered.end, third.end);
        assert_eq!(again.bodies("T"), expected);
    }
}

#[test]
fn limits_are_checked_before_anything_is_appended() {
    let mut rig = Rig::new(config());
    rig.settle();
    let max = 3 * (8 << 10);
    assert!(matches!(rig.append("T", &body(0, max)), Err(AppendError::TooLarge { max: m, .. }) if m == max));
    let long = "x".repeat(PROPERTIES_MAX);
    let draft = Draft { properties: &long, ..draft("T", b"") };
    assert!(matches!(rig.store.append(&draft, rig.now), Err(AppendError::Properties { .. })));
    let mut kept = 0;
    let error = loop {
        match rig.append("T", &body(kept, 1000)) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Busy { .. }), "{error}");
    assert_eq!(kept, 21);
    rig.settle();
    assert_eq!(rig.bodies("T").len(), kept);
}

#[test]
fn without_space_for_the_next_segment_appends_are_refused_and_go_on_once_there_is_some() {
    let mut rig = Rig::new(StoreConfig { zero_ahead: 0, ..config() });
    rig.disk.set_space(Some(0));
    let mut kept = 0;
    let error = loop {
        match rig.append("T", &body(kept, 1000)) {
            Ok(_) => kept += 1,
            Err(AppendError::Busy { .. } | AppendError::Reserving) if kept < 118 => rig.settle(),
            Err(error) => break error,
        }
    };
    // The segment reserved at open has been used up by then.
    assert!(matches!(error, AppendError::Full(_) | AppendError::Reserving), "{error}");
    rig.settle();
    assert!(matches!(rig.append("T", &body(kept, 1000)), Err(AppendError::Full(_))));
    assert_eq!(rig.bodies("T").len(), kept);
    rig.disk.set_space(None);
    assert_eq!(rig.store.deadline(), Some(rig.now.mono + Duration::from_secs(1)));
    rig.wait(1000);
    rig.settle();
    rig.append("T", &body(kept, 1000)).unwrap();
    rig.settle();
    assert_eq!(rig.bodies("T").len(), kept + 1);
}

#[test]
fn the_first_failed_call_is_final_and_the_restarted_store_has_what_was_kept() {
    for calls in 0..12 {
        let mut rig = Rig::new(config());
        rig.put("T", b"kept");
        rig.settle();
        let commit = rig.store.commit();
        rig.disk.fail_after(calls);
        let mut failed = None;
        for n in 0..100 {
            if rig.append("T", &body(n, 2000)).is_ok() {
                continue;
            }
            failed = rig.try_settle().err();
            if failed.is_some() {
                break;
            }
        }
        let failed = failed.unwrap();
        assert_eq!(failed.why, "input/output error");
        let stopped = rig.store.state();
        assert!(stopped.commit >= commit);
        assert!(rig.store.next_job(rig.now).is_none());
        assert!(matches!(rig.append("T", b"no"), Err(AppendError::Stopped(error)) if error == failed));
        let disk = rig.disk.after_power_cut(&mut Chance::new(calls), 4);
        let again = Rig::open(disk, config(), at(9000)).unwrap();
        assert!(again.recovered.end >= stopped.commit, "failed at call {calls}");
        assert_eq!(again.bodies("T")[0], b"kept");
    }
}

#[test]
fn store_times_never_go_back_not_even_across_a_restart() {
    let mut rig = Rig::new(config());
    rig.now.wall = Timestamp(5000);
    rig.put("T", b"late clock");
    rig.settle();
    rig.wait(1000);
    rig.settle();
    for wall in [10, 4000, 7000] {
        let now = Now { mono: Mono(0), wall: Timestamp(wall) };
        rig = Rig::open(rig.disk.after_power_cut(&mut Chance::new(1), 0), config(), now).unwrap();
        rig.put("T", b"again");
        rig.settle();
        assert_eq!(rig.store.queue("T", 0).unwrap().last_stored, Timestamp(wall.max(5000)));
    }
}

#[test]
fn reads_come_from_files_as_from_memory() {
    let mut rig = Rig::new(config());
    let expected: Vec<_> = (0..200).map(|n| body(n, 900)).collect();
    for body in &expected {
        rig.put("T", body);
    }
    rig.settle();
    assert_eq!(rig.bodies("T"), expected);
    rig.disk.set_cold(true);
    let limits = Limits { messages: 10, bytes: 1 << 20, scanned: 800 };
    let Selection::Read(plan) = rig.store.select("T", 0, QueueOffset(0), &TagFilter::all(), limits) else {
        panic!("nothing filters")
    };
    assert!(rig.store.reader().try_serve(&plan).is_some(), "from memory without waiting");
    rig.store.files.forget_chunks();
    assert!(rig.store.reader().try_serve(&plan).is_none());
    assert!(rig.store.reader().serve(&plan).is_ok());
    assert_eq!(rig.bodies("T"), expected);

    let at = rig.store.appended().0;
    rig.disk.rot("commitlog/00000000000000000000", |bytes| bytes[300] ^= 1);
    rig.store.files.forget_chunks();
    let error = rig.store.reader().serve(&plan).unwrap_err();
    assert!(matches!(&error, ReadError::Damaged { at: 0, .. }), "{error}");
    assert!(matches!(rig.store.reader().serve(&ReadPlan::record(0)), Err(ReadError::Damaged { at: 0, .. })));
    for nowhere in [1, 77, at, at + 1, u64::MAX - SEGMENT] {
        let read = rig.store.reader().serve(&ReadPlan::record(nowhere));
        assert_eq!(read, Err(ReadError::Nothing { at: nowhere }));
    }
}

#[test]
fn a_filter_and_a_search_by_time() {
    let mut rig = Rig::new(config());
    for n in 0..10 {
        let properties = format!("TAGS\u{1}Tag{}\u{2}", n % 3);
        let draft = Draft { properties: &properties, ..draft("T", b"x") };
        rig.store.append(&draft, rig.now).unwrap();
        rig.wait(10);
    }
    rig.settle();
    let limits = Limits { messages: 32, bytes: 1 << 20, scanned: 800 };
    let pick = |expression: &str| match rig.store.select("T", 0, QueueOffset(0), &TagFilter::parse(expression), limits)
    {
        Selection::Nothing { next } => (0, next.0),
        Selection::Read(plan) => match rig.store.reader().serve(&plan).unwrap() {
            Served::Records { count, next, .. } => (count, next.0),
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(pick("Tag1"), (3, 10));
    assert_eq!(pick("Tag0 || Tag2"), (7, 10));
    assert_eq!(pick("Other"), (0, 10));
    let start = at(0).wall.0;
    let search = |ms, upper| {
        let plan = rig.store.search("T", 0, Timestamp(start + ms), upper);
        rig.store.reader().serve(&plan).unwrap()
    };
    assert_eq!(search(35, false), Served::Offset(QueueOffset(4)));
    assert_eq!(search(35, true), Served::Offset(QueueOffset(3)));
    let earliest = rig.store.earliest("T", 0).unwrap();
    assert_eq!(rig.store.reader().serve(&earliest), Ok(Served::Time(Timestamp(start))));
    assert!(rig.store.earliest("U", 0).is_none());
}

#[test]
fn a_buffer_that_is_filled_again_has_nothing_of_before_in_it() {
    let config = StoreConfig { segment_bytes: 64 << 20, buffer_bytes: 1 << 20, zero_ahead: 0, ..config() };
    let mut rig = Rig::new(config.clone());
    rig.settle();
    // More than what is remembered of the log's end, in chunks that are worth using again.
    const LEN: usize = 300 << 10;
    let mut end = LogOffset(0);
    for n in 0..70 {
        let appended = rig.append("T", &body(n, LEN)).unwrap();
        assert!(appended.at == end, "message {n} is at {}, and {end} is the end of the one before", appended.at);
        end = appended.end;
        rig.settle();
    }
    assert_eq!((rig.bodies("T").len(), rig.store.commit()), (70, end));
    let reopened = Rig::open(rig.disk.copy(), config, rig.now).unwrap();
    assert_eq!(reopened.bodies("T"), (0..70).map(|n| body(n, LEN)).collect::<Vec<_>>());
}

mod dead_processes;
mod losses;
mod offline;
mod power_cuts;
mod refusals;
mod scrub;
mod space;
mod upkeep;
