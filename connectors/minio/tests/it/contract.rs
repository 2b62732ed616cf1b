//! The contract of every source, by webhook and by stream.
//!
//! What a store tells has its own form, so the contract's messages travel inside: as metadata of the object, one character
//! a byte. [`Unwrapped`] is the connector under test, and behind it, where events enter the broker, takes them out again.

mod stream;
mod webhook;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_minio::Minio;
use connectors_sdk::{
    Capabilities, Connector, Event, EventSink, Headers, Lost, Quarantined, Receipt, Refusal, SettingsError,
    Source, SourceContext, SourceError, SourceName, Wildcards,
};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, cases};

/// The first of 256 characters that stand for bytes: no quotes before it, so that few of them are escaped.
const ZERO: u32 = 0x23;

/// The largest notification whose object is told in headers.
const TOLD_UP_TO: usize = 256 * 1024;

/// A topic, which is also an object's key.
fn topic(n: usize) -> String {
    format!("bucket-{n}:s3:ObjectCreated:Put/in/a b")
}

/// The same at each attempt, and another one for another message.
fn sequencer(sent: &Sent) -> String {
    let mut hash = DefaultHasher::new();
    (&sent.topic, &sent.body).hash(&mut hash);
    format!("{:016X}", hash.finish())
}

fn bucket(sent: &Sent) -> &str {
    sent.topic.split(':').next().unwrap()
}

/// The notification that carries a message; the key as this way writes it.
fn wrapped(sent: &Sent, key: &str) -> String {
    let message: String =
        sent.body.iter().map(|byte| char::from_u32(ZERO + u32::from(*byte)).unwrap()).collect();
    let record = json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "",
        "eventTime": "2026-11-29T07:00:01.000Z", "eventName": "s3:ObjectCreated:Put",
        "s3": {
            "bucket": {"name": bucket(sent)},
            "object": {
                "key": key, "size": 5, "eTag": "e", "sequencer": sequencer(sent),
                "userMetadata": {"X-Amz-Meta-Message": message},
            },
        },
    });
    json!({"EventName": "s3:ObjectCreated:Put", "Key": format!("{}/in/a b", bucket(sent)), "Records": [record]})
        .to_string()
}

fn unwrapped(body: &[u8]) -> Bytes {
    let notification: Value = serde_json::from_slice(body).unwrap();
    let object = &notification["Records"][0]["s3"]["object"];
    let message = object["userMetadata"]["X-Amz-Meta-Message"].as_str().unwrap();
    message.chars().map(|letter| u8::try_from(u32::from(letter) - ZERO).unwrap()).collect()
}

/// What a function sees of a message's notification.
fn headers(sent: &Sent) -> Headers {
    let mut headers = vec![("content-type", "application/json".to_owned())];
    if wrapped(sent, "in%2Fa+b").len() <= TOLD_UP_TO {
        headers.extend([
            ("x-s3-event-name", "s3:ObjectCreated:Put".to_owned()),
            ("x-s3-bucket", bucket(sent).to_owned()),
            ("x-s3-key", "in/a b".to_owned()),
            ("x-s3-size", "5".to_owned()),
            ("x-s3-etag", "e".to_owned()),
            ("x-s3-sequencer", sequencer(sent)),
        ]);
    }
    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The connector, with events whose bodies are the messages that the notifications carried.
struct Unwrapped;

impl Connector for Unwrapped {
    fn kind(&self) -> &'static str {
        Minio.kind()
    }

    fn wildcards(&self) -> Wildcards {
        Minio.wildcards()
    }

    fn build(&self, name: &SourceName, settings: Value) -> Result<Box<dyn Source>, SettingsError> {
        Ok(Box::new(UnwrappedSource(Minio.build(name, settings)?)))
    }
}

struct UnwrappedSource(Box<dyn Source>);

#[async_trait]
impl Source for UnwrappedSource {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn run(self: Box<Self>, mut ctx: SourceContext) -> Result<(), SourceError> {
        ctx.events = Arc::new(Unwrapping(ctx.events));
        self.0.run(ctx).await
    }
}

struct Unwrapping(Arc<dyn EventSink>);

#[async_trait]
impl EventSink for Unwrapping {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        self.0.publish(&Event { body: unwrapped(&event.body), ..event.clone() }).await
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        self.0.quarantine(message).await
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        self.0.lost(range).await
    }
}

/// One after the other: each measures the memory of this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_its_memory_bounded() {
    cases::keeps_its_memory_bounded::<webhook::Store>().await;
    cases::keeps_its_memory_bounded::<stream::Store>().await;
}
