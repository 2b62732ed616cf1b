//! What the source knows of all schedules, shared with whoever asks: the table, the agenda, and the timetable of operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use connectors_sdk::{
    AnnotationProblem, Backfilled, EventForm, Filter, FunctionName, Instant, InvocationId, Page, Pausable,
    Receipt, Retry, Schedule, ScheduleAccess, ScheduleId, ScheduleState, ScheduleStatus, ScheduleWishes,
    SourceContext, SourceName, State, StoreError, Timestamp, Timetable, TimetableError,
};
use futures::{StreamExt as _, stream};
use jiff::tz::TimeZone;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::due::{self, Decision};
use crate::event::{call_id, event_of};
use crate::metrics::{RUNS, outcome};
use crate::plan::{self, Overlap, Plan};

/// How long a schedule nobody asks for is kept: a list that was wrong for a while must not cost its anchor and its pause.
pub(crate) const KEPT_UNASKED: Duration = Duration::from_secs(3600);

/// The most instants one backfill runs.
pub(crate) const MOST_BACKFILLED: usize = 1000;

/// How many schedules are written, and backfilled instants run, at once.
const AT_ONCE: usize = 64;

/// How many earlier runs of a schedule are remembered for its overlap policy.
const EARLIER: usize = 16;

/// All schedules of this process.
pub(crate) struct Desk {
    pub(crate) source: SourceName,
    pub(crate) ctx: SourceContext,
    pub(crate) access: ScheduleAccess,
    pub(crate) form: EventForm,
    pub(crate) zone: TimeZone,
    /// Told when something was changed that the loop waits on.
    pub(crate) changed: Notify,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// What functions ask for, from the moment they do: one that is being written is not one nobody asks for.
    asked: BTreeMap<ScheduleId, Arc<Plan>>,
    kept: BTreeMap<ScheduleId, Kept>,
    /// When to look at which schedule, soonest first.
    agenda: BTreeSet<(Timestamp, ScheduleId)>,
    problems: BTreeMap<FunctionName, Vec<AnnotationProblem>>,
}

struct Kept {
    anchor: Timestamp,
    decided: Timestamp,
    paused: bool,
    /// Its place on the agenda.
    wakes: Option<Timestamp>,
    /// Its runs are on their way to the store.
    busy: bool,
    /// The latest runs, for the overlap policy; `None` until those of before the start were looked up.
    earlier: Option<Vec<InvocationId>>,
    last_fire: Option<Timestamp>,
    /// Since when nobody asks for it, on the monotonic clock; it runs while this is `None`.
    unasked: Option<Duration>,
    /// It was asked for, and then no longer, in this process: it has missed nothing when it is asked for again.
    lapsed: bool,
}

/// What one schedule does now.
pub(crate) struct Job {
    plan: Arc<Plan>,
    decision: Decision,
}

/// How far it came.
pub(crate) struct Done {
    id: ScheduleId,
    decided: Option<Timestamp>,
    /// When to try the rest.
    retry: Option<Duration>,
}

impl Table {
    fn wake(&mut self, id: &ScheduleId, at: Option<Timestamp>) {
        let Some(kept) = self.kept.get_mut(id) else { return };
        if let Some(before) = kept.wakes.take() {
            self.agenda.remove(&(before, id.clone()));
        }
        if let Some(at) = at {
            kept.wakes = Some(at);
            self.agenda.insert((at, id.clone()));
        }
    }

    /// Puts a schedule on the agenda anew; it is looked at once, and then when its next instant comes.
    fn look_at(&mut self, id: &ScheduleId) {
        let runs = self.kept.get(id).is_some_and(|kept| kept.runs() && !kept.busy);
        self.wake(id, runs.then_some(Timestamp::EPOCH));
    }
}

impl Desk {
    pub(crate) fn new(
        source: SourceName,
        ctx: SourceContext,
        access: ScheduleAccess,
        form: EventForm,
        zone: TimeZone,
    ) -> Self {
        Desk { source, ctx, access, form, zone, changed: Notify::new(), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the store keeps, once at the start.
    pub(crate) fn load(&self) {
        let (now, wall) = (self.ctx.clock.monotonic(), self.ctx.clock.now());
        let mut table = self.table();
        for state in self.access.store.schedules() {
            // What is decided lies ahead after a clock that was set back; what ran then does not run again.
            let decided = state.decided.min(wall);
            let kept = Kept { decided, unasked: Some(now), ..Kept::of(&state) };
            table.kept.insert(state.schedule.id, kept);
        }
    }

    /// Makes the schedules those that functions ask for. `false` when the store did not take all; try again.
    pub(crate) async fn ask(&self, wishes: &ScheduleWishes) -> bool {
        let (mut plans, mut problems) = (BTreeMap::new(), BTreeMap::new());
        for (function, wish) in wishes {
            let (of_function, wrong) = plan::read(function, wish, &self.zone);
            plans.extend(of_function.into_iter().map(|plan| (plan.id.clone(), Arc::new(plan))));
            if !wrong.is_empty() {
                problems.insert(function.clone(), wrong);
            }
        }
        let (new, back) = {
            let mut table = self.table();
            let now = self.ctx.clock.monotonic();
            for (id, kept) in &mut table.kept {
                if !plans.contains_key(id) {
                    kept.lapsed |= kept.unasked.is_none();
                    kept.unasked.get_or_insert(now);
                }
            }
            let (mut new, mut back) = (Vec::new(), Vec::new());
            for (id, plan) in &plans {
                match table.kept.get_mut(id) {
                    Some(kept) if kept.lapsed => back.push(plan.clone()),
                    Some(kept) => kept.unasked = None,
                    None => new.push(plan.clone()),
                }
            }
            (table.asked, table.problems) = (plans, problems);
            let ids: Vec<_> = table.kept.keys().cloned().collect();
            ids.iter().for_each(|id| table.look_at(id));
            (new, back)
        };
        let added = stream::iter(new.into_iter().map(|plan| self.add(plan)).collect::<Vec<_>>());
        let returned = stream::iter(back.into_iter().map(|plan| self.take_back(plan)).collect::<Vec<_>>());
        let added = added.buffer_unordered(AT_ONCE).fold(true, async |all, one| all && one).await;
        returned.buffer_unordered(AT_ONCE).fold(added, async |all, one| all && one).await
    }

    /// Puts a schedule nobody knows. Its anchor is the moment.
    async fn add(&self, plan: Arc<Plan>) -> bool {
        let schedule = Schedule {
            id: plan.id.clone(),
            function: plan.function.clone(),
            expression: plan.expression.normal().into(),
            anchor: whole_second(self.ctx.clock.now()),
        };
        // Known before it is stored: whoever finds it in the store's list may run it or pause it at once.
        let new = ScheduleState { decided: schedule.anchor, paused: false, last_fire: None, schedule };
        self.table().kept.insert(plan.id.clone(), Kept { busy: true, ..Kept::of(&new) });
        let put = self.access.store.put_schedule(new.schedule).await;
        let mut table = self.table();
        match put {
            Ok(state) => {
                info!(schedule = %plan.id, expression = %plan.expression, "schedule added");
                if let Some(kept) = table.kept.get_mut(&plan.id) {
                    kept.anchor = state.schedule.anchor;
                    kept.decided = kept.decided.max(state.decided);
                    kept.paused |= state.paused;
                    kept.last_fire = kept.last_fire.max(state.last_fire);
                    kept.busy = false;
                }
                table.look_at(&plan.id);
                true
            }
            Err(error) => {
                table.kept.remove(&plan.id);
                warn!(schedule = %plan.id, %error, "the schedule cannot be kept");
                self.ctx.health.problem(format!("schedule {} cannot be kept: {error}", plan.id));
                false
            }
        }
    }

    /// Takes up a schedule that nobody asked for meanwhile: it goes on from now.
    async fn take_back(&self, plan: Arc<Plan>) -> bool {
        let now = self.ctx.clock.now();
        if let Err(error) = self.access.store.pass_over(&plan.id, now).await {
            self.ctx.health.problem(format!("schedule {} cannot be kept: {error}", plan.id));
            return false;
        }
        let mut table = self.table();
        if let Some(kept) = table.kept.get_mut(&plan.id) {
            (kept.lapsed, kept.unasked) = (false, None);
            kept.decided = kept.decided.max(now);
        }
        table.look_at(&plan.id);
        true
    }

    /// Forgets what nobody has asked for long enough.
    pub(crate) async fn forget(&self) {
        let now = self.ctx.clock.monotonic();
        let gone: Vec<ScheduleId> = self
            .table()
            .kept
            .iter()
            .filter(|(_, kept)| kept.unasked.is_some_and(|since| now.saturating_sub(since) >= KEPT_UNASKED))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            match self.access.store.remove_schedule(&id).await {
                Ok(_) => {
                    info!(schedule = %id, "no function has asked for the schedule for an hour; it is forgotten");
                    let mut table = self.table();
                    table.wake(&id, None);
                    table.kept.remove(&id);
                }
                Err(error) => warn!(schedule = %id, %error, "the schedule cannot be forgotten"),
            }
        }
    }

    /// The clock was set back: what is decided lies ahead, and the agenda is of another time.
    pub(crate) fn begin_anew(&self, now: Timestamp) {
        let mut table = self.table();
        let ids: Vec<_> = table.kept.keys().cloned().collect();
        for id in ids {
            if let Some(kept) = table.kept.get_mut(&id) {
                kept.decided = kept.decided.min(now);
            }
            table.look_at(&id);
        }
    }

    /// What is to be done now. Each schedule is busy until [`Desk::done`].
    pub(crate) fn due(&self, now: Timestamp) -> Vec<Job> {
        let mut table = self.table();
        let mut jobs = Vec::new();
        while let Some((_, id)) = table.agenda.first().filter(|(moment, _)| *moment <= now).cloned() {
            table.wake(&id, None);
            let Some(plan) = table.asked.get(&id).cloned() else { continue };
            let Some(kept) = table.kept.get_mut(&id) else { continue };
            let decision = due::decide(&plan, kept.anchor, kept.decided, now);
            if decision.run.is_empty() && decision.passed.is_none() {
                let next = decision.next.map(|coming| coming.moment);
                table.wake(&id, next);
            } else {
                kept.busy = true;
                jobs.push(Job { plan, decision });
            }
        }
        jobs
    }

    /// How long until something is due; `None` when nothing is.
    pub(crate) fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.table().agenda.first().map(|(moment, _)| moment.since(now))
    }

    /// Runs what a schedule is to run, one after the other.
    pub(crate) async fn carry_out(&self, job: Job) -> Done {
        let Job { plan, decision } = job;
        let mut done = Done { id: plan.id.clone(), decided: None, retry: None };
        if decision.missed > 0 {
            self.count(outcome::MISSED, decision.missed);
            info!(schedule = %plan.id, missed = decision.missed, runs = decision.run.len(), "instants were missed");
        }
        for instant in decision.run {
            match self.run_one(&plan, instant).await {
                Ok(()) => done.decided = Some(instant.at),
                Err(retry) => {
                    done.retry = Some(retry);
                    return done;
                }
            }
        }
        if let Some(passed) = decision.passed {
            match self.access.store.pass_over(&plan.id, passed).await {
                Ok(_) => done.decided = Some(passed),
                Err(error) => done.retry = Some(wait_of(error.retry())),
            }
        }
        done
    }

    async fn run_one(&self, plan: &Plan, instant: Instant) -> Result<(), Duration> {
        let skips = plan.policies.overlap == Overlap::Skip;
        if skips && self.earlier_is_held(plan).await.map_err(|error| wait_of(error.retry()))? {
            let passed = self.access.store.pass_over(&plan.id, instant.at).await;
            passed.map_err(|error| wait_of(error.retry()))?;
            self.count(outcome::OVERLAP, 1);
            return Ok(());
        }
        match self.publish(plan, Some(instant)).await {
            Ok(receipt) => {
                self.count(if receipt.duplicate { outcome::DUPLICATE } else { outcome::RAN }, 1);
                Ok(())
            }
            Err(TimetableError::Range(never)) => {
                self.ctx.health.problem(format!("schedule {} cannot run: {never}", plan.id));
                Err(Duration::from_secs(30))
            }
            Err(TimetableError::Refused(refusal)) => {
                self.ctx.health.problem(format!("schedule {} has to wait: {refusal}", plan.id));
                Err(wait_of(refusal.retry()))
            }
            Err(error) => {
                self.ctx.health.problem(format!("schedule {} has to wait: {error}", plan.id));
                Err(Duration::from_secs(1))
            }
        }
    }

    async fn publish(&self, plan: &Plan, instant: Option<Instant>) -> Result<Receipt, TimetableError> {
        let event = event_of(&self.form, plan, instant, self.ctx.clock.now());
        let receipt = self.ctx.publish(&event.map_err(TimetableError::Range)?).await?;
        let mut table = self.table();
        if let Some(kept) = table.kept.get_mut(&plan.id) {
            kept.last_fire = kept.last_fire.max(instant.map(|instant| instant.at));
            // Without the policy nobody asks for them.
            if let (Overlap::Skip, Some(earlier)) = (plan.policies.overlap, &mut kept.earlier) {
                earlier.extend(receipt.invocations.iter().map(|(_, id)| *id));
                let beyond = earlier.len().saturating_sub(EARLIER);
                earlier.drain(..beyond);
            }
        }
        Ok(receipt)
    }

    /// Whether an earlier run of the schedule waits or is delivered.
    async fn earlier_is_held(&self, plan: &Plan) -> Result<bool, StoreError> {
        let (known, last_fire) = {
            let table = self.table();
            let kept = table.kept.get(&plan.id);
            (kept.and_then(|kept| kept.earlier.clone()), kept.and_then(|kept| kept.last_fire))
        };
        let mut held = Vec::new();
        match known {
            Some(known) => {
                for id in known {
                    if self.access.ledger.find(id).await?.is_some_and(|record| is_held(record.state)) {
                        held.push(id);
                    }
                }
            }
            // Of before the start its last run is known, and found by its call id.
            None => {
                let call_id = last_fire.and_then(|at| call_id(&plan.id, at));
                if let Some(call_id) = call_id {
                    let filter = Filter { call_id: Some(call_id), ..Filter::default() };
                    let listed =
                        self.access.ledger.list(&filter, &Page { limit: EARLIER, cursor: None }).await?;
                    let of_it = listed.items.into_iter().filter(|record| is_held(record.state));
                    held.extend(of_it.map(|record| record.invocation.id));
                }
            }
        }
        let any = !held.is_empty();
        if let Some(kept) = self.table().kept.get_mut(&plan.id) {
            kept.earlier = Some(held);
        }
        Ok(any)
    }

    /// A schedule is no longer busy.
    pub(crate) fn done(&self, done: Done, now: Timestamp) {
        let mut table = self.table();
        let Some(kept) = table.kept.get_mut(&done.id) else { return };
        kept.busy = false;
        kept.decided = kept.decided.max(done.decided.unwrap_or_default());
        match done.retry {
            Some(retry) => {
                let again = kept.runs().then_some(now + retry);
                table.wake(&done.id, again);
            }
            None => table.look_at(&done.id),
        }
    }

    /// A schedule's plan and anchor.
    fn asked(&self, id: &ScheduleId) -> Result<(Arc<Plan>, Timestamp), TimetableError> {
        let table = self.table();
        let kept = table.kept.get(id).ok_or_else(|| TimetableError::Unknown(id.clone()))?;
        let plan = table.asked.get(id).cloned().ok_or_else(|| TimetableError::Unasked(id.clone()))?;
        Ok((plan, kept.anchor))
    }

    fn count(&self, outcome: &str, more: u64) {
        self.ctx.health.count(&RUNS, &[self.source.as_str(), outcome], more);
    }

    /// Notes a pause or its end.
    fn hold(&self, id: &ScheduleId, paused: bool, decided: Option<Timestamp>) {
        let mut table = self.table();
        if let Some(kept) = table.kept.get_mut(id) {
            kept.paused = paused;
            kept.decided = kept.decided.max(decided.unwrap_or_default());
        }
        table.look_at(id);
        drop(table);
        self.changed.notify_one();
    }
}

impl Kept {
    /// One that is asked for.
    fn of(state: &ScheduleState) -> Self {
        Kept {
            anchor: state.schedule.anchor,
            decided: state.decided,
            paused: state.paused,
            wakes: None,
            busy: false,
            earlier: None,
            last_fire: state.last_fire,
            unasked: None,
            lapsed: false,
        }
    }

    fn runs(&self) -> bool {
        self.unasked.is_none() && !self.paused
    }
}

fn is_held(state: State) -> bool {
    matches!(state, State::Waiting | State::Delivering)
}

/// Instants are whole seconds, and so is what `@every` counts from.
fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_millis(moment.as_millis() / 1000 * 1000)
}

fn wait_of(retry: Retry) -> Duration {
    match retry {
        Retry::Soon => Duration::from_secs(1),
        Retry::After(wait) => wait,
        Retry::Never => Duration::from_secs(30),
    }
}

#[async_trait]
impl Timetable for Desk {
    fn list(&self) -> Vec<ScheduleStatus> {
        let states = self.access.store.schedules();
        let now = self.ctx.clock.now();
        let table = self.table();
        let status = |state: ScheduleState| {
            let plan = table.asked.get(&state.schedule.id);
            let anchor = state.schedule.anchor;
            let next = plan.filter(|_| !state.paused).and_then(|plan| due::next(plan, anchor, now));
            let rules = plan.map(|plan| plan.rules());
            ScheduleStatus { state, rules, next: next.map(|coming| coming.instant.at) }
        };
        states.into_iter().map(status).collect()
    }

    fn next(&self, id: &ScheduleId, most: usize) -> Option<Vec<Timestamp>> {
        let (plan, anchor) = self.asked(id).ok()?;
        let coming = due::all_after(&plan, anchor, self.ctx.clock.now());
        Some(coming.take(most).map(|coming| coming.instant.at).collect())
    }

    fn problems(&self, function: &FunctionName) -> Vec<AnnotationProblem> {
        self.table().problems.get(function).cloned().unwrap_or_default()
    }

    async fn run(&self, id: &ScheduleId) -> Result<Receipt, TimetableError> {
        let (plan, _) = self.asked(id)?;
        let receipt = self.publish(&plan, None).await?;
        self.count(outcome::BY_HAND, 1);
        Ok(receipt)
    }

    async fn backfill(
        &self,
        id: &ScheduleId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Backfilled, TimetableError> {
        let (plan, anchor) = self.asked(id)?;
        if until > self.ctx.clock.now() {
            return Err(TimetableError::Range(
                "the range ends in the future; only what has been can be made up for".into(),
            ));
        }
        let before = Timestamp::from_nanos(from.as_nanos().saturating_sub(1));
        let instants: Vec<Instant> = due::all_after(&plan, anchor, before)
            .map(|coming| coming.instant)
            .take_while(|instant| instant.at <= until)
            .take(MOST_BACKFILLED + 1)
            .collect();
        if instants.len() > MOST_BACKFILLED {
            let what = format!("the range holds more than {MOST_BACKFILLED} instants; run it in parts");
            return Err(TimetableError::Range(what.into()));
        }
        let mut filled = Backfilled::default();
        // In the order of instants, as far as functions are concerned: a lane keeps the order of acceptance.
        for instant in instants {
            if self.publish(&plan, Some(instant)).await?.duplicate {
                filled.ran_before += 1;
            } else {
                filled.ran += 1;
                self.count(outcome::BACKFILLED, 1);
            }
        }
        Ok(filled)
    }

    async fn pause(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        if !self.table().kept.contains_key(id) {
            return Ok(false);
        }
        self.access.queue.pause(Pausable::Schedule(id.clone())).await?;
        self.hold(id, true, None);
        Ok(true)
    }

    async fn resume(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        let Some(paused) = self.table().kept.get(id).map(|kept| kept.paused) else { return Ok(false) };
        let now = self.ctx.clock.now();
        // First what was missed, then the pause: a crash between leaves it paused.
        if paused {
            self.access.store.pass_over(id, now).await?;
        }
        self.access.queue.resume(Pausable::Schedule(id.clone())).await?;
        self.hold(id, false, paused.then_some(now));
        Ok(true)
    }
}
