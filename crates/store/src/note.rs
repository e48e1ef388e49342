//! Small files of ours that are replaced whole: a head, numbers, a checksum.
//!
//! ```text
//!  magic: 8 bytes │ version: u32 │ store: 16 bytes │ number: u64 × … │ crc32 of the above: u32
//! ```
//! They only spare work or tell what was seen: one that cannot be read is as good as none.

/// Bytes before the numbers.
const HEAD: usize = 8 + 4 + 16;

pub(crate) fn encode(
    magic: [u8; 8],
    version: u32,
    store_id: [u8; 16],
    numbers: impl IntoIterator<Item = u64>,
) -> Vec<u8> {
    let mut bytes = Vec::from(magic);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&store_id);
    for number in numbers {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// The numbers; the text says what is wrong.
pub(crate) fn decode(magic: [u8; 8], version: u32, store_id: [u8; 16], bytes: &[u8]) -> Result<Vec<u64>, String> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is empty")?;
    let (head, numbers) = body.split_at_checked(HEAD).ok_or("it is cut short")?;
    if !head.starts_with(&magic) {
        return Err("it does not begin as such a file does".to_owned());
    }
    if u32::from_be_bytes(*crc) != crc32fast::hash(body) {
        return Err("its checksum does not match".to_owned());
    }
    if head[8..12] != version.to_be_bytes() {
        return Err(format!("this program reads version {version} of its format only"));
    }
    if head[12..] != store_id {
        return Err("it belongs to another store".to_owned());
    }
    match numbers.as_chunks() {
        (numbers, []) => Ok(numbers.iter().map(|number| u64::from_be_bytes(*number)).collect()),
        _ => Err("it ends within a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_no_changed_byte_passes() {
        let bytes = encode(*b"KMQTEST1", 2, [7; 16], [1, u64::MAX]);
        let read = |bytes: &[u8]| decode(*b"KMQTEST1", 2, [7; 16], bytes);
        assert_eq!(read(&bytes), Ok(vec![1, u64::MAX]));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(read(&bad).is_err(), "byte {at}");
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(decode(*b"KMQTEST1", 3, [7; 16], &bytes).unwrap_err().contains("version 3"));
        assert!(decode(*b"KMQTEST1", 2, [8; 16], &bytes).unwrap_err().contains("another store"));
    }
}
