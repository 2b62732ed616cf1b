//! What sources count, read from their status at each scrape.

use std::fmt;
use std::sync::Arc;

use broker_model::source::{SourceState, SourceStatus, Sources};
use connectors_runtime::SourcesRuntime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A family of one gauge for each source.
type Gauge = (&'static str, &'static str, fn(&SourceStatus) -> Option<i64>);

/// A family of one counter for each source.
type Counter = (&'static str, &'static str, fn(&SourceStatus) -> u64);

const GAUGES: [Gauge; 2] = [
    ("evoke_source_connected", "1 while the source has its upstream", |source| {
        Some(i64::from(source.state == SourceState::Connected))
    }),
    ("evoke_source_lag", "Messages of the upstream still to come, where it says so", |source| {
        Some(i64::try_from(source.lag?).unwrap_or(i64::MAX))
    }),
];

const COUNTERS: [Counter; 3] = [
    ("evoke_source_received", "Messages read from the upstream", |source| source.counts.received),
    ("evoke_source_dropped", "Messages known to be lost on the way, a lower bound", |source| {
        source.counts.dropped
    }),
    ("evoke_source_disconnected_seconds", "Time without a connection", |source| {
        source.disconnected_for.as_secs()
    }),
];

/// Reads the sources at each scrape.
pub(crate) struct SourceMetrics {
    sources: Arc<SourcesRuntime>,
}

impl SourceMetrics {
    pub(crate) fn new(sources: Arc<SourcesRuntime>) -> Self {
        SourceMetrics { sources }
    }
}

impl fmt::Debug for SourceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceMetrics")
    }
}

impl Collector for SourceMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sources = self.sources.list();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for source in &sources {
                if let Some(value) = value(source) {
                    let labels = [("source", source.name.as_str())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for source in &sources {
                let labels = [("source", source.name.as_str())];
                ConstCounter::new(value(source)).encode(family.encode_family(&labels)?)?;
            }
        }
        // OpenFaaS' name, for its dashboards: there it is the worker's one connection, here those of all NATS sources.
        let reconnects =
            sources.iter().filter(|source| source.kind == "nats").map(|source| source.reconnects).sum();
        let help = "How often a source of NATS found its server again after it had lost it";
        let name = "queue_worker_nats_reconnect";
        let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::<u64>::new(reconnects).encode(family)?;
        let help = "How often a source was started again, by what ended it";
        let mut family =
            encoder.encode_descriptor("evoke_source_restarts", help, None, MetricType::Counter)?;
        for (source, restarts) in self.sources.restarts() {
            for (cause, count) in
                [("failed", restarts.failed), ("panicked", restarts.panicked), ("ended", restarts.ended)]
            {
                let labels = [("source", source.as_str()), ("cause", cause)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
