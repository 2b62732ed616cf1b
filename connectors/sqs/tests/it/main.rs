//! The SQS source against ElasticMQ: the contract of every source, and what is SQS' own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod contract;
mod groups;
mod holding;
mod messages;
mod notifications;
mod queues;
mod rig;
mod trouble;
mod wire;

use testkit::servers::{ElasticMq, ElasticMqConfig, Shared};

/// One for all tests that do not touch the server itself; each keeps to queues of its own.
static ELASTICMQ: Shared<ElasticMqConfig> = Shared::new();

async fn server() -> &'static ElasticMq {
    let in_memory = || ElasticMqConfig { in_memory: true, ..ElasticMqConfig::default() };
    ELASTICMQ.server_with(in_memory).await
}
