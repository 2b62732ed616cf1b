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
    /// How often that is done, without and with sources.
    pub(crate) idle_samples: usize,
    /// Samples of each source.
    pub(crate) source_rounds: usize,
    /// Messages of the fastest source in one sample; slower ones take a part of it.
    pub(crate) messages: u64,
    /// Functions that run by the clock.
    pub(crate) schedules: u64,
    /// For how long they run, in seconds.
    pub(crate) schedules_run: u64,
    /// Samples of how late they are.
    pub(crate) lateness_samples: usize,
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
            idle_samples: 2,
            source_rounds: 3,
            messages: 240_000,
            schedules: 1000,
            schedules_run: 30,
            lateness_samples: 2,
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
            idle: Duration::from_secs(5),
            idle_samples: 1,
            source_rounds: 1,
            messages: 12_000,
            schedules: 120,
            schedules_run: 6,
            lateness_samples: 1,
            ..Plan::full()
        }
    }

    /// When it is not done by then, something hangs.
    pub(crate) fn overall(&self) -> Duration {
        let times = |samples: usize| u32::try_from(samples).unwrap_or(u32::MAX);
        let second = Duration::from_secs(1);
        let round = second * if self.quick { 120 } else { 360 };
        let of_sources = second * 240;
        let of_lateness = second * 30 + Duration::from_secs(self.schedules_run) * 2;
        round * times(self.rounds)
            + of_sources * times(self.source_rounds)
            + of_lateness * times(self.lateness_samples)
            + (self.idle + second * 60) * times(self.idle_samples) * 2
    }
}
