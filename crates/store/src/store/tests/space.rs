//! A disk without space: what is refused is refused for certain, and everything goes on by itself.

use super::upkeep::run;
use super::*;
use crate::meta::OffsetCommit;

/// A store that has filled its disk, and how many messages it has taken.
fn full(config: StoreConfig) -> (Rig, usize) {
    let mut rig = Rig::new(StoreConfig { zero_ahead: 0, ..config });
    // For three more segments, and what little else is written.
    rig.disk.set_space(Some(3 * SEGMENT + 40_000));
    let mut kept = 0;
    loop {
        match rig.append("T", &body(kept, 1000)) {
            Ok(_) => kept += 1,
            Err(AppendError::Busy { .. } | AppendError::Reserving) => run(&mut rig, 1000),
            Err(AppendError::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    run(&mut rig, 2000);
    (rig, kept)
}

fn commit(rig: &mut Rig, offset: i64) -> Result<Appended, AppendError> {
    let commit = OffsetCommit { group: "G".into(), topic: "T".into(), queue_id: 0, offset };
    rig.store.append_meta(&MetaRecord::Offsets(vec![commit]), rig.now)
}

#[test]
fn a_refusal_says_where_and_how_much_and_who_is_waited_for() {
    let (mut rig, kept) = full(config());
    rig.store.set_space(4711, 1 << 30);
    rig.wait(2 * 3_600_000);
    rig.need = Some(Need { at: LogOffset(0), group: "slow".into(), topic: "T".into(), queue_id: 0 });
    rig.settle();
    let text = rig.append("T", &body(kept, 1000)).unwrap_err().to_string();
    for part in
        ["no space for the next segment", "/data/store", "4711 bytes are free", "keepmq/next", "group slow has not"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(rig.bodies("T").len(), kept);
}

#[test]
fn on_a_full_disk_consumers_commit_and_old_segments_make_space_without_anybodys_help() {
    let (mut rig, kept) = full(config());
    for offset in 0..10 {
        commit(&mut rig, offset).unwrap();
        rig.settle();
        assert!(matches!(rig.append("T", &body(kept, 1000)), Err(AppendError::Full(_))));
    }
    // Somebody takes the last byte: only the room that the store keeps is left for a snapshot.
    rig.disk.set_space(Some(0));
    rig.wait(2 * 3_600_000);
    run(&mut rig, 30_000);
    let min = rig.store.state().min.0;
    assert!(min > 0, "old segments have gone");
    rig.put("T", &body(kept, 1000));
    rig.settle();
    let view = rig.store.queue("T", 0).unwrap();
    assert_eq!(view.max.0, kept as u64 + 1);
    let again = Rig::open(rig.disk.after_power_cut(&mut Chance::new(3), 0), config(), rig.now).unwrap();
    assert_eq!(again.bodies("T"), rig.bodies("T"));
}

#[test]
fn an_index_that_finds_no_space_does_not_grow_in_memory_for_ever() {
    let mut rig = Rig::new(StoreConfig { segment_bytes: 1 << 20, zero_ahead: 0, ..config() });
    rig.put("T", b"first");
    run(&mut rig, 3000);
    rig.store.queues.hold_at_most(1000);
    rig.disk.set_space(Some(0));
    let mut kept = 1;
    let error = loop {
        match rig.append("T", b"x") {
            Ok(_) => kept += 1,
            Err(AppendError::Busy { .. }) => run(&mut rig, 1000),
            Err(error) => break error,
        }
        assert!(kept < 5000, "it is never refused");
        if kept % 20 == 0 {
            run(&mut rig, 1000);
        }
    };
    assert!(error.to_string().contains("no space for the index"), "{error}");
    commit(&mut rig, 1).unwrap();
    rig.disk.set_space(None);
    run(&mut rig, 3000);
    rig.append("T", b"again").unwrap();
    rig.settle();
    assert_eq!(rig.bodies("T").len(), kept + 1);
}

#[test]
fn a_clean_stop_waits_for_space_a_while_and_then_ends_with_everything_in_the_log() {
    let (mut rig, kept) = full(config());
    rig.disk.set_space(Some(0));
    rig.disk.lose("keepmq/room");
    rig.store.close(b"tables".to_vec(), vec![("config/topics.json", b"{}".to_vec())], rig.now);
    let mut waited = 0;
    while !rig.store.is_closed() {
        rig.settle();
        rig.wait(1000);
        waited += 1;
        assert!(waited < 10, "it never ends");
    }
    assert!(waited > 3 && rig.store.state().gave_up);
    assert!(rig.disk.names().contains(&"abort".into()), "RocketMQ has to look at the log, too");
    let disk = rig.disk.after_power_cut(&mut Chance::new(1), 0);
    let again = Rig::open(disk, config(), rig.now).unwrap();
    assert_eq!((again.recovered.tables.as_slice(), again.bodies("T").len()), (&b""[..], kept));
    // With space for it, a stop waits for nothing.
    let (mut rig, _) = full(config());
    rig.disk.set_space(None);
    rig.store.close(b"tables".to_vec(), Vec::new(), rig.now);
    run(&mut rig, 1000);
    assert!(rig.store.is_closed() && !rig.store.state().gave_up);
}
