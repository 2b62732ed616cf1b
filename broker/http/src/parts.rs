//! What the HTTP side is made of.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use broker_engine::{Budget, Control, Functions, Intake};
use broker_model::source::Sources;
use broker_model::{BodyReader, Clock, Ledger, TimetableBoard};

use crate::metrics::HttpMetrics;
use crate::settings::HttpSettings;

/// What the HTTP side is made of: handles and ports, all of them shared with the rest of the process.
pub struct HttpParts {
    /// Takes calls and events.
    pub intake: Intake,
    /// What an operator may do.
    pub control: Control,
    /// What is known of functions.
    pub functions: Functions,
    /// What can be asked of the store.
    pub ledger: Arc<dyn Ledger>,
    /// The store's bodies.
    pub bodies: Arc<dyn BodyReader>,
    /// The running sources.
    pub sources: Arc<dyn Sources>,
    /// The schedules, where a source runs them.
    pub timetable: Arc<TimetableBoard>,
    /// Bytes in flight; taken before a body is read from its socket.
    pub budget: Budget,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Everything that is counted, complete: what `/metrics` shows.
    pub registry: Arc<Registry>,
    /// What is counted here; registered by the owner of the registry.
    pub metrics: HttpMetrics,
    /// What the HTTP side is told.
    pub settings: HttpSettings,
    /// Where the process stands.
    pub phase: watch::Receiver<Phase>,
}

/// Where the process stands. Phases only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Parts are being started.
    Starting,
    /// Everything is up.
    Ready,
    /// New work is refused, what was begun is finished.
    Draining,
    /// Nothing is done any more.
    Stopped,
}

impl Phase {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        }
    }
}
