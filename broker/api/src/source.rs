//! `GET /v1/sources` and what is below it.

use serde::{Deserialize, Serialize};

use crate::{Span, Time};

/// One configured, running subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name in the configuration.
    pub name: String,
    /// Its kind (`nats`).
    pub kind: String,
    /// `waiting-for-functions`, `connecting`, `connected`, `paused` or `stopped`.
    pub state: String,
    /// Since when.
    pub since: Time,
    /// What its protocol can do.
    pub capabilities: SourceCapabilities,
    /// What it listens to now.
    pub subscriptions: Vec<String>,
    /// When the last message came.
    pub last_event_at: Option<Time>,
    /// How far it is behind its upstream, in messages, where the upstream says so.
    pub lag: Option<u64>,
    /// What became of its messages, in this process.
    pub counts: SourceCounts,
    /// The last thing that went wrong.
    pub last_error: Option<SourceError>,
    /// The topics most often received that nobody wanted.
    pub unmatched_topics: Vec<UnmatchedTopic>,
    /// The latest times without a connection, oldest first.
    pub disconnected: Vec<Disconnection>,
    /// All time without a connection in this process.
    pub disconnected_for: Span,
}

/// What `POST /v1/sources/{name}/reset-position` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionReset {
    /// The source.
    pub name: String,
    /// Of how many partitions it was known what was received; durably forgotten.
    pub partitions: u64,
}

/// What a source's protocol can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCapabilities {
    /// The upstream keeps a message until it is acknowledged.
    pub acknowledges: bool,
    /// The upstream gives an unacknowledged message again.
    pub replays: bool,
    /// Messages have positions in an order.
    pub ordered: bool,
    /// Messages come in an envelope that is decoded.
    pub decodes: bool,
    /// Several replicas share the messages.
    pub shares: bool,
}

/// What became of a source's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Read from the upstream.
    pub received: u64,
    /// Made into invocations.
    pub accepted: u64,
    /// Wanted by nobody.
    pub unmatched: u64,
    /// Received before.
    pub duplicate: u64,
    /// Given back to the upstream.
    pub refused: u64,
    /// Kept as dead letters, because nobody could read them.
    pub quarantined: u64,
    /// Known to be lost on the way (a lower bound), where the protocol has no acknowledgement.
    pub dropped: u64,
}

/// Something that went wrong at a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceError {
    /// When.
    pub at: Time,
    /// What.
    pub error: String,
}

/// A topic nobody wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmatchedTopic {
    /// The topic.
    pub topic: String,
    /// How often it came.
    pub count: u64,
}

/// A time without a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnection {
    /// From when.
    pub from: Time,
    /// Until when; `None` while it lasts.
    pub until: Option<Time>,
}
