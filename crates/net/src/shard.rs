use crate::connections::SLOTS;
use crate::driver::Driver;
use crate::inbox::{Inbox, Word};
use crate::sockets::{Sockets, WAKER};
use keepmq_protocol::seam::{Core, Exit};
use mio::Waker;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What is too much.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Connections, of both kinds. Those that we make ourselves count, but are never refused for it. A million at most.
    pub connections: usize,
    /// Unsent bytes of one connection: nothing more is read from it beyond this, and it is cut off at twice as much.
    /// More than the answers to all that one client may ask at once, or the client is cut off for asking.
    pub unsent_bytes: usize,
    /// Bytes of incomplete frames, of all connections together. Beyond it the connection that holds the most is closed.
    pub unread_bytes: usize,
    /// Nothing heard and nothing said for so long: closed (RocketMQ: 120 s).
    pub idle: std::time::Duration,
}

/// Carries out a core's own work.
pub trait Hands<C: Core>: Send {
    /// Does it here when that takes no waiting, and gives the word that comes of it; else hands it to a thread that will post the word.
    fn work(&mut self, work: C::Work) -> Option<Word<C::Done>>;
}

/// One event loop with its connections.
pub struct Shard<D> {
    sockets: Sockets,
    inbox: Inbox<D>,
}

impl<D: Send + 'static> Shard<D> {
    /// Without listeners yet.
    pub fn new(limits: NetLimits) -> io::Result<Self> {
        assert!(
            limits.connections <= SLOTS,
            "a shard has room for {SLOTS} connections, not for {}",
            limits.connections
        );
        let sockets = Sockets::new(limits)?;
        let inbox = Inbox::new(Waker::new(sockets.registry(), WAKER)?);
        Ok(Self { sockets, inbox })
    }

    /// Listens; the answer is the address with the port that was really bound.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.sockets.listen(address)
    }

    /// For other threads.
    pub fn inbox(&self) -> Inbox<D> {
        self.inbox.clone()
    }

    /// Drives `core` until it emits `Exit`.
    pub fn run<C: Core<Done = D>, H: Hands<C>>(self, core: &Arc<Mutex<C>>, hands: H) -> io::Result<Exit> {
        Driver::new(self.sockets, self.inbox, hands).run(core)
    }
}
