use crate::admin;
use crate::config::{BrokerConfig, LiveConfig, OpenBrokerError};
use crate::cx::Cx;
use crate::locks::Locks;
use crate::members::Members;
use crate::numbers::Numbers;
use crate::offsets::{Commits, lowest_needed};
use crate::pull::Pulling;
use crate::registration::{FAREWELL, Registration};
use crate::send::Sending;
use crate::serve::{Done, Task};
use crate::tables::{Exports, Tables};
use keepmq_protocol::body::perm;
use keepmq_protocol::change::{Changing, Configured};
use keepmq_protocol::frame::Caller;
use keepmq_protocol::request::PullFlags;
use keepmq_protocol::seam::{Conn, Core, Effect, Event, Exit};
use keepmq_protocol::{Request, Response, ResponseCode};
use keepmq_store::{Disk, JobError, Lane, Recovered, Store};
use keepmq_world::{Chance, Keyed, Mono, Now, planted};
use std::net::SocketAddr;

/// The broker.
///
/// ```text
///   Serving ──Stop──▶ Leaving ──name servers told, or 1 s, or Stop──▶ Closing ──store closed──▶ Exit::Clean
///      └─────────────────┴──────────a write or sync failed──────────────┴──▶ Failed ──told──▶ Exit::Disk
/// ```
pub struct Broker<D: Disk> {
    pub(crate) cx: Cx<D>,
    life: Life,
    members: Members,
    sending: Sending,
    pulling: Pulling,
    commits: Commits,
    locks: Locks,
    registration: Registration,
    exports: Exports,
    changing: Changing,
    /// When `settle` ran last.
    settled_at: Option<Mono>,
}

/// How far the broker is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    /// Accepts no more messages; the name servers are being told.
    Leaving {
        until: Mono,
    },
    /// The store writes what is left.
    Closing,
    /// Nothing more will be kept; the name servers are being told.
    Failed {
        why: String,
        until: Mono,
    },
    /// `Exit` has been emitted.
    Over,
}

impl<D: Disk> Broker<D> {
    /// Loads the tables and is ready to serve.
    pub fn open(
        store: Store<D>,
        recovered: Recovered,
        config: BrokerConfig,
        seed: u64,
        now: Now,
    ) -> Result<Self, OpenBrokerError> {
        let mut chance = Chance::new(seed);
        let keyed = Keyed::new(chance.word());
        let mut tables = Tables::open(&recovered.tables, &config, keyed, now.wall).map_err(OpenBrokerError::Tables)?;
        let created = recovered.created;
        drop(recovered);
        tables.replay(store.replay()?, now.wall).map_err(OpenBrokerError::Tables)?;
        // In a store that did not exist nobody can have locked anything.
        let old_groups = (!created).then(|| tables.groups.all().into_keys());
        Ok(Self {
            life: Life::Serving,
            members: Members::new(keyed, config.client_timeout, now.mono),
            sending: Sending::new(&config, chance.fork()),
            pulling: Pulling::new(config.max_parked),
            commits: Commits::new(),
            locks: Locks::new(old_groups.into_iter().flatten(), now.mono),
            registration: Registration::new(&config, now.mono),
            exports: Exports::new(now),
            changing: Changing::default(),
            settled_at: None,
            cx: Cx::new(config, store, tables, now),
        })
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store<D> {
        &self.cx.store
    }

    /// Its numbers as they are now.
    pub fn numbers(&self) -> Numbers {
        let perm = match self.life {
            Life::Serving => perm::READ | perm::WRITE,
            Life::Leaving { .. } => perm::READ,
            Life::Closing | Life::Failed { .. } | Life::Over => 0,
        };
        Numbers::new(perm, self.pulling.parked(), &self.members, &self.cx)
    }

    /// Whether a name server has confirmed the registration (or there is none to confirm it), for `/readyz`.
    pub fn is_registered(&self) -> bool {
        self.registration.is_registered()
    }

    fn opened(&mut self, conn: Conn, peer: SocketAddr) {
        self.members.opened(conn, peer);
        // After a failure nobody is listened to any more.
        if matches!(self.life, Life::Failed { .. }) {
            self.cx.effects.push_back(Effect::Close { conn });
        }
    }

    fn on_request(&mut self, from: Caller, request: &Request<'_>) {
        // A request may still be on its way when its connection ends: nobody is there to hear an answer.
        let Some(peer) = self.members.peer(from.conn) else { return };
        let cx = &mut self.cx;
        let open = matches!(self.life, Life::Serving | Life::Leaving { .. });
        match request {
            Request::UpdateOffset(_)
            | Request::CreateTopic(_)
            | Request::DeleteTopic(_)
            | Request::CreateGroup(_)
            | Request::DeleteGroup(_)
            | Request::ChangeBrokerConfig(_)
                if !open =>
            {
                let refusal = self.life.refusal();
                cx.reply(from, refusal);
            }
            Request::Send(send) => match &self.life {
                Life::Serving => self.sending.on_request(from, send, peer, cx),
                life => {
                    let refusal = life.refusal();
                    cx.counters.refused(refusal.code);
                    cx.reply(from, refusal);
                }
            },
            Request::Pull(pull) => {
                let passed = self.pulling.on_request(from, pull, open, &self.members, cx);
                if passed && open && PullFlags(pull.sys_flag).commit() {
                    self.commits.piggyback(&pull.group, &pull.topic, pull.queue_id, pull.commit_offset, cx);
                }
            }
            Request::QueryOffset(query) => self.commits.query(from, query, cx),
            Request::UpdateOffset(update) => self.commits.update(from, update, cx),
            Request::Heartbeat(beat) => self.members.heartbeat(from, beat, cx),
            Request::Unregister(request) => self.members.unregister(from, request, cx),
            Request::ConsumerList(request) => {
                let list = self.members.list(request);
                cx.reply(from, list);
            }
            Request::LockQueues(request) => self.locks.lock(from, request, cx),
            Request::UnlockQueues(request) => self.locks.unlock(from, request, cx),
            Request::CheckClientConfig(request) => cx.reply(from, Members::check(request)),
            Request::SearchOffset(search) => admin::search_offset(from, search, cx),
            Request::MaxOffset(request) => admin::max_offset(from, request, cx),
            Request::MinOffset(request) => admin::min_offset(from, request, cx),
            Request::EarliestTime(request) => admin::earliest_time(from, request, cx),
            Request::ViewMessage(request) => admin::view_message(from, request, cx),
            Request::CreateTopic(request) => admin::create_topic(from, request, cx),
            Request::DeleteTopic(request) => {
                if admin::delete_topic(from, request, cx) {
                    self.pulling.topic_deleted(&request.topic, cx);
                    self.commits.forget(|_, topic| topic == request.topic);
                }
            }
            Request::AllTopics => admin::all_topics(from, cx),
            Request::CreateGroup(group) => admin::create_group(from, group, cx),
            Request::AllGroups => admin::all_groups(from, cx),
            Request::DeleteGroup(request) => {
                if request.clean_offsets {
                    self.commits.forget(|group, _| group == request.group);
                }
                admin::delete_group(from, request, cx);
            }
            Request::TopicStats(request) => admin::topic_stats(from, request, cx),
            Request::GroupStats(request) => admin::group_stats(from, request, &self.members, cx),
            Request::BrokerConfig => admin::broker_config(from, cx),
            Request::ChangeBrokerConfig(text) => admin::change_broker_config(from, text, &mut self.changing, cx),
            Request::RuntimeInfo => {
                admin::runtime_info(from, self.life == Life::Serving, self.pulling.parked(), self.locks.len(), cx);
            }
            Request::PutKv(_)
            | Request::GetKv(_)
            | Request::DeleteKv(_)
            | Request::ListKv(_)
            | Request::WipeWrite(_)
            | Request::AddWrite(_)
            | Request::ClusterTopics(_)
            | Request::SystemTopics
            | Request::ChangeNameServerConfig(_)
            | Request::NameServerConfig
            | Request::BrokerMembers(_)
            | Request::BrokerHeartbeat(_)
            | Request::ConsumersChanged(_)
            | Request::DeleteTopicRoute(_)
            | Request::RegisterBroker(_)
            | Request::UnregisterBroker(_)
            | Request::RouteInfo(_)
            | Request::ClusterInfo
            | Request::TopicList
            | Request::QueryDataVersion(_)
            | Request::Unsupported { .. } => {
                let text = format!(" request type {} not supported", request.code());
                cx.reply(from, Response::refuse(ResponseCode::RequestCodeNotSupported, text));
            }
        }
    }

    /// UPDATE_BROKER_CONFIG 25, second half: what was changed holds from here on, and is answered.
    fn configured(&mut self, configured: Configured<LiveConfig>) {
        let (to, response, live) = self.changing.end(configured);
        let cx = &mut self.cx;
        if let Some(live) = live {
            let closes = live.permission & perm::READ == 0;
            admin::apply(live, cx);
            if closes {
                self.pulling.stop(cx);
            }
        }
        cx.reply(to, response);
    }

    fn on_stop(&mut self) {
        match self.life {
            Life::Serving => {
                self.registration.leave(&mut self.cx);
                self.life = Life::Leaving { until: self.cx.now.mono + FAREWELL };
            }
            Life::Leaving { .. } => self.close(),
            // A second stop skips the wait for name servers, never that for the disk.
            Life::Failed { .. } => self.exit(),
            Life::Closing | Life::Over => {}
        }
    }

    fn close(&mut self) {
        self.life = Life::Closing;
        self.commits.flush(&mut self.cx);
        self.pulling.stop(&mut self.cx);
        self.cx.store.close(self.cx.tables.encode(), self.cx.tables.export(), self.cx.now);
    }

    /// A write or sync has failed: what was appended and not kept is unknown, and stays so until the restart reads the disk.
    fn on_failure(&mut self, error: &JobError) {
        if matches!(self.life, Life::Failed { .. } | Life::Over) {
            return;
        }
        let why = format!("the disk has failed: {error}");
        if !planted!("waiters-left-behind") {
            self.cx.pending.fail(&why, &mut self.cx.effects);
        }
        self.pulling.fail(&why, &mut self.cx);
        self.cx.effects.extend(self.members.connections().map(|conn| Effect::Close { conn }));
        if matches!(self.life, Life::Serving) && !planted!("failed-broker-stays-registered") {
            self.registration.leave(&mut self.cx);
        }
        self.life = Life::Failed { why, until: self.cx.now.mono + FAREWELL };
    }

    fn exit(&mut self) {
        let exit = match &self.life {
            Life::Failed { why, .. } => Exit::Disk(why.clone()),
            _ => Exit::Clean,
        };
        self.cx.effects.push_back(Effect::Exit(exit));
        self.life = Life::Over;
    }

    /// What holds after every event: replies whose record is kept have gone, pulls that can be served are, what is due is done.
    fn settle(&mut self) {
        let cx = &mut self.cx;
        self.settled_at = Some(cx.now.mono);
        if !matches!(self.life, Life::Failed { .. }) {
            cx.pending.release(cx.store.commit(), cx.now.mono, &mut cx.effects);
            for queue in cx.store.take_grown() {
                self.pulling.on_grown(&queue);
            }
            self.pulling.serve_parked(cx);
        }
        cx.pending.on_time(cx.now.mono, &mut cx.effects);
        self.pulling.on_time(cx);
        self.members.on_time(cx);
        match &self.life {
            Life::Serving => {
                self.commits.on_time(cx);
                self.registration.on_time(cx);
                if let Some(files) = self.exports.on_time(&cx.tables, cx.store.commit(), cx.now.mono) {
                    cx.store.export(files);
                }
            }
            Life::Leaving { until } => {
                self.commits.on_time(cx);
                if self.registration.has_left() || *until <= cx.now.mono {
                    self.close();
                }
            }
            Life::Closing if cx.store.is_closed() => self.exit(),
            Life::Failed { until, .. } => {
                if self.registration.has_left() || *until <= cx.now.mono {
                    self.exit();
                }
            }
            Life::Closing | Life::Over => {}
        }
    }

    /// What is old goes, but for what a group has not consumed.
    fn retire(&mut self) {
        if let Some(target) = self.cx.store.may_retire(self.cx.now) {
            let need = lowest_needed(&self.cx);
            self.cx.store.retire(target, need, self.cx.now);
        }
    }

    fn save_if_wanted(&mut self) {
        if self.cx.store.wants_tables() {
            self.cx.store.save(self.cx.tables.encode());
        }
    }
}

impl Life {
    /// Why messages are refused.
    fn refusal(&self) -> Response {
        let why = match self {
            Self::Failed { why, .. } => why.as_str(),
            _ => "the broker is being stopped",
        };
        let text = format!("service not available now: {why}. Send to another broker");
        Response::refuse(ResponseCode::ServiceNotAvailable, text)
    }
}

impl<D: Disk> Core for Broker<D> {
    type Work = Task;
    type Done = Done;

    fn handle(&mut self, event: Event<'_, Done>, now: Now) {
        if self.life == Life::Over {
            return;
        }
        self.cx.now = now;
        self.cx.counters.on_event(now);
        match event {
            Event::Opened { conn, peer } => self.opened(conn, peer),
            Event::Closed { conn } => {
                self.pulling.closed(conn);
                self.members.closed(conn, &mut self.cx);
            }
            Event::Request { from, request } => {
                self.on_request(from, &request);
                // A request moves no mark: the many of one moment need what follows only once.
                if self.settled_at == Some(now.mono) {
                    return;
                }
            }
            Event::Answered { call, outcome } => {
                let known = self.registration.answered(call, &outcome, &mut self.cx);
                assert!(known, "only the registration makes calls: {call:?}");
            }
            Event::Done(Done::Configured(configured)) => self.configured(*configured),
            Event::Done(Done::Job(done)) => {
                if let Err(error) = self.cx.store.finished(done, now) {
                    self.on_failure(&error);
                }
                self.cx.counters.job_ended(self.cx.store.state().flushes, now.mono);
            }
            Event::Space { free } => {
                self.cx.counters.free = Some(free);
                if let Some(total) = self.cx.config.disk_bytes {
                    self.cx.store.set_space(free, total);
                }
            }
            Event::Tick => {}
            Event::Stop => self.on_stop(),
        }
        self.settle();
    }

    fn poll_effect(&mut self) -> Option<Effect<Task>> {
        if let Some(effect) = self.cx.effects.pop_front() {
            return Some(effect);
        }
        if matches!(self.life, Life::Over | Life::Failed { .. }) {
            return None;
        }
        // Only now, when the events of a turn have been handled, their records are sealed: together.
        self.retire();
        self.save_if_wanted();
        let cx = &mut self.cx;
        let job = cx.store.next_job(cx.now)?;
        if job.lane() == Lane::Flush {
            cx.counters.flush_begins(cx.store.state().flushes, cx.now.mono);
        }
        Some(Effect::Work(Task::Job(job)))
    }

    fn deadline(&self) -> Option<Mono> {
        let (cx, commit) = (&self.cx, self.cx.store.commit());
        let registration = self.registration.deadline();
        let exports = self.exports.deadline(&cx.tables, commit);
        let (commits, store) = (self.commits.deadline(), cx.store.deadline());
        // As `settle` and `poll_effect`: what is not looked at any more must not wake anybody.
        let by_life = match &self.life {
            Life::Serving => [registration, exports, commits, store],
            Life::Leaving { until } => [Some(*until), commits, store, None],
            Life::Closing => [store, None, None, None],
            Life::Failed { until, .. } => [Some(*until), None, None, None],
            Life::Over => return None,
        };
        let always = [cx.pending.deadline(), self.pulling.deadline(), self.members.deadline()];
        always.into_iter().chain(by_life).flatten().min()
    }
}

#[cfg(test)]
mod tests;
