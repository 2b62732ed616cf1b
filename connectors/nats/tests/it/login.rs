//! TLS and credentials.

use std::io::Write;

use connectors_sdk::{Retry, SourceError, describe};
use serde_json::{Value, json};
use testkit::servers::{Certificates, NatsConfig, NatsServer};

use crate::rig::Rig;

const CLIENT: &str = "openfaas_connector";

async fn asking(authorization: &str) -> NatsServer {
    NatsServer::with(NatsConfig { authorization: Some(authorization.to_owned()), ..NatsConfig::default() })
        .await
}

fn settings(server: &NatsServer, more: Value) -> Value {
    let mut settings = json!({"url": server.url(), "topics": ["a"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    settings
}

async fn gets_in(server: &NatsServer, more: Value) {
    let rig = Rig::connected(settings(server, more)).await;
    server.subscribed(CLIENT, &["a"]).await;
    rig.stopped().await;
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

#[tokio::test]
async fn a_password_opens_from_settings_files_and_the_address() {
    let server = asking("user: joe, password: \"s3cret:/@\"").await;
    let (user, password) = (file("joe"), file("s3cret:/@"));

    gets_in(&server, json!({"credentials": {"username": "joe", "password": "s3cret:/@"}})).await;
    gets_in(
        &server,
        json!({"credentials": {"username_file": user.path(), "password_file": password.path()}}),
    )
    .await;
    let with_password = server.url().replace("nats://", "nats://joe:s3cret%3A%2F%40@");
    gets_in(&server, json!({"url": with_password})).await;
}

#[tokio::test]
async fn a_token_opens() {
    let server = asking("token: t0ken").await;
    let token = file("t0ken");

    gets_in(&server, json!({"credentials": {"token": "t0ken"}})).await;
    gets_in(&server, json!({"credentials": {"token_file": token.path()}})).await;
    gets_in(&server, json!({"url": server.url().replace("nats://", "nats://t0ken@")})).await;
}

#[tokio::test]
async fn an_nkey_opens() {
    let key = nkeys::KeyPair::new_user();
    let server = asking(&format!("users: [ {{ nkey: {} }} ]", key.public_key())).await;
    let seed = file(&key.seed().unwrap());

    gets_in(&server, json!({"credentials": {"nkey_file": seed.path()}})).await;
}

#[tokio::test]
async fn a_wrong_password_is_the_servers_refusal_and_is_never_shown() {
    let mut server = asking("user: joe, password: s3cret").await;
    server.process().expect_error("authentication error");

    let error =
        Rig::start(settings(&server, json!({"credentials": {"username": "joe", "password": "hunter2"}})))
            .error()
            .await;

    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Soon);
    let shown = format!("{} {error:?}", describe(&error));
    assert!(!shown.contains("hunter2") && shown.contains("authorization violation"), "{shown}");
}

#[tokio::test]
async fn a_server_with_a_certificate_of_an_own_authority_is_trusted_by_its_file() {
    let certificates = Certificates::new();
    let config = NatsConfig { tls: Some(certificates.server()), ..NatsConfig::default() };
    let mut server = NatsServer::with(config).await;
    server.process().expect_error("TLS handshake error");

    gets_in(&server, json!({"tls": {"ca_file": certificates.ca()}})).await;

    let strangers = Certificates::new();
    let error = Rig::start(settings(&server, json!({"tls": {"ca_file": strangers.ca()}}))).error().await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("certificate"), "{}", describe(&error));
}

#[tokio::test]
async fn a_client_certificate_opens_where_the_server_asks_for_one() {
    let certificates = Certificates::new();
    let (cert_file, key_file) = certificates.client();
    let mut server = NatsServer::with(NatsConfig {
        tls: Some(certificates.server()),
        client_ca: Some(certificates.ca()),
        ..NatsConfig::default()
    })
    .await;
    server.process().expect_error("TLS handshake error");

    let tls = json!({"ca_file": certificates.ca(), "cert_file": cert_file, "key_file": key_file});
    gets_in(&server, json!({"tls": tls})).await;

    let error = Rig::start(settings(&server, json!({"tls": {"ca_file": certificates.ca()}}))).error().await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear_when_tls_is_asked_for() {
    let mut server = NatsServer::start().await;
    // It takes our handshake for a command.
    server.process().expect_error("parser ERROR");

    let error = Rig::start(settings(&server, json!({"tls": {}}))).error().await;

    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_file_is_named_with_its_setting() {
    let server = NatsServer::start().await;
    for (more, key) in [
        (json!({"tls": {"ca_file": "/nowhere/ca.pem"}}), "tls.ca_file"),
        (json!({"credentials": {"creds_file": "/nowhere/x.creds"}}), "credentials.creds_file"),
        (json!({"credentials": {"token_file": "/nowhere/token"}}), "credentials.token_file"),
    ] {
        let error = Rig::start(settings(&server, more)).error().await;

        assert!(matches!(&error, SourceError::Unusable { key: found, .. } if found == key), "{error:?}");
        assert!(describe(&error).to_string().contains("/nowhere/"), "{}", describe(&error));
        assert_eq!(error.retry(), Retry::Soon, "it may be mounted late");
    }
}

#[tokio::test]
async fn a_file_that_holds_no_credentials_is_named() {
    let server = NatsServer::start().await;
    let file = file("these are no credentials");

    let error =
        Rig::start(settings(&server, json!({"credentials": {"creds_file": file.path()}}))).error().await;

    assert!(
        matches!(&error, SourceError::Unusable { key, .. } if key == "credentials.creds_file"),
        "{error:?}"
    );
}
