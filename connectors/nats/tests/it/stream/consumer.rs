//! The consumer: made, changed, found gone.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, FromConsumer as _, pull, push};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use connectors_sdk::{Retry, SourceError, SourceState, describe};
use serde_json::json;
use testkit::servers::{NatsRelease, NatsServer};
use testkit::source::{Mode, PATIENCE};
use testkit::time::eventually;

use super::rig::{
    BOTH, CONSUMER, STREAM, consumer, publish, server, server_with_stream, settings, stream_of,
};
use crate::rig::{BUS, publisher};

fn topics(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_missing_stream_is_reported_with_the_remedy_and_never_made() {
    for release in BOTH {
        let server = server(release).await;
        let context = async_nats::jetstream::new(publisher(server.url()).await);

        let error = BUS.start(settings(&server, json!({}))).error().await;

        assert!(
            matches!(&error, SourceError::Unusable { key, .. } if key == "jetstream.stream"),
            "{error:?}"
        );
        assert!(describe(&error).to_string().contains("nats stream add ORDERS"), "{}", describe(&error));
        assert_eq!(error.retry(), Retry::Soon, "it is looked for again");
        assert!(context.get_stream(STREAM).await.is_err(), "it is not ours to make");

        stream_of(&context, stream::Config::default()).await;
        publish(&context, "orders.created", "1").await;
        let rig = BUS.connected(settings(&server, json!({}))).await;
        rig.has_just(&["1"]).await;
        rig.stopped().await;
    }
}

#[tokio::test]
async fn a_server_that_keeps_no_streams_is_named_as_such() {
    let server = NatsServer::start().await;

    let error = BUS.start(settings(&server, json!({}))).error().await;

    assert!(describe(&error).to_string().contains("JetStream"), "{}", describe(&error));
    assert_eq!(error.retry(), Retry::Soon);
}

#[tokio::test]
async fn the_consumer_changes_with_what_functions_ask_for_and_keeps_its_place() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let rig = BUS.connected(settings(&server, json!({"topics": "from-functions"}))).await;
        assert!(consumer(&context, CONSUMER).info().await.is_none(), "nobody asks for anything");

        rig.functions_want(&["orders.a"]);
        consumer(&context, CONSUMER).hands_out(&topics(&["orders.a"])).await;
        publish(&context, "orders.b", "b before").await;
        publish(&context, "orders.a", "a before").await;
        rig.has_just(&["a before"]).await;
        let first = consumer(&context, CONSUMER).info().await.unwrap();

        rig.functions_want(&["orders.a", "orders.b"]);
        consumer(&context, CONSUMER).hands_out(&topics(&["orders.a", "orders.b"])).await;
        publish(&context, "orders.b", "b").await;
        publish(&context, "orders.c", "nobody's").await;
        publish(&context, "orders.a", "a").await;
        rig.has_just(&["a before", "b", "a"]).await;

        let second = consumer(&context, CONSUMER).info().await.unwrap();
        assert_eq!(first.created, second.created, "it is the same");
        assert_eq!(rig.status().subscriptions, ["orders.a", "orders.b"]);
        rig.stopped().await;
        assert_eq!(
            consumer(&context, CONSUMER).acknowledged().await,
            5,
            "what is passed over is settled too"
        );
    }
}

#[tokio::test]
async fn what_is_published_while_no_function_asks_comes_when_one_does() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let rig = BUS.connected(settings(&server, json!({"topics": "from-functions"}))).await;
    rig.functions_want(&["orders.a"]);
    consumer(&context, CONSUMER).hands_out(&topics(&["orders.a"])).await;
    publish(&context, "orders.a", "1").await;
    rig.has_just(&["1"]).await;

    rig.functions_want(&[]);
    consumer(&context, CONSUMER).hands_out(&[]).await;
    publish(&context, "orders.a", "2").await;
    assert_eq!(rig.sink.bodies(), ["1"]);

    rig.functions_want(&["orders.a"]);
    rig.has_just(&["1", "2"]).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_message_that_several_subjects_of_two_replicas_mean_comes_once() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let subjects = json!({"topics": ["*.created", "orders.>", "orders.created", "orders.*"]});
        let one = BUS.connected(settings(&server, subjects.clone())).await;
        let two = BUS.connected(settings(&server, subjects)).await;
        consumer(&context, CONSUMER).is("waited for twice", |info| info.num_waiting == 2).await;

        for n in 0..300 {
            publish(&context, "orders.created", &n.to_string()).await;
        }
        eventually(PATIENCE, "every message", async || {
            one.sink.bodies().len() + two.sink.bodies().len() >= 300
        })
        .await;
        let (one, two) = (one.stopped().await, two.stopped().await);

        let mut all = one.bodies();
        all.extend(two.bodies());
        assert_eq!(all.len(), 300, "none twice");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 300, "each one");
        assert!(!one.bodies().is_empty() && !two.bodies().is_empty(), "replicas share the work");
    }
}

#[tokio::test]
async fn a_consumer_that_was_deleted_is_made_again_where_it_was() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        publish(&context, "orders.a", "before the start").await;
        let rig = BUS.connected(settings(&server, json!({"jetstream": {"start": "new"}}))).await;
        consumer(&context, CONSUMER).hands_out(&topics(&["orders.>"])).await;
        publish(&context, "orders.a", "1").await;
        rig.has_just(&["1"]).await;
        // The source has looked since.
        rig.shows("a look", |status| status.lag == Some(0)).await;

        rig.sink.mode(Mode::Hang);
        publish(&context, "orders.a", "2").await;
        consumer(&context, CONSUMER).is("waited for", |info| info.num_ack_pending == 1).await;
        consumer(&context, CONSUMER).delete().await;
        publish(&context, "orders.a", "3").await;
        rig.sink.mode(Mode::Accept);

        rig.has_just(&["1", "2", "3"]).await;
        consumer(&context, CONSUMER)
            .is("settled", |info| info.num_pending + info.num_ack_pending as u64 == 0)
            .await;
        assert_eq!(rig.stopped().await.bodies().len(), 3);
    }
}

#[tokio::test]
async fn a_stream_that_was_made_anew_is_another_one() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    publish(&context, "orders.a", "first life").await;
    let rig = BUS.connected(settings(&server, json!({}))).await;
    rig.has_just(&["first life"]).await;
    let sink = rig.sink.clone();

    context.delete_stream(STREAM).await.unwrap();
    let error = rig.error().await;
    assert!(matches!(&error, SourceError::Unusable { key, .. } if key == "jetstream.stream"), "{error:?}");

    stream_of(&context, stream::Config::default()).await;
    assert_eq!(publish(&context, "orders.a", "second life").await, 1, "the same sequence");
    let rig = BUS.start_before(sink, settings(&server, json!({})));
    rig.has_just(&["first life", "second life"]).await;
    rig.stopped().await;
}

#[tokio::test]
async fn whoever_deletes_the_consumer_of_a_source_that_is_held_has_all_of_it_again() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    publish(&context, "orders.a", "1").await;
    let rig = BUS.connected(settings(&server, json!({}))).await;
    rig.has_just(&["1"]).await;
    let sink = rig.sink.clone();
    rig.stopped().await;

    consumer(&context, CONSUMER).delete().await;
    let rig = BUS.start_before(sink, settings(&server, json!({})));
    // Not taken for a repeat, in one data directory.
    rig.has_just(&["1", "1"]).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_consumer_begins_where_the_settings_say() {
    for release in BOTH {
        let (server, context) = server_with_stream(release).await;
        let mut moments = Vec::new();
        for n in 1..=3 {
            moments.push(jiff::Timestamp::now().to_string());
            publish(&context, "orders.a", &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (start, expected) in [
            (json!("all"), &["1", "2", "3"] as &[&str]),
            (json!(2), &["2", "3"]),
            (json!(moments[2]), &["3"]),
            (json!("new"), &["4"]),
        ] {
            let name = format!("from-{}", expected[0]);
            let more = json!({"jetstream": {"consumer": name, "start": start}});
            let rig = BUS.connected(settings(&server, more)).await;
            consumer(&context, &name).is("waited for", |info| info.num_waiting > 0).await;
            if start == "new" {
                publish(&context, "orders.a", "4").await;
            }
            rig.has_just(expected).await;
            rig.stopped().await;

            // Later it goes on where it was, whatever the settings say.
            let rig = BUS.connected(settings(&server, json!({"jetstream": {"consumer": name}}))).await;
            consumer(&context, &name).is("waited for", |info| info.num_waiting > 0).await;
            rig.has_just(&[]).await;
            rig.stopped().await;
        }
    }
}

#[tokio::test]
async fn a_consumer_of_somebody_else_is_left_alone() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let stream = context.get_stream(STREAM).await.unwrap();
    let push = push::Config {
        durable_name: Some("pushes".into()),
        deliver_subject: "somewhere".into(),
        ..push::Config::default()
    };
    stream.create_consumer(push).await.unwrap();
    let careless = pull::Config {
        durable_name: Some("careless".into()),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    stream.create_consumer(careless).await.unwrap();

    for name in ["pushes", "careless"] {
        let error = BUS.start(settings(&server, json!({"jetstream": {"consumer": name}}))).error().await;
        assert!(
            matches!(&error, SourceError::Unusable { key, .. } if key == "jetstream.consumer"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_consumer_that_would_give_messages_up_is_set_right() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let rig = BUS.connected(settings(&server, json!({}))).await;
    let info = consumer(&context, CONSUMER).is("there", |_| true).await;
    assert_eq!((info.config.max_deliver, info.config.ack_wait), (-1, Duration::from_secs(3)));
    assert_eq!(info.config.max_ack_pending, 8192);

    let stream = context.get_stream(STREAM).await.unwrap();
    let mut limited = pull::Config::try_from_consumer_config(info.config).unwrap();
    limited.max_deliver = 2;
    stream.update_consumer(limited).await.unwrap();

    consumer(&context, CONSUMER).is("set right", |info| info.config.max_deliver == -1).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_work_queue_gives_several_subjects_where_the_server_can() {
    let queue = stream::Config { retention: RetentionPolicy::WorkQueue, ..stream::Config::default() };
    for release in BOTH {
        let server = server(release).await;
        let context = async_nats::jetstream::new(publisher(server.url()).await);
        stream_of(&context, queue.clone()).await;
        let two = json!({"topics": ["orders.a", "orders.b"]});
        if release == NatsRelease::Oldest {
            let error = BUS.start(settings(&server, two)).error().await;
            assert!(describe(&error).to_string().contains("update the server"), "{}", describe(&error));
            continue;
        }
        let rig = BUS.connected(settings(&server, two)).await;
        for subject in ["orders.a", "orders.b", "orders.c"] {
            publish(&context, subject, subject).await;
        }
        rig.has_just(&["orders.a", "orders.b"]).await;
        rig.stopped().await;
        let left = context.get_stream(STREAM).await.unwrap().cached_info().state.messages;
        assert_eq!(left, 1, "what was taken is gone, what nobody asked for is not");
    }
}

#[tokio::test]
async fn a_paused_source_leaves_the_stream_alone_and_its_lag_is_shown() {
    let (server, context) = server_with_stream(NatsRelease::Current).await;
    let window = json!({"in_flight": {"messages": 2}});
    let rig = BUS.connected(settings(&server, window)).await;
    rig.sink.mode(Mode::Hang);
    for n in 0..10 {
        publish(&context, "orders.a", &n.to_string()).await;
    }

    rig.shows("the lag", |status| status.lag == Some(10)).await;
    assert_eq!(rig.status().state, SourceState::Connected);
    rig.sink.mode(Mode::Accept);
    rig.shows("no lag", |status| status.lag == Some(0)).await;
    assert_eq!(rig.stopped().await.bodies().len(), 10);
}
