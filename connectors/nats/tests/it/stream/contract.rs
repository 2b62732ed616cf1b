//! The contract of every source, for a stream.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Mutex;
use std::time::Duration;

use async_nats::jetstream::{Context, ContextBuilder, stream};
use async_trait::async_trait;
use connectors_nats::Nats;
use connectors_sdk::{Capabilities, Connector, Headers};
use serde_json::{Value, json};
use testkit::contract::source::{Sent, Upstream};
use testkit::servers::{NatsRelease, NatsServer, Relay};

use super::rig::{STREAM, consumer, server, stream_of};
use crate::rig::publisher;

/// A stream on a server of either release.
struct StreamUpstream<const OLDEST: bool> {
    server: tokio::sync::Mutex<NatsServer>,
    relay: Relay,
    context: Context,
    /// The sequence of each message, by a hash of its body: to keep the bodies would be to measure them.
    sequences: Mutex<HashMap<u64, u64>>,
}

fn hash_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

const CONSUMER: &str = "evoke-under-test";

#[async_trait]
impl<const OLDEST: bool> Upstream for StreamUpstream<OLDEST> {
    async fn start() -> Self {
        let server = server(if OLDEST { NatsRelease::Oldest } else { NatsRelease::Current }).await;
        let relay = Relay::to(server.address()).await;
        let context = ContextBuilder::new()
            .timeout(Duration::from_secs(1))
            .ack_timeout(Duration::from_secs(1))
            .build(publisher(server.url()).await);
        stream_of(&context, stream::Config::default()).await;
        StreamUpstream {
            server: tokio::sync::Mutex::new(server),
            relay,
            context,
            sequences: Mutex::default(),
        }
    }

    fn connector(&self) -> &'static dyn Connector {
        &Nats
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: false, decodes: false, shares: true }
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({
            "url": format!("nats://{}", self.relay.address()),
            "in_flight": {"messages": in_flight},
            // What was with somebody who died comes again this soon.
            "jetstream": {"stream": STREAM, "ack_wait": "3s"},
        });
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        format!("orders.kind-{n}")
    }

    async fn publish(&self, messages: &[Sent]) {
        for message in messages {
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in &message.headers {
                headers.append(name.as_str(), value.as_str());
            }
            // One that is not confirmed, because the server went, may be there twice then.
            let sequence = loop {
                let (topic, body) = (message.topic.clone(), message.body.clone());
                match self.context.publish_with_headers(topic, headers.clone(), body).await {
                    Ok(ack) => match ack.await {
                        Ok(ack) => break ack.sequence,
                        Err(error) => println!("published again: {error}"),
                    },
                    Err(error) => println!("published again: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            self.sequences.lock().unwrap().insert(hash_of(&message.body), sequence);
        }
    }

    fn expected(&self, sent: &Sent) -> Headers {
        let sequence = self.sequences.lock().unwrap()[&hash_of(&sent.body)];
        let own = [
            ("x-nats-stream".to_owned(), STREAM.to_owned()),
            ("x-nats-sequence".to_owned(), sequence.to_string()),
        ];
        let theirs = sent.headers.iter().map(|(name, value)| match name.as_str() {
            "Content-Type" => (name.clone(), value.clone()),
            other => (format!("x-nats-{other}"), value.clone()),
        });
        own.into_iter().chain(theirs).collect()
    }

    async fn listening(&self, topics: &[String]) {
        consumer(&self.context, CONSUMER).hands_out(topics).await;
    }

    async fn down(&self) {
        self.server.lock().await.kill();
    }

    async fn up(&self) {
        self.server.lock().await.start_again().await;
    }

    async fn cut(&self) {
        self.relay.cut();
    }

    async fn acknowledged(&self) -> Option<u64> {
        Some(consumer(&self.context, CONSUMER).acknowledged().await)
    }

    async fn publish_unreadable(&self, _topic: &str) -> bool {
        // A message is bytes under a subject: there is no envelope that could be wrong.
        false
    }
}

mod current {
    testkit::source_contract!(super::StreamUpstream<false>);
}

mod oldest {
    // What an old server could do in another way. The rest is ours alone.
    testkit::source_contract! { super::StreamUpstream<true>:
        delivers_bodies_and_headers_exactly
        takes_only_the_topics_it_is_told
        follows_what_functions_ask_for
        acknowledges_only_after_the_receipt
        offers_again_what_was_refused
        pushes_back_while_the_sink_hangs
        survives_restarts_of_its_upstream_under_load
        survives_cut_connections
        hands_over_what_it_holds_when_it_stops
        leaves_its_upstream_while_it_is_held
        repeats_nothing_already_received
        is_given_again_what_it_held_when_it_was_cut_off
        shares_the_work_between_replicas
    }
}
