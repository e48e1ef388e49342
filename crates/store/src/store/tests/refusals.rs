use super::*;
use crate::checkpoint::{self, Slot};
use crate::meta::Snapshot;

/// A store of several segments, stopped by a kill.
fn several_segments() -> (TestDisk, u64) {
    let mut rig = Rig::new(config());
    for n in 0..250 {
        rig.put("T", &body(n, 1000));
        rig.settle();
        rig.wait(10);
    }
    rig.wait(1000);
    rig.settle();
    (rig.disk.copy(), rig.store.appended().0)
}

fn refused(disk: &TestDisk, config: StoreConfig) -> String {
    let before = disk.names();
    match Rig::open(disk.clone(), config, at(99_000)) {
        Ok(_) => panic!("it was opened"),
        Err(error) => {
            assert!(
                disk.names()
                    .iter()
                    .filter(|name| name.starts_with("commitlog"))
                    .eq(before.iter().filter(|name| name.starts_with("commitlog")))
            );
            error.to_string()
        }
    }
}

const FIRST: &str = "commitlog/00000000000000000000";
const SECOND: &str = "commitlog/00000000000000065536";
const LAST: &str = "commitlog/00000000000000262144";

#[test]
fn a_missing_log_under_a_known_identity_is_refused() {
    let (disk, _) = several_segments();
    for name in disk.names().iter().filter(|name| name.starts_with("commitlog")) {
        disk.lose(name.to_str().unwrap());
    }
    assert!(refused(&disk, config()).contains("its log is missing"));

    // Also when nothing was ever stored.
    let disk = Rig::new(config()).disk;
    disk.lose(FIRST);
    assert!(refused(&disk, config()).contains("its log is missing"));
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    for name in [FIRST, SECOND, LAST] {
        let (disk, _) = several_segments();
        disk.lose(name);
        let text = refused(&disk, config());
        assert!(text.contains(name) && text.contains("missing"), "{text}");
    }
}

#[test]
fn a_segment_of_another_length_is_refused_and_another_configured_length_is_named() {
    let (disk, _) = several_segments();
    disk.rot(SECOND, |bytes| bytes.truncate(1000));
    assert!(refused(&disk, config()).contains("the file has 1000 bytes"));
    let (disk, _) = several_segments();
    let text = refused(&disk, StoreConfig { segment_bytes: 1 << 20, ..config() });
    assert!(text.contains("set it to 65536"), "{text}");
    assert!(refused(&disk, StoreConfig { segment_bytes: 100, ..config() }).contains("mappedFileSizeCommitLog"));

    // A cut file must not pass for another configuration: whoever follows that advice loses the rest.
    let mut rig = Rig::new(config());
    rig.put("T", b"one");
    rig.settle();
    rig.disk.rot(FIRST, |bytes| bytes.truncate(20_000));
    let text = refused(&rig.disk, config());
    assert!(text.contains(FIRST) && !text.contains("set it to"), "{text}");
}

#[test]
fn segments_that_were_exchanged_are_refused_before_anything_is_written() {
    let (disk, _) = several_segments();
    let exchange = || {
        let (second, last) = (disk.bytes(SECOND), disk.bytes(LAST));
        disk.rot(SECOND, |bytes| bytes.clone_from(&last));
        disk.rot(LAST, |bytes| bytes.clone_from(&second));
    };
    exchange();
    let text = refused(&disk, config());
    assert!(text.contains(LAST) || text.contains(SECOND), "{text}");
    assert!(text.contains("was written for position"), "{text}");
    exchange();
    assert_eq!(Rig::open(disk, config(), at(99_000)).unwrap().bodies("T").len(), 250, "nothing was erased");
}

#[test]
fn damage_below_the_durable_mark_is_refused_and_above_it_when_records_stand_far_behind() {
    // The index covers everything: what is read again at start is nothing, and reads find the damage.
    let (disk, end) = several_segments();
    let again = Rig::open(disk.copy(), config(), at(99_000)).unwrap();
    assert_eq!((again.recovered.scanned, again.recovered.end.0), (0, end));

    // Without index and snapshot everything is read again.
    let forget = |disk: &TestDisk| {
        for name in disk.names().iter().filter(|name| name.to_string_lossy().starts_with("keepmq/queues-")) {
            disk.lose(name.to_str().unwrap());
        }
    };
    forget(&disk);
    let again = Rig::open(disk.copy(), config(), at(99_000)).unwrap();
    assert_eq!((again.recovered.scanned, again.recovered.end.0), (250, end));
    assert_eq!(again.bodies("T").len(), 250);

    for (name, at) in [(FIRST, 5000), (SECOND, 70), (LAST, 3000)] {
        let disk = disk.copy();
        disk.rot(name, |bytes| bytes[at] ^= 1);
        let text = refused(&disk, config());
        assert!(text.contains(name) && text.contains("no torn end"), "{text}");
    }
    // Zeroes are damage, too.
    let zeroed = disk.copy();
    zeroed.rot(SECOND, |bytes| bytes[20_000..].fill(0));
    assert!(refused(&zeroed, config()).contains("no torn end"));

    // The mark is lost as well: far behind the damage stand whole records.
    let unmarked = disk.copy();
    unmarked.lose("keepmq/checkpoint");
    unmarked.rot(LAST, |bytes| bytes[500] ^= 1);
    let small = StoreConfig { buffer_bytes: 4096, flush_bytes: 0, ..config() };
    let text = refused(&unmarked, small);
    assert!(text.contains("a whole record stands behind it"), "{text}");
}

#[test]
fn damage_below_a_snapshot_is_refused_before_anything_is_erased() {
    let mut rig = Rig::new(config());
    rig.put("T", b"one");
    rig.settle();
    rig.wait(1000);
    rig.settle();
    // The snapshot comes before the next mark does.
    let damaged = rig.put("T", &body(1, 900));
    rig.put("T", &body(2, 900));
    rig.settle();
    rig.store.save(b"tables".to_vec());
    rig.settle();
    rig.disk.rot(FIRST, |bytes| bytes[damaged.at.0 as usize + 200] ^= 1);
    let before = rig.disk.bytes(FIRST);
    let text = refused(&rig.disk, config());
    assert!(text.contains("was durable"), "{text}");
    assert!(rig.disk.bytes(FIRST) == before, "the damaged record and the one behind it are still there");
}

#[test]
fn somebody_elses_store_is_refused() {
    let (disk, _) = several_segments();
    let text = refused(&disk, StoreConfig { broker: "broker-b".into(), ..config() });
    assert!(text.contains("belongs to broker broker-a"), "{text}");

    let foreign = disk.copy();
    for name in foreign.names().iter().filter(|name| name.starts_with("keepmq")) {
        foreign.lose(name.to_str().unwrap());
    }
    assert!(refused(&foreign, config()).contains("adopt=true"));
    let adopted = Rig::open(foreign, StoreConfig { adopt: true, ..config() }, at(99_000)).unwrap();
    assert_eq!(adopted.bodies("T").len(), 250);
    let again = Rig::open(adopted.disk.copy(), config(), at(99_500)).unwrap();
    assert_eq!(again.bodies("T").len(), 250, "once adopted it is ours");

    let nameless = disk.copy();
    nameless.lose("keepmq/identity");
    assert!(refused(&nameless, config()).contains("keepmq/identity"));
    for (name, text) in [("keepmq/identity", "checksum"), ("keepmq/checkpoint", "neither of its two slots")] {
        let rotten = disk.copy();
        rotten.rot(name, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
        let error = refused(&rotten, config());
        assert!(error.contains(name), "{error}");
        assert!(error.contains(text) || name.ends_with("identity"), "{error}");
    }
}

#[test]
fn a_record_that_another_program_appended_is_not_taken_for_ours() {
    let mut rig = Rig::new(config());
    rig.put("T", b"ours");
    rig.settle();
    let end = rig.store.appended().0;
    // As RocketMQ writes it: without a checksum over the whole record.
    let place = record::Place { at: LogOffset(end), queue_offset: QueueOffset(1), stored: rig.now.wall };
    let mut bytes = Vec::new();
    draft("T", b"theirs").encode(place, &mut bytes);
    let len = bytes.len() - record::CRC_BYTES;
    let properties = "TAGS\u{1}TagA\u{2}".len() as u16;
    bytes.truncate(len);
    bytes[..4].copy_from_slice(&(len as u32).to_be_bytes());
    bytes[len - usize::from(properties) - 2..][..2].copy_from_slice(&properties.to_be_bytes());
    let disk = rig.disk.copy();
    disk.rot(FIRST, |file| file[end as usize..][..len].copy_from_slice(&bytes));
    assert!(refused(&disk, config()).contains("another program has appended"));
    let adopted = Rig::open(disk, StoreConfig { adopt: true, ..config() }, at(9)).unwrap();
    assert_eq!(adopted.bodies("T"), [&b"ours"[..], b"theirs"]);
}

#[test]
fn damage_in_an_index_file_that_others_follow_is_told_and_in_the_last_it_is_indexed_again() {
    let mut rig = Rig::new(config());
    for n in 0..400 {
        rig.put(["A", "B"][n % 2], &body(n, 300));
        rig.settle();
        rig.wait(20);
    }
    let is_index = |name: &std::path::PathBuf| name.to_string_lossy().starts_with("keepmq/queues-");
    let files: Vec<_> = rig.disk.names().into_iter().filter(is_index).collect();
    assert!(files.len() >= 2, "{files:?}");
    for (nth, file) in files.iter().enumerate() {
        let disk = rig.disk.copy();
        disk.rot(file.to_str().unwrap(), |bytes| bytes[100..].fill(0));
        let again = Rig::open(disk, config(), at(99_000)).unwrap();
        assert_eq!(again.bodies("A"), rig.bodies("A"));
        assert_eq!(again.bodies("B"), rig.bodies("B"));
        let told = again.recovered.remade.unwrap_or_default();
        if nth + 1 < files.len() {
            assert!(told.contains(file.to_str().unwrap()) && told.contains("a later file follows"), "{told}");
        } else {
            assert_eq!(told, "");
        }
    }
}

#[test]
fn what_a_snapshot_covers_is_not_taken_for_a_torn_end() {
    let mut rig = Rig::new(config());
    for n in 0..8 {
        rig.put("T", &body(n, 100));
        rig.settle();
    }
    rig.store.save(b"tables".to_vec());
    rig.settle();
    let slot = Slot::newest(&rig.disk.bytes(checkpoint::PATH), rig.store.store_id).unwrap();
    let snapshot = Snapshot::decode(&rig.disk.bytes("keepmq/meta-00000000000000000001")).unwrap();
    assert!(slot.durable.max(rig.store.queues.indexed().0) < 600 && snapshot.at > 1200, "only the snapshot knows");
    rig.disk.rot(FIRST, |bytes| bytes[600] ^= 1);
    let before = rig.disk.bytes(FIRST);
    let text = refused(&rig.disk, config());
    assert!(text.contains(&format!("everything before {} was durable", snapshot.at)), "{text}");
    assert!(rig.disk.bytes(FIRST) == before, "the messages behind the damaged one are still there");
}
