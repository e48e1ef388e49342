use crate::calls::{Calls, Start};
use crate::clock;
use crate::dial::{self, Dialled};
use crate::inbox::{Asked, Note, Word};
use crate::incoming::{self, Complaints, Taken};
use crate::shards::Hands;
use crate::sockets::{Gone, Sockets};
use crate::talk::Talk;
use keepmq_protocol::Request;
use keepmq_protocol::frame::{self, Form};
use keepmq_protocol::seam::{CallError, CallId, Conn, Core, Effect, Event};
use keepmq_world::Mono;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long replies may take to leave when the process ends.
const PARTING: Duration = Duration::from_secs(1);
/// How often a turn looks for more requests before their effects are carried out.
const LOOKS: usize = 4;
/// A look that brings less than one part of so many of what was heard is the last.
const WORTH: usize = 8;

/// A shard at work: between its sockets and its core.
pub(crate) struct Driver<C: Core, H> {
    sockets: Sockets,
    talk: Talk<C>,
    /// The head's. Other shards have none under way.
    calls: Calls,
    hands: H,
    complaints: Complaints,
}

impl<C: Core, H: Hands<C>> Driver<C, H>
where
    C::Done: Send + 'static,
{
    pub(crate) fn new(sockets: Sockets, talk: Talk<C>, hands: H) -> Self {
        Self { sockets, talk, calls: Calls::default(), hands, complaints: Complaints::default() }
    }

    /// Turns until the core wants to end, or a shard has failed: the crew knows.
    pub(crate) fn run(mut self, core: &Mutex<C>) {
        if let Err(error) = self.turns(core) {
            self.talk.crew.end(Err(error));
        }
        if let Err(error) = self.part() {
            self.talk.crew.end(Err(error));
        }
        self.talk.crew.ended(self.talk.shard);
    }

    fn turns(&mut self, core: &Mutex<C>) -> io::Result<()> {
        if self.talk.is_head() {
            // A core may have something to do before anything happens.
            self.talk.begin(core);
            self.carry_out(clock::now().mono);
        }
        while !self.talk.crew.is_ending() {
            self.wait()?;
            self.turn(core)?;
            self.talk.crew.turned(self.talk.shard);
        }
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        if self.sockets.is_busy() || self.talk.has_news() {
            return self.poll(Duration::ZERO);
        }
        let own = self.calls.deadline().map_or(self.sockets.deadline(), |at| at.min(self.sockets.deadline()));
        // Only the head watches the clock for the core.
        let until = if self.talk.is_head() { self.talk.crew.sleep(own) } else { own };
        let waited = self.poll(until.since(clock::now().mono));
        if self.talk.is_head() {
            self.talk.crew.woke();
        }
        waited
    }

    /// Looks, for so long at most, what has come, and takes the notes. Always both: whoever puts a note wakes this shard for the
    /// first one only.
    fn poll(&mut self, time: Duration) -> io::Result<()> {
        self.sockets.wait(time)?;
        self.talk.take_notes();
        Ok(())
    }

    /// The end: writes what is owed, also what other shards still have for our connections.
    fn part(&mut self) -> io::Result<()> {
        self.sockets.stop_listening();
        self.talk.crew.leave();
        while !self.talk.crew.all_left() {
            self.sockets.wait(PARTING)?;
        }
        let now = clock::now().mono;
        self.talk.take_notes();
        self.hear_notes(now);
        self.sockets.part(now + PARTING, || clock::now().mono)?;
        tracing::info!(shard = self.talk.shard, "a shard has ended");
        Ok(())
    }

    fn turn(&mut self, core: &Mutex<C>) -> io::Result<()> {
        let now = clock::now().mono;
        self.sockets.accept(now);
        for (shard, stream, peer) in self.sockets.elsewhere.drain(..) {
            self.talk.crew.put(shard, Note::Accepted { stream, peer });
        }
        self.hear_notes(now);
        let mut heard = 0;
        for _ in 0..LOOKS {
            let asked = self.listen(core, now);
            heard += asked;
            // What others have sent meanwhile goes with it: their records join the group that is about to be written, and wait
            // for one flush, not for two. Whoever is alone is not kept waiting, and nor is anybody by a flood.
            if asked < 2 || asked < heard / WORTH || self.sockets.has_unread() {
                break;
            }
            self.poll(Duration::ZERO)?;
            self.hear_notes(now);
        }
        self.talk.draw(core);
        // Only now, when all that came in time is read: this process may have stood still for longer than its peers.
        self.sockets.scan(now);
        self.expire_calls(now);
        self.carry_out(now);
        gather(&mut self.sockets.opened, &mut self.sockets.gone, &mut self.calls, &mut self.talk);
        self.talk.tell(core);
        self.carry_out(now);
        self.sockets.write(now);
        Ok(())
    }

    /// Reads what has come, and tells the core; how many requests that were.
    fn listen(&mut self, core: &Mutex<C>, now: Mono) -> usize {
        let touched = self.sockets.read(now);
        let others = &mut self.talk.others;
        let Taken { requests, refused, cuts } = incoming::take(
            &self.sockets.connections,
            touched,
            self.sockets.frame_max(),
            &mut self.calls,
            &mut self.complaints,
            |call, response| others.push(Event::Answered { call, outcome: Ok(response) }),
            now,
        );
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
        gather(&mut self.sockets.opened, &mut self.sockets.gone, &mut self.calls, &mut self.talk);
        let asked = requests.len();
        self.talk.hear(core, requests);

        if let Some(fullest) = self.sockets.settle(cuts, now) {
            self.talk.crew.wake(fullest);
        }
        for (caller, response) in refused {
            self.sockets.reply(&caller, &response, now);
        }
        asked
    }

    fn hear_notes(&mut self, now: Mono) {
        let mut notes = std::mem::take(&mut self.talk.notes);
        for note in notes.drain(..) {
            match note {
                Note::Word(word) => self.hear(word, now),
                Note::Push { conn, request } => self.sockets.push(conn, &request, now),
                Note::Close { conn } => self.sockets.close_politely(conn),
                Note::Call(asked) => self.call(&asked, now),
                Note::Tell { peer, request } => self.tell(&peer, &request, now),
                Note::Accepted { stream, peer } => self.sockets.welcome(stream, peer, now),
                Note::Dialled(dialled) => self.dialled(dialled, now),
            }
        }
        // Its memory, for the next turn; hearing adds nothing to it.
        self.talk.notes = notes;
    }

    fn hear(&mut self, word: Word<C::Done>, now: Mono) {
        match word {
            Word::Done(done) => self.talk.others.push(Event::Done(done)),
            Word::Reply { to, response } => self.sockets.reply(&to, &response, now),
            Word::Space { free } => self.talk.others.push(Event::Space { free }),
            Word::Stop => {
                tracing::info!(connections = self.sockets.everybodys(), "asked to stop: nobody is accepted any more");
                self.sockets.stop_listening();
                self.talk.others.push(Event::Stop);
            }
        }
    }

    fn dialled(&mut self, Dialled { peer, outcome }: Dialled, now: Mono) {
        let made = outcome.and_then(|stream| {
            let address = stream.peer_addr().map_err(|error| error.to_string())?;
            let stream = TcpStream::from_std(stream);
            self.sockets.dialled(stream, address, Arc::clone(&peer), now).map_err(|error| error.to_string())
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

    /// Does what is to be done here: what other shards were told first, because it was said earlier.
    fn carry_out(&mut self, now: Mono) {
        self.hear_notes(now);
        let mut effects = std::mem::take(&mut self.talk.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { to, response } => self.sockets.reply(&to, &response, now),
                Effect::Push { conn, request } => self.sockets.push(conn, &request, now),
                Effect::Close { conn } => self.sockets.close_politely(conn),
                Effect::Call { call, peer, request, until } => self.call(&Asked { call, peer, request, until }, now),
                Effect::Tell { peer, request } => self.tell(&peer, &request, now),
                Effect::Work(work) => {
                    if let Some(word) = self.hands.work(work).and_then(|word| self.talk.pass_on(word)) {
                        self.hear(word, now);
                    }
                }
                Effect::Exit(exit) => self.talk.crew.end(Ok(exit)),
            }
        }
        self.talk.effects = effects;
        self.talk.post();
    }

    fn call(&mut self, asked: &Asked, now: Mono) {
        let Asked { call, peer, request, until } = asked;
        match self.calls.start(*call, peer, *until, now, |opaque| encoded(opaque, false, request)) {
            Start::Send(conn, opaque) => self.sockets.ask(conn, opaque, request, now),
            Start::Dial(peer) => self.dial(peer, now),
            Start::Hold => {}
            Start::Refused(error) => self.fail(*call, error),
        }
    }

    fn tell(&mut self, peer: &str, request: &Request<'_>, now: Mono) {
        match self.calls.tell(peer, |number| encoded(number, true, request)) {
            Start::Send(conn, _) => self.sockets.push(conn, request, now),
            Start::Dial(peer) => self.dial(peer, now),
            Start::Hold => {}
            Start::Refused(error) => tracing::debug!(%error, "nobody hears what was to be told"),
        }
    }

    fn dial(&mut self, peer: Arc<str>, now: Mono) {
        if let Err(error) = dial::start(Arc::clone(&peer), Arc::clone(&self.talk.crew)) {
            let outcome = Err(format!("no thread could be started for it: {error}"));
            self.dialled(Dialled { peer, outcome }, now);
        }
    }

    fn fail(&mut self, call: CallId, error: CallError) {
        self.talk.others.push(Event::Answered { call, outcome: Err(error) });
    }
}

/// A frame that must wait for its connection.
fn encoded(opaque: i32, oneway: bool, request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::write_request(&mut frame, opaque, Form::Json, oneway, request);
    frame
}

/// Makes news of who has come and gone: for the core if it knows the connection, and for the calls on it.
fn gather<C: Core>(opened: &mut Vec<(Conn, SocketAddr)>, gone: &mut Vec<Gone>, calls: &mut Calls, talk: &mut Talk<C>) {
    // Told first, whatever else is told: nobody asks or goes before having come.
    talk.opened.extend(opened.drain(..).map(|(conn, peer)| Event::Opened { conn, peer }));
    for gone in gone.drain(..) {
        if let Some(peer) = &gone.dialled {
            for (call, error) in calls.closed(peer, gone.conn, &gone.why) {
                talk.others.push(Event::Answered { call, outcome: Err(error) });
            }
        }
        if gone.announced {
            talk.others.push(Event::Closed { conn: gone.conn });
        }
    }
}
