//! Dead letters are listed the same whatever becomes of the index.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use broker_model::ledger::{Filter, Page, Refusing};
use broker_model::{InvocationId, InvocationQueue, Ledger, Reason, Settlement, StoreError};
use broker_store_embedded::{EmbeddedStore, File, Files, Lock, Options, OsFiles};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::kit::*;
use crate::sim::SimFiles;

/// Dies after an attempt, at its own moment.
async fn die(store: &EmbeddedStore, clock: &HandClock, name: &str) -> InvocationId {
    clock.advance(Duration::from_millis(1));
    accept(store, call(name, "x")).await;
    let delivery = store.lease(&[(lane(name), 1)]).await.unwrap().pop().unwrap();
    let id = delivery.invocation.id;
    let reason = if name == "env" { Reason::Rejected } else { Reason::Exhausted };
    let dead = Settlement::Dead {
        attempt: Some(attempt(1, 500)),
        reason,
        detail: format!("{name} said no").into(),
        then: Vec::new(),
    };
    store.settle(delivery.lease, dead).await.unwrap();
    id
}

fn only(function: Option<&str>, reason: Option<Reason>) -> Filter {
    Filter { function: function.map(crate::kit::function), reason, ..Filter::default() }
}

/// All pages of a list, small ones.
async fn list(store: &EmbeddedStore, filter: &Filter) -> Result<Vec<InvocationId>, StoreError> {
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.dead_letters(filter, &Page { limit: 7, cursor }).await?;
        for record in &page.items {
            assert!(record.dead_letter.is_some() && record.attempts.len() <= 1);
        }
        ids.extend(page.items.iter().map(|record| record.invocation.id));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(ids);
        }
    }
}

/// Forty dead letters of two functions, some redriven and some removed; those left, latest first.
async fn filled(store: &EmbeddedStore, clock: &HandClock) -> Vec<InvocationId> {
    let (mut left, mut again) = (Vec::new(), Vec::new());
    for n in 0..40 {
        let id = die(store, clock, if n % 3 == 0 { "env" } else { "other" }).await;
        match n % 8 {
            6 => assert!(store.remove(id).await.unwrap()),
            7 => again.push(id),
            _ => left.push(id),
        }
    }
    for id in again {
        assert_eq!(store.redrive(id).await.unwrap(), 2);
    }
    for name in ["env", "other"] {
        drain(store, name).await;
    }
    left.reverse();
    left
}

/// The list and everything that finds a dead letter by its id.
async fn check(store: &EmbeddedStore, left: &[InvocationId], what: &str) {
    eventually_listed(store, left, what).await;
    for id in left {
        let record = store.find(*id).await.unwrap().unwrap();
        assert_eq!(record.attempts.len(), 1, "{what}");
        assert!(record.dead_letter.unwrap().detail.ends_with("said no"), "{what}");
    }
    assert_eq!(store.totals().dead_kept as usize, left.len(), "{what}");
    assert_no_drift(store);
}

async fn eventually_listed(store: &EmbeddedStore, left: &[InvocationId], what: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let found = loop {
        match list(store, &Filter::default()).await {
            Err(StoreError::Rebuilding { .. }) => {
                assert!(std::time::Instant::now() < deadline, "{what}: it is still being made again");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            listed => break listed.unwrap(),
        }
    };
    assert_eq!(found, left, "{what}");
    let (env, other) = (only(Some("env"), None), only(Some("other"), None));
    let halves = (list(store, &env).await.unwrap(), list(store, &other).await.unwrap());
    assert_eq!(halves.0.len() + halves.1.len(), left.len(), "{what}");
    assert_eq!(list(store, &only(None, Some(Reason::Rejected))).await.unwrap(), halves.0, "{what}");
    assert!(list(store, &only(Some("env"), Some(Reason::Expired))).await.unwrap().is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_listed_at_once_and_an_index_that_was_closed_in_order_is_kept() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, recovered) = open(options(dir.path()), &clock);
    assert!(!recovered.index_kept);
    for n in 1..=20 {
        let id = die(&store, &clock, "env").await;
        let listed = list(&store, &Filter::default()).await.unwrap();
        assert_eq!((listed.len(), listed[0]), (n, id));
    }
    let first = list(&store, &Filter::default()).await.unwrap();
    for id in first {
        assert!(store.remove(id).await.unwrap());
    }
    let mut left = filled(&store, &clock).await;
    check(&store, &left, "before").await;
    store.close().await.unwrap();

    for round in 0..3 {
        let (store, recovered) = open(options(dir.path()), &clock);
        assert!(recovered.index_kept, "round {round}");
        check(&store, &left, "kept").await;
        // What only the index knows can be redriven, removed and joined by more.
        assert_eq!(store.redrive(left.remove(3)).await.unwrap(), 2);
        assert!(store.remove(left.remove(4)).await.unwrap());
        drain(&store, "env").await;
        drain(&store, "other").await;
        left.insert(0, die(&store, &clock, "env").await);
        check(&store, &left, "changed").await;
        store.close().await.unwrap();
    }
}

fn copy_dir(from: &Path, to: &Path) {
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

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_deleted_damaged_or_another_ones_is_made_again_with_the_same_list() {
    let (origin, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(origin.path()), &clock);
    let left = filled(&store, &clock).await;
    let latest = store.find(left[0]).await.unwrap().unwrap().dead_letter.unwrap().died_at.as_nanos();
    store.close().await.unwrap();
    drop(store);
    let whole = fs::read(origin.path().join("index")).unwrap();
    // An index as good as ours, of a directory that was filled in the same way.
    let other = TempDir::new().unwrap();
    let (store, _) = open(options(other.path()), &clock);
    filled(&store, &clock).await;
    store.close().await.unwrap();
    drop(store);
    let mut random = StdRng::seed_from_u64(11);
    let mut made_again = 0;
    // One bit of every page that is in use, or was.
    let used: Vec<usize> = (0..whole.len() / 4096)
        .filter_map(|page| {
            let bytes = whole[page * 4096..].iter().take(4096).enumerate();
            let used: Vec<usize> = bytes.filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
            (!used.is_empty()).then(|| page * 4096 + used[random.random_range(0..used.len())])
        })
        .collect();
    for round in 0..27 + used.len() {
        let dir = TempDir::new().unwrap();
        copy_dir(origin.path(), dir.path());
        let index = dir.path().join("index");
        let at = match round {
            27.. => used[round - 27],
            _ => random.random_range(0..whole.len()),
        };
        let mut bytes = whole.clone();
        let (what, is_seen) = match round {
            0 => ("deleted", true),
            1 => ("a directory in its place", true),
            2 => ("another directory's", true),
            3 => ("a text", true),
            4 => ("empty", true),
            5 => ("zeroes", true),
            6 => ("garbage", true),
            7 => ("a key changed", true),
            8..17 => ("cut", true),
            // Not every page of the file is in use.
            17..27 => ("a page zeroed", false),
            _ => ("a bit flipped", false),
        };
        match what {
            "another directory's" => bytes = fs::read(other.path().join("index")).unwrap(),
            "a text" => bytes = b"no index".to_vec(),
            "empty" => bytes.clear(),
            "zeroes" => bytes.fill(0),
            "garbage" => bytes.iter_mut().for_each(|byte| *byte = random.random()),
            "a key changed" => {
                // Wherever the moment of the latest death stands: redb itself would find nothing wrong with it.
                let key = latest.to_le_bytes();
                let found: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..][..8] == key).collect();
                assert!(!found.is_empty());
                found.iter().for_each(|at| bytes[at + 1] ^= 1);
            }
            "cut" => bytes.truncate(at),
            "a bit flipped" => bytes[at] ^= 1 << (round % 8),
            "a page zeroed" => bytes[at / 4096 * 4096..][..4096].fill(0),
            _ => {}
        }
        match what {
            "deleted" => fs::remove_file(&index).unwrap(),
            "a directory in its place" => {
                fs::remove_file(&index).unwrap();
                fs::create_dir(&index).unwrap();
            }
            _ => fs::write(&index, &bytes).unwrap(),
        }
        let what = format!("round {round}: {what} at {at}");
        let (store, recovered) = open(options(dir.path()), &clock);
        assert!(!is_seen || !recovered.index_kept, "{what}: it was believed");
        made_again += u32::from(!recovered.index_kept);
        check(&store, &left, &what).await;
        store.close().await.unwrap();
        drop(store);
        // What was made again is as good as the first one.
        let (store, recovered) = open(options(dir.path()), &clock);
        assert_eq!(recovered.index_kept, index.is_file(), "{what}");
        check(&store, &left, &what).await;
        store.close().await.unwrap();
    }
    assert!(made_again > 20, "only {made_again} were noticed");
}

const CHILD: &str = "EVOKE_TEST_INDEX_CHILD";

/// Not a test by itself: what the child process runs. Calls die for ever, and each is printed once that is durable.
#[test]
fn child_dies_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let clock = HandClock::new();
        let (store, _) = open(options(Path::new(&path)), &clock);
        loop {
            println!("died {}", die(&store, &clock, "env").await);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_list_has_every_death_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let clock = HandClock::new();
    let mut died = Vec::new();
    let mut kept = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::child_dies_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said =
            |line: String| line.split_once("died ").and_then(|(_, id)| id.parse::<InvocationId>().ok());
        let before = died.len();
        died.extend(lines.by_ref().map_while(Result::ok).filter_map(said).take(20 + round * 40));
        assert!(died.len() > before, "round {round}: the child did not work");
        child.kill().unwrap();
        died.extend(lines.map_while(Result::ok).filter_map(said));
        child.wait().unwrap();

        let (store, recovered) = open(options(dir.path()), &clock);
        kept += u32::from(recovered.index_kept);
        let listed = list(&store, &Filter::default()).await.unwrap();
        let missing = died.iter().filter(|id| !listed.contains(id)).count();
        assert_eq!(missing, 0, "round {round}: {recovered:?}");
        assert_eq!(store.totals().dead_kept as usize, listed.len());
        assert_no_drift(&store);
        // It goes on from a close in order as from a kill.
        if round % 2 == 0 {
            store.close().await.unwrap();
        }
    }
    // Within one boot what was written is replayed behind, not made again.
    assert!(kept > 0, "no index was ever kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_journal_is_read_again_the_list_says_so_and_all_else_goes_on() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);
    let left = filled(&store, &clock).await;
    store.close().await.unwrap();
    drop(store);
    let old = TempDir::new().unwrap();
    copy_dir(&dir.path().join("journal"), old.path());
    fs::copy(dir.path().join("closed"), old.path().join("closed")).unwrap();
    // The index goes on, and the journal is set back: an index that has seen more than there is.
    let (store, _) = open(options(dir.path()), &clock);
    die(&store, &clock, "env").await;
    store.close().await.unwrap();
    drop(store);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    copy_dir(old.path(), &dir.path().join("journal"));
    fs::rename(dir.path().join("journal/closed"), dir.path().join("closed")).unwrap();

    let tricks = Arc::new(Tricks { gate_segment: true.into(), ..Tricks::default() });
    let files = Arc::new(TrickedFiles(tricks.clone()));
    let (store, recovered) = EmbeddedStore::open(options(dir.path()), files, clock.clone()).unwrap();
    assert!(!recovered.index_kept);
    let listed = list(&store, &Filter::default()).await;
    if !matches!(listed, Err(StoreError::Rebuilding { total: 1.., .. })) {
        tricks.gate.open();
        panic!("{listed:?} {recovered:?}");
    }
    let id = accept(&store, call("third", "x")).await;
    assert!(store.find(id).await.unwrap().is_some());
    assert_eq!(drain(&store, "third").await, 1);
    assert_eq!(store.totals().dead_kept as usize, left.len());
    tricks.gate.open();
    check(&store, &left, "set back").await;
    store.close().await.unwrap();
    drop(store);
    let (store, _) = open(options(dir.path()), &clock);
    check(&store, &left, "and closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_past_their_age_are_removed_and_counted() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let aged = || Options { dead_letter_age: Some(Duration::from_secs(3600)), ..options(dir.path()) };
    let (store, _) = open(aged(), &clock);
    let old = filled(&store, &clock).await;
    let removed = store.totals().removed;
    store.close().await.unwrap();
    drop(store);

    let (store, recovered) = open(aged(), &clock);
    assert!(recovered.index_kept);
    clock.advance(Duration::from_secs(1800));
    let young = die(&store, &clock, "env").await;
    check(&store, &[&[young], old.as_slice()].concat(), "none is old enough").await;
    clock.advance(Duration::from_secs(1801));
    eventually(|| store.totals().dead_kept == 1).await;

    assert_eq!(store.totals().removed, removed + old.len() as u64);
    check(&store, &[young], "the old are gone").await;
    store.close().await.unwrap();
    drop(store);
    let (store, _) = open(aged(), &clock);
    check(&store, &[young], "for good").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_in_the_index_are_copied_forward_whole() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let tight = || {
        let retention =
            broker_store_embedded::Retention { age: Duration::from_secs(3600), count: 10, bytes: 16 << 10 };
        Options { retention, copy_rate: 1 << 30, ..options(dir.path()) }
    };
    let (store, _) = open(tight(), &clock);
    let left = filled(&store, &clock).await;
    store.close().await.unwrap();
    drop(store);
    let (store, recovered) = open(tight(), &clock);
    assert!(recovered.index_kept);
    for _ in 0..12 {
        let accepted = (0..64).map(|_| accept(&store, call("busy", vec![1u8; 1024])));
        futures::future::join_all(accepted).await;
        drain(&store, "busy").await;
    }
    eventually(|| !dir.path().join("journal/0000000001.seg").exists()).await;

    check(&store, &left, "copied").await;
    store.close().await.unwrap();
    drop(store);
    let (store, recovered) = open(tight(), &clock);
    assert!(recovered.index_kept);
    check(&store, &left, "copied and reopened").await;
}

/// What becomes of the next write to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Error,
    Full,
    Panic,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_fails_while_it_is_used_is_made_again_and_nobody_notices() {
    for (round, fault) in [Fault::Error, Fault::Full, Fault::Panic].into_iter().cycle().take(9).enumerate() {
        let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
        let tricks = Arc::new(Tricks::default());
        let open = || {
            let files = Arc::new(TrickedFiles(tricks.clone()));
            EmbeddedStore::open(options(dir.path()), files, clock.clone()).unwrap()
        };
        let (store, _) = open();
        let mut left = filled(&store, &clock).await;
        store.close().await.unwrap();
        drop(store);
        // Now most are only in the index.
        let (store, recovered) = open();
        assert!(recovered.index_kept);
        *tricks.fault.lock().unwrap() = Some(fault);
        for _ in 0..=round {
            left.insert(0, die(&store, &clock, "env").await);
        }
        eventually(|| tricks.fault.lock().unwrap().is_none()).await;
        check(&store, &left, &format!("{fault:?}")).await;
        store.close().await.unwrap();
        drop(store);
        let (store, recovered) = open();
        assert!(recovered.index_kept, "{fault:?}: what was made again is kept");
        check(&store, &left, &format!("{fault:?}, reopened")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_too_slow_holds_nobody_up_and_catches_up_from_memory() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let tricks = Arc::new(Tricks::default());
    let open = || {
        let files = Arc::new(TrickedFiles(tricks.clone()));
        let options = Options { index_queue: 16, ..options(dir.path()) };
        EmbeddedStore::open(options, files, clock.clone()).unwrap()
    };
    let (store, _) = open();
    let mut left = filled(&store, &clock).await;
    store.close().await.unwrap();
    drop(store);

    let (store, recovered) = open();
    assert!(recovered.index_kept);
    tricks.gate.shut(Gated::Writes);
    // Far more changes than may wait: new ones, and of those that only the index knows some go.
    for n in 0..60 {
        left.insert(0, die(&store, &clock, if n % 2 == 0 { "env" } else { "other" }).await);
    }
    for _ in 0..12 {
        assert!(store.remove(left.pop().unwrap()).await.unwrap());
        assert_eq!(store.redrive(left.pop().unwrap()).await.unwrap(), 2);
    }
    assert_eq!(drain(&store, "env").await + drain(&store, "other").await, 12);
    tricks.gate.open();
    check(&store, &left, "behind").await;
    store.close().await.unwrap();
    drop(store);
    let (store, recovered) = open();
    assert!(recovered.index_kept, "it had caught up");
    check(&store, &left, "caught up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_leave_an_index_that_fits_the_journal_or_is_made_again() {
    let options = || options(Path::new("/evoke"));
    let open = |files: &SimFiles, clock: &Arc<HandClock>| {
        EmbeddedStore::open(options(), Arc::new(files.clone()), clock.clone())
    };
    let (mut kept, mut cut) = (0, 0);
    for seed in 0..60 {
        let (files, clock) = (SimFiles::new(), HandClock::new());
        let mut random = StdRng::seed_from_u64(seed);
        let (store, _) = open(&files, &clock).unwrap();
        let mut left = filled(&store, &clock).await;
        store.close().await.unwrap();
        drop(store);
        for life in 0..4 {
            // Every other time the cut comes while the index is made again.
            if life % 2 == 1 {
                let _ = files.remove(Path::new("/evoke/index"));
            }
            files.cut_after(random.random_range(5..120));
            let mut unsure = Vec::new();
            if let Ok((store, recovered)) = open(&files, &clock) {
                kept += u32::from(recovered.index_kept);
                for _ in 0..random.random_range(1..20) {
                    match try_die(&store, &clock, "env").await {
                        Ok(id) => left.insert(0, id),
                        Err(id) => {
                            unsure.extend(id);
                            cut += 1;
                            break;
                        }
                    }
                }
                let _ = store.close().await;
            }
            files.reboot(seed * 5 + life);
            let what = format!("seed {seed}, life {life}");
            let (store, recovered) = open(&files, &clock).unwrap();
            kept += u32::from(recovered.index_kept);
            // What was not acknowledged may have become a dead letter all the same, or still wait.
            for id in unsure {
                if store.find(id).await.unwrap().is_some_and(|found| found.dead_letter.is_some()) {
                    left.insert(0, id);
                }
            }
            drain(&store, "env").await;
            check(&store, &left, &what).await;
            store.close().await.unwrap();
        }
    }
    assert!(kept > 100 && cut > 60, "{kept} kept, {cut} cut");
}

/// As [`die`], on a disk that may go at any moment: the id in the error is one that was accepted.
async fn try_die(
    store: &EmbeddedStore,
    clock: &HandClock,
    name: &str,
) -> Result<InvocationId, Option<InvocationId>> {
    clock.advance(Duration::from_millis(1));
    let accepted = store.accept(call(name, "x")).await.map_err(|_| None)?;
    let id = accepted.ids()[0];
    let leased = store.lease(&[(lane(name), 1)]).await.map_err(|_| Some(id))?;
    let lease = leased.into_iter().next().ok_or(Some(id))?.lease;
    let detail = format!("{name} said no").into();
    let dead = Settlement::Dead {
        attempt: Some(attempt(1, 500)),
        reason: Reason::Rejected,
        detail,
        then: Vec::new(),
    };
    store.settle(lease, dead).await.map_err(|_| Some(id))?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_the_index_are_counted_and_held_against_the_bound() {
    const SEGMENT: u64 = 64 << 10;
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let bounded = |bytes| open(Options { max_bytes: Some(bytes), ..options(dir.path()) }, &clock).0;
    let is_full = |store: &EmbeddedStore| matches!(store.health().refusing, Some(Refusing::Full(_)));
    let (store, _) = open(options(dir.path()), &clock);
    filled(&store, &clock).await;
    let index = dir.path().join("index");
    eventually(|| fs::metadata(&index).is_ok_and(|found| found.len() > 0)).await;
    store.close().await.unwrap();
    drop(store);

    // Where nothing fits, nothing is allocated ahead, and what is there can be counted. How large the index is depends on
    // how many of its changes were written at once, so on the machine.
    let store = bounded(1);
    eventually(|| is_full(&store)).await;
    let len = fs::metadata(&index).unwrap().len();
    let (all, journal) = (store.health().disk_bytes, segments(&dir));
    assert!(all >= journal + len, "{all} {journal} {len}");
    store.close().await.unwrap();
    drop(store);

    // There would be room for the next segment if the journal were all there is.
    let store = bounded(all - len / 2 + SEGMENT);
    eventually(|| is_full(&store)).await;
    assert!(matches!(store.accept(call("env", "x")).await, Err(StoreError::Full { .. })));
    store.close().await.unwrap();
    drop(store);

    let store = bounded(all + len / 2 + SEGMENT);
    accept(&store, call("env", "x")).await;
    assert!(!is_full(&store));
}

/// Bytes of the journal's files.
fn segments(dir: &TempDir) -> u64 {
    let files = fs::read_dir(dir.path().join("journal")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// What waits at a gate that is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gated {
    /// Opening the first segment.
    Segment,
    /// Writing the index.
    Writes,
}

#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<Option<Gated>>,
    changed: Condvar,
}

impl Gate {
    fn shut(&self, what: Gated) {
        *self.shut.lock().unwrap() = Some(what);
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = None;
        self.changed.notify_all();
    }

    fn pass(&self, what: Gated) {
        let mut shut = self.shut.lock().unwrap();
        while *shut == Some(what) {
            shut = self.changed.wait(shut).unwrap();
        }
    }
}

/// What is done to the files of a store.
#[derive(Debug, Default)]
struct Tricks {
    gate: Gate,
    /// Shut the gate to the first segment when the store's own recovery is over.
    gate_segment: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

#[derive(Debug)]
struct TrickedFiles(Arc<Tricks>);

impl TrickedFiles {
    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        match path.ends_with("index") {
            true => Arc::new(TrickedIndex(self.0.clone(), file)),
            false => file,
        }
    }
}

impl Files for TrickedFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.create_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        OsFiles.lock(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, OsFiles.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if path.ends_with("journal/0000000001.seg") {
            self.0.gate.pass(Gated::Segment);
        }
        Ok(self.file(path, OsFiles.open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // The body files are looked at last when a store opens.
        if dir.ends_with("bodies") && self.0.gate_segment.load(Ordering::SeqCst) {
            self.0.gate.shut(Gated::Segment);
        }
        OsFiles.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsFiles.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        OsFiles.free_space(dir)
    }
}

#[derive(Debug)]
struct TrickedIndex(Arc<Tricks>, Arc<dyn File>);

impl File for TrickedIndex {
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.gate.pass(Gated::Writes);
        let fault = self.0.fault.lock().unwrap().take();
        match fault {
            None => self.1.write_at(bytes, offset),
            Some(Fault::Error) => Err(io::Error::other("the disk says no")),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Panic) => panic!("the library is at fault"),
        }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.1.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.1.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.sync_data()
    }
}
