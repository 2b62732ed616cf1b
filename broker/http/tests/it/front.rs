//! What is behind the 202: wishes, outcomes, refusals.

use std::time::Duration;

use broker_config::{Api, CancelAccess, SecretSource};
use broker_demo_gateway::{Answer, Function};
use broker_http::{HttpSettings, Phase};
use broker_model::StoreError;
use reqwest::Method;
use testkit::time::eventually;

use crate::fixture::{Broker, SOON, header};

#[tokio::test]
async fn path_query_headers_and_body_reach_the_function_as_they_were_written() {
    let broker = Broker::start().await;
    let request = b"POST /async-function/echo.openfaas-fn/a%2Fb//c%20d?x=1&y=%3C HTTP/1.1\r\nhost: x\r\n\
        x-multi: 1\r\nx-multi: 2\r\nevoke-delay: 0s\r\nidempotency-key: k\r\nprefer: respond-async\r\n\
        content-length: 3\r\n\r\n\x00\xff\x01";

    let answer = broker.raw(request).await;

    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    assert!(answer.contains("\r\nX-Call-Id: "), "{answer}");
    let calls = broker.gateway.wait_for_calls("echo", 1, SOON).await.unwrap();
    let call = &calls[0];
    assert_eq!(call.target, "/function/echo.openfaas-fn/a%2Fb/c%20d?x=1&y=%3C");
    assert_eq!(call.body.as_ref(), b"\x00\xff\x01");
    assert_eq!(call.header_values("x-multi"), ["1", "2"]);
    for name in ["evoke-delay", "idempotency-key", "prefer"] {
        assert_eq!(call.header(name), None, "{name} is for Evoke");
    }

    broker.stop().await;
}

#[tokio::test]
async fn a_repeat_of_a_key_answers_as_the_first_and_another_request_under_it_is_422() {
    let broker = Broker::start().await;
    let key = [("Idempotency-Key", "k1")];

    let first = broker.call("/async-function/echo", &key, "one").await;
    let repeat = broker.call("/async-function/echo", &key, "one").await;
    let other = broker.call("/async-function/echo", &key, "two").await;
    let elsewhere = broker.call("/async-function/env", &key, "two").await;

    let id = |answer: &reqwest::Response| header(answer, "evoke-invocation-id").map(str::to_owned);
    assert_eq!((first.status().as_u16(), header(&first, "evoke-duplicate")), (202, None));
    assert_eq!((repeat.status().as_u16(), header(&repeat, "evoke-duplicate")), (202, Some("true")));
    assert_eq!(id(&repeat), id(&first));
    for name in ["x-call-id", "x-start-time"] {
        assert_eq!(header(&repeat, name), header(&first, name), "{name}");
    }
    assert_eq!(other.status(), 422);
    assert_eq!(elsewhere.status(), 202);
    assert_ne!(id(&elsewhere), id(&first));

    broker.stop().await;
}

#[tokio::test]
async fn a_delayed_call_waits_for_its_time() {
    let broker = Broker::start().await;

    let id = broker.taken("/async-function/echo", &[("Evoke-Delay", "1h")], "later").await;

    let (_, shown) = broker.get(&format!("/v1/invocations/{id}")).await;
    assert_eq!((&shown["state"], &shown["waiting_reason"]), (&"waiting".into(), &"scheduled".into()));
    assert_eq!(shown["due"], shown["next_attempt_at"]);
    assert_eq!(broker.gateway.call_count("echo"), 0);

    broker.stop().await;
}

#[tokio::test]
async fn absurd_wishes_are_400_and_nothing_is_accepted() {
    let broker = Broker::start().await;

    for fields in [
        [("Evoke-Delay", "soon")],
        [("Evoke-Delay", "10000d")],
        [("Evoke-At", "9999-12-31T23:59:59Z")],
        [("Evoke-Max-Age", "0s")],
        [("Idempotency-Key", "")],
        [("X-Call-Id", "ü")],
    ] {
        let answer = broker.call("/async-function/echo", &fields, "x").await;
        assert_eq!(answer.status(), 400, "{fields:?}");
        assert!(answer.text().await.unwrap().starts_with("Error queuing request: the header "), "{fields:?}");
    }
    assert_eq!(broker.get("/v1/info").await.1["ledger"]["accepted"], 0);

    broker.stop().await;
}

#[tokio::test]
async fn whoever_waits_gets_the_functions_own_answer() {
    let broker = Broker::with(|plan| {
        let own = Answer::status(201).with_body("made").with_header("x-own", "1");
        plan.functions.push(Function::in_turn("maker", [own]));
    })
    .await;
    let wait = [("Prefer", "wait=20")];

    let done = broker.call("/async-function/maker", &wait, "x").await;
    let dead = broker.call("/async-function/fail", &wait, "x").await;

    assert_eq!(done.status(), 201);
    assert_eq!(header(&done, "evoke-state"), Some("completed"));
    assert_eq!(header(&done, "preference-applied"), Some("wait=20"));
    assert_eq!(header(&done, "x-own"), Some("1"));
    assert!(header(&done, "evoke-invocation-id").is_some());
    assert_eq!(done.text().await.unwrap(), "made");
    assert_eq!((dead.status().as_u16(), header(&dead, "evoke-state")), (500, Some("dead")));
    assert_eq!(dead.text().await.unwrap(), "always 500\n");

    broker.stop().await;
}

#[tokio::test]
async fn a_wait_that_is_over_answers_202_and_the_call_goes_on() {
    let broker = Broker::start().await;

    let answer = broker.call("/async-function/slow", &[("Prefer", "wait=1")], "x").await;

    assert_eq!((answer.status().as_u16(), header(&answer, "evoke-state")), (202, None));
    broker.once(header(&answer, "evoke-invocation-id").unwrap(), "delivering").await;

    broker.stop().await;
}

#[tokio::test]
async fn an_unknown_function_is_taken_with_a_warning() {
    let broker = Broker::start().await;

    let unknown = broker.call("/async-function/nobody", &[], "x").await;
    let known = broker.call("/async-function/echo", &[], "x").await;

    assert_eq!(
        (unknown.status().as_u16(), header(&unknown, "evoke-warning")),
        (202, Some("function-not-listed"))
    );
    assert_eq!((known.status().as_u16(), header(&known, "evoke-warning")), (202, None));
    let (status, shown) = broker.get("/v1/functions/nobody").await;
    assert_eq!((status, &shown["listed"], &shown["lanes"][0]["waiting"]), (200, &false.into(), &1.into()));

    broker.stop().await;
}

#[tokio::test]
async fn each_refusal_of_the_store_has_its_status_and_says_when_to_come_back() {
    let broker = Broker::start().await;
    for (error, status, retry_after, alive) in [
        (StoreError::TooManyWaiting { waiting: 5 }, 429, Some("1"), 200),
        (StoreError::Full { what: "min_free".into(), waiting: 5, dead: 2 }, 507, Some("1"), 200),
        (StoreError::Failed { what: "a sync", cause: "I/O error".into() }, 503, Some("5"), 503),
    ] {
        broker.store.refuse(Some(error));

        let answer = broker.call("/async-function/echo", &[], "x").await;
        let (as_problem, problem) = broker
            .api(Method::POST, "/v1/events", Some(serde_json::json!({"topic": "orders.created"})))
            .await;

        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (status, retry_after));
        assert!(answer.text().await.unwrap().starts_with("Error queuing request: "));
        assert_eq!((as_problem, &problem["status"]), (status, &status.into()));
        assert_eq!(broker.get("/healthz").await.0, alive, "only what a restart repairs asks for one");
        assert_eq!(broker.get("/readyz").await.0, 503);
    }
    broker.store.refuse(None);
    broker.taken("/async-function/echo", &[], "x").await;

    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_delivers_nothing_any_more_asks_for_a_restart_and_takes_work_until_then() {
    let broker = Broker::start().await;
    assert_eq!(broker.get("/healthz").await.0, 200);

    broker.store.panic_at_lease();
    broker.taken("/async-function/echo", &[], "x").await;
    let health = eventually(SOON, "the health check to fail", async || {
        let (status, health) = broker.get("/healthz").await;
        if status == 503 { Ok(health) } else { Err(health.to_string()) }
    })
    .await;

    assert_eq!(health["status"], "failed");
    let detail = health["detail"].as_str().unwrap();
    assert!(detail.contains("nothing is delivered") && detail.contains("restart"), "{detail}");
    broker.taken("/async-function/echo", &[], "x").await;

    broker.stop().await;
}

#[tokio::test]
async fn a_draining_broker_takes_nothing_and_says_so() {
    let broker = Broker::start().await;
    assert_eq!(broker.get("/readyz").await.0, 200);

    broker.phase.send_replace(Phase::Draining);

    let answer = broker.call("/async-function/echo", &[], "x").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, Some("5")));
    assert_eq!(header(&answer, "connection"), Some("close"));
    let (status, ready) = broker.get("/readyz").await;
    assert_eq!((status, &ready["ready"], &ready["phase"]), (503, &false.into(), &"draining".into()));
    assert_eq!(broker.get("/healthz").await.0, 200);
    let event = serde_json::json!({"topic": "orders.created"});
    assert_eq!(broker.api(Method::POST, "/v1/events", Some(event)).await.1["type"], "/problems/draining");

    broker.stop().await;
}

#[tokio::test]
async fn everything_else_is_the_gateways_and_says_that_it_is_not_passed_on() {
    let broker = Broker::start().await;

    for path in ["/", "/function/echo", "/system/functions", "/ui/", "/v2", "/v1x", "/async-function"] {
        let answer = broker.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.text().await.unwrap().contains("not pass"), "{path}");
    }

    broker.stop().await;
}

#[tokio::test]
async fn cancelling_over_the_front_can_be_switched_off() {
    let broker = Broker::start().await;
    broker.http.reload(HttpSettings { cancel: CancelAccess::Off, ..HttpSettings::default() });

    let off = broker.request(Method::DELETE, "/async-function/x").send().await.unwrap();
    assert_eq!((off.status().as_u16(), header(&off, "allow")), (405, Some("POST")));

    let api = Api { credentials: None, token: Some(SecretSource::Inline("t0ken".to_owned().into())) };
    broker.http.reload(HttpSettings { cancel: CancelAccess::Authenticated, api, ..HttpSettings::default() });
    let delete = || broker.request(Method::DELETE, "/async-function/x");
    assert_eq!(delete().send().await.unwrap().status(), 401);
    assert_eq!(delete().bearer_auth("t0ken").send().await.unwrap().status(), 404);

    broker.stop().await;
}

#[tokio::test]
async fn a_call_older_than_it_may_be_is_dead_before_it_runs() {
    let broker = Broker::start().await;
    broker.api(Method::POST, "/v1/functions/echo/pause", None).await;
    let id = broker.taken("/async-function/echo", &[("Evoke-Max-Age", "1ms")], "x").await;
    let (_, waiting) = broker.get(&format!("/v1/invocations/{id}")).await;
    assert_eq!(waiting["waiting_reason"], "paused");

    eventually(SOON, "a millisecond to pass", async || {
        tokio::time::sleep(Duration::from_millis(2)).await;
        true
    })
    .await;
    broker.api(Method::POST, "/v1/functions/echo/resume", None).await;

    assert_eq!(broker.once(&id, "dead").await["reason"], "expired");
    assert_eq!(broker.gateway.call_count("echo"), 0);

    broker.stop().await;
}
