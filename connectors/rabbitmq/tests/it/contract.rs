//! The contract of every source.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use connectors_rabbitmq::Rabbitmq;
use connectors_sdk::{Capabilities, Connector, Headers};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::{RabbitMq, Relay};
use testkit::source::PATIENCE;

use crate::client::{Client, Message, text};
use crate::malformed::Careless;
use crate::rig::{fresh, shared};
use crate::witness::Witness;

/// Queues of a server: one of its own, where the case restarts it, or the shared one. The queues are quorum queues in the
/// former, and classic in the latter.
struct Queues<const OWN: bool> {
    server: Option<tokio::sync::Mutex<RabbitMq>>,
    address: SocketAddr,
    witness: Witness,
    relay: Relay,
    client: Client,
    careless: tokio::sync::Mutex<Option<Careless>>,
    /// Their names by number.
    names: Mutex<BTreeMap<usize, String>>,
    /// The ids of what was published, by a hash of it: a case publishes more than memory is to hold.
    ids: Mutex<HashMap<u64, String>>,
}

fn hash_of(queue: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (queue, body).hash(&mut hasher);
    hasher.finish()
}

#[async_trait]
impl<const OWN: bool> Upstream for Queues<OWN> {
    async fn start() -> Self {
        let (server, address, url) = if OWN {
            let server = RabbitMq::start().await;
            let (address, url) = (server.address(), server.url());
            (Some(tokio::sync::Mutex::new(server)), address, url)
        } else {
            let server = shared().await;
            (None, server.address(), server.url())
        };
        let witness = Witness::of(address).await;
        Queues {
            server,
            relay: Relay::to(witness.address()).await,
            witness,
            address,
            client: Client::of(url),
            careless: tokio::sync::Mutex::default(),
            names: Mutex::default(),
            ids: Mutex::default(),
        }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Rabbitmq
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: false, decodes: true, shares: true }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "url": format!("amqp://guest:guest@{}/%2f", self.relay.address()),
            "in_flight": {"messages": in_flight},
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        if let Some(known) = self.names.lock().unwrap().get(&n) {
            return known.clone();
        }
        let name = fresh("orders");
        if OWN {
            self.client.queue(&name, "quorum").await;
            // A node writes down what quorum queues it has some seconds after it made them. One that is killed before does
            // not find them again, whatever clients do.
            tokio::time::sleep(Duration::from_secs(4)).await;
        } else {
            // Kept on disk: a case puts more into it than this server may hold in memory.
            self.client.queue_with(&name, &[("x-queue-mode", text("lazy"))]).await;
        }
        self.names.lock().unwrap().insert(n, name.clone());
        name
    }

    async fn publish(&self, messages: &[Sent]) {
        let messages: Vec<Message> = messages
            .iter()
            .map(|sent| {
                let mut headers = FieldTable::default();
                let mut content_type = None;
                for (name, value) in &sent.headers {
                    match name.as_str() {
                        "Content-Type" => content_type = Some(value.as_str().into()),
                        name => {
                            headers.insert(name.into(), text(value));
                        }
                    }
                }
                Message::to(&sent.topic, sent.body.clone()).with(|properties| {
                    let properties = properties.with_headers(headers);
                    match content_type {
                        Some(content_type) => properties.with_content_type(content_type),
                        None => properties,
                    }
                })
            })
            .collect();
        for message in &messages {
            let id = message.properties.message_id().as_ref().unwrap().to_string();
            self.ids.lock().unwrap().insert(hash_of(&message.routing_key, &message.body), id);
        }
        self.client.publish(&messages).await;
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let id = self.ids.lock().unwrap()[&hash_of(&sent.topic, &sent.body)].clone();
        let own = [
            ("x-connector".to_owned(), "openfaasltd/rabbitmq-connector".to_owned()),
            ("x-rabbitmq-msg-id".to_owned(), id),
            ("x-rabbitmq-routing-key".to_owned(), sent.topic.clone()),
            ("x-rabbitmq-delivery-mode".to_owned(), "2".to_owned()),
        ];
        let theirs = sent.headers.iter().map(|(name, value)| match name.as_str() {
            "Content-Type" => (name.clone(), value.clone()),
            other => (format!("x-rabbitmq-{other}"), value.clone()),
        });
        own.into_iter().chain(theirs).collect()
    }

    async fn listening(&self, topics: &[String]) {
        let names: Vec<String> = self.names.lock().unwrap().values().cloned().collect();
        // Without `eventually`: a boxed future that borrows in a closure is not seen to be `Send`.
        let began = Instant::now();
        loop {
            let mut wrong = Vec::new();
            for name in &names {
                let found = self.client.look(name).await;
                if found.is_none_or(|(_, consumers)| (consumers > 0) != topics.contains(name)) {
                    wrong.push((name, found));
                }
            }
            if wrong.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{wrong:?}, and {topics:?} are wanted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn down(&self) {
        self.server.as_ref().unwrap().lock().await.kill();
    }

    async fn up(&self) {
        self.server.as_ref().unwrap().lock().await.start_again().await;
    }

    async fn cut(&self) {
        self.relay.cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        assert_eq!(self.witness.given_back(), 0, "what is refused is held, not sent to and fro");
        Some(self.witness.acknowledged())
    }

    async fn publish_unreadable(&self, topic: &str) -> bool {
        let mut careless = self.careless.lock().await;
        let careless = match &mut *careless {
            Some(careless) => careless,
            none => none.insert(Careless::at(self.address).await),
        };
        careless.publish(topic, b"unreadable").await;
        true
    }
}

type OwnServer = Queues<true>;
type SharedServer = Queues<false>;

testkit::source_contract! { OwnServer:
    survives_restarts_of_its_upstream_under_load
    starts_before_its_upstream
}

// Every other case.
testkit::source_contract! { SharedServer:
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
