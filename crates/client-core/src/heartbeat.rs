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
