//! The clients of upstreams without a broker behind them: they read what a source reads, and forget it.
//!
//! Each is used as its own documentation shows it, with its own defaults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use bytes::Bytes;
use futures::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use tokio::task::JoinSet;
use upstreams::{JetStream, Kafka, Nats, Upstream};

use crate::meter::{Cast, Sample, follow};
use crate::source::{BURST, Feed, servers};

/// An upstream whose bare client is a limit.
pub(crate) trait Bare: Upstream {
    /// What the client is.
    const CLIENT: &'static str;

    /// How fast the client alone reads `all` messages: those that are there, or that are published meanwhile.
    async fn read(&self, all: u64, body: &Bytes) -> Result<Sample>;
}

impl Bare for Kafka {
    const CLIENT: &'static str = "S, a bare StreamConsumer";

    async fn read(&self, all: u64, _: &Bytes) -> Result<Sample> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.server().bootstrap())
            .set("group.id", "bare")
            .set("auto.offset.reset", "earliest")
            .create()
            .context("making a consumer")?;
        consumer.subscribe(&[&self.topic().await]).context("subscribing")?;
        let count = Arc::new(AtomicU64::new(0));
        let mut reading = JoinSet::new();
        reading.spawn({
            let count = Arc::clone(&count);
            async move {
                while count.load(Ordering::Relaxed) < all {
                    // What is wrong with one shows as a count that does not grow.
                    if consumer.recv().await.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        counted(self, all, &count, reading, None).await
    }
}

impl Bare for Nats {
    const CLIENT: &'static str = "S, a bare subscriber";

    async fn read(&self, all: u64, body: &Bytes) -> Result<Sample> {
        let client = async_nats::connect(self.server().url()).await.context("connecting")?;
        let mut subscriber = client.subscribe(self.topic().await).await.context("subscribing")?;
        // The server knows of it before anything is published.
        client.flush().await.context("subscribing")?;
        let count = Arc::new(AtomicU64::new(0));
        let mut reading = JoinSet::new();
        reading.spawn({
            let count = Arc::clone(&count);
            async move {
                while subscriber.next().await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        counted(self, all, &count, reading, Some(body)).await
    }
}

impl Bare for JetStream {
    const CLIENT: &'static str = "S, a bare pull consumer that acknowledges";

    async fn read(&self, all: u64, _: &Bytes) -> Result<Sample> {
        let client = async_nats::connect(self.server().url()).await.context("connecting")?;
        let config = pull::Config { durable_name: Some("bare".to_owned()), ..pull::Config::default() };
        let consumer = jetstream::new(client).create_consumer_on_stream(config, JetStream::STREAM).await;
        let mut messages = consumer.context("making a consumer")?.messages().await.context("pulling")?;
        let count = Arc::new(AtomicU64::new(0));
        let mut reading = JoinSet::new();
        reading.spawn({
            let count = Arc::clone(&count);
            async move {
                // What goes wrong with one shows as a count that does not grow.
                while let Some(Ok(message)) = messages.next().await {
                    if message.ack().await.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        counted(self, all, &count, reading, None).await
    }
}

/// Follows the count of a task that reads, and ends it; `live` is published meanwhile.
async fn counted<U: Upstream>(
    upstream: &U,
    all: u64,
    count: &AtomicU64,
    _reading: JoinSet<()>,
    live: Option<&Bytes>,
) -> Result<Sample> {
    let mut feed = Feed::new(upstream, live.map_or(0, |_| all), BURST);
    let body = live.cloned().unwrap_or_default();
    let count = async || Ok(count.load(Ordering::Relaxed));
    follow(all, &Cast::with(&servers(upstream)), count, async |seen| feed.more(seen, &body).await).await
}
