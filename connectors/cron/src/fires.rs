//! When an expression fires: pure, with the time passed in.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::expression::{Expression, Rhythm};

/// What happens where the clock is set, for expressions that name their hours. Those that fire in every hour follow elapsed
/// time under each policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dst {
    /// As OpenFaaS: an instant fires when its wall clock matches. A time that is skipped in spring does not run, one that comes
    /// twice in autumn runs twice.
    #[default]
    OpenFaas,
    /// A time that is skipped does not run, one that comes twice runs the first time.
    Skip,
    /// Each time runs once: a time that is skipped runs when the clock has been set, one that comes twice the first time.
    Once,
}

impl Dst {
    /// All of them, as they are written.
    pub const NAMES: [(&'static str, Dst); 3] =
        [("openfaas", Dst::OpenFaas), ("skip", Dst::Skip), ("once", Dst::Once)];
}

impl FromStr for Dst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::NAMES
            .iter()
            .find_map(|(name, dst)| (*name == text).then_some(*dst))
            .ok_or_else(|| format!("{text:?} is none of openfaas, skip, once"))
    }
}

impl fmt::Display for Dst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, dst)| dst == self).map_or("openfaas", |(name, _)| name);
        f.write_str(name)
    }
}

/// What an expression needs beside itself to know its instants.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The zone where the expression names none.
    pub zone: TimeZone,
    /// What happens where the clock is set.
    pub dst: Dst,
    /// Where `@every` counts from.
    pub anchor: Timestamp,
}

impl Expression {
    /// The first instant after `after` at which it fires; whole seconds. `None` when there is none that the calendar holds.
    pub fn next_after(&self, after: Timestamp, setting: &Setting) -> Option<Timestamp> {
        let zone = self.zone().unwrap_or(&setting.zone);
        match self.rhythm() {
            Rhythm::Every(every) => {
                let every = i64::try_from(every.as_secs()).ok()?;
                let anchor = setting.anchor.as_second();
                let passed = after.as_second().checked_sub(anchor)?.div_euclid(every);
                Timestamp::from_second(anchor.checked_add(every.checked_mul(passed + 1)?)?).ok()
            }
            Rhythm::Wall { cron, hourly } if *hourly || setting.dst == Dst::OpenFaas => {
                next_by_instant(cron, zone, after)
            }
            Rhythm::Wall { cron, .. } => next_by_wall_clock(cron, zone, setting.dst, after),
        }
    }

    /// The instants after `after`, in order, without end.
    pub fn all_after(&self, after: Timestamp, setting: &Setting) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next_after(after, setting), move |last| self.next_after(*last, setting))
    }
}

/// The next instant whose wall clock matches: searched stretch by stretch, between two settings of the clock.
fn next_by_instant(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
    loop {
        let offset = zone.to_offset(from);
        let end = zone.following(from).next().map(|transition| transition.timestamp());
        let wall = matching(cron, offset.to_datetime(from), true)?;
        match (offset.to_timestamp(wall).ok(), end) {
            (Some(at), None) => return Some(at),
            (Some(at), Some(end)) if at < end => return Some(at),
            (_, Some(end)) => from = end,
            (None, None) => return None,
        }
    }
}

/// The next wall-clock time, put at the instant the policy gives it.
fn next_by_wall_clock(cron: &Cron, zone: &TimeZone, dst: Dst, after: Timestamp) -> Option<Timestamp> {
    let mut wall = zone.to_offset(after).to_datetime(after);
    let mut inclusive = false;
    loop {
        wall = matching(cron, wall, inclusive)?;
        inclusive = false;
        let at = match zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { after, .. } if dst == Dst::Once => {
                set_at(zone, after.to_timestamp(wall).ok()?)
            }
            AmbiguousOffset::Gap { .. } => None,
        };
        // In the second of two equal hours, the times of the first lie behind us.
        if let Some(at) = at.filter(|at| *at > after) {
            return Some(at);
        }
    }
}

/// When the clock was set across a skipped time. `early` is that time read with the offset that holds afterwards, so it lies
/// before the setting, by less than the gap.
fn set_at(zone: &TimeZone, early: Timestamp) -> Option<Timestamp> {
    zone.following(early).next().map(|transition| transition.timestamp())
}

/// The next time that matches, on a calendar without zones.
fn matching(cron: &Cron, from: DateTime, inclusive: bool) -> Option<DateTime> {
    let from = from.to_zoned(TimeZone::UTC).ok()?;
    cron.find_next_occurrence(&from, inclusive).ok().map(|found| found.datetime())
}
