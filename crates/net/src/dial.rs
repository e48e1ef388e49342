//! Connections that we make.

use crate::crew::{Crew, HEAD};
use crate::inbox::Note;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What connecting may take, over all addresses of a name.
const CONNECT: Duration = Duration::from_secs(3);

/// The end of an attempt to connect.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The peer, as it was named.
    pub(crate) peer: Arc<str>,
    /// A connected stream that does not block, or why there is none.
    pub(crate) outcome: Result<TcpStream, String>,
}

/// Connects to `peer` on a thread of its own, which ends by itself: looking a name up may block, and a shard must not.
pub(crate) fn start<D: Send + 'static>(peer: Arc<str>, crew: Arc<Crew<D>>) -> io::Result<()> {
    std::thread::Builder::new().name("keepmq-dial".to_owned()).spawn(move || {
        let outcome = dial(&peer);
        crew.put(HEAD, Note::Dialled(Dialled { peer, outcome }));
    })?;
    Ok(())
}

fn dial(peer: &str) -> Result<TcpStream, String> {
    let addresses = peer.to_socket_addrs().map_err(|error| format!("the address cannot be looked up: {error}"))?;
    let end = Instant::now() + CONNECT;
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        // Zero is not a timeout the system takes; the least bit of time then fails as a timeout.
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left).and_then(prepare) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
