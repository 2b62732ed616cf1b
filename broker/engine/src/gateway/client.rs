//! Connections: opened with the next address tried at once, kept alive, reused for 30 s.
//!
//! hyper speaks HTTP here; the pool is ours because two things matter that a general client hides: whether any byte of
//! a failed request was written (before it a try costs nothing, after it the try is an attempt), and which address a
//! connection leads to (callbacks may not reach every one). Nothing is followed, decompressed or re-encoded.
//!
//! A connection has no task of its own: the task that waits for an answer drives it, which saves a switch between two
//! tasks for every step of an exchange.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use url::Url;

use broker_model::{BodyChunks, StoreError};

/// How long a connection nobody uses is kept. A Go server keeps its side for 60 s.
const IDLE: Duration = Duration::from_secs(30);

/// How long one address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a request that left nothing on the wire is put on another new connection.
const FREE_TRIES: u32 = 3;

/// The most hosts with connections kept; beyond it the connections of others are closed after each answer.
const ORIGINS: usize = 1024;

/// A server as HTTP sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Over TLS.
    pub https: bool,
    /// The host, without the brackets of IPv6.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// The server of an http or https URL.
    pub fn of(url: &Url) -> Self {
        let https = url.scheme() == "https";
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        Origin {
            https,
            host: host.into(),
            port: url.port_or_known_default().unwrap_or(if https { 443 } else { 80 }),
        }
    }

    /// The value of `Host`: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == if self.https { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

/// Says which addresses may be connected to.
pub trait Guard: Send + Sync {
    /// # Errors
    /// Why this address is not called.
    fn check(&self, address: SocketAddr) -> Result<(), Box<str>>;
}

/// Every address may be called.
pub struct AnyAddress;

impl Guard for AnyAddress {
    fn check(&self, _: SocketAddr) -> Result<(), Box<str>> {
        Ok(())
    }
}

/// A body on its way out: in hand, or streamed from the store with a known length.
#[derive(Default)]
pub enum OutBody {
    /// Nothing, or nothing more.
    #[default]
    Empty,
    /// The bytes.
    Bytes(Bytes),
    /// Pieces from the store and how many bytes they still are.
    Stream(BodyChunks, u64),
}

impl fmt::Debug for OutBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.size_hint().lower())
    }
}

impl HttpBody for OutBody {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        match &mut *self {
            OutBody::Empty => Poll::Ready(None),
            OutBody::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = OutBody::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            OutBody::Stream(chunks, left) => match chunks.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    *self = OutBody::Empty;
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutBody::Empty => true,
            OutBody::Bytes(bytes) => bytes.is_empty(),
            OutBody::Stream(_, left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            OutBody::Empty => 0,
            OutBody::Bytes(bytes) => bytes.len() as u64,
            OutBody::Stream(_, left) => *left,
        })
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// Nothing was sent.
    #[error("{0}")]
    Unreachable(Box<str>),
    /// Something may have been sent.
    #[error("{0}")]
    Dropped(Box<str>),
    /// No address of the host may be called.
    #[error("{0}")]
    Denied(Box<str>),
    /// No file or port is left.
    #[error("{0}")]
    OutOfResources(Box<str>),
    /// The body's source failed.
    #[error(transparent)]
    BodyUnreadable(StoreError),
}

/// A connection that speaks HTTP and the way to send on it.
struct Line {
    sender: http1::SendRequest<OutBody>,
    driver: Driver,
    peer: SocketAddr,
}

/// What moves bytes and messages of a connection while it is polled; `None` once the connection has ended.
struct Driver(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Driver {
    /// Lets the connection do what can be done now.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.0
            && connection.as_mut().poll(cx).is_ready()
        {
            // Dropped, so that whoever waits for something of it hears that nothing will come.
            self.0 = None;
        }
    }

    /// Drives the connection for as long as this step of an exchange takes.
    async fn through<F: Future>(&mut self, mut step: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(|cx| {
            // Before, to hand over what is to be sent; after, to take what was received.
            if let Poll::Ready(done) = step.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.poll(cx);
            step.as_mut().poll(cx)
        })
        .await
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The connections to one server that wait for work.
#[derive(Debug)]
pub struct Pool {
    origin: Origin,
    keep: bool,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

impl Idle {
    /// Whether a request may be sent on it. What its server did since is noticed here.
    fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.line.driver.poll(cx);
        self.line.sender.is_ready() && self.since.elapsed() < IDLE
    }
}

impl Pool {
    /// The connection used last, so that those not needed grow old.
    async fn take(&self, guard: &dyn Guard) -> Option<Line> {
        std::future::poll_fn(|cx| {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(mut connection) = idle.pop() {
                if connection.is_usable(cx) && guard.check(connection.line.peer).is_ok() {
                    return Poll::Ready(Some(connection.line));
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    fn put(&self, line: Line) {
        if self.keep {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(Idle { line, since: Instant::now() });
        }
    }

    /// Closes what has been idle too long, or was closed by its server; whether anything is left.
    fn sweep(&self) -> bool {
        // Nobody is woken by an idle connection; this looks again.
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|connection| connection.is_usable(&mut cx));
        !idle.is_empty()
    }
}

/// Opens connections and sends requests over them.
#[derive(Debug)]
pub struct Client {
    tls: Arc<ClientConfig>,
    /// The key of the certificates it trusts, for those it does not.
    ca_file: &'static str,
    proxy: Option<Proxy>,
    pools: Arc<Mutex<HashMap<Origin, Arc<Pool>>>>,
    tasks: TaskTracker,
}

#[derive(Debug, Clone)]
struct Proxy {
    origin: Origin,
    authorization: Option<http::HeaderValue>,
}

impl Client {
    /// A client whose connections run on `tasks`; `ca_file` is the key that says whom it trusts. It closes idle connections for as long as it lives.
    pub fn new(
        tls: Arc<ClientConfig>,
        ca_file: &'static str,
        proxy: Option<&Url>,
        tasks: TaskTracker,
    ) -> Self {
        let pools: Arc<Mutex<HashMap<Origin, Arc<Pool>>>> = Arc::default();
        tasks.spawn(sweep(Arc::downgrade(&pools)));
        let proxy = proxy.map(|url| Proxy {
            origin: Origin::of(url),
            authorization: super::headers::basic_authorization(url),
        });
        Client { tls, ca_file, proxy, pools, tasks }
    }

    /// The pool of a server, made when it is new.
    pub fn pool(&self, origin: Origin) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&origin) {
            return pool.clone();
        }
        let keep = pools.len() < ORIGINS;
        let pool = Arc::new(Pool { origin: origin.clone(), keep, idle: Mutex::default() });
        if keep {
            pools.insert(origin, pool.clone());
        }
        pool
    }

    /// Sends a request on a connection that waits, or a new one.
    ///
    /// # Errors
    /// [`SendFailure`], which says whether anything was sent.
    pub async fn send(
        &self,
        pool: &Arc<Pool>,
        guard: &dyn Guard,
        mut request: Request<OutBody>,
    ) -> Result<Answering, SendFailure> {
        if request.body().is_end_stream() {
            // Said, not left out: some servers wait for a body of a POST that does not say it has none.
            request.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("0"));
        }
        let mut new_ones = 0;
        loop {
            let mut line = match pool.take(guard).await {
                Some(idle) => idle,
                None => {
                    new_ones += 1;
                    // Apart, because it is rare and large: what stands in an exchange is moved with each of them.
                    Box::pin(self.connect(&pool.origin, guard)).await?
                }
            };
            let sending = line.sender.try_send_request(request);
            match line.driver.through(pin!(sending)).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Answering {
                        status: head.status,
                        headers: head.headers,
                        body,
                        complete: false,
                        line,
                        pool: pool.clone(),
                        tasks: self.tasks.clone(),
                    });
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if new_ones < FREE_TRIES => request = unsent,
                    Some(_) => return Err(SendFailure::Unreachable(chain(failed.error()))),
                    None => return Err(after_writing(failed.error())),
                },
            }
        }
    }

    /// Opens a connection and leaves it for the next request.
    ///
    /// # Errors
    /// [`SendFailure`] as for sending.
    pub async fn open(&self, pool: &Arc<Pool>, guard: &dyn Guard) -> Result<(), SendFailure> {
        let line = self.connect(&pool.origin, guard).await?;
        pool.put(line);
        Ok(())
    }

    async fn connect(&self, origin: &Origin, guard: &dyn Guard) -> Result<Line, SendFailure> {
        let Some(proxy) = &self.proxy else {
            let (tcp, peer) = dial(origin, guard).await?;
            return if origin.https {
                speak(self.secure(origin, tcp).await?, peer).await
            } else {
                speak(tcp, peer).await
            };
        };
        let (tcp, peer) = dial(&proxy.origin, guard).await?;
        match (proxy.origin.https, origin.https) {
            (false, false) => speak(tcp, peer).await,
            (true, false) => speak(self.secure(&proxy.origin, tcp).await?, peer).await,
            (false, true) => speak(self.tunnel(proxy, origin, tcp).await?, peer).await,
            (true, true) => {
                let tcp = self.secure(&proxy.origin, tcp).await?;
                speak(self.tunnel(proxy, origin, tcp).await?, peer).await
            }
        }
    }

    async fn secure<T>(
        &self,
        origin: &Origin,
        io: T,
    ) -> Result<tokio_rustls::client::TlsStream<T>, SendFailure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(origin.host.to_string())
            .map_err(|error| SendFailure::Unreachable(error.to_string().into()))?;
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, io);
        match tokio::time::timeout(CONNECT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let why = format!("tls with {}: {error}", origin.authority()).into();
                Err(SendFailure::Unreachable(super::tls::with_remedy(why, &error, self.ca_file)))
            }
            Err(_) => {
                Err(SendFailure::Unreachable(format!("tls with {}: no answer", origin.authority()).into()))
            }
        }
    }

    /// Asks the proxy for a way through to `origin`, and speaks TLS over it.
    async fn tunnel<T>(
        &self,
        proxy: &Proxy,
        origin: &Origin,
        io: T,
    ) -> Result<tokio_rustls::client::TlsStream<TokioIo<hyper::upgrade::Upgraded>>, SendFailure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let refused = |why: String| SendFailure::Unreachable(format!("the proxy: {why}").into());
        let target = format!("{}:{}", origin.host, origin.port);
        let uri: Uri = target.parse().map_err(|error: http::uri::InvalidUri| refused(error.to_string()))?;
        let mut request = Request::new(OutBody::Empty);
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        if let Ok(host) = target.parse() {
            request.headers_mut().insert(http::header::HOST, host);
        }
        if let Some(authorization) = &proxy.authorization {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization.clone());
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(io)).await.map_err(|error| refused(error.to_string()))?;
        self.tasks.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        let answer = match tokio::time::timeout(CONNECT, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|error| refused(error.to_string()))?,
            Err(_) => return Err(refused("no answer".into())),
        };
        if !answer.status().is_success() {
            return Err(refused(format!("status {}", answer.status().as_u16())));
        }
        let way = hyper::upgrade::on(answer).await.map_err(|error| refused(error.to_string()))?;
        self.secure(origin, TokioIo::new(way)).await
    }
}

async fn speak<T>(io: T, peer: SocketAddr) -> Result<Line, SendFailure>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|error| SendFailure::Unreachable(chain(&error)))?;
    let driver = Driver(Some(Box::pin(async move {
        // Its failure is told to whoever waits for an answer on it.
        let _ = connection.await;
    })));
    Ok(Line { sender, driver, peer })
}

async fn sweep(pools: Weak<Mutex<HashMap<Origin, Arc<Pool>>>>) {
    loop {
        tokio::time::sleep(IDLE / 6).await;
        let Some(pools) = pools.upgrade() else { return };
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| pool.sweep() || Arc::strong_count(pool) > 1);
    }
}

/// Connects to the first address that takes us.
async fn dial(origin: &Origin, guard: &dyn Guard) -> Result<(TcpStream, SocketAddr), SendFailure> {
    let unreachable = |why: String| SendFailure::Unreachable(why.into());
    let addresses = tokio::net::lookup_host((&*origin.host, origin.port))
        .await
        .map_err(|error| unreachable(format!("cannot resolve {:?}: {error}", origin.host)))?;
    connect_to_first(addresses, guard).await
}

async fn connect_to_first(
    addresses: impl Iterator<Item = SocketAddr>,
    guard: &dyn Guard,
) -> Result<(TcpStream, SocketAddr), SendFailure> {
    let mut denied = None;
    let mut last = None;
    for address in addresses {
        if let Err(why) = guard.check(address) {
            denied = Some(why);
            continue;
        }
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => {
                keep_alive(&tcp);
                return Ok((tcp, address));
            }
            Err(error) if is_ours(&error) => {
                return Err(SendFailure::OutOfResources(format!("connecting to {address}: {error}").into()));
            }
            Err(error) => last = Some(format!("connecting to {address}: {error}")),
        }
    }
    match (last, denied) {
        (Some(why), _) => Err(SendFailure::Unreachable(why.into())),
        (None, Some(why)) => Err(SendFailure::Denied(why)),
        (None, None) => Err(SendFailure::Unreachable("the host has no address".into())),
    }
}

fn keep_alive(tcp: &TcpStream) {
    // Both only make things better: a socket that refuses them still works.
    let _ = tcp.set_nodelay(true);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&probes);
}

/// Whether it is our machine that has no file, port or memory left for a connection.
fn is_ours(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

fn after_writing(error: &hyper::Error) -> SendFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(store) = error.downcast_ref::<StoreError>() {
            return SendFailure::BodyUnreadable(store.clone());
        }
        cause = error.source();
    }
    SendFailure::Dropped(chain(error))
}

/// An error with its causes, for people.
fn chain(error: &dyn std::error::Error) -> Box<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.into()
}

/// An answer whose body is still to be read. Dropped before its end, its connection is closed.
#[derive(Debug)]
pub struct Answering {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    complete: bool,
    line: Line,
    pool: Arc<Pool>,
    tasks: TaskTracker,
}

impl Answering {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// Why the rest will not come.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Box<str>> {
        loop {
            match self.line.driver.through(pin!(self.body.frame())).await {
                None => {
                    self.complete = true;
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(chain(&error)),
            }
        }
    }

    /// Ends the exchange: a connection whose answer was read to its end waits for the next request.
    pub fn finish(self) -> (StatusCode, HeaderMap) {
        let Answering { status, headers, complete, mut line, pool, tasks, .. } = self;
        if complete && line.sender.is_ready() {
            pool.put(line);
        } else if complete && !line.sender.is_closed() {
            // The request's own body is still under way.
            tasks.spawn(async move {
                if line.driver.through(pin!(line.sender.ready())).await.is_ok() {
                    pool.put(line);
                }
            });
        }
        (status, headers)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    struct Deny(SocketAddr);

    impl Guard for Deny {
        fn check(&self, address: SocketAddr) -> Result<(), Box<str>> {
            if address == self.0 { Err("denied".into()) } else { Ok(()) }
        }
    }

    /// A port nobody listens on: held by a socket that was bound and never listens.
    fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
        let tcp = tokio::net::TcpSocket::new_v4().unwrap();
        tcp.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        (tcp, address)
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let (_held, refusing) = refusing();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();

        let (_, peer) = connect_to_first([refusing, refusing, good].into_iter(), &AnyAddress).await.unwrap();
        let all_refuse = connect_to_first([refusing].into_iter(), &AnyAddress).await;

        assert_eq!(peer, good);
        assert!(matches!(all_refuse, Err(SendFailure::Unreachable(_))));
    }

    #[tokio::test]
    async fn a_denied_address_is_never_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();

        let denied = connect_to_first([address].into_iter(), &Deny(address)).await;

        assert!(matches!(denied, Err(SendFailure::Denied(_))));
    }

    #[test]
    fn want_of_files_and_ports_is_ours_and_a_refusal_is_not() {
        for ours in [23, 24, 99, 105] {
            assert!(is_ours(&io::Error::from_raw_os_error(ours)), "{ours}");
        }
        assert!(!is_ours(&io::Error::from_raw_os_error(111)));
    }

    #[test]
    fn the_authority_names_a_port_only_where_the_scheme_does_not() {
        for (url, authority) in [
            ("http://gw.openfaas:8080/x", "gw.openfaas:8080"),
            ("http://gw/", "gw"),
            ("https://gw:443/", "gw"),
            ("https://[::1]:8443/", "[::1]:8443"),
        ] {
            assert_eq!(Origin::of(&Url::parse(url).unwrap()).authority(), authority);
        }
    }
}
