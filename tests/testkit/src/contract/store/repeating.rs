//! Dedup: the same key again makes no second invocation.

use std::time::Duration;

use broker_model::{Accepted, InvocationQueue, Reason, StoreError, Totals};

use super::bench::{Bench, End, Engine, SLACK};
use super::calls::{self, keyed, lane};
use crate::reference::Bounds;

pub(crate) async fn a_repeat_answers_with_the_first_ids<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let acceptance = keyed(calls::fan_out(&[lane("a"), lane("b")]), "http", 1, 1);
    let ids = bench.accept(acceptance.clone()).await;

    assert_eq!(bench.store.accept(acceptance.clone()).await.ok(), Some(Accepted::Duplicate(ids.clone())));
    bench.expect_totals(&Totals { accepted: [2, 0, 0, 0, 0], held: 2, ..Totals::default() }).await;

    // Also when the calls have ended meanwhile.
    for lane in [lane("a"), lane("b")] {
        let delivery = bench.lease_one(&lane).await;
        bench.settle(&delivery, calls::completed()).await;
    }
    assert_eq!(bench.store.accept(acceptance).await.ok(), Some(Accepted::Duplicate(ids)));
    bench.expect_totals(&Totals { accepted: [2, 0, 0, 0, 0], completed: 2, ..Totals::default() }).await;
}

pub(crate) async fn concurrent_repeats_make_one_invocation<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for key in 0..8 {
        let acceptance = keyed(calls::to(&lane("a")), "http", key, 1);
        let answers: Vec<_> = (0..16)
            .map(|_| {
                let (store, acceptance) = (bench.store.clone(), acceptance.clone());
                tokio::spawn(async move { store.accept(acceptance).await })
            })
            .collect();
        let answers: Vec<Accepted> = futures::future::join_all(answers)
            .await
            .into_iter()
            .map(|joined| joined.expect("accepting does not panic").expect("a healthy store accepts"))
            .collect();

        let first = answers.iter().filter(|answer| matches!(answer, Accepted::New(_))).count();
        assert_eq!(first, 1, "one of them is the first: {answers:?}");
        assert!(answers.iter().all(|answer| answer.ids() == answers[0].ids()), "{answers:?}");
        bench.find(answers[0].ids()[0]).await;
    }
    bench.expect_totals(&Totals { accepted: [8, 0, 0, 0, 0], held: 8, ..Totals::default() }).await;
}

pub(crate) async fn a_key_with_another_request_is_refused<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept(keyed(calls::to(&lane("a")), "http", 1, 1)).await;

    let other = bench.store.accept(keyed(calls::to(&lane("a")), "http", 1, 2)).await;

    assert!(matches!(other, Err(StoreError::KeyReused)), "{other:?}");
    let bench = bench.reopen(End::Killed).await;
    let other = bench.store.accept(keyed(calls::to(&lane("a")), "http", 1, 2)).await;
    assert!(matches!(other, Err(StoreError::KeyReused)), "after a kill: {other:?}");
    bench.expect_totals(&Totals { accepted: [1, 0, 0, 0, 0], held: 1, ..Totals::default() }).await;
}

pub(crate) async fn keys_outlive_a_close_and_a_kill<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let acceptance = |key| keyed(calls::fan_out(&[lane("a"), lane("b")]), "http", key, 1);
    let first = bench.accept(acceptance(1)).await;

    let bench = bench.reopen(End::Closed).await;
    assert_eq!(bench.store.accept(acceptance(1)).await.ok(), Some(Accepted::Duplicate(first.clone())));
    let second = bench.accept(acceptance(2)).await;

    let bench = bench.reopen(End::Killed).await;
    assert_eq!(bench.store.accept(acceptance(1)).await.ok(), Some(Accepted::Duplicate(first)));
    assert_eq!(bench.store.accept(acceptance(2)).await.ok(), Some(Accepted::Duplicate(second)));
    bench.expect_totals(&Totals { accepted: [4, 0, 0, 0, 0], held: 4, ..Totals::default() }).await;
}

pub(crate) async fn scopes_do_not_share_keys<E: Engine>() {
    let bench = Bench::<E>::new().await;

    let http = bench.accept(keyed(calls::to(&lane("a")), "http", 1, 1)).await;
    let bus = bench.accept(keyed(calls::to(&lane("a")), "bus", 1, 2)).await;

    assert_ne!(http, bus);
    let again = bench.store.accept(keyed(calls::to(&lane("a")), "bus", 1, 2)).await;
    assert_eq!(again.ok(), Some(Accepted::Duplicate(bus)));
}

pub(crate) async fn a_refused_acceptance_leaves_its_key_free<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 1, ..Bounds::default() }).await;
    let delivery = bench.delivering(&lane("a")).await;
    let acceptance = keyed(calls::to(&lane("a")), "http", 1, 1);
    let refused = bench.store.accept(acceptance.clone()).await;
    assert!(matches!(refused, Err(StoreError::TooManyWaiting { .. })), "{refused:?}");

    bench.settle(&delivery, calls::completed()).await;

    bench.accept(acceptance.clone()).await;
    // A repeat is no new work, so no bound refuses it.
    assert!(matches!(bench.store.accept(acceptance).await, Ok(Accepted::Duplicate(_))));
}

pub(crate) async fn a_key_is_forgotten_after_its_window<E: Engine>() {
    let window = Duration::from_secs(600);
    let bench = Bench::<E>::bounded(Bounds { dedup_window: window, ..Bounds::default() }).await;
    let acceptance = keyed(calls::to(&lane("a")), "http", 1, 1);
    let first = bench.accept(acceptance.clone()).await;

    bench.pass(window / 2).await;
    assert_eq!(bench.store.accept(acceptance.clone()).await.ok(), Some(Accepted::Duplicate(first.clone())));

    // Engines may forget in steps, and remember a little longer than the window.
    bench.pass(window + SLACK).await;
    let again = bench.accept(acceptance).await;
    assert_ne!(again, first);
}

pub(crate) async fn a_buried_message_is_recognised_again<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let message = keyed(calls::undecodable(), "bus", 1, 1);
    let Ok(Accepted::New(ids)) = bench.store.bury(message.clone(), Reason::Undecodable, "not JSON").await
    else {
        panic!("a first burial is new")
    };

    let bench = bench.reopen(End::Killed).await;

    let again = bench.store.bury(message, Reason::Undecodable, "not JSON").await;
    assert_eq!(again.ok(), Some(Accepted::Duplicate(ids)));
    assert_eq!(bench.even().await.dead_in_all(), 1);
}
