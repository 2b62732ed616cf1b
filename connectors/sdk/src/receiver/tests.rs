//! The server as its senders meet it: on real sockets.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use broker_model::intake::{Lost, Quarantined};
use broker_model::{Demand, Event, EventSink, Receipt, Refusal, SourceName, Wildcards};
use http::StatusCode;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::health::HealthBoard;
use crate::source::describe;
use crate::{EventForm, NoPositions};

/// Answers with the length of the body, once it may.
struct Echo {
    open: watch::Sender<bool>,
    inside: AtomicUsize,
    answered: AtomicUsize,
    unread: Mutex<Vec<Unread>>,
}

impl Default for Echo {
    fn default() -> Self {
        let (inside, answered) = Default::default();
        Echo { open: watch::Sender::new(true), inside, answered, unread: Mutex::default() }
    }
}

#[async_trait]
impl Handler for Echo {
    async fn admit(&self, head: &Parts) -> Result<(), Response<Bytes>> {
        if head.uri.path() == "/there" { Ok(()) } else { Err(answer(StatusCode::NOT_FOUND, "nothing there")) }
    }

    async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.answered.fetch_add(1, Ordering::SeqCst);
        answer(StatusCode::OK, &request.body().len().to_string())
    }

    fn unread(&self, _: &Parts, why: Unread) {
        self.unread.lock().unwrap().push(why);
    }
}

/// A broker that never answers, and takes no message that cannot be read.
struct Nobody;

#[async_trait]
impl EventSink for Nobody {
    async fn publish(&self, _: &Event) -> Result<Receipt, Refusal> {
        std::future::pending().await
    }

    async fn quarantine(&self, _: &Quarantined) -> Result<Receipt, Refusal> {
        Err(Refusal::Draining)
    }

    async fn lost(&self, _: &Lost) -> Result<Receipt, Refusal> {
        Err(Refusal::Draining)
    }
}

fn context() -> (SourceContext, HealthBoard) {
    let clock = Arc::new(crate::health::tests::HeldClock::default());
    let board = HealthBoard::new(clock.clone());
    let ctx = SourceContext {
        events: Arc::new(Nobody),
        demand: watch::channel(Demand::default()).1,
        positions: Arc::new(NoPositions),
        schedules: None,
        health: board.health(),
        shutdown: CancellationToken::new(),
        clock,
    };
    (ctx, board)
}

fn settings(more: Value) -> ReceiverSettings {
    let mut settings = json!({"listen": "127.0.0.1:0"});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut at = Reader::new(settings);
    let settings = ReceiverSettings::read(&mut at, "127.0.0.1:8092");
    at.finish(|| settings).unwrap()
}

/// A running receiver.
struct Rig {
    address: SocketAddr,
    echo: Arc<Echo>,
    board: HealthBoard,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Rig {
    async fn start(more: Value) -> Rig {
        let (ctx, board) = context();
        let receiver = Receiver::bind(&settings(more), WindowLimits::default(), &ctx).await.unwrap();
        let (address, echo) = (receiver.listener.local_addr().unwrap(), Arc::<Echo>::default());
        let stop = ctx.shutdown.clone();
        let serving = tokio::spawn(receiver.serve(echo.clone(), stop.clone()));
        Rig { address, echo, board, stop, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection on which so much was said.
    async fn say(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// The answers to requests after which nothing more comes.
    async fn asked(&self, requests: &str) -> String {
        let mut stream = self.say(requests).await;
        stream.shutdown().await.unwrap();
        rest(stream).await
    }

    async fn inside(&self, requests: usize) {
        while self.echo.inside.load(Ordering::SeqCst) < requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n")
}

/// Everything until the other side closes.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    // A reset behind the answer is an end, too.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

fn keys(settings: Value) -> Vec<String> {
    let mut at = Reader::new(settings);
    let settings = ReceiverSettings::read(&mut at, "127.0.0.1:8092");
    at.finish(|| settings).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
}

#[test]
fn wrong_settings_are_named_at_once() {
    assert_eq!(keys(json!({})), ["listen"]);
    let limits = json!({"body": 5, "connections": 0, "header_timeout": "0s", "body_timeout": "0s"});
    assert_eq!(
        keys(json!({"listen": "localhost", "tls": {"cert_file": "/c"}, "limits": limits})),
        [
            "tls.key_file",
            "limits.body",
            "limits.connections",
            "limits.header_timeout",
            "limits.body_timeout",
            "listen"
        ]
    );
    assert_eq!(settings(json!({})).limits, ReceiverLimits::default());
    assert_eq!(settings(json!({"listen": "8080"})).listen.to_string(), "0.0.0.0:8080");
}

#[tokio::test]
async fn an_address_in_use_names_its_setting_and_a_remedy() {
    let (ctx, _) = context();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = settings(json!({"listen": other.local_addr().unwrap().to_string()}));

    let error = Receiver::bind(&taken, WindowLimits::default(), &ctx).await.err().unwrap();
    let text = describe(&error).to_string();
    assert!(text.starts_with("listen: cannot bind 127.0.0.1:") && text.contains("another port"), "{text}");
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_turn() {
    let rig = Rig::start(json!({})).await;
    let answers = rig.asked(&format!("{}abc{}12345", post("/there", 3), post("/there", 5))).await;

    let lines: Vec<&str> = answers.lines().filter(|line| line.len() == 1).collect();
    assert_eq!(lines, ["3", "5"], "{answers}");
}

#[tokio::test]
async fn what_nobody_wants_is_refused_before_its_body() {
    let rig = Rig::start(json!({"limits": {"body": "1KiB"}})).await;
    let length = 1 << 30;
    let waits =
        format!("POST /gone HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n");

    assert_eq!(status(&rig.asked(&waits).await), "404");
    assert_eq!(status(&rig.asked(&format!("{}abc", post("/gone", 3))).await), "404");
    assert_eq!(status(&rig.asked(&format!("{}{}", post("/there", 1025), "x".repeat(1025))).await), "413");
    let chunked = "POST /there HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let pieces = format!("200\r\n{0}\r\n200\r\n{0}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(512));
    assert_eq!(status(&rig.asked(&format!("{chunked}{pieces}")).await), "413");
    assert_eq!(status(&rig.asked(&format!("{chunked}nonsense\r\n")).await), "400");
    assert_eq!(*rig.echo.unread.lock().unwrap(), [Unread::TooLarge, Unread::TooLarge, Unread::Broken]);
    assert_eq!(rig.echo.inside.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn senders_that_stand_still_are_let_go() {
    let rig = Rig::start(json!({"limits": {"header_timeout": "50ms", "body_timeout": "50ms"}})).await;
    let (idle, half_a_head) = (rig.connect().await, rig.say("POST /there HT").await);
    let half_a_body = rig.say(&format!("{}abc", post("/there", 10))).await;

    assert_eq!(status(&rest(half_a_body).await), "408");
    for stream in [idle, half_a_head] {
        let said = rest(stream).await;
        assert!(said.is_empty() || status(&said) == "408", "{said}");
    }
    assert_eq!(*rig.echo.unread.lock().unwrap(), [Unread::TooSlow]);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let rig = Rig::start(json!({})).await;
    let head = format!("GET /there HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2 * HEAD));

    assert_eq!(status(&rig.asked(&head).await), "431");
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let rig = Rig::start(json!({"limits": {"connections": 1}})).await;
    rig.echo.open.send_replace(false);
    let first = rig.say(&format!("{}abc", post("/there", 3))).await;
    rig.inside(1).await;
    let mut second = rig.say(&format!("{}abc", post("/there", 3))).await;
    second.shutdown().await.unwrap();

    // Time to come in, if it could.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.echo.inside.load(Ordering::SeqCst), 1);
    drop(first);
    rig.echo.open.send_replace(true);
    assert_eq!(status(&rest(second).await), "200");
}

#[tokio::test]
async fn told_to_stop_it_answers_what_came_and_refuses_the_rest() {
    let rig = Rig::start(json!({})).await;
    rig.echo.open.send_replace(false);
    let idle = rig.connect().await;
    // The server asks for a body only once it reads it: what is half here is being read.
    let mut half = rig
        .say("POST /there HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n")
        .await;
    let mut asked = [0; 25];
    half.read_exact(&mut asked).await.unwrap();
    let held = rig.say(&format!("{}abc", post("/there", 3))).await;
    rig.inside(1).await;

    rig.stop.cancel();
    assert_eq!(rest(idle).await, "");
    let refused = rest(half).await;
    assert!(status(&refused) == "503" && refused.contains("retry-after"), "{refused}");
    while TcpStream::connect(rig.address).await.is_ok() {}
    assert!(!rig.serving.is_finished());

    rig.echo.open.send_replace(true);
    assert_eq!(status(&rest(held).await), "200");
    rig.serving.await.unwrap();
    assert_eq!(*rig.echo.unread.lock().unwrap(), [Unread::Stopping]);
}

#[tokio::test]
async fn cut_off_it_leaves_nothing_behind() {
    let rig = Rig::start(json!({})).await;
    rig.echo.open.send_replace(false);
    let held = rig.say(&format!("{}abc", post("/there", 3))).await;
    rig.inside(1).await;

    rig.serving.abort();
    assert_eq!(rest(held).await, "");
    while TcpStream::connect(rig.address).await.is_ok() {}
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = certificate(folder.path());
    let tls = json!({"cert_file": folder.path().join("cert"), "key_file": folder.path().join("key")});
    let rig = Rig::start(json!({ "tls": tls })).await;
    assert!(answers_over_tls(&rig, &first).await);
    assert!(!rig.asked(&post("/there", 0)).await.contains("HTTP"), "nothing is said in the clear");

    let looks_again = super::tls::LOOK + Duration::from_millis(50);
    std::fs::write(folder.path().join("key"), "half a key").unwrap();
    tokio::time::sleep(looks_again).await;
    assert!(answers_over_tls(&rig, &first).await, "the last whole one is used on");
    assert!(crate::health::tests::status(&rig.board).last_error.unwrap().1.contains("tls.key_file"));

    let second = certificate(folder.path());
    tokio::time::sleep(looks_again).await;
    assert!(answers_over_tls(&rig, &second).await);
    assert!(!answers_over_tls(&rig, &first).await);
}

/// Writes a new certificate for `localhost` with its key, and answers with the certificate.
fn certificate(folder: &Path) -> String {
    let new = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key"), new.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert"), new.cert.pem()).unwrap();
    new.cert.pem()
}

/// Whether a sender that trusts only this certificate gets an answer.
async fn answers_over_tls(rig: &Rig, trusted: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut stream) = connector.connect(name, rig.connect().await).await else { return false };
    stream.write_all(format!("{}abc", post("/there", 3)).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    status(std::str::from_utf8(&answer).unwrap()) == "200"
}

#[tokio::test]
async fn a_missing_certificate_names_its_setting() {
    let (ctx, _) = context();
    let tls = settings(json!({"tls": {"cert_file": "/nowhere/c", "key_file": "/nowhere/k"}}));

    let error = Receiver::bind(&tls, WindowLimits::default(), &ctx).await.err().unwrap();
    assert!(error.to_string().starts_with("tls.cert_file: cannot read"), "{error}");
}

#[tokio::test]
async fn what_was_begun_ends_although_its_sender_is_gone() {
    let rig = Rig::start(json!({})).await;
    rig.echo.open.send_replace(false);
    let leaves = rig.say(&format!("{}abc", post("/there", 3))).await;
    rig.inside(1).await;
    drop(leaves);
    rig.stop.cancel();
    // Time to notice that nobody waits for the answer.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!rig.serving.is_finished());

    rig.echo.open.send_replace(true);
    rig.serving.await.unwrap();
    assert_eq!(rig.echo.answered.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_refused_is_counted() {
    let (ctx, board) = context();
    let custody = Custody::new(&ctx, WindowLimits::default());
    let name = SourceName::parse("hooks").unwrap();
    let form = EventForm::read(&mut Reader::new(json!({})), &name, "webhook", Wildcards::Glob);

    let kept = custody.unreadable(&form.message("t", "").unreadable("no JSON")).await;
    assert!(matches!(kept, Err(NotTaken::Refused(Refusal::Draining))));

    let counts = crate::health::tests::status(&board).counts;
    assert_eq!((counts.received, counts.refused), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn more_events_than_allowed_wait_and_are_told_to_come_again() {
    let (ctx, _) = context();
    let custody = Custody::new(&ctx, WindowLimits { messages: NonZeroUsize::MIN, ..WindowLimits::default() });
    let name = SourceName::parse("hooks").unwrap();
    let form = EventForm::read(&mut Reader::new(json!({})), &name, "webhook", Wildcards::Glob);
    let event = || form.message("t", "").event().unwrap();

    let (one, other) = (event(), event());
    let (first, second) = (custody.event(&one), custody.event(&other));
    let refused = tokio::select! {
        biased;
        _ = first => panic!("the broker never answers"),
        refused = second => refused,
    };
    assert!(matches!(refused, Err(NotTaken::Busy)));
}
