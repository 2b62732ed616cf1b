//! The contract of every source.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectors_sdk::{Capabilities, Connector, Headers};
use connectors_sqs::Sqs;
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::elasticmq::REGION;
use testkit::servers::{ElasticMq, ElasticMqConfig};

use crate::queues::{Letter, Owner};
use crate::wire::Wire;

/// SQS carries text alone, and none that is empty; so bodies go in base64, as whoever sends bytes does it, and the source is
/// told so. What is `KEPT` on disk survives a restart.
struct Base64<const KEPT: bool> {
    server: tokio::sync::Mutex<ElasticMq>,
    wire: Wire,
    owner: Owner,
    /// By their names.
    queues: Mutex<BTreeMap<String, String>>,
    /// The id of each message, by a hash of it.
    ids: Mutex<HashMap<u64, String>>,
    sent: AtomicU64,
}

fn hash_of(topic: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, body).hash(&mut hasher);
    hasher.finish()
}

impl<const KEPT: bool> Base64<KEPT> {
    fn url(&self, topic: &str) -> String {
        self.queues.lock().unwrap()[topic].clone()
    }
}

#[async_trait]
impl<const KEPT: bool> Upstream for Base64<KEPT> {
    async fn start() -> Self {
        // ElasticMQ reads large messages ten times slower where it looks at each character. The other tests let it.
        let more = "rest-sqs.sqs-limits = relaxed".to_owned();
        let server = ElasticMq::with(ElasticMqConfig { in_memory: !KEPT, heap: Some(1500), more }).await;
        Base64 {
            wire: Wire::to(server.address()).await,
            owner: Owner::of(&server.url()),
            server: tokio::sync::Mutex::new(server),
            queues: Mutex::default(),
            ids: Mutex::default(),
            sent: AtomicU64::new(0),
        }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Sqs
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: false, decodes: true, shares: true }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "endpoint": self.wire.url(),
            "region": REGION,
            "body": "base64",
            "in_flight": {"messages": in_flight},
            // What was handed to a connection that was cut comes again when it has passed.
            "visibility_timeout": "1s",
            "wait_time": "1s",
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        let name = format!("orders-kind-{n}");
        if !self.queues.lock().unwrap().contains_key(&name) {
            let url = self.owner.create(&name, &[]).await;
            // The queue itself is written behind the answer, but before any message of it.
            self.owner.send(&url, &[Letter::of("written")]).await;
            self.owner.sqs.purge_queue().queue_url(&url).send().await.unwrap();
            self.queues.lock().unwrap().insert(name.clone(), url);
        }
        name
    }

    async fn publish(&self, messages: &[Sent]) {
        let mut by_topic: BTreeMap<&str, Vec<&Sent>> = BTreeMap::new();
        for message in messages {
            by_topic.entry(&message.topic).or_default().push(message);
        }
        for (topic, messages) in by_topic {
            let letters: Vec<Letter> = messages
                .iter()
                .map(|message| Letter {
                    // A line break is nothing in base64, and the least that SQS takes.
                    body: format!("{}\n", STANDARD.encode(&message.body)),
                    attributes: message.headers.clone(),
                    group: None,
                })
                .collect();
            let ids = self.owner.send(&self.url(topic), &letters).await;
            self.sent.fetch_add(ids.len() as u64, Ordering::SeqCst);
            // Only those with headers are asked for.
            let with_headers = messages.iter().zip(ids).filter(|(message, _)| !message.headers.is_empty());
            let ids = with_headers.map(|(message, id)| (hash_of(topic, &message.body), id));
            self.ids.lock().unwrap().extend(ids);
        }
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let own = [
            ("x-connector".to_owned(), "openfaasltd/sqs-connector".to_owned()),
            (
                "x-sqs-message-id".to_owned(),
                self.ids.lock().unwrap()[&hash_of(&sent.topic, &sent.body)].clone(),
            ),
            ("x-sqs-queue-url".to_owned(), self.url(&sent.topic)),
        ];
        let theirs = sent.headers.iter().map(|(name, value)| match name.as_str() {
            "Content-Type" => (name.clone(), value.clone()),
            other => (format!("x-sqs-attr-{other}"), value.clone()),
        });
        own.into_iter().chain(theirs).collect()
    }

    async fn listening(&self, topics: &[String]) {
        self.wire.is_asked_for(topics).await;
    }

    async fn down(&self) {
        self.server.lock().await.kill();
    }

    async fn up(&self) {
        self.server.lock().await.start_again().await;
    }

    async fn cut(&self) {
        // Where no request waits for its answer, a cut is nothing that the source could notice.
        self.wire.is_asked().await;
        self.wire.cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        let queues: Vec<String> = self.queues.lock().unwrap().values().cloned().collect();
        let mut left = 0;
        for url in queues {
            let (given, hidden) = self.owner.count(&url).await;
            left += given + hidden;
        }
        Some(self.sent.load(Ordering::SeqCst) - left)
    }

    async fn publish_unreadable(&self, topic: &str) -> bool {
        self.owner.send(&self.url(topic), &[Letter::of("this is no base64")]).await;
        self.sent.fetch_add(1, Ordering::SeqCst);
        true
    }
}

testkit::source_contract! { Base64<false>:
    delivers_bodies_and_headers_exactly
    takes_only_the_topics_it_is_told
    follows_what_functions_ask_for
    acknowledges_only_after_the_receipt
    offers_again_what_was_refused
    pushes_back_while_the_sink_hangs
    keeps_its_memory_bounded
    survives_cut_connections
    hands_over_what_it_holds_when_it_stops
    leaves_its_upstream_while_it_is_held
    keeps_what_it_cannot_read
    survives_thousands_of_malformed_messages
    waits_for_a_slow_broker
    repeats_nothing_already_received
    stops_while_everything_is_refused
    is_given_again_what_it_held_when_it_was_cut_off
    shares_the_work_between_replicas
}

testkit::source_contract! { Base64<true>:
    survives_restarts_of_its_upstream_under_load
    starts_before_its_upstream
}
