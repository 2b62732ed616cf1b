//! Dead letters are listed the same whatever becomes of the index.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use broker_model::ledger::{Filter, Page};
use broker_model::{InvocationId, InvocationQueue, Ledger, Reason, Settlement, StoreError};
use broker_store_embedded::{EmbeddedStore, File, Files, Lock, Options, OsFiles};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::kit::*;

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

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_in(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_deleted_damaged_or_garbage_is_made_again_with_the_same_list() {
    let (origin, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(origin.path()), &clock);
    let left = filled(&store, &clock).await;
    store.close().await.unwrap();
    drop(store);
    let mut random = StdRng::seed_from_u64(11);
    let mut made_again = 0;
    for round in 0..30 {
        let dir = TempDir::new().unwrap();
        copy_dir(origin.path(), dir.path());
        let index = dir.path().join("index");
        let what = match round {
            0 => "deleted",
            1 => "a file in its place",
            2 => "garbage",
            3 => "no mark",
            4 => "another boot's",
            n if n % 2 == 0 => "bytes flipped",
            _ => "truncated",
        };
        match what {
            "deleted" => fs::remove_dir_all(&index).unwrap(),
            "a file in its place" => {
                fs::remove_dir_all(&index).unwrap();
                fs::write(&index, "no directory").unwrap();
            }
            "garbage" => {
                for file in files_in(&index) {
                    let garbage: Vec<u8> = (0..70_000).map(|_| random.random()).collect();
                    fs::write(file, garbage).unwrap();
                }
            }
            "no mark" => fs::remove_file(dir.path().join("index.mark")).unwrap(),
            "another boot's" => fs::write(dir.path().join("index.mark"), "boot some-other\n").unwrap(),
            _ => {
                let files = files_in(&index);
                let file = &files[random.random_range(0..files.len())];
                let mut bytes = fs::read(file).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(1);
                let at = random.random_range(0..used);
                if what == "truncated" {
                    bytes.truncate(at);
                } else {
                    let to = (at + 16).min(bytes.len());
                    bytes[at..to].iter_mut().for_each(|byte| *byte = !*byte);
                }
                fs::write(file, bytes).unwrap();
            }
        }
        let what = format!("round {round}: {what}");
        let (store, recovered) = open(options(dir.path()), &clock);
        assert!(round >= 5 || !recovered.index_kept, "{what}: it was believed");
        made_again += u32::from(!recovered.index_kept);
        check(&store, &left, &what).await;
        // What was made again is as good as the first one.
        eventually(|| dir.path().join("index/db").exists()).await;
        store.close().await.unwrap();
        let (store, _) = open(options(dir.path()), &clock);
        check(&store, &left, &what).await;
        store.close().await.unwrap();
    }
    assert!(made_again > 15, "only {made_again} of 30 were noticed");
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

    let gate = Arc::new(Gate::default());
    let files = Arc::new(GatedFiles(gate.clone()));
    let (store, recovered) = EmbeddedStore::open(options(dir.path()), files, clock.clone()).unwrap();
    assert!(!recovered.index_kept);
    let listed = list(&store, &Filter::default()).await;
    if !matches!(listed, Err(StoreError::Rebuilding { total: 1.., .. })) {
        gate.open();
        panic!("{listed:?} {recovered:?}");
    }
    let id = accept(&store, call("third", "x")).await;
    assert!(store.find(id).await.unwrap().is_some());
    assert_eq!(drain(&store, "third").await, 1);
    assert_eq!(store.totals().dead_kept as usize, left.len());
    gate.open();
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

/// Lets segments be read while the store opens, and then only when it is told to.
#[derive(Debug, Default)]
struct Gate {
    opened: Mutex<bool>,
    changed: Condvar,
    /// The store's own recovery is over: it made its new segment.
    armed: AtomicBool,
}

impl Gate {
    fn open(&self) {
        *self.opened.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut opened = self.opened.lock().unwrap();
        while !*opened {
            opened = self.changed.wait(opened).unwrap();
        }
    }
}

#[derive(Debug)]
struct GatedFiles(Arc<Gate>);

impl Files for GatedFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.create_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        OsFiles.lock(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        OsFiles.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let first = path.ends_with("journal/0000000001.seg");
        if first && self.0.armed.load(Ordering::SeqCst) {
            self.0.pass();
        }
        OsFiles.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // The body files are looked at last when a store opens.
        if dir.ends_with("bodies") {
            self.0.armed.store(true, Ordering::SeqCst);
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

    fn native(&self, path: &Path) -> Option<PathBuf> {
        OsFiles.native(path)
    }
}
