//! What `/metrics` says, against what was done over a socket, against the text format, and against its document.

use super::{file, free_ports, keepmq};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A broker of its own, killed when dropped.
pub(super) struct Broker {
    child: Child,
    pub(super) port: u16,
    health: u16,
    log: PathBuf,
}

impl Broker {
    fn start(dir: &Path) -> Self {
        Self::start_in(dir, &dir.join("store"))
    }

    /// With its files in `dir` and its store in `store`.
    pub(super) fn start_in(dir: &Path, store: &Path) -> Self {
        let base = free_ports();
        let (port, health) = (base + 10, base + 30);
        let text = format!(
            "brokerName=broker-a\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort={port}\nmetricsPromExporterPort={health}\n\
             mappedFileSizeCommitLog=1048576\nmaxMessageSize=65536\nstorePathRootDir={}\n",
            store.display()
        );
        let log = dir.join("log");
        let said = File::options().create(true).append(true).open(&log).expect("the folder is there");
        let mut command = keepmq(&["broker", "-c", &file(dir, &text), "--log", "warn"]);
        let both = said.try_clone().expect("a file can be had twice");
        let child = command.stdout(said).stderr(both).spawn().expect("the binary starts");
        let broker = Self { child, port, health, log };
        let began = Instant::now();
        while broker.get("/readyz").is_none_or(|(code, _)| code != 200) {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    /// SIGTERM; how it ended, after how long, and what it said.
    pub(super) fn stop(mut self) -> (ExitStatus, Duration, String) {
        let began = Instant::now();
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill is installed");
        assert!(asked.success());
        let status = self.child.wait().expect("it is our child");
        (status, began.elapsed(), std::fs::read_to_string(&self.log).expect("it has a log"))
    }

    /// Code and body; `None` when nobody answers.
    pub(super) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.health)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It runs until somebody ends it; what is left to do then is nobody's.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// A request as JSON, by hand; the header of the answer.
pub(super) fn ask(stream: &mut TcpStream, code: u32, fields: &[(&str, &str)], body: &[u8]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    let header = format!(
        "{{\"code\":{code},\"language\":\"JAVA\",\"version\":479,\"opaque\":1,\"flag\":0,\"extFields\":{{{}}}}}",
        fields.join(",")
    );
    let length = |bytes: usize| u32::try_from(bytes).expect("small").to_be_bytes();
    let mut frame = length(4 + header.len() + body.len()).to_vec();
    frame.extend(length(header.len()));
    frame.extend(header.as_bytes());
    frame.extend(body);
    stream.write_all(&frame).expect("the broker reads");

    let mut word = [0; 4];
    stream.read_exact(&mut word).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(word) as usize];
    stream.read_exact(&mut answer).expect("all of it");
    let header = u32::from_be_bytes(answer[..4].try_into().expect("four bytes")) as usize & 0xFF_FFFF;
    String::from_utf8(answer[4..4 + header].to_vec()).expect("JSON is UTF-8")
}

pub(super) fn send(stream: &mut TcpStream, body: &[u8]) -> String {
    let fields = [
        ("producerGroup", "P"),
        ("topic", "orders"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "0"),
        ("sysFlag", "0"),
        ("bornTimestamp", "5"),
        ("flag", "0"),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
    ];
    ask(stream, 10, &fields, body)
}

fn pull(stream: &mut TcpStream) -> String {
    let fields = [
        ("consumerGroup", "billing"),
        ("topic", "orders"),
        ("queueId", "0"),
        ("queueOffset", "0"),
        ("maxMsgNums", "32"),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
    ];
    ask(stream, 11, &fields, b"")
}

/// What Prometheus would read.
#[derive(Default)]
struct Scraped {
    /// Name → type and meaning.
    families: BTreeMap<String, (String, String)>,
    /// Name and labels in order, without those that all have → value.
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    /// Strict: every line is what the format wants in this place.
    fn read(text: &str) -> Self {
        let mut scraped = Self::default();
        let mut lines = text.strip_suffix('\n').expect("the last line ends, too").split('\n').peekable();
        while let Some(line) = lines.next() {
            let (name, meaning) =
                line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).expect("a family begins");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect("its type");
            assert!(matches!(kind, "gauge" | "counter" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            let before = scraped.families.insert(name.to_owned(), (kind.to_owned(), meaning.to_owned()));
            assert_eq!(before, None, "a family comes once");
            let mut buckets = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let (sample, labels) = series.split_once('{').expect("labels");
                let labels = read_labels(labels.strip_suffix('}').expect("the labels end"));
                for (label, value) in [("cluster", "DefaultCluster"), ("node_type", "broker"), ("node_id", "broker-a")]
                {
                    assert!(labels.contains(&(label.to_owned(), value.to_owned())), "{line}");
                }
                let suffix = sample.strip_prefix(name).unwrap_or_else(|| panic!("{line} among those of {name}"));
                let allowed: &[_] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(allowed.contains(&suffix), "{line}");
                if suffix == "_bucket" {
                    let (label, bound) = labels.last().expect("a bucket has a bound");
                    assert_eq!(label, "le");
                    buckets.push((bound.parse::<f64>().expect("a bound is a number"), value));
                }
                let own: Vec<_> = labels.iter().skip(3).map(|(label, value)| format!("{label}={value}")).collect();
                let series = [sample.to_owned()].into_iter().chain(own).collect::<Vec<_>>().join(" ");
                assert_eq!(scraped.samples.insert(series, value), None, "a series comes once: {line}");
            }
            if kind == "histogram" {
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
                let last = buckets.last().expect("a histogram has buckets");
                assert_eq!(*last, (f64::INFINITY, scraped.samples[&format!("{name}_count")]), "{name}");
                assert!(scraped.samples.contains_key(&format!("{name}_sum")), "{name}");
            }
        }
        scraped
    }

    fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples.keys()))
    }
}

fn read_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("a label has a value");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next().expect("the value ends") {
                (at, '"') => break at,
                (_, '\\') => match letters.next().expect("something is escaped").1 {
                    'n' => value.push('\n'),
                    escaped @ ('\\' | '"') => value.push(escaped),
                    other => panic!("\\{other} in {text}"),
                },
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
        if !text.is_empty() {
            text = text.strip_prefix(',').expect("a comma between labels");
        }
    }
    labels
}

#[test]
fn the_numbers_agree_with_what_was_done_and_with_their_document() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let has = |answer: String, part: &str| assert!(answer.contains(part), "{part} in {answer}");
    for _ in 0..5 {
        has(send(&mut stream, &[7; 100]), "\"code\":0");
    }
    has(send(&mut stream, b""), "\"code\":13");
    has(pull(&mut stream), "\"code\":0");
    let commit = [("consumerGroup", "billing"), ("topic", "orders"), ("queueId", "0"), ("commitOffset", "2")];
    has(ask(&mut stream, 15, &commit, b""), "\"code\":0");

    let (code, text) = broker.get("/metrics").expect("it answers");
    assert_eq!(code, 200, "{text}");
    let scraped = Scraped::read(&text);
    for (series, value) in [
        ("rocketmq_messages_in_total topic=orders is_system=false", 5.0),
        ("rocketmq_throughput_in_total topic=orders is_system=false", 500.0),
        ("rocketmq_messages_out_total", 5.0),
        ("rocketmq_message_size_count", 5.0),
        ("rocketmq_message_size_sum", 500.0),
        ("rocketmq_consumer_lag_messages consumer_group=billing topic=orders is_retry=false", 3.0),
        ("rocketmq_broker_permission", 6.0),
        ("rocketmq_storage_flush_behind_bytes storage_type=local storage_medium=disk", 0.0),
        ("keepmq_sends_acknowledged_total durability=SYNC_FLUSH", 5.0),
        ("keepmq_sends_refused_total code=13", 1.0),
        ("keepmq_pulls_total result=found", 1.0),
        ("keepmq_unknown_outcomes_total", 0.0),
        // The five sends and the commit.
        ("keepmq_commit_seconds_count", 6.0),
        ("keepmq_connections", 1.0),
        ("keepmq_left_out what=topics", 0.0),
        ("keepmq_store_stopped", 0.0),
    ] {
        assert_eq!(scraped.value(series), value, "{series}");
    }
    assert_eq!(scraped.value("keepmq_flush_seconds_count"), scraped.value("keepmq_flushes_total"));
    assert!(scraped.value("keepmq_flushed_records_total") >= 6.0);
    assert!(scraped.value("keepmq_commit_seconds_sum") > 0.0);
    assert!(scraped.value("rocketmq_throughput_out_total") > 500.0);
    assert!(scraped.value("keepmq_disk_free_bytes") < scraped.value("keepmq_disk_size_bytes"));

    assert_eq!(documented(), said(&scraped), "docs/metrics.md and /metrics name the same, with the same words");

    let (code, text) = broker.get("/readyz?verbose").expect("it answers");
    assert_eq!((code, text.as_str()), (200, "[+] recovered\n[+] registered\n[+] staying\n[+] store\n[+] space\n"));
    assert_eq!(broker.get("/livez"), Some((200, "ok\n".to_owned())));
}

/// Name, type and meaning of every row of the document's table.
fn documented() -> BTreeSet<[String; 3]> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    // The first table; others have rows of their own kind.
    let table = document.split("\n## ").next().expect("something stands there");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let cells: Vec<_> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, unit, _labels, meaning] = cells[..] else { panic!("five cells: {row}") };
        let name = name.trim_end_matches('`');
        for (part, wanted) in [("_seconds", "s"), ("_bytes", "bytes")] {
            assert!(!name.contains(part) || unit == wanted, "the unit of {name} is {unit}");
        }
        [name, kind, meaning].map(str::to_owned)
    };
    rows.map(row).collect()
}

fn said(scraped: &Scraped) -> BTreeSet<[String; 3]> {
    let family = |(name, (kind, meaning)): (&String, &(String, String))| [name.clone(), kind.clone(), meaning.clone()];
    scraped.families.iter().map(family).collect()
}
