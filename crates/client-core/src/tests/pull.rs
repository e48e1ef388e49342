use super::{MS, Seen, Step, World, answer_consumer, cases, client, is_true, lie, life, queue, short_time, topic};
use crate::{ConsumeFrom, PullCommand, PullConfig, PullConsumer, PullWork, SeekTo, Subscription};
use keepmq_protocol::seam::Event;
use keepmq_protocol::{MessageQueue, QueueOffset, Request, ResponseCode};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use proptest::prelude::proptest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Default)]
struct Truth {
    /// Questions that have no answer yet.
    open: BTreeSet<u64>,
    polls: BTreeMap<u64, (usize, u64)>,
    /// What the group has: nothing below may come any more, unless the place was changed.
    committed: BTreeMap<MessageQueue, QueueOffset>,
}

impl Truth {
    fn judge(&mut self, world: &mut World<PullConsumer>) {
        for (at, seen) in std::mem::take(&mut world.seen) {
            let id = match seen {
                Seen::Work(PullWork::Polled { id, outcome }) => {
                    let (max, until) = self.polls[&id];
                    assert!(at <= until, "poll {id} ends at {at}, {until} at the latest");
                    let messages = outcome.unwrap_or_default();
                    assert!(messages.len() <= max);
                    for message in &messages {
                        is_true(message);
                        let floor = self.committed.get(&message.queue).copied().unwrap_or_default();
                        assert!(message.offset >= floor, "{floor} was committed before {} was polled", message.offset);
                    }
                    id
                }
                Seen::Commit(queue, offset) => {
                    self.committed.insert(queue, offset);
                    continue;
                }
                Seen::Work(
                    PullWork::Queues { id, .. } | PullWork::Sought { id, .. } | PullWork::Committed { id, .. },
                ) => id,
                Seen::Work(PullWork::Closed) => {
                    assert!(self.open.is_empty(), "closed before {:?} had their answers", self.open);
                    continue;
                }
            };
            assert!(self.open.remove(&id), "{id} has two answers");
        }
    }
}

fn play(life: &[Step]) {
    let first = Chance::new(life[0].1).below(3);
    let mut config = PullConfig::new(client(), (first > 0).then(|| "readers".to_owned()));
    config.from = if first == 1 { ConsumeFrom::LastOffset } else { ConsumeFrom::Timestamp(Timestamp(i64::MIN)) };
    config.subscriptions = vec![Subscription { topic: topic(), expression: "yes".to_owned() }];
    let mut world = World::new(PullConsumer::new(config, Now { mono: Mono(0), wall: Timestamp(0) }));
    let mut truth = Truth::default();
    world.handle(Event::Done(PullCommand::Assign(vec![queue("a", 0), queue("b", 1)])));
    for (nth, (what, seed)) in (0..).zip(life) {
        let mut moved = false;
        let chance = &mut Chance::new(*seed);
        let place = queue(if chance.one_in(2) { "a" } else { "b" }, chance.below(2) as u32);
        let command = match what % 16 {
            0 => Some(PullCommand::Queues { id: nth, topic: topic() }),
            1 => {
                moved = true;
                Some(PullCommand::Assign(
                    [0, 1, u32::MAX][..chance.below(4) as usize].iter().map(|id| queue("a", *id)).collect(),
                ))
            }
            2 => {
                moved = true;
                let offset = QueueOffset(*chance.pick(&[0, 9, i64::MAX as u64, u64::MAX]));
                let to = [SeekTo::Begin, SeekTo::End, SeekTo::Offset(offset), SeekTo::Timestamp(Timestamp(-1))];
                Some(PullCommand::Seek { id: nth, queue: place, to: *chance.pick(&to) })
            }
            3 | 4 => {
                let (max, wait) = (chance.below(5) as usize, chance.below(5_000) * MS);
                truth.polls.insert(nth, (max, world.now + wait));
                Some(PullCommand::Poll { id: nth, max, wait: Duration::from_nanos(wait) })
            }
            5 => Some(PullCommand::Commit { id: nth }),
            6 => {
                world.be_told(chance, "readers");
                None
            }
            7 => {
                world.pass(short_time(chance), |_, _| {});
                None
            }
            _ => {
                // Perhaps the broker moves a queue back, or says where a place is that was sought.
                moved = match answer_consumer(&mut world, chance, lie(life)) {
                    Some((Request::Pull(_), Ok(response))) => response.code == ResponseCode::PullOffsetMoved as i32,
                    Some((Request::MinOffset(_) | Request::MaxOffset(_) | Request::SearchOffset(_), _)) => true,
                    _ => false,
                };
                None
            }
        };
        if let Some(command) = command {
            if !matches!(command, PullCommand::Assign(_)) {
                truth.open.insert(nth);
            }
            world.handle(Event::Done(command));
        }
        truth.judge(&mut world);
        if moved {
            truth.committed.clear();
        }
        world.does_not_spin();
    }
    world.handle(Event::Done(PullCommand::Close));
    world.pass(60_000 * MS, |_, _| {});
    truth.judge(&mut world);
    assert_eq!(world.exits, 1, "it has ended");
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn whatever_is_answered_only_what_is_true_is_polled(life in life()) {
        play(&life);
    }
}
