//! What an operator has accepted as lost: damaged stretches of the log that recovery and readers pass over.

use crate::disk::Disk;
use crate::files::Files;
use crate::job::JobError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The journal. Written whole, beside its name, at each acceptance; nothing is ever taken out of it.
///
/// ```text
///  head             "KMQLOSSES 1" │ blank │ store, 32 hexadecimal digits │ newline
///  line × losses    JSON of a [`Loss`] │ blank │ crc32 of the JSON, 8 hexadecimal digits │ newline
/// ```
pub(crate) const PATH: &str = "keepmq/losses";
/// Largest journal that is believed.
const BYTES_MAX: u64 = 64 << 20;

/// Messages of one queue that are missing one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Missing {
    /// Topic.
    pub topic: String,
    /// Queue.
    pub queue: u32,
    /// Offset of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Whether the index or a message behind them says how many. Otherwise it is the most that fits the bytes: as many offsets
    /// are passed over, so that none of a message that somebody has seen is given away again.
    pub exact: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, queue, first, count, exact } = self;
        match (count, exact) {
            (1, true) => write!(f, "offset {first} of {topic}, queue {queue}"),
            (count, true) => write!(f, "offsets {first} to {} of {topic}, queue {queue}", first + count - 1),
            (count, false) => write!(f, "perhaps offsets from {first} on, at most {count}, of {topic}, queue {queue}"),
        }
    }
}

/// A stretch of the log that is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// When it was accepted, in milliseconds since 1970.
    pub accepted: i64,
    /// Position of its first byte.
    pub from: u64,
    /// Position behind its last.
    pub to: u64,
    /// What was in it, as far as anything else knows.
    pub missing: Vec<Missing>,
}

impl Loss {
    /// Messages that are known to be missing, and those that may be.
    pub fn messages(&self) -> (u64, u64) {
        (sum(&self.missing, true), sum(&self.missing, false))
    }
}

/// Queues that a text names.
const NAMED: usize = 20;

/// Which messages are missing, in a sentence.
pub(crate) fn words(missing: &[Missing]) -> String {
    if missing.is_empty() {
        return "No message of a queue that is known was in them.".to_owned();
    }
    let named: Vec<String> = missing.iter().take(NAMED).map(Missing::to_string).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and messages of {more} more queues"),
    };
    let (exact, perhaps) = (sum(missing, true), sum(missing, false));
    let count = match (exact, perhaps) {
        (exact, 0) => format!("{exact} messages are missing"),
        (0, _) => "Whether messages are missing is not known".to_owned(),
        (exact, _) => format!("{exact} messages are missing, and perhaps more"),
    };
    format!("{count}: {}{more}.", named.join("; "))
}

fn sum(missing: &[Missing], exact: bool) -> u64 {
    missing.iter().filter(|missing| missing.exact == exact).fold(0, |sum, missing| sum.saturating_add(missing.count))
}

/// All of them, in the order of their positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses(Vec<Loss>);

impl Losses {
    /// Reads the journal; none when there is none. The inner text says what is wrong with it.
    pub(crate) fn read<D: Disk>(files: &Files<D>, store_id: [u8; 16]) -> Result<Result<Self, String>, JobError> {
        Ok(match files.read_whole(Path::new(PATH), BYTES_MAX)? {
            None => Ok(Self::default()),
            Some(bytes) => Self::decode(&bytes, store_id),
        })
    }

    fn decode(bytes: &[u8], store_id: [u8; 16]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("it is no text: {error}"))?;
        let lines = text.strip_prefix(&head(store_id)).ok_or("it does not begin as a journal of this store does")?;
        let mut losses = Self::default();
        for (nth, line) in lines.split_terminator('\n').enumerate() {
            let wrong = |what: &dyn fmt::Display| format!("line {}: {what}", nth + 2);
            let (json, crc) = line.rsplit_once(' ').ok_or_else(|| wrong(&"its checksum is missing"))?;
            if crc != checksum(json) {
                return Err(wrong(&"its checksum is wrong"));
            }
            losses.add(serde_json::from_str(json).map_err(|error| wrong(&error))?);
        }
        Ok(losses)
    }

    fn encode(&self, store_id: [u8; 16]) -> String {
        let line = |loss: &Loss| {
            let json = serde_json::to_string(loss).expect("numbers, names and lists of them");
            format!("{json} {}\n", checksum(&json))
        };
        std::iter::once(head(store_id)).chain(self.0.iter().map(line)).collect()
    }

    fn add(&mut self, loss: Loss) {
        let at = self.0.partition_point(|known| known.from < loss.from);
        self.0.insert(at, loss);
    }

    /// Writes one more down, durably.
    pub(crate) fn accept<D: Disk>(&mut self, loss: Loss, files: &Files<D>, store_id: [u8; 16]) -> Result<(), JobError> {
        self.add(loss);
        files.replace(Path::new(PATH), self.encode(store_id).as_bytes())
    }

    /// The one that holds position `at`.
    pub(crate) fn find(&self, at: u64) -> Option<&Loss> {
        let after = self.0.partition_point(|loss| loss.from <= at);
        self.0.get(after.checked_sub(1)?).filter(|loss| at < loss.to)
    }

    /// Where the next one behind position `at` begins.
    pub(crate) fn next(&self, at: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|loss| loss.from <= at)).map(|loss| loss.from)
    }

    pub(crate) fn all(&self) -> &[Loss] {
        &self.0
    }
}

fn head(store_id: [u8; 16]) -> String {
    format!("KMQLOSSES 1 {:032x}\n", u128::from_be_bytes(store_id))
}

fn checksum(json: &str) -> String {
    format!("{:08x}", crc32fast::hash(json.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_comes_back_and_no_changed_byte_passes() {
        let missing = |first, exact| Missing { topic: "T".to_owned(), queue: 3, first, count: 2, exact };
        let mut losses = Losses::default();
        for (from, to) in [(500, 600), (10, 90)] {
            losses.add(Loss { accepted: 7, from, to, missing: vec![missing(from, true), missing(0, false)] });
        }
        let id = [9; 16];
        let text = losses.encode(id);
        let again = Losses::decode(text.as_bytes(), id).unwrap();
        assert!(Losses::decode(text.as_bytes(), [8; 16]).is_err(), "another store's");
        assert_eq!(again.all(), losses.all());
        assert_eq!(again.all()[0].from, 10);
        assert_eq!(again.all()[0].messages(), (2, 2));
        let found = |at| again.find(at).map(|loss| loss.from);
        assert_eq!([9, 10, 89, 90, 500, 600].map(found), [None, Some(10), Some(10), None, Some(500), None]);
        assert_eq!([0, 10, 499, 500].map(|at| again.next(at)), [Some(10), Some(500), Some(500), None]);
        for at in 0..text.len() - 1 {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1;
            assert!(Losses::decode(&bad, id).is_err(), "byte {at}");
        }
        for cut in 1..text.len() - 1 {
            let lines = Losses::decode(&text.as_bytes()[..cut], id).map(|cut| cut.all().len());
            assert!(lines.is_err() || lines == Ok(0) || lines == Ok(1), "cut at {cut}");
        }
    }
}
