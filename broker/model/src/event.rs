//! What a source saw.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::headers::Headers;
use crate::names::SourceName;
use crate::position::Position;
use crate::schedule::Fire;
use crate::topic::{Topic, Wildcards};

/// One message of an upstream, not yet anybody's invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The configured source it came through.
    pub source: SourceName,
    /// What it is about, as functions name it in their annotations.
    pub topic: Topic,
    /// The grammar in which patterns are held against the topic.
    pub wildcards: Wildcards,
    /// Header fields for the function, the connector's own (`x-kafka-offset`, `content-type`) included.
    pub headers: Headers,
    /// The message's bytes, unchanged.
    pub body: Bytes,
    /// When the upstream says it happened; `None` where it does not say.
    pub time: Option<Timestamp>,
    /// What makes a redelivery of the same message recognisable; `None` where nothing does.
    pub dedup: Option<DedupKey>,
    /// Where the message stands upstream, for sources whose messages have positions in an order. It takes the place of the
    /// dedup key: it does not expire, and it is void where the upstream contradicts it ([`crate::Positions`]).
    pub position: Option<Position>,
    /// The run of a schedule: the event goes to the schedule's function alone, whatever the topic.
    pub fire: Option<Box<Fire>>,
    /// How it is described as a CloudEvent where the message does not do so itself; `None` when the source is told to
    /// leave that out.
    pub cloud_event: Option<CloudEvent>,
}

/// CloudEvents' attributes of an event, for the `ce-*` header fields. What is left out has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudEvent {
    /// `id`. By default the dedup key, or a random one.
    pub id: Option<Box<str>>,
    /// `source`. By default `/evoke/<source>`.
    pub source: Option<Box<str>>,
    /// `type`. By default `evoke.event`.
    pub kind: Option<Box<str>>,
    /// `subject`. By default the topic.
    pub subject: Option<Box<str>>,
}

/// 128 bits that stand for a longer text. Equal texts have equal fingerprints; different ones differ in practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

/// The key under which an accepted call is remembered for the dedup window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey {
    /// Whose quota the key counts against: a source's name, or `http`.
    pub scope: Box<str>,
    /// The key within its scope: a message id, a position, an idempotency key with its function.
    pub key: Fingerprint,
    /// What was asked. The same key with another request is refused; equal ones are duplicates.
    pub request: Fingerprint,
}
