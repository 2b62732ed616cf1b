//! A start that reads summaries comes to the same as one that reads segments, and neither hides damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_model::ledger::{Filter, LaneStats, Page};
use broker_model::queue::Pausable;
use broker_model::{
    Acceptance, Accepted, Clock, DedupKey, Fingerprint, InvocationId, InvocationQueue, Ledger, Reason,
    Record, Settlement, State, Totals,
};
use broker_store_embedded::{EmbeddedStore, Options, Recovered, Retention};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::damage::copy_dir;
use crate::kit::*;

fn small(path: &Path) -> Options {
    let retention = Retention { age: Duration::from_secs(3600), count: 30, bytes: 64 << 10 };
    Options { segment_bytes: 16 << 10, retention, copy_rate: 1 << 30, ..options(path) }
}

fn key(n: u64) -> DedupKey {
    DedupKey {
        scope: if n.is_multiple_of(2) { "http" } else { "bus" }.into(),
        key: Fingerprint(u128::from(n) << 70 | 5),
        request: Fingerprint(u128::MAX - u128::from(n)),
    }
}

/// Everything the store does, in an order of its own for each seed; every id it gave.
async fn story(store: &EmbeddedStore, clock: &Arc<HandClock>, random: &mut StdRng) -> Vec<InvocationId> {
    let lanes = ["a", "b", "c"];
    let mut ids = Vec::new();
    for _ in 0..60 {
        let name = lanes[random.random_range(0..3)];
        let mut acceptance = call(name, vec![7u8; random.random_range(0..2000)]);
        match random.random_range(0..12) {
            0 => acceptance.drafts.extend(lanes.map(draft)),
            1 => {
                acceptance.drafts[0].due =
                    Some(clock.now() + Duration::from_secs(random.random_range(1..5000)))
            }
            2 => acceptance.dedup = Some(key(random.random_range(0..40))),
            3 if random.random_bool(0.1) => {
                acceptance.body = broker_model::Body::Inline(vec![1; 300 << 10].into())
            }
            _ => {}
        }
        if random.random_bool(0.1) {
            ids.extend(store.bury(acceptance, Reason::Rejected, "no").await.unwrap().ids());
        } else if let Accepted::New(new) = store.accept(acceptance).await.unwrap() {
            ids.extend(new);
        }
        for delivery in store.lease(&[(lane(name), random.random_range(0..4))]).await.unwrap() {
            let (attempts, lease) = (attempt(delivery.made + 1, 500), delivery.lease);
            let wait = Duration::from_secs(random.random_range(0..60));
            let settlement = match random.random_range(0..7) {
                0 => Settlement::Retry { attempt: attempts, wait },
                1 => Settlement::Released { wait },
                2 => Settlement::Dead {
                    attempt: Some(attempts),
                    reason: Reason::Exhausted,
                    detail: "enough".into(),
                    then: vec![call("told", "it died")],
                },
                3 => {
                    store.cancel(delivery.invocation.id).await.unwrap();
                    continue;
                }
                // Left running, to be interrupted.
                4 => continue,
                _ => completed(),
            };
            if let broker_model::queue::Settled::Done(then) = store.settle(lease, settlement).await.unwrap() {
                ids.extend(then);
            }
        }
        if !ids.is_empty() && random.random_bool(0.3) {
            let id = ids[random.random_range(0..ids.len())];
            match random.random_range(0..3) {
                0 => drop(store.cancel(id).await.unwrap()),
                1 => drop(store.redrive(id).await),
                _ => drop(store.remove(id).await.unwrap()),
            }
        }
        if random.random_bool(0.1) {
            let what = Pausable::Function(function(lanes[random.random_range(0..3)]));
            if random.random_bool(0.5) {
                store.pause(what).await.unwrap();
            } else {
                store.resume(what).await.unwrap();
            }
        }
        clock.advance(Duration::from_secs(random.random_range(0..20)));
    }
    ids
}

/// Everything an outsider can see.
#[derive(Debug, PartialEq)]
struct Seen {
    totals: Totals,
    lanes: Vec<LaneStats>,
    paused: Vec<Pausable>,
    records: Vec<Option<Record>>,
    dead: Vec<Record>,
    repeats: Vec<Accepted>,
    interrupted: u64,
    held: u64,
    booked: u64,
}

async fn look(store: &EmbeddedStore, recovered: &Recovered, ids: &[InvocationId]) -> Seen {
    let mut records = Vec::new();
    for id in ids {
        records.push(store.find(*id).await.unwrap());
    }
    let page = Page { limit: 10_000, cursor: None };
    let dead = store.dead_letters(&Filter::default(), &page).await.unwrap().items;
    let (totals, lanes, paused) = (store.totals(), store.lanes(), store.paused());
    let mut repeats = Vec::new();
    for n in 0..40 {
        let keyed = Acceptance { dedup: Some(key(n)), ..call("a", "again") };
        repeats.push(store.accept(keyed).await.unwrap());
    }
    let Recovered { interrupted, held, records: booked, .. } = *recovered;
    Seen { totals, lanes, paused, records, dead, repeats, interrupted, held, booked }
}

fn summaries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir.join("summaries")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// A directory of many segments as a killed process leaves it, every sealed segment with its summary.
async fn lived(seed: u64) -> (TempDir, Arc<HandClock>, Vec<InvocationId>) {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let mut random = StdRng::seed_from_u64(seed);
    let mut ids = Vec::new();
    for life in 0..3 {
        let (store, _) = open(small(dir.path()), &clock);
        ids.extend(story(&store, &clock, &mut random).await);
        eventually(|| store.is_swept()).await;
        if life == 2 {
            let copy = TempDir::new().unwrap();
            copy_dir(dir.path(), copy.path());
            return (copy, clock, ids);
        }
        if random.random_bool(0.5) {
            store.close().await.unwrap();
        }
    }
    unreachable!("the third life is the last")
}

async fn opened(dir: &TempDir, clock: &Arc<HandClock>, ids: &[InvocationId]) -> (Seen, Recovered) {
    let copy = TempDir::new().unwrap();
    copy_dir(dir.path(), copy.path());
    let (store, recovered) = open(small(copy.path()), clock);
    assert_no_drift(&store);
    assert_eq!((recovered.missing_records, recovered.reconciled), (0, 0), "{recovered:?}");
    (look(&store, &recovered, ids).await, recovered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_from_summaries_is_a_start_from_segments_whatever_happened() {
    for seed in 0..8 {
        let (dir, clock, ids) = lived(seed).await;
        let mut random = StdRng::seed_from_u64(seed);
        let (with, read) = opened(&dir, &clock, &ids).await;
        let found = summaries(dir.path());
        assert!(read.summarized > 3 && read.summarized as usize <= found.len(), "seed {seed}: {read:?}");

        let spoilt = &found[random.random_range(0..found.len() - 1)];
        let mut bytes = fs::read(spoilt).unwrap();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        fs::write(spoilt, bytes).unwrap();
        let (spoilt, fewer) = opened(&dir, &clock, &ids).await;
        assert_eq!(fewer.summarized + 1, read.summarized, "seed {seed}");
        assert_eq!(spoilt, with, "seed {seed}: one summary was spoilt");

        fs::remove_dir_all(dir.path().join("summaries")).unwrap();
        let (without, none) = opened(&dir, &clock, &ids).await;
        assert_eq!((none.summarized, none.segments), (0, read.segments), "seed {seed}");
        assert_eq!(without, with, "seed {seed}: no summary was there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_of_another_segment_or_directory_is_not_believed_and_made_again() {
    let (dir, clock, ids) = lived(1).await;
    let (other, _, _) = lived(2).await;
    let (as_it_was, read) = opened(&dir, &clock, &ids).await;
    let found = summaries(dir.path());
    for from in [&found[1], &summaries(other.path())[0]] {
        let copy = TempDir::new().unwrap();
        copy_dir(dir.path(), copy.path());
        let target = copy.path().join("summaries").join(found[0].file_name().unwrap());
        fs::copy(from, &target).unwrap();
        let own = fs::read(&found[0]).unwrap();
        assert_ne!(fs::read(&target).unwrap(), own);

        let (seen, fewer) = opened(&copy, &clock, &ids).await;
        assert_eq!(fewer.summarized + 1, read.summarized);
        assert_eq!(seen, as_it_was);

        let (store, _) = open(small(copy.path()), &clock);
        eventually(|| store.is_swept()).await;
        assert_eq!(fs::read(&target).unwrap(), own, "it is made again as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_seal_and_summary_costs_only_a_longer_start() {
    let (dir, clock, ids) = lived(3).await;
    let (as_it_was, read) = opened(&dir, &clock, &ids).await;
    let last = summaries(dir.path()).pop().unwrap();
    let half = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    let torn = PathBuf::from(format!("{}.new", last.display()));
    fs::write(&torn, &half[..half.len() / 2]).unwrap();

    let (seen, fewer) = opened(&dir, &clock, &ids).await;
    assert_eq!(fewer.summarized + 1, read.summarized);
    assert_eq!(seen, as_it_was);
    let (store, _) = open(small(dir.path()), &clock);
    assert!(!torn.exists());
    eventually(|| store.is_swept() && last.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_under_a_summary_becomes_dead_letters_by_the_sweep_or_the_lease_and_is_said_once() {
    for leases in [true, false] {
        let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
        let (store, _) = open(options(dir.path()), &clock);
        let lost = accept(&store, call("env", "the needle")).await;
        let fine = accept(&store, call("fine", "hay")).await;
        let ended = accept(&store, call("ended", "the noodle")).await;
        drain(&store, "ended").await;
        for _ in 0..90 {
            accept(&store, call("filler", vec![1u8; 1000])).await;
        }
        eventually(|| store.is_swept()).await;
        store.close().await.unwrap();
        let file = dir.path().join("journal/0000000001.seg");
        let mut bytes = fs::read(&file).unwrap();
        for needle in [b"the needle", b"the noodle"] {
            let at = bytes.windows(10).position(|window| window == needle).unwrap();
            bytes[at] ^= 1;
        }
        fs::write(&file, bytes).unwrap();

        let (store, recovered) = open(options(dir.path()), &clock);
        assert!(recovered.summarized > 0 && recovered.damage.is_empty(), "{recovered:?}");
        if leases {
            assert!(store.lease(&[(lane("env"), 1)]).await.unwrap().is_empty());
        }
        eventually(|| store.is_swept()).await;
        assert_eq!(store.health().damaged, 2);
        let totals = store.totals();
        store.close().await.unwrap();

        for summaries in [true, false] {
            if !summaries {
                fs::remove_dir_all(dir.path().join("summaries")).unwrap();
            }
            let (store, again) = open(options(dir.path()), &clock);
            eventually(|| store.is_swept()).await;
            assert_eq!((again.missing_records, store.health().damaged), (0, 2), "{again:?}");
            assert_eq!(store.totals(), totals, "summaries: {summaries}");
            let record = store.find(lost).await.unwrap().unwrap();
            assert_eq!((record.state, record.dead_letter.unwrap().reason), (State::Dead, Reason::Damaged));
            assert!(store.redrive(lost).await.is_err(), "there is nothing left to run");
            assert_eq!(store.find(ended).await.unwrap(), None);
            assert_eq!(store.find(fine).await.unwrap().unwrap().state, State::Waiting);
            let filter = Filter { reason: Some(Reason::Damaged), ..Filter::default() };
            let letters = store.dead_letters(&filter, &Page { limit: 9, cursor: None }).await.unwrap();
            assert_eq!(letters.items.len(), 3, "one for each run of records, one for the call");
            assert_no_drift(&store);
            store.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_with_a_summary_is_not_read_at_a_start() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    for _ in 0..400 {
        accept(&store, call("env", vec![1u8; 1000])).await;
    }
    eventually(|| store.is_swept()).await;
    store.close().await.unwrap();
    let (store, with) = open(options(dir.path()), &clock);
    assert_eq!(with.summarized + 1, with.segments);
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("summaries")).unwrap();
    let (_store, without) = open(options(dir.path()), &clock);
    assert!(with.bytes_read * 3 < without.bytes_read, "{with:?} {without:?}");
}
