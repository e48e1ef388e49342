//! What the shards of one core have in common.
//!
//! ```text
//!   any shard, holding the core ──outboxes──▶ posts of the others       replies, pushes, closings; calls to the head
//!   any shard, holding the core ──tick_at───▶ the head, woken if it would sleep for longer
//!   whoever drains Exit ──ending──▶ all: carry out, leave, wait for the others to have left, write what is owed, end
//! ```

use crate::connections::number_of;
use crate::inbox::{Note, Post};
use keepmq_protocol::seam::{Conn, Exit};
use keepmq_world::Mono;
use mio::Waker;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The first shard: it accepts, makes the calls, and watches the clock for the core.
pub(crate) const HEAD: usize = 0;
/// Most shards of one core: as many as a set of shards has bits.
pub(crate) const SHARDS_MAX: usize = 64;
/// No tick is wanted.
const NEVER: u64 = u64::MAX;
/// The head is awake, and looks at `tick_at` before it sleeps.
const AWAKE: u64 = 0;

pub(crate) struct Crew<D> {
    /// Number of the first shard; the others follow.
    first: u64,
    posts: Box<[Post<D>]>,
    /// When the core wants its tick, as of the last time that somebody held it.
    tick_at: AtomicU64,
    /// Until when the head sleeps.
    asleep_until: AtomicU64,
    /// The core has emitted `Exit`, or a shard has failed: nothing more is told to it.
    ending: AtomicBool,
    outcome: Mutex<Option<io::Result<Exit>>>,
    /// Shards that may still post to others.
    staying: AtomicUsize,
}

/// Some of the shards, by their indexes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardSet(u64);

impl ShardSet {
    pub(crate) fn add(&mut self, shard: usize) {
        self.0 |= 1 << shard;
    }
}

impl<D> Crew<D> {
    pub(crate) fn new(first: u64, wakers: Vec<Waker>) -> Self {
        let posts: Box<[_]> = wakers.into_iter().map(Post::new).collect();
        let staying = AtomicUsize::new(posts.len());
        Self {
            first,
            posts,
            tick_at: AtomicU64::new(NEVER),
            asleep_until: AtomicU64::new(AWAKE),
            ending: AtomicBool::new(false),
            outcome: Mutex::new(None),
            staying,
        }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.posts.len()
    }

    /// The index of the shard that owns this connection.
    pub(crate) fn shard_of(&self, conn: Conn) -> usize {
        let index = number_of(conn).checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let known = index.filter(|index| *index < self.posts.len());
        known.unwrap_or_else(|| panic!("{conn:?} is a connection of another core"))
    }

    // ---- notes -----------------------------------------------------------------------------------------------------------

    pub(crate) fn put(&self, shard: usize, note: Note<D>) {
        if self.posts[shard].put(note) {
            self.posts[shard].wake();
        }
    }

    /// Puts what waits in `outboxes`, one for each shard, where the shards find it. Answers whom to wake.
    #[must_use]
    pub(crate) fn deliver(&self, outboxes: &mut [Vec<Note<D>>]) -> ShardSet {
        let mut woken = ShardSet::default();
        for (shard, notes) in outboxes.iter_mut().enumerate() {
            if !notes.is_empty() && self.posts[shard].append(notes) {
                woken.add(shard);
            }
        }
        woken
    }

    pub(crate) fn take(&self, shard: usize, into: &mut Vec<Note<D>>) {
        self.posts[shard].take(into);
    }

    pub(crate) fn wake(&self, shard: usize) {
        self.posts[shard].wake();
    }

    pub(crate) fn wake_some(&self, ShardSet(mut shards): ShardSet) {
        while shards != 0 {
            self.posts[shards.trailing_zeros() as usize].wake();
            shards &= shards - 1;
        }
    }

    pub(crate) fn wake_all(&self) {
        self.posts.iter().for_each(Post::wake);
    }

    pub(crate) fn turned(&self, shard: usize) {
        self.posts[shard].turned();
    }

    pub(crate) fn turns(&self) -> Vec<u64> {
        self.posts.iter().map(Post::turns).collect()
    }

    // ---- the deadline ----------------------------------------------------------------------------------------------------

    /// When the core wants its tick. To be told by whoever holds the core, before it is given back.
    /// Answers whether the head must be woken, because it would sleep for longer.
    ///
    /// Sequentially consistent, here and in `sleep`: each side writes its word, then reads the other's, so one of them sees
    /// that the head would oversleep.
    #[must_use]
    pub(crate) fn tick_at(&self, deadline: Option<Mono>) -> bool {
        let at = deadline.map_or(NEVER, |at| at.0);
        self.tick_at.store(at, Ordering::SeqCst);
        // Lowered, so that the next one with the same deadline does not wake the head again.
        self.asleep_until.fetch_min(at, Ordering::SeqCst) > at
    }

    /// Whether it is time.
    pub(crate) fn is_due(&self, now: Mono) -> bool {
        self.tick_at.load(Ordering::SeqCst) <= now.0
    }

    /// The head goes to sleep, until `until` at the latest; until when it may.
    pub(crate) fn sleep(&self, until: Mono) -> Mono {
        loop {
            let may = until.0.min(self.tick_at.load(Ordering::SeqCst));
            self.asleep_until.store(may, Ordering::SeqCst);
            if self.tick_at.load(Ordering::SeqCst) >= may {
                return Mono(may);
            }
        }
    }

    /// The head is awake.
    pub(crate) fn woke(&self) {
        self.asleep_until.store(AWAKE, Ordering::SeqCst);
    }

    // ---- the end ---------------------------------------------------------------------------------------------------------

    /// `Exit` was drained: to be told before the core is given back, so that nobody tells it anything more.
    pub(crate) fn exits(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// All shards are to end. The first outcome counts.
    pub(crate) fn end(&self, outcome: io::Result<Exit>) {
        let mut known = self.outcome.lock().expect("nobody panics while holding the outcome");
        if let (Some(_), Err(error)) = (&*known, &outcome) {
            tracing::error!(%error, "a shard has failed while the process ends");
        }
        known.get_or_insert(outcome);
        drop(known);
        self.exits();
        self.wake_all();
    }

    /// The calling shard posts nothing more to others.
    pub(crate) fn leave(&self) {
        if self.staying.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    pub(crate) fn all_left(&self) -> bool {
        self.staying.load(Ordering::Acquire) == 0
    }

    /// The shard has ended: what is posted to it goes nowhere.
    pub(crate) fn ended(&self, shard: usize) {
        self.posts[shard].end();
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> io::Result<Exit> {
        let outcome = self.outcome.lock().expect("nobody panics while holding the outcome").take();
        outcome.expect("shards end when one of them has said why")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew() -> Crew<()> {
        let poll = mio::Poll::new().unwrap();
        Crew::new(0, vec![Waker::new(poll.registry(), mio::Token(0)).unwrap()])
    }

    #[test]
    fn the_head_is_woken_once_for_a_deadline_before_its_own() {
        let crew = crew();
        assert!(!crew.tick_at(Some(Mono(70))), "it is awake, and looks before it sleeps");
        assert_eq!(crew.sleep(Mono(100)), Mono(70));
        assert!(!crew.tick_at(Some(Mono(80))) && !crew.tick_at(None), "later is soon enough");
        assert!(crew.tick_at(Some(Mono(50))));
        assert!(!crew.tick_at(Some(Mono(50))), "it is on its way already");
        assert!(crew.tick_at(Some(Mono(40))), "but it might be asleep again by then");
        crew.woke();
        assert!(crew.is_due(Mono(40)) && !crew.is_due(Mono(39)));
        assert!(!crew.tick_at(None));
        assert_eq!(crew.sleep(Mono(100)), Mono(100));
    }
}
