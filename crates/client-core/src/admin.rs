//! Questions of tools and operators: each goes to one peer, or to the first name server that answers.

use crate::cx::Cx;
use keepmq_protocol::seam::{CallId, Core, Effect, Event, Exit, Outcome};
use keepmq_protocol::{Request, Response, ResponseCode};
use keepmq_world::{Mono, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The first name server that answers, whatever it says; the one that answered last comes first.
    NameServer,
    /// `host:port`.
    At(String),
}

/// What an admin is told.
#[derive(Debug)]
pub enum AdminCommand {
    /// Ask; [`AdminWork::Answered`] follows, exactly once.
    Ask {
        /// Names the answer.
        id: u64,
        /// Whom.
        peer: Peer,
        /// What.
        request: Box<Request<'static>>,
        /// How long one peer may take.
        timeout: Duration,
    },
    /// End. What is not answered is answered by nobody.
    Close,
}

/// What an admin wants done.
#[derive(Debug)]
pub enum AdminWork {
    /// A question has an answer.
    Answered {
        /// Which.
        id: u64,
        /// The answer, whatever it says; or each peer that was tried, with the reason why it gave none.
        outcome: Result<Box<Response>, Vec<(String, String)>>,
    },
    /// It has ended; nothing follows.
    Closed,
}

/// Asks what it is told to ask.
pub struct Admin {
    cx: Cx<AdminWork>,
    name_servers: Vec<String>,
    /// Which name server is asked first.
    first: usize,
    asks: BTreeMap<CallId, Ask>,
    closed: bool,
}

struct Ask {
    id: u64,
    request: Box<Request<'static>>,
    timeout: Duration,
    /// Who was asked, and who is asked when that one does not answer.
    peer: String,
    others: Vec<String>,
    tried: Vec<(String, String)>,
}

impl Admin {
    /// One that has asked nobody anything yet.
    pub fn new(name_servers: Vec<String>, now: Now) -> Self {
        assert!(!name_servers.is_empty(), "a client has at least one name server");
        Self { cx: Cx::new(0, now), name_servers, first: 0, asks: BTreeMap::new(), closed: false }
    }

    fn command(&mut self, command: AdminCommand) {
        match command {
            AdminCommand::Ask { id, peer, request, timeout } => {
                let (peer, others) = match peer {
                    Peer::At(peer) => (peer, Vec::new()),
                    Peer::NameServer => {
                        let mut servers = self.name_servers.clone();
                        servers.rotate_left(self.first);
                        let first = servers.remove(0);
                        // The next to be asked is taken from the end.
                        servers.reverse();
                        (first, servers)
                    }
                };
                self.ask(Ask { id, request, timeout, peer, others, tried: Vec::new() });
            }
            AdminCommand::Close => self.end(),
        }
    }

    fn ask(&mut self, ask: Ask) {
        let call = self.cx.call(&ask.peer, (*ask.request).clone(), self.cx.now.mono + ask.timeout);
        self.asks.insert(call, ask);
    }

    fn answered(&mut self, call: CallId, outcome: Outcome) {
        let Some(mut ask) = self.asks.remove(&call) else { return };
        match outcome {
            Ok(response) => {
                if let Some(nth) = self.name_servers.iter().position(|server| *server == ask.peer) {
                    self.first = nth;
                }
                self.cx.work(AdminWork::Answered { id: ask.id, outcome: Ok(Box::new(response)) });
            }
            Err(error) => {
                ask.tried.push((ask.peer.clone(), error.to_string()));
                match ask.others.pop() {
                    Some(next) => {
                        ask.peer = next;
                        self.ask(ask);
                    }
                    None => self.cx.work(AdminWork::Answered { id: ask.id, outcome: Err(ask.tried) }),
                }
            }
        }
    }

    fn end(&mut self) {
        self.closed = true;
        for ask in std::mem::take(&mut self.asks).into_values() {
            self.cx.work(AdminWork::Answered { id: ask.id, outcome: Err(ask.tried) });
        }
        self.cx.work(AdminWork::Closed);
        self.cx.emit(Effect::Exit(Exit::Clean));
    }
}

impl Core for Admin {
    type Work = AdminWork;
    type Done = AdminCommand;

    fn handle(&mut self, event: Event<'_, AdminCommand>, now: Now) {
        self.cx.now = now;
        match event {
            _ if self.closed => {}
            Event::Done(command) => self.command(command),
            Event::Answered { call, outcome } => self.answered(call, outcome),
            Event::Request { from, .. } if !from.oneway => {
                let response = Response::refuse(ResponseCode::RequestCodeNotSupported, "a tool does not serve this");
                self.cx.emit(Effect::Reply { to: from, response });
            }
            Event::Stop => self.end(),
            Event::Request { .. } | Event::Opened { .. } | Event::Closed { .. } | Event::Space { .. } | Event::Tick => {
            }
        }
    }

    fn poll_effect(&mut self) -> Option<Effect<AdminWork>> {
        self.cx.poll_effect()
    }

    /// Calls have their own ends.
    fn deadline(&self) -> Option<Mono> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepmq_protocol::seam::CallError;
    use keepmq_world::Timestamp;

    fn step(admin: &mut Admin, event: Event<'_, AdminCommand>) -> String {
        admin.handle(event, Now { mono: Mono(0), wall: Timestamp(0) });
        let mut words = Vec::new();
        while let Some(effect) = admin.poll_effect() {
            words.push(match effect {
                Effect::Call { call, peer, .. } => format!("{}→{peer}", call.0),
                Effect::Work(AdminWork::Answered { outcome: Ok(_), .. }) => "answer".to_owned(),
                Effect::Work(AdminWork::Answered { outcome: Err(tried), .. }) => {
                    tried.into_iter().map(|(peer, _)| peer).collect::<Vec<_>>().join("+")
                }
                Effect::Work(AdminWork::Closed) => "closed".to_owned(),
                other => format!("{other:?}"),
            });
        }
        words.join(" ")
    }

    fn ask(peer: Peer) -> Event<'static, AdminCommand> {
        let timeout = Duration::from_secs(1);
        Event::Done(AdminCommand::Ask { id: 1, peer, request: Box::new(Request::ClusterInfo), timeout })
    }

    fn gone(call: u64) -> Event<'static, AdminCommand> {
        let error = CallError::Lost { peer: "x".to_owned(), why: "gone".to_owned() };
        Event::Answered { call: CallId(call), outcome: Err(error) }
    }

    fn answer(call: u64) -> Event<'static, AdminCommand> {
        Event::Answered { call: CallId(call), outcome: Ok(Response::ok()) }
    }

    #[test]
    fn name_servers_are_asked_in_turn_and_the_one_that_answers_comes_first() {
        let servers = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut admin = Admin::new(servers, Now { mono: Mono(0), wall: Timestamp(0) });
        assert_eq!(step(&mut admin, ask(Peer::NameServer)), "1→a");
        assert_eq!(step(&mut admin, gone(1)), "2→b");
        assert_eq!(step(&mut admin, answer(2)), "answer");
        assert_eq!(step(&mut admin, ask(Peer::NameServer)), "3→b");
        assert_eq!(step(&mut admin, gone(3)), "4→c");
        assert_eq!(step(&mut admin, gone(4)), "5→a");
        assert_eq!(step(&mut admin, gone(5)), "b+c+a", "each that was tried, with its reason");
        assert_eq!(step(&mut admin, ask(Peer::At("x".to_owned()))), "6→x");
        assert_eq!(step(&mut admin, gone(6)), "x");
        assert_eq!(step(&mut admin, answer(6)), "");
        assert_eq!(step(&mut admin, Event::Stop), "closed Exit(Clean)");
        assert_eq!(step(&mut admin, ask(Peer::NameServer)), "");
    }
}
