//! Many topics against one: how fast they are made and sent to, what they cost in memory and at a restart.

use super::Options;
use crate::client::{Client, create_topic, send_request, unique_key};
use crate::process::Folder;
use crate::scene::{Mode, Scene};
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::body::RouteData;
use keepmq_protocol::request::RouteInfo;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// As a scenario.
pub(super) const NAME: &str = "topics";

/// Topics that sends are spread over.
const SPREAD: usize = 10_000;
/// All topics, and the queues of each.
const ALL: usize = 100_000;
const QUEUES: i32 = 8;
/// Connections of the senders, and requests under way on each.
const CONNECTIONS: usize = 8;
const DEPTH: usize = 8;
/// Measured time of a run.
const TIME: Duration = Duration::from_secs(3);
/// Requests under way on the connection that makes topics in bulk.
const BULK: usize = 256;
/// Longest that a route may be missing.
const ROUTED: Duration = Duration::from_secs(60);

/// Measures, and answers lines of text.
pub(super) fn measure(binary: &Path, _: &Options) -> Result<String> {
    let folder = Folder::new("bench-topics")?;
    let scene = Scene::new(binary, folder.path())?.flushing(Mode::Sync).registering().with("maxTopics", &(2 * ALL));
    let mut lines = String::new();
    let name_server = scene.start_name_server()?;
    let (mut broker, _) = scene.start_broker()?;
    let mut client = Client::connect(scene.broker)?;

    client.create_topic("One", QUEUES)?;
    send_for(scene.broker, 1, &["One".to_owned()])?;
    let idle = broker.status_kib("RssAnon")?;
    let (sends, creations) = one_by_one(&mut client)?;
    writeln!(
        lines,
        "one connection, one request under way: {sends:.0} sends/s, {creations:.0} new topics/s: **{:.2}**",
        creations / sends
    )?;

    bulk(&mut client, "Many", SPREAD)?;
    let many: Vec<_> = (0..SPREAD).map(|number| format!("Many{number}")).collect();
    let mut ratios = Vec::new();
    let (mut to_one, mut to_many) = (0.0, 0.0);
    for _ in 0..3 {
        to_one = send_for(scene.broker, CONNECTIONS, &["One".to_owned()])?;
        to_many = send_for(scene.broker, CONNECTIONS, &many)?;
        ratios.push(to_many / to_one);
    }
    ratios.sort_by(f64::total_cmp);
    writeln!(
        lines,
        "sends with {CONNECTIONS} × {DEPTH} under way: {to_one:.0}/s to one topic, {to_many:.0}/s spread over {SPREAD}: **{:.2}** (median of 3 pairs)",
        ratios[1]
    )?;

    let began = Instant::now();
    bulk(&mut client, "Rest", ALL - SPREAD)?;
    let took = began.elapsed();
    let (full, all) = (broker.status_kib("VmRSS")?, broker.status_kib("RssAnon")?);
    let routed = check_routes(scene.name_server, &[many[0].as_str(), "Rest0", &format!("Rest{}", ALL - SPREAD - 1)])?;
    writeln!(
        lines,
        "{ALL} topics × {QUEUES} queues: VmRSS {} MiB, RssAnon {} MiB (one topic: {} MiB); {} more were made in {took:.1?}; the last \
         one was routed {routed:.1?} later",
        full >> 10,
        all >> 10,
        idle >> 10,
        ALL - SPREAD
    )?;

    drop(client);
    broker.kill()?;
    let (mut broker, killed) = scene.start_broker()?;
    let after = broker.status_kib("VmRSS")?;
    let status = broker.stop()?;
    ensure!(status.success(), "the broker ended with {status}");
    let (broker, stopped) = scene.start_broker()?;
    writeln!(
        lines,
        "restart with all topics until the first answer: {killed:.2?} after SIGKILL (VmRSS {} MiB then), {stopped:.2?} after a stop",
        after >> 10
    )?;
    ensure!(Client::connect(scene.broker)?.max_offset(&many[SPREAD / 2], 0)? >= 0, "a topic is gone after the restart");
    drop((broker, name_server));
    Ok(lines)
}

/// Sends and creations a second, one after the other, alternately in three pairs; medians.
fn one_by_one(client: &mut Client) -> Result<(f64, f64)> {
    let (mut sends, mut creations) = (Vec::new(), Vec::new());
    let mut made = 0;
    for _ in 0..3 {
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < TIME / 2 {
            client.send("One", 0, &[b'x'; 1024])?;
            sent += 1;
        }
        sends.push(f64::from(sent) / began.elapsed().as_secs_f64());
        let (began, before) = (Instant::now(), made);
        while began.elapsed() < TIME / 2 {
            client.create_topic(&format!("Single{made}"), QUEUES)?;
            made += 1;
        }
        creations.push(f64::from(made - before) / began.elapsed().as_secs_f64());
    }
    sends.sort_by(f64::total_cmp);
    creations.sort_by(f64::total_cmp);
    Ok((sends[1], creations[1]))
}

/// Makes many topics.
fn bulk(client: &mut Client, prefix: &str, count: usize) -> Result<()> {
    let mut waiting = 0;
    for number in 0..count {
        client.post(&create_topic(&format!("{prefix}{number}"), QUEUES));
        waiting += 1;
        if waiting == BULK || number + 1 == count {
            client.flush()?;
            for _ in 0..waiting {
                let (_, response) = client.receive()?.context("the broker has closed the connection")?;
                ensure!(response.is_ok(), "a topic was not made: {} {:?}", response.code, response.remark);
            }
            waiting = 0;
        }
    }
    Ok(())
}

/// Sends for a while to these topics, in turn; messages a second.
fn send_for(broker: SocketAddr, connections: usize, topics: &[String]) -> Result<f64> {
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..connections)
            .map(|start| scope.spawn(move || send_on(broker, start * topics.len() / connections, topics)))
            .collect();
        let rates = senders.into_iter().map(|sender| sender.join().map_err(|_| anyhow!("a sender has panicked"))?);
        rates.sum::<Result<f64>>()
    })
}

fn send_on(broker: SocketAddr, start: usize, topics: &[String]) -> Result<f64> {
    let mut client = Client::connect(broker)?;
    let (body, properties) = ([b'x'; 1024], unique_key(1));
    let mut topic = topics.iter().cycle().skip(start);
    let mut waiting = VecDeque::new();
    let (began, mut sent) = (Instant::now(), 0_u32);
    loop {
        while waiting.len() < DEPTH && began.elapsed() < TIME {
            let topic = topic.next().context("there is a topic")?;
            waiting.push_back(client.post(&send_request(topic, 0, &body, &properties)));
        }
        if waiting.is_empty() {
            return Ok(f64::from(sent) / began.elapsed().as_secs_f64());
        }
        client.flush()?;
        let mut next = Some(client.receive()?.context("the broker has closed the connection")?);
        while let Some((_, response)) = next {
            ensure!(response.is_ok(), "a send was refused: {} {:?}", response.code, response.remark);
            waiting.pop_front();
            sent += 1;
            next = client.received()?;
        }
    }
}

/// Waits until the name server knows these topics; how long that took. Also that they have all their queues.
fn check_routes(name_server: SocketAddr, topics: &[&str]) -> Result<Duration> {
    let began = Instant::now();
    let mut client = Client::connect(name_server)?;
    for topic in topics {
        let route = loop {
            let response =
                client.ask(&Request::RouteInfo(RouteInfo { topic: (*topic).into(), standard_json: Some(true) }))?;
            if response.is_ok() {
                break response;
            }
            ensure!(began.elapsed() < ROUTED, "{topic} has no route: {:?}", response.remark);
            std::thread::sleep(Duration::from_millis(20));
        };
        let route: RouteData = keepmq_protocol::json::parse(&route.body.concat())?;
        let queues: u32 = route.queue_datas.iter().map(|queues| queues.write_queue_nums).sum();
        ensure!(i64::from(queues) == i64::from(QUEUES), "{topic} has {queues} queues in its route: {route:?}");
    }
    Ok(began.elapsed())
}
