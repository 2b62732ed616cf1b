//! nats-server.

use serde_json::Value;
use testkit::servers::{Kind, NatsConfig, NatsRelease, NatsServer, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Publishes a request and hands out the answer.
async fn ask(server: &NatsServer, subject: &str, request: &str) -> Value {
    let mut stream = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
    let text = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{request}\r\n",
        request.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut lines = stream.lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("MSG answer") {
            return serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        }
    }
    panic!("the connection ended without an answer")
}

#[tokio::test]
async fn two_run_at_once_of_either_release() {
    let current = super::two_at_once::<NatsConfig>().await;
    let oldest = NatsServer::with(NatsConfig { release: NatsRelease::Oldest, ..NatsConfig::default() }).await;

    for server in [current, oldest] {
        assert!(server.subscriptions().await.is_empty());
    }
}

#[tokio::test]
async fn streams_outlive_a_crash() {
    let mut server = NatsServer::with(NatsConfig { jetstream: true, ..NatsConfig::default() }).await;
    let made =
        ask(&server, "$JS.API.STREAM.CREATE.orders", r#"{"name":"orders","subjects":["orders.*"]}"#).await;
    assert_eq!(made["error"], Value::Null, "{made}");

    server.kill();
    server.start_again().await;

    let names = ask(&server, "$JS.API.STREAM.NAMES", "").await;
    assert_eq!(names["streams"][0], "orders", "{names}");
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let config = NatsConfig { more: "max_payload: none\n".into(), ..NatsConfig::default() };

    super::says_why_it_does_not_start(config, "nats.conf:4").await;
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() {
    let mut server: Server<NatsConfig> = NatsServer::start().await;

    server.pause();
    let asked =
        tokio::time::timeout(std::time::Duration::from_millis(50), server.kind().is_ready(server.place()));
    assert!(asked.await.is_err(), "it answers");
    server.resume();

    server.kind().is_ready(server.place()).await.unwrap();
}
