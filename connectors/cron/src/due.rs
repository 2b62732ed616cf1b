//! Which instants run now, and when to look again. Pure: the time is passed in.

use std::collections::VecDeque;
use std::time::Duration;

use connectors_sdk::{Instant, ScheduleId, Timestamp};

use crate::fires::Setting;
use crate::plan::{MOST_MISSED, Missed, Plan};

/// A run this late is on time: not missed under any policy.
pub(crate) const ON_TIME: Duration = Duration::from_secs(10);

/// How far back `all` goes.
pub(crate) const ALL_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// An instant with the moment at which it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coming {
    pub(crate) instant: Instant,
    /// The instant, put off by its jitter.
    pub(crate) moment: Timestamp,
}

/// What a schedule is to do.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    /// These run now, oldest first.
    pub(crate) run: Vec<Instant>,
    /// The latest instant that is due, when it is passed over: everything up to it is decided.
    pub(crate) passed: Option<Timestamp>,
    /// How many due instants are passed over, as far as they were looked at.
    pub(crate) missed: u64,
    /// What comes next.
    pub(crate) next: Option<Coming>,
}

/// The setting of a plan whose schedule was first seen at `anchor`.
pub(crate) fn setting(plan: &Plan, anchor: Timestamp) -> Setting {
    Setting { zone: plan.policies.zone.clone(), dst: plan.policies.dst, anchor: calendar(anchor) }
}

/// The first instant after `after`.
pub(crate) fn next(plan: &Plan, anchor: Timestamp, after: Timestamp) -> Option<Coming> {
    let setting = setting(plan, anchor);
    let at = moment(plan.expression.next_after(calendar(after), &setting)?)?;
    let jitter = plan.policies.jitter;
    let put_off = if jitter.is_zero() {
        Duration::ZERO
    } else {
        // Less than the way to the next instant: runs stay in the order of their instants.
        let following = plan.expression.next_after(calendar(at), &setting).and_then(moment);
        let room = following.map_or(jitter, |following| following.since(at).min(jitter));
        jittered(&plan.id, at, room)
    };
    Some(Coming { instant: Instant { at, after }, moment: at + put_off })
}

/// The instants after `after`, in order, without end.
pub(crate) fn all_after(plan: &Plan, anchor: Timestamp, after: Timestamp) -> impl Iterator<Item = Coming> {
    std::iter::successors(next(plan, anchor, after), move |last| next(plan, anchor, last.instant.at))
}

/// What to do at `now`, when everything up to `decided` is.
pub(crate) fn decide(plan: &Plan, anchor: Timestamp, decided: Timestamp, now: Timestamp) -> Decision {
    let look_back = match plan.policies.missed {
        Missed::Skip => ON_TIME,
        Missed::Latest(within) => within.max(ON_TIME),
        Missed::All(_) => ALL_WITHIN,
    };
    let oldest = Timestamp::from_nanos(
        // One less, as what is decided is decided inclusively.
        now.as_nanos().saturating_sub(nanos(look_back + plan.policies.jitter)).saturating_sub(1),
    );
    // A moment that lies ahead is of a clock that was set back: schedules go on from now.
    let from = decided.min(now).max(oldest);
    let (mut due, mut missed) = (VecDeque::new(), 0);
    let mut coming = next(plan, anchor, from);
    while let Some(one) = coming.filter(|one| one.moment <= now) {
        due.push_back(one);
        if due.len() > MOST_MISSED {
            due.pop_front();
            missed += 1;
        }
        coming = next(plan, anchor, one.instant.at);
    }
    let all = due.len();
    let on_time = due.iter().rev().take_while(|one| now.since(one.moment) <= ON_TIME).count();
    let runs = match plan.policies.missed {
        Missed::Skip => on_time,
        Missed::Latest(within) if on_time == 0 => {
            usize::from(due.back().is_some_and(|one| now.since(one.moment) <= within))
        }
        Missed::Latest(_) => on_time,
        Missed::All(most) => all.min(most).max(on_time),
    };
    missed += (all - runs) as u64;
    let passed = if runs == 0 { due.back().map(|one| one.instant.at) } else { None };
    let run = due.into_iter().skip(all - runs).map(|one| one.instant).collect();
    Decision { run, passed, missed, next: coming }
}

/// By how much an instant is put off: the same whenever it is asked, so that a restart neither doubles nor moves a run.
fn jittered(id: &ScheduleId, at: Timestamp, room: Duration) -> Duration {
    let bytes = id.as_str().bytes().chain(at.as_nanos().to_le_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // FNV's upper bits move little from one instant to the next.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    let millis = u64::try_from(room.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(hash % millis)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock's moment on the calendar.
pub(crate) fn calendar(moment: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(moment.as_nanos())).unwrap_or(jiff::Timestamp::MAX)
}

/// The calendar's instant on the clock; `None` before 1970 and beyond 2554.
pub(crate) fn moment(instant: jiff::Timestamp) -> Option<Timestamp> {
    u64::try_from(instant.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{FunctionName, ScheduleWish};
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::plan;

    fn plan(expression: &str, policies: &[(&str, &str)]) -> Plan {
        let function = FunctionName::parse("report", "fn").unwrap();
        let wish = ScheduleWish {
            expressions: expression.into(),
            policies: policies.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let (mut plans, problems) = plan::read(&function, &wish, &TimeZone::UTC);
        assert_eq!(problems, []);
        plans.remove(0)
    }

    fn at(text: &str) -> Timestamp {
        moment(text.parse().unwrap()).unwrap()
    }

    fn minute(n: u64) -> Timestamp {
        Timestamp::from_millis(n * 60_000)
    }

    fn second(n: u64) -> Timestamp {
        Timestamp::from_millis(n * 1000)
    }

    fn runs(decision: &Decision) -> Vec<u64> {
        decision.run.iter().map(|instant| instant.at.as_millis() / 60_000).collect()
    }

    #[test]
    fn an_instant_runs_when_it_comes_and_knows_the_one_before_it() {
        let plan = plan("*/5 * * * *", &[]);
        let decision = decide(&plan, minute(0), minute(5), minute(10));

        assert_eq!(decision.run, [Instant { at: minute(10), after: minute(5) }]);
        let next = Instant { at: minute(15), after: minute(10) };
        assert_eq!(decision.next, Some(Coming { instant: next, moment: minute(15) }));
        let early = decide(&plan, minute(0), minute(5), Timestamp::from_nanos(minute(10).as_nanos() - 1));
        assert_eq!((early.run.len(), early.next.unwrap().moment), (0, minute(10)));
    }

    #[test]
    fn of_missed_instants_the_latest_within_an_hour_runs() {
        let five = plan("*/5 * * * *", &[]);
        let decision = decide(&five, minute(0), minute(60), minute(118));
        assert_eq!((runs(&decision), decision.passed), (vec![115], None));
        assert_eq!(decision.missed, 10);

        let daily = plan("@daily", &[]);
        let day = 24 * 60;
        assert_eq!(runs(&decide(&daily, minute(0), minute(1), minute(day + 60))), [day]);
        let late = decide(&daily, minute(0), minute(1), minute(day + 61));
        assert_eq!((runs(&late), late.passed), (vec![], None), "beyond what is looked at");
        let longer = plan("@daily", &[("missed", "latest 2h")]);
        assert_eq!(runs(&decide(&longer, minute(0), minute(1), minute(day + 61))), [day]);
    }

    #[test]
    fn skip_runs_what_is_on_time_and_passes_over_the_rest() {
        let plan = plan("* * * * *", &[("missed", "skip")]);

        assert_eq!(runs(&decide(&plan, minute(0), minute(3), second(7 * 60 + 10))), [7]);
        let late = decide(&plan, minute(0), minute(6), second(7 * 60 + 11));
        assert_eq!((runs(&late), late.next.unwrap().moment), (vec![], minute(8)));
    }

    #[test]
    fn all_runs_the_latest_of_a_day_up_to_its_bound() {
        let bounded = plan("* * * * *", &[("missed", "all 3")]);
        assert_eq!(runs(&decide(&bounded, minute(0), minute(3), minute(10))), [8, 9, 10]);
        let plain = plan("0 * * * *", &[("missed", "all")]);
        let week = 7 * 24 * 60;
        let decision = decide(&plain, minute(0), minute(0), minute(week + 30));
        assert_eq!(decision.run.len(), 24);
        assert_eq!(decision.run[23].at, minute(week));
        // The way back is bounded, and so is what it costs.
        let often = plan("@every 1s", &[("missed", "all 1000")]);
        assert_eq!(decide(&often, minute(0), minute(0), minute(10 * week)).run.len(), MOST_MISSED);
    }

    #[test]
    fn a_clock_that_was_ahead_silences_nothing() {
        let plan = plan("*/5 * * * *", &[]);
        let decision = decide(&plan, minute(0), minute(1000), minute(12));

        assert_eq!(decision.run, []);
        assert_eq!(decision.next.unwrap().instant, Instant { at: minute(15), after: minute(12) });
    }

    #[test]
    fn every_counts_from_the_anchor_over_any_restart() {
        let plan = plan("@every 90m", &[]);
        let coming: Vec<_> =
            all_after(&plan, minute(7), minute(1000)).take(2).map(|one| one.instant.at).collect();
        assert_eq!(coming, [minute(7 + 990 + 90), minute(7 + 990 + 180)]);
    }

    #[test]
    fn the_policies_of_clock_changes_are_the_plans() {
        let openfaas = plan("30 2 * * *", &[("time-zone", "Europe/Vienna")]);
        let once = plan("30 2 * * *", &[("time-zone", "Europe/Vienna"), ("dst", "once")]);
        let (from, to) = (at("2026-03-28T12:00:00Z"), at("2026-03-29T12:00:00Z"));
        let of = |plan: &Plan| {
            all_after(plan, from, from)
                .map(|one| one.instant.at)
                .take_while(|at| *at < to)
                .collect::<Vec<_>>()
        };

        assert_eq!(of(&openfaas), []);
        assert_eq!(of(&once), [at("2026-03-29T01:00:00Z")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn jitter_puts_off_within_its_bound_in_order_and_always_the_same(
            jitter in 1u64..600, from in 0u64..100_000, n in 1usize..40,
        ) {
            let plan = plan("*/2 * * * *", &[("jitter", &format!("{jitter}s"))]);
            let coming: Vec<_> = all_after(&plan, minute(0), minute(from)).take(n).collect();

            for one in &coming {
                prop_assert!(one.moment >= one.instant.at);
                prop_assert!(one.moment.since(one.instant.at) < Duration::from_secs(jitter));
                prop_assert_eq!(next(&plan, minute(0), one.instant.after).unwrap(), *one);
            }
            prop_assert!(coming.is_sorted_by_key(|one| one.moment));
        }

        /// However restarts cut the time, each instant runs at most once and in order; with `all`, each runs.
        #[test]
        fn restarts_at_any_moment_neither_double_nor_lose(
            pauses in proptest::collection::vec(1u64..4000, 1..40),
            all in any::<bool>(),
        ) {
            let plan = plan("*/3 * * * *", &[("missed", if all { "all 1000" } else { "latest" })]);
            let (mut decided, mut now, mut ran) = (minute(0), minute(0), Vec::new());
            for pause in pauses {
                now = now + Duration::from_secs(pause);
                let decision = decide(&plan, minute(0), decided, now);
                ran.extend(decision.run.iter().map(|instant| instant.at));
                decided = decision.run.last().map(|last| last.at).or(decision.passed).unwrap_or(decided);
            }
            prop_assert!(ran.is_sorted_by(|a, b| a < b), "{:?}", ran);
            if all {
                let every: Vec<_> = all_after(&plan, minute(0), minute(0))
                    .map(|one| one.instant.at)
                    .take_while(|at| *at <= now)
                    .collect();
                prop_assert_eq!(ran, every);
            }
        }
    }
}
