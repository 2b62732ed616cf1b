//! Toxiproxy.

use std::time::Duration;

use serde_json::json;
use testkit::servers::toxiproxy::{Direction, Toxiproxy, ToxiproxyConfig};
use testkit::servers::{NatsServer, Port};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Whether the server's greeting comes through.
async fn greets(wire: &testkit::servers::toxiproxy::Wire) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(wire.address()).await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(Duration::from_millis(200), greeting).await, Ok(Ok(b'I')))
}

#[tokio::test]
async fn a_wire_is_cut_silent_or_torn_until_it_is_mended() {
    let (toxiproxy, nats) = (super::two_at_once::<ToxiproxyConfig>().await, NatsServer::start().await);
    let wire = toxiproxy.wire(nats.address()).await;
    let other = toxiproxy.wire_on(Port::reserve(), nats.address()).await;
    assert!(greets(&wire).await);

    wire.cut().await;
    assert!(TcpStream::connect(wire.address()).await.is_err(), "a cut wire refuses connections");
    wire.mend().await;
    assert!(greets(&wire).await);

    wire.silence().await;
    assert!(!greets(&wire).await);
    wire.mend().await;
    assert!(greets(&wire).await);

    wire.poison("limit_data", Direction::ToClient, json!({ "bytes": 0 })).await;
    assert!(!greets(&wire).await);
    assert!(greets(&other).await, "the other wire is as it was");
}

#[tokio::test]
async fn there_can_be_no_two_on_one_port() {
    let taken = Toxiproxy::start().await;
    let wire = taken.wire(taken.address()).await;

    // A wire's port is its own: nothing else gets it while the wire is there.
    assert_ne!(Port::reserve().address(), wire.address());
}
