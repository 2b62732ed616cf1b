//! Notifications that the real MinIO sends to brokers: the same ones, and recognised as such.

use bytes::Bytes;
use connectors_sdk::{Event, EventForm, Reader, SourceName, Wildcards};
use serde_json::json;
use testkit::servers::minio::{Minio, MinioConfig, Target};
use testkit::servers::{Mosquitto, NatsServer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// One object is put, under a name that has to be written otherwise in a notification. The store sends as long as it lives.
async fn put_one(target: Target) -> Minio {
    let minio = Minio::with(MinioConfig { targets: vec![target.clone()], ..MinioConfig::default() }).await;
    minio.create_bucket("photos").await;
    minio.notify("photos", &target, &["s3:ObjectCreated:*"]).await;
    minio.put("photos", "in/a%20b%2B%C3%BC.txt", "hello").await;
    minio
}

/// The event that a source of any kind makes of the message.
fn event(body: Bytes) -> Event {
    let bus = SourceName::parse("bus").unwrap();
    let form = EventForm::read(&mut Reader::new(json!({})), &bus, "any", Wildcards::Glob);
    form.message("files", body).event().unwrap()
}

fn is_told(event: &Event) {
    let header = |name: &str| event.headers.text(name);
    assert_eq!(header("x-s3-event-name"), Some("s3:ObjectCreated:Put"), "{:?}", event.body);
    assert_eq!((header("x-s3-bucket"), header("x-s3-key")), (Some("photos"), Some("in/a b+ü.txt")));
    assert_eq!((header("x-s3-size"), event.topic.as_str()), (Some("5"), "files"));
    assert!(header("x-s3-sequencer").is_some() && event.time.is_some());
}

/// What MinIO of February 2026 sent of one object, or of the same object again. The Kafka and AMQP targets themselves are
/// met where their sources are.
#[test]
fn as_each_target_was_sent_it_a_notification_is_told_in_headers() {
    for (target, body) in [
        ("webhook", &include_bytes!("../captures/webhook.json")[..]),
        ("kafka", include_bytes!("../captures/kafka.json")),
        ("amqp", include_bytes!("../captures/amqp.json")),
        ("nats", include_bytes!("../captures/nats.json")),
        ("mqtt", include_bytes!("../captures/mqtt.json")),
    ] {
        let event = event(Bytes::from_static(body));
        let header = |name: &str| event.headers.text(name);
        assert_eq!(header("x-s3-event-name"), Some("s3:ObjectCreated:Put"), "{target}");
        assert_eq!(
            (header("x-s3-bucket"), header("x-s3-key")),
            (Some("photos"), Some("in/a b+ü%.txt")),
            "{target}"
        );
        assert_eq!((header("x-s3-size"), header("x-s3-records")), (Some("5"), None), "{target}");
        assert_eq!(header("x-s3-etag"), Some("5d41402abc4b2a76b9719d911017c592"), "{target}");
        assert_eq!(&event.body[..], body, "{target}: the body is not touched");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_nats_a_notification_is_told_in_headers() {
    let nats = NatsServer::start().await;
    let mut stream = BufReader::new(TcpStream::connect(nats.address()).await.unwrap());
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB files 1\r\nPING\r\n").await.unwrap();
    let mut line = String::new();
    while line != "PONG\r\n" {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
    }

    let _minio = put_one(Target::nats("t", &nats.address().to_string(), "files")).await;
    while !line.starts_with("MSG ") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the server hung up");
    }
    let length = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();

    is_told(&event(body.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_mqtt_a_notification_is_told_in_headers() {
    let mosquitto = Mosquitto::start().await;
    let mut stream = TcpStream::connect(mosquitto.address()).await.unwrap();
    // CONNECT, MQTT 3.1.1, a clean session of the client "c"; then SUBSCRIBE to "files" with QoS 0.
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await.unwrap();
    stream.write_all(b"\x82\x0a\0\x01\0\x05files\0").await.unwrap();
    let mut acknowledged = [0; 4 + 5];
    stream.read_exact(&mut acknowledged).await.unwrap();
    assert_eq!(&acknowledged[..4], b"\x20\x02\0\0");

    let _minio = put_one(Target::mqtt("t", &format!("tcp://{}", mosquitto.address()), "files")).await;
    assert_eq!(stream.read_u8().await.unwrap() & 0xf0, 0x30, "a PUBLISH");
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = usize::from(stream.read_u8().await.unwrap());
        length |= (byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await.unwrap();

    // Behind the length of the topic, and the topic.
    is_told(&event(Bytes::from(packet).slice(2 + "files".len()..)));
}
