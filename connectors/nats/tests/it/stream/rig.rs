//! A stream on a real server, and its consumer as the server sees it.

use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::{Context, stream};
use serde_json::{Value, json};
use testkit::servers::{NatsConfig, NatsRelease, NatsServer};
use testkit::source::{PATIENCE, with};
use tokio::time::Instant;

use crate::rig::publisher;

pub(crate) const STREAM: &str = "ORDERS";
/// The consumer of a source named `bus`.
pub(crate) const CONSUMER: &str = "evoke-bus";
pub(crate) const BOTH: [NatsRelease; 2] = [NatsRelease::Current, NatsRelease::Oldest];

/// A server that keeps streams.
pub(crate) async fn server(release: NatsRelease) -> NatsServer {
    NatsServer::with(NatsConfig { release, jetstream: true, ..NatsConfig::default() }).await
}

/// Makes the stream: of `orders.>` where the configuration says no subjects.
pub(crate) async fn stream_of(context: &Context, config: stream::Config) -> stream::Stream {
    let subjects = if config.subjects.is_empty() { vec!["orders.>".to_owned()] } else { config.subjects };
    let config = stream::Config { name: STREAM.to_owned(), subjects, ..config };
    context.create_stream(config).await.unwrap()
}

/// A server with the stream, and who publishes to it.
pub(crate) async fn server_with_stream(release: NatsRelease) -> (NatsServer, Context) {
    let server = server(release).await;
    let context = async_nats::jetstream::new(publisher(server.url()).await);
    stream_of(&context, stream::Config::default()).await;
    (server, context)
}

/// Settings of a source that reads the stream.
pub(crate) fn settings(server: &NatsServer, more: Value) -> Value {
    let base = json!({
        "url": server.url(),
        "topics": ["orders.>"],
        "jetstream": {"stream": STREAM, "ack_wait": "3s"},
    });
    with(base, more)
}

/// Publishes, and returns the sequence.
pub(crate) async fn publish(context: &Context, subject: &str, body: &str) -> u64 {
    let ack = context.publish(subject.to_owned(), body.to_owned().into()).await.unwrap();
    ack.await.unwrap().sequence
}

/// The consumer as the server sees it.
pub(crate) fn consumer<'a>(context: &'a Context, name: &'a str) -> ConsumerOf<'a> {
    ConsumerOf { context, name }
}

pub(crate) struct ConsumerOf<'a> {
    context: &'a Context,
    name: &'a str,
}

impl ConsumerOf<'_> {
    /// What it is, if it is there and the server answers.
    pub(crate) async fn info(&self) -> Option<Info> {
        let stream = self.context.get_stream_no_info(STREAM).await.unwrap();
        stream.consumer_info(self.name).await.ok()
    }

    /// Waits until it is as wanted.
    pub(crate) async fn is(&self, what: &str, wanted: impl Fn(&Info) -> bool) -> Info {
        let began = Instant::now();
        loop {
            let info = self.info().await;
            match info {
                Some(info) if wanted(&info) => return info,
                info => assert!(began.elapsed() < PATIENCE, "the consumer is not {what}: {info:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Deletes it. A server may stumble over files that it is writing just then, and has deleted it nevertheless.
    pub(crate) async fn delete(&self) {
        let stream = self.context.get_stream_no_info(STREAM).await.unwrap();
        if let Err(error) = stream.delete_consumer(self.name).await {
            assert!(error.to_string().contains("directory not empty"), "{error}");
        }
    }

    /// Waits until somebody waits for messages of these subjects and no other; of none: until nobody waits.
    pub(crate) async fn hands_out(&self, subjects: &[String]) {
        let began = Instant::now();
        loop {
            let info = self.info().await;
            let waiting = info.as_ref().map_or(0, |info| info.num_waiting);
            let done = if subjects.is_empty() {
                waiting == 0
            } else {
                waiting > 0 && info.as_ref().is_some_and(|info| covers(info, subjects))
            };
            if done {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{subjects:?} are not handed out: {info:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many messages are settled, where all of the stream are for it.
    pub(crate) async fn acknowledged(&self) -> u64 {
        let stream = self.context.get_stream(STREAM).await.unwrap();
        let all = stream.cached_info().state.messages;
        self.info().await.map_or(0, |info| all - info.num_pending - info.num_ack_pending as u64)
    }
}

/// Whether it hands out these subjects; an old server hands out the whole stream, and says for whom.
fn covers(info: &Info, subjects: &[String]) -> bool {
    let config = &info.config;
    let mut told = config.filter_subjects.clone();
    if !config.filter_subject.is_empty() {
        told.push(config.filter_subject.clone());
    }
    if told.is_empty() {
        let description = config.description.as_deref().unwrap_or_default();
        told = description.split(' ').skip(1).map(str::to_owned).collect();
    }
    told.sort();
    told == subjects
}
