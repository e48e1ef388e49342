//! Who misbehaves in the storm, and what must come of it.

use super::cases::{Case, Expected, Heard, TOPIC, bombs as bomb_cases, command, frame, frames, hear, judge, requests};
use crate::client::{Client, heartbeat_request, pull_request, send_request, unique_key};
use crate::load;
use anyhow::{Context, Result, anyhow, ensure};
use keepmq_protocol::body::{ConsumerData, Heartbeat, Subscription};
use keepmq_protocol::frame::{Form, write_request};
use keepmq_protocol::request::ConsumerList;
use keepmq_protocol::{Request, ResponseCode};
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Connections of the cases: four threads, waves of this many.
const WAVE: usize = 150;
/// Members of the one group.
const MEMBERS: usize = 1_000;
/// Connections that do nothing.
pub(super) const IDLE: usize = 10_000;
/// Pulls that one client has open, or that many have together.
const PULLS: usize = 100_000;
/// Bytes that the deaf senders send in all: they would fill the disk.
const DEAF_BYTES: usize = 256 << 20;

/// Clients that take no answers: more than may be owed to all together.
const DEAF_PULLERS: usize = 12;
/// Longest that a stranger is put off: not read from, not answered, or not let in. Only good clients are served in good time;
/// but a broker that has not come to somebody for a minute, though it serves the others, has forgotten them.
pub(super) const PUT_OFF: Duration = Duration::from_secs(60);

/// After so long a client comes again that was cut off.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Where and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub(super) broker: SocketAddr,
    pub(super) until: Instant,
}

impl Stage {
    fn over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Somebody who can wait.
    fn stranger(&self) -> Result<Client> {
        Client::connect_within(self.broker, PUT_OFF)
    }
}

/// Every bad frame and request, from several hundred connections at once.
pub(super) fn cases(stage: &Stage) -> Result<String> {
    let cases: Vec<Case> = frames().into_iter().chain(requests()).collect();
    let counts = std::thread::scope(|scope| {
        let cases = &cases;
        let one = |thread: usize| scope.spawn(move || waves(stage, cases, thread * cases.len() / 4));
        let threads: Vec<_> = (0..4).map(one).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("it has panicked"))?)
            .collect::<Result<Vec<[u64; 3]>>>()
    })?;
    let sum = |at: usize| counts.iter().map(|counts| counts[at]).sum::<u64>();
    ensure!(sum(0) > 0, "nothing was answered");
    Ok(format!("{} answered as they must be, {} passed over or put off, {} closed", sum(0), sum(1), sum(2)))
}

fn waves(stage: &Stage, cases: &[Case], first: usize) -> Result<[u64; 3]> {
    let mut counts = [0; 3];
    let mut next = first;
    while !stage.over() {
        let mut wave = Vec::with_capacity(WAVE);
        for _ in 0..WAVE {
            let case = &cases[next % cases.len()];
            next += 1;
            let mut client = stage.stranger()?;
            let sent = client.raw(&case.bytes).is_ok();
            wave.push((client, case, sent));
        }
        for (mut client, case, sent) in wave {
            let heard = hear(&mut client, case, sent).with_context(|| case.what.clone())?;
            counts[match heard {
                Heard::Answer => 0,
                Heard::Silence | Heard::Busy => 1,
                Heard::Closed => 2,
            }] += 1;
        }
    }
    Ok(counts)
}

/// Frames that are small and want to become large.
pub(super) fn bombs(stage: &Stage) -> Result<String> {
    let cases = bomb_cases();
    let mut thrown = 0;
    while !stage.over() {
        // Four of them at a time.
        let mut clients = Vec::new();
        for case in cases.iter().cycle().skip(thrown % cases.len()).take(4) {
            let mut client = stage.stranger()?;
            let sent = client.raw(&case.bytes).is_ok();
            clients.push((client, case, sent));
        }
        for (mut client, case, sent) in clients {
            hear(&mut client, case, sent).with_context(|| case.what.clone())?;
            thrown += 1;
        }
    }
    Ok(format!("{thrown} thrown"))
}

/// What a deaf client has lived through.
#[derive(Debug, Default)]
struct Deaf {
    bytes: usize,
    stalled: u64,
    cut_off: u64,
}

/// Sends `frames` again and again on so many connections, and reads nothing. One that is not read from any more is left
/// alone; one that is cut off comes again, after a while.
fn deaf(stage: &Stage, connections: usize, frames: &[u8], most: usize) -> Result<Deaf> {
    let mut seen = Deaf::default();
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(stage.broker).context("cannot connect")?;
        stream.set_nonblocking(true).context("cannot make a socket nonblocking")?;
        Ok(stream)
    };
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push((connect()?, 0, Instant::now()));
    }
    while !stage.over() {
        let mut moved = false;
        for (stream, at, again) in &mut streams {
            if *at == 0 && seen.bytes >= most || Instant::now() < *again {
                continue;
            }
            match stream.write(&frames[*at..]) {
                Ok(written) => {
                    *at = (*at + written) % frames.len();
                    seen.bytes += written;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => seen.stalled += 1,
                Err(_) => {
                    seen.cut_off += 1;
                    (*stream, *at, *again) = (connect()?, 0, Instant::now() + COME_AGAIN);
                }
            }
        }
        if !moved {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(seen)
}

fn told(seen: &Deaf) -> String {
    let Deaf { bytes, stalled, cut_off } = seen;
    format!("{} MiB taken from them, {stalled} times not, {cut_off} times cut off", bytes >> 20)
}

/// Clients that send messages and never read an answer.
pub(super) fn deaf_senders(stage: &Stage) -> Result<String> {
    let mut frames = Vec::new();
    for opaque in 0..256 {
        let properties = unique_key(7);
        write_request(&mut frames, opaque, Form::Json, false, &send_request(TOPIC, 1, &[b'd'; 256], &properties));
    }
    deaf(stage, 16, &frames, DEAF_BYTES).map(|seen| told(&seen))
}

/// Clients that ask for messages and never read them.
pub(super) fn deaf_pullers(stage: &Stage) -> Result<String> {
    let mut client = stage.stranger()?;
    for _ in 0..64 {
        client.send(TOPIC, 2, &[b'p'; 64 << 10])?;
    }
    let mut frames = Vec::new();
    for opaque in 0..1_000 {
        let pull = pull_request(TOPIC, 2, i64::from(opaque % 50), "*", Duration::ZERO);
        write_request(&mut frames, opaque, Form::Json, false, &pull);
    }
    deaf(stage, DEAF_PULLERS, &frames, usize::MAX).map(|seen| told(&seen))
}

/// A hundred thousand pulls that wait, of one client and then of a hundred, on the queue that the good clients write to; for
/// a tag that never comes. They take their answers while they ask.
pub(super) fn pulls(stage: &Stage) -> Result<String> {
    let mut rounds = Vec::new();
    for connections in [1, 100].into_iter().cycle() {
        if stage.over() {
            break;
        }
        let began = Instant::now();
        rounds.push(pulls_of(stage, connections)?);
        // A round takes as long as the pulls wait, unless messages come in between.
        std::thread::sleep(Duration::from_secs(4).saturating_sub(began.elapsed()));
    }
    let parted: Vec<_> = rounds.iter().map(|round| format!("{} held and {} not", round.held, round.refused)).collect();
    let put_off: u64 = rounds.iter().map(|round| round.put_off).sum();
    Ok(format!(
        "each of {PULLS} answered in {} rounds: {}; {put_off} times not read from",
        rounds.len(),
        parted.join(", ")
    ))
}

/// What became of many pulls.
#[derive(Debug, Default)]
struct Pulls {
    held: usize,
    refused: usize,
    put_off: u64,
}

fn pulls_of(stage: &Stage, connections: usize) -> Result<Pulls> {
    const HELD: Duration = Duration::from_secs(4);
    const AT_A_TIME: usize = 100;
    let mut ends = Vec::new();
    for queue in 0..i32::try_from(load::QUEUES)? {
        ends.push(stage.stranger()?.max_offset(load::TOPIC, queue)?);
    }
    let each = PULLS / connections;
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = stage.stranger()?;
        client.never_wait()?;
        clients.push((client, 0));
    }
    let mut seen = Pulls::default();
    let (began, mut moved_at) = (Instant::now(), Instant::now());
    while seen.held + seen.refused < PULLS {
        let mut moved = 0;
        for (client, asked) in &mut clients {
            if client.unsent() == 0 {
                for nth in *asked..(*asked + AT_A_TIME).min(each) {
                    let queue = nth % ends.len();
                    let pull = pull_request(load::TOPIC, i32::try_from(queue)?, ends[queue], "neverseen", HELD);
                    *asked = usize::try_from(client.post(&pull))?;
                }
            }
            let (sent, heard) = client.exchange().context("a pull of many")?;
            seen.put_off += u64::from(client.unsent() > 0 && sent == 0);
            moved += sent + heard;
            while let Some((_, response)) = client.received()? {
                ensure!(matches!(response.code, 19 | 20), "a pull of many was answered with {}", response.code);
                *if began.elapsed() >= HELD / 2 { &mut seen.held } else { &mut seen.refused } += 1;
            }
        }
        if moved > 0 {
            moved_at = Instant::now();
        } else {
            let Pulls { held, refused, .. } = seen;
            ensure!(
                moved_at.elapsed() < PUT_OFF,
                "for {PUT_OFF:?} neither read from nor answered; {held} pulls were held and {refused} not"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(seen)
}

/// Heartbeats with as many subscriptions as pass, of many clients, and with more.
pub(super) fn subscriptions(stage: &Stage) -> Result<String> {
    let beat = |client: usize, groups: usize, topics: usize| {
        let wants = |group: usize| Subscription {
            topic: format!("Wanted-{group}"),
            sub_string: Some("*".to_owned()),
            sub_version: 1,
            ..Subscription::default()
        };
        let consumer = |group: usize| ConsumerData {
            group_name: format!("wants-{client}-{group}"),
            subscription_data_set: (0..topics).map(wants).collect(),
            ..ConsumerData::default()
        };
        Request::Heartbeat(Box::new(Heartbeat {
            client_id: format!("wanting-{client}"),
            consumer_data_set: (0..groups).map(consumer).collect(),
            ..Heartbeat::default()
        }))
    };
    let (mut taken, mut refused, mut closed, mut busy) = (0, 0, 0, 0);
    for round in 0.. {
        if stage.over() {
            break;
        }
        for (groups, topics, code, text) in
            [(1, 10_001, 1, "subscriptions"), (1_001, 1, 1, "consumer groups"), (10, 1_000, 0, "")]
        {
            let mut client = stage.stranger()?;
            // A large frame that is not complete is the first to go when others leave theirs incomplete.
            let Ok(response) = client.ask(&beat(round % 8, groups, topics)) else {
                closed += 1;
                continue;
            };
            if response.code == ResponseCode::SystemBusy as i32 {
                busy += 1;
                continue;
            }
            judge(&response, code, text).with_context(|| format!("{groups} groups of {topics} topics"))?;
            *if code == 0 { &mut taken } else { &mut refused } += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(format!(
        "{taken} heartbeats of 10,000 subscriptions taken, {refused} of too many refused, {busy} put off, {closed} closed upon"
    ))
}

/// A thousand connections that join one group, are all in it, and leave.
pub(super) fn members(stage: &Stage) -> Result<String> {
    let (mut rounds, mut pushed, mut slowest) = (0, 0, Duration::ZERO);
    while !stage.over() {
        let began = Instant::now();
        let mut clients = Vec::with_capacity(MEMBERS);
        let beat = |member: usize| heartbeat_request(&format!("member-{member}"), "crowd", TOPIC);
        for member in 0..MEMBERS {
            let mut client = stage.stranger()?;
            client.post(&beat(member));
            client.flush()?;
            clients.push(client);
        }
        for (member, client) in clients.iter_mut().enumerate() {
            let (_, response) = client.receive()?.context("a member's connection was closed")?;
            if response.code == ResponseCode::SystemBusy as i32 {
                client.must(&beat(member)).context("a member that was put off")?;
            } else {
                judge(&response, 0, "").context("a member's heartbeat")?;
            }
            client.shrink();
        }
        let asked = ConsumerList { group: "crowd".into() };
        let list = stage.stranger()?.must(&Request::ConsumerList(asked))?;
        let body = list.body.concat();
        let listed: serde_json::Value = serde_json::from_slice(&body).context("the list of members")?;
        let count = listed["consumerIdList"].as_array().map_or(0, Vec::len);
        ensure!(count == MEMBERS, "{count} of {MEMBERS} members are in the list");
        rounds += 1;
        pushed += clients.iter().map(Client::pushed).sum::<u64>();
        slowest = slowest.max(began.elapsed());
        drop(clients);
        std::thread::sleep(Duration::from_secs(1));
    }
    let slowest = slowest.as_secs_f64();
    Ok(format!("{rounds} times {MEMBERS} members of one group; {pushed} notices read, {slowest:.1} s at most to join"))
}

/// Clients whose clock is years off, in both directions.
pub(super) fn clocks(stage: &Stage) -> Result<String> {
    const YEARS: i64 = 10 * 365 * 86_400_000;
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().context("a clock before 1970")?.as_millis())?;
    let mut rounds = 0;
    while !stage.over() {
        for (index, at) in [0, -1, i64::MIN, i64::MAX, now - YEARS, now + YEARS].into_iter().enumerate() {
            let mut client = stage.stranger()?;
            let group = format!("clock-{index}");
            let mut beat = heartbeat_request(&group, &group, TOPIC);
            if let Request::Heartbeat(beat) = &mut beat {
                beat.consumer_data_set[0].subscription_data_set[0].sub_version = at;
            }
            client.must(&beat)?;
            let pull = |version: i64| {
                let fields = json!({
                    "consumerGroup": group, "topic": TOPIC, "queueId": "0", "queueOffset": "0", "maxMsgNums": "1",
                    "sysFlag": "0", "commitOffset": "0", "suspendTimeoutMillis": "0", "subVersion": version.to_string(),
                });
                frame(&command(11, &fields), b"")
            };
            // A pull by somebody who has the same clock is served, one from a later time must wait for its heartbeat.
            client.raw(&pull(at))?;
            let (_, response) = client.receive()?.context("closed instead of an answer")?;
            // Or too many of the others' old messages are being read.
            let busy = response.code == ResponseCode::SystemBusy as i32;
            ensure!(busy || matches!(response.code, 0 | 19 | 21), "a pull at {at} was answered with {}", response.code);
            if let Some(later) = at.checked_add(1) {
                client.raw(&pull(later))?;
                let (_, response) = client.receive()?.context("closed instead of an answer")?;
                judge(&response, 25, "not latest").context("a pull from later than the heartbeat")?;
            }
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(format!("{rounds} rounds of six clocks"))
}

/// Good requests that come byte by byte; each is answered in the end.
pub(super) fn slow_frames(stage: &Stage) -> Result<String> {
    let mut bytes = Vec::new();
    write_request(&mut bytes, 1, Form::Json, false, &Request::RuntimeInfo);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(stage.stranger()?);
    }
    let left = stage.until.saturating_duration_since(Instant::now());
    let pause = left / u32::try_from(bytes.len() + 1)?;
    for byte in &bytes {
        for client in &mut clients {
            client.raw(std::slice::from_ref(byte))?;
        }
        std::thread::sleep(pause);
    }
    for client in &mut clients {
        let (_, response) = client.receive()?.context("a slow request was closed upon")?;
        judge(&response, 0, "")?;
    }
    Ok(format!("{} requests of {} bytes, a byte each {pause:?}, all answered", clients.len(), bytes.len()))
}

/// Frames that announce as much as may be, send a part of it, and wait.
pub(super) fn announcements(stage: &Stage) -> Result<String> {
    let mut part = vec![b'x'; 1 << 20];
    part.splice(..0, (16u32 << 20).wrapping_sub(4).to_be_bytes().into_iter().chain([0, 0, 0, 100]));
    deaf_parts(stage, &part)
}

fn deaf_parts(stage: &Stage, part: &[u8]) -> Result<String> {
    let (mut rounds, mut cut_off) = (0, 0);
    while !stage.over() {
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = stage.stranger()?;
            let sent = client.raw(part).is_ok();
            clients.push((client, sent));
        }
        std::thread::sleep(Duration::from_secs(1));
        for (client, sent) in &mut clients {
            client.patience(Duration::from_millis(1))?;
            // Closed; what is still waited for gives a timeout instead.
            cut_off += u64::from(!*sent || client.receive().is_ok());
        }
        rounds += 1;
    }
    Ok(format!("{rounds} times 100 frames of 16 MiB, 1 MiB of each sent; {cut_off} were cut off"))
}

/// Connections that say one thing and then nothing.
pub(super) fn idle(stage: &Stage) -> Result<String> {
    let case = Case::new("", frame(&command(28, &json!({})), b""), Expected::Code(0, ""));
    let mut clients = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let mut client = stage.stranger()?;
        client.raw(&case.bytes)?;
        clients.push(client);
    }
    // The system drops who knocks while too many wait at the door, and knocks for them again after a while: not after the storm.
    let mut outside = 0;
    for client in &mut clients {
        let left = stage.until.saturating_duration_since(Instant::now());
        client.patience(left.max(Duration::from_millis(1)))?;
        outside += u64::from(hear(client, &case, true)? == Heard::Closed);
        client.shrink();
    }
    std::thread::sleep(stage.until.saturating_duration_since(Instant::now()));
    Ok(format!("{} connections, {outside} of them not let in", clients.len()))
}
