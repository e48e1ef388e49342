//! Which queue is next, and whom to avoid. Source: RocketMQ 5.x `MQFaultStrategy`, `TopicPublishInfo`.

use keepmq_protocol::{BrokerName, MessageQueue};
use keepmq_world::{Chance, Mono};
use std::collections::BTreeMap;
use std::time::Duration;

/// A broker that took so long is avoided for so long; both in milliseconds. The largest that applies. Source: RocketMQ 5.x.
const PENALTIES: [(u64, u64); 5] = [(15_000, 30_000), (5_000, 10_000), (3_000, 6_000), (1_800, 5_000), (550, 2_000)];
/// What counts for one that was not reached, or failed.
const FAILED: Duration = Duration::from_secs(10);

/// Goes round the queues, past brokers that were slow or did not answer a short while ago.
pub(crate) struct Selector {
    next: u64,
    avoid_slow: bool,
    /// Until when each is avoided.
    avoided: BTreeMap<BrokerName, Mono>,
}

impl Selector {
    pub(crate) fn new(avoid_slow: bool, chance: &mut Chance) -> Self {
        // Not all producers begin at the same queue.
        Self { next: chance.word() >> 1, avoid_slow, avoided: BTreeMap::new() }
    }

    /// The next queue; `not` is the broker of the attempt before. None only when there are none.
    pub(crate) fn pick<'q>(
        &mut self,
        queues: &'q [MessageQueue],
        not: Option<&BrokerName>,
        now: Mono,
    ) -> Option<&'q MessageQueue> {
        self.next += 1;
        let at = usize::try_from(self.next % (queues.len().max(1) as u64)).expect("below a length");
        let round = || queues[at..].iter().chain(&queues[..at]);
        let other = |queue: &&MessageQueue| Some(&queue.broker) != not;
        let good = |queue: &&MessageQueue| self.avoided.get(&queue.broker).is_none_or(|until| *until <= now);
        round().find(|queue| other(queue) && good(queue)).or_else(|| round().find(other)).or_else(|| round().next())
    }

    /// It has answered, after so long.
    pub(crate) fn answered(&mut self, broker: &BrokerName, took: Duration, now: Mono) {
        if !self.avoid_slow {
            return;
        }
        let penalty = PENALTIES.iter().find(|(slow, _)| took >= Duration::from_millis(*slow));
        match penalty {
            Some((_, long)) => {
                self.avoided.insert(broker.clone(), now + Duration::from_millis(*long));
            }
            // Nearly always there is nothing to be forgotten.
            None if self.avoided.is_empty() => {}
            None => {
                self.avoided.remove(broker);
            }
        }
    }

    /// It has not answered, or not as one hopes.
    pub(crate) fn failed(&mut self, broker: &BrokerName, now: Mono) {
        self.answered(broker, FAILED, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_protocol::Topic;

    fn queues() -> Vec<MessageQueue> {
        let queue =
            |broker, id| MessageQueue { topic: Topic::new("T").unwrap(), broker: BrokerName::new(broker).unwrap(), id };
        vec![queue("a", 0), queue("a", 1), queue("b", 0), queue("b", 1)]
    }

    fn picked(selector: &mut Selector, not: Option<&str>, now: u64) -> String {
        let not = not.map(|name| BrokerName::new(name).unwrap());
        let queues = queues();
        let name =
            |_| selector.pick(&queues, not.as_ref(), Mono(now)).map(|q| format!("{}{}", q.broker, q.id)).unwrap();
        let mut names: Vec<_> = (0..4).map(name).collect();
        names.sort();
        names.join(" ")
    }

    #[test]
    fn it_goes_round_and_past_those_who_failed() {
        let mut selector = Selector::new(true, &mut Chance::new(1));
        assert_eq!(picked(&mut selector, None, 0), "a0 a1 b0 b1");
        assert!(!picked(&mut selector, Some("a"), 0).contains('a'));
        let (a, b) = (BrokerName::new("a").unwrap(), BrokerName::new("b").unwrap());
        selector.answered(&a, Duration::from_millis(600), Mono(0));
        assert!(!picked(&mut selector, None, 1_999_999_999).contains('a'), "slow: for two seconds");
        assert_eq!(picked(&mut selector, None, 2_000_000_000), "a0 a1 b0 b1");
        selector.failed(&a, Mono(0));
        selector.failed(&b, Mono(0));
        assert_eq!(picked(&mut selector, None, 0), "a0 a1 b0 b1", "all are bad: then any");
        assert!(!picked(&mut selector, Some("b"), 0).contains('b'));
        selector.answered(&a, Duration::from_millis(1), Mono(1));
        assert!(!picked(&mut selector, None, 1).contains('b'), "a has proved well");
        assert!(selector.pick(&[], None, Mono(0)).is_none());
    }
}
