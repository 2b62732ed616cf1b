//! How long a start takes, how much it reads, and what it holds, with summaries and index and without.
//!
//! ```sh
//! cargo run --release -p broker-store-embedded --example start -- 1024              # MiB of journal
//! cargo run --release -p broker-store-embedded --example start -- letters 1000000   # dead letters
//! ```
//! Of a journal every second call is completed, bodies are 1 KiB; dead letters have 100 bytes. Prints a table, and what the
//! process holds at its peak while it fills. Each start with dead letters is a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_model::invocation::FunctionCall;
use broker_model::{
    Acceptance, Answer, Attempt, Body, CallId, Clock, Draft, FunctionName, Headers, InvocationQueue, Lane,
    LaneTarget, Origin, Outcome, QueueName, Reason, Settlement, Target, Timestamp,
};
use broker_store_embedded::{EmbeddedStore, Options, OsFiles, Recovered};

#[derive(Debug)]
struct Now(Instant);

impl Clock for Now {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000) + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn call(function: &FunctionName, n: usize) -> Acceptance {
    let target = FunctionCall {
        function: function.clone(),
        written: "echo".into(),
        path_and_query: "".into(),
        callback_url: None,
    };
    let draft = Draft {
        lane: Lane { queue: QueueName::default(), target: LaneTarget::Function(function.clone()) },
        target: Target::Function(target),
        call_id: CallId::parse(&format!("call-{n}")).expect("letters and digits"),
        due: None,
        max_age: None,
    };
    Acceptance {
        origin: Origin::Call,
        headers: Headers::from_iter([("content-type", "application/octet-stream")]),
        body: Body::Inline(vec![n as u8; 1024].into()),
        drafts: vec![draft],
        dedup: None,
        position: None,
        fire: None,
    }
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

fn opened(dir: &Path) -> (EmbeddedStore, Recovered) {
    let options = Options { min_free: 0, ..Options::new(dir) };
    EmbeddedStore::open(options, Arc::new(OsFiles), Arc::new(Now(Instant::now()))).expect("it opens")
}

async fn swept(store: &EmbeddedStore) {
    while !store.is_swept() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["letters", count] => letters(count.parse().expect("a number")).await,
        ["open", dir] => open_and_settle(Path::new(dir)).await,
        _ => journal().await,
    }
}

/// Fills a store with dead letters and starts it in processes of their own.
async fn letters(count: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let function = FunctionName::parse("echo", "openfaas-fn").expect("a name");
    let (store, _) = opened(dir.path());
    for n in (0..count).step_by(1024) {
        let buried = (n..(n + 1024).min(count)).map(|n| {
            let letter = Acceptance { body: Body::Inline(vec![n as u8; 100].into()), ..call(&function, n) };
            store.bury(letter, Reason::Undecodable, "it cannot be read")
        });
        for buried in futures::future::join_all(buried).await {
            buried.expect("it is buried");
        }
    }
    println!("{count} dead letters, {} MiB of memory at the peak", peak_mib());
    swept(&store).await;
    store.close().await.expect("it closes");
    drop(store);
    println!(
        "| start with | index kept | MiB read | ms to open | MiB held at the peak until all is settled |"
    );
    println!("|---|---|---|---|---|");
    for (what, missing) in [
        ("summaries and index", &[][..]),
        ("summaries", &["index"]),
        ("index", &["summaries"]),
        ("neither", &["index", "summaries"]),
    ] {
        for missing in missing {
            let path = dir.path().join(missing);
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.expect("it is there");
        }
        let this = std::env::current_exe().expect("a running program");
        let said = std::process::Command::new(this).arg("open").arg(dir.path()).output().expect("it runs");
        println!("| {what} | {} |", String::from_utf8_lossy(&said.stdout).trim());
    }
}

/// Opens a store, waits until what it does beside is done, closes it, and says what that took.
async fn open_and_settle(dir: &Path) {
    let (store, found) = opened(dir);
    swept(&store).await;
    store.close().await.expect("it closes");
    println!(
        "{} | {} | {} | {}",
        found.index_kept,
        found.bytes_read >> 20,
        found.took.as_millis(),
        peak_mib()
    );
}

async fn journal() {
    let mib: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(256);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let function = FunctionName::parse("echo", "openfaas-fn").expect("a name");
    let lane = Lane { queue: QueueName::default(), target: LaneTarget::Function(function.clone()) };
    let (store, _) = opened(dir.path());
    let (mut n, mut bytes) = (0, 0);
    while bytes < mib << 20 {
        let accepts = (n..n + 256).map(|n| store.accept(call(&function, n)));
        for accepted in futures::future::join_all(accepts).await {
            accepted.expect("it is accepted");
        }
        let deliveries = store.lease(&[(lane.clone(), 128)]).await.expect("it leases");
        let settled = deliveries.into_iter().map(|delivery| {
            let attempt = Attempt {
                number: 1,
                started_at: Timestamp::from_nanos(1),
                duration: Duration::from_millis(3),
                outcome: Outcome::Answered(Answer { status: 200, ..Answer::default() }),
                excerpt: bytes::Bytes::new(),
            };
            store.settle(delivery.lease, Settlement::Completed { attempt, then: Vec::new() })
        });
        futures::future::join_all(settled).await;
        n += 256;
        bytes += 256 * 1400;
    }
    println!("{n} calls accepted, {} MiB of memory at the peak", peak_mib());
    swept(&store).await;
    store.close().await.expect("it closes");
    drop(store);
    println!("| start from | journal segments | summaries read | MiB read | ms |");
    println!("|---|---|---|---|---|");
    let mut took = Vec::new();
    for what in ["summaries", "segments"] {
        if what == "segments" {
            std::fs::remove_dir_all(dir.path().join("summaries")).expect("it is there");
        }
        let (store, found) = opened(dir.path());
        let Recovered { segments, summarized, bytes_read, took: time, .. } = found;
        println!("| {what} | {segments} | {summarized} | {} | {} |", bytes_read >> 20, time.as_millis());
        took.push((bytes_read as f64, time.as_secs_f64()));
        swept(&store).await;
        store.close().await.expect("it closes");
    }
    println!("ratio: {:.1} of the bytes, {:.1} of the time", took[1].0 / took[0].0, took[1].1 / took[0].1);
}
