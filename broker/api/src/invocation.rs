//! `GET /v1/invocations` and what is below it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Span, Time};

/// Header fields: each name in lower case with its values in order. Secrets read `[redacted]`.
pub type HeaderMap = BTreeMap<String, Vec<String>>;

/// One invocation, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// Its id.
    pub id: Uuid,
    /// `waiting`, `delivering`, `completed`, `dead` or `cancelled`.
    pub state: String,
    /// What it calls: `function`, `callback` or `none`.
    pub target: String,
    /// The function it calls, when it calls one: `name.namespace`.
    pub function: Option<String>,
    /// The caller's id for it.
    pub call_id: String,
    /// Where it came from.
    pub origin: OriginInfo,
    /// The queue it waits in.
    pub queue: String,
    /// 1 at acceptance; one more with each redrive.
    pub life: u32,
    /// Attempts made in this life.
    pub attempts: u64,
    /// How large its body is.
    pub body_bytes: u64,
    /// When it was accepted.
    pub accepted_at: Time,
    /// Not before this moment, where it waits for one.
    pub next_attempt_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Why it waits, while it does.
    pub waiting_reason: Option<String>,
    /// Why it is dead, when it is.
    pub reason: Option<String>,
}

/// Where an invocation came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OriginInfo {
    /// `POST /async-function/…`.
    Call,
    /// An event.
    Event {
        /// The source.
        source: String,
        /// What it was about.
        topic: String,
    },
    /// The result of another invocation, on its way to the caller.
    Callback {
        /// Whose result it is.
        of: Uuid,
    },
    /// A dead letter of another invocation, on its way to whom `on_dead_letter` names.
    DeadLetter {
        /// Whose end it is.
        of: Uuid,
    },
    /// A message nobody could read.
    Quarantine {
        /// The source.
        source: String,
    },
}

/// One invocation, whole but for its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationDetail {
    /// What lists show.
    #[serde(flatten)]
    pub invocation: Invocation,
    /// The name as the caller wrote it, for calls of functions.
    pub written: Option<String>,
    /// What follows the name in the URL, raw.
    pub path_and_query: Option<String>,
    /// Where the result or, for a callback, this body goes; a password in it reads `[redacted]`.
    pub callback_url: Option<String>,
    /// Not before this moment, where the caller said so.
    pub due: Option<Time>,
    /// How long it stays worth running, where the caller said so.
    pub max_age: Option<Span>,
    /// How often the broker died during it.
    pub interrupted: u32,
    /// The request's header fields.
    pub headers: HeaderMap,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
}

/// Something that happened to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Moment {
    /// It became ours.
    Accepted {
        /// When.
        at: Time,
    },
    /// It was put back from death; the attempts that follow are of this life.
    Redriven {
        /// When.
        at: Time,
        /// The number of the life that began.
        life: u32,
    },
    /// One exchange with the gateway or a callback's host.
    Attempt {
        /// When it began.
        at: Time,
        /// 1 for the first of a life.
        number: u32,
        /// How it went, from a closed set: `success`, `client-error`, `server-error`, `internal`, `no-capacity`,
        /// `dropped`, `timeout`, `unreachable`, `denied`.
        class: String,
        /// The HTTP status, when an answer came.
        status: Option<u16>,
        /// How long it took.
        duration: Span,
        /// What went wrong, when no answer came.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
        /// The first KiB of the answer, when it is text.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        excerpt: Option<String>,
        /// The first KiB of the answer in base64, when it is not.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        excerpt_base64: Option<String>,
    },
    /// Attempts between the first and the last ones, of which only the number is kept.
    Attempts {
        /// How many, by class.
        counts: BTreeMap<String, u32>,
    },
    /// It ended well.
    Completed {
        /// When.
        at: Time,
    },
    /// It was given up.
    Dead {
        /// When.
        at: Time,
        /// Why.
        reason: String,
        /// More about it, for people.
        detail: String,
    },
    /// It was taken back.
    Cancelled {
        /// When.
        at: Time,
    },
}

/// What a cancel answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// Which.
    pub id: Uuid,
    /// Where it stood: `waiting`, or `delivering` when the delivery was told to stop.
    pub was: String,
}
