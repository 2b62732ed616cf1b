//! The settings of a NATS source. `reference.yaml` holds each of them with its meaning.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use connectors_sdk::{ByteSize, Common, Reader, Secret, SettingsError, SourceName, Tls, WindowLimits};

use crate::jetstream::JetStreamSettings;
use crate::{Nats, subjects};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct NatsSettings {
    /// The servers, without credentials.
    pub(crate) servers: Vec<Url>,
    pub(crate) common: Common,
    pub(crate) queue_group: String,
    pub(crate) client_name: String,
    /// TLS beyond what a `tls://` address asks for.
    pub(crate) tls: Option<Tls>,
    pub(crate) handshake_first: bool,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) connect_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) waiting: WindowLimits,
    /// Events come from a stream instead of from core NATS.
    pub(crate) jetstream: Option<JetStreamSettings>,
}

/// How we say who we are. One way only.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Creds(PathBuf),
    Nkey(Secret),
    Password { username: Secret, password: Secret },
    Token(Secret),
}

impl NatsSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let urls: Option<Vec<String>> = at.required("url", "\"nats://127.0.0.1:4222\"");
        let mut in_urls = Vec::new();
        let servers: Vec<Url> =
            urls.iter().flatten().filter_map(|url| server(at, url, &mut in_urls)).collect();
        let common = Common::read(at, name, &Nats, subjects::check);
        // Read before the keys are taken.
        let of_core: Vec<&str> =
            ["queue_group", "waiting"].into_iter().filter(|key| at.is_set(key)).collect();
        let jetstream = at.table("jetstream", |at| JetStreamSettings::read(at, name));
        if jetstream.is_some() {
            for key in of_core {
                at.refuse(
                    key,
                    "it has no meaning with jetstream",
                    "remove it; replicas share the messages of one consumer",
                );
            }
        }
        let queue_group = at.or("queue_group", "openfaas_nats_worker_group".to_owned());
        if queue_group.is_empty() || queue_group.contains(|c: char| c.is_whitespace() || c.is_control()) {
            at.refuse(
                "queue_group",
                format!("{queue_group:?} is no queue group"),
                "write a name without spaces; replicas of one name share the messages",
            );
        }
        let client_name = at.or("client_name", "openfaas_connector".to_owned());
        let tls = at.table("tls", |at| (Tls::read(at), at.or("handshake_first", false)));
        let handshake_first = tls.as_ref().is_some_and(|(_, first)| *first);
        let credentials = credentials(at, in_urls);
        let connect_timeout = at.or("connect_timeout", Duration::from_secs(5));
        let ping_interval = at.or("ping_interval", Duration::from_secs(20));
        for (key, value) in [("connect_timeout", connect_timeout), ("ping_interval", ping_interval)] {
            if value.is_zero() {
                at.refuse(key, "it is nothing", "write a duration such as 5s");
            }
        }
        let waiting = waiting(at);
        urls?;
        // Where a stream is meant and not named, that is a problem of its own.
        let jetstream = match jetstream {
            None => None,
            Some(jetstream) => Some(jetstream?),
        };
        Some(NatsSettings {
            servers,
            common,
            queue_group,
            client_name,
            tls: tls.map(|(tls, _)| tls),
            handshake_first,
            credentials,
            connect_timeout,
            ping_interval,
            waiting,
            jetstream,
        })
    }

    /// The servers, for people.
    pub(crate) fn upstream(&self) -> String {
        let servers: Vec<&str> = self.servers.iter().map(Url::as_str).collect();
        servers.join(", ")
    }
}

/// Reads one address; credentials in it move to `found`, so that no log can show them.
fn server(at: &mut Reader, text: &str, found: &mut Vec<(String, Option<String>)>) -> Option<Url> {
    const REMEDY: &str = "write nats://host:4222 or tls://host:4222";
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let mut url = match Url::parse(&with_scheme) {
        Ok(url) => url,
        Err(error) => {
            // The text itself may hold a password.
            at.refuse("url", format!("an address is no URL: {error}"), REMEDY);
            return None;
        }
    };
    if !matches!(url.scheme(), "nats" | "tls") {
        at.refuse("url", format!("there is no way to speak {}", url.scheme()), REMEDY);
        return None;
    }
    if url.host_str().is_none_or(str::is_empty) {
        at.refuse("url", "an address names no host", REMEDY);
        return None;
    }
    if !url.username().is_empty() {
        found.push((decoded(url.username()), url.password().map(decoded)));
    }
    let stripped = url.set_username("").and_then(|()| url.set_password(None));
    debug_assert!(stripped.is_ok(), "a URL with a host may have its credentials removed");
    Some(url)
}

/// Undoes `%40` and the like.
fn decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn credentials(at: &mut Reader, mut in_urls: Vec<(String, Option<String>)>) -> Option<Credentials> {
    const KEY: &str = "credentials";
    in_urls.dedup();
    if in_urls.len() > 1 {
        at.refuse("url", "the addresses hold different credentials", "write one kind under credentials");
    }
    let written = at.table(KEY, |at| {
        let creds: Option<PathBuf> = at.optional("creds_file");
        let nkey = at.secret("nkey");
        let (username, password) = (at.secret("username"), at.secret("password"));
        let token = at.secret("token");
        let mut ways = Vec::new();
        ways.extend(creds.map(Credentials::Creds));
        ways.extend(nkey.map(Credentials::Nkey));
        ways.extend(token.map(Credentials::Token));
        match (username, password) {
            (Some(username), Some(password)) => ways.push(Credentials::Password { username, password }),
            (Some(_), None) => at.refuse("password", "username is set without it", "write password_file"),
            (None, Some(_)) => at.refuse("username", "password is set without it", "write username"),
            (None, None) => {}
        }
        ways
    });
    let in_urls = in_urls.into_iter().next().map(|(name, password)| match password {
        Some(password) => Credentials::Password {
            username: Secret::Inline(name.into()),
            password: Secret::Inline(password.into()),
        },
        // nats://TOKEN@host, as other NATS clients read it.
        None => Credentials::Token(Secret::Inline(name.into())),
    });
    let mut ways: Vec<Credentials> = written.into_iter().flatten().chain(in_urls).collect();
    if ways.len() > 1 {
        at.refuse(
            KEY,
            "there is more than one way to log in",
            "keep one of creds_file, nkey, username with password, token, and credentials within url",
        );
    }
    ways.pop()
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

    use connectors_sdk::Topics;

    use super::*;

    testkit::settings_reference!(
        "../reference.yaml",
        "bus",
        "nats",
        NatsSettings::from_reader,
        json!({"url": "nats://127.0.0.1:4222"})
    );

    fn bus() -> SourceName {
        SourceName::parse("bus").unwrap()
    }

    fn read(settings: Value) -> Result<NatsSettings, SettingsError> {
        NatsSettings::read(&bus(), settings)
    }

    fn problems(settings: Value) -> Vec<(String, String)> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| (problem.key, problem.what)).collect()
    }

    fn keys(settings: Value) -> Vec<String> {
        problems(settings).into_iter().map(|(key, _)| key).collect()
    }

    /// What a default is does not matter to a comparison as long as it prints; secrets never do.
    fn printed(settings: &NatsSettings) -> String {
        format!("{settings:?}")
    }

    #[test]
    fn an_address_is_enough() {
        let settings = read(json!({"url": "nats://127.0.0.1:4222"})).unwrap();

        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert_eq!(settings.queue_group, "openfaas_nats_worker_group");
        assert_eq!(settings.client_name, "openfaas_connector");
        assert_eq!(settings.common.in_flight, WindowLimits::default());
    }

    #[test]
    fn a_stream_may_be_named_instead() {
        let settings = read(json!({"url": "nats://h", "jetstream": {"stream": "ORDERS"}})).unwrap();
        assert_eq!(settings.jetstream.unwrap().stream, "ORDERS");

        let more =
            json!({"url": "nats://h", "queue_group": "q", "waiting": {"messages": 1}, "jetstream": {}});
        assert_eq!(keys(more), ["jetstream.stream", "queue_group", "waiting"]);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let found = keys(json!({
            "url": ["nats://h", "http://h", "nats://"],
            "topics": ["orders.*", "a..b", "a.>.b"],
            "queue_group": "two words",
            "tls": {"cert_file": "/c.pem"},
            "credentials": {"username": "u", "token": "t"},
            "connect_timeout": 5,
            "waiting": {"bytes": "many"},
            "subjects": [],
        }));

        assert_eq!(
            found,
            [
                "url",
                "url",
                "topics[1]",
                "topics[2]",
                "queue_group",
                "tls.key_file",
                "credentials.password",
                "connect_timeout",
                "waiting.bytes",
                "subjects"
            ]
        );
    }

    #[test]
    fn an_address_is_required_and_may_be_several() {
        assert_eq!(keys(json!({})), ["url"]);
        assert_eq!(read(json!({"url": ["a:1", "tls://b"]})).unwrap().servers.len(), 2);
    }

    #[test]
    fn credentials_in_an_address_are_taken_out_of_it() {
        let settings = read(json!({"url": "nats://joe:p%40ss+x@h:4222"})).unwrap();

        assert_eq!(settings.upstream(), "nats://h:4222");
        let Some(Credentials::Password { password: Secret::Inline(password), .. }) = &settings.credentials
        else {
            panic!("{:?}", settings.credentials)
        };
        assert_eq!(secrecy::ExposeSecret::expose_secret(password), "p@ss+x");
        assert!(!printed(&settings).contains("p@ss"));
        assert!(matches!(
            read(json!({"url": "nats://t0ken@h"})).unwrap().credentials,
            Some(Credentials::Token(_))
        ));
    }

    #[test]
    fn one_way_to_log_in_is_enough() {
        assert_eq!(
            keys(json!({"url": "nats://u:p@h", "credentials": {"creds_file": "/x"}})),
            ["credentials"]
        );
        assert_eq!(keys(json!({"url": ["nats://u:p@h", "nats://v:p@h"]})), ["url", "credentials"][..1]);
    }
}
