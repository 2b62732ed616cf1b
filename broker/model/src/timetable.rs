//! Schedules as functions ask for them and as an operator sees and drives them.
//!
//! [`crate::schedule`] says what a store keeps of them. What an expression means is known to the source that runs them
//! alone; it offers a [`Timetable`], and [`TimetableBoard`] is where that is found.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::function::AnnotationProblem;
use crate::intake::{Receipt, Refusal};
use crate::names::{FunctionName, SourceName};
use crate::queue::StoreError;
use crate::schedule::{ScheduleId, ScheduleState};

/// What the annotations of one function say of schedules, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleWish {
    /// `schedule`: expressions between `;`.
    pub expressions: Box<str>,
    /// `evoke.schedule.*`, by what follows the prefix.
    pub policies: BTreeMap<Box<str>, Box<str>>,
}

/// What all functions ask for.
pub type ScheduleWishes = BTreeMap<FunctionName, ScheduleWish>;

/// A schedule as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// What is kept of it.
    pub state: ScheduleState,
    /// How it is run; `None` when its function no longer asks for it.
    pub rules: Option<ScheduleRules>,
    /// Its next instant; `None` while it is paused, is no longer asked for, or has no further one.
    pub next: Option<Timestamp>,
}

/// How a schedule is run, in the words of its annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRules {
    /// The zone its times are of.
    pub time_zone: Box<str>,
    /// What becomes of a run while an earlier one is held.
    pub overlap: Box<str>,
    /// What becomes of instants that were missed.
    pub missed: Box<str>,
    /// What happens where the clock is set.
    pub dst: Box<str>,
    /// By how much a run is put off at most.
    pub jitter: Duration,
}

/// What became of the instants of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Made into invocations now.
    pub ran: u64,
    /// Had run before.
    pub ran_before: u64,
}

/// Why an operator's wish is not done.
#[derive(Debug, thiserror::Error)]
pub enum TimetableError {
    /// There is no such schedule.
    #[error("there is no schedule {0}")]
    Unknown(ScheduleId),
    /// It is kept, but its function no longer asks for it.
    #[error("its function no longer asks for schedule {0}")]
    Unasked(ScheduleId),
    /// The range holds too much, or lies ahead.
    #[error("{0}")]
    Range(Box<str>),
    /// The broker did not take a run. Runs before it are kept, and a repeat does not run them again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whoever runs schedules, as an operator reaches it.
#[async_trait]
pub trait Timetable: Send + Sync {
    /// All schedules, by id.
    fn list(&self) -> Vec<ScheduleStatus>;

    /// Up to `most` next instants, whether it is paused or not; `None` when there is no such schedule or nobody asks for it.
    fn next(&self, id: &ScheduleId, most: usize) -> Option<Vec<Timestamp>>;

    /// What is wrong with a function's annotations on schedules.
    fn problems(&self, function: &FunctionName) -> Vec<AnnotationProblem>;

    /// Runs a schedule now: the run of no instant.
    ///
    /// # Errors
    /// [`TimetableError`]; nothing ran.
    async fn run(&self, id: &ScheduleId) -> Result<Receipt, TimetableError>;

    /// Runs the instants of `from..=until` that have not run, oldest first, whatever the schedule's policies say.
    ///
    /// # Errors
    /// [`TimetableError`]; for a range that is refused nothing ran.
    async fn backfill(
        &self,
        id: &ScheduleId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Backfilled, TimetableError>;

    /// Holds a schedule's runs; durable. `false` when there is no such schedule.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn pause(&self, id: &ScheduleId) -> Result<bool, StoreError>;

    /// Lets a schedule run again, from now on: what it missed meanwhile is passed over. Durable; `false` when there is none.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn resume(&self, id: &ScheduleId) -> Result<bool, StoreError>;
}

/// Where the timetable is found. One per process; at most one source runs schedules.
#[derive(Default)]
pub struct TimetableBoard(RwLock<Posted>);

#[derive(Default)]
struct Posted {
    /// Stays when its source stops, so that schedules can be looked at while their source is held.
    timetable: Option<Arc<dyn Timetable>>,
    by: Option<SourceName>,
}

/// A source's place on the board; given up when dropped.
#[must_use]
pub struct Post(Arc<TimetableBoard>);

impl TimetableBoard {
    /// The timetable of the source that runs schedules, or did last.
    pub fn get(&self) -> Option<Arc<dyn Timetable>> {
        self.read(|posted| posted.timetable.clone())
    }

    /// Takes the place.
    ///
    /// # Errors
    /// The source that has it.
    pub fn post(
        self: &Arc<Self>,
        source: &SourceName,
        timetable: Arc<dyn Timetable>,
    ) -> Result<Post, SourceName> {
        let mut posted = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(by) = &posted.by {
            return Err(by.clone());
        }
        *posted = Posted { timetable: Some(timetable), by: Some(source.clone()) };
        Ok(Post(self.clone()))
    }

    fn read<T>(&self, read: impl FnOnce(&Posted) -> T) -> T {
        read(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.0.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).by = None;
    }
}

impl std::fmt::Debug for TimetableBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TimetableBoard").field(&self.read(|posted| posted.by.clone())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    #[async_trait]
    impl Timetable for Nothing {
        fn list(&self) -> Vec<ScheduleStatus> {
            Vec::new()
        }

        fn next(&self, _id: &ScheduleId, _most: usize) -> Option<Vec<Timestamp>> {
            None
        }

        fn problems(&self, _function: &FunctionName) -> Vec<AnnotationProblem> {
            Vec::new()
        }

        async fn run(&self, id: &ScheduleId) -> Result<Receipt, TimetableError> {
            Err(TimetableError::Unknown(id.clone()))
        }

        async fn backfill(
            &self,
            id: &ScheduleId,
            _from: Timestamp,
            _until: Timestamp,
        ) -> Result<Backfilled, TimetableError> {
            Err(TimetableError::Unknown(id.clone()))
        }

        async fn pause(&self, _id: &ScheduleId) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn resume(&self, _id: &ScheduleId) -> Result<bool, StoreError> {
            Ok(false)
        }
    }

    #[test]
    fn one_source_has_the_place_and_its_timetable_outlives_its_stop() {
        let board = Arc::new(TimetableBoard::default());
        let [one, other] = ["one", "other"].map(|name| SourceName::parse(name).unwrap());
        assert!(board.get().is_none());

        let post = board.post(&one, Arc::new(Nothing)).unwrap();
        assert_eq!(board.post(&other, Arc::new(Nothing)).err(), Some(one));

        drop(post);
        assert!(board.get().is_some(), "schedules can be looked at while their source is held");
        assert!(board.post(&other, Arc::new(Nothing)).is_ok());
    }
}
