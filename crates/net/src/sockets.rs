use crate::calls::UNANSWERED;
use crate::connection::Connection;
use crate::connections::Connections;
use crate::crowd::Crowd;
use crate::incoming::{Cut, Touched};
use crate::listener::Listeners;
use crate::seldom::Seldom;
use crate::shards::NetLimits;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{Request, Response};
use keepmq_world::Mono;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Tokens of the poll: the waker, then the listeners, then the connections by slot.
pub(crate) const WAKER: Token = Token(0);
const DOORS: usize = 1;
const DOORS_MAX: usize = 15;
const SLOTS: usize = DOORS + DOORS_MAX;

/// Bytes that one turn reads from all connections; what is left waits for the next turn, in the order in which it came. A turn
/// is how long everybody waits for everybody else, several times from question to answer.
const TURN_BYTES: usize = 1 << 20;
/// Each connection may have its part of them, within these bounds: the more want something, the less at a time.
const CONNECTION_BYTES: RangeInclusive<usize> = 16 << 10..=256 << 10;
/// When much is owed to all together, each may have this part of what it otherwise may.
const SCARCE: usize = 32;
/// Bytes of one read.
const SCRATCH: usize = 64 << 10;
/// Connections that one turn accepts.
const ACCEPTS: usize = 64;
/// Longest time between two looks at idle connections.
const SCAN: Duration = Duration::from_secs(5);

/// The sockets of a shard: who is ready, who is owed a write, who has come and gone. Knows nothing of cores.
pub(crate) struct Sockets {
    limits: NetLimits,
    crowd: Arc<Crowd>,
    /// Which shard of the crowd this is.
    shard: usize,
    poll: Poll,
    events: Events,
    listeners: Listeners,
    pub(crate) connections: Connections,
    /// Slots to read, in turn. May name slots that have been emptied or refilled since: a connection's `queued` decides.
    ready: VecDeque<usize>,
    /// Slots to write; `dirty` decides.
    dirty: Vec<usize>,
    scan_at: Mono,
    scratch: Box<[u8]>,
    /// Who has connected, since it was last asked for.
    pub(crate) opened: Vec<(Conn, SocketAddr)>,
    /// Which connections have ended, since it was last asked for.
    pub(crate) gone: Vec<Gone>,
    /// Who has connected and belongs to another shard.
    pub(crate) elsewhere: Vec<(usize, TcpStream, SocketAddr)>,
    full: Seldom,
    cut_off: Seldom,
}

/// A connection that has ended.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) conn: Conn,
    /// The name under which we dialled it.
    pub(crate) dialled: Option<Arc<str>>,
    /// The core has heard of it.
    pub(crate) announced: bool,
    pub(crate) why: String,
}

impl Gone {
    pub(crate) fn new(connection: &Connection, why: &str) -> Self {
        let Connection { conn, peer, dialled, announced, .. } = connection;
        tracing::debug!(?conn, %peer, why, "a connection has ended");
        Self { conn: *conn, dialled: dialled.clone(), announced: *announced, why: why.to_owned() }
    }
}

impl Sockets {
    /// Of the shard with this index; `first` is the number of the first one.
    pub(crate) fn new(limits: NetLimits, first: u64, shard: usize, crowd: Arc<Crowd>) -> io::Result<Self> {
        Ok(Self {
            limits,
            crowd,
            shard,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            listeners: Listeners::default(),
            connections: Connections::new(first + shard as u64),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            scan_at: Mono(0),
            scratch: vec![0; SCRATCH].into(),
            opened: Vec::new(),
            gone: Vec::new(),
            elsewhere: Vec::new(),
            full: Seldom::default(),
            cut_off: Seldom::default(),
        })
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Largest frame.
    pub(crate) fn frame_max(&self) -> usize {
        self.limits.frame_bytes
    }

    pub(crate) fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let index = self.listeners.len();
        assert!(index < DOORS_MAX, "a shard has room for {DOORS_MAX} listeners");
        let mut listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        self.poll.registry().register(&mut listener, Token(DOORS + index), Interest::READABLE)?;
        self.listeners.push(listener);
        tracing::info!(address = %bound, "listening");
        Ok(bound)
    }

    /// Nobody is accepted any more.
    pub(crate) fn stop_listening(&mut self) {
        self.listeners.close();
    }

    /// Connections of all shards.
    pub(crate) fn everybodys(&self) -> usize {
        self.crowd.connections()
    }

    /// Whether a turn would find something to do without waiting.
    pub(crate) fn is_busy(&self) -> bool {
        !(self.ready.is_empty() && self.dirty.is_empty() && self.opened.is_empty() && self.gone.is_empty())
            || self.listeners.is_busy()
    }

    /// Whether more has come than a turn reads.
    pub(crate) fn has_unread(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When to turn at the latest.
    pub(crate) fn deadline(&self) -> Mono {
        self.listeners.deadline().map_or(self.scan_at, |again| again.min(self.scan_at))
    }

    /// Waits until a socket is ready, somebody wakes the poll, or `timeout` is over; notes who is ready.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            let slot = match event.token() {
                WAKER => continue,
                Token(door) if door < SLOTS => {
                    self.listeners.knock(door - DOORS);
                    continue;
                }
                Token(token) => token - SLOTS,
            };
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            let ends = event.is_read_closed() || event.is_write_closed() || event.is_error();
            if event.is_readable() || ends {
                connection.readable = true;
                connection.hangup |= ends;
                enqueue(connection, slot, &mut self.ready);
            }
            if (event.is_writable() || ends) && connection.out.unsent() > 0 {
                soil(connection, slot, &mut self.dirty);
            }
        }
        Ok(())
    }

    pub(crate) fn accept(&mut self, now: Mono) {
        for _ in 0..ACCEPTS {
            let Some((stream, peer)) = self.listeners.accept(now) else { return };
            if self.crowd.connections() >= self.limits.connections {
                if let Some(others) = self.full.speak(now) {
                    let limit = self.limits.connections;
                    tracing::warn!(%peer, limit, others, "refusing a connection: there are as many as may be");
                }
                continue;
            }
            let shard = self.crowd.emptiest();
            // Now, not when that shard has time for it: else all who come at once would go to the same.
            self.crowd.comes(shard);
            if shard == self.shard {
                self.welcome(stream, peer, now);
            } else {
                self.elsewhere.push((shard, stream, peer));
            }
        }
    }

    /// Takes in somebody who has connected, and is counted already.
    pub(crate) fn welcome(&mut self, stream: TcpStream, peer: SocketAddr, now: Mono) {
        match self.admit(stream, peer, None, now) {
            Ok(conn) => {
                tracing::debug!(?conn, %peer, "a peer has connected");
                self.opened.push((conn, peer));
            }
            Err(error) => {
                self.crowd.goes(self.shard);
                tracing::warn!(%peer, %error, "a connection cannot be used");
            }
        }
    }

    /// Takes in a connection that we made.
    pub(crate) fn dialled(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        peer: Arc<str>,
        now: Mono,
    ) -> io::Result<Conn> {
        let conn = self.admit(stream, address, Some(peer), now)?;
        self.crowd.comes(self.shard);
        Ok(conn)
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, dialled: Option<Arc<str>>, now: Mono) -> io::Result<Conn> {
        stream.set_nodelay(true)?;
        let full = || io::Error::new(io::ErrorKind::QuotaExceeded, "the table of connections is full");
        let made = self.connections.insert(|conn| Connection::new(conn, stream, peer, dialled, now));
        let slot = made.ok_or_else(full)?;
        let connection = self.connections.at_mut(slot).expect("it was just put there");
        let conn = connection.conn;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(connection.stream(), Token(SLOTS + slot), interest) {
            self.connections.remove(slot);
            return Err(error);
        }
        Ok(conn)
    }

    /// Reads the connections that are ready, within the budgets.
    pub(crate) fn read(&mut self, now: Mono) -> Vec<Touched> {
        let mut touched = Vec::with_capacity(self.ready.len());
        let mut left = TURN_BYTES;
        let part = (TURN_BYTES / self.ready.len().max(1)).clamp(*CONNECTION_BYTES.start(), *CONNECTION_BYTES.end());
        let patience = self.patience();
        let mut unfinished = Vec::new();
        for _ in 0..self.ready.len() {
            if left == 0 {
                break;
            }
            let slot = self.ready.pop_front().expect("as many as were counted");
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            if !std::mem::take(&mut connection.queued) {
                continue;
            }
            // A peer that does not take its answers is not asked for more questions; `write` takes it up again.
            if connection.out.unsent() > patience {
                continue;
            }
            let (read, end) = connection.read(&mut self.scratch[..part.min(SCRATCH)], part.min(left), now);
            left = left.saturating_sub(read);
            if connection.readable && end.is_none() {
                unfinished.push(slot);
            }
            if read > 0 || end.is_some() {
                touched.push(Touched { slot, end });
            }
        }
        // Not before: its slot may stand in the list a second time, for a connection that is gone, and what is read twice in a
        // turn would be handled twice.
        for slot in unfinished {
            let connection = self.connections.at_mut(slot).expect("it was read a moment ago");
            enqueue(connection, slot, &mut self.ready);
        }
        touched
    }

    /// Forgets what was dealt with, and the connections that have ended with it. Answers the shard that must make room, if it
    /// is another one.
    pub(crate) fn settle(&mut self, cuts: Vec<Cut>, now: Mono) -> Option<usize> {
        for cut in cuts {
            if cut.end.is_some() {
                self.remove(cut.slot);
                continue;
            }
            let connection = self.connections.at_mut(cut.slot).expect("a connection that was just read is there");
            connection.announced |= cut.asked;
            connection.consume(cut.used);
            self.connections.weigh(cut.slot);
        }
        self.weighed();
        if self.crowd.held() <= self.limits.unread_bytes { None } else { self.make_room(now) }
    }

    fn make_room(&mut self, now: Mono) -> Option<usize> {
        // Buffers that are only kept for later go first.
        for slot in self.connections.indexes() {
            if let Some(connection) = self.connections.at_mut(slot) {
                connection.release();
                self.connections.weigh(slot);
            }
        }
        let crowd = Arc::clone(&self.crowd);
        let _alone = crowd.room();
        self.weighed();
        while crowd.held() > self.limits.unread_bytes {
            let fullest = crowd.fullest();
            if fullest != self.shard {
                return Some(fullest);
            }
            let slot = self.connections.heaviest()?;
            let connection = self.connections.at(slot).expect("what holds something is there");
            if let Some(others) = self.cut_off.speak(now) {
                let (peer, held, limit) = (connection.peer, connection.incoming.len(), self.limits.unread_bytes);
                tracing::warn!(%peer, held, limit, others, "closing the largest of too many incomplete frames");
            }
            self.close(slot, "there was no room for its incomplete frame");
            self.weighed();
        }
        None
    }

    /// Tells the crowd what this shard holds.
    fn weighed(&self) {
        self.crowd.holds(self.shard, self.connections.held());
    }

    /// Puts an answer where the next write finds it.
    pub(crate) fn reply(&mut self, to: &Caller, response: &Response, now: Mono) {
        // Who asked may be gone: then the answer goes nowhere, as the core knows.
        if !to.oneway {
            self.queue(to.conn, now, |connection| connection.out.response(to, response));
        }
    }

    /// Puts a oneway request where the next write finds it.
    pub(crate) fn push(&mut self, conn: Conn, request: &Request<'_>, now: Mono) {
        self.queue(conn, now, |connection| connection.out.request(UNANSWERED, true, request));
    }

    /// Puts a request where the next write finds it; its answer comes under this number.
    pub(crate) fn ask(&mut self, conn: Conn, opaque: i32, request: &Request<'_>, now: Mono) {
        self.queue(conn, now, |connection| connection.out.request(opaque, false, request));
    }

    /// Puts a frame where the next write finds it.
    pub(crate) fn send(&mut self, conn: Conn, frame: &[u8], now: Mono) {
        self.queue(conn, now, |connection| connection.out.frame(frame));
    }

    fn queue(&mut self, conn: Conn, now: Mono, put: impl FnOnce(&mut Connection)) {
        if self.connections.owed() > self.most_owed() {
            self.make_way(now);
        }
        let most = self.limits.unsent_bytes.saturating_mul(2);
        if let Some((slot, connection)) = self.connections.find(conn)
            && has_room(connection, most, now)
        {
            put(connection);
            soil(connection, slot, &mut self.dirty);
            self.connections.owe(slot);
        }
    }

    /// Closes a connection, after what waits for it has been written as far as that goes at once.
    pub(crate) fn close_politely(&mut self, conn: Conn) {
        if let Some((slot, connection)) = self.connections.find(conn) {
            connection.closing = true;
            soil(connection, slot, &mut self.dirty);
        }
    }

    /// Closes a connection that has been silent since `sent`, though it was asked something.
    pub(crate) fn close_if_silent(&mut self, conn: Conn, sent: Mono) {
        if let Some((slot, connection)) = self.connections.find(conn)
            && connection.heard <= sent
            && !connection.readable
        {
            self.close(slot, "a call on it had no answer in time, and nothing else came either");
        }
    }

    /// One write for each connection that has something to send.
    pub(crate) fn write(&mut self, now: Mono) {
        let (limit, patience) = (self.limits.unsent_bytes, self.patience());
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            if !std::mem::take(&mut connection.dirty) {
                continue;
            }
            let written = connection.write(now);
            let unsent = connection.out.unsent();
            if let Err(why) = written {
                self.close(slot, &why);
            } else if connection.closing {
                self.close(slot, "the core closed it");
            } else if connection.choked || unsent > limit.saturating_mul(2) {
                if let Some(others) = self.cut_off.speak(now) {
                    let peer = connection.peer;
                    tracing::warn!(%peer, unsent, limit, others, "cutting off a peer that does not take its answers");
                }
                self.close(slot, "it did not take its answers");
            } else {
                if unsent <= patience && connection.readable {
                    enqueue(connection, slot, &mut self.ready);
                }
                self.connections.owe(slot);
            }
        }
        // Its memory, for the next turn; closing adds nothing to it.
        self.dirty = dirty;
        self.make_way(now);
    }

    /// While too much is owed to all together: cuts the slowest off, unless it takes most of it when it is asked once more.
    fn make_way(&mut self, now: Mono) {
        while self.connections.owed() > self.most_owed() {
            let Some(slot) = self.connections.slowest() else { return };
            let connection = self.connections.at_mut(slot).expect("what is owed something is there");
            let before = connection.out.unsent();
            if connection.write(now).is_ok() && connection.out.unsent() < before / 2 {
                self.connections.owe(slot);
                continue;
            }
            if let Some(others) = self.cut_off.speak(now) {
                let (peer, unsent, limit) = (connection.peer, connection.out.unsent(), self.limits.owed_bytes);
                tracing::warn!(%peer, unsent, limit, others, "cutting off the slowest of too many who do not take their answers");
            }
            self.close(slot, "too many did not take their answers, and it was the slowest");
        }
    }

    /// Unsent bytes of one shard's connections: its part of the process's.
    fn most_owed(&self) -> usize {
        self.limits.owed_bytes / self.crowd.shards()
    }

    /// Unsent bytes up to which a connection is read from.
    fn patience(&self) -> usize {
        let scarce = self.connections.owed() > self.most_owed() / 2;
        if scarce { self.limits.unsent_bytes / SCARCE } else { self.limits.unsent_bytes }
    }

    /// Now and then: closes connections that were idle for too long, and takes memory back from those that are quiet.
    pub(crate) fn scan(&mut self, now: Mono) {
        if now < self.scan_at {
            return;
        }
        let pause = (self.limits.idle / 4).clamp(Duration::from_millis(1), SCAN);
        self.scan_at = now + pause;
        for slot in self.connections.indexes() {
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            let quiet = now.since(connection.alive());
            // After a long standstill of this process there may be something from it that was not read yet.
            if quiet >= self.limits.idle && !connection.queued {
                self.close(slot, "it was idle");
            } else if quiet >= pause {
                connection.release();
                self.connections.weigh(slot);
            }
        }
        self.weighed();
    }

    /// The end: writes what is queued, as far as the peers take it until `end`. `clock` tells the time.
    pub(crate) fn part(&mut self, end: Mono, clock: impl Fn() -> Mono) -> io::Result<()> {
        self.listeners.close();
        loop {
            let now = clock();
            let mut waiting = 0;
            for slot in self.connections.indexes() {
                let Some(connection) = self.connections.at_mut(slot) else { continue };
                match connection.write(now) {
                    Ok(()) => waiting += usize::from(connection.out.unsent() > 0),
                    Err(why) => self.close(slot, &why),
                }
            }
            if waiting == 0 {
                break;
            }
            if now >= end {
                tracing::warn!(connections = waiting, "ending with answers that their peers did not take in time");
                break;
            }
            self.wait(end.since(now))?;
        }
        for slot in self.connections.indexes() {
            if let Some(connection) = self.connections.at_mut(slot) {
                connection.part(&mut self.scratch);
            }
        }
        Ok(())
    }

    fn close(&mut self, slot: usize, why: &str) {
        if let Some(connection) = self.remove(slot) {
            self.gone.push(Gone::new(&connection, why));
        }
    }

    fn remove(&mut self, slot: usize) -> Option<Box<Connection>> {
        let removed = self.connections.remove(slot)?;
        self.crowd.goes(self.shard);
        Some(removed)
    }
}

/// Puts a connection into the list of those to read.
fn enqueue(connection: &mut Connection, slot: usize, ready: &mut VecDeque<usize>) {
    if !std::mem::replace(&mut connection.queued, true) {
        ready.push_back(slot);
    }
}

/// Puts a connection into the list of those to write.
fn soil(connection: &mut Connection, slot: usize, dirty: &mut Vec<usize>) {
    if !std::mem::replace(&mut connection.dirty, true) {
        dirty.push(slot);
    }
}

/// Whether one more frame may wait for this peer. A turn may bring more for one peer than ought to wait, though the peer takes it
/// fast enough: so it is tried before anything is refused.
fn has_room(connection: &mut Connection, most: usize, now: Mono) -> bool {
    if connection.out.unsent() > most && !connection.choked {
        connection.choked = connection.write(now).is_err() || connection.out.unsent() > most;
    }
    !connection.choked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn listening() -> (Sockets, SocketAddr) {
        let limits = NetLimits {
            frame_bytes: 1 << 20,
            connections: 100,
            unsent_bytes: 1 << 20,
            owed_bytes: 1 << 30,
            unread_bytes: 1 << 30,
            idle: Duration::from_secs(60),
        };
        let mut sockets = Sockets::new(limits, Connections::reserve(1), 0, Arc::new(Crowd::new(1))).unwrap();
        let address = sockets.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        (sockets, address)
    }

    #[test]
    fn when_many_want_something_each_has_its_part_of_the_turn() {
        const MANY: usize = 32;
        const EACH: usize = 3 * TURN_BYTES / MANY;
        let (mut sockets, address) = listening();
        let mut peers: Vec<_> = (0..MANY).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for peer in &mut peers {
            peer.write_all(&[b'x'; EACH]).unwrap();
        }
        while sockets.ready.len() < MANY {
            sockets.wait(Duration::from_secs(10)).unwrap();
            sockets.accept(Mono(0));
        }
        let has = |sockets: &Sockets, slot| sockets.connections.at(slot).unwrap().incoming.len();
        for turn in 1.. {
            sockets.read(Mono(0));
            let most = (0..MANY).map(|slot| has(&sockets, slot)).max().unwrap();
            assert!(most <= turn * TURN_BYTES / MANY, "{most} bytes of one in {turn} turns");
            if (0..MANY).all(|slot| has(&sockets, slot) == EACH) {
                break;
            }
            sockets.wait(Duration::from_millis(1)).unwrap();
        }
    }

    #[test]
    fn a_connection_in_the_place_of_another_is_read_once_a_turn() {
        let (mut sockets, address) = listening();
        let mut peer = std::net::TcpStream::connect(address).unwrap();
        let writer = std::thread::spawn(move || while peer.write_all(&[b'x'; 64 << 10]).is_ok() {});
        let mut unfinished = 0;
        while unfinished < 20 {
            sockets.wait(Duration::from_secs(10)).unwrap();
            sockets.accept(Mono(0));
            // As it is left behind by a connection that was in this slot, and was closed before it was read.
            sockets.ready.push_front(0);
            let touched = sockets.read(Mono(0));
            assert!(touched.len() <= 1, "{touched:?}");
            unfinished += u32::from(sockets.connections.at(0).is_some_and(|connection| connection.queued));
            sockets.connections.at_mut(0).unwrap().incoming.clear();
        }
        drop(sockets);
        writer.join().unwrap();
    }
}
