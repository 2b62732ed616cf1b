//! The settings of an MQTT source. `reference.yaml` holds each of them with its meaning.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use connectors_sdk::settings::Setting;
use connectors_sdk::{
    ByteSize, Common, Reader, Secret, SettingsError, SourceName, Tls, Topics, WindowLimits,
};

use crate::event::MessageForm;
use crate::message::Qos;
use crate::{Mqtt, filters};

/// The largest packet the protocol knows.
const LARGEST_PACKET: ByteSize = ByteSize::from_mebibytes(256);

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct MqttSettings {
    pub(crate) server: Server,
    pub(crate) protocol: Protocol,
    pub(crate) qos: Qos,
    pub(crate) common: Common,
    pub(crate) form: MessageForm,
    /// The name of our session; derived where it is not set.
    pub(crate) client_id: Option<String>,
    /// The group of a shared subscription.
    pub(crate) group: Option<String>,
    /// Begin with a new session at each connection.
    pub(crate) clean: bool,
    pub(crate) session_expiry: Duration,
    pub(crate) at_stop: AtStop,
    pub(crate) retained: Retained,
    pub(crate) max_packet_size: ByteSize,
    pub(crate) credentials: Option<Credentials>,
    /// TLS; there whenever the address asks for it.
    pub(crate) tls: Option<Tls>,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: Duration,
    /// What may wait for the window where the server cannot be asked to wait.
    pub(crate) waiting: WindowLimits,
}

/// Where the server is, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// On a plain connection or one with TLS.
    Tcp { host: String, port: u16 },
    /// Over WebSocket; a URL of `ws` or `wss`.
    WebSocket(Url),
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

impl Setting for Protocol {
    const EXPECTED: &'static str = "\"5\" or \"3.1.1\"";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) if number.as_u64() == Some(5) => Some(Protocol::V5),
            Value::String(text) if text == "5" => Some(Protocol::V5),
            Value::String(text) if text == "3.1.1" => Some(Protocol::V4),
            _ => None,
        }
    }
}

impl Setting for Qos {
    const EXPECTED: &'static str = "0, 1 or 2";

    fn read(value: &Value) -> Option<Self> {
        match value.as_u64()? {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// What becomes of the subscriptions when the source stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtStop {
    /// The session keeps what comes until it is taken up again.
    Keep,
    /// They are given up; another of the group takes what comes.
    Leave,
}

impl Setting for AtStop {
    const EXPECTED: &'static str = "keep or leave";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "keep" => Some(AtStop::Keep),
            "leave" => Some(AtStop::Leave),
            _ => None,
        }
    }
}

/// Whether retained messages are events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retained {
    /// Those that come with a new subscription.
    Take,
    /// None.
    Ignore,
}

impl Setting for Retained {
    const EXPECTED: &'static str = "take or ignore";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "take" => Some(Retained::Take),
            "ignore" => Some(Retained::Ignore),
            _ => None,
        }
    }
}

/// How we log in.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) username: Secret,
    pub(crate) password: Option<Secret>,
}

impl MqttSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let url: Option<String> = at.required("url", "\"mqtt://127.0.0.1:1883\"");
        let address = url.as_deref().and_then(|url| address(at, url));
        let common = Common::read(at, name, &Mqtt, filters::check);
        let trim_channel_key = at.or("trim_channel_key", false);
        if trim_channel_key && common.topics == Topics::FromFunctions {
            at.refuse(
                "trim_channel_key",
                "functions name what is left of a topic, which cannot be subscribed to",
                "list what to subscribe to under topics, as [\"key/#\"]",
            );
        }
        let form = MessageForm {
            form: common.form.clone(),
            trim_channel_key,
            id_property: at.optional("id_property"),
        };
        let protocol = at.or("protocol", Protocol::V5);
        if protocol == Protocol::V4 && form.id_property.is_some() {
            at.refuse(
                "id_property",
                "MQTT 3.1.1 has no user properties",
                "remove it, or write protocol: \"5\"",
            );
        }
        let qos = at.or("qos", Qos::AtLeastOnce);
        let client_id = client_id(at);
        let group = group(at);
        let clean = at.or("clean", false);
        let session_expiry = at.or("session_expiry", Duration::from_secs(24 * 60 * 60));
        if session_expiry.as_secs() > u64::from(u32::MAX) {
            at.refuse("session_expiry", "it is longer than MQTT can say", "write a duration up to 136 years");
        }
        let at_stop = at.or("at_stop", AtStop::Keep);
        let retained = at.or("retained", Retained::Take);
        let max_packet_size = at.or("max_packet_size", LARGEST_PACKET);
        let in_url = address.as_ref().and_then(|address| address.credentials.clone());
        let credentials = credentials(at, in_url);
        let tls = at.table("tls", Tls::read);
        let connect_timeout = at.or("connect_timeout", Duration::from_secs(5));
        let keep_alive = at.or("keep_alive", Duration::from_secs(60));
        if connect_timeout.is_zero() {
            at.refuse("connect_timeout", "it is nothing", "write a duration such as 5s");
        }
        if !(1..=u64::from(u16::MAX)).contains(&keep_alive.as_secs()) {
            at.refuse("keep_alive", "it is no time MQTT can say", "write a duration from 1s to 18h");
        }
        let waiting = waiting(at);
        let Address { server, encrypted, .. } = address?;
        if !encrypted && tls.is_some() {
            at.refuse("tls", "the address is one without TLS", "write mqtts:// or wss:// in url");
        }
        Some(MqttSettings {
            server,
            protocol,
            qos,
            common,
            form,
            client_id,
            group,
            // Without acknowledgements there is nothing a session could keep.
            clean: clean || qos == Qos::AtMostOnce,
            session_expiry,
            at_stop,
            retained,
            max_packet_size,
            credentials,
            tls: encrypted.then(|| tls.unwrap_or_default()),
            connect_timeout,
            keep_alive,
            waiting,
        })
    }

    /// The server, for people.
    pub(crate) fn upstream(&self) -> String {
        match &self.server {
            Server::Tcp { host, port } if self.tls.is_some() => format!("mqtts://{host}:{port}"),
            Server::Tcp { host, port } => format!("mqtt://{host}:{port}"),
            Server::WebSocket(url) => url.to_string(),
        }
    }
}

/// What an address says.
struct Address {
    server: Server,
    encrypted: bool,
    credentials: Option<(String, Option<String>)>,
}

/// Reads the address; credentials in it are taken out, so that no log can show them.
fn address(at: &mut Reader, text: &str) -> Option<Address> {
    const REMEDY: &str = "write mqtt://host:1883, mqtts://host:8883, ws://host/path or wss://host/path";
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("mqtt://{text}") };
    let mut url = match Url::parse(&with_scheme) {
        Ok(url) => url,
        Err(error) => {
            // The text itself may hold a password.
            at.refuse("url", format!("it is no URL: {error}"), REMEDY);
            return None;
        }
    };
    // The other names are those of OpenFaaS' connector, and of its client library.
    let (encrypted, web_socket, port) = match url.scheme() {
        "mqtt" | "tcp" => (false, false, 1883),
        "mqtts" | "ssl" | "tls" => (true, false, 8883),
        "ws" => (false, true, 80),
        "wss" => (true, true, 443),
        other => {
            at.refuse("url", format!("there is no way to speak {other}"), REMEDY);
            return None;
        }
    };
    let Some(host) = url.host_str().filter(|host| !host.is_empty()).map(str::to_owned) else {
        at.refuse("url", "it names no host", REMEDY);
        return None;
    };
    if !web_socket && !matches!(url.path(), "" | "/") {
        at.refuse("url", "it has a path, which only WebSocket knows", "write topics under `topics`");
        return None;
    }
    let credentials =
        (!url.username().is_empty()).then(|| (decoded(url.username()), url.password().map(decoded)));
    let stripped = url.set_username("").and_then(|()| url.set_password(None));
    debug_assert!(stripped.is_ok(), "a URL with a host may have its credentials removed");
    let port = url.port().unwrap_or(port);
    let server = if web_socket {
        Server::WebSocket(url)
    } else {
        // An address of IPv6 stands in brackets in a URL, and nowhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Server::Tcp { host, port }
    };
    Some(Address { server, encrypted, credentials })
}

/// Undoes `%40` and the like.
fn decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn client_id(at: &mut Reader) -> Option<String> {
    let id: String = at.optional("client_id")?;
    if id.is_empty() || id.len() > usize::from(u16::MAX) || id.contains(char::is_control) {
        at.refuse(
            "client_id",
            format!("{id:?} is no client id"),
            "write a name, another one for each replica",
        );
    }
    Some(id)
}

fn group(at: &mut Reader) -> Option<String> {
    let group: String = at.optional("group")?;
    if group.is_empty()
        || group.len() > filters::LONGEST_GROUP
        || group.contains(['/', '+', '#'])
        || group.contains(char::is_control)
    {
        at.refuse(
            "group",
            format!("{group:?} is no group of a shared subscription"),
            "write a name without /, + and #, the same for all replicas",
        );
    }
    Some(group)
}

fn credentials(at: &mut Reader, in_url: Option<(String, Option<String>)>) -> Option<Credentials> {
    const KEY: &str = "credentials";
    let written = at.table(KEY, |at| {
        let (username, password) = (at.secret("username"), at.secret("password"));
        if username.is_none() && password.is_some() {
            at.refuse("username", "password is set without it", "write username");
        }
        username.map(|username| Credentials { username, password })
    });
    let in_url = in_url.map(|(username, password)| Credentials {
        username: Secret::Inline(username.into()),
        password: password.map(|password| Secret::Inline(password.into())),
    });
    if written.is_some() && in_url.is_some() {
        at.refuse(KEY, "there are others in the address", "remove those in url");
    }
    written.flatten().or(in_url)
}

fn waiting(at: &mut Reader) -> WindowLimits {
    let default = WindowLimits {
        messages: const { NonZeroUsize::new(4096).expect("4096 is not zero") },
        bytes: ByteSize::from_mebibytes(16),
    };
    at.table("waiting", |at| WindowLimits {
        messages: at.or("messages", default.messages),
        bytes: at.or("bytes", default.bytes),
    })
    .unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    testkit::settings_reference!(
        "../reference.yaml",
        "things",
        "mqtt",
        MqttSettings::from_reader,
        json!({"url": "mqtt://127.0.0.1:1883"})
    );

    fn read(settings: Value) -> Result<MqttSettings, SettingsError> {
        MqttSettings::read(&SourceName::parse("things").unwrap(), settings)
    }

    fn problems(settings: Value) -> Vec<(String, String)> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| (problem.key, problem.what)).collect()
    }

    fn keys(settings: Value) -> Vec<String> {
        problems(settings).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn an_address_is_enough() {
        let settings = read(json!({"url": "mqtt://127.0.0.1:1883", "qos": 1})).unwrap();

        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert_eq!((settings.protocol, settings.qos), (Protocol::V5, Qos::AtLeastOnce));
        assert!(!settings.clean && settings.tls.is_none() && settings.group.is_none());
    }

    #[test]
    fn addresses_are_those_of_every_client() {
        for (url, upstream) in [
            ("h", "mqtt://h:1883"),
            ("tcp://h:7", "mqtt://h:7"),
            ("mqtts://h", "mqtts://h:8883"),
            ("ssl://h:1", "mqtts://h:1"),
            ("mqtt://[::1]:2", "mqtt://::1:2"),
            ("ws://h/mqtt", "ws://h/mqtt"),
            ("wss://u:p@h:9/ws?x=1", "wss://h:9/ws?x=1"),
        ] {
            let settings = read(json!({"url": url})).unwrap();
            assert_eq!(settings.upstream(), upstream, "{url}");
            let encrypted = upstream.starts_with("mqtts:") || upstream.starts_with("wss:");
            assert_eq!(settings.tls.is_some(), encrypted, "{url}");
        }
        for wrong in ["http://h", "mqtt://", "mqtt://h/orders", "mqtt://h:99999"] {
            assert_eq!(keys(json!({"url": wrong})), ["url"], "{wrong}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_never_shown() {
        let settings = read(json!({"url": "mqtt://al%40ice:hunter2@h"})).unwrap();

        assert!(!format!("{settings:?}").contains("hunter2"));
        let Some(Credentials { username: Secret::Inline(username), password: Some(_) }) =
            settings.credentials
        else {
            panic!("the address has both")
        };
        assert_eq!(secrecy::ExposeSecret::expose_secret(&username), "al@ice");
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        assert_eq!(
            keys(json!({
                "url": "mqtt://u@h",
                "topics": ["a/#/b"],
                "protocol": 4,
                "qos": 3,
                "client_id": "",
                "group": "a/b",
                "session_expiry": "200y",
                "at_stop": "go",
                "retained": true,
                "credentials": {"password": "x"},
                "connect_timeout": "0s",
                "keep_alive": "1ms",
                "tls": {},
                "more": 1,
            })),
            [
                "topics[0]",
                "protocol",
                "qos",
                "client_id",
                "group",
                "session_expiry",
                "at_stop",
                "retained",
                "credentials.username",
                "credentials",
                "connect_timeout",
                "keep_alive",
                "tls",
                "more",
            ]
        );
    }

    #[test]
    fn what_one_setting_makes_impossible_is_refused() {
        assert_eq!(keys(json!({"url": "h", "trim_channel_key": true})), ["trim_channel_key"]);
        assert_eq!(keys(json!({"url": "h", "protocol": "3.1.1", "id_property": "id"})), ["id_property"]);
        assert!(read(json!({"url": "h", "trim_channel_key": true, "topics": ["k/#"]})).is_ok());
    }

    #[test]
    fn every_setting_that_is_inherited_exists() {
        let inherited = connectors_sdk::Connector::inherits(&Mqtt);
        let mut at = Reader::new(json!({}));
        MqttSettings::from_reader(&SourceName::parse("mqtt").unwrap(), &mut at);
        let known: Vec<&str> = at.known().collect();
        for key in inherited.variables.iter().map(|variable| variable.key) {
            assert!(known.contains(&key), "{key}");
        }

        let read = read(json!({
            "url": "tcp://emitter:8080", "topics": ["sample-topic/#"], "client_id": "testgoid", "clean": false,
            "qos": 0, "trim_channel_key": true, "protocol": inherited.defaults[0].1,
        }));
        assert_eq!(read.unwrap().protocol, Protocol::V4);
    }

    #[test]
    fn without_acknowledgements_no_session_is_kept() {
        assert!(read(json!({"url": "h", "qos": 0})).unwrap().clean);
    }
}
