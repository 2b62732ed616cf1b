//! Core NATS: sent once, to whoever listens.

use bytes::Bytes;
use testkit::servers::NatsServer;

use crate::Upstream;

/// The name NATS sources give themselves, as OpenFaaS' connector does.
const SUBSCRIBER: &str = "openfaas_connector";

const SUBJECT: &str = "orders.created";

/// A server, and who publishes to it.
pub struct Nats {
    server: NatsServer,
    publisher: async_nats::Client,
}

impl Nats {
    /// The server.
    pub fn server(&self) -> &NatsServer {
        &self.server
    }
}

impl Upstream for Nats {
    const REPLAYS: bool = false;

    async fn start() -> Self {
        let server = NatsServer::start().await;
        let publisher = async_nats::connect(server.url()).await.unwrap();
        Nats { server, publisher }
    }

    fn source(&self) -> String {
        // Room for whatever is sent at once: nobody gives it again.
        format!(
            "{{ nats: {{ url: \"{}\", waiting: {{ messages: 100000, bytes: 128MiB }} }} }}",
            self.server.url()
        )
    }

    async fn topic(&self) -> String {
        SUBJECT.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        for body in bodies {
            self.publisher.publish(SUBJECT, body).await.unwrap();
        }
        self.publisher.flush().await.unwrap();
    }

    async fn listened(&self) {
        self.server.subscribed(SUBSCRIBER, &[SUBJECT]).await;
    }

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}
