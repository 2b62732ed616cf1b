//! What goes wrong when it is told to.

use std::io::ErrorKind;
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Door, Fault, Function, Outcome, RecordedCall, Route};
use tokio::net::TcpStream;

use crate::client::{Connection, SOON, ask, call};

async fn gateway() -> DemoGateway {
    DemoGateway::builder()
        .namespaces(["openfaas-fn", "dev"])
        .function(Function::echo("f"))
        .function(Function::answering("stuck", |_| async { broker_demo_gateway::Answer::hang() }))
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_gateway_that_is_down_refuses_and_comes_back_on_the_same_port() {
    let gateway = gateway().await;
    let mut open = Connection::open(gateway.addr()).await.unwrap();
    open.request("POST /function/stuck", &[], b"").await;
    gateway.wait_for_calls("stuck", 1, SOON).await.unwrap();

    for _ in 0..2 {
        gateway.go_down().await.unwrap();
        let refused = TcpStream::connect(gateway.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        gateway.come_back().await.unwrap();
        assert_eq!(call(gateway.addr(), "POST /function/f", &[], b"x").await.text(), "x");
    }

    assert_eq!(open.end().await, b"", "cut without an answer");
    let left = |calls: &[RecordedCall]| calls[0].outcome == Outcome::CallerLeft;
    gateway.wait_until("stuck", SOON, left).await.unwrap();
}

#[tokio::test]
async fn refusing_new_connections_leaves_open_ones_alone() {
    let gateway = gateway().await;
    let mut open = Connection::open(gateway.addr()).await.unwrap();
    open.request("POST /function/f", &[], b"1").await;
    assert_eq!(open.reply().await.unwrap().text(), "1");

    gateway.refuse_connections().await.unwrap();

    assert!(TcpStream::connect(gateway.addr()).await.is_err());
    open.request("POST /function/f", &[], b"2").await;
    assert_eq!(open.reply().await.unwrap().text(), "2");
}

#[tokio::test]
async fn a_list_can_be_wrong_in_every_way() {
    let gateway = gateway().await;
    let list = async || call(gateway.addr(), "GET /system/functions", &[], b"").await;
    let whole = list().await;

    gateway.faults().once(Route::List, Fault::html());
    gateway.faults().once(Route::List, Fault::null());
    gateway.faults().once(Route::List, Fault::empty_list());
    gateway.faults().once(Route::List, Fault::unauthorized());
    gateway.faults().once(Route::List, Fault::status(500));
    gateway.faults().once(Route::List, Fault::Half);
    gateway.faults().once(Route::List, Fault::drop_connection());
    gateway.faults().once(Route::List, Fault::Late(Duration::from_millis(1)));

    assert_eq!(list().await.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(list().await.text(), "null");
    assert_eq!(list().await.text(), "[]");
    let refused = list().await;
    assert_eq!((refused.status, refused.header("www-authenticate").is_some()), (401, true));
    assert_eq!(list().await.status, 500);
    let half = list().await;
    assert!(!half.complete);
    assert_eq!(half.header("content-length"), whole.header("content-length"));
    assert_eq!(half.body, whole.body[..whole.body.len() / 2]);
    assert!(ask(gateway.addr(), "GET /system/functions", &[], b"").await.is_none());
    assert_eq!(list().await.body, whole.body);
    assert_eq!(list().await.body, whole.body);
}

#[tokio::test]
async fn one_namespace_can_fail_while_others_work() {
    let gateway = gateway().await;
    let at = gateway.addr();
    gateway.faults().always(Route::ListOf("dev".into()), Fault::status(500));

    for _ in 0..3 {
        assert_eq!(call(at, "GET /system/functions?namespace=dev", &[], b"").await.status, 500);
        assert_eq!(call(at, "GET /system/functions?namespace=openfaas-fn", &[], b"").await.status, 200);
    }
    gateway.faults().clear(&Route::ListOf("dev".into()));
    assert_eq!(call(at, "GET /system/functions?namespace=dev", &[], b"").await.status, 200);
}

#[tokio::test]
async fn namespaces_can_be_missing_null_or_empty() {
    let gateway = gateway().await;
    for fault in [Fault::status(404), Fault::null(), Fault::empty_list()] {
        gateway.faults().once(Route::Namespaces, fault);
    }

    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = call(gateway.addr(), "GET /system/namespaces", &[], b"").await;
        seen.push((reply.status, reply.text().to_owned()));
    }

    let list = r#"["openfaas-fn","dev"]"#;
    let expected = [(404, ""), (200, "null"), (200, "[]"), (200, list)].map(|(s, text)| (s, text.to_owned()));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_gateway_that_hangs_answers_when_it_wakes_up() {
    let gateway = gateway().await;
    gateway.faults().always(Route::Any, Fault::Hang);
    let mut connection = Connection::open(gateway.addr()).await.unwrap();
    connection.request("POST /function/f", &[], b"patience").await;
    gateway.wait_for_requests(&Route::Function, 1, SOON).await.unwrap();
    assert_eq!(gateway.call_count("f"), 0);

    gateway.faults().clear_all();

    assert_eq!(connection.reply().await.unwrap().text(), "patience");
}

#[tokio::test]
async fn faults_of_functions_reach_the_no_op_too() {
    let gateway = DemoGateway::start([Function::no_op("n")]).await.unwrap();
    gateway.faults().once(Route::Function, Fault::status(502));
    gateway.faults().always(Route::Health, Fault::status(503));

    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(call(gateway.addr(), "POST /function/n", &[], b"x").await.status);
    }

    assert_eq!((statuses, gateway.call_count("n")), (vec![502, 200], 1));
    assert_eq!(call(gateway.addr(), "GET /healthz", &[], b"").await.status, 503);
}

#[tokio::test]
async fn the_door_can_close_connections_or_leave_them_unread() {
    let gateway = gateway().await;

    gateway.set_door(Door::CloseAtOnce);
    let mut closed = Connection::open(gateway.addr()).await.unwrap();
    assert_eq!(closed.end().await, b"");

    gateway.set_door(Door::ReadNothing);
    let mut ignored = Connection::open(gateway.addr()).await.unwrap();
    ignored.request("POST /function/f", &[], b"x").await;
    let accepted = async {
        while gateway.accepted_connections() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, accepted).await.unwrap();
    gateway.set_door(Door::Serve);

    assert_eq!(ignored.end().await, b"");
    assert_eq!(gateway.call_count("f"), 0);
    assert_eq!(call(gateway.addr(), "POST /function/f", &[], b"x").await.text(), "x");
}

#[tokio::test]
async fn finishing_connections_closes_idle_ones_and_lets_a_request_end() {
    let gateway = gateway().await;
    gateway.faults().once(Route::Function, Fault::Hang);
    let mut busy = Connection::open(gateway.addr()).await.unwrap();
    busy.request("POST /function/f", &[], b"busy").await;
    gateway.wait_for_requests(&Route::Function, 1, SOON).await.unwrap();
    let mut idle = Connection::open(gateway.addr()).await.unwrap();
    idle.request("POST /function/f", &[], b"idle").await;
    assert_eq!(idle.reply().await.unwrap().text(), "idle");
    assert_eq!(gateway.open_connections(), 2);

    gateway.finish_connections();

    assert_eq!(idle.end().await, b"");
    gateway.faults().clear_all();
    assert_eq!(busy.reply().await.unwrap().text(), "busy");
    assert_eq!(busy.end().await, b"");
}

#[tokio::test]
async fn shutting_down_ends_calls_that_never_would() {
    let gateway = gateway().await;
    let mut stuck = Connection::open(gateway.addr()).await.unwrap();
    stuck.request("POST /function/stuck", &[], b"").await;
    gateway.wait_for_calls("stuck", 1, SOON).await.unwrap();

    tokio::time::timeout(SOON, gateway.shutdown()).await.expect("nothing holds it");

    assert_eq!(stuck.end().await, b"");
    assert_eq!(gateway.open_connections(), 0);
    assert!(TcpStream::connect(gateway.addr()).await.is_err());
    assert!(gateway.come_back().await.is_err());
}

#[tokio::test]
async fn dropping_the_last_handle_stops_it() {
    let gateway = gateway().await;
    let at = gateway.addr();
    let mut open = Connection::open(at).await.unwrap();
    open.request("POST /function/stuck", &[], b"").await;
    gateway.wait_for_calls("stuck", 1, SOON).await.unwrap();

    drop(gateway);

    assert_eq!(open.end().await, b"");
}
