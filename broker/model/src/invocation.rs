//! One request to run one function, or to tell one caller.

use std::time::Duration;

use crate::body::Body;
use crate::clock::Timestamp;
use crate::headers::Headers;
use crate::id::InvocationId;
use crate::lane::Lane;
use crate::names::{CallId, FunctionName, SourceName};
use crate::topic::Topic;

/// An accepted request, as it stands in a store until it is completed, dead or cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Its identity, kept over retries and redrives.
    pub id: InvocationId,
    /// 1 at acceptance; each redrive begins the next life with fresh attempts and age.
    pub life: u32,
    /// Where it waits.
    pub lane: Lane,
    /// Whom it calls.
    pub target: Target,
    /// Where it came from.
    pub origin: Origin,
    /// The caller's id for it, or one made at acceptance; the same over all attempts.
    pub call_id: CallId,
    /// The request's header fields, as they came.
    pub headers: Headers,
    /// What is sent.
    pub body: Body,
    /// When it became ours.
    pub accepted_at: Timestamp,
    /// When this life began: acceptance or the last redrive.
    pub life_began_at: Timestamp,
    /// Not before this moment, where the caller said so.
    pub due: Option<Timestamp>,
    /// How long it stays worth running, where the caller said so; the function's own setting serves otherwise.
    pub max_age: Option<Duration>,
}

impl Invocation {
    /// The moment its age counts from: the later of this life's beginning and the due time.
    pub fn ages_from(&self) -> Timestamp {
        self.due.map_or(self.life_began_at, |due| due.max(self.life_began_at))
    }
}

/// Whom an invocation calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A function, through the gateway.
    Function(FunctionCall),
    /// A URL that is told a result.
    Callback(CallbackCall),
    /// Nobody: kept only to be seen (a message nobody could read, a range the upstream lost).
    Nobody,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCall {
    /// The function.
    pub function: FunctionName,
    /// The name as the caller wrote it: the gateway is asked by it and `X-Function-Name` echoes it.
    pub written: Box<str>,
    /// What follows the name in the URL, raw: empty, or a path with its leading slash and query (`/a%2Fb?x=1`).
    pub path_and_query: Box<str>,
    /// Who is told the final result.
    pub callback_url: Option<Box<str>>,
}

/// A POST of a result or a dead letter to a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackCall {
    /// Where to.
    pub url: Box<str>,
}

impl Target {
    /// The function called, if one is.
    pub fn function(&self) -> Option<&FunctionName> {
        match self {
            Target::Function(call) => Some(&call.function),
            Target::Callback(_) | Target::Nobody => None,
        }
    }

    /// The kind, as lists and metrics name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Target::Function(_) => "function",
            Target::Callback(_) => "callback",
            Target::Nobody => "none",
        }
    }
}

/// Where an invocation came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `POST /async-function/…`.
    Call,
    /// An event of a source.
    Event {
        /// The source.
        source: SourceName,
        /// What the event was about.
        topic: Topic,
    },
    /// The result of another invocation, on its way to the caller.
    Callback {
        /// Whose result it tells.
        of: InvocationId,
    },
    /// A dead letter of another invocation, on its way to whom `on_dead_letter` names.
    DeadLetter {
        /// Whose end it tells.
        of: InvocationId,
    },
    /// A message that could not be understood; accepted and dead in one record.
    Quarantine {
        /// The source.
        source: SourceName,
    },
}

impl Origin {
    /// The kinds, as the label `origin` of the metrics shows them.
    pub const KINDS: [&'static str; 5] = ["call", "event", "callback", "dead-letter", "quarantine"];

    /// The kind of this origin; one of [`Origin::KINDS`].
    pub fn kind(&self) -> &'static str {
        Self::KINDS[self.index()]
    }

    /// The place of this origin in [`Origin::KINDS`].
    pub fn index(&self) -> usize {
        match self {
            Origin::Call => 0,
            Origin::Event { .. } => 1,
            Origin::Callback { .. } => 2,
            Origin::DeadLetter { .. } => 3,
            Origin::Quarantine { .. } => 4,
        }
    }

    /// The source it came through, for events.
    pub fn source(&self) -> Option<&SourceName> {
        match self {
            Origin::Event { source, .. } | Origin::Quarantine { source } => Some(source),
            Origin::Call | Origin::Callback { .. } | Origin::DeadLetter { .. } => None,
        }
    }
}

/// Where an invocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not yet delivered, or between two attempts.
    Waiting,
    /// Leased: a delivery is under way.
    Delivering,
    /// Ended with an answer that policy took as final success.
    Completed,
    /// Given up; kept until redriven or removed.
    Dead,
    /// Taken back by its caller or an operator.
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] =
        [State::Waiting, State::Delivering, State::Completed, State::Dead, State::Cancelled];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Delivering => "delivering",
            State::Completed => "completed",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == name)
    }
}
