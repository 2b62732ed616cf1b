//! The end of a store.

use broker_model::queue::{Pausable, RedriveError};
use broker_model::{BodyReader, InvocationQueue, Reason, State, StoreError};

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane};

pub(crate) async fn a_closed_store_does_nothing_more<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let dead = bench.dead(&lane("a")).await;
    let delivery = bench.delivering(&lane("a")).await;
    let waiting = bench.accept_one(&lane("b")).await;
    let store = bench.store.clone();

    let bench = {
        store.close().await.expect("a healthy store closes");
        let function = Pausable::Function(calls::function("a"));
        let closed = |error: Option<StoreError>, verb: &str| {
            assert!(matches!(error, Some(StoreError::Closed)), "{verb} answers {error:?} on a closed store");
        };
        closed(store.accept(calls::to(&lane("a"))).await.err(), "accept");
        closed(store.bury(calls::undecodable(), Reason::Undecodable, "").await.err(), "bury");
        closed(store.lease(&[(lane("b"), 1)]).await.err(), "lease");
        closed(store.settle(delivery.lease, calls::completed()).await.err(), "settle");
        closed(store.cancel(waiting).await.err(), "cancel");
        closed(store.remove(dead).await.err(), "remove");
        closed(store.pause(function.clone()).await.err(), "pause");
        closed(store.resume(function).await.err(), "resume");
        let redriven = store.redrive(dead).await;
        assert!(matches!(redriven, Err(RedriveError::Store(StoreError::Closed))), "{redriven:?}");
        assert!(store.spool().await.is_err(), "a closed store takes no bodies");
        drop(store);
        bench.reopen(End::Killed).await
    };

    assert_eq!(bench.state(waiting).await, State::Waiting);
    assert_eq!(bench.state(dead).await, State::Dead);
    assert_eq!(bench.state(delivery.lease.id).await, State::Waiting);
    assert!(bench.store.paused().is_empty());
    assert_eq!(bench.even().await.accepted_in_all(), 3);
}

pub(crate) async fn what_was_begun_before_a_close_is_whole_or_refused<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let accepting: Vec<_> = (0..50)
        .map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.accept(calls::fan_out(&[lane("a"), lane("b")])).await })
        })
        .collect();
    let closing = bench.store.clone();
    let closing = tokio::spawn(async move { closing.close().await });

    let answers = futures::future::join_all(accepting).await;
    closing.await.expect("closing does not panic").expect("a healthy store closes");
    let mut accepted = Vec::new();
    for answer in answers {
        match answer.expect("accepting does not panic") {
            Ok(answer) => accepted.extend(answer.ids().to_vec()),
            Err(StoreError::Closed) => {}
            Err(other) => panic!("neither accepted nor closed: {other}"),
        }
    }

    let bench = bench.reopen(End::Killed).await;

    for id in &accepted {
        assert_eq!(bench.state(*id).await, State::Waiting);
    }
    assert_eq!(bench.even().await.held, accepted.len() as u64, "what was refused is not there");
}
