//! The one task that owns the lanes.
//!
//! It waits for lanes with work, for slots that are given back and for time to pass; then it leases as much as there is
//! room for, in turn between functions, and starts deliveries. It never waits for a delivery.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tracing::{error, info, warn};

use broker_model::function::Concurrency;
use broker_model::lease::{AfterInterruption, after_interruptions};
use broker_model::limit::{ConcurrencyLimit, LaneBreaker, Signal};
use broker_model::queue::Pausable;
use broker_model::{
    Backoff, Delivery, FunctionName, InvocationId, Lane, LaneTarget, Lease, Settlement, StoreError, Timestamp,
};

use crate::dispatch::deliver::Delivering;
use crate::dispatch::{Board, Finished, Message, Report, Shared, Slot};
use crate::engine::Drained;
use crate::functions::{GatewayDown, Rules, WaitingReason};

/// Failures to reach the gateway in a row, without a success between, after which it is held for down.
const DOWN_AFTER: u32 = 5;

/// How often standing still is looked at: limits are probed, the shrunken pool grows, idle targets are forgotten.
const TICK: Duration = Duration::from_secs(10);

/// How long a target nobody calls is remembered when the gateway does not list it.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How long a suspect that must run alone waits for the one that runs.
const SUSPECT_WAIT: Duration = Duration::from_secs(1);

/// Owns the lanes.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    messages: mpsc::UnboundedReceiver<Message>,
    sender: mpsc::UnboundedSender<Message>,
    targets: Vec<Option<Target>>,
    free: Vec<usize>,
    by_target: HashMap<LaneTarget, usize>,
    functions: Group,
    callbacks: Group,
    running: HashMap<InvocationId, Running>,
    paused: HashSet<FunctionName>,
    suspect: Option<InvocationId>,
    holds: BinaryHeap<Reverse<(Instant, usize)>>,
    gateway: GatewayWatch,
    /// The most deliveries while we have no files or ports for more.
    shrunken: Option<u32>,
    last_shrunken: Option<Instant>,
    store_waits: Option<Instant>,
    next_tick: Instant,
}

/// Targets of one kind, in turn.
#[derive(Default)]
struct Group {
    active: VecDeque<usize>,
    running: u32,
}

/// A function, or the hosts of one callback lane.
struct Target {
    name: LaneTarget,
    lanes: Vec<LaneEntry>,
    /// Lanes the queue has work in, by their place in `lanes`.
    ready: VecDeque<usize>,
    /// Whether it stands in its group's turn.
    active: bool,
    running: u32,
    paused: bool,
    limit: ConcurrencyLimit,
    breaker: LaneBreaker,
    /// Nothing is started before this.
    held_until: Option<Instant>,
    /// No more than this many while no replica had room for more.
    ceiling: Option<(u32, Instant)>,
    /// "No capacity" answers in a row with nothing else running.
    starved: u32,
    unknown: bool,
    rules: Arc<Rules>,
    board: Arc<Board>,
    used: Instant,
}

struct LaneEntry {
    lane: Lane,
    ready: bool,
    processed: Counter,
}

struct Running {
    abort: AbortHandle,
    lease: Lease,
}

/// What is known of the way to the gateway.
#[derive(Default)]
struct GatewayWatch {
    failures: u32,
    down: Option<Down>,
}

struct Down {
    since: Timestamp,
    last_error: Box<str>,
    tries: u32,
    /// When it is tried next; `None` while it is being tried.
    next_probe: Option<Instant>,
}

/// A lane that leases are asked for, and how many.
struct Wanted {
    target: usize,
    lane: usize,
    count: usize,
}

impl Dispatcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        messages: mpsc::UnboundedReceiver<Message>,
        sender: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let paused = shared
            .queue
            .paused()
            .into_iter()
            .filter_map(|what| match what {
                Pausable::Function(function) => Some(function),
                Pausable::Source(_) | Pausable::Schedule(_) => None,
            })
            .collect();
        Dispatcher {
            shared,
            messages,
            sender,
            targets: Vec::new(),
            free: Vec::new(),
            by_target: HashMap::new(),
            functions: Group::default(),
            callbacks: Group::default(),
            running: HashMap::new(),
            paused,
            suspect: None,
            holds: BinaryHeap::new(),
            gateway: GatewayWatch::default(),
            shrunken: None,
            last_shrunken: None,
            store_waits: None,
            next_tick: Instant::now() + TICK,
        }
    }

    /// Runs until it is drained.
    pub(crate) async fn run(mut self) {
        let queue = self.shared.queue.clone();
        let mut table = self.shared.functions.changed();
        let mut ready = queue.ready();
        let mut batch = Vec::with_capacity(256);
        loop {
            let wake = self.next_wake();
            tokio::select! {
                count = self.messages.recv_many(&mut batch, 256) => {
                    debug_assert!(count > 0, "we hold a sender ourselves");
                }
                lanes = &mut ready => {
                    ready = queue.ready();
                    for lane in lanes {
                        self.lane_is_ready(lane);
                    }
                }
                changed = table.changed() => match changed {
                    Ok(()) => self.rules_changed(),
                    // Nobody changes it any more.
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            // Deliveries that end together are followed together: those that are ready to run go first, and one lease serves
            // all their slots. When nothing else is ready this costs no time.
            tokio::task::yield_now().await;
            // Whatever woke us: what was said before is heard before anything is leased, so that a pause that was
            // acknowledged holds.
            while batch.len() < 4096
                && let Ok(message) = self.messages.try_recv()
            {
                batch.push(message);
            }
            let mut drain = None;
            for message in batch.drain(..) {
                match message {
                    Message::Drain(grace, drained) => drain = Some((grace, drained)),
                    message => self.handle(message),
                }
            }
            if let Some((grace, drained)) = drain {
                return self.drain(grace, drained).await;
            }
            self.time_passed();
            self.fill().await;
        }
    }

    // Waking and being told.

    fn next_wake(&self) -> Instant {
        let mut wake = self.next_tick;
        if let Some(Reverse((at, _))) = self.holds.peek() {
            wake = wake.min(*at);
        }
        if let Some(at) = self.gateway.down.as_ref().and_then(|down| down.next_probe) {
            wake = wake.min(at);
        }
        self.store_waits.map_or(wake, |at| wake.min(at))
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, target))) = self.holds.peek().copied()
            && at <= now
        {
            self.holds.pop();
            self.activate(target);
        }
        if self.store_waits.is_some_and(|at| at <= now) {
            self.store_waits = None;
        }
        if let Some(down) = &mut self.gateway.down
            && down.next_probe.is_some_and(|at| at <= now)
        {
            down.next_probe = None;
            self.probe_gateway();
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        let monotonic = self.shared.clock.monotonic();
        for at in 0..self.targets.len() {
            let Some(target) = &mut self.targets[at] else { continue };
            if !target.ready.is_empty() {
                if target.running >= target.limit.limit() {
                    target.limit.probe(monotonic);
                    target.board.set_limit(target.limit.limit());
                }
                self.activate(at);
                continue;
            }
            let listed = target.rules.replicas.is_some();
            let idle = target.running == 0 && now.duration_since(target.used) >= FORGET_AFTER;
            if idle && !listed && !target.unknown {
                self.forget(at);
            }
        }
        if let Some(shrunken) = self.shrunken {
            let grown = shrunken.saturating_mul(2);
            let whole = self.shared.live.load().settings.delivery.max_concurrency.get();
            self.shrunken = (grown < whole).then_some(grown);
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Finished(finished) => self.finished(finished),
            Message::Probed(result) => self.probed(result),
            Message::Paused(function) => {
                if let Some(target) = self.function_target(&function) {
                    target.paused = true;
                }
                self.paused.insert(function);
            }
            Message::Resumed(function) => {
                self.paused.remove(&function);
                if let Some(&at) = self.by_target.get(&LaneTarget::Function(function))
                    && let Some(target) = &mut self.targets[at]
                {
                    target.paused = false;
                    self.activate(at);
                }
            }
            Message::Stop(id) => {
                if let Some(running) = self.running.get(&id) {
                    running.abort.abort();
                }
            }
            Message::Drain(..) => debug_assert!(false, "taken by the loop"),
        }
    }

    fn function_target(&mut self, function: &FunctionName) -> Option<&mut Target> {
        let at = *self.by_target.get(&LaneTarget::Function(function.clone()))?;
        self.targets[at].as_mut()
    }

    fn lane_is_ready(&mut self, lane: Lane) {
        let at = self.target(&lane.target);
        let Some(target) = &mut self.targets[at] else { return };
        let place = match target.lanes.iter().position(|known| known.lane == lane) {
            Some(place) => place,
            None => {
                let processed = self.shared.metrics.processed(&lane.queue);
                target.lanes.push(LaneEntry { lane, ready: false, processed });
                target.lanes.len() - 1
            }
        };
        if !target.lanes[place].ready {
            target.lanes[place].ready = true;
            target.ready.push_back(place);
        }
        self.activate(at);
    }

    /// The place of a target, made when it is new.
    fn target(&mut self, name: &LaneTarget) -> usize {
        if let Some(&at) = self.by_target.get(name) {
            return at;
        }
        let now = self.shared.clock.monotonic();
        let snapshot = self.shared.functions.snapshot();
        let rules = match name {
            LaneTarget::Function(function) => snapshot.rules(function).clone(),
            LaneTarget::CallbackHosts(_) => snapshot.defaults().clone(),
        };
        let limit = ConcurrencyLimit::new(self.concurrency(name, &rules), now);
        let board = Arc::new(Board::new(limit.limit(), self.shared.metrics.attempts_of(name.function())));
        if let LaneTarget::Function(function) = name {
            self.shared.functions.put_board(function, board.clone());
        }
        let target = Target {
            name: name.clone(),
            lanes: Vec::new(),
            ready: VecDeque::new(),
            active: false,
            running: 0,
            paused: name.function().is_some_and(|function| self.paused.contains(function)),
            limit,
            breaker: LaneBreaker::default(),
            held_until: None,
            ceiling: None,
            starved: 0,
            unknown: false,
            rules,
            board,
            used: Instant::now(),
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.targets[at] = Some(target);
                at
            }
            None => {
                self.targets.push(Some(target));
                self.targets.len() - 1
            }
        };
        self.by_target.insert(name.clone(), at);
        at
    }

    fn concurrency(&self, name: &LaneTarget, rules: &Rules) -> Concurrency {
        match name {
            LaneTarget::Function(_) => rules.concurrency,
            LaneTarget::CallbackHosts(_) => {
                Concurrency::Fixed(self.shared.live.load().settings.callbacks.per_lane)
            }
        }
    }

    fn forget(&mut self, at: usize) {
        let Some(target) = self.targets[at].take() else { return };
        self.by_target.remove(&target.name);
        if let LaneTarget::Function(function) = &target.name {
            self.shared.functions.remove_board(function);
        }
        // Its place may still stand in a turn or among the holds; both look before they act.
        for group in [&mut self.functions, &mut self.callbacks] {
            group.active.retain(|active| *active != at);
        }
        self.free.push(at);
    }

    fn rules_changed(&mut self) {
        let monotonic = self.shared.clock.monotonic();
        for at in 0..self.targets.len() {
            let Some(target) = &self.targets[at] else { continue };
            let snapshot = self.shared.functions.snapshot();
            let rules = match &target.name {
                LaneTarget::Function(function) => snapshot.rules(function).clone(),
                LaneTarget::CallbackHosts(_) => snapshot.defaults().clone(),
            };
            let concurrency = self.concurrency(&target.name, &rules);
            let Some(target) = &mut self.targets[at] else { continue };
            if !target.limit.is(concurrency) {
                target.limit = ConcurrencyLimit::new(concurrency, monotonic);
            }
            if rules.replicas == Some(0) {
                target.limit.asleep();
            }
            if target.unknown && rules.replicas.is_some() {
                // It is listed again: its calls need not sit out their wait.
                target.unknown = false;
                target.held_until = None;
            }
            target.rules = rules;
            target.board.set_limit(target.limit.limit());
            self.activate(at);
        }
    }

    // Finishing.

    fn finished(&mut self, finished: Finished) {
        let Finished { target: at, id, round, report } = finished;
        if self.running.remove(&id).is_none() {
            return;
        }
        if self.suspect == Some(id) {
            self.suspect = None;
        }
        let Some(target) = &mut self.targets[at] else { return };
        let is_function = target.name.function().is_some();
        target.running -= 1;
        target.used = Instant::now();
        let Report { signal, failed, reached, no_capacity, unknown, out_of_resources, panicked } = report;
        if let Some(signal) = signal {
            let rules = &target.rules;
            let now = self.shared.clock.monotonic();
            target.limit.finished(round, signal, rules.replicas.unwrap_or(1), rules.max_inflight, now);
            target.learn(id, signal, failed, no_capacity, unknown, &mut self.holds, at);
            target.board.set_limit(target.limit.limit());
        }
        let group = if is_function { &mut self.functions } else { &mut self.callbacks };
        group.running -= 1;
        if is_function && let Some(reached) = reached {
            self.gateway_was(reached);
        }
        if let Some(why) = out_of_resources {
            self.shrink(&why);
        }
        if let Some(lease) = panicked {
            self.give_back_after_panic(lease);
        }
        self.activate(at);
    }

    fn give_back_after_panic(&self, lease: Lease) {
        error!(invocation.id = %lease.id, "a delivery met a bug; its call is tried again in a minute");
        self.shared.metrics.panics.inc();
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let settlement = Settlement::Released { wait: Duration::from_secs(60) };
            if let Err(error) = shared.queue.settle(lease, settlement).await {
                error!(invocation.id = %lease.id, %error, "cannot give a call back");
            }
        });
    }

    fn shrink(&mut self, why: &str) {
        self.shared.metrics.out_of_resources.inc();
        let running = self.functions.running + self.callbacks.running;
        let to = (running / 2).max(1);
        let now = Instant::now();
        // Loud, but once for all the deliveries that met it together.
        if self.last_shrunken.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            error!(
                why,
                deliveries = to,
                "no file or port is left for connections; fewer deliveries run at once"
            );
        }
        self.last_shrunken = Some(now);
        self.shrunken = Some(self.shrunken.map_or(to, |shrunken| shrunken.min(to)));
    }

    // The gateway.

    fn gateway_was(&mut self, reached: Result<(), Box<str>>) {
        match (reached, &mut self.gateway.down) {
            (Ok(()), None) => self.gateway.failures = 0,
            // A connection that still works goes on; whether new ones can be made is for the probe to say.
            (Ok(()), Some(_)) => {}
            (Err(why), Some(down)) => down.last_error = why,
            (Err(why), None) => {
                self.gateway.failures += 1;
                if self.gateway.failures >= DOWN_AFTER {
                    warn!(
                        why,
                        "the gateway cannot be reached; deliveries are held, nothing is counted as an attempt"
                    );
                    let wait = Backoff::RECONNECT.wait(1, rand::random());
                    let since = self.shared.clock.now();
                    self.gateway.down = Some(Down {
                        since,
                        last_error: why,
                        tries: 1,
                        next_probe: Some(Instant::now() + wait),
                    });
                    self.show_gateway();
                }
            }
        }
    }

    fn probe_gateway(&self) {
        let gateway = self.shared.live.load().gateway.clone();
        let sender = self.sender.clone();
        self.shared.tasks.spawn(async move {
            let _ = sender.send(Message::Probed(gateway.reach().await));
        });
    }

    fn probed(&mut self, result: Result<(), Box<str>>) {
        let Some(down) = &mut self.gateway.down else { return };
        match result {
            Ok(()) => {
                info!(after = ?self.shared.clock.now().since(down.since), "the gateway is reached again");
                self.gateway = GatewayWatch::default();
            }
            Err(why) => {
                down.last_error = why;
                down.tries = down.tries.saturating_add(1);
                down.next_probe = Some(Instant::now() + Backoff::RECONNECT.wait(down.tries, rand::random()));
            }
        }
        self.show_gateway();
    }

    fn show_gateway(&self) {
        let down = self
            .gateway
            .down
            .as_ref()
            .map(|down| GatewayDown { since: down.since, last_error: down.last_error.clone() });
        self.shared.functions.set_gateway_down(down);
    }

    // Starting.

    /// Puts a target into its group's turn when it has work and room.
    fn activate(&mut self, at: usize) {
        let Some(Some(target)) = self.targets.get_mut(at) else { return };
        if !target.active && !target.ready.is_empty() && target.room(Instant::now()) > 0 {
            target.active = true;
            let group = match target.name {
                LaneTarget::Function(_) => &mut self.functions,
                LaneTarget::CallbackHosts(_) => &mut self.callbacks,
            };
            group.active.push_back(at);
        }
    }

    /// Leases and starts as much as there is room for.
    async fn fill(&mut self) {
        if self.store_waits.is_some() {
            return;
        }
        let mut wanted = Vec::new();
        let mut asked = Vec::new();
        loop {
            wanted.clear();
            self.choose_callbacks(&mut wanted);
            if self.gateway.down.is_none() {
                self.choose_functions(&mut wanted);
            }
            if wanted.is_empty() {
                return;
            }
            asked.clear();
            asked.extend(wanted.iter().filter_map(|want| {
                let target = self.targets[want.target].as_ref()?;
                Some((target.lanes[want.lane].lane.clone(), want.count))
            }));
            match self.shared.queue.lease(&asked).await {
                Ok(deliveries) => self.start(&wanted, deliveries),
                Err(error) => return self.store_failed(&wanted, &error),
            }
        }
    }

    fn choose_functions(&mut self, wanted: &mut Vec<Wanted>) {
        let most = self.shared.live.load().settings.delivery.max_concurrency.get();
        let most = self.shrunken.map_or(most, |shrunken| shrunken.min(most));
        choose(&mut self.functions, &mut self.targets, most, wanted);
    }

    fn choose_callbacks(&mut self, wanted: &mut Vec<Wanted>) {
        let most = self.shared.live.load().settings.callbacks.max_concurrency.get();
        let most = self.shrunken.map_or(most, |shrunken| shrunken.min(most));
        choose(&mut self.callbacks, &mut self.targets, most, wanted);
    }

    fn start(&mut self, wanted: &[Wanted], deliveries: Vec<Delivery>) {
        let mut given_back = self.admit_one_suspect(&deliveries);
        let mut deliveries = deliveries.into_iter().peekable();
        for want in wanted {
            let mut started = 0;
            while let Some(delivery) = deliveries.next_if(|delivery| {
                self.targets[want.target]
                    .as_ref()
                    .is_some_and(|target| target.lanes[want.lane].lane == delivery.invocation.lane)
            }) {
                started += 1;
                if !self.runs_alone(&delivery) {
                    self.deliver(want, delivery, Vec::new());
                } else if self.suspect == Some(delivery.invocation.id) {
                    self.deliver(want, delivery, std::mem::take(&mut given_back));
                }
            }
            let Some(target) = &mut self.targets[want.target] else { continue };
            if started < want.count {
                // The queue names it again when it gains work.
                target.lanes[want.lane].ready = false;
            } else {
                target.ready.push_back(want.lane);
            }
            self.activate(want.target);
        }
        debug_assert!(deliveries.peek().is_none(), "a store leases what was asked for, in that order");
    }

    fn runs_alone(&self, delivery: &Delivery) -> bool {
        let bound = self.shared.live.load().settings.delivery.interruptions;
        after_interruptions(delivery.interrupted, bound) == AfterInterruption::RunAlone
    }

    /// Lets one suspect in where none runs, and gives the others back. What is leased when the broker dies counts as running:
    /// suspects interrupted together come due together, and an innocent one leased beside a deadly one would die with it.
    fn admit_one_suspect(&mut self, deliveries: &[Delivery]) -> Vec<JoinHandle<()>> {
        let mut given_back = Vec::new();
        for delivery in deliveries {
            if !self.runs_alone(delivery) {
                continue;
            }
            let (lease, id) = (delivery.lease, delivery.invocation.id);
            if self.suspect.is_none() {
                warn!(
                    invocation.id = %id, interrupted = delivery.interrupted,
                    "a call the broker died during before runs alone"
                );
                self.suspect = Some(id);
                continue;
            }
            let shared = self.shared.clone();
            given_back.push(self.shared.tasks.spawn(async move {
                let wait = Settlement::Released { wait: SUSPECT_WAIT };
                if let Err(error) = shared.queue.settle(lease, wait).await {
                    error!(invocation.id = %id, %error, "cannot give a call back");
                }
            }));
        }
        given_back
    }

    /// Starts a delivery, a suspect's once all that was given back for its sake is durable.
    fn deliver(&mut self, want: &Wanted, delivery: Delivery, given_back: Vec<JoinHandle<()>>) {
        let Some(target) = &mut self.targets[want.target] else { return };
        let (lease, id) = (delivery.lease, delivery.invocation.id);
        let slot = Slot {
            messages: self.sender.clone(),
            target: want.target,
            id,
            round: target.limit.round(),
            lease,
            given_back: false,
        };
        let delivering = Box::new(Delivering {
            shared: self.shared.clone(),
            delivery,
            rules: target.rules.clone(),
            board: target.board.clone(),
            processed: target.lanes[want.lane].processed.clone(),
            slot,
        });
        target.running += 1;
        match target.name {
            LaneTarget::Function(_) => self.functions.running += 1,
            LaneTarget::CallbackHosts(_) => self.callbacks.running += 1,
        }
        let task = if given_back.is_empty() {
            self.shared.tasks.spawn(delivering.run())
        } else {
            self.shared.tasks.spawn(async move {
                for release in given_back {
                    // It reports its own failure.
                    let _ = release.await;
                }
                delivering.run().await;
            })
        };
        let abort = task.abort_handle();
        self.running.insert(id, Running { abort, lease });
    }

    fn store_failed(&mut self, wanted: &[Wanted], error: &StoreError) {
        for want in wanted {
            if let Some(target) = &mut self.targets[want.target] {
                target.ready.push_back(want.lane);
            }
            self.activate(want.target);
        }
        if !matches!(error, StoreError::Closed) {
            warn!(%error, "cannot lease from the store");
        }
        self.store_waits = Some(Instant::now() + Duration::from_secs(1));
    }

    // Ending.

    /// Waits for what runs, at most `grace`, and gives the rest back as if it had not been started.
    async fn drain(mut self, grace: Duration, drained: oneshot::Sender<Drained>) {
        let before = self.running.len();
        info!(deliveries = before, ?grace, "draining: nothing more is started");
        let deadline = Instant::now() + grace;
        while !self.running.is_empty() {
            match tokio::time::timeout_at(deadline, self.messages.recv()).await {
                Ok(Some(Message::Drain(..)) | None) | Err(_) => break,
                Ok(Some(message)) => self.handle(message),
            }
        }
        let left = std::mem::take(&mut self.running);
        let (finished, released) = (before - left.len(), left.len());
        for (id, Running { abort, lease }) in left {
            abort.abort();
            if let Err(error) =
                self.shared.queue.settle(lease, Settlement::Released { wait: Duration::ZERO }).await
            {
                error!(invocation.id = %id, %error, "cannot give a call back; it comes back at the next start");
            }
        }
        let _ = drained.send(Drained { finished, released });
    }
}

impl Drop for Dispatcher {
    /// A dispatcher that ends without a drain takes its deliveries along: what they would still learn nobody records in
    /// order, and the store gives their calls again at the next start.
    fn drop(&mut self) {
        for running in self.running.values() {
            running.abort.abort();
        }
    }
}

/// Takes targets in turn until `most` run, each a fair share of what is free.
fn choose(group: &mut Group, targets: &mut [Option<Target>], most: u32, wanted: &mut Vec<Wanted>) {
    let mut free = most.saturating_sub(group.running);
    let turns = group.active.len();
    if turns == 0 || free == 0 {
        return;
    }
    let share = (free as usize / turns).max(1);
    let now = Instant::now();
    for _ in 0..turns {
        if free == 0 {
            break;
        }
        let Some(at) = group.active.pop_front() else { break };
        let Some(target) = &mut targets[at] else { continue };
        // It comes back into turn when its lease is started, or when it has room again.
        target.active = false;
        let room = target.room(now).min(free);
        if room == 0 {
            continue;
        }
        let count = (room as usize).min(share);
        if let Some(lane) = target.ready.pop_front() {
            free -= u32::try_from(count).unwrap_or(free);
            wanted.push(Wanted { target: at, lane, count });
        }
    }
}

impl Target {
    /// How many more deliveries may be started now.
    fn room(&self, now: Instant) -> u32 {
        if self.paused || self.held_until.is_some_and(|until| until > now) {
            return 0;
        }
        let mut limit = self.limit.limit();
        if let Some((ceiling, until)) = self.ceiling
            && until > now
        {
            limit = limit.min(ceiling);
        }
        if self.breaker.is_tripped() || self.unknown {
            limit = 1;
        }
        limit.saturating_sub(self.running)
    }

    /// Draws the consequences of an exchange for those that follow.
    #[allow(clippy::too_many_arguments, reason = "one call, of what one report holds")]
    fn learn(
        &mut self,
        id: InvocationId,
        signal: Signal,
        failed: Option<bool>,
        no_capacity: Option<Duration>,
        unknown: Option<Duration>,
        holds: &mut BinaryHeap<Reverse<(Instant, usize)>>,
        at: usize,
    ) {
        let now = Instant::now();
        let backoff = self.rules.policy.backoff;
        let mut hold = None;
        if let Some(failed) = failed {
            self.breaker.finished(id, failed);
            if failed && self.breaker.is_tripped() {
                hold = Some(backoff.wait(self.breaker.beyond().saturating_add(1), rand::random()));
            }
        }
        match no_capacity {
            // Others run: room comes when one of them ends, so no more than these for a while.
            Some(wait) if self.running > 0 => {
                self.ceiling = Some((self.running, now + wait));
                holds.push(Reverse((now + wait, at)));
            }
            Some(wait) => {
                self.starved = self.starved.saturating_add(1);
                hold = Some(wait.max(backoff.wait(self.starved, rand::random())));
            }
            None if signal == Signal::Room => {
                self.starved = 0;
                self.held_until = None;
            }
            None => {}
        }
        self.unknown = unknown.is_some();
        hold = hold.max(unknown);
        if let Some(wait) = hold {
            let until = now + wait;
            self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
            holds.push(Reverse((until, at)));
        }
        self.board.set_reason(if self.unknown {
            Some(WaitingReason::FunctionUnknown)
        } else if self.starved > 0 {
            Some(WaitingReason::NoCapacity)
        } else if self.breaker.is_tripped() {
            Some(WaitingReason::Failing)
        } else {
            None
        });
    }
}
