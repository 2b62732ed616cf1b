//! A source without the runtime, and the servers of these tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors_rabbitmq::Rabbitmq;
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, HealthBoard, Lost, NoPositions, Quarantined, Receipt,
    Refusal, SourceContext, SourceError, SourceName, SourceState, SourceStatus, Topic, TopicPattern,
};
use serde_json::Value;
use testkit::servers::rabbitmq::{RabbitMqSecure, RabbitMqUser};
use testkit::servers::{Certificates, RabbitMq, RabbitMqConfig, Shared};
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A virtual host beside the default one.
pub(crate) const ELSEWHERE: &str = "sales/eu";

/// Whoever may only read, in the default virtual host.
pub(crate) const READER: &str = "reader";

/// The certificates of the shared server.
pub(crate) static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::new);

static SHARED: Shared<RabbitMqConfig> = Shared::new();

/// The server of all tests that neither restart nor trouble it. Queues are their own.
pub(crate) async fn shared() -> &'static RabbitMq {
    SHARED
        .server_with(|| RabbitMqConfig {
            secure: Some(RabbitMqSecure { client_certificates: true, ..RabbitMqSecure::with(&CERTIFICATES) }),
            virtual_hosts: vec![ELSEWHERE.to_owned()],
            users: vec![RabbitMqUser {
                name: READER.to_owned(),
                password: "r:/@".to_owned(),
                configure: String::new(),
                write: String::new(),
                read: ".*".to_owned(),
            }],
            ..RabbitMqConfig::default()
        })
        .await
}

/// A name that no other test has.
pub(crate) fn fresh(name: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Takes what it is offered, unless told otherwise.
#[derive(Default)]
pub(crate) struct Desk {
    seen: Mutex<Seen>,
    /// While set, nobody is answered.
    closed: watch::Sender<bool>,
    /// While set, everything is refused.
    refusing: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    accepted: Vec<Event>,
    quarantined: Vec<Quarantined>,
    offered: usize,
    inside: usize,
    /// Bodies larger than this are refused for ever.
    limit: Option<usize>,
}

/// One offer that waits for its answer; leaves also when it is dropped.
struct Inside<'a>(&'a Desk);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().inside -= 1;
    }
}

impl Desk {
    async fn enter(&self) -> Inside<'_> {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.offered += 1;
            seen.inside += 1;
        }
        let inside = Inside(self);
        // The sender lives as long as the desk.
        let _ = self.closed.subscribe().wait_for(|closed| !closed).await;
        inside
    }
}

#[async_trait]
impl EventSink for Desk {
    async fn publish(&self, event: Event) -> Result<Receipt, Refusal> {
        let _inside = self.enter().await;
        if *self.refusing.borrow() {
            return Err(Refusal::NoFunctionList);
        }
        let mut seen = self.seen.lock().unwrap();
        let bytes = event.body.len();
        if let Some(limit) = seen.limit.filter(|limit| bytes > *limit) {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        seen.accepted.push(event);
        Ok(Receipt::default())
    }

    async fn quarantine(&self, message: Quarantined) -> Result<Receipt, Refusal> {
        let _inside = self.enter().await;
        self.seen.lock().unwrap().quarantined.push(message);
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

/// One run of a source.
pub(crate) struct Rig {
    desk: Arc<Desk>,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
    demand: watch::Sender<Demand>,
}

impl Rig {
    /// Starts it.
    pub(crate) fn start(settings: Value) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let (desk, stop) = (Arc::new(Desk::default()), CancellationToken::new());
        let demand = watch::channel(Demand::default()).0;
        let source = Rabbitmq.build(&SourceName::parse("tasks").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: desk.clone(),
            demand: demand.subscribe(),
            positions: Arc::new(NoPositions),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock,
        };
        let task = tokio::spawn(source.run(ctx));
        Rig { desk, board, stop, task, demand }
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

    /// Functions now want exactly these topics.
    pub(crate) fn functions_want(&self, topics: &[&str]) {
        let exact = |topic: &&str| TopicPattern::exact(&Topic::parse(topic).unwrap());
        let patterns = topics.iter().map(|topic| (exact(topic), std::collections::BTreeSet::new()));
        self.demand.send_replace(Demand { patterns: patterns.collect() });
    }

    /// While closed, nobody is answered.
    pub(crate) fn close_desk(&self, closed: bool) {
        self.desk.closed.send_replace(closed);
    }

    /// While refusing, nothing is taken.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.desk.refusing.send_replace(refusing);
    }

    /// Refuses larger bodies for ever.
    pub(crate) fn limit(&self, bytes: usize) {
        self.desk.seen.lock().unwrap().limit = Some(bytes);
    }

    pub(crate) fn status(&self) -> SourceStatus {
        self.board.status(SourceName::parse("tasks").unwrap(), "rabbitmq", Capabilities::NONE)
    }

    /// The last thing that went wrong.
    pub(crate) fn last_error(&self) -> String {
        self.status().last_error.map_or_else(String::new, |(_, what)| what)
    }

    /// The metrics of the connector's own, by name and queue.
    pub(crate) fn metrics(&self) -> BTreeMap<(&'static str, String), i64> {
        let series = self.board.series();
        series.iter().map(|(of, labels, value)| ((of.name, labels.concat()), value)).collect()
    }

    pub(crate) fn accepted(&self) -> Vec<Event> {
        self.desk.seen.lock().unwrap().accepted.clone()
    }

    /// How often each body was accepted.
    pub(crate) fn bodies(&self) -> BTreeMap<String, usize> {
        let mut bodies = BTreeMap::new();
        for event in &self.desk.seen.lock().unwrap().accepted {
            *bodies.entry(String::from_utf8_lossy(&event.body).into_owned()).or_default() += 1;
        }
        bodies
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.desk.seen.lock().unwrap().quarantined.clone()
    }

    /// How often anything was offered.
    pub(crate) fn offered(&self) -> usize {
        self.desk.seen.lock().unwrap().offered
    }

    /// Waits until so many messages were accepted.
    pub(crate) async fn has(&self, count: usize) {
        eventually(PATIENCE, "the messages", async || {
            let accepted = self.desk.seen.lock().unwrap().accepted.len();
            if accepted >= count {
                Ok(())
            } else {
                Err(format!("{accepted} of {count}; {:?}", self.status()))
            }
        })
        .await;
    }

    /// Waits until so many messages wait for an answer.
    pub(crate) async fn holds(&self, count: usize) {
        eventually(PATIENCE, "messages on their way", async || {
            let inside = self.desk.seen.lock().unwrap().inside;
            if inside == count { Ok(()) } else { Err(format!("{inside} instead of {count}")) }
        })
        .await;
    }

    /// Waits until the last error holds this.
    pub(crate) async fn says(&self, word: &str) {
        eventually(PATIENCE, &format!("{word:?} to be said"), async || {
            let said = self.last_error();
            if said.contains(word) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) -> Vec<Event> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.desk.seen.lock().unwrap().accepted.clone()
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
