//! Records as a real broker gives them: keys, tombstones, headers, compression, sizes.

use rdkafka::ClientConfig;
use rdkafka::producer::FutureProducer;

use crate::cluster::{Place, Record, publish};
use crate::rig::{Rig, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_tombstones_and_headers_come_as_they_are() {
    let place = Place::new("records", 1, &[]).await;
    let record = Record::of(&place.topic, "v");
    let tombstone = Record { value: None, key: Some(b"gone".to_vec()), ..record.clone() };
    let binary = Record { key: Some(vec![0, 1, 255]), ..record.clone() };
    let with_headers = Record {
        headers: vec![
            ("tag".into(), Some(b"a".to_vec())),
            ("tag".into(), Some(b"b".to_vec())),
            ("none".into(), None),
            ("Content-Type".into(), Some(b"text/x".to_vec())),
        ],
        ..record
    };
    publish(&place.producer, &[tombstone, binary, with_headers]).await;

    let rig = Rig::start(place.settings(), &Store::default());
    rig.store.has(3).await;
    let events = rig.store.accepted();
    rig.stopped().await;

    assert!(events[0].body.is_empty());
    assert_eq!(events[0].headers.text("x-kafka-key"), Some("gone"));
    assert_eq!(events[1].headers.text("x-kafka-key"), Some("AAH/"));
    assert_eq!(events[1].headers.text("x-kafka-key-enc"), Some("b64"));
    let tags: Vec<&[u8]> =
        events[2].headers.iter().filter(|(n, _)| *n == "x-kafka-tag").map(|(_, v)| v).collect();
    assert_eq!(tags, [b"a", b"b"]);
    assert_eq!(events[2].headers.text("x-kafka-none"), Some(""));
    assert_eq!(events[2].headers.text("content-type"), Some("text/x"));
    assert!(events.iter().all(|event| event.time.is_some()));
    let offsets: Vec<u64> = events.iter().map(|event| event.position.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_read() {
    let place = Place::new("compressed", 1, &[]).await;
    let body = "compressible ".repeat(1000);
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", place.server.bootstrap())
            .set("compression.type", codec)
            .create()
            .unwrap();
        publish(&producer, &[Record::of(&place.topic, body.clone())]).await;
    }

    let rig = Rig::start(place.settings(), &Store::default());
    rig.store.has(4).await;

    assert!(rig.store.accepted().iter().all(|event| event.body == body));
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_the_broker_refuses_for_ever_is_a_dead_letter_and_holds_up_nothing() {
    let place = Place::new("too-large", 1, &[]).await;
    let store = Store::default();
    store.limit(100);
    let large = Record { key: Some(b"k".to_vec()), ..Record::of(&place.topic, vec![7; 101]) };
    publish(&place.producer, &[Record::of(&place.topic, "1"), large, Record::of(&place.topic, "2")]).await;

    let rig = Rig::start(place.settings(), &store);
    place.observer.has_committed(&place.topic, 3).await;
    rig.stopped().await;

    assert_eq!(store.accepted().len(), 2);
    let kept = &store.quarantined()[0];
    assert_eq!((kept.raw.len(), kept.headers.text("x-kafka-key")), (101, Some("k")));
    assert!(kept.why.contains("limit of 100"), "{}", kept.why);
}
