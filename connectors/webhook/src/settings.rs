//! The settings of a webhook source. `reference.yaml` holds each of them with its meaning.

use serde_json::Value;

use connectors_sdk::receiver::ReceiverSettings;
use connectors_sdk::{Common, Reader, SettingsError, SourceName};

use crate::Webhook;
use crate::endpoint::Endpoint;

/// An address to write.
const EXAMPLE: &str = "127.0.0.1:8092";

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct WebhookSettings {
    pub(crate) receiver: ReceiverSettings,
    pub(crate) common: Common,
    /// What every path begins with; ends with a slash.
    pub(crate) prefix: String,
    /// By the lengths of their paths, the longest first.
    pub(crate) endpoints: Vec<Endpoint>,
}

impl WebhookSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something required is missing; what else is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let receiver = ReceiverSettings::read(at, EXAMPLE);
        let common = Common::read(at, name, &Webhook, check);
        let prefix = prefix(at);
        let endpoints = at.named("endpoints", |name, at| Endpoint::read(name, &prefix, at));
        if endpoints.is_empty() {
            at.refuse("endpoints", "there is none", "write { github: { kind: github, secret_file: /path } }");
        }
        let endpoints: Option<Vec<Endpoint>> = endpoints.into_iter().map(|(_, endpoint)| endpoint).collect();
        let mut endpoints = endpoints?;
        endpoints.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.path.len()));
        for pair in endpoints.windows(2) {
            if pair[0].path == pair[1].path {
                at.refuse(
                    &format!("endpoints.{}.path", pair[1].name),
                    format!("{} is the path of {}, too", pair[1].path, pair[0].name),
                    "give each endpoint a path of its own",
                );
            }
        }
        Some(WebhookSettings { receiver: receiver?, common, prefix, endpoints })
    }
}

fn prefix(at: &mut Reader) -> String {
    let mut prefix = at.or("prefix", "/".to_owned());
    if !prefix.starts_with('/') {
        at.refuse("prefix", format!("{prefix:?} does not begin with a slash"), "write one such as /hooks/");
        prefix.insert(0, '/');
    }
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

/// Whether a topic can be one of a webhook: nearly everything can.
pub(crate) fn check(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("it is empty".to_owned());
    }
    if topic.contains(|c: char| c.is_control()) {
        return Err(format!("{topic:?} holds a character that neither a path nor an event type has"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use connectors_sdk::Topics;

    use super::*;
    use crate::endpoint::Kind;

    testkit::settings_reference!(
        "../reference.yaml",
        "hooks",
        "webhook",
        WebhookSettings::from_reader,
        json!({"listen": "127.0.0.1:8092", "endpoints": {"github": {"kind": "github", "secret": "s3cret"}}})
    );

    fn read(settings: Value) -> Result<WebhookSettings, SettingsError> {
        WebhookSettings::read(&SourceName::parse("hooks").unwrap(), settings)
    }

    fn with(endpoints: Value) -> Value {
        json!({"listen": "127.0.0.1:8092", "endpoints": endpoints})
    }

    fn problems(settings: Value) -> Vec<(String, String)> {
        read(settings).unwrap_err().problems.into_iter().map(|problem| (problem.key, problem.what)).collect()
    }

    fn keys(settings: Value) -> Vec<String> {
        problems(settings).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn an_address_and_an_endpoint_are_enough() {
        let settings = read(with(json!({"github": {"kind": "github", "secret": "s3cret"}}))).unwrap();

        assert_eq!(settings.common.topics, Topics::FromFunctions);
        assert_eq!((settings.prefix.as_str(), settings.endpoints[0].path.as_str()), ("/", "/github"));
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(keys(json!({})), ["listen", "endpoints"]);
        let endpoints = json!({
            "a": {"kind": "githup", "secret": "s"},
            "b": {"kind": "github"},
            "c": {"kind": "gitlab", "secret": "s", "secret_file": "/s", "tolerance": 5},
            "d": {"kind": "token", "secret": ["s", ""], "username": "u", "header": "x-key"},
            "e": {"kind": "sns", "path": "sns"},
            "f": {"kind": "token", "secret": "s", "topic": "event"},
            "g": {"kind": "github", "secret": "s", "arn": "x", "topic": "{evnt}"},
            "h": {"kind": "standard-webhooks", "secret": "whsec_???"},
        });
        let mut settings = with(endpoints);
        settings["prefix"] = json!("hooks");
        assert_eq!(
            keys(settings),
            [
                "prefix",
                "endpoints.a.kind",
                "endpoints.b.secret",
                "endpoints.c.secret",
                "endpoints.c.tolerance",
                "endpoints.d.secret",
                "endpoints.d.header",
                "endpoints.e.path",
                "endpoints.e.arn",
                "endpoints.f.topic",
                "endpoints.g.topic",
                "endpoints.g.arn",
                "endpoints.h.secret",
            ]
        );
    }

    #[test]
    fn an_open_endpoint_is_opened_by_a_word_of_its_own() {
        let told = problems(with(json!({"a": {"kind": "token"}})));
        assert!(told[0].1.contains("anybody"), "{told:?}");
        let open = read(with(json!({"a": {"kind": "token", "secret": "none"}}))).unwrap();
        assert!(matches!(&open.endpoints[0].kind, Kind::Token(token) if token.credential.secrets.is_open()));
        assert_eq!(
            keys(with(json!({"a": {"kind": "token", "secret": ["s", "none"]}}))),
            ["endpoints.a.secret"]
        );
    }

    #[test]
    fn the_flags_of_openfaas_sns_connector_are_settings_here() {
        let settings = json!({
            "listen": "8080",
            "endpoints": {"sns": {"kind": "sns", "arn": ["arn:a"], "path": "https://h/hook/", "confirm_timeout": "30s"}},
        });
        let settings = read(settings).unwrap();
        assert_eq!((settings.receiver.listen.port(), settings.endpoints[0].path.as_str()), (8080, "/hook"));
    }

    #[test]
    fn two_endpoints_cannot_have_one_path() {
        let endpoints = json!({
            "a": {"kind": "github", "secret": "s", "path": "/x/"},
            "b": {"kind": "github", "secret": "s", "path": "/x"},
        });
        assert_eq!(keys(with(endpoints)), ["endpoints.b.path"]);
    }
}
