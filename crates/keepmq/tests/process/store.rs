//! A store that nobody has open, and one that is damaged.

use super::{Dev, ended, free_ports, keepmq};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A broker alone, until it is ready; what it has said on standard error.
struct Alone {
    child: Child,
    said: String,
}

fn conf(dir: &Path, root: &Path, base: u16) -> String {
    let (listen, health) = (base + 10, base + 30);
    let text = format!(
        "brokerName=broker-a\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort={listen}\nstorePathRootDir={}\n\
         mappedFileSizeCommitLog=1048576\nmetricsPromExporterHost=127.0.0.1\nmetricsPromExporterPort={health}\n",
        root.display()
    );
    super::file(dir, &text)
}

impl Alone {
    fn start(words: &[&str]) -> Self {
        let mut child = keepmq(words).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().expect("its errors are a pipe"));
        while !said.contains("ready: listening") {
            assert!(lines.read_line(&mut said).expect("it speaks UTF-8") > 0, "it ended before it was ready: {said}");
        }
        // A pipe that nobody reads would stop it when it is full.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, said }
    }

    fn stop(mut self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().expect("kill is installed").success());
        assert_eq!(self.child.wait().expect("it is our child").code(), Some(0));
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it takes the question");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn json(words: &[&str]) -> Value {
    let (code, out, said) = ended(words);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{code:?}, {error}: {out}{said}"))
}

/// Everything below a folder but for the lock's two files.
fn bytes_of(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).expect("it is a folder").map(|entry| entry.expect("it has entries").path()) {
        match entry.is_dir() {
            true => files.extend(bytes_of(&entry)),
            false if entry.ends_with("keepmq/owner") || entry.ends_with("lock") => {}
            false => files.push((entry.clone(), fs::read(&entry).expect("it is a file"))),
        }
    }
    files.sort();
    files
}

#[test]
fn a_store_is_looked_at_and_goes_on_without_what_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let store = root.to_str().unwrap();
    let base = free_ports();
    let conf = conf(dir.path(), &root, base);
    let (port, names) = (base.to_string(), format!("127.0.0.1:{base}"));
    let (code, _, said) = ended(&["store", "info", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(6), "{said}");

    // The broker alone makes a store of small segments, which dev then goes on with.
    let alone = Alone::start(&["broker", "-c", &conf]);
    assert!(get(base + 30, "/startupz").starts_with("HTTP/1.1 200"));
    alone.stop();
    let dev = Dev::start(&["dev", "--data", store, "--port-base", &port]);
    assert_eq!(ended(&["topic", "create", "orders", "--queues", "1", "--namesrv", &names]).0, Some(0));
    for n in 0..5 {
        let (code, _, said) =
            ended(&["send", "orders", &format!("order number {n}"), "--tag", "new", "--namesrv", &names]);
        assert_eq!(code, Some(0), "{said}");
    }
    for verb in ["info", "verify", "dump"] {
        let (code, _, said) = ended(&["store", verb, store]);
        assert_eq!(code, Some(7), "{said}");
        assert!(said.contains("is in use") && said.contains(&dev.child.id().to_string()), "{said}");
    }
    assert_eq!(dev.interrupt().0.code(), Some(0));

    let before = bytes_of(&root);
    let info = json(&["store", "info", store, "-o", "json"]);
    assert_eq!((info["broker"].as_str(), info["segment_bytes"].as_u64()), (Some("broker-a"), Some(1 << 20)), "{info}");
    assert_eq!((info["clean_stop"].as_bool(), info["wrong"].as_array().map(Vec::len)), (Some(true), Some(0)), "{info}");
    let (code, out, said) = ended(&["store", "verify", store]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("sound\n"), "{out}");
    let (code, out, _) =
        ended(&["store", "dump", store, "--topic", "orders", "--count", "3", "--body", "-o", "ndjson"]);
    assert_eq!(code, Some(0));
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bodies: Vec<_> = rows.iter().map(|row| row["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["order number 0", "order number 1", "order number 2"]);
    assert_eq!((rows[2]["offset"].as_u64(), rows[2]["tag"].as_str()), (Some(2), Some("new")));
    let (_, table, _) = ended(&["store", "dump", store]);
    assert!(table.starts_with("POSITION") && table.lines().count() > 5, "{table}");
    assert!(before == bytes_of(&root), "something was changed by looking at it");

    // One record is damaged.
    let at = rows[1]["position"].as_u64().unwrap();
    let log = root.join("commitlog/00000000000000000000");
    let mut bytes = fs::read(&log).unwrap();
    bytes[usize::try_from(at).unwrap() + 100] ^= 1;
    fs::write(&log, bytes).unwrap();
    let (code, out, said) = ended(&["store", "verify", store]);
    assert_eq!(code, Some(8), "{out}{said}");
    for part in
        [format!("position {at},"), "missing  offset 1 of orders, queue 0".to_owned(), format!("--accept-loss {at}")]
    {
        assert!(out.contains(&part), "{part:?} in {out}");
    }
    assert!(said.contains("is damaged") && said.contains("1 messages are known to be missing"), "{said}");
    let report = json(&["store", "verify", store, "-o", "json"]);
    assert_eq!(report["findings"][0]["missing"][0]["first"].as_u64(), Some(1), "{report}");

    // The index spares the start the reading. Without it the log is read, and the damage named.
    for name in fs::read_dir(root.join("keepmq")).unwrap().map(|entry| entry.unwrap().path()) {
        if name.file_name().unwrap().to_str().unwrap().starts_with("queues-") {
            fs::remove_file(name).unwrap();
        }
    }
    let (code, _, said) = ended(&["broker", "-c", &conf]);
    assert_eq!(code, Some(8), "{said}");
    for part in
        [format!("position {at},"), "offset 1 of orders, queue 0".to_owned(), format!("broker --accept-loss {at}")]
    {
        assert!(said.contains(&part), "{part:?} in {said}");
    }
    let accept = at.to_string();
    let alone = Alone::start(&["broker", "-c", &conf, "--accept-loss", &accept]);
    assert!(alone.said.contains("was made again from the log"), "{}", alone.said);
    assert!(alone.said.contains("a stretch that was given up") && alone.said.contains("1 messages"), "{}", alone.said);
    alone.stop();
    let (code, _, said) = ended(&["broker", "-c", &conf, "--accept-loss", "5"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--accept-loss 5 names nothing that is damaged"), "{said}");

    let (code, out, said) = ended(&["store", "verify", store]);
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(out.contains("given up: ") && out.ends_with("sound\n"), "{out}");
    let (_, info, _) = ended(&["store", "info", store]);
    assert!(info.contains("given up") && info.contains("offset 1 of orders, queue 0"), "{info}");

    // Consumers get the others.
    let dev = Dev::start(&["dev", "--data", store, "--port-base", &port]);
    let (code, out, said) = ended(&["consume", "orders", "--namesrv", &names, "--count", "4", "--from", "first"]);
    assert_eq!(code, Some(0), "{said}");
    for n in [0, 2, 3, 4] {
        assert!(out.contains(&format!("order number {n}")), "{out}");
    }
    assert_eq!(dev.interrupt().0.code(), Some(0));
}
