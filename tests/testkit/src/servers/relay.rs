//! A stretch of wire that can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on to a server, until they are cut.
pub struct Relay {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl Relay {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn to(server: SocketAddr) -> Relay {
        Relay::on(SocketAddr::from(([127, 0, 0, 1], 0)), server).await
    }

    /// The same on an address that was reserved before the server was there: Kafka tells its clients to use it.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn on(address: SocketAddr, server: SocketAddr) -> Relay {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (cuts, seen) = watch::channel(0);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((inner, _)) = listener.accept().await {
                let mut cut = seen.clone();
                cut.mark_unchanged();
                passing.spawn(async move { pass(inner, server, &mut cut).await });
                while passing.try_join_next().is_some() {}
            }
        });
        Relay { address, cuts, _accepting: accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection that passes now. New ones pass again.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(mut inner: TcpStream, server: SocketAddr, cut: &mut watch::Receiver<u64>) {
    let Ok(mut outer) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inner, &mut outer) => {}
        _ = cut.changed() => {}
    }
}
