//! The real MinIO, one node with one drive.

mod signature;

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::{Kind, Place, Server, http, paths};
use crate::process::Program;
use crate::time::eventually;

/// A MinIO of this test.
pub type Minio = Server<MinioConfig>;

/// The user with all rights.
pub const USER: &str = "evoke-tests";
/// The user's password.
pub const PASSWORD: &str = "evoke-tests-secret";

/// What is asked of a MinIO. The default notifies nobody.
#[derive(Clone, Debug, Default)]
pub struct MinioConfig {
    /// Where it can be told to send a bucket's notifications. The target `x` of a webhook has the ARN
    /// `arn:minio:sqs::x:webhook`.
    pub targets: Vec<Target>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// A target of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, of letters.
    pub name: String,
    /// `webhook`, `kafka`, `nats`, `amqp` or `mqtt`.
    pub kind: &'static str,
    /// Its settings, as MinIO's variables end: `ENDPOINT` for `MINIO_NOTIFY_WEBHOOK_ENDPOINT_X`.
    pub settings: Vec<(&'static str, String)>,
}

impl Target {
    /// A webhook, shown a bearer token.
    pub fn webhook(name: &str, endpoint: &str, token: &str) -> Target {
        Target::new(name, "webhook", [("ENDPOINT", endpoint), ("AUTH_TOKEN", token)])
    }

    /// A topic of Kafka, which must exist.
    pub fn kafka(name: &str, bootstrap: &str, topic: &str) -> Target {
        Target::new(name, "kafka", [("BROKERS", bootstrap), ("TOPIC", topic)])
    }

    /// A subject of NATS; `address` is host and port.
    pub fn nats(name: &str, address: &str, subject: &str) -> Target {
        Target::new(name, "nats", [("ADDRESS", address), ("SUBJECT", subject)])
    }

    /// An exchange of RabbitMQ, made as a durable direct exchange, and a routing key.
    pub fn amqp(name: &str, url: &str, exchange: &str, routing_key: &str) -> Target {
        let settings =
            [("URL", url), ("EXCHANGE", exchange), ("EXCHANGE_TYPE", "direct"), ("ROUTING_KEY", routing_key)];
        let mut target = Target::new(name, "amqp", settings);
        target.settings.push(("DURABLE", "on".into()));
        target.settings.push(("DELIVERY_MODE", "2".into()));
        target
    }

    /// A topic of MQTT, at QoS 1; `url` is of the form `tcp://127.0.0.1:1883`.
    pub fn mqtt(name: &str, url: &str, topic: &str) -> Target {
        Target::new(name, "mqtt", [("BROKER", url), ("TOPIC", topic), ("QOS", "1")])
    }

    fn new<const N: usize>(name: &str, kind: &'static str, settings: [(&'static str, &str); N]) -> Target {
        let settings = settings.map(|(key, value)| (key, value.to_owned())).to_vec();
        Target { name: name.to_owned(), kind, settings }
    }

    /// What a bucket's configuration calls it.
    pub fn arn(&self) -> String {
        format!("arn:minio:sqs::{}:{}", self.name, self.kind)
    }

    fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let variable = |key: &str| format!("MINIO_NOTIFY_{}_{key}_{}", self.kind.to_uppercase(), self.name);
        let enabled = (variable("ENABLE"), "on".to_owned());
        std::iter::once(enabled)
            .chain(self.settings.iter().map(move |(key, value)| (variable(key), value.clone())))
    }
}

impl Minio {
    /// The endpoint clients are configured with.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Makes a bucket; its name has at least three characters.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_bucket(&self, bucket: &str) {
        self.well(Method::PUT, &format!("/{bucket}"), "", Bytes::new()).await;
    }

    /// Puts an object; the key is written as in a URL's path.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        self.well(Method::PUT, &format!("/{bucket}/{key}"), "", body.into()).await;
    }

    /// Copies an object, `bucket/key` as in a URL's path, with metadata of its own: so it may be copied onto itself.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn copy(&self, from: &str, bucket: &str, key: &str) {
        let path = format!("/{bucket}/{key}");
        let more = [("x-amz-copy-source", from), ("x-amz-metadata-directive", "REPLACE")];
        let answer = signed(self.address(), Method::PUT, &path, "", &more, Bytes::new()).await;
        let (status, said) = answer.unwrap_or_else(|error| panic!("minio does not answer: {error}"));
        assert!(status.is_success(), "minio does not copy: {status}: {}", String::from_utf8_lossy(&said));
    }

    /// Gets an object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn get(&self, bucket: &str, key: &str) -> Bytes {
        self.well(Method::GET, &format!("/{bucket}/{key}"), "", Bytes::new()).await
    }

    /// Removes an object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, bucket: &str, key: &str) {
        self.well(Method::DELETE, &format!("/{bucket}/{key}"), "", Bytes::new()).await;
    }

    /// Has a bucket send these events, as `s3:ObjectCreated:*`, to a target. It opens its targets after it says that it is
    /// ready, and until then knows none of them: that is waited for.
    ///
    /// # Panics
    /// When it is refused, as where the target cannot be reached.
    pub async fn notify(&self, bucket: &str, target: &Target, events: &[&str]) {
        let events: String = events.iter().map(|event| format!("<Event>{event}</Event>")).collect();
        let body = format!(
            "<NotificationConfiguration><QueueConfiguration><Queue>{}</Queue>{events}</QueueConfiguration></NotificationConfiguration>",
            target.arn()
        );
        let path = format!("/{bucket}");
        eventually(MinioConfig::LIMIT, "minio to know its target", async || {
            let (status, said) = self.request(Method::PUT, &path, "notification=", body.clone().into()).await;
            let said = String::from_utf8_lossy(&said).into_owned();
            let unknown = said.contains("A specified destination ARN does not exist");
            assert!(status.is_success() || unknown, "minio refuses to notify: {status}: {said}");
            if unknown { Err(said) } else { Ok(()) }
        })
        .await;
    }

    /// Sends a request signed by the user with all rights. Path and query are as in a URL, the query's parameters sorted and
    /// each with its `=`.
    ///
    /// # Panics
    /// When nothing comes back.
    pub async fn request(&self, method: Method, path: &str, query: &str, body: Bytes) -> (StatusCode, Bytes) {
        let answer = signed(self.address(), method, path, query, &[], body).await;
        answer.unwrap_or_else(|error| panic!("minio does not answer: {error}"))
    }

    async fn well(&self, method: Method, path: &str, query: &str, body: Bytes) -> Bytes {
        let asked = format!("{method} {path}?{query}");
        let (status, body) = self.request(method, path, query, body).await;
        assert!(
            status.is_success(),
            "minio answers {asked} with {status}: {}",
            String::from_utf8_lossy(&body)
        );
        body
    }
}

async fn signed(
    at: SocketAddr,
    method: Method,
    path: &str,
    query: &str,
    more: &[(&str, &str)],
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let headers = signature::headers(&method, &at.to_string(), path, query, &body);
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (*name, value.as_str())).chain(more.iter().copied()).collect();
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    http::ask(at, method, &target, &headers, body).await
}

#[async_trait]
impl Kind for MinioConfig {
    const NAME: &'static str = "minio";
    const LIMIT: Duration = Duration::from_secs(60);

    fn ports(&self) -> Vec<&'static str> {
        vec!["s3"]
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let server = paths(Self::NAME)?.remove(0).join("minio");
        let mut program = Program::new(server)
            .arguments(["server", "--quiet", "--address", &place.address("s3").to_string()])
            .argument(place.path("data"))
            .environment("HOME", place.path("home"))
            .environment("MINIO_ROOT_USER", USER)
            .environment("MINIO_ROOT_PASSWORD", PASSWORD)
            .environment("MINIO_BROWSER", "off")
            .environment("MINIO_UPDATE", "off")
            .environment("GOMAXPROCS", "2")
            .directory(place.folder())
            .errors(|_| false);
        for (name, value) in self.targets.iter().flat_map(Target::environment) {
            program = program.environment(name, value);
        }
        for (name, value) in &self.environment {
            program = program.environment(name, value);
        }
        Ok(program)
    }

    /// It lists its buckets for its user: it says it is healthy before it knows its users.
    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        let at = place.address("s3");
        http::asked_well(at, Method::GET, "/minio/health/ready", &[], "").await?;
        match signed(at, Method::GET, "/", "", &[], Bytes::new()).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, body) => {
                Err(format!("it lists no buckets: {status}: {}", String::from_utf8_lossy(&body)))
            }
        }
    }
}
