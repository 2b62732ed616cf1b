//! What is subscribed to: overlaps, refusals, what an earlier run left.

use std::path::Path;

use serde_json::{Value, json};
use testkit::servers::{Mosquitto, MosquittoConfig};
use testkit::source::{PATIENCE, with};
use testkit::time::eventually;

use crate::publisher::Publisher;
use crate::rig::THINGS;
use crate::server_log::ServerLog;

fn settings(server: &Mosquitto, more: Value) -> Value {
    with(json!({"url": server.url(), "client_id": "source"}), more)
}

/// The server sends a copy for each subscription a message meets. One is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_subscriptions_give_each_message_once() {
    let mut log = ServerLog::new();
    let server = log.server(MosquittoConfig::default()).await;
    let publisher = Publisher::new(server.address());
    let topics = json!(["home/+/temperature", "home/kitchen/+", "home/kitchen/temperature"]);
    let rig = THINGS.connected(settings(&server, json!({"topics": topics}))).await;
    assert_eq!(log.client("source").subscriptions.len(), 2, "one is covered by the others");

    publisher.send("home/kitchen/temperature", "both").await;
    publisher.send("home/kitchen/light", "one").await;
    publisher.send("home/bath/temperature", "other").await;

    rig.has_taken("other").await;
    assert_eq!(rig.sink.bodies(), ["both", "one", "other"]);
    // Each of the four was acknowledged, the copy as well.
    eventually(PATIENCE, "the acknowledgements", async || log.client("source").acknowledged == 4).await;
    rig.stopped().await;
}

/// MQTT 3.1.1 does not say for which subscription a message came: a filter that another covers is not asked for. Where
/// filters only meet it is the server's to decide, and Mosquitto sends one message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_mqtt_3_only_covered_filters_are_spared() {
    let mut log = ServerLog::new();
    let server = log.server(MosquittoConfig::default()).await;
    let publisher = Publisher::new(server.address());
    let covered = json!({"protocol": "3.1.1", "topics": ["home/#", "home/kitchen/+", "home/kitchen/light"]});
    let rig = THINGS.connected(settings(&server, covered)).await;
    assert_eq!(log.client("source").subscriptions, ["home/#".to_owned()].into());
    publisher.send("home/kitchen/light", "once").await;
    publisher.send("home/kitchen/light", "next").await;
    rig.has_taken("next").await;
    assert_eq!(rig.sink.bodies(), ["once", "next"]);
    rig.stopped().await;

    let met = json!({"protocol": "3.1.1", "clean": true, "topics": ["home/+/light", "home/kitchen/+"]});
    let rig = THINGS.connected(settings(&server, met)).await;
    publisher.send("home/kitchen/light", "met").await;
    publisher.send("home/bath/light", "last").await;
    rig.has_taken("last").await;
    assert_eq!(rig.sink.bodies(), ["met", "last"]);
    rig.stopped().await;
}

/// A refusal is told of by its topic, and stops no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_subscription_is_reported_by_its_topic() {
    let folder = tempfile::tempdir().unwrap();
    for protocol in ["5", "3.1.1"] {
        let server = Mosquitto::with(MosquittoConfig {
            more: allowing("open/#", folder.path()),
            ..Default::default()
        })
        .await;
        let publisher = Publisher::new(server.address());
        let more = json!({"protocol": protocol, "topics": ["open/#", "secret/#"]});
        let rig = THINGS.connected(settings(&server, more)).await;

        rig.complains("secret/#: the server refuses the subscription").await;
        assert_eq!(rig.status().subscriptions, ["open/#"]);
        publisher.send("open/a", "taken").await;
        rig.has_taken("taken").await;
        rig.stopped().await;
    }
}

/// Configuration of Mosquitto's own plugin for permissions: anybody may subscribe to this alone.
fn allowing(filter: &str, folder: &Path) -> String {
    let plugin = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/mosquitto_dynamic_security.so"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("Debian's mosquitto brings its plugin for permissions");
    let permissions = json!({
        "defaultACLAccess": {
            "publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true
        },
        "clients": [],
        "groups": [{"groupname": "everybody", "roles": [{"rolename": "reader"}]}],
        "roles": [{
            "rolename": "reader",
            "acls": [{"acltype": "subscribePattern", "topic": filter, "priority": 0, "allow": true}]
        }],
        "anonymousGroup": "everybody",
    });
    let file = folder.join("permissions.json");
    std::fs::write(&file, permissions.to_string()).unwrap();
    format!("plugin {plugin}\nplugin_opt_config_file {}\n", file.display())
}

/// The server may grant less than was asked for; that is said, because what was promised does not hold then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_quality_than_asked_for_is_reported() {
    let more = "max_qos 0\n".to_owned();
    let server = Mosquitto::with(MosquittoConfig { more, ..Default::default() }).await;

    let rig = THINGS.connected(settings(&server, json!({"topics": ["orders"], "qos": 1}))).await;

    rig.complains("orders: the server grants QoS 0 instead of 1").await;
    assert_eq!(rig.status().subscriptions, ["orders"]);
    rig.stopped().await;
}

/// The session outlives a configuration. What it is subscribed to and nobody wants is ended when something comes for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_configuration_left_is_ended_or_reported() {
    let mut log = ServerLog::new();
    let server = log.server(MosquittoConfig::default()).await;
    let publisher = Publisher::new(server.address());
    THINGS.connected(settings(&server, json!({"topics": ["old", "older/+"]}))).await.stopped().await;

    let rig = THINGS.connected(settings(&server, json!({"topics": ["new"]}))).await;
    publisher.send("old", "1").await;
    rig.has_taken("1").await;
    eventually(PATIENCE, "the old one to be ended", async || {
        !log.client("source").subscriptions.contains("old")
    })
    .await;
    publisher.send("older/x", "2").await;
    rig.complains("older/x comes for a subscription that an earlier configuration left").await;
    rig.stopped().await;

    let clean = json!({"topics": ["new"], "clean": true});
    THINGS.connected(settings(&server, clean)).await.stopped().await;
    assert_eq!(log.client("source").subscriptions, ["new".to_owned()].into());
}
