//! Hours without a gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker_model::State;
use testkit::time::eventually;

use crate::broker::{Broker, LONG, Start, function, secs};
use crate::script::{Reply, Script};

/// A gateway that can be taken away.
fn fragile() -> (Arc<Script>, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = up.clone();
    let script =
        Script::new(
            move |_| if is_up.load(Ordering::SeqCst) { Reply::status(200) } else { Reply::unreachable() },
        );
    script.deploy("env", &[("com.openfaas.retry.attempts", "1"), ("evoke.max-age", "30m")]);
    (script, up)
}

fn go(script: &Script, up: &AtomicBool, to: bool) {
    up.store(to, Ordering::SeqCst);
    script.reachable.store(to, Ordering::SeqCst);
    script.lists.store(to, Ordering::SeqCst);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_gateway_counts_no_attempt_and_kills_nothing() {
    let (script, up) = fragile();
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    go(&script, &up, false);

    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(broker.submit("env", |call| call.max_age = Some(LONG)).await);
    }
    tokio::time::sleep(secs(3600)).await;
    let down = broker.engine.functions().gateway_down().expect("it is known to be down");
    assert_eq!(&*down.last_error, "connection refused");
    let lane = &broker.engine.functions().lane_states(&function("env"))[0];
    assert_eq!(lane.waiting_reason.map(broker_engine::WaitingReason::as_str), Some("gateway-down"));
    assert!(script.count() < 300, "{} calls into nothing", script.count());
    let probes = script.probes.load(Ordering::SeqCst);
    assert!((100..400).contains(&probes), "{probes} probes in an hour");
    for id in &ids {
        let record = broker.find(*id).await;
        assert_eq!((record.state, record.attempts.len()), (State::Waiting, 0));
    }

    go(&script, &up, true);
    for id in ids {
        let record = broker.reaches(id, State::Completed).await;
        assert_eq!(record.attempts.len(), 1);
    }
    assert!(broker.engine.functions().gateway_down().is_none());
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn nothing_expires_while_the_gateway_is_down() {
    let (script, up) = fragile();
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    go(&script, &up, false);
    let id = broker.call("env").await;

    tokio::time::sleep(secs(3600)).await;

    assert_eq!(broker.find(id).await.state, State::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a13_the_last_list_serves_while_no_complete_one_comes() {
    let (script, up) = fragile();
    script.deploy("wants", &[("topic", "orders")]);
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    let functions = broker.engine.functions();
    eventually(LONG, "both functions", async || functions.table().functions.len() == 2).await;

    go(&script, &up, false);
    tokio::time::sleep(secs(3600)).await;

    assert_eq!(functions.table().functions.len(), 2);
    assert!(functions.last_problem().unwrap().problem.contains("502"));
    assert!(functions.age().unwrap() >= secs(3500));
    go(&script, &up, true);
    eventually(LONG, "a complete list", async || functions.last_problem().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_functions_last_annotations_still_serve() {
    let script = Script::new(|_| Reply::status(500));
    script.deploy("env", &[("com.openfaas.retry.attempts", "3"), ("com.openfaas.retry.max_wait", "60s")]);
    script.deploy("other", &[]);
    let broker = Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    let functions = broker.engine.functions();
    eventually(LONG, "both functions", async || functions.table().functions.len() == 2).await;

    script.remove("env");
    eventually(LONG, "one function", async || functions.table().functions.len() == 1).await;
    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(record.attempts.len(), 4);
}
