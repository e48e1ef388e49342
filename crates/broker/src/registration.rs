use crate::config::BrokerConfig;
use crate::cx::Cx;
use keepmq_protocol::body::{DataVersion, RegisterBrokerBody, RouteData, TopicConfig, TopicTable, perm};
use keepmq_protocol::request::{
    QueryDataVersion, QueryDataVersionHeader, RegisterBroker, RegisterBrokerHeader, RouteInfo, UnregisterBroker,
};
use keepmq_protocol::seam::{CallId, Outcome};
use keepmq_protocol::{Request, Response, Topic, json};
use keepmq_store::Disk;
use keepmq_world::Mono;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest time that a registration may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest time that leaving may take: a stop does not wait for a name server that is gone.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
/// First wait after a failure; it doubles up to the usual period.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Topics that one registration carries: with the longest names and many attributes it stays below the largest frame.
const PIECE: usize = 4_000;
/// A table of several pieces is told whole only every so many periods; in between it is asked whether its version is known.
const WHOLE_EVERY: u32 = 10;
/// Least time between two tellings of changes to one name server.
const GATHER: Duration = Duration::from_millis(50);
/// A topic that every broker has and that never changes. Its route tells whether a name server that has just been told of
/// a change knew us before: one that has restarted in between knows the changed topics only, under the version of them all.
const PROBE: &str = "SELF_TEST_TOPIC";

/// Tells every name server what this broker serves: all of it at the start and every so often, and what has changed as soon
/// as it is kept.
///
/// ```text
///   unsure ──▶ Whole: piece by piece, each confirmed ──▶ sure of `known` changes
///     ▲                                                    │ topics have changed      │ period
///     │                                                    ▼                          ▼
///     ├── refused, lost, too many changes ──────────── Changes ──▶ Probe        Version (or Whole, when it is small)
///     └── the probe has no route, the version is not known ┘
/// ```
pub(crate) struct Registration {
    servers: Vec<Server>,
    every: Duration,
    leaving: bool,
}

struct Server {
    address: String,
    in_flight: Option<(CallId, Asked)>,
    /// The pieces of the whole that are still to be told.
    rest: VecDeque<Vec<Topic>>,
    /// Changes that the whole, of which `rest` is the rest, has in it.
    told: u64,
    /// What it knows for sure.
    knows: Knows,
    /// When to tell or ask it next, if no topic changes before.
    next_at: Mono,
    retry_after: Duration,
    /// Periods until it is told all again.
    periods: u32,
    /// Changes are not told before: the many of a moment go together.
    changes_at: Mono,
    /// There are some.
    changed: bool,
    /// It has confirmed all once, and nothing has failed since.
    confirmed: bool,
    farewell: Option<CallId>,
}

/// What a name server knows for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    Nothing,
    /// All topics as they were after so many changes.
    Upto(u64),
}

/// What it was told or asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A piece of the whole, which was as it is after so many changes.
    Whole(u64),
    /// What has changed up to then.
    Changes(u64),
    /// Whether it knows the topic that all have.
    Probe(u64),
    /// Whether it knows this version.
    Version,
}

impl Server {
    /// It may know anything: it must be told all again.
    fn doubt(&mut self) {
        self.knows = Knows::Nothing;
        self.rest.clear();
        self.confirmed = false;
    }

    /// It knows all that there was after so many changes.
    fn confirm(&mut self, kept: u64) {
        self.knows = Knows::Upto(kept);
        self.confirmed = true;
    }
}

impl Registration {
    pub(crate) fn new(config: &BrokerConfig, now: Mono) -> Self {
        let server = |address: &String| Server {
            address: address.clone(),
            in_flight: None,
            rest: VecDeque::new(),
            told: 0,
            knows: Knows::Nothing,
            next_at: now,
            retry_after: FIRST_RETRY,
            periods: WHOLE_EVERY,
            changes_at: now,
            changed: false,
            confirmed: false,
            farewell: None,
        };
        Self { servers: config.name_servers.iter().map(server).collect(), every: config.register_every, leaving: false }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|server| server.confirmed)
    }

    /// Tells those whose time has come, and all when topics have changed. Nothing that is not kept yet is told.
    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        if self.leaving || self.servers.is_empty() {
            return;
        }
        let Some((kept, version)) = cx.tables.topics.changes.kept(cx.store.commit()) else { return };
        for server in &mut self.servers {
            if server.in_flight.is_some() {
                continue;
            }
            let due = server.next_at <= cx.now.mono;
            server.changed = matches!(server.knows, Knows::Upto(known) if known < kept);
            let (asked, request) = match server.knows {
                // In the middle of the whole: the next piece, without waiting.
                Knows::Nothing if !server.rest.is_empty() || due => whole(server, kept, version, cx),
                Knows::Nothing => continue,
                Knows::Upto(known) if server.changed && server.changes_at <= cx.now.mono => {
                    server.changes_at = cx.now.mono + GATHER;
                    match changes(known, kept, version, cx) {
                        Some(request) => (Asked::Changes(kept), request),
                        None => whole(server, kept, version, cx),
                    }
                }
                Knows::Upto(_) if !due => continue,
                Knows::Upto(_) if cx.tables.topics.len() > PIECE && server.periods > 0 => {
                    server.periods -= 1;
                    (Asked::Version, query(version, cx))
                }
                Knows::Upto(_) => {
                    server.periods = WHOLE_EVERY;
                    whole(server, kept, version, cx)
                }
            };
            server.next_at = cx.now.mono + self.every;
            server.in_flight = Some((cx.call(&server.address, request, cx.now.mono + PATIENCE), asked));
        }
    }

    /// Takes the answer of a name server; false when the call is none of ours.
    pub(crate) fn answered<D: Disk>(&mut self, call: CallId, outcome: &Outcome, cx: &mut Cx<D>) -> bool {
        let now = cx.now.mono;
        for server in &mut self.servers {
            if server.farewell == Some(call) {
                server.farewell = None;
                return true;
            }
            let Some((_, asked)) = server.in_flight.filter(|(known, _)| *known == call) else { continue };
            server.in_flight = None;
            let Some(response) = outcome.as_ref().ok().filter(|response| response.is_ok()) else {
                let refused = matches!((asked, outcome), (Asked::Changes(_) | Asked::Probe(_), Ok(_)));
                server.doubt();
                if refused {
                    // It has forgotten us, and is there: it wants to be told all, now.
                    server.next_at = now;
                } else {
                    server.next_at = server.next_at.min(now + server.retry_after);
                    server.retry_after = (server.retry_after * 2).min(self.every);
                }
                return true;
            };
            server.retry_after = FIRST_RETRY;
            match asked {
                Asked::Whole(kept) if server.rest.is_empty() => server.confirm(kept),
                Asked::Whole(_) => {}
                Asked::Changes(kept) => {
                    let route = RouteInfo { topic: PROBE.into(), standard_json: Some(true) };
                    let call = cx.call(&server.address, Request::RouteInfo(route), now + PATIENCE);
                    server.in_flight = Some((call, Asked::Probe(kept)));
                }
                Asked::Probe(kept) if leads_here(response, &cx.config) => server.confirm(kept),
                Asked::Version if response.field::<bool>("changed") == Ok(false) => {}
                Asked::Probe(_) | Asked::Version => {
                    server.doubt();
                    server.next_at = now;
                }
            }
            return true;
        }
        false
    }

    /// Takes the broker out of the routes.
    pub(crate) fn leave<D: Disk>(&mut self, cx: &mut Cx<D>) {
        self.leaving = true;
        let until = cx.now.mono + FAREWELL;
        for server in &mut self.servers {
            server.doubt();
            server.farewell = Some(cx.call(&server.address, unregister(&cx.config), until));
        }
    }

    /// Whether every name server has been told, or given up.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving && self.servers.iter().all(|server| server.farewell.is_none())
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        if self.leaving {
            return None;
        }
        // A piece that is still to be told needs no time to come: whoever has taken the answer looks at it at once.
        let idle = self.servers.iter().filter(|server| server.in_flight.is_none());
        idle.map(|server| if server.changed { server.next_at.min(server.changes_at) } else { server.next_at }).min()
    }
}

/// The next piece of the whole. All but the last are told under versions that no table ever has: should the rest get lost,
/// nobody takes the part for the whole.
fn whole<D: Disk>(server: &mut Server, kept: u64, version: DataVersion, cx: &Cx<D>) -> (Asked, Request<'static>) {
    if server.rest.is_empty() {
        server.rest = cx.tables.topics.names().chunks(PIECE).map(<[Topic]>::to_vec).collect();
        // Until all is told it is unknown which of it is.
        server.knows = Knows::Nothing;
        server.told = kept;
    }
    let piece = server.rest.pop_front().unwrap_or_default();
    let left = i64::try_from(server.rest.len()).expect("there are not so many topics");
    let version = if left == 0 { version } else { DataVersion { counter: -left, ..version } };
    (Asked::Whole(server.told), register(piece.iter(), version, cx))
}

/// What has changed; `None`: more than can be told at once.
fn changes<D: Disk>(known: u64, kept: u64, version: DataVersion, cx: &Cx<D>) -> Option<Request<'static>> {
    let topics = cx.tables.topics.changes.between(known, kept).filter(|topics| topics.len() <= PIECE)?;
    Some(register(topics.into_iter(), version, cx))
}

fn register<'t, D: Disk>(
    topics: impl Iterator<Item = &'t Topic>,
    version: DataVersion,
    cx: &Cx<D>,
) -> Request<'static> {
    let config = &cx.config;
    // The port for replicas is the one behind; nobody listens there yet, but clients show it.
    let ha = SocketAddr::new(config.address.ip(), config.address.port().saturating_add(1));
    // A broker that takes no messages, or gives none, says so of each topic.
    let allowed = match config.live.permission {
        all if all & perm::READ != 0 && all & perm::WRITE != 0 => !0,
        less => less,
    };
    let told = |config: &TopicConfig| TopicConfig { perm: config.perm & allowed, ..config.clone() };
    // What has gone meanwhile, or is about to become something else, is not told.
    let kept = |topic: &Topic| cx.tables.topics.kept(topic.as_str(), cx.store.commit()).map(told);
    let topics = topics.filter_map(|topic| kept(topic).map(|config| (topic.to_string(), config)));
    let table = TopicTable { data_version: version, topic_config_table: topics.collect() };
    Request::RegisterBroker(RegisterBroker {
        header: RegisterBrokerHeader {
            broker_name: config.name.clone().into(),
            broker_addr: config.address.to_string().into(),
            cluster: config.cluster.clone().into(),
            ha_addr: ha.to_string().into(),
            broker_id: 0,
            timeout_ms: None,
            // Its presence says that this is a 5.x broker.
            enable_acting_master: Some(false),
            compressed: false,
            body_crc: None,
        },
        body: Box::new(RegisterBrokerBody { filter_server_list: Vec::new(), topic_config_serialize_wrapper: table }),
    })
}

fn query<D: Disk>(version: DataVersion, cx: &Cx<D>) -> Request<'static> {
    let config = &cx.config;
    Request::QueryDataVersion(QueryDataVersion {
        header: QueryDataVersionHeader {
            broker_name: config.name.clone().into(),
            broker_addr: config.address.to_string().into(),
            cluster: config.cluster.clone().into(),
            broker_id: 0,
        },
        version: Some(version),
    })
}

/// Whether a route leads to this broker.
fn leads_here(response: &Response, config: &BrokerConfig) -> bool {
    let route: Result<RouteData, _> = json::parse(&response.body.concat());
    route.is_ok_and(|route| route.queue_datas.iter().any(|queues| queues.broker_name == config.name))
}

fn unregister(config: &BrokerConfig) -> Request<'static> {
    Request::UnregisterBroker(UnregisterBroker {
        broker_name: config.name.clone().into(),
        broker_addr: config.address.to_string().into(),
        cluster: config.cluster.clone().into(),
        broker_id: 0,
    })
}
