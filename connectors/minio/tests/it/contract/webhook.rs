//! A store that sends, and keeps what it could not.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::sender::Sender;
use testkit::servers::{Port, Relay};
use tokio::net::TcpStream;

use super::{Unwrapped, headers, topic, wrapped};

pub(super) struct Store {
    /// Of the source and of its replica.
    ports: [Port; 2],
    relays: [Relay; 2],
    sender: Sender,
}

impl Store {
    fn keep(&self, body: String) {
        let fields = [("authorization", "Bearer s3cret"), ("content-type", "application/json")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.sender.keep("/".to_owned(), fields.into(), &Bytes::from(body));
    }
}

#[async_trait]
impl Upstream for Store {
    async fn start() -> Self {
        let ports = [Port::reserve(), Port::reserve()];
        let relays = [Relay::to(ports[0].address()).await, Relay::to(ports[1].address()).await];
        let sender = Sender::to(relays[0].address());
        Store { ports, relays, sender }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Unwrapped
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, decodes: true, shares: true, ..Capabilities::NONE }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "listen": self.ports[0].address().to_string(), "token": "s3cret",
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
        settings["listen"] = json!(self.ports[1].address().to_string());
        self.sender.and_to(self.relays[1].address());
        settings
    }

    async fn topic(&self, n: usize) -> String {
        topic(n)
    }

    async fn publish(&self, messages: &[Sent]) {
        messages.iter().for_each(|message| self.keep(wrapped(message, "in%2Fa+b")));
    }

    fn expected(&self, sent: &Sent) -> Headers {
        headers(sent)
    }

    async fn listening(&self, topics: &[String]) {
        // What is wanted is asked of the source at each message: there is nothing to wait for but its socket.
        while TcpStream::connect(self.ports[0].address()).await.is_ok() == topics.is_empty() {
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
        while self.sender.attempts() > 0 && TcpStream::connect(self.ports[0].address()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(self.sender.acknowledged())
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        self.keep(r#"{"Records": [{"eventSource": "minio:s3"}]}"#.to_owned());
        true
    }
}

// `keeps_its_memory_bounded` is in the module above.
testkit::source_contract! { Store:
    delivers_bodies_and_headers_exactly
    takes_only_the_topics_it_is_told
    follows_what_functions_ask_for
    acknowledges_only_after_the_receipt
    offers_again_what_was_refused
    pushes_back_while_the_sink_hangs
    survives_restarts_of_its_upstream_under_load
    survives_cut_connections
    starts_before_its_upstream
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
