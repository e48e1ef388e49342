//! Under which address clients find this broker.

use super::Settings;
use crate::failure::{ExitCode, Failure, Problem};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

/// The address that is advertised, and in words where it was taken from. Never that of the first network card: a machine has
/// many, and the wrong one is RocketMQ's most repeated first failure.
pub(super) fn advertised(settings: &mut Settings, name_servers: &[String], port: u16) -> Result<SocketAddr, Failure> {
    for key in ["brokerIP1", "advertisedAddress"] {
        if let Some(text) = settings.given(key) {
            let address = resolve(text, port).map_err(|error| {
                settings.refusal(
                    key,
                    format!("it is no address that this machine knows: {error}"),
                    "give an IP address",
                )
            })?;
            if address.ip().is_unspecified() || address.ip().is_multicast() {
                let why = "clients are told to connect to it, and nobody can";
                return Err(settings.refusal(key, why, "give the address that clients reach this machine by"));
            }
            return Ok(address);
        }
    }
    let mut tried = Vec::new();
    for server in name_servers {
        match way_to(server) {
            Ok(ip) => {
                settings.derive("advertisedAddress", ip.to_string(), "the address by which the name server is reached");
                return Ok(SocketAddr::new(ip, port));
            }
            Err(error) => tried.push(format!("{server}: {error}")),
        }
    }
    if !tried.is_empty() {
        let title = "no name server can be reached, so the address for clients is unknown";
        let why = "without brokerIP1 the broker advertises the address by which it reaches the name server";
        let remedy = "set brokerIP1 to the address that clients reach this machine by, or correct namesrvAddr";
        return Err(Failure::new(ExitCode::Unreachable, Problem::new(title, tried.join("\n"), why, remedy)));
    }
    settings.derive(
        "advertisedAddress",
        Ipv4Addr::LOCALHOST.to_string(),
        "there is no name server, so clients are on this machine",
    );
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// A host, or `host:port`, which may be the port that a container publishes.
fn resolve(text: &str, port: u16) -> io::Result<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut found = if text.contains(':') { text.to_socket_addrs()? } else { (text, port).to_socket_addrs()? };
    found.next().ok_or_else(|| io::Error::other("the name has no address"))
}

/// The local address of the way to `server`. Nothing is sent: the kernel only chooses the way.
fn way_to(server: &str) -> io::Result<IpAddr> {
    let mut last = io::Error::other("the name has no address");
    for address in server.to_socket_addrs()? {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        match socket.connect(address).and_then(|()| socket.local_addr()) {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether it reads as `host:port`; an IPv6 address stands in brackets.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name =
        |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let is_v6 = |host: &str| host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some();
    !host.is_empty() && (is_name(host) || is_v6(host)) && port.parse().is_ok_and(|port: u16| port > 0)
}
