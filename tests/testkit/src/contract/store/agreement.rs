//! Random operations, restarts and kills, on a store and on the reference at once: both must tell the same story.
//!
//! Where the ports leave an engine a choice (which of the calls that came back is next, how deaths of one moment are
//! ordered), the reference follows the choice after checking that it was allowed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use broker_model::ledger::{Filter, LaneStats, Page};
use broker_model::queue::{Pausable, RedriveError, Settled};
use broker_model::{
    Acceptance, Accepted, BodyReader, Clock, InvocationId, InvocationQueue, Lane, Lease, Ledger, Partition,
    Positions, Reason, Record, Schedule, Schedules, Settlement, State, StoreError, Timestamp, Upstream,
};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane};
use crate::reference::{Bounds, ReferenceStore};
use crate::time::{a_real_moment, within};

/// A step of a random story. Numbers are taken modulo what there is, so that every step means something.
#[derive(Clone, Debug)]
enum Step {
    Accept { lane: u8, drafts: u8, key: Option<Key>, due: Option<u8>, body: u16 },
    Bury { key: Option<Key> },
    Receive { partition: Place, offset: u8 },
    TakeUp { partition: Place, upstream: Upstream },
    Committed { partition: Place, next: u8 },
    ResetPositions,
    PutSchedule { nth: u8, anchor: u8 },
    RemoveSchedule { nth: u8 },
    PassOver { nth: u8, until: u8 },
    Fire { nth: u8, minute: Option<u8> },
    Lease { lane: u8, n: u8 },
    Settle { nth: u16, how: How },
    SettleLate { nth: u16 },
    Cancel { nth: u16 },
    Redrive { nth: u16 },
    Remove { nth: u16 },
    Pause { what: u8 },
    Resume { what: u8 },
    Pass { seconds: u8 },
    Jump { seconds: u16 },
    Reopen(End),
}

#[derive(Clone, Copy, Debug)]
struct Key {
    scope: u8,
    key: u8,
    request: u8,
}

/// A partition of the one topic, in one of its incarnations.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u8,
    incarnation: u8,
}

impl Place {
    fn partition(self) -> Arc<Partition> {
        calls::partition(self.number.into(), if self.incarnation == 0 { "a" } else { "b" })
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Complete { then: u8 },
    Retry { seconds: u8 },
    Release { seconds: u8 },
    Die { reason: u8, then: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || {
        proptest::option::weighted(
            0.4,
            (0..2u8, 0..3u8, 0..4u8).prop_map(|(scope, key, request)| Key {
                scope,
                key,
                // Most repeats are of the same request.
                request: request / 3,
            }),
        )
    };
    let nth = || any::<u16>();
    let how = prop_oneof![
        3 => (0..3u8).prop_map(|then| How::Complete { then }),
        3 => (0..40u8).prop_map(|seconds| How::Retry { seconds }),
        2 => (0..3u8).prop_map(|n| How::Release { seconds: n * 7 }),
        3 => (0..10u8, 0..2u8).prop_map(|(reason, then)| How::Die { reason, then }),
    ];
    // Most of the time the topic is the one it was.
    let place = || (0..2u8, 0..8u8).prop_map(|(number, n)| Place { number, incarnation: u8::from(n == 7) });
    // Small numbers, so that most readings contradict or confirm something.
    let upstream = (proptest::option::weighted(0.8, 0..14u64), 0..4u64, 8..24u64)
        .prop_map(|(committed, earliest, end)| Upstream { committed, earliest, end });
    prop_oneof![
        6 => (place(), 0..14u8).prop_map(|(partition, offset)| Step::Receive { partition, offset }),
        3 => (place(), upstream).prop_map(|(partition, upstream)| Step::TakeUp { partition, upstream }),
        2 => (place(), 0..14u8).prop_map(|(partition, next)| Step::Committed { partition, next }),
        1 => Just(Step::ResetPositions),
        3 => (0..2u8, 0..5u8).prop_map(|(nth, anchor)| Step::PutSchedule { nth, anchor }),
        1 => (0..2u8).prop_map(|nth| Step::RemoveSchedule { nth }),
        1 => (0..2u8, 0..9u8).prop_map(|(nth, until)| Step::PassOver { nth, until }),
        5 => (0..2u8, proptest::option::weighted(0.9, 1..9u8))
            .prop_map(|(nth, minute)| Step::Fire { nth, minute }),
        8 => (0..3u8, 1..4u8, key(), proptest::option::weighted(0.2, 1..60u8), 0..2000u16)
            .prop_map(|(lane, drafts, key, due, body)| Step::Accept { lane, drafts, key, due, body }),
        1 => key().prop_map(|key| Step::Bury { key }),
        8 => (0..4u8, 0..5u8).prop_map(|(lane, n)| Step::Lease { lane, n }),
        8 => (nth(), how).prop_map(|(nth, how)| Step::Settle { nth, how }),
        1 => nth().prop_map(|nth| Step::SettleLate { nth }),
        3 => nth().prop_map(|nth| Step::Cancel { nth }),
        3 => nth().prop_map(|nth| Step::Redrive { nth }),
        1 => nth().prop_map(|nth| Step::Remove { nth }),
        1 => (0..4u8).prop_map(|what| Step::Pause { what }),
        1 => (0..4u8).prop_map(|what| Step::Resume { what }),
        3 => (0..60u8).prop_map(|seconds| Step::Pass { seconds }),
        1 => (0..600u16).prop_map(|seconds| Step::Jump { seconds }),
        2 => prop_oneof![Just(End::Closed), Just(End::Killed)].prop_map(Step::Reopen),
    ]
}

/// Holds an engine against the reference store over `cases` random stories, or as many as `PROPTEST_CASES` says.
///
/// # Panics
/// With the shortest story found on which they do not agree.
pub fn agree<E: Engine>(cases: u32) {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { cases };
    if let Some(how) = disagreement::<E>(cases, 60) {
        panic!("they disagree: {how}");
    }
}

/// Looks for a story on which an engine and the reference store do not agree, and makes it shorter in `shrink` steps.
///
/// # Panics
/// When no stories can be made.
pub fn disagreement<E: Engine>(cases: u32, shrink: u32) -> Option<String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: shrink, ..Config::default() };
    let stories = proptest::collection::vec(step(), 1..50);
    let outcome = TestRunner::new(config).run(&stories, |story| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("the system has room for a runtime");
        runtime
            .block_on(within(Duration::from_secs(60), "a story", tell::<E>(&story)))
            .map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => None,
        Err(TestError::Fail(why, story)) => {
            let steps: Vec<String> = story.iter().map(|step| format!("  {step:?}")).collect();
            Some(format!("{why}\nafter\n{}", steps.join("\n")))
        }
        Err(TestError::Abort(why)) => panic!("no more stories: {why}"),
    }
}

async fn tell<E: Engine>(story: &[Step]) -> Result<(), String> {
    let mut pair = Pair::<E>::new().await;
    for (nth, step) in story.iter().enumerate() {
        pair.take(step).await.map_err(|why| format!("step {nth}, {step:?}: {why}"))?;
        pair.compare_books().await.map_err(|why| format!("after step {nth}, {step:?}: {why}"))?;
    }
    pair.compare_records().await?;
    // Nothing of the story may depend on the process that lived through it.
    pair.take(&Step::Reopen(End::Killed)).await?;
    pair.compare_books().await.map_err(|why| format!("after the last kill: {why}"))?;
    pair.compare_records().await.map_err(|why| format!("after the last kill: {why}"))
}

/// The two stores, and who is who in them.
struct Pair<E: Engine> {
    bench: Option<Bench<E>>,
    reference: ReferenceStore,
    /// The store's id and the reference's, in the order of acceptance.
    known: Vec<(InvocationId, InvocationId)>,
    /// By the store's id: the reference's, and which acceptance it came with.
    names: HashMap<InvocationId, (InvocationId, usize)>,
    acceptances: usize,
    leases: Vec<(Lease, Lease)>,
    late: Vec<(Lease, Lease)>,
    jumped: bool,
}

impl<E: Engine> Pair<E> {
    async fn new() -> Self {
        // Room for a dozen, so that the bound is met as well.
        let bounds = Bounds { waiting: 12, dedup_window: Duration::from_secs(30 * 24 * 3600) };
        let bench = Bench::<E>::bounded(bounds).await;
        let reference = ReferenceStore::new(bounds, bench.clock.clone());
        Pair {
            bench: Some(bench),
            reference,
            known: Vec::new(),
            names: HashMap::new(),
            acceptances: 0,
            leases: Vec::new(),
            late: Vec::new(),
            jumped: false,
        }
    }

    fn bench(&self) -> &Bench<E> {
        self.bench.as_ref().expect("a bench is away only while it is reopened")
    }

    fn reference_id(&self, id: InvocationId) -> Result<InvocationId, String> {
        self.names.get(&id).map(|(reference, _)| *reference).ok_or_else(|| format!("{id} was never given"))
    }

    fn learn(&mut self, ids: &[InvocationId], reference: &[InvocationId]) -> Result<(), String> {
        if ids.len() != reference.len() {
            return Err(format!("{} ids instead of {}", ids.len(), reference.len()));
        }
        self.acceptances += 1;
        for (id, reference) in ids.iter().zip(reference) {
            if self.names.insert(*id, (*reference, self.acceptances)).is_some() {
                return Err(format!("{id} was given twice"));
            }
            self.known.push((*id, *reference));
        }
        Ok(())
    }

    fn pick<T: Copy>(from: &[T], nth: u16) -> Option<T> {
        (!from.is_empty()).then(|| from[usize::from(nth) % from.len()])
    }

    fn accepted(
        &mut self,
        store: Result<Accepted, StoreError>,
        reference: Result<Accepted, StoreError>,
    ) -> Result<(), String> {
        match (&store, &reference) {
            (Ok(Accepted::New(ids)), Ok(Accepted::New(theirs))) => self.learn(ids, theirs),
            (Ok(Accepted::Duplicate(ids)), Ok(Accepted::Duplicate(theirs))) => {
                let mine: Result<Vec<_>, _> = ids.iter().map(|id| self.reference_id(*id)).collect();
                same(&mine?, theirs, "the ids of a duplicate")
            }
            (
                Err(StoreError::TooManyWaiting { waiting }),
                Err(StoreError::TooManyWaiting { waiting: theirs }),
            ) => same(waiting, theirs, "how many wait"),
            (Err(StoreError::KeyReused), Err(StoreError::KeyReused)) => Ok(()),
            (Err(StoreError::NoSchedule(mine)), Err(StoreError::NoSchedule(theirs))) => {
                same(mine, theirs, "the schedule")
            }
            _ => Err(format!("answered {store:?}, the reference {reference:?}")),
        }
    }

    async fn take(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Accept { lane, drafts, key, due, body } => {
                let lanes: Vec<Lane> = (lane..lane + drafts).map(|n| lane_number(n % 3)).collect();
                let mut acceptance = calls::event(&lanes);
                acceptance.body = Bytes::from(vec![lane; usize::from(body)]).into();
                if let (Some(seconds), Some(first)) = (due, acceptance.drafts.first_mut()) {
                    first.due = Some(self.bench().clock.now() + Duration::from_secs(seconds.into()));
                }
                let acceptance = with_key(acceptance, key);
                let store = self.bench().store.accept(acceptance.clone()).await;
                let reference = self.reference.accept(acceptance).await;
                self.accepted(store, reference)
            }
            Step::Bury { key } => {
                let message = with_key(calls::undecodable(), key);
                let store = self.bench().store.bury(message.clone(), Reason::Undecodable, "no").await;
                let reference = self.reference.bury(message, Reason::Undecodable, "no").await;
                self.accepted(store, reference)
            }
            Step::Receive { partition, offset } => {
                let acceptance = calls::placed(&partition.partition(), offset.into());
                let store = self.bench().store.accept(acceptance.clone()).await;
                let reference = self.reference.accept(acceptance).await;
                self.accepted(store, reference)
            }
            Step::TakeUp { partition, upstream } => {
                let partition = partition.partition();
                let store = self.bench().store.take_up(&partition, upstream).await;
                let reference = self.reference.take_up(&partition, upstream).await;
                same(&store.map_err(words), &reference.map_err(words), "where to go on")
            }
            Step::Committed { partition, next } => {
                let partition = partition.partition();
                self.bench().store.committed(&partition, next.into()).await.map_err(words)?;
                self.reference.committed(&partition, next.into()).await.map_err(words)
            }
            Step::ResetPositions => {
                let store = self.bench().store.reset_positions(&calls::source("bus")).await;
                let reference = self.reference.reset_positions(&calls::source("bus")).await;
                same(&store.map_err(words), &reference.map_err(words), "how many marks there were")
            }
            Step::PutSchedule { nth, anchor } => {
                let schedule = schedule(nth, anchor);
                let store = self.bench().store.put_schedule(schedule.clone()).await;
                let reference = self.reference.put_schedule(schedule).await;
                same(&store.map_err(words), &reference.map_err(words), "the schedule as it is kept")
            }
            Step::RemoveSchedule { nth } => {
                let id = schedule(nth, 0).id;
                let store = self.bench().store.remove_schedule(&id).await;
                let reference = self.reference.remove_schedule(&id).await;
                same(&store.map_err(words), &reference.map_err(words), "whether it was removed")
            }
            Step::PassOver { nth, until } => {
                let (id, until) = (schedule(nth, 0).id, calls::minute(until.into()));
                let store = self.bench().store.pass_over(&id, until).await;
                let reference = self.reference.pass_over(&id, until).await;
                same(&store.map_err(words), &reference.map_err(words), "whether there is such a schedule")
            }
            Step::Fire { nth, minute } => {
                let acceptance = match minute {
                    Some(minute) => calls::fire(&schedule(nth, 0), minute.into()),
                    None => calls::run(&schedule(nth, 0), None),
                };
                let store = self.bench().store.accept(acceptance.clone()).await;
                let reference = self.reference.accept(acceptance).await;
                self.accepted(store, reference)
            }
            Step::Lease { lane, n } => self.lease(&lane_number(lane), usize::from(n)).await,
            Step::Settle { nth, how } => {
                let Some(leases) = Self::pick(&self.leases, nth) else { return Ok(()) };
                self.leases.retain(|held| *held != leases);
                self.late.push(leases);
                self.settle(leases, how).await
            }
            Step::SettleLate { nth } => match Self::pick(&self.late, nth) {
                Some(leases) => self.settle(leases, How::Complete { then: 1 }).await,
                None => Ok(()),
            },
            Step::Cancel { nth } => {
                let Some((id, theirs)) = Self::pick(&self.known, nth) else { return Ok(()) };
                let store = self.bench().store.cancel(id).await.map_err(|error| error.to_string())?;
                let reference = self.reference.cancel(theirs).await.map_err(|error| error.to_string())?;
                same(&store, &reference, "what became of the cancel")
            }
            Step::Redrive { nth } => {
                let Some((id, theirs)) = Self::pick(&self.known, nth) else { return Ok(()) };
                let store = self.bench().store.redrive(id).await;
                let reference = self.reference.redrive(theirs).await;
                match (&store, &reference) {
                    (Ok(life), Ok(expected)) => same(life, expected, "the life"),
                    (Err(RedriveError::NothingToRun(a)), Err(RedriveError::NothingToRun(b))) => {
                        same(a, b, "the reason")
                    }
                    (
                        Err(RedriveError::NotDead(_) | RedriveError::Unknown(_)),
                        Err(RedriveError::NotDead(_) | RedriveError::Unknown(_)),
                    ) => Ok(()),
                    _ => Err(format!("redrive answered {store:?}, the reference {reference:?}")),
                }
            }
            Step::Remove { nth } => {
                let Some((id, theirs)) = Self::pick(&self.known, nth) else { return Ok(()) };
                let store = self.bench().store.remove(id).await.map_err(|error| error.to_string())?;
                let reference = self.reference.remove(theirs).await.map_err(|error| error.to_string())?;
                same(&store, &reference, "whether it was removed")
            }
            Step::Pause { what } => {
                let what = pausable(what);
                self.bench().store.pause(what.clone()).await.map_err(|error| error.to_string())?;
                self.reference.pause(what).await.map_err(|error| error.to_string())
            }
            Step::Resume { what } => {
                let what = pausable(what);
                self.bench().store.resume(what.clone()).await.map_err(|error| error.to_string())?;
                self.reference.resume(what).await.map_err(|error| error.to_string())
            }
            Step::Pass { seconds } => {
                // Off the whole seconds at which things come due, so that a timer's grain decides nothing.
                self.bench().clock.pass(Duration::from_millis(u64::from(seconds) * 1000 + 50)).await;
                Ok(())
            }
            Step::Jump { seconds } => {
                self.jumped = true;
                self.bench().clock.jump_ahead(Duration::from_secs(seconds.into()));
                // An engine may look at the wall clock only now and then.
                for _ in 0..5 {
                    self.bench().clock.pass(Duration::from_secs(1)).await;
                    a_real_moment().await;
                }
                Ok(())
            }
            Step::Reopen(end) => self.reopen(end).await,
        }
    }

    async fn reopen(&mut self, end: End) -> Result<(), String> {
        // What is leased counts as started from the next commit on.
        self.commit().await?;
        if let Some(bench) = self.bench.take() {
            self.bench = Some(bench.reopen(end).await);
        }
        if end == End::Closed {
            self.reference.close().await.map_err(|error| error.to_string())?;
        }
        self.reference = self.reference.reopen();
        self.late.append(&mut self.leases);
        Ok(())
    }

    async fn commit(&self) -> Result<(), String> {
        let what = Pausable::Source(calls::source("nobody"));
        self.bench().store.resume(what).await.map_err(|error| error.to_string())?;
        // Resuming what is not paused may need no commit at all; pausing does.
        let what = Pausable::Source(calls::source("barrier"));
        self.bench().store.pause(what.clone()).await.map_err(|error| error.to_string())?;
        self.bench().store.resume(what).await.map_err(|error| error.to_string())
    }

    async fn lease(&mut self, lane: &Lane, n: usize) -> Result<(), String> {
        let given =
            self.bench().store.lease(&[(lane.clone(), n)]).await.map_err(|error| error.to_string())?;
        let chosen: Result<Vec<_>, _> = given.iter().map(|d| self.reference_id(d.lease.id)).collect();
        let theirs = self.reference.lease_as(lane, n, &chosen?)?;
        for (mine, theirs) in given.iter().zip(&theirs) {
            same(&mine.made, &theirs.made, "attempts made")?;
            same(&mine.interrupted, &theirs.interrupted, "interruptions")?;
            same(&mine.lease.life, &theirs.lease.life, "the life")?;
            same(&mine.invocation.lane, lane, "the lane")?;
            self.leases.push((mine.lease, theirs.lease));
        }
        Ok(())
    }

    async fn settle(&mut self, (mine, theirs): (Lease, Lease), how: How) -> Result<(), String> {
        let store = self.bench().store.settle(mine, settlement(how, mine)).await;
        let reference = self.reference.settle(theirs, settlement(how, theirs)).await;
        match (&store, &reference) {
            (Ok(Settled::Superseded), Ok(Settled::Superseded)) => Ok(()),
            (Ok(Settled::Done(ids)), Ok(Settled::Done(expected))) => self.learn(ids, expected),
            _ => Err(format!("settling answered {store:?}, the reference {reference:?}")),
        }
    }

    /// Totals, lanes and pauses; what a store does by itself may take it a moment.
    async fn compare_books(&self) -> Result<(), String> {
        let began = std::time::Instant::now();
        loop {
            let differs = match self.books_differ() {
                None => return Ok(()),
                Some(differs) => differs,
            };
            if began.elapsed() > Duration::from_secs(2) {
                return Err(differs);
            }
            a_real_moment().await;
        }
    }

    fn books_differ(&self) -> Option<String> {
        let (store, reference) = (&self.bench().store, &self.reference);
        let (mine, theirs) = (store.totals(), reference.totals());
        if mine != theirs || mine.drift() != 0 {
            return Some(format!("totals {mine:?}, the reference {theirs:?}"));
        }
        let (mine, theirs) = (lanes(store.lanes()), lanes(reference.lanes()));
        if mine != theirs {
            return Some(format!("lanes {mine:?}, the reference {theirs:?}"));
        }
        let (mine, theirs) = (store.marks(None), reference.marks(None));
        if mine != theirs {
            return Some(format!("marks {mine:?}, the reference {theirs:?}"));
        }
        let (mine, theirs) = (store.schedules(), reference.schedules());
        if mine != theirs {
            return Some(format!("schedules {mine:?}, the reference {theirs:?}"));
        }
        let (mut mine, mut theirs) = (store.paused(), reference.paused());
        mine.sort();
        theirs.sort();
        (mine != theirs).then(|| format!("paused {mine:?}, the reference {theirs:?}"))
    }

    async fn compare_records(&self) -> Result<(), String> {
        for (id, theirs) in &self.known {
            let mine = self.bench().store.find(*id).await.map_err(|error| error.to_string())?;
            let theirs = self.reference.find(*theirs).await.map_err(|error| error.to_string())?;
            match (mine, theirs) {
                (None, None) => {}
                (Some(mine), Some(theirs)) => {
                    self.compare(&mine, &theirs)
                        .await
                        .map_err(|why| format!("{id}: {why}\n{mine:?}\n{theirs:?}"))?;
                }
                (mine, theirs) => return Err(format!("found {mine:?}, the reference {theirs:?}")),
            }
        }
        self.compare_lists().await
    }

    async fn compare_lists(&self) -> Result<(), String> {
        let page = Page { limit: 10_000, cursor: None };
        let listed =
            self.bench().store.list(&Filter::default(), &page).await.map_err(|error| error.to_string())?;
        let expected =
            self.reference.list(&Filter::default(), &page).await.map_err(|error| error.to_string())?;
        let newest_first = |records: &[Record]| -> Vec<usize> {
            records.iter().filter_map(|r| self.names.get(&r.invocation.id)).map(|(_, nth)| *nth).collect()
        };
        let order = newest_first(&listed.items);
        if !order.is_sorted_by(|a, b| a >= b) {
            return Err(format!("a list is not newest first: {order:?}"));
        }
        same(&listed.items.len(), &expected.items.len(), "the length of the list")?;

        let listed = self
            .bench()
            .store
            .dead_letters(&Filter::default(), &page)
            .await
            .map_err(|error| error.to_string())?;
        let expected = self
            .reference
            .dead_letters(&Filter::default(), &page)
            .await
            .map_err(|error| error.to_string())?;
        let deaths: Vec<_> = listed.items.iter().map(|record| millis(record.ended_at)).collect();
        let expected: Vec<_> = expected.items.iter().map(|record| millis(record.ended_at)).collect();
        same(&deaths, &expected, "the deaths, latest first")
    }

    async fn compare(&self, mine: &Record, theirs: &Record) -> Result<(), String> {
        same(&mine.state, &theirs.state, "the state")?;
        same(&mine.attempts, &theirs.attempts, "the attempts")?;
        // Of a call that was cancelled before it ran again, an engine may have forgotten that it was interrupted.
        if theirs.state != State::Cancelled {
            same(&mine.interrupted, &theirs.interrupted, "the interruptions")?;
        }
        same(&millis(mine.ended_at), &millis(theirs.ended_at), "the end")?;
        let letter = |record: &Record| {
            record.dead_letter.as_ref().map(|l| (l.reason, l.detail.clone(), l.died_at.as_millis()))
        };
        same(&letter(mine), &letter(theirs), "the dead letter")?;
        let (a, b) = (&mine.invocation, &theirs.invocation);
        same(&(a.life, &a.lane, &a.target), &(b.life, &b.lane, &b.target), "life, lane or target")?;
        same(&(&a.call_id, &a.headers), &(&b.call_id, &b.headers), "call id or headers")?;
        same(&a.origin.kind(), &b.origin.kind(), "the origin")?;
        same(
            &(a.due.map(Timestamp::as_millis), a.max_age),
            &(b.due.map(Timestamp::as_millis), b.max_age),
            "due time",
        )?;
        same(&a.accepted_at.as_millis(), &b.accepted_at.as_millis(), "the acceptance")?;
        same(&a.life_began_at.as_millis(), &b.life_began_at.as_millis(), "the life's beginning")?;
        if let (false, Some(at)) = (self.jumped, theirs.next_attempt_at) {
            same(&millis(mine.next_attempt_at), &Some(at.as_millis()), "the next attempt")?;
        }
        let (mine, theirs) = (whole(&*self.bench().store, a).await?, whole(&self.reference, b).await?);
        if mine == theirs {
            Ok(())
        } else {
            Err(format!("a body of {} bytes, not {}", mine.len(), theirs.len()))
        }
    }
}

async fn whole(store: &impl BodyReader, call: &broker_model::Invocation) -> Result<Vec<u8>, String> {
    let mut pieces = store.read(&call.body).await.map_err(|error| error.to_string())?;
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece.map_err(|error| error.to_string())?);
    }
    Ok(whole)
}

fn same<T: PartialEq + std::fmt::Debug>(mine: &T, theirs: &T, what: &str) -> Result<(), String> {
    if mine == theirs { Ok(()) } else { Err(format!("{what}: {mine:?}, the reference {theirs:?}")) }
}

fn millis(moment: Option<Timestamp>) -> Option<u64> {
    moment.map(Timestamp::as_millis)
}

fn lanes(mut stats: Vec<LaneStats>) -> Vec<LaneStats> {
    stats.sort_by(|a, b| a.lane.cmp(&b.lane));
    stats
}

fn lane_number(n: u8) -> Lane {
    if n == 3 { calls::callback_lane() } else { lane(&format!("f{n}")) }
}

fn pausable(n: u8) -> Pausable {
    match n {
        0 => Pausable::Source(calls::source("bus")),
        3 => Pausable::Schedule(schedule(0, 0).id),
        n => Pausable::Function(calls::function(&format!("f{n}"))),
    }
}

/// The schedule of a function whose lane the stories lease from.
fn schedule(nth: u8, anchor: u8) -> Schedule {
    calls::schedule(&format!("f{}", nth % 2), anchor.into())
}

fn words(error: StoreError) -> String {
    error.to_string()
}

fn with_key(acceptance: Acceptance, key: Option<Key>) -> Acceptance {
    match key {
        Some(Key { scope, key, request }) => {
            calls::keyed(acceptance, if scope == 0 { "http" } else { "bus" }, key.into(), request.into())
        }
        None => acceptance,
    }
}

fn settlement(how: How, lease: Lease) -> Settlement {
    let follow = |n: u8| (0..n).map(|_| calls::callback_of(lease.id)).collect();
    match how {
        How::Complete { then } => calls::completed_then(follow(then)),
        How::Retry { seconds } => calls::retry_in(seconds.into()),
        How::Release { seconds } => calls::released(Duration::from_secs(seconds.into())),
        How::Die { reason, then } => {
            let reason = Reason::ALL[usize::from(reason) % Reason::ALL.len()];
            Settlement::Dead {
                attempt: Some(calls::attempt(1, 500)),
                reason,
                detail: "status 500".into(),
                then: follow(then),
            }
        }
    }
}
