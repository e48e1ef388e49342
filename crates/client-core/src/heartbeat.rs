use crate::cx::Cx;
use crate::routes::Routes;
use keepmq_protocol::body::Heartbeat;
use keepmq_protocol::request::Unregister;
use keepmq_protocol::seam::{CallId, Outcome};
use keepmq_protocol::{BrokerName, Request};
use keepmq_world::Mono;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How soon a broker that did not take it is told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells brokers that this client lives, and what it is. Source: RocketMQ `MQClientInstance.sendHeartbeatToAllBroker`.
///
/// A broker is told when it first stands in a route, and then once a period; one that has not confirmed, once a second. A
/// producer tells masters only; a consumer tells everybody, since any of them may be asked for the members of its group.
pub(crate) struct Heartbeats {
    every: Duration,
    patience: Duration,
    masters_only: bool,
    brokers: BTreeMap<(BrokerName, i64), Told>,
    calls: BTreeMap<CallId, (BrokerName, i64)>,
}

struct Told {
    address: Arc<str>,
    /// It knows us, and has since not failed to say so.
    knows: bool,
    asking: Option<CallId>,
    next_at: Mono,
}

impl Heartbeats {
    pub(crate) fn new(every: Duration, patience: Duration, masters_only: bool) -> Self {
        Self { every, patience, masters_only, brokers: BTreeMap::new(), calls: BTreeMap::new() }
    }

    /// The routes have changed: there are brokers to be told, or no longer.
    pub(crate) fn meet(&mut self, routes: &Routes, now: Mono) {
        let met = routes.brokers();
        self.brokers.retain(|broker, told| met.get(broker) == Some(&told.address));
        for (broker, address) in met {
            if broker.1 == 0 || !self.masters_only {
                let told = Told { address, knows: false, asking: None, next_at: now };
                self.brokers.entry(broker).or_insert(told);
            }
        }
    }

    /// Tells those whose time has come.
    pub(crate) fn on_time<W>(&mut self, heartbeat: impl Fn() -> Heartbeat, cx: &mut Cx<W>) {
        let now = cx.now.mono;
        for (broker, told) in &mut self.brokers {
            if told.asking.is_none() && told.next_at <= now {
                let request = Request::Heartbeat(Box::new(heartbeat()));
                let call = cx.call(&told.address, request, now + self.patience);
                told.asking = Some(call);
                self.calls.insert(call, broker.clone());
            }
        }
    }

    /// Takes an answer; `None` when the call is none of ours, else whether a broker knows us now that did not before.
    pub(crate) fn answered(&mut self, call: CallId, outcome: &Outcome, now: Mono) -> Option<bool> {
        let broker = self.calls.remove(&call)?;
        // It may have left the routes meanwhile, or come back under another address.
        let Some(told) = self.brokers.get_mut(&broker).filter(|told| told.asking == Some(call)) else {
            return Some(false);
        };
        told.asking = None;
        let knew = std::mem::replace(&mut told.knows, outcome.as_ref().is_ok_and(|response| response.is_ok()));
        told.next_at = now + if told.knows { self.every } else { AGAIN.min(self.every) };
        Some(told.knows && !knew)
    }

    /// Everybody is to be told at once: what this client is has changed.
    pub(crate) fn renew(&mut self, now: Mono) {
        for told in self.brokers.values_mut() {
            told.next_at = now;
        }
    }

    /// Whether this broker has confirmed that it knows us.
    pub(crate) fn is_known_to(&self, broker: &BrokerName) -> bool {
        self.brokers.iter().any(|((name, _), told)| name == broker && told.knows)
    }

    /// Takes leave of all that know us. The answers are recognised by the ids; none of them changes anything.
    pub(crate) fn leave<W>(&self, unregister: &Unregister<'static>, cx: &mut Cx<W>) -> Vec<CallId> {
        let until = cx.now.mono + self.patience;
        let mut leave = |told: &Told| cx.call(&told.address, Request::Unregister(unregister.clone()), until);
        self.brokers.values().filter(|told| told.knows || told.asking.is_some()).map(&mut leave).collect()
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.brokers.values().filter(|told| told.asking.is_none()).map(|told| told.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes;
    use crate::routes::tests::{at, learn, route};
    use keepmq_protocol::Response;
    use keepmq_protocol::seam::{CallError, Effect};
    use std::borrow::Cow;

    const SECOND: u64 = 1_000_000_000;

    fn heartbeats(masters_only: bool) -> Heartbeats {
        Heartbeats::new(Duration::from_secs(30), Duration::from_secs(3), masters_only)
    }

    fn met(heartbeats: &mut Heartbeats, cx: &mut Cx<()>, brokers: &[routes::tests::Told<'_>]) {
        let servers = vec!["n".to_owned()];
        let mut routes = Routes::new(servers, Duration::from_secs(30), Duration::from_secs(3), 1);
        learn(&mut routes, cx, route(brokers));
        heartbeats.meet(&routes, cx.now.mono);
    }

    /// Who is told at this time.
    fn told(heartbeats: &mut Heartbeats, cx: &mut Cx<()>, mono: u64) -> Vec<(CallId, String)> {
        cx.now = at(mono);
        heartbeats.on_time(Heartbeat::default, cx);
        std::iter::from_fn(|| cx.poll_effect())
            .map(|effect| match effect {
                Effect::Call { call, peer, request: Request::Heartbeat(_), .. } => (call, peer),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn lost() -> Outcome {
        Err(CallError::Lost { peer: "a:1".to_owned(), why: "gone".to_owned() })
    }

    #[test]
    fn a_broker_is_told_once_a_period_and_once_a_second_until_it_knows() {
        let mut heartbeats = heartbeats(true);
        let mut cx = Cx::new(1, at(0));
        met(&mut heartbeats, &mut cx, &[("a", &[(0, "a:1"), (1, "a:2")], 6, 1)]);
        let broker = BrokerName::new("a").unwrap();
        let first = told(&mut heartbeats, &mut cx, 0);
        assert_eq!((first.len(), first[0].1.as_str()), (1, "a:1"), "a producer tells masters only");
        assert!(told(&mut heartbeats, &mut cx, 9 * SECOND).is_empty(), "it has been asked, and has not answered");
        assert_eq!(heartbeats.answered(first[0].0, &lost(), Mono(9 * SECOND)), Some(false));
        assert!(!heartbeats.is_known_to(&broker));
        assert_eq!(heartbeats.deadline(), Some(Mono(10 * SECOND)));
        let second = told(&mut heartbeats, &mut cx, 10 * SECOND);
        assert_eq!(heartbeats.answered(second[0].0, &Ok(Response::ok()), Mono(10 * SECOND)), Some(true));
        assert!(heartbeats.is_known_to(&broker));
        assert!(told(&mut heartbeats, &mut cx, 40 * SECOND - 1).is_empty());
        let third = told(&mut heartbeats, &mut cx, 40 * SECOND);
        assert_eq!(heartbeats.answered(third[0].0, &Ok(Response::ok()), Mono(40 * SECOND)), Some(false), "it knew");
        assert_eq!(heartbeats.answered(CallId(999), &lost(), Mono(40 * SECOND)), None, "none of ours");
        heartbeats.renew(Mono(41 * SECOND));
        assert_eq!(told(&mut heartbeats, &mut cx, 41 * SECOND).len(), 1);
    }

    #[test]
    fn an_answer_from_where_a_broker_was_says_nothing_of_where_it_is() {
        let mut heartbeats = heartbeats(false);
        let mut cx = Cx::new(1, at(0));
        met(&mut heartbeats, &mut cx, &[("a", &[(0, "a:1"), (1, "a:2")], 6, 1)]);
        let first = told(&mut heartbeats, &mut cx, 0);
        assert_eq!(first.len(), 2, "a consumer tells everybody");
        met(&mut heartbeats, &mut cx, &[("a", &[(0, "a:9")], 6, 1)]);
        for (call, _) in &first {
            assert_eq!(heartbeats.answered(*call, &Ok(Response::ok()), Mono(1)), Some(false));
        }
        assert!(!heartbeats.is_known_to(&BrokerName::new("a").unwrap()));
        let second = told(&mut heartbeats, &mut cx, 1);
        assert_eq!(second.iter().map(|(_, peer)| peer.as_str()).collect::<Vec<_>>(), ["a:9"]);
    }

    #[test]
    fn leave_is_taken_of_those_who_may_know() {
        let mut heartbeats = heartbeats(true);
        let mut cx = Cx::new(1, at(0));
        met(
            &mut heartbeats,
            &mut cx,
            &[("a", &[(0, "a:1")], 6, 1), ("b", &[(0, "b:1")], 6, 1), ("c", &[(0, "c:1")], 6, 1)],
        );
        for (call, peer) in told(&mut heartbeats, &mut cx, 0) {
            match peer.as_str() {
                "a:1" => assert_eq!(heartbeats.answered(call, &Ok(Response::ok()), Mono(0)), Some(true)),
                "b:1" => assert_eq!(heartbeats.answered(call, &lost(), Mono(0)), Some(false)),
                _ => {}
            }
        }
        let unregister = Unregister { client_id: Cow::Borrowed("me"), producer_group: None, consumer_group: None };
        assert_eq!(heartbeats.leave(&unregister, &mut cx).len(), 2);
        let peers: Vec<_> = std::iter::from_fn(|| cx.poll_effect())
            .map(|effect| match effect {
                Effect::Call { peer, request: Request::Unregister(_), .. } => peer,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(peers, ["a:1", "c:1"], "one that has not answered may have heard it");
    }
}
