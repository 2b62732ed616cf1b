//! From configuration values to the parts' own settings, and the parts put together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use broker_config::Config;
use broker_engine::{Engine, EngineSettings};
use broker_model::{Clock, SourceName, TimetableBoard};
use broker_store_embedded::{DedupOptions, EmbeddedStore, Options, Retention};
use connectors_runtime::{Configured, Ports, SourcesRuntime};
use connectors_sdk::ScheduleAccess;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::source_metrics::SourceMetrics;

/// What the embedded store is opened with.
pub(crate) fn store_options(config: &Config) -> Options {
    let embedded = &config.store.embedded;
    let completed = &embedded.retention.completed;
    let keys = usize::try_from(config.dedup.keys).unwrap_or(usize::MAX);
    Options {
        min_free: embedded.min_free.bytes(),
        lock_wait: embedded.lock_wait,
        max_bytes: embedded.max_bytes.map(|bytes| bytes.bytes()),
        waiting: config.limits.waiting,
        retention: Retention {
            age: completed.age,
            count: usize::try_from(completed.count).unwrap_or(usize::MAX),
            bytes: completed.bytes.bytes(),
        },
        dead_letter_age: embedded.retention.dead_letters.age,
        dedup: DedupOptions { window: config.dedup.window, keys, keys_per_scope: keys.div_ceil(2) },
        ..Options::new(&embedded.path)
    }
}

/// What the engine is told, our own listeners included.
pub(crate) fn engine_settings(config: &Config, listening: &Listening) -> EngineSettings {
    let mut settings = EngineSettings::from_config(config);
    settings.callbacks.own_listeners = vec![listening.http, listening.metrics];
    settings
}

/// The addresses bound at start.
#[derive(Clone, Copy)]
pub(crate) struct Listening {
    pub(crate) http: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// Binds a listener; a refusal names the key and what to do.
pub(crate) async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address} ({key}): choose a free address, such as --set {key}={}:0",
            address.ip()
        )
    })
}

/// The sources, started as soon as a function list is loaded.
pub(crate) async fn sources(
    config: &Config,
    engine: &Engine,
    store: &Arc<EmbeddedStore>,
    clock: &Arc<dyn Clock>,
    timetable: &Arc<TimetableBoard>,
) -> anyhow::Result<Arc<SourcesRuntime>> {
    let functions = engine.functions();
    let runtime = SourcesRuntime::new(Ports {
        events: Arc::new(engine.intake()),
        positions: store.clone(),
        queue: store.clone(),
        schedules: Some(ScheduleAccess {
            store: store.clone(),
            queue: store.clone(),
            ledger: store.clone(),
            wishes: functions.schedules(),
            board: timetable.clone(),
        }),
        demand: functions.demand(),
        loaded: functions.loading(),
        clock: clock.clone(),
        grace: config.shutdown.grace / 5,
    });
    runtime.apply(configured(config)).await.map_err(|wrong| {
        let lines: Vec<String> =
            wrong.iter().map(|(name, error)| format!("sources.{name}: {error}")).collect();
        anyhow::anyhow!("{}", lines.join("; "))
    })?;
    Ok(runtime)
}

/// Takes over added, changed and removed sources; the others run on.
pub(crate) async fn reload_sources(runtime: &SourcesRuntime, config: &Config) {
    match runtime.apply(configured(config)).await {
        Ok(changes) => {
            info!(added = ?changes.added, changed = ?changes.changed, removed = ?changes.removed, paused = ?changes.paused, "sources reloaded");
        }
        Err(wrong) => {
            for (source, problem) in wrong {
                error!(%source, "the source's settings are not used: {problem}");
            }
        }
    }
}

/// Each source with its connector. An unknown kind cannot be here: reading the configuration has refused it.
fn configured(config: &Config) -> BTreeMap<SourceName, Configured> {
    config
        .sources
        .iter()
        .filter_map(|(name, source)| {
            let connector = connectors_catalog::find(&source.kind)?;
            let (settings, paused) = (source.settings.clone(), source.paused);
            Some((name.clone(), Configured { connector, settings, paused }))
        })
        .collect()
}

/// What sources count, read at each scrape.
pub(crate) fn register_sources(registry: &mut Registry, sources: &Arc<SourcesRuntime>) {
    registry.register_collector(Box::new(SourceMetrics::new(sources.clone())));
}
