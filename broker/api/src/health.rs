//! `GET /healthz` and `GET /readyz`.

use serde::{Deserialize, Serialize};

/// Whether the process should go on living.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `alive`, or `failed` when only a restart helps.
    pub status: String,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// Whether new work is taken, with each part's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether new work is taken.
    pub ready: bool,
    /// `starting`, `ready`, `draining` or `stopped`.
    pub phase: String,
    /// The parts. Only the store decides readiness: a gateway that is down is what a broker is for.
    pub parts: Vec<Part>,
}

/// One part of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `store`, `gateway`, `functions` or `source/<name>`.
    pub name: String,
    /// Its state in one word.
    pub state: String,
    /// More about it, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}
