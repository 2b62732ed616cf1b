//! The listener and its connections: accepting, refusing, going away and coming back on the same port.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Dropped, ReplyBody};

/// As the gateway's own server: request heads up to 1 MiB.
const HEAD_BYTES: usize = 1 << 20;

/// More than any test sends; hyper's default of 100 is less than what the real gateway takes.
const HEADERS: usize = 256;

/// When the process has no file left to accept with, accepting again at once would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(20);

/// What happens to a connection when it is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// It is served.
    #[default]
    Serve,
    /// It is closed at once, before a byte is read.
    CloseAtOnce,
    /// It stays open and nothing is read from it, until the door is set to something else: then it is closed.
    ReadNothing,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Counts accepted connections, from 1.
    pub(crate) connection: u64,
}

/// What answers the requests of a listener.
pub(crate) trait Respond: Send + Sync + 'static {
    /// `Err` closes the connection without a byte.
    fn respond(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Response<ReplyBody>, Dropped>> + Send;
}

/// A listener at work. Dropping it stops the listener and its connections; `shutdown` also waits for them.
pub(crate) struct Listening {
    address: SocketAddr,
    commands: mpsc::Sender<(Command, oneshot::Sender<io::Result<()>>)>,
    connections: Arc<Connections>,
}

#[derive(Clone, Copy)]
enum Command {
    Close,
    Open,
}

struct Connections {
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
    door: tokio::sync::watch::Sender<Door>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Open {
    task: AbortHandle,
    /// Taken when the connection is told to end after the request it serves.
    finish: Option<oneshot::Sender<()>>,
}

/// The port, whether or not anybody listens on it.
enum Port {
    Listening(TcpListener),
    /// Bound, not listening: connections are refused, and nobody who asks for any free port is given this one.
    Reserved(TcpSocket),
    /// Neither, because binding failed; `Open` tries again.
    Lost,
}

impl Listening {
    pub(crate) fn start(listener: TcpListener, responder: Arc<impl Respond>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (commands, inbox) = mpsc::channel(1);
        let connections = Arc::new(Connections {
            accepted: AtomicU64::new(0),
            open: Mutex::default(),
            door: tokio::sync::watch::Sender::new(Door::Serve),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        connections.tasks.spawn(run(listener, address, inbox, responder, connections.clone()));
        Ok(Self { address, commands, connections })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections; those that are open go on.
    pub(crate) async fn close(&self) -> io::Result<()> {
        self.command(Command::Close).await
    }

    /// Accepts again on the same port.
    pub(crate) async fn open(&self) -> io::Result<()> {
        self.command(Command::Open).await
    }

    pub(crate) fn set_door(&self, door: Door) {
        self.connections.door.send_replace(door);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.connections.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.connections.locked().len()
    }

    /// Cuts every open connection, in the middle of whatever it does.
    pub(crate) fn cut_connections(&self) {
        self.connections.cut();
    }

    /// Ends idle connections now and the others after the request they serve, as a server at its idle timeout.
    pub(crate) fn finish_connections(&self) {
        for open in self.connections.locked().values_mut() {
            if let Some(finish) = open.finish.take() {
                // A receiver that is gone belongs to a connection that has just ended by itself.
                let _ = finish.send(());
            }
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.connections.stop.cancel();
        self.connections.cut();
        self.connections.tasks.close();
        self.connections.tasks.wait().await;
    }

    async fn command(&self, command: Command) -> io::Result<()> {
        let stopped = || io::Error::new(io::ErrorKind::NotConnected, "the gateway has been shut down");
        let (done, outcome) = oneshot::channel();
        self.commands.send((command, done)).await.map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.connections.stop.cancel();
        self.connections.cut();
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connections {
    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for open in self.locked().values() {
            open.task.abort();
        }
    }
}

async fn run(
    listener: TcpListener,
    address: SocketAddr,
    mut inbox: mpsc::Receiver<(Command, oneshot::Sender<io::Result<()>>)>,
    responder: Arc<impl Respond>,
    connections: Arc<Connections>,
) {
    let mut port = Port::Listening(listener);
    loop {
        let accepted = tokio::select! {
            biased;
            () = connections.stop.cancelled() => return,
            command = inbox.recv() => {
                let Some((command, done)) = command else { return };
                let outcome = match command {
                    Command::Close => port.close(address),
                    Command::Open => port.open(address),
                };
                // Whoever asked may have stopped waiting; the port has changed all the same.
                let _ = done.send(outcome);
                continue;
            }
            accepted = port.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &responder, &connections),
            Err(_) => tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await,
        }
    }
}

impl Port {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Listening(listener) => listener.accept().await,
            Self::Reserved(_) | Self::Lost => futures::future::pending().await,
        }
    }

    fn close(&mut self, address: SocketAddr) -> io::Result<()> {
        if let Self::Reserved(_) = self {
            return Ok(());
        }
        // The listener has to go first: a port somebody listens on cannot be bound once more.
        *self = Self::Lost;
        *self = Self::Reserved(reserve(address)?);
        Ok(())
    }

    fn open(&mut self, address: SocketAddr) -> io::Result<()> {
        let socket = match std::mem::replace(self, Self::Lost) {
            Self::Listening(listener) => {
                *self = Self::Listening(listener);
                return Ok(());
            }
            Self::Reserved(socket) => socket,
            Self::Lost => reserve(address)?,
        };
        *self = Self::Listening(socket.listen(1024)?);
        Ok(())
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn admit(
    stream: TcpStream,
    address: SocketAddr,
    responder: &Arc<impl Respond>,
    connections: &Arc<Connections>,
) {
    let connection = connections.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let door = *connections.door.borrow();
    if door == Door::CloseAtOnce {
        return;
    }
    let (finish, finished) = oneshot::channel();
    // The task removes its entry under the same lock, so it cannot end before it is entered.
    let mut open = connections.locked();
    // Seen under the lock: whoever stops cuts under it afterwards, so no connection slips in behind the cut.
    if connections.stop.is_cancelled() {
        return;
    }
    let entry = Entry { connection, connections: connections.clone() };
    let peer = Peer { address, connection };
    let responder = responder.clone();
    let task = connections.tasks.spawn(async move {
        let entry = entry;
        match door {
            Door::ReadNothing => {
                let mut door = entry.connections.door.subscribe();
                // An error means that the gateway is gone, and then so is the connection.
                let _ = door.wait_for(|door| *door != Door::ReadNothing).await;
                drop(stream);
            }
            _ => serve(stream, peer, responder, finished).await,
        }
    });
    open.insert(connection, Open { task: task.abort_handle(), finish: Some(finish) });
}

/// Removes a connection from the open ones, however its task ends.
struct Entry {
    connection: u64,
    connections: Arc<Connections>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.locked().remove(&self.connection);
    }
}

async fn serve(stream: TcpStream, peer: Peer, responder: Arc<impl Respond>, finished: oneshot::Receiver<()>) {
    // Without it the kernel may hold back small replies; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let responder = responder.clone();
        async move { responder.respond(request, peer).await }
    });
    let mut server = http1::Builder::new();
    server.max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    // How a connection ended says nothing here that the records do not say better.
    tokio::select! {
        _ = connection.as_mut() => return,
        finish = finished => if finish.is_err() { return },
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
