use crate::calls::Calls;
use crate::connections::Connections;
use crate::seldom::Seldom;
use keepmq_protocol::frame::{self, Caller};
use keepmq_protocol::seam::CallId;
use keepmq_protocol::{Request, Response};
use keepmq_world::Mono;

/// Bytes shown in the log of a stream that is not ours.
const SHOWN: usize = 16;

/// Log lines about what strangers send.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    lengths: Seldom,
    headers: Seldom,
}

/// A connection that was read.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) slot: usize,
    /// Why nothing more will come.
    pub(crate) end: Option<String>,
}

/// What was made of a connection's bytes.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) slot: usize,
    /// Bytes that are dealt with.
    pub(crate) used: usize,
    /// A request was among them.
    pub(crate) asked: bool,
    /// Why the connection ends.
    pub(crate) end: Option<String>,
}

/// What came in one turn. Requests borrow from the connections' buffers.
#[derive(Debug, Default)]
pub(crate) struct Taken<'b> {
    pub(crate) requests: Vec<(Caller, Request<'b>)>,
    /// Answered without the core.
    pub(crate) refused: Vec<(Caller, Response)>,
    pub(crate) cuts: Vec<Cut>,
}

/// Cuts and reads all whole frames of the connections that were read. `answered` is told of calls that have their response.
pub(crate) fn take<'b>(
    connections: &'b Connections,
    touched: Vec<Touched>,
    frame_max: usize,
    calls: &mut Calls,
    complaints: &mut Complaints,
    mut answered: impl FnMut(CallId, Response),
    now: Mono,
) -> Taken<'b> {
    let mut taken = Taken { cuts: Vec::with_capacity(touched.len()), ..Taken::default() };
    for Touched { slot, end } in touched {
        let connection = connections.at(slot).expect("a connection that was just read is there");
        let mut cut = Cut { slot, used: 0, asked: false, end };
        loop {
            let rest = &connection.incoming[cut.used..];
            let raw = match frame::cut(rest, frame_max) {
                Ok(Some(raw)) => raw,
                Ok(None) => break,
                Err(error) => {
                    let seen = rest[..rest.len().min(SHOWN)].escape_ascii();
                    if let Some(others) = complaints.lengths.speak(now) {
                        tracing::warn!(peer = %connection.peer, %error, %seen, others, "closing a connection: this is not remoting");
                    }
                    cut.end = Some(error.to_string());
                    break;
                }
            };
            cut.used += raw.size;
            let frame = match frame::read(&raw) {
                Ok(frame) => frame,
                // Where the frame ends is known, but not which number an answer would carry: the peer's other requests on this
                // connection need not die for it, and RocketMQ, which closes here, makes all of them fail.
                Err(error) => {
                    if let Some(others) = complaints.headers.speak(now) {
                        tracing::warn!(peer = %connection.peer, %error, others, "skipping a frame");
                    }
                    continue;
                }
            };
            if frame.is_response() {
                match calls.answered(connection.conn, frame.opaque) {
                    Some(call) => answered(call, Response::read(&frame)),
                    None => tracing::debug!(
                        peer = %connection.peer,
                        opaque = frame.opaque,
                        "dropping a response that no call waits for"
                    ),
                }
                continue;
            }
            let caller = frame.caller(connection.conn);
            match Request::read(&frame) {
                Ok(request) => {
                    cut.asked = true;
                    taken.requests.push((caller, request));
                }
                Err(refusal) => {
                    tracing::debug!(peer = %connection.peer, code = frame.code, remark = refusal.remark, "refusing a request");
                    taken.refused.push((caller, Response::refuse(refusal.code, refusal.remark)));
                }
            }
        }
        taken.cuts.push(cut);
    }
    taken
}
