//! What the HTTP side is told, as plain values.

use std::time::Duration;

use broker_config::{Api, BodyOverLimit, CancelAccess, Config};

/// What the HTTP side is told. A reload swaps it whole, but for [`HttpSettings::header_timeout`] and
/// [`HttpSettings::unread_timeout`], which hold as they were when serving began; a larger [`HttpSettings::header_limit`] needs a restart, too.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The namespace of a function's name written without one.
    pub default_namespace: String,
    /// The longest body taken, in bytes (`limits.body`).
    pub body_limit: u64,
    /// The largest block of request headers, in bytes (`limits.headers`).
    pub header_limit: usize,
    /// The status for a longer body.
    pub body_over_limit: BodyOverLimit,
    /// Who may cancel by call id over the front.
    pub cancel: CancelAccess,
    /// Who may use the management API.
    pub api: Api,
    /// How long a request's headers may take, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How slowly a body may come.
    pub pace: Pace,
    /// How long a peer may take nothing of its answer before its connection is closed.
    pub unread_timeout: Duration,
}

/// How slowly a body may come before it is refused with 408. Only time spent waiting for the sender counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest wait for the next bytes.
    pub idle: Duration,
    /// The wait in all that needs no justification.
    pub free: Duration,
    /// Beyond it, one second for each this many bytes received.
    pub bytes_per_second: u32,
    /// The longest wait for memory while other uploads have it; then 503.
    pub queue: Duration,
}

impl Pace {
    /// How long may be waited for the next bytes, after `waited` in all and `received` bytes; `None` when no longer.
    pub(crate) fn allowance(&self, received: u64, waited: Duration) -> Option<Duration> {
        let earned = Duration::from_secs(received / u64::from(self.bytes_per_second.max(1)));
        let left = (self.free + earned).checked_sub(waited).filter(|left| !left.is_zero())?;
        Some(left.min(self.idle))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            idle: Duration::from_secs(30),
            free: Duration::from_secs(60),
            bytes_per_second: 64 * 1024,
            queue: Duration::from_secs(60),
        }
    }
}

impl Default for HttpSettings {
    /// The built-in values of the configuration.
    fn default() -> Self {
        HttpSettings {
            default_namespace: "openfaas-fn".into(),
            body_limit: 64 * 1024 * 1024,
            header_limit: 1024 * 1024,
            body_over_limit: BodyOverLimit::ContentTooLarge,
            cancel: CancelAccess::Open,
            api: Api::default(),
            // The gateway's own read timeout, so that clients tuned for it see no difference.
            header_timeout: Duration::from_secs(60),
            pace: Pace::default(),
            unread_timeout: Duration::from_secs(60),
        }
    }
}

impl From<&Config> for HttpSettings {
    fn from(config: &Config) -> Self {
        HttpSettings {
            default_namespace: config.gateway.default_namespace.clone(),
            body_limit: config.limits.body.bytes(),
            header_limit: usize::try_from(config.limits.headers.bytes()).unwrap_or(usize::MAX),
            body_over_limit: config.front.body_over_limit,
            cancel: config.front.cancel,
            api: config.api.clone(),
            ..HttpSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        idle: Duration::from_secs(30),
        free: Duration::from_secs(60),
        bytes_per_second: 1000,
        queue: Duration::ZERO,
    };

    #[test]
    fn the_next_bytes_may_take_as_long_as_the_idle_time_or_what_is_left() {
        let seconds = Duration::from_secs;

        assert_eq!(PACE.allowance(0, seconds(0)), Some(seconds(30)));
        assert_eq!(PACE.allowance(0, seconds(50)), Some(seconds(10)));
        assert_eq!(PACE.allowance(0, seconds(60)), None);
    }

    #[test]
    fn bytes_received_earn_time() {
        let seconds = Duration::from_secs;

        assert_eq!(PACE.allowance(20_000, seconds(60)), Some(seconds(20)));
        assert_eq!(PACE.allowance(20_000, seconds(80)), None);
    }
}
