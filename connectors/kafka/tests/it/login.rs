//! TLS and credentials.

use connectors_sdk::{Retry, SourceError, describe};
use serde_json::{Value, json};
use testkit::servers::kafka::{PASSWORD, Secure, USER};
use testkit::servers::{Certificates, Kafka, KafkaConfig};

use crate::cluster::{Record, publish, publisher};
use crate::rig::{Rig, Store};

async fn secured(certificates: &Certificates, client_certificates: bool) -> Kafka {
    let secure = Secure { client_certificates, ..Secure::with(certificates) };
    let kafka = Kafka::with(KafkaConfig { secure: Some(secure), ..KafkaConfig::default() }).await;
    kafka.create_topic("orders", 1, &[]).await;
    publish(&publisher(&kafka.bootstrap()), &[Record::of("orders", "1")]).await;
    kafka
}

fn settings(kafka: &Kafka, listener: &str, group: &str, more: Value) -> Value {
    let mut settings = json!({
        "brokers": kafka.bootstrap_of(listener), "topics": ["orders"], "group": group, "connect_timeout": "5s",
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    settings
}

async fn gets_in(kafka: &Kafka, listener: &str, group: &str, more: Value) {
    let rig = Rig::start(settings(kafka, listener, group, more), &Store::default());
    rig.connected().await;
    rig.store.has(1).await;
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_open_with_every_mechanism_in_the_clear_and_over_tls() {
    let certificates = Certificates::new();
    let kafka = secured(&certificates, false).await;
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), format!("{PASSWORD}\n")).unwrap();
    let of =
        |mechanism: &str| json!({"mechanism": mechanism, "username": USER, "password_file": password.path()});

    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        gets_in(&kafka, "sasl", mechanism, json!({"credentials": of(mechanism)})).await;
    }
    let tls = json!({"ca_file": certificates.ca()});
    gets_in(&kafka, "sasl-tls", "both", json!({"credentials": of("scram-sha-512"), "tls": tls})).await;

    let wrong =
        json!({"credentials": {"mechanism": "scram-sha-256", "username": USER, "password": "hunter2"}});
    let error = Rig::start(settings(&kafka, "sasl", "wrong", wrong), &Store::default()).error().await;
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Soon);
    let shown = format!("{} {error:?}", describe(&error));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_open_and_strangers_are_not_believed() {
    let certificates = Certificates::new();
    let kafka = secured(&certificates, true).await;
    let (cert_file, key_file) = certificates.client();
    let tls = json!({"ca_file": certificates.ca(), "cert_file": cert_file, "key_file": key_file});
    gets_in(&kafka, "tls", "certified", json!({"tls": tls})).await;
    let insecure = json!({"insecure": true, "cert_file": cert_file, "key_file": key_file});
    gets_in(&kafka, "tls", "insecure", json!({"tls": insecure})).await;

    let strangers = Certificates::new();
    for (tls, why) in [
        (json!({"ca_file": strangers.ca(), "cert_file": cert_file, "key_file": key_file}), "certificate"),
        (json!({"ca_file": certificates.ca()}), ""),
    ] {
        let rig = Rig::start(settings(&kafka, "tls", "refused", json!({"tls": tls})), &Store::default());
        let error = rig.error().await;
        assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
        assert!(describe(&error).to_string().contains(why), "{}", describe(&error));
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_holds_something_else_names_its_setting() {
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "no certificate").unwrap();
    for (more, key) in [
        (json!({"tls": {"ca_file": "/nowhere/ca.pem"}}), "tls.ca_file"),
        (json!({"tls": {"ca_file": other.path()}}), "tls"),
        (
            json!({"credentials": {"username": "a", "password_file": "/nowhere/password"}}),
            "credentials.password_file",
        ),
    ] {
        let mut settings = json!({"brokers": "127.0.0.1:1", "topics": ["a"]});
        for (name, value) in more.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let error = Rig::start(settings, &Store::default()).error().await;
        assert!(matches!(&error, SourceError::Unusable { key: found, .. } if found == key), "{error:?}");
        assert_eq!(error.retry(), Retry::Soon, "it may be mounted late");
    }
}
