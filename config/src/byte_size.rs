//! Sizes in bytes, written with their unit: `64MiB`.

use std::fmt;

use crate::setting::{Fault, Setting, scalar};
use crate::tree::Node;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Longest unit first, binary before decimal: the order in which a size is written.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// Only digits: bytes, or did somebody mean MiB?
    #[error("{0:?} has no unit")]
    NoUnit(String),
    /// Not a whole number followed by a unit we know.
    #[error("{0:?} is not a size")]
    Malformed(String),
    /// More bytes than 64 bits count.
    #[error("{0:?} is more than 64 bits count")]
    TooLarge(String),
}

impl ByteSize {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads a whole number and its unit: `64MiB`, `10KB`, `512B`.
    ///
    /// # Errors
    /// [`ByteSizeError`] for anything else; a number without a unit is an error.
    pub fn parse(text: &str) -> Result<Self, ByteSizeError> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if number.is_empty() {
            return Err(ByteSizeError::Malformed(text.into()));
        }
        if unit.is_empty() {
            return Err(ByteSizeError::NoUnit(text.into()));
        }
        let &(_, length) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| ByteSizeError::Malformed(text.into()))?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(length))
            .map(Self)
            .ok_or_else(|| ByteSizeError::TooLarge(text.into()))
    }
}

/// Written in the largest unit that keeps it exact.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, length) = UNITS
            .into_iter()
            .find(|(_, length)| self.0 > 0 && self.0.is_multiple_of(*length))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / length)
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a size such as 64MiB, 1GiB, 512KiB or 10MB";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar::<Self>(node, |text| {
            Self::parse(text).map_err(|error| {
                let remedy = match &error {
                    ByteSizeError::NoUnit(_) => {
                        format!("write the unit, such as {text}B, {text}KiB or {text}MiB")
                    }
                    _ => format!("write {}", Self::EXPECTED),
                };
                (error.to_string(), remedy)
            })
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64) {
            prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Ok(ByteSize(bytes)));
        }

        #[test]
        fn round_sizes_too(count in 0_u64..10_000, unit in 0..UNITS.len()) {
            let size = ByteSize(count * UNITS[unit].1);

            prop_assert_eq!(ByteSize::parse(&format!("{count}{}", UNITS[unit].0)), Ok(size));
            prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
        }
    }

    #[test]
    fn binary_and_decimal_units_differ() {
        assert_eq!(ByteSize::parse("1MiB"), Ok(ByteSize(1_048_576)));
        assert_eq!(ByteSize::parse("1MB"), Ok(ByteSize(1_000_000)));
        assert_eq!(ByteSize(1_000_000).to_string(), "1MB");
        assert_eq!(ByteSize(1_048_577).to_string(), "1048577B");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        assert_eq!(ByteSize::parse("64"), Err(ByteSizeError::NoUnit("64".into())));
        for text in ["", "MiB", "64Mi", "64mib", "1.5GiB", "64 MiB", "-1MiB"] {
            assert_eq!(ByteSize::parse(text), Err(ByteSizeError::Malformed(text.into())));
        }
        assert!(matches!(ByteSize::parse("99999999TiB"), Err(ByteSizeError::TooLarge(_))));
    }
}
