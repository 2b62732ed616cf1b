//! A sender as those of webhooks are: it keeps each message until it is answered with a 2xx, and sends it again after
//! anything else. What waits is on its disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How many requests it has on their way at once.
const AT_ONCE: usize = 100;

/// One message in its outbox.
#[derive(Debug)]
struct Waiting {
    path: String,
    headers: Vec<(String, String)>,
    body: PathBuf,
}

/// The sender. What it has not delivered is gone with it.
#[derive(Debug)]
pub struct Sender {
    outbox: TempDir,
    waiting: mpsc::UnboundedSender<Waiting>,
    shared: Arc<Shared>,
    running: watch::Sender<bool>,
    kept: AtomicU64,
    _senders: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    /// Where it sends in turn, as a load balancer does.
    targets: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    acknowledged: AtomicU64,
    attempts: AtomicUsize,
    running: watch::Receiver<bool>,
}

impl Sender {
    /// One that sends to this address.
    ///
    /// # Panics
    /// When it can have no folder for its outbox.
    pub fn to(target: SocketAddr) -> Sender {
        let (running, seen) = watch::channel(true);
        let shared = Arc::new(Shared {
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            targets: Mutex::new(vec![target]),
            turn: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            attempts: AtomicUsize::new(0),
            running: seen,
        });
        let (waiting, queue) = mpsc::unbounded_channel();
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let mut senders = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (shared, queue) = (shared.clone(), queue.clone());
            senders.spawn(async move {
                loop {
                    let next: Option<Waiting> = queue.lock().await.recv().await;
                    let Some(message) = next else { return };
                    shared.deliver(&message).await;
                    let _ = tokio::fs::remove_file(&message.body).await;
                }
            });
        }
        let outbox = tempfile::tempdir().expect("a folder for the outbox");
        Sender { outbox, waiting, shared, running, kept: AtomicU64::new(0), _senders: senders }
    }

    /// Takes a message; from here on it is the sender's to deliver.
    ///
    /// # Panics
    /// When its outbox cannot be written.
    pub fn keep(&self, path: String, headers: Vec<(String, String)>, body: &Bytes) {
        let number = self.kept.fetch_add(1, Ordering::Relaxed);
        let file = self.outbox.path().join(number.to_string());
        std::fs::write(&file, body).expect("the outbox can be written");
        let _ = self.waiting.send(Waiting { path, headers, body: file });
    }

    /// Sends there as well, from now on.
    pub fn and_to(&self, target: SocketAddr) {
        self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner).push(target);
    }

    /// How many messages were answered with a 2xx.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How many requests are on their way.
    pub fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    /// Goes down in the middle of whatever it sends, or comes back with what it has not delivered.
    pub fn run(&self, running: bool) {
        self.running.send_replace(running);
    }
}

impl Shared {
    async fn deliver(&self, message: &Waiting) {
        let mut running = self.running.clone();
        let mut wait = Duration::from_millis(10);
        loop {
            if running.wait_for(|running| *running).await.is_err() {
                return;
            }
            self.attempts.fetch_add(1, Ordering::SeqCst);
            let delivered = tokio::select! {
                delivered = self.attempt(message) => delivered,
                _ = running.wait_for(|running| !running) => false,
            };
            if delivered {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            self.attempts.fetch_sub(1, Ordering::SeqCst);
            if delivered {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    }

    async fn attempt(&self, message: &Waiting) -> bool {
        let body = tokio::fs::read(&message.body).await.expect("the outbox can be read");
        let target = {
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets[self.turn.fetch_add(1, Ordering::Relaxed) % targets.len()]
        };
        let mut request = self.client.post(format!("http://{target}{}", message.path)).body(body);
        for (name, value) in &message.headers {
            request = request.header(name, value);
        }
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }
}
