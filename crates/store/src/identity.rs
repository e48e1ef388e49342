//! Whose store this is.

/// The file `keepmq/identity`. Written first when a store is made: a log without it is somebody else's.
///
/// ```text
///  0 "KMQIDENT" │ 8 version: u32 = 1 │ 12 store: 16 bytes │ 28 adopted: u64
/// 36 cluster: u16 len, bytes │ broker: u16 len, bytes │ crc32 over all before: u32
/// ```
/// All integers big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Drawn when the store was made; stands in every file of ours.
    pub(crate) store_id: [u8; 16],
    pub(crate) cluster: String,
    pub(crate) broker: String,
    /// Records before this position may have been written by RocketMQ, without a checksum over the whole record.
    /// All ones while a foreign log is being taken over.
    pub(crate) adopted: u64,
}

/// Where it lies.
pub(crate) const PATH: &str = "keepmq/identity";
const MAGIC: &[u8; 8] = b"KMQIDENT";
const VERSION: u32 = 1;

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.store_id);
        out.extend_from_slice(&self.adopted.to_be_bytes());
        for name in [&self.cluster, &self.broker] {
            out.extend_from_slice(&u16::try_from(name.len()).expect("a checked name is short").to_be_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out
    }

    /// The text says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
        let rest = body.strip_prefix(MAGIC).ok_or("it does not begin as an identity file does")?;
        if u32::from_be_bytes(*crc) != crc32fast::hash(body) {
            return Err("its checksum does not match".to_owned());
        }
        let short = "it is cut short";
        let (version, rest) = rest.split_first_chunk().ok_or(short)?;
        let version = u32::from_be_bytes(*version);
        if version != VERSION {
            return Err(format!("it has format version {version}, this program reads {VERSION}"));
        }
        let (store_id, rest) = rest.split_first_chunk().ok_or(short)?;
        let (adopted, rest) = rest.split_first_chunk().ok_or(short)?;
        let (cluster, rest) = name(rest).ok_or(short)?;
        let (broker, _) = name(rest).ok_or(short)?;
        Ok(Self { store_id: *store_id, cluster, broker, adopted: u64::from_be_bytes(*adopted) })
    }
}

fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((String::from_utf8(name.to_vec()).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_no_changed_byte_passes() {
        let identity =
            Identity { store_id: [7; 16], cluster: "DefaultCluster".into(), broker: "broker-a".into(), adopted: 5 };
        let bytes = identity.encode();
        assert_eq!(Identity::decode(&bytes), Ok(identity));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Identity::decode(&bad).is_err(), "byte {at}");
            assert!(Identity::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
