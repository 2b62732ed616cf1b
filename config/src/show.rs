//! What the configuration says and why: the rows of `evoke config show`.

use secrecy::{ExposeSecret, SecretString};

use crate::tree::Origin;

/// One value and where it came from.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The key's path, levels joined by dots.
    pub key: String,
    /// The value as people may see it: `[redacted]` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// The value as it is, to notice a change.
    exact: SecretString,
}

impl Leaf {
    pub(crate) fn new(key: String, value: String, exact: String, origin: Origin) -> Self {
        Self { key, value, origin, exact: exact.into() }
    }

    pub(crate) fn same_value(&self, other: &Self) -> bool {
        self.exact.expose_secret() == other.exact.expose_secret()
    }
}
