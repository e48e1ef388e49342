//! Where the syncs are done that replies wait for.
//!
//! | | in the shard | in the thread |
//! |---|---|---|
//! | several shards, or syncs that nobody waits for | – | always |
//! | one core | always | – |
//! | else, at first | yes | |
//! | cold reads wait, or the p99 of the last 128 flushes exceeds 2 ms | → | |
//! | neither has been so for 128 flushes | | ← |

use std::time::Duration;

/// Who does them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The shard: no hop between threads, but nothing else happens there meanwhile.
    Shard,
    /// A thread of their own.
    Thread,
}

/// A flush that takes longer is felt by everybody else on the shard.
const SLOW: Duration = Duration::from_millis(2);
/// Slow ones among the last 128 that put their p99 above [`SLOW`].
const SLOW_MOST: u32 = 1;
/// Flushes without a reason for the thread before the shard does them again.
const CALM: u32 = 128;

/// Chooses the place for each flush, by those before it.
#[derive(Clone, Debug)]
pub(crate) struct Syncs {
    place: Place,
    /// Load may move them.
    moves: bool,
    /// The last 128 flushes, a bit each: whether it was slow.
    slow: u128,
    /// Flushes since the last reason for the thread.
    calm: u32,
}

impl Syncs {
    /// Before the first. `awaited`: replies wait for them, as under SYNC_FLUSH.
    pub(crate) fn new(cores: usize, shards: usize, awaited: bool) -> Self {
        let (place, moves) = match (cores, shards) {
            (_, 2..) => (Place::Thread, false),
            (1, _) => (Place::Shard, false),
            _ if !awaited => (Place::Thread, false),
            _ => (Place::Shard, true),
        };
        Self { place, moves, slow: 0, calm: 0 }
    }

    /// Where the next one is done. `cold_reads`: how many wait for the disk.
    pub(crate) fn next(&mut self, cold_reads: usize) -> Place {
        if self.moves {
            let reason = cold_reads > 0 || self.slow.count_ones() > SLOW_MOST;
            match self.place {
                Place::Shard if reason => {
                    (self.place, self.calm) = (Place::Thread, 0);
                    tracing::debug!(cold_reads, slow = self.slow.count_ones(), "syncs move to their thread");
                }
                Place::Thread if cold_reads > 0 => self.calm = 0,
                Place::Thread if self.calm >= CALM => {
                    (self.place, self.slow) = (Place::Shard, 0);
                    tracing::debug!("syncs move back to the shard");
                }
                Place::Shard | Place::Thread => {}
            }
        }
        self.place
    }

    /// One has ended.
    pub(crate) fn took(&mut self, time: Duration) {
        let slow = time > SLOW;
        self.slow = self.slow << 1 | u128::from(slow);
        self.calm = if slow { 0 } else { self.calm.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(100);
    const LONG: Duration = Duration::from_millis(3);

    /// So many flushes, of which every nth is slow; where the one after them is done.
    fn after(syncs: &mut Syncs, flushes: u32, nth: u32, cold_reads: usize) -> Place {
        for flush in 1..=flushes {
            syncs.next(cold_reads);
            syncs.took(if flush % nth == 0 { LONG } else { QUICK });
        }
        syncs.next(cold_reads)
    }

    #[test]
    fn what_the_machine_decides_no_load_moves() {
        for (cores, shards, awaited, place) in [
            (1, 1, true, Place::Shard),
            (1, 1, false, Place::Shard),
            (1, 2, true, Place::Thread),
            (4, 3, true, Place::Thread),
            (2, 1, false, Place::Thread),
        ] {
            let mut syncs = Syncs::new(cores, shards, awaited);
            assert_eq!(after(&mut syncs, 300, 1, 5), place);
            assert_eq!(after(&mut syncs, 300, u32::MAX, 0), place);
        }
    }

    #[test]
    fn slow_flushes_go_to_the_thread_and_come_back_when_the_disk_has_calmed_down() {
        let mut syncs = Syncs::new(2, 1, true);
        assert_eq!(after(&mut syncs, 1000, 129, 0), Place::Shard, "one in more than 128 is no p99");
        assert_eq!(after(&mut syncs, 1000, 100, 0), Place::Thread);
        assert_eq!(after(&mut syncs, 1000, 100, 0), Place::Thread, "never 128 quick ones in a row");
        assert_eq!(after(&mut syncs, CALM - 1, u32::MAX, 0), Place::Thread);
        assert_eq!(after(&mut syncs, 1, u32::MAX, 0), Place::Shard);
        assert_eq!(after(&mut syncs, 1, 1, 0), Place::Shard, "what was slow before the thread is forgotten");
        assert_eq!(after(&mut syncs, 1, 1, 0), Place::Thread);
    }

    #[test]
    fn cold_reads_have_the_shard_to_themselves() {
        let mut syncs = Syncs::new(2, 1, true);
        assert_eq!(syncs.next(1), Place::Thread);
        assert_eq!(after(&mut syncs, 10 * CALM, u32::MAX, 1), Place::Thread);
        assert_eq!(after(&mut syncs, CALM, u32::MAX, 0), Place::Shard);
    }
}
