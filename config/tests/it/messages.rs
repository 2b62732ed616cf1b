//! What a person reads who made mistakes: all of them, where, what and what to do.

use broker_config::{Invalid, Origin, Problem};

use crate::{Given, assert_is_file, yaml};

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let invalid = yaml(include_str!("../fixtures/wrong.yaml")).load().expect_err("problems");

    let message = invalid.to_string();
    assert_is_file("tests/fixtures/wrong.txt", &format!("{message}\n"));
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn toml_is_told_the_same_way() {
    let given = Given {
        file: Some(("evoke.toml", "[gateway]\npoll_interval = 10\nurll = 'x'\n")),
        ..Given::default()
    };

    assert_eq!(
        given.problems(),
        [
            "evoke.toml:2:17: gateway.poll_interval: \"10\" has no unit | write the unit, such as 10s, 10m or 10ms",
            "evoke.toml:3:1: gateway.urll: there is no such key | did you mean gateway.url?",
        ]
    );
}

#[test]
fn problems_of_all_layers_are_told_together() {
    let given = Given {
        file: Some(("evoke.yaml", "log: { level: loud }")),
        environment: &[("EVOKE_LIMITS__BODY", "64"), ("upstream_timeout", "soon")],
        flags: &["shutdown.grace=25"],
    };

    let origins: Vec<String> =
        given.problems().iter().map(|p| p.split(" | ").next().unwrap_or_default().to_owned()).collect();

    assert_eq!(
        origins,
        [
            "evoke.yaml:1:15: log.level: \"loud\" is not valid here",
            "environment variable EVOKE_LIMITS__BODY: limits.body: \"64\" has no unit",
            "environment variable upstream_timeout: delivery.timeout: \"soon\" is not a duration: a number is missing before \"soon\"",
            "flag --set shutdown.grace: shutdown.grace: \"25\" has no unit",
        ]
    );
}

#[test]
fn values_that_do_not_fit_together_are_a_problem_where_they_were_written() {
    assert_eq!(
        yaml(
            "listen: { http: 127.0.0.1:8081 }\n\
             gateway: { poll_interval: 0s, default_namespace: a.b, url: 'http://x?y' }\n\
             delivery: { retry: { min_wait: 3m } }\n\
             limits: { in_flight: 1MiB, body: 0B, waiting: 0 }\n\
             callbacks: { timeout: 0s }\n"
        )
        .problems(),
        [
            "listen.metrics: listen.http has the address 127.0.0.1:8081 as well | give the metrics a port of their own",
            "evoke.yaml:2:27: gateway.poll_interval: no time between two polls | write a wait such as 10s",
            "evoke.yaml:2:50: gateway.default_namespace: \"a.b\" is not a namespace | write a name of letters, digits, '-' and '_', such as openfaas-fn",
            "evoke.yaml:2:60: gateway.url: the URL goes on after its path | remove what follows `?` or `#`",
            "evoke.yaml:3:32: delivery.retry.min_wait: it is longer than delivery.retry.max_wait | shorten it, or lengthen delivery.retry.max_wait",
            "evoke.yaml:4:22: limits.in_flight: a single request with the largest headers would not fit | write at least 256KiB more than limits.headers",
            "evoke.yaml:4:34: limits.body: nothing would be accepted | write a size such as 64MiB",
            "evoke.yaml:4:47: limits.waiting: nothing would be accepted | write a number such as 10000000",
            "evoke.yaml:5:23: callbacks.timeout: every call would end before it began | write a time such as 30s",
        ]
    );
}

#[test]
fn a_wrong_value_is_not_held_against_its_neighbour() {
    assert_eq!(
        yaml("delivery: { retry: { min_wait: 3m, max_wait: 5 } }").problems(),
        [
            "evoke.yaml:1:46: delivery.retry.max_wait: \"5\" has no unit | write the unit, such as 5s, 5m or 5ms"
        ]
    );
}

#[test]
fn a_connector_can_place_the_problems_of_its_settings() {
    let loaded = yaml(
        "sources:\n  bus:\n    nast:\n      url: nats://x\n      topics:\n        - a\n        - ''\n      tls: { ca_file: 5 }\n",
    )
    .loaded();
    let source = loaded.config.sources.values().next().expect("a source");

    let place = |inside: &str| source.problem(inside, "wrong", "right").to_string().replace("\n    ", " | ");

    assert_eq!(place("topics[1]"), "evoke.yaml:7:11: sources.bus.nast.topics[1]: wrong | right");
    assert_eq!(place("tls.ca_file"), "evoke.yaml:8:23: sources.bus.nast.tls.ca_file: wrong | right");
    assert_eq!(place("missing.key"), "evoke.yaml:4:7: sources.bus.nast.missing.key: wrong | right");
    assert_eq!(place(""), "evoke.yaml:4:7: sources.bus.nast: wrong | right");
    assert_eq!(
        source.unknown_kind(&["nats", "cron"]).to_string(),
        "evoke.yaml:3:5: sources.bus.nast: there is no kind of source called \"nast\"\n    did you mean nats?"
    );
    assert_eq!(source.unknown_kind(&["kafka", "cron"]).remedy, "the kinds built in are kafka, cron");
}

#[test]
fn the_caller_adds_problems_of_its_own() {
    let missing =
        Problem::new(Origin::BuiltIn, "", "cannot read \"evoke.yaml\": no such file", "name another file");

    let invalid = Invalid::from_problems(vec![missing]).expect("a problem");

    assert_eq!(
        invalid.to_string(),
        "1 problem in the configuration:\n\ncannot read \"evoke.yaml\": no such file\n    name another file"
    );
    assert_eq!(Invalid::from_problems(Vec::new()), None);
}

#[test]
fn what_counts_and_why_is_shown() {
    let loaded = Given {
        file: Some(("full.toml", include_str!("../fixtures/full.toml"))),
        environment: &[("EVOKE_LIMITS__BODY", "2MiB"), ("max_inflight", "7"), ("ack_wait", "30s")],
        flags: &["listen.http=127.0.0.1:0"],
    }
    .loaded();

    assert_is_file("tests/fixtures/show.txt", &loaded.show());
}
