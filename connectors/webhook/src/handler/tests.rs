//! What senders are answered, and what comes of what they send.

use std::sync::Mutex;

use connectors_sdk::{
    Demand, Event, EventSink, HealthBoard, Lost, NoPositions, Quarantined, Refusal, SourceName, Timestamp,
};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::sns::Https;

#[derive(Debug)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// Takes everything, or nothing.
#[derive(Default)]
struct Sink {
    events: Mutex<Vec<Event>>,
    unreadable: Mutex<Vec<Quarantined>>,
    refusal: Mutex<Option<Refusal>>,
}

impl Sink {
    fn verdict(&self) -> Result<Receipt, Refusal> {
        match &*self.refusal.lock().unwrap() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Receipt::default()),
        }
    }
}

#[async_trait]
impl EventSink for Sink {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        let verdict = self.verdict()?;
        self.events.lock().unwrap().push(event.clone());
        Ok(verdict)
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        let verdict = self.verdict()?;
        self.unreadable.lock().unwrap().push(message.clone());
        Ok(verdict)
    }

    async fn lost(&self, _: &Lost) -> Result<Receipt, Refusal> {
        self.verdict()
    }
}

struct Rig {
    webhooks: Webhooks,
    sink: Arc<Sink>,
    board: HealthBoard,
}

fn rig(endpoints: Value, topics: Value) -> Rig {
    let settings =
        json!({"listen": "127.0.0.1:0", "endpoints": endpoints, "topics": topics, "prefix": "/hooks"});
    let settings = WebhookSettings::read(&SourceName::parse("hooks").unwrap(), settings).unwrap();
    let clock = Arc::new(At(Timestamp::from_millis(1_614_265_330_000)));
    let (sink, board) = (Arc::<Sink>::default(), HealthBoard::new(clock.clone()));
    let ctx = SourceContext {
        events: sink.clone(),
        demand: watch::channel(Demand::default()).1,
        positions: Arc::new(NoPositions),
        schedules: None,
        health: board.health(),
        shutdown: CancellationToken::new(),
        clock,
    };
    Rig { webhooks: Webhooks::new(settings, &ctx, Sns::new(Https::default())), sink, board }
}

impl Rig {
    async fn asked(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response<Bytes> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut request = http::Request::builder().method(method).uri(path).body(body).unwrap();
        for (name, value) in fields {
            let (name, value) = (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
            request.headers_mut().append(name, value);
        }
        let (head, body) = request.into_parts();
        match self.webhooks.admit(&head).await {
            Ok(()) => self.webhooks.answer(http::Request::from_parts(head, body)).await,
            Err(answer) => answer,
        }
    }

    async fn posted(&self, path: &str, fields: &[(&str, &str)], body: &str) -> u16 {
        self.asked(Method::POST, path, fields, body).await.status().as_u16()
    }

    fn topics(&self) -> Vec<String> {
        self.sink.events.lock().unwrap().iter().map(|event| event.topic.as_str().to_owned()).collect()
    }

    fn denied(&self, endpoint: &str, reason: &str) -> i64 {
        let series = self.board.series();
        let found = series.iter().find(|(family, labels, _)| {
            family.name == DENIED.name && labels.iter().map(|label| &**label).eq([endpoint, reason])
        });
        found.map_or(0, |(_, _, value)| value)
    }
}

const SIGNATURE: (&str, &str) =
    ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");

fn github() -> Value {
    json!({"github": {"kind": "github", "secret": ["new", "It's a Secret to Everybody"], "topic": "github.{event}"}})
}

#[tokio::test]
async fn what_github_signed_becomes_an_event_and_is_recognised_when_it_comes_again() {
    let rig = rig(github(), json!(["*"]));
    let fields = [SIGNATURE, ("x-github-event", "push"), ("x-github-delivery", "d1")];
    for _ in 0..2 {
        let answer = rig.asked(Method::POST, "/hooks/github", &fields, "Hello, World!").await;
        assert_eq!(
            (answer.status(), &answer.body()[..]),
            (StatusCode::ACCEPTED, &br#"{"invocations":0}"#[..])
        );
    }
    let events = rig.sink.events.lock().unwrap().clone();

    assert_eq!((events[0].topic.as_str(), &events[0].body[..]), ("github.push", &b"Hello, World!"[..]));
    assert_eq!(events[0].headers.text("x-github-event"), Some("push"));
    assert_eq!(events[0].headers.get("x-hub-signature-256"), None);
    assert_eq!(events[0].cloud_event.as_ref().unwrap().kind.as_deref(), Some("com.github.push"));
    assert!(events[0].dedup.is_some() && events[0].dedup == events[1].dedup);
}

#[tokio::test]
async fn a_bad_signature_is_401_counted_and_never_an_event() {
    let rig = rig(github(), json!(["*"]));
    let push = ("x-github-event", "push");

    assert_eq!(rig.posted("/hooks/github", &[SIGNATURE, push], "Hello, world!").await, 401);
    assert_eq!(rig.posted("/hooks/github", &[push], "Hello, World!").await, 401);
    assert_eq!(rig.posted("/hooks/github", &[SIGNATURE, SIGNATURE, push], "Hello, World!").await, 401);
    assert_eq!(rig.posted("/hooks/github", &[SIGNATURE], "Hello, World!").await, 400);
    assert_eq!(
        rig.posted("/hooks/github", &[SIGNATURE, ("x-github-event", "ping")], "Hello, World!").await,
        200
    );
    assert_eq!(rig.posted("/hooks/github", &[("x-github-event", "ping"), SIGNATURE], "x").await, 401);

    assert_eq!((rig.denied("github", "credentials"), rig.denied("github", "incomplete")), (4, 1));
    assert!(rig.topics().is_empty());
    let status =
        rig.board.status(SourceName::parse("hooks").unwrap(), "webhook", connectors_sdk::Capabilities::NONE);
    assert!(status.last_error.unwrap().1.contains("endpoint github"));
    assert_eq!(status.counts.received, 0);
}

#[tokio::test]
async fn paths_and_methods_that_are_none_are_told_apart() {
    let rig = rig(github(), json!(["*"]));
    for (method, path, status) in [
        (Method::POST, "/github", 404),
        (Method::POST, "/hooks/githubs", 404),
        (Method::POST, "/hooks/%ff", 404),
        (Method::GET, "/hooks/github", 405),
        (Method::HEAD, "/hooks/github", 405),
        (Method::PUT, "/hooks/github/x", 405),
        (Method::OPTIONS, "/hooks/github", 204),
        (Method::OPTIONS, "/nothing", 404),
    ] {
        assert_eq!(
            rig.asked(method.clone(), path, &[], "").await.status().as_u16(),
            status,
            "{method} {path}"
        );
    }
    assert_eq!((rig.denied("", "path"), rig.denied("github", "method")), (4, 3));
}

#[tokio::test]
async fn topics_come_from_the_path_behind_the_prefix() {
    let endpoints = json!({
        "all": {"kind": "token", "secret": "none", "path": "/hooks"},
        "shop": {"kind": "token", "secret": "s3cret", "event_header": "X-Topic-Of-It", "topic": "{path}:{event}"},
    });
    let rig = rig(endpoints, json!(["*"]));
    let token = ("authorization", "Bearer s3cret");

    assert_eq!(rig.posted("/hooks/", &[], "").await, 202);
    assert_eq!(rig.posted("/hooks/orders/new%20ones/?x=1", &[], "").await, 202);
    assert_eq!(rig.posted("/hooks/shop/eu", &[token, ("x-topic-of-it", "paid")], "").await, 202);
    assert_eq!(rig.posted("/hooks/shop", &[], "").await, 401);
    assert_eq!(rig.topics(), ["all", "orders/new ones", "shop/eu:paid"]);
    // A topic made of an event type that is not said is nothing a function could ask for: it is kept.
    assert_eq!(rig.posted("/hooks/shop", &[token], "body").await, 202);
    assert_eq!(&rig.sink.unreadable.lock().unwrap()[0].raw[..], b"body");
}

#[tokio::test]
async fn what_the_list_leaves_out_is_202_and_shown() {
    let rig = rig(json!({"a": {"kind": "token", "secret": "none"}}), json!(["b*", "c"]));
    for path in ["/hooks/a", "/hooks/a/b"] {
        assert_eq!(rig.posted(path, &[], "").await, 202);
    }
    let status =
        rig.board.status(SourceName::parse("hooks").unwrap(), "webhook", connectors_sdk::Capabilities::NONE);
    let unmatched = vec![("a".to_owned(), 1), ("a/b".to_owned(), 1)];
    assert_eq!((status.counts.unmatched, status.unmatched_topics), (2, unmatched));
    assert!(rig.topics().is_empty());
}

/// A function may have been deployed while we were away, and the list of functions not be here yet: only the broker knows.
#[tokio::test]
async fn what_no_function_is_known_to_want_is_for_the_broker_to_say() {
    let rig = rig(json!({"a": {"kind": "token", "secret": "none"}}), json!("from-functions"));
    *rig.sink.refusal.lock().unwrap() = Some(Refusal::NoFunctionList);
    assert_eq!(rig.posted("/hooks/a", &[], "").await, 503);

    *rig.sink.refusal.lock().unwrap() = None;
    assert_eq!(rig.posted("/hooks/a", &[], "").await, 202);
    assert_eq!(rig.topics(), ["a"]);
}

#[tokio::test]
async fn what_the_broker_does_not_take_stays_with_its_sender() {
    let rig = rig(json!({"a": {"kind": "token", "secret": "none"}}), json!(["*"]));
    for (refusal, status) in [
        (Refusal::NoFunctionList, 503),
        (Refusal::Draining, 503),
        (Refusal::TooLarge { bytes: 2, limit: 1 }, 413),
    ] {
        *rig.sink.refusal.lock().unwrap() = Some(refusal);
        let answer = rig.asked(Method::POST, "/hooks/a", &[], "").await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_no_fault_of_the_sender() {
    let rig = rig(json!({"a": {"kind": "token", "secret_file": "/nowhere/at/all"}}), json!(["*"]));
    let answer = rig.asked(Method::POST, "/hooks/a", &[("authorization", "Bearer ")], "").await;

    assert_eq!((answer.status().as_u16(), rig.denied("a", "unusable")), (503, 1));
    assert!(!String::from_utf8_lossy(answer.body()).contains("nowhere"));
}

const EVENT: &str =
    r#"{"specversion":"1.0","id":"ID","source":"/s","type":"t.made","data":{"n": 1.0},"ext":"ü"}"#;

#[tokio::test]
async fn a_cloud_event_is_the_same_in_each_of_its_modes() {
    let rig = rig(json!({"ce": {"kind": "cloudevents", "secret": "none", "topic": "event"}}), json!(["*"]));
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t.made"),
        ("ce-ext", "%C3%BC"),
        ("content-type", "application/json"),
    ];
    let batch =
        format!("[{},{},{}]", EVENT.replace("ID", "1"), EVENT.replace("ID", "2"), r#"{"specversion":"1.0"}"#);

    assert_eq!(rig.posted("/hooks/ce", &binary, r#"{"n": 1.0}"#).await, 202);
    let structured = ("content-type", "application/cloudevents+json; charset=utf-8");
    assert_eq!(rig.posted("/hooks/ce", &[structured], &EVENT.replace("ID", "1")).await, 202);
    let answer = rig
        .asked(Method::POST, "/hooks/ce", &[("content-type", "application/cloudevents-batch+json")], &batch)
        .await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(rig.posted("/hooks/ce", &[("content-type", "application/json")], EVENT).await, 415);

    let mut events = rig.sink.events.lock().unwrap().clone();
    events.sort_by_key(|event| event.headers.text("ce-id").map(str::to_owned));
    let ids: Vec<_> = events.iter().map(|event| event.headers.text("ce-id").unwrap()).collect();
    assert_eq!(ids, ["1", "1", "1", "2"]);
    for event in &events {
        assert_eq!((event.topic.as_str(), &event.body[..]), ("t.made", &br#"{"n": 1.0}"#[..]));
        assert_eq!(event.headers.text("ce-ext"), Some("%C3%BC"));
        assert_eq!(event.headers.text("content-type"), Some("application/json"));
    }
    assert!(
        events[..3].iter().all(|event| event.dedup == events[0].dedup) && events[3].dedup != events[0].dedup
    );
    let kept = rig.sink.unreadable.lock().unwrap();
    assert_eq!((kept.len(), &kept[0].raw[..]), (1, &br#"{"specversion":"1.0"}"#[..]), "the bad one alone");
}

#[tokio::test]
async fn who_asks_whether_it_may_send_cloud_events_is_answered() {
    let endpoint = json!({"kind": "cloudevents", "secret": "s3cret", "origins": ["*.example.com"]});
    let rig = rig(json!({ "ce": endpoint }), json!(["*"]));
    let asks = async |origin| {
        rig.asked(Method::OPTIONS, "/hooks/ce", &[("webhook-request-origin", origin)], "")
            .await
            .status()
            .as_u16()
    };

    assert_eq!((asks("events.example.com").await, asks("evil.org").await), (200, 403));
}

#[tokio::test]
async fn a_standard_webhook_counts_for_five_minutes() {
    let endpoint = json!({"kind": "standard-webhooks", "secret": standard::tests::SECRET, "topic": "{path}"});
    let rig = rig(json!({ "std": endpoint }), json!(["*"]));
    let body = std::str::from_utf8(standard::tests::BODY).unwrap();
    let [id, time, signature] = standard::tests::HEADERS;

    assert_eq!(rig.posted("/hooks/std", &[id, time, signature], body).await, 202);
    assert_eq!(
        rig.posted("/hooks/std", &[id, ("webhook-timestamp", "1614264000"), signature], body).await,
        401
    );
    assert_eq!(rig.posted("/hooks/std", &[id, time, signature], "{}").await, 401);
    assert_eq!(rig.posted("/hooks/std", &[time, signature], body).await, 400);
    assert_eq!((rig.denied("std", "stale"), rig.denied("std", "credentials"), rig.topics().len()), (1, 1, 1));
    let event = rig.sink.events.lock().unwrap()[0].clone();
    assert_eq!(
        (event.headers.text("webhook-id"), event.headers.get("webhook-signature")),
        (Some(id.1), None)
    );
}
