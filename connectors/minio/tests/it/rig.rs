//! A source without the runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors_minio::Minio;
use connectors_sdk::{
    Connector, Demand, Event, EventSink, HealthBoard, Lost, Positions, Quarantined, Receipt, Refusal,
    SourceContext, SourceError, SourceName, SourceState, SourceStatus,
};
use serde_json::Value;
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Takes everything once, as a data directory does.
#[derive(Default)]
pub(crate) struct Taken {
    events: Mutex<Vec<Event>>,
    quarantined: Mutex<Vec<Quarantined>>,
    pub(crate) refusing: AtomicBool,
}

#[async_trait]
impl EventSink for Taken {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        if self.refusing.load(Ordering::Relaxed) {
            return Err(Refusal::NoFunctionList);
        }
        let mut events = self.events.lock().unwrap();
        let duplicate = event.dedup.is_some() && events.iter().any(|other| other.dedup == event.dedup);
        if !duplicate {
            events.push(event.clone());
        }
        Ok(Receipt { duplicate, ..Receipt::default() })
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        self.quarantined.lock().unwrap().push(message.clone());
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: &Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

/// What outlives a source: the data directory.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) taken: Arc<Taken>,
    positions: Arc<dyn Positions>,
    clock: Arc<TestClock>,
}

impl Data {
    pub(crate) fn new() -> Data {
        let clock = TestClock::start();
        let positions = Arc::new(ReferenceStore::new(Bounds::default(), clock.clone()));
        Data { taken: Arc::default(), positions, clock }
    }

    /// The keys of what was taken, each behind a `+` when it was found by listing, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let events = self.taken.events.lock().unwrap();
        let mut keys: Vec<String> = events
            .iter()
            .map(|event| {
                let found = if event.headers.get("x-s3-reconciled").is_some() { "+" } else { "" };
                format!("{found}{}", event.headers.text("x-s3-key").unwrap())
            })
            .collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.taken.events.lock().unwrap().clone()
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.taken.quarantined.lock().unwrap().clone()
    }

    pub(crate) async fn has(&self, keys: &[&str]) {
        eventually(PATIENCE, "the events", async || {
            let found = self.keys();
            if found == keys { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The watermark of a bucket.
    pub(crate) fn watermark(&self, bucket: &str) -> Option<u64> {
        let marks = self.positions.marks(None);
        marks.iter().find(|mark| mark.partition.stream() == bucket)?.committed
    }
}

/// One run of a source.
pub(crate) struct Rig {
    /// What functions ask for: nothing at first.
    pub(crate) demand: watch::Sender<Demand>,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
}

impl Rig {
    pub(crate) fn start(settings: Value, data: &Data) -> Rig {
        let board = HealthBoard::new(data.clock.clone());
        board.enter(SourceState::Connecting);
        let stop = CancellationToken::new();
        let demand = watch::channel(Demand::default()).0;
        let source = Minio.build(&SourceName::parse("files").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: data.taken.clone(),
            demand: demand.subscribe(),
            positions: data.positions.clone(),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock: data.clock.clone(),
        };
        Rig { demand, board, stop, task: tokio::spawn(source.run(ctx)) }
    }

    pub(crate) async fn connected(settings: Value, data: &Data) -> Rig {
        let rig = Rig::start(settings, data);
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
        let source = SourceName::parse("files").unwrap();
        self.board.status(source, "minio", connectors_sdk::Capabilities::NONE)
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(mut self) -> SourceStatus {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
        self.status()
    }
}
