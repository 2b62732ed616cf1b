//! What a death of the process does to what was under way.

use std::time::Duration;

use broker_model::lease::wait_after_interruptions;
use broker_model::{InvocationQueue, State, Totals};

use super::bench::{Bench, End, Engine, SLACK};
use super::calls::{self, lane};

pub(crate) async fn a_call_under_way_at_a_kill_was_interrupted<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    let waiting = bench.accept_one(&lane("b")).await;
    bench.barrier().await;

    let bench = bench.reopen(End::Killed).await;

    let record = bench.find(delivery.lease.id).await;
    assert_eq!((record.state, record.interrupted, record.attempts.len()), (State::Waiting, 1, 0));
    assert_eq!(bench.find(waiting).await.interrupted, 0, "one that only waited was not");
    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.interrupted, again.made), (1, 0), "an interruption is no attempt");
    bench.settle(&again, calls::completed()).await;
    assert_eq!(bench.find(delivery.lease.id).await.interrupted, 1);
    bench
        .expect_totals(&Totals { accepted: [2, 0, 0, 0, 0], completed: 1, held: 1, ..Totals::default() })
        .await;
}

pub(crate) async fn the_more_often_interrupted_the_longer_the_wait<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let id = bench.accept_one(&lane("a")).await;
    for times in 1..=4 {
        let delivery = bench.lease_one(&lane("a")).await;
        assert_eq!(delivery.interrupted, times - 1);
        bench.barrier().await;
        bench = bench.reopen(End::Killed).await;

        let wait = wait_after_interruptions(times);
        if !wait.is_zero() {
            assert!(bench.find(id).await.next_attempt_at.is_some(), "it says when it runs next");
            bench.pass(wait - SLACK).await;
            bench.assert_nothing_to_lease(&lane("a"), &format!("{times} interruptions wait {wait:?}")).await;
            bench.pass(SLACK * 2).await;
        }
    }
    assert_eq!(bench.lease_one(&lane("a")).await.interrupted, 4);
}

pub(crate) async fn a_call_that_kills_its_broker_at_once_is_counted<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let id = bench.accept_one(&lane("a")).await;
    bench = bench.reopen(End::Killed).await;
    for times in 1..=3 {
        bench.lease_one(&lane("a")).await;

        // No commit in between: what it ran has ended the process.
        bench = bench.reopen(End::Killed).await;

        assert_eq!(bench.find(id).await.interrupted, times);
        bench.pass(wait_after_interruptions(times) + SLACK).await;
    }
}

pub(crate) async fn interruptions_are_kept_with_the_attempts<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::retry(1, Duration::ZERO)).await;
    bench.lease_one(&lane("a")).await;
    bench.barrier().await;

    let bench = bench.reopen(End::Killed).await;
    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.made, again.interrupted), (1, 1));
    bench.settle(&again, calls::retry(2, Duration::ZERO)).await;

    let bench = bench.reopen(End::Closed).await;
    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.made, again.interrupted), (2, 1));
}

pub(crate) async fn a_close_interrupts_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.barrier().await;

    let bench = bench.reopen(End::Closed).await;

    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.lease.id, again.made, again.interrupted), (delivery.lease.id, 0, 0));
}

pub(crate) async fn a_settled_call_was_not_interrupted<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let retried = bench.delivering(&lane("a")).await;
    bench.settle(&retried, calls::retry_in(0)).await;
    let dead = bench.delivering(&lane("b")).await;
    bench.settle(&dead, calls::dead()).await;

    let bench = bench.reopen(End::Killed).await;

    assert_eq!(bench.find(retried.lease.id).await.interrupted, 0);
    assert_eq!(bench.find(dead.lease.id).await.interrupted, 0);
}

pub(crate) async fn a_new_life_was_never_interrupted<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.delivering(&lane("a")).await.lease.id;
    bench.barrier().await;
    let bench = bench.reopen(End::Killed).await;
    let delivery = bench.lease_one(&lane("a")).await;
    bench.settle(&delivery, calls::dead_of(broker_model::Reason::Interrupted)).await;

    bench.store.redrive(id).await.expect("a dead letter is redriven");

    // It would be given up again at once otherwise.
    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.interrupted, again.made, again.lease.life), (0, 0, 2));
}

pub(crate) async fn the_books_are_even_after_every_kill<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    for round in 0..6_u64 {
        bench.accept(calls::event(&[lane("a"), lane("b"), lane("c")])).await;
        let dead = bench.lease_one(&lane("a")).await;
        bench.settle(&dead, calls::dead()).await;
        let done = bench.lease_one(&lane("b")).await;
        let of = done.lease.id;
        bench.settle(&done, calls::completed_then(vec![calls::callback_of(of)])).await;
        if round % 2 == 0 {
            bench.store.redrive(dead.lease.id).await.expect("a dead letter is redriven");
            let again = bench.lease_one(&lane("a")).await;
            bench.settle(&again, calls::dead()).await;
            bench.store.remove(dead.lease.id).await.expect("a dead letter is removed");
        }
        let under_way = bench.until("a call", async || bench.lease(&lane("c"), 1).await.pop()).await;
        bench.store.cancel(under_way.lease.id).await.expect("a healthy store cancels");
        let before = bench.even().await;

        bench = bench.reopen(End::Killed).await;

        bench.expect_totals(&before).await;
    }
    let totals = bench.even().await;
    assert_eq!((totals.accepted, totals.redriven, totals.removed), ([0, 18, 6, 0, 0], 3, 3));
    assert_eq!((totals.completed, totals.cancelled, totals.dead_in_all(), totals.dead_kept), (6, 6, 9, 3));
}
