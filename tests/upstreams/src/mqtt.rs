//! MQTT 5 on Mosquitto, at QoS 1, with a session that outlives its connections.

use std::time::Duration;

use bytes::Bytes;
use rumqttc_v5::{AsyncClient, MqttOptions, PublishOptions, QoS};
use testkit::servers::Mosquitto;
use tokio::task::JoinHandle;

use crate::Upstream;

const TOPIC: &str = "orders/created";

/// A server, and who publishes to it.
pub struct Mqtt {
    server: Mosquitto,
    publisher: AsyncClient,
    polling: JoinHandle<()>,
}

impl Mqtt {
    /// The server.
    pub fn server(&self) -> &Mosquitto {
        &self.server
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Upstream for Mqtt {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let server = Mosquitto::start().await;
        let address = server.address();
        let mut options = MqttOptions::new("publisher", (address.ip().to_string(), address.port()));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600));
        let (publisher, mut events) = AsyncClient::builder(options).capacity(1024).build();
        let polling = tokio::spawn(async move {
            loop {
                if events.poll().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Mqtt { server, publisher, polling }
    }

    fn source(&self) -> String {
        format!(
            "{{ mqtt: {{ url: \"{}\", qos: 1, client_id: evoke-{} }} }}",
            self.server.url(),
            std::process::id()
        )
    }

    async fn topic(&self) -> String {
        TOPIC.to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        let mut sent = Vec::with_capacity(bodies.len());
        for body in bodies {
            let options = PublishOptions::new(QoS::AtLeastOnce);
            sent.push(self.publisher.publish_tracked(TOPIC, body, options).await.unwrap());
        }
        for notice in sent {
            notice.wait_async().await.unwrap();
        }
    }

    async fn listened(&self) {
        // A source that says it is connected has been granted its subscriptions, and from then on the session keeps what
        // comes, whoever is there to take it.
    }

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }
}
