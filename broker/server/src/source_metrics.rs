//! What sources count, read from their status at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use broker_model::SourceName;
use broker_model::source::{SourceState, SourceStatus, Sources};
use connectors_runtime::SourcesRuntime;
use connectors_sdk::{Family, Series};
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
        own_series(&mut encoder, &self.sources.series())
    }
}

/// Connectors' own metrics, under their exact names. Sources that share every label are one series: counters add up, and so
/// do gauges, which say how much there is.
fn own_series(encoder: &mut DescriptorEncoder<'_>, all: &[(SourceName, Series)]) -> fmt::Result {
    let mut families: BTreeMap<&'static Family, BTreeMap<&[Box<str>], i64>> = BTreeMap::new();
    for (_, series) in all {
        for (family, labels, value) in series.iter() {
            let sum = families.entry(family).or_default().entry(labels).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    for (family, series) in families {
        // The format adds `_total` to a counter; a name without it can only be exposed as of no type.
        let (name, kind) = match (family.counter, family.name.strip_suffix("_total")) {
            (true, Some(name)) => (name, MetricType::Counter),
            (true, None) => (family.name, MetricType::Unknown),
            (false, _) => (family.name, MetricType::Gauge),
        };
        let mut descriptor = encoder.encode_descriptor(name, family.help, None, kind)?;
        for (labels, value) in series {
            let pairs: Vec<(&str, &str)> =
                family.labels.iter().copied().zip(labels.iter().map(|l| &**l)).collect();
            let metric = descriptor.encode_family(&pairs)?;
            match kind {
                MetricType::Counter => ConstCounter::new(u64::try_from(value).unwrap_or(0)).encode(metric)?,
                _ => ConstGauge::new(value).encode(metric)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use connectors_sdk::HealthBoard;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::clock::SystemClock;

    static CONSUMED: Family = Family {
        name: "kafka_connector_messages_consumed",
        help: "Messages",
        counter: true,
        labels: &["group", "topic"],
    };
    static PROCESSED: Family = Family {
        name: "rabbitmq_connector_messages_processed_total",
        help: "Messages",
        counter: true,
        labels: &["queue"],
    };
    static DEPTH: Family =
        Family { name: "rabbitmq_connector_queue_depth", help: "Depth", counter: false, labels: &["queue"] };

    #[derive(Debug)]
    struct Own(Vec<(SourceName, Series)>);

    impl Collector for Own {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            own_series(&mut encoder, &self.0)
        }
    }

    #[test]
    fn connectors_metrics_have_exactly_their_names_and_add_up_over_sources() {
        let sources = ["a", "b"].map(|name| {
            let board = HealthBoard::new(Arc::new(SystemClock::start()));
            let health = board.health();
            health.count(&CONSUMED, &["g", "orders"], 2);
            health.count(&PROCESSED, &["q"], 3);
            health.gauge(&DEPTH, &[name], 7);
            (SourceName::parse(name).unwrap(), board.series())
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Own(sources.into())));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();

        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "kafka_connector_messages_consumed{group=\"g\",topic=\"orders\"} 4",
                "rabbitmq_connector_messages_processed_total{queue=\"q\"} 6",
                "rabbitmq_connector_queue_depth{queue=\"a\"} 7",
                "rabbitmq_connector_queue_depth{queue=\"b\"} 7",
            ]
        );
    }
}
