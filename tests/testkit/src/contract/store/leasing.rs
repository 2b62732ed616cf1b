//! Leasing, and being told when there is something to lease.

use std::collections::BTreeSet;
use std::time::Duration;

use broker_model::{InvocationQueue, Lane, Ledger, State};
use futures::FutureExt;

use super::bench::{Bench, End, Engine, PATIENCE, SLACK};
use super::calls::{self, lane};
use crate::time::within;

pub(crate) async fn a_lane_gives_its_oldest_first<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(bench.accept_one(&lane("a")).await);
        ids.extend(bench.accept(calls::fan_out(&[lane("a"), lane("a")])).await);
    }

    let mut given = Vec::new();
    for n in [1, 5, 2, 100] {
        given.extend(bench.lease(&lane("a"), n).await.into_iter().map(|delivery| delivery.lease.id));
    }

    assert_eq!(given, ids);
}

pub(crate) async fn lanes_do_not_mix<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let other_queue =
        Lane { queue: broker_model::QueueName::parse("slow").expect("a plain word is a queue"), ..lane("a") };
    let lanes = [lane("b"), calls::callback_lane(), lane("a"), other_queue];
    for lane in &lanes {
        bench.accept_one(lane).await;
        bench.accept_one(lane).await;
    }

    let wanted: Vec<_> = lanes.iter().map(|lane| (lane.clone(), 2)).collect();
    let deliveries = bench.store.lease(&wanted).await.expect("a healthy store leases");

    let order: Vec<_> = deliveries.iter().map(|delivery| delivery.invocation.lane.clone()).collect();
    let expected: Vec<_> = lanes.iter().flat_map(|lane| [lane.clone(), lane.clone()]).collect();
    assert_eq!(order, expected, "in the order the lanes were named");
    assert!(bench.lease(&lane("nobody"), 3).await.is_empty());
    assert!(bench.store.lease(&[]).await.expect("a healthy store leases").is_empty());
}

pub(crate) async fn a_lease_of_none_claims_none<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.accept_one(&lane("a")).await;

    assert!(bench.lease(&lane("a"), 0).await.is_empty());

    assert_eq!(bench.state(id).await, State::Waiting);
}

pub(crate) async fn a_leased_call_is_not_leased_again<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    assert_eq!(bench.state(delivery.lease.id).await, State::Delivering);

    bench.assert_nothing_to_lease(&lane("a"), "its one call is leased").await;

    // Not with time either: a lease has no time limit here, since functions may run for hours.
    bench.pass(Duration::from_secs(24 * 3600)).await;
    bench.assert_nothing_to_lease(&lane("a"), "leases are not timed").await;
    bench.settle(&delivery, calls::completed()).await;
}

pub(crate) async fn a_delivery_knows_its_attempts_and_its_body<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept_one(&lane("a")).await;
    let mut tokens = BTreeSet::new();
    for made in 0..3 {
        let delivery = bench.lease_one(&lane("a")).await;
        assert_eq!((delivery.made, delivery.interrupted, delivery.lease.life), (made, 0, 1));
        assert_eq!(bench.body(&delivery.invocation.body).await, "what was sent");
        assert_eq!(delivery.invocation.headers.len(), 3);
        assert!(tokens.insert(delivery.lease.token), "every lease has another token");
        bench.settle(&delivery, calls::retry(made + 1, Duration::ZERO)).await;
    }
}

pub(crate) async fn ready_waits_while_there_is_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let mut ready = bench.store.ready().boxed();
    assert!(futures::poll!(&mut ready).is_pending());
    bench.barrier().await;
    assert!(futures::poll!(&mut ready).is_pending(), "no lane has anything");

    bench.accept_one(&lane("a")).await;

    assert_eq!(ready.await, [lane("a")]);
}

pub(crate) async fn ready_names_a_lane_once<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept(calls::fan_out(&[lane("a"), lane("b")])).await;
    let named = names(&bench, 2).await;
    assert_eq!(named, BTreeSet::from([lane("a"), lane("b")]));

    // More of what was named is not news, and neither is a lease that found all it asked for.
    bench.accept_one(&lane("a")).await;
    assert_eq!(bench.lease(&lane("a"), 2).await.len(), 2);
    bench.accept_one(&lane("a")).await;
    assert_nothing_named(&bench, "no lease has found the lane short").await;
}

pub(crate) async fn a_lane_found_short_is_named_when_it_gains<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept_one(&lane("a")).await;
    names(&bench, 1).await;
    let delivery = bench.lease(&lane("a"), 2).await.pop().expect("one call waits");
    assert_nothing_named(&bench, "the lane is empty").await;

    bench.accept_one(&lane("a")).await;
    assert_eq!(names(&bench, 1).await, BTreeSet::from([lane("a")]));

    // A call that is given back is a gain as well.
    assert_eq!(bench.lease(&lane("a"), 2).await.len(), 1);
    bench.settle(&delivery, calls::released(Duration::ZERO)).await;
    assert_eq!(names(&bench, 1).await, BTreeSet::from([lane("a")]));
}

pub(crate) async fn ready_names_a_lane_when_a_wait_ends<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("retry")).await;
    bench.settle(&delivery, calls::retry_in(10)).await;
    let due = broker_model::Clock::now(&*bench.clock) + Duration::from_secs(30);
    bench.accept(calls::due(&lane("due"), due)).await;
    // What was named before is leased short, so that only the waits can make news.
    while let Some(lanes) = named_now(&bench).await {
        for lane in lanes {
            bench.assert_nothing_to_lease(&lane, "everything waits").await;
        }
    }

    bench.pass(Duration::from_secs(10) + SLACK).await;
    assert_eq!(names(&bench, 1).await, BTreeSet::from([lane("retry")]));

    bench.pass(Duration::from_secs(20) + SLACK).await;
    let mut named = None;
    for _ in 0..60 {
        named = named_now(&bench).await;
        if named.is_some() {
            break;
        }
        bench.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(named, Some(vec![lane("due")]));
}

pub(crate) async fn whoever_waits_in_ready_hears_of_waits_that_began_later<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("retry")).await;
    while let Some(lanes) = named_now(&bench).await {
        for lane in lanes {
            bench.assert_nothing_to_lease(&lane, "it is being delivered").await;
        }
    }
    // One call of `ready` that lasts, as a dispatcher holds it: its timer was set before there was anything to wait for.
    let mut ready = bench.store.ready().boxed();
    assert!(futures::poll!(&mut ready).is_pending());

    bench.settle(&delivery, calls::retry_in(10)).await;
    assert!(futures::poll!(&mut ready).is_pending(), "the wait has not ended");
    bench.pass(Duration::from_secs(10) + SLACK).await;

    assert_eq!(within(PATIENCE, "the lane's being named", ready).await, [lane("retry")]);
}

pub(crate) async fn ready_names_the_lane_of_a_redriven_call<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let id = bench.dead(&lane("a")).await;
    while let Some(lanes) = named_now(&bench).await {
        for lane in lanes {
            assert!(bench.lease(&lane, 1).await.is_empty());
        }
    }

    bench.store.redrive(id).await.expect("a dead letter is redriven");

    assert_eq!(names(&bench, 1).await, BTreeSet::from([lane("a")]));
}

pub(crate) async fn a_dropped_ready_loses_no_lane<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for round in 0..60 {
        let lane = lane(&format!("f{round}"));
        let mut ready = bench.store.ready().boxed();
        // Dropped before it was polled, while it waited, while a lane was on its way to it, or as it was handed over.
        let mut handed = Vec::new();
        for step in 0..3 {
            if step == 1 {
                bench.accept_one(&lane).await;
            }
            for _ in 0..(round >> step) % 3 {
                if let std::task::Poll::Ready(lanes) = futures::poll!(&mut ready) {
                    handed = lanes;
                    ready = bench.store.ready().boxed();
                }
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(ready);

        if !handed.contains(&lane) {
            assert_eq!(names(&bench, 1).await, BTreeSet::from([lane.clone()]), "round {round}");
        }
        assert_eq!(bench.lease(&lane, 2).await.len(), 1);
    }
}

pub(crate) async fn a_reopened_store_names_the_lanes_that_have_work<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    bench.accept(calls::fan_out(&[lane("a"), lane("b")])).await;
    bench
        .accept(calls::due(&lane("later"), broker_model::Clock::now(&*bench.clock) + Duration::from_secs(60)))
        .await;
    for end in [End::Closed, End::Killed] {
        names(&bench, 2).await;
        bench = bench.reopen(end).await;
    }

    assert_eq!(names(&bench, 2).await, BTreeSet::from([lane("a"), lane("b")]));
    assert_nothing_named(&bench, "the other lane's call is not due").await;
}

/// The lanes named until there are `n` of them.
async fn names<E: Engine>(bench: &Bench<E>, n: usize) -> BTreeSet<Lane> {
    let mut named = BTreeSet::new();
    while named.len() < n {
        let lanes = within(PATIENCE, "a lane's being named", bench.store.ready()).await;
        assert!(!lanes.is_empty(), "ready answers when there is something");
        for lane in lanes {
            assert!(named.insert(lane.clone()), "{lane:?} was named twice");
        }
    }
    named
}

/// What is named without waiting for anything to happen.
async fn named_now<E: Engine>(bench: &Bench<E>) -> Option<Vec<Lane>> {
    bench.barrier().await;
    let mut ready = bench.store.ready().boxed();
    for _ in 0..3 {
        if let std::task::Poll::Ready(lanes) = futures::poll!(&mut ready) {
            return Some(lanes);
        }
        crate::time::a_real_moment().await;
    }
    None
}

async fn assert_nothing_named<E: Engine>(bench: &Bench<E>, why: &str) {
    let named = named_now(bench).await;
    assert!(named.is_none(), "{why}, but {named:?} was named; {:?}", bench.store.lanes());
}
