//! A client that publishes, and goes on over any outage.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rumqttc_v5::{AsyncClient, MqttOptions, PublishOptions, PublishProperties, QoS};
use testkit::contract::source::Sent;
use tokio_util::task::AbortOnDropHandle;

/// It, at QoS 1. Each message carries the user property `id`, as publishers write it that want to be recognised.
pub(crate) struct Publisher {
    client: AsyncClient,
    ids: AtomicU64,
    _polling: AbortOnDropHandle<()>,
}

impl Publisher {
    pub(crate) fn new(server: SocketAddr) -> Publisher {
        Publisher::with(server, |_| {})
    }

    pub(crate) fn with(server: SocketAddr, change: impl FnOnce(&mut MqttOptions)) -> Publisher {
        let mut options = MqttOptions::new("publisher", (server.ip().to_string(), server.port()));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600));
        change(&mut options);
        let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
        let polling = tokio::spawn(async move {
            loop {
                if events.poll().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Publisher { client, ids: AtomicU64::new(0), _polling: AbortOnDropHandle::new(polling) }
    }

    /// Publishes, and returns when the server has all of them.
    pub(crate) async fn publish(&self, messages: &[Sent]) {
        let options = |fields: &[(String, String)]| {
            let id = self.ids.fetch_add(1, Ordering::Relaxed).to_string();
            let mut properties = PublishProperties::default();
            properties.user_properties.push(("id".to_owned(), id));
            for (name, value) in fields {
                if name == "Content-Type" {
                    properties.content_type = Some(value.clone());
                } else {
                    properties.user_properties.push((name.clone(), value.clone()));
                }
            }
            PublishOptions::new(QoS::AtLeastOnce).properties(properties)
        };
        let mut sent = Vec::new();
        for Sent { topic, headers, body } in messages {
            let options = options(headers);
            let notice =
                self.client.publish_tracked(topic.clone(), body.clone(), options.clone()).await.unwrap();
            sent.push((topic.clone(), options, body.clone(), notice));
        }
        for (topic, options, body, mut notice) in sent {
            // A server that came back without the session has forgotten what was on its way to it.
            while notice.wait_async().await.is_err() {
                notice =
                    self.client.publish_tracked(topic.clone(), body.clone(), options.clone()).await.unwrap();
            }
        }
    }

    /// Publishes one message without any properties but its id.
    pub(crate) async fn send(&self, topic: &str, body: impl Into<Bytes>) {
        self.publish(&[Sent { topic: topic.to_owned(), headers: Vec::new(), body: body.into() }]).await;
    }

    /// Publishes one that is kept for new subscribers.
    pub(crate) async fn retain(&self, topic: &str, body: &'static str) {
        let options = PublishOptions::new(QoS::AtLeastOnce).retained();
        self.client.publish_tracked(topic, body, options).await.unwrap().wait_async().await.unwrap();
    }

    /// Publishes one at another quality.
    pub(crate) async fn send_at(&self, qos: QoS, topic: &str, body: &'static str) {
        let options = PublishOptions::new(qos);
        self.client.publish_tracked(topic, body, options).await.unwrap().wait_async().await.unwrap();
    }
}
