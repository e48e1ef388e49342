//! How far the log is known to be durable.

/// One of the two slots of `keepmq/checkpoint`, written by turns: a torn write spoils at most the one that is being written.
///
/// ```text
///  0 "KMQCHECK" │ 8 version: u32 = 1 │ 12 store: 16 bytes │ 28 sequence: u64 │ 36 durable: u64 │ 44 log min: u64
/// 52 zeroed: u64 │ 60 last stored, ms: i64 │ 68 crc32 over all before: u32 │ zeroes up to 512
/// ```
/// Every field claims only what was synced before the slot was written, so an old slot is never wrong, only less helpful.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counts up; the higher one counts.
    pub(crate) sequence: u64,
    /// Everything before this position of the log was synced. A bad record before it is rot, not a torn tail.
    pub(crate) durable: u64,
    /// The log begins here; what lies before may be removed.
    pub(crate) log_min: u64,
    /// The last segment reads as zero, and was written as zero, from its end up to here.
    pub(crate) zeroed: u64,
    /// No record before `durable` was stored later than this; store times go on from here.
    pub(crate) stored: i64,
}

/// Where it lies.
pub(crate) const PATH: &str = "keepmq/checkpoint";
/// Bytes of a slot: one sector.
pub(crate) const SLOT_BYTES: usize = 512;
/// Bytes of the file.
pub(crate) const BYTES: usize = 2 * SLOT_BYTES;
const MAGIC: &[u8; 8] = b"KMQCHECK";
const VERSION: u32 = 1;
const USED: usize = 72;

impl Slot {
    /// Where in the file this slot goes.
    pub(crate) fn place(&self) -> u64 {
        self.sequence % 2 * SLOT_BYTES as u64
    }

    pub(crate) fn encode(&self, store_id: [u8; 16]) -> [u8; SLOT_BYTES] {
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&store_id);
        for field in [self.sequence, self.durable, self.log_min, self.zeroed, self.stored.cast_unsigned()] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        let mut slot = [0; SLOT_BYTES];
        slot[..USED].copy_from_slice(&bytes);
        slot
    }

    fn decode(bytes: &[u8], store_id: [u8; 16]) -> Option<Self> {
        let (body, crc) = bytes.get(..USED)?.split_last_chunk::<4>()?;
        let mut fields = body.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_be_bytes())?.strip_prefix(&store_id)?;
        let mut field = || {
            let (field, rest) = fields.split_first_chunk()?;
            fields = rest;
            Some(u64::from_be_bytes(*field))
        };
        (u32::from_be_bytes(*crc) == crc32fast::hash(body)).then_some(())?;
        Some(Self {
            sequence: field()?,
            durable: field()?,
            log_min: field()?,
            zeroed: field()?,
            stored: field()?.cast_signed(),
        })
    }

    /// The newest whole slot of a file; `None` when there is none of this store.
    pub(crate) fn newest(file: &[u8], store_id: [u8; 16]) -> Option<Self> {
        file.chunks(SLOT_BYTES).filter_map(|slot| Self::decode(slot, store_id)).max_by_key(|slot| slot.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts_and_a_torn_one_falls_back_to_the_other() {
        let id = [3; 16];
        let slot = |sequence| Slot { sequence, durable: sequence * 10, log_min: 1, zeroed: 2, stored: -3 };
        let mut file = vec![0; BYTES];
        for sequence in [6, 7] {
            let at = slot(sequence).place() as usize;
            file[at..at + SLOT_BYTES].copy_from_slice(&slot(sequence).encode(id));
        }
        assert_eq!(Slot::newest(&file, id), Some(slot(7)));
        assert_eq!(Slot::newest(&file, [4; 16]), None, "another store's");
        for at in 0..USED {
            let mut torn = file.clone();
            torn[slot(7).place() as usize + at] ^= 1;
            assert_eq!(Slot::newest(&torn, id), Some(slot(6)), "byte {at}");
        }
        assert_eq!(Slot::newest(&[0; BYTES], id), None);
    }
}
