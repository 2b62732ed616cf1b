//! The real Mosquitto, which speaks MQTT 3.1.1 and 5.
//!
//! Debian builds it without WebSocket; MQTT over that is had from [`super::RabbitMq`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Certificates, Kind, Place, Server, paths};
use crate::process::Program;

/// A Mosquitto of this test.
pub type Mosquitto = Server<MosquittoConfig>;

/// What is asked of a Mosquitto. The default has one listener that asks nothing of its clients, keeps what sessions wait
/// for without bound, and writes it to disk every second and at its end.
#[derive(Clone, Debug, Default)]
pub struct MosquittoConfig {
    /// Adds the listener `tls`.
    pub secure: Option<MosquittoSecure>,
    /// The only user that all listeners accept, with the password.
    pub user: Option<(String, String)>,
    /// Further lines of its configuration, as of its default listener.
    pub more: String,
}

/// What the listener with TLS shows and trusts, as PEM files.
#[derive(Clone, Debug)]
pub struct MosquittoSecure {
    /// The authority of the clients' certificates.
    pub ca: PathBuf,
    /// The server's certificate and key.
    pub server: (PathBuf, PathBuf),
    /// Whether it refuses clients without a certificate.
    pub client_certificates: bool,
}

impl MosquittoSecure {
    /// With these certificates, client certificates being optional.
    pub fn with(certificates: &Certificates) -> MosquittoSecure {
        MosquittoSecure { ca: certificates.ca(), server: certificates.server(), client_certificates: false }
    }
}

impl Mosquitto {
    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address())
    }

    /// Where the listener with TLS is.
    ///
    /// # Panics
    /// When [`MosquittoConfig::secure`] was not asked for.
    pub fn tls(&self) -> SocketAddr {
        self.place().address("tls")
    }
}

#[async_trait]
impl Kind for MosquittoConfig {
    const NAME: &'static str = "mosquitto";

    fn ports(&self) -> Vec<&'static str> {
        if self.secure.is_some() { vec!["mqtt", "tls"] } else { vec!["mqtt"] }
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let server = paths(Self::NAME)?.remove(0).join("mosquitto");
        let file = place.write("mosquitto.conf", &self.written(place)?)?;
        let data = place.path("data");
        std::fs::create_dir_all(&data).map_err(|error| format!("cannot make {}: {error}", data.display()))?;
        Ok(Program::new(server).argument("-c").argument(file).directory(place.folder()).errors(|_| false))
    }

    /// It answers a connection, if only by refusing it.
    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        const CONNECT: &[u8] = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x05\x00\x04test";
        let exchange = async {
            let mut stream = TcpStream::connect(place.address("mqtt")).await?;
            stream.write_all(CONNECT).await?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        match exchange.await {
            Ok([0x20, 2, _, 0 | 4 | 5]) => Ok(()),
            Ok(other) => Err(format!("it answers CONNECT with {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl MosquittoConfig {
    fn written(&self, place: &Place) -> Result<String, String> {
        let mut text = format!(
            "log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
persistence true
persistence_location {}/
autosave_interval 1
max_queued_messages 0
",
            place.path("data").display()
        );
        // As root it would give up its rights, and with them its folder.
        if rustix::process::geteuid().is_root() {
            text.push_str("user root\n");
        }
        match &self.user {
            None => text.push_str("allow_anonymous true\n"),
            Some((user, password)) => {
                let file = self.passwords(place, user, password)?;
                let _ = writeln!(text, "allow_anonymous false\npassword_file {}", file.display());
            }
        }
        let _ = writeln!(text, "listener {} 127.0.0.1\n{}", place.port("mqtt"), self.more);
        if let Some(MosquittoSecure { ca, server: (certificate, key), client_certificates }) = &self.secure {
            let _ = writeln!(
                text,
                "listener {} 127.0.0.1
cafile {}
certfile {}
keyfile {}
require_certificate {client_certificates}",
                place.port("tls"),
                ca.display(),
                certificate.display(),
                key.display()
            );
        }
        Ok(text)
    }

    /// The file of passwords, which Mosquitto's own tool makes.
    fn passwords(&self, place: &Place, user: &str, password: &str) -> Result<PathBuf, String> {
        let file = place.write("passwords", "")?;
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b".as_ref(), file.as_os_str(), user.as_ref(), password.as_ref()])
            .output()
            .map_err(|error| format!("cannot run mosquitto_passwd: {error}"))?;
        if made.status.success() { Ok(file) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
    }
}
