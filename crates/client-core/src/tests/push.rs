use super::{
    MS, Seen, Step, World, answer_consumer, cases, client, is_true, lie, life, queue, seconds, short_time, topic,
};
use crate::assign::Strategy;
use crate::{
    Batch, ConsumeFrom, MessageModel, PushCommand, PushConfig, PushConsumer, PushWork, Received, Subscription, Verdict,
};
use keepmq_protocol::seam::Event;
use keepmq_protocol::{MessageQueue, QueueOffset, Request, ResponseCode};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use proptest::prelude::proptest;
use std::collections::{BTreeMap, BTreeSet};

const LISTENERS: usize = 3;

#[derive(Default)]
struct Truth {
    running: BTreeMap<Batch, Vec<Received>>,
    last: Option<Batch>,
    assigned: Vec<MessageQueue>,
    /// Given to listeners under the present assignment, and not processed.
    unprocessed: BTreeMap<MessageQueue, BTreeSet<QueueOffset>>,
    /// What the group has under it.
    committed: BTreeMap<MessageQueue, QueueOffset>,
    processed: u64,
    failures: u64,
}

impl Truth {
    fn judge(&mut self, world: &mut World<PushConsumer>) {
        for (_, seen) in std::mem::take(&mut world.seen) {
            match seen {
                Seen::Work(PushWork::Consume { batch, messages, .. }) => {
                    assert!(self.last < Some(batch), "{batch:?} is no new name");
                    self.last = Some(batch);
                    assert!(!messages.is_empty() && messages.len() <= 2 && messages.is_sorted_by_key(|one| one.offset));
                    for message in &messages {
                        is_true(message);
                        assert_eq!(message.queue, messages[0].queue, "a batch is of one queue");
                        let floor = self.committed.get(&message.queue).copied().unwrap_or_default();
                        assert!(message.offset >= floor, "{floor} was committed before {} was given", message.offset);
                        self.unprocessed.entry(message.queue.clone()).or_default().insert(message.offset);
                    }
                    self.running.insert(batch, messages);
                    assert!(self.running.len() <= LISTENERS);
                }
                Seen::Commit(queue, offset) => {
                    let lowest = self.unprocessed.get(&queue).and_then(|offsets| offsets.first());
                    assert!(
                        lowest.is_none_or(|lowest| *lowest >= offset),
                        "{offset} is committed, {lowest:?} is not done"
                    );
                    // Where a queue begins is kept before it is assigned: it says nothing of what was processed.
                    if self.assigned.contains(&queue) {
                        self.committed.insert(queue, offset);
                    }
                }
                Seen::Work(PushWork::Assigned(queues)) => {
                    self.unprocessed.retain(|queue, _| queues.contains(queue));
                    self.committed.retain(|queue, _| queues.contains(queue));
                    self.assigned = queues;
                }
                Seen::Work(PushWork::Trouble(text)) => assert!(!text.is_empty()),
                Seen::Work(PushWork::Closed(report)) => {
                    assert_eq!((report.processed, report.failures), (self.processed, self.failures));
                }
            }
        }
    }

    /// A listener has ended.
    fn end(&mut self, world: &mut World<PushConsumer>, chance: &mut Chance) {
        let batches: Vec<Batch> = self.running.keys().copied().collect();
        if batches.is_empty() {
            return;
        }
        let batch = *chance.pick(&batches);
        let messages = self.running.remove(&batch).unwrap();
        let verdict = if chance.one_in(3) { Verdict::Later } else { Verdict::Success };
        match verdict {
            Verdict::Later => self.failures += 1,
            Verdict::Success => {
                self.processed += messages.len() as u64;
                for message in &messages {
                    if let Some(offsets) = self.unprocessed.get_mut(&message.queue) {
                        offsets.remove(&message.offset);
                    }
                }
            }
        }
        world.handle(Event::Done(PushCommand::Consumed { batch, verdict }));
    }
}

fn play(life: &[Step]) {
    let chance = &mut Chance::new(life[0].1);
    let wanted = vec![Subscription { topic: topic(), expression: "yes".to_owned() }];
    let mut config = PushConfig::new(client(), "readers".to_owned(), wanted);
    config.from = *chance.pick(&[ConsumeFrom::LastOffset, ConsumeFrom::FirstOffset]);
    config.model = *chance.pick(&[MessageModel::Clustering, MessageModel::Clustering, MessageModel::Broadcasting]);
    config.strategy = chance
        .pick(&[
            Strategy::Averagely,
            Strategy::AveragelyByCircle,
            Strategy::ConsistentHash { virtual_nodes: 3 },
            Strategy::MachineRoom { rooms: vec!["a".to_owned()] },
            Strategy::Config { queues: vec![queue("a", 0), queue("c", u32::MAX)] },
        ])
        .clone();
    (config.listeners, config.batch) = (LISTENERS, 2);
    let mut world = World::new(PushConsumer::new(config, Now { mono: Mono(0), wall: Timestamp(0) }));
    let mut truth = Truth::default();
    for (what, seed) in life {
        let chance = &mut Chance::new(*seed);
        match what % 16 {
            0 => world.be_told(chance, "readers"),
            1 => world.pass(short_time(chance), |_, _| {}),
            2..=4 => truth.end(&mut world, chance),
            _ => {
                let heard = answer_consumer(&mut world, chance, lie(life));
                if let Some((Request::Pull(_), Ok(response))) = heard
                    && response.code == ResponseCode::PullOffsetMoved as i32
                {
                    // The broker has moved a queue back, perhaps: that is another assignment.
                    truth.unprocessed.clear();
                    truth.committed.clear();
                }
            }
        }
        truth.judge(&mut world);
        world.does_not_spin();
    }
    world.handle(Event::Done(PushCommand::Close { within: seconds(1) }));
    world.pass(60_000 * MS, |_, _| {});
    truth.judge(&mut world);
    assert_eq!(world.exits, 1, "it has ended");
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn whatever_is_answered_only_what_is_true_is_consumed_and_what_is_processed_committed(life in life()) {
        play(&life);
    }
}
