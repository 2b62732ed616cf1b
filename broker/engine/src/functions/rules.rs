//! The rules for calls of one function: the broker's defaults with the function's annotations over them.

use std::num::NonZeroU32;
use std::time::Duration;

use broker_model::function::{Concurrency, OnDeadLetter};
use broker_model::{Function, QueueName, RetryPolicy};

use crate::settings::DeliverySettings;

/// What holds for deliveries to one function now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What follows an attempt.
    pub policy: RetryPolicy,
    /// Bound of one exchange.
    pub timeout: Option<Duration>,
    /// Deliveries at once.
    pub concurrency: Concurrency,
    /// Who is told of dead letters.
    pub on_dead_letter: Option<OnDeadLetter>,
    /// The queue new calls go to.
    pub queue: QueueName,
    /// Ready copies, where the gateway lists the function.
    pub replicas: Option<u32>,
    /// Calls one replica takes at once, where it is known.
    pub max_inflight: Option<NonZeroU32>,
}

impl Rules {
    /// The rules for this function; for one the gateway never listed, the defaults.
    pub fn of(function: Option<&Function>, defaults: &DeliverySettings) -> Self {
        let mut rules = Rules {
            policy: defaults.policy.clone(),
            timeout: defaults.timeout,
            concurrency: defaults.concurrency,
            on_dead_letter: defaults.on_dead_letter.clone(),
            queue: QueueName::default(),
            replicas: None,
            max_inflight: None,
        };
        let Some(function) = function else { return rules };
        let policy = &mut rules.policy;
        policy.attempts = function.attempts.unwrap_or(policy.attempts);
        if let Some(codes) = &function.codes {
            policy.codes = codes.iter().copied().collect();
        }
        policy.backoff.min = function.min_wait.unwrap_or(policy.backoff.min);
        policy.backoff.max = function.max_wait.unwrap_or(policy.backoff.max);
        policy.dead_letter = function.dead_letter.unwrap_or(policy.dead_letter);
        policy.max_age = function.max_age.or(policy.max_age);
        rules.timeout = function.timeout.or(rules.timeout);
        rules.concurrency = function.concurrency.unwrap_or(rules.concurrency);
        rules.on_dead_letter = function.on_dead_letter.clone().or(rules.on_dead_letter);
        rules.queue = function.queue.clone().unwrap_or_default();
        rules.replicas = Some(function.available_replicas);
        rules.max_inflight = function.max_inflight;
        rules
    }
}
