use keepmq_protocol::body::TagFilter;
use keepmq_protocol::frame::Caller;
use keepmq_protocol::seam::Conn;
use keepmq_protocol::{QueueOffset, Topic};
use keepmq_store::Limits;
use keepmq_world::{Mono, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
/// A connection with so many places has many: those it takes on top are looked at after everybody else's.
const MANY: usize = SHARE_MIN;

/// Who waits on which queue until when, and whose queue has grown since they were looked at.
pub(crate) struct Parked {
    waiters: BTreeMap<u64, Waiter>,
    lines: BTreeMap<Place, Line>,
    /// Lines to look at; one stands in the list while its `next` is set.
    grown: [VecDeque<Place>; 2],
    by_due: BTreeSet<(Mono, u64)>,
    by_conn: BTreeMap<Conn, BTreeSet<u64>>,
    /// Waiters of connections that had many when they came.
    many: BTreeSet<u64>,
    next: u64,
    max: usize,
}

type Place = (Topic, u32, Crowd);

/// Two lines for each queue: nobody waits behind the hundred thousand of somebody else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Crowd {
    Few,
    Many,
}

/// Those who wait on one queue, longest first.
#[derive(Default)]
struct Line {
    ids: BTreeSet<u64>,
    /// From whom on they are to be looked at, because the queue has grown.
    next: Option<u64>,
    /// It has grown once more since the first of them were looked at.
    again: bool,
}

impl Parked {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            waiters: BTreeMap::new(),
            lines: BTreeMap::new(),
            grown: [VecDeque::new(), VecDeque::new()],
            by_due: BTreeSet::new(),
            by_conn: BTreeMap::new(),
            many: BTreeSet::new(),
            next: 0,
            max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody else may wait, or nobody else on this connection: one must not take the places of all.
    pub(crate) fn is_full(&self, conn: Conn) -> bool {
        self.waiters.len() >= self.max || self.of_conn(conn) >= (self.max / SHARE).max(SHARE_MIN)
    }

    fn of_conn(&self, conn: Conn) -> usize {
        self.by_conn.get(&conn).map_or(0, BTreeSet::len)
    }

    pub(crate) fn park(&mut self, waiter: Waiter) {
        let id = self.next;
        self.next += 1;
        if self.of_conn(waiter.to.conn) >= MANY {
            self.many.insert(id);
        }
        self.lines.entry(self.place(id, &waiter)).or_default().ids.insert(id);
        self.by_due.insert((waiter.due, id));
        self.by_conn.entry(waiter.to.conn).or_default().insert(id);
        self.waiters.insert(id, waiter);
    }

    fn place(&self, id: u64, waiter: &Waiter) -> Place {
        let crowd = if self.many.contains(&id) { Crowd::Many } else { Crowd::Few };
        (waiter.topic.clone(), waiter.queue_id, crowd)
    }

    /// A queue has new messages: all who wait on it are to be looked at.
    pub(crate) fn grow(&mut self, (topic, queue_id): &(Topic, u32)) {
        for crowd in [Crowd::Few, Crowd::Many] {
            let place = (topic.clone(), *queue_id, crowd);
            let Some(line) = self.lines.get_mut(&place) else { continue };
            match line.next {
                Some(_) => line.again = true,
                None => {
                    line.next = Some(0);
                    self.grown[crowd as usize].push_back(place);
                }
            }
        }
    }

    /// Whether somebody's queue has grown who was not looked at yet.
    pub(crate) fn has_grown(&self) -> bool {
        !self.waiters.is_empty() && self.grown.iter().any(|grown| !grown.is_empty())
    }

    /// The next one to be looked at; those of connections with many come last.
    pub(crate) fn next_grown(&mut self) -> Option<u64> {
        for grown in &mut self.grown {
            while let Some(place) = grown.front() {
                let line = self.lines.get_mut(place).expect("a line stays while it is to be looked at");
                if let Some(id) = line.step() {
                    return Some(id);
                }
                let place = grown.pop_front().expect("it is the front");
                if line.ids.is_empty() {
                    self.lines.remove(&place);
                } else if std::mem::take(&mut line.again) {
                    // Behind the others: a queue that grows all the time does not keep them waiting.
                    line.next = Some(0);
                    grown.push_back(place);
                }
            }
        }
        None
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
        let place = self.place(id, &waiter);
        self.many.remove(&id);
        let line = self.lines.get_mut(&place).expect("`park` has entered every waiter in a line");
        line.ids.remove(&id);
        if line.ids.is_empty() && line.next.is_none() {
            self.lines.remove(&place);
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

impl Line {
    /// The next of those that are to be looked at; with the last one that is done.
    fn step(&mut self) -> Option<u64> {
        let from = self.next.take()?;
        if planted!("parked-pull-forgotten") && from > 0 {
            return None;
        }
        let id = *self.ids.range(from..).next()?;
        self.next = Some(id + 1);
        Some(id)
    }
}
