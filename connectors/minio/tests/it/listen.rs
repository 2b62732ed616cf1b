//! The notification stream.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use testkit::time::eventually;

use crate::rig::{Data, PATIENCE, Rig};
use crate::stand_in::{Manner, StandIn, line};

fn settings(store: &StandIn) -> Value {
    json!({
        "endpoint": format!("http://{}", store.address), "access_key": "a", "secret_key": "s",
        "topics": ["photos"], "ping": "1s", "connect_timeout": "1s", "repair": {"enabled": false},
    })
}

/// Says it until it comes through: a stream keeps nothing for who is not there yet.
async fn reaches(store: &StandIn, data: &Data, key: &str) {
    eventually(PATIENCE, "a notification to come through", async || {
        store.say(line("photos", key, 7));
        data.keys().iter().any(|found| found == key)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_arrive_between_both_signs_of_life() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let rig = Rig::connected(settings(&store), &data).await;
    reaches(&store, &data, "first").await;

    store.say("   ");
    store.say("{\"Records\":null}\n");
    let two = line("photos", "in%2Fa+b", 8);
    let (head, rest) = two.split_at(100);
    store.say(head);
    store.say([rest, &line("videos", "x", 9), " {\"broken\n"].concat());
    data.has(&["first", "in/a b"]).await;
    eventually(PATIENCE, "the dead letter", async || data.quarantined().len() == 1).await;

    let asked = &store.asked()[0];
    let target = "GET /?events=s3%3AObjectCreated%3A%2A&events=s3%3AObjectRemoved%3A%2A&ping=1 HTTP/1.1";
    assert!(asked.starts_with(target), "{asked}");
    assert!(asked.contains("authorization: AWS4-HMAC-SHA256 Credential=a/"), "{asked}");
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_or_falls_silent_is_asked_for_again() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let rig = Rig::connected(settings(&store), &data).await;
    reaches(&store, &data, "a").await;

    store.cut();
    eventually(PATIENCE, "the next request", async || store.asked().len() == 2).await;
    reaches(&store, &data, "b").await;

    // Three pings without a byte.
    eventually(PATIENCE, "the request after the silence", async || store.asked().len() == 3).await;
    assert!(rig.status().last_error.unwrap().1.contains("no sign of life"));
    reaches(&store, &data, "c").await;
    assert!(rig.status().disconnected.len() >= 3);
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_asked_for_and_what_is_refused_until_the_end_is_counted() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let rig = Rig::connected(settings(&store), &data).await;
    reaches(&store, &data, "a").await;
    let before = rig.status().counts;
    store.say(line("videos", "x", 1));
    eventually(PATIENCE, "the count", async || rig.status().counts.unmatched == 1).await;

    data.taken.refusing.store(true, Ordering::Relaxed);
    (0..40).for_each(|n| store.say(line("photos", "b", 100 + n)));
    let all = before.received + 1 + 40;
    eventually(PATIENCE, "all to be read", async || rig.status().counts.received >= all).await;
    let counts = rig.stopped().await.counts;

    assert_eq!(counts.dropped, 40, "what nobody can give again is counted: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_sends_no_headers_is_told_apart() {
    let store = StandIn::start(Manner::Silent).await;
    let data = Data::new();
    let rig = Rig::start(settings(&store), &data);

    eventually(PATIENCE, "the trouble to be shown", async || {
        rig.status().last_error.is_some_and(|(_, error)| error.contains("not even headers"))
    })
    .await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_are_told() {
    let store = StandIn::start(Manner::Refuses).await;
    let rig = Rig::start(settings(&store), &Data::new());

    eventually(PATIENCE, "the trouble to be shown", async || {
        rig.status()
            .last_error
            .is_some_and(|(_, error)| error.contains("refuses us") && error.contains("AccessDenied"))
    })
    .await;
    rig.stopped().await;
}
