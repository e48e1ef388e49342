//! The threads that carry out a broker's work: one a lane of jobs, one that reads what is not in memory.

use crate::failure::Failure;
use keepmq_broker::{Serve, Task};
use keepmq_disk::OsDisk;
use keepmq_net::{Hands, Inbox, Word};
use keepmq_protocol::seam::Core;
use keepmq_store::{Disk, Files, Job, JobDone, Lane, LogReader, Store};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// A lane runs one job at a time; the core waits for its end before it emits the next.
const JOBS: usize = 2;
/// Reads that may wait; a pull that waits longer than its client is answered all the same.
const READS: usize = 1024;
/// None of these threads recurses or keeps anything large on its stack.
pub(crate) const STACK: usize = 256 << 10;

/// The broker's hands. Its threads end when it is dropped.
pub(crate) struct BrokerHands<D: Disk> {
    files: Arc<Files<D>>,
    reader: LogReader<D>,
    flush: SyncSender<Job>,
    background: SyncSender<Job>,
    reads: SyncSender<Serve>,
}

impl BrokerHands<OsDisk> {
    /// Starts the threads; what they have done they post to `inbox`.
    pub(crate) fn start(store: &Store<OsDisk>, inbox: &Inbox<JobDone>) -> Result<Self, Failure> {
        let files = store.files();
        let lane = |name: &str| {
            let (files, inbox) = (Arc::clone(&files), inbox.clone());
            start(name, JOBS, move |jobs: Receiver<Job>| {
                for job in jobs {
                    inbox.post(Word::Done(job.run(&files)));
                }
            })
        };
        let (reader, inbox) = (store.reader(), inbox.clone());
        let reads = {
            let reader = reader.clone();
            start("read", READS, move |serves: Receiver<Serve>| {
                for serve in serves {
                    let response = serve.response(reader.serve(&serve.plan));
                    inbox.post(Word::Reply { to: serve.to, response });
                }
            })?
        };
        Ok(Self { flush: lane("flush")?, background: lane("background")?, files, reader, reads })
    }
}

fn start<T: Send + 'static>(
    name: &str,
    waiting: usize,
    work: impl FnOnce(Receiver<T>) + Send + 'static,
) -> Result<SyncSender<T>, Failure> {
    let (send, receive) = sync_channel(waiting);
    spawn(name, move || work(receive))?;
    Ok(send)
}

/// A thread with a small stack. It ends with the work it is given.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Failure> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|error| Failure::io(format!("the thread {name:?} cannot be started"), &error, "raise the limit of threads"))
}

impl<C> Hands<C> for BrokerHands<OsDisk>
where
    C: Core<Work = Task, Done = JobDone>,
{
    fn work(&mut self, work: Task) -> Option<Word<JobDone>> {
        match work {
            // A plain write is cheaper than handing it over.
            Task::Job(job) if job.is_quick() => Some(Word::Done(job.run(&self.files))),
            Task::Job(job) => {
                let lane = match job.lane() {
                    Lane::Flush => &self.flush,
                    Lane::Background => &self.background,
                };
                lane.send(job).expect("a lane's thread lives as long as its hands");
                None
            }
            Task::Serve(serve) => match self.reader.try_serve(&serve.plan) {
                Some(read) => Some(Word::Reply { to: serve.to, response: serve.response(read) }),
                None => {
                    self.reads.send(serve).expect("the reading thread lives as long as its hands");
                    None
                }
            },
        }
    }
}

