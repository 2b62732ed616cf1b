//! When each call of an open loop is due, on a clock that all processes of one machine share.

use std::num::NonZeroU64;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Calls at equal distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the first is due, in nanoseconds of the monotonic clock.
    start: u64,
    /// The distance, in nanoseconds.
    interval: u64,
    /// How many there are.
    count: u64,
}

impl Schedule {
    /// `count` calls at `per_second`, the first one in a tenth of a second.
    pub(crate) fn soon(per_second: u64, count: u64) -> Schedule {
        Schedule { start: now() + 100_000_000, interval: 1_000_000_000 / per_second.max(1), count }
    }

    /// How many calls there are.
    pub(crate) fn count(self) -> u64 {
        self.count
    }

    /// When call `n` is due; the first is 0.
    pub(crate) fn due_at(self, n: u64) -> u64 {
        self.start + n * self.interval
    }

    /// How many calls are due by `now`.
    pub(crate) fn due_by(self, now: u64) -> u64 {
        match now.checked_sub(self.start) {
            None => 0,
            Some(passed) => (passed / self.interval + 1).min(self.count),
        }
    }
}

/// The monotonic clock, in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Sleeps until this instant of the monotonic clock, as exactly as the kernel can.
pub(crate) fn sleep_until(instant: u64) {
    let request = Timespec {
        tv_sec: i64::try_from(instant / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(instant % 1_000_000_000).unwrap_or_default(),
    };
    while now() < instant {
        // Interrupted by a signal, it is called again.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &request);
    }
}

/// Runs `work` on a thread of its own whose sleeps the kernel does not stretch to save wake-ups.
pub(crate) async fn on_a_punctual_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The sleeps only become a little less exact without it, for figure and limit alike.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        // Nobody waits for it any more only when the whole run was given up.
        let _ = done.send(work());
    });
    outcome.await.map_err(|_| anyhow::anyhow!("a measuring thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_MILLISECOND: Schedule = Schedule { start: 5_000_000, interval: 1_000_000, count: 3 };

    #[test]
    fn calls_are_due_at_equal_distances_however_late_the_one_before_was() {
        assert_eq!(EVERY_MILLISECOND.due_at(0), 5_000_000);
        assert_eq!(EVERY_MILLISECOND.due_at(2), 7_000_000);
    }

    #[test]
    fn what_is_due_is_all_that_is_due_and_no_more_than_there_is() {
        assert_eq!(EVERY_MILLISECOND.due_by(0), 0);
        assert_eq!(EVERY_MILLISECOND.due_by(4_999_999), 0);
        assert_eq!(EVERY_MILLISECOND.due_by(5_000_000), 1);
        assert_eq!(EVERY_MILLISECOND.due_by(6_999_999), 2);
        assert_eq!(EVERY_MILLISECOND.due_by(7_000_000), 3);
        assert_eq!(EVERY_MILLISECOND.due_by(u64::MAX), 3);
    }
}
