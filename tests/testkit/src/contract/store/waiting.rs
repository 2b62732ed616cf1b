//! Retries wait on the monotonic clock, due times on the wall clock.

use std::time::Duration;

use broker_model::{Clock, Lane, Ledger, State, Timestamp};

use super::bench::{Bench, End, Engine, SLACK};
use super::calls::{self, lane};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn a_retry_is_not_early<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::retry_in(60)).await;
    let record = bench.find(delivery.lease.id).await;
    assert_eq!(record.state, State::Waiting);
    assert_eq!(millis_ahead(&bench, record.next_attempt_at), Some(60_000));
    assert_eq!(stats(&bench, &lane("a")), (0, 1, 0, 0));

    bench.pass(MINUTE / 2).await;
    bench.assert_nothing_to_lease(&lane("a"), "the retry waits for half a minute more").await;
    bench.pass(MINUTE / 2 - SLACK).await;
    bench.assert_nothing_to_lease(&lane("a"), "the retry waits for a moment more").await;
    bench.pass(SLACK * 2).await;

    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.lease.id, again.made), (delivery.lease.id, 1));
}

pub(crate) async fn waits_end_in_the_order_of_their_ends<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let waits = [40, 10, 30, 20];
    let mut ids = Vec::new();
    for wait in waits {
        let delivery = bench.delivering(&lane("a")).await;
        ids.push(delivery.lease.id);
        bench.settle(&delivery, calls::retry_in(wait)).await;
    }

    bench.pass(SLACK).await;
    for nth in [1, 3, 2, 0] {
        bench.pass(Duration::from_secs(10)).await;
        let given = bench.lease_one(&lane("a")).await;
        assert_eq!(given.lease.id, ids[nth]);
        bench.assert_nothing_to_lease(&lane("a"), "the others still wait").await;
    }
}

pub(crate) async fn a_retried_call_comes_back_behind_the_others<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bench.accept_one(&lane("a")).await);
    }

    // Each in turn, for as often as it takes, though the oldest could run again before the next one runs.
    for round in 0..3 {
        for id in &ids {
            let delivery = bench.lease_one(&lane("a")).await;
            assert_eq!(delivery.lease.id, *id, "round {round}");
            bench.settle(&delivery, calls::retry(round + 1, Duration::from_secs(10))).await;
            bench.pass(Duration::from_secs(10) + SLACK).await;
        }
    }
}

pub(crate) async fn a_released_call_waits_as_told<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::released(MINUTE)).await;

    bench.pass(MINUTE - SLACK).await;
    bench.assert_nothing_to_lease(&lane("a"), "it was released for a minute").await;
    bench.pass(SLACK * 2).await;

    let again = bench.lease_one(&lane("a")).await;
    assert_eq!((again.made, again.interrupted), (0, 0));
}

pub(crate) async fn jumps_of_the_wall_clock_leave_retries_alone<E: Engine>() {
    for ahead in [true, false] {
        let bench = Bench::<E>::new().await;
        let delivery = bench.delivering(&lane("a")).await;
        bench.settle(&delivery, calls::retry_in(60)).await;

        if ahead {
            bench.clock.jump_ahead(MINUTE * 600);
        } else {
            bench.clock.jump_back(MINUTE * 600);
        }

        bench.pass(MINUTE - SLACK).await;
        bench.assert_nothing_to_lease(&lane("a"), "a jump is not a wait").await;
        bench.pass(SLACK * 2).await;
        bench.lease_one(&lane("a")).await;
    }
}

pub(crate) async fn a_retry_waits_on_over_a_reopening<E: Engine>() {
    for end in [End::Closed, End::Killed] {
        let bench = Bench::<E>::new().await;
        let delivery = bench.delivering(&lane("a")).await;
        bench.settle(&delivery, calls::retry_in(60)).await;
        bench.pass(MINUTE / 3).await;

        let bench = bench.reopen(end).await;

        assert_eq!(millis_ahead(&bench, bench.find(delivery.lease.id).await.next_attempt_at), Some(40_000));
        assert_eq!(stats(&bench, &lane("a")), (0, 1, 0, 0));
        bench.pass(MINUTE / 3).await;
        bench.assert_nothing_to_lease(&lane("a"), "a third of a minute is left").await;
        bench.pass(MINUTE / 3 + SLACK).await;
        let again = bench.lease_one(&lane("a")).await;
        assert_eq!((again.made, again.interrupted), (1, 0));
        assert_eq!(again.invocation.id, delivery.lease.id);
    }
}

pub(crate) async fn a_wait_that_ended_while_closed_is_over<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    bench.settle(&delivery, calls::retry_in(60)).await;

    // Between two processes only the wall clock can tell how long it was.
    bench.clock.jump_ahead(MINUTE * 2);
    let bench = bench.reopen(End::Closed).await;

    bench.lease_one(&lane("a")).await;
}

pub(crate) async fn a_due_time_is_kept<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let due = bench.clock.now() + MINUTE;
    let id = bench.accept(calls::due(&lane("a"), due)).await[0];
    let record = bench.find(id).await;
    assert_eq!((record.state, record.invocation.due), (State::Waiting, Some(due)));
    assert_eq!(record.next_attempt_at, Some(due));
    assert_eq!(stats(&bench, &lane("a")), (0, 0, 1, 0));
    bench.assert_nothing_to_lease(&lane("a"), "it is not due").await;

    bench.pass(MINUTE - SLACK).await;
    bench.assert_nothing_to_lease(&lane("a"), "it is not quite due").await;

    comes_due(&bench, &lane("a")).await;
    assert!(bench.clock.now() >= due);
}

pub(crate) async fn a_due_time_is_kept_over_a_reopening<E: Engine>() {
    for end in [End::Closed, End::Killed] {
        let bench = Bench::<E>::new().await;
        let due = bench.clock.now() + MINUTE;
        bench.accept(calls::due(&lane("a"), due)).await;

        let bench = bench.reopen(end).await;

        assert_eq!(stats(&bench, &lane("a")), (0, 0, 1, 0));
        bench.pass(MINUTE - SLACK).await;
        bench.assert_nothing_to_lease(&lane("a"), "it is not due").await;
        comes_due(&bench, &lane("a")).await;
    }
}

pub(crate) async fn a_due_time_in_the_past_is_no_wait<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let past = Timestamp::from_millis(bench.clock.now().as_millis() - 1);
    let id = bench.accept(calls::due(&lane("a"), past)).await[0];

    let delivery = bench.lease_one(&lane("a")).await;

    assert_eq!(delivery.lease.id, id);
}

pub(crate) async fn due_times_follow_the_wall_clock_ahead<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let due = bench.clock.now() + MINUTE * 600;
    bench.accept(calls::due(&lane("a"), due)).await;
    bench.assert_nothing_to_lease(&lane("a"), "it is due in ten hours").await;

    bench.clock.jump_ahead(MINUTE * 601);

    comes_due(&bench, &lane("a")).await;
}

pub(crate) async fn due_times_follow_the_wall_clock_back<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let due = bench.clock.now() + MINUTE;
    bench.accept(calls::due(&lane("a"), due)).await;
    bench.pass(MINUTE / 6).await;

    bench.clock.jump_back(MINUTE * 4);

    for _ in 0..4 {
        bench.pass(MINUTE).await;
        bench.assert_nothing_to_lease(&lane("a"), "the wall clock went back four minutes").await;
    }
    bench.pass(MINUTE).await;
    comes_due(&bench, &lane("a")).await;
    assert!(bench.clock.now() >= due);
}

pub(crate) async fn one_that_is_not_due_holds_nobody_up<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept(calls::due(&lane("a"), bench.clock.now() + MINUTE * 60)).await;
    let retried = bench.delivering(&lane("a")).await;
    bench.settle(&retried, calls::retry_in(3600)).await;

    let behind = bench.accept_one(&lane("a")).await;

    assert_eq!(bench.lease_one(&lane("a")).await.lease.id, behind);
    assert_eq!(stats(&bench, &lane("a")), (0, 1, 1, 1));
}

/// Leases what is due by now; an engine may look at the wall clock only now and then.
async fn comes_due<E: Engine>(bench: &Bench<E>, lane: &Lane) {
    for _ in 0..60 {
        bench.pass(Duration::from_secs(1)).await;
        if !bench.lease(lane, 1).await.is_empty() {
            return;
        }
    }
    panic!("due for a minute, and still not to be had: {:?}", bench.store.lanes());
}

fn millis_ahead<E: Engine>(bench: &Bench<E>, moment: Option<Timestamp>) -> Option<u64> {
    moment.map(|moment| moment.as_millis() - bench.clock.now().as_millis())
}

/// Ready, retrying, scheduled, delivering.
fn stats<E: Engine>(bench: &Bench<E>, lane: &Lane) -> (u64, u64, u64, u64) {
    let lanes = bench.store.lanes();
    let stats = lanes.iter().find(|stats| stats.lane == *lane).expect("the lane holds something");
    (stats.ready, stats.retrying, stats.scheduled, stats.delivering)
}
