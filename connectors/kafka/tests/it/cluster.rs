//! A broker with a client that publishes, and one that looks at groups.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use testkit::servers::{Kafka, KafkaConfig, Shared};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client that publishes each record once, over any outage.
pub(crate) fn publisher(bootstrap: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "60000")
        .set("message.max.bytes", "20000000")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .set("linger.ms", "0")
        .create()
        .unwrap()
}

/// One record to publish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    pub(crate) fn of(topic: &str, value: impl Into<Bytes>) -> Record {
        Record { topic: topic.into(), value: Some(value.into()), ..Record::default() }
    }

    pub(crate) fn on(self, partition: i32) -> Record {
        Record { partition: Some(partition), ..self }
    }
}

/// Publishes them in their order; where each went.
pub(crate) async fn publish(producer: &FutureProducer, records: &[Record]) -> Vec<(i32, i64)> {
    let mut deliveries = Vec::new();
    for record in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let mut message = FutureRecord::<[u8], [u8]>::to(&record.topic).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.partition = record.partition;
        // A full queue empties itself.
        loop {
            match producer.send_result(message) {
                Ok(delivery) => break deliveries.push(delivery),
                Err((_, back)) => message = back,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut places = Vec::new();
    for delivery in deliveries {
        let delivered = delivery.await.unwrap().unwrap();
        places.push((delivered.partition, delivered.offset));
    }
    places
}

/// Somebody who looks at groups and never joins one.
#[derive(Clone)]
pub(crate) struct Observer {
    consumer: Arc<BaseConsumer>,
    group: String,
}

impl Observer {
    pub(crate) fn of(server: &Kafka, group: &str) -> Observer {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", server.bootstrap())
            .set("group.id", group)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .create()
            .unwrap();
        Observer { consumer: Arc::new(consumer), group: group.into() }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer, &str) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let observer = self.clone();
        tokio::task::spawn_blocking(move || question(&observer.consumer, &observer.group)).await.unwrap()
    }

    /// The partitions that members of a settled group have, by topic; an error says why that cannot be told now.
    pub(crate) async fn assigned(&self) -> Result<BTreeMap<String, Vec<i32>>, String> {
        self.ask(|consumer, group| {
            let groups =
                consumer.fetch_group_list(Some(group), Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let mut all = BTreeMap::<String, Vec<i32>>::new();
            for group in groups.groups() {
                if !matches!(group.state(), "Stable" | "Empty" | "Dead") {
                    return Err(format!("the group is in state {}", group.state()));
                }
                for member in group.members() {
                    for (topic, numbers) in partitions_in(member.assignment().unwrap_or_default()) {
                        all.entry(topic).or_default().extend(numbers);
                    }
                }
            }
            all.values_mut().for_each(|numbers| numbers.sort_unstable());
            Ok(all)
        })
        .await
    }

    /// Waits until its members have exactly these.
    pub(crate) async fn has_assigned(&self, wanted: &BTreeMap<String, Vec<i32>>) {
        let began = Instant::now();
        loop {
            let assigned = self.assigned().await;
            if assigned.as_ref() == Ok(wanted) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the group has {assigned:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sets the group's offset of a partition, which only works while nobody is in it.
    pub(crate) async fn set_back(&self, topic: &str, partition: i32, to: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(to)).unwrap();
        let set =
            self.ask(move |consumer, _| consumer.commit(&list, CommitMode::Sync).map_err(|e| e.to_string()));
        set.await.unwrap();
    }

    /// Waits until the group has committed this of a topic with one partition.
    pub(crate) async fn has_committed(&self, topic: &str, offset: i64) {
        let began = Instant::now();
        loop {
            let committed = self.committed(topic).await;
            if committed == Ok(vec![Some(offset)]) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the group has {committed:?} instead of {offset}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the group has committed of each partition of a topic.
    pub(crate) async fn committed(&self, topic: &str) -> Result<Vec<Option<i64>>, String> {
        let topic = topic.to_owned();
        self.ask(move |consumer, _| {
            let metadata =
                consumer.fetch_metadata(Some(&topic), Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
            if count == 0 {
                return Ok(Vec::new());
            }
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, i32::try_from(count).unwrap() - 1);
            let committed =
                consumer.committed_offsets(list, Duration::from_secs(5)).map_err(|e| e.to_string())?;
            Ok(committed
                .elements()
                .iter()
                .map(|element| match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                })
                .collect())
        })
        .await
    }
}

/// What an administrator does.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl Admin {
    pub(crate) fn of(server: &Kafka) -> Admin {
        let client = ClientConfig::new().set("bootstrap.servers", server.bootstrap()).create().unwrap();
        Admin { client, options: AdminOptions::new().operation_timeout(Some(Duration::from_secs(30))) }
    }

    pub(crate) async fn delete_topic(&self, topic: &str) {
        let results = self.client.delete_topics(&[topic], &self.options).await.unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Deletes all records of a partition before this offset, as retention does.
    pub(crate) async fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        self.client.delete_records(&list, &self.options).await.unwrap();
    }
}

/// Reads a member's assignment: version, then each topic with its partitions.
fn partitions_in(mut bytes: &[u8]) -> Vec<(String, Vec<i32>)> {
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(n.min(bytes.len()));
        *bytes = rest;
        taken
    }
    fn int(bytes: &mut &[u8]) -> i32 {
        take(bytes, 4).try_into().map_or(0, i32::from_be_bytes)
    }
    take(&mut bytes, 2);
    let topics = int(&mut bytes);
    (0..topics)
        .map(|_| {
            let length = take(&mut bytes, 2).try_into().map_or(0, u16::from_be_bytes);
            let topic = String::from_utf8_lossy(take(&mut bytes, length.into())).into_owned();
            let count = int(&mut bytes);
            (topic, (0..count).map(|_| int(&mut bytes)).collect())
        })
        .collect()
}

/// One broker for all tests that leave it as it is.
pub(crate) static BROKER: Shared<KafkaConfig> = Shared::new();

/// A topic of its own on the shared broker, with a group of its own.
pub(crate) struct Place {
    pub(crate) server: &'static Kafka,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) producer: FutureProducer,
    pub(crate) observer: Observer,
}

impl Place {
    pub(crate) async fn new(name: &str, partitions: i32, settings: &[(&str, &str)]) -> Place {
        let server = BROKER.server().await;
        server.create_topic(name, partitions, settings).await;
        let group = format!("group-of-{name}");
        Place {
            server,
            topic: name.to_owned(),
            producer: publisher(&server.bootstrap()),
            observer: Observer::of(server, &group),
            group,
        }
    }

    pub(crate) fn settings(&self) -> Value {
        json!({
            "brokers": self.server.bootstrap(),
            "group": self.group,
            "topics": [self.topic],
            "commit_interval": "50ms",
            "session_timeout": "6s",
            "topic_refresh": "500ms",
        })
    }

    /// Publishes the numbers of a range, each as a record, on one partition; the offset of each.
    pub(crate) async fn publish(&self, numbers: Range<u32>, partition: i32) -> Vec<i64> {
        let records: Vec<Record> =
            numbers.map(|n| Record::of(&self.topic, n.to_string()).on(partition)).collect();
        publish(&self.producer, &records).await.into_iter().map(|(_, offset)| offset).collect()
    }
}

/// Each of these numbers once, as [`crate::rig::Store::bodies`] counts.
pub(crate) fn once(numbers: impl Iterator<Item = u32>) -> BTreeMap<String, usize> {
    numbers.map(|n| (n.to_string(), 1)).collect()
}
