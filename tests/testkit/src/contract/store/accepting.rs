//! Custody: what was answered is durable, whole, and there once.

use std::collections::HashSet;

use broker_model::ledger::{Filter, Page};
use broker_model::{Accepted, InvocationQueue, Ledger, Reason, State, StoreError, Totals};
use futures::FutureExt;

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane};
use crate::reference::Bounds;

pub(crate) async fn an_accepted_call_is_found_as_it_was_given<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut acceptance = calls::event(&[lane("a")]);
    acceptance.drafts[0].max_age = Some(std::time::Duration::from_secs(90));
    let given = acceptance.clone();

    let id = bench.accept(acceptance).await[0];

    let record = bench.find(id).await;
    let call = &record.invocation;
    assert_eq!((call.id, call.life, &call.lane), (id, 1, &lane("a")));
    assert_eq!(call.target, given.drafts[0].target);
    assert_eq!(call.call_id, given.drafts[0].call_id);
    assert_eq!((&call.origin, &call.headers), (&given.origin, &given.headers));
    assert_eq!((call.due, call.max_age), (None, given.drafts[0].max_age));
    assert_eq!(call.accepted_at.as_millis(), broker_model::Clock::now(&*bench.clock).as_millis());
    assert_eq!(call.life_began_at, call.accepted_at);
    assert_eq!(bench.body(&call.body).await, "what was sent");
    assert_eq!((record.state, record.interrupted, record.attempts.len()), (State::Waiting, 0, 0));
    assert_eq!((record.next_attempt_at, record.ended_at, record.dead_letter), (None, None, None));
}

pub(crate) async fn a_fan_out_is_accepted_whole_in_the_order_of_its_drafts<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let lanes: Vec<_> = (0..40).map(|n| lane(&format!("f{n}"))).collect();

    let ids = bench.accept(calls::event(&lanes)).await;

    for (id, lane) in ids.iter().zip(&lanes) {
        let record = bench.find(*id).await;
        assert_eq!(record.invocation.lane, *lane);
        assert_eq!(bench.body(&record.invocation.body).await, "what was sent");
    }
    bench.expect_totals(&Totals { accepted: [0, 40, 0, 0, 0], held: 40, ..Totals::default() }).await;
}

pub(crate) async fn a_fan_out_over_the_bound_leaves_nothing<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 4, ..Bounds::default() }).await;
    let first = bench.accept(calls::fan_out(&[lane("a"), lane("b"), lane("c")])).await;

    let refused = bench.store.accept(calls::fan_out(&[lane("a"), lane("d")])).await;

    assert!(matches!(refused, Err(StoreError::TooManyWaiting { waiting: 3 })), "{refused:?}");
    bench.expect_totals(&Totals { accepted: [3, 0, 0, 0, 0], held: 3, ..Totals::default() }).await;
    bench.assert_nothing_to_lease(&lane("d"), "a part of a refused fan-out must not be there").await;
    assert_eq!(bench.store.lanes().len(), 3);
    let bench = bench.reopen(End::Killed).await;
    let all = Page { limit: 100, cursor: None };
    let listed = bench.store.list(&Filter::default(), &all).await.expect("a healthy store lists");
    assert_eq!(listed.items.len(), first.len());
}

pub(crate) async fn room_returns_when_calls_end<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 2, ..Bounds::default() }).await;
    let to = lane("a");
    bench.accept(calls::fan_out(&[to.clone(), to.clone()])).await;
    assert!(matches!(
        bench.store.accept(calls::to(&to)).await,
        Err(StoreError::TooManyWaiting { waiting: 2 })
    ));

    let delivery = bench.lease_one(&to).await;
    bench.settle(&delivery, calls::completed()).await;

    bench.accept_one(&to).await;
    let bench = bench.reopen(End::Closed).await;
    let refused = bench.store.accept(calls::to(&to)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWaiting { waiting: 2 })), "after a reopen: {refused:?}");
    bench.even().await;
}

pub(crate) async fn callbacks_are_never_refused_for_a_bound<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 1, ..Bounds::default() }).await;
    let delivery = bench.delivering(&lane("a")).await;

    let then = vec![calls::callback_of(delivery.lease.id), calls::callback_of(delivery.lease.id)];
    let follows = bench.settle(&delivery, calls::completed_then(then)).await;

    assert_eq!(follows.len(), 2);
    bench
        .expect_totals(&Totals { accepted: [1, 0, 2, 0, 0], completed: 1, held: 2, ..Totals::default() })
        .await;
}

pub(crate) async fn accepted_work_outlives_a_close<E: Engine>() {
    accepted_work_outlives::<E>(End::Closed).await;
}

pub(crate) async fn accepted_work_outlives_a_kill<E: Engine>() {
    accepted_work_outlives::<E>(End::Killed).await;
}

async fn accepted_work_outlives<E: Engine>(end: End) {
    let bench = Bench::<E>::new().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let body = bytes::Bytes::from(vec![n; 100 * usize::from(n)]);
        ids.push(bench.accept(calls::with_body(&lane("a"), body)).await[0]);
    }
    let mut before = Vec::new();
    for id in &ids {
        before.push(bench.find(*id).await);
    }

    let bench = bench.reopen(end).await;

    for (n, (id, before)) in (0_u8..).zip(ids.iter().zip(before)) {
        let mut after = bench.find(*id).await;
        assert_eq!(bench.body(&after.invocation.body).await, vec![n; 100 * usize::from(n)]);
        // Where a body lies is the store's own business, and may have changed.
        after.invocation.body = before.invocation.body.clone();
        assert_eq!(after, before);
    }
    let given = bench.until("all calls", async || {
        let stats = bench.store.lanes();
        if stats.iter().any(|lane| lane.ready == 20) { Ok(()) } else { Err(format!("{stats:?}")) }
    });
    given.await;
    let order: Vec<_> = bench.lease(&lane("a"), 100).await.into_iter().map(|d| d.lease.id).collect();
    assert_eq!(order, ids, "oldest first, as before");
    bench.expect_totals(&Totals { accepted: [20, 0, 0, 0, 0], held: 20, ..Totals::default() }).await;
}

pub(crate) async fn no_two_invocations_share_an_id<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let mut seen = HashSet::new();
    for end in [End::Closed, End::Killed, End::Closed] {
        let many =
            futures::future::join_all((0..50).map(|_| bench.accept(calls::fan_out(&[lane("a"), lane("b")]))));
        for id in many.await.into_iter().flatten() {
            assert!(seen.insert(id), "{id} was given twice");
        }
        // Ids must not repeat either when the wall clock says the same time twice.
        bench.clock.jump_back(std::time::Duration::from_millis(1));
        bench = bench.reopen(end).await;
    }
    assert_eq!(bench.even().await.held, 300);
}

pub(crate) async fn a_dropped_accept_is_whole_or_absent<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let lanes = [lane("a"), lane("b"), lane("c")];
    for key in 0..20 {
        let acceptance = calls::keyed(calls::fan_out(&lanes), "http", key, 1);
        let mut begun = bench.store.accept(acceptance.clone()).fuse().boxed();
        for _ in 0..key % 4 {
            let _ = futures::poll!(&mut begun);
        }
        drop(begun);

        // Whatever became of it, trying again leaves one whole.
        let again = bench.store.accept(acceptance).await.expect("a repeat is taken");
        assert_eq!(again.ids().len(), 3);
    }

    bench.expect_totals(&Totals { accepted: [60, 0, 0, 0, 0], held: 60, ..Totals::default() }).await;
    for lane in &lanes {
        let given = bench.lease(lane, 100).await;
        assert_eq!(given.len(), 20, "each fan-out is whole in {lane:?}");
    }
}

pub(crate) async fn an_accept_under_way_at_a_kill_is_whole_or_absent<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let lanes = [lane("a"), lane("b"), lane("c")];
    for round in 0..4 {
        let begun: Vec<_> = (0..10)
            .map(|n| {
                let key = round * 10 + n;
                let acceptance = calls::keyed(calls::fan_out(&lanes), "http", key, 1);
                let store = bench.store.clone();
                tokio::spawn(async move { store.accept(acceptance).await })
            })
            .collect();
        crate::time::breathe().await;
        for task in &begun {
            task.abort();
        }
        for task in begun {
            // What was answered before the kill must be there after it; the repeat below would show a second one.
            let _ = task.await;
        }
        bench = bench.reopen(End::Killed).await;
    }

    bench.even().await;
    for key in 0..40 {
        let again = bench.store.accept(calls::keyed(calls::fan_out(&lanes), "http", key, 1)).await;
        assert_eq!(again.expect("a repeat is taken").ids().len(), 3);
    }
    bench.expect_totals(&Totals { accepted: [120, 0, 0, 0, 0], held: 120, ..Totals::default() }).await;
}

pub(crate) async fn a_buried_message_is_accepted_and_dead_at_once<E: Engine>() {
    let bench = Bench::<E>::new().await;

    let buried = bench.store.bury(calls::undecodable(), Reason::Undecodable, "not JSON").await;

    let Ok(Accepted::New(ids)) = buried else { panic!("{buried:?}") };
    let expected = Totals {
        accepted: [0, 0, 0, 0, 1],
        dead: calls_dead_of(Reason::Undecodable),
        dead_kept: 1,
        ..Totals::default()
    };
    bench.expect_totals(&expected).await;
    let bench = bench.reopen(End::Killed).await;
    bench.expect_totals(&expected).await;
    let record = bench.find(ids[0]).await;
    assert_eq!(record.state, State::Dead);
    let letter = record.dead_letter.expect("a dead one has its letter");
    assert_eq!((letter.id, letter.reason, &*letter.detail), (ids[0], Reason::Undecodable, "not JSON"));
    assert_eq!(bench.body(&record.invocation.body).await, "what was sent");
    assert!(bench.store.lanes().is_empty(), "a buried one waits nowhere");
}

fn calls_dead_of(reason: Reason) -> [u64; Reason::ALL.len()] {
    Reason::ALL.map(|each| u64::from(each == reason))
}
