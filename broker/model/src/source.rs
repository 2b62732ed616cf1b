//! Sources as people see them: one configured, running subscription each.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::names::SourceName;
use crate::queue::StoreError;
use crate::topic::Wildcards;

/// What a source's protocol can do; what it cannot is documented, counted, and left out of the contract tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The upstream keeps a message until it is acknowledged.
    pub acknowledges: bool,
    /// The upstream gives an unacknowledged message again.
    pub replays: bool,
    /// Messages have positions in an order, and are acknowledged up to one.
    pub ordered: bool,
    /// Messages come in an envelope that is decoded, and that may be malformed.
    pub decodes: bool,
    /// Several replicas share the messages: each goes to one of them.
    pub shares: bool,
}

impl Capabilities {
    /// A protocol that can do nothing of it, to be refined.
    pub const NONE: Capabilities =
        Capabilities { acknowledges: false, replays: false, ordered: false, decodes: false, shares: false };
}

/// A variable or flag of one of OpenFaaS' connectors, and the setting it means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The variable's name, or with a leading `-` the flag's: `broker_hosts`, `-ca-file`.
    pub name: &'static str,
    /// The setting of the source, as `tls.ca_file`.
    pub key: &'static str,
    /// How its value is written there.
    pub form: InheritedForm,
}

/// How the value of an inherited variable is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InheritedForm {
    /// As here.
    Text,
    /// As here; a variable of the system rather than of a connector (`TZ`), and so the default of the setting in every
    /// source of the kind, configured or not. Where there is none, nothing is said of it.
    Ambient,
    /// A whole number.
    Number,
    /// Entries between commas; trimmed, empty ones passed over. Nothing is set where none is left.
    List,
    /// Go's duration (`1m30s`).
    Duration,
    /// `true` or `1`, `false` or `0`; a flag alone means true.
    Bool,
    /// As [`InheritedForm::Bool`]; when true, a group of settings that may be empty (`tls: {}`).
    Group,
    /// JSON.
    Json,
    /// One of these words, each with what it means here.
    OneOf(&'static [(&'static str, &'static str)]),
    /// A host with or without a port, which becomes a URL of this scheme; a whole URL stays as it is.
    Url {
        /// The scheme.
        scheme: &'static str,
        /// The port where none is said.
        port: u16,
    },
}

/// What a kind of source understands of OpenFaaS' connector of the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// Sets of variables; any whole set makes a source of this kind, named as the kind, where none is configured.
    pub defined_by: &'static [&'static [&'static str]],
    /// What they mean. Where several set one key, the first in this list that is set stands.
    pub variables: &'static [Inherited],
    /// Settings of that source which OpenFaaS' connector has by default and ours has not: key and value.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceState {
    /// Waits for a function list before it may take anything.
    WaitingForFunctions,
    /// Tries to reach its upstream.
    Connecting,
    /// Connected; subscribed to whatever is wanted, which may be nothing.
    Connected,
    /// Held by an operator.
    Paused,
    /// Stopping or stopped.
    Stopped,
}

impl SourceState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            SourceState::WaitingForFunctions => "waiting-for-functions",
            SourceState::Connecting => "connecting",
            SourceState::Connected => "connected",
            SourceState::Paused => "paused",
            SourceState::Stopped => "stopped",
        }
    }
}

/// What became of the messages a source received in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// Messages read from the upstream.
    pub received: u64,
    /// Of them, made into invocations.
    pub accepted: u64,
    /// Nobody wanted them.
    pub unmatched: u64,
    /// Received before.
    pub duplicate: u64,
    /// Not taken, given back to the upstream.
    pub refused: u64,
    /// Could not be understood; kept as dead letters.
    pub quarantined: u64,
    /// Known to be lost on the way to us (a lower bound), where the protocol has no acknowledgement.
    pub dropped: u64,
}

/// A time without a connection, over which a source without replay may have missed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// From when.
    pub from: Timestamp,
    /// Until when; `None` while it lasts.
    pub until: Option<Timestamp>,
}

/// One source, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its name in the configuration.
    pub name: SourceName,
    /// Its kind (`nats`).
    pub kind: &'static str,
    /// What its protocol can do.
    pub capabilities: Capabilities,
    /// Where it stands.
    pub state: SourceState,
    /// Since when it stands there.
    pub since: Timestamp,
    /// What it listens to now, for people.
    pub subscriptions: Vec<String>,
    /// When the last message came.
    pub last_event_at: Option<Timestamp>,
    /// How far it is behind its upstream, in messages, where the upstream says so.
    pub lag: Option<u64>,
    /// What became of its messages.
    pub counts: SourceCounts,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(Timestamp, String)>,
    /// The topics most often received that nobody wanted, with their counts.
    pub unmatched_topics: Vec<(String, u64)>,
    /// The latest times without a connection, oldest first.
    pub disconnected: Vec<Interval>,
    /// All time without a connection in this process.
    pub disconnected_for: Duration,
    /// How often it found its upstream again after it had lost it, in this process.
    pub reconnects: u64,
}

/// What is left of a source's hold when an operator has ended theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// Nothing: it runs.
    Runs,
    /// Its configuration holds it, until that is changed.
    HeldByConfiguration,
}

/// The running sources, as an operator reaches them.
#[async_trait]
pub trait Sources: Send + Sync {
    /// All of them, by name.
    fn list(&self) -> Vec<SourceStatus>;

    /// The wildcard grammar of a source's topics; `None` when there is no such source, or it has none of its own.
    fn wildcards(&self, _name: &SourceName) -> Option<Wildcards> {
        None
    }

    /// Holds a source's intake; durable. `false` when there is no such source.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot remember it.
    async fn pause(&self, name: &SourceName) -> Result<bool, StoreError>;

    /// Ends an operator's hold; durable. `None` when there is no such source.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot remember it.
    async fn resume(&self, name: &SourceName) -> Result<Option<Resumed>, StoreError>;

    /// Forgets which positions of its upstream a source has received, and starts it afresh: whatever the upstream gives
    /// again is accepted again. Of how many partitions something was known; `None` when there is no such source. Durable.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot forget; the source runs on with what is known.
    async fn reset_positions(&self, name: &SourceName) -> Result<Option<usize>, StoreError>;
}
