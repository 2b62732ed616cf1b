//! What a build without TLS can do: run with `--no-default-features`.

use serde_json::json;
use testkit::servers::kafka::{PASSWORD, Secure, USER};
use testkit::servers::{Certificates, Kafka, KafkaConfig};

use crate::cluster::{Record, publish, publisher};
use crate::rig::{Rig, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_connections_and_plain_passwords_need_no_tls() {
    let certificates = Certificates::new();
    let secure = Secure { client_certificates: false, ..Secure::with(&certificates) };
    let kafka = Kafka::with(KafkaConfig { secure: Some(secure), ..KafkaConfig::default() }).await;
    kafka.create_topic("orders", 1, &[]).await;
    publish(&publisher(&kafka.bootstrap()), &[Record::of("orders", "1")]).await;

    let settings = json!({"brokers": kafka.bootstrap(), "topics": ["orders"], "group": "open"});
    let rig = Rig::start(settings, &Store::default());
    rig.connected().await;
    rig.store.has(1).await;
    rig.stopped().await;

    let credentials = json!({"mechanism": "plain", "username": USER, "password": PASSWORD});
    let settings = json!({
        "brokers": kafka.bootstrap_of("sasl"), "topics": ["orders"], "group": "named", "credentials": credentials,
    });
    let rig = Rig::start(settings, &Store::default());
    rig.connected().await;
    rig.store.has(1).await;
    rig.stopped().await;
}
