//! The contract of every source.

use async_trait::async_trait;
use connectors_nats::Nats;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::{NatsServer, Relay};
use tokio::sync::Mutex;

use crate::rig::publisher;

struct NatsUpstream {
    server: Mutex<NatsServer>,
    relay: Relay,
    publisher: async_nats::Client,
}

#[async_trait]
impl Upstream for NatsUpstream {
    async fn start() -> Self {
        let server = NatsServer::start().await;
        let relay = Relay::to(server.address()).await;
        let publisher = publisher(server.url()).await;
        NatsUpstream { server: Mutex::new(server), relay, publisher }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Nats
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shares: true, ..Capabilities::NONE }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "url": format!("nats://{}", self.relay.address()),
            "in_flight": {"messages": in_flight},
            "waiting": {"messages": in_flight},
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        format!("orders.kind-{n}")
    }

    async fn publish(&self, messages: &[Sent]) {
        for message in messages {
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in &message.headers {
                headers.append(name.as_str(), value.as_str());
            }
            let (subject, body) = (message.topic.clone(), message.body.clone());
            if headers.is_empty() {
                self.publisher.publish(subject, body).await.unwrap();
            } else {
                self.publisher.publish_with_headers(subject, headers, body).await.unwrap();
            }
        }
        self.publisher.flush().await.unwrap();
    }

    fn expected(&self, sent: &Sent) -> Headers {
        sent.headers
            .iter()
            .map(|(name, value)| match name.as_str() {
                "Content-Type" => (name.clone(), value.clone()),
                other => (format!("x-nats-{other}"), value.clone()),
            })
            .collect()
    }

    async fn listening(&self, topics: &[String]) {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        self.server.lock().await.subscribed("openfaas_connector", &topics).await;
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
        None
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        // A NATS message is bytes under a subject: there is no envelope that could be wrong.
        false
    }
}

testkit::source_contract!(NatsUpstream);
