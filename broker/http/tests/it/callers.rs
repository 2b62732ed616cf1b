//! Requests nobody should send: each is refused in bounds, and the next one is served.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fixture::{Broker, SOON, read_answer, status};

#[tokio::test]
async fn absurd_names_are_404_and_say_why() {
    let broker = Broker::start().await;
    let long = "x".repeat(10_000);
    for name in
        ["a%2Fb", "..", ".", "%2e%2e", "a%00", "a:b", "", "a%ff", "../v1/info", "env/../../v1/info", &long]
    {
        let request =
            format!("POST /async-function/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx");

        let answer = broker.raw(request.as_bytes()).await;

        assert_eq!(status(&answer), Some(404), "{name:.40}: {answer}");
        assert!(answer.contains("Error queuing request: "), "{name:.40}: {answer}");
    }
    broker.taken("/async-function/echo", &[], "x").await;

    broker.stop().await;
}

#[tokio::test]
async fn a_request_that_is_no_http_is_refused() {
    let broker = Broker::start().await;
    for request in [
        &b"POST /async-function/\xff\xfe HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"[..],
        b"hello\r\n\r\n",
        b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /async-function/echo/%zz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST /async-function/echo/a\x7f HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    ] {
        let answer = broker.raw(request).await;

        // Bytes outside ASCII in a path are either refused as no HTTP or as no name.
        let refused = matches!(status(&answer), Some(400 | 404) | None);
        assert!(refused, "{:?}: {answer}", String::from_utf8_lossy(request));
    }
    assert_eq!(broker.get("/v1/info").await.1["ledger"]["accepted"], 0);

    broker.stop().await;
}

#[tokio::test]
async fn absurd_headers_are_431_and_large_ones_pass() {
    let broker = Broker::start().await;
    let with = |block: String| {
        format!("POST /async-function/echo HTTP/1.1\r\nhost: x\r\n{block}content-length: 0\r\n\r\n")
    };

    let too_large = with(format!("x-large: {}\r\n", "x".repeat(1024 * 1024 + 8192)));
    let too_many = with((0..5000).map(|n| format!("x-{n}: 1\r\n")).collect());
    let many = with((0..990).map(|n| format!("x-{n}: 1\r\n")).collect());
    let large = with(format!("x-large: {}\r\n", "x".repeat(512 * 1024)));

    assert_eq!(status(&broker.raw(too_large.as_bytes()).await), Some(431));
    assert_eq!(status(&broker.raw(too_many.as_bytes()).await), Some(431));
    assert_eq!(status(&broker.raw(large.as_bytes()).await), Some(202));
    assert_eq!(status(&broker.raw(many.as_bytes()).await), Some(202));

    broker.stop().await;
}

#[tokio::test]
async fn headers_that_do_not_end_cost_the_connection() {
    let broker = Broker::with(|plan| plan.http.header_timeout = Duration::from_millis(200)).await;
    for begun in [&b""[..], b"P", b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = TcpStream::connect(broker.addr).await.unwrap();
        stream.write_all(begun).await.unwrap();

        let answer = read_answer(&mut stream).await;

        assert!(matches!(status(&answer), None | Some(408)), "{answer}");
    }
    broker.taken("/async-function/echo", &[], "x").await;

    broker.stop().await;
}

#[tokio::test]
async fn bytes_no_url_may_hold_reach_the_function_encoded_as_through_the_gateway() {
    let broker = Broker::start().await;
    let mut stream = TcpStream::connect(broker.addr).await.unwrap();
    let body = "GET /<not a request> HTTP/1.1\r\n\r\n";
    let length = body.len();
    // Both on one connection: what precedes a request must not confuse it.
    for (target, framed) in [
        (&b"echo/<a>/`b`/#c/\xc3\xa9/\xff"[..], format!("content-length: {length}\r\n\r\n{body}")),
        (
            b"echo?price>10&name=\"x\"&tag=#1",
            format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        ),
    ] {
        let request =
            [b"POST /async-function/", target, b" HTTP/1.1\r\nhost: x\r\n", framed.as_bytes()].concat();
        stream.write_all(&request).await.unwrap();

        let answer = read_answer(&mut stream).await;

        assert_eq!(status(&answer), Some(202), "{answer}");
    }
    let mut calls = broker.gateway.wait_for_calls("echo", 2, SOON).await.unwrap();
    calls.sort_by_key(|call| call.target.contains('?'));
    assert!(calls[0].target.ends_with("/%3Ca%3E/%60b%60/%23c/%C3%A9/%FF"), "{}", calls[0].target);
    assert!(calls[1].target.ends_with("?price%3E10&name=%22x%22&tag=%231"), "{}", calls[1].target);
    assert!(calls.iter().all(|call| call.text() == body));

    broker.stop().await;
}

#[tokio::test]
async fn several_requests_use_one_connection() {
    let broker = Broker::start().await;
    let mut stream = TcpStream::connect(broker.addr).await.unwrap();
    for path in ["/async-function/echo", "/async-function/a:b", "/v1/info", "/async-function/env"] {
        let method = if path == "/v1/info" { "GET" } else { "POST" };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi");
        stream.write_all(request.as_bytes()).await.unwrap();

        let expected = match path {
            "/async-function/a:b" => 404,
            "/v1/info" => 200,
            _ => 202,
        };
        let answer = read_answer(&mut stream).await;
        assert_eq!(status(&answer), Some(expected), "{path}: {answer}");
    }

    broker.stop().await;
}
