//! The settings of a MinIO source. `reference.yaml` holds each of them with its meaning.

use std::time::Duration;

use connectors_sdk::receiver::ReceiverSettings;
use connectors_sdk::{Common, Reader, Secret, SettingsError, SourceName, Tls};
use serde_json::Value;
use url::Url;

use crate::{Minio, names};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct MinioSettings {
    pub(crate) common: Common,
    pub(crate) way: Way,
}

/// How notifications come.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The store sends them to us.
    Webhook(WebhookSettings),
    /// We ask for its stream.
    Listen(Endpoint),
}

/// Where the store sends to.
#[derive(Clone, Debug)]
pub(crate) struct WebhookSettings {
    pub(crate) receiver: ReceiverSettings,
    pub(crate) token: Secret,
    /// Where to look for what was not sent.
    pub(crate) repair: Option<Endpoint>,
}

/// The store's own API.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) access_key: Secret,
    pub(crate) secret_key: Secret,
    pub(crate) region: String,
    /// The one bucket asked for; all of them otherwise.
    pub(crate) bucket: Option<String>,
    /// What the stream is asked for.
    pub(crate) events: Vec<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) connect_timeout: Duration,
    /// How often the stream says that it is alive.
    pub(crate) ping: Duration,
    pub(crate) repair: Repairs,
}

/// The settings below `repair`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repairs {
    pub(crate) enabled: bool,
    pub(crate) every: Duration,
    pub(crate) settle: Duration,
}

impl Default for Repairs {
    fn default() -> Self {
        Repairs { enabled: true, every: Duration::from_secs(600), settle: Duration::from_secs(60) }
    }
}

impl MinioSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let listens = at.is_set("endpoint") && !at.is_set("listen");
        let common = Common::read(at, name, &Minio, names::check);
        let endpoint = Endpoint::read(at);
        // Its keys are unknown where nobody sends to us.
        let way = if listens {
            Way::Listen(endpoint??)
        } else {
            let receiver = ReceiverSettings::read(at, "127.0.0.1:8091");
            let token = at.secret("token");
            if token.is_none() {
                at.refuse(
                    "token",
                    "it is missing",
                    "write token_file: the webhook's auth_token at the store",
                );
            }
            // Where an endpoint is named with something missing, that is a problem of its own.
            let repair = match endpoint {
                None => None,
                Some(endpoint) => Some(endpoint?),
            };
            Way::Webhook(WebhookSettings { receiver: receiver?, token: token?, repair })
        };
        Some(MinioSettings { common, way })
    }
}

impl Endpoint {
    /// `None` where none is named, `Some(None)` where something of it is wrong.
    fn read(at: &mut Reader) -> Option<Option<Self>> {
        let default = Repairs::default();
        let named = at.is_set("endpoint");
        let text: Option<String> = at.optional("endpoint");
        let (access_key, secret_key) = (at.secret("access_key"), at.secret("secret_key"));
        let region = at.or("region", "us-east-1".to_owned());
        let bucket: Option<String> = at.optional("bucket");
        let events = at.or("events", vec!["s3:ObjectCreated:*".to_owned(), "s3:ObjectRemoved:*".to_owned()]);
        let tls = at.table("endpoint_tls", Tls::read);
        let connect_timeout = at.or("connect_timeout", Duration::from_secs(5));
        let ping = at.or("ping", Duration::from_secs(10));
        let repair = at
            .table("repair", |at| Repairs {
                enabled: at.or("enabled", default.enabled),
                every: at.or("every", default.every),
                settle: at.or("settle", default.settle),
            })
            .unwrap_or(default);
        if ping < Duration::from_secs(1) || ping.subsec_nanos() > 0 {
            at.refuse("ping", "it is no whole number of seconds", "write a duration such as 10s");
        }
        for (key, value) in [("connect_timeout", connect_timeout), ("repair.every", repair.every)] {
            if value.is_zero() {
                at.refuse(key, "it is nothing", "write a duration such as 5s");
            }
        }
        if let Some(wrong) =
            bucket.as_ref().filter(|bucket| bucket.contains('*') || names::check(bucket).is_err())
        {
            at.refuse("bucket", format!("{wrong:?} is no bucket"), "write the name of one bucket");
        }
        if events.is_empty() || !events.iter().all(|event| event.starts_with("s3:")) {
            at.refuse("events", "it holds what is no event of S3", "write events such as s3:ObjectCreated:*");
        }
        if !named {
            return None;
        }
        for (key, secret) in [("access_key", &access_key), ("secret_key", &secret_key)] {
            if secret.is_none() {
                at.refuse(key, "endpoint is set without it", format!("write {key}_file"));
            }
        }
        let url = text.and_then(|text| address(at, &text));
        Some((|| {
            Some(Endpoint {
                url: url?,
                access_key: access_key?,
                secret_key: secret_key?,
                region,
                bucket,
                events,
                tls,
                connect_timeout,
                ping,
                repair,
            })
        })())
    }
}

fn address(at: &mut Reader, text: &str) -> Option<Url> {
    const REMEDY: &str = "write http://host:9000 or https://host";
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        // The text itself may hold a password.
        at.refuse("endpoint", "it is no URL of a store", REMEDY);
        return None;
    };
    if !url.username().is_empty() || url.path() != "/" || url.query().is_some() {
        at.refuse("endpoint", "it holds more than an address", REMEDY);
        return None;
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    testkit::settings_reference!(
        "../reference.yaml",
        "files",
        "minio",
        MinioSettings::from_reader,
        json!({"listen": "127.0.0.1:8091", "token": "s3cret"})
    );

    fn read(settings: Value) -> Result<MinioSettings, SettingsError> {
        MinioSettings::read(&SourceName::parse("files").unwrap(), settings)
    }

    fn keys(settings: Value) -> Vec<String> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn the_two_minimal_entries_are_enough() {
        let webhook = read(json!({"listen": "127.0.0.1:8091", "token": "s3cret"})).unwrap();
        assert!(matches!(webhook.way, Way::Webhook(WebhookSettings { repair: None, .. })));

        let stream = json!({"endpoint": "http://h:9000", "access_key": "a", "secret_key": "s"});
        assert!(matches!(read(stream).unwrap().way, Way::Listen(_)));
    }

    #[test]
    fn a_webhook_may_repair() {
        let both = json!({
            "listen": "127.0.0.1:8091", "token": "s3cret", "endpoint": "http://h", "access_key": "a", "secret_key": "s",
        });
        assert!(matches!(read(both).unwrap().way, Way::Webhook(WebhookSettings { repair: Some(_), .. })));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(keys(json!({})), ["listen", "token"]);
        assert_eq!(keys(json!({"endpoint": "http://h"})), ["access_key", "secret_key"]);
        let much = json!({
            "endpoint": "ftp://h", "access_key": "a", "secret_key": "s", "token": "t",
            "topics": ["photos", "photos:Put"], "ping": "100ms", "events": ["Put"], "bucket": "a*",
        });
        assert_eq!(keys(much), ["topics[1]", "ping", "bucket", "events", "endpoint", "token"]);
    }

    #[test]
    fn an_address_is_nothing_but_one() {
        for wrong in ["h:9000", "http://u:p@h", "http://h/path", "http://h?x"] {
            let found = keys(json!({"endpoint": wrong, "access_key": "a", "secret_key": "s"}));
            assert_eq!(found, ["endpoint"], "{wrong}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let settings = read(json!({"listen": "127.0.0.1:1", "token": "hunter2"})).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
