//! The real nats-server.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Kind, Place, Server, paths};
use crate::process::Program;

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

/// Which nats-server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatsRelease {
    /// The current one.
    #[default]
    Current,
    /// The oldest that Evoke supports: the one Debian packages.
    Oldest,
}

/// What a server is, and what it asks of its clients. The default asks nothing.
#[derive(Clone, Debug, Default)]
pub struct NatsConfig {
    /// Which release it is of.
    pub release: NatsRelease,
    /// Whether it keeps streams (JetStream), in its folder.
    pub jetstream: bool,
    /// The body of the `authorization` section, in the server's own words: `user: u, password: p`.
    pub authorization: Option<String>,
    /// The certificate and key it shows.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authority whose certificates clients must show.
    pub client_ca: Option<PathBuf>,
    /// Further lines, in the server's own words.
    pub more: String,
}

/// A nats-server of this test.
pub type NatsServer = Server<NatsConfig>;

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
    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.kind().tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}", self.address())
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

    async fn get(&self, path: &str) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect(self.place().address("monitoring")).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(serde_json::from_str(body)?)
    }
}

#[async_trait]
impl Kind for NatsConfig {
    const NAME: &'static str = "nats";

    fn ports(&self) -> Vec<&'static str> {
        vec!["clients", "monitoring"]
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let release = match self.release {
            NatsRelease::Current => "nats",
            NatsRelease::Oldest => "nats-oldest",
        };
        let server = paths(release)?.remove(0).join("nats-server");
        let file = place.write("nats.conf", &written(self, place))?;
        Ok(Program::new(server)
            .argument("-c")
            .argument(file)
            .directory(place.folder())
            .errors(|line| line.contains("[ERR]") || line.contains("[FTL]")))
    }

    /// A NATS server speaks first, also when it will ask for TLS; where it asks nothing, it answers a ping.
    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        let error = |error: std::io::Error| error.to_string();
        TcpStream::connect(place.address("monitoring")).await.map_err(error)?;
        let mut stream = BufReader::new(TcpStream::connect(place.address("clients")).await.map_err(error)?);
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(error)?;
        let information = line.strip_prefix("INFO ").ok_or_else(|| format!("it says {line:?}"))?;
        let information: Value = serde_json::from_str(information).map_err(|error| error.to_string())?;
        if information["tls_required"] == true || information["auth_required"] == true {
            return Ok(());
        }
        stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").await.map_err(error)?;
        line.clear();
        stream.read_line(&mut line).await.map_err(error)?;
        if line == "PONG\r\n" { Ok(()) } else { Err(format!("it answers a ping with {line:?}")) }
    }
}

/// The server's configuration file.
fn written(config: &NatsConfig, place: &Place) -> String {
    let (port, monitor) = (place.port("clients"), place.address("monitoring"));
    let mut file = format!("host: 127.0.0.1\nport: {port}\nhttp: \"{monitor}\"\n");
    if config.jetstream {
        let _ = writeln!(file, "jetstream {{ store_dir: {:?} }}", place.path("jetstream"));
    }
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
