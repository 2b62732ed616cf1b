//! Notifications of a bucket that the real MinIO publishes to an exchange.

use connectors_rabbitmq::Rabbitmq;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::FieldTable;
use serde_json::json;
use testkit::servers::minio::{Minio, MinioConfig, Target};
use testkit::source::UnderTest;

use crate::client::Client;
use crate::rig::{fresh, shared};

const TASKS: UnderTest = UnderTest { connector: &Rabbitmq, name: "tasks" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_told_in_headers_when_its_notification_comes_through_amqp() {
    let server = shared().await;
    let (client, queue) = (Client::of(server.url()), fresh("bucket"));
    client.queue(&queue, "classic").await;
    let channel = client.channel().await;
    // As MinIO would make it: a queue must be bound before the first notification.
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    let exchange = queue.as_str();
    channel.exchange_declare(exchange.into(), ExchangeKind::Direct, durable, none()).await.unwrap();
    let bound = channel.queue_bind(
        exchange.into(),
        exchange.into(),
        "files".into(),
        QueueBindOptions::default(),
        none(),
    );
    bound.await.unwrap();
    let url = format!("amqp://guest:guest@{}", server.address());
    let target = Target::amqp("t", &url, exchange, "files");
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    minio.put("photos", "in/a%20b%2B%C3%BC.txt", "hello").await;

    let rig = TASKS.start(json!({"url": server.url(), "topics": [queue]}));
    rig.has(1).await;
    let event = rig.stopped().await.accepted().remove(0);

    let header = |name: &str| event.headers.text(name);
    assert_eq!(header("x-s3-event-name"), Some("s3:ObjectCreated:Put"), "{:?}", event.body);
    assert_eq!((header("x-s3-bucket"), header("x-s3-key")), (Some("photos"), Some("in/a b+ü.txt")));
    assert_eq!((header("x-s3-size"), header("content-type")), (Some("5"), Some("application/json")));
    // MinIO's own headers of the message.
    assert_eq!(header("x-rabbitmq-minio-bucket"), Some("photos"));
    assert!(header("x-s3-sequencer").is_some());
    assert_eq!(event.topic.as_str(), queue, "the topic stays that of the queue");
    let described = event.cloud_event.unwrap();
    assert_eq!(described.kind.as_deref(), Some("com.amazonaws.s3.ObjectCreated:Put"));
    assert_eq!(described.subject.as_deref(), Some("in/a b+ü.txt"));
}
