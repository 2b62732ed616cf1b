//! A raw HTTP/1.1 client: what is sent is exactly what stands in the test, and a cut answer can be seen as one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An answer, as far as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as announced.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self { stream: TcpStream::connect(address).await?, unread: Vec::new() })
    }

    /// Sends raw bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request with a length, unless the head given already frames its body.
    pub(crate) async fn request(&mut self, line: &str, headers: &[&str], body: &[u8]) {
        let mut head = format!("{line} HTTP/1.1\r\nHost: gateway:8080\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        self.send(head).await;
        self.send(body).await;
    }

    /// Reads one answer; `None` when the connection ended before its first byte.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        timeout(SOON, self.read_reply()).await.expect("an answer or an end")
    }

    /// Waits for the other side to close, and gives what it sent before.
    pub(crate) async fn end(&mut self) -> Vec<u8> {
        timeout(SOON, async { while self.more().await {} }).await.expect("an end");
        std::mem::take(&mut self.unread)
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                assert!(self.unread.is_empty(), "half a head");
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..head_end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut reply = Reply { status, headers, body: Vec::new(), complete: false };
        if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply).await;
        } else {
            let length: usize = reply.header("content-length").unwrap_or("0").parse().unwrap();
            while self.unread.len() < length && self.more().await {}
            reply.complete = self.unread.len() >= length;
            reply.body = self.unread.drain(..length.min(self.unread.len())).collect();
        }
        Some(reply)
    }

    async fn read_chunks(&mut self, reply: &mut Reply) {
        loop {
            let line_end = loop {
                if let Some(at) = self.unread.windows(2).position(|two| two == b"\r\n") {
                    break at;
                }
                if !self.more().await {
                    return;
                }
            };
            let line: Vec<u8> = self.unread.drain(..line_end + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            while self.unread.len() < size + 2 {
                if !self.more().await {
                    return;
                }
            }
            reply.body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
            if size == 0 {
                reply.complete = true;
                return;
            }
        }
    }

    /// Whether more came. A reset ends a connection as well as a close does.
    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.unread).await.unwrap_or(0) > 0
    }
}

/// One request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, line: &str, headers: &[&str], body: &[u8]) -> Option<Reply> {
    let mut connection = Connection::open(address).await.unwrap();
    connection.request(line, headers, body).await;
    connection.reply().await
}

/// The same where an answer is certain.
pub(crate) async fn call(address: SocketAddr, line: &str, headers: &[&str], body: &[u8]) -> Reply {
    ask(address, line, headers, body).await.expect("an answer")
}
