//! The vocabulary of Evoke: its nouns, the rules that decide, and the ports through which the world is reached.
//!
//! Everything here is a value, a pure function or a trait. This crate does not know tokio, serde, HTTP, files or
//! any clock: time and randomness are arguments. Two arms are built on it, the broker's crates and the connectors,
//! and they share nothing else.
//!
//! In reading order:
//! * what there is: [`names`], [`topic`], [`headers`], [`body`], [`event`], [`invocation`], [`attempt`], [`dead_letter`];
//! * what is received once: [`position`] (ordered sources), [`schedule`] (instants);
//! * what decides: [`trigger`] (who wants an event), [`policy`] and [`backoff`] (what follows an attempt),
//!   [`limit`] (how many deliveries at once), [`lease`] (who may settle);
//! * the ports: [`intake`] (the inbound door), [`queue`] (the durable queue), [`ledger`] (what can be asked of it),
//!   [`source`] (the running sources), [`clock`].

pub mod attempt;
pub mod backoff;
pub mod body;
pub mod clock;
pub mod dead_letter;
pub mod event;
pub mod function;
pub mod headers;
pub mod id;
pub mod intake;
pub mod invocation;
pub mod lane;
pub mod lease;
pub mod ledger;
pub mod limit;
pub mod names;
pub mod policy;
pub mod position;
pub mod queue;
pub mod ranges;
pub mod schedule;
pub mod source;
pub mod timetable;
pub mod topic;
pub mod trigger;

pub use attempt::{Answer, Attempt, AttemptHistory, Outcome};
pub use backoff::{Backoff, Jitter, Retry};
pub use body::{Body, BodyChunks, BodyReader, Spool, StoredBody};
pub use clock::{Clock, Timestamp};
pub use dead_letter::{DeadLetter, Reason};
pub use event::{CloudEvent, DedupKey, Event, Fingerprint};
pub use function::{Function, FunctionTable};
pub use headers::Headers;
pub use id::InvocationId;
pub use intake::{EventSink, Receipt, Refusal};
pub use invocation::{Invocation, Origin, State, Target};
pub use lane::{Lane, LaneTarget};
pub use lease::Lease;
pub use ledger::{Ledger, Record, Totals};
pub use names::{CallId, FunctionName, QueueName, SourceName};
pub use policy::{RetryPolicy, Verdict};
pub use position::{Partition, Position, Positions, Resume, Upstream, Voided};
pub use queue::{Acceptance, Accepted, Delivery, Draft, InvocationQueue, Settlement, StoreError};
pub use schedule::{Fire, Schedule, ScheduleId, ScheduleState, Schedules};
pub use timetable::{ScheduleWish, ScheduleWishes, Timetable, TimetableBoard};
pub use topic::{Topic, TopicPattern, Wildcards};
pub use trigger::{Demand, Trigger, TriggerTable};
