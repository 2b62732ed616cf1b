//! Positions and instants, whatever ends the process: each makes exactly one invocation, because both are one record.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_model::schedule::Instant;
use broker_model::{
    Acceptance, Accepted, Fire, InvocationQueue, Ledger, Partition, Position, Positions, Resume, Schedule,
    ScheduleId, Schedules, SourceName, StoreError, Timestamp, Upstream,
};
use broker_store_embedded::{EmbeddedStore, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::kit::*;
use crate::sim::SimFiles;

fn small() -> Options {
    Options { segment_bytes: 16 << 10, ..options(std::path::Path::new("/sim")) }
}

fn partition() -> Arc<Partition> {
    let source = SourceName::parse("orders").unwrap();
    Arc::new(Partition::new(source, "orders.created", "Zm9vYmFy", 7).unwrap())
}

/// The message at an offset, which its body names.
fn placed(offset: u64, padding: usize) -> Acceptance {
    let body = format!("{offset} {}", "x".repeat(padding));
    Acceptance { position: Some(Position { partition: partition(), offset }), ..call("env", body) }
}

fn schedule() -> Schedule {
    let (function, expression) = (function("env"), "* * * * *");
    let id = ScheduleId::derive(&function, expression, 0);
    Schedule { id, function, expression: expression.into(), anchor: minute(0) }
}

fn minute(n: u64) -> Timestamp {
    Timestamp::from_millis(n * 60_000)
}

fn fire(n: u64) -> Acceptance {
    let instant = Some(Instant { at: minute(n), after: minute(n.saturating_sub(1)) });
    let Schedule { id, function, .. } = schedule();
    let fire = Some(Box::new(Fire { schedule: id, function, instant }));
    Acceptance { fire, ..call("env", format!("fire-{n} ")) }
}

/// Everything that waits, by the word its body begins with.
async fn made(store: &EmbeddedStore) -> BTreeMap<String, usize> {
    let mut made = BTreeMap::new();
    loop {
        let given = store.lease(&[(lane("env"), 256)]).await.unwrap();
        if given.is_empty() {
            return made;
        }
        for delivery in given {
            let body = read(store, &delivery.invocation.body).await;
            let text = String::from_utf8(body.to_vec()).unwrap();
            *made.entry(text.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
    }
}

/// What one life of a process does: the source goes on where the store says, reads in disorder, commits now and then.
async fn live(
    store: &EmbeddedStore,
    committed: &mut u64,
    random: &mut StdRng,
    told: &mut Vec<String>,
) -> Result<(), StoreError> {
    let upstream = Upstream { committed: Some(*committed), earliest: 0, end: OFFSETS };
    let Resume { from, voided } = store.take_up(&partition(), upstream).await?;
    assert_eq!(voided, None, "nobody touched the upstream, which has {committed}");
    let from = from.expect("something is committed");
    assert!(from >= *committed);
    store.put_schedule(schedule()).await?;
    let mut next = from;
    while next < OFFSETS {
        let to = (next + random.random_range(1..12)).min(OFFSETS);
        let mut offsets: Vec<u64> = (next..to).collect();
        offsets.reverse();
        let padding = random.random_range(0..900);
        for offset in offsets {
            if let Accepted::New(_) = store.accept(placed(offset, padding)).await? {
                told.push(offset.to_string());
            }
        }
        if let Accepted::New(_) = store.accept(fire(1 + next / 10)).await? {
            told.push(format!("fire-{}", 1 + next / 10));
        }
        next = to;
        if random.random_bool(0.5) {
            *committed = next;
            store.committed(&partition(), next).await?;
        }
    }
    Ok(())
}

const OFFSETS: u64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_moment_repeats_no_position_and_swallows_none() {
    let mut cuts = 0;
    for seed in 0..60 {
        let (files, clock) = (SimFiles::new(), HandClock::new());
        let mut random = StdRng::seed_from_u64(seed);
        let (mut committed, mut told) = (0, Vec::new());
        for life in 0..4 {
            files.cut_after(random.random_range(1..200));
            let opened = EmbeddedStore::open(small(), Arc::new(files.clone()), clock.clone());
            if let Ok((store, _)) = opened {
                cuts += u32::from(live(&store, &mut committed, &mut random, &mut told).await.is_err());
            }
            files.reboot(seed * 11 + life);
        }
        let (store, _) = EmbeddedStore::open(small(), Arc::new(files.clone()), clock.clone()).unwrap();
        let acknowledged = told.clone();
        live(&store, &mut committed, &mut random, &mut told).await.unwrap();

        let made = made(&store).await;

        assert!(made.values().all(|times| *times == 1), "seed {seed}: {made:?}");
        for offset in 0..OFFSETS {
            assert!(made.contains_key(&offset.to_string()), "seed {seed}: {offset} is swallowed");
        }
        for name in acknowledged {
            assert!(made.contains_key(&name), "seed {seed}: {name} was acknowledged and is lost");
        }
        assert_no_drift(&store);
    }
    assert!(cuts > 60, "only {cuts} cuts came while the store worked");
}

#[tokio::test]
async fn what_waits_for_a_position_that_fails_hears_of_it() {
    let (files, clock) = (SimFiles::new(), HandClock::new());
    let (store, _) = EmbeddedStore::open(small(), Arc::new(files.clone()), clock.clone()).unwrap();
    store.put_schedule(schedule()).await.unwrap();
    files.fail_next_sync();

    let keyed = || {
        let key = broker_model::Fingerprint(1);
        let dedup = Some(broker_model::DedupKey { scope: "http".into(), key, request: key });
        Acceptance { dedup, ..call("env", "x") }
    };
    let tries = [placed(0, 0), placed(0, 0), fire(1), fire(1), keyed(), keyed()];
    let answers = futures::future::join_all(tries.map(|acceptance| store.accept(acceptance))).await;

    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Failed { .. }))), "{answers:?}");
}

#[tokio::test]
async fn marks_and_schedules_outlive_the_segments_they_were_said_in() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(Options { segment_bytes: 16 << 10, ..options(dir.path()) }, &clock);
    store.put_schedule(schedule()).await.unwrap();
    store.accept(fire(1)).await.unwrap();
    for offset in [0, 1, 5] {
        store.accept(placed(offset, 0)).await.unwrap();
    }
    let first = |dir: &TempDir| {
        std::fs::read_dir(dir.path().join("journal")).unwrap().map(|e| e.unwrap().file_name()).min()
    };
    let begun = first(&dir);
    drain(&store, "env").await;
    // Ended ones are looked up for an hour, and then their segments go.
    while first(&dir) == begun {
        accept(&store, call("env", vec![0; 2000])).await;
        drain(&store, "env").await;
        clock.advance(Duration::from_secs(600));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store.close().await.unwrap();
    drop(store);

    let (store, _) = open(options(dir.path()), &clock);
    for known in [placed(0, 0), placed(1, 0), placed(5, 0), fire(1)] {
        assert_eq!(store.accept(known).await.unwrap(), Accepted::Duplicate(Vec::new()));
    }
    for new in [placed(2, 0), fire(2)] {
        assert!(matches!(store.accept(new).await.unwrap(), Accepted::New(_)));
    }
}

const CHILD: &str = "EVOKE_TEST_RECEIVED_CHILD";

/// Not a test by itself: what the child processes run. A source that begins at its upstream's commit, which is the last line
/// its parent read, and says each offset once it is durable.
#[test]
fn child_receives_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let committed: u64 = std::env::var("COMMITTED").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sizes = Options {
            segment_bytes: 64 << 10,
            lock_wait: Duration::from_secs(10),
            ..options(std::path::Path::new(&path))
        };
        let (store, _) = open(sizes, &HandClock::new());
        let upstream = Upstream { committed: Some(committed), earliest: 0, end: u64::MAX };
        let resume = store.take_up(&partition(), upstream).await.unwrap();
        assert_eq!(resume.voided, None);
        let next = Arc::new(AtomicU64::new(committed));
        let workers = (0..8).map(|_| {
            let (store, next) = (store.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let offset = next.fetch_add(1, Ordering::SeqCst);
                    store.accept(placed(offset, 300)).await.unwrap();
                    // One write call a line, so that a line is whole or not there.
                    println!("received {offset}");
                }
            })
        });
        futures::future::join_all(workers).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_repeat_no_position_and_swallow_none() {
    let dir = TempDir::new().unwrap();
    let (mut committed, mut highest) = (0u64, 0u64);
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "received::child_receives_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .env("COMMITTED", committed.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut seen, mut received) = (0, std::collections::BTreeSet::new());
        for line in lines.map_while(Result::ok) {
            // The harness may print in front of the first line.
            let Some(offset) = line.split_once("received ").and_then(|(_, offset)| offset.parse().ok())
            else {
                continue;
            };
            received.insert(offset);
            seen += 1;
            if seen == 40 + 5 * round {
                child.kill().unwrap();
            }
        }
        assert!(seen > 0, "round {round}: the child did not work");
        child.wait().unwrap();
        highest = highest.max(received.last().copied().unwrap_or(0));
        // The upstream lags behind: what is above its commit comes again.
        let whole = (committed..).find(|offset| !received.contains(offset)).unwrap();
        committed += (whole - committed) / 2;
    }

    let (store, recovered) = open(options(dir.path()), &HandClock::new());
    assert_eq!((recovered.damage.len(), recovered.reconciled), (0, 0));
    // Once more, with nobody in the way.
    for offset in committed..=highest {
        store.accept(placed(offset, 300)).await.unwrap();
    }
    let made = made(&store).await;
    for offset in 0..=highest {
        assert_eq!(made.get(&offset.to_string()), Some(&1), "offset {offset}");
    }
    assert_eq!(store.totals().accepted_in_all(), made.len() as u64);
}
