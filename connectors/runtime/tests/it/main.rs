//! The runtime from outside, with sources whose behaviour each test writes down. Time is paused: hours cost nothing.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors_runtime::{Changes, Configured, Ports, Restarts, SourcesRuntime};
use connectors_sdk::{
    Capabilities, Connector, Demand, Event, EventSink, FunctionName, Headers, InvocationId, InvocationQueue,
    Lost, Partition, Quarantined, Reader, Receipt, Refusal, Resume, Resumed, SettingsError, Source,
    SourceContext, SourceError, SourceName, SourceState, SourceStatus, Sources, Topic, Upstream, Wildcards,
};
use serde_json::{Value, json};
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, eventually};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(10);

type Run = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;
type Script = dyn Fn(SourceContext, u32) -> Run + Send + Sync;

/// A connector whose sources do what the test says; the script is told the number of the run, from 1.
struct Scripted {
    script: Arc<Script>,
    runs: Arc<AtomicU32>,
    settings: Mutex<Vec<Value>>,
}

impl Scripted {
    fn new<F>(script: impl Fn(SourceContext, u32) -> F + Send + Sync + 'static) -> &'static Scripted
    where
        F: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        // The runtime takes connectors that live as long as the process, as those of the catalog do.
        Box::leak(Box::new(Scripted {
            script: Arc::new(move |ctx, run| Box::pin(script(ctx, run))),
            runs: Arc::default(),
            settings: Mutex::default(),
        }))
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Connector for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    fn build(&self, _name: &SourceName, settings: Value) -> Result<Box<dyn Source>, SettingsError> {
        let mut at = Reader::new(settings.clone());
        let _: Option<String> = at.optional("version");
        self.settings.lock().unwrap().push(settings);
        at.finish(
            || Some(Box::new(ScriptedSource(self.script.clone(), self.runs.clone())) as Box<dyn Source>),
        )
    }
}

struct ScriptedSource(Arc<Script>, Arc<AtomicU32>);

#[async_trait]
impl Source for ScriptedSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let run = self.1.fetch_add(1, Ordering::SeqCst) + 1;
        (self.0)(ctx, run).await
    }
}

/// Says it is connected, and waits to be stopped.
async fn well_behaved(ctx: SourceContext) -> Result<(), SourceError> {
    ctx.health.connected();
    ctx.shutdown.cancelled().await;
    Ok(())
}

fn lost() -> SourceError {
    SourceError::Lost { upstream: "test://upstream".into(), cause: None }
}

/// Answers by topic: `wanted` makes an invocation, `again` is a duplicate, `never` is refused, the rest nobody wants.
struct TopicSink;

#[async_trait]
impl EventSink for TopicSink {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        let invocations = vec![(FunctionName::parse("f", "fn").unwrap(), InvocationId::from_u128(1))];
        match event.topic.as_str() {
            "wanted" => Ok(Receipt { invocations, duplicate: false }),
            "again" => Ok(Receipt { invocations, duplicate: true }),
            "never" => Err(Refusal::KeyReused),
            _ => Ok(Receipt::default()),
        }
    }

    async fn quarantine(&self, _message: &Quarantined) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }

    async fn lost(&self, _range: &Lost) -> Result<Receipt, Refusal> {
        Ok(Receipt::default())
    }
}

struct World {
    runtime: Arc<SourcesRuntime>,
    loaded: watch::Sender<bool>,
    _demand: watch::Sender<Demand>,
    store: ReferenceStore,
}

impl World {
    fn new() -> World {
        let clock = TestClock::start();
        let store = ReferenceStore::new(Bounds::default(), clock.clone());
        World::on(store, clock)
    }

    fn on(store: ReferenceStore, clock: Arc<TestClock>) -> World {
        let (loaded, loaded_seen) = watch::channel(true);
        let (demand, demand_seen) = watch::channel(Demand::default());
        let runtime = SourcesRuntime::new(Ports {
            events: Arc::new(TopicSink),
            positions: Arc::new(store.clone()),
            queue: Arc::new(store.clone()),
            schedules: None,
            demand: demand_seen,
            loaded: loaded_seen,
            clock,
            grace: GRACE,
        });
        World { runtime, loaded, _demand: demand, store }
    }

    async fn apply(&self, wanted: &[(&str, &'static Scripted, Value)]) -> Changes {
        self.runtime.apply(configured(wanted)).await.unwrap()
    }

    fn status(&self, source: &str) -> SourceStatus {
        self.runtime.list().into_iter().find(|status| status.name == name(source)).unwrap()
    }

    async fn until(&self, source: &str, state: SourceState) {
        eventually(SOON, "the source's state", async || {
            let now = self.status(source).state;
            if now == state { Ok(()) } else { Err(format!("{now:?} instead of {state:?}")) }
        })
        .await;
    }
}

fn name(text: &str) -> SourceName {
    SourceName::parse(text).unwrap()
}

fn configured(wanted: &[(&str, &'static Scripted, Value)]) -> BTreeMap<SourceName, Configured> {
    wanted
        .iter()
        .map(|(source, connector, settings)| {
            (name(source), Configured { connector: *connector, settings: settings.clone(), paused: false })
        })
        .collect()
}

fn event(topic: &str) -> Event {
    Event {
        source: name("bus"),
        topic: Topic::parse(topic).unwrap(),
        wildcards: Wildcards::Glob,
        headers: Headers::new(),
        body: "x".into(),
        time: None,
        dedup: None,
        position: None,
        fire: None,
        cloud_event: None,
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_before_a_function_list_is_loaded() {
    let world = World::new();
    world.loaded.send_replace(false);
    let connector = Scripted::new(|ctx, _| well_behaved(ctx));
    world.apply(&[("bus", connector, json!({}))]).await;

    tokio::time::sleep(SOON).await;
    assert_eq!(world.status("bus").state, SourceState::WaitingForFunctions);
    assert_eq!(connector.runs(), 0);

    world.loaded.send_replace(true);
    world.until("bus", SourceState::Connected).await;
    assert!(world.status("bus").disconnected_for >= SOON);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_started_again_with_growing_waits() {
    let world = World::new();
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = starts.clone();
    let connector = Scripted::new(move |ctx, run| {
        seen.lock().unwrap().push(ctx.clock.monotonic());
        async move { if run < 9 { Err(lost()) } else { well_behaved(ctx).await } }
    });
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    let starts = starts.lock().unwrap();
    let waits: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(102), "{waits:?}");
    assert!(
        waits[7] >= Duration::from_millis(6_400) && waits[7] <= Duration::from_millis(12_802),
        "{waits:?}"
    );
    let status = world.status("bus");
    assert_eq!(status.last_error.unwrap().1, "the connection to test://upstream is lost");
    assert_eq!(world.runtime.restarts()[&name("bus")], Restarts { failed: 8, panicked: 0, ended: 0 });
}

#[tokio::test(start_paused = true)]
async fn after_a_stable_run_the_waits_begin_anew() {
    let world = World::new();
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = waits.clone();
    let connector = Scripted::new(move |ctx, run| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(ctx.clock.monotonic());
            match run {
                1..=8 => Err(lost()),
                9 => {
                    tokio::time::sleep(Duration::from_secs(31)).await;
                    seen.lock().unwrap().push(ctx.clock.monotonic());
                    Err(lost())
                }
                _ => well_behaved(ctx).await,
            }
        }
    });
    world.apply(&[("bus", connector, json!({}))]).await;
    eventually(SOON, "ten runs", async || connector.runs() == 10).await;
    world.until("bus", SourceState::Connected).await;

    let waits = waits.lock().unwrap();
    let last = waits[waits.len() - 1] - waits[waits.len() - 2];
    assert!(last <= Duration::from_millis(102), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_caught_counted_and_survived() {
    let world = World::new();
    let connector = Scripted::new(|ctx, run| async move {
        assert!(run > 2, "a bug on run {run}");
        well_behaved(ctx).await
    });
    let neighbour = Scripted::new(|ctx, _| well_behaved(ctx));
    world.apply(&[("bus", connector, json!({})), ("other", neighbour, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    assert_eq!(world.status("bus").last_error.unwrap().1, "it panicked: a bug on run 2");
    assert_eq!(world.runtime.restarts()[&name("bus")], Restarts { failed: 0, panicked: 2, ended: 0 });
    assert_eq!(neighbour.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_not_taken_for_a_stop() {
    let world = World::new();
    let connector =
        Scripted::new(|ctx, run| async move { if run == 1 { Ok(()) } else { well_behaved(ctx).await } });
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    assert_eq!(world.runtime.restarts()[&name("bus")].ended, 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_can_mend_waits_for_somebody() {
    let world = World::new();
    let connector = Scripted::new(|ctx, run| async move {
        if run == 1 {
            Err(SourceError::Misconfigured { key: "stream".into(), what: "it is of another kind".into() })
        } else {
            well_behaved(ctx).await
        }
    });
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Stopped).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(connector.runs(), 1);

    assert!(world.runtime.restart(&name("bus")).await);
    world.until("bus", SourceState::Connected).await;
    assert!(!world.runtime.restart(&name("nobody")).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_received_is_forgotten_on_request_and_the_source_begins_afresh() {
    let world = World::new();
    let resumed = Arc::new(Mutex::new(Vec::new()));
    let seen = resumed.clone();
    let connector = Scripted::new(move |ctx, _| {
        let seen = seen.clone();
        async move {
            let partition = Arc::new(Partition::new(name("bus"), "orders", "", 0).unwrap());
            let upstream = Upstream { committed: Some(5), earliest: 0, end: 100 };
            let resume = ctx.positions.take_up(&partition, upstream).await.unwrap();
            seen.lock().unwrap().push(resume);
            ctx.positions.committed(&partition, 10).await.unwrap();
            well_behaved(ctx).await
        }
    });
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    assert_eq!(world.runtime.reset_positions(&name("bus")).await.unwrap(), Some(1));
    eventually(SOON, "the second run", async || resumed.lock().unwrap().len() == 2).await;
    assert_eq!(world.runtime.reset_positions(&name("nobody")).await.unwrap(), None);

    // Had the 10 been known still, the 5 would have contradicted it.
    let from_five = Resume { from: Some(5), voided: None };
    assert_eq!(*resumed.lock().unwrap(), [from_five.clone(), from_five]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_a_source_and_outlives_the_process() {
    let world = World::new();
    let connector = Scripted::new(|ctx, _| well_behaved(ctx));
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    assert!(world.runtime.pause(&name("bus")).await.unwrap());
    world.until("bus", SourceState::Paused).await;
    assert!(!world.runtime.pause(&name("nobody")).await.unwrap());
    world.runtime.stop().await;

    let next = World::on(world.store.reopen(), TestClock::start());
    next.apply(&[("bus", connector, json!({}))]).await;
    next.until("bus", SourceState::Paused).await;
    assert_eq!(connector.runs(), 1);

    assert_eq!(next.runtime.resume(&name("bus")).await.unwrap(), Some(Resumed::Runs));
    assert_eq!(next.runtime.resume(&name("nobody")).await.unwrap(), None);
    next.until("bus", SourceState::Connected).await;
    assert!(next.store.paused().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_the_wait_of_a_failing_source() {
    let world = World::new();
    let connector = Scripted::new(|_, _| async { Err(lost()) });
    world.apply(&[("bus", connector, json!({}))]).await;
    eventually(SOON, "a few runs", async || connector.runs() >= 5).await;

    world.runtime.pause(&name("bus")).await.unwrap();
    world.until("bus", SourceState::Paused).await;
    let runs = connector.runs();
    tokio::time::sleep(SOON).await;

    assert_eq!(connector.runs(), runs);
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_touches_only_what_differs() {
    let world = World::new();
    let connectors =
        ["kept", "changed", "removed", "added"].map(|_| Scripted::new(|ctx, _| well_behaved(ctx)));
    let [kept, changed, removed, added] = connectors;
    world
        .apply(&[
            ("kept", kept, json!({"version": "1"})),
            ("changed", changed, json!({"version": "1"})),
            ("removed", removed, json!({})),
        ])
        .await;
    for source in ["kept", "changed", "removed"] {
        world.until(source, SourceState::Connected).await;
    }

    let changes = world
        .apply(&[
            ("kept", kept, json!({"version": "1"})),
            ("changed", changed, json!({"version": "2"})),
            ("added", added, json!({})),
        ])
        .await;

    assert_eq!(changes.changed, [name("changed")]);
    assert_eq!(changes.removed, [name("removed")]);
    assert_eq!(changes.added, [name("added")]);
    world.until("changed", SourceState::Connected).await;
    world.until("added", SourceState::Connected).await;
    assert_eq!((kept.runs(), changed.runs(), removed.runs(), added.runs()), (1, 2, 1, 1));
    assert_eq!(changed.settings.lock().unwrap().last().unwrap(), &json!({"version": "2"}));
    assert_eq!(world.runtime.list().len(), 3);
    let grammars = ["added", "removed"].map(|source| world.runtime.wildcards(&name(source)));
    assert_eq!(grammars, [Some(Wildcards::Glob), None]);
}

#[tokio::test(start_paused = true)]
async fn a_source_the_configuration_holds_is_held_until_neither_it_nor_an_operator_does() {
    let world = World::new();
    let connector = Scripted::new(|ctx, _| well_behaved(ctx));
    let other = Scripted::new(|ctx, _| well_behaved(ctx));
    let apply = async |held: bool| {
        let mut wanted = configured(&[("bus", connector, json!({})), ("other", other, json!({}))]);
        wanted.get_mut(&name("bus")).unwrap().paused = held;
        world.runtime.apply(wanted).await.unwrap()
    };
    apply(true).await;
    world.until("bus", SourceState::Paused).await;
    world.until("other", SourceState::Connected).await;

    assert_eq!(apply(false).await, Changes { paused: vec![name("bus")], ..Changes::default() });
    world.until("bus", SourceState::Connected).await;

    apply(true).await;
    world.until("bus", SourceState::Paused).await;
    assert!(world.runtime.pause(&name("bus")).await.unwrap());
    let resumed = world.runtime.resume(&name("bus")).await.unwrap();
    assert_eq!(resumed, Some(Resumed::HeldByConfiguration));
    assert_eq!(world.status("bus").state, SourceState::Paused, "the configuration holds it still");
    assert!(world.runtime.pause(&name("bus")).await.unwrap());
    apply(false).await;
    tokio::task::yield_now().await;
    assert_eq!(world.status("bus").state, SourceState::Paused, "the operator holds it still");
    assert_eq!(world.runtime.resume(&name("bus")).await.unwrap(), Some(Resumed::Runs));
    world.until("bus", SourceState::Connected).await;
    assert_eq!((connector.runs(), other.runs()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_configuration_changes_nothing_and_names_every_source() {
    let world = World::new();
    let running = Scripted::new(|ctx, _| well_behaved(ctx));
    world.apply(&[("bus", running, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    let wrong = world
        .runtime
        .apply(configured(&[("a", running, json!({"x": 1, "y": 2})), ("b", running, json!({"version": 7}))]))
        .await
        .unwrap_err();

    let problems: Vec<(&str, usize)> =
        wrong.iter().map(|(source, error)| (source.as_str(), error.problems.len())).collect();
    assert_eq!(problems, [("a", 2), ("b", 1)]);
    assert_eq!(world.status("bus").state, SourceState::Connected);
    assert_eq!(running.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_stop_is_cut_off_after_the_grace() {
    let world = World::new();
    let stubborn = Scripted::new(|ctx, _| async move {
        ctx.health.connected();
        std::future::pending().await
    });
    let gentle = Scripted::new(|ctx, _| well_behaved(ctx));
    world.apply(&[("stubborn", stubborn, json!({})), ("gentle", gentle, json!({}))]).await;
    world.until("stubborn", SourceState::Connected).await;
    world.until("gentle", SourceState::Connected).await;
    let began = tokio::time::Instant::now();

    let late = world.runtime.stop().await;

    assert_eq!(late, [name("stubborn")]);
    assert!(began.elapsed() >= GRACE && began.elapsed() < GRACE * 2);
    assert_eq!(world.status("stubborn").state, SourceState::Stopped);
    assert_eq!(world.status("gentle").state, SourceState::Stopped);
    assert_eq!(world.apply(&[("late", gentle, json!({}))]).await, Changes::default());
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_counted_by_its_kind() {
    let world = World::new();
    let connector = Scripted::new(|ctx, _| async move {
        for topic in ["wanted", "wanted", "again", "noise", "noise", "hum", "never"] {
            let _ = ctx.publish(&event(topic)).await;
        }
        let unreadable = Quarantined {
            source: name("bus"),
            topic: None,
            headers: Headers::new(),
            raw: "?".into(),
            why: "not JSON".into(),
            dedup: None,
            position: None,
        };
        ctx.health.received(1);
        let _ = ctx.events.quarantine(&unreadable).await;
        well_behaved(ctx).await
    });
    world.apply(&[("bus", connector, json!({}))]).await;
    world.until("bus", SourceState::Connected).await;

    let status = world.status("bus");
    let counts = status.counts;
    assert_eq!((counts.received, counts.accepted, counts.duplicate), (8, 2, 1));
    assert_eq!((counts.unmatched, counts.refused, counts.quarantined, counts.dropped), (3, 1, 1, 0));
    assert_eq!(status.unmatched_topics, [("noise".to_owned(), 2), ("hum".to_owned(), 1)]);
    assert!(status.last_event_at.is_some());
}
