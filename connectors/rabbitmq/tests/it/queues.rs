//! Queues that are there, that are not, that are ours to make, and that go.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use testkit::source::{Mode, PATIENCE, with};
use testkit::time::eventually;

use crate::client::{Client, Message};
use crate::rig::{READER, TASKS, fresh, shared};

async fn settings(more: Value) -> (Client, Value) {
    let url = shared().await.url();
    let settings = with(json!({"url": url}), more);
    (Client::of(url), settings)
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_said_and_stops_no_other() {
    let (there, missing) = (fresh("there"), fresh("missing"));
    let (client, settings) = settings(json!({"topics": [there, missing]})).await;
    client.queue(&there, "classic").await;

    let rig = TASKS.connected(settings).await;
    rig.complains(&format!("{missing}: NOT_FOUND")).await;
    assert_eq!(rig.status().subscriptions, [there.as_str()]);
    client.publish(&[Message::to(&there, "1")]).await;
    rig.has(1).await;

    // It is found once somebody makes it, and nothing was made by us.
    assert_eq!(client.look(&missing).await, None);
    client.queue(&missing, "quorum").await;
    client.publish(&[Message::to(&missing, "2"), Message::to(&there, "3")]).await;
    rig.has(3).await;
    let mut both = rig.status().subscriptions;
    both.sort();
    assert_eq!(both, [missing, there]);
    rig.stopped().await;
}

#[tokio::test]
async fn what_may_only_be_read_is_enough() {
    let queue = fresh("read-only");
    let (client, mut settings) = settings(json!({"topics": [queue]})).await;
    settings["url"] = json!(format!("amqp://{READER}:r%3A%2F%40@{}", shared().await.address()));
    client.queue(&queue, "quorum").await;
    client.publish(&[Message::to(&queue, "x")]).await;

    let rig = TASKS.connected(settings).await;
    rig.has(1).await;

    rig.stopped().await;
    assert_eq!(client.look(&queue).await, Some((0, 0)), "acknowledged");
}

#[tokio::test]
async fn declared_queues_are_made_and_bound_by_pattern() {
    let (shop, news) = (fresh("shop"), fresh("news"));
    let (orders, late, plain) = (fresh("orders"), fresh("late"), fresh("plain"));
    let (client, settings) = settings(json!({
        "declare": true,
        "topics": [orders, plain],
        "queues": [
            {
                "name": orders,
                "type": "quorum",
                "bindings": {shop.as_str(): ["order.*.paid", "refund.#"], news.as_str(): ""},
            },
            // Made, and left to others.
            {"name": late, "type": "classic", "arguments": {"x-max-length": 5}},
        ],
    }))
    .await;
    let channel = client.channel().await;
    for (name, kind) in [(&shop, ExchangeKind::Topic), (&news, ExchangeKind::Fanout)] {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default()).await.unwrap();
    }

    let rig = TASKS.connected(settings).await;
    let via = |exchange: &str, key: &str| Message {
        exchange: exchange.to_owned(),
        ..Message::to(key, format!("{key} of {exchange}"))
    };
    client
        .publish(&[via(&shop, "order.eu.paid"), via(&shop, "refund.a.b"), via(&news, ""), via("", &plain)])
        .await;
    rig.has(4).await;
    client.publish(&[via("", &late)]).await;

    let topics: Vec<(String, bool)> = rig
        .stopped()
        .await
        .accepted()
        .iter()
        .map(|event| (event.topic.to_string(), event.headers.get("x-rabbitmq-exchange").is_some()))
        .collect();
    assert_eq!(topics.iter().filter(|(topic, exchange)| *topic == orders && *exchange).count(), 3);
    assert!(topics.contains(&(plain, false)));
    assert_eq!(client.look(&late).await, Some((1, 0)), "it is there, and nobody takes from it");
    // As it was asked for, and not otherwise: an equal declaration passes.
    client.queue(&orders, "quorum").await;
}

#[tokio::test]
async fn a_queue_that_is_made_otherwise_is_said_and_stops_no_other() {
    let (classic, other) = (fresh("classic"), fresh("other"));
    let (client, settings) = settings(json!({
        "declare": true,
        "queues": [{"name": classic, "type": "quorum"}, {"name": other, "bindings": {"no-such-exchange": "#"}}],
    }))
    .await;
    client.queue(&classic, "classic").await;

    let rig = TASKS.connected(settings).await;
    rig.complains("PRECONDITION_FAILED").await;
    rig.complains(&format!("{other}: NOT_FOUND - no exchange 'no-such-exchange'")).await;

    // Each is found right once it is.
    client
        .channel()
        .await
        .queue_delete(classic.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    client.publish_when_taken(&[Message::to(&classic, "x")]).await;
    rig.has(1).await;
    rig.stopped().await;
}

#[tokio::test]
async fn queues_of_openfaas_connector_are_taken_over() {
    let queue = fresh("openfaas");
    let (client, settings) = settings(json!({
        "declare": true,
        "queues": [{"name": queue, "durable": true, "nowait": false, "autodelete": false, "exclusive": false}],
    }))
    .await;
    // As OpenFaaS' connector made it.
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    client
        .channel()
        .await
        .queue_declare(queue.as_str().into(), durable, FieldTable::default())
        .await
        .unwrap();
    client.publish(&[Message::to(&queue, "x")]).await;

    let rig = TASKS.connected(settings).await;
    rig.has(1).await;

    assert_eq!(rig.complaint(), "");
    rig.stopped().await;
}

#[tokio::test]
async fn what_only_functions_name_is_never_made() {
    let (listed, asked) = (fresh("listed"), fresh("asked"));
    let (client, settings) = settings(json!({
        "declare": true, "topics": "from-functions", "queues": [{"name": listed}],
    }))
    .await;
    let rig = TASKS.connected(settings).await;
    assert_eq!(client.look(&listed).await, Some((0, 0)), "it is there before any function wants it");

    rig.functions_want(&[&listed, &asked]);
    rig.complains(&format!("{asked}: NOT_FOUND")).await;
    eventually(PATIENCE, "its consumer", async || client.look(&listed).await == Some((0, 1))).await;
    assert_eq!(client.look(&asked).await, None);

    rig.functions_want(&[]);
    eventually(PATIENCE, "no consumer", async || client.look(&listed).await == Some((0, 0))).await;
    assert!(rig.status().subscriptions.is_empty());
    rig.functions_want(&[&listed]);
    client.publish(&[Message::to(&listed, "x")]).await;
    rig.has(1).await;
    rig.stopped().await;
}

#[tokio::test]
async fn wishes_that_change_before_they_are_answered_leave_no_consumer_behind() {
    let queue = fresh("restless");
    let (client, settings) =
        settings(json!({"declare": true, "topics": "from-functions", "queues": [{"name": queue}]})).await;
    let rig = TASKS.connected(settings).await;

    for pause in 0..8 {
        rig.functions_want(&[&queue]);
        // Another moment of what it begins each time; then long enough for whatever was begun to come to its end.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        rig.functions_want(&[]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        eventually(PATIENCE, "no consumer", async || client.look(&queue).await == Some((0, 0))).await;
    }

    assert!(rig.status().subscriptions.is_empty());
    rig.functions_want(&[&queue]);
    client.publish(&[Message::to(&queue, "x")]).await;
    rig.has(1).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_is_made_again_and_what_we_have_of_it_is_finished() {
    let queue = fresh("deleted");
    let (client, settings) = settings(json!({"declare": true, "topics": [queue]})).await;
    let rig = TASKS.connected(settings).await;
    rig.sink.mode(Mode::Hang);
    client.publish(&[Message::to(&queue, "before")]).await;
    rig.holds(1).await;

    client.channel().await.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    rig.complains("the queue was deleted").await;
    rig.sink.mode(Mode::Accept);
    client.publish_when_taken(&[Message::to(&queue, "after")]).await;
    rig.has(2).await;

    let mut bodies = rig.sink.bodies();
    bodies.sort();
    assert_eq!(bodies, ["after", "before"]);
    assert_eq!(rig.status().disconnected.len(), 1, "the connection stood all the time");
    rig.stopped().await;
    assert_eq!(client.look(&queue).await, Some((0, 0)));
}

#[tokio::test]
async fn a_queue_of_somebody_else_alone_is_said() {
    let queue = fresh("exclusive");
    let (client, settings) = settings(json!({"topics": [queue]})).await;
    let theirs = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let channel = client.channel().await;
    channel.queue_declare(queue.as_str().into(), theirs, FieldTable::default()).await.unwrap();

    let rig = TASKS.connected(settings).await;
    rig.complains("RESOURCE_LOCKED").await;
    rig.stopped().await;
}

#[tokio::test]
async fn quorum_and_classic_queues_are_drained_side_by_side() {
    let queues: Vec<String> = (0..8).map(|_| fresh("mixed")).collect();
    let (client, settings) = settings(json!({"topics": queues})).await;
    for (n, queue) in queues.iter().enumerate() {
        let kind = if n % 2 == 0 { "quorum" } else { "classic" };
        let limit = if kind == "quorum" { vec![("x-delivery-limit", AMQPValue::LongInt(1))] } else { vec![] };
        let arguments = [&[("x-queue-type", crate::client::text(kind))], limit.as_slice()].concat();
        client.queue_with(queue, &arguments).await;
        let messages: Vec<Message> = (0..100).map(|m| Message::to(queue, format!("{n}-{m}"))).collect();
        client.publish(&messages).await;
    }

    let rig = TASKS.connected(settings).await;
    rig.has(800).await;

    let sink = rig.stopped().await;
    assert!(sink.accepted().len() == 800 && sink.each_came_once());
    for queue in &queues {
        assert_eq!(client.look(queue).await, Some((0, 0)));
    }
}
