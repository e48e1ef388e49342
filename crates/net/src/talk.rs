use crate::clock;
use crate::crew::{Crew, HEAD};
use crate::inbox::{Asked, Note, Word};
use keepmq_protocol::Request;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::{Core, Effect, Event};
use std::sync::{Arc, Mutex, MutexGuard};

/// What one shard and the core say to each other.
///
/// The core is lent to one shard at a time. What it wants done on another shard's connections is posted before it is given back,
/// and notes are taken before that, too: so what several shards were told about one connection is done in the order of effects.
pub(crate) struct Talk<C: Core> {
    pub(crate) crew: Arc<Crew<C::Done>>,
    /// Which of the crew's shards this is.
    pub(crate) shard: usize,
    /// What the core has not heard yet. The requests of a turn come between the two.
    pub(crate) opened: Vec<Event<'static, C::Done>>,
    pub(crate) others: Vec<Event<'static, C::Done>>,
    /// What is to be done here, the notes first.
    pub(crate) notes: Vec<Note<C::Done>>,
    pub(crate) effects: Vec<Effect<C::Work>>,
    /// The core was told something, and not asked yet what it wants done.
    undrawn: bool,
    /// What is to be done elsewhere, by shard.
    outboxes: Vec<Vec<Note<C::Done>>>,
}

impl<C: Core> Talk<C> {
    pub(crate) fn new(crew: Arc<Crew<C::Done>>, shard: usize) -> Self {
        let outboxes = (0..crew.len()).map(|_| Vec::new()).collect();
        let (opened, others, notes, effects) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { crew, shard, opened, others, notes, effects, undrawn: false, outboxes }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.shard == HEAD
    }

    /// Whether there is something to tell.
    pub(crate) fn has_news(&self) -> bool {
        !(self.opened.is_empty() && self.others.is_empty())
    }

    /// Takes the notes that wait.
    pub(crate) fn take_notes(&mut self) {
        self.crew.take(self.shard, &mut self.notes);
    }

    /// Takes what the core wants done before anything has happened.
    pub(crate) fn begin(&mut self, core: &Mutex<C>) {
        self.take_effects(lock(core));
    }

    /// Tells the core all there is to tell, and takes what it wants done.
    pub(crate) fn tell(&mut self, core: &Mutex<C>) {
        if let Some(core) = self.told(core, Vec::new()) {
            self.take_effects(core);
        }
    }

    /// Tells the core what has come. What it wants done is drawn later.
    pub(crate) fn hear(&mut self, core: &Mutex<C>, requests: Vec<(Caller, Request<'_>)>) {
        self.undrawn |= self.told(core, requests).is_some();
    }

    /// Takes what the core wants done since it was told something.
    pub(crate) fn draw(&mut self, core: &Mutex<C>) {
        if std::mem::take(&mut self.undrawn) {
            self.take_effects(lock(core));
        }
    }

    /// Tells the core, under one lock; `None` when there was nothing to tell, or nothing may be told any more.
    fn told<'c>(&mut self, core: &'c Mutex<C>, requests: Vec<(Caller, Request<'_>)>) -> Option<MutexGuard<'c, C>> {
        let now = clock::now();
        let due = self.is_head() && self.crew.is_due(now.mono);
        if requests.is_empty() && !self.has_news() && !due {
            return None;
        }
        let mut core = lock(core);
        if self.crew.is_ending() {
            self.opened.clear();
            self.others.clear();
            return None;
        }
        for event in self.opened.drain(..) {
            core.handle(event, now);
        }
        for (from, request) in requests {
            core.handle(Event::Request { from, request }, now);
        }
        for event in self.others.drain(..) {
            core.handle(event, now);
        }
        // Asked again: another shard may have held the core in between.
        if due && self.crew.is_due(now.mono) {
            core.handle(Event::Tick, now);
        }
        Some(core)
    }

    fn take_effects(&mut self, mut core: MutexGuard<'_, C>) {
        let Self { crew, shard, effects, outboxes, .. } = self;
        let elsewhere = |conn| Some(crew.shard_of(conn)).filter(|owner| owner != shard);
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Reply { to, response } => match elsewhere(to.conn) {
                    Some(owner) => outboxes[owner].push(Note::Word(Word::Reply { to, response })),
                    None => effects.push(Effect::Reply { to, response }),
                },
                Effect::Push { conn, request } => match elsewhere(conn) {
                    Some(owner) => outboxes[owner].push(Note::Push { conn, request }),
                    None => effects.push(Effect::Push { conn, request }),
                },
                Effect::Close { conn } => match elsewhere(conn) {
                    Some(owner) => outboxes[owner].push(Note::Close { conn }),
                    None => effects.push(Effect::Close { conn }),
                },
                Effect::Call { call, peer, request, until } if *shard != HEAD => {
                    outboxes[HEAD].push(Note::Call(Box::new(Asked { call, peer, request, until })));
                }
                Effect::Tell { peer, request } if *shard != HEAD => {
                    outboxes[HEAD].push(Note::Tell { peer, request });
                }
                Effect::Exit(exit) => {
                    crew.exits();
                    effects.push(Effect::Exit(exit));
                }
                own @ (Effect::Call { .. } | Effect::Tell { .. } | Effect::Work(_)) => effects.push(own),
            }
        }
        let mut woken = crew.deliver(outboxes);
        if crew.tick_at(core.deadline()) {
            woken.add(HEAD);
        }
        if crew.len() > 1 {
            crew.take(*shard, &mut self.notes);
        }
        drop(core);
        crew.wake_some(woken);
    }

    /// Has an answer that was made here given to a connection of another shard; the answer back when the connection is ours.
    pub(crate) fn pass_on(&mut self, word: Word<C::Done>) -> Option<Word<C::Done>> {
        if let Word::Reply { to, .. } = &word {
            let owner = self.crew.shard_of(to.conn);
            if owner != self.shard {
                self.outboxes[owner].push(Note::Word(word));
                return None;
            }
        }
        Some(word)
    }

    /// Posts what was passed on.
    pub(crate) fn post(&mut self) {
        let woken = self.crew.deliver(&mut self.outboxes);
        self.crew.wake_some(woken);
    }
}

fn lock<C>(core: &Mutex<C>) -> MutexGuard<'_, C> {
    core.lock().expect("nobody panics while holding a core")
}
