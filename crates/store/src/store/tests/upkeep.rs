use super::*;
use crate::config::LagPolicy;
use crate::job::Notice;
use crate::meta::QueueEnd;

const HOUR: u64 = 3_600_000;

#[test]
fn metadata_is_replayed_from_the_snapshot_on() {
    let mut rig = Rig::new(config());
    let deleted = |topic: &str| MetaRecord::TopicDeleted(topic.to_owned());
    rig.store.append_meta(&deleted("A"), rig.now).unwrap();
    rig.settle();
    let again = Rig::open(rig.disk.copy(), config(), at(1)).unwrap();
    assert_eq!(again.recovered.tables, b"");
    assert_eq!(again.store.replay().unwrap(), [deleted("A")]);

    rig.store.save(b"tables".to_vec());
    rig.store.append_meta(&deleted("B"), rig.now).unwrap();
    rig.put("T", b"between");
    rig.store.append_meta(&deleted("C"), rig.now).unwrap();
    rig.settle();
    for wait in [0, 2000] {
        rig.wait(wait);
        rig.settle();
        let again = Rig::open(rig.disk.copy(), config(), at(1)).unwrap();
        assert_eq!(again.recovered.tables, b"tables");
        assert_eq!(again.store.replay().unwrap(), [deleted("B"), deleted("C")]);
    }
}

#[test]
fn tables_are_wanted_after_enough_metadata_and_two_snapshots_are_kept() {
    let mut rig = Rig::new(StoreConfig { snapshot_bytes: 500, ..config() });
    for round in 0..4 {
        assert!(!rig.store.wants_tables());
        while !rig.store.wants_tables() {
            rig.store.append_meta(&MetaRecord::TopicDeleted("A".into()), rig.now).unwrap();
        }
        rig.store.save(vec![round]);
        rig.settle();
    }
    let kept = rig.disk.names().iter().filter(|name| name.to_string_lossy().contains("meta-")).count();
    assert_eq!(kept, 2);
    let newest = "keepmq/meta-00000000000000000004";
    let open = |disk: &TestDisk| Rig::open(disk.clone(), config(), at(9)).map(|rig| rig.recovered.tables);
    assert_eq!(open(&rig.disk.copy()).unwrap(), [3]);
    rig.disk.rot(newest, |bytes| bytes[40] ^= 1);
    assert_eq!(open(&rig.disk.copy()).unwrap(), [2]);
    rig.disk.rot("keepmq/meta-00000000000000000003", |bytes| bytes[40] ^= 1);
    assert!(open(&rig.disk).unwrap_err().to_string().contains("no metadata snapshot can be read"));
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all_wherever_the_power_fails() {
    let mut rig = Rig::new(config());
    rig.settle();
    rig.store.append_meta(&MetaRecord::TopicDeleted("A".into()), rig.now).unwrap();
    rig.store.save(b"old".to_vec());
    rig.settle();
    let config = config();
    for step in 0.. {
        let mut torn = Rig::open(rig.disk.copy(), config.clone(), at(5)).unwrap();
        torn.store.append_meta(&MetaRecord::TopicDeleted("B".into()), torn.now).unwrap();
        torn.settle();
        torn.store.save(b"new".to_vec());
        torn.disk.off_after(step);
        let done = torn.try_settle().is_ok();
        for keep in [0, 4, 8] {
            let disk = torn.disk.after_power_cut(&mut Chance::new(step), keep);
            let again = Rig::open(disk, config.clone(), at(9)).unwrap();
            let replayed = again.store.replay().unwrap().len();
            match &again.recovered.tables[..] {
                b"old" => assert!(!done && replayed == 1, "step {step}"),
                b"new" => assert_eq!(replayed, 0, "step {step}"),
                other => panic!("step {step}: {other:?}"),
            }
        }
        if done {
            break;
        }
    }
}

/// Runs everything, lets old segments go, hands over tables when they are wanted, for a while.
pub(super) fn run(rig: &mut Rig, ms: u64) {
    for _ in 0..ms.div_ceil(1000) {
        rig.wait(1000);
        rig.retire();
        if rig.store.wants_tables() {
            rig.store.save(b"tables".to_vec());
        }
        rig.settle();
    }
}

fn need(at: LogOffset) -> Need {
    Need { at, group: "G".into(), topic: "T".into(), queue_id: 0 }
}

/// A store whose first segments are old and hold all of queue Old.
fn aged() -> Rig {
    let mut rig = Rig::new(config());
    for n in 0..75 {
        if n < 50 {
            rig.put("Old", &body(n, 1000));
        }
        rig.put("T", &body(n, 1000));
        rig.settle();
    }
    run(&mut rig, 3000);
    let mut opened = Rig::open(rig.disk.after_power_cut(&mut Chance::new(1), 0), config(), at(3000)).unwrap();
    opened.wait(2 * HOUR);
    // Nothing goes yet.
    opened.need = Some(need(LogOffset(0)));
    for n in 75..100 {
        opened.put("T", &body(n, 1000));
        opened.settle();
    }
    opened.need = None;
    opened
}

#[test]
fn retention_removes_old_segments_and_an_emptied_queue_goes_on_at_its_next_offset() {
    let mut rig = aged();
    let before = rig.bodies("T");
    run(&mut rig, 40_000);
    let min = rig.store.state().min.0;
    assert_eq!(min, 2 * SEGMENT);
    assert!(!rig.disk.names().contains(&crate::files::segment_path(0)));
    let check = |rig: &Rig| {
        let old = rig.store.queue("Old", 0).unwrap();
        assert_eq!((old.min.0, old.max.0, old.has_lost), (50, 50, true));
        let view = rig.store.queue("T", 0).unwrap();
        assert!(view.min.0 > 30 && view.has_lost);
        assert_eq!(rig.bodies("T"), before[view.min.0 as usize..]);
        let read = rig.store.reader().serve(&ReadPlan::record(0));
        assert_eq!(read, Err(ReadError::Removed { min }));
    };
    check(&rig);
    let mut again = Rig::open(rig.disk.after_power_cut(&mut Chance::new(1), 0), config(), at(3 * HOUR)).unwrap();
    check(&again);
    let next = again.put("Old", b"new");
    assert_eq!(next.queue_offset.0, 50);
    again.settle();
    // The records of the emptied queue are gone; without the index and with the older snapshot it is the same.
    let files = again.disk.names();
    let name = |prefix: &str| files.iter().rfind(|name| name.to_string_lossy().starts_with(prefix)).unwrap().clone();
    again.disk.rot(name("keepmq/meta-").to_str().unwrap(), |bytes| bytes[30] ^= 1);
    let again = Rig::open(again.disk.copy(), config(), at(3 * HOUR)).unwrap();
    assert_eq!(again.bodies("Old"), [b"new"]);
    assert_eq!(again.store.queue("Old", 0).unwrap().min.0, 50);
}

#[test]
fn retention_interrupted_at_any_step_leaves_a_store_that_knows_where_its_queues_go_on() {
    let start = aged().disk;
    let mut step = 0;
    loop {
        let mut rig = Rig::open(start.copy(), config(), at(2 * HOUR + 1000)).unwrap();
        rig.disk.off_after(step);
        let mut failed = false;
        for _ in 0..60 {
            rig.wait(1000);
            rig.retire();
            if rig.store.wants_tables() {
                rig.store.save(b"tables".to_vec());
            }
            if rig.try_settle().is_err() {
                failed = true;
                break;
            }
        }
        for keep in [0, 4, 8] {
            let disk = rig.disk.after_power_cut(&mut Chance::new(step), keep);
            let mut again = Rig::open(disk, config(), at(2 * HOUR + 90_000)).unwrap();
            assert_eq!(again.put("Old", b"new").queue_offset.0, 50, "step {step}");
            assert_eq!(again.bodies("T").last(), Some(&body(99, 1000)), "step {step}");
            again.settle();
            run(&mut again, 60_000);
            assert_eq!(again.store.state().min.0, 2 * SEGMENT, "step {step}: it is taken up again");
        }
        if !failed {
            assert!(step > 12);
            return;
        }
        step += 1;
    }
}

#[test]
fn a_killed_retention_is_ended_by_a_recovery_that_the_power_may_cut_at_any_step() {
    let start = aged().disk;
    for step in 0.. {
        let mut rig = Rig::open(start.copy(), config(), at(2 * HOUR + 1000)).unwrap();
        rig.disk.off_after(step);
        let killed = (0..60).any(|_| {
            rig.wait(1000);
            if rig.store.wants_tables() {
                rig.store.save(b"tables".to_vec());
            }
            rig.try_settle().is_err()
        });
        if !killed {
            assert!(step > 12);
            return;
        }
        for later in 0.. {
            // What the killed process has written is there, and not durable.
            let disk = rig.disk.copy();
            disk.off_after(later);
            let done = Rig::open(disk.clone(), config(), at(2 * HOUR + 90_000)).is_ok();
            let disk = disk.after_power_cut(&mut Chance::new(step), 0);
            let again = Rig::open(disk, config(), at(2 * HOUR + 95_000));
            let mut again = again.unwrap_or_else(|error| panic!("step {step}, then {later}: {error}"));
            assert_eq!(again.put("Old", b"new").queue_offset.0, 50, "step {step}, then {later}");
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_removes_nothing_and_times_in_the_log_stay_in_order() {
    let config = StoreConfig { retention: RetentionRules::keeping(Duration::from_secs(3 * 3600)), ..config() };
    let mut rig = Rig::new(config.clone());
    for n in 0..140 {
        rig.put("T", &body(n, 1000));
        rig.settle();
    }
    let mut last = rig.store.queue("T", 0).unwrap().last_stored;
    for years in [10, -20, 10, 10, -10] {
        let wall = Timestamp(rig.now.wall.0 + years * 365 * 24 * HOUR as i64);
        rig.now.wall = wall;
        rig.put("T", b"by another clock");
        run(&mut rig, 30_000);
        // Also for a process that knows no other clock.
        rig = Rig::open(rig.disk.after_power_cut(&mut Chance::new(1), 0), config.clone(), Now { mono: Mono(5), wall })
            .unwrap();
        rig.put("T", b"after a restart");
        run(&mut rig, 30_000);
        assert_eq!(rig.store.state().min.0, 0, "{years}");
        let stored = rig.store.queue("T", 0).unwrap().last_stored;
        assert!(stored >= last, "{years}: {stored} after {last}");
        last = stored;
    }
    assert_eq!(rig.bodies("T").len(), 150);
    // Running time goes on, whatever the clock says.
    rig.wait(4 * HOUR);
    run(&mut rig, 30_000);
    assert!(rig.store.state().min.0 > 0);
}

#[test]
fn a_segment_is_as_old_as_the_store_was_open_since_it_was_closed() {
    let mut rig = Rig::new(config());
    for n in 0..80 {
        rig.put("T", &body(n, 1000));
    }
    rig.settle();
    for _ in 0..5 {
        // Ten minutes, then the power fails, and a day passes.
        rig.wait(600_000);
        run(&mut rig, 10_000);
        assert_eq!(rig.store.state().min.0, 0);
        let wall = Timestamp(rig.now.wall.0 + 24 * HOUR as i64);
        let disk = rig.disk.after_power_cut(&mut Chance::new(1), 0);
        rig = Rig::open(disk, config(), Now { mono: Mono(7), wall }).unwrap();
    }
    run(&mut rig, 800_000);
    assert_eq!(rig.store.state().min.0, SEGMENT);
    // What cannot be read makes nothing older.
    for spoil in [vec![], vec![1; 99]] {
        let disk = rig.disk.copy();
        disk.rot("keepmq/ages", |bytes| *bytes = spoil);
        let mut again = Rig::open(disk, config(), rig.now).unwrap();
        run(&mut again, 40_000);
        assert_eq!(again.store.state().min.0, SEGMENT);
    }
}

#[test]
fn what_a_group_needs_stays_and_where_that_is_the_store_knows() {
    let mut rig = aged();
    let needed = |rig: &Rig, offset| {
        let at = rig.store.position("T", 0, QueueOffset(offset)).expect("there is such a message");
        Some(need(at))
    };
    assert_eq!(rig.store.position("T", 0, QueueOffset(100)), None);
    assert_eq!(rig.store.position("Old", 0, QueueOffset(0)).unwrap().0, 0);
    let mut beginnings = Vec::new();
    for offset in [0, 99, 99] {
        rig.need = needed(&rig, offset);
        run(&mut rig, 30_000);
        beginnings.push((rig.store.state().min.0 / SEGMENT, rig.store.state().held));
    }
    assert_eq!(beginnings, [(0, true), (2, false), (2, false)]);
    let mut rig = aged();
    rig.store.set_retention(RetentionRules { lag: LagPolicy::Delete, ..config().retention });
    rig.need = needed(&rig, 0);
    run(&mut rig, 30_000);
    assert_eq!((rig.store.state().min.0, rig.store.state().held), (2 * SEGMENT, false));
    assert_eq!(rig.store.state().removed_segments, 2);
}

#[test]
fn what_is_removed_is_told() {
    let mut rig = aged();
    let mut told = Vec::new();
    for _ in 0..30 {
        rig.wait(1000);
        rig.retire();
        if rig.store.wants_tables() {
            rig.store.save(b"tables".to_vec());
        }
        let files = rig.store.files();
        while let Some(job) = rig.store.next_job(rig.now) {
            let done = job.run(&files);
            told.extend(done.notice());
            rig.store.finished(done, rig.now).unwrap();
        }
    }
    let [Notice::Normal(text)] = &told[..] else { panic!("{told:?}") };
    for part in ["2 segments", "positions 0 to 131072", "2 queues", "queue 0 of Old at 50", "queue 0 of T at "] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn queue_ends_are_believed_when_the_records_are_gone() {
    let mut rig = Rig::new(config());
    let ends = vec![QueueEnd { topic: "Gone".into(), queue_id: 3, next: 41 }];
    rig.store.append_meta(&MetaRecord::QueueEnds(ends), rig.now).unwrap();
    rig.settle();
    let again = Rig::open(rig.disk.copy(), config(), at(1)).unwrap();
    assert_eq!(again.store.queue("Gone", 3).unwrap().max.0, 41);
}

#[test]
fn closing_makes_everything_durable() {
    let mut rig = Rig::new(config());
    rig.put("T", b"one");
    rig.store.close(b"tables".to_vec(), vec![("config/topics.json", b"{}".to_vec())], rig.now);
    assert!(matches!(rig.append("T", b"two"), Err(AppendError::Stopped(_))));
    assert!(!rig.store.is_closed());
    assert!(rig.disk.names().contains(&"abort".into()));
    rig.settle();
    assert!(rig.store.is_closed());
    let disk = rig.disk.after_power_cut(&mut Chance::new(1), 0);
    assert_eq!(disk.bytes("config/topics.json"), b"{}");
    assert_eq!(disk.bytes("checkpoint").len(), 4096);
    assert!(!disk.names().contains(&"abort".into()));
    let again = Rig::open(disk, config(), at(5)).unwrap();
    assert_eq!(
        again.recovered,
        Recovered { end: again.recovered.end, tables: b"tables".to_vec(), ..Default::default() }
    );
    assert_eq!(again.bodies("T"), [b"one"]);
}

#[test]
fn a_full_disk_stops_no_snapshot_for_good() {
    let mut rig = Rig::new(StoreConfig { zero_ahead: 0, ..config() });
    rig.put("T", b"one");
    rig.settle();
    rig.disk.set_space(Some(0));
    rig.store.save(b"tables".to_vec());
    rig.store.export(vec![("config/topics.json", b"{}".to_vec())]);
    rig.settle();
    assert!(
        !rig.disk.names().iter().any(|name| name.to_string_lossy().contains("meta-0") && name.extension().is_none())
    );
    rig.disk.set_space(None);
    run(&mut rig, 3000);
    assert!(rig.disk.names().contains(&"config/topics.json".into()));
    let again = Rig::open(rig.disk.copy(), config(), at(5)).unwrap();
    assert_eq!(again.recovered.tables, b"tables");
}

#[test]
fn a_deleted_topic_is_empty_at_once_and_after_every_replay() {
    let mut rig = Rig::new(config());
    rig.put("T", b"one");
    rig.settle();
    rig.store.append_meta(&MetaRecord::TopicDeleted("T".into()), rig.now).unwrap();
    rig.settle();
    for wait in [0, 2000] {
        rig.wait(wait);
        rig.settle();
        for rig in [&rig, &Rig::open(rig.disk.copy(), config(), at(5)).unwrap()] {
            let view = rig.store.queue("T", 0).unwrap();
            assert_eq!((view.min.0, view.max.0), (1, 1));
        }
    }
    assert_eq!(rig.put("T", b"two").queue_offset.0, 1);
}
