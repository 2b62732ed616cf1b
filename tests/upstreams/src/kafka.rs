//! Kafka: kept on disk, in three partitions.

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::Upstream;

const TOPIC: &str = "orders.created";

/// A broker, and who publishes to it.
pub struct Kafka {
    server: testkit::servers::Kafka,
    producer: FutureProducer,
}

impl Kafka {
    /// The server.
    pub fn server(&self) -> &testkit::servers::Kafka {
        &self.server
    }
}

impl Upstream for Kafka {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let server = testkit::servers::Kafka::start().await;
        server.create_topic(TOPIC, 3, &[]).await;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", server.bootstrap()).set("enable.idempotence", "true");
        client.set("linger.ms", "5").set("queue.buffering.max.kbytes", "65536");
        Kafka { server, producer: client.create().unwrap() }
    }

    fn source(&self) -> String {
        // A member that was killed, or stopped while it was joining, is given up this soon.
        format!("{{ kafka: {{ brokers: [\"{}\"], session_timeout: 6s }} }}", self.server.bootstrap())
    }

    async fn topic(&self) -> String {
        TOPIC.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        let mut sent = FuturesUnordered::new();
        for body in &bodies {
            let mut record: FutureRecord<'_, (), [u8]> = FutureRecord::to(TOPIC).payload(body);
            loop {
                match self.producer.send_result(record) {
                    Ok(delivery) => break sent.push(delivery),
                    // What was sent before makes room.
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                        record = again;
                        sent.next().await.unwrap().unwrap().unwrap();
                    }
                    Err((error, _)) => panic!("cannot publish: {error}"),
                }
            }
        }
        while let Some(delivery) = sent.next().await {
            delivery.unwrap().unwrap();
        }
    }

    /// It keeps what it has until the source comes.
    async fn listened(&self) {}

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}

impl Drop for Kafka {
    /// The producer goes before its broker, and without a complaint about it.
    fn drop(&mut self) {
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}
