use super::*;

const SEEDS: u64 = 200;

/// What `story` leaves on the disk, over many seeds, each outcome once: `read` says what it is.
fn outcomes(story: impl Fn(&SimDisk), read: impl Fn(&SimDisk) -> String) -> Vec<String> {
    let mut all: Vec<String> = (0..SEEDS)
        .map(|seed| {
            let disk = SimDisk::new(Chance::new(seed));
            story(&disk);
            read(&disk.power_cut())
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// A synced file `d/f` of two sectors of `o` in a synced folder.
fn start(disk: &SimDisk) -> SimFile {
    disk.create_dir(Path::new("d")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    let file = disk.create(Path::new("d/f"), 1024).unwrap();
    file.write_at(0, &[b'o'; 1024]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    file
}

/// The first byte of each sector of `d/f`.
fn sectors(disk: &SimDisk) -> String {
    let files = disk.files("d");
    let found = files.iter().find(|(name, _)| name == "f");
    found.map_or("gone".to_owned(), |(_, data)| data.chunks(512).map(|s| char::from(s[0].max(b'0'))).collect())
}

fn failing(call: Call, nth: u32) -> Failing {
    Failing { call, below: "d", nth }
}

fn names(disk: &SimDisk) -> String {
    disk.list(Path::new("d")).unwrap().iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_sector_is_old_or_new_and_a_sync_makes_it_new() {
    let write = |disk: &SimDisk| start(disk).write_at(0, &[b'n'; 1024]).unwrap();
    assert_eq!(outcomes(write, sectors), ["nn", "no", "on", "oo"]);
    let synced = |disk: &SimDisk| {
        let file = start(disk);
        file.write_at(0, &[b'n'; 1024]).unwrap();
        file.sync_data().unwrap();
    };
    assert_eq!(outcomes(synced, sectors), ["nn"]);
    let twice = |disk: &SimDisk| {
        let file = start(disk);
        file.write_at(0, &[b'm'; 512]).unwrap();
        file.write_at(0, &[b'n'; 512]).unwrap();
    };
    assert_eq!(outcomes(twice, sectors), ["mo", "no", "oo"]);
}

#[test]
fn a_kill_keeps_everything_and_ends_old_handles() {
    let disk = SimDisk::new(Chance::new(1));
    let file = start(&disk);
    file.write_at(512, b"n").unwrap();
    disk.create(Path::new("d/new"), 0).unwrap();
    let next = disk.killed();
    assert_eq!((sectors(&next), names(&next)), ("on".to_owned(), "f new".to_owned()));
    assert!(file.write_at(0, b"x").is_err());
    next.open(Path::new("d/f")).unwrap().write_at(0, b"x").unwrap();
}

#[test]
fn names_and_lengths_survive_only_when_synced() {
    let create = |disk: &SimDisk| {
        start(disk);
        disk.create(Path::new("d/g"), 10).unwrap().sync_data().unwrap();
    };
    assert_eq!(outcomes(create, names), ["f", "f g"]);
    let rename = |disk: &SimDisk| {
        start(disk);
        disk.rename(Path::new("d/f"), Path::new("d/h")).unwrap();
    };
    assert_eq!(outcomes(rename, names), ["f", "h"]);
    let remove = |disk: &SimDisk| {
        start(disk);
        disk.remove(Path::new("d/f")).unwrap();
    };
    assert_eq!(outcomes(remove, sectors), ["gone", "oo"]);
    let moved = |disk: &SimDisk| {
        start(disk);
        disk.create_dir(Path::new("e")).unwrap();
        disk.create(Path::new("e/x"), 1).unwrap().sync_data().unwrap();
        disk.rename(Path::new("e/x"), Path::new("d/x")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
    };
    let both = |disk: &SimDisk| format!("{} | {}", names(disk), disk.list(Path::new("e")).unwrap().len());
    assert_eq!(outcomes(moved, both), ["f x | 0"]);
    let shorter = |disk: &SimDisk| start(disk).truncate(512).unwrap();
    assert_eq!(outcomes(shorter, sectors), ["o", "o0", "oo"]);
    let unsynced_length = |disk: &SimDisk| {
        start(disk);
        disk.create(Path::new("d/g"), 10).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
    };
    let length = |disk: &SimDisk| disk.open(Path::new("d/g")).unwrap().len().unwrap().to_string();
    assert_eq!(outcomes(unsynced_length, length), ["0", "10"]);
    let in_lost_folder = |disk: &SimDisk| {
        disk.create_dir(Path::new("d")).unwrap();
        disk.create(Path::new("d/f"), 512).unwrap().sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
    };
    assert_eq!(outcomes(in_lost_folder, sectors), ["0", "gone"]);
}

#[test]
fn a_failed_sync_promises_nothing_and_can_look_well_until_the_power_goes() {
    let fail = |disk: &SimDisk| {
        let file = start(disk);
        file.write_at(0, &[b'n'; 1024]).unwrap();
        disk.faults(|faults| faults.fails = Some(failing(Call::Sync, 1)));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        file
    };
    assert_eq!(outcomes(|disk| drop(fail(disk)), sectors), ["nn", "no", "on", "oo"]);
    let fooled = |seed| {
        let disk = SimDisk::new(Chance::new(seed));
        fail(&disk);
        sectors(&disk) == "nn" && sectors(&disk.power_cut()) != "nn"
    };
    assert!((0..SEEDS).any(fooled), "a page that is clean in memory and old on the platter");
    let written_again = |disk: &SimDisk| {
        let file = fail(disk);
        file.write_at(0, &[b'n'; 1024]).unwrap();
        file.sync_data().unwrap();
    };
    assert_eq!(outcomes(written_again, sectors), ["nn"]);
}

#[test]
fn faults_come_when_they_are_due_and_a_full_disk_takes_no_new_bytes() {
    let disk = SimDisk::new(Chance::new(1));
    let file = start(&disk);
    disk.faults(|faults| faults.fails = Some(failing(Call::Write, 2)));
    file.write_at(0, b"a").unwrap();
    assert!(file.write_at(0, b"b").is_err());
    file.write_at(0, b"c").unwrap();
    disk.faults(|faults| faults.full = true);
    assert_eq!(disk.create(Path::new("d/g"), 1).err().unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(file.write_at(1024, b"x").unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(0, b"d").unwrap();
    disk.faults(|faults| *faults = Faults { fuse: 2, ..Faults::default() });
    file.write_at(0, b"e").unwrap();
    assert!(file.write_at(0, b"f").is_err() && file.len().is_err() && disk.fuse_blown());
    assert_eq!(sectors(&disk.killed()), "eo");
}

#[test]
fn a_lost_name_is_lost_for_good_and_elsewhere_nothing_fails() {
    let disk = SimDisk::new(Chance::new(1));
    start(&disk);
    disk.faults(|faults| faults.fails = Some(Failing { below: "e", ..failing(Call::Create, 1) }));
    disk.create(Path::new("d/g"), 1).unwrap().sync_data().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    disk.lose("d/f");
    assert_eq!((names(&disk), names(&disk.power_cut())), ("g".to_owned(), "g".to_owned()));
}
