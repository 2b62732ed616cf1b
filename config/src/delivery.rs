//! `delivery`: how functions are called, and called again.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::http_url::HttpUrl;
use crate::section::{Reader, Section};
use crate::setting::{Fault, Setting, choice, scalar, text, wrong};
use crate::tree::Node;

section! {
    /// How functions are called, and called again. A function's annotations override these defaults.
    pub struct Delivery {
        /// When a call is tried again.
        pub retry: Retry,
        /// The longest one call of a function may take, such as `5m`; `none` leaves it to the gateway's own timeouts.
        ///
        /// Per function: the annotation `evoke.timeout`.
        pub timeout: Option<Duration> = "none",
        /// The longest a call may wait in all, from acceptance or from its due time, such as `6h`. Older ones become
        /// dead letters (`expired`).
        ///
        /// Per function: the annotation `evoke.max-age`.
        pub max_age: Option<Duration> = "none",
        /// How many calls run at once, all functions together.
        pub max_concurrency: NonZeroU32 = "256",
        /// How many calls of one function run at once: a number, or `adaptive` to find out what it can take.
        ///
        /// Per function: the annotation `evoke.concurrency`.
        pub concurrency: Concurrency = "adaptive",
        /// How often Evoke may die while one call runs. A call that was running once more than that becomes a dead letter
        /// (`interrupted`): it may be what kills Evoke. `0` gives a call up at the first time.
        ///
        /// A restart that was asked for (SIGTERM) counts for nothing, and interruptions are not attempts.
        pub max_interruptions: u32 = "5",
        /// Who receives each dead letter as one more call: a function, or a URL. At most one of the two.
        pub on_dead_letter: Option<DeadLetterTarget>,
    }
}

section! {
    /// When a call is tried again.
    pub struct Retry {
        /// How many retries may follow the first try. Per function: `com.openfaas.retry.attempts`.
        pub attempts: u32 = "100",
        /// The statuses that are tried again. Per function: `com.openfaas.retry.codes`.
        pub codes: Vec<StatusCode> = "[408, 429, 500, 502, 503, 504]",
        /// The wait before the first retry, such as `10s`. Per function: `com.openfaas.retry.min_wait`.
        pub min_wait: Duration = "10s",
        /// The longest wait between two tries, such as `2m`. Per function: `com.openfaas.retry.max_wait`.
        pub max_wait: Duration = "120s",
        /// How waits grow: `exponential` doubles them from `min_wait` to `max_wait`; `full` takes a random part of
        /// that, `equal` at least half of it, so that calls that failed together do not come back together.
        pub backoff: Backoff = "exponential",
    }
}

choice! {
    /// How the wait between two tries is found.
    pub enum Backoff {
        /// Doubled from try to try.
        Exponential = "exponential",
        /// A random part of the doubled wait, from nothing to all of it.
        Full = "full",
        /// A random part of the doubled wait, from half to all of it.
        Equal = "equal",
    }
}

/// An HTTP status, 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCode(u16);

impl StatusCode {
    /// The number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl Setting for StatusCode {
    const EXPECTED: &'static str = "an HTTP status from 100 to 599";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar(node, |text| match text.parse() {
            Ok(code @ 100..=599) => Ok(Self(code)),
            _ => Err(wrong::<Self>(text)),
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// How many calls of one function run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Concurrency {
    /// As many as the function turns out to take.
    Adaptive,
    /// This many.
    Fixed(NonZeroU32),
}

impl Setting for Concurrency {
    const EXPECTED: &'static str = "adaptive or a whole number from 1";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar(node, |text| match text {
            "adaptive" => Ok(Self::Adaptive),
            _ => text.parse().map(Self::Fixed).map_err(|_| wrong::<Self>(text)),
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Adaptive => "adaptive".into(),
            Self::Fixed(number) => number.to_string(),
        }
    }
}

/// Who receives dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterTarget {
    /// A function, as `name` or `name.namespace`; within the gateway's name pattern.
    Function(String),
    /// A URL, under the rules of `callbacks`.
    Url(HttpUrl),
}

impl Section for Option<DeadLetterTarget> {
    const OPTIONAL: bool = true;

    fn read(at: &mut Reader<'_>) -> Self {
        let function: Option<FunctionReference> =
            at.key("function", &[" The function, as `name` or `name.namespace`."], "none");
        let url: Option<HttpUrl> = at.key("url", &[" The URL the dead letter is posted to."], "none");
        match (function, url) {
            (None, None) => None,
            (Some(FunctionReference(name)), None) => Some(DeadLetterTarget::Function(name)),
            (None, Some(url)) => Some(DeadLetterTarget::Url(url)),
            (Some(_), Some(_)) => {
                at.problem("", "both function and url are set", "keep one of the two");
                None
            }
        }
    }
}

struct FunctionReference(String);

impl Setting for FunctionReference {
    const EXPECTED: &'static str = "a function's name such as alarm or alarm.openfaas-fn";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text(node, |text| match broker_model::FunctionName::parse(text, "any") {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => Err((error.to_string(), format!("write {}", Self::EXPECTED))),
        })
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}
