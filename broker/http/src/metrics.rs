//! `/metrics`, and what is counted at the door.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{Either, Full};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::route::{Reply, plain};

/// Requests by route and status. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<Labels, Counter>,
    // The one that is counted ten thousand times a second, without a look into the family.
    accepted: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    status: u16,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let requests = Family::<Labels, Counter>::default();
        let accepted = requests.get_or_create(&Labels { route: "async-function", status: 202 }).clone();
        HttpMetrics { requests, accepted }
    }
}

impl HttpMetrics {
    /// Adds the families to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "evoke_http_requests",
            "Requests answered, by route and status",
            self.requests.clone(),
        );
    }

    pub(crate) fn count(&self, route: &'static str, status: StatusCode) {
        if route == "async-function" && status == StatusCode::ACCEPTED {
            self.accepted.inc();
        } else {
            self.requests.get_or_create(&Labels { route, status: status.as_u16() }).inc();
        }
    }
}

/// Answers a request to the metrics listener.
pub(crate) fn answer(
    registry: &Arc<Registry>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Reply> {
    match path {
        "/metrics" | "/healthz" if !matches!(*method, Method::GET | Method::HEAD) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/metrics" => scrape(registry, headers),
        "/healthz" => plain(StatusCode::OK, "OK"),
        _ => plain(StatusCode::NOT_FOUND, "this listener serves /metrics\n"),
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn scrape(registry: &Registry, headers: &HeaderMap) -> Response<Reply> {
    let mut exposition = String::new();
    if text::encode(&mut exposition, registry).is_err() {
        // Writing to a string does not fail; a metric that cannot say itself is a fault of ours.
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n");
    }
    let wants_open_metrics = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text")));
    let (content_type, body) = if wants_open_metrics {
        (OPEN_METRICS, exposition)
    } else {
        (PROMETHEUS, as_prometheus_text(&exposition))
    };
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The same in Prometheus' older text format, where a counter is called in its comments as in its samples.
fn as_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 256);
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // The help comes first and does not say what kind it helps; it waits for the type.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "unknown" => ("", "untyped"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some(words) = help.take().and_then(|help| help.strip_prefix(name)) {
                text.push_str(&format!("# HELP {name}{suffix}{words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn a_counter_is_called_alike_in_comments_and_samples() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc();
        registry.register("queue_worker_messages_processed", "Processed", counter);
        registry.register("queue_worker_pending_messages", "Waiting", Gauge::<i64>::default());
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, &registry).unwrap();

        assert_eq!(
            as_prometheus_text(&open_metrics),
            "# HELP queue_worker_messages_processed_total Processed.\n\
             # TYPE queue_worker_messages_processed_total counter\n\
             queue_worker_messages_processed_total 1\n\
             # HELP queue_worker_pending_messages Waiting.\n\
             # TYPE queue_worker_pending_messages gauge\n\
             queue_worker_pending_messages 0\n"
        );
    }

    #[test]
    fn an_accepted_call_is_counted_once() {
        let metrics = HttpMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);

        metrics.count("async-function", StatusCode::ACCEPTED);
        metrics.count("v1", StatusCode::NOT_FOUND);

        let mut written = String::new();
        text::encode(&mut written, &registry).unwrap();
        assert!(
            written.contains("evoke_http_requests_total{route=\"async-function\",status=\"202\"} 1"),
            "{written}"
        );
        assert!(written.contains("evoke_http_requests_total{route=\"v1\",status=\"404\"} 1"), "{written}");
    }
}
