//! A source without the runtime, and a client that publishes.

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

/// Takes everything.
#[derive(Default)]
pub(crate) struct Taken(Mutex<Vec<Event>>);

#[async_trait]
impl EventSink for Taken {
    async fn publish(&self, event: Event) -> Result<Receipt, Refusal> {
        self.0.lock().unwrap().push(event);
        Ok(Receipt::default())
    }

    async fn quarantine(&self, _message: Quarantined) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

/// One run of a source.
pub(crate) struct Rig {
    taken: Arc<Taken>,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
    pub(crate) demand: watch::Sender<Demand>,
}

impl Rig {
    /// Starts it.
    pub(crate) fn start(settings: Value) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let (taken, stop) = (Arc::new(Taken::default()), CancellationToken::new());
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
        eventually(PATIENCE, "the source to be connected", async || {
            let status = rig.status();
            if status.state == SourceState::Connected { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        rig
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let capabilities = Capabilities { shares: true, ..Capabilities::NONE };
        self.board.status(SourceName::parse("bus").unwrap(), "nats", capabilities)
    }

    pub(crate) fn taken(&self) -> Vec<Event> {
        self.taken.0.lock().unwrap().clone()
    }

    /// The topics of what was taken.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.taken().iter().map(|event| event.topic.as_str().to_owned()).collect()
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) -> Vec<Event> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        let taken = self.taken.0.lock().unwrap();
        taken.clone()
    }

    /// The error with which it ends by itself.
    pub(crate) async fn error(self) -> SourceError {
        self.task.await.unwrap().unwrap_err()
    }
}
