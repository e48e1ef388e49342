use crate::cx::{Checked, Cx, refuse};
use crate::groups;
use keepmq_protocol::body::{CheckClientConfig, ConsumerData, Heartbeat, Subscription, TagFilter};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::{ConsumerList, ConsumersChanged, Unregister};
use keepmq_protocol::response::ResponseHeader;
use keepmq_protocol::seam::{Conn, Effect};
use keepmq_protocol::{Request, Response, ResponseCode, Topic};
use keepmq_store::Disk;
use keepmq_world::{Keyed, Map, Mono, planted};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Most members of a group on this broker.
const MAX_MEMBERS: usize = 10_000;
/// Most groups of one client.
const MAX_GROUPS: usize = 1_000;
/// Most subscriptions of one heartbeat.
const MAX_SUBSCRIPTIONS: usize = 10_000;
/// Longest subscription expression, in bytes.
pub(crate) const MAX_EXPRESSION: usize = 32_768;
/// Longest client id, in bytes.
pub(crate) const MAX_CLIENT_ID: usize = 512;
/// Members are told of the first change at once, and then not again for so long: a thousand that come at the same time are
/// one change or two.
const QUIET: Duration = Duration::from_millis(100);
/// As much again for every so many members: each of them asks for the whole list when it is told.
const QUIET_PER_MEMBERS: usize = 100;
/// How often silent clients are looked for.
const SCAN: Duration = Duration::from_secs(10);

/// Who is connected, which groups they consume in, and what these groups want.
pub(crate) struct Members {
    clients: Map<Conn, Client>,
    groups: Map<Box<str>, Online>,
    /// Groups whose members are to be told something later.
    notices: BTreeSet<(Mono, Box<str>)>,
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
    members: Map<Conn, Member>,
    /// What the last heartbeat of any member named: for those who pull over another connection than their heartbeats come by.
    latest: Subscribed,
    /// Who sent it.
    latest_of: Conn,
    /// Before this the members are told of no other change.
    quiet_until: Mono,
    /// When they are told of what has changed meanwhile.
    notice_at: Option<Mono>,
}

struct Member {
    client_id: Box<str>,
    /// `None`: its heartbeats came without subscriptions.
    subscribed: Option<Subscribed>,
}

/// What a heartbeat subscribes to. Members that agree share it.
#[derive(Clone, Default)]
struct Subscribed {
    filters: Arc<Filters>,
    /// The highest version of the subscriptions: the client's clock when it changed one of them last.
    version: i64,
}

/// Topic → filter; `None`: it is about something else than tags.
type Filters = BTreeMap<Box<str>, Option<TagFilter>>;

/// What a member wants of a topic.
pub(crate) struct Want<'o> {
    pub(crate) version: i64,
    /// `None`: something else than tags.
    pub(crate) filter: Option<&'o TagFilter>,
}

impl Online {
    /// What the member behind a connection wants of a topic. Its own word counts before that of the others: members of one
    /// group that disagree each get what they asked for, and the clock of one does not decide about another.
    pub(crate) fn want(&self, conn: Conn, topic: &str) -> Option<Want<'_>> {
        let own = self.members.get(&conn).and_then(|member| member.subscribed.as_ref());
        let mut said = own.into_iter().chain([&self.latest]);
        said.find_map(|Subscribed { filters, version }| {
            filters.get(topic).map(|filter| Want { version: *version, filter: filter.as_ref() })
        })
    }

    /// Whether the members want anything of a topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.latest.filters.contains_key(topic)
    }

    /// Takes a member's subscriptions. Whether its topics are others than before, and whether another member disagrees.
    fn subscribe(&mut self, conn: Conn, subscriptions: &[Subscription]) -> (bool, bool) {
        let filter = |subscription: &Subscription| (subscription.topic.as_str().into(), filter_of(subscription));
        let filters: Filters = subscriptions.iter().map(filter).collect();
        let differs = self.latest_of != conn && self.members.len() > 1 && filters != *self.latest.filters;
        self.latest_of = conn;
        let filters =
            if filters == *self.latest.filters { Arc::clone(&self.latest.filters) } else { Arc::new(filters) };
        let version = subscriptions.iter().map(|subscription| subscription.sub_version).max().unwrap_or_default();
        let member = self.members.get_mut(&conn).expect("only members subscribe");
        let before = member.subscribed.as_ref();
        let changed = before.is_none_or(|before| !before.filters.keys().eq(filters.keys()));
        self.latest = Subscribed { filters: Arc::clone(&filters), version: self.latest.version.max(version) };
        member.subscribed = Some(Subscribed { filters, version });
        (changed, differs)
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
        Self {
            clients: keyed.map(),
            groups: keyed.map(),
            notices: BTreeSet::new(),
            timeout,
            scan_at: now + SCAN.min(timeout),
        }
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
        } else if !planted!("notice-forgotten") {
            changed(group, online, &mut self.notices, cx);
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
        let groups = beat.consumer_data_set.len();
        if groups > MAX_GROUPS {
            return illegal(format!(
                "the heartbeat names {groups} consumer groups: the limit is {MAX_GROUPS} a client"
            ));
        }
        let subscriptions: usize = beat.consumer_data_set.iter().map(|group| group.subscription_data_set.len()).sum();
        if subscriptions > MAX_SUBSCRIPTIONS {
            return illegal(format!(
                "the heartbeat holds {subscriptions} subscriptions: the limit is {MAX_SUBSCRIPTIONS} a client"
            ));
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
            latest: Subscribed::default(),
            latest_of: conn,
            quiet_until: cx.now.mono,
            notice_at: None,
        });
        online.broadcast = consumer.message_model.as_deref() == Some("BROADCASTING");
        if !online.members.contains_key(&conn) && online.members.len() >= MAX_MEMBERS {
            let text = format!("group {group} has its limit of {MAX_MEMBERS} members on this broker");
            return Err(refuse(ResponseCode::SystemError, text));
        }
        client.groups.insert(group.into());
        let before = online.members.insert(conn, Member { client_id: client_id.into(), subscribed: None });
        let mut news = before.is_none();
        let member = online.members.get_mut(&conn).expect("it was just inserted");
        member.subscribed = before.and_then(|before| before.subscribed);
        if !without_sub {
            let (changed, differs) = online.subscribe(conn, &consumer.subscription_data_set);
            news |= changed;
            cx.counters.counts.subscriptions_differ += u64::from(differs);
        }
        if news {
            changed(group, online, &mut self.notices, cx);
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
        let ids: BTreeSet<&str> = online.members.values().map(|member| &*member.client_id).collect();
        Response::ok().with_body(serde_json::json!({ "consumerIdList": ids }).to_string())
    }

    /// CHECK_CLIENT_CONFIG 46.
    pub(crate) fn check(request: &CheckClientConfig) -> Response {
        if is_tag(request.subscription_data.expression_type.as_deref()) { Response::ok() } else { *only_tags() }
    }

    /// Tells what was held back; forgets clients that have been silent for too long, and ends their connections.
    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        let now = cx.now.mono;
        while let Some((at, group)) = self.notices.pop_first() {
            if at > now {
                self.notices.insert((at, group));
                break;
            }
            // The group may have lost all its members and be another one.
            if let Some(online) = self.groups.get_mut(&group).filter(|online| online.notice_at == Some(at)) {
                notify(&group, online, cx);
            }
        }
        if now < self.scan_at {
            return;
        }
        self.scan_at = now + SCAN.min(self.timeout);
        let timeout = if planted!("silent-member-stays") { Duration::MAX } else { self.timeout };
        let silent = |client: &Client| client.heard.is_some_and(|heard| now.since(heard) >= timeout);
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
        let scan = (!self.clients.is_empty()).then_some(self.scan_at);
        scan.into_iter().chain(self.notices.first().map(|(at, _)| *at)).min()
    }
}

/// The members' number or wishes have changed: they are told now, or when they may be told again.
fn changed<D: Disk>(group: &str, online: &mut Online, notices: &mut BTreeSet<(Mono, Box<str>)>, cx: &mut Cx<D>) {
    if online.notice_at.is_some() {
        return;
    }
    if online.quiet_until <= cx.now.mono {
        return notify(group, online, cx);
    }
    online.notice_at = Some(online.quiet_until);
    notices.insert((online.quiet_until, group.into()));
}

/// Tells all members that something has changed, so that they share out the queues again.
fn notify<D: Disk>(group: &str, online: &mut Online, cx: &mut Cx<D>) {
    let steps = 1 + online.members.len() / QUIET_PER_MEMBERS;
    online.quiet_until = cx.now.mono + QUIET * u32::try_from(steps).expect("members are limited");
    online.notice_at = None;
    let wanted = cx.tables.groups.get(group).is_none_or(|config| config.notify_consumer_ids_changed_enable);
    if online.broadcast || !wanted {
        return;
    }
    for conn in online.members.keys() {
        let request = Request::ConsumersChanged(ConsumersChanged { group: group.to_owned().into() });
        cx.effects.push_back(Effect::Push { conn: *conn, request });
    }
}
