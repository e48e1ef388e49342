use crate::crew::{Crew, HEAD};
use crate::dial::Dialled;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::{CallId, Conn};
use keepmq_protocol::{Request, Response};
use keepmq_world::Mono;
use mio::Waker;
use mio::net::TcpStream;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What comes to shards from other threads.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a reply is moved twice and read once; a box would be one more allocation for each"
)]
pub enum Word<D> {
    /// The core's own work has ended.
    Done(D),
    /// A reader has answered.
    Reply {
        /// Whom.
        to: Caller,
        /// What.
        response: Response,
    },
    /// Free bytes on the store's disk.
    Space {
        /// How many.
        free: u64,
    },
    /// Drain, then end. The second one: end at once, after what the core still must do.
    Stop,
}

/// A word, a connection that was made for the shard, or what another shard was told to do and this one must.
#[derive(Debug)]
pub(crate) enum Note<D> {
    Word(Word<D>),
    Push { conn: Conn, request: Request<'static> },
    Close { conn: Conn },
    Call(Box<Asked>),
    Tell { peer: String, request: Request<'static> },
    Accepted { stream: TcpStream, peer: SocketAddr },
    Dialled(Dialled),
}

/// A call that a core makes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) call: CallId,
    pub(crate) peer: String,
    pub(crate) request: Request<'static>,
    pub(crate) until: Mono,
}

/// Posts words to the shards of a core, from any thread: a reply to the shard that owns the connection, everything else to the
/// first. A shard is woken once for all that waits.
///
/// It never blocks and has no bound of its own: a word answers a piece of work, and how much work is out is the core's to limit.
pub struct Inbox<D> {
    crew: Arc<Crew<D>>,
}

impl<D> Clone for Inbox<D> {
    fn clone(&self) -> Self {
        Self { crew: Arc::clone(&self.crew) }
    }
}

impl<D> Inbox<D> {
    pub(crate) fn new(crew: Arc<Crew<D>>) -> Self {
        Self { crew }
    }

    /// Posts one. A word to a shard that has ended goes nowhere.
    pub fn post(&self, word: Word<D>) {
        let shard = match &word {
            Word::Reply { to, .. } => self.crew.shard_of(to.conn),
            Word::Done(_) | Word::Space { .. } | Word::Stop => HEAD,
        };
        self.crew.put(shard, Note::Word(word));
    }

    /// Makes every shard turn.
    pub fn nudge(&self) {
        self.crew.wake_all();
    }

    /// How often each shard has turned.
    pub fn turns(&self) -> Vec<u64> {
        self.crew.turns()
    }
}

/// Where one shard finds its notes. Cache lines of its own: all shards write here.
#[repr(align(64))]
pub(crate) struct Post<D> {
    state: Mutex<State<D>>,
    waker: Waker,
    turns: AtomicU64,
}

struct State<D> {
    waiting: Vec<Note<D>>,
    /// The shard has ended: there is nobody to read what is posted.
    ended: bool,
}

impl<D> Post<D> {
    pub(crate) fn new(waker: Waker) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), ended: false });
        Self { state, waker, turns: AtomicU64::new(0) }
    }

    /// Puts one there. Whether the shard must be woken for it.
    #[must_use]
    pub(crate) fn put(&self, note: Note<D>) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        let first = state.waiting.is_empty();
        state.waiting.push(note);
        first
    }

    /// Puts several there, in their order; they are gone from `notes`. Whether the shard must be woken for them.
    #[must_use]
    pub(crate) fn append(&self, notes: &mut Vec<Note<D>>) -> bool {
        let mut state = self.lock();
        if state.ended {
            notes.clear();
        }
        let first = state.waiting.is_empty() && !notes.is_empty();
        state.waiting.append(notes);
        first
    }

    /// Moves all that wait into `into`, in the order in which they were posted.
    pub(crate) fn take(&self, into: &mut Vec<Note<D>>) {
        into.append(&mut self.lock().waiting);
    }

    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            // The shard still finds what waits when it next turns, which it does every few seconds.
            tracing::error!(%error, "a shard could not be woken");
        }
    }

    /// Nothing is taken any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.waiting.clear();
    }

    /// The shard has turned once more. Only the shard itself says so.
    pub(crate) fn turned(&self) {
        self.turns.store(self.turns() + 1, Ordering::Relaxed);
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().expect("nobody panics while holding a post")
    }
}
