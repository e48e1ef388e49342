//! A first message through the process's own ports: that it works is seen, not claimed.

use keepmq_protocol::body::RouteData;
use keepmq_protocol::frame::{self, FRAME_MAX, Form};
use keepmq_protocol::message::{self, property};
use keepmq_protocol::record;
use keepmq_protocol::request::{CreateTopic, Pull, RouteInfo, Send, SendHeader, SendVia};
use keepmq_protocol::{Request, Response, json};
use keepmq_world::Timestamp;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The topic that `dev` makes.
pub(crate) const TOPIC: &str = "demo";
/// Its queues.
pub(crate) const QUEUES: i32 = 4;
/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
const BODY: &[u8] = b"hello from keepmq dev";

/// What was seen.
pub(crate) struct Seen {
    /// Queue and offset that the message was given.
    pub(crate) queue: i32,
    pub(crate) offset: i64,
    /// From the send to SEND_OK.
    pub(crate) acknowledged: Duration,
}

/// Creates the topic at the broker, finds it through the name server, sends a message and pulls it back.
pub(crate) fn speak(name_server: SocketAddr, broker: SocketAddr, wall: Timestamp) -> io::Result<Seen> {
    let mut client = Client::connect(broker)?;
    client.must("creating the topic", &create())?;
    find_route(name_server, broker)?;

    let mut properties = String::new();
    message::push(&mut properties, property::UNIQ_KEY, &format!("{:032X}", wall.0));
    let began = Instant::now();
    let sent = client.must("sending", &send(&properties, wall))?;
    let acknowledged = began.elapsed();
    let number =
        |name| sent.field::<i64>(name).map_err(|error| io::Error::other(format!("the answer to a send: {error}")));
    let (queue, offset) = (number("queueId")?, number("queueOffset")?);
    let queue = i32::try_from(queue).map_err(|_| io::Error::other(format!("there is no queue {queue}")))?;

    let found = client.must("pulling", &pull(queue, offset))?;
    let body: Vec<u8> = found.body.concat();
    let record =
        record::decode_unchecked(&body).map_err(|error| io::Error::other(format!("what was pulled: {error}")))?;
    if record.body != BODY {
        return Err(io::Error::other("another message was pulled than was sent"));
    }
    Ok(Seen { queue, offset, acknowledged })
}

/// A topic is on its route once the name server has been told, within a second.
fn find_route(name_server: SocketAddr, broker: SocketAddr) -> io::Result<()> {
    let mut client = Client::connect(name_server)?;
    let began = Instant::now();
    loop {
        let response = client.ask(&Request::RouteInfo(RouteInfo { topic: TOPIC.into(), standard_json: Some(true) }))?;
        if response.is_ok() {
            let route: RouteData = json::parse(&response.body.concat())
                .map_err(|error| io::Error::other(format!("the route of {TOPIC}: {error}")))?;
            let mut addresses = route.broker_datas.iter().flat_map(|broker| broker.broker_addrs.values());
            if addresses.any(|address| *address == broker.to_string()) {
                return Ok(());
            }
        }
        if began.elapsed() > PATIENCE {
            let text =
                format!("the name server {name_server} does not lead from {TOPIC} to {broker} after {PATIENCE:?}");
            return Err(io::Error::other(text));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn create() -> Request<'static> {
    Request::CreateTopic(CreateTopic {
        topic: TOPIC.into(),
        default_topic: Some("TBW102".into()),
        read_queues: QUEUES,
        write_queues: QUEUES,
        perm: 6,
        filter_type: Some("SINGLE_TAG".into()),
        sys_flag: Some(0),
        order: false,
        attributes: None,
    })
}

fn send(properties: &str, wall: Timestamp) -> Request<'_> {
    let header = SendHeader {
        producer_group: "keepmq-dev".into(),
        topic: TOPIC.into(),
        default_topic: "TBW102".into(),
        default_topic_queues: QUEUES,
        queue_id: 0,
        sys_flag: 0,
        born_at: wall.0,
        flag: 0,
        properties: Some(properties.into()),
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    Request::Send(Send { via: SendVia::V2, header, body: BODY.into() })
}

fn pull(queue_id: i32, offset: i64) -> Request<'static> {
    Request::Pull(Pull {
        group: "keepmq-dev".into(),
        topic: TOPIC.into(),
        queue_id,
        offset,
        max_messages: 1,
        // The filter stands in the header; nothing is committed.
        sys_flag: 4,
        commit_offset: 0,
        suspend_ms: 0,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: None,
        max_bytes: None,
    })
}

/// One request after the other, on one connection.
struct Client {
    stream: TcpStream,
    opaque: i32,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, opaque: 0 })
    }

    fn must(&mut self, doing: &str, request: &Request<'_>) -> io::Result<Response> {
        let response = self.ask(request)?;
        if response.is_ok() {
            return Ok(response);
        }
        let remark = response.remark.unwrap_or_default();
        Err(io::Error::other(format!("{doing} was answered with code {}: {remark}", response.code)))
    }

    fn ask(&mut self, request: &Request<'_>) -> io::Result<Response> {
        self.opaque += 1;
        let mut out = Vec::new();
        frame::write_request(&mut out, self.opaque, Form::Json, false, request);
        self.stream.write_all(&out)?;
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            if let Some(raw) = frame::cut(&bytes, FRAME_MAX).map_err(io::Error::other)? {
                return frame::read(&raw).map(|frame| Response::read(&frame)).map_err(io::Error::other);
            }
            match self.stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }
}
