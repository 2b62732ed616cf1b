//! Bytes on disk: how numbers, texts and byte strings are written and read back.

use std::ops::Range;

use bytes::Bytes;

/// The bytes are not what was written, although their checksum says so: another version's, or a fault of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record cannot be understood")]
pub(crate) struct Malformed;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Put(pub(crate) Vec<u8>);

impl Put {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Put(Vec::with_capacity(bytes))
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Seven bits a byte, low ones first.
    pub(crate) fn var(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.var(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Zero for nothing, else one more than the value.
    pub(crate) fn maybe(&mut self, value: Option<u64>) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                self.var(value);
            }
        }
    }
}

/// Takes values from a buffer, in the order they were put. Byte strings are slices of the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Take {
    buffer: Bytes,
    at: usize,
}

impl Take {
    pub(crate) fn new(buffer: Bytes) -> Self {
        Take { buffer, at: 0 }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let end = self.at.checked_add(N).ok_or(Malformed)?;
        let found = self.buffer.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        found.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        self.fixed().map(u128::from_le_bytes)
    }

    pub(crate) fn var(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A count of things that each take at least one byte, so that a wrong one cannot make us reserve the world.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.var()?).map_err(|_| Malformed)?;
        if count > self.left() { Err(Malformed) } else { Ok(count) }
    }

    pub(crate) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.var()?).map_err(|_| Malformed)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let range = self.range()?;
        Ok(self.buffer.slice(range))
    }

    pub(crate) fn text(&mut self) -> Result<Box<str>, Malformed> {
        let range = self.range()?;
        std::str::from_utf8(&self.buffer[range]).map(Box::from).map_err(|_| Malformed)
    }

    /// A name and the bytes that belong to it.
    pub(crate) fn field(&mut self) -> Result<(&str, &[u8]), Malformed> {
        let (name, value) = (self.range()?, self.range()?);
        let name = std::str::from_utf8(&self.buffer[name]).map_err(|_| Malformed)?;
        Ok((name, &self.buffer[value]))
    }

    fn range(&mut self) -> Result<Range<usize>, Malformed> {
        let len = self.count()?;
        let begin = self.at;
        self.at += len;
        Ok(begin..self.at)
    }

    pub(crate) fn maybe(&mut self) -> Result<Option<u64>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.var().map(Some),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.buffer.len() - self.at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(a: u64, b: u32, c: u128, text: String, bytes: Vec<u8>, maybe: Option<u64>) {
            let mut put = Put::default();
            put.var(a);
            put.u32(b);
            put.u128(c);
            put.text(&text);
            put.bytes(&bytes);
            put.maybe(maybe);
            put.u64(a);

            let mut take = Take::new(put.0.into());
            prop_assert_eq!(take.var(), Ok(a));
            prop_assert_eq!(take.u32(), Ok(b));
            prop_assert_eq!(take.u128(), Ok(c));
            prop_assert_eq!(take.text(), Ok(text.into()));
            prop_assert_eq!(take.bytes(), Ok(bytes.into()));
            prop_assert_eq!(take.maybe(), Ok(maybe));
            prop_assert_eq!(take.u64(), Ok(a));
            prop_assert_eq!(take.left(), 0);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut take = Take::new(bytes.into());
            while take.bytes().is_ok() && take.maybe().is_ok() && take.left() > 0 {}
        }
    }
}
