//! How much is taken at once, what is held, and what RabbitMQ is spared.

use std::time::Duration;

use lapin::types::AMQPValue;
use serde_json::json;
use testkit::source::{Mode, PATIENCE};
use testkit::time::eventually;

use crate::client::{Client, Message, text};
use crate::rig::{TASKS, fresh, shared};
use crate::witness::Witness;

fn numbered(queue: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::to(queue, n.to_string())).collect()
}

#[tokio::test]
async fn what_is_refused_is_held_so_that_no_limit_of_deliveries_is_reached() {
    let server = shared().await;
    let client = Client::of(server.url());
    let (queue, dead) = (fresh("limited"), fresh("dead"));
    client.queue(&dead, "classic").await;
    client
        .queue_with(
            &queue,
            &[
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", AMQPValue::LongInt(1)),
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(&dead)),
            ],
        )
        .await;
    let witness = Witness::of(server.address()).await;
    let url = format!("amqp://guest:guest@{}", witness.address());
    let rig = TASKS.connected(json!({"url": url, "topics": [queue]})).await;
    rig.sink.mode(Mode::Refuse);
    client.publish(&numbered(&queue, 5)).await;

    // Each was refused more often than the queue allows deliveries.
    rig.is_offered(5 * 4).await;
    rig.sink.mode(Mode::Accept);
    rig.has(5).await;

    assert_eq!(witness.given_back(), 0);
    assert!(
        rig.sink.accepted().iter().all(|event| event.headers.get("x-rabbitmq-x-delivery-count").is_none())
    );
    rig.stopped().await;
    assert_eq!((client.look(&queue).await, client.look(&dead).await), (Some((0, 0)), Some((0, 0))));
    assert_eq!(witness.acknowledged(), 5);
}

#[tokio::test]
async fn a_refused_message_is_not_offered_in_a_hot_loop() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("refused");
    client.queue(&queue, "classic").await;
    let rig = TASKS.connected(json!({"url": server.url(), "topics": [queue]})).await;
    rig.sink.mode(Mode::Refuse);
    client.publish(&numbered(&queue, 1)).await;

    // A span of time, in which nothing is waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let offers = rig.sink.offered();

    assert!((2..20).contains(&offers), "{offers} offers in two seconds");
    rig.stopped().await;
    assert_eq!(client.look(&queue).await, Some((1, 0)), "it is back at the stop");
}

#[tokio::test]
async fn a_backlog_of_small_messages_is_asked_for_in_larger_portions() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("backlog");
    client.queue(&queue, "classic").await;
    client.publish(&numbered(&queue, 3_000)).await;

    let rig = TASKS.start(json!({"url": server.url(), "topics": [queue], "in_flight": {"messages": 500}}));
    rig.sink.mode(Mode::Hang);
    rig.holds(500).await;

    // At first 64, then the window's 500 beside them.
    eventually(PATIENCE, "the larger portion", async || {
        let ready = client.look(&queue).await.unwrap().0;
        if ready == 3_000 - 64 - 500 { Ok(()) } else { Err(format!("{ready} are ready")) }
    })
    .await;
    rig.sink.mode(Mode::Accept);
    rig.has(3_000).await;
    assert!(rig.sink.each_came_once(), "none came twice for it");
    rig.stopped().await;
}

#[tokio::test]
async fn a_message_that_is_refused_for_ever_becomes_a_dead_letter_and_is_acknowledged() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("large");
    client.queue(&queue, "quorum").await;
    let rig = TASKS.connected(json!({"url": server.url(), "topics": [queue]})).await;
    rig.sink.limit(1_000);
    client.publish(&[Message::to(&queue, vec![7; 2_000]), Message::to(&queue, "small")]).await;
    rig.has(1).await;
    rig.sees("the dead letter", |seen| seen.quarantined.len() == 1).await;

    let kept = rig.sink.quarantined()[0].clone();
    assert_eq!((kept.raw.len(), kept.topic.unwrap().to_string()), (2_000, queue.clone()));
    assert_eq!(kept.headers.text("x-rabbitmq-routing-key"), Some(queue.as_str()));
    rig.stopped().await;
    assert_eq!(client.look(&queue).await, Some((0, 0)));
}

#[tokio::test]
async fn depth_and_progress_are_told_under_the_names_of_openfaas() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("metered");
    client.queue(&queue, "classic").await;
    client.publish(&numbered(&queue, 20)).await;
    let rig = TASKS.start(json!({"url": server.url(), "topics": [queue], "in_flight": {"messages": 5}}));
    rig.sink.mode(Mode::Hang);
    rig.holds(5).await;
    let depth = ("rabbitmq_connector_queue_depth", queue.clone());
    assert_eq!((rig.metrics()[&depth], rig.status().lag), (20, Some(20)), "as it was found");

    // Looked at again by and by.
    eventually(PATIENCE, "the depth", async || rig.metrics()[&depth] == 15).await;
    assert_eq!(rig.status().lag, Some(15));
    rig.sink.mode(Mode::Accept);
    rig.has(20).await;

    let processed = ("rabbitmq_connector_messages_processed_total", queue.clone());
    eventually(PATIENCE, "the count", async || rig.metrics()[&processed] == 20).await;
    rig.stopped().await;
}

#[tokio::test]
async fn what_was_sent_and_not_begun_goes_back_at_a_stop() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("stopped");
    client.queue(&queue, "quorum").await;
    client.publish(&numbered(&queue, 50)).await;
    let rig = TASKS
        .start(json!({"url": server.url(), "topics": [queue], "in_flight": {"messages": 50, "bytes": "3B"}}));
    rig.sink.mode(Mode::Hang);
    rig.is_offered(1).await;
    let began = rig.sink.offered();
    rig.cut_off().await;

    assert!(began < 50);
    eventually(PATIENCE, "all of them", async || client.look(&queue).await == Some((50, 0))).await;
}

/// RabbitMQ tells only publishers, and we are none: so it is said in its place.
#[tokio::test]
async fn a_server_that_says_that_it_is_short_of_memory_is_shown() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("blocked");
    client.queue(&queue, "classic").await;
    let witness = Witness::of(server.address()).await;
    let url = format!("amqp://guest:guest@{}", witness.address());
    let rig = TASKS.connected(json!({"url": url, "topics": [queue]})).await;

    witness.say(b"\x00\x0a\x00\x3c\x0dlow on memory");
    rig.complains("low on memory").await;
    witness.say(b"\x00\x0a\x00\x3d");
    client.publish(&numbered(&queue, 1)).await;
    rig.has(1).await;

    assert_eq!(rig.status().disconnected.len(), 1);
    rig.stopped().await;
    assert_eq!(witness.acknowledged(), 1);
}
