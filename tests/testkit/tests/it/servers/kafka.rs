//! Kafka.

use testkit::servers::kafka::{Kafka, KafkaConfig, Secure};
use testkit::servers::{Certificates, Port};
use tokio::net::TcpStream;

#[tokio::test]
async fn two_run_at_once_and_a_crash_or_a_restart_loses_no_topic() {
    let mut kafka: Kafka = super::two_at_once::<KafkaConfig>().await;
    assert!(kafka.topics().await.is_empty(), "nothing but what a test makes is there");
    kafka.create_topic("orders", 3, &[("retention.ms", "60000")]).await;
    let address = kafka.address();

    kafka.kill();
    kafka.start_again().await;
    kafka.create_topic("bills", 1, &[]).await;
    kafka.terminate();
    kafka.start_again().await;

    assert_eq!(kafka.address(), address);
    let mut topics = kafka.topics().await;
    topics.sort();
    assert_eq!(topics, ["bills", "orders"]);
}

#[tokio::test]
async fn all_listeners_are_there_when_asked_for() {
    let (certificates, proxy) = (Certificates::new(), Port::reserve());
    let config = KafkaConfig {
        secure: Some(Secure::with(&certificates)),
        proxy: Some(proxy.address()),
        ..KafkaConfig::default()
    };

    let kafka = Kafka::with(config).await;

    for listener in ["tls", "sasl", "sasl-tls"] {
        TcpStream::connect(kafka.bootstrap_of(listener)).await.unwrap();
    }
    TcpStream::connect(kafka.behind_proxy()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let config = KafkaConfig { more: "num.io.threads=none".into(), ..KafkaConfig::default() };

    super::says_why_it_does_not_start(config, "num.io.threads").await;
}
