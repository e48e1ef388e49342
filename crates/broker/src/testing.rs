//! A broker over a disk in memory, whose jobs and reads are done at once unless a test holds the flushes back.

use crate::{Broker, BrokerConfig, Done, LiveConfig, Task};
use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::header::Str;
use keepmq_protocol::request::{Pull, Send, SendHeader, SendVia};
use keepmq_protocol::seam::{CallId, Conn, Core, Effect, Event, Outcome};
use keepmq_protocol::{Request, Response};
use keepmq_store::{Disk, File, Flush, Job, Lane, RetentionRules, Scrubbing, Store, StoreConfig};
use keepmq_world::{Mono, Now, Timestamp};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn caller(conn: Conn, opaque: i32) -> Caller {
    Caller { conn, opaque, form: Form::Json, oneway: false, version: 479, language: Language::Java }
}

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Default)]
pub(crate) struct MemDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, Bytes>>>,
    broken: Arc<AtomicBool>,
}

pub(crate) struct MemFile {
    bytes: Bytes,
    broken: Arc<AtomicBool>,
}

impl MemDisk {
    /// From now on every write and sync fails.
    pub(crate) fn break_down(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let files = self.files.lock().unwrap();
        files.get(Path::new(path)).map(|bytes| String::from_utf8(bytes.lock().unwrap().clone()).unwrap())
    }

    /// What is on disk now, as after a kill.
    pub(crate) fn copy(&self) -> Self {
        let files = self.files.lock().unwrap();
        let copy =
            |(path, bytes): (&PathBuf, &Bytes)| (path.clone(), Arc::new(Mutex::new(bytes.lock().unwrap().clone())));
        Self { files: Arc::new(Mutex::new(files.iter().map(copy).collect())), broken: Arc::default() }
    }

    fn file(&self, bytes: &Bytes) -> MemFile {
        MemFile { bytes: Arc::clone(bytes), broken: Arc::clone(&self.broken) }
    }
}

impl Disk for MemDisk {
    type File = MemFile;
    fn open(&self, path: &Path) -> io::Result<MemFile> {
        let files = self.files.lock().unwrap();
        files.get(path).map(|bytes| self.file(bytes)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<MemFile> {
        let mut files = self.files.lock().unwrap();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = Arc::new(Mutex::new(vec![0; usize::try_from(len).unwrap()]));
        files.insert(path.to_owned(), Arc::clone(&bytes));
        Ok(self.file(&bytes))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| PathBuf::from(path.file_name().unwrap())).collect())
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl MemFile {
    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

impl File for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.get(usize::try_from(at).unwrap()..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn read_cached_at(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        self.read_at(at, into).map(|()| true)
    }
    fn write_at(&self, at: u64, from: &[u8]) -> io::Result<()> {
        self.check()?;
        let mut bytes = self.bytes.lock().unwrap();
        let at = usize::try_from(at).unwrap();
        let len = bytes.len().max(at + from.len());
        bytes.resize(len, 0);
        bytes[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()
    }
}

pub(crate) const A: Conn = Conn(1);
pub(crate) const B: Conn = Conn(2);

pub(crate) struct World {
    pub(crate) broker: Broker<MemDisk>,
    pub(crate) disk: MemDisk,
    pub(crate) now: Now,
    /// Flush jobs wait for `flush`.
    pub(crate) hold: bool,
    held: Vec<Job>,
    /// Effects that were neither jobs, reads nor replies.
    pub(crate) effects: Vec<Effect<Task>>,
    pub(crate) replies: Vec<(Caller, Response)>,
    opaque: i32,
}

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig {
        cluster: "DefaultCluster".into(),
        name: "broker-a".into(),
        address: "127.0.0.1:10911".parse().unwrap(),
        name_servers: Vec::new(),
        region: "DefaultRegion".into(),
        max_message_bytes: 4096,
        allow_client_relax: false,
        register_every: Duration::from_secs(30),
        lite_pull: true,
        client_timeout: Duration::from_secs(120),
        max_parked: 2,
        max_topics: 20,
        max_groups: 20,
        disk_bytes: Some(1000),
        live: live(),
    }
}

pub(crate) fn live() -> LiveConfig {
    LiveConfig {
        auto_create_topic: true,
        auto_create_group: true,
        default_topic_queues: 8,
        permission: 6,
        flush_timeout: Duration::from_secs(5),
        long_polling: true,
        pull_messages: 32,
        pull_bytes: 256 * 1024,
        retention: RetentionRules::keeping(Duration::from_secs(72 * 3600)),
        shown: vec![("brokerName".into(), "broker-a".into())],
    }
}

impl World {
    /// A new store, and two connections.
    pub(crate) fn new(config: BrokerConfig) -> Self {
        Self::over(MemDisk::default(), config)
    }

    pub(crate) fn over(disk: MemDisk, config: BrokerConfig) -> Self {
        let store = StoreConfig {
            cluster: config.cluster.clone(),
            broker: config.name.clone(),
            segment_bytes: 4 << 20,
            flush: Flush::Sync,
            flush_interval: Duration::from_millis(500),
            flush_bytes: 4 << 20,
            buffer_bytes: 1 << 20,
            zero_ahead: 64 << 10,
            checkpoint_interval: Duration::from_secs(1),
            snapshot_bytes: 64 << 20,
            retention: config.live.retention.clone(),
            scrubbing: Scrubbing { bytes_per_second: 1 << 20, interval: Duration::from_secs(24 * 3600) },
            place: "/data/store".into(),
            store_host: config.address,
            adopt: false,
            accept_loss: None,
            new_id: [7; 16],
            seed: 1,
        };
        let now = Now { mono: Mono(0), wall: Timestamp(1_700_000_000_000) };
        let (store, recovered) = Store::open(disk.clone(), store, now).unwrap();
        let broker = Broker::open(store, recovered, config, 1, now).unwrap();
        let (held, effects, replies) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = Self { broker, disk, now, hold: false, held, effects, replies, opaque: 0 };
        for conn in [A, B] {
            world.event(Event::Opened { conn, peer: format!("10.0.0.{}:50000", conn.0).parse().unwrap() });
        }
        world
    }

    pub(crate) fn event(&mut self, event: Event<'_, Done>) {
        self.broker.handle(event, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(effect) = self.broker.poll_effect() {
            match effect {
                Effect::Work(Task::Job(job)) if self.hold && job.lane() == Lane::Flush => self.held.push(job),
                Effect::Work(Task::Job(job)) => self.run(job),
                Effect::Work(Task::Serve(serve)) => {
                    let read = self.broker.store().reader().serve(&serve.plan);
                    self.replies.push((serve.to, serve.response(read)));
                }
                Effect::Reply { to, response } => self.replies.push((to, response)),
                other => self.effects.push(other),
            }
        }
    }

    fn run(&mut self, job: Job) {
        let done = job.run(&self.broker.store().files());
        self.broker.handle(Event::Done(done.into()), self.now);
    }

    /// Lets the held flushes happen, and holds no more.
    pub(crate) fn flush(&mut self) {
        self.hold = false;
        for job in std::mem::take(&mut self.held) {
            self.run(job);
        }
        self.settle();
    }

    /// Time passes; the broker is woken whenever it wants to be.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        let mut ticks = 0;
        while let Some(at) = self.broker.deadline().filter(|at| *at <= end) {
            self.set_clock(at.max(self.now.mono));
            self.event(Event::Tick);
            ticks += 1;
            assert!(ticks < 10_000, "the broker does not come to rest");
        }
        self.set_clock(end);
    }

    fn set_clock(&mut self, mono: Mono) {
        let passed = i64::try_from(mono.since(self.now.mono).as_millis()).unwrap();
        self.now = Now { mono, wall: Timestamp(self.now.wall.0 + passed) };
    }

    /// Sends a request; the number that its answer will carry.
    pub(crate) fn send(&mut self, conn: Conn, request: Request<'_>) -> i32 {
        self.opaque += 1;
        self.event(Event::Request { from: caller(conn, self.opaque), request });
        self.opaque
    }

    pub(crate) fn oneway(&mut self, conn: Conn, request: Request<'_>) {
        self.event(Event::Request { from: Caller { oneway: true, ..caller(conn, 0) }, request });
    }

    /// The answer, when there is one: it is taken out.
    pub(crate) fn answer(&mut self, opaque: i32) -> Option<Response> {
        let found = self.replies.iter().position(|(to, _)| to.opaque == opaque)?;
        Some(self.replies.remove(found).1)
    }

    /// Sends a request and takes its answer.
    pub(crate) fn ask(&mut self, conn: Conn, request: Request<'_>) -> Response {
        let opaque = self.send(conn, request);
        self.answer(opaque).expect("an answer at once")
    }

    /// The calls that were made since this was last asked.
    pub(crate) fn calls(&mut self) -> Vec<(CallId, String, Request<'static>)> {
        let mut calls = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Call { call, peer, request, .. } => calls.push((call, peer, request)),
                other => self.effects.push(other),
            }
        }
        calls
    }

    pub(crate) fn answered(&mut self, call: CallId, outcome: Outcome) {
        self.event(Event::Answered { call, outcome });
    }
}

pub(crate) fn message<'b>(topic: &'b str, queue_id: i32, properties: &'b str, body: &'b [u8]) -> Send<'b> {
    let header = SendHeader {
        producer_group: "P".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queues: 4,
        queue_id,
        sys_flag: 0,
        born_at: 5,
        flag: 0,
        properties: (!properties.is_empty()).then_some(Str::Borrowed(properties)),
        reconsume_times: None,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    Send { via: SendVia::V2, header, body: body.into() }
}

/// A pull with the subscription in its header, held for 15 s.
pub(crate) fn pull<'b>(topic: &'b str, queue_id: i32, offset: i64, expression: &'b str) -> Pull<'b> {
    Pull {
        group: "G".into(),
        topic: topic.into(),
        queue_id,
        offset,
        max_messages: 32,
        sys_flag: 0b110,
        commit_offset: 0,
        suspend_ms: 15_000,
        subscription: Some(expression.into()),
        sub_version: 0,
        expression_type: None,
        max_bytes: None,
    }
}
