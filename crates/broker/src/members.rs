use crate::cx::{Checked, Cx, refuse};
use crate::groups;
use keepmq_protocol::body::{CheckClientConfig, ConsumerData, Heartbeat, Subscription, TagFilter};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{ConsumerList, ConsumersChanged, Unregister};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{Conn, Effect};
use keepmq_protocol::{Request, Response, ResponseCode, Topic};
use keepmq_store::Disk;
use keepmq_world::{Keyed, Map, Mono};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Most members of a group on this broker.
const MAX_MEMBERS: usize = 10_000;
/// Most groups of one client, and most topics of one group's subscription.
const MAX_PER_CLIENT: usize = 1_000;
/// Longest subscription expression, in bytes.
pub(crate) const MAX_EXPRESSION: usize = 32_768;
/// Longest client id, in bytes.
const MAX_CLIENT_ID: usize = 512;
/// How often silent clients are looked for.
const SCAN: Duration = Duration::from_secs(10);

/// Who is connected, which groups they consume in, and what these groups want.
pub(crate) struct Members {
    clients: Map<Conn, Client>,
    groups: Map<Box<str>, Online>,
    timeout: Duration,
    /// When to look for silent clients.
    scan_at: Mono,
}

struct Client {
    peer: SocketAddr,
    /// Last heartbeat; a connection that never sent one is no client yet, and is not forgotten for being silent.
    heard: Option<Mono>,
    groups: BTreeSet<Box<str>>,
}

/// A group with at least one member.
pub(crate) struct Online {
    pub(crate) broadcast: bool,
    members: Map<Conn, Box<str>>,
    wants: BTreeMap<Box<str>, Want>,
}

/// What a group wants of a topic.
pub(crate) struct Want {
    pub(crate) version: i64,
    /// `None`: something else than tags.
    pub(crate) filter: Option<TagFilter>,
}

impl Online {
    pub(crate) fn want(&self, topic: &str) -> Option<&Want> {
        self.wants.get(topic)
    }

    /// Takes a heartbeat's subscriptions: per topic the higher version, and no topic that is not named any more.
    /// True when the set of topics has changed.
    fn subscribe(&mut self, subscriptions: &[Subscription]) -> bool {
        let named = |topic: &str| subscriptions.iter().any(|subscription| subscription.topic == topic);
        let before = self.wants.len();
        self.wants.retain(|topic, _| named(topic));
        let mut changed = self.wants.len() != before;
        for subscription in subscriptions {
            let known = self.wants.get(subscription.topic.as_str());
            changed |= known.is_none();
            if known.is_none_or(|known| known.version < subscription.sub_version) {
                let want = Want { version: subscription.sub_version, filter: filter_of(subscription) };
                self.wants.insert(subscription.topic.as_str().into(), want);
            }
        }
        changed
    }
}

fn filter_of(subscription: &Subscription) -> Option<TagFilter> {
    is_tag(subscription.expression_type.as_deref())
        .then(|| TagFilter::parse(subscription.sub_string.as_deref().unwrap_or_default()))
}

/// Whether an expression type means tags. Go may send an empty one.
pub(crate) fn is_tag(expression_type: Option<&str>) -> bool {
    expression_type.is_none_or(|kind| kind.is_empty() || kind == "TAG")
}

/// The refusal of everything that is not tags, in RocketMQ's words and with its code.
pub(crate) fn only_tags() -> Box<Response> {
    refuse(ResponseCode::SystemError, "The broker does not support consumer to filter message by SQL92")
}

impl Members {
    pub(crate) fn new(keyed: Keyed, timeout: Duration, now: Mono) -> Self {
        Self { clients: keyed.map(), groups: keyed.map(), timeout, scan_at: now + SCAN.min(timeout) }
    }

    pub(crate) fn opened(&mut self, conn: Conn, peer: SocketAddr) {
        self.clients.insert(conn, Client { peer, heard: None, groups: BTreeSet::new() });
    }

    /// Where a connection comes from; `None` when it is closed.
    pub(crate) fn peer(&self, conn: Conn) -> Option<SocketAddr> {
        self.clients.get(&conn).map(|client| client.peer)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = Conn> {
        self.clients.keys().copied()
    }

    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Groups somebody is in, with the number of their members.
    pub(crate) fn sizes(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.groups.iter().map(|(group, online)| (&**group, online.members.len()))
    }

    /// The group, when somebody is in it.
    pub(crate) fn online(&self, group: &str) -> Option<&Online> {
        self.groups.get(group)
    }

    pub(crate) fn closed<D: Disk>(&mut self, conn: Conn, cx: &mut Cx<D>) {
        let client = self.clients.swap_remove(&conn);
        for group in client.into_iter().flat_map(|client| client.groups) {
            self.leave(conn, &group, cx);
        }
    }

    fn leave<D: Disk>(&mut self, conn: Conn, group: &str, cx: &mut Cx<D>) {
        let Some(online) = self.groups.get_mut(group) else { return };
        if online.members.swap_remove(&conn).is_none() {
            return;
        }
        if online.members.is_empty() {
            self.groups.swap_remove(group);
        } else {
            notify(group, online, cx);
        }
    }

    /// HEART_BEAT 34. Answered when the topics and groups that it has made are kept.
    pub(crate) fn heartbeat<D: Disk>(&mut self, from: Caller, beat: &Heartbeat, cx: &mut Cx<D>) {
        let response = match self.take_heartbeat(from.conn, beat, cx) {
            // Version 2 spares clients repeating their subscriptions; we always want them.
            Ok(()) => Response::ok().with_header(ResponseHeader::Fields(vec![
                ("IS_SUPPORT_HEART_BEAT_V2".into(), "false".to_owned()),
                ("IS_SUB_CHANGE".into(), "true".to_owned()),
            ])),
            Err(refusal) => *refusal,
        };
        cx.reply_from_tables(from, response);
    }

    fn take_heartbeat<D: Disk>(&mut self, conn: Conn, beat: &Heartbeat, cx: &mut Cx<D>) -> Checked<()> {
        let illegal = |what: String| Err(refuse(ResponseCode::SystemError, what));
        if beat.client_id.is_empty() || beat.client_id.len() > MAX_CLIENT_ID {
            return illegal(format!("the heartbeat's clientID must have 1 to {MAX_CLIENT_ID} bytes"));
        }
        if beat.consumer_data_set.len() > MAX_PER_CLIENT {
            return illegal(format!("the heartbeat names more than {MAX_PER_CLIENT} consumer groups"));
        }
        if let Some(client) = self.clients.get_mut(&conn) {
            client.heard = Some(cx.now.mono);
        }
        // What one group is refused does not keep the others out; the client is told the last refusal.
        let mut outcome = Ok(());
        for consumer in &beat.consumer_data_set {
            let joined = self.join(conn, &beat.client_id, consumer, beat.without_sub, cx);
            outcome = joined.and(outcome);
        }
        outcome
    }

    fn join<D: Disk>(
        &mut self,
        conn: Conn,
        client_id: &str,
        consumer: &ConsumerData,
        without_sub: bool,
        cx: &mut Cx<D>,
    ) -> Checked<()> {
        let group = consumer.group_name.as_str();
        if consumer.subscription_data_set.len() > MAX_PER_CLIENT {
            let text = format!("group {group} subscribes to more than {MAX_PER_CLIENT} topics");
            return Err(refuse(ResponseCode::SystemError, text));
        }
        for subscription in &consumer.subscription_data_set {
            let bad =
                |why: String| refuse(ResponseCode::SystemError, format!("a subscription of group {group}: {why}"));
            Topic::check(&subscription.topic).map_err(|error| bad(error.to_string()))?;
            if subscription.sub_string.as_ref().is_some_and(|text| text.len() > MAX_EXPRESSION) {
                return Err(bad(format!("the expression for {} exceeds {MAX_EXPRESSION} bytes", subscription.topic)));
            }
        }
        groups::ensure(group, cx)?;
        let ordered =
            |subscription: &Subscription| cx.tables.topics.get(&subscription.topic).is_some_and(|topic| topic.order);
        let ordered = consumer.subscription_data_set.iter().any(ordered);
        let retry = groups::ensure_retry_topic(group, ordered, cx);

        let Some(client) = self.clients.get_mut(&conn) else { return retry };
        let online = self.groups.entry(group.into()).or_insert_with(|| Online {
            broadcast: false,
            members: cx.tables.keyed.map(),
            wants: BTreeMap::new(),
        });
        online.broadcast = consumer.message_model.as_deref() == Some("BROADCASTING");
        if !online.members.contains_key(&conn) && online.members.len() >= MAX_MEMBERS {
            let text = format!("group {group} has its limit of {MAX_MEMBERS} members on this broker");
            return Err(refuse(ResponseCode::SystemError, text));
        }
        client.groups.insert(group.into());
        let mut changed = online.members.insert(conn, client_id.into()).is_none();
        if !without_sub {
            changed |= online.subscribe(&consumer.subscription_data_set);
        }
        if changed {
            notify(group, online, cx);
        }
        retry
    }

    /// UNREGISTER_CLIENT 35. Producer groups are not remembered: nothing that we serve asks for them.
    pub(crate) fn unregister<D: Disk>(&mut self, from: Caller, request: &Unregister<'_>, cx: &mut Cx<D>) {
        if let Some(group) = &request.consumer_group {
            if let Some(client) = self.clients.get_mut(&from.conn) {
                client.groups.remove(&**group);
            }
            self.leave(from.conn, group, cx);
        }
        cx.reply(from, Response::ok());
    }

    /// GET_CONSUMER_LIST_BY_GROUP 38. A client id that has two connections for a moment is named once: clients share
    /// queues out by this list, and a share of a name that stands twice would be nobody's.
    pub(crate) fn list(&self, request: &ConsumerList<'_>) -> Response {
        let Some(online) = self.groups.get(&*request.group) else {
            let text = format!("no consumer for this group, {}", request.group);
            return Response::refuse(ResponseCode::SystemError, text);
        };
        let ids: BTreeSet<&str> = online.members.values().map(|id| &**id).collect();
        Response::ok().with_body(serde_json::json!({ "consumerIdList": ids }).to_string())
    }

    /// CHECK_CLIENT_CONFIG 46.
    pub(crate) fn check(request: &CheckClientConfig) -> Response {
        if is_tag(request.subscription_data.expression_type.as_deref()) { Response::ok() } else { *only_tags() }
    }

    /// Forgets clients that have been silent for too long, and ends their connections.
    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        let now = cx.now.mono;
        if now < self.scan_at {
            return;
        }
        self.scan_at = now + SCAN.min(self.timeout);
        let silent = |client: &Client| client.heard.is_some_and(|heard| now.since(heard) >= self.timeout);
        let gone: Vec<Conn> = self.clients.iter().filter(|(_, client)| silent(client)).map(|(conn, _)| *conn).collect();
        for conn in gone {
            let client = self.clients.get_mut(&conn).expect("listed above, and only `closed` removes it");
            client.heard = None;
            for group in std::mem::take(&mut client.groups) {
                self.leave(conn, &group, cx);
            }
            cx.effects.push_back(Effect::Close { conn });
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        (!self.clients.is_empty()).then_some(self.scan_at)
    }
}

/// Tells all members that their number or wishes have changed, so that they share out the queues again.
fn notify<D: Disk>(group: &str, online: &Online, cx: &mut Cx<D>) {
    let wanted = cx.tables.groups.get(group).is_none_or(|config| config.notify_consumer_ids_changed_enable);
    if online.broadcast || !wanted {
        return;
    }
    for conn in online.members.keys() {
        let request = Request::ConsumersChanged(ConsumersChanged { group: group.to_owned().into() });
        cx.effects.push_back(Effect::Push { conn: *conn, request });
    }
}
