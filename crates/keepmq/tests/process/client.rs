//! The verbs that are clients: what they print, and what they end with.

use super::{Dev, ended, file, free_ports, keepmq};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `keepmq` with these name servers.
fn at(name_servers: &str, words: &str) -> (Option<i32>, String, String) {
    let words: Vec<&str> = words.split(' ').chain(["--namesrv", name_servers]).collect();
    ended(&words)
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended already, unless the test failed; then there is nothing more to be said.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().expect("kill is installed").success());
}

/// The shape that every failure has.
fn assert_told(said: &str, parts: &[&str]) {
    for part in ["error: ", "\n  what  ", "\n  why   ", "\n  do    "].iter().chain(parts) {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn a_message_goes_in_and_comes_out() {
    let base = free_ports();
    let _dev = Dev::start(&["dev", "--ephemeral", "--port-base", &base.to_string()]);
    // One of the two name servers is down: nobody notices.
    let both = &format!("127.0.0.1:1;127.0.0.1:{base}");

    let (code, said, _) = at(both, "topic create orders --queues 2");
    assert!(code == Some(0) && said.contains("created orders on broker-a"), "{said}");
    let (code, said, error) = at(both, "send orders hello --key 42 --tag created --property colour=red");
    assert!(code == Some(0) && said.starts_with("kept ") && said.contains("broker-a/q"), "{said}{error}");

    let mut child = keepmq(&["send", "orders", "-", "--lines", "-o", "json", "-n", both]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a\n\nb\n").unwrap();
    let out = child.wait_with_output().unwrap();
    let sent: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), sent.as_array().unwrap().len(), &sent[1]["status"]), (Some(0), 2, &"kept".into()));

    // To look changes nothing; who joins a group commits what was printed.
    for _ in 0..2 {
        let (code, said, _) = at(both, "consume orders --end --tag created -o ndjson");
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &found["body"], &found["properties"]["colour"]), (Some(0), &"hello".into(), &"red".into()));
    }
    let (code, said, told) = at(both, "consume orders -g billing --count 3");
    assert_eq!((code, said.lines().count(), told.as_str()), (Some(0), 3, "3 messages, committed for group billing\n"));
    let (code, said, _) = at(both, "group lag billing -o json");
    let lag: serde_json::Value = serde_json::from_str(&said).unwrap();
    let lag: i64 = lag.as_array().unwrap().iter().map(|queue| queue["lag"].as_i64().unwrap()).sum();
    assert_eq!((code, lag), (Some(0), 0));
    assert_eq!(at(both, "group list").1, "GROUP       BROKERS\nbilling     broker-a\nkeepmq-dev  broker-a\n");

    let (_, said, _) = at(both, "topic list -o ndjson");
    assert_eq!(said, "{\"topic\":\"demo\"}\n{\"topic\":\"orders\"}\n");
    assert_eq!(at(both, "topic delete orders").0, Some(0));
    let (code, _, said) = at(both, "topic describe orders");
    assert_eq!(code, Some(6), "{said}");
    assert_told(&said, &["there is no topic \"orders\"", "keepmq topic create orders"]);
}

#[test]
fn brokers_that_run_already_are_proved_without_kills_and_left_as_they_were() {
    let base = free_ports();
    let _dev = Dev::start(&["dev", "--ephemeral", "--port-base", &base.to_string()]);
    let at_dev = &format!("127.0.0.1:{base}");
    let before = at(at_dev, "topic list").1;
    let prove = |words: &str| {
        let words: Vec<_> = ["prove", "--remote", at_dev].into_iter().chain(words.split(' ')).collect();
        ended(&words)
    };
    let (code, said, error) = prove("--secs 1 --connections 4 --json");
    let told: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    assert_eq!(
        (code, &told["lost"], &told["clean"], &told["kills"]),
        (Some(0), &0.into(), &true.into(), &[0; 0][..].into())
    );
    assert!(told["acknowledged"].as_u64() > Some(0) && told["acknowledged"] == told["found"], "{said}");
    assert_eq!(at(at_dev, "topic list").1, before, "its topic has gone again");
    // What the broker of somebody else is must not be killed.
    assert_eq!(prove("--kills 3").0, Some(2));
}

#[test]
fn load_is_counted_from_when_it_was_due() {
    let base = free_ports();
    let _dev = Dev::start(&["dev", "--ephemeral", "--port-base", &base.to_string()]);
    let name_server = format!("127.0.0.1:{base}");
    for words in
        ["bench send --rate 200 --secs 1 --warm 0 --size 64 --json", "bench e2e --rate 200 --secs 1 --warm 0 --json"]
    {
        let (code, said, error) = at(&name_server, words);
        let figures: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
        assert_eq!((code, &figures["err"]), (Some(0), &0.into()), "{said}{error}");
        // Neither fewer nor more than asked for, also on a machine that has other things to do.
        let n = figures["n"].as_u64().unwrap();
        assert!((150..=200).contains(&n) && figures["p50_us"].as_u64() > Some(0), "{said}");
    }

    let words = ["bench", "send", "--secs", "60", "--warm", "0", "-n", &name_server];
    let bench = keepmq(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("messages are kept", || at(&name_server, "topic describe KeepmqBench").1.lines().count() == 5);
    std::thread::sleep(Duration::from_millis(300));
    signal(&bench, "-INT");
    let out = bench.wait_with_output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("; 0 refused, 0 unknown") && !said.starts_with("0 messages"), "{said}");
}

#[test]
fn what_cannot_be_is_told_with_a_way_out() {
    let nobody = "127.0.0.1:1;127.0.0.1:2";
    for words in ["topic list", "send orders x", "consume orders", "group list"] {
        let (code, _, said) = at(nobody, words);
        assert_eq!(code, Some(4), "{words}: {said}");
        assert_told(&said, &["no name server", "127.0.0.1:1: ", "127.0.0.1:2: Connection refused", "NAMESRV_ADDR"]);
    }
    for words in ["send a/b x", "send orders @/none x", "topic list -o xml", "topic create orders --timeout 3", "bench"]
    {
        assert_eq!(at(nobody, words).0, Some(2), "{words}");
    }
    assert_eq!(at(nobody, "send orders @/none").0, Some(6));
    let (code, _, said) = at("nowhere", "topic list");
    assert_eq!(code, Some(2), "{said}");
    assert_told(&said, &["\"nowhere\"", "a port is missing"]);
}

#[test]
fn a_broker_says_no_or_cannot_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let base = free_ports();
    let name_server = &format!("127.0.0.1:{base}");
    let port = base + 10;
    let store = dir.path().join("store");
    let conf = file(
        dir.path(),
        &format!(
            "brokerName=lost\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort={port}\nnamesrvAddr={name_server}\n\
             autoCreateTopicEnable=false\nmetricsPromExporterPort={}\nmappedFileSizeCommitLog=1048576\nstorePathRootDir={}\n\
             maxMessageSize=65536\n",
            base + 20,
            store.display()
        ),
    );
    let quiet = |words: &[&str]| Killed(keepmq(words).stderr(Stdio::null()).spawn().unwrap());
    let namesrv = dir.path().join("namesrv");
    let _name_server = quiet(&["nameserver", "--listen", name_server, "--data", namesrv.to_str().unwrap()]);
    until("the name server listens", || TcpStream::connect(name_server).is_ok());
    let broker = quiet(&["broker", "-c", &conf]);
    until("the broker registers", || at(name_server, "topic create orders").0 == Some(0));
    // The program itself hardly shrinks when it is compressed.
    let program = std::fs::read(env!("CARGO_BIN_EXE_keepmq")).unwrap();
    std::fs::write(dir.path().join("body"), &program[..1 << 20]).unwrap();
    let (code, said, error) = at(name_server, &format!("send orders @{}", dir.path().join("body").display()));
    assert!(code == Some(5) && said.starts_with("refused"), "{code:?} {said}{error}");
    assert_told(&error, &["code 13", "the limit is 65536", "maxMessageSize"]);
    let (code, _, said) = at(name_server, "send invoices x");
    assert_eq!(code, Some(6), "{said}");
    assert_told(&said, &["there is no topic \"invoices\"", "autoCreateTopicEnable"]);

    // From now on it tells everybody an address at which nobody listens.
    drop(broker);
    let elsewhere = std::fs::read_to_string(&conf).unwrap().replace("brokerIP1=127.0.0.1", "brokerIP1=127.0.0.77");
    std::fs::write(&conf, elsewhere).unwrap();
    let _broker = quiet(&["broker", "-c", &conf]);
    until("the broker registers", || at(name_server, "topic create orders").2.contains("127.0.0.77"));
    for words in ["send orders x --timeout 1s", "consume orders --end --timeout 1s", "group list"] {
        let (code, _, said) = at(name_server, words);
        assert_eq!(code, Some(4), "{words}: {said}");
        assert_told(&said, &["cannot be re", "brokerIP1"]);
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
    }
}

#[test]
fn interrupted_once_a_consumer_commits_and_a_tour_leaves_nobody_behind() {
    let base = free_ports();
    let _dev = Dev::start(&["dev", "--ephemeral", "--port-base", &base.to_string()]);
    let name_server = format!("127.0.0.1:{base}");
    let words = ["consume", "demo", "-g", "watchers", "--namesrv", &name_server];
    let consumer = keepmq(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("something is consumed", || at(&name_server, "group lag watchers -o json").1.contains("\"lag\":0"));
    signal(&consumer, "-INT");
    let out = consumer.wait_with_output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.ends_with("1 messages, committed for group watchers\n"), "{said}");

    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("tour");
    let mut tour = Killed(keepmq(&["tour", "--data", data.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap());
    while !data.join("ledger").exists() {
        assert!(tour.0.try_wait().unwrap().is_none(), "the tour has ended by itself");
    }
    signal(&tour.0, "-INT");
    assert_eq!(tour.0.wait().unwrap().code(), Some(130));
    // The store's lock is free: the broker is gone.
    let conf = data.join("broker.conf");
    let _broker = Killed(keepmq(&["broker", "-c", conf.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap());
    let port = std::fs::read_to_string(&conf).unwrap();
    let port: u16 = port.lines().find_map(|line| line.strip_prefix("listenPort=")).unwrap().parse().unwrap();
    until("the store is open again", || TcpStream::connect(("127.0.0.1", port)).is_ok());
}
