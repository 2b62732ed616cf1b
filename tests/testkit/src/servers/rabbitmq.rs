//! The real RabbitMQ: AMQP 0.9.1, and with its plugins management and MQTT over TCP and WebSocket.

mod handshake;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Certificates, Kind, Place, Server, found_on_path, paths};
use crate::process::Program;

/// A RabbitMQ of this test.
pub type RabbitMq = Server<RabbitMqConfig>;

/// What is asked of a RabbitMQ. The default has no plugins, one listener, the virtual host `/` and the user `guest` with the
/// password `guest`.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqConfig {
    /// Adds the listener `tls`.
    pub secure: Option<RabbitMqSecure>,
    /// Adds virtual hosts, in which `guest` may do everything.
    pub virtual_hosts: Vec<String>,
    /// Adds users, with what they may do in `/`.
    pub users: Vec<RabbitMqUser>,
    /// Adds the listener `management` (HTTP). Costs a second and 20 MB.
    pub management: bool,
    /// Adds the listeners `mqtt` and `mqtt-websocket` (path `/ws`), for MQTT 3.1.1.
    pub mqtt: bool,
    /// Further lines of `rabbitmq.conf`.
    pub more: String,
}

/// What the listener with TLS shows and trusts, as PEM files.
#[derive(Clone, Debug)]
pub struct RabbitMqSecure {
    /// The authority of the clients' certificates.
    pub ca: PathBuf,
    /// The server's certificate and key.
    pub server: (PathBuf, PathBuf),
    /// Whether it refuses clients without a certificate.
    pub client_certificates: bool,
}

/// A user of the virtual host `/`. Rights are patterns of names; an empty one meets nothing.
#[derive(Clone, Debug)]
pub struct RabbitMqUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
    /// What it may make and remove.
    pub configure: String,
    /// Where it may publish.
    pub write: String,
    /// What it may take messages from.
    pub read: String,
}

impl RabbitMqSecure {
    /// With these certificates, client certificates being optional.
    pub fn with(certificates: &Certificates) -> RabbitMqSecure {
        RabbitMqSecure { ca: certificates.ca(), server: certificates.server(), client_certificates: false }
    }
}

impl RabbitMq {
    /// Where its virtual host `/` is, as a URL with user and password.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address())
    }

    /// Where the listener `tls`, `management`, `mqtt` or `mqtt-websocket` is.
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.place().address(name)
    }

    /// Runs `rabbitmqctl` with these arguments and hands out what it prints. It takes a second or two: a VM of its own.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let folder = paths(RabbitMqConfig::NAME).unwrap_or_else(|error| panic!("{error}")).remove(0);
        let done = tokio::process::Command::new(folder.join("rabbitmqctl"))
            .args(["--quiet", "-n", NODE])
            .args(arguments)
            .envs(environment(self.place()))
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap_or_else(|error| panic!("cannot run rabbitmqctl: {error}"));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "rabbitmqctl {arguments:?} failed: {said}{:?}", done.stderr);
        said
    }
}

/// The name of each node. Each has its own register of names, so they do not meet.
const NODE: &str = "rabbit@localhost";

#[async_trait]
impl Kind for RabbitMqConfig {
    const NAME: &'static str = "rabbitmq";
    const LIMIT: Duration = Duration::from_secs(150);

    fn ports(&self) -> Vec<&'static str> {
        let mut ports = vec!["amqp", "nodes", "names"];
        if self.secure.is_some() {
            ports.push("tls");
        }
        if self.management {
            ports.push("management");
        }
        if self.mqtt {
            ports.extend(["mqtt", "mqtt-websocket"]);
        }
        ports
    }

    /// Erlang's register of names, which a node would start itself, for good and for everybody.
    fn helper(&self, place: &Place) -> Option<(Program, u16)> {
        let port = place.port("names");
        let epmd = found_on_path("epmd")?;
        let epmd = Program::new(epmd).arguments(["-address", "127.0.0.1", "-port", &port.to_string()]);
        Some((epmd.errors(|_| false), port))
    }

    fn program(&self, place: &Place) -> Result<Program, String> {
        let server = paths(Self::NAME)?.remove(0).join("rabbitmq-server");
        place.write("rabbitmq.conf", &self.written(place)?)?;
        place.write("rabbitmq-env.conf", "")?;
        let plugins: Vec<&str> = [
            self.management.then_some("rabbitmq_management"),
            self.mqtt.then_some("rabbitmq_mqtt"),
            self.mqtt.then_some("rabbitmq_web_mqtt"),
        ]
        .into_iter()
        .flatten()
        .collect();
        place.write("enabled_plugins", &format!("[{}].\n", plugins.join(",")))?;
        let mut program = Program::new(server).directory(place.folder()).errors(|_| false);
        for (name, value) in environment(place) {
            program = program.environment(name, value);
        }
        Ok(program)
    }

    async fn is_ready(&self, place: &Place) -> Result<(), String> {
        handshake::opens_the_virtual_host(place.address("amqp")).await
    }
}

fn environment(place: &Place) -> Vec<(&'static str, String)> {
    let file = |name: &str| place.path(name).display().to_string();
    vec![
        // The cookie that nodes and tools know each other by is kept there.
        ("HOME", place.folder().display().to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", place.port("names").to_string()),
        ("RABBITMQ_NODENAME", NODE.into()),
        ("RABBITMQ_DIST_PORT", place.port("nodes").to_string()),
        // Two cores are shared with what is being tested: none of them is kept busy with waiting.
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none".into(),
        ),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
        ("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", file("data")),
        ("RABBITMQ_SCHEMA_DIR", file("schema")),
        ("RABBITMQ_LOG_BASE", file("log")),
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_PID_FILE", file("pid")),
        // The script becomes the server instead of waiting for it, as under a service manager.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
    ]
}

impl RabbitMqConfig {
    fn written(&self, place: &Place) -> Result<String, String> {
        let mut text = format!(
            "listeners.tcp.1 = {}
log.console = true
log.console.level = warning
log.file = false
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.absolute = 512MB
",
            place.address("amqp")
        );
        if let Some(RabbitMqSecure { ca, server: (certificate, key), client_certificates }) = &self.secure {
            let _ = writeln!(
                text,
                "listeners.ssl.1 = {}
ssl_options.cacertfile = {}
ssl_options.certfile = {}
ssl_options.keyfile = {}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = {client_certificates}",
                place.address("tls"),
                ca.display(),
                certificate.display(),
                key.display()
            );
        }
        if self.management {
            let port = place.port("management");
            let _ = writeln!(text, "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}");
        }
        if self.mqtt {
            let (mqtt, websocket) = (place.address("mqtt"), place.port("mqtt-websocket"));
            let _ = writeln!(text, "mqtt.listeners.tcp.1 = {mqtt}\nmqtt.allow_anonymous = true");
            let _ = writeln!(text, "web_mqtt.tcp.ip = 127.0.0.1\nweb_mqtt.tcp.port = {websocket}");
        }
        if !self.virtual_hosts.is_empty() || !self.users.is_empty() {
            let file = place.write("definitions.json", &self.definitions().to_string())?;
            let _ = writeln!(text, "load_definitions = {}", file.display());
        }
        text.push_str(&self.more);
        text.push('\n');
        Ok(text)
    }

    /// Everything that is to be there: a node that is given definitions makes nothing of its own, not even `/` and the guest.
    fn definitions(&self) -> Value {
        let hosts: Vec<&str> =
            std::iter::once("/").chain(self.virtual_hosts.iter().map(String::as_str)).collect();
        let mut users = vec![json!({ "name": "guest", "password": "guest", "tags": ["administrator"] })];
        let all =
            |host| json!({ "user": "guest", "vhost": host, "configure": ".*", "write": ".*", "read": ".*" });
        let mut permissions: Vec<Value> = hosts.iter().map(all).collect();
        for RabbitMqUser { name, password, configure, write, read } in &self.users {
            users.push(json!({ "name": name, "password": password, "tags": [] }));
            permissions.push(
                json!({ "user": name, "vhost": "/", "configure": configure, "write": write, "read": read }),
            );
        }
        json!({
            "users": users,
            "vhosts": hosts.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
            "permissions": permissions,
        })
    }
}
