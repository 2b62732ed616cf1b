//! The real servers for a developer at the keyboard, as the tests start theirs. Run by `tests/servers`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::servers::kafka::Secure;
use testkit::servers::mosquitto::MosquittoSecure;
use testkit::servers::rabbitmq::RabbitMqSecure;
use testkit::servers::server::until_ready;
use testkit::servers::{
    Certificates, ElasticMqConfig, KafkaConfig, Kind, MinioConfig, MosquittoConfig, NatsConfig, NatsRelease,
    Place, RabbitMqConfig, Server, ToxiproxyConfig,
};

const USAGE: &str = "Runs a real server by hand, as the tests run theirs: on loopback, in a folder of its own, ended by its process id.
  tests/servers list                          the servers, and those that run
  tests/servers start NAME FOLDER [PORT] [--secure] [--with LINE]...
                                              starts one; further listeners get the ports above PORT
  tests/servers run NAME [--secure] [--with LINE]...
                                              runs one on free ports until Ctrl-C, and leaves nothing
  tests/servers stop FOLDER                   ends what was started in this folder, and nothing else
  tests/servers status FOLDER
--secure adds the listeners with TLS and with users, and makes certificates in FOLDER/certificates. --with adds a line to
the server's own configuration: a property of Kafka, a line of rabbitmq.conf, a variable of MinIO (NAME=VALUE).
What a server stored in its folder is there again when it is started there again. What is missing is installed by
tests/prepare, which says what it does.";

/// The name, the port unless told, and what clients need to know.
const SERVERS: [(&str, u16, &str); 8] = [
    ("kafka", 9092, "bootstrap.servers; with --secure the user alice, password alice-secret"),
    ("elasticmq", 9324, "SQS endpoint over HTTP, any credentials, region us-east-1"),
    (
        "rabbitmq",
        5672,
        "AMQP, user guest, password guest; management with --with management, MQTT with --with mqtt",
    ),
    ("mosquitto", 1883, "MQTT 3.1.1 and 5"),
    ("nats", 4222, "the current nats-server, with JetStream"),
    ("nats-oldest", 4222, "the oldest nats-server Evoke supports, with JetStream"),
    ("minio", 9000, "S3 over HTTP, user evoke-tests, password evoke-tests-secret"),
    ("toxiproxy", 8474, "a fault proxy's HTTP interface"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => list(),
        ["start", name, folder, rest @ ..] => {
            let (port, rest) = match rest {
                [port, rest @ ..] if !port.starts_with('-') => {
                    (Some(port.parse().map_err(|_| format!("{port:?} is no port"))?), rest)
                }
                rest => (None, rest),
            };
            std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {folder}: {error}"))?;
            let folder = std::fs::canonicalize(folder).map_err(|error| format!("{folder}: {error}"))?;
            with_kind(name, rest, Some(&folder), How::Start(folder.clone(), port)).await
        }
        ["run", name, rest @ ..] => with_kind(name, rest, None, How::Run).await,
        ["stop", folder] => stop(Path::new(folder)).await,
        ["status", folder] => status(Path::new(folder)),
        _ => Err(USAGE.into()),
    }
}

enum How {
    Start(PathBuf, Option<u16>),
    Run,
}

/// Builds the configuration a developer asks for, and does with it what is asked.
async fn with_kind(name: &str, options: &[&str], folder: Option<&Path>, how: How) -> Result<(), String> {
    let mut secure = false;
    let mut lines = Vec::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--secure" => secure = true,
            "--with" => lines.push(*options.next().ok_or("--with wants a line")?),
            other => return Err(format!("{other:?} is not known\n{USAGE}")),
        }
    }
    // Certificates live as long as the folder, or as this process.
    let certificates = secure.then(|| match folder {
        Some(folder) => Certificates::kept_in(&folder.join("certificates")),
        None => Certificates::new(),
    });
    let certificates = certificates.as_ref();
    let more = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    match name {
        "kafka" => {
            let secure = certificates.map(Secure::with);
            how.go(KafkaConfig { secure, more, ..KafkaConfig::default() }, name).await
        }
        "elasticmq" => how.go(ElasticMqConfig { more, ..ElasticMqConfig::default() }, name).await,
        "rabbitmq" => {
            let plugin = |name| lines.contains(&name);
            let own = lines.iter().filter(|line| !["management", "mqtt"].contains(line));
            let config = RabbitMqConfig {
                secure: certificates.map(RabbitMqSecure::with),
                management: plugin("management"),
                mqtt: plugin("mqtt"),
                more: own.map(|line| format!("{line}\n")).collect(),
                ..RabbitMqConfig::default()
            };
            how.go(config, name).await
        }
        "mosquitto" => {
            let secure = certificates.map(MosquittoSecure::with);
            how.go(MosquittoConfig { secure, more, ..MosquittoConfig::default() }, name).await
        }
        "nats" | "nats-oldest" => {
            let release = if name == "nats" { NatsRelease::Current } else { NatsRelease::Oldest };
            let tls = certificates.map(Certificates::server);
            how.go(NatsConfig { release, jetstream: true, tls, more, ..NatsConfig::default() }, name).await
        }
        "minio" => {
            let variable = |line: &&str| {
                let (name, value) = line.split_once('=').ok_or(format!("{line:?} is not NAME=VALUE"))?;
                Ok((name.to_owned(), value.to_owned()))
            };
            let environment = lines.iter().map(variable).collect::<Result<_, String>>()?;
            how.go(MinioConfig { environment, ..MinioConfig::default() }, name).await
        }
        "toxiproxy" => how.go(ToxiproxyConfig, name).await,
        other => {
            let known: Vec<&str> = SERVERS.iter().map(|(name, ..)| *name).collect();
            Err(format!("{other:?} is not known, only {}", known.join(", ")))
        }
    }
}

impl How {
    async fn go<K: Kind>(self, kind: K, name: &str) -> Result<(), String> {
        match self {
            How::Start(folder, port) => start(kind, name, &folder, port).await,
            How::Run => {
                let mut server = Server::try_with(kind).await?;
                println!("{name} runs as process {}", server.process().id().unwrap_or_default());
                show(name, server.place());
                let _ = tokio::signal::ctrl_c().await;
                Ok(())
            }
        }
    }
}

fn show(name: &str, place: &Place) {
    for (purpose, _) in place.ports() {
        println!("  {purpose:<16}{}", place.address(purpose));
    }
    if let Some((_, _, about)) = SERVERS.iter().find(|(known, ..)| *known == name) {
        println!("  {about}");
    }
}

async fn start<K: Kind>(kind: K, name: &str, folder: &Path, port: Option<u16>) -> Result<(), String> {
    if standing(folder).is_some_and(|known| known.iter().any(Life::runs)) {
        return Err(format!("a server runs in {} already", folder.display()));
    }
    let usual = SERVERS.iter().find(|(known, ..)| *known == name).map_or(0, |(_, port, _)| *port);
    let first = port.unwrap_or(usual);
    let purposes = kind.ports();
    let ports: Vec<u16> = (first..).take(purposes.len()).collect();
    for port in &ports {
        // Two servers on one port would look like one that is broken.
        std::net::TcpListener::bind(("127.0.0.1", *port)).map_err(|error| format!("port {port}: {error}"))?;
    }
    let place = Place::new(folder, &purposes, &ports);
    let log = folder.join("server.log");
    let program = kind.program(&place)?;
    let mut lives = Vec::new();
    let begin = |program: &testkit::process::Program| {
        let id = program.detach(&log).map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok::<_, String>(Life { id, began: began(id).unwrap_or_default() })
    };
    if let Some((helper, port)) = kind.helper(&place) {
        lives.push(begin(&helper)?);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && lives[0].runs() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    lives.push(begin(&program)?);
    keep(folder, name, &lives)?;
    let server = Life { id: lives[lives.len() - 1].id, began: lives[lives.len() - 1].began.clone() };
    let ended = || (!server.runs()).then(|| format!("{name} ended by itself"));
    if let Err(error) = until_ready(&kind, &place, ended).await {
        let _ = stop(folder).await;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(20).collect();
        return Err(format!("{error}; it said\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")));
    }
    println!("{name} runs as process {}, log {}", server.id, log.display());
    show(name, &place);
    Ok(())
}

/// A process: its id and when it began, so that an id given to another process since is left alone.
struct Life {
    id: u32,
    began: String,
}

impl Life {
    fn runs(&self) -> bool {
        began(self.id).is_some_and(|began| began == self.began)
    }
}

/// When a process began, unless it has ended: the system keeps a dead one until its parent has looked.
fn began(id: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before the parenthesis may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    (*fields.first()? != "Z").then(|| fields.get(19).map(|began| (*began).to_owned()))?
}

fn keep(folder: &Path, name: &str, lives: &[Life]) -> Result<(), String> {
    let lives: Vec<Value> = lives.iter().map(|life| json!({ "id": life.id, "began": life.began })).collect();
    let path = folder.join("server.json");
    std::fs::write(&path, json!({ "name": name, "processes": lives }).to_string())
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let mut known = places();
    known.insert(folder.display().to_string(), name.to_owned());
    remember(&known);
    Ok(())
}

/// The processes that were started in a folder, the server last.
fn standing(folder: &Path) -> Option<Vec<Life>> {
    let text = std::fs::read_to_string(folder.join("server.json")).ok()?;
    let known: Value = serde_json::from_str(&text).ok()?;
    let lives = known["processes"].as_array()?.iter().filter_map(|life| {
        let id = u32::try_from(life["id"].as_u64()?).ok()?;
        Some(Life { id, began: life["began"].as_str()?.to_owned() })
    });
    Some(lives.collect())
}

async fn stop(folder: &Path) -> Result<(), String> {
    let lives = standing(folder).unwrap_or_default();
    if !lives.iter().any(Life::runs) {
        println!("no server runs in {}", folder.display());
    }
    // The server before what it needs.
    for life in lives.iter().rev() {
        let Some(pid) = Pid::from_raw(life.id.cast_signed()).filter(|_| life.runs()) else { continue };
        kill_process(pid, Signal::TERM)
            .map_err(|error| format!("cannot end process {}: {error}", life.id))?;
        let asked = Instant::now();
        while life.runs() {
            if asked.elapsed() > Duration::from_secs(60) {
                return Err(format!("process {} does not end", life.id));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("stopped process {}", life.id);
    }
    let _ = std::fs::remove_file(folder.join("server.json"));
    let mut known = places();
    if let Ok(folder) = std::fs::canonicalize(folder) {
        known.remove(&folder.display().to_string());
        remember(&known);
    }
    Ok(())
}

fn status(folder: &Path) -> Result<(), String> {
    match standing(folder).unwrap_or_default().last() {
        Some(server) if server.runs() => {
            println!("runs as process {}", server.id);
            Ok(())
        }
        _ => Err("does not run".into()),
    }
}

fn list() -> Result<(), String> {
    for (name, port, about) in SERVERS {
        println!("{name:<12} port {port:<6} {about}");
    }
    for (folder, name) in places() {
        if let Some(server) =
            standing(Path::new(&folder)).unwrap_or_default().last().filter(|life| life.runs())
        {
            println!("{name} runs in {folder} as process {}", server.id);
        }
    }
    Ok(())
}

/// The folders in which servers were started, with their names.
fn places() -> BTreeMap<String, String> {
    let text = register().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Only for the list: each folder knows what runs in it.
fn remember(known: &BTreeMap<String, String>) {
    if let (Some(path), Ok(text)) = (register(), serde_json::to_string(known)) {
        let _ = std::fs::write(path, text);
    }
}

fn register() -> Option<PathBuf> {
    // A test's list is not the developer's.
    if let Some(path) = std::env::var_os("EVOKE_TEST_REGISTER") {
        return Some(path.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("evoke/servers.json"))
}
