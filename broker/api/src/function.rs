//! `GET /v1/functions` and what is below it.

use serde::{Deserialize, Serialize};

use crate::{Schedule, Span};

/// A function with what Evoke read from its annotations and how its calls stand.
///
/// An option that is `None` was not annotated, or not validly: the configured default serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// `name.namespace`.
    pub name: String,
    /// Whether the gateway lists it. Calls to a function it does not list wait, and are kept when it never appears.
    pub listed: bool,
    /// Ready copies, as listed.
    pub available_replicas: u32,
    /// The topics that start it: exact ones as they are, patterns as `evoke.topics` has them.
    pub topics: Vec<String>,
    /// When it runs by itself: its expressions that can be used, by id. Empty while no source runs schedules.
    pub schedules: Vec<Schedule>,
    /// Its queue.
    pub queue: Option<String>,
    /// Its retries.
    pub retry: FunctionRetry,
    /// Bound of one HTTP exchange.
    pub timeout: Option<Span>,
    /// How long a call stays worth running.
    pub max_age: Option<Span>,
    /// Deliveries at once: `adaptive` or a number.
    pub concurrency: Option<String>,
    /// Which failures are kept: `all` or `exhausted`.
    pub dead_letter: Option<String>,
    /// Who receives a copy of each dead letter.
    pub on_dead_letter: Option<String>,
    /// Annotations that could not be used.
    pub problems: Vec<AnnotationProblem>,
    /// How its calls stand, one lane a queue.
    pub lanes: Vec<Lane>,
    /// Whether its deliveries are held.
    pub paused: bool,
}

/// The retries a function's annotations ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRetry {
    /// Retries after the first try.
    pub attempts: Option<u32>,
    /// Statuses that are tried again.
    pub codes: Option<Vec<u16>>,
    /// The first wait.
    pub min_wait: Option<Span>,
    /// The longest wait.
    pub max_wait: Option<Span>,
}

/// An annotation whose value cannot be used; its default serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationProblem {
    /// The annotation's key.
    pub annotation: String,
    /// Its value.
    pub value: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// How the calls of one function in one queue stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The queue.
    pub queue: String,
    /// Calls not being delivered: due, between two attempts, or for later.
    pub waiting: u64,
    /// Calls being delivered.
    pub delivering: u64,
    /// Deliveries allowed at once now.
    pub limit: u32,
    /// Whether deliveries are held.
    pub paused: bool,
    /// Why calls wait, when they do.
    pub waiting_reason: Option<String>,
}

/// What pause and resume answer, of functions and sources alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Whose flow it is.
    pub name: String,
    /// Whether it is held now; durable.
    pub paused: bool,
    /// `configuration` where a source stays held after a resume, because its entry says `paused: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}
