//! Who carries out a broker's own work: one thread a lane, a few readers, and the shard itself where little must be waited for.
//!
//! ```text
//!   Task::Job ──quick, or as syncs.rs says──▶ here       ──▶ Word::Done at once
//!           └──else──▶ thread of the job's lane          ──▶ Word::Done, posted
//!   Task::Serve ──in memory──▶ here                      ──▶ Word::Reply at once
//!             └──cold──▶ the readers                     ──▶ Word::Reply, posted
//!   Task::Configure ──▶ the thread of the configuration ──▶ Word::Done, posted
//! ```

use crate::config::{self, Settings};
use crate::metrics::Sent;
use crate::syncs::{Place, Syncs};
use keepmq_broker::{Done, Serve, Task};
use keepmq_disk::OsDisk;
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::seam::Core;
use keepmq_protocol::{Response, ResponseCode};
use keepmq_store::{Files, Job, Lane, LogReader, Notice};
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// Stack of a thread that runs shallow code; what is not touched costs nothing, but 2 MiB a thread add up where memory is limited.
pub(crate) const STACK: usize = 256 << 10;
/// Jobs that wait in a lane. The store has one or two under way: a full lane means that the core has lost count.
const LANE: usize = 64;
/// Cold reads that wait; what comes on top is refused, and the client asks again.
const READS: usize = 1024;

/// Of the flush thread.
const NICE: i32 = -10;

/// Readers: a device answers several reads at once, and one that waits must not hold up the others.
const READERS_MIN: usize = 2;
const READERS_MAX: usize = 4;

/// The hands of a broker's shards: each has a clone.
#[derive(Clone)]
pub(crate) struct BrokerHands {
    files: Arc<Files<OsDisk>>,
    reader: LogReader<OsDisk>,
    syncs: Arc<Mutex<Syncs>>,
    flush: SyncSender<Job>,
    background: SyncSender<Job>,
    reads: SyncSender<Serve>,
    changes: SyncSender<String>,
    sent: Arc<Sent>,
    /// Cold reads that wait or are under way.
    cold: Arc<AtomicUsize>,
}

/// The threads behind them. They end by themselves when the hands are dropped and what was handed out is done.
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl BrokerHands {
    /// With their threads, which post to `inbox`. `awaited`: replies wait for syncs, as under SYNC_FLUSH.
    pub(crate) fn new(
        files: Arc<Files<OsDisk>>,
        reader: LogReader<OsDisk>,
        settings: Settings,
        inbox: &Inbox<Done>,
        shards: usize,
        awaited: bool,
    ) -> io::Result<(Self, Workers)> {
        let cores = cores();
        let (flush, flushes) = sync_channel(LANE);
        let (background, chores) = sync_channel(LANE);
        let (reads, asked) = sync_channel(READS);
        let (changes, configuration) = configuration(settings, inbox.clone(), |settings, text| {
            Done::Configured(Box::new(config::configure_broker(settings, text)))
        })?;
        let sent = Arc::new(Sent::default());
        let syncs = Arc::new(Mutex::new(Syncs::new(cores, shards, awaited)));
        let cold = Arc::new(AtomicUsize::new(0));
        let mut threads = vec![
            lane("flush", flushes, Arc::clone(&files), inbox.clone(), Some(Arc::clone(&syncs)))?,
            lane("background", chores, Arc::clone(&files), inbox.clone(), None)?,
        ];
        threads.push(configuration);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..cores.clamp(READERS_MIN, READERS_MAX) {
            threads.push(read(
                Arc::clone(&asked),
                reader.clone(),
                Arc::clone(&sent),
                inbox.clone(),
                Arc::clone(&cold),
            )?);
        }
        Ok((Self { files, reader, syncs, flush, background, reads, changes, sent, cold }, Workers { threads }))
    }

    /// What has been read for consumers.
    pub(crate) fn sent(&self) -> &Arc<Sent> {
        &self.sent
    }

    fn job(&self, job: Job) -> Option<Word<Done>> {
        let (place, lane) = match job.lane() {
            Lane::Flush if job.is_quick() => return Some(Word::Done(job.run(&self.files).into())),
            Lane::Flush => (lock(&self.syncs).next(self.cold.load(Ordering::Relaxed)), &self.flush),
            Lane::Background => (Place::Thread, &self.background),
        };
        if place == Place::Shard {
            return Some(Word::Done(flush(job, &self.files, &self.syncs)));
        }
        match lane.try_send(job) {
            Ok(()) => None,
            Err(TrySendError::Full(job)) => panic!("the store has at most a few jobs under way, not {LANE}: {job:?}"),
            Err(TrySendError::Disconnected(job)) => panic!("a lane's thread lives as long as its hands: {job:?}"),
        }
    }

    fn serve(&self, serve: Serve) -> Option<Word<Done>> {
        if let Some(read) = self.reader.try_serve(&serve.plan) {
            self.sent.count(&serve, &read);
            return Some(Word::Reply { to: serve.to, response: serve.response(read) });
        }
        self.cold.fetch_add(1, Ordering::Relaxed);
        match self.reads.try_send(serve) {
            Ok(()) => None,
            Err(TrySendError::Full(serve)) => {
                self.cold.fetch_sub(1, Ordering::Relaxed);
                let remark = format!("{READS} reads of old messages wait for the disk already");
                Some(Word::Reply { to: serve.to, response: Response::refuse(ResponseCode::SystemBusy, remark) })
            }
            Err(TrySendError::Disconnected(_)) => panic!("readers live as long as the hands"),
        }
    }

    fn change(&self, text: String) {
        if let Err(error) = self.changes.try_send(text) {
            panic!("the core has one change under way, and the thread lives as long as its hands: {error}");
        }
    }
}

impl<C: Core<Work = Task, Done = Done>> Hands<C> for BrokerHands {
    fn work(&mut self, work: Task) -> Option<Word<Done>> {
        match work {
            Task::Job(job) => self.job(job),
            Task::Serve(serve) => self.serve(serve),
            Task::Configure(text) => {
                self.change(text);
                None
            }
        }
    }
}

impl Workers {
    /// Waits until all is done. The hands must have been dropped.
    pub(crate) fn join(self) {
        for thread in self.threads {
            thread.join().expect("a panic ends the process");
        }
    }
}

/// How many of the machine's cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a job of the flush lane, and remembers how long it took.
fn flush(job: Job, files: &Files<OsDisk>, syncs: &Mutex<Syncs>) -> Done {
    let began = Instant::now();
    let done = job.run(files);
    lock(syncs).took(began.elapsed());
    done.into()
}

fn lane(
    name: &str,
    jobs: Receiver<Job>,
    files: Arc<Files<OsDisk>>,
    inbox: Inbox<Done>,
    syncs: Option<Arc<Mutex<Syncs>>>,
) -> io::Result<JoinHandle<()>> {
    spawn(name, move || {
        if syncs.is_some() {
            hurry();
        }
        for job in jobs {
            let done = match &syncs {
                Some(syncs) => flush(job, &files, syncs),
                None => {
                    let done = job.run(&files);
                    match done.notice() {
                        Some(Notice::Normal(what)) => tracing::info!("{what}"),
                        Some(Notice::Bad(what)) => tracing::error!("{what}"),
                        None => {}
                    }
                    done.into()
                }
            };
            inbox.post(Word::Done(done));
        }
    })
}

/// Raises this thread's priority: it does little but wait for the disk, and when it is ready everybody waits for it. On busy
/// cores it would otherwise stand behind threads that have just begun their time (4 ms on kernels with 250 ticks a second).
/// Only with CAP_SYS_NICE; without it a flush takes as long as the system lets it.
fn hurry() {
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
        tracing::debug!(%error, "the flush thread keeps its priority");
    }
}

fn read(
    asked: Arc<Mutex<Receiver<Serve>>>,
    reader: LogReader<OsDisk>,
    sent: Arc<Sent>,
    inbox: Inbox<Done>,
    cold: Arc<AtomicUsize>,
) -> io::Result<JoinHandle<()>> {
    spawn("read", move || {
        // One of the readers waits for the next read, the others for their turn to wait.
        let next = || lock(&asked).recv();
        while let Ok(serve) = next() {
            let read = reader.serve(&serve.plan);
            sent.count(&serve, &read);
            let response = serve.response(read);
            cold.fetch_sub(1, Ordering::Relaxed);
            inbox.post(Word::Reply { to: serve.to, response });
        }
    })
}

/// The thread that changes the configuration, and the way to ask it. It ends when nobody can ask any more.
pub(crate) fn configuration<D: Send + 'static>(
    mut settings: Settings,
    inbox: Inbox<D>,
    change: fn(&mut Settings, &str) -> D,
) -> io::Result<(SyncSender<String>, JoinHandle<()>)> {
    // The core has one change under way at a time: the channel never fills.
    let (changes, wanted) = sync_channel::<String>(1);
    let thread = spawn("configuration", move || {
        for text in wanted {
            inbox.post(Word::Done(change(&mut settings, &text)));
        }
    })?;
    Ok((changes, thread))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic ends the process")
}

/// A thread with a small stack and a name.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(run)
}
