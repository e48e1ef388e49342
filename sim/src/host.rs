//! A core that runs, and what its shell keeps for it: frames in, effects out. Every request and every answer goes through
//! the real codecs.

use crate::net::{LinkId, Net, News};
use crate::stage::{Due, MICRO, NodeId, Stage};
use crate::trace::Rare;
use keepmq_protocol::frame::{self, Caller, FRAME_MAX, Form, Frame, FrameError};
use keepmq_protocol::seam::{CallError, CallId, Conn, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{Request, Response};
use keepmq_world::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Who listens where.
#[derive(Default)]
pub(crate) struct Directory {
    by_address: BTreeMap<String, NodeId>,
    addresses: Vec<SocketAddr>,
}

impl Directory {
    pub(crate) fn add(&mut self, node: NodeId, address: SocketAddr) {
        assert_eq!(node.0, self.addresses.len(), "nodes are added in order");
        self.addresses.push(address);
        self.by_address.insert(address.to_string(), node);
    }

    pub(crate) fn node_at(&self, address: &str) -> Option<NodeId> {
        self.by_address.get(address).copied()
    }

    pub(crate) fn address(&self, node: NodeId) -> SocketAddr {
        self.addresses[node.0]
    }
}

pub(crate) struct Host<C: Core> {
    pub(crate) core: C,
    pub(crate) node: NodeId,
    pub(crate) life: u32,
    /// Milliseconds by which the wall clock is off.
    pub(crate) skew: i64,
    inbox: Vec<(LinkId, News)>,
    turn_due: bool,
    tick: Option<Mono>,
    tick_version: u64,
    /// Ticks in a row without time passing.
    ticks_in_place: u32,
    ticked_at: u64,
    dialled: BTreeMap<String, LinkId>,
    calls: BTreeMap<i32, Calling>,
    next_opaque: i32,
    /// Name servers that were told that this broker goes.
    left: BTreeSet<String>,
    /// Requests that wait for an answer.
    asked: BTreeMap<(Conn, i32), Asked>,
    /// Longest time that an answer may take.
    patience: u64,
    /// Connections that have ended: nobody waits there any more, once this turn's answers are made.
    closed: Vec<Conn>,
    /// The simulator itself asks: on this connection, and this was the answer.
    probe: Conn,
    probed: Option<Response>,
}

/// Requests that are held, or whose answer is read from the disk: PULL_MESSAGE, LITE_PULL_MESSAGE, VIEW_MESSAGE_BY_ID.
const HELD: [i32; 3] = [11, 361, 33];

/// A request that waits for its answer.
#[derive(Clone, Debug)]
struct Asked {
    code: i32,
    at: u64,
    /// A pull that takes whatever comes: its topic, queue and offset.
    pull: Option<(String, i32, i64)>,
    /// There was something for it when somebody looked last.
    served: bool,
}

struct Calling {
    call: CallId,
    link: LinkId,
    peer: String,
}

/// What a host cannot do by itself.
#[derive(Debug)]
pub(crate) enum Left<W> {
    Work(W),
    Exit(Exit),
    /// Not to be done, only to be known: a request of this code was answered.
    Answered {
        link: LinkId,
        code: i32,
        response_code: i32,
    },
}

impl<C: Core> Host<C> {
    pub(crate) fn new(core: C, node: NodeId, life: u32, skew: i64, net: &mut Net, patience: u64) -> Self {
        Self {
            patience,
            core,
            node,
            life,
            skew,
            inbox: Vec::new(),
            turn_due: false,
            tick: None,
            tick_version: 0,
            ticks_in_place: 0,
            ticked_at: 0,
            dialled: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_opaque: 0,
            left: BTreeSet::new(),
            asked: BTreeMap::new(),
            closed: Vec::new(),
            probe: Conn(net.unused_link().0),
            probed: None,
        }
    }

    /// Something has come in; a turn of the loop will handle it together with what comes until then.
    pub(crate) fn arrived(&mut self, stage: &mut Stage, link: LinkId, news: News) {
        self.inbox.push((link, news));
        if !self.turn_due {
            self.turn_due = true;
            let delay = stage.delay(0, 300 * MICRO);
            stage.after(delay, Due::Turn { node: self.node, life: self.life });
        }
    }

    pub(crate) fn event(&mut self, stage: &mut Stage, event: Event<'_, C::Done>) {
        let now = stage.clocks(self.skew);
        self.core.handle(event, now);
    }

    /// Handles everything in the inbox. Gives the accepted links that have ended.
    pub(crate) fn turn(&mut self, stage: &mut Stage, directory: &Directory) -> Vec<LinkId> {
        self.turn_due = false;
        let mut ended = Vec::new();
        for (link, news) in std::mem::take(&mut self.inbox) {
            let conn = Conn(link.0);
            match news {
                News::Opened { peer } => {
                    // Every connection has a port of its own.
                    let peer = SocketAddr::new(directory.address(peer).ip(), 40_000 + (link.0 % 20_000) as u16);
                    self.event(stage, Event::Opened { conn, peer });
                }
                News::ClosedByPeer => {
                    self.closed.push(conn);
                    ended.push(link);
                    self.event(stage, Event::Closed { conn });
                }
                News::Frame { bytes, .. } => self.frame(stage, conn, &bytes),
                News::DialledClosed { accepted } => self.dialled_closed(stage, link, accepted),
            }
        }
        ended
    }

    /// Requests may come on a connection that this node dialled, too: the frame says what it is.
    fn frame(&mut self, stage: &mut Stage, conn: Conn, bytes: &[u8]) {
        match open(bytes) {
            Ok(frame) if frame.is_response() => self.answer(stage, &frame),
            Ok(frame) => self.request(stage, conn, &frame),
            Err(why) => stage.blame("codec", format!("a frame that we wrote cannot be read: {why}")),
        }
    }

    fn request(&mut self, stage: &mut Stage, conn: Conn, frame: &Frame<'_>) {
        let from = frame.caller(conn);
        match Request::read(frame) {
            Ok(request) => {
                let pull = match &request {
                    Request::Pull(pull) if pull.subscription.as_deref() == Some("*") => {
                        Some((pull.topic.to_string(), pull.queue_id, pull.offset))
                    }
                    _ => None,
                };
                if !from.oneway {
                    self.asked
                        .insert((conn, from.opaque), Asked { code: frame.code, at: stage.now, pull, served: false });
                }
                self.event(stage, Event::Request { from, request });
            }
            Err(refusal) => stage.blame("codec", format!("a request that we wrote is refused: {refusal:?}")),
        }
    }

    fn answer(&mut self, stage: &mut Stage, frame: &Frame<'_>) {
        // An answer to a call that was given up before is nobody's.
        if let Some(calling) = self.calls.remove(&frame.opaque) {
            let outcome = Ok(Response::read(frame));
            self.event(stage, Event::Answered { call: calling.call, outcome });
        }
    }

    fn dialled_closed(&mut self, stage: &mut Stage, link: LinkId, accepted: bool) {
        self.dialled.retain(|_, dialled| *dialled != link);
        let ended: Vec<i32> = self.calls.iter().filter(|(_, c)| c.link == link).map(|(opaque, _)| *opaque).collect();
        for opaque in ended {
            let Some(Calling { call, peer, .. }) = self.calls.remove(&opaque) else { continue };
            let why = "the connection has ended".to_owned();
            let error = if accepted { CallError::Lost { peer, why } } else { CallError::Unreachable { peer, why } };
            let outcome: Outcome = Err(error);
            self.event(stage, Event::Answered { call, outcome });
        }
    }

    pub(crate) fn call_late(&mut self, stage: &mut Stage, call: CallId) {
        let found = self.calls.iter().find(|(_, calling)| calling.call == call).map(|(opaque, _)| *opaque);
        if let Some(Calling { peer, .. }) = found.and_then(|opaque| self.calls.remove(&opaque)) {
            let outcome = Err(CallError::Lost { peer, why: "time ran out".to_owned() });
            self.event(stage, Event::Answered { call, outcome });
        }
    }

    /// The deadline has come, if it is still the one.
    pub(crate) fn tick(&mut self, stage: &mut Stage, version: u64) -> bool {
        if version != self.tick_version {
            return false;
        }
        self.tick = None;
        self.ticks_in_place = if self.ticked_at == stage.now { self.ticks_in_place + 1 } else { 0 };
        self.ticked_at = stage.now;
        if self.ticks_in_place > 1000 {
            stage.blame("liveness", format!("{:?} asks for a tick again and again while no time passes", self.node));
            return false;
        }
        self.event(stage, Event::Tick);
        true
    }

    /// Carries out what can be carried out here, and puts the deadline on the agenda.
    pub(crate) fn settle(&mut self, stage: &mut Stage, net: &mut Net, directory: &Directory) -> Vec<Left<C::Work>> {
        let mut left = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Reply { to, response } => left.extend(self.reply(stage, net, &to, &response)),
                Effect::Push { conn, request } => {
                    self.next_opaque += 1;
                    let bytes = to_bytes(self.next_opaque, Form::Json, true, &request);
                    stage.line(format_args!("{:?} tells {conn:?} {}", self.node, request.code()));
                    net.send(stage, LinkId(conn.0), true, bytes);
                }
                Effect::Close { conn } => {
                    stage.line(format_args!("{:?} closes {conn:?}", self.node));
                    net.close(stage, LinkId(conn.0), true);
                    self.arrived(stage, LinkId(conn.0), News::ClosedByPeer);
                }
                Effect::Call { call, peer, request, until } => {
                    self.call(stage, net, directory, call, peer, &request, until);
                }
                Effect::Tell { peer, request } => self.tell(stage, net, directory, &peer, &request),
                Effect::Work(work) => left.push(Left::Work(work)),
                Effect::Exit(exit) => left.push(Left::Exit(exit)),
            }
        }
        for conn in std::mem::take(&mut self.closed) {
            self.asked.retain(|(on, _), _| *on != conn);
        }
        let deadline = self.core.deadline();
        if deadline != self.tick {
            self.tick = deadline;
            self.tick_version += 1;
            if let Some(Mono(at)) = deadline {
                stage.at(at, Due::Tick { node: self.node, life: self.life, version: self.tick_version });
            }
        }
        left
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one effect")]
    fn call(
        &mut self,
        stage: &mut Stage,
        net: &mut Net,
        directory: &Directory,
        call: CallId,
        peer: String,
        request: &Request<'_>,
        until: Mono,
    ) {
        stage.line(format_args!("{:?} asks {peer} {}", self.node, request.code()));
        if matches!(request, Request::UnregisterBroker(_)) {
            self.left.insert(peer.clone());
        }
        let Some(link) = self.link(stage, net, directory, &peer) else { return };
        self.next_opaque += 1;
        let bytes = to_bytes(self.next_opaque, Form::Json, false, request);
        stage.trace.bytes(&bytes);
        self.calls.insert(self.next_opaque, Calling { call, link, peer });
        net.send(stage, link, false, bytes);
        stage.at(until.0, Due::CallLate { node: self.node, life: self.life, call });
    }

    fn tell(&mut self, stage: &mut Stage, net: &mut Net, directory: &Directory, peer: &str, request: &Request<'_>) {
        stage.line(format_args!("{:?} tells {peer} {}", self.node, request.code()));
        let Some(link) = self.link(stage, net, directory, peer) else { return };
        let bytes = to_bytes(0, Form::Json, true, request);
        stage.trace.bytes(&bytes);
        net.send(stage, link, false, bytes);
    }

    /// The connection to a peer; a new one when there is none.
    fn link(&mut self, stage: &mut Stage, net: &mut Net, directory: &Directory, peer: &str) -> Option<LinkId> {
        if let Some(link) = self.dialled.get(peer) {
            return Some(*link);
        }
        let Some(node) = directory.by_address.get(peer) else {
            stage.blame("call", format!("{:?} calls {peer}, which is nobody", self.node));
            return None;
        };
        let link = net.dial(stage, self.node, *node);
        self.dialled.insert(peer.to_owned(), link);
        Some(link)
    }

    /// Answers a request. Each has one answer, a oneway request none.
    pub(crate) fn reply<W>(
        &mut self,
        stage: &mut Stage,
        net: &mut Net,
        to: &Caller,
        response: &Response,
    ) -> Option<Left<W>> {
        if to.oneway {
            return None;
        }
        let link = LinkId(to.conn.0);
        let dialled = self.dialled.values().any(|known| *known == link);
        let Some(Asked { code, at, .. }) = self.asked.remove(&(to.conn, to.opaque)) else {
            if net.open_at_acceptor(link) && !self.inbox.iter().any(|(on, _)| *on == link) {
                let (conn, opaque) = (to.conn, to.opaque);
                stage.blame(
                    "one-answer",
                    format!("{conn:?} asked nothing numbered {opaque}, or has its answer already"),
                );
            }
            return None;
        };
        let waited = stage.now - at;
        if waited > self.patience && !HELD.contains(&code) {
            let waited = waited as f64 / 1e9;
            stage.blame("timely", format!("{link:?}/{} ({code}) is answered after {waited} s", to.opaque));
        }
        let mut bytes = Vec::new();
        frame::write_response_head(&mut bytes, to, response);
        response.body.iter().for_each(|piece| bytes.extend_from_slice(piece));
        stage.line(format_args!("{:?} answers {link:?}/{} ({code}) with {}", self.node, to.opaque, response.code));
        stage.trace.bytes(&bytes);
        if to.form == Form::Binary {
            stage.happened(Rare::BinaryHeader);
        }
        if to.conn == self.probe {
            self.probed = open(&bytes).ok().map(|frame| Response::read(&frame));
        } else {
            net.send(stage, link, !dialled, bytes);
        }
        Some(Left::Answered { link, code, response_code: response.code })
    }

    /// Who waits for an answer, and for what.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = ((Conn, i32), i32)> {
        self.asked.iter().map(|(whom, asked)| (*whom, asked.code))
    }

    /// The name servers that were told that this broker goes.
    pub(crate) fn left(&self) -> &BTreeSet<String> {
        &self.left
    }

    /// Whether a pull has waited since this was asked last although there was something for it then: the queue and offset.
    /// `next` tells how far a queue reaches.
    pub(crate) fn overlooked(&mut self, next: impl Fn(&C, &str, i32) -> Option<i64>) -> Option<(String, i32, i64)> {
        for asked in self.asked.values_mut() {
            let Some((topic, queue, from)) = &asked.pull else { continue };
            let served = next(&self.core, topic, *queue).is_some_and(|next| *from < next);
            if std::mem::replace(&mut asked.served, served) && served {
                return asked.pull.clone();
            }
        }
        None
    }

    /// The simulator asks. What is left to be done may hold the answer; then `probed` has it.
    pub(crate) fn probe(&mut self, stage: &mut Stage, net: &mut Net, request: &Request<'_>, form: Form) {
        self.probe = Conn(net.unused_link().0);
        self.probed = None;
        let peer = SocketAddr::from(([10, 0, 3, 1], 50_000));
        self.event(stage, Event::Opened { conn: self.probe, peer });
        self.frame(stage, self.probe, &to_bytes(1, form, false, request));
    }

    /// A tool asks, and will have its answer when [`Left::Answered`] names this link.
    pub(crate) fn ask(&mut self, stage: &mut Stage, net: &mut Net, request: &Request<'_>) -> LinkId {
        let link = net.unused_link();
        let peer = SocketAddr::from(([10, 0, 3, 2], 50_000));
        self.event(stage, Event::Opened { conn: Conn(link.0), peer });
        self.frame(stage, Conn(link.0), &to_bytes(1, Form::Json, false, request));
        link
    }

    pub(crate) fn probed(&mut self, stage: &mut Stage) -> Option<Response> {
        self.asked.remove(&(self.probe, 1));
        self.event(stage, Event::Closed { conn: self.probe });
        self.probed.take()
    }

    /// Whether this is the simulator's own question.
    pub(crate) fn is_probe(&self, caller: &Caller) -> bool {
        caller.conn == self.probe
    }
}

/// Reads one whole frame.
pub(crate) fn open(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let raw = frame::cut(bytes, FRAME_MAX)?;
    frame::read(&raw.ok_or_else(|| FrameError::Header("it is not complete".to_owned()))?)
}

/// A request as a frame.
pub(crate) fn to_bytes(opaque: i32, form: Form, oneway: bool, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_request(&mut bytes, opaque, form, oneway, request);
    bytes
}

/// The body of a response, in one piece.
pub(crate) fn body_of(response: &Response) -> Vec<u8> {
    response.body.concat()
}
