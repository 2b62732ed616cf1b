//! What is held stays hidden from others, and what is not comes again.

use std::time::Duration;

use connectors_sdk::SourceState;
use serde_json::json;
use testkit::source::{Mode, PATIENCE};
use testkit::time::eventually;

use crate::queues::{Letter, Owner};
use crate::rig::{JOBS, settings};
use crate::server;

#[tokio::test]
async fn a_message_stays_hidden_for_as_long_as_the_broker_takes() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("slow-broker", &[]).await;
    let more = json!({"topics": ["slow-broker"], "visibility_timeout": "8s"});
    let rig = JOBS.start(settings(&server.url(), &more));
    let other = JOBS.start(settings(&server.url(), &more));
    rig.is(SourceState::Connected).await;
    other.is(SourceState::Connected).await;
    rig.sink.mode(Mode::Hang);
    other.sink.mode(Mode::Hang);
    let bodies: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    owner.send(&url, &bodies.iter().map(Letter::of).collect::<Vec<_>>()).await;

    // More than twice as long as SQS hides them by itself.
    let offers = || rig.sink.offered() + other.sink.offered();
    eventually(PATIENCE, "the offers", async || offers() == 30).await;
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!((offers(), owner.count(&url).await), (30, (0, 30)), "each is held by one, once");

    rig.sink.mode(Mode::Accept);
    other.sink.mode(Mode::Accept);
    eventually(PATIENCE, "the queue to be empty", async || owner.count(&url).await == (0, 0)).await;
    let (one, two) = (rig.stopped().await, other.stopped().await);
    assert_eq!(one.bodies().len() + two.bodies().len(), 30);
    assert!(one.each_came_once() && two.each_came_once());
}

#[tokio::test]
async fn a_refused_message_is_seen_by_another_replica() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("ill-replica", &[]).await;
    let more = json!({"topics": ["ill-replica"]});
    let ill = JOBS.start(settings(&server.url(), &more));
    ill.is(SourceState::Connected).await;
    ill.sink.mode(Mode::Refuse);
    owner.send(&url, &[Letter::of("1")]).await;
    ill.is_offered(1).await;

    let well = JOBS.start(settings(&server.url(), &more));
    well.has(1).await;
    assert!(ill.stopped().await.bodies().is_empty());
    assert_eq!(well.stopped().await.bodies(), ["1"]);
    assert_eq!(owner.count(&url).await, (0, 0));
}

#[tokio::test]
async fn what_was_not_begun_is_given_back_at_a_stop() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("given-back.fifo", &[]).await;
    let letters: Vec<Letter> = (0..10).map(|number| Letter::in_group(number.to_string(), "a")).collect();
    // Hidden for an hour, unless they are given back. A request that is cut goes on in ElasticMQ for as long as it waits.
    let more = json!({"topics": ["given-back.fifo"], "visibility_timeout": "1h", "wait_time": "1s"});
    let rig = JOBS.start(settings(&server.url(), &more));
    owner.send(&url, &letters[..1]).await;
    rig.has(1).await;
    rig.sink.mode(Mode::Hang);
    owner.send(&url, &letters[1..]).await;
    rig.is_offered(2).await;
    let sink = rig.sink.clone();
    let stopping = tokio::spawn(rig.stopped());
    // What is begun is finished, and what is behind it goes back meanwhile.
    eventually(PATIENCE, "the others to be given back", async || {
        let (_, hidden) = owner.count(&url).await;
        if hidden <= 1 { Ok(()) } else { Err(format!("{hidden} are hidden")) }
    })
    .await;
    // ElasticMQ still answers a request that the stop has cut, into the void: what came free now would be hidden for the hour.
    tokio::time::sleep(Duration::from_secs(3)).await;
    sink.mode(Mode::Accept);
    let sink = stopping.await.unwrap();
    assert_eq!(sink.bodies(), ["0", "1"]);

    let rig = JOBS.start_before(sink, settings(&server.url(), &more));
    rig.has(10).await;
    let bodies = rig.stopped().await.bodies();
    assert_eq!(bodies, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(owner.count(&url).await, (0, 0));
}
