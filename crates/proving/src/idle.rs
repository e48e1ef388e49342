//! What a connection costs that does nothing.

use crate::client::{Client, heartbeat_request};
use crate::process::{Folder, raise_files};
use crate::scene::Scene;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use keepmq_protocol::Request;
use keepmq_protocol::body::{Heartbeat, ProducerData};
use std::path::Path;
use std::time::{Duration, Instant};

/// Connections.
const CONNECTIONS: u64 = 10_000;
/// Files besides them.
const FILES: u64 = 1_000;
/// Members of a group: each hears of every other that joins.
const MEMBERS: u64 = 20;
/// What one may cost.
const EACH_BYTES: u64 = 8 * 1024;
/// Longest until the shard has looked at all of them twice, which it does every 5 s, and taken back what they do not need; as
/// much again and more for a machine that has other things to do.
const CALM: Duration = Duration::from_secs(40);
/// So long it takes at least.
const LOOKS: Duration = Duration::from_secs(12);

/// Ten thousand connections, each of which has said something once.
pub fn run(tally: &mut Tally, binary: &Path) -> Result<()> {
    let what = format!("idle: {CONNECTIONS} connections cost at most {EACH_BYTES} bytes each");
    let files = raise_files();
    if files < CONNECTIONS + FILES {
        tally.skip(&what, &format!("{files} files may be open (ulimit -Hn)"));
        return Ok(());
    }
    match story(binary) {
        Ok(told) => tally.pass(&format!("{what}: {told}")),
        Err(error) => tally.fail(&what, &format!("{error:#}")),
    }
    Ok(())
}

fn story(binary: &Path) -> Result<String> {
    const TOPIC: &str = "Idle";
    let folder = Folder::new("idle")?;
    let scene = Scene::new(binary, folder.path())?;
    let (mut broker, _) = scene.start_broker()?;
    Client::connect(scene.broker)?.create_topic(TOPIC, 4)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = broker.status_kib("RssAnon")?;
    let began = Instant::now();
    let mut clients = Vec::new();
    for number in 0..CONNECTIONS {
        let mut client = Client::connect(scene.broker)?;
        let id = format!("127.0.0.1@{number}");
        // Half of them ask something, a quarter are producers, a quarter consumers.
        client.post(&match number % 4 {
            0 => heartbeat_request(&id, &format!("idle-{}", number / (4 * MEMBERS)), TOPIC),
            1 => {
                let producer_data_set = vec![ProducerData { group_name: "idle".to_owned() }];
                Request::Heartbeat(Box::new(Heartbeat { client_id: id, producer_data_set, ..Heartbeat::default() }))
            }
            _ => Request::RuntimeInfo,
        });
        client.flush()?;
        let (_, response) = client.receive()?.with_context(|| format!("connection {number} was closed"))?;
        ensure!(response.is_ok(), "connection {number} was refused with {}: {:?}", response.code, response.remark);
        client.shrink();
        clients.push(client);
    }
    let connected = began.elapsed();
    let bound = before + CONNECTIONS * EACH_BYTES / 1024;
    let most = broker.status_kib("RssAnon")?;
    let end = Instant::now() + CALM;
    std::thread::sleep(LOOKS);
    let mut after = broker.status_kib("RssAnon")?;
    while after > bound && Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
        after = broker.status_kib("RssAnon")?;
    }
    let each = after.saturating_sub(before) * 1024 / CONNECTIONS;
    ensure!(
        after <= bound,
        "RssAnon went from {before} KiB to {most} and then {after}: {each} bytes for each connection"
    );
    // They are all still there.
    for client in clients.iter_mut().step_by(100) {
        client.must(&Request::RuntimeInfo)?;
    }
    drop(clients);
    std::thread::sleep(LOOKS);
    let left = broker.status_kib("RssAnon")?;
    let status = broker.stop()?;
    ensure!(status.success(), "a clean stop ended with {status}{}", broker.said());
    Ok(format!(
        "{each} bytes each; RssAnon {before} KiB before, {after} with them, {left} when they are gone; connected in {connected:.1?}"
    ))
}
