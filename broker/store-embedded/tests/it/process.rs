//! The store in processes of its own: killed at any moment, and two on one directory.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use broker_model::ledger::{Filter, Page};
use broker_model::{InvocationId, InvocationQueue, Ledger, Reason};
use broker_store_embedded::{EmbeddedStore, OpenError, Options, OsFiles};
use tempfile::TempDir;

use crate::kit::*;

const CHILD: &str = "EVOKE_TEST_STORE_CHILD";

fn sizes(path: &Path) -> Options {
    Options { segment_bytes: 256 << 10, lock_wait: Duration::from_secs(10), ..options(path) }
}

/// Not a test by itself: what the child processes run. They accept for ever and print each id once it is durable.
#[test]
fn child_accepts_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, _) = open(sizes(Path::new(&path)), &HandClock::new());
        let workers = (0..8).map(|worker| {
            let store = store.clone();
            tokio::spawn(async move {
                loop {
                    let id = accept(&store, call("env", vec![worker; 700])).await;
                    // One write call a line, so that a line is whole or not there.
                    println!("accepted {id}");
                }
            })
        });
        futures::future::join_all(workers).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_kills_lose_nothing_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged: HashSet<InvocationId> = HashSet::new();
    for round in 0..30 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::child_accepts_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            // The harness may print in front of the first line.
            if let Some((_, id)) = line.split_once("accepted ")
                && let Ok(id) = id.parse()
            {
                acknowledged.insert(id);
                seen += 1;
            }
            if seen >= 20 + round * 7 {
                break;
            }
        }
        assert!(seen > 0, "round {round}: the child did not work");
        child.kill().unwrap();
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            acknowledged
                .extend(line.split_once("accepted ").and_then(|(_, id)| id.parse::<InvocationId>().ok()));
        }
        child.wait().unwrap();
    }

    let (store, recovered) = open(sizes(dir.path()), &HandClock::new());
    assert_eq!((recovered.damage.len(), recovered.reconciled), (0, 0));
    for id in &acknowledged {
        assert!(store.find(*id).await.unwrap().is_some(), "{id} is lost");
    }
    assert!(recovered.held as usize >= acknowledged.len());
    assert_no_drift(&store);
}

const INDEXING_CHILD: &str = "EVOKE_TEST_INDEXING_CHILD";

/// Not a test by itself: what the child processes run. They make the index of dead letters again, because it is missing or
/// of a process that was killed, and say so.
#[test]
fn child_makes_its_index_until_it_is_killed() {
    let Ok(path) = std::env::var(INDEXING_CHILD) else { return };
    let (_store, recovered) = open(sizes(Path::new(&path)), &HandClock::new());
    println!("opened {}", recovered.index_kept);
    loop {
        std::thread::park();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_of_making_the_index_lose_no_dead_letter() {
    const LETTERS: usize = 6000;
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let mut letters = HashSet::new();
    {
        let (store, _) = open(sizes(dir.path()), &clock);
        let buried = (0..LETTERS).map(|_| store.bury(call("env", "x"), Reason::Undecodable, "no"));
        for buried in futures::future::join_all(buried).await {
            letters.extend(buried.unwrap().ids().iter().copied());
        }
        store.close().await.unwrap();
    }
    let index = dir.path().join("index");

    let mut unfinished = 0;
    for round in 0..24 {
        // Every second process finds what the killed one left.
        if round % 2 == 0 {
            std::fs::remove_file(&index).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::child_makes_its_index_until_it_is_killed", "--nocapture"])
            .env(INDEXING_CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let opened = lines.find(|line| line.contains("opened ")).expect("the child opens");
        unfinished += usize::from(round % 2 == 1 && opened.contains("false"));
        // The first write makes the file; what follows it is a matter of milliseconds.
        eventually(|| index.exists()).await;
        tokio::time::sleep(Duration::from_millis(round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    assert!(unfinished >= 3, "{unfinished} of 12 kills left an index that was not finished");
    let (store, recovered) = open(sizes(dir.path()), &clock);
    assert_eq!((recovered.damage.len(), recovered.dead), (0, LETTERS as u64));
    let (mut listed, mut cursor) = (HashSet::new(), None);
    loop {
        let page = store.dead_letters(&Filter::default(), &Page { limit: 500, cursor }).await.unwrap();
        for letter in page.items {
            assert!(listed.insert(letter.invocation.id), "{} twice", letter.invocation.id);
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, letters);
    assert_no_drift(&store);
    store.close().await.unwrap();
    drop(store);
    let (_, recovered) = open(sizes(dir.path()), &clock);
    assert!(recovered.index_kept, "the last one was made whole");
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_told_so() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let (store, _) = open(options(dir.path()), &clock);

    let second = EmbeddedStore::open(options(dir.path()), Arc::new(OsFiles), clock.clone());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(store);
    assert!(EmbeddedStore::open(options(dir.path()), Arc::new(OsFiles), clock).is_ok());
}

#[tokio::test]
async fn a_newer_format_is_refused_with_its_number() {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    drop(open(options(dir.path()), &clock));
    let path = dir.path().join("format");
    let newer = std::fs::read_to_string(&path).unwrap().replace("evoke-store 2", "evoke-store 7");
    std::fs::write(&path, newer).unwrap();

    let refused = EmbeddedStore::open(options(dir.path()), Arc::new(OsFiles), clock);
    assert!(matches!(refused, Err(OpenError::Newer { found: 7, known: 2, .. })));
}

#[tokio::test]
async fn the_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let path = dir.path().join("data");
    let (store, _) = open(options(&path), &clock);

    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(store.health().durability, "fsync");
}
