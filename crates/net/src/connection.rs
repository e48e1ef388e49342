//! Bytes to and from one peer.

use crate::outgoing::Outgoing;
use keepmq_protocol::seam::Conn;
use keepmq_world::Mono;
use mio::net::TcpStream;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

/// An emptied buffer up to this size is kept for the next frames of a busy connection.
const KEPT: usize = 64 << 10;
/// What an idle connection may keep.
const KEPT_IDLE: usize = 1 << 10;

/// Reads at most, when parting from a peer that goes on talking.
const PARTING: usize = 16;

/// One peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) conn: Conn,
    pub(crate) peer: SocketAddr,
    /// The name under which we dialled it; `None`: it came to us.
    pub(crate) dialled: Option<Arc<str>>,
    /// The core has heard of it.
    pub(crate) announced: bool,
    stream: TcpStream,
    /// Received and not yet consumed.
    pub(crate) incoming: Vec<u8>,
    pub(crate) out: Outgoing,
    /// There may be something to read: told by the poll, until a read comes back short.
    pub(crate) readable: bool,
    /// The poll has told of an end: a short read is no reason to stop before it is found.
    pub(crate) hangup: bool,
    /// It stands in the list of connections to read.
    pub(crate) queued: bool,
    /// It stands in the list of connections to write.
    pub(crate) dirty: bool,
    /// More waits for it than may: it gets nothing more and is cut off.
    pub(crate) choked: bool,
    /// The core wants it closed.
    pub(crate) closing: bool,
    /// When it last sent something.
    pub(crate) heard: Mono,
    /// When it last took something.
    pub(crate) said: Mono,
}

impl Connection {
    pub(crate) fn new(conn: Conn, stream: TcpStream, peer: SocketAddr, dialled: Option<Arc<str>>, now: Mono) -> Self {
        Self {
            conn,
            peer,
            announced: dialled.is_none(),
            dialled,
            stream,
            incoming: Vec::new(),
            out: Outgoing::default(),
            readable: false,
            hangup: false,
            queued: false,
            dirty: false,
            choked: false,
            closing: false,
            heard: now,
            said: now,
        }
    }

    /// For the poll.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads what is there, about `budget` bytes at most. Answers how much it was, and why no more will come if that is so.
    pub(crate) fn read(&mut self, scratch: &mut [u8], budget: usize, now: Mono) -> (usize, Option<String>) {
        let mut total = 0;
        while self.readable && total < budget {
            match self.stream.read(scratch) {
                Ok(0) => {
                    self.readable = false;
                    let why = match self.incoming.len() {
                        0 => "the peer closed it".to_owned(),
                        rest => format!("the peer closed it, {rest} bytes behind the last whole frame or before"),
                    };
                    return (total, Some(why));
                }
                Ok(read) => {
                    self.incoming.extend_from_slice(&scratch[..read]);
                    self.heard = now;
                    total += read;
                    // Edge-triggered: what comes after a short read is told anew.
                    self.readable = read == scratch.len() || self.hangup;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    return (total, Some(format!("reading from it failed: {error}")));
                }
            }
        }
        (total, None)
    }

    /// Writes what it takes; or why it takes nothing more.
    pub(crate) fn write(&mut self, now: Mono) -> Result<(), String> {
        match self.out.write_to(&mut self.stream) {
            Ok(0) => Ok(()),
            Ok(_) => {
                self.said = now;
                Ok(())
            }
            Err(error) => Err(format!("writing to it failed: {error}")),
        }
    }

    /// Forgets the first `used` received bytes, and the memory that the others do not need.
    pub(crate) fn consume(&mut self, used: usize) {
        let rest = self.incoming.len() - used;
        if rest == 0 {
            self.incoming.clear();
            if self.incoming.capacity() > KEPT {
                self.incoming = Vec::new();
            }
        } else if self.incoming.capacity() > KEPT_IDLE && rest < self.incoming.capacity() / 4 {
            self.incoming = self.incoming[used..].to_vec();
        } else if used > 0 {
            self.incoming.drain(..used);
        }
    }

    /// Gives memory back that nothing waits in.
    pub(crate) fn release(&mut self) {
        if self.incoming.is_empty() && self.incoming.capacity() > KEPT_IDLE {
            self.incoming = Vec::new();
        }
        self.out.release();
    }

    /// When it last gave a sign of life.
    pub(crate) fn alive(&self) -> Mono {
        self.heard.max(self.said)
    }

    /// Says goodbye: our side has nothing more to say, and what the peer had on its way is read so that the system does not
    /// answer it with a reset, which would destroy replies that the peer has not read yet.
    pub(crate) fn part(&mut self, scratch: &mut [u8]) {
        // It may be gone already; then there is nothing to part from.
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            let mut left = PARTING;
            while left > 0 && self.stream.read(scratch).is_ok_and(|read| read > 0) {
                left -= 1;
            }
        }
    }
}
