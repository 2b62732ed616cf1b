//! Real servers on free ports of loopback, each its own process, ended with the test.
//!
//! Nothing is mocked that can be had. A missing server is installed by `tests/prepare`, which says what it does; one that
//! cannot be had fails the test.
//!
//! A test that only needs a broker asks for one of its test binary:
//!
//! ```no_run
//! use testkit::servers::{KafkaConfig, Shared};
//!
//! static KAFKA: Shared<KafkaConfig> = Shared::new();
//!
//! # async fn test() {
//! let bootstrap = KAFKA.server().await.bootstrap();
//! # }
//! ```
//!
//! A test that restarts, kills or pauses it starts its own. What each start costs is in `tests/README.md`.
//!
//! * [`server`]: what all of them have in common;
//! * [`kafka`], [`elasticmq`], [`rabbitmq`], [`mosquitto`], [`nats`], [`minio`]: the servers;
//! * [`toxiproxy`]: a wire to one of them that can be slow, torn, narrow or silent;
//! * [`certificates`]: certificates that only a test trusts;
//! * [`port`](mod@port): ports that stay a server's own while it is down;
//! * [`relay`]: a wire that can be cut, without a process of its own.

pub mod certificates;
pub mod elasticmq;
mod http;
mod jvm;
pub mod kafka;
pub mod minio;
pub mod mosquitto;
pub mod nats;
pub mod port;
pub mod rabbitmq;
pub mod relay;
pub mod server;
pub mod toxiproxy;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use certificates::Certificates;
pub use elasticmq::{ElasticMq, ElasticMqConfig};
pub use kafka::{Kafka, KafkaConfig};
pub use minio::{Minio, MinioConfig};
pub use mosquitto::{Mosquitto, MosquittoConfig, MosquittoSecure};
pub use nats::{NatsConfig, NatsRelease, NatsServer};
pub use port::Port;
pub use rabbitmq::{RabbitMq, RabbitMqConfig};
pub use relay::Relay;
pub use server::{Kind, Place, Server, Shared};
pub use toxiproxy::{Toxiproxy, ToxiproxyConfig};

fn found_on_path(program: &str) -> Option<PathBuf> {
    // Debian keeps servers in sbin, which is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Where `tests/prepare` has a server, which it installs if it must.
fn paths(name: &str) -> Result<Vec<PathBuf>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prepare");
    let done = Command::new(&script)
        .args(["--path", name])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", script.display()))?;
    if !done.status.success() {
        return Err(format!("{name} cannot be had: tests/prepare {name} ended with {}", done.status));
    }
    Ok(String::from_utf8_lossy(&done.stdout).lines().map(PathBuf::from).collect())
}
