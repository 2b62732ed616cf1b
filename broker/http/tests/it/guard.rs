//! Who may use the management API, over real connections.

use broker_config::{Api, SecretSource};
use broker_http::HttpSettings;
use reqwest::Method;

use crate::fixture::{Broker, status};

#[tokio::test]
async fn a_browser_page_on_another_origin_cannot_use_the_open_api() {
    let broker = Broker::start().await;
    let id = broker.taken("/async-function/echo", &[("Evoke-Delay", "1h")], "x").await;
    let host = broker.addr;

    // What a page's fetch, form, rebound name and image would send.
    for request in [
        format!(
            "POST /v1/invocations/{id}/cancel HTTP/1.1\r\nhost: {host}\r\norigin: https://evil.example\r\ncontent-length: 0\r\n\r\n"
        ),
        format!(
            "POST /v1/invocations/{id}/cancel HTTP/1.1\r\nhost: {host}\r\norigin: null\r\ncontent-length: 0\r\n\r\n"
        ),
        format!("GET /v1/invocations/{id} HTTP/1.1\r\nhost: evil.example:{}\r\n\r\n", host.port()),
        format!("GET /v1/info HTTP/1.1\r\nhost: {host}\r\nsec-fetch-site: cross-site\r\n\r\n"),
        format!("GET http://evil.example/v1/info HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        format!("GET /v1/info HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: 203.0.113.9\r\n\r\n"),
        "GET //v1//info HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned(),
        "GET /v1/info HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let answer = broker.raw(request.as_bytes()).await;

        assert_eq!(status(&answer), Some(403), "{request}{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("access-control-allow"), "{answer}");
    }
    let preflight = format!(
        "OPTIONS /v1/events HTTP/1.1\r\nhost: {host}\r\norigin: https://evil.example\r\naccess-control-request-method: POST\r\n\r\n"
    );
    assert_eq!(status(&broker.raw(preflight.as_bytes()).await), Some(403));
    broker.once(&id, "waiting").await;

    broker.stop().await;
}

#[tokio::test]
async fn a_callback_aimed_at_the_management_api_does_nothing() {
    let broker = Broker::start().await;
    let victim = broker.taken("/async-function/env", &[("Evoke-Delay", "1h")], "x").await;

    // Directly: the target is one of our listeners, or, where the engine is not told, refused by its mark.
    let url = broker.url(&format!("/v1/invocations/{victim}/cancel"));
    let answer = broker.call("/async-function/echo", &[("X-Callback-Url", &url)], "x").await;
    if answer.status() == 202 {
        testkit::time::eventually(crate::fixture::SOON, "the callback to be dead", async || {
            let (_, listed) = broker.get("/v1/dead-letters").await;
            let dead = listed["items"]
                .as_array()
                .is_some_and(|items| items.iter().any(|i| i["target"] == "callback"));
            if dead { Ok(()) } else { Err(listed.to_string()) }
        })
        .await;
    }
    // Through a proxy on this host that hides itself: the mark is still there.
    let marked = broker
        .request(Method::POST, &format!("/v1/invocations/{victim}/cancel"))
        .header(broker_engine::CALLBACK_MARK, "1")
        .send()
        .await
        .unwrap();

    assert_eq!(marked.status(), 403);
    broker.once(&victim, "waiting").await;

    broker.stop().await;
}

#[tokio::test]
async fn with_a_token_only_its_bearer_passes_and_front_and_health_stay_open() {
    let token = Some(SecretSource::Inline("t0ken".to_owned().into()));
    let broker = Broker::with(|plan| plan.http.api = Api { credentials: None, token }).await;

    let without = broker.request(Method::GET, "/v1/info").send().await.unwrap();
    assert_eq!(without.status(), 401);
    assert_eq!(crate::fixture::header(&without, "www-authenticate"), Some("Basic realm=\"Evoke\""));
    let problem: serde_json::Value = without.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/unauthorized");
    let with = broker.request(Method::GET, "/v1/info").bearer_auth("t0ken").send().await.unwrap();
    assert_eq!(with.status(), 200);
    assert_eq!(broker.get("/healthz").await.0, 200);
    assert_eq!(broker.get("/readyz").await.0, 200);
    broker.taken("/async-function/echo", &[], "x").await;

    broker.http.reload(HttpSettings::default());
    assert_eq!(broker.get("/v1/info").await.0, 200);

    broker.stop().await;
}
