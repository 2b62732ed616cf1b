//! What the tests of this crate share: clocks that are set by hand, acceptances in one line, and ways to wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_model::invocation::FunctionCall;
use broker_model::{
    Acceptance, Answer, Attempt, Body, CallId, Clock, Draft, FunctionName, Headers, InvocationId,
    InvocationQueue, Lane, LaneTarget, Ledger, Origin, Outcome, QueueName, Settlement, Target, Timestamp,
};
use broker_store_embedded::{EmbeddedStore, Options, OsFiles, Recovered};
use bytes::Bytes;

/// A clock that moves only when told.
#[derive(Debug)]
pub(crate) struct HandClock {
    wall: AtomicU64,
    mono: AtomicU64,
}

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(HandClock { wall: AtomicU64::new(1_700_000_000_000_000_000), mono: AtomicU64::new(0) })
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.wall.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        self.mono.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    pub(crate) fn jump_wall(&self, seconds: i64) {
        let by = (seconds * 1_000_000_000) as u64;
        self.wall.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.mono.load(Ordering::SeqCst))
    }
}

/// Small segments and short waits, on a real directory.
pub(crate) fn options(path: &Path) -> Options {
    Options { segment_bytes: 64 << 10, min_free: 0, lock_wait: Duration::ZERO, ..Options::new(path) }
}

pub(crate) fn open(options: Options, clock: &Arc<HandClock>) -> (EmbeddedStore, Recovered) {
    EmbeddedStore::open(options, Arc::new(OsFiles), clock.clone()).expect("the store opens")
}

pub(crate) fn function(name: &str) -> FunctionName {
    FunctionName::parse(name, "openfaas-fn").expect("a name")
}

pub(crate) fn lane(name: &str) -> Lane {
    Lane { queue: QueueName::default(), target: LaneTarget::Function(function(name)) }
}

pub(crate) fn draft(name: &str) -> Draft {
    Draft {
        lane: lane(name),
        target: Target::Function(FunctionCall {
            function: function(name),
            written: name.into(),
            path_and_query: "".into(),
            callback_url: None,
        }),
        call_id: CallId::parse("call").expect("a call id"),
        due: None,
        max_age: None,
    }
}

pub(crate) fn call(name: &str, body: impl Into<Bytes>) -> Acceptance {
    Acceptance {
        origin: Origin::Call,
        headers: Headers::from_iter([("content-type", "text/plain")]),
        body: Body::Inline(body.into()),
        drafts: vec![draft(name)],
        dedup: None,
        position: None,
        fire: None,
    }
}

pub(crate) async fn accept(store: &EmbeddedStore, acceptance: Acceptance) -> InvocationId {
    store.accept(acceptance).await.expect("it is accepted").ids()[0]
}

pub(crate) fn attempt(number: u32, status: u16) -> Attempt {
    Attempt {
        number,
        started_at: Timestamp::from_nanos(5),
        duration: Duration::from_millis(1),
        outcome: Outcome::Answered(Answer { status, ..Answer::default() }),
        excerpt: Bytes::from_static(b"answer"),
    }
}

pub(crate) fn completed() -> Settlement {
    Settlement::Completed { attempt: attempt(1, 200), then: Vec::new() }
}

/// Leases everything of a lane and completes it; how many there were.
pub(crate) async fn drain(store: &EmbeddedStore, name: &str) -> usize {
    let mut done = 0;
    loop {
        let deliveries = store.lease(&[(lane(name), 64)]).await.expect("it leases");
        if deliveries.is_empty() {
            return done;
        }
        done += deliveries.len();
        let settled = deliveries.into_iter().map(|delivery| store.settle(delivery.lease, completed()));
        for settled in futures::future::join_all(settled).await {
            settled.expect("it settles");
        }
    }
}

pub(crate) fn assert_no_drift(store: &EmbeddedStore) {
    let totals = store.totals();
    assert_eq!(totals.drift(), 0, "{totals:?}");
}

/// A whole body.
pub(crate) async fn read(store: &EmbeddedStore, body: &Body) -> Bytes {
    use broker_model::BodyReader;
    use futures::TryStreamExt;
    let chunks: Vec<Bytes> =
        store.read(body).await.expect("it reads").try_collect().await.expect("it is whole");
    chunks.concat().into()
}

/// Waits until something is so; the store's own threads do it.
pub(crate) async fn eventually(mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "it did not happen in 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
