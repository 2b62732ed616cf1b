//! `GET /v1/triggers`.

use serde::{Deserialize, Serialize};

/// One function's wish to run for a topic pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The topic, or the pattern without its scope.
    pub pattern: String,
    /// Whether wildcard characters are letters in it (OpenFaaS' `topic` annotation).
    pub exact: bool,
    /// The one source it is meant for, if it names one.
    pub source: Option<String>,
    /// The function that runs.
    pub function: String,
}
