//! How one function's deliveries stand, for those who deliver and those who look.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use broker_model::attempt::Class;

use crate::functions::WaitingReason;

/// Shared by the dispatcher, the deliveries to one function, and the read view. Without a lock on the hot path.
#[derive(Debug)]
pub(crate) struct Board {
    limit: AtomicU32,
    reason: AtomicU8,
    /// Nanoseconds on the monotonic clock, plus one; zero for never.
    no_capacity_since: AtomicU64,
    absence: Mutex<Absence>,
    /// By class, in the order of [`Class::ALL`].
    attempts: [Counter; Class::ALL.len()],
}

/// What is known of the function's absence from the gateway.
#[derive(Clone, Copy, Debug, Default)]
struct Absence {
    since: Option<Duration>,
    asked_at: Option<Duration>,
}

/// How long the gateway's word on a function's absence is used before it is asked again.
const WORD_HOLDS: Duration = Duration::from_secs(5);

const REASONS: [WaitingReason; 3] =
    [WaitingReason::FunctionUnknown, WaitingReason::NoCapacity, WaitingReason::Failing];

impl Board {
    pub(crate) fn new(limit: u32, attempts: [Counter; Class::ALL.len()]) -> Self {
        Board {
            limit: AtomicU32::new(limit),
            reason: AtomicU8::new(0),
            no_capacity_since: AtomicU64::new(0),
            absence: Mutex::default(),
            attempts,
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn reason(&self) -> Option<WaitingReason> {
        REASONS.get(usize::from(self.reason.load(Ordering::Relaxed)).checked_sub(1)?).copied()
    }

    pub(crate) fn set_reason(&self, reason: Option<WaitingReason>) {
        let at = reason
            .and_then(|reason| REASONS.iter().position(|known| *known == reason))
            .map_or(0, |at| at + 1);
        self.reason.store(u8::try_from(at).unwrap_or(0), Ordering::Relaxed);
    }

    /// Counts an attempt.
    pub(crate) fn count(&self, class: Class) {
        if let Some(at) = Class::ALL.iter().position(|known| *known == class) {
            self.attempts[at].inc();
        }
    }

    /// For how long there has been nothing but "no capacity", this answer included.
    pub(crate) fn without_capacity(&self, now: Duration) -> Duration {
        let now_nanos = nanos(now);
        match self.no_capacity_since.compare_exchange(0, now_nanos, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Duration::ZERO,
            Err(since) => Duration::from_nanos(now_nanos.saturating_sub(since)),
        }
    }

    /// Another answer came.
    pub(crate) fn with_capacity(&self) {
        if self.no_capacity_since.load(Ordering::Relaxed) != 0 {
            self.no_capacity_since.store(0, Ordering::SeqCst);
        }
    }

    /// For how long the function is known to be absent, where the gateway's last word is fresh enough.
    pub(crate) fn absent_for(&self, now: Duration) -> Option<Option<Duration>> {
        let absence = *self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = absence.asked_at.is_some_and(|asked| now.saturating_sub(asked) < WORD_HOLDS);
        fresh.then(|| absence.since.map(|since| now.saturating_sub(since)))
    }

    /// The gateway has said whether it knows the function; for how long it has not.
    pub(crate) fn confirmed(&self, known: bool, now: Duration) -> Option<Duration> {
        let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        absence.asked_at = Some(now);
        absence.since = if known { None } else { Some(absence.since.unwrap_or(now)) };
        absence.since.map(|since| now.saturating_sub(since))
    }

    /// The function answered: it is there.
    pub(crate) fn present(&self) {
        let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        if absence.since.is_some() {
            *absence = Absence::default();
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(1, Class::ALL.map(|_| Counter::default()))
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn absence_counts_from_the_first_confirmation_and_ends_with_any_sign_of_life() {
        let board = board();
        assert_eq!(board.absent_for(at(0)), None);

        assert_eq!(board.confirmed(false, at(10)), Some(Duration::ZERO));
        assert_eq!(board.absent_for(at(12)), Some(Some(at(2))));
        assert_eq!(board.absent_for(at(16)), None, "the word is old");
        assert_eq!(board.confirmed(false, at(310)), Some(at(300)));

        board.present();
        assert_eq!(board.confirmed(false, at(400)), Some(Duration::ZERO));
        assert_eq!(board.confirmed(true, at(500)), None);
        assert_eq!(board.absent_for(at(501)), Some(None));
    }

    #[test]
    fn an_hour_without_capacity_is_counted_from_its_first_answer() {
        let board = board();

        assert_eq!(board.without_capacity(at(0)), Duration::ZERO);
        assert_eq!(board.without_capacity(at(3600)), at(3600));
        board.with_capacity();
        assert_eq!(board.without_capacity(at(3700)), Duration::ZERO);
    }
}
