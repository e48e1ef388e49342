//! Bytes that were synced go bad while nobody looks.

use crate::disk::SimDisk;
use crate::stage::Stage;
use keepmq_world::Chance;

/// Spoils some bytes of a store that is not open: of the log only below `sure`. Whether there were any.
pub(crate) fn decay(stage: &mut Stage, chance: &mut Chance, disk: &SimDisk, sure: u64) -> bool {
    let dir = if chance.one_in(2) { "keepmq" } else { "commitlog" };
    let files = disk.files(dir);
    let last = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let sure = |name: &str| name.parse().map_or(usize::MAX, |base: u64| sure.saturating_sub(base) as usize);
    let files: Vec<_> = files
        .into_iter()
        .map(|(name, bytes)| {
            let used = last(&bytes).min(sure(&name));
            (name, used)
        })
        .filter(|(_, used)| *used > 0)
        .collect();
    if files.is_empty() {
        return false;
    }
    let (name, used) = chance.pick(&files).clone();
    let at = chance.below(used as u64) as usize;
    let other = chance.below(used as u64) as usize / 512 * 512;
    let kind = chance.below(4);
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
    true
}
