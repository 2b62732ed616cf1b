//! Durations as our configuration, headers and API write them: whole units, `d` included, never a bare number.

use std::time::Duration;

use crate::go_duration::{GoDurationError, sum_of_parts};
use crate::setting::{Fault, Setting, scalar};
use crate::tree::Node;

/// Longest unit first: the order in which a duration is written.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: {cause}")]
pub struct DurationError {
    text: String,
    #[source]
    cause: GoDurationError,
}

/// Reads `10s`, `5m`, `1h`, `1d`, `500ms`, or several such parts in a row (`1m30s`).
///
/// # Errors
/// [`DurationError`] for anything else; a number without a unit is an error, zero included (write `0s`).
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    sum_of_parts(text, &UNITS).map_err(|cause| DurationError { text: text.into(), cause })
}

/// Writes a duration so that [`parse_duration`] reads the same one: `90s` becomes `1m30s`.
pub fn format_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in UNITS {
        let count = rest / u128::from(nanos);
        rest %= u128::from(nanos);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration such as 10s, 5m, 1h, 1d or 500ms";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar::<Self>(node, |text| match sum_of_parts(text, &UNITS) {
            Ok(duration) => Ok(duration),
            Err(GoDurationError::NoUnit(_)) if text.bytes().all(|b| b.is_ascii_digit()) => Err((
                format!("{text:?} has no unit"),
                format!("write the unit, such as {text}s, {text}m or {text}ms"),
            )),
            Err(cause) => {
                Err((format!("{text:?} is not a duration: {cause}"), format!("write {}", Self::EXPECTED)))
            }
        })
    }

    fn show(&self) -> String {
        format_duration(*self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanos);

            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn round_durations_too(count in 0_u64..100_000, unit in 0..UNITS.len()) {
            let duration = Duration::from_nanos(count * UNITS[unit].1);

            prop_assert_eq!(parse_duration(&format!("{count}{}", UNITS[unit].0)), Ok(duration));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-zµ.+ -]{0,24}") {
            let _ = parse_duration(&text);
        }
    }

    #[test]
    fn the_units_of_the_reference_are_read() {
        for (text, seconds) in
            [("10s", 10), ("5m", 300), ("1h", 3_600), ("1d", 86_400), ("1d12h", 129_600), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in ["10", "0", "-5s", "", "10 s", "s", "1w", "ten"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_in_its_largest_units() {
        assert_eq!(format_duration(Duration::from_secs(120)), "2m");
        assert_eq!(format_duration(Duration::from_millis(90_500)), "1m30s500ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }
}
