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
    /// Bytes of answers to those who only look. (How many can wait for what they wrote, the store's buffers say.)
    looked: usize,
}

/// Most bytes of answers held for those who only look.
const LOOKED_MAX: usize = 64 << 20;

struct Waiting {
    to: Caller,
    end: LogOffset,
    due: Mono,
    stake: Stake,
    response: Response,
}

impl Pending {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { waiting: VecDeque::new(), timeout, looked: 0 }
    }

    /// From now on. Who waits already waits as long as was promised.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody else may look for now.
    pub(crate) fn is_full(&self) -> bool {
        self.looked >= LOOKED_MAX
    }

    /// Holds a reply until the log is kept up to `end`.
    pub(crate) fn hold(&mut self, to: Caller, end: LogOffset, stake: Stake, response: Response, now: Mono) {
        let (last_end, last_due) = self.waiting.back().map_or_else(Default::default, |last| (last.end, last.due));
        let due = (now + self.timeout).max(last_due);
        let waiting = Waiting { to, end: end.max(last_end), due, stake, response };
        self.looked += waiting.looked();
        self.waiting.push_back(waiting);
    }

    /// Gives the replies that need not wait any longer.
    pub(crate) fn release<W>(&mut self, commit: LogOffset, effects: &mut VecDeque<Effect<W>>) {
        if keepmq_world::planted!("reply-to-wrong-request") {
            self.swap_two(commit);
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.end <= commit) {
            self.looked -= waiting.looked();
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
    pub(crate) fn on_time<W>(&mut self, now: Mono, effects: &mut VecDeque<Effect<W>>) -> u64 {
        let mut given_up = 0;
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.due <= now) {
            self.looked -= waiting.looked();
            effects.push_back(waiting.unknown("not on disk in time (syncFlushTimeout)"));
            given_up += 1;
        }
        given_up
    }

    /// Answers everybody, because nothing more will be kept.
    pub(crate) fn fail<W>(&mut self, why: &str, effects: &mut VecDeque<Effect<W>>) {
        self.looked = 0;
        effects.extend(self.waiting.drain(..).map(|waiting| waiting.unknown(why)));
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.waiting.front().map(|waiting| waiting.due)
    }
}

impl Waiting {
    fn looked(&self) -> usize {
        match self.stake {
            Stake::Wrote => 0,
            Stake::Looked => size_of::<Self>() + self.response.body.iter().map(bytes::Bytes::len).sum::<usize>(),
        }
    }

    fn unknown<W>(self, why: &str) -> Effect<W> {
        let response = match self.stake {
            Stake::Wrote => Response {
                code: ResponseCode::FlushDiskTimeout as i32,
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
        pending.release(LogOffset(150), &mut effects);
        assert_eq!(codes(std::mem::take(&mut effects)), [(1, 0)]);
        assert_eq!(pending.deadline(), Some(Mono(6 * SECOND)));
        assert_eq!(pending.on_time(Mono(6 * SECOND), &mut effects), 2);
        assert_eq!(codes(std::mem::take(&mut effects)), [(2, 10), (3, 2)]);
        pending.release(LogOffset(400), &mut effects);
        assert_eq!(codes(effects), [(4, 0)]);
        assert_eq!((pending.len(), pending.looked, pending.deadline()), (0, 0, None));
    }
}
