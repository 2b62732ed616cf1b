//! Troubles of ours: bodies that cannot be read, bugs in a delivery.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use broker_demo_gateway::{DemoGateway, Function};
use broker_engine::engine::Parts;
use broker_engine::{Drained, Engine, EngineSettings, Gateway};
use broker_model::{Body, BodyChunks, BodyReader, InvocationId, Reason, Record, Spool, State, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, eventually};
use tracing::Level;
use url::Url;

use crate::broker::{Broker, LONG, Start, patience, secs};
use crate::logged::Logged;
use crate::script::{Reply, Script};

/// A store that gives so many pieces of a body, and then what it has instead of the rest.
struct Torn {
    store: ReferenceStore,
    whole: usize,
    then: StoreError,
}

#[async_trait]
impl BodyReader for Torn {
    async fn read(&self, body: &Body) -> Result<BodyChunks, StoreError> {
        if self.whole == 0 {
            return Err(self.then.clone());
        }
        let pieces = self.store.read(body).await?.take(self.whole);
        let end = futures::stream::iter([Err(self.then.clone())]);
        Ok(Box::pin(pieces.chain(end)))
    }

    async fn spool(&self) -> Result<Box<dyn Spool>, StoreError> {
        self.store.spool().await
    }
}

fn damaged() -> StoreError {
    StoreError::Damaged { what: "a body".into(), path: PathBuf::from("bodies/7") }
}

async fn torn(
    settings: EngineSettings,
    gateway: Option<Arc<dyn Gateway>>,
    whole: usize,
    then: StoreError,
) -> Broker {
    let clock = TestClock::start();
    let store = ReferenceStore::new(Bounds::default(), clock.clone());
    let patience = patience(gateway.as_ref());
    let parts = Parts {
        queue: Arc::new(store.clone()),
        ledger: Arc::new(store.clone()),
        bodies: Arc::new(Torn { store: store.clone(), whole, then }),
        clock: clock.clone(),
        settings,
        table_file: None,
        gateway,
    };
    let engine = Engine::start(parts).await.expect("the settings are usable");
    let broker = Broker { patience, engine, store, clock };
    broker.is_loaded().await;
    broker
}

/// A call with a body of this length that lies in the store.
async fn call_with_stored(broker: &Broker, length: usize) -> InvocationId {
    let mut spool = broker.store.spool().await.expect("memory has room");
    for piece in vec![7; length].chunks(64 * 1024) {
        spool.write(Bytes::copy_from_slice(piece)).await.expect("memory has room");
    }
    let body = spool.finish().await.expect("memory has room");
    assert!(matches!(body, Body::Stored(_)));
    broker
        .submit("env", |call| {
            call.body = body;
            call.callback_url = Some("later".into());
        })
        .await
}

async fn assert_damaged(broker: &Broker, record: Record, logged: &Logged) {
    let letter = record.dead_letter.expect("it is dead");
    assert_eq!(letter.reason, Reason::Damaged);
    assert!(letter.detail.contains("bodies/7"), "{}", letter.detail);
    assert!(record.attempts.is_empty(), "a body of ours is nobody's attempt");
    let callback = broker.followed(letter.id).await.remove(0);
    assert_eq!(callback.invocation.headers.text("x-function-status"), Some("503"));
    let errors = logged.lines(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains(&letter.id.to_string()) && errors[0].contains("bodies/7"), "{errors:?}");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_damaged_when_it_is_wanted_is_a_dead_letter_and_said() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    for length in [1000, 600 * 1024] {
        let logged = Logged::start();
        let broker = torn(EngineSettings::default(), Some(script.clone()), 0, damaged()).await;

        let id = call_with_stored(&broker, length).await;
        let record = broker.reaches(id, State::Dead).await;

        assert_damaged(&broker, record, &logged).await;
    }
    assert_eq!(script.count(), 0);
}

#[tokio::test]
async fn a_body_found_damaged_on_its_way_is_a_dead_letter_and_said() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    let mut settings = EngineSettings::default();
    settings.gateway.url = Url::parse(&gateway.url()).unwrap();
    let logged = Logged::start();
    let broker = torn(settings, None, 2, damaged()).await;

    let id = call_with_stored(&broker, 2 * 1024 * 1024).await;
    let record = broker.reaches(id, State::Dead).await;

    assert_damaged(&broker, record, &logged).await;
    let whole = gateway.calls("env").iter().filter(|call| call.body_len == 2 * 1024 * 1024).count();
    assert_eq!(whole, 0, "no function took the beginning for the whole");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_read_for_now_waits() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    let busy = StoreError::Rebuilding { done: 1, total: 2 };
    let broker = torn(EngineSettings::default(), Some(script.clone()), 0, busy).await;

    let id = call_with_stored(&broker, 1000).await;
    tokio::time::sleep(secs(60)).await;

    let record = broker.find(id).await;
    assert!(matches!(record.state, State::Waiting | State::Delivering), "{:?}", record.state);
    assert!(record.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_delivery_costs_that_call_a_minute_and_nobody_else_anything() {
    let fixed = Arc::new(AtomicBool::new(false));
    let is_fixed = fixed.clone();
    let script = Script::new(move |seen| {
        assert!(!seen.path.contains("buggy") || is_fixed.load(Ordering::SeqCst), "a bug of ours");
        Reply::status(200)
    });
    script.deploy("buggy", &[("evoke.concurrency", "1"), ("com.openfaas.retry.attempts", "0")]);
    script.deploy("env", &[]);
    let logged = Logged::start();
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;

    let unlucky = broker.call("buggy").await;
    eventually(LONG, "the bug to be met", async || script.count() == 1).await;
    fixed.store(true, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    // Its slot is free, and so are all others.
    for name in ["buggy", "env", "env", "env"] {
        let id = broker.call(name).await;
        broker.reaches(id, State::Completed).await;
    }
    assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
    assert_eq!(broker.find(unlucky).await.state, State::Waiting, "its lease came back");

    let record = broker.reaches(unlucky, State::Completed).await;
    assert_eq!((record.attempts.len(), record.interrupted), (1, 0));
    assert!((Duration::from_secs(55)..secs(70)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let errors = logged.lines(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains(&unlucky.to_string()), "{errors:?}");
    assert!(broker.scrape().contains("evoke_delivery_panics_total 1"));
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_ends_by_a_bug_is_said_once_and_seen() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    let logged = Logged::start();
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    let functions = broker.engine.functions();
    assert_eq!(functions.broken(), None);

    broker.store.panic_at_lease();
    let before = broker.call("env").await;
    eventually(LONG, "the bug to be seen", async || functions.broken()).await;
    let after = broker.call("env").await;
    tokio::time::sleep(secs(60)).await;

    assert!(functions.broken().is_some_and(|what| what.contains("nothing is delivered")));
    let errors = logged.lines(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("restart") && errors[0].contains("a test asked for this bug"), "{errors:?}");

    // It is as after a kill: what was accepted meanwhile is delivered by the next process.
    assert_eq!(script.count(), 0);
    let (store, clock) = broker.kill().await;
    let start = Start { gateway: Some(script.clone()), ..Start::default() };
    let broker = Broker::on(store, clock, start).await;
    for id in [before, after] {
        broker.reaches(id, State::Completed).await;
    }
    assert_eq!(broker.engine.functions().broken(), None);
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_its_dispatcher_still_drains_and_is_not_called_broken_for_a_drain() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    let logged = Logged::start();
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    let functions = broker.engine.functions();
    broker.engine.drain(secs(5)).await;
    assert_eq!((functions.broken(), logged.lines(Level::ERROR).len()), (None, 0));

    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    let functions = broker.engine.functions();
    broker.store.panic_at_lease();
    broker.call("env").await;
    eventually(LONG, "the bug to be seen", async || functions.broken()).await;
    assert_eq!(broker.engine.drain(secs(5)).await, Drained::default());
}
