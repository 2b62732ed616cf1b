//! The handle of a running gateway, and how it answers.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;

use crate::activity::{Activity, Feed};
use crate::answer::{Answer, Dropped, ReplyBody};
use crate::fault::{Fault, Faults, Route, unauthorized};
use crate::function::{Behaviour, Function, FunctionCall, Recording};
use crate::listen::{Door, Listening, Peer, Respond};
use crate::pass::{self, CALL_ID};
use crate::record::{CallLog, Outcome, RecordedCall, Running, TooFew, read};
use crate::registry::{Deployed, Registry};
use crate::system;
use crate::target::{Target, query_value};

/// Name and version this gateway gives itself, in the shape of the community edition's gateway.
const SERVED_BY: HeaderValue = HeaderValue::from_static("openfaas-ce/evoke-demo");

/// What a call has as `User-Agent` when its caller sent none.
const AGENT: HeaderValue = HeaderValue::from_static("openfaas-ce-gateway/evoke-demo");

/// The methods a provider passes on to functions.
const FUNCTION_METHODS: [Method; 7] =
    [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET, Method::OPTIONS, Method::HEAD];

/// JSON sent to `/system` is read up to here; more is cut, and then is no JSON.
const SYSTEM_BODY: usize = 1 << 20;

/// Routes with a count of their own; every namespace that is asked for makes one.
const ROUTES_COUNTED: usize = 1024;

/// Which of the two real answers a call of an unknown function gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFunction {
    /// 404 `error finding function ...` without the internal header: a gateway that scales from zero.
    #[default]
    NotFoundByGateway,
    /// 503 `No endpoints available for: ...` with `X-OpenFaaS-Internal: proxy`: the provider, asked directly.
    NoEndpoints,
}

/// A gateway to be started.
#[derive(Debug)]
pub struct GatewayBuilder {
    listener: Option<TcpListener>,
    functions: Vec<Function>,
    settings: Settings,
    default_namespace: String,
    bodies_kept: usize,
    calls_kept: usize,
}

/// What can be changed while the gateway runs.
#[derive(Clone, Debug)]
struct Settings {
    /// The whole expected value of `Authorization`.
    authorization: Option<String>,
    namespaces: Vec<String>,
    unknown: UnknownFunction,
    /// How long a first replica takes to come up; `None` is a gateway that does not scale from zero.
    cold_start: Option<Duration>,
}

impl GatewayBuilder {
    /// Serves on this listener. Without it, on 127.0.0.1 and a free port.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Deploys a function.
    pub fn function(mut self, function: Function) -> Self {
        self.functions.push(function);
        self
    }

    /// Deploys functions.
    pub fn functions(mut self, functions: impl IntoIterator<Item = Function>) -> Self {
        self.functions.extend(functions);
        self
    }

    /// Asks for these credentials on `/system/*`. Never on function calls.
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        self.settings.authorization = Some(basic(user, password));
        self
    }

    /// The namespaces that are listed, instead of the default one alone. None: a provider without namespaces, which
    /// lists `[]` and all functions whatever namespace is asked for.
    pub fn namespaces<'a>(mut self, namespaces: impl IntoIterator<Item = &'a str>) -> Self {
        self.settings.namespaces = namespaces.into_iter().map(str::to_owned).collect();
        self
    }

    /// What a call of an unknown function gets.
    pub fn unknown_function(mut self, unknown: UnknownFunction) -> Self {
        self.settings.unknown = unknown;
        self
    }

    /// Scales a function without replicas to one when it is called, which takes this long. Without it, such a call is
    /// answered 503 by the provider.
    pub fn scale_from_zero(mut self, cold_start: Duration) -> Self {
        self.settings.cold_start = Some(cold_start);
        self
    }

    /// Keeps at most this many bytes of a recorded body; 64 KiB unless given.
    pub fn bodies_kept(mut self, bytes: usize) -> Self {
        self.bodies_kept = bytes;
        self
    }

    /// Keeps at most this many calls of each function, the newest; 10,000 unless given.
    pub fn calls_kept(mut self, calls: usize) -> Self {
        self.calls_kept = calls;
        self
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// When no port can be bound, or the listener given has no address.
    pub async fn start(self) -> io::Result<DemoGateway> {
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let registry = Registry::new(self.default_namespace, self.calls_kept);
        self.functions.into_iter().for_each(|function| registry.deploy(function));
        let core = Arc::new(Core {
            registry,
            settings: Mutex::new(self.settings),
            faults: Faults::new(),
            feed: Feed::new(),
            requests: Requests::default(),
            bodies_kept: self.bodies_kept,
        });
        let listening = Listening::start(listener, core.clone())?;
        Ok(DemoGateway(Arc::new(Handle { core, listening })))
    }
}

/// A running gateway. Clones are handles of the same one; it stops when the last is dropped.
#[derive(Clone)]
pub struct DemoGateway(Arc<Handle>);

struct Handle {
    core: Arc<Core>,
    listening: Listening,
}

impl DemoGateway {
    /// A gateway to be refined and started.
    pub fn builder() -> GatewayBuilder {
        let default_namespace = "openfaas-fn".to_owned();
        GatewayBuilder {
            listener: None,
            functions: Vec::new(),
            settings: Settings {
                authorization: None,
                namespaces: vec![default_namespace.clone()],
                unknown: UnknownFunction::default(),
                cold_start: None,
            },
            default_namespace,
            bodies_kept: 64 * 1024,
            calls_kept: 10_000,
        }
    }

    /// Starts a plain one with these functions, on 127.0.0.1 and a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(functions: impl IntoIterator<Item = Function>) -> io::Result<Self> {
        Self::builder().functions(functions).start().await
    }

    /// `http://ADDRESS:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The address it listens on, or did before it went down.
    pub fn addr(&self) -> SocketAddr {
        self.0.listening.address()
    }

    /// Stops listening, cuts every connection and waits until all of it is gone.
    pub async fn shutdown(&self) {
        self.0.listening.shutdown().await;
    }

    // Functions.

    /// Deploys a function, or replaces the one of that name. Its record goes on.
    pub fn deploy(&self, function: Function) {
        self.0.core.registry.deploy(function);
    }

    /// Removes a function; running calls end as they would. `false` when there is none of this name.
    pub fn remove(&self, name: &str) -> bool {
        self.0.core.registry.remove(name)
    }

    /// Adds or replaces an annotation. `false` when there is no such function.
    pub fn annotate(&self, name: &str, key: &str, value: &str) -> bool {
        self.0.core.registry.update(name, |function| {
            function.annotations.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Removes an annotation. `false` when there is no such function.
    pub fn unannotate(&self, name: &str, key: &str) -> bool {
        self.0.core.registry.update(name, |function| {
            function.annotations.remove(key);
        })
    }

    /// Sets the number of replicas, 0 included. `false` when there is no such function.
    pub fn scale(&self, name: &str, replicas: u32) -> bool {
        self.0.core.registry.find(name).map(|deployed| deployed.scale(replicas)).is_some()
    }

    /// Changes how many calls at once are let through; `None` is no limit. `false` when there is no such function.
    pub fn set_max_inflight(&self, name: &str, calls: Option<usize>) -> bool {
        self.0.core.registry.update(name, |function| {
            function.max_inflight = calls;
            match calls {
                Some(calls) => function.env.insert("max_inflight".to_owned(), calls.to_string()),
                None => function.env.remove("max_inflight"),
            };
        })
    }

    // What was seen. A name is written as in a call: `name` or `name.namespace`, deployed or not.

    /// The recorded calls, oldest first.
    pub fn calls(&self, name: &str) -> Vec<RecordedCall> {
        self.log(name).calls()
    }

    /// How many calls there were, recorded or not.
    pub fn call_count(&self, name: &str) -> u64 {
        self.log(name).count()
    }

    /// How many calls run now.
    pub fn running(&self, name: &str) -> u64 {
        self.log(name).running()
    }

    /// How many calls ran at once at most.
    pub fn peak_running(&self, name: &str) -> u64 {
        self.log(name).peak()
    }

    /// Forgets the calls so far. Their numbers are not given again.
    pub fn forget_calls(&self, name: &str) {
        self.log(name).forget();
    }

    /// Waits until there were `count` calls, finished or not, and gives the recorded ones.
    ///
    /// # Errors
    /// [`TooFew`] when there were fewer `within` this time.
    pub async fn wait_for_calls(
        &self,
        name: &str,
        count: u64,
        within: Duration,
    ) -> Result<Vec<RecordedCall>, TooFew> {
        let log = self.log(name);
        log.wait(|| format!("{count} calls of {name:?}"), within, |log| log.count() >= count).await?;
        Ok(log.calls())
    }

    /// Waits until the recorded calls are as `wanted` (asked after every change), and gives them.
    ///
    /// # Errors
    /// [`TooFew`] when they were not `within` this time.
    pub async fn wait_until(
        &self,
        name: &str,
        within: Duration,
        wanted: impl Fn(&[RecordedCall]) -> bool,
    ) -> Result<Vec<RecordedCall>, TooFew> {
        let log = self.log(name);
        let what = || format!("the calls of {name:?} that were waited for");
        log.wait(what, within, |log| wanted(&log.calls())).await?;
        Ok(log.calls())
    }

    /// How many requests to a route there were, faulty ones and refused ones included. A request for the list of one
    /// namespace counts for [`Route::ListOf`], [`Route::List`] and [`Route::Any`].
    pub fn requests(&self, route: &Route) -> u64 {
        self.0.core.requests.count(route)
    }

    /// Waits until there were `count` requests to a route, from the start of the gateway.
    ///
    /// # Errors
    /// [`TooFew`] when there were fewer `within` this time.
    pub async fn wait_for_requests(&self, route: &Route, count: u64, within: Duration) -> Result<(), TooFew> {
        let requests = &self.0.core.requests;
        let enough = async {
            loop {
                let mut changed = std::pin::pin!(requests.changed.notified());
                // Enabled before looking, so that a change between looking and waiting wakes it.
                changed.as_mut().enable();
                if requests.count(route) >= count {
                    return;
                }
                changed.await;
            }
        };
        let what = || format!("{count} requests to {route:?}");
        timeout(within, enough).await.map_err(|_| TooFew {
            what: what(),
            seen: requests.count(route),
            within,
        })
    }

    /// What functions see from now on, live. A reader that falls more than 1,024 behind loses the oldest.
    pub fn activity(&self) -> broadcast::Receiver<Activity> {
        self.0.core.feed.subscribe()
    }

    // What goes wrong.

    /// The faults of the routes.
    pub fn faults(&self) -> &Faults {
        &self.0.core.faults
    }

    /// Like a process that died: connections are cut, new ones refused. The port stays bound, so
    /// that nobody who asks for any free port gets it meanwhile.
    ///
    /// # Errors
    /// When the port could not be kept, or the gateway was shut down.
    pub async fn go_down(&self) -> io::Result<()> {
        self.0.listening.close().await?;
        self.0.listening.cut_connections();
        Ok(())
    }

    /// Refuses new connections; those that are open are served on.
    ///
    /// # Errors
    /// When the port could not be kept, or the gateway was shut down.
    pub async fn refuse_connections(&self) -> io::Result<()> {
        self.0.listening.close().await
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When the port could not be bound again, or the gateway was shut down.
    pub async fn come_back(&self) -> io::Result<()> {
        self.0.listening.open().await
    }

    /// What happens to connections that are accepted from now on.
    pub fn set_door(&self, door: Door) {
        self.0.listening.set_door(door);
    }

    /// Cuts every open connection, in the middle of whatever it does.
    pub fn cut_connections(&self) {
        self.0.listening.cut_connections();
    }

    /// Closes idle connections now and the others after their request, as a server at its idle timeout does.
    pub fn finish_connections(&self) {
        self.0.listening.finish_connections();
    }

    /// How many connections were accepted since the start.
    pub fn accepted_connections(&self) -> u64 {
        self.0.listening.accepted()
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.0.listening.open_connections()
    }

    // What else can change.

    /// Asks for other credentials on `/system/*` from now on; `None` for none.
    pub fn set_basic_auth(&self, credentials: Option<(&str, &str)>) {
        self.0.core.settings().authorization = credentials.map(|(user, password)| basic(user, password));
    }

    /// Lists these namespaces from now on; see [`GatewayBuilder::namespaces`].
    pub fn set_namespaces<'a>(&self, namespaces: impl IntoIterator<Item = &'a str>) {
        self.0.core.settings().namespaces = namespaces.into_iter().map(str::to_owned).collect();
    }

    /// What a call of an unknown function gets from now on.
    pub fn set_unknown_function(&self, unknown: UnknownFunction) {
        self.0.core.settings().unknown = unknown;
    }

    fn log(&self, name: &str) -> Arc<CallLog> {
        let registry = &self.0.core.registry;
        registry.log(&registry.full_name(name))
    }
}

impl fmt::Debug for DemoGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DemoGateway").field(&self.addr()).finish()
    }
}

/// How many requests each route got. Function calls have a counter of their own, for speed.
#[derive(Default)]
struct Requests {
    functions: AtomicU64,
    others: Mutex<Vec<(Route, u64)>>,
    changed: Notify,
}

impl Requests {
    fn note(&self, routes: &[Route]) {
        {
            let mut others = self.others();
            for route in routes {
                match others.iter().position(|(known, _)| known == route) {
                    Some(index) => others[index].1 += 1,
                    // Namespaces come from outside; past a bound they only count for the wider routes.
                    None if others.len() < ROUTES_COUNTED => others.push((route.clone(), 1)),
                    None => {}
                }
            }
        }
        self.changed.notify_waiters();
    }

    fn note_function(&self) {
        self.functions.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    fn count(&self, route: &Route) -> u64 {
        let functions = self.functions.load(Ordering::Relaxed);
        let other = || self.others().iter().find(|(known, _)| known == route).map_or(0, |(_, count)| *count);
        match route {
            Route::Function => functions,
            Route::Any => functions + other(),
            _ => other(),
        }
    }

    fn others(&self) -> MutexGuard<'_, Vec<(Route, u64)>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What answers requests.
struct Core {
    registry: Registry,
    settings: Mutex<Settings>,
    faults: Faults,
    feed: Feed,
    requests: Requests,
    bodies_kept: usize,
}

impl Respond for Core {
    async fn respond(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<ReplyBody>, Dropped> {
        // Cheap: its parts are shared. The request itself is consumed further down.
        let uri = request.uri().clone();
        let target = Target::of(uri.path());
        if let Target::Function { written, .. } = &target {
            self.requests.note_function();
            if self.faults.is_empty()
                && let Some(deployed) = self.registry.find(written)
                && let Behaviour::NoOp = deployed.function.behaviour
            {
                return no_op(&deployed.log, request).await;
            }
        }
        let namespace = query_value(uri.query(), "namespace");
        let routes = routes(&target, namespace.as_deref());
        if !matches!(target, Target::Function { .. }) {
            self.requests.note(&routes);
        }
        loop {
            let mut changes = self.faults.changes();
            match self.faults.take(&routes) {
                None => return self.answer(target, namespace, request, peer).await,
                Some(Fault::Answer(answer)) => {
                    // Read first, as a server does that fails while it answers: then the client has sent it all.
                    read(request.into_body(), 0, false).await?;
                    return answer.play().await;
                }
                Some(Fault::Late(delay)) => {
                    tokio::time::sleep(delay).await;
                    return self.answer(target, namespace, request, peer).await;
                }
                Some(Fault::Half) => {
                    let whole = self.answer(target, namespace, request, peer).await?;
                    return Ok(whole.map(ReplyBody::half));
                }
                // An error means that the gateway is gone; then this connection is about to be cut.
                Some(Fault::Hang) => changes.changed().await.map_err(|_| Dropped)?,
            }
        }
    }
}

/// The routes a request belongs to, narrowest first.
fn routes(target: &Target<'_>, namespace: Option<&str>) -> Vec<Route> {
    let mut routes = Vec::with_capacity(3);
    match target {
        Target::Function { .. } => routes.push(Route::Function),
        Target::List => {
            routes.extend(namespace.map(|namespace| Route::ListOf(namespace.to_owned())));
            routes.push(Route::List);
        }
        Target::One(_) => routes.push(Route::One),
        Target::Namespaces => routes.push(Route::Namespaces),
        Target::Info => routes.push(Route::Info),
        Target::Health => routes.push(Route::Health),
        Target::Scale(_) | Target::Unclean(_) | Target::Unknown => {}
    }
    routes.push(Route::Any);
    routes
}

impl Core {
    /// The ordinary answer.
    async fn answer(
        &self,
        target: Target<'_>,
        namespace: Option<String>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<ReplyBody>, Dropped> {
        let answer = match target {
            Target::Function { written, rest } => {
                return self.call(&written, &rest, request, peer).await;
            }
            Target::Health if request.method() == Method::GET => Answer::status(StatusCode::OK),
            Target::Health => Answer::status(StatusCode::METHOD_NOT_ALLOWED),
            Target::Unclean(clean) => {
                let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
                Answer::status(StatusCode::MOVED_PERMANENTLY).with_header(LOCATION, format!("{clean}{query}"))
            }
            Target::Unknown => Answer::plain(StatusCode::NOT_FOUND, "404 page not found\n"),
            system => self.system(system, namespace.as_deref(), request).await?,
        };
        answer.play().await
    }

    async fn system(
        &self,
        target: Target<'_>,
        namespace: Option<&str>,
        request: Request<Incoming>,
    ) -> Result<Answer, Dropped> {
        let Settings { authorization, namespaces, .. } = self.settings().clone();
        let (head, body) = request.into_parts();
        let body = read(body, SYSTEM_BODY, false).await?.bytes;
        if let Some(expected) = authorization
            && head.headers.get(AUTHORIZATION).is_none_or(|given| given.as_bytes() != expected.as_bytes())
        {
            return Ok(unauthorized());
        }
        let (registry, method) = (&self.registry, &head.method);
        Ok(match target {
            Target::List => system::functions(registry, &namespaces, method, namespace, &body),
            Target::One(name) => system::function(registry, method, &name, namespace),
            Target::Scale(name) => system::scale(registry, method, &name, namespace, &body),
            Target::Namespaces => system::namespaces(method, &namespaces),
            _ => system::info(method),
        })
    }

    /// A call of a function, from the gateway's headers to the function's answer.
    async fn call(
        &self,
        written: &str,
        rest: &str,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<ReplyBody>, Dropped> {
        let arrived = (Instant::now(), SystemTime::now());
        if !FUNCTION_METHODS.contains(request.method()) {
            return Answer::status(StatusCode::METHOD_NOT_ALLOWED).play().await;
        }
        let deployed = self.registry.find(written);
        let behaviour = deployed.as_ref().map(|deployed| &deployed.function.behaviour);
        if let (Some(deployed), Some(Behaviour::NoOp)) = (&deployed, behaviour) {
            return no_op(&deployed.log, request).await;
        }

        let (head, body) = request.into_parts();
        let (headers, passage) = pass::to_function(&head.headers, peer.address, &AGENT, arrived.1);
        let recording =
            deployed.as_ref().map_or(Recording::default(), |deployed| deployed.function.recording);
        let keep = match behaviour {
            Some(Behaviour::Whole(_)) => usize::MAX,
            _ => self.bodies_kept,
        };
        let body = read(body, keep, recording == Recording::Everything).await?;

        let full_name = self.registry.full_name(written);
        let log = match &deployed {
            Some(deployed) => deployed.log.clone(),
            None => self.registry.log(&full_name),
        };
        let running = log.begin(|number| {
            (recording != Recording::CountOnly).then(|| RecordedCall {
                number,
                function: full_name.clone(),
                written: written.to_owned(),
                method: head.method.clone(),
                target: target_text(&head.uri),
                headers: headers.clone(),
                wire_headers: head.headers.clone(),
                body: kept(&body.bytes, recording, self.bodies_kept),
                body_len: body.len,
                body_sha256: body.sha256,
                connection: peer.connection,
                arrived: arrived.0,
                arrived_at: arrived.1,
                outcome: Outcome::Running,
                took: None,
            })
        });
        let call_id = header(&headers, CALL_ID.as_str());
        self.feed.tell(|| Activity::Called {
            function: full_name.clone(),
            call_id: call_id.clone(),
            topic: headers.contains_key("x-topic").then(|| header(&headers, "x-topic")),
            body_len: body.len,
        });
        let ending = Ending {
            feed: &self.feed,
            function: &full_name,
            call_id,
            arrived: arrived.0,
            running: Some(running),
        };

        let (name, namespace) = self.registry.split(written);
        let call = FunctionCall {
            function: name.to_owned(),
            namespace: namespace.to_owned(),
            number: ending.running.as_ref().map_or(0, |running| running.number),
            method: head.method,
            path: rest.to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers,
            body: body.bytes,
        };
        let (measured, response) = match deployed {
            None => (None, self.unknown(name, &full_name).play().await),
            Some(deployed) => self.run(&deployed, call).await,
        };
        ending.end(response.as_ref().ok().map(Response::status));

        let mut response = response?;
        pass::to_caller(response.headers_mut(), passage, &SERVED_BY, measured);
        Ok(response)
    }

    /// What a deployed function answers, and how long it took unless something before it answered.
    async fn run(
        &self,
        deployed: &Deployed,
        call: FunctionCall,
    ) -> (Option<Duration>, Result<Response<ReplyBody>, Dropped>) {
        let name = &deployed.function.name;
        if deployed.replicas() == 0 {
            let cold_start = self.settings().cold_start;
            let Some(cold_start) = cold_start else {
                return (None, Answer::no_endpoints(name).play().await);
            };
            tokio::time::sleep(cold_start).await;
            if deployed.replicas() == 0 {
                deployed.scale(1);
            }
        }
        let _place = match deployed.enter() {
            Ok(place) => place,
            Err(limit) => return (None, Answer::max_inflight_reached(limit).play().await),
        };
        let started = Instant::now();
        let answer = match &deployed.function.behaviour {
            Behaviour::NoOp => Answer::status(StatusCode::OK),
            Behaviour::Headless(run) | Behaviour::Whole(run) => run(call).await,
        };
        let measured = answer.is_measured();
        let response = answer.play().await;
        (measured.then(|| started.elapsed()), response)
    }

    fn unknown(&self, name: &str, full_name: &str) -> Answer {
        let unknown = self.settings().unknown;
        match unknown {
            UnknownFunction::NotFoundByGateway => Answer::not_found_by_gateway(full_name),
            UnknownFunction::NoEndpoints => Answer::no_endpoints(name),
        }
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts, reads what was sent, and answers 200.
async fn no_op(log: &CallLog, request: Request<Incoming>) -> Result<Response<ReplyBody>, Dropped> {
    read(request.into_body(), 0, false).await?;
    log.tick();
    let mut response = Response::new(ReplyBody::Whole(Bytes::new()));
    response.headers_mut().insert(pass::SERVED_BY, SERVED_BY);
    Ok(response)
}

/// Writes down how a call ended, also when its future is dropped because the caller left.
struct Ending<'a> {
    feed: &'a Feed,
    function: &'a str,
    call_id: String,
    arrived: Instant,
    running: Option<Running>,
}

impl Ending<'_> {
    fn end(mut self, status: Option<StatusCode>) {
        if let Some(running) = self.running.take() {
            running.end(status.map_or(Outcome::Dropped, Outcome::Answered));
        }
        self.tell(status);
    }

    fn tell(&self, status: Option<StatusCode>) {
        self.feed.tell(|| Activity::Ended {
            function: self.function.to_owned(),
            call_id: self.call_id.clone(),
            status,
            took: self.arrived.elapsed(),
        });
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running);
            self.tell(None);
        }
    }
}

/// The part of a body that a record keeps. Copied when it is not all, so that the rest can be freed.
pub(crate) fn kept(bytes: &Bytes, recording: Recording, keep: usize) -> Bytes {
    match recording {
        Recording::Everything if bytes.len() <= keep => bytes.clone(),
        Recording::Everything => Bytes::copy_from_slice(&bytes[..keep]),
        Recording::WithoutBodies | Recording::CountOnly => Bytes::new(),
    }
}

/// Path and query as they stood in the request line.
pub(crate) fn target_text(uri: &http::Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.to_string(), |target| target.as_str().to_owned())
}

/// The first value of a header as text, empty when there is none.
pub(crate) fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
