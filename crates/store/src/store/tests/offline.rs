//! Looking at a store that nobody has open.

use super::*;
use crate::offline::{Finding, Report, Shown, dump, inspect, verify};
use std::ops::ControlFlow;
use std::path::PathBuf;

const FIRST: &str = "commitlog/00000000000000000000";
const SECOND: &str = "commitlog/00000000000000065536";

/// Three topics by turns in several segments, a snapshot, an index; stopped by a kill. And where each message lies.
fn store() -> (TestDisk, Vec<(&'static str, Appended)>) {
    let mut rig = Rig::new(config());
    let mut places = Vec::new();
    for n in 0..200 {
        let topic = ["A", "B", "C"][n % 3];
        places.push((topic, rig.put(topic, &body(n, 700))));
        if n == 120 {
            rig.store.save(b"tables".to_vec());
        }
        rig.settle();
        rig.wait(10);
    }
    rig.wait(1000);
    rig.settle();
    (rig.disk.copy(), places)
}

/// Verifies, and looks whether anything was changed by it.
fn verified(disk: &TestDisk) -> Report {
    let before: Vec<_> = disk.names().iter().map(|name| disk.bytes(name.to_str().unwrap())).collect();
    let (calls, names) = (disk.calls(), disk.names());
    let mut told = 0;
    let report = verify(disk.clone(), &mut |progress| {
        assert!(progress.done <= progress.total);
        told += 1;
    })
    .unwrap();
    assert!(told > 0);
    assert_eq!((disk.calls(), disk.names()), (calls, names));
    assert!(disk.names().iter().map(|name| disk.bytes(name.to_str().unwrap())).eq(before));
    report
}

fn file_of(at: u64) -> (String, usize) {
    let base = at - at % SEGMENT;
    (crate::files::segment_path(base).display().to_string(), (at - base) as usize)
}

/// "A 3, B 7-8", for all findings.
fn missing(report: &Report) -> String {
    let runs = report.findings.iter().flat_map(|finding| &finding.missing).map(|run| match run.count {
        1 => format!("{} {}", run.topic, run.first),
        count => format!("{} {}-{}", run.topic, run.first, run.first + count - 1),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_store_after_a_kill_is_sound_and_says_what_is_in_it() {
    let (disk, places) = store();
    let report = verified(&disk);
    assert!(report.is_sound(), "{report:?}");
    let end = places[199].1.end.0;
    assert_eq!((report.records, report.entries, report.end, report.torn), (200, 200, end, None));
    let info = inspect(disk).unwrap();
    assert_eq!((info.broker.as_deref(), info.store_id.unwrap()), (Some("broker-a"), "09".repeat(16)));
    assert_eq!((info.segment_bytes, info.segments.len(), info.topics, info.queues), (SEGMENT, 3, 3, 3));
    assert_eq!((info.durable, info.indexed, info.clean_stop, info.wrong.len()), (end, end, false, 0));
    assert_eq!((info.snapshots.len(), info.snapshots[0].generation), (1, 1));

    // An empty one, one that was closed, and none at all.
    let mut rig = Rig::new(config());
    assert!(verified(&rig.disk).is_sound());
    rig.put("A", b"one");
    rig.store.close(Vec::new(), Vec::new(), rig.now);
    rig.store.export(vec![("config/topics.json", b"{}".to_vec())]);
    rig.settle();
    assert!(verified(&rig.disk).is_sound() && inspect(rig.disk.copy()).unwrap().clean_stop);
    assert!(verify(TestDisk::default(), &mut |_| {}).unwrap_err().to_string().contains("neither keepmq/identity nor"));
}

#[test]
fn every_damaged_message_is_named() {
    let (disk, places) = store();
    let mut chance = Chance::new(5);
    for (n, (topic, place)) in places.iter().enumerate().step_by(3).chain(places.iter().enumerate().skip(197)) {
        let disk = disk.copy();
        let (at, len) = (place.at.0, place.end.0 - place.at.0);
        // The last one of a segment: with it goes the blank behind it.
        let is_last = places.get(n + 1).is_some_and(|(_, next)| next.at > place.end);
        let unreadable = if is_last { SEGMENT - at % SEGMENT } else { len };
        let (file, byte) = file_of(at);
        let hurt = byte + chance.below(len) as usize;
        let how = chance.below(3);
        disk.rot(&file, |bytes| match how {
            0 => bytes[hurt] ^= 1 << chance.below(8),
            1 => bytes[byte..byte + len as usize].fill(0),
            _ => bytes[byte..=hurt].iter_mut().for_each(|byte| *byte ^= 0x55),
        });
        let report = verified(&disk);
        let story = format!("message {n}, byte {}, way {how}: {report:?}", hurt - byte);
        assert_eq!(missing(&report), format!("{topic} {}", place.queue_offset.0), "{story}");
        let Finding { position, bytes, durable, .. } = &report.findings[0];
        assert_eq!((report.findings.len(), *position, *bytes, *durable), (1, Some(at), unreadable, true), "{story}");
        assert_eq!(report.findings[0].byte, byte as u64);
        assert_eq!(report.records, 199, "{story}");
        assert!(report.findings[0].todo.contains(&format!("--accept-loss {at}")), "{story}");

        // The advice works, and then the store is sound, but for what was given up.
        let config = StoreConfig { accept_loss: Some(LogOffset(at)), ..config() };
        let again = Rig::open(disk, config, super::at(99_000)).unwrap();
        let report = verified(&again.disk);
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.losses.len(), report.losses[0].messages()), (1, (1, 0)));
    }
}

#[test]
fn a_torn_end_is_told_and_is_no_damage() {
    let (disk, places) = store();
    let end = places[199].1.end.0;
    let (file, byte) = file_of(end);
    disk.rot(&file, |bytes| bytes[byte..byte + 600].fill(7));
    let report = verified(&disk);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.torn.map(|torn| (torn.at, torn.bytes)), Some((end, 600)));
}

#[test]
fn a_missing_segment_and_a_cut_one_name_all_that_was_in_them() {
    let (disk, places) = store();
    let inside = |from: u64| places.iter().filter(|(_, place)| (from..from + SEGMENT).contains(&place.at.0)).count();
    for (base, file) in [(0, FIRST), (SEGMENT, SECOND), (2 * SEGMENT, "commitlog/00000000000000131072")] {
        for cut in [false, true] {
            let disk = disk.copy();
            match cut {
                true => disk.rot(file, |bytes| bytes.truncate(5000)),
                false => disk.lose(file),
            }
            let report = verified(&disk);
            let finding = &report.findings[0];
            assert_eq!((finding.file.as_str(), finding.position, finding.bytes), (file, Some(base), SEGMENT));
            let named: u64 = finding.missing.iter().map(|run| run.count).sum();
            assert_eq!(named as usize, inside(base), "{file}, cut: {cut}: {finding:?}");
            assert_eq!(report.records as usize, 200 - inside(base));
        }
    }
}

#[test]
fn an_end_that_has_become_zero_names_what_the_index_knows() {
    let (disk, places) = store();
    let (file, byte) = file_of(places[194].1.at.0);
    disk.rot(&file, |bytes| bytes[byte..].fill(0));
    let report = verified(&disk);
    assert_eq!(missing(&report), "A 65-66, B 65-66, C 64-65".to_owned(), "{report:?}");
    assert!(report.findings[0].what.contains("everything before"), "{report:?}");
    assert_eq!(report.end, places[194].1.at.0);
}

#[test]
fn files_of_ours_that_are_damaged_are_found() {
    let (disk, _) = store();
    let is_index = |name: &PathBuf| name.to_string_lossy().starts_with("keepmq/queues-");
    let index = disk.names().into_iter().filter(is_index).map(|name| name.display().to_string());
    let own = ["keepmq/identity", "keepmq/checkpoint", "keepmq/meta-00000000000000000001"].map(str::to_owned);
    for file in own.into_iter().chain(index) {
        for how in ["lost", "hurt"] {
            let disk = disk.copy();
            match how {
                "lost" if file.contains("meta-") || file.contains("identity") => continue,
                "lost" => disk.lose(&file),
                // A mark has two slots: one that is torn is as good as none.
                _ => disk.rot(&file, |bytes| bytes.iter_mut().skip(50).step_by(64).for_each(|byte| *byte ^= 1)),
            }
            let report = verified(&disk);
            let named = report.findings.iter().any(|finding| finding.file == file);
            assert!(named, "{file} {how}: {report:?}");
            assert_eq!(missing(&report), "", "{file} {how}: the log has everything");
        }
    }
    // An entry that is whole and wrong: it leads to another record.
    let file = disk.names().into_iter().find(is_index).unwrap().display().to_string();
    disk.rot(&file, |bytes| {
        let entry = 36 + 24;
        bytes[entry + 9] ^= 4;
        let (count, name) = (u16::from_be_bytes([bytes[36 + 20], bytes[36 + 21]]), bytes[36 + 23]);
        let end = entry + 20 * usize::from(count) + usize::from(name);
        let crc = crc32fast::hash(&bytes[36 + 8..end]).to_be_bytes();
        bytes[36 + 4..36 + 8].copy_from_slice(&crc);
    });
    let report = verified(&disk);
    assert!(report.findings.iter().any(|finding| finding.file == file), "{report:?}");
}

#[test]
fn records_are_shown_from_anywhere_past_damage() {
    let (disk, places) = store();
    let shown = |disk: &TestDisk, from: u64, count: usize| {
        let mut seen = Vec::new();
        dump(disk.copy(), LogOffset(from), &mut |shown| {
            seen.push(match shown {
                Shown::Record(record) => format!("{} {}", record.topic, record.queue_offset.0),
                Shown::Damaged { from, to, .. } => format!("{from}..{to}"),
            });
            if seen.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        seen
    };
    assert_eq!(shown(&disk, 0, 4), ["A 0", "B 0", "C 0", "A 1"]);
    assert_eq!(shown(&disk, 0, 1000).len(), 200);
    let (second, third) = (places[1].1.at.0, places[2].1.at.0);
    assert_eq!(shown(&disk, second, 1), ["B 0"]);
    assert_eq!(shown(&disk, second + 1, 2), [format!("{}..{third}", second + 1), "C 0".to_owned()]);
    disk.rot(FIRST, |bytes| bytes[second as usize + 50] ^= 1);
    assert_eq!(shown(&disk, 0, 3), ["A 0".to_owned(), format!("{second}..{third}"), "C 0".to_owned()]);
}
