//! A real broker on a file system that is really full: what is refused is refused for certain, nothing accepted is lost, and
//! everything goes on by itself when there is space.

use super::metrics::{Broker, ask, send};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of the file system: four segments of 1 MiB, and what a broker keeps beside them.
const BYTES: usize = 6 << 20;

/// A small file system in memory; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// `None`: this machine does not let us mount one.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("the folder can be made");
        let size = format!("size={BYTES},huge=never");
        let path = at.to_str().expect("its name is UTF-8");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "keepmq-test", path]).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all but so many bytes of what is free.
    fn fill(&self) {
        let mut bytes = 4 << 20;
        for nth in 0.. {
            match std::fs::write(self.0.join(format!("ballast-{nth}")), vec![1; bytes]) {
                Ok(()) => {}
                Err(_) if bytes > 4096 => bytes /= 2,
                Err(_) => return,
            }
        }
    }

    fn empty(&self) {
        for entry in std::fs::read_dir(&self.0).expect("it is mounted").flatten() {
            if entry.file_name().to_string_lossy().starts_with("ballast-") {
                std::fs::remove_file(entry.path()).expect("it is ours");
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: also when a test has failed, and the broker still holds its files.
        let gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} is left mounted", self.0.display());
        }
    }
}

fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes a timeout");
    stream
}

/// Sends until a send is refused because the disk is full; how many were accepted, and the refusal.
fn send_until_full(stream: &mut TcpStream) -> (u64, String) {
    let mut kept = 0;
    let began = Instant::now();
    loop {
        let answer = send(stream, &[7; 16 << 10]);
        match answer {
            answer if answer.contains("\"code\":0") => kept += 1,
            answer if answer.contains("\"code\":2,") => std::thread::sleep(Duration::from_millis(20)),
            answer if answer.contains("\"code\":14") => return (kept, answer),
            answer => panic!("neither accepted nor refused: {answer}"),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it is never full: {kept}");
    }
}

/// The end of the one queue that is sent to.
fn max_offset(stream: &mut TcpStream) -> u64 {
    let answer = ask(stream, 30, &[("topic", "orders"), ("queueId", "0")], b"");
    let (_, rest) = answer.split_once("\"offset\":\"").expect("an offset");
    rest.split('"').next().and_then(|digits| digits.parse().ok()).expect("digits")
}

#[test]
fn a_full_file_system_refuses_accepts_again_and_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("small")) else {
        println!(
            "skipped: a_full_file_system_refuses_accepts_again_and_lets_go: this user may not mount a file system"
        );
        return;
    };
    let broker = Broker::start_in(dir.path(), &small.0.join("store"));
    let mut stream = connect(&broker);
    send(&mut stream, b"first");
    small.fill();
    let (mut kept, refusal) = send_until_full(&mut stream);
    kept += 1;
    for part in ["the disk is full", "next segment", "bytes are free", small.0.to_str().unwrap(), "Make room"] {
        assert!(refusal.contains(part), "{part} in {refusal}");
    }
    assert_eq!(broker.get("/readyz").expect("it answers").0, 503);
    assert_eq!(max_offset(&mut stream), kept, "what was refused is not there, what was accepted is");

    small.empty();
    let began = Instant::now();
    while !send(&mut stream, b"again").contains("\"code\":0") {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not go on by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    kept += 1;
    assert_eq!(max_offset(&mut stream), kept);

    // Full again, and for good: it ends all the same.
    small.fill();
    kept += send_until_full(&mut stream).0;
    small.fill();
    let (status, took, said) = broker.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    small.empty();
    let again = Broker::start_in(dir.path(), &small.0.join("store"));
    assert_eq!(max_offset(&mut connect(&again)), kept, "{said}");
}
