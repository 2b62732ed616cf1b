//! What the engine is told, as plain values.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

use broker_model::RetryPolicy;
use broker_model::function::{Concurrency, OnDeadLetter};

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
    /// How many functions have label values of their own in metrics.
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

/// Basic auth for the gateway's `/system` routes.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Files that are read again when they change or the gateway answers 401. White space around values is dropped.
    Files {
        /// Holds the user's name.
        username: PathBuf,
        /// Holds the password.
        password: PathBuf,
    },
    /// Values in hand.
    Inline {
        /// The user's name.
        username: String,
        /// The password.
        password: SecretString,
    },
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
    /// How often the broker may die during one call before the call is given up.
    pub interruptions: u32,
}

/// Callback settings (`callbacks.*`).
#[derive(Clone, Debug)]
pub struct CallbackSettings {
    /// When not empty, only these are called.
    pub allow: Vec<HostRule>,
    /// Never called, besides what is always denied.
    pub deny: Vec<HostRule>,
    /// Bound of one exchange.
    pub timeout: Duration,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The key callbacks are signed with (Standard Webhooks), without its `whsec_` prefix decoded.
    pub sign: Option<SigningKey>,
    /// Deliveries at once to the hosts of one callback lane.
    pub per_lane: NonZeroU32,
    /// Callback deliveries at once, all together.
    pub max_concurrency: NonZeroU32,
    /// Our own listeners, filled in once they are bound: nothing but their `/async-function/` is called.
    pub own_listeners: Vec<SocketAddr>,
}

/// A signing key's bytes.
#[derive(Clone)]
pub struct SigningKey(secrecy::SecretSlice<u8>);

impl SigningKey {
    /// The key with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        SigningKey(bytes.into())
    }

    /// The bytes, for signing only.
    pub fn expose(&self) -> &[u8] {
        use secrecy::ExposeSecret;
        self.0.expose_secret()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Hosts or networks of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// This host, in lower case; a leading `*.` stands for all names below.
    Host(String),
    /// Every address of this network.
    Net(IpNet),
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

/// What becomes of an event nobody is known to want, while no complete function list came in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// It is received and forgotten.
    Acknowledge,
    /// It is given back until a complete list came.
    Hold,
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
                unmatched: Unmatched::Acknowledge,
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
