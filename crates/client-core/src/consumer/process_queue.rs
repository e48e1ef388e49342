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
