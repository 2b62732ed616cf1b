//! The process that is measured: the real binary, configured by a file, spoken to over HTTP.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::generator::{self, Load};
use crate::helper::Helper;
use crate::{Bench, Role, helper};

/// From its start until it is ready and has listed the functions.
const START: Duration = Duration::from_secs(30);

/// From SIGTERM to its end; longer than its own grace period.
const STOP: Duration = Duration::from_secs(40);

/// Until the last settlements are counted, once every call has arrived.
const SETTLE: Duration = Duration::from_secs(10);

/// What is not as built in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Deliveries to one function at once; adaptive when `None`.
    pub(crate) concurrency: Option<usize>,
    /// Whether each settled call writes its line to the log.
    pub(crate) log_calls: bool,
    /// The sources: names, and what stands behind them in YAML.
    pub(crate) sources: Vec<(&'static str, String)>,
}

impl Settings {
    /// The whole configuration. JSON, which YAML contains, but for the sources.
    fn configuration(&self, front: SocketAddr, metrics: SocketAddr, gateway: &str, data: &Path) -> String {
        let mut configuration = json!({
            "listen": { "http": front, "metrics": metrics },
            "gateway": { "url": gateway },
            "store": { "embedded": { "path": data } },
            "log": { "calls": self.log_calls },
        });
        if let Some(concurrency) = self.concurrency {
            configuration["delivery"] = json!({ "concurrency": concurrency });
        }
        let mut text = configuration.to_string();
        if !self.sources.is_empty() {
            let sources: Vec<_> = self.sources.iter().map(|(name, yaml)| format!("{name}: {yaml}")).collect();
            // A flow mapping as the rest, before its last bracket.
            text.truncate(text.len() - 1);
            text.push_str(&format!(", \"sources\": {{ {} }}}}", sources.join(", ")));
        }
        text
    }
}

/// A running broker with an empty data directory of its own. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Evoke {
    /// Its id.
    pub(crate) process: u32,
    address: SocketAddr,
    dir: PathBuf,
    /// Ends as the broker ends, with its exit code.
    keeper: Child,
    /// Closing it ends the broker.
    _pipe: ChildStdin,
}

/// What it counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ledger {
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) held: u64,
    pub(crate) dead: u64,
    pub(crate) drift: i64,
    /// Syncs of its journal.
    pub(crate) commits: u64,
}

/// Whether a binary has a kind of source: one of fewer features is measured without it.
pub(crate) fn has(binary: &Path, kind: &str, dir: &Path) -> Result<bool> {
    let file = dir.join("kinds.yaml");
    std::fs::write(&file, "sources: { any: { no-such-kind: {} } }").context("writing a configuration")?;
    let check = std::process::Command::new(binary)
        .args(["check", "--config"])
        .arg(&file)
        .env_clear()
        .output()
        .with_context(|| format!("asking {} for its kinds of sources", binary.display()))?;
    let said = String::from_utf8_lossy(&check.stderr);
    let (_, kinds) = said
        .split_once("the kinds built in are ")
        .with_context(|| format!("{} does not name its kinds of sources: {said}", binary.display()))?;
    Ok(kinds.split([',', ' ', '\n']).any(|one| one == kind))
}

impl Evoke {
    /// Starts it beside the functions of this bench, and waits until it is ready and knows them. `None` where only the
    /// limits are measured.
    pub(crate) async fn start(bench: &Bench, settings: Settings) -> Result<Option<Evoke>> {
        Evoke::beside(&bench.functions, bench, settings).await
    }

    /// The same beside other functions.
    pub(crate) async fn beside(
        functions: &Helper,
        bench: &Bench,
        settings: Settings,
    ) -> Result<Option<Evoke>> {
        let Some(binary) = &bench.evoke else {
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("evoke-").tempdir_in(&bench.dir)?.keep();
        let (front, metrics) = free_addresses()?;
        let configuration = settings.configuration(front, metrics, &functions.url(), &dir.join("data"));
        let file = dir.join("evoke.yaml");
        std::fs::write(&file, configuration).context("writing its configuration")?;
        let log = std::fs::File::create(dir.join("log")).context("making its log")?;
        let mut keeper = Command::new(&bench.program)
            .args(["--role", &Role::Keeper.argument(), "--"])
            .arg(binary)
            .args(["serve", "--config"])
            .arg(&file)
            // Variables of this shell must not configure what is measured.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let pipe = keeper.stdin.take().context("the keeper has no standard input")?;
        let said = keeper.stdout.take().context("the keeper has no standard output")?;
        let started = helper::next(&mut BufReader::new(said).lines()).await;
        let process = started.with_context(|| format!("starting {}", binary.display()))?;
        let mut evoke = Evoke { process, address: front, dir, keeper, _pipe: pipe };
        match timeout(START, evoke.ready()).await {
            Ok(Ok(())) => Ok(Some(evoke)),
            Ok(Err(error)) => bail!("{error:#}; {}", evoke.last_words()),
            Err(_) => bail!("evoke is not ready within {START:?}; {}", evoke.last_words()),
        }
    }

    async fn ready(&mut self) -> Result<()> {
        loop {
            if let Some(status) = self.keeper.try_wait()? {
                bail!("evoke ended before it was ready: {status}");
            }
            // Refused until it listens, 503 until the store is open.
            if let Ok((StatusCode::OK, _)) = self.call(Method::GET, "/readyz").await {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        loop {
            let (status, function) = self.call(Method::GET, "/v1/functions/noop").await?;
            if status == StatusCode::OK && function["listed"] == true {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of its log, for whoever has to find out.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("its log ends:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    /// Posts to its front.
    pub(crate) fn load(&self, connections: usize) -> Load {
        Load {
            address: self.address,
            path: "/async-function/noop",
            expected: StatusCode::ACCEPTED,
            connections,
            headers: &[],
            body: generator::same,
        }
    }

    /// Its front.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds the deliveries to the function that does nothing.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.pause_function("noop").await
    }

    /// Holds the deliveries to a function.
    pub(crate) async fn pause_function(&self, name: &str) -> Result<()> {
        self.order(&format!("/v1/functions/{name}/pause")).await
    }

    /// Lets them go.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.order("/v1/functions/noop/resume").await
    }

    /// Waits until a source is connected.
    pub(crate) async fn connected(&self, source: &str) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let shown = self.get(&format!("/v1/sources/{source}")).await?;
            if shown["state"] == "connected" {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{source} is not connected within {START:?}: {shown}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Holds a source, and waits until it takes nothing.
    pub(crate) async fn hold(&self, source: &str) -> Result<()> {
        self.order(&format!("/v1/sources/{source}/pause")).await?;
        let deadline = Instant::now() + START;
        while self.get(&format!("/v1/sources/{source}")).await?["state"] != "paused" {
            ensure!(Instant::now() < deadline, "{source} is not paused within {START:?}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets it go on.
    pub(crate) async fn let_go(&self, source: &str) -> Result<()> {
        self.order(&format!("/v1/sources/{source}/resume")).await
    }

    /// How many messages of a source became invocations. None may be lost.
    pub(crate) async fn taken(&self, source: &str) -> Result<u64> {
        let shown = self.get(&format!("/v1/sources/{source}")).await?;
        let count = |name: &str| shown["counts"][name].as_u64().unwrap_or_default();
        let lost = count("dropped") + count("unmatched") + count("quarantined");
        ensure!(lost == 0, "messages did not become invocations: {}", shown["counts"]);
        Ok(count("accepted"))
    }

    /// What the broker says of a source.
    pub(crate) async fn source(&self, source: &str) -> Result<Value> {
        self.get(&format!("/v1/sources/{source}")).await
    }

    /// Everything in a list, page by page.
    pub(crate) async fn all(&self, list: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.get(&format!("{list}?limit=1000{cursor}")).await?;
            match page["items"].take() {
                Value::Array(items) => all.extend(items),
                other => bail!("{list} holds {other}"),
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.call(Method::GET, path).await?;
        ensure!(status == StatusCode::OK, "{path} answered {status}: {answer}");
        Ok(answer)
    }

    async fn order(&self, path: &str) -> Result<()> {
        let (status, answer) = self.call(Method::POST, path).await?;
        ensure!(status.is_success(), "{path} answered {status}: {answer}");
        Ok(())
    }

    /// Its counts at this moment.
    pub(crate) async fn ledger(&self) -> Result<Ledger> {
        let info = self.get("/v1/info").await?;
        let durability = &info["store"]["durability"];
        ensure!(
            durability == "fsync",
            "a 202 of this store means {durability}, not fsync: its rate is no figure"
        );
        let count = |part: &str, name: &str| {
            info[part][name].as_u64().with_context(|| format!("no {part}.{name} in /v1/info: {info}"))
        };
        Ok(Ledger {
            accepted: count("ledger", "accepted")?,
            completed: count("ledger", "completed")?,
            held: count("ledger", "held")?,
            dead: count("ledger", "dead")?,
            drift: info["ledger"]["drift"].as_i64().context("no ledger.drift in /v1/info")?,
            commits: count("store", "commits")?,
        })
    }

    /// Makes sure that exactly this many were accepted and that all of them completed.
    pub(crate) async fn all_completed(&self, calls: u64) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let ledger = self.ledger().await?;
            if (ledger.completed, ledger.held) == (calls, 0) {
                ensure!(
                    ledger.accepted == calls && ledger.dead == 0 && ledger.drift == 0,
                    "{calls} calls, but {ledger:?}"
                );
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{calls} calls arrived, but {SETTLE:?} later {ledger:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it as a supervisor would, and removes what it wrote.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let process = i32::try_from(self.process).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(process, Signal::TERM).context("sending SIGTERM to evoke")?;
        let ended = timeout(STOP, self.keeper.wait()).await;
        let status =
            ended.with_context(|| format!("evoke did not end within {STOP:?}; {}", self.last_words()))??;
        ensure!(status.success(), "evoke ended with {status}; {}", self.last_words());
        std::fs::remove_dir_all(&self.dir).context("removing what evoke wrote")
    }

    async fn call(&self, method: Method, path: &str) -> Result<(StatusCode, Value)> {
        let exchange = async {
            let stream = TcpStream::connect(self.address).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, self.address.to_string())
                .body(Empty::<Bytes>::new())?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            drop(sender);
            connection.await??;
            Ok::<_, anyhow::Error>((status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        timeout(Duration::from_secs(10), exchange).await.with_context(|| format!("no answer to {path}"))?
    }
}

/// Two addresses on loopback that nobody listened on a moment ago.
fn free_addresses() -> Result<(SocketAddr, SocketAddr)> {
    let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((one.local_addr()?, other.local_addr()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_figure_needs_is_configured() {
        let (front, metrics) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let configured = |settings: Settings| {
            settings.configuration(front, metrics, "http://127.0.0.1:3", Path::new("data"))
        };

        assert_eq!(
            configured(Settings::default()),
            r#"{"listen":{"http":"127.0.0.1:1","metrics":"127.0.0.1:2"},"gateway":{"url":"http://127.0.0.1:3"},"store":{"embedded":{"path":"data"}},"log":{"calls":false}}"#
        );
        let settings = Settings { concurrency: Some(64), log_calls: true, ..Settings::default() };
        assert!(configured(settings).ends_with(r#""log":{"calls":true},"delivery":{"concurrency":64}}"#));
        let sources = vec![("a", "{ cron: {} }".to_owned()), ("b", "{ nats: { url: x } }".to_owned())];
        assert!(
            configured(Settings { sources, ..Settings::default() }).ends_with(
                r#""log":{"calls":false}, "sources": { a: { cron: {} }, b: { nats: { url: x } } }}"#
            )
        );
    }
}
