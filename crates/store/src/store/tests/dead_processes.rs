//! What a process leaves behind that was killed, or had to give up, in the middle of a call; and then the power fails.

use super::*;

/// Opens what is left, keeps one more message, cuts the power without mercy, and looks whether everything kept is there.
fn kept_after_all(disk: TestDisk, before: &[&[u8]], story: &str) {
    let mut rig = Rig::open(disk, config(), at(1000)).unwrap_or_else(|error| panic!("{story}: {error}"));
    rig.put("T", b"after");
    rig.settle();
    let disk = rig.disk.after_power_cut(&mut Chance::new(1), 0);
    let rig = Rig::open(disk, config(), at(2000)).unwrap_or_else(|error| panic!("{story}, then a power cut: {error}"));
    let bodies = rig.bodies("T");
    for body in before.iter().copied().chain([&b"after"[..]]) {
        assert!(bodies.iter().any(|found| found == body), "{story}: {:?} is lost", String::from_utf8_lossy(body));
    }
}

#[test]
fn names_that_a_killed_process_left_are_made_durable_before_anything_is_built_on_them() {
    for calls in 0..60 {
        let disk = TestDisk::default();
        disk.off_after(calls);
        // A kill, seen from the disk: no more calls, and nothing is forgotten.
        drop(Store::open(disk.clone(), config(), at(0)));
        disk.stay_on();
        kept_after_all(disk, &[], &format!("killed before call {calls} of the first open"));
    }
}

#[test]
fn a_first_start_that_is_killed_and_a_second_that_loses_power_leave_a_store_that_opens() {
    for first in 0..60 {
        for second in 0..60 {
            let disk = TestDisk::default();
            disk.off_after(first);
            drop(Store::open(disk.clone(), config(), at(0)));
            disk.stay_on();
            disk.off_after(second);
            let opened = Store::open(disk.clone(), config(), at(500)).is_ok();
            for keep in [0, 4] {
                let disk = disk.after_power_cut(&mut Chance::new(first << 6 | second), keep);
                let story =
                    format!("killed before call {first}, then no power from call {second} of the next start on");
                kept_after_all(disk, &[], &story);
            }
            if opened {
                break;
            }
        }
    }
}

#[test]
fn a_killed_roll_is_made_durable_by_the_next_open() {
    for calls in 0..12 {
        let mut rig = Rig::new(config());
        rig.put("T", b"before");
        rig.settle();
        for n in 0..100 {
            if rig.append("T", &body(n, 2000)).is_err() {
                rig.settle();
            }
        }
        rig.disk.off_after(calls);
        drop(rig.try_settle());
        rig.disk.stay_on();
        kept_after_all(rig.disk, &[b"before"], &format!("killed before call {calls} of a flush"));
    }
}

#[test]
fn bytes_whose_sync_failed_are_written_again_before_they_count_as_kept() {
    for calls in 0..12 {
        let mut rig = Rig::new(config());
        rig.put("T", b"before");
        rig.settle();
        rig.put("T", b"written, never synced");
        rig.disk.fail_after(calls);
        if rig.try_settle().is_ok() {
            assert!(calls > 1, "a write and a sync at least can fail");
            break;
        }
        // The restarted store may show the second message or not; once it has shown it, it must keep it.
        let again = Rig::open(rig.disk.copy(), config(), at(500)).unwrap();
        let shown = again.bodies("T");
        let shown: Vec<&[u8]> = shown.iter().map(Vec::as_slice).collect();
        kept_after_all(again.disk, &shown, &format!("call {calls} failed"));
    }
}

#[test]
fn what_one_lane_is_told_by_the_disk_holds_for_the_other() {
    let mut rig = Rig::new(config());
    rig.put("T", b"kept");
    rig.settle();
    let kept = rig.store.commit();
    let files = rig.store.files();
    // Both lanes have a job under way that syncs the last segment: zeroes ahead of the tail, and a message.
    rig.put("T", &body(1, 12_000));
    let mut flush = rig.store.next_job(rig.now).unwrap();
    let mut zero = rig.store.next_job(rig.now).unwrap();
    assert_eq!((flush.lane(), zero.lane()), (Lane::Flush, Lane::Background));
    assert!(flush.step(&files).is_none(), "the message is written");
    assert!(zero.step(&files).is_none(), "the zeroes are");
    rig.disk.fail_after(0);
    let background = zero.step(&files).unwrap();
    // The file's error has been told: alone, this sync would succeed and make nothing durable.
    let flushed = flush.step(&files).unwrap();
    assert!(rig.store.finished(flushed, rig.now).is_err(), "its word comes first");
    assert!(rig.store.finished(background, rig.now).is_err());
    assert_eq!(rig.store.commit(), kept);
}
