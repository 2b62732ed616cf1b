//! The real servers start, answer, keep what they store, and leave nothing behind.

mod command;
mod elasticmq;
mod kafka;
mod minio;
mod mosquitto;
mod nats;
mod rabbitmq;
mod toxiproxy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use testkit::servers::{Kind, Server};
use tokio::net::TcpStream;

/// What is left of a server.
struct Trace {
    process: u32,
    folder: PathBuf,
    ports: Vec<SocketAddr>,
}

impl Trace {
    fn of<K: Kind>(server: &mut Server<K>) -> Trace {
        let place = server.place();
        let (folder, ports) = (
            place.folder().to_owned(),
            place.ports().iter().map(|(purpose, _)| place.address(purpose)).collect(),
        );
        Trace { process: server.process().id().expect("it runs"), folder, ports }
    }

    /// Neither its process nor its folder nor a listener.
    async fn is_gone(&self) {
        assert!(!runs(self.process), "process {} runs on", self.process);
        assert!(!self.folder.exists(), "{} is left", self.folder.display());
        for port in &self.ports {
            assert!(TcpStream::connect(port).await.is_err(), "something still listens at {port}");
        }
    }
}

fn runs(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// Two run beside each other, and dropping one leaves the other alone.
async fn two_at_once<K: Kind + Default>() -> Server<K> {
    let (mut one, other) = (Server::<K>::start().await, Server::<K>::start().await);
    assert_ne!(one.address(), other.address());
    let trace = Trace::of(&mut one);

    drop(one);

    trace.is_gone().await;
    other.kind().is_ready(other.place()).await.expect("the other still answers");
    other
}

/// A server that is configured badly says so in the error, and is gone.
async fn says_why_it_does_not_start<K: Kind>(kind: K, why: &str) {
    let Err(error) = Server::try_with(kind).await else { panic!("it starts") };

    assert!(error.to_lowercase().contains(why), "{why:?} is not in\n{error}");
}

/// Contracts start their upstreams on whatever thread comes.
#[test]
fn starting_and_restarting_may_move_between_threads() {
    fn may_move<F: Future + Send>(_: impl Fn() -> F) {}
    async fn lives<K: Kind + Default>() {
        let mut server = Server::<K>::start().await;
        server.start_again().await;
    }

    may_move(lives::<testkit::servers::KafkaConfig>);
    may_move(lives::<testkit::servers::NatsConfig>);
    may_move(|| async {
        let mut server = testkit::servers::RabbitMq::start().await;
        server.start_again().await;
    });
}
