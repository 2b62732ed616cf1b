//! The source under test, and a client that publishes.

use std::time::Duration;

use connectors_nats::Nats;
use testkit::source::UnderTest;

pub(crate) const BUS: UnderTest = UnderTest { connector: &Nats, name: "bus" };

/// A client that publishes, and goes on over any outage.
pub(crate) async fn publisher(url: String) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().name("publisher").reconnect_delay_callback(|_| {
        // Tests wait for it.
        Duration::from_millis(10)
    });
    options.connect(url).await.unwrap()
}
