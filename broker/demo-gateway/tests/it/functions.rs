//! What functions answer, and what is remembered of their calls.

use std::time::Duration;

use broker_demo_gateway::{Activity, Answer, DemoGateway, Function, Outcome, Recording, demo_functions};
use http::StatusCode;
use sha2::{Digest, Sha256};

use crate::client::{Connection, SOON, ask, call};

#[tokio::test]
async fn a_flaky_function_fails_so_often_per_call_id() {
    let gateway = DemoGateway::start([Function::flaky_with("f", 2, Answer::status(502))]).await.unwrap();

    let mut statuses = Vec::new();
    for id in ["a", "a", "b", "a", "b", "b", "a"] {
        statuses
            .push(call(gateway.addr(), "POST /function/f", &[&format!("X-Call-Id: {id}")], b"").await.status);
    }

    assert_eq!(statuses, [502, 502, 502, 200, 502, 200, 200]);
}

#[tokio::test]
async fn the_built_in_functions_answer_as_their_names_say() {
    let gateway = DemoGateway::start([
        Function::fail("fail", 422),
        Function::env("env"),
        Function::sink("sink"),
        Function::slow("slow", Duration::from_millis(1)),
        Function::in_turn("turns", [Answer::status(503).retry_after("7"), Answer::ok("at last")]),
    ])
    .await
    .unwrap();
    let at = gateway.addr();

    assert_eq!(call(at, "POST /function/fail", &[], b"").await.status, 422);
    let env = call(at, "PUT /function/env/p%20q?a=b", &["X-Topic: t", "X-Two: 1", "X-Two: 2"], b"").await;
    assert!(env.text().starts_with("Http_Method=PUT\nHttp_Path=/p%20q\nHttp_Query=a=b\n"), "{}", env.text());
    assert!(env.text().contains("Http_X_Topic=t\nHttp_X_Two=1\nHttp_X_Two=2\n"), "{}", env.text());
    assert_eq!(call(at, "POST /function/sink", &[], b"body").await.body, b"");
    assert_eq!(call(at, "POST /function/slow", &[], b"body").await.body, b"body");
    let first = call(at, "POST /function/turns", &[], b"").await;
    assert_eq!((first.status, first.header("retry-after")), (503, Some("7")));
    for _ in 0..2 {
        assert_eq!(call(at, "POST /function/turns", &[], b"").await.text(), "at last");
    }
}

#[tokio::test]
async fn replies_of_the_core_carry_its_mark_and_no_measured_time() {
    let gateway = DemoGateway::start([]).await.unwrap();
    let cases = [
        (Answer::max_inflight_reached(4), 429, Some("faas-middleware")),
        (Answer::function_auth_missing(), 401, Some("faas-middleware")),
        (Answer::process_unreachable(), 500, Some("of-watchdog")),
        (Answer::exec_timeout(), 504, Some("of-watchdog")),
        (Answer::pod_unreachable("f"), 500, Some("proxy")),
        (Answer::no_endpoints("f"), 503, Some("proxy")),
        (Answer::bad_gateway(), 502, None),
    ];

    for (answer, status, mark) in cases {
        gateway.deploy(Function::in_turn("f", [answer]));
        let reply = call(gateway.addr(), "POST /function/f", &[], b"").await;
        assert_eq!((reply.status, reply.header("x-openfaas-internal")), (status, mark));
        assert_eq!((reply.header("x-duration-seconds"), reply.header("retry-after")), (None, None));
    }
}

#[tokio::test]
async fn a_closure_decides_from_what_it_is_given() {
    let gateway = DemoGateway::start([Function::answering("f", |call| async move {
        Answer::ok(format!(
            "{} {}.{} {} {}",
            call.number,
            call.function,
            call.namespace,
            call.path,
            call.text()
        ))
        .with_header("Evoke-Outcome", "retry;after=45")
    })])
    .await
    .unwrap();

    let reply = call(gateway.addr(), "POST /function/f/deep", &[], b"body").await;

    assert_eq!(reply.text(), "1 f.openfaas-fn /deep body");
    assert_eq!(reply.header("evoke-outcome"), Some("retry;after=45"));
}

#[tokio::test]
async fn a_function_can_drop_the_connection_before_any_byte() {
    let gateway = DemoGateway::start([Function::answering("f", |_| async { Answer::drop_connection() })])
        .await
        .unwrap();

    let mut connection = Connection::open(gateway.addr()).await.unwrap();
    connection.request("POST /function/f", &[], b"read all the same").await;

    assert_eq!(connection.end().await, b"");
    let calls = gateway.calls("f");
    assert_eq!((calls[0].outcome, calls[0].text().as_str()), (Outcome::Dropped, "read all the same"));
}

#[tokio::test]
async fn a_function_can_cut_its_answer_in_the_middle() {
    let gateway =
        DemoGateway::start([Function::answering("f", |_| async { Answer::cut("half", 100) })]).await.unwrap();

    let reply = call(gateway.addr(), "POST /function/f", &[], b"").await;

    assert_eq!((reply.status, reply.header("content-length")), (200, Some("100")));
    assert_eq!((reply.body.as_slice(), reply.complete), (&b"half"[..], false));
}

#[tokio::test]
async fn a_function_can_answer_more_than_anybody_wants() {
    let gateway = DemoGateway::start([
        Function::answering("large", |_| async { Answer::large(10_000_001) }),
        Function::answering("drip", |_| async { Answer::trickle("ab", Duration::from_millis(1), 3) }),
    ])
    .await
    .unwrap();

    let large = call(gateway.addr(), "POST /function/large", &[], b"").await;
    assert_eq!((large.body.len(), large.complete), (10_000_001, true));
    let drip = call(gateway.addr(), "POST /function/drip", &[], b"").await;
    assert_eq!((drip.header("content-length"), drip.text(), drip.complete), (None, "ababab", true));
}

#[tokio::test]
async fn a_call_that_hangs_ends_when_its_caller_leaves() {
    let gateway = DemoGateway::start([Function::answering("f", |_| async { Answer::hang() })]).await.unwrap();
    let mut connection = Connection::open(gateway.addr()).await.unwrap();
    connection.request("POST /function/f", &[], b"").await;
    let calls = gateway.wait_for_calls("f", 1, SOON).await.unwrap();
    assert_eq!((calls[0].outcome, gateway.running("f")), (Outcome::Running, 1));

    drop(connection);

    let left = |calls: &[broker_demo_gateway::RecordedCall]| calls[0].outcome == Outcome::CallerLeft;
    gateway.wait_until("f", SOON, left).await.unwrap();
    assert_eq!(gateway.running("f"), 0);
}

#[tokio::test]
async fn calls_beyond_max_inflight_are_refused_by_the_watchdog() {
    let release = tokio::sync::watch::Sender::new(false);
    let held = release.subscribe();
    let function = Function::answering("f", move |_| {
        let mut held = held.clone();
        async move {
            held.wait_for(|released| *released).await.unwrap();
            Answer::ok("done")
        }
    });
    let gateway = DemoGateway::start([function.max_inflight(2)]).await.unwrap();
    let mut running = Vec::new();
    for n in 1..=2 {
        let mut connection = Connection::open(gateway.addr()).await.unwrap();
        connection.request("POST /function/f", &[], b"").await;
        gateway.wait_for_calls("f", n, SOON).await.unwrap();
        running.push(connection);
    }

    let refused = call(gateway.addr(), "POST /function/f", &[], b"").await;
    assert_eq!((refused.status, refused.header("x-openfaas-internal")), (429, Some("faas-middleware")));
    assert_eq!(refused.text(), "Concurrent request limit exceeded. Max concurrent requests: 2\n");

    release.send_replace(true);
    for connection in &mut running {
        assert_eq!(connection.reply().await.unwrap().text(), "done");
    }
    assert_eq!(call(gateway.addr(), "POST /function/f", &[], b"").await.status, 200);
    assert_eq!(gateway.peak_running("f"), 3);
}

#[tokio::test]
async fn a_long_body_is_checked_whole_and_kept_in_part() {
    let gateway = DemoGateway::builder().bodies_kept(10).function(Function::echo("f")).start().await.unwrap();
    let body: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();

    let reply = call(gateway.addr(), "POST /function/f", &[], &body).await;

    assert_eq!(reply.body, body);
    let seen = &gateway.calls("f")[0];
    assert_eq!((seen.body.as_ref(), seen.body_len), (&body[..10], 300_000));
    assert_eq!(seen.body_sha256, <[u8; 32]>::from(Sha256::digest(&body)));
}

#[tokio::test]
async fn recording_can_be_narrowed_without_losing_the_count() {
    let gateway = DemoGateway::builder()
        .calls_kept(2)
        .function(Function::echo("all"))
        .function(Function::echo("no-bodies").recording(Recording::WithoutBodies))
        .function(Function::echo("count").recording(Recording::CountOnly))
        .function(Function::no_op("no-op"))
        .start()
        .await
        .unwrap();
    for name in ["all", "no-bodies", "count", "no-op"] {
        for _ in 0..3 {
            assert_eq!(call(gateway.addr(), &format!("POST /function/{name}"), &[], b"x").await.status, 200);
        }
    }

    let kept = |name: &str| gateway.calls(name).iter().map(|call| call.number).collect::<Vec<_>>();
    assert_eq!((kept("all"), gateway.call_count("all")), (vec![2, 3], 3));
    assert_eq!((kept("no-bodies"), gateway.calls("no-bodies")[0].body.len()), (vec![2, 3], 0));
    assert_eq!((kept("count"), gateway.call_count("count")), (vec![], 3));
    assert_eq!((kept("no-op"), gateway.call_count("no-op")), (vec![], 3));
    gateway.wait_for_calls("no-op", 3, SOON).await.unwrap();
    assert!(gateway.wait_for_calls("no-op", 4, Duration::ZERO).await.is_err());
    gateway.forget_calls("all");
    assert_eq!((kept("all"), gateway.call_count("all")), (vec![], 0));
}

#[tokio::test]
async fn what_breaks_off_while_it_is_sent_is_no_call() {
    let gateway = DemoGateway::start([Function::echo("f")]).await.unwrap();
    let mut connection = Connection::open(gateway.addr()).await.unwrap();

    connection.send("POST /function/f HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    drop(connection);

    assert_eq!(ask(gateway.addr(), "POST /function/f", &[], b"whole").await.unwrap().body, b"whole");
    let bodies: Vec<_> = gateway.calls("f").iter().map(|call| call.text()).collect();
    assert_eq!(bodies, ["whole"]);
}

#[tokio::test]
async fn activity_tells_what_functions_see() {
    let gateway = DemoGateway::start([Function::fail("f", 503)]).await.unwrap();
    let mut activity = gateway.activity();

    call(gateway.addr(), "POST /function/f", &["X-Call-Id: 7", "X-Topic: t"], b"four").await;

    assert_eq!(activity.recv().await.unwrap().to_string(), "f.openfaas-fn <- call 7 from t, 4 bytes",);
    let ended = activity.recv().await.unwrap();
    let Activity::Ended { status, call_id, .. } = ended else { panic!("{ended:?}") };
    assert_eq!((status, call_id.as_str()), (Some(StatusCode::SERVICE_UNAVAILABLE), "7"));
}

#[tokio::test]
async fn the_demo_functions_do_what_their_table_says() {
    let gateway = DemoGateway::start(demo_functions()).await.unwrap();
    let at = gateway.addr();
    let post = async |name: &str, body: &[u8]| {
        call(at, &format!("POST /function/{name}"), &["X-Call-Id: 1", "X-Topic: orders.created"], body).await
    };

    assert_eq!(post("echo", b"hi").await.text(), "hi");
    assert_eq!((post("flaky", b"").await.status, post("flaky", b"").await.status), (500, 500));
    assert_eq!(post("flaky", b"").await.status, 200);
    assert_eq!(post("fail", b"").await.status, 500);
    let mailed = post("orders-mailer", b"{\"id\":5}").await;
    assert_eq!((mailed.status, mailed.text()), (202, r#"{"mailed":5,"topic":"orders.created"}"#));
    let invoice = post("orders-invoice", b"").await;
    assert_eq!((invoice.status, invoice.header("retry-after")), (503, Some("2")));
    assert_eq!(post("orders-invoice", b"").await.status, 200);
    assert_eq!(
        (post("orders-schema", b"{\"id\":5}").await.status, post("orders-schema", b"?").await.status),
        (200, 422)
    );
    assert_eq!((post("audit", b"").await.status, post("clock", b"").await.status), (200, 200));
    let list = call(at, "GET /system/functions", &[], b"").await.json();
    let wanted: Vec<_> =
        list.as_array().unwrap().iter().filter_map(|one| one["annotations"]["topic"].as_str()).collect();
    assert_eq!(wanted, ["cron-function", "orders.created, orders.paid", "orders.created", "orders.created"]);
}
