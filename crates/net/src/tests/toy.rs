use crate::{Hands, Inbox, NetLimits, Shards, Word};
use bytes::Bytes;
use keepmq_protocol::frame::{self, Caller, FLAG_ONEWAY, FLAG_RESPONSE, Form};
use keepmq_protocol::request::RouteInfo;
use keepmq_protocol::seam::{CallError, CallId, Conn, Core, Effect, Event, Exit};
use keepmq_protocol::{Request, Response};
use keepmq_world::{Mono, Now};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Does what the topic of a GET_ROUTEINFO_BY_TOPIC tells it to.
#[derive(Debug, Default)]
pub(super) struct Toy {
    effects: VecDeque<Effect<(String, Caller, String)>>,
    events: Vec<String>,
    /// Who has come, asked or gone, in this order.
    pub(super) comings: Vec<(Conn, &'static str)>,
    /// How often it was asked for its deadline: once for each lock.
    pub(super) locks: Cell<u32>,
    held: Vec<Caller>,
    ticks: Vec<(Mono, Caller)>,
    calls: HashMap<u64, Caller>,
    stops: u32,
}

impl Toy {
    pub(super) fn heard(&self, event: &str) -> bool {
        self.events.iter().any(|known| known == event)
    }

    pub(super) fn times(&self, event: &str) -> usize {
        self.events.iter().filter(|known| *known == event).count()
    }

    pub(super) fn events(&self) -> &[String] {
        &self.events
    }

    pub(super) fn want_exit(&mut self) {
        self.effects.push_back(Effect::Exit(Exit::Clean));
    }

    fn reply(&mut self, to: Caller, body: impl Into<Bytes>) {
        self.effects.push_back(Effect::Reply { to, response: Response::ok().with_body(body) });
    }

    fn obey(&mut self, from: Caller, order: &str, now: Now) {
        self.events.push(format!("request {order}"));
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let number = || rest.parse::<u64>().expect("a number");
        match verb {
            "echo" => self.reply(from, rest.to_owned()),
            "big" => self.reply(from, vec![b'x'; usize::try_from(number()).unwrap()]),
            "work" | "slow" | "read" => self.effects.push_back(Effect::Work((verb.to_owned(), from, rest.to_owned()))),
            "hold" => self.held.push(from),
            // Everybody who was held is answered, in the order of asking.
            "free" => {
                for to in std::mem::take(&mut self.held) {
                    self.reply(to, "freed");
                }
                self.reply(from, "free");
            }
            // Everybody who was held is told something, and then sent away.
            "evict" => {
                for to in std::mem::take(&mut self.held) {
                    self.effects.push_back(Effect::Push { conn: to.conn, request: route(rest.to_owned()) });
                    self.reply(to, "go");
                    self.effects.push_back(Effect::Close { conn: to.conn });
                }
                self.reply(from, "evicted");
            }
            // Everybody who was held is read for: an answer that is made in the shard where the order came in.
            "serve" => {
                for to in std::mem::take(&mut self.held) {
                    self.effects.push_back(Effect::Work(("read".to_owned(), to, rest.to_owned())));
                }
                self.reply(from, "served");
            }
            "tick" => self.ticks.push((now.mono + Duration::from_millis(number()), from)),
            "push" => {
                self.effects.push_back(Effect::Push { conn: from.conn, request: route(rest.to_owned()) });
                self.reply(from, "pushed");
            }
            "close" => {
                self.reply(from, "closing");
                self.effects.push_back(Effect::Close { conn: from.conn });
            }
            "fail" => {
                self.reply(from, "failing");
                self.effects.push_back(Effect::Exit(Exit::Disk("broken".to_owned())));
            }
            // call PEER MILLISECONDS ORDER
            "call" => {
                let mut words = rest.splitn(3, ' ');
                let (peer, millis) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
                let request = route(words.next().unwrap().to_owned());
                let call = self.calls.len() as u64;
                self.calls.insert(call, from);
                let until = now.mono + Duration::from_millis(millis);
                self.effects.push_back(Effect::Call { call: CallId(call), peer, request, until });
            }
            // tell PEER ORDER
            "tell" => {
                let (peer, order) = rest.split_once(' ').unwrap();
                self.effects.push_back(Effect::Tell { peer: peer.to_owned(), request: route(order.to_owned()) });
                self.reply(from, "told");
            }
            _ => panic!("an order that nobody knows: {order}"),
        }
    }
}

fn route(topic: String) -> Request<'static> {
    Request::RouteInfo(RouteInfo { topic: topic.into(), standard_json: None })
}

impl Core for Toy {
    type Work = (String, Caller, String);
    type Done = (Caller, String);

    fn handle(&mut self, event: Event<'_, Self::Done>, now: Now) {
        match event {
            Event::Opened { conn, .. } => {
                self.comings.push((conn, "opened"));
                self.events.push("opened".to_owned());
            }
            Event::Closed { conn } => {
                self.comings.push((conn, "closed"));
                self.events.push("closed".to_owned());
            }
            Event::Request { from, request: Request::RouteInfo(RouteInfo { topic, .. }) } => {
                self.comings.push((from.conn, "asked"));
                self.obey(from, &topic, now);
            }
            Event::Request { request, .. } => panic!("a request that nobody sends: {request:?}"),
            Event::Answered { call, outcome } => {
                let to = self.calls[&call.0];
                let text = match outcome {
                    Ok(response) => format!("ok {}", String::from_utf8_lossy(&response.body.concat())),
                    Err(CallError::Lost { why, .. }) => format!("lost {why}"),
                    Err(CallError::Unreachable { why, .. }) => format!("unreachable {why}"),
                };
                self.events.push(format!("answered {}", call.0));
                self.reply(to, text);
            }
            Event::Done((to, text)) => self.reply(to, text),
            Event::Space { free } => self.events.push(format!("space {free}")),
            Event::Tick => {
                let (due, rest) = self.ticks.drain(..).partition(|(at, _)| *at <= now.mono);
                self.ticks = rest;
                let due: Vec<_> = due;
                assert!(!due.is_empty(), "a tick comes when something is due");
                due.into_iter().for_each(|(_, to)| self.reply(to, "tick"));
            }
            Event::Stop => {
                self.events.push("stop".to_owned());
                self.stops += 1;
                if self.held.is_empty() || self.stops > 1 {
                    for to in std::mem::take(&mut self.held) {
                        self.reply(to, "cut short");
                    }
                    self.effects.push_back(Effect::Exit(Exit::Clean));
                }
            }
        }
    }

    fn poll_effect(&mut self) -> Option<Effect<Self::Work>> {
        self.effects.pop_front()
    }

    fn deadline(&self) -> Option<Mono> {
        self.locks.set(self.locks.get() + 1);
        self.ticks.iter().map(|(at, _)| *at).min()
    }
}

/// "work" is done on the spot, "slow" by a thread, "read" answers the caller without the core.
#[derive(Clone)]
struct ToyHands {
    inbox: Inbox<(Caller, String)>,
}

impl Hands<Toy> for ToyHands {
    fn work(&mut self, (verb, to, text): (String, Caller, String)) -> Option<Word<(Caller, String)>> {
        match verb.as_str() {
            "work" => Some(Word::Done((to, text))),
            "read" => Some(Word::Reply { to, response: Response::ok().with_body(text) }),
            _ => {
                let inbox = self.inbox.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    inbox.post(Word::Done((to, text)));
                });
                None
            }
        }
    }
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) inbox: Inbox<(Caller, String)>,
    core: Arc<Mutex<Toy>>,
    thread: JoinHandle<io::Result<Exit>>,
}

pub(super) fn running(limits: NetLimits) -> Running {
    running_with(Toy::default(), limits)
}

pub(super) fn running_with(toy: Toy, limits: NetLimits) -> Running {
    running_on(1, toy, limits)
}

pub(super) fn running_on(shards: usize, toy: Toy, limits: NetLimits) -> Running {
    let mut shards = Shards::new(shards, limits).unwrap();
    let address = shards.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let core = Arc::new(Mutex::new(toy));
    let inbox = shards.inbox();
    let hands = ToyHands { inbox: inbox.clone() };
    let thread = std::thread::spawn({
        let core = Arc::clone(&core);
        move || shards.run(&core, hands)
    });
    Running { address, inbox, core, thread }
}

impl Running {
    pub(super) fn client(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    pub(super) fn core<T>(&self, look: impl FnOnce(&Toy) -> T) -> T {
        look(&self.core.lock().unwrap())
    }

    pub(super) fn until(&self, what: &str, mut is: impl FnMut(&Toy) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.core(&mut is) {
            assert!(Instant::now() < end, "{what}; it heard {:?}", self.core(|toy| toy.events().to_vec()));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn end(self) -> Exit {
        self.thread.join().unwrap().unwrap()
    }

    pub(super) fn stop(self) {
        self.inbox.post(Word::Stop);
        assert_eq!(self.end(), Exit::Clean);
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    pub(super) fn request(opaque: i32, order: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write_request(&mut out, opaque, Form::Json, false, &route(order.to_owned()));
        out
    }

    pub(super) fn oneway(order: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write_request(&mut out, 0, Form::Json, true, &route(order.to_owned()));
        out
    }

    pub(super) fn ask(&mut self, opaque: i32, order: &str) {
        self.write(&Self::request(opaque, order));
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn read_some(&mut self, into: &mut [u8]) -> usize {
        self.stream.read(into).unwrap()
    }

    /// All answers in `bytes`, which end where the last of them ends.
    pub(super) fn cut_all(mut bytes: &[u8]) -> Vec<(i32, String)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let raw = frame::cut(bytes, frame::FRAME_MAX).unwrap().expect("a whole frame");
            all.push((frame::read(&raw).unwrap().opaque, String::from_utf8_lossy(raw.body).into_owned()));
            bytes = &bytes[raw.size..];
        }
        all
    }

    /// The next frame: its number, flag, topic and body.
    fn frame(&mut self) -> (i32, i32, String, String) {
        let mut piece = vec![0; 256 << 10];
        loop {
            if let Some(raw) = frame::cut(&self.received, 64 << 20).unwrap() {
                let frame = frame::read(&raw).unwrap();
                let topic =
                    frame.fields.iter().find(|(name, _)| name == "topic").map_or(String::new(), |(_, v)| v.to_string());
                let found = (frame.opaque, frame.flag, topic, String::from_utf8_lossy(raw.body).into_owned());
                let size = raw.size;
                drop(frame);
                self.received.drain(..size);
                return found;
            }
            let read = self.stream.read(&mut piece).unwrap();
            assert!(read > 0, "the connection ends within a frame: {} bytes", self.received.len());
            self.received.extend_from_slice(&piece[..read]);
        }
    }

    pub(super) fn answer(&mut self) -> (i32, String) {
        let (opaque, flag, _, body) = self.frame();
        assert_eq!(flag & FLAG_RESPONSE, FLAG_RESPONSE);
        (opaque, body)
    }

    pub(super) fn request_or_answer(&mut self) -> (&'static str, String) {
        match self.frame() {
            (_, flag, _, body) if flag & FLAG_RESPONSE != 0 => ("answer", body),
            (_, _, topic, _) => ("request", topic),
        }
    }

    /// The next request, as a server reads it: its number and order.
    pub(super) fn order(&mut self) -> (i32, String) {
        let (opaque, _, topic, _) = self.frame();
        (opaque, topic)
    }

    /// What the other side has told us without waiting for an answer.
    pub(super) fn told(&mut self) -> String {
        let (_, flag, topic, _) = self.frame();
        assert_eq!(flag & FLAG_ONEWAY, FLAG_ONEWAY, "nobody waits for an answer to {topic}");
        topic
    }

    /// Whether the other side has closed; waits for it. What comes before is thrown away.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut piece = vec![0; 256 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}
