//! Ends, clean and otherwise, and what comes after.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

use broker_engine::{Drained, EngineSettings};
use broker_model::{InvocationQueue, Ledger, Reason, State};
use testkit::reference::ReferenceStore;
use testkit::time::eventually;

use crate::broker::{Broker, LONG, Start, secs};
use crate::script::{Reply, Script};

fn with(script: &Arc<Script>) -> Start {
    Start { gateway: Some(script.clone()), ..Start::default() }
}

#[tokio::test(start_paused = true)]
async fn a18_a_call_interrupted_by_a_kill_runs_again_once_with_its_retry_count() {
    let script =
        Script::in_turn([|| Reply::status(500), || Reply::status(200).after(LONG), || Reply::status(200)]);
    script.deploy("env", &[]);
    let broker = Broker::start(with(&script)).await;
    let id = broker.call("env").await;
    eventually(LONG, "the second attempt", async || script.count() == 2).await;

    let (store, clock) = broker.kill().await;
    let broker = Broker::on(store, clock, with(&script)).await;
    let record = broker.reaches(id, State::Completed).await;

    assert_eq!((record.attempts.len(), record.interrupted), (2, 1));
    assert_eq!((script.count(), script.seen()[2].attempt()), (3, 2));
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a19_a_drain_lets_running_calls_finish_and_gives_the_rest_back_uncounted() {
    let script = Script::new(|seen| {
        Reply::status(200).after(if seen.path.contains("quick") { secs(10) } else { secs(3600) })
    });
    let broker = Broker::start(with(&script)).await;
    let quick = broker.call("quick").await;
    let long = broker.call("long").await;
    eventually(LONG, "both to run", async || script.running.load(Ordering::SeqCst) == 2).await;
    let behind = broker.call("quick").await;

    let Broker { store, clock, engine, .. } = broker;
    let drained = engine.drain(secs(25)).await;

    assert_eq!(drained, Drained { finished: 1, released: 1 });
    assert_eq!(script.left.load(Ordering::SeqCst), 1);
    store.close().await.unwrap();
    let broker = Broker::on(store.reopen(), clock, with(&script)).await;
    assert_eq!(broker.find(quick).await.state, State::Completed);
    // The timeline of what was given back has no trace of the try: it was no attempt, and nobody's interruption.
    let record = broker.find(long).await;
    assert_eq!((record.interrupted, record.attempts.len()), (0, 0));
    let record = broker.reaches(long, State::Completed).await;
    assert_eq!(record.attempts.kept().map(|attempt| attempt.number).collect::<Vec<_>>(), [1]);
    broker.reaches(behind, State::Completed).await;
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_kills_the_broker_each_time_is_given_up_and_the_others_run() {
    let script = Script::new(|seen| {
        if seen.path.contains("deadly") { Reply::status(200).after(LONG) } else { Reply::status(200) }
    });
    let mut broker = Broker::start(with(&script)).await;
    let deadly = broker.call("deadly").await;
    let mut harmless = Vec::new();
    for _ in 0..6 {
        eventually(LONG, "the deadly call to run", async || script.running.load(Ordering::SeqCst) == 1).await;
        harmless.push(broker.call("env").await);
        let (store, clock) = broker.kill().await;
        broker = Broker::on(store, clock, with(&script)).await;
    }

    let record = broker.reaches(deadly, State::Dead).await;
    assert_eq!((record.dead_letter.unwrap().reason, record.interrupted), (Reason::Interrupted, 6));
    for id in harmless {
        broker.reaches(id, State::Completed).await;
    }
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn with_a_bound_of_none_the_first_interruption_ends_a_call() {
    let script = Script::new(|_| Reply::status(200).after(LONG));
    let settings = || {
        let mut settings = EngineSettings::default();
        settings.delivery.interruptions = 0;
        settings
    };
    let start = || Start { settings: settings(), ..with(&script) };
    let broker = Broker::start(start()).await;
    let id = broker.call("env").await;
    eventually(LONG, "it to run", async || script.count() == 1).await;

    let (store, clock) = broker.kill().await;
    let broker = Broker::on(store, clock, start()).await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!((record.dead_letter.unwrap().reason, record.interrupted), (Reason::Interrupted, 1));
    assert_eq!(script.count(), 1, "it never ran again");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_and_the_rest_beside_them() {
    let script = Script::new(|_| Reply::status(200).after(secs(60)));
    script.deploy("env", &[("evoke.concurrency", "10")]);
    let mut broker = Broker::start(with(&script)).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(broker.call("env").await);
    }
    for _ in 0..3 {
        eventually(LONG, "all to run", async || script.running.load(Ordering::SeqCst) == 4).await;
        let (store, clock) = broker.kill().await;
        broker = Broker::on(store, clock, with(&script)).await;
    }
    script.peak.store(0, Ordering::SeqCst);

    let beside = broker.call("other").await;
    for id in ids {
        assert_eq!(broker.reaches(id, State::Completed).await.interrupted, 3);
    }

    broker.reaches(beside, State::Completed).await;
    assert_eq!(script.peak.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_runs_when_the_others_of_its_moment_have_been_given_back() {
    let store: Arc<OnceLock<ReferenceStore>> = Arc::default();
    let leased = Arc::new(Mutex::new(Vec::new()));
    let script = Script::new({
        let (store, leased) = (store.clone(), leased.clone());
        move |_| {
            if let Some(store) = store.get() {
                leased.lock().unwrap().push(store.lanes().iter().map(|lane| lane.delivering).sum::<u64>());
            }
            Reply::status(200).after(secs(60))
        }
    });
    script.deploy("env", &[("evoke.concurrency", "10")]);
    let mut broker = Broker::start(with(&script)).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(broker.call("env").await);
    }
    for _ in 0..3 {
        eventually(LONG, "all to run", async || script.running.load(Ordering::SeqCst) == 4).await;
        let (died, clock) = broker.kill().await;
        broker = Broker::on(died, clock, with(&script)).await;
    }
    assert!(store.set(broker.store.clone()).is_ok(), "set once");

    for id in ids {
        broker.reaches(id, State::Completed).await;
    }

    // A broker that died now would count an interruption against all that it holds, not against the one alone.
    assert_eq!(*leased.lock().unwrap(), [1, 1, 1, 1]);
}
