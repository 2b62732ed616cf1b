//! One connection to the server, in either version of the protocol.
//!
//! The client library's event loop runs in a task of its own, because it must not be dropped in the middle of a packet. What it
//! reads goes through a queue of one: while nobody takes it, nothing more is read, and TCP tells the server.
//!
//! Each connection has a client of its own, so that passwords and certificates are read anew, and nothing the library remembers
//! outlives it.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rumqttc_v5::QoS;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use connectors_sdk::source::Cause;
use connectors_sdk::{Health, SourceError, SourceName};

use crate::message::{Message, Qos};
use crate::settings::{MqttSettings, Protocol, Retained};

mod v4;
mod v5;

/// A connection that stands.
pub(crate) struct Client {
    speaks: Speaks,
    incoming: mpsc::Receiver<Incoming>,
    _polling: AbortOnDropHandle<()>,
}

enum Speaks {
    V4(rumqttc_v4::AsyncClient),
    V5(rumqttc_v5::AsyncClient),
}

/// What the server says.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// It takes us; always the first.
    Greeting(Greeting),
    /// A message.
    Message(Box<Message>),
    /// It has our acknowledgement of the message with this packet identifier (QoS 2).
    Released(u16),
    /// The connection is gone; always the last.
    Ended(Ending),
}

/// How the server took us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// With the session we left.
    pub(crate) resumed: bool,
    /// Messages carry the numbers of the subscriptions for which they come.
    pub(crate) numbers: bool,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The server will not have us.
    Refused(Cause),
    /// The server gave our session to another client of the same id.
    TakenOver,
    /// Anything else.
    Broken(Cause),
}

/// How the server answers a subscription: with what it grants, or why it does not.
pub(crate) type Answer = Result<Qos, String>;

impl Client {
    /// Connects, and waits until the server takes us.
    ///
    /// # Errors
    /// [`SourceError`]: the server cannot be reached or will not have us, or a file the settings name cannot be read.
    pub(crate) async fn connect(
        name: &SourceName,
        settings: &MqttSettings,
        id: &str,
        health: &Health,
    ) -> Result<(Client, Greeting), SourceError> {
        let login = Login::read(name, settings, id, health).await?;
        let unusable =
            |error: String| SourceError::Unusable { key: "url".to_owned(), what: error, cause: None };
        let (tell, incoming) = mpsc::channel(1);
        let (speaks, polling) = match settings.protocol {
            Protocol::V4 => {
                let options = v4::options(settings, login).map_err(|error| unusable(error.to_string()))?;
                let (client, mut events) = rumqttc_v4::AsyncClient::builder(options).unbounded().build();
                // In whole seconds; what the settings say is waited for below.
                events.network_options.set_connection_timeout(settings.connect_timeout.as_secs().max(1));
                (Speaks::V4(client), tokio::spawn(v4::poll(events, tell)))
            }
            Protocol::V5 => {
                let options = v5::options(settings, login).map_err(|error| unusable(error.to_string()))?;
                let (client, events) = rumqttc_v5::AsyncClient::builder(options).unbounded().build();
                (Speaks::V5(client), tokio::spawn(v5::poll(events, tell)))
            }
        };
        let mut client = Client { speaks, incoming, _polling: AbortOnDropHandle::new(polling) };
        let upstream = settings.upstream();
        match tokio::time::timeout(settings.connect_timeout, client.next()).await {
            Ok(Incoming::Greeting(greeting)) => Ok((client, greeting)),
            Ok(Incoming::Ended(Ending::Refused(cause))) => Err(SourceError::Refused { upstream, cause }),
            Ok(Incoming::Ended(Ending::Broken(cause))) => Err(SourceError::Unreachable { upstream, cause }),
            Ok(other) => Err(SourceError::Unreachable {
                upstream,
                cause: format!("it begins with {other:?} instead of a greeting").into(),
            }),
            Err(elapsed) => Err(SourceError::Unreachable { upstream, cause: elapsed.into() }),
        }
    }

    /// What the server says next. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Incoming {
        let gone = || Incoming::Ended(Ending::Broken("the client ended without a word".into()));
        self.incoming.recv().await.unwrap_or_else(gone)
    }

    /// Acknowledges a message of this connection: PUBACK, or PUBREC with QoS 2.
    pub(crate) fn acknowledge(&self, packet: u16, qos: Qos) {
        // That the connection ended meanwhile is the next thing it says.
        match (&self.speaks, qos) {
            (_, Qos::AtMostOnce) => {}
            (Speaks::V4(client), Qos::AtLeastOnce) => {
                let _ = client.try_manual_ack(rumqttc_v4::ManualAck::PubAck(rumqttc_v4::PubAck::new(packet)));
            }
            (Speaks::V4(client), Qos::ExactlyOnce) => {
                let _ = client.try_manual_ack(rumqttc_v4::ManualAck::PubRec(rumqttc_v4::PubRec::new(packet)));
            }
            (Speaks::V5(client), Qos::AtLeastOnce) => {
                let ack = rumqttc_v5::PubAck::new(packet, None);
                let _ = client.try_manual_ack(rumqttc_v5::ManualAck::PubAck(ack));
            }
            (Speaks::V5(client), Qos::ExactlyOnce) => {
                let ack = rumqttc_v5::PubRec::new(packet, None);
                let _ = client.try_manual_ack(rumqttc_v5::ManualAck::PubRec(ack));
            }
        }
    }

    /// Subscribes; the server's answer, or `None` when the connection ended before it came.
    pub(crate) fn subscribe(
        &self,
        filter: String,
        number: Option<u32>,
        qos: Qos,
        retained: Retained,
    ) -> BoxFuture<'static, Option<Answer>> {
        match &self.speaks {
            Speaks::V4(client) => v4::subscribe(client, filter, qos),
            Speaks::V5(client) => v5::subscribe(client, filter, number, qos, retained),
        }
    }

    /// Ends a subscription; whether there was one, as far as the server says, or `None` when the connection ended before.
    pub(crate) fn unsubscribe(&self, filter: String) -> BoxFuture<'static, Option<bool>> {
        match &self.speaks {
            Speaks::V4(client) => {
                let asked = client.try_unsubscribe_tracked(filter);
                async move { asked.ok()?.wait_async().await.ok().map(|_| true) }.boxed()
            }
            Speaks::V5(client) => {
                let asked = client.try_unsubscribe_tracked(filter);
                async move {
                    let answer = asked.ok()?.wait_async().await.ok()?;
                    Some(!answer.reasons.contains(&rumqttc_v5::UnsubAckReason::NoSubscriptionExisted))
                }
                .boxed()
            }
        }
    }

    /// Takes leave after everything asked for; the session stays. [`Incoming::Ended`] follows.
    pub(crate) fn disconnect(&self) {
        match &self.speaks {
            Speaks::V4(client) => drop(client.try_disconnect()),
            Speaks::V5(client) => drop(client.try_disconnect()),
        }
    }
}

/// Who we say we are, as it is now.
struct Login {
    id: String,
    credentials: Option<(String, String)>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Login {
    async fn read(
        name: &SourceName,
        settings: &MqttSettings,
        id: &str,
        health: &Health,
    ) -> Result<Login, SourceError> {
        let credentials = match &settings.credentials {
            None => None,
            Some(credentials) => {
                let username = credentials.username.reveal().await?.expose_secret().to_owned();
                let password = match &credentials.password {
                    Some(password) => password.reveal().await?.expose_secret().to_owned(),
                    None => String::new(),
                };
                Some((username, password))
            }
        };
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                tls.say_if_insecure(name, health);
                Some(Arc::new(tls.rustls().await?))
            }
        };
        Ok(Login { id: id.to_owned(), credentials, tls })
    }
}

/// The quality as we call it; both versions of the library share theirs.
fn ours(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce => Qos::AtLeastOnce,
        QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// The quality as the library calls it.
fn theirs(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// How many packets the library may hand over from one read.
const READ_AT_ONCE: usize = 16;

#[cfg(test)]
pub(crate) mod testing {
    //! Captured packets as messages.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::BytesMut;

    use super::{Incoming, v4, v5};
    use crate::message::Message;

    fn bytes(base64: &str) -> BytesMut {
        BytesMut::from(&STANDARD.decode(base64.trim()).unwrap()[..])
    }

    fn message(incoming: Option<Incoming>) -> Message {
        match incoming {
            Some(Incoming::Message(message)) => *message,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn captured_v4(base64: &str) -> Message {
        message(v4::incoming(rumqttc_v4::Packet::read(&mut bytes(base64), usize::MAX).unwrap()))
    }

    pub(crate) fn captured_v5(base64: &str) -> Message {
        message(v5::incoming(rumqttc_v5::Packet::read(&mut bytes(base64), None).unwrap()))
    }
}
