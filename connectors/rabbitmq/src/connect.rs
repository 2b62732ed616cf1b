//! One connection to one of the servers.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::Tokio;
use futures::Stream;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};

use connectors_sdk::source::Cause;
use connectors_sdk::{Health, SourceError, SourceName, Tls};

use crate::address::Address;
use crate::settings::RabbitmqSettings;
use crate::sieve::{self, Sieve};

/// How long the server may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection, and the socket below it.
///
/// The client runs each connection on a thread of its own, which waits for the server whatever becomes of the connection's
/// value. Closing the socket is what ends it, so the socket is closed when this is dropped.
pub(crate) struct Wire {
    connection: Connection,
    _socket: Socket,
}

/// A socket that is shut down when it is dropped.
struct Socket(std::net::TcpStream);

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Wire {
    /// Connects to the first server that answers and will have us.
    ///
    /// # Errors
    /// [`SourceError`]: none of the servers can be reached, or one refuses us, or a file the settings name cannot be read.
    pub(crate) async fn open(
        name: &SourceName,
        settings: &RabbitmqSettings,
        health: &Health,
    ) -> Result<Wire, SourceError> {
        let upstream = || settings.upstream();
        let tls = settings.tls.clone().unwrap_or_default();
        tls.say_if_insecure(name, health);
        let login = login(settings).await?;
        let mut last: Option<SourceError> = None;
        for address in &settings.addresses {
            let secure = if address.secure { Some(connector(&tls).await?) } else { None };
            let until = Instant::now() + settings.connect_timeout;
            match timeout_at(until, open_one(settings, address, secure, &login)).await {
                Ok(Ok(wire)) => return Ok(wire),
                Ok(Err(Failed::Refused(cause))) => {
                    return Err(SourceError::Refused { upstream: upstream(), cause });
                }
                Ok(Err(Failed::Unreachable(cause))) => {
                    last = Some(SourceError::Unreachable { upstream: upstream(), cause });
                }
                Err(_) => {
                    let cause = format!("no answer within connect_timeout, {:?}", settings.connect_timeout);
                    last = Some(SourceError::Unreachable { upstream: upstream(), cause: cause.into() });
                }
            }
        }
        Err(last.unwrap_or_else(|| SourceError::Unreachable {
            upstream: upstream(),
            cause: "there is no address".into(),
        }))
    }

    /// What the client says about the connection from now on, errors of single channels included.
    pub(crate) fn told(&self) -> impl Stream<Item = lapin::Event> + Send + 'static {
        self.connection.events_listener()
    }

    /// Whether it stands, as far as the client knows.
    pub(crate) fn stands(&self) -> bool {
        self.connection.status().connected()
    }

    /// Another channel.
    pub(crate) async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }

    /// Says goodbye, for what was sent to arrive before the socket is closed.
    pub(crate) async fn close(&self) {
        // Gone already, or not to be reached: closed either way.
        let _ = timeout(GOODBYE, self.connection.close(200, "OK".into())).await;
    }
}

/// Why a server is not connected to.
enum Failed {
    Unreachable(Cause),
    Refused(Cause),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Unreachable(error.into())
    }
}

async fn open_one(
    settings: &RabbitmqSettings,
    Address { host, port, secure: _ }: &Address,
    secure: Option<RustlsConnector>,
    login: &AMQPUserInfo,
) -> Result<Wire, Failed> {
    let found: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
    let stream = AsyncTcpStream::connect(&Tokio::current(), found).await?;
    let AsyncTcpStream::Plain(plain) = &stream else {
        return Err(Failed::Unreachable("the client made another kind of socket".into()));
    };
    let socket = Socket(plain.get_ref().as_fd().try_clone_to_owned()?.into());
    let stream = match &secure {
        Some(connector) => stream.into_rustls(connector, host).await?,
        None => stream,
    };
    let uri = AMQPUri {
        scheme: if secure.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority { userinfo: login.clone(), host: host.clone(), port: *port },
        vhost: settings.virtual_host.clone(),
        query: AMQPQueryString {
            heartbeat: u16::try_from(settings.heartbeat.as_secs()).ok(),
            ..AMQPQueryString::default()
        },
    };
    let properties =
        ConnectionProperties::default().with_connection_name(settings.client_name.as_str().into());
    // The client asks for a stream once; it does not connect again by itself.
    let once = Mutex::new(Some(Sieve::before(stream)));
    let hand_over = async move |_, _| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.map(AsyncTcpStream::Plain).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    match Connection::connector(uri, sieve::runtime(), hand_over, properties).await {
        Ok(connection) => Ok(Wire { connection, _socket: socket }),
        Err(error) => Err(match refusal(&error) {
            Some(refusal) => Failed::Refused(refusal.into()),
            None => Failed::Unreachable(error.into()),
        }),
    }
}

/// The server's word, when it will not have us: wrong credentials, no such virtual host, no right to it.
fn refusal(error: &lapin::Error) -> Option<String> {
    const ACCESS_REFUSED: u16 = 403;
    const NOT_ALLOWED: u16 = 530;
    match error.kind() {
        ErrorKind::ProtocolError(error) if [ACCESS_REFUSED, NOT_ALLOWED].contains(&error.get_id()) => {
            Some(error.get_message().to_string())
        }
        _ => None,
    }
}

async fn login(settings: &RabbitmqSettings) -> Result<AMQPUserInfo, SourceError> {
    // RabbitMQ's own default, which it takes from loopback alone.
    let Some(credentials) = &settings.credentials else {
        return Ok(AMQPUserInfo { username: "guest".to_owned(), password: "guest".to_owned() });
    };
    Ok(AMQPUserInfo {
        username: credentials.username.reveal().await?.expose_secret().to_owned(),
        password: credentials.password.reveal().await?.expose_secret().to_owned(),
    })
}

async fn connector(tls: &Tls) -> Result<RustlsConnector, SourceError> {
    Ok(RustlsConnector::from(Arc::new(tls.rustls().await?)))
}
