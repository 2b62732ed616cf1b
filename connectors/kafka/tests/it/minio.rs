//! Notifications of a bucket that the real MinIO publishes to a topic.

use connectors_kafka::Kafka;
use serde_json::json;
use testkit::servers::minio::{Minio, MinioConfig, Target};
use testkit::source::UnderTest;

use crate::cluster::Place;

const EVENTS: UnderTest = UnderTest { connector: &Kafka, name: "events" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_told_in_headers_when_its_notification_comes_through_kafka() {
    let place = Place::new("bucket", 1, &[]).await;
    let target = Target::kafka("t", &place.server.bootstrap(), &place.topic);
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    minio.put("photos", "in/a%20b%2B%C3%BC.txt", "hello").await;

    let rig = EVENTS.start(place.settings());
    rig.has(1).await;
    let event = rig.stopped().await.accepted().remove(0);

    let header = |name: &str| event.headers.text(name);
    assert_eq!(header("x-s3-event-name"), Some("s3:ObjectCreated:Put"), "{:?}", event.body);
    assert_eq!((header("x-s3-bucket"), header("x-s3-key")), (Some("photos"), Some("in/a b+ü.txt")));
    assert_eq!((header("x-s3-size"), header("x-kafka-key")), (Some("5"), Some("photos/in/a b+ü.txt")));
    assert!(header("x-s3-sequencer").is_some());
    assert_eq!(event.topic.as_str(), place.topic, "the topic stays that of the record");
    let described = event.cloud_event.unwrap();
    assert_eq!(described.kind.as_deref(), Some("com.amazonaws.s3.ObjectCreated:Put"));
    assert_eq!(described.subject.as_deref(), Some("in/a b+ü.txt"));
    let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["Records"][0]["s3"]["object"]["key"], json!("in%2Fa+b%2B%C3%BC.txt"));
}
