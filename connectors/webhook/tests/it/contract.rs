//! The contract of every source, with a sender of CloudEvents.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::{Capabilities, Connector, Headers};
use connectors_webhook::Webhook;
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::sender::Sender;
use testkit::servers::{Port, Relay};
use tokio::net::TcpStream;

struct Senders {
    /// Of the source and of its replica.
    ports: [Port; 2],
    relays: [Relay; 2],
    sender: Sender,
}

fn at(port: &Port) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port.number()))
}

/// The same at each attempt, and another one for another message.
fn id(sent: &Sent) -> String {
    let mut hash = DefaultHasher::new();
    (&sent.topic, &sent.body).hash(&mut hash);
    format!("{:016x}", hash.finish())
}

fn attributes(sent: &Sent) -> [(String, String); 4] {
    let id = id(sent);
    [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "/test"), ("ce-type", "test.sent")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn authorization() -> (String, String) {
    ("authorization".to_owned(), "Bearer s3cret".to_owned())
}

#[async_trait]
impl Upstream for Senders {
    async fn start() -> Self {
        let ports = [Port::reserve(), Port::reserve()];
        let relays = [Relay::to(at(&ports[0])).await, Relay::to(at(&ports[1])).await];
        let sender = Sender::to(relays[0].address());
        Senders { ports, relays, sender }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Webhook
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, decodes: true, shares: true, ..Capabilities::NONE }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "listen": at(&self.ports[0]).to_string(),
            "endpoints": {"events": {"kind": "cloudevents", "secret": "s3cret"}},
            "in_flight": {"messages": in_flight},
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    fn comes_to_the_source(&self) -> bool {
        true
    }

    fn settings_of_replica(&self, mut settings: Value) -> Value {
        settings["listen"] = json!(at(&self.ports[1]).to_string());
        self.sender.and_to(self.relays[1].address());
        settings
    }

    async fn topic(&self, n: usize) -> String {
        format!("events/kind-{n}")
    }

    async fn publish(&self, messages: &[Sent]) {
        for message in messages {
            let fields = message.headers.iter().cloned().chain(attributes(message)).chain([authorization()]);
            self.sender.keep(format!("/{}", message.topic), fields.collect(), &message.body);
        }
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let own = [("x-webhook-endpoint", "events"), ("x-webhook-path", &sent.topic)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let senders = sent.headers.iter().map(|(name, value)| match name.as_str() {
            "Content-Type" => (name.clone(), value.clone()),
            other => (format!("x-webhook-{other}"), value.clone()),
        });
        own.into_iter().chain(senders).chain(attributes(sent)).collect()
    }

    async fn listening(&self, topics: &[String]) {
        // What is wanted is asked of the source at each message: there is nothing to wait for but its socket.
        let (at, expected) = (at(&self.ports[0]), !topics.is_empty());
        while TcpStream::connect(at).await.is_ok() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn down(&self) {
        self.sender.run(false);
    }

    async fn up(&self) {
        self.sender.run(true);
    }

    async fn cut(&self) {
        self.relays[0].cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        // Where nobody listens any more, what was answered is on its way to the sender.
        while self.sender.attempts() > 0 && TcpStream::connect(at(&self.ports[0])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(self.sender.acknowledged())
    }

    async fn publish_unreadable(&self, topic: &str) -> bool {
        let content_type = ("content-type".to_owned(), "application/cloudevents+json".to_owned());
        let body = Bytes::from_static(br#"{"specversion": "1.0", "id": 7}"#);
        self.sender.keep(format!("/{topic}"), vec![content_type, authorization()], &body);
        true
    }
}

testkit::source_contract!(Senders);
