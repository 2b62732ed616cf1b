//! The two phases of an end.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fixture::{Broker, SOON, read_answer, status};

#[tokio::test]
async fn a_graceful_end_answers_what_was_begun_and_takes_no_new_connection() {
    let mut broker = Broker::start().await;
    let mut idle = TcpStream::connect(broker.addr).await.unwrap();
    let mut begun = TcpStream::connect(broker.addr).await.unwrap();
    begun
        .write_all(b"POST /async-function/echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await
        .unwrap();
    let mut asked = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut begun, &mut asked).await.unwrap();

    broker.shutdown.graceful.cancel();

    assert_eq!(read_answer(&mut idle).await, "", "an idle connection is closed");
    begun.write_all(b"body").await.unwrap();
    assert_eq!(status(&read_answer(&mut begun).await), Some(202));
    for serving in broker.serving.drain(..) {
        tokio::time::timeout(SOON, serving).await.expect("serving ends").unwrap();
    }
    assert!(TcpStream::connect(broker.addr).await.is_err());

    broker.stop().await;
}

#[tokio::test]
async fn a_forced_end_waits_for_nobody() {
    let mut broker = Broker::start().await;
    let waiting = broker.call_in_background("/async-function/slow", "wait=60");
    broker.gateway.wait_for_calls("slow", 1, SOON).await.unwrap();

    broker.shutdown.graceful.cancel();
    tokio::time::timeout(Duration::from_millis(100), &mut broker.serving[0])
        .await
        .expect_err("somebody waits");
    broker.shutdown.force.cancel();

    for serving in broker.serving.drain(..) {
        tokio::time::timeout(SOON, serving).await.expect("serving ends").unwrap();
    }
    assert!(waiting.await.unwrap().is_err(), "the connection was dropped");

    broker.stop().await;
}
