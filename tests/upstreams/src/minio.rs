//! A store's notifications of its objects, from senders as those of webhooks: each object's key is the message.
//!
//! The real MinIO's queue waits up to three seconds before it sends, too long for what is published here by the thousand;
//! the connector's own tests have it.

use bytes::Bytes;

use crate::Upstream;
use crate::webhook::{TOKEN, Webhook};

/// The senders, and where the source is to listen.
pub struct Minio(Webhook);

/// What a store sends of an object.
fn notification(key: &str) -> String {
    format!(
        r#"{{"EventName":"s3:ObjectCreated:Put","Key":"orders/{key}","Records":[{{"eventVersion":"2.0","eventSource":"minio:s3","eventTime":"2026-11-29T07:00:01.000Z","eventName":"s3:ObjectCreated:Put","s3":{{"bucket":{{"name":"orders"}},"object":{{"key":"{key}","size":1,"eTag":"e","sequencer":"18A"}}}}}}]}}"#
    )
}

impl Upstream for Minio {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        Minio(Webhook::start().await)
    }

    fn source(&self) -> String {
        format!("{{ minio: {{ listen: \"{}\", token: {TOKEN} }} }}", self.0.address())
    }

    async fn topic(&self) -> String {
        "orders:s3:ObjectCreated:*".to_owned()
    }

    /// The bodies are of letters that need no escapes.
    async fn publish(&self, bodies: Vec<Bytes>) {
        let told = bodies.iter().map(|body| notification(std::str::from_utf8(body).unwrap()).into());
        self.0.publish(told.collect()).await;
    }

    fn published(called: &str) -> &str {
        let (_, key) = called.split_once(r#""key":""#).unwrap();
        key.split('"').next().unwrap()
    }

    async fn listened(&self) {
        self.0.listened().await;
    }

    fn processes(&self) -> Vec<u32> {
        self.0.processes()
    }
}
