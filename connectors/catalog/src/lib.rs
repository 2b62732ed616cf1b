//! The table of connectors: one line, one dependency and one feature for each.

use connectors_sdk::Connector;

/// Every connector that is built in.
pub const ALL: &[&dyn Connector] = &[];
