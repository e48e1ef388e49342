//! Taking a store over from RocketMQ, before anything else is done with it: what lies beside the log is read, the core says what
//! it means, and a broker without clients writes it down and ends. What is interrupted is done again.

use crate::config::BrokerSetup;
use crate::failure::{ExitCode, Failure, Problem};
use keepmq_broker::takeover::{AdoptError, Beside, FILES, MARKS, TakeoverError, take_over};
use keepmq_broker::{Broker, Task};
use keepmq_disk::OsDisk;
use keepmq_net::now;
use keepmq_protocol::seam::{Core, Effect, Event, Exit};
use keepmq_store::{AppendError, Files, MetaRecord, QueueEnd, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Bytes of an entry of RocketMQ's consume queues: position 8, size 4, tag 8. Source: `ConsumeQueue.CQ_STORE_UNIT_SIZE`.
const UNIT: u64 = 20;
/// Largest table that is read.
const TABLE_MAX: u64 = 256 << 20;
/// Longest wait of a broker that has nobody to wait for.
const WAIT: Duration = Duration::from_millis(50);

/// Takes over what there is, if it is to be. Nothing has changed when it is refused.
pub(crate) fn run(setup: &mut BrokerSetup, disk: &OsDisk) -> Result<(), Failure> {
    let root = disk.root();
    let beside = look(root).map_err(|error| unread(root, &error))?;
    let records = take_over(&beside, setup.store.adopt).map_err(|error| refused(root, &error))?;
    if records.is_empty() {
        return Ok(());
    }
    let count = |kind: fn(&MetaRecord) -> usize| records.iter().map(kind).sum::<usize>();
    let topics = count(|record| usize::from(matches!(record, MetaRecord::Topic(_))));
    let groups = count(|record| usize::from(matches!(record, MetaRecord::Group(_))));
    let offsets = count(|record| if let MetaRecord::Offsets(lines) = record { lines.len() } else { 0 });
    tracing::info!("taking the store in {} over from RocketMQ", root.display());
    write_down(setup, disk, records)?;
    // It has been accepted, and is no damage any more.
    setup.store.accept_loss = None;
    tracing::info!(
        "taken over: {topics} topics (those of RocketMQ's own among them), {groups} groups, {offsets} offsets"
    );
    Ok(())
}

/// A broker's life without clients: it adopts, and ends when all is kept.
fn write_down(setup: &BrokerSetup, disk: &OsDisk, records: Vec<MetaRecord>) -> Result<(), Failure> {
    let root = disk.root();
    let mut config = setup.broker.clone();
    // Nobody is to be told of it.
    config.name_servers.clear();
    let (store, recovered) = Store::open(disk.clone(), setup.store.clone(), now())
        .map_err(|error| crate::broker::open_refused(error, root))?;
    let files = store.files();
    let mut broker = Broker::open(store, recovered, config, setup.store.seed, now())
        .map_err(|error| crate::broker::tables_refused(&error, root))?;
    for record in records {
        loop {
            match broker.adopt(record.clone(), now()) {
                Ok(()) => break,
                Err(AdoptError::Append(AppendError::Busy { .. } | AppendError::Reserving)) => {
                    if let Some(exit) = work(&mut broker, &files) {
                        return ended(root, exit);
                    }
                }
                Err(error) => {
                    let why = "without it a queue or an offset would be another than it was";
                    let remedy = "RocketMQ can still open the store; see to what is named, then try again";
                    return Err(failed(root, ExitCode::Io, error.to_string(), why, remedy));
                }
            }
        }
    }
    broker.handle(Event::Stop, now());
    loop {
        if let Some(exit) = work(&mut broker, &files) {
            return ended(root, exit);
        }
        std::thread::sleep(WAIT);
        broker.handle(Event::Tick, now());
    }
}

/// Does what the core wants done; how it has ended, if it has.
fn work(broker: &mut Broker<OsDisk>, files: &Files<OsDisk>) -> Option<Exit> {
    while let Some(effect) = broker.poll_effect() {
        match effect {
            Effect::Work(Task::Job(job)) => broker.handle(Event::Done(job.run(files).into()), now()),
            Effect::Exit(exit) => return Some(exit),
            other => unreachable!("a broker without clients and name servers wants nothing of others: {other:?}"),
        }
    }
    None
}

fn ended(root: &Path, exit: Exit) -> Result<(), Failure> {
    match exit {
        Exit::Clean => Ok(()),
        Exit::Disk(what) => {
            let why = "a takeover ends when everything is on disk, or it begins anew";
            Err(failed(root, ExitCode::Io, what, why, "see to the disk, then start again with --adopt"))
        }
    }
}

// ---- what is there -----------------------------------------------------------------------------------------------------

fn look(root: &Path) -> io::Result<Beside> {
    let mut marks: BTreeSet<String> = BTreeSet::new();
    for (mark, _) in MARKS {
        if is_filled(&root.join(mark))? {
            marks.insert(mark.to_owned());
        }
    }
    marks.extend(names(root)?.into_iter().filter(|name| name.starts_with("dledger-")));
    let mut files = BTreeMap::new();
    for path in FILES {
        if let Some(bytes) = content(&root.join(path))? {
            files.insert(path, bytes);
        }
    }
    let is_segment = |name: &String| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    Ok(Beside {
        log: names(&root.join("commitlog"))?.iter().any(is_segment),
        known: root.join("keepmq/identity").try_exists()?,
        abort: content(&root.join("abort"))?,
        ends: ends(&root.join("consumequeue"))?,
        marks,
        files,
    })
}

/// A file, or a folder that has something in it.
fn is_filled(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(!names(path)?.is_empty()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(TABLE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TABLE_MAX {
        return Err(io::Error::other(format!("{} has more than {TABLE_MAX} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// Where each consume queue ends: `consumequeue/<topic>/<queue>/<position of its first entry, 20 digits>`.
fn ends(root: &Path) -> io::Result<Vec<QueueEnd>> {
    let mut ends = Vec::new();
    for topic in names(root)? {
        for name in names(&root.join(&topic))? {
            let folder = root.join(&topic).join(&name);
            let Ok(queue_id) = name.parse() else { continue };
            let Some((last, base)) = names(&folder)?.into_iter().rev().find_map(|last| {
                let base: u64 = last.parse().ok()?;
                Some((last, base))
            }) else {
                continue;
            };
            let next = base / UNIT + entries(&File::open(folder.join(last))?)?;
            ends.push(QueueEnd { topic: topic.clone(), queue_id, next });
        }
    }
    Ok(ends)
}

/// How many entries a file of a consume queue has: they stand without a gap, and behind them there are zeroes.
fn entries(file: &File) -> io::Result<u64> {
    let (mut least, mut most) = (0, file.metadata()?.len() / UNIT);
    while least < most {
        let middle = least + (most - least) / 2;
        let mut size = [0; 4];
        file.read_exact_at(&mut size, middle * UNIT + 8)?;
        if i32::from_be_bytes(size) > 0 { least = middle + 1 } else { most = middle }
    }
    Ok(least)
}

// ---- why not -----------------------------------------------------------------------------------------------------------

fn failed(root: &Path, exit: ExitCode, what: String, why: &str, remedy: &str) -> Failure {
    let title = format!("the store {} cannot be taken over from RocketMQ", root.display());
    Failure::new(exit, Problem::new(title, what, why, remedy))
}

fn unread(root: &Path, error: &io::Error) -> Failure {
    let title = format!("what lies beside the log in {} cannot be read", root.display());
    let why = "it says whether RocketMQ has used the store since";
    let remedy = "see to the disk and the rights of the files, then start again";
    Failure::new(ExitCode::Io, Problem::new(title, error.to_string(), why, remedy))
}

fn refused(root: &Path, error: &TakeoverError) -> Failure {
    let what = error.to_string();
    match error {
        TakeoverError::NotAsked(_) => {
            let title = format!("the store {} is not this broker's", root.display());
            let why = "a store belongs to whoever wrote it last";
            let remedy = "stop RocketMQ for good, then start once with --adopt; or choose another storePathRootDir";
            Failure::new(ExitCode::Configuration, Problem::new(title, what, why, remedy))
        }
        TakeoverError::Unclean => {
            let why = "offsets that RocketMQ had in memory only are lost, and consumers would see much again";
            let remedy =
                "start RocketMQ once more, stop it with mqshutdown, and wait until it has ended; then try again";
            failed(root, ExitCode::Configuration, what, why, remedy)
        }
        TakeoverError::Kind(_) => {
            let why = "what cannot be read as it was meant would be lost in silence";
            let remedy = "nothing was changed: RocketMQ can open it. Let consumers read to the end there, and begin with a new store";
            failed(root, ExitCode::Configuration, what, why, remedy)
        }
        TakeoverError::Waiting(_) => {
            let why = "RocketMQ would have delivered them; KeepMQ does not know how";
            let remedy = "nothing was changed: start RocketMQ once more without producers until they are delivered or resolved \
                          (half messages: a minute behind the last commit or rollback), stop it cleanly, and try again";
            failed(root, ExitCode::Configuration, what, why, remedy)
        }
        TakeoverError::Damaged { .. } => {
            let why = "without this file topics, groups or offsets would be lost in silence";
            let remedy = "nothing was changed: RocketMQ goes on with the .bak beside it, if there is one; start and stop it once, \
                          or restore the file from a copy";
            failed(root, ExitCode::Damaged, what, why, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consume_queue_ends_behind_its_last_entry() {
        let root = tempfile::tempdir().unwrap();
        let unit = |position: u64| {
            let mut unit = position.to_be_bytes().to_vec();
            unit.extend([0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0]);
            unit
        };
        let folder = root.path().join("consumequeue/T/3");
        fs::create_dir_all(&folder).unwrap();
        for count in [0, 1, 6, 7, 10] {
            let mut bytes: Vec<u8> = (0..count).flat_map(unit).collect();
            bytes.resize(200, 0);
            fs::write(folder.join("00000000000000000200"), bytes).unwrap();
            let found = ends(&root.path().join("consumequeue")).unwrap();
            assert_eq!(found, [QueueEnd { topic: "T".to_owned(), queue_id: 3, next: 10 + count }]);
        }
    }
}
