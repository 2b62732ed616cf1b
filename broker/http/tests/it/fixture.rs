//! A broker without its binary: engine, reference store and gateway behind the HTTP side on free ports.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_demo_gateway::{DemoGateway, Function};
use broker_engine::{Engine, EngineSettings, Parts};
use broker_http::{Http, HttpMetrics, HttpParts, HttpSettings, Phase, Shutdown};
use broker_model::source::{Capabilities, Resumed, SourceCounts, SourceState, SourceStatus, Sources};
use broker_model::{SourceName, StoreError, Timestamp, TimetableBoard, Wildcards};
use prometheus_client::registry::Registry;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything may take before a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a test may change before the broker starts.
pub(crate) struct Plan {
    pub(crate) functions: Vec<Function>,
    pub(crate) http: HttpSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) bounds: Bounds,
}

impl Default for Plan {
    fn default() -> Self {
        let mut engine = EngineSettings::default();
        engine.gateway.poll_interval = Duration::from_millis(200);
        engine.delivery.policy.attempts = 0;
        Plan {
            functions: vec![
                Function::echo("echo").annotation("topic", "orders.created"),
                Function::env("env"),
                Function::fail("fail", 500),
                Function::slow("slow", Duration::from_secs(3600)),
            ],
            http: HttpSettings::default(),
            engine,
            bounds: Bounds::default(),
        }
    }
}

pub(crate) struct Broker {
    pub(crate) gateway: DemoGateway,
    pub(crate) store: ReferenceStore,
    pub(crate) http: Http,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) shutdown: Shutdown,
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) sources: Arc<OneSource>,
    pub(crate) timetable: Arc<TimetableBoard>,
    pub(crate) client: reqwest::Client,
    pub(crate) serving: Vec<JoinHandle<()>>,
    engine: Option<Engine>,
}

impl Broker {
    pub(crate) async fn start() -> Broker {
        Broker::with(|_| ()).await
    }

    /// A broker as planned, once it knows the gateway's functions.
    pub(crate) async fn with(change: impl FnOnce(&mut Plan)) -> Broker {
        let mut plan = Plan::default();
        change(&mut plan);
        let gateway = DemoGateway::start(plan.functions).await.expect("a gateway on a free port");
        plan.engine.gateway.url = gateway.url().parse().expect("the gateway's URL");
        let clock = TestClock::start();
        let store = ReferenceStore::new(plan.bounds, clock.clone());
        let shared = Arc::new(store.clone());
        let engine = Engine::start(Parts {
            queue: shared.clone(),
            ledger: shared.clone(),
            bodies: shared.clone(),
            clock: clock.clone(),
            settings: plan.engine,
            table_file: None,
            gateway: None,
        })
        .await
        .expect("an engine");
        let mut registry = Registry::default();
        let metrics = HttpMetrics::default();
        metrics.register(&mut registry);
        engine.metrics().register(&mut registry);
        let (phase, phases) = watch::channel(Phase::Ready);
        let sources = Arc::new(OneSource::default());
        let timetable = Arc::new(TimetableBoard::default());
        let http = Http::new(HttpParts {
            intake: engine.intake(),
            control: engine.control(),
            functions: engine.functions(),
            ledger: shared.clone(),
            bodies: shared,
            sources: sources.clone(),
            timetable: timetable.clone(),
            budget: engine.budget(),
            clock,
            registry: Arc::new(registry),
            metrics,
            settings: plan.http,
            phase: phases,
        });
        let (front, scrape) = (listener().await, listener().await);
        let (addr, metrics) = (front.local_addr().expect("bound"), scrape.local_addr().expect("bound"));
        let shutdown = Shutdown::default();
        let (one, other) = (http.clone(), http.clone());
        let (for_one, for_other) = (shutdown.clone(), shutdown.clone());
        let serving = vec![
            tokio::spawn(async move { one.serve_front(front, for_one).await }),
            tokio::spawn(async move { other.serve_metrics(scrape, for_other).await }),
        ];
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let functions = engine.functions();
        let broker = Broker {
            gateway,
            store,
            http,
            phase,
            shutdown,
            addr,
            metrics,
            sources,
            timetable,
            client,
            serving,
            engine: Some(engine),
        };
        eventually(SOON, "the gateway's functions to be known", async || functions.loaded()).await;
        broker
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// Sends a call and gives the answer.
    pub(crate) async fn call(&self, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
        let mut request = self.request(Method::POST, path).body(body.to_owned());
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    /// Sends a call that waits for its result, without waiting here.
    pub(crate) fn call_in_background(
        &self,
        path: &str,
        preference: &str,
    ) -> JoinHandle<reqwest::Result<Response>> {
        tokio::spawn(self.request(Method::POST, path).header("prefer", preference).body("x").send())
    }

    /// Sends a call that is taken, and gives its invocation id.
    pub(crate) async fn taken(&self, path: &str, fields: &[(&str, &str)], body: &str) -> String {
        let answer = self.call(path, fields, body).await;
        assert_eq!(answer.status(), 202, "{path}");
        header(&answer, "evoke-invocation-id").expect("an id").to_owned()
    }

    /// Asks the management API: status and JSON.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        let shape = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        (status, shape)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.api(Method::GET, path, None).await
    }

    /// An invocation, once it is in this state.
    pub(crate) async fn once(&self, id: &str, state: &str) -> Value {
        let path = format!("/v1/invocations/{id}");
        eventually(SOON, state, async || {
            let (_, shown) = self.get(&path).await;
            if shown["state"] == state { Ok(shown) } else { Err(shown.to_string()) }
        })
        .await
    }

    /// What `limits.in_flight` counts now, in bytes.
    pub(crate) async fn in_flight(&self) -> usize {
        let at = format!("http://{}/metrics", self.metrics);
        let text = self.client.get(at).send().await.expect("metrics").text().await.expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix("evoke_in_flight_bytes "));
        value.expect("a metric").parse().expect("a number")
    }

    /// Writes bytes to a connection of its own and reads what comes until it closes or an answer is whole.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.expect("a connection");
        // A peer that refuses what is too long may close before all of it is written.
        let _ = stream.write_all(bytes).await;
        read_answer(&mut stream).await
    }

    /// Stops everything and waits for it.
    pub(crate) async fn stop(mut self) {
        self.shutdown.graceful.cancel();
        self.shutdown.force.cancel();
        for serving in self.serving.drain(..) {
            serving.await.expect("serving ends well");
        }
        if let Some(engine) = self.engine.take() {
            engine.drain(Duration::ZERO).await;
        }
        self.gateway.shutdown().await;
    }
}

/// Reads an answer's head and what came with it; empty when the peer closed without one.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if length.is_some_and(|length: usize| body.len() >= length) {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("an answer or a close in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a raw answer; `None` when there was none.
pub(crate) fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port")
}

/// The source `bus`, with NATS' grammar; remembers what it was told.
#[derive(Default)]
pub(crate) struct OneSource {
    pub(crate) told: Mutex<Vec<&'static str>>,
    pub(crate) held_by_configuration: Mutex<bool>,
}

#[async_trait]
impl Sources for OneSource {
    fn list(&self) -> Vec<SourceStatus> {
        vec![SourceStatus {
            name: SourceName::parse("bus").expect("a name"),
            kind: "nats",
            capabilities: Capabilities::NONE,
            state: SourceState::Connected,
            since: Timestamp::from_millis(1_700_000_000_000),
            subscriptions: vec!["orders.created".into()],
            last_event_at: None,
            lag: None,
            counts: SourceCounts { received: 3, accepted: 1, unmatched: 2, ..SourceCounts::default() },
            last_error: None,
            unmatched_topics: vec![("orders.lost".into(), 2)],
            disconnected: Vec::new(),
            disconnected_for: Duration::ZERO,
            reconnects: 0,
        }]
    }

    fn wildcards(&self, name: &SourceName) -> Option<Wildcards> {
        (name.as_str() == "bus").then_some(Wildcards::Nats)
    }

    async fn pause(&self, name: &SourceName) -> Result<bool, StoreError> {
        self.told.lock().expect("not poisoned").push("pause");
        Ok(name.as_str() == "bus")
    }

    async fn resume(&self, name: &SourceName) -> Result<Option<Resumed>, StoreError> {
        self.told.lock().expect("not poisoned").push("resume");
        let held = *self.held_by_configuration.lock().expect("not poisoned");
        let resumed = if held { Resumed::HeldByConfiguration } else { Resumed::Runs };
        Ok((name.as_str() == "bus").then_some(resumed))
    }

    async fn reset_positions(&self, name: &SourceName) -> Result<Option<usize>, StoreError> {
        self.told.lock().expect("not poisoned").push("reset");
        Ok((name.as_str() == "bus").then_some(3))
    }
}
