//! The receiver of callbacks.

use broker_demo_gateway::{Answer, CallbackReceiver, Outcome};
use http::StatusCode;
use tokio::net::TcpStream;

use crate::client::{SOON, ask, call};

#[tokio::test]
async fn callbacks_are_recorded_as_they_came() {
    let receiver = CallbackReceiver::start().await.unwrap();
    let mut activity = receiver.activity();
    assert!(receiver.url("a").ends_with("/callback/a"));

    let headers = ["X-Call-Id: 1", "X-Function-Status: 200", "Set-Cookie: a=1", "Set-Cookie: b=2"];
    let reply = call(receiver.addr(), "POST /callback/a?t=1", &headers, b"result").await;

    assert_eq!(reply.status, 200);
    let got = receiver.wait_for("a", 1, SOON).await.unwrap();
    assert_eq!((got[0].target.as_str(), got[0].text().as_str()), ("/callback/a?t=1", "result"));
    assert_eq!(got[0].header_values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(got[0].header("x-call-id"), Some("1"));
    let line = activity.recv().await.unwrap().to_string();
    assert_eq!(line, "callback a <- call 1: function status 200, answered 200");
    assert_eq!(call(receiver.addr(), "POST /elsewhere", &[], b"").await.status, 404);
}

#[tokio::test]
async fn a_receiver_fails_as_often_as_told_and_only_for_that_name() {
    let receiver = CallbackReceiver::start().await.unwrap();
    receiver.fail_next("a", 2, 503);
    receiver.answer_next("a", [Answer::drop_connection()]);

    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(receiver.addr(), "POST /callback/a", &[], b"").await.map(|reply| reply.status));
    }

    assert_eq!(statuses, [Some(503), Some(503), None, Some(200)]);
    assert_eq!(call(receiver.addr(), "POST /callback/b", &[], b"").await.status, 200);
    let outcomes: Vec<_> = receiver.received("a").iter().map(|one| one.outcome).collect();
    let busy = Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(outcomes, [busy, busy, Outcome::Dropped, Outcome::Answered(StatusCode::OK)]);
    assert_eq!((receiver.count("a"), receiver.count("b")), (4, 1));
}

#[tokio::test]
async fn a_receiver_goes_down_and_comes_back() {
    let receiver = CallbackReceiver::start().await.unwrap();

    receiver.go_down().await.unwrap();
    assert!(TcpStream::connect(receiver.addr()).await.is_err());
    receiver.come_back().await.unwrap();

    assert_eq!(call(receiver.addr(), "POST /callback/a", &[], b"").await.status, 200);
    receiver.shutdown().await;
    assert!(TcpStream::connect(receiver.addr()).await.is_err());
}
