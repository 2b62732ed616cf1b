//! A store that passes its notifications on to who listens, and keeps nothing.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::Port;

use super::{Unwrapped, headers, topic, wrapped};
use crate::stand_in::{Manner, StandIn};

pub(super) struct Store {
    port: Port,
    /// None while it is down.
    running: Mutex<Option<StandIn>>,
}

impl Store {
    /// What is said to nobody is gone.
    fn say(&self, line: &str) {
        if let Some(store) = &*self.running.lock().unwrap() {
            store.say(format!("{line}\n"));
        }
    }

    fn listeners(&self) -> usize {
        self.running.lock().unwrap().as_ref().map_or(0, StandIn::listeners)
    }

    /// A store has a queue for each listener, and here it must not drop what the source would have read: all of it is in the
    /// connection.
    async fn all_is_written(&self) {
        while self.running.lock().unwrap().as_ref().is_some_and(|store| !store.has_passed_all_on()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl Upstream for Store {
    async fn start() -> Self {
        let port = Port::reserve();
        let running = Mutex::new(Some(StandIn::at(port.address(), Manner::Streams).await));
        Store { port, running }
    }

    fn leaves_it_to_the_broker(&self) -> bool {
        // Until it knows that the broker has a complete list.
        true
    }

    fn connector(&self) -> &'static dyn Connector {
        &Unwrapped
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { decodes: true, ..Capabilities::NONE }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "endpoint": format!("http://{}", self.port.address()), "access_key": "a", "secret_key": "s",
            "repair": {"enabled": false}, "in_flight": {"messages": in_flight},
            // The stand-in says nothing that it is not told to say.
            "ping": "60s",
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        topic(n)
    }

    async fn publish(&self, messages: &[Sent]) {
        for message in messages {
            self.say(&wrapped(message, "in/a b"));
            self.all_is_written().await;
        }
    }

    fn expected(&self, sent: &Sent) -> Headers {
        headers(sent)
    }

    async fn listening(&self, topics: &[String]) {
        // The stream has everything: the source chooses.
        while (self.listeners() == 0) != topics.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn down(&self) {
        self.running.lock().unwrap().take();
    }

    async fn up(&self) {
        let store = StandIn::at(self.port.address(), Manner::Streams).await;
        *self.running.lock().unwrap() = Some(store);
    }

    async fn cut(&self) {
        self.running.lock().unwrap().as_ref().unwrap().cut();
        while self.listeners() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn acknowledged(&self) -> Option<u64> {
        None
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        self.say(r#"{"Records": [{"eventSource": "minio:s3"}]}"#);
        self.all_is_written().await;
        true
    }
}

// `keeps_its_memory_bounded` is in the module above; of acknowledgements, repetition and replicas the stream has none.
testkit::source_contract! { Store:
    delivers_bodies_and_headers_exactly
    takes_only_the_topics_it_is_told
    follows_what_functions_ask_for
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
    stops_while_everything_is_refused
    is_given_again_what_it_held_when_it_was_cut_off
}
