//! File, variables and flags lie over one another, and each value knows which one set it.

use serde_json::json;

use crate::{Given, environment, pair, shown, yaml};

#[test]
fn a_later_layer_replaces_an_earlier_one() {
    let file = Some(("evoke.yaml", "gateway:\n  url: http://file\n"));
    let openfaas = ("gateway_url", "http://openfaas");
    let ours = ("EVOKE_GATEWAY__URL", "http://ours");
    let flags = &["gateway.url=http://flag"][..];
    let url = |given: Given<'_>| shown(&given.loaded(), "gateway.url");

    assert_eq!(url(Given::default()), pair("http://127.0.0.1:8080", "built-in"));
    assert_eq!(url(Given { file, ..Given::default() }), pair("http://file", "evoke.yaml:2:8"));
    assert_eq!(
        url(Given { file, environment: &[openfaas], flags: &[] }),
        pair("http://openfaas", "environment variable gateway_url")
    );
    assert_eq!(
        url(Given { file, environment: &[openfaas, ours], flags: &[] }),
        pair("http://ours", "environment variable EVOKE_GATEWAY__URL")
    );
    assert_eq!(
        url(Given { file, environment: &[openfaas, ours], flags }),
        pair("http://flag", "flag --set gateway.url")
    );
}

#[test]
fn a_key_without_a_section_has_a_variable_too() {
    let loaded = environment(&[("EVOKE_UNMATCHED", "hold")]).loaded();

    assert_eq!(shown(&loaded, "unmatched"), pair("hold", "environment variable EVOKE_UNMATCHED"));
}

#[test]
fn a_layer_replaces_single_keys_of_a_section() {
    let given = Given {
        file: Some(("evoke.yaml", "delivery: { retry: { attempts: 5, min_wait: 1s } }")),
        environment: &[("EVOKE_DELIVERY__RETRY__ATTEMPTS", "7")],
        flags: &["delivery.retry.codes=[500]"],
    };

    let retry = given.loaded().config.delivery.retry;

    assert_eq!((retry.attempts, retry.min_wait.as_secs(), retry.codes.len()), (7, 1, 1));
}

#[test]
fn a_variable_finds_the_source_whatever_the_case_of_its_name() {
    let given = Given {
        file: Some((
            "evoke.yaml",
            "sources: { my-Orders: { nats: { url: nats://a, tls: { ca_file: /a } } } }",
        )),
        environment: &[
            ("EVOKE_SOURCES__MY_ORDERS__NATS__URL", "nats://b"),
            ("EVOKE_SOURCES__MY_ORDERS__NATS__TLS__CA_FILE", "/b"),
            ("EVOKE_SOURCES__EXTRA__MQTT__QOS", "1"),
        ],
        flags: &[],
    };

    let loaded = given.loaded();

    let settings: Vec<_> =
        loaded.config.sources.iter().map(|(name, s)| (name.as_str(), s.settings.clone())).collect();
    assert_eq!(
        settings,
        [("extra", json!({"qos": 1})), ("my-Orders", json!({"url": "nats://b", "tls": {"ca_file": "/b"}}))]
    );
}

#[test]
fn variables_that_are_none_of_ours_are_passed_over() {
    let given = environment(&[
        ("PATH", "/bin"),
        ("EVOKE_URL", "http://127.0.0.1:8090"),
        ("EVOKE_TOKEN_FILE", "x.token"),
        ("EVOKE_GATEWAY__CA_FILE", ""),
        // What Kubernetes adds for services called evoke and evoke-metrics.
        ("EVOKE_SERVICE_HOST", "10.0.0.1"),
        ("EVOKE_SERVICE_PORT", "8090"),
        ("EVOKE_SERVICE_PORT_HTTP", "8090"),
        ("EVOKE_PORT", "tcp://10.0.0.1:8090"),
        ("EVOKE_PORT_8090_TCP", "tcp://10.0.0.1:8090"),
        ("EVOKE_PORT_8090_TCP_ADDR", "10.0.0.1"),
        ("EVOKE_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("EVOKE_METRICS_PORT_8081_TCP_PROTO", "tcp"),
    ]);

    assert_eq!(Given::default().loaded().changes_to(&given.loaded()), []);
}

#[test]
fn a_variable_that_names_no_key_is_a_problem() {
    assert_eq!(
        environment(&[
            ("EVOKE_GATEWAY_URL", "http://x"),
            ("EVOKE_GATEWAY__ULR", "http://x"),
            ("EVOKE_NONSENSE", "1"),
            ("EVOKE_GATEWAY____URL", "http://x"),
            ("EVOKE_LIMITS", "1"),
            ("EVOKE_LIMITS__WAITING", "lots"),
        ])
        .problems(),
        [
            "environment variable EVOKE_GATEWAY_URL: this names no key | did you mean EVOKE_GATEWAY__URL?",
            "environment variable EVOKE_GATEWAY__ULR: gateway.ulr: there is no such key | did you mean gateway.url?",
            "environment variable EVOKE_GATEWAY____URL: this names no key | write EVOKE_ and the key's path, with __ between levels, such as EVOKE_GATEWAY__URL",
            "environment variable EVOKE_LIMITS: limits: there is a text where a section belongs | set the keys inside it",
            "environment variable EVOKE_LIMITS: limits: there is a text where a section belongs, and environment variable EVOKE_LIMITS__WAITING sets waiting in it | set the keys inside it",
            "environment variable EVOKE_NONSENSE: this names no key | write the key's path with __ between levels, such as EVOKE_GATEWAY__URL",
        ]
    );
    assert_eq!(
        environment(&[("EVOKE_UNMATCHED", "hold"), ("EVOKE_LIMITS__WAITING", "lots")]).problems(),
        [
            "environment variable EVOKE_LIMITS__WAITING: limits.waiting: \"lots\" is not valid here | write a whole number, 0 or more"
        ]
    );
}

#[test]
fn a_flag_that_names_no_key_is_a_problem() {
    assert_eq!(
        Given { flags: &["gateway.url", "=x", "gateway..url=x", "log.levle=info"], ..Given::default() }
            .problems(),
        [
            "flag --set : \"\" sets nothing | write the key's path and its value, such as gateway.url=http://gateway:8080",
            "flag --set gateway..url: \"gateway..url\" sets nothing | write the key's path and its value, such as gateway.url=http://gateway:8080",
            "flag --set gateway.url: \"gateway.url\" sets nothing | write the key's path and its value, such as gateway.url=http://gateway:8080",
            "flag --set log.levle: log.levle: there is no such key | did you mean log.level?",
        ]
    );
}

#[test]
fn a_password_of_digits_stays_what_it_is_in_a_variable() {
    let loaded = environment(&[
        ("EVOKE_API__CREDENTIALS__USERNAME", "007"),
        ("EVOKE_API__CREDENTIALS__PASSWORD", "1e3"),
    ])
    .loaded();

    let password = loaded.config.api.credentials.expect("credentials").password.read().expect("inline");
    assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "1e3");
    assert_eq!(
        yaml("api: { credentials: { username: admin, password: 1e3 } }").problems(),
        [
            "evoke.yaml:1:50: api.credentials.password: there is a number where a text belongs | put it in quotes",
        ]
    );
}

// The variables of OpenFaaS.

#[test]
fn the_queue_workers_manifest_works_as_it_is() {
    let loaded = environment(&[
        ("gateway_url", "http://gateway.openfaas:8080"),
        ("max_inflight", "50"),
        ("max_retry_attempts", "10"),
        ("max_retry_wait", "2m"),
        ("initial_retry_wait", "0s"),
        ("retry_http_codes", "408,429,500,502,503,504"),
        ("backoff", ""),
        ("upstream_timeout", "1m30s"),
        ("ack_wait", "60s"),
        ("nats_stream", "faas-request"),
        ("debug", "false"),
    ])
    .loaded();

    for (key, value, variable) in [
        ("gateway.url", "http://gateway.openfaas:8080", "gateway_url"),
        ("delivery.max_concurrency", "50", "max_inflight"),
        ("delivery.retry.attempts", "10", "max_retry_attempts"),
        ("delivery.retry.max_wait", "2m", "max_retry_wait"),
        ("delivery.retry.min_wait", "0s", "initial_retry_wait"),
        ("delivery.retry.codes", "[408, 429, 500, 502, 503, 504]", "retry_http_codes"),
        ("delivery.timeout", "1m30s", "upstream_timeout"),
    ] {
        assert_eq!(shown(&loaded, key), pair(value, &format!("environment variable {variable}")), "{key}");
    }
    assert_eq!(shown(&loaded, "delivery.retry.backoff"), pair("exponential", "built-in"));
    let notes: Vec<&str> = loaded.notes.iter().map(|note| note.variable.as_str()).collect();
    assert_eq!(notes, ["ack_wait"]);
}

#[test]
fn the_community_workers_gateway_is_an_address_and_a_port() {
    let url = |variables: &[(&str, &str)]| shown(&environment(variables).loaded(), "gateway.url").0;

    assert_eq!(url(&[("faas_gateway_address", "gw"), ("faas_gateway_port", "31112")]), "http://gw:31112");
    assert_eq!(url(&[("faas_gateway_address", "gw")]), "http://gw:8080");
    assert_eq!(url(&[("faas_gateway_port", "81")]), "http://gateway:81");
    assert_eq!(url(&[("faas_gateway_address", "gw"), ("gateway_url", "http://x:1")]), "http://x:1");
}

#[test]
fn basic_auth_is_two_files_where_secrets_are_mounted() {
    let mounted = environment(&[("basic_auth", "1"), ("secret_mount_path", "/var/secrets/")]).loaded();
    let default = environment(&[("basic_auth", "true")]).loaded();
    let off = environment(&[("basic_auth", "false"), ("secret_mount_path", "/var/secrets")]).loaded();

    assert_eq!(
        shown(&mounted, "gateway.credentials.password_file"),
        pair("/var/secrets/basic-auth-password", "environment variable secret_mount_path")
    );
    assert_eq!(
        shown(&default, "gateway.credentials.username_file"),
        pair("/run/secrets/basic-auth-user", "environment variable basic_auth")
    );
    assert!(off.config.gateway.credentials.is_none());
}

#[test]
fn the_timeout_takes_seconds_and_nothing_means_none() {
    let timeout = |text: &str| environment(&[("upstream_timeout", text)]).loaded().config.delivery.timeout;

    assert_eq!(timeout("90").map(|t| t.as_secs()), Some(90));
    assert_eq!(timeout("1.5m").map(|t| t.as_secs()), Some(90));
    assert_eq!(timeout("0"), None);
    assert_eq!(timeout("0s"), None);
}

#[test]
fn the_interval_of_the_connectors_is_the_one_of_our_polls() {
    let loaded = environment(&[("rebuild_interval", "1.5s")]).loaded();

    assert_eq!(loaded.config.gateway.poll_interval.as_millis(), 1_500);
}

#[test]
fn what_a_connectors_variables_describe_becomes_a_source() {
    let source = |variables: &[(&str, &str)]| {
        let config = environment(variables).loaded().config;
        config
            .sources
            .iter()
            .map(|(name, s)| (name.to_string(), s.kind.clone(), s.settings.clone()))
            .collect::<Vec<_>>()
    };

    assert_eq!(
        source(&[("broker_host", "nats"), ("topics", "nats-test, orders.>,")]),
        [(
            "nats".into(),
            "nats".into(),
            json!({"url": "nats://nats:4222", "topics": ["nats-test", "orders.>"]})
        )]
    );
    assert_eq!(
        source(&[("broker_host", "nats.openfaas:4223"), ("topics", "")]),
        [("nats".into(), "nats".into(), json!({"url": "nats://nats.openfaas:4223"}))]
    );
    assert_eq!(
        source(&[("broker_hosts", "k1:9092, k2:9092"), ("topics", "faas-request")]),
        [(
            "kafka".into(),
            "kafka".into(),
            json!({"brokers": ["k1:9092", "k2:9092"], "topics": ["faas-request"], "group": "faas-group-1"})
        )]
    );
    assert_eq!(source(&[("topics", "a")]), []);
    // Its older name stands for Kafka where another variable of Kafka's says so.
    assert_eq!(
        source(&[
            ("broker_host", "k:9092"),
            ("group", "g"),
            ("initial_offset", "newest"),
            ("max_bytes", "1048576"),
            ("content_type", "text/plain"),
            ("-tls", "true"),
            ("-ca-file", "/ca"),
        ]),
        [(
            "kafka".into(),
            "kafka".into(),
            json!({
                "brokers": ["k:9092"], "group": "g", "max_bytes": 1_048_576, "tls": {"ca_file": "/ca"},
                "start": "latest", "content_type": "text/plain",
            })
        )]
    );
    assert_eq!(
        source(&[
            ("-queue-url", "https://a/1,https://a/2"),
            ("-visibility-timeout", "1m30s"),
            ("-fifo", "0"),
            ("queues", r#"[{"name": "q"}]"#),
        ]),
        [(
            "sqs".into(),
            "sqs".into(),
            json!({
                "queue_urls": ["https://a/1", "https://a/2"], "visibility_timeout": "1m30s", "fifo": false,
                "queues": [{"name": "q"}],
            })
        )]
    );
}

#[test]
fn a_variable_of_the_system_is_a_default_of_every_source_of_its_kind_and_nobody_elses() {
    const CLOCKS: &str =
        "sources: { a: { cron: }, b: { cron: { time_zone: UTC } }, bus: { nats: { url: \"nats://n\" } } }";
    let vienna = [("TZ", ":Europe/Vienna"), ("EVOKE_SOURCES__B__PAUSED", "true")];
    let loaded = Given { file: Some(("evoke.yaml", CLOCKS)), environment: &vienna, flags: &[] }.loaded();

    let key = "sources.a.cron.time_zone";
    assert_eq!(shown(&loaded, key), pair("Europe/Vienna", "environment variable TZ"));
    let settings: Vec<_> = loaded.config.sources.values().map(|source| source.settings.clone()).collect();
    let [a, b, bus] =
        [json!({"time_zone": "Europe/Vienna"}), json!({"time_zone": "UTC"}), json!({"url": "nats://n"})];
    assert_eq!(settings, [a.clone(), b, bus]);
    assert_eq!(loaded.notes, []);

    // The manifest of OpenFaaS' cron connector is known by the one variable that is its own.
    let manifest = environment(&[("rebuild_timeout", "5s"), ("TZ", "Europe/Vienna")]).loaded();
    let sources: Vec<_> =
        manifest.config.sources.iter().map(|(name, source)| (name.as_str(), &source.settings)).collect();
    assert_eq!((sources, manifest.notes.len()), (vec![("cron", &a)], 0));
    for nothing in [&[("TZ", "Europe/Vienna")] as &[_], &[("rebuild_timeout", "5s"), ("TZ", "")]] {
        let loaded = environment(nothing).loaded();
        assert!(loaded.config.sources.values().all(|source| source.settings == json!({})), "{nothing:?}");
        assert_eq!(loaded.notes, []);
    }
}

#[test]
fn a_connectors_variable_that_does_nothing_says_why() {
    let notes = |variables: &[(&str, &str)]| {
        let notes = environment(variables).loaded().notes;
        notes.into_iter().map(|note| format!("{}: {}", note.variable, note.why)).collect::<Vec<_>>()
    };

    assert_eq!(notes(&[("topics", "a")]), ["topics: no other variable says where its upstream is"]);
    assert_eq!(
        notes(&[("broker_hosts", "k:9092"), ("broker_host", "old:9092")]),
        ["broker_host: broker_hosts is set, which stands before it"]
    );
}

#[test]
fn a_connectors_variable_that_is_wrong_is_named() {
    assert_eq!(
        environment(&[
            ("broker_hosts", "k"),
            ("initial_offset", "middle"),
            ("max_bytes", "1MB"),
            ("-tls", "maybe"),
            ("-queue-url", "u"),
            ("-visibility-timeout", "soon"),
        ])
        .problems()
        .len(),
        4
    );
}

#[test]
fn a_configured_source_is_not_disturbed_by_a_connectors_variables() {
    let variables = [("broker_host", "nats"), ("topics", "a")];
    let from_file = Given {
        file: Some(("evoke.yaml", "sources: { clock: { cron: {} } }")),
        environment: &variables,
        flags: &[],
    };
    let from_variable = [variables[0], variables[1], ("EVOKE_SOURCES__BUS__NATS__URL", "nats://x")];

    for (given, name) in [(from_file, "clock"), (environment(&from_variable), "bus")] {
        let loaded = given.loaded();

        let names: Vec<&str> = loaded.config.sources.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, [name]);
        let notes: Vec<&str> = loaded.notes.iter().map(|note| note.variable.as_str()).collect();
        assert_eq!(notes, ["broker_host", "topics"]);
    }
}

#[test]
fn wrong_variables_of_openfaas_are_problems_that_name_them() {
    assert_eq!(
        environment(&[
            ("faas_gateway_address", "gw"),
            ("faas_gateway_port", "http"),
            ("basic_auth", "yes"),
            ("rebuild_interval", "30"),
            ("initial_retry_wait", "-1s"),
            ("max_retry_attempts", "ten"),
            ("retry_http_codes", "408,4x"),
            ("backoff", "linear"),
            ("max_inflight", "0"),
        ])
        .problems(),
        [
            "environment variable backoff: delivery.retry.backoff: \"linear\" is not valid here | write exponential or full or equal",
            "environment variable basic_auth: gateway.credentials: \"yes\" is neither true nor false | write true or false",
            "environment variable faas_gateway_port: gateway.url: \"http\" is not a port | write a number such as 8080",
            "environment variable initial_retry_wait: delivery.retry.min_wait: \"-1s\" is not a duration: it is below zero | write a Go duration such as 30s or 1m30s",
            "environment variable max_inflight: delivery.max_concurrency: \"0\" is not valid here | write a whole number from 1 to 4294967295",
            "environment variable max_retry_attempts: delivery.retry.attempts: \"ten\" is not valid here | write a whole number from 0 to 4294967295",
            "environment variable rebuild_interval: gateway.poll_interval: \"30\" is not a duration: \"30\" has no unit | write a Go duration such as 30s or 1m30s",
            "environment variable retry_http_codes: delivery.retry.codes[1]: \"4x\" is not valid here | write an HTTP status from 100 to 599",
        ]
    );
}
