use keepmq_protocol::Response;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::{Core, Exit};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What is too much.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Connections, of both kinds.
    pub connections: usize,
    /// Unsent bytes of one connection: nothing more is read from it beyond this, and it is cut off at twice as much.
    pub unsent_bytes: usize,
    /// Bytes of incomplete frames, of all connections together.
    pub unread_bytes: usize,
    /// Nothing heard and nothing said for so long: closed (RocketMQ: 120 s).
    pub idle: std::time::Duration,
}

/// What comes to a shard from other threads.
#[derive(Debug)]
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

/// Posts words to a shard, from any thread. The shard is woken once for all words that wait.
pub struct Inbox<D> {
    words: std::marker::PhantomData<D>,
}

impl<D> Clone for Inbox<D> {
    fn clone(&self) -> Self {
        todo!()
    }
}

impl<D> Inbox<D> {
    /// Posts one.
    pub fn post(&self, word: Word<D>) {
        let _ = word;
        todo!()
    }
}

/// Carries out a core's own work.
pub trait Hands<C: Core>: Send {
    /// Does it here when that takes no waiting, and gives the word that comes of it; else hands it to a thread that will post the word.
    fn work(&mut self, work: C::Work) -> Option<Word<C::Done>>;
}

/// One event loop with its connections.
pub struct Shard<D> {
    inbox: Inbox<D>,
}

impl<D: Send + 'static> Shard<D> {
    /// Without listeners yet.
    pub fn new(limits: NetLimits) -> io::Result<Self> {
        let _ = limits;
        todo!()
    }

    /// Listens; the answer is the address with the port that was really bound.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let _ = address;
        todo!()
    }

    /// For other threads.
    pub fn inbox(&self) -> Inbox<D> {
        self.inbox.clone()
    }

    /// Drives `core` until it emits `Exit`.
    pub fn run<C: Core<Done = D>, H: Hands<C>>(self, core: &Arc<Mutex<C>>, hands: H) -> io::Result<Exit> {
        let _ = (core, hands);
        todo!()
    }
}
