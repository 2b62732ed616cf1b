//! What follows an attempt.
//!
//! Source of the rules: OpenFaaS Pro's retries (annotations, codes, waits, `Retry-After` on 429 and 503,
//! `X-OpenFaaS-Internal`), with Evoke's additions: no capacity and an unreachable gateway are nobody's attempt, a
//! function may steer its outcome, and what ends badly is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::attempt::{Answer, Asked, Outcome};
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::dead_letter::Reason;
use crate::invocation::Invocation;

/// The longest `Retry-After` that is honoured.
pub const RETRY_AFTER_CEILING: Duration = Duration::from_secs(3600);

/// How long a function's absence must be confirmed before its calls are dead.
pub const ABSENCE_BEFORE_MISSING: Duration = Duration::from_secs(300);

/// After this long of nothing but "no capacity", each such answer is an attempt.
pub const CAPACITY_PATIENCE: Duration = Duration::from_secs(3600);

/// Which failures are kept as dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeadLetterRule {
    /// Every final failure.
    #[default]
    All,
    /// Only calls that ran out of retries, for functions whose 4xx is an ordinary answer.
    Exhausted,
}

/// The rules for one call: the broker's defaults with the function's annotations over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first try.
    pub attempts: u32,
    /// Statuses that are tried again.
    pub codes: BTreeSet<u16>,
    /// Waits between tries.
    pub backoff: Backoff,
    /// Which failures are kept.
    pub dead_letter: DeadLetterRule,
    /// How long a call stays worth running; `None` for ever.
    pub max_age: Option<Duration>,
}

impl RetryPolicy {
    /// OpenFaaS Pro's defaults of February 2026.
    pub fn openfaas() -> Self {
        RetryPolicy {
            attempts: 100,
            codes: [408, 429, 500, 502, 503, 504].into(),
            backoff: Backoff {
                min: Duration::from_secs(10),
                max: Duration::from_secs(120),
                jitter: crate::backoff::Jitter::None,
            },
            dead_letter: DeadLetterRule::All,
            max_age: None,
        }
    }
}

/// What is known when an attempt is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Counted attempts of this life before this one.
    pub made: u32,
    /// For how long the gateway has confirmed that it does not know the function; `None` while it does or cannot say.
    pub absent_for: Option<Duration>,
    /// For how long this lane has had nothing but "no capacity".
    pub without_capacity_for: Duration,
    /// Uniform in `0.0..1.0`.
    pub random: f64,
}

/// What policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Complete,
    /// Again after this wait; the attempt counts.
    Retry(Duration),
    /// Again after this wait; it was no attempt.
    Wait(Duration, WaitReason),
    /// Given up.
    DeadLetter(Reason, Box<str>),
}

/// Why a call waits without having been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// No replica has room.
    NoCapacity,
    /// The gateway cannot be reached.
    GatewayUnreachable,
    /// The gateway does not know the function, not yet for long enough.
    FunctionUnknown,
}

impl RetryPolicy {
    /// Whether a call may no longer be run. Asked only when it would be leased, so that nothing expires while its
    /// function is paused or the gateway is down.
    pub fn is_expired(&self, invocation: &Invocation, now: Timestamp) -> bool {
        invocation.max_age.or(self.max_age).is_some_and(|max| now.since(invocation.ages_from()) > max)
    }

    /// Judges an attempt to run a function.
    pub fn judge(&self, outcome: &Outcome, seen: Circumstances) -> Verdict {
        let answer = match outcome {
            Outcome::Unreachable(_) => {
                return Verdict::Wait(self.backoff.wait(1, seen.random), WaitReason::GatewayUnreachable);
            }
            Outcome::Denied(address) => return Verdict::DeadLetter(Reason::CallbackDenied, address.clone()),
            Outcome::Dropped(_) => return self.again(None, seen, "the connection dropped"),
            Outcome::TimedOut => return self.again(None, seen, "no answer in time"),
            Outcome::Answered(answer) => answer,
        };
        match &answer.asked {
            Some(Asked::Done) => return Verdict::Complete,
            Some(Asked::Dead(token)) => return Verdict::DeadLetter(Reason::Asked, token.as_str().into()),
            Some(Asked::Retry(after)) => {
                let after = after.map(|wait| wait.min(RETRY_AFTER_CEILING));
                return self.again(after, seen, "the function asked for a retry");
            }
            None => {}
        }
        let status = || format!("status {}", answer.status);
        if answer.unknown_function {
            if let Some(absent_for) = seen.absent_for {
                return if absent_for >= ABSENCE_BEFORE_MISSING {
                    Verdict::DeadLetter(Reason::FunctionMissing, status().into())
                } else {
                    Verdict::Wait(
                        self.backoff.wait(seen.made.saturating_add(1), seen.random),
                        WaitReason::FunctionUnknown,
                    )
                };
            }
            return self.again(None, seen, &status());
        }
        if answer.is_no_capacity() && seen.without_capacity_for < CAPACITY_PATIENCE {
            let wait = self.honoured(answer).unwrap_or_else(|| self.backoff.wait(1, seen.random));
            return Verdict::Wait(wait, WaitReason::NoCapacity);
        }
        if answer.status < 400 {
            return Verdict::Complete;
        }
        // An expired function token stays expired: of the core's errors this one is final.
        let retryable = (answer.internal && answer.status != 401) || self.codes.contains(&answer.status);
        if retryable {
            return self.again(self.honoured(answer), seen, &status());
        }
        match self.dead_letter {
            DeadLetterRule::All => Verdict::DeadLetter(Reason::Rejected, status().into()),
            DeadLetterRule::Exhausted => Verdict::Complete,
        }
    }

    /// Judges an attempt to tell a callback's host. Unlike a function's, its host may be gone for good: being
    /// unreachable is an attempt, and a redirect is no success, because none is followed.
    pub fn judge_callback(&self, outcome: &Outcome, seen: Circumstances) -> Verdict {
        match outcome {
            Outcome::Unreachable(why) => self.again(None, seen, why),
            Outcome::Answered(answer) => match answer.status {
                200..300 => Verdict::Complete,
                status if self.codes.contains(&status) || status >= 500 => {
                    self.again(self.honoured(answer), seen, &format!("status {status}"))
                }
                status => Verdict::DeadLetter(Reason::Rejected, format!("status {status}").into()),
            },
            Outcome::Dropped(_) | Outcome::TimedOut | Outcome::Denied(_) => self.judge(outcome, seen),
        }
    }

    fn honoured(&self, answer: &Answer) -> Option<Duration> {
        let asked = answer.retry_after.filter(|_| matches!(answer.status, 429 | 503))?;
        Some(asked.clamp(self.backoff.min.min(RETRY_AFTER_CEILING), RETRY_AFTER_CEILING))
    }

    fn again(&self, instead_of_backoff: Option<Duration>, seen: Circumstances, why: &str) -> Verdict {
        if seen.made >= self.attempts {
            return Verdict::DeadLetter(Reason::Exhausted, why.into());
        }
        let backoff = || self.backoff.wait(seen.made.saturating_add(1), seen.random);
        Verdict::Retry(instead_of_backoff.unwrap_or_else(backoff))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dead_letter::AskedReason;

    fn answer(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    fn judge(answer: Answer, seen: Circumstances) -> Verdict {
        RetryPolicy::openfaas().judge(&Outcome::Answered(answer), seen)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn made(made: u32) -> Circumstances {
        Circumstances { made, ..Circumstances::default() }
    }

    #[test]
    fn a_success_completes_and_an_ordinary_404_is_rejected() {
        assert_eq!(judge(answer(200), made(0)), Verdict::Complete);
        assert_eq!(judge(answer(302), made(0)), Verdict::Complete);
        assert_eq!(judge(answer(404), made(0)), Verdict::DeadLetter(Reason::Rejected, "status 404".into()));
    }

    #[test]
    fn a_function_whose_4xx_is_an_answer_keeps_only_exhausted_calls() {
        let policy =
            RetryPolicy { dead_letter: DeadLetterRule::Exhausted, attempts: 0, ..RetryPolicy::openfaas() };

        assert_eq!(policy.judge(&Outcome::Answered(answer(404)), made(0)), Verdict::Complete);
        assert!(matches!(
            policy.judge(&Outcome::Answered(answer(500)), made(0)),
            Verdict::DeadLetter(Reason::Exhausted, _)
        ));
    }

    #[test]
    fn the_first_try_and_n_retries_are_made_then_it_is_exhausted() {
        let policy = RetryPolicy { attempts: 2, ..RetryPolicy::openfaas() };
        let verdicts: Vec<Verdict> =
            (0..3).map(|n| policy.judge(&Outcome::Answered(answer(500)), made(n))).collect();

        assert_eq!(verdicts[0], Verdict::Retry(secs(10)));
        assert_eq!(verdicts[1], Verdict::Retry(secs(20)));
        assert_eq!(verdicts[2], Verdict::DeadLetter(Reason::Exhausted, "status 500".into()));
    }

    #[test]
    fn retry_after_is_honoured_between_min_wait_and_an_hour_on_429_and_503_only() {
        let asks = |status, wait| {
            judge(Answer { status, retry_after: Some(secs(wait)), ..Answer::default() }, made(0))
        };

        assert_eq!(asks(429, 3), Verdict::Retry(secs(10)));
        assert_eq!(asks(429, 30), Verdict::Retry(secs(30)));
        assert_eq!(asks(503, 90_000), Verdict::Retry(secs(3600)));
        assert_eq!(asks(500, 30), Verdict::Retry(secs(10)));
    }

    #[test]
    fn an_error_of_the_core_is_retried_whatever_its_code_but_401() {
        let internal = |status| judge(Answer { status, internal: true, ..Answer::default() }, made(0));

        assert_eq!(internal(418), Verdict::Retry(secs(10)));
        assert_eq!(internal(401), Verdict::DeadLetter(Reason::Rejected, "status 401".into()));
        assert_eq!(internal(200), Verdict::Complete);
    }

    #[test]
    fn no_capacity_is_no_attempt_until_an_hour_has_passed() {
        let no_room = Answer { status: 429, internal: true, ..Answer::default() };
        let patient =
            Circumstances { made: 100, without_capacity_for: secs(3599), ..Circumstances::default() };
        let spent = Circumstances { without_capacity_for: secs(3600), ..patient };

        assert_eq!(judge(no_room.clone(), patient), Verdict::Wait(secs(10), WaitReason::NoCapacity));
        assert!(matches!(judge(no_room, spent), Verdict::DeadLetter(Reason::Exhausted, _)));
    }

    #[test]
    fn an_unreachable_gateway_is_never_an_attempt() {
        let verdict = RetryPolicy::openfaas().judge(&Outcome::Unreachable("refused".into()), made(u32::MAX));

        assert!(matches!(verdict, Verdict::Wait(_, WaitReason::GatewayUnreachable)));
    }

    #[test]
    fn an_unknown_function_waits_until_its_absence_is_sure() {
        let unknown = Answer { status: 404, unknown_function: true, ..Answer::default() };
        let after = |absent_for| {
            judge(unknown.clone(), Circumstances { absent_for, made: 100, ..Default::default() })
        };

        assert!(matches!(after(Some(secs(299))), Verdict::Wait(_, WaitReason::FunctionUnknown)));
        assert!(matches!(after(Some(secs(300))), Verdict::DeadLetter(Reason::FunctionMissing, _)));
        assert!(matches!(after(None), Verdict::DeadLetter(Reason::Exhausted, _)));
    }

    #[test]
    fn a_function_steers_its_own_outcome() {
        let asks = |status, asked| judge(Answer { status, asked: Some(asked), ..Answer::default() }, made(0));

        assert_eq!(asks(500, Asked::Done), Verdict::Complete);
        assert_eq!(asks(200, Asked::Retry(Some(secs(45)))), Verdict::Retry(secs(45)));
        assert_eq!(asks(200, Asked::Retry(None)), Verdict::Retry(secs(10)));
        let token = AskedReason::parse("bad-schema").unwrap();
        assert_eq!(asks(200, Asked::Dead(token)), Verdict::DeadLetter(Reason::Asked, "bad-schema".into()));
    }

    #[test]
    fn a_callback_counts_an_unreachable_host_and_takes_no_redirect_for_success() {
        let policy = RetryPolicy { attempts: 1, ..RetryPolicy::openfaas() };
        let gone = Outcome::Unreachable("refused".into());

        assert_eq!(policy.judge_callback(&gone, made(0)), Verdict::Retry(secs(10)));
        assert!(matches!(policy.judge_callback(&gone, made(1)), Verdict::DeadLetter(Reason::Exhausted, _)));
        assert!(matches!(
            policy.judge_callback(&Outcome::Answered(answer(302)), made(0)),
            Verdict::DeadLetter(Reason::Rejected, _)
        ));
        assert_eq!(policy.judge_callback(&Outcome::Answered(answer(204)), made(0)), Verdict::Complete);
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_an_hour_or_the_policys_own_cap(
            status in 100u16..600, internal: bool, retry_after in proptest::option::of(0u64..10_000_000), made in 0u32..200, random in 0.0f64..1.0,
        ) {
            let answer = Answer { status, internal, retry_after: retry_after.map(secs), ..Answer::default() };
            let seen = Circumstances { made, random, ..Circumstances::default() };
            match judge(answer, seen) {
                Verdict::Retry(wait) => {
                    prop_assert!(wait <= RETRY_AFTER_CEILING);
                    prop_assert!(made < 100, "a retry after the last one");
                }
                Verdict::Wait(wait, _) => prop_assert!(wait <= RETRY_AFTER_CEILING),
                Verdict::Complete => prop_assert!(status < 400),
                Verdict::DeadLetter(..) => prop_assert!(status >= 400),
            }
        }
    }
}
