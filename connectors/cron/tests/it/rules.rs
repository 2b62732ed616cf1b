//! The instants against a slow reading of the same rule: try every second.

use connectors_cron::expression::Expression;
use connectors_cron::fires::{Dst, Setting};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::prelude::*;

/// Zones with settings by an hour, half an hour, two hours, at midnight, and none.
const ZONES: [&str; 7] = [
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Africa/Cairo",
    "America/Santiago",
    "Asia/Tokyo",
];

/// A field as it may be written, and the values it holds.
fn field(min: u8, max: u8) -> impl Strategy<Value = (String, Vec<u8>)> {
    prop_oneof![
        3 => Just(("*".to_owned(), (min..=max).collect::<Vec<_>>())),
        3 => (min..=max).prop_map(|value| (value.to_string(), vec![value])),
        2 => (min..=max, 1u8..20).prop_map(move |(from, step)| {
            (format!("{from}/{step}"), (from..=max).step_by(usize::from(step)).collect())
        }),
        1 => (min..=max, min..=max).prop_map(|(a, b)| {
            (format!("{}-{}", a.min(b), a.max(b)), (a.min(b)..=a.max(b)).collect())
        }),
        1 => (2u8..20).prop_map(move |step| (format!("*/{step}"), (min..=max).step_by(usize::from(step)).collect())),
    ]
}

/// The instants of a minute pattern within a window, by trying each.
fn slowly(
    minutes: &[u8],
    hours: &[u8],
    hourly: bool,
    zone: &TimeZone,
    dst: Dst,
    (from, until): (Timestamp, Timestamp),
) -> Vec<Timestamp> {
    let matches = |wall: DateTime| {
        wall.second() == 0
            && minutes.contains(&u8::try_from(wall.minute()).expect("positive"))
            && hours.contains(&u8::try_from(wall.hour()).expect("positive"))
    };
    let mut found = Vec::new();
    let mut at = from + SignedDuration::from_secs(1);
    while at <= until {
        let wall = zone.to_offset(at).to_datetime(at);
        let first = match zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).expect("near") == at,
            _ => true,
        };
        let all = hourly || dst == Dst::OpenFaas;
        let mut fires = matches(wall) && (all || first);
        // The wall clock jumps here: what it jumped over.
        let earlier = at - SignedDuration::from_secs(1);
        let mut skipped = zone.to_offset(earlier).to_datetime(earlier) + 1.second();
        while skipped < wall {
            fires |= !all && dst == Dst::Once && matches(skipped);
            skipped += 1.second();
        }
        if fires {
            found.push(at);
        }
        at += SignedDuration::from_secs(1);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_instants_are_those_found_by_trying_every_second(
        (minute_text, minutes) in field(0, 59),
        (hour_text, hours) in field(0, 23),
        zone in proptest::sample::select(&ZONES[..]),
        dst in proptest::sample::select(vec![Dst::OpenFaas, Dst::Skip, Dst::Once]),
        change in 0usize..6,
        before in 0i64..8,
    ) {
        let zone = TimeZone::get(zone).expect("bundled");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("an instant");
        let set = zone.following(start).nth(change).map_or(start, |set| set.timestamp());
        let from = set - SignedDuration::from_mins(before * 30);
        let until = from + SignedDuration::from_hours(5);
        let expression = Expression::read(&format!("{minute_text} {hour_text} * * *")).expect("it is well formed");
        let setting = Setting { zone: zone.clone(), dst, anchor: start };

        let quickly: Vec<_> = expression.all_after(from, &setting).take_while(|at| *at <= until).collect();

        prop_assert_eq!(quickly, slowly(&minutes, &hours, hour_text == "*", &zone, dst, (from, until)));
    }

    #[test]
    fn every_counts_from_its_anchor(anchor in 0i64..4_000_000_000, every in 1u64..1_000_000, after in -10i64..4_000_000_000) {
        let at = |second| Timestamp::from_second(second).expect("in bounds");
        let setting = Setting { zone: TimeZone::UTC, dst: Dst::OpenFaas, anchor: at(anchor) };
        let expression = Expression::read(&format!("@every {every}s")).expect("it is well formed");

        let next = expression.next_after(at(after), &setting).expect("there is always one");

        prop_assert!(next.as_second() > after && next.as_second() - after <= i64::try_from(every).expect("small"));
        prop_assert_eq!((next.as_second() - anchor).rem_euclid(i64::try_from(every).expect("small")), 0);
    }
}

#[test]
fn a_restricted_day_and_a_restricted_weekday_are_either_or() {
    let expression = Expression::read("0 0 1 * MON").expect("it is well formed");
    let setting = Setting { zone: TimeZone::UTC, dst: Dst::OpenFaas, anchor: Timestamp::UNIX_EPOCH };
    let from = "2026-11-22T12:00:00Z".parse().expect("an instant");

    let days: Vec<_> = expression.all_after(from, &setting).take(3).map(|at| at.to_string()).collect();

    assert_eq!(days, ["2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"]);
}
