//! What goes wrong around a broker, and what it does about it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use broker_demo_gateway::{Answer, CallbackReceiver, DemoGateway, Function, Recording};
use http::Method;
use serde_json::{Value, json};
use testkit::servers::{NatsServer, Relay};
use testkit::time::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::{Broker, SOON, SUBSCRIBER, Setup, attempt_of, held, send, try_send};

async fn beside(functions: impl IntoIterator<Item = Function>) -> (DemoGateway, Broker) {
    let gateway = DemoGateway::start(functions).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;
    (gateway, broker)
}

/// The state of one part in `/readyz`.
async fn part(broker: &Broker, name: &str) -> Value {
    let parts = send(broker.request(Method::GET, "/readyz")).await.json()["parts"].take();
    let found = parts.as_array().unwrap().iter().find(|part| part["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {parts}"))["state"].clone()
}

// The gateway.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_down_at_the_start_is_waited_for() {
    let gateway =
        DemoGateway::start([Function::echo("env").annotation("topic", "orders.created")]).await.unwrap();
    gateway.go_down().await.unwrap();
    let broker = Setup::beside(&gateway).start_without_functions().await;

    let id = broker.accepted(broker.call("env").body("early")).await;

    let event = json!({ "topic": "orders.created" });
    let refused = send(broker.request(Method::POST, "/v1/events").json(&event)).await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (503, &"/problems/no-function-list".into()),
        "{refused:?}"
    );
    assert_eq!(part(&broker, "functions").await, "not-loaded");
    eventually(SOON, "the gateway to be held for down", async || part(&broker, "gateway").await == "down")
        .await;
    assert_eq!(
        send(broker.request(Method::GET, "/readyz")).await.status,
        200,
        "accepting is what we are for"
    );
    gateway.come_back().await.unwrap();
    broker.wait_for_state(id, "completed").await;
    broker.listed().await;
    broker.publish("orders.created", "late").await;
    let calls = gateway.wait_for_calls("env", 2, SOON).await.unwrap();
    assert!(calls.iter().all(|call| attempt_of(call) == "1"), "an unreachable gateway is nobody's attempt");
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_goes_down_holds_every_call_and_costs_none_an_attempt() {
    let gateway = DemoGateway::start([Function::echo("a"), Function::echo("b")]).await.unwrap();
    let broker = Setup::beside(&gateway).set("delivery.retry.attempts", "0").start().await;
    let before = broker.accepted(broker.call("a")).await;
    broker.wait_for_state(before, "completed").await;

    gateway.go_down().await.unwrap();
    for n in 0..40 {
        broker.accepted(broker.call(if n % 2 == 0 { "a" } else { "b" })).await;
    }
    eventually(SOON, "the gateway to be held for down", async || part(&broker, "gateway").await == "down")
        .await;
    let info = broker.info().await;
    assert!(info["gateway"]["down"]["last_error"].is_string(), "{info}");
    assert_eq!((&info["ledger"]["held"], &info["ledger"]["dead"]), (&40.into(), &0.into()));
    assert!(broker.samples().await.contains(&"evoke_gateway_down 1".to_owned()));
    gateway.come_back().await.unwrap();

    for function in ["a", "b"] {
        gateway.wait_for_calls(function, 20, SOON).await.unwrap();
        assert!(gateway.calls(function).iter().all(|call| attempt_of(call) == "1"));
    }
    let ledger = broker.quiet().await;
    assert_eq!((&ledger["completed"], &ledger["dead"]), (&41.into(), &0.into()));
    eventually(SOON, "the gateway to be fine", async || part(&broker, "gateway").await == "ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_hangs_delays_no_other() {
    let (gateway, broker) = beside([
        Function::in_turn("hangs", [Answer::hang()]),
        Function::echo("env"),
        Function::fail("fail", 500),
    ])
    .await;
    let mut stuck = Vec::new();
    for _ in 0..30 {
        stuck.push(broker.accepted(broker.call("hangs")).await);
        broker.accepted(broker.call("fail").header("Evoke-Max-Age", "1h")).await;
    }
    gateway.wait_for_calls("hangs", 1, SOON).await.unwrap();

    for _ in 0..10 {
        let answer = send(broker.call("env").header("Prefer", "wait=30").body("ping")).await;
        assert_eq!(
            (answer.status, &*answer.text(), answer.header("evoke-state")),
            (200, "ping", "completed")
        );
    }

    let lanes = broker.get("/v1/functions/hangs").await["lanes"].take();
    assert_eq!(
        lanes[0]["waiting"].as_u64().unwrap() + lanes[0]["delivering"].as_u64().unwrap(),
        30,
        "{lanes}"
    );
    for id in stuck {
        send(broker.request(Method::POST, &format!("/v1/invocations/{id}/cancel"))).await;
    }
    eventually(SOON, "the stuck calls to be left", async || gateway.running("hangs") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_at_the_function_is_waited_out_and_is_no_attempt() {
    let full = std::iter::repeat_n(Answer::max_inflight_reached(1), 25).chain([Answer::ok("room")]);
    let own = std::iter::repeat_n(Answer::status(429), 3);
    let gateway =
        DemoGateway::start([Function::in_turn("full", full), Function::in_turn("own", own)]).await.unwrap();
    let broker = Setup::beside(&gateway).set("delivery.retry.attempts", "2").start().await;

    let full = broker.accepted(broker.call("full")).await;
    let own = broker.accepted(broker.call("own")).await;

    broker.wait_for_state(full, "completed").await;
    assert_eq!(gateway.call_count("full"), 26);
    assert!(gateway.calls("full").iter().all(|call| attempt_of(call) == "1"));
    assert_eq!(
        broker.wait_for_state(own, "dead").await["reason"],
        "exhausted",
        "a function's own 429 is an attempt"
    );
    assert_eq!(gateway.call_count("own"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_limit_is_cut_and_marked() {
    let gateway = DemoGateway::start([Function::in_turn("big", [Answer::large(64 << 20)])]).await.unwrap();
    let broker = Setup::beside(&gateway).set("limits.response", "64KiB").start().await;
    let callbacks = CallbackReceiver::start().await.unwrap();

    let id = broker.accepted(broker.call("big").header("X-Callback-Url", callbacks.url("end"))).await;

    let callback = callbacks.wait_for("end", 1, SOON).await.unwrap().remove(0);
    assert_eq!((callback.body_len, callback.header("evoke-truncated")), (64 << 10, Some("true")));
    assert_eq!(callback.header("x-function-status"), Some("200"));
    broker.wait_for_state(id, "completed").await;
    assert_eq!(gateway.call_count("big"), 1);
    broker.quiet().await;
}

// The disk.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_calls_loses_none_and_takes_them_again_when_space_returns() {
    let gateway =
        DemoGateway::start([Function::sink("work").recording(Recording::Everything)]).await.unwrap();
    let setup = Setup::beside(&gateway).set("store.embedded.min_free", "4MiB").on_a_disk_of("256m");
    let mut broker = setup.start().await;
    broker.expect_error("the store is full");
    // The filesystem is the process's own; this is the way in.
    let disk = format!("/proc/{}/root{}", broker.id().unwrap(), setup.data().display());
    let ballast = Path::new(&disk).join("ballast");
    send(broker.request(Method::POST, "/v1/functions/work/pause")).await;
    std::fs::write(&ballast, vec![7; 64 << 20]).unwrap();

    let body = vec![b'x'; 200 << 10];
    let mut accepted = Vec::new();
    let full = loop {
        let answer = send(broker.call("work").body(body.clone())).await;
        match answer.status {
            202 => accepted.push(answer.invocation()),
            _ => break answer,
        }
        assert!(accepted.len() < 2000, "more than the disk can hold was accepted");
    };

    assert_eq!(full.status, 507, "{full:?}");
    assert!(full.text().contains(&format!("{} invocations wait", accepted.len())), "{}", full.text());
    assert_eq!(full.header("retry-after"), "1");
    assert!(!accepted.is_empty());
    assert_eq!(part(&broker, "store").await, "full");
    assert_eq!(broker.ledger("held").await, accepted.len() as i64);
    let event = json!({ "topic": "nobody.wants" });
    let nobody = send(broker.request(Method::POST, "/v1/events").json(&event)).await;
    assert_eq!(nobody.status, 202, "what needs no space is answered: {nobody:?}");

    std::fs::remove_file(&ballast).unwrap();
    let again = eventually(SOON, "space", async || {
        let answer = send(broker.call("work").body("more")).await;
        if answer.status == 202 { Ok(answer.invocation()) } else { Err(answer.text()) }
    })
    .await;
    accepted.push(again);
    send(broker.request(Method::POST, "/v1/functions/work/resume")).await;

    let ledger = broker.quiet().await;
    assert_eq!((&ledger["completed"], &ledger["dead"]), (&accepted.len().into(), &0.into()));
    let mut seen: Vec<_> = gateway.calls("work").iter().map(crate::broker::invocation_of).collect();
    seen.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(seen, accepted);
    assert_eq!(part(&broker, "store").await, "ok");
}

// Callers.

/// Sends these bytes on a connection of its own, and gives what comes back until it closes or falls silent.
async fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // A server may answer and close before it has read all; that is an answer, too.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_one_by_one_and_harm_nobody() {
    let (gateway, broker) = beside([Function::echo("env")]).await;
    let long_name = "n".repeat(10_000);
    let many: String = (0..2000).map(|n| format!("x-{n}: y\r\n")).collect();
    let huge = format!("x: {}\r\n", "y".repeat(2 << 20));
    let post =
        |path: &str, headers: &str| format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let front = |name: &str| post(&format!("/async-function/{name}"), "content-length: 0\r\n");
    for (what, request, statuses) in [
        ("no HTTP", "\x16\x03\x01\x02\x00".to_owned(), &["400", ""][..]),
        ("no version", "POST /async-function/env\r\n\r\n".to_owned(), &["400", ""]),
        ("a negative length", post("/async-function/env", "content-length: -1\r\n"), &["400"]),
        ("two lengths", post("/async-function/env", "content-length: 1\r\ncontent-length: 2\r\n"), &["400"]),
        ("too many headers", post("/async-function/env", &many), &["431"]),
        ("headers over the limit", post("/async-function/env", &huge), &["431"]),
        (
            "a broken chunk",
            post("/async-function/env", "transfer-encoding: chunked\r\n") + "zz\r\n",
            &["400"],
        ),
        (
            "an unknown coding",
            post("/async-function/env", "transfer-encoding: gzip\r\n") + "x",
            &["400", "501"],
        ),
        ("a slash in a name", front("a%2Fb"), &["404"]),
        ("a parent folder", front(".."), &["404"]),
        ("a hidden parent folder", front("%2e%2e/x"), &["404"]),
        ("a name that is too long", front(&long_name), &["404"]),
        ("a name of no text", front("%ff%fe"), &["404"]),
        ("a name with a space", front("a%20b"), &["404"]),
        ("no name", front(""), &["404"]),
        (
            "an absurd delay",
            post("/async-function/env", "evoke-delay: 1000000h\r\ncontent-length: 0\r\n"),
            &["400"],
        ),
        (
            "a delay without a unit",
            post("/async-function/env", "evoke-delay: 30\r\ncontent-length: 0\r\n"),
            &["400"],
        ),
        (
            "an absurd moment",
            post("/async-function/env", "evoke-at: tomorrow\r\ncontent-length: 0\r\n"),
            &["400"],
        ),
        (
            "a call id of no text",
            post("/async-function/env", "x-call-id: \u{e9}\r\ncontent-length: 0\r\n"),
            &["400"],
        ),
        ("a proxy's route", post("/function/env", "content-length: 0\r\n"), &["404"]),
    ] {
        let answer = raw(broker.http(), request.as_bytes()).await;

        let status = status_line(&answer).split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{what}: {answer}");
    }
    // An upload that ends in the middle is nobody's call.
    let _ = raw(broker.http(), (post("/async-function/env", "content-length: 100\r\n") + "half").as_bytes())
        .await;
    assert_eq!((broker.ledger("accepted").await, gateway.call_count("env")), (0, 0));

    let answer = raw(broker.http(), front("env").as_bytes()).await;

    assert!(status_line(&answer).contains("202"), "{answer}");
    gateway.wait_for_calls("env", 1, SOON).await.unwrap();
    assert_eq!(broker.quiet().await["accepted"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    for (switch, status) in [("413", 413), ("500", 500)] {
        let setup = Setup::beside(&gateway).set("limits.body", "1MiB").set("front.body_over_limit", switch);
        let broker = setup.start().await;
        let body = vec![b'x'; (1 << 20) + 1];

        let told = send(broker.call("env").body(body.clone())).await;

        assert_eq!(told.status, status, "{told:?}");
        assert!(
            told.text().starts_with("Error queuing request: ") && told.text().contains("limits.body"),
            "{told:?}"
        );
        let mut chunked =
            b"POST /async-function/env HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        for piece in body.chunks(64 << 10) {
            chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let untold = raw(broker.http(), &chunked).await;
        assert!(status_line(&untold).contains(&status.to_string()), "{untold}");
        let fits = broker.accepted(broker.call("env").body(vec![b'x'; 1 << 20])).await;
        broker.wait_for_state(fits, "completed").await;
        assert_eq!(broker.quiet().await["accepted"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slow_uploads_stay_within_their_memory_and_small_calls_pass() {
    const UPLOADS: usize = 256;
    const LENGTH: usize = 64 << 20;
    const SENT: usize = 512 << 10;
    let (gateway, broker) = beside([Function::sink("env")]).await;
    let before = broker.memory_kib("VmRSS");
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        let mut stream = TcpStream::connect(broker.http()).await.unwrap();
        let head = format!(
            "POST /async-function/env HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LENGTH}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        uploads.push(stream);
    }
    // All at once and each a piece at a time; those that get no room yet wait with full sockets.
    let piece = vec![b'x'; 16 << 10];
    for _ in 0..SENT / piece.len() {
        for upload in &mut uploads {
            let _ = timeout(Duration::from_millis(1), upload.write_all(&piece)).await;
        }
        let small = broker.accepted(broker.call("env").body("small")).await;
        broker.wait_for_state(small, "completed").await;
    }

    let peak = broker.memory_kib("VmHWM");

    // Uploads have half of `limits.in_flight`, 32 MiB: 128 KiB each. As much again is for their connections, the threads
    // that write for them, the small calls and the allocator.
    assert!(peak < before + (64 << 10), "{before} KiB before, {peak} KiB at the most");
    assert_eq!(broker.ledger("accepted").await, (SENT / piece.len()) as i64);
    drop(uploads);
    let whole = broker.accepted(broker.call("env").body(vec![b'y'; LENGTH])).await;
    broker.wait_for_state(whole, "completed").await;
    let call = gateway.calls("env").pop().unwrap();
    assert_eq!(call.body_len, LENGTH as u64);
    let spooled = || std::fs::read_dir(broker.setup().data().join("bodies")).unwrap().count();
    eventually(SOON, "what was never finished to be removed", async || {
        // The one that was delivered may be kept for who asks for it.
        if spooled() <= 1 { Ok(()) } else { Err(format!("{} files", spooled())) }
    })
    .await;
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_stays_within_the_sum_of_its_bounds() {
    const MIB: u64 = 1 << 10;
    const CONNECTIONS: u64 = 256 + 64 + 32;
    let hangs = Function::in_turn("hangs", [Answer::hang()]).annotation("evoke.concurrency", "224");
    let large = Function::in_turn("large", [Answer::large(9 << 20)]);
    let gateway = DemoGateway::start([hangs, large, Function::sink("env")]).await.unwrap();
    let broker = Setup::beside(&gateway).set("shutdown.grace", "1s").start().await;
    let before = broker.memory_kib("VmRSS");

    // Deliveries under way with the largest bodies that are held in memory, and a backlog of as many behind them.
    let body = vec![b'x'; 250 << 10];
    for _ in 0..8 {
        let calls: tokio::task::JoinSet<_> =
            (0..64).map(|_| send(broker.call("hangs").body(body.clone()))).collect();
        assert!(calls.join_all().await.iter().all(|answer| answer.status == 202));
    }
    gateway.wait_for_calls("hangs", 224, SOON).await.unwrap();
    // Results that are waited for, and not read.
    let mut callers = Vec::new();
    for _ in 0..32 {
        let mut caller = TcpStream::connect(broker.http()).await.unwrap();
        let call =
            "POST /async-function/large HTTP/1.1\r\nhost: x\r\nprefer: wait=60\r\ncontent-length: 0\r\n\r\n";
        caller.write_all(call.as_bytes()).await.unwrap();
        callers.push(caller);
    }
    // Uploads that do not end.
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..256 {
        let mut upload = TcpStream::connect(broker.http()).await.unwrap();
        let head = "POST /async-function/env HTTP/1.1\r\nhost: x\r\ncontent-length: 67108864\r\n\r\n";
        upload.write_all(head.as_bytes()).await.unwrap();
        callers.push(upload);
    }
    for _ in 0..8 {
        for upload in callers.iter_mut().skip(32) {
            let _ = timeout(Duration::from_millis(1), upload.write_all(&piece)).await;
        }
        let small = broker.accepted(broker.call("env").body("small")).await;
        broker.wait_for_state(small, "completed").await;
    }

    // As `docs/adr/0001-journal-and-sled.md` adds it up: in flight, kept beside entries, deliveries of at most 256 KiB, and
    // what a connection reads into. Half as much again: the allocator gives back a second later what was freed, and
    // the process reads its own code from disk as it first runs it.
    let sum = 64 * MIB + 16 * MIB + 224 * 256 + CONNECTIONS * 32;
    let peak = broker.memory_kib("VmHWM");
    assert!(peak < before + sum + sum / 2, "{before} KiB before, {peak} at the most, {sum} stated");
    assert!(peak > before + sum / 2, "the load was none: {before} KiB before, {peak} at the most");
    drop(callers);
    let small = broker.accepted(broker.call("env").body("small")).await;
    broker.wait_for_state(small, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_cannot_use_the_open_api() {
    let (_gateway, broker) = beside([Function::echo("env")]).await;
    let pause = || broker.request(Method::POST, "/v1/functions/env/pause");
    for (request, problem) in [
        (pause().header("Origin", "https://evil.example"), "foreign-origin"),
        (pause().header("Origin", "null"), "foreign-origin"),
        (pause().header("Sec-Fetch-Site", "cross-site"), "foreign-origin"),
        (pause().header("Host", "evil.example"), "foreign-host"),
        (pause().header("X-Forwarded-For", "10.0.0.1"), "behind-proxy"),
        (pause().header("Via", "1.1 proxy"), "behind-proxy"),
    ] {
        let answer = send(request).await;

        assert_eq!(answer.status, 403, "{answer:?}");
        let said = answer.json();
        assert_eq!(said["type"], format!("/problems/{problem}"));
        assert!(said["remedy"].as_str().is_some_and(|remedy| remedy.contains("credentials")), "{said}");
        assert_eq!(answer.find("access-control-allow-origin"), None);
    }
    let preflight = broker.request(Method::OPTIONS, "/v1/functions/env/pause");
    let answer = send(preflight.header("Origin", "https://evil.example")).await;
    assert_eq!((answer.status, answer.find("access-control-allow-origin")), (403, None));
    assert_eq!(broker.get("/v1/functions/env").await["paused"], false);
    let called = send(broker.call("env").header("Origin", "https://evil.example")).await;
    assert_eq!(called.status, 202, "the front is as open as the gateway's");
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_cannot_operate_the_broker_directly_or_through_a_proxy() {
    let (gateway, broker) = beside([Function::echo("env"), Function::sink("next")]).await;
    let proxy = Relay::to(broker.http()).await;
    let pause = "/v1/functions/env/pause";
    let directly = send(broker.call("env").header("X-Callback-Url", broker.url(pause))).await;
    assert_eq!(directly.status, 400, "a literal address of our own is refused at once: {directly:?}");

    let port = broker.http().port();
    let by_name = format!("http://localhost:{port}{pause}");
    let through_proxy = format!("http://{}{pause}", proxy.address());
    let metrics = format!("http://localhost:{}/metrics", broker.metrics_address().port());
    for url in [&by_name, &through_proxy, &metrics] {
        broker.accepted(broker.call("env").header("X-Callback-Url", url).header("X-Call-Id", "attack")).await;
    }
    // Chaining is what callbacks are often for.
    let chain = broker.url("/async-function/next");
    broker
        .accepted(
            broker.call("env").header("X-Callback-Url", chain).header("X-Call-Id", "chained").body("on"),
        )
        .await;

    let chained = gateway.wait_for_calls("next", 1, SOON).await.unwrap().remove(0);
    assert_eq!((&*chained.text(), chained.call_id()), ("on", Some("chained")));
    let ledger = broker.quiet().await;
    assert_eq!((&ledger["dead"], &ledger["completed"]), (&3.into(), &6.into()), "{ledger}");
    let mut reasons: Vec<String> = broker
        .items("/v1/dead-letters")
        .await
        .iter()
        .map(|dead| dead["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["callback-denied", "callback-denied", "rejected"]);
    assert_eq!(broker.get("/v1/functions/env").await["paused"], false);
}

// The upstream.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_restarts_under_load_costs_no_receipt_and_no_hot_loop() {
    let mut nats = NatsServer::start().await;
    let function = Function::sink("orders").annotation("topic", "orders.created");
    let gateway = DemoGateway::start([function, Function::sink("api").annotation("topic", "api.called")])
        .await
        .unwrap();
    let config = format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}", nats.url());
    let broker = Setup::beside(&gateway).config(&config).start().await;
    let connected = async || {
        eventually(SOON, "the source", async || broker.get("/v1/sources/bus").await["state"] == "connected")
            .await;
    };
    connected().await;
    let publisher = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let publisher = publisher.connect(nats.url()).await.unwrap();
    let mut receipts = 0;
    let mut disconnected_ticks = 0;

    for round in 0..3 {
        for n in 0..50 {
            // Core NATS promises nothing while it is away: some of these may be lost, and none comes twice.
            let _ = publisher.publish("orders.created", format!("{round}-{n}").into()).await;
            receipts +=
                broker.publish("api.called", "x").await["invocations"].as_array().unwrap().len() as u64;
            if n == 25 {
                nats.kill();
            }
        }
        eventually(SOON, "the source to notice", async || {
            broker.get("/v1/sources/bus").await["state"] != "connected"
        })
        .await;
        let before = broker.processor_ticks();
        tokio::time::sleep(Duration::from_millis(700)).await;
        disconnected_ticks += broker.processor_ticks() - before;
        nats.start_again().await;
        connected().await;
        nats.subscribed(SUBSCRIBER, &["api.called", "orders.created"]).await;
        let last = format!("{round}-last");
        eventually(SOON, "an event of after the restart", async || {
            let _ = publisher.publish("orders.created", last.clone().into()).await;
            let _ = publisher.flush().await;
            gateway.calls("orders").iter().any(|call| call.text() == last)
        })
        .await;
    }

    assert_eq!(receipts, 150);
    gateway.wait_for_calls("api", receipts, SOON).await.unwrap();
    broker.quiet().await;
    assert_eq!(gateway.call_count("api"), receipts);
    let source = broker.get("/v1/sources/bus").await;
    assert_eq!(source["counts"]["accepted"], gateway.call_count("orders"), "{source}");
    let gaps = source["disconnected"].as_array().unwrap().len();
    assert_eq!(gaps, 4, "the way to the first connection, and each loss: {source}");
    assert!(broker.samples().await.contains(&"queue_worker_nats_reconnect_total 3".to_owned()));
    // Two seconds without a server, of which a loop without a pause would take most.
    assert!(disconnected_ticks < 100, "{disconnected_ticks} ticks of 10 ms while it waited");
    let complaints = broker.json_log().iter().filter(|line| line["level"] == "WARN").count();
    assert!(complaints < 60, "{complaints} warnings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_is_not_there_yet_is_waited_for() {
    let mut nats = NatsServer::start().await;
    nats.terminate();
    let gateway =
        DemoGateway::start([Function::sink("orders").annotation("evoke.topics", "orders.>")]).await.unwrap();
    let config = format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}", nats.url());
    let broker = Setup::beside(&gateway).config(&config).start().await;
    let id = broker.accepted(broker.call("orders")).await;
    broker.wait_for_state(id, "completed").await;

    nats.start_again().await;

    nats.subscribed(SUBSCRIBER, &["orders.>"]).await;
    let publisher = async_nats::connect(nats.url()).await.unwrap();
    publisher.publish("orders.a.b", "deep".into()).await.unwrap();
    publisher.flush().await.unwrap();
    let calls = gateway.wait_for_calls("orders", 2, SOON).await.unwrap();
    assert_eq!(calls[1].header("x-topic"), Some("orders.a.b"));
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_waiting_are_refused_with_429_and_taken_again_when_some_have_run() {
    let (work, let_go) = held("work");
    let gateway = DemoGateway::start([work]).await.unwrap();
    let broker = Setup::beside(&gateway).set("limits.waiting", "10").start().await;
    for _ in 0..10 {
        broker.accepted(broker.call("work")).await;
    }

    let refused = try_send(broker.call("work")).await.unwrap();

    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "{refused:?}");
    let_go.add_permits(1000);
    broker.quiet().await;
    broker.accepted(broker.call("work")).await;
    assert_eq!(broker.quiet().await["completed"], 11);
}
