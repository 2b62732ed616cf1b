//! What the author of a connector sees.
//!
//! A connector is a kind of upstream; a source is one configured, running subscription of it. To write one:
//! 1. read the settings with [`Reader`], all problems at once, and check nothing that needs the network ([`Connector::build`]);
//! 2. turn a wire message into an [`Event`] in a pure function (`event.rs` of every connector);
//! 3. in [`Source::run`], hand events to an [`AckWindow`] and tell the upstream what it resolves, until
//!    [`SourceContext::shutdown`].
//!
//! A source reaches nothing but its [`SourceContext`]. It does not know the engine, the store or HTTP, and it does not
//! restart itself: it returns a [`SourceError`], and the runtime starts it again.
//!
//! In reading order: [`connector`], [`source`], [`health`], [`tracker`] and [`window`], [`settings`], [`secret`],
//! [`byte_size`].

pub mod byte_size;
pub mod connector;
pub mod health;
pub mod secret;
pub mod settings;
pub mod source;
mod top_topics;
pub mod tracker;
pub mod window;

pub use broker_model::source::{Capabilities, Interval, SourceCounts, SourceState, SourceStatus, Sources};
pub use broker_model::{
    Backoff, Clock, DedupKey, Demand, Event, EventSink, Fingerprint, FunctionName, Headers, InvocationId,
    InvocationQueue, Jitter, Receipt, Refusal, Retry, SourceName, StoreError, Timestamp, Topic, TopicPattern,
    Wildcards,
};
pub use broker_model::{intake::Quarantined, names::NameError, queue::Pausable};
pub use byte_size::ByteSize;
pub use connector::Connector;
pub use health::{Health, HealthBoard};
pub use secret::Secret;
pub use settings::{Problem, Reader, Setting, SettingsError, Topics};
pub use source::{Source, SourceContext, SourceError, describe};
pub use tracker::{Order, Tracker, WindowLimits};
pub use window::{AckWindow, Resolved};
