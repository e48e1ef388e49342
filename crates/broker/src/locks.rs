use crate::cx::{Checked, Cx, refuse};
use crate::groups;
use crate::members::MAX_CLIENT_ID;
use keepmq_protocol::body::{QueueLocks, QueueName};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::{Response, ResponseCode};
use keepmq_store::Disk;
use keepmq_world::{Mono, planted};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// A lock nobody renews ends after this. Source: RocketMQ `RebalanceLockManager`.
const LIFE: Duration = Duration::from_secs(60);
/// So long after the start, groups that are older than it get no locks: clients believe for 30 s in what the life before has
/// granted them (RocketMQ `REBALANCE_LOCK_MAX_LIVE_TIME`), the answer was under way for a second at most, and clocks differ.
const STALE: Duration = Duration::from_secs(35);
/// Most queues named in one request.
const MAX_NAMED: usize = 10_000;
/// Most locks.
const MAX_LOCKS: usize = 100_000;
/// Most locks that a request looks at to remove those that have ended, beside two for each that it asks for: so the table
/// loses ended locks faster than it can grow.
const SWEEP: usize = 64;

/// Who may consume which queue in order: LOCK_BATCH_MQ 41 and UNLOCK_BATCH_MQ 42. Not kept on disk.
///
/// A lock belongs to a client id and not to a connection: it survives a connection that breaks, and nobody else gets it sooner.
pub(crate) struct Locks {
    held: BTreeMap<Key, Held>,
    max: usize,
    /// The sweep goes on behind this one.
    swept: Key,
    /// Groups that existed at the start: a member may still believe in a lock of the life before.
    old_groups: BTreeSet<Box<str>>,
    /// Then nobody does any more.
    settled_at: Mono,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: Box<str>,
    topic: Box<str>,
    queue_id: u32,
}

struct Held {
    owner: Box<str>,
    until: Mono,
}

impl Locks {
    /// `old_groups`: those that existed before `now`, the time of the start.
    pub(crate) fn new<'g>(old_groups: impl Iterator<Item = &'g str>, now: Mono) -> Self {
        let old_groups = old_groups.map(Box::from).collect();
        Self { held: BTreeMap::new(), max: MAX_LOCKS, swept: Key::default(), old_groups, settled_at: now + STALE }
    }

    /// LOCK_BATCH_MQ 41: the answer names the queues that now belong to the client. One that has them already keeps them
    /// for another 60 s.
    pub(crate) fn lock<D: Disk>(&mut self, from: Caller, request: &QueueLocks, cx: &mut Cx<D>) {
        let (granted, why_not) = match check(request).and_then(|()| groups::ensure(&request.consumer_group, cx)) {
            Ok(()) => self.grant(request, cx),
            Err(refusal) => return cx.reply(from, *refusal),
        };
        let body = json!({ "lockOKMQSet": granted }).to_string();
        // The group may be as new as its lock: a restart that knows the lock's group knows to be careful with it.
        let response = Response { remark: why_not.map(Into::into), ..Response::ok().with_body(body) };
        cx.reply_from_tables(from, response);
    }

    /// The queues that are the client's now, and why others are not, when that is no matter of owners.
    fn grant<'r, D: Disk>(&mut self, request: &'r QueueLocks, cx: &mut Cx<D>) -> (Vec<&'r QueueName>, Option<String>) {
        let now = cx.now.mono;
        self.sweep(SWEEP + 2 * request.mq_set.len(), now);
        if now < self.settled_at && !planted!("lock-at-once-after-restart") {
            if self.old_groups.contains(request.consumer_group.as_str()) {
                cx.counters.counts.locks_early += 1;
                let (group, wait) = (&request.consumer_group, self.settled_at.since(now).as_millis());
                let why = format!(
                    "group {group} gets no locks for another {wait} ms: clients may believe in those of the time before this \
                     broker's start"
                );
                return (Vec::new(), Some(why));
            }
        } else {
            self.old_groups = BTreeSet::new();
        }
        let mut granted = Vec::new();
        for queue in &request.mq_set {
            let known = cx.tables.topics.get(&queue.topic).filter(|_| queue.broker_name == cx.config.name);
            let queue_id = u32::try_from(queue.queue_id).ok();
            let known = known.zip(queue_id).filter(|(config, queue_id)| *queue_id < config.read_queue_nums);
            let by = match planted!("lock-by-wall-clock") {
                true => Mono(cx.now.wall.0.cast_unsigned() * 1_000_000),
                false => now,
            };
            if known.is_some() && self.take(key(request, queue), &request.client_id, by) {
                granted.push(queue);
            }
        }
        let full = self.held.len() >= self.max && granted.len() < request.mq_set.len();
        let why = || format!("this broker has its limit of {} queue locks: unlock those that are not needed", self.max);
        (granted, full.then(why))
    }

    /// True: the lock is the owner's.
    fn take(&mut self, key: Key, owner: &str, now: Mono) -> bool {
        let (until, full) = (now + LIFE, self.held.len() >= self.max);
        match self.held.get_mut(&key) {
            Some(held) if *held.owner == *owner => held.until = until,
            Some(held) if held.until <= now || planted!("lock-granted-twice") => {
                *held = Held { owner: owner.into(), until };
            }
            Some(_) => return false,
            None if full => return false,
            None => {
                self.held.insert(key, Held { owner: owner.into(), until });
            }
        }
        true
    }

    /// UNLOCK_BATCH_MQ 42. What is not the client's stays as it is, and the answer is the same.
    pub(crate) fn unlock<D: Disk>(&mut self, from: Caller, request: &QueueLocks, cx: &mut Cx<D>) {
        if let Err(refusal) = check(request) {
            return cx.reply(from, *refusal);
        }
        for queue in request.mq_set.iter().filter(|queue| queue.broker_name == cx.config.name && queue.queue_id >= 0) {
            let key = key(request, queue);
            let its_own = self.held.get(&key).is_some_and(|held| *held.owner == *request.client_id);
            if its_own && !planted!("lock-survives-unlock") {
                self.held.remove(&key);
            }
        }
        cx.reply(from, Response::ok());
    }

    /// Locks held, and ended ones not removed yet.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Removes ended locks among the next `count`.
    fn sweep(&mut self, count: usize, now: Mono) {
        let behind = (Bound::Excluded(&self.swept), Bound::Unbounded);
        let seen: Vec<(&Key, bool)> =
            self.held.range(behind).take(count).map(|(key, held)| (key, held.until <= now)).collect();
        let last = if seen.len() < count {
            Key::default()
        } else {
            seen.last().map(|(key, _)| (*key).clone()).unwrap_or_default()
        };
        let ended: Vec<Key> = seen.into_iter().filter(|(_, ended)| *ended).map(|(key, _)| key.clone()).collect();
        for key in &ended {
            self.held.remove(key);
        }
        self.swept = last;
    }
}

fn key(request: &QueueLocks, queue: &QueueName) -> Key {
    let queue_id = u32::try_from(queue.queue_id).expect("callers have seen that it is not negative");
    Key { group: request.consumer_group.as_str().into(), topic: queue.topic.as_str().into(), queue_id }
}

fn check(request: &QueueLocks) -> Checked<()> {
    let QueueLocks { client_id, consumer_group, mq_set, .. } = request;
    let invalid = |text: String| Err(refuse(ResponseCode::InvalidParameter, text));
    if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID {
        return invalid(format!(
            "queues are locked for a client: its clientId has {} bytes, and must have 1 to {MAX_CLIENT_ID}",
            client_id.len()
        ));
    }
    if mq_set.len() > MAX_NAMED {
        return invalid(format!(
            "group {consumer_group} names {} queues in one request: the limit is {MAX_NAMED}. Ask in several requests",
            mq_set.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, B, World, config};
    use keepmq_protocol::Request;
    use keepmq_protocol::seam::{Conn, Event};

    const SECOND: Duration = Duration::from_secs(1);

    fn locks(client: &str, group: &str, queues: &[(&str, i32)]) -> Box<QueueLocks> {
        let queue = |(topic, queue_id): &(&str, i32)| QueueName {
            broker_name: "broker-a".into(),
            queue_id: *queue_id,
            topic: (*topic).into(),
        };
        let (client_id, consumer_group) = (client.into(), group.into());
        let mq_set = queues.iter().map(queue).collect();
        Box::new(QueueLocks { client_id, consumer_group, mq_set, only_this_broker: false })
    }

    /// The queues that are granted, or the code of the refusal.
    fn lock(world: &mut World, conn: Conn, request: Box<QueueLocks>) -> String {
        let response = world.ask(conn, Request::LockQueues(request));
        if !response.is_ok() {
            return response.code.to_string();
        }
        let body: serde_json::Value = serde_json::from_slice(&response.body.concat()).unwrap();
        let name = |queue: &serde_json::Value| {
            assert_eq!(queue["brokerName"], "broker-a");
            format!("{}/{}", queue["topic"].as_str().unwrap(), queue["queueId"])
        };
        body["lockOKMQSet"].as_array().unwrap().iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn world() -> World {
        let mut world = World::new(config());
        for queue_id in 0..4 {
            world.ask(A, Request::Send(crate::testing::message("T", queue_id, "", b"x")));
        }
        world
    }

    #[test]
    fn a_queue_has_one_owner_until_it_lets_go_or_is_silent_for_a_minute() {
        let mut world = world();
        let both = [("T", 0), ("T", 1)];
        assert_eq!(lock(&mut world, A, locks("a", "G", &both)), "T/0 T/1", "a new group waits for nobody");
        assert_eq!(lock(&mut world, B, locks("b", "G", &[("T", 1), ("T", 2)])), "T/2");
        assert_eq!(lock(&mut world, B, locks("b", "H", &both)), "T/0 T/1", "another group's locks are its own");
        world.pass(40 * SECOND);
        world.event(Event::Closed { conn: A });
        assert_eq!(lock(&mut world, B, locks("b", "G", &both)), "", "a lock does not end with a connection");
        assert_eq!(lock(&mut world, B, locks("a", "G", &[("T", 0)])), "T/0", "its owner may come from anywhere");
        world.ask(B, Request::UnlockQueues(locks("b", "G", &[("T", 0), ("none", 7)])));
        world.pass(20 * SECOND);
        assert_eq!(lock(&mut world, B, locks("b", "G", &both)), "T/1", "one was renewed 20 s ago, one is a minute old");
        world.oneway(B, Request::UnlockQueues(locks("a", "G", &[("T", 0)])));
        assert_eq!(lock(&mut world, B, locks("b", "G", &both)), "T/0 T/1");
    }

    #[test]
    fn what_is_no_queue_of_this_broker_is_not_granted() {
        let mut world = world();
        let mut other = locks("a", "G", &[("T", 0)]);
        other.mq_set[0].broker_name = "broker-b".into();
        assert_eq!(lock(&mut world, A, other), "");
        let odd = [("T", -1), ("T", 8), ("none", 0), ("rmq_sys_keepmq_meta", 0)];
        assert_eq!(lock(&mut world, A, locks("a", "G", &odd)), "");
        assert_eq!(lock(&mut world, A, locks("", "G", &[("T", 0)])), "29");
        assert_eq!(lock(&mut world, A, locks("a", "a/b", &[("T", 0)])), "26");
        assert_eq!(lock(&mut world, A, locks("a", "G", &vec![("T", 0); MAX_NAMED + 1])), "29");
        assert_eq!(world.ask(A, Request::UnlockQueues(locks("a", "G", &odd))).code, 0);
    }

    #[test]
    fn after_a_restart_a_lock_is_nobodys_until_nobody_believes_in_it() {
        let mut world = world();
        assert_eq!(lock(&mut world, A, locks("a", "G", &[("T", 0)])), "T/0");
        let mut next = World::over(world.disk.copy(), config());
        assert_eq!(lock(&mut next, B, locks("b", "G", &[("T", 0)])), "", "a may still consume it");
        assert_eq!(lock(&mut next, A, locks("a", "G", &[("T", 0)])), "", "nor does anybody know that it was a's");
        let told = next.ask(B, Request::LockQueues(locks("b", "G", &[("T", 0)]))).remark.expect("and says why");
        assert!(told.contains("for another 35000 ms"), "{told}");
        assert_eq!(lock(&mut next, B, locks("b", "new", &[("T", 0)])), "T/0");
        next.pass(STALE - Duration::from_millis(1));
        assert_eq!(lock(&mut next, B, locks("b", "G", &[("T", 0)])), "");
        next.pass(Duration::from_millis(1));
        assert_eq!(lock(&mut next, B, locks("b", "G", &[("T", 0)])), "T/0");
    }

    #[test]
    fn the_table_is_bounded_and_loses_what_has_ended() {
        let mut locks = Locks::new(std::iter::empty(), Mono(0));
        locks.max = 1_000;
        let key = |id: u32| Key { group: format!("G{}", id % 7).into(), topic: "T".into(), queue_id: id };
        let at = |seconds| Mono(0) + SECOND * seconds;
        for id in 0..2_000 {
            assert_eq!(locks.take(key(id), "a", at(id / 100)), id < 1_000);
        }
        assert!(locks.take(key(5), "a", at(20)), "whoever has one keeps it");
        // The last of those that are not renewed ends at 69 s.
        for _ in 0..=1_000 / SWEEP {
            locks.sweep(SWEEP, at(69));
        }
        assert_eq!(locks.len(), 1);
        assert!(locks.take(key(1_500), "a", at(69)));
    }
}
