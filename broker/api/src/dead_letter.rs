//! `GET /v1/dead-letters` and what is below it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Invocation, InvocationDetail, Time};

/// An invocation that was given up, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The invocation; its `reason` says why.
    #[serde(flatten)]
    pub invocation: Invocation,
    /// More about the reason, for people.
    pub detail: String,
    /// The HTTP status of the last attempt, when it brought one.
    pub status: Option<u16>,
    /// When it was given up.
    pub died_at: Time,
    /// Whether there is something left to run.
    pub redrivable: bool,
}

/// An invocation that was given up, whole but for its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterDetail {
    /// The invocation; its `reason` says why.
    #[serde(flatten)]
    pub invocation: InvocationDetail,
    /// More about the reason, for people.
    pub detail: String,
    /// The HTTP status of the last attempt, when it brought one.
    pub status: Option<u16>,
    /// When it was given up.
    pub died_at: Time,
    /// Whether there is something left to run.
    pub redrivable: bool,
}

/// What a redrive of one answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Which; the identity stays.
    pub id: Uuid,
    /// The life that began.
    pub life: u32,
}

/// `POST /v1/dead-letters/redrive`: put back what a filter meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveAll {
    /// Which dead letters.
    pub filter: RedriveFilter,
    /// Only count what would be put back.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which dead letters are put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveFilter {
    /// Those of this function.
    pub function: String,
    /// Of them, those of this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a redrive of many answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedrivenAll {
    /// How many were put back, or would be.
    pub redriven: u64,
    /// How many have nothing to run and stay.
    pub skipped: u64,
    /// Whether nothing was changed, as asked.
    pub dry_run: bool,
}
