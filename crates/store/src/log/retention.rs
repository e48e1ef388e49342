use crate::config::{LagPolicy, RetentionRules};
use keepmq_protocol::LogOffset;
use keepmq_world::Timestamp;
use std::collections::VecDeque;
use std::fmt;

/// A segment that nothing is appended to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentAge {
    pub(crate) base: u64,
    /// No record in it was stored later, by the wall clock of the time; for texts only.
    pub(crate) last_stored: Timestamp,
    /// When its end was written, in running time ([`Ages`](super::Ages)); [`UNWRITTEN`] until then.
    pub(crate) closed: u64,
}

/// No segment becomes as old as that.
pub(crate) const UNWRITTEN: u64 = u64::MAX;

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

/// The lowest position that a group has not consumed, and which group that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Where the first message lies that the group has not consumed, or before it.
    pub at: LogOffset,
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, topic, queue_id, at } = self;
        write!(f, "group {group} has not consumed queue {queue_id} of {topic} from about position {at} of the log on")
    }
}

/// The disk, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

impl Space {
    fn used(self) -> u64 {
        self.total.saturating_sub(self.free)
    }

    /// Bytes in use above this percentage of all.
    fn above(self, percent: u8) -> u64 {
        self.used().saturating_sub(self.total / 100 * u64::from(percent))
    }
}

/// What decides which segments go.
#[derive(Debug)]
pub(crate) struct Situation<'s> {
    pub(crate) closed: &'s VecDeque<SegmentAge>,
    pub(crate) segment_bytes: u64,
    /// Running time, in milliseconds.
    pub(crate) running: u64,
    pub(crate) wall: Timestamp,
    /// Nothing behind this may go: it is not durable.
    pub(crate) upto: u64,
    pub(crate) space: Option<Space>,
    /// There was no space for the next segment.
    pub(crate) full: bool,
}

/// Where the log may begin if nobody needed what lies before; `None` when nothing may go.
///
/// Ages are running time: neither a step of the wall clock nor the time of a file can make a segment older, and while the
/// broker is down nobody could consume. The wall clock decides only at which hour of the day what is old enough goes.
pub(crate) fn choose(rules: &RetentionRules, situation: &Situation<'_>) -> Option<u64> {
    let Situation { closed, segment_bytes, running, wall, upto, space, full } = *situation;
    let hour = wall.0.div_euclid(3_600_000).rem_euclid(24);
    let above = |percent| space.map_or(0, |space| space.above(percent));
    let keep = u64::try_from(rules.keep.as_millis()).unwrap_or(u64::MAX);
    let is_old = |segment: &&SegmentAge| running.saturating_sub(segment.closed) > keep;
    let old = match rules.hours >> hour & 1 == 1 || full || above(rules.any_hour_above) > 0 {
        true => closed.iter().take_while(is_old).count() as u64,
        false => 0,
    };
    let forced = rules.forced_above.map_or(0, |percent| above(percent).div_ceil(segment_bytes));
    let count = usize::try_from(old.max(forced)).unwrap_or(usize::MAX);
    let ends = closed.iter().map(|segment| segment.base + segment_bytes);
    ends.take(count).take_while(|end| *end <= upto).last()
}

/// Where the log begins when what `need` speaks of stays, as the policy wants; and whether something stays for it.
pub(crate) fn spare(policy: LagPolicy, target: u64, need: Option<&Need>, segment_bytes: u64) -> (u64, bool) {
    match need {
        Some(need) if policy == LagPolicy::Keep && need.at.0 < target => (need.at.0 - need.at.0 % segment_bytes, true),
        _ => (target, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HOUR: u64 = 3_600_000;

    fn closed() -> VecDeque<SegmentAge> {
        let ages = [(0, 1), (100, 5), (200, 6), (300, 9)];
        ages.map(|(base, hour)| SegmentAge { base, last_stored: Timestamp(0), closed: hour * HOUR }).into()
    }

    fn situation(closed: &VecDeque<SegmentAge>, running: u64) -> Situation<'_> {
        let (running, wall) = (running * HOUR, Timestamp(30 * HOUR as i64));
        Situation { closed, segment_bytes: 100, running, wall, upto: 1000, space: None, full: false }
    }

    #[test]
    fn only_the_oldest_go_and_only_when_they_are_old_and_durable() {
        let closed = closed();
        let rules = RetentionRules::keeping(Duration::from_secs(2 * 3600));
        let chosen = |running, upto| choose(&rules, &Situation { upto, ..situation(&closed, running) });
        assert_eq!(chosen(3, 1000), None, "exactly as old as allowed");
        assert_eq!(chosen(4, 1000), Some(100));
        assert_eq!(chosen(8, 1000), Some(200));
        assert_eq!(chosen(9, 1000), Some(300));
        assert_eq!(chosen(9, 299), Some(200), "never behind what is durable");
        assert_eq!(chosen(100, 1000), Some(400));
        assert_eq!(chosen(0, 1000), None);
        let unwritten: VecDeque<_> =
            [SegmentAge { base: 0, last_stored: Timestamp(0), closed: UNWRITTEN }].into_iter().collect();
        assert_eq!(choose(&rules, &situation(&unwritten, 1_000_000)), None);
    }

    #[test]
    fn no_step_of_the_wall_clock_makes_anything_older() {
        let closed = closed();
        let rules = RetentionRules::keeping(Duration::from_secs(2 * 3600));
        for years in [-10, 0, 10] {
            let wall = Timestamp(years * 365 * 24 * HOUR as i64);
            assert_eq!(choose(&rules, &Situation { wall, ..situation(&closed, 3) }), None);
            assert_eq!(choose(&rules, &Situation { wall, ..situation(&closed, 4) }), Some(100));
        }
    }

    #[test]
    fn they_go_at_their_hour_or_when_space_runs_short() {
        let closed = closed();
        let rules = RetentionRules { hours: 1 << 4, ..RetentionRules::keeping(Duration::from_secs(2 * 3600)) };
        let at = |hour: i64, space, full| {
            let wall = Timestamp((24 * 700 + hour) * HOUR as i64 + 5);
            choose(&rules, &Situation { wall, space, full, ..situation(&closed, 8) })
        };
        let free = |free| Some(Space { free, total: 1000 });
        assert_eq!([3, 4, 5].map(|hour| at(hour, None, false)), [None, Some(200), None]);
        assert_eq!(at(3, free(250), false), None, "exactly as much as allowed");
        assert_eq!(at(3, free(249), false), Some(200), "no younger ones");
        assert_eq!(at(3, None, true), Some(200));
    }

    #[test]
    fn younger_ones_go_only_by_force_and_no_more_than_that_takes() {
        let closed = closed();
        let rules = RetentionRules { forced_above: Some(85), ..RetentionRules::keeping(Duration::from_secs(1 << 40)) };
        let with =
            |free| choose(&rules, &Situation { space: Some(Space { free, total: 1000 }), ..situation(&closed, 9) });
        assert_eq!([150, 149, 50, 49].map(with), [None, Some(100), Some(100), Some(200)]);
        let gentle = RetentionRules { forced_above: None, ..rules };
        let space = Some(Space { free: 0, total: 1000 });
        assert_eq!(choose(&gentle, &Situation { space, full: true, ..situation(&closed, 9) }), None);
    }

    #[test]
    fn what_a_group_has_not_consumed_stays_unless_the_policy_says_otherwise() {
        let need = |at| Need { at: LogOffset(at), group: "G".into(), topic: "T".into(), queue_id: 0 };
        let with = |policy, at| spare(policy, 300, Some(&need(at)), 100);
        assert_eq!(with(LagPolicy::Keep, 199), (100, true));
        assert_eq!(with(LagPolicy::Keep, 300), (300, false));
        assert_eq!(with(LagPolicy::Delete, 0), (300, false));
        assert_eq!(spare(LagPolicy::Keep, 300, None, 100), (300, false), "a topic without a group holds nothing");
    }
}
