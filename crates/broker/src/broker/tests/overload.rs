//! More than disk and memory take is refused before it is appended, and taken again as soon as they can.

use super::*;
use keepmq_protocol::seam::Conn;

fn refused_for(world: &mut World, key: &str) -> u64 {
    let table = json_of(&world.ask(B, Request::RuntimeInfo));
    table["table"][key].as_str().unwrap_or_else(|| panic!("{key} is not shown")).parse().unwrap()
}

fn send(world: &mut World) -> i32 {
    world.send(A, Request::Send(message("T", 0, "", b"x")))
}

#[test]
fn behind_a_disk_that_stands_still_nothing_is_accepted_after_a_second() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 1));
    world.hold = true;
    let first = send(&mut world);
    world.pass(Duration::from_millis(999));
    let second = send(&mut world);
    world.pass(Duration::from_millis(1));
    let appended = world.broker.store().appended();
    let third = send(&mut world);
    let refused = world.answer(third).expect("refused at once");
    let text = refused.remark.unwrap();
    assert_eq!(refused.code, 2);
    assert!(text.contains("waited 1000 ms") && text.contains("the limit is 1000 ms"), "{text}");
    assert_eq!(world.broker.store().appended(), appended, "before it was appended");
    assert_eq!(refused_for(&mut world, "keepmqSendsRefusedStalled"), 1);
    assert_eq!((world.answer(first), world.answer(second)), (None, None));

    // The first two have their time, and then their one answer; the disk still stands.
    world.pass(4 * SECOND);
    assert_eq!(world.answer(first).map(|answer| answer.code), Some(10));
    let fourth = send(&mut world);
    assert_eq!(world.answer(fourth).map(|answer| answer.code), Some(2), "the second waits for longer than a second");
    world.flush();
    assert_eq!(world.answer(second).map(|answer| answer.code), Some(0));
    let fifth = send(&mut world);
    assert!(world.answer(fifth).is_some_and(|answer| answer.is_ok()), "it moves again: so does everything");
    assert_eq!(told(&world.ask(B, Request::Pull(pull("T", 0, 0, "*")))), "0 3 x,x,x", "what was refused is not there");
}

#[test]
fn buffers_that_are_full_refuse_and_name_their_limit() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 1));
    world.hold = true;
    let body = vec![b'x'; 4_000];
    let mut sent = 0;
    let refused = loop {
        let opaque = world.send(A, Request::Send(message("T", 0, "", &body)));
        match world.answer(opaque) {
            Some(refused) => break refused,
            None => sent += 1,
        }
    };
    assert!((600..1_000).contains(&sent), "three buffers of a mebibyte: {sent}");
    assert_eq!(refused.code, 2);
    assert!(refused.remark.unwrap().contains("the limit is 3145728"));
    assert_eq!(refused_for(&mut world, "keepmqAppendsRefusedBuffers"), 1);
    world.flush();
    assert_eq!(world.replies.len(), sent, "what was accepted is kept");
    assert!(world.ask(A, Request::Send(message("T", 0, "", &body))).is_ok(), "and there is room again");
}

/// Found by the simulator: the predecessor's last commit was gathered and could not be written, and its successor was sent
/// back to the one before; by a broker that stops, too.
#[test]
fn an_offset_that_cannot_be_written_is_not_answered_with_the_one_before() {
    let mut world = World::new(config());
    world.ask(A, create_topic("T", 1));
    world.ask(A, Request::Send(message("T", 0, "", b"x")));
    world.ask(A, update("F", "T", 0, 0));
    world.ask(A, update("G", "T", 0, 0));
    world.hold = true;
    let mut fill = |request: &dyn Fn(i64) -> Request<'static>| {
        for nth in 0.. {
            let opaque = world.send(A, request(nth));
            if world.answer(opaque).is_some_and(|answer| answer.code == 2) {
                break;
            }
        }
    };
    fill(&|_| Request::Send(message("T", 0, "", &[b'x'; 4_000])));
    fill(&|nth| update("F", "T", 0, nth % 2));
    world.oneway(A, update("G", "T", 0, 1));
    let asked = world.send(B, query("G", "T", 0));
    assert_eq!(world.answer(asked).map(|answer| answer.code), Some(2), "neither 0 nor 1 may be said");
    world.event(Event::Stop);
    world.event(Event::Stop);
    let asked = world.send(B, query("G", "T", 0));
    assert_eq!(world.answer(asked).map(|answer| answer.code), Some(2), "nor when it stops");
}

#[test]
fn a_hundred_thousand_pulls_wait_no_client_takes_all_places_and_one_more_is_answered_at_once() {
    const EACH: usize = 12_500;
    let mut world = World::new(BrokerConfig { max_parked: 8 * EACH, ..config() });
    world.ask(A, create_topic("T", 1));
    let hogs: Vec<Conn> = (100..108).map(Conn).collect();
    for (index, hog) in hogs.iter().enumerate() {
        world.event(Event::Opened { conn: *hog, peer: "10.0.0.9:50000".parse().unwrap() });
        for _ in 0..EACH {
            world.send(*hog, Request::Pull(pull("T", 0, 0, "red")));
        }
        assert!(world.replies.is_empty());
        assert_eq!(told(&world.ask(*hog, Request::Pull(pull("T", 0, 0, "red")))), "19 0 ", "it has its share");
        assert_eq!(refused_for(&mut world, "keepmqPullsNotParked"), index as u64 + 1);
    }
    assert_eq!(told(&world.ask(B, Request::Pull(pull("T", 0, 0, "*")))), "19 0 ", "there is no place at all");
    world.ask(B, Request::Send(message("T", 0, "TAGS\u{1}blue\u{2}", b"x")));
    assert!(world.replies.is_empty(), "nobody wants it");
    for hog in hogs {
        world.event(Event::Closed { conn: hog });
    }
    assert_eq!(refused_for(&mut world, "keepmqParkedPulls"), 0);
    let again = world.send(B, Request::Pull(pull("T", 0, 1, "*")));
    assert_eq!(world.answer(again), None, "there is room again");
}

#[test]
fn the_many_parked_pulls_of_one_client_are_served_in_pieces_and_nobody_waits_behind_them() {
    const MANY: usize = 2_000;
    let mut world = World::new(BrokerConfig { max_parked: 8 * MANY, ..config() });
    world.ask(A, create_topic("T", 2));
    for _ in 0..MANY / 2 {
        world.send(A, Request::Pull(pull("T", 0, 0, "*")));
        world.send(A, Request::Pull(pull("T", 1, 0, "*")));
    }
    let modest = world.send(B, Request::Pull(pull("T", 1, 0, "*")));
    let sent = [0, 1].map(|queue| world.send(B, Request::Send(message("T", queue, "", b"x"))));
    assert!(sent.iter().all(|sent| world.answer(*sent).is_some()));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.answer(modest).map(|answer| told(&answer)), Some("0 1 x".into()));
    let so_far = world.replies.len();
    assert!((1..MANY * 2 / 3).contains(&so_far), "{so_far} of {MANY}");
    // A queue that grows meanwhile keeps nobody waiting, and who comes meanwhile is not forgotten.
    let late = world.send(A, Request::Pull(pull("T", 0, 1, "*")));
    world.ask(B, Request::Send(message("T", 0, "", b"y")));
    world.pass(Duration::from_millis(4));
    assert_eq!(world.answer(late).map(|answer| told(&answer)), Some("0 2 y".into()));
    assert_eq!((world.replies.len(), refused_for(&mut world, "keepmqParkedPulls")), (MANY, 0));
}

#[test]
fn many_parked_pulls_whose_time_is_up_at_once_are_let_go_in_pieces() {
    const MANY: usize = 2_000;
    let mut world = World::new(BrokerConfig { max_parked: 8 * MANY, ..config() });
    world.ask(A, create_topic("T", 1));
    for _ in 0..MANY {
        world.send(A, Request::Pull(pull("T", 0, 0, "*")));
    }
    world.pass(15 * SECOND);
    let at_once = world.replies.len();
    assert!((1..MANY / 2).contains(&at_once), "{at_once} of {MANY}");
    world.pass(Duration::from_millis(4));
    assert_eq!(world.replies.len(), MANY);
}
