use bytes::Bytes;
use keepmq_protocol::Request;
use keepmq_protocol::Response;
use keepmq_protocol::frame::{self, Caller, Form};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// A body piece up to this size is copied behind its head: cheaper than one more element of a gathering write.
const COPIED: usize = 4 << 10;
/// Elements of one gathering write.
const SLICES: usize = 64;
/// What is kept for the next replies when everything is sent.
const KEPT: usize = 64 << 10;
/// Sent bytes at the front are removed when there are so many and they are the greater part.
const COMPACT: usize = 64 << 10;

/// What waits to be written to a connection.
///
/// ```text
///   bytes   ├ sent ─┼ heads and small bodies … ┼ heads … ┤
///   pieces                                     ↑ at: a large body, shared with its owner, goes here
/// ```
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent.
    piece_sent: usize,
    unsent: usize,
}

#[derive(Debug)]
struct Piece {
    at: usize,
    body: Bytes,
}

impl Outgoing {
    /// Bytes that wait.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(crate) fn response(&mut self, to: &Caller, response: &Response) {
        let before = self.bytes.len();
        frame::write_response_head(&mut self.bytes, to, response);
        for body in &response.body {
            if body.len() <= COPIED {
                self.bytes.extend_from_slice(body);
            } else {
                self.pieces.push_back(Piece { at: self.bytes.len(), body: body.clone() });
                self.unsent += body.len();
            }
        }
        self.unsent += self.bytes.len() - before;
    }

    pub(crate) fn request(&mut self, opaque: i32, oneway: bool, request: &Request<'_>) {
        let before = self.bytes.len();
        frame::write_request(&mut self.bytes, opaque, Form::Json, oneway, request);
        self.unsent += self.bytes.len() - before;
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.unsent += frame.len();
    }

    /// Writes what the other side takes without waiting: one call, as long as everything fits into it. Answers how much it was.
    pub(crate) fn write_to(&mut self, sink: &mut impl Write) -> io::Result<usize> {
        let mut total = 0;
        while self.unsent > 0 {
            let (offered, outcome) = if self.pieces.is_empty() {
                let bytes = &self.bytes[self.sent..];
                (bytes.len(), sink.write(bytes))
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let (used, offered) = self.gather(&mut slices);
                (offered, sink.write_vectored(&slices[..used]))
            };
            match outcome {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.advance(written);
                    total += written;
                    // A stream that takes less than it is offered is full, and tells when it has room again.
                    if written < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Gives memory back that nothing waits in.
    pub(crate) fn release(&mut self) {
        if self.unsent == 0 {
            *self = Self::default();
        }
    }

    /// Fills `slices` from the front; how many were filled, and with how many bytes.
    fn gather<'o>(&'o self, slices: &mut [IoSlice<'o>; SLICES]) -> (usize, usize) {
        let (mut used, mut offered) = (0, 0);
        let mut add = |slice: &'o [u8]| {
            let room = used < SLICES;
            if room && !slice.is_empty() {
                slices[used] = IoSlice::new(slice);
                used += 1;
                offered += slice.len();
            }
            room
        };
        let (mut from, mut skip) = (self.sent, self.piece_sent);
        for piece in &self.pieces {
            if !(add(&self.bytes[from..piece.at]) && add(&piece.body[skip..])) {
                return (used, offered);
            }
            (from, skip) = (piece.at, 0);
        }
        add(&self.bytes[from..]);
        (used, offered)
    }

    fn advance(&mut self, mut written: usize) {
        self.unsent = self.unsent.checked_sub(written).expect("no more is written than waits");
        while written > 0 {
            let bound = self.pieces.front().map_or(self.bytes.len(), |piece| piece.at);
            let plain = written.min(bound - self.sent);
            self.sent += plain;
            written -= plain;
            if let Some(piece) = self.pieces.front()
                && self.sent == piece.at
            {
                let shared = written.min(piece.body.len() - self.piece_sent);
                self.piece_sent += shared;
                written -= shared;
                if self.piece_sent == piece.body.len() {
                    self.pieces.pop_front();
                    self.piece_sent = 0;
                }
            }
        }
        if self.unsent == 0 {
            self.sent = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        } else if self.sent >= COMPACT && self.sent * 2 > self.bytes.len() {
            self.bytes.drain(..self.sent);
            for piece in &mut self.pieces {
                piece.at -= self.sent;
            }
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_protocol::frame::Language;
    use keepmq_protocol::seam::Conn;

    /// Takes `most` bytes a call, then would block when `calls` are used up.
    struct Sink {
        taken: Vec<u8>,
        most: usize,
        calls: usize,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }
        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.calls = self.calls.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            let before = self.taken.len();
            for slice in slices {
                let room = self.most - (self.taken.len() - before);
                self.taken.extend_from_slice(&slice[..room.min(slice.len())]);
            }
            Ok(self.taken.len() - before)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn caller(opaque: i32) -> Caller {
        let (conn, form, oneway) = (Conn(0), Form::Json, false);
        Caller { conn, opaque, form, oneway, version: 0, language: Language::Java }
    }

    fn reply(size: usize) -> Response {
        Response::ok().with_body(vec![b'x'; size])
    }

    #[test]
    fn small_and_large_replies_leave_in_order_and_in_one_write() {
        let mut out = Outgoing::default();
        let sizes = [0, 10, COPIED + 1, 0, 100_000, COPIED, 7];
        for (opaque, size) in (0..).zip(sizes) {
            out.response(&caller(opaque), &reply(size));
        }
        let mut sink = Sink { taken: Vec::new(), most: usize::MAX, calls: 1 };
        assert_eq!(out.write_to(&mut sink).unwrap(), sink.taken.len());
        assert_eq!((out.unsent(), sink.calls), (0, 0));
        check(&sink.taken, &sizes);
    }

    #[test]
    fn a_reader_that_takes_little_by_little_gets_the_same_bytes() {
        let sizes: Vec<usize> = (0..200).map(|n| if n % 3 == 0 { 5000 + n } else { n * 10 }).collect();
        for most in [1000, 4096, 65_537] {
            let mut out = Outgoing::default();
            let mut sink = Sink { taken: Vec::new(), most, calls: 0 };
            for (opaque, size) in (0..).zip(&sizes) {
                out.response(&caller(opaque), &reply(*size));
                sink.calls = 1;
                out.write_to(&mut sink).unwrap();
            }
            while out.unsent() > 0 {
                sink.calls = 1;
                assert!(out.write_to(&mut sink).unwrap() > 0);
            }
            check(&sink.taken, &sizes);
        }
    }

    fn check(mut bytes: &[u8], sizes: &[usize]) {
        for (opaque, size) in (0..).zip(sizes) {
            let raw = frame::cut(bytes, frame::FRAME_MAX).unwrap().expect("a whole frame");
            let frame = frame::read(&raw).unwrap();
            assert_eq!((frame.opaque, frame.body.len()), (opaque, *size));
            bytes = &bytes[raw.size..];
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
    }
}
