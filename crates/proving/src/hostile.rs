//! Bad input against a real broker: each is answered with RocketMQ's code and a text, and a good client goes on as before.

use crate::client::{Client, send_request, unique_key};
use crate::process::{Folder, Process};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result};
use keepmq_protocol::frame::{Form, write_request};
use keepmq_protocol::{Request, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What must come of it.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// An answer with this code, and this in its text.
    Code(i32, &'static str),
    /// The connection is closed, or the frame passed over: in either case no answer.
    NoAnswer,
}
use Expected::{Code, NoAnswer};

/// A topic that exists, with four queues.
const TOPIC: &str = "Hostile";
/// RocketMQ's default `maxMessageSize`.
const BODY_MAX: usize = 4 * 1024 * 1024;
/// What bad input may cost in memory.
const MEMORY_KIB: u64 = 96 * 1024;

/// Throws everything at a broker.
pub fn run(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("hostile")?;
    let scene = Scene::new(binary, folder.path())?;
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, 4)?;
    let before = broker.status_kib("VmRSS")?;
    for (what, bytes, expected) in frames().into_iter().chain(requests()) {
        let seen = throw(&scene, &bytes, expected).and_then(|()| good_client(&scene));
        tally.check(&format!("hostile: {what}"), seen.map_err(|error| format!("{error:#}")));
    }
    tally.check("hostile: 200 connections that announce 15 MiB each", greedy(&scene, &broker, before));
    let status = broker.stop()?;
    tally.check(
        "hostile: after all that, a clean stop",
        if status.success() { Ok(()) } else { Err(format!("{status}{}", broker.said())) },
    );
    configurations(tally, binary)
}

/// One frame from a header and a body.
fn frame(header: &Value, body: &[u8]) -> Vec<u8> {
    raw_frame(header.to_string().as_bytes(), body)
}

fn raw_frame(header: &[u8], body: &[u8]) -> Vec<u8> {
    let int = |len: usize| u32::try_from(len).expect("a short frame").to_be_bytes();
    [&int(4 + header.len() + body.len()), &int(header.len())[..], header, body].concat()
}

fn command(code: i32, fields: &Value) -> Value {
    json!({"code": code, "flag": 0, "language": "JAVA", "opaque": 7, "version": 479, "extFields": fields})
}

/// Bytes that are not a readable frame.
fn frames() -> Vec<(String, Vec<u8>, Expected)> {
    let mut half = frame(&command(105, &json!({"topic": TOPIC})), b"");
    half.truncate(half.len() / 2);
    let deep = format!("{{\"code\":105,\"extFields\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of length -1", (-1i32).to_be_bytes().to_vec()),
        ("a frame of length 0", vec![0; 4]),
        ("a frame of length 3", vec![0, 0, 0, 3, 0, 0, 0]),
        ("a frame of 17 MiB", (17i32 << 20).to_be_bytes().to_vec()),
        ("a frame of 2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a header longer than its frame", vec![0, 0, 0, 8, 0, 0, 1, 0, b'{', b'}', b' ', b' ']),
        ("a header of an unknown form", vec![0, 0, 0, 6, 9, 0, 0, 2, b'{', b'}']),
        ("half a frame, then silence", half),
        ("a header that is no JSON", raw_frame(b"{\"code\":105,", b"")),
        ("a header that is no text", raw_frame(&[0xFF; 64], b"")),
        ("a header nested 100,000 deep", raw_frame(deep.as_bytes(), b"")),
        ("a binary header that is cut short", vec![0, 0, 0, 10, 1, 0, 0, 6, 0, 105, 0, 1, 1, 0]),
        ("what a browser sends", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ];
    cases.into_iter().map(|(what, bytes)| (what.to_owned(), bytes, NoAnswer)).collect()
}

/// Frames whose request is bad.
fn requests() -> Vec<(String, Vec<u8>, Expected)> {
    let send = |change: &dyn Fn(&mut Value), body: &[u8]| {
        let mut fields = json!({
            "a": "g", "b": TOPIC, "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1", "h": "0",
            "i": unique_key(1), "j": "0", "k": "false", "m": "false",
        });
        change(&mut fields);
        frame(&command(310, &fields), body)
    };
    let topic = |name: &str| send(&|fields| fields["b"] = json!(name), b"body");
    let field = |name: &'static str, value: Value| send(&|fields| fields[name] = value.clone(), b"body");
    let without = |name: &'static str| {
        let remove = |fields: &mut Value| {
            fields.as_object_mut().expect("fields are an object").remove(name);
        };
        send(&remove, b"body")
    };
    let pull = |topic: &str, queue: &str, offset: &str| {
        let fields = json!({
            "consumerGroup": "g", "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": "32",
            "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
        });
        frame(&command(11, &fields), b"")
    };
    let create = |name: &str, queues: i64| {
        let fields = json!({
            "topic": name, "defaultTopic": "TBW102", "readQueueNums": queues.to_string(),
            "writeQueueNums": queues.to_string(), "perm": "6", "topicFilterType": "SINGLE_TAG", "order": "false",
        });
        frame(&command(17, &fields), b"")
    };
    let batch = |body: &[u8]| send(&|fields| fields["m"] = json!("true"), body);
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("an unknown code", frame(&command(9_999, &json!({})), b""), Code(3, " request type 9999 not supported")),
        ("a negative code", frame(&command(-5, &json!({})), b""), Code(3, "-5")),
        ("a send without a topic", without("b"), Code(1, "topic")),
        ("a send without fields", frame(&command(310, &json!({})), b"x"), Code(1, "missing")),
        ("a queue that is no number", field("e", json!("zero")), Code(1, "queueId")),
        ("a time that is a word", field("g", json!("soon")), Code(1, "bornTimestamp")),
        ("a field that is an object", field("g", json!({"a": 1})), Code(1, "bornTimestamp")),
        ("a topic with a slash", topic("a/b"), Code(29, "illegal")),
        ("a topic that is ..", topic(".."), Code(29, "illegal")),
        ("a topic with a NUL", topic("a\0b"), Code(29, "illegal")),
        ("a topic that is an absolute path", topic("/etc/passwd"), Code(29, "illegal")),
        ("an empty topic", topic(""), Code(29, "blank")),
        ("a topic of 128 characters", topic(&"x".repeat(128)), Code(29, "longer")),
        ("a send to the metadata's topic", topic("rmq_sys_keepmq_meta"), Code(16, "forbidden")),
        ("a send to the delay topic", topic("SCHEDULE_TOPIC_XXXX"), Code(16, "forbidden")),
        ("a queue beyond the topic's", field("e", json!("4")), Code(29, "queue")),
        ("the highest queue there is", field("e", json!(i32::MAX.to_string())), Code(29, "queue")),
        ("an empty body", send(&|_| (), b""), Code(13, "")),
        ("a body over the limit", send(&|_| (), &vec![b'x'; BODY_MAX + 1]), Code(13, "")),
        ("properties over the limit", field("i", json!(format!("k\u{1}{}\u{2}", "v".repeat(32_768)))), Code(13, "")),
        ("a delayed message", field("i", json!("DELAY\u{1}3\u{2}")), Code(13, "")),
        ("a half message", field("f", json!("4")), Code(16, "")),
        ("a batch that is none", batch(b"not a batch"), Code(13, "batch")),
        ("a batch with a negative length", batch(&[0xFF; 40]), Code(13, "batch")),
        ("a pull from a topic that is not", pull("Nowhere", "0", "0"), Code(17, "Nowhere")),
        ("a pull from the metadata", pull("rmq_sys_keepmq_meta", "0", "0"), Code(17, "rmq_sys_keepmq_meta")),
        ("a pull from a queue beyond the topic's", pull(TOPIC, "4", "0"), Code(29, "queueId")),
        ("a pull from a negative queue", pull(TOPIC, "-1", "0"), Code(29, "queueId")),
        ("a pull below the minimum", pull(TOPIC, "1", "-1"), Code(21, "")),
        ("a pull above the maximum", pull(TOPIC, "1", "1000000"), Code(21, "")),
        ("a pull at the highest number", pull(TOPIC, "1", &i64::MAX.to_string()), Code(21, "")),
        ("a topic to be created with a slash", create("a/b", 4), Code(29, "illegal")),
        ("a topic to be created with -1 queues", create("Minus", -1), Code(29, "QueueNums")),
        ("a topic to be created with 2 billion queues", create("Many", 2_000_000_000), Code(29, "QueueNums")),
        ("a heartbeat that is no JSON", frame(&command(34, &json!({})), b"{not json"), Code(1, "HEART_BEAT")),
        (
            "a heartbeat nested deep",
            frame(&command(34, &json!({})), "[".repeat(100_000).as_bytes()),
            Code(1, "HEART_BEAT"),
        ),
        (
            "an offset of a group with a bad name",
            frame(
                &command(15, &json!({"consumerGroup": "a/b", "topic": TOPIC, "queueId": "0", "commitOffset": "0"})),
                b"",
            ),
            Code(26, "illegal"),
        ),
        (
            "a negative offset",
            frame(
                &command(15, &json!({"consumerGroup": "g", "topic": TOPIC, "queueId": "0", "commitOffset": "-1"})),
                b"",
            ),
            Code(29, ""),
        ),
        (
            "a message at a position beyond the log",
            frame(&command(33, &json!({"offset": "99999999999"})), b""),
            Code(1, ""),
        ),
        ("a message at a negative position", frame(&command(33, &json!({"offset": "-1"})), b""), Code(1, "")),
    ];
    cases.into_iter().map(|(what, bytes, expected)| (what.to_owned(), bytes, expected)).collect()
}

/// Sends the bytes, and looks at what comes.
fn throw(scene: &Scene, bytes: &[u8], expected: Expected) -> Result<()> {
    let mut client = Client::connect(scene.broker)?;
    match expected {
        Code(code, text) => {
            client.raw(bytes)?;
            let (_, response) = client.receive()?.context("the connection was closed instead of an answer")?;
            judge(&response, code, text)
        }
        NoAnswer => {
            // It may be closed while we are still sending.
            let sent = client.raw(bytes);
            // A good request behind it tells whether the broker reads on; that one may be answered.
            let mut good = Vec::new();
            write_request(&mut good, 4_711, Form::Json, false, &Request::RuntimeInfo);
            if sent.is_err() || client.raw(&good).is_err() {
                return Ok(());
            }
            client.patience(Duration::from_millis(300))?;
            match client.receive() {
                Ok(Some((opaque, _))) if opaque != 4_711 => anyhow::bail!("it was answered, as request {opaque}"),
                Ok(_) => Ok(()),
                // Closed the hard way, or still waiting for the rest of a frame.
                Err(_) => Ok(()),
            }
        }
    }
}

fn judge(response: &Response, code: i32, text: &str) -> Result<()> {
    let remark = response.remark.as_deref().unwrap_or_default();
    // A pull's codes speak for themselves, RocketMQ sends no text with them.
    let silent = matches!(response.code, 19 | 21);
    anyhow::ensure!(response.code == code, "expected code {code}, seen {} with {remark:?}", response.code);
    anyhow::ensure!(silent || !remark.is_empty(), "code {code} without a text");
    anyhow::ensure!(remark.contains(text), "expected {text:?} in the text, seen {remark:?}");
    Ok(())
}

/// Somebody who does everything right.
fn good_client(scene: &Scene) -> Result<()> {
    let mut client = Client::connect(scene.broker).context("a good client")?;
    let sent = client.send(TOPIC, 3, b"good").context("a good client")?;
    let offset = i64::try_from(sent.offset.0)?;
    let pulled = client.pull(TOPIC, 3, offset).context("a good client")?;
    anyhow::ensure!(
        pulled.messages.first().is_some_and(|found| found.body == b"good"),
        "a good client sees {pulled:?}"
    );
    Ok(())
}

/// Announced is not sent: memory must not be given for it.
fn greedy(scene: &Scene, broker: &Process, before: u64) -> Result<(), String> {
    let story = || {
        let mut body = vec![b'x'; 1024];
        body.splice(..0, (15u32 << 20).to_be_bytes().into_iter().chain([0, 0, 0, 100]));
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut client = Client::connect(scene.broker)?;
            client.raw(&body)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_millis(200));
        good_client(scene)?;
        let after = broker.status_kib("VmRSS")?;
        anyhow::ensure!(after < before + MEMORY_KIB, "memory went from {before} to {after} KiB");
        Ok(())
    };
    story().map_err(|error| format!("{error:#}"))
}

/// Configurations and folders that a broker must refuse.
fn configurations(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("refusals")?;
    let scene = Scene::new(binary, folder.path())?;
    for (key, value, says) in [
        ("flushDiskTyp", "SYNC_FLUSH", "flushDiskTyp"),
        ("listenPort", "many", "listenPort"),
        ("listenPort", "70000", "listenPort"),
        ("flushDiskType", "SOMETIMES", "flushDiskType"),
        ("mappedFileSizeCommitLog", "-1", "mappedFileSizeCommitLog"),
        ("maxMessageSize", "99999999999", "maxMessageSize"),
        ("brokerRole", "SYNC_MASTER", "brokerRole"),
        ("brokerRole", "SLAVE", "brokerRole"),
    ] {
        let refused = ended(&scene.clone().with(key, value), 3, says);
        tally.check(&format!("hostile: broker.conf with {key}={value} is refused"), refused);
    }
    let (mut broker, _) = scene.start_broker()?;
    let other = Scene::new(binary, folder.path())?.with("storePathRootDir", &scene.store().display());
    tally.check("hostile: a store in use is refused", ended(&other, 7, "in use"));
    broker.stop()?;

    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").context("cannot write a file")?;
    let blocked = scene.clone().with("storePathRootDir", &file.join("store").display());
    tally.check("hostile: a store that cannot be created is refused", ended(&blocked, 9, "file"));
    if rustix::process::geteuid().is_root() {
        let what = "hostile: a store on a read-only file system is refused";
        tally.check(what, on_tmpfs(&scene, folder.path(), "ro", |scene| ended(scene, 9, "ead-only")));
        let what = "hostile: on a full disk nothing is accepted, and it says so";
        tally.check(what, on_tmpfs(&scene, folder.path(), "size=3m", full_disk));
    } else {
        tally.skip("hostile: a read-only and a full disk", "not root, so no tmpfs can be mounted");
    }
    Ok(())
}

/// The broker must end by itself with this exit code, and say this.
fn ended(scene: &Scene, code: i32, says: &str) -> Result<(), String> {
    let story = || {
        let log = scene.folder.join(format!("refused-{}.log", scene.broker.port()));
        std::fs::write(&log, "").context("cannot empty a log")?;
        let mut process = Process::start(&scene.broker_command()?, &log)?;
        let status = process.ended_within(Duration::from_secs(10))?.context("it runs instead of ending")?;
        let said = std::fs::read_to_string(&log).context("cannot read a log")?;
        anyhow::ensure!(status.code() == Some(code), "expected exit code {code}, seen {status}: {said}");
        anyhow::ensure!(said.contains(says), "expected {says:?} in: {said}");
        Ok(())
    };
    story().map_err(|error: anyhow::Error| format!("{error:#}"))
}

fn full_disk(scene: &Scene) -> Result<(), String> {
    let scene = scene.clone().with("mappedFileSizeCommitLog", &(16 << 20));
    let story = || {
        let Ok((_broker, _)) = scene.start_broker() else {
            // It may refuse to start; then the text must say why.
            return ended(&scene, 9, "space").map_err(|why| anyhow::anyhow!(why));
        };
        let response = Client::connect(scene.broker)?.ask(&send_request("Full", 0, &[0; 4096], &unique_key(1)))?;
        judge(&response, 14, "")
    };
    story().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// With a store below a tmpfs that is mounted with these options.
fn on_tmpfs(
    scene: &Scene,
    folder: &Path,
    options: &str,
    then: impl Fn(&Scene) -> Result<(), String>,
) -> Result<(), String> {
    let mount = folder.join("tmpfs");
    let run = |program: &str, words: &[&str]| match Command::new(program).args(words).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("cannot start {program}: {error}")),
    };
    std::fs::create_dir_all(&mount).map_err(|error| format!("cannot create {}: {error}", mount.display()))?;
    let path = mount.to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &path])?;
    let seen = then(&scene.clone().with("storePathRootDir", &mount.join("store").display()));
    run("umount", &[&path])?;
    seen
}
