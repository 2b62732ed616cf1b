//! Functions that run by the clock: the whole product over kills, and a gateway that goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Fault, Function, Route};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use testkit::time::eventually;
use uuid::Uuid;

use crate::broker::{Broker, SOON, Setup, invocation_of, send};

const CLOCK: &str = "sources: { clock: { cron: {} } }";

/// The instants at which a function ran, each with the invocations it made.
fn instants(gateway: &DemoGateway, function: &str) -> BTreeMap<Timestamp, BTreeSet<Uuid>> {
    let mut found: BTreeMap<Timestamp, BTreeSet<Uuid>> = BTreeMap::new();
    for call in gateway.calls(function) {
        let at = call.header("ce-time").expect("a run says its instant").parse().expect("a moment");
        found.entry(at).or_default().insert(invocation_of(&call));
    }
    found
}

async fn one_more(gateway: &DemoGateway, function: &str, than: usize) {
    eventually(SOON, "another instant to run", async || instants(gateway, function).len() > than).await;
}

/// Holds the source, waits for what was begun, and gives what ran.
async fn all_that_ran(gateway: &DemoGateway, broker: &Broker, function: &str) -> Vec<Timestamp> {
    send(broker.request(Method::POST, "/v1/sources/clock/pause")).await;
    eventually(SOON, "the source to be paused", async || {
        broker.get("/v1/sources/clock").await["state"] == "paused"
    })
    .await;
    broker.quiet().await;
    let instants = instants(gateway, function);
    for (at, invocations) in &instants {
        assert_eq!(invocations.len(), 1, "{at} made {invocations:?}");
    }
    instants.into_keys().collect()
}

fn assert_no_gap(instants: &[Timestamp]) {
    for pair in instants.windows(2) {
        assert_eq!(pair[1].duration_since(pair[0]), SignedDuration::from_secs(1), "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_instant_makes_one_invocation_however_often_the_broker_is_killed() {
    let tick = Function::echo("tick")
        .annotation("topic", "cron-function")
        .annotation("schedule", "@every 1s")
        .annotation("evoke.schedule.missed", "all 1000");
    let gateway = DemoGateway::start([tick]).await.unwrap();
    let mut broker = Setup::beside(&gateway).config(CLOCK).start().await;

    for _ in 0..6 {
        one_more(&gateway, "tick", instants(&gateway, "tick").len()).await;
        // Anywhere between two instants, or within one.
        let moment = Duration::from_millis(rand::rng().random_range(0..1100));
        tokio::time::sleep(moment).await;
        broker.kill();
        broker.come_back().await;
    }
    one_more(&gateway, "tick", instants(&gateway, "tick").len()).await;

    let ran = all_that_ran(&gateway, &broker, "tick").await;
    assert!(ran.len() > 6, "{ran:?}");
    assert_no_gap(&ran);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_go_on_while_the_gateway_lists_nothing_and_after_a_restart_in_that_time() {
    let tick = Function::echo("tick")
        .annotation("topic", "cron-function")
        .annotation("schedule", "@every 1s")
        .annotation("evoke.schedule.missed", "all 1000");
    let gateway = DemoGateway::start([tick]).await.unwrap();
    let mut broker = Setup::beside(&gateway).config(CLOCK).start().await;
    one_more(&gateway, "tick", 0).await;
    let before = broker.items("/v1/schedules").await;

    gateway.faults().always(Route::List, Fault::status(500));
    one_more(&gateway, "tick", instants(&gateway, "tick").len() + 1).await;
    broker.restart();
    broker.ready().await;
    one_more(&gateway, "tick", instants(&gateway, "tick").len() + 1).await;

    let after = broker.items("/v1/schedules").await;
    assert_eq!((&before[0]["id"], &before[0]["since"]), (&after[0]["id"], &after[0]["since"]));
    assert_no_gap(&all_that_ran(&gateway, &broker, "tick").await);
}
