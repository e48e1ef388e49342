//! Members, their subscriptions, and who is told what.

use super::*;
use keepmq_protocol::frame::{FRAME_MAX, cut, read};
use keepmq_protocol::request::Pull;
use keepmq_protocol::seam::Conn;

fn join(world: &mut World, conn: u64, client: &str, topics: &[(&str, &str, i64)]) -> i32 {
    if conn > 2 {
        let peer = "10.0.0.9:5000".parse().unwrap();
        world.event(Event::Opened { conn: Conn(conn), peer });
    }
    world.ask(Conn(conn), heartbeat(client, "G", topics)).code
}

/// A pull that leaves the filter to the heartbeat, as push consumers do.
fn push_pull(version: i64) -> Request<'static> {
    let pull = Pull { sys_flag: 0, sub_version: version, subscription: None, ..pull("T", 0, 0, "") };
    Request::Pull(pull)
}

fn runtime(world: &mut World, key: &str) -> String {
    let table = json_of(&world.ask(A, Request::RuntimeInfo));
    table["table"][key].as_str().unwrap_or_else(|| panic!("{key} is not shown")).to_owned()
}

#[test]
fn a_thousand_joins_are_few_notices_and_the_last_one_is_told_to_all() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 1));
    for conn in 3..1_003 {
        join(&mut world, conn, &format!("c{conn}"), &[("T", "*", 1)]);
    }
    let told = pushes(&mut world);
    assert_eq!(told, [3], "the first is told at once, the others wait a moment");
    world.pass(Duration::from_millis(100));
    assert_eq!(pushes(&mut world).len(), 1_000);
    world.event(Event::Closed { conn: Conn(500) });
    world.event(Event::Closed { conn: Conn(501) });
    world.pass(Duration::from_millis(1_099));
    assert_eq!(pushes(&mut world).len(), 0, "a large group is left in peace for longer");
    world.pass(Duration::from_millis(1));
    assert_eq!(pushes(&mut world).len(), 998);
    world.pass(10 * SECOND);
    assert_eq!(pushes(&mut world).len(), 0, "and nobody is told of nothing");
}

#[test]
fn ten_thousand_subscriptions_are_served_and_more_are_refused() {
    let mut world = World::new(config());
    let names: Vec<String> = (0..10_001).map(|id| format!("T{id}")).collect();
    let mut topics: Vec<_> = names.iter().map(|name| (name.as_str(), "a || b", 1)).collect();
    assert_eq!(join(&mut world, 1, "c", &topics), 1);
    topics.pop();
    assert_eq!(join(&mut world, 1, "c", &topics), 0);
    assert_eq!(join(&mut world, 1, "c", &topics), 0);
    assert_eq!(pushes(&mut world), [1]);
}

#[test]
fn members_that_disagree_each_get_what_they_asked_for_whatever_their_clocks_say() {
    let mut world = World::new(config());
    for tag in ["red", "blue"] {
        world.ask(A, Request::Send(message("T", 0, &format!("TAGS\u{1}{tag}\u{2}"), tag.as_bytes())));
    }
    // The clock of the first is years ahead.
    join(&mut world, 1, "c1", &[("T", "red", 4_000_000_000_000)]);
    assert_eq!(runtime(&mut world, "keepmqSubscriptionsDiffer"), "0");
    join(&mut world, 2, "c2", &[("T", "blue", 1_700_000_000_000)]);
    assert_eq!(runtime(&mut world, "keepmqSubscriptionsDiffer"), "1");
    assert_eq!(told(&world.ask(A, push_pull(4_000_000_000_000))), "0 2 red");
    assert_eq!(told(&world.ask(B, push_pull(1_700_000_000_000))), "0 2 blue");
    assert_eq!(
        world.ask(B, push_pull(1_700_000_000_001)).code,
        25,
        "its heartbeat with the newer one is still to come"
    );
    // Go sends its subscription along and leaves the flag away.
    let Request::Pull(go) = push_pull(0) else { panic!() };
    let go = Pull { subscription: Some("red".into()), expression_type: Some("".into()), ..go };
    assert_eq!(told(&world.ask(B, Request::Pull(go))), "0 2 blue");

    join(&mut world, 2, "c2", &[("T", "red", 1_700_000_000_001)]);
    assert_eq!(runtime(&mut world, "keepmqSubscriptionsDiffer"), "1", "now they agree");
    assert_eq!(told(&world.ask(B, push_pull(1_700_000_000_001))), "0 2 red");
    pushes(&mut world);
    join(&mut world, 2, "c2", &[("U", "red", 1_700_000_000_002)]);
    world.pass(SECOND);
    assert_eq!(pushes(&mut world), [1, 2], "other topics: the queues are shared out again");
    join(&mut world, 1, "c1", &[("T", "red", 4_000_000_000_000)]);
    world.pass(SECOND);
    assert!(pushes(&mut world).is_empty(), "who repeats itself changes nothing, also when another one disagrees");
}

#[test]
fn a_heartbeat_without_subscriptions_keeps_those_that_are_known() {
    let mut world = World::new(config());
    world.ask(A, Request::Send(message("T", 0, "TAGS\u{1}red\u{2}", b"1")));
    let without = |client| match heartbeat(client, "G", &[]) {
        Request::Heartbeat(beat) => Request::Heartbeat(Box::new(Heartbeat { without_sub: true, ..*beat })),
        _ => unreachable!(),
    };
    let answer = world.ask(A, without("c1"));
    let asks_for_all = (answer.field("IS_SUPPORT_HEART_BEAT_V2"), answer.field("IS_SUB_CHANGE"));
    assert_eq!(asks_for_all, (Ok(false), Ok(true)), "so the next one is a whole one");
    assert_eq!(world.ask(A, push_pull(0)).code, 24);
    join(&mut world, 1, "c1", &[("T", "red", 1)]);
    world.ask(A, without("c1"));
    world.ask(B, without("c2"));
    assert_eq!(told(&world.ask(A, push_pull(1))), "0 1 1");
    assert_eq!(told(&world.ask(B, push_pull(1))), "0 1 1", "what the group is known to want");
}

#[test]
fn lite_pulls_can_be_forbidden() {
    let lite = || Request::Pull(Pull { sys_flag: 0x16, ..pull("T", 0, 0, "*") });
    for (allowed, expected) in [(true, (0, Err(()))), (false, (16, Ok(1)))] {
        let mut world = World::new(BrokerConfig { lite_pull: allowed, ..config() });
        world.ask(A, Request::Send(message("T", 0, "", b"x")));
        let answer = world.ask(A, lite());
        assert_eq!((answer.code, answer.field("forbiddenType").map_err(drop)), expected);
        assert_eq!(world.ask(A, Request::Pull(pull("T", 0, 0, "*"))).code, 0, "other pulls are no business of the key");
    }
}

#[test]
fn what_clients_sign_their_requests_with_is_tolerated() {
    // As a Java client 5.3.3 with an AclClientRPCHook sends it.
    let header = r#"{"code":310,"extFields":{"AccessKey":"RocketMQ","Signature":"9Eb0nHQ3tMEBVDhMhVYcF+5aXQ4=",
        "SecurityToken":"sts-token","OnsChannel":"ALIYUN","a":"P","b":"T","c":"TBW102","d":"4","e":"0","f":"0","g":"5",
        "h":"0","i":"TAGS\u0001t\u0002","j":"0","k":"false","l":"0","m":"false","n":"broker-a"},"flag":0,"language":"JAVA",
        "opaque":7,"serializeTypeCurrentRPC":"JSON","version":479}"#;
    let mut bytes = u32::try_from(4 + header.len() + 5).unwrap().to_be_bytes().to_vec();
    bytes.extend(u32::try_from(header.len()).unwrap().to_be_bytes());
    bytes.extend([header.as_bytes(), b"hello"].concat());
    let raw = cut(&bytes, FRAME_MAX).unwrap().expect("a whole frame");
    let frame = read(&raw).unwrap();
    let request = Request::read(&frame).unwrap();
    let mut world = World::new(config());
    assert_eq!(world.ask(A, request).code, 0);
    assert_eq!(told(&world.ask(B, Request::Pull(pull("T", 0, 0, "t")))), "0 1 hello");
}

#[test]
fn a_search_by_time_has_exact_ends() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 2));
    let t = world.now.wall.0;
    for passed in [0, 10, 0, 0, 10] {
        world.pass(Duration::from_millis(passed));
        world.ask(A, Request::Send(message("T", 0, "", b"x")));
    }
    // Times: t, t+10, t+10, t+10, t+20.
    let search = |world: &mut World, topic: &'static str, queue_id, timestamp, boundary: Option<&'static str>| {
        let boundary = boundary.map(Str::from);
        let response =
            world.ask(A, Request::SearchOffset(SearchOffset { topic: topic.into(), queue_id, timestamp, boundary }));
        response.field::<i64>("offset").unwrap()
    };
    for (time, lower, upper) in [
        (i64::MIN, 0, 0),
        (-1, 0, 0),
        (t - 1, 0, 0),
        (t, 0, 0),
        (t + 1, 1, 0),
        (t + 10, 1, 3),
        (t + 11, 4, 3),
        (t + 20, 4, 4),
        (t + 21, 5, 4),
        (i64::MAX, 5, 4),
    ] {
        assert_eq!(search(&mut world, "T", 0, time, None), lower, "{}", time.wrapping_sub(t));
        assert_eq!(search(&mut world, "T", 0, time, Some("LOWER")), lower);
        assert_eq!(search(&mut world, "T", 0, time, Some("upper")), upper, "{}", time.wrapping_sub(t));
        for (topic, queue_id) in [("T", 1), ("T", 7), ("T", -1), ("none", 0), ("rmq_sys_keepmq_meta", 0)] {
            assert_eq!(search(&mut world, topic, queue_id, time, None), 0, "{topic} {queue_id}");
        }
    }
}
