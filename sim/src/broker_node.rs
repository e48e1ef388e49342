//! A broker's machine: a disk, and most of the time a process with its job lanes.

use crate::checkers::{QueueKey, Speaker, key, records};
use crate::decay::{Duty, Harm};
use crate::disk::{DiskOp, Failing, Faults, SimDisk};
use crate::faults::{Chaos, Demand, Scenario};
use crate::fence::Fence;
use crate::host::{Directory, Host, Left};
use crate::net::{Goodbye, LinkId, News};
use crate::stage::{Due, MICRO, MILLI, NodeId, SECOND, Stage};
use crate::trace::Rare;
use crate::workload::{BODY_MAX, Lent, QUEUES, TOPICS};
use keepmq_broker::{Broker, BrokerConfig, LiveConfig, OpenBrokerError, Serve, Task};
use keepmq_protocol::frame::Form;
use keepmq_protocol::seam::{CallId, Conn, Event, Exit};
use keepmq_protocol::{Request, Response};
use keepmq_store::{
    Files, Job, JobDone, Lane, LogReader, Notice, OpenError, ReadError, RetentionRules, Scrubbing, Served, Store,
    StoreConfig,
};
use keepmq_world::Chance;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod trouble;

pub(crate) struct BrokerNode {
    pub(crate) node: NodeId,
    disk: SimDisk,
    life: u32,
    skew: i64,
    /// By so much the clock jumps before the next start.
    skew_at_start: i64,
    running: Option<Running>,
    /// A start is on the agenda.
    booting: bool,
    /// How far the log was synced, each time a job had ended.
    synced: Vec<(u64, u64)>,
    /// What it owes once a call of its disk has failed.
    fence: Fence,
    /// Where the log ended in memory when it ended because its disk had failed.
    failed_end: Option<u64>,
    /// When its process ended last.
    pub(crate) ended_at: u64,
    slow_until: u64,
    full_until: u64,
    refused_while_full: bool,
    /// A send was refused in this life because the disk was full.
    full_send: bool,
    /// The store has been opened before.
    exists: bool,
    /// A disk call fails, or has failed, as planned: the store may stop.
    broken: bool,
    /// Calls that fail at the next starts.
    fails_at_start: VecDeque<Failing>,
    /// Harm lies in wait for the next flush.
    lurks: bool,
    /// What the next start must do about what has happened to the store at rest.
    duty: Duty,
    /// Power cuts that still lie in wait for a job that is half done.
    ambushes: u32,
    pub(crate) state: Wanted,
    /// Nobody is told when its power goes.
    vanishes: bool,
    config: BrokerConfig,
    store: StoreConfig,
    demand: Demand,
    chance: Chance,
}

/// Whether the broker is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Running,
    /// Its store is to be harmed when it has stopped.
    Rotting(Harm),
    /// It has found that bytes have gone bad, and stays down.
    Refusing,
    /// Stopped for good, as far as the others can see.
    Retired,
}

struct Running {
    host: Host<Broker<SimDisk>>,
    files: Arc<Files<SimDisk>>,
    reader: LogReader<SimDisk>,
    flush: JobLane,
    background: JobLane,
    stopping: bool,
    /// Whose answers wait for the device.
    reading: BTreeSet<(Conn, i32)>,
}

#[derive(Default)]
struct JobLane {
    jobs: VecDeque<Job>,
    /// The first job has made a step.
    begun: bool,
    /// What the first job has touched so far.
    rolls: bool,
    snapshots: bool,
    /// When the core hears of the last job that has ended. Each lane keeps its own order, and none with the other.
    told_at: u64,
}

impl Running {
    /// Codes of the requests that wait for the store, and not for a read that is under way.
    fn waiting(&self) -> impl Iterator<Item = i32> {
        self.host.waiting().filter(|(whom, _)| !self.reading.contains(whom)).map(|(_, code)| code)
    }

    fn lane(&mut self, lane: Lane) -> &mut JobLane {
        match lane {
            Lane::Flush => &mut self.flush,
            Lane::Background => &mut self.background,
        }
    }
}

impl BrokerNode {
    pub(crate) fn new(
        node: NodeId,
        name: &str,
        scenario: &Scenario,
        directory: &Directory,
        chance: &mut Chance,
    ) -> Self {
        let address = directory.address(node);
        let name_servers = (0..scenario.name_servers)
            .map(|nth| directory.address(NodeId(scenario.brokers + nth)).to_string())
            .collect();
        let config = BrokerConfig {
            cluster: "sim".to_owned(),
            name: name.to_owned(),
            address,
            name_servers,
            region: "DefaultRegion".to_owned(),
            max_message_bytes: BODY_MAX,
            allow_client_relax: false,
            register_every: Duration::from_millis(scenario.register_every_ms),
            lite_pull: true,
            client_timeout: Duration::from_millis(scenario.client_timeout_ms),
            max_parked: scenario.max_parked,
            max_topics: 1000,
            max_groups: 1000,
            disk_bytes: None,
            live: LiveConfig {
                auto_create_topic: scenario.auto_create,
                auto_create_group: true,
                default_topic_queues: QUEUES,
                permission: 6,
                flush_timeout: Duration::from_millis(scenario.flush_timeout_ms),
                long_polling: true,
                pull_messages: 32,
                pull_bytes: 256 * 1024,
                retention: retention(scenario),
                shown: vec![("brokerName".to_owned(), name.to_owned())],
            },
        };
        let mut new_id = [0; 16];
        new_id[..8].copy_from_slice(&chance.word().to_be_bytes());
        let store = StoreConfig {
            cluster: "sim".to_owned(),
            broker: name.to_owned(),
            segment_bytes: scenario.segment_bytes,
            flush: scenario.flush,
            flush_interval: Duration::from_millis(scenario.flush_interval_ms),
            flush_bytes: scenario.flush_bytes,
            buffer_bytes: scenario.buffer_bytes,
            zero_ahead: scenario.zero_ahead,
            checkpoint_interval: Duration::from_millis(scenario.checkpoint_ms),
            snapshot_bytes: scenario.snapshot_bytes,
            retention: retention(scenario),
            scrubbing: Scrubbing { bytes_per_second: 1 << 20, interval: Duration::from_secs(5) },
            place: name.to_owned(),
            store_host: address,
            adopt: false,
            accept_loss: None,
            new_id,
            seed: chance.word(),
        };
        Self {
            node,
            disk: SimDisk::new(chance.fork()),
            life: 0,
            skew: 0,
            skew_at_start: 0,
            running: None,
            booting: false,
            synced: Vec::new(),
            fence: Fence::default(),
            failed_end: None,
            ended_at: 0,
            slow_until: 0,
            full_until: 0,
            refused_while_full: false,
            full_send: false,
            exists: false,
            broken: false,
            fails_at_start: VecDeque::new(),
            lurks: false,
            duty: Duty::Tell,
            ambushes: scenario.ambushes,
            state: Wanted::Running,
            vanishes: false,
            config,
            store,
            demand: scenario.demand,
            chance: chance.fork(),
        }
    }

    fn is(&self, life: u32) -> bool {
        self.running.is_some() && self.life == life
    }

    pub(crate) fn life(&self) -> Option<u32> {
        self.running.as_ref().map(|_| self.life)
    }

    /// Runs, and has not been asked to stop.
    pub(crate) fn serves(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.stopping)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.host.core.is_registered())
    }

    pub(crate) fn address(&self) -> String {
        self.config.address.to_string()
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Lowest and next offset of a queue, as the store says; `None` when it has never held anything.
    pub(crate) fn bounds(&self, (topic, queue): QueueKey) -> Option<(u64, u64)> {
        let view = self.running.as_ref()?.host.core.store().queue(topic, queue)?;
        Some((view.min.0, view.max.0))
    }

    // ---- events ---------------------------------------------------------------------------------------------------------

    pub(crate) fn arrived(&mut self, lent: &mut Lent<'_>, link: LinkId, news: News) {
        if let Some(running) = &mut self.running {
            running.host.arrived(lent.stage, link, news);
        }
    }

    pub(crate) fn turn(&mut self, lent: &mut Lent<'_>, life: u32) {
        let Some(running) = self.running.as_mut().filter(|_| self.life == life) else { return };
        running.host.turn(lent.stage, lent.directory);
        self.settle(lent);
    }

    pub(crate) fn tick(&mut self, lent: &mut Lent<'_>, life: u32, version: u64) {
        let Some(running) = self.running.as_mut().filter(|_| self.life == life) else { return };
        if running.host.tick(lent.stage, version) {
            self.settle(lent);
        }
    }

    pub(crate) fn call_late(&mut self, lent: &mut Lent<'_>, life: u32, call: CallId) {
        let Some(running) = self.running.as_mut().filter(|_| self.life == life) else { return };
        running.host.call_late(lent.stage, call);
        self.settle(lent);
    }

    pub(crate) fn space(&mut self, lent: &mut Lent<'_>, life: u32) {
        if !self.is(life) {
            return;
        }
        let full = lent.stage.now < self.full_until;
        lent.stage.after(SECOND, Due::Space { node: self.node, life });
        self.note_emptied(lent);
        let free = if full { 0 } else { 1 << 40 };
        if let Some(running) = &mut self.running {
            let next = |core: &Broker<SimDisk>, topic: &str, queue: i32| {
                let view = core.store().queue(topic, u32::try_from(queue).ok()?)?;
                i64::try_from(view.max.0).ok()
            };
            if let Some(pull) = running.host.overlooked(next) {
                lent.stage
                    .blame("woken", format!("a pull from {pull:?} waits, and there has been something for a second"));
            }
            running.host.event(lent.stage, Event::Space { free });
        }
        self.settle(lent);
    }

    fn note_emptied(&mut self, lent: &mut Lent<'_>) {
        for topic in TOPICS {
            for queue in (0..QUEUES).map(|queue| (topic, queue)) {
                if let Some((min, next)) = self.bounds(queue)
                    && min == next
                    && next > 0
                    && !lent.books.deleted.contains(topic)
                {
                    lent.books.shelves[self.node.0].emptied(queue, next);
                }
            }
        }
    }

    /// One step of the job at the head of a lane.
    pub(crate) fn step(&mut self, lent: &mut Lent<'_>, life: u32, lane: Lane) {
        if !self.is(life) {
            return;
        }
        if !self.step_job(lent, lane) {
            self.schedule(lent.stage, lane);
        }
    }

    /// A job has ended, and the core hears of it.
    pub(crate) fn done(&mut self, lent: &mut Lent<'_>, life: u32, done: JobDone) {
        let Some(running) = self.running.as_mut().filter(|_| self.life == life) else { return };
        let before = running.host.core.store().state();
        let waiting: Vec<i32> = running.waiting().collect();
        running.host.event(lent.stage, Event::Done(done.into()));
        let state = running.host.core.store().state();
        self.synced.push((lent.stage.now, state.synced.0));
        let fences = state.stopped && !before.stopped;
        if fences {
            self.fence.hears(
                lent.stage,
                &waiting,
                !running.flush.jobs.is_empty() || !running.background.jobs.is_empty(),
            );
            lent.stage.after(5 * SECOND, Due::MustHaveStopped { node: self.node, life: self.life });
        }
        self.settle(lent);
        if fences && let Some(running) = &self.running {
            let waiting: Vec<i32> = running.waiting().collect();
            self.fence.has_told(lent.stage, self.node, &waiting, running.host.left(), &self.config.name_servers);
        }
        if state.synced > before.synced {
            self.strike(lent, before.synced.0);
        }
    }

    /// Whether the job has ended; then the word of it and the next one are on their way.
    fn step_job(&mut self, lent: &mut Lent<'_>, lane: Lane) -> bool {
        let Some(running) = &mut self.running else { return false };
        let jobs = running.lane(lane);
        let Some(mut job) = jobs.jobs.pop_front() else { return false };
        jobs.begun = true;
        let done = job.step(&running.files);
        let before = lent.stage.counts;
        self.note_ops(lent);
        let Some(running) = &mut self.running else { return false };
        let jobs = running.lane(lane);
        jobs.rolls |= lent.stage.counts[Rare::Rolled as usize] > before[Rare::Rolled as usize];
        jobs.snapshots |= lent.stage.counts[Rare::SnapshotWritten as usize] > before[Rare::SnapshotWritten as usize];
        lent.stage.line(format_args!("{:?} {lane:?} step of {job:?}: {done:?}", self.node));
        if let Some(Notice::Bad(what)) = done.as_ref().and_then(JobDone::notice) {
            if lent.books.shelves[self.node.0].rotten {
                lent.stage.happened(Rare::RotReported);
            } else if !self.broken {
                lent.stage.blame("bad-bytes", format!("the scrub finds damage on a disk that is well: {what}"));
            }
        }
        let Some(done) = done else {
            let often = if jobs.rolls || jobs.snapshots { 6 } else { 25 };
            if self.ambushes > 0 && self.chance.one_in(often) {
                self.ambushes -= 1;
                lent.stage.after(0, Due::Chaos(Chaos::PowerCut(self.node)));
            }
            jobs.jobs.push_front(job);
            return false;
        };
        let more = !jobs.jobs.is_empty();
        (jobs.begun, jobs.rolls, jobs.snapshots) = (false, false, false);
        // The word of it may come a little later than the deed, and not at all when something happens in between.
        let late = if self.chance.one_in(4) { self.chance.below(2 * MILLI) } else { 0 };
        jobs.told_at = jobs.told_at.max(lent.stage.now + late);
        let due = Due::Done { node: self.node, life: self.life, done: Box::new(done) };
        lent.stage.at(jobs.told_at, due);
        if more {
            self.schedule(lent.stage, lane);
        }
        true
    }

    fn schedule(&mut self, stage: &mut Stage, lane: Lane) {
        let slow = stage.now < self.slow_until;
        let delay = match (lane, slow) {
            (_, true) => stage.delay(20 * MILLI, 4 * SECOND),
            (Lane::Flush, false) => stage.delay(30 * MICRO, 4 * MILLI),
            (Lane::Background, false) => stage.delay(30 * MICRO, 20 * MILLI),
        };
        stage.after(delay, Due::Step { node: self.node, life: self.life, lane });
    }

    /// A read that had to wait.
    pub(crate) fn read(&mut self, lent: &mut Lent<'_>, life: u32, serve: &Serve) {
        if let Some(running) = self.running.as_mut().filter(|_| self.life == life) {
            running.reading.remove(&(serve.to.conn, serve.to.opaque));
            let read = running.reader.serve(&serve.plan);
            self.answer(lent, serve, read);
        }
    }

    /// A reader has read: nothing that is not committed, nothing that is damaged.
    fn answer(&mut self, lent: &mut Lent<'_>, serve: &Serve, read: Result<Served, ReadError>) {
        let Some(running) = &mut self.running else { return };
        let commit = running.host.core.store().commit().0;
        match &read {
            Ok(Served::Records { bytes, .. }) => {
                let ends =
                    bytes.iter().flat_map(|piece| records(piece)).map(|found| found.at.0 + found.bytes.len() as u64);
                if let Some(end) = ends.filter(|end| *end > commit).max() {
                    lent.stage.blame("visible", format!("a record up to {end} is shown; committed is {commit}"));
                }
            }
            Err(ReadError::Damaged { path, at, what }) => {
                if self.demand == Demand::Detect {
                    lent.stage.happened(Rare::RotReported);
                } else {
                    lent.stage.blame("bad-bytes", format!("{path} is read as damaged at {at}: {what}"));
                }
            }
            // A file of the index that is gone is no damage to bytes, but it is said.
            Err(ReadError::Io { .. }) if self.broken || self.demand == Demand::Detect => {}
            Err(ReadError::Io { path, why }) => lent.stage.blame("read", format!("{path} cannot be read: {why}")),
            _ => {}
        }
        let response = serve.response(read);
        running.host.reply::<Task>(lent.stage, lent.net, &serve.to, &response);
    }

    /// Carries out what the core wants until it wants nothing more.
    fn settle(&mut self, lent: &mut Lent<'_>) {
        let Some(running) = &mut self.running else { return };
        for left in running.host.settle(lent.stage, lent.net, lent.directory) {
            match left {
                Left::Answered { code, response_code, .. } => {
                    self.fence.answered(lent.stage, self.node, code, response_code);
                    self.sent(lent.stage, code, response_code);
                }
                Left::Work(Task::Serve(serve)) => self.serve(lent, serve),
                Left::Work(Task::Job(job)) => self.job(lent, job),
                Left::Work(Task::Configure(text)) => unreachable!("nobody changes a configuration here: {text}"),
                Left::Exit(exit) => return self.exit(lent, &exit),
            }
        }
        self.note_ops(lent);
    }

    fn serve(&mut self, lent: &mut Lent<'_>, serve: Serve) {
        let Some(running) = &mut self.running else { return };
        let probe = running.host.is_probe(&serve.to);
        let read = if probe { Some(running.reader.serve(&serve.plan)) } else { running.reader.try_serve(&serve.plan) };
        match read {
            Some(read) if probe || !self.chance.one_in(8) => self.answer(lent, &serve, read),
            _ => {
                lent.stage.happened(Rare::ServedLater);
                running.reading.insert((serve.to.conn, serve.to.opaque));
                let delay = lent.stage.delay(50 * MICRO, 20 * MILLI);
                lent.stage.after(delay, Due::Read { node: self.node, life: self.life, serve: Box::new(serve) });
            }
        }
    }

    /// Puts a job into its lane, or does a quick one here.
    fn job(&mut self, lent: &mut Lent<'_>, job: Job) {
        let lane = job.lane();
        let here = job.is_quick() && !self.chance.one_in(4);
        let Some(running) = &mut self.running else { return };
        let jobs = running.lane(lane);
        let idle = jobs.jobs.is_empty();
        jobs.jobs.push_back(job);
        if idle && here {
            while !self.step_job(lent, lane) {}
        } else if idle {
            self.schedule(lent.stage, lane);
        }
    }

    fn note_ops(&mut self, lent: &mut Lent<'_>) {
        let mut ops = Vec::new();
        self.disk.take_ops(&mut ops);
        for op in &ops {
            let stage = &mut *lent.stage;
            stage.line(format_args!("disk: {op}"));
            match op {
                DiskOp::Rename(_, to) if to.starts_with("commitlog/") => stage.happened(Rare::Rolled),
                DiskOp::Rename(_, to) | DiskOp::Create(to, _) if to.starts_with("keepmq/meta-") => {
                    stage.happened(Rare::SnapshotWritten);
                }
                DiskOp::ReadIndex(_) => stage.happened(Rare::ColdIndex),
                DiskOp::Create(path, _) if path.starts_with("keepmq/queues-") => stage.happened(Rare::IndexFileBegun),
                DiskOp::Remove(path, _) if path.starts_with("keepmq/queues-") => stage.happened(Rare::IndexFileRemoved),
                DiskOp::Full(path) => {
                    stage.happened(Rare::FullRefused);
                    self.refused_while_full = true;
                    trouble::note_full(stage, path);
                }
                DiskOp::Failed(call, path) => trouble::note_failed(stage, *call, path),
                DiskOp::Short(_, done) if *done > 0 => stage.happened(Rare::ShortWrite),
                _ => {}
            }
            self.fence.watch(stage, self.node, op);
            lent.books.shelves[self.node.0].watch(stage, op);
        }
    }

    // ---- the process begins and ends ------------------------------------------------------------------------------------

    /// Puts a start on the agenda, if none is.
    pub(crate) fn boot_later(&mut self, stage: &mut Stage) {
        if self.running.is_none() && !self.booting && matches!(self.state, Wanted::Running | Wanted::Rotting(_)) {
            self.booting = true;
            let delay = stage.delay(5 * MILLI, 2 * SECOND);
            stage.after(delay, Due::Boot { node: self.node });
        }
    }

    pub(crate) fn boot(&mut self, lent: &mut Lent<'_>) {
        self.booting = false;
        if self.running.is_some() {
            return;
        }
        self.life += 1;
        let fuse =
            if lent.shape.healed_at.is_some() || !self.chance.one_in(4) { 0 } else { 1 + self.chance.below(30) as u32 };
        self.before_start(lent.stage, fuse);
        let now = lent.stage.clocks(self.skew);
        lent.stage.line(format_args!("{:?} opens its store, life {}", self.node, self.life));
        let opened = Store::open(self.disk.clone(), self.store.clone(), now);
        let mut ops = Vec::new();
        self.disk.take_ops(&mut ops);
        for op in &ops {
            lent.stage.line(format_args!("disk: {op}"));
            if let DiskOp::Failed(call, path) = op {
                trouble::note_failed(lent.stage, *call, path);
            }
            lent.books.shelves[self.node.0].watch(lent.stage, op);
        }
        if opened.is_err() || self.disk.fuse_blown() {
            lent.books.shelves[self.node.0].recovery_interrupted();
        }
        let (store, recovered) = match opened {
            Ok(opened) if !self.disk.fuse_blown() => opened,
            Ok(_) => return self.died_in_recovery(lent),
            Err(error) => return self.not_opened(lent, &error, &ops),
        };
        self.exists = true;
        self.disk.faults(|faults| faults.fuse = 0);
        self.has_opened(lent.stage, recovered.end.0);
        lent.stage.line(format_args!(
            "{:?} has opened its store: end {}, cut {}, scanned {}, tables {}",
            self.node,
            recovered.end,
            recovered.cut,
            recovered.scanned,
            recovered.tables.len()
        ));
        let state = store.state();
        let (found, files, reader) = (recovered.clone(), store.files(), store.reader());
        let seed = self.chance.word();
        let core = match Broker::open(store, recovered, self.config.clone(), seed, now) {
            Ok(core) => core,
            Err(error) => return self.not_built(lent, &error),
        };
        self.note_snapshot(lent.stage, &ops, !found.tables.is_empty());
        lent.books.opened(lent.stage, self.speaker(), &found, &state, &self.disk);
        lent.net.set_life(self.node, Some(self.life));
        let patience = u64::try_from(self.config.live.flush_timeout.as_nanos()).expect("a flush timeout is short");
        let host = Host::new(core, self.node, self.life, self.skew, lent.net, patience);
        let (flush, background) = (JobLane::default(), JobLane::default());
        let reading = BTreeSet::new();
        self.running = Some(Running { host, files, reader, flush, background, stopping: false, reading });
        let next = |queue| self.bounds(queue).map_or(0, |(_, next)| next);
        lent.books.shelves[self.node.0].check_next(lent.stage, next);
        self.note_emptied(lent);
        lent.stage.after(SECOND, Due::Space { node: self.node, life: self.life });
        self.settle(lent);
    }

    fn note_snapshot(&self, stage: &mut Stage, ops: &[DiskOp], loaded: bool) {
        let opened =
            ops.iter().filter(|op| matches!(op, DiskOp::Open(path) if path.starts_with("keepmq/meta-"))).count();
        if loaded {
            stage.happened(Rare::SnapshotLoaded);
            if opened > 1 {
                stage.happened(Rare::SecondGeneration);
            }
        }
    }

    fn died_in_recovery(&mut self, lent: &mut Lent<'_>) {
        let power = self.chance.one_in(2);
        lent.stage.happened(if power { Rare::CutInRecovery } else { Rare::KilledInRecovery });
        self.crash(lent, power);
    }

    fn not_opened(&mut self, lent: &mut Lent<'_>, error: &OpenError, ops: &[DiskOp]) {
        lent.stage.line(format_args!("{:?} cannot open its store: {error}", self.node));
        if self.disk.fuse_blown() {
            return self.died_in_recovery(lent);
        }
        let rotten = lent.books.shelves[self.node.0].rotten;
        match error {
            // A file that is gone is one that the system does not find.
            OpenError::Damaged { .. } | OpenError::Foreign { .. } | OpenError::Io(_) if rotten => {
                lent.stage.happened(Rare::RotRefused);
                self.state = Wanted::Refusing;
            }
            // There was no place to make a store. One that exists opens on a full disk.
            OpenError::Io(error) if error.no_space && !self.exists => {}
            OpenError::Io(_) if ops.iter().any(|op| matches!(op, DiskOp::Failed(..))) => {
                lent.stage.happened(Rare::FailedInRecovery);
            }
            _ => lent.stage.blame("open", format!("the store cannot be opened: {error}")),
        }
        self.disk = self.disk.killed();
        self.boot_later(lent.stage);
    }

    /// The store is well, the broker cannot read its tables from it.
    fn not_built(&mut self, lent: &mut Lent<'_>, error: &OpenBrokerError) {
        lent.stage.line(format_args!("{:?} cannot build its tables: {error}", self.node));
        let mut ops = Vec::new();
        self.disk.take_ops(&mut ops);
        if lent.books.shelves[self.node.0].rotten {
            lent.stage.happened(Rare::RotRefused);
            self.state = Wanted::Refusing;
        } else if !ops.iter().any(|op| matches!(op, DiskOp::Failed(..))) {
            lent.stage.blame("open", format!("the broker's tables cannot be built: {error}"));
        }
        self.disk = self.disk.killed();
        self.boot_later(lent.stage);
    }

    /// The process is gone, or the power.
    pub(crate) fn crash(&mut self, lent: &mut Lent<'_>, power: bool) {
        lent.stage.line(format_args!("{:?} {}", self.node, if power { "loses power" } else { "is killed" }));
        if let Some(running) = &self.running
            && power
        {
            if running.flush.begun {
                lent.stage.happened(Rare::CutInFlush);
            }
            for lane in [&running.flush, &running.background] {
                if lane.begun && lane.rolls {
                    lent.stage.happened(Rare::CutInRoll);
                }
                if lane.begun && lane.snapshots {
                    lent.stage.happened(Rare::CutInSnapshot);
                }
            }
        }
        let goodbye = match power {
            true if self.vanishes => Goodbye::Never,
            true => Goodbye::Late,
            false => Goodbye::Said,
        };
        self.process_ended(lent, goodbye);
        let shelf = &mut lent.books.shelves[self.node.0];
        if power {
            shelf.power_cut();
            self.disk = self.disk.power_cut();
        } else {
            self.disk = self.disk.killed();
        }
        self.boot_later(lent.stage);
    }

    fn process_ended(&mut self, lent: &mut Lent<'_>, goodbye: Goodbye) {
        self.ended_at = lent.stage.now;
        if let Some(running) = self.running.take() {
            let state = running.host.core.store().state();
            lent.books.shelves[self.node.0].process_ended(&state, &self.disk);
        }
        lent.net.set_life(self.node, None);
        lent.net.process_ended(lent.stage, self.node, goodbye);
    }

    fn exit(&mut self, lent: &mut Lent<'_>, exit: &Exit) {
        self.note_ops(lent);
        lent.stage.line(format_args!("{:?} exits: {exit:?}", self.node));
        match exit {
            Exit::Clean => {
                if !self.running.as_ref().is_some_and(|running| running.stopping) {
                    lent.stage.blame("exit", "a broker that nobody stopped ends");
                }
                lent.stage.happened(Rare::CleanStop);
                self.process_ended(lent, Goodbye::Said);
                lent.books.shelves[self.node.0].stopped_cleanly();
                // What a clean stop has promised, no power cut takes back.
                self.disk = if self.chance.one_in(2) { self.disk.power_cut() } else { self.disk.killed() };
                if let Wanted::Rotting(harm) = self.state {
                    self.harm(lent, harm, (u64::MAX, u64::MAX));
                }
            }
            Exit::Disk(why) => {
                if lent.books.shelves[self.node.0].rotten {
                    // It has come upon the bad bytes, and says so.
                    lent.stage.happened(Rare::RotReported);
                    self.state = Wanted::Refusing;
                } else if !self.broken {
                    lent.stage.blame("exit", format!("a broker gives up its disk although the disk is well: {why}"));
                }
                lent.stage.happened(Rare::Fenced);
                self.failed_end = self.running.as_ref().map(|running| running.host.core.store().state().appended.0);
                self.process_ended(lent, Goodbye::Said);
                if self.chance.one_in(2) {
                    // What a failed sync has left behind shows when the power goes.
                    let delay = lent.stage.delay(300 * MILLI, 4 * SECOND);
                    lent.stage.after(delay, Due::Chaos(Chaos::PowerCut(self.node)));
                }
                self.disk = self.disk.killed();
                self.disk.faults(|faults| *faults = Faults { full: faults.full, ..Faults::default() });
            }
        }
        self.boot_later(lent.stage);
    }

    /// An operator stops it.
    pub(crate) fn stop(&mut self, lent: &mut Lent<'_>, then: Wanted) {
        if self.state != Wanted::Running {
            return;
        }
        self.state = then;
        let Some(running) = self.running.as_mut().filter(|running| !running.stopping) else {
            return;
        };
        running.stopping = true;
        lent.books.shelves[self.node.0].stops = true;
        running.host.event(lent.stage, Event::Stop);
        lent.stage.line(format_args!("{:?} is asked to stop", self.node));
        lent.stage.after(60 * SECOND, Due::MustHaveStopped { node: self.node, life: self.life });
        self.settle(lent);
    }

    /// Its machine is switched off for good.
    pub(crate) fn vanish(&mut self, lent: &mut Lent<'_>) {
        if self.state == Wanted::Running {
            (self.state, self.vanishes) = (Wanted::Retired, true);
            self.crash(lent, true);
        }
    }

    pub(crate) fn must_have_stopped(&mut self, lent: &mut Lent<'_>, life: u32) {
        if self.is(life) {
            lent.stage.blame("liveness", format!("{:?} was to end long ago, and still runs", self.node));
        }
    }

    /// Starts it again when everything else is over, to see what it has kept.
    pub(crate) fn wake(&mut self, lent: &mut Lent<'_>) {
        if self.state == Wanted::Retired {
            (self.state, self.vanishes) = (Wanted::Running, false);
            self.boot(lent);
        }
    }

    // ---- the simulator asks ---------------------------------------------------------------------------------------------

    pub(crate) fn probe(&mut self, lent: &mut Lent<'_>, request: &Request<'_>) -> Option<Response> {
        let form = if self.chance.one_in(2) { Form::Json } else { Form::Binary };
        self.running.as_mut()?.host.probe(lent.stage, lent.net, request, form);
        self.settle(lent);
        let response = self.running.as_mut()?.host.probed(lent.stage);
        self.settle(lent);
        response
    }

    pub(crate) fn speaker(&self) -> Speaker {
        Speaker { broker: self.node.0, life: self.life }
    }

    /// What its clock says.
    pub(crate) fn wall(&self, stage: &Stage) -> i64 {
        stage.clocks(self.skew).wall.0
    }

    /// Whether it was refused space at some time.
    pub(crate) fn refused_for_space(&self) -> bool {
        self.refused_while_full
    }

    /// Whether the topic has ever held a message.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        (0..QUEUES).any(|queue| key(topic, queue).and_then(|queue| self.bounds(queue)).is_some())
    }
}

fn retention(scenario: &Scenario) -> RetentionRules {
    RetentionRules { lag: scenario.lag, ..RetentionRules::keeping(Duration::from_millis(scenario.keep_ms)) }
}
