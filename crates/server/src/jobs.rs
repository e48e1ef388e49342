//! Who carries out a broker's own work: one thread a lane, one reader, and the shard itself where nothing must be waited for.
//!
//! ```text
//!   Task::Job ──quick──▶ here                      ──▶ Word::Done at once
//!           └──syncs───▶ thread of the job's lane  ──▶ Word::Done, posted
//!   Task::Serve ──in memory──▶ here                ──▶ Word::Reply at once
//!             └──cold──▶ the reader                ──▶ Word::Reply, posted
//!   Task::Configure ──▶ the thread of the configuration ──▶ Word::Done, posted
//! ```

use crate::config::{self, Settings};
use crate::metrics::Sent;
use keepmq_broker::{Done, Serve, Task};
use keepmq_disk::OsDisk;
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::seam::Core;
use keepmq_protocol::{Response, ResponseCode};
use keepmq_store::{Files, Job, Lane, LogReader};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Stack of a thread that runs shallow code; what is not touched costs nothing, but 2 MiB a thread add up where memory is limited.
pub(crate) const STACK: usize = 256 << 10;
/// Jobs that wait in a lane. The store has one or two under way: a full lane means that the core has lost count.
const LANE: usize = 64;
/// Cold reads that wait; what comes on top is refused, and the client asks again.
const READS: usize = 1024;

/// Where the syncs are done that replies wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syncs {
    /// In the shard: no hop between threads, but nothing else happens meanwhile. The way for a machine with one core.
    Inline,
    /// In a thread of their own.
    Thread,
}

impl Syncs {
    fn for_this_machine() -> Self {
        match std::thread::available_parallelism() {
            Ok(cores) if cores.get() == 1 => Self::Inline,
            _ => Self::Thread,
        }
    }
}

/// The hands of a broker's shard.
pub(crate) struct BrokerHands {
    files: Arc<Files<OsDisk>>,
    reader: LogReader<OsDisk>,
    syncs: Syncs,
    flush: SyncSender<Job>,
    background: SyncSender<Job>,
    reads: SyncSender<Serve>,
    changes: SyncSender<String>,
    sent: Arc<Sent>,
}

/// The threads behind them. They end by themselves when the hands are dropped and what was handed out is done.
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl BrokerHands {
    /// With their threads, which post to `inbox`.
    pub(crate) fn new(
        files: Arc<Files<OsDisk>>,
        reader: LogReader<OsDisk>,
        settings: Settings,
        inbox: &Inbox<Done>,
    ) -> io::Result<(Self, Workers)> {
        let (flush, flushes) = sync_channel(LANE);
        let (background, chores) = sync_channel(LANE);
        let (reads, asked) = sync_channel(READS);
        let (changes, configuration) = configuration(settings, inbox.clone(), |settings, text| {
            Done::Configured(Box::new(config::configure_broker(settings, text)))
        })?;
        let sent = Arc::new(Sent::default());
        let threads = vec![
            lane("flush", flushes, Arc::clone(&files), inbox.clone())?,
            lane("background", chores, Arc::clone(&files), inbox.clone())?,
            read("read", asked, reader.clone(), Arc::clone(&sent), inbox.clone())?,
            configuration,
        ];
        let hands = Self { files, reader, syncs: Syncs::for_this_machine(), flush, background, reads, changes, sent };
        Ok((hands, Workers { threads }))
    }

    /// What has been read for consumers.
    pub(crate) fn sent(&self) -> &Arc<Sent> {
        &self.sent
    }

    fn job(&self, job: Job) -> Option<Word<Done>> {
        let (here, lane) = match job.lane() {
            Lane::Flush => (job.is_quick() || self.syncs == Syncs::Inline, &self.flush),
            Lane::Background => (false, &self.background),
        };
        if here {
            return Some(Word::Done(job.run(&self.files).into()));
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
        match self.reads.try_send(serve) {
            Ok(()) => None,
            Err(TrySendError::Full(serve)) => {
                let remark = format!("{READS} reads of old messages wait for the disk already");
                Some(Word::Reply { to: serve.to, response: Response::refuse(ResponseCode::SystemBusy, remark) })
            }
            Err(TrySendError::Disconnected(_)) => panic!("the reader's thread lives as long as its hands"),
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

fn lane(name: &str, jobs: Receiver<Job>, files: Arc<Files<OsDisk>>, inbox: Inbox<Done>) -> io::Result<JoinHandle<()>> {
    spawn(name, move || {
        for job in jobs {
            inbox.post(Word::Done(job.run(&files).into()));
        }
    })
}

fn read(
    name: &str,
    asked: Receiver<Serve>,
    reader: LogReader<OsDisk>,
    sent: Arc<Sent>,
    inbox: Inbox<Done>,
) -> io::Result<JoinHandle<()>> {
    spawn(name, move || {
        for serve in asked {
            let read = reader.serve(&serve.plan);
            sent.count(&serve, &read);
            let response = serve.response(read);
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

/// A thread with a small stack and a name.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(run)
}
