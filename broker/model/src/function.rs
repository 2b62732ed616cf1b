//! Functions as the gateway lists them, read into what Evoke needs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::names::{FunctionName, QueueName};
use crate::policy::DeadLetterRule;
use crate::timetable::ScheduleWish;
use crate::topic::TopicPattern;

/// One function of the gateway's list with its annotations read.
///
/// Every `Option` is an annotation that was absent or invalid: the broker's configured default serves instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, namespace included.
    pub name: FunctionName,
    /// How the gateway is called for it: `name.namespace` where namespaces are listed, else `name`.
    pub reference: Box<str>,
    /// Ready copies; zero when scaled to zero.
    pub available_replicas: u32,
    /// Calls one replica takes at once, where the provider shows it.
    pub max_inflight: Option<NonZeroU32>,
    /// Which topics start it.
    pub topics: Vec<TopicPattern>,
    /// Its queue (`com.openfaas.queue`).
    pub queue: Option<QueueName>,
    /// Retries after the first try (`com.openfaas.retry.attempts`).
    pub attempts: Option<u32>,
    /// Statuses that are tried again (`com.openfaas.retry.codes`).
    pub codes: Option<Vec<u16>>,
    /// The first wait (`com.openfaas.retry.min_wait`).
    pub min_wait: Option<Duration>,
    /// The longest wait (`com.openfaas.retry.max_wait`).
    pub max_wait: Option<Duration>,
    /// Bound of one HTTP exchange (`evoke.timeout`).
    pub timeout: Option<Duration>,
    /// How long a call stays worth running (`evoke.max-age`).
    pub max_age: Option<Duration>,
    /// Deliveries at once (`evoke.concurrency`).
    pub concurrency: Option<Concurrency>,
    /// Which failures are kept (`evoke.dead-letter`).
    pub dead_letter: Option<DeadLetterRule>,
    /// Where a copy of each dead letter is sent (`evoke.on-dead-letter`).
    pub on_dead_letter: Option<OnDeadLetter>,
    /// When it is to run by itself (`schedule`), where `topic` says so.
    pub schedule: Option<ScheduleWish>,
    /// Annotations that could not be used, for people.
    pub problems: Vec<AnnotationProblem>,
}

impl Function {
    /// A function without annotations.
    pub fn plain(name: FunctionName, reference: &str) -> Self {
        Function {
            name,
            reference: reference.into(),
            available_replicas: 1,
            max_inflight: None,
            topics: Vec::new(),
            queue: None,
            attempts: None,
            codes: None,
            min_wait: None,
            max_wait: None,
            timeout: None,
            max_age: None,
            concurrency: None,
            dead_letter: None,
            on_dead_letter: None,
            schedule: None,
            problems: Vec::new(),
        }
    }
}

/// How many deliveries run at once to one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// Found by trying (see [`crate::limit`]).
    Adaptive,
    /// Always this many.
    Fixed(NonZeroU32),
}

/// Who is told of a dead letter, by one more invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnDeadLetter {
    /// A function, as its name is written.
    Function(Box<str>),
    /// A URL, called like a callback.
    Url(Box<str>),
}

/// An annotation whose value cannot be used; its default serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationProblem {
    /// The annotation's key.
    pub key: Box<str>,
    /// Its value, as it stands.
    pub value: Box<str>,
    /// What is wrong and what would be right.
    pub problem: Box<str>,
}

/// What the gateway listed, whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FunctionTable {
    /// The functions by name.
    pub functions: BTreeMap<FunctionName, Function>,
    /// When the list was complete.
    pub listed_at: Timestamp,
}

impl FunctionTable {
    /// The function of this name.
    pub fn get(&self, name: &FunctionName) -> Option<&Function> {
        self.functions.get(name)
    }
}
