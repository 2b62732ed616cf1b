//! Rows A1 to A4 of the contract's checklist: a caller of the gateway sees no difference.

use broker_demo_gateway::CallbackReceiver;
use reqwest::Method;

use crate::fixture::{Broker, SOON, header};

#[tokio::test]
async fn a1_a_call_without_ids_is_accepted_with_an_empty_answer_an_id_and_a_start_time() {
    let broker = Broker::start().await;

    let answer = broker.call("/async-function/env", &[], "test").await;

    assert_eq!(answer.status(), 202);
    assert_eq!(header(&answer, "content-length"), Some("0"));
    let call_id: uuid::Uuid = header(&answer, "x-call-id").unwrap().parse().unwrap();
    assert_eq!(call_id.get_version_num(), 4);
    let start_time = header(&answer, "x-start-time").unwrap();
    assert!(start_time.len() == 19 && start_time.bytes().all(|b| b.is_ascii_digit()), "{start_time}");
    let id: uuid::Uuid = header(&answer, "evoke-invocation-id").unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert!(header(&answer, "evoke-durability").is_some());
    assert_eq!(answer.text().await.unwrap(), "");

    broker.stop().await;
}

#[tokio::test]
async fn a2_a_callers_id_reaches_the_function_and_the_callback() {
    let broker = Broker::start().await;
    let callbacks = CallbackReceiver::start().await.unwrap();
    let url = callbacks.url("done");

    let answer =
        broker.call("/async-function/echo", &[("X-Call-Id", "abc"), ("X-Callback-Url", &url)], "test").await;

    assert_eq!((answer.status().as_u16(), header(&answer, "x-call-id")), (202, Some("abc")));
    let calls = broker.gateway.wait_for_calls("echo", 1, SOON).await.unwrap();
    assert_eq!(calls[0].call_id(), Some("abc"));
    let told = callbacks.wait_for("done", 1, SOON).await.unwrap();
    assert_eq!((told[0].call_id(), told[0].text().as_str()), (Some("abc"), "test"));
    assert_eq!(told[0].header("x-function-status"), Some("200"));

    callbacks.shutdown().await;
    broker.stop().await;
}

#[tokio::test]
async fn a3_other_methods_are_405_and_delete_cancels_every_call_of_the_id() {
    let broker = Broker::start().await;

    for method in [Method::PUT, Method::GET, Method::PATCH, Method::OPTIONS] {
        let answer = broker.request(method.clone(), "/async-function/env").send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(header(&answer, "allow"), Some("POST, DELETE"), "{method}");
        assert_eq!(answer.text().await.unwrap(), "", "{method}");
    }
    let fields = [("X-Call-Id", "order-7"), ("Evoke-Delay", "1h")];
    let first = broker.taken("/async-function/echo", &fields, "1").await;
    let second = broker.taken("/async-function/env", &fields, "2").await;
    let running = broker.taken("/async-function/slow", &[("X-Call-Id", "order-7")], "3").await;
    broker.gateway.wait_for_calls("slow", 1, SOON).await.unwrap();

    let cancel = async || broker.request(Method::DELETE, "/async-function/order-7").send().await.unwrap();
    let cancelled = cancel().await;
    let again = cancel().await;

    assert_eq!(cancelled.status(), 202);
    assert_eq!(cancelled.text().await.unwrap(), "");
    assert_eq!(again.status(), 404);
    for id in [first, second, running] {
        broker.once(&id, "cancelled").await;
    }

    broker.stop().await;
}

#[tokio::test]
async fn a4_a_callback_url_that_cannot_be_read_is_400() {
    let broker = Broker::start().await;

    for url in [
        "http://a b/",
        "http://[::1",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
    ] {
        let answer = broker.call("/async-function/env", &[("X-Callback-Url", url)], "test").await;

        assert_eq!(answer.status(), 400, "{url}");
        let text = answer.text().await.unwrap();
        assert!(text.starts_with("Error queuing request: "), "{url}: {text}");
    }
    assert_eq!(broker.get("/v1/info").await.1["ledger"]["accepted"], 0);

    broker.stop().await;
}
