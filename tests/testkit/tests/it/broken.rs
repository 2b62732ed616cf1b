//! The contract can fail: stores with one fault each, and the rules that must find it.
//!
//! Each is the reference store behind a wrapper that does one thing wrong. The wrapper without a fault passes
//! everything, so what a rule finds is the fault.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_model::ledger::{Filter, LaneStats, Listed, Page, StoreHealth};
use broker_model::position::MarkStatus;
use broker_model::queue::{Cancelled, Pausable, RedriveError, Settled};
use broker_model::schedule::Instant;
use broker_model::{
    Acceptance, Accepted, Body, BodyChunks, BodyReader, Clock, Delivery, Fingerprint, Fire, InvocationId,
    InvocationQueue, Lane, Lease, Ledger, Partition, Position, Positions, Reason, Record, Resume, Schedule,
    ScheduleId, ScheduleState, Schedules, Settlement, SourceName, Spool, StoreError, Timestamp, Totals,
    Upstream,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use testkit::contract::store::{Engine, disagreement, rules};
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::TestClock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ForgetsKeysOverAReopening,
    TakesAnyRequestForAKey,
    CallsARepeatNew,
    SharesKeysBetweenScopes,
    AcceptsFanOutsOneByOne,
    RefusesCallbacksAtTheBound,
    SettlesTwice,
    IgnoresLateLeases,
    LosesWhatFollowsInAKill,
    LosesTheLastAcceptanceInAKill,
    RetriesEarly,
    RetriesByTheWallClock,
    RetriesTheOldestFirst,
    DueByTheMonotonicClock,
    GivesTheNewestFirst,
    GivesOneCallTwice,
    LosesASignalWithADroppedReady,
    NeverNamesALaneAgain,
    NamesALaneAgainAndAgain,
    CountsACloseAsADeath,
    CountsNoDeaths,
    CountsAReleaseAsAnAttempt,
    CancelsNothing,
    KeepsAttemptsOverARedrive,
    RedrivesWhatHasNothingToRun,
    RemovesNothing,
    ForgetsPauses,
    ForgetsPositionsOverAReopening,
    TakesAPositionTwice,
    ForgetsPositionsWithTheirCalls,
    BelievesEveryMark,
    BelievesNoMark,
    KeepsMarksOverAReset,
    RunsAnInstantTwice,
    RunsNothingBeforeTheLast,
    CountsRunsByHand,
    ForgetsAnchors,
    ForgetsWhatWasPassedOver,
    RunsUnknownSchedules,
    CutsLargeBodies,
    ReadsBodiesInOnePiece,
    PagesByOffset,
    ListsOldestFirst,
    LosesCountInTotals,
    IgnoresAFilter,
    WorksOnWhenClosed,
}

thread_local! {
    /// What is wrong with the stores that this test makes; a rule prepares its store on the thread that checks it.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

/// What a broken store remembers beside the whole one it wraps.
#[derive(Default)]
struct Aside {
    process: u64,
    followed: Vec<InvocationId>,
    last_accepted: Vec<InvocationId>,
    given: Option<(Lease, broker_model::Invocation)>,
    named: Vec<Lane>,
    ever_named: Vec<Lane>,
    closed: bool,
}

struct BrokenStore {
    fault: Fault,
    inner: ReferenceStore,
    aside: Mutex<Aside>,
}

struct Broken {
    fault: Fault,
    whole: ReferenceStore,
    opened: u64,
    last: Option<Arc<BrokenStore>>,
}

/// A clock that does not know of jumps, or knows of nothing but the wall.
#[derive(Debug)]
struct BrokenClock {
    clock: Arc<TestClock>,
    fault: Fault,
}

impl Clock for BrokenClock {
    fn now(&self) -> Timestamp {
        match self.fault {
            Fault::DueByTheMonotonicClock => TestClock::BEGINNING + self.clock.monotonic(),
            _ => self.clock.now(),
        }
    }

    fn monotonic(&self) -> Duration {
        match self.fault {
            Fault::RetriesByTheWallClock => self.clock.now().since(Timestamp::EPOCH),
            _ => self.clock.monotonic(),
        }
    }
}

impl Engine for Broken {
    type Store = BrokenStore;

    async fn prepare(bounds: Bounds, clock: Arc<TestClock>) -> Self {
        let fault = FAULT.get();
        let whole = ReferenceStore::new(bounds, Arc::new(BrokenClock { clock, fault }));
        Broken { fault, whole, opened: 0, last: None }
    }

    async fn open(&mut self) -> Arc<BrokenStore> {
        self.opened += 1;
        if let Some(last) = self.last.take() {
            self.whole = last.inner.reopen();
        }
        if self.fault == Fault::ForgetsPositionsOverAReopening {
            for mark in self.whole.marks(None) {
                self.whole.reset_positions(mark.partition.source()).await.unwrap();
            }
        }
        if matches!(self.fault, Fault::ForgetsAnchors | Fault::ForgetsWhatWasPassedOver) {
            for state in self.whole.schedules() {
                self.whole.remove_schedule(&state.schedule.id).await.unwrap();
                if self.fault == Fault::ForgetsWhatWasPassedOver {
                    self.whole.put_schedule(state.schedule).await.unwrap();
                }
            }
        }
        if self.fault == Fault::ForgetsPauses {
            for what in self.whole.paused() {
                self.whole.resume(what).await.unwrap();
            }
        }
        let aside = Aside { process: self.opened, ..Aside::default() };
        let store = BrokenStore { fault: self.fault, inner: self.whole.clone(), aside: Mutex::new(aside) };
        self.last.insert(Arc::new(store)).clone()
    }

    async fn kill(&mut self, store: Arc<BrokenStore>) {
        let (followed, last) = {
            let aside = store.aside.lock().unwrap();
            (aside.followed.clone(), aside.last_accepted.clone())
        };
        match self.fault {
            Fault::LosesWhatFollowsInAKill => {
                for id in followed {
                    store.inner.cancel(id).await.unwrap();
                }
            }
            Fault::LosesTheLastAcceptanceInAKill => {
                for id in last {
                    store.inner.cancel(id).await.unwrap();
                }
            }
            Fault::CountsNoDeaths => {
                let _ = store.inner.close().await;
            }
            _ => {}
        }
    }
}

impl BrokenStore {
    fn breaks(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn disturb(&self, mut acceptance: Acceptance) -> Acceptance {
        let process = self.aside.lock().unwrap().process;
        if let Some(key) = &mut acceptance.dedup {
            match self.fault {
                Fault::ForgetsKeysOverAReopening => key.scope = format!("{}#{process}", key.scope).into(),
                Fault::TakesAnyRequestForAKey => key.request = Fingerprint(0),
                Fault::SharesKeysBetweenScopes => key.scope = "all".into(),
                _ => {}
            }
        }
        match self.fault {
            Fault::TakesAPositionTwice => acceptance.position = None,
            Fault::RunsAnInstantTwice => acceptance.fire = None,
            Fault::CountsRunsByHand => {
                if let Some(fire) = &mut acceptance.fire
                    && fire.instant.is_none()
                    && let Some(state) =
                        self.inner.schedules().iter().find(|s| s.schedule.id == fire.schedule)
                {
                    let at = state.decided + Duration::from_secs(60);
                    fire.instant = Some(Instant { at, after: state.decided });
                }
            }
            Fault::RunsUnknownSchedules => {
                let known =
                    |fire: &Fire| self.inner.schedules().iter().any(|s| s.schedule.id == fire.schedule);
                acceptance.fire = acceptance.fire.filter(|fire| known(fire));
            }
            _ => {}
        }
        acceptance
    }
}

#[async_trait]
impl Positions for BrokenStore {
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        match self.fault {
            Fault::BelievesEveryMark => {
                let ours = self.inner.marks(None).into_iter().find(|mark| mark.partition == *partition);
                let committed = upstream.committed.max(ours.and_then(|mark| mark.committed));
                self.inner.take_up(partition, Upstream { committed, earliest: 0, end: u64::MAX }).await
            }
            Fault::BelievesNoMark => {
                self.inner.reset_positions(partition.source()).await?;
                self.inner.take_up(partition, upstream).await
            }
            _ => self.inner.take_up(partition, upstream).await,
        }
    }

    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError> {
        self.inner.committed(partition, next).await
    }

    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError> {
        if self.breaks(Fault::KeepsMarksOverAReset) {
            return Ok(self.inner.marks(Some(source)).len());
        }
        self.inner.reset_positions(source).await
    }

    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus> {
        self.inner.marks(source)
    }
}

#[async_trait]
impl Schedules for BrokenStore {
    async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState, StoreError> {
        self.inner.put_schedule(schedule).await
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        self.inner.remove_schedule(id).await
    }

    async fn pass_over(&self, id: &ScheduleId, until: Timestamp) -> Result<bool, StoreError> {
        self.inner.pass_over(id, until).await
    }

    fn schedules(&self) -> Vec<ScheduleState> {
        self.inner.schedules()
    }
}

#[async_trait]
impl InvocationQueue for BrokenStore {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        let acceptance = self.disturb(acceptance);
        if let (Fault::RunsNothingBeforeTheLast, Some(fire)) = (self.fault, &acceptance.fire)
            && let Some(instant) = fire.instant
            && let Some(state) = self.inner.schedules().iter().find(|s| s.schedule.id == fire.schedule)
            && state.last_fire.is_some_and(|last| instant.at <= last)
        {
            return Ok(Accepted::Duplicate(Vec::new()));
        }
        if self.breaks(Fault::AcceptsFanOutsOneByOne) && acceptance.dedup.is_none() {
            let mut ids = Vec::new();
            for draft in &acceptance.drafts {
                let one = Acceptance { drafts: vec![draft.clone()], ..acceptance.clone() };
                ids.extend_from_slice(self.inner.accept(one).await?.ids());
            }
            return Ok(Accepted::New(ids));
        }
        let accepted = self.inner.accept(acceptance).await?;
        self.aside.lock().unwrap().last_accepted = accepted.ids().to_vec();
        match accepted {
            Accepted::Duplicate(ids) if self.breaks(Fault::CallsARepeatNew) => Ok(Accepted::New(ids)),
            accepted => Ok(accepted),
        }
    }

    async fn bury(
        &self,
        acceptance: Acceptance,
        reason: Reason,
        detail: &str,
    ) -> Result<Accepted, StoreError> {
        self.inner.bury(self.disturb(acceptance), reason, detail).await
    }

    fn pass(&self, position: &Position) {
        self.inner.pass(position);
    }

    async fn lease(&self, wanted: &[(Lane, usize)]) -> Result<Vec<Delivery>, StoreError> {
        if self.breaks(Fault::RetriesTheOldestFirst) {
            let mut given = Vec::new();
            for (lane, n) in wanted {
                let mut all = self.inner.lease(&[(lane.clone(), 1000)]).await?;
                all.sort_by_key(|delivery| delivery.lease.id);
                for delivery in all.split_off(all.len().min(*n)).into_iter().rev() {
                    self.inner.settle(delivery.lease, Settlement::Released { wait: Duration::ZERO }).await?;
                }
                given.extend(all);
            }
            return Ok(given);
        }
        let mut given = self.inner.lease(wanted).await?;
        if self.breaks(Fault::GivesTheNewestFirst) {
            given.reverse();
        }
        if self.breaks(Fault::GivesOneCallTwice) {
            let mut aside = self.aside.lock().unwrap();
            if let (true, Some((lease, invocation))) = (given.is_empty(), aside.given.take()) {
                given.push(Delivery { lease, invocation, made: 0, interrupted: 0 });
            }
            if let Some(first) = given.first() {
                aside.given = Some((first.lease, first.invocation.clone()));
            }
        }
        if self.breaks(Fault::KeepsAttemptsOverARedrive) {
            for delivery in given.iter_mut().filter(|delivery| delivery.lease.life > 1) {
                delivery.made += 1;
            }
        }
        Ok(given)
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Settled, StoreError> {
        let settlement = match settlement {
            Settlement::Retry { attempt, wait } if self.breaks(Fault::RetriesEarly) => {
                Settlement::Retry { attempt, wait: wait / 3 }
            }
            Settlement::Released { wait } if self.breaks(Fault::CountsAReleaseAsAnAttempt) => {
                let attempt = broker_model::Attempt {
                    number: 1,
                    started_at: Timestamp::EPOCH,
                    duration: Duration::ZERO,
                    outcome: broker_model::Outcome::TimedOut,
                    excerpt: Bytes::new(),
                };
                Settlement::Retry { attempt, wait }
            }
            Settlement::Completed { attempt, then } if self.breaks(Fault::RefusesCallbacksAtTheBound) => {
                for acceptance in then {
                    self.inner.accept(acceptance).await?;
                }
                Settlement::Completed { attempt, then: Vec::new() }
            }
            settlement => settlement,
        };
        if let (Fault::ForgetsPositionsWithTheirCalls, Settlement::Completed { .. }) =
            (self.fault, &settlement)
        {
            for mark in self.inner.marks(None) {
                self.inner.reset_positions(mark.partition.source()).await?;
            }
        }
        if self.breaks(Fault::IgnoresLateLeases) {
            // Whoever holds a lease of that life, current or not.
            let follows = match &settlement {
                Settlement::Completed { then, .. } | Settlement::Dead { then, .. } => then.clone(),
                _ => Vec::new(),
            };
            let settled = self.inner.settle(lease, settlement).await?;
            if settled == Settled::Superseded {
                for acceptance in follows {
                    self.inner.accept(acceptance).await?;
                }
            }
            return Ok(settled);
        }
        match self.inner.settle(lease, settlement).await? {
            Settled::Superseded if self.breaks(Fault::SettlesTwice) => Ok(Settled::Done(Vec::new())),
            Settled::Done(ids) => {
                self.aside.lock().unwrap().followed.extend_from_slice(&ids);
                Ok(Settled::Done(ids))
            }
            settled => Ok(settled),
        }
    }

    async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        if self.breaks(Fault::CancelsNothing) {
            return Ok(match self.inner.find(id).await?.map(|record| record.state) {
                Some(broker_model::State::Waiting) => Cancelled::Waiting,
                Some(broker_model::State::Delivering) => Cancelled::Delivering,
                Some(_) => Cancelled::TooLate,
                None => Cancelled::Unknown,
            });
        }
        self.inner.cancel(id).await
    }

    async fn redrive(&self, id: InvocationId) -> Result<u32, RedriveError> {
        match self.inner.redrive(id).await {
            Err(RedriveError::NothingToRun(_)) if self.breaks(Fault::RedrivesWhatHasNothingToRun) => Ok(2),
            redriven => redriven,
        }
    }

    async fn remove(&self, id: InvocationId) -> Result<bool, StoreError> {
        if self.breaks(Fault::RemovesNothing) {
            return Ok(self.inner.find(id).await?.is_some_and(|record| record.dead_letter.is_some()));
        }
        self.inner.remove(id).await
    }

    async fn pause(&self, what: Pausable) -> Result<(), StoreError> {
        self.inner.pause(what).await
    }

    async fn resume(&self, what: Pausable) -> Result<(), StoreError> {
        self.inner.resume(what).await
    }

    fn paused(&self) -> Vec<Pausable> {
        self.inner.paused()
    }

    async fn ready(&self) -> Vec<Lane> {
        if self.breaks(Fault::NamesALaneAgainAndAgain) {
            let named = self.aside.lock().unwrap().named.clone();
            let some: Vec<Lane> =
                self.inner.lanes().into_iter().filter(|l| l.ready > 0).map(|l| l.lane).collect();
            if some.iter().any(|lane| named.contains(lane)) {
                return some;
            }
        }
        let mut lanes = self.inner.ready().await;
        if self.breaks(Fault::LosesASignalWithADroppedReady) {
            // What was taken from the inner store is lost when the caller goes away here.
            tokio::task::yield_now().await;
        }
        if self.breaks(Fault::NeverNamesALaneAgain) {
            let known = |lane: &Lane| self.aside.lock().unwrap().ever_named.contains(lane);
            lanes.retain(|lane| !known(lane));
            if lanes.is_empty() {
                return std::future::pending().await;
            }
            self.aside.lock().unwrap().ever_named.extend(lanes.iter().cloned());
        }
        self.aside.lock().unwrap().named.extend(lanes.iter().cloned());
        lanes
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.aside.lock().unwrap().closed = true;
        match self.fault {
            Fault::CountsACloseAsADeath | Fault::WorksOnWhenClosed => Ok(()),
            _ => self.inner.close().await,
        }
    }
}

#[async_trait]
impl Ledger for BrokenStore {
    fn totals(&self) -> Totals {
        let mut totals = self.inner.totals();
        if self.breaks(Fault::LosesCountInTotals) && totals.redriven > 0 {
            totals.held += 1;
        }
        totals
    }

    fn lanes(&self) -> Vec<LaneStats> {
        self.inner.lanes()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn find(&self, id: InvocationId) -> Result<Option<Record>, StoreError> {
        self.inner.find(id).await
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        let mut filter = filter.clone();
        if self.breaks(Fault::IgnoresAFilter) {
            filter.call_id = None;
        }
        if self.breaks(Fault::PagesByOffset) {
            let all = self.inner.list(&filter, &Page { limit: 100_000, cursor: None }).await?.items;
            let offset: usize = page.cursor.as_deref().and_then(|c| c.parse().ok()).unwrap_or(0);
            let end = all.len().min(offset + page.limit);
            let next = (end < all.len()).then(|| end.to_string());
            return Ok(Listed { items: all[offset..end].to_vec(), next });
        }
        let mut listed = self.inner.list(&filter, page).await?;
        if self.breaks(Fault::ListsOldestFirst) {
            listed.items.reverse();
        }
        Ok(listed)
    }

    async fn dead_letters(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        self.inner.dead_letters(filter, page).await
    }
}

#[async_trait]
impl BodyReader for BrokenStore {
    async fn read(&self, body: &Body) -> Result<BodyChunks, StoreError> {
        let mut pieces = self.inner.read(body).await?;
        let large = matches!(body, Body::Stored(_));
        if !large || !matches!(self.fault, Fault::CutsLargeBodies | Fault::ReadsBodiesInOnePiece) {
            return Ok(pieces);
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            whole.extend_from_slice(&piece?);
            if self.breaks(Fault::CutsLargeBodies) {
                break;
            }
        }
        Ok(Box::pin(futures::stream::iter([Ok(whole.freeze())])))
    }

    async fn spool(&self) -> Result<Box<dyn Spool>, StoreError> {
        self.inner.spool().await
    }
}

/// The wrapper alone breaks nothing.
mod unbroken {
    testkit::store_contract!(super::Broken);
    testkit::store_agreement!(super::Broken, cases: 20);
}

/// Asserts that the rule does not hold for a store with this fault.
fn finds(fault: Fault, name: &str) {
    let all = rules::<Broken>();
    let rule = all.iter().find(|rule| rule.name == name);
    let rule = rule.unwrap_or_else(|| panic!("the contract has no rule {name:?}"));
    FAULT.set(fault);
    let held = catch_unwind(rule.check).is_ok();
    assert!(!held, "the rule {name:?} holds for a store that is broken: {fault:?}");
}

/// Asserts that random stories show the fault.
fn stories_find(fault: Fault) {
    FAULT.set(fault);
    let found = catch_unwind(AssertUnwindSafe(|| disagreement::<Broken>(2000, 0)));
    assert!(!matches!(found, Ok(None)), "no story shows what is broken: {fault:?}");
}

macro_rules! faults {
    ($($test:ident: $fault:ident, found by $($rule:ident)+ $(, and $stories:ident)?;)+) => {$(
        #[test]
        fn $test() {
            $(finds(Fault::$fault, stringify!($rule));)+
            $($stories(Fault::$fault);)?
        }
    )+};
}

faults! {
    a_store_that_forgets_keys_over_a_reopening_is_found: ForgetsKeysOverAReopening, found by
        keys_outlive_a_close_and_a_kill a_key_with_another_request_is_refused a_buried_message_is_recognised_again, and stories_find;
    a_store_that_takes_any_request_for_a_key_is_found: TakesAnyRequestForAKey, found by
        a_key_with_another_request_is_refused, and stories_find;
    a_store_that_calls_a_repeat_new_is_found: CallsARepeatNew, found by
        a_repeat_answers_with_the_first_ids concurrent_repeats_make_one_invocation, and stories_find;
    a_store_that_shares_keys_between_scopes_is_found: SharesKeysBetweenScopes, found by
        scopes_do_not_share_keys, and stories_find;
    a_store_that_accepts_fan_outs_one_by_one_is_found: AcceptsFanOutsOneByOne, found by
        a_fan_out_over_the_bound_leaves_nothing, and stories_find;
    a_store_that_refuses_callbacks_at_the_bound_is_found: RefusesCallbacksAtTheBound, found by
        callbacks_are_never_refused_for_a_bound, and stories_find;
    a_store_that_settles_twice_is_found: SettlesTwice, found by
        the_first_settlement_counts of_concurrent_settlements_one_counts a_cancelled_delivery_settles_nothing
        a_lease_of_an_earlier_life_settles_nothing a_lease_of_an_earlier_process_settles_nothing
        many_at_once_lose_nothing, and stories_find;
    a_store_where_something_follows_from_late_settlements_is_found: IgnoresLateLeases, found by
        the_first_settlement_counts a_cancelled_delivery_settles_nothing, and stories_find;
    a_store_that_loses_what_follows_in_a_kill_is_found: LosesWhatFollowsInAKill, found by
        what_follows_outlives_a_kill_with_its_settlement, and stories_find;
    a_store_that_loses_its_last_acceptance_in_a_kill_is_found: LosesTheLastAcceptanceInAKill, found by
        accepted_work_outlives_a_kill, and stories_find;
    a_store_that_retries_early_is_found: RetriesEarly, found by
        a_retry_is_not_early a_retry_waits_on_over_a_reopening, and stories_find;
    a_store_that_retries_by_the_wall_clock_is_found: RetriesByTheWallClock, found by
        jumps_of_the_wall_clock_leave_retries_alone, and stories_find;
    a_store_that_retries_the_oldest_first_is_found: RetriesTheOldestFirst, found by
        a_retried_call_comes_back_behind_the_others;
    a_store_that_is_deaf_to_jumps_of_the_wall_clock_is_found: DueByTheMonotonicClock, found by
        due_times_follow_the_wall_clock_ahead due_times_follow_the_wall_clock_back
        a_wait_that_ended_while_closed_is_over, and stories_find;
    a_store_that_gives_the_newest_first_is_found: GivesTheNewestFirst, found by
        a_lane_gives_its_oldest_first lanes_do_not_mix, and stories_find;
    a_store_that_gives_one_call_twice_is_found: GivesOneCallTwice, found by
        a_leased_call_is_not_leased_again, and stories_find;
    a_store_that_loses_a_signal_with_a_dropped_ready_is_found: LosesASignalWithADroppedReady, found by
        a_dropped_ready_loses_no_lane;
    a_store_that_never_names_a_lane_again_is_found: NeverNamesALaneAgain, found by
        a_lane_found_short_is_named_when_it_gains;
    a_store_that_names_a_lane_again_and_again_is_found: NamesALaneAgainAndAgain, found by
        ready_names_a_lane_once;
    a_store_that_counts_a_close_as_a_death_is_found: CountsACloseAsADeath, found by
        a_close_interrupts_nothing, and stories_find;
    a_store_that_counts_no_deaths_is_found: CountsNoDeaths, found by
        a_call_under_way_at_a_kill_was_interrupted, and stories_find;
    a_store_that_counts_a_release_as_an_attempt_is_found: CountsAReleaseAsAnAttempt, found by
        a_released_call_has_no_trace_of_a_start a_released_call_waits_as_told, and stories_find;
    a_store_that_cancels_nothing_is_found: CancelsNothing, found by
        what_waits_can_be_cancelled a_cancelled_delivery_settles_nothing, and stories_find;
    a_store_that_keeps_attempts_over_a_redrive_is_found: KeepsAttemptsOverARedrive, found by
        a_redriven_letter_begins_a_new_life, and stories_find;
    a_store_that_redrives_what_has_nothing_to_run_is_found: RedrivesWhatHasNothingToRun, found by
        what_has_nothing_to_run_is_not_redriven, and stories_find;
    a_store_that_removes_nothing_is_found: RemovesNothing, found by
        a_removed_letter_is_gone_for_good, and stories_find;
    a_store_that_forgets_pauses_is_found: ForgetsPauses, found by
        pauses_are_remembered pauses_of_schedules_are_remembered, and stories_find;
    a_store_that_forgets_positions_over_a_reopening_is_found: ForgetsPositionsOverAReopening, found by
        positions_outlive_a_close_and_a_kill a_buried_position_is_recognised_again
        what_is_below_the_commit_is_received a_void_mark_stays_void_over_a_kill
        a_reset_forgets_the_marks_of_one_source marks_outlive_the_calls_they_came_with
        a_partition_goes_on_where_it_was_received, and stories_find;
    a_store_that_takes_a_position_twice_is_found: TakesAPositionTwice, found by
        a_position_makes_one_invocation concurrent_repeats_of_a_position_make_one_invocation
        positions_do_not_expire a_refused_position_stays_free what_nobody_wanted_may_come_again, and stories_find;
    a_store_that_forgets_positions_with_their_calls_is_found: ForgetsPositionsWithTheirCalls, found by
        a_position_makes_one_invocation marks_outlive_the_calls_they_came_with, and stories_find;
    a_store_that_believes_every_mark_is_found: BelievesEveryMark, found by
        what_the_upstream_contradicts_is_void a_void_mark_stays_void_over_a_kill
        a_partition_goes_on_where_it_was_received, and stories_find;
    a_store_that_believes_no_mark_is_found: BelievesNoMark, found by
        a_partition_goes_on_where_it_was_received what_is_below_the_commit_is_received
        a_recreated_stream_is_read_anew, and stories_find;
    a_store_that_keeps_marks_over_a_reset_is_found: KeepsMarksOverAReset, found by
        a_reset_forgets_the_marks_of_one_source, and stories_find;
    a_store_that_runs_an_instant_twice_is_found: RunsAnInstantTwice, found by
        an_instant_runs_once concurrent_runs_of_an_instant_make_one_invocation
        instants_outlive_a_close_and_a_kill, and stories_find;
    a_store_that_runs_nothing_before_the_last_is_found: RunsNothingBeforeTheLast, found by
        a_missed_instant_runs_once_when_it_is_made_up_for
        a_clock_set_back_repeats_no_instant_and_silences_none, and stories_find;
    a_store_that_counts_runs_by_hand_is_found: CountsRunsByHand, found by
        a_run_by_hand_is_the_run_of_no_instant, and stories_find;
    a_store_that_forgets_anchors_is_found: ForgetsAnchors, found by
        a_schedule_keeps_its_anchor instants_outlive_a_close_and_a_kill, and stories_find;
    a_store_that_forgets_what_was_passed_over_is_found: ForgetsWhatWasPassedOver, found by
        what_was_passed_over_is_remembered, and stories_find;
    a_store_that_runs_unknown_schedules_is_found: RunsUnknownSchedules, found by
        an_unknown_schedule_runs_nothing, and stories_find;
    a_store_that_cuts_large_bodies_is_found: CutsLargeBodies, found by
        a_large_body_is_spooled_and_streamed a_callback_may_carry_a_spooled_body;
    a_store_that_reads_bodies_in_one_piece_is_found: ReadsBodiesInOnePiece, found by
        a_large_body_is_spooled_and_streamed;
    a_store_that_pages_by_offset_is_found: PagesByOffset, found by
        a_cursor_holds_its_place_while_the_list_grows;
    a_store_that_lists_oldest_first_is_found: ListsOldestFirst, found by
        lists_are_narrowed_by_every_filter pages_join_to_the_whole_list, and stories_find;
    a_store_that_loses_count_is_found: LosesCountInTotals, found by
        the_books_are_even_after_every_kill, and stories_find;
    a_store_that_ignores_a_filter_is_found: IgnoresAFilter, found by lists_are_narrowed_by_every_filter;
    a_store_that_works_on_when_closed_is_found: WorksOnWhenClosed, found by a_closed_store_does_nothing_more;
}
