use crate::histogram::Histogram;
use keepmq_store::AppendError;
use keepmq_world::{Mono, Now, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages appended.
    pub messages_in: u64,
    /// Bytes of their bodies.
    pub bytes_in: u64,
    /// Of both, those of topics that have no numbers of their own.
    pub others: Traffic,
    /// Sends that were refused.
    pub sends_refused: u64,
    /// Of these, because the disk had not got on for too long, and because too many waited for it.
    pub busy_stalled: u64,
    /// See `busy_stalled`.
    pub busy_waiting: u64,
    /// Messages and changes that could not be appended: the buffers were full …
    pub busy_buffers: u64,
    /// … the next segment was not there yet …
    pub busy_segment: u64,
    /// … the disk was full.
    pub disk_full: u64,
    /// Sends that were answered before the disk was asked, as the producer wished (`allowClientRelax`).
    pub sends_relaxed: u64,
    /// Pulls that found something.
    pub pulls_found: u64,
    /// Pulls that found nothing.
    pub pulls_missed: u64,
    /// Messages that pulls asked for, or had to pass, and that retention had removed.
    pub lost_by_retention: u64,
    /// Pulls that were not held because too many were.
    pub pulls_not_parked: u64,
    /// Pulls that were held.
    pub pulls_parked: u64,
    /// Committed offsets that were lower than the one before.
    pub offsets_lowered: u64,
    /// Offset commits that were ignored because they name what does not exist.
    pub offsets_ignored: u64,
    /// Heartbeats that subscribe otherwise than another member of the same group did last.
    pub subscriptions_differ: u64,
    /// Requests for locks that came too early after the start.
    pub locks_early: u64,
    /// Largest message body seen, in bytes.
    pub largest: u64,
}

/// Messages, and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

/// Topics and groups that have numbers of their own, in the order of their tables; the others are counted together.
pub(crate) const SHOWN: usize = 1_000;

/// Bounds for times, in nanoseconds: from 50 µs to 5 s.
pub(crate) const LATENCIES: &[u64] = &[
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
];

/// RocketMQ's bounds for sizes of messages.
const SIZES: &[u64] = &[1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// A time for a histogram of them.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Counts {
    /// Something could not be appended.
    pub(crate) fn not_appended(&mut self, error: &AppendError) {
        match error {
            AppendError::Busy { .. } => self.busy_buffers += 1,
            AppendError::Reserving => self.busy_segment += 1,
            AppendError::Full(_) => self.disk_full += 1,
            AppendError::TooLarge { .. } | AppendError::Properties { .. } | AppendError::Stopped(_) => {}
        }
    }
}

/// Counts, and how fast they grow.
pub(crate) struct Counters {
    pub(crate) counts: Counts,
    /// Refused sends by the code of the answer: only codes that we have, so there are few.
    pub(crate) refused: BTreeMap<i32, u64>,
    /// Sizes of bodies.
    pub(crate) sizes: Histogram,
    /// Time from the start of a flush to its end, as the core sees both.
    pub(crate) flush_times: Histogram,
    /// When the flush that is under way, or was last, began; and how many had ended then.
    flush_began: (Mono, u64),
    /// Counts at the beginning of the day (UTC), and of the day before; of a day that began before the start, none.
    pub(crate) mornings: [Counts; 2],
    day: i64,
    pub(crate) started: Timestamp,
    /// The same moment, for whoever asks how long ago that was.
    pub(crate) since: Mono,
    /// Free bytes on the store's disk, as last reported.
    pub(crate) free: Option<u64>,
    /// Counts of earlier times, at least `STEP` apart, no older than the longest window.
    samples: VecDeque<(Mono, Counts)>,
}

const STEP: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// RocketMQ shows rates over 10 s, a minute and ten minutes.
const WINDOWS: [Duration; 3] = [STEP, Duration::from_secs(60), LONGEST];

impl Counters {
    pub(crate) fn new(now: Now) -> Self {
        let counts = Counts::default();
        Self {
            counts,
            refused: BTreeMap::new(),
            sizes: Histogram::new(SIZES),
            flush_times: Histogram::new(LATENCIES),
            flush_began: (now.mono, 0),
            mornings: [counts; 2],
            day: day(now.wall),
            started: now.wall,
            since: now.mono,
            free: None,
            samples: VecDeque::from([(now.mono, counts)]),
        }
    }

    /// A message was appended. The topic is counted by its table.
    pub(crate) fn message(&mut self, bytes: usize) {
        let (counts, bytes) = (&mut self.counts, bytes as u64);
        counts.messages_in += 1;
        counts.bytes_in += bytes;
        counts.largest = counts.largest.max(bytes);
        self.sizes.record(bytes);
    }

    /// A send was refused.
    pub(crate) fn refused(&mut self, code: i32) {
        self.counts.sends_refused += 1;
        *self.refused.entry(code).or_default() += 1;
    }

    /// A flush is handed out; `ended` have ended before.
    pub(crate) fn flush_begins(&mut self, ended: u64, now: Mono) {
        self.flush_began = (now, ended);
    }

    /// A job has ended, perhaps a flush: then `ended` is one more than at its beginning.
    pub(crate) fn job_ended(&mut self, ended: u64, now: Mono) {
        let (began, before) = self.flush_began;
        if ended > before {
            self.flush_times.record(nanos(now.since(began)));
            self.flush_began = (now, ended);
        }
    }

    /// Remembers the counts now and then; called before every event, so that no timer is needed for it.
    pub(crate) fn on_event(&mut self, now: Now) {
        let (now, wall) = (now.mono, now.wall);
        if self.samples.back().is_none_or(|(at, _)| now.since(*at) >= STEP) {
            // A clock that goes back begins no day.
            if day(wall) > self.day {
                self.day = day(wall);
                self.mornings = [self.counts, self.mornings[0]];
            }
            self.samples.push_back((now, self.counts));
            // One sample older than the longest window is kept to measure from.
            while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= LONGEST) {
                self.samples.pop_front();
            }
        }
    }

    /// Growth per second of what `of` picks, over the three windows, as RocketMQ writes it.
    pub(crate) fn rates(&self, now: Mono, of: impl Fn(&Counts) -> u64) -> String {
        let rate = |window: &Duration| {
            let since = self.samples.iter().rev().find(|(at, _)| now.since(*at) >= *window);
            let Some((at, then)) = since.or(self.samples.front()) else { return 0.0 };
            let passed = now.since(*at).as_secs_f64();
            if passed > 0.0 { (of(&self.counts) - of(then)) as f64 / passed } else { 0.0 }
        };
        WINDOWS.iter().map(|window| format!("{:.2}", rate(window))).collect::<Vec<_>>().join(" ")
    }
}

fn day(wall: Timestamp) -> i64 {
    wall.0.div_euclid(86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_timed_and_other_jobs_are_not() {
        let at = |micros: u64| Mono(micros * 1_000);
        let mut counters = Counters::new(Now { mono: at(0), wall: Timestamp(0) });
        counters.flush_begins(0, at(100));
        counters.job_ended(0, at(150));
        counters.job_ended(1, at(400));
        counters.job_ended(1, at(900));
        assert_eq!((counters.flush_times.count(), counters.flush_times.sum()), (1, 300_000));
    }

    #[test]
    fn a_day_begins_at_midnight() {
        let at = |hours: u64| Now { mono: Mono(hours * 3_600_000_000_000), wall: Timestamp(hours as i64 * 3_600_000) };
        let mut counters = Counters::new(at(20));
        for (hour, mornings) in [(23, [0, 0]), (24, [2, 0]), (47, [2, 0]), (48, [4, 2]), (30, [4, 2])] {
            counters.counts.messages_in += 1;
            counters.on_event(at(hour));
            assert_eq!(counters.mornings.map(|counts| counts.messages_in), mornings, "{hour}");
        }
    }

    #[test]
    fn rates_are_taken_over_the_windows_that_have_passed() {
        let at = |seconds: u64| Mono(seconds * 1_000_000_000);
        let mut counters = Counters::new(Now { mono: at(0), wall: Timestamp(0) });
        for second in 1..=700 {
            counters.on_event(Now { mono: at(second), wall: Timestamp(0) });
            counters.counts.messages_in += if second < 640 { 10 } else { 0 };
        }
        // Ten a second; the sample of a moment is taken before what happens in it.
        assert_eq!(counters.rates(at(700), |counts| counts.messages_in), "0.00 0.00 9.00");
        assert_eq!(counters.rates(at(700), |counts| counts.bytes_in), "0.00 0.00 0.00");
        assert!(counters.samples.len() <= 62);
    }
}
