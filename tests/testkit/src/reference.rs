//! A store that is obviously right.
//!
//! Everything is one value behind one lock; a question is answered by looking at every call. It is the oracle that the
//! engines are held against ([`crate::contract::store`]), and the store on which the rest of Evoke is tested through
//! simulated hours: its waits are tokio timers, so paused time runs it.
//!
//! What survives a death is what was answered: here every step is durable at once, [`Delivery`]s included.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_model::lease::{Tenure, may_settle, wait_after_interruptions};
use broker_model::ledger::{Filter, LaneStats, Listed, Page, Refusing, StoreHealth};
use broker_model::position::MarkStatus;
use broker_model::queue::{Cancelled, Pausable, RedriveError, Settled};
use broker_model::{
    Acceptance, Accepted, AttemptHistory, Body, BodyChunks, BodyReader, Clock, DeadLetter, Delivery, Draft,
    Fingerprint, Invocation, InvocationId, InvocationQueue, Lane, Lease, Ledger, Partition, Position,
    Positions, Reason, Record, Resume, Schedule, ScheduleId, ScheduleState, Schedules, Settlement,
    SourceName, Spool, State, StoreError, StoredBody, Timestamp, Totals, Upstream, Voided,
};
use bytes::Bytes;
use tokio::sync::{Notify, RwLock};

/// The bounds of a store under test. The default has none but the dedup window of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most invocations held (`limits.waiting`).
    pub waiting: u64,
    /// How long a dedup key is remembered.
    pub dedup_window: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { waiting: u64::MAX, dedup_window: Duration::from_secs(3600) }
    }
}

/// The largest piece in which a body is read.
pub const PIECE: usize = 256 * 1024;

/// A process' hold on a store in memory. Cheap to clone; [`ReferenceStore::reopen`] gives the next process its hold.
#[derive(Clone)]
pub struct ReferenceStore {
    disk: Arc<Mutex<Disk>>,
    changed: Arc<Notify>,
    door: Arc<RwLock<()>>,
    clock: Arc<dyn Clock>,
    process: u64,
}

/// What a disk would hold, and what its present process knows.
#[derive(Default)]
struct Disk {
    bounds: Bounds,
    process: u64,
    closed: bool,
    refusal: Option<StoreError>,
    bug: bool,
    came: u64,
    accepted: u64,
    leases: u64,
    joined: u64,
    deaths: u64,
    commits: u64,
    calls: BTreeMap<u64, Call>,
    numbers: HashMap<InvocationId, u64>,
    /// The calls that have not ended, by acceptance number.
    held: BTreeSet<u64>,
    keys: HashMap<(Box<str>, Fingerprint), Remembered>,
    paused: BTreeSet<Pausable>,
    marks: BTreeMap<Arc<Partition>, Mark>,
    schedules: BTreeMap<ScheduleId, Kept>,
    totals: Totals,
    bodies: HashMap<u64, Vec<Bytes>>,
    bodies_made: u64,
    /// Lanes that `ready` named and no lease has found short since.
    named: BTreeSet<Lane>,
}

struct Call {
    place: Place,
    /// It was leased, held back by a due time or redriven: its place says nothing about its age any more.
    moved: bool,
    invocation: Invocation,
    standing: Standing,
    attempts: AttemptHistory,
    interrupted: u32,
    /// It has not run since it was interrupted: what it waits is counted from the last recovery.
    resting: bool,
    ended_at: Option<Timestamp>,
}

/// Where a call stands in its lane; smaller is sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Below zero for what was given back to the head of its lane; the less, the later it was.
    head: i64,
    /// When it joined the others: at acceptance, or when the wait of its retry is over.
    since: Duration,
    /// Tells apart what joined at one moment.
    nth: u64,
}

enum Standing {
    Waiting(Gate),
    Delivering { token: u64 },
    Completed,
    Dead { letter: DeadLetter, nth: u64 },
    Cancelled,
}

/// What `ready` finds.
enum Look {
    Ready(Vec<Lane>),
    Nothing { for_now: Option<Duration> },
    Closed,
}

/// What a waiting call waits for.
#[derive(Clone, Copy)]
enum Gate {
    /// Nothing but its turn.
    Open,
    /// A retry: on the monotonic clock while the process lives, by the wall clock over a restart.
    Retry { at: Duration, on_the_wall: Timestamp },
    /// A due time, on the wall clock.
    Due(Timestamp),
}

/// What was received of a partition, position by position.
#[derive(Default)]
struct Mark {
    /// All below this were received by somebody.
    floor: u64,
    received: BTreeSet<u64>,
    committed: Option<u64>,
}

impl Mark {
    fn has(&self, offset: u64) -> bool {
        offset < self.floor || self.received.contains(&offset)
    }

    /// The first offset that was not received.
    fn below(&self) -> u64 {
        (self.floor..).find(|offset| !self.has(*offset)).unwrap_or(u64::MAX)
    }

    /// Why it is not believed, when the upstream says this.
    fn void(&self, upstream: &Upstream) -> Option<Voided> {
        let Upstream { committed, earliest, end } = *upstream;
        let out = |position| Voided::OutOfRange { position, earliest, end };
        let top = self.received.last().map_or(self.floor, |last| self.floor.max(last + 1));
        match (self.committed, committed) {
            (Some(ours), None) => Some(Voided::CommitMissing { ours }),
            (Some(ours), Some(upstream)) if upstream < ours => Some(Voided::CommitBelow { ours, upstream }),
            _ if top > end => Some(out(top)),
            (_, Some(next)) if next > end || next.max(self.below()) < earliest => {
                Some(out(next.max(self.below())))
            }
            _ => None,
        }
    }
}

/// A schedule and the instants that ran.
struct Kept {
    schedule: Schedule,
    decided: Timestamp,
    ran: BTreeSet<Timestamp>,
}

impl Kept {
    fn state(&self, paused: &BTreeSet<Pausable>) -> ScheduleState {
        ScheduleState {
            schedule: self.schedule.clone(),
            paused: paused.contains(&Pausable::Schedule(self.schedule.id.clone())),
            decided: self.decided,
            last_fire: self.ran.last().copied(),
        }
    }
}

struct Remembered {
    request: Fingerprint,
    ids: Vec<InvocationId>,
    at: Timestamp,
}

impl Gate {
    fn retry(wait: Duration, clock: &dyn Clock) -> Gate {
        if wait.is_zero() {
            return Gate::Open;
        }
        Gate::Retry { at: clock.monotonic() + wait, on_the_wall: clock.now() + wait }
    }

    fn is_open(&self, clock: &dyn Clock) -> bool {
        self.opens_in(clock).is_zero()
    }

    fn opens_in(&self, clock: &dyn Clock) -> Duration {
        match self {
            Gate::Open => Duration::ZERO,
            Gate::Retry { at, .. } => at.saturating_sub(clock.monotonic()),
            Gate::Due(due) => due.since(clock.now()),
        }
    }
}

impl Call {
    fn may_run(&self, clock: &dyn Clock) -> bool {
        matches!(&self.standing, Standing::Waiting(gate) if gate.is_open(clock))
    }

    fn state(&self) -> State {
        match self.standing {
            Standing::Waiting(_) => State::Waiting,
            Standing::Delivering { .. } => State::Delivering,
            Standing::Completed => State::Completed,
            Standing::Dead { .. } => State::Dead,
            Standing::Cancelled => State::Cancelled,
        }
    }

    fn tenure(&self) -> Tenure {
        match self.standing {
            Standing::Waiting(_) => Tenure::Free,
            Standing::Delivering { token } => Tenure::Held { life: self.invocation.life, token },
            Standing::Completed | Standing::Dead { .. } | Standing::Cancelled => Tenure::Ended,
        }
    }

    fn letter(&self) -> Option<&DeadLetter> {
        match &self.standing {
            Standing::Dead { letter, .. } => Some(letter),
            _ => None,
        }
    }

    fn record(&self, clock: &dyn Clock) -> Record {
        let next_attempt_at = match &self.standing {
            Standing::Waiting(gate) if gate.is_open(clock) => None,
            Standing::Waiting(Gate::Retry { on_the_wall, .. }) => Some(*on_the_wall),
            Standing::Waiting(Gate::Due(due)) => Some(*due),
            _ => None,
        };
        Record {
            invocation: self.invocation.clone(),
            state: self.state(),
            attempts: self.attempts.clone(),
            interrupted: self.interrupted,
            next_attempt_at,
            ended_at: self.ended_at,
            dead_letter: self.letter().cloned(),
        }
    }

    fn meets(&self, filter: &Filter, with_state: bool) -> bool {
        let call = &self.invocation;
        filter.function.as_ref().is_none_or(|function| call.target.function() == Some(function))
            && (!with_state || filter.state.is_none_or(|state| state == self.state()))
            && filter.call_id.as_ref().is_none_or(|id| *id == call.call_id)
            && filter.reason.is_none_or(|reason| self.letter().is_some_and(|letter| letter.reason == reason))
    }
}

impl ReferenceStore {
    /// A new, empty store.
    pub fn new(bounds: Bounds, clock: Arc<dyn Clock>) -> ReferenceStore {
        let disk = Disk { bounds, ..Disk::default() };
        let disk = Arc::new(Mutex::new(disk));
        ReferenceStore { disk, changed: Arc::default(), door: Arc::default(), clock, process: 0 }
    }

    /// The hold of the next process on the same store; this one answers [`StoreError::Closed`] from now on.
    ///
    /// After [`InvocationQueue::close`] it is a restart like any other. Without it the process died: what it was
    /// delivering comes back with one more interruption, and waits the longer the more often that happened.
    pub fn reopen(&self) -> ReferenceStore {
        let mut disk = self.lock();
        let died = !disk.closed;
        let clock = &*self.clock;
        disk.process += 1;
        disk.closed = false;
        disk.named.clear();
        let Disk { held, calls, .. } = &mut *disk;
        for number in held.iter() {
            let call = calls.get_mut(number).expect("what is held is among the calls");
            match call.standing {
                Standing::Delivering { .. } if died => {
                    call.interrupted += 1;
                    call.resting = true;
                    let wait = wait_after_interruptions(call.interrupted);
                    call.standing = Standing::Waiting(Gate::retry(wait, clock));
                }
                Standing::Delivering { .. } => call.standing = Standing::Waiting(Gate::Open),
                Standing::Waiting(_) if call.resting => {
                    let wait = wait_after_interruptions(call.interrupted);
                    call.standing = Standing::Waiting(Gate::retry(wait, clock));
                }
                Standing::Waiting(Gate::Retry { on_the_wall, .. }) => {
                    let at = clock.monotonic() + on_the_wall.since(clock.now());
                    call.standing = Standing::Waiting(Gate::Retry { at, on_the_wall });
                }
                _ => {}
            }
        }
        disk.drop_orphans();
        let process = disk.process;
        drop(disk);
        ReferenceStore {
            disk: self.disk.clone(),
            changed: Arc::default(),
            door: Arc::default(),
            clock: self.clock.clone(),
            process,
        }
    }

    /// From now on new work is refused with this, as by a full disk; `None` ends it. Settling goes on.
    pub fn refuse(&self, why: Option<StoreError>) {
        self.lock().refusal = why;
    }

    /// What is to be accepted waits until this is dropped, as for a slow disk.
    pub async fn hold(&self) -> impl Sized + use<> {
        self.door.clone().write_owned().await
    }

    /// How many acceptances ever came, answered or not.
    pub fn came(&self) -> u64 {
        self.lock().came
    }

    /// The next lease panics, as a bug in the dispatcher would.
    pub fn panic_at_lease(&self) {
        self.lock().bug = true;
    }

    /// Claims these of a lane in this order, if a lease of `n` may answer so: for an oracle that follows another store.
    ///
    /// # Errors
    /// What the lease should not have done.
    pub fn lease_as(&self, lane: &Lane, n: usize, chosen: &[InvocationId]) -> Result<Vec<Delivery>, String> {
        let mut disk = self.lock();
        let clock = &*self.clock;
        let may_run = disk.may_run(lane, clock);
        if chosen.len() != n.min(may_run.len()) {
            return Err(format!("asked for {n} of {} in {lane:?}, got {}", may_run.len(), chosen.len()));
        }
        let mut claimed = Vec::new();
        for id in chosen {
            match disk.numbers.get(id) {
                Some(number) if may_run.contains(number) && !claimed.contains(number) => {
                    claimed.push(*number)
                }
                _ => return Err(format!("{id} was leased and may not run in {lane:?}")),
            }
        }
        // Age decides among those that never left their place; where the others come back to is the engine's own choice.
        let in_place = |numbers: &[u64]| -> Vec<u64> {
            numbers.iter().filter(|number| !disk.calls[*number].moved).copied().collect()
        };
        let (got, expected) = (in_place(&claimed), in_place(&may_run));
        if !expected.starts_with(&got) {
            return Err(format!("leased {got:?} of {lane:?}, where {expected:?} wait in this order"));
        }
        if claimed.len() < n {
            disk.named.remove(lane);
        }
        Ok(claimed.into_iter().map(|number| disk.claim(number)).collect())
    }

    /// Names the lanes that may run and were not named, or says when to look again.
    fn look(&self) -> Look {
        let Ok(mut disk) = self.open() else { return Look::Closed };
        let clock = &*self.clock;
        let mut ready = BTreeSet::new();
        let mut for_now = None;
        for call in disk.held.iter().map(|number| &disk.calls[number]) {
            let lane = &call.invocation.lane;
            match call.standing {
                Standing::Waiting(gate) if !disk.named.contains(lane) => {
                    if gate.is_open(clock) {
                        ready.insert(lane.clone());
                    } else {
                        let wait = sleep_before(&gate, clock);
                        for_now = Some(for_now.map_or(wait, |sooner: Duration| sooner.min(wait)));
                    }
                }
                _ => {}
            }
        }
        if ready.is_empty() {
            return Look::Nothing { for_now };
        }
        disk.named.extend(ready.iter().cloned());
        Look::Ready(ready.into_iter().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, while this process is the one that has it open.
    fn open(&self) -> Result<MutexGuard<'_, Disk>, StoreError> {
        let disk = self.lock();
        if disk.closed || disk.process != self.process { Err(StoreError::Closed) } else { Ok(disk) }
    }
}

impl Disk {
    /// The calls of a lane that may run now, in lane order.
    fn may_run(&self, lane: &Lane, clock: &dyn Clock) -> Vec<u64> {
        let mut ready: Vec<(Place, u64)> = self
            .held
            .iter()
            .map(|number| (number, &self.calls[number]))
            .filter(|(_, call)| call.invocation.lane == *lane && call.may_run(clock))
            .map(|(number, call)| (call.place, *number))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, number)| number).collect()
    }

    fn claim(&mut self, number: u64) -> Delivery {
        self.leases += 1;
        let token = self.leases;
        let call = self.calls.get_mut(&number).expect("a number comes from the calls themselves");
        call.standing = Standing::Delivering { token };
        call.moved = true;
        call.resting = false;
        Delivery {
            lease: Lease { id: call.invocation.id, life: call.invocation.life, token },
            invocation: call.invocation.clone(),
            made: u32::try_from(call.attempts.len()).unwrap_or(u32::MAX),
            interrupted: call.interrupted,
        }
    }

    /// The answer to a repeat, when this is one.
    fn repeat(&self, acceptance: &Acceptance, now: Timestamp) -> Result<Option<Accepted>, StoreError> {
        if let Some(position) = &acceptance.position
            && self.marks.get(&position.partition).is_some_and(|mark| mark.has(position.offset))
        {
            return Ok(Some(Accepted::Duplicate(Vec::new())));
        }
        if let Some((fire, instant)) = acceptance.fire.as_ref().and_then(|fire| Some((fire, fire.instant?))) {
            match self.schedules.get(&fire.schedule) {
                None => return Err(StoreError::NoSchedule(fire.schedule.clone())),
                Some(kept) if kept.ran.contains(&instant.at) => {
                    return Ok(Some(Accepted::Duplicate(Vec::new())));
                }
                Some(_) => {}
            }
        }
        let Some(key) = &acceptance.dedup else { return Ok(None) };
        match self.keys.get(&(key.scope.clone(), key.key)) {
            Some(known) if now.since(known.at) >= self.bounds.dedup_window => Ok(None),
            Some(known) if known.request != key.request => Err(StoreError::KeyReused),
            Some(known) => Ok(Some(Accepted::Duplicate(known.ids.clone()))),
            None => Ok(None),
        }
    }

    /// Counts what an acceptance says of its position and its instant.
    fn receive(&mut self, acceptance: &Acceptance) {
        if let Some(position) = &acceptance.position {
            self.marks.entry(position.partition.clone()).or_default().received.insert(position.offset);
        }
        if let Some((fire, instant)) = acceptance.fire.as_ref().and_then(|fire| Some((fire, fire.instant?)))
            && let Some(kept) = self.schedules.get_mut(&fire.schedule)
        {
            kept.ran.insert(instant.at);
            kept.decided = kept.decided.max(instant.at);
        }
    }

    fn refuses(&self, acceptance: &Acceptance) -> Result<(), StoreError> {
        if let Some(why) = &self.refusal {
            return Err(why.clone());
        }
        match &acceptance.body {
            Body::Stored(stored) if self.pieces(stored).is_none() => Err(StoreError::NoBody),
            _ => Ok(()),
        }
    }

    fn take(&mut self, acceptance: Acceptance, clock: &dyn Clock) -> Vec<InvocationId> {
        let (now, since) = (clock.now(), clock.monotonic());
        let Acceptance { origin, headers, body, drafts, dedup, .. } = acceptance;
        let mut ids = Vec::with_capacity(drafts.len());
        for Draft { lane, target, call_id, due, max_age } in drafts {
            self.accepted += 1;
            let number = self.accepted;
            let id = id(now, number);
            let invocation = Invocation {
                id,
                life: 1,
                lane,
                target,
                origin: origin.clone(),
                call_id,
                headers: headers.clone(),
                body: body.clone(),
                accepted_at: now,
                life_began_at: now,
                due,
                max_age,
            };
            let gate = due.filter(|due| *due > now).map_or(Gate::Open, Gate::Due);
            let call = Call {
                place: self.last_place(since),
                moved: !matches!(gate, Gate::Open),
                invocation,
                standing: Standing::Waiting(gate),
                attempts: AttemptHistory::default(),
                interrupted: 0,
                resting: false,
                ended_at: None,
            };
            self.calls.insert(number, call);
            self.numbers.insert(id, number);
            self.held.insert(number);
            self.totals.accepted[origin.index()] += 1;
            ids.push(id);
        }
        if let Some(key) = dedup {
            let remembered = Remembered { request: key.request, ids: ids.clone(), at: now };
            self.keys.insert((key.scope, key.key), remembered);
        }
        ids
    }

    /// Behind whatever joined until then.
    fn last_place(&mut self, since: Duration) -> Place {
        self.joined += 1;
        Place { head: 0, since, nth: self.joined }
    }

    fn end(&mut self, number: u64, standing: Standing, now: Timestamp) {
        let call = self.calls.get_mut(&number).expect("a number comes from the calls themselves");
        match &standing {
            Standing::Completed => self.totals.completed += 1,
            Standing::Cancelled => self.totals.cancelled += 1,
            Standing::Dead { letter, .. } => {
                let nth = Reason::ALL.iter().position(|reason| *reason == letter.reason);
                self.totals.dead[nth.expect("Reason::ALL holds every reason")] += 1;
            }
            Standing::Waiting(_) | Standing::Delivering { .. } => unreachable!("these are not ends"),
        }
        call.standing = standing;
        call.ended_at = Some(now);
        self.held.remove(&number);
    }

    fn die(&mut self, number: u64, reason: Reason, detail: &str, now: Timestamp) {
        self.deaths += 1;
        let nth = self.deaths;
        let id = self.calls[&number].invocation.id;
        let letter = DeadLetter { id, reason, detail: detail.into(), died_at: now };
        self.end(number, Standing::Dead { letter, nth }, now);
    }

    fn dead_kept(&self) -> u64 {
        self.calls.values().filter(|call| call.letter().is_some()).count() as u64
    }

    fn pieces(&self, stored: &StoredBody) -> Option<&Vec<Bytes>> {
        let key = <[u8; 8]>::try_from(&*stored.location).ok()?;
        self.bodies.get(&u64::from_le_bytes(key))
    }

    /// Drops the bodies that no call refers to.
    fn drop_orphans(&mut self) {
        let wanted: HashSet<Box<[u8]>> = self
            .calls
            .values()
            .filter_map(|call| match &call.invocation.body {
                Body::Stored(stored) => Some(stored.location.clone()),
                Body::Inline(_) => None,
            })
            .collect();
        self.bodies.retain(|key, _| wanted.contains(&key.to_le_bytes()[..]));
    }

    fn commit(&mut self) {
        self.commits += 1;
    }

    fn page<'a>(
        newest_first: impl Iterator<Item = (u64, &'a Call)>,
        page: &Page,
        clock: &dyn Clock,
    ) -> Result<Listed, StoreError> {
        let before = match &page.cursor {
            Some(cursor) => cursor.parse().map_err(|_| StoreError::BadCursor)?,
            None => u64::MAX,
        };
        let mut found = newest_first.filter(|(place, _)| *place < before).peekable();
        let mut listed = Listed::default();
        while listed.items.len() < page.limit.max(1) {
            let Some((place, call)) = found.next() else { break };
            listed.items.push(call.record(clock));
            listed.next = found.peek().is_some().then(|| place.to_string());
        }
        Ok(listed)
    }
}

/// A UUIDv7 whose free bits carry the acceptance number.
fn id(now: Timestamp, number: u64) -> InvocationId {
    let (version, variant) = (0x7_u128 << 76, 0b10_u128 << 62);
    InvocationId::from_u128((u128::from(now.as_millis()) << 80) | version | variant | u128::from(number))
}

#[async_trait]
impl InvocationQueue for ReferenceStore {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        self.lock().came += 1;
        let _open = self.door.read().await;
        let mut disk = self.open()?;
        if let Some(repeat) = disk.repeat(&acceptance, self.clock.now())? {
            return Ok(repeat);
        }
        disk.refuses(&acceptance)?;
        let waiting = disk.held.len() as u64;
        if waiting + acceptance.drafts.len() as u64 > disk.bounds.waiting {
            return Err(StoreError::TooManyWaiting { waiting });
        }
        disk.receive(&acceptance);
        let ids = disk.take(acceptance, &*self.clock);
        disk.commit();
        self.changed.notify_one();
        Ok(Accepted::New(ids))
    }

    async fn bury(
        &self,
        acceptance: Acceptance,
        reason: Reason,
        detail: &str,
    ) -> Result<Accepted, StoreError> {
        let mut disk = self.open()?;
        let now = self.clock.now();
        if let Some(repeat) = disk.repeat(&acceptance, now)? {
            return Ok(repeat);
        }
        disk.refuses(&acceptance)?;
        disk.receive(&acceptance);
        let ids = disk.take(acceptance, &*self.clock);
        for id in &ids {
            let number = disk.numbers[id];
            disk.die(number, reason, detail, now);
        }
        disk.commit();
        Ok(Accepted::New(ids))
    }

    // It may be forgotten; here it is not.
    fn pass(&self, position: &Position) {
        if let Ok(mut disk) = self.open() {
            disk.marks.entry(position.partition.clone()).or_default().received.insert(position.offset);
        }
    }

    async fn lease(&self, wanted: &[(Lane, usize)]) -> Result<Vec<Delivery>, StoreError> {
        let bug = std::mem::take(&mut self.lock().bug);
        assert!(!bug, "a test asked for this bug");
        let mut disk = self.open()?;
        let mut deliveries = Vec::new();
        for (lane, n) in wanted {
            let chosen: Vec<u64> = disk.may_run(lane, &*self.clock).into_iter().take(*n).collect();
            if chosen.len() < *n {
                disk.named.remove(lane);
            }
            deliveries.extend(chosen.into_iter().map(|number| disk.claim(number)));
        }
        // A lane found short may gain by mere passing of time: whoever waits for it has to look again.
        self.changed.notify_one();
        Ok(deliveries)
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Settled, StoreError> {
        let mut disk = self.open()?;
        let (clock, now) = (&*self.clock, self.clock.now());
        let current = disk
            .numbers
            .get(&lease.id)
            .copied()
            .filter(|number| may_settle(disk.calls[number].tenure(), lease));
        let Some(number) = current else { return Ok(Settled::Superseded) };
        let lane = disk.calls[&number].invocation.lane.clone();
        let first_place = disk
            .held
            .iter()
            .map(|number| &disk.calls[number])
            .filter(|call| call.invocation.lane == lane)
            .map(|call| call.place)
            .min();
        let last_place = match &settlement {
            Settlement::Retry { wait, .. } => Some(disk.last_place(clock.monotonic() + *wait)),
            _ => None,
        };
        let call = disk.calls.get_mut(&number).expect("found a moment ago under the same lock");
        let follows = match settlement {
            Settlement::Completed { attempt, then } => {
                call.attempts.push(attempt);
                disk.end(number, Standing::Completed, now);
                then
            }
            Settlement::Retry { attempt, wait } => {
                call.attempts.push(attempt);
                call.standing = Standing::Waiting(Gate::retry(wait, clock));
                call.place = last_place.unwrap_or(call.place);
                Vec::new()
            }
            Settlement::Released { wait } => {
                call.standing = Standing::Waiting(Gate::retry(wait, clock));
                if let (true, Some(first)) = (wait.is_zero(), first_place) {
                    call.place = call.place.min(Place { head: first.head - 1, ..first });
                }
                Vec::new()
            }
            Settlement::Dead { attempt, reason, detail, then } => {
                if let Some(attempt) = attempt {
                    call.attempts.push(attempt);
                }
                disk.die(number, reason, &detail, now);
                then
            }
        };
        let ids = follows.into_iter().flat_map(|acceptance| disk.take(acceptance, clock)).collect();
        disk.commit();
        self.changed.notify_one();
        Ok(Settled::Done(ids))
    }

    async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        let mut disk = self.open()?;
        let Some(number) = disk.numbers.get(&id).copied() else { return Ok(Cancelled::Unknown) };
        let answer = match disk.calls[&number].state() {
            State::Waiting => Cancelled::Waiting,
            State::Delivering => Cancelled::Delivering,
            State::Completed | State::Dead | State::Cancelled => return Ok(Cancelled::TooLate),
        };
        disk.end(number, Standing::Cancelled, self.clock.now());
        disk.commit();
        Ok(answer)
    }

    async fn redrive(&self, id: InvocationId) -> Result<u32, RedriveError> {
        let mut disk = self.open()?;
        let Some(number) = disk.numbers.get(&id).copied() else { return Err(RedriveError::Unknown(id)) };
        let call = disk.calls.get_mut(&number).expect("every known id has its call");
        let Some(reason) = call.letter().map(|letter| letter.reason) else {
            return Err(RedriveError::NotDead(id));
        };
        if !reason.is_redrivable() {
            return Err(RedriveError::NothingToRun(reason));
        }
        call.invocation.life += 1;
        call.invocation.life_began_at = self.clock.now();
        call.standing = Standing::Waiting(Gate::Open);
        call.attempts = AttemptHistory::default();
        call.interrupted = 0;
        call.resting = false;
        call.ended_at = None;
        let life = call.invocation.life;
        disk.held.insert(number);
        disk.totals.redriven += 1;
        disk.commit();
        self.changed.notify_one();
        Ok(life)
    }

    async fn remove(&self, id: InvocationId) -> Result<bool, StoreError> {
        let mut disk = self.open()?;
        let dead = disk.numbers.get(&id).copied().filter(|number| disk.calls[number].letter().is_some());
        let Some(number) = dead else { return Ok(false) };
        disk.calls.remove(&number);
        disk.numbers.remove(&id);
        disk.totals.removed += 1;
        disk.drop_orphans();
        disk.commit();
        Ok(true)
    }

    async fn pause(&self, what: Pausable) -> Result<(), StoreError> {
        let mut disk = self.open()?;
        disk.paused.insert(what);
        disk.commit();
        Ok(())
    }

    async fn resume(&self, what: Pausable) -> Result<(), StoreError> {
        let mut disk = self.open()?;
        disk.paused.remove(&what);
        disk.commit();
        Ok(())
    }

    fn paused(&self) -> Vec<Pausable> {
        self.lock().paused.iter().cloned().collect()
    }

    async fn ready(&self) -> Vec<Lane> {
        loop {
            match self.look() {
                Look::Ready(lanes) => return lanes,
                Look::Closed => std::future::pending().await,
                Look::Nothing { for_now: None } => self.changed.notified().await,
                Look::Nothing { for_now: Some(wait) } => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.open()?.closed = true;
        Ok(())
    }
}

/// How long to sleep before looking at a gate again: the wall clock may jump meanwhile, so it is looked at each second.
fn sleep_before(gate: &Gate, clock: &dyn Clock) -> Duration {
    let left = gate.opens_in(clock);
    match gate {
        Gate::Due(_) => left.min(Duration::from_secs(1)),
        Gate::Open | Gate::Retry { .. } => left,
    }
}

#[async_trait]
impl Positions for ReferenceStore {
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        let mut disk = self.open()?;
        let voided = match disk.marks.get(partition) {
            Some(mark) => mark.void(&upstream),
            None => disk.marks.keys().find(|other| other.is_place_of(partition)).map(|other| {
                Voided::AnotherStream { was: other.incarnation().into(), is: partition.incarnation().into() }
            }),
        };
        disk.marks
            .retain(|other, _| !other.is_place_of(partition) || (*other == *partition && voided.is_none()));
        let mark = disk.marks.entry(partition.clone()).or_default();
        let from = match upstream.committed {
            Some(next) => {
                let start = if next > upstream.end { upstream.earliest } else { next.max(upstream.earliest) };
                mark.floor = mark.floor.max(start);
                Some(mark.below())
            }
            None if mark.below() > 0 => Some(mark.below().max(upstream.earliest)),
            None => None,
        };
        mark.committed = upstream.committed.filter(|next| *next <= upstream.end);
        disk.commit();
        Ok(Resume { from, voided })
    }

    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError> {
        let mut disk = self.open()?;
        let mark = disk.marks.entry(partition.clone()).or_default();
        mark.floor = mark.floor.max(next);
        mark.committed = Some(next);
        disk.commit();
        Ok(())
    }

    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError> {
        let mut disk = self.open()?;
        let before = disk.marks.len();
        disk.marks.retain(|partition, _| partition.source() != source);
        disk.commit();
        Ok(before - disk.marks.len())
    }

    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus> {
        let disk = self.lock();
        let of_source = |partition: &Partition| source.is_none_or(|source| partition.source() == source);
        disk.marks
            .iter()
            .filter(|(partition, _)| of_source(partition))
            .map(|(partition, mark)| {
                let below = mark.below();
                let above: Vec<u64> =
                    mark.received.iter().copied().filter(|offset| *offset > below).collect();
                MarkStatus {
                    partition: partition.clone(),
                    below,
                    ranges: above.chunk_by(|a, b| a + 1 == *b).count(),
                    committed: mark.committed,
                }
            })
            .collect()
    }
}

#[async_trait]
impl Schedules for ReferenceStore {
    async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState, StoreError> {
        let mut disk = self.open()?;
        disk.commit();
        let Disk { schedules, paused, .. } = &mut *disk;
        let decided = schedule.anchor;
        let kept = schedules.entry(schedule.id.clone());
        let kept = kept.or_insert_with(|| Kept { schedule, decided, ran: BTreeSet::new() });
        Ok(kept.state(paused))
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        let mut disk = self.open()?;
        let removed = disk.schedules.remove(id).is_some();
        if removed {
            disk.paused.remove(&Pausable::Schedule(id.clone()));
        }
        disk.commit();
        Ok(removed)
    }

    async fn pass_over(&self, id: &ScheduleId, until: Timestamp) -> Result<bool, StoreError> {
        let mut disk = self.open()?;
        disk.commit();
        let Some(kept) = disk.schedules.get_mut(id) else { return Ok(false) };
        kept.decided = kept.decided.max(until);
        Ok(true)
    }

    fn schedules(&self) -> Vec<ScheduleState> {
        let disk = self.lock();
        disk.schedules.values().map(|kept| kept.state(&disk.paused)).collect()
    }
}

#[async_trait]
impl Ledger for ReferenceStore {
    fn totals(&self) -> Totals {
        let disk = self.lock();
        Totals { held: disk.held.len() as u64, dead_kept: disk.dead_kept(), ..disk.totals.clone() }
    }

    fn lanes(&self) -> Vec<LaneStats> {
        let disk = self.lock();
        let clock = &*self.clock;
        let mut lanes: BTreeMap<Lane, LaneStats> = BTreeMap::new();
        for call in disk.held.iter().map(|number| &disk.calls[number]) {
            let lane = &call.invocation.lane;
            let stats = lanes.entry(lane.clone()).or_insert_with(|| LaneStats {
                lane: lane.clone(),
                ready: 0,
                retrying: 0,
                scheduled: 0,
                delivering: 0,
            });
            match call.standing {
                Standing::Delivering { .. } => stats.delivering += 1,
                Standing::Waiting(gate) if gate.is_open(clock) => stats.ready += 1,
                Standing::Waiting(Gate::Due(_)) => stats.scheduled += 1,
                Standing::Waiting(_) => stats.retrying += 1,
                Standing::Completed | Standing::Dead { .. } | Standing::Cancelled => {}
            }
        }
        lanes.into_values().collect()
    }

    fn health(&self) -> StoreHealth {
        let disk = self.lock();
        let refusing = match &disk.refusal {
            _ if disk.closed || disk.process != self.process => Some(Refusing::Closed),
            Some(why @ StoreError::Failed { .. }) => Some(Refusing::Failed(why.to_string().into())),
            Some(why) => Some(Refusing::Full(why.to_string().into())),
            None => None,
        };
        let bytes = disk.bodies.values().flatten().map(|piece| piece.len() as u64).sum();
        StoreHealth {
            refusing,
            durability: "memory",
            disk_bytes: bytes,
            live_bytes: bytes,
            commits: disk.commits,
            dedup_window: disk.bounds.dedup_window,
            ..StoreHealth::default()
        }
    }

    async fn find(&self, id: InvocationId) -> Result<Option<Record>, StoreError> {
        let disk = self.open()?;
        Ok(disk.numbers.get(&id).map(|number| disk.calls[number].record(&*self.clock)))
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        let disk = self.open()?;
        let found = disk.calls.iter().rev().filter(|(_, call)| call.meets(filter, true));
        Disk::page(found.map(|(number, call)| (*number, call)), page, &*self.clock)
    }

    async fn dead_letters(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        let disk = self.open()?;
        let mut dead: Vec<(u64, &Call)> = disk
            .calls
            .values()
            .filter(|call| call.meets(filter, false))
            .filter_map(|call| match call.standing {
                Standing::Dead { nth, .. } => Some((nth, call)),
                _ => None,
            })
            .collect();
        dead.sort_unstable_by_key(|(nth, _)| std::cmp::Reverse(*nth));
        Disk::page(dead.into_iter(), page, &*self.clock)
    }
}

#[async_trait]
impl BodyReader for ReferenceStore {
    async fn read(&self, body: &Body) -> Result<BodyChunks, StoreError> {
        let whole = match body {
            Body::Inline(bytes) => vec![bytes.clone()],
            Body::Stored(stored) => self.open()?.pieces(stored).cloned().ok_or(StoreError::NoBody)?,
        };
        let pieces: Vec<Result<Bytes, StoreError>> = whole
            .into_iter()
            .flat_map(|mut bytes| {
                std::iter::from_fn(move || {
                    (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(PIECE))))
                })
            })
            .collect();
        Ok(Box::pin(futures::stream::iter(pieces)))
    }

    async fn spool(&self) -> Result<Box<dyn Spool>, StoreError> {
        let disk = self.open()?;
        match &disk.refusal {
            Some(why) => Err(why.clone()),
            None => Ok(Box::new(SpoolInMemory { store: self.clone(), pieces: Vec::new() })),
        }
    }
}

struct SpoolInMemory {
    store: ReferenceStore,
    pieces: Vec<Bytes>,
}

#[async_trait]
impl Spool for SpoolInMemory {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        drop(self.store.open()?);
        self.pieces.push(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Body, StoreError> {
        let mut disk = self.store.open()?;
        disk.bodies_made += 1;
        let key = disk.bodies_made;
        let len = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        disk.bodies.insert(key, self.pieces);
        Ok(Body::Stored(StoredBody { len, location: key.to_le_bytes().into() }))
    }
}

impl fmt::Debug for ReferenceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.lock();
        write!(f, "ReferenceStore(process {}, {} held of {})", self.process, disk.held.len(), disk.accepted)
    }
}
