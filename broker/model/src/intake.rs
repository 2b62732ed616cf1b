//! The inbound door for events, as a source sees it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::backoff::Retry;
use crate::event::{DedupKey, Event};
use crate::headers::Headers;
use crate::id::InvocationId;
use crate::names::{FunctionName, SourceName};
use crate::position::Position;
use crate::queue::StoreError;
use crate::topic::Topic;

/// Takes events into custody. What is offered stays with whoever offers it, to be offered again when it is refused.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Resolves when every invocation the event causes is durable; only then may the upstream forget it.
    ///
    /// An event nobody wants is received too, with an empty receipt. The same dedup key again, inside the window, makes
    /// no second invocation. Dropping the future leaves either all of it accepted or nothing.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was taken; give the message back and try again as [`Refusal::retry`] says.
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal>;

    /// Keeps a message that cannot be made into an event, as a dead letter (`undecodable`), so that it is not lost.
    ///
    /// # Errors
    /// [`Refusal`] as for publishing.
    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal>;

    /// Records messages that the upstream discarded before they could be read, as one dead letter (`lost-upstream`).
    ///
    /// # Errors
    /// [`Refusal`] as for publishing.
    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal>;
}

/// Messages that are gone: beyond an upstream's retention, or sent while nobody listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The source that should have had them.
    pub source: SourceName,
    /// What they were about, as far as known.
    pub topic: Option<Topic>,
    /// How many, where that is known.
    pub messages: Option<u64>,
    /// Which ones, for people: a partition with its first and last offset, a bucket with two moments.
    pub what: Box<str>,
    /// What makes the same range recognisable, so that it is recorded once.
    pub dedup: Option<DedupKey>,
}

/// A message nobody could read, kept whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The source it came through.
    pub source: SourceName,
    /// What it was about, as far as known.
    pub topic: Option<Topic>,
    /// Its header fields.
    pub headers: Headers,
    /// Its raw bytes.
    pub raw: Bytes,
    /// Why it could not be read.
    pub why: Box<str>,
    /// What makes a redelivery recognisable.
    pub dedup: Option<DedupKey>,
    /// Where the message stands upstream, as [`Event::position`].
    pub position: Option<Position>,
}

/// The broker's word that an event is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The functions that will run, each with its invocation. Empty when nobody wants the event.
    pub invocations: Vec<(FunctionName, InvocationId)>,
    /// The event was received before; the invocations are those of the first time, or empty where it was recognised by its
    /// position or instant.
    pub duplicate: bool,
}

/// The broker's word that it did not take an event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// No function list has been loaded yet, so it cannot be known who wants this.
    #[error("no function list has been loaded yet")]
    NoFunctionList,
    /// The broker is stopping.
    #[error("the broker is draining")]
    Draining,
    /// The source is paused.
    #[error("the source is paused")]
    Paused,
    /// Larger than `limits.body` allows.
    #[error("the event's {bytes} bytes exceed the limit of {limit} (limits.body)")]
    TooLarge {
        /// What came.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The same dedup key came with another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Refusal::NoFunctionList | Refusal::Paused => Retry::Soon,
            Refusal::Draining => Retry::After(Duration::from_secs(5)),
            Refusal::TooLarge { .. } | Refusal::KeyReused => Retry::Never,
            Refusal::Store(error) => error.retry(),
        }
    }
}
