//! MQTT over WebSocket: on RabbitMQ's own listeners, which speak 3.1.1, and for MQTT 5 through a bridge to Mosquitto, which
//! Debian builds without WebSocket.

use std::net::SocketAddr;

use async_tungstenite::tokio::accept_hdr_async;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use futures::StreamExt as _;
use rumqttc_v4::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value, json};
use testkit::servers::{Certificates, Mosquitto, Port, RabbitMq, RabbitMqConfig};
use testkit::source::with;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::publisher::Publisher;
use crate::rig::THINGS;

fn settings(url: &str, more: Value) -> Value {
    with(json!({"url": url, "client_id": "source", "topics": ["orders/+"]}), more)
}

/// Publishes over plain TCP, in MQTT 3.1.1.
async fn publish(server: SocketAddr, topic: &str, body: &'static str) {
    let options = MqttOptions::new("publisher", (server.ip().to_string(), server.port()));
    let (client, mut events) = AsyncClient::builder(options).capacity(8).build();
    let _polling = AbortOnDropHandle::new(tokio::spawn(async move { while events.poll().await.is_ok() {} }));
    let options = rumqttc_v4::PublishOptions::new(QoS::AtLeastOnce);
    client.publish_tracked(topic, body, options).await.unwrap().wait_async().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_listener_is_reached_with_and_without_tls() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.server();
    let secure = Port::reserve();
    let more = format!(
        "web_mqtt.ssl.ip = 127.0.0.1
web_mqtt.ssl.port = {}
web_mqtt.ssl.backlog = 64
web_mqtt.ssl.cacertfile = {}
web_mqtt.ssl.certfile = {}
web_mqtt.ssl.keyfile = {}
",
        secure.number(),
        certificates.ca().display(),
        certificate.display(),
        key.display()
    );
    let server = RabbitMq::with(RabbitMqConfig { mqtt: true, more, ..Default::default() }).await;
    let plain = format!("ws://{}/ws", server.listener("mqtt-websocket"));
    let encrypted = format!("wss://localhost:{}/ws", secure.number());
    let tls = json!({"protocol": "3.1.1", "tls": {"ca_file": certificates.ca()}});

    for (url, more) in [(plain, json!({"protocol": "3.1.1"})), (encrypted, tls)] {
        let rig = THINGS.connected(settings(&url, more)).await;
        publish(server.listener("mqtt"), "orders/new", "over a socket in a socket").await;
        rig.has_taken("over a socket in a socket").await;
        assert_eq!(rig.sink.accepted()[0].topic.as_str(), "orders/new");
        rig.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_5_passes_through_a_bridge_both_ways() {
    let server = Mosquitto::start().await;
    let publisher = Publisher::new(server.address());
    let (bridge, _bridging) = bridge(server.address()).await;
    let settings = || settings(&format!("ws://{bridge}/mqtt"), json!({}));
    let rig = THINGS.connected(settings()).await;

    // Larger than a frame, so that packets and frames do not coincide.
    let large = "x".repeat(300_000);
    publisher.send("orders/new", large.clone()).await;
    rig.has_taken(&large).await;
    rig.stopped().await;

    publisher.send("orders/new", "kept").await;
    let rig = THINGS.connected(settings()).await;
    rig.has_taken("kept").await;
    assert_eq!(rig.sink.bodies(), ["kept"], "what was acknowledged through the bridge does not come again");
    rig.stopped().await;
}

/// Passes WebSocket connections on to a server as plain ones.
async fn bridge(server: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(pass(connection, server));
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

#[allow(clippy::result_large_err, reason = "the shape of the library's callback")]
fn speaks_mqtt(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    const PROTOCOL: &str = "sec-websocket-protocol";
    assert_eq!(request.headers()[PROTOCOL], "mqtt");
    assert_eq!(request.uri().path(), "/mqtt");
    response.headers_mut().insert(PROTOCOL, request.headers()[PROTOCOL].clone());
    Ok(response)
}

async fn pass(connection: TcpStream, server: SocketAddr) {
    let mut web_socket = accept_hdr_async(connection, speaks_mqtt).await.unwrap();
    let mut plain = TcpStream::connect(server).await.unwrap();
    let mut buffer = vec![0; 1000];
    loop {
        tokio::select! {
            frame = web_socket.next() => match frame {
                Some(Ok(Message::Binary(bytes))) => plain.write_all(&bytes).await.unwrap(),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = plain.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    let frame = Message::Binary(buffer[..read].to_vec().into());
                    if web_socket.send(frame).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}
