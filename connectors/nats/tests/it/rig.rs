//! A source without the runtime, and a client that publishes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors_nats::Nats;
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, HealthBoard, Lost, NoPositions, Quarantined, Receipt,
    Refusal, SourceContext, SourceError, SourceName, SourceState, SourceStatus,
};
use serde_json::Value;
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client that publishes, and goes on over any outage.
pub(crate) async fn publisher(url: String) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().name("publisher").reconnect_delay_callback(|_| {
        // Tests wait for it.
        Duration::from_millis(10)
    });
    options.connect(url).await.unwrap()
}

/// Takes everything once, as a data directory does.
#[derive(Default)]
pub(crate) struct Taken {
    events: Mutex<Vec<Event>>,
    quarantined: Mutex<Vec<Quarantined>>,
    /// While set, nobody is answered.
    hanging: watch::Sender<bool>,
    /// Bodies larger than this are refused for ever.
    limit: Mutex<Option<usize>>,
    /// Everything is refused for now.
    refusing: AtomicBool,
}

impl Taken {
    async fn answers(&self) {
        // The sender lives as long as the sink.
        let _ = self.hanging.subscribe().wait_for(|hanging| !hanging).await;
    }
}

#[async_trait]
impl EventSink for Taken {
    async fn publish(&self, event: Event) -> Result<Receipt, Refusal> {
        self.answers().await;
        if self.refusing.load(Ordering::Relaxed) {
            return Err(Refusal::NoFunctionList);
        }
        let bytes = event.body.len();
        if let Some(limit) = self.limit.lock().unwrap().filter(|limit| bytes > *limit) {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        let mut events = self.events.lock().unwrap();
        let known = event.dedup.is_some() && events.iter().any(|other| other.dedup == event.dedup);
        if !known {
            events.push(event);
        }
        Ok(Receipt { duplicate: known, ..Receipt::default() })
    }

    async fn quarantine(&self, message: Quarantined) -> Result<Receipt, Refusal> {
        self.answers().await;
        self.quarantined.lock().unwrap().push(message);
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

/// One run of a source.
pub(crate) struct Rig {
    pub(crate) taken: Arc<Taken>,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
    pub(crate) demand: watch::Sender<Demand>,
}

impl Rig {
    /// Starts it.
    pub(crate) fn start(settings: Value) -> Rig {
        Rig::on(settings, Arc::default())
    }

    /// Starts it with what another run has taken.
    pub(crate) fn on(settings: Value, taken: Arc<Taken>) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let stop = CancellationToken::new();
        let demand = watch::channel(Demand::default()).0;
        let source = Nats.build(&SourceName::parse("bus").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: taken.clone(),
            demand: demand.subscribe(),
            positions: Arc::new(NoPositions),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock,
        };
        let task = tokio::spawn(source.run(ctx));
        Rig { taken, board, stop, task, demand }
    }

    /// Starts it, and waits until it is connected.
    pub(crate) async fn connected(settings: Value) -> Rig {
        let rig = Rig::start(settings);
        rig.is_connected().await;
        rig
    }

    pub(crate) async fn is_connected(&self) {
        eventually(PATIENCE, "the source to be connected", async || {
            let status = self.status();
            if status.state == SourceState::Connected { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let capabilities = Capabilities { shares: true, ..Capabilities::NONE };
        self.board.status(SourceName::parse("bus").unwrap(), "nats", capabilities)
    }

    pub(crate) fn taken(&self) -> Vec<Event> {
        self.taken.events.lock().unwrap().clone()
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.taken.quarantined.lock().unwrap().clone()
    }

    /// Answers nobody from now on, or everybody again.
    pub(crate) fn hang(&self, hanging: bool) {
        self.taken.hanging.send_replace(hanging);
    }

    /// Refuses everything from now on.
    pub(crate) fn refuse(&self) {
        self.taken.refusing.store(true, Ordering::Relaxed);
    }

    /// Refuses larger bodies for ever.
    pub(crate) fn limit(&self, bytes: usize) {
        *self.taken.limit.lock().unwrap() = Some(bytes);
    }

    /// Waits until these bodies, in any order, are what was taken.
    pub(crate) async fn has_taken(&self, bodies: &[&str]) {
        let mut wanted = bodies.to_vec();
        wanted.sort_unstable();
        eventually(PATIENCE, "the messages", async || {
            let taken = self.taken();
            let mut found: Vec<_> = taken.iter().map(|event| String::from_utf8_lossy(&event.body)).collect();
            found.sort_unstable();
            if found == wanted { Ok(()) } else { Err(format!("{found:?}, {:?}", self.status())) }
        })
        .await;
    }

    /// The topics of what was taken.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.taken().iter().map(|event| event.topic.as_str().to_owned()).collect()
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) -> Vec<Event> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        let taken = self.taken.events.lock().unwrap();
        taken.clone()
    }

    /// Cuts it off in the middle.
    pub(crate) async fn cut_off(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The error with which it ends by itself.
    pub(crate) async fn error(self) -> SourceError {
        self.task.await.unwrap().unwrap_err()
    }
}
