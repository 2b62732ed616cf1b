//! What files say arrives as typed values.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use broker_config::*;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::{Given, yaml};

const MINIMAL: &str = include_str!("../fixtures/minimal.yaml");
const FULL: &str = include_str!("../fixtures/full.toml");

fn secret(source: &SecretSource) -> &str {
    match source {
        SecretSource::Inline(secret) => secret.expose_secret(),
        SecretSource::File(path) => panic!("a file: {}", path.display()),
    }
}

fn file(source: &SecretSource) -> &Path {
    match source {
        SecretSource::File(path) => path,
        SecretSource::Inline(_) => panic!("an inline secret"),
    }
}

#[test]
fn the_minimal_file_works_as_written_and_says_what_is_built_in() {
    let minimal = yaml(MINIMAL).loaded();
    let built_in = Given::default().loaded();

    let sources: Vec<(&str, &str)> =
        minimal.config.sources.iter().map(|(name, source)| (name.as_str(), source.kind.as_str())).collect();
    assert_eq!(sources, [("clock", "cron"), ("orders", "nats")]);
    let settings: Vec<&serde_json::Value> =
        minimal.config.sources.values().map(|source| &source.settings).collect();
    assert_eq!(
        settings,
        [&json!({"time_zone": "UTC"}), &json!({"url": "nats://127.0.0.1:4222", "topics": "from-functions"})]
    );
    let changed: Vec<String> = built_in
        .changes_to(&minimal)
        .into_iter()
        .map(|change| change.key)
        .filter(|k| !k.starts_with("sources."))
        .collect();
    assert_eq!(changed, Vec::<String>::new());
}

#[test]
fn every_built_in_default_is_the_one_of_the_interfaces() {
    let config = Config::default();

    assert_eq!(config.listen.http.to_string(), "127.0.0.1:8090");
    assert_eq!(config.listen.metrics.to_string(), "127.0.0.1:8081");
    assert_eq!(config.gateway.url.to_string(), "http://127.0.0.1:8080");
    assert_eq!(config.gateway.poll_interval, Duration::from_secs(10));
    assert_eq!(config.gateway.default_namespace, "openfaas-fn");
    assert!(config.gateway.ca_file.is_none() && config.gateway.proxy.is_none());
    assert!(config.gateway.credentials.is_none());
    let embedded = &config.store.embedded;
    assert_eq!(embedded.path, Path::new("./evoke-data"));
    assert_eq!(embedded.lock_wait, Duration::from_secs(60));
    assert_eq!(embedded.min_free.bytes(), 1 << 30);
    assert_eq!(embedded.max_bytes, None);
    assert_eq!(embedded.retention.completed.age, Duration::from_secs(3_600));
    assert_eq!(embedded.retention.completed.count, 100_000);
    assert_eq!(embedded.retention.completed.bytes.bytes(), 1 << 30);
    assert_eq!(embedded.retention.dead_letters.age, None);
    let delivery = &config.delivery;
    assert_eq!(delivery.retry.attempts, 100);
    let codes: Vec<u16> = delivery.retry.codes.iter().map(|code| code.as_u16()).collect();
    assert_eq!(codes, [408, 429, 500, 502, 503, 504]);
    assert_eq!(delivery.retry.min_wait, Duration::from_secs(10));
    assert_eq!(delivery.retry.max_wait, Duration::from_secs(120));
    assert_eq!(delivery.retry.backoff, Backoff::Exponential);
    assert_eq!((delivery.timeout, delivery.max_age), (None, None));
    assert_eq!(delivery.max_concurrency.get(), 256);
    assert_eq!(delivery.concurrency, Concurrency::Adaptive);
    assert_eq!(delivery.max_interruptions, 5);
    assert_eq!(delivery.on_dead_letter, None);
    assert!(config.sources.is_empty());
    assert_eq!(config.unmatched, Unmatched::Ack);
    assert!(config.api.credentials.is_none() && config.api.token.is_none());
    assert_eq!(config.front.cancel, CancelAccess::Open);
    assert_eq!(config.front.body_over_limit, BodyOverLimit::ContentTooLarge);
    assert!(config.callbacks.allow.is_empty() && config.callbacks.deny.is_empty());
    assert_eq!(config.callbacks.timeout, Duration::from_secs(30));
    assert_eq!((config.callbacks.concurrency.get(), config.callbacks.max_concurrency.get()), (16, 128));
    assert!(config.callbacks.ca_file.is_none() && config.callbacks.sign.is_none());
    assert_eq!(config.dedup.window, Duration::from_secs(3_600));
    assert_eq!(config.dedup.keys, 1_000_000);
    assert_eq!(config.limits.body.bytes(), 64 << 20);
    assert_eq!(config.limits.headers.bytes(), 1 << 20);
    assert_eq!(config.limits.response.bytes(), 10 << 20);
    assert_eq!(config.limits.in_flight.bytes(), 64 << 20);
    assert_eq!(config.limits.waiting, 10_000_000);
    assert_eq!(config.limits.metric_functions, 1_000);
    assert_eq!(config.shutdown.grace, Duration::from_secs(25));
    assert_eq!(config.log.format, LogFormat::Console);
    assert_eq!(config.log.level, Level::Info);
    assert!(config.log.calls);
}

#[test]
fn a_file_can_set_every_key() {
    let full = Given { file: Some(("full.toml", FULL)), ..Given::default() }.loaded();
    let config = &full.config;

    let eight = NonZeroU32::new(8).expect("not zero");
    assert_eq!(config.listen.metrics.to_string(), "[::1]:9091");
    assert_eq!(config.gateway.url.as_url().path(), "/openfaas");
    assert_eq!(config.gateway.poll_interval, Duration::from_millis(500));
    assert_eq!(config.gateway.proxy.as_ref().and_then(|proxy| proxy.as_url().password()), Some("hunter2"));
    let gateway = config.gateway.credentials.as_ref().expect("credentials");
    assert_eq!((secret(&gateway.username), file(&gateway.password)), ("admin", Path::new("/run/password")));
    assert_eq!(config.store.embedded.max_bytes, Some(ByteSize::from_bytes(20 << 30)));
    assert_eq!(config.store.embedded.retention.completed.count, 5_000);
    assert_eq!(config.store.embedded.retention.dead_letters.age, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(config.delivery.timeout, Some(Duration::from_secs(300)));
    assert_eq!(config.delivery.concurrency, Concurrency::Fixed(eight));
    assert_eq!(config.delivery.on_dead_letter, Some(DeadLetterTarget::Function("alarm.ops".into())));
    assert_eq!(config.delivery.max_interruptions, 0);
    assert_eq!((config.callbacks.concurrency, config.callbacks.max_concurrency.get()), (eight, 64));
    assert_eq!(config.store.embedded.lock_wait, Duration::from_secs(5));
    assert_eq!(config.limits.metric_functions, 20);
    assert_eq!(config.delivery.retry.attempts, 0);
    assert_eq!(config.delivery.retry.min_wait, Duration::ZERO);
    assert_eq!(config.delivery.retry.max_wait, Duration::from_secs(90));
    assert_eq!(config.delivery.retry.backoff, Backoff::Full);
    let api = config.api.credentials.as_ref().expect("credentials");
    assert_eq!((file(&api.username), secret(&api.password)), (Path::new("/run/user"), "hunter2"));
    assert_eq!(config.api.token.as_ref().map(secret), Some("hunter2"));
    assert_eq!(config.front.cancel, CancelAccess::Off);
    assert_eq!(config.front.body_over_limit, BodyOverLimit::InternalServerError);
    assert_eq!(config.callbacks.allow.len(), 2);
    let signing = config.callbacks.sign.as_ref().expect("signing");
    assert_eq!(
        Signing::key(secret(&signing.secret)).as_deref(),
        Some(b"012345678901234567890123".as_slice())
    );
    assert_eq!(config.unmatched, Unmatched::Hold);
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(!config.log.calls);

    // Only what has an alternative beside it can be left at its default.
    let left: Vec<&str> = full
        .leaves
        .iter()
        .filter(|leaf| leaf.origin == Origin::BuiltIn)
        .map(|leaf| leaf.key.as_str())
        .collect();
    assert_eq!(
        left,
        [
            "gateway.credentials.username_file",
            "gateway.credentials.password",
            "delivery.on_dead_letter.url",
            "api.credentials.username",
            "api.credentials.password_file",
            "api.token_file",
            "callbacks.sign.secret_file",
        ]
    );
}

#[test]
fn no_secret_is_printed_anywhere() {
    let full = Given { file: Some(("full.toml", FULL)), ..Given::default() }.loaded();

    let printed = format!("{}\n{full:?}", full.show());

    assert!(printed.contains("[redacted]"));
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(!printed.contains("MDEyMzQ1"), "{printed}");
}

#[test]
fn an_empty_file_and_no_file_are_the_same() {
    let changes = Given::default().loaded().changes_to(&yaml("# nothing\n").loaded());

    assert_eq!(changes, []);
}

#[test]
fn a_source_without_settings_is_a_source() {
    for text in ["sources: { clock: { cron: {} } }", "sources:\n  clock:\n    cron:\n"] {
        let loaded = yaml(text).loaded();

        let source = loaded.config.sources.values().next().expect("a source");
        assert_eq!((source.kind.as_str(), &source.settings), ("cron", &json!({})), "{text}");
        assert_eq!(crate::shown(&loaded, "sources.clock.cron").0, "{}");
    }
}

#[test]
fn an_optional_section_can_be_taken_away() {
    let given = Given {
        file: Some(("evoke.yaml", "delivery: { on_dead_letter: { function: alarm } }")),
        environment: &[("EVOKE_DELIVERY__ON_DEAD_LETTER", "none")],
        flags: &[],
    };

    assert_eq!(given.loaded().config.delivery.on_dead_letter, None);
}

mod whatever_is_written {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_answered_with_values_or_problems(text in "[a-z:{}\\[\\]\"' \n\t#&*!|>=.0-9-]{0,80}", toml: bool) {
            let name = if toml { "evoke.toml" } else { "evoke.yaml" };

            match (Given { file: Some((name, &text)), ..Given::default() }).load() {
                Ok(loaded) => prop_assert!(!loaded.leaves.is_empty()),
                Err(invalid) => prop_assert!(!invalid.problems().is_empty()),
            }
        }

        #[test]
        fn in_a_variable_is_either_the_value_or_a_problem_of_that_key(value in "[a-z0-9.:/\\[\\],_-]{1,20}", index: prop::sample::Index) {
            let built_in = Given::default().loaded();
            let key = &index.get(&built_in.leaves).key;
            let variable = format!("EVOKE_{}", key.to_uppercase().replace('.', "__"));

            match (Given { environment: &[(&variable, &value)], ..Given::default() }).load() {
                Ok(loaded) => prop_assert_eq!(crate::shown(&loaded, key).1, format!("environment variable {variable}")),
                // A rule between keys may name the key beside it, or the section that misses the other half.
                Err(invalid) => prop_assert!(
                    invalid.problems().iter().any(|problem| problem.key.split('.').next() == key.split('.').next()),
                    "{}", invalid
                ),
            }
        }
    }
}
