//! SQS, as ElasticMQ speaks it: kept in a queue until somebody deletes.

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use testkit::servers::elasticmq::REGION;
use testkit::servers::{ElasticMq, ElasticMqConfig};

use crate::Upstream;

const QUEUE: &str = "orders-created";

/// The most messages of one request.
const BATCH: usize = 10;

/// How many requests are on their way at once.
const REQUESTS: usize = 8;

/// A server, and who publishes to it.
pub struct Sqs {
    server: ElasticMq,
}

impl Sqs {
    /// The server.
    pub fn server(&self) -> &ElasticMq {
        &self.server
    }
}

impl Upstream for Sqs {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let config = ElasticMqConfig { in_memory: true, heap: Some(1500), ..ElasticMqConfig::default() };
        let server = ElasticMq::with(config).await;
        server.action("CreateQueue", &json!({ "QueueName": QUEUE })).await;
        Sqs { server }
    }

    fn source(&self) -> String {
        // What was handed to a broker that was killed comes again when the time has passed.
        let more = "visibility_timeout: 5s";
        format!("{{ sqs: {{ endpoint: \"{}\", region: {REGION}, {more} }} }}", self.server.url())
    }

    async fn topic(&self) -> String {
        QUEUE.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        let requests: Vec<Value> = bodies
            .chunks(BATCH)
            .map(|some| {
                let entries = some.iter().enumerate().map(|(at, body)| {
                    json!({"Id": at.to_string(), "MessageBody": std::str::from_utf8(body).unwrap()})
                });
                json!({"QueueUrl": self.server.queue_url(QUEUE), "Entries": entries.collect::<Vec<_>>()})
            })
            .collect();
        for some in requests.chunks(REQUESTS) {
            join_all(some.iter().map(async |request| {
                let answer = self.server.action("SendMessageBatch", request).await;
                assert!(answer.get("Failed").is_none_or(|failed| failed == &json!([])), "{answer}");
            }))
            .await;
        }
    }

    /// It keeps what it has until the source comes.
    async fn listened(&self) {}

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}
