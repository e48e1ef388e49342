use crate::counters::{LATENCIES, nanos};
use crate::histogram::Histogram;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::Effect;
use keepmq_protocol::{LogOffset, Response, ResponseCode};
use keepmq_world::Mono;
use std::collections::VecDeque;
use std::time::Duration;

/// What is lost when a reply cannot be given in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stake {
    /// Something was appended: its outcome is unknown, and the answer says where it is if it survives.
    Wrote,
    /// Something was only asked, and what would be answered is not kept yet: it may not be shown.
    Looked,
}

/// Replies held until what they speak of is kept.
///
/// One queue for all: both ends and due times only grow, because a reply that could go earlier than one that already waits
/// waits with it. So releasing and timing out look at the front alone.
pub(crate) struct Pending {
    waiting: VecDeque<Waiting>,
    timeout: Duration,
    /// How many wait for what they wrote. (How many bytes that may be, the store's buffers say.)
    wrote: usize,
    /// Bytes of answers to those who only look.
    looked: usize,
    pub(crate) tally: Tally,
}

/// What became of those who wait for what they wrote.
pub(crate) struct Tally {
    /// Sends answered with SEND_OK once they were kept.
    pub(crate) sends_kept: u64,
    /// Sends and changes whose outcome was answered as unknown.
    pub(crate) unknown: u64,
    /// Time from append to answer, of sends and changes that were kept.
    pub(crate) commit_times: Histogram,
}

/// Why no more messages are accepted for now. Nothing has been appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Busy {
    /// The disk does not get on: what is accepted now might not be kept in time.
    #[error(
        "the oldest answer has waited {waited} ms for the disk; the limit is {max} ms (a fifth of syncFlushTimeout)"
    )]
    Stalled { waited: u128, max: u128 },
    #[error("{waiting} answers wait for the disk; the limit is {WROTE_MAX}")]
    Many { waiting: usize },
}

/// Most who wait for what they wrote.
const WROTE_MAX: usize = 100_000;
/// This part of the timeout is how long the oldest may have waited when another send is accepted. The flush under way and
/// the next one, which carries what is accepted now, then both have time.
const STALLED: u32 = 5;

/// Most bytes of answers held for those who only look.
const LOOKED_MAX: usize = 64 << 20;

struct Waiting {
    to: Caller,
    end: LogOffset,
    since: Mono,
    stake: Stake,
    response: Response,
}

impl Pending {
    pub(crate) fn new(timeout: Duration) -> Self {
        let tally = Tally { sends_kept: 0, unknown: 0, commit_times: Histogram::new(LATENCIES) };
        Self { waiting: VecDeque::new(), timeout, wrote: 0, looked: 0, tally }
    }

    /// From now on. Who waits already waits as long as was promised.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Why nobody else may send for now.
    pub(crate) fn busy(&self, now: Mono) -> Option<Busy> {
        let (waited, max) = (now.since(self.waiting.front()?.since), self.timeout / STALLED);
        if waited >= max {
            return Some(Busy::Stalled { waited: waited.as_millis(), max: max.as_millis() });
        }
        (self.wrote >= WROTE_MAX).then_some(Busy::Many { waiting: self.wrote })
    }

    /// Whether nobody else may look for now.
    pub(crate) fn is_full(&self) -> bool {
        self.looked >= LOOKED_MAX
    }

    /// Holds a reply until the log is kept up to `end`.
    pub(crate) fn hold(&mut self, to: Caller, end: LogOffset, stake: Stake, response: Response, now: Mono) {
        let (last_end, last_since) = self.waiting.back().map_or_else(Default::default, |last| (last.end, last.since));
        let waiting = Waiting { to, end: end.max(last_end), since: now.max(last_since), stake, response };
        self.wrote += waiting.wrote();
        self.looked += waiting.looked();
        self.waiting.push_back(waiting);
    }

    /// Gives the replies that need not wait any longer.
    pub(crate) fn release<W>(&mut self, commit: LogOffset, now: Mono, effects: &mut VecDeque<Effect<W>>) {
        if keepmq_world::planted!("reply-to-wrong-request") {
            self.swap_two(commit);
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.end <= commit) {
            self.wrote -= waiting.wrote();
            self.looked -= waiting.looked();
            if waiting.stake == Stake::Wrote {
                self.tally.commit_times.record(nanos(now.since(waiting.since)));
                self.tally.sends_kept += u64::from(matches!(waiting.response.header, ResponseHeader::Send(_)));
            }
            effects.push_back(Effect::Reply { to: waiting.to, response: waiting.response });
        }
    }

    fn swap_two(&mut self, commit: LogOffset) {
        if self.waiting.get(1).is_some_and(|second| second.end <= commit) {
            let (first, second) = (self.waiting[0].to, self.waiting[1].to);
            (self.waiting[0].to, self.waiting[1].to) = (second, first);
        }
    }

    /// Gives up on those whose time has come. This is the one answer they get; what was appended stays appended.
    pub(crate) fn on_time<W>(&mut self, now: Mono, effects: &mut VecDeque<Effect<W>>) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.since + self.timeout <= now) {
            self.wrote -= waiting.wrote();
            self.looked -= waiting.looked();
            self.tally.unknown += u64::from(waiting.stake == Stake::Wrote);
            effects.push_back(waiting.unknown("not on disk in time (syncFlushTimeout)"));
        }
    }

    /// Answers everybody, because nothing more will be kept.
    pub(crate) fn fail<W>(&mut self, why: &str, effects: &mut VecDeque<Effect<W>>) {
        (self.wrote, self.looked) = (0, 0);
        self.tally.unknown += self.waiting.iter().filter(|waiting| waiting.stake == Stake::Wrote).count() as u64;
        effects.extend(self.waiting.drain(..).map(|waiting| waiting.unknown(why)));
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        if keepmq_world::planted!("unknown-comes-late") {
            return None;
        }
        self.waiting.front().map(|waiting| waiting.since + self.timeout)
    }
}

impl Waiting {
    fn wrote(&self) -> usize {
        usize::from(self.stake == Stake::Wrote)
    }

    fn looked(&self) -> usize {
        match self.stake {
            Stake::Wrote => 0,
            Stake::Looked => size_of::<Self>() + self.response.body.iter().map(bytes::Bytes::len).sum::<usize>(),
        }
    }

    fn unknown<W>(self, why: &str) -> Effect<W> {
        let response = match self.stake {
            Stake::Wrote => Response {
                code: match keepmq_world::planted!("unknown-answered-as-refusal") {
                    true => ResponseCode::ServiceNotAvailable as i32,
                    false => ResponseCode::FlushDiskTimeout as i32,
                },
                remark: Some(
                    format!("the outcome is unknown: {why}. It may survive or not; look it up, or repeat it").into(),
                ),
                ..self.response
            },
            Stake::Looked => Response {
                code: ResponseCode::SystemBusy as i32,
                remark: Some(format!("the answer is not yet certain: {why}. Ask again").into()),
                header: ResponseHeader::Empty,
                body: Default::default(),
            },
        };
        Effect::Reply { to: self.to, response }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::caller;
    use keepmq_protocol::seam::Conn;

    const SECOND: u64 = 1_000_000_000;

    fn codes(effects: VecDeque<Effect<()>>) -> Vec<(i32, i32)> {
        let code = |effect| match effect {
            Effect::Reply { to, response } => (to.opaque, response.code),
            other => panic!("{other:?}"),
        };
        effects.into_iter().map(code).collect()
    }

    #[test]
    fn replies_go_when_their_record_is_kept_and_are_given_up_once() {
        let mut pending = Pending::new(Duration::from_secs(5));
        let mut hold = |opaque, end, stake, at| {
            pending.hold(caller(Conn(1), opaque), LogOffset(end), stake, Response::ok(), Mono(at * SECOND));
        };
        hold(1, 100, Stake::Wrote, 0);
        hold(2, 200, Stake::Wrote, 1);
        hold(3, 150, Stake::Looked, 1);
        hold(4, 300, Stake::Wrote, 2);
        let mut effects = VecDeque::new();
        pending.release(LogOffset(150), Mono(3 * SECOND), &mut effects);
        assert_eq!(codes(std::mem::take(&mut effects)), [(1, 0)]);
        assert_eq!(pending.deadline(), Some(Mono(6 * SECOND)));
        pending.on_time(Mono(6 * SECOND), &mut effects);
        assert_eq!(codes(std::mem::take(&mut effects)), [(2, 10), (3, 2)]);
        pending.release(LogOffset(400), Mono(9 * SECOND), &mut effects);
        assert_eq!(codes(effects), [(4, 0)]);
        assert_eq!((pending.len(), pending.looked, pending.deadline()), (0, 0, None));
        let Tally { sends_kept, unknown, commit_times } = &pending.tally;
        // The first waited for 3 s, the last for 7 s. None was a send.
        assert_eq!((*sends_kept, *unknown, commit_times.count(), commit_times.sum()), (0, 1, 2, 10 * SECOND));
    }

    #[test]
    fn nobody_may_send_behind_too_many_or_behind_one_that_waits_too_long() {
        let mut pending = Pending::new(Duration::from_secs(5));
        let at = |millis: u64| Mono(millis * 1_000_000);
        assert_eq!(pending.busy(at(0)), None);
        for end in 1..=WROTE_MAX as u64 {
            assert_eq!(pending.busy(at(7)), None);
            pending.hold(caller(Conn(1), 1), LogOffset(end), Stake::Wrote, Response::ok(), at(end.min(7)));
        }
        assert_eq!(pending.busy(at(8)), Some(Busy::Many { waiting: WROTE_MAX }));
        assert_eq!(pending.busy(at(1001)), Some(Busy::Stalled { waited: 1000, max: 1000 }));
        pending.release(LogOffset(1), at(7), &mut VecDeque::<Effect<()>>::new());
        assert_eq!(pending.busy(at(1001)), None, "the oldest has waited 999 ms");
        pending.on_time(at(5007), &mut VecDeque::<Effect<()>>::new());
        assert_eq!(pending.tally.unknown, WROTE_MAX as u64 - 1);
        assert_eq!((pending.busy(at(5007)), pending.wrote), (None, 0));
    }
}
