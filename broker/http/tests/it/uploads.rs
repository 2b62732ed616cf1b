//! Bodies on their way in: large, oversized, slow, many.

use std::time::Duration;

use broker_config::BodyOverLimit;
use broker_http::{HttpSettings, Pace};
use testkit::time::eventually;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fixture::{Broker, SOON, header, read_answer, status};

const MIB: usize = 1024 * 1024;

fn pattern(length: usize) -> String {
    ('a'..='z').cycle().take(length).collect()
}

#[tokio::test]
async fn a_large_body_reaches_the_function_whole() {
    let broker = Broker::start().await;
    let body = pattern(3 * MIB);

    let answer = broker.call("/async-function/echo", &[("Prefer", "wait=30")], &body).await;

    assert_eq!((answer.status().as_u16(), header(&answer, "evoke-state")), (200, Some("completed")));
    let id = header(&answer, "evoke-invocation-id").unwrap().to_owned();
    assert!(answer.text().await.unwrap() == body, "the function saw another body");
    let kept =
        broker.request(reqwest::Method::GET, &format!("/v1/invocations/{id}/body")).send().await.unwrap();
    assert_eq!(header(&kept, "content-length"), Some(&*body.len().to_string()));
    assert!(kept.text().await.unwrap() == body, "another body was kept");

    broker.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_or_500_by_the_compatibility_switch() {
    let broker = Broker::with(|plan| plan.http.body_limit = 1000).await;
    let chunked = |length: usize| {
        format!(
            "POST /async-function/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n",
            pattern(length)
        )
    };

    assert_eq!(broker.call("/async-function/echo", &[], &pattern(1000)).await.status(), 202);
    assert_eq!(broker.call("/async-function/echo", &[], &pattern(1001)).await.status(), 413);
    assert_eq!(status(&broker.raw(chunked(1000).as_bytes()).await), Some(202));
    assert_eq!(status(&broker.raw(chunked(1001).as_bytes()).await), Some(413));

    let body_over_limit = BodyOverLimit::InternalServerError;
    broker.http.reload(HttpSettings { body_limit: 1000, body_over_limit, ..HttpSettings::default() });
    let answer = broker.call("/async-function/echo", &[], &pattern(1001)).await;
    assert_eq!(answer.status(), 500);
    assert!(answer.text().await.unwrap().starts_with("Error queuing request: request body too large"));

    broker.stop().await;
}

#[tokio::test]
async fn a_body_that_stalls_is_408_and_one_that_breaks_off_is_nothing() {
    let broker = Broker::with(|plan| {
        plan.http.pace = Pace { idle: Duration::from_millis(200), ..Pace::default() };
    })
    .await;
    let head = "POST /async-function/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nonly this";

    let stalled = broker.raw(head.as_bytes()).await;
    let mut broken = TcpStream::connect(broker.addr).await.unwrap();
    broken.write_all(head.as_bytes()).await.unwrap();
    drop(broken);

    assert_eq!(status(&stalled), Some(408), "{stalled}");
    broker.taken("/async-function/echo", &[], "x").await;
    let (_, info) = broker.get("/v1/info").await;
    assert_eq!(info["ledger"]["accepted"], 1);

    broker.stop().await;
}

#[tokio::test]
async fn slow_uploads_of_64_mib_at_once_leave_small_calls_unharmed() {
    let broker = Broker::start().await;
    let head =
        format!("POST /async-function/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 64 * MIB);
    let begun = pattern(100 * 1024);
    let mut uploads = Vec::new();
    for _ in 0..256 {
        let mut upload = TcpStream::connect(broker.addr).await.unwrap();
        upload.write_all(head.as_bytes()).await.unwrap();
        // A full socket is as good as a slow sender.
        let _ = tokio::time::timeout(Duration::from_millis(50), upload.write_all(begun.as_bytes())).await;
        uploads.push(upload);
    }

    for n in 0..50 {
        let answer = broker.call("/async-function/echo", &[], &format!("small {n}")).await;
        assert_eq!(answer.status(), 202, "small call {n}");
    }

    broker.gateway.wait_for_calls("echo", 50, SOON).await.unwrap();
    drop(uploads);
    // What the uploads held is given back: as many large ones as before find room.
    eventually(SOON, "room for a large body", async || {
        broker.call("/async-function/echo", &[], &pattern(MIB)).await.status() == 202
    })
    .await;
    let (_, info) = broker.get("/v1/info").await;
    assert!(info["ledger"]["accepted"].as_u64() >= Some(51), "{info}");

    broker.stop().await;
}

#[tokio::test]
async fn a_sender_that_expects_to_be_asked_is_asked() {
    let broker = Broker::start().await;
    let mut stream = TcpStream::connect(broker.addr).await.unwrap();
    let head =
        "POST /async-function/echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();

    let mut asked = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut asked).await.unwrap();
    stream.write_all(b"hi").await.unwrap();

    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&read_answer(&mut stream).await), Some(202));

    broker.stop().await;
}

#[tokio::test]
async fn a_sender_that_expects_to_be_asked_is_not_asked_for_a_call_that_is_refused() {
    let broker = Broker::with(|plan| plan.http.body_limit = 10).await;
    for (name, length, refusal) in [("a:b", 2, 404), ("echo", 11, 413)] {
        let head = format!(
            "POST /async-function/{name} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );

        assert_eq!(status(&broker.raw(head.as_bytes()).await), Some(refusal));
    }

    broker.stop().await;
}

#[tokio::test]
async fn whoever_waits_for_a_result_holds_no_memory_from_others() {
    let broker = Broker::with(|plan| {
        plan.engine.in_flight = 2 * MIB as u64;
        plan.http.pace.queue = Duration::from_secs(5);
    })
    .await;
    let body = "x".repeat(200 * 1024);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let call = broker.request(reqwest::Method::POST, "/async-function/echo").body(body.clone());
        // Due in an hour, so that only its caller could hold anything.
        waiting.push(tokio::spawn(call.header("evoke-delay", "1h").header("prefer", "wait=60").send()));
    }
    eventually(SOON, "eight waiting callers", async || {
        broker.get("/v1/info").await.1["ledger"]["accepted"] == 8
    })
    .await;

    let answer = broker.call("/async-function/echo", &[], &body).await;

    assert_eq!(answer.status(), 202);
    for waiting in waiting {
        assert!(!waiting.is_finished());
        waiting.abort();
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_memory_of_a_call_and_of_an_event_is_counted_until_they_are_durable() {
    let broker = Broker::start().await;
    let body = pattern(MIB / 8);
    let event = serde_json::json!({"topic": "orders.created", "body": body}).to_string();
    let call = broker.request(reqwest::Method::POST, "/async-function/echo").body(body);
    let publish = broker
        .request(reqwest::Method::POST, "/v1/events")
        .header("content-type", "application/json")
        .body(event);

    for request in [call, publish] {
        let came = broker.store.came();
        let slow_disk = broker.store.hold().await;
        let answer = tokio::spawn(request.send());
        eventually(SOON, "it to reach the store", async || broker.store.came() > came).await;

        assert!(broker.in_flight().await >= MIB / 8, "it is in memory and nowhere else");

        drop(slow_disk);
        assert_eq!(answer.await.unwrap().unwrap().status(), 202);
        eventually(SOON, "its memory to be given back", async || broker.in_flight().await == 0).await;
    }

    broker.stop().await;
}
