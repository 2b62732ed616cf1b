//! A source without the runtime, with a store of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use broker_model::position::MarkStatus;
use connectors_kafka::Kafka;
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, FunctionName, HealthBoard, InvocationId, Lost,
    Partition, Positions, Quarantined, Receipt, Refusal, Resume, SourceContext, SourceError, SourceName,
    SourceState, SourceStatus, StoreError, Upstream,
};
use serde_json::Value;
use testkit::marks::MarksInMemory;
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::PATIENCE;

/// What a data directory holds: the marks, and what was accepted. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) marks: MarksInMemory,
    seen: Arc<Mutex<Seen>>,
    /// While set, nothing is taken.
    closed: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Seen {
    accepted: Vec<Event>,
    quarantined: Vec<Quarantined>,
    lost: Vec<Lost>,
    offered: usize,
    /// Bodies larger than this are refused for ever.
    limit: Option<usize>,
    /// While set, no partition is taken up.
    stubborn: bool,
    /// The errors with which its sources ended: nobody starts them again here.
    ended: Vec<String>,
}

impl Store {
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(crate) fn open(&self) {
        self.closed.send_replace(false);
    }

    pub(crate) fn limit(&self, bytes: usize) {
        self.seen.lock().unwrap().limit = Some(bytes);
    }

    /// Whether it takes up partitions.
    pub(crate) fn takes_up(&self, it_does: bool) {
        self.seen.lock().unwrap().stubborn = !it_does;
    }

    pub(crate) fn accepted(&self) -> Vec<Event> {
        self.seen.lock().unwrap().accepted.clone()
    }

    /// How often each body was accepted.
    pub(crate) fn bodies(&self) -> BTreeMap<String, usize> {
        let mut bodies = BTreeMap::new();
        for event in &self.seen.lock().unwrap().accepted {
            *bodies.entry(String::from_utf8_lossy(&event.body).into_owned()).or_default() += 1;
        }
        bodies
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.seen.lock().unwrap().quarantined.clone()
    }

    pub(crate) fn lost(&self) -> Vec<Lost> {
        self.seen.lock().unwrap().lost.clone()
    }

    /// How often anything was offered.
    pub(crate) fn offered(&self) -> usize {
        self.seen.lock().unwrap().offered
    }

    /// Waits until so many events were accepted.
    pub(crate) async fn has(&self, count: usize) {
        eventually(PATIENCE, "the records", async || {
            let seen = self.seen.lock().unwrap();
            let (accepted, ended) = (seen.accepted.len(), &seen.ended);
            if accepted >= count {
                return Ok(());
            }
            Err(format!("{accepted} of {count} were accepted; sources ended with {ended:?}"))
        })
        .await;
    }

    async fn is_open(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives as long as the store.
        let _ = closed.wait_for(|closed| !closed).await;
    }
}

#[async_trait]
impl EventSink for Store {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        self.seen.lock().unwrap().offered += 1;
        self.is_open().await;
        let mut seen = self.seen.lock().unwrap();
        let bytes = event.body.len();
        if let Some(limit) = seen.limit.filter(|limit| bytes > *limit) {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        let new = event.position.as_ref().is_some_and(|position| self.marks.take(position));
        let mut invocations = Vec::new();
        if new {
            let id = InvocationId::from_u128(seen.accepted.len() as u128);
            invocations.push((FunctionName::parse("f", "fn").unwrap(), id));
            seen.accepted.push(event.clone());
        }
        Ok(Receipt { invocations, duplicate: !new })
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        self.is_open().await;
        self.seen.lock().unwrap().quarantined.push(message.clone());
        Ok(Receipt::default())
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        self.is_open().await;
        self.seen.lock().unwrap().lost.push(range.clone());
        Ok(Receipt::default())
    }
}

#[async_trait]
impl Positions for Store {
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        if self.seen.lock().unwrap().stubborn {
            return Err(StoreError::TooMany { what: "marks of partitions", most: 7 });
        }
        self.marks.take_up(partition, upstream).await
    }

    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError> {
        self.marks.committed(partition, next).await
    }

    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError> {
        self.marks.reset_positions(source).await
    }

    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus> {
        Positions::marks(&self.marks, source)
    }
}

/// One run of a source.
pub(crate) struct Rig {
    pub(crate) store: Store,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
    pub(crate) demand: watch::Sender<Demand>,
}

impl Rig {
    /// Starts it on a store.
    pub(crate) fn start(settings: Value, store: &Store) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let stop = CancellationToken::new();
        let demand = watch::channel(Demand::default()).0;
        let source = Kafka.build(&SourceName::parse("events").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: Arc::new(store.clone()),
            demand: demand.subscribe(),
            positions: Arc::new(store.clone()),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock,
        };
        let run = source.run(ctx);
        let seen = store.seen.clone();
        let task = tokio::spawn(async move {
            let result = run.await;
            if let Err(error) = &result {
                seen.lock().unwrap().ended.push(format!("{error:?}"));
            }
            result
        });
        Rig { store: store.clone(), board, stop, task, demand }
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let name = SourceName::parse("events").unwrap();
        self.board.status(name, "kafka", Capabilities::NONE)
    }

    /// The value of a metric of the connector's own, over all its labels.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        self.board.series().iter().filter(|(of, ..)| of.name == name).map(|(.., value)| value).sum()
    }

    /// Waits until it is connected.
    pub(crate) async fn connected(&self) {
        eventually(PATIENCE, "the source to be connected", async || {
            let status = self.status();
            if status.state == SourceState::Connected { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
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
