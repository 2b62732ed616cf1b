//! TLS, client certificates, passwords.

use connectors_sdk::{SourceError, describe};
use serde_json::{Value, json};
use testkit::servers::{Certificates, Mosquitto, MosquittoConfig, MosquittoSecure};

use crate::publisher::Publisher;
use crate::rig::THINGS;

async fn secured(client_certificates: bool) -> (Mosquitto, Certificates) {
    let certificates = Certificates::new();
    let secure = MosquittoSecure { client_certificates, ..MosquittoSecure::with(&certificates) };
    let server = Mosquitto::with(MosquittoConfig { secure: Some(secure), ..Default::default() }).await;
    (server, certificates)
}

fn settings(server: &Mosquitto, protocol: &str, tls: Value) -> Value {
    let url = format!("mqtts://localhost:{}", server.tls().port());
    json!({"url": url, "client_id": "source", "topics": ["orders"], "protocol": protocol, "tls": tls})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_our_own_opens_a_server_that_asks_for_one() {
    let (server, certificates) = secured(true).await;
    let publisher = Publisher::new(server.address());
    let (cert, key) = certificates.client();
    for protocol in ["5", "3.1.1"] {
        let tls = json!({"ca_file": certificates.ca(), "cert_file": cert, "key_file": key});
        let rig = THINGS.connected(settings(&server, protocol, tls)).await;
        publisher.send("orders", protocol).await;
        rig.has_taken(protocol).await;
        rig.stopped().await;

        let without = THINGS.start(settings(&server, protocol, json!({"ca_file": certificates.ca()})));
        assert!(matches!(without.error().await, SourceError::Unreachable { .. }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_believed_by_its_authority_alone() {
    let (server, certificates) = secured(false).await;
    let other = Certificates::new();

    let error = THINGS.start(settings(&server, "5", json!({"ca_file": other.ca()}))).error().await;
    assert!(describe(&error).to_string().contains("certificate"), "{}", describe(&error));

    let insecure = THINGS.connected(settings(&server, "5", json!({"insecure": true}))).await;
    assert!(insecure.complaint().contains("tls.insecure"), "{}", insecure.complaint());
    insecure.stopped().await;
    let trusting = THINGS.connected(settings(&server, "5", json!({"ca_file": certificates.ca()}))).await;
    assert_eq!(trusting.complaint(), "");
    trusting.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_from_a_file_is_read_at_each_connection() {
    let user = Some(("evoke".to_owned(), "s3cret".to_owned()));
    let server = Mosquitto::with(MosquittoConfig { user, ..Default::default() }).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for protocol in ["5", "3.1.1"] {
        let settings = || {
            let credentials = json!({"username": "evoke", "password_file": file.path()});
            json!({"url": server.url(), "protocol": protocol, "topics": ["orders"], "credentials": credentials})
        };
        std::fs::write(file.path(), "wrong\n").unwrap();
        let error = THINGS.start(settings()).error().await;
        assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
        assert!(!describe(&error).to_string().contains("wrong"));

        std::fs::write(file.path(), "s3cret\n").unwrap();
        THINGS.connected(settings()).await.stopped().await;
    }

    let in_url = format!("mqtt://evoke:s3cret@{}", server.address());
    THINGS.connected(json!({"url": in_url, "topics": ["orders"]})).await.stopped().await;
}
