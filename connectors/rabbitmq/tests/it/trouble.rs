//! A server in trouble. One for all of these, which take turns.

use connectors_sdk::{SourceError, SourceState, describe};
use lapin::types::AMQPValue;
use serde_json::json;
use testkit::servers::RabbitMq;
use testkit::source::{Mode, PATIENCE};
use testkit::time::eventually;

use crate::client::{Client, Message};
use crate::rig::{TASKS, fresh};

fn numbered(queue: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::to(queue, n.to_string())).collect()
}

/// One story, because each of its parts changes the server for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_timeouts_operators_and_silence() {
    let mut server = RabbitMq::start().await;
    a_server_short_of_memory_is_drained_all_the_same(&server).await;
    a_message_held_longer_than_the_server_allows_comes_again_and_once(&server).await;
    a_connection_that_an_operator_ends_is_lost_with_his_word(&server).await;
    a_silent_server_is_given_up(&mut server).await;
}

/// The alarm stops publishers. Who only takes messages is what helps.
async fn a_server_short_of_memory_is_drained_all_the_same(server: &RabbitMq) {
    let client = Client::of(server.url());
    let queue = fresh("alarm");
    client.queue(&queue, "quorum").await;
    client.publish(&numbered(&queue, 500)).await;
    let rig =
        TASKS.connected(json!({"url": server.url(), "topics": [queue], "in_flight": {"messages": 10}})).await;
    rig.sink.mode(Mode::Hang);
    rig.holds(10).await;

    server.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
    rig.sink.mode(Mode::Accept);
    rig.has(500).await;
    eventually(PATIENCE, "the last acknowledgement", async || client.look(&queue).await == Some((0, 1)))
        .await;

    assert_eq!(rig.status().state, SourceState::Connected);
    assert_eq!(rig.complaint(), "", "only publishers are told");
    server.ctl(&["set_vm_memory_high_watermark", "absolute", "512MB"]).await;
    let sink = rig.stopped().await;
    assert!(sink.accepted().len() == 500 && sink.each_came_once());
}

/// `consumer_timeout`, 30 minutes by default: the server closes the channel and has the message again.
async fn a_message_held_longer_than_the_server_allows_comes_again_and_once(server: &RabbitMq) {
    let client = Client::of(server.url());
    let (slow, other) = (fresh("slow"), fresh("other"));
    client.queue_with(&slow, &[("x-queue-type", AMQPValue::LongString("quorum".into()))]).await;
    client.queue(&other, "classic").await;
    let set = |timeout: u32, tick: u32| {
        format!(
            "application:set_env(rabbit, consumer_timeout, {timeout}), application:set_env(rabbit, channel_tick_interval, {tick})."
        )
    };
    server.ctl(&["eval", &set(1_000, 500)]).await;
    let rig = TASKS.connected(json!({"url": server.url(), "topics": [slow, other]})).await;
    rig.sink.mode(Mode::Hang);
    client.publish(&numbered(&slow, 3)).await;
    rig.holds(3).await;

    rig.complains("timed out").await;
    server.ctl(&["eval", &set(1_800_000, 60_000)]).await;
    rig.sink.mode(Mode::Accept);
    client.publish(&[Message::to(&other, "other")]).await;
    rig.has(4).await;
    eventually(PATIENCE, "acknowledgements", async || client.look(&slow).await == Some((0, 1))).await;

    // What was in flight when the channel was closed was let go, not taken beside its redelivery.
    assert!(rig.sink.each_came_once(), "{:?}", rig.sink);
    assert_eq!(rig.status().disconnected.len(), 1, "the connection and the other queue were left alone");
    rig.stopped().await;
}

async fn a_silent_server_is_given_up(server: &mut RabbitMq) {
    let rig = TASKS.connected(json!({"url": server.url(), "heartbeat": "1s"})).await;
    server.pause();

    let error = rig.error().await;

    server.resume();
    assert!(matches!(error, SourceError::Lost { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("heartbeat"), "{}", describe(&error));
}

async fn a_connection_that_an_operator_ends_is_lost_with_his_word(server: &RabbitMq) {
    let rig = TASKS.connected(json!({"url": server.url()})).await;
    server.ctl(&["close_all_connections", "for maintenance"]).await;

    let error = rig.error().await;

    assert!(matches!(error, SourceError::Lost { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("for maintenance"), "{}", describe(&error));
}
