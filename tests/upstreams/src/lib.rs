//! Upstreams as sources meet them: a real server, a topic on it, and somebody who publishes.
//!
//! Whoever drives the product as a process uses them, the tests in `e2e` and the bench alike. Each kind is a file here;
//! none knows anything of Evoke but the settings of its source. They are the one place outside the connectors that holds
//! client libraries, so nothing of the quick loop may depend on this crate.
//!
//! What goes wrong here is wrong with the test's own side, so it panics, as tests do.

#![allow(clippy::unwrap_used, reason = "all of it serves tests")]

mod jetstream;
mod kafka;
mod minio;
mod mqtt;
mod nats;
mod rabbitmq;
mod sqs;
mod webhook;

use std::future::Future;

use bytes::Bytes;

pub use jetstream::JetStream;
pub use kafka::Kafka;
pub use minio::Minio;
pub use mqtt::Mqtt;
pub use nats::Nats;
pub use rabbitmq::Rabbitmq;
pub use sqs::Sqs;
pub use webhook::Webhook;

/// A real server with a topic of its own.
pub trait Upstream: Sized + Send + Sync + 'static {
    /// The upstream keeps what is published until somebody acknowledges it.
    const REPLAYS: bool;

    /// A new one, empty and ready.
    fn start() -> impl Future<Output = Self> + Send;

    /// What stands behind `sources.<name>:` for it, in one line of YAML.
    fn source(&self) -> String;

    /// The topic as a function names it; made if need be.
    fn topic(&self) -> impl Future<Output = String> + Send;

    /// Publishes messages of these bodies as fast as the upstream takes them, and returns when it has them all.
    fn publish(&self, bodies: Vec<Bytes>) -> impl Future<Output = ()> + Send;

    /// The body that was published, from that of its call: the same, where the upstream adds nothing around it.
    fn published(called: &str) -> &str {
        called
    }

    /// Waits until the upstream would give a message to the source.
    fn listened(&self) -> impl Future<Output = ()> + Send;

    /// The leaders of its servers' process groups.
    fn processes(&self) -> Vec<u32>;
}
