use keepmq_protocol::seam::{CallError, CallId, Conn};
use keepmq_world::Mono;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Calls to one peer that may wait for its connection, and their bytes.
const HELD_CALLS: usize = 1024;
const HELD_BYTES: usize = 32 << 20;
/// Connections that may be in the making at once: each is a thread.
const DIALS: usize = 64;
/// The number of what nobody answers: nobody looks for it.
pub(crate) const UNANSWERED: i32 = 0;

/// Calls under way, and the peers they go to.
///
/// A call is answered exactly once: whoever takes it out of `under_way` says how it ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last_opaque: i32,
    under_way: HashMap<i32, UnderWay>,
    by_end: BTreeSet<(Mono, i32)>,
    peers: HashMap<Arc<str>, Peer>,
    dials: usize,
}

#[derive(Debug)]
struct UnderWay {
    call: CallId,
    peer: Arc<str>,
    until: Mono,
    /// On which connection it was sent, and when.
    sent: Option<(Conn, Mono)>,
}

#[derive(Debug)]
enum Peer {
    /// A connection is in the making; these frames wait for it, each with the number under which an answer is expected.
    Dialling {
        held: Vec<(Option<i32>, Vec<u8>)>,
        bytes: usize,
    },
    Connected(Conn),
}

/// What to do for a call that was started.
#[derive(Debug)]
pub(crate) enum Start {
    /// Send it on this connection; an answer is expected under this number.
    Send(Conn, i32),
    /// Make a connection.
    Dial(Arc<str>),
    /// Nothing: it waits for a connection in the making.
    Hold,
    /// It has ended already.
    Refused(CallError),
}

/// The end of a call, without an answer.
pub(crate) type Ended = (CallId, CallError);

/// A call whose time ran out.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) ended: Ended,
    /// On which connection it was sent, and when.
    pub(crate) sent: Option<(Conn, Mono)>,
}

impl Calls {
    /// Starts a call. `encode` makes the frame under the number that it is given, when it must wait.
    pub(crate) fn start(
        &mut self,
        call: CallId,
        peer: &str,
        until: Mono,
        now: Mono,
        encode: impl FnOnce(i32) -> Vec<u8>,
    ) -> Start {
        if until <= now {
            return refused(peer, "the time for the call was over before it began");
        }
        let opaque = self.free_opaque();
        let start = self.hand_on(peer, Some(opaque), encode);
        let sent = match &start {
            Start::Send(conn, _) => Some((*conn, now)),
            Start::Dial(_) | Start::Hold => None,
            Start::Refused(_) => return start,
        };
        let (peer, _) = self.peers.get_key_value(peer).expect("it is dialled or connected");
        self.by_end.insert((until, opaque));
        self.under_way.insert(opaque, UnderWay { call, peer: Arc::clone(peer), until, sent });
        start
    }

    /// Hands on what nobody answers.
    pub(crate) fn tell(&mut self, peer: &str, encode: impl FnOnce(i32) -> Vec<u8>) -> Start {
        self.hand_on(peer, None, encode)
    }

    fn hand_on(&mut self, peer: &str, opaque: Option<i32>, encode: impl FnOnce(i32) -> Vec<u8>) -> Start {
        let number = opaque.unwrap_or(UNANSWERED);
        match self.peers.get_mut(peer) {
            Some(Peer::Connected(conn)) => Start::Send(*conn, number),
            Some(Peer::Dialling { held, bytes }) => {
                let frame = encode(number);
                if held.len() == HELD_CALLS || *bytes + frame.len() > HELD_BYTES {
                    return refused(peer, "too many calls wait for the connection already");
                }
                *bytes += frame.len();
                held.push((opaque, frame));
                Start::Hold
            }
            None if self.dials == DIALS => refused(peer, "too many other connections are being made"),
            None => {
                let name: Arc<str> = peer.into();
                let frame = encode(number);
                let bytes = frame.len();
                self.dials += 1;
                self.peers.insert(Arc::clone(&name), Peer::Dialling { held: vec![(opaque, frame)], bytes });
                Start::Dial(name)
            }
        }
    }

    /// The connection that `Start::Dial` asked for is there. Answers the frames to send.
    pub(crate) fn connected(&mut self, peer: &Arc<str>, conn: Conn, now: Mono) -> Vec<Vec<u8>> {
        let held = self.dialled(peer);
        self.peers.insert(Arc::clone(peer), Peer::Connected(conn));
        let mut frames = Vec::with_capacity(held.len());
        for (opaque, frame) in held {
            match opaque.map(|opaque| self.under_way.get_mut(&opaque)) {
                Some(Some(call)) => call.sent = Some((conn, now)),
                // Its time ran out meanwhile, and it is answered.
                Some(None) => continue,
                None => {}
            }
            frames.push(frame);
        }
        frames
    }

    /// The connection that `Start::Dial` asked for could not be made.
    pub(crate) fn unreachable(&mut self, peer: &Arc<str>, why: &str) -> Vec<Ended> {
        let held = self.dialled(peer);
        held.into_iter()
            .filter_map(|(opaque, _)| self.take(opaque?))
            .map(|gone| (gone.call, CallError::Unreachable { peer: peer.to_string(), why: why.to_owned() }))
            .collect()
    }

    fn dialled(&mut self, peer: &Arc<str>) -> Vec<(Option<i32>, Vec<u8>)> {
        self.dials -= 1;
        match self.peers.remove(peer) {
            Some(Peer::Dialling { held, .. }) => held,
            other => unreachable!("one connection at a time is made to {peer}: {other:?}"),
        }
    }

    /// A response has come; the call that it answers.
    pub(crate) fn answered(&mut self, conn: Conn, opaque: i32) -> Option<CallId> {
        let waits = self.under_way.get(&opaque)?;
        if waits.sent?.0 != conn {
            return None;
        }
        self.take(opaque).map(|answered| answered.call)
    }

    /// A connection that we made has ended.
    pub(crate) fn closed(&mut self, peer: &Arc<str>, conn: Conn, why: &str) -> Vec<Ended> {
        if matches!(self.peers.get(peer), Some(Peer::Connected(known)) if *known == conn) {
            self.peers.remove(peer);
        }
        let lost = self.under_way.iter().filter(|(_, call)| call.sent.is_some_and(|(on, _)| on == conn));
        let mut lost: Vec<i32> = lost.map(|(opaque, _)| *opaque).collect();
        // The core hears of them in the order in which it made them.
        lost.sort_unstable_by_key(|opaque| self.under_way[opaque].call);
        lost.into_iter()
            .filter_map(|opaque| self.take(opaque))
            .map(|gone| (gone.call, CallError::Lost { peer: peer.to_string(), why: why.to_owned() }))
            .collect()
    }

    /// Calls whose time has run out.
    pub(crate) fn expired(&mut self, now: Mono) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some((until, opaque)) = self.by_end.first().copied()
            && until <= now
        {
            let gone = self.take(opaque).expect("a call in `by_end` is under way");
            let peer = gone.peer.to_string();
            let error = match gone.sent {
                Some(_) => CallError::Lost { peer, why: "time ran out".to_owned() },
                None => CallError::Unreachable { peer, why: "time ran out while connecting".to_owned() },
            };
            expired.push(Expired { ended: (gone.call, error), sent: gone.sent });
        }
        expired
    }

    /// When the next one expires.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.by_end.first().map(|(until, _)| *until)
    }

    fn take(&mut self, opaque: i32) -> Option<UnderWay> {
        let gone = self.under_way.remove(&opaque)?;
        assert!(self.by_end.remove(&(gone.until, opaque)), "every call under way stands in `by_end`");
        Some(gone)
    }

    fn free_opaque(&mut self) -> i32 {
        loop {
            self.last_opaque = self.last_opaque.wrapping_add(1);
            if !self.under_way.contains_key(&self.last_opaque) {
                return self.last_opaque;
            }
        }
    }
}

fn refused(peer: &str, why: &str) -> Start {
    Start::Refused(CallError::Unreachable { peer: peer.to_owned(), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(calls: &mut Calls, call: u64, until: u64) -> Start {
        calls.start(CallId(call), "peer:1", Mono(until), Mono(0), |opaque| opaque.to_be_bytes().to_vec())
    }

    fn lost(call: u64, why: &str) -> Ended {
        (CallId(call), CallError::Lost { peer: "peer:1".to_owned(), why: why.to_owned() })
    }

    fn unreachable(call: u64, why: &str) -> Ended {
        (CallId(call), CallError::Unreachable { peer: "peer:1".to_owned(), why: why.to_owned() })
    }

    #[test]
    fn calls_wait_for_one_connection_and_each_ends_once() {
        let mut calls = Calls::default();
        let Start::Dial(peer) = start(&mut calls, 1, 100) else { panic!("the first one dials") };
        assert!(matches!(start(&mut calls, 2, 10), Start::Hold));
        assert!(matches!(start(&mut calls, 3, 0), Start::Refused(CallError::Unreachable { .. })));
        assert_eq!(calls.deadline(), Some(Mono(10)));
        let expired = calls.expired(Mono(10));
        assert_eq!(expired[0].ended, unreachable(2, "time ran out while connecting"));

        let frames = calls.connected(&peer, Conn(7), Mono(11));
        assert_eq!(frames, [1i32.to_be_bytes()], "only the one that still waits is sent");
        assert!(matches!(start(&mut calls, 4, 50), Start::Send(Conn(7), 3)));
        assert!(matches!(start(&mut calls, 5, 60), Start::Send(Conn(7), 4)));
        assert_eq!(calls.answered(Conn(8), 1), None, "a number counts only on its own connection");
        assert_eq!(calls.answered(Conn(7), 1), Some(CallId(1)));
        assert_eq!(calls.answered(Conn(7), 1), None);
        let expired = calls.expired(Mono(50));
        assert_eq!((&expired[0].ended, expired[0].sent), (&lost(4, "time ran out"), Some((Conn(7), Mono(0)))));
        assert_eq!(calls.closed(&peer, Conn(7), "gone"), [lost(5, "gone")]);
        assert_eq!(calls.deadline(), None);

        assert!(matches!(start(&mut calls, 6, 100), Start::Dial(_)), "the next one dials again");
        assert!(matches!(calls.tell("peer:1", |_| vec![7]), Start::Hold), "what is told waits for the connection, too");
        assert_eq!(calls.unreachable(&peer, "refused"), [unreachable(6, "refused")]);
        assert!(calls.under_way.is_empty() && calls.peers.is_empty() && calls.dials == 0);

        assert!(matches!(calls.tell("peer:1", |_| vec![7]), Start::Dial(_)));
        assert_eq!(calls.connected(&peer, Conn(8), Mono(0)), [vec![7]]);
        assert!(matches!(calls.tell("peer:1", |_| unreachable!("it need not wait")), Start::Send(Conn(8), UNANSWERED)));
        assert!(calls.under_way.is_empty(), "nobody waits for an answer");
    }

    #[test]
    fn what_waits_for_a_connection_has_a_bound() {
        let mut calls = Calls::default();
        for call in 0..HELD_CALLS as u64 {
            assert!(!matches!(start(&mut calls, call, 100), Start::Refused(_)));
        }
        assert!(matches!(start(&mut calls, 9999, 100), Start::Refused(_)));
    }
}
