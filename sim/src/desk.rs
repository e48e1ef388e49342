//! A client's end of the wire: its connections, its numbered requests, and what waits for an answer.

use crate::checkers::Speaker;
use crate::host::{open, to_bytes};
use crate::net::LinkId;
use crate::stage::{Due, NodeId};
use crate::workload::{Lent, PATIENCE};
use keepmq_protocol::frame::Form;
use keepmq_protocol::{Request, Response};
use std::collections::{BTreeMap, BTreeSet};

/// `A`: what a client remembers of a question.
pub(crate) struct Desk<A> {
    node: NodeId,
    links: BTreeMap<NodeId, LinkId>,
    next_opaque: i32,
    waiting: BTreeMap<i32, Waiting<A>>,
    answered: BTreeSet<i32>,
}

/// A question that has no answer yet.
pub(crate) struct Waiting<A> {
    pub(crate) ask: A,
    pub(crate) link: LinkId,
    pub(crate) to: usize,
    pub(crate) since: u64,
}

/// What a frame said.
pub(crate) enum Heard<A> {
    Answer(Waiting<A>, Speaker, Box<Response>),
    /// A request of this code: somebody says something by himself.
    Told(i32),
}

impl<A> Desk<A> {
    pub(crate) fn new(node: NodeId) -> Self {
        let (links, waiting, answered) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { node, links, next_opaque: 0, waiting, answered }
    }

    pub(crate) fn waiting(&self) -> impl ExactSizeIterator<Item = &A> {
        self.waiting.values().map(|waiting| &waiting.ask)
    }

    pub(crate) fn is_linked(&self, to: usize) -> bool {
        self.links.contains_key(&NodeId(to))
    }

    fn write(&mut self, lent: &mut Lent<'_>, to: usize, request: &Request<'_>, oneway: bool) -> LinkId {
        let node = self.node;
        let link = *self.links.entry(NodeId(to)).or_insert_with(|| lent.net.dial(lent.stage, node, NodeId(to)));
        self.next_opaque += 1;
        let (opaque, code) = (self.next_opaque, request.code());
        let form = if lent.stage.chance.one_in(3) { Form::Binary } else { Form::Json };
        let bytes = to_bytes(opaque, form, oneway, request);
        lent.stage.line(format_args!("{node:?} asks {to} over {link:?}/{opaque} {code}"));
        lent.stage.trace.bytes(&bytes);
        lent.net.send(lent.stage, link, false, bytes);
        link
    }

    /// Asks; gives the connection and the number of the question.
    pub(crate) fn ask(
        &mut self,
        lent: &mut Lent<'_>,
        to: usize,
        request: &Request<'_>,
        ask: A,
        patience: u64,
    ) -> (LinkId, i32) {
        let link = self.write(lent, to, request, false);
        let (since, opaque) = (lent.stage.now, self.next_opaque);
        self.waiting.insert(opaque, Waiting { ask, link, to, since });
        lent.stage.after(patience, Due::AnswerLate { node: self.node, opaque });
        (link, opaque)
    }

    /// Says something that wants no answer.
    pub(crate) fn tell(&mut self, lent: &mut Lent<'_>, to: usize, request: &Request<'_>) -> (LinkId, i32) {
        (self.write(lent, to, request, true), self.next_opaque)
    }

    /// The number of what was asked last, to write something down that an answer will speak of.
    pub(crate) fn last_mut(&mut self) -> &mut A {
        &mut self.waiting.get_mut(&self.next_opaque).expect("something was just asked").ask
    }

    /// No answer in time: the question, to be given up; `None` when it has been answered.
    pub(crate) fn late(&mut self, lent: &mut Lent<'_>, opaque: i32) -> Option<Waiting<A>> {
        let waiting = self.waiting.remove(&opaque)?;
        if lent.stage.now >= waiting.since + PATIENCE
            && lent.shape.healed_at.is_some_and(|healed| waiting.since >= healed)
        {
            let since = waiting.since as f64 / 1e9;
            lent.stage.blame("liveness", format!("no answer to {:?}/{opaque}, asked at {since} s", waiting.link));
        }
        Some(waiting)
    }

    /// Ends a connection; gives what else waited on it.
    pub(crate) fn close(&mut self, lent: &mut Lent<'_>, link: LinkId) -> Vec<Waiting<A>> {
        lent.net.close(lent.stage, link, false);
        self.lost(link)
    }

    pub(crate) fn links(&self) -> Vec<LinkId> {
        self.links.values().copied().collect()
    }

    /// A connection is gone; gives what waited on it.
    pub(crate) fn lost(&mut self, link: LinkId) -> Vec<Waiting<A>> {
        self.links.retain(|_, known| *known != link);
        self.waiting.extract_if(.., |_, waiting| waiting.link == link).map(|(_, waiting)| waiting).collect()
    }

    /// A frame has come. `None`: it answers what was given up.
    pub(crate) fn frame(&mut self, lent: &mut Lent<'_>, link: LinkId, by: u32, bytes: &[u8]) -> Option<Heard<A>> {
        let frame = match open(bytes) {
            Ok(frame) if frame.is_response() => frame,
            Ok(frame) => return Some(Heard::Told(frame.code)),
            Err(why) => {
                lent.stage.blame("codec", format!("a frame from a broker cannot be read: {why}"));
                return None;
            }
        };
        let opaque = frame.opaque;
        if !self.answered.insert(opaque) {
            lent.stage.blame("one-answer", format!("{link:?}/{opaque} is answered a second time"));
            return None;
        }
        let waiting = self.waiting.remove(&opaque)?;
        if waiting.link != link {
            lent.stage.blame("right-answer", format!("{:?}/{opaque} is answered on {link:?}", waiting.link));
        }
        let by = Speaker { broker: waiting.to, life: by };
        lent.books.spoke(link, opaque, by, lent.stage.now);
        Some(Heard::Answer(waiting, by, Box::new(Response::read(&frame))))
    }
}
