//! Schedules: what runs at instants, and which instants have had their run.
//!
//! A schedule's id follows from its function and its expression, so it survives restarts and stays what it is while the
//! gateway is away. A *fire* is the run of one instant; the store takes it in the record of its invocation and takes each
//! instant of a schedule once, whatever the clock or the process does ([`Schedules`]). Everything else here is a pure rule.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::names::{FunctionName, NameError};
use crate::queue::StoreError;
use crate::ranges::Ranges;

/// The identity of a schedule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(Arc<str>);

impl ScheduleId {
    /// The longest id taken.
    pub const MAX: usize = 300;

    /// The id of a function's expression. `nth` tells equal expressions of one function apart, from 0; the order of
    /// different ones makes no difference.
    ///
    /// `expression` is the normalised text: what means the same should be written the same. Stable across processes and
    /// versions: it stands on disk and in people's scripts.
    pub fn derive(function: &FunctionName, expression: &str, nth: u32) -> Self {
        // FNV-1a: short, stable, and enough to tell the expressions of one function apart.
        let hash =
            expression.bytes().chain(nth.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        ScheduleId(format!("{}.{hash:016x}", function.as_str()).into())
    }

    /// Reads an id: letters, digits, `-`, `_` and `.`, at most [`ScheduleId::MAX`] bytes.
    ///
    /// # Errors
    /// [`NameError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX {
            return Err(NameError::TooLong { length: text.len(), max: Self::MAX });
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            Some(found) => Err(NameError::Character { found, allowed: "letters, digits, '-', '_' and '.'" }),
            None => Ok(ScheduleId(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One expression of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its identity.
    pub id: ScheduleId,
    /// What it runs.
    pub function: FunctionName,
    /// When, normalised; at most [`Schedule::MAX_EXPRESSION`] bytes.
    pub expression: Box<str>,
    /// When it was first seen: no instant before it is its own, and `@every` counts from here.
    pub anchor: Timestamp,
}

impl Schedule {
    /// The longest expression kept.
    pub const MAX_EXPRESSION: usize = 1024;
}

/// A run that a schedule causes. With it an event goes to the schedule's function, and to no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fire {
    /// The schedule.
    pub schedule: ScheduleId,
    /// Whom it runs.
    pub function: FunctionName,
    /// The instant whose run this is; `None` for one that was asked for by hand, which is the run of no instant.
    pub instant: Option<Instant>,
}

/// An instant of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// The moment.
    pub at: Timestamp,
    /// The schedule's instant before it, or its anchor where there is none. What lies between is no instant, so that runs
    /// without a miss are remembered as one stretch.
    pub after: Timestamp,
}

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleState {
    /// The schedule.
    pub schedule: Schedule,
    /// Held by an operator.
    pub paused: bool,
    /// Every instant up to here was decided: it ran, or was passed over. The anchor at first. It lies ahead of a clock that
    /// was set back; then the schedule goes on from now, and what ran already does not run again.
    pub decided: Timestamp,
    /// The latest instant that ran.
    pub last_fire: Option<Timestamp>,
}

/// All schedules and what ran of them, within bounds. A store keeps it; pauses are kept beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleBook(BTreeMap<ScheduleId, Entry>);

/// What is kept of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The schedule.
    pub schedule: Schedule,
    /// Nanoseconds of instants that ran, with the time before each that holds no other.
    pub fired: Ranges,
    /// As [`ScheduleState::decided`].
    pub decided: Timestamp,
    /// As [`ScheduleState::last_fire`].
    pub last_fire: Option<Timestamp>,
}

impl Entry {
    /// What of it is shown.
    pub fn state(&self, paused: bool) -> ScheduleState {
        ScheduleState {
            schedule: self.schedule.clone(),
            paused,
            decided: self.decided,
            last_fire: self.last_fire,
        }
    }
}

impl ScheduleBook {
    /// The most schedules kept.
    pub const MOST: usize = 65_536;
    /// The most gaps between runs kept for one schedule; beyond them the oldest counts as run, so that none runs twice.
    pub const MOST_GAPS: usize = 64;

    /// What is kept of a schedule.
    pub fn get(&self, id: &ScheduleId) -> Option<&Entry> {
        self.0.get(id)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a schedule may be put.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] at the bound.
    pub fn check_room(&self, schedule: &Schedule) -> Result<(), StoreError> {
        if schedule.expression.len() > Schedule::MAX_EXPRESSION {
            return Err(StoreError::TooMany {
                what: "bytes of a schedule's expression",
                most: Schedule::MAX_EXPRESSION,
            });
        }
        if self.0.len() < Self::MOST || self.0.contains_key(&schedule.id) {
            Ok(())
        } else {
            Err(StoreError::TooMany { what: "schedules", most: Self::MOST })
        }
    }

    /// Adds a schedule. One that is known stays as it is, anchor included.
    pub fn put(&mut self, schedule: &Schedule) {
        self.0.entry(schedule.id.clone()).or_insert_with(|| Entry {
            schedule: schedule.clone(),
            fired: Ranges::default(),
            decided: schedule.anchor,
            last_fire: None,
        });
    }

    /// Puts an entry as it was kept.
    pub fn restore(&mut self, entry: Entry) {
        self.0.insert(entry.schedule.id.clone(), entry);
    }

    /// Forgets a schedule.
    pub fn remove(&mut self, id: &ScheduleId) {
        self.0.remove(id);
    }

    /// Whether an instant of a schedule may run: `Some(false)` when it ran already, `None` when there is no such schedule.
    pub fn may_fire(&self, id: &ScheduleId, instant: Instant) -> Option<bool> {
        self.0.get(id).map(|entry| !entry.fired.contains(instant.at.as_nanos()))
    }

    /// Counts an instant as run.
    pub fn fired(&mut self, id: &ScheduleId, instant: Instant) {
        let Some(entry) = self.0.get_mut(id) else { return };
        let at = instant.at.as_nanos();
        // An instant that is said to come before itself is at least itself.
        let from = instant.after.as_nanos().saturating_add(1).min(at);
        entry.fired.insert(from..at.saturating_add(1));
        while entry.fired.len() > Self::MOST_GAPS {
            entry.fired.close_first_gap();
        }
        entry.decided = entry.decided.max(instant.at);
        entry.last_fire = entry.last_fire.max(Some(instant.at));
    }

    /// Counts every instant up to this moment as decided.
    pub fn pass(&mut self, id: &ScheduleId, until: Timestamp) {
        if let Some(entry) = self.0.get_mut(id) {
            entry.decided = entry.decided.max(until);
        }
    }
}

/// The schedules a store keeps, as their source and an operator reach them.
///
/// A schedule is held and released with [`crate::InvocationQueue::pause`] and [`crate::queue::Pausable::Schedule`]; the
/// store only remembers it. An instant runs by being accepted ([`crate::Acceptance::fire`]): its run and the note of it are
/// one record, so there is exactly one run for an instant, across restarts, kills and jumps of the clock.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Adds a schedule and gives it as it is kept: one that is known keeps its anchor and all it ran. Durable before it
    /// returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store takes nothing, or keeps no more schedules.
    async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState, StoreError>;

    /// Forgets a schedule, its pause and what it ran; `false` when there is none. Durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, StoreError>;

    /// Remembers that every instant up to this moment was decided, whether it ran or not: missed, skipped, or held back by a
    /// pause. Durable before it returns; `false` when there is no such schedule.
    ///
    /// It moves only [`ScheduleState::decided`]: an instant passed over may still run, by a backfill.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn pass_over(&self, id: &ScheduleId, until: Timestamp) -> Result<bool, StoreError>;

    /// All schedules, by id.
    fn schedules(&self) -> Vec<ScheduleState>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> FunctionName {
        FunctionName::parse(name, "openfaas-fn").unwrap()
    }

    fn schedule() -> Schedule {
        let function = function("report");
        let id = ScheduleId::derive(&function, "*/5 * * * *", 0);
        Schedule { id, function, expression: "*/5 * * * *".into(), anchor: minute(0) }
    }

    fn minute(n: u64) -> Timestamp {
        Timestamp::from_millis(60_000 * n)
    }

    /// Every fifth minute.
    fn instant(n: u64) -> Instant {
        Instant { at: minute(n), after: minute(n - 5) }
    }

    fn book() -> (ScheduleBook, ScheduleId) {
        let mut book = ScheduleBook::default();
        book.put(&schedule());
        (book, schedule().id)
    }

    #[test]
    fn ids_follow_from_function_and_expression_and_stay() {
        let id = ScheduleId::derive(&function("report"), "*/5 * * * *", 0);

        assert_eq!(id.as_str(), "report.openfaas-fn.5a11216fd86b0a69");
        assert_ne!(id, ScheduleId::derive(&function("report"), "*/5 * * * *", 1));
        assert_ne!(id, ScheduleId::derive(&function("report"), "*/6 * * * *", 0));
        assert_ne!(id, ScheduleId::derive(&function("report.dev"), "*/5 * * * *", 0));
        assert_eq!(ScheduleId::parse(id.as_str()), Ok(id));
        let longest = FunctionName::from_parts(&"f".repeat(253), "n").unwrap();
        assert!(ScheduleId::parse(ScheduleId::derive(&longest, "x", 0).as_str()).is_ok());
        assert!(ScheduleId::parse("a/b").is_err());
        assert!(ScheduleId::parse("").is_err());
    }

    #[test]
    fn an_instant_runs_once_and_runs_without_a_miss_are_one_stretch() {
        let (mut book, id) = book();
        for n in [5, 10, 15] {
            assert_eq!(book.may_fire(&id, instant(n)), Some(true));
            book.fired(&id, instant(n));
            assert_eq!(book.may_fire(&id, instant(n)), Some(false));
        }

        let entry = book.get(&id).unwrap();
        assert_eq!(entry.fired.len(), 1);
        assert_eq!((entry.decided, entry.last_fire), (minute(15), Some(minute(15))));
    }

    #[test]
    fn a_missed_instant_may_run_later_and_only_once() {
        let (mut book, id) = book();
        book.fired(&id, instant(5));
        book.fired(&id, instant(20));

        assert_eq!(book.may_fire(&id, instant(10)), Some(true));
        book.fired(&id, instant(10));
        book.fired(&id, instant(15));

        for n in [5, 10, 15, 20] {
            assert_eq!(book.may_fire(&id, instant(n)), Some(false), "{n}");
        }
        assert_eq!(book.get(&id).unwrap().fired.len(), 1);
        assert_eq!(book.get(&id).unwrap().last_fire, Some(minute(20)));
    }

    #[test]
    fn a_clock_that_was_ahead_silences_nothing_and_repeats_nothing() {
        let (mut book, id) = book();
        // It jumped to minute 100 and came back.
        book.fired(&id, instant(100));

        assert_eq!(book.may_fire(&id, instant(5)), Some(true));
        assert_eq!(book.may_fire(&id, instant(100)), Some(false));
    }

    #[test]
    fn beyond_the_bound_the_oldest_gap_counts_as_run() {
        let (mut book, id) = book();
        for n in 1..=ScheduleBook::MOST_GAPS as u64 + 1 {
            book.fired(&id, instant(n * 10));
        }

        assert_eq!(book.get(&id).unwrap().fired.len(), ScheduleBook::MOST_GAPS);
        assert_eq!(book.may_fire(&id, instant(15)), Some(false));
        assert_eq!(book.may_fire(&id, instant(25)), Some(true));
    }

    #[test]
    fn one_that_is_known_keeps_its_anchor() {
        let (mut book, id) = book();
        book.fired(&id, instant(5));

        book.put(&Schedule { anchor: minute(99), ..schedule() });

        assert_eq!(book.get(&id).unwrap().schedule.anchor, minute(0));
        assert_eq!(book.may_fire(&id, instant(5)), Some(false));
    }

    #[test]
    fn passing_over_moves_only_what_is_decided() {
        let (mut book, id) = book();

        book.pass(&id, minute(30));
        book.pass(&id, minute(20));

        assert_eq!(book.get(&id).unwrap().decided, minute(30));
        assert_eq!(book.may_fire(&id, instant(10)), Some(true));
        assert_eq!(book.may_fire(&ScheduleId::parse("other").unwrap(), instant(10)), None);
    }

    #[test]
    fn an_instant_that_follows_itself_is_itself_alone() {
        let (mut book, id) = book();

        book.fired(&id, Instant { at: minute(7), after: minute(9) });

        assert_eq!(book.may_fire(&id, Instant { at: minute(7), after: minute(0) }), Some(false));
        assert_eq!(book.may_fire(&id, Instant { at: minute(8), after: minute(0) }), Some(true));
    }
}
