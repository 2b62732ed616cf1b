//! What is counted.

use prometheus_client::registry::Registry;

/// The engine's metrics; totals, lanes and the store's health are read from the ledger at each scrape.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Adds every family to the registry.
    pub fn register(&self, _registry: &mut Registry) {}
}
