//! Who we are, whom we believe, and where.

use std::io::Write;
use std::time::{Duration, Instant};

use connectors_sdk::{Retry, SourceError, describe};
use serde_json::{Value, json};
use testkit::servers::Certificates;
use testkit::source::{PATIENCE, with};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::client::{Client, Message};
use crate::rig::{CERTIFICATES, ELSEWHERE, READER, TASKS, fresh, shared};

/// The shared server with these settings beside its address without credentials.
async fn settings(more: Value) -> Value {
    let address = shared().await.address();
    with(json!({"url": format!("amqp://{address}"), "topics": ["nothing"]}), more)
}

async fn gets_in(more: Value) {
    TASKS.connected(settings(more).await).await.stopped().await;
}

async fn fails(more: Value) -> SourceError {
    TASKS.start(settings(more).await).error().await
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

#[tokio::test]
async fn a_password_opens_from_settings_files_and_the_address() {
    let (user, password) = (file(READER), file("r:/@"));
    let with_password = format!("amqp://{READER}:r%3A%2F%40@{}", shared().await.address());

    gets_in(json!({})).await;
    gets_in(json!({"credentials": {"username": READER, "password": "r:/@"}})).await;
    gets_in(json!({"credentials": {"username_file": user.path(), "password_file": password.path()}})).await;
    gets_in(json!({"url": with_password})).await;
}

#[tokio::test]
async fn a_wrong_password_is_the_servers_refusal_and_is_never_shown() {
    let error = fails(json!({"credentials": {"username": READER, "password": "hunter2"}})).await;

    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Soon);
    let shown = format!("{} {error:?}", describe(&error));
    assert!(!shown.contains("hunter2") && shown.contains("ACCESS_REFUSED"), "{shown}");
}

#[tokio::test]
async fn a_virtual_host_that_is_not_there_or_not_for_us_is_a_refusal() {
    let address = shared().await.address();
    let missing = fails(json!({"url": format!("amqp://{address}/nowhere")})).await;
    assert!(matches!(missing, SourceError::Refused { .. }), "{missing:?}");
    assert!(describe(&missing).to_string().contains("nowhere"), "{}", describe(&missing));

    let url = format!("amqp://{address}/{}", ELSEWHERE.replace('/', "%2f"));
    let forbidden = fails(json!({"url": url, "credentials": {"username": READER, "password": "r:/@"}})).await;
    assert!(matches!(forbidden, SourceError::Refused { .. }), "{forbidden:?}");
}

#[tokio::test]
async fn queues_of_one_name_in_two_virtual_hosts_are_two() {
    let server = shared().await;
    let elsewhere = server.url().replace("%2f", &ELSEWHERE.replace('/', "%2f"));
    let (here, there) = (Client::of(server.url()), Client::of(elsewhere.clone()));
    let queue = fresh("same-name");
    here.queue(&queue, "classic").await;
    there.queue(&queue, "classic").await;

    let rig = TASKS.connected(json!({"url": elsewhere, "topics": [queue]})).await;
    here.publish(&[Message::to(&queue, "here")]).await;
    there.publish(&[Message::to(&queue, "there")]).await;
    rig.has(1).await;

    assert_eq!(rig.stopped().await.accepted()[0].body, "there");
    assert_eq!(here.look(&queue).await, Some((1, 0)));
}

#[tokio::test]
async fn a_server_with_a_certificate_of_an_own_authority_is_trusted_by_its_file() {
    let (cert_file, key_file) = CERTIFICATES.client();
    let url = format!("amqps://{}", shared().await.listener("tls"));
    let tls = |ca| json!({"ca_file": ca, "cert_file": cert_file, "key_file": key_file});

    gets_in(json!({"url": url, "tls": tls(CERTIFICATES.ca())})).await;

    let strangers = Certificates::new();
    let error = fails(json!({"url": url, "tls": tls(strangers.ca())})).await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("certificate"), "{}", describe(&error));
}

#[tokio::test]
async fn a_client_certificate_opens_where_the_server_asks_for_one() {
    let url = format!("amqps://{}", shared().await.listener("tls"));

    let error = fails(json!({"url": url, "tls": {"ca_file": CERTIFICATES.ca()}})).await;

    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn any_server_is_believed_only_where_that_is_said() {
    let (cert_file, key_file) = CERTIFICATES.client();
    let url = format!("amqps://{}", shared().await.listener("tls"));
    let tls = json!({"insecure": true, "cert_file": cert_file, "key_file": key_file});
    let rig =
        TASKS.connected(settings(json!({"url": url, "tls": tls, "topics": "from-functions"})).await).await;

    assert!(rig.complaint().contains("not checked"), "{}", rig.complaint());
    rig.stopped().await;
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear_when_tls_is_asked_for() {
    let error = fails(json!({"tls": {}})).await;

    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_file_is_named_with_its_setting() {
    let url = format!("amqps://{}", shared().await.listener("tls"));
    for (more, key) in [
        (json!({"url": url, "tls": {"ca_file": "/nowhere/ca.pem"}}), "tls.ca_file"),
        (
            json!({"credentials": {"username": "u", "password_file": "/nowhere/password"}}),
            "credentials.password_file",
        ),
    ] {
        let error = fails(more).await;

        assert!(matches!(&error, SourceError::Unusable { key: found, .. } if found == key), "{error:?}");
        assert!(describe(&error).to_string().contains("/nowhere/"), "{}", describe(&error));
        assert_eq!(error.retry(), Retry::Soon, "it may be mounted late");
    }
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_away() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let here = shared().await.address();

    gets_in(json!({"url": [format!("amqp://{away}"), format!("amqp://{here}")]})).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_and_its_socket_closed() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", silent.local_addr().unwrap());
    let began = Instant::now();
    let rig = TASKS.start(json!({"url": url, "connect_timeout": "300ms"}));
    let (mut socket, _) = silent.accept().await.unwrap();

    let error = rig.error().await;

    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(describe(&error).to_string().contains("connect_timeout"), "{}", describe(&error));
    assert!(began.elapsed() >= Duration::from_millis(300));
    // The greeting, then the end: nobody of ours is left on it.
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, b"AMQP\x00\x00\x09\x01");
}
