//! Durations as Go writes them (`1m30s`, `1.5h`, `500ms`), for the variables and annotations OpenFaaS defined.

use std::time::Duration;

/// Why a text is not a duration a wait or a limit could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// Digits with no unit after them (`10`).
    #[error("{0:?} has no unit")]
    NoUnit(String),
    /// A unit outside the notation (`10 sec`, `1d`).
    #[error("{0:?} is not a unit")]
    UnknownUnit(String),
    /// No digits where a number belongs.
    #[error("a number is missing before {0:?}")]
    NoNumber(String),
    /// Below zero: well-formed, but no wait can be that long.
    #[error("it is below zero")]
    Negative,
    /// More nanoseconds than 63 bits hold (about 292 years).
    #[error("it is longer than 292 years")]
    TooLong,
}

/// The units of Go's notation, with their length in nanoseconds.
const GO_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // the micro sign
    ("\u{3bc}s", 1_000), // the Greek letter mu
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration: signed numbers, with or without a fraction, each followed by a unit; a bare `0` needs none.
///
/// Units are `ns us µs ms s m h`. Parts finer than a nanosecond are cut off.
///
/// # Errors
/// [`GoDurationError`]; a negative duration is refused with [`GoDurationError::Negative`], because every duration of
/// the contract is a wait or a limit.
///
/// Source: the OpenFaaS contract, which takes Go's `time.ParseDuration`.
pub fn parse(text: &str) -> Result<Duration, GoDurationError> {
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if magnitude == "0" {
        return Ok(Duration::ZERO);
    }
    match sum_of_parts(magnitude, &GO_UNITS)? {
        duration if negative && !duration.is_zero() => Err(GoDurationError::Negative),
        duration => Ok(duration),
    }
}

/// Reads a Go duration, or a bare number of seconds, as the gateway takes its timeouts.
///
/// # Errors
/// As [`parse`].
pub fn parse_or_seconds(text: &str) -> Result<Duration, GoDurationError> {
    match text.parse::<u64>() {
        Ok(seconds) if i64::try_from(seconds).is_ok_and(|s| s <= i64::MAX / 1_000_000_000) => {
            Ok(Duration::from_secs(seconds))
        }
        Ok(_) => Err(GoDurationError::TooLong),
        Err(_) => parse(text),
    }
}

/// Adds up `number unit` parts, in any order and repeated at will, as Go does.
pub(crate) fn sum_of_parts(text: &str, units: &[(&str, u64)]) -> Result<Duration, GoDurationError> {
    if text.is_empty() {
        return Err(GoDurationError::Empty);
    }

    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(GoDurationError::NoNumber(rest.into()));
        }

        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(GoDurationError::NoUnit(rest[..rest.len() - after.len()].into()));
        }
        let &(_, length) = units
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| GoDurationError::UnknownUnit(unit.into()))?;

        nanos = whole_part(whole, length)
            .and_then(|part| nanos.checked_add(part + fraction_part(fraction, length)))
            .filter(|&nanos| nanos <= u128::from(i64::MAX.unsigned_abs()))
            .ok_or(GoDurationError::TooLong)?;
        rest = after;
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| GoDurationError::TooLong)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn whole_part(digits: &str, unit: u64) -> Option<u128> {
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse::<u64>().ok().map(|number| u128::from(number) * u128::from(unit))
}

/// What follows the point, cut to whole nanoseconds. Digits past the eighteenth are below a nanosecond in any unit.
fn fraction_part(digits: &str, unit: u64) -> u128 {
    let digits = &digits[..digits.len().min(18)];
    digits.parse::<u128>().map_or(0, |number| number * u128::from(unit) / 10_u128.pow(digits.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_contract_is_read() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("-0", 0),
            ("-0s", 0),
            ("+5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("500ms", 500_000_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("1us2ns", 1_002),
            ("30s1m", 90_000_000_000),
            ("5m5s", 305_000_000_000),
            ("0.1234567891s", 123_456_789),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_with_the_reason() {
        for (text, error) in [
            ("", GoDurationError::Empty),
            ("-", GoDurationError::Empty),
            ("10", GoDurationError::NoUnit("10".into())),
            ("1h10", GoDurationError::NoUnit("10".into())),
            ("1d", GoDurationError::UnknownUnit("d".into())),
            ("10 s", GoDurationError::UnknownUnit(" s".into())),
            ("s", GoDurationError::NoNumber("s".into())),
            (".s", GoDurationError::NoNumber(".s".into())),
            ("1..5s", GoDurationError::NoUnit("1.".into())),
            ("-5s", GoDurationError::Negative),
            ("--5s", GoDurationError::NoNumber("-5s".into())),
            ("9223372036854775808ns", GoDurationError::TooLong),
            ("99999999999999999999999h", GoDurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_longest_go_duration_is_read() {
        assert_eq!(parse("9223372036854775807ns"), Ok(Duration::from_nanos(i64::MAX.unsigned_abs())));
    }

    #[test]
    fn a_bare_number_is_seconds_only_where_asked_for() {
        assert_eq!(parse_or_seconds("60"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_or_seconds("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_or_seconds("10000000000"), Err(GoDurationError::TooLong));
    }

    #[test]
    fn a_long_fraction_does_not_overflow() {
        assert_eq!(parse(&format!("0.{}h", "9".repeat(200))), Ok(Duration::from_nanos(3_599_999_999_999)));
    }
}
