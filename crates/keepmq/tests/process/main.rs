//! The real binary, from outside.

mod client;
mod metrics;
mod space;
mod store;

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

fn keepmq(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepmq"));
    command.args(words).stdin(Stdio::null()).env_remove("RUST_LOG").env_remove("NAMESRV_ADDR");
    command
}

fn ended(words: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = keepmq(words).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// `keepmq dev` until it says that it is ready; killed when dropped.
struct Dev {
    child: Child,
    said: String,
    lines: BufReader<ChildStdout>,
}

impl Dev {
    fn start(words: &[&str]) -> Self {
        let mut child = keepmq(words).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        while !said.contains("ready in") {
            assert!(lines.read_line(&mut said).expect("it speaks UTF-8") > 0, "it ended before it was ready: {said}");
        }
        Self { child, said, lines }
    }

    /// Ctrl-C; its end, and what else it said.
    fn interrupt(mut self) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill is installed").success());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("it speaks UTF-8");
        (self.child.wait().expect("it is our child"), rest)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Asked first: what it holds in a temporary folder would stay there for good.
        let asked = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let mut looks = if asked.is_ok_and(|status| status.success()) { 200 } else { 0 };
        while looks > 0 && matches!(self.child.try_wait(), Ok(None)) {
            looks -= 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        // It has ended already, unless the test failed; then there is nothing more to be said.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// A base with its ports free, and those of a second process twenty above. Below the range that the kernel gives to clients.
fn free_ports() -> u16 {
    // Tests of one process run at the same time.
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let start =
        u16::try_from(std::process::id() % 400).expect("below 400") + 50 * ASKED.fetch_add(1, Ordering::Relaxed);
    let bases = (0..400).map(|step| 13_000 + (start + step) % 400 * 40);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut bases = bases.filter(|base| [0, 8, 10, 20, 28, 30].iter().all(|above| free(base + above)));
    bases.next().expect("not every port is taken")
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("broker.conf");
    std::fs::write(&path, text).expect("the folder is there");
    path.to_str().expect("its name is UTF-8").to_owned()
}

#[test]
fn a_day_of_dev_and_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let base = free_ports();
    let (base, other) = (base.to_string(), (base + 20).to_string());
    let words = ["dev", "--data", data.to_str().unwrap(), "--port-base", &base];

    let first = Dev::start(&words);
    assert!(first.said.contains("SEND_OK in") && first.said.contains("pulled it back"), "{}", first.said);
    let (code, _, said) = ended(&["dev", "--data", words[2], "--port-base", &other]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("is in use") && said.contains(&first.child.id().to_string()), "{said}");
    let (status, rest) = first.interrupt();
    assert_eq!((status.code(), rest.as_str()), (Some(0), "stopped: everything that was accepted is on disk\n"));

    let second = Dev::start(&words);
    assert!(second.said.contains("recovered; nothing was sent"), "{}", second.said);
    assert_eq!(second.interrupt().0.code(), Some(0));
}

#[test]
fn the_help_has_the_verbs_that_there_are() {
    let (code, help, _) = ended(&["--help"]);
    assert_eq!(code, Some(0));
    let verbs: Vec<_> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .map_while(|line| line.split_whitespace().next())
        .collect();
    let client = ["tour", "send", "consume", "topic", "group", "bench", "store", "prove"];
    assert_eq!(verbs, [&["dev", "nameserver", "broker"][..], &client].concat());
    for verb in client {
        let (code, help, _) = ended(&[verb, "--help"]);
        assert!(code == Some(0) && help.contains(&format!("  keepmq {verb}")), "{verb} has no example: {help}");
    }
    assert_eq!(ended(&["migrate"]).0, Some(2));
    assert_eq!(ended(&["broker", "--log", "keepmq=loud", "-p"]).0, Some(2));
}

#[test]
fn a_configuration_is_printed_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "brokerName=broker-a\nflushDiskType=ASYNC_FLUSH\nstorePathRootDir=/nowhere\n");
    let (code, printed, said) = ended(&["broker", "-c", &good, "-n", "127.0.0.1:9876", "-p"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.contains("broker.conf:2") && printed.contains("127.0.0.1:9876"), "{printed}");

    let nobody = file(dir.path(), "");
    std::fs::write(&nobody, b"namesrvAddr=no.such.name.invalid:9876\nregionId=S\xFCd\n").unwrap();
    let (code, printed, said) = ended(&["broker", "-c", &nobody, "-p"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(printed.contains("(at the start)") && printed.contains("fastListenPort"), "{printed}");
    assert!(said.contains("read as ISO-8859-1"), "{said}");
    let names = file(dir.path(), "scanNotActiveBrokerInterval=1000\n");
    let (code, printed, said) = ended(&["nameserver", "-c", &names, "--listen", "127.0.0.1:9877", "-p"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.contains("broker.conf:1; RocketMQ's default: 5000") && printed.contains("9877"), "{printed}");

    let bad = file(dir.path(), "flushDiskTyp=SYNC_FLUSH\n");
    let (code, _, said) = ended(&["broker", "-c", &bad]);
    assert_eq!(code, Some(3), "{said}");
    for part in ["error: ", "broker.conf:1", "what ", "why ", "do ", "did you mean flushDiskType?"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}
