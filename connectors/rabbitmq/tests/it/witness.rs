//! A stretch of wire that counts what a client acknowledges.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on to a server, and counts the messages that were acknowledged or given back on them.
pub(crate) struct Witness {
    address: SocketAddr,
    seen: Arc<Seen>,
    words: watch::Sender<Vec<u8>>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    acknowledged: AtomicU64,
    given_back: AtomicU64,
}

impl Witness {
    pub(crate) async fn of(server: SocketAddr) -> Witness {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let mut accepting = JoinSet::new();
        let counts = seen.clone();
        let (words, heard) = watch::channel(Vec::new());
        accepting.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (counts, mut heard) = (counts.clone(), heard.clone());
                heard.mark_unchanged();
                passing.spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    pass(client, server, &counts, heard).await;
                });
            }
        });
        Witness { address, seen, words, _accepting: accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says a method of the connection to the client, as if the server did. While the server says nothing else.
    pub(crate) fn say(&self, method: &[u8]) {
        let length = u32::try_from(method.len()).unwrap().to_be_bytes();
        self.words.send_replace([&[1, 0, 0], &length[..], method, &[0xce]].concat());
    }

    /// How many messages were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.seen.acknowledged.load(Ordering::SeqCst)
    }

    /// How many messages were given back one by one, to be sent again at once.
    pub(crate) fn given_back(&self) -> u64 {
        self.seen.given_back.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    seen: &Seen,
    mut words: watch::Receiver<Vec<u8>>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let back = async {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let said = tokio::select! {
                length = from_server.read(&mut chunk) => match length {
                    Ok(length @ 1..) => to_client.write_all(&chunk[..length]).await,
                    _ => break,
                },
                Ok(()) = words.changed() => {
                    let word = words.borrow_and_update().clone();
                    to_client.write_all(&word).await
                }
            };
            if said.is_err() {
                break;
            }
        }
    };
    let forth = async {
        let mut frames = Frames::default();
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
            frames.read(&chunk[..length], seen);
            if to_server.write_all(&chunk[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = back => {}
        () = forth => {}
    }
}

/// What a client sends, cut into frames.
#[derive(Default)]
struct Frames {
    greeted: bool,
    rest: Vec<u8>,
}

impl Frames {
    fn read(&mut self, bytes: &[u8], seen: &Seen) {
        const GREETING: usize = 8;
        const METHOD: u8 = 1;
        self.rest.extend_from_slice(bytes);
        if !self.greeted && self.rest.len() >= GREETING {
            self.rest.drain(..GREETING);
            self.greeted = true;
        }
        // Type, channel, length; the payload; an end octet.
        while self.greeted && self.rest.len() >= 7 {
            let length = u32::from_be_bytes(self.rest[3..7].try_into().unwrap()) as usize;
            if self.rest.len() < length + 8 {
                return;
            }
            let frame: Vec<u8> = self.rest.drain(..length + 8).collect();
            let class = |class: u8, method: u8| frame[0] == METHOD && frame[7..11] == [0, class, 0, method];
            if class(60, 80) {
                assert_eq!(frame[19], 0, "acknowledged by itself, not with all before it");
                seen.acknowledged.fetch_add(1, Ordering::SeqCst);
            } else if class(60, 90) || class(60, 120) {
                seen.given_back.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
