//! Bad registrations, and the rest of the list, at a name server.

use super::cases::{Case, Expected, command, frame, frames, hear, throw};
use super::strangers::PUT_OFF;
use crate::client::Client;
use crate::interop::wait_for_route;
use crate::process::{Folder, Process};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use keepmq_protocol::Request;
use keepmq_protocol::record::crc;
use keepmq_protocol::request::RouteInfo;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The topic of the good broker.
const TOPIC: &str = "Routed";
/// What the name server may use: a registration of 16 MiB as it comes, and what is made of it; several at once are read
/// one after the other.
const MEMORY_KIB: u64 = 256 * 1024;
/// Connections that throw at the same time.
const CONNECTIONS: usize = 200;
/// A case of more bytes is heavy.
const HEAVY: usize = 64 << 10;
/// How long.
const STORM: Duration = Duration::from_secs(8);

/// Each case alone, then all of them at once; a good broker's route stands through it.
pub(super) fn run(tally: &mut Tally, binary: &Path) -> Result<()> {
    let folder = Folder::new("nameserver")?;
    let scene = Scene::new(binary, folder.path())?.registering().with("registerNameServerPeriod", "10000");
    let mut name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, 4)?;
    wait_for_route(scene.name_server, TOPIC)?;
    route(&scene).context("before anything bad happens")?;
    let mut all = frames();
    all.extend(registrations());
    for case in &all {
        let seen = throw(scene.name_server, case).and_then(|()| route(&scene));
        tally.check(&format!("hostile: name server: {}", case.what), seen.map_err(|error| format!("{error:#}")));
    }
    let peak = name_server.status_kib("VmHWM")?;
    let what = format!("hostile: name server: at most {MEMORY_KIB} KiB for any of these");
    tally.check(&what, if peak <= MEMORY_KIB { Ok(()) } else { Err(format!("it was {peak} KiB")) });
    let what = format!("hostile: name server: all of it from {CONNECTIONS} connections, and the route stands");
    let seen = storm(&scene, &name_server, &all);
    match seen {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => tally.fail(&what, &format!("{error:#}")),
    }
    for process in [&mut broker, &mut name_server] {
        let status = process.stop()?;
        ensure!(status.success(), "a clean stop ended with {status}{}", process.said());
    }
    Ok(())
}

/// The good broker is where it was.
fn route(scene: &Scene) -> Result<()> {
    let asked = Request::RouteInfo(RouteInfo { topic: TOPIC.into(), standard_json: Some(true) });
    let response = Client::connect(scene.name_server)?.must(&asked).context("the good broker's route")?;
    let route: Value = serde_json::from_slice(&response.body.concat()).context("a route")?;
    let addr = &route["brokerDatas"][0]["brokerAddrs"]["0"];
    ensure!(*addr == json!(scene.broker.to_string()), "the good broker's address is {addr} in {route}");
    ensure!(route["queueDatas"][0]["writeQueueNums"] == json!(4), "the good broker's queues: {route}");
    Ok(())
}

fn storm(scene: &Scene, name_server: &Process, all: &[Case]) -> Result<String> {
    let until = Instant::now() + STORM;
    let (addr, workers) = (scene.name_server, 4);
    // What takes a name server a tenth of a second to read comes from one connection at a time: brokers of a full house do.
    let (heavy, light): (Vec<Case>, Vec<Case>) = all.iter().cloned().partition(|case| case.bytes.len() > HEAVY);
    let (heavy, light) = (&heavy, &light);
    let before = name_server.status_kib("RssAnon")?;
    let (mut slowest, mut asked, mut peak) = (Duration::ZERO, 0, before);
    let thrown = std::thread::scope(|scope| {
        let one = |worker: usize| {
            scope.spawn(move || match worker {
                0 => throw_all(addr, heavy, 0, 1, until),
                _ => throw_all(addr, light, worker * light.len() / workers, CONNECTIONS / (workers - 1), until),
            })
        };
        let threads: Vec<_> = (0..workers).map(one).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            let began = Instant::now();
            route(scene)?;
            slowest = slowest.max(began.elapsed());
            asked += 1;
            peak = peak.max(name_server.status_kib("RssAnon")?);
            std::thread::sleep(Duration::from_millis(20));
        }
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic"))?);
        joined.sum::<Result<u64>>()
    })?;
    ensure!(peak <= MEMORY_KIB, "RssAnon went from {before} to {peak} KiB, and {MEMORY_KIB} is the bound");
    ensure!(slowest < crate::client::LATE, "a good client waited {slowest:?} for a route");
    Ok(format!(
        "{thrown} thrown; {asked} routes asked, {slowest:.0?} at most; RssAnon {before} KiB before, {peak} at most"
    ))
}

fn throw_all(addr: SocketAddr, all: &[Case], first: usize, wave_of: usize, until: Instant) -> Result<u64> {
    let mut thrown = 0;
    let mut cases = all.iter().cycle().skip(first);
    while Instant::now() < until {
        let mut wave = Vec::new();
        for case in cases.by_ref().take(wave_of) {
            let mut client = Client::connect_within(addr, PUT_OFF)?;
            let sent = client.raw(&case.bytes).is_ok();
            wave.push((client, case, sent));
        }
        for (mut client, case, sent) in wave {
            hear(&mut client, case, sent).with_context(|| case.what.clone())?;
            thrown += 1;
        }
    }
    Ok(thrown)
}

/// Registrations that must be refused, or that do no harm.
fn registrations() -> Vec<Case> {
    let register = |change: &dyn Fn(&mut Value), body: &[u8]| {
        let mut fields = json!({
            "brokerName": "stranger", "brokerAddr": "127.0.0.1:1", "clusterName": "Strange", "haServerAddr": "127.0.0.1:2",
            "brokerId": "0", "compressed": "false", "bodyCrc32": "0", "heartbeatTimeoutMillis": "3000",
        });
        change(&mut fields);
        frame(&command(103, &fields), body)
    };
    let topics = |names: &mut dyn Iterator<Item = String>, settings: &str| {
        let mut body = String::from("{\"topicConfigSerializeWrapper\":{\"topicConfigTable\":{");
        for (index, name) in names.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(body, "{comma}\"{name}\":{settings}").expect("a text takes more");
        }
        body.push_str("}}}");
        body.into_bytes()
    };
    let one = |settings: &str| topics(&mut std::iter::once("Strange".to_owned()), settings);
    let good = one("{\"readQueueNums\":4,\"writeQueueNums\":4,\"perm\":6}");
    let field = |name: &'static str, value: String| register(&|fields| fields[name] = json!(value), &good);
    let body = |body: &[u8]| register(&|_| (), body);
    let zlib = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory takes everything");
        encoder.finish().expect("memory takes everything")
    };
    let compressed = |bytes: &[u8]| register(&|fields| fields["compressed"] = json!("true"), &zlib(bytes));
    let mut wrong = good.clone();
    wrong[20] ^= 1;
    let checked = crc(&good).cast_signed().to_string();
    // A million parts of nothing.
    let mut parts = 2u32.to_be_bytes().to_vec();
    parts.extend(b"{}");
    parts.extend(1_000_000u32.to_be_bytes());
    parts.extend(vec![0; 4_000_000]);
    let refused = |text| Expected::Code(1, text);
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("an address without a port", field("brokerAddr", "127.0.0.1".into()), refused("no address")),
        ("an address that is none", field("brokerAddr", "x\u{0}y:1".into()), refused("no address")),
        ("an empty address", field("brokerAddr", String::new()), refused("no address")),
        ("an address of 1 MiB", field("brokerAddr", "a".repeat(1 << 20) + ":1"), refused("no address")),
        ("a port that is none", field("brokerAddr", "127.0.0.1:99999".into()), refused("no address")),
        ("a broker's name with a slash", field("brokerName", "../x".into()), refused("illegal")),
        ("an empty broker's name", field("brokerName", String::new()), refused("")),
        ("an id that is a word", field("brokerId", "first".into()), refused("brokerId")),
        ("a body that is garbage", body(&[0xFF; 4096]), refused("REGISTER_BROKER")),
        ("a body that is half of one", body(&good[..good.len() / 2]), refused("REGISTER_BROKER")),
        ("a body nested deep", body("[".repeat(100_000).as_bytes()), refused("REGISTER_BROKER")),
        (
            "a body with another checksum",
            register(&|fields| fields["bodyCrc32"] = json!(checked), &wrong),
            refused("crc32"),
        ),
        ("a body that is no zlib", register(&|fields| fields["compressed"] = json!("true"), &good), refused("zlib")),
        ("a zlib bomb of 1 GiB", compressed(&vec![0; 1 << 30]), refused("inflated")),
        ("a million empty topics, compressed", compressed(&parts), refused("")),
        ("a number of topics without them", compressed(&[0, 0, 0, 2, b'{', b'}', 255, 255, 255, 255]), refused("")),
        ("queues below zero", body(&one("{\"readQueueNums\":-4,\"writeQueueNums\":-4}")), refused("REGISTER_BROKER")),
        ("a topic with a line end", body(&topics(&mut std::iter::once("a\\nb".to_owned()), "{}")), refused("topic")),
        ("a million topics", body(&topics(&mut (0..1_000_000).map(|n| format!("{n:x}")), "{}")), refused("values")),
        (
            "a withdrawal of nobody",
            frame(
                &command(
                    104,
                    &json!({
                        "brokerName": "nobody", "brokerAddr": "x", "clusterName": "y", "brokerId": "-1",
                    }),
                ),
                b"",
            ),
            Expected::Code(0, ""),
        ),
    ];
    cases.into_iter().map(|(what, bytes, expected)| Case::new(what, bytes, expected)).collect()
}
