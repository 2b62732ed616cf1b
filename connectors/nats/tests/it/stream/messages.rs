//! What becomes of messages.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{Context, stream};
use bytes::Bytes;
use serde_json::json;
use testkit::servers::NatsRelease;
use testkit::source::{Mode, PATIENCE};
use testkit::time::eventually;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::rig::{BOTH, CONSUMER, consumer, publish, server_with_stream, settings};
use crate::rig::BUS;

#[tokio::test]
async fn a_message_says_where_it_stands_and_keeps_its_headers() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Nats-Msg-Id", "42"),
            ("Secret", "hidden"),
            ("Content-Type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "an-id"),
            ("ce-source", "/shop"),
            ("ce-type", "order.created"),
        ] {
            headers.insert(name, value);
        }
        let published = context.publish_with_headers("orders.created", headers, "{}".into()).await.unwrap();
        assert_eq!(published.await.unwrap().sequence, 1);
        publish(&context, "orders.created", "plain").await;
        let rig = BUS.connected(settings(&server, json!({"headers": {"deny": ["Secret"]}}))).await;
        rig.has_just(&["{}", "plain"]).await;

        let taken = rig.stopped().await.accepted();
        let event = taken.iter().find(|event| event.body == "{}").unwrap();
        let text = |name| event.headers.text(name);
        assert_eq!(event.topic.as_str(), "orders.created");
        assert_eq!((text("x-nats-stream"), text("x-nats-sequence")), (Some("ORDERS"), Some("1")));
        assert_eq!((text("x-nats-nats-msg-id"), text("x-nats-secret")), (Some("42"), None));
        assert_eq!((text("content-type"), text("ce-id")), (Some("application/json"), Some("an-id")));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_millis() as u64 - event.time.unwrap().as_millis();
        assert!(age < 120_000, "the stream took it {age} ms ago");

        let plain = taken.iter().find(|event| event.body == "plain").unwrap();
        let id = plain.cloud_event.as_ref().unwrap().id.clone().unwrap();
        assert!(id.starts_with("ORDERS:2@"), "{id}");
        assert_ne!(plain.dedup.as_ref().unwrap().key, event.dedup.as_ref().unwrap().key);
    }
}

#[tokio::test]
async fn what_is_held_for_long_is_in_progress_and_not_given_again() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let rig = BUS.connected(settings(&server, json!({"jetstream": {"ack_wait": "1s"}}))).await;
        rig.sink.mode(Mode::Hang);
        publish(&context, "orders.a", "1").await;
        consumer(&context, CONSUMER).is("waited for", |info| info.num_ack_pending == 1).await;

        tokio::time::sleep(Duration::from_millis(2200)).await;
        let info = consumer(&context, CONSUMER).info().await.unwrap();
        assert_eq!((info.num_ack_pending, info.delivered.consumer_sequence), (1, 1), "given once");

        rig.sink.mode(Mode::Accept);
        rig.has_just(&["1"]).await;
        rig.stopped().await;
        assert_eq!(consumer(&context, CONSUMER).acknowledged().await, 1);
    }
}

#[tokio::test]
async fn a_message_the_broker_refuses_for_ever_is_a_dead_letter_and_settled() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let rig = BUS.connected(settings(&server, json!({}))).await;
    rig.sink.limit(10);
    publish(&context, "orders.a", "more than ten bytes").await;
    publish(&context, "orders.a", "small").await;
    rig.has_just(&["small"]).await;
    rig.sees("the dead letter", |seen| seen.quarantined.len() == 1).await;

    let kept = rig.sink.quarantined().remove(0);
    assert_eq!((&kept.raw[..], kept.topic.unwrap().as_str()), (&b"more than ten bytes"[..], "orders.a"));
    assert!(kept.why.contains("10"), "{}", kept.why);
    rig.stopped().await;
    assert_eq!(consumer(&context, CONSUMER).acknowledged().await, 2);
}

#[tokio::test]
async fn a_message_larger_than_the_window_comes_alone() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let window = json!({"in_flight": {"messages": 8, "bytes": "4KiB"}});
        let rig = BUS.connected(settings(&server, window)).await;
        for size in [100, 50_000, 100, 60_000, 70_000, 100] {
            let body = Bytes::from(vec![b'x'; size]);
            context.publish("orders.a", body).await.unwrap().await.unwrap();
        }

        rig.has(6).await;
        rig.stopped().await;
    }
}

#[tokio::test]
async fn a_stop_gives_back_at_once_what_was_not_begun() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        for n in 0..1_500 {
            context.publish("orders.a", n.to_string().into()).await.unwrap();
        }
        stream_has(&context, 1_500).await;
        // An hour: whatever comes before was given back.
        let more = json!({"jetstream": {"ack_wait": "1h"}});
        let rig = BUS.start(settings(&server, more.clone()));
        // In the middle of it: much is on its way to us.
        while rig.sink.bodies().is_empty() {
            tokio::task::yield_now().await;
        }
        let first = rig.stopped().await.bodies().len();
        assert!(first < 1_500, "it was told to stop in the middle");

        let other = BUS.connected(settings(&server, more)).await;
        other.has(1_500 - first).await;
        assert_eq!(first + other.stopped().await.bodies().len(), 1_500, "none twice");
    }
}

/// Waits until the stream has so many messages.
async fn stream_has(context: &Context, messages: u64) {
    eventually(PATIENCE, "the stream to have them", async || {
        context.get_stream("ORDERS").await.unwrap().cached_info().state.messages == messages
    })
    .await;
}

#[tokio::test]
async fn what_one_replica_refuses_another_takes() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let sick = BUS.connected(settings(&server, json!({}))).await;
    sick.sink.mode(Mode::Refuse);
    consumer(&context, CONSUMER).is("waited for", |info| info.num_waiting == 1).await;
    for n in 0..3 {
        publish(&context, "orders.a", &n.to_string()).await;
    }
    sick.shows("refusals", |status| status.counts.refused > 0).await;

    let well = BUS.connected(settings(&server, json!({}))).await;
    well.has(3).await;
    sick.stopped().await;
    well.stopped().await;
}

#[tokio::test]
async fn a_broker_that_takes_nothing_does_not_turn_the_stream_over() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    for n in 0..2_000 {
        context.publish("orders.a", n.to_string().into()).await.unwrap();
    }
    stream_has(&context, 2_000).await;
    let rig = BUS.start(settings(&server, json!({"in_flight": {"messages": 16}})));
    rig.sink.mode(Mode::Refuse);
    let began = Instant::now();
    rig.shows("refusals", |status| status.counts.refused > 0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    // Waits grow from 100 ms to 5 s, and at most a window comes between two of them.
    let offered = rig.status().counts.received;
    let seconds = began.elapsed().as_secs() + 1;
    assert!(offered <= 16 * 8 * seconds, "{offered} offers in {seconds} s");
    rig.stopped().await;
}

#[tokio::test]
async fn a_replica_that_died_leaves_its_messages_to_the_others() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let more = json!({"jetstream": {"ack_wait": "1s"}});
    let dying = BUS.connected(settings(&server, more.clone())).await;
    dying.sink.mode(Mode::Hang);
    consumer(&context, CONSUMER).is("waited for", |info| info.num_waiting == 1).await;
    publish(&context, "orders.a", "1").await;
    consumer(&context, CONSUMER).is("with it", |info| info.num_ack_pending == 1).await;
    dying.cut_off().await;

    let other = BUS.connected(settings(&server, more)).await;
    other.has_just(&["1"]).await;
    other.stopped().await;
}

#[tokio::test]
async fn a_mirror_has_the_subjects_of_its_origin() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let mirror = stream::Config {
            name: "COPY".to_owned(),
            mirror: Some(stream::Source { name: "ORDERS".to_owned(), ..stream::Source::default() }),
            ..stream::Config::default()
        };
        context.create_stream(mirror).await.unwrap();
        publish(&context, "orders.a", "1").await;
        let more = json!({"topics": ["orders.a", "elsewhere"], "jetstream": {"stream": "COPY"}});
        let rig = BUS.connected(settings(&server, more)).await;

        rig.has_just(&["1"]).await;
        assert_eq!(rig.stopped().await.accepted()[0].headers.text("x-nats-stream"), Some("COPY"));
    }
}

#[tokio::test]
async fn a_message_the_client_cannot_read_holds_up_no_other() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    publish(&context, "orders.a", "1").await;
    // No client publishes such a header, but the protocol can.
    let mut raw = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let headers = b"NATS/1.0\r\nOdd: \xff\xfe\r\n\r\n";
    let mut said = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    said.extend(format!("HPUB orders.a {} {}\r\n", headers.len(), headers.len() + 1).bytes());
    said.extend([&headers[..], b"x\r\nPING\r\n"].concat());
    raw.write_all(&said).await.unwrap();
    stream_has(&context, 2).await;
    publish(&context, "orders.a", "2").await;

    let rig = BUS.connected(settings(&server, json!({"jetstream": {"ack_wait": "1s"}}))).await;
    rig.has_just(&["1", "2"]).await;
    publish(&context, "orders.a", "3").await;
    rig.has_just(&["1", "2", "3"]).await;
    let (_, what) = rig.status().last_error.unwrap();
    println!("the source says: {what}");
    rig.stopped().await;
}
