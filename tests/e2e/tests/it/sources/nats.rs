//! Core NATS: sent once, to whoever listens.

use std::ops::Range;

use testkit::servers::NatsServer;

use super::Upstream;
use crate::broker::SUBSCRIBER;

/// A server, and who publishes to it.
pub(super) struct Nats {
    server: NatsServer,
    publisher: async_nats::Client,
}

impl Upstream for Nats {
    const REPLAYS: bool = false;

    async fn start() -> Self {
        let server = NatsServer::start().await;
        let publisher = async_nats::connect(server.url()).await.unwrap();
        Nats { server, publisher }
    }

    fn source(&self) -> String {
        // Room for whatever a case sends at once: nobody gives it again.
        format!(
            "{{ nats: {{ url: \"{}\", waiting: {{ messages: 100000, bytes: 64MiB }} }} }}",
            self.server.url()
        )
    }

    async fn topic(&self) -> String {
        "orders.created".to_owned()
    }

    async fn publish(&self, numbers: Range<u64>) {
        for number in numbers {
            self.publisher.publish("orders.created", number.to_string().into()).await.unwrap();
        }
        self.publisher.flush().await.unwrap();
    }

    async fn listened(&self) {
        self.server.subscribed(SUBSCRIBER, &["orders.created"]).await;
    }
}
