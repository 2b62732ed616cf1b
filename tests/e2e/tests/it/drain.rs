//! Stopping: what runs is finished, the rest is given back, nothing is taken any more.

use std::time::{Duration, Instant};

use broker_demo_gateway::{Answer, DemoGateway, Function};
use http::Method;
use rustix::process::Signal;
use testkit::servers::NatsServer;
use testkit::time::eventually;

use crate::broker::{SOON, SUBSCRIBER, Setup, attempt_of, held, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_sigterm_finishes_what_runs_refuses_what_comes_and_gives_back_the_rest() {
    let (quick, let_quick_go) = held("quick");
    let stuck = Function::answering("stuck", |call| async move {
        match call.header("evoke-attempt") {
            Some("1") => Answer::status(500),
            _ => Answer::hang(),
        }
    });
    let gateway = DemoGateway::start([quick, stuck, Function::echo("later")]).await.unwrap();
    let setup = Setup::beside(&gateway).set("shutdown.grace", "3s");
    let mut broker = setup.start().await;
    let quick = broker.accepted(broker.call("quick")).await;
    let stuck = broker.accepted(broker.call("stuck")).await;
    let later = broker.accepted(broker.call("later").header("Evoke-Delay", "1h")).await;
    gateway.wait_for_calls("quick", 1, SOON).await.unwrap();
    gateway.wait_for_calls("stuck", 2, SOON).await.unwrap();

    broker.signal(Signal::TERM);

    let refused = eventually(SOON, "a refusal", async || {
        let answer = send(broker.call("later")).await;
        if answer.status == 202 { Err("still accepted") } else { Ok(answer) }
    })
    .await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{refused:?}");
    assert_eq!(send(broker.request(Method::GET, "/readyz")).await.status, 503);
    assert_eq!(
        send(broker.request(Method::GET, "/healthz")).await.status,
        200,
        "it is alive while it drains"
    );
    let_quick_go.add_permits(1);
    assert_eq!(broker.wait(SOON).code(), Some(0));

    broker.come_back().await;

    let calls = gateway.wait_for_calls("stuck", 3, SOON).await.unwrap();
    let attempts: Vec<&str> = calls.iter().map(attempt_of).collect();
    assert_eq!(attempts, ["1", "2", "2"], "given back with its retry count");
    assert_eq!(broker.invocation(stuck).await["interrupted"], 0, "an orderly stop is no interruption");
    assert_eq!(broker.invocation(quick).await["state"], "completed");
    assert_eq!(gateway.call_count("quick"), 1, "finished within the grace, not run again");
    assert_eq!(broker.invocation(later).await["state"], "waiting");
    send(broker.request(Method::POST, &format!("/v1/invocations/{stuck}/cancel"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_takes_a_part_of_the_grace_and_leaves_deliveries_the_rest() {
    let mut nats = NatsServer::start().await;
    let ((quick, let_quick_go), (stuck, let_stuck_go)) = (held("quick"), held("stuck"));
    let event = Function::sink("event").annotation("topic", "orders.created");
    let gateway = DemoGateway::start([quick, stuck, event]).await.unwrap();
    let config = format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}", nats.url());
    let mut broker = Setup::beside(&gateway).config(&config).set("shutdown.grace", "5s").start().await;
    nats.subscribed(SUBSCRIBER, &["orders.created"]).await;
    let quick = broker.accepted(broker.call("quick")).await;
    let stuck = broker.accepted(broker.call("stuck")).await;
    gateway.wait_for_calls("quick", 1, SOON).await.unwrap();
    gateway.wait_for_calls("stuck", 1, SOON).await.unwrap();

    // It takes what it is sent and says nothing any more, so that the source cannot take its leave.
    nats.pause();
    let began = Instant::now();
    broker.signal(Signal::TERM);
    broker.wait_for_line("did not stop in time", SOON);
    let source_took = began.elapsed();
    let_quick_go.add_permits(1);
    let ended = broker.wait_for_line("deliveries have ended", SOON);

    assert!(source_took >= Duration::from_secs(1), "a fifth of the grace: {source_took:?}");
    assert!(ended.contains("\"released\":1"), "{ended}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(4900), "the rest of the grace was theirs: {took:?}");
    assert_eq!(broker.wait(SOON).code(), Some(0));
    nats.resume();
    let_stuck_go.add_permits(2);
    broker.come_back().await;
    broker.wait_for_state(stuck, "completed").await;
    assert_eq!(broker.invocation(quick).await["state"], "completed");
    assert_eq!((gateway.call_count("quick"), gateway.call_count("stuck")), (1, 2));
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_broker_ends_at_once_and_without_a_word_of_error() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    let mut broker = Setup::beside(&gateway).start().await;
    let id = broker.accepted(broker.call("env").body("kept")).await;
    broker.wait_for_state(id, "completed").await;
    // A client that keeps its connection open does not keep the broker.
    let _idle = tokio::net::TcpStream::connect(broker.http()).await.unwrap();

    assert_eq!(broker.terminate().code(), Some(0));
    broker.come_back().await;

    assert_eq!(broker.invocation(id).await["state"], "completed");
    assert_eq!(broker.quiet().await["completed"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    let (stuck, let_go) = held("stuck");
    let gateway = DemoGateway::start([stuck]).await.unwrap();
    let mut broker = Setup::beside(&gateway).set("shutdown.grace", "10m").start().await;
    let id = broker.accepted(broker.call("stuck").body("kept")).await;
    gateway.wait_for_calls("stuck", 1, SOON).await.unwrap();

    broker.signal(Signal::TERM);
    broker.wait_for_line("draining", SOON);
    broker.signal(Signal::INT);

    let ended = broker.wait(SOON);
    assert!(ended.code().is_some_and(|code| code != 0), "{ended}");
    broker.come_back().await;
    gateway.wait_for_calls("stuck", 2, SOON).await.unwrap();
    let_go.add_permits(2);
    broker.wait_for_state(id, "completed").await;
    broker.quiet().await;
}
