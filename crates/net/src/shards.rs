use crate::connections::{Connections, SLOTS};
use crate::crew::{Crew, HEAD, SHARDS_MAX};
use crate::crowd::Crowd;
use crate::driver::Driver;
use crate::inbox::{Inbox, Word};
use crate::sockets::{Sockets, WAKER};
use crate::talk::Talk;
use keepmq_protocol::seam::{Core, Exit};
use mio::Waker;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What is too much, for all shards of a core together.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Connections, of both kinds. Those that we make ourselves count, but are never refused for it. A million at most.
    pub connections: usize,
    /// Unsent bytes of one connection: nothing more is read from it beyond this, and it is cut off at twice as much.
    /// More than the answers to all that one client may ask at once, or the client is cut off for asking.
    pub unsent_bytes: usize,
    /// Unsent bytes of all connections together. From half of it on, connections are read from only while a thirty-second of
    /// `unsent_bytes` waits for them; beyond it the one for which the most waits is cut off.
    pub owed_bytes: usize,
    /// Bytes of incomplete frames, of all connections together. Beyond it the connection that holds the most is closed, of the
    /// shard that holds the most.
    pub unread_bytes: usize,
    /// Nothing heard and nothing said for so long: closed (RocketMQ: 120 s).
    pub idle: std::time::Duration,
}

/// Carries out a core's own work. Each shard has hands of its own.
pub trait Hands<C: Core>: Send {
    /// Does it here when that takes no waiting, and gives the word that comes of it; else hands it to a thread that will post the word.
    fn work(&mut self, work: C::Work) -> Option<Word<C::Done>>;
}

/// Event loops with their connections, all for one core. The first of them accepts, and hands each connection to the shard that
/// has the fewest.
pub struct Shards<D> {
    crew: Arc<Crew<D>>,
    sockets: Vec<Sockets>,
}

impl<D: Send + 'static> Shards<D> {
    /// So many, without listeners yet.
    pub fn new(shards: usize, limits: NetLimits) -> io::Result<Self> {
        assert!((1..=SHARDS_MAX).contains(&shards), "a core has 1 to {SHARDS_MAX} shards, not {shards}");
        let most = limits.connections;
        assert!(most <= SLOTS, "a shard has room for {SLOTS} connections, not for {most}");
        let crowd = Arc::new(Crowd::new(shards));
        let first = Connections::reserve(shards);
        let sockets = (0..shards).map(|shard| Sockets::new(limits, first, shard, Arc::clone(&crowd)));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let wakers = sockets.iter().map(|sockets| Waker::new(sockets.registry(), WAKER));
        let crew = Arc::new(Crew::new(first, wakers.collect::<io::Result<_>>()?));
        Ok(Self { crew, sockets })
    }

    /// Listens; the answer is the address with the port that was really bound.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.sockets[HEAD].listen(address)
    }

    /// For other threads.
    pub fn inbox(&self) -> Inbox<D> {
        Inbox::new(Arc::clone(&self.crew))
    }

    /// Drives `core` until it emits `Exit`: the first shard on this thread, the others on threads of their own.
    pub fn run<C, H>(self, core: &Mutex<C>, hands: H) -> io::Result<Exit>
    where
        C: Core<Done = D> + Send,
        C::Work: Send,
        H: Hands<C> + Clone,
    {
        let Self { crew, sockets } = self;
        std::thread::scope(|scope| {
            let mut drivers = Vec::with_capacity(sockets.len());
            for (shard, sockets) in sockets.into_iter().enumerate() {
                drivers.push(Driver::new(sockets, Talk::new(Arc::clone(&crew), shard), hands.clone()));
            }
            // What hands hold open, a thread at the other end perhaps, goes with the last shard.
            drop(hands);
            let head = drivers.remove(HEAD);
            for (driver, shard) in drivers.into_iter().zip(1..) {
                let thread = std::thread::Builder::new().name(format!("shard-{shard}"));
                if let Err(error) = thread.spawn_scoped(scope, move || driver.run(core)) {
                    crew.end(Err(error));
                    // It was dropped with its connections, of which there are none yet.
                    crew.leave();
                }
            }
            head.run(core);
        });
        crew.outcome()
    }
}
