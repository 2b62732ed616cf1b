//! What Prometheus reads.

use reqwest::Method;
use testkit::time::eventually;

use crate::fixture::{Broker, SOON};

async fn scrape(broker: &Broker, accept: &str) -> (String, String) {
    let url = format!("http://{}/metrics", broker.metrics);
    let answer = broker.client.get(url).header("accept", accept).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let content_type = answer.headers()["content-type"].to_str().expect("text").to_owned();
    (content_type, answer.text().await.expect("a body"))
}

#[tokio::test]
async fn the_names_are_those_of_the_queue_worker_in_either_format() {
    let broker = Broker::start().await;
    let id = broker.taken("/async-function/env", &[], "x").await;
    broker.once(&id, "completed").await;
    broker.taken("/async-function/slow", &[], "x").await;
    broker.gateway.wait_for_calls("slow", 1, SOON).await.unwrap();

    let (content_type, text) = eventually(SOON, "the call to be counted", async || {
        let scraped = scrape(&broker, "text/plain").await;
        if scraped.1.contains("queue_worker_messages_processed_total{queue_name=\"faas-request\"} 1") {
            Ok(scraped)
        } else {
            Err(scraped.1)
        }
    })
    .await;
    let (open_type, open) =
        scrape(&broker, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;

    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "# TYPE queue_worker_messages_submitted_total counter",
        "queue_worker_messages_submitted_total{queue_name=\"faas-request\"} 2",
        "# TYPE queue_worker_function_invocation_inflight gauge",
        "evoke_http_requests_total{route=\"async-function\",status=\"202\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let inflight: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.starts_with("queue_worker_function_invocation_inflight{") && line.contains("slow")
        })
        .collect();
    assert_eq!(inflight.len(), 1, "{text}");
    assert!(
        inflight[0].contains("queue_name=\"faas-request\"") && inflight[0].ends_with("} 1"),
        "{inflight:?}"
    );
    assert!(inflight[0].contains("function_name=\"slow.openfaas-fn\""), "{inflight:?}");
    assert!(!text.contains("_total_total") && !text.contains("# EOF"), "{text}");
    assert!(open_type.starts_with("application/openmetrics-text"), "{open_type}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(open.contains("queue_worker_messages_submitted_total{queue_name=\"faas-request\"} 2"), "{open}");

    broker.stop().await;
}

#[tokio::test]
async fn the_metrics_port_serves_metrics_and_nothing_else() {
    let broker = Broker::start().await;
    let get = |method: Method, path: &str| {
        broker.client.request(method, format!("http://{}{path}", broker.metrics)).send()
    };

    assert_eq!(get(Method::GET, "/healthz").await.unwrap().text().await.unwrap(), "OK");
    assert_eq!(get(Method::POST, "/metrics").await.unwrap().status(), 405);
    assert_eq!(get(Method::GET, "/v1/info").await.unwrap().status(), 404);
    assert_eq!(get(Method::POST, "/async-function/echo").await.unwrap().status(), 404);
    assert_eq!(broker.request(Method::GET, "/metrics").send().await.unwrap().status(), 404);

    broker.stop().await;
}
