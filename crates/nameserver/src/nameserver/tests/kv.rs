//! What is kept on disk, and when it is said to be.

use super::*;
use crate::{SaveError, read_kv};
use keepmq_protocol::request::{KvEntry, KvNamespace};

impl Story {
    /// A change; what comes of it at once: answers as `code`, saves as their content.
    fn change(&mut self, conn: u64, request: Request<'_>) -> Vec<String> {
        let from = self.caller(conn);
        let effects = self.event(Event::Request { from, request });
        said(effects)
    }

    fn put(&mut self, key: &str, value: &str) -> Vec<String> {
        self.change(1, put("N", key, value))
    }

    /// The save with this ticket has ended.
    fn done(&mut self, ticket: u64, outcome: Result<(), SaveError>) -> Vec<String> {
        let effects = self.event(Event::Done(Done::Saved(KvSaved { ticket, outcome })));
        said(effects)
    }

    fn get(&mut self, key: &str) -> String {
        let name = KvName { namespace: "N".into(), key: key.into() };
        let response = self.ask(1, Request::GetKv(name));
        match response.is_ok() {
            true => response.field::<keepmq_protocol::header::Str<'_>>("value").unwrap().to_string(),
            false => response.code.to_string(),
        }
    }

    fn list(&mut self, namespace: &str) -> String {
        let response = self.ask(1, Request::ListKv(KvNamespace { namespace: namespace.into() }));
        match response.body.first() {
            Some(body) => String::from_utf8(body.to_vec()).unwrap(),
            None => response.code.to_string(),
        }
    }
}

fn put<'a>(namespace: &'a str, key: &'a str, value: &'a str) -> Request<'a> {
    Request::PutKv(KvEntry { namespace: namespace.into(), key: key.into(), value: value.into() })
}

fn delete(key: &str) -> Request<'_> {
    Request::DeleteKv(KvName { namespace: "N".into(), key: key.into() })
}

/// Answers as `opaque: code`, saves as `ticket <- content`.
fn said(effects: Vec<Effect<Task>>) -> Vec<String> {
    let one = |effect| match effect {
        Effect::Reply { to, response } => format!("{}: {}", to.opaque, response.code),
        Effect::Work(Task::Save(SaveKv { ticket, bytes })) => {
            format!("{ticket} <- {}", String::from_utf8(bytes).unwrap())
        }
        Effect::Exit(exit) => format!("{exit:?}"),
        other => panic!("neither an answer nor a save: {other:?}"),
    };
    effects.into_iter().map(one).collect()
}

#[test]
fn a_change_is_read_and_answered_when_it_is_on_disk() {
    let mut s = story();
    s.open(1);
    assert_eq!((s.get("k").as_str(), s.list("N").as_str()), ("22", "22"));
    assert_eq!(s.put("k", "v"), [r#"1 <- {"configTable":{"N":{"k":"v"}}}"#], "written, not answered");
    assert_eq!(s.get("k"), "22", "nobody reads what might be taken back");
    assert_eq!(s.done(1, Ok(())), ["3: 0"]);
    assert_eq!((s.get("k").as_str(), s.list("N").as_str()), ("v", r#"{"table":{"k":"v"}}"#));
    assert_eq!(s.put("k", "v"), ["7: 0"], "what is on disk already is not written again");
    assert_eq!(s.change(1, delete("other")), ["8: 0"], "and nothing that is not there needs to be removed");
    assert_eq!(s.change(1, delete("k")), [r#"2 <- {"configTable":{}}"#]);
    assert_eq!(s.done(2, Ok(())), ["9: 0"]);
    assert_eq!(s.list("N"), "22");
}

#[test]
fn what_comes_while_a_save_is_under_way_goes_together_with_the_next() {
    let mut s = story();
    s.open(1);
    s.put("a", "1");
    assert!(s.put("b", "2").is_empty() && s.put("a", "3").is_empty() && s.change(1, delete("b")).is_empty());
    assert_eq!(s.done(1, Ok(())), ["1: 0", r#"2 <- {"configTable":{"N":{"a":"3"}}}"#]);
    assert_eq!(s.get("a"), "1");
    s.close(1);
    assert_eq!(s.done(2, Ok(())), ["2: 0", "3: 0", "4: 0"], "whoever has gone is answered into the void");
    s.open(1);
    assert_eq!(s.get("a"), "3");
}

#[test]
fn a_save_that_fails_changes_nothing_and_the_next_one_stands_on_what_is_kept() {
    let mut s = story();
    s.open(1);
    s.put("a", "1");
    s.done(1, Ok(()));
    s.put("a", "2");
    s.put("b", "3");
    let failed =
        s.event(Event::Done(Done::Saved(KvSaved { ticket: 2, outcome: Err(SaveError::NotSaved("no space".into())) })));
    let [Effect::Reply { response, .. }, Effect::Work(Task::Save(next))] = &failed[..] else { panic!("{failed:?}") };
    let remark = response.remark.as_deref().unwrap();
    assert!(response.code == 1 && remark.contains("no space") && remark.contains("try again"), "{remark}");
    assert_eq!(String::from_utf8_lossy(&next.bytes), r#"{"configTable":{"N":{"a":"1","b":"3"}}}"#);
    s.done(3, Ok(()));
    assert_eq!((s.get("a").as_str(), s.get("b").as_str()), ("1", "3"));
}

#[test]
fn when_nobody_knows_what_is_on_disk_everybody_is_told_and_it_ends() {
    let mut s = story();
    s.open(1);
    s.put("a", "1");
    s.put("b", "2");
    let ended = s.done(1, Err(SaveError::Unknown("the folder was not synced".into())));
    assert_eq!(ended, ["1: 1", "2: 1", r#"Disk("the folder was not synced")"#]);
}

#[test]
fn a_stop_waits_for_what_was_accepted() {
    let mut s = story();
    s.open(1);
    s.put("a", "1");
    s.put("b", "2");
    assert!(s.event(Event::Stop).is_empty());
    assert_eq!(s.put("c", "3"), ["3: 14"], "nothing more is accepted");
    assert_eq!(s.done(1, Ok(())), ["1: 0", r#"2 <- {"configTable":{"N":{"a":"1","b":"2"}}}"#]);
    assert_eq!(s.done(2, Ok(())), ["2: 0", "Clean"]);
}

#[test]
fn what_is_read_at_the_start_is_what_was_saved() {
    let mut s = story();
    s.open(1);
    let order = s.change(1, put(ORDER_TOPIC_CONFIG, "t", "a:4;b:4"));
    let [save] = &order[..] else { panic!("{order:?}") };
    let kept = read_kv(save.strip_prefix("1 <- ").unwrap().as_bytes()).unwrap();

    let mut s = Story { server: NameServer::new(CONFIG, kept, 7), ..story() };
    s.open(1);
    // Brokers are told which topics are ordered, and clients where their queues are.
    let registered = s.register_as(1, "a", 0, "h:1", 0, "t u");
    assert_eq!(registered.body[0], &br#"{"table":{"t":"a:4;b:4"}}"#[..]);
    let order = |s: &mut Story, topic: &'static str| {
        let response = s.ask(1, Request::RouteInfo(RouteInfo { topic: topic.into(), standard_json: None }));
        let route: keepmq_protocol::body::RouteData = serde_json::from_slice(&response.body[0]).unwrap();
        route.order_topic_conf
    };
    assert_eq!((order(&mut s, "t").as_deref(), order(&mut s, "u")), (Some("a:4;b:4"), None));
    s.server.config.live.order_in_routes = false;
    s.server.config.live.order_to_brokers = false;
    assert!(order(&mut s, "t").is_none() && s.register_as(1, "a", 0, "h:1", 0, "t u").body.is_empty());

    for (text, why) in [
        ("", "byte 0"),
        ("{}", "configTable"),
        (r#"{"configTable":{"N":{"k":"#, "not JSON"),
        (r#"{"configTable":{"N":{"k":["v"]}}}"#, "expected a string"),
        (r#"{"configTable":[]}"#, "expected a map"),
    ] {
        let error = read_kv(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn what_is_too_much_is_refused_before_it_is_kept() {
    let mut s = story();
    s.open(1);
    let refused = |s: &mut Story, request: Request<'_>, code: i32, why: &str| {
        let response = s.ask(1, request);
        let remark = response.remark.unwrap_or_default();
        assert!(response.code == code && remark.contains(why), "{why}: {remark}");
    };
    let (long, huge) = ("x".repeat(256), "x".repeat(32 * 1024 + 1));
    refused(&mut s, put("", "k", "v"), 1, "the namespace is empty");
    refused(&mut s, put("N", "", "v"), 1, "the key is empty");
    refused(&mut s, put(&long, "k", "v"), 1, "the namespace has 256 bytes");
    refused(&mut s, put("N", &long, "v"), 1, "the limit is 255");
    refused(&mut s, put("N", "k", &huge), 1, "the value has 32769 bytes");
    assert!(s.event(Event::Tick).is_empty(), "nothing is saved");

    // While a save is under way, no more wait than memory has room for.
    s.put("k", "v");
    for nth in 0..1000 {
        assert!(s.put(&format!("k{nth}"), "v").is_empty());
    }
    refused(&mut s, put("N", "one", "more"), 2, "1000 changes wait for the disk already");

    let full = |entries: usize, value: &str| {
        let entries = (0..entries).map(|nth| (nth.to_string(), value.to_owned())).collect();
        KvConfig { config_table: [("N".to_owned(), entries)].into() }
    };
    for (config, why) in [
        (full(10_000, "v"), "there would be 10001 entries"),
        (full(131, &huge[..32_000]), "132 entries of 4224418 bytes; the limits are 10000 and 4194304"),
    ] {
        let text = serde_json::to_vec(&config).unwrap();
        let mut s = Story { server: NameServer::new(CONFIG, read_kv(&text).unwrap(), 7), ..story() };
        s.open(1);
        refused(&mut s, put("N", "one", &huge[..32_000]), 1, why);
        assert!(s.put("0", "other")[0].starts_with("1 <- "), "what is there already may change");
    }
    let too_much = serde_json::to_vec(&full(10_001, "v")).unwrap();
    assert!(read_kv(&too_much).unwrap_err().contains("it holds 10001 entries"));
}
