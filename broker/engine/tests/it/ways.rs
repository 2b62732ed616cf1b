//! The ways to the gateway: certificates and proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Function, Route};
use broker_engine::EngineSettings;
use broker_model::State;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use testkit::servers::Certificates;
use testkit::time::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::Level;
use url::Url;

use crate::broker::{Broker, Start};
use crate::logged::Logged;

const SOON: Duration = Duration::from_secs(20);

fn settings(url: &str) -> EngineSettings {
    let mut settings = EngineSettings::default();
    settings.gateway.url = Url::parse(url).expect("a url");
    settings.gateway.poll_interval = Duration::from_millis(100);
    settings
}

async fn gateway() -> DemoGateway {
    DemoGateway::start([Function::echo("env")]).await.expect("a free port")
}

/// A door in front of a server that speaks TLS with the certificate for `localhost`.
async fn tls_door(certificates: &Certificates, to: SocketAddr) -> SocketAddr {
    let (chain, key) = certificates.server();
    let chain = CertificateDer::pem_file_iter(chain)
        .expect("a file")
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).expect("a key"))
        .expect("they belong together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us goes away here.
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut inner = TcpStream::connect(to).await.expect("the gateway listens");
                let _ = copy_bidirectional(&mut tls, &mut inner).await;
            });
        }
    });
    address
}

/// A proxy that leads every `CONNECT` to one place, and remembers how it was asked.
async fn tunnelling_proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match tcp.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8(head).expect("a head is text").to_lowercase();
                heads.lock().expect("no holder panics").push(head);
                tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("the client is there");
                let mut inner = TcpStream::connect(to).await.expect("somebody listens behind the proxy");
                let _ = copy_bidirectional(&mut tcp, &mut inner).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_gateway_behind_tls_is_reached_with_its_own_authority() {
    let (gateway, certificates) = (gateway().await, Certificates::new());
    let door = tls_door(&certificates, gateway.addr()).await;
    let mut settings = settings(&format!("https://localhost:{}", door.port()));
    settings.gateway.ca_file = Some(certificates.ca());
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    for _ in 0..3 {
        let id = broker.call("env").await;
        assert_eq!(broker.reaches(id, State::Completed).await.attempts.len(), 1);
    }

    let connections: std::collections::BTreeSet<u64> =
        gateway.calls("env").iter().map(|call| call.connection).collect();
    assert_eq!(connections.len(), 1, "a connection over TLS is used again");
}

#[tokio::test]
async fn a_gateway_of_an_unknown_authority_holds_deliveries_and_is_told_of_once() {
    let (gateway, certificates) = (gateway().await, Certificates::new());
    let door = tls_door(&certificates, gateway.addr()).await;
    let mut settings = settings(&format!("https://localhost:{}", door.port()));
    // The authority of another installation.
    let other = Certificates::new();
    settings.gateway.ca_file = Some(other.ca());
    let logged = Logged::start();
    let broker = Broker::without_list(Start { settings: settings.clone(), ..Start::default() }).await;

    let id = broker.call("env").await;
    let functions = broker.engine.functions();
    let down = eventually(SOON, "the gateway to be down", async || functions.gateway_down()).await;
    let listing = eventually(SOON, "a problem with the list", async || functions.last_problem()).await;
    // Several polls and probes later it has been said once by each: for the list, and for the deliveries.
    let first = listing.at;
    eventually(SOON, "more polls", async || functions.last_problem().is_some_and(|last| last.at > first))
        .await;

    for said in [&*down.last_error, &*listing.problem] {
        assert!(said.contains("certificate") && said.contains("gateway.ca_file"), "{said}");
    }
    let warnings = logged.lines(Level::WARN);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains("gateway.ca_file")), "{warnings:#?}");
    assert_eq!(logged.lines(Level::ERROR), Vec::<String>::new());
    let record = broker.find(id).await;
    assert_eq!((record.state, record.attempts.len()), (State::Waiting, 0));
    assert_eq!(gateway.requests(&Route::Function), 0);

    // The remedy is one.
    settings.gateway.ca_file = Some(certificates.ca());
    broker.engine.reload(settings).unwrap();
    assert_eq!(broker.reaches(id, State::Completed).await.attempts.len(), 1);
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    for text in [None, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let gateway = gateway().await;
        let broker = Broker::start(Start { settings: settings(&gateway.url()), ..Start::default() }).await;
        let mut settings = settings(&gateway.url());
        settings.gateway.ca_file = Some(path.clone());

        let refused = broker.engine.reload(settings).unwrap_err().to_string();

        assert!(refused.contains("gateway.ca_file") && refused.contains("ca.pem"), "{refused}");
    }
}

#[tokio::test]
async fn everything_for_the_gateway_goes_through_its_proxy() {
    let proxy = gateway().await;
    // The gateway plays the proxy: what names another host in full reached it as one.
    let mut settings = settings("http://gateway.invalid:8080");
    settings.gateway.proxy =
        Some(Url::parse(&proxy.url().replace("http://", "http://us:p%40ss@")).expect("a url"));
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;

    let call = proxy.calls("env").remove(0);
    assert_eq!(call.wire_headers.get("host").unwrap(), "gateway.invalid:8080");
    assert_eq!(call.wire_headers.get("proxy-authorization").unwrap(), "Basic dXM6cEBzcw==");
    assert!(call.header("proxy-authorization").is_none(), "it is the proxy's alone");
}

#[tokio::test]
async fn a_gateway_behind_tls_is_reached_through_a_tunnel_of_its_proxy() {
    let (gateway, certificates) = (gateway().await, Certificates::new());
    let door = tls_door(&certificates, gateway.addr()).await;
    let (proxy, asked) = tunnelling_proxy(door).await;
    // Nobody listens there: only the proxy knows the way.
    let mut settings = settings("https://localhost:1");
    settings.gateway.ca_file = Some(certificates.ca());
    settings.gateway.proxy = Some(Url::parse(&format!("http://us:p%40ss@{proxy}")).expect("a url"));
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;

    let asked = asked.lock().unwrap();
    assert!(asked.len() >= 2, "one tunnel for the lists and one for the call: {asked:?}");
    for head in asked.iter() {
        assert!(head.starts_with("connect localhost:1 http/1.1\r\n"), "{head}");
        assert!(head.contains("proxy-authorization: basic dxm6cebzcw=="), "{head}");
    }
    assert!(gateway.calls("env")[0].wire_headers.get("proxy-authorization").is_none());
}
