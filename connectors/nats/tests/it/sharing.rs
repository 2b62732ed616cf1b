//! Who gets which message: overlapping subscriptions, replicas, a connector of OpenFaaS beside us, exact topics.

use std::collections::BTreeSet;

use connectors_sdk::{Demand, Topic, TopicPattern};
use futures::StreamExt;
use serde_json::json;
use testkit::servers::NatsServer;
use testkit::source::PATIENCE;
use testkit::time::eventually;

use crate::rig::{BUS, publisher};

const GROUP: &str = "openfaas_nats_worker_group";
const CLIENT: &str = "openfaas_connector";

#[tokio::test]
async fn a_subject_met_by_several_subscriptions_on_two_replicas_comes_once() {
    let server = NatsServer::start().await;
    let publisher = publisher(server.url()).await;
    let one = BUS
        .connected(json!({"url": server.url(), "topics": ["*.created", "orders.>", "orders.created"]}))
        .await;
    let two = BUS.connected(json!({"url": server.url(), "topics": ["orders.created", "orders.*"]})).await;
    server
        .subscribed(CLIENT, &["*.created", "orders.*", "orders.>", "orders.created", "orders.created"])
        .await;

    for n in 0..1_000 {
        publisher.publish("orders.created", n.to_string().into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    eventually(PATIENCE, "every message", async || {
        let taken = one.sink.bodies().len() + two.sink.bodies().len();
        if taken >= 1_000 { Ok(()) } else { Err(format!("{taken} came")) }
    })
    .await;
    let (one, two) = (one.stopped().await, two.stopped().await);

    let mut all = one.bodies();
    all.extend(two.bodies());
    assert_eq!(all.len(), 1_000, "none twice");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1_000, "each one");
    assert!(!one.bodies().is_empty() && !two.bodies().is_empty(), "replicas share the work");
}

#[tokio::test]
async fn a_connector_of_openfaas_beside_us_shares_the_messages() {
    let server = NatsServer::start().await;
    let publisher = publisher(server.url()).await;
    let old = async_nats::ConnectOptions::new().name(CLIENT).connect(server.url()).await.unwrap();
    let mut of_old = old.queue_subscribe("orders.>", GROUP.to_owned()).await.unwrap();
    let ours = BUS.connected(json!({"url": server.url(), "topics": ["orders.created"]})).await;
    server.subscribed(CLIENT, &["orders.>", "orders.created"]).await;
    let groups: Vec<String> = server.subscriptions().await.into_iter().map(|s| s.group).collect();
    assert_eq!(groups, [GROUP, GROUP]);

    for n in 0..200 {
        publisher.publish("orders.created", n.to_string().into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let mut theirs = 0;
    while theirs + ours.sink.bodies().len() < 200 {
        tokio::select! {
            Some(_) = of_old.next() => theirs += 1,
            () = tokio::task::yield_now() => {}
        }
    }

    assert!(theirs > 0 && theirs < 200, "{theirs} went to the old one");
    assert_eq!(ours.stopped().await.bodies().len(), 200 - theirs);
}

#[tokio::test]
async fn an_exact_topic_with_a_wildcard_in_it_is_not_sent_as_one() {
    let server = NatsServer::start().await;
    let publisher = publisher(server.url()).await;
    let rig = BUS.connected(json!({"url": server.url()})).await;
    let exact = |text: &str| TopicPattern::exact(&Topic::parse(text).unwrap());
    let patterns =
        [exact("orders.*"), exact("not a subject"), exact("a"), TopicPattern::parse("b.*").unwrap()];
    rig.demand.send_replace(Demand { patterns: patterns.map(|pattern| (pattern, BTreeSet::new())).into() });
    server.subscribed(CLIENT, &["a", "b.*"]).await;
    assert_eq!(rig.status().subscriptions, ["a", "b.*"]);

    for subject in ["orders.created", "a", "b.x", "b.x.y"] {
        publisher.publish(subject, "x".into()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    rig.has(2).await;

    let taken = rig.stopped().await.accepted();
    assert_eq!(taken.iter().map(|event| event.topic.as_str()).collect::<BTreeSet<_>>(), ["a", "b.x"].into());
    assert_eq!(taken.len(), 2);
}

#[tokio::test]
async fn the_name_and_the_group_are_settings() {
    let server = NatsServer::start().await;
    let settings =
        json!({"url": server.url(), "topics": ["a"], "queue_group": "mine", "client_name": "evoke-1"});
    let rig = BUS.connected(settings).await;
    server.subscribed("evoke-1", &["a"]).await;

    assert_eq!(server.subscriptions().await[0].group, "mine");
    rig.stopped().await;
    server.subscribed("evoke-1", &[]).await;
}

#[tokio::test]
async fn a_message_without_a_type_gets_the_configured_one() {
    let server = NatsServer::start().await;
    let publisher = publisher(server.url()).await;
    let settings = json!({"url": server.url(), "topics": ["a"], "content_type": "application/json"});
    let rig = BUS.connected(settings).await;
    server.subscribed(CLIENT, &["a"]).await;
    publisher.publish_with_reply("a", "an.inbox", "{}".into()).await.unwrap();
    publisher.flush().await.unwrap();
    rig.has(1).await;

    let event = &rig.stopped().await.accepted()[0];
    assert_eq!(event.headers.text("content-type"), Some("application/json"));
    assert_eq!(event.headers.len(), 1);
}
