//! Invocations that policy gave up on.

use std::fmt;

use crate::clock::Timestamp;
use crate::id::InvocationId;

/// Why an invocation is dead. A closed set with stable names, one page each in `docs/problems/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Every retry was used.
    Exhausted,
    /// A final answer that is neither a success nor retryable.
    Rejected,
    /// Older than its maximum age when its turn came.
    Expired,
    /// The gateway has not known the function for five minutes.
    FunctionMissing,
    /// The function asked for it (`Evoke-Outcome: dead`).
    Asked,
    /// The broker died during it too often.
    Interrupted,
    /// The message could not be understood.
    Undecodable,
    /// The callback's address is one we do not call, or is no address.
    CallbackDenied,
    /// Its record was damaged on disk.
    Damaged,
    /// The upstream discarded it before it could be read.
    LostUpstream,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 10] = [
        Reason::Exhausted,
        Reason::Rejected,
        Reason::Expired,
        Reason::FunctionMissing,
        Reason::Asked,
        Reason::Interrupted,
        Reason::Undecodable,
        Reason::CallbackDenied,
        Reason::Damaged,
        Reason::LostUpstream,
    ];

    /// The name in API, CLI, metrics and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Exhausted => "exhausted",
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::FunctionMissing => "function-missing",
            Reason::Asked => "asked",
            Reason::Interrupted => "interrupted",
            Reason::Undecodable => "undecodable",
            Reason::CallbackDenied => "callback-denied",
            Reason::Damaged => "damaged",
            Reason::LostUpstream => "lost-upstream",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Whether its last attempt is why it is dead, and not its age, its interruptions or what became of its record.
    pub fn is_an_attempts(self) -> bool {
        matches!(
            self,
            Reason::Exhausted
                | Reason::Rejected
                | Reason::FunctionMissing
                | Reason::Asked
                | Reason::CallbackDenied
        )
    }

    /// Whether there is something left to run.
    pub fn is_redrivable(self) -> bool {
        !matches!(self, Reason::Undecodable | Reason::Damaged | Reason::LostUpstream)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word a function gave with `Evoke-Outcome: dead;reason=<token>`: an HTTP token of at most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedReason(Box<str>);

impl AskedReason {
    /// Takes a token; `None` for anything else, so that no function writes prose into lists and labels.
    pub fn parse(text: &str) -> Option<Self> {
        let token = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        token.then(|| AskedReason(text.into()))
    }

    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How an invocation died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which invocation; its record has body, headers and attempts.
    pub id: InvocationId,
    /// Why.
    pub reason: Reason,
    /// More about it, for people: a status, a token, an address.
    pub detail: Box<str>,
    /// When.
    pub died_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_and_has_its_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/problems");
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.as_str()), Some(reason));
            let page = std::fs::read_to_string(format!("{pages}/{reason}.md")).unwrap_or_default();
            assert!(page.starts_with(&format!("# {reason}")), "docs/problems/{reason}.md is missing");
        }
    }

    #[test]
    fn a_function_can_give_a_token_and_no_prose() {
        assert!(AskedReason::parse("bad-schema").is_some());
        for bad in ["", "two words", "a\nb", &"x".repeat(65)] {
            assert!(AskedReason::parse(bad).is_none(), "{bad:?}");
        }
    }
}
