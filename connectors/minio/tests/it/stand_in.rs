//! A stand-in for a store that passes its notification stream on at once: lines as the real one writes them, in chunks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What a stand-in does with the next requests for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Streams.
    Streams,
    /// Takes the request and says nothing at all, as some builds do.
    Silent,
    /// Refuses it.
    Refuses,
}

/// What was said, until it is written.
#[derive(Clone)]
struct Said {
    bytes: Bytes,
    _unwritten: Arc<()>,
}

/// What time it is there, always.
const DATE: &str = "Date: Sun, 29 Nov 2026 07:00:00 GMT\r\n";

/// The same in milliseconds.
pub(crate) const NOW: u64 = 1_795_935_600_000;

/// The listing of its only bucket.
const EMPTY: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";

/// The stand-in.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    say: broadcast::Sender<Option<Said>>,
    /// Shared with everything that some stream has still to write.
    unwritten: Arc<()>,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl StandIn {
    pub(crate) async fn start(manner: Manner) -> StandIn {
        StandIn::at("127.0.0.1:0".parse().unwrap(), manner).await
    }

    /// On this address; gone, with its streams, once it is dropped.
    pub(crate) async fn at(address: SocketAddr, manner: Manner) -> StandIn {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (say, _) = broadcast::channel(4096);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (saying, seen) = (say.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                streams.spawn(serve(stream, saying.clone(), seen.clone(), manner));
            }
        });
        StandIn { address, say, unwritten: Arc::default(), asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Sends these bytes to whoever listens.
    pub(crate) fn say(&self, bytes: impl Into<Vec<u8>>) {
        // Nobody may listen: a stream keeps nothing.
        let _ = self.say.send(Some(Said { bytes: bytes.into().into(), _unwritten: self.unwritten.clone() }));
    }

    /// Ends all streams.
    pub(crate) fn cut(&self) {
        let _ = self.say.send(None);
    }

    /// How many streams there are.
    pub(crate) fn listeners(&self) -> usize {
        self.say.receiver_count()
    }

    /// Whether all that was said is in the connections.
    pub(crate) fn has_passed_all_on(&self) -> bool {
        Arc::strong_count(&self.unwritten) == 1
    }

    /// The requests, each with its headers.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    say: broadcast::Sender<Option<Said>>,
    asked: Arc<Mutex<Vec<String>>>,
    manner: Manner,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let listing = !head.contains("events=");
    asked.lock().unwrap().push(head);
    match manner {
        _ if listing => {
            let head = format!("HTTP/1.1 200 OK\r\n{DATE}Content-Length: {}\r\n\r\n", EMPTY.len());
            stream.write_all([head.as_str(), EMPTY].concat().as_bytes()).await.ok()
        }
        Manner::Silent => std::future::pending().await,
        Manner::Refuses => {
            let body = "<Error><Code>AccessDenied</Code></Error>";
            let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.ok()
        }
        Manner::Streams => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{DATE}Transfer-Encoding: chunked\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            let mut said = say.subscribe();
            drop(say);
            let (mut from, mut stream) = stream.split();
            loop {
                let said = tokio::select! {
                    said = said.recv() => said.ok()??,
                    // Who listens says nothing more: it left.
                    _ = from.read_u8() => return None,
                };
                let chunk = [format!("{:x}\r\n", said.bytes.len()).as_bytes(), &said.bytes, b"\r\n"].concat();
                stream.write_all(&chunk).await.ok()?;
            }
        }
    }
}

/// One notification, as the stream has it; the key is not encoded.
pub(crate) fn line(bucket: &str, key: &str, sequencer: u32) -> String {
    let record = serde_json::json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "",
        "eventTime": "2026-11-29T07:00:01.000Z", "eventName": "s3:ObjectCreated:Put",
        "s3": {
            "bucket": {"name": bucket, "arn": format!("arn:aws:s3:::{bucket}")},
            "object": {"key": key, "size": 1, "eTag": "e", "sequencer": format!("{sequencer:X}")},
        },
    });
    format!("{}\n", serde_json::json!({ "Records": [record] }))
}
