//! How long and how often.

use std::time::Duration;

use serde::Serialize;

/// The size of every body, in bytes.
pub(crate) const BODY: usize = 1024;

/// How long and how often everything is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Whether the figures are only to show that it works.
    pub(crate) quick: bool,
    /// Samples of each figure and each limit.
    pub(crate) rounds: usize,
    /// Connections at once at the front, one figure each.
    pub(crate) connections: Vec<usize>,
    /// The bounds of one sample of a rate.
    pub(crate) rate: Bound,
    /// Calls in the store when dispatch begins, and posted by the bare client.
    pub(crate) dispatched: u64,
    /// Deliveries and bare connections at once.
    pub(crate) dispatch_concurrency: usize,
    /// Calls a second, when latency is measured.
    pub(crate) calls_per_second: u64,
    /// Left out at the beginning of each latency sample.
    pub(crate) latency_warm_up: Duration,
    /// The rest of it.
    pub(crate) latency_window: Duration,
    /// How long Evoke rests before its memory is read.
    pub(crate) idle: Duration,
    /// How often that is done.
    pub(crate) idle_samples: usize,
}

/// The bounds of one sample of a rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bound {
    /// Not counted, at the beginning.
    pub(crate) warm_up: Duration,
    /// What is counted, unless `most` ends it.
    pub(crate) window: Duration,
    /// The most requests or records in all.
    pub(crate) most: u64,
}

impl Plan {
    /// What `make bench` measures.
    pub(crate) fn full() -> Plan {
        Plan {
            quick: false,
            rounds: 5,
            connections: vec![1, 16, 256],
            rate: Bound {
                warm_up: Duration::from_millis(500),
                window: Duration::from_secs(3),
                most: 1_500_000,
            },
            dispatched: 200_000,
            dispatch_concurrency: 64,
            calls_per_second: 1000,
            latency_warm_up: Duration::from_secs(1),
            latency_window: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            idle_samples: 3,
        }
    }

    /// Everything once and shortly.
    pub(crate) fn quick() -> Plan {
        Plan {
            quick: true,
            rounds: 1,
            rate: Bound {
                warm_up: Duration::from_millis(100),
                window: Duration::from_millis(500),
                most: 250_000,
            },
            dispatched: 20_000,
            latency_warm_up: Duration::from_millis(500),
            latency_window: Duration::from_secs(2),
            idle: Duration::from_secs(10),
            idle_samples: 1,
            ..Plan::full()
        }
    }

    /// When it is not done by then, something hangs.
    pub(crate) fn overall(&self) -> Duration {
        let round = Duration::from_secs(if self.quick { 120 } else { 360 });
        round * u32::try_from(self.rounds).unwrap_or(u32::MAX) + self.idle * 3
    }
}
