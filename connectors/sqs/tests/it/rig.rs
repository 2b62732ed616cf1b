//! A source without the runtime, and a broker that takes what it is told to take.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, HealthBoard, Lost, NoPositions, Quarantined, Receipt,
    Refusal, SourceContext, SourceError, SourceName, SourceState, SourceStatus, Topic, TopicPattern,
};
use connectors_sqs::Sqs;
use serde_json::{Value, json};
use testkit::servers::elasticmq::REGION;
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::queues::PATIENCE;

/// Settings for a server there, and more of them.
pub(crate) fn settings(endpoint: &str, more: &Value) -> Value {
    let mut settings = json!({"endpoint": endpoint, "region": REGION});
    for (key, value) in more.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

/// The broker, and what it saw.
pub(crate) struct Broker {
    seen: Mutex<Seen>,
    /// While set, nobody is answered.
    hangs: watch::Sender<bool>,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// In the order in which they were taken.
    pub(crate) accepted: Vec<Event>,
    pub(crate) quarantined: Vec<Quarantined>,
    /// How often each body was offered.
    pub(crate) offers: HashMap<String, usize>,
    /// How often each body is still to be refused.
    refusals: HashMap<String, usize>,
    /// Bodies larger than this are refused for ever.
    limit: Option<usize>,
}

impl Broker {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub(crate) fn refuse(&self, body: &str, times: usize) {
        self.seen().refusals.insert(body.to_owned(), times);
    }

    pub(crate) fn limit(&self, bytes: usize) {
        self.seen().limit = Some(bytes);
    }

    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// The bodies in the order in which they were taken.
    pub(crate) fn bodies(&self) -> Vec<String> {
        let seen = self.seen();
        seen.accepted.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
    }

    pub(crate) async fn has(&self, messages: usize) {
        eventually(PATIENCE, "messages to be taken", async || {
            let taken = self.seen().accepted.len();
            if taken >= messages { Ok(()) } else { Err(format!("{taken} of {messages}")) }
        })
        .await;
    }

    pub(crate) async fn is_offered(&self, body: &str, times: usize) {
        eventually(PATIENCE, "a message to be offered", async || {
            let offers = self.seen().offers.get(body).copied().unwrap_or(0);
            if offers >= times { Ok(()) } else { Err(format!("offered {offers} times of {times}")) }
        })
        .await;
    }
}

#[async_trait]
impl EventSink for Broker {
    async fn publish(&self, event: Event) -> Result<Receipt, Refusal> {
        let body = String::from_utf8_lossy(&event.body).into_owned();
        *self.seen().offers.entry(body.clone()).or_default() += 1;
        let mut hangs = self.hangs.subscribe();
        hangs.wait_for(|hangs| !*hangs).await.unwrap();
        let mut seen = self.seen();
        if seen.limit.is_some_and(|limit| body.len() > limit) {
            return Err(Refusal::TooLarge { bytes: body.len() as u64, limit: seen.limit.unwrap() as u64 });
        }
        if let Some(left) = seen.refusals.get_mut(&body).filter(|left| **left > 0) {
            *left -= 1;
            return Err(Refusal::NoFunctionList);
        }
        seen.accepted.push(event);
        Ok(Receipt::default())
    }

    async fn quarantine(&self, message: Quarantined) -> Result<Receipt, Refusal> {
        self.seen().quarantined.push(message);
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

/// One run of a source.
pub(crate) struct Rig {
    pub(crate) broker: Arc<Broker>,
    board: HealthBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
    demand: watch::Sender<Demand>,
}

impl Rig {
    /// Starts it.
    pub(crate) fn start(settings: Value) -> Rig {
        let broker = Broker { seen: Mutex::default(), hangs: watch::channel(false).0 };
        Rig::before(Arc::new(broker), settings)
    }

    /// Starts it before a broker that another run may have used.
    pub(crate) fn before(broker: Arc<Broker>, settings: Value) -> Rig {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        board.enter(SourceState::Connecting);
        let stop = CancellationToken::new();
        let demand = watch::channel(Demand::default()).0;
        let source = Sqs.build(&SourceName::parse("jobs").unwrap(), settings).unwrap();
        let ctx = SourceContext {
            events: broker.clone(),
            demand: demand.subscribe(),
            positions: Arc::new(NoPositions),
            schedules: None,
            health: board.health(),
            shutdown: stop.clone(),
            clock,
        };
        let task = tokio::spawn(source.run(ctx));
        Rig { broker, board, stop, task, demand }
    }

    /// Functions now ask for exactly these topics.
    pub(crate) fn functions_want(&self, topics: &[&str]) {
        let exact = |topic: &&str| TopicPattern::exact(&Topic::parse(topic).unwrap());
        let patterns = topics.iter().map(|topic| (exact(topic), BTreeSet::new())).collect();
        self.demand.send_replace(Demand { patterns });
    }

    pub(crate) fn status(&self) -> SourceStatus {
        self.board.status(SourceName::parse("jobs").unwrap(), "sqs", Capabilities::NONE)
    }

    pub(crate) async fn is(&self, state: SourceState) {
        eventually(PATIENCE, &format!("the source to be {state:?}"), async || {
            let status = self.status();
            if status.state == state { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// Waits until its last error says this.
    pub(crate) async fn complains(&self, about: &str) {
        eventually(PATIENCE, &format!("a word about {about:?}"), async || {
            let word = self.status().last_error.map(|(_, word)| word);
            if word.as_ref().is_some_and(|word| word.contains(about)) {
                Ok(())
            } else {
                Err(format!("{word:?}"))
            }
        })
        .await;
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stopped(self) -> Arc<Broker> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.broker
    }

    /// The error with which it ends by itself.
    pub(crate) async fn error(self) -> SourceError {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("the source ends by itself").unwrap().unwrap_err()
    }
}
