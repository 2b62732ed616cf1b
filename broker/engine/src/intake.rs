//! The two doors: calls are submitted, events are published.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use broker_model::intake::Quarantined;
use broker_model::{
    Body, CallId, Event, EventSink, FunctionName, Headers, InvocationId, Receipt, Refusal, State, StoreError,
    Timestamp,
};

/// One call, as it came over HTTP.
///
/// Header fields are given as they came: the intake drops those of one hop (`Connection`, `Transfer-Encoding`, …),
/// `Host`, `Content-Length`, `X-Call-Id` (kept as [`Submission::call_id`]) and those meant for Evoke
/// (`Idempotency-Key`, `Prefer`, `Evoke-*`), and adds `X-Start-Time`.
#[derive(Debug)]
pub struct Submission {
    /// The function, namespace included.
    pub function: FunctionName,
    /// Its name as the caller wrote it.
    pub written: Box<str>,
    /// What followed the name in the URL, raw: empty, or a path with its leading slash, and `?query`.
    pub path_and_query: Box<str>,
    /// The request's header fields.
    pub headers: Headers,
    /// The request's body, in hand or spooled.
    pub body: Body,
    /// `X-Call-Id`; a UUIDv4 is made where there is none.
    pub call_id: Option<CallId>,
    /// `X-Callback-Url`; empty counts as absent.
    pub callback_url: Option<Box<str>>,
    /// `Idempotency-Key`, scoped by function.
    pub idempotency_key: Option<Box<str>>,
    /// Not before this moment.
    pub due: Option<Timestamp>,
    /// How long it stays worth running.
    pub max_age: Option<Duration>,
    /// Waits up to this long, after the call is durable, for its final outcome.
    pub wait: Option<Duration>,
}

/// The broker's word that a call is durable.
#[derive(Debug)]
pub struct Submitted {
    /// Its identity.
    pub id: InvocationId,
    /// Its call id: the caller's, the one made, or, for a duplicate, the first one's.
    pub call_id: CallId,
    /// The `X-Start-Time` the function will see.
    pub start_time: Timestamp,
    /// Whether the idempotency key was known: this is what the first one made.
    pub duplicate: bool,
    /// Whether the gateway lists the function; true while no list is known.
    pub function_listed: bool,
    /// The final outcome, when it was waited for and came in time.
    pub outcome: Option<FinalAnswer>,
}

/// How a call ended, for whoever waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalAnswer {
    /// `Completed`, `Dead` or `Cancelled`.
    pub state: State,
    /// The function's status; `None` when no answer came.
    pub status: Option<u16>,
    /// The function's header fields, without those of one hop.
    pub headers: Headers,
    /// The function's body, at most `limits.response`.
    pub body: Bytes,
    /// Whether the body was cut there.
    pub truncated: bool,
}

/// Why a call was not taken. Nothing was accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitRefusal {
    /// The broker is stopping (503).
    #[error("the broker is draining")]
    Draining,
    /// The callback URL cannot be understood (400).
    #[error("the callback url cannot be used: {problem}")]
    BadCallback {
        /// What is wrong.
        problem: Box<str>,
    },
    /// The callback URL names an address Evoke does not call (400).
    #[error("the callback url names an address that is not called: {why}")]
    CallbackDenied {
        /// Which rule.
        why: Box<str>,
    },
    /// The path or query holds bytes that cannot be sent on (400).
    #[error("the path or query holds characters that cannot be sent on")]
    BadPath,
    /// Longer than `limits.body` (413).
    #[error("the body's {bytes} bytes exceed the limit of {limit} (limits.body)")]
    TooLarge {
        /// What came.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The idempotency key was used for another request (422).
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The store did not take it (429 at a bound, 507 full, 503 otherwise).
    #[error(transparent)]
    Store(StoreError),
}

/// The inbound side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {}

impl Intake {
    /// Takes a call into custody; resolves when it is durable and, where asked, has ended or the wait is over.
    ///
    /// Dropped before it is durable, the call is either whole or not there; dropped while it waits, it stays accepted.
    ///
    /// # Errors
    /// [`SubmitRefusal`]: nothing was accepted.
    pub async fn submit(&self, _submission: Submission) -> Result<Submitted, SubmitRefusal> {
        Err(SubmitRefusal::Draining)
    }

    /// Refuses everything from now on.
    pub fn begin_draining(&self) {}
}

#[async_trait]
impl EventSink for Intake {
    async fn publish(&self, _event: Event) -> Result<Receipt, Refusal> {
        Err(Refusal::Draining)
    }

    async fn quarantine(&self, _message: Quarantined) -> Result<Receipt, Refusal> {
        Err(Refusal::Draining)
    }
}
