//! The contract of every source.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use connectors_mqtt::Mqtt;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::{Mosquitto, MosquittoConfig, Relay};
use testkit::source::PATIENCE;
use tokio::sync::Mutex;

use crate::publisher::Publisher;
use crate::server_log::ServerLog;

const CLIENT: &str = "under-test";
const REPLICA: &str = "under-test-2";

/// What differs between the ways in which a source may be set.
trait Way: Send + Sync + 'static {
    /// Settings beyond those of all.
    fn settings() -> Value;

    fn capabilities() -> Capabilities;

    /// Whether user properties arrive.
    const PROPERTIES: bool = true;
}

const REPLAYS: Capabilities = Capabilities { acknowledges: true, replays: true, ..Capabilities::NONE };

/// Mosquitto, and a source that is set in one way.
struct Server<W> {
    server: Mutex<Mosquitto>,
    log: Mutex<ServerLog>,
    relay: Relay,
    publisher: Publisher,
    way: PhantomData<W>,
}

#[async_trait]
impl<W: Way> Upstream for Server<W> {
    async fn start() -> Self {
        let log = ServerLog::new();
        // With MQTT 3.1.1 its own limit of 20 would do the source's work of pushing back.
        let more = "max_inflight_messages 0\n".to_owned();
        let server = log.server(MosquittoConfig { more, ..Default::default() }).await;
        let relay = Relay::to(server.address()).await;
        let publisher = Publisher::new(server.address());
        Server { server: Mutex::new(server), log: Mutex::new(log), relay, publisher, way: PhantomData }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Mqtt
    }

    fn capabilities(&self) -> Capabilities {
        W::capabilities()
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "url": format!("mqtt://{}", self.relay.address()),
            "client_id": CLIENT,
            "in_flight": {"messages": in_flight},
            "waiting": {"messages": in_flight},
            // It is the publisher's own, and different each time.
            "headers": {"deny": "id"},
        });
        for (key, value) in W::settings().as_object().unwrap() {
            settings[key] = value.clone();
        }
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    fn settings_of_replica(&self, mut settings: Value) -> Value {
        settings["client_id"] = json!(REPLICA);
        settings
    }

    async fn topic(&self, n: usize) -> String {
        format!("orders/kind-{n}")
    }

    async fn publish(&self, messages: &[Sent]) {
        self.publisher.publish(messages).await;
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let fields = sent.headers.iter().filter(|_| W::PROPERTIES);
        fields
            .map(|(name, value)| match name.as_str() {
                "Content-Type" => ("content-type".to_owned(), value.clone()),
                name => (format!("x-mqtt-{}", name.to_lowercase()), value.clone()),
            })
            .collect()
    }

    async fn listening(&self, topics: &[String]) {
        if topics.is_empty() {
            // Who leaves stays connected until what was begun is acknowledged, and takes no more meanwhile; only the source
            // itself knows. That it has left in the end is a test of its own.
            return;
        }
        // A loop of its own: what waits in an async closure is not seen to be `Send` by an async trait that awaits it.
        let (wanted, began) = (topics.iter().cloned().collect::<BTreeSet<_>>(), Instant::now());
        loop {
            let client = self.log.lock().await.client(CLIENT);
            if client.connected && client.subscriptions == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{client:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn down(&self) {
        self.server.lock().await.terminate();
    }

    async fn up(&self) {
        self.server.lock().await.start_again().await;
    }

    async fn cut(&self) {
        self.relay.cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        let acknowledges = W::capabilities().acknowledges;
        // What the server was sent before this exchange it has read, and written down, after it.
        self.publisher.send("barrier", "").await;
        let mut log = self.log.lock().await;
        acknowledges.then(|| log.client(CLIENT).acknowledged + log.client(REPLICA).acknowledged)
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        // A message of MQTT is a topic and bytes: there is nothing to decode.
        false
    }
}

/// MQTT 5 at QoS 1, with publishers that write an id.
struct V5;

impl Way for V5 {
    fn settings() -> Value {
        json!({"qos": 1, "id_property": "id"})
    }

    fn capabilities() -> Capabilities {
        REPLAYS
    }
}

mod v5 {
    testkit::source_contract!(super::Server<super::V5>);
}

/// MQTT 3.1.1 at QoS 1. It knows no identity of a message, so it cannot pass `repeats_nothing_already_received`;
/// `sessions.rs` holds what it can do.
struct V4;

impl Way for V4 {
    const PROPERTIES: bool = false;

    fn settings() -> Value {
        json!({"qos": 1, "protocol": "3.1.1"})
    }

    fn capabilities() -> Capabilities {
        REPLAYS
    }
}

mod v4 {
    testkit::source_contract! { super::Server<super::V4>:
        delivers_bodies_and_headers_exactly
        takes_only_the_topics_it_is_told
        follows_what_functions_ask_for
        acknowledges_only_after_the_receipt
        offers_again_what_was_refused
        pushes_back_while_the_sink_hangs
        keeps_its_memory_bounded
        survives_restarts_of_its_upstream_under_load
        survives_cut_connections
        starts_before_its_upstream
        hands_over_what_it_holds_when_it_stops
        leaves_its_upstream_while_it_is_held
        waits_for_a_slow_broker
        stops_while_everything_is_refused
        is_given_again_what_it_held_when_it_was_cut_off
    }
}

/// Two replicas in a group, which they leave when they stop.
struct TwoReplicas;

impl Way for TwoReplicas {
    fn settings() -> Value {
        json!({"group": "workers", "at_stop": "leave"})
    }

    fn capabilities() -> Capabilities {
        Capabilities { shares: true, ..REPLAYS }
    }
}

mod shared {
    testkit::source_contract! { super::Server<super::TwoReplicas>:
        takes_only_the_topics_it_is_told
        follows_what_functions_ask_for
        survives_cut_connections
        shares_the_work_between_replicas
    }
}

/// QoS 0: sent once, to whoever is connected.
struct Qos0;

impl Way for Qos0 {
    fn settings() -> Value {
        json!({"qos": 0})
    }

    fn capabilities() -> Capabilities {
        Capabilities::NONE
    }
}

mod qos0 {
    testkit::source_contract! { super::Server<super::Qos0>:
        delivers_bodies_and_headers_exactly
        takes_only_the_topics_it_is_told
        follows_what_functions_ask_for
        offers_again_what_was_refused
        pushes_back_while_the_sink_hangs
        keeps_its_memory_bounded
        survives_cut_connections
        starts_before_its_upstream
        hands_over_what_it_holds_when_it_stops
        leaves_its_upstream_while_it_is_held
        waits_for_a_slow_broker
        stops_while_everything_is_refused
    }
}
