//! Damage is skipped, kept apart and reported; it is never silent, and never takes the rest with it.

use std::fs;
use std::path::{Path, PathBuf};

use broker_model::ledger::{Filter, Page};
use broker_model::{InvocationId, InvocationQueue, Ledger, Reason, State};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::kit::*;

/// A closed store of several segments, and what was accepted in it.
async fn filled(dir: &Path) -> Vec<InvocationId> {
    let clock = HandClock::new();
    let (store, _) = open(options(dir), &clock);
    let mut ids = Vec::new();
    for round in 0..20 {
        let accepts = (0..10).map(|n| accept(&store, call("env", vec![n as u8; 1000 + round])));
        ids.extend(futures::future::join_all(accepts).await);
        for delivery in store.lease(&[(lane("env"), 3)]).await.unwrap() {
            store.settle(delivery.lease, completed()).await.unwrap();
        }
    }
    eventually(|| store.is_swept()).await;
    store.close().await.unwrap();
    ids
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let of = |name| fs::read_dir(dir.join(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = of("journal").chain(of("summaries")).collect();
    files.extend(["format", "closed"].map(|name| dir.join(name)));
    files.sort();
    files
}

/// Opens a damaged directory; everything lost must have been said, once. How many records that were.
async fn check(dir: &Path, ids: &[InvocationId], what: &str, gone: bool) -> u64 {
    let clock = HandClock::new();
    let (store, recovered) = open(options(dir), &clock);
    // Damage under a summary is found behind the start's back.
    eventually(|| store.is_swept()).await;
    assert_no_drift(&store);
    let mut lost = 0;
    for id in ids {
        match store.find(*id).await.unwrap() {
            Some(record) if record.state == State::Dead => {
                assert_eq!(record.dead_letter.unwrap().reason, Reason::Damaged, "{what}");
                lost += 1;
            }
            Some(_) => {}
            None => lost += 1,
        }
    }
    let missing = store.health().damaged;
    assert!(missing >= recovered.missing_records, "{what}: {recovered:?}");
    let kept = fs::read_dir(dir.join("quarantine")).unwrap().count();
    // What a file that is gone held cannot be kept apart.
    let shown = gone || !recovered.damage.is_empty() || kept > 0;
    assert!(lost == 0 || missing > 0 && shown, "{what}: {lost} lost in silence: {recovered:?}");
    let filter = Filter { reason: Some(Reason::Damaged), ..Filter::default() };
    let letters = store.dead_letters(&filter, &Page { limit: 100, cursor: None }).await.unwrap();
    assert_eq!(!letters.items.is_empty(), missing > 0, "{what}: {recovered:?}");
    // It still works.
    accept(&store, call("other", "new")).await;
    let totals = store.totals();
    store.close().await.unwrap();

    for summaries in [true, false] {
        if !summaries {
            fs::remove_dir_all(dir.join("summaries")).unwrap();
        }
        let (store, again) = open(options(dir), &clock);
        eventually(|| store.is_swept()).await;
        assert_eq!(again.missing_records, 0, "{what}: said twice: {again:?}");
        assert_eq!(store.health().damaged, missing, "{what}: said twice: {again:?}");
        // Without the summary it is known no more how the lost ones ended: those may come again, and are counted again.
        if summaries {
            assert_eq!(again.reconciled, 0, "{what}: {again:?}");
            assert_eq!(store.totals(), totals, "{what}");
        }
        assert_no_drift(&store);
        store.close().await.unwrap();
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn any_flipped_bit_cut_or_zeroed_range_is_survived_and_reported() {
    let origin = TempDir::new().unwrap();
    let ids = filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut tried, mut reported) = (0, 0);
    for round in 0..40 {
        for kind in ["flip", "cut", "zero"] {
            let dir = TempDir::new().unwrap();
            copy_dir(origin.path(), dir.path());
            let files = files_of(dir.path());
            let file = &files[random.random_range(0..files.len())];
            let mut bytes = fs::read(file).unwrap();
            // What was allocated and not written has nothing to damage.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if used == 0 {
                continue;
            }
            tried += 1;
            let at = random.random_range(0..used);
            match kind {
                "flip" => bytes[at] ^= 1 << random.random_range(0..8),
                "cut" => bytes.truncate(at),
                _ => {
                    let to = (at + random.random_range(1..4096)).min(used);
                    bytes[at..to].fill(0);
                }
            }
            fs::write(file, &bytes).unwrap();

            let what = format!("round {round}: {kind} at {at} of {used} in {:?}", file.file_name().unwrap());
            reported += u32::from(check(dir.path(), &ids, &what, false).await > 0);
        }
    }
    // Whether a next segment was allocated by then is the upkeep's timing; it holds nothing to damage. A third of the files
    // are summaries, or say what the journal says as well.
    assert!(tried > 80 && reported * 3 > tried, "only {reported} of {tried} were damage to the journal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_last_synced_batch_is_damage_and_no_torn_tail() {
    for closes in [true, false] {
        let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
        let (store, _) = open(options(dir.path()), &clock);
        let first = accept(&store, call("env", "first")).await;
        let lost = accept(&store, call("env", "the needle")).await;
        if closes {
            store.close().await.unwrap();
        }
        // A killed process leaves what it wrote; a copy of the live directory is the same.
        let file = dir.path().join("journal/0000000001.seg");
        let find = || {
            let bytes = fs::read(&file).unwrap();
            let at = bytes.windows(10).position(|window| window == b"the needle");
            // The statement that this is synced follows as soon as the writer has nothing else to do.
            let stated = at.is_some_and(|at| bytes[at..].windows(4).any(|w| w == [0x45, 0x56, 0x42, 0x4b]));
            stated.then(|| (at.unwrap(), bytes))
        };
        eventually(|| find().is_some()).await;
        let (at, mut bytes) = find().unwrap();
        bytes[at] ^= 4;
        let copy = TempDir::new().unwrap();
        copy_dir(dir.path(), copy.path());
        fs::write(copy.path().join("journal/0000000001.seg"), bytes).unwrap();

        let (store, recovered) = open(options(copy.path()), &clock);
        assert_eq!((recovered.torn_bytes, recovered.damage.len(), recovered.missing_records), (0, 1, 1));
        assert!(store.find(first).await.unwrap().is_some());
        assert!(store.find(lost).await.unwrap().is_none());
        assert_no_drift(&store);
    }
}

/// Whether anything was ever written to a segment.
fn was_begun(segment: &Path) -> bool {
    fs::read(segment).unwrap().iter().any(|byte| *byte != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_or_cut_to_nothing_is_reported_wherever_it_stood() {
    let origin = TempDir::new().unwrap();
    let ids = filled(origin.path()).await;
    let segments: Vec<PathBuf> = files_of(origin.path())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ends| ends == "seg") && was_begun(path))
        .collect();
    assert!(segments.len() > 3);
    for segment in &segments {
        for cut in [None, Some(0), Some(20), Some(64)] {
            let dir = TempDir::new().unwrap();
            copy_dir(origin.path(), dir.path());
            let file = dir.path().join("journal").join(segment.file_name().unwrap());
            match cut {
                None => fs::remove_file(&file).unwrap(),
                Some(len) => fs::File::options().write(true).open(&file).unwrap().set_len(len).unwrap(),
            }
            let missing =
                check(dir.path(), &ids, &format!("{segment:?} cut to {cut:?}"), cut.is_none()).await;
            assert!(missing > 0, "{segment:?} cut to {cut:?}");
        }
    }
}
