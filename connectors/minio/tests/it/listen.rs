//! The notification stream: what only a stand-in can be made to do, and after it the real MinIO, which passes the stream on
//! once some kilobytes have gathered.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::servers::Relay;
use testkit::servers::minio::{Minio, MinioConfig, PASSWORD, USER};
use testkit::time::eventually;
use tokio_util::task::AbortOnDropHandle;

use crate::rig::{Data, PATIENCE, Rig};
use crate::stand_in::{Manner, NOW, StandIn, line};

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

/// Says something once somebody listens, and waits until it is taken.
async fn first(store: &StandIn, data: &Data) {
    eventually(PATIENCE, "somebody to listen", async || store.listeners() == 1).await;
    store.say(line("photos", "a", 7));
    data.has(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_arrive_between_both_signs_of_life() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let rig = Rig::connected(settings(&store), &data).await;
    reaches(&store, &data, "first").await;

    store.say("   ");
    store.say("{\"Records\":null}\n");
    let two = line("photos", "in/a b+%", 8);
    let (head, rest) = two.split_at(100);
    store.say(head);
    store.say([rest, &line("videos", "x", 9), " {\"broken\n"].concat());
    data.has(&["first", "in/a b+%"]).await;
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
    first(&store, &data).await;
    store.say(line("videos", "x", 1));
    eventually(PATIENCE, "the count", async || rig.status().counts.unmatched == 1).await;

    data.taken.refusing.store(true, Ordering::Relaxed);
    (0..40).for_each(|n| store.say(line("photos", "b", 100 + n)));
    eventually(PATIENCE, "all to be in the connection", async || store.has_passed_all_on()).await;
    let counts = rig.stopped().await.counts;

    assert_eq!(counts.dropped, 40, "what nobody can give again is counted: {counts:?}");
    assert_eq!(counts.received, 1 + 1 + 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_more_comes_than_there_is_room_for_is_dropped_and_counted_until_the_end() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let mut settings = settings(&store);
    settings["in_flight"] = json!({"messages": 4});
    let rig = Rig::connected(settings, &data).await;
    first(&store, &data).await;

    data.taken.refusing.store(true, Ordering::Relaxed);
    (0..40).for_each(|n| store.say(line("photos", "b", 100 + n)));
    eventually(PATIENCE, "losses", async || rig.status().counts.dropped >= 40 - 8).await;
    let counts = rig.stopped().await.counts;

    assert_eq!((counts.dropped, counts.received), (40, 41), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_broker_knows_its_functions_nothing_counts_as_unwanted() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let mut settings = settings(&store);
    settings["topics"] = json!("from-functions");
    settings["in_flight"] = json!({"messages": 8});
    // A broker without a complete list refuses what no function of its old one wants.
    data.taken.refusing.store(true, Ordering::Relaxed);
    let rig = Rig::connected(settings, &data).await;
    eventually(PATIENCE, "the stream", async || store.listeners() == 1).await;
    (0..3).for_each(|n| store.say(line("photos", "early", n)));
    eventually(PATIENCE, "it to be held", async || rig.status().counts.received == 3).await;
    assert_eq!((rig.status().counts.unmatched, data.events().len()), (0, 0));
    // No more than half of the window waits for its word.
    (3..10).for_each(|n| store.say(line("photos", "early", n)));
    eventually(PATIENCE, "the rest to be counted", async || rig.status().counts.dropped == 6).await;

    data.taken.refusing.store(false, Ordering::Relaxed);
    eventually(PATIENCE, "what was held", async || data.events().len() == 4).await;
    // Now it is known what functions want: nothing.
    eventually(PATIENCE, "the count", async || {
        store.say(line("photos", "late", 20));
        rig.status().counts.unmatched > 0
    })
    .await;
    assert!(!data.keys().contains(&"late".to_owned()));
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_sign_of_life_says_that_all_before_it_is_here() {
    let store = StandIn::start(Manner::Streams).await;
    let data = Data::new();
    let mut settings = settings(&store);
    (settings["repair"], settings["bucket"]) = (json!({}), json!("photos"));
    let rig = Rig::connected(settings, &data).await;
    eventually(PATIENCE, "the bucket to be followed", async || data.watermark("photos") == Some(NOW)).await;

    // Longer than events may be late. More of them may lie in a buffer of the store's.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(5_500) {
        store.say(line("photos", "a", 7));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(data.watermark("photos"), Some(NOW));
    eventually(PATIENCE, "the watermark to move", async || {
        store.say("{\"Records\":null}\n");
        data.watermark("photos") > Some(NOW)
    })
    .await;
    rig.stopped().await;
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

/// Puts objects into another bucket as long as it lives, so that the real store passes on what lies in its buffer.
async fn traffic(minio: &std::sync::Arc<Minio>) -> AbortOnDropHandle<()> {
    let minio = minio.clone();
    minio.create_bucket("traffic").await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        for n in 0_u64.. {
            minio.put("traffic", &format!("{}", n % 16), "x").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }))
}

fn settings_of(minio: std::net::SocketAddr) -> Value {
    json!({
        "endpoint": format!("http://{minio}"), "access_key": USER, "secret_key": PASSWORD,
        "topics": ["photos", "later"], "repair": {"every": "1h"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_real_store_what_a_gap_swallowed_is_found_and_what_was_told_is_not_repeated() {
    let minio = std::sync::Arc::new(Minio::with(MinioConfig::default()).await);
    let relay = Relay::to(minio.address()).await;
    minio.create_bucket("photos").await;
    minio.put("photos", "before", "0").await;
    // Dates count in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let _traffic = traffic(&minio).await;
    let data = Data::new();
    let rig = Rig::connected(settings_of(relay.address()), &data).await;
    eventually(PATIENCE, "the bucket to be followed", async || data.watermark("photos").is_some()).await;

    // Keys come as they are, not encoded.
    minio.put("photos", "in/a%20b%2B%C3%BC%25.txt", "1").await;
    data.has(&["in/a b+ü%.txt"]).await;
    let event = &data.events()[0];
    assert_eq!(event.topic.as_str(), "photos:s3:ObjectCreated:Put/in/a b+ü%.txt");
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["Records"][0]["s3"]["object"]["key"], "in%2Fa+b%2B%C3%BC%25.txt");

    // A gap while it runs: told or found, each is told once.
    for round in 0..3 {
        relay.cut();
        minio.put("photos", &format!("cut-{round}"), "2").await;
        eventually(PATIENCE, "what was made in the gap", async || {
            let keys = data.keys();
            let is = |key: &String| key.trim_start_matches('+') == format!("cut-{round}");
            if keys.iter().any(is) { Ok(()) } else { Err(format!("{keys:?}")) }
        })
        .await;
    }

    // A bucket that was not there is followed once something is told of it.
    minio.create_bucket("later").await;
    minio.put("later", "one", "3").await;
    eventually(PATIENCE, "the new bucket to be followed", async || data.watermark("later").is_some()).await;

    // And a gap while the source does not run.
    rig.stopped().await;
    minio.put("later", "two", "3").await;
    minio.put("photos", "away", "3").await;
    let rig = Rig::connected(settings_of(relay.address()), &data).await;
    eventually(PATIENCE, "what was made meanwhile", async || {
        let keys = data.keys();
        keys.contains(&"+away".to_owned()) && keys.contains(&"+two".to_owned())
    })
    .await;
    minio.put("photos", "back", "4").await;
    eventually(PATIENCE, "the stream", async || data.keys().contains(&"back".to_owned())).await;
    rig.stopped().await;

    let mut keys = data.keys();
    keys.iter_mut().for_each(|key| *key = key.trim_start_matches('+').to_owned());
    keys.sort_unstable();
    assert_eq!(keys, ["away", "back", "cut-0", "cut-1", "cut-2", "in/a b+ü%.txt", "one", "two"]);
}
