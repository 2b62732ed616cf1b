//! An engine on the reference store, and what tests ask of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_engine::engine::Parts;
use broker_engine::{Engine, EngineSettings, Gateway, Submission, SubmitRefusal, Submitted};
use broker_model::ledger::{Filter, Page};
use broker_model::topic::Wildcards;
use broker_model::{
    Body, Event, FunctionName, Headers, InvocationId, Ledger, Origin, Record, SourceName, State, Topic,
};
use bytes::Bytes;
use testkit::reference::{Bounds, ReferenceStore};
use testkit::time::{TestClock, eventually};

pub(crate) const NAMESPACE: &str = "openfaas-fn";

/// Longer than anything a test waits for in simulated time.
pub(crate) const LONG: Duration = Duration::from_secs(10 * 3600);

/// Longer than anything a test waits for in real time.
const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Broker {
    /// How long anything may take before a test fails.
    pub(crate) patience: Duration,
    pub(crate) store: ReferenceStore,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) engine: Engine,
}

/// What a broker is started with.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) settings: EngineSettings,
    pub(crate) gateway: Option<Arc<dyn Gateway>>,
    pub(crate) table_file: Option<PathBuf>,
}

/// A gateway of a script runs in simulated time, one behind a socket in real time.
pub(crate) fn patience(script: Option<&Arc<dyn Gateway>>) -> Duration {
    if script.is_some() { LONG } else { SOON }
}

impl Broker {
    /// A broker on a new store, whose function list has come.
    pub(crate) async fn start(start: Start) -> Broker {
        let broker = Broker::without_list(start).await;
        broker.is_loaded().await;
        broker
    }

    pub(crate) async fn without_list(start: Start) -> Broker {
        let clock = TestClock::start();
        let store = ReferenceStore::new(Bounds::default(), clock.clone());
        Broker::on(store, clock, start).await
    }

    pub(crate) async fn on(store: ReferenceStore, clock: Arc<TestClock>, start: Start) -> Broker {
        let patience = patience(start.gateway.as_ref());
        let parts = Parts {
            queue: Arc::new(store.clone()),
            ledger: Arc::new(store.clone()),
            bodies: Arc::new(store.clone()),
            clock: clock.clone(),
            settings: start.settings,
            table_file: start.table_file,
            gateway: start.gateway,
        };
        let engine = Engine::start(parts).await.expect("the settings are usable");
        Broker { patience, store, clock, engine }
    }

    pub(crate) async fn is_loaded(&self) {
        let functions = self.engine.functions();
        eventually(self.patience, "the function list", async || functions.loaded()).await;
    }

    /// Dies as a killed process does; the store as the next process finds it.
    pub(crate) async fn kill(self) -> (ReferenceStore, Arc<TestClock>) {
        let Broker { store, clock, engine, .. } = self;
        drop(engine);
        testkit::time::breathe().await;
        (store.reopen(), clock)
    }

    pub(crate) async fn try_submit(
        &self,
        name: &str,
        change: impl FnOnce(&mut Submission),
    ) -> Result<Submitted, SubmitRefusal> {
        let mut submission = Submission {
            function: function(name),
            written: name.into(),
            path_and_query: "".into(),
            headers: Headers::new(),
            body: Body::Inline(Bytes::from_static(b"hello")),
            call_id: None,
            callback_url: None,
            idempotency_key: None,
            due: None,
            max_age: None,
            wait: None,
            memory: None,
        };
        change(&mut submission);
        self.engine.intake().submit(submission).await
    }

    pub(crate) async fn submit(&self, name: &str, change: impl FnOnce(&mut Submission)) -> InvocationId {
        self.try_submit(name, change).await.expect("accepted").id
    }

    pub(crate) async fn call(&self, name: &str) -> InvocationId {
        self.submit(name, |_| {}).await
    }

    pub(crate) async fn find(&self, id: InvocationId) -> Record {
        self.store.find(id).await.expect("the store answers").expect("the store knows it")
    }

    /// The record of a call once it is in this state.
    pub(crate) async fn reaches(&self, id: InvocationId, state: State) -> Record {
        eventually(self.patience, &format!("{id} to be {}", state.as_str()), async || {
            let record = self.find(id).await;
            if record.state == state { Ok(record) } else { Err(format!("it is {:?}", record.state)) }
        })
        .await
    }

    /// What followed from an invocation: its callback, the copies of its dead letter.
    pub(crate) async fn followed(&self, id: InvocationId) -> Vec<Record> {
        let page = Page { limit: 1000, cursor: None };
        let listed = self.store.list(&Filter::default(), &page).await.expect("the store answers");
        let of = |record: &Record| match record.invocation.origin {
            Origin::Callback { of } | Origin::DeadLetter { of } => of == id,
            _ => false,
        };
        listed.items.into_iter().filter(of).collect()
    }

    pub(crate) fn scrape(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.engine.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("written to memory");
        text
    }

    /// Nothing is lost and nothing counted twice.
    pub(crate) fn assert_conserved(&self) {
        let totals = self.store.totals();
        assert_eq!(totals.drift(), 0, "{totals:?}");
    }
}

pub(crate) fn function(name: &str) -> FunctionName {
    FunctionName::parse(name, NAMESPACE).expect("a function's name")
}

pub(crate) fn event(topic: &str) -> Event {
    Event {
        source: SourceName::parse("bus").expect("a name"),
        topic: Topic::parse(topic).expect("a topic"),
        wildcards: Wildcards::Nats,
        headers: Headers::new(),
        body: Bytes::from_static(b"event"),
        time: None,
        dedup: None,
        position: None,
        fire: None,
        cloud_event: Some(broker_model::CloudEvent::default()),
    }
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
