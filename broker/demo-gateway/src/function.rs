//! Functions: what the gateway tells about them and what they answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use crate::answer::Answer;

/// How many call ids a flaky function remembers; the oldest is forgotten first.
const FLAKY_CALL_IDS: usize = 65_536;

/// What a function is given.
#[derive(Clone, Debug)]
pub struct FunctionCall {
    /// The function's name, without namespace.
    pub function: String,
    /// Its namespace.
    pub namespace: String,
    /// The how-manieth call of this function, from 1.
    pub number: u64,
    /// The method.
    pub method: Method,
    /// What follows the name in the path, still percent-encoded; `/` when nothing does.
    pub path: String,
    /// The raw query.
    pub query: Option<String>,
    /// The headers after what a gateway adds and drops.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl FunctionCall {
    /// The first value of a header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `X-Call-Id`; the gateway has given one to a call that came without.
    pub fn call_id(&self) -> &str {
        self.header("x-call-id").unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What is remembered of each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// Everything, with the beginning of the body and the checksum of all of it.
    #[default]
    Everything,
    /// Everything but the body and its checksum.
    WithoutBodies,
    /// The number of calls.
    CountOnly,
}

type Run = Arc<dyn Fn(FunctionCall) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What runs. Shared by all versions of a function that were derived from one another.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Answers 200 before anything else is looked at.
    NoOp,
    /// Needs no body: only what is recorded of it is held in memory.
    Headless(Run),
    /// Needs the whole body.
    Whole(Run),
}

/// A function: name, namespace, metadata, and what it answers.
///
/// Made by one of the constructors, refined by the builder methods, and given to
/// [`GatewayBuilder::function`](crate::GatewayBuilder::function) or
/// [`DemoGateway::deploy`](crate::DemoGateway::deploy). A clone shares state, such as the failures a flaky one has
/// left.
#[derive(Clone)]
pub struct Function {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) image: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) replicas: u32,
    pub(crate) max_inflight: Option<usize>,
    pub(crate) recording: Recording,
    pub(crate) behaviour: Behaviour,
}

impl Function {
    /// Answers the body it got, with its content type.
    pub fn echo(name: &str) -> Self {
        Self::new(name, "echo", Behaviour::Whole(run(async |call| echo(&call))))
    }

    /// Answers 500 the first `failures` times it sees a call id, and echoes from then on.
    pub fn flaky(name: &str, failures: u32) -> Self {
        Self::flaky_with(name, failures, Answer::status(500).with_body("not this time\n"))
    }

    /// As [`flaky`](Self::flaky), with this answer for a failure.
    pub fn flaky_with(name: &str, failures: u32, failure: Answer) -> Self {
        let seen = Mutex::new(Seen::default());
        let behaviour = move |call: FunctionCall| {
            let times = seen.lock().unwrap_or_else(PoisonError::into_inner).again(call.call_id());
            let answer = if times <= failures { failure.clone() } else { echo(&call) };
            async move { answer }
        };
        Self::new(name, "flaky", Behaviour::Whole(run(behaviour)))
    }

    /// Echoes after `delay`.
    pub fn slow(name: &str, delay: Duration) -> Self {
        Self::new(name, "slow", Behaviour::Whole(run(move |call| async move { echo(&call).after(delay) })))
    }

    /// Always answers `status` with a line that says so.
    ///
    /// # Panics
    /// When `status` is no HTTP status.
    pub fn fail(name: &str, status: u16) -> Self {
        let answer = Answer::status(status).with_body(format!("always {status}\n"));
        Self::new(name, "fail", Behaviour::Headless(always(answer)))
    }

    /// Answers what it saw as `Http_X_Call_Id=...` lines, one per header value, with method, path and query.
    pub fn env(name: &str) -> Self {
        Self::new(name, "env", Behaviour::Headless(run(async |call| Answer::ok(environment(&call)))))
    }

    /// Answers 200 with an empty body, whatever comes. Holds no more of a body than is recorded.
    pub fn sink(name: &str) -> Self {
        Self::new(name, "sink", Behaviour::Headless(always(Answer::status(200))))
    }

    /// Counts and answers 200; for benchmarks.
    ///
    /// It is exempt from what else a gateway does: no header is added to request or reply, nothing is recorded,
    /// limits and replicas do not apply. Faults do.
    pub fn no_op(name: &str) -> Self {
        Self::new(name, "no-op", Behaviour::NoOp).recording(Recording::CountOnly)
    }

    /// Runs a closure. It may wait as long as it likes; when the caller leaves, its future is dropped.
    pub fn answering<F, A>(name: &str, answer: F) -> Self
    where
        F: Fn(FunctionCall) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::new(name, "custom", Behaviour::Whole(run(answer)))
    }

    /// Gives these answers in turn, one per call whatever its id, and the last one for ever.
    ///
    /// # Panics
    /// When there are none.
    pub fn in_turn(name: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: VecDeque<_> = answers.into_iter().collect();
        assert!(!answers.is_empty(), "a function needs an answer to give");
        let answers = Mutex::new(answers);
        let next = move |_| {
            let answer = next_of(&mut answers.lock().unwrap_or_else(PoisonError::into_inner));
            async move { answer }
        };
        Self::new(name, "in-turn", Behaviour::Headless(run(next)))
    }

    /// The built-in function an image names by the last part of its path (`any/registry/flaky:1`), for functions
    /// deployed over HTTP; `echo` for every other image.
    pub(crate) fn from_image(name: &str, image: &str) -> Self {
        let last = image.rsplit('/').next().unwrap_or(image);
        let function = match last.split([':', '@']).next().unwrap_or(last) {
            "flaky" => Self::flaky(name, 2),
            "slow" => Self::slow(name, Duration::from_secs(2)),
            "fail" => Self::fail(name, 500),
            "env" => Self::env(name),
            "sink" => Self::sink(name),
            _ => Self::echo(name),
        };
        Self { image: image.to_owned(), ..function }
    }

    fn new(name: &str, kind: &str, behaviour: Behaviour) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            image: format!("demo/{kind}:latest"),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            env: BTreeMap::new(),
            replicas: 1,
            max_inflight: None,
            recording: Recording::default(),
            behaviour,
        }
    }

    /// The namespace it is deployed to; the gateway's default one unless given.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Adds or replaces an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds or replaces a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds or replaces an environment variable, as listed in `envVars`. Only listed: `max_inflight` has its own
    /// method, which also lists it.
    pub fn env_var(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Refuses, as a watchdog does, what would be more than this many calls at once (over all replicas).
    pub fn max_inflight(mut self, calls: usize) -> Self {
        self.max_inflight = Some(calls);
        self.env_var("max_inflight", &calls.to_string())
    }

    /// The number of replicas that are listed; 0 is scaled to zero.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// What is remembered of its calls.
    pub fn recording(mut self, recording: Recording) -> Self {
        self.recording = recording;
        self
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// The next of the answers given in turn; the last one stays.
pub(crate) fn next_of(answers: &mut VecDeque<Answer>) -> Answer {
    match answers.len() {
        0 => Answer::status(StatusCode::OK),
        1 => answers[0].clone(),
        _ => answers.pop_front().expect("not empty: its length was just matched"),
    }
}

fn run<F, A>(behaviour: F) -> Run
where
    F: Fn(FunctionCall) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |call| behaviour(call).boxed())
}

fn always(answer: Answer) -> Run {
    run(move |_| futures::future::ready(answer.clone()))
}

fn echo(call: &FunctionCall) -> Answer {
    let answer = Answer::ok(call.body.clone());
    match call.headers.get(CONTENT_TYPE) {
        Some(kind) => answer.with_header(CONTENT_TYPE, kind.clone()),
        None => answer,
    }
}

fn environment(call: &FunctionCall) -> String {
    let mut text = format!("Http_Method={}\nHttp_Path={}\n", call.method, call.path);
    if let Some(query) = &call.query {
        // Writing to a string does not fail.
        let _ = writeln!(text, "Http_Query={query}");
    }
    for (name, value) in &call.headers {
        text.push_str("Http");
        for word in name.as_str().split('-') {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            text.extend(['_'].into_iter().chain(first).chain(letters));
        }
        let _ = writeln!(text, "={}", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

/// The call ids a flaky function has seen, and how often.
#[derive(Default)]
struct Seen {
    times: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Seen {
    fn again(&mut self, call_id: &str) -> u32 {
        if let Some(times) = self.times.get_mut(call_id) {
            *times = times.saturating_add(1);
            return *times;
        }
        if self.order.len() >= FLAKY_CALL_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
        self.order.push_back(call_id.to_owned());
        self.times.insert(call_id.to_owned(), 1);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaky_function_forgets_the_oldest_call_id_first() {
        let mut seen = Seen::default();
        for n in 0..FLAKY_CALL_IDS {
            seen.again(&n.to_string());
        }
        assert_eq!(seen.again("1"), 2);

        seen.again("one more");

        assert_eq!(seen.times.len(), FLAKY_CALL_IDS);
        assert_eq!(seen.again("1"), 3);
        assert_eq!(seen.again("0"), 1);
    }

    #[test]
    fn an_image_names_a_built_in_function() {
        assert_eq!(
            Function::from_image("x", "registry:5000/demo/no-such:1").image,
            "registry:5000/demo/no-such:1"
        );
        assert!(matches!(
            Function::from_image("x", "r:5000/sink@sha256:0").behaviour,
            Behaviour::Headless(_)
        ));
        assert!(matches!(Function::from_image("x", "echo").behaviour, Behaviour::Whole(_)));
    }
}
