//! One exchange with the gateway or a callback's host, and how it went.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::dead_letter::AskedReason;

/// One attempt. A function that fails is data, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first of a life.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took, to the last byte read.
    pub duration: Duration,
    /// How it went.
    pub outcome: Outcome,
    /// The first bytes of the answer, at most [`Attempt::EXCERPT`].
    pub excerpt: Bytes,
}

impl Attempt {
    /// How much of an answer an attempt keeps.
    pub const EXCERPT: usize = 1024;
}

/// How an exchange went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came.
    Answered(Answer),
    /// The connection ended after the request was sent and before a whole answer; a gateway at its write timeout does so.
    Dropped(Box<str>),
    /// Our own time limit ran out.
    TimedOut,
    /// Nothing was sent: refused, no such host, TLS. The gateway's fault, never the function's.
    Unreachable(Box<str>),
    /// The address is one we do not call.
    Denied(Box<str>),
}

/// What an answer said, as far as policy needs it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `X-OpenFaaS-Internal` was there: OpenFaaS' core answered, not the function.
    pub internal: bool,
    /// The gateway does not know the function (its own 404, or the provider's "no endpoints").
    pub unknown_function: bool,
    /// `Retry-After`, as a wait from the answer's arrival; honoured on 429 and 503.
    pub retry_after: Option<Duration>,
    /// `Evoke-Outcome`.
    pub asked: Option<Asked>,
}

/// What a function asked for with `Evoke-Outcome`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Run me again, after this long if said.
    Retry(Option<Duration>),
    /// Give up, for this reason.
    Dead(AskedReason),
    /// All is well, whatever the status.
    Done,
}

/// The closed set of attempt classes, the label `class` of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Below 400.
    Success,
    /// 4xx of the function.
    Client,
    /// 5xx of the function.
    Server,
    /// An error of OpenFaaS' core.
    Internal,
    /// No capacity: the core's 429.
    Capacity,
    /// The connection dropped.
    Dropped,
    /// Our time limit.
    Timeout,
    /// Nothing could be sent.
    Unreachable,
    /// We do not call that address.
    Denied,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 9] = [
        Class::Success,
        Class::Client,
        Class::Server,
        Class::Internal,
        Class::Capacity,
        Class::Dropped,
        Class::Timeout,
        Class::Unreachable,
        Class::Denied,
    ];

    /// The name in metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Client => "client-error",
            Class::Server => "server-error",
            Class::Internal => "internal",
            Class::Capacity => "no-capacity",
            Class::Dropped => "dropped",
            Class::Timeout => "timeout",
            Class::Unreachable => "unreachable",
            Class::Denied => "denied",
        }
    }
}

impl Outcome {
    /// Its class.
    pub fn class(&self) -> Class {
        match self {
            Outcome::Answered(answer) if answer.is_no_capacity() => Class::Capacity,
            Outcome::Answered(answer) if answer.internal && answer.status >= 400 => Class::Internal,
            Outcome::Answered(Answer { status: ..400, .. }) => Class::Success,
            Outcome::Answered(Answer { status: ..500, .. }) => Class::Client,
            Outcome::Answered(_) => Class::Server,
            Outcome::Dropped(_) => Class::Dropped,
            Outcome::TimedOut => Class::Timeout,
            Outcome::Unreachable(_) => Class::Unreachable,
            Outcome::Denied(_) => Class::Denied,
        }
    }

    /// The HTTP status, when an answer came.
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Answered(answer) => Some(answer.status),
            _ => None,
        }
    }
}

impl Answer {
    /// Whether OpenFaaS' core says that no replica has room.
    pub fn is_no_capacity(&self) -> bool {
        self.internal && self.status == 429
    }
}

/// The attempts of one life: the first 3 and the last 20 whole, the rest counted by class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptHistory {
    first: Vec<Attempt>,
    last: VecDeque<Attempt>,
    dropped: BTreeMap<Class, u32>,
}

impl AttemptHistory {
    /// How many of the first attempts are kept whole.
    pub const FIRST: usize = 3;
    /// How many of the last attempts are kept whole.
    pub const LAST: usize = 20;

    /// Adds the newest attempt; the oldest of the middle ones falls to a count when there is no room.
    pub fn push(&mut self, attempt: Attempt) {
        if self.first.len() < Self::FIRST {
            self.first.push(attempt);
            return;
        }
        self.last.push_back(attempt);
        if self.last.len() > Self::LAST
            && let Some(gone) = self.last.pop_front()
        {
            *self.dropped.entry(gone.outcome.class()).or_default() += 1;
        }
    }

    /// Puts a history together again, as a store keeps it.
    pub fn from_parts(
        kept: impl IntoIterator<Item = Attempt>,
        counted: impl IntoIterator<Item = (Class, u32)>,
    ) -> Self {
        let mut history = AttemptHistory::default();
        for attempt in kept {
            history.push(attempt);
        }
        for (class, count) in counted {
            *history.dropped.entry(class).or_default() += count;
        }
        history
    }

    /// The attempts kept whole, oldest first.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.first.iter().chain(&self.last)
    }

    /// How many middle attempts are only counted, by class.
    pub fn counted(&self) -> impl Iterator<Item = (Class, u32)> + '_ {
        self.dropped.iter().map(|(class, count)| (*class, *count))
    }

    /// The newest attempt.
    pub fn latest(&self) -> Option<&Attempt> {
        self.last.back().or(self.first.last())
    }

    /// How many attempts there were in all.
    pub fn len(&self) -> usize {
        self.first.len() + self.last.len() + self.dropped.values().map(|n| *n as usize).sum::<usize>()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, status: u16) -> Attempt {
        Attempt {
            number,
            started_at: Timestamp::EPOCH,
            duration: Duration::ZERO,
            outcome: Outcome::Answered(Answer { status, ..Answer::default() }),
            excerpt: Bytes::new(),
        }
    }

    #[test]
    fn a_long_history_keeps_both_ends_and_counts_the_middle() {
        let mut history = AttemptHistory::default();
        for number in 1..=101 {
            history.push(attempt(number, if number % 2 == 0 { 500 } else { 404 }));
        }

        let kept: Vec<u32> = history.kept().map(|a| a.number).collect();
        assert_eq!(kept, (1..=3).chain(82..=101).collect::<Vec<_>>());
        assert_eq!(history.len(), 101);
        assert_eq!(history.counted().collect::<Vec<_>>(), [(Class::Client, 39), (Class::Server, 39)]);
        assert_eq!(AttemptHistory::from_parts(history.kept().cloned(), history.counted()), history);
    }

    #[test]
    fn the_cores_429_is_no_capacity_and_a_functions_is_its_own() {
        let core = Outcome::Answered(Answer { status: 429, internal: true, ..Answer::default() });
        let own = Outcome::Answered(Answer { status: 429, ..Answer::default() });

        assert_eq!((core.class(), own.class()), (Class::Capacity, Class::Client));
    }
}
