use crate::note;
use std::collections::BTreeMap;
use std::time::Duration;

/// The file `keepmq/ages`: how long the store has been open in all its lives, and when each closed segment was closed, both
/// in *running time*. Retention counts in it, because a wall clock may be set, and the times of files change when they are
/// copied. It is replaced whole after each roll, and now and then; what a crash takes of it makes segments younger.
///
/// ```text
///  "KMQAGES1" │ version: u32 = 1 │ store: 16 bytes │ running: u64 │ segments × (base: u64 │ closed: u64) │ crc32 of the above
/// ```
/// Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ages {
    /// Running time when it was written.
    pub(crate) running: u64,
    /// By base, when it was closed.
    pub(crate) closed: BTreeMap<u64, u64>,
}

/// Where it lies.
pub(crate) const PATH: &str = "keepmq/ages";
/// How much running time a crash may take.
pub(crate) const SAVED_EVERY: Duration = Duration::from_secs(600);
const MAGIC: &[u8; 8] = b"KMQAGES1";
const VERSION: u32 = 1;

impl Ages {
    pub(crate) fn encode(&self, store_id: [u8; 16]) -> Vec<u8> {
        let pairs = self.closed.iter().flat_map(|(base, closed)| [*base, *closed]);
        note::encode(*MAGIC, VERSION, store_id, [self.running].into_iter().chain(pairs))
    }

    /// Of a file that may be anything; the text says what is wrong.
    pub(crate) fn decode(bytes: &[u8], store_id: [u8; 16]) -> Result<Self, String> {
        let numbers = note::decode(*MAGIC, VERSION, store_id, bytes)?;
        let (running, pairs) = numbers.split_first().ok_or("it is cut short")?;
        let (pairs, rest) = pairs.as_chunks();
        if !rest.is_empty() {
            return Err("it ends within a line".to_owned());
        }
        Ok(Self { running: *running, closed: pairs.iter().map(|[base, closed]| (*base, *closed)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back() {
        let ages = Ages { running: 77, closed: [(0, 5), (100, 60)].into() };
        let bytes = ages.encode([3; 16]);
        assert_eq!(Ages::decode(&bytes, [3; 16]), Ok(ages));
        assert!(Ages::decode(&bytes, [4; 16]).unwrap_err().contains("another store"));
        assert!(Ages::decode(&[], [3; 16]).is_err());
    }
}
