//! Who shares a group with us: the connector before us, replicas with a name, replicas that come at a bad time.

use std::time::Duration;

use connectors_sdk::SourceError;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use serde_json::json;
use testkit::time::eventually;

use crate::cluster::{PATIENCE, Place, once};
use crate::rig::{Rig, Store};

/// A member as OpenFaaS' connector is one: it shares partitions in another way than we do.
fn old_connector(place: &Place) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", place.server.bootstrap())
        .set("group.id", &place.group)
        .set("partition.assignment.strategy", "range")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .create()
        .unwrap();
    consumer.subscribe(&[&place.topic]).unwrap();
    consumer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_of_the_connector_before_us_is_taken_over_where_it_ended() {
    let place = Place::new("inherited", 1, &[]).await;
    place.publish(0..10, 0).await;
    let old = old_connector(&place);
    let old = tokio::task::spawn_blocking(move || {
        let mut read = 0;
        while read < 10 {
            read += usize::from(old.poll(Duration::from_secs(1)).is_some_and(|record| record.is_ok()));
        }
        old.commit_consumer_state(CommitMode::Sync).unwrap();
        old
    })
    .await
    .unwrap();

    // Beside it, Kafka refuses us, and it goes on undisturbed.
    let error = Rig::start(place.settings(), &Store::default()).error().await;
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");

    tokio::task::spawn_blocking(move || drop(old)).await.unwrap();
    place.publish(10..15, 0).await;
    let store = Store::default();
    let mut rig = None;
    // What the runtime does: it starts a source again until the old one has left.
    for _ in 0..20 {
        let begun = rig.insert(Rig::start(place.settings(), &store));
        if eventually_or_ended(begun, &store).await {
            break;
        }
    }
    store.has(5).await;
    rig.unwrap().stopped().await;
    assert_eq!(store.bodies(), once(10..15));
}

/// Whether something came before the source ended.
async fn eventually_or_ended(rig: &Rig, store: &Store) -> bool {
    while !rig.has_ended() {
        if !store.accepted().is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_name_has_its_partitions_again_when_it_is_back() {
    let place = Place::new("named", 4, &[]).await;
    let all = [(place.topic.clone(), vec![0, 1, 2, 3])].into();
    let named = |name: &str| {
        let mut settings = place.settings();
        settings["instance_id"] = json!(name);
        settings["session_timeout"] = json!("60s");
        settings
    };
    let (one, two) = (Store::default(), Store::default());
    let first = Rig::start(named("evoke-0"), &one);
    place.observer.has_assigned(&all).await;
    let second = Rig::start(named("evoke-1"), &two);
    let everywhere = async |from: u32| {
        for partition in 0..4 {
            place.publish(from + partition..from + partition + 1, partition as i32).await;
        }
    };
    // Both have their share once each gets some of what goes everywhere.
    let mut published = 0;
    eventually(PATIENCE, "both to have partitions", async || {
        everywhere(published).await;
        published += 4;
        one.has(1).await;
        let (mine, theirs) = (one.accepted().len(), two.accepted().len());
        if theirs >= 2 && mine + theirs == published as usize {
            Ok(())
        } else {
            Err(format!("{mine}, {theirs}"))
        }
    })
    .await;
    let (mine, theirs) = (one.accepted().len(), two.accepted().len());

    first.stopped().await;
    // Its partitions wait for it: nobody else is given them.
    assert_eq!(place.observer.assigned().await, Ok(all.clone()));
    everywhere(published).await;
    published += 4;
    two.has(theirs + 2).await;
    assert_eq!((one.accepted().len(), two.accepted().len()), (mine, theirs + 2));

    let first = Rig::start(named("evoke-0"), &one);
    one.has(mine + 2).await;
    first.stopped().await;
    second.stopped().await;
    let mut taken = one.bodies();
    taken.extend(two.bodies());
    assert_eq!(taken, once(0..published));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_go_while_the_broker_takes_nothing_lose_nothing() {
    let place = Place::new("stuck", 2, &[]).await;
    let (sick, well) = (Store::default(), Store::default());
    sick.close();
    // Less than there is: its partitions are paused when they go.
    let mut settings = place.settings();
    settings["in_flight"] = json!({"messages": 80});
    let first = Rig::start(settings, &sick);
    place.publish(0..50, 0).await;
    place.publish(50..100, 1).await;
    eventually(PATIENCE, "the window to be full", async || sick.offered() == 80).await;

    // A second replica comes. What the first cannot finish in time goes over unfinished.
    let second = Rig::start(place.settings(), &well);
    well.has(50).await;
    sick.open();
    sick.has(50).await;
    second.stopped().await;
    // What comes back is read again, though it was paused when it went.
    place.publish(100..110, 0).await;
    place.publish(110..120, 1).await;
    sick.has(70).await;
    first.stopped().await;

    let mut all = well.bodies();
    for (body, times) in sick.bodies() {
        *all.entry(body).or_default() += times;
    }
    assert_eq!(all, once(0..120));
}
