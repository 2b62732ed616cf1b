//! Moments.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, to the millisecond: `2026-11-22T19:36:36.123Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(jiff::Timestamp);

impl Time {
    /// The moment this many milliseconds after the start of 1970. Beyond the year 9999 it is the end of that year.
    pub fn from_millis(millis: u64) -> Self {
        let moment = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        Time(moment.unwrap_or(jiff::Timestamp::MAX))
    }

    /// Milliseconds since the start of 1970; zero before it.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millisecond()).unwrap_or(0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotATime(String);

impl fmt::Display for NotATime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a moment; write it as 2026-11-22T19:36:36Z", self.0)
    }
}

impl std::error::Error for NotATime {}

impl FromStr for Time {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        text.parse().map(Time).map_err(|_| NotATime(text.chars().take(64).collect()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_always_shows_its_milliseconds_and_reads_back() {
        for (millis, text) in
            [(0, "\"1970-01-01T00:00:00.000Z\""), (1_700_000_000_007, "\"2023-11-14T22:13:20.007Z\"")]
        {
            let time = Time::from_millis(millis);

            assert_eq!(serde_json::to_string(&time).unwrap(), text);
            assert_eq!(serde_json::from_str::<Time>(text).unwrap(), time);
            assert_eq!(time.as_millis(), millis);
        }
    }

    #[test]
    fn an_offset_is_understood_and_nonsense_is_not() {
        assert_eq!("2023-11-14T23:13:20+01:00".parse::<Time>().unwrap().as_millis(), 1_700_000_000_000);
        assert!("yesterday".parse::<Time>().is_err());
        assert_eq!(Time::from_millis(u64::MAX).to_string().get(..4), Some("9999"));
    }
}
