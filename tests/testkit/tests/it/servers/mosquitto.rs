//! Mosquitto.

use testkit::servers::mosquitto::{Mosquitto, MosquittoConfig, MosquittoSecure};
use testkit::servers::{Certificates, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of MQTT 3.1.1, and what CONNACK says.
async fn connected(server: &Mosquitto) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    (stream, answer[3])
}

#[tokio::test]
async fn two_run_at_once_and_a_restart_loses_no_retained_message() {
    let mut server: Mosquitto = super::two_at_once::<MosquittoConfig>().await;
    let (mut stream, _) = connected(&server).await;
    // PUBLISH of "on" to `light`, retained, at QoS 1; then its PUBACK.
    stream.write_all(b"\x33\x0b\x00\x05light\x00\x01on").await.unwrap();
    let mut acknowledgement = [0; 4];
    stream.read_exact(&mut acknowledgement).await.unwrap();
    assert_eq!(acknowledgement, [0x40, 2, 0, 1]);

    server.terminate();
    server.start_again().await;

    let (mut stream, _) = connected(&server).await;
    stream.write_all(b"\x82\x0a\x00\x01\x00\x05light\x00").await.unwrap();
    let mut answers = vec![0; 5 + 11];
    stream.read_exact(&mut answers).await.unwrap();
    assert!(answers.ends_with(b"\x00\x05lighton"), "{answers:?}");
}

#[tokio::test]
async fn it_lets_in_whom_it_should() {
    let certificates = Certificates::new();
    let config = MosquittoConfig {
        secure: Some(MosquittoSecure::with(&certificates)),
        user: Some(("alice".into(), "secret".into())),
        ..MosquittoConfig::default()
    };

    let server = Mosquitto::with(config).await;

    assert_eq!(connected(&server).await.1, 5, "a stranger is not authorised");
    TcpStream::connect(server.tls()).await.unwrap();
    server.kind().is_ready(server.place()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let config = MosquittoConfig { more: "colour blue".into(), ..MosquittoConfig::default() };

    super::says_why_it_does_not_start(config, "colour").await;
}
