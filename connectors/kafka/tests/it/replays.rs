//! What comes again, and what must not: rebalances, crashes, recreated topics, groups that were set back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use testkit::time::eventually;

use crate::cluster::{Admin, PATIENCE, Place, once};
use crate::rig::{Rig, Store};

fn together(stores: &[&Store]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (body, times) in stores.iter().flat_map(|store| store.bodies()) {
        *all.entry(body).or_default() += times;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_come_and_go_under_load_repeat_nothing_settled() {
    let place = Arc::new(Place::new("rebalanced", 4, &[]).await);
    let enough = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (place, enough) = (place.clone(), enough.clone());
        async move {
            let mut n = 0;
            while !enough.load(Ordering::Relaxed) {
                place.publish(n..n + 25, (n / 25 % 4) as i32).await;
                n += 25;
            }
            n
        }
    });
    // Each has a store of its own, as replicas have.
    let (one, two) = (Store::default(), Store::default());
    let first = Rig::start(place.settings(), &one);
    one.has(200).await;
    let second = Rig::start(place.settings(), &two);
    two.has(200).await;
    second.stopped().await;
    let before = one.accepted().len();
    one.has(before + 500).await;
    enough.store(true, Ordering::Relaxed);
    let published = load.await.unwrap();
    one.has((published as usize).saturating_sub(two.accepted().len())).await;
    first.stopped().await;

    assert_eq!(together(&[&one, &two]), once(0..published));
}

/// The group and the topic are asked where they stand every few seconds. Their answers wait behind a fetch that waits for
/// records, and meanwhile more is read and committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_commits_while_it_looks_does_not_take_its_own_commit_for_anothers() {
    let place = Place::new("trickling", 2, &[]).await;
    let store = Store::default();
    let rig = Rig::start(place.settings(), &store);
    let mut n = 0;
    while rig.status().lag.is_none() {
        place.publish(n..n + 1, 0).await;
        n += 1;
        store.has(n as usize).await;
        tokio::time::sleep(Duration::from_millis(190)).await;
        assert!(!rig.has_ended(), "after {n}: {:?}", rig.error().await);
    }
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_cannot_be_taken_up_at_once_are_tried_again() {
    let place = Place::new("hesitant", 2, &[]).await;
    let store = Store::default();
    place.publish(0..10, 0).await;
    store.takes_up(false);
    let rig = Rig::start(place.settings(), &store);
    eventually(PATIENCE, "the problem to be told", async || {
        rig.status().last_error.is_some_and(|(_, what)| what.contains("more than 7 marks"))
    })
    .await;
    assert_eq!(rig.status().lag, None, "what was not looked at yet has no lag");
    store.takes_up(true);
    store.has(10).await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_repeats_nothing_that_its_data_directory_knows() {
    let place = Place::new("crashed", 2, &[]).await;
    let store = Store::default();
    // What is committed once a minute is not committed before the crash.
    let mut settings = place.settings();
    settings["commit_interval"] = json!("60s");
    for crash in 0..3 {
        let rig = Rig::start(settings.clone(), &store);
        place.publish(crash * 100..crash * 100 + 50, 0).await;
        place.publish(crash * 100 + 50..crash * 100 + 100, 1).await;
        store.has((crash as usize + 1) * 100).await;
        rig.cut_off().await;
    }
    let rig = Rig::start(settings, &store);
    place.publish(300..310, 0).await;
    store.has(310).await;
    rig.stopped().await;

    assert_eq!(store.bodies(), once(0..310));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_is_read_from_its_beginning() {
    let place = Place::new("recreated", 1, &[]).await;
    let (store, admin) = (Store::default(), Admin::of(place.server));
    let rig = Rig::start(place.settings(), &store);
    place.publish(0..10, 0).await;
    place.observer.has_committed(&place.topic, 10).await;
    rig.stopped().await;

    admin.delete_topic(&place.topic).await;
    place.server.create_topic(&place.topic, 1, &[]).await;
    let rig = Rig::start(place.settings(), &store);
    place.publish(100..105, 0).await;
    store.has(15).await;
    place.observer.has_committed(&place.topic, 5).await;

    // The same while it is read, and with more records at once than there were: the old position is one of the new topic.
    admin.delete_topic(&place.topic).await;
    place.server.create_topic(&place.topic, 1, &[]).await;
    // For a moment the broker still puts records into the topic that it said is gone.
    while place.publish(200..201, 0).await != [0] {}
    place.publish(201..230, 0).await;
    // What the runtime does: whatever a source ends with, it is started again.
    let mut rig = Some(rig);
    for _ in 0..10 {
        tokio::select! {
            () = store.has(45) => break,
            error = rig.take().expect("one runs").error() => drop(error),
        }
        rig = Some(Rig::start(place.settings(), &store));
    }
    store.has(45).await;

    let bodies = store.bodies();
    assert!(bodies.keys().eq(once((0..10).chain(100..105).chain(200..230)).keys()), "{bodies:?}");
    // Until it is noticed, the client goes on in the new topic from where it was in the old one.
    assert!(
        bodies
            .iter()
            .all(|(body, times)| *times == 1 || body == "200" || (body.starts_with('2') && *times == 2)),
        "{bodies:?}"
    );
    assert!(store.lost().is_empty(), "{:?}", store.lost());
    if let Some(rig) = rig {
        rig.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_set_back_gets_its_records_again() {
    let place = Place::new("rewound", 1, &[]).await;
    let store = Store::default();
    let rig = Rig::start(place.settings(), &store);
    place.publish(0..10, 0).await;
    place.observer.has_committed(&place.topic, 10).await;
    rig.stopped().await;

    place.observer.set_back(&place.topic, 0, 6).await;
    let rig = Rig::start(place.settings(), &store);
    store.has(14).await;
    place.observer.has_committed(&place.topic, 10).await;
    rig.stopped().await;

    let expected = (0..10).map(|n| (n.to_string(), if n < 6 { 1 } else { 2 })).collect();
    assert_eq!(store.bodies(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_group_begins_where_it_is_told() {
    let place = Place::new("starting", 1, &[]).await;
    place.publish(0..5, 0).await;
    let middle = a_moment();
    place.publish(5..10, 0).await;
    let begin = async |group: &str, start: &str| {
        let mut settings = place.settings();
        settings["group"] = json!(group);
        settings["start"] = json!(start);
        let rig = Rig::start(settings, &Store::default());
        // The starting point itself is committed, so that it stays where it was when nothing comes.
        let observer = crate::cluster::Observer::of(place.server, group);
        observer.has_committed(&place.topic, 10).await;
        let store = rig.store.clone();
        rig.stopped().await;
        store
    };

    assert!(begin("at-the-end", "latest").await.bodies().is_empty());
    assert_eq!(begin("at-the-beginning", "earliest").await.bodies(), once(0..10));
    assert_eq!(begin("in-the-middle", &middle).await.bodies(), once(5..10));
}

/// Now, a moment after everything that was published and before everything that will be.
fn a_moment() -> String {
    std::thread::sleep(std::time::Duration::from_millis(5));
    let now = jiff::Timestamp::now().to_string();
    std::thread::sleep(std::time::Duration::from_millis(5));
    now
}
