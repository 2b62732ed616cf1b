//! `evoke serve`: the parts started in the order in which they depend on each other, and stopped in the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use broker_config::Loaded;
use broker_engine::Engine;
use broker_http::{Http, HttpMetrics, HttpParts, HttpSettings, Phase, Shutdown};
use broker_model::{Clock, InvocationQueue, TimetableBoard};
use broker_store_embedded::{EmbeddedStore, OsFiles};
use connectors_runtime::SourcesRuntime;
use connectors_sdk::describe;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clock::SystemClock;
use crate::configuration::Places;
use crate::report::report;
use crate::signals::{Signals, Told};
use crate::telemetry::Telemetry;
use crate::wiring::{self, Listening};

/// How long answers that are under way may take once nothing else runs any more.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Runs the broker until it is told to stop.
///
/// # Errors
/// A configuration with problems, a port or data directory that is taken, a store that cannot be opened.
pub(crate) fn run(places: Places) -> anyhow::Result<()> {
    let loaded = places.read()?;
    let telemetry = Telemetry::start(&loaded.config.log)?;
    for note in &loaded.notes {
        warn!(variable = %note.variable, "this environment variable has no effect: {}", note.why);
    }
    to_its_end(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let broker = Broker::start(loaded).await?;
        broker.until_stopped(&mut signals, &places, &telemetry).await
    })
}

/// How long threads are waited for that still block when all is done.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs the broker on as many workers as cores; the store brings its own threads.
///
/// When it has ended, what counts is on disk. A client library that waits on a thread of its own for a server that is gone
/// must not keep the process.
pub(crate) fn to_its_end(broker: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(32)
        .thread_name("evoke")
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(broker);
    runtime.shutdown_timeout(LEFT_BEHIND);
    done
}

/// Everything that runs.
pub(crate) struct Broker {
    loaded: Loaded,
    listening: Listening,
    phase: watch::Sender<Phase>,
    store: Arc<EmbeddedStore>,
    engine: Engine,
    sources: Arc<SourcesRuntime>,
    http: Http,
    serving: TaskTracker,
    shutdown: Shutdown,
}

impl Broker {
    /// Binds, opens, starts and serves, in this order: what fails, fails before anything was taken.
    pub(crate) async fn start(loaded: Loaded) -> anyhow::Result<Broker> {
        let config = &loaded.config;
        let front = wiring::bind("listen.http", config.listen.http).await?;
        let metrics = wiring::bind("listen.metrics", config.listen.metrics).await?;
        let listening = Listening { http: front.local_addr()?, metrics: metrics.local_addr()? };
        let (phase, phases) = watch::channel(Phase::Starting);

        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let store = open_store(&loaded, &clock).await?;
        let engine = Engine::start(broker_engine::Parts {
            queue: store.clone(),
            ledger: store.clone(),
            bodies: store.clone(),
            clock: clock.clone(),
            settings: wiring::engine_settings(config, &listening),
            table_file: Some(config.store.embedded.path.join("functions.json")),
            gateway: None,
        })
        .await?;
        let timetable = Arc::new(TimetableBoard::default());
        let sources = wiring::sources(config, &engine, &store, &clock, &timetable).await?;

        let mut registry = Registry::default();
        let http_metrics = HttpMetrics::default();
        engine.metrics().register(&mut registry);
        http_metrics.register(&mut registry);
        wiring::register_sources(&mut registry, &sources);
        let http = Http::new(HttpParts {
            intake: engine.intake(),
            control: engine.control(),
            functions: engine.functions(),
            ledger: store.clone(),
            bodies: store.clone(),
            sources: sources.clone(),
            timetable,
            budget: engine.budget(),
            clock,
            registry: Arc::new(registry),
            metrics: http_metrics,
            settings: HttpSettings::from(config),
            phase: phases,
        });
        let (serving, shutdown) = (TaskTracker::new(), Shutdown::default());
        let (one, other) = (http.clone(), http.clone());
        let (for_one, for_other) = (shutdown.clone(), shutdown.clone());
        serving.spawn(async move { one.serve_front(front, for_one).await });
        serving.spawn(async move { other.serve_metrics(metrics, for_other).await });
        serving.close();

        phase.send_replace(Phase::Ready);
        info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %listening.http,
            metrics = %listening.metrics,
            gateway = %config.gateway.url,
            store = %config.store.embedded.path.display(),
            sources = config.sources.len(),
            "evoke is ready"
        );
        if !listening.http.ip().is_loopback()
            && config.api.credentials.is_none()
            && config.api.token.is_none()
        {
            warn!(
                "the management API answers on loopback only: set api.credentials or api.token to use it from elsewhere"
            );
        }
        Ok(Broker { loaded, listening, phase, store, engine, sources, http, serving, shutdown })
    }

    /// Serves until the first signal to stop, reads the configuration again when told to, then stops in order.
    pub(crate) async fn until_stopped(
        mut self,
        signals: &mut Signals,
        places: &Places,
        telemetry: &Telemetry,
    ) -> anyhow::Result<()> {
        loop {
            match signals.next().await {
                Told::Stop => break,
                Told::Reload => self.reload(places, telemetry).await,
            }
        }
        tokio::select! {
            biased;
            stopped = self.stop() => stopped,
            () = second(signals) => anyhow::bail!("told twice to stop: what was being delivered is delivered again after the next start"),
        }
    }

    /// Takes over what a new configuration changes. A wrong one changes nothing.
    async fn reload(&mut self, places: &Places, telemetry: &Telemetry) {
        let new = match places.read() {
            Ok(new) => new,
            Err(problem) => {
                error!("the configuration is not used: {problem}");
                return;
            }
        };
        let changes = self.loaded.changes_to(&new);
        if let Err(problem) = self.engine.reload(wiring::engine_settings(&new.config, &self.listening)) {
            error!("the configuration is not used: {}", describe(&problem));
            return;
        }
        self.http.reload(HttpSettings::from(&new.config));
        telemetry.reload(&new.config.log);
        wiring::reload_sources(&self.sources, &new.config).await;
        for change in &changes {
            let (from, to) =
                (change.from.as_deref().unwrap_or("nothing"), change.to.as_deref().unwrap_or("nothing"));
            if change.needs_restart {
                warn!(key = %change.key, from, to, "this change needs a restart");
            } else {
                info!(key = %change.key, from, to, "changed");
            }
        }
        info!(changes = changes.len(), "configuration read again");
        self.loaded = new;
    }

    /// Stops taking, finishes, gives back the rest, closes. Every step is logged.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let grace = self.loaded.config.shutdown.grace;
        info!(grace_seconds = grace.as_secs(), "draining");
        self.phase.send_replace(Phase::Draining);
        // One grace for both: sources stop first, so that nothing new comes while deliveries end.
        let until = Instant::now() + grace;
        let cut_off = self.sources.stop().await;
        for source in &cut_off {
            warn!(%source, "the source did not stop in time and was cut off");
        }
        let drained = self.engine.drain(until.saturating_duration_since(Instant::now())).await;
        info!(finished = drained.finished, released = drained.released, "deliveries have ended");

        self.shutdown.graceful.cancel();
        if tokio::time::timeout(LAST_ANSWERS, self.serving.wait()).await.is_err() {
            self.shutdown.force.cancel();
            self.serving.wait().await;
        }
        self.store.close().await.context("the store could not write its last records")?;
        self.phase.send_replace(Phase::Stopped);
        info!("stopped");
        Ok(())
    }

    /// Where it answers.
    pub(crate) fn listening(&self) -> Listening {
        self.listening
    }
}

async fn second(signals: &mut Signals) {
    while signals.next().await != Told::Stop {}
}

async fn open_store(loaded: &Loaded, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<EmbeddedStore>> {
    let options = wiring::store_options(&loaded.config);
    let path = options.path.clone();
    let clock = clock.clone();
    // Recovery reads the disk: not on a worker.
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options, Arc::new(OsFiles), clock))
        .await
        .context("the store broke while it opened")?;
    let (store, recovered) =
        opened.with_context(|| format!("cannot open the store in {}", path.display()))?;
    report(&recovered);
    Ok(Arc::new(store))
}
