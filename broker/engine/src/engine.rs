//! The engine whole: started, reached through handles, drained.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use broker_model::{BodyReader, Clock, InvocationQueue, Ledger};

use crate::budget::Budget;
use crate::control::Control;
use crate::dispatch::{Dispatcher, Live, Message, Shared};
use crate::functions::watcher::{Known, Watcher};
use crate::functions::{self, Functions};
use crate::gateway::callbacks::Callbacks;
use crate::gateway::{Gateway, HttpGateway};
use crate::intake::{self, Intake};
use crate::metrics::Metrics;
use crate::settings::EngineSettings;
use crate::waiting::Waiting;

/// What the engine is made of.
pub struct Parts {
    /// The durable queue.
    pub queue: Arc<dyn InvocationQueue>,
    /// What can be asked of it.
    pub ledger: Arc<dyn Ledger>,
    /// Its bodies.
    pub bodies: Arc<dyn BodyReader>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What it is told.
    pub settings: EngineSettings,
    /// Where the last complete function list is kept; `None` keeps none.
    pub table_file: Option<PathBuf>,
    /// Another gateway than the one of the settings: simulations bring their own.
    pub gateway: Option<Arc<dyn Gateway>>,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The certificates of a `ca_file` cannot be used.
    #[error("cannot use the certificates in {path:?} ({key})")]
    Certificates {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An HTTP client cannot be made.
    #[error("cannot make an http client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a drain went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Deliveries that finished within the grace.
    pub finished: usize,
    /// Deliveries that were given back to the queue.
    pub released: usize,
}

/// The running engine. Dropped without [`Engine::drain`] it stops at once, as a crash would.
pub struct Engine {
    shared: Arc<Shared>,
    intake: Intake,
    control: Control,
    budget: Budget,
    functions: Functions,
    metrics: Arc<Metrics>,
    messages: mpsc::UnboundedSender<Message>,
    sooner: Arc<Notify>,
    own_gateway: bool,
    connections: TaskTracker,
    stop_watching: CancellationToken,
    background: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the function watcher and the dispatcher. Neither the gateway nor anything else need be up.
    ///
    /// # Errors
    /// [`EngineError`] when a client cannot be made from the settings.
    pub async fn start(parts: Parts) -> Result<Engine, EngineError> {
        let Parts { queue, ledger, bodies, clock, settings, table_file, gateway } = parts;
        let connections = TaskTracker::new();
        let own_gateway = gateway.is_some();
        let gateway = match gateway {
            Some(gateway) => gateway,
            None => Arc::new(HttpGateway::new(&settings.gateway, connections.clone())?),
        };
        let callbacks = Arc::new(Callbacks::new(&settings.callbacks, connections.clone())?);
        let budget = Budget::new(settings.in_flight);
        let state =
            Arc::new(functions::State::new(clock.clone(), ledger.clone(), queue.clone(), &settings.delivery));
        let functions = Functions::new(state.clone());
        let metrics = Arc::new(Metrics::new(
            ledger.clone(),
            queue.clone(),
            functions.clone(),
            budget.clone(),
            settings.metric_functions,
        ));
        let live = Arc::new(ArcSwap::from_pointee(Live { settings, gateway, callbacks }));
        let waiting = Arc::new(Waiting::default());
        let shared = Arc::new(Shared {
            queue: queue.clone(),
            bodies: bodies.clone(),
            clock: clock.clone(),
            live: live.clone(),
            functions: state.clone(),
            budget: budget.clone(),
            metrics: metrics.clone(),
            waiting: waiting.clone(),
            tasks: TaskTracker::new(),
        });
        let sooner = Arc::new(Notify::new());
        let stop_watching = CancellationToken::new();
        let watcher = Watcher {
            state: state.clone(),
            live: live.clone(),
            clock: clock.clone(),
            file: table_file,
            sooner: sooner.clone(),
        };
        let mut known = Known::default();
        watcher.load(&mut known);
        let (messages, inbox) = mpsc::unbounded_channel();
        let dispatcher = Dispatcher::new(shared.clone(), inbox, messages.clone());
        let watching = watcher.run(known, stop_watching.clone());
        let background = vec![
            tokio::spawn(kept(watching, NOT_WATCHING, state.clone(), stop_watching.clone())),
            tokio::spawn(kept(dispatcher.run(), NOT_DELIVERING, state.clone(), stop_watching.clone())),
        ];
        let intake = Intake::new(intake::Parts {
            queue: queue.clone(),
            ledger: ledger.clone(),
            bodies,
            clock,
            live,
            functions: state,
            metrics: metrics.clone(),
            waiting: waiting.clone(),
            draining: false.into(),
        });
        let control = Control { queue, ledger, waiting, dispatcher: messages.clone() };
        Ok(Engine {
            shared,
            intake,
            control,
            budget,
            functions,
            metrics,
            messages,
            sooner,
            own_gateway,
            connections,
            stop_watching,
            background,
        })
    }

    /// The two doors.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// The operator's side.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The read view of functions and lanes.
    pub fn functions(&self) -> Functions {
        self.functions.clone()
    }

    /// The byte budget.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// What is counted.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Uses other settings from now on; deliveries under way finish under the old ones. The function list is asked for
    /// at once. `in_flight` and `metric_functions` stay as they were at the start.
    ///
    /// # Errors
    /// [`EngineError`] when a client cannot be made from them; everything stays as it was.
    pub fn reload(&self, settings: EngineSettings) -> Result<(), EngineError> {
        let before = self.shared.live.load();
        let gateway = if self.own_gateway {
            before.gateway.clone()
        } else {
            Arc::new(HttpGateway::new(&settings.gateway, self.connections.clone())?)
        };
        let callbacks = Arc::new(Callbacks::new(&settings.callbacks, self.connections.clone())?);
        let delivery = settings.delivery.clone();
        self.shared.live.store(Arc::new(Live { settings, gateway, callbacks }));
        self.shared.functions.defaults_changed(&delivery);
        self.sooner.notify_one();
        Ok(())
    }

    /// Takes and leases nothing more, lets deliveries finish within `grace`, gives the rest back uncounted.
    ///
    /// Returns when nothing is being delivered or settled any more; the store may then be closed.
    pub async fn drain(mut self, grace: Duration) -> Drained {
        self.intake.begin_draining();
        self.stop_watching.cancel();
        let (told, drained) = oneshot::channel();
        let _ = self.messages.send(Message::Drain(grace, told));
        let drained = drained.await.unwrap_or_default();
        for part in self.background.drain(..) {
            // One that a bug ended has said so then.
            let _ = part.await;
        }
        self.shared.tasks.close();
        if tokio::time::timeout(SETTLING, self.shared.tasks.wait()).await.is_err() {
            tracing::error!(left = self.shared.tasks.len(), "settlements did not end in time");
        }
        drained
    }
}

const NOT_DELIVERING: &str = "the dispatcher has ended, nothing is delivered";
const NOT_WATCHING: &str = "the function watcher has ended, changes of functions are not seen";

/// Runs a part the engine cannot do without. When it ends before the engine is drained, by a bug, the process would go on
/// taking work that nobody delivers: so it is said once, and `/healthz` fails until a supervisor restarts us.
async fn kept(
    part: impl Future<Output = ()>,
    consequence: &'static str,
    state: Arc<functions::State>,
    stopping: CancellationToken,
) {
    let ended = AssertUnwindSafe(part).catch_unwind().await;
    let bug = match &ended {
        Ok(()) if stopping.is_cancelled() => return,
        Ok(()) => "it returned",
        Err(panic) => message(&**panic),
    };
    state.set_broken(consequence);
    tracing::error!(
        bug,
        "{consequence}: restart, what was accepted is kept and goes on then; please report this as a bug"
    );
}

/// What a panic said, where it said something.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked")
}

/// How long settlements under way may take after the last delivery has ended.
const SETTLING: Duration = Duration::from_secs(10);

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_watching.cancel();
        for part in &self.background {
            part.abort();
        }
    }
}
