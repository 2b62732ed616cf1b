//! What the engine is told, as plain values.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use broker_config::{Config, Credentials, HostRule, SecretSource, Unmatched};
use broker_model::function::{Concurrency, OnDeadLetter};
use broker_model::policy::DeadLetterRule;
use broker_model::{Backoff, Jitter, RetryPolicy};

/// Everything the engine is told. A reload swaps it whole: calls begun before finish under the old values.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where functions are and how they are asked for.
    pub gateway: GatewaySettings,
    /// How calls are delivered where a function's annotations do not say otherwise.
    pub delivery: DeliverySettings,
    /// How results are told.
    pub callbacks: CallbackSettings,
    /// What is taken in.
    pub intake: IntakeSettings,
    /// What is kept of an answer, in bytes (`limits.response`).
    pub response_limit: u64,
    /// Bytes in flight at once: received, waiting for the store, answers (`limits.in_flight`). Fixed at start.
    pub in_flight: u64,
    /// Whether each settled call writes one `info` line.
    pub log_settled: bool,
    /// How many functions have label values of their own in metrics (`limits.metric_functions`). Fixed at start.
    pub metric_functions: usize,
}

/// The gateway (`gateway.*`).
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Its base URL.
    pub url: Url,
    /// Time between two function lists.
    pub poll_interval: Duration,
    /// The namespace of a name written without one.
    pub default_namespace: String,
    /// Who we are on `/system`; never sent with function calls.
    pub credentials: Option<Credentials>,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy in front of it.
    pub proxy: Option<Url>,
}

/// Delivery defaults (`delivery.*`).
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// Retries, codes, waits, maximum age.
    pub policy: RetryPolicy,
    /// Bound of one HTTP exchange; `None` leaves it to the gateway.
    pub timeout: Option<Duration>,
    /// Deliveries to functions at once, all together.
    pub max_concurrency: NonZeroU32,
    /// Deliveries to one function at once.
    pub concurrency: Concurrency,
    /// Who is told of dead letters.
    pub on_dead_letter: Option<OnDeadLetter>,
    /// How often the broker may die during one call before the call is given up (`delivery.max_interruptions`).
    pub interruptions: u32,
}

/// Callback settings (`callbacks.*`).
#[derive(Clone, Debug)]
pub struct CallbackSettings {
    /// Called even where `deny` or the built-in rule forbids it; our own listeners excepted.
    pub allow: Vec<HostRule>,
    /// Never called, besides what the built-in rule forbids.
    pub deny: Vec<HostRule>,
    /// Bound of one exchange.
    pub timeout: Duration,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The secret callbacks are signed with (Standard Webhooks); read at each callback, as it may change.
    pub sign: Option<SecretSource>,
    /// Deliveries at once to the hosts of one callback lane (`callbacks.concurrency`).
    pub per_lane: NonZeroU32,
    /// Callback deliveries at once, all together (`callbacks.max_concurrency`).
    pub max_concurrency: NonZeroU32,
    /// Our own listeners, filled in once they are bound: nothing but their `/async-function/` is called.
    pub own_listeners: Vec<SocketAddr>,
}

/// Intake settings.
#[derive(Clone, Debug)]
pub struct IntakeSettings {
    /// The longest body taken (`limits.body`).
    pub body_limit: u64,
    /// What becomes of events nobody wants while only a function list from disk is known, after a minute's grace.
    pub unmatched: Unmatched,
    /// Whether events carry CloudEvents' binary headers.
    pub cloud_events: bool,
}

impl EngineSettings {
    /// What a configuration means for the engine.
    pub fn from_config(config: &Config) -> Self {
        let (gateway, delivery, callbacks) = (&config.gateway, &config.delivery, &config.callbacks);
        EngineSettings {
            gateway: GatewaySettings {
                url: gateway.url.as_url().clone(),
                poll_interval: gateway.poll_interval,
                default_namespace: gateway.default_namespace.clone(),
                credentials: gateway.credentials.clone(),
                ca_file: gateway.ca_file.clone(),
                proxy: gateway.proxy.as_ref().map(|proxy| proxy.as_url().clone()),
            },
            delivery: DeliverySettings {
                policy: RetryPolicy {
                    attempts: delivery.retry.attempts,
                    codes: delivery.retry.codes.iter().map(|code| code.as_u16()).collect(),
                    backoff: Backoff {
                        min: delivery.retry.min_wait,
                        max: delivery.retry.max_wait,
                        jitter: match delivery.retry.backoff {
                            broker_config::Backoff::Exponential => Jitter::None,
                            broker_config::Backoff::Full => Jitter::Full,
                            broker_config::Backoff::Equal => Jitter::Equal,
                        },
                    },
                    dead_letter: DeadLetterRule::All,
                    max_age: delivery.max_age,
                },
                timeout: delivery.timeout,
                max_concurrency: delivery.max_concurrency,
                concurrency: match delivery.concurrency {
                    broker_config::Concurrency::Adaptive => Concurrency::Adaptive,
                    broker_config::Concurrency::Fixed(number) => Concurrency::Fixed(number),
                },
                on_dead_letter: delivery.on_dead_letter.as_ref().map(|target| match target {
                    broker_config::DeadLetterTarget::Function(name) => {
                        OnDeadLetter::Function(name.as_str().into())
                    }
                    broker_config::DeadLetterTarget::Url(url) => {
                        OnDeadLetter::Url(url.as_url().as_str().into())
                    }
                }),
                interruptions: delivery.max_interruptions,
            },
            callbacks: CallbackSettings {
                allow: callbacks.allow.clone(),
                deny: callbacks.deny.clone(),
                timeout: callbacks.timeout,
                ca_file: callbacks.ca_file.clone(),
                sign: callbacks.sign.as_ref().map(|signing| signing.secret.clone()),
                per_lane: callbacks.concurrency,
                max_concurrency: callbacks.max_concurrency,
                own_listeners: vec![config.listen.http, config.listen.metrics],
            },
            intake: IntakeSettings {
                body_limit: config.limits.body.bytes(),
                unmatched: config.unmatched,
                cloud_events: true,
            },
            response_limit: config.limits.response.bytes(),
            in_flight: config.limits.in_flight.bytes(),
            log_settled: config.log.calls,
            metric_functions: usize::try_from(config.limits.metric_functions).unwrap_or(usize::MAX),
        }
    }
}

impl Default for EngineSettings {
    /// The built-in values of the configuration, with the gateway on this machine.
    fn default() -> Self {
        EngineSettings {
            gateway: GatewaySettings {
                url: Url::parse("http://127.0.0.1:8080").expect("a literal that is a URL"),
                poll_interval: Duration::from_secs(10),
                default_namespace: "openfaas-fn".into(),
                credentials: None,
                ca_file: None,
                proxy: None,
            },
            delivery: DeliverySettings {
                policy: RetryPolicy::openfaas(),
                timeout: None,
                max_concurrency: nonzero(256),
                concurrency: Concurrency::Adaptive,
                on_dead_letter: None,
                interruptions: 5,
            },
            callbacks: CallbackSettings {
                allow: Vec::new(),
                deny: Vec::new(),
                timeout: Duration::from_secs(30),
                ca_file: None,
                sign: None,
                per_lane: nonzero(16),
                max_concurrency: nonzero(128),
                own_listeners: Vec::new(),
            },
            intake: IntakeSettings {
                body_limit: 64 * 1024 * 1024,
                unmatched: Unmatched::Ack,
                cloud_events: true,
            },
            response_limit: 10 * 1024 * 1024,
            in_flight: 64 * 1024 * 1024,
            log_settled: true,
            metric_functions: 1000,
        }
    }
}

fn nonzero(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("called with literals above zero")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use broker_config::{File, Inputs, load};

    use super::*;

    fn of(yaml: &str) -> EngineSettings {
        let name = Path::new("evoke.yaml");
        let inputs = Inputs { file: Some(File { name, text: yaml }), ..Inputs::default() };
        EngineSettings::from_config(&load(&inputs).expect("a right configuration").config)
    }

    #[test]
    fn the_built_in_configuration_is_the_default() {
        let mut built_in = of("");
        // Which addresses are ours is known only once they are bound.
        built_in.callbacks.own_listeners.clear();

        assert_eq!(format!("{built_in:?}"), format!("{:?}", EngineSettings::default()));
    }

    #[test]
    fn every_bound_of_the_configuration_arrives() {
        let settings = of("\
delivery: { max_interruptions: 0, max_concurrency: 3, concurrency: 4 }
callbacks: { concurrency: 5, max_concurrency: 6, timeout: 7s }
limits: { body: 8B, response: 9B, headers: 10B, in_flight: 1MiB, metric_functions: 11 }
unmatched: hold
log: { calls: false }
");

        let (delivery, callbacks) = (&settings.delivery, &settings.callbacks);
        assert_eq!((delivery.interruptions, delivery.max_concurrency.get()), (0, 3));
        assert_eq!(delivery.concurrency, Concurrency::Fixed(nonzero(4)));
        assert_eq!((callbacks.per_lane.get(), callbacks.max_concurrency.get()), (5, 6));
        assert_eq!(callbacks.timeout, Duration::from_secs(7));
        assert_eq!(
            (settings.intake.body_limit, settings.response_limit, settings.in_flight),
            (8, 9, 1 << 20)
        );
        assert_eq!(settings.metric_functions, 11);
        assert_eq!(settings.intake.unmatched, Unmatched::Hold);
        assert!(!settings.log_settled);
    }
}
