//! Many at once, on several threads and in real time.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_model::ledger::{Filter, Page};
use broker_model::queue::{Cancelled, Settled};
use broker_model::{Accepted, InvocationId, InvocationQueue, Lane, Ledger, State};
use futures::FutureExt;

use super::bench::{Bench, End, Engine};
use super::calls::{self, keyed, lane};
use crate::reference::Bounds;
use crate::time::{TestClock, eventually};

const LANES: usize = 6;
const PRODUCERS: usize = 16;
const EACH: usize = 60;

/// What the tasks did, as the store answered.
#[derive(Default)]
struct Done {
    accepted: AtomicU64,
    followed: AtomicU64,
    completed: AtomicU64,
    dead: AtomicU64,
    cancelled: AtomicU64,
    redriven: AtomicU64,
    delivering: AtomicU64,
    broken: AtomicU64,
    under_way: Mutex<HashSet<InvocationId>>,
    ids: Mutex<Vec<InvocationId>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::SeqCst);
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

pub(crate) async fn many_at_once_lose_nothing<E: Engine>() {
    let bench = Bench::<E>::with_clock(Bounds::default(), TestClock::start()).await;
    let done = Arc::new(Done::default());
    let lanes: Vec<Lane> =
        (0..LANES).map(|n| lane(&format!("f{n}"))).chain([calls::callback_lane()]).collect();

    let dispatcher = tokio::spawn(dispatch(bench.store.clone(), done.clone()));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|n| tokio::spawn(produce(bench.store.clone(), lanes.clone(), done.clone(), n)))
        .collect();
    for producer in producers {
        producer.await.expect("a producer does not panic");
    }

    // Everything accepted comes to its end by itself: no lane is forgotten, no signal lost.
    eventually(Duration::from_secs(60), "everything to end", async || {
        assert_eq!(of(&done.broken), 0, "a delivery found something wrong");
        assert!(!dispatcher.is_finished(), "the dispatcher found something wrong");
        let totals = bench.store.totals();
        // A delivery still under way may redrive what it gave up.
        let quiet = totals.held == 0 && of(&done.delivering) == 0 && bench.store.totals().held == 0;
        if quiet { Ok(()) } else { Err(format!("{totals:?}; {:?}", bench.store.lanes())) }
    })
    .await;
    dispatcher.abort();
    let _ = dispatcher.await;

    check(&bench, &done).await;
    let before = bench.store.totals();
    let bench = bench.reopen(End::Killed).await;
    assert_eq!(bench.store.totals(), before);
    check(&bench, &done).await;
}

async fn check<E: Engine>(bench: &Bench<E>, done: &Done) {
    let totals = bench.store.totals();
    assert_eq!(totals.drift(), 0, "{totals:?}");
    assert_eq!(totals.accepted_in_all(), of(&done.accepted) + of(&done.followed));
    assert_eq!(totals.accepted[2], of(&done.followed));
    assert_eq!(totals.completed, of(&done.completed));
    assert_eq!(totals.dead_in_all(), of(&done.dead));
    assert_eq!(totals.cancelled, of(&done.cancelled));
    assert_eq!(totals.redriven, of(&done.redriven));
    let ids = locked(&done.ids).clone();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "no id was given twice");
    let mut listed = 0;
    let mut page = Page { limit: 500, cursor: None };
    loop {
        let some = bench.store.list(&Filter::default(), &page).await.expect("a healthy store lists");
        assert!(some.items.iter().all(|record| !matches!(record.state, State::Waiting | State::Delivering)));
        listed += some.items.len() as u64;
        page.cursor = some.next;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, totals.accepted_in_all());
}

/// Accepts, repeats, and cancels some of what it accepted.
async fn produce<S: InvocationQueue>(store: Arc<S>, lanes: Vec<Lane>, done: Arc<Done>, nth: usize) {
    for n in 0..EACH {
        let first = (nth + n) % LANES;
        let wanted = &lanes[first..(first + 1 + n % 3).min(LANES)];
        let acceptance = keyed(calls::fan_out(wanted), "http", (nth * EACH + n) as u128, 1);
        let repeat = (n % 4 == 0).then(|| acceptance.clone());
        let accepted = match repeat {
            Some(repeat) => {
                let (one, other) = tokio::join!(store.accept(acceptance), store.accept(repeat));
                let (one, other) = (one.expect("a healthy store accepts"), other.expect("and repeats"));
                assert_eq!(one.ids(), other.ids());
                assert!(
                    matches!(one, Accepted::New(_)) != matches!(other, Accepted::New(_)),
                    "{one:?}, {other:?}"
                );
                one
            }
            None => store.accept(acceptance).await.expect("a healthy store accepts"),
        };
        add(&done.accepted, accepted.ids().len() as u64);
        locked(&done.ids).extend(accepted.ids());
        if n % 5 == 0 {
            match store.cancel(accepted.ids()[0]).await.expect("a healthy store cancels") {
                Cancelled::Waiting | Cancelled::Delivering => add(&done.cancelled, 1),
                Cancelled::TooLate => {}
                Cancelled::Unknown => panic!("{} was accepted", accepted.ids()[0]),
            }
        }
    }
}

/// Leases whatever is named, and delivers each in a task of its own.
async fn dispatch<S: InvocationQueue + 'static>(store: Arc<S>, done: Arc<Done>) {
    let mut round = 0_usize;
    loop {
        for lane in store.ready().await {
            loop {
                round += 1;
                let wanted = 1 + round % 7;
                let given = store.lease(&[(lane.clone(), wanted)]).await.expect("a healthy store leases");
                let found = given.len();
                for delivery in given {
                    let id = delivery.lease.id;
                    assert!(locked(&done.under_way).insert(id), "{id} was leased to two");
                    add(&done.delivering, 1);
                    let (store, done) = (store.clone(), done.clone());
                    tokio::spawn(async move {
                        let delivered = AssertUnwindSafe(deliver(store, delivery, done.clone(), round));
                        add(&done.broken, u64::from(delivered.catch_unwind().await.is_err()));
                        done.delivering.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                if found < wanted {
                    break;
                }
            }
        }
    }
}

async fn deliver<S: InvocationQueue>(
    store: Arc<S>,
    delivery: broker_model::Delivery,
    done: Arc<Done>,
    salt: usize,
) {
    let (id, lease) = (delivery.lease.id, delivery.lease);
    tokio::task::yield_now().await;
    let is_callback = delivery.invocation.lane == calls::callback_lane();
    let settlement = match (salt + delivery.made as usize) % 6 {
        0 | 1 if !is_callback => calls::completed_then(vec![calls::callback_of(id)]),
        2 if delivery.made < 3 => calls::retry(delivery.made + 1, Duration::from_millis(3)),
        3 if delivery.made < 3 => calls::retry(delivery.made + 1, Duration::ZERO),
        4 => calls::dead(),
        _ => calls::completed(),
    };
    let (completes, dies) = match &settlement {
        broker_model::Settlement::Completed { .. } => (1, 0),
        broker_model::Settlement::Dead { .. } => (0, 1),
        _ => (0, 0),
    };
    locked(&done.under_way).remove(&id);
    // Two at once: one of them is late.
    let (one, other) = if salt.is_multiple_of(9) {
        tokio::join!(store.settle(lease, settlement.clone()), store.settle(lease, settlement))
    } else {
        (store.settle(lease, settlement).await, Ok(Settled::Superseded))
    };
    let settled: Vec<InvocationId> = match (one, other) {
        (Ok(Settled::Done(ids)), Ok(Settled::Superseded))
        | (Ok(Settled::Superseded), Ok(Settled::Done(ids))) => ids,
        (Ok(Settled::Superseded), Ok(Settled::Superseded)) => return,
        wrong => panic!("two settlements of one lease: {wrong:?}"),
    };
    add(&done.completed, completes);
    add(&done.dead, dies);
    add(&done.followed, settled.len() as u64);
    locked(&done.ids).extend(settled);
    if dies > 0 && lease.life == 1 && salt.is_multiple_of(2) {
        assert_eq!(store.redrive(id).await.expect("a dead letter is redriven"), 2);
        add(&done.redriven, 1);
    }
}
