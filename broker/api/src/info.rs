//! `GET /v1/info`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Span, Time};

/// The broker as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The version of Evoke.
    pub version: String,
    /// `starting`, `ready`, `draining` or `stopped`.
    pub phase: String,
    /// How long this process has run.
    pub uptime: Span,
    /// The store and what it promises.
    pub store: StoreInfo,
    /// What was accepted and what became of it, since the data directory was made.
    pub ledger: LedgerInfo,
    /// The gateway as Evoke sees it.
    pub gateway: GatewayInfo,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// What an acknowledgement means: `fsync` or `replicated`.
    pub durability: String,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of it that still matter.
    pub live_bytes: u64,
    /// Durable commits in this process.
    pub commits: u64,
    /// Records found damaged.
    pub damaged: u64,
    /// How far back repeats are recognised at the moment.
    pub dedup_window: Span,
    /// Why it takes no new work, when it does not.
    pub refusing: Option<StoreRefusal>,
}

/// Why a store takes no new work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRefusal {
    /// `full` (it tries again by itself), `failed` (restart it) or `closed`.
    pub state: String,
    /// More about it, for people.
    pub detail: String,
}

/// The conservation of invocations: `accepted + redriven = completed + dead + cancelled + held`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerInfo {
    /// All accepted.
    pub accepted: u64,
    /// Dead ones put back.
    pub redriven: u64,
    /// Ended well.
    pub completed: u64,
    /// Given up. A redrive does not take it back here; see `dead_kept`.
    pub dead: u64,
    /// Taken back.
    pub cancelled: u64,
    /// Waiting or being delivered now, counted.
    pub held: u64,
    /// What the sum is off by; 0 whenever the queue is quiet.
    pub drift: i64,
    /// Dead letters kept now.
    pub dead_kept: u64,
    /// Dead letters removed by hand or by a bound.
    pub removed: u64,
    /// Accepted, by origin. Origins without any are left out.
    pub accepted_by_origin: BTreeMap<String, u64>,
    /// Given up, by reason. Reasons without any are left out.
    pub dead_by_reason: BTreeMap<String, u64>,
}

/// The gateway as Evoke sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// How many functions the last complete list had.
    pub functions: u64,
    /// How old that list is; `None` until there was one.
    pub list_age: Option<Span>,
    /// Why the last poll brought no complete list, if it did not.
    pub last_problem: Option<String>,
    /// Since when it cannot be reached, while it cannot.
    pub down: Option<GatewayDown>,
}

/// A gateway that cannot be reached. Nothing dead-letters meanwhile, and no attempt is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayDown {
    /// Since when.
    pub since: Time,
    /// What the last try said.
    pub last_error: String,
}
