//! Senders of webhooks: each keeps its message until it is answered with a 2xx.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use testkit::servers::Port;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::Upstream;

/// What the senders show.
pub(crate) const TOKEN: &str = "s3cret";

/// How many requests are on their way at once.
const AT_ONCE: usize = 128;

/// A sender, and where the source is to listen.
pub struct Webhook {
    port: Port,
    waiting: mpsc::UnboundedSender<Bytes>,
    _senders: JoinSet<()>,
}

impl Webhook {
    /// Where the source is to listen.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }
}

/// Sends one message until it is taken.
async fn deliver(client: &Client, url: &str, id: &str, body: Bytes) {
    loop {
        let request = client.post(url).bearer_auth(TOKEN).header("idempotency-key", id);
        match request.body(body.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Upstream for Webhook {
    const REPLAYS: bool = true;

    async fn start() -> Self {
        let port = Port::reserve();
        let client = Client::builder().no_proxy().build().unwrap();
        let (waiting, queue) = mpsc::unbounded_channel();
        let (queue, sent) = (Arc::new(Mutex::new(queue)), Arc::new(AtomicU64::new(0)));
        let mut senders = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (client, queue, sent) = (client.clone(), queue.clone(), sent.clone());
            let url = format!("http://127.0.0.1:{}/orders", port.number());
            senders.spawn(async move {
                loop {
                    let next: Option<Bytes> = queue.lock().await.recv().await;
                    let Some(body) = next else { return };
                    let id = sent.fetch_add(1, Ordering::Relaxed).to_string();
                    deliver(&client, &url, &id, body).await;
                }
            });
        }
        Webhook { port, waiting, _senders: senders }
    }

    fn source(&self) -> String {
        format!(
            "{{ webhook: {{ listen: \"{}\", endpoints: {{ orders: {{ kind: token, secret: {TOKEN} }} }} }} }}",
            self.address()
        )
    }

    async fn topic(&self) -> String {
        "orders".to_owned()
    }

    async fn publish(&self, bodies: Vec<Bytes>) {
        // It is the sender's from here on, as it is where webhooks come from.
        bodies.into_iter().for_each(|body| self.waiting.send(body).unwrap());
    }

    /// It sends again until somebody listens.
    async fn listened(&self) {}

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }
}
