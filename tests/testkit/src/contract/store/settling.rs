//! One owner, one settlement, and what follows from it.

use std::time::Duration;

use broker_model::queue::{Cancelled, Settled};
use broker_model::{
    Attempt, InvocationId, InvocationQueue, Ledger, Origin, Reason, Settlement, State, Totals,
};
use futures::FutureExt;

use super::bench::{Bench, End, Engine, SLACK};
use super::calls::{self, lane};

pub(crate) async fn a_completed_call_has_ended_well<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.pass(Duration::from_secs(3)).await;

    assert!(bench.settle(&delivery, calls::completed()).await.is_empty());

    let ended = Totals { accepted: [1, 0, 0, 0, 0], completed: 1, ..Totals::default() };
    bench.expect_totals(&ended).await;
    assert!(bench.store.lanes().is_empty());
    let bench = bench.reopen(End::Killed).await;
    bench.expect_totals(&ended).await;
    let record = bench.find(delivery.lease.id).await;
    assert_eq!((record.state, record.next_attempt_at), (State::Completed, None));
    assert_eq!(record.attempts.latest(), Some(&calls::attempt(1, 200)));
    let ended_at = record.ended_at.expect("an ended call says when");
    assert_eq!(ended_at.since(record.invocation.accepted_at).as_secs(), 3);
    bench.assert_nothing_to_lease(&lane("a"), "it has ended").await;
}

pub(crate) async fn a_retried_call_keeps_its_attempts<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.accept_one(&lane("a")).await;
    let attempts: Vec<Attempt> =
        (1..=30).map(|n| calls::attempt(n, if n % 3 == 0 { 503 } else { 500 })).collect();
    for attempt in &attempts {
        let delivery = bench.lease_one(&lane("a")).await;
        assert_eq!(delivery.made, attempt.number - 1);
        let retry = Settlement::Retry { attempt: attempt.clone(), wait: Duration::ZERO };
        bench.settle(&delivery, retry).await;
    }

    let bench = bench.reopen(End::Killed).await;

    let record = bench.find(id).await;
    let mut expected = broker_model::AttemptHistory::default();
    for attempt in attempts {
        expected.push(attempt);
    }
    assert_eq!(record.attempts, expected, "the first three, the last twenty, the rest counted");
    assert_eq!(bench.lease_one(&lane("a")).await.made, 30);
    bench.expect_totals(&Totals { accepted: [1, 0, 0, 0, 0], held: 1, ..Totals::default() }).await;
}

pub(crate) async fn a_released_call_has_no_trace_of_a_start<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.barrier().await;

    bench.settle(&delivery, calls::released(Duration::ZERO)).await;

    let record = bench.find(delivery.lease.id).await;
    assert_eq!((record.state, record.attempts.len(), record.interrupted), (State::Waiting, 0, 0));
    let bench = bench.reopen(End::Killed).await;
    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.made, again.interrupted), (0, 0), "a kill after the release interrupts nothing");
}

pub(crate) async fn a_released_call_goes_back_to_the_head_of_its_lane<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let first = bench.delivering(&lane("a")).await;
    let second = bench.accept_one(&lane("a")).await;

    bench.settle(&first, calls::released(Duration::ZERO)).await;

    let order: Vec<_> =
        bench.lease(&lane("a"), 2).await.into_iter().map(|delivery| delivery.lease.id).collect();
    assert_eq!(order, [first.lease.id, second]);
}

pub(crate) async fn a_dead_call_is_kept_with_its_reason<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut letters = Vec::new();
    for reason in Reason::ALL {
        let delivery = bench.delivering(&lane("a")).await;
        bench.settle(&delivery, calls::dead_of(reason)).await;
        letters.push((delivery.lease.id, reason));
    }
    let unattempted = bench.delivering(&lane("a")).await;
    let expired = Settlement::Dead {
        attempt: None,
        reason: Reason::Expired,
        detail: "too old".into(),
        then: Vec::new(),
    };
    bench.settle(&unattempted, expired).await;

    let bench = bench.reopen(End::Killed).await;

    for (id, reason) in letters {
        let record = bench.find(id).await;
        assert_eq!(record.state, State::Dead);
        let letter = record.dead_letter.expect("a dead one has its letter");
        assert_eq!((letter.id, letter.reason, &*letter.detail), (id, reason, "status 500"));
        assert_eq!(Some(letter.died_at), record.ended_at);
        assert_eq!(record.attempts.latest(), Some(&calls::attempt(1, 500)));
        assert_eq!(bench.body(&record.invocation.body).await, "what was sent");
    }
    assert!(bench.find(unattempted.lease.id).await.attempts.is_empty());
    let dead = Reason::ALL.map(|reason| if reason == Reason::Expired { 2 } else { 1 });
    bench
        .expect_totals(&Totals { accepted: [11, 0, 0, 0, 0], dead, dead_kept: 11, ..Totals::default() })
        .await;
    assert!(bench.store.lanes().is_empty());
}

pub(crate) async fn the_first_settlement_counts<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::completed()).await;
    bench.assert_superseded(&delivery, "it was completed before").await;

    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::retry_in(0)).await;
    bench.assert_superseded(&delivery, "it waits for its retry").await;
    let again = bench.lease_one(&lane("a")).await;
    bench.assert_superseded(&delivery, "it was leased again").await;
    bench.settle(&again, calls::dead()).await;
    bench.assert_superseded(&again, "it is dead").await;

    assert_eq!(bench.find(again.lease.id).await.attempts.len(), 2, "late settlements leave no attempt");
    let totals = bench.even().await;
    assert_eq!((totals.completed, totals.dead_in_all(), totals.held), (1, 1, 0));
}

pub(crate) async fn of_concurrent_settlements_one_counts<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for _ in 0..8 {
        let delivery = bench.delivering(&lane("a")).await;
        let lease = delivery.lease;
        let settlements =
            [calls::completed(), calls::dead(), calls::retry_in(0), calls::released(Duration::ZERO)];
        let settled: Vec<_> = settlements
            .into_iter()
            .map(|settlement| {
                let store = bench.store.clone();
                tokio::spawn(async move { store.settle(lease, settlement).await })
            })
            .collect();
        let done = futures::future::join_all(settled)
            .await
            .into_iter()
            .filter(|settled| matches!(settled, Ok(Ok(Settled::Done(_)))))
            .count();
        assert_eq!(done, 1);
        // Whichever it was, nothing of it must wait when the next round begins.
        for left in bench.lease(&lane("a"), 10).await {
            bench.settle(&left, calls::completed()).await;
        }
    }
    let totals = bench.even().await;
    assert_eq!((totals.accepted_in_all(), totals.held), (8, 0));
}

pub(crate) async fn a_cancelled_delivery_settles_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;

    let cancelled = bench.store.cancel(delivery.lease.id).await;

    assert_eq!(cancelled.ok(), Some(Cancelled::Delivering));
    bench.assert_superseded(&delivery, "it was cancelled").await;
    assert_eq!(bench.state(delivery.lease.id).await, State::Cancelled);
    bench.expect_totals(&Totals { accepted: [1, 0, 0, 0, 0], cancelled: 1, ..Totals::default() }).await;
}

pub(crate) async fn a_lease_of_an_earlier_life_settles_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let first = bench.delivering(&lane("a")).await;
    bench.settle(&first, calls::dead()).await;
    bench.store.redrive(first.lease.id).await.expect("a dead letter is redriven");
    bench.assert_superseded(&first, "a new life began").await;

    let second = bench.lease_one(&lane("a")).await;

    assert_eq!(second.lease.life, 2);
    bench.assert_superseded(&first, "the lease is of the earlier life").await;
    bench.settle(&second, calls::completed()).await;
}

pub(crate) async fn a_lease_of_an_earlier_process_settles_nothing<E: Engine>() {
    for end in [End::Closed, End::Killed] {
        let bench = Bench::<E>::new().await;
        let before = bench.delivering(&lane("a")).await;
        bench.barrier().await;

        let bench = bench.reopen(end).await;

        bench.assert_superseded(&before, "its process has ended").await;
        let after = bench.lease_one(&lane("a")).await;
        bench.assert_superseded(&before, "it was leased in another process").await;
        bench.settle(&after, calls::completed()).await;
        bench.even().await;
    }
}

pub(crate) async fn a_lease_of_nothing_settles_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    let mut unknown = delivery.lease;
    unknown.id = InvocationId::from_u128(unknown.id.as_u128() ^ (1 << 90));

    let settled = bench.store.settle(unknown, calls::completed()).await;

    assert!(matches!(settled, Ok(Settled::Superseded)), "{settled:?}");
    bench.settle(&delivery, calls::completed()).await;
}

pub(crate) async fn what_follows_is_accepted_with_the_settlement<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for settle_as_dead in [false, true] {
        let delivery = bench.delivering(&lane("a")).await;
        let of = delivery.lease.id;
        let copy = broker_model::Acceptance {
            origin: Origin::DeadLetter { of },
            ..calls::fan_out(&[lane("graveyard"), lane("watcher")])
        };
        let then = vec![calls::callback_of(of), copy];
        let settlement = if settle_as_dead {
            Settlement::Dead {
                attempt: Some(calls::attempt(1, 400)),
                reason: Reason::Rejected,
                detail: "status 400".into(),
                then,
            }
        } else {
            calls::completed_then(then)
        };

        let follows = bench.settle(&delivery, settlement).await;

        assert_eq!(follows.len(), 3, "every draft of what follows, in order");
        let callback = bench.find(follows[0]).await;
        assert_eq!(callback.invocation.origin, Origin::Callback { of });
        assert_eq!(callback.state, State::Waiting);
        assert_eq!(bench.body(&callback.invocation.body).await, "the result");
        assert_eq!(bench.find(follows[1]).await.invocation.lane, lane("graveyard"));
        assert_eq!(bench.find(follows[2]).await.invocation.lane, lane("watcher"));
        assert_eq!(bench.lease_one(&calls::callback_lane()).await.lease.id, follows[0]);
    }
    let totals = bench.even().await;
    assert_eq!(totals.accepted, [2, 0, 2, 4, 0]);
}

pub(crate) async fn what_follows_outlives_a_kill_with_its_settlement<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    let of = delivery.lease.id;
    let follows = bench.settle(&delivery, calls::completed_then(vec![calls::callback_of(of)])).await;

    let bench = bench.reopen(End::Killed).await;

    assert_eq!(bench.state(of).await, State::Completed);
    assert_eq!(bench.state(follows[0]).await, State::Waiting);
    assert_eq!(bench.lease_one(&calls::callback_lane()).await.lease.id, follows[0]);
    let expected = Totals { accepted: [1, 0, 1, 0, 0], completed: 1, held: 1, ..Totals::default() };
    bench.expect_totals(&expected).await;
}

pub(crate) async fn a_settlement_under_way_at_a_kill_is_whole_or_absent<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    for round in 0..12 {
        let id = bench.accept_one(&lane("a")).await;
        let delivery = bench.lease_one(&lane("a")).await;
        let before = bench.even().await;
        let mut settling = bench
            .store
            .settle(delivery.lease, calls::completed_then(vec![calls::callback_of(id)]))
            .fuse()
            .boxed();
        for _ in 0..=round % 4 {
            let _ = futures::poll!(&mut settling);
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(settling);

        bench = bench.reopen(End::Killed).await;

        let callbacks = bench.even().await.accepted[2] - before.accepted[2];
        match bench.state(id).await {
            State::Completed => assert_eq!(callbacks, 1, "settled, so its callback is there"),
            State::Waiting => assert_eq!(callbacks, 0, "not settled, so nothing follows"),
            other => panic!("neither settled nor given back: {other:?}"),
        }
        // Away with what is left, so that each round begins with an empty lane.
        bench.store.cancel(id).await.expect("a healthy store cancels");
    }
}

pub(crate) async fn a_dropped_settlement_is_whole_or_absent<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for polls in 0..4 {
        let delivery = bench.delivering(&lane("a")).await;
        let of = delivery.lease.id;
        let before = bench.even().await.accepted[2];
        let mut settling = bench
            .store
            .settle(delivery.lease, calls::completed_then(vec![calls::callback_of(of)]))
            .fuse()
            .boxed();
        for _ in 0..polls {
            let _ = futures::poll!(&mut settling);
        }
        drop(settling);
        bench.barrier().await;

        let follows = bench.even().await.accepted[2] - before;
        match bench.state(of).await {
            State::Completed => assert_eq!(follows, 1),
            State::Delivering => {
                assert_eq!(follows, 0);
                bench.settle(&delivery, calls::completed()).await;
            }
            other => panic!("neither settled nor leased: {other:?}"),
        }
    }
}

pub(crate) async fn an_end_that_was_told_outlives_a_kill<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let lane = lane("a");
    for ended in [State::Completed, State::Dead, State::Cancelled] {
        for by_id in [true, false] {
            let delivery = bench.delivering(&lane).await;
            let (id, store) = (delivery.lease.id, bench.store.clone());
            let mut ending = async {
                match ended {
                    State::Completed => drop(store.settle(delivery.lease, calls::completed()).await),
                    State::Dead => drop(store.settle(delivery.lease, calls::dead()).await),
                    _ => drop(store.cancel(id).await),
                }
            }
            .fuse()
            .boxed();
            // It is begun, and may or may not be durable.
            let _ = futures::poll!(&mut ending);
            let told = if by_id { bench.find(id).await.state } else { bench.first_listed().await };
            drop(ending);
            drop(store);

            bench = bench.reopen(End::Killed).await;

            if told == ended {
                assert_eq!(bench.state(id).await, ended, "it was told, by id: {by_id}, and undone by a kill");
            } else {
                bench.store.cancel(id).await.expect("a healthy store cancels");
            }
        }
    }
}

pub(crate) async fn a_settled_call_stays_settled_over_many_reopenings<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let later = broker_model::Clock::now(&*bench.clock) + Duration::from_secs(365 * 24 * 3600);
    let delayed = bench.accept(calls::due(&lane("later"), later)).await[0];
    let mut done = Vec::new();
    for end in [End::Killed, End::Closed, End::Killed, End::Killed] {
        for _ in 0..25 {
            let delivery = bench.delivering(&lane("a")).await;
            bench.settle(&delivery, calls::completed()).await;
            done.push(delivery.lease.id);
        }
        bench = bench.reopen(end).await;
        bench.pass(SLACK).await;
        bench.assert_nothing_to_lease(&lane("a"), "everything was settled").await;
    }
    for id in done {
        assert_eq!(bench.state(id).await, State::Completed);
    }
    assert_eq!(bench.state(delayed).await, State::Waiting);
    bench
        .expect_totals(&Totals { accepted: [101, 0, 0, 0, 0], completed: 100, held: 1, ..Totals::default() })
        .await;
}
