//! What was acknowledged is there after a restart, as it was.

use std::sync::Arc;
use std::time::Duration;

use broker_model::queue::{Cancelled, Pausable, RedriveError, Settled};
use broker_model::{
    Accepted, Body, DedupKey, Fingerprint, InvocationQueue, Ledger, Reason, Settlement, State, StoreError,
};
use broker_store_embedded::{EmbeddedStore, Options};
use bytes::Bytes;
use tempfile::TempDir;

use crate::kit::*;
use crate::sim::SimFiles;

#[tokio::test]
async fn what_is_accepted_is_delivered_also_after_a_restart() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let id = accept(&store, call("env", "hello")).await;
    store.close().await.unwrap();
    assert!(matches!(store.accept(call("env", "late")).await, Err(StoreError::Closed)));

    let (store, recovered) = open(options(dir.path()), &clock);
    assert!(recovered.clean);
    assert_eq!((recovered.held, recovered.rewritten, recovered.torn_bytes), (1, 0, 0));
    assert_eq!(store.ready().await, [lane("env")]);
    let mut deliveries = store.lease(&[(lane("env"), 10)]).await.unwrap();
    let delivery = deliveries.pop().unwrap();

    assert!(deliveries.is_empty());
    assert_eq!(delivery.invocation.id, id);
    assert_eq!(delivery.invocation.body, Body::Inline(Bytes::from_static(b"hello")));
    assert_eq!(store.settle(delivery.lease, completed()).await.unwrap(), Settled::Done(vec![]));
    assert_eq!(store.settle(delivery.lease, completed()).await.unwrap(), Settled::Superseded);
    assert_eq!(store.find(id).await.unwrap().unwrap().state, State::Completed);
    assert_no_drift(&store);
}

#[tokio::test]
async fn a_call_under_way_when_the_process_died_comes_back_counted_as_interrupted() {
    let (files, clock) = (SimFiles::new(), HandClock::new());
    let open = || {
        let options = options(std::path::Path::new("/evoke"));
        EmbeddedStore::open(options, Arc::new(files.clone()), clock.clone()).unwrap()
    };
    let (store, _) = open();
    accept(&store, call("env", "x")).await;
    let old = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    // Makes the started mark durable.
    accept(&store, call("other", "x")).await;
    files.cut_after(0);
    drop(store);
    files.reboot(1);

    let (store, recovered) = open();
    assert_eq!(recovered.interrupted, 1);
    let again = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!((again.interrupted, again.made), (1, 0));
    assert_eq!(store.settle(old.lease, completed()).await.unwrap(), Settled::Superseded);
    let released = Settlement::Released { wait: Duration::ZERO };
    assert_eq!(store.settle(again.lease, released).await.unwrap(), Settled::Done(vec![]));
    files.cut_after(0);
    drop(store);
    files.reboot(1);

    let (store, recovered) = open();
    assert_eq!(recovered.interrupted, 0, "a release leaves no trace of a start");
    assert_eq!(store.lease(&[(lane("env"), 1)]).await.unwrap()[0].interrupted, 1);
    store.close().await.unwrap();

    let (store, recovered) = open();
    assert_eq!(recovered.interrupted, 0, "a close gives back what runs");
    assert_no_drift(&store);
}

#[tokio::test]
async fn a_call_that_was_interrupted_and_then_cancelled_stays_counted_as_interrupted() {
    let (files, clock) = (SimFiles::new(), HandClock::new());
    let open = || {
        let options = options(std::path::Path::new("/evoke"));
        EmbeddedStore::open(options, Arc::new(files.clone()), clock.clone()).unwrap().0
    };
    let store = open();
    let interrupted = accept(&store, call("env", "x")).await;
    let running = accept(&store, call("fine", "x")).await;
    assert_eq!(store.lease(&[(lane("env"), 1)]).await.unwrap().len(), 1);
    accept(&store, call("other", "x")).await;
    files.cut_after(0);
    drop(store);
    files.reboot(1);

    let store = open();
    assert_eq!(store.lease(&[(lane("fine"), 1)]).await.unwrap().len(), 1);
    store.cancel(interrupted).await.unwrap();
    // Cancelled in the process that ran it: nothing interrupted that one.
    store.cancel(running).await.unwrap();
    files.cut_after(0);
    drop(store);
    files.reboot(1);

    let store = open();
    assert_eq!(store.find(interrupted).await.unwrap().unwrap().interrupted, 1);
    assert_eq!(store.find(running).await.unwrap().unwrap().interrupted, 0);
}

#[tokio::test]
async fn retries_keep_their_history_and_their_wait_over_a_restart() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (mut store, _) = open(options(dir.path()), &clock);
    let id = accept(&store, call("env", "x")).await;
    for number in 1..=30 {
        let delivery = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
        assert_eq!(delivery.made, number - 1);
        let retry = Settlement::Retry { attempt: attempt(number, 500), wait: Duration::from_secs(10) };
        store.settle(delivery.lease, retry).await.unwrap();
        assert!(store.lease(&[(lane("env"), 1)]).await.unwrap().is_empty());
        if number % 7 == 0 {
            drop(store);
            store = open(options(dir.path()), &clock).0;
        }
        // The wall clock jumps about; waits do not mind.
        clock.jump_wall(if number % 2 == 0 { 86_400 } else { -86_400 });
        assert!(store.lease(&[(lane("env"), 1)]).await.unwrap().is_empty());
        clock.advance(Duration::from_secs(10));
    }
    let delivery = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    let dead = Settlement::Dead {
        attempt: Some(attempt(31, 503)),
        reason: Reason::Exhausted,
        detail: "status 503".into(),
        then: Vec::new(),
    };
    store.settle(delivery.lease, dead).await.unwrap();
    drop(store);

    let (store, _) = open(options(dir.path()), &clock);
    let record = store.find(id).await.unwrap().unwrap();
    assert_eq!(record.state, State::Dead);
    assert_eq!(record.attempts.len(), 31);
    let kept: Vec<u32> = record.attempts.kept().map(|attempt| attempt.number).collect();
    assert_eq!(kept, (1..=3).chain(12..=31).collect::<Vec<_>>());
    assert_eq!(record.dead_letter.unwrap().reason, Reason::Exhausted);
    assert_no_drift(&store);
}

#[tokio::test]
async fn a_due_time_follows_the_wall_clock() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let mut acceptance = call("env", "x");
    use broker_model::Clock;
    acceptance.drafts[0].due = Some(clock.now() + Duration::from_secs(3600));
    accept(&store, acceptance).await;

    assert!(store.lease(&[(lane("env"), 1)]).await.unwrap().is_empty());
    assert_eq!(store.lanes()[0].scheduled, 1);
    drop(store);
    let (store, _) = open(options(dir.path()), &clock);
    assert!(store.lease(&[(lane("env"), 1)]).await.unwrap().is_empty());
    clock.jump_wall(3601);
    assert_eq!(store.ready().await, [lane("env")]);
    assert_eq!(store.lease(&[(lane("env"), 1)]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn cancel_redrive_remove_and_pause_survive_a_restart() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let waiting = accept(&store, call("a", "1")).await;
    let running = accept(&store, call("b", "2")).await;
    let dead = store.bury(call("c", "3"), Reason::Rejected, "no").await.unwrap().ids()[0];
    let unreadable = store.bury(call("c", "4"), Reason::Undecodable, "no").await.unwrap().ids()[0];
    let delivery = store.lease(&[(lane("b"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!(store.cancel(waiting).await.unwrap(), Cancelled::Waiting);
    assert_eq!(store.cancel(running).await.unwrap(), Cancelled::Delivering);
    assert_eq!(store.cancel(running).await.unwrap(), Cancelled::TooLate);
    assert_eq!(store.settle(delivery.lease, completed()).await.unwrap(), Settled::Superseded);
    assert!(store.lease(&[(lane("a"), 1)]).await.unwrap().is_empty());
    assert_eq!(store.redrive(dead).await.unwrap(), 2);
    assert!(matches!(store.redrive(dead).await, Err(RedriveError::NotDead(_))));
    assert!(matches!(store.redrive(unreadable).await, Err(RedriveError::NothingToRun(_))));
    assert!(store.remove(unreadable).await.unwrap());
    assert!(!store.remove(unreadable).await.unwrap());
    store.pause(Pausable::Function(function("a"))).await.unwrap();
    let before = store.totals();
    drop(store);

    let (store, _) = open(options(dir.path()), &clock);
    assert_eq!(store.totals(), before);
    assert_eq!(store.paused(), [Pausable::Function(function("a"))]);
    let again = store.lease(&[(lane("c"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!((again.invocation.id, again.invocation.life), (dead, 2));
    assert_eq!(store.find(waiting).await.unwrap().unwrap().state, State::Cancelled);
    assert_eq!(store.find(unreadable).await.unwrap(), None);
    store.resume(Pausable::Function(function("a"))).await.unwrap();
    assert_eq!(store.paused(), []);
    assert_no_drift(&store);
}

#[tokio::test]
async fn a_repeat_answers_as_the_first_did_also_after_a_restart() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let key = DedupKey { scope: "http".into(), key: Fingerprint(1), request: Fingerprint(2) };
    let keyed = |body| broker_model::Acceptance { dedup: Some(key.clone()), ..call("env", body) };
    let (first, second) = tokio::join!(store.accept(keyed("a")), store.accept(keyed("a")));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(matches!(first, Accepted::New(_)));
    assert_eq!(second, Accepted::Duplicate(first.ids().to_vec()));
    drop(store);

    let (store, _) = open(options(dir.path()), &clock);
    assert_eq!(store.accept(keyed("a")).await.unwrap(), Accepted::Duplicate(first.ids().to_vec()));
    let other = DedupKey { request: Fingerprint(3), ..key.clone() };
    let reused = broker_model::Acceptance { dedup: Some(other), ..call("env", "a") };
    assert!(matches!(store.accept(reused).await, Err(StoreError::KeyReused)));
    clock.advance(Duration::from_secs(3601));
    assert!(matches!(store.accept(keyed("a")).await.unwrap(), Accepted::New(_)));
}

#[tokio::test]
async fn a_callback_is_accepted_with_the_settlement_that_caused_it() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(Options { waiting: 1, ..options(dir.path()) }, &clock);
    accept(&store, call("env", "x")).await;
    assert!(matches!(store.accept(call("env", "y")).await, Err(StoreError::TooManyWaiting { waiting: 1 })));
    let delivery = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    let large = Bytes::from(vec![7u8; 1 << 20]);
    let then = vec![call("told", "small"), call("told", large.clone()), call("told", "last")];
    let settled =
        store.settle(delivery.lease, Settlement::Completed { attempt: attempt(1, 200), then }).await;
    let Settled::Done(ids) = settled.unwrap() else { panic!() };
    assert_eq!(ids.len(), 3);
    drop(store);

    let (store, _) = open(options(dir.path()), &clock);
    let told = store.lease(&[(lane("told"), 5)]).await.unwrap();
    assert_eq!(told.iter().map(|delivery| delivery.invocation.id).collect::<Vec<_>>(), ids);
    assert_eq!(read(&store, &told[1].invocation.body).await, large);
    assert_eq!(read(&store, &told[2].invocation.body).await, "last");
    assert_no_drift(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_over_many_segments_are_all_there_in_order() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let accepted = (0..600).map(|n| accept(&store, call("env", format!("{n}").repeat(200))));
    let ids = futures::future::join_all(accepted).await;
    assert!(ids.is_sorted(), "acceptance numbers grow in the order of the calls");
    drop(store);

    let (store, recovered) = open(options(dir.path()), &clock);
    assert!(recovered.segments > 2);
    assert_eq!(recovered.held, 600);
    let first = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!(first.invocation.id, ids[0]);
    store.settle(first.lease, completed()).await.unwrap();
    assert_eq!(drain(&store, "env").await, 599);
    assert_no_drift(&store);
    drop(store);
    let (store, recovered) = open(options(dir.path()), &clock);
    assert_eq!((recovered.held, recovered.interrupted, store.totals().completed), (0, 0, 600));
}
