//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use crate::tree::Origin;

/// One thing wrong: where, which key, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where the offending value was written. `BuiltIn` when nothing was written where something must be.
    pub origin: Origin,
    /// The key's path, levels joined by dots; empty when the problem is the file as such.
    pub key: String,
    /// What is wrong, in a few words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem of the key `key`, written at `origin`.
    pub fn new(
        origin: Origin,
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { origin, key: key.into(), what: what.into(), remedy: remedy.into() }
    }
}

/// `evoke.yaml:4:18: gateway.poll_interval: "10" has no unit` and the remedy on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::BuiltIn {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n    {}", self.what, self.remedy)
    }
}

/// A configuration that cannot be used, with every problem in it: those of the file in the order of its lines, then
/// those of environment and flags. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    problems: Vec<Problem>,
}

impl Invalid {
    /// Holds `problems`, sorted by where they are; `None` when there are none.
    ///
    /// The caller may add its own to those of [`crate::load()`], such as the ones connectors find in their settings.
    pub fn from_problems(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort();
        problems.dedup();
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// Every problem, sorted by where it is.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "1 problem in the configuration:")?,
            count => write!(f, "{count} problems in the configuration:")?,
        }
        for problem in &self.problems {
            write!(f, "\n\n{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
