//! The wire shapes of the management API (`/v1`), as server and clients share them.
//!
//! Plain data with `serde` on both sides: nothing here decides, reads or sends, and nothing of Evoke's own nouns is
//! imported. The server converts at its edge (`broker-http`, `convert.rs`).
//!
//! What holds everywhere:
//! * a list is `{"items": […], "next": "<cursor>" | null}` ([`List`]);
//! * an error is a problem document of RFC 9457 with a stable `type` ([`Problem`], [`ProblemKind`]);
//! * a moment is RFC 3339 in UTC with milliseconds ([`Time`]), a duration a text with units ([`Span`]), an
//!   invocation's id a UUID;
//! * a name from a closed set (a state, a reason) is a text, so that an older client can show what a newer server says;
//! * a request with a key we do not know is refused; an answer may gain keys.

// What every answer is made of.
mod list;
mod problems;
mod span;
mod time;

// The nouns, in the order of the routes.
mod info;

mod function;

mod trigger;

mod source;

mod schedule;

mod invocation;

mod dead_letter;

mod event;

mod health;

pub use dead_letter::{DeadLetter, DeadLetterDetail, RedriveAll, RedriveFilter, Redriven, RedrivenAll};
pub use event::{OneOrMany, PublishEvent, Receipt, Started};
pub use function::{AnnotationProblem, Function, FunctionRetry, Lane, Paused};
pub use health::{Health, Part, Readiness};
pub use info::{GatewayDown, GatewayInfo, Info, LedgerInfo, StoreInfo, StoreRefusal};
pub use invocation::{Cancelled, HeaderMap, Invocation, InvocationDetail, Moment, OriginInfo};
pub use list::List;
pub use problems::{Problem, ProblemKind};
pub use schedule::{Backfill, Backfilled, Schedule, ScheduleDetail, ScheduleRules};
pub use source::{
    Disconnection, PositionReset, Source, SourceCapabilities, SourceCounts, SourceError, UnmatchedTopic,
};
pub use span::Span;
pub use time::Time;
pub use trigger::Trigger;
pub use uuid::Uuid;
