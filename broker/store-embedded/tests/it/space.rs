//! Disk is given back, and nothing that still matters goes with it.

use std::time::Duration;

use broker_model::{
    Acceptance, Accepted, Clock, DedupKey, Fingerprint, InvocationQueue, Ledger, Reason, Settlement, State,
};
use broker_store_embedded::{Options, Retention};
use bytes::Bytes;
use tempfile::TempDir;

use crate::kit::*;

fn tight(path: &std::path::Path) -> Options {
    let retention = Retention { age: Duration::from_secs(3600), count: 10, bytes: 16 << 10 };
    Options { retention, copy_rate: 1 << 30, ..options(path) }
}

async fn traffic(store: &broker_store_embedded::EmbeddedStore, rounds: usize) {
    for _ in 0..rounds {
        let accepted = (0..64).map(|_| accept(store, call("busy", vec![1u8; 1024])));
        futures::future::join_all(accepted).await;
        drain(store, "busy").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_traffic_takes_bounded_disk_and_long_waits_survive_it() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(tight(dir.path()), &clock);
    let mut delayed = call("later", "kept");
    delayed.drafts[0].due = Some(clock.now() + Duration::from_secs(86_400));
    let delayed = accept(&store, delayed).await;
    let dead = store.bury(call("env", "dead"), Reason::Rejected, "why").await.unwrap().ids()[0];
    let retried = accept(&store, call("again", "r")).await;
    for number in 1..=5 {
        let delivery = store.lease(&[(lane("again"), 1)]).await.unwrap().pop().unwrap();
        let wait = Duration::from_secs(if number == 5 { 30 } else { 0 });
        store
            .settle(delivery.lease, Settlement::Retry { attempt: attempt(number, 500), wait })
            .await
            .unwrap();
    }
    let running = accept(&store, call("slow", "s")).await;
    let slow = store.lease(&[(lane("slow"), 1)]).await.unwrap().pop().unwrap();
    let key = DedupKey { scope: "http".into(), key: Fingerprint(1), request: Fingerprint(2) };
    let keyed = Acceptance { dedup: Some(key), ..call("keyed", "k") };
    let first = store.accept(keyed.clone()).await.unwrap();
    drain(&store, "keyed").await;

    traffic(&store, 60).await;

    let bound = 8 * (64 << 10) + 2 * (16 << 10);
    eventually(|| store.health().disk_bytes <= bound).await;
    assert!(!dir.path().join("journal/0000000001.seg").exists());
    assert_eq!(store.accept(keyed.clone()).await.unwrap(), Accepted::Duplicate(first.ids().to_vec()));
    assert_no_drift(&store);
    let record = store.find(retried).await.unwrap().unwrap();
    assert_eq!((record.attempts.len(), record.state), (5, State::Waiting));
    drop(store);

    let (store, recovered) = open(tight(dir.path()), &clock);
    assert_eq!((recovered.damage.len(), recovered.missing_records, recovered.reconciled), (0, 0, 0));
    assert_eq!((recovered.held, recovered.dead, recovered.interrupted), (3, 1, 0));
    assert_eq!(store.accept(keyed).await.unwrap(), Accepted::Duplicate(first.ids().to_vec()));
    let again = store.lease(&[(lane("slow"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!((again.invocation.id, again.interrupted), (running, 0));
    assert_ne!(again.lease, slow.lease);
    let record = store.find(dead).await.unwrap().unwrap();
    assert_eq!(&*record.dead_letter.unwrap().detail, "why");
    assert!(store.lease(&[(lane("again"), 1), (lane("later"), 1)]).await.unwrap().is_empty());
    clock.advance(Duration::from_secs(30));
    let again = store.lease(&[(lane("again"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!((again.invocation.id, again.made), (retried, 5));
    let kept: Vec<u32> =
        store.find(retried).await.unwrap().unwrap().attempts.kept().map(|attempt| attempt.number).collect();
    assert_eq!(kept, [1, 2, 3, 4, 5]);
    clock.advance(Duration::from_secs(86_400));
    let later = store.lease(&[(lane("later"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!(later.invocation.id, delayed);
    assert_no_drift(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_goes_when_its_call_is_forgotten_and_not_before() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(tight(dir.path()), &clock);
    let body = vec![3u8; 700 << 10];
    accept(&store, call("env", body.clone())).await;
    let files = || std::fs::read_dir(dir.path().join("bodies")).unwrap().count();
    assert_eq!(files(), 1);
    drop(store);
    std::fs::write(dir.path().join("bodies/00000000000000ff"), b"nobody's").unwrap();

    let (store, recovered) = open(tight(dir.path()), &clock);
    assert_eq!((recovered.orphans, files()), (1, 1));
    let delivery = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
    assert_eq!(read(&store, &delivery.invocation.body).await, body);
    store.settle(delivery.lease, completed()).await.unwrap();
    clock.advance(Duration::from_secs(3601));
    eventually(|| files() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_can_be_looked_up_for_as_long_as_its_retention_says_however_small_the_segments_are() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let retention = Retention { age: Duration::from_secs(3600), count: 100, bytes: 8 << 20 };
    let (store, _) = open(Options { retention, ..tight(dir.path()) }, &clock);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(accept(&store, call("env", "small")).await);
        // Its attempts take many times what its own record does.
        for number in 1..=8 {
            let delivery = store.lease(&[(lane("env"), 1)]).await.unwrap().pop().unwrap();
            let mut tried = attempt(number, 500);
            tried.excerpt = vec![b'x'; 1000].into();
            let settlement = if number == 8 {
                Settlement::Completed { attempt: tried, then: Vec::new() }
            } else {
                Settlement::Retry { attempt: tried, wait: Duration::ZERO }
            };
            store.settle(delivery.lease, settlement).await.unwrap();
        }
    }
    assert!(store.health().disk_bytes > 10 * (64 << 10), "{:?}", store.health());
    // The upkeep has looked around at every new segment.
    for id in &ids {
        assert_eq!(store.find(*id).await.unwrap().map(|record| record.state), Some(State::Completed));
    }
    clock.advance(Duration::from_secs(3601));
    eventually(|| store.health().disk_bytes <= 4 * (64 << 10)).await;
    assert_eq!(store.find(ids[99]).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_longer_than_memory_comes_back_whole_and_in_order() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let mut accepted = Vec::new();
    for round in 0..50 {
        let calls = (0..64).map(|n| {
            let body = Bytes::from(format!("{round} {n} ").repeat(1 + n * 4));
            let mut acceptance = call("behind", body.clone());
            // Neighbours of other lanes, and records that are longer than one draft's share.
            if n % 5 == 0 {
                acceptance.drafts.push(draft("beside"));
            }
            let store = &store;
            async move { (accept(store, acceptance).await, body) }
        });
        accepted.extend(futures::future::join_all(calls).await);
    }
    // Ids carry the order of acceptance.
    accepted.sort_by_key(|(id, _)| id.as_u128());

    let mut delivered = Vec::new();
    while delivered.len() < accepted.len() {
        let deliveries = store.lease(&[(lane("behind"), 48)]).await.unwrap();
        assert!(!deliveries.is_empty(), "{} of {} came back", delivered.len(), accepted.len());
        for delivery in deliveries {
            let body = read(&store, &delivery.invocation.body).await;
            assert_eq!(delivery.invocation.target, draft("behind").target);
            delivered.push((delivery.lease.id, body));
        }
    }
    assert!(delivered == accepted, "another order, or other bodies");
    assert_eq!(drain(&store, "beside").await, 50 * 13);
    assert_no_drift(&store);
}
