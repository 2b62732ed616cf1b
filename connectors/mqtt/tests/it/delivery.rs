//! Messages: retained, too large, of lower quality.

use connectors_sdk::SourceState;
use rumqttc_v5::QoS;
use serde_json::{Value, json};
use testkit::servers::{Mosquitto, MosquittoConfig};
use testkit::source::with;

use crate::publisher::Publisher;
use crate::rig::{THINGS, lost_connection_after};

async fn server() -> (Mosquitto, Publisher) {
    let server = Mosquitto::with(MosquittoConfig::default()).await;
    let publisher = Publisher::new(server.address());
    (server, publisher)
}

fn settings(server: &Mosquitto, more: Value) -> Value {
    with(json!({"url": server.url(), "client_id": "source", "topics": ["orders/#"]}), more)
}

/// Nobody may make the source end its connection over and over: the server would send the message again each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_beyond_the_limit_is_recorded_and_holds_up_nothing() {
    for protocol in ["5", "3.1.1"] {
        let (server, publisher) = server().await;
        let more = json!({"max_packet_size": "64KiB", "protocol": protocol});
        let rig = THINGS.connected(settings(&server, more)).await;

        publisher.send("orders/huge", vec![7; 100 * 1024]).await;
        publisher.send("orders/new", "next").await;

        rig.has_taken("next").await;
        rig.sees("the dead letter", |seen| seen.lost.len() == 1).await;
        let lost = &rig.sink.lost()[0];
        assert_eq!(lost.topic.as_ref().map(|topic| topic.as_str()), Some("orders/huge"));
        assert_eq!(lost.messages, Some(1));
        assert!(lost.what.contains("beyond max_packet_size (64KiB)"), "{}", lost.what);
        assert_eq!(rig.complaint(), *lost.what);
        assert_eq!(rig.status().disconnected.len(), 1, "only the start was without a connection");
        rig.stopped().await;

        // It was acknowledged: it does not come again.
        let rig = THINGS.connected(settings(&server, json!({"protocol": protocol}))).await;
        publisher.send("orders/new", "last").await;
        rig.has_taken("last").await;
        assert_eq!(rig.sink.bodies(), ["last"]);
        rig.stopped().await;
    }
}

/// What the store will never take is kept whole, and acknowledged then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_finds_too_large_is_kept_as_a_dead_letter() {
    let (server, publisher) = server().await;
    let rig = THINGS.connected(settings(&server, json!({}))).await;
    rig.sink.limit(10);

    publisher.send("orders/large", "more than ten bytes").await;
    publisher.send("orders/new", "small").await;

    rig.has_taken("small").await;
    rig.sees("the dead letter", |seen| seen.quarantined.len() == 1).await;
    let kept = &rig.sink.quarantined()[0];
    assert_eq!(kept.raw, "more than ten bytes");
    assert!(kept.why.contains("exceed the limit of 10"), "{}", kept.why);
    rig.stopped().await;
}

/// A retained message comes once, with a new subscription, and says so; live ones do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_come_with_a_new_subscription_only() {
    let (mut server, publisher) = server().await;
    publisher.retain("orders/state", "retained").await;
    let rig = THINGS.connected(settings(&server, json!({}))).await;
    rig.has_taken("retained").await;
    publisher.send("orders/new", "live").await;
    rig.has_taken("live").await;
    let marks: Vec<bool> =
        rig.sink.accepted().iter().map(|event| event.headers.get("x-mqtt-retain").is_some()).collect();
    assert_eq!(marks, [true, false]);

    server.terminate();
    server.start_again().await;
    publisher.send("orders/new", "after a restart").await;
    rig.has_taken("after a restart").await;
    rig.stopped().await;
    let rig = THINGS.connected(settings(&server, json!({}))).await;
    publisher.send("orders/new", "in a new run").await;
    rig.has_taken("in a new run").await;
    assert_eq!(rig.sink.bodies(), ["in a new run"]);
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_can_be_ignored() {
    for protocol in ["5", "3.1.1"] {
        let (server, publisher) = server().await;
        publisher.retain("orders/state", "retained").await;
        let more = json!({"retained": "ignore", "protocol": protocol});
        let rig = THINGS.connected(settings(&server, more)).await;
        publisher.retain("orders/state", "live").await;
        rig.has_taken("live").await;

        assert_eq!(rig.sink.bodies(), ["live"]);
        rig.stopped().await;
    }
}

/// A message is never given at a higher quality than it was published with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_choose_the_quality_too() {
    let (server, publisher) = server().await;
    let rig = THINGS.connected(settings(&server, json!({"qos": 2}))).await;

    for (qos, body) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        publisher.send_at(qos, "orders/new", body).await;
        rig.has_taken(body).await;
    }
    assert_eq!(rig.sink.bodies(), ["0", "1", "2"]);
    rig.stopped().await;
}

/// With QoS 0 a restart of the server is a gap that is recorded, and the way is whole after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_qos_0_an_outage_is_recorded() {
    let (mut server, publisher) = server().await;
    let rig = THINGS.connected(settings(&server, json!({"qos": 0}))).await;
    publisher.send("orders/new", "before").await;
    rig.has_taken("before").await;

    server.terminate();
    lost_connection_after(1, &rig).await;
    server.start_again().await;
    rig.is(SourceState::Connected).await;
    publisher.send("orders/new", "after").await;
    rig.has_taken("after").await;

    let gap = rig.status().disconnected[1];
    assert!(gap.until.is_some_and(|until| until >= gap.from));
    rig.stopped().await;
}
