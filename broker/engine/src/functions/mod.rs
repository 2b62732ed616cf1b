//! What the gateway lists, what its functions want, and how their lanes stand.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use broker_model::{Demand, FunctionName, FunctionTable, QueueName, Timestamp, TriggerTable};

/// The read view of functions and their lanes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Functions {
    demand: watch::Receiver<Demand>,
}

/// Why the gateway's function list could not be used; the last complete one serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListProblem {
    /// When.
    pub at: Timestamp,
    /// What was wrong, for people.
    pub problem: Box<str>,
}

/// The gateway cannot be reached: all function lanes are held and one probe at a time is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDown {
    /// Since when.
    pub since: Timestamp,
    /// The last failure, for people.
    pub last_error: Box<str>,
}

/// How a function's lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// In which queue.
    pub queue: QueueName,
    /// Accepted and not yet delivered: due, in retry, or scheduled for later.
    pub waiting: u64,
    /// Of them, scheduled for later by their callers.
    pub scheduled: u64,
    /// Being delivered.
    pub delivering: u64,
    /// Deliveries at once now, over all queues of the function.
    pub limit: u32,
    /// Held by an operator.
    pub paused: bool,
    /// Why what waits does not run now; `None` when nothing waits or it runs at once.
    pub waiting_reason: Option<WaitingReason>,
}

/// Why calls of a lane wait. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitingReason {
    /// Held by an operator.
    Paused,
    /// The gateway cannot be reached.
    GatewayDown,
    /// The gateway does not know the function.
    FunctionUnknown,
    /// No replica has room.
    NoCapacity,
    /// The function's calls all fail: one probe at a time.
    Failing,
    /// As many deliveries as allowed are under way.
    AtLimit,
    /// Waiting for its next try.
    Retrying,
    /// Scheduled for later.
    Scheduled,
}

impl WaitingReason {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitingReason::Paused => "paused",
            WaitingReason::GatewayDown => "gateway-down",
            WaitingReason::FunctionUnknown => "function-unknown",
            WaitingReason::NoCapacity => "no-capacity",
            WaitingReason::Failing => "failing",
            WaitingReason::AtLimit => "at-limit",
            WaitingReason::Retrying => "retrying",
            WaitingReason::Scheduled => "scheduled",
        }
    }
}

impl Functions {
    /// The last complete list, or the one from disk; empty before either.
    pub fn table(&self) -> Arc<FunctionTable> {
        Arc::default()
    }

    /// Who wants what, of the same moment as [`Functions::table`].
    pub fn triggers(&self) -> Arc<TriggerTable> {
        Arc::default()
    }

    /// What sources should listen for; changes only when it differs.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.demand.clone()
    }

    /// Whether a list was loaded, from disk or from the gateway.
    pub fn loaded(&self) -> bool {
        false
    }

    /// How old the list is; `None` before one was loaded.
    pub fn age(&self) -> Option<Duration> {
        None
    }

    /// What was wrong with the last list asked for; `None` when it was complete.
    pub fn last_problem(&self) -> Option<ListProblem> {
        None
    }

    /// How the function's lanes stand, one for each queue that holds calls of it; at least one.
    pub fn lane_states(&self, _function: &FunctionName) -> Vec<LaneState> {
        Vec::new()
    }

    /// Whether the gateway is held for down.
    pub fn gateway_down(&self) -> Option<GatewayDown> {
        None
    }

    pub(crate) fn thin() -> Self {
        Functions { demand: watch::channel(Demand::default()).1 }
    }
}
