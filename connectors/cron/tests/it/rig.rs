//! A running source on simulated time, over the reference store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_model::intake::{Lost, Quarantined};
use broker_model::invocation::FunctionCall;
use broker_model::{
    Acceptance, Accepted, CallId, Clock, Draft, Event, EventSink, FunctionName, InvocationQueue, Lane,
    LaneTarget, Origin, QueueName, Receipt, Refusal, Schedule, ScheduleId, ScheduleState, ScheduleWish,
    ScheduleWishes, Schedules, SourceName, StoreError, Target, Timestamp, Timetable, TimetableBoard,
};
use connectors_cron::Cron;
use connectors_sdk::{Connector, HealthBoard, NoPositions, ScheduleAccess, SourceContext, SourceError};
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, breathe};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One invocation that was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ran {
    pub(crate) schedule: String,
    /// `None` for a run by hand.
    pub(crate) instant: Option<Timestamp>,
    pub(crate) accepted: Timestamp,
}

/// What outlives a process: the store, the clock, and what ran.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: ReferenceStore,
    pub(crate) refusing: Arc<AtomicBool>,
    /// A schedule that is put is kept at once, and whoever put it is told a second later.
    pub(crate) slow: Arc<AtomicBool>,
    ran: Arc<Mutex<Vec<Ran>>>,
}

/// The broker's door, as the engine's intake does it.
struct Door(World);

#[async_trait]
impl EventSink for Door {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        if self.0.refusing.load(Ordering::SeqCst) {
            return Err(Refusal::Store(StoreError::TooManyWaiting { waiting: 1 }));
        }
        let event = event.clone();
        let fire = event.fire.clone().expect("a cron source publishes runs alone");
        let function = fire.function.clone();
        let call_id =
            CallId::parse(event.headers.text("x-call-id").expect("a run is named")).expect("a call id");
        let acceptance = Acceptance {
            origin: Origin::Event { source: event.source, topic: event.topic },
            headers: event.headers,
            body: event.body.into(),
            drafts: vec![Draft {
                lane: Lane { queue: QueueName::default(), target: LaneTarget::Function(function.clone()) },
                target: Target::Function(FunctionCall {
                    written: function.as_str().into(),
                    function: function.clone(),
                    path_and_query: "".into(),
                    callback_url: None,
                }),
                call_id,
                due: None,
                max_age: None,
            }],
            dedup: event.dedup,
            position: None,
            fire: event.fire,
        };
        match self.0.store.accept(acceptance).await? {
            Accepted::New(ids) => {
                self.0.ran.lock().expect("no test panics with it").push(Ran {
                    schedule: fire.schedule.to_string(),
                    instant: fire.instant.map(|instant| instant.at),
                    accepted: self.0.clock.now(),
                });
                Ok(Receipt {
                    invocations: ids.into_iter().map(|id| (function.clone(), id)).collect(),
                    duplicate: false,
                })
            }
            Accepted::Duplicate(_) => Ok(Receipt { invocations: Vec::new(), duplicate: true }),
        }
    }

    async fn quarantine(&self, _message: &Quarantined) -> Result<Receipt, Refusal> {
        panic!("nothing of a schedule is unreadable")
    }

    async fn lost(&self, _range: &Lost) -> Result<Receipt, Refusal> {
        panic!("nothing of a schedule is lost upstream")
    }
}

/// The store of schedules, with what a test makes of it.
struct Shelf(World);

#[async_trait]
impl Schedules for Shelf {
    async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState, StoreError> {
        let state = self.0.store.put_schedule(schedule).await;
        if self.0.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        state
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        self.0.store.remove_schedule(id).await
    }

    async fn pass_over(&self, id: &ScheduleId, until: Timestamp) -> Result<bool, StoreError> {
        self.0.store.pass_over(id, until).await
    }

    fn schedules(&self) -> Vec<ScheduleState> {
        self.0.store.schedules()
    }
}

impl World {
    pub(crate) fn new() -> World {
        let clock = TestClock::start();
        let store = ReferenceStore::new(Bounds::default(), clock.clone());
        World { clock, store, refusing: Arc::default(), slow: Arc::default(), ran: Arc::default() }
    }

    /// What the store holds after the process is gone.
    pub(crate) fn after_a_kill(mut self) -> World {
        self.store = self.store.reopen();
        self
    }

    /// Everything that ran, in the order of acceptance.
    pub(crate) fn ran(&self) -> Vec<Ran> {
        self.ran.lock().expect("no test panics with it").clone()
    }

    /// The instants that ran, in minutes since the beginning, in the order of acceptance.
    pub(crate) fn minutes(&self) -> Vec<u64> {
        let since = |at: Timestamp| at.since(TestClock::BEGINNING).as_secs() / 60;
        self.ran().iter().filter_map(|ran| ran.instant).map(since).collect()
    }

    pub(crate) fn start(&self, wishes: ScheduleWishes) -> Rig {
        let board = HealthBoard::new(self.clock.clone());
        let timetable = Arc::new(TimetableBoard::default());
        self.start_on(&timetable, "clock", wishes, board)
    }

    pub(crate) fn start_on(
        &self,
        timetable: &Arc<TimetableBoard>,
        name: &str,
        wishes: ScheduleWishes,
        board: HealthBoard,
    ) -> Rig {
        let (wishes, seen) = watch::channel(Arc::new(wishes));
        let stop = CancellationToken::new();
        let store = Arc::new(self.store.clone());
        let name = SourceName::parse(name).expect("a source's name");
        let source = Cron.build(&name, serde_json::json!({})).expect("nothing is required");
        let ctx = SourceContext {
            events: Arc::new(Door(self.clone())),
            demand: watch::channel(broker_model::Demand::default()).1,
            positions: Arc::new(NoPositions),
            schedules: Some(ScheduleAccess {
                store: Arc::new(Shelf(self.clone())),
                queue: store.clone(),
                ledger: store,
                wishes: seen,
                board: timetable.clone(),
            }),
            health: board.health(),
            shutdown: stop.clone(),
            clock: self.clock.clone(),
        };
        let task = tokio::spawn(source.run(ctx));
        Rig { task, stop, wishes, timetable: timetable.clone(), board }
    }
}

/// One run of a source.
pub(crate) struct Rig {
    pub(crate) task: JoinHandle<Result<(), SourceError>>,
    stop: CancellationToken,
    pub(crate) wishes: watch::Sender<Arc<ScheduleWishes>>,
    timetable: Arc<TimetableBoard>,
    pub(crate) board: HealthBoard,
}

impl Rig {
    /// The timetable, once the source has read what functions ask for.
    pub(crate) async fn timetable(&self) -> Arc<dyn Timetable> {
        breathe().await;
        self.timetable.get().expect("a running source posts it")
    }

    /// The only schedule.
    pub(crate) async fn only(&self) -> (Arc<dyn Timetable>, ScheduleId) {
        let timetable = self.timetable().await;
        let list = timetable.list();
        assert_eq!(list.len(), 1, "{list:?}");
        (timetable, list[0].state.schedule.id.clone())
    }

    /// Stops it; it must stop without an error.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("no error");
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// What one function asks for.
pub(crate) fn wish(function: &str, expressions: &str, policies: &[(&str, &str)]) -> ScheduleWishes {
    let function = FunctionName::parse(function, "fn").expect("a function's name");
    let policies = policies.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    BTreeMap::from([(function, ScheduleWish { expressions: expressions.into(), policies })])
}

pub(crate) async fn minutes(n: u64) {
    tokio::time::sleep(Duration::from_secs(60 * n)).await;
}
