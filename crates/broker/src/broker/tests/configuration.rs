//! Changes of the configuration while the broker runs.

use super::create_topic;
use crate::testing::{A, B, World, config, live, message, pull};
use crate::{BrokerConfig, Done, LiveConfig, Task};
use keepmq_protocol::change::Configured;
use keepmq_protocol::header::Str;
use keepmq_protocol::seam::{Effect, Event};
use keepmq_protocol::{Request, Response, ResponseCode};
use std::collections::BTreeMap;
use std::time::Duration;

/// Asks for a change; the text that the shell is given.
fn ask(world: &mut World, text: &'static str) -> (i32, Option<String>) {
    let asked = world.send(A, Request::ChangeBrokerConfig(text.into()));
    let work = world.effects.iter().position(|effect| matches!(effect, Effect::Work(Task::Configure(_))));
    let text = work.map(|at| match world.effects.remove(at) {
        Effect::Work(Task::Configure(text)) => text,
        other => unreachable!("{other:?}"),
    });
    (asked, text)
}

fn configured(world: &mut World, configured: Configured<LiveConfig>) {
    world.event(Event::Done(Done::Configured(Box::new(configured))));
}

/// A change that the shell has found good.
fn change(world: &mut World, live: LiveConfig) -> Response {
    let (asked, text) = ask(world, "a=b");
    assert_eq!(text.as_deref(), Some("a=b"));
    assert!(world.answer(asked).is_none(), "nothing is said before it holds");
    configured(world, Configured::Changed { live, remark: None });
    world.answer(asked).expect("answered")
}

#[test]
fn one_change_at_a_time_and_a_refused_one_changes_nothing() {
    let mut world = World::new(config());
    let (first, text) = ask(&mut world, "longPollingEnable=false");
    assert_eq!(text.as_deref(), Some("longPollingEnable=false"));
    let (second, text) = ask(&mut world, "longPollingEnable=true");
    assert_eq!((text, world.answer(second).unwrap().code), (None, 2));
    let why = "because".to_owned();
    configured(&mut world, Configured::Refused { code: ResponseCode::InvalidParameter, why });
    let refused = world.answer(first).unwrap();
    assert_eq!((refused.code, refused.remark.as_deref()), (29, Some("because")));
    let version = |response: Response| response.field::<Str<'_>>("version").unwrap().into_owned();
    assert!(version(world.ask(A, Request::BrokerConfig)).contains("\"counter\":0"));

    let shown = vec![("longPollingEnable".to_owned(), "false".to_owned())];
    assert!(change(&mut world, LiveConfig { shown, long_polling: false, ..live() }).is_ok());
    let told = world.ask(A, Request::BrokerConfig);
    assert_eq!(told.body.concat(), b"longPollingEnable=false\n");
    assert!(version(told).contains("\"counter\":1"));
    let long: &'static str = Box::leak("a=b\n".repeat(20_000).into_boxed_str());
    let (asked, text) = ask(&mut world, long);
    assert_eq!((text, world.answer(asked).unwrap().code), (None, 29));
}

#[test]
fn each_value_holds_at_once() {
    let mut world = World::new(config());
    change(&mut world, LiveConfig { auto_create_topic: false, auto_create_group: false, ..live() });
    assert_eq!(world.ask(A, Request::Send(message("T", 0, "", b"x"))).code, 17);
    world.ask(A, create_topic("T", 1));
    assert_eq!(world.ask(B, Request::Pull(pull("T", 0, 0, "*"))).code, 26);

    change(&mut world, LiveConfig { default_topic_queues: 2, pull_messages: 1, ..live() });
    assert!(world.ask(A, Request::Send(message("U", 1, "", b"1"))).is_ok());
    assert_eq!(world.ask(A, Request::Send(message("U", 2, "", b"x"))).code, 29, "two queues, not four");
    assert!(world.ask(A, Request::Send(message("U", 1, "", b"2"))).is_ok());
    let pulled = world.ask(B, Request::Pull(pull("U", 1, 0, "*")));
    assert_eq!(pulled.field("nextBeginOffset"), Ok(1), "one message a pull");

    change(&mut world, LiveConfig { flush_timeout: Duration::from_millis(100), long_polling: false, ..live() });
    world.hold = true;
    let late = world.send(A, Request::Send(message("T", 0, "", b"x")));
    world.pass(Duration::from_millis(101));
    assert_eq!(world.answer(late).expect("given up").code, 10);
    world.flush();
    let waiting = world.send(B, Request::Pull(pull("T", 0, 1, "*")));
    world.pass(Duration::from_millis(1_001));
    assert_eq!(world.answer(waiting).expect("held for a short time only").code, 19);
}

#[test]
fn a_broker_without_a_permission_says_so_on_its_routes_and_refuses() {
    let mut world = World::new(BrokerConfig { name_servers: vec!["ns:9876".into()], ..config() });
    world.ask(A, create_topic("T", 1));
    let mut ordered = create_topic("O", 1);
    if let Request::CreateTopic(request) = &mut ordered {
        request.order = true;
    }
    world.ask(A, ordered);
    // All that the name server is told until it knows everything; it answers as one that has forgotten this broker, so that
    // changes are followed by the whole.
    let routes = |world: &mut World| -> Vec<(String, i32)> {
        let mut told = BTreeMap::new();
        loop {
            world.pass(Duration::from_millis(60));
            let Some((call, _, request)) = world.calls().into_iter().next() else { return told.into_iter().collect() };
            match request {
                Request::RegisterBroker(request) => {
                    let topics = request.body.topic_config_serialize_wrapper.topic_config_table.into_iter();
                    let topics = topics.filter(|(name, _)| matches!(name.as_str(), "T" | "TBW102"));
                    told.extend(topics.map(|(name, topic)| (name, topic.perm)));
                    world.answered(call, Ok(Response::ok()));
                }
                _ => world.answered(call, Ok(Response::refuse(ResponseCode::TopicNotExist, "no route"))),
            }
        }
    };
    assert_eq!(routes(&mut world), [("T".to_owned(), 6), ("TBW102".to_owned(), 7)]);

    change(&mut world, LiveConfig { permission: 4, ..live() });
    assert_eq!(routes(&mut world), [("T".to_owned(), 4), ("TBW102".to_owned(), 4)]);
    assert_eq!(world.ask(A, Request::Send(message("O", 0, "", b"x"))).code, 16);
    assert!(world.ask(A, Request::Send(message("T", 0, "", b"x"))).is_ok(), "it has not seen the route yet");

    let waiting = world.send(B, Request::Pull(pull("T", 0, 1, "*")));
    change(&mut world, LiveConfig { permission: 2, ..live() });
    assert_eq!(routes(&mut world), [("T".to_owned(), 2), ("TBW102".to_owned(), 2)]);
    assert!(world.answer(waiting).is_some(), "nobody waits for what it may not read");
    let refused = world.ask(B, Request::Pull(pull("T", 0, 0, "*")));
    assert_eq!((refused.code, refused.field("forbiddenType")), (16, Ok(1)));
    change(&mut world, live());
    assert_eq!(routes(&mut world), [("T".to_owned(), 6), ("TBW102".to_owned(), 7)]);
    assert!(world.ask(B, Request::Pull(pull("T", 0, 0, "*"))).is_ok());
}
