//! Power cuts, failed syncs and full disks, on a simulated disk and a real small one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_model::ledger::{Filter, Page, Refusing};
use broker_model::{InvocationId, InvocationQueue, Ledger, Reason, Settlement, State, StoreError};
use broker_store_embedded::{EmbeddedStore, OpenError, Options, OsFiles, Recovered, Retention};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::kit::*;
use crate::sim::SimFiles;

fn small() -> Options {
    let retention = Retention { age: Duration::from_secs(3600), count: 1_000_000, bytes: 1 << 40 };
    Options { segment_bytes: 16 << 10, retention, copy_rate: 1 << 30, ..options(Path::new("/evoke")) }
}

fn open_sim(files: &SimFiles, options: Options, clock: &Arc<HandClock>) -> (EmbeddedStore, Recovered) {
    EmbeddedStore::open(options, Arc::new(files.clone()), clock.clone()).expect("it opens")
}

/// What the outside was told.
#[derive(Default)]
struct Told {
    accepted: Vec<InvocationId>,
    states: HashMap<InvocationId, State>,
}

/// Accepts, runs, retries, gives up and cancels until the disk stops answering.
async fn work(store: &EmbeddedStore, random: &mut StdRng, told: &mut Told) -> Result<(), StoreError> {
    for round in 0..40 {
        let accepts = (0..random.random_range(1..12)).map(|n| {
            let size = if n == 3 { 300 << 10 } else { 10 + (round * 97 + n * 31) % 3000 };
            store.accept(call("env", vec![n as u8; size]))
        });
        for accepted in futures::future::join_all(accepts).await {
            told.accepted.extend(accepted?.ids());
        }
        for delivery in store.lease(&[(lane("env"), random.random_range(0..10))]).await? {
            let (id, lease) = (delivery.invocation.id, delivery.lease);
            match random.random_range(0..5) {
                0 => {
                    let wait = Duration::ZERO;
                    store.settle(lease, Settlement::Retry { attempt: attempt(1, 500), wait }).await?;
                }
                1 => {
                    let (reason, detail) = (Reason::Rejected, "no".into());
                    let settled = Settlement::Dead { attempt: None, reason, detail, then: Vec::new() };
                    store.settle(lease, settled).await?;
                    told.states.insert(id, State::Dead);
                }
                2 => {
                    store.cancel(id).await?;
                    told.states.insert(id, State::Cancelled);
                }
                3 => {}
                _ => {
                    store.settle(lease, completed()).await?;
                    told.states.insert(id, State::Completed);
                }
            }
        }
    }
    Ok(())
}

async fn check(store: &EmbeddedStore, told: &Told, seed: u64) {
    for id in &told.accepted {
        let record =
            store.find(*id).await.expect("it reads").unwrap_or_else(|| panic!("seed {seed}: {id} is lost"));
        match told.states.get(id) {
            Some(state) => assert_eq!(record.state, *state, "seed {seed}: {id}"),
            None => assert!(
                matches!(record.state, State::Waiting | State::Dead | State::Completed | State::Cancelled),
                "seed {seed}: {id} is {:?}",
                record.state
            ),
        }
        assert!(!read(store, &record.invocation.body).await.is_empty());
    }
    assert_no_drift(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let mut cuts = 0;
    for seed in 0..100 {
        let (files, clock) = (SimFiles::new(), HandClock::new());
        let mut random = StdRng::seed_from_u64(seed);
        let mut told = Told::default();
        // Several lives, so that recovery itself is cut as well.
        for life in 0..3 {
            files.cut_after(random.random_range(1..250));
            let opened = EmbeddedStore::open(small(), Arc::new(files.clone()), clock.clone());
            if let Ok((store, recovered)) = opened {
                assert_eq!(recovered.damage, [], "seed {seed}, life {life}");
                assert_eq!(
                    (recovered.missing_records, recovered.reconciled),
                    (0, 0),
                    "seed {seed}, life {life}"
                );
                cuts += u32::from(work(&store, &mut random, &mut told).await.is_err());
            }
            files.reboot(seed * 7 + life);
        }
        let (store, recovered) = open_sim(&files, small(), &clock);
        assert_eq!((recovered.damage.len(), recovered.reconciled), (0, 0), "seed {seed}: {recovered:?}");
        check(&store, &told, seed).await;
    }
    assert!(cuts > 70, "only {cuts} cuts came while the store worked");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_end_is_told_that_is_not_on_disk() {
    for by_id in [true, false] {
        let (files, clock) = (SimFiles::new(), HandClock::new());
        let (store, _) = open_sim(&files, small(), &clock);
        let id = accept(&store, call("env", "x")).await;
        files.fail_next_sync();

        let mut cancelling = Box::pin(store.cancel(id));
        let _ = futures::poll!(&mut cancelling);
        let told = if by_id {
            store.find(id).await.map(|found| found.unwrap().state)
        } else {
            let page = Page { limit: 1, cursor: None };
            store.list(&Filter::default(), &page).await.map(|listed| listed.items[0].state)
        };

        assert!(matches!(told, Err(StoreError::Failed { .. })), "by id: {by_id}, {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_final_and_nothing_acknowledged_is_lost_by_it() {
    for seed in 0..40 {
        let (files, clock) = (SimFiles::new(), HandClock::new());
        let mut random = StdRng::seed_from_u64(seed);
        let mut told = Told::default();
        let (store, _) = open_sim(&files, small(), &clock);
        for _ in 0..random.random_range(1..20) {
            told.accepted.push(accept(&store, call("env", "x")).await);
        }
        files.fail_next_sync();
        assert!(matches!(store.accept(call("env", "y")).await, Err(StoreError::Failed { .. })));
        assert!(matches!(store.accept(call("env", "z")).await, Err(StoreError::Failed { .. })));
        assert!(matches!(store.health().refusing, Some(Refusing::Failed(_))));
        assert!(store.close().await.is_err());
        drop(store);

        // The same boot: the page cache shows a record the disk does not hold.
        let (store, recovered) = open_sim(&files, small(), &clock);
        assert_eq!((recovered.damage.len(), recovered.torn_bytes), (0, 0), "seed {seed}");
        let held = recovered.held;
        told.accepted.extend(accept_all(&store, 2).await);
        drop(store);
        files.reboot(seed);
        let (store, recovered) = open_sim(&files, small(), &clock);
        assert_eq!(recovered.held, held + 2, "seed {seed}: what recovery showed it must keep");
        check(&store, &told, seed).await;
    }
}

async fn accept_all(store: &EmbeddedStore, n: usize) -> Vec<InvocationId> {
    futures::future::join_all((0..n).map(|_| accept(store, call("env", "more")))).await
}

/// Fills a store until it refuses, works it off, and sees it take again.
async fn fill_and_drain(store: &EmbeddedStore, most: usize) {
    let mut accepted = 0;
    let refused = loop {
        match store.accept(call("env", vec![1u8; 1024])).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < most, "it never got full");
    };
    let StoreError::Full { waiting, dead, what } = refused else { panic!("{refused}") };
    assert_eq!((waiting, dead), (accepted as u64, 0));
    assert!(!what.is_empty());
    assert!(matches!(store.health().refusing, Some(Refusing::Full(_))));
    assert!(matches!(store.accept(call("env", "x")).await, Err(StoreError::Full { .. })));

    // Nothing is leased while the room that settlements need is short; upkeep, a thread of its own, makes it.
    let mut settled = drain(store, "env").await;
    for _ in 0..2000 {
        if settled >= accepted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        settled += drain(store, "env").await;
    }
    assert_eq!(settled, accepted, "the reserve lets everything settle");
    assert_no_drift(store);
    eventually(|| store.health().refusing.is_none()).await;
    accept(store, call("env", "again")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_new_settles_what_runs_and_recovers_by_itself() {
    let clock = HandClock::new();
    let options = || Options { segment_bytes: 64 << 10, ..small() };

    let files = SimFiles::new();
    files.set_capacity(8 * (64 << 10));
    let (store, _) = open_sim(&files, options(), &clock);
    fill_and_drain(&store, 2000).await;
    drop(store);

    let files = SimFiles::new();
    let bounded = Options { max_bytes: Some(8 * (64 << 10)), ..options() };
    let (store, _) = open_sim(&files, bounded, &clock);
    fill_and_drain(&store, 2000).await;
    assert!(store.health().disk_bytes <= 8 * (64 << 10));
    drop(store);

    let files = SimFiles::new();
    files.set_capacity(20 << 20);
    let kept_free = Options { min_free: (20 << 20) - 8 * (64 << 10), ..options() };
    let (store, _) = open_sim(&files, kept_free, &clock);
    fill_and_drain(&store, 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_full_disk_opens_and_delivers() {
    let (files, clock) = (SimFiles::new(), HandClock::new());
    let options = || Options { segment_bytes: 64 << 10, ..small() };
    let (store, _) = open_sim(&files, options(), &clock);
    for _ in 0..20 {
        accept_all(&store, 20).await;
    }
    drop(store);
    files.set_capacity(0);
    let refused = EmbeddedStore::open(options(), Arc::new(files.clone()), clock.clone());
    assert!(matches!(refused, Err(OpenError::Io { .. })), "not even a small segment fits");
    let used = u64::MAX / 2;
    files.set_capacity(used);
    let (store, _) = open_sim(&files, options(), &clock);
    assert_eq!(drain(&store, "env").await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_small_filesystem_behaves_as_the_simulated_one() {
    let dir = tempfile::TempDir::new().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=640k", "none"])
        .arg(dir.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!(
            "NOT RUN: a small filesystem cannot be mounted here (needs root); only the simulated disk was filled"
        );
        return;
    }
    let clock = HandClock::new();
    let options = Options { segment_bytes: 64 << 10, retention: small().retention, ..options(dir.path()) };
    let opened = EmbeddedStore::open(options, Arc::new(OsFiles), clock.clone());
    let outcome = match opened {
        Ok((store, _)) => tokio::spawn(async move { fill_and_drain(&store, 5000).await }).await,
        Err(error) => panic!("{error:?}"),
    };
    let _ = std::process::Command::new("umount").arg(dir.path()).status();
    outcome.unwrap();
}
