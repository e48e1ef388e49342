use keepmq_store::AppendError;
use keepmq_world::{Mono, Now, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages appended.
    pub(crate) messages_in: u64,
    /// Bytes of their bodies.
    pub(crate) bytes_in: u64,
    /// Sends that were refused.
    pub(crate) sends_refused: u64,
    /// Of these, because the disk had not got on for too long, and because too many waited for it.
    pub(crate) busy_stalled: u64,
    pub(crate) busy_waiting: u64,
    /// Messages and changes that could not be appended: the buffers were full, the next segment was not there yet, the disk
    /// was full.
    pub(crate) busy_buffers: u64,
    pub(crate) busy_segment: u64,
    pub(crate) disk_full: u64,
    /// Sends and changes whose outcome was answered as unknown.
    pub(crate) unknown: u64,
    /// Pulls that found something.
    pub(crate) pulls_found: u64,
    /// Pulls that found nothing.
    pub(crate) pulls_missed: u64,
    /// Pulls that were not held because too many were.
    pub(crate) pulls_not_parked: u64,
    /// Pulls that were held.
    pub(crate) pulls_parked: u64,
    /// Committed offsets that were lower than the one before.
    pub(crate) offsets_lowered: u64,
    /// Offset commits that were ignored because they name what does not exist.
    pub(crate) offsets_ignored: u64,
    /// Heartbeats that subscribe otherwise than another member of the same group did last.
    pub(crate) subscriptions_differ: u64,
    /// Requests for locks that came too early after the start.
    pub(crate) locks_early: u64,
    /// Largest message body seen, in bytes.
    pub(crate) largest: u64,
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
    pub(crate) started: Timestamp,
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
        Self { counts, started: now.wall, free: None, samples: VecDeque::from([(now.mono, counts)]) }
    }

    /// Remembers the counts now and then; called before every event, so that no timer is needed for it.
    pub(crate) fn on_event(&mut self, now: Mono) {
        if self.samples.back().is_none_or(|(at, _)| now.since(*at) >= STEP) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_over_the_windows_that_have_passed() {
        let at = |seconds: u64| Mono(seconds * 1_000_000_000);
        let mut counters = Counters::new(Now { mono: at(0), wall: Timestamp(0) });
        for second in 1..=700 {
            counters.on_event(at(second));
            counters.counts.messages_in += if second < 640 { 10 } else { 0 };
        }
        // Ten a second; the sample of a moment is taken before what happens in it.
        assert_eq!(counters.rates(at(700), |counts| counts.messages_in), "0.00 0.00 9.00");
        assert_eq!(counters.rates(at(700), |counts| counts.bytes_in), "0.00 0.00 0.00");
        assert!(counters.samples.len() <= 62);
    }
}
