//! What a function's annotations ask for, read: a plan for each expression. Pure.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use connectors_sdk::{
    AnnotationProblem, FunctionName, Schedule, ScheduleId, ScheduleRules, ScheduleWish, Setting as _,
};
use jiff::tz::TimeZone;

use crate::expression::{self, Expression};
use crate::fires::Dst;

/// The most expressions of one function.
pub(crate) const MOST_EXPRESSIONS: usize = 64;

/// The most missed instants that are made up for.
pub(crate) const MOST_MISSED: usize = 1000;

/// How far back instants can be missed at all.
pub(crate) const LONGEST_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// What becomes of instants that passed while nobody could run them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// They do not run.
    Skip,
    /// The latest runs, when it is not older than this.
    Latest(Duration),
    /// All of the last day run, oldest first; when there are more than this, the latest ones.
    All(usize),
}

impl Default for Missed {
    fn default() -> Self {
        Missed::Latest(Duration::from_secs(3600))
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missed::Skip => f.write_str("skip"),
            Missed::Latest(within) => write!(f, "latest {}s", within.as_secs()),
            Missed::All(most) => write!(f, "all {most}"),
        }
    }
}

/// What becomes of a run while an earlier one of its schedule waits or is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Overlap {
    /// It runs all the same.
    #[default]
    Allow,
    /// It is passed over.
    Skip,
}

impl Overlap {
    fn as_str(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Skip => "skip",
        }
    }
}

/// How all schedules of a function are run.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    pub(crate) zone: TimeZone,
    pub(crate) dst: Dst,
    pub(crate) missed: Missed,
    pub(crate) overlap: Overlap,
    pub(crate) jitter: Duration,
}

/// One schedule as its function asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) id: ScheduleId,
    pub(crate) function: FunctionName,
    pub(crate) expression: Expression,
    pub(crate) policies: Policies,
}

impl Plan {
    /// How it is run, in words.
    pub(crate) fn rules(&self) -> ScheduleRules {
        let Policies { zone, dst, missed, overlap, jitter } = &self.policies;
        let zone = self.expression.zone().unwrap_or(zone);
        ScheduleRules {
            time_zone: zone.iana_name().unwrap_or("UTC").into(),
            overlap: overlap.as_str().into(),
            missed: missed.to_string().into(),
            dst: dst.to_string().into(),
            jitter: *jitter,
        }
    }
}

/// Reads the wish of one function. What is wrong stops nothing else: a wrong expression is left out, a wrong policy has its
/// default.
pub(crate) fn read(
    function: &FunctionName,
    wish: &ScheduleWish,
    default_zone: &TimeZone,
) -> (Vec<Plan>, Vec<AnnotationProblem>) {
    let mut problems = Vec::new();
    let policies = policies(wish, default_zone, &mut problems);
    let (mut plans, mut seen) = (Vec::new(), HashMap::<String, u32>::new());
    let mut refuse = |value: &str, problem: String| {
        problems.push(AnnotationProblem {
            key: "schedule".into(),
            value: value.chars().take(256).collect::<String>().into(),
            problem: problem.into(),
        });
    };
    let expressions = expression::read_annotation(&wish.expressions);
    if expressions.is_empty() {
        refuse(
            "",
            "topic holds cron-function, but schedule says no time; write an expression such as */5 * * * *"
                .into(),
        );
    }
    for (n, (text, read)) in expressions.into_iter().enumerate() {
        if n == MOST_EXPRESSIONS {
            refuse(text, format!("more than {MOST_EXPRESSIONS} expressions are not read"));
            break;
        }
        match read {
            Ok(_) if text.len() > Schedule::MAX_EXPRESSION => {
                refuse(text, format!("longer than {} bytes", Schedule::MAX_EXPRESSION));
            }
            Ok(expression) => {
                let nth = seen.entry(expression.normal()).or_default();
                let id = ScheduleId::derive(function, &expression.normal(), *nth);
                *nth += 1;
                plans.push(Plan { id, function: function.clone(), expression, policies: policies.clone() });
            }
            Err(error) => refuse(text, error.to_string()),
        }
    }
    (plans, problems)
}

fn policies(wish: &ScheduleWish, default_zone: &TimeZone, problems: &mut Vec<AnnotationProblem>) -> Policies {
    let mut read = Policies {
        zone: default_zone.clone(),
        dst: Dst::default(),
        missed: Missed::default(),
        overlap: Overlap::default(),
        jitter: Duration::ZERO,
    };
    for (name, value) in &wish.policies {
        let text = value.trim();
        let result = match &**name {
            "time-zone" => zone(text).map(|zone| read.zone = zone),
            "dst" => text.parse().map(|dst| read.dst = dst),
            "missed" => missed(text).map(|missed| read.missed = missed),
            "overlap" => overlap(text).map(|overlap| read.overlap = overlap),
            "jitter" => jitter(text).map(|jitter| read.jitter = jitter),
            _ => Err("evoke knows no annotation of this name".to_owned()),
        };
        if let Err(problem) = result {
            problems.push(AnnotationProblem {
                key: format!("evoke.schedule.{name}").into(),
                value: value.chars().take(256).collect::<String>().into(),
                problem: problem.into(),
            });
        }
    }
    read
}

/// A zone of the IANA database.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        format!("{name:?} is no time zone of the IANA database; write one such as Europe/Vienna")
    })
}

fn overlap(text: &str) -> Result<Overlap, String> {
    let all = [Overlap::Allow, Overlap::Skip];
    all.into_iter().find(|overlap| overlap.as_str() == text).ok_or_else(|| "write allow or skip".to_owned())
}

fn jitter(text: &str) -> Result<Duration, String> {
    duration(text)
        .filter(|jitter| *jitter <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "write a duration such as 30s, a day at most".to_owned())
}

fn missed(text: &str) -> Result<Missed, String> {
    const REMEDY: &str = "write skip, latest, latest with an age up to 7d (latest 6h), all, or all with a number up to 1000 (all 50)";
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let read = match (word, rest) {
        ("skip", "") => Some(Missed::Skip),
        ("latest", "") => Some(Missed::default()),
        ("latest", age) => {
            duration(age).filter(|age| !age.is_zero() && *age <= LONGEST_WITHIN).map(Missed::Latest)
        }
        ("all", "") => Some(Missed::All(100)),
        ("all", most) => most.parse().ok().filter(|most| (1..=MOST_MISSED).contains(most)).map(Missed::All),
        _ => None,
    };
    read.ok_or_else(|| REMEDY.to_owned())
}

fn duration(text: &str) -> Option<Duration> {
    Duration::read(&serde_json::Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(expressions: &str, policies: &[(&str, &str)]) -> ScheduleWish {
        ScheduleWish {
            expressions: expressions.into(),
            policies: policies.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        }
    }

    fn of(expressions: &str, policies: &[(&str, &str)]) -> (Vec<Plan>, Vec<AnnotationProblem>) {
        let function = FunctionName::parse("report", "openfaas-fn").unwrap();
        read(&function, &wish(expressions, policies), &TimeZone::UTC)
    }

    #[test]
    fn a16_three_schedules_are_read_and_a_wrong_weekday_is_reported() {
        let (plans, problems) = of("*/5 * * * *; @every 90m; CRON_TZ=Asia/Tokyo 0 9 * * 1-5; 0 0 * * 7", &[]);

        let zones: Vec<_> = plans.iter().map(|plan| plan.rules().time_zone).collect();
        assert_eq!(zones, ["UTC".into(), "UTC".into(), Box::from("Asia/Tokyo")]);
        assert_eq!(problems.len(), 1);
        assert_eq!((&*problems[0].key, &*problems[0].value), ("schedule", "0 0 * * 7"));
        assert!(problems[0].problem.contains("Sunday is 0"), "{:?}", problems[0]);
    }

    #[test]
    fn the_zone_nearest_to_the_expression_counts() {
        let function = FunctionName::parse("report", "openfaas-fn").unwrap();
        let tokyo = zone("Asia/Tokyo").unwrap();
        let zones = |policies: &[(&str, &str)]| {
            let (plans, _) = read(&function, &wish("@daily; TZ=America/Lima @daily", policies), &tokyo);
            plans.iter().map(|plan| plan.rules().time_zone.into_string()).collect::<Vec<_>>()
        };

        assert_eq!(zones(&[]), ["Asia/Tokyo", "America/Lima"]);
        assert_eq!(zones(&[("time-zone", "Europe/Vienna")]), ["Europe/Vienna", "America/Lima"]);
    }

    #[test]
    fn what_is_not_said_is_as_openfaas_does_but_for_a_missed_run() {
        let rules = of("@daily", &[]).0[0].rules();

        let said = (&*rules.time_zone, &*rules.overlap, &*rules.missed, &*rules.dst, rules.jitter);
        assert_eq!(said, ("UTC", "allow", "latest 3600s", "openfaas", Duration::ZERO));
    }

    #[test]
    fn every_policy_is_read() {
        let policies = [
            ("time-zone", "Europe/Vienna"),
            ("overlap", "skip"),
            ("missed", "all 5"),
            ("dst", "once"),
            ("jitter", "30s"),
        ];
        let (plans, problems) = of("@daily", &policies);

        let rules = plans[0].rules();
        let said = (&*rules.time_zone, &*rules.overlap, &*rules.missed, &*rules.dst, rules.jitter.as_secs());
        assert_eq!(said, ("Europe/Vienna", "skip", "all 5", "once", 30));
        assert_eq!(problems, []);
    }

    #[test]
    fn a_wrong_policy_is_reported_and_has_its_default() {
        let wrong = [
            ("time-zone", "Mars/Olympus"),
            ("overlap", "never"),
            ("missed", "all 1001"),
            ("dst", "both"),
            ("jitter", "2d"),
            ("jittr", "1s"),
        ];
        let (plans, problems) = of("@daily", &wrong);

        assert_eq!(problems.len(), wrong.len(), "{problems:?}");
        assert_eq!(plans[0].rules(), of("@daily", &[]).0[0].rules());
        for missed in ["latest 0s", "latest 8d", "all 0", "skip 1", "some", ""] {
            assert_eq!(of("@daily", &[("missed", missed)]).1.len(), 1, "{missed:?}");
        }
    }

    #[test]
    fn an_id_follows_from_what_is_written_and_not_from_its_place_or_spaces() {
        let ids = |text| of(text, &[]).0.into_iter().map(|plan| plan.id).collect::<Vec<_>>();
        let (one, other) = (ids("@hourly; 0  9 * * *"), ids("0 9 * * *;@hourly"));

        assert_eq!(one, [other[1].clone(), other[0].clone()]);
        assert_eq!(ids("TZ=Asia/Tokyo @daily"), ids("CRON_TZ=Asia/Tokyo  @daily"));
        let twice = ids("@hourly;@hourly");
        assert_ne!(twice[0], twice[1]);
    }

    #[test]
    fn too_many_expressions_and_none_are_reported() {
        let (plans, problems) = of(&"@daily;".repeat(MOST_EXPRESSIONS + 9), &[]);
        assert_eq!((plans.len(), problems.len()), (MOST_EXPRESSIONS, 1));
        assert_eq!(of(" ; ", &[]).1.len(), 1);
        assert_eq!(of(&format!("0 0 * * {}", "1,".repeat(600) + "1"), &[]).1.len(), 1);
    }
}
