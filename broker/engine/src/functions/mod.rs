//! What the gateway lists, what its functions want, and how their lanes stand.

pub(crate) mod annotations;
pub(crate) mod rules;
pub(crate) mod table_file;
pub(crate) mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use broker_model::ledger::LaneStats;
use broker_model::queue::Pausable;
use broker_model::{
    Clock, Demand, Function, FunctionName, FunctionTable, InvocationQueue, LaneTarget, Ledger, QueueName,
    ScheduleWishes, Timestamp, TriggerTable,
};

use crate::dispatch::Board;
use crate::settings::DeliverySettings;

pub use rules::Rules;

/// How many functions that are gone have their last annotations remembered.
const GONE: usize = 4096;

/// What is known of functions, shared by everybody.
pub(crate) struct State {
    snapshot: ArcSwap<Snapshot>,
    demand: watch::Sender<Demand>,
    schedules: watch::Sender<Arc<ScheduleWishes>>,
    loaded: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    problem: Mutex<Option<ListProblem>>,
    complete: AtomicBool,
    boards: Mutex<HashMap<FunctionName, Arc<Board>>>,
    gateway_down: ArcSwapOption<GatewayDown>,
    broken: OnceLock<&'static str>,
    clock: Arc<dyn Clock>,
    ledger: Arc<dyn Ledger>,
    queue: Arc<dyn InvocationQueue>,
    started: Duration,
}

/// One moment of it.
pub(crate) struct Snapshot {
    /// Whether a list was ever loaded.
    pub(crate) loaded: bool,
    /// The list.
    pub(crate) table: Arc<FunctionTable>,
    /// Who wants what.
    pub(crate) triggers: Arc<TriggerTable>,
    rules: HashMap<FunctionName, Arc<Rules>>,
    unlisted: Arc<Rules>,
    gone: BTreeMap<FunctionName, Function>,
}

impl Snapshot {
    fn new(
        loaded: bool,
        table: Arc<FunctionTable>,
        gone: BTreeMap<FunctionName, Function>,
        delivery: &DeliverySettings,
    ) -> Self {
        let rules = table
            .functions
            .values()
            .chain(gone.values())
            .map(|function| (function.name.clone(), Arc::new(Rules::of(Some(function), delivery))))
            .collect();
        Snapshot {
            loaded,
            triggers: Arc::new(TriggerTable::from_functions(&table)),
            table,
            rules,
            unlisted: Arc::new(Rules::of(None, delivery)),
            gone,
        }
    }

    /// The rules for a function: its annotations as last known, or the defaults.
    pub(crate) fn rules(&self, function: &FunctionName) -> &Arc<Rules> {
        self.rules.get(function).unwrap_or(&self.unlisted)
    }

    /// The rules for what is no function.
    pub(crate) fn defaults(&self) -> &Arc<Rules> {
        &self.unlisted
    }
}

impl State {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        ledger: Arc<dyn Ledger>,
        queue: Arc<dyn InvocationQueue>,
        delivery: &DeliverySettings,
    ) -> Self {
        State {
            snapshot: ArcSwap::from_pointee(Snapshot::new(false, Arc::default(), BTreeMap::new(), delivery)),
            demand: watch::Sender::new(Demand::default()),
            schedules: watch::Sender::new(Arc::default()),
            loaded: watch::Sender::new(false),
            changed: watch::Sender::new(0),
            problem: Mutex::default(),
            complete: AtomicBool::new(false),
            boards: Mutex::default(),
            gateway_down: ArcSwapOption::empty(),
            broken: OnceLock::new(),
            started: clock.monotonic(),
            clock,
            ledger,
            queue,
        }
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Counts up with every change of the table or of the defaults.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes a new table.
    pub(crate) fn swap(&self, table: FunctionTable, delivery: &DeliverySettings) {
        let before = self.snapshot.load();
        let mut gone = before.gone.clone();
        for (name, function) in &before.table.functions {
            if !table.functions.contains_key(name) {
                gone.insert(name.clone(), function.clone());
            }
        }
        gone.retain(|name, _| !table.functions.contains_key(name));
        while gone.len() > GONE {
            gone.pop_first();
        }
        let schedules: ScheduleWishes = table
            .functions
            .values()
            .filter_map(|function| Some((function.name.clone(), function.schedule.clone()?)))
            .collect();
        let snapshot = Snapshot::new(true, Arc::new(table), gone, delivery);
        let demand = snapshot.triggers.demand();
        self.snapshot.store(Arc::new(snapshot));
        self.demand.send_if_modified(|known| {
            let differs = *known != demand;
            *known = demand;
            differs
        });
        self.schedules.send_if_modified(|known| {
            let differs = **known != schedules;
            if differs {
                *known = Arc::new(schedules);
            }
            differs
        });
        // Behind the demand, so that whoever waits for a list finds the demand it leads to.
        self.loaded.send_if_modified(|loaded| !std::mem::replace(loaded, true));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes new defaults.
    pub(crate) fn defaults_changed(&self, delivery: &DeliverySettings) {
        let before = self.snapshot.load();
        let snapshot = Snapshot::new(before.loaded, before.table.clone(), before.gone.clone(), delivery);
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|count| *count += 1);
    }

    /// A complete list came.
    pub(crate) fn listed(&self, problem: Option<ListProblem>) {
        self.complete.store(true, Ordering::SeqCst);
        *self.problem() = problem;
    }

    /// No complete list came; whether that is news.
    pub(crate) fn not_listed(&self, problem: ListProblem) -> bool {
        let mut last = self.problem();
        let news = last.as_ref().is_none_or(|last| last.problem != problem.problem);
        *last = Some(problem);
        news
    }

    /// Whether it can be said that nobody wants an event: a complete list came in this process, or none came for a minute.
    pub(crate) fn unmatched_is_known(&self) -> Unmatched {
        const GRACE: Duration = Duration::from_secs(60);
        if self.complete.load(Ordering::SeqCst) {
            Unmatched::Known
        } else if self.clock.monotonic().saturating_sub(self.started) >= GRACE {
            Unmatched::ByPolicy
        } else {
            Unmatched::NotYet
        }
    }

    pub(crate) fn set_gateway_down(&self, down: Option<GatewayDown>) {
        self.gateway_down.store(down.map(Arc::new));
    }

    /// A part of the engine has ended and does not come back; the first to say so is remembered.
    pub(crate) fn set_broken(&self, what: &'static str) {
        let _ = self.broken.set(what);
    }

    pub(crate) fn put_board(&self, function: &FunctionName, board: Arc<Board>) {
        self.boards().insert(function.clone(), board);
    }

    pub(crate) fn remove_board(&self, function: &FunctionName) {
        self.boards().remove(function);
    }

    fn boards(&self) -> MutexGuard<'_, HashMap<FunctionName, Arc<Board>>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self) -> MutexGuard<'_, Option<ListProblem>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an event without a match is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmatched {
    /// It is.
    Known,
    /// It cannot be known, and policy decides.
    ByPolicy,
    /// It cannot be known yet.
    NotYet,
}

/// The read view of functions and their lanes. Cheap to clone.
#[derive(Clone)]
pub struct Functions {
    state: Arc<State>,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("listed", &self.table().functions.len()).finish()
    }
}

/// Why the gateway's function list could not be used; the last complete one serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListProblem {
    /// When.
    pub at: Timestamp,
    /// What was wrong, for people.
    pub problem: Box<str>,
}

/// The gateway cannot be reached: all function lanes are held and one probe at a time is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDown {
    /// Since when.
    pub since: Timestamp,
    /// The last failure, for people.
    pub last_error: Box<str>,
}

/// How a function's lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// In which queue.
    pub queue: QueueName,
    /// Accepted and not yet delivered: due, in retry, or scheduled for later.
    pub waiting: u64,
    /// Of them, scheduled for later by their callers.
    pub scheduled: u64,
    /// Being delivered.
    pub delivering: u64,
    /// Deliveries at once now, over all queues of the function.
    pub limit: u32,
    /// Held by an operator.
    pub paused: bool,
    /// Why what waits does not run now; `None` when nothing waits or it runs at once.
    pub waiting_reason: Option<WaitingReason>,
}

/// Why calls of a lane wait. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitingReason {
    /// Held by an operator.
    Paused,
    /// The gateway cannot be reached.
    GatewayDown,
    /// The gateway does not know the function.
    FunctionUnknown,
    /// No replica has room.
    NoCapacity,
    /// The function's calls all fail: one probe at a time.
    Failing,
    /// As many deliveries as allowed are under way.
    AtLimit,
    /// Waiting for its next try.
    Retrying,
    /// Scheduled for later.
    Scheduled,
}

impl WaitingReason {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitingReason::Paused => "paused",
            WaitingReason::GatewayDown => "gateway-down",
            WaitingReason::FunctionUnknown => "function-unknown",
            WaitingReason::NoCapacity => "no-capacity",
            WaitingReason::Failing => "failing",
            WaitingReason::AtLimit => "at-limit",
            WaitingReason::Retrying => "retrying",
            WaitingReason::Scheduled => "scheduled",
        }
    }
}

impl Functions {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Functions { state }
    }

    /// The last complete list, or the one from disk; empty before either.
    pub fn table(&self) -> Arc<FunctionTable> {
        self.state.snapshot.load().table.clone()
    }

    /// Who wants what, of the same moment as [`Functions::table`].
    pub fn triggers(&self) -> Arc<TriggerTable> {
        self.state.snapshot.load().triggers.clone()
    }

    /// The rules calls of a function are delivered under: its annotations as last known, over the defaults.
    pub fn rules(&self, function: &FunctionName) -> Arc<Rules> {
        self.state.snapshot.load().rules(function).clone()
    }

    /// What functions ask of schedules; empty until a list is loaded.
    pub fn schedules(&self) -> watch::Receiver<Arc<ScheduleWishes>> {
        self.state.schedules.subscribe()
    }

    /// What sources should listen for; changes only when it differs.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.state.demand.subscribe()
    }

    /// Whether a list was loaded, from disk or from the gateway.
    pub fn loaded(&self) -> bool {
        self.state.snapshot.load().loaded
    }

    /// Becomes true when a list is loaded, for whoever must wait for it.
    pub fn loading(&self) -> watch::Receiver<bool> {
        self.state.loaded.subscribe()
    }

    /// How old the list is; `None` before one was loaded.
    pub fn age(&self) -> Option<Duration> {
        let snapshot = self.state.snapshot.load();
        snapshot.loaded.then(|| self.state.clock.now().since(snapshot.table.listed_at))
    }

    /// What was wrong with the last list asked for; `None` when it was complete.
    pub fn last_problem(&self) -> Option<ListProblem> {
        self.state.problem().clone()
    }

    /// How the function's lanes stand, one for each queue that holds calls of it; at least one.
    pub fn lane_states(&self, function: &FunctionName) -> Vec<LaneState> {
        let snapshot = self.state.snapshot.load();
        let rules = snapshot.rules(function);
        let board = self.state.boards().get(function).cloned();
        let paused = self.state.queue.paused().contains(&Pausable::Function(function.clone()));
        let down = self.state.gateway_down.load().is_some();
        let limit = board
            .as_ref()
            .map_or_else(|| crate::dispatch::first_limit(rules.concurrency), |board| board.limit());
        let mut states: Vec<LaneState> = self
            .state
            .ledger
            .lanes()
            .into_iter()
            .filter(|stats| matches!(&stats.lane.target, LaneTarget::Function(of) if of == function))
            .map(|stats| LaneState {
                queue: stats.lane.queue.clone(),
                waiting: stats.ready + stats.retrying + stats.scheduled,
                scheduled: stats.scheduled,
                delivering: stats.delivering,
                limit,
                paused,
                waiting_reason: waiting_reason(&stats, paused, down, board.as_deref(), limit),
            })
            .collect();
        if states.is_empty() {
            let queue = rules.queue.clone();
            states.push(LaneState {
                queue,
                waiting: 0,
                scheduled: 0,
                delivering: 0,
                limit,
                paused,
                waiting_reason: None,
            });
        }
        states
    }

    /// Whether the gateway is held for down.
    pub fn gateway_down(&self) -> Option<GatewayDown> {
        self.state.gateway_down.load().as_deref().cloned()
    }

    /// What a bug of ours has ended in the engine, for people: nothing but a restart brings it back. What was accepted is
    /// safe until then, and new work is accepted as before.
    pub fn broken(&self) -> Option<&'static str> {
        self.state.broken.get().copied()
    }
}

/// The most telling of the reasons, the one an operator can do something about first.
fn waiting_reason(
    stats: &LaneStats,
    paused: bool,
    gateway_down: bool,
    board: Option<&Board>,
    limit: u32,
) -> Option<WaitingReason> {
    let LaneStats { ready, retrying, scheduled, delivering, .. } = *stats;
    if ready + retrying + scheduled == 0 {
        return None;
    }
    if paused {
        return Some(WaitingReason::Paused);
    }
    if ready + retrying > 0 && gateway_down {
        return Some(WaitingReason::GatewayDown);
    }
    if ready + retrying > 0
        && let Some(reason) = board.and_then(Board::reason)
    {
        return Some(reason);
    }
    if ready > 0 {
        return (delivering >= u64::from(limit)).then_some(WaitingReason::AtLimit);
    }
    Some(if retrying > 0 { WaitingReason::Retrying } else { WaitingReason::Scheduled })
}
