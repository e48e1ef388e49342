use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What the shards of a core have together: too much is what is too much for the process.
#[derive(Debug)]
pub(crate) struct Crowd {
    held: AtomicUsize,
    room: Mutex<()>,
    shards: Box<[Share]>,
}

/// One shard's. A cache line of its own: each shard writes here all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share {
    /// Those that are on their way to it included.
    connections: AtomicUsize,
    held: AtomicUsize,
}

impl Crowd {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            room: Mutex::new(()),
            shards: (0..shards).map(|_| Share::default()).collect(),
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Connections of all shards.
    pub(crate) fn connections(&self) -> usize {
        self.shards.iter().map(|share| share.connections.load(Ordering::Relaxed)).sum()
    }

    /// The shard with the fewest connections; the first of several.
    pub(crate) fn emptiest(&self) -> usize {
        let fewest = self.shards.iter().enumerate().min_by_key(|(_, share)| share.connections.load(Ordering::Relaxed));
        fewest.expect("a core has a shard").0
    }

    /// One more for this shard.
    pub(crate) fn comes(&self, shard: usize) {
        self.shards[shard].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn goes(&self, shard: usize) {
        let before = self.shards[shard].connections.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a connection goes once, after it has come");
    }

    /// Bytes of incomplete frames, of all shards.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// This shard's part of them. Only the shard itself says so.
    pub(crate) fn holds(&self, shard: usize, bytes: usize) {
        let before = self.shards[shard].held.load(Ordering::Relaxed);
        if before != bytes {
            self.shards[shard].held.store(bytes, Ordering::Relaxed);
            // Wraps, as subtraction and addition of a difference do.
            self.held.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// For making room, by one shard at a time: two that looked at the same sum would both close somebody where one was enough.
    pub(crate) fn room(&self) -> MutexGuard<'_, ()> {
        self.room.lock().expect("nobody panics while making room")
    }

    /// The shard that holds the most.
    pub(crate) fn fullest(&self) -> usize {
        let most = self.shards.iter().enumerate().max_by_key(|(_, share)| share.held.load(Ordering::Relaxed));
        most.expect("a core has a shard").0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_goes_where_the_fewest_are() {
        let crowd = Crowd::new(3);
        let mut gone_to = Vec::new();
        for _ in 0..4 {
            let shard = crowd.emptiest();
            crowd.comes(shard);
            gone_to.push(shard);
        }
        assert_eq!(gone_to, [0, 1, 2, 0]);
        crowd.goes(1);
        assert_eq!((crowd.emptiest(), crowd.connections()), (1, 3));
    }

    #[test]
    fn what_shards_hold_adds_up() {
        let crowd = Crowd::new(2);
        crowd.holds(0, 100);
        crowd.holds(1, 300);
        assert_eq!((crowd.held(), crowd.fullest()), (400, 1));
        crowd.holds(1, 50);
        assert_eq!((crowd.held(), crowd.fullest()), (150, 0));
    }
}
