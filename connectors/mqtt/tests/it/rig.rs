//! A source without the runtime, and a sink that does as it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors_mqtt::Mqtt;
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, HealthBoard, Lost, NoPositions, Quarantined, Receipt,
    Refusal, SourceContext, SourceError, SourceName, SourceState, SourceStatus,
};
use serde_json::Value;
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Takes everything, once it is open, but what it is told to find too large.
pub(crate) struct Sink {
    pub(crate) open: watch::Sender<bool>,
    pub(crate) limit: usize,
    taken: Mutex<Vec<Event>>,
    quarantined: Mutex<Vec<Quarantined>>,
    lost: Mutex<Vec<Lost>>,
    /// How many it was offered.
    pub(crate) offered: watch::Sender<usize>,
}

impl Sink {
    async fn opened(&self) {
        self.offered.send_modify(|offered| *offered += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

#[async_trait]
impl EventSink for Sink {
    async fn publish(&self, event: Event) -> Result<Receipt, Refusal> {
        self.opened().await;
        if event.body.len() > self.limit {
            return Err(Refusal::TooLarge { bytes: event.body.len() as u64, limit: self.limit as u64 });
        }
        self.taken.lock().unwrap().push(event);
        Ok(Receipt::default())
    }

    async fn quarantine(&self, message: Quarantined) -> Result<Receipt, Refusal> {
        self.quarantined.lock().unwrap().push(message);
        Ok(Receipt::default())
    }

    async fn lost(&self, range: Lost) -> Result<Receipt, Refusal> {
        self.lost.lock().unwrap().push(range);
        Ok(Receipt::default())
    }
}

/// One run of a source.
pub(crate) struct Rig {
    pub(crate) sink: Arc<Sink>,
    board: HealthBoard,
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), SourceError>>,
}

impl Rig {
    /// Starts it.
    pub(crate) fn start(settings: Value) -> Rig {
        Rig::limited(settings, usize::MAX)
    }

    /// Starts it with a sink that finds larger bodies too large.
    pub(crate) fn limited(settings: Value, limit: usize) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let sink = Arc::new(Sink {
            open: watch::channel(true).0,
            limit,
            taken: Mutex::default(),
            quarantined: Mutex::default(),
            lost: Mutex::default(),
            offered: watch::channel(0).0,
        });
        let stop = CancellationToken::new();
        let source = Mqtt.build(&SourceName::parse("things").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: sink.clone(),
            demand: watch::channel(Demand::default()).1,
            positions: Arc::new(NoPositions),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(source.run(ctx)));
        Rig { sink, board, stop, task }
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
        self.board.status(SourceName::parse("things").unwrap(), "mqtt", Capabilities::NONE)
    }

    /// The last error it told of.
    pub(crate) fn complaint(&self) -> String {
        self.status().last_error.map(|(_, error)| error).unwrap_or_default()
    }

    /// Waits until it complains with this text.
    pub(crate) async fn complains(&self, text: &str) {
        eventually(PATIENCE, &format!("a complaint with {text:?}"), async || {
            let complaint = self.complaint();
            if complaint.contains(text) { Ok(()) } else { Err(complaint) }
        })
        .await;
    }

    /// Waits until the source is without a connection, or has been since `gaps` were counted.
    pub(crate) async fn lost_connection_after(&self, gaps: usize) {
        eventually(PATIENCE, "the connection to be lost", async || self.status().disconnected.len() > gaps)
            .await;
    }

    pub(crate) fn taken(&self) -> Vec<Event> {
        self.sink.taken.lock().unwrap().clone()
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.sink.quarantined.lock().unwrap().clone()
    }

    pub(crate) fn lost(&self) -> Vec<Lost> {
        self.sink.lost.lock().unwrap().clone()
    }

    /// The bodies of what was taken, in the order in which they came.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.taken().iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect()
    }

    /// Waits until something of this body was taken.
    pub(crate) async fn has_taken(&self, body: &str) {
        eventually(PATIENCE, &format!("{body:?} to be taken"), async || {
            let bodies = self.bodies();
            if bodies.iter().any(|taken| taken == body) {
                Ok(())
            } else {
                Err(format!("{bodies:?} {:?}", self.status()))
            }
        })
        .await;
    }

    /// Waits until it was offered so many messages.
    pub(crate) async fn is_offered(&self, messages: usize) {
        eventually(PATIENCE, "offers", async || {
            let offered = *self.sink.offered.borrow();
            if offered >= messages { Ok(()) } else { Err(format!("{offered} of {messages}")) }
        })
        .await;
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) -> Arc<Sink> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
        self.sink
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) async fn cut_off(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The error with which it ends by itself.
    pub(crate) async fn error(self) -> SourceError {
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}
