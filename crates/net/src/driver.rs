use crate::calls::{Calls, Start};
use crate::clock;
use crate::dial::{self, Dialled};
use crate::inbox::{Inbox, Note, Word};
use crate::incoming::{self, Complaints, Taken};
use crate::shard::Hands;
use crate::sockets::{Gone, Sockets};
use keepmq_protocol::Request;
use keepmq_protocol::frame::{self, Caller, Form};
use keepmq_protocol::seam::{CallError, CallId, Core, Effect, Event, Exit};
use keepmq_world::Mono;
use mio::net::TcpStream;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long replies may take to leave when the process ends.
const PARTING: Duration = Duration::from_secs(1);

/// A shard at work: between its sockets and its core.
pub(crate) struct Driver<C: Core, H> {
    sockets: Sockets,
    inbox: Inbox<C::Done>,
    notes: Vec<Note<C::Done>>,
    calls: Calls,
    hands: H,
    news: News<C::Done>,
    effects: Vec<Effect<C::Work>>,
    /// When the core wants its tick.
    tick_at: Option<Mono>,
    exit: Option<Exit>,
    complaints: Complaints,
}

/// What the core has not heard yet. The requests of a turn come between the two.
struct News<D> {
    opened: Vec<Event<'static, D>>,
    others: Vec<Event<'static, D>>,
}

impl<C: Core, H: Hands<C>> Driver<C, H>
where
    C::Done: Send + 'static,
{
    pub(crate) fn new(sockets: Sockets, inbox: Inbox<C::Done>, hands: H) -> Self {
        Self {
            sockets,
            inbox,
            notes: Vec::new(),
            calls: Calls::default(),
            hands,
            news: News { opened: Vec::new(), others: Vec::new() },
            effects: Vec::new(),
            tick_at: None,
            exit: None,
            complaints: Complaints::default(),
        }
    }

    /// Turns until the core wants to end.
    pub(crate) fn run(mut self, core: &Mutex<C>) -> io::Result<Exit> {
        let outcome = self.turns(core);
        self.inbox.end();
        outcome
    }

    fn turns(&mut self, core: &Mutex<C>) -> io::Result<Exit> {
        // A core may have something to do before anything happens.
        drain(&mut *lock(core), &mut self.effects, &mut self.tick_at);
        self.carry_out(clock::now().mono);
        loop {
            if let Some(exit) = self.exit.take() {
                self.sockets.part(clock::now().mono + PARTING, || clock::now().mono)?;
                tracing::info!(?exit, "a shard has ended");
                return Ok(exit);
            }
            self.sockets.wait(self.pause())?;
            self.turn(core);
        }
    }

    /// How long nothing need be done unless something happens.
    fn pause(&self) -> Duration {
        if self.sockets.is_busy() || !self.news.opened.is_empty() || !self.news.others.is_empty() {
            return Duration::ZERO;
        }
        let times = [self.tick_at, self.calls.deadline()];
        let first = times.into_iter().flatten().fold(self.sockets.deadline(), Mono::min);
        first.since(clock::now().mono)
    }

    fn turn(&mut self, core: &Mutex<C>) {
        let now = clock::now().mono;
        self.sockets.accept(now);
        self.hear_notes(now);
        let touched = self.sockets.read(now);
        let Taken { requests, refused, answered, cuts } = incoming::take(
            &self.sockets.connections,
            touched,
            self.sockets.frame_max(),
            &mut self.calls,
            &mut self.complaints,
            now,
        );
        for (call, response) in answered {
            self.news.others.push(Event::Answered { call, outcome: Ok(response) });
        }
        for cut in &cuts {
            let connection = self.sockets.connections.at(cut.slot).expect("a connection that was just read is there");
            // We made it, and now its other side asks something.
            let new = cut.asked && !connection.announced;
            if new {
                self.sockets.opened.push((connection.conn, connection.peer));
            }
            if let Some(why) = &cut.end {
                let gone = Gone::new(connection, why);
                self.sockets.gone.push(Gone { announced: gone.announced || new, ..gone });
            }
        }
        for (conn, peer) in self.sockets.opened.drain(..) {
            self.news.opened.push(Event::Opened { conn, peer });
        }
        for gone in self.sockets.gone.drain(..) {
            report(&gone, &mut self.calls, &mut self.news);
        }
        tell(core, requests, &mut self.news, &mut self.effects, &mut self.tick_at);

        self.sockets.settle(cuts, now);
        for (caller, response) in refused {
            self.sockets.reply(&caller, &response, now);
        }
        // Only now, when all that came in time is read: this process may have stood still for longer than its peers.
        self.sockets.scan(now);
        self.expire_calls(now);
        self.carry_out(now);
        if self.exit.is_none() {
            for gone in self.sockets.gone.drain(..) {
                report(&gone, &mut self.calls, &mut self.news);
            }
            tell(core, Vec::new(), &mut self.news, &mut self.effects, &mut self.tick_at);
            self.carry_out(now);
        }
        self.sockets.write(now);
    }

    /// Words from other threads, and connections that were made for calls.
    fn hear_notes(&mut self, now: Mono) {
        let mut notes = std::mem::take(&mut self.notes);
        self.inbox.take(&mut notes);
        for note in notes.drain(..) {
            match note {
                Note::Word(word) => self.hear(word, now),
                Note::Dialled(dialled) => self.dialled(dialled, now),
            }
        }
        self.notes = notes;
    }

    fn hear(&mut self, word: Word<C::Done>, now: Mono) {
        match word {
            Word::Done(done) => self.news.others.push(Event::Done(done)),
            Word::Reply { to, response } => self.sockets.reply(&to, &response, now),
            Word::Space { free } => self.news.others.push(Event::Space { free }),
            Word::Stop => {
                tracing::info!(
                    connections = self.sockets.connections.len(),
                    "asked to stop: nobody is accepted any more"
                );
                self.sockets.stop_listening();
                self.news.others.push(Event::Stop);
            }
        }
    }

    fn dialled(&mut self, Dialled { peer, outcome }: Dialled, now: Mono) {
        let made = outcome.and_then(|stream| {
            let address = stream.peer_addr().map_err(|error| error.to_string())?;
            let stream = TcpStream::from_std(stream);
            self.sockets.admit(stream, address, Some(Arc::clone(&peer)), now).map_err(|error| error.to_string())
        });
        match made {
            Ok(conn) => {
                tracing::debug!(?conn, %peer, "connected");
                for frame in self.calls.connected(&peer, conn, now) {
                    self.sockets.send(conn, &frame, now);
                }
            }
            Err(why) => {
                tracing::debug!(%peer, why, "cannot connect");
                for (call, error) in self.calls.unreachable(&peer, &why) {
                    self.fail(call, error);
                }
            }
        }
    }

    fn expire_calls(&mut self, now: Mono) {
        for expired in self.calls.expired(now) {
            let (call, error) = expired.ended;
            self.fail(call, error);
            // Silent since the call was made: taken for dead, so that the next call connects anew.
            if let Some((conn, sent)) = expired.sent {
                self.sockets.close_if_silent(conn, sent);
            }
        }
    }

    fn carry_out(&mut self, now: Mono) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { to, response } => self.sockets.reply(&to, &response, now),
                Effect::Push { conn, request } => self.sockets.push(conn, &request, now),
                Effect::Close { conn } => self.sockets.close_politely(conn),
                Effect::Call { call, peer, request, until } => self.call(call, &peer, &request, until, now),
                Effect::Work(work) => {
                    if let Some(word) = self.hands.work(work) {
                        self.hear(word, now);
                    }
                }
                Effect::Exit(exit) => self.exit = Some(exit),
            }
        }
        self.effects = effects;
    }

    fn call(&mut self, call: CallId, peer: &str, request: &Request<'_>, until: Mono, now: Mono) {
        let start = self.calls.start(call, peer, until, now, |opaque| {
            let mut frame = Vec::new();
            frame::write_request(&mut frame, opaque, Form::Json, false, request);
            frame
        });
        match start {
            Start::Send(conn, frame) => self.sockets.send(conn, &frame, now),
            Start::Dial(peer) => {
                if let Err(error) = dial::start(Arc::clone(&peer), self.inbox.clone()) {
                    let outcome = Err(format!("no thread could be started for it: {error}"));
                    self.dialled(Dialled { peer, outcome }, now);
                }
            }
            Start::Hold => {}
            Start::Refused(error) => self.fail(call, error),
        }
    }

    fn fail(&mut self, call: CallId, error: CallError) {
        self.news.others.push(Event::Answered { call, outcome: Err(error) });
    }
}

/// Makes news of a connection's end: for the calls on it, and for the core if it knows the connection.
fn report<D>(gone: &Gone, calls: &mut Calls, news: &mut News<D>) {
    if let Some(peer) = &gone.dialled {
        for (call, error) in calls.closed(peer, gone.conn, &gone.why) {
            news.others.push(Event::Answered { call, outcome: Err(error) });
        }
    }
    if gone.announced {
        news.others.push(Event::Closed { conn: gone.conn });
    }
}

fn lock<C>(core: &Mutex<C>) -> MutexGuard<'_, C> {
    core.lock().expect("nobody panics while holding a core")
}

fn drain<C: Core>(core: &mut C, effects: &mut Vec<Effect<C::Work>>, tick_at: &mut Option<Mono>) {
    while let Some(effect) = core.poll_effect() {
        effects.push(effect);
    }
    *tick_at = core.deadline();
}

/// Tells the core all there is to tell, under one lock, and takes what it wants done.
fn tell<C: Core>(
    core: &Mutex<C>,
    requests: Vec<(Caller, Request<'_>)>,
    news: &mut News<C::Done>,
    effects: &mut Vec<Effect<C::Work>>,
    tick_at: &mut Option<Mono>,
) {
    let now = clock::now();
    let due = tick_at.is_some_and(|at| at <= now.mono);
    if requests.is_empty() && news.opened.is_empty() && news.others.is_empty() && !due {
        return;
    }
    let mut core = lock(core);
    for event in news.opened.drain(..) {
        core.handle(event, now);
    }
    for (from, request) in requests {
        core.handle(Event::Request { from, request }, now);
    }
    for event in news.others.drain(..) {
        core.handle(event, now);
    }
    if due {
        core.handle(Event::Tick, now);
    }
    drain(&mut *core, effects, tick_at);
}
