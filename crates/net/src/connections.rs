use crate::connection::Connection;
use keepmq_protocol::seam::Conn;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connection's number: which shard, how often its slot had been used, which slot. So none comes twice in a process, and
/// finding a connection is one look into a table.
///
/// ```text
///   ├ shard: 12 bits ┼ use: 32 bits ┼ slot: 20 bits ┤
/// ```
const SLOT_BITS: u32 = 20;
const USE_BITS: u32 = 32;
/// Slots of one shard.
pub(crate) const SLOTS: usize = 1 << SLOT_BITS;
/// Shards of one process.
const SHARDS: u64 = 1 << (u64::BITS - USE_BITS - SLOT_BITS);

static NEXT_SHARD: AtomicU64 = AtomicU64::new(0);

/// Number of the shard that owns a connection.
pub(crate) fn number_of(conn: Conn) -> u64 {
    conn.0 >> (USE_BITS + SLOT_BITS)
}

/// The connections of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    shard: u64,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Bytes that the connections hold for what they have received.
    held: usize,
    /// Bytes that the connections have not taken yet.
    owed: usize,
}

#[derive(Debug, Default)]
struct Slot {
    uses: u32,
    held: usize,
    owed: usize,
    connection: Option<Box<Connection>>,
}

impl Connections {
    /// Numbers for so many shards, which follow each other and are nobody else's. Answers the first.
    pub(crate) fn reserve(shards: usize) -> u64 {
        let first = NEXT_SHARD.fetch_add(shards as u64, Ordering::Relaxed);
        assert!(first + shards as u64 <= SHARDS, "a process has no more than {SHARDS} shards in its life");
        first
    }

    /// None yet, of the shard with this number.
    pub(crate) fn new(shard: u64) -> Self {
        Self { shard, slots: Vec::new(), free: Vec::new(), held: 0, owed: 0 }
    }

    /// Adds one, made by `make` under its new number, and answers its slot. `None`: there are as many as there can be.
    pub(crate) fn insert(&mut self, make: impl FnOnce(Conn) -> Connection) -> Option<usize> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() == SLOTS => return None,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[index];
        slot.uses = slot.uses.checked_add(1).expect("a slot is used less than 2^32 times");
        let conn = self.shard << (USE_BITS + SLOT_BITS) | u64::from(slot.uses) << SLOT_BITS | index as u64;
        slot.connection = Some(Box::new(make(Conn(conn))));
        Some(index)
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, index: usize) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(index)?;
        let connection = slot.connection.take()?;
        self.held -= std::mem::take(&mut slot.held);
        self.owed -= std::mem::take(&mut slot.owed);
        self.free.push(index);
        Some(connection)
    }

    pub(crate) fn at(&self, index: usize) -> Option<&Connection> {
        self.slots.get(index)?.connection.as_deref()
    }

    pub(crate) fn at_mut(&mut self, index: usize) -> Option<&mut Connection> {
        self.slots.get_mut(index)?.connection.as_deref_mut()
    }

    /// A connection and its slot; `None` when it is gone.
    pub(crate) fn find(&mut self, conn: Conn) -> Option<(usize, &mut Connection)> {
        assert!(
            number_of(conn) == self.shard,
            "what is for a connection comes to its shard, and {conn:?} is another's"
        );
        let index = usize::try_from(conn.0).expect("64 bits") & (SLOTS - 1);
        self.at_mut(index).filter(|connection| connection.conn == conn).map(|connection| (index, connection))
    }

    /// Every slot that was ever used, for scans.
    pub(crate) fn indexes(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    /// Bytes that the connections hold for what they have received, as far as `weigh` was told.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Counts anew what one holds.
    pub(crate) fn weigh(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let now = slot.connection.as_ref().map_or(0, |connection| connection.incoming.capacity());
        self.held = self.held - slot.held + now;
        slot.held = now;
    }

    /// Bytes that the connections have not taken yet, as far as `owe` was told.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// Counts anew what one has not taken.
    pub(crate) fn owe(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let now = slot.connection.as_ref().map_or(0, |connection| connection.out.unsent());
        self.owed = self.owed - slot.owed + now;
        slot.owed = now;
    }

    /// The one that has not taken the most.
    pub(crate) fn slowest(&self) -> Option<usize> {
        self.indexes().max_by_key(|index| self.slots[*index].owed).filter(|index| self.slots[*index].owed > 0)
    }

    /// The one that holds the most.
    pub(crate) fn heaviest(&self) -> Option<usize> {
        self.indexes().max_by_key(|index| self.slots[*index].held).filter(|index| self.slots[*index].held > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::TcpStream;

    fn connection(conn: Conn) -> Connection {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        Connection::new(conn, TcpStream::connect(peer).unwrap(), peer, None, keepmq_world::Mono(0))
    }

    #[test]
    fn a_slot_is_used_again_but_a_number_is_not() {
        let mut connections = Connections::new(7);
        let slot = connections.insert(connection).unwrap();
        let first = connections.at(slot).unwrap().conn;
        connections.at_mut(slot).unwrap().incoming.reserve_exact(100);
        connections.weigh(slot);
        assert_eq!((connections.held(), connections.heaviest()), (100, Some(slot)));
        connections.remove(slot).unwrap();
        assert!(connections.remove(slot).is_none());
        assert_eq!((connections.held(), connections.heaviest()), (0, None));

        assert_eq!(connections.insert(connection), Some(slot));
        let second = connections.at(slot).unwrap().conn;
        assert_ne!(first, second);
        assert!(connections.find(first).is_none());
        assert_eq!(connections.find(second).unwrap().0, slot);
    }

    #[test]
    #[should_panic(expected = "comes to its shard")]
    fn a_connection_of_another_shard_is_a_mistake() {
        let (mut one, mut other) = (Connections::new(7), Connections::new(8));
        let slot = one.insert(connection).unwrap();
        let conn = one.at(slot).unwrap().conn;
        other.find(conn);
    }
}
