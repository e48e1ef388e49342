//! What has gone bad is found, told and counted; everything else goes on.

use super::upkeep::run;
use super::*;
use crate::job::Notice;

const DAY: u64 = 24 * 3_600_000;
const FIRST: &str = "commitlog/00000000000000000000";

fn scrubbing(bytes_per_second: u64) -> StoreConfig {
    StoreConfig { scrubbing: Scrubbing { bytes_per_second, interval: Duration::from_millis(DAY) }, ..config() }
}

/// A store of some segments that has been scrubbed once while it was empty, and its messages.
fn filled(config: &StoreConfig) -> (Rig, Vec<Appended>) {
    let mut rig = Rig::new(config.clone());
    rig.settle();
    let appended = (0..250).map(|n| rig.put("T", &body(n, 700))).collect();
    run(&mut rig, 3000);
    assert_eq!((rig.store.state().scrub.rounds, rig.store.state().scrub.at), (1, None));
    rig.wait(DAY);
    (rig, appended)
}

/// Runs until the round is over; what was told, and how long it took.
fn round(rig: &mut Rig) -> (Vec<Notice>, u64) {
    let (files, rounds) = (rig.store.files(), rig.store.state().scrub.rounds);
    let (mut told, mut took) = (Vec::new(), 0);
    while rig.store.state().scrub.rounds == rounds {
        while let Some(job) = rig.store.next_job(rig.now) {
            let done = job.run(&files);
            told.extend(done.notice());
            rig.store.finished(done, rig.now).unwrap();
        }
        rig.wait(5);
        took += 5;
        assert!(took < 60_000, "a round ends: {:?}", rig.store.state().scrub);
    }
    rig.settle();
    (told, took)
}

#[test]
fn a_good_log_is_read_to_its_end_at_the_given_speed_and_then_there_is_peace_for_a_day() {
    let (mut rig, appended) = filled(&scrubbing(50_000));
    let (told, took) = round(&mut rig);
    let state = rig.store.state().scrub;
    assert_eq!((told, state.last.records, state.last.damaged), (vec![], 250, 0));
    let end = appended.last().unwrap().end.0;
    assert_eq!(state.last.bytes, end);
    assert!(took >= 1000 * (end - SEGMENT) / 50_000, "{took} ms for {end} bytes");
    rig.wait(DAY / 2);
    rig.settle();
    assert_eq!(rig.store.state().scrub.at, None);
    rig.wait(DAY / 2);
    rig.settle();
    assert!(rig.store.state().scrub.at.is_some());
}

#[test]
fn each_damaged_record_is_found_told_once_a_round_and_never_served() {
    let (mut rig, appended) = filled(&scrubbing(10 << 20));
    // A flipped bit in a body, sixteen bytes over a head, and a lost sector that takes parts of two records.
    let [body, head, sector] = [10, 20, 70].map(|n: usize| appended[n].at.0 as usize);
    rig.disk.rot(FIRST, |bytes| {
        bytes[body + 300] ^= 1;
        bytes[head..head + 16].fill(0xff);
        bytes[(sector - 100) / 512 * 512..][..512].fill(0);
    });
    rig.store.files.forget_chunks();
    for _ in 0..2 {
        let (told, _) = round(&mut rig);
        let last = rig.store.state().scrub.last;
        assert!((3..=4).contains(&last.damaged) && last.records >= 250 - 4, "{last:?}");
        let [Notice::Bad(text)] = &told[..] else { panic!("{told:?}") };
        for part in [FIRST, &format!("position {body}, byte {body}"), &format!("position {head}"), "checksum", "magic"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        rig.wait(DAY);
    }
    let read = |at: usize| rig.store.reader().serve(&ReadPlan::record(at as u64));
    assert!(matches!(read(body), Err(ReadError::Damaged { .. })));
    assert!(matches!(read(head), Err(ReadError::Nothing { .. } | ReadError::Damaged { .. })));
    assert!(matches!(read(appended[11].at.0 as usize), Ok(Served::Records { count: 1, .. })));
    rig.put("T", b"it goes on");
    rig.settle();
}

#[test]
fn a_round_goes_on_after_a_restart_where_a_segment_began_and_what_was_seen_is_not_forgotten() {
    let config = scrubbing(20_000);
    let (mut rig, appended) = filled(&config);
    rig.disk.rot(FIRST, |bytes| bytes[appended[3].at.0 as usize + 200] ^= 1);
    rig.settle();
    while rig.store.state().scrub.at.is_none_or(|at| at < SEGMENT) {
        rig.wait(100);
        rig.settle();
    }
    let disk = rig.disk.after_power_cut(&mut Chance::new(1), 0);
    let mut again = Rig::open(disk, config.clone(), rig.now).unwrap();
    let state = again.store.state().scrub;
    assert_eq!((state.rounds, state.round.damaged), (1, 1));
    assert!(state.at.unwrap() >= SEGMENT);
    round(&mut again);
    let state = again.store.state().scrub;
    assert_eq!((state.rounds, state.last.damaged, state.last.records), (2, 1, 249));
    // A file that cannot be read is as good as none: a new round begins.
    again.disk.rot("keepmq/scrub", |bytes| bytes[40] ^= 1);
    let mut anew = Rig::open(again.disk.copy(), config, again.now).unwrap();
    assert_eq!(anew.store.state().scrub.rounds, 0);
    round(&mut anew);
    assert_eq!((anew.store.state().scrub.rounds, anew.store.state().scrub.last.damaged), (1, 1));
}

#[test]
fn what_the_device_does_not_read_is_damaged_and_the_rest_is_looked_at() {
    let (mut rig, _) = filled(&scrubbing(10 << 20));
    rig.disk.set_unreadable(true);
    let (told, _) = round(&mut rig);
    assert!(rig.store.state().scrub.last.damaged >= 3, "{:?}", rig.store.state().scrub);
    assert!(
        told.iter().all(|report| matches!(report, Notice::Bad(text) if text.contains("read of commitlog/"))),
        "{told:?}"
    );
    rig.disk.set_unreadable(false);
    rig.wait(DAY);
    assert_eq!(round(&mut rig).0, vec![]);
}

#[test]
fn the_scrub_follows_where_retention_has_let_the_log_begin() {
    let config = StoreConfig { retention: RetentionRules::keeping(Duration::from_secs(60)), ..scrubbing(2_000) };
    let (mut rig, _) = filled(&config);
    rig.settle();
    assert_eq!(rig.store.state().scrub.at.map(|at| at > 0), Some(true));
    run(&mut rig, 30_000);
    assert!(rig.store.state().min.0 >= SEGMENT);
    let (told, _) = round(&mut rig);
    assert_eq!((told, rig.store.state().scrub.last.damaged), (vec![], 0));
}

#[test]
fn good_messages_before_a_damaged_one_are_served_and_whoever_reaches_it_is_told() {
    let (rig, appended) = filled(&scrubbing(50_000));
    let bad = appended[30].at.0 as usize;
    rig.disk.rot(FIRST, |bytes| bytes[bad + 300] ^= 1);
    rig.store.files.forget_chunks();
    for messages in [3, 20, 64] {
        let limits = Limits { messages, bytes: 1 << 20, scanned: 800 };
        let pull = |from| match rig.store.select("T", 0, QueueOffset(from), &TagFilter::all(), limits) {
            Selection::Read(plan) => rig.store.reader().serve(&plan).map(|served| match served {
                Served::Records { bytes, count, next, .. } => {
                    let good = bytes.iter().map(Bytes::len).sum::<usize>() > 0;
                    (good, u64::from(count), next.0)
                }
                other => panic!("{other:?}"),
            }),
            other @ Selection::Nothing { .. } => panic!("{other:?}"),
        };
        let mut from = 0;
        while from < 30 {
            let (good, count, next) = pull(from).unwrap();
            assert!(good && count == next - from && next <= 30, "{messages}: {from} to {next}");
            from = next;
        }
        assert!(matches!(pull(30), Err(ReadError::Damaged { at, .. }) if at == bad as u64), "{messages}");
        assert!(pull(31).is_ok());
    }
}
