//! Reading bytes that may be anything: every read is checked, nothing is allocated for a number that the bytes only claim.

/// What is left to read.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'b> {
    rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'b [u8], String> {
        let left = self.rest.len();
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| format!("{len} bytes are missing where {left} are left"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let left = self.rest.len();
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or_else(|| format!("{N} bytes are missing where {left} are left"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_be_bytes)
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow.
    pub(crate) fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number has more than 64 bits".to_owned())
    }

    /// A varint that must fit a smaller type.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, String> {
        let number = self.varint()?;
        T::try_from(number).map_err(|_| format!("{number} is too large for its field"))
    }

    /// A count of things that have at least `least` bytes each: more than fit into the rest are refused.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, String> {
        let count: usize = self.small()?;
        if count > self.rest.len() / least {
            return Err(format!("{count} parts are announced where {} bytes are left", self.rest.len()));
        }
        Ok(count)
    }

    /// A text behind its length.
    pub(crate) fn text(&mut self) -> Result<&'b str, String> {
        let len = self.small()?;
        std::str::from_utf8(self.take(len)?).map_err(|error| format!("a name is no text: {error}"))
    }
}

pub(crate) fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

pub(crate) fn put_text(into: &mut Vec<u8>, text: &str) {
    put_varint(into, text.len() as u64);
    into.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_too_long_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varint(), Ok(number));
            assert_eq!(cursor.left(), 0);
            assert!(Cursor::new(&bytes[..bytes.len() - 1]).varint().is_err(), "cut: {number}");
        }
        let too_long = [[0xff; 9].as_slice(), &[2]].concat();
        assert!(Cursor::new(&too_long).varint().is_err());
        assert!(Cursor::new(&[0x80; 20]).varint().is_err());
    }

    #[test]
    fn a_count_that_the_rest_cannot_hold_is_refused() {
        assert_eq!(Cursor::new(&[2, 0, 0, 0, 0]).count(2), Ok(2));
        assert!(Cursor::new(&[3, 0, 0, 0, 0]).count(2).is_err());
    }
}
