//! RabbitMQ.

use testkit::servers::Certificates;
use testkit::servers::rabbitmq::{RabbitMq, RabbitMqConfig, RabbitMqSecure};
use tokio::net::TcpStream;

#[tokio::test]
async fn two_run_at_once_and_a_crash_or_a_restart_loses_no_virtual_host() {
    let mut server: RabbitMq = super::two_at_once::<RabbitMqConfig>().await;
    server.ctl(&["add_vhost", "orders"]).await;

    server.kill();
    server.start_again().await;
    server.terminate();
    server.start_again().await;

    let hosts = server.ctl(&["list_vhosts", "--no-table-headers"]).await;
    assert!(hosts.lines().any(|host| host == "orders"), "{hosts}");
}

#[tokio::test]
async fn everything_is_there_when_asked_for() {
    let certificates = Certificates::new();
    let config = RabbitMqConfig {
        secure: Some(RabbitMqSecure::with(&certificates)),
        virtual_hosts: vec!["orders".into()],
        management: true,
        mqtt: true,
        ..RabbitMqConfig::default()
    };

    let server = RabbitMq::with(config).await;

    for listener in ["tls", "management", "mqtt", "mqtt-websocket"] {
        TcpStream::connect(server.listener(listener))
            .await
            .unwrap_or_else(|error| panic!("{listener}: {error}"));
    }
    let rights = server.ctl(&["list_permissions", "-p", "orders", "--no-table-headers"]).await;
    assert!(rights.starts_with("guest"), "{rights}");
}

#[tokio::test]
async fn a_wrong_setting_is_named_when_it_does_not_start() {
    let config = RabbitMqConfig { more: "heartbeat = often".into(), ..RabbitMqConfig::default() };

    super::says_why_it_does_not_start(config, "heartbeat").await;
}
