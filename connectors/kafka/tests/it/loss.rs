//! Records that were deleted before they were read, and gaps that are none.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;
use testkit::servers::{Kafka, KafkaConfig};
use testkit::time::eventually;

use crate::cluster::{Admin, Observer, PATIENCE, Place, once};
use crate::rig::{Rig, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_deleted_while_the_source_was_away_are_recorded_as_lost() {
    let place = Place::new("lost-away", 1, &[]).await;
    let store = Store::default();
    let rig = Rig::start(place.settings(), &store);
    place.publish(0..10, 0).await;
    place.observer.has_committed(&place.topic, 10).await;
    rig.stopped().await;
    place.publish(10..20, 0).await;
    Admin::of(place.server).delete_records(&place.topic, 0, 15).await;

    for _ in 0..2 {
        // A second start finds nothing new.
        let rig = Rig::start(place.settings(), &store);
        place.observer.has_committed(&place.topic, 20).await;
        rig.stopped().await;
    }

    assert_eq!(store.bodies(), once((0..10).chain(15..20)));
    let lost = store.lost();
    assert_eq!((lost.len(), lost[0].messages), (1, Some(5)));
    assert!(lost[0].what.contains("offsets 10 to 14"), "{}", lost[0].what);
    assert_eq!(lost[0].topic.as_ref().unwrap().as_str(), place.topic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_deleted_while_the_broker_took_nothing_are_recorded_as_lost() {
    const RECORDS: u32 = 3_000;
    let place = Place::new("lost-waiting", 1, &[]).await;
    let store = Store::default();
    store.close();
    let mut settings = place.settings();
    settings["in_flight"] = json!({"messages": 8});
    let rig = Rig::start(settings, &store);
    place.publish(0..10, 0).await;
    eventually(PATIENCE, "the window to be full", async || store.offered() == 8).await;
    eventually(PATIENCE, "the lag to be told", async || rig.status().lag.is_some_and(|lag| lag > 0)).await;
    place.publish(10..RECORDS, 0).await;
    Admin::of(place.server).delete_records(&place.topic, 0, i64::from(RECORDS) - 100).await;

    store.open();
    place.observer.has_committed(&place.topic, i64::from(RECORDS)).await;
    rig.stopped().await;

    let lost: u64 = store.lost().iter().filter_map(|range| range.messages).sum();
    assert!(lost > 0 && store.lost().len() == 1, "{:?}", store.lost());
    assert_eq!(store.bodies().len() as u64 + lost, u64::from(RECORDS), "each is accepted or recorded");
    assert!(store.bodies().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_of_compaction_and_transactions_are_no_loss() {
    let more = "log.cleaner.backoff.ms=100".to_owned();
    let server = Kafka::with(KafkaConfig { more, ..KafkaConfig::default() }).await;
    let compacting =
        [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")];
    server.create_topic("compacted", 1, &compacting).await;
    let bootstrap = server.bootstrap();
    tokio::task::spawn_blocking({
        let bootstrap = bootstrap.clone();
        move || transactions(&bootstrap)
    })
    .await
    .unwrap();
    eventually(PATIENCE, "the compaction", async || {
        let bootstrap = bootstrap.clone();
        let left = tokio::task::spawn_blocking(move || readable(&bootstrap)).await.unwrap();
        if left < 20 { Ok(()) } else { Err(format!("{left} records are left")) }
    })
    .await;

    let (store, observer) = (Store::default(), Observer::of(&server, "evoke"));
    let settings = json!({"brokers": bootstrap, "topics": ["compacted"], "commit_interval": "50ms"});
    for _ in 0..2 {
        let rig = Rig::start(settings.clone(), &store);
        eventually(PATIENCE, "the last record", async || store.bodies().contains_key("last")).await;
        rig.stopped().await;
    }

    assert!(observer.committed("compacted").await.unwrap()[0].is_some());
    assert!(store.lost().is_empty(), "{:?}", store.lost());
    assert!(store.bodies().len() < 20, "{:?}", store.bodies());
    assert!(!store.bodies().keys().any(|body| body.starts_with("aborted")), "{:?}", store.bodies());
}

/// Writes records of one key over and over, every second transaction of which is aborted.
fn transactions(bootstrap: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", "writer")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for n in 0..20 {
        let aborted = n % 2 == 1;
        let value = if n == 18 {
            "last".to_owned()
        } else if aborted {
            format!("aborted-{n}")
        } else {
            format!("committed-{n}")
        };
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to("compacted").key("one").payload(&value)).unwrap();
        producer.send(BaseRecord::to("compacted").key(&format!("{}", n % 3)).payload(&value)).unwrap();
        producer.flush(PATIENCE).unwrap();
        if aborted {
            producer.abort_transaction(PATIENCE).unwrap();
        } else {
            producer.commit_transaction(PATIENCE).unwrap();
        }
        // Segments that are as old as this are closed, and only closed ones are compacted.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many records there are for somebody who reads all that was committed.
fn readable(bootstrap: &str) -> usize {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("compacted", 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut count = 0;
    while let Some(Ok(message)) = consumer.poll(Duration::from_secs(10)) {
        count += usize::from(message.payload().is_some());
    }
    count
}
