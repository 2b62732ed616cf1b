//! Messages whose properties no client can read.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, Message};
use crate::rig::{TASKS, fresh, shared};

/// A publisher that says what no client library would.
pub(crate) struct Careless {
    stream: TcpStream,
}

impl Careless {
    /// One with a channel, in the default virtual host.
    pub(crate) async fn at(server: SocketAddr) -> Careless {
        let mut stream = TcpStream::connect(server).await.unwrap();
        // One frame at a time, each of them at once.
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        let mut careless = Careless { stream };
        careless.hears(10, 10).await;
        // Start-Ok: no properties, PLAIN, the guest, a locale.
        careless
            .says(
                1,
                0,
                b"\x00\x0a\x00\x0b\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US",
            )
            .await;
        careless.hears(10, 30).await;
        // Tune-Ok: few channels, frames of 128 KiB, no heartbeats. Open of `/`. Open of channel 1, which confirms.
        careless.says(1, 0, &[0, 10, 0, 31, 0, 8, 0, 2, 0, 0, 0, 0]).await;
        careless.says(1, 0, b"\x00\x0a\x00\x28\x01/\x00\x00").await;
        careless.hears(10, 41).await;
        careless.says(1, 1, &[0, 20, 0, 10, 0]).await;
        careless.hears(20, 11).await;
        careless.says(1, 1, &[0, 85, 0, 10, 0]).await;
        careless.hears(85, 11).await;
        careless
    }

    /// Publishes a message whose id is no text, and waits for the server's confirmation.
    pub(crate) async fn publish(&mut self, queue: &str, body: &[u8]) {
        const MESSAGE_ID: u16 = 1 << 7;
        let name = u8::try_from(queue.len()).unwrap();
        // Publish: the default exchange, the queue, no flags.
        let publish = [&[0, 60, 0, 40, 0, 0, 0, name], queue.as_bytes(), &[0]].concat();
        let length = (body.len() as u64).to_be_bytes();
        let header =
            [&[0, 60, 0, 0][..], &length, &MESSAGE_ID.to_be_bytes(), &[3, 0xff, 0xfe, b'x']].concat();
        self.says(1, 1, &publish).await;
        self.says(2, 1, &header).await;
        self.says(3, 1, body).await;
        self.hears(60, 80).await;
    }

    async fn says(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind, 0, channel], &length[..], payload, &[0xce]].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn hears(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        self.stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest[..4], [class.to_be_bytes(), method.to_be_bytes()].concat(), "{rest:?}");
    }
}

#[tokio::test]
async fn a_message_whose_id_is_no_text_is_kept_and_stops_nobody() {
    let server = shared().await;
    let client = Client::of(server.url());
    let (queue, other) = (fresh("malformed"), fresh("other"));
    client.queue(&queue, "quorum").await;
    client.queue(&other, "classic").await;
    let mut careless = Careless::at(server.address()).await;
    careless.publish(&queue, b"whatever").await;
    client.publish(&[Message::to(&queue, "behind it"), Message::to(&other, "beside it")]).await;

    let rig = TASKS.start(json!({"url": server.url(), "topics": [queue, other]}));
    rig.has(2).await;
    rig.sees("the dead letter", |seen| seen.quarantined.len() == 1).await;
    rig.stopped().await;
}
