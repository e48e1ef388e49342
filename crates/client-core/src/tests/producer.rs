use super::{MS, Seen, Step, World, cases, client, honest, lie, life, queue, seconds, short_time, topic};
use crate::{
    Message, Producer, ProducerCommand, ProducerConfig, ProducerReport, ProducerWork, SendError, SendId, Target,
};
use keepmq_protocol::message::{batch, find};
use keepmq_protocol::request::{Send, SendVia};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{CallError, Event, Outcome};
use keepmq_protocol::{BrokerName, MessageQueue, QueueOffset, Request, Response};
use keepmq_world::{Chance, Mono, Now, Timestamp};
use proptest::prelude::proptest;
use std::collections::BTreeMap;

/// Refusals: nothing was appended. Everything else that is not SEND_OK may have been.
const REFUSALS: [i32; 9] = [2, 3, 13, 14, 16, 17, 29, 204, 205];

/// What the brokers know of one message, by its id.
#[derive(Default)]
struct Known {
    /// Where an answer has said that it is kept, believably.
    kept: Vec<(MessageQueue, QueueOffset)>,
    /// It was sent, and no answer has said that it was refused.
    may_be_kept: bool,
    requests: u32,
}

#[derive(Default)]
struct Truth {
    known: BTreeMap<String, Known>,
    /// When each send must have ended.
    due: BTreeMap<SendId, u64>,
    ended: ProducerReport,
}

/// The ids of the messages of a request.
fn ids(send: &Send<'_>) -> Vec<String> {
    let id = |properties: &str| find(properties, "UNIQ_KEY").unwrap().to_owned();
    match send.via {
        SendVia::Batch => batch(&send.body, usize::MAX).unwrap().iter().map(|item| id(item.properties)).collect(),
        _ => vec![id(send.header.properties.as_deref().unwrap())],
    }
}

fn kept(chance: &mut Chance, send: &Send<'_>) -> Response {
    let offset = chance.below(1000).to_string();
    let fields = [("msgId", "X".to_owned()), ("queueId", send.header.queue_id.to_string()), ("queueOffset", offset)];
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Response::ok().with_header(ResponseHeader::Fields(fields))
}

impl Truth {
    /// A broker answers a send, and remembers what that means.
    fn hear(&mut self, send: &Send<'_>, outcome: &Outcome) {
        let broker = BrokerName::new(send.header.broker_name.as_deref().unwrap()).unwrap();
        let to = MessageQueue { topic: topic(), broker, id: u32::try_from(send.header.queue_id).unwrap() };
        let place = outcome.as_ref().ok().filter(|response| response.code == 0).and_then(|response| {
            let same = response.field::<i32>("queueId").ok()? == send.header.queue_id;
            let offset = response.field::<i64>("queueOffset").ok().and_then(|offset| u64::try_from(offset).ok())?;
            same.then_some(offset)
        });
        for (nth, id) in (0..).zip(ids(send)) {
            let known = self.known.entry(id).or_default();
            known.requests += 1;
            match outcome {
                Err(CallError::Unreachable { .. }) => known.requests -= 1,
                Ok(response) if REFUSALS.contains(&response.code) => {}
                _ => known.may_be_kept = true,
            }
            known.kept.extend(place.map(|first| (to.clone(), QueueOffset(first + nth))));
        }
    }

    /// Looks at what has ended.
    fn judge(&mut self, world: &mut World<Producer>) {
        let sends = world.calls.iter().filter_map(|(_, _, request, _)| match request {
            Request::Send(send) => Some(send),
            _ => None,
        });
        let out: Vec<String> = sends.flat_map(ids).collect();
        for (at, seen) in std::mem::take(&mut world.seen) {
            let (id, outcome) = match seen {
                Seen::Work(ProducerWork::Sent { id, outcome }) => (id, outcome),
                Seen::Work(ProducerWork::Closed(report)) => {
                    assert!(self.due.is_empty(), "closed before all has ended: {:?}", self.due);
                    assert_eq!(ProducerReport { retries: 0, dropped: 0, ..report }, self.ended);
                    continue;
                }
                Seen::Work(ProducerWork::Routed { .. } | ProducerWork::Told { .. }) | Seen::Commit(..) => continue,
            };
            let due = self.due.remove(&id).unwrap_or_else(|| panic!("{id:?} has ended twice"));
            assert!(at <= due, "{id:?} ends at {at}, {due} at the latest");
            let mut nothing = Known::default();
            match outcome {
                Ok(receipt) => {
                    self.ended.kept += 1;
                    let known = self.known.get(&receipt.message_id).unwrap_or(&nothing);
                    assert!(
                        known.kept.contains(&(receipt.queue.clone(), receipt.offset)),
                        "nobody said so: {receipt:?}"
                    );
                    assert_eq!(known.requests, receipt.attempts);
                }
                Err(SendError::Refused { message_id, why, .. }) => {
                    self.ended.refused += 1;
                    let known = self.known.get(&message_id).unwrap_or(&nothing);
                    assert!(!known.may_be_kept && !out.contains(&message_id), "refused, and perhaps kept: {why}");
                }
                Err(SendError::Unknown { message_id, why, .. }) => {
                    self.ended.unknown += 1;
                    let known = self.known.get_mut(&message_id).unwrap_or(&mut nothing);
                    assert!(known.may_be_kept || out.contains(&message_id), "no reason for doubt: {why}");
                    assert!(known.kept.is_empty(), "it was said to be kept at {:?}: {why}", known.kept);
                }
            }
        }
    }
}

fn message(chance: &mut Chance) -> Message {
    let size = *chance.pick(&[1, 10, 5_000]);
    let message = Message::new("T", vec![b'x'; size]).unwrap();
    if chance.one_in(4) { message.sharding_key("key").unwrap() } else { message }
}

fn target(chance: &mut Chance) -> Target {
    let id = *chance.pick(&[0, 1, 7, u32::MAX]);
    if chance.one_in(4) { Target::Queue(queue("a", id)) } else { Target::Any }
}

/// Answers one of the questions; once in `lie` times as nobody should.
fn answer(world: &mut World<Producer>, truth: &mut Truth, chance: &mut Chance, lie: u64) {
    let Some(most) = (world.calls.len() as u64).checked_sub(1) else { return };
    let nth = chance.below(most + 1) as usize;
    let (_, peer, request, _) = &world.calls[nth];
    let good = match request {
        Request::Send(send) => kept(chance, send),
        other => honest(chance, other),
    };
    let outcome = if chance.one_in(lie) { World::<Producer>::hostile(chance, peer, good) } else { Ok(good) };
    if let Request::Send(send) = request {
        truth.hear(send, &outcome);
    }
    world.answer(nth, outcome);
    truth.judge(world);
}

/// Time passes; what runs out of time was perhaps carried out.
fn pass(world: &mut World<Producer>, truth: &mut Truth, nanos: u64) {
    world.pass(nanos, |request, lost| {
        if let Request::Send(send) = request {
            truth.hear(send, lost);
        }
    });
    truth.judge(world);
}

fn play(life: &[Step]) {
    let mut config = ProducerConfig::new(client(), "producers".to_owned());
    config.in_flight = 20;
    let timeout = config.send_timeout;
    let now = Now { mono: Mono(0), wall: Timestamp(0) };
    let mut world = World::new(Producer::new(config, now));
    let mut truth = Truth::default();
    let mut sends = 0;
    for (what, seed) in life {
        let chance = &mut Chance::new(*seed);
        let mut id = |truth: &mut Truth, now| {
            sends += 1;
            truth.due.insert(SendId(sends), now + timeout.as_nanos() as u64);
            SendId(sends)
        };
        match what % 12 {
            0 | 1 => {
                let id = id(&mut truth, world.now);
                let command = ProducerCommand::Send { id, message: message(chance), to: target(chance), timeout: None };
                world.handle(Event::Done(command));
            }
            2 => {
                let messages = (0..chance.below(5)).map(|_| (id(&mut truth, world.now), message(chance))).collect();
                world.handle(Event::Done(ProducerCommand::SendBatch { messages, to: target(chance), timeout: None }));
            }
            3 => {
                let (message, to) = (message(chance), target(chance));
                world.handle(Event::Done(ProducerCommand::SendOneway { message, to }));
            }
            4 => world.be_told(chance, "producers"),
            5 => pass(&mut world, &mut truth, short_time(chance)),
            _ => answer(&mut world, &mut truth, chance, lie(life)),
        }
        truth.judge(&mut world);
        if world.exits == 0 {
            world.does_not_spin();
        }
    }
    world.handle(Event::Done(ProducerCommand::Close { within: seconds(1) }));
    pass(&mut world, &mut truth, 10_000 * MS);
    assert_eq!((world.exits, truth.due.len()), (1, 0), "it has ended, and so has every send");
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn whatever_is_answered_a_send_ends_once_and_as_it_was(life in life()) {
        play(&life);
    }
}
