//! The HTTP server of a source that is sent to: webhooks, notifications of an object store.
//!
//! What such a source needs is the same whoever sends: it binds, speaks TLS, holds no more than its bounds while bodies come
//! and the broker is slow, never waits for a sender without an end, and stops within the grace. A kind implements
//! [`Handler`]; what it may do with an event is [`Custody`].
//!
//! ```ignore
//! let receiver = Receiver::bind(&settings.receiver, settings.in_flight, &ctx).await?;
//! ctx.health.connected();
//! receiver.serve(Arc::new(handler), ctx.shutdown.clone()).await;
//! ```
//!
//! HTTP/1.1 only: it is what every sender of webhooks speaks, and what a proxy in front speaks, too.
//!
//! In reading order: the settings and the server here, `body` (a body on its way in), `room` (what it may hold), `custody`,
//! `answers`, `tls`.

mod answers;
mod body;
mod custody;
mod room;
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::byte_size::ByteSize;
use crate::health::Health;
use crate::settings::Reader;
use crate::source::{SourceContext, SourceError};
use crate::tracker::WindowLimits;

pub use answers::{answer, received, try_again};
pub use body::Unread;
pub use custody::{Custody, NotTaken};
pub use tls::ServerTls;

use body::Pace;
use room::Room;
use tls::Certificates;

/// The largest block of request headers, and what a connection holds at most beside its body.
const HEAD: usize = 64 * 1024;

/// How long a request may wait for others to make room for it. Less than the ten seconds after which the most impatient
/// senders give up.
const QUEUE: Duration = Duration::from_secs(5);

/// The settings of a source that listens: `listen`, `tls`, `limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS, where nobody in front speaks it.
    pub tls: Option<ServerTls>,
    /// What one sender, and all together, may ask of it.
    pub limits: ReceiverLimits,
}

/// The settings below `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverLimits {
    /// The largest body taken.
    pub body: ByteSize,
    /// Connections at once; more wait to be accepted.
    pub connections: NonZeroUsize,
    /// How long a request's headers may take, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How long a body may stand still.
    pub body_timeout: Duration,
}

impl Default for ReceiverLimits {
    fn default() -> Self {
        ReceiverLimits {
            // GitHub's largest is 25 MB.
            body: ByteSize::from_mebibytes(32),
            connections: const { NonZeroUsize::new(512).expect("512 is not zero") },
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
        }
    }
}

impl ReceiverSettings {
    /// Reads them; `None` once the problem of a missing or wrong setting is noted. `example` is an address to write.
    pub fn read(at: &mut Reader, example: &str) -> Option<Self> {
        let listen: Option<String> = at.required("listen", &format!("\"{example}\""));
        let tls = at.table("tls", ServerTls::read);
        let limits = at.table("limits", ReceiverLimits::read).unwrap_or_default();
        let listen = listen?;
        // A port alone, as OpenFaaS' connectors are told it, is that of every interface.
        let every = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let Ok(listen) = listen.parse().or_else(|_| listen.parse().map(every)) else {
            at.refuse(
                "listen",
                format!("{listen:?} is no address with a port"),
                format!("write {example}, or 0.0.0.0 and a port to be reached from other machines"),
            );
            return None;
        };
        // Where a file is missing, that is a problem of its own.
        let tls = match tls {
            None => None,
            Some(tls) => Some(tls?),
        };
        Some(ReceiverSettings { listen, tls, limits })
    }
}

impl ReceiverLimits {
    fn read(at: &mut Reader) -> Self {
        let default = ReceiverLimits::default();
        let limits = ReceiverLimits {
            body: at.or("body", default.body),
            connections: at.or("connections", default.connections),
            header_timeout: at.or("header_timeout", default.header_timeout),
            body_timeout: at.or("body_timeout", default.body_timeout),
        };
        let timeouts = [("header_timeout", limits.header_timeout), ("body_timeout", limits.body_timeout)];
        for (key, timeout) in timeouts {
            if timeout.is_zero() {
                at.refuse(key, "it is nothing", "write a duration such as 10s");
            }
        }
        limits
    }
}

/// What a kind does with requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Looks at a request before its body is read.
    ///
    /// # Errors
    /// The answer to a request whose body nobody needs: an unknown path, another method, a missing credential.
    async fn admit(&self, head: &Parts) -> Result<(), Response<Bytes>>;

    /// Answers a request once its body is here; with a success only when what it brings is durable. Runs to its end also
    /// when the sender goes away in the middle, so that what was begun is counted as what it became.
    async fn answer(&self, request: Request<Bytes>) -> Response<Bytes>;

    /// A request that was admitted is refused, because its body did not come; to be counted.
    fn unread(&self, head: &Parts, why: Unread) {
        let _ = (head, why);
    }
}

/// A bound listener.
pub struct Receiver {
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    limits: ReceiverLimits,
    room: Room,
    health: Health,
}

impl Receiver {
    /// Binds and, with `tls`, reads the certificate. Bodies that are being read or answered hold at most
    /// `in_flight.bytes` in all; one that is larger goes alone.
    ///
    /// # Errors
    /// [`SourceError::Unusable`], with the setting.
    pub async fn bind(
        settings: &ReceiverSettings,
        in_flight: WindowLimits,
        ctx: &SourceContext,
    ) -> Result<Receiver, SourceError> {
        let certificates = match &settings.tls {
            Some(tls) => Some(Arc::new(Certificates::read(tls).await?)),
            None => None,
        };
        let listener = TcpListener::bind(settings.listen).await.map_err(|cause| SourceError::Unusable {
            key: "listen".to_owned(),
            what: cannot_bind(settings.listen, &cause),
            cause: Some(cause.into()),
        })?;
        Ok(Receiver {
            listener,
            certificates,
            limits: settings.limits,
            room: Room::new(in_flight.bytes),
            health: ctx.health.clone(),
        })
    }

    /// Serves until it is told to stop: then takes no connection any more, refuses what has not come whole, and returns
    /// when the rest is answered. Dropped, it drops every connection.
    pub async fn serve<H: Handler>(self, handler: Arc<H>, shutdown: CancellationToken) {
        let mut builder = Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.header_timeout).max_buf_size(HEAD);
        let (answers, cut_off) = (TaskTracker::new(), CancellationToken::new());
        let _cut_off = cut_off.clone().drop_guard();
        let shared = Arc::new(Shared {
            handler,
            builder,
            answers: answers.clone(),
            cut_off,
            room: self.room,
            limits: self.limits,
            shutdown: shutdown.clone(),
        });
        let places = Arc::new(Semaphore::new(self.limits.connections.get()));
        let mut connections = JoinSet::new();
        let mut trouble = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, remote, place)) => {
                    trouble = false;
                    let (shared, certificates) = (Arc::clone(&shared), self.certificates.clone());
                    let health = self.health.clone();
                    connections.spawn(async move {
                        shared.connection(stream, remote, certificates, &health).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of files, most likely: connections that end give some back. One line for a row of failures.
                    if !std::mem::replace(&mut trouble, true) {
                        self.health.problem(format!("cannot accept connections: {error}"));
                        warn!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
        // Those whose sender is gone.
        answers.close();
        answers.wait().await;
    }
}

fn cannot_bind(address: SocketAddr, cause: &io::Error) -> String {
    let remedy = match cause.kind() {
        io::ErrorKind::AddrInUse => "another program or source listens there; choose another port",
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address; 0.0.0.0 is all of them"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a permission; choose a higher one",
        _ => "choose another address",
    };
    format!("cannot bind {address}: {remedy}")
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    // A connection that broke already ends by itself.
    let _ = stream.set_nodelay(true);
    Ok((stream, remote, place))
}

/// What every connection uses.
struct Shared<H> {
    handler: Arc<H>,
    builder: Builder,
    /// What is being answered.
    answers: TaskTracker,
    /// Nobody serves any more: what is being answered ends where it is.
    cut_off: CancellationToken,
    room: Room,
    limits: ReceiverLimits,
    shutdown: CancellationToken,
}

impl<H: Handler> Shared<H> {
    async fn connection(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        certificates: Option<Arc<Certificates>>,
        health: &Health,
    ) {
        let Some(certificates) = certificates else { return self.serve(stream, remote).await };
        let config = certificates.now(health).await;
        let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
        let accepted = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return,
            accepted = tokio::time::timeout(self.limits.header_timeout, handshake) => accepted,
        };
        match accepted {
            Ok(Ok(stream)) => self.serve(stream, remote).await,
            Ok(Err(error)) => debug!(%error, %remote, "no TLS came about"),
            Err(_) => debug!(%remote, "no TLS came about in time"),
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, remote: SocketAddr) {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.respond(request).await));
        let mut serving = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            // A sender that goes away or writes nonsense is an ordinary day.
            debug!(%error, %remote, "connection ended early");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        self.exchange(head, body).await.map(Full::new)
    }

    async fn exchange(&self, head: Parts, mut body: Incoming) -> Response<Bytes> {
        if let Err(answer) = self.handler.admit(&head).await {
            body::discard(body, &head.headers).await;
            return answer;
        }
        let pace = Pace::new(self.limits.body_timeout);
        let read = tokio::select! {
            biased;
            read = body::read(&mut body, self.limits.body, &pace, &self.room, QUEUE) => read,
            () = self.shutdown.cancelled() => Err(Unread::Stopping),
        };
        match read {
            Ok((bytes, share)) => {
                let (handler, cut_off) = (Arc::clone(&self.handler), self.cut_off.clone());
                let answering = self.answers.spawn(async move {
                    let answering = handler.answer(Request::from_parts(head, bytes));
                    let answer = cut_off.run_until_cancelled(answering).await;
                    // Held until what it stands for is durable or refused.
                    drop(share);
                    answer
                });
                match answering.await {
                    Ok(Some(answer)) => answer,
                    // It panicked, or nobody serves any more.
                    Ok(None) | Err(_) => Unread::Stopping.answer(),
                }
            }
            Err(why) => {
                self.handler.unread(&head, why);
                if why == Unread::TooLarge {
                    body::discard(body, &head.headers).await;
                }
                why.answer()
            }
        }
    }
}

#[cfg(test)]
mod tests;
