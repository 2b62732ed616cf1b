//! What the author of a connector sees. `connectors/README.md` says how to write one, step by step.
//!
//! A connector is a kind of upstream; a source is one configured, running subscription of it. To write one:
//! 1. read the settings with [`Reader`], all problems at once, and check nothing that needs the network ([`Connector::build`]);
//!    those every source has are [`Common`];
//! 2. turn a wire message into an [`Event`] in a pure function (`event.rs` of every connector), with [`EventForm::message`];
//! 3. in [`Source::run`], ask the upstream for what [`Following`] says, hand events to an [`AckWindow`] and tell the upstream
//!    what it resolves, until [`SourceContext::shutdown`].
//!
//! A source reaches nothing but its [`SourceContext`]. It does not know the engine, the store or HTTP, and it does not
//! restart itself: it returns a [`SourceError`], and the runtime starts it again.
//!
//! In reading order: [`connector`], [`source`], [`settings`] with [`common`], [`form`] (message → event: [`header_policy`],
//! [`topic_map`], [`dedup`]), [`mod@wishes`] (what to listen to), [`window`] with [`mod@dead_letter`] and [`tracker`], [`health`] and [`series`],
//! [`retries`], [`tls`], [`secret`], [`byte_size`], [`s3`], [`sns`]; `receiver`, a cargo feature, is for sources that listen, and
//! [`schedules`] for one kind alone.

pub mod byte_size;
pub mod common;
pub mod connector;
pub mod dead_letter;
pub mod dedup;
pub mod form;
pub mod header_policy;
pub mod health;
mod positions;
#[cfg(feature = "receiver")]
pub mod receiver;
pub mod retries;
pub mod s3;
pub mod schedules;
pub mod secret;
pub mod series;
pub mod settings;
pub mod sns;
pub mod source;
pub mod tls;
mod top_topics;
pub mod topic_map;
pub mod tracker;
pub mod window;
pub mod wishes;

pub use broker_model::source::{
    Capabilities, Inheritance, Inherited, InheritedForm, Interval, Resumed, SourceCounts, SourceState,
    SourceStatus, Sources,
};
pub use broker_model::{
    Backoff, Clock, CloudEvent, DedupKey, Demand, Event, EventSink, Fingerprint, FunctionName, Headers,
    InvocationId, InvocationQueue, Jitter, Partition, Position, Positions, Receipt, Refusal, Resume, Retry,
    SourceName, State, StoreError, Timestamp, Topic, TopicPattern, Upstream, Voided, Wildcards,
};
pub use broker_model::{
    function::AnnotationProblem,
    intake::{Lost, Quarantined},
    ledger::{Filter, Ledger, Page},
    names::{CallId, NameError},
    queue::Pausable,
    schedule::{Fire, Instant, Schedule, ScheduleId, ScheduleState, Schedules},
    timetable::{
        Backfilled, Post, ScheduleRules, ScheduleStatus, ScheduleWish, ScheduleWishes, Timetable,
        TimetableBoard, TimetableError,
    },
};
pub use byte_size::ByteSize;
pub use common::Common;
pub use connector::Connector;
pub use dead_letter::dead_letter;
pub use dedup::dedup_key;
pub use form::{EventForm, Incoming};
pub use header_policy::HeaderPolicy;
pub use health::{Health, HealthBoard};
pub use positions::NoPositions;
pub use retries::Retries;
pub use s3::S3Record;
pub use schedules::ScheduleAccess;
pub use secret::Secret;
pub use series::{Family, Series};
pub use settings::{Problem, Reader, Setting, SettingsError, Topics};
pub use sns::{NotSns, SnsAttribute, SnsKind, SnsMessage};
pub use source::{Source, SourceContext, SourceError, describe};
pub use tls::{ClientCertificate, Tls};
pub use topic_map::TopicMap;
pub use tracker::{Order, Tracker, WindowLimits};
pub use window::{AckWindow, Resolved};
pub use wishes::{Following, Wishes, wishes};
