use indexmap::IndexMap;
use siphasher::sip::SipHasher13;
use std::hash::BuildHasher;

/// A hash map that iterates in insertion order: deterministic, and safe against chosen keys because its hash is keyed.
///
/// `swap_remove` moves the last entry into the gap (constant time); `shift_remove` keeps the order (linear).
pub type Map<K, V> = IndexMap<K, V, Keyed>;

/// SipHash-1-3 under a key drawn from the core's seed.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    key: (u64, u64),
}

impl Keyed {
    /// A hash key made from `seed`. The shell seeds a core from the operating system's randomness.
    pub fn new(seed: u64) -> Self {
        let mut chance = crate::Chance::new(seed);
        Self { key: (chance.word(), chance.word()) }
    }

    /// An empty map under this key.
    pub fn map<K, V>(self) -> Map<K, V> {
        IndexMap::with_hasher(self)
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}
