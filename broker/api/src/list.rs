//! Lists come in parts.

use serde::{Deserialize, Serialize};

/// One part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// The items of this part.
    pub items: Vec<T>,
    /// What `cursor` of the next request says; `None` at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// How many items a part has when the request does not say.
    pub const DEFAULT_LIMIT: usize = 50;
    /// How many items a part has at most.
    pub const MAX_LIMIT: usize = 1000;

    /// A list that is not longer than this.
    pub fn whole(items: Vec<T>) -> Self {
        List { items, next: None }
    }
}
