//! The flow of Evoke: what is accepted, what runs when, and what follows from how it went.
//!
//! Two doors, one queue, one dispatcher, one settle:
//! * [`Intake`] is both doors: [`Intake::submit`] for calls and, as a [`broker_model::EventSink`], `publish` for events;
//! * [`functions`] polls the gateway's function list, reads annotations and says who wants what;
//! * `dispatch` leases from the queue, fairly between lanes and within limits, delivers, judges and settles;
//! * [`gateway`] speaks to the gateway and to callbacks' hosts;
//! * [`Control`] is what an operator may do; [`Functions`] is what can be seen; [`Metrics`] is what is counted.
//!
//! This crate does not know axum, any connector, or which store it got: it holds the ports of `broker-model`.
//! Decisions are pure functions there; here is the I/O around them.

pub mod engine;
pub mod settings;

pub mod intake;
mod waiting;

pub mod functions;

mod dispatch;

pub mod gateway;

pub mod control;

pub mod budget;
pub mod metrics;

pub use budget::{Budget, Permit};
pub use control::{Control, RedriveCounts};
pub use engine::{Drained, Engine, EngineError, Parts};
pub use functions::{Functions, GatewayDown, LaneState, ListProblem, Rules, WaitingReason};
pub use gateway::headers::CALLBACK_MARK;
pub use gateway::{Exchange, Gateway};
pub use intake::{FinalAnswer, Intake, Submission, SubmitRefusal, Submitted};
pub use metrics::Metrics;
pub use settings::EngineSettings;
