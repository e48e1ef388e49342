//! What an operator gives up, and what is made again: what remains is right, and no offset is given away twice.

use super::*;

const FIRST: &str = "commitlog/00000000000000000000";
const SECOND: &str = "commitlog/00000000000000065536";

/// Two topics by turns, 200 messages in several segments; where each lies.
fn two_topics() -> (Rig, Vec<Appended>) {
    let mut rig = Rig::new(config());
    let mut places = Vec::new();
    for n in 0..200 {
        places.push(rig.put(["A", "B"][n % 2], &body(n, 700)));
        rig.settle();
        rig.wait(10);
    }
    rig.wait(1000);
    rig.settle();
    (rig, places)
}

fn forget_the_index(disk: &TestDisk) {
    for name in disk.names().iter().filter(|name| name.to_string_lossy().starts_with("keepmq/queues-")) {
        disk.lose(name.to_str().unwrap());
    }
}

fn accepting(at: u64) -> StoreConfig {
    StoreConfig { accept_loss: Some(LogOffset(at)), ..config() }
}

/// Bodies by offset.
type Bodies = Vec<(u64, Vec<u8>)>;

/// All that can be read of a queue, and how many messages are said to be lost.
fn readable(rig: &Rig, topic: &str) -> (Bodies, u32) {
    let view = rig.store.queue(topic, 0).unwrap();
    let (mut found, mut missing, mut from) = (Vec::new(), 0, view.min);
    while from < view.max {
        let limits = Limits { messages: 7, bytes: 1 << 20, scanned: 800 };
        let Selection::Read(plan) = rig.store.select(topic, 0, from, &TagFilter::all(), limits) else {
            panic!("nothing filters")
        };
        let Served::Records { bytes, lost, next, .. } = rig.store.reader().serve(&plan).unwrap() else {
            panic!("records were asked for")
        };
        for mut piece in bytes.iter().map(|piece| &piece[..]) {
            while !piece.is_empty() {
                let record = record::decode_unchecked(piece).unwrap();
                found.push((record.queue_offset.0, record.body.to_vec()));
                piece = &piece[record.bytes.len()..];
            }
        }
        (missing, from) = (missing + lost, next);
    }
    (found, missing)
}

fn error(disk: TestDisk, config: StoreConfig) -> String {
    match Rig::open(disk, config, at(99_000)) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

/// The messages of one topic among those that `two_topics` has put, but for some.
fn but_for(nth: usize, lost: &[usize]) -> Bodies {
    let of_topic = (nth..200).step_by(2).zip(0..);
    of_topic.filter(|(n, _)| !lost.contains(n)).map(|(n, offset)| (offset, body(n, 700))).collect()
}

#[test]
fn damage_is_named_by_place_size_and_message_and_passed_over_only_where_that_was_allowed() {
    let (rig, places) = two_topics();
    let bad = places[30];
    let (at_, end) = (bad.at.0, bad.end.0);
    assert!(places[31].end.0 < SEGMENT);
    let disk = rig.disk.copy();
    forget_the_index(&disk);
    disk.rot(FIRST, |bytes| bytes[at_ as usize + 100] ^= 1);
    let text = error(disk.copy(), config());
    for part in [
        format!("{FIRST}: position {at_}, byte {at_} of the file"),
        format!("{} bytes cannot be read, up to {end}", end - at_),
        "1 messages are missing: offset 15 of A, queue 0".to_owned(),
        format!("keepmq broker --accept-loss {at_}"),
    ] {
        assert!(text.contains(&part), "{part:?} in {text}");
    }
    assert_eq!(error(disk.copy(), accepting(at_ + 1)), text, "another place was allowed");

    let mut again = Rig::open(disk, accepting(at_), at(99_000)).unwrap();
    assert_eq!(again.recovered.losses.len(), 1);
    assert_eq!(again.recovered.losses[0].missing[0].first, 15);
    for round in 0..3 {
        assert_eq!(readable(&again, "A"), (but_for(0, &[30]), 1), "round {round}");
        assert_eq!(readable(&again, "B"), (but_for(1, &[]), 0));
        assert_eq!(again.store.queue("A", 0).unwrap().max.0, 100);
        // Indexed, and then without the flag; and then without the index.
        again.wait(2000);
        again.settle();
        let disk = again.disk.copy();
        if round == 1 {
            forget_the_index(&disk);
        }
        again = Rig::open(disk, config(), at(100_000)).unwrap();
        assert_eq!(again.recovered.losses.len(), 1);
    }
    assert_eq!(again.append("A", b"next").unwrap().queue_offset.0, 100);
}

#[test]
fn what_the_index_covers_does_not_stop_the_start_and_can_be_given_up_as_well() {
    let (rig, places) = two_topics();
    let disk = rig.disk.copy();
    // Two neighbours, whose heads are gone, too.
    let (from, to) = (places[100].at.0, places[101].end.0);
    assert!(from > SEGMENT && to < 2 * SEGMENT);
    disk.rot(SECOND, |bytes| bytes[(from - SEGMENT) as usize..(to - SEGMENT) as usize].fill(0xEE));
    let again = Rig::open(disk.copy(), config(), at(99_000)).unwrap();
    assert!(again.recovered.losses.is_empty());
    let text = error(disk.copy(), accepting(from + 4));
    assert!(text.contains("nothing damaged begins at position"), "{text}");
    let sound = error(rig.disk.copy(), accepting(from));
    assert!(sound.contains("nothing damaged begins at position"), "{sound}");

    let mut again = Rig::open(disk, accepting(from), at(99_000)).unwrap();
    assert_eq!((again.recovered.losses[0].from, again.recovered.losses[0].to), (from, to));
    assert_eq!(again.recovered.losses[0].messages(), (2, 0));
    for _ in 0..2 {
        assert_eq!(readable(&again, "A"), (but_for(0, &[100]), 1));
        assert_eq!(readable(&again, "B"), (but_for(1, &[101]), 1));
        // The same flag again asks for nothing new; and the index may be lost later.
        let disk = again.disk.copy();
        forget_the_index(&disk);
        again = Rig::open(disk, accepting(from), at(100_000)).unwrap();
        assert_eq!(again.recovered.losses.len(), 1);
    }
}

#[test]
fn offsets_in_a_damaged_end_are_not_given_away_again() {
    let (rig, places) = two_topics();
    // The index ends before the last messages: it does not say what was in them.
    let disk = rig.disk.copy();
    forget_the_index(&disk);
    let (from, end) = (places[190].at.0, rig.store.commit().0);
    let base = from - from % SEGMENT;
    assert!(end < base + SEGMENT);
    disk.rot(crate::files::segment_path(base).to_str().unwrap(), |bytes| bytes[(from - base) as usize..].fill(0));
    let text = error(disk.copy(), config());
    assert!(text.contains("Whether messages are missing is not known: perhaps offsets from 95 on, at most"), "{text}");
    let mut again = Rig::open(disk, accepting(from), at(99_000)).unwrap();
    assert_eq!(readable(&again, "A").0, but_for(0, &[190, 192, 194, 196, 198]));
    let next = again.append("A", b"next").unwrap();
    assert!(next.queue_offset.0 >= 100, "{next:?}: the 100th message was seen by somebody");
    assert!(next.at.0 >= end, "{next:?}: so was this position");
    again.settle();
    let mut third = Rig::open(again.disk.copy(), config(), at(100_000)).unwrap();
    assert_eq!(readable(&third, "A").0.last(), Some(&(next.queue_offset.0, b"next".to_vec())));
    // Segments go on as ever.
    for n in 0..100 {
        third.put("B", &body(n, 2000));
    }
    third.settle();
    let last = Rig::open(third.disk.copy(), config(), at(101_000)).unwrap();
    assert_eq!(readable(&last, "B").0.last().unwrap().1, body(99, 2000));
}

#[test]
fn a_batch_that_lost_a_record_keeps_the_others() {
    let mut rig = Rig::new(config());
    rig.settle();
    rig.put("A", b"before");
    let batch = rig.batch("A", &[b"one", b"two", b"three"]);
    rig.put("A", b"after");
    rig.settle();
    rig.wait(1000);
    rig.settle();
    let bad = batch[1].at.0;
    let disk = rig.disk.copy();
    forget_the_index(&disk);
    disk.rot(FIRST, |bytes| bytes[bad as usize + 4..bad as usize + 60].fill(0));
    let text = error(disk.copy(), config());
    assert!(text.contains(&format!("position {bad},")) && text.contains("offset 2 of A"), "{text}");
    let again = Rig::open(disk, accepting(bad), at(99_000)).unwrap();
    let bodies: Vec<_> = readable(&again, "A").0.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [&b"before"[..], b"one", b"three", b"after"]);
}

#[test]
fn a_damaged_journal_of_losses_stops_the_start() {
    let (rig, places) = two_topics();
    let disk = rig.disk.copy();
    disk.rot(FIRST, |bytes| bytes[places[3].at.0 as usize + 100] ^= 1);
    let again = Rig::open(disk, accepting(places[3].at.0), at(99_000)).unwrap();
    let disk = again.disk.copy();
    disk.rot("keepmq/losses", |bytes| bytes[60] ^= 1);
    let text = error(disk, config());
    assert!(text.contains("keepmq/losses") && text.contains("checksum"), "{text}");
}

/// Everything that can be asked about the queues of these topics.
fn queues(rig: &Rig, topics: &[&str]) -> Vec<(QueueView, Bodies)> {
    let of_topic = |topic: &&str| {
        let view = rig.store.queue(topic, 0).unwrap();
        // What memory happens to know of times is not the same.
        (QueueView { last_stored: Timestamp(0), ..view }, readable(rig, topic).0)
    };
    topics.iter().map(of_topic).collect()
}

#[test]
fn queues_are_made_again_when_files_of_the_index_are_damaged() {
    let mut rig = Rig::new(config());
    for n in 0..150 {
        rig.put("old", &body(n, 700));
        rig.put("both", &body(n, 300));
        rig.settle();
        rig.wait(10);
    }
    rig.store.append_meta(&MetaRecord::TopicDeleted("both".into()), rig.now).unwrap();
    rig.wait(3_600_000);
    // So many that the record of where the old topic goes on is taken by retention, too.
    for n in 0..500 {
        rig.put(["both", "new"][n % 2], &body(n, 700));
        if rig.store.wants_tables() {
            rig.store.save(b"tables".to_vec());
        }
        rig.settle();
        rig.wait(20_000);
    }
    rig.settle();
    assert!(rig.store.state().min.0 > 0, "retention has taken something");
    let topics = ["old", "both", "new"];
    let sound = Rig::open(rig.disk.copy(), config(), at(99_000_000)).unwrap();
    assert_eq!(sound.recovered.remade, None);
    let expected = queues(&sound, &topics);
    assert_eq!(expected[0].1, [], "the old topic was emptied, and its offsets go on");

    let is_index = |name: &std::path::PathBuf| name.to_string_lossy().starts_with("keepmq/queues-");
    let files: Vec<_> = rig.disk.names().into_iter().filter(is_index).collect();
    assert!(files.len() >= 2, "{files:?}");
    let mut remade = 0;
    for file in &files {
        let file = file.to_str().unwrap();
        for hurt in ["lost", "cut", "zeroed"] {
            let disk = rig.disk.copy();
            match hurt {
                "lost" => disk.lose(file),
                "cut" => disk.rot(file, |bytes| bytes.truncate(bytes.len() / 2)),
                _ => disk.rot(file, |bytes| bytes[36..].fill(0)),
            }
            let mut again = Rig::open(disk, config(), at(99_000_000)).unwrap();
            remade += usize::from(again.recovered.remade.is_some());
            if again.recovered.remade.is_none() {
                continue;
            }
            assert_eq!(queues(&again, &topics), expected, "{file} was {hurt}");
            // Before and after a snapshot speaks of the new files.
            for round in 0..3 {
                for (n, topic) in topics.iter().enumerate() {
                    let next = again.put(topic, &body(n, 300)).queue_offset;
                    assert_eq!(next.0, expected[n].0.max.0 + round, "{file} was {hurt}, round {round}");
                }
                if round == 1 {
                    again.store.save(b"tables".to_vec());
                }
                again.wait(2000);
                again.settle();
                again = Rig::open(again.disk.copy(), config(), at(99_100_000)).unwrap();
                assert_eq!(again.recovered.remade.is_some(), round == 0, "{file} was {hurt}, round {round}");
            }
        }
    }
    assert!(remade >= 4, "{remade} of {} files", files.len());
}

#[test]
fn what_is_given_up_beside_what_was_given_up_before_does_not_cover_it() {
    let (rig, places) = two_topics();
    for forgotten in [false, true] {
        let mut disk = rig.disk.copy();
        // From behind, so that each time the damage touches what was given up before.
        for n in [42, 41, 40] {
            let (from, to) = (places[n].at.0, places[n].end.0);
            disk.rot(FIRST, |bytes| bytes[from as usize..to as usize].fill(0));
            if forgotten {
                forget_the_index(&disk);
            }
            let again = Rig::open(disk, accepting(from), at(99_000)).unwrap();
            let loss = again.recovered.losses.first().unwrap().clone();
            assert_eq!((loss.from, loss.to, loss.messages()), (from, to, (1, 0)), "{forgotten}");
            disk = again.disk.copy();
        }
        forget_the_index(&disk);
        let again = Rig::open(disk, config(), at(100_000)).unwrap();
        assert_eq!(readable(&again, "A"), (but_for(0, &[40, 42]), 2), "{forgotten}");
        assert_eq!(readable(&again, "B"), (but_for(1, &[41]), 1), "{forgotten}");
    }
}

#[test]
fn a_long_reading_tells_how_far_it_is() {
    let (rig, _) = two_topics();
    let mut told = Vec::new();
    let mut hear = |progress: Progress| told.push(progress);
    let disk = rig.disk.copy();
    forget_the_index(&disk);
    Store::open_telling(disk, config(), at(99_000), &mut hear).unwrap();
    assert!(told.len() >= 3, "once a segment at least: {told:?}");
    assert!(told.iter().all(|progress| progress.done <= progress.total), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].done < pair[1].done), "{told:?}");
}

#[test]
fn a_lost_segment_can_be_given_up_as_zeroes() {
    let (rig, places) = two_topics();
    let disk = rig.disk.copy();
    disk.lose(SECOND);
    let text = error(disk, config());
    for part in [SECOND, "the file is missing: 65536 bytes from position 65536 on", "--accept-loss 65536"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let inside = |place: &Appended| (SEGMENT..2 * SEGMENT).contains(&place.at.0);
    let lost: Vec<usize> = (0..200).filter(|n| inside(&places[*n])).collect();
    for forgotten in [false, true] {
        let disk = rig.disk.copy();
        disk.rot(SECOND, |bytes| bytes.fill(0));
        if forgotten {
            forget_the_index(&disk);
        }
        let again = Rig::open(disk, accepting(SEGMENT), at(99_000)).unwrap();
        assert_eq!(again.recovered.losses[0].messages(), (lost.len() as u64, 0));
        assert_eq!(readable(&again, "A").0, but_for(0, &lost), "{forgotten}");
        assert_eq!(readable(&again, "B").0, but_for(1, &lost), "{forgotten}");
    }
}

#[test]
fn what_the_device_refuses_to_read_is_damage_below_the_mark_and_never_a_torn_end() {
    let (rig, places) = two_topics();
    let page = 8192..12_288u64;
    let hurt = |place: &Appended| place.at.0 < page.end && page.start < place.end.0;
    let lost: Vec<usize> = (0..200).filter(|n| hurt(&places[*n])).collect();
    let from = places[lost[0]].at.0;
    for forgotten in [false, true] {
        let disk = rig.disk.copy();
        disk.break_off(FIRST, page.clone());
        if forgotten {
            forget_the_index(&disk);
            let text = error(disk.copy(), config());
            assert!(text.contains(&format!("position {from},")) && text.contains("input/output error"), "{text}");
            assert!(text.contains(&format!("{} messages are missing", lost.len())), "{text}");
        }
        let again = Rig::open(disk, accepting(from), at(99_000)).unwrap();
        assert_eq!(readable(&again, "A").0, but_for(0, &lost), "{forgotten}");
        assert_eq!(readable(&again, "B").0, but_for(1, &lost), "{forgotten}");
    }

    // Behind the end nobody knows what is there.
    let disk = rig.disk.copy();
    let end = rig.store.commit().0;
    let base = end - end % SEGMENT;
    let tail = end - base..end - base + 1;
    disk.break_off(crate::files::segment_path(base).to_str().unwrap(), tail);
    let text = error(disk, config());
    assert!(text.contains("read of commitlog/") && text.contains("input/output error"), "{text}");
}
