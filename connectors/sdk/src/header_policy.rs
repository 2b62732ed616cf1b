//! Which header fields of a message a function gets to see.

use broker_model::Wildcards;

use crate::settings::Reader;

/// `headers.allow` and `headers.deny`: names as the upstream writes them, compared without case, `*` for any run of
/// characters. What is denied is denied, whatever else allows it. By default every field passes.
///
/// Only a message's own fields are asked about; what a connector says itself (`X-Kafka-Offset`) always passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPolicy {
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Default for HeaderPolicy {
    fn default() -> Self {
        HeaderPolicy { allow: vec!["*".to_owned()], deny: Vec::new() }
    }
}

impl HeaderPolicy {
    /// Reads `headers`.
    pub fn read(at: &mut Reader) -> Self {
        at.table("headers", |at| {
            let [allow, deny]: [Option<Vec<String>>; 2] = ["allow", "deny"].map(|key| at.optional(key));
            let lower = |names: Vec<String>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
            HeaderPolicy {
                allow: allow.map_or_else(|| HeaderPolicy::default().allow, lower),
                deny: deny.map_or_else(Vec::new, lower),
            }
        })
        .unwrap_or_default()
    }

    /// Whether the function sees a field of this name.
    pub fn passes(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let any =
            |patterns: &[String]| patterns.iter().any(|pattern| Wildcards::Glob.matches(pattern, &name));
        any(&self.allow) && !any(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(settings: Value) -> HeaderPolicy {
        let mut at = Reader::new(settings);
        let policy = HeaderPolicy::read(&mut at);
        at.finish(|| Some(policy)).unwrap()
    }

    #[test]
    fn by_default_everything_passes() {
        assert!(policy(json!({})).passes("Anything"));
        assert!(policy(json!({"headers": {}})).passes("Anything"));
    }

    #[test]
    fn what_is_denied_is_denied_whatever_allows_it() {
        let policy = policy(json!({"headers": {"allow": ["Order-*", "trace"], "deny": "ORDER-secret"}}));

        assert!(policy.passes("order-id") && policy.passes("Trace"));
        assert!(!policy.passes("Order-Secret"), "denied");
        assert!(!policy.passes("other"), "not allowed");
    }
}
