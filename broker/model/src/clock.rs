//! Time as a value. Reading it is a port, so that tests can hold it, jump it or let it run.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment on the wall clock: nanoseconds since 1970-01-01T00:00:00Z.
///
/// Wall moments are for people and for due times (`Evoke-At`). Waits are measured with [`Clock::monotonic`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of 1970.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// The moment `nanos` nanoseconds after the start of 1970.
    pub const fn from_nanos(nanos: u64) -> Self {
        Timestamp(nanos)
    }

    /// The moment `millis` milliseconds after the start of 1970; saturates in the year 2554.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start of 1970, as `X-Start-Time` carries them.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the start of 1970.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long ago `earlier` was; zero when it lies ahead, as after a jump of the clock.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Reads the two clocks. Never sleeps: whoever waits does so on the runtime's timers.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, on the wall clock; may jump in either direction.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}
