//! Whoever is on the other side of RabbitMQ: publishes, makes queues, asks who takes from them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::Mutex;

/// A message to publish.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

impl Message {
    /// A persistent one for a queue, with an id of its own.
    pub(crate) fn to(queue: &str, body: impl Into<Bytes>) -> Message {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = format!("m-{}", IDS.fetch_add(1, Ordering::Relaxed));
        Message {
            exchange: String::new(),
            routing_key: queue.to_owned(),
            properties: BasicProperties::default().with_delivery_mode(2).with_message_id(id.as_str().into()),
            body: body.into(),
        }
    }

    /// The same with other properties.
    pub(crate) fn with(mut self, change: impl FnOnce(BasicProperties) -> BasicProperties) -> Message {
        self.properties = change(self.properties);
        self
    }
}

/// A client that goes on over any outage.
pub(crate) struct Client {
    url: String,
    open: Mutex<Option<(Connection, Channel)>>,
}

impl Client {
    pub(crate) fn of(url: impl Into<String>) -> Client {
        Client { url: url.into(), open: Mutex::new(None) }
    }

    /// A channel with confirms, on a connection that is made anew if need be.
    pub(crate) async fn channel(&self) -> Channel {
        let mut open = self.open.lock().await;
        if let Some((connection, channel)) = &*open
            && connection.status().connected()
            && channel.status().connected()
        {
            return channel.clone();
        }
        loop {
            if let Ok((connection, channel)) = self.connected().await {
                *open = Some((connection, channel.clone()));
                return channel;
            }
            // A server that is down is waited for.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connected(&self) -> lapin::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok((connection, channel))
    }

    /// Publishes, and returns when the server has confirmed all of them. What a lost connection leaves open is published
    /// again, with the same id.
    pub(crate) async fn publish(&self, messages: &[Message]) {
        let mut left: Vec<&Message> = messages.iter().collect();
        while !left.is_empty() {
            let channel = self.channel().await;
            let confirmed = join_all(left.iter().map(|message| confirmed(&channel, message))).await;
            let mut confirmed = confirmed.into_iter();
            left.retain(|_| !confirmed.next().unwrap());
        }
    }

    /// The same, once each queue is there and somebody takes from it: the name of a quorum queue is known before the queue
    /// works.
    pub(crate) async fn publish_when_taken(&self, messages: &[Message]) {
        for message in messages {
            while self.look(&message.routing_key).await.is_none_or(|(_, consumers)| consumers == 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.publish(messages).await;
    }

    /// Makes a durable queue of this type.
    pub(crate) async fn queue(&self, name: &str, kind: &str) {
        self.queue_with(name, &[("x-queue-type", AMQPValue::LongString(kind.into()))]).await;
    }

    /// Makes a durable queue with these arguments.
    pub(crate) async fn queue_with(&self, name: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel().await.queue_declare(name.into(), options, table).await.unwrap();
    }

    /// The messages that wait in a queue and the consumers it has; `None` where there is none.
    pub(crate) async fn look(&self, queue: &str) -> Option<(u32, u32)> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.channel().await;
        let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
        Some((found.message_count(), found.consumer_count()))
    }
}

async fn confirmed(channel: &Channel, message: &Message) -> bool {
    let published = channel.basic_publish(
        message.exchange.as_str().into(),
        message.routing_key.as_str().into(),
        BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
        &message.body,
        message.properties.clone(),
    );
    let Ok(confirm) = published.await else { return false };
    match confirm.await {
        Ok(confirmation) => {
            let came_back = confirmation.take_message();
            assert!(came_back.is_none(), "no queue for {}", message.routing_key);
            true
        }
        Err(_) => false,
    }
}

/// A text as headers carry it.
pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}
