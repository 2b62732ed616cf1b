//! The real nats-server.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::installed;
use crate::process::{Process, Program, free_port};

/// Waits for a server. As [`crate::time::eventually`], for futures that are sent to other threads, as those of
/// [`crate::contract::source::Upstream`] are.
struct Patience(Instant);

impl Patience {
    /// How long the server may take for anything: it takes milliseconds, but the machine may be busy.
    const LIMIT: Duration = Duration::from_secs(30);

    fn new() -> Patience {
        Patience(Instant::now())
    }

    async fn wait(&mut self, instead: impl FnOnce() -> String) {
        assert!(self.0.elapsed() < Patience::LIMIT, "{}", instead());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a server asks of its clients. The default asks nothing.
#[derive(Clone, Debug, Default)]
pub struct NatsConfig {
    /// The body of the `authorization` section, in the server's own words: `user: u, password: p`.
    pub authorization: Option<String>,
    /// The certificate and key it shows.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authority whose certificates clients must show.
    pub client_ca: Option<PathBuf>,
    /// Further lines, in the server's own words.
    pub more: String,
}

/// A nats-server of this test, on loopback. Ended when dropped.
pub struct NatsServer {
    process: Process,
    port: u16,
    monitor: SocketAddr,
    tls: bool,
    _folder: TempDir,
}

/// A subscription the server knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription {
    /// The name its client gave.
    pub client: String,
    /// What it asks for.
    pub subject: String,
    /// With whom it shares.
    pub group: String,
}

impl NatsServer {
    /// Starts one that asks nothing of its clients.
    ///
    /// # Panics
    /// When it cannot be installed or does not answer.
    pub async fn start() -> NatsServer {
        NatsServer::with(NatsConfig::default()).await
    }

    /// Starts one, and waits until it speaks NATS.
    ///
    /// # Panics
    /// When it cannot be installed or does not answer.
    pub async fn with(config: NatsConfig) -> NatsServer {
        let folder = TempDir::new().expect("a temporary folder");
        let (port, monitor) = (free_port(), free_port());
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, written(&config, port, monitor)).expect("a configuration file");
        let process = started(&file, folder.path());
        let server = NatsServer {
            process,
            port,
            monitor: SocketAddr::from(([127, 0, 0, 1], monitor)),
            tls: config.tls.is_some(),
            _folder: folder,
        };
        server.ready().await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The process, to declare the errors it will log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it, as an operator does.
    pub fn terminate(&mut self) {
        self.process.terminate();
    }

    /// Ends it, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, and waits until it speaks NATS.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_again(&mut self) {
        self.process.start_again();
        self.ready().await;
    }

    /// What its clients are subscribed to, sorted.
    ///
    /// # Panics
    /// When its monitoring port does not answer.
    pub async fn subscriptions(&self) -> Vec<Subscription> {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let answer = self.get("/connz?subs=detail").await.expect("the monitoring port answers");
        let mut found: Vec<Subscription> = answer["connections"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|client| {
                client["subscriptions_list_detail"].as_array().into_iter().flatten().map(|subscription| {
                    Subscription {
                        client: text(client, "name"),
                        subject: text(subscription, "subject"),
                        group: text(subscription, "qgroup"),
                    }
                })
            })
            .collect();
        found.sort();
        found
    }

    /// Waits until exactly these subjects are subscribed to by clients of this name.
    ///
    /// # Panics
    /// When that does not come to be.
    pub async fn subscribed(&self, client: &str, subjects: &[&str]) {
        let mut wanted = subjects.to_vec();
        wanted.sort_unstable();
        let mut patience = Patience::new();
        loop {
            let all = self.subscriptions().await;
            let found: Vec<&str> =
                all.iter().filter(|s| s.client == client).map(|s| s.subject.as_str()).collect();
            if found == wanted {
                return;
            }
            patience
                .wait(|| format!("nats-server knows the subscriptions {found:?} instead of {wanted:?}"))
                .await;
        }
    }

    async fn ready(&self) {
        let mut patience = Patience::new();
        while let Err(error) = self.greets().await {
            patience.wait(|| format!("nats-server does not answer: {error}")).await;
        }
    }

    async fn greets(&self) -> std::io::Result<()> {
        // A NATS server speaks first, also when it will ask for TLS.
        let mut greeting = [0; 5];
        let mut stream = TcpStream::connect(self.address()).await?;
        stream.read_exact(&mut greeting).await?;
        TcpStream::connect(self.monitor).await?;
        if &greeting == b"INFO " { Ok(()) } else { Err(std::io::Error::other("it does not speak NATS")) }
    }

    async fn get(&self, path: &str) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect(self.monitor).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(serde_json::from_str(body)?)
    }
}

fn started(file: &Path, folder: &Path) -> Process {
    Program::new(installed("nats-server"))
        .argument("-c")
        .argument(file)
        .directory(folder)
        .errors(|line| line.contains("[ERR]") || line.contains("[FTL]"))
        .start()
}

/// The server's configuration file.
fn written(config: &NatsConfig, port: u16, monitor: u16) -> String {
    let mut file = format!("host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\n");
    if let Some(authorization) = &config.authorization {
        let _ = writeln!(file, "authorization {{ {authorization} }}");
    }
    if let Some((certificate, key)) = &config.tls {
        let _ = writeln!(file, "tls {{\n  cert_file: {certificate:?}\n  key_file: {key:?}");
        if let Some(ca) = &config.client_ca {
            let _ = writeln!(file, "  ca_file: {ca:?}\n  verify: true");
        }
        file.push_str("}\n");
    }
    file.push_str(&config.more);
    file
}
