//! What every client needs: a name, a thread, and a core that is driven on it.

use crate::error::StartError;
use keepmq_client_core::ClientConfig;
use keepmq_net::{Hands, Inbox, NetLimits, Shards, now};
use keepmq_protocol::frame::FRAME_MAX;
use keepmq_protocol::seam::Core;
use keepmq_world::Now;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

const LIMITS: NetLimits = NetLimits {
    frame_bytes: FRAME_MAX,
    connections: 10_000,
    // What one broker may owe us is bounded by what we ask; what we owe it, by the window of what is under way.
    unsent_bytes: 256 << 20,
    owed_bytes: 512 << 20,
    unread_bytes: 256 << 20,
    idle: Duration::from_secs(120),
};
/// Clients that this process has started.
static CLIENTS: AtomicU64 = AtomicU64::new(0);
/// The thread runs shallow code.
const STACK: usize = 512 << 10;

/// The configuration before anything about this machine is known.
pub(crate) fn blank() -> ClientConfig {
    ClientConfig::new(Vec::new(), String::new(), Vec::new(), 0, 0)
}

/// Fills in what is to be found out: who this client is, and where it is. The rest stays as the user has set it.
pub(crate) async fn complete(config: ClientConfig, name_servers: &str) -> Result<ClientConfig, StartError> {
    let bad = |why| StartError::NameServers { address: name_servers.to_owned(), why };
    let servers: Vec<String> =
        name_servers.split([';', ',']).map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned).collect();
    let first = servers.first().ok_or_else(|| bad("it is empty"))?.clone();
    for server in &servers {
        let (host, port) = server.rsplit_once(':').ok_or_else(|| bad("a port is missing"))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad("host or port is none"));
        }
    }
    // Names may have to be looked up, which blocks.
    let runtime = Handle::try_current().map_err(|_| StartError::Runtime)?;
    let host = runtime.spawn_blocking(move || local_address(&first)).await;
    let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let seed = RandomState::new().hash_one(name_servers);
    let pid = std::process::id();
    // The wall clock tells lives of a process id apart, the seed processes that have the same one in containers of theirs, the
    // number the clients of one process.
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let client_id = format!("{host}@{pid}#{}{:04X}-{number}", now().wall, seed & 0xFFFF);
    let bytes = match host {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let client_id = if config.client_id.is_empty() { client_id } else { config.client_id };
    let pid = u16::try_from(pid & 0xFFFF).expect("16 bits");
    Ok(ClientConfig { name_servers: servers, client_id, host: bytes, pid, seed, ..config })
}

/// The address from which this machine reaches that one. No packet is sent for it.
fn local_address(peer: &str) -> IpAddr {
    let reached = |peer: SocketAddr| {
        let any: SocketAddr = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(peer).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let peers = peer.to_socket_addrs().into_iter().flatten();
    peers.into_iter().find_map(reached).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Drives a core on a thread of its own, which ends when the core says so; `at_end` is the last thing that it does. `hands` are
/// given the way to tell the core something. The answer ends when the thread has.
pub(crate) fn drive<C, H>(
    name: &str,
    core: impl FnOnce(Now) -> C,
    hands: impl FnOnce(Inbox<C::Done>) -> H,
    at_end: impl FnOnce() + Send + 'static,
) -> Result<(Inbox<C::Done>, oneshot::Receiver<()>), StartError>
where
    C: Core + Send + 'static,
    C::Work: Send,
    C::Done: Send + 'static,
    H: Hands<C> + Clone + Send + 'static,
{
    let shards = Shards::new(1, LIMITS)?;
    let inbox = shards.inbox();
    let hands = hands(inbox.clone());
    let core = Mutex::new(core(now()));
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        // Whoever waits must hear of the end, whatever it is.
        let outcome = catch_unwind(AssertUnwindSafe(|| shards.run(&core, hands)));
        at_end();
        // It says nothing: it ends.
        drop(ended);
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "a client has stopped: its thread could not go on"),
            Err(panic) => resume_unwind(panic),
        }
    })?;
    Ok((inbox, end))
}
