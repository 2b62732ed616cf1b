//! Listeners and connections.
//!
//! Two phases of an end: *graceful* closes idle connections, answers what is being answered and takes no new ones;
//! *force* drops what is left. Nothing is left behind when [`Http::serve_front`] returns.
//!
//! HTTP/1.1 only, as the gateway speaks on its plain port: what terminates TLS in front of either speaks it too. HTTP/2
//! without TLS, by prior knowledge or upgrade, is not spoken by the gateway and not here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use broker_engine::{Budget, Control, Functions, Intake};
use broker_model::source::Sources;
use broker_model::{BodyReader, Clock, Ledger, TimetableBoard};

use crate::auth::{Guard, Peer};
use crate::metrics::{self, HttpMetrics};
use crate::parts::{HttpParts, Phase};
use crate::route::{self, Reply};
use crate::settings::HttpSettings;
use crate::socket::{HeadRoom, Rationed, Told};

/// Connections at once on one listener; more wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;

/// How many header fields a request may have; their size is bounded by `limits.headers`. Go counts only bytes, hyper
/// needs a number; the proxies in front of a gateway let pass some hundred.
const MAX_FIELDS: usize = 1000;

/// When the HTTP side ends.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take no new connections, finish what is being answered.
    pub graceful: CancellationToken,
    /// Drop what is left.
    pub force: CancellationToken,
}

/// The HTTP side. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
}

/// What every request can reach.
pub(crate) struct Shared {
    pub(crate) intake: Intake,
    pub(crate) control: Control,
    pub(crate) functions: Functions,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) bodies: Arc<dyn BodyReader>,
    pub(crate) sources: Arc<dyn Sources>,
    pub(crate) timetable: Arc<TimetableBoard>,
    pub(crate) budget: Budget,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: HttpMetrics,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) guard: Guard,
    /// What an acknowledgement of the store means; it does not change while it is open.
    pub(crate) durability: &'static str,
    /// On the monotonic clock.
    pub(crate) started: Duration,
    settings: ArcSwap<HttpSettings>,
}

impl Shared {
    /// What holds now.
    pub(crate) fn settings(&self) -> Arc<HttpSettings> {
        self.settings.load_full()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

impl Http {
    /// Puts the parts together; serves nothing yet.
    pub fn new(parts: HttpParts) -> Http {
        let durability = parts.ledger.health().durability;
        let shared = Shared {
            intake: parts.intake,
            control: parts.control,
            functions: parts.functions,
            ledger: parts.ledger,
            bodies: parts.bodies,
            sources: parts.sources,
            timetable: parts.timetable,
            budget: parts.budget,
            started: parts.clock.monotonic(),
            clock: parts.clock,
            metrics: parts.metrics,
            phase: parts.phase,
            guard: Guard::default(),
            durability,
            settings: ArcSwap::from_pointee(parts.settings),
        };
        Http { shared: Arc::new(shared), registry: parts.registry }
    }

    /// Uses other settings from now on; requests under way finish under the old ones.
    pub fn reload(&self, settings: HttpSettings) {
        self.shared.settings.store(Arc::new(settings));
        self.shared.guard.forget();
    }

    /// Serves the front, the management API and health until it is told to stop.
    pub async fn serve_front(&self, listener: TcpListener, shutdown: Shutdown) {
        let settings = self.shared.settings();
        let router = crate::management::router(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        serve(listener, &settings, shutdown, move |peer, request| {
            let (shared, router) = (Arc::clone(&shared), router.clone());
            async move { route::answer(&shared, &router, peer, request).await }
        })
        .await;
    }

    /// Serves `/metrics` until it is told to stop.
    pub async fn serve_metrics(&self, listener: TcpListener, shutdown: Shutdown) {
        let settings = self.shared.settings();
        let registry = Arc::clone(&self.registry);
        serve(listener, &settings, shutdown, move |_, request: Request<Incoming>| {
            let response =
                metrics::answer(&registry, request.method(), request.uri().path(), request.headers());
            std::future::ready(response)
        })
        .await;
    }
}

async fn serve<S, F>(listener: TcpListener, settings: &HttpSettings, shutdown: Shutdown, answer: S)
where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new()).http1_only().title_case_headers(true);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_headers(MAX_FIELDS)
        // hyper's own least; one above our limit of headers would be refused there anyway.
        .max_buf_size(settings.header_limit.max(8192));
    let (builder, room, patience) = (Arc::new(builder), HeadRoom::new(), settings.unread_timeout);
    let (tracker, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut trouble = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.graceful.cancelled() => break,
            () = shutdown.force.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, remote, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, most likely: connections that end give some back. One line for a row of failures.
                if !std::mem::replace(&mut trouble, true) {
                    warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        trouble = false;
        let Ok(local) = stream.local_addr() else { continue };
        let peer = Peer { remote, local };
        let (builder, shutdown, answer) = (Arc::clone(&builder), shutdown.clone(), answer.clone());
        let told = Told::default();
        let socket = Rationed::new(stream, room.clone(), told.clone(), patience);
        tracker.spawn(async move {
            connection(&builder, socket, told, peer, shutdown, answer).await;
            drop(place);
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, remote, place))
}

async fn connection<S, F>(
    builder: &Builder<TokioExecutor>,
    socket: Rationed,
    told: Told,
    peer: Peer,
    shutdown: Shutdown,
    answer: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(held) = told.take_head() {
            request.extensions_mut().insert(held);
        }
        let (told, answer) = (told.clone(), answer(peer, request));
        async move {
            let mut response = answer.await;
            if told.is_last() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        biased;
        () = shutdown.force.cancelled() => return,
        ended = serving.as_mut() => ended,
        () = shutdown.graceful.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                () = shutdown.force.cancelled() => return,
                ended = serving => ended,
            }
        }
    };
    if let Err(error) = ended {
        // A client that goes away or writes nonsense is an ordinary day.
        debug!(%error, remote = %peer.remote, "connection ended early");
    }
}
