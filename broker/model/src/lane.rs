//! Lanes: what is delivered independently of what.

use std::fmt;

use crate::names::{FunctionName, QueueName};

/// One line of waiting invocations with a concurrency of its own, so that a slow function never delays another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The queue, fixed at acceptance.
    pub queue: QueueName,
    /// Whom the lane serves.
    pub target: LaneTarget,
}

/// Whom a lane serves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneTarget {
    /// One function.
    Function(FunctionName),
    /// The callback hosts that share this number, so that a dead host delays few others and lanes stay bounded.
    CallbackHosts(u16),
}

impl LaneTarget {
    /// How many lanes callbacks are spread over.
    pub const CALLBACK_LANES: u16 = 1024;

    /// The lane of a callback host. Stable across processes and versions: it stands on disk.
    pub fn for_callback_host(host: &str) -> Self {
        // FNV-1a: short, stable, and spread enough for 1,024 buckets.
        let hash = host.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
        });
        let bucket = (hash ^ (hash >> 32)) % u64::from(Self::CALLBACK_LANES);
        LaneTarget::CallbackHosts(u16::try_from(bucket).unwrap_or(0))
    }

    /// The function, where the lane serves one.
    pub fn function(&self) -> Option<&FunctionName> {
        match self {
            LaneTarget::Function(function) => Some(function),
            LaneTarget::CallbackHosts(_) => None,
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.queue, self.target)
    }
}

impl fmt::Debug for LaneTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaneTarget::Function(function) => write!(f, "{function}"),
            LaneTarget::CallbackHosts(bucket) => write!(f, "callbacks#{bucket}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_host_has_one_lane_whatever_its_case() {
        assert_eq!(
            LaneTarget::for_callback_host("Gateway.OpenFaaS"),
            LaneTarget::for_callback_host("gateway.openfaas")
        );
        assert_ne!(LaneTarget::for_callback_host("a.example"), LaneTarget::for_callback_host("b.example"));
    }

    #[test]
    fn hosts_spread_over_the_lanes() {
        let used: std::collections::HashSet<_> =
            (0..4096).map(|n| LaneTarget::for_callback_host(&format!("host-{n}.example"))).collect();

        assert!(used.len() > 900, "only {} of 1024 lanes used by 4096 hosts", used.len());
    }
}
