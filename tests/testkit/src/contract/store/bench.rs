//! What every rule of the store's contract stands on: a store in its place, its clock, and short words for common steps.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use broker_model::ledger::{Filter, Page};
use broker_model::queue::{Pausable, Settled};
use broker_model::{
    Acceptance, Accepted, Body, BodyReader, Delivery, InvocationId, InvocationQueue, Lane, Ledger, Positions,
    Record, Schedules, Settlement, SourceName, State, Totals,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::calls;
use crate::reference::{Bounds, PIECE};
use crate::time::{Seen, TestClock, a_real_moment, eventually_in_held_time};

/// One place in which a store of the engine under test lives, over several lives of its process.
///
/// Stores must read time from the clock they are given and wait on the timers of the runtime they are opened on.
pub trait Engine: Sized + 'static {
    /// The store of this engine.
    type Store: InvocationQueue + Ledger + BodyReader + Positions + Schedules + 'static;

    /// A fresh, empty place for a store with these bounds.
    fn prepare(bounds: Bounds, clock: Arc<TestClock>) -> impl Future<Output = Self>;

    /// Opens the store in its place, new or as it was left. Never while another one is open.
    fn open(&mut self) -> impl Future<Output = Arc<Self::Store>>;

    /// Ends the store as `kill -9` ends its process: nothing is written from now on that was not written before.
    fn kill(&mut self, store: Arc<Self::Store>) -> impl Future<Output = ()>;
}

/// How a store goes before it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is closed.
    Closed,
    /// Its process is killed.
    Killed,
}

/// How long a rule waits, in real time, for what the store does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A little more than timers are off by.
pub(crate) const SLACK: Duration = Duration::from_millis(20);

/// A store under test with its clock.
pub(crate) struct Bench<E: Engine> {
    engine: E,
    pub(crate) store: Arc<E::Store>,
    pub(crate) clock: Arc<TestClock>,
    barriers: Cell<u32>,
}

impl<E: Engine> Bench<E> {
    /// In held time.
    pub(crate) async fn new() -> Self {
        Self::bounded(Bounds::default()).await
    }

    /// In held time.
    pub(crate) async fn bounded(bounds: Bounds) -> Self {
        Self::with_clock(bounds, TestClock::hold()).await
    }

    pub(crate) async fn with_clock(bounds: Bounds, clock: Arc<TestClock>) -> Self {
        let mut engine = E::prepare(bounds, clock.clone()).await;
        let store = engine.open().await;
        Bench { engine, store, clock, barriers: Cell::new(0) }
    }

    pub(crate) async fn reopen(self, end: End) -> Self {
        let Bench { mut engine, store, clock, barriers } = self;
        match end {
            End::Closed => {
                store.close().await.expect("a healthy store closes");
                drop(store);
            }
            End::Killed => engine.kill(store).await,
        }
        let store = engine.open().await;
        Bench { engine, store, clock, barriers }
    }

    /// Polls `probe` while only real time passes.
    pub(crate) async fn until<S: Seen>(&self, what: &str, probe: impl AsyncFnMut() -> S) -> S::Value {
        eventually_in_held_time(PATIENCE, what, probe).await
    }

    /// Lets time pass, and lets the store act on it.
    pub(crate) async fn pass(&self, by: Duration) {
        self.clock.pass(by).await;
        self.barrier().await;
    }

    /// Returns when everything begun before is durable and the store's own threads had their turn.
    pub(crate) async fn barrier(&self) {
        let n = self.barriers.get();
        self.barriers.set(n + 1);
        let what = Pausable::Source(SourceName::parse("barrier").expect("a plain word is a source's name"));
        let done =
            if n.is_multiple_of(2) { self.store.pause(what).await } else { self.store.resume(what).await };
        done.expect("a healthy store remembers pauses");
        a_real_moment().await;
    }

    /// Accepts what is new and expected to be taken.
    pub(crate) async fn accept(&self, acceptance: Acceptance) -> Vec<InvocationId> {
        let drafts = acceptance.drafts.len();
        match self.store.accept(acceptance).await {
            Ok(Accepted::New(ids)) => {
                assert_eq!(ids.len(), drafts, "one id for each draft");
                ids
            }
            other => panic!("expected new invocations, got {other:?}"),
        }
    }

    /// Accepts one plain call for the lane.
    pub(crate) async fn accept_one(&self, lane: &Lane) -> InvocationId {
        self.accept(calls::to(lane)).await[0]
    }

    /// Accepts what is expected to be a repeat.
    pub(crate) async fn assert_duplicate(&self, acceptance: Acceptance, why: &str) {
        let before = self.store.totals().accepted_in_all();
        let answer = self.store.accept(acceptance).await;
        assert!(matches!(answer, Ok(Accepted::Duplicate(_))), "{why}, but accepting answered {answer:?}");
        assert_eq!(self.store.totals().accepted_in_all(), before, "{why}, but something was made of it");
    }

    pub(crate) async fn lease(&self, lane: &Lane, n: usize) -> Vec<Delivery> {
        self.store.lease(&[(lane.clone(), n)]).await.expect("a healthy store leases")
    }

    /// Leases one call, as soon as the lane has one without time passing.
    pub(crate) async fn lease_one(&self, lane: &Lane) -> Delivery {
        self.until("a call to lease", async || self.lease(lane, 1).await.pop()).await
    }

    /// Accepts and leases one call for the lane, which must be empty.
    pub(crate) async fn delivering(&self, lane: &Lane) -> Delivery {
        let id = self.accept_one(lane).await;
        let delivery = self.lease_one(lane).await;
        assert_eq!(delivery.lease.id, id);
        delivery
    }

    /// Asserts that the lane gives nothing, after the store had its chance to make a mistake.
    pub(crate) async fn assert_nothing_to_lease(&self, lane: &Lane, why: &str) {
        for _ in 0..3 {
            self.barrier().await;
            let given = self.lease(lane, 10).await;
            assert!(given.is_empty(), "{why}, but {given:?} was leased");
        }
    }

    pub(crate) async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Vec<InvocationId> {
        match self.store.settle(delivery.lease, settlement).await {
            Ok(Settled::Done(ids)) => ids,
            other => panic!("expected {:?} to be settled, got {other:?}", delivery.lease),
        }
    }

    pub(crate) async fn assert_superseded(&self, delivery: &Delivery, why: &str) {
        // With something to follow: a late settlement must not cause anything either.
        let before = self.store.totals().accepted_in_all();
        let settlement = calls::completed_then(vec![calls::to(&calls::lane("late"))]);
        let settled = self.store.settle(delivery.lease, settlement).await;
        assert!(matches!(settled, Ok(Settled::Superseded)), "{why}, but settling answered {settled:?}");
        assert_eq!(self.store.totals().accepted_in_all(), before, "{why}, but something followed");
    }

    /// Leases, and gives up, one call: a dead letter.
    pub(crate) async fn dead(&self, lane: &Lane) -> InvocationId {
        let delivery = self.delivering(lane).await;
        self.settle(&delivery, calls::dead()).await;
        delivery.lease.id
    }

    pub(crate) async fn find(&self, id: InvocationId) -> Record {
        self.store
            .find(id)
            .await
            .expect("a healthy store answers")
            .unwrap_or_else(|| panic!("{id} is not found"))
    }

    /// How the latest accepted call stands, by the list.
    pub(crate) async fn first_listed(&self) -> State {
        let page = Page { limit: 1, cursor: None };
        let listed = self.store.list(&Filter::default(), &page).await.expect("a healthy store lists");
        listed.items.first().expect("something was accepted").state
    }

    pub(crate) async fn state(&self, id: InvocationId) -> State {
        self.find(id).await.state
    }

    /// The whole body; also that it comes in bounded pieces.
    pub(crate) async fn body(&self, body: &Body) -> Bytes {
        let mut pieces = self.store.read(body).await.expect("the body is there");
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.expect("the body is whole");
            assert!(piece.len() <= PIECE, "a piece of {} bytes", piece.len());
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }

    /// Waits until the books are even, and hands them out.
    pub(crate) async fn even(&self) -> Totals {
        self.until("the ledger to be even", async || {
            let totals = self.store.totals();
            if totals.drift() == 0 {
                Ok(totals)
            } else {
                Err(format!("drift {} in {totals:?}", totals.drift()))
            }
        })
        .await
    }

    /// Waits until the books are even and say so.
    pub(crate) async fn expect_totals(&self, expected: &Totals) {
        assert_eq!(expected.drift(), 0, "the expectation itself is uneven");
        self.until("the totals", async || {
            let totals = self.store.totals();
            if totals == *expected { Ok(()) } else { Err(format!("{totals:?} instead of {expected:?}")) }
        })
        .await;
    }
}
