//! How long to wait before trying again.

use std::time::Duration;

/// How a wait is spread, so that calls that failed together do not return together.
///
/// Source: OpenFaaS Pro's `backoff` setting and its three values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Jitter {
    /// No spread: `exponential`.
    #[default]
    None,
    /// Anywhere from nothing to the whole wait: `full`.
    Full,
    /// From half of the wait to the whole: `equal`.
    Equal,
}

/// A wait that doubles from a first value to a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait. Zero means no wait at all, ever.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// How it is spread.
    pub jitter: Jitter,
}

impl Backoff {
    /// For reconnecting to an upstream: from 100 ms to 30 s, spread from half to whole.
    pub const RECONNECT: Backoff =
        Backoff { min: Duration::from_millis(100), max: Duration::from_secs(30), jitter: Jitter::Equal };

    /// The wait before retry `retry` (1 for the first). `random` is uniform in `0.0..1.0`.
    pub fn wait(&self, retry: u32, random: f64) -> Duration {
        let doublings = retry.saturating_sub(1).min(63);
        let whole = u32::try_from(1u64 << doublings.min(31))
            .ok()
            .and_then(|factor| self.min.checked_mul(factor))
            .map_or(self.max, |wait| wait.min(self.max));
        let random = random.clamp(0.0, 1.0);
        match self.jitter {
            Jitter::None => whole,
            Jitter::Full => whole.mul_f64(random),
            Jitter::Equal => whole.mul_f64(0.5 + random / 2.0),
        }
    }
}

/// What an error says about trying again. Every error that a loop can meet answers with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Trying again changes nothing.
    Never,
    /// With the loop's own backoff.
    Soon,
    /// Not before this long.
    After(Duration),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPENFAAS: Backoff =
        Backoff { min: Duration::from_secs(10), max: Duration::from_secs(120), jitter: Jitter::None };

    #[test]
    fn the_defaults_wait_as_openfaas_pro_does() {
        let waits: Vec<u64> = (1..=6).map(|n| OPENFAAS.wait(n, 0.5).as_secs()).collect();

        assert_eq!(waits, [10, 20, 40, 80, 120, 120]);
    }

    #[test]
    fn a_zero_minimum_never_waits() {
        assert_eq!(Backoff { min: Duration::ZERO, ..OPENFAAS }.wait(50, 1.0), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn every_wait_lies_within_its_bounds(retry in 0u32..u32::MAX, random in 0.0f64..1.0, min in 0u64..1_000_000, max in 0u64..1_000_000_000) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            for jitter in [Jitter::None, Jitter::Full, Jitter::Equal] {
                let wait = Backoff { min, max, jitter }.wait(retry, random);
                prop_assert!(wait <= max);
                if jitter == Jitter::Equal {
                    prop_assert!(wait >= min.min(max).mul_f64(0.499));
                }
            }
        }

        #[test]
        fn without_jitter_waits_never_shrink(retry in 0u32..200) {
            prop_assert!(OPENFAAS.wait(retry + 1, 0.0) >= OPENFAAS.wait(retry, 0.0));
        }
    }
}
