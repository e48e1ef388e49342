use crate::dial::Dialled;
use keepmq_protocol::Response;
use keepmq_protocol::frame::Caller;
use mio::Waker;
use std::sync::{Arc, Mutex, MutexGuard};

/// What comes to a shard from other threads.
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

/// A word, or a connection that was made for the shard.
#[derive(Debug)]
pub(crate) enum Note<D> {
    Word(Word<D>),
    Dialled(Dialled),
}

/// Posts words to a shard, from any thread. The shard is woken once for all words that wait.
///
/// It never blocks and has no bound of its own: a word answers a piece of work, and how much work is out is the core's to limit.
pub struct Inbox<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    state: Mutex<State<D>>,
    waker: Waker,
}

struct State<D> {
    waiting: Vec<Note<D>>,
    /// The shard has ended: there is nobody to read what is posted.
    ended: bool,
}

impl<D> Clone for Inbox<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<D> Inbox<D> {
    pub(crate) fn new(waker: Waker) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), ended: false });
        Self { shared: Arc::new(Shared { state, waker }) }
    }

    /// Posts one. A word to a shard that has ended goes nowhere.
    pub fn post(&self, word: Word<D>) {
        self.put(Note::Word(word));
    }

    pub(crate) fn put(&self, note: Note<D>) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let first = state.waiting.is_empty();
        state.waiting.push(note);
        drop(state);
        if first && let Err(error) = self.shared.waker.wake() {
            // The shard still finds the word when it next turns, which it does every few seconds.
            tracing::error!(%error, "a shard could not be woken");
        }
    }

    /// Moves all that wait into `into`, in the order in which they were posted.
    pub(crate) fn take(&self, into: &mut Vec<Note<D>>) {
        into.append(&mut self.lock().waiting);
    }

    /// Nothing is taken any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.shared.state.lock().expect("nobody panics while holding an inbox")
    }
}
