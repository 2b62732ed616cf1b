//! The operator's verbs: cancel, redrive, remove, pause.

use std::time::Duration;

use broker_model::queue::{Cancelled, Pausable, RedriveError};
use broker_model::{Clock, InvocationId, InvocationQueue, Ledger, Reason, State, Totals};

use super::bench::{Bench, End, Engine, SLACK};
use super::calls::{self, lane};

pub(crate) async fn what_waits_can_be_cancelled<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let ready = bench.accept_one(&lane("ready")).await;
    let due = bench.clock.now() + Duration::from_secs(60);
    let scheduled = bench.accept(calls::due(&lane("scheduled"), due)).await[0];
    let delivery = bench.delivering(&lane("retrying")).await;
    bench.settle(&delivery, calls::retry_in(60)).await;

    for id in [ready, scheduled, delivery.lease.id] {
        assert_eq!(bench.store.cancel(id).await.ok(), Some(Cancelled::Waiting));
        assert_eq!(bench.store.cancel(id).await.ok(), Some(Cancelled::TooLate), "it has ended by then");
    }

    let cancelled = Totals { accepted: [3, 0, 0, 0, 0], cancelled: 3, ..Totals::default() };
    bench.expect_totals(&cancelled).await;
    let bench = bench.reopen(End::Killed).await;
    bench.expect_totals(&cancelled).await;
    bench.pass(Duration::from_secs(120) + SLACK).await;
    for (id, name) in [(ready, "ready"), (scheduled, "scheduled"), (delivery.lease.id, "retrying")] {
        let record = bench.find(id).await;
        assert_eq!((record.state, record.next_attempt_at), (State::Cancelled, None));
        assert!(record.ended_at.is_some());
        bench.assert_nothing_to_lease(&lane(name), "it was cancelled").await;
    }
    assert!(bench.store.lanes().is_empty());
}

pub(crate) async fn what_has_ended_cannot_be_cancelled<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let completed = bench.delivering(&lane("a")).await;
    bench.settle(&completed, calls::completed()).await;
    let dead = bench.dead(&lane("a")).await;

    assert_eq!(bench.store.cancel(completed.lease.id).await.ok(), Some(Cancelled::TooLate));
    assert_eq!(bench.store.cancel(dead).await.ok(), Some(Cancelled::TooLate));
    let unknown = InvocationId::from_u128(completed.lease.id.as_u128() ^ (1 << 90));
    assert_eq!(bench.store.cancel(unknown).await.ok(), Some(Cancelled::Unknown));
    assert_eq!(bench.store.cancel(InvocationId::from_u128(1)).await.ok(), Some(Cancelled::Unknown));

    assert_eq!(bench.state(dead).await, State::Dead);
    assert_eq!(bench.even().await.cancelled, 0);
}

pub(crate) async fn a_cancelled_delivery_is_no_interruption<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.store.cancel(delivery.lease.id).await.expect("a healthy store cancels");

    let bench = bench.reopen(End::Killed).await;

    let record = bench.find(delivery.lease.id).await;
    assert_eq!((record.state, record.interrupted), (State::Cancelled, 0));
    bench.assert_nothing_to_lease(&lane("a"), "it was cancelled").await;
}

pub(crate) async fn a_redriven_letter_begins_a_new_life<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.dead(&lane("a")).await;
    bench.pass(Duration::from_secs(100)).await;

    assert_eq!(bench.store.redrive(id).await.ok(), Some(2));

    let bench = bench.reopen(End::Killed).await;
    let record = bench.find(id).await;
    assert_eq!((record.state, record.invocation.life), (State::Waiting, 2));
    assert!(record.attempts.is_empty() && record.dead_letter.is_none() && record.ended_at.is_none());
    let age = record.invocation.life_began_at.since(record.invocation.accepted_at);
    assert_eq!(age.as_secs(), 100, "its age starts again");
    let delivery = bench.lease_one(&lane("a")).await;
    assert_eq!((delivery.lease.id, delivery.lease.life, delivery.made), (id, 2, 0));
    assert_eq!(bench.body(&delivery.invocation.body).await, "what was sent");
    let dead = Reason::ALL.map(|reason| u64::from(reason == Reason::Exhausted));
    let expected = Totals { accepted: [1, 0, 0, 0, 0], redriven: 1, dead, held: 1, ..Totals::default() };
    bench.expect_totals(&expected).await;

    bench.settle(&delivery, calls::dead()).await;
    assert_eq!(bench.store.redrive(id).await.ok(), Some(3), "each death can be redriven");
}

pub(crate) async fn one_life_is_redriven_once<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.dead(&lane("a")).await;

    let both: Vec<_> = (0..4)
        .map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.redrive(id).await })
        })
        .collect();
    let both: Vec<_> =
        futures::future::join_all(both).await.into_iter().map(|r| r.expect("no panic")).collect();

    assert_eq!(both.iter().filter(|r| r.is_ok()).count(), 1, "{both:?}");
    assert_eq!(both.iter().filter(|r| matches!(r, Err(RedriveError::NotDead(of)) if *of == id)).count(), 3);
    assert_eq!(bench.even().await.redriven, 1);
    assert_eq!(bench.lease(&lane("a"), 10).await.len(), 1);
}

pub(crate) async fn what_has_nothing_to_run_is_not_redriven<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for reason in Reason::ALL {
        let delivery = bench.delivering(&lane("a")).await;
        bench.settle(&delivery, calls::dead_of(reason)).await;

        let redriven = bench.store.redrive(delivery.lease.id).await;

        if reason.is_redrivable() {
            assert!(redriven.is_ok(), "{redriven:?}");
            let again = bench.lease_one(&lane("a")).await;
            bench.settle(&again, calls::completed()).await;
        } else {
            assert!(matches!(redriven, Err(RedriveError::NothingToRun(of)) if of == reason), "{redriven:?}");
            assert_eq!(bench.state(delivery.lease.id).await, State::Dead, "it is kept as it is");
        }
    }
    bench.even().await;
}

pub(crate) async fn what_is_not_dead_is_not_redriven<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let waiting = bench.accept_one(&lane("a")).await;
    let removed = bench.dead(&lane("b")).await;
    assert_eq!(bench.store.remove(removed).await.ok(), Some(true));

    // Whether a call that never died is "not dead" or "no dead letter" is one answer to whoever asks.
    let redriven = bench.store.redrive(waiting).await;
    assert!(matches!(redriven, Err(RedriveError::NotDead(_) | RedriveError::Unknown(_))), "{redriven:?}");
    for nobody in [removed, InvocationId::from_u128(waiting.as_u128() ^ (1 << 90))] {
        let redriven = bench.store.redrive(nobody).await;
        assert!(matches!(redriven, Err(RedriveError::Unknown(of)) if of == nobody), "{redriven:?}");
    }
    assert_eq!(bench.even().await.redriven, 0);
}

pub(crate) async fn a_removed_letter_is_gone_for_good<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let removed = bench.dead(&lane("a")).await;
    let kept = bench.dead(&lane("a")).await;
    let waiting = bench.accept_one(&lane("a")).await;

    assert_eq!(bench.store.remove(removed).await.ok(), Some(true));
    assert_eq!(bench.store.remove(removed).await.ok(), Some(false), "it is gone by then");
    assert_eq!(bench.store.remove(waiting).await.ok(), Some(false), "it is no dead letter");

    let dead = Reason::ALL.map(|reason| if reason == Reason::Exhausted { 2 } else { 0 });
    let expected =
        Totals { accepted: [3, 0, 0, 0, 0], dead, held: 1, dead_kept: 1, removed: 1, ..Totals::default() };
    bench.expect_totals(&expected).await;
    let bench = bench.reopen(End::Killed).await;
    bench.expect_totals(&expected).await;
    assert_eq!(bench.store.find(removed).await.ok(), Some(None));
    assert_eq!(bench.state(kept).await, State::Dead);
    assert_eq!(bench.state(waiting).await, State::Waiting);
    assert_eq!(bench.store.cancel(removed).await.ok(), Some(Cancelled::Unknown));
}

pub(crate) async fn pauses_are_remembered<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let (function, source) =
        (Pausable::Function(calls::function("a")), Pausable::Source(calls::source("bus")));
    let namesake = Pausable::Source(calls::source("a"));
    for what in [&function, &source, &function, &namesake] {
        bench.store.pause(what.clone()).await.expect("a healthy store remembers");
    }
    let mut bench = bench;
    for end in [End::Closed, End::Killed] {
        assert_eq!(
            sorted(bench.store.paused()),
            sorted(vec![function.clone(), source.clone(), namesake.clone()])
        );
        bench = bench.reopen(end).await;
    }
    assert_eq!(bench.store.paused().len(), 3);

    bench.store.resume(function).await.expect("a healthy store remembers");
    bench.store.resume(namesake.clone()).await.expect("a healthy store remembers");
    bench.store.resume(namesake).await.expect("resuming twice is no error");

    let bench = bench.reopen(End::Killed).await;
    assert_eq!(bench.store.paused(), [source]);
}

fn sorted(mut paused: Vec<Pausable>) -> Vec<Pausable> {
    paused.sort();
    paused
}

pub(crate) async fn a_pause_only_is_remembered<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.store.pause(Pausable::Function(calls::function("a"))).await.expect("a healthy store remembers");

    bench.accept_one(&lane("a")).await;

    assert_eq!(bench.lease(&lane("a"), 1).await.len(), 1, "what is leased is the caller's to decide");
}
