//! Every setting of a clock from 2024 to 2030, in every zone of the IANA database, under each policy.
//!
//! `golden.tsv` holds a line per setting: the instant, the offsets before and after it, an expression that names the time in the
//! middle of what is skipped or comes twice, its fires within twelve hours to both sides under each policy, and the zones. The
//! column `robfig` holds what the library of OpenFaaS' connector does (written by `tests/robfig`, not by us).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use connectors_cron::expression::Expression;
use connectors_cron::fires::{Dst, Setting};
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

const GOLDEN: &str = include_str!("golden.tsv");
/// A setting that the bundled database knows of and that of the Go release which ran the library does not yet.
const NEWER_THAN_GO: (&str, &str) = ("2026-09-20T01:00:00Z", "Africa/Casablanca,Africa/El_Aaiun");

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Change {
    at: Timestamp,
    before: i32,
    after: i32,
}

fn changes() -> BTreeMap<Change, Vec<String>> {
    let zones = TimeZoneDatabase::bundled();
    let (from, until) = (stamp("2024-01-01T00:00:00Z"), stamp("2031-01-01T00:00:00Z"));
    let mut found: BTreeMap<Change, Vec<String>> = BTreeMap::new();
    for name in zones.available() {
        let zone = zones.get(name.as_str()).expect("it is listed");
        for set in zone.following(from).take_while(|set| set.timestamp() < until) {
            let at = set.timestamp();
            let before = zone.to_offset(at - SignedDuration::from_secs(1)).seconds();
            let change = Change { at, before, after: set.offset().seconds() };
            // Some settings change the zone's name alone.
            if change.before != change.after {
                found.entry(change).or_default().push(name.as_str().to_owned());
            }
        }
    }
    found
}

/// An expression for the time in the middle of what is skipped or comes twice.
fn expression(change: &Change) -> String {
    let middle = i64::from((change.before + change.after) / 2);
    let wall = Offset::UTC.to_datetime(change.at + SignedDuration::from_secs(middle));
    format!("{} {} * * *", wall.minute(), wall.hour())
}

fn fires(text: &str, zone: &TimeZone, dst: Dst, around: Timestamp) -> String {
    let setting = Setting { zone: zone.clone(), dst, anchor: Timestamp::UNIX_EPOCH };
    let half_a_day = SignedDuration::from_hours(12);
    let expression = Expression::read(text).expect("it is made above");
    let all = expression.all_after(around - half_a_day, &setting).take_while(|at| *at < around + half_a_day);
    join(&all.map(|at| at.to_string()).collect::<Vec<_>>())
}

fn join(all: &[String]) -> String {
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

fn stamp(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// The lines of the table; the column of the library is taken over from the table itself.
fn table() -> String {
    let robfig: BTreeMap<(&str, &str), &str> = GOLDEN
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|cells| ((cells[0], cells[8]), cells[7]))
        .collect();
    let mut lines = "set at\tbefore\tafter\texpression\topenfaas\tskip\tonce\trobfig\tzones\n".to_owned();
    let zones = TimeZoneDatabase::bundled();
    for (change, names) in changes() {
        let zone = zones.get(&names[0]).expect("it is listed");
        let (text, names, at) = (expression(&change), names.join(","), change.at.to_string());
        let [openfaas, skip, once] =
            [Dst::OpenFaas, Dst::Skip, Dst::Once].map(|dst| fires(&text, &zone, dst, change.at));
        let robfig = robfig.get(&(at.as_str(), names.as_str())).unwrap_or(&"?");
        let (before, after) = (change.before, change.after);
        writeln!(lines, "{at}\t{before}\t{after}\t{text}\t{openfaas}\t{skip}\t{once}\t{robfig}\t{names}")
            .expect("a string takes all");
    }
    lines
}

#[test]
fn every_setting_of_every_zone_is_as_in_the_table() {
    let table = table();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden.tsv"), &table).expect("written");
    }
    assert!(table.lines().count() > 300, "the table holds the world's settings: {}", table.lines().count());
    for (now, golden) in table.lines().zip(GOLDEN.lines()) {
        assert_eq!(now, golden);
    }
    assert_eq!(table.lines().count(), GOLDEN.lines().count());
}

#[test]
fn by_default_we_fire_as_the_library_of_openfaas_does() {
    for line in GOLDEN.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (openfaas, robfig, zones) = (cells[4], cells[7], cells[8]);
        if (cells[0], zones) == NEWER_THAN_GO {
            continue;
        }
        assert_eq!(openfaas, robfig, "{line}");
    }
}
