//! What a message looks like, from the wire to the event.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicNackOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use serde_json::{Value, json};

use crate::client::{Client, Message, text};
use crate::rig::{ELSEWHERE, TASKS, fresh, shared};

/// A delivery as the captures hold it.
fn written(delivery: &Delivery) -> Value {
    json!({
        "exchange": delivery.exchange.as_str(),
        "routing_key": delivery.routing_key.as_str(),
        "redelivered": delivery.redelivered,
        "properties": delivery.properties,
        "data": STANDARD.encode(&delivery.data),
    })
}

/// When something died is another time today.
fn timeless(mut message: Value) -> Value {
    if let Some(time) = message.pointer_mut("/properties/headers/x-death/FieldArray/0/FieldTable/time") {
        *time = json!("whenever");
    }
    message
}

fn is_the_capture(delivery: &Delivery, capture: &str) {
    let (now, then) = (written(delivery), serde_json::from_str(capture).unwrap());
    assert_eq!(timeless(now.clone()), timeless(then), "now it is {now}");
}

#[tokio::test]
async fn messages_come_today_as_they_were_captured() {
    let server = shared().await;
    let elsewhere = server.url().replace("%2f", &ELSEWHERE.replace('/', "%2f"));
    let client = Client::of(elsewhere);
    client.queue("orders", "classic").await;
    client
        .queue_with(
            "retries",
            &[
                ("x-message-ttl", AMQPValue::LongInt(1)),
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text("orders")),
            ],
        )
        .await;
    let channel = client.channel().await;
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare("shop".into(), lapin::ExchangeKind::Topic, options, none.clone()).await.unwrap();
    let bind = channel.queue_bind(
        "orders".into(),
        "shop".into(),
        "order.#".into(),
        QueueBindOptions::default(),
        none.clone(),
    );
    bind.await.unwrap();
    let mut consumer = channel
        .basic_consume("orders".into(), "".into(), BasicConsumeOptions::default(), none)
        .await
        .unwrap();

    let bare = Message {
        properties: BasicProperties::default(),
        ..Message::to("orders", vec![0, 1, 2, 10, 13, 255])
    };
    client.publish(&[bare]).await;
    let came = consumer.next().await.unwrap().unwrap();
    is_the_capture(&came, include_str!("../captures/bare.json"));

    let mut headers = FieldTable::default();
    headers.insert("Order-Id".into(), AMQPValue::LongInt(7));
    headers.insert("odd name!".into(), text("v"));
    headers.insert("bad".into(), text("a\u{1}b"));
    headers.insert("tags".into(), AMQPValue::FieldArray(vec![text("a"), text("b")].into()));
    let whole = Message {
        exchange: "shop".into(),
        routing_key: "order.eu.paid".into(),
        properties: BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("identity".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(4)
            .with_correlation_id("c-7".into())
            .with_reply_to("answers".into())
            .with_expiration("3600000".into())
            .with_message_id("m-7".into())
            .with_timestamp(1_795_000_000)
            .with_type("order.paid".into())
            .with_user_id("guest".into())
            .with_app_id("shop".into()),
        body: "{}".into(),
    };
    client.publish(&[whole]).await;
    let came = consumer.next().await.unwrap().unwrap();
    came.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await.unwrap();
    let came = consumer.next().await.unwrap().unwrap();
    is_the_capture(&came, include_str!("../captures/whole.json"));

    let late = Message { properties: BasicProperties::default(), ..Message::to("retries", "late") };
    client.publish(&[late]).await;
    let came = consumer.next().await.unwrap().unwrap();
    is_the_capture(&came, include_str!("../captures/dead-lettered.json"));
}

#[tokio::test]
async fn every_type_of_header_value_comes_through() {
    let server = shared().await;
    let client = Client::of(server.url());
    let queue = fresh("typed");
    client.queue(&queue, "quorum").await;
    let mut table = FieldTable::default();
    table.insert("n".into(), AMQPValue::LongLongInt(1));
    let values = [
        ("bool", AMQPValue::Boolean(true), "true"),
        ("i8", AMQPValue::ShortShortInt(-8), "-8"),
        ("u8", AMQPValue::ShortShortUInt(200), "200"),
        ("i16", AMQPValue::ShortInt(-16), "-16"),
        ("u16", AMQPValue::ShortUInt(60_000), "60000"),
        ("i32", AMQPValue::LongInt(-32), "-32"),
        ("u32", AMQPValue::LongUInt(4_000_000_000), "4000000000"),
        ("i64", AMQPValue::LongLongInt(i64::MIN), "-9223372036854775808"),
        ("f32", AMQPValue::Float(0.1), "0.1"),
        ("f64", AMQPValue::Double(1.5), "1.5"),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1234 }), "12.34"),
        ("text", text("größer"), "größer"),
        ("time", AMQPValue::Timestamp(1_795_000_000), "1795000000"),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into()), "AP8="),
        ("none", AMQPValue::Void, ""),
        ("list", AMQPValue::FieldArray(vec![text("a"), AMQPValue::Boolean(false)].into()), r#"["a",false]"#),
        ("table", AMQPValue::FieldTable(table), r#"{"n":1}"#),
    ];
    let mut headers = FieldTable::default();
    for (name, value, _) in &values {
        headers.insert((*name).into(), value.clone());
    }
    let rig = TASKS.connected(json!({"url": server.url(), "topics": [queue]})).await;
    client.publish(&[Message::to(&queue, "x").with(|properties| properties.with_headers(headers))]).await;
    rig.has(1).await;

    let event = &rig.stopped().await.accepted()[0];
    for (name, _, expected) in values {
        assert_eq!(event.headers.text(&format!("x-rabbitmq-{name}")), Some(expected), "{name}");
    }
}
