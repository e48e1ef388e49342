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
            return connectable(settings, key, address);
        }
    }
    let mut tried = Vec::new();
    for server in name_servers {
        match way_to(server) {
            Ok(ip) => return Ok(towards(settings, ip, port)),
            Err(error) => tried.push(format!("{server}: {error}")),
        }
    }
    if !tried.is_empty() {
        let title = "no name server can be reached, so the address for clients is unknown";
        let why = "without brokerIP1 the broker advertises the address by which it reaches the name server";
        let remedy = "set brokerIP1 to the address that clients reach this machine by, or correct namesrvAddr";
        return Err(Failure::new(ExitCode::Unreachable, Problem::new(title, tried.join("\n"), why, remedy)));
    }
    Ok(local(settings, port))
}

/// The same as far as it can be told without asking anybody for the address of a name; the rest is left to the start.
pub(super) fn expected(settings: &mut Settings, name_servers: &[String], port: u16) -> Result<SocketAddr, Failure> {
    let later = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    for key in ["brokerIP1", "advertisedAddress"] {
        if let Some(text) = settings.given(key) {
            let literal = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, port)));
            return literal.map_or(Ok(later), |address| connectable(settings, key, address));
        }
    }
    if name_servers.is_empty() {
        return Ok(local(settings, port));
    }
    let mut literals = name_servers.iter().filter(|server| server.parse::<SocketAddr>().is_ok());
    if let Some(ip) = literals.find_map(|server| way_to(server).ok()) {
        return Ok(towards(settings, ip, port));
    }
    settings.derive(
        "advertisedAddress",
        "(at the start)".to_owned(),
        "the address by which the name server is reached then",
    );
    Ok(later)
}

fn connectable(settings: &Settings, key: &str, address: SocketAddr) -> Result<SocketAddr, Failure> {
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        let why = "clients are told to connect to it, and nobody can";
        return Err(settings.refusal(key, why, "give the address that clients reach this machine by"));
    }
    Ok(address)
}

fn towards(settings: &mut Settings, ip: IpAddr, port: u16) -> SocketAddr {
    settings.derive("advertisedAddress", ip.to_string(), "the address by which the name server is reached");
    SocketAddr::new(ip, port)
}

fn local(settings: &mut Settings, port: u16) -> SocketAddr {
    let ip = Ipv4Addr::LOCALHOST;
    settings.derive("advertisedAddress", ip.to_string(), "there is no name server, so clients are on this machine");
    SocketAddr::from((ip, port))
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
