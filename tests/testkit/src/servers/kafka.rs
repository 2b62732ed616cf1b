//! The real Apache Kafka, one node in KRaft mode.

mod wire;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Certificates, Kind, Place, Server, jvm};
use crate::process::Program;
use async_trait::async_trait;
use wire::Wire;

/// A Kafka of this test.
pub type Kafka = Server<KafkaConfig>;

/// A user of the listeners that ask for one, with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
pub const USER: &str = "alice";
/// The user's password.
pub const PASSWORD: &str = "alice-secret";

/// What is asked of a Kafka. The default has one listener that asks nothing of its clients.
#[derive(Clone, Debug, Default)]
pub struct KafkaConfig {
    /// Adds the listeners `tls` (a client certificate is looked at where one is shown), `sasl` (PLAIN and SCRAM without
    /// TLS), and `sasl-tls` (both).
    pub secure: Option<Secure>,
    /// Adds a listener whose clients are sent to this address of a proxy, for a wire that can be cut; the proxy passes
    /// on to [`Server::behind_proxy`].
    pub proxy: Option<SocketAddr>,
    /// Further lines of `server.properties`. They win.
    pub more: String,
}

/// Whom the listeners with TLS trust and what they show, as PEM files.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The authority of the clients' certificates.
    pub ca: PathBuf,
    /// The server's certificate and key.
    pub server: (PathBuf, PathBuf),
    /// Whether the listener `tls` refuses clients without a certificate.
    pub client_certificates: bool,
}

impl Secure {
    /// With these certificates, client certificates being optional.
    pub fn with(certificates: &Certificates) -> Secure {
        Secure { ca: certificates.ca(), server: certificates.server(), client_certificates: false }
    }
}

impl Kafka {
    /// What clients are configured with: `bootstrap.servers` of the listener that asks nothing.
    pub fn bootstrap(&self) -> String {
        self.address().to_string()
    }

    /// `bootstrap.servers` of the listener `tls`, `sasl` or `sasl-tls`.
    ///
    /// # Panics
    /// When [`KafkaConfig::secure`] was not asked for.
    pub fn bootstrap_of(&self, listener: &str) -> String {
        self.place().address(listener).to_string()
    }

    /// Where the proxy of [`KafkaConfig::proxy`] passes connections on to.
    ///
    /// # Panics
    /// When none was asked for.
    pub fn behind_proxy(&self) -> SocketAddr {
        self.place().address("proxied")
    }

    /// Makes a topic with these settings, as `retention.ms`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let made =
            async { Wire::connect(self.address()).await?.create_topic(name, partitions, settings).await };
        if let Err(error) = made.await {
            panic!("cannot make the topic {name:?}: {error}");
        }
    }

    /// The names of its topics, without its own.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn topics(&self) -> Vec<String> {
        let known = async { Wire::connect(self.address()).await?.topics().await };
        known.await.unwrap_or_else(|error| panic!("kafka does not tell its topics: {error}"))
    }
}

#[async_trait]
impl Kind for KafkaConfig {
    const NAME: &'static str = "kafka";
    const LIMIT: Duration = Duration::from_secs(120);

    fn ports(&self) -> Vec<&'static str> {
        let mut ports = vec!["plain", "controller"];
        if self.secure.is_some() {
            ports.extend(["tls", "sasl", "sasl-tls"]);
        }
        if self.proxy.is_some() {
            ports.push("proxied");
        }
        ports
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let prepared = jvm::prepared(Self::NAME)?;
        let properties = place.write("server.properties", &self.properties(place)?)?;
        if !place.path("data").exists() {
            lay_out(&prepared.warm.join("formatted"), place)?;
        }
        Ok(prepared
            .program("kafka.jsa", &LOG)?
            .argument("kafka.Kafka")
            .argument(properties)
            .directory(place.folder()))
    }

    /// It answers, makes topics, and has its groups and producers ready: the first of each after a fresh start would
    /// otherwise meet a coordinator that is still loading, and wait for seconds.
    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        let mut wire = Wire::connect(place.address("plain")).await?;
        wire.api_versions().await?;
        wire.could_create_a_topic().await?;
        wire.has_producer_ids().await?;
        wire.coordinates_groups().await?;
        wire.coordinates_transactions().await
    }
}

const LOG: [&str; 4] = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
];

/// Gives an empty node its first metadata, which `tests/prepare` made once: that saves starting Java for it.
///
/// The cluster's id is its own: what remembers a cluster by its id must not take one test's for another's.
fn lay_out(formatted: &Path, place: &Place) -> Result<(), String> {
    const CHECKPOINT: &str = "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint";
    let cannot = |error: std::io::Error| format!("cannot copy {}: {error}", formatted.display());
    let properties = std::fs::read_to_string(formatted.join("meta.properties")).map_err(cannot)?;
    let properties: String = properties
        .lines()
        .filter(|line| !line.starts_with("cluster.id="))
        .flat_map(|line| [line, "\n"])
        .collect();
    // 16 bytes in base64 are wanted, and hexadecimal digits are letters of base64.
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() & ((1 << 52) - 1));
    let id = format!("{:08x}{now:013x}", std::process::id());
    let properties = format!("{properties}cluster.id={id}A\n");
    let checkpoint = std::fs::read(formatted.join(CHECKPOINT)).map_err(cannot)?;
    let data = place.path("data");
    std::fs::create_dir_all(data.join("__cluster_metadata-0")).map_err(cannot)?;
    std::fs::write(data.join(CHECKPOINT), checkpoint).map_err(cannot)?;
    // Last, since a folder that has it is complete to Kafka.
    std::fs::write(data.join("meta.properties"), properties).map_err(cannot)
}

impl KafkaConfig {
    fn properties(&self, place: &Place) -> Result<String, String> {
        let mut listeners = vec![("PLAIN", "PLAINTEXT", "plain")];
        if self.secure.is_some() {
            listeners.extend([("TLS", "SSL", "tls"), ("SASL", "SASL_PLAINTEXT", "sasl")]);
            listeners.push(("SASLTLS", "SASL_SSL", "sasl-tls"));
        }
        if self.proxy.is_some() {
            listeners.push(("PROXIED", "PLAINTEXT", "proxied"));
        }
        let joined = |part: &dyn Fn(&str, &str, &str) -> String| {
            let parts: Vec<String> =
                listeners.iter().map(|(name, protocol, purpose)| part(name, protocol, purpose)).collect();
            parts.join(",")
        };
        let bound = joined(&|name, _, purpose| format!("{name}://{}", place.address(purpose)));
        let advertised = joined(&|name, _, purpose| match self.proxy {
            Some(proxy) if purpose == "proxied" => format!("{name}://{proxy}"),
            _ => format!("{name}://{}", place.address(purpose)),
        });
        let protocols = joined(&|name, protocol, _| format!("{name}:{protocol}"));
        let controller = place.address("controller");
        let data = place.path("data");

        let mut text = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
listeners={bound},CONTROLLER://{controller}
advertised.listeners={advertised}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CONTROLLER
log.dirs={}
{SETTINGS}",
            data.display()
        );
        if let Some(secure) = &self.secure {
            secure.write(place, &mut text)?;
        }
        text.push_str(&self.more);
        text.push('\n');
        Ok(text)
    }
}

/// One node for a test on a small machine: little of everything, nobody waits for more members of a group, members may be
/// taken for dead soon, and what a topic's `retention.ms` gives up is gone within a second.
const SETTINGS: &str = "auto.create.topics.enable=false
num.partitions=3
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.threads=1
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
background.threads=2
";

impl Secure {
    fn write(&self, place: &Place, text: &mut String) -> Result<(), String> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        // Kafka wants the key and its certificates in one file.
        let (certificate, key) = &self.server;
        let shown = place.write("server.pem", &(read(key)? + &read(certificate)?))?;
        let trusted = place.write("ca.pem", &read(&self.ca)?)?;
        let asked = if self.client_certificates { "required" } else { "requested" };
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let plain = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"
        );
        let _ = writeln!(
            text,
            "ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.tls.ssl.client.auth={asked}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            shown.display(),
            trusted.display()
        );
        for listener in ["sasl", "sasltls"] {
            let _ = writeln!(
                text,
                "listener.name.{listener}.plain.sasl.jaas.config={plain}
listener.name.{listener}.scram-sha-256.sasl.jaas.config={scram}
listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram}"
            );
        }
        Ok(())
    }
}
