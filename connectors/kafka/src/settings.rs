//! The settings of a Kafka source. `reference.yaml` holds each of them with its meaning.

use std::time::Duration;

use serde_json::Value;

use connectors_sdk::{ByteSize, Common, Reader, Secret, Setting, SettingsError, SourceName, Timestamp, Tls};

use crate::{Kafka, topics};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct KafkaSettings {
    /// `host:port` each.
    pub(crate) brokers: Vec<String>,
    pub(crate) common: Common,
    pub(crate) group: String,
    pub(crate) client_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) start: Start,
    pub(crate) tls: Option<Tls>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) connect_timeout: Duration,
    pub(crate) commit_interval: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) topic_refresh: Duration,
    /// How much of one partition a broker may send at once.
    pub(crate) max_bytes: ByteSize,
    /// How much the client may hold that was not handed over yet.
    pub(crate) buffer: ByteSize,
}

/// Where to begin with a partition of which the group knows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Earliest,
    Latest,
    At(Timestamp),
}

/// Who we say we are, with SASL.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    /// In the protocol's spelling.
    pub(crate) mechanism: &'static str,
    pub(crate) username: Secret,
    pub(crate) password: Secret,
}

const MECHANISMS: [(&str, &str); 3] =
    [("plain", "PLAIN"), ("scram-sha-256", "SCRAM-SHA-256"), ("scram-sha-512", "SCRAM-SHA-512")];

impl KafkaSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let brokers: Option<Vec<String>> = at.required("brokers", "[\"127.0.0.1:9092\"]");
        let brokers: Vec<String> =
            brokers.iter().flatten().filter_map(|broker| address(at, broker)).collect();
        let common = Common::read(at, name, &Kafka, topics::check);
        let group = text(at, "group", "evoke");
        let client_id = text(at, "client_id", "evoke");
        let instance_id: Option<String> = at.optional("instance_id");
        let start = start(at);
        let tls = at.table("tls", Tls::read);
        let credentials = at.table("credentials", credentials).flatten();
        if cfg!(not(feature = "tls")) {
            let scram = credentials.as_ref().is_some_and(|credentials| credentials.mechanism != "PLAIN");
            for (key, asked) in [("tls", tls.is_some()), ("credentials.mechanism", scram)] {
                if asked {
                    at.refuse(
                        key,
                        "this build has no TLS and no SCRAM for Kafka",
                        "take one that was built with the feature kafka-tls",
                    );
                }
            }
        }
        let connect_timeout = time(at, "connect_timeout", Duration::from_secs(10));
        let commit_interval = time(at, "commit_interval", Duration::from_secs(1));
        let session_timeout = time(at, "session_timeout", Duration::from_secs(45));
        let topic_refresh = time(at, "topic_refresh", Duration::from_secs(10));
        let max_bytes = size(at, "max_bytes", Bytes(ByteSize::from_mebibytes(1)), 1_000_000_000);
        let buffer = size(at, "buffer", Bytes(ByteSize::from_mebibytes(16)), 1 << 30);
        (!brokers.is_empty()).then_some(KafkaSettings {
            brokers,
            common,
            group,
            client_id,
            instance_id,
            start,
            tls,
            credentials,
            connect_timeout,
            commit_interval,
            session_timeout,
            topic_refresh,
            max_bytes,
            buffer,
        })
    }

    /// The brokers, for people.
    pub(crate) fn upstream(&self) -> String {
        format!("kafka {}", self.brokers.join(", "))
    }
}

/// One `host:port`, or a host alone.
fn address(at: &mut Reader, text: &str) -> Option<String> {
    const REMEDY: &str = "write host:port, such as kafka-1:9092; TLS and credentials have keys of their own";
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address alone has colons, too.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => (text, "9092"),
    };
    let good = !host.is_empty()
        && port.parse::<u16>().is_ok_and(|port| port > 0)
        && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-:[]".contains(c));
    if good {
        Some(format!("{host}:{port}"))
    } else {
        // The text itself may hold a password.
        at.refuse("brokers", "an address is no host with a port", REMEDY);
        None
    }
}

fn text(at: &mut Reader, key: &str, default: &str) -> String {
    let text = at.or(key, default.to_owned());
    if text.is_empty() || text.contains(char::is_control) {
        at.refuse(key, format!("{text:?} is no name"), "write a name");
    }
    text
}

fn time(at: &mut Reader, key: &str, default: Duration) -> Duration {
    // The client counts in milliseconds, within an hour.
    const RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
    let time = at.or(key, default);
    if !RANGE.contains(&time) {
        at.refuse(key, "it is not between 10ms and 1h", "write a duration such as 5s");
    }
    time
}

/// A size. A bare number is one of bytes, as OpenFaaS' connector wrote it.
struct Bytes(ByteSize);

impl Setting for Bytes {
    const EXPECTED: &'static str = ByteSize::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        let bare = value.as_u64().map(ByteSize::from_bytes);
        bare.or_else(|| ByteSize::read(value)).map(Bytes)
    }
}

fn size(at: &mut Reader, key: &str, default: Bytes, most: u64) -> ByteSize {
    let Bytes(size) = at.or(key, default);
    if !(1024..=most).contains(&size.bytes()) {
        at.refuse(key, format!("it is not between 1024 and {most} bytes"), "write a size such as 1MiB");
    }
    size
}

fn start(at: &mut Reader) -> Start {
    let text = at.or("start", "earliest".to_owned());
    match text.as_str() {
        "earliest" => Start::Earliest,
        "latest" => Start::Latest,
        moment => {
            match moment.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond).map(u64::try_from) {
                Ok(Ok(millis)) => Start::At(Timestamp::from_millis(millis)),
                _ => {
                    at.refuse(
                        "start",
                        format!("{moment:?} is no starting point"),
                        "write earliest, latest, or a moment such as 2026-11-22T08:00:00Z",
                    );
                    Start::Earliest
                }
            }
        }
    }
}

fn credentials(at: &mut Reader) -> Option<Credentials> {
    let mechanism = at.or("mechanism", "plain".to_owned());
    let known = MECHANISMS.iter().find(|(name, _)| mechanism.eq_ignore_ascii_case(name));
    if known.is_none() {
        at.refuse(
            "mechanism",
            format!("{mechanism:?} is no mechanism"),
            "write plain, scram-sha-256 or scram-sha-512",
        );
    }
    let (username, password) = (at.secret("username"), at.secret("password"));
    match (username, password) {
        (Some(username), Some(password)) => Some(Credentials { mechanism: known?.1, username, password }),
        (Some(_), None) => {
            at.refuse("password", "username is set without it", "write password_file");
            None
        }
        (None, _) => {
            at.refuse("username", "it is missing", "write username, or username_file");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use connectors_sdk::Topics;

    use super::*;

    testkit::settings_reference!(
        "../reference.yaml",
        "events",
        "kafka",
        KafkaSettings::from_reader,
        json!({"brokers": ["127.0.0.1:9092"]})
    );

    fn read(settings: Value) -> Result<KafkaSettings, Vec<String>> {
        KafkaSettings::read(&SourceName::parse("events").unwrap(), settings)
            .map_err(|error| error.problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn an_address_is_all_it_needs() {
        let settings = read(json!({"brokers": ["127.0.0.1:9092", "kafka-2"]})).unwrap();

        assert_eq!(settings.brokers, ["127.0.0.1:9092", "kafka-2:9092"]);
        assert_eq!((settings.group.as_str(), settings.start), ("evoke", Start::Earliest));
        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert!(settings.tls.is_none() && settings.credentials.is_none());
        assert_eq!(read(json!({"brokers": "one:9093"})).unwrap().brokers, ["one:9093"]);
        assert_eq!(read(json!({"brokers": "[::1]:9093"})).unwrap().brokers, ["[::1]:9093"]);
    }

    #[test]
    fn every_problem_is_said_at_once() {
        let problems = read(json!({
            "brokers": ["user:s3cret@host:9092", "host:0"],
            "group": "",
            "topics": ["two words"],
            "start": "yesterday",
            "commit_interval": "0s",
            "max_bytes": "1B",
            "credentials": {"mechanism": "md5", "username": "a"},
            "acks": 1,
        }))
        .unwrap_err();

        assert_eq!(
            problems,
            [
                "brokers",
                "brokers",
                "topics[0]",
                "group",
                "start",
                "credentials.mechanism",
                "credentials.password",
                "commit_interval",
                "max_bytes",
                "acks"
            ]
        );
        assert_eq!(read(json!({})).unwrap_err(), ["brokers"]);
    }

    #[test]
    fn a_start_may_be_a_moment() {
        let settings = read(json!({"brokers": "a", "start": "2026-11-22T08:00:00Z"})).unwrap();

        assert_eq!(settings.start, Start::At(Timestamp::from_millis(1_795_334_400_000)));
    }

    #[test]
    fn a_size_may_be_a_bare_number_of_bytes() {
        assert_eq!(read(json!({"brokers": "a", "max_bytes": 1_048_576})).unwrap().max_bytes.bytes(), 1 << 20);
        assert_eq!(read(json!({"brokers": "a", "max_bytes": "2MiB"})).unwrap().max_bytes.bytes(), 2 << 20);
    }

    #[test]
    fn what_openfaas_connector_understands_is_a_source() {
        let inherits = connectors_sdk::Connector::inherits(&Kafka);
        let mut at = Reader::new(json!({}));
        let _ = KafkaSettings::from_reader(&SourceName::parse("events").unwrap(), &mut at);
        let known: Vec<&str> = at.known().collect();
        assert!(inherits.variables.iter().all(|variable| known.contains(&variable.key)));
        assert!(inherits.defaults.iter().all(|(key, _)| known.contains(key)));
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn a_build_without_tls_says_so_for_what_needs_it_and_for_nothing_else() {
        let with = |more: Value| {
            let mut settings = json!({"brokers": "a"});
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(settings).map(drop)
        };
        let of = |mechanism: &str| {
            with(json!({"credentials": {"mechanism": mechanism, "username": "joe", "password": "p"}}))
        };

        assert_eq!(with(json!({"tls": {}})), Err(vec!["tls".to_owned()]));
        assert_eq!(of("scram-sha-256"), Err(vec!["credentials.mechanism".to_owned()]));
        assert_eq!((with(json!({})), of("plain")), (Ok(()), Ok(())));
    }

    #[test]
    fn a_password_is_never_printed() {
        let settings =
            read(json!({"brokers": "a", "credentials": {"username": "joe", "password": "hunter2"}})).unwrap();

        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.credentials.unwrap().mechanism, "PLAIN");
    }
}
