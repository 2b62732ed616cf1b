//! The settings of an SQS source. `reference.yaml` holds each of them with its meaning.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use connectors_sdk::{Common, Reader, Secret, Setting, SettingsError, SourceName};

use crate::{Sqs, names};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct SqsSettings {
    /// Where SQS is, when it is not at its own address in the region.
    pub(crate) endpoint: Option<Url>,
    pub(crate) region: Option<String>,
    pub(crate) common: Common,
    pub(crate) body: BodyForm,
    pub(crate) visibility: Seconds,
    pub(crate) wait: Seconds,
    /// The most messages of one answer.
    pub(crate) batch: usize,
    /// The most requests for messages that wait at one queue at a time.
    pub(crate) polls: NonZeroUsize,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

/// What a function gets of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// All of it.
    AsIs,
    /// The bytes it stands for in base64.
    Base64,
    /// The message in the envelope of SNS.
    Sns,
}

impl BodyForm {
    /// Whether a body can be malformed.
    pub(crate) fn is_envelope(self) -> bool {
        self != BodyForm::AsIs
    }
}

impl Setting for BodyForm {
    const EXPECTED: &'static str = "as-is, base64 or sns";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "as-is" => Some(BodyForm::AsIs),
            "base64" => Some(BodyForm::Base64),
            "sns" => Some(BodyForm::Sns),
            _ => None,
        }
    }
}

/// A time as SQS takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seconds(pub(crate) i32);

impl Seconds {
    /// The least whole seconds that last so long.
    pub(crate) fn up(duration: Duration) -> Seconds {
        let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        Seconds(i32::try_from(seconds).unwrap_or(i32::MAX))
    }

    /// The same for clocks.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0.unsigned_abs()))
    }
}

impl Setting for Seconds {
    const EXPECTED: &'static str = "a duration of whole seconds, such as 30s";

    fn read(value: &Value) -> Option<Self> {
        let duration = Duration::read(value)?;
        let whole = duration.subsec_nanos() == 0;
        i32::try_from(duration.as_secs()).ok().filter(|_| whole).map(Seconds)
    }
}

/// Who we say we are, where it is not left to AWS' own chain.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// A key of our own.
    Key { id: Secret, secret: Secret, token: Option<Secret> },
    /// A profile of the shared files.
    Profile(String),
}

impl SqsSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// What is wrong is noted in the reader; nothing is required.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let endpoint: Option<String> = at.optional("endpoint");
        let endpoint = endpoint.and_then(|text| endpoint_in(at, &text));
        let region: Option<String> = at.optional("region");
        if region.as_deref().is_some_and(|region| !region.bytes().all(is_of_region) || region.is_empty()) {
            at.refuse("region", "it is no region", "write one such as eu-west-1");
        }
        let common = Common::read(at, name, &Sqs, names::check);
        let body = at.or("body", BodyForm::AsIs);
        let visibility = at.or("visibility_timeout", Seconds(30));
        if !(Seconds(1)..=Seconds(43_200)).contains(&visibility) {
            at.refuse("visibility_timeout", "SQS cannot do that", "write a time from 1s to 12h");
        }
        let wait = at.or("wait_time", Seconds(20));
        if !(Seconds(1)..=Seconds(20)).contains(&wait) {
            at.refuse("wait_time", "SQS cannot do that", "write a time from 1s to 20s");
        }
        let batch = at.or("batch", const { NonZeroUsize::new(10).expect("10 is not zero") });
        if batch.get() > 10 {
            at.refuse("batch", "SQS gives no more than 10 messages at once", "write a number from 1 to 10");
        }
        let polls = at.or("polls", const { NonZeroUsize::new(4).expect("4 is not zero") });
        let profile: Option<String> = at.optional("profile");
        let key = at.table("credentials", key).flatten();
        let connect_timeout = at.or("connect_timeout", Duration::from_secs(5));
        let request_timeout = at.or("request_timeout", Duration::from_secs(10));
        for (key, value) in [("connect_timeout", connect_timeout), ("request_timeout", request_timeout)] {
            if value.is_zero() {
                at.refuse(key, "it is nothing", "write a duration such as 5s");
            }
        }
        if key.is_some() && profile.is_some() {
            at.refuse("profile", "there are credentials as well", "keep one of the two");
        }
        Some(SqsSettings {
            endpoint,
            region,
            common,
            body,
            visibility,
            wait,
            batch: batch.get(),
            polls,
            credentials: key.or(profile.map(Credentials::Profile)),
            connect_timeout,
            request_timeout,
        })
    }

    /// Where SQS is, for people.
    pub(crate) fn upstream(&self) -> String {
        match (&self.endpoint, &self.region) {
            (Some(endpoint), _) => endpoint.as_str().trim_end_matches('/').to_owned(),
            (None, Some(region)) => format!("SQS in {region}"),
            (None, None) => "SQS".to_owned(),
        }
    }
}

fn is_of_region(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn endpoint_in(at: &mut Reader, text: &str) -> Option<Url> {
    const REMEDY: &str = "write https://host or http://host:9324; credentials have settings of their own";
    match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
            at.refuse("endpoint", format!("there is no way to speak {}", url.scheme()), REMEDY);
            None
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            at.refuse("endpoint", "it holds credentials", REMEDY);
            None
        }
        Ok(url) => Some(url),
        Err(error) => {
            // The text itself may hold a secret.
            at.refuse("endpoint", format!("it is no URL: {error}"), REMEDY);
            None
        }
    }
}

fn key(at: &mut Reader) -> Option<Credentials> {
    let (id, secret) = (at.secret("access_key_id"), at.secret("secret_access_key"));
    let token = at.secret("session_token");
    match (id, secret) {
        (Some(id), Some(secret)) => Some(Credentials::Key { id, secret, token }),
        (Some(_), None) => {
            at.refuse("secret_access_key", "access_key_id is set without it", "write secret_access_key_file");
            None
        }
        (None, Some(_)) => {
            at.refuse("access_key_id", "secret_access_key is set without it", "write access_key_id");
            None
        }
        (None, None) => {
            if token.is_some() {
                at.refuse("session_token", "there is no key it belongs to", "write access_key_id as well");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use connectors_sdk::Topics;

    use super::*;

    testkit::settings_reference!("../reference.yaml", "jobs", "sqs", SqsSettings::from_reader, json!({}));

    fn read(settings: Value) -> Result<SqsSettings, SettingsError> {
        SqsSettings::read(&SourceName::parse("jobs").unwrap(), settings)
    }

    fn problems(settings: Value) -> Vec<String> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn the_minimal_entry_is_enough() {
        let settings = read(json!({"endpoint": "http://127.0.0.1:9324", "region": "us-east-1"})).unwrap();

        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert_eq!(settings.upstream(), "http://127.0.0.1:9324");
        assert_eq!((settings.visibility, settings.wait, settings.batch), (Seconds(30), Seconds(20), 10));
        assert!(settings.credentials.is_none());
        assert_eq!(read(json!({})).unwrap().upstream(), "SQS", "the chain says the rest");
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(
            problems(json!({
                "endpoint": "amqp://host",
                "region": "Frankfurt am Main",
                "topics": ["orders", "orders.created"],
                "body": "xml",
                "visibility_timeout": "13h",
                "wait_time": "1500ms",
                "batch": 11,
                "profile": "work",
                "credentials": {"access_key_id": "AKIA"},
                "connect_timeout": "0s",
            })),
            [
                "endpoint",
                "region",
                "topics[1]",
                "body",
                "visibility_timeout",
                "wait_time",
                "batch",
                "credentials.secret_access_key",
                "connect_timeout",
            ]
        );
        let key = json!({"access_key_id": "AKIA", "secret_access_key": "s"});
        assert_eq!(problems(json!({"profile": "work", "credentials": key})), ["profile"]);
    }

    #[test]
    fn no_secret_is_printed() {
        let error = read(json!({"endpoint": "https://user:hunter2@host"})).unwrap_err().to_string();
        assert!(error.contains("it holds credentials") && !error.contains("hunter2"), "{error}");

        let settings = read(json!({
            "credentials": {"access_key_id": "AKIA7", "secret_access_key": "hunter2", "session_token": "hunter3"},
        }))
        .unwrap();
        let printed = format!("{settings:?}");
        assert!(!printed.contains("hunter") && !printed.contains("AKIA7"), "{printed}");
    }

    #[test]
    fn waits_are_whole_seconds_within_what_sqs_takes() {
        assert_eq!(problems(json!({"wait_time": "21s"})), ["wait_time"]);
        assert_eq!(
            problems(json!({"wait_time": "0s"})),
            ["wait_time"],
            "asking without a wait would run hot"
        );
        assert_eq!(problems(json!({"visibility_timeout": "0s"})), ["visibility_timeout"]);
        assert_eq!(read(json!({"visibility_timeout": "12h"})).unwrap().visibility.0, 43_200);
    }
}
