//! `GET /v1/schedules` and what is below it.

use serde::{Deserialize, Serialize};

use crate::{Span, Time};

/// One expression of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its identity: follows from function and expression, so it is the same after any restart.
    pub id: String,
    /// What it runs, `name.namespace`.
    pub function: String,
    /// When, as the annotation says it.
    pub expression: String,
    /// Whether its function still asks for it. One nobody asks for is kept for an hour.
    pub asked: bool,
    /// How it is run; absent when nobody asks for it.
    pub rules: Option<ScheduleRules>,
    /// Whether it is held.
    pub paused: bool,
    /// When it was first seen; `@every` counts from here.
    pub since: Time,
    /// Its latest instant that ran.
    pub last_run: Option<Time>,
    /// Its next instant; absent while it is held or nobody asks for it.
    pub next_run: Option<Time>,
}

/// How a schedule is run, in the words of its annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRules {
    /// The zone of its times (`evoke.schedule.time-zone`, or the expression's own).
    pub time_zone: String,
    /// What becomes of a run while an earlier one is held: `allow` or `skip`.
    pub overlap: String,
    /// What becomes of missed instants: `skip`, `latest` with an age, `all` with a number.
    pub missed: String,
    /// What happens where the clock is set: `openfaas`, `skip` or `once`.
    pub dst: String,
    /// By how much a run is put off at most.
    pub jitter: Span,
}

/// A schedule with its next instants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDetail {
    /// What the list shows of it.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The next instants, as many as asked for; shown for a held schedule too, empty when nobody asks for it.
    pub next: Vec<Time>,
}

/// Which instants to make up for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// The first moment of the range.
    pub from: Time,
    /// Its last.
    pub until: Time,
}

/// What became of the instants of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfilled {
    /// Whose.
    pub id: String,
    /// Made into invocations now.
    pub ran: u64,
    /// Had run before.
    pub ran_before: u64,
}
