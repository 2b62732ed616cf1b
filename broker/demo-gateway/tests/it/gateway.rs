//! What an ordinary gateway does.

use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Function, Route, UnknownFunction};

use crate::client::{Connection, SOON, call};

#[tokio::test]
async fn a_list_leaves_out_what_is_empty_or_zero() {
    let gateway = DemoGateway::start([
        Function::echo("echo").annotation("topic", "a,b").label("x", "y").replicas(2),
        Function::sink("idle").replicas(0).max_inflight(3),
    ])
    .await
    .unwrap();
    call(gateway.addr(), "POST /function/echo", &[], b"").await;

    let reply = call(gateway.addr(), "GET /system/functions", &[], b"").await;

    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let mut list = reply.json();
    for function in list.as_array_mut().unwrap() {
        let created = function.as_object_mut().unwrap().shift_remove("createdAt").unwrap();
        created.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let expected = serde_json::json!([
        { "name": "echo", "image": "demo/echo:latest", "namespace": "openfaas-fn", "labels": { "x": "y" },
          "annotations": { "topic": "a,b" }, "invocationCount": 1, "replicas": 2, "availableReplicas": 2 },
        { "name": "idle", "image": "demo/sink:latest", "namespace": "openfaas-fn",
          "envVars": { "max_inflight": "3" } },
    ]);
    assert_eq!(list, expected);
}

#[tokio::test]
async fn namespaces_separate_functions_of_one_name() {
    let gateway = DemoGateway::builder()
        .namespaces(["openfaas-fn", "dev"])
        .function(Function::echo("f"))
        .function(Function::fail("f", 418).namespace("dev"))
        .start()
        .await
        .unwrap();
    let at = gateway.addr();

    assert_eq!(call(at, "GET /system/namespaces", &[], b"").await.text(), r#"["openfaas-fn","dev"]"#);
    let dev = call(at, "GET /system/functions?namespace=dev", &[], b"").await.json();
    assert_eq!((dev[0]["namespace"].as_str(), dev[1].is_null()), (Some("dev"), true));
    let default = call(at, "GET /system/functions", &[], b"").await.json();
    assert_eq!((default[0]["namespace"].as_str(), default[1].is_null()), (Some("openfaas-fn"), true));
    assert_eq!(call(at, "GET /system/functions?namespace=no", &[], b"").await.status, 400);
    assert_eq!(call(at, "POST /function/f.dev", &[], b"").await.status, 418);
    assert_eq!(call(at, "POST /function/f.openfaas-fn", &[], b"").await.status, 200);
    assert_eq!(call(at, "POST /function/f", &[], b"").await.status, 200);
    assert_eq!((gateway.call_count("f"), gateway.call_count("f.dev")), (2, 1));
    assert_eq!(gateway.calls("f")[0].written, "f.openfaas-fn");
    assert_eq!(gateway.requests(&Route::ListOf("dev".into())), 1);
    assert_eq!(gateway.requests(&Route::List), 3);
}

#[tokio::test]
async fn a_provider_without_namespaces_lists_all_it_has() {
    let gateway = DemoGateway::builder()
        .namespaces([])
        .function(Function::echo("a").namespace("x"))
        .function(Function::echo("b"))
        .start()
        .await
        .unwrap();

    assert_eq!(call(gateway.addr(), "GET /system/namespaces", &[], b"").await.text(), "[]");
    let list = call(gateway.addr(), "GET /system/functions", &[], b"").await.json();
    assert_eq!(list.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn one_function_is_shown_or_not_found() {
    let gateway = DemoGateway::start([Function::echo("echo")]).await.unwrap();

    let echo = call(gateway.addr(), "GET /system/function/echo?namespace=openfaas-fn", &[], b"").await;
    assert_eq!((echo.status, echo.json()["name"].as_str()), (200, Some("echo")));
    assert_eq!(call(gateway.addr(), "GET /system/function/nope", &[], b"").await.status, 404);
    assert_eq!(call(gateway.addr(), "GET /system/function/echo?namespace=dev", &[], b"").await.status, 404);
}

#[tokio::test]
async fn credentials_are_asked_for_on_the_system_routes_only() {
    let gateway = DemoGateway::builder()
        .basic_auth("admin", "secret")
        .function(Function::echo("echo"))
        .start()
        .await
        .unwrap();
    let at = gateway.addr();
    let right = "Authorization: Basic YWRtaW46c2VjcmV0";

    for path in ["functions", "namespaces", "function/echo", "info"] {
        let refused = call(at, &format!("GET /system/{path}"), &["Authorization: Basic bm86bm8="], b"").await;
        assert_eq!((refused.status, refused.text().trim_end()), (401, "invalid credentials"), "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"Restricted\""));
        assert_eq!(call(at, &format!("GET /system/{path}"), &[right], b"").await.status, 200, "{path}");
    }
    assert_eq!(call(at, "GET /system/functions", &[], b"").await.status, 401);
    assert_eq!(call(at, "POST /function/echo", &[], b"").await.status, 200);
    assert_eq!(call(at, "GET /healthz", &[], b"").await.status, 200);

    gateway.set_basic_auth(Some(("admin", "rotated")));
    assert_eq!(call(at, "GET /system/functions", &[right], b"").await.status, 401);
}

#[tokio::test]
async fn routes_and_methods_are_those_of_a_gateway_without_a_queue() {
    let gateway = DemoGateway::start([Function::echo("echo")]).await.unwrap();
    let at = gateway.addr();

    let cases = [
        ("POST /async-function/echo", 404),
        ("GET /nowhere", 404),
        ("POST /function/", 404),
        ("POST /function/a$b", 404),
        ("TRACE /function/echo", 405),
        ("PATCH /function/echo", 200),
        ("HEAD /healthz", 405),
        ("PATCH /system/functions", 405),
        ("POST /system/namespaces", 405),
        ("GET /system/info", 200),
    ];
    for (line, status) in cases {
        let mut connection = Connection::open(at).await.unwrap();
        connection.request(line, &["Connection: close"], b"").await;
        let answer = String::from_utf8(connection.end().await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
    let redirect = call(at, "POST //function/../function/echo?a=b", &[], b"x").await;
    assert_eq!((redirect.status, redirect.header("location")), (301, Some("/function/echo?a=b")));
    assert_eq!(gateway.call_count("echo"), 1);
}

#[tokio::test]
async fn a_call_passes_with_the_headers_a_gateway_adds_and_drops() {
    let gateway = DemoGateway::start([Function::echo("echo")]).await.unwrap();

    let sent = ["X-Start-Time: 17", "Keep-Alive: 5", "X-Multi: b", "X-Multi: a", "Content-Type: image/png"];
    let reply =
        call(gateway.addr(), "POST /function/echo/a/b%20c?x=1&y=%3Cz%3E", &sent, b"\xff\x00body").await;

    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"\xff\x00body"[..]));
    assert_eq!(reply.header("content-type"), Some("image/png"));
    assert_eq!(reply.header("x-served-by"), Some("openfaas-ce/evoke-demo"));
    assert_eq!(reply.values("x-start-time").len(), 1);
    let measured = reply.header("x-duration-seconds").unwrap();
    assert_eq!(measured.split('.').nth(1).unwrap().len(), 6, "{measured}");
    let calls = gateway.calls("echo");
    let seen = &calls[0];
    assert_eq!(seen.call_id(), reply.header("x-call-id"));
    assert_eq!(seen.header_values("x-start-time")[0], "17");
    assert_eq!(seen.header_values("x-start-time")[1].len(), 19);
    assert_eq!(seen.header_values("x-multi"), ["b", "a"]);
    assert_eq!(seen.header("x-forwarded-host"), Some("gateway:8080"));
    assert!(seen.header("x-forwarded-for").unwrap().starts_with("127.0.0.1:"));
    assert_eq!(
        (seen.header("keep-alive"), seen.header("content-length"), seen.header("host")),
        (None, None, None)
    );
    assert_eq!(seen.wire_headers["keep-alive"], "5");
    assert_eq!(seen.wire_headers["content-length"], "6");
    assert_eq!(seen.target, "/function/echo/a/b%20c?x=1&y=%3Cz%3E");
    assert_eq!((seen.body_len, &seen.body[..]), (6, &b"\xff\x00body"[..]));

    let reply = call(gateway.addr(), "POST /function/echo", &["X-Call-Id: abc"], b"").await;
    assert_eq!((reply.header("x-call-id"), reply.header("content-type")), (None, Some("text/plain")));
}

#[tokio::test]
async fn an_unknown_function_is_answered_by_gateway_or_provider_and_its_calls_are_kept() {
    let gateway = DemoGateway::start([]).await.unwrap();

    let by_gateway = call(gateway.addr(), "POST /function/nope", &[], b"a").await;
    assert_eq!((by_gateway.status, by_gateway.header("x-openfaas-internal")), (404, None));
    assert!(by_gateway.text().starts_with("error finding function nope.openfaas-fn:"));
    assert_eq!(by_gateway.header("x-duration-seconds"), None);

    gateway.set_unknown_function(UnknownFunction::NoEndpoints);
    let by_provider = call(gateway.addr(), "POST /function/nope", &[], b"b").await;
    assert_eq!((by_provider.status, by_provider.header("x-openfaas-internal")), (503, Some("proxy")));
    assert_eq!(by_provider.text().trim_end(), "No endpoints available for: nope.");

    let bodies: Vec<_> = gateway.calls("nope").iter().map(|call| call.text()).collect();
    assert_eq!(bodies, ["a", "b"]);
}

#[tokio::test]
async fn a_function_without_replicas_has_no_endpoint_or_is_scaled() {
    let cold = DemoGateway::start([Function::echo("f").replicas(0)]).await.unwrap();
    let reply = call(cold.addr(), "POST /function/f", &[], b"").await;
    assert_eq!((reply.status, reply.header("x-openfaas-internal")), (503, Some("proxy")));

    let warm = DemoGateway::builder()
        .scale_from_zero(Duration::from_millis(1))
        .function(Function::echo("f").replicas(0))
        .start()
        .await
        .unwrap();
    assert_eq!(call(warm.addr(), "POST /function/f", &[], b"").await.status, 200);
    let list = call(warm.addr(), "GET /system/functions", &[], b"").await.json();
    assert_eq!(list[0]["replicas"], 1);
}

#[tokio::test]
async fn functions_are_deployed_updated_scaled_and_removed_over_http() {
    let gateway = DemoGateway::start([]).await.unwrap();
    let at = gateway.addr();
    let deploy = br#"{"service":"f","image":"any/flaky:1","annotations":{"topic":"a"},"labels":null}"#;
    let update = br#"{"service":"f","image":"any/flaky:1","annotations":{"topic":"b"}}"#;

    assert_eq!(call(at, "PUT /system/functions", &[], update).await.status, 404);
    assert_eq!(call(at, "POST /system/functions", &[], deploy).await.status, 202);
    assert_eq!(call(at, "POST /function/f", &["X-Call-Id: 1"], b"").await.status, 500);
    assert_eq!(call(at, "PUT /system/functions", &[], update).await.status, 202);
    let list = call(at, "GET /system/functions", &[], b"").await.json();
    assert_eq!(list[0]["annotations"]["topic"], "b");
    assert_eq!(
        call(at, "POST /function/f", &["X-Call-Id: 1"], b"").await.status,
        500,
        "still the same function"
    );
    assert_eq!(call(at, "POST /function/f", &["X-Call-Id: 1"], b"").await.status, 200);
    assert_eq!(call(at, "POST /system/scale-function/f", &[], br#"{"replicas":9}"#).await.status, 202);
    let one = call(at, "GET /system/function/f", &[], b"").await.json();
    assert_eq!(one["replicas"], 5);
    assert_eq!(call(at, "DELETE /system/functions", &[], br#"{"functionName":"f"}"#).await.status, 202);
    assert_eq!(call(at, "GET /system/functions", &[], b"").await.text(), "[]");

    for bad in [&b"{"[..], br#"{"service":"a.b"}"#, br#"{"service":"a","namespace":"none"}"#] {
        assert_eq!(call(at, "POST /system/functions", &[], bad).await.status, 400);
    }
}

#[tokio::test]
async fn annotations_and_functions_change_while_it_runs() {
    let gateway = DemoGateway::start([Function::echo("f").annotation("topic", "a")]).await.unwrap();
    let list = async || call(gateway.addr(), "GET /system/functions", &[], b"").await.json();

    assert!(gateway.annotate("f", "topic", "b"));
    assert_eq!(list().await[0]["annotations"]["topic"], "b");
    assert!(gateway.unannotate("f", "topic"));
    assert!(list().await[0]["annotations"].is_null());
    assert!(gateway.scale("f", 0));
    assert!(list().await[0]["replicas"].is_null());
    assert!(gateway.remove("f"));
    assert_eq!(list().await, serde_json::json!([]));
    assert!(!gateway.remove("f") && !gateway.annotate("f", "a", "b") && !gateway.scale("f", 1));
    gateway.wait_for_requests(&Route::List, 4, SOON).await.unwrap();
    assert_eq!(gateway.requests(&Route::List), 4);
}

#[tokio::test]
async fn connections_are_kept_alive_and_counted() {
    let gateway = DemoGateway::start([Function::echo("f")]).await.unwrap();
    let mut connection = Connection::open(gateway.addr()).await.unwrap();

    for _ in 0..3 {
        connection.request("POST /function/f", &[], b"x").await;
        assert_eq!(connection.reply().await.unwrap().body, b"x");
    }
    call(gateway.addr(), "POST /function/f", &[], b"").await;

    assert_eq!(gateway.accepted_connections(), 2);
    let connections: Vec<_> = gateway.calls("f").iter().map(|call| call.connection).collect();
    assert_eq!(connections, [1, 1, 1, 2]);
}
