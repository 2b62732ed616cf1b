//! Functions that run by the clock: the whole product over kills, and a gateway that goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Fault, Function, Route};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use rustix::process::Signal;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_wrong_expression_is_reported_on_its_function_and_stops_no_other() {
    let all = "*/5 * * * *; @every 90m; CRON_TZ=Asia/Tokyo 0 9 * * 1-5; 0 0 * * 7; @every 1s";
    let report =
        Function::echo("report").annotation("topic", "orders, cron-function").annotation("schedule", all);
    let gateway = DemoGateway::start([report]).await.unwrap();
    let broker = Setup::beside(&gateway).config(CLOCK).start().await;
    one_more(&gateway, "report", 0).await;

    let function = broker.get("/v1/functions/report").await;

    let of_it = function["schedules"].as_array().unwrap();
    let mut expressions: Vec<_> = of_it.iter().map(|one| one["expression"].as_str().unwrap()).collect();
    expressions.sort_unstable();
    assert_eq!(expressions, ["*/5 * * * *", "@every 1s", "@every 90m", "CRON_TZ=Asia/Tokyo 0 9 * * 1-5"]);
    assert!(of_it.iter().all(|one| one["next_run"].is_string()), "{function}");
    let problems = function["problems"].as_array().unwrap();
    assert_eq!((problems.len(), &problems[0]["value"]), (1, &"0 0 * * 7".into()), "{function}");
    assert!(problems[0]["problem"].as_str().unwrap().contains("Sunday is 0"), "{function}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_gives_schedules_another_zone_and_keeps_them() {
    let daily =
        Function::echo("daily").annotation("topic", "cron-function").annotation("schedule", "0 9 * * *");
    let gateway = DemoGateway::start([daily]).await.unwrap();
    let broker = Setup::beside(&gateway).config(CLOCK).start().await;
    let shown = async |hour: &str| {
        eventually(SOON, &format!("the next run at {hour}"), async || {
            let schedules = broker.items("/v1/schedules").await;
            let next = schedules.first().and_then(|one| one["next_run"].as_str()).unwrap_or_default();
            if next.contains(hour) { Ok(()) } else { Err(format!("{schedules:?}")) }
        })
        .await;
        broker.items("/v1/schedules").await.remove(0)
    };
    let before = shown("T09:00:00").await;
    let id = before["id"].as_str().unwrap();
    send(broker.request(Method::POST, &format!("/v1/schedules/{id}/pause"))).await;

    let kathmandu = "sources: { clock: { cron: { time_zone: Asia/Kathmandu } } }";
    std::fs::write(broker.setup().config_file(), kathmandu).unwrap();
    broker.signal(Signal::HUP);
    eventually(SOON, "the zone", async || {
        let shown = broker.get(&format!("/v1/schedules/{id}")).await;
        let zone = &shown["rules"]["time_zone"];
        if zone == "Asia/Kathmandu" { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;

    let held = broker.items("/v1/schedules").await.remove(0);
    assert_eq!(
        (&held["id"], &held["since"], &held["paused"]),
        (&before["id"], &before["since"], &true.into())
    );
    send(broker.request(Method::POST, &format!("/v1/schedules/{id}/resume"))).await;
    shown("T03:15:00").await;
}
