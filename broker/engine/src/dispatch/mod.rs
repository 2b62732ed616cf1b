//! From the queue to the function and back: what runs when, and what follows.
//!
//! * [`dispatcher`]: one task that owns the lanes, leases for those with room, and starts deliveries;
//! * [`deliver`]: one delivery, from its lease to its settlement;
//! * [`settlement`]: what a final outcome causes, callbacks and copies of dead letters;
//! * [`board`]: what both sides know of one function.

mod board;
mod deliver;
mod dispatcher;
mod settlement;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use broker_model::function::Concurrency;
use broker_model::limit::{ConcurrencyLimit, Round, Signal};
use broker_model::{BodyReader, Clock, FunctionName, InvocationId, InvocationQueue, Lease};

use crate::budget::Budget;
use crate::engine::Drained;
use crate::functions;
use crate::gateway::Gateway;
use crate::gateway::callbacks::Callbacks;
use crate::metrics::Metrics;
use crate::settings::EngineSettings;
use crate::waiting::Waiting;

pub(crate) use board::Board;
pub(crate) use dispatcher::Dispatcher;

/// What a reload replaces.
pub(crate) struct Live {
    pub(crate) settings: EngineSettings,
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) callbacks: Arc<Callbacks>,
}

/// What the dispatcher and all deliveries work with.
pub(crate) struct Shared {
    pub(crate) queue: Arc<dyn InvocationQueue>,
    pub(crate) bodies: Arc<dyn BodyReader>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Arc<ArcSwap<Live>>,
    pub(crate) functions: Arc<functions::State>,
    pub(crate) budget: Budget,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) tasks: TaskTracker,
}

/// What reaches the dispatcher. Bounded by what is in flight: one report for each delivery, one for each command awaited.
pub(crate) enum Message {
    /// A delivery has ended its exchange; its slot is free.
    Finished(Finished),
    /// The gateway was tried while it was held for down.
    Probed(Result<(), Box<str>>),
    /// A function was paused.
    Paused(FunctionName),
    /// A function may run again.
    Resumed(FunctionName),
    /// A call was cancelled: its delivery is to stop.
    Stop(InvocationId),
    /// Nothing more is leased; what runs has this long.
    Drain(Duration, oneshot::Sender<Drained>),
}

/// What a delivery tells when it gives its slot back.
pub(crate) struct Finished {
    target: usize,
    id: InvocationId,
    round: Round,
    report: Report,
}

/// How an exchange went, as far as the dispatcher needs to know.
#[derive(Default)]
pub(crate) struct Report {
    /// What it says about room; `None` without an exchange.
    signal: Option<Signal>,
    /// For counted attempts: whether it failed.
    failed: Option<bool>,
    /// Whether the gateway was reached; `None` when nothing can be said.
    reached: Option<Result<(), Box<str>>>,
    /// No replica had room: how long its policy waits.
    no_capacity: Option<Duration>,
    /// The gateway does not know the function: how long its policy waits.
    unknown: Option<Duration>,
    /// We had no file or port left.
    out_of_resources: Option<Box<str>>,
    /// The delivery met a bug; its lease is given back from here.
    panicked: Option<Lease>,
}

/// A delivery's place among those that run. Given back when the exchange ends, at the latest when the delivery does.
pub(crate) struct Slot {
    messages: mpsc::UnboundedSender<Message>,
    target: usize,
    id: InvocationId,
    round: Round,
    lease: Lease,
    given_back: bool,
}

impl Slot {
    fn give_back(&mut self, report: Report) {
        if !self.given_back {
            self.given_back = true;
            let finished = Finished { target: self.target, id: self.id, round: self.round, report };
            // A dispatcher that is gone needs no slots.
            let _ = self.messages.send(Message::Finished(finished));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let panicked = std::thread::panicking().then_some(self.lease);
        self.give_back(Report { panicked, ..Report::default() });
    }
}

/// The limit a function has before its first delivery.
pub(crate) fn first_limit(concurrency: Concurrency) -> u32 {
    ConcurrencyLimit::new(concurrency, Duration::ZERO).limit()
}
