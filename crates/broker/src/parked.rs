use keepmq_protocol::body::TagFilter;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{QueueOffset, Topic};
use keepmq_store::Limits;
use keepmq_world::Mono;
use std::collections::{BTreeMap, BTreeSet};

/// A pull that waits for messages.
pub(crate) struct Waiter {
    pub(crate) to: Caller,
    pub(crate) topic: Topic,
    pub(crate) queue_id: u32,
    /// Nothing before this is wanted, or passes the filter.
    pub(crate) from: QueueOffset,
    pub(crate) filter: TagFilter,
    pub(crate) limits: Limits,
    pub(crate) due: Mono,
}

/// Part of all places that one connection may take, and places that it may take in any case.
const SHARE: usize = 8;
const SHARE_MIN: usize = 64;

/// Who waits on which queue until when.
pub(crate) struct Parked {
    waiters: BTreeMap<u64, Waiter>,
    by_queue: BTreeMap<(Topic, u32), BTreeSet<u64>>,
    by_due: BTreeSet<(Mono, u64)>,
    by_conn: BTreeMap<Conn, BTreeSet<u64>>,
    next: u64,
    max: usize,
}

impl Parked {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            waiters: BTreeMap::new(),
            by_queue: BTreeMap::new(),
            by_due: BTreeSet::new(),
            by_conn: BTreeMap::new(),
            next: 0,
            max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody else may wait, or nobody else on this connection: one must not take the places of all.
    pub(crate) fn is_full(&self, conn: Conn) -> bool {
        let of_conn = self.by_conn.get(&conn).map_or(0, BTreeSet::len);
        self.waiters.len() >= self.max || of_conn >= (self.max / SHARE).max(SHARE_MIN)
    }

    pub(crate) fn park(&mut self, waiter: Waiter) {
        let id = self.next;
        self.next += 1;
        self.by_queue.entry((waiter.topic.clone(), waiter.queue_id)).or_default().insert(id);
        self.by_due.insert((waiter.due, id));
        self.by_conn.entry(waiter.to.conn).or_default().insert(id);
        self.waiters.insert(id, waiter);
    }

    /// Those who wait on a queue, longest first.
    pub(crate) fn on_queue(&self, queue: &(Topic, u32)) -> Vec<u64> {
        self.by_queue.get(queue).into_iter().flatten().copied().collect()
    }

    /// Those who wait on any queue of a topic.
    pub(crate) fn on_topic(&self, topic: &str) -> Vec<u64> {
        self.waiters.iter().filter(|(_, waiter)| waiter.topic.as_str() == topic).map(|(id, _)| *id).collect()
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Waiter> {
        self.waiters.get_mut(&id)
    }

    pub(crate) fn take(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        let queue = (waiter.topic.clone(), waiter.queue_id);
        let on_queue = self.by_queue.get_mut(&queue).expect("`park` has entered every waiter at its queue");
        on_queue.remove(&id);
        if on_queue.is_empty() {
            self.by_queue.remove(&queue);
        }
        self.by_due.remove(&(waiter.due, id));
        let of_conn = self.by_conn.get_mut(&waiter.to.conn).expect("`park` has entered every waiter at its connection");
        of_conn.remove(&id);
        if of_conn.is_empty() {
            self.by_conn.remove(&waiter.to.conn);
        }
        Some(waiter)
    }

    /// The first whose time has come.
    pub(crate) fn take_due(&mut self, now: Mono) -> Option<Waiter> {
        let (_, id) = self.by_due.first().filter(|(due, _)| *due <= now)?;
        self.take(*id)
    }

    /// Any of them, the earliest due first.
    pub(crate) fn take_any(&mut self) -> Option<Waiter> {
        let (_, id) = self.by_due.first()?;
        self.take(*id)
    }

    /// Forgets those of a connection that is gone.
    pub(crate) fn closed(&mut self, conn: Conn) {
        while let Some(id) = self.by_conn.get(&conn).and_then(|of_conn| of_conn.first().copied()) {
            self.take(id);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.by_due.first().map(|(due, _)| *due)
    }
}
