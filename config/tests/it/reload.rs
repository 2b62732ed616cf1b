//! What SIGHUP changes.

use broker_config::Change;

use crate::yaml;

fn changes(from: &str, to: &str) -> Vec<Change> {
    yaml(from).loaded().changes_to(&yaml(to).loaded())
}

fn change(key: &str, from: Option<&str>, to: Option<&str>, needs_restart: bool) -> Change {
    Change { key: key.into(), from: from.map(Into::into), to: to.map(Into::into), needs_restart }
}

#[test]
fn only_what_differs_in_value_is_a_change() {
    assert_eq!(
        changes("delivery: { retry: { max_wait: 120s } }", "delivery: { retry: { max_wait: 2m } }"),
        []
    );
    assert_eq!(
        changes("log: { level: info }", "log: { level: debug }\ndelivery: { timeout: 30s }"),
        [
            change("delivery.timeout", Some("none"), Some("30s"), false),
            change("log.level", Some("info"), Some("debug"), false),
        ]
    );
}

#[test]
fn addresses_and_the_store_need_a_restart() {
    assert_eq!(
        changes("", "listen: { http: 127.0.0.1:1 }\nstore: { embedded: { min_free: 2GiB } }"),
        [
            change("listen.http", Some("127.0.0.1:8090"), Some("127.0.0.1:1"), true),
            change("store.embedded.min_free", Some("1GiB"), Some("2GiB"), true),
        ]
    );
}

#[test]
fn what_is_sized_once_needs_a_restart() {
    let to = "dedup: { keys: 5 }\nlimits: { in_flight: 8MiB, waiting: 7, metric_functions: 3, body: 1MiB }\n\
              log: { format: json, level: warn }";
    let at_start: Vec<(String, bool)> =
        changes("", to).into_iter().map(|change| (change.key, change.needs_restart)).collect();

    let expected = [
        ("dedup.keys", true),
        ("limits.body", false),
        ("limits.in_flight", true),
        ("limits.metric_functions", true),
        ("limits.waiting", true),
        ("log.format", true),
        ("log.level", false),
    ];
    assert_eq!(at_start, expected.map(|(key, needs_restart)| (key.to_owned(), needs_restart)));
}

#[test]
fn sources_come_and_go() {
    assert_eq!(
        changes(
            "sources: { a: { cron: {} } }",
            "sources: { b: { nats: { url: nats://x, topics: [a, b] } } }"
        ),
        [
            change("sources.a.cron", Some("{}"), None, false),
            change("sources.b.nats.topics", None, Some("[\"a\",\"b\"]"), false),
            change("sources.b.nats.url", None, Some("nats://x"), false),
        ]
    );
}

#[test]
fn a_new_secret_is_a_change_that_shows_nothing() {
    assert_eq!(
        changes("api: { token: hunter2 }", "api: { token: hunter3 }"),
        [change("api.token", Some("[redacted]"), Some("[redacted]"), false)]
    );
    assert_eq!(
        changes(
            "sources: { a: { nats: { url: nats://x:1@h } } }",
            "sources: { a: { nats: { url: nats://x:2@h } } }"
        ),
        [change("sources.a.nats.url", Some("nats://[redacted]@h"), Some("nats://[redacted]@h"), false)]
    );
}
