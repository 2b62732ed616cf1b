//! RabbitMQ: kept in a quorum queue until somebody acknowledges.

use bytes::Bytes;
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use testkit::servers::RabbitMq;

use crate::Upstream;

const QUEUE: &str = "orders.created";

/// How many messages wait for the server's confirmation at once.
const UNCONFIRMED: usize = 1_000;

/// A server, and who publishes to it.
pub struct Rabbitmq {
    server: RabbitMq,
    channel: Channel,
    _connection: Connection,
}

impl Rabbitmq {
    /// The server.
    pub fn server(&self) -> &RabbitMq {
        &self.server
    }
}

impl Upstream for Rabbitmq {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let server = RabbitMq::start().await;
        let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), durable, quorum).await.unwrap();
        Rabbitmq { server, channel, _connection: connection }
    }

    fn source(&self) -> String {
        format!("{{ rabbitmq: {{ url: \"{}\" }} }}", self.server.url())
    }

    async fn topic(&self) -> String {
        QUEUE.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        for some in bodies.chunks(UNCONFIRMED) {
            join_all(some.iter().map(async |body| {
                let properties = BasicProperties::default().with_delivery_mode(2);
                let options = BasicPublishOptions::default();
                let sent = self.channel.basic_publish("".into(), QUEUE.into(), options, body, properties);
                assert!(sent.await.unwrap().await.unwrap().is_ack());
            }))
            .await;
        }
    }

    /// It keeps what it has until the source comes.
    async fn listened(&self) {}

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}
