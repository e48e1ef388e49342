use super::Verdict;
use crate::received::Received;
use keepmq_protocol::QueueOffset;
use keepmq_world::{Mono, planted};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How much of one queue may be in hand. Each limit holds before a pull, so what one pull brings may exceed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Between the lowest and the highest offset.
    pub(crate) span: u64,
}

/// The span of one queue that is in hand: pulled, and not processed yet. Source: RocketMQ `ProcessQueue`.
///
/// ```text
///        committable                            next
///   processed │ running │ ready │ later │ ready │ not pulled
/// ```
/// Whatever lies between two messages in hand was processed, or is not wanted. So all below the lowest one is done.
pub(crate) struct ProcessQueue {
    entries: BTreeMap<QueueOffset, Entry>,
    /// Those that a listener may have now.
    ready: BTreeSet<QueueOffset>,
    /// Those that a listener wants again, by the time.
    later: BTreeSet<(Mono, QueueOffset)>,
    next: QueueOffset,
    bytes: usize,
}

struct Entry {
    message: Received,
    /// How often a listener has said *later* of it.
    failures: u32,
}

impl ProcessQueue {
    /// Nothing in hand; `at` is to be pulled first.
    pub(crate) fn new(at: QueueOffset) -> Self {
        Self { entries: BTreeMap::new(), ready: BTreeSet::new(), later: BTreeSet::new(), next: at, bytes: 0 }
    }

    /// What is to be pulled next.
    pub(crate) fn next(&self) -> QueueOffset {
        self.next
    }

    /// Messages that are in hand.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The lowest offset that is not processed: what the group may commit.
    pub(crate) fn committable(&self) -> QueueOffset {
        if planted!("offset-before-processing") {
            return self.ready.first().copied().unwrap_or(self.next);
        }
        let holds = |entry: &Entry| entry.failures == 0 || !planted!("later-moves-offset");
        self.entries.iter().find(|(_, entry)| holds(entry)).map_or(self.next, |(offset, _)| *offset)
    }

    /// Whether there may be more in hand.
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        let lowest = self.entries.first_key_value().map_or(self.next, |(offset, _)| *offset);
        self.entries.len() < limits.messages
            && self.bytes < limits.bytes
            && self.next.0.saturating_sub(lowest.0) < limits.span
    }

    /// What a pull has brought, and where the next one goes on.
    pub(crate) fn put(&mut self, messages: Vec<Received>, next: QueueOffset) {
        for message in messages {
            let twice = planted!("pull-started-twice");
            assert!(twice || message.offset >= self.next, "{} was pulled before {}", self.next, message.offset);
            self.bytes += message.bytes();
            self.ready.insert(message.offset);
            if let Some(before) = self.entries.insert(message.offset, Entry { message, failures: 0 }) {
                self.bytes -= before.message.bytes();
            }
        }
        self.next = next;
    }

    /// Goes on at a higher offset; what is in hand stays there.
    pub(crate) fn skip(&mut self, to: QueueOffset) {
        self.next = self.next.max(to);
    }

    /// Whether a listener can be given something.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Hands out the lowest messages that are ready, at most `max`, all with the same number of failures.
    pub(crate) fn take(&mut self, max: usize) -> (Vec<Received>, u32) {
        let failures = |offset: &QueueOffset| self.entries[offset].failures;
        let Some(of_first) = self.ready.first().map(failures) else { return (Vec::new(), 0) };
        let of_batch = self.ready.iter().take(max.max(1)).take_while(|offset| failures(offset) == of_first);
        let offsets: Vec<QueueOffset> = of_batch.copied().collect();
        let mut take = |offset: &QueueOffset| {
            self.ready.remove(offset);
            self.entries[offset].message.clone()
        };
        (offsets.iter().map(&mut take).collect(), of_first)
    }

    /// A listener has ended with what it was given. What it wants later is ready `wait` from now, for the number of failures.
    pub(crate) fn consumed(
        &mut self,
        offsets: &[QueueOffset],
        verdict: Verdict,
        now: Mono,
        wait: impl Fn(u32) -> Duration,
    ) {
        for offset in offsets {
            match verdict {
                Verdict::Success => {
                    let done = self.entries.remove(offset);
                    assert!(done.is_some() || planted!("pull-started-twice"), "{offset} was processed twice");
                    self.bytes -= done.map_or(0, |entry| entry.message.bytes());
                }
                Verdict::Later => {
                    if let Some(entry) = self.entries.get_mut(offset) {
                        entry.failures += 1;
                        self.later.insert((now + wait(entry.failures), *offset));
                    }
                }
            }
        }
    }

    /// What was wanted later, and whose time has come, is ready.
    pub(crate) fn on_time(&mut self, now: Mono) {
        while let Some((at, offset)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, offset));
            self.ready.insert(offset);
        }
    }

    /// When something is ready that is not ready now.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.later.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::received::tests::{queue, record};
    use crate::received::{Tags, read};
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    /// Messages with these offsets.
    fn messages(from: u64, offsets: &[u64], next: u64) -> Vec<Received> {
        let queue = queue("T", "b", 0);
        let records: Vec<Vec<u8>> = offsets.iter().map(|offset| record(&queue, *offset, 0, b"body", "")).collect();
        read(&queue, QueueOffset(from), QueueOffset(next), &Tags::default(), &records.concat().into()).messages
    }

    fn offsets(messages: &[Received]) -> Vec<QueueOffset> {
        messages.iter().map(|message| message.offset).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A pull brings so many offsets; those whose bit is set are wanted.
        Pull(u64, u8),
        Take(usize),
        /// The nth of the listeners that run ends.
        End(usize, bool),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u64..8, any::<u8>()).prop_map(|(number, wanted)| Step::Pull(number, wanted)),
            (1usize..4).prop_map(Step::Take),
            (any::<usize>(), any::<bool>()).prop_map(|(nth, later)| Step::End(nth, later)),
            (0u64..4).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn what_may_be_committed_is_the_lowest_that_is_not_processed(steps in prop::collection::vec(step(), 1..80)) {
            let mut span = ProcessQueue::new(QueueOffset(0));
            let mut open = BTreeSet::new();
            let mut running: Vec<Vec<QueueOffset>> = Vec::new();
            let mut next = 0;
            let mut now = Mono(0);
            for step in steps {
                match step {
                    Step::Pull(number, wanted) => {
                        let brought: Vec<u64> =
                            (0..number).filter(|bit| wanted >> bit & 1 == 1).map(|bit| next + bit).collect();
                        open.extend(brought.iter().map(|offset| QueueOffset(*offset)));
                        span.put(messages(next, &brought, next + number), QueueOffset(next + number));
                        next += number;
                    }
                    Step::Take(max) => {
                        let taken = offsets(&span.take(max).0);
                        prop_assert!(taken.len() <= max && taken.is_sorted());
                        prop_assert!(taken.iter().all(|offset| !running.iter().flatten().any(|other| other == offset)));
                        running.push(taken);
                    }
                    Step::End(nth, later) if !running.is_empty() => {
                        let ended = running.swap_remove(nth % running.len());
                        let verdict = if later { Verdict::Later } else { Verdict::Success };
                        span.consumed(&ended, verdict, now, |failures| Duration::from_nanos(failures.into()));
                        if !later {
                            open.retain(|offset| !ended.contains(offset));
                        }
                    }
                    Step::End(..) => {}
                    Step::Pass(time) => {
                        now = now + Duration::from_nanos(time);
                        span.on_time(now);
                    }
                }
                prop_assert_eq!(span.committable(), open.first().copied().unwrap_or(QueueOffset(next)));
                prop_assert_eq!(span.len(), open.len());
                prop_assert_eq!(span.bytes, span.entries.values().map(|entry| entry.message.bytes()).sum::<usize>());
            }
            // Whatever was said, everything is processed in the end.
            for batch in running {
                span.consumed(&batch, Verdict::Success, now, |_| Duration::ZERO);
            }
            span.on_time(now + Duration::from_secs(1));
            while span.is_ready() {
                let taken = offsets(&span.take(3).0);
                span.consumed(&taken, Verdict::Success, now, |_| Duration::ZERO);
            }
            prop_assert_eq!((span.committable(), span.bytes), (QueueOffset(next), 0));
        }
    }

    #[test]
    fn each_limit_holds_by_itself() {
        let limits = |messages, bytes, span| Limits { messages, bytes, span };
        let mut span = ProcessQueue::new(QueueOffset(0));
        span.put(messages(0, &[0, 9], 10), QueueOffset(10));
        let bytes = span.bytes;
        assert!(span.has_room(&limits(3, bytes + 1, 11)));
        for tight in [limits(2, bytes + 1, 11), limits(3, bytes, 11), limits(3, bytes + 1, 10)] {
            assert!(!span.has_room(&tight), "{tight:?}");
        }
        let taken = offsets(&span.take(1).0);
        span.consumed(&taken, Verdict::Success, Mono(0), |_| Duration::ZERO);
        assert!(span.has_room(&limits(2, bytes, 10)), "what is processed makes room");
    }
}
