//! MQTT 3.1.1.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions,
    OptionError, Packet, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;

use super::{Answer, Ending, Greeting, Incoming, Login, READ_AT_ONCE, ours, theirs};
use crate::message::{Message, Properties, Qos};
use crate::settings::{MqttSettings, Server};

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
    // The largest packet is our own matter: the library would end the connection over one, and the server send it again.
    options
        .set_max_packet_size(usize::MAX, usize::MAX)
        .set_ack_mode(AckMode::Manual)
        .set_clean_session(settings.clean)
        .set_read_batch_size(READ_AT_ONCE)
        .set_keep_alive(u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX));
    Ok(options)
}

/// Reads until the connection ends or nobody wants to hear of it.
pub(super) async fn poll(mut events: EventLoop, tell: mpsc::Sender<Incoming>) {
    loop {
        let said = match events.poll().await {
            Ok(Event::Incoming(packet)) => incoming(packet),
            Ok(Event::Outgoing(_)) => None,
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
            Some(Incoming::Greeting(Greeting { resumed: greeting.session_present, numbers: false }))
        }
        Packet::Publish(publish) => Some(Incoming::Message(Box::new(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos: ours(publish.qos),
            packet: publish.pkid,
            again: publish.dup,
            retained: publish.retain,
            subscriptions: Vec::new(),
            properties: Properties::default(),
        }))),
        Packet::PubRel(release) => Some(Incoming::Released(release.pkid)),
        _ => None,
    }
}

fn ending(error: ConnectionError) -> Ending {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => {
            Ending::Broken(error.into())
        }
        ConnectionError::ConnectionRefused(_) => Ending::Refused(error.into()),
        error => Ending::Broken(error.into()),
    }
}

pub(super) fn subscribe(
    client: &AsyncClient,
    filter: String,
    qos: Qos,
) -> BoxFuture<'static, Option<Answer>> {
    let asked = client.try_subscribe_tracked(filter, theirs(qos));
    async move {
        let answer = asked.ok()?.wait_async().await.ok()?;
        match answer.return_codes.first()? {
            SubscribeReasonCode::Success(qos) => Some(Ok(ours(*qos))),
            SubscribeReasonCode::Failure => Some(Err("it does not say why".to_owned())),
        }
    }
    .boxed()
}
