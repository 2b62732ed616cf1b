//! MQTT 5.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rumqttc_v5::{
    AckMode, AsyncClient, Broker, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event, EventLoop,
    MqttOptions, OptionError, Packet, PersistedAckMode, PersistedSession, RetainForwardRule, SessionStore,
    SessionStoreError, SessionStoreKey, StateError, SubscribeFilterInput, SubscribeProperties,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;

use super::{Answer, Ending, Greeting, Incoming, Login, READ_AT_ONCE, ours, theirs};
use crate::message::{Message, Properties, Qos};
use crate::settings::{MqttSettings, Retained, Server};

pub(super) fn options(settings: &MqttSettings, login: Login) -> Result<MqttOptions, OptionError> {
    let tls = login.tls.map(TlsConfiguration::Rustls);
    let mut options = match (&settings.server, tls) {
        (Server::Tcp { host, port }, tls) => {
            let mut options = MqttOptions::new(login.id, Broker::tcp(host, *port));
            if let Some(tls) = tls {
                options.set_transport(Transport::tls_with_config(tls));
            }
            options
        }
        (Server::WebSocket(url), Some(tls)) => {
            MqttOptions::websocket_with_tls_config(login.id, url.as_str(), tls)?
        }
        (Server::WebSocket(url), None) => MqttOptions::new(login.id, Broker::websocket(url.as_str())?),
    };
    if let Some((username, password)) = login.credentials {
        options.set_credentials(username, password);
    }
    options
        .set_ack_mode(AckMode::Manual)
        .set_connect_timeout(settings.connect_timeout)
        .set_read_batch_size(READ_AT_ONCE)
        .set_keep_alive(u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX))
        // As many as the window holds: the server sends no more before one is acknowledged.
        .set_receive_maximum(Some(
            u16::try_from(settings.common.in_flight.messages.get()).unwrap_or(u16::MAX),
        ))
        // The largest packet is our own matter. The library would end the connection over one, and the server send it again;
        // a server that is told drops it without a word.
        .set_unlimited_incoming_packet_size()
        // We publish nothing: the library makes room for so many at once, 32 MB of it unless told.
        .set_outgoing_inflight_upper_limit(PUBLISHED_AT_ONCE)
        .set_clean_start(settings.clean);
    if !settings.clean {
        let expiry = u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX);
        options.set_session_expiry_interval(Some(expiry)).set_session_store(NothingSent);
    }
    Ok(options)
}

/// The least the library allows.
const PUBLISHED_AT_ONCE: u16 = 1;

/// What of our session is ours to keep: nothing. We publish nothing, so there is nothing to send again.
///
/// Without this word the library takes up no session that it does not remember itself, or lets nobody subscribe on it.
#[derive(Debug)]
struct NothingSent;

type Stored<'a, T> = BoxFuture<'a, Result<T, SessionStoreError>>;

impl SessionStore for NothingSent {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Stored<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(PUBLISHED_AT_ONCE),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        async move { Ok(Some(session)) }.boxed()
    }

    fn save<'a>(&'a self, _key: &'a SessionStoreKey, _session: &'a PersistedSession) -> Stored<'a, ()> {
        async { Ok(()) }.boxed()
    }

    fn clear<'a>(&'a self, _key: &'a SessionStoreKey) -> Stored<'a, ()> {
        async { Ok(()) }.boxed()
    }
}

/// Reads until the connection ends or nobody wants to hear of it.
pub(super) async fn poll(mut events: EventLoop, tell: mpsc::Sender<Incoming>) {
    loop {
        let said = match events.poll().await {
            Ok(Event::Incoming(packet)) => incoming(packet),
            Ok(_) => None,
            Err(error) => {
                let _ = tell.send(Incoming::Ended(ending(error))).await;
                return;
            }
        };
        if let Some(said) = said
            && tell.send(said).await.is_err()
        {
            return;
        }
    }
}

pub(super) fn incoming(packet: Packet) -> Option<Incoming> {
    match packet {
        Packet::ConnAck(greeting) => {
            let numbers =
                greeting.properties.and_then(|properties| properties.subscription_identifiers_available);
            // What a server does not say, it can.
            Some(Incoming::Greeting(Greeting {
                resumed: greeting.session_present,
                numbers: numbers != Some(0),
            }))
        }
        Packet::Publish(publish) => {
            let properties = publish.properties.unwrap_or_default();
            let numbers = properties.subscription_identifiers.iter();
            Some(Incoming::Message(Box::new(Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload,
                qos: ours(publish.qos),
                packet: publish.pkid,
                again: publish.dup,
                retained: publish.retain,
                subscriptions: numbers.filter_map(|number| u32::try_from(*number).ok()).collect(),
                properties: Properties {
                    user: properties.user_properties,
                    content_type: properties.content_type,
                    response_topic: properties.response_topic,
                    correlation_data: properties.correlation_data,
                    expiry: properties.message_expiry_interval,
                },
            })))
        }
        Packet::PubRel(release) => Some(Incoming::Released(release.pkid)),
        _ => None,
    }
}

fn ending(error: ConnectionError) -> Ending {
    let refusal = match &error {
        ConnectionError::ConnectionRefused(code) => Some(*code),
        ConnectionError::MqttState(StateError::ConnFail { reason }) => Some(*reason),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. })
            if *reason_code == DisconnectReasonCode::SessionTakenOver =>
        {
            return Ending::TakenOver;
        }
        _ => None,
    };
    match refusal {
        Some(
            ConnectReturnCode::ServerUnavailable
            | ConnectReturnCode::ServiceUnavailable
            | ConnectReturnCode::ServerBusy
            | ConnectReturnCode::UseAnotherServer
            | ConnectReturnCode::ServerMoved
            | ConnectReturnCode::ConnectionRateExceeded,
        )
        | None => Ending::Broken(error.into()),
        Some(_) => Ending::Refused(error.into()),
    }
}

pub(super) fn subscribe(
    client: &AsyncClient,
    filter: String,
    number: Option<u32>,
    qos: Qos,
    retained: Retained,
) -> BoxFuture<'static, Option<Answer>> {
    let rule = match retained {
        Retained::Take => RetainForwardRule::OnNewSubscribe,
        Retained::Ignore => RetainForwardRule::Never,
    };
    let filter = SubscribeFilterInput::new(filter, theirs(qos)).retain_forward_rule(rule);
    let properties = SubscribeProperties {
        id: number.and_then(|number| usize::try_from(number).ok()),
        user_properties: Vec::new(),
    };
    let asked = client.try_subscribe_many_with_properties_tracked([filter], properties);
    async move {
        let answer = asked.ok()?.wait_async().await.ok()?;
        let said = answer.properties.and_then(|properties| properties.reason_string);
        match answer.return_codes.first()? {
            SubscribeReasonCode::Success(qos) => Some(Ok(ours(*qos))),
            refusal => Some(Err(said.unwrap_or_else(|| format!("{refusal:?}")))),
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mosquitto 2.0.11 says nothing when it gives a session to another client, so this is not shown on a server.
    #[test]
    fn a_session_taken_over_is_told_from_a_broken_connection() {
        let said = |reason_code| {
            let reason_string = None;
            ending(ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }))
        };

        assert!(matches!(said(DisconnectReasonCode::SessionTakenOver), Ending::TakenOver));
        assert!(matches!(said(DisconnectReasonCode::ServerShuttingDown), Ending::Broken(_)));
    }

    #[test]
    fn only_what_will_not_pass_by_itself_is_a_refusal() {
        let refused = |code| ending(ConnectionError::ConnectionRefused(code));

        assert!(matches!(refused(ConnectReturnCode::BadUserNamePassword), Ending::Refused(_)));
        assert!(matches!(refused(ConnectReturnCode::ServerBusy), Ending::Broken(_)));
    }
}
