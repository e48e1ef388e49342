//! Changes of the configuration while a name server runs.

use super::*;
use keepmq_protocol::ResponseCode;
use keepmq_protocol::change::Configured;

#[test]
fn a_change_holds_once_it_is_kept_and_is_answered_then() {
    let mut s = story();
    s.open(1);
    let from = s.caller(1);
    let ask = || Event::Request { from, request: Request::ChangeNameServerConfig("a=b".into()) };
    let asked = s.event(ask());
    let [Effect::Work(Task::Configure(text))] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(text, "a=b");
    let busy = s.event(ask());
    let [Effect::Reply { response, .. }] = &busy[..] else { panic!("{busy:?}") };
    assert_eq!(response.code, ResponseCode::SystemBusy as i32);
    assert!(s.ask(1, Request::NameServerConfig).body.concat().is_empty());

    let shown = vec![("scanNotActiveBrokerInterval".to_owned(), "1000".to_owned())];
    let live = LiveConfig { scan_every: Duration::from_secs(1), shown, ..CONFIG.live };
    let configured = Configured::Changed { live, remark: None };
    let changed = s.event(Event::Done(Done::Configured(Box::new(configured))));
    let [Effect::Reply { to, response }] = &changed[..] else { panic!("{changed:?}") };
    assert!(*to == from && response.is_ok());
    let told = s.ask(1, Request::NameServerConfig);
    assert_eq!(told.body.concat(), b"scanNotActiveBrokerInterval=1000\n");
    assert_eq!(s.server.config.live.scan_every, Duration::from_secs(1));
}
