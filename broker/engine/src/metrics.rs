//! What is counted.
//!
//! Counters of what this process did are families here. What the store knows better (totals, lanes, its own health) is
//! read from it at each scrape, so that nothing can drift. Labels come from closed or bounded sets: functions have values
//! of their own while the gateway lists them, up to a bound; all others are `other`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use broker_model::attempt::Class;
use broker_model::queue::Pausable;
use broker_model::{FunctionName, InvocationQueue, Ledger, Origin, QueueName, Reason};

use crate::budget::Budget;
use crate::functions::Functions;

/// The value of the label `function` for all that have none of their own.
const OTHER: &str = "other";

/// The queues that have label values of their own.
const QUEUES: usize = 100;

type Labels<const N: usize> = [(&'static str, String); N];

/// The engine's metrics.
pub struct Metrics {
    attempts: Family<Labels<2>, Counter>,
    pub(crate) attempt_duration: Histogram,
    pub(crate) wait: Histogram,
    events: Family<Labels<2>, Counter>,
    processed: Family<Labels<1>, Counter>,
    submitted: Family<Labels<1>, Counter>,
    pub(crate) out_of_resources: Counter,
    pub(crate) panics: Counter,
    /// The counters of each queue seen so far: they are looked up for every call.
    queues: std::sync::Mutex<BTreeMap<QueueName, OfQueue>>,
    scraped: Arc<Scraped>,
}

/// The counters of one queue.
#[derive(Clone)]
struct OfQueue {
    submitted: Counter,
    processed: Counter,
}

/// What became of an event, the label `outcome`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EventOutcome {
    Accepted,
    Unmatched,
    Duplicate,
    Refused,
    Quarantined,
    Lost,
}

/// What is read at each scrape.
struct Scraped {
    ledger: Arc<dyn Ledger>,
    queue: Arc<dyn InvocationQueue>,
    functions: Functions,
    budget: Budget,
    own_functions: usize,
}

impl Metrics {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        queue: Arc<dyn InvocationQueue>,
        functions: Functions,
        budget: Budget,
        own_functions: usize,
    ) -> Self {
        Metrics {
            attempts: Family::default(),
            attempt_duration: Histogram::new(exponential_buckets(0.001, 2.5, 15)),
            wait: Histogram::new(exponential_buckets(0.001, 2.5, 15)),
            events: Family::default(),
            processed: Family::default(),
            submitted: Family::default(),
            out_of_resources: Counter::default(),
            panics: Counter::default(),
            queues: std::sync::Mutex::default(),
            scraped: Arc::new(Scraped { ledger, queue, functions, budget, own_functions }),
        }
    }

    /// Adds every family to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "queue_worker_messages_processed",
            "Calls that ended, by queue",
            self.processed.clone(),
        );
        registry.register(
            "queue_worker_messages_submitted",
            "Calls accepted, by queue",
            self.submitted.clone(),
        );
        registry.register(
            "evoke_attempts",
            "Exchanges with functions, by function and class",
            self.attempts.clone(),
        );
        registry.register_with_unit(
            "evoke_attempt_duration",
            "How long exchanges with functions took",
            Unit::Seconds,
            self.attempt_duration.clone(),
        );
        registry.register_with_unit(
            "evoke_wait",
            "From acceptance, or the due time, to the first attempt",
            Unit::Seconds,
            self.wait.clone(),
        );
        registry.register("evoke_events", "Events by source and what became of them", self.events.clone());
        registry.register(
            "evoke_out_of_resources",
            "Deliveries put off because this process had no file or port left",
            self.out_of_resources.clone(),
        );
        registry.register("evoke_delivery_panics", "Deliveries that met a bug of ours", self.panics.clone());
        registry.register_collector(Box::new(AtScrape(self.scraped.clone())));
    }

    /// The counters of a function's attempts, in the order of [`Class::ALL`].
    pub(crate) fn attempts_of(&self, function: Option<&FunctionName>) -> [Counter; Class::ALL.len()] {
        let label = match function {
            Some(function) if self.scraped.has_own_label(function) => function.as_str(),
            Some(_) => OTHER,
            None => "callback",
        };
        Class::ALL.map(|class| {
            let labels = [("function", label.to_owned()), ("class", class.as_str().to_owned())];
            self.attempts.get_or_create_owned(&labels)
        })
    }

    pub(crate) fn processed(&self, queue: &QueueName) -> Counter {
        self.of_queue(queue, |counters| counters.processed.clone())
    }

    pub(crate) fn submitted(&self, queue: &QueueName, count: u64) {
        self.of_queue(queue, |counters| counters.submitted.inc_by(count));
    }

    pub(crate) fn event(&self, source: &str, outcome: EventOutcome) {
        let outcome = match outcome {
            EventOutcome::Accepted => "accepted",
            EventOutcome::Unmatched => "unmatched",
            EventOutcome::Duplicate => "duplicate",
            EventOutcome::Refused => "refused",
            EventOutcome::Quarantined => "quarantined",
            EventOutcome::Lost => "lost",
        };
        self.events.get_or_create(&[("source", source.to_owned()), ("outcome", outcome.to_owned())]).inc();
    }

    fn of_queue<T>(&self, queue: &QueueName, then: impl FnOnce(&OfQueue) -> T) -> T {
        let counters = |label: &str| OfQueue {
            submitted: self.submitted.get_or_create_owned(&[("queue_name", label.to_owned())]),
            processed: self.processed.get_or_create_owned(&[("queue_name", label.to_owned())]),
        };
        let mut queues = self.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = queues.get(queue) {
            return then(known);
        }
        if queues.len() < QUEUES {
            return then(queues.entry(queue.clone()).or_insert_with(|| counters(queue.as_str())));
        }
        drop(queues);
        then(&counters(OTHER))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Scraped {
    /// Whether the gateway lists the function, among the first so many.
    fn has_own_label(&self, function: &FunctionName) -> bool {
        let table = self.functions.table();
        table.functions.contains_key(function)
            && (table.functions.len() <= self.own_functions
                || table.functions.range(..function).count() < self.own_functions)
    }
}

struct AtScrape(Arc<Scraped>);

impl fmt::Debug for AtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtScrape")
    }
}

#[derive(Default)]
struct LaneSums {
    pending: u64,
    delivering: u64,
}

/// A metric of lanes: its name, its help, its value.
type Series = (&'static str, &'static str, fn(&LaneSums) -> u64);

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let scraped = &self.0;
        self.lanes(&mut encoder)?;

        let totals = scraped.ledger.totals();
        let by_origin = Origin::KINDS.iter().zip(totals.accepted).map(|(kind, count)| (*kind, count));
        counters(
            &mut encoder,
            "evoke_accepted",
            "Invocations accepted, since the store was made",
            "origin",
            by_origin,
        )?;
        let by_reason = Reason::ALL.iter().zip(totals.dead).map(|(reason, count)| (reason.as_str(), count));
        counters(
            &mut encoder,
            "evoke_dead_letters",
            "Invocations given up, since the store was made",
            "reason",
            by_reason,
        )?;
        counter(&mut encoder, "evoke_redriven", "Dead letters put back", totals.redriven)?;
        counter(&mut encoder, "evoke_completed", "Invocations that ended well", totals.completed)?;
        counter(&mut encoder, "evoke_cancelled", "Invocations taken back", totals.cancelled)?;
        counter(
            &mut encoder,
            "evoke_dead_letters_removed",
            "Dead letters removed by hand or by a bound",
            totals.removed,
        )?;
        gauge(&mut encoder, "evoke_held", "Invocations waiting or being delivered", whole(totals.held))?;
        gauge(&mut encoder, "evoke_dead_letters_kept", "Dead letters kept now", whole(totals.dead_kept))?;
        gauge(&mut encoder, "evoke_ledger_drift", "What the ledger is off by; 0 when quiet", totals.drift())?;

        let health = scraped.ledger.health();
        gauge(&mut encoder, "evoke_store_disk_bytes", "Bytes on disk", whole(health.disk_bytes))?;
        gauge(
            &mut encoder,
            "evoke_store_live_bytes",
            "Bytes of them that still matter",
            whole(health.live_bytes),
        )?;
        gauge(
            &mut encoder,
            "evoke_store_refusing",
            "1 while no new work is taken",
            i64::from(health.refusing.is_some()),
        )?;
        counter(&mut encoder, "evoke_store_commits", "Durable commits", health.commits)?;
        counter(&mut encoder, "evoke_store_damaged", "Records found damaged", health.damaged)?;
        seconds_counter(
            &mut encoder,
            "evoke_store_sync_seconds",
            "Time spent in syncs",
            health.sync_time.as_secs_f64(),
        )?;
        seconds(
            &mut encoder,
            "evoke_store_dedup_window_seconds",
            "How far back repeats are recognised",
            health.dedup_window.as_secs_f64(),
        )?;

        let functions = &scraped.functions;
        let problems: usize =
            functions.table().functions.values().map(|function| function.problems.len()).sum();
        gauge(
            &mut encoder,
            "evoke_functions",
            "Functions the gateway lists",
            count(functions.table().functions.len()),
        )?;
        gauge(&mut encoder, "evoke_annotation_problems", "Annotations that cannot be used", count(problems))?;
        gauge(
            &mut encoder,
            "evoke_gateway_down",
            "1 while the gateway cannot be reached",
            i64::from(functions.gateway_down().is_some()),
        )?;
        if let Some(age) = functions.age() {
            seconds(
                &mut encoder,
                "evoke_function_table_age_seconds",
                "Age of the function list",
                age.as_secs_f64(),
            )?;
        }
        let held = scraped.budget.capacity() - scraped.budget.free().min(scraped.budget.capacity());
        gauge(&mut encoder, "evoke_in_flight_bytes", "Bytes of bodies and answers in memory", whole(held))?;
        gauge(
            &mut encoder,
            "evoke_in_flight_limit_bytes",
            "The most of them (limits.in_flight)",
            whole(scraped.budget.capacity()),
        )
    }
}

impl AtScrape {
    /// The lanes, in the words of OpenFaaS' queue-worker. Every listed function has a series, so that it falls to 0 and
    /// does not go stale; what is scheduled for later or paused is not pending, so that functions can scale to zero.
    fn lanes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let scraped = &self.0;
        let paused = scraped.queue.paused();
        let table = scraped.functions.table();
        let mut sums: BTreeMap<(String, String), LaneSums> = BTreeMap::new();
        for function in table.functions.values().take(scraped.own_functions) {
            let queue = function.queue.clone().unwrap_or_default();
            sums.entry((queue.as_str().to_owned(), function.name.as_str().to_owned())).or_default();
        }
        for stats in scraped.ledger.lanes() {
            let Some(function) = stats.lane.target.function() else { continue };
            let label = if scraped.has_own_label(function) { function.as_str() } else { OTHER };
            let sum = sums.entry((stats.lane.queue.as_str().to_owned(), label.to_owned())).or_default();
            if !paused.contains(&Pausable::Function(function.clone())) {
                sum.pending += stats.ready + stats.retrying;
            }
            sum.delivering += stats.delivering;
        }
        let series: [Series; 2] = [
            ("queue_worker_pending_messages", "Calls due or in retry", |sum| sum.pending),
            ("queue_worker_function_invocation_inflight", "Calls being delivered", |sum| sum.delivering),
        ];
        for (name, help, value) in series {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((queue, function), sum) in &sums {
                let labels = [("queue_name", queue.as_str()), ("function_name", function.as_str())];
                ConstGauge::new(whole(value(sum))).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn seconds(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn seconds_counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn counters<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (of, value) in values {
        ConstCounter::new(value).encode(metric.encode_family(&[(label, of)])?)?;
    }
    Ok(())
}
