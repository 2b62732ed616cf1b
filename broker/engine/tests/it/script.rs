//! A gateway that does as a test says, on virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_engine::Gateway;
use broker_engine::gateway::answer::AnswerSink;
use broker_engine::gateway::listing::{ListFailure, ListedFunction};
use broker_engine::gateway::{CallRequest, Exchange};
use broker_model::FunctionName;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// One call as the gateway got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// How long after the gateway was made.
    pub(crate) at: Duration,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.header("evoke-attempt").expect("each call says its attempt").parse().expect("a number")
    }
}

/// How a call ends.
pub(crate) struct Reply {
    exchange: Exchange,
    body: Vec<Bytes>,
    after: Duration,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply::of(Exchange::Answered { status, headers: HeaderMap::new() })
    }

    /// An error of OpenFaaS' core.
    pub(crate) fn core(status: u16) -> Reply {
        Reply::status(status).header("x-openfaas-internal", "faas-middleware")
    }

    pub(crate) fn of(exchange: Exchange) -> Reply {
        Reply { exchange, body: Vec::new(), after: Duration::ZERO }
    }

    pub(crate) fn dropped() -> Reply {
        Reply::of(Exchange::Dropped("connection reset".into()))
    }

    pub(crate) fn unreachable() -> Reply {
        Reply::of(Exchange::Unreachable("connection refused".into()))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Reply {
        if let Exchange::Answered { headers, .. } = &mut self.exchange {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body.push(body.into());
        self
    }

    pub(crate) fn after(mut self, after: Duration) -> Reply {
        self.after = after;
        self
    }
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct Script {
    began: Instant,
    answer: Box<Answer>,
    seen: Mutex<Vec<Seen>>,
    functions: Mutex<Vec<ListedFunction>>,
    /// Whether connections can be made at all; what calls then meet is the script's own to say.
    pub(crate) reachable: AtomicBool,
    /// Whether lists are complete.
    pub(crate) lists: AtomicBool,
    pub(crate) running: AtomicUsize,
    pub(crate) peak: AtomicUsize,
    pub(crate) left: AtomicUsize,
    pub(crate) probes: AtomicUsize,
}

impl Script {
    pub(crate) fn new(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Arc<Script> {
        Arc::new(Script {
            began: Instant::now(),
            answer: Box::new(answer),
            seen: Mutex::default(),
            functions: Mutex::default(),
            reachable: AtomicBool::new(true),
            lists: AtomicBool::new(true),
            running: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
        })
    }

    /// Answers in turn, the last one for ever.
    pub(crate) fn in_turn(answers: impl IntoIterator<Item = fn() -> Reply>) -> Arc<Script> {
        let answers: Vec<fn() -> Reply> = answers.into_iter().collect();
        let next = AtomicUsize::new(0);
        Script::new(move |_| answers[next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)]())
    }

    /// Lists a function with these annotations, or lists it anew.
    pub(crate) fn deploy(&self, name: &str, annotations: &[(&str, &str)]) {
        self.deploy_with(name, 1, annotations);
    }

    pub(crate) fn deploy_with(&self, name: &str, replicas: u32, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<String, String> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut functions = self.functions.lock().expect("no holder panics");
        functions.retain(|function| function.name != name);
        functions.push(ListedFunction {
            name: name.to_owned(),
            namespace: None,
            qualified: false,
            available_replicas: replicas,
            max_inflight: None,
            annotations,
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.functions.lock().expect("no holder panics").retain(|function| function.name != name);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no holder panics").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().expect("no holder panics").len()
    }

    /// The times between calls, in whole seconds.
    pub(crate) fn gaps(&self) -> Vec<u64> {
        let seen = self.seen();
        seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs()).collect()
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Script({} calls)", self.count())
    }
}

/// Counts a call that is left before its end.
struct Present<'a> {
    script: &'a Script,
    answered: bool,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.script.running.fetch_sub(1, Ordering::SeqCst);
        if !self.answered {
            self.script.left.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Gateway for Script {
    async fn call(&self, request: CallRequest, answer: &mut AnswerSink) -> Exchange {
        let seen = Seen { at: self.began.elapsed(), path: request.path_and_query, headers: request.headers };
        self.seen.lock().expect("no holder panics").push(seen.clone());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(running, Ordering::SeqCst);
        let mut present = Present { script: self, answered: false };
        let reply = (self.answer)(&seen);
        let exchange = async {
            tokio::time::sleep(reply.after).await;
            for chunk in reply.body {
                let _ = answer.push(chunk).await;
            }
            reply.exchange
        };
        let exchange = match request.timeout {
            Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or(Exchange::TimedOut),
            None => exchange.await,
        };
        present.answered = true;
        exchange
    }

    async fn reach(&self) -> Result<(), Box<str>> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        if self.reachable.load(Ordering::SeqCst) { Ok(()) } else { Err("connection refused".into()) }
    }

    async fn list(&self) -> Result<Vec<ListedFunction>, ListFailure> {
        if self.lists.load(Ordering::SeqCst) {
            return Ok(self.functions.lock().expect("no holder panics").clone());
        }
        Err(ListFailure::Status { what: "the functions".into(), status: 502, hint: "" })
    }

    async fn knows(&self, function: &FunctionName) -> Result<bool, Box<str>> {
        if !self.lists.load(Ordering::SeqCst) {
            return Err("502".into());
        }
        Ok(self
            .functions
            .lock()
            .expect("no holder panics")
            .iter()
            .any(|listed| listed.name == function.name()))
    }
}
