//! What requests and answers may hold, and who gives it back.

use std::time::Duration;

use broker_demo_gateway::{Answer, Function};
use futures::future::join_all;
use testkit::time::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Broker, SOON, header, read_answer, status};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A function that answers this much, and a budget of so much for everything.
async fn answering(length: usize, in_flight: usize) -> Broker {
    Broker::with(|plan| {
        plan.functions =
            vec![Function::in_turn("large", [Answer::large(length as u64)]), Function::echo("echo")];
        plan.engine.in_flight = in_flight as u64;
        plan.engine.response_limit = 64 * MIB as u64;
        plan.http.unread_timeout = Duration::from_millis(300);
    })
    .await
}

#[tokio::test]
async fn large_heads_come_a_few_at_a_time_and_common_ones_pass() {
    let broker = Broker::start().await;
    let head =
        format!("GET /v1/info HTTP/1.1\r\nhost: {}\r\nx-large: {}", broker.addr, "y".repeat(300 * KIB));
    let mut begun = Vec::new();
    for _ in 0..8 {
        let mut large = TcpStream::connect(broker.addr).await.unwrap();
        large.write_all(head.as_bytes()).await.unwrap();
        begun.push(large);
    }
    let mut one_more = TcpStream::connect(broker.addr).await.unwrap();
    let whole = format!("{head}\r\n\r\n");
    // What does not fit into the sockets waits there.
    let (mut reading, mut writing) = one_more.split();
    let sent = async { writing.write_all(whole.as_bytes()).await.unwrap() };
    let mut answer = [0; 12];
    let answered = async {
        tokio::join!(sent, reading.read_exact(&mut answer)).1.unwrap();
        answer
    };
    let mut answered = std::pin::pin!(answered);

    let early = tokio::time::timeout(Duration::from_millis(500), answered.as_mut()).await;

    assert!(early.is_err(), "eight large heads have all the room: {early:?}");
    assert_eq!(broker.call("/async-function/echo", &[], "x").await.status(), 202);
    begun.pop();
    let answer = tokio::time::timeout(SOON, answered).await.expect("room for one more");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // A head that has come gives its room back with its request; the connection goes on.
    for large in &mut begun {
        large.write_all(b"\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_answer(large).await), Some(200));
    }
    for _ in 0..2 {
        let again = join_all((0..8).map(|_| broker.raw(whole.as_bytes()))).await;
        assert!(again.iter().all(|answer| status(answer) == Some(200)), "{again:?}");
    }

    broker.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_the_request_whose_end_is_not_certain() {
    let broker = Broker::start().await;
    let head = "POST /async-function/echo HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\nx";

    let answer = broker.raw(head.as_bytes()).await;

    assert_eq!(status(&answer), Some(202), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");

    broker.stop().await;
}

#[tokio::test]
async fn results_that_are_waited_for_stay_within_the_budget_and_are_marked_where_they_are_cut() {
    let broker = answering(3 * MIB, 16 * MIB).await;
    let call = || broker.request(reqwest::Method::POST, "/async-function/large").header("prefer", "wait=60");

    // Each is held until it is read: two find room in the half that answers share, with what they grow into.
    let results = join_all((0..6).map(|_| async { call().send().await.unwrap() })).await;
    let held = broker.in_flight().await;
    let mut whole = 0;
    for result in results {
        assert_eq!(result.status(), 200);
        let cut = header(&result, "evoke-truncated") == Some("true");
        let length = result.bytes().await.unwrap().len();
        assert_eq!(cut, length < 3 * MIB, "{length} bytes");
        whole += usize::from(!cut);
    }

    assert!(held <= 8 * MIB, "{held} bytes are held");
    // How many depends on how fast the others are read; the first has all the room.
    assert!(whole >= 1, "none of 6 was whole");
    eventually(SOON, "the memory of answers to be given back", async || broker.in_flight().await == 0).await;
    let alone = call().send().await.unwrap();
    assert_eq!(header(&alone, "evoke-truncated"), None);
    assert_eq!(alone.bytes().await.unwrap().len(), 3 * MIB);
    broker.stop().await;

    // What is larger than all the room there is never is whole.
    let broker = answering(9 * MIB, 16 * MIB).await;
    let call = broker.request(reqwest::Method::POST, "/async-function/large").header("prefer", "wait=60");
    let cut = call.send().await.unwrap();
    assert_eq!(header(&cut, "evoke-truncated"), Some("true"));
    let length = cut.bytes().await.unwrap().len();
    assert!((MIB..=8 * MIB).contains(&length), "{length} bytes");
    broker.stop().await;
}

#[tokio::test]
async fn who_does_not_read_an_answer_loses_the_connection_and_its_memory() {
    let broker = answering(24 * MIB, 64 * MIB).await;
    let mut lazy = TcpStream::connect(broker.addr).await.unwrap();
    lazy.write_all(
        b"POST /async-function/large HTTP/1.1\r\nhost: x\r\nprefer: wait=60\r\ncontent-length: 0\r\n\r\n",
    )
    .await
    .unwrap();
    let mut first = [0; 12];
    lazy.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    eventually(SOON, "its memory to be given back", async || broker.in_flight().await == 0).await;

    let mut rest = Vec::new();
    let _ = lazy.read_to_end(&mut rest).await;
    assert!(rest.len() < 24 * MIB, "it was cut off, not served");

    broker.stop().await;
}
