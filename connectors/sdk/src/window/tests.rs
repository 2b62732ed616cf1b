use std::num::NonZeroUsize;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use broker_model::source::{Capabilities, SourceCounts};
use broker_model::{Clock, DedupKey, Demand, Fingerprint, Headers, SourceName, Timestamp, Topic, Wildcards};

use super::*;
use crate::byte_size::ByteSize;
use crate::health::HealthBoard;

#[derive(Debug)]
struct NoTime;

impl Clock for NoTime {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Answers an event that is offered for the so manieth time.
type Script = dyn Fn(&Event, usize) -> Result<Receipt, Refusal> + Send + Sync;

/// Answers each publish as `script` says, after a permit of `gate`; bodies are kept in the order of their arrival.
struct ScriptedSink {
    script: Box<Script>,
    gate: Semaphore,
    calls: Mutex<Vec<Bytes>>,
    quarantined: Mutex<Vec<Quarantined>>,
    /// Takes no dead letter either.
    full: bool,
    lost: Mutex<Vec<String>>,
}

#[async_trait]
impl EventSink for ScriptedSink {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        self.gate.acquire().await.unwrap().forget();
        let call = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(event.body.clone());
            calls.iter().filter(|body| **body == event.body).count()
        };
        (self.script)(event, call)
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        self.quarantined.lock().unwrap().push(message.clone());
        if self.full { Err(Refusal::TooLarge { bytes: 9, limit: 8 }) } else { Ok(Receipt::default()) }
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        self.lost.lock().unwrap().push(range.what.to_string());
        Ok(Receipt::default())
    }
}

struct Bench {
    sink: Arc<ScriptedSink>,
    board: HealthBoard,
    ctx: SourceContext,
}

impl Bench {
    fn new(script: impl Fn(&Event, usize) -> Result<Receipt, Refusal> + Send + Sync + 'static) -> Self {
        Self::with(script, false)
    }

    fn with(
        script: impl Fn(&Event, usize) -> Result<Receipt, Refusal> + Send + Sync + 'static,
        full: bool,
    ) -> Self {
        let sink = Arc::new(ScriptedSink {
            script: Box::new(script),
            gate: Semaphore::new(1_000_000),
            calls: Mutex::default(),
            quarantined: Mutex::default(),
            full,
            lost: Mutex::default(),
        });
        let clock = Arc::new(NoTime);
        let board = HealthBoard::new(clock.clone());
        let ctx = SourceContext {
            events: sink.clone(),
            demand: watch::channel(Demand::default()).1,
            positions: Arc::new(crate::NoPositions),
            schedules: None,
            health: board.health(),
            shutdown: CancellationToken::new(),
            clock,
        };
        Bench { sink, board, ctx }
    }

    fn counts(&self) -> SourceCounts {
        let capabilities = Capabilities { acknowledges: true, replays: true, ..Capabilities::NONE };
        self.board.status(SourceName::parse("bus").unwrap(), "test", capabilities).counts
    }
}

fn event(body: &str) -> Event {
    Event {
        source: SourceName::parse("bus").unwrap(),
        topic: Topic::parse("t").unwrap(),
        wildcards: Wildcards::Glob,
        headers: Headers::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        time: None,
        dedup: None,
        position: None,
        fire: None,
        cloud_event: None,
    }
}

fn limits(messages: usize) -> WindowLimits {
    WindowLimits { messages: NonZeroUsize::new(messages).unwrap(), bytes: ByteSize::from_mebibytes(1) }
}

async fn taken(window: &mut AckWindow<u32>) -> u32 {
    match window.next().await {
        Some(Resolved::Taken { token, .. }) => token,
        other => panic!("expected a receipt, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_given_back_with_the_wait_the_broker_asks_for() {
    let bench = Bench::new(|_, _| Err(Refusal::Draining));
    let mut window = AckWindow::unordered(&bench.ctx, limits(4));
    window.publish(event("a"), 1);

    let resolved = window.next().await.unwrap();

    assert!(
        matches!(resolved, Resolved::GiveBack { token: 1, after, .. } if after == Duration::from_secs(5))
    );
    assert_eq!((bench.counts().received, bench.counts().refused), (1, 1));
    assert_eq!(bench.sink.calls.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_grows_while_nothing_is_taken() {
    let bench = Bench::new(|_, _| Err(Refusal::NoFunctionList));
    let mut window = AckWindow::unordered(&bench.ctx, limits(4));
    let mut waits = Vec::new();
    for token in 0..6 {
        window.publish(event("a"), token);
        match window.next().await {
            Some(Resolved::GiveBack { after, .. }) => waits.push(after),
            other => panic!("{other:?}"),
        }
    }

    assert!(waits[0] <= Duration::from_millis(100), "{waits:?}");
    assert!(waits[5] >= Duration::from_millis(1600), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_held_message_is_offered_until_it_is_taken() {
    let bench =
        Bench::new(|_, call| if call < 4 { Err(Refusal::NoFunctionList) } else { Ok(Receipt::default()) });
    let mut window = AckWindow::unordered(&bench.ctx, limits(4)).holding();
    window.publish(event("a"), 1);

    assert_eq!(taken(&mut window).await, 1);
    assert_eq!(bench.sink.calls.lock().unwrap().len(), 4);
    assert_eq!((bench.counts().received, bench.counts().refused), (1, 0), "received once, given back never");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_will_never_be_taken_becomes_a_dead_letter_of_its_own() {
    let bench = Bench::new(|_, _| Err(Refusal::KeyReused));
    let id =
        |content: u128| DedupKey { scope: "bus".into(), key: Fingerprint(1), request: Fingerprint(content) };
    for (windows, dedup) in [id(1), id(1), id(2)].into_iter().enumerate() {
        let mut window = match windows {
            0 => AckWindow::unordered(&bench.ctx, limits(4)),
            _ => AckWindow::ordered(&bench.ctx, limits(4)),
        };
        window.publish(Event { dedup: Some(dedup), ..event("a") }, 1);
        assert_eq!(taken(&mut window).await, 1);
    }

    let letters = bench.sink.quarantined.lock().unwrap();
    assert_eq!((&letters[0].raw[..], letters[0].topic.as_ref().unwrap().as_str()), (&b"a"[..], "t"));
    assert!(letters[0].why.contains("another"), "{}", letters[0].why);
    let keys: Vec<_> = letters.iter().map(|letter| letter.dedup.clone().unwrap().key).collect();
    assert!(keys[0] == keys[1] && keys[1] != keys[2] && !keys.contains(&Fingerprint(1)), "{keys:?}");
    assert_eq!((bench.counts().received, bench.counts().refused), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_dead_letter_either_says_so_even_when_holding() {
    let bench = Bench::with(|_, _| Err(Refusal::TooLarge { bytes: 9, limit: 8 }), true);
    let mut window = AckWindow::ordered(&bench.ctx, limits(4));
    window.publish(event("a"), 1);

    assert!(matches!(window.next().await, Some(Resolved::Never { token: 1, .. })));
    assert_eq!((bench.sink.quarantined.lock().unwrap().len(), bench.counts().refused), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_gives_back_what_is_held() {
    let bench = Bench::new(|_, _| Err(Refusal::NoFunctionList));
    let mut window = AckWindow::ordered(&bench.ctx, limits(4));
    window.publish(event("a"), 1);
    window.close();

    assert!(matches!(window.next().await, Some(Resolved::GiveBack { token: 1, .. })));
    assert!(window.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_ordered_window_resolves_up_to_what_is_contiguous_on_each_lane() {
    // The first message of lane 1 is refused twice; everything else is taken at once.
    let bench = Bench::new(|event, call| match (&event.body[..], call) {
        (b"slow", 1 | 2) => Err(Refusal::NoFunctionList),
        _ => Ok(Receipt::default()),
    });
    let mut window = AckWindow::ordered(&bench.ctx, limits(8));
    window.publish_on(1, event("slow"), 10);
    window.publish_on(1, event("b"), 11);
    window.publish_on(2, event("c"), 20);
    window.publish_on(1, event("d"), 12);

    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(taken(&mut window).await);
    }

    assert_eq!(order, [20, 10, 11, 12]);
    assert!(window.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn many_are_published_at_once_and_a_full_window_says_so() {
    let bench = Bench::new(|_, _| Ok(Receipt::default()));
    bench.sink.gate.forget_permits(1_000_000);
    let mut window = AckWindow::unordered(&bench.ctx, limits(3));
    for token in 0..3 {
        assert!(window.has_room(1));
        window.publish(event(&token.to_string()), token);
    }
    assert!(!window.has_room(1));

    bench.sink.gate.add_permits(1);
    taken(&mut window).await;
    assert!(window.has_room(1));
    assert_eq!(window.in_flight(), 2);

    bench.sink.gate.add_permits(2);
    taken(&mut window).await;
    taken(&mut window).await;
    assert!(window.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn giving_up_the_wait_for_a_receipt_loses_nothing() {
    let bench = Bench::new(|_, _| Ok(Receipt::default()));
    bench.sink.gate.forget_permits(1_000_000);
    let mut window = AckWindow::unordered(&bench.ctx, limits(3));
    window.publish(event("a"), 1);

    assert!(tokio::time::timeout(Duration::from_secs(1), window.next()).await.is_err());
    bench.sink.gate.add_permits(1);

    assert_eq!(taken(&mut window).await, 1);
}

fn gone(what: &str) -> Lost {
    Lost {
        source: SourceName::parse("bus").unwrap(),
        topic: None,
        messages: Some(7),
        what: what.into(),
        dedup: None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_lane_resolves_nothing_and_frees_its_room() {
    // The first on lane 1 is refused for ever, and so held; what is behind it waits for it.
    let bench = Bench::new(|event, _| match &event.body[..] {
        b"refused" => Err(Refusal::NoFunctionList),
        _ => Ok(Receipt::default()),
    });
    let mut window = AckWindow::ordered(&bench.ctx, limits(3));
    window.publish_on(1, event("refused"), 1);
    window.publish_on(1, event("behind"), 2);
    window.publish_on(2, event("other"), 3);
    assert_eq!((window.room(), window.has_room(0)), (0, false));
    assert_eq!(taken(&mut window).await, 3);

    window.abandon(1);
    assert!(window.next().await.is_none(), "nothing of it resolves");
    assert_eq!((window.in_flight(), window.room()), (0, 3));
    let counts = bench.counts();
    assert_eq!((counts.received, counts.refused), (3, 2), "what was let go is accounted for");

    window.publish_on(4, event("again"), 4);
    assert_eq!(taken(&mut window).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_lost_range_takes_its_place_among_the_others_and_is_no_message() {
    let bench = Bench::new(|_, _| Ok(Receipt::default()));
    let mut window = AckWindow::ordered(&bench.ctx, limits(3));
    window.lost_on(1, gone("offsets 3 to 9"), 9);
    window.publish_on(1, event("10"), 10);

    assert_eq!(taken(&mut window).await, 9);
    assert_eq!(taken(&mut window).await, 10);
    assert_eq!(bench.counts().received, 1);
    assert_eq!(*bench.sink.lost.lock().unwrap(), ["offsets 3 to 9"]);
}

#[tokio::test]
async fn what_resolves_together_is_in_flight_until_it_is_given() {
    let bench = Bench::new(|event, call| match (&event.body[..], call) {
        (b"a", 1) => Err(Refusal::NoFunctionList),
        _ => Ok(Receipt::default()),
    });
    let mut window = AckWindow::ordered(&bench.ctx, limits(3));
    for body in ["a", "b", "c"] {
        window.publish(event(body), ());
    }

    for left in [2, 1, 0] {
        assert!(window.next().await.is_some());
        assert_eq!((window.in_flight(), window.room()), (left, 3));
    }
    assert!(window.next().await.is_none());
}
