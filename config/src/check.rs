//! The rules between keys, where each value is good alone.

use crate::config::Config;
use crate::problem::Problem;
use crate::section::Findings;

/// Adds what does not fit together to the problems.
pub(crate) fn check(config: &Config, findings: &mut Findings) {
    let listen_sound = findings.sound(&["listen.http", "listen.metrics"]);
    let retry_sound = findings.sound(&["delivery.retry.min_wait", "delivery.retry.max_wait"]);
    let limits_sound = findings.sound(&["limits.headers", "limits.in_flight"]);
    let mut wrong = |key: &str, what: String, remedy: &str| {
        let origin = findings.origin_of(key);
        findings.problems.push(Problem::new(origin, key, what, remedy));
    };

    let listen = &config.listen;
    if listen_sound && listen.http == listen.metrics && listen.http.port() != 0 {
        wrong(
            "listen.metrics",
            format!("listen.http has the address {} as well", listen.http),
            "give the metrics a port of their own",
        );
    }

    let gateway = &config.gateway;
    let url = gateway.url.as_url();
    if !url.username().is_empty() || url.password().is_some() {
        wrong(
            "gateway.url",
            "there is a user or password in the URL".into(),
            "move it to gateway.credentials",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        wrong("gateway.url", "the URL goes on after its path".into(), "remove what follows `?` or `#`");
    }
    if gateway.poll_interval.is_zero() {
        wrong("gateway.poll_interval", "no time between two polls".into(), "write a wait such as 10s");
    }
    if gateway.default_namespace.is_empty()
        || gateway.default_namespace.contains('.')
        || broker_model::FunctionName::parse(&gateway.default_namespace, "any").is_err()
    {
        wrong(
            "gateway.default_namespace",
            format!("{:?} is not a namespace", gateway.default_namespace),
            "write a name of letters, digits, '-' and '_', such as openfaas-fn",
        );
    }

    let retry = &config.delivery.retry;
    if retry_sound && retry.min_wait > retry.max_wait {
        wrong(
            "delivery.retry.min_wait",
            "it is longer than delivery.retry.max_wait".into(),
            "shorten it, or lengthen delivery.retry.max_wait",
        );
    }

    for (key, limit) in [("limits.body", config.limits.body), ("limits.headers", config.limits.headers)] {
        if limit.bytes() == 0 {
            wrong(key, "nothing would be accepted".into(), "write a size such as 64MiB");
        }
    }
    let largest_in_memory = config.limits.headers.bytes().saturating_add(MAX_BODY_IN_MEMORY);
    if limits_sound && config.limits.in_flight.bytes() < largest_in_memory {
        wrong(
            "limits.in_flight",
            "a single request with the largest headers would not fit".into(),
            "write at least 256KiB more than limits.headers",
        );
    }
    if config.limits.waiting == 0 {
        wrong("limits.waiting", "nothing would be accepted".into(), "write a number such as 10000000");
    }
    for (key, duration) in [
        ("callbacks.timeout", Some(config.callbacks.timeout)),
        ("delivery.timeout", config.delivery.timeout),
        ("delivery.max_age", config.delivery.max_age),
    ] {
        if duration.is_some_and(|duration| duration.is_zero()) {
            wrong(key, "every call would end before it began".into(), "write a time such as 30s");
        }
    }
}

/// A larger body goes over disk.
const MAX_BODY_IN_MEMORY: u64 = 256 << 10;
