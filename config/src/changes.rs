//! What a reload changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::load::Loaded;
use crate::show::Leaf;

/// One value that a reload changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's path.
    pub key: String,
    /// The value before, as people may see it; `None` when the key was not there (settings of a source).
    pub from: Option<String>,
    /// The value after; `None` when the key is no longer there.
    pub to: Option<String>,
    /// Whether it takes effect only after a restart.
    pub needs_restart: bool,
}

/// What is bound, opened or sized once, at start: sections, and single keys.
const AT_START_ONLY: [&str; 7] = [
    "listen.",
    "store.",
    "dedup.",
    "limits.in_flight",
    "limits.waiting",
    "limits.metric_functions",
    "log.format",
];

impl Loaded {
    /// What differs in `new`, by key. A secret that changed is a change, though both look the same.
    pub fn changes_to(&self, new: &Loaded) -> Vec<Change> {
        let old = by_key(&self.leaves);
        let new = by_key(&new.leaves);
        old.keys()
            .chain(new.keys())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|key| {
                let (from, to) = (old.get(key), new.get(key));
                let same = from.zip(to).is_some_and(|(from, to)| from.same_value(to));
                (!same).then(|| Change {
                    key: (*key).to_owned(),
                    from: from.map(|leaf| leaf.value.clone()),
                    to: to.map(|leaf| leaf.value.clone()),
                    needs_restart: AT_START_ONLY.iter().any(|section| key.starts_with(section)),
                })
            })
            .collect()
    }
}

fn by_key(leaves: &[Leaf]) -> BTreeMap<&str, &Leaf> {
    leaves.iter().map(|leaf| (leaf.key.as_str(), leaf)).collect()
}
