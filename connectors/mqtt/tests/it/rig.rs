//! The source under test.

use connectors_mqtt::Mqtt;
use testkit::source::{Rig, UnderTest};

pub(crate) const THINGS: UnderTest = UnderTest { connector: &Mqtt, name: "things" };

/// Waits until the source is without a connection, or has been since `gaps` were counted.
pub(crate) async fn lost_connection_after(gaps: usize, rig: &Rig) {
    rig.shows("the connection to be lost", |status| status.disconnected.len() > gaps).await;
}
