//! What the session at the server keeps, and what is known again when it comes again.

use connectors_sdk::SourceState;
use rumqttc_v5::QoS;
use serde_json::{Value, json};
use testkit::servers::{Mosquitto, MosquittoConfig, Relay};
use testkit::source::{Mode, PATIENCE, with};
use testkit::time::eventually;

use crate::publisher::Publisher;
use crate::rig::{THINGS, lost_connection_after};
use crate::server_log::ServerLog;

/// A server whose connections to the source can be cut.
struct World {
    server: Mosquitto,
    log: ServerLog,
    relay: Relay,
    publisher: Publisher,
}

impl World {
    async fn start() -> World {
        let log = ServerLog::new();
        let server = log.server(MosquittoConfig::default()).await;
        let relay = Relay::to(server.address()).await;
        let publisher = Publisher::new(server.address());
        World { server, log, relay, publisher }
    }

    fn settings(&self, more: Value) -> Value {
        let base = json!({
            "url": format!("mqtt://{}", self.relay.address()),
            "client_id": "source",
            "topics": ["orders/#"],
        });
        with(base, more)
    }

    async fn has_acknowledged(&mut self, messages: u64) {
        eventually(PATIENCE, "acknowledgements", async || {
            let client = self.log.client("source");
            if client.acknowledged == messages { Ok(()) } else { Err(format!("{client:?}")) }
        })
        .await;
    }
}

const NUMBERS: [&str; 5] = ["0", "1", "2", "3", "4"];

/// Cut off while the broker takes nothing: the server sends all of it again, and nothing runs twice.
async fn what_comes_again_runs_once(qos: QoS, settings: Value) {
    let mut world = World::start().await;
    let rig = THINGS.connected(world.settings(settings)).await;
    rig.sink.mode(Mode::Hang);
    for number in NUMBERS {
        world.publisher.send_at(qos, "orders/new", number).await;
    }
    rig.is_offered(5).await;

    let gaps = rig.status().disconnected.len();
    world.relay.cut();
    lost_connection_after(gaps, &rig).await;
    rig.is(SourceState::Connected).await;
    eventually(PATIENCE, "everything to be sent again", async || {
        let client = world.log.client("source");
        if client.sent == 10 { Ok(()) } else { Err(format!("{client:?}")) }
    })
    .await;
    assert_eq!(world.log.client("source").acknowledged, 0);

    rig.sink.mode(Mode::Accept);
    world.has_acknowledged(5).await;
    world.publisher.send("orders/new", "last").await;
    rig.has_taken("last").await;
    // They were let go all at once, in no order.
    let mut bodies = rig.sink.bodies();
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "last"]);
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_on_the_next_connection_runs_once() {
    what_comes_again_runs_once(QoS::AtLeastOnce, json!({"qos": 1})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_with_qos_2() {
    what_comes_again_runs_once(QoS::ExactlyOnce, json!({"qos": 2})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_with_mqtt_3() {
    what_comes_again_runs_once(QoS::AtLeastOnce, json!({"qos": 1, "protocol": "3.1.1"})).await;
    what_comes_again_runs_once(QoS::ExactlyOnce, json!({"qos": 2, "protocol": "3.1.1"})).await;
}

/// What went into the store while there was no connection is acknowledged when it comes again, not before and not twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_without_a_connection_is_acknowledged_when_it_comes_again() {
    let mut world = World::start().await;
    let rig = THINGS.connected(world.settings(json!({}))).await;
    rig.sink.mode(Mode::Hang);
    for number in NUMBERS {
        world.publisher.send("orders/new", number).await;
    }
    rig.is_offered(5).await;
    let gaps = rig.status().disconnected.len();
    world.server.terminate();
    lost_connection_after(gaps, &rig).await;

    rig.sink.mode(Mode::Accept);
    rig.has(NUMBERS.len()).await;
    world.server.start_again().await;

    world.has_acknowledged(5).await;
    world.publisher.send("orders/new", "last").await;
    rig.has_taken("last").await;
    assert_eq!(rig.sink.bodies().len(), NUMBERS.len() + 1, "{:?}", rig.sink.bodies());
    rig.stopped().await;
}

/// The honest limit: MQTT knows no identity of a message. A broker that is killed between store and acknowledgement runs what
/// was between them again, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_id_of_the_publisher_a_new_run_knows_nothing_again() {
    let world = World::start().await;
    let rig = THINGS.connected(world.settings(json!({}))).await;
    world.publisher.send("orders/new", "acknowledged").await;
    rig.has_taken("acknowledged").await;
    rig.sink.mode(Mode::Hang);
    world.publisher.send("orders/new", "held").await;
    rig.is_offered(2).await;
    rig.cut_off().await;

    let rig = THINGS.connected(world.settings(json!({}))).await;
    rig.has_taken("held").await;
    assert!(rig.sink.accepted().iter().all(|event| event.dedup.is_none()), "nothing it could be known by");
    rig.stopped().await;
}

/// A stop says good-bye, so that nothing is sent to somebody who is gone; the session keeps what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_the_session_or_the_topics_as_it_is_told() {
    let mut world = World::start().await;
    THINGS.connected(world.settings(json!({}))).await.stopped().await;
    eventually(PATIENCE, "the good-bye", async || world.log.client("source").took_leave).await;
    assert_eq!(world.log.client("source").subscriptions.len(), 1);
    world.publisher.send("orders/new", "kept").await;

    let rig = THINGS.connected(world.settings(json!({"at_stop": "leave"}))).await;
    rig.has_taken("kept").await;
    rig.stopped().await;
    eventually(PATIENCE, "the good-bye", async || world.log.client("source").took_leave).await;
    assert!(world.log.client("source").subscriptions.is_empty());
}

/// `clean` forgets what came meanwhile and what an earlier run subscribed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_session_begins_with_nothing() {
    let world = World::start().await;
    THINGS.connected(world.settings(json!({}))).await.stopped().await;
    world.publisher.send("orders/new", "forgotten").await;

    let rig = THINGS.connected(world.settings(json!({"clean": true, "topics": ["orders/+"]}))).await;
    world.publisher.send("orders/new", "taken").await;
    rig.has_taken("taken").await;
    assert_eq!(rig.sink.bodies(), ["taken"]);
    rig.stopped().await;
}

/// Two clients of one id throw each other out for ever; the waits grow meanwhile, and the reason is guessed. (With MQTT 5 a
/// server may say it. Mosquitto 2.0.11 does not.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_of_one_id_are_recognised() {
    let world = World::start().await;
    for protocol in ["5", "3.1.1"] {
        let settings = || world.settings(json!({"protocol": protocol}));
        let rig = THINGS.connected(settings()).await;
        let other = THINGS.connected(settings()).await;

        rig.complains("times in a row, as when another client has the client id \"source\"").await;
        drop(other);
        rig.is(SourceState::Connected).await;
        rig.stopped().await;
    }
}

/// A source that is stopped while its server is away ends at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_while_its_server_is_away() {
    let mut world = World::start().await;
    let rig = THINGS.connected(world.settings(json!({}))).await;
    let gaps = rig.status().disconnected.len();
    world.server.terminate();
    lost_connection_after(gaps, &rig).await;

    assert_eq!(rig.status().state, SourceState::Connecting);
    rig.stopped().await;
}
