//! Connections that others make.

use keepmq_world::Mono;
use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long nothing is accepted after the system had no descriptor or memory for one more connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The listeners of a shard.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    doors: Vec<Door>,
    /// Resting until then.
    again: Option<Mono>,
}

#[derive(Debug)]
struct Door {
    listener: TcpListener,
    /// Somebody may stand there: told by the poll, until an accept finds nobody.
    ready: bool,
}

impl Listeners {
    pub(crate) fn len(&self) -> usize {
        self.doors.len()
    }

    pub(crate) fn push(&mut self, listener: TcpListener) {
        self.doors.push(Door { listener, ready: false });
    }

    /// The poll has told of somebody at the listener with this index. Nothing happens when it is closed already.
    pub(crate) fn knock(&mut self, index: usize) {
        if let Some(door) = self.doors.get_mut(index) {
            door.ready = true;
        }
    }

    /// The next connection that can be had without waiting.
    pub(crate) fn accept(&mut self, now: Mono) -> Option<(TcpStream, SocketAddr)> {
        if self.again.is_some_and(|again| now < again) {
            return None;
        }
        self.again = None;
        for door in &mut self.doors {
            while door.ready {
                match door.listener.accept() {
                    Ok(accepted) => return Some(accepted),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => door.ready = false,
                    // Whoever came has gone again; the next one may be there.
                    Err(error) if is_about_the_one(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, pause = ?BACK_OFF, "cannot accept for now; is the limit of open files too low?");
                        self.again = Some(now + BACK_OFF);
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Whether `accept` may find somebody now.
    pub(crate) fn is_busy(&self) -> bool {
        self.again.is_none() && self.doors.iter().any(|door| door.ready)
    }

    /// When accepting goes on.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.again
    }

    /// Nobody else is accepted; who connects from now on is refused by the system.
    pub(crate) fn close(&mut self) {
        self.doors.clear();
        self.again = None;
    }
}

/// Whether an accept failed for the one connection only. Linux passes on errors that are pending on the new socket.
fn is_about_the_one(error: &io::Error) -> bool {
    let one = [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| one.contains(&errno))
}
