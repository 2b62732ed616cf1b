//! The product as a process beside a gateway of the test's own, spoken to over HTTP and the command line only.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Function, FunctionCall, RecordedCall};
use bytes::Bytes;
use http::{HeaderMap, Method};
use rand::Rng;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::process::{Process, Program};
use testkit::time::eventually;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// How long anything may take that takes a moment: two cores are shared with every other test.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The name NATS sources give themselves, as OpenFaaS' connector does.
pub(crate) const SUBSCRIBER: &str = "openfaas_connector";

/// The binary under test: `EVOKE_BIN`, or the one that is built beside the tests.
pub(crate) fn evoke_binary() -> PathBuf {
    let path = match std::env::var_os("EVOKE_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            // The tests lie in `target/PROFILE/deps`, the binary one level above.
            let test = std::env::current_exe().expect("a test knows its executable");
            test.ancestors().nth(2).expect("the tests lie two levels below target").join("evoke")
        }
    };
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo build -p broker-server`, or name one in EVOKE_BIN",
        path.display()
    );
    path.canonicalize().expect("a file has a path")
}

/// An address on loopback nobody listens on.
///
/// Its port lies below those the system gives to outgoing connections, so that none takes it while a broker restarts.
pub(crate) fn address() -> SocketAddr {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let port = rand::rng().random_range(15_000..32_000);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if !given.contains(&port) && TcpListener::bind(address).is_ok() {
            given.insert(port);
            return address;
        }
    }
}

/// How a broker is to be started. Waits are short, so that retries come while the test watches.
#[derive(Clone)]
pub(crate) struct Setup {
    directory: Arc<TempDir>,
    http: SocketAddr,
    metrics: SocketAddr,
    gateway: String,
    config: String,
    sets: Vec<String>,
    environment: Vec<(String, String)>,
    disk: Option<String>,
}

impl Setup {
    /// Beside this gateway, with a data directory and addresses of its own.
    pub(crate) fn beside(gateway: &DemoGateway) -> Setup {
        Setup {
            directory: Arc::new(tempfile::tempdir().expect("a directory for the test")),
            http: address(),
            metrics: address(),
            gateway: gateway.url(),
            config: String::new(),
            sets: Vec::new(),
            environment: Vec::new(),
            disk: None,
        }
        .set("gateway.poll_interval", "200ms")
        .set("delivery.retry.min_wait", "20ms")
        .set("delivery.retry.max_wait", "100ms")
        .set("store.embedded.min_free", "1MiB")
        .set("log.format", "json")
    }

    /// Sets one key over the configuration file.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Setup {
        self.sets.push(format!("{key}={value}"));
        self
    }

    /// The configuration file.
    pub(crate) fn config(mut self, text: &str) -> Setup {
        text.clone_into(&mut self.config);
        self
    }

    /// The same on addresses of its own; the data directory is shared.
    pub(crate) fn elsewhere(&self) -> Setup {
        Setup { http: address(), metrics: address(), ..self.clone() }
    }

    /// Keeps the data on a filesystem of this size that only the broker sees; it goes with the process.
    pub(crate) fn on_a_disk_of(mut self, size: &str) -> Setup {
        self.disk = Some(size.to_owned());
        self
    }

    /// Where the configuration file is.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.path().join("evoke.yaml")
    }

    /// Where the data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts the process, and waits for nothing.
    pub(crate) fn spawn(&self) -> Broker {
        std::fs::write(self.config_file(), &self.config).expect("the configuration file can be written");
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--config".into(), self.config_file().into()];
        let own = [
            format!("listen.http={}", self.http),
            format!("listen.metrics={}", self.metrics),
            format!("gateway.url={}", self.gateway),
            format!("store.embedded.path={}", self.data().display()),
        ];
        for set in own.iter().chain(&self.sets) {
            arguments.extend(["--set".into(), set.into()]);
        }
        let mut program = match &self.disk {
            None => Program::new(evoke_binary()),
            Some(size) => small_disk(size, &self.data()),
        };
        program = program.arguments(arguments);
        for (name, value) in &self.environment {
            program = program.environment(name, value);
        }
        Broker { process: program.directory(self.directory.path()).start(), setup: self.clone(), web: web() }
    }

    /// Starts it, and waits until it takes calls.
    pub(crate) async fn start_without_functions(&self) -> Broker {
        let mut broker = self.spawn();
        broker.ready().await;
        broker
    }

    /// Starts it, and waits until it takes calls and knows the functions.
    pub(crate) async fn start(&self) -> Broker {
        let broker = self.start_without_functions().await;
        broker.listed().await;
        broker
    }
}

/// `evoke` in a mount namespace of its own, its data on a filesystem that ends with it.
fn small_disk(size: &str, data: &Path) -> Program {
    std::fs::create_dir_all(data).expect("a directory to mount on");
    let mount = format!("mount -t tmpfs -o size={size} tmpfs '{}' && exec \"$0\" \"$@\"", data.display());
    // Root may mount; others may in a user namespace of their own.
    let as_root: &[&str] =
        if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    Program::new("/usr/bin/unshare")
        .arguments(as_root)
        .arguments(["--mount", "sh", "-c", &mount])
        .argument(evoke_binary())
}

/// A client without memory: each request has a connection of its own, as each caller has.
fn web() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client without TLS can be made")
}

/// A broker at work.
pub(crate) struct Broker {
    process: Process,
    setup: Setup,
    web: reqwest::Client,
}

impl Deref for Broker {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Broker {
    /// Waits until it takes calls.
    pub(crate) async fn ready(&mut self) {
        self.process.ready(self.setup.http, "/readyz", SOON).await;
    }

    /// Waits until it has asked the gateway for its functions since its start.
    pub(crate) async fn listed(&self) {
        eventually(SOON, "a function list", async || !self.info().await["gateway"]["list_age"].is_null())
            .await;
    }

    /// Starts it again after its end, and waits until it takes calls.
    pub(crate) async fn come_back(&mut self) {
        self.process.start_again();
        self.ready().await;
    }

    /// Where it answers.
    pub(crate) fn http(&self) -> SocketAddr {
        self.setup.http
    }

    /// Where it is measured.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        self.setup.metrics
    }

    /// How it was started.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A URL of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.setup.http)
    }

    /// A request to it.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.web.request(method, self.url(path))
    }

    /// A call of a function, to be refined and sent.
    pub(crate) fn call(&self, function: &str) -> RequestBuilder {
        self.request(Method::POST, &format!("/async-function/{function}"))
    }

    /// Sends a call that must be taken, and gives its invocation id.
    pub(crate) async fn accepted(&self, call: RequestBuilder) -> Uuid {
        let answer = send(call).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.invocation()
    }

    /// GET, which must answer 200 and JSON.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = send(self.request(Method::GET, path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// `/v1/info`.
    pub(crate) async fn info(&self) -> Value {
        self.get("/v1/info").await
    }

    /// One number of the ledger.
    pub(crate) async fn ledger(&self, key: &str) -> i64 {
        self.info().await["ledger"][key].as_i64().expect("a number of the ledger")
    }

    /// One invocation, whole.
    pub(crate) async fn invocation(&self, id: Uuid) -> Value {
        self.get(&format!("/v1/invocations/{id}")).await
    }

    /// The items of a list.
    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().expect("a list has items").clone()
    }

    /// Publishes an event, and gives the receipt.
    pub(crate) async fn publish(&self, topic: &str, body: &str) -> Value {
        let event = json!({ "topic": topic, "body": body });
        let answer = send(self.request(Method::POST, "/v1/events").json(&event)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()
    }

    /// Waits until an invocation is in this state, and gives it.
    pub(crate) async fn wait_for_state(&self, id: Uuid, state: &str) -> Value {
        eventually(SOON, &format!("{id} to be {state}"), async || {
            let seen = self.invocation(id).await;
            if seen["state"] == state { Ok(seen) } else { Err(seen.to_string()) }
        })
        .await
    }

    /// Waits until nothing is held any more, and checks that the ledger agrees with itself.
    pub(crate) async fn quiet(&self) -> Value {
        let ledger = eventually(SOON, "nothing held", async || {
            let ledger = self.info().await["ledger"].take();
            if ledger["held"] == 0 { Ok(ledger) } else { Err(ledger.to_string()) }
        })
        .await;
        assert_eq!(ledger["drift"], 0, "{ledger}");
        ledger
    }

    /// The samples of `/metrics`, each as `name{labels} value`.
    pub(crate) async fn samples(&self) -> Vec<String> {
        let answer = send(self.web.get(format!("http://{}/metrics", self.setup.metrics))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Runs an operator's command against it.
    pub(crate) async fn evoke(&self, arguments: &[&str]) -> Said {
        let url = format!("http://{}", self.setup.http);
        evoke(&[&["--url", &url], arguments].concat()).await
    }

    /// A number of `/proc/PID/status`, in KiB.
    pub(crate) fn memory_kib(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel counts it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    /// The processor time it has used, in the kernel's ticks of 10 ms.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        // The name may hold anything but a closing parenthesis at its end; user and system time come 12 fields later.
        let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// Whether it has ended and waits for us to look.
    pub(crate) fn has_died(&self) -> bool {
        self.proc("stat").rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('Z'))
    }

    fn proc(&self, file: &str) -> String {
        let id = self.process.id().expect("it runs");
        std::fs::read_to_string(format!("/proc/{id}/{file}")).expect("its own child's state can be read")
    }
}

/// What an HTTP server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header that must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// A header.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The invocation that was accepted.
    pub(crate) fn invocation(&self) -> Uuid {
        self.header("evoke-invocation-id").parse().expect("a UUID")
    }
}

/// Sends a request that must be answered.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.expect("an answer")
}

/// Sends a request.
pub(crate) async fn try_send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await? })
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `evoke` with these arguments and nothing of the test's environment.
pub(crate) async fn evoke(arguments: &[&str]) -> Said {
    evoke_in(arguments, &[]).await
}

/// The same with an environment.
pub(crate) async fn evoke_in(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = tokio::process::Command::new(evoke_binary());
    command.args(arguments).env_clear().envs(environment.iter().copied()).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("evoke {arguments:?} did not end")).expect("evoke runs");
    Said {
        code: output.status.code().expect("evoke ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A function that answers only when it is let go, and what lets it go: one permit a call.
pub(crate) fn held(name: &str) -> (Function, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let waits = gate.clone();
    let function = Function::answering(name, move |call: FunctionCall| {
        let gate = waits.clone();
        async move {
            gate.acquire().await.expect("never closed").forget();
            broker_demo_gateway::Answer::ok(call.body)
        }
    });
    (function, gate)
}

/// Which attempt of its life a call says it is.
pub(crate) fn attempt_of(call: &RecordedCall) -> &str {
    call.header("evoke-attempt").expect("each delivery says which attempt it is")
}

/// Which invocation a call says it is.
pub(crate) fn invocation_of(call: &RecordedCall) -> Uuid {
    let id = call.header("evoke-invocation-id").expect("each delivery says which invocation it is");
    id.parse().expect("a UUID")
}
