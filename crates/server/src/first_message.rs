//! The first message through a broker's own port: created, sent, pulled back. A small blocking client.

use crate::failure::{Failure, exit};
use keepmq_protocol::frame::{self, FRAME_MAX, Form};
use keepmq_protocol::header::Str;
use keepmq_protocol::record;
use keepmq_protocol::request::{CreateTopic, Pull, Send, SendHeader, SendVia};
use keepmq_protocol::{Request, Response};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const TOPIC: &str = "demo";
const BODY: &[u8] = b"the first message, kept";
const WITHIN: Duration = Duration::from_secs(10);

/// Creates the topic `demo`, sends one message to it, pulls it and compares; says how long the acknowledgement took.
pub(crate) fn send_and_pull(broker: SocketAddr) -> Result<String, Failure> {
    exchange(broker).map_err(|why| Failure {
        what: format!("the first message did not come back from {broker}"),
        why,
        todo: "look at the lines above; `keepmq dev` with a fresh --data folder shows whether it is the store".to_owned(),
        exit: exit::IO,
    })
}

fn exchange(broker: SocketAddr) -> Result<String, String> {
    let text = |error: io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&broker, WITHIN).map_err(text)?;
    stream.set_read_timeout(Some(WITHIN)).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let name = || Str::Borrowed(TOPIC);
    let create = CreateTopic {
        topic: name(),
        default_topic: Some(Str::Borrowed("TBW102")),
        read_queues: 4,
        write_queues: 4,
        perm: 6,
        filter_type: Some(Str::Borrowed("SINGLE_TAG")),
        sys_flag: Some(0),
        order: false,
        attributes: None,
    };
    ask(&mut stream, 1, &Request::CreateTopic(create))?;
    let now = keepmq_net::now().wall.0;
    let header = SendHeader {
        producer_group: Str::Borrowed("keepmq-dev"),
        topic: name(),
        default_topic: Str::Borrowed("TBW102"),
        default_topic_queues: 4,
        queue_id: 0,
        sys_flag: 0,
        born_at: now,
        flag: 0,
        properties: None,
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    let begun = Instant::now();
    ask(&mut stream, 2, &Request::Send(Send { via: SendVia::V2, header, body: BODY }))?;
    let took = begun.elapsed();
    let pull = Pull {
        group: Str::Borrowed("TOOLS_CONSUMER"),
        topic: name(),
        queue_id: 0,
        offset: 0,
        max_messages: 1,
        // Without a heartbeat the filter must stand in the header.
        sys_flag: 4,
        commit_offset: 0,
        suspend_ms: 0,
        subscription: Some(Str::Borrowed("*")),
        sub_version: now,
        expression_type: Some(Str::Borrowed("TAG")),
        max_bytes: None,
    };
    let pulled = ask(&mut stream, 3, &Request::Pull(pull))?;
    let body: Vec<u8> = pulled.body.concat();
    let record = record::decode_unchecked(&body).map_err(|error| error.to_string())?;
    if record.body != BODY {
        return Err("what came back is not what was sent".to_owned());
    }
    Ok(format!("{TOPIC}/q{}@{}, acknowledged in {:.1} ms", record.queue_id, record.queue_offset, took.as_secs_f64() * 1e3))
}

/// Sends a request and waits for its answer.
fn ask(stream: &mut TcpStream, opaque: i32, request: &Request<'_>) -> Result<Response, String> {
    let mut out = Vec::new();
    frame::write_request(&mut out, opaque, Form::Json, false, request);
    stream.write_all(&out).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(raw) = frame::cut(&bytes, FRAME_MAX).map_err(|error| error.to_string())? {
            let answer = Response::read(&frame::read(&raw).map_err(|error| error.to_string())?);
            return match answer.is_ok() {
                true => Ok(answer),
                false => Err(format!("the broker answered {}: {}", answer.code, answer.remark.unwrap_or_default())),
            };
        }
        match stream.read(&mut piece).map_err(|error| error.to_string())? {
            0 => return Err("the broker closed the connection".to_owned()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}
