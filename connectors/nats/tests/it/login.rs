//! TLS and credentials.

use std::io::Write;

use connectors_sdk::{Retry, SourceError, describe};
use serde_json::{Value, json};
use testkit::servers::{Certificates, NatsConfig, NatsServer};
use testkit::source::with;

use crate::rig::BUS;

const CLIENT: &str = "openfaas_connector";

async fn asking(authorization: &str) -> NatsServer {
    NatsServer::with(NatsConfig { authorization: Some(authorization.to_owned()), ..NatsConfig::default() })
        .await
}

fn settings(server: &NatsServer, more: Value) -> Value {
    with(json!({"url": server.url(), "topics": ["a"]}), more)
}

async fn gets_in(server: &NatsServer, more: Value) {
    let rig = BUS.connected(settings(server, more)).await;
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

    let error = BUS
        .start(settings(&server, json!({"credentials": {"username": "joe", "password": "hunter2"}})))
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
    let error = BUS.start(settings(&server, json!({"tls": {"ca_file": strangers.ca()}}))).error().await;
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

    let error = BUS.start(settings(&server, json!({"tls": {"ca_file": certificates.ca()}}))).error().await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear_when_tls_is_asked_for() {
    let mut server = NatsServer::start().await;
    // It takes our handshake for a command.
    server.process().expect_error("parser ERROR");

    let error = BUS.start(settings(&server, json!({"tls": {}}))).error().await;

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
        let error = BUS.start(settings(&server, more)).error().await;

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
        BUS.start(settings(&server, json!({"credentials": {"creds_file": file.path()}}))).error().await;

    assert!(
        matches!(&error, SourceError::Unusable { key, .. } if key == "credentials.creds_file"),
        "{error:?}"
    );
}

/// A JWT as `nsc` makes them, signed by this key.
fn jwt(signer: &nkeys::KeyPair, subject: &str, name: &str, nats: Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": name, "iat": 1_795_000_000, "iss": signer.public_key(), "sub": subject, "name": name, "nats": nats,
    });
    let signed = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims));
    let signature = signer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A server in operator mode with streams, and the credentials file of a user it knows by its account alone.
async fn operated() -> (NatsServer, tempfile::NamedTempFile) {
    let (operator, account, user) =
        (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
    let system = nkeys::KeyPair::new_account();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = |limits: &Value| json!({"limits": limits, "type": "account", "version": 2});
    let mut of_system = limits.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system[key] = json!(0);
    }
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator.public_key(), "evoke", json!({"type": "operator", "version": 2})),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account.public_key(), "shop", of_account(&limits)),
        system.public_key(),
        jwt(&operator, &system.public_key(), "system", of_account(&of_system)),
    );
    let server =
        NatsServer::with(NatsConfig { jetstream: true, more: config, ..NatsConfig::default() }).await;
    let rights =
        json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2});
    let jwt = jwt(&account, &user.public_key(), "evoke", rights);
    let creds = file(&format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    ));
    (server, creds)
}

#[tokio::test]
async fn a_credentials_file_opens_a_server_of_an_operator() {
    let (mut server, creds) = operated().await;
    server.process().expect_error("authentication error");
    let credentials = json!({"credentials": {"creds_file": creds.path()}});

    gets_in(&server, credentials.clone()).await;

    let (_other, strangers) = operated().await;
    let error =
        BUS.start(settings(&server, json!({"credentials": {"creds_file": strangers.path()}}))).error().await;
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");

    // The same for a stream.
    let options = async_nats::ConnectOptions::with_credentials_file(creds.path()).await.unwrap();
    let context = async_nats::jetstream::new(options.connect(server.url()).await.unwrap());
    let orders = async_nats::jetstream::stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders.>".to_owned()],
        ..Default::default()
    };
    context.create_stream(orders).await.unwrap();
    context.publish("orders.a", "1".into()).await.unwrap().await.unwrap();
    let mut stream = settings(&server, credentials);
    stream["topics"] = json!(["orders.a"]);
    stream["jetstream"] = json!({"stream": "ORDERS"});
    let rig = BUS.connected(stream).await;
    rig.has_just(&["1"]).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_stream_is_read_over_tls_with_a_client_certificate_and_an_nkey() {
    let certificates = Certificates::new();
    let (cert_file, key_file) = certificates.client();
    let key = nkeys::KeyPair::new_user();
    let mut server = NatsServer::with(NatsConfig {
        jetstream: true,
        authorization: Some(format!("users: [ {{ nkey: {} }} ]", key.public_key())),
        tls: Some(certificates.server()),
        client_ca: Some(certificates.ca()),
        ..NatsConfig::default()
    })
    .await;
    // The question whether it is ready was no handshake.
    server.process().expect_error("TLS handshake error");
    let options = async_nats::ConnectOptions::with_nkey(key.seed().unwrap())
        .add_root_certificates(certificates.ca())
        .add_client_certificate(cert_file.clone(), key_file.clone());
    let context = async_nats::jetstream::new(options.connect(server.url()).await.unwrap());
    let stream = async_nats::jetstream::stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["a".to_owned()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    context.publish("a", "1".into()).await.unwrap().await.unwrap();

    let rig = BUS
        .connected(settings(
            &server,
            json!({
                "jetstream": {"stream": "ORDERS"},
                "credentials": {"nkey": key.seed().unwrap()},
                "tls": {"ca_file": certificates.ca(), "cert_file": cert_file, "key_file": key_file},
            }),
        ))
        .await;
    rig.has_just(&["1"]).await;
    rig.stopped().await;
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_streams_is_refused_in_the_servers_words() {
    let denied =
        "users: [ { user: joe, password: s3cret, permissions: { publish: { deny: \"$JS.API.>\" } } } ]";
    let mut server = NatsServer::with(NatsConfig {
        jetstream: true,
        authorization: Some(denied.to_owned()),
        ..NatsConfig::default()
    })
    .await;
    server.process().expect_error("Publish Violation");
    let error = BUS
        .start(settings(
            &server,
            json!({
                "jetstream": {"stream": "ORDERS"},
                "credentials": {"username": "joe", "password": "s3cret"},
                "connect_timeout": "2s",
            }),
        ))
        .error()
        .await;

    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert!(describe(&error).to_string().to_lowercase().contains("permissions"), "{}", describe(&error));
}
