//! The source under test.

use connectors_sqs::Sqs;
use serde_json::{Value, json};
use testkit::servers::elasticmq::REGION;
use testkit::source::{UnderTest, with};

pub(crate) const JOBS: UnderTest = UnderTest { connector: &Sqs, name: "jobs" };

/// Settings for a server there, and more of them.
pub(crate) fn settings(endpoint: &str, more: &Value) -> Value {
    with(json!({"endpoint": endpoint, "region": REGION}), more.clone())
}
