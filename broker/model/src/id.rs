//! Identity of an invocation.

use std::fmt;
use std::str::FromStr;

/// One invocation's identity: a UUIDv7, made by the store that accepts it and kept over retries, redrives and moves.
///
/// A store may carry meaning in the free bits (the embedded engine puts the acceptance number there); nobody else
/// reads them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvocationId(u128);

impl InvocationId {
    /// The id with these 128 bits.
    pub const fn from_u128(bits: u128) -> Self {
        InvocationId(bits)
    }

    /// The 128 bits.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

/// The text is not an invocation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an invocation id; ids are UUIDs as the 202 or a list shows them")]
pub struct NotAnId(pub String);

impl FromStr for InvocationId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        match uuid::Uuid::parse_str(text) {
            Ok(id) => Ok(InvocationId(id.as_u128())),
            Err(_) => Err(NotAnId(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_is_shown() {
        let id = InvocationId::from_u128(0x0190_aaaa_bbbb_7ccc_8ddd_eeee_ffff_0001);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("x".parse::<InvocationId>().is_err());
    }
}
