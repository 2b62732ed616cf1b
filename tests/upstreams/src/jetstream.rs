//! A JetStream stream: kept in a file until somebody acknowledges.

use async_nats::jetstream::{Context, stream};
use bytes::Bytes;
use testkit::servers::{NatsConfig, NatsServer};

use crate::Upstream;

const SUBJECT: &str = "orders.created";

/// How many messages wait for the stream's word at once.
const UNCONFIRMED: usize = 1_000;

/// A server with a stream, and who publishes to it.
pub struct JetStream {
    server: NatsServer,
    publisher: Context,
}

impl JetStream {
    /// The stream.
    pub const STREAM: &str = "ORDERS";

    /// The server.
    pub fn server(&self) -> &NatsServer {
        &self.server
    }
}

impl Upstream for JetStream {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let server = NatsServer::with(NatsConfig { jetstream: true, ..NatsConfig::default() }).await;
        let publisher = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let config = stream::Config {
            name: Self::STREAM.to_owned(),
            subjects: vec!["orders.>".to_owned()],
            ..stream::Config::default()
        };
        publisher.create_stream(config).await.unwrap();
        JetStream { server, publisher }
    }

    fn source(&self) -> String {
        // What was with a broker that is killed comes again this soon.
        format!(
            "{{ nats: {{ url: \"{}\", jetstream: {{ stream: {}, ack_wait: 2s }} }} }}",
            self.server.url(),
            Self::STREAM
        )
    }

    async fn topic(&self) -> String {
        SUBJECT.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        for some in bodies.chunks(UNCONFIRMED) {
            let mut words = Vec::with_capacity(some.len());
            for body in some {
                words.push(self.publisher.publish(SUBJECT, body.clone()).await.unwrap());
            }
            for word in words {
                word.await.unwrap();
            }
        }
    }

    /// It keeps what it has until the source comes, and gives a new one all of it.
    async fn listened(&self) {}

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}
