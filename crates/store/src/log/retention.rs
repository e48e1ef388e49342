use keepmq_world::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// A segment that nothing is appended to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentAge {
    pub(crate) base: u64,
    /// No record in it was stored later.
    pub(crate) last_stored: Timestamp,
}

/// How far the removal of old segments has come. One step waits for the next, so that a crash between any two finds a store
/// that still knows every queue's next offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Nothing is old enough, as far as known.
    Idle,
    /// The log shall begin at `target` once a snapshot covers `ends`, where the next offsets of emptied queues are recorded.
    Saving { target: u64, ends: u64 },
    /// Blocks that straddle the new beginning are being read.
    Surveying,
    /// The queues begin at the target; the checkpoint says so next, then the files go.
    Removing { target: u64 },
}

/// What may lie between two looks at the clock: more, and the clock is not believed.
const CLOCK_STEP: Duration = Duration::from_secs(3600);

/// What the clock says when it is believed no further than `last_stored`, the newest record's time, and `steady`, the time
/// that passed since the store was opened, allow: a clock that jumps ahead must not remove everything at once.
pub(crate) fn believed(wall: Timestamp, last_stored: Timestamp, steady: Timestamp) -> Timestamp {
    let step = millis(CLOCK_STEP);
    wall.min(Timestamp(last_stored.0.saturating_add(step))).min(Timestamp(steady.0.saturating_add(step)))
}

/// Where the log may begin: behind the oldest segments whose records are all older than `keep`, and that end at or before
/// `upto`, what snapshot and index cover. `None` when none may go. The last segment is not among `closed`, so it stays.
pub(crate) fn choose(
    closed: &VecDeque<SegmentAge>,
    segment_bytes: u64,
    now: Timestamp,
    keep: Duration,
    upto: u64,
) -> Option<u64> {
    let oldest = now.0.saturating_sub(millis(keep));
    closed
        .iter()
        .take_while(|segment| segment.last_stored.0 < oldest && segment.base + segment_bytes <= upto)
        .last()
        .map(|segment| segment.base + segment_bytes)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn only_the_oldest_go_and_only_when_everything_in_them_is_old_and_covered() {
        let closed: VecDeque<_> = [(0, 1), (100, 5), (200, 3), (300, 9)]
            .map(|(base, hour)| SegmentAge { base, last_stored: Timestamp(hour * HOUR) })
            .into();
        let chosen = |now, upto| choose(&closed, 100, Timestamp(now * HOUR), Duration::from_secs(2 * 3600), upto);
        assert_eq!(chosen(3, 1000), None, "exactly as old as allowed");
        assert_eq!(chosen(4, 1000), Some(100));
        assert_eq!(chosen(6, 1000), Some(100), "a young one shields those behind it");
        assert_eq!(chosen(8, 1000), Some(300));
        assert_eq!(chosen(8, 299), Some(200), "never behind what snapshot and index cover");
        assert_eq!(chosen(100, 1000), Some(400));
        assert_eq!(chosen(-100, 1000), None);
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_not_believed() {
        let month = Timestamp(30 * 24 * HOUR);
        assert_eq!(believed(month, Timestamp(0), Timestamp(10 * HOUR)), Timestamp(HOUR), "nothing was stored since");
        assert_eq!(
            believed(month, month, Timestamp(2 * HOUR)),
            Timestamp(3 * HOUR),
            "records carry the new time already"
        );
        assert_eq!(believed(Timestamp(5), month, month), Timestamp(5));
    }
}
