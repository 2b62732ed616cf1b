//! Who may settle an invocation.
//!
//! A lease is a delivery's sole right to settle. It ends when it is settled, given back, revoked by a cancel, or when
//! its process dies; it is never timed. The store's writer is the arbiter: the first record wins.

use std::time::Duration;

use crate::backoff::{Backoff, Jitter};
use crate::id::InvocationId;

/// The right to settle one invocation once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Of which invocation.
    pub id: InvocationId,
    /// In which of its lives.
    pub life: u32,
    /// Which lease of that invocation: every one has another token.
    pub token: u64,
}

/// Who holds an invocation at the moment, as its store sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Nobody: it waits.
    Free,
    /// The lease with this token.
    Held {
        /// The current life.
        life: u32,
        /// The current token.
        token: u64,
    },
    /// It has ended.
    Ended,
}

/// Whether a settlement under `lease` counts.
pub fn may_settle(tenure: Tenure, lease: Lease) -> bool {
    tenure == Tenure::Held { life: lease.life, token: lease.token }
}

/// What follows when a call was under way as its broker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterInterruption {
    /// It runs again like any other.
    Run,
    /// It runs again while no other suspect does, so that a call that kills us is found.
    RunAlone,
    /// It ends as a dead letter ([`crate::Reason::Interrupted`]).
    GiveUp,
}

/// From this many interruptions on a call is a suspect.
pub const SUSPECT_FROM: u32 = 3;

/// What to do with a call interrupted `interrupted` times; `bound` is configuration.
pub fn after_interruptions(interrupted: u32, bound: u32) -> AfterInterruption {
    if interrupted > bound {
        AfterInterruption::GiveUp
    } else if interrupted >= SUSPECT_FROM {
        AfterInterruption::RunAlone
    } else {
        AfterInterruption::Run
    }
}

/// How long an interrupted call waits after recovery: not at all once, then from one second doubling to a minute.
pub fn wait_after_interruptions(interrupted: u32) -> Duration {
    match interrupted {
        0 | 1 => Duration::ZERO,
        n => Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: Jitter::None }
            .wait(n - 1, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_lease_settles() {
        let lease = Lease { id: InvocationId::from_u128(1), life: 2, token: 7 };

        assert!(may_settle(Tenure::Held { life: 2, token: 7 }, lease));
        assert!(!may_settle(Tenure::Held { life: 2, token: 8 }, lease));
        assert!(!may_settle(Tenure::Held { life: 3, token: 7 }, lease));
        assert!(!may_settle(Tenure::Free, lease));
        assert!(!may_settle(Tenure::Ended, lease));
    }

    #[test]
    fn a_call_that_kills_us_runs_alone_and_ends_at_the_bound() {
        let steps: Vec<AfterInterruption> = (0..=6).map(|n| after_interruptions(n, 5)).collect();

        use AfterInterruption::*;
        assert_eq!(steps, [Run, Run, Run, RunAlone, RunAlone, RunAlone, GiveUp]);
        assert_eq!(wait_after_interruptions(1), Duration::ZERO);
        assert_eq!(wait_after_interruptions(40), Duration::from_secs(60));
    }
}
