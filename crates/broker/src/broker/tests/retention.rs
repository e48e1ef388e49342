//! What is old goes, but for what a group has not consumed; and no clock makes anything old.

use super::*;
use keepmq_store::{LagPolicy, RetentionRules};
use keepmq_world::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const SENT: i64 = 2_300;

/// A broker with two closed segments and a third, all of one queue.
fn filled(lag: LagPolicy) -> World {
    let retention = RetentionRules { lag, ..RetentionRules::keeping(MINUTE) };
    let mut world = World::new(BrokerConfig { live: LiveConfig { retention, ..live() }, ..config() });
    let body = [7; 4000];
    for _ in 0..SENT {
        let answer = world.ask(A, Request::Send(message("T", 0, "", &body)));
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        world.pass(Duration::from_millis(1));
    }
    world
}

fn min(world: &World) -> u64 {
    world.broker.store().queue("T", 0).unwrap().min.0
}

#[test]
fn a_topic_that_no_group_consumes_is_held_by_nobody() {
    let mut world = filled(LagPolicy::Keep);
    assert_eq!(min(&world), 0);
    world.pass(2 * MINUTE);
    assert!(min(&world) > 1_900, "{}", min(&world));
    assert_eq!(world.broker.numbers().store.removed_segments, 2);
}

#[test]
fn what_a_group_has_not_consumed_stays_until_it_has_or_is_deleted() {
    for deleted in [false, true] {
        let mut world = filled(LagPolicy::Keep);
        world.ask(A, update("G", "T", 0, 10));
        world.ask(A, update("eager", "T", 0, SENT));
        world.pass(5 * MINUTE);
        assert_eq!((min(&world), world.broker.numbers().store.held), (0, true));
        world.ask(A, update("G", "T", 0, 1_200));
        world.pass(MINUTE);
        let between = min(&world);
        assert!((900..1_100).contains(&between), "one segment has been consumed: {between}");
        let response = match deleted {
            true => world.ask(A, Request::DeleteGroup(DeleteGroup { group: "G".into(), clean_offsets: false })),
            false => world.ask(A, update("G", "T", 0, SENT)),
        };
        assert_eq!(response.code, 0, "{:?}", response.remark);
        world.pass(MINUTE);
        assert!(min(&world) > 1_900);
        assert!(!world.broker.numbers().store.held);
    }
}

#[test]
fn who_has_lost_messages_by_policy_is_told_how_many() {
    let mut world = filled(LagPolicy::Delete);
    world.ask(A, update("G", "T", 0, 10));
    world.pass(2 * MINUTE);
    let lost = min(&world) - 10;
    assert!(lost > 1_900);
    let answer = world.ask(A, Request::Pull(pull("T", 0, 10, "*")));
    assert_eq!(answer.code, ResponseCode::PullOffsetMoved as i32);
    let remark = answer.remark.as_deref().unwrap();
    assert!(remark.starts_with("OFFSET_TOO_SMALL") && remark.contains(&format!("{lost} messages")), "{remark}");
    assert_eq!(world.broker.numbers().counts.lost_by_retention, lost);
    // Nobody has lost what never was.
    world.ask(A, Request::Pull(pull("T", 0, -1, "*")));
    assert_eq!(world.broker.numbers().counts.lost_by_retention, lost);
}

#[test]
fn a_clock_that_is_set_by_ten_years_makes_nothing_old_and_nothing_out_of_order() {
    let mut world = filled(LagPolicy::Delete);
    let mut last = world.broker.store().queue("T", 0).unwrap().last_stored;
    for years in [10, -20, 10, 5, -5] {
        world.now.wall = Timestamp(world.now.wall.0 + years * 365 * 86_400_000);
        world.ask(A, Request::Send(message("T", 0, "", b"by another clock")));
        world.pass(SECOND);
        let stored = world.broker.store().queue("T", 0).unwrap().last_stored;
        assert!(stored >= last);
        last = stored;
    }
    world.pass(Duration::from_secs(20));
    assert_eq!(min(&world), 0);
    let info = json_of(&world.ask(A, Request::RuntimeInfo));
    let runtime = info["table"]["runtime"].as_str().unwrap();
    assert!(runtime.starts_with("[ 0 days, 0 hours, 0 minutes"), "{runtime}");
}
