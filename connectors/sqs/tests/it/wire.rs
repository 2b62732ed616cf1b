//! A wire to SQS that can be cut, and that knows which queues are being asked for messages: the server does not tell.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use testkit::source::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Passes requests on to a server, until it is cut.
pub(crate) struct Wire {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    asking: Asking,
    _accepting: AbortOnDropHandle<()>,
}

/// The queue of each connection on which a request for messages waits for its answer.
type Asking = watch::Sender<HashMap<u64, String>>;

impl Wire {
    pub(crate) async fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, seen) = watch::channel(0);
        let asking = Asking::default();
        let passing = asking.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let mut cut = seen.clone();
                cut.mark_unchanged();
                let asking = passing.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = pass(client, server, number, &asking) => {}
                        _ = cut.changed() => {}
                    }
                    asking.send_modify(|asking| drop(asking.remove(&number)));
                });
            }
        });
        Wire { address, cuts, asking, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks every connection there is now. New ones pass again.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Waits until any queue is being asked for messages.
    pub(crate) async fn is_asked(&self) {
        let mut asking = self.asking.subscribe();
        let asked = asking.wait_for(|asking| !asking.is_empty());
        assert!(tokio::time::timeout(PATIENCE, asked).await.is_ok(), "no queue is asked for messages");
    }

    /// Waits until these queues, and no others, are being asked for messages.
    pub(crate) async fn is_asked_for(&self, names: &[String]) {
        let wanted: BTreeSet<&String> = names.iter().collect();
        let mut asking = self.asking.subscribe();
        let asked = asking.wait_for(|asking| asking.values().collect::<BTreeSet<_>>() == wanted);
        let done = tokio::time::timeout(PATIENCE, asked).await.is_ok();
        assert!(done, "{:?} are asked for messages, not {wanted:?}", *self.asking.borrow());
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, number: u64, asking: &Asking) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    // HTTP/1.1: a request, its answer, the next request.
    let mut request = Vec::new();
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(1..) = read else { return };
                let bytes = &up[..read.unwrap_or(0)];
                request.extend_from_slice(bytes);
                if let Some(queue) = asked(&request) {
                    asking.send_modify(|asking| drop(asking.insert(number, queue)));
                }
                if server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(1..) = read else { return };
                request.clear();
                asking.send_modify(|asking| drop(asking.remove(&number)));
                if client.write_all(&down[..read.unwrap_or(0)]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The queue that a request asks for messages, once it is there whole enough to say so.
fn asked(request: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let receives = text.contains("AmazonSQS.ReceiveMessage");
    let (_, rest) = text.split_once("\"QueueUrl\":\"").filter(|_| receives)?;
    let (url, _) = rest.split_once('"')?;
    url.rsplit('/').next().map(str::to_owned)
}
