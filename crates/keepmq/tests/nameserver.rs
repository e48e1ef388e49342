//! A name server's key-value configuration, with the real binary and a disk: what was answered survives a kill.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn keepmq(data: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepmq"));
    command.args(["nameserver", "--listen", &address.to_string(), "--data"]).arg(data);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// A name server that is ready; killed when dropped.
struct NameServer {
    child: Child,
    /// Kept open: a process that logs into a closed pipe would fail.
    _log: BufReader<std::process::ChildStderr>,
}

impl NameServer {
    fn start(data: &Path, address: SocketAddr) -> Self {
        let mut child = keepmq(data, address).spawn().expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        let mut said = String::new();
        while !said.contains("ready: name server") {
            assert!(log.read_line(&mut said).expect("it speaks UTF-8") > 0, "it ended before it was ready: {said}");
        }
        Self { child, _log: log }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // SIGKILL: nothing is told to the process.
        self.child.kill().and_then(|()| self.child.wait()).expect("it runs until now");
    }
}

/// Frames as an old Java client sends them: header and body are length-prefixed, the header is JSON.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has a time limit");
        Self(stream)
    }

    fn send(&mut self, code: u32, opaque: u32, fields: &str) {
        let header = format!(
            r#"{{"code":{code},"extFields":{{{fields}}},"flag":0,"language":"JAVA","opaque":{opaque},"version":401}}"#
        );
        let len = u32::try_from(header.len()).expect("a short header");
        let frame = [&(len + 4).to_be_bytes()[..], &len.to_be_bytes(), header.as_bytes()].concat();
        self.0.write_all(&frame).expect("it reads");
    }

    fn put(&mut self, nth: u32) {
        self.send(100, nth, &format!(r#""namespace":"N","key":"k{nth}","value":"v{nth}""#));
    }

    /// The header of the next answer, as text.
    fn receive(&mut self) -> String {
        let mut number = [0; 4];
        self.0.read_exact(&mut number).expect("it answers");
        let mut frame = vec![0; u32::from_be_bytes(number) as usize];
        self.0.read_exact(&mut frame).expect("it answers");
        String::from_utf8(frame.split_off(4)).expect("a JSON header")
    }

    fn must_have(&mut self, nth: u32) {
        self.send(101, nth, &format!(r#""namespace":"N","key":"k{nth}""#));
        let answer = self.receive();
        assert!(answer.contains(&format!(r#""value":"v{nth}""#)), "k{nth} was answered for, and is gone: {answer}");
    }
}

/// Below the range that the kernel gives to clients, and beside the ports that the other tests take.
fn free_address() -> SocketAddr {
    let start = u16::try_from(std::process::id() % 400).expect("below 400");
    let mut ports = (0..400).map(|step| 13_004 + (start + step) % 400 * 40);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (Ipv4Addr::LOCALHOST, ports.find(free).expect("not every port is taken")).into()
}

#[test]
fn what_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("names");
    let address = free_address();
    let mut answered = Vec::new();
    for round in 0..5 {
        let server = NameServer::start(&data, address);
        let mut client = Client::connect(address);
        answered.iter().for_each(|nth| client.must_have(*nth));
        // Twenty at once; it is killed when one or a few of them are answered, while it saves the others.
        let sent = round * 100..round * 100 + 20;
        sent.clone().for_each(|nth| client.put(nth));
        for nth in sent.take(1 + 4 * round as usize) {
            let answer = client.receive();
            assert!(answer.contains(r#""code":0"#) && answer.contains(&format!(r#""opaque":{nth},"#)), "{answer}");
            answered.push(nth);
        }
        drop(server);
    }
    let server = NameServer::start(&data, address);
    let mut client = Client::connect(address);
    assert_eq!(answered.len(), 45);
    answered.iter().for_each(|nth| client.must_have(*nth));
    drop(server);

    let path = data.join("kvConfig.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    assert!(whole.starts_with(r#"{"configTable":{"N":{"k0":"v0""#), "RocketMQ reads it, too: {whole}");
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let Output { status, stderr, .. } = keepmq(&data, address).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(8), "{said}");
    for part in [path.to_str().unwrap(), "what  not JSON", "why ", "do "] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}
