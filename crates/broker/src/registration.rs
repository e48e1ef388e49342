use crate::config::BrokerConfig;
use crate::cx::Cx;
use keepmq_protocol::body::{DataVersion, RegisterBrokerBody, TopicConfig, TopicTable, perm};
use keepmq_protocol::request::{RegisterBroker, RegisterBrokerHeader, UnregisterBroker};
use keepmq_protocol::seam::{CallId, Outcome};
use keepmq_protocol::{LogOffset, Request};
use keepmq_store::Disk;
use keepmq_world::Mono;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest time that a registration may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest time that leaving may take: a stop does not wait for a name server that is gone.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
/// First wait after a failure; it doubles up to the usual period.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Tells every name server what this broker serves: at the start, every so often, and after a change of topics is kept.
pub(crate) struct Registration {
    servers: Vec<Server>,
    every: Duration,
    /// Version of the topics that was wanted to be told last.
    told: DataVersion,
    leaving: bool,
}

struct Server {
    address: String,
    in_flight: Option<CallId>,
    /// When to tell it next; while a call is in flight, also that it should be told again.
    next_at: Mono,
    retry_after: Duration,
    confirmed: bool,
    farewell: Option<CallId>,
}

impl Registration {
    pub(crate) fn new(config: &BrokerConfig, now: Mono) -> Self {
        let server = |address: &String| Server {
            address: address.clone(),
            in_flight: None,
            next_at: now,
            retry_after: FIRST_RETRY,
            confirmed: false,
            farewell: None,
        };
        Self {
            servers: config.name_servers.iter().map(server).collect(),
            every: config.register_every,
            told: DataVersion::default(),
            leaving: false,
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|server| server.confirmed)
    }

    /// Tells those whose time has come, and all when the topics have changed. Nothing that is not kept yet is told.
    pub(crate) fn on_time<D: Disk>(&mut self, cx: &mut Cx<D>) {
        if self.leaving || cx.tables.topics.changed_at > cx.store.commit() {
            return;
        }
        let version = cx.tables.topics.version;
        if self.told != version {
            self.told = version;
            for server in &mut self.servers {
                server.next_at = cx.now.mono;
            }
        }
        for server in &mut self.servers {
            if server.in_flight.is_none() && server.next_at <= cx.now.mono {
                server.next_at = cx.now.mono + self.every;
                server.in_flight = Some(cx.call(&server.address, register(cx), cx.now.mono + PATIENCE));
            }
        }
    }

    /// Takes the answer of a name server; false when the call is none of ours.
    pub(crate) fn answered(&mut self, call: CallId, outcome: &Outcome, now: Mono) -> bool {
        for server in &mut self.servers {
            if server.farewell == Some(call) {
                server.farewell = None;
                return true;
            }
            if server.in_flight == Some(call) {
                server.in_flight = None;
                server.confirmed = outcome.as_ref().is_ok_and(|response| response.is_ok());
                if server.confirmed {
                    server.retry_after = FIRST_RETRY;
                } else {
                    server.next_at = server.next_at.min(now + server.retry_after);
                    server.retry_after = (server.retry_after * 2).min(self.every);
                }
                return true;
            }
        }
        false
    }

    /// Takes the broker out of the routes.
    pub(crate) fn leave<D: Disk>(&mut self, cx: &mut Cx<D>) {
        self.leaving = true;
        let until = cx.now.mono + FAREWELL;
        for server in &mut self.servers {
            server.confirmed = false;
            server.farewell = Some(cx.call(&server.address, unregister(&cx.config), until));
        }
    }

    /// Whether every name server has been told, or given up.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving && self.servers.iter().all(|server| server.farewell.is_none())
    }

    pub(crate) fn deadline(&self, changed_at: LogOffset, commit: LogOffset) -> Option<Mono> {
        if self.leaving || changed_at > commit {
            return None;
        }
        let idle = self.servers.iter().filter(|server| server.in_flight.is_none());
        idle.map(|server| server.next_at).min()
    }
}

fn register<D: Disk>(cx: &Cx<D>) -> Request<'static> {
    let config = &cx.config;
    // The port for replicas is the one behind; nobody listens there yet, but clients show it.
    let ha = SocketAddr::new(config.address.ip(), config.address.port().saturating_add(1));
    // A broker that takes no messages, or gives none, says so of each topic.
    let allowed = match config.live.permission {
        all if all & perm::READ != 0 && all & perm::WRITE != 0 => !0,
        less => less,
    };
    let topics = cx.tables.topics.all().into_iter();
    let topics =
        topics.map(|(name, config)| (name.to_owned(), TopicConfig { perm: config.perm & allowed, ..config.clone() }));
    let table = TopicTable { data_version: cx.tables.topics.version, topic_config_table: topics.collect() };
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

fn unregister(config: &BrokerConfig) -> Request<'static> {
    Request::UnregisterBroker(UnregisterBroker {
        broker_name: config.name.clone().into(),
        broker_addr: config.address.to_string().into(),
        cluster: config.cluster.clone().into(),
        broker_id: 0,
    })
}
