//! How many deliveries run at once to one function, and when a failing lane is spared.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::attempt::{Class, Outcome};
use crate::function::Concurrency;
use crate::id::InvocationId;

/// What a finished delivery says about capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// There was room.
    Room,
    /// There was none: the core's 429, 502, 503, 504, a reset.
    NoRoom,
    /// Nothing either way: a function's own failure says nothing about room.
    Neither,
}

impl Signal {
    /// What this outcome says.
    pub fn of(outcome: &Outcome) -> Signal {
        match outcome.class() {
            Class::Success => Signal::Room,
            Class::Capacity | Class::Dropped => Signal::NoRoom,
            _ if matches!(outcome.status(), Some(502..=504)) => Signal::NoRoom,
            _ => Signal::Neither,
        }
    }
}

/// Which round a delivery started in: a cut is made once for all deliveries that started before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(u64);

/// The concurrency limit of one lane.
///
/// Adaptive: one wake call while no replica is ready; after its success replicas × `max_inflight` when known, else 4;
/// one more per round of successes, half once per round without room, and another try every 10 s while work waits.
/// Fixed: always the number given.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(u32),
    Adaptive(Adaptive),
}

#[derive(Clone, Debug)]
struct Adaptive {
    limit: u32,
    cap: u32,
    awake: bool,
    round: u64,
    successes: u32,
    raised_or_cut_at: Duration,
}

impl ConcurrencyLimit {
    /// The most an adaptive limit reaches.
    pub const CAP: u32 = 50;
    /// What an adaptive limit starts from when capacity is unknown.
    pub const START: u32 = 4;
    /// How often a limit that stands still is tried one higher while work waits.
    pub const PROBE_EVERY: Duration = Duration::from_secs(10);

    /// A limit of this kind; `now` is monotonic.
    pub fn new(concurrency: Concurrency, now: Duration) -> Self {
        let kind = match concurrency {
            Concurrency::Fixed(n) => Kind::Fixed(n.get()),
            Concurrency::Adaptive => Kind::Adaptive(Adaptive {
                limit: 1,
                cap: Self::CAP,
                awake: false,
                round: 0,
                successes: 0,
                raised_or_cut_at: now,
            }),
        };
        ConcurrencyLimit { kind }
    }

    /// Whether this limit already is of that kind, so that it need not be made anew.
    pub fn is(&self, concurrency: Concurrency) -> bool {
        match (&self.kind, concurrency) {
            (Kind::Fixed(have), Concurrency::Fixed(want)) => *have == want.get(),
            (Kind::Adaptive(_), Concurrency::Adaptive) => true,
            _ => false,
        }
    }

    /// Deliveries allowed at once now.
    pub fn limit(&self) -> u32 {
        match &self.kind {
            Kind::Fixed(n) => *n,
            Kind::Adaptive(adaptive) => adaptive.limit,
        }
    }

    /// The round a delivery that starts now belongs to.
    pub fn round(&self) -> Round {
        match &self.kind {
            Kind::Fixed(_) => Round(0),
            Kind::Adaptive(adaptive) => Round(adaptive.round),
        }
    }

    /// The gateway lists no ready replica: the next delivery is a wake call, alone.
    pub fn asleep(&mut self) {
        if let Kind::Adaptive(adaptive) = &mut self.kind
            && adaptive.awake
        {
            *adaptive =
                Adaptive { limit: 1, awake: false, round: adaptive.round + 1, successes: 0, ..*adaptive };
        }
    }

    /// A delivery that started in `round` has finished.
    pub fn finished(
        &mut self,
        round: Round,
        signal: Signal,
        replicas: u32,
        max_inflight: Option<NonZeroU32>,
        now: Duration,
    ) {
        let Kind::Adaptive(adaptive) = &mut self.kind else { return };
        match signal {
            Signal::Room if !adaptive.awake => {
                let known = max_inflight.map(|each| replicas.max(1).saturating_mul(each.get()));
                adaptive.limit = known.unwrap_or(Self::START).clamp(1, adaptive.cap);
                adaptive.awake = true;
                adaptive.begin_round(now);
            }
            Signal::Room => {
                adaptive.successes += 1;
                if adaptive.successes >= adaptive.limit && adaptive.limit < adaptive.cap {
                    adaptive.limit += 1;
                    adaptive.begin_round(now);
                }
            }
            Signal::NoRoom if round.0 == adaptive.round => {
                adaptive.limit = (adaptive.limit / 2).max(1);
                adaptive.begin_round(now);
            }
            Signal::NoRoom | Signal::Neither => {}
        }
    }

    /// Work waits at the limit: tries one more when nothing has moved for [`ConcurrencyLimit::PROBE_EVERY`].
    pub fn probe(&mut self, now: Duration) {
        if let Kind::Adaptive(adaptive) = &mut self.kind {
            let still = now.saturating_sub(adaptive.raised_or_cut_at) >= Self::PROBE_EVERY;
            if adaptive.awake && still && adaptive.limit < adaptive.cap {
                adaptive.limit += 1;
                adaptive.begin_round(now);
            }
        }
    }
}

impl Adaptive {
    fn begin_round(&mut self, now: Duration) {
        self.round += 1;
        self.successes = 0;
        self.raised_or_cut_at = now;
    }
}

/// Spares a lane whose calls all fail: after 20 failures in a row over at least 5 calls one probe at a time is let
/// through, so that an outage does not burn the attempts of everything behind it.
#[derive(Clone, Debug, Default)]
pub struct LaneBreaker {
    failures: u32,
    calls: BTreeSet<InvocationId>,
}

impl LaneBreaker {
    /// Failures in a row that trip it.
    pub const FAILURES: u32 = 20;
    /// Distinct calls among them.
    pub const CALLS: usize = 5;

    /// A counted attempt of `call` ended; `failed` says whether it was a failure.
    pub fn finished(&mut self, call: InvocationId, failed: bool) {
        if !failed {
            *self = LaneBreaker::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.calls.len() < Self::CALLS {
            self.calls.insert(call);
        }
    }

    /// Whether only one probe at a time may run.
    pub fn is_tripped(&self) -> bool {
        self.failures >= Self::FAILURES && self.calls.len() >= Self::CALLS
    }

    /// How many failures in a row lie beyond the tripping one, for the wait between probes.
    pub fn beyond(&self) -> u32 {
        self.failures.saturating_sub(Self::FAILURES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn adaptive() -> ConcurrencyLimit {
        ConcurrencyLimit::new(Concurrency::Adaptive, at(0))
    }

    fn ends(limit: &mut ConcurrencyLimit, signal: Signal) {
        limit.finished(limit.round(), signal, 1, None, at(0));
    }

    #[test]
    fn one_wake_call_then_what_the_replicas_take() {
        let mut limit = adaptive();
        assert_eq!(limit.limit(), 1);

        limit.finished(limit.round(), Signal::Room, 3, NonZeroU32::new(5), at(1));
        assert_eq!(limit.limit(), 15);

        let mut unknown = adaptive();
        ends(&mut unknown, Signal::Room);
        assert_eq!(unknown.limit(), 4);
    }

    #[test]
    fn a_round_of_successes_raises_by_one() {
        let mut limit = adaptive();
        ends(&mut limit, Signal::Room);
        for _ in 0..4 {
            ends(&mut limit, Signal::Room);
        }
        assert_eq!(limit.limit(), 5);
    }

    #[test]
    fn a_burst_without_room_halves_once() {
        let mut limit = adaptive();
        limit.finished(limit.round(), Signal::Room, 8, NonZeroU32::new(5), at(0));
        let started = limit.round();

        for _ in 0..40 {
            limit.finished(started, Signal::NoRoom, 8, NonZeroU32::new(5), at(1));
        }

        assert_eq!(limit.limit(), 20);
    }

    #[test]
    fn a_limit_that_stands_still_is_probed_every_ten_seconds() {
        let mut limit = adaptive();
        ends(&mut limit, Signal::Room);
        ends(&mut limit, Signal::NoRoom);
        assert_eq!(limit.limit(), 2);

        limit.probe(at(9));
        assert_eq!(limit.limit(), 2);
        limit.probe(at(10));
        assert_eq!(limit.limit(), 3);
        limit.probe(at(11));
        assert_eq!(limit.limit(), 3);
    }

    #[test]
    fn a_function_that_fell_asleep_is_woken_by_one_call() {
        let mut limit = adaptive();
        ends(&mut limit, Signal::Room);
        limit.asleep();

        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn twenty_failures_of_few_calls_do_not_trip_the_breaker() {
        let mut breaker = LaneBreaker::default();
        for n in 0..40 {
            breaker.finished(InvocationId::from_u128(n % 4), true);
        }
        assert!(!breaker.is_tripped());

        breaker.finished(InvocationId::from_u128(9), true);
        assert!(breaker.is_tripped());
        breaker.finished(InvocationId::from_u128(9), false);
        assert!(!breaker.is_tripped());
    }

    proptest! {
        #[test]
        fn an_adaptive_limit_stays_between_one_and_its_cap(
            steps in proptest::collection::vec((0u8..5, 0u32..200, proptest::option::of(1u32..1000)), 0..200),
        ) {
            let mut limit = adaptive();
            for (n, (step, replicas, each)) in steps.into_iter().enumerate() {
                let signal = [Signal::Room, Signal::NoRoom, Signal::Neither][usize::from(step.min(2))];
                match step {
                    3 => limit.probe(at(n as u64 * 7)),
                    4 => limit.asleep(),
                    _ => limit.finished(limit.round(), signal, replicas, each.and_then(NonZeroU32::new), at(n as u64)),
                }
                prop_assert!((1..=ConcurrencyLimit::CAP).contains(&limit.limit()));
            }
        }
    }
}
