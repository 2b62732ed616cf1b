//! The contract of every source.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Mutex;

use async_trait::async_trait;
use connectors_kafka::Kafka as KafkaConnector;
use connectors_sdk::{Capabilities, Connector, Headers};
use rdkafka::producer::FutureProducer;
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::{Kafka, KafkaConfig, Port, Relay};

use crate::cluster::{Observer, Record, publish, publisher};

const GROUP: &str = "under-contract";
const PARTITIONS: i32 = 2;

struct KafkaUpstream {
    server: tokio::sync::Mutex<Kafka>,
    relay: Relay,
    _port: Port,
    producer: FutureProducer,
    observer: Observer,
    topics: Mutex<BTreeSet<String>>,
    /// Where each message went, by a hash of it.
    places: Mutex<HashMap<u64, (i32, i64)>>,
}

fn hash_of(topic: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, body).hash(&mut hasher);
    hasher.finish()
}

#[async_trait]
impl Upstream for KafkaUpstream {
    async fn start() -> Self {
        let port = Port::reserve();
        let more = "message.max.bytes=20000000".to_owned();
        let server =
            Kafka::with(KafkaConfig { proxy: Some(port.address()), more, ..KafkaConfig::default() }).await;
        let relay = Relay::on(port.address(), server.behind_proxy()).await;
        KafkaUpstream {
            relay,
            _port: port,
            producer: publisher(&server.bootstrap()),
            observer: Observer::of(&server, GROUP),
            server: tokio::sync::Mutex::new(server),
            topics: Mutex::default(),
            places: Mutex::default(),
        }
    }

    fn connector(&self) -> &'static dyn Connector {
        &KafkaConnector
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: true, decodes: false, shares: true }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "brokers": [self.relay.address().to_string()],
            "group": GROUP,
            "in_flight": {"messages": in_flight},
            "commit_interval": "50ms",
            "session_timeout": "6s",
            "topic_refresh": "500ms",
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        let topic = format!("orders.kind-{n}");
        if self.topics.lock().unwrap().insert(topic.clone()) {
            self.server.lock().await.create_topic(&topic, PARTITIONS, &[]).await;
        }
        topic
    }

    async fn publish(&self, messages: &[Sent]) {
        let records: Vec<Record> = messages
            .iter()
            .map(|message| Record {
                headers: message
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())))
                    .collect(),
                ..Record::of(&message.topic, message.body.clone())
            })
            .collect();
        let places = publish(&self.producer, &records).await;
        let hashes = messages.iter().map(|message| hash_of(&message.topic, &message.body));
        self.places.lock().unwrap().extend(hashes.zip(places));
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let (partition, offset) = self.places.lock().unwrap()[&hash_of(&sent.topic, &sent.body)];
        let own = [
            ("x-connector".to_owned(), "openfaasltd/kafka-connector".to_owned()),
            ("x-kafka-partition".to_owned(), partition.to_string()),
            ("x-kafka-offset".to_owned(), offset.to_string()),
        ];
        let theirs = sent.headers.iter().map(|(name, value)| match name.as_str() {
            "Content-Type" => (name.clone(), value.clone()),
            other => (format!("x-kafka-{other}"), value.clone()),
        });
        own.into_iter().chain(theirs).collect()
    }

    async fn listening(&self, topics: &[String]) {
        if topics.is_empty() {
            // Who leaves stays a member until what was begun is committed, and reads no more meanwhile; only the source
            // itself knows. That it has left in the end is a test of its own.
            return;
        }
        let all: Vec<i32> = (0..PARTITIONS).collect();
        let wanted = topics.iter().map(|topic| (topic.clone(), all.clone())).collect();
        self.observer.has_assigned(&wanted).await;
    }

    async fn down(&self) {
        self.server.lock().await.kill();
    }

    async fn up(&self) {
        self.server.lock().await.start_again().await;
    }

    async fn cut(&self) {
        self.relay.cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        let topics: Vec<String> = self.topics.lock().unwrap().iter().cloned().collect();
        let mut sum = 0;
        for topic in topics {
            let committed = self.observer.committed(&topic).await.unwrap();
            sum += committed.into_iter().flatten().sum::<i64>();
        }
        Some(u64::try_from(sum).unwrap())
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        // A record is bytes under a topic: there is no envelope that could be wrong.
        false
    }
}

testkit::source_contract!(KafkaUpstream);
