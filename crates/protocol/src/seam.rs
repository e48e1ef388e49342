//! The contract between a core and whoever drives it: a shard in production, the universe in the simulator.
//!
//! ```text
//!   event ──▶ core.handle(event, now)          one at a time, in the order in which they happened
//!   effect ◀── core.poll_effect()              until it answers None
//!              core.deadline()                 when to send Event::Tick, if nothing happens before
//! ```
//!
//! A core never waits, reads a clock, opens a file or a socket. The driver never decides.

use crate::frame::Caller;
use crate::{Request, Response};
use keepmq_world::{Mono, Now};
use std::net::SocketAddr;

/// A connection, named by its driver. Never used twice in the life of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// A call that a core makes to another process, named by the core. Never used twice in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What can happen to a core. `D` is the answer to its own kind of work.
#[derive(Debug)]
pub enum Event<'a, D> {
    /// A peer has connected.
    Opened {
        /// The new connection.
        conn: Conn,
        /// Who connected.
        peer: SocketAddr,
    },
    /// A connection is gone, whoever ended it. Nothing more will come from it, replies to it go nowhere.
    Closed {
        /// The connection.
        conn: Conn,
    },
    /// A well-formed request has come in.
    Request {
        /// Where the answer goes, and in which form.
        from: Caller,
        /// What is asked.
        request: Request<'a>,
    },
    /// A call has an answer, or will not get one.
    Answered {
        /// The call.
        call: CallId,
        /// The response, or why there is none.
        outcome: Outcome,
    },
    /// A piece of work has ended.
    Done(D),
    /// Free bytes on the disk that holds the store.
    Space {
        /// Bytes that an unprivileged process may still allocate.
        free: u64,
    },
    /// The deadline has come.
    Tick,
    /// The operator wants the process to end: finish what was accepted, accept no more, then emit [`Effect::Exit`].
    Stop,
}

/// Answer to a [`Effect::Call`].
pub type Outcome = Result<Response, CallError>;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection could not be made; nothing was sent.
    #[error("cannot reach {peer}: {why}")]
    Unreachable {
        /// The address, as given.
        peer: String,
        /// The operating system's reason.
        why: String,
    },
    /// Sent, but the connection ended, or time ran out, before an answer came. It may have been carried out.
    #[error("no answer from {peer}: {why}")]
    Lost {
        /// The address, as given.
        peer: String,
        /// What ended the wait.
        why: String,
    },
}

/// What a core wants done. `W` is its own kind of work.
#[derive(Debug)]
pub enum Effect<W> {
    /// Answer a request.
    Reply {
        /// Who asked.
        to: Caller,
        /// The answer.
        response: Response,
    },
    /// Send a oneway request to a connected client.
    Push {
        /// The client's connection.
        conn: Conn,
        /// What it is told.
        request: Request<'static>,
    },
    /// End a connection; `Closed` follows.
    Close {
        /// The connection.
        conn: Conn,
    },
    /// Ask another process; `Answered` follows, exactly once.
    Call {
        /// Names the answer.
        call: CallId,
        /// `host:port`.
        peer: String,
        /// What is asked.
        request: Request<'static>,
        /// When the answer is given up.
        until: Mono,
    },
    /// Tell another process something; nobody answers, and nobody hears when it does not get there.
    Tell {
        /// `host:port`.
        peer: String,
        /// What it is told.
        request: Request<'static>,
    },
    /// Do something else; the core's own `Done` follows where its documentation says so.
    Work(W),
    /// End the process. Nothing follows.
    Exit(Exit),
}

/// How a process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked: everything accepted was answered and is as durable as configured.
    Clean,
    /// The disk failed. The text says which file and what happened.
    Disk(String),
}

/// A state machine that somebody else drives. Two implementations run: the broker's and the name server's.
pub trait Core {
    /// Work that only this core knows.
    type Work: std::fmt::Debug;
    /// The end of such work.
    type Done: std::fmt::Debug;

    /// Takes one event.
    fn handle(&mut self, event: Event<'_, Self::Done>, now: Now);
    /// Gives the next effect; `None` when there is nothing more to do until the next event.
    fn poll_effect(&mut self) -> Option<Effect<Self::Work>>;
    /// When it wants to be woken with [`Event::Tick`].
    fn deadline(&self) -> Option<Mono>;
}
