//! What goes wrong with a disk while nobody uses it: bytes that were synced go bad, names are lost.

use crate::disk::SimDisk;
use crate::stage::{NodeId, Stage};
use crate::trace::Rare;
use keepmq_world::Chance;

/// What happens to a store at rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    pub(crate) node: NodeId,
    pub(crate) harm: Harm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Bytes go bad that the store knows to be durable.
    Below,
    /// After a kill, bytes of the log that were synced, but not long enough ago for the durable mark to say so.
    Above,
    /// As `Below`, of a log whose index and snapshots are gone as well: recovery must read all of it.
    Unindexed,
    /// A file's name is gone.
    Name,
    /// The folder of the log is gone: a volume that was not mounted.
    Log,
}

/// What the next start must do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Refuse: what is gone cannot be made again, and without it messages are missing.
    Refuse,
    /// Whatever it likes, but lose nothing silently.
    Tell,
}

/// Harms a store that is not open. Before `sure` the log is known to be durable, at `end` it ends. `None`: there was
/// nothing to harm.
pub(crate) fn decay(
    stage: &mut Stage,
    chance: &mut Chance,
    disk: &SimDisk,
    harm: Harm,
    (sure, end): (u64, u64),
) -> Option<Duty> {
    match harm {
        Harm::Below => {
            let dir = if chance.one_in(2) { "keepmq" } else { "commitlog" };
            spoil(stage, chance, disk, dir, (0, sure))
        }
        Harm::Above => spoil(stage, chance, disk, "commitlog", (sure, end)),
        Harm::Unindexed => {
            let spoilt = spoil(stage, chance, disk, "commitlog", (0, sure))?;
            stage.line(format_args!("index and snapshots are gone"));
            stage.happened(Rare::IndexLost);
            for (name, _) in disk.files("keepmq") {
                if name.starts_with("queues-") || name.starts_with("meta-") {
                    disk.lose(&format!("keepmq/{name}"));
                }
            }
            Some(spoilt)
        }
        Harm::Name => lose(stage, chance, disk, sure),
        Harm::Log => {
            stage.line(format_args!("commitlog is gone"));
            stage.happened(Rare::LogLost);
            disk.lose("commitlog");
            Some(Duty::Refuse)
        }
    }
}

/// Spoils some bytes in a folder; of the log between two positions.
fn spoil(stage: &mut Stage, chance: &mut Chance, disk: &SimDisk, dir: &str, (from, to): (u64, u64)) -> Option<Duty> {
    let last = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let inside = |position: u64, name: &str, otherwise: usize| {
        name.parse().map_or(otherwise, |base: u64| position.saturating_sub(base) as usize)
    };
    let files: Vec<_> = disk
        .files(dir)
        .into_iter()
        .map(|(name, bytes)| {
            let used = last(&bytes).min(inside(to, &name, usize::MAX));
            (inside(from, &name, 0), used, name)
        })
        .filter(|(from, used, _)| from < used)
        .collect();
    if files.is_empty() {
        return None;
    }
    let (from, used, name) = chance.pick(&files).clone();
    let at = from + chance.below((used - from) as u64) as usize;
    let other = chance.below(used as u64) as usize / 512 * 512;
    let kind = if from == 0 { chance.below(4) } else { 3 * chance.below(2) };
    let path = format!("{dir}/{name}");
    stage.line(format_args!("{path} goes bad at {at} of {used}, kind {kind}"));
    disk.rot(&path, |bytes| match kind {
        0 => bytes[at] ^= 1 << (at % 8),
        // A write that was lost, one that went astray, bytes that were hit.
        1 => bytes[at / 512 * 512..].iter_mut().take(512).for_each(|byte| *byte = 0),
        2 => {
            bytes.copy_within(other..(other + 512).min(used), (at / 512 * 512).min(bytes.len().saturating_sub(512)));
        }
        _ => bytes[at..].iter_mut().take(16).for_each(|byte| *byte ^= 0x5A),
    });
    Some(Duty::Tell)
}

/// Loses one name: of a segment only when everything in it is known to be durable.
fn lose(stage: &mut Stage, chance: &mut Chance, disk: &SimDisk, sure: u64) -> Option<Duty> {
    let dir = if chance.one_in(2) { "keepmq" } else { "commitlog" };
    let mut files = disk.files(dir);
    files.retain(|(name, bytes)| {
        // The reserved segment is nothing yet, and a file under a preliminary name neither.
        let end = name.parse().map_or(0, |base: u64| base + bytes.len() as u64);
        end <= sure && name != "next" && !name.ends_with(".tmp")
    });
    if files.is_empty() {
        return None;
    }
    let (name, _) = chance.pick(&files);
    stage.line(format_args!("{dir}/{name} is gone"));
    stage.happened(Rare::NameLost);
    disk.lose(&format!("{dir}/{name}"));
    Some(if dir == "commitlog" || name == "identity" { Duty::Refuse } else { Duty::Tell })
}
